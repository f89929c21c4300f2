# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Keep a token set in a file of its owner's, and refresh it once for all.

`FileTokenStore` holds what a command-line tool must not lose between two runs: tokens,
in a file that nobody else can read, not even for a moment, and never half of one. Its
lock makes one of many processes refresh while the others wait and then read: where
refresh tokens rotate, two who spend the same one lose both (RFC 9700 §4.14.2). For one
user on one machine, on a local file system. Not for a server with many users, whose
tokens belong in its database, and no replacement for the keyring of a desktop: who runs
as the same user can read the file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

if sys.platform == "win32":  # pragma: no cover
    import msvcrt
else:
    import fcntl

__all__ = ["FileTokenStore", "TokenStoreError"]

_LARGEST = 2**20  # bytes of a file that is read, or written
# No link is followed and no pipe waited for; a program that is started gets no handle.
_SAFELY = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_REASONS = {
    "access": "the system does not let us",
    "symlink": "it is a symbolic link",
    "kind": "it is no regular file",
    "owner": "it belongs to somebody else",
    "mode": "others can read or write it: chmod 600, and get new tokens",
    "too_large": "it is larger than 1 MiB",
    "malformed": "it is no JSON object",
    "not_locked": "the lock is not held by this store",
}


class TokenStoreError(Exception):
    """The file is not to be trusted, or cannot be used. Nothing of it is in the error.

    `path` is the file's. `reason` is `access` (then the system's error is the cause),
    `symlink`, `kind` (no regular file), `owner`, `mode` (others could read or write
    it), `too_large` (over 1 MiB), `malformed` (no JSON object, in the file or to be
    saved), or `not_locked`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {_REASONS[self.reason]}"


def _distrust(status: os.stat_result) -> str | None:
    """Return why a file is not ours alone, or None if it is."""
    if stat.S_ISLNK(status.st_mode):
        return "symlink"
    if not stat.S_ISREG(status.st_mode):
        return "kind"
    if sys.platform != "win32":  # which has other rights, that go by the folder
        if status.st_uid != os.geteuid():
            return "owner"
        if status.st_mode & 0o077:
            return "mode"
    return None


# Twin of _refuse in errors/problem_details.py.
def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6


def _parse(raw: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None. No error, since the parser's would quote it."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(raw.decode(), parse_constant=_refuse)
        return value if isinstance(value, dict) else None
    return None


def _render(token: Mapping[str, Any]) -> bytes | None:
    """Return the text that `_parse` makes the same object of, or None."""
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        raw = json.dumps(dict(token), allow_nan=False).encode()
        return raw if _parse(raw) == token else None
    return None


class FileTokenStore:
    """Keep one token set as JSON in a file, between processes and runs.

    Safe across processes, threads and tasks. A reader sees the set before or the set
    after, whole. The file has mode 600 from its first byte; a folder that is missing is
    made, with mode 700. A crash in a save may leave a `.tmp` behind, of mode 600 too.

    `try_lock` and `unlock` go around a refresh: lock, load, return what another one has
    refreshed meanwhile, or else refresh and save, unlock. The lock is on a file beside
    it, `<name>.lock`, which stays and is empty. The system frees it when the process
    and its forks end, however they do. Nothing here waits, except for the disk.

    Args:
        path: the file. Symbolic links on the way are followed, but it must be none.

    Raises:
        ValueError: the path is none of a file.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = FileTokenStore(folder.name + "/example/token.json")
    >>> store.load()
    >>> store.save({"access_token": "s3cret"})
    >>> store.load()
    {'access_token': 's3cret'}
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        if not isinstance(text, str) or not os.path.basename(text) or "\0" in text:
            raise ValueError("a token store needs the path of a file, as text")
        self._path = os.path.abspath(text)  # a later chdir moves nothing
        self._held: tuple[int, int] | None = None  # the process, and its handle

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def load(self) -> dict[str, Any] | None:
        """Return the token set, or None if there is none.

        Raises:
            TokenStoreError: there is a file that others could have read or written, or
                that holds no JSON object; see its `reason`.
        """
        with self._told():
            try:
                handle = self._open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            with os.fdopen(handle, "rb") as file:
                raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise TokenStoreError(self._path, "too_large")
        token = _parse(raw)
        if token is None:
            raise TokenStoreError(self._path, "malformed")
        return token

    def save(self, token: Mapping[str, Any] | None) -> None:
        """Replace the token set, at once and for good; None removes the file.

        A file that others could read is replaced by one that they cannot. When this
        returns, the set is on the disk: it survives a loss of power.

        Raises:
            TokenStoreError: what is there is no file of ours, or the token set is no
                JSON object, or too large; the set before is then still there.
        """
        raw = None if token is None else _render(token)
        if raw is None and token is not None:
            raise TokenStoreError(self._path, "malformed")
        if raw is not None and len(raw) > _LARGEST:
            raise TokenStoreError(self._path, "too_large")
        with self._told():
            with contextlib.suppress(FileNotFoundError):
                reason = _distrust(os.lstat(self._path))
                if reason not in (None, "mode"):
                    raise TokenStoreError(self._path, reason)
            if raw is not None:
                self._replace(raw)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                    self._sync_folder()

    def try_lock(self) -> bool:
        """Take the lock if it is free, and tell whether it was.

        It is not reentrant: who holds it, and asks again, is told False.

        Raises:
            TokenStoreError: the lock's file cannot be used, or is not ours alone.
        """
        path = f"{self._path}.lock"
        with self._told(path):
            self._make_folder()
            handle = self._open(path, os.O_RDWR | os.O_CREAT)
            try:
                # A handle each, so that a thread is kept out as a process is. A file
                # that was removed meanwhile keeps nobody out.
                taken = _lock(handle)
                taken = taken and os.path.samestat(os.fstat(handle), os.stat(path))
            except FileNotFoundError:
                taken = False
            except BaseException:
                os.close(handle)
                raise
            if not taken:
                os.close(handle)
                return False
        before, self._held = self._held, (os.getpid(), handle)
        if before is not None:  # of the process that this one was forked from
            os.close(before[1])
        return True

    def unlock(self) -> None:
        """Give the lock back, from whichever thread.

        Raises:
            TokenStoreError: `not_locked`: it was not taken by this object, or not in
                this process.
        """
        if self._held is None or self._held[0] != os.getpid():
            # A fork has the handle too, and would free its parent's lock.
            raise TokenStoreError(self._path, "not_locked")
        (_, handle), self._held = self._held, None
        with self._told():
            try:
                _unlock(handle)  # by closing alone it would last as long as any fork
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _told(self, path: str | None = None) -> Iterator[None]:
        """Raise what the system says as our error."""
        try:
            yield
        except OSError as exc:
            # Opening a link that must not be followed: ELOOP, EMLINK on FreeBSD.
            link = exc.errno in (errno.ELOOP, errno.EMLINK)
            reason = "symlink" if link else "access"
            raise TokenStoreError(path or self._path, reason) from exc

    def _open(self, path: str, flags: int) -> int:
        """Open a file, and look at what was opened, which no one can exchange."""
        handle = os.open(path, flags | _SAFELY, 0o600)
        reason = _distrust(os.fstat(handle))
        if sys.platform == "win32":  # pragma: no cover
            reason = _distrust(os.lstat(path))
        if reason is not None:
            os.close(handle)
            raise TokenStoreError(path, reason)
        return handle

    def _make_folder(self) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)

    def _replace(self, raw: bytes) -> None:
        """Write a file beside, and put it in place when it is on the disk."""
        self._make_folder()
        draft = f"{self._path}.{secrets.token_hex(8)}.tmp"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        self._sync_folder()

    def _sync_folder(self) -> None:
        """Have the folder's new entry on the disk as well."""
        if sys.platform == "win32":  # pragma: no cover
            return
        handle = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Lock a file for who has this handle, if nobody has it by another one."""
    try:
        if sys.platform == "win32":  # pragma: no cover
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _unlock(handle: int) -> None:
    if sys.platform == "win32":  # pragma: no cover
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_UN)


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
