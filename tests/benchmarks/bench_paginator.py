"""What the paginator costs an item, and how near it comes to what is possible."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
from harness import Row, Times, interleave

from patterns.pagination.paginator import Cursor, PageNumber, apaginate, paginate

URL = "https://api.test/items"


def server(
    pages: int, size: int, latency: float = 0
) -> tuple[httpx.MockTransport, httpx.MockTransport]:
    """Return a blocking and an async transport of a list, by cursor or page number."""
    bodies = []
    for page in range(pages):
        numbers = range(page * size, (page + 1) * size)
        items = [{"id": n, "name": f"item {n}", "tags": ["a", "b"]} for n in numbers]
        body: dict[str, Any] = {"items": items, "pages": pages}
        if page + 1 < pages:
            body["next"] = str(page + 2)
        bodies.append(json.dumps(body).encode())
    headers = {"content-type": "application/json"}

    def answer(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params.get("page", "1"))
        return httpx.Response(200, headers=headers, content=bodies[page - 1])

    def late(request: httpx.Request) -> httpx.Response:
        time.sleep(latency)
        return answer(request)

    async def later(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(latency)
        return answer(request)

    if latency:
        return httpx.MockTransport(late), httpx.MockTransport(later)
    return httpx.MockTransport(answer), httpx.MockTransport(answer)


def plain(client: httpx.Client) -> int:
    """Walk with a loop as one writes it by hand, without any of the safety."""
    count, params = 0, {}
    while True:
        body = client.get(URL, params=params).json()
        for _ in body["items"]:
            count += 1
        if not body.get("next"):
            return count
        params = {"page": body["next"]}


async def agenerated(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    """Walk with the least that hands out items one by one."""
    params: dict[str, str] = {}
    while True:
        body = (await client.get(URL, params=params)).json()
        for item in body["items"]:
            yield item
        if not body.get("next"):
            return
        params = {"page": body["next"]}


async def aplain(client: httpx.AsyncClient) -> int:
    """Walk with the same loop, async."""
    count, params = 0, {}
    while True:
        body = (await client.get(URL, params=params)).json()
        for _ in body["items"]:
            count += 1
        if not body.get("next"):
            return count
        params = {"page": body["next"]}


def dlt_walk(transport: httpx.MockTransport) -> Callable[[], int]:
    """Return a walk by dlt's REST client over the same bodies."""
    import requests
    from dlt.sources.helpers.rest_client import RESTClient, paginators
    from requests.adapters import BaseAdapter

    class Adapter(BaseAdapter):
        def send(self, request: Any, **options: Any) -> requests.Response:
            answer = transport.handle_request(httpx.Request("GET", request.url))
            response = requests.Response()
            response.status_code, response.url = answer.status_code, request.url
            response.headers.update(answer.headers)
            response._content, response.request = answer.content, request
            return response

        def close(self) -> None:
            """Hold nothing open."""

    session = requests.Session()
    session.mount("https://", Adapter())

    def walk() -> int:
        paginator = paginators.JSONResponseCursorPaginator("next", cursor_param="page")
        client = RESTClient(URL, paginator=paginator, session=session)
        pages = client.paginate("", data_selector="items")
        return sum(1 for page in pages for _ in page)

    return walk


def bench_per_item(quick: bool) -> Iterator[Row]:
    """Compare the cost of an item with a loop written by hand, and with dlt."""
    pages, size = (3, 10) if quick else (100, 100)
    transport, _ = server(pages, size)
    client = httpx.Client(transport=transport)
    aclient = httpx.AsyncClient(transport=transport)
    loop = asyncio.new_event_loop()
    style = Cursor("next", param="page")

    def ours() -> int:
        count = 0
        for _ in paginate(client, URL, style, items="items"):
            count += 1
        return count

    async def aours() -> int:
        count = 0
        async for _ in apaginate(aclient, URL, style, items="items"):
            count += 1
        return count

    async def afloor() -> int:
        count = 0
        async for _ in agenerated(aclient):
            count += 1
        return count

    def stepped() -> int:
        walk, count = paginate(client, URL, style, items="items"), 0
        while next(walk, None) is not None:
            count += 1
        return count

    cases = {
        "plain loop": lambda: plain(client),
        "paginate": ours,
        "paginate by next()": stepped,
        "plain loop, async": lambda: loop.run_until_complete(aplain(aclient)),
        "apaginate": lambda: loop.run_until_complete(aours()),
        "bare async generator": lambda: loop.run_until_complete(afloor()),
        "dlt": dlt_walk(transport),
    }
    try:
        times = interleave(cases, 2 if quick else 25, result=pages * size)
    finally:
        client.close()
        loop.run_until_complete(aclient.aclose())
        loop.close()
    scale = {"per": pages * size, "unit": "an item"}
    yield times.row("paginate", "plain loop", target=1.10, **scale)
    yield times.row("apaginate", "plain loop, async", target=1.10, **scale)
    yield times.row("bare async generator", "plain loop, async", **scale)
    yield times.row("apaginate", "bare async generator", **scale)
    yield times.row("paginate by next()", "plain loop", **scale)
    yield times.row("dlt", "plain loop", **scale)


def consume(
    count: int, latency: float, rounds: int, work: float = 0, **options: Any
) -> Times:
    """Time both walks over a slow server, the consumer working on each page."""
    blocking, non_blocking = server(count, 5, latency)
    by_number = PageNumber(pages="pages")
    style = by_number if "concurrency" in options else Cursor("next", param="page")

    def walk() -> int:
        with httpx.Client(transport=blocking) as client:
            pages = paginate(client, URL, style, items="items", **options).pages()
            return sum(1 for _ in pages if not (work and time.sleep(work)))

    async def awalk() -> int:
        async with httpx.AsyncClient(transport=non_blocking) as client:
            pages: AsyncIterator[Any]
            pages = apaginate(client, URL, style, items="items", **options).pages()
            n = 0
            async for _ in pages:
                if work:
                    await asyncio.sleep(work)
                n += 1
            return n

    words = ", ".join(f"{name}={value}" for name, value in options.items())
    cases = {
        f"paginate, {words}": walk,
        f"apaginate, {words}": lambda: asyncio.run(awalk()),
    }
    return interleave(cases, rounds, result=count, clock=time.perf_counter)


def bench_prefetch(quick: bool) -> Iterator[Row]:
    """Compare with N·max(latency, consumer's time), the two being the same."""
    pages, latency, rounds = (4, 0.002, 1) if quick else (50, 0.05, 3)
    for ahead in (0, 1):
        times = consume(pages, latency, rounds, latency, prefetch=ahead)
        target = 1.05 if ahead else None
        for case in times:
            name = "N·max(latency, consumer)"
            yield times.bound(case, name, pages * latency, target=target)


def bench_concurrency(quick: bool) -> Iterator[Row]:
    """Compare with the bound: one page, and then the others k at a time."""
    pages, latency, rounds = (9, 0.002, 1) if quick else (50, 0.1, 3)
    for k in (4, 8):
        times = consume(pages, latency, rounds, concurrency=k)
        bound = (1 + math.ceil((pages - 1) / k)) * latency
        for case in times:
            name = "(1 + ⌈(N-1)/k⌉)·latency"
            yield times.bound(case, name, bound, target=1.10)
