"""What the idempotency middleware adds to a request, by store, called as ASGI is."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from harness import Row, interleave

from patterns.rest.idempotency import (
    IdempotencyKeyTransport,
    IdempotencyMiddleware,
    MemoryStore,
    SQLiteStore,
)

BARE = "bare app"
BODY = b'{"id": 7, "state": "paid"}'
Ask = Callable[[Any, bytes | None], Awaitable[bytes]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read a request and answer it."""
    await receive()
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": 201, "headers": [kind]})
    await send({"type": "http.response.body", "body": BODY})


async def ask(it: Any, key: bytes | None) -> bytes:
    """Make one request of an app, and return the body of its answer."""
    headers = [(b"content-type", b"application/json")]
    if key is not None:
        headers.append((b"idempotency-key", key))
    scope = {"type": "http", "method": "POST", "path": "/orders", "headers": headers}
    events, got = [{"type": "http.request", "body": b'{"n": 1}'}], []

    async def receive() -> Any:
        return events.pop()

    async def send(message: Any) -> None:
        got.append(message)

    await it(scope, receive, send)
    answer: bytes = got[1]["body"]
    return answer


def bench_idempotency_middleware(quick: bool) -> Iterator[Row]:
    """Compare a request through the middleware with one of the bare app."""
    rounds, count = (1, 2) if quick else (60, 100)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        disk = SQLiteStore(Path(folder) / "keys.db")

        def guard(store: Any) -> IdempotencyMiddleware:
            return IdempotencyMiddleware(app, store, principal=lambda scope: "ann")

        def asking(
            it: Any, key: Callable[[], bytes | None]
        ) -> Callable[[], set[bytes]]:
            async def many() -> set[bytes]:
                return {await ask(it, key()) for _ in range(count)}

            return lambda: runner.run(many())

        def fresh() -> bytes:
            return b'"%d"' % next(numbers)

        memory, file = guard(MemoryStore(max_keys=10**6)), guard(disk)
        cases = {
            BARE: asking(app, lambda: None),
            "no key": asking(memory, lambda: None),
            "memory, new key": asking(memory, fresh),
            "memory, replay": asking(memory, lambda: b'"again"'),
        }
        times = interleave(cases, rounds, result={BODY})
        for name in list(cases)[1:]:
            yield times.row(name, BARE, per=count)
        cases = {
            BARE: cases[BARE],
            "SQLite, new key": asking(file, fresh),
            "SQLite, replay": asking(file, lambda: b'"again"'),
        }
        clock = time.perf_counter  # it waits for the disk
        times = interleave(cases, max(1, rounds // 6), result={BODY}, clock=clock)
        for name in list(cases)[1:]:
            yield times.row(name, BARE, per=count)
        disk.close()


def bench_idempotency_key(quick: bool) -> Iterator[Row]:
    """Compare a POST with a key by the transport with a bare one."""
    below = httpx.MockTransport(lambda request: httpx.Response(201, content=BODY))

    def posting(transport: Any) -> Callable[[], bytes]:
        client = httpx.Client(transport=transport)
        return lambda: client.post("https://api.test/orders", content=b"{}").content

    cases = {
        "bare httpx": posting(below),
        "IdempotencyKeyTransport": posting(IdempotencyKeyTransport(below)),
    }
    rounds, repeat = (1, 2) if quick else (60, 60)
    times = interleave(cases, rounds, repeat=repeat, result=BODY)
    yield times.row("IdempotencyKeyTransport", "bare httpx")
