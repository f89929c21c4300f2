# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["joserfc>=1.8,<2"]
# ///
"""Check that whoever sends a token holds the key it is bound to.

`DpopVerifier` judges the proof in the header `DPoP` of a request, at an API against the
token's own claims, and at a token endpoint to learn which key to bind to. It comes
after the token was verified, and does not do that. Not for bearer tokens, nor for those
bound to a certificate (RFC 8705). The client's half is `dpop.py`. Follows RFC 9449
(DPoP; the checks of §4.3 in their order), RFC 7515 (JWS), RFC 7517 (JWK), RFC 7638
(thumbprints), RFC 9864 (Ed25519), RFC 8725 (best practice) and RFC 3986 §6.2 (URLs).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import heapq
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from string import ascii_letters, digits
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from joserfc.jwk import import_key
from joserfc.jws import JWSRegistry

# fmt: off
__all__ = [
    "DpopNonces", "DpopVerifier", "InvalidProof", "MemoryReplayStore", "Proof",
    "ReplayStore",
]
# fmt: on

# Of each algorithm type and curve of its keys (RFC 7518 §3.1, RFC 9864 §2.2).
_ALGORITHMS = {
    **{"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521")},
    **dict.fromkeys((f"{k}S{n}" for k in "RP" for n in (256, 384, 512)), ("RSA", "")),
    "Ed25519": ("OKP", "Ed25519"),
}
_ALIASES = {"EdDSA": "Ed25519"}  # RFC 9864 §4.1.2: the older name, still in use
_MEMBERS = {"EC": ("x", "y"), "OKP": ("x",), "RSA": ("e", "n")}  # beside kty and crv
_SIZES = {"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": 32}  # bytes of a coordinate
_PRIVATE = frozenset({"d", "dp", "dq", "k", "oth", "p", "q", "qi"})
_LARGEST = 8192  # characters of a proof, and of a URL without its query
_JTI = re.compile("[!-~]{1,256}")
_BASE64URL = re.compile("[A-Za-z0-9_-]*")
_URL = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[\w.~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?(/[!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_UNRESERVED = {f"%{ord(c):02X}": c for c in f"{ascii_letters}{digits}-._~"}
Scope: TypeAlias = MutableMapping[str, Any]


class InvalidProof(ValueError):
    """The proof is refused: answer 401, but 400 at a token endpoint.

    `reason` is `missing`, `multiple` (headers), `too_large`, `malformed`, `crit`,
    `typ`, `alg`, `jwk` (private, weak, or of another algorithm), `signature`, or, said
    of genuine proofs only, `jti`, `htm`, `htu`, `nonce`, `iat`, `ath`, `cnf` (the token
    is bound to another key, or to none) or `replay` (used before, or the store is
    full). With `nonce` comes the `nonce` to send as `DPoP-Nonce`. Nothing of the proof
    is in the error.
    """

    def __init__(self, reason: str, nonce: str | None = None) -> None:
        super().__init__(reason, nonce)
        self.reason, self.nonce = reason, nonce

    def __str__(self) -> str:
        return f"DPoP proof refused: {self.reason}"

    @property
    def error(self) -> str:
        """The error code that the client is told (RFC 9449 §7.1, §8, §12.2)."""
        codes = {"nonce": "use_dpop_nonce", "cnf": "invalid_token"}
        return codes.get(self.reason, "invalid_dpop_proof")


class Proof(NamedTuple):
    """A proof that is good.

    `jkt` is the thumbprint of its key, which a token endpoint puts into the token's
    `cnf`. `key` names it among all proofs, until it `expires` (epoch seconds).
    """

    jkt: str
    key: str
    expires: float


class ReplayStore(Protocol):
    """What remembers the proofs that were used; safe across threads."""

    def add(self, key: str, *, expires: float, now: float) -> bool:
        """Remember a key up to and including `expires`; tell whether it is new.

        Looking and adding must be one step: in Redis that is `SET key 1 NX EXAT …`.
        """


class MemoryReplayStore:
    """Remember proofs in this process. Thread-safe.

    In several processes a proof passes once in each: give those a store in common. When
    full it refuses, since what is forgotten early would pass twice: limit how often a
    client may call. When the clock was set back, it refuses what it may have forgotten.

    Args:
        limit: proofs that are remembered; each is for two windows at the most.

    >>> store = MemoryReplayStore()
    >>> [store.add("key", expires=now + 60, now=now) for now in (0, 60, 61)]
    [True, False, True]
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._forgotten, self._keys = float("-inf"), set[str]()
        self._ends: list[tuple[float, str]] = []

    def add(self, key: str, *, expires: float, now: float) -> bool:
        """Remember a key; tell whether it is new, and was not one too many."""
        with self._lock:
            while self._ends and self._ends[0][0] < now:
                end, old = heapq.heappop(self._ends)
                self._forgotten = max(self._forgotten, end)
                self._keys.discard(old)
            doubtful = expires <= self._forgotten
            if doubtful or key in self._keys or len(self._keys) >= self._limit:
                return False
            self._keys.add(key)
            heapq.heappush(self._ends, (expires, key))
            return True


class DpopNonces:
    """Make nonces that tell their own age, and remember none of them (RFC 9449 §8).

    Any answer may bring one as `DPoP-Nonce`, which spares the client a refusal.
    Immutable and thread-safe.

    Args:
        keys: secrets of 32 random bytes or more. The first signs, each verifies: to
            rotate, put the new one first and drop the old one after `lifetime`.
        lifetime: seconds that a nonce is accepted for.

    Raises:
        ValueError: there is no key, or a short one, or the lifetime is not positive.

    >>> nonces = DpopNonces(b"k" * 32, lifetime=300)
    >>> nonce = nonces.issue(1000)
    >>> nonces.accepts(nonce, 1300), nonces.accepts(nonce, 1301)
    (True, False)
    """

    def __init__(self, *keys: bytes, lifetime: float = 300) -> None:
        if not keys or min(map(len, keys)) < 32 or not 0 < lifetime < 2**31:
            raise ValueError("nonces need keys of 32 bytes, and a lifetime over 0")
        self._lifetime = lifetime
        # Keys of their own, so that no signature made for another purpose fits here.
        self._keys = [hmac.digest(key, b"dpop-nonce:1", "sha256") for key in keys]

    def issue(self, now: float) -> str:
        """Return the nonce of a second since the epoch."""
        at = int(now).to_bytes(8, signed=True)
        return _base64url(at + hmac.digest(self._keys[0], at, "sha256")[:16])

    def accepts(self, nonce: Any, now: float) -> bool:
        """Tell whether a nonce is ours and fresh; what is not text is not."""
        raw = _bytes(nonce) or b""
        at, mac = raw[:8], raw[8:]
        macs = [hmac.digest(key, at, "sha256")[:16] for key in self._keys]
        ours = any([hmac.compare_digest(mac, good) for good in macs])
        return ours and abs(int.from_bytes(at, signed=True) - now) <= self._lifetime


# Twin of _base64url in auth/dpop.py.
def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: Any) -> bytes | None:
    """Return what base64url stands for, or None if it is not spelled canonically."""
    if isinstance(text, str) and _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return raw if _base64url(raw) == text else None
    return None


# Twin of _unique in auth/jwt_verifier.py.
def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):  # two readers could believe two (RFC 7519 §4)
        raise ValueError("a name comes twice")
    return members


def _object(part: str) -> dict[str, Any]:
    """Return the JSON object in a part of a proof.

    Raises:
        InvalidProof: it is none, or one that not every reader would read alike.
    """
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        text = (_bytes(part) or b"").decode()  # UTF-8, and `json` takes no BOM
        value = json.loads(text, object_pairs_hook=_unique)
        # What cannot be written again is no JSON: NaN, and half of a surrogate pair.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        if isinstance(value, dict):
            return value
    raise InvalidProof("malformed")


def _normal(url: str) -> str | None:
    """Return the normal form of a URL, without query and fragment, or None.

    RFC 9449 §4.3 asks for RFC 3986 §6.2.2 (case, escapes, dots) and §6.2.3 (the rest).
    """
    text = re.split("[?#]", url, maxsplit=1)[0]
    found = _URL.fullmatch(text) if len(text) <= _LARGEST else None
    if found is None:
        return None
    scheme, host, port, path = (part or "" for part in found.groups())
    scheme, port = scheme.lower(), port.lstrip("0")
    at = "" if port in ("", {"http": "80", "https": "443"}[scheme]) else f":{port}"
    path = _ESCAPE.sub(lambda escape: escape[0].upper(), path or "/")
    path = _ESCAPE.sub(lambda escape: _UNRESERVED.get(escape[0], escape[0]), path)
    kept, segments = list[str](), path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return f"{scheme}://{host.lower()}{at}/{'/'.join(kept)}"


def _is_origin(text: str) -> bool:
    found = _URL.fullmatch(text)
    return found is not None and found[4] in (None, "/")


# Twin of _fields in auth/bearer_guard.py.
def _fields(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope.get("headers", ()) if key.lower() == name]


def _target(scope: Scope, origin: str | None) -> str:
    """Return the URL of an ASGI request, or what is none if its `Host` is no host."""
    if origin is None:  # of two hosts, a proxy could believe the other (RFC 9112 §3.2)
        hosts = [host.decode("latin-1") for host in _fields(scope, b"host")]
        scheme = scope.get("scheme", "http").replace("ws", "http")
        origin = f"{scheme}://{','.join(hosts)}"
        if len(hosts) != 1 or not _is_origin(origin):  # a `?` would hide the path
            return ""
    path = scope["path"].encode("utf-8", "surrogatepass")
    raw = scope.get("raw_path") or quote(path, "/!$&'()*+,;=:@~").encode()
    return origin.rstrip("/") + raw.decode("latin-1").replace("#", "%23")


def _public_key(jwk: Any, alg: str) -> Any:
    """Return the key of a proof, or None if it is not one for the algorithm."""
    kind, curve = _ALGORITHMS[alg]
    if not isinstance(jwk, dict) or jwk.get("kty") != kind or _PRIVATE & jwk.keys():
        return None
    with contextlib.suppress(Exception):  # joserfc's and cryptography's are of any kind
        named, operations = jwk.get("alg", alg), jwk.get("key_ops", ["verify"])
        is_meant = _ALIASES.get(named, named) == alg and "verify" in list(operations)
        if not is_meant or jwk.get("use", "sig") != "sig":
            return None
        names = _MEMBERS[kind]
        raw = [_bytes(jwk[name]) or b"" for name in names]
        if kind == "RSA":
            e, m = map(int.from_bytes, raw)
            # RFC 7518 §3.3: 2048 bits or more; and no more than cost little time.
            fits = 2048 <= m.bit_length() <= 4096 and 2**16 < e < 2**32 and e & m & 1
        else:  # RFC 7518 §6.2.1.2: coordinates have their full length
            fits = jwk["crv"] == curve and {*map(len, raw)} == {_SIZES[curve]}
        if fits:
            return import_key({n: jwk[n] for n in jwk.keys() & {"kty", "crv", *names}})
    return None


def _only(proofs: Any) -> str:
    """Return the one proof among what was sent."""
    is_one = proofs is None or isinstance(proofs, str | bytes)
    values = [value for value in ([proofs] if is_one else proofs) if value is not None]
    if len(values) != 1:
        raise InvalidProof("multiple" if values else "missing")
    proof = values[0].decode("latin-1") if isinstance(values[0], bytes) else values[0]
    if not isinstance(proof, str) or len(proof) > _LARGEST:
        raise InvalidProof("too_large" if isinstance(proof, str) else "malformed")
    return proof


class DpopVerifier:
    """Judge proofs by RFC 9449 §4.3. Thread-safe.

    Args:
        algorithms: what proofs may be signed by, all of them asymmetric. `EdDSA` and
            `Ed25519` are the same here.
        window: seconds that a proof may be old, and that its clock may be ahead.
        nonces: where they are given, a proof must have one of them.
        store: what remembers proofs, by default those of this object in memory.
        origin: what clients call, such as `https://api.example.com`. Without it
            `check_scope` believes scheme and `Host`: wrong behind a proxy, and where
            any `Host` gets here, proofs for another server would pass.
        clock: seconds since the epoch.

    Raises:
        ValueError: an algorithm, the window or the origin is not as said above.

    >>> try:
    ...     DpopVerifier().check([], "GET", "https://api.test/things")
    ... except InvalidProof as refusal:
    ...     refusal.reason, refusal.error
    ('missing', 'invalid_dpop_proof')
    """

    def __init__(
        self,
        *,
        algorithms: Iterable[str] = ("ES256", "Ed25519"),
        window: float = 60,
        nonces: DpopNonces | None = None,
        store: ReplayStore | None = None,
        origin: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        #: The algorithms, as a challenge names them in `algs`.
        self.algorithms = tuple(algorithms)
        names = {_ALIASES.get(name, name) for name in self.algorithms}
        if not names or names - _ALGORITHMS.keys():
            raise ValueError(f"an algorithm is one of {', '.join(_ALGORITHMS)}")
        if not 0 < window < 2**31:
            raise ValueError("a window is more than 0 seconds")
        if origin is not None and not _is_origin(origin):
            raise ValueError("an origin is a scheme, a host and perhaps a port")
        registry = JWSRegistry(algorithms=names)
        self._verify = {name: registry.get_alg(name).verify for name in names}
        self._store = MemoryReplayStore() if store is None else store
        self._window, self._clock = window, clock or time.time
        self._nonces, self._origin = nonces, origin

    def check(
        self,
        proofs: str | bytes | Iterable[str | bytes] | None,
        method: str,
        url: str,
        *,
        access_token: str | None = None,
        claims: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> Proof:
        """Return a proof that is good and was not used before.

        Where the store is asynchronous, give the verifier one that takes everything,
        and await the other's answer to the proof's `key`.

        Args:
            proofs: the values of all headers `DPoP` of the request.
            method: the request's.
            url: the request's as the client has it; query and fragment do not count.
            access_token: the token of the request, at an API.
            claims: what that token says, by its verifier or by introspection.
            now: seconds since the epoch, by default those of the clock.

        Raises:
            InvalidProof: the proof is refused; see its `reason`.
            TypeError: there is a token without claims, or the reverse.
        """
        if (access_token is None) != (claims is None):
            raise TypeError("a token is judged by its claims: give both, or none")
        now = self._clock() if now is None else now
        said, jkt = self._open(_only(proofs))
        jti, htu, iat = said.get("jti"), said.get("htu"), said.get("iat", False)
        if not isinstance(jti, str) or not _JTI.fullmatch(jti):
            raise InvalidProof("jti")
        if said.get("htm") != method:
            raise InvalidProof("htm")
        if not isinstance(htu, str) or _normal(htu) != (_normal(url) or ""):
            raise InvalidProof("htu")
        nonces, nonce = self._nonces, said.get("nonce")
        if nonces is not None and not nonces.accepts(nonce, now):
            raise InvalidProof("nonce", nonces.issue(now))
        # Compared before it is added to: an integer may have thousands of digits.
        is_time = type(iat) in (int, float)  # a bool is an int
        if not is_time or not now - self._window <= iat <= now + self._window:
            raise InvalidProof("iat")
        if access_token is not None and claims is not None:
            digest = hashlib.sha256(access_token.encode("utf-8", "surrogatepass"))
            if said.get("ath") != _base64url(digest.digest()):
                raise InvalidProof("ath")
            cnf = claims.get("cnf")
            if not isinstance(cnf, Mapping) or cnf.get("jkt") != jkt:
                raise InvalidProof("cnf")
        key = _base64url(hashlib.sha256(f"{jkt}.{jti}".encode()).digest())
        proof = Proof(jkt, key, iat + self._window)
        if not self._store.add(key, expires=proof.expires, now=now):
            raise InvalidProof("replay")
        return proof

    def check_scope(self, scope: Scope, token: str, claims: Mapping[str, Any]) -> None:
        """Judge the proof of an ASGI request, as `check` does and raises."""
        proofs, url = _fields(scope, b"dpop"), _target(scope, self._origin)
        method = scope.get("method", "GET")  # a WebSocket's handshake is a GET
        self.check(proofs, method, url, access_token=token, claims=claims)

    def _open(self, proof: str) -> tuple[dict[str, Any], str]:
        """Return what a genuine proof says, and the thumbprint of its key."""
        head, _, rest = proof.partition(".")
        body, _, tail = rest.partition(".")
        header, claims, signature = _object(head), _object(body), _bytes(tail)
        if signature is None:
            raise InvalidProof("malformed")
        if header.keys() & {"crit", "b64"}:
            raise InvalidProof("crit")
        if header.get("typ") != "dpop+jwt":
            raise InvalidProof("typ")
        named = str(header.get("alg"))
        alg = _ALIASES.get(named, named)
        if alg not in self._verify:
            raise InvalidProof("alg")
        key = _public_key(header.get("jwk"), alg)
        if key is None:
            raise InvalidProof("jwk")
        with contextlib.suppress(Exception):  # of whatever kind, it is no good
            if self._verify[alg](f"{head}.{body}".encode(), signature, key):
                return claims, key.thumbprint()
        raise InvalidProof("signature")


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
