"""Serve orders by two processes that are started anew whenever they are killed.

`python idempotent_server.py PORT FILE STORE HOW`. STORE is `sqlite` or the address of a
Valkey; HOW is `plain`, or `transaction` for effect and record in one. A request whose
`die` field names a step kills the process at it, unless it was killed there before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn

from patterns.rest import idempotency

LEASE = 0.3  # seconds
WORKERS = 2


class Orders:
    """An app whose effect is a row."""

    def __init__(self, path: str, how: str) -> None:
        self.path, self.how = path, how

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        attempt = scope["state"]["idempotency"]
        fields = dict(scope["headers"])
        wanted = fields.get(b"die", b"").decode()
        await asyncio.sleep(0.01)  # so that others come meanwhile

        def step(name: str) -> None:
            if wanted == name and self.is_first(attempt.key):
                os.kill(os.getpid(), signal.SIGKILL)

        step("began")
        conn = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        conn.execute("BEGIN IMMEDIATE")
        row = conn.execute("INSERT INTO effect (key) VALUES (?)", [attempt.key])
        body = str(row.lastrowid).encode()
        step("effect")
        if self.how == "transaction":
            attempt.complete_in(conn, 201, [], body)
            step("record")
        conn.execute("COMMIT")
        conn.close()
        step("commit")
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": body})
        step("sent")

    def is_first(self, key: str) -> bool:
        """Tell whether nobody died for a key yet; a file is not rolled back."""
        try:
            Path(f"{self.path}.{key}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def store(path: str, name: str) -> Any:
    """Return the store that all processes share."""
    if name == "sqlite":
        return idempotency.SQLiteStore(path, timeout=30)
    import redis.asyncio

    return idempotency.RedisStore(redis.asyncio.Redis.from_url(name))


def work(listener: socket.socket, path: str, name: str, how: str) -> None:
    """Serve until the process is killed."""
    app = idempotency.IdempotencyMiddleware(
        Orders(path, how),
        store(path, name),
        principal=lambda scope: "ann",
        lease=LEASE,
        required=True,
    )
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    uvicorn.Server(config).run([listener])


def main(port: str, path: str, name: str, how: str) -> None:
    """Keep the workers at work until this process is ended."""
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE effect (id INTEGER PRIMARY KEY, key TEXT)")
    conn.close()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(128)
    children: set[int] = set()

    def end(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        while len(children) < WORKERS:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                work(listener, path, name, how)
                os._exit(0)
            children.add(child)
            time.sleep(0)
        children.discard(os.wait()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
