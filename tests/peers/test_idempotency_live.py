"""One effect for one key, over real connections to two processes that get killed."""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claims import state
from over import over

from patterns.errors import retry
from patterns.rest import idempotency

SERVER = Path(__file__).with_name("idempotent_server.py")
PATIENCE = 30.0  # seconds


class Shop:
    """The server of a test, and its effects."""

    def __init__(self, launch: Any, folder: Path, store: str, how: str) -> None:
        self.path = folder / "shop.db"
        command = [sys.executable, SERVER, "{port}", self.path, store, how]
        self.url = launch(*command) + "/orders"

    def effects(self) -> Counter[str]:
        """Return how often each key had its effect."""
        conn = sqlite3.connect(self.path)
        try:
            return Counter(key for (key,) in conn.execute("SELECT key FROM effect"))
        finally:
            conn.close()


def order(url: str, key: str, die: str = "") -> tuple[str, bool]:
    """Order until there is an answer: its text, and whether it was a replay."""
    import httpx

    headers = {"die": die} if die else {}
    deadline = time.monotonic() + PATIENCE
    transport = idempotency.IdempotencyKeyTransport(httpx.HTTPTransport())
    with httpx.Client(transport=transport, timeout=10) as client:
        extensions = {"idempotency_key": key}
        while time.monotonic() < deadline:
            try:
                answer = client.post(url, headers=headers, extensions=extensions)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                return answer.text, "idempotent-replayed" in answer.headers
            assert answer.status_code in (409, 503), answer.text
            time.sleep(0.02)
    pytest.fail("no answer")


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Return the results of what is called in threads at the same time."""
    results: list[Any] = [None] * len(works)
    ready = threading.Barrier(len(works))

    def work(n: int, one: Callable[[], Any]) -> None:
        ready.wait()
        results[n] = one()

    threads = [
        threading.Thread(target=work, args=(n, one)) for n, one in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_twenty_at_once(
    launch: Any, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Twenty requests with one key, to two processes, have one effect."""
    name = request.getfixturevalue("redis_url") if kind == "valkey" else kind
    shop = Shop(launch, tmp_path, name, "plain")
    for turn in range(3):
        key = f"{tmp_path.name}-{turn}"
        answers = at_once([lambda key=key: order(shop.url, key)] * 20)
        assert len({text for text, _ in answers}) == 1
        assert sum(not is_replay for _, is_replay in answers) == 1
        assert shop.effects()[key] == 1


def test_killed_at_every_step(launch: Any, tmp_path: Path) -> None:
    """With effect and record in one transaction, a kill never costs or doubles one."""
    shop = Shop(launch, tmp_path, "sqlite", "transaction")
    steps = ["began", "effect", "record", "commit", "sent"]
    keys = [(f"{step}-{n}", step) for n in range(5) for step in steps]
    answers = at_once([lambda pair=pair: order(shop.url, *pair) for pair in keys])
    assert shop.effects() == Counter({key: 1 for key, _ in keys})
    killed = len(list(tmp_path.glob("shop.db.*-*")))
    assert killed > len(keys) / 2  # some were killed along with others, and replayed
    for (key, _), (text, _) in zip(keys, answers, strict=True):
        assert order(shop.url, key) == (text, True)


def test_killed_between_effect_and_record(launch: Any, tmp_path: Path) -> None:
    """With the two apart, a kill doubles an effect: the transaction is the cure."""
    shop = Shop(launch, tmp_path, "sqlite", "plain")
    order(shop.url, "k", "commit")
    assert shop.effects()["k"] == 2
    order(shop.url, "j", "effect")
    assert shop.effects()["j"] == 1


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_retries_of_a_client(launch: Any, tmp_path: Path, package: str) -> None:
    """A client with retries gets its one answer from servers that are killed."""
    http = importlib.import_module(package)
    keys, tries = over(idempotency, package), over(retry, package)
    shop = Shop(launch, tmp_path, "sqlite", "transaction")
    policy = tries.RetryPolicy(
        max_attempts=20, base_delay=0.05, max_delay=0.1, retry_statuses=[409, 503]
    )
    below = tries.RetryTransport(http.HTTPTransport(), policy)
    transport = keys.IdempotencyKeyTransport(below)
    with http.Client(transport=transport, timeout=10) as client:
        for step in ("effect", "commit"):
            answer = client.post(shop.url, headers={"die": step})
            assert answer.status_code == 201
            assert answer.extensions["attempts"] > 1
    assert sorted(shop.effects().values()) == [1, 1]


def starlette_app(bugs: list[int]) -> Any:
    """Return an app of Starlette's that answers in several ways."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import FileResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.3)
        behind = BackgroundTask(asyncio.sleep, 0.01)
        body = await request.json()
        return JSONResponse([body, request.state.idempotency.key], background=behind)

    async def stream(request: Any) -> Any:
        async def parts() -> Any:
            for n in range(5):
                yield f"{n}"
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    async def file(request: Any) -> Any:
        return FileResponse(__file__)

    async def bug(request: Any) -> Any:
        bugs.append(1)
        if len(bugs) == 1:
            raise ZeroDivisionError
        return JSONResponse(len(bugs))

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    guard = Middleware(
        idempotency.IdempotencyMiddleware,
        store=idempotency.MemoryStore(),
        principal=lambda scope: "ann",
    )
    around = Middleware(BaseHTTPMiddleware, dispatch=dispatch)
    works = (slow, stream, file, bug)
    routes = [Route(f"/{work.__name__}", work, methods=["POST"]) for work in works]
    return Starlette(routes=routes, middleware=[around, guard, around])


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_a_framework(serve: Any, package: str) -> None:
    """All kinds of answers are recorded; who gives up early gets the answer later."""
    http, keys = importlib.import_module(package), over(idempotency, package)
    url = serve(starlette_app([]))
    transport = keys.IdempotencyKeyTransport(http.HTTPTransport())
    with http.Client(base_url=url, transport=transport) as client:
        for path in ("/stream", "/file"):
            key = {"idempotency_key": f"key of {path}"}
            first, other = (client.post(path, extensions=key) for _ in range(2))
            assert first.status_code == other.status_code == 200
            assert first.content == other.content
            assert other.headers["idempotent-replayed"] == "true"
        alone = {"connection": "close"}  # the server closes it behind an error
        bugs = [client.post("/bug", headers=alone, extensions=key) for _ in range(3)]
        assert [answer.status_code for answer in bugs] == [500, 200, 200]
        assert [answer.text for answer in bugs[1:]] == ["2", "2"]
        request = client.build_request("POST", "/slow", json={"n": 1}, timeout=0.1)
        with pytest.raises(http.ReadTimeout):
            client.send(request)
        request.extensions["timeout"] = {"read": 10}
        statuses = []
        while not statuses or statuses[-1] == 409:
            answer = client.send(request)
            statuses.append(answer.status_code)
        assert statuses[0] == 409
        assert answer.json() == [{"n": 1}, request.extensions["idempotency_key"]]
        assert answer.headers["idempotent-replayed"] == "true"


# --- what the one peer on PyPI for ASGI does


SEEN = "asgi-idempotency-header 0.2.0"


async def asked(*requests: tuple[str, bytes], kind: str, fails: int = 0) -> Any:
    """Send requests, each by a user and with a body, under one key through the peer."""
    import httpx

    peer = pytest.importorskip("idempotency_header_middleware")
    backends = importlib.import_module("idempotency_header_middleware.backends.memory")
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        done.append(dict(scope["headers"])[b"authorization"].decode())
        if len(done) <= fails:
            raise ZeroDivisionError
        headers = [(b"content-type", kind.encode()), (b"location", b"/7")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        body = f'"{done[-1]}"'.encode()
        await send({"type": "http.response.body", "body": body})

    guarded = peer.IdempotencyHeaderMiddleware(app, backend=backends.MemoryBackend())
    transport = httpx.ASGITransport(guarded, raise_app_exceptions=False)
    answers = []
    async with httpx.AsyncClient(transport=transport) as client:
        for user, content in requests:
            headers = {"authorization": user, "idempotency-key": "k"}
            answer = await client.post(
                "http://api.test/", headers=headers, content=content
            )
            answers.append(answer)
    return answers, done


CLAIMS = [
    (
        "gives one user what was answered to another, under the same key",
        ([("ann", b"1"), ("bob", b"1")], "application/json", 0),
        lambda answers, done: answers[1].json() == "ann" and done == ["ann"],
    ),
    (
        "answers another request under the key as if it were the first",
        ([("ann", b"1"), ("ann", b"2")], "application/json", 0),
        lambda answers, done: answers[1].status_code == 201 and len(done) == 1,
    ),
    (
        "keeps no header of an answer",
        ([("ann", b"1"), ("ann", b"1")], "application/json", 0),
        lambda answers, done: "location" not in answers[1].headers,
    ),
    (
        "has the effect again, if the answer is not JSON",
        ([("ann", b"1"), ("ann", b"1")], "text/plain", 0),
        lambda answers, done: len(done) == 2,
    ),
    (
        "answers 409 for ever, after the app has raised once",
        ([("ann", b"1"), ("ann", b"1")], "application/json", 1),
        lambda answers, done: answers[1].status_code == 409 and len(done) == 1,
    ),
]


@pytest.mark.peer_behaviour
@pytest.mark.parametrize(
    ("claim", "case", "holds"), CLAIMS, ids=[claim for claim, _, _ in CLAIMS]
)
def test_the_peer(claim: str, case: Any, holds: Any) -> None:
    """What the peer does, where it is installed."""
    requests, kind, fails = case
    answers, done = asyncio.run(asked(*requests, kind=kind, fails=fails))
    state(holds(answers, done), SEEN, claim)
