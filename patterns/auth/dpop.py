# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1", "joserfc>=1.8,<2"]
# ///
"""Prove with each request that you hold the key your token is bound to.

A `DpopKey` signs the proofs, and `DpopTransport` adds one to each request that needs
one: so a token that leaks is of no use without the key. For clients of a server that
binds tokens by DPoP, above all public ones, whose refresh tokens are bound as well. Not
against someone who can sign with your key or run code beside it, and not a signature of
the request: neither the body nor the query is covered. The server's half is
`dpop_verifier.py`. Follows RFC 9449 (DPoP), RFC 7638 (thumbprints), RFC 7515 (JWS),
RFC 7517 (JWK), RFC 9864 (Ed25519) and RFC 9110 §11.6.1 (challenges).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import httpx
from joserfc.jwk import ECKey, OKPKey, RSAKey, generate_key, import_key
from joserfc.jws import JWSRegistry

__all__ = ["DpopKey", "DpopTransport"]

# Of each algorithm the type and the curve of its keys, the one to take first ahead.
_ALGORITHMS = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "Ed25519": ("OKP", "Ed25519"),
    "EdDSA": ("OKP", "Ed25519"),  # its older name, for servers that know no other
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
}
_MEMBERS = {"EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "RSA": ("e", "n")}
_KINDS = (ECKey, OKPKey, RSAKey)
_PORTS = {"http": ":80", "https": ":443"}
_ORIGINS = 1000  # whose nonces are kept
_ERROR = 4096  # bytes of a refusal that are looked at; one has about 100
_PATIENCE = 5.0  # seconds for them
_PIECE = 8  # bytes that are inflated at once, as some encodings make much of few
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")  # RFC 9449 §8.1
_ASKS = "use_dpop_nonce"
# RFC 9110 §11.6.1: the name of a scheme, or a parameter and its value.
_CHALLENGE = re.compile(
    r"""([\w!#$%&'*+.^`|~-]+)(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t,"=]+)))?""",
    re.ASCII,
)


class DpopKey:
    """The key pair that a client's tokens are bound to. Immutable and thread-safe.

    Keep it as long as the tokens: a refresh token of a public client is of no use
    without its key (RFC 9449 §5). To bind an authorization code as well, send
    `thumbprint` as `dpop_jkt` (§10).

    Args:
        key: a private key, as a JWK or in PEM without a passphrase: EC, Ed25519, or
            RSA of 2048 bits or more.
        algorithm: one that fits the key, if not the first that does, nor the JWK's own.

    Raises:
        ValueError: the key is no such key, or the algorithm does not fit.

    >>> key = DpopKey.generate()
    >>> key.algorithm, DpopKey(key.private_jwk()).thumbprint == key.thumbprint
    ('ES256', True)
    """

    def __init__(
        self, key: Mapping[str, Any] | str | bytes, *, algorithm: str | None = None
    ) -> None:
        self._key = _private(key)
        if self._key is None:
            raise ValueError("a proof is signed by a private key, as a JWK or in PEM")
        curve = getattr(self._key, "curve_name", None)
        kind = self._key.key_type
        fitting = [name for name, of in _ALGORITHMS.items() if of == (kind, curve)]
        wanted = algorithm or self._key.alg or (fitting or [""])[0]
        if wanted not in fitting:
            raise ValueError("the key does not fit the algorithm")
        #: What proofs are signed by, such as `ES256`.
        self.algorithm: str = wanted
        #: What tokens are bound to: RFC 7638, by SHA-256.
        self.thumbprint: str = self._key.thumbprint()
        # joserfc warns of the older name, which means the same.
        name = "Ed25519" if wanted == "EdDSA" else wanted
        self._sign = JWSRegistry(algorithms=[name]).get_alg(name).sign

    @classmethod
    def generate(cls, algorithm: str = "ES256") -> DpopKey:
        """Return a new key for an algorithm.

        Raises:
            ValueError: the algorithm is not `ES256`, `ES384`, `ES512`, `Ed25519`,
                `EdDSA`, `RS256` or `PS256`.
        """
        if algorithm not in _ALGORITHMS:
            raise ValueError(f"an algorithm is one of {', '.join(_ALGORITHMS)}")
        kind, curve = _ALGORITHMS[algorithm]
        made = generate_key(kind, curve or 2048)  # type: ignore[call-overload]
        return cls(made.as_dict(private=True), algorithm=algorithm)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.algorithm}, {self.thumbprint})"

    def public_jwk(self) -> dict[str, Any]:
        """Return the public half, with the members of a thumbprint and no others."""
        kind, members = self._key.key_type, self._key.as_dict(private=False)
        return {"kty": kind, **{name: members[name] for name in _MEMBERS[kind]}}

    def private_jwk(self) -> dict[str, Any]:
        """Return the key itself, to be kept where its tokens are; it is a secret."""
        return {**self._key.as_dict(private=True), "alg": self.algorithm}

    def proof(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        access_token: str | None = None,
        nonce: str | None = None,
        now: float | None = None,
        jti: str | None = None,
    ) -> str:
        """Return a proof, the value of the header `DPoP`, good for one request.

        Args:
            method: the request's, in its own case.
            url: the request's; query, fragment and userinfo are left out.
            access_token: the token that goes along, if one does.
            nonce: what the server gave in `DPoP-Nonce`.
            now: seconds since the epoch, by default those of the clock.
            jti: a name that is never used again; by default 128 random bits.

        Raises:
            ValueError: the URL is not one of http or https.

        >>> proof = DpopKey.generate().proof("GET", "https://api.test/a?b#c", now=0)
        >>> claims = proof.split(".")[1]
        >>> json.loads(base64.urlsafe_b64decode(claims + "=="))["htu"]
        'https://api.test/a'
        """
        header = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.public_jwk()}
        claims: dict[str, Any] = {"jti": jti or secrets.token_urlsafe(16)}
        claims |= {"htm": method, "htu": _htu(httpx.URL(url))}
        claims |= {"iat": int(time.time() if now is None else now)}
        if access_token is not None:
            claims["ath"] = _base64url(hashlib.sha256(access_token.encode()).digest())
        if nonce is not None:
            claims["nonce"] = nonce
        parts = (json.dumps(part, separators=(",", ":")) for part in (header, claims))
        text = ".".join(_base64url(part.encode()) for part in parts)
        return f"{text}.{_base64url(self._sign(text.encode(), self._key))}"


def _private(key: Mapping[str, Any] | str | bytes) -> Any:
    """Return a private key that is fit to sign with, or None.

    None and no error, since those of joserfc and cryptography may hold what was given.
    """
    is_jwk = isinstance(key, Mapping)
    loads: list[Any] = [import_key] if is_jwk else [k.import_key for k in _KINDS]
    for load in loads:
        with contextlib.suppress(Exception):
            found: Any = load(dict(key) if isinstance(key, Mapping) else key)
            found.check_use("sig")
            found.check_key_op("sign")
            # Of a JWK whose halves are of two keys, nobody could verify a signature.
            public = type(found).import_key(found.public_key).thumbprint()
            is_large = found.key_type != "RSA" or found.public_key.key_size >= 2048
            if public == found.thumbprint() and is_large:
                return found
    return None


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _htu(url: httpx.URL) -> str:
    """Return a request's URL without query and fragment (RFC 9449 §4.2)."""
    if url.scheme not in _PORTS or not url.host:
        raise ValueError("a proof is for a URL of http or https")
    path = url.raw_path.partition(b"?")[0].decode("ascii")
    at = url.netloc.decode("ascii").lower()  # which httpx does not do for all URLs
    return f"{url.scheme}://{at.removesuffix(_PORTS[url.scheme])}{path}"


def _asks_in_challenge(value: str) -> bool:
    """Tell whether a challenge of the scheme DPoP asks for a nonce (RFC 9449 §9)."""
    scheme = ""
    for found in _CHALLENGE.finditer(value[:8192]):
        name, *values = found.groups()
        if values == [None, None]:
            scheme = name.lower()
        elif scheme == "dpop" and name.lower() == "error" and _ASKS in values:
            return True
    return False


def _asks_in_body(encoding: str, raw: bytes) -> bool:
    """Tell whether an error of a token endpoint asks for a nonce (RFC 9449 §8)."""
    headers, body = {"content-encoding": encoding}, b""
    pieces = (raw[at : at + _PIECE] for at in range(0, len(raw), _PIECE))
    with contextlib.suppress(ValueError, RecursionError, httpx.DecodingError):
        response = httpx.Response(400, headers=headers, content=pieces)
        for part in response.iter_bytes():
            body += part
            if len(body) > _ERROR:
                return False
        error = json.loads(body)
        return isinstance(error, dict) and error.get("error") == _ASKS
    return False


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


class _Reread(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose beginning was read already, and is given again."""

    def __init__(self, head: bytes, rest: Any, stream: Any) -> None:
        self._head, self._rest, self._stream = head, rest, stream

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Nonces:
    """The newest nonce of each origin; when there are too many, the oldest goes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes], str] = {}
        self._lock = threading.Lock()

    def get(self, url: httpx.URL) -> str | None:
        return self._kept.get((url.scheme, url.netloc))

    def keep(self, url: httpx.URL, nonce: str) -> None:
        with self._lock:
            self._kept.pop((url.scheme, url.netloc), None)
            self._kept[url.scheme, url.netloc] = nonce
            if len(self._kept) > _ORIGINS:
                del self._kept[next(iter(self._kept))]


class _Call:
    """One call with its one repetition: what both kinds of client share."""

    def __init__(self, parent: DpopTransport, request: httpx.Request) -> None:
        self.parent, self.request, url = parent, request, request.url
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        self.token = (scheme.lower() == "dpop" and token.strip(" ")) or None
        is_web, urls = url.scheme in _PORTS and url.host, parent.token_urls
        self.to_server = bool(is_web and urls and _htu(url) in urls)
        self.proves = bool(self.to_server or (is_web and self.token))
        self.proves = self.proves and "dpop" not in request.headers
        self.nonce = parent.nonces.get(url)
        self.asked, self.head, self.ends = False, bytearray(), 0.0

    def signed(self) -> httpx.Request:
        """Return the request with a new proof, or as it is if it needs none.

        A copy, since a redirect and a retry above start from the original's headers,
        and a proof is good for one request.
        """
        given, parent = self.request, self.parent
        if not self.proves:
            return given
        proof = parent.key.proof(
            given.method,
            given.url,
            access_token=self.token,
            nonce=self.nonce,
            now=parent.clock(),
        )
        headers = [*given.headers.raw, (b"DPoP", proof.encode())]
        sent = httpx.Request(
            given.method, given.url, headers=headers, stream=given.stream
        )
        sent.extensions = given.extensions  # the same: its timeout may yet be changed
        return sent

    def heard(self, response: httpx.Response) -> bool:
        """Keep a response's nonce, and tell whether the response may ask for it."""
        nonce = response.headers.get("dpop-nonce", "")
        if not _NONCE.fullmatch(nonce):  # nor two of them, which a comma parts
            return False
        self.parent.nonces.keep(self.request.url, nonce)
        # One that was used and is refused would be refused again.
        is_new, self.nonce = nonce != self.nonce, nonce
        if not (is_new and self.proves and response.status_code in (400, 401)):
            return False
        self.ends = self.parent.clock() + _PATIENCE
        if response.status_code == 401:
            challenge = response.headers.get("www-authenticate", "")
            self.asked = _asks_in_challenge(challenge)
        may_ask = self.asked or self.to_server
        return may_ask and _replayable(self.request.stream)

    def is_enough(self, chunk: bytes) -> bool:
        """Take some of a refusal's body; tell whether it is too much or too late."""
        self.head += chunk
        return len(self.head) > _ERROR or self.parent.clock() > self.ends

    def is_final(self, response: httpx.Response, chunks: Any, is_cut: bool) -> bool:
        """Tell whether a response is the caller's, who then gets its body from anew."""
        encoding, head = response.headers.get("content-encoding", ""), bytes(self.head)
        if self.asked or (not is_cut and _asks_in_body(encoding, head)):
            return False
        response.stream = _Reread(head, chunks, response.stream)
        return True


class DpopTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Add a proof to each request that needs one; the transport below does the sending.

    Those are requests with `Authorization: DPoP …`, and those to a token URL, whatever
    their authorization. Others pass as they are, and so does one that has a `DPoP`
    header. The last nonce of each origin is used for the next request there. A refusal
    for want of a nonce is answered once, by the same request with a new proof, if its
    body can be sent again; a body that is a generator's cannot. A client assertion is
    sent again as it was, which a server that takes each but once may refuse.

    Put it below a `RetryTransport`, so that each attempt has its own proof. One object
    serves the client of the authorization server and that of the API. Thread-safe and
    task-safe.

    Args:
        transport: the transport below, of the client's kind.
        key: what the tokens are bound to.
        token_urls: the endpoints for tokens, and for pushed requests (§10.1).
        clock: seconds since the epoch.

    Raises:
        ValueError: a token URL is not one of http or https.

    >>> below = httpx.MockTransport(lambda request: httpx.Response(
    ...     200, json={name: name in request.headers for name in ("dpop", "cookie")}))
    >>> transport = DpopTransport(below, DpopKey.generate())
    >>> with httpx.Client(transport=transport) as client:
    ...     client.get("https://api.test", headers={"authorization": "DPoP t"}).json()
    {'dpop': True, 'cookie': False}
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        key: DpopKey,
        *,
        token_urls: Iterable[str] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        urls = [token_urls] if isinstance(token_urls, str) else token_urls
        self.token_urls = frozenset(_htu(httpx.URL(url)) for url in urls)
        self.key, self.clock, self.nonces = key, clock or time.time, _Nonces()
        self._transport: Any = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request with its proof, and once more if the server asks for it."""
        call = _Call(self, request)
        response: httpx.Response = self._transport.handle_request(call.signed())
        if not call.heard(response):
            return response
        chunks = iter(cast(httpx.SyncByteStream, response.stream))
        try:
            is_cut = any(map(call.is_enough, chunks))
        except BaseException:
            response.close()
            raise
        if call.is_final(response, chunks, is_cut):
            return response
        response.close()
        response = self._transport.handle_request(call.signed())
        call.heard(response)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request with its proof, and once more if the server asks for it."""
        call = _Call(self, request)
        sending = self._transport.handle_async_request(call.signed())
        response: httpx.Response = await sending
        if not call.heard(response):
            return response
        chunks, is_cut = aiter(cast(httpx.AsyncByteStream, response.stream)), False
        try:
            async for chunk in chunks:
                if is_cut := call.is_enough(chunk):
                    break
        except BaseException:
            await response.aclose()
            raise
        if call.is_final(response, chunks, is_cut):
            return response
        await response.aclose()
        response = await self._transport.handle_async_request(call.signed())
        call.heard(response)
        return response

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
