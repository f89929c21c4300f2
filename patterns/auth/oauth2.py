# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Get OAuth 2.0 tokens, renew each once for all callers, and send them.

`ClientCredentials` and `RefreshToken` are an `httpx.Auth`: however many tasks and
threads meet a token that is missing, expired or refused, the authorization server is
asked once, and all of them get its answer. `AuthorizationCode` and `DeviceFlow` get the
first token of a user; `discover` reads the server's metadata. For a client that calls
an API with somebody's leave; not for verifying tokens (an `id_token` is passed on
unread), nor for the password and implicit grants, which RFC 9700 §2 took back. Async
use needs asyncio, and an Auth works with a client of its own httpx package only.
Follows RFC 6749, RFC 6750 (Bearer), RFC 7009 (revocation), RFC 7523 (private_key_jwt,
which needs the package joserfc), RFC 7636 (PKCE), RFC 8252 (loopback), RFC 8414
(metadata), RFC 8628 (devices), RFC 9126 (PAR), RFC 9207 (`iss`) and RFC 9700.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import hmac
import importlib
import ipaddress
import json
import logging
import math
import os
import re
import secrets
import selectors
import socket
import threading
import time
import urllib.parse
import webbrowser
import zlib
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import httpx

# fmt: off
__all__ = [
    "AuthorizationCode", "AuthorizationRequest", "ClientCredentials",
    "DeviceAuthorization", "DeviceFlow", "LoopbackListener", "MemoryTokenStore",
    "OAuth2Error", "RefreshToken", "ServerMetadata", "Token", "TokenStore", "adiscover",
    "arevoke", "discover", "pkce_challenge", "private_key_jwt", "revoke",
]
# fmt: on

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
#: A conversation with the authorization server: it yields requests, and seconds to
#: sleep; it is sent what came of a request. Blocking and async use drive the same one.
_Talk: TypeAlias = Generator["httpx.Request | float", Any, _T]
_Assert: TypeAlias = Callable[[dict[str, Any], str], Mapping[str, Any]]
ClientAuth: TypeAlias = Literal["basic", "post", "none"] | _Assert
State: TypeAlias = Literal["missing", "valid", "refreshing", "lost"]

#: What a token auth does in which state. **Missing**: there is no token that can be
#: used, and the first caller asks. **Refreshing**: a request is under way, and all who
#: come wait for it. **Valid**: requests go out with the token. **Lost**: the server
#: refused the refresh token (invalid_grant), so that asking again is in vain.
TRANSITIONS: dict[tuple[State, str], State] = {
    ("missing", "needed"): "refreshing",
    ("refreshing", "granted"): "valid",
    ("refreshing", "failed"): "missing",
    ("refreshing", "refused"): "lost",
    ("valid", "expired"): "missing",
    ("valid", "rejected"): "missing",
    ("missing", "given"): "valid",
    ("refreshing", "given"): "valid",
    ("valid", "given"): "valid",
    ("lost", "given"): "valid",
    ("refreshing", "forgotten"): "missing",
    ("valid", "forgotten"): "missing",
}

_TIMEOUT = 10.0  # seconds for a step of a request, with a client of our own
_OVERALL = 30.0  # seconds for a request with its answer, with any client
_LATE = f"no whole answer within {_OVERALL:g} s"
_PATIENCE = 120.0  # seconds until a flight that does not land is given up
_LOOK = 0.5  # seconds between two looks at whether a flight still has a loop
_LOCK_WAIT = 45.0  # seconds of waiting for another process's refresh
_LARGEST = 2**20  # bytes of an answer that are read, and that it may unpack to
_LONGEST = 16_384  # characters of a token, and of a callback's URL
_TEN_YEARS = 315_360_000  # seconds: no token is taken to live longer
_SLOWEST = 60.0  # seconds between two polls when the server cannot be reached
_CODE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,100}")  # RFC 6749 §A.7
_VISIBLE = re.compile(r"[\x21-\x7e]{1,16384}")  # a VSCHAR that a header field can have
_SCOPE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,4096}")  # RFC 6749 §A.4
_WEB = re.compile(r"https?://[\x21-\x7e]{1,2000}")
_TOKENLIKE = re.compile(r"[\w.~+/=-]{24,}")  # what may be a token in a description
_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.ASCII)
# What of a request may be repeated in an error: all else may be a secret.
_SHOWN = re.compile(
    "grant_type|scope|client_id|redirect_uri|response_type|code_challenge_method|"
    "client_assertion_type|token_type_hint|audience|resource|prompt"
)
# What httpx makes of a hostile Location, although it is not to follow it.
_LOCATION = (httpx.InvalidURL, UnicodeError)
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class OAuth2Error(Exception):
    """The authorization server refused, or what it sent cannot be used.

    `error` is its code (RFC 6749 §5.2 and its kin) or one of ours: `invalid_response`,
    `server_error` (5xx or 429 without a code), `state_mismatch`, `issuer_mismatch`,
    `redirect_mismatch`, `invalid_metadata`, `login_required` (there is no refresh
    token), `timeout`. `error_description` is the server's sentence without secrets that
    were sent to it, or what looks like a token. `retry_after` is in seconds.
    """

    def __init__(
        self,
        error: str,
        error_description: str | None = None,
        error_uri: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(error, error_description, error_uri, status, retry_after)
        self.error, self.error_description = error, error_description
        self.error_uri, self.status = error_uri, status
        self.retry_after = retry_after

    def __str__(self) -> str:
        told = f": {self.error_description}" if self.error_description else ""
        return f"{self.error}{told}" + (f" ({self.status})" if self.status else "")


class _Secret:
    """What holds secrets and is not pickled, since a pickle is read by anybody."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} holds secrets: it is not pickled")


@dataclass(frozen=True, slots=True)
class Token(_Secret):
    """A token set. Its repr hides the tokens.

    `token_type` is `Bearer` or `DPoP`, `expires_at` in seconds since the epoch and None
    where the server did not say, `expires_in` the seconds it was granted for.

    >>> Token("s3cret", expires_at=1000.0)
    Token(token_type='Bearer', expires_at=1000.0, scope=None, expires_in=None)
    """

    access_token: str = field(repr=False)
    token_type: str = "Bearer"  # noqa: S105
    expires_at: float | None = None
    scope: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    expires_in: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what a store keeps: JSON values, secrets and all."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> Token:
        """Return the token set of a mapping, or raise a ValueError if it is none."""
        if not isinstance(members, Mapping):
            raise ValueError("a token set is a mapping")
        known = {n: members[n] for n in cls.__slots__ if members.get(n) is not None}
        for name, value in known.items():
            number = type(value) in (int, float) and abs(value) < 1e12  # and no NaN
            if not (number if name[:7] == "expires" else isinstance(value, str)):
                raise ValueError("a token set has texts, and finite numbers of seconds")
        kind = _TYPES.get(known.setdefault("token_type", "Bearer").lower())
        if kind is None or not _VISIBLE.fullmatch(known.get("access_token", "")):
            raise ValueError("a token set has an access token of a known type")
        return cls(**{**known, "token_type": kind})


_TYPES = {"bearer": "Bearer", "dpop": "DPoP"}


class TokenStore(Protocol):
    """Where a token set is kept: one store for each, shared by those who use it.

    The methods are short and do not wait. What they raise reaches the callers.
    """

    def load(self) -> dict[str, Any] | None:
        """Return the token set, or None."""

    def save(self, token: dict[str, Any] | None) -> None:
        """Keep a token set in place of the one before; None forgets it."""

    def try_lock(self) -> bool:
        """Take the lock that a refresh is made under, if it is free."""

    def unlock(self) -> None:
        """Give the lock back."""


class MemoryTokenStore(TokenStore):
    """Keep a token set in memory, for those who share this object. Thread-safe."""

    def __init__(self) -> None:
        self._token: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def load(self) -> dict[str, Any] | None:
        return self._token and dict(self._token)

    def save(self, token: dict[str, Any] | None) -> None:
        self._token = token and dict(token)

    def try_lock(self) -> bool:
        return self._lock.acquire(blocking=False)

    def unlock(self) -> None:
        self._lock.release()


# -- what goes out, and what comes back: pure functions ----------------------------


def pkce_challenge(verifier: str) -> str:
    """Return the S256 challenge of a code verifier (RFC 7636 §4.2).

    Raises:
        ValueError: it is not 43 to 128 unreserved characters.

    >>> pkce_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM'
    """
    if not re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier):
        raise ValueError("a code verifier is 43 to 128 unreserved characters")
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _endpoint(url: object, name: str) -> str:
    """Return an endpoint's URL, which is https, or http to this machine."""
    try:
        parsed = httpx.URL(url if isinstance(url, httpx.URL | str) else "")
    except (httpx.InvalidURL, ValueError):  # ValueError: a host that is no IDNA
        parsed = httpx.URL("")
    safe = parsed.scheme == "https" and bool(parsed.host)
    safe = safe or (parsed.scheme == "http" and _is_loopback(parsed.host))
    # httpx would send userinfo as Basic authorization.
    if not safe or parsed.userinfo or parsed.fragment:
        raise ValueError(f"{name}: https, or http to this machine, and no userinfo")
    return str(parsed)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx gives None for a scheme's own port


class _Answer(NamedTuple):
    """What a request came to; no body where it was too large, or not to be decoded."""

    status: int
    headers: httpx.Headers
    body: bytes


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):  # who reads which of the two is anybody's guess
        raise ValueError("a member stands there twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a body, or None if it is none."""
    try:
        hooks: Any = {"object_pairs_hook": _members, "parse_constant": _refuse_constant}
        value = json.loads(body.decode(), **hooks)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _seconds(headers: httpx.Headers, now: float) -> float | None:
    """Return the seconds that a Retry-After asks for (RFC 9110 §10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text[:64])
        return max((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now, 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _hiding(text: str) -> str:
    """Return what finds a secret; a short one as a word, or half a sentence went."""
    found = re.escape(text)
    return found if len(text) >= 8 else rf"(?<!\w){found}(?!\w)"


def _error(
    members: Mapping[str, Any],
    known: Iterable[str] = (),
    status: int | None = None,
    retry_after: float | None = None,
) -> OAuth2Error | None:
    """Return the error that an answer or a callback states, or None.

    It is without the secrets in `known`, which the server may repeat.
    """
    texts = sorted(filter(None, known), key=len, reverse=True)
    hidden = re.compile("|".join(map(_hiding, texts)) or "(?!)")
    code, uri = members.get("error"), members.get("error_uri")
    if not isinstance(code, str) or not _CODE.fullmatch(code) or hidden.search(code):
        return None
    words = members.get("error_description")
    if isinstance(words, str):  # no longer than a sentence, and of one line
        words = _TOKENLIKE.sub("…", hidden.sub("…", words[:4096]))
        words = " ".join(re.sub(r"[^\x20-\x7e…]", " ", words).split())[:300]
    else:
        words = None
    if not isinstance(uri, str) or not _WEB.fullmatch(uri) or hidden.search(uri):
        uri = None
    return OAuth2Error(code, words or None, uri, status, retry_after)


def _read(answer: _Answer, now: float, known: Iterable[str] = ()) -> dict[str, Any]:
    """Return the members of an answer that is a success, or raise."""
    status, members = answer.status, _json_object(answer.body)
    if members is not None and members.get("error") is None and 200 <= status < 300:
        return members  # with a null for an error, as some send it
    after = _seconds(answer.headers, now)
    told = None if 300 <= status < 400 else _error(members or {}, known, status, after)
    if told is not None:
        raise told
    passing = status >= 500 or status == 429
    words = "the answer is no JSON object that can be used"
    code = "server_error" if passing else "invalid_response"
    raise OAuth2Error(code, None if passing else words, None, status, after)


def _unusable(what: str) -> OAuth2Error:
    return OAuth2Error("invalid_response", what)


def _text(value: object, form: re.Pattern[str] = _VISIBLE) -> str | None:
    """Return a text of that form, or None of anything else."""
    return value if isinstance(value, str) and form.fullmatch(value) else None


def _lifetime(value: object, name: str = "expires_in") -> float | None:
    """Return the seconds that a member says; longer than ten years is that.

    A number, or digits in a text, as some servers have it; below 0 is 0.
    """
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value):
        value = int(value)
    if type(value) not in (int, float) or value == math.inf:  # a bool is an int
        raise _unusable(f"{name} is no number of seconds")
    return float(min(max(value, 0), _TEN_YEARS))  # type: ignore[call-overload]


def _token(
    members: Mapping[str, Any],
    now: float,
    types: Mapping[str, str],
    scope: str | None,
    refresh_token: str | None,
) -> Token:
    """Return the token set of a response (RFC 6749 §5.1).

    `scope` and `refresh_token` are those of the request, which an answer may leave out.
    """
    access, kind = _text(members.get("access_token")), members.get("token_type")
    renewed = members.get("refresh_token") or refresh_token
    lifetime = _lifetime(members.get("expires_in"))
    if access is None:
        raise _unusable("there is no access token that can be sent")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise _unusable("the token is not of a type that is known")
    if renewed is not None and _text(renewed) is None:
        raise _unusable("the refresh token cannot be sent")
    return Token(
        access,
        types[kind.lower()],
        None if lifetime is None else now + lifetime,
        _text(members.get("scope"), _SCOPE) or scope,
        renewed,
        _text(members.get("id_token")),
        lifetime,
    )


def _names(scope: str | None) -> str | None:
    """Return a scope, which is one text: a list would be sent as several (§3.1)."""
    if not isinstance(scope, str | None):
        raise ValueError("scope: names in one text, with spaces between them")
    return scope


class _Registration:
    """A client as an authorization server knows it: what all of its requests share."""

    def __init__(
        self,
        client_id: str,
        client_secret: str | None,
        client_auth: ClientAuth,
        extra: Mapping[str, Any] | None,
        client: httpx.Client | httpx.AsyncClient | None,
        clock: Callable[[], float] | None,
        token_types: Collection[str] = ("Bearer",),
    ) -> None:
        if not client_id or not isinstance(client_id, str):
            raise ValueError("a client has a client_id")
        if not callable(client_auth) and client_auth not in ("basic", "post", "none"):
            raise ValueError("client_auth: basic, post, none, or a callable")
        if client_auth == "post" and not client_secret:
            raise ValueError("client_auth post needs a client_secret")
        if client_auth == "basic" and client_secret is None:
            client_auth = "none"
        if not {kind.lower() for kind in token_types} <= _TYPES.keys():
            raise ValueError("token_types: Bearer, DPoP")
        self.client_id, self.secret, self.auth = client_id, client_secret, client_auth
        self.extra, self.client = dict(extra or {}), client
        self.clock = clock or time.time
        self.types = {kind.lower(): _TYPES[kind.lower()] for kind in token_types}

    def _request(self, url: str, form: Mapping[str, Any]) -> httpx.Request:
        """Return a form request that the client is authenticated by."""
        form = {**self.extra, **{n: v for n, v in form.items() if v is not None}}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self.auth == "basic":
            # RFC 6749 §2.3.1: each is form-urlencoded first, or a % or : breaks it.
            pair = map(urllib.parse.quote_plus, (self.client_id, self.secret or ""))
            basic = base64.b64encode(":".join(pair).encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        else:
            form["client_id"] = self.client_id
            if self.auth == "post":
                form["client_secret"] = self.secret
            elif callable(self.auth):
                form.update(self.auth(dict(form), url))
        return httpx.Request("POST", url, data=form, headers=headers)

    def ask(
        self, url: str, form: Mapping[str, Any], reads: bool = True
    ) -> _Talk[dict[str, Any]]:
        """Ask the server, and return the members of its answer."""
        request = self._request(url, form)
        answer = yield request
        if isinstance(answer, Exception):
            raise answer
        if not reads and 200 <= answer.status < 300:
            return {}
        sent = urllib.parse.parse_qsl(request.content.decode())
        known = [value for name, value in sent if not _SHOWN.fullmatch(name)]
        known += [self.secret or "", request.headers.get("authorization", "")[6:]]
        known += map(urllib.parse.quote_plus, known[:])
        return _read(answer, self.clock(), known)

    def token(
        self, url: str, form: Mapping[str, Any], scope: str | None
    ) -> _Talk[Token]:
        """Ask for a token set; its time runs from before it was asked for."""
        now = self.clock()
        members = yield from self.ask(url, form)
        return _token(members, now, self.types, scope, form.get("refresh_token"))


def private_key_jwt(
    client_id: str,
    key: Mapping[str, Any] | str,
    *,
    audience: str | None = None,
    algorithm: str | None = None,
    kid: str | None = None,
    lifetime: float = 60,
    clock: Callable[[], float] | None = None,
) -> _Assert:
    """Return a `client_auth` that signs an assertion for each request (RFC 7523 §2.2).

    `key` is a private one, as a JWK or as PEM; `kid` its name at the server, by default
    the JWK's; `algorithm` by default the key's own, or one that fits it. `audience` is
    the server's issuer; without one, the URL that is asked. `lifetime` is in seconds.

    Raises:
        ImportError: the package joserfc is not there.
        ValueError: the key is no private key of RSA, EC or OKP.
    """
    try:
        jwk: Any = importlib.import_module("joserfc.jwk")
        jwt: Any = importlib.import_module("joserfc.jwt")
    except ImportError as exc:
        raise ImportError("private_key_jwt needs the package joserfc") from exc
    signer = None
    for kind in (jwk.RSAKey, jwk.ECKey, jwk.OKPKey):
        with suppress(Exception):  # each refuses the others' keys by its own errors
            signer = kind.import_key(dict(key) if isinstance(key, Mapping) else key)
            break
    if signer is None or not signer.is_private:
        raise ValueError("private_key_jwt: no private key of RSA, EC or OKP")
    curves = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
    curve = getattr(signer, "curve_name", "")
    name = algorithm or signer.alg or curves.get(curve, curve or "RS256")
    head = {"alg": name, "kid": kid or signer.kid}
    head = {name: value for name, value in head.items() if value}
    seconds = clock or time.time

    def assertion(form: dict[str, Any], url: str) -> Mapping[str, Any]:
        now = int(seconds())
        claims: dict[str, Any] = {"iss": client_id, "sub": client_id}
        claims |= {"aud": audience or url, "jti": secrets.token_urlsafe(24)}
        claims |= {"iat": now, "exp": math.ceil(now + lifetime)}
        signed = jwt.encode(head, claims, signer, algorithms=[name])
        return {"client_assertion_type": _ASSERTION, "client_assertion": signed}

    return assertion


# -- doing: the two drivers ---------------------------------------------------------


def _anew(error: Exception) -> Exception:
    """Return a copy of an error, so that each who raises it has a traceback of its own.

    Errors of httpx hold the request, with its form and its credentials: the copy has
    one with neither.
    """
    try:
        other = copy.copy(error)
    except Exception:  # a class with a constructor of its own kind
        other = error
    if isinstance(error, httpx.RequestError):
        if other is error:
            other = httpx.TransportError(str(error))
        with suppress(RuntimeError):  # it has no request
            sent = error.request
            bare = httpx.Request(sent.method, sent.url.copy_with(query=None))
            other.request = bare  # type: ignore[attr-defined]
    elif not isinstance(error, OAuth2Error):  # of a store, or a fault: tell where
        other = other.with_traceback(error.__traceback__)
    return other


def _failure(error: Exception) -> _Answer | Exception:
    """Return what an error of sending comes to."""
    if isinstance(error, httpx.HTTPStatusError):  # by a hook of the client's
        return _Answer(error.response.status_code, error.response.headers, b"")
    if isinstance(error, httpx.RequestError):
        return _anew(error)
    return _unusable("the answer is a redirect to nowhere")


def _answer(response: httpx.Response, body: bytes) -> _Answer:
    """Return the answer of a response that has been read."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if response.is_stream_consumed:  # by a hook, or a mock: it is unpacked by now
        body, coding = response.content, ""
    if len(body) > _LARGEST or coding not in ("", "identity", "gzip", "x-gzip"):
        body = b""
    elif "gzip" in coding:  # although we asked for identity
        try:
            body = zlib.decompressobj(31).decompress(body, _LARGEST + 1)
        except zlib.error:
            body = b""
    kept = body if len(body) <= _LARGEST else b""
    return _Answer(response.status_code, response.headers, kept)


def _alone(client: Any, request: httpx.Request) -> dict[str, Any]:
    """Return how a request is sent: it takes nothing of the client's but its name.

    Its authorization and its redirects would take credentials where they do not belong,
    and without any name some servers refuse to answer.
    """
    request.headers.setdefault("User-Agent", client.headers.get("user-agent", "httpx"))
    alone = {"auth": httpx.Auth(), "follow_redirects": False, "stream": True}
    return {"request": request, **alone}


def _send(client: httpx.Client, request: httpx.Request) -> _Answer | Exception:
    """Send a request and read its answer, or return what kept it from coming."""
    until, body = time.monotonic() + _OVERALL, bytearray()
    try:
        response = client.send(**_alone(client, request))
        try:
            if not response.is_stream_consumed:
                for chunk in response.stream:  # type: ignore[union-attr]
                    body += chunk
                    if len(body) > _LARGEST:
                        break
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout(_LATE, request=request)
            return _answer(response, bytes(body))
        finally:
            response.close()
    except (httpx.HTTPError, *_LOCATION) as exc:
        return _failure(exc)


async def _asend(
    client: httpx.AsyncClient, request: httpx.Request
) -> _Answer | Exception:
    """Send a request and read its answer, or return what kept it from coming."""
    body = bytearray()
    try:
        async with asyncio.timeout(_OVERALL):
            response = await client.send(**_alone(client, request))
            try:
                if not response.is_stream_consumed:
                    async for chunk in response.stream:  # type: ignore[union-attr]
                        body += chunk
                        if len(body) > _LARGEST:
                            break
                return _answer(response, bytes(body))
            finally:
                await response.aclose()
    except TimeoutError:
        return _anew(httpx.ReadTimeout(_LATE, request=request))
    except (httpx.HTTPError, *_LOCATION) as exc:
        return _failure(exc)


def _require(client: object, kind: type) -> None:
    """Refuse a client of the other kind: it stands for a proxy, or for certificates."""
    if client is not None and not isinstance(client, kind):
        raise TypeError(f"client: this use needs an httpx.{kind.__name__}, or none")


def _drive(
    talk: _Talk[_T],
    client: Any,
    sleep: Callable[[float], object] | None = None,
) -> _T:
    """Hold a conversation in the calling thread."""
    with ExitStack() as stack:
        stack.callback(talk.close)
        _require(client, httpx.Client)
        answer = None
        while True:
            try:
                step = talk.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if isinstance(step, float):
                (sleep or time.sleep)(step)
                answer = None
                continue
            if client is None:
                client = stack.enter_context(httpx.Client(timeout=_TIMEOUT))
            answer = _send(client, step)


async def _adrive(
    talk: _Talk[_T],
    client: Any,
    sleep: Callable[[float], Awaitable[object]] | None = None,
) -> _T:
    """Hold a conversation in the current task."""
    async with AsyncExitStack() as stack:
        stack.callback(talk.close)
        _require(client, httpx.AsyncClient)
        answer = None
        while True:
            try:
                step = talk.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if isinstance(step, float):
                await (sleep or asyncio.sleep)(step)
                answer = None
                continue
            if client is None:  # made and closed here: it is bound to no other loop
                own = httpx.AsyncClient(timeout=_TIMEOUT)
                client = await stack.enter_async_context(own)
            answer = await _asend(client, step)


# -- tokens in use ------------------------------------------------------------------


# Twin of _replayable in errors/retry.py.
def _replayable(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bool:
    """Tell whether a body can be sent again: bytes, or a form whose files rewind."""
    if isinstance(stream, httpx.ByteStream):
        return True
    fields = getattr(stream, "fields", None)  # httpx's multipart form
    files = [getattr(field, "file", b"") for field in fields or ()]
    rewind = (
        isinstance(f, bytes | str) or getattr(f, "seekable", bool)() for f in files
    )
    return fields is not None and all(rewind)


_OWN_WAIT = (
    "a call for a token inside of what fetches it, or a blocking one on the thread of "
    "the event loop that does: await it there, in another task"
)


class _Flight:
    """One conversation for a token, and what came of it for all who wait.

    The outcome is a token, an error, or None: nobody came back from it, ask again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.outcome: Future[Token | Exception | None] = Future()
        self.outcome.set_running_or_notify_cancel()  # from here on no waiter can cancel
        self.loop, self.thread, self.pid = loop, threading.get_ident(), os.getpid()
        self.until = time.monotonic() + _PATIENCE
        self.talk: _Talk[Token] | None = None
        self.task: asyncio.Task[None] | None = None  # a loop keeps weak references only

    def is_lost(self) -> bool:
        """Tell whether nobody will bring it to an end."""
        here, loop = self.thread == threading.get_ident(), self.loop
        gone = (
            self.pid != os.getpid()  # it flies in the process that we were forked from
            or (self.task is not None and self.task.done())  # cancelled before it began
            or (loop and (loop.is_closed() or (here and not loop.is_running())))
            or time.monotonic() > self.until
        )
        return bool(gone) and not self.outcome.done()  # the last look: it lands first

    def wait(self) -> Token | Exception | None:
        """Wait for the outcome in this thread."""
        here = self.thread == threading.get_ident()
        if here and not self.outcome.done():  # it cannot go on while we wait
            raise RuntimeError(_OWN_WAIT)
        while not self.is_lost():
            with suppress(TimeoutError):
                return self.outcome.result(_LOOK)
        return None

    async def await_(self) -> Token | Exception | None:
        """Wait for the outcome in this task."""
        if self.task is asyncio.current_task():
            raise RuntimeError(_OWN_WAIT)
        while not self.is_lost():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    # Not shielded: to cancel it does nothing to the flight, and a
                    # shielded one would be told after its loop was closed.
                    return await asyncio.wrap_future(self.outcome)
        return None


class _TokenAuth(httpx.Auth):
    """Send a token with each request, and renew it once for all who need it."""

    _renews = False  # whether the renewal is by a refresh token, which can be refused

    def __init__(
        self,
        registration: _Registration,
        token_url: str,
        scope: str | None,
        origins: Iterable[httpx.URL | str] | None,
        leeway: float,
        store: TokenStore | None,
        on_token: Callable[[Token], object] | None,
    ) -> None:
        if not 0 <= leeway < math.inf:
            raise ValueError("leeway: seconds, not negative and finite")
        self._registration, self._clock = registration, registration.clock
        self._url, self._scope = _endpoint(token_url, "token_url"), _names(scope)
        self._leeway, self._on_token = leeway, on_token
        self._store: TokenStore = MemoryTokenStore() if store is None else store
        self._saving = threading.RLock()  # the store and the state change together
        self._lock = threading.Lock()  # for the state below, and never held over I/O
        self._state: State = "missing"
        self._token: Token | None = None
        self._usable: tuple[Token, float] | None = None  # and until when
        self._flight: _Flight | None = None
        self._refusal: Exception | None = None
        self._unsaved: Token | None = None  # it came, but the store failed
        self._rejected: str | None = None  # an access token that an API refused
        self._refresh_token: str | None = None  # of the caller, as long as no other is
        self._mine: tuple[str, ...] = ()  # Authorization values it has set of late
        self._warned: set[tuple[str, str, int | None]] = set()
        self._origins = None if origins is None else _origins(origins)
        if (kept := self._kept()) is not None:
            self._give(kept)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} {self._registration.client_id!r}: {self._state}>"

    @property
    def token(self) -> Token | None:
        """The token set that is held, expired or not; one that is set is saved too."""
        return self._token

    @token.setter
    def token(self, token: Token) -> None:
        with self._saving:
            self._store.save(token.to_dict())
            self._give(token)

    def forget(self) -> None:
        """Forget the token set, its refresh token too, here and in the store."""
        with self._saving:
            with self._lock:
                if self._state in ("valid", "refreshing"):
                    self._move("forgotten")
                self._token = self._unsaved = self._refresh_token = None
            self._store.save(None)

    def get_token(self) -> Token:
        """Return a token that can be used, asking for one where there is none.

        Raises:
            OAuth2Error: the server refused, or sent what cannot be used.
            httpx.TransportError: it could not be reached.
            RuntimeError: the caller would wait for itself.
        """
        _require(self._registration.client, httpx.Client)
        while True:
            flight, leads = self._board(None)
            if isinstance(flight, Token):
                return flight
            if leads:
                outcome: Token | Exception | None = None
                flight.talk = self._renewal(flight)
                try:
                    outcome = _drive(flight.talk, self._registration.client)
                except Exception as exc:
                    outcome = exc
                finally:  # a KeyboardInterrupt too: those who wait ask again
                    self._land(flight, outcome)
            else:
                outcome = flight.wait()
            if isinstance(outcome, Exception):
                raise _anew(outcome)
            if outcome is not None:
                return outcome

    async def aget_token(self) -> Token:
        """Return a token that can be used, as `get_token`."""
        _require(self._registration.client, httpx.AsyncClient)
        loop = asyncio.get_running_loop()
        while True:
            flight, leads = self._board(loop)
            if isinstance(flight, Token):
                return flight
            if leads:  # in a task of its own, which no caller's cancelling ends
                flight.task = loop.create_task(self._fly(flight))
            outcome = await flight.await_()
            if isinstance(outcome, Exception):
                raise _anew(outcome)
            if outcome is not None:
                return outcome

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with the token, and once more if the token was refused."""
        if not self._is_for(request):
            yield request
            return
        token, again = self._valid() or self.get_token(), _replayable(request.stream)
        response = yield self._signed(request, token)
        if self._refuses(response, token) and again:
            yield self._signed(response.request, self.get_token())

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send a request with the token, and once more if the token was refused."""
        if not self._is_for(request):
            yield request
            return
        token = self._valid() or await self.aget_token()
        again = _replayable(request.stream)
        response = yield self._signed(request, token)
        if self._refuses(response, token) and again:
            yield self._signed(response.request, await self.aget_token())

    def _is_for(self, request: httpx.Request) -> bool:
        """Tell whether a request gets the token: by its origin, and by what it has."""
        given = "Authorization" in request.headers
        if given and request.headers["Authorization"] not in self._mine:
            return False
        origin = _origin(request.url)
        if self._origins is None:
            with self._lock:
                self._origins = self._origins or frozenset({origin})
        if origin in self._origins:
            return True
        if given:  # sent again to elsewhere, with a token of ours on it
            del request.headers["Authorization"]
        if origin not in self._warned and len(self._warned) < 100:
            self._warned.add(origin)
            place = request.url.scheme, request.url.netloc.decode()
            _log.warning("no token is sent to %s://%s: not one of its origins", *place)
        return False

    def _valid(self) -> Token | None:
        usable = self._usable
        if usable is not None and self._clock() < usable[1]:
            return usable[0]
        return None

    def _signed(self, request: httpx.Request, token: Token) -> httpx.Request:
        value = f"{token.token_type} {token.access_token}"
        request.headers["Authorization"] = value
        if value not in self._mine:
            self._mine = (*self._mine[-7:], value)
        return request

    def _refuses(self, response: httpx.Response, token: Token) -> bool:
        """Tell whether a token was refused where it is for, and use it no more then."""
        request = response.request  # the last one, where there were redirects
        sent = f"{token.token_type} {token.access_token}"
        if response.status_code != 401 or request.headers.get("Authorization") != sent:
            return False  # httpx took it off on the way
        if _origin(request.url) not in (self._origins or ()):
            return False
        challenges = ", ".join(response.headers.get_list("www-authenticate"))[:2048]
        found = _PARAMETER.findall(challenges)
        errors = [quoted or bare for name, quoted, bare in found if name == "error"]
        if errors and "invalid_token" not in errors:  # RFC 6750 §3.1
            return False
        with self._lock:
            self._rejected = token.access_token
            if self._state == "valid" and self._token is token:  # no newer one
                self._move("rejected")
        return True

    # What follows until `_land` is the flight: who asks, who waits, and what for.

    async def _fly(self, flight: _Flight) -> None:
        outcome: Token | Exception | None = None
        flight.talk = self._renewal(flight)
        try:
            outcome = await _adrive(flight.talk, self._registration.client)
        except Exception as exc:
            outcome = exc
        finally:
            self._land(flight, outcome)

    def _board(
        self, loop: asyncio.AbstractEventLoop | None
    ) -> tuple[Token | _Flight, bool]:
        """Return the token, or the flight to wait for and whether to lead it."""
        if self._state == "lost":
            with self._saving:
                if (kept := self._kept()) is not None:
                    self._give(kept)  # another process has a new one
        lost = None
        with self._lock:
            if self._state == "refreshing" and self._flight and self._flight.is_lost():
                lost = self._flight
                self._move("failed")
            if self._state == "valid" and self._usable is not None:
                token, until = self._usable
                if self._clock() < until:
                    return token, False
                self._move("expired")
            if self._state == "lost" and self._refusal is not None:
                raise _anew(self._refusal)
            flight, leads = self._flight, self._state == "missing"
            if leads or flight is None:
                self._move("needed")
                self._flight = flight = _Flight(loop)
        if lost is not None and lost.talk is not None:
            with suppress(Exception):  # it runs after all, and ends by itself
                lost.talk.close()  # gives the store's lock back
        return flight, leads

    def _renewal(self, flight: _Flight) -> _Talk[Token]:
        """Get a token under the store's lock: another's, or a new one to save."""
        delay, waited = 0.01, 0.0
        while not self._store.try_lock():
            if waited > _LOCK_WAIT:
                raise OAuth2Error("timeout", "another refresh holds the store's lock")
            yield delay
            waited, delay = waited + delay, min(delay * 2, 0.5)
        try:
            kept = self._kept()
            if kept is not None and self._serves(kept):
                self._unsaved = None
                return kept  # another process was faster
            token = self._unsaved
            if token is None or not self._serves(token):
                held = token or kept or self._token
                try:
                    token = yield from self._grant(held)
                except OAuth2Error as exc:
                    with self._saving:
                        if self._renews and _is_final(exc) and self._flight is flight:
                            self._store.save(None)
                    raise
            with self._saving:
                current = self._flight is flight  # not forgotten or replaced meanwhile
                if current:
                    # A refresh token that cannot be stored is kept for the next
                    # attempt, since the one before is spent.
                    self._unsaved = token
                    self._store.save(token.to_dict())
            if current:
                if self._on_token is not None:
                    self._on_token(token)
                self._unsaved = None
            return token
        finally:
            self._store.unlock()

    def _grant(self, held: Token | None) -> _Talk[Token]:
        raise NotImplementedError

    def _land(self, flight: _Flight, outcome: Token | Exception | None) -> None:
        """Tell the outcome of a flight to all who wait, once."""
        with self._lock:
            if flight.outcome.done():
                return
            if self._flight is flight:
                if isinstance(outcome, Token):
                    self._hold(outcome, "granted")
                elif self._renews and _is_final(outcome):
                    self._token, self._refusal = None, outcome
                    self._refresh_token = None
                    self._move("refused")
                else:
                    self._move("failed")
            done = flight.outcome
        with suppress(Exception):  # told by another thread a moment ago
            done.set_result(outcome)

    # What follows is called with the lock held, but for `_kept` and `_give`.

    def _move(self, event: str) -> None:
        self._state = TRANSITIONS[self._state, event]
        if self._state != "valid":
            self._usable = None
        self._flight = None

    def _hold(self, token: Token, event: str) -> None:
        self._move(event)
        self._token, self._usable = token, (token, self._until(token))
        self._refresh_token = self._rejected = None

    def _give(self, token: Token) -> None:
        with self._lock:
            self._refusal = self._unsaved = None
            self._hold(token, "given")

    def _until(self, token: Token) -> float:
        """Return when a token is to be renewed: somewhat before it expires."""
        if token.expires_at is None:
            return math.inf
        life = math.inf if token.expires_in is None else token.expires_in
        return token.expires_at - min(self._leeway, life / 2)

    def _serves(self, token: Token) -> bool:
        refused = token.access_token == self._rejected
        return not refused and self._clock() < self._until(token)

    def _kept(self) -> Token | None:
        """Return the token set in the store, unless it is none that can be used."""
        kept = self._store.load()
        if kept is None:
            return None
        try:
            token = Token.from_dict(kept)
        except ValueError:
            token = None
        if token is None or token.token_type not in self._registration.types.values():
            _log.warning("the token store holds no token set of ours: not used")
            return None
        return token


def _is_final(outcome: object) -> bool:
    """Tell whether the server refused a refresh token for good (RFC 6749 §5.2)."""
    refused = isinstance(outcome, OAuth2Error) and outcome.error == "invalid_grant"
    return refused and (outcome.status or 0) < 500  # type: ignore[attr-defined]


def _origins(urls: Iterable[httpx.URL | str]) -> frozenset[tuple[str, str, int | None]]:
    urls = [urls] if isinstance(urls, httpx.URL | str) else urls
    parsed = [httpx.URL(url) for url in urls]
    if not all(url.scheme in ("http", "https") and url.host for url in parsed):
        raise ValueError("origins: absolute http or https URLs")
    return frozenset(_origin(url) for url in parsed)


class ClientCredentials(_TokenAuth):
    """Call an API as oneself (RFC 6749 §4.4): an `httpx.Auth`.

    For a missing, expired or refused token the server is asked once, in a flight of its
    own: whoever comes meanwhile shares its token or its error, and the cancelling of a
    caller ends that caller alone. A later caller asks again. A request that is answered
    by 401 is sent once more with a newer token, unless its body cannot be sent again,
    or the 401 comes from elsewhere or names an error other than `invalid_token`. A
    request that has an `Authorization` keeps it. Thread-safe and task-safe, across
    event loops too.

    Args:
        token_url: the token endpoint: https, or http to a loopback address.
        client_id: the client's name at the server.
        client_secret: its password; None for a public client.
        scope: names with spaces between them.
        client: what talks to the authorization server: an `httpx.Client` for blocking
            calls, an `httpx.AsyncClient` for async ones, else it is a TypeError. By
            default each flight makes one, with timeouts of 10 s. An async answer may
            take 30 s in all, a blocking one 30 s for its body.
        client_auth: `basic`, `post`, `none`, or a callable of the form and the URL that
            returns further form parameters, as `private_key_jwt` makes one.
        extra: further parameters of each token request, such as `audience`.
        origins: URLs of the APIs that the token is for; by default the origin of the
            first request. Requests to others go without it.
        leeway: seconds before its expiry at which a token is renewed, at most half of
            its life.
        store: where the token is kept; by default in this object.
        clock: seconds since the epoch.
        token_types: `Bearer`, and `DPoP` where a transport adds the proofs.

    >>> def server(request):
    ...     if request.url.path == "/token":
    ...         token = {"access_token": "t", "token_type": "bearer"}
    ...         return httpx.Response(200, json=token)
    ...     return httpx.Response(200, text=request.headers["authorization"])
    >>> asks = httpx.Client(transport=httpx.MockTransport(server))
    >>> auth = ClientCredentials(
    ...     token_url="https://as.test/token", client_id="me", client_secret="s",
    ...     client=asks,
    ... )
    >>> httpx.Client(transport=httpx.MockTransport(server), auth=auth).get(
    ...     "https://api.test"
    ... ).text
    'Bearer t'
    """

    def __init__(
        self,
        *,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        scope: str | None = None,
        client: httpx.Client | httpx.AsyncClient | None = None,
        client_auth: ClientAuth = "basic",
        extra: Mapping[str, Any] | None = None,
        origins: Iterable[httpx.URL | str] | None = None,
        leeway: float = 30,
        store: TokenStore | None = None,
        clock: Callable[[], float] | None = None,
        token_types: Collection[str] = ("Bearer",),
    ) -> None:
        known = client_id, client_secret, client_auth, extra, client, clock, token_types
        super().__init__(
            _Registration(*known),
            *(token_url, scope, origins, leeway, store, None),
        )

    def _grant(self, held: Token | None) -> _Talk[Token]:
        form = {"grant_type": "client_credentials", "scope": self._scope}
        return self._registration.token(self._url, form, self._scope)


class RefreshToken(_TokenAuth):
    """Call an API for a user who has given leave (RFC 6749 §6): an `httpx.Auth`.

    Behaves as `ClientCredentials`, whose other arguments it has. A new refresh token is
    in the store before anybody gets the access token that came with it; where there is
    none, the old one stays. `invalid_grant` is final: the token set is forgotten, and
    calls raise at once until `token` is set, or another process has put one in the
    store. Any other error leaves it as it was.

    A refresh is made under the store's lock, and not at all if another process has put
    a newer token there. What the store has goes before `refresh_token`, and before a
    `token` that is to be renewed earlier.

    Args:
        refresh_token: one that was got elsewhere.
        token: the token set of a login.
        store: where the token set is kept; by default in this object.
        on_token: called with each new token set after it was saved.

    >>> auth = RefreshToken(
    ...     token_url="https://as.test/token", client_id="app", refresh_token="r1"
    ... )
    >>> auth
    <RefreshToken 'app': missing>
    """

    _renews = True

    def __init__(
        self,
        *,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        refresh_token: str | None = None,
        token: Token | None = None,
        store: TokenStore | None = None,
        scope: str | None = None,
        client: httpx.Client | httpx.AsyncClient | None = None,
        client_auth: ClientAuth = "basic",
        extra: Mapping[str, Any] | None = None,
        origins: Iterable[httpx.URL | str] | None = None,
        leeway: float = 30,
        on_token: Callable[[Token], object] | None = None,
        clock: Callable[[], float] | None = None,
        token_types: Collection[str] = ("Bearer",),
    ) -> None:
        known = client_id, client_secret, client_auth, extra, client, clock, token_types
        super().__init__(
            _Registration(*known),
            *(token_url, scope, origins, leeway, store, on_token),
        )
        kept = self.token
        if token is not None and (
            kept is None or self._until(kept) < self._until(token)
        ):
            self.token = token
        self._refresh_token = refresh_token

    def _grant(self, held: Token | None) -> _Talk[Token]:
        refresh_token = (held and held.refresh_token) or self._refresh_token
        if refresh_token is None:
            raise OAuth2Error("login_required", "there is no refresh token")
        form = {"grant_type": "refresh_token", "scope": self._scope}
        form["refresh_token"] = refresh_token
        scope = self._scope
        if scope is None and held is not None:  # RFC 6749 §6: the same as before
            scope = held.scope
        return self._registration.token(self._url, form, scope)


# -- the first token of a user ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthorizationRequest(_Secret):
    """A login that was begun: send the browser to `url`, and keep the rest for later.

    A web application keeps it in the user's session (`dataclasses.asdict`), since the
    callback must come from the browser that began. Its repr hides the secrets.
    """

    url: str = field(repr=False)
    state: str = field(repr=False)
    code_verifier: str = field(repr=False)
    redirect_uri: str


class AuthorizationCode:
    """Get a user's leave through the browser (RFC 6749 §4.1), always with PKCE S256.

    `start` gives the URL for the browser, `exchange` takes the URL that it came back
    to; `authorize` does both for a tool on the user's own machine. An `a` before the
    name is for async use.

    Args:
        authorization_url: the authorization endpoint.
        redirect_uri: where the browser comes back to, as registered; of one on this
            machine `authorize` takes the path, and the system chooses the port.
        issuer: the server's issuer, which an `iss` in a callback must equal (RFC 9207).
        require_iss: refuse a callback without `iss`.
        extra: further parameters of all requests, such as `resource` or `prompt`.
        par_url: where the request is pushed to first (RFC 9126).

    The other arguments are those of `ClientCredentials`.

    >>> flow = AuthorizationCode(
    ...     authorization_url="https://as.test/auth", token_url="https://as.test/token",
    ...     client_id="app", redirect_uri="https://app.test/callback",
    ... )
    >>> request = flow.start()
    >>> try:
    ...     flow.exchange(request, "https://app.test/callback?code=c&state=forged")
    ... except OAuth2Error as error:
    ...     error.error
    'state_mismatch'
    """

    def __init__(
        self,
        *,
        authorization_url: str,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        redirect_uri: str | None = None,
        scope: str | None = None,
        issuer: str | None = None,
        client: httpx.Client | httpx.AsyncClient | None = None,
        client_auth: ClientAuth = "basic",
        extra: Mapping[str, Any] | None = None,
        par_url: str | None = None,
        clock: Callable[[], float] | None = None,
        token_types: Collection[str] = ("Bearer",),
        require_iss: bool = False,
    ) -> None:
        if require_iss and issuer is None:
            raise ValueError("require_iss needs an issuer to compare with")
        known = client_id, client_secret, client_auth, extra, client, clock, token_types
        self._registration = _Registration(*known)
        self._url = _endpoint(authorization_url, "authorization_url")
        self._token_url = _endpoint(token_url, "token_url")
        self._par_url = None if par_url is None else _endpoint(par_url, "par_url")
        self._redirect_uri, self._scope = redirect_uri, _names(scope)
        self._issuer, self._require_iss = issuer, require_iss

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], *, client_id: str, **options: Any
    ) -> AuthorizationCode:
        """Return the flow at a server whose metadata were discovered.

        Pushes and `iss` are used where it says so. `options` are the constructor's.

        Raises:
            OAuth2Error: the server has no such endpoints.
        """
        found = {
            "authorization_url": metadata.get("authorization_endpoint"),
            "token_url": metadata.get("token_endpoint"),
            "issuer": metadata.get("issuer"),
        }
        if metadata.get("require_pushed_authorization_requests") is True:
            found["par_url"] = metadata.get("pushed_authorization_request_endpoint")
        if None in found.values():
            raise OAuth2Error("invalid_metadata", "there is no such endpoint")
        sends_iss = metadata.get("authorization_response_iss_parameter_supported")
        found["require_iss"] = sends_iss is True
        return cls(client_id=client_id, **{**found, **options})

    def start(self, redirect_uri: str | None = None) -> AuthorizationRequest:
        """Begin a login; with a `par_url` this is a request to the server.

        Raises:
            OAuth2Error: the server refused the pushed request.
            ValueError: there is no redirect URI.
        """
        return _drive(self._start(redirect_uri), self._registration.client)

    async def astart(self, redirect_uri: str | None = None) -> AuthorizationRequest:
        """Begin a login, as `start`."""
        return await _adrive(self._start(redirect_uri), self._registration.client)

    def exchange(self, request: AuthorizationRequest, callback_url: str) -> Token:
        """Return the token set for the URL that the browser came back to.

        Raises:
            OAuth2Error: the callback answers another request, or it is a refusal.
        """
        talk = self._exchange(request, callback_url)
        return _drive(talk, self._registration.client)

    async def aexchange(
        self, request: AuthorizationRequest, callback_url: str
    ) -> Token:
        """Return the token set for the URL that the browser came back to."""
        talk = self._exchange(request, callback_url)
        return await _adrive(talk, self._registration.client)

    def authorize(
        self,
        open: Callable[[str], object] | None = None,
        timeout: float = 300,
    ) -> Token:
        """Log in with the browser of this machine, and return the token set.

        `open` is called with the URL; by default it is `webbrowser.open`.

        Raises:
            OAuth2Error: as for `exchange`, and `timeout` after so many seconds.
        """
        with self._listener() as listener:
            request = self.start(listener.redirect_uri)
            (open or webbrowser.open)(request.url)
            return self.exchange(request, listener.wait(timeout))

    async def aauthorize(
        self,
        open: Callable[[str], object] | None = None,
        timeout: float = 300,
    ) -> Token:
        """Log in with the browser of this machine, as `authorize`."""
        with self._listener() as listener:
            request = await self.astart(listener.redirect_uri)
            (open or webbrowser.open)(request.url)
            return await self.aexchange(request, await listener.await_(timeout))

    def _listener(self) -> LoopbackListener:
        """Return one at the path that is registered, if that is on this machine."""
        parts = urllib.parse.urlsplit(self._redirect_uri or "")
        host = parts.hostname or ""
        if host == "localhost" or not _is_loopback(host):
            return LoopbackListener()
        return LoopbackListener(host, parts.path or "/")

    def _start(self, redirect_uri: str | None) -> _Talk[AuthorizationRequest]:
        redirect_uri = redirect_uri or self._redirect_uri
        if redirect_uri is None:
            raise ValueError("there is no redirect_uri, here or in the constructor")
        known, url = self._registration, httpx.URL(self._url)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        wanted = {
            **known.extra,
            "response_type": "code",
            "client_id": known.client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": pkce_challenge(verifier),
            "code_challenge_method": "S256",
        }
        if self._scope is not None:
            wanted["scope"] = self._scope
        if self._par_url is not None:
            members = yield from known.ask(self._par_url, wanted)
            pushed = _text(members.get("request_uri"))
            if pushed is None:
                raise _unusable("the push gave no request_uri")
            wanted = {"client_id": known.client_id, "request_uri": pushed}
        url = url.copy_merge_params(wanted)
        return AuthorizationRequest(str(url), state, verifier, redirect_uri)

    def _exchange(self, request: AuthorizationRequest, callback: str) -> _Talk[Token]:
        code = self._code(request, callback)
        form = {"grant_type": "authorization_code", "code": code}
        form |= {"redirect_uri": request.redirect_uri}
        form |= {"code_verifier": request.code_verifier}
        return self._registration.token(self._token_url, form, self._scope)

    def _code(self, request: AuthorizationRequest, callback: str) -> str:
        """Return the code of a callback that answers the request."""
        if _place(callback) is None or _place(callback) != _place(request.redirect_uri):
            raise OAuth2Error("redirect_mismatch", "the callback is of another address")
        found = _parameters(urllib.parse.urlsplit(callback).query)
        if found is None:
            raise _unusable("a parameter of the callback is doubled")
        state = found.get("state", "").encode(errors="surrogatepass")
        if not hmac.compare_digest(state, request.state.encode()) or not state:
            raise OAuth2Error("state_mismatch", "the callback answers another request")
        issuer, wanted = found.get("iss"), self._issuer
        checked = wanted is not None and (self._require_iss or issuer is not None)
        if checked and issuer != wanted:  # RFC 9207 §2.4
            raise OAuth2Error("issuer_mismatch", "the callback is of another server")
        if "error" in found:
            told = _error(found, (request.state, request.code_verifier))
            raise told or _unusable("an error without a code")
        code = found.get("code", "")
        if not re.fullmatch(r"[\x20-\x7e]{1,4096}", code):
            raise _unusable("the callback has no code")
        return code


def _place(url: object) -> tuple[Any, ...] | None:
    """Return what of a redirect URI is compared, or None of what is no URL."""
    if not isinstance(url, str) or len(url) > _LONGEST:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, port, parts.path or "/"
    except ValueError:
        return None


def _parameters(query: str) -> dict[str, str] | None:
    """Return the parameters of a query, or None if one of them stands there twice."""
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        return None
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


_PAGE = b"""<!doctype html><meta charset="utf-8"><title>Done</title>
<p>You can close this window and go back to where you came from."""
_REPLY = """HTTP/1.1 %s\r
Content-Type: text/html; charset=utf-8\r
Content-Length: %d\r
Cache-Control: no-store\r
Referrer-Policy: no-referrer\r
Content-Security-Policy: default-src 'none'\r
Connection: close\r
\r
"""
_HEAD = 16_384  # bytes of a request that the listener reads
_GUESTS = 32  # connections that it has open at a time


class LoopbackListener:
    """Wait on this machine for the browser to come back (RFC 8252 §7.3).

    A context manager. The system chooses the port; `redirect_uri` has it. Connections
    that say nothing hold nobody up, since browsers open some in advance. `host` is a
    loopback address, not `localhost`, which may be another's (§8.3). Any path but
    `path` is a 404.

    >>> with LoopbackListener() as listener:
    ...     listener.redirect_uri.rpartition(":")[0]
    'http://127.0.0.1'
    """

    def __init__(self, host: str = "127.0.0.1", path: str = "/callback") -> None:
        if not _is_loopback(host) or host == "localhost" or not path.startswith("/"):
            raise ValueError("a loopback address, and a path that begins with /")
        self._host, self._path = host, path

    def __enter__(self) -> LoopbackListener:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._server = socket.create_server((self._host, 0), family=family)
        self._server.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    @property
    def redirect_uri(self) -> str:
        """The address that the browser is to come back to."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.getsockname()[1]}{self._path}"

    def wait(self, timeout: float = 300) -> str:
        """Return the URL of the first request that has a code or an error, and a state.

        Raises:
            OAuth2Error: `timeout`: none came within so many seconds.
        """
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            if (callback := self._look(left)) is not None:
                return callback
        raise OAuth2Error("timeout", f"the browser did not come back in {timeout:g} s")

    async def await_(self, timeout: float = 300) -> str:
        """Return the URL that the browser came back to, as `wait`."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if (callback := self._look(0)) is not None:
                return callback
            await asyncio.sleep(0.05)
        raise OAuth2Error("timeout", f"the browser did not come back in {timeout:g} s")

    def _look(self, seconds: float) -> str | None:
        """Serve who has come within so many seconds, up to the callback."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._accept()
                continue
            guest: Any = key.fileobj
            try:
                chunk = guest.recv(4096)
            except OSError:
                chunk = b""
            key.data.extend(chunk)
            if chunk and b"\r\n\r\n" not in key.data and len(key.data) < _HEAD:
                continue
            target = _target(bytes(key.data), self._path)
            with suppress(OSError):
                status = "404 Not Found" if target is None else "200 OK"
                page = b"" if target is None else _PAGE
                guest.sendall((_REPLY % (status, len(page))).encode() + page)
            self._drop(guest)
            if target is not None:
                return self.redirect_uri.removesuffix(self._path) + target
        return None

    def _accept(self) -> None:
        with suppress(OSError):
            guest, _ = self._server.accept()
            guest.setblocking(False)
            self._selector.register(guest, selectors.EVENT_READ, bytearray())
        keys = self._selector.get_map().values()
        guests = [key.fileobj for key in keys if key.data is not None]
        if len(guests) > _GUESTS:
            self._drop(guests[0])

    def _drop(self, guest: Any) -> None:
        with suppress(KeyError, ValueError):  # dropped a moment ago, for another
            self._selector.unregister(guest)
        guest.close()


def _target(head: bytes, path: str) -> str | None:
    """Return the target of a request that is the callback, or None of any other."""
    line = re.match(rb"GET (/[\x21-\x7e]*) HTTP/1\.[01]\r\n", head)
    if line is None:
        return None
    target = line[1].decode()
    place, _, query = target.partition("?")
    found = _parameters(query) or {}
    answers = found.get("code") or found.get("error")
    return target if place == path and answers and found.get("state") else None


@dataclass(frozen=True, slots=True)
class DeviceAuthorization(_Secret):
    """What to show to the user: go to `verification_uri`, and enter `user_code`.

    `verification_uri_complete`, where it is there, has the code in it, for a QR code.
    `expires_at` is in seconds since the epoch, `interval` in seconds.
    """

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_at: float
    interval: float
    device_code: str = field(repr=False)


class DeviceFlow:
    """Get a user's leave on another device (RFC 8628), for one without a browser.

    The arguments are those of `ClientCredentials`, and a second endpoint.
    """

    def __init__(
        self,
        *,
        device_authorization_url: str,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        scope: str | None = None,
        client: httpx.Client | httpx.AsyncClient | None = None,
        client_auth: ClientAuth = "basic",
        extra: Mapping[str, Any] | None = None,
        clock: Callable[[], float] | None = None,
        token_types: Collection[str] = ("Bearer",),
    ) -> None:
        known = client_id, client_secret, client_auth, extra, client, clock, token_types
        self._registration = _Registration(*known)
        self._url = _endpoint(device_authorization_url, "device_authorization_url")
        self._token_url = _endpoint(token_url, "token_url")
        self._scope = _names(scope)

    def start(self) -> DeviceAuthorization:
        """Ask for a code that the user is to enter.

        Raises:
            OAuth2Error: the server refused, or sent what cannot be used.
        """
        return _drive(self._start(), self._registration.client)

    async def astart(self) -> DeviceAuthorization:
        """Ask for a code that the user is to enter."""
        return await _adrive(self._start(), self._registration.client)

    def poll(
        self,
        authorization: DeviceAuthorization,
        *,
        sleep: Callable[[float], object] | None = None,
    ) -> Token:
        """Wait until the user has agreed, and return the token set.

        Polls at the server's interval, 5 s longer after each `slow_down`, and twice as
        long, up to a minute, while the server cannot be reached.

        Raises:
            OAuth2Error: `access_denied`, `expired_token`, or another refusal.
        """
        return _drive(self._poll(authorization), self._registration.client, sleep)

    async def apoll(
        self,
        authorization: DeviceAuthorization,
        *,
        sleep: Callable[[float], Awaitable[object]] | None = None,
    ) -> Token:
        """Wait until the user has agreed, as `poll`."""
        return await _adrive(
            self._poll(authorization), self._registration.client, sleep
        )

    def _start(self) -> _Talk[DeviceAuthorization]:
        now = self._registration.clock()
        form = {"scope": self._scope}
        return _device(now, (yield from self._registration.ask(self._url, form)))

    def _poll(self, authorization: DeviceAuthorization) -> _Talk[Token]:
        known, interval = self._registration, float(authorization.interval)
        form = {"grant_type": _DEVICE, "device_code": authorization.device_code}
        pause = interval
        while (left := authorization.expires_at - known.clock()) > 0:
            yield float(min(pause, left))
            try:
                return (yield from known.token(self._token_url, form, self._scope))
            except httpx.TransportError:
                pause = max(min(pause * 2, _SLOWEST), interval)  # RFC 8628 §3.5
            except OAuth2Error as exc:
                if exc.error == "slow_down":
                    interval += 5
                    pause = interval
                elif exc.error == "server_error" or (exc.status or 0) >= 500:
                    slower = min(pause * 2, _SLOWEST)
                    pause = max(slower, interval, exc.retry_after or 0)
                elif exc.error == "authorization_pending":
                    pause = interval
                else:
                    raise
        raise OAuth2Error("expired_token", "the user did not agree in time")


def _device(now: float, members: Mapping[str, Any]) -> DeviceAuthorization:
    """Return the device authorization of a response (RFC 8628 §3.2)."""
    device = _text(members.get("device_code"))
    user = _text(members.get("user_code"), _CODE)
    uri = members.get("verification_uri", members.get("verification_url"))
    uri, whole = _text(uri, _WEB), members.get("verification_uri_complete")
    lifetime = _lifetime(members.get("expires_in"))
    interval = _lifetime(members.get("interval"), "interval")
    if device is None or user is None or uri is None:
        raise _unusable("there is no device_code, user_code or verification_uri")
    if lifetime is None:
        raise _unusable("there is no expires_in")
    pause = 5.0 if interval is None else min(max(interval, 1.0), 600.0)
    until = now + lifetime
    return DeviceAuthorization(user, uri, _text(whole, _WEB), until, pause, device)


# -- metadata and revocation --------------------------------------------------------


class ServerMetadata(Mapping[str, Any]):
    """The metadata of an authorization server (RFC 8414 §2), which do not change.

    A mapping of the document; its endpoints are attributes too, None where there is
    none.

    >>> metadata = ServerMetadata({"issuer": "https://as.test"})
    >>> metadata.issuer, metadata.token_endpoint
    ('https://as.test', None)
    """

    __slots__ = ("_document",)

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = dict(document)

    def __getattr__(self, name: str) -> Any:
        if name in ("issuer", "jwks_uri") or name.endswith("_endpoint"):
            return self._document.get(name)
        raise AttributeError(name)

    def __getitem__(self, name: str) -> Any:
        return self._document[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)

    def __repr__(self) -> str:
        return f"ServerMetadata({self.get('issuer')!r})"


def discover(issuer: str, *, client: httpx.Client | None = None) -> ServerMetadata:
    """Return the metadata of an issuer, by RFC 8414 or else by OpenID Connect.

    Raises:
        OAuth2Error: there are none; `issuer_mismatch`: they are another issuer's;
            `invalid_metadata`: an endpoint is neither https nor on this machine.
        ValueError: the issuer is not such a URL, or has a query.
    """
    return _drive(_discovery(issuer), client)


async def adiscover(
    issuer: str, *, client: httpx.AsyncClient | None = None
) -> ServerMetadata:
    """Return the metadata of an issuer, as `discover`."""
    return await _adrive(_discovery(issuer), client)


def _discovery(issuer: str) -> _Talk[ServerMetadata]:
    url = httpx.URL(_endpoint(issuer, "issuer"))
    if url.query or "?" in issuer:
        raise ValueError("issuer: a URL without a query")
    path = url.path.rstrip("/")
    # RFC 8414 §3.1 puts the well-known name before the path, OpenID Connect behind it.
    places = [f"/.well-known/oauth-authorization-server{path}"]
    places += [f"{path}/.well-known/openid-configuration"]
    failed: OAuth2Error | None = None
    for place in places:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        answer = yield httpx.Request("GET", url.copy_with(path=place), headers=headers)
        if isinstance(answer, Exception):
            raise answer
        try:
            document = _read(answer, time.time())
        except OAuth2Error as exc:
            failed = exc
            continue
        return _metadata(issuer, document)
    assert failed is not None
    raise _anew(failed)


def _metadata(issuer: str, document: dict[str, Any]) -> ServerMetadata:
    """Return the metadata in a document, checked (RFC 8414 §3.3)."""
    if document.get("issuer") != issuer:
        raise OAuth2Error("issuer_mismatch", "the metadata are another issuer's")
    for name, value in document.items():
        if name == "jwks_uri" or name.endswith("_endpoint"):
            try:
                _endpoint(value, name)
                continue
            except ValueError:
                pass
            raise OAuth2Error("invalid_metadata", "an endpoint is not https")
    return ServerMetadata(document)


def revoke(
    token: str,
    *,
    revocation_url: str,
    client_id: str,
    client_secret: str | None = None,
    client_auth: ClientAuth = "basic",
    token_type_hint: str | None = None,
    client: httpx.Client | None = None,
) -> None:
    """Revoke a token (RFC 7009); one that the server does not know is no error.

    Raises:
        OAuth2Error: `unsupported_token_type`, or another refusal.
        ValueError: the URL is neither https nor on this machine.
    """
    known = _Registration(client_id, client_secret, client_auth, None, client, None)
    _drive(_revocation(known, revocation_url, token, token_type_hint), client)


async def arevoke(
    token: str,
    *,
    revocation_url: str,
    client_id: str,
    client_secret: str | None = None,
    client_auth: ClientAuth = "basic",
    token_type_hint: str | None = None,
    client: httpx.AsyncClient | None = None,
) -> None:
    """Revoke a token, as `revoke`."""
    known = _Registration(client_id, client_secret, client_auth, None, client, None)
    await _adrive(_revocation(known, revocation_url, token, token_type_hint), client)


def _revocation(
    known: _Registration, url: str, token: str, hint: str | None
) -> _Talk[None]:
    url = _endpoint(url, "revocation_url")
    form = {"token": token, "token_type_hint": hint}
    yield from known.ask(url, form, reads=False)  # RFC 7009 §2.2: a 200 says it all


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
