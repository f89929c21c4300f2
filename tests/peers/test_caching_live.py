"""The cache over real connections and under both httpx, and what hishel does alone."""

from __future__ import annotations

import asyncio
import gzip
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hishel
import httpx
import pytest
from claims import state
from hishel.httpx import CacheTransport
from over import over

from patterns.rest import caching

PACKAGES = pytest.mark.parametrize("package", ["httpx", "httpx2"])
BODY = b"paid " * 20_000


class Api:
    """An ASGI app with an order that a PUT changes, for whoever asks."""

    def __init__(self) -> None:
        self.version, self.seen = 1, list[str]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer GET by validator, and PUT."""
        if scope["type"] != "http":
            return
        await receive()
        asked = dict(scope["headers"])
        etag = b'"%d"' % self.version
        fields = [(b"etag", etag), (b"cache-control", b"max-age=60")]
        fields += [(b"vary", b"Accept-Encoding"), (b"content-encoding", b"gzip")]
        status, body = 200, gzip.compress(BODY + asked.get(b"authorization", b""))
        if scope["method"] == "PUT":
            self.version, status, body = self.version + 1, 204, b""
        elif asked.get(b"if-none-match") == etag:
            status, body = 304, b""
        self.seen.append(f"{scope['method']} {status}")
        fields = fields if status == 200 else fields[:2]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def told(response: Any) -> str:
    """Return what a response says of the cache."""
    names = [name for name, so in response.extensions["caching"].items() if so]
    return " ".join(names)


@PACKAGES
def test_a_blocking_client(
    serve: Callable[[Any], str], package: str, tmp_path: Path
) -> None:
    """Miss, hit, 304, change: over a real connection, and in a file."""
    module, http = over(caching, package), importlib.import_module(package)
    api, now = Api(), [1e9]
    url = serve(api)
    transport = module.PrivateCacheTransport(
        http.HTTPTransport(), "ann", folder=tmp_path, clock=lambda: now[0]
    )
    with http.Client(transport=transport, headers={"authorization": "ann"}) as client:

        def get(wanted: str) -> None:
            response = client.get(url)
            assert (told(response), response.content) == (wanted, BODY + b"ann")

        get("stored")
        get("from_cache")
        now[0] += 60
        get("from_cache revalidated")
        get("from_cache")
        client.put(url)
        get("stored")
        assert api.seen == ["GET 200", "GET 304", "PUT 204", "GET 200"]


@PACKAGES
@pytest.mark.parametrize("where", ["memory", "file"])
def test_an_async_client(
    serve: Callable[[Any], str], package: str, where: str, tmp_path: Path
) -> None:
    """The same by an async client, with many requests at a time."""
    module, http = over(caching, package), importlib.import_module(package)
    api, now = Api(), [1e9]
    url = serve(api)

    async def main() -> None:
        transport = module.PrivateCacheTransport(
            http.AsyncHTTPTransport(),
            "ann",
            folder=tmp_path if where == "file" else None,
            clock=lambda: now[0],
        )
        async with http.AsyncClient(transport=transport) as client:
            for wanted in ("stored", "from_cache"):
                response = await client.get(url)
                assert (told(response), response.content) == (wanted, BODY)
            now[0] += 60
            answers = await asyncio.gather(*(client.get(url) for _ in range(20)))
            assert {answer.content for answer in answers} == {BODY}
            assert {told(answer).split()[0] for answer in answers} == {"from_cache"}

    asyncio.run(main())
    assert api.seen[0] == "GET 200"
    assert set(api.seen[1:]) == {"GET 304"}


def test_two_clients_on_one_file(serve: Callable[[Any], str], tmp_path: Path) -> None:
    """What one client keeps another of the same principal has, and no other."""
    api = Api()
    url = serve(api)

    def client(principal: str) -> httpx.Client:
        below = httpx.HTTPTransport()
        transport = caching.PrivateCacheTransport(below, principal, folder=tmp_path)
        return httpx.Client(transport=transport)

    with client("ann") as one, client("ann") as two, client("bob") as other:
        found = [told(each.get(url)) for each in (one, two, one, other)]
    assert found == ["stored", "from_cache", "from_cache", "stored"]


# --- hishel alone


def hishel_client(handler: Any, folder: Path, **options: Any) -> httpx.Client:
    """Return a client with hishel's own transport."""
    storage = hishel.SqliteStorage(database_path=folder / "hishel.db")
    below = httpx.MockTransport(handler)
    return httpx.Client(transport=CacheTransport(below, storage, **options))


def whoami(said: dict[str, str]) -> Any:
    """Return a service that says who asks."""
    return lambda request: httpx.Response(
        200, headers=said, content=request.headers.get("authorization", "nobody")
    )


RFC: Any = {"rfc": {"shared": False}}
NEVER = {"cache-control": "no-store", "vary": "Authorization"}


@pytest.mark.peer_behaviour
def test_hishel_gives_one_user_what_another_got(tmp_path: Path) -> None:
    """In its default mode hishel gives alice's answer to bob; ours never does."""

    def ask(client: httpx.Client, **options: Any) -> str:
        names = ("alice", "bob")
        answers = [
            client.get(
                "https://api.test/me", headers={"authorization": name}, **options
            ).text
            for name in names
        ]
        return answers[1]

    with hishel_client(whoami(NEVER), tmp_path) as client:
        default = ask(client)
    with hishel_client(whoami(NEVER), tmp_path, **RFC) as client:
        switched = ask(client, extensions={"caching": {"rfc": False}})
    below = httpx.MockTransport(whoami(NEVER))
    transport = caching.PrivateCacheTransport(below, "a team's robot")
    with httpx.Client(transport=transport) as client:
        assert ask(client) == "bob"
        assert ask(client, extensions={"caching": {"rfc": False}}) == "bob"
    claim = "its default mode gives what no-store and Vary keep from others"
    state(default == "alice", "hishel 2.0.0", claim)
    claim = "a request's extensions switch its RFC mode off"
    state(switched == "alice", "hishel 2.0.0", claim)


@pytest.mark.peer_behaviour
@pytest.mark.parametrize(
    ("said", "asked", "claim"),
    [
        (
            {"cache-control": "max-age=60", "age": "120"},
            {},
            "it does not count the Age that a response came with",
        ),
        (
            {"expires": "Thu, 18 Aug 2050 02:01:18 UTC"},
            {},
            "it takes a malformed Expires for a date",
        ),
        (
            {"cache-control": "max-age=60"},
            {"cache-control": "max-age=0"},
            "it ignores the max-age of a request",
        ),
    ],
)
def test_hishel_gives_what_is_not_fresh(
    tmp_path: Path, said: dict[str, str], asked: dict[str, str], claim: str
) -> None:
    """In its RFC mode hishel gives what has expired, or is too old for the request."""
    with hishel_client(whoami(said), tmp_path, **RFC) as client:
        answers = [client.get("https://api.test", headers=asked) for _ in range(2)]
        theirs = answers[1].extensions["caching"]["from_cache"]
    below = httpx.MockTransport(whoami(said))
    transport = caching.PrivateCacheTransport(below, "ann")
    with httpx.Client(transport=transport) as client:
        answers = [client.get("https://api.test", headers=asked) for _ in range(2)]
        assert not answers[1].extensions["caching"]["from_cache"]
    state(theirs, "hishel 2.0.0", claim)


@pytest.mark.peer_behaviour
def test_hishel_keeps_credentials(tmp_path: Path) -> None:
    """In hishel's file lies the request, with the token that it was sent with."""
    said = {"cache-control": "max-age=60"}
    secret = {"authorization": "Bearer s3cret"}
    with hishel_client(whoami(said), tmp_path, **RFC) as client:
        client.get("https://api.test", headers=secret)
        files = [path.read_bytes() for path in tmp_path.glob("hishel.db*")]
    claim = "its file holds the Authorization of requests"
    state(any(b"Bearer s3cret" in data for data in files), "hishel 2.0.0", claim)
