"""Writing several files as one step, with failures injected at each point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from patterns._kit.writer import Write, write_all


@pytest.fixture
def writes(tmp_path: Path) -> list[Write]:
    """Two files to replace, with one to create in a new folder between them."""
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "c").write_bytes(b"old c")
    (tmp_path / "a").chmod(0o640)
    return [
        Write(tmp_path / "a", b"new a", b"old a"),
        Write(tmp_path / "x/y/b", b"new b", None),
        Write(tmp_path / "c", b"new c", b"old c"),
    ]


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, temporary ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


OLD = {"a": b"old a", "c": b"old c"}
NEW = {"a": b"new a", "x/y/b": b"new b", "c": b"new c"}


def test_all_are_written(tmp_path: Path, writes: list[Write]) -> None:
    """Every file is new, modes are kept, and nothing else is left behind."""
    write_all(writes)
    assert tree(tmp_path) == NEW
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_rename_restores_what_was_renamed(
    tmp_path: Path,
    writes: list[Write],
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
    error: BaseException,
) -> None:
    """Whichever rename fails, all files and folders are as they were."""
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing + 1:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(type(error)):
        write_all(writes)
    assert tree(tmp_path) == OLD
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failing_write_touches_no_file(
    tmp_path: Path, writes: list[Write], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Until every new text is on disk no file is renamed."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing + 1:
            raise OSError("disk full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="disk full"):
        write_all(writes)
    assert tree(tmp_path) == OLD
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_crash_leaves_each_file_old_or_new(
    tmp_path: Path, writes: list[Write], after: int
) -> None:
    """A process that dies between two renames leaves no file half written."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        real, calls = os.replace, []

        def replace(source: Path, target: Path) -> None:
            if len(calls) == after:
                os._exit(0)
            calls.append(target)
            real(source, target)

        os.replace = replace  # type: ignore[assignment]
        write_all(writes)
        os._exit(0)
    os.waitpid(child, 0)
    found = {k: v for k, v in tree(tmp_path).items() if not k.endswith(".tmp")}
    done = dict(list(NEW.items())[:after])
    assert found == OLD | done


def test_a_file_changed_since_the_plan_is_not_overwritten(
    tmp_path: Path, writes: list[Write]
) -> None:
    """An editor that saved in between wins, and the other files are restored."""
    (tmp_path / "c").write_bytes(b"saved meanwhile")
    with pytest.raises(OSError, match="changed while"):
        write_all(writes)
    assert tree(tmp_path) == {"a": b"old a", "c": b"saved meanwhile"}
