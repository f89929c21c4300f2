# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Let only requests with a good access token through to an ASGI app.

`BearerGuard` reads the token from where it belongs, has it judged by a callable, asks
for scopes, and answers what it refuses as the standards say, so that a client knows
whether to get a token, another one, or one with more scopes. It also serves the
document by which a client finds the authorization server. For resource servers, in
front of any framework. Not for logging people in, nor for deciding who may touch which
row: the app does that, by the claims. Follows RFC 6750 (Bearer), RFC 9728 (resource
metadata), RFC 9449 §7 (DPoP), RFC 9110 §11 (challenges) and RFC 9457 (problem details).
"""

from __future__ import annotations

import inspect
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

__all__ = ["BearerGuard", "granted_scopes", "metadata_url"]

_REFUSALS = {  # by the error code, which the first and the last are sent without
    "no_token": (401, "an access token is needed"),
    "invalid_request": (400, "the Authorization field is malformed"),
    "invalid_token": (401, "the access token is not valid"),
    "invalid_dpop_proof": (401, "the DPoP proof is not valid"),
    "use_dpop_nonce": (401, "the DPoP proof needs the nonce in DPoP-Nonce"),
    "insufficient_scope": (403, "the access token lacks a scope"),
    "unavailable": (503, "tokens cannot be judged at the moment"),
}
_PROOF = "invalid_dpop_proof"
_BETTER = {  # error codes for some reasons; RFC 9449 §7.1, figure 15, for another key
    ("invalid_token", "keys_unavailable"): "unavailable",
    (_PROOF, "cnf"): "invalid_token",
}
_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_LONGEST = 16384  # characters of a token that is judged
_NO_WORD = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")  # what ends a scheme
_TOKEN = re.compile(rb" +([A-Za-z0-9._~+/-]+=*)")  # RFC 6750 §2.1
_NQCHARS = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3, RFC 9449 §8.1
_REASON = re.compile(r"[a-z0-9_]{1,40}")
_log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Claims: TypeAlias = Mapping[str, Any]
Verify: TypeAlias = Callable[[str], Claims | Awaitable[Claims]]
_Names: TypeAlias = tuple[str, ...]
_Fields: TypeAlias = list[tuple[str, str]]
Proof: TypeAlias = Callable[[Scope, str, Claims], Awaitable[None] | None]


class _Refused(Exception):
    """Why a request is refused: a key of the table, and the scheme that was used."""

    def __init__(self, error: str, scheme: str = "", nonce: str = "") -> None:
        super().__init__(error)
        self.error, self.scheme, self.nonce = error, scheme, nonce


def granted_scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes that a token grants, by its claim `scope`, or else `scp`.

    Either is text parted by single spaces (RFC 9068 §2.2.3, RFC 7662 §2.2) or a list of
    texts, as some issuers have it. What has another type grants nothing.

    >>> sorted(granted_scopes({"scope": "read write"}))
    ['read', 'write']
    """
    given = claims.get("scope")
    if given is None:
        given = claims.get("scp")
    if isinstance(given, str):
        given = given.split(" ")  # no other white space parts two scopes
    if not isinstance(given, list | tuple):
        return frozenset()
    return frozenset(name for name in given if isinstance(name, str) and name)


def metadata_url(resource: str) -> str:
    """Return where the metadata of a resource lie: before its path (RFC 9728 §3.1).

    Raises:
        ValueError: it is no `https` URL (or `http` on the loopback) of plain ASCII,
            or has userinfo or a fragment.

    >>> metadata_url("https://api.test/v1?tenant=7")
    'https://api.test/.well-known/oauth-protected-resource/v1?tenant=7'
    """
    _require_url("resource", resource)
    scheme, host, path, query, _ = urlsplit(resource)
    end = f"?{query}" if query else ""
    return f"{scheme}://{host}{_WELL_KNOWN}{path if path != '/' else ''}{end}"


def _require_url(name: str, url: Any) -> None:
    """Refuse what a client could not use as an identifier, or not safely."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        fits = _is_plain(url) and not re.search(r"[ \"#\\]", url)
        safe = {"https": True, "http": _is_loopback(host)}.get(parts.scheme)
    except (TypeError, ValueError, AttributeError):
        fits = False
    if not (fits and host and safe and "@" not in parts.netloc):
        raise ValueError(f"{name} is a plain URL of https, or of http on the loopback")


# Twin of _is_plain in auth/jwt_verifier.py.
def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


# Twin of _is_loopback in auth/oauth2.py.
def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(scopes: str | Iterable[str]) -> _Names:
    """Return the scopes that are asked for, each once and in their order."""
    if not isinstance(scopes, Iterable):
        raise ValueError("scopes are a text or an iterable of texts")
    names = scopes.split() if isinstance(scopes, str) else list(scopes)
    if not all(isinstance(name, str) and _NQCHARS.fullmatch(name) for name in names):
        raise ValueError("a scope is printable ASCII without spaces, quotes, backslash")
    return tuple(dict.fromkeys(names))


def _fields(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope.get("headers", ()) if key.lower() == name]


def _credentials(fields: list[bytes], schemes: Mapping[str, str]) -> tuple[str, str]:
    """Return the scheme and the token in the field `Authorization`.

    Raises:
        _Refused: nothing that these schemes could judge is there, or it is malformed.
    """
    if len(fields) > 1:  # RFC 6750 §3.1: which one counts, each reader decides anew
        raise _Refused("invalid_request")
    text = fields[0].strip(b" \t") if fields else b""
    scheme = _NO_WORD.split(text, 1)[0].decode().lower()
    if scheme not in schemes:
        raise _Refused("no_token")
    found = _TOKEN.fullmatch(text, len(scheme))
    if not found:
        raise _Refused("invalid_request", scheme)
    if len(found[1]) > _LONGEST:
        raise _Refused("invalid_token", scheme)
    return scheme, found[1].decode()


def _is_bound_rightly(claims: Claims, scheme: str) -> bool:
    """Tell whether a token came in the way that it is bound to.

    RFC 9449 §7.2: a bound token that comes as Bearer was stolen, or its client is
    broken. Other bindings (RFC 8705: a certificate) nobody here can check.
    """
    if scheme == "bearer":
        return "cnf" not in claims
    bound: Any = claims.get("cnf")
    by_key = isinstance(bound, Mapping) and set(bound) == {"jkt"}
    return by_key and isinstance(bound["jkt"], str)


async def _ask(error: str, scheme: str, call: Callable[..., Any], *given: Any) -> Any:
    """Return the answer of a callable, whose refusals become ours."""
    try:
        answer = call(*given)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as exc:
        reason = getattr(exc, "reason", None)
        # These have a `reason` too, and tell of our own trouble, as a failed fetch.
        if not isinstance(reason, str) or isinstance(exc, OSError | UnicodeError):
            raise
        nonce = getattr(exc, "nonce", None)
    if _REASON.fullmatch(reason):  # a word, which cannot be a token
        _log.info("%s: %s", error, reason)
    if error == _PROOF and isinstance(nonce, str) and _NQCHARS.fullmatch(nonce):
        raise _Refused("use_dpop_nonce", scheme, nonce)
    raise _Refused(_BETTER.get((error, reason), error), scheme)


def _challenge(scheme: str, fields: Mapping[str, str]) -> str:
    """Return a challenge of quoted strings (RFC 9110 §11.2, §5.6.4), no empty ones."""
    quoted = {n: re.sub(r'(["\\])', r"\\\1", v) for n, v in fields.items() if v}
    return f"{scheme} " + ", ".join(f'{name}="{v}"' for name, v in quoted.items())


class BearerGuard:
    """Answer what comes without a good token, and pass on the rest with its claims.

    The claims are in `scope["state"]["claims"]`, for Starlette and FastAPI
    `request.state.claims`; the token is not. Only the field `Authorization` is read:
    what is in a query ends up in logs (RFC 9700 §4.3.2), and a form is the app's.
    Refusals are problem details in fixed words, for no cache to keep. WebSockets are
    refused before they are accepted, by the same answer where the server can send one.
    The lifespan passes. Safe across tasks and event loops: it keeps no state.

    Args:
        app: the ASGI app.
        verify: returns the claims of a token, as a mapping or an awaitable of one, such
            as `JwtVerifier(...).averify`. An error with a text `reason` refuses the
            token, by 503 if that is `keys_unavailable`. Any other is raised, and so is
            an `OSError` or a `UnicodeError`.
        scope: the scopes that each token must have, as text or as an iterable.
        scopes: returns those that one request needs on top, by its ASGI scope.
        realm: the protection space; without one, and without a resource, it is `api`.
        resource: this resource's identifier, an `https` URL. If given, its metadata are
            served at `metadata_url(resource)`, and each challenge names that address.
        metadata: its further members, by their names in RFC 9728 §2; above all
            `authorization_servers`, the issuers whose tokens are accepted.
        public: exact, decoded paths that need no token, or a callable of the scope.
        preflight: let CORS preflights through, to a CORS middleware behind the guard.
        proof: checks the DPoP proof of a request by its ASGI scope, the token and the
            claims, or returns an awaitable. An error with a `reason` refuses it (by
            `cnf`, the token), and a `nonce` of that error is sent to be used (RFC 9449
            §9). Without this, a token that is bound to a key (`cnf`) is refused.
        algs: algorithms of proofs, for challenges and metadata.
        dpop_required: refuse all tokens that are not bound to a key.
        retry_after: seconds that a 503 asks for.

    Raises:
        ValueError: an argument cannot be right.

    >>> import asyncio
    >>> async def app(scope, receive, send):
    ...     print("hello,", scope["state"]["claims"]["sub"])
    >>> guard = BearerGuard(app, lambda token: {"sub": "ann", "scope": "read"})
    >>> request = {"type": "http", "method": "GET", "path": "/",
    ...            "headers": [(b"authorization", b"Bearer mF_9.B5f-4.1JqM")]}
    >>> asyncio.run(guard(request, None, None))
    hello, ann
    """

    def __init__(
        self,
        app: App,
        verify: Verify,
        *,
        scope: str | Iterable[str] = (),
        scopes: Callable[[Scope], str | Iterable[str]] | None = None,
        realm: str | None = None,
        resource: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public: Iterable[str] | Callable[[Scope], bool] = (),
        preflight: bool = False,
        proof: Proof | None = None,
        algs: Iterable[str] = ("ES256",),
        dpop_required: bool = False,
        retry_after: int = 5,
    ) -> None:
        if not all(map(callable, (app, verify, scopes or app, proof or app))):
            raise ValueError("app, verify, scopes and proof are callables")
        if realm is not None and not (isinstance(realm, str) and _is_plain(realm)):
            raise ValueError("a realm is printable ASCII")
        if type(retry_after) is not int or retry_after < 0:
            raise ValueError("retry_after is a whole number of seconds, 0 or more")
        if dpop_required and proof is None:
            raise ValueError("who requires DPoP needs a checker of proofs")
        self._app, self._verify, self._proof = app, verify, proof
        self._needed, self._scopes = _names(scope), scopes
        self._public, self._preflight = _open_paths(public), preflight
        self._schemes = {} if dpop_required else {"bearer": "Bearer"}
        if proof is not None:
            self._schemes["dpop"] = "DPoP"
        self._algs = " ".join(_names(algs))
        self._retry_after = str(retry_after)
        # RFC 6750 §3: a challenge has at least one parameter.
        self._realm = realm or ("api" if resource is None else "")
        said: dict[str, Any] = {"scopes_supported": list(self._needed)}
        if proof is not None:
            said["dpop_signing_alg_values_supported"] = self._algs.split()
            said["dpop_bound_access_tokens_required"] = dpop_required
        if not isinstance(metadata or {}, Mapping) or (metadata and not resource):
            raise ValueError("metadata are a mapping, and those of a resource: name it")
        self.metadata_url = None if resource is None else metadata_url(resource)
        self.metadata = resource and _document(resource, {**said, **(metadata or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] not in ("http", "websocket"):
            raise ValueError("a protocol that is not known here is not let through")
        if self._asks_for_metadata(scope):
            return await _tell(self.metadata or {}, scope, send)
        if self._is_open(scope):
            return await self._app(scope, receive, send)
        needed = self._needed
        if self._scopes is not None:
            needed = _names((*needed, *_names(self._scopes(scope))))
        try:
            claims = await self._admit(scope, needed)
        except _Refused as refused:
            if scope["type"] == "websocket":
                await receive()  # the connect, which comes before any answer
            return await self._refuse(refused, needed, scope, send)
        # A new one, since some servers share this dict between requests.
        state = {**scope.get("state", {}), "claims": claims}
        await self._app({**scope, "state": state}, receive, send)

    def _asks_for_metadata(self, scope: Scope) -> bool:
        if self.metadata_url is None or scope["type"] != "http":
            return False
        _, _, path, query, _ = urlsplit(self.metadata_url)
        asked = scope["path"].removeprefix(scope.get("root_path", ""))
        # Of two resources that differ in the query, each has its own (RFC 9728 §3.1).
        fits = not query or scope.get("query_string", b"") == query.encode()
        return bool(asked == unquote(path) and fits)

    def _is_open(self, scope: Scope) -> bool:
        if self._preflight and scope.get("method") == "OPTIONS":
            names = b"origin", b"access-control-request-method"
            if all(_fields(scope, name) for name in names):
                return True
        return bool(self._public(scope))

    async def _admit(self, scope: Scope, needed: _Names) -> Claims:
        """Return the claims of a request's token, or raise why it is refused."""
        given = _fields(scope, b"authorization")
        scheme, token = _credentials(given, self._schemes)
        claims: Claims = await _ask("invalid_token", scheme, self._verify, token)
        if not isinstance(claims, Mapping):
            raise TypeError("verify returns a mapping of claims, or raises")
        # RFC 7662 §2.2: by `active` an introspection says no.
        says_no = claims.get("active", True) is not True
        if says_no or not _is_bound_rightly(claims, scheme):
            raise _Refused("invalid_token", scheme)
        if scheme == "dpop" and self._proof is not None:
            await _ask(_PROOF, scheme, self._proof, scope, token, claims)
        if not granted_scopes(claims).issuperset(needed):
            raise _Refused("insufficient_scope", scheme)
        return claims

    def _challenges(self, refused: _Refused, needed: _Names) -> list[str]:
        """Return a challenge for each scheme, first the one that was used."""
        used = refused.scheme or next(iter(self._schemes))
        code = refused.error
        told = {"error": code, "error_description": _REFUSALS[code][1]}
        if code == "no_token":  # RFC 6750 §3.1: then no error code
            told = {}
        challenges = []
        for scheme in sorted(self._schemes, key=lambda scheme: scheme != used):
            fields = {"realm": self._realm, **(told if scheme == used else {})}
            fields["scope"] = " ".join(needed)
            fields["resource_metadata"] = self.metadata_url or ""
            fields["algs"] = self._algs if scheme == "dpop" else ""
            challenges.append(_challenge(self._schemes[scheme], fields))
        return challenges

    async def _refuse(
        self, refused: _Refused, needed: _Names, scope: Scope, send: Send
    ) -> None:
        """Send a refusal, in the form that the protocol has for it."""
        status, words = _REFUSALS[refused.error]
        extensions = scope.get("extensions") or {}
        if scope["type"] == "websocket" and "websocket.http.response" not in extensions:
            return await send({"type": "websocket.close", "code": 1008})
        problem: dict[str, Any] = {"title": HTTPStatus(status).phrase}
        problem |= {"status": status, "detail": words}
        if refused.error not in ("no_token", "unavailable"):
            problem["error"] = refused.error
        kind = "application/problem+json"
        fields = [("content-type", kind), ("cache-control", "no-store")]
        if status == 503:
            fields.append(("retry-after", self._retry_after))
        else:
            told = self._challenges(refused, needed)
            fields += [("www-authenticate", challenge) for challenge in told]
        if refused.nonce:
            fields.append(("dpop-nonce", refused.nonce))
        await _respond(status, fields, problem, scope, send)


def _open_paths(public: Any) -> Callable[[Scope], bool]:
    """Return what tells whether a request needs no token."""
    if callable(public):
        return public  # type: ignore[no-any-return]
    # A text would do for `in`, and open every path that is a part of it.
    given = isinstance(public, Iterable) and not isinstance(public, str)
    paths = list(public) if given else [None]
    if not all(isinstance(path, str) and path.startswith("/") for path in paths):
        raise ValueError("public is a collection of paths, each from its first /")
    return lambda scope: scope["path"] in paths


def _document(resource: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a resource (RFC 9728 §2)."""
    fixed = {"resource": resource, "bearer_methods_supported": ["header"]}
    for name, value in fixed.items():
        if metadata.get(name, value) != value:
            raise ValueError(f"{name} is not for the metadata to say")
    issuers = metadata.get("authorization_servers", [])
    if not isinstance(issuers, list | tuple):
        raise ValueError("authorization_servers is a list of issuers")
    for issuer in issuers:
        _require_url("an issuer", issuer)
        if "?" in issuer:  # RFC 8414 §2
            raise ValueError("an issuer has no query")
    # §3.2: what has no values is left out.
    document = {name: v for name, v in metadata.items() if v not in ([], (), None)}
    try:
        text = json.dumps({**fixed, **document}, allow_nan=False)
    except (TypeError, RecursionError) as exc:
        raise ValueError("metadata are JSON") from exc
    return dict(json.loads(text))


async def _tell(document: Claims, scope: Scope, send: Send) -> None:
    """Serve the metadata (RFC 9728 §3.2), which are for reading."""
    reads = scope["method"] in ("GET", "HEAD")
    fields = [("content-type", "application/json"), ("allow", "GET, HEAD")]
    content = document if reads else {}
    await _respond(200 if reads else 405, fields, content, scope, send)


async def _respond(
    status: int, fields: _Fields, document: Claims, scope: Scope, send: Send
) -> None:
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    body = json.dumps(document).encode()
    fields = [*fields, ("content-length", str(len(body)))]
    raw = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": f"{kind}.start", "status": status, "headers": raw})
    content = b"" if scope.get("method") == "HEAD" else body
    await send({"type": f"{kind}.body", "body": content})


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
