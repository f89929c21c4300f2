# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Read and write errors as problem details, and raise them as errors.

For the client: `raise_for_problem` in place of `raise_for_status`, by hand or as an
event hook, and the machine-readable `type` of what went wrong. For the server:
`ProblemDetails(...).render()`, which any framework can send. Not for errors inside a
successful answer, and not for the XML form, which few send and whose parsers are a risk
of their own. Follows RFC 9457 (problem details), RFC 3986 §5 (relative references),
RFC 8259 (JSON) and RFC 9110 §15 (status codes).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

import httpx

__all__ = ["ProblemDetails", "ProblemError", "araise_for_problem", "raise_for_problem"]

_MEDIA_TYPE = "application/problem+json"
_BLANK = "about:blank"
_MEMBERS = ("type", "title", "status", "detail", "instance")
_LARGEST = 2**20  # bytes of a body that are looked at: RFC 9457's own have 300
_DEEPEST = 100  # levels of nesting, so that no copy, comparison or repr overflows
_PATIENCE = 30.0  # seconds an error's body may take, or drips would hold the caller
_SHOWN = 200  # characters of each member in a message
# Bytes that are inflated at once: gzip makes a thousandfold of them, and brotli, which
# httpx decodes where its package is installed, some MiB of each one.
_PIECE = 8
_Stream = TypeVar("_Stream", httpx.SyncByteStream, httpx.AsyncByteStream)
# RFC 3986 §2, and beyond ASCII as in RFC 3987; RFC 9110 §4.1 asks for 8000 octets.
_REFERENCE = re.compile(r"[^\x00-\x20\x7f\"<>\\^`{|}]{1,8000}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_PRIVATE = re.compile(r"(?<=//)[^/?#]*@|\?[^#]*")  # userinfo, and the query


@dataclass(frozen=True, slots=True)
class ProblemDetails:
    """What went wrong, as RFC 9457 has it; as immutable as its extensions' values.

    Args:
        type: URI of the kind of problem, which is what programs should compare. Give an
            absolute one: a relative one means another type under each path (§3.1.1).
        title: the kind of problem in a few words, the same each time. None stays None
            with `about:blank`, where it would only repeat the status (§4.2.1).
        status: 100 to 599. Advisory in the document (§3.1.2).
        detail: this occurrence in words, for people; never to be parsed (§3.1.4).
        instance: URI of this occurrence.
        extensions: all other members.

    Raises:
        TypeError: a member has another type.
        ValueError: the status is none, or an extension has the name of a member.

    >>> problem = ProblemDetails("https://example.com/probs/out-of-credit", status=403,
    ...                          extensions={"balance": 30})
    >>> problem.to_dict()
    {'type': 'https://example.com/probs/out-of-credit', 'status': 403, 'balance': 30}
    """

    type: str = _BLANK
    title: str | None = None
    status: int | None = None
    detail: str | None = None
    instance: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("type", "title", "detail", "instance"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "type"):
                raise TypeError(f"{name} is text, not {type(value).__name__}")
        if self.status is not None:
            object.__setattr__(self, "status", _status(self.status))
        if not isinstance(self.extensions, Mapping):
            raise TypeError("extensions are a mapping")
        extensions = dict(self.extensions)
        if not all(isinstance(name, str) for name in extensions):
            raise TypeError("the name of an extension is text")
        if taken := sorted(extensions.keys() & set(_MEMBERS)):
            raise ValueError(f"{taken[0]} is a member of its own, not an extension")
        object.__setattr__(self, "extensions", MappingProxyType(extensions))

    def __reduce__(self) -> tuple[Any, ...]:  # a read-only mapping cannot be pickled
        members = (getattr(self, name) for name in _MEMBERS)
        return type(self), (*members, dict(self.extensions))

    @classmethod
    def from_response(cls, response: httpx.Response) -> ProblemDetails | None:
        """Return the problem that a response of any status tells of. Never raises.

        It is None for another media type than `application/problem+json`, for a body
        that was not read yet (`raise_for_problem` reads it), and for one that is no
        JSON object in UTF-8 (a BOM is fine), holds NaN or a number too large, or has
        more than 1 MiB or 100 levels. Of a name that comes twice the last one counts.

        A member of the wrong type is ignored, and so is a `type` or `instance` that is
        empty or no URI reference. What is relative is resolved against the request's
        URL, of which neither userinfo nor query are taken over; without a request it
        stays as it is. `status` is that of the response, or None if that is not within
        100 to 599; what the body says is in `response.json()`.

        >>> url, kind = "https://api.test/orders/7", "application/problem+json"
        >>> response = httpx.Response(409, headers={"content-type": kind},
        ...     request=httpx.Request("PUT", url), content=b'{"type": "/probs/edited"}')
        >>> problem = ProblemDetails.from_response(response)
        >>> problem.type, problem.status
        ('https://api.test/probs/edited', 409)
        """
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind.strip(" \t").lower() != _MEDIA_TYPE:
            return None
        try:
            members = _parse(response.content)
        except httpx.ResponseNotRead:
            return None
        if members is None:
            return None
        status = int(response.status_code)
        return cls(
            type=_resolve(members.get("type"), response) or _BLANK,
            title=_text(members.get("title")),
            status=status if 100 <= status <= 599 else None,
            detail=_text(members.get("detail")),
            instance=_resolve(members.get("instance"), response),
            extensions={k: v for k, v in members.items() if k not in _MEMBERS},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the document: `type` always, other members where they are not None."""
        members = {name: getattr(self, name) for name in _MEMBERS}
        named = {name: value for name, value in members.items() if value is not None}
        return named | dict(self.extensions)

    def render(self) -> tuple[bytes, int, dict[str, str]]:
        """Return body, status and headers, in the order of most frameworks.

        `Response(*problem.render())` is a response of Starlette, FastAPI or Werkzeug,
        and Flask takes the tuple itself. Add what the status asks for, such as
        `Retry-After` or `WWW-Authenticate`, to the headers. All characters are ASCII,
        so that nobody on the way can guess another charset.

        Raises:
            ValueError: there is no status, or one whose responses have no body; or an
                extension holds NaN, an infinity or itself.
            TypeError: an extension holds what JSON has not.

        >>> ProblemDetails(title="Not Found", status=404).render()[0]
        b'{"type": "about:blank", "title": "Not Found", "status": 404}'
        """
        if self.status is None or self.status < 200 or self.status in (204, 205, 304):
            raise ValueError(f"a problem is not sent with the status {self.status}")
        body = json.dumps(self.to_dict(), allow_nan=False).encode()
        return body, self.status, {"content-type": _MEDIA_TYPE}


class ProblemError(httpx.HTTPStatusError):
    """A response of 4xx or 5xx that told why, in `problem`.

    Its text is the status, the title and the type, on one line and cut short; the URL
    of the request is only in `request`. It can be pickled, credentials of the request
    included.
    """

    def __init__(self, problem: ProblemDetails, response: httpx.Response) -> None:
        text = _sentence(response, problem.title)
        if problem.type != _BLANK:
            text += f" ({_shown(_PRIVATE.sub('', problem.type))})"
        super().__init__(text, request=_request(response), response=response)
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problem, self.response)


def _status(value: Any) -> int:
    """Return a status code that a server may send (RFC 9110 §15)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a status is a whole number, not {type(value).__name__}")
    if not 100 <= value <= 599:
        raise ValueError(f"a status is within 100 and 599, not {value}")
    return int(value)  # an `http.HTTPStatus` would not be shown as a number


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _parse(body: bytes) -> dict[str, Any] | None:
    """Return the members of a JSON object, or None if the body is something else."""
    if len(body) > _LARGEST:
        return None
    try:
        # RFC 8259 §8.1: UTF-8, and a BOM may be ignored. `json` alone would guess.
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):  # and an int of more than 4300 digits
        return None
    return value if isinstance(value, dict) and _is_shallow(value) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6


def _finite(digits: str) -> float:
    """Return a number, which must not be 1e999: infinity could not be written again."""
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _is_shallow(value: Any) -> bool:
    """Tell whether a value has few levels; how many `json` takes depends on Python."""
    level = [value]
    for _ in range(_DEEPEST):
        children = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for inner in children for v in inner if isinstance(v, dict | list)]
        if not level:
            return True
    return False


def _request(response: httpx.Response) -> httpx.Request:
    """Return the response's request, or None, which httpx's errors take as well."""
    try:
        return response.request
    except RuntimeError:  # made by hand
        return cast(httpx.Request, None)


def _base(response: httpx.Response) -> httpx.URL | None:
    """Return what references are relative to, without the request's secrets.

    RFC 3986 §5.2.2 would keep the query for a mere `#fragment`.
    """
    request = _request(response)
    if request is None:
        return None
    try:
        return request.url.copy_with(userinfo=b"", query=None, fragment=None)
    except httpx.InvalidURL:  # too long to be written again, though it was sent
        return None


def _resolve(reference: Any, response: httpx.Response) -> str | None:
    """Return a URI, or None for what is no reference or an empty one.

    An absolute URI stays as it was written, since a type is compared as text. An empty
    reference would mean the request's own URL, which says nothing.
    """
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        return None
    try:
        _ = urlsplit(reference).port  # raises for an open bracket, which httpx escapes
        if not reference.isprintable():
            return None
        base = None if _SCHEME.match(reference) else _base(response)
        return reference if base is None else str(base.join(reference))
    except (httpx.InvalidURL, ValueError):
        return None


def _shown(text: str) -> str:
    """Return a stranger's text on one line, cut short, fit for a log."""
    cut = text[:_SHOWN] + "…" * (len(text) > _SHOWN)
    return " ".join("".join(c if c.isprintable() else " " for c in cut).split())


def _sentence(response: httpx.Response, title: str | None) -> str:
    """Return the status in words, and the title where it says more than that."""
    phrase = httpx.codes.get_reason_phrase(response.status_code)
    status, title = f"{response.status_code} {phrase}".rstrip(), _shown(title or "")
    return f"{status}: {title}" if title not in ("", phrase) else status


class _Body:
    """The body of an error while it is read, and the error that comes of it."""

    def __init__(self, response: httpx.Response, clock: Callable[[], float]) -> None:
        self._response, self._raw = response, bytearray()
        self._clock, self._end = clock, clock() + _PATIENCE
        self._is_cut, self._fault = False, "no problem details"
        self.cause: Exception | None = None

    def unread(self, kind: type[_Stream]) -> _Stream | None:
        """Return the stream of a body that is still to be read, which is of that kind.

        Raises:
            RuntimeError: it is of the other kind.
        """
        response = self._response
        if response.is_closed or response.is_stream_consumed:
            return None
        if not isinstance(response.stream, kind):
            raise RuntimeError("await araise_for_problem, if the client is async")
        return response.stream

    def is_enough(self, part: bytes) -> bool:
        """Take a part; tell whether to stop, since it is too much or too late."""
        self._raw += part
        self._is_cut = len(self._raw) > _LARGEST or self._clock() > self._end
        return self._is_cut

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """Give the response the body that is read meanwhile, as its `read` would.

        It gets an empty one where that fails: half a document is none, but a handler
        that logs `response.text` must not fail as well.
        """
        kept = []
        try:
            yield
            if self._is_small():
                kept = [bytes(self._raw)]
            else:
                self._fault = "its body is too large or too slow"
        except (httpx.RequestError, httpx.StreamError) as exc:
            self._fault, self.cause = "its body cannot be read", exc
        # `read` is the only public way to set the content of a response.
        response, stream = self._response, self._response.stream
        headers = response.headers
        if not kept:  # nothing to decode, and httpx2 refuses to try for many codings
            response.headers = httpx.Headers()
        response.stream = httpx.Response(200, content=iter(kept)).stream
        response.read()
        response.stream, response.headers = stream, headers

    def _is_small(self) -> bool:
        """Tell whether the body fits, decoded too, which is tried in small pieces."""
        codings = self._response.headers.get("content-encoding", "").lower().split(",")
        real = [c for c in map(str.strip, codings) if c not in ("", "identity")]
        if self._is_cut or len(real) > 1:  # a second coding multiplies the first
            return False
        raw, size = bytes(self._raw), 0
        pieces = (raw[at : at + _PIECE] for at in range(0, len(raw), _PIECE))
        decoded = httpx.Response(200, headers=self._response.headers, content=pieces)
        for part in decoded.iter_bytes() if real else ():
            size += len(part)
            if size > _LARGEST:
                return False
        return True

    def error(self) -> httpx.HTTPStatusError:
        """Return the error to raise once the body was read, or could not be."""
        response = self._response
        problem = ProblemDetails.from_response(response)
        if problem is not None:
            return ProblemError(problem, response)
        text = f"{_sentence(response, None)}; {self._fault}"
        request = _request(response)
        return httpx.HTTPStatusError(text, request=request, response=response)


def raise_for_problem(
    response: httpx.Response, *, clock: Callable[[], float] = time.monotonic
) -> httpx.Response:
    """Raise what a response of 400 or more tells of; return any other as it is.

    By hand, or for all requests as `Client(event_hooks={"response":
    [raise_for_problem]})`: redirects are still followed and successful streams stay
    streams, since only an error's body is read. As a hook it comes before an
    `httpx.Auth` that answers a 401, such as `httpx.DigestAuth`: there, call it by hand.

    No more of a body is read than 1 MiB, before and after decoding, and for no longer
    than 30 seconds and one read timeout of the client. Where it is larger, slower or
    broken, the error still tells the status, `response.content` is empty, and
    `__cause__` is what the read failed with.

    Raises:
        ProblemError: the body is a problem document.
        httpx.HTTPStatusError: it is not. No URL is in the text, unlike in that of
            `raise_for_status`.
        RuntimeError: the response is an unread one of an `AsyncClient`.

    >>> body, kind = b'{"title": "Sold out"}', "application/problem+json"
    >>> try:
    ...     raise_for_problem(
    ...         httpx.Response(409, headers={"content-type": kind}, content=body))
    ... except ProblemError as error:
    ...     print(error)
    409 Conflict: Sold out
    """
    if response.status_code < 400:
        return response
    body = _Body(response, clock)
    if (stream := body.unread(httpx.SyncByteStream)) is not None:
        with body.filling(), contextlib.closing(stream):
            for part in stream:
                if body.is_enough(part):
                    break
    raise body.error() from body.cause


async def araise_for_problem(
    response: httpx.Response, *, clock: Callable[[], float] = time.monotonic
) -> httpx.Response:
    """Do as `raise_for_problem`, for responses and event hooks of an `AsyncClient`.

    As a hook of a blocking client it would do nothing: nobody awaits it there.
    """
    if response.status_code < 400:
        return response
    body = _Body(response, clock)
    if (stream := body.unread(httpx.AsyncByteStream)) is not None:
        with body.filling():
            async with contextlib.aclosing(stream):
                async for part in stream:
                    if body.is_enough(part):
                        break
    raise body.error() from body.cause


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
