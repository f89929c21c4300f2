"""What a hit costs: against a miss, a call that goes nowhere, and hishel's own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hishel
import httpx
from harness import Row, fixtures, interleave
from hishel.httpx import AsyncCacheTransport, CacheTransport

from patterns.rest.caching import PrivateCacheTransport

URL = "https://api.test/orders/7"
BODY = b'{"id": 7, "state": "paid", "lines": [1, 2, 3]}' * 20
FRESH = {"content-type": "application/json", "cache-control": "max-age=3600"}
BARE = "bare httpx"
RFC = hishel.CacheOptions(shared=False)


def server() -> httpx.MockTransport:
    """Return a service whose answers stay fresh."""
    return httpx.MockTransport(
        lambda request: httpx.Response(200, headers=FRESH, content=BODY)
    )


def bench_caching_hit(quick: bool) -> Iterator[Row]:
    """Compare a hit with a call to a transport that answers at once, blocking."""
    rounds, repeat = (1, 2) if quick else (60, 60)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder, "hishel.db")

        def getting(transport: httpx.BaseTransport) -> Callable[[], bytes]:
            client = stack.enter_context(httpx.Client(transport=transport))
            return lambda: client.get(URL).content

        theirs = hishel.SqliteStorage(database_path=file)
        cases = {
            BARE: getting(server()),
            "hit, memory": getting(PrivateCacheTransport(server(), "ann")),
            "hit, file": getting(PrivateCacheTransport(server(), "ann", folder=folder)),
            "hit, hishel's own": getting(CacheTransport(server(), theirs, rfc=RFC)),
        }
        times = interleave(cases, rounds, repeat=repeat, result=BODY)
        for name in list(cases)[1:]:
            yield times.row(name, BARE)
        yield times.row("hit, file", "hit, hishel's own")


def bench_caching_async(quick: bool) -> Iterator[Row]:
    """Compare the same in an async client."""
    rounds, count = (1, 2) if quick else (30, 40)

    async def ways(runner: asyncio.Runner, stack: ExitStack, folder: str) -> Any:
        def getting(
            transport: httpx.AsyncBaseTransport,
        ) -> Callable[[], Awaitable[set[bytes]]]:
            client = httpx.AsyncClient(transport=transport)
            stack.callback(lambda: runner.run(client.aclose()))

            async def many() -> set[bytes]:
                return {(await client.get(URL)).content for _ in range(count)}

            return many

        theirs = hishel.AsyncSqliteStorage(database_path=Path(folder, "hishel.db"))
        return {
            BARE: getting(server()),
            "hit, memory": getting(PrivateCacheTransport(server(), "ann")),
            "hit, file": getting(PrivateCacheTransport(server(), "ann", folder=folder)),
            "hit, hishel's own": getting(
                AsyncCacheTransport(server(), theirs, rfc=RFC)
            ),
        }

    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner() as runner,
        ExitStack() as stack,
    ):
        found = runner.run(ways(runner, stack, folder))
        cases = {name: lambda way=way: runner.run(way()) for name, way in found.items()}
        clock = time.perf_counter  # others' threads do part of it
        times = interleave(cases, rounds, result={BODY}, clock=clock)
        for name in list(cases)[1:]:
            yield times.row(name, BARE, per=count)
        yield times.row("hit, file", "hit, hishel's own", per=count)


def bench_caching_loopback(quick: bool) -> Iterator[Row]:
    """Compare a hit with asking a server on the loopback; none is nearer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            fields = [(name.encode(), value.encode()) for name, value in FRESH.items()]
            head = {"type": "http.response.start", "status": 200, "headers": fields}
            await send(head)
            await send({"type": "http.response.body", "body": BODY})

    rounds, repeat = (1, 2) if quick else (40, 20)
    with fixtures().serving(app) as url, ExitStack() as stack:
        names = {"cache-control": "no-store, no-cache"}
        cached = PrivateCacheTransport(httpx.HTTPTransport(), "ann")
        client = stack.enter_context(httpx.Client(transport=cached))
        bare = stack.enter_context(httpx.Client())
        cases = {
            "loopback, no cache": lambda: bare.get(url).content,
            "loopback, hit": lambda: client.get(url).content,
            "loopback, miss": lambda: client.get(url, headers=names).content,
        }
        clock = time.perf_counter
        times = interleave(cases, rounds, repeat=repeat, result=BODY, clock=clock)
        for name in list(cases)[1:]:
            yield times.row(name, "loopback, no cache")
