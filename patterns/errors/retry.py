# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Repeat a failed request where that may help and can do no harm.

`RetryTransport` wraps the transport of a blocking or an async client; `RetryPolicy`
decides after each attempt, and a `RetryBudget` keeps the retries of all calls below a
share of the traffic, since backoff alone does not end an overload. For calls over a
network that fail in passing; not for errors that stay (4xx), for a caller that has no
time to wait, nor below a queue that delivers again anyway. Redirects and `httpx.Auth`
lie above a transport: each hop is a call of its own, and a token that expires during
a wait is not renewed. Follows RFC 9110 §9.2.2 (idempotent methods), §10.2.3
(Retry-After) and §5.6.7 (dates), and RFC 6585 §4 (429); AIP-194 repeats less (503).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx

# fmt: off
__all__ = [
    "Attempt", "DeadlineExceeded", "RetryBudget", "RetryPolicy", "RetryTransport",
    "Stop", "Wait", "parse_retry_after",
]
# fmt: on

_log = logging.getLogger(__name__)

# RFC 9110 §9.2.2, and QUERY (RFC 10008 §2).
_IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "QUERY", "TRACE"})
_STATUSES = frozenset({408, 429, 502, 503, 504})  # not now, or it was not reached
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_PASSING = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_DRAIN = 65_536  # bytes of a refused answer that are read to keep its connection
_DRAIN_TIME = 1.0  # seconds for it
# Seconds by which a timeout below, which a breaker there can see, goes before the
# cancelling of an attempt, which it cannot.
_GRACE = 0.02
_MONTH = "(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_MONTHS = re.findall("[A-Z][a-z]{2}", _MONTH)
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>[0-5]\d|60)"
_DATES = [  # RFC 9110 §5.6.7: IMF-fixdate, and the two obsolete forms
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
]


class DeadlineExceeded(httpx.TimeoutException):
    """The deadline of the whole call passed while something was under way."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Send the request again after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave it at the last answer or error; `reason` is one of seven words.

    `final` (a repetition changes nothing), `unsafe` (it might be done twice), `body`
    (it cannot be sent again), `attempts`, `retry-after` (longer than the policy
    waits), `deadline`, `budget`.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that has ended, as the decision sees it.

    `number` counts from 1, `outcome` is the status or the error, `elapsed` the seconds
    since the call began, `repeatable` says that doing it twice does no harm,
    `replayable` that the body can be sent again, `retry_after` is in seconds.
    """

    number: int
    outcome: int | Exception
    elapsed: float = 0.0
    repeatable: bool = True
    replayable: bool = True
    retry_after: float | None = None


class RetryBudget:
    """Keep retries below a share of the calls, across all that share the budget.

    A call pays in `ratio` tokens and a retry takes one, before it waits: those that
    wait would otherwise all come at once. One budget belongs to one dependency.
    Thread-safe.

    Args:
        ratio: retries to a call, in the long run.
        min_tokens: retries that are there at the start, however few the calls.
        max_tokens: the most that good times save up.
        per_second: tokens that time brings back, up to `min_tokens`; 0 by default, as
            a hundred clients with a little each are a load that no share bounds.
        clock: seconds that never go back.

    Raises:
        ValueError: a number is negative or not finite.

    >>> budget = RetryBudget(ratio=0.1, min_tokens=2)
    >>> [budget.take() for _ in range(3)], budget.refused
    ([True, True, False], 1)
    """

    def __init__(
        self,
        ratio: float = 0.1,
        min_tokens: float = 10,
        *,
        max_tokens: float = 10,
        per_second: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        numbers = (ratio, min_tokens, max_tokens, per_second)
        if not all(0 <= number < math.inf for number in numbers):
            raise ValueError("the numbers of a budget are finite and not negative")
        self.ratio, self.min_tokens, self.per_second = ratio, min_tokens, per_second
        self.max_tokens = max(max_tokens, min_tokens)
        #: Retries that were allowed, and those that were not.
        self.taken = self.refused = 0
        self._tokens, self._clock = float(min_tokens), clock or time.monotonic
        self._then = self._clock()
        self._lock = threading.Lock()

    @property
    def balance(self) -> float:
        """Tokens that are there now."""
        with self._lock:
            self._refill()
            return self._tokens

    def deposit(self) -> None:
        """Pay in for a call."""
        with self._lock:
            self._tokens = min(self._tokens + self.ratio, self.max_tokens)

    def take(self) -> bool:
        """Take a token for a retry, if there is one."""
        with self._lock:
            self._refill()
            if self._tokens < 1 - 1e-9:  # a tenth added ten times is just below one
                self.refused += 1
                return False
            self._tokens = max(self._tokens - 1, 0.0)
            self.taken += 1
            return True

    def _refill(self) -> None:
        now = self._clock()
        more = max(now - self._then, 0.0) * self.per_second
        self._tokens = max(self._tokens, min(self._tokens + more, self.min_tokens))
        self._then = now


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to send a request again, and after how long; times are in seconds.

    The wait before attempt n + 1 is random between 0 and `base_delay` * 2^(n-1), at
    most `max_delay` (full jitter). A `Retry-After` is waited for in full, and for up
    to `spread` of it or that random wait more, whichever is longer; above
    `max_retry_after` the answer is returned instead. `deadline` bounds the whole call
    with its attempts, its waits and the reading of the answer, and what is random of a
    wait takes no more than half of what is left.

    A request is repeated where its method is one of `idempotent_methods`, where it has
    an `Idempotency-Key`, or where the error says that it was never sent. Raises
    ValueError for numbers that make no sense.

    >>> policy = RetryPolicy(base_delay=0.1)
    >>> policy.decide(Attempt(3, 503), random=lambda: 0.5)
    Wait(delay=0.2)
    >>> policy.decide(Attempt(1, 503, retry_after=3600))
    Stop(reason='retry-after')
    """

    max_attempts: int = 4
    base_delay: float = 0.1
    max_delay: float = 20.0
    max_retry_after: float = 60.0
    deadline: float | None = None
    budget: RetryBudget | None = None
    spread: float = 0.1
    retry_statuses: Collection[int] = _STATUSES
    idempotent_methods: Collection[str] = _IDEMPOTENT

    def __post_init__(self) -> None:
        delays = (self.base_delay, self.max_delay, self.max_retry_after, self.spread)
        attempts = 1 <= self.max_attempts < math.inf
        if not attempts or not all(0 <= delay < math.inf for delay in delays):
            raise ValueError("at least one attempt, and no negative or endless delay")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ValueError("a deadline is more than 0 seconds; None is for ever")
        if isinstance(self.idempotent_methods, str):
            raise ValueError("idempotent_methods is a collection of names")
        methods = frozenset(method.upper() for method in self.idempotent_methods)
        object.__setattr__(self, "idempotent_methods", methods)
        object.__setattr__(self, "retry_statuses", frozenset(self.retry_statuses))

    def decide(
        self, attempt: Attempt, *, random: Callable[[], float] = random.random
    ) -> Wait | Stop:
        """Decide what follows an attempt; all that it changes is the budget.

        `random` gives numbers from 0 to 1.
        """
        if not self._passing(attempt.outcome):
            return Stop("final")
        if not (attempt.repeatable or isinstance(attempt.outcome, _UNSENT)):
            return Stop("unsafe")
        if not attempt.replayable:
            return Stop("body")
        if attempt.number >= self.max_attempts:
            return Stop("attempts")
        after = attempt.retry_after or 0.0
        longest = self.base_delay * 2.0 ** min(attempt.number - 1, 64)
        longest = min(longest, self.max_delay)
        if after > self.max_retry_after:
            return Stop("retry-after")
        room = math.inf
        if self.deadline is not None:
            room = self.deadline - attempt.elapsed - after
        if room <= 0:
            return Stop("deadline")
        if self.budget is not None and not self.budget.take():
            return Stop("budget")
        jitter = random() * max(longest, self.spread * after)
        return Wait(after + min(jitter, room / 2))  # what is left is for the attempt

    def _passing(self, outcome: int | Exception) -> bool:
        if isinstance(outcome, Exception):
            return isinstance(outcome, _PASSING)
        return outcome in self.retry_statuses


def parse_retry_after(value: str, *, now: datetime) -> float | None:
    """Return the seconds to wait by a Retry-After value, or None if it is malformed.

    `now` is an aware datetime. A date gone by is 0. Source: RFC 9110 §10.2.3, §5.6.7.

    >>> now = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)
    >>> parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", now=now)
    30.0
    """
    text = value.strip(" \t")
    if re.fullmatch("[0-9]+", text):
        return float(text)
    at = _http_date(text, now)
    return None if at is None else max((at - now).total_seconds(), 0.0)


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


def _retry_after(response: httpx.Response, now: datetime) -> float | None:
    """Return the longest wait that a response asks for, in seconds.

    A date is compared with the server's own `Date`, where there is one: then a clock
    that is wrong on this side does no harm.
    """
    here = _http_date(response.headers.get("date", ""), now) or now
    lines = response.headers.get_list("retry-after")
    waits = [parse_retry_after(line, now=here) for line in lines]
    return max((wait for wait in waits if wait is not None), default=None)


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


class _Call:
    """One call with all its attempts: what the loops of both clients share."""

    __slots__ = (
        *("began", "number", "parent", "policy", "replayable", "request", "sent"),
    )

    def __init__(self, parent: RetryTransport, request: httpx.Request) -> None:
        self.parent, self.request, self.sent = parent, request, request
        self.policy: RetryPolicy = request.extensions.get("retry") or parent.policy
        self.number, self.began = 1, parent.clock()
        # Asked first: a transport below may read a stream, and leave bytes behind.
        self.replayable = _replayable(request.stream)
        if self.policy.budget is not None:
            self.policy.budget.deposit()

    def limit(self) -> float:
        """Hold the next attempt to the deadline, and return the seconds it has."""
        left, given = self.left(), self.request.extensions.get("timeout", {})
        times = {
            name: left if given.get(name) is None else min(given[name], left)
            for name in ("connect", "read", "write", "pool")
        }
        extensions = {**self.request.extensions, "timeout": times}
        method, url, stream = self.request.method, self.request.url, self.request.stream
        self.sent = httpx.Request(
            method,
            url,
            headers=self.request.headers,
            stream=stream,
            extensions=extensions,
        )
        return left

    def left(self) -> float:
        """Return the seconds until the deadline, which is an error when it passed."""
        left = self.began + (self.policy.deadline or 0.0) - self.parent.clock()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        """Return the error that the deadline passed."""
        told = f"{self.policy.deadline:g} s passed by attempt {self.number}"
        return DeadlineExceeded(told, request=self.request)

    def failed(self, error: Exception) -> float | None:
        """Return the seconds to wait after an error, or None to raise it."""
        step = self._decide(error, None)
        if isinstance(step, Wait):
            return step.delay
        error.add_note(f"attempt {self.number}, the last one: {step.reason}")
        return None

    def answered(self, response: httpx.Response) -> float | None:
        """Return the seconds to wait after an answer, or None to return it."""
        told, status = response.extensions, response.status_code
        told["attempts"], told["retry_stop"] = self.number, "final"
        if status in self.policy.retry_statuses:
            told["retry_after"] = after = _retry_after(response, self.parent.now())
            step = self._decide(status, after)
            if isinstance(step, Wait):
                return step.delay
            told["retry_stop"] = step.reason
        elif _log.isEnabledFor(logging.DEBUG):
            self._tell(logging.DEBUG, status, "final")
        if self.policy.deadline is not None:
            response.stream = _Bounded(response.stream, self)
        return None

    @contextmanager
    def drain(self, delay: float) -> Iterator[Callable[[bytes], bool]]:
        """Limit the reading of an answer that nobody gets.

        It is read at all so that its connection is kept. What is yielded counts the
        bytes, and says when there were enough.
        """
        longest, size = _DRAIN_TIME, 0
        if self.policy.deadline is not None:
            longest = min(longest, max(self.left() - delay, 0.001))
        until, held = self.parent.clock() + longest, self.sent.extensions
        # A transport looks the timeout up anew when it begins to read a body.
        given = held.get("timeout", {})
        read = given.get("read")
        held["timeout"] = {
            **given,
            "read": longest if read is None else min(read, longest),
        }

        def enough(chunk: bytes) -> bool:
            nonlocal size
            size += len(chunk)
            return size > _DRAIN or self.parent.clock() > until

        try:
            with suppress(httpx.HTTPError, httpx.StreamError):
                yield enough
        finally:
            held["timeout"] = given

    def _decide(
        self, outcome: int | Exception, retry_after: float | None
    ) -> Wait | Stop:
        methods, headers = self.policy.idempotent_methods, self.request.headers
        key = headers.get("idempotency-key", "").strip()
        repeatable = self.request.method in methods or bool(key)
        elapsed, replayable = self.parent.clock() - self.began, self.replayable
        attempt = Attempt(
            self.number, outcome, elapsed, repeatable, replayable, retry_after
        )
        step = self.policy.decide(attempt, random=self.parent.random)
        told = f"again in {step.delay:.3g} s" if isinstance(step, Wait) else step.reason
        seen = type(outcome).__name__ if isinstance(outcome, Exception) else outcome
        self._tell(logging.INFO, seen, told)
        self.number += isinstance(step, Wait)
        return step

    def _tell(self, level: int, seen: int | str, told: str) -> None:
        """Log the attempt; of the URL only the origin, since the rest may be secret."""
        method, url = self.request.method, self.request.url
        words = (method, url.scheme, url.netloc.decode(), self.number, seen, told)
        _log.log(level, "%s %s://%s: attempt %d: %s; %s", *words)


class _Bounded(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that must have been read by the deadline of its call."""

    def __init__(self, stream: Any, call: _Call) -> None:
        self._stream, self._call = stream, call

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._call.left()
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while True:
            left = self._call.left()
            try:
                chunk = await _within(left, anext(chunks), self._call)
            except StopAsyncIteration:
                return
            yield chunk

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _within(left: float, work: Awaitable[Any], call: _Call) -> Any:
    """Await something for so many seconds at the most, and `_GRACE`."""
    try:
        async with asyncio.timeout(left + _GRACE) as limit:
            return await work
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise call.exceeded() from exc


class RetryTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Send a request again as a policy says; the transport below does the sending.

    A response tells in `extensions["attempts"]` how many there were and in
    `extensions["retry_stop"]` why there was no further one (see `Stop`); the error of a
    last attempt tells so in a note. `extensions={"retry": RetryPolicy(…)}` on a request
    is for that call alone. Each attempt is logged once.

    A deadline that passes is an `httpx.TimeoutException`: of a step of the attempt, or
    `DeadlineExceeded` of the whole. It needs asyncio in an async client. In a blocking
    one each step (connecting, the next bytes) may take what was left when it began, so
    a head that drips is not bounded. Thread-safe and task-safe.

    Args:
        transport: the transport below, of the client's kind.
        policy: when to send again.
        clock: seconds that never go back.
        now: the time of day, to compare dates with.
        sleep: waits for seconds, in a blocking client.
        asleep: the same in an async client; trio's own, under trio.
        random: numbers from 0 to 1.

    >>> answers = iter([503, 503, 200])
    >>> below = httpx.MockTransport(lambda request: httpx.Response(next(answers)))
    >>> transport = RetryTransport(below, RetryPolicy(base_delay=0))
    >>> with httpx.Client(transport=transport) as client:
    ...     client.get("https://api.test").extensions["attempts"]
    3
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        policy: RetryPolicy | None = None,
        *,
        clock: Callable[[], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], object] | None = None,
        asleep: Callable[[float], Awaitable[object]] | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.clock, self.now, self.random = clock or time.monotonic, now, random
        self._transport: Any = transport
        self._sleep, self._asleep = sleep or time.sleep, asleep or asyncio.sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request until it is settled."""
        call = _Call(self, request)
        while True:
            if call.policy.deadline is not None:
                call.limit()
            try:
                response: httpx.Response = self._transport.handle_request(call.sent)
            except httpx.TransportError as exc:
                if (delay := call.failed(exc)) is None:
                    raise
            else:
                if (delay := call.answered(response)) is None:
                    return response
                try:
                    with call.drain(delay) as enough:
                        any(map(enough, cast(httpx.SyncByteStream, response.stream)))
                finally:
                    response.close()
            self._sleep(delay)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request until it is settled."""
        call = _Call(self, request)
        while True:
            left = None if call.policy.deadline is None else call.limit()
            try:
                work = self._transport.handle_async_request(call.sent)
                work = work if left is None else _within(left, work, call)
                response: httpx.Response = await work
            except httpx.TransportError as exc:
                if (delay := call.failed(exc)) is None:
                    raise
            else:
                if (delay := call.answered(response)) is None:
                    return response
                try:
                    with call.drain(delay) as enough:
                        async for chunk in cast(httpx.AsyncByteStream, response.stream):
                            if enough(chunk):
                                break
                finally:
                    await response.aclose()
            await self._asleep(delay)

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
