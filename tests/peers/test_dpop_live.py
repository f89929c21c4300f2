"""Proofs of possession over real connections: by other people's servers and clients.

Tokens come from oidc-provider, a certified authorization server, which binds them to
our keys and wants nonces. They are used at an API of our own, behind our guard and
verifier, by our transport and by oauth4webapi, somebody else's client.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from authorization_server import PLAIN, AuthorizationServer
from over import over

from patterns.auth import dpop, oauth2
from patterns.auth.bearer_guard import BearerGuard
from patterns.auth.dpop_verifier import DpopNonces, DpopVerifier
from patterns.auth.jwt_verifier import JwksCache, JwtVerifier

OAUTH4WEBAPI = "oauth4webapi@3.8.8"
REDIRECT = "http://127.0.0.1:5555/callback"


class Caller:
    """A client of one httpx package and kind, whose requests are proved by a key.

    `sent` has the requests as they went out.
    """

    def __init__(self, package: str, kind: str) -> None:
        self.http: Any = importlib.import_module(package)
        self.dpop: Any = over(dpop, package)
        self.oauth2: Any = over(oauth2, package)
        self.kind, self.sent = kind, []  # type: tuple[str, list[Any]]

    def client(self, key: Any, server: AuthorizationServer, **options: Any) -> Any:
        """Return a client whose transport proves with a key."""
        is_sync = self.kind == "sync"
        below = self.http.HTTPTransport if is_sync else self.http.AsyncHTTPTransport
        wire: Any = below(verify=False)
        name = "handle_request" if is_sync else "handle_async_request"
        send = getattr(wire, name)

        def note(request: Any) -> Any:
            self.sent.append(request)
            return send(request)

        setattr(wire, name, note)
        urls = [server.token_url, server.par_url]
        transport = self.dpop.DpopTransport(wire, key, token_urls=urls)
        kinds = self.http.Client if is_sync else self.http.AsyncClient
        return kinds(transport=transport, trust_env=False, timeout=30, **options)

    def run(
        self, key: Any, server: AuthorizationServer, auth: Any, *calls: dict[str, Any]
    ) -> list[Any]:
        """Return the answers to calls, with a token that a flow gets."""
        if self.kind == "sync":
            with self.client(key, server) as asking, self.client(key, server) as client:
                client.auth = auth(asking)
                return [client.request(**call) for call in calls]

        async def main() -> list[Any]:
            async with (
                self.client(key, server) as asking,
                self.client(key, server) as client,
            ):
                client.auth = auth(asking)
                return [await client.request(**call) for call in calls]

        return asyncio.run(main())


@pytest.fixture(
    params=[
        pytest.param((package, kind), id=f"{package}-{kind}")
        for package in ("httpx", "httpx2")
        for kind in ("sync", "async")
    ]
)
def caller(request: pytest.FixtureRequest) -> Caller:
    """Return each of the four callers in turn."""
    return Caller(*request.param)


def credentials(server: AuthorizationServer, caller: Any, **more: Any) -> Any:
    """Return what makes the flow of the client `dpop`, for a client that asks."""
    known = server.clients["dpop"]
    settings = {
        "token_url": server.token_url,
        "client_id": known.client_id,
        "client_secret": known.client_secret,
        "token_types": ("Bearer", "DPoP"),
        "extra": {"resource": server.resource},
        **more,
    }
    return lambda client: caller.oauth2.ClientCredentials(client=client, **settings)


def claims_of(token: str) -> dict[str, Any]:
    """Return what a JWT says, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "==="))
    return found


def told(request: Any) -> dict[str, Any]:
    """Return what the proof of a request says."""
    return claims_of(request.headers["dpop"])


def bound_token(server: AuthorizationServer, key: dpop.DpopKey, **more: Any) -> str:
    """Return a token of oidc-provider that is bound to a key."""
    caller = Caller("httpx", "sync")
    with caller.client(key, server) as client:
        flow = credentials(server, caller, **more)(client)
        token: str = flow.get_token().access_token
    return token


@pytest.fixture
def nonces() -> DpopNonces:
    """Return the nonces of the API."""
    return DpopNonces(b"0123456789abcdef0123456789abcdef")


@pytest.fixture
def api(
    authorization_server: AuthorizationServer,
    serve: Callable[[Any], str],
    nonces: DpopNonces,
) -> str:
    """Return the address of an API for tokens that are bound, with nonces required."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps(dict(scope["state"]["claims"])).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def verify(token: str) -> Any:
        async with httpx.AsyncClient(**PLAIN) as client:
            keys = JwksCache(authorization_server.jwks_uri, client)
            issuer, audience = (
                authorization_server.issuer,
                authorization_server.resource,
            )
            return await JwtVerifier(issuer, audience, keys).averify(token)

    verifier = DpopVerifier(nonces=nonces)
    proof = verifier.check_scope
    return serve(BearerGuard(app, verify, proof=proof, algs=verifier.algorithms))


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519", "EdDSA"])
def test_tokens_bound_to_each_kind_of_key(
    authorization_server: AuthorizationServer, algorithm: str
) -> None:
    """oidc-provider takes our proofs, and binds a token to the key we mean."""
    key = dpop.DpopKey.generate(algorithm)
    token = bound_token(authorization_server, key)
    assert claims_of(token)["cnf"] == {"jkt": key.thumbprint}
    opaque = bound_token(authorization_server, key, extra=None)
    assert authorization_server.introspect(opaque)["cnf"] == {"jkt": key.thumbprint}


def test_two_services_with_nonces(
    authorization_server: AuthorizationServer, api: str, caller: Caller
) -> None:
    """The first nonce of each server costs one request, and no later one does."""
    key = caller.dpop.DpopKey.generate()
    auth = credentials(authorization_server, caller)
    before = authorization_server.token_requests()
    calls = [{"method": "GET", "url": f"{api}/things?id={n}"} for n in range(3)]
    answers = caller.run(key, authorization_server, auth, *calls)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json()["cnf"] == {"jkt": key.thumbprint}
    assert authorization_server.token_requests() - before == 2
    proofs = [told(request) for request in caller.sent]
    assert ["nonce" in proof for proof in proofs] == [False, True, False] + [True] * 3
    assert ["ath" in proof for proof in proofs] == [False, False] + [True] * 4
    assert {proof["htu"] for proof in proofs[2:]} == {f"{api}/things"}
    assert len({proof["jti"] for proof in proofs}) == 6


def test_tokens_of_a_person(
    authorization_server: AuthorizationServer, caller: Caller
) -> None:
    """A public client's refresh token is bound too: another key cannot use it."""
    server, key = authorization_server, caller.dpop.DpopKey.generate()
    code = {"response_type": "code", "client_id": "native-dpop", "scope": "openid"}
    code |= {"redirect_uri": REDIRECT, "dpop_jkt": key.thumbprint, "state": "s"}
    code |= {"code_challenge_method": "S256", "prompt": "consent"}
    code["scope"] += " offline_access"
    code["code_challenge"] = oauth2.pkce_challenge("v" * 43)
    place = server.sign_in(str(httpx.URL(server.authorization_url, params=code)))
    form = {"grant_type": "authorization_code", "client_id": "native-dpop"}
    form |= {"redirect_uri": REDIRECT, "code_verifier": "v" * 43}
    form["code"] = httpx.URL(place).params["code"]
    asking = {"method": "POST", "url": server.token_url, "data": form}
    (answer,) = caller.run(key, server, lambda client: None, asking)
    given = answer.raise_for_status().json()
    assert given["token_type"] == "DPoP"

    known = {"token_url": server.token_url, "client_id": "native-dpop"}
    known |= {"client_auth": "none", "token_types": ("Bearer", "DPoP")}
    known["refresh_token"] = given["refresh_token"]

    def auth(client: Any) -> Any:
        return caller.oauth2.RefreshToken(client=client, **known)

    me = {"method": "GET", "url": server.userinfo_url}
    thief = caller.dpop.DpopKey.generate()
    with pytest.raises(caller.oauth2.OAuth2Error) as caught:
        caller.run(thief, server, auth, me)
    assert caught.value.error == "invalid_grant"
    (answer,) = caller.run(key, server, auth, me)
    assert answer.json() == {"sub": "ada"}


def test_a_stolen_token(authorization_server: AuthorizationServer, api: str) -> None:
    """A token is of no use without its key, nor is a request that was seen."""
    caller, key = Caller("httpx", "sync"), dpop.DpopKey.generate()
    token = bound_token(authorization_server, key)
    bound = {"Authorization": f"DPoP {token}"}
    with caller.client(key, authorization_server) as client:
        assert client.get(f"{api}/things", headers=bound).status_code == 200
    seen = caller.sent[-1]
    nonce = told(seen)["nonce"]

    def refused(method: str, path: str, headers: Any) -> str:
        answer = httpx.request(method, f"{api}{path}", headers=headers, **PLAIN)
        assert answer.status_code == 401
        return str(answer.json()["error"])

    wanted = "invalid_dpop_proof"
    replay = {**bound, "DPoP": seen.headers["dpop"]}
    assert refused("GET", "/things", replay) == wanted
    assert refused("GET", "/others", replay) == wanted
    assert refused("POST", "/things", replay) == wanted
    assert refused("GET", "/things", bound) == wanted
    bearer = {"Authorization": f"Bearer {token}"}
    assert refused("GET", "/things", bearer) == "invalid_token"
    url = f"{api}/things"
    own = {"access_token": token, "nonce": nonce}
    other = dpop.DpopKey.generate().proof("GET", url, **own)
    assert refused("GET", "/things", {**bound, "DPoP": other}) == "invalid_token"
    stale = key.proof("GET", url, access_token=token, nonce="x")
    assert refused("GET", "/things", {**bound, "DPoP": stale}) == "use_dpop_nonce"
    good = key.proof("GET", url, **own)
    answer = httpx.get(url, headers={**bound, "DPoP": good}, **PLAIN)
    assert answer.status_code == 200
    twice = [("DPoP", key.proof("GET", url, **own)) for _ in range(2)]
    assert refused("GET", "/things", [*bound.items(), *twice]) == wanted


def test_a_client_with_a_key(authorization_server: AuthorizationServer) -> None:
    """A client that signs its own assertions gets bound tokens as well."""
    server, caller = authorization_server, Caller("httpx", "sync")
    known = server.clients["cc-pkjwt"]
    method = oauth2.private_key_jwt(
        known.client_id, known.private_key or {}, audience=server.issuer
    )
    key = dpop.DpopKey.generate()
    settings = {"client_auth": method, "extra": {"resource": server.resource}}
    settings |= {"client_id": known.client_id, "token_url": server.token_url}
    with caller.client(key, server) as client:
        flow = oauth2.ClientCredentials(
            client=client, token_types=("Bearer", "DPoP"), **settings
        )
        token = flow.get_token()
    assert token.token_type == "DPoP"
    assert claims_of(token.access_token)["cnf"] == {"jkt": key.thumbprint}


SCRIPT = """
const [folder, algorithm] = process.argv.slice(1);
const o = await import(`${folder}/node_modules/oauth4webapi/build/index.js`);
const keys = await o.generateKeyPair(algorithm, { extractable: true });
const client = { client_id: "dpop", [o.clockSkew]: 0 };
const DPoP = o.DPoP(client, keys);
const said = { thumbprint: await DPoP.calculateThumbprint() };
const { createInterface } = await import("node:readline");
for await (const line of createInterface(process.stdin)) {
  const call = JSON.parse(line);
  const send = async () => {
    try {
      const answer = await o.protectedResourceRequest(
        call.token, call.method, new URL(call.url), undefined, undefined,
        { DPoP, [o.allowInsecureRequests]: true },
      );
      return answer.status;
    } catch (error) {
      if (o.isDPoPNonceError(error)) return "nonce";
      throw error;
    }
  };
  if (call.token === undefined) console.log(JSON.stringify(said));
  else console.log(JSON.stringify([await send(), await send()]));
}
"""


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519"])
def test_somebody_elses_client(
    serve: Callable[[Any], str],
    nonces: DpopNonces,
    node: str,
    npm_package: Callable[..., Path],
    algorithm: str,
) -> None:
    """oauth4webapi, a certified client, is understood by our verifier, and it by us."""
    folder = npm_package(OAUTH4WEBAPI)
    words = [node, "--input-type=module", "-e", SCRIPT, "--", str(folder), algorithm]
    bound: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    verifier = DpopVerifier(nonces=nonces)
    proof = verifier.check_scope
    url = serve(BearerGuard(app, lambda token: bound, proof=proof))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        told_to: Any = process.stdin
        told_by: Any = process.stdout

        def ask(**call: Any) -> Any:
            print(json.dumps(call), file=told_to, flush=True)
            return json.loads(told_by.readline())

        bound["cnf"] = {"jkt": ask()["thumbprint"]}
        call = {"method": "GET", "url": f"{url}/a%20b/ü?c=d", "token": "the-token"}
        assert ask(**call) == ["nonce", 200]
        assert ask(**call | {"method": "POST", "url": url}) == [200, 200]
        told_to.close()
    assert process.returncode == 0
