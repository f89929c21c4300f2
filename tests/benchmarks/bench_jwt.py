"""What it costs to verify a JWT, beside the bare signature and what others take."""

from __future__ import annotations

import hmac
import json
import statistics
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from harness import Row, interleave
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from patterns.auth.jwt_verifier import JwtVerifier

with warnings.catch_warnings(record=True):  # it says that joserfc follows it
    from authlib.jose import JsonWebKey, JsonWebToken

ISSUER, AUDIENCE, SUBJECT = "https://issuer.test", "https://api.test", "ann"
REPEAT = {"HS256": 400, "RS256": 200, "ES256": 80, "EdDSA": 60}
PEERS = ("PyJWT", "joserfc", "authlib")


def key(alg: str) -> Any:
    """Return a key for an algorithm."""
    more: Any = {"kid": "1"}
    if alg == "HS256":
        return OctKey.generate_key(256, more)
    if alg == "RS256":
        return RSAKey.generate_key(2048, more)
    return (
        ECKey.generate_key("P-256", more)
        if alg == "ES256"
        else OKPKey.generate_key("Ed25519", more)
    )


def token(pair: Any, alg: str, now: float) -> str:
    """Return an access token as many issuers make them; `alg` is what it says."""
    claims = {
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": SUBJECT,
        "exp": int(now) + 3600,
        "iat": int(now),
        "nbf": int(now),
        "jti": "b9d2f7b0-6f6c-4a0e-8c55-2f0a4d2f9a11",
        "client_id": "s6BhdRkqt3",
        "scope": "openid profile read:orders write:orders",
    }
    header = {"alg": alg, "kid": "1", "typ": "at+jwt"}
    parts = [urlsafe_b64encode(json.dumps(p).encode()) for p in (header, claims)]
    message = b".".join(part.rstrip(b"=") for part in parts)
    name = "Ed25519" if alg == "EdDSA" else alg
    signature = JWSRegistry(algorithms=[name]).get_alg(name).sign(message, pair)
    return f"{message.decode()}.{urlsafe_b64encode(signature).decode().rstrip('=')}"


def bare(pair: Any, alg: str, text: str) -> Callable[[], str]:
    """Return a case that verifies the signature, decoded before, and nothing else."""
    message = text.rpartition(".")[0].encode()
    name = "Ed25519" if alg == "EdDSA" else alg
    signature = JWSRegistry(algorithms=[name]).get_alg(name).sign(message, pair)
    public, more = pair.public_key, ()
    if alg == "HS256":
        secret: bytes = pair.raw_value

        def mac() -> str:
            good = hmac.digest(secret, message, "sha256")
            return SUBJECT if hmac.compare_digest(good, signature) else ""

        return mac
    if alg == "RS256":
        more = padding.PKCS1v15(), hashes.SHA256()
    if alg == "ES256":
        half = len(signature) // 2
        numbers = [int.from_bytes(n) for n in (signature[:half], signature[half:])]
        signature, more = encode_dss_signature(*numbers), (ec.ECDSA(hashes.SHA256()),)

    def case() -> str:
        public.verify(signature, message, *more)
        return SUBJECT

    return case


def others(pair: Any, alg: str, text: str, own: str) -> dict[str, Callable[[], str]]:
    """Return how the peers verify the token, with as many of our checks as they have.

    Their keys are imported before. joserfc warns of the name EdDSA each time, and gets
    a token that says Ed25519.
    """
    jwk = pair.as_dict(private=False)
    pyjwk, oldjwk = jwt.PyJWK(jwk, algorithm=alg), JsonWebKey.import_key(jwk)
    require: Any = {"require": ["exp", "iss", "aud"]}
    name = "Ed25519" if alg == "EdDSA" else alg
    essential: Any = {"essential": True}
    registry = joserfc_jwt.JWTClaimsRegistry(
        leeway=10,
        iss={**essential, "value": ISSUER},
        aud={**essential, "value": AUDIENCE},
        exp=essential,
    )
    public = type(pair).import_key(jwk)
    old, options = (
        JsonWebToken([alg]),
        {
            "iss": {**essential, "value": ISSUER},
            "aud": {**essential, "value": AUDIENCE},
            "exp": essential,
        },
    )

    def pyjwt() -> str:
        claims = jwt.decode(
            text,
            pyjwk,
            algorithms=[alg],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=10,
            options=require,
        )
        return str(claims["sub"])

    def joserfc() -> str:
        found = joserfc_jwt.decode(own, public, algorithms=[name])
        registry.validate(found.claims)
        return str(found.claims["sub"])

    def authlib() -> str:
        claims = old.decode(text, oldjwk, claims_options=options)
        claims.validate(leeway=10)
        return str(claims["sub"])

    return dict(zip(PEERS, (pyjwt, joserfc, authlib), strict=True))


def bench_jwt(quick: bool) -> Iterator[Row]:
    """Compare all our checks with the fastest of three libraries, and all with none."""
    for alg, repeat in REPEAT.items():
        pair, now = key(alg), time.time()
        text = token(pair, alg, now)
        own = token(pair, "Ed25519", now) if alg == "EdDSA" else text
        jwks = {"keys": [pair.as_dict(private=False)]}
        verifier = JwtVerifier(
            ISSUER, AUDIENCE, jwks, algorithms=[alg], typ="at+jwt", required=["sub"]
        )
        cases: dict[str, Callable[[], str]] = {
            f"the bare signature, {alg}": bare(pair, alg, text),
            f"JwtVerifier, {alg}": lambda v=verifier, t=text: str(v.verify(t)["sub"]),
            **{f"{n}, {alg}": c for n, c in others(pair, alg, text, own).items()},
        }
        rounds = 1 if quick else 31
        times = interleave(cases, rounds, repeat=1 if quick else repeat, result=SUBJECT)
        floor, ours, *peers = cases
        fastest = min(peers, key=lambda name: statistics.median(times[name]))
        yield times.row(ours, fastest, target=1.15)
        for case in (ours, *peers):
            yield times.row(case, floor)
