"""Problem details over real sockets, and between ours and other people's packages."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from claims import state
from over import over

from patterns.errors import problem_details

Serve = Callable[[Any], str]
KIND = "application/problem+json"
VECTOR = (  # RFC 9457 §3, the first example: it has no status
    '{"type": "https://example.com/probs/out-of-credit",'
    ' "title": "You do not have enough credit.",'
    ' "detail": "Your current balance is 30, but that costs 50.",'
    ' "instance": "/account/12345/msgs/abc",'
    ' "balance": 30, "accounts": ["/account/12345", "/account/67890"]}'
)
MIB = 2**20
PATIENCE = 30.0  # seconds until a server that hears nothing is given up


class Server:
    """An ASGI app whose paths are the ways in which an error can come."""

    def __init__(self) -> None:
        self.ports: list[int] = []  # of the clients' connections
        self.sent = 0
        self.began, self.left = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.ports.append(scope["client"][1])
        self.receive, self.send = receive, send
        await getattr(self, scope["path"].strip("/"))()

    async def answer(
        self, status: int, kind: str, *parts: bytes, more: bool = False, **headers: str
    ) -> None:
        """Send a status, a media type and a body in parts, the last one or not."""
        headers = {"content-type": kind, **headers}
        pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        start = {"type": "http.response.start", "status": status, "headers": pairs}
        await self.send(start)
        for part in parts:
            await self.body(part)
        if not more:
            await self.body(b"", more=False)

    async def body(self, part: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        self.sent += len(part)
        message = {"type": "http.response.body", "body": part, "more_body": more}
        await self.send(message)

    async def gone(self) -> None:
        """Wait until the client is gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def problem(self) -> None:
        await self.answer(403, KIND, VECTOR[:100].encode(), VECTOR[100:].encode())

    async def packed(self) -> None:
        packed = gzip.compress(VECTOR.encode())
        await self.answer(403, KIND, packed, content_encoding="gzip")

    async def bomb(self) -> None:
        packed = gzip.compress(bytes(64 * MIB))
        await self.answer(500, KIND, packed, content_encoding="gzip")

    async def html(self) -> None:
        await self.answer(502, "text/html", b"<html>Bad gateway")

    async def cut(self) -> None:
        await self.answer(502, KIND, VECTOR.encode(), content_length="5000")

    async def large(self) -> None:
        await self.answer(500, KIND, *[b" " * 65536] * 160)

    async def endless(self) -> None:
        gone = asyncio.create_task(self.gone())
        await self.answer(503, KIND, more=True)
        while not gone.done():
            await self.body(b" " * 65536)
            await asyncio.sleep(0)

    async def hanging(self) -> None:
        await self.answer(503, KIND, b"{", more=True)
        self.began.set()
        await self.gone()


class Asker:
    """Ask with one httpx package, blocking or async, with the hook of ours."""

    def __init__(self, package: str, kind: str) -> None:
        self.http: Any = importlib.import_module(package)
        self.module: Any = over(problem_details, package)
        self.kind = kind

    def client(self, **options: Any) -> Any:
        """Return a client that raises what the responses tell of."""
        blocking = self.kind == "sync"
        name = "raise_for_problem" if blocking else "araise_for_problem"
        hooks = {"response": [getattr(self.module, name)]}
        client = self.http.Client if blocking else self.http.AsyncClient
        options |= {"verify": False, "trust_env": False}
        return client(event_hooks=hooks, timeout=PATIENCE, **options)

    def errors(self, base: str, *paths: str) -> list[Any]:
        """Return the errors that requests of one client end with."""
        found = []
        if self.kind == "sync":
            with self.client(base_url=base) as client:
                for path in paths:
                    with pytest.raises(self.http.HTTPStatusError) as caught:
                        client.get(path)
                    found.append(caught.value)
            return found

        async def main() -> None:
            async with self.client(base_url=base) as client:
                for path in paths:
                    with pytest.raises(self.http.HTTPStatusError) as caught:
                        await client.get(path)
                    found.append(caught.value)

        asyncio.run(main())
        return found


@pytest.fixture(
    params=[
        pytest.param((package, kind), id=f"{package}-{kind}")
        for package in ("httpx", "httpx2")
        for kind in ("sync", "async")
    ]
)
def asker(request: pytest.FixtureRequest) -> Asker:
    """Return each of the four askers in turn."""
    return Asker(*request.param)


@pytest.mark.parametrize("path", ["/problem", "/packed"])
def test_problem(serve: Serve, asker: Asker, path: str) -> None:
    """A problem is raised as one, its body can be read, and the connection is kept."""
    server = Server()
    base = serve(server)
    for error in asker.errors(base, path, path):
        assert type(error) is asker.module.ProblemError
        assert error.problem.status == 403
        assert error.problem.instance == f"{base}/account/12345/msgs/abc"
        assert error.problem.extensions["balance"] == 30
        assert error.response.json() == json.loads(VECTOR)
        assert error.response.elapsed.total_seconds() > 0
    assert len(set(server.ports)) == 1


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/html", 502, "<html>Bad gateway"),
        ("/cut", 502, ""),
        ("/large", 500, ""),
        ("/endless", 503, ""),
        ("/bomb", 500, ""),
    ],
)
def test_no_problem(
    serve: Serve, asker: Asker, path: str, status: int, text: str
) -> None:
    """What is no document leaves the status, and the client goes on."""
    server = Server()
    error, after = asker.errors(serve(server), path, "/problem")
    assert type(error) is asker.http.HTTPStatusError
    assert error.response.status_code == status
    assert error.response.text == text
    assert isinstance(error.__cause__, asker.http.RemoteProtocolError) == (
        path == "/cut"
    )
    assert after.problem.title == "You do not have enough credit."


def test_endless_body_is_left(serve: Serve, asker: Asker) -> None:
    """The connection of an endless body is closed, and no more taken than the bound."""
    server = Server()
    asker.errors(serve(server), "/endless")
    assert server.left.wait(PATIENCE)
    assert server.sent < 16 * MIB  # the bound, and what the buffers between hold


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_cancelled_while_it_reads(serve: Serve, package: str) -> None:
    """A task that is cancelled amid an error's body closes the connection and ends."""
    asker, server = Asker(package, "async"), Server()
    base = serve(server)

    async def main() -> None:
        async with asker.client(base_url=base) as client:
            task = asyncio.create_task(client.get("/hanging"))
            assert await asyncio.to_thread(server.began.wait, PATIENCE)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left.wait, PATIENCE)
            with pytest.raises(asker.module.ProblemError):
                await client.get("/problem")

    asyncio.run(main())


# --- other people's packages

OURS = problem_details.ProblemDetails(
    type="https://example.com/probs/out-of-credit",
    title="You do not have enough credit.",
    status=403,
    detail="Your balance is 30 €.",
    instance="urn:uuid:6d1a7b5e",
    extensions={"balance": 30},
)


def test_ours_by_starlette(serve: Serve, asker: Asker) -> None:
    """What we render goes through Starlette as a response, and reads as it was."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    def sell(_: Any) -> Response:
        raise LookupError

    def refuse(*_: Any) -> Response:
        body, status, headers = OURS.render()
        return Response(body, status, {**headers, "retry-after": "7"})

    routes = [Route("/", lambda _: Response(*OURS.render())), Route("/sell", sell)]
    app = Starlette(routes=routes, exception_handlers={LookupError: refuse})
    plain, raised = asker.errors(serve(app), "/", "/sell")
    for error in (plain, raised):
        assert error.problem.to_dict() == OURS.to_dict()
        assert error.response.headers["content-type"] == KIND
    assert raised.response.headers["retry-after"] == "7"


def test_ours_by_flask() -> None:
    """What we render is what a view of Flask returns, and a response of Werkzeug."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.add_url_rule("/", "view", lambda: OURS.render())
    app.add_url_rule("/made", "made", lambda: flask.Response(*OURS.render()))
    transport = httpx.WSGITransport(app=app)
    with httpx.Client(transport=transport, base_url="http://shop.test") as client:
        for path in ("/", "/made"):
            response = client.get(path)
            assert problem_details.ProblemDetails.from_response(response) == OURS
            assert response.headers["content-type"] == KIND


def test_ours_is_read_by_fastapi_rfc9457() -> None:
    """Their client reads what we render."""
    from fastapi_rfc9457 import parse_problem

    theirs = parse_problem(OURS.render()[0])
    assert theirs.model_dump(exclude_none=True) == OURS.to_dict()


def test_theirs_by_starlette(serve: Serve, asker: Asker) -> None:
    """What their model writes, sent by Starlette, is read by ours."""
    from fastapi_rfc9457 import ProblemDetail
    from starlette.responses import Response

    document = {"title": "Sold out", "status": 409, "detail": "é", "left": [0]}
    body = ProblemDetail(**document).model_dump_json(exclude_none=True)
    (error,) = asker.errors(serve(Response(body, 409, media_type=KIND)), "/")
    assert error.problem.to_dict() == {"type": "about:blank", **document}


def test_theirs_by_fastapi(serve: Serve, asker: Asker) -> None:
    """What their handlers make of errors in FastAPI is read by ours."""
    fastapi = pytest.importorskip("fastapi", reason="fastapi-rfc9457 is there, not it")
    from fastapi_rfc9457 import Problem
    from fastapi_rfc9457.server import add_problem_handlers, get_problem_docs_router

    class OutOfCredit(Problem):
        """The balance does not cover it."""

        title = "You do not have enough credit."
        status = 403
        balance: int

    app = fastapi.FastAPI()
    add_problem_handlers(app)
    app.include_router(get_problem_docs_router(OutOfCredit), prefix="/probs")

    @app.get("/buy")
    def buy(cost: int) -> None:
        raise OutOfCredit(detail=f"that costs {cost}", balance=30)

    base = serve(app)
    refused, wrong, lost = asker.errors(base, "/buy?cost=50", "/buy", "/lost")
    assert refused.problem.to_dict() == {
        "type": f"{base}/probs/out-of-credit",
        "title": "You do not have enough credit.",
        "status": 403,
        "detail": "that costs 50",
        "instance": f"{base}/buy",
        "balance": 30,
    }
    assert wrong.problem.status == 422
    assert wrong.problem.extensions["errors"][0]["loc"] == ["query", "cost"]
    assert (lost.problem.type, lost.problem.title) == ("about:blank", "Not Found")


def response(body: str, kind: str = KIND, status: int = 403) -> httpx.Response:
    """Return a response of a server."""
    request = httpx.Request("GET", "https://ann:s3cret@api.test/buy?key=s3cret")
    headers = {"content-type": kind}
    return httpx.Response(status, headers=headers, text=body, request=request)


@pytest.mark.peer_behaviour
@pytest.mark.parametrize(
    ("body", "theirs", "ours"),
    [
        pytest.param(VECTOR, "ValidationError", 403, id="first example of RFC 9457"),
        pytest.param('{"title": "t"}', "ValidationError", 403, id="no status"),
        pytest.param('{"title": 1, "status": 403}', "ValidationError", 403, id="title"),
        pytest.param("", "JSONDecodeError", None, id="empty"),
        pytest.param("[" * 100_000, "RecursionError", None, id="nested"),
    ],
)
def test_fastapi_rfc9457_loses_the_error(body: str, theirs: str, ours: Any) -> None:
    """Their client raises a parser's error in place of the server's, ours does not."""
    from fastapi_rfc9457 import raise_for_problem

    with pytest.raises(httpx.HTTPStatusError) as caught:
        problem_details.raise_for_problem(response(body))
    problem = getattr(caught.value, "problem", None)
    assert (problem.status if problem else None) == ours
    try:
        raise_for_problem(response(body))
        seen = "nothing"
    except Exception as exc:
        seen = type(exc).__name__
    claim = f"raise_for_problem ends with {theirs} for {body[:40]!r}"
    state(seen == theirs, "fastapi-rfc9457 0.2.4", claim)


@pytest.mark.peer_behaviour
def test_fastapi_rfc9457_takes_true_for_a_status() -> None:
    """Their client makes a status of 1 out of true; ours has that of the response."""
    from fastapi_rfc9457 import parse_problem

    body = '{"title": "t", "status": true}'
    ours = problem_details.ProblemDetails.from_response(response(body))
    assert ours is not None
    assert ours.status == 403
    claim = "parse_problem takes true for the status 1"
    state(parse_problem(body).status == 1, "fastapi-rfc9457 0.2.4", claim)


@pytest.mark.peer_behaviour
def test_fastapi_rfc9457_overlooks_a_problem() -> None:
    """Their client compares the media type letter by letter; ours in any case."""
    from fastapi_rfc9457 import raise_for_problem

    body, kind = '{"title": "t", "status": 403}', "Application/Problem+JSON"
    with pytest.raises(problem_details.ProblemError):
        problem_details.raise_for_problem(response(body, kind))
    claim = f"raise_for_problem takes {kind} for no problem"
    state(
        raise_for_problem(response(body, kind)) is None, "fastapi-rfc9457 0.2.4", claim
    )


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("seen_in", ["httpx 0.28.1", "httpx2 2.16.2"])
def test_httpx_tells_secrets(seen_in: str) -> None:
    """`raise_for_status` has the URL's password and query in its text; ours has not."""
    package = seen_in.split()[0]
    http, ours = importlib.import_module(package), over(problem_details, package)
    request = http.Request("GET", "https://ann:s3cret@api.test/buy?key=k3y")
    texts = []
    for check in (http.Response.raise_for_status, ours.raise_for_problem):
        with pytest.raises(http.HTTPStatusError) as caught:
            check(http.Response(403, request=request))
        texts.append(str(caught.value))
    assert texts[1] == "403 Forbidden; no problem details"
    claim = "the text of raise_for_status has the query and the password"
    state("s3cret" in texts[0] and "k3y" in texts[0], seen_in, claim)
