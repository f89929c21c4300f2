# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Keep to a server's rate limit, or state one that clients can keep.

`ThrottleTransport` paces a client: it waits for as long as the server asks, counts
down the quota that the server states, and keeps to a limiter of its own.
`ThrottleMiddleware` is the other half, for any ASGI app: it refuses what is over a
limit, and says in every answer how much is left. Not for repeating what was refused,
which is a retry's work, outside of this transport; nor for one limit over several
processes, unless they share the limiter's store. Follows RFC 9110 §10.2.3
(Retry-After), RFC 6585 §4 (429), RFC 9457 (problem details), RFC 9651 (lists), and what
is called the draft below: draft-ietf-httpapi-ratelimit-headers-11 of 2026-05-23.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import math
import random
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote

import httpx

# fmt: off
__all__ = [
    "RateLimit", "RateLimitPolicy", "ThrottleMiddleware", "ThrottleTransport",
    "ThrottledError", "client_address", "parse_ratelimit", "parse_ratelimit_policy",
]

#: Every name on the wire, by its name in this file. The draft may still rename some (by
#: its PR #166 `r` becomes `a`, and `t` becomes `w`): then this table changes, alone.
_WIRE = {
    "limit": "RateLimit", "policy": "RateLimit-Policy",  # draft §4, §3
    "r": "r", "t": "t", "q": "q", "qu": "qu", "w": "w", "pk": "pk",
    "problem": "https://iana.org/assignments/http-problem-types#quota-exceeded",
    "violated": "violated-policies",
}
# fmt: on
_LONGEST, _MOST = 8192, 64  # characters, and items, of a field that is looked at
_LARGEST = 999_999_999_999_999  # RFC 9651 §3.3.1
_ORIGINS = 1000  # that a transport remembers
_LEASE = 1.0  # seconds that the others wait for the answer to one that goes first
_TICK = 0.001  # seconds; a shorter wait may be lost when a clock adds it
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_SPREAD = 0.1  # of a wait comes on top, or all clients are back in the same instant
# Seconds for which a server is believed (draft §8.5.1): a window is a hint, Retry-After
# a demand. Who is ready to wait for longer (`max_wait`) believes for longer.
_HINT, _DEMAND = 3_600.0, 86_400.0

# RFC 9651 §4.2.3.1: strings, byte sequences, booleans, dates, display strings, numbers,
# tokens. A list of them is a regular language, since inner lists do not nest.
_BARE = (
    r'(?:"(?:[ !#-\[\]-~]|\\["\\])*+"'
    r"|:(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2,3})?={0,2}:"
    r'|\?[01]|@-?[0-9]{1,15}|%"(?:[ !#$&-~]|%[0-9a-f]{2})*+"'
    r"|-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}"
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*+)"
)
_PARAMETER = rf"; *+([a-z*][a-z0-9_.*-]*+)(?:=({_BARE}))?"
_PARAMETERS = f"((?:{_PARAMETER})*+)"
_ITEM = f"{_BARE}{_PARAMETERS}"
_MEMBER = re.compile(
    rf"(?:(?P<bare>{_BARE})|\( *+(?:{_ITEM}(?: ++{_ITEM})*)? *+\))"
    rf"(?P<parameters>{_PARAMETERS})[ \t]*+(?:(?P<more>,)[ \t]*+|\Z)"
)

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
_Said: TypeAlias = dict[Any, tuple[float, float]]


class ThrottledError(httpx.TransportError):
    """The wait would be longer than `max_wait`: the request was not sent.

    `retry_after` is the seconds until one may be.
    """

    def __init__(
        self, message: str, *, retry_after: float = 0.0, request: Any = None
    ) -> None:
        super().__init__(message, request=request)
        self.retry_after = retry_after


class _Limiter(Protocol):
    """What is asked of a limiter; see `limiter.py`, and `Decision` there."""

    @property
    def limit(self) -> float: ...
    @property
    def period(self) -> float: ...
    def atry_acquire(self, key: str) -> Awaitable[Any]: ...
    def acquire(self, key: str, *, timeout: float) -> object: ...
    def aacquire(self, key: str, *, timeout: float) -> Awaitable[object]: ...


class RateLimit(NamedTuple):
    """A service limit (draft §4.1): `r` quota units under the policy `name`.

    No more than these can be used within `t` seconds. Neither that `r` requests will be
    served is promised, nor that there are more units after `t`.
    """

    name: str
    r: int
    t: int | None = None
    pk: bytes | None = None


class RateLimitPolicy(NamedTuple):
    """A quota policy (draft §3.1): `q` units, counted in `qu`, in `w` seconds."""

    name: str
    q: int
    w: int | None = None
    qu: str = "requests"
    pk: bytes | None = None


def parse_ratelimit(value: str) -> list[RateLimit]:
    """Return the service limits in a `RateLimit` field; what is malformed is ignored.

    Several lines of the field are joined by commas, as httpx does. A list that is not
    well-formed is ignored whole (RFC 9651 §4.2), and so is one of more than 8192
    characters or 64 items. An item that lacks `r`, or has a parameter of another type
    or range, is ignored alone. Raises nothing.

    >>> parse_ratelimit('"burst";r=9, token;r=8, "day";r=100;t=36000;acme="x"')[1]
    RateLimit(name='day', r=100, t=36000, pk=None)
    """
    return [
        RateLimit(**item) for item in _read(value, RateLimit._fields) if "r" in item
    ]


def parse_ratelimit_policy(value: str) -> list[RateLimitPolicy]:
    """Return the policies in a `RateLimit-Policy` field, by the same rules.

    >>> [(item.name, item.q, item.w) for item in parse_ratelimit_policy('"day";q=9')]
    [('day', 9, None)]
    """
    found = _read(value, RateLimitPolicy._fields)
    return [RateLimitPolicy(**item) for item in found if "q" in item]


def _read(value: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the items that are strings with fitting parameters, as dictionaries."""
    members = _parse_list(value) if len(value) <= _LONGEST else None
    items = []
    for name, given in (members or ()) if len(members or ()) <= _MOST else ():
        known = {n: given[_WIRE[n]] for n in fields[1:] if _WIRE[n] in given}
        if isinstance(name, str) and all(_fits(n, v) for n, v in known.items()):
            items.append({"name": name, **known})
    return items


def _fits(name: str, value: Any) -> bool:
    least: Any = {"qu": "", "pk": b"", "w": 1}.get(name, 0)
    return isinstance(value, type(least)) and value >= least


def _parse_list(text: str) -> list[tuple[Any, dict[str, Any]]] | None:
    """Return the members of a list (RFC 9651 §4.2.1), or None if it is malformed.

    A value of a type that these fields do not use, an inner list included, is None.
    """
    members, at, more = [], len(text) - len(text.lstrip(" ")), False
    while at < len(text) or more:
        match = _MEMBER.match(text, at)
        if match is None:
            return None
        try:  # of a parameter that comes twice, the last counts (§4.2.3.2)
            given = {
                n: _value(raw) for n, raw in re.findall(_PARAMETER, match["parameters"])
            }
            for raw in re.findall(_BARE, match[0]) if "%" in match[0] else ():
                _value(raw)  # inner lists as well
        except ValueError:
            return None
        members.append((_value(match["bare"] or ""), given))
        at, more = match.end(), bool(match["more"])
    return members


def _value(raw: str) -> Any:
    """Return a string, an integer or bytes."""
    if raw.startswith('"'):
        return re.sub(r"\\(.)", r"\1", raw[1:-1])
    if raw.startswith(":"):  # §4.2.7: padding may be missing
        raw = raw.strip(":=")
        return base64.b64decode(raw + "=" * (-len(raw) % 4))
    if raw.startswith("%"):
        unquote(raw, errors="strict")  # §4.2.10: must be UTF-8
    return int(raw) if re.fullmatch("-?[0-9]+", raw) else None


def _item(name: str, **parameters: int | bytes | None) -> str:
    """Return an item (RFC 9651 §4.1.3)."""
    if not re.fullmatch("[ -~]*", name):
        raise ValueError(f"a policy's name is printable ASCII, not {name[:40]!a}")
    text = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    for key, value in parameters.items():
        if isinstance(value, bytes):
            text += f";{_WIRE[key]}=:{base64.b64encode(value).decode()}:"
        elif value is not None:
            text += f";{_WIRE[key]}={min(max(value, 0), _LARGEST)}"
    return text


# Twin of parse_retry_after in errors/retry.py.
def _parse_retry_after(value: str, *, now: datetime) -> float | None:
    text = value.strip(" \t")
    if re.fullmatch("[0-9]+", text):
        return float(text)
    at = _http_date(text, now)
    return None if at is None else max((at - now).total_seconds(), 0.0)


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


def _said(response: httpx.Response, now: datetime, max_wait: float) -> _Said:
    """Return what a response says of its origin's limits: units and seconds, by key."""
    said, asked = _Said(), None
    headers = response.headers
    if response.status_code in (429, 503) or _WIRE["limit"] in headers:
        # A date is compared with the server's own clock, where it tells that.
        now = _http_date(headers.get("date", ""), now) or now
        lines = headers.get_list("retry-after")
        waits = [_parse_retry_after(line, now=now) for line in lines]
        asked = max((wait for wait in waits if wait is not None), default=None)
    if asked:
        said["stop"] = (-math.inf, min(asked, max(max_wait, _DEMAND)))
    fresh = not re.fullmatch("0*[1-9][0-9]*", headers.get("age", ""))  # §7.3
    for limit in parse_ratelimit(headers.get(_WIRE["limit"], "")) if fresh else ():
        if limit.r or asked is None:  # §7: Retry-After goes before a window
            key = hash((limit.name, limit.pk))  # which may be long
            news = (limit.r, min(limit.t or 0, max(max_wait, _HINT)))
            said[key] = min(news, said.get(key, news))
    return said


@dataclass(slots=True)
class _Window:
    """`left` calls may be sent until its end.

    `known` and `told` are the last calls sent before it was first told, and last.
    """

    left: float
    end: float
    known: int
    told: int


class _Origin:
    """What an origin said last, and what was sent to it since; not thread-safe."""

    def __init__(self) -> None:
        self.windows: dict[Any, _Window] = {}
        self.turns: deque[Future[None]] = deque()  # of those who wait; the first may go
        self.sent = 0  # which is the number of the last call
        self.flying: dict[int, float] = {}  # when what is under way was sent
        self.news: Future[None] | None = None  # the first one of them waits for it

    def plan(self, now: float, *, hope: bool = False) -> float:
        """Return the seconds until a call may be sent; news may come before.

        After a window there may be more, or not (draft §4.1.2). So what was left of it
        stays good, and then one call goes first; the next one goes when that is
        answered, or is not for a while. What was under way when a window was told may
        be counted in it, or not; only with hope it is.
        """
        ends = [w.end for w in self.windows.values() if self._left(w, hope) <= 0]
        last = max(ends, default=-math.inf)
        if ends and last <= now:
            last = max(
                (t + _LEASE for t in self.flying.values() if t >= last), default=0
            )
        return max(last - now, 0.0)

    def _left(self, window: _Window, hope: bool) -> float:
        if hope or window.left > len(self.flying):
            return window.left
        return window.left - sum(number <= window.known for number in self.flying)

    def send(self, now: float) -> int:
        """Count a call that is sent now, and return its number."""
        self.sent += 1
        self.flying[self.sent] = now
        for window in self.windows.values():
            window.left -= 1
        return self.sent

    def learn(
        self, number: int, said: _Said | None, unsent: bool, now: float, luck: float
    ) -> None:
        """Take in what the answer to a call said, or that there was none."""
        sent = self.flying.pop(number)
        for key, window in self.windows.items():
            untold = number <= window.known and (not said or key not in said)
            window.left += unsent - untold
        if said is not None:  # news of what there was after a window
            self.windows = {k: w for k, w in self.windows.items() if w.end > sent}
        for key, (units, seconds) in (said or {}).items():
            known, end = self.sent, now + seconds * (1 + _SPREAD * luck)
            old = self.windows.get(key)
            # Of two answers to calls at the same time, nobody knows which is newer.
            if old and old.end > now and number <= old.told:
                known = old.known
                units -= sum(n > known for n in self.flying)
                units, end = min((units, end), (old.left, old.end), key=_strict)
            self.windows[key] = _Window(units, end, known, self.sent)
        if len(self.windows) > _MOST:
            least = sorted(self.windows.items(), key=lambda entry: entry[1].left)
            self.windows = dict(least[:_MOST])
        _wake(self.news)


def _strict(limit: tuple[float, float]) -> tuple[float, float]:
    return limit[0], -limit[1]


def _wake(waiter: Future[None] | None) -> None:
    if waiter and not waiter.done() and waiter.set_running_or_notify_cancel():
        waiter.set_result(None)


def _origin(request: httpx.Request) -> str:
    return f"{request.url.scheme}://{request.url.host}:{request.url.port}"


class ThrottleTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Send no faster than the server and a limiter allow; calls wait for their turn.

    Of each origin is kept what its answers said. `Retry-After` in a 429 or 503 holds
    every call back. Then the quota in `RateLimit` is counted down, with what is under
    way, and what exceeds it waits for the end of the window. Then the limiter is asked.
    Of several limits the strictest counts, whatever its unit and its partition. After
    a wait one call goes first, to learn what there is now. Up to a tenth of a wait
    comes on top, at random. A window is believed for an hour and Retry-After for
    a day, or for `max_wait` if that is longer; 1000 origins are remembered. Answers
    pass untouched, a 429 too. First come, first served. Needs asyncio in an async
    client. Thread-safe and task-safe.

    Args:
        transport: the transport below, of the client's kind.
        limiter: a pace of one's own: its `acquire` is called with the key and the
            seconds there are; an error with a `decision` is a refusal.
        max_wait: seconds that a call may wait. One that would wait for longer raises
            `ThrottledError` at once.
        key: names what has a quota of its own; the origin, if not given.
        clock: seconds that never go back.
        now: the time of day, to compare dates with.
        sleep: waits for seconds, in a blocking client.
        asleep: the same in an async client.
        random: numbers from 0 to 1.

    >>> busy = httpx.Response(429, headers={"Retry-After": "300"})
    >>> below = httpx.MockTransport(lambda request: busy)
    >>> with httpx.Client(transport=ThrottleTransport(below)) as client:
    ...     print(client.get("https://api.test").status_code)
    ...     with suppress(ThrottledError):
    ...         client.get("https://api.test")  # is not sent
    429
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        limiter: _Limiter | None = None,
        *,
        max_wait: float = 60.0,
        key: Callable[[httpx.Request], str] = _origin,
        clock: Callable[[], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], object] | None = None,
        asleep: Callable[[float], Awaitable[object]] | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= max_wait < math.inf:
            raise ValueError("a wait is a finite number of seconds, and not negative")
        self.limiter, self.max_wait = limiter, max_wait
        self._transport: Any = transport
        self._key, self._now, self._random = key, now, random
        self._clock = clock or time.monotonic
        self._sleep, self._asleep = sleep or time.sleep, asleep or asyncio.sleep
        self._origins: dict[str, _Origin] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Wait, if need be, and send."""
        try:
            self._handle(request, block=True).send(None)
        except StopIteration as done:  # since nothing in it suspends
            response: httpx.Response = done.value
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait, if need be, and send."""
        return await self._handle(request, block=False)

    async def _handle(self, request: httpx.Request, block: bool) -> httpx.Response:
        key, said, unsent = self._key(request), None, False
        with self._lock:
            origin = self._origins.pop(key, None) or _Origin()
            self._origins[key] = origin  # the last used is the last
            if len(self._origins) > _ORIGINS:
                del self._origins[next(iter(self._origins))]
        number = await self._admit(request, key, origin, block)
        try:
            response: httpx.Response
            if block:
                response = self._transport.handle_request(request)
            else:
                response = await self._transport.handle_async_request(request)
            said = _said(response, self._now(), self.max_wait)
        except _UNSENT:
            unsent = True
            raise
        finally:
            with self._lock:
                origin.learn(number, said, unsent, self._clock(), self._random())
        return response

    async def _admit(
        self, request: httpx.Request, key: str, origin: _Origin, block: bool
    ) -> int:
        """Wait until a call may be sent, count it, and return its number."""
        free, news = self.limiter is None, None
        with self._lock:
            now = self._clock()
            until = now + self.max_wait
            self._check(origin.plan(now, hope=True), self.max_wait, request)
            if free and not (origin.turns or origin.plan(now)):
                return origin.send(now)
            turn = Future[None]()
            origin.turns.append(turn)
            first = origin.turns[0] is turn
        try:
            if not first:
                await self._pause(block, turn, None)
            while True:
                with self._lock:
                    now = self._clock()
                    wait, left = origin.plan(now), until - now
                    if free and not wait:
                        return origin.send(now)
                    least = origin.plan(now, hope=True) if left > 0 else wait
                    news = origin.news = Future() if wait and origin.flying else None
                if wait:
                    self._check(least, left, request)
                    await self._pause(block, news, min(wait, left))
                    free = self.limiter is None
                    continue
                await self._pace(request, key, max(left, 0.0), block)
                free = True
        finally:
            with self._lock:
                origin.turns.remove(turn)
                if origin.turns:
                    _wake(origin.turns[0])

    def _check(self, wait: float, left: float, request: httpx.Request) -> None:
        if wait > left:
            told = f"not sent: it would wait for longer than {self.max_wait:g} s"
            raise ThrottledError(told, retry_after=wait, request=request)

    async def _pace(
        self, request: httpx.Request, key: str, left: float, block: bool
    ) -> None:
        """Wait for the limiter's turn; a refusal of its own is ours."""
        limiter: Any = self.limiter
        try:
            if block:
                limiter.acquire(key, timeout=left)
            else:
                await limiter.aacquire(key, timeout=left)
        except Exception as exc:
            if (decision := getattr(exc, "decision", None)) is None:
                raise
            told = f"not sent: it would wait for longer than {self.max_wait:g} s"
            after = decision.retry_after
            raise ThrottledError(told, retry_after=after, request=request) from exc

    async def _pause(
        self, block: bool, news: Future[None] | None, seconds: float | None
    ) -> None:
        """Wait for news, for some seconds, or for what comes first of the two."""
        if news is None:
            if block:
                self._sleep(max(seconds or 0, _TICK))
            else:
                await self._asleep(max(seconds or 0, _TICK))
        elif block:
            with suppress(TimeoutError):
                news.result(seconds)
        else:
            waits: list[asyncio.Future[Any]] = [asyncio.wrap_future(news)]
            if seconds is not None:
                waits.append(asyncio.ensure_future(self._asleep(max(seconds, _TICK))))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


def client_address(scope: Scope) -> str:
    """Return the client's address, or the network that an IPv6 client has for itself.

    Not what `X-Forwarded-For` says, since any client can write that: behind a proxy,
    let the server set the address from the proxies that it trusts.

    >>> client_address({"client": ("2001:db8::7", 50000)})
    '2001:db8::/64'
    """
    host: str = (scope.get("client") or [""])[0]
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address):
            network = ipaddress.ip_network((int(address), 64), strict=False)
            return str(address.ipv4_mapped or network)
    return host


class ThrottleMiddleware:
    """Refuse what is over a limit by a 429, and tell in each answer what is left.

    Adds `RateLimit` and `RateLimit-Policy` to what the app answers. For several
    policies, put one around the other, each with a name of its own. Windows and waits
    are rounded up to whole seconds, and Retry-After is never before the end of the
    window (draft §6). The body of a refused request is not read. WebSockets pass.

    Args:
        app: the ASGI app.
        limiter: decides by `atry_acquire`, and has `limit` and `period`.
        key: names the one whom the quota belongs to, or None who has no limit.
        name: the policy's name, in printable ASCII; ValueError, if it is not.
        partition_key: makes from the key what is told as `pk`. If not given, nothing
            is told, since it may tell one client from another (draft §9).
    """

    def __init__(
        self,
        app: App,
        limiter: _Limiter,
        *,
        key: Callable[[Scope], str | None] = client_address,
        name: str = "default",
        partition_key: Callable[[str], bytes] | None = None,
    ) -> None:
        # §3.1.3: a window is whole seconds. 5 in 0.5 s are 10 in 1 s.
        limit, period = Fraction(limiter.limit), Fraction(limiter.period)
        if limit < 1:  # less than one a period: one in several
            limit, period = Fraction(1), Fraction(math.ceil(period / limit))
        limit, period = limit.limit_denominator(1000), period.limit_denominator(1000)
        scale = math.lcm(limit.denominator, period.denominator)
        self._q, self._w = int(limit * scale), int(period * scale) or None
        _item(name)
        self._app, self._limiter, self._key, self._name = app, limiter, key, name
        self._partition_key = partition_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        key = self._key(scope) if scope["type"] == "http" else None
        if key is None:
            return await self._app(scope, receive, send)
        decision = await self._limiter.atry_acquire(key)
        pk = self._partition_key(key) if self._partition_key else None
        r, t = math.floor(decision.available), _whole(decision.window)
        policy = _item(self._name, q=self._q, w=self._w, pk=pk)

        async def tell(message: Scope) -> None:
            if message["type"] == "http.response.start":
                given = [*message.get("headers", ())]
                # Draft §6: no window ends behind a Retry-After, here one of the app's.
                names = {name.lower() for name, _ in given}
                asked = decision.allowed and b"retry-after" in names
                limit = _item(self._name, r=r, t=None if asked else t, pk=pk)
                fields = {_WIRE["limit"]: limit, _WIRE["policy"]: policy}
                message = {**message, "headers": given + _raw(fields)}
            await send(message)

        if decision.allowed:
            return await self._app(scope, receive, tell)
        wait = max(_whole(decision.retry_after), t, 1)
        await _refuse(self._name, wait, scope["method"] == "HEAD", tell)


async def _refuse(name: str, wait: int, head: bool, send: Send) -> None:
    problem = {"type": _WIRE["problem"], "title": "Quota Exceeded", "status": 429}
    body = json.dumps({**problem, _WIRE["violated"]: [name]}).encode()
    fields = {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "retry-after": str(wait),
        "cache-control": "no-store",  # RFC 6585 §4, for caches that do not know it
    }
    start = {"type": "http.response.start", "status": 429, "headers": _raw(fields)}
    await send(start)
    await send({"type": "http.response.body", "body": b"" if head else body})


def _whole(seconds: float) -> int:
    return math.ceil(min(seconds, _LARGEST))


def _raw(fields: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields.items()]


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
