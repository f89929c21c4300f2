"""Tests of `patterns/auth/token_store.py`; they can be copied along with it."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patterns.auth import token_store

FileTokenStore = token_store.FileTokenStore
TokenStoreError = token_store.TokenStoreError
TOKEN = {"access_token": "s3cret", "expires_at": 1000.5, "scope": None}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")


@pytest.fixture
def path(tmp_path):
    """Return the path of a file that is not there yet, in a folder that is not."""
    return tmp_path / "example" / "token.json"


@pytest.fixture
def umask():
    """Return a function that sets the umask until the test is over."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    """Return the rights of a file or folder."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def refused(call, *args):
    """Return the reason for which a call is refused."""
    with pytest.raises(TokenStoreError) as caught:
        call(*args)
    assert "s3cret" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value.reason


def test_a_token_set_comes_back(path):
    """What was saved is loaded, by another store of the same file as well."""
    store = FileTokenStore(path)
    assert store.load() is None
    store.save(TOKEN)
    assert store.load() == FileTokenStore(str(path)).load() == TOKEN
    store.save({**TOKEN, "scope": "\u00e4 \ud800"})
    assert store.load()["scope"] == "\u00e4 \ud800"
    assert os.listdir(path.parent) == ["token.json"]


def test_none_removes_the_file(path):
    """None forgets the token set, and is nothing new the second time."""
    store = FileTokenStore(path)
    store.save(None)
    store.save(TOKEN)
    store.save(None)
    store.save(None)
    assert store.load() is None
    assert os.listdir(path.parent) == []


@posix
def test_only_the_owner_can_read(path, umask):
    """File, lock and folder are the owner's alone, whatever the umask."""
    umask(0)
    store = FileTokenStore(path)
    assert store.try_lock()
    store.save(TOKEN)
    store.save(TOKEN)
    assert [mode(path), mode(f"{path}.lock"), mode(path.parent)] == [
        0o600,
        0o600,
        0o700,
    ]


@posix
def test_the_file_is_closed_to_others_from_its_first_byte(path, umask, monkeypatch):
    """Not made readable and then closed: whoever opened it between could read on."""
    umask(0)
    opened = []

    def watch(file, flags, mode=0o777, **options):
        if flags & os.O_CREAT:
            opened.append((os.path.dirname(file), flags & os.O_EXCL, mode))
        return real(file, flags, mode, **options)

    real = os.open
    monkeypatch.setattr(os, "open", watch)
    FileTokenStore(path).save(TOKEN)
    assert opened == [(str(path.parent), os.O_EXCL, 0o600)]


@posix
def test_a_folder_that_is_there_keeps_its_rights(path):
    """Only a folder that is made here is made for its owner."""
    path.parent.mkdir(mode=0o755)
    FileTokenStore(path).save(TOKEN)
    assert mode(path.parent) == 0o755


@posix
@pytest.mark.parametrize("rights", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o601])
def test_a_file_that_others_reach(path, rights):
    """It is not believed, and a new token set makes a file that others do not reach."""
    store = FileTokenStore(path)
    store.save(TOKEN)
    path.chmod(rights)
    assert refused(store.load) == "mode"
    store.save(TOKEN)
    assert mode(path) == 0o600
    assert store.load() == TOKEN


@posix
def test_a_file_of_somebody_else(path, monkeypatch):
    """It is neither believed nor replaced, and no more is its lock taken."""
    store = FileTokenStore(path)
    assert store.try_lock()
    store.unlock()
    store.save(TOKEN)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert refused(store.load) == "owner"
    assert refused(store.save, {}) == "owner"
    assert refused(store.save, None) == "owner"
    assert refused(store.try_lock) == "owner"
    monkeypatch.undo()
    assert store.load() == TOKEN


@posix
def test_a_symbolic_link(path):
    """It is followed by nothing, nor is what it points to written or removed."""
    path.parent.mkdir()
    other = path.with_name("other")
    other.write_text(json.dumps(TOKEN))
    other.chmod(0o600)
    path.symlink_to(other)
    store = FileTokenStore(path)
    assert refused(store.load) == "symlink"
    assert refused(store.save, {}) == "symlink"
    assert refused(store.save, None) == "symlink"
    path.with_name("token.json.lock").symlink_to(other)
    assert refused(store.try_lock) == "symlink"
    path.unlink()
    path.symlink_to("nowhere")
    assert refused(store.load) == "symlink"
    assert json.loads(other.read_text()) == TOKEN


@posix
def test_what_is_no_file(path):
    """A pipe does not make us wait, and a folder is not a token set."""
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    store = FileTokenStore(path)
    assert refused(store.load) == "kind"
    assert refused(store.save, TOKEN) == "kind"
    path.unlink()
    path.mkdir(mode=0o700)
    assert refused(store.load) == "kind"
    assert refused(store.save, None) == "kind"
    os.mkfifo(f"{path}.lock", 0o600)
    assert refused(store.try_lock) == "kind"


def test_a_lock_that_others_can_hold(path):
    """A lock that others can take, others can keep for ever."""
    store = FileTokenStore(path)
    assert store.try_lock()
    store.unlock()
    os.chmod(f"{path}.lock", 0o644)
    assert refused(store.try_lock) == "mode"


BAD = [
    b"",
    b"s3cret",
    b"{",
    b"[]",
    b'"s3cret"',
    b"null",
    b"7",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"access_token": "s3cret"',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": ' + b"[" * 100_000,
    b"[" * 100_000,
    b'{"a": 1} s3cret',
    b"{}\x00",
]


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: repr(raw[:24]))
def test_a_file_that_holds_no_json_object(path, raw):
    """It is refused in our own words, which do not quote it."""
    store = FileTokenStore(path)
    store.save(TOKEN)
    path.write_bytes(raw)
    assert refused(store.load) == "malformed"


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(raw=st.binary(max_size=60))
def test_any_bytes(path, raw):
    """No bytes in the file raise anything but our own error."""
    store = FileTokenStore(path)
    store.save(TOKEN)
    path.write_bytes(raw)
    try:
        token = store.load()
    except TokenStoreError as error:
        token = error.reason
    assert token == "malformed" or token == json.loads(raw)


def test_a_file_too_large(path):
    """1 MiB is read and written, and not one byte more."""
    store = FileTokenStore(path)
    frame = len(json.dumps({"a": ""}))
    store.save({"a": "x" * (2**20 - frame)})
    assert len(store.load()["a"]) == 2**20 - frame
    assert refused(store.save, {"a": "x" * (2**20 - frame + 1)}) == "too_large"
    assert len(store.load()["a"]) == 2**20 - frame
    with path.open("ab") as file:
        file.write(b" ")
    assert refused(store.load) == "too_large"
    with path.open("r+b") as file:
        file.truncate(2**34)
    assert refused(store.load) == "too_large"


@pytest.mark.parametrize(
    "token",
    [
        [],
        "s3cret",
        7,
        True,
        {"a": {1}},
        {"a": float("nan")},
        {"a": float("inf")},
        {1: "a"},
        {"a": (1, 2)},
        {"a": b"s3cret"},
        [["a", "s3cret"]],
    ],
    ids=repr,
)
def test_what_would_not_come_back_is_not_saved(path, token):
    """The token set before stays, if the new one would not be loaded as it is."""
    store = FileTokenStore(path)
    store.save(TOKEN)
    assert refused(store.save, token) == "malformed"
    assert store.load() == TOKEN


def test_what_holds_itself_is_not_saved(path):
    """A value without an end is refused as others are."""
    endless = {}
    endless["a"] = endless
    assert refused(FileTokenStore(path).save, endless) == "malformed"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(token=st.dictionaries(st.text(max_size=9), JSON, max_size=4))
def test_what_is_saved_is_what_is_loaded(path, token):
    """Any JSON object comes back as it was."""
    store = FileTokenStore(path)
    store.save(token)
    assert store.load() == token


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_save_that_fails_changes_nothing(path, monkeypatch, fails):
    """The set before stays whole, and no half of the new one is left behind."""
    store = FileTokenStore(path)
    store.save(TOKEN)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    assert refused(store.save, {"access_token": "new"}) == "access"
    monkeypatch.undo()
    assert store.load() == TOKEN
    assert os.listdir(path.parent) == ["token.json"]


def test_a_set_is_on_the_disk_before_it_is_in_place(path, monkeypatch):
    """File first, then its name, then the folder: no order loses both sets."""
    done, fsync, replace = [], os.fsync, os.replace

    def watch_fsync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("fsync folder" if is_folder else "fsync")
        fsync(handle)

    def watch_replace(*args):
        done.append("replace")
        replace(*args)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    FileTokenStore(path).save(TOKEN)
    assert done == ["fsync", "replace", "fsync folder"][: 3 if os.name != "nt" else 2]


def test_what_the_system_refuses(path):
    """Whatever it is, it is told as our error, with the system's as its cause."""
    path.parent.parent.joinpath("example").write_text("a file where a folder should be")
    store = FileTokenStore(path)
    for call in (store.load, store.try_lock, lambda: store.save(TOKEN)):
        with pytest.raises(TokenStoreError) as caught:
            call()
        assert (caught.value.reason, caught.value.path[-4:]) in (
            ("access", "json"),
            ("access", "lock"),
        )
        assert isinstance(caught.value.__cause__, OSError)


def test_the_lock_excludes(path):
    """One store, another one of the same file, and who asks twice: one has the lock."""
    one, other = FileTokenStore(path), FileTokenStore(path)
    assert one.try_lock()
    assert not one.try_lock()
    assert not other.try_lock()
    assert FileTokenStore(path.with_name("other.json")).try_lock()
    one.unlock()
    assert other.try_lock()
    assert not one.try_lock()
    other.unlock()
    assert one.try_lock()
    one.unlock()
    assert os.path.getsize(f"{path}.lock") == 0


def test_only_who_holds_the_lock_gives_it_back(path):
    """A store that does not hold it cannot free it for others."""
    one, other = FileTokenStore(path), FileTokenStore(path)
    assert refused(one.unlock) == "not_locked"
    assert one.try_lock()
    assert refused(other.unlock) == "not_locked"
    assert not other.try_lock()
    one.unlock()
    assert refused(one.unlock) == "not_locked"


@pytest.mark.parametrize("shared", [True, False])
def test_the_lock_excludes_threads(path, shared):
    """Of many threads one has it at a time, with one store object or one each."""
    common, count, inside, most, wins = FileTokenStore(path), 8, [], [], []
    barrier = threading.Barrier(count)

    def work():
        store = common if shared else FileTokenStore(path)
        barrier.wait()
        for _ in range(100):
            if store.try_lock():
                inside.append(1)
                most.append(len(inside))
                store.save({"access_token": "x"})
                inside.pop()
                store.unlock()
                wins.append(1)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert wins
    assert common.try_lock()
    common.unlock()


def test_a_lock_may_be_given_back_by_another_thread(path):
    """A refresh may end in another thread than it began in."""
    store = FileTokenStore(path)
    assert store.try_lock()
    thread = threading.Thread(target=store.unlock)
    thread.start()
    thread.join()
    assert store.try_lock()


def test_handles_are_closed(path):
    """Neither a lock that is not to be had nor a refused file costs a handle."""
    store, other = FileTokenStore(path), FileTokenStore(path)
    store.save(TOKEN)
    path.chmod(0o644)
    assert store.try_lock()
    before = os.dup(0)
    os.close(before)
    for _ in range(20):
        assert not other.try_lock()
        assert refused(other.load) == "mode"
    after = os.dup(0)
    os.close(after)
    assert after == before


def test_a_lock_that_was_removed_keeps_nobody_out(path, monkeypatch):
    """Who locked a file that is no longer in place does not have the lock."""
    store = FileTokenStore(path)
    lock = token_store._lock

    def late(handle):
        os.replace(f"{path}.lock", f"{path}.gone")
        if others:
            others.pop().touch(0o600)
        return lock(handle)

    monkeypatch.setattr(token_store, "_lock", late)
    others = [Path(f"{path}.lock")]
    assert not store.try_lock()
    assert not store.try_lock()
    monkeypatch.undo()
    assert store.try_lock()


@posix
def test_a_lock_that_the_system_does_not_have(path, monkeypatch):
    """A file system without locks is told, and not taken for a lock that is held."""
    store = FileTokenStore(path)

    def none(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(token_store.fcntl, "flock", none)
    assert refused(store.try_lock) == "access"


CHILD = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("token_store", sys.argv[1])
token_store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(token_store)
store = token_store.FileTokenStore(sys.argv[2])
print(store.try_lock(), flush=True)
sys.stdin.read()
"""


def child(path):
    """Start a process that tries to take the lock, and return it and how that went."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, token_store.__file__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip() == "True"


def test_a_process_that_dies_frees_the_lock(path):
    """Killed with the lock in its hands, a process keeps nobody from refreshing."""
    store = FileTokenStore(path)
    holder, took = child(path)
    with holder:
        assert took
        assert not store.try_lock()
        holder.kill()
        holder.wait()
        assert store.try_lock()
        late, took = child(path)
        with late:
            assert not took
            late.stdin.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_have_its_parents_lock(path):
    """It can neither take nor free it, nor keep it when its parent gives it back."""
    store, other = FileTokenStore(path), FileTokenStore(path)
    assert store.try_lock()
    (go, tell_go), (ready, tell_ready) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        told = 1
        try:
            kept_out = not store.try_lock() and refused(store.unlock) == "not_locked"
            os.write(tell_ready, b"r")
            os.read(go, 1)
            told = 0 if kept_out and store.try_lock() else 2
            store.unlock()
        finally:
            os._exit(told)
    os.close(tell_ready)
    try:
        os.read(ready, 1)
        assert not other.try_lock()
        store.unlock()
        assert other.try_lock()
        other.unlock()
    finally:
        os.write(tell_go, b"g")
        _, status = os.waitpid(pid, 0)
        for handle in (go, tell_go, ready):
            os.close(handle)
    assert os.waitstatus_to_exitcode(status) == 0
    assert store.try_lock()


def test_another_folder_does_not_move_the_file(tmp_path, monkeypatch):
    """A relative path is that of the folder in which the store was made."""
    monkeypatch.chdir(tmp_path)
    store = FileTokenStore("token.json")
    monkeypatch.chdir(tmp_path.parent)
    store.save(TOKEN)
    assert (tmp_path / "token.json").exists()


def test_the_repr_shows_the_path_only(path):
    """Neither a repr nor an error holds anything of the file."""
    store = FileTokenStore(path)
    store.save(TOKEN)
    assert store.try_lock()
    assert repr(store) == f"FileTokenStore({str(path)!r})"
    assert str(TokenStoreError("/a", "mode")).startswith("/a: ")


@pytest.mark.parametrize("given", ["", "folder/", "a\0b", b"token.json"])
def test_paths_that_are_no_files(given):
    """They are refused when the store is made."""
    with pytest.raises(ValueError, match="path of a file"):
        FileTokenStore(given)
