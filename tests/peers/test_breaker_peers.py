"""Five traps of circuit breakers: ours beside four other packages.

Ours is held by plain tests; what a release of somebody else's does is stated in a test
with the mark `peer_behaviour`. Time is virtual.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

import pytest
from claims import state

from patterns.errors.circuit_breaker import CircuitBreaker, CircuitOpenError

peer = pytest.mark.peer_behaviour
Work = Callable[[], Awaitable[Any]]
Guard = Callable[[Work], Awaitable[Any]]
LIMIT, WAIT = 3, 5  # failures that open each breaker, and seconds until a probe
SEEN = {
    "purgatory": "purgatory 3.0.1",
    "circuitbreaker": "circuitbreaker 2.1.3",
    "aiobreaker": "aiobreaker 1.2.0",
    "pybreaker": "pybreaker 1.4.1",
}


class Clock:
    """A clock that is set by hand; by it the peers know monotonic and wall time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which all breakers here go."""
    clock = Clock()

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(clock.now, tz)

        @classmethod
        def utcnow(cls) -> datetime:
            return datetime.fromtimestamp(clock.now, UTC).replace(tzinfo=None)

    monkeypatch.setattr("purgatory.domain.model.time", SimpleNamespace(time=clock))
    monkeypatch.setattr("circuitbreaker.monotonic", clock)
    for name in ("aiobreaker.state", "aiobreaker.circuitbreaker", "pybreaker"):
        monkeypatch.setattr(f"{name}.datetime", Moment)
    return clock


# -- the breakers: each guards a call, by its own means --------------------------------


def by_ours(clock: Clock, **settings: Any) -> Guard:
    settings = {"minimum_number_of_calls": LIMIT, **settings}
    breaker = CircuitBreaker(wait_duration_in_open_state=WAIT, clock=clock, **settings)

    async def guard(work: Work) -> Any:
        with breaker.acquire():
            return await work()

    return guard


def by_purgatory() -> Guard:
    from purgatory import AsyncCircuitBreakerFactory

    factory = AsyncCircuitBreakerFactory(default_threshold=LIMIT, default_ttl=WAIT)

    async def guard(work: Work) -> Any:
        async with await factory.get_breaker("it"):
            return await work()

    return guard


def by_circuitbreaker() -> Guard:
    from circuitbreaker import CircuitBreaker as Theirs

    breaker = Theirs(failure_threshold=LIMIT, recovery_timeout=WAIT, name="it")

    async def call(work: Work) -> Any:
        return await work()

    return breaker.decorate(call)


def by_aiobreaker() -> Guard:
    from aiobreaker import CircuitBreaker as Theirs

    breaker = Theirs(fail_max=LIMIT, timeout_duration=timedelta(seconds=WAIT))
    return breaker.call_async


def by_pybreaker() -> Guard:
    """Guard a call that waits for nothing, since pybreaker knows blocking ones only."""
    from pybreaker import CircuitBreaker as Theirs

    breaker = Theirs(fail_max=LIMIT, reset_timeout=WAIT)

    def call(work: Work) -> Any:
        try:
            next(work().__await__())
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits for something")

    async def guard(work: Work) -> Any:
        return breaker.call(call, work)

    return guard


PEERS: dict[str, Callable[[], Guard]] = {
    "purgatory": by_purgatory,
    "circuitbreaker": by_circuitbreaker,
    "aiobreaker": by_aiobreaker,
    "pybreaker": by_pybreaker,
}


class Backend:
    """A service that counts who reaches it."""

    def __init__(self, *script: bool) -> None:
        self.script, self.reached = script, 0

    async def __call__(self) -> str:
        success = self.script[self.reached % len(self.script)]
        self.reached += 1
        if not success:
            raise ConnectionError("the backend is down")
        return "done"


async def sends(guard: Guard, work: Work, count: int = 1) -> list[Any]:
    """Make calls one after another; return what came of each."""
    outcomes: list[Any] = []
    for _ in range(count):
        try:
            outcomes.append(await guard(work))
        except Exception as exc:
            outcomes.append(exc)
    return outcomes


# -- 14: half open, twenty at once -----------------------------------------------------


async def reach_at_once(guard: Guard, clock: Clock) -> int:
    """Return how many of twenty callers a breaker lets through when it half opens."""
    down, go, reached = Backend(False), asyncio.Event(), 0
    await sends(guard, down, LIMIT)
    assert down.reached == LIMIT

    async def probe() -> None:
        nonlocal reached
        reached += 1
        await go.wait()

    clock.now += WAIT + 1
    tasks = [asyncio.ensure_future(guard(probe)) for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    return reached


def test_one_of_twenty_probes(clock: Clock) -> None:
    """A breaker that half opens lets one of twenty callers through."""
    assert asyncio.run(reach_at_once(by_ours(clock), clock)) == 1


@peer
@pytest.mark.parametrize("name", ["purgatory", "circuitbreaker", "aiobreaker"])
def test_all_of_twenty_probe(clock: Clock, name: str) -> None:
    """Three peers let all twenty through to a backend that may just be back."""
    reached = asyncio.run(reach_at_once(PEERS[name](), clock))
    claim = "half open, it lets all of 20 concurrent callers through"
    state(reached == 20, SEEN[name], claim)


# -- 15: callers that lose patience ----------------------------------------------------


async def passes_after_cancellations(guard: Guard) -> bool:
    """Tell whether a call passes after three were cancelled, none of which failed."""

    async def slow() -> None:
        await asyncio.Event().wait()

    for _ in range(LIMIT):
        task = asyncio.ensure_future(guard(slow))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    return await sends(guard, Backend(True)) == ["done"]


def test_cancelled_calls_are_no_failures(clock: Clock) -> None:
    """Three callers that cancel a healthy call do not open the circuit."""
    assert asyncio.run(passes_after_cancellations(by_ours(clock)))


@peer
@pytest.mark.parametrize(
    ("name", "passes"),
    [("purgatory", False), ("circuitbreaker", True), ("aiobreaker", True)],
)
def test_cancelled_calls_open_purgatory(clock: Clock, name: str, passes: bool) -> None:
    """purgatory takes three cancelled calls for failures of the backend."""
    passed = asyncio.run(passes_after_cancellations(PEERS[name]()))
    claim = f"three cancelled calls {'do not open' if passes else 'open'} the circuit"
    state(passed == passes, SEEN[name], claim)


# -- 16: every second call fails -------------------------------------------------------


def reach_alternating(guard: Guard) -> int:
    """Return how many of 1000 calls reach a backend that fails every second one."""
    backend = Backend(True, False)
    asyncio.run(sends(guard, backend, 1000))
    return backend.reached


def test_half_of_the_calls_fail(clock: Clock) -> None:
    """A rate of one half opens the circuit once there are enough calls to have one."""
    assert reach_alternating(by_ours(clock, minimum_number_of_calls=10)) == 10


@peer
@pytest.mark.parametrize("name", PEERS)
def test_half_of_the_calls_fail_for_ever(clock: Clock, name: str) -> None:
    """What counts failures in a row never opens where every other call succeeds."""
    reached = reach_alternating(PEERS[name]())
    claim = "all of 1000 calls reach a backend of which every second one fails"
    state(reached == 1000, SEEN[name], claim)


# -- 17: threads, and coroutines -------------------------------------------------------


def peak(call: Callable[[Callable[[], None]], Any], count: int = 8) -> int:
    """Return how many of so many threads are inside a guarded call at a time."""
    inside = highest = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, highest
        with lock:
            inside += 1
            highest = max(highest, inside)
        time.sleep(0.05)
        with lock:
            inside -= 1

    threads = [threading.Thread(target=call, args=[work]) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return highest


def test_calls_of_threads_overlap() -> None:
    """No lock is held during a call: eight threads are inside at the same time."""
    breaker, together = CircuitBreaker(), threading.Barrier(8)

    def call(work: Callable[[], None]) -> None:
        with breaker.acquire():
            together.wait(10)
            work()

    assert peak(call) > 1
    assert not together.broken


@peer
def test_pybreaker_lets_one_thread_in() -> None:
    """pybreaker holds its lock during the call, so that threads queue up."""
    from pybreaker import CircuitBreaker as Theirs

    claim = "of eight threads one at a time is inside a guarded call"
    state(peak(Theirs().call) == 1, SEEN["pybreaker"], claim)


def test_coroutines_are_awaited(clock: Clock) -> None:
    """Coroutines that fail open the circuit."""
    down = Backend(False)
    outcomes = asyncio.run(sends(by_ours(clock), down, 10))
    assert down.reached == LIMIT
    assert {type(o) for o in outcomes[LIMIT:]} == {CircuitOpenError}


@peer
def test_pybreaker_takes_a_coroutine_for_a_success() -> None:
    """pybreaker sees a coroutine returned, and not the failure that it ends in."""
    from pybreaker import CircuitBreaker as Theirs

    down, breaker = Backend(False), Theirs(fail_max=LIMIT)

    @breaker
    async def call() -> Any:
        return await down()

    asyncio.run(sends(lambda work: call(), down, 10))
    claim = "ten calls of an `async def` that fails all reach the backend"
    state(down.reached == 10, SEEN["pybreaker"], claim)


# -- 18: the clock is set back ---------------------------------------------------------


def recovers(guard: Guard, clock: Clock, back: float = 3600) -> bool:
    """Tell whether a breaker that is open lets a probe through after its wait.

    The clock is set `back` in between.
    """
    asyncio.run(sends(guard, Backend(False), LIMIT))
    clock.now -= back
    asyncio.run(sends(guard, Backend(True)))
    clock.now += WAIT + 1
    return asyncio.run(sends(guard, Backend(True))) == ["done"]


def test_a_clock_set_back_holds_nothing(clock: Clock) -> None:
    """The wait begins anew, and ends."""
    assert recovers(by_ours(clock), clock)


@peer
@pytest.mark.parametrize("name", ["purgatory", "aiobreaker", "pybreaker"])
def test_a_clock_set_back_holds_it_open(clock: Clock, name: str) -> None:
    """Three peers go by the time of day, and stay open until it is caught up with."""
    assert recovers(PEERS[name](), clock, back=0)
    claim = "the clock set back by an hour keeps it open for that hour"
    state(not recovers(PEERS[name](), clock), SEEN[name], claim)
