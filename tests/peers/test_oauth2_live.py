"""All flows of OAuth 2.0 against oidc-provider, a certified authorization server, and
its tokens at an API behind our guard, over real connections.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import httpx
import pytest
from authorization_server import PLAIN, AuthorizationServer
from fastapi import FastAPI, Request
from over import over

from patterns.auth import oauth2
from patterns.auth.bearer_guard import BearerGuard
from patterns.auth.jwt_verifier import JwksCache, JwtVerifier

REDIRECT = "http://127.0.0.1:5555/callback"
USER = {"scope": "openid offline_access read"}


class Way:
    """One httpx package, blocking or async, and the module as written for it."""

    def __init__(self, package: str, kind: str) -> None:
        self.http: Any = importlib.import_module(package)
        self.oauth2: Any = over(oauth2, package)
        self.kind = kind

    def call(self, subject: Any, name: str, *args: Any, **options: Any) -> Any:
        """Call a function or a method by its name, or its async twin."""
        if self.kind == "sync":
            return getattr(subject, name)(*args, **options)

        async def main() -> Any:
            return await getattr(subject, f"a{name}")(*args, **options)

        return asyncio.run(main())

    def get(self, url: str, auth: Any, count: int = 1) -> list[Any]:
        """Send so many requests with one client, together where that is async."""

        async def main() -> list[Any]:
            async with self.http.AsyncClient(auth=auth, **PLAIN) as client:
                work = [client.get(url) for _ in range(count)]
                return list(await asyncio.gather(*work))

        if self.kind == "async":
            return asyncio.run(main())
        with (
            self.http.Client(auth=auth, **PLAIN) as client,
            ThreadPoolExecutor(count) as pool,
        ):
            return list(pool.map(client.get, [url] * count))


@pytest.fixture(
    params=[
        pytest.param((package, kind), id=f"{package}-{kind}")
        for package in ("httpx", "httpx2")
        for kind in ("sync", "async")
    ]
)
def way(request: pytest.FixtureRequest) -> Way:
    """Return each of the four ways in turn."""
    return Way(*request.param)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with one certificate: to read them all takes a while each time."""
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0]
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(first + end, encoding="utf-8")
    return path


@pytest.fixture
def server(
    authorization_server: AuthorizationServer,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AuthorizationServer:
    """Return the server, for clients that go by the environment too."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return authorization_server


class Clock:
    """The time of day, that can be set forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def credentials(server: AuthorizationServer, name: str) -> dict[str, Any]:
    """Return the arguments that tell the server who a client is."""
    known = server.clients[name]
    method: Any = known.client_auth
    if known.private_key is not None:
        method = oauth2.private_key_jwt(name, known.private_key, audience=server.issuer)
    return {
        "client_id": known.client_id,
        "client_secret": known.client_secret,
        "client_auth": method,
    }


def machine(way: Way, server: AuthorizationServer, name: str, **options: Any) -> Any:
    """Return the Auth of a client that acts for itself."""
    known = credentials(server, name)
    return way.oauth2.ClientCredentials(token_url=server.token_url, **known, **options)


def native(way: Way, server: AuthorizationServer, **options: Any) -> Any:
    """Return the login of the public client, as the server's metadata describe it."""
    metadata = oauth2.discover(server.issuer)
    known = credentials(server, "native") | USER | options
    return way.oauth2.AuthorizationCode.from_metadata(metadata, **known)


def log_in(way: Way, server: AuthorizationServer, **options: Any) -> Any:
    """Return the token set of a user."""
    flow = native(way, server, **options)
    return way.call(flow, "authorize", open=server.browse, timeout=30)


def renewing(way: Way, server: AuthorizationServer, **options: Any) -> Any:
    """Return the Auth of a client that acts for a user."""
    known = credentials(server, "native")
    return way.oauth2.RefreshToken(token_url=server.token_url, **known, **options)


def refused(way: Way, *call: Any, **options: Any) -> Any:
    """Return the error that a call ends with."""
    with pytest.raises(way.oauth2.OAuth2Error) as raised:
        way.call(*call, **options)
    return raised.value


# -- metadata


def test_discovery(server: AuthorizationServer, way: Way) -> None:
    """The server's metadata are found, and have the addresses that it serves."""
    found = way.call(way.oauth2, "discover", server.issuer)
    assert found.issuer == server.issuer
    assert found.token_endpoint == server.token_url
    assert found.jwks_uri == server.jwks_uri
    assert found.device_authorization_endpoint == server.device_authorization_url
    assert found.pushed_authorization_request_endpoint == server.par_url
    assert found["code_challenge_methods_supported"] == ["S256"]


def test_discovery_by_openid(server: AuthorizationServer, way: Way) -> None:
    """A server that has the document of OpenID Connect alone is found as well."""
    asked: list[str] = []

    def astray(request: Any) -> None:
        asked.append(request.url.path)
        if request.url.path.endswith("oauth-authorization-server"):
            request.url = request.url.copy_with(path="/none")

    async def aastray(request: Any) -> None:
        astray(request)

    async def main() -> Any:
        hooks = {"request": [aastray]}
        async with way.http.AsyncClient(event_hooks=hooks, **PLAIN) as client:
            return await way.oauth2.adiscover(server.issuer, client=client)

    if way.kind == "async":
        found = asyncio.run(main())
    else:
        with way.http.Client(event_hooks={"request": [astray]}, **PLAIN) as client:
            found = way.oauth2.discover(server.issuer, client=client)
    assert found.token_endpoint == server.token_url
    names = ["oauth-authorization-server", "openid-configuration"]
    assert asked == [f"/.well-known/{name}" for name in names]


@pytest.mark.parametrize("change", ["slash", "host"])
def test_the_metadata_of_another_issuer(
    server: AuthorizationServer, way: Way, change: str
) -> None:
    """An issuer that differs in one character is not the one that was asked for."""
    asked = {
        "slash": f"{server.issuer}/",
        "host": server.issuer.replace("127.0.0.1", "localhost"),
    }
    error = refused(way, way.oauth2, "discover", asked[change])
    assert error.error == "issuer_mismatch"


# -- client credentials


@pytest.mark.parametrize("name", ["cc", "cc-post", "cc-pkjwt"])
def test_client_credentials(server: AuthorizationServer, way: Way, name: str) -> None:
    """Each way to authenticate gets a token, and another when that is forgotten."""
    auth = machine(way, server, name, scope="read")
    before = server.token_requests()
    tokens = []
    for _ in range(2):
        tokens.append(way.call(auth, "get_token"))
        assert way.call(auth, "get_token") == tokens[-1]  # held, and not asked for
        auth.forget()
    assert server.token_requests() - before == 2
    assert tokens[0].access_token != tokens[1].access_token
    for token in tokens:
        said = server.introspect(token.access_token)
        assert said["active"]
        assert (said["client_id"], said["scope"]) == (name, "read")
        assert token.expires_at == pytest.approx(said["exp"], abs=5)


def test_an_assertion_for_the_token_url(server: AuthorizationServer, way: Way) -> None:
    """The token URL serves as the audience where the issuer is not told."""
    auth = machine(way, server, "cc-pkjwt")
    key = server.clients["cc-pkjwt"].private_key
    known = {"client_id": "cc-pkjwt", "token_url": server.token_url}
    method = way.oauth2.private_key_jwt("cc-pkjwt", key)
    auth = way.oauth2.ClientCredentials(**known, client_auth=method)
    assert way.call(auth, "get_token").token_type == "Bearer"


@pytest.mark.parametrize("name", ["cc", "cc-post"])
def test_a_wrong_secret(server: AuthorizationServer, way: Way, name: str) -> None:
    """A wrong secret is told by the server's own code, and stays unsaid itself."""
    known = credentials(server, name) | {"client_secret": "wr%ng s+cret"}
    auth = way.oauth2.ClientCredentials(token_url=server.token_url, **known)
    error = refused(way, auth, "get_token")
    assert (error.error, error.status) == ("invalid_client", 401)
    assert "ng s" not in repr(error) + str(error) + repr(auth)


def test_a_client_that_is_bound_to_a_key(server: AuthorizationServer, way: Way) -> None:
    """A server that wants proofs of possession refuses who sends none."""
    auth = machine(way, server, "dpop", token_types=("Bearer", "DPoP"))
    error = refused(way, auth, "get_token")
    assert (error.error, error.status) == ("invalid_grant", 400)


# -- the code


@pytest.mark.parametrize("pushed", [False, True], ids=["plain", "pushed"])
def test_a_login_by_the_loopback(
    server: AuthorizationServer, way: Way, pushed: bool
) -> None:
    """The browser comes back to the listener, and the code gives a token set."""
    options = {"par_url": server.par_url} if pushed else {}
    token = log_in(way, server, **options)
    assert token.refresh_token
    assert token.id_token
    assert set((token.scope or "").split()) >= {"openid", "read"}
    said = server.introspect(token.access_token)
    assert (said["active"], said["sub"]) == (True, "ada")
    shown = repr(token)
    assert token.access_token not in shown
    assert token.refresh_token not in shown


def test_a_pushed_request_is_not_in_the_url(
    server: AuthorizationServer, way: Way
) -> None:
    """What was pushed goes by its reference only."""
    flow = native(way, server, par_url=server.par_url)
    request = way.call(flow, "start", REDIRECT)
    assert set(httpx.URL(request.url).params) == {"client_id", "request_uri"}
    callback = server.sign_in(request.url)
    assert way.call(flow, "exchange", request, callback).access_token


def test_a_push_that_is_refused(server: AuthorizationServer, way: Way) -> None:
    """A redirect URI that is not registered is refused before there is a browser."""
    flow = native(way, server, par_url=server.par_url)
    error = refused(way, flow, "start", "https://elsewhere.test/callback")
    assert error.error == "invalid_request"


def test_a_verifier_of_another_login(server: AuthorizationServer, way: Way) -> None:
    """A code is worth nothing to who did not begin the login."""
    flow = native(way, server)
    request = way.call(flow, "start", REDIRECT)
    callback = server.sign_in(request.url)
    other = replace(request, code_verifier=way.call(flow, "start", "x:").code_verifier)
    error = refused(way, flow, "exchange", other, callback)
    assert (error.error, error.status) == ("invalid_grant", 400)
    assert request.code_verifier not in str(error)


def test_a_code_is_used_twice(server: AuthorizationServer, way: Way) -> None:
    """The second use of a code is refused, and ends the tokens of the first."""
    flow = native(way, server)
    request = way.call(flow, "start", REDIRECT)
    callback = server.sign_in(request.url)
    token = way.call(flow, "exchange", request, callback)
    assert refused(way, flow, "exchange", request, callback).error == "invalid_grant"
    assert not server.introspect(token.access_token)["active"]


def test_a_callback_that_was_tampered_with(
    server: AuthorizationServer, way: Way
) -> None:
    """A callback with another state or issuer costs no request, and no code. One
    without an issuer is refused as well, since the server says that it always sends it.
    """
    flow = native(way, server)
    request = way.call(flow, "start", REDIRECT)
    callback = server.sign_in(request.url)
    before = server.token_requests()
    for name, value, code in [
        ("state", "forged", "state_mismatch"),
        ("state", None, "state_mismatch"),
        ("iss", "https://evil.test", "issuer_mismatch"),
        ("iss", None, "issuer_mismatch"),
        ("code", None, "invalid_response"),
    ]:
        params = httpx.URL(callback).params.remove(name)
        forged = params if value is None else params.set(name, value)
        error = refused(way, flow, "exchange", request, f"{REDIRECT}?{forged}")
        assert error.error == code
    assert server.token_requests() == before
    assert way.call(flow, "exchange", request, callback).access_token


def test_a_user_who_does_not_agree(server: AuthorizationServer, way: Way) -> None:
    """A refusal in the browser is the server's own code."""
    flow = native(way, server)
    request = way.call(flow, "start", REDIRECT)
    callback = server.sign_in(request.url, agree=False)
    error = refused(way, flow, "exchange", request, callback)
    assert error.error == "access_denied"
    assert error.error_description == "End-User aborted interaction"


# -- refresh


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
@pytest.mark.parametrize("first", ["threads", "tasks"])
def test_250_callers_refresh_once(
    server: AuthorizationServer, package: str, first: str
) -> None:
    """With an expired token, 200 tasks and 50 threads make one token request, and the
    refresh token that it gave is good.
    """
    way, clock, seen = Way(package, "async"), Clock(), []
    auth = renewing(
        way, server, token=log_in(way, server), clock=clock, on_token=seen.append
    )
    clock.ahead += 3600
    before = server.token_requests()

    async def main() -> list[Any]:
        loop, url = asyncio.get_running_loop(), server.userinfo_url
        with (
            ThreadPoolExecutor(50) as pool,
            way.http.Client(auth=auth, **PLAIN) as blocking,
        ):
            async with way.http.AsyncClient(auth=auth, **PLAIN) as client:
                tasks: list[Awaitable[Any]] = []
                if first == "tasks":
                    tasks = [asyncio.ensure_future(client.get(url)) for _ in range(200)]
                    await asyncio.sleep(0)
                threads = [
                    loop.run_in_executor(pool, blocking.get, url) for _ in range(50)
                ]
                tasks = tasks or [client.get(url) for _ in range(200)]
                return list(await asyncio.gather(*tasks, *threads))

    answers = asyncio.run(main())
    assert [answer.status_code for answer in answers] == [200] * 250
    assert server.token_requests() - before == 1
    assert len(seen) == 1
    clock.ahead += 3600
    assert way.get(server.userinfo_url, auth)[0].json() == {"sub": "ada"}
    assert server.token_requests() - before == 2
    assert len({token.refresh_token for token in seen}) == 2


def test_a_refused_token_is_replaced_once(
    server: AuthorizationServer, way: Way
) -> None:
    """When the API refuses the token of 40 callers, one refresh serves them all."""
    auth = renewing(way, server, token=log_in(way, server))
    server.forget(auth.token.access_token)
    before = server.token_requests()
    answers = way.get(server.userinfo_url, auth, count=40)
    assert [answer.status_code for answer in answers] == [200] * 40
    assert server.token_requests() - before == 1


def test_a_refresh_token_that_was_used_before(
    server: AuthorizationServer, way: Way
) -> None:
    """A spent refresh token is refused for good, and its whole family with it."""
    old = log_in(way, server)
    auth = renewing(way, server, refresh_token=old.refresh_token)
    new = way.call(auth, "get_token")
    thief = renewing(way, server, refresh_token=old.refresh_token)
    error = refused(way, thief, "get_token")
    assert (error.error, error.status) == ("invalid_grant", 400)
    before = server.token_requests()
    assert refused(way, thief, "get_token").error == "invalid_grant"
    assert server.token_requests() == before
    assert thief.token is None
    heir = renewing(way, server, refresh_token=new.refresh_token)
    assert refused(way, heir, "get_token").error == "invalid_grant"
    thief.token = log_in(way, server)  # a new login is a new beginning
    assert way.get(server.userinfo_url, thief)[0].status_code == 200


def test_a_cancelled_caller_ends_alone(server: AuthorizationServer) -> None:
    """The one who began a refresh is cancelled, and the others get its token."""
    way, clock = Way("httpx", "async"), Clock()
    auth = renewing(way, server, token=log_in(way, server), clock=clock)
    clock.ahead += 3600
    before = server.token_requests()

    async def main() -> list[Any]:
        async with httpx.AsyncClient(auth=auth, **PLAIN) as client:
            url = server.userinfo_url
            tasks = [asyncio.create_task(client.get(url)) for _ in range(20)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, *rest = asyncio.run(main())
    assert isinstance(first, asyncio.CancelledError)
    assert [answer.status_code for answer in rest] == [200] * 19
    assert server.token_requests() - before == 1


# -- devices


def device_flow(way: Way, server: AuthorizationServer) -> Any:
    """Return the flow of a device without a browser."""
    return way.oauth2.DeviceFlow(
        device_authorization_url=server.device_authorization_url,
        token_url=server.token_url,
        **credentials(server, "native"),
        **USER,
    )


def sleeper(way: Way, *steps: Callable[[], None]) -> tuple[Any, list[float]]:
    """Return a sleep that takes no time and does one step a time, and what it slept."""
    slept: list[float] = []
    left = list(steps)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if left:
            left.pop(0)()

    async def asleep(seconds: float) -> None:
        sleep(seconds)

    return (sleep if way.kind == "sync" else asleep), slept


@pytest.mark.parametrize("agree", [True, False])
def test_a_device(server: AuthorizationServer, way: Way, agree: bool) -> None:
    """The device polls every 5 s, which is what a server means that says nothing,
    until its user has answered on another one.
    """
    flow = device_flow(way, server)
    asked = way.call(flow, "start")
    assert asked.verification_uri == f"{server.issuer}/device"
    assert asked.user_code in asked.verification_uri_complete
    assert asked.device_code not in repr(asked)
    before = server.token_requests()
    sleep, slept = sleeper(
        way,
        lambda: None,
        lambda: None,
        lambda: server.enter(asked.user_code, agree=agree),
    )
    if agree:
        token = way.call(flow, "poll", asked, sleep=sleep)
        auth = renewing(way, server, token=token)
        assert way.get(server.userinfo_url, auth)[0].json() == {"sub": "ada"}
    else:
        error = refused(way, flow, "poll", asked, sleep=sleep)
        assert error.error == "access_denied"
    assert slept == [5, 5, 5]
    assert server.token_requests() - before == 3


# -- revocation


@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token"])
def test_revocation(server: AuthorizationServer, way: Way, hint: str | None) -> None:
    """A revoked token is no longer active; once more, or unknown, it is no error."""
    token = way.call(machine(way, server, "cc"), "get_token").access_token
    known = credentials(server, "cc") | {"revocation_url": server.revocation_url}
    assert server.introspect(token)["active"]
    for text in (token, token, "unknown"):
        way.call(way.oauth2, "revoke", text, token_type_hint=hint, **known)
    assert server.introspect(token) == {"active": False}


def test_a_jwt_cannot_be_revoked(server: AuthorizationServer, way: Way) -> None:
    """A server that does not revoke tokens of a kind says so, and so do we."""
    auth = machine(way, server, "cc", extra={"resource": server.resource})
    token = way.call(auth, "get_token").access_token
    known = credentials(server, "cc") | {"revocation_url": server.revocation_url}
    error = refused(way, way.oauth2, "revoke", token, **known)
    assert (error.error, error.status) == ("unsupported_token_type", 400)
    assert token not in str(error)


# -- tokens at an API


def guarded(verify: Any, **options: Any) -> Any:
    """Return an API behind our guard, that says who called."""
    api = FastAPI()

    @api.get("/")
    async def who(request: Request) -> dict[str, Any]:
        claims = request.state.claims
        return {"client": claims["client_id"], "scope": claims["scope"]}

    return BearerGuard(api, verify, **options)


def resource(server: AuthorizationServer, alg: str) -> str:
    """Return the resource whose access tokens are signed by an algorithm."""
    return next(name for name, its in server.resources.items() if its == alg)


def verifier(
    server: AuthorizationServer, alg: str = "RS256", **options: Any
) -> JwtVerifier:
    """Return what judges the access tokens for the resource of an algorithm."""
    settings: dict[str, Any] = {
        "audience": resource(server, alg),
        "algorithms": [alg],
        "typ": "at+jwt",
        "required": ("sub", "client_id", "iat", "jti"),
    }
    keys = JwksCache(server.jwks_uri)
    return JwtVerifier(server.issuer, jwks=keys, **settings | options)


def challenge(answer: Any) -> dict[str, str]:
    """Return the parameters of an answer's one challenge."""
    scheme, _, fields = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    pairs = [field.split("=", 1) for field in fields.split(", ")]
    return {name: value.strip('"') for name, value in pairs}


@pytest.mark.parametrize("alg", ["RS256", "ES256", "Ed25519"])
def test_a_token_serves_at_the_api(
    server: AuthorizationServer,
    serve: Callable[[Any], str],
    way: Way,
    alg: str,
) -> None:
    """A token that the server signed opens the API it is for, by the server's keys."""
    judge = verifier(server, alg)
    url = serve(guarded(judge.averify, scope="read"))
    extra = {"resource": resource(server, alg)}
    auth = machine(way, server, "cc", scope="read", extra=extra)
    before = server.token_requests()
    answers = way.get(url, auth, count=30)
    assert [answer.status_code for answer in answers] == [200] * 30
    assert answers[0].json() == {"client": "cc", "scope": "read"}
    assert server.token_requests() - before == 1
    claims = judge.verify(auth.token.access_token)  # blocking, by keys that are kept
    assert claims["aud"] == extra["resource"]


@pytest.mark.parametrize(
    "options",
    [
        {"clock": lambda: time.time() + 3600},
        {"audience": "https://other.test/"},
        {"algorithms": ["ES256"]},
    ],
    ids=["expired", "audience", "algorithm"],
)
def test_a_token_that_the_api_refuses(
    server: AuthorizationServer,
    serve: Callable[[Any], str],
    way: Way,
    options: dict[str, Any],
) -> None:
    """A 401 for a fresh token is handed out; a held one is replaced, and no more."""
    url = serve(guarded(verifier(server, **options).averify))
    auth = machine(way, server, "cc", extra={"resource": server.resource})
    for asked in (1, 1):
        before = server.token_requests()
        (answer,) = way.get(url, auth)
        assert answer.status_code == 401
        assert challenge(answer)["error"] == "invalid_token"
        assert server.token_requests() - before == asked


def test_a_scope_that_is_missing(
    server: AuthorizationServer, serve: Callable[[Any], str], way: Way
) -> None:
    """A 403 says which scope is wanted, and no new token is asked for."""
    url = serve(guarded(verifier(server).averify, scope="write"))
    extra = {"resource": server.resource}
    auth = machine(way, server, "cc", scope="read", extra=extra)
    way.call(auth, "get_token")
    before = server.token_requests()
    (answer,) = way.get(url, auth)
    assert answer.status_code == 403
    found = challenge(answer)
    assert (found["error"], found["scope"]) == ("insufficient_scope", "write")
    assert server.token_requests() == before


class InactiveError(Exception):
    """The authorization server does not know a token."""

    reason = "inactive"


def test_an_opaque_token_is_introspected(
    server: AuthorizationServer, serve: Callable[[Any], str], way: Way
) -> None:
    """A guard may ask the server; a token revoked under a client is replaced."""

    async def verify(token: str) -> dict[str, Any]:
        said = await asyncio.to_thread(server.introspect, token)
        if not said["active"]:
            raise InactiveError
        return said

    url = serve(guarded(verify, scope="read"))
    auth = machine(way, server, "cc", scope="read")
    assert way.get(url, auth)[0].status_code == 200
    held = auth.token.access_token
    known = credentials(server, "cc") | {"revocation_url": server.revocation_url}
    way.call(way.oauth2, "revoke", held, **known)
    before = server.token_requests()
    bare = way.get(url, way.http.Auth())[0]
    assert (bare.status_code, "error" in challenge(bare)) == (401, False)
    assert way.get(url, auth)[0].status_code == 200
    assert server.token_requests() - before == 1
    assert auth.token.access_token != held


def test_no_thread_is_left_over(server: AuthorizationServer) -> None:
    """Async use starts no thread."""
    way = Way("httpx", "async")
    before = threading.active_count()

    async def main() -> SimpleNamespace:
        token = await machine(way, server, "cc").aget_token()
        return SimpleNamespace(token=token, threads=threading.active_count())

    assert asyncio.run(main()).threads == before
