"""What other clients do where many callers meet one bad token, and ours beside them.

The authorization server here counts who asks, gives each refresh token for one use, and
ends the whole family when one comes twice, as RFC 9700 §4.14.2 has it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import httpx_auth
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from authorization_server import PLAIN, AuthorizationServer
from claims import state
from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error
from over import over
from requests_oauthlib import OAuth2Session

from patterns.auth import oauth2

AUTHLIB, HTTPX_AUTH = "authlib 1.9.10", "httpx-auth 0.23.1"
REQUESTS_OAUTHLIB = "requests-oauthlib 2.0.0"
EXPIRED = {"access_token": "a0", "refresh_token": "r0", "token_type": "Bearer"}
EXPIRED |= {"expires_at": 1000}

Serve = Callable[[Any], str]
both = pytest.mark.parametrize("package", ["httpx", "httpx2"])
peer_behaviour = pytest.mark.peer_behaviour


class Service:
    """An authorization server at `/token`, and the API that it is for at `/api`.

    The token endpoint answers `status` after so many seconds, or when `meanwhile` is
    set. `asked` counts its requests.
    """

    def __init__(self, status: int = 200, takes: float = 0.2) -> None:
        self.status, self.takes, self.asked = status, takes, 0
        self.meanwhile = threading.Event()
        self.refresh_token, self.spent, self.alive = "r0", set[str](), True
        self.good: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if scope["path"] == "/token":
            self.asked += 1
            await asyncio.to_thread(self.meanwhile.wait, self.takes)
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            status, members = self.answer(form)
        else:
            given = dict(scope["headers"]).get(b"authorization", b"").decode()
            known = self.alive and given.removeprefix("Bearer ") in self.good
            status, members = (200, {}) if known else (401, {"error": "invalid_token"})
        headers = [(b"content-type", b"application/json")]
        if status == 401:
            headers += [(b"www-authenticate", b'Bearer error="invalid_token"')]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(members).encode()})

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Grant what is asked for, unless something is wrong with it."""
        if self.status != 200:
            return self.status, {}
        renewal = form["grant_type"] == "refresh_token"
        if renewal and form["refresh_token"] in self.spent:
            self.alive = False
        if renewal and not (self.alive and form["refresh_token"] == self.refresh_token):
            return 400, {"error": "invalid_grant"}
        members = {"access_token": f"a{self.asked}", "token_type": "Bearer"}
        self.good.add(members["access_token"])
        if renewal:
            self.spent.add(self.refresh_token)
            self.refresh_token = members["refresh_token"] = f"r{self.asked}"
        return 200, {**members, "expires_in": 3600}


def outcome(result: Any) -> Any:
    """Return the status of a response, or the name of an error."""
    if isinstance(result, BaseException):
        return type(result).__name__
    return result.status_code


def threads(call: Callable[[], Any], count: int = 50) -> Counter[Any]:
    """Count what came of calls in so many threads that begin together."""
    gate = threading.Barrier(count)

    def one(_: int) -> Any:
        gate.wait()
        try:
            return outcome(call())
        except Exception as exc:
            return outcome(exc)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


async def tasks(call: Callable[[], Awaitable[Any]], count: int = 200) -> Counter[Any]:
    """Count what came of calls in so many tasks."""
    results = await asyncio.gather(
        *(call() for _ in range(count)), return_exceptions=True
    )
    return Counter(map(outcome, results))


def crowd(package: str, kind: str, url: str, auth: Any) -> Counter[Any]:
    """Count what came of 50 threads or 200 tasks with our Auth."""
    http: Any = importlib.import_module(package)

    async def main() -> Counter[Any]:
        async with http.AsyncClient(auth=auth, **PLAIN) as client:
            return await tasks(lambda: client.get(f"{url}/api"))

    if kind == "tasks":
        return asyncio.run(main())
    with http.Client(auth=auth, **PLAIN) as client:
        return threads(lambda: client.get(f"{url}/api"))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep proxies and caches out, and let the peers speak plain HTTP."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    httpx_auth.OAuth2.token_cache.clear()


# -- ours


def ours(package: str, url: str, grant: str, **options: Any) -> Any:
    """Return our Auth for a grant."""
    module = over(oauth2, package)
    known = {"token_url": f"{url}/token", "client_id": "app", "client_secret": "s"}
    if grant == "credentials":
        return module.ClientCredentials(**known, **options)
    return module.RefreshToken(**known, token=module.Token.from_dict(EXPIRED))


@both
@pytest.mark.parametrize("kind", ["tasks", "threads"])
@pytest.mark.parametrize("grant", ["credentials", "refresh"])
def test_ours_asks_once(serve: Serve, package: str, kind: str, grant: str) -> None:
    """A crowd whose token is missing or expired asks once, and the family lives on."""
    service = Service()
    url = serve(service)
    auth = ours(package, url, grant)
    found = crowd(package, kind, url, auth)
    assert found == {200: sum(found.values())}
    assert (service.asked, service.alive) == (1, True)


@both
@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_ours_replaces_a_refused_token_once(
    serve: Serve, package: str, kind: str
) -> None:
    """A crowd whose token was revoked asks once, and each of its requests succeeds."""
    service = Service()
    url = serve(service)
    auth = ours(package, url, "credentials")
    auth.get_token()
    service.good.clear()
    found = crowd(package, kind, url, auth)
    assert found == {200: sum(found.values())}
    assert service.asked == 2


@both
@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_ours_fails_once(serve: Serve, package: str, kind: str) -> None:
    """A crowd at a server that is down asks once, and the next caller asks again."""
    service = Service(503, takes=0.5)
    url = serve(service)
    auth = ours(package, url, "refresh")
    found = crowd(package, kind, url, auth)
    assert found == {"OAuth2Error": sum(found.values())}
    assert service.asked == 1
    service.status, service.takes = 200, 0
    assert auth.get_token().access_token in service.good


@both
def test_ours_does_not_block_the_loop(serve: Serve, package: str) -> None:
    """Another task runs while the token is being fetched."""
    assert not blocks(
        serve,
        importlib.import_module(package),
        lambda url: ours(package, url, "credentials"),
    )


def blocks(serve: Serve, http: Any, make: Callable[[str], Any]) -> bool:
    """Tell whether a token request keeps the other tasks of its loop from running."""
    service = Service(takes=1)
    url = serve(service)

    async def main() -> None:
        async with http.AsyncClient(auth=make(url), **PLAIN) as client:
            call = asyncio.create_task(client.get(f"{url}/api"))
            while not service.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            ran.append(not call.done() and not service.good)
            service.meanwhile.set()
            assert (await call).status_code == 200

    ran: list[bool] = []
    asyncio.run(main())
    return ran == [False]


# -- authlib


def authlib(kind: Any, url: str, token: dict[str, Any] | None = None) -> Any:
    """Return a client of authlib."""
    known = {"token_endpoint": f"{url}/token", "grant_type": "client_credentials"}
    return kind("app", "s", **known, token=token or EXPIRED, **PLAIN)


@peer_behaviour
def test_authlib_in_threads_spends_a_refresh_token_twice(serve: Serve) -> None:
    """The blocking client has no lock: its threads refresh each for themselves, which
    ends the family.
    """
    service = Service()
    url = serve(service)
    with authlib(OAuth2Client, url) as client:
        found = threads(lambda: client.get(f"{url}/api"), 12)
    claim = "12 threads with an expired token refresh more than once, and lose it"
    state(service.asked > 1 and not service.alive, AUTHLIB, f"{claim} ({found})")


@peer_behaviour
@pytest.mark.parametrize("status", [200, 503])
def test_authlib_in_tasks(serve: Serve, status: int) -> None:
    """The async client has a lock, and so 40 tasks refresh once. But a failure is
    nobody's but the caller's, and the next one in the queue asks again.
    """
    service = Service(status, takes=0.01)
    url = serve(service)

    async def main() -> Counter[Any]:
        async with authlib(AsyncOAuth2Client, url) as client:
            return await tasks(lambda: client.get(f"{url}/api"), 40)

    found = asyncio.run(main())
    if status == 200:
        state(service.asked == 1, AUTHLIB, f"40 tasks refresh once ({found})")
    else:
        claim = f"40 tasks at a server that is down ask more than once ({found})"
        state(service.asked > 1, AUTHLIB, claim)


@peer_behaviour
def test_authlib_takes_a_401_as_it_is(serve: Serve) -> None:
    """A token that was revoked before it expired is never replaced."""
    service = Service()
    url = serve(service)
    with authlib(OAuth2Client, url, EXPIRED | {"expires_at": 1e10}) as client:
        status = client.get(f"{url}/api").status_code
    state((status, service.asked) == (401, 0), AUTHLIB, "a 401 is not followed up")


# -- httpx-auth


def credentials(url: str) -> Any:
    """Return the Auth of httpx-auth."""
    return httpx_auth.OAuth2ClientCredentials(
        f"{url}/token", client_id="app", client_secret="s"
    )


@peer_behaviour
@pytest.mark.parametrize("status", [200, 503])
def test_httpx_auth_in_threads(serve: Serve, status: int) -> None:
    """Threads wait for one another, only to ask again each for itself."""
    service = Service(status, takes=0.02)
    url = serve(service)
    with httpx.Client(auth=credentials(url), **PLAIN) as client:
        found = threads(lambda: client.get(f"{url}/api"), 12)
    claim = f"12 threads without a token ask more than once ({found})"
    state(service.asked > 1, HTTPX_AUTH, claim)


@peer_behaviour
def test_httpx_auth_in_tasks_at_a_server_that_is_down(serve: Serve) -> None:
    """Each task asks a server that has just failed."""
    service = Service(503, takes=0)
    url = serve(service)

    async def main() -> Counter[Any]:
        async with httpx.AsyncClient(auth=credentials(url), **PLAIN) as client:
            return await tasks(lambda: client.get(f"{url}/api"), 12)

    found = asyncio.run(main())
    claim = f"12 tasks at a server that is down ask more than once ({found})"
    state(service.asked > 1, HTTPX_AUTH, claim)


@peer_behaviour
def test_httpx_auth_blocks_the_loop(serve: Serve) -> None:
    """It fetches its token by a blocking client, in async code too."""
    claim = "no other task runs while an async client fetches its token"
    state(blocks(serve, httpx, credentials), HTTPX_AUTH, claim)


@peer_behaviour
def test_httpx_auth_takes_a_401_as_it_is(serve: Serve) -> None:
    """A token that was revoked before it expired is never replaced."""
    service = Service(takes=0)
    url = serve(service)
    with httpx.Client(auth=credentials(url), **PLAIN) as client:
        first = client.get(f"{url}/api").status_code
        service.good.clear()
        second = client.get(f"{url}/api").status_code
    seen = (first, second, service.asked)
    state(seen == (200, 401, 1), HTTPX_AUTH, "a 401 is not followed up")


@peer_behaviour
def test_httpx_auth_sends_its_token_anywhere(serve: Serve) -> None:
    """An Auth of a client goes along to every host that the client calls; ours is
    bound to the origin of its API.
    """
    service, other = Service(takes=0), Service(takes=0)
    url, elsewhere = serve(service), serve(other)

    def carried(auth: Any) -> bool:
        with httpx.Client(auth=auth, **PLAIN) as client:
            client.get(f"{url}/api")
            answer = client.get(f"{elsewhere}/api")
        return "authorization" in answer.request.headers

    assert not carried(ours("httpx", url, "credentials"))
    state(carried(credentials(url)), HTTPX_AUTH, "a token goes to another origin")


# -- requests-oauthlib


@peer_behaviour
def test_requests_oauthlib_in_threads_spends_a_refresh_token_twice(
    serve: Serve,
) -> None:
    """Threads refresh each for themselves, which ends the family."""
    service = Service()
    url = serve(service)
    session = OAuth2Session(
        "app",
        token={**EXPIRED, "expires_in": -1},
        auto_refresh_url=f"{url}/token",
        auto_refresh_kwargs={"client_id": "app", "client_secret": "s"},
        token_updater=lambda token: None,
    )
    with session:
        found = threads(lambda: session.get(f"{url}/api"), 12)
    claim = "12 threads with an expired token refresh more than once, and lose it"
    lost = service.asked > 1 and not service.alive
    state(lost, REQUESTS_OAUTHLIB, f"{claim} ({found})")


@peer_behaviour
def test_requests_oauthlib_takes_a_401_as_it_is(serve: Serve) -> None:
    """A token that was revoked before it expired is never replaced."""
    service = Service()
    url = serve(service)
    token = {**EXPIRED, "expires_at": 1e10}
    with OAuth2Session("app", token=token, auto_refresh_url=f"{url}/token") as session:
        status = session.get(f"{url}/api").status_code
    claim = "a 401 is not followed up"
    state((status, service.asked) == (401, 0), REQUESTS_OAUTHLIB, claim)


# -- Basic authentication, at a server that reads it as RFC 6749 §2.3.1 has it


def fetch_bare(url: str, secret: str) -> int:
    """Ask by httpx.BasicAuth."""
    form = {"grant_type": "client_credentials"}
    return httpx.post(url, data=form, auth=("cc", secret), **PLAIN).status_code


def fetch_authlib(url: str, secret: str) -> int:
    """Ask by authlib."""
    with OAuth2Client("cc", secret, **PLAIN) as client:
        try:
            client.fetch_token(url, grant_type="client_credentials")
        except OAuthError:
            return 400
    return 200


def fetch_httpx_auth(url: str, secret: str) -> int:
    """Ask by httpx-auth."""
    auth = httpx_auth.OAuth2ClientCredentials(url, client_id="cc", client_secret=secret)
    try:
        auth.request_new_token()
    except httpx_auth.InvalidGrantRequest:
        return 400
    return 200


def fetch_requests_oauthlib(url: str, secret: str) -> int:
    """Ask by requests-oauthlib."""
    with OAuth2Session(client=BackendApplicationClient("cc")) as session:
        try:
            session.fetch_token(url, client_id="cc", client_secret=secret)
        except OAuth2Error:
            return 400
    return 200


@peer_behaviour
@pytest.mark.parametrize(
    ("peer", "fetch"),
    [
        ("httpx 0.28.1", fetch_bare),
        (AUTHLIB, fetch_authlib),
        (HTTPX_AUTH, fetch_httpx_auth),
        (REQUESTS_OAUTHLIB, fetch_requests_oauthlib),
    ],
)
def test_a_secret_that_must_be_encoded(
    authorization_server: AuthorizationServer,
    peer: str,
    fetch: Callable[[str, str], int],
) -> None:
    """A secret with `%` and `+` in it has to be form-urlencoded first; ours does it."""
    known = authorization_server.clients["cc"]
    url, secret = authorization_server.token_url, known.client_secret or ""
    status = fetch(url, secret)
    state(status == 400, peer, f"the secret is sent as it is ({status})")
    auth = oauth2.ClientCredentials(
        token_url=url, client_id=known.client_id, client_secret=secret
    )
    assert auth.get_token().access_token
