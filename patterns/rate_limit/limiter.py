# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Limit how often something is done, in one process or in many.

`Limiter.try_acquire` decides at once, for the server's side of a limit; `acquire` and
`aacquire` wait their turn, for a client that keeps to somebody's limit. A key is one
number, in memory or in Redis or Valkey. Not for a limit on what runs at the same time,
which is a semaphore, nor for a quota that is billed, which needs a durable count.
Follows the Generic Cell Rate Algorithm of ITU-T I.371; `available` and `window` are the
available quota and effective window of draft-ietf-httpapi-ratelimit-headers-11 §4.1.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import inspect
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

__all__ = [
    "Decision",
    "LimitExceeded",
    "Limiter",
    "MemoryStore",
    "RedisStore",
    "Reservation",
    "Store",
    "decide",
    "gcra",
]

_LONGEST = 64  # characters of a key that is held as it is, and not as a digest
_FEW = 1024  # keys in memory up to which none is looked through
_PAUSE = 1.0  # seconds for which a server that cannot be had is left alone
_OVERFLOW = object()  # the key that newcomers share where there is no room
_AWAY = {"RedisError", "RedisClusterException", "ValkeyError", "ValkeyClusterException"}

_log = logging.getLogger(__name__)
_new = tuple.__new__  # a NamedTuple's own constructor takes twice as long
Clock: TypeAlias = Callable[[], float]
Policy: TypeAlias = Literal["local", "allow", "deny"]


class Decision(NamedTuple):
    """What a request is told.

    `available` is how many whole units are left. `retry_after` is in how many seconds
    the same cost is allowed if nobody else comes, or 0.0 if it is now. Within `window`
    seconds no more than `available` can be used; then comes one more.
    """

    allowed: bool
    available: int
    retry_after: float
    window: float


class Reservation(NamedTuple):
    """A turn that comes in `wait` seconds, and the mark by which it is given back."""

    wait: float
    mark: Any


class LimitExceeded(Exception):
    """The turn is too far off, or the store is away and denies; nothing is reserved."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision)
        self.decision = decision


def gcra(tat: float, now: float, cost: float) -> float:
    """Return the theoretical arrival time of a key after a request.

    Time is counted in units: one of them passes in `period / limit` seconds, so that a
    cost is a time and whole costs add up without rounding. What conforms leaves it at
    most a burst ahead of now; what does not has to wait for the excess.

    >>> gcra(tat=7.0, now=5.0, cost=1)
    8.0
    """
    return (tat if tat > now else now) + cost  # `max` takes four times as long


def decide(excess: float, cost: float, rate: float, grace: float = 0.0) -> Decision:
    """Return what a request is told by its excess, at a rate in units a second.

    >>> decide(excess=1.0, cost=1, rate=10.0)
    Decision(allowed=False, available=0, retry_after=0.1, window=0.1)
    """
    if excess <= grace:
        left = int(grace - excess)
        return _new(Decision, (True, left, 0.0, (left + 1 + excess) / rate))
    left = max(0, int(cost - excess + grace))
    return Decision(False, left, excess / rate, (left + 1 - cost + excess) / rate)


def _grace(rate: float) -> float:
    """Return by how many units a request may come too early: a microsecond or less."""
    # More than rounding does to a clock, and no sum of decimals: it decides nothing.
    return min(2.0**-10, rate * 2.0**-20)


def _short(key: str) -> str:
    """Return a key of bounded length: itself, or the digest of a long one."""
    if len(key) <= _LONGEST:
        return key
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Store(Protocol):
    """What remembers. Limiters of one rate and burst over one store count together."""

    def open(self, rate: float, burst: float, clock: Clock) -> Callable[..., Any]:
        """Return `reserve(key, cost, patience, mark=None)`, for `rate` units a second.

        It takes what comes within `patience`, in units: a `Decision` or `Reservation`.
        With a mark it gives that turn back, as far as nobody behind it counts on it.
        """


class MemoryStore:
    """Remember in this process, for all its threads and tasks.

    A key is forgotten once it is as good as new. Where `max_keys` of one limit are not,
    newcomers share one key: memory is bounded and nobody gets in for free. A turn that
    is given up is free if it was the last, and else the next one's who needs no more.
    """

    def __init__(self, *, max_keys: int = 100_000) -> None:
        self._max_keys = max_keys
        self._tables: dict[Any, _Table] = {}

    def open(self, rate: float, burst: float, clock: Clock) -> Callable[..., Any]:
        """Return what reserves for a limit, in the same table each time."""
        table = _Table(rate, burst, clock, self._max_keys)
        return self._tables.setdefault((rate, burst, clock), table).reserve


class _Table:  # the keys of one limit; the lock is held over arithmetic only
    def __init__(self, rate: float, burst: float, clock: Clock, max_keys: int) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._grace, self._max_keys, self._crowded = _grace(rate), max_keys, _FEW
        self._tats: dict[Any, float] = {}
        self._spare: dict[Any, list[tuple[float, float]]] = {}
        self._seen, self._due, self._came = -math.inf, -math.inf, 0
        self._lock = threading.Lock()
        self._enter, self._leave = self._lock.acquire, self._lock.release

    def reserve(self, key: str, cost: float, patience: float, mark: Any = None) -> Any:
        if mark is not None:  # of a turn, under the key that it was counted by
            return self._give_back(mark[0], mark[1], cost)
        self._enter()  # `with` takes twice as long
        try:
            now = self._clock() * self._rate
            if now > self._seen:
                self._seen = now
            elif now < self._seen - self._burst:  # set back: all keys start anew
                self._tats, self._spare = {}, {}
                self._seen = self._due = now
            tat = self._tats.get(key)
            if tat is None:
                key, tat = self._newcomer(key, now)
            tat = gcra(tat, now, cost)
            excess = tat - now - self._burst
            if excess > self._grace:
                tat = self._turn(key, cost, tat, now, patience)
                excess = tat - now - self._burst
            elif cost:
                self._tats[key] = tat
        finally:
            self._leave()
        if excess <= self._grace or excess > patience:
            return decide(excess, cost, self._rate, self._grace)
        return Reservation(excess / self._rate, (key, tat))

    def _turn(self, at: Any, cost: float, tat: float, now: float, wait: float) -> float:
        """Return the turn of a request that has to wait, and take it if in time."""
        # The end of the queue, or what was given up: else those who each give up after
        # a while could all wait in vain, for turns that nobody takes.
        spare = self._spare.get(at, [])
        del spare[: bisect.bisect(spare, (now + self._burst,))]  # gone by
        for turn, size in spare:
            if size >= cost > 0 and turn < tat and turn - now - self._burst <= wait:
                spare.remove((turn, size))
                return turn
        if cost and tat - now - self._burst <= wait:
            self._tats[at] = tat
        return tat

    def _give_back(self, key: Any, turn: float, cost: float) -> None:
        with self._lock:
            spare = self._spare.setdefault(key, [])
            bisect.insort(spare, (turn, cost))
            while spare and spare[-1][0] == self._tats.get(key):
                self._tats[key] -= spare.pop()[1]

    def _newcomer(self, key: Any, now: float) -> tuple[Any, float]:
        """Return the key that a request counts under, and its arrival time."""
        # A look at all keys comes so rarely that each newcomer pays for a few of them.
        key, tats, self._came = _short(key), self._tats, self._came + 1
        due = now >= self._due or self._came > len(tats) / 8
        if due and len(tats) >= min(self._crowded, self._max_keys):
            self._tats = tats = {at: tat for at, tat in tats.items() if tat > now}
            self._spare = {at: t for at, t in self._spare.items() if at in tats}
            self._crowded, self._came = max(_FEW, 2 * len(tats)), 0
            self._due = now + self._burst / 8
        if len(tats) >= self._max_keys and key not in tats:
            key = _OVERFLOW
        return key, tats.get(key, now)


# One key, one trip, the server's clock; times in units, as text that is exact. Behind a
# reservation stands how far it lay ahead, to tell it from a clock that was set back.
_SCRIPT = """
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = (time[1] * 1000000 + time[2]) * rate
local held = tostring(redis.pcall('GET', KEYS[1]))
local mark, ahead = held:match('^([%d.e+-]+) ?([%d.e+-]*)$')
local tat, lead = tonumber(mark or ''), tonumber(ahead or '') or burst
if not (tat and tat - lead - now <= burst) then tat = now end
local turn = math.max(tat, now) + cost
local excess = turn - now - burst
if ARGV[5] ~= '' then turn = ARGV[5] == mark and tat - cost
elseif cost == 0 or excess > tonumber(ARGV[4]) then turn = nil end
if turn then
  mark = string.format('%.17g', turn)
  local lead = math.max(turn - now, 0)
  local text = lead > burst * 1.001 and string.format('%s %.9g', mark, lead) or mark
  local ms = math.min(math.ceil(lead / rate / 1000) + 1, 1e14)
  redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', ms))
end
return {mark or '', string.format('%.17g', excess)}
"""


class RedisStore:
    """Remember in Redis (5 or newer) or Valkey, for many processes.

    A decision is one round trip, by the server's clock. A key is `prefix`, rate, burst
    and key, and expires once it is as good as new. A turn that is given up is free if
    it was the last, and else lost: where many give up, wait with a `timeout`, by which
    a turn too far off is not even taken. A server that cannot be had is left alone for
    a second, after a warning in the log, so that not every request waits for it.

    Args:
        client: of `redis` or `valkey`, blocking or async, for one server or a cluster.
            Each request waits for it, so give it short timeouts and no retries (which
            may count twice): `socket_timeout=0.1, retry=Retry(NoBackoff(), 0)`.
        when_away: without a server, `local` counts in this process alone, `allow` lets
            all pass, and `deny` none.
    """

    def __init__(
        self, client: Any, *, prefix: str = "limit:", when_away: Policy = "local"
    ) -> None:
        if when_away not in ("local", "allow", "deny"):
            raise ValueError(f"when_away is local, allow or deny, not {when_away!r}")
        self._script, self._prefix = client.register_script(_SCRIPT), prefix
        self._is_async = inspect.iscoroutinefunction(self._script.__call__)
        self._policy, self._until, self._local = when_away, 0.0, MemoryStore()

    def open(self, rate: float, burst: float, clock: Clock) -> Callable[..., Any]:
        """Return what reserves for a limit; the clock is for the pauses only."""
        return _Calls(self, rate, burst, clock).reserve


class _Calls:  # of the script for one limit, blocking or async as the client is
    def __init__(self, store: Any, rate: float, burst: float, clock: Clock) -> None:
        self._store, self._rate, self._burst, self._clock = store, rate, burst, clock
        self._local, self._grace = store._local.open(rate, burst, clock), _grace(rate)
        self._prefix = f"{store._prefix}{rate:.9g}/{burst:.9g}:"
        self._numbers = repr(rate / 1e6), repr(float(burst))

    def reserve(self, key: str, cost: float, patience: float, mark: Any = None) -> Any:
        store, now, ask = self._store, self._clock(), (key, cost, patience, mark)
        if isinstance(mark, tuple) or 0 < store._until - now <= _PAUSE:
            return self._instead(*ask)
        store._until = store._until and now + _PAUSE  # one tries, and no other waits
        name = (self._prefix + _short(key)).encode("utf-8", "surrogatepass")
        wait = min(max(patience, self._grace), 1e300)
        call = [name], [*self._numbers, repr(float(cost)), repr(wait), mark or ""]
        if store._is_async:
            return self._later(call, ask)
        try:
            return self._read(store._script(*call), ask)
        except Exception as exc:
            return self._fail(exc, ask)

    async def _later(self, call: Any, ask: Any) -> Any:
        try:
            return self._read(await self._store._script(*call), ask)
        except Exception as exc:
            return self._fail(exc, ask)

    def _read(self, reply: Any, ask: Any) -> Any:
        self._store._until = 0.0
        excess = float(reply[1])
        if self._grace < excess <= ask[2]:
            return Reservation(excess / self._rate, reply[0])
        return decide(excess, ask[1], self._rate, self._grace)

    def _fail(self, exc: Exception, ask: Any) -> Any:
        """Begin a pause, unless the error is no sign of the server's absence."""
        names = {base.__name__ for base in type(exc).__mro__}
        if not (isinstance(exc, OSError) or names & _AWAY):
            raise exc
        self._store._until = self._clock() + _PAUSE
        _log.warning("store is away: %s (%s)", self._store._policy, type(exc).__name__)
        return self._instead(*ask)

    def _instead(self, key: str, cost: float, patience: float, mark: Any) -> Any:
        if self._store._policy == "deny":
            return Decision(False, 0, _PAUSE, _PAUSE)
        if self._store._policy == "local" and not isinstance(mark, str | bytes):
            return self._local(key, cost, patience, mark)
        return decide(cost - self._burst, cost, self._rate)


class Limiter:
    """Let `limit` units pass in each `period` seconds, for each key.

    No span of time lets more pass than `burst` and what it brings. Turns go in order
    of asking, small costs do not starve a large one, and a turn that is given up is the
    next caller's. Threads and tasks may share it.

    Args:
        limit: units in a period. A request costs one, or what it says.
        period: seconds.
        burst: units that may come at once; `limit` and one at least, unless given.
        store: where to remember; in this process, unless given. Limiters of one rate
            and burst over one store count together: keep their keys apart.
        clock: seconds. Set back, it freezes no key for longer than a burst lasts.
        sleep: how `acquire` waits.
        asleep: how `aacquire` waits.

    Raises:
        ValueError: limit, period or burst is not a finite number above 0.

    >>> limiter = Limiter(2, 60, clock=lambda: 0.0)
    >>> [limiter.try_acquire("ann").allowed for _ in range(3)]
    [True, True, False]
    >>> limiter.try_acquire("ann")
    Decision(allowed=False, available=0, retry_after=30.0, window=30.0)
    """

    def __init__(
        self,
        limit: float,
        period: float,
        *,
        burst: float | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], object] | None = None,
        asleep: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        self.limit, self.period = limit, period
        self.burst = max(1, limit) if burst is None else burst
        if not all(1e-15 < n < 1e15 for n in (limit, period, self.burst)):
            raise ValueError("limit, period and burst are finite numbers above 0")
        self._rate, clock = limit / period, clock or time.monotonic
        self._sleep, self._asleep = sleep or time.sleep, asleep or asyncio.sleep
        self._reserve = (store or MemoryStore()).open(self._rate, self.burst, clock)

    def try_acquire(self, key: str, cost: float = 1) -> Decision:
        """Decide at once. A cost of 0 looks and takes nothing.

        Raises:
            ValueError: the cost is below 0, or above the burst and so never allowed.
            TypeError: the store is async: use `atry_acquire`.
        """
        if not 0 <= cost <= self.burst:
            raise ValueError(f"a cost is from 0 to {self.burst}, not {cost!r}")
        answer = self._reserve(key, cost, 0.0)
        return answer if answer.__class__ is Decision else self._granted(answer)

    async def atry_acquire(self, key: str, cost: float = 1) -> Decision:
        """Decide at once, whether the store is async or not."""
        answer: Any = self._ask(key, cost, 0.0)
        return answer if isinstance(answer, Decision) else await answer

    def acquire(
        self, key: str, cost: float = 1, *, timeout: float | None = None
    ) -> Decision:
        """Wait for the turn of a request, and return when it may go.

        Raises:
            LimitExceeded: at once, if the turn is further off than `timeout` seconds.
        """
        answer = self._ask(key, cost, timeout)
        if isinstance(answer, Reservation):
            try:
                self._sleep(answer.wait)
            except BaseException:
                self._reserve(key, cost, 0.0, answer.mark)
                raise
        return self._granted(answer)

    async def aacquire(
        self, key: str, cost: float = 1, *, timeout: float | None = None
    ) -> Decision:
        """Wait as `acquire` does, without blocking the event loop.

        One that is cancelled gives its turn back; with a `timeout` it takes none.
        """
        answer = self._ask(key, cost, timeout)
        answer = answer if isinstance(answer, tuple) else await answer
        if answer.__class__ is Reservation:
            try:
                await self._asleep(answer.wait)
            except BaseException:
                given = self._reserve(key, cost, 0.0, answer.mark)
                if inspect.isawaitable(given):
                    await given
                raise
        return self._granted(answer)

    def _ask(self, key: str, cost: float, timeout: float | None) -> Any:
        if not 0 <= cost <= self.burst:
            raise ValueError(f"a cost is from 0 to {self.burst}, not {cost!r}")
        seconds = math.inf if timeout is None else max(0.0, timeout)
        return self._reserve(key, cost, seconds * self._rate * (1 + 1e-9))

    def _granted(self, answer: Any) -> Decision:
        if answer.__class__ is Decision:
            if answer.allowed:
                return answer
            raise LimitExceeded(answer)
        if isinstance(answer, Reservation):
            return Decision(True, 0, 0.0, 1 / self._rate)
        answer.close()
        raise TypeError("the store is async: use atry_acquire and aacquire")


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
