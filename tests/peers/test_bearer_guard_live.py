"""The guard before real frameworks, behind a real server, asked by other clients."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fastapi
import httpx
import pytest
from over import over

from patterns.auth import dpop, dpop_verifier, jwt_verifier
from patterns.auth.bearer_guard import BearerGuard

OAUTH4WEBAPI = "oauth4webapi@3.8.8"
SECRET = "s3cret" * 8  # as base64url it is 36 bytes


class Refusal(Exception):
    """The token is none of ours."""

    reason = "signature"


def verify(token: str) -> dict[str, Any]:
    """Return the claims of a token; a thumbprint is a token bound to that key."""
    if token == "good":
        return {"sub": "ann", "scope": "read write"}
    if token == "poor":
        return {"sub": "bob", "scope": "write"}
    if len(token) == 43:
        return {"sub": "eve", "scope": "read", "cnf": {"jkt": token}}
    raise Refusal


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, int]]:
    """Give each request a state that all of them share."""
    yield {"pool": 7}


def fastapi_app() -> Any:
    """Return an app of FastAPI that tells the claims, and what its lifespan has."""

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/v1/items")
    def items(request: fastapi.Request) -> Any:
        return {"sub": request.state.claims["sub"], "pool": request.state.pool}

    return app


def starlette_app() -> Any:
    """Return an app of Starlette that tells the claims, and what its lifespan has."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def items(request: Request) -> JSONResponse:
        state = request.state
        return JSONResponse({"sub": state.claims["sub"], "pool": state.pool})

    return Starlette(routes=[Route("/v1/items", items)], lifespan=lifespan)


class Late:
    """An app whose guard is set once the address of its resource is known."""

    def __init__(self, app: Any) -> None:
        self.app = self.guard = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self.app if scope["type"] == "lifespan" else self.guard
        await app(scope, receive, send)


@pytest.mark.parametrize("make", [fastapi_app, starlette_app])
def test_frameworks_read_the_claims(
    serve: Callable[[Any], str], make: Callable[[], Any]
) -> None:
    """A handler finds the claims where it finds the state of its lifespan."""
    url = serve(BearerGuard(make(), verify, scope="read"))
    with httpx.Client(base_url=url, trust_env=False) as client:
        good = client.get("/v1/items", headers={"Authorization": "bearer good"})
        assert (good.status_code, good.json()) == (200, {"sub": "ann", "pool": 7})
        poor = client.get("/v1/items", headers={"Authorization": "Bearer poor"})
        assert poor.status_code == 403
        none = client.get("/v1/items?access_token=good")
        assert none.headers["www-authenticate"] == 'Bearer realm="api", scope="read"'
        assert none.headers["content-type"] == "application/problem+json"


def raw(url: str, *lines: bytes) -> bytes:
    """Send a request with these lines, and return all that comes."""
    parts = urlsplit(url)
    head = [b"GET /v1/items HTTP/1.1", b"Host: api.test", b"Connection: close"]
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sock:
        sock.sendall(b"\r\n".join([*head, *lines, b"", b""]))
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Authorization: Bearer good"], b"200"),
        ([b"AUTHORIZATION:Bearer   good  "], b"200"),
        ([b"Authorization: Bearer good", b"Authorization: Bearer good"], b"400"),
        ([b"Authorization: Bearer good, Bearer good"], b"400"),
        ([b"Authorization: Bearer \xff\xfe"], b"400"),
        ([b"Authorization: Bearer \xe2\x80\xa8good"], b"400"),
        ([b"Authorization: Bearer\tgood"], b"400"),
        ([b"Authorization: \xff good"], b"401"),
        ([b"Authorization:"], b"401"),
        ([b"Authorization: Bearer " + b"a" * 20000], b"401"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_bytes_over_a_socket(
    serve: Callable[[Any], str], lines: list[bytes], status: bytes
) -> None:
    """Whatever bytes a real server lets through, there is an answer, and no 500."""
    url = serve(BearerGuard(starlette_app(), verify))
    assert raw(url, *lines).split(b" ", 2)[1] == status


def test_a_verifier_of_this_kit(serve: Callable[[Any], str]) -> None:
    """JwtVerifier's refusals are 401, and 503 where it has no keys."""
    from joserfc import jwt
    from joserfc.jwk import OctKey

    jwk = {"kty": "oct", "k": SECRET}
    verifier = jwt_verifier.JwtVerifier(
        "https://as.test", "api", {"keys": [jwk]}, algorithms=["HS256"]
    )
    claims = {"iss": "https://as.test", "aud": "api", "sub": "ann", "scope": "read"}

    def token(**other: Any) -> str:
        said = {**claims, "exp": 4102444800, **other}
        return str(jwt.encode({"alg": "HS256"}, said, OctKey.import_key(jwk)))

    def away(request: Any) -> Any:
        raise httpx.ConnectError("away", request=request)

    url = serve(BearerGuard(fastapi_app(), verifier.averify, scope="read"))
    with httpx.Client(base_url=url, trust_env=False) as client:
        for sent, status in (
            (token(), 200),
            (token(exp=1), 401),
            (token(aud="other"), 401),
            (token(scope=""), 403),
            (token()[:-4] + "AAAA", 401),
        ):
            headers = {"Authorization": f"Bearer {sent}"}
            answer = client.get("/v1/items", headers=headers)
            assert answer.status_code == status
    transport = httpx.MockTransport(away)
    keys = jwt_verifier.JwksCache(
        "https://as.test/jwks", httpx.AsyncClient(transport=transport)
    )
    verifier = jwt_verifier.JwtVerifier(
        "https://as.test", "api", keys, algorithms=["RS256"]
    )
    url = serve(BearerGuard(fastapi_app(), verifier.averify, retry_after=9))
    unknown = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.e30.AAAA"
    with httpx.Client(base_url=url, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {unknown}"}
        answer = client.get("/v1/items", headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
    assert "www-authenticate" not in answer.headers


def proving(app: Any) -> BearerGuard:
    """Return a guard that checks proofs, and wants a nonce of its own in them."""
    nonces = dpop_verifier.DpopNonces(b"n" * 32)
    prover = dpop_verifier.DpopVerifier(nonces=nonces)
    return BearerGuard(
        app, verify, scope="read", proof=prover.check_scope, algs=prover.algorithms
    )


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_dpop_of_this_kit(serve: Callable[[Any], str], package: str) -> None:
    """The transport takes the nonce from the guard's refusal, and then passes."""
    http = __import__(package)
    module = over(dpop, package)
    key = module.DpopKey.generate()
    url = serve(proving(starlette_app()))
    with http.Client(base_url=url, trust_env=False) as client:
        bearer = {"Authorization": f"Bearer {key.thumbprint}"}
        stolen = client.get("/v1/items", headers=bearer)
        assert stolen.status_code == 401
        assert 'error="invalid_token"' in stolen.headers["www-authenticate"]
        bare = client.get("/v1/items", headers={"Authorization": "DPoP x"})
        assert bare.status_code == 401
    transport = module.DpopTransport(http.HTTPTransport(), key)
    with http.Client(base_url=url, transport=transport, trust_env=False) as client:
        bound = {"Authorization": f"DPoP {key.thumbprint}"}
        for _ in "ab":
            answer = client.get("/v1/items?page=2", headers=bound)
            assert (answer.status_code, answer.json()["sub"]) == (200, "eve")


def test_oauth4webapi_reads_it_all(
    serve: Callable[[Any], str], node: str, npm_package: Callable[..., Path]
) -> None:
    """A certified client takes metadata, challenges and nonces as they are meant."""
    folder = npm_package(OAUTH4WEBAPI)
    late = Late(starlette_app())
    resource = f"{serve(late)}/v1"
    prover = dpop_verifier.DpopVerifier(nonces=dpop_verifier.DpopNonces(b"n" * 32))
    late.guard = BearerGuard(
        late.app,
        verify,
        scope="read",
        realm='the "v1" API, by \\Ann',
        resource=resource,
        metadata={"authorization_servers": ["https://as.test"]},
        proof=prover.check_scope,
    )
    script = Path(__file__).with_name("oauth4webapi_resource.mjs")
    done = subprocess.run(
        [node, script, folder, resource], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["metadata"]["resource"] == resource
    assert told["metadata"]["authorization_servers"] == ["https://as.test"]
    well_known = "/.well-known/oauth-protected-resource"
    shared = {
        "realm": 'the "v1" API, by \\Ann',
        "scope": "read",
        "resource_metadata": f"{resource.removesuffix('/v1')}{well_known}/v1",
    }
    for name, status, error in (
        ("invalid", 401, "invalid_token"),
        ("poor", 403, "insufficient_scope"),
        ("stolen", 401, "invalid_token"),
    ):
        assert told[name]["status"] == status
        first, second = told[name]["challenges"]
        assert first["scheme"] == "bearer"
        assert first["parameters"].pop("error") == error
        del first["parameters"]["error_description"]
        assert first["parameters"] == shared
        assert second == {"scheme": "dpop", "parameters": {**shared, "algs": "ES256"}}
    assert told["good"] == {"status": 200, "body": {"sub": "ann", "pool": 7}}
    assert told["bound"]["body"]["sub"] == "eve"
    assert told["again"]["body"]["sub"] == "eve"


def test_websockets_of_starlette() -> None:
    """Refused by the same answer, and with a token a handler finds the claims."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.testclient import TestClient, WebSocketDenialResponse
    from starlette.websockets import WebSocket

    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.claims["sub"])
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/ws", greet)])
    client: Any = TestClient(BearerGuard(app, verify))
    with (
        pytest.raises(WebSocketDenialResponse) as caught,
        client.websocket_connect("/ws"),
    ):
        pass
    refused: Any = caught.value
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="api"'
    assert refused.json()["title"] == "Unauthorized"
    headers = {"Authorization": "Bearer good"}
    with client.websocket_connect("/ws", headers=headers) as socket:
        assert socket.receive_text() == "ann"
