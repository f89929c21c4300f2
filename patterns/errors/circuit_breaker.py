# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Stop calling a service that fails, and find out when it is back.

`CircuitBreaker` watches the share of failed calls in a sliding window, refuses calls
while it is open, and then lets one through to probe. `CircuitBreakerTransport` has one
for each origin of a blocking or an async client. For calls to a service that gets
slower or sicker by being called; not for a limit that the service states itself
(`Retry-After`), nor for a server that sheds its load early, where a breaker only turns
good answers away. State is kept in the process: what one client sees is not what
another sees. Follows the state machine of M. Nygard, "Release It!", ch. 5, with the
names that resilience4j gives its parameters.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from copy import copy
from types import TracebackType
from typing import Any, Literal, TypeAlias

import httpx

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerTransport",
    "CircuitOpenError",
    "Permit",
    "judge",
]

_log = logging.getLogger(__name__)

State: TypeAlias = Literal["closed", "open", "half_open"]
_Moved: TypeAlias = "tuple[State, State, str]"

#: From which state what leads to which. **Closed**: all calls pass and are counted; the
#: rate of failures is judged only where there were enough calls to have one. **Open**:
#: no call passes, so that the service can recover and callers need not wait; nothing is
#: learned, and so only time leads on. **Half open**: one call passes, to learn whether
#: the service is back; all others are refused, or it would be met by all at once.
#: A probe holds a lease: one that never reports does not hold the breaker for ever.
TRANSITIONS: dict[tuple[State, str], State] = {
    ("closed", "failure rate reached"): "open",
    ("open", "wait over"): "half_open",
    ("half_open", "probe failed"): "open",
    ("half_open", "probe succeeded"): "closed",
}

_BUCKETS = 10  # parts of a window, which slides by one of them at a time
_ORIGINS = 1000  # that a transport remembers
_FAILURES = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


class CircuitOpenError(httpx.TransportError):
    """The breaker refused the call: it was not sent. Not for an immediate retry.

    `retry_after` is the seconds until a probe may pass.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 0.0,
        request: httpx.Request | None = None,
    ) -> None:
        super().__init__(message, request=request)
        self.retry_after = retry_after


def judge(outcome: httpx.Response | BaseException) -> bool | None:
    """Tell a success from a failure of the service, or None from neither.

    Failures are timeouts, broken connections and statuses of 500 and above, but for
    501 and 505, which say what a service is not made for. A cancelled call, an error
    of the caller's, and a place in the own pool that did not come free say nothing.

    >>> judge(httpx.Response(503)), judge(httpx.Response(404))
    (False, True)
    """
    if isinstance(outcome, BaseException):
        failed = isinstance(outcome, _FAILURES)
        return False if failed and not isinstance(outcome, httpx.PoolTimeout) else None
    return outcome.status_code < 500 or outcome.status_code in (501, 505)


class _Window:
    """Calls and failures of the last seconds, in ten buckets of a tenth each."""

    def __init__(self, seconds: float) -> None:
        self.width = seconds / _BUCKETS
        self.calls = self.failures = 0
        self.last: list[int] = [0, 0, 0]  # the tenth's number, its calls, its failures
        self.buckets = deque([self.last])

    def slide(self, now: float) -> None:
        """Drop what is too old, or lies far ahead since the clock was set back."""
        tenth = int(now // self.width)
        if self.last[0] - _BUCKETS < tenth <= self.last[0]:  # a clock that trembles
            return
        while self.buckets and not tenth - _BUCKETS < self.buckets[0][0] < tenth:
            _, calls, failures = self.buckets.popleft()
            self.calls, self.failures = self.calls - calls, self.failures - failures
        self.last = [tenth, 0, 0]
        self.buckets.append(self.last)

    def add(self, now: float, failed: bool) -> None:
        """Count a call."""
        if now // self.width != self.last[0]:
            self.slide(now)
        self.last[1] += 1
        self.calls += 1
        if failed:
            self.last[2] += 1
            self.failures += 1


class Permit:
    """Leave for one call, to be settled once: what comes second counts for nothing.

    As a context manager it succeeds without an error, fails by an `Exception`, and is
    cancelled by anything else, such as the cancelling of a task.
    """

    __slots__ = ("_breaker", "_period")

    def __init__(self, breaker: CircuitBreaker, period: int) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self._period = period

    def settle(self, success: bool | None) -> None:
        """Report how the call went; None counts for nothing, and frees a probe."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self, self._period, success)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cancelled = error is not None and not isinstance(error, Exception)
        self.settle(None if cancelled else error is None)


class CircuitBreaker:
    """Refuse calls while too many fail; times are in seconds.

    Thread-safe and task-safe; no lock is held during a call.

    Args:
        failure_rate_threshold: share of failed calls in the window that opens it.
        minimum_number_of_calls: calls in the window below which there is no rate.
        sliding_window_seconds: length of the window, which slides by tenths.
        wait_duration_in_open_state: time until a probe may pass.
        permitted_calls_in_half_open: probes at a time, and successes that close it.
        probe_lease: time after which a probe that has not reported is given up.
        name: what it guards, for errors and logs; the transport puts the origin here.
        on_transition: called with the breaker, the old and the new state, without a
            lock, by the caller who met or caused the change. What it raises is logged.
        clock: seconds that never go back; if they do, waits begin anew.

    Raises:
        ValueError: a rate, number or time makes no sense.

    >>> breaker = CircuitBreaker(minimum_number_of_calls=2)
    >>> for _ in range(2):
    ...     breaker.acquire().settle(False)
    >>> breaker.state
    'open'
    """

    def __init__(
        self,
        *,
        failure_rate_threshold: float = 0.5,
        minimum_number_of_calls: int = 10,
        sliding_window_seconds: float = 10.0,
        wait_duration_in_open_state: float = 5.0,
        permitted_calls_in_half_open: int = 1,
        probe_lease: float = 30.0,
        name: str = "",
        on_transition: Callable[[CircuitBreaker, State, State], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not 0 < failure_rate_threshold <= 1:
            raise ValueError("a failure rate is above 0 and at most 1")
        if min(minimum_number_of_calls, permitted_calls_in_half_open) < 1:
            raise ValueError("a number of calls is at least 1")
        times = (sliding_window_seconds, wait_duration_in_open_state, probe_lease)
        if not all(0 < seconds < float("inf") for seconds in times):
            raise ValueError("a time is more than 0 seconds, and finite")
        self.failure_rate_threshold = failure_rate_threshold
        self.minimum_number_of_calls = minimum_number_of_calls
        self.sliding_window_seconds = sliding_window_seconds
        self.wait_duration_in_open_state = wait_duration_in_open_state
        self.permitted_calls_in_half_open = permitted_calls_in_half_open
        self.probe_lease, self.name = probe_lease, name
        self.on_transition, self._clock = on_transition, clock or time.monotonic
        self._period = 0
        self._begin()

    def like(self, name: str = "") -> CircuitBreaker:
        """Return a closed breaker with the same settings."""
        other = copy(self)
        other.name = name
        other._begin()
        return other

    @property
    def state(self) -> State:
        """`closed`, `open` or `half_open`, as the next call would meet it."""
        with self._lock:
            moved = self._look(self._clock())
            state = self._state
        if moved:
            self._announce(*moved)
        return state

    @property
    def failure_rate(self) -> float | None:
        """Share of failures in the window; None where there were too few calls."""
        with self._lock:
            self._window.slide(self._clock())
            return self._rate()

    def acquire(self) -> Permit:
        """Return leave for one call, whose outcome must be reported to it.

        Raises:
            CircuitOpenError: no call may pass now.
        """
        if self._state == "closed":
            return Permit(self, self._period)
        with self._lock:
            now = self._clock()
            moved = self._look(now)
            permit, wait = Permit(self, self._period), 0.0
            if self._state == "open":
                wait = self._left(now)
            elif self._state == "half_open":
                wait = self._lease(permit, now)
        if moved:
            self._announce(*moved)
        if wait > 0:
            name = f" of {self.name}" if self.name else ""
            told = f"the circuit{name} is open; a probe may pass in {wait:.3g} s"
            raise CircuitOpenError(told, retry_after=wait)
        return permit

    # What is below is called with the lock held, but for `_settle` and `_announce`.

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._enter(self._clock())

    def _enter(self, now: float) -> None:
        """Begin a period: what calls of an earlier one report counts for nothing."""
        self._since, self._period = now, self._period + 1
        self._window = _Window(self.sliding_window_seconds)
        self._leases: dict[Permit, float] = {}
        self._successes = 0

    def _move(self, event: str, now: float) -> _Moved:
        old, self._state = self._state, TRANSITIONS[self._state, event]
        self._enter(now)
        return old, self._state, event

    def _look(self, now: float) -> _Moved | None:
        """Let time do what it does."""
        self._since = min(self._since, now)  # the clock was set back
        if self._state == "open" and self._left(now) <= 0:
            return self._move("wait over", now)
        return None

    def _left(self, now: float) -> float:
        return self._since + self.wait_duration_in_open_state - now

    def _lease(self, permit: Permit, now: float) -> float:
        """Make the permit a probe's, or return the seconds until it may be one."""
        until = now + self.probe_lease  # none ends later, unless the clock was set back
        leases = {p: end for p, end in self._leases.items() if now < end <= until}
        self._leases = leases
        if len(leases) + self._successes >= self.permitted_calls_in_half_open:
            return min(leases.values()) - now
        leases[permit] = until
        return 0.0

    def _rate(self) -> float | None:
        calls = self._window.calls
        enough = calls >= self.minimum_number_of_calls
        return self._window.failures / calls if enough else None

    def _settle(self, permit: Permit, period: int, success: bool | None) -> None:
        """Count what a call reports."""
        with self._lock:
            moved, now = None, self._clock()
            if period != self._period:
                return
            if self._state == "closed" and success is not None:
                self._window.add(now, not success)
                rate = self._rate() if self._window.failures else None
                if rate is not None and rate >= self.failure_rate_threshold:
                    moved = self._move("failure rate reached", now)
            elif self._leases.pop(permit, None) is not None and success is not None:
                self._successes += success
                if not success:
                    moved = self._move("probe failed", now)
                elif self._successes == self.permitted_calls_in_half_open:
                    moved = self._move("probe succeeded", now)
        if moved:
            self._announce(*moved)

    def _announce(self, old: State, new: State, event: str) -> None:
        _log.info("circuit %s: %s -> %s (%s)", self.name, old, new, event)
        try:
            if self.on_transition:
                self.on_transition(self, old, new)
        except Exception:  # who only looks on must not break a call
            _log.exception("circuit %s: on_transition failed", self.name)


class CircuitBreakerTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Keep a circuit breaker for each origin; the transport below does the sending.

    Args:
        transport: the transport below, of the client's kind.
        model: each origin gets a breaker with its settings.
        judge: tells success (True), failure (False) or neither (None) from a response
            or an error; a response is judged by its head.

    >>> below = httpx.MockTransport(lambda request: httpx.Response(503))
    >>> model = CircuitBreaker(minimum_number_of_calls=2)
    >>> client = httpx.Client(transport=CircuitBreakerTransport(below, model))
    >>> for _ in range(3):
    ...     try:
    ...         client.get("https://api.test").status_code
    ...     except CircuitOpenError as error:
    ...         error.retry_after > 4
    503
    503
    True
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        model: CircuitBreaker | None = None,
        *,
        judge: Callable[[httpx.Response | BaseException], bool | None] = judge,
    ) -> None:
        self._transport: Any = transport
        self._model, self._judge = model or CircuitBreaker(), judge
        self._breakers: dict[tuple[str, bytes], CircuitBreaker] = {}
        self._lock = threading.Lock()

    def breaker(self, url: httpx.URL | str) -> CircuitBreaker:
        """Return the breaker of a URL's origin.

        A thousand are kept; then a closed one makes room, or else the oldest.
        """
        url = url if isinstance(url, httpx.URL) else httpx.URL(url)
        origin = url.scheme, url.netloc
        if (breaker := self._breakers.get(origin)) is not None:
            return breaker
        with self._lock:
            if len(self._breakers) >= _ORIGINS:
                known = self._breakers.items()
                closed = (o for o, b in known if b._state == "closed")
                del self._breakers[next(closed, next(iter(self._breakers)))]
            new = self._model.like(f"{url.scheme}://{url.netloc.decode()}")
            return self._breakers.setdefault(
                origin, new
            )  # another may have been faster

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request if its origin's breaker lets it pass."""
        permit = self._permit(request)
        try:
            response: httpx.Response = self._transport.handle_request(request)
        except BaseException as exc:
            self._settle(permit, exc)
            raise
        self._settle(permit, response)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request if its origin's breaker lets it pass."""
        permit = self._permit(request)
        try:
            work = self._transport.handle_async_request(request)
            response: httpx.Response = await work
        except BaseException as exc:
            self._settle(permit, exc)
            raise
        self._settle(permit, response)
        return response

    def _settle(self, permit: Permit, outcome: httpx.Response | BaseException) -> None:
        success = None
        try:
            success = self._judge(outcome)
        finally:
            permit.settle(success)

    def _permit(self, request: httpx.Request) -> Permit:
        try:
            return self.breaker(request.url).acquire()
        except CircuitOpenError as exc:
            exc.request = request
            raise

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
