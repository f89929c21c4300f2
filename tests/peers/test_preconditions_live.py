"""Many writers of one resource over real connections; other verdicts beside ours."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from claims import state
from over import over
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from werkzeug.http import is_resource_modified

from patterns.rest import preconditions
from patterns.rest.preconditions import (
    ETag,
    NotModified,
    PreconditionsMiddleware,
    Proceed,
    Validators,
)

WRITERS = 20
both = pytest.mark.parametrize("package", ["httpx", "httpx2"])


def shop(path: Path, *, guarded: bool, compares: bool = True) -> Any:
    """Return an app with one list, kept with its version in SQLite."""
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE orders (lines TEXT, version INTEGER)")
        conn.execute("INSERT INTO orders VALUES ('[]', 1)")

    def row() -> Any:
        with sqlite3.connect(path) as conn:
            return conn.execute("SELECT lines, version FROM orders").fetchone()

    async def read(request: Request) -> Response:
        lines, version = row()
        return Response(lines, headers={"etag": str(ETag(str(version)))})

    async def write(request: Request) -> Response:
        lines = (await request.body()).decode()
        await asyncio.sleep(0)  # where another may come between
        seen = request.scope.get("state", {}).get("validators")
        with sqlite3.connect(path) as conn:
            if compares and seen:
                done = conn.execute(
                    "UPDATE orders SET lines = ?, version = version + 1 "
                    "WHERE version = ?",
                    (lines, int(seen.etag.opaque)),
                )
            else:
                done = conn.execute(
                    "UPDATE orders SET lines = ?, version = version + 1", (lines,)
                )
        return Response(status_code=204 if done.rowcount else 412)

    async def current(scope: Any) -> Validators:
        return Validators(ETag(str(row()[1])))

    routes = [Route("/", read), Route("/", write, methods=["PUT"])]
    app = Starlette(routes=routes)
    return PreconditionsMiddleware(app, current) if guarded else app


def kept(url: str) -> list[int]:
    """Return what the writers have left."""
    found: list[int] = httpx.get(url, trust_env=False).json()
    return sorted(found)


@both
@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_no_update_is_lost(
    serve: Callable[[Any], str], tmp_path: Path, package: str, kind: str
) -> None:
    """Twenty writers add one line each, and every line is there in the end."""
    module = over(preconditions, package)
    url = serve(shop(tmp_path / "shop.sqlite", guarded=True))

    def adding(number: int) -> Callable[[list[int]], list[int]]:
        return lambda lines: [*lines, number]

    settings: Any = {"verify": False, "trust_env": False, "timeout": 30}
    patience: Any = {"max_attempts": 200, "base_delay": 0.002}
    if kind == "tasks":

        async def main() -> None:
            async with module.httpx.AsyncClient(**settings) as client:
                update = module.aupdate_with_etag
                jobs = [
                    update(client, url, adding(i), **patience) for i in range(WRITERS)
                ]
                await asyncio.gather(*jobs)

        asyncio.run(main())
    else:
        with (
            module.httpx.Client(**settings) as client,
            ThreadPoolExecutor(WRITERS) as pool,
        ):
            update = module.update_with_etag
            jobs = [
                pool.submit(update, client, url, adding(i), **patience)
                for i in range(WRITERS)
            ]
            assert [job.result().status_code for job in jobs] == [204] * WRITERS
    assert kept(url) == list(range(WRITERS))


def test_lost_without_preconditions(
    serve: Callable[[Any], str], tmp_path: Path
) -> None:
    """Two who read the same state and write blindly leave the change of one."""
    url = serve(shop(tmp_path / "shop.sqlite", guarded=False))
    with httpx.Client(trust_env=False) as client:
        anna, ben = (client.get(url).json() for _ in range(2))
        client.put(url, json=[*anna, 1]).raise_for_status()
        client.put(url, json=[*ben, 2]).raise_for_status()
    assert kept(url) == [2]


def test_guard_alone_loses_where_writers_race(tmp_path: Path) -> None:
    """Two may pass the guard together; the write that compares refuses one of them."""
    for compares, statuses in ((False, [204, 204]), (True, [204, 412])):
        app = shop(tmp_path / f"{compares}.sqlite", guarded=True, compares=compares)

        async def main(app: Any = app) -> list[int]:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport) as client:
                asks = {"if-match": '"1"'}
                puts = [
                    client.put("http://shop.test/", json=[i], headers=asks)
                    for i in range(2)
                ]
                return sorted(r.status_code for r in await asyncio.gather(*puts))

        assert asyncio.run(main()) == statuses


def test_304_on_the_wire(serve: Callable[[Any], str], tmp_path: Path) -> None:
    """uvicorn takes our 304, and the connection stays good for the next request."""
    url = serve(shop(tmp_path / "shop.sqlite", guarded=True))
    with httpx.Client(trust_env=False) as client:
        first = client.get(url)
        again = client.get(url, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.put(url, json=[]).status_code == 428
        assert client.put(url, json=[], headers={"if-match": "1"}).status_code == 412
        assert client.head(url).headers["etag"] == first.headers["etag"]


AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
DATES = [preconditions.format_http_date(AT + timedelta(seconds=s)) for s in (-1, 0, 1)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_werkzeug_agrees(method: str) -> None:
    """For reads, werkzeug leaves out the same answers, of thirty combinations."""
    tags = [None, '"1"', '"0"', 'W/"1"', '"0", "1"', "*"]
    count = 0
    for tag, since in itertools.product(tags, [None, "junk", *DATES]):
        asks = {"If-None-Match": tag, "If-Modified-Since": since}
        headers = {name: value for name, value in asks.items() if value}
        names = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in headers}
        environ = {names[name]: value for name, value in headers.items()}
        environ["REQUEST_METHOD"] = method
        theirs = is_resource_modified(environ, etag="1", last_modified=AT)
        ours = preconditions.evaluate(method, headers, '"1"', AT)
        assert isinstance(ours, Proceed) is theirs, headers
        assert isinstance(ours, NotModified) is not theirs
        count += 1
    assert count == 30


@pytest.mark.peer_behaviour
def test_starlette_judges_no_write() -> None:
    """A framework lets a write to a state that is gone pass to the app."""
    app = Starlette(
        routes=[Route("/", lambda request: JSONResponse([]), methods=["PUT"])]
    )

    async def main() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            answer = await client.put("http://a.test/", headers={"if-match": '"gone"'})
            return answer.status_code

    claim = "If-Match is not judged for an app"
    state(asyncio.run(main()) == 200, "starlette 1.0", claim)
