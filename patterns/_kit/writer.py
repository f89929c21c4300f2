# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Write several files as one step: all of them, or none.

Each text is first written to a temporary file beside its target. Only when all are
there are they renamed into place, one `os.replace` each, so a file is always old or
new and never half, even if the machine stops in between. If a rename fails, the
files already replaced get their old bytes back.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Write", "write_all"]


@dataclass(frozen=True, slots=True)
class Write:
    """New bytes for a path; `was` is what must be there now, None for nothing."""

    path: Path
    new: bytes
    was: bytes | None


def write_all(writes: Iterable[Write]) -> None:
    """Carry out every write, or raise OSError and leave every file as it was."""
    with _staged(list(writes)) as staged:
        done: list[Write] = []
        try:
            for write, temporary in staged:
                _still_as_planned(write)
                os.replace(temporary, write.path)
                done.append(write)
        except BaseException:
            for write in reversed(done):
                _restore(write)
            raise


@contextmanager
def _staged(writes: list[Write]) -> Iterator[list[tuple[Write, Path]]]:
    """Write the temporary files; on failure remove them and the folders made."""
    made: list[Path] = []
    staged: list[tuple[Write, Path]] = []
    try:
        for write in writes:
            _make_folders(write.path.parent, made)
            staged.append((write, _beside(write.path)))
            _fill(staged[-1][1], write.new, like=write.path)
        yield staged
    except BaseException:
        for _, temporary in staged:
            temporary.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):  # somebody else put a file there meanwhile
                folder.rmdir()
        raise


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Create `folder`, and add to `made` each folder that was not there."""
    if not folder.exists():
        _make_folders(folder.parent, made)
        folder.mkdir()
        made.append(folder)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _fill(temporary: Path, content: bytes, *, like: Path) -> None:
    """Write `content` to disk, with the mode of `like` or a new file's own."""
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if like.exists():
        temporary.chmod(stat.S_IMODE(like.stat().st_mode))


def _still_as_planned(write: Write) -> None:
    now = write.path.read_bytes() if os.path.lexists(write.path) else None
    if now != write.was:
        raise OSError(f"{write.path} changed while it was being written")


def _restore(write: Write) -> None:
    if write.was is None:
        write.path.unlink()
        return
    temporary = _beside(write.path)
    _fill(temporary, write.was, like=write.path)
    os.replace(temporary, write.path)
