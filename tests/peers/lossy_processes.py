"""The processes of `test_nothing_is_lost.py`: dispatchers to kill, and a producer.

    python lossy_processes.py dispatch DATABASE     a line read is a dispatcher forked
    python lossy_processes.py produce DATABASE SEED

DATABASE is the path of a SQLite file, or the address of PostgreSQL. Dispatchers are
forked from a process that has imported all, so that one is there within milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from typing import Any

import httpx
import psycopg

from patterns.webhooks.delivery import Dispatcher, Policy
from patterns.webhooks.outbox import Outbox
from patterns.webhooks.signature import Webhook

# Hundreds of attempts, and an endpoint that is never left alone: what is measured here
# is whether a crash loses anything, not how long the schedule is.
POLICY = Policy(schedule=[0.02] * 500, opens_after=10**6)


def connect(database: str) -> Any:
    """Open a connection to either engine."""
    if "host" in database or "://" in database:
        return psycopg.connect(database)
    conn = sqlite3.connect(database, timeout=30, check_same_thread=False)
    conn.execute("PRAGMA synchronous = NORMAL")  # processes are killed, not machines
    return conn


def dispatch(database: str) -> None:
    """Deliver until the end, which comes from outside."""
    outbox = Outbox(lambda: connect(database))

    def sign(secrets: Any, body: bytes, id: str, timestamp: int) -> dict[str, str]:
        return dict(Webhook(*secrets).sign(body, id=id, timestamp=timestamp))

    async def main() -> None:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
            options: Any = {"policy": POLICY, "poll": 0.02, "per_endpoint": 8}
            work = Dispatcher(outbox, client, sign, timeout=0.9, lease=1.0, **options)
            await work.run(asyncio.Event())

    asyncio.run(main())


def fork_dispatchers(database: str) -> None:
    """Fork a dispatcher for each line, and tell its process id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            dispatch(database)
        print(child, flush=True)


def produce(database: str, seed: int) -> None:
    """Write a row and its event in one transaction, and take a third of them back."""
    chance, outbox, n = random.Random(seed), Outbox(), 0
    conn = connect(database)
    while True:
        n += 1
        kind = chance.choice(["invoice.paid", "invoice.made", "order.made"])
        try:
            conn.execute(f"INSERT INTO business VALUES ('evt_{n}', '{kind}')")
            outbox.publish(conn, kind, {"n": n}, id=f"evt_{n}")
            if chance.random() < 1 / 3:
                conn.rollback()
            else:
                conn.commit()
        except psycopg.OperationalError:
            time.sleep(0.1)  # the server restarts; what was not committed is gone
            try:
                conn = connect(database)
            except psycopg.OperationalError:
                continue
        time.sleep(chance.random() * 0.02)


if __name__ == "__main__":
    if sys.argv[1] == "dispatch":
        fork_dispatchers(sys.argv[2])
    else:
        produce(sys.argv[2], int(sys.argv[3]))
