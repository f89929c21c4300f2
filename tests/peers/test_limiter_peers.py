"""What releases of other limiters do where ours keeps to the limit: claims of the note.

Each test states what was seen of one release, with ours beside it under the same
clocks. When a later release does better, its test says so and what to revise.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import selectors
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from claims import state

from patterns.rate_limit.limiter import Limiter, RedisStore

if TYPE_CHECKING:
    from conftest import Valkey

pytestmark = pytest.mark.peer_behaviour
Take = Callable[[], bool]  # takes one unit, or is refused
LIMITS, THROTTLED, AIOLIMITER = "limits 5.8.0", "throttled-py 3.5.0", "aiolimiter 1.3.0"


class World:
    """The two clocks of a machine: the one on the wall, and one that cannot jump."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.wall, self.mono = 1_700_000_000.0, 5_000.0
        patch.setattr(time, "time", lambda: self.wall)
        patch.setattr(time, "monotonic", lambda: self.mono)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.mono += seconds

    def ours(self, burst: int = 10, store: Any = None) -> Take:
        """Return our limiter of 10 a second, by the clock that it has by default."""
        it = Limiter(10, 1, burst=burst, store=store, clock=lambda: self.mono)
        return lambda: it.try_acquire("ann").allowed


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return clocks that the test sets."""
    return World(monkeypatch)


def limits(strategy: str, url: str = "memory://", limit: str = "10/second") -> Take:
    """Return the `limits` package's limiter of 10 a second."""
    from limits import parse
    from limits.storage import storage_from_string
    from limits.strategies import STRATEGIES

    it = STRATEGIES[strategy](storage_from_string(url))
    name = secrets.token_hex(8)
    return lambda: it.hit(parse(limit), name)


def throttled(
    algorithm: str, burst: int = 10, store: Any = None, quota: str = "10/s"
) -> Take:
    """Return throttled-py's limiter of 10 a second."""
    from throttled import Throttled
    from throttled.store import MemoryStore

    it = Throttled(
        using=algorithm,
        quota=f"{quota} burst {burst}",
        store=store or MemoryStore(),
        key=secrets.token_hex(8),
    )
    return lambda: not it.limit().limited


def passed(take: Take, tries: int = 20) -> int:
    """Return how many of some tries are let pass."""
    return sum(take() for _ in range(tries))


# Made within a test, when the clocks are patched.
PEERS: dict[str, tuple[str, Callable[[], Take]]] = {
    "limits fixed": (LIMITS, lambda: limits("fixed-window")),
    "limits moving": (LIMITS, lambda: limits("moving-window")),
    "throttled fixed": (THROTTLED, lambda: throttled("fixed_window")),
    "throttled token": (THROTTLED, lambda: throttled("token_bucket")),
    "throttled leaking": (THROTTLED, lambda: throttled("leaking_bucket")),
}


@pytest.mark.parametrize("name", [name for name in PEERS if name != "throttled fixed"])
def test_a_clock_set_back(world: World, name: str) -> None:
    """Trap 19: with the clock on the wall set back, nothing passes for an hour."""
    seen_in, peer = PEERS[name]
    takes = peer(), world.ours()
    assert [passed(take) for take in takes] == [10, 10]
    world.wait(1.2)
    world.wall -= 3600
    theirs, ours = map(passed, takes)
    assert ours == 10
    state(theirs == 0, seen_in, f"its {name} lets 0 of 20 pass, the clock set back")


@pytest.mark.parametrize("name", PEERS)
def test_a_clock_set_forward(world: World, name: str) -> None:
    """Trap 20: with the clock on the wall set forward, a limit passes twice."""
    seen_in, peer = PEERS[name]
    takes = peer(), world.ours()
    world.wall += 0.5
    assert [passed(take) for take in takes] == [10, 10]
    world.wall += 3600
    theirs, ours = map(passed, takes)
    assert ours == 0
    state(
        theirs == 10, seen_in, f"its {name} lets 10 pass again, the clock set forward"
    )


@pytest.mark.parametrize("name", [name for name in PEERS if name != "limits moving"])
def test_both_sides_of_an_edge(world: World, name: str) -> None:
    """Trap 21: bursts on both sides of a full second are nearly twice the limit."""
    seen_in, peer = PEERS[name]
    takes = peer(), world.ours()
    world.wait(0.05)
    assert [passed(take, 1) for take in takes] == [1, 1]
    world.wait(0.9)
    first = [passed(take) for take in takes]
    world.wait(0.1)
    second = [passed(take) for take in takes]
    assert first[1] + second[1] == 11
    claim = f"its {name} lets 19 pass within a tenth of a second"
    state(first[0] + second[0] == 19, seen_in, claim)


def test_a_clock_of_whole_seconds(world: World) -> None:
    """Trap 22: by a clock of whole seconds, ten a second become one a second."""
    takes = throttled("token_bucket", burst=1), world.ours(burst=1)
    counts = [0, 0]
    for _ in range(300):
        for n, take in enumerate(takes):
            counts[n] += take()
        world.wait(0.01)
    assert counts[1] == 30
    claim = "its token bucket of 10 a second, one at once, lets 4 pass in 3 s"
    state(counts[0] <= 4, THROTTLED, claim)


def test_other_keys_let_an_exhausted_one_in(world: World) -> None:
    """Trap 23: a store that forgets the oldest key lets an offender in again."""
    from throttled import Throttled, rate_limiter

    quota = rate_limiter.per_hour(10)
    it = Throttled(using="gcra", quota=quota, key_prefix=secrets.token_hex(8))
    ours = Limiter(10, 3600, clock=lambda: world.mono)
    first = [not it.limit("ann").limited for _ in range(20)]
    assert sum(first) == sum(ours.try_acquire("ann").allowed for _ in range(20)) == 10
    for n in range(1_100):
        it.limit(f"{n}")
        ours.try_acquire(f"{n}")
    again = sum(not it.limit("ann").limited for _ in range(20))
    assert not any(ours.try_acquire("ann").allowed for _ in range(20))
    claim = "its default store lets an exhausted key in again after 1100 other keys"
    state(again == 10, THROTTLED, claim)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait; to look round takes it a microsecond."""

    def __init__(self) -> None:
        self.now = 0.0

        class Selector(selectors.SelectSelector):
            def select(_, timeout: float | None = None) -> Any:
                self.now += max(timeout or 0.0, 1e-6)
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def served(acquire: Callable[[float], Any], loop: VirtualLoop) -> bool:
    """Tell whether a cost of 5 has its turn in 4 s, behind 20 loops of small ones."""

    async def small() -> None:
        while True:
            await acquire(1)

    async def main() -> bool:
        loops = [asyncio.ensure_future(small()) for _ in range(20)]
        await asyncio.sleep(0.5)
        large = asyncio.ensure_future(acquire(5))
        done, _ = await asyncio.wait([large], timeout=4)
        for task in (large, *loops):
            task.cancel()
        await asyncio.gather(large, *loops, return_exceptions=True)
        return bool(done)

    return loop.run_until_complete(main())


def test_a_large_amount_is_starved() -> None:
    """Trap 24: small amounts go before a large one for as long as they come."""
    from aiolimiter import AsyncLimiter

    with contextlib.closing(VirtualLoop()) as loop:
        theirs = served(AsyncLimiter(10, 1).acquire, loop)
    with contextlib.closing(VirtualLoop()) as loop:
        it = Limiter(10, 1, clock=loop.time)
        assert served(lambda cost: it.aacquire("ann", cost), loop)
    claim = "an amount of 5 has no turn in 4 s behind 20 loops of 1, at 10 a second"
    state(not theirs, AIOLIMITER, claim)


@pytest.mark.parametrize(
    ("name", "seen_in"),
    [
        ("limits moving", LIMITS),
        ("throttled sliding", THROTTLED),
        ("throttled fixed", THROTTLED),
    ],
)
def test_clients_whose_clocks_differ(redis_url: str, name: str, seen_in: str) -> None:
    """Trap 25: over one server, a client whose clock is ahead has its own limit."""
    import redis
    from throttled.store import RedisStore as Theirs

    def ask(take: Take, hours: float) -> int:
        with pytest.MonkeyPatch.context() as patch:
            true = time.time()
            patch.setattr(time, "time", lambda: true + hours * 3600)
            return passed(take)

    if name == "limits moving":
        take = limits("moving-window", redis_url, "10/minute")
    else:
        algorithm = "sliding_window" if "sliding" in name else "fixed_window"
        take = throttled(algorithm, store=Theirs(redis_url), quota="10/m")
    assert ask(take, 0) == 10
    theirs = ask(take, 1)
    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client, prefix=secrets.token_hex(8))
        here = Limiter(10, 60, store=store)
        there = Limiter(10, 60, store=store, clock=lambda: time.monotonic() + 3600)
        assert ask(lambda: here.try_acquire("ann").allowed, 0) == 10
        assert ask(lambda: there.try_acquire("ann").allowed, 1) == 0
    state(theirs == 10, seen_in, f"its {name} lets a client an hour ahead pass 10 more")


def test_a_server_that_is_away(own_valkey: Valkey) -> None:
    """Trap 28: without the server, an error of the store gets in the request's way."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from throttled.store import RedisStore as Theirs

    takes = {
        LIMITS: limits("fixed-window", own_valkey.url),
        THROTTLED: throttled("gcra", store=Theirs(own_valkey.url)),
    }
    retry = Retry(NoBackoff(), 0)
    client = redis.Redis.from_url(own_valkey.url, retry=retry)
    store = RedisStore(client, when_away="allow")
    ours = Limiter(10, 60, store=store)
    assert ours.try_acquire("ann").allowed
    assert all(take() for take in takes.values())
    own_valkey.kill()
    assert ours.try_acquire("ann").allowed
    client.close()
    for seen_in, take in takes.items():
        error = None
        try:
            take()
        except Exception as exc:
            error = type(exc).__name__
        wanted = {LIMITS: "ConnectionError", THROTTLED: "StoreUnavailableError"}[
            seen_in
        ]
        claim = f"its limiter raises {wanted} where the server is away"
        state(error == wanted, seen_in, claim)


def test_a_moving_window_remembers_each_request(redis_url: str) -> None:
    """A window that moves holds an entry for each request, and GCRA one number."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        before = set(client.scan_iter(count=1000))
        take = limits("moving-window", redis_url, "5000/hour")
        ours = Limiter(5000, 3600, store=RedisStore(client))
        for _ in range(2000):
            take()
            ours.try_acquire("a moving window")
        names = set(client.scan_iter(count=1000)) - before
        (own,) = (name for name in names if name.endswith(b"a moving window"))
        (other,) = (name for name in names if name.startswith(b"LIMITS:"))
        sizes = [client.memory_usage(name, samples=0) for name in (other, own)]
        client.delete(own, other)
    assert sizes[1] <= 120
    claim = "2000 requests in its moving window take more than 20 kB at the server"
    state(sizes[0] > 20_000, LIMITS, claim)
