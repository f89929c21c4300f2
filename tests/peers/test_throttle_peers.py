"""Both halves of the throttle over real connections: ours against each other, the
client's against express-rate-limit, and our parser beside another one.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from claims import state
from over import over
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from patterns.rate_limit import throttle
from patterns.rate_limit.limiter import Limiter

EXPRESS = ("express-rate-limit@8.7.5", "express@5.2.1")
PARSER = "ratelimit-header-parser@0.1.0"

both = pytest.mark.parametrize("package", ["httpx", "httpx2"])


def limited(limiter: Limiter, **options: Any) -> Any:
    """Return an app behind our middleware."""

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", hello, methods=["GET", "POST"])])
    return throttle.ThrottleMiddleware(app, limiter, **options)


def address(response: Any) -> Any:
    """Return the client's end of the connection that a response came over."""
    return response.extensions["network_stream"].get_extra_info("client_addr")


@both
def test_threads_get_exactly_the_burst(
    serve: Callable[[Any], str], package: str
) -> None:
    """Of 160 requests by 8 threads, exactly the burst is served, and told so."""
    http: Any = importlib.import_module(package)
    url = serve(limited(Limiter(50, 36_000)))
    with http.Client(trust_env=False) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get(url), range(160)))
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(served), len(refused)) == (50, 110)
    left = [throttle.parse_ratelimit(answer.headers["ratelimit"]) for answer in served]
    assert sorted(limit.r for (limit,) in left) == list(range(50))
    for answer in refused:
        (limit,) = throttle.parse_ratelimit(answer.headers["ratelimit"])
        (policy,) = throttle.parse_ratelimit_policy(answer.headers["ratelimit-policy"])
        assert (limit.r, policy.q, policy.w) == (0, 50, 36_000)
        assert int(answer.headers["retry-after"]) >= (limit.t or 0)
        assert answer.json()["violated-policies"] == ["default"]


@both
def test_a_refusal_keeps_the_connection(
    serve: Callable[[Any], str], package: str
) -> None:
    """GET, HEAD and POST are refused over one connection, HEAD without a body."""
    http: Any = importlib.import_module(package)
    url = serve(limited(Limiter(1, 36_000)))
    with http.Client(trust_env=False) as client:
        first = client.get(url)
        assert first.status_code == 200
        for method, content in [("GET", None), ("HEAD", None), ("POST", b"x" * 9000)]:
            answer = client.request(method, url, content=content)
            assert answer.status_code == 429
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["content-length"]) > 100
            assert bool(answer.content) == (method != "HEAD")
            assert address(answer) == address(first)


@both
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_both_halves(serve: Callable[[Any], str], package: str, kind: str) -> None:
    """Our client keeps to what our middleware tells, at once or one by one."""
    http: Any = importlib.import_module(package)
    module = over(throttle, package)
    url = serve(limited(Limiter(4, 0.5)))

    async def main() -> list[int]:
        transport = module.ThrottleTransport(http.AsyncHTTPTransport())
        async with http.AsyncClient(transport=transport, trust_env=False) as client:
            first = await client.get(url)
            rest = await asyncio.gather(*(client.get(url) for _ in range(6)))
        return [answer.status_code for answer in (first, *rest)]

    if kind == "async":
        found = asyncio.run(main())
    else:
        transport = module.ThrottleTransport(http.HTTPTransport())
        with http.Client(transport=transport, trust_env=False) as client:
            found = [client.get(url).status_code for _ in range(7)]
    assert found == [200] * 7


@both
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_express_rate_limit_has_nothing_to_refuse(
    launch: Callable[..., str],
    node: str,
    npm_package: Callable[..., Path],
    package: str,
    kind: str,
) -> None:
    """A herd behind one first call is never refused, over three windows of a server."""
    script = Path(__file__).with_name("express_rate_limit.mjs")
    url = launch(node, script, npm_package(*EXPRESS), "{port}", "5", "1000")
    http: Any = importlib.import_module(package)
    module = over(throttle, package)

    async def main() -> list[Any]:
        transport = module.ThrottleTransport(http.AsyncHTTPTransport())
        async with http.AsyncClient(transport=transport, trust_env=False) as client:
            first = await client.get(url)
            rest = await asyncio.gather(*(client.get(url) for _ in range(11)))
        return [first, *rest]

    if kind == "tasks":
        answers = asyncio.run(main())
    else:
        transport = module.ThrottleTransport(http.HTTPTransport())
        with (
            http.Client(transport=transport, trust_env=False) as client,
            ThreadPoolExecutor(6) as pool,
        ):
            answers = [client.get(url)]
            answers += pool.map(lambda _: client.get(url), range(11))
    assert [answer.status_code for answer in answers] == [200] * 12
    (limit,) = throttle.parse_ratelimit(answers[0].headers["ratelimit"])
    (policy,) = throttle.parse_ratelimit_policy(answers[0].headers["ratelimit-policy"])
    assert (limit.r, limit.t, policy.q, policy.w) == (4, 1, 5, 1)
    assert limit.pk is None
    assert policy.pk is not None


@pytest.mark.peer_behaviour
def test_ratelimit_header_parser_reads_no_draft_11(
    node: str, npm_package: Callable[..., Path]
) -> None:
    """The parser from npm finds nothing in the present form of the field."""
    folder = npm_package(PARSER)
    value = '"default";r=50;t=30'
    values = ["limit=60, remaining=50, reset=30", value]  # draft 6, and draft 11
    code = (
        "const {parseRateLimit} = require('ratelimit-header-parser');"
        f"const found = {json.dumps(values)}.map("
        "(value) => parseRateLimit(new Headers({RateLimit: value})));"
        "console.log(JSON.stringify(found));"  # NaN and no date are null
    )
    done = subprocess.run(
        [node, "-e", code], cwd=folder, capture_output=True, text=True, check=True
    )
    old, new = json.loads(done.stdout)
    assert (old["limit"], old["remaining"]) == (60, 50)
    nothing = new is None or set(new.values()) == {None}
    state(nothing, PARSER, f"it finds nothing in {value}", installed=PARSER)
    assert throttle.parse_ratelimit(value) == [throttle.RateLimit("default", 50, 30)]
