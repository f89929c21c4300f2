"""Nothing is lost: dispatchers are killed at any moment, and every event arrives.

`KIT_KILLS` says how often, for each engine; `KIT_SEED` makes other moments of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from lossy_processes import connect
from psycopg.conninfo import make_conninfo

from patterns.webhooks.outbox import Outbox
from patterns.webhooks.signature import SignatureError, Webhook

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KIT_KILLS", "50"))
SEED = int(os.environ.get("KIT_SEED", "1"))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENDPOINTS = {
    "all": ["*"],
    "invoices": ["invoice.*"],
    "orders": ["order.made", "order.paid"],
}


class Receiver:
    """An ASGI app that verifies, counts by endpoint and id, and fails at times.

    `take` is called with endpoint, id and body of what is verified; what it returns is
    the status.
    """

    def __init__(self, take: Callable[[str, str, bytes], int]) -> None:
        self.take, self.webhook = take, Webhook(SECRET)
        self.refused = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":  # who sent it was killed
                return
            body, more = body + event.get("body", b""), event.get("more_body", False)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        try:
            message = self.webhook.verify(body, headers)
            status = self.take(scope["path"][1:], message.id, body)
        except SignatureError:
            self.refused += 1
            status = 400
        start = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b""})


class Log:
    """What arrived, and how often; one attempt in ten is answered with 503."""

    def __init__(self) -> None:
        self.chance = random.Random(SEED)
        self.taken: Counter[tuple[str, str]] = Counter()
        self.bodies: dict[str, set[bytes]] = {}

    def __call__(self, endpoint: str, id: str, body: bytes) -> int:
        self.bodies.setdefault(id, set()).add(body)
        if self.chance.random() < 0.1:
            return 503
        self.taken[endpoint, id] += 1
        return 200


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return each engine in turn, with an empty database."""
    if request.param == "sqlite":
        path = str(tmp_path / "app.db")
        with contextlib.closing(connect(path)) as conn:
            conn.execute("PRAGMA journal_mode = WAL")
        yield path
        return
    # Not `postgres_schema`, whose own connection would not survive.
    address, schema = request.getfixturevalue("postgres_url"), "kit_nothing_is_lost"
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        conn.execute(f"CREATE SCHEMA {schema}")
    yield make_conninfo(address, options=f"-c search_path={schema}")
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"DROP SCHEMA {schema} CASCADE")


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the script beside this file, and end it."""
    script = [sys.executable, str(Path(__file__).with_name("lossy_processes.py"))]
    running = subprocess.Popen(
        [*script, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


class Dispatchers:
    """Dispatchers by their process ids, to be killed and replaced."""

    def __init__(self, forking: subprocess.Popen[str]) -> None:
        self.forking, self.running = forking, list[int]()

    def start(self) -> None:
        """Fork one more."""
        assert self.forking.stdin is not None
        assert self.forking.stdout is not None
        self.forking.stdin.write("\n")
        self.forking.stdin.flush()
        self.running.append(int(self.forking.stdout.readline()))

    def kill(self, which: int) -> None:
        """End one as a crash does; it must have been alive until now."""
        os.kill(self.running.pop(which), signal.SIGKILL)


def crash_postgres(address: str) -> None:
    """Let PostgreSQL restart as after a crash, which ends all connections.

    A backend that dies by SIGKILL makes the server end all others, and recover from
    its log. Of a server that is not ours, the connections alone are ended.
    """
    with psycopg.connect(address, autocommit=True) as conn:
        if "KIT_POSTGRES_URL" in os.environ:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            return
        os.kill(conn.info.backend_pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(address).close()
            return
        time.sleep(0.05)
    pytest.fail("PostgreSQL did not come back")


def committed(database: str) -> set[tuple[str, str]]:
    """Return endpoint and id of all that must arrive, as the business rows say."""
    with contextlib.closing(connect(database)) as conn:
        rows = conn.execute("SELECT id, kind FROM business").fetchall()
    names = {"invoice": "invoices", "order": "orders"}
    pairs = {(names[kind.partition(".")[0]], id) for id, kind in rows}
    return pairs | {("all", id) for id, _ in rows}


def test_every_committed_event_arrives(
    database: str, serve: Callable[[Any], str]
) -> None:
    """Dispatchers die at random, PostgreSQL restarts: nothing is lost or invented."""
    log, chance = Log(), random.Random(SEED)
    receiver = Receiver(log)
    url, outbox = serve(receiver), Outbox()
    with contextlib.closing(connect(database)) as conn:
        conn.execute("CREATE TABLE business (id TEXT PRIMARY KEY, kind TEXT)")
        outbox.create(conn)
        for name, types in ENDPOINTS.items():
            outbox.register(conn, f"{url}/{name}", types, SECRET)
        conn.commit()

    with process("dispatch", database) as forking:
        dispatchers = Dispatchers(forking)
        for _ in range(3):
            dispatchers.start()
        with process("produce", database, str(SEED)):
            for kill in range(KILLS):
                time.sleep(chance.random() * 0.25)
                dispatchers.kill(chance.randrange(3))
                dispatchers.start()
                if kill == KILLS // 2 and "host" in database:
                    crash_postgres(database)
        wanted, deadline = committed(database), time.monotonic() + 30
        while wanted - log.taken.keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        while dispatchers.running:
            dispatchers.kill(0)

    assert wanted - log.taken.keys() == set(), "an event was lost"
    invented = log.taken.keys() - committed(database)
    assert invented == set(), "an event was sent that never was"
    assert len(wanted) > KILLS
    assert receiver.refused == 0
    assert all(len(bodies) == 1 for bodies in log.bodies.values())
    again = sum(log.taken.values()) - len(wanted)
    print(f"{KILLS} kills, {len(wanted)} deliveries, {again} of them twice")
