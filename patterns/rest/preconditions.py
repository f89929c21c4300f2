# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Make a change only to the state that was seen, and send no copy twice.

`evaluate` judges the preconditions of a request, `PreconditionsMiddleware` does so in
front of an ASGI app, and `update_with_etag` is the client that reads, changes and
writes without undoing what another wrote meanwhile. A check in front of an app and
the app's write are two steps: where writers race, the write must compare too (`UPDATE
… WHERE version = …`), by the validators that are handed on. Not for changes that
commute, such as adding to a counter: let the server do those. Follows RFC 9110 §5.6.7
(dates), §8.8 (validators), §9.2 (methods), §12.5.5 (Vary), §13 (preconditions) and
§15.4.5 (304), RFC 6585 §3 (428), RFC 5789 (PATCH) and RFC 10008 (QUERY).
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import random
import re
import time
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    MutableMapping,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias, TypedDict, Unpack, cast

import httpx

# fmt: off
__all__ = [
    "ETag", "InvalidETag", "Method", "NotModified", "PreconditionFailed",
    "PreconditionsMiddleware", "Proceed", "UpdateError", "UpdateOptions",
    "Validators", "aupdate_with_etag", "evaluate", "format_http_date", "parse_etags",
    "parse_http_date", "update_with_etag", "vary_key",
]
# fmt: on

_LONGEST = 8192  # characters of a field that is looked at
_OPAQUE = r'"([\x21\x23-\x7e\x80-\xff]*)"'  # §8.8.3: no space, no quote, no escape
_TAG = re.compile(r"(W/)?" + _OPAQUE)
# Possessive, so that no list takes long to refuse.
_TAGS = re.compile(rf"[ \t,]*+(?:(?:W/)?{_OPAQUE}[ \t]*+(?:,[ \t,]*+|$))*+")
_NO_STATE = ("CONNECT", "OPTIONS", "TRACE")  # §13.2.1: not about a representation
_SAFE = ("GET", "HEAD", "QUERY")  # whose precondition saves a transfer: 304
# Twin of _MONTH in errors/retry.py.
_MONTH = "(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# Twin of _MONTHS in errors/retry.py.
_MONTHS = re.findall("[A-Z][a-z]{2}", _MONTH)
# Twin of _TIME in errors/retry.py.
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>[0-5]\d|60)"
# Twin of _DATES in errors/retry.py.
_DATES = [  # RFC 9110 §5.6.7: IMF-fixdate, and the two obsolete forms
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class InvalidETag(ValueError):
    """A text is no entity tag by RFC 9110 §8.8.3."""


class UpdateError(Exception):
    """An update was not made, or nobody knows whether it was.

    Attributes:
        reason: `validator` (the answer has no strong entity tag, and a write without
            one would be blind), `conflict` (others were faster each time), or
            `unknown` (the write was sent more than once and then refused: an earlier
            attempt of it may be what changed the state).
        attempts: writes that were sent.
        response: the last answer.
    """

    def __init__(self, reason: str, attempts: int, response: httpx.Response) -> None:
        super().__init__(f"{reason} after {attempts} writes: {response.status_code}")
        self.reason, self.attempts, self.response = reason, attempts, response


@dataclass(frozen=True, slots=True)
class Method:
    """What a method promises to everybody on the way (RFC 9110 §9.2).

    `cacheable` says what the standard allows: an answer to POST or PATCH only with an
    explicit freshness and a `Content-Location`, one to QUERY with its content as key.
    """

    name: str
    safe: bool = False
    idempotent: bool = False
    cacheable: bool = False


METHODS = (  # §9.2.1 to §9.2.3, RFC 5789 §2, RFC 10008 §2; any other promises nothing
    Method("GET", safe=True, idempotent=True, cacheable=True),
    Method("HEAD", safe=True, idempotent=True, cacheable=True),
    Method("QUERY", safe=True, idempotent=True, cacheable=True),
    Method("OPTIONS", safe=True, idempotent=True),
    Method("TRACE", safe=True, idempotent=True),
    Method("PUT", idempotent=True),
    Method("DELETE", idempotent=True),
    Method("POST", cacheable=True),
    Method("PATCH", cacheable=True),
    Method("CONNECT"),
)


@dataclass(frozen=True, slots=True)
class ETag:
    """An entity tag: the name of one state of a representation (RFC 9110 §8.8.3).

    Args:
        opaque: what stands between the quotes.
        weak: whether states that differ a little may share it.

    Raises:
        InvalidETag: `opaque` has a space, a quote, a control character, or one that
            is not in Latin-1.
    """

    opaque: str
    weak: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be sent."""
        if not re.fullmatch(_OPAQUE, f'"{self.opaque}"'):
            raise InvalidETag("no spaces, quotes or control characters in a tag")

    @classmethod
    def parse(cls, value: str) -> ETag:
        """Read one entity tag; `W/` is case-sensitive, and the quotes are a part of it.

        >>> ETag.parse('W/"1"')
        ETag(opaque='1', weak=True)

        Raises:
            InvalidETag: it is none.
        """
        found = _TAG.fullmatch(value.strip(" \t"))
        if not found:
            raise InvalidETag('want an entity tag, such as "x" or W/"x"')
        return cls(found[2], weak=bool(found[1]))

    @classmethod
    def of(cls, content: bytes) -> ETag:
        """Make a strong one of a representation's bytes."""
        return cls(hashlib.sha256(content).hexdigest()[:32])

    def __str__(self) -> str:
        """Return it as it stands in a header."""
        return f'{"W/" * self.weak}"{self.opaque}"'

    def strong_compare(self, other: ETag) -> bool:
        """Tell whether both are strong and the same (RFC 9110 §8.8.3.2)."""
        return not (self.weak or other.weak) and self.opaque == other.opaque

    def weak_compare(self, other: ETag) -> bool:
        """Tell whether both name the same state, weak or not (RFC 9110 §8.8.3.2)."""
        return self.opaque == other.opaque


def parse_etags(value: str) -> list[ETag] | None:
    """Read a list of entity tags, as `If-Match` has it; `*` is None.

    Empty members are ignored (RFC 9110 §5.6.1). A list with anything else in it is
    refused as a whole, since it cannot be known what its sender meant.

    >>> [str(tag) for tag in parse_etags('"a,b", W/"c"')]
    ['"a,b"', 'W/"c"']

    Raises:
        InvalidETag: it is no list of entity tags, is empty, or is longer than 8192.
    """
    text = value.strip(" \t")
    if text == "*":
        return None
    if len(text) > _LONGEST or not _TAGS.fullmatch(text):
        raise InvalidETag("want entity tags with commas between them")
    tags = [ETag(found[2], weak=bool(found[1])) for found in _TAG.finditer(text)]
    if not tags:
        raise InvalidETag("want an entity tag at least")
    return tags


def parse_http_date(value: str, *, now: datetime | None = None) -> datetime | None:
    """Read an HTTP-date in any of its three forms; None if it is none.

    Args:
        value: the field's value.
        now: from which a year of two digits is at most 50 years ahead.

    >>> parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT").isoformat()
    '1994-11-06T08:49:37+00:00'
    """
    return _http_date(value.strip(" \t"), now or datetime.now(UTC))


def format_http_date(at: datetime) -> str:
    """Write an aware datetime as IMF-fixdate, its fraction of a second cut off.

    >>> format_http_date(datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC))
    'Sun, 06 Nov 1994 08:49:37 GMT'

    Raises:
        ValueError: it is not aware of its zone.
    """
    if at.utcoffset() is None:
        raise ValueError("want a datetime that is aware of its zone")
    at = at.astimezone(UTC)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[at.weekday()]
    return f"{day}, {at:%d} {_MONTHS[at.month - 1]} {at.year:04} {at:%H:%M:%S} GMT"


# Twin of _http_date in errors/retry.py.
def _http_date(text: str, now: datetime) -> datetime | None:
    """Return the moment that an HTTP-date names, or None if it is none."""
    found = next(filter(None, (form.fullmatch(text) for form in _DATES)), None)
    if found is None:
        return None
    month = _MONTHS.index(found["month"]) + 1
    day, hour, minute, second = (
        int(found[n]) for n in ("day", "hour", "minute", "second")
    )
    year, here = int(found["year"]), now.astimezone(UTC)
    if len(found["year"]) == 2:  # of the years that end so, the last within 50 years
        year = here.year + 50 - (here.year + 50 - year) % 100
        limit = (here.year + 50, *here.timetuple()[1:6])
        year -= 100 * ((year, month, day, hour, minute, second) > limit)
    try:  # a leap second is the 61st
        at = datetime(year, month, day, hour, minute, tzinfo=UTC)
        return at + timedelta(seconds=second)
    except (ValueError, OverflowError):
        return None


def vary_key(vary: str, headers: Headers) -> tuple[tuple[str, str | None], ...] | None:
    """Return what of a request an answer depended on, by its `Vary`.

    Two requests with equal keys may share the answer. None equals nothing, since `*`
    says that it depended on more than can be seen (RFC 9110 §12.5.5).

    >>> vary_key("Accept, accept-language", {"Accept": "text/csv"})
    (('accept', 'text/csv'), ('accept-language', None))
    """
    names = {name.strip(" \t").lower() for name in vary.split(",")} - {""}
    if "*" in names:
        return None
    return tuple((name, _field(headers, name)) for name in sorted(names))


@dataclass(frozen=True, slots=True)
class Validators:
    """What names the present state of a resource; without either it only exists."""

    etag: ETag | None = None
    last_modified: datetime | None = None

    def headers(self) -> dict[str, str]:
        """Return them as header fields."""
        found = {} if self.etag is None else {"etag": str(self.etag)}
        if self.last_modified is not None:
            found["last-modified"] = format_http_date(self.last_modified)
        return found


@dataclass(frozen=True, slots=True)
class Proceed:
    """Do what was asked; `range_applies` tells whether `Range` is to be looked at."""

    range_applies: bool = False


@dataclass(frozen=True, slots=True)
class NotModified:
    """Answer 304: the client has this state already.

    The answer has `Cache-Control`, `Content-Location`, `Date`, `ETag`, `Expires` and
    `Vary` as the 200 would have had them, and no content (RFC 9110 §15.4.5).
    """

    status: int = field(default=304, init=False)


@dataclass(frozen=True, slots=True)
class PreconditionFailed:
    """Answer 412: the state is another than the client thinks."""

    status: int = field(default=412, init=False)


def evaluate(
    method: str,
    headers: Headers,
    etag: ETag | str | None,
    last_modified: datetime | None,
    *,
    exists: bool | None = None,
    now: datetime | None = None,
) -> Proceed | NotModified | PreconditionFailed:
    """Judge the preconditions of a request, in the order of RFC 9110 §13.2.2.

    For a request that would otherwise be answered by 2xx (§13.2.1). A malformed list of
    tags matches nothing: `If-Match` then fails, and `If-None-Match` fails for what
    writes and is ignored for what reads. A malformed date is ignored, as the standard
    says. QUERY counts as GET does, with the validators of its result. Dates compare in
    whole seconds.

    Args:
        method: in its own case.
        headers: of the request, in any case; repeated ones are joined.
        etag: of the representation that was selected, or None.
        last_modified: the same, an aware datetime.
        exists: whether there is a representation; if not given, it exists if it has
            either validator.
        now: makes a date strong or not, for `If-Range` (§8.8.2.2).

    Raises:
        ValueError: `etag` is a text that is no entity tag, or a datetime is not aware.

    >>> evaluate("PUT", {"If-Match": '"1"'}, '"2"', None)
    PreconditionFailed(status=412)
    >>> evaluate("GET", {"If-None-Match": 'W/"2"'}, '"2"', None)
    NotModified(status=304)
    """
    tag = ETag.parse(etag) if isinstance(etag, str) else etag
    modified = None if last_modified is None else _whole_seconds(last_modified)
    if method in _NO_STATE:
        return Proceed()
    there = exists if exists is not None else not (tag is None and modified is None)
    headers = headers if isinstance(headers, Mapping) else [*headers]
    asks = {name: _field(headers, name) for name in _CONDITIONS}
    now = now or datetime.now(UTC)
    since = {name: parse_http_date(asks[name] or "", now=now) for name in _DATED}

    if asks["if-match"] is not None:
        if not _any_match(asks["if-match"], tag, there, ETag.strong_compare):
            return PreconditionFailed()
    elif (limit := since["if-unmodified-since"]) and modified and modified > limit:
        return PreconditionFailed()

    reads, known = method in _SAFE, False
    if (given := asks["if-none-match"]) is not None:
        # What is malformed is no reason to leave out an answer, and one not to write.
        known = _any_match(given, tag, there, ETag.weak_compare, malformed=not reads)
    elif (limit := since["if-modified-since"]) and modified and reads:
        known = modified <= limit
    if known:
        return NotModified() if reads else PreconditionFailed()
    return Proceed(_range_applies(method, asks, tag, modified, now))


_DATED = ("if-modified-since", "if-unmodified-since")
_CONDITIONS = ("if-match", "if-none-match", "if-range", "range", *_DATED)


def _any_match(
    value: str,
    tag: ETag | None,
    there: bool,
    compare: Callable[[ETag, ETag], bool],
    malformed: bool = False,
) -> bool:
    try:
        tags = parse_etags(value)
    except InvalidETag:
        return malformed
    if tags is None:
        return there
    return there and tag is not None and any(compare(tag, other) for other in tags)


def _range_applies(
    method: str,
    asks: Mapping[str, str | None],
    tag: ETag | None,
    modified: datetime | None,
    now: datetime,
) -> bool:
    """Tell whether `Range` is to be looked at (RFC 9110 §13.1.5, §14.2)."""
    value = asks["if-range"]
    if method != "GET" or asks["range"] is None or value is None:
        return method == "GET" and asks["range"] is not None
    try:
        other = ETag.parse(value)
        return tag is not None and tag.strong_compare(other)
    except InvalidETag:
        at = parse_http_date(value, now=now)
    # §8.8.2.2: within the second of the change, a second one would have the same date.
    strong = modified is not None and now - modified >= timedelta(seconds=1)
    return strong and at == modified


def _whole_seconds(at: datetime) -> datetime:
    if at.utcoffset() is None:
        raise ValueError("want a datetime that is aware of its zone")
    return at.astimezone(UTC).replace(microsecond=0)


def _field(headers: Headers, name: str) -> str | None:
    """Return a field's lines joined by commas, or None if there is none."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [value.strip(" \t") for key, value in pairs if key.lower() == name]
    return ", ".join(lines) if lines else None


class PreconditionsMiddleware:
    """Judge preconditions in front of an ASGI app, and ask for them before writes.

    Answers 412 and 428 as problem details. A read whose precondition is false still
    reaches the app, and its 200 becomes a 304 with the same headers: so what the app
    refuses stays refused. Answers to reads tell the validators, if the app does not.
    The app finds them in `scope["state"]["validators"]`, for its own `UPDATE … WHERE
    version = …`: two writers may both pass here before either of them writes. Put it
    inside of what authenticates, since a 412 tells what there is.

    Args:
        app: the ASGI app.
        current: finds the validators of what a request is about; None if there is
            nothing, and then only a PUT is judged, which would create it.
        require: methods that get 428 if they name no state (RFC 6585 §3).
    """

    def __init__(
        self,
        app: App,
        current: Callable[[Scope], Awaitable[Validators | None]],
        *,
        require: Iterable[str] = ("PUT", "PATCH", "DELETE"),
    ) -> None:
        if isinstance(require, str):
            raise ValueError("require is a collection of names")
        self._app, self._current, self._require = app, current, frozenset(require)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] in _NO_STATE:
            return await self._app(scope, receive, send)
        method, found = scope["method"], await self._current(scope)
        scope = {**scope, "state": {**scope.get("state", {}), "validators": found}}
        if found is None and method != "PUT":  # 404, whatever the preconditions say
            return await self._app(scope, receive, send)
        now = found or Validators()
        asks = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        if method in self._require and not _names_a_state(asks, now):
            return await _refuse(428, "Precondition Required", send)
        verdict = evaluate(
            method, asks, now.etag, now.last_modified, exists=found is not None
        )
        if isinstance(verdict, PreconditionFailed):
            return await _refuse(412, "Precondition Failed", send)
        if known := isinstance(verdict, NotModified):  # and no file, by its path
            offered = (scope.get("extensions") or {}).items()
            of = "http.response."
            scope["extensions"] = {k: v for k, v in offered if not k.startswith(of)}

        async def tell(message: Scope) -> None:
            nonlocal known
            if message["type"] == "http.response.start":
                known = known and message["status"] == 200
                message = _told(message, now, known)
            elif known and message["type"] == "http.response.body":
                if message.get("more_body"):
                    return
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, tell if method in _SAFE else send)


def _names_a_state(headers: Headers, now: Validators) -> bool:
    """Tell whether a write is for one state only: of a tag, a date, or of nothing."""
    if _field(headers, "if-match") is not None:
        return True
    if (_field(headers, "if-none-match") or "").strip() == "*":
        return True
    since = parse_http_date(_field(headers, "if-unmodified-since") or "")
    return since is not None and now.last_modified is not None


def _told(message: Scope, validators: Validators, known: bool) -> Scope:
    """Return the start of an answer with the validators, as a 304 if they are known."""
    if not 200 <= message["status"] < 300:
        return message
    fields = [
        (bytes(name).lower(), value) for name, value in message.get("headers", ())
    ]
    names = {name for name, _ in fields}
    for name, value in validators.headers().items():
        if name.encode() not in names:
            fields.append((name.encode(), value.encode("latin-1")))
    if known:  # §15.4.5: what describes content goes
        of = (b"content-length", b"content-type", b"content-encoding", b"content-range")
        fields = [(name, value) for name, value in fields if name not in of]
    return {**message, "status": 304 if known else message["status"], "headers": fields}


async def _refuse(status: int, title: str, send: Send) -> None:
    body = json.dumps({"title": title, "status": status}).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),  # RFC 6585 §3
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class UpdateOptions(TypedDict, total=False):
    """What `update_with_etag` takes beside what it must know."""

    method: str
    headers: Mapping[str, str]
    max_attempts: int
    load: Callable[[httpx.Response], Any]
    dump: Callable[[Any], dict[str, Any]]
    base_delay: float
    sleep: Callable[[float], Any]
    random: Callable[[], float]


def update_with_etag(
    client: httpx.Client,
    url: httpx.URL | str,
    change: Callable[[Any], Any],
    **options: Unpack[UpdateOptions],
) -> httpx.Response:
    """Read a representation, change it, and write it if nobody else did meanwhile.

    The write carries `If-Match` with the strong entity tag that was read. After a 412
    it reads, changes and writes again, after a short random wait. Errors of the
    transport are raised and not repeated: put a retrying transport under the client; a
    PUT with `If-Match` has at most one effect, however often it is sent. If it was
    sent more than once (by the answer's `extensions["attempts"]`) and the last was
    refused with 412, an earlier one may have done it, and `UpdateError` says `unknown`.

    Args:
        client: a client of httpx.
        url: of the resource, for the read and the write.
        change: makes the new representation of the one that was read. It may be
            called several times, and must return what it made.
        **options: `method` ("PUT"), `headers` of both requests, `max_attempts` (4),
            `load` (`response.json()`), `dump` (makes of a representation arguments of
            the request: `{"json": it}`; `headers` are added to the others),
            `base_delay` (0.05 s, doubled each time, of which a random part is waited),
            `sleep`, `random` (0 to 1).

    Returns:
        The answer to the write.

    Raises:
        UpdateError: others were faster, there is no strong tag, or it is not known.
        httpx.HTTPStatusError: any other status than 2xx, 428 included, and a redirect
            that made a GET of the write, unless by 303, which says that it was done.
        TypeError: `change` returned None, or the client is an async one.
    """
    if isinstance(client, httpx.AsyncClient):
        raise TypeError("an httpx.AsyncClient: aupdate_with_etag is for it")
    options.setdefault("sleep", time.sleep)
    steps = _update(client, url, change, **options)
    try:
        step = next(steps)
        while True:
            step = steps.send(step())
    except StopIteration as done:
        return cast("httpx.Response", done.value)


async def aupdate_with_etag(
    client: httpx.AsyncClient,
    url: httpx.URL | str,
    change: Callable[[Any], Any],
    **options: Unpack[UpdateOptions],
) -> httpx.Response:
    """Do what `update_with_etag` does; `change` and `sleep` may be async."""
    options.setdefault("sleep", asyncio.sleep)
    steps = _update(client, url, change, **options)
    try:
        step = next(steps)
        while True:
            got = step()
            step = steps.send(await got if inspect.isawaitable(got) else got)
    except StopIteration as done:
        return cast("httpx.Response", done.value)


def _update(
    client: Any,
    url: httpx.URL | str,
    change: Callable[[Any], Any],
    *,
    method: str = "PUT",
    headers: Mapping[str, str] | None = None,
    max_attempts: int = 4,
    load: Callable[[httpx.Response], Any] = lambda response: response.json(),
    dump: Callable[[Any], dict[str, Any]] = lambda value: {"json": value},
    base_delay: float = 0.05,
    sleep: Callable[[float], Any] = time.sleep,
    random: Callable[[], float] = random.random,
) -> Generator[Callable[[], Any], Any, httpx.Response]:
    """Yield what is to be called, and take what came of it: both drivers' one core."""
    fields = dict(httpx.Headers(headers))
    # A cache on the way would show the state that has just been refused.
    fresh = {"cache-control": "no-cache"} | fields
    attempt = 0
    while True:
        seen = yield partial(client.request, "GET", url, headers=fresh)
        tag = _strong(seen.raise_for_status())
        if tag is None:
            raise UpdateError("validator", attempt, seen)
        wanted = yield partial(change, load(seen))
        if wanted is None:
            raise TypeError("change returned None: want the new representation")
        sent = dump(wanted)
        more = dict(httpx.Headers(sent.get("headers")))
        sent["headers"] = fields | more | {"if-match": tag.encode("latin-1")}
        answer = yield partial(client.request, method, url, **sent)
        attempt += 1
        for (
            step
        ) in answer.history:  # a redirect that made a read of it; 303: it is done
            if answer.request.method != method.upper() and step.status_code != 303:
                step.raise_for_status()
        if answer.status_code != 412:
            answer.raise_for_status()
            return cast("httpx.Response", answer)
        if answer.extensions.get("attempts", 1) > 1:
            raise UpdateError("unknown", attempt, answer)
        if attempt >= max_attempts:
            raise UpdateError("conflict", attempt, answer)
        yield partial(sleep, random() * base_delay * 2.0 ** (attempt - 1))


def _strong(response: httpx.Response) -> str | None:
    lines = [value for name, value in response.headers.raw if name.lower() == b"etag"]
    try:  # the very octets are sent back, whatever charset a client reads in them
        tag = ETag.parse(b", ".join(lines).decode("latin-1"))
    except InvalidETag:
        return None
    return None if tag.weak else str(tag)


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
