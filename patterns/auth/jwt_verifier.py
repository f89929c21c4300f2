# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1", "joserfc>=1.8,<2"]
# ///
"""Verify a signed JWT, and keep the keys of its issuer at hand.

`JwtVerifier` judges a token by what its caller pinned: issuer, audience, algorithms and
keys, and nothing that the token says of itself. `JwksCache` gets the issuer's keys: one
fetch at a time, through rotations and outages. For resource servers that are handed
JWTs. Not for tokens that are encrypted or opaque (ask the issuer by introspection), nor
to make tokens; and a good token stays good until it expires, whatever was revoked.
joserfc verifies signatures; for HS256, HS384 and HS512 the standard library is enough.
Follows RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (algorithms), RFC 7519 (JWT), RFC 8037
and RFC 9864 (Ed25519), RFC 8725 (best practice), RFC 9068 §4 (access tokens), RFC 6750
§3 (challenges), RFC 8259 (JSON) and RFC 4648 §5 (base64url).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, TypeAlias

import httpx

__all__ = ["Claims", "InvalidToken", "JwksCache", "JwtVerifier"]

_REASONS = {  # and what a client is told (RFC 6750 §3.1)
    "malformed": "the token is not a well-formed signed JWT",
    "too_large": "the token is too large",
    "alg": "the token's algorithm is not accepted",
    "typ": "the token is of another type",
    "crit": "the token asks for an extension",
    "key": "no key fits the token",
    "keys_unavailable": "the issuer's keys cannot be had at the moment",
    "signature": "the token's signature is wrong",
    "payload": "the token's claims are not a JSON object",
    "missing_claim": "the token lacks a claim",
    "bad_claim": "a claim of the token has the wrong type",
    "iss": "the token is of another issuer",
    "aud": "the token is for another audience",
    "expired": "the token has expired",
    "not_yet_valid": "the token is not valid yet",
}
# Of each algorithm the type and the curve of its keys (RFC 7518 §3.1, RFC 9864 §2.2).
_ALGORITHMS = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), ("oct", None)),
    **dict.fromkeys(("RS256", "RS384", "RS512"), ("RSA", None)),
    **dict.fromkeys(("PS256", "PS384", "PS512"), ("RSA", None)),
    **{"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521")},
    "Ed25519": ("OKP", "Ed25519"),
}
_ALIASES = {"EdDSA": "Ed25519"}  # RFC 8037 §3.1, deprecated by RFC 9864
# Of each type the numbers of a public key (RFC 7518 §6), and the bytes of coordinates.
_NUMBERS = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
_SIZES = {"P-256": 32, "P-384": 48, "P-521": 66, "Ed25519": 32}
# Modulo each of these a modulus with the weakness ROCA (CVE-2017-15361) is a power of
# 65537, and a sound one all but never (once in 2^28).
_ROCA = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_DEEPEST = 32  # levels of nesting in a token or a key set
_LATEST = 253402300799  # 9999-12-31T23:59:59Z, the last second that datetime has
_MOST_KEYS = 100
_TURNS = 3  # flights that a caller waits for, of others
_LARGEST = 2**19  # bytes of a key set
_SOONEST, _LONGEST = 60.0, 3600.0  # seconds; what is believed of a max-age
_MAX_AGE = re.compile(r'(?:^|[,\s])max-age="?(\d{1,10})"?\s*(?:,|$)', re.IGNORECASE)
_PLAIN: Any = {"auth": None, "follow_redirects": False, "stream": True}  # of a fetch
_BASE64URL = re.compile("[A-Za-z0-9_-]*")
# By what is over of four characters: those whose unused bits are zero (RFC 4648 §3.5).
_TAILS = {2: "AQgw", 3: "AEIMQUYcgkosw048"}
_log = logging.getLogger(__name__)
_Verify: TypeAlias = Callable[[bytes, bytes], bool]
_Parts: TypeAlias = tuple[bytes, bytes, bytes]  # message, signature, payload


class InvalidToken(ValueError):
    """The token is refused: answer 401, but 503 to `keys_unavailable`.

    `reason` is `malformed`, `too_large`, `alg`, `typ`, `crit` (an extension, or b64 of
    RFC 7797), `key` (none fits), `keys_unavailable` (not the token's fault) or
    `signature`; or, said of genuine tokens only, `payload` (no JSON object),
    `missing_claim`, `bad_claim` (of the wrong type), `iss`, `aud`, `expired` or
    `not_yet_valid`. `claim` is the name of the claim at fault, or None. Nothing else of
    the token is in the error.
    """

    def __init__(self, reason: str, claim: str | None = None) -> None:
        super().__init__(reason, claim)
        self.reason, self.claim = reason, claim

    def __str__(self) -> str:
        return f"{_REASONS[self.reason]}{f': {self.claim}' if self.claim else ''}"

    def challenge(
        self,
        *,
        realm: str | None = None,
        scope: str | None = None,
        resource_metadata: str | None = None,
    ) -> str:
        """Return the value of `WWW-Authenticate` for the 401 (RFC 6750 §3).

        Args:
            realm: the protection space (RFC 9110 §11.5).
            scope: what access would need, parted by spaces.
            resource_metadata: where the metadata of the resource lie (RFC 9728 §5.1).

        Raises:
            ValueError: an argument is not printable ASCII.

        >>> InvalidToken("expired", "exp").challenge(realm="api")
        'Bearer realm="api", error="invalid_token", error_description="the token has \
expired"'
        """
        fields = {
            "realm": realm,
            "error": "invalid_token",
            "error_description": _REASONS[self.reason],
            "scope": scope,
            "resource_metadata": resource_metadata,
        }
        if any(value and not _is_plain(value) for value in fields.values()):
            raise ValueError("a parameter of a challenge is printable ASCII")
        quoted = {n: re.sub(r'(["\\])', r"\\\1", v) for n, v in fields.items() if v}
        return "Bearer " + ", ".join(f'{name}="{v}"' for name, v in quoted.items())


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Claims(Mapping[str, Any]):
    """What a verified token says, read-only; the repr has the claims' names alone.

    >>> Claims({"iss": "https://issuer.test", "sub": "ann"})
    Claims(iss, sub)
    """

    _claims: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self._claims[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def __repr__(self) -> str:
        names = (name if name.isidentifier() else repr(name) for name in self)
        return f"Claims({', '.join(names)})"


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _bytes(text: Any) -> bytes:
    """Return what base64url stands for, if it is spelled in the one canonical way.

    Raises:
        ValueError: it is not; of several spellings a cache or a log knows but one.
    """
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise ValueError("no base64url")
    if over := len(text) % 4:
        if text[-1] not in _TAILS.get(over, ""):
            raise ValueError("no canonical base64url")
        text += "=" * (4 - over)
    return base64.urlsafe_b64decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):  # two readers could believe two (RFC 7519 §4)
        raise ValueError("a name comes twice")
    return members


# Twin of _refuse in errors/problem_details.py.
def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6


# Twin of _finite in errors/problem_details.py.
def _finite(digits: str) -> float:
    """Return a number, which must not be 1e999: it would never be over."""
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


# Twin of _is_shallow in errors/problem_details.py.
def _is_shallow(value: Any) -> bool:
    """Tell whether a value has few levels; how many `json` takes depends on Python."""
    level = [value]
    for _ in range(_DEEPEST):
        children = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for inner in children for v in inner if isinstance(v, dict | list)]
        if not level:
            return True
    return False


_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
)


def _object(raw: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for what not every reader would read alike.

    None and no error, since the parser's own would hold the token.
    """
    with contextlib.suppress(ValueError, RecursionError):
        text = raw.decode()  # UTF-8 and no BOM: RFC 7515 §2, RFC 8259 §8.1
        value = _JSON.decode(text)
        if text.count("[") + text.count("{") > _DEEPEST and not _is_shallow(value):
            return None
        if "\\u" in text:  # a half of a surrogate pair would break whoever prints it
            json.dumps(value, ensure_ascii=False).encode()
        return value if isinstance(value, dict) else None
    return None


def _hmac(secret: bytes, digest: str, message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(secret, message, digest), signature)


def _check_numbers(kind: str, curve: str | None, raw: list[bytes]) -> None:
    """Refuse a public key that is weak, made to cost time, or of odd coordinates."""
    if curve is not None:  # RFC 7518 §6.2.1.2, RFC 8037 §2: they have their full length
        sound = {*map(len, raw)} == {_SIZES[curve]}
    else:
        n, e = map(int.from_bytes, raw)
        # RFC 7518 §3.3: 2048 bits or more. FIPS 186-5 §A.1.1: e is odd and over 2^16.
        sound = 2048 <= n.bit_length() <= 16384 and 2**16 < e < 2**64 and n & e & 1 == 1
        sound = sound and any(
            n % p not in {pow(65537, k, p) for k in range(p)} for p in _ROCA
        )
    if not sound:
        raise ValueError(f"a key of {kind} that is weak, or none")


def _verifiers(jwk: Mapping[str, Any]) -> dict[str, _Verify]:
    """Return what verifies by a key, for each algorithm that the key is for.

    Raises:
        Exception: there is none. joserfc and cryptography raise errors of many kinds.
    """
    kind, operations = jwk.get("kty"), jwk.get("key_ops", ["verify"])
    # RFC 7517 §4.2, §4.3: what a key is for is what it may be used for.
    if jwk.get("use", "sig") != "sig" or "verify" not in list(operations):
        raise ValueError("not a key to verify with")
    curve = jwk.get("crv") if kind in ("EC", "OKP") else None
    names = [name for name, fit in _ALGORITHMS.items() if fit == (kind, curve)]
    if (alg := jwk.get("alg")) is not None:
        names = [name for name in names if name == _ALIASES.get(alg, alg)]
    if not names:
        raise ValueError("a key of no algorithm that is known here")
    if kind == "oct":
        secret = _bytes(jwk["k"])
        if b"-----BEGIN " in secret:
            raise ValueError("a public key is no secret")  # RFC 8725 §2.1
        # RFC 7518 §3.2: as many bits as the hash has, or more.
        fits = [name for name in names if 8 * len(secret) >= int(name[2:])]
        if not fits:
            raise ValueError("a secret that is shorter than the hash")
        return {name: partial(_hmac, secret, f"sha{name[2:]}") for name in fits}
    numbers = {name: jwk[name] for name in _NUMBERS[str(kind)]}
    _check_numbers(str(kind), curve, [_bytes(number) for number in numbers.values()])
    # Here, since it needs the package cryptography, which a browser does not have.
    from joserfc.jwk import import_key
    from joserfc.jws import JWSRegistry

    public = {"kty": kind, **({"crv": curve} if curve else {}), **numbers}
    key, registry = import_key(public), JWSRegistry(algorithms=names)
    return {name: partial(registry.get_alg(name).verify, key=key) for name in names}


class _Keys:
    """The usable keys of a key set, imported once."""

    def __init__(self, document: Any, *, remote: bool = False) -> None:
        keys = document.get("keys") if isinstance(document, Mapping) else None
        if not isinstance(keys, list | tuple) or len(keys) > _MOST_KEYS:
            raise ValueError(f"want a mapping with a list `keys`, {_MOST_KEYS} at most")
        jwks = [jwk for jwk in keys if isinstance(jwk, Mapping)]
        kinds = [jwk.get("kty") for jwk in jwks]
        # Who publishes a secret has none, and a set of both kinds invites confusion.
        if "oct" in kinds and (remote or any(kind != "oct" for kind in kinds)):
            raise ValueError("a key set with secrets has nothing else, and stays home")
        kids = [jwk["kid"] for jwk in jwks if isinstance(jwk.get("kid"), str)]
        if len({*kids}) != len(kids):
            raise ValueError("two keys have the same kid")
        self._all: list[dict[str, _Verify]] = []
        self._named: dict[str, dict[str, _Verify]] = {}
        for place, jwk in enumerate(jwks):
            try:
                kid, fits = jwk.get("kid"), _verifiers(jwk)
                if not isinstance(kid, str | None):
                    raise ValueError("a kid is text")
            except Exception as exc:  # RFC 7517 §5: leave out what cannot be used
                _log.info("key %d of the set is left out: %s", place, exc)
                continue
            self._all.append(fits)
            if kid is not None:
                self._named[kid] = fits
        if remote and not self._all:
            raise ValueError("no key of the set can be used")

    def knows(self, kid: str | None, alg: str) -> bool:
        """Tell whether another key set would be of no more help."""
        if kid is not None:
            return kid in self._named
        return any(alg in fits for fits in self._all)

    def get(self, kid: str | None, alg: str) -> _Verify:
        """Return what verifies; without a kid, if exactly one key fits."""
        keys = self._all if kid is None else [self._named.get(kid, {})]
        fitting = [fits[alg] for fits in keys if alg in fits]
        if len(fitting) != 1:
            raise InvalidToken("key")
        return fitting[0]

    async def aget(self, kid: str | None, alg: str) -> _Verify:
        return self.get(kid, alg)


class _Flight:
    """One fetch under way, and the key that it was begun for."""

    def __init__(self, began: float, kid: str | None, alg: str) -> None:
        self.began, self.wanted = began, (kid, alg)
        self.thread = threading.get_ident()
        self.task: asyncio.Task[None] | None = None
        self.done = Future[None]()

    def is_over(self) -> bool:
        """Tell whether it has ended, or the event loop is gone that it was led in."""
        gone = self.task is not None and self.task.get_loop().is_closed()
        return gone or self.done.done()

    def wait(self, seconds: float) -> None:
        """Wait for the end, and look now and then whether it can still come."""
        for _ in range(math.ceil(seconds)):
            if self.is_over():
                break
            with contextlib.suppress(TimeoutError):
                self.done.result(1)

    async def await_end(self, seconds: float) -> None:
        """Do as `wait`, in a task."""
        landed = asyncio.wrap_future(self.done)
        for _ in range(math.ceil(seconds)):
            if self.is_over():
                break
            await asyncio.wait([landed], timeout=1)


class JwksCache:
    """Keep the keys that an issuer publishes. Safe across threads, tasks and loops.

    There is one fetch at a time, led by the caller who needs it; who needs the same
    waits for its end, and no lock is held meanwhile. Whoever's key is known never
    waits, but for the one caller who leads the refresh when the keys are no longer
    fresh. A key that is not known is asked for at once, and if the fetch failed or did
    not bring it, no other is asked for before `cooldown` is over: tokens with made-up
    kids cannot make a storm. An answer that is no 200 with a sound key set of public
    keys changes nothing. Needs asyncio in async code; starts no thread.

    Args:
        url: https, or http on loopback.
        client: an `httpx.Client` for `verify`, or an `httpx.AsyncClient` for `averify`.
            Its transport and event hooks serve, but its headers, cookies, parameters
            and auth stay home, and no redirect is followed. None: each fetch its own.
        ttl: seconds that keys are fresh, unless the answer has a `max-age`, which
            counts from 1 minute to 1 hour.
        cooldown: seconds from a fetch that was in vain to the next one.
        stale: seconds that keys are used beyond that, while fetches fail.
        timeout: seconds for each step of a fetch, and for the body as a whole.
        clock: seconds that never go back.

    Raises:
        ValueError: the URL is another, or a number is negative.

    >>> key = {"kty": "OKP", "crv": "Ed25519", "kid": "1",
    ...        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    >>> answer = httpx.Response(200, json={"keys": [key]})
    >>> with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as client:
    ...     keys = JwksCache("https://issuer.test/jwks.json", client)
    ...     keys.get("1", "Ed25519")(b"message", b"forged")
    False
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | httpx.AsyncClient | None = None,
        *,
        ttl: float = 600,
        cooldown: float = 30,
        stale: float = 86400,
        timeout: float = 5,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not all(0 <= seconds < math.inf for seconds in (ttl, cooldown, stale)):
            raise ValueError("a time is a finite number of seconds, 0 or more")
        if not 0 < timeout < math.inf:
            raise ValueError("a timeout is a finite number of seconds")
        self._url, self._client = _endpoint(url), client
        self._ttl, self._cooldown, self._stale = ttl, cooldown, stale
        self._timeout, self._patience = timeout, 5 * timeout
        self._clock = clock or time.monotonic
        self._lock = threading.Lock()
        self._keys: _Keys | None = None
        self._flight: _Flight | None = None
        self._fresh_until = self._stale_until = -math.inf
        self._attempted = self._fruitless = -math.inf

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url.copy_with(query=None))!r})"

    def get(self, kid: str | None, alg: str) -> _Verify:
        """Return what verifies a signature: `(message, signature) -> bool`.

        Raises:
            InvalidToken: `key` or `keys_unavailable`.
            TypeError: the client is an async one.
        """
        if isinstance(self._client, httpx.AsyncClient):
            raise TypeError("an AsyncClient is for averify")
        turn = 0
        while True:
            flight, leads, verify = self._plan(kid, alg, turn)
            if verify:
                return verify
            if leads:
                with self._landing(flight) as fetched:
                    fetched.append(self._fetch())
                turn = _TURNS
            elif flight.thread == threading.get_ident():  # would wait for itself
                raise InvalidToken("keys_unavailable")
            else:
                flight.wait(self._patience)
                turn += 1

    async def aget(self, kid: str | None, alg: str) -> _Verify:
        """Do as `get`. A fetch has a task of its own, which no cancelled caller ends.

        Raises:
            InvalidToken: `key` or `keys_unavailable`.
            TypeError: the client is a blocking one.
        """
        if isinstance(self._client, httpx.Client):
            raise TypeError("a Client is for verify")
        turn = 0
        while True:
            flight, leads, verify = self._plan(kid, alg, turn)
            if verify:
                return verify
            if leads:
                flight.task = asyncio.ensure_future(self._fly(flight))
            await flight.await_end(self._patience)
            turn = _TURNS if leads else turn + 1

    def _plan(
        self, kid: str | None, alg: str, turn: int
    ) -> tuple[Any, bool, _Verify | None]:
        """Return a flight and whether to lead it, or what verifies."""
        with self._lock:
            now, flight = self._clock(), self._flight
            if flight and (flight.is_over() or now - flight.began > self._patience):
                flight = self._flight = None
            keys = self._keys if now < self._stale_until else None
            if keys and keys.knows(kid, alg):
                rests = flight or turn or now - self._attempted < self._cooldown
                if rests or now < self._fresh_until:
                    return None, False, keys.get(kid, alg)
            elif flight and turn < _TURNS:
                return flight, False, None
            elif flight or turn == _TURNS or now - self._fruitless < self._cooldown:
                raise InvalidToken("key" if keys else "keys_unavailable")
            self._attempted = now
            self._flight = _Flight(now, kid, alg)
            return self._flight, True, None

    @contextlib.contextmanager
    def _landing(self, flight: _Flight) -> Iterator[list[tuple[_Keys, float]]]:
        """Take in what a flight fetched, however it ends, and free who waits for it."""
        fetched: list[tuple[_Keys, float]] = []
        tried = True
        try:
            yield fetched
        except Exception as exc:
            # Errors of others could tell the query, or a header.
            why = exc if type(exc) is ValueError else type(exc).__name__
            _log.warning("the keys of %s could not be had: %s", self._url.host, why)
        except BaseException:  # cancelled with its event loop: that was no attempt
            tried = False
            raise
        finally:
            with self._lock:
                if self._flight is flight:
                    self._flight = None
                    for self._keys, lifetime in fetched:
                        self._fresh_until = self._clock() + lifetime
                        self._stale_until = self._fresh_until + self._stale
                    brought = fetched and fetched[0][0].knows(*flight.wanted)
                    if tried and not brought:
                        self._fruitless = flight.began
            flight.done.set_result(None)

    async def _fly(self, flight: _Flight) -> None:
        with self._landing(flight) as fetched:
            async with asyncio.timeout(self._patience):  # a header may drip for hours
                fetched.append(await self._afetch())

    def _fetch(self) -> tuple[_Keys, float]:
        body, end = bytearray(), self._clock() + self._timeout
        with contextlib.ExitStack() as stack:
            client: Any = self._client or stack.enter_context(httpx.Client())
            response = client.send(self._request(client), **_PLAIN)
            stack.callback(response.close)
            _check_answer(response)
            for chunk in response.iter_bytes():
                self._take(body, chunk, end)
        return self._read(body, response)

    async def _afetch(self) -> tuple[_Keys, float]:
        body, end = bytearray(), self._clock() + self._timeout
        async with contextlib.AsyncExitStack() as stack:
            client: Any = self._client
            client = client or await stack.enter_async_context(httpx.AsyncClient())
            response = await client.send(self._request(client), **_PLAIN)
            stack.push_async_callback(response.aclose)
            _check_answer(response)
            async for chunk in response.aiter_bytes():
                self._take(body, chunk, end)
        return self._read(body, response)

    def _request(self, client: Any) -> httpx.Request:
        # Not compressed, or some bytes could become many before they are counted. And
        # not built by the client, whose headers, cookies and parameters are for others.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        headers["user-agent"] = client.headers.get("user-agent", "")
        timeout = {"timeout": httpx.Timeout(self._timeout).as_dict()}
        return httpx.Request("GET", self._url, headers=headers, extensions=timeout)

    def _take(self, body: bytearray, chunk: bytes, end: float) -> None:
        body += chunk
        if len(body) > _LARGEST or self._clock() > end:
            raise ValueError("a key set too large, or too slow")

    def _read(self, body: bytearray, response: httpx.Response) -> tuple[_Keys, float]:
        keys = _Keys(_object(bytes(body)), remote=True)
        found = _MAX_AGE.search(response.headers.get("cache-control", ""))
        if not found:
            return keys, self._ttl
        return keys, min(max(float(found[1]), _SOONEST), _LONGEST)


def _endpoint(url: str) -> httpx.URL:
    """Return a URL that is safe to fetch keys from."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as exc:
        raise ValueError("the URL of a key set is none") from exc
    local = parsed.host == "localhost"
    with contextlib.suppress(ValueError):
        local = local or ipaddress.ip_address(parsed.host).is_loopback
    if parsed.userinfo or not parsed.host:
        raise ValueError("the URL of a key set has a host, and no credentials")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and local):
        raise ValueError("a key set is fetched by https, or http on loopback")
    return parsed


def _check_answer(response: httpx.Response) -> None:
    coding = response.headers.get("content-encoding", "identity")
    if response.status_code != 200 or coding != "identity":
        raise ValueError(f"an answer of {response.status_code}, or a compressed one")


class JwtVerifier:
    """Verify tokens of one issuer. Safe across threads and tasks.

    The header of a token chooses among the keys and algorithms that are given here and
    does nothing else: keys and addresses of keys in it are ignored, and extensions
    (`crit`, `b64`) refused. A key serves where its type, curve, `use`, `key_ops` and
    `alg` let it; a token without `kid` needs exactly one key that fits. Other keys of a
    set are left out: weak ones (RSA below 2048 bits or open to ROCA, secrets shorter
    than their hash) and what cannot be read. The claims are read when the signature is
    known to be good.

    `iss`, `aud` and `exp` must be there, `nbf` and `iat` hold where they are, `sub` is
    text. Access tokens by RFC 9068 want `typ="at+jwt"` and
    `required=("sub", "client_id", "iat", "jti")`.

    Args:
        issuer: what `iss` must be, to the character.
        audience: what `aud` must be or have in it, or a collection of such names.
        jwks: a JWK Set as a mapping, or a `JwksCache`.
        algorithms: those that tokens may be signed with: `HS256`, `RS256`, `PS256`,
            `ES256`, each also of 384 and 512, and `Ed25519`, also called `EdDSA`.
        leeway: seconds that clocks may differ by.
        typ: what the header's `typ` must be, in any case, with or without
            `application/`; None does not look, so that an ID token passes as well.
        required: names of other claims that must be there.
        max_size: characters of a token.
        clock: seconds since the epoch.

    Raises:
        ValueError: an argument cannot be right: `none`, HS… beside other algorithms or
            with a `JwksCache`, or a set with two keys of one kid or of both kinds.
        ImportError: joserfc is needed and not there.

    >>> secret = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0"
    ...           "gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}
    >>> verifier = JwtVerifier("joe", "api", {"keys": [secret]}, algorithms=["HS256"])
    >>> try:
    ...     verifier.verify("eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UifQ.")
    ... except InvalidToken as error:
    ...     print(error.reason)
    alg
    """

    def __init__(
        self,
        issuer: str,
        audience: str | Collection[str],
        jwks: Mapping[str, Any] | JwksCache,
        *,
        algorithms: Collection[str] = ("RS256",),
        leeway: float = 10,
        typ: str | None = None,
        required: Collection[str] = (),
        max_size: int = 16384,
        clock: Callable[[], float] | None = None,
    ) -> None:
        audiences = [audience] if isinstance(audience, str) else list(audience or ())
        texts = [issuer, *audiences, *required] + [typ] * (typ is not None)
        if not audiences or not all(isinstance(t, str) and t for t in texts):
            raise ValueError("issuer, audience, typ and claims are texts, not empty")
        if isinstance(algorithms, str) or isinstance(required, str):
            raise ValueError("algorithms and required claims are collections")
        if not 0 <= leeway < math.inf:
            raise ValueError("a leeway is a finite number of seconds, 0 or more")
        self._algorithms = _pinned(algorithms)
        if next(iter(self._algorithms)).startswith("HS"):
            if isinstance(jwks, JwksCache):
                raise ValueError("a secret is not published: HS… needs its own set")
        else:
            import joserfc.jws  # noqa: F401, so that it is missed here and not later
        self._keys = jwks if isinstance(jwks, JwksCache) else _Keys(jwks)
        self._issuer, self._audiences = issuer, frozenset(audiences)
        self._required = ("iss", "aud", "exp", *required)
        self._typ = None if typ is None else _media_type(typ)
        self._leeway, self._max_size = leeway, max_size
        self._clock = clock or time.time

    def verify(self, token: str, *, now: float | datetime | None = None) -> Claims:
        """Return the claims of a token that is to be believed.

        Args:
            token: as it came, without `Bearer`.
            now: seconds since the epoch or an aware datetime; None is the clock's.

        Raises:
            InvalidToken: it is not; see its `reason`.
            TypeError, ValueError: the caller's fault: `now` is no time.
        """
        seconds = self._clock() if now is None else _seconds(now)
        alg, kid, parts = self._open(token)
        return self._judge(parts, self._keys.get(kid, alg), seconds)

    async def averify(
        self, token: str, *, now: float | datetime | None = None
    ) -> Claims:
        """Do as `verify`, and wait for keys without blocking the event loop."""
        seconds = self._clock() if now is None else _seconds(now)
        alg, kid, parts = self._open(token)
        return self._judge(parts, await self._keys.aget(kid, alg), seconds)

    def _open(self, token: str) -> tuple[str, str | None, _Parts]:
        """Take a token apart, and read its header by the rules given here."""
        if not isinstance(token, str):
            raise InvalidToken("malformed")
        if len(token) > self._max_size:
            raise InvalidToken("too_large")
        try:
            header, payload, signature = map(_bytes, token.split("."))  # a JWE has five
        except ValueError:
            raise InvalidToken("malformed") from None
        message = token.rpartition(".")[0].encode()
        return *self._header(header), (message, signature, payload)

    def _header(self, raw: bytes) -> tuple[str, str | None]:
        """Return algorithm and kid, if the header asks for nothing more."""
        header = _object(raw)
        if header is None:
            raise InvalidToken("malformed")
        if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11, RFC 7797 §7
            raise InvalidToken("crit")
        alg, kid, typ = header.get("alg"), header.get("kid", ""), header.get("typ", "")
        if not isinstance(alg, str) or alg not in self._algorithms:
            raise InvalidToken("alg")
        if not isinstance(kid, str) or not isinstance(typ, str):
            raise InvalidToken("malformed")
        if self._typ is not None and _media_type(typ) != self._typ:
            raise InvalidToken("typ")
        return self._algorithms[alg], header.get("kid")

    def _judge(self, parts: _Parts, verify: _Verify, now: float) -> Claims:
        """Check the signature, and then the claims."""
        message, signature, payload = parts
        if not verify(message, signature):
            raise InvalidToken("signature")
        claims = _object(payload)
        if claims is None:
            raise InvalidToken("payload")
        self._check(claims, now)
        return Claims(claims)

    def _check(self, claims: dict[str, Any], now: float) -> None:
        """Check the claims (RFC 7519 §4.1)."""
        for name in self._required:
            if name not in claims:
                raise InvalidToken("missing_claim", name)
        audiences = claims["aud"]
        audiences = [audiences] if isinstance(audiences, str) else audiences
        if not isinstance(audiences, list) or not all(
            isinstance(name, str) for name in audiences
        ):
            raise InvalidToken("bad_claim", "aud")
        for name in ("iss", "sub"):
            if not isinstance(claims.get(name, ""), str):
                raise InvalidToken("bad_claim", name)
        if claims["iss"] != self._issuer:
            raise InvalidToken("iss", "iss")
        if self._audiences.isdisjoint(audiences):
            raise InvalidToken("aud", "aud")
        if now >= _date(claims, "exp") + self._leeway:
            raise InvalidToken("expired", "exp")
        for name in ("nbf", "iat"):
            if name in claims and _date(claims, name) > now + self._leeway:
                raise InvalidToken("not_yet_valid", name)


def _pinned(algorithms: Collection[str]) -> dict[str, str]:
    """Return our name of each algorithm that a header may name."""
    names = [_ALIASES.get(name, name) for name in algorithms]
    for name in names:
        if name not in _ALGORITHMS:
            raise ValueError(f"{name!r} is no algorithm that is verified here")
    if len({name.startswith("HS") for name in names}) != 1:
        raise ValueError("algorithms are given, either with secrets or with key pairs")
    also = {alias: name for alias, name in _ALIASES.items() if name in names}
    return dict(zip(names, names, strict=True)) | also


def _media_type(typ: str) -> str:
    """Return a media type as RFC 7515 §4.1.9 compares it."""
    return typ.lower().removeprefix("application/")


def _date(claims: dict[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519 §2): a number, in seconds, and not for ever."""
    value = claims[name]
    if type(value) not in (int, float) or abs(value) > _LATEST:  # a bool is an int
        raise InvalidToken("bad_claim", name)
    return float(value)


# Twin of _seconds in webhooks/signature.py.
def _seconds(now: float | datetime) -> float:
    if isinstance(now, (int, float)) and not isinstance(now, bool):
        if not abs(now) < math.inf:
            raise ValueError("now is a finite number of seconds")
        return now
    if not isinstance(now, datetime):
        raise TypeError("now is seconds since the epoch, or an aware datetime")
    if now.utcoffset() is None:
        raise ValueError("now is a naive datetime: give it its timezone")
    return now.timestamp()


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
