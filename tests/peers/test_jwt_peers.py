"""JWTs of other people's packages, and key sets of a real server.

What PyJWT and joserfc sign we verify, and read as they do. Where they, or authlib,
accept or crash on what a stranger can send, ours stands beside them; those tests state
what was seen of one release.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from claims import state
from joserfc import jwt as joserfc_jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from over import over

from patterns.auth import jwt_verifier
from patterns.auth.jwt_verifier import InvalidToken, JwksCache, JwtVerifier

with warnings.catch_warnings(record=True):  # it says that joserfc follows it
    from authlib.jose import JsonWebKey, JsonWebToken
    from authlib.jose.errors import JoseError as AuthlibError

ISSUER, AUDIENCE = "https://issuer.test", "https://api.test"
CURVES: dict[str, Any] = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
RSA = RSAKey.generate_key(2048, {"kid": "RSA"})
VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def made(alg: str) -> Any:
    """Return a key for an algorithm, named by it."""
    more: Any = {"kid": alg}
    if alg.startswith("HS"):
        return OctKey.generate_key(512, more)
    if alg in CURVES:
        return ECKey.generate_key(CURVES[alg], more)
    if alg.startswith("Ed"):
        return OKPKey.generate_key("Ed25519", more)
    return RSAKey.import_key({**RSA.as_dict(private=True), "kid": alg})


ALGORITHMS = [
    f"{kind}{n}" for kind in ("HS", "RS", "PS", "ES") for n in (256, 384, 512)
]
KEYS = {alg: made(alg) for alg in [*ALGORITHMS, "EdDSA", "Ed25519"]}


def claims(**more: Any) -> dict[str, Any]:
    """Return good claims of this moment; theirs take no other."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "exp": now + 86_400,
    }
    return {**good, **more}


def ours(alg: str, *keys: Any, **options: Any) -> JwtVerifier:
    """Return our verifier of these keys, or of the one for the algorithm."""
    jwks = {"keys": [key.as_dict(private=False) for key in keys or [KEYS[alg]]]}
    return JwtVerifier(ISSUER, AUDIENCE, jwks, algorithms=[alg], **options)


def b64(raw: bytes) -> str:
    """Return base64url."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forged(header: bytes | None = None, payload: bytes | None = None) -> str:
    """Return a token under ES256 whose signature is genuine, whatever it says."""
    header = header or json.dumps({"alg": "ES256", "kid": "ES256"}).encode()
    payload = json.dumps(claims()).encode() if payload is None else payload
    message = f"{b64(header)}.{b64(payload)}"
    model = JWSRegistry(algorithms=["ES256"]).get_alg("ES256")
    return f"{message}.{b64(model.sign(message.encode(), KEYS['ES256']))}"


# --- three readers, each as strict as its manual makes it


def by_pyjwt(token: Any, key: Any = KEYS["ES256"], alg: str = "ES256") -> Any:
    """Verify with PyJWT."""
    return jwt.decode(
        token,
        jwt.PyJWK(key.as_dict(private=False), algorithm=alg),
        algorithms=[alg],
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=10,
        options={"require": ["exp", "iss", "aud"]},
    )


def by_joserfc(token: Any, key: Any = KEYS["ES256"], alg: str = "ES256") -> Any:
    """Verify with joserfc."""
    registry = joserfc_jwt.JWTClaimsRegistry(
        leeway=10,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name EdDSA
        found = joserfc_jwt.decode(token, key, algorithms=[alg])
    registry.validate(found.claims)
    return found.claims


def by_authlib(token: Any, key: Any = KEYS["ES256"], alg: str = "ES256") -> Any:
    """Verify with authlib's own JOSE."""
    options = {
        "iss": {"essential": True, "value": ISSUER},
        "aud": {"essential": True, "value": AUDIENCE},
        "exp": {"essential": True},
    }
    public = JsonWebKey.import_key(key.as_dict(private=False))
    found = JsonWebToken([alg]).decode(token, public, claims_options=options)
    found.validate(leeway=10)
    return dict(found)


PEERS: dict[str, tuple[Callable[..., Any], type[Exception]]] = {
    "PyJWT 2.15.1": (by_pyjwt, jwt.PyJWTError),
    "joserfc 1.8.0": (by_joserfc, JoseError),
    "authlib 1.9.10": (by_authlib, AuthlibError),
}


def outcome(peer: str, token: Any) -> str:
    """Return `accepted`, `refused`, or the name of an error that is not its own."""
    read, error = PEERS[peer]
    try:
        read(token)
    except error:
        return "refused"
    except Exception as exc:
        return type(exc).__name__
    return "accepted"


def refusal(token: Any, alg: str = "ES256") -> str:
    """Return our reason."""
    with pytest.raises(InvalidToken) as caught:
        ours(alg).verify(token)
    return caught.value.reason


# --- what they sign, and what we make of it


@pytest.mark.parametrize("alg", [*ALGORITHMS, "EdDSA"])
def test_what_pyjwt_signs(alg: str) -> None:
    """A token of PyJWT's, of any algorithm, has for us the claims it has for PyJWT."""
    key, good = KEYS[alg], claims(aud=["other", AUDIENCE], nbf=1.5)
    pair: Any = jwt.PyJWK(key.as_dict(private=True), algorithm=alg).key
    token = jwt.encode(good, pair, algorithm=alg, headers={"kid": alg})
    assert ours(alg).verify(token) == by_pyjwt(token, key, alg) == good


@pytest.mark.parametrize("alg", [*ALGORITHMS, "EdDSA", "Ed25519"])
def test_what_joserfc_signs(alg: str) -> None:
    """So has one of joserfc's, and PyJWT reads the same, but for the newest name."""
    key, good = KEYS[alg], claims(scope="read")
    header = {"alg": alg, "kid": alg, "typ": "at+jwt"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = joserfc_jwt.encode(header, good, key, algorithms=[alg])
    assert ours(alg, typ="at+jwt").verify(token) == by_joserfc(token, key, alg) == good
    if alg != "Ed25519":
        assert by_pyjwt(token, key, alg) == good


@pytest.mark.parametrize("alg", [*ALGORITHMS, "EdDSA"])
def test_what_all_refuse(alg: str) -> None:
    """A token by another key, for others, of others or expired is refused by all."""
    key = KEYS[alg]
    other = made(alg) if not alg.startswith(("RS", "PS")) else None
    changes: list[dict[str, Any]] = [{"exp": 1}, {"aud": "x"}, {"iss": "x"}]
    pair: Any = jwt.PyJWK(key.as_dict(private=True), algorithm=alg).key
    tokens = [jwt.encode(claims(**change), pair, algorithm=alg) for change in changes]
    if other:
        pair = jwt.PyJWK(other.as_dict(private=True), algorithm=alg).key
        tokens.append(jwt.encode(claims(), pair, algorithm=alg))
    for token in tokens:
        with pytest.raises(InvalidToken):
            ours(alg).verify(token)
        with pytest.raises(jwt.PyJWTError):
            by_pyjwt(token, key, alg)
        with pytest.raises(JoseError):
            by_joserfc(token, key, alg)


def test_thumbprint() -> None:
    """joserfc names the key of RFC 7638 as the RFC does."""
    vector = json.loads((VECTORS / "jose_rfc.json").read_text("utf-8"))["rfc7638_3_1"]
    assert RSAKey.import_key(vector["jwk"]).thumbprint() == vector["thumbprint_s256"]


# --- what they make of what a stranger, or a careless issuer, sends

TEXT = json.dumps(claims())
EXP = str(claims()["exp"])


def header(**more: Any) -> bytes:
    """Return a header under ES256."""
    return json.dumps({"alg": "ES256", "kid": "ES256", **more}).encode()


def dated(value: str) -> str:
    """Return a token with this text as its `exp`."""
    return forged(None, TEXT.replace(EXP, value).encode())


def with_claims(**more: Any) -> str:
    """Return a token with other claims."""
    return forged(None, json.dumps(claims(**more)).encode())


ACCEPTED = {
    "exp as text": (dated(f'"{EXP}"'), "PyJWT 2.15.1"),
    "nbf of true": (with_claims(nbf=True), "PyJWT 2.15.1"),
    "payload with BOM": (forged(None, b"\xef\xbb\xbf" + TEXT.encode()), "PyJWT 2.15.1"),
    "payload in UTF-16": (forged(None, TEXT.encode("utf-16")), "PyJWT 2.15.1"),
    "BOM, joserfc": (forged(None, b"\xef\xbb\xbf" + TEXT.encode()), "joserfc 1.8.0"),
    "UTF-16, joserfc": (forged(None, TEXT.encode("utf-16")), "joserfc 1.8.0"),
    "empty crit": (forged(header(crit=[])), "joserfc 1.8.0"),
    "exp of NaN": (dated("NaN"), "authlib 1.9.10"),
    "exp of Infinity": (dated("Infinity"), "authlib 1.9.10"),
    "exp of 1e999": (dated("1e999"), "authlib 1.9.10"),
    "sub of a number": (with_claims(sub=5), "authlib 1.9.10"),
    "typ of a number": (forged(header(typ=5)), "PyJWT 2.15.1"),
    "kid of a list": (forged(header(kid=[1])), "authlib 1.9.10"),
}
TWICE = forged(None, TEXT.replace("{", '{"sub": "eve", ', 1).encode())
ACCEPTED |= {f"claim twice, {peer.split()[0]}": (TWICE, peer) for peer in PEERS}


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_a_peer_accepts(case: str) -> None:
    """A peer believes it, and we do not."""
    token, peer = ACCEPTED[case]
    reason = refusal(token)
    assert reason in ("payload", "bad_claim", "crit", "malformed")
    seen = outcome(peer, token)
    state(seen == "accepted", peer, f"accepts a token with {case} ({reason} here)")


CRASHES = {
    "crit of a number": (forged(header(crit=5)), "joserfc 1.8.0", "TypeError"),
    "no token": (None, "joserfc 1.8.0", "TypeError"),
    "alg of a list": (forged(header(alg=["ES256"])), "authlib 1.9.10", "TypeError"),
    "nesting": (
        forged(None, b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "authlib 1.9.10",
        "ValueError",
    ),
}
HALF = forged().replace(".", ".\ud800", 1)
CRASHES |= {
    f"half a pair, {peer.split()[0]}": (HALF, peer, "UnicodeEncodeError")
    for peer in ("PyJWT 2.15.1", "joserfc 1.8.0")
}


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("case", CRASHES)
def test_what_a_peer_crashes_on(case: str) -> None:
    """A peer raises what `except` its own error lets through, and we do not."""
    token, peer, error = CRASHES[case]
    assert refusal(token) in ("malformed", "payload", "crit", "alg", "too_large")
    seen = outcome(peer, token)
    state(seen == error, peer, f"raises {error} for {case}")


@pytest.mark.peer_behaviour
def test_keys_for_something_else() -> None:
    """PyJWT verifies by a key that is for encryption."""
    token = joserfc_jwt.encode({"alg": "ES256"}, claims(), KEYS["ES256"])
    jwk = {**KEYS["ES256"].as_dict(private=False), "use": "enc", "key_ops": ["encrypt"]}
    case = JwtVerifier(ISSUER, AUDIENCE, {"keys": [jwk]}, algorithms=["ES256"])
    with pytest.raises(InvalidToken, match="no key"):
        case.verify(token)
    found = jwt.decode(
        token, jwt.PyJWK(jwk), algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER
    )
    state(found["sub"] == "ann", "PyJWT 2.15.1", "does not look at use and key_ops")


@pytest.mark.peer_behaviour
def test_headers_that_joserfc_refuses() -> None:
    """joserfc refuses a header with a parameter of its own, as Entra's tokens have."""
    token = forged(header(nonce="x"))
    assert ours("ES256").verify(token)["sub"] == "ann"
    state(
        outcome("joserfc 1.8.0", token) == "refused",
        "joserfc 1.8.0",
        "refuses parameters that it does not know, against RFC 7515 §4",
    )


@pytest.mark.peer_behaviour
def test_a_newer_name() -> None:
    """PyJWT does not know the name that RFC 9864 gives to what it calls EdDSA."""
    good = claims()
    token = joserfc_jwt.encode(
        {"alg": "Ed25519", "kid": "EdDSA"}, good, KEYS["EdDSA"], algorithms=["Ed25519"]
    )
    assert ours("EdDSA").verify(token) == good
    with pytest.raises(Exception) as caught:  # noqa: PT011, whatever it is
        by_pyjwt(token, KEYS["EdDSA"], "EdDSA")
    state(bool(caught), "PyJWT 2.15.1", "does not know Ed25519")


# --- key sets of a real server


class Issuer:
    """An ASGI app with a key set, which counts, and waits where it is told to."""

    def __init__(self, *names: str) -> None:
        self.names, self.status, self.fetches = [*names], 200, 0
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.fetches += 1
        keys = [KEYS[name].as_dict(private=False) for name in self.names]
        status = self.status
        self.arrived.set()
        while not self.go_on.is_set():  # noqa: ASYNC110, since threads set it
            await asyncio.sleep(0.005)
        body = json.dumps({"keys": keys}).encode()
        headers = [(b"content-type", b"application/json")]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    def hold(self) -> None:
        """Let the next fetch wait."""
        self.arrived.clear()
        self.go_on.clear()


def signed(name: str, kid: str | None = None) -> str:
    """Return a good token by a key, which may claim to be by another."""
    header = {"alg": "ES256", "kid": kid or name}
    return joserfc_jwt.encode(header, claims(), KEYS[name])


KEYS |= {name: ECKey.generate_key("P-256", {"kid": name}) for name in ("old", "new")}
both = pytest.mark.parametrize("package", ["httpx", "httpx2"])


def remote(module: Any, cache: Any) -> Any:
    """Return a verifier over a cache."""
    return module.JwtVerifier(ISSUER, AUDIENCE, cache, algorithms=["ES256"])


@both
def test_200_threads_make_one_fetch(serve: Callable[[Any], str], package: str) -> None:
    """A cold start of 200 threads is one fetch, and so is a rotation."""
    module, issuer = over(jwt_verifier, package), Issuer("old")
    url = serve(issuer) + "/jwks"
    http: Any = importlib.import_module(package)
    with http.Client(trust_env=False) as client, ThreadPoolExecutor(200) as pool:
        case = remote(module, module.JwksCache(url, client))
        token = signed("old")
        assert all(pool.map(lambda _: case.verify(token)["sub"] == "ann", range(200)))
        assert issuer.fetches == 1
        issuer.names = ["old", "new"]
        token = signed("new")
        assert all(pool.map(lambda _: case.verify(token)["sub"] == "ann", range(200)))
    assert issuer.fetches == 2


@both
def test_200_tasks_make_one_fetch(serve: Callable[[Any], str], package: str) -> None:
    """So it is with tasks."""
    module, issuer = over(jwt_verifier, package), Issuer("old")
    url = serve(issuer) + "/jwks"
    http: Any = importlib.import_module(package)

    async def main() -> None:
        async with http.AsyncClient(trust_env=False) as client:
            case = remote(module, module.JwksCache(url, client))
            for names in (["old"], ["old", "new"]):
                issuer.names, token = names, signed(names[-1])
                await asyncio.gather(*(case.averify(token) for _ in range(200)))

    asyncio.run(main())
    assert issuer.fetches == 2


def test_threads_and_loops_share_a_fetch(serve: Callable[[Any], str]) -> None:
    """Without a client of its own, one cache serves threads and event loops at once."""
    issuer, token = Issuer("old"), signed("old")
    issuer.hold()
    case = remote(jwt_verifier, JwksCache(serve(issuer) + "/jwks"))

    async def tasks() -> list[Any]:
        return await asyncio.gather(*(case.averify(token) for _ in range(20)))

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(3)]
        calls = [pool.submit(case.verify, token) for _ in range(5)]
        assert issuer.arrived.wait(10)
        issuer.go_on.set()
        assert all(len(loop.result(10)) == 20 for loop in loops)
        assert all(call.result(10)["sub"] == "ann" for call in calls)
    assert issuer.fetches == 1


@pytest.mark.peer_behaviour
def test_a_stranger_stalls_nobody(serve: Callable[[Any], str]) -> None:
    """While an unknown kid is asked for, PyJWKClient lets nobody else verify."""
    known, unknown = signed("old"), signed("new", "made up")

    def stalled(issuer: Issuer, verify: Callable[[str], Any], patience: float) -> bool:
        verify(known)
        issuer.hold()
        with ThreadPoolExecutor(2) as pool:
            stranger = pool.submit(verify, unknown)
            assert issuer.arrived.wait(10)
            friend = pool.submit(verify, known)
            try:
                friend.result(patience)
            except TimeoutError:
                return True
            finally:
                issuer.go_on.set()
                assert stranger.exception(10)
            return False

    issuer = Issuer("old")
    with httpx.Client(trust_env=False) as client:
        cache = JwksCache(serve(issuer) + "/jwks", client)
        assert not stalled(issuer, remote(jwt_verifier, cache).verify, 30)
    issuer = Issuer("old")
    theirs = jwt.PyJWKClient(serve(issuer) + "/jwks", cooldown_duration=0)
    state(
        stalled(issuer, lambda token: theirs.get_signing_key_from_jwt(token), 0.5),
        "PyJWT 2.15.1",
        "stalls known keys while it looks for an unknown one",
    )


@pytest.mark.peer_behaviour
def test_an_outage(serve: Callable[[Any], str]) -> None:
    """An issuer that is away is asked once, and known keys serve; PyJWKClient's do not.

    Its cooldown counts from the last fetch that went well, so that each unknown kid of
    an outage is a fetch, and its keys end with their lifetime.
    """
    issuer, now = Issuer("old"), [0.0]
    known, unknown = signed("old"), signed("new", "made up")
    with httpx.Client(trust_env=False) as client:
        cache = JwksCache(serve(issuer) + "/jwks", client, clock=lambda: now[0])
        case = remote(jwt_verifier, cache)
        case.verify(known)
        issuer.status, now[0] = 503, 1000.0
        for _ in range(50):
            assert case.verify(known)["sub"] == "ann"
            with pytest.raises(InvalidToken, match="no key"):
                case.verify(unknown)
        assert issuer.fetches <= 3  # the first, a refresh, and the unknown kid's
    issuer = Issuer("old")
    theirs = jwt.PyJWKClient(
        serve(issuer) + "/jwks", lifespan=0.01, cooldown_duration=0.01
    )
    theirs.get_signing_key_from_jwt(known)
    issuer.status = 503
    threading.Event().wait(0.05)
    failures = 0
    for token in [known] + [unknown] * 20:
        try:
            theirs.get_signing_key_from_jwt(token)
        except jwt.PyJWKClientConnectionError:
            failures += 1
    state(
        failures == 21 and issuer.fetches >= 21,
        "PyJWT 2.15.1",
        "fetches for each unknown kid of an outage, and forgets the known ones",
    )
