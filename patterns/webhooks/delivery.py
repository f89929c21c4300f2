# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Deliver webhooks to many endpoints, and let none hold up another.

`Dispatcher` claims deliveries from a store such as `outbox.Outbox`, signs and sends
each, and reports how it went; a `Policy` says what follows: done, again later by the
schedule, given up, the endpoint left alone for a while, or disabled. For a producer
of webhooks with endpoints that others run; not for calls whose answer is wanted, nor
without an egress filter in the client where others choose the URLs. A delivery may
arrive twice, with the same id. Needs asyncio. Follows Standard Webhooks 1.0.0
(schedule, 2xx, 410, no redirects), RFC 9110 §10.2.3 (Retry-After) and §5.6.7 (dates).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import httpx

# fmt: off
__all__ = [
    "Deliveries", "Dispatcher", "Health", "Next", "Outcome", "Policy",
    "parse_retry_after",
]
# fmt: on

_Health: TypeAlias = tuple[int, float | None, float | None]

_log = logging.getLogger(__name__)

State: TypeAlias = Literal[
    "pending", "sending", "retrying", "succeeded", "dead", "cancelled"
]

#: From which state what leads to which. **Pending**, **retrying**: due at some time.
#: **Sending**: leased to one worker for longer than an attempt can take; a worker that
#: dies says nothing, and so the lease alone lets another in. **Dead**: given up, and
#: kept. **Cancelled**: its endpoint was disabled. Only a person leads back from an end.
TRANSITIONS: dict[tuple[State, str], State] = {
    ("pending", "claimed"): "sending",
    ("pending", "disabled"): "cancelled",
    ("sending", "taken"): "succeeded",
    ("sending", "failed"): "retrying",
    ("sending", "given up"): "dead",
    ("sending", "lease over"): "sending",
    ("sending", "disabled"): "cancelled",
    ("retrying", "claimed"): "sending",
    ("retrying", "disabled"): "cancelled",
    ("succeeded", "replayed"): "pending",
    ("dead", "replayed"): "pending",
    ("cancelled", "replayed"): "pending",
}

_SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
_STORED = 2_000  # characters of an answer that are kept
_BODY = 1.0  # seconds for it: one that drips must not hold its place
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


class Outcome(NamedTuple):
    """How an attempt went: a status, or without one the name of the error.

    `answer` is the start of the answer's body, `retry_after` is in seconds.
    """

    status: int | None = None
    error: str = ""
    answer: str = ""
    retry_after: float | None = None


class Health(NamedTuple):
    """What is remembered of an endpoint: failures in a row, and since when.

    Until `open_until` it is left alone; what is sent first after that is a probe.
    """

    failures: int = 0
    since: float | None = None
    open_until: float | None = None


class Next(NamedTuple):
    """What follows: the delivery's state, when it is due if it is, and why.

    `disable` is the reason to disable the endpoint, or None.
    """

    state: str
    due: float | None
    reason: str
    health: Health
    disable: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When to send again, and when to leave an endpoint alone; times are in seconds.

    The wait before attempt n is `schedule[n - 1]`, up to `jitter` of it more or less. A
    `Retry-After` is never cut short: a longer one is waited for, up to `jitter` of it
    more, and holds for all of the endpoint; above `max_retry_after` the delivery is
    given up. After `opens_after` failures in a row an endpoint is left alone for
    `open_for`, twice as long after each probe that fails, at most `max_open`. One that
    took nothing for `disable_after` is disabled. Raises ValueError for numbers that
    make no sense.

    >>> policy = Policy()
    >>> policy.decide(Outcome(503), 2, now=1000, random=lambda: 0.5).due
    1300.0
    >>> policy.decide(Outcome(410), 1, now=1000).disable
    'gone'
    """

    schedule: Sequence[float] = _SCHEDULE
    jitter: float = 0.2
    max_retry_after: float = 7 * 86_400.0
    opens_after: int = 5
    open_for: float = 60.0
    max_open: float = 3_600.0
    disable_after: float = 5 * 86_400.0

    def __post_init__(self) -> None:
        times = (*self.schedule, self.max_retry_after, self.open_for, self.max_open)
        sane = all(0 <= each < math.inf for each in (*times, self.disable_after))
        if not (sane and self.schedule and 0 <= self.jitter <= 1 <= self.opens_after):
            raise ValueError("times are finite, a jitter 0 to 1, a count at least 1")

    def decide(
        self,
        outcome: Outcome,
        attempt: int,
        now: float,
        health: Health = Health(),  # noqa: B008 - a value
        *,
        random: Callable[[], float] = random.random,
    ) -> Next:
        """Decide what follows an attempt, which counts from 1; changes nothing.

        `random` gives numbers from 0 to 1.
        """
        status, after = outcome.status, outcome.retry_after or 0.0
        if status is not None and 200 <= status < 300:
            return Next("succeeded", None, f"status {status}", Health())
        why = outcome.error if status is None else f"status {status}"
        health = self._failed(health, now, after, random)
        if status == 410:
            return Next("dead", None, why, health, "gone")
        long = now - (health.since or 0.0) >= self.disable_after
        disable = "failing" if long and health.failures >= self.opens_after else None
        if attempt >= len(self.schedule) or after > self.max_retry_after:
            return Next("dead", None, why, health, disable)
        delay = self.schedule[attempt] * (1 + self.jitter * (2 * random() - 1))
        if after > delay:  # RFC 9110 §10.2.3: not before it, and not all at that moment
            delay = after * (1 + self.jitter * random())
        return Next("retrying", now + delay, why, health, disable)

    def _failed(
        self, health: Health, now: float, after: float, random: Callable[[], float]
    ) -> Health:
        """Return an endpoint's health after one more failure."""
        failures, since, until = health
        if until is None or until <= now:  # one sent before it opened tells no more
            failures, until = failures + 1, None
            if (over := failures - self.opens_after) >= 0:
                wait = min(self.open_for * 2.0 ** min(over, 64), self.max_open)
                until = now + wait * (1 + self.jitter * random())
        if after > 0:
            until = max(until or 0.0, now + min(after, self.max_retry_after))
        return Health(failures, now if since is None else since, until)


# Twin of parse_retry_after in errors/retry.py.
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


# Twin of _retry_after in errors/retry.py.
def _retry_after(response: httpx.Response, now: datetime) -> float | None:
    """Return the longest wait that a response asks for, in seconds.

    A date is compared with the server's own `Date`, where there is one: then a clock
    that is wrong on this side does no harm.
    """
    here = _http_date(response.headers.get("date", ""), now) or now
    lines = response.headers.get_list("retry-after")
    waits = [parse_retry_after(line, now=here) for line in lines]
    return max((wait for wait in waits if wait is not None), default=None)


class Deliveries(Protocol):
    """A store of deliveries, such as `outbox.Outbox`."""

    def claim(self, limit: int, lease: float, *, per_endpoint: int) -> Sequence[Any]:
        """Lease deliveries that are due for `lease` seconds.

        Each has a `url`, `secrets`, `message` (the id), `payload` and `attempt`.
        """

    def settle(
        self,
        done: Sequence[tuple[Any, Outcome]],
        decide: Callable[[Any, int, _Health, float], Next],
    ) -> None:
        """Write down outcomes, and what `decide(outcome, attempt, health, now)` says.

        `now` is the time by the clock that leases go by.
        """


class Dispatcher:
    """Send what a store has to deliver, some at a time.

    Of one endpoint at most `per_endpoint` attempts are under way, and so one that hangs
    holds no more of the `concurrency` there is. The client's pool holds as many; its
    headers, cookies and `auth` are not sent. Times are in seconds. One task runs a
    dispatcher; any number of dispatchers share a store.

    Args:
        deliveries: the store.
        client: with an egress filter as its transport where others choose URLs.
        sign: returns headers from the secrets, the body, the id and a timestamp.
        policy: what follows a failure.
        timeout: for one attempt, to the last byte that is read.
        lease: longer than `timeout`, or another worker sends it too.
        concurrency: attempts under way.
        per_endpoint: those to one endpoint, over all workers.
        poll: time after which a store that had nothing due is asked again.
        max_answer: bytes of an answer that are read.
        user_agent: who sends.
        threaded: call the store in a thread; a browser has none.
        now: seconds since the epoch, for the signature's timestamp.
        random: numbers from 0 to 1.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        client: httpx.AsyncClient,
        sign: Callable[[Sequence[str], bytes, str, int], Mapping[str, str]],
        *,
        policy: Policy | None = None,
        timeout: float = 20.0,
        lease: float = 60.0,
        concurrency: int = 64,
        per_endpoint: int = 4,
        poll: float = 1.0,
        max_answer: int = 20_000,
        user_agent: str = "api-integration-patterns-webhooks/1",
        threaded: bool = True,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < timeout < lease:
            raise ValueError("a lease is longer than the timeout of an attempt")
        if min(concurrency, per_endpoint) < 1 or poll <= 0:
            raise ValueError("a concurrency is at least 1, and a poll above 0")
        self._store, self._client, self._sign = deliveries, client, sign
        self._policy, self._random, self._now = policy or Policy(), random, now
        self._timeout, self._lease, self._poll = timeout, lease, poll
        self._slots, self._per_endpoint = concurrency, per_endpoint
        self._max_answer = max_answer
        # Its own threads: those of the event loop may all be waiting for somebody else.
        self._pool = ThreadPoolExecutor(4, "webhook-store") if threaded else None
        self._headers = {"content-type": "application/json", "user-agent": user_agent}
        self._headers["accept-encoding"] = "identity"  # small may unpack to huge

    async def run_once(self) -> int:
        """Send what is due, and return how many; what the store raises is raised."""
        claimed = await self._claim(self._slots)
        running = {asyncio.create_task(self._attempt(delivery)) for delivery in claimed}
        try:
            while running:
                ended, running = await asyncio.wait(
                    running, return_when="FIRST_COMPLETED"
                )
                await self._settle([task.result() for task in ended])
        finally:
            await _cancel(running)
        return len(claimed)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, and then end what is under way.

        A store that fails is asked again after `poll`, and outcomes are kept for it.
        Cancelled, it leaves what was under way to the leases.
        """
        running: set[asyncio.Task[Any]] = set()
        done: list[tuple[Any, Outcome]] = []
        wake = asyncio.Event()

        def ended(task: asyncio.Task[Any]) -> None:
            running.discard(task)
            if not task.cancelled() and task is not stopping:
                done.append(task.result())
            wake.set()

        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(ended)
        try:
            while running or done or not stop.is_set():
                wake.clear()
                try:
                    await self._settle(batch := done[:])
                    del done[: len(batch)]
                    free = 0 if stop.is_set() else self._slots - len(running)
                    for delivery in await self._claim(free) if free else ():
                        task = asyncio.create_task(self._attempt(delivery))
                        running.add(task)
                        task.add_done_callback(ended)
                except Exception as exc:
                    _log.warning("the store failed: %s", type(exc).__name__)
                    if stop.is_set():  # the leases see to the rest
                        done.clear()
                if running or not stop.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(wake.wait(), self._poll)
        finally:
            await _cancel({*running, stopping})

    async def _claim(self, limit: int) -> Any:
        claim = partial(self._store.claim, per_endpoint=self._per_endpoint)
        return await self._call(partial(claim, limit, self._lease))

    async def _settle(self, done: Sequence[tuple[Any, Outcome]]) -> None:
        if done:
            await self._call(partial(self._store.settle, done, self._next))

    async def _call(self, work: Callable[[], Any]) -> Any:
        if self._pool is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _next(self, outcome: Any, attempt: int, health: _Health, now: float) -> Next:
        known, random = Health(*health), self._random
        return self._policy.decide(outcome, attempt, now, known, random=random)

    async def _attempt(self, delivery: Any) -> tuple[Any, Outcome]:
        """Send once, and return how it went; of what others do, nothing is raised."""
        outcome = Outcome()
        try:
            request = self._request(delivery)
            async with asyncio.timeout(self._timeout):
                response = await self._client.send(
                    request, stream=True, auth=None, follow_redirects=False
                )
                try:
                    now = datetime.fromtimestamp(self._now(), UTC)
                    after = _retry_after(response, now)
                    # Taken is taken, whatever becomes of the body.
                    outcome = Outcome(response.status_code, retry_after=after)
                    async with asyncio.timeout(_BODY):
                        answer = await self._read(response)
                    outcome = outcome._replace(answer=answer)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException):
            outcome = outcome._replace(error="timeout")
        except Exception as exc:
            outcome = outcome._replace(error=type(exc).__name__)
        told = (delivery.message, delivery.attempt, outcome.status or outcome.error)
        _log.info("webhook %s: attempt %d: %s", *told)
        return delivery, outcome

    def _request(self, delivery: Any) -> httpx.Request:
        """Return the request, built apart from the client: its cookies are not sent."""
        body, stamp = delivery.payload, int(self._now())
        signed = self._sign(delivery.secrets, body, delivery.message, stamp)
        headers = {**self._headers, **signed}
        return httpx.Request("POST", delivery.url, headers=headers, content=body)

    async def _read(self, response: httpx.Response) -> str:
        """Return the start of a body, as text that any database takes."""
        if "set-cookie" in response.headers:  # or the jar would grow
            self._client.cookies.clear()
        body = bytearray()
        if response.headers.get("content-encoding", "identity") == "identity":
            async for chunk in response.aiter_bytes():
                body += chunk[: self._max_answer - len(body)]
                if len(body) >= self._max_answer:
                    break
        return body.decode(errors="replace").replace("\0", "\ufffd")[:_STORED]


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
