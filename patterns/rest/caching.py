# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["hishel[async]>=2,<3", "httpx>=0.28.1"]
# ///
"""Reuse responses while they are fresh, for one principal and no other.

`may_reuse` decides by the rules of RFC 9111 what a stored response is good for, and
`PrivateCacheTransport` acts on it in a blocking or an async client. For reads that
repeat, from a server that sends `Cache-Control`, `Expires` or validators; not for a
proxy, which is a shared cache, nor to make fast what the server says not to keep.
What is kept lies in a store of the package hishel, in memory or in a file for each
principal; only the transport needs it. Follows RFC 9111 (caching), RFC 5861
(`stale-if-error`, `stale-while-revalidate`), RFC 8246 (`immutable`) and RFC 9110 §5.6.7
(dates), §8.8 and §13.1 (validators). Ranges are passed on, and never stored.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import httpx

# fmt: off
__all__ = [
    "Fetch", "PrivateCacheTransport", "Refuse", "Reuse", "Revalidate", "Stored",
    "changed_urls", "current_age", "freshen", "freshness_lifetime", "is_storable",
    "may_reuse", "parse_age", "parse_cache_control", "parse_expires", "vary_key",
]
# fmt: on

_log = logging.getLogger(__name__)

CacheControl: TypeAlias = Mapping[str, int | str | None]
_Step: TypeAlias = Callable[[], Any]
_Steps: TypeAlias = Generator[_Step, Any, Any]
_Sent: TypeAlias = "Fetch | Revalidate"

_FOREVER = 2**31  # seconds; RFC 9111 §1.2.2: what is larger, or overflows
_LONGEST = 8192  # characters of a Cache-Control that are looked at
_VARIANTS = 16  # stored responses of one URL
_REMEMBERED = 4096  # URLs of which it is remembered when they changed
# Directives in seconds, and what is worst: what a malformed one counts as.
_SECONDS = {"max-age": 0, "s-maxage": 0, "max-stale": 0, "min-fresh": _FOREVER}
_SECONDS |= {"stale-if-error": 0, "stale-while-revalidate": 0}
# A member of a list ends at a comma that is not quoted.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+")*+', re.DOTALL)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
_UNDERSTOOD = _HEURISTIC | {302, 303, 307, 400, 403, 500, 502, 503, 504}
_DOWN = frozenset({500, 502, 503, 504})  # RFC 5861 §4
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE"})
# RFC 9110 §13.1 and §14.2: the caller asks for something else than the content.
_CONDITIONS = "if-match if-modified-since if-none-match if-range if-unmodified-since"
# And content that GET has against RFC 9110 §9.3.1 may be a part of the question.
_WITH_CONTENT = frozenset({"content-length", "transfer-encoding"})
_CONDITIONAL = frozenset([*_CONDITIONS.split(), "range", *_WITH_CONTENT])
_HOP = "connection keep-alive proxy-authenticate proxy-authentication-info te trailer "
_HOP += (
    "proxy-authorization proxy-connection transfer-encoding upgrade"  # RFC 9111 §3.1
)
# RFC 9111 §3.2: without them the stored content could not be read any more.
_OF_CONTENT = frozenset({"content-encoding", "content-length", "content-range"})
# Answers that say nothing against a stored response, as does a server that fails.
_BESIDES = frozenset({206, 304, 412})
_KEPT = ":kept"  # no field of a message can have this name

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


@dataclass(frozen=True, slots=True)
class Stored:
    """A response that was kept; times are in seconds since the epoch.

    `request_time` and `response_time` are those of the exchange that brought it or
    that validated it last, by the cache's own clock. `vary_key` stands for the
    request's fields that its `Vary` names (see `vary_key`).
    """

    status: int
    headers: httpx.Headers
    request_time: float
    response_time: float
    vary_key: str | None = ""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Answer with the stored response; `age` in seconds is for its `Age` field."""

    age: float
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Revalidate:
    """Ask the server whether the stored response still holds.

    `headers` makes the request conditional. `if_error` allows to answer with the
    stored response where the server fails, and `meanwhile` to answer with it at once
    and to ask the server after that; both within the times of RFC 5861.
    """

    headers: Mapping[str, str]
    if_error: bool = False
    meanwhile: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send the request as it is."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer 504: the request asks for a stored response, and none will do."""


def parse_cache_control(value: str) -> dict[str, int | str | None]:
    """Return the directives of a Cache-Control value, by their names in lower case.

    An argument in seconds is an int of at most 2^31, another one is text, and None
    stands for no argument. A member that is no directive is ignored; unknown ones are
    kept. Where directives contradict each other the strictest counts, and a number
    that is malformed counts as the strictest that there is: `max-age=soon` is 0. A
    value of more than 8192 characters is `no-store`. Source: RFC 9111 §5.2, §4.2.1,
    §1.2.2.

    >>> parse_cache_control('Max-Age="60", no-cache="Set-Cookie", max-age=5, a=b')
    {'max-age': 5, 'no-cache': 'Set-Cookie', 'a': 'b'}
    """
    if len(value) > _LONGEST:
        return {"no-store": None}
    found: dict[str, int | str | None] = {}
    for member in _members(value):
        name, equals, argument = (part.strip(" \t") for part in member.partition("="))
        name = name.lower()
        if not _TOKEN.fullmatch(name):
            continue
        if quoted := _QUOTED.fullmatch(argument):
            argument = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
        given = _directive(name, argument if equals else None)
        if name in found:
            given = _stricter(name, found[name], given)
        found[name] = given
    return found


def _members(value: str) -> Iterator[str]:
    """Yield the members of a list; after a quote that never ends, by commas alone."""
    at = 0
    while at < len(value):
        found = _MEMBER.match(value, at)
        end = found.end() if found else at
        if end < len(value) and value[end] == '"':
            yield from value[at:].split(",")
            return
        yield value[at:end]
        at = end + 1


def _directive(name: str, argument: str | None) -> int | str | None:
    """Return a directive's argument as a value."""
    if name not in _SECONDS:
        return argument or None  # `no-cache=""` names no field that it could be for
    if argument is None and name == "max-stale":
        return _FOREVER  # RFC 9111 §5.2.1.2: a stale response of any age
    seconds = _delta_seconds(argument or "")
    return _SECONDS[name] if seconds is None else seconds


def _stricter(name: str, one: Any, other: Any) -> int | str | None:
    """Return the stricter of two values of one directive."""
    if name in _SECONDS:
        strict: int = (max if name == "min-fresh" else min)(one, other)
        return strict
    if one is None or other is None:
        return None  # `no-cache` says more than `no-cache="set-cookie"`
    return f"{one}, {other}"


def _delta_seconds(text: str) -> int | None:
    """Return a number of seconds, or None if the text is none."""
    found = re.fullmatch("0*([0-9]+)", text)
    return None if found is None else min(int(found[1][:11]), _FOREVER)


def parse_age(value: str) -> int | None:
    """Return the seconds of an Age value, or None if it is to be ignored.

    Of a list the first member counts. Source: RFC 9111 §5.1.

    >>> parse_age("120, 3"), parse_age("99999999999"), parse_age("-1")
    (120, 2147483648, None)
    """
    return _delta_seconds(value.partition(",")[0].strip(" \t"))


def parse_expires(value: str, *, now: float) -> float | None:
    """Return the time that an Expires value names, or None: then it has expired.

    Anything but one HTTP-date has expired, two dates included. `now` tells the century
    of a year of two digits. Source: RFC 9111 §5.3, RFC 9110 §5.6.7.

    >>> parse_expires("Sun, 06 Nov 1994 08:49:37 GMT", now=0.0)
    784111777.0
    >>> parse_expires("Sun, 06 Nov 1994 08:49:37 UTC", now=0.0)
    """
    at = _http_date(value.strip(" \t"), datetime.fromtimestamp(now, UTC))
    return None if at is None else at.timestamp()


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


def _fields(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return fields that can be looked up by their names in lower case."""
    if isinstance(headers, httpx.Headers):
        return headers
    return {name.lower(): value for name, value in headers.items()}


def _date(headers: Mapping[str, str], name: str, default: float) -> float:
    """Return the time in a date field, or the default where there is no valid one."""
    at = parse_expires(headers.get(name, ""), now=default)
    return default if at is None else at


def current_age(
    headers: Mapping[str, str],
    *,
    request_time: float,
    response_time: float,
    now: float,
) -> float:
    """Return the seconds since the origin server generated or validated a response.

    What `Age` and `Date` say and the time that the exchange took are counted, and no
    clock that goes back makes it less than they say. Source: RFC 9111 §4.2.3.

    >>> current_age({"age": "100"}, request_time=0, response_time=2, now=12)
    112
    """
    headers = _fields(headers)
    apparent = max(0.0, response_time - _date(headers, "date", response_time))
    delay = max(0.0, response_time - request_time)
    corrected = (parse_age(headers.get("age", "")) or 0) + delay
    return max(apparent, corrected) + max(0.0, now - response_time)


def freshness_lifetime(
    headers: Mapping[str, str], *, response_time: float, heuristic: float = 0.0
) -> float | None:
    """Return for how many seconds of its age a response is fresh, or None: not said.

    `s-maxage` is for shared caches and does not count. `heuristic` is the share of the
    time since `Last-Modified` to take where the server says nothing (RFC 9111 §4.2.2
    speaks of 0.1); 0 takes none. Source: RFC 9111 §4.2.1.

    >>> freshness_lifetime({"cache-control": "max-age=60"}, response_time=0)
    60.0
    """
    headers = _fields(headers)
    seconds = parse_cache_control(headers.get("cache-control", "")).get("max-age")
    if isinstance(seconds, int):
        return float(seconds)
    date = _date(headers, "date", response_time)
    if "expires" in headers:
        at = parse_expires(headers["expires"], now=response_time)
        return 0.0 if at is None else max(0.0, at - date)
    if heuristic and "last-modified" in headers:
        return max(0.0, date - _date(headers, "last-modified", date)) * heuristic
    return None


def is_storable(
    method: str,
    status: int,
    request_headers: Mapping[str, str],
    response_headers: Mapping[str, str],
) -> bool:
    """Tell whether a private cache may store a response.

    It stores complete responses to GET. Source: RFC 9111 §3.

    >>> is_storable("GET", 200, {}, {"cache-control": "max-age=60, no-store"})
    False
    """
    headers = _fields(response_headers)
    said = parse_cache_control(headers.get("cache-control", ""))
    given = _fields(request_headers).get("cache-control", "")
    asked = parse_cache_control(given)
    if method != "GET" or status in (206, 304) or status < 200 or "no-store" in asked:
        return False
    if vary_key(headers.get("vary", ""), {}) is None:
        return False
    if "must-understand" in said:  # RFC 9111 §5.2.2.3: then no-store is for others
        return status in _UNDERSTOOD
    if "no-store" in said:
        return False
    said_so = {"public", "private", "max-age"} & said.keys()
    return bool(said_so) or "expires" in headers or status in _HEURISTIC


def vary_key(
    vary: str, headers: Mapping[str, str], *, also: Collection[str] = ()
) -> str | None:
    """Return what stands for the request's fields that a Vary value names.

    Two requests match if their keys are equal; `Vary: *` and a value that is malformed
    or over 8192 characters match nothing and give None. It is a digest: the store need
    not know the values. `also` names further fields. Source: RFC 9111 §4.1.

    >>> vary_key("accept", {"accept": "a"}) == vary_key("Accept", {"accept": "a"})
    True
    """
    names = {name.strip(" \t").lower() for name in vary.split(",")} - {""}
    if len(vary) > _LONGEST or "*" in names or not all(map(_TOKEN.fullmatch, names)):
        return None
    names |= {name.lower() for name in also}
    headers = _fields(headers)
    pairs = [[name, headers.get(name)] for name in sorted(names)]
    return _digest(pairs) if pairs else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def may_reuse(
    request: httpx.Request,
    stored: Stored | None,
    *,
    now: float,
    heuristic: float = 0.0,
) -> Reuse | Revalidate | Fetch | Refuse:
    """Decide what a stored response is good for, when a request for its URL comes.

    `now` is in seconds since the epoch. If it is before the response came, the clock
    was set back and nobody knows the age: the response counts as just gone stale.
    Source: RFC 9111 §4, §5.2; RFC 5861; RFC 8246.

    >>> headers = httpx.Headers({"cache-control": "max-age=60", "etag": '"7"'})
    >>> stored = Stored(200, headers, request_time=0, response_time=0)
    >>> may_reuse(httpx.Request("GET", "https://api.test"), stored, now=59)
    Reuse(age=59.0, stale=False)
    >>> may_reuse(httpx.Request("GET", "https://api.test"), stored, now=60)
    Revalidate(headers={'if-none-match': '"7"'}, if_error=False, meanwhile=False)
    """
    asked = parse_cache_control(request.headers.get("cache-control", ""))
    without: Fetch | Refuse = Fetch()
    if request.method not in ("GET", "HEAD"):
        return without
    if "only-if-cached" in asked:
        without = Refuse()
    if stored is None or _CONDITIONAL & request.headers.keys():
        return without
    key = vary_key(stored.headers.get("vary", ""), request.headers)
    if key is None or key != stored.vary_key:
        return without
    said = parse_cache_control(stored.headers.get("cache-control", ""))
    age = _age(stored, now)
    lifetime = freshness_lifetime(
        stored.headers, response_time=stored.response_time, heuristic=heuristic
    )
    left = (lifetime or 0.0) - age if now >= stored.response_time else 0.0
    strict = said.get("no-cache", "") is None or "must-revalidate" in said
    if said.get("no-cache", "") is not None and _is_wanted(asked, said, age, left):
        return Reuse(age, stale=left <= 0)
    headers = _validators(stored.headers)
    strict = strict or "no-cache" in asked
    most = max(_number(both, "stale-if-error") for both in (said, asked))
    if_error = not strict and 0 < most >= -left
    if isinstance(without, Refuse) or not (headers or if_error):
        return without
    meanwhile = not strict and 0 < _number(said, "stale-while-revalidate") >= -left
    return Revalidate(headers, if_error, meanwhile)


def _age(stored: Stored, now: float) -> float:
    return current_age(
        stored.headers,
        request_time=stored.request_time,
        response_time=stored.response_time,
        now=now,
    )


def _number(directives: CacheControl, name: str, default: int = 0) -> int:
    value = directives.get(name)
    return value if isinstance(value, int) else default


def _is_wanted(
    asked: CacheControl, said: CacheControl, age: float, left: float
) -> bool:
    """Tell whether a response of this age is one that the request accepts."""
    if "no-cache" in asked:
        return False
    limit = _number(asked, "max-age", _FOREVER)
    # `max-age=0` is a reload, which RFC 8246 takes back where nothing can have changed.
    if (age > limit or not limit) and not ("immutable" in said and left > 0):
        return False
    if left > 0:
        return left >= _number(asked, "min-fresh")
    # RFC 9111 §4.2.4: no request lifts what the server forbids.
    strict = "must-revalidate" in said or "max-stale" not in asked
    return not strict and -left <= _number(asked, "max-stale")


def _validators(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that make a request conditional (RFC 9111 §4.3.1)."""
    pairs = (("if-none-match", "etag"), ("if-modified-since", "last-modified"))
    return {name: headers[of] for name, of in pairs if headers.get(of)}


def freshen(
    stored: Stored, headers: httpx.Headers, *, head: bool = False
) -> httpx.Headers | None:
    """Return the fields of a stored response after a 304, or None: it is another's.

    `head` says that they are those of a 200 to HEAD, which must agree with what is
    stored in its length too. Source: RFC 9111 §3.2, §4.3.4, §4.3.5.

    >>> stored = Stored(200, httpx.Headers({"etag": '"7"', "age": "9"}), 0, 0)
    >>> freshen(stored, httpx.Headers({"etag": 'W/"7"', "x": "y"}))
    Headers({'etag': 'W/"7"', 'x': 'y'})
    >>> freshen(stored, httpx.Headers({"etag": '"8"'}))
    """
    names = ["etag"] if "etag" in headers else ["last-modified"]
    for name in [*names, "content-length"] if head else names:
        mine, theirs = stored.headers.get(name), headers.get(name)
        if theirs and mine and mine.removeprefix("W/") != theirs.removeprefix("W/"):
            return None
    new = _without(_to_store(headers), _OF_CONTENT)
    old = _without(stored.headers, {"age", *new})  # that Age was of the exchange before
    return httpx.Headers(old.raw + new.raw)


def _to_store(headers: httpx.Headers) -> httpx.Headers:
    """Return the fields that are stored (RFC 9111 §3.1, §5.2.2.4)."""
    said = parse_cache_control(headers.get("cache-control", ""))
    named = f"{headers.get('connection', '')},{said.get('no-cache') or ''}"
    names = {name.strip(" \t").lower() for name in named.split(",")}
    return _without(headers, names.union(_HOP.split()))


def _without(headers: httpx.Headers, names: Collection[str]) -> httpx.Headers:
    """Return the fields but those of some names; bytes, as not all text is ASCII."""
    return httpx.Headers(
        [(n, v) for n, v in headers.raw if n.decode("latin-1").lower() not in names]
    )


def changed_urls(request: httpx.Request, response: httpx.Response) -> list[httpx.URL]:
    """Return the URLs whose stored responses a request made worthless.

    Those are its own and, on the same origin, those in `Location` and
    `Content-Location`, where an unsafe method did not fail. Source: RFC 9111 §4.4.

    >>> request = httpx.Request("PUT", "https://api.test/orders/7")
    >>> changed_urls(request, httpx.Response(204, headers={"location": "/orders/8"}))
    [URL('https://api.test/orders/7'), URL('https://api.test/orders/8')]
    """
    if request.method in _SAFE or response.status_code >= 400:
        return []
    urls = [request.url]
    for name in ("location", "content-location"):
        if value := response.headers.get(name):
            with suppress(httpx.InvalidURL, ValueError):
                urls.append(request.url.join(value))
    return [url for url in urls if _origin(url) == _origin(request.url)]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    # Not `host`, which raises for a malformed name in an international domain.
    return url.scheme, url.raw_host.decode("ascii"), url.port


class PrivateCacheTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answer from a private cache where RFC 9111 allows it; else send below.

    A response tells in `extensions["caching"]` what happened: `from_cache`,
    `revalidated` (the server was asked, and said that what is stored still holds),
    `stored` (it will be, once its body was read to the end) and `stale`. One that comes
    from the cache has an `Age`. A stale one is given only where the request asks for
    it by `max-stale`, or where the server fails and `stale-if-error` allows it; a
    server that only takes its time is waited for. A request with conditions of its own
    or a range goes to the server.

    What one principal got is never given to another: each has a store of its own, and
    within it a response belongs to the credentials that it was got with, so a renewed
    token starts afresh. Nothing that was got before an unsafe request to its URL ended
    is given after it, as far as this object has seen, unless the server said that it
    failed. A store that fails or is damaged is a miss; it is logged. A request with
    content is passed on. Thread-safe and task-safe.

    Args:
        transport: the transport below, of the client's kind.
        principal: who the client acts for; any text that no other principal has.
        folder: where a file for each principal is kept; in memory without one. A file
            may be shared by processes, and holds responses and no request.
        storage: a store of hishel's to use instead, of the client's kind, which the
            caller closes. Principals may share one.
        credentials: the request's fields that tell users apart.
        heuristic: see `freshness_lifetime`.
        max_body: bytes of the largest body that is stored.
        max_size: bytes of the whole store.
        clock: seconds since the epoch.

    Raises:
        ImportError: hishel is not there.
        ValueError: the principal is empty.

    >>> answer = httpx.Response(200, json=7, headers={"cache-control": "max-age=60"})
    >>> below = httpx.MockTransport(lambda request: answer)
    >>> transport = PrivateCacheTransport(below, "ann")
    >>> with httpx.Client(transport=transport) as client:
    ...     for _ in range(2):
    ...         client.get("https://api.test").extensions["caching"]["from_cache"]
    False
    True
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        principal: str,
        *,
        folder: str | os.PathLike[str] | None = None,
        storage: Any = None,
        credentials: Collection[str] = ("authorization", "cookie"),
        heuristic: float = 0.0,
        max_body: int = 8 * 2**20,
        max_size: int = 64 * 2**20,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(principal, str) or not principal:
            raise ValueError("a principal is a text that is not empty")
        self._hishel: Any = importlib.import_module("hishel")
        self._transport: Any = transport
        self._principal = _digest(["private-cache:1", principal])
        self._folder = None if folder is None else Path(folder)
        self._given = storage
        self._own: dict[bool, Any] = {}
        self._credentials, self._heuristic = credentials, heuristic
        self._max_body, self._max_size = max_body, max_size
        self._clock = clock or time.time
        self._count, self._changed = 0, OrderedDict[str, int]()
        self._forgotten = 0  # the newest change that is not among them any more
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        response: httpx.Response = _run(_Exchange(self, request, blocking=True).steps())
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        steps = _Exchange(self, request, blocking=False).steps()
        response: httpx.Response = await _arun(steps)
        return response

    def close(self) -> None:
        """Close the transport below, and the store."""
        self._transport.close()
        while self._own:
            self._own.popitem()[1].close()

    async def aclose(self) -> None:
        """Close the transport below, and the store."""
        await self._transport.aclose()
        while self._own:
            closing = self._own.popitem()[1].close()
            if inspect.isawaitable(closing):
                await closing

    def _storage(self, blocking: bool) -> Any:
        """Return the store; in memory it is one for both kinds, as it never waits."""
        if self._given is not None:
            return self._given
        kind = blocking or self._folder is None
        with self._lock:
            if kind not in self._own:
                self._own[kind] = self._new_storage(kind)
            return self._own[kind]

    def _new_storage(self, blocking: bool) -> Any:
        limits = {"max_stream_size": self._max_body, "max_size": self._max_size}
        if self._folder is None:
            sqlite3 = importlib.import_module("sqlite3")
            connection = sqlite3.connect(
                ":memory:", check_same_thread=False, isolation_level=None
            )
            return self._hishel.SqliteStorage(connection=connection, **limits)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{self._principal[:32]}.sqlite"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # for no other user
        names = ("AsyncSqliteStorage", "SqliteStorage")
        return getattr(self._hishel, names[blocking])(database_path=path, **limits)

    def _key(self, url: httpx.URL, host: str) -> str:
        """Return what the responses of a URL are stored under."""
        # Neither the fragment nor a user's name is part of what is asked for.
        parts = [host, *_origin(url), url.raw_path.decode("latin-1")]
        return _digest([self._principal, *parts])

    def _note_change(self, key: str) -> None:
        with self._lock:
            self._count += 1
            self._changed[key] = self._count
            self._changed.move_to_end(key)
            if len(self._changed) > _REMEMBERED:
                self._forgotten = self._changed.popitem(last=False)[1]

    def _has_changed(self, key: str, since: int) -> bool:
        return self._changed.get(key, self._forgotten) > since


class _Exchange:
    """One request and what becomes of it, as steps that may have to be awaited."""

    def __init__(
        self, parent: PrivateCacheTransport, request: httpx.Request, *, blocking: bool
    ) -> None:
        self.parent, self.request, self.blocking = parent, request, blocking
        below, self.host = parent._transport, request.headers.get("host", "")
        self.send = below.handle_request if blocking else below.handle_async_request
        self.key = parent._key(request.url, self.host)
        self.user = vary_key("", request.headers, also=parent._credentials) or ""
        self.began_at = parent._count
        self.entry: Any = None
        self.stored: Stored | None = None

    def steps(self) -> _Steps:
        """Yield what is to be done, and return the response."""
        request, now = self.request, self.parent._clock
        if request.method in ("GET", "HEAD"):
            yield from self.look_up()
        heuristic = self.parent._heuristic
        step = may_reuse(request, self.stored, now=now(), heuristic=heuristic)
        if isinstance(step, Reuse):
            if found := (yield from self.from_store(stale=step.stale)):
                return found
            step = may_reuse(request, None, now=now())
        if not isinstance(step, Fetch | Revalidate):
            empty = httpx.ByteStream(b"")
            return httpx.Response(504, stream=empty, extensions=_told())
        while True:
            began = now()
            try:
                response = yield partial(self.send, self.conditional(step))
            except BaseException as exc:
                if request.method not in _SAFE:  # nobody knows that it was not done
                    yield from self.forget(self.key)
                elif isinstance(exc, httpx.TransportError) and (
                    found := (yield from self.despite(step))
                ):
                    return found
                raise
            try:
                if settled := (yield from self.settle(step, response, began)):
                    return settled
            except BaseException:
                yield response.close if self.blocking else response.aclose
                raise
            step = Fetch()  # the 304 was about something that is gone

    def ask(self, name: str, *values: Any) -> _Steps:
        """Return what the store says; if it fails, log it, and return None."""
        try:
            storage = self.parent._storage(self.blocking)
            return (yield partial(getattr(storage, name), *values))
        except Exception:
            _log.warning("the store failed: %s", name, exc_info=True)

    def look_up(self) -> _Steps:
        """Find the newest stored response that is for a request like this one."""
        found: list[Any] = []
        for entry in (yield from self.ask("get_entries", self.key)) or ():
            if stored := self.matching(entry):
                found.append((stored.response_time, len(found), entry, stored))
        if found:
            _, _, self.entry, self.stored = max(found)

    def matching(self, entry: Any) -> Stored | None:
        """Return what an entry holds, if it is for a request like this one."""
        user, stored = _unpack(entry)
        if stored is None or user != self.user:
            return None
        key = vary_key(stored.headers.get("vary", ""), self.request.headers)
        return stored if key == stored.vary_key else None

    def conditional(self, step: _Sent) -> httpx.Request:
        """Return the request to send."""
        request = self.request
        if isinstance(step, Fetch) or self.stored is None:
            return request
        charset = self.stored.headers.encoding  # so that the same octets go back
        more = [(n.encode(), v.encode(charset)) for n, v in step.headers.items()]
        return httpx.Request(
            request.method,
            request.url,
            headers=httpx.Headers([*request.headers.raw, *more]),
            stream=request.stream,
            extensions=request.extensions,
        )

    def settle(self, step: _Sent, response: httpx.Response, began: float) -> _Steps:
        """Yield what follows an answer; return the response, or None to fetch it."""
        ended, status = self.parent._clock(), response.status_code
        for url in changed_urls(self.request, response):
            yield from self.forget(self.parent._key(url, self.host))
        if isinstance(step, Revalidate):
            found = None
            if status in _DOWN:
                found = yield from self.despite(step)
            elif status == 304:
                yield response.read if self.blocking else response.aread
                if (yield from self.update(response, began, ended)):
                    found = yield from self.from_store(revalidated=True)
            if found or status == 304:
                yield response.close if self.blocking else response.aclose
                return found
        if self.stored and self.request.method == "HEAD" and status == 200:
            yield from self.update(response, began, ended)
        elif self.stored and status < 500 and status not in _BESIDES:
            yield from self.ask("remove_entry", self.entry.id)
        return self.kept(response, began, ended)

    def despite(self, step: _Sent) -> _Steps:
        """Return the stored response although the server failed, if that is allowed."""
        if isinstance(step, Fetch) or not step.if_error:
            return None
        return (yield from self.from_store(stale=True))

    def from_store(self, **told: bool) -> _Steps:
        """Return the stored response, or None if its body is lost."""
        assert self.stored is not None
        try:
            body = yield partial(_read, self.entry.response.stream)
        except Exception:
            _log.warning("a stored body could not be read", exc_info=True)
            yield from self.ask("remove_entry", self.entry.id)
            self.stored = None
            return None
        age = _age(self.stored, self.parent._clock())
        headers = _without(self.stored.headers, {"age"})
        headers["age"] = str(min(int(age), _FOREVER))  # RFC 9111 §4, §5.1
        return httpx.Response(
            self.stored.status,
            headers=headers,
            stream=httpx.ByteStream(b"" if self.request.method == "HEAD" else body),
            extensions=_told(from_cache=True, **told),
        )

    def update(self, response: httpx.Response, began: float, ended: float) -> _Steps:
        """Freshen the stored response, or remove it; tell whether it is there still."""
        assert self.stored is not None
        head = response.status_code == 200
        headers = freshen(self.stored, response.headers, head=head)
        if headers is None:
            yield from self.ask("remove_entry", self.entry.id)
            self.stored = None
            return False
        key = vary_key(headers.get("vary", ""), self.request.headers)
        self.stored = Stored(self.stored.status, headers, began, ended, key)
        packed = self.parent._hishel.Headers(_pack(self.stored, self.user))
        yield from self.ask("update_headers", self.entry.id, packed)
        return True

    def forget(self, key: str) -> _Steps:
        """Remove all that is stored under a key, and what is on its way there."""
        self.parent._note_change(key)
        for entry in (yield from self.ask("get_entries", key)) or ():
            yield from self.ask("remove_entry", entry.id)

    def kept(
        self, response: httpx.Response, began: float, ended: float
    ) -> httpx.Response:
        """Return a response that is stored when its body was read, if it may be."""
        request, headers, status = self.request, response.headers, response.status_code
        told = {**response.extensions, **_told()}
        stream: Any = response.stream
        # One that a layer below has read already cannot be read as it came.
        if response.is_stream_consumed and not isinstance(stream, httpx.ByteStream):
            stream = None
        fresh = freshness_lifetime(
            headers, response_time=ended, heuristic=self.parent._heuristic
        )
        useful = bool(fresh) or bool(_validators(headers))
        storable = is_storable(request.method, status, request.headers, headers)
        apart = {"range", *_WITH_CONTENT} & request.headers.keys()
        if stream is None or not useful or not storable or apart:
            response.extensions = told
            return response
        key = vary_key(headers.get("vary", ""), request.headers)
        stored = Stored(status, _to_store(headers), began, ended, key)
        drive: Any = _run if self.blocking else _arun

        def keep(body: bytes) -> Any:
            return drive(self.keep(stored, body))

        told["caching"]["stored"] = True
        return httpx.Response(
            status,
            headers=headers,
            stream=_Tee(stream, keep, self.parent._max_body),
            extensions=told,
        )

    def keep(self, stored: Stored, body: bytes) -> _Steps:
        """Store a response in the place of those that it supersedes."""
        hishel, has_changed = self.parent._hishel, self.parent._has_changed
        storage = self.parent._storage(self.blocking)
        if has_changed(self.key, self.began_at):
            return
        others = []
        for entry in (yield partial(storage.get_entries, self.key)):
            other = _unpack(entry)[1]
            if other is None or self.matching(entry):
                yield partial(storage.remove_entry, entry.id)
            else:
                others.append((other.response_time, entry.id))
        for _, oldest in sorted(others)[: -_VARIANTS + 1]:
            yield partial(storage.remove_entry, oldest)
        headers = hishel.Headers(_pack(stored, self.user))
        request = hishel.Request("GET", "")  # what is in it stays with the caller
        response = hishel.Response(stored.status, headers, httpx.ByteStream(body))
        entry = yield partial(storage.create_entry, request, response, self.key)
        yield partial(_read, entry.response.stream)  # which is what stores it
        if has_changed(self.key, self.began_at):
            yield partial(storage.remove_entry, entry.id)


class _Tee(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is given to `keep` when it was read to its end, if it fits."""

    def __init__(self, stream: Any, keep: Callable[[bytes], Any], most: int) -> None:
        self._stream, self._keep, self._most = stream, keep, most
        self._body: bytearray | None = bytearray()

    def _add(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body += chunk
            if len(self._body) > self._most:
                self._body = None

    def _taken(self) -> bytes | None:
        body, self._body = self._body, None
        return None if body is None else bytes(body)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._add(chunk)
            yield chunk
        if (body := self._taken()) is not None:
            with _logged():
                self._keep(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._add(chunk)
            yield chunk
        if (body := self._taken()) is not None:
            with _logged():
                await self._keep(body)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _logged() -> Iterator[None]:
    """Log an error of the store: the caller has the response."""
    try:
        yield
    except Exception:
        _log.warning("a response could not be stored", exc_info=True)


def _told(**told: bool) -> dict[str, Any]:
    names = ("from_cache", "revalidated", "stored", "stale")
    return {"caching": dict.fromkeys(names, False) | told}


def _pack(stored: Stored, user: str) -> dict[str, list[str]]:
    """Return a stored response's fields and what belongs to it as one's of hishel."""
    packed: dict[str, list[str]] = {}
    for name, value in stored.headers.raw:
        packed.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    about = [stored.request_time, stored.response_time, stored.vary_key, user]
    return {**packed, _KEPT: [json.dumps(about)]}


def _unpack(entry: Any) -> tuple[str, Stored | None]:
    """Return whose response an entry holds and the response, or None if damaged."""
    try:
        fields = entry.response.headers
        began, ended, key, user = json.loads(fields[_KEPT])
        pairs = [(name, v) for name in fields for v in fields.get_list(name)]
        raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs]
        raw = [pair for pair in raw if pair[0] != _KEPT.encode()]
        if not all(abs(float(at)) < 2**37 for at in (began, ended)):
            raise ValueError("no time")
        status = int(entry.response.status_code)
        return user, Stored(status, httpx.Headers(raw), began, ended, key)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return "", None


def _read(stream: Any) -> bytes | Awaitable[bytes]:
    """Return all of a body, or what is to be awaited for it."""
    return b"".join(stream) if hasattr(stream, "__iter__") else _aread(stream)


async def _aread(stream: Any) -> bytes:
    return b"".join([chunk async for chunk in stream])


def _run(steps: _Steps) -> Any:
    """Take the steps of a blocking client, where nothing has to be awaited."""
    try:
        _arun(steps).send(None)
    except StopIteration as end:
        return end.value


async def _arun(steps: _Steps) -> Any:
    """Take the steps, and await those that have to be."""
    try:
        step = next(steps)
        while True:
            try:
                result = step()
                if inspect.isawaitable(result):
                    result = await result
            except BaseException as exc:
                step = steps.throw(exc)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
