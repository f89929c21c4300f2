"""What it costs to send a token that is there and valid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import httpx
import httpx2
import httpx_auth
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from harness import Row, interleave

from patterns.auth.oauth2 import ClientCredentials, RefreshToken, Token

URL = "https://api.test/orders/7"
TOKEN_URL = "https://as.test/token"
BODY = json.dumps({"id": 7, "state": "paid", "lines": [1, 2, 3]}).encode()
KNOWN = {"client_id": "app", "client_secret": "s3cret"}
BARE, BARE2 = "header by hand, httpx", "header by hand, httpx2"
FOUR = "Auth of four lines"  # the least that any Auth costs
TARGET = 1.03


class FixedAuth(httpx.Auth):
    """Send a header, and look at nothing."""

    def auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = "Bearer t"
        yield request


def server(package: Any) -> Any:
    """Return an authorization server and an API, which answers who has a token."""

    def answer(request: Any) -> Any:
        if request.url.host == "as.test":
            token = {"access_token": "t", "token_type": "Bearer", "expires_in": 3600}
            return package.Response(200, json=token)
        good = request.headers.get("authorization") == "Bearer t"
        kind = {"content-type": "application/json"}
        return package.Response(200 if good else 401, headers=kind, content=BODY[good:])

    return package.MockTransport(answer)


def clients(kind: str) -> dict[str, Any]:
    """Return clients that send the same token; authlib's are of httpx2."""
    httpx_auth.OAuth2.token_cache.clear()
    asks = httpx.Client(transport=server(httpx))
    ours = ClientCredentials(token_url=TOKEN_URL, **KNOWN, client=asks)
    ours.get_token()
    held = Token("t", expires_at=1e11, refresh_token="r")
    auths = {
        FOUR: FixedAuth(),
        "ClientCredentials": ours,
        "RefreshToken": RefreshToken(token_url=TOKEN_URL, **KNOWN, token=held),
        "httpx-auth": httpx_auth.OAuth2ClientCredentials(
            TOKEN_URL, **KNOWN, client=asks
        ),
    }
    name = "Client" if kind == "sync" else "AsyncClient"
    headers = {"Authorization": "Bearer t"}
    by_hand: dict[str, Any] = {
        BARE: getattr(httpx, name)(headers=headers, transport=server(httpx)),
        # what of a ratio is noise
        f"{BARE}, again": getattr(httpx, name)(
            headers=headers, transport=server(httpx)
        ),
        BARE2: getattr(httpx2, name)(headers=headers, transport=server(httpx2)),
    }
    token = {"access_token": "t", "token_type": "Bearer", "expires_at": 1e11}
    theirs: Any = OAuth2Client if kind == "sync" else AsyncOAuth2Client
    settings = {"token_endpoint": TOKEN_URL, "grant_type": "client_credentials"}
    return {
        **by_hand,
        **{
            each: getattr(httpx, name)(auth=auth, transport=server(httpx))
            for each, auth in auths.items()
        },
        "authlib": theirs(
            *KNOWN.values(), **settings, token=token, transport=server(httpx2)
        ),
    }


def rows(times: Any, **scale: Any) -> Iterator[Row]:
    """Compare each client with the one of its package that has a header by hand."""
    for name in times:
        if name in ("ClientCredentials", "RefreshToken"):
            yield times.row(name, BARE, target=TARGET, **scale)
            yield times.row(name, FOUR, **scale)
        elif name not in (BARE, BARE2):
            yield times.row(name, BARE2 if name == "authlib" else BARE, **scale)


def bench_oauth2_blocking(quick: bool) -> Iterator[Row]:
    """Compare a GET with a valid token, by a blocking client."""

    def getting(client: Any) -> Callable[[], bytes]:
        def get() -> bytes:
            content: bytes = client.get(URL).content
            return content

        return get

    cases = {name: getting(client) for name, client in clients("sync").items()}
    rounds, repeat = (1, 2) if quick else (50, 200)
    yield from rows(interleave(cases, rounds, repeat=repeat, result=BODY[1:]))


def bench_oauth2_async(quick: bool) -> Iterator[Row]:
    """Compare the same by an async client, many calls to a run of the loop."""
    rounds, count = (1, 2) if quick else (50, 200)

    async def many(client: Any) -> set[bytes]:
        return {(await client.get(URL)).content for _ in range(count)}

    def run(work: Awaitable[set[bytes]]) -> set[bytes]:
        return runner.run(work)  # type: ignore[arg-type]

    with asyncio.Runner() as runner:
        cases = {
            name: lambda client=client: run(many(client))
            for name, client in clients("async").items()
        }
        times = interleave(cases, rounds, result={BODY[1:]})
    yield from rows(times, per=count)
