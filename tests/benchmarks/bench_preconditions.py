"""What it costs to judge preconditions in front of an app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from harness import Row, interleave

from patterns.rest.preconditions import (
    ETag,
    PreconditionsMiddleware,
    Validators,
    evaluate,
    parse_etags,
)

BODY = b'{"id": 7, "state": "paid"}'
TAG = ETag("0123456789abcdef")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer as a small app does."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"26")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def current(scope: Any) -> Validators:
    """Know the state without asking anybody."""
    return Validators(TAG)


def asking(serve: Any, method: str, headers: dict[str, str], times: int) -> Any:
    """Return a call that sends requests right into an app."""
    raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    raw += [(b"host", b"shop.test"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def many() -> None:
        for _ in range(times):
            await serve(dict(scope), receive, send)

    return lambda: asyncio.run(many())


def bench_preconditions(quick: bool) -> Iterator[Row]:
    """Compare requests through the middleware with the bare app, in process."""
    rounds, times = (1, 2) if quick else (30, 300)
    guarded = PreconditionsMiddleware(app, current)
    known, write = {"If-None-Match": str(TAG)}, {"If-Match": str(TAG)}
    cases: dict[str, Callable[[], Any]] = {
        "bare app": asking(app, "GET", {}, times),
        "GET": asking(guarded, "GET", {}, times),
        "GET, 304": asking(guarded, "GET", known, times),
        "PUT, If-Match": asking(guarded, "PUT", write, times),
    }
    took = interleave(cases, rounds)
    for case in list(cases)[1:]:
        yield took.row(case, "bare app", per=times, unit="a request")
    one, many = str(TAG), ", ".join(f'"{i:016x}"' for i in range(20))
    headers = {"If-Match": one}
    cases = {
        "hash of a tag": lambda: hash(one),
        "a list of one": lambda: parse_etags(one),
        "a list of twenty": lambda: parse_etags(many),
        "evaluate": lambda: evaluate("PUT", headers, TAG, None),
    }
    took = interleave(cases, rounds, repeat=2 if quick else 500)
    for case in list(cases)[2:]:
        yield took.row(case, "a list of one")
