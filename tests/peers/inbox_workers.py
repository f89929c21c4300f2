"""Keep two workers of an inbox at work, and kill one of them again and again.

`python inbox_workers.py TARGET KILLS SEED`. A worker is a process; half of them kill
themselves at a step that the seed chooses, and half are killed at a time it chooses.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from patterns.webhooks import inbox

LEASE = 0.15  # seconds
STEPS = 60  # of a worker, within which it kills itself


def connect(target: str) -> Any:
    """Open a connection to PostgreSQL, or to a file of SQLite's."""
    if "host" in target or target.startswith("postgresql"):
        import psycopg

        return psycopg.connect(target)
    conn = sqlite3.connect(target, timeout=30)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = NORMAL")
    return conn


def box() -> inbox.Inbox:
    """Return the inbox of all who take part: a crash is no reason to give up here."""
    return inbox.Inbox(lease=LEASE, max_attempts=10**6, backoff=lambda attempt: 0.0)


def handler(conn: Any, message: inbox.InboxMessage) -> None:
    """Have three effects: a row, a sum, and the newest version."""
    mark = "?" if isinstance(conn, sqlite3.Connection) else "%s"
    conn.execute(f"INSERT INTO effect VALUES ({mark})", [message.id])
    time.sleep(0.002)  # most kills are to come in the midst of it
    conn.execute("UPDATE total SET n = n + 1")
    version = int(message.body)
    if inbox.apply_if_newer(conn, "thing", version):
        conn.execute(f"UPDATE thing SET version = {mark}", [version])


class Fuse:
    """Kill this process at a step; each statement, commit and effect has some."""

    def __init__(self, step: int | None) -> None:
        self.left = step

    def burn(self) -> None:
        """Take a step."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> Any:
        """Burn along with all that the inbox does; return the handler that does too."""
        execute, transaction = inbox._execute, inbox._transaction

        def burning(conn: Any, sql: str, *values: Any) -> Any:
            self.burn()
            cursor = execute(conn, sql, *values)
            self.burn()
            return cursor

        @contextlib.contextmanager
        def both(conn: Any) -> Iterator[None]:
            with transaction(conn):
                yield
                self.burn()
            self.burn()

        def handle(conn: Any, message: Any) -> None:
            handler(conn, message)
            self.burn()

        inbox._execute, inbox._transaction = burning, both
        return handle


def work(target: str, step: int | None) -> None:
    """Process messages until killed."""
    handle, mine = Fuse(step).install(), box()
    conn = connect(target)
    while True:
        if mine.process(conn, handle) is None:
            time.sleep(0.002)


def spawn(target: str, step: int | None) -> int:
    """Fork a worker and return its process id."""
    child = os.fork()
    if child == 0:
        try:
            work(target, step)
        finally:
            os._exit(1)  # a worker that ends by itself is a failure
    return child


def main(target: str, kills: int, seed: int) -> None:
    """Kill that many workers, by their own process ids."""
    rng = random.Random(seed)
    if "host" in target:
        import psycopg  # noqa: F401  once, and not in each worker
    workers = [spawn(target, None), spawn(target, None)]
    for number in range(kills):
        victim = workers.pop(rng.randrange(2))
        time.sleep(rng.uniform(0.0, 0.09))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "a worker failed"
        workers.append(spawn(target, rng.randrange(STEPS) if number % 2 else None))
    for victim in itertools.chain(workers):
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
