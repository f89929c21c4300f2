"""What a decision costs, in memory and at a server, and what a turn costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from harness import Row, fixtures, interleave

from patterns.rate_limit.limiter import Limiter, RedisStore

MANY = 1e9  # units a second: what is measured here is never refused
KEY = "ann"


class Bare:
    """The barest GCRA as one writes it by hand: no lock, and yes or no."""

    def __init__(self, limit: float, period: float, burst: float) -> None:
        self.interval = period / limit
        self.capacity = burst * self.interval
        self.tats: dict[str, float] = {}

    def try_acquire(self, key: str, cost: float = 1) -> bool:
        now = time.monotonic()
        tat = max(self.tats.get(key, now), now) + cost * self.interval
        if tat - now > self.capacity:
            return False
        self.tats[key] = tat
        return True


class Telling(Bare):
    """The same, with the four things that a decision tells; still without a lock."""

    def try_acquire(  # type: ignore[override]
        self, key: str, cost: float = 1
    ) -> tuple[bool, int, float, float]:
        now = time.monotonic()
        tat = max(self.tats.get(key, now), now) + cost * self.interval
        room = now + self.capacity - tat
        if room < 0:
            return False, 0, -room, -room
        self.tats[key] = tat
        left = int(room / self.interval)
        return True, left, 0.0, (left + 1) * self.interval - room


def limits(strategy: str, url: str = "memory://") -> tuple[Any, Callable[[], Any]]:
    """Return the `limits` package's strategy, and a hit of it."""
    from limits import parse
    from limits.storage import storage_from_string
    from limits.strategies import STRATEGIES

    it, limit = STRATEGIES[strategy](storage_from_string(url)), parse("100000000/hour")
    return it, lambda: it.hit(limit, strategy)


def told_by_limits(strategy: str, url: str = "memory://") -> Callable[[], bool]:
    """Return a hit of `limits` and the second question that header data takes."""
    from limits import parse

    it, hit = limits(strategy, url)
    limit = parse("100000000/hour")

    def ask() -> bool:
        allowed = hit()
        stats = it.get_window_stats(limit, strategy)
        return bool(allowed and stats.remaining and stats.reset_time)

    return ask


def throttled(store: Any) -> Callable[[], bool]:
    """Return throttled-py's GCRA."""
    from throttled import Throttled, rate_limiter

    quota = rate_limiter.per_sec(10**9, burst=10**9)
    it = Throttled(key=KEY, using="gcra", quota=quota, store=store)
    return lambda: not it.limit().limited


def bench_limiter_decision(quick: bool) -> Iterator[Row]:
    """Compare a decision in memory with bare loops and with other packages."""
    from throttled.store import MemoryStore

    ours, bare = Limiter(MANY, 1), Bare(MANY, 1, MANY)
    telling = Telling(MANY, 1, MANY)
    cases: dict[str, Callable[[], Any]] = {
        "bare GCRA": lambda: bare.try_acquire(KEY),
        "bare GCRA that tells": lambda: telling.try_acquire(KEY)[0],
        "try_acquire": lambda: ours.try_acquire(KEY).allowed,
        "limits, fixed": limits("fixed-window")[1],
        "limits, fixed, and its stats": told_by_limits("fixed-window"),
        "throttled-py, gcra": throttled(MemoryStore()),
    }
    rounds, repeat = (1, 5) if quick else (25, 5_000)
    times = interleave(cases, rounds, repeat=repeat, result=True)
    # A window that moves gets slower with each hit it holds: a few are enough.
    moving = {
        "try_acquire": cases["try_acquire"],
        "limits, moving, and its stats": told_by_limits("moving-window"),
    }
    others = interleave(moving, rounds, repeat=min(repeat, 500), result=True)
    yield times.row("try_acquire", "bare GCRA that tells", target=1.82)
    yield times.row("try_acquire", "bare GCRA")
    yield times.row("try_acquire", "limits, fixed")
    yield times.row("try_acquire", "limits, fixed, and its stats", target=0.2)
    yield others.row("try_acquire", "limits, moving, and its stats", target=0.2)
    yield times.row("try_acquire", "throttled-py, gcra")


async def take_turns(turn: Callable[[], Awaitable[Any]], count: int) -> int:
    """Take turns one after another."""
    for _ in range(count):
        await turn()
    return count


async def take_together(turn: Callable[[], Awaitable[Any]], count: int) -> int:
    """Take turns that all have been asked for at the same time."""
    return len(await asyncio.gather(*(turn() for _ in range(count))))


def bench_limiter_turns(quick: bool) -> Iterator[Row]:
    """Compare turns that are free, and turns that many wait for, with aiolimiter's."""
    from aiolimiter import AsyncLimiter

    loop = asyncio.new_event_loop()
    run = loop.run_until_complete

    async def nothing() -> None:
        pass

    def ours(rate: float, burst: float) -> Callable[[], Awaitable[Any]]:
        it = Limiter(rate, 1, burst=burst)
        return lambda: it.aacquire(KEY)

    def theirs(rate: float, burst: float) -> Callable[[], Awaitable[Any]]:
        it = AsyncLimiter(burst, burst / rate)
        return lambda: it.acquire()

    count, rounds = (10, 1) if quick else (2_000, 25)
    free: dict[str, Callable[[], int]] = {
        "a coroutine that does nothing": lambda: run(take_turns(nothing, count)),
        "aacquire, free": lambda: run(take_turns(ours(MANY, MANY), count)),
        "aiolimiter, free": lambda: run(take_turns(theirs(MANY, MANY), count)),
    }
    callers, rate, again = (10, 1e4, 1) if quick else (1_000, 2e4, 5)
    waited: dict[str, Callable[[], int]] = {
        "aacquire, all wait": lambda: run(take_together(ours(rate, 1), callers)),
        "aiolimiter, all wait": lambda: run(take_together(theirs(rate, 1), callers)),
    }
    try:
        times = interleave(free, rounds, result=count)
        work = interleave(waited, again, result=callers)
        waits = interleave(waited, again, result=callers, clock=time.perf_counter)
    finally:
        loop.close()
    scale = {"per": count, "unit": "a turn"}
    yield times.row("aacquire, free", "aiolimiter, free", target=1.0, **scale)
    yield times.row("aacquire, free", "a coroutine that does nothing", **scale)
    scale = {"per": callers, "unit": "a turn"}
    yield work.row("aacquire, all wait", "aiolimiter, all wait", target=1.0, **scale)
    bound = (callers - 1) / rate
    name = "(N-1) / rate"
    yield waits.bound("aacquire, all wait", name, bound, target=1.25)
    yield waits.bound("aiolimiter, all wait", name, bound)


def bench_limiter_server(quick: bool) -> Iterator[Row]:
    """Compare a decision at a server with a PING, and with what others ask it."""
    import redis
    from throttled.store import RedisStore as Theirs

    rounds, repeat = (1, 2) if quick else (15, 300)
    with (
        fixtures().start_valkey() as server,
        redis.Redis.from_url(server.url) as client,
    ):
        ours = Limiter(MANY, 1, store=RedisStore(client))
        cases: dict[str, Callable[[], Any]] = {
            "PING": client.ping,
            "try_acquire, Valkey": lambda: ours.try_acquire(KEY).allowed,
            "throttled-py, gcra": throttled(Theirs(server.url)),
        }
        for name in ("fixed", "moving"):
            _, hit = limits(f"{name}-window", server.url)
            cases[f"limits, {name}"] = hit
            told = told_by_limits(f"{name}-window", server.url)
            cases[f"limits, {name}, and its stats"] = told
        clock = time.perf_counter  # it waits for the server
        times = interleave(cases, rounds, repeat=repeat, result=True, clock=clock)
    case = "try_acquire, Valkey"
    yield times.row(case, "limits, fixed, and its stats", target=0.5)
    yield times.row(case, "limits, moving, and its stats", target=0.5)
    yield times.row(case, "limits, fixed")
    yield times.row(case, "limits, moving")
    yield times.row(case, "throttled-py, gcra")
    yield times.row(case, "PING")
