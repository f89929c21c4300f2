"""One contract, held by every store: in memory, and in a real Valkey by each client.

Below it stands what only a server can do: go away, come back, be full, or lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from patterns.rate_limit.limiter import (
    Decision,
    Limiter,
    LimitExceeded,
    MemoryStore,
    RedisStore,
)

if TYPE_CHECKING:
    from conftest import Valkey
KEY = "ann"
DAY = 86_400


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A store, and how to ask a limiter over it: blocking, or in an event loop."""

    def __init__(
        self, client: Any = None, runner: asyncio.Runner | None = None
    ) -> None:
        self.client, self.runner, self.clock = client, runner, Now()
        self.prefix = f"kit-{secrets.token_hex(8)}:"
        self.memory = MemoryStore()

    def store(self, **options: Any) -> Any:
        if self.client is None:
            return self.memory
        return RedisStore(self.client, prefix=self.prefix, **options)

    def limiter(self, limit: float, period: float = DAY, **options: Any) -> Limiter:
        """Return a limiter of units a day; by then no test is under way."""
        policy = {name: options.pop(name) for name in ("when_away",) if name in options}
        return Limiter(limit, period, store=self.store(**policy), **options)

    def names(self, behind: Any) -> list[str]:
        """Return the names of the test's own keys at the server."""
        return list(behind.keys(f"{self.prefix}*"))

    def settle(self, value: Any) -> Any:
        """Return a result, awaited if it is to be."""
        if not asyncio.iscoroutine(value):
            return value
        assert self.runner is not None
        return self.runner.run(value)

    def ask(self, it: Limiter, key: str = KEY, cost: float = 1) -> Decision:
        call = it.try_acquire if self.runner is None else it.atry_acquire
        decision: Decision = self.settle(call(key, cost))
        return decision

    def allowed(self, it: Limiter, tries: int, key: str = KEY) -> int:
        return sum(self.ask(it, key).allowed for _ in range(tries))

    def wait(self, it: Limiter, cost: float = 1, **options: Any) -> Decision:
        call = it.acquire if self.runner is None else it.aacquire
        decision: Decision = self.settle(call(KEY, cost, **options))
        return decision

    def reserve(self, it: Limiter, cost: float = 1, mark: Any = None) -> Any:
        """Take a turn without waiting for it, or give one back."""
        return self.settle(it._reserve(KEY, cost, 0.0 if mark else math.inf, mark))

    def at_once(self, it: Limiter, callers: int, tries: int) -> int:
        """Return how many pass of many callers who come at the same time."""
        if self.runner is not None:

            async def one() -> int:
                asked = [await it.atry_acquire(KEY) for _ in range(tries)]
                return sum(decision.allowed for decision in asked)

            async def main() -> int:
                return sum(await asyncio.gather(*(one() for _ in range(callers))))

            return self.runner.run(main())
        counts: list[int] = []
        ready = threading.Barrier(callers)

        def work() -> None:
            ready.wait()
            counts.append(self.allowed(it, tries))

        threads = [threading.Thread(target=work) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)


def admin(url: str) -> Any:
    """Return a client to look behind the scenes with."""
    import redis

    return redis.Redis.from_url(url, decode_responses=True)


@contextlib.contextmanager
def desk_over(url: str, kind: str, timeout: float = 10) -> Iterator[Desk]:
    """Connect as `redis-sync-2` says: by which package, how, and by which protocol."""
    package, how, protocol = kind.split("-")
    name = f"{package}.asyncio" if how == "async" else package
    module = importlib.import_module(name)
    retry = importlib.import_module(f"{name}.retry")
    backoff = importlib.import_module(f"{package}.backoff")
    client = getattr(module, package.capitalize()).from_url(
        url.replace("redis://", f"{package}://"),
        protocol=int(protocol),
        # One client in four reads text: both kinds of reply are to be understood.
        decode_responses=protocol == "2" and how == "sync",
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=retry.Retry(backoff.NoBackoff(), 0),
    )
    if how == "sync":
        with client:
            yield Desk(client)
        return
    with asyncio.Runner() as runner:
        try:
            yield Desk(client, runner)
        finally:
            runner.run(client.aclose())


KINDS = [
    *("redis-sync-2", "redis-sync-3", "redis-async-2", "redis-async-3"),
    *("valkey-sync-3", "valkey-async-3"),
]


@pytest.fixture(params=["memory", *KINDS])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """Return each store in turn, with keys of the test's own."""
    if request.param == "memory":
        yield Desk()
        return
    with desk_over(request.getfixturevalue("redis_url"), request.param) as desk:
        yield desk


@pytest.fixture(params=["redis-sync-3", "redis-async-3"])
def remote(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Desk]:
    """Return a blocking and an async desk at a server, with keys of the test's own."""
    with desk_over(redis_url, request.param) as desk:
        yield desk


@pytest.fixture
def behind(redis_url: str) -> Iterator[Any]:
    """Return a client to look behind the scenes of that server with."""
    with admin(redis_url) as client:
        yield client


@pytest.fixture(params=["redis-sync-3", "redis-async-3"])
def own(request: pytest.FixtureRequest, own_valkey: Valkey) -> Iterator[Desk]:
    """Return a blocking and an async desk, at a server that the test may kill."""
    with desk_over(own_valkey.url, request.param, 0.5) as desk:
        yield desk


# --- the contract


def a_burst_is_exact(desk: Desk) -> None:
    """Of many who come at once, exactly a burst passes."""
    assert desk.at_once(desk.limiter(100), callers=8, tries=200) == 100


def decisions_tell_all(desk: Desk) -> None:
    """What is left, when to come again and when there is more: in each decision."""
    it, interval = desk.limiter(5), DAY / 5
    told = [desk.ask(it) for _ in range(6)]
    assert [one.allowed for one in told] == [True] * 5 + [False]
    assert [one.available for one in told] == [4, 3, 2, 1, 0, 0]
    assert [one.window for one in told] == pytest.approx([interval] * 6, abs=5)
    assert [one.retry_after for one in told[:5]] == [0.0] * 5
    assert told[5].retry_after == told[5].window


def a_cost_is_taken_whole_or_not(desk: Desk) -> None:
    """A refused cost takes nothing, and a look takes nothing."""
    it = desk.limiter(10)
    assert desk.ask(it, cost=0).available == 10
    assert desk.ask(it, cost=7).available == 3
    for _ in range(3):
        told = desk.ask(it, cost=5)
        assert told[:2] == (False, 3)
        assert told.retry_after == pytest.approx(2 * DAY / 10, abs=5)
    assert desk.ask(it, cost=0)[:2] == (True, 3)
    assert desk.ask(it, cost=2.5)[:2] == (True, 0)
    assert desk.ask(it, cost=0.5)[:2] == (True, 0)
    assert not desk.ask(it, cost=0.5).allowed


def retry_after_is_true(desk: Desk) -> None:
    """Who comes when told to is let pass, and who comes before is not."""
    it = desk.limiter(5, 1, burst=1)
    assert desk.ask(it).allowed
    begin = time.perf_counter()
    told = desk.ask(it)
    assert 0 < told.retry_after <= 0.2
    while not desk.ask(it).allowed:
        assert time.perf_counter() - begin < 5
    assert time.perf_counter() - begin >= told.retry_after - 0.002


def turns_are_reserved(desk: Desk) -> None:
    """Those who wait have turns one after another, and nobody gets in before them."""
    it = desk.limiter(100, burst=1)
    assert desk.ask(it).allowed
    waits = [desk.reserve(it, cost).wait for cost in (1, 0.5, 1)]
    assert waits == pytest.approx([DAY / 100 * n for n in (1, 1.5, 2.5)], abs=5)
    told = desk.ask(it)
    assert told.retry_after == pytest.approx(DAY / 100 * 3.5, abs=5)


def who_has_no_time_takes_nothing(desk: Desk) -> None:
    """Beyond the timeout a wait fails at once, and no turn is taken."""
    slept: list[float] = []

    async def asleep(seconds: float) -> None:
        slept.append(seconds)

    it = desk.limiter(100, burst=1, sleep=slept.append, asleep=asleep)
    desk.wait(it)
    for _ in range(5):
        with pytest.raises(LimitExceeded) as caught:
            desk.wait(it, timeout=DAY / 100 - 10)
    assert caught.value.decision.retry_after == pytest.approx(DAY / 100, abs=5)
    assert desk.wait(it, timeout=DAY / 100) == (True, 0, 0.0, DAY / 100)
    assert slept == pytest.approx([DAY / 100], abs=5)


def the_last_turn_can_be_given_back(desk: Desk) -> None:
    """Turns given back from the last one on are as if they had never been."""
    it = desk.limiter(100, burst=1)
    desk.ask(it)
    turns = [desk.reserve(it, cost) for cost in (1, 0.25, 1)]
    for turn, cost in zip(reversed(turns), (1, 0.25, 1), strict=True):
        desk.reserve(it, cost, turn.mark)
    assert desk.reserve(it).wait == pytest.approx(DAY / 100, abs=5)


def a_turn_in_the_middle_does_not_move_the_others(desk: Desk) -> None:
    """Turns that others wait for stay theirs, whoever gives up before them."""
    it = desk.limiter(100, burst=1)
    desk.ask(it)
    turns = [desk.reserve(it) for _ in range(3)]
    desk.reserve(it, 1, turns[0].mark)
    waits = {round(desk.reserve(it).wait / (DAY / 100)) for _ in range(2)}
    assert waits <= {1, 4, 5}
    assert len(waits) == 2


def keys_and_limits_are_apart(desk: Desk) -> None:
    """Each key has the whole of each limit, over one store too."""
    slow, fast = desk.limiter(3), desk.limiter(5, 3600)
    for key in ("ann", "bob", "", "ключ", "a b\r\n*1", "\ud800", "x" * 65, "x" * 66):
        assert desk.allowed(slow, 5, key) == 3
        assert desk.allowed(fast, 7, key) == 5
    assert desk.allowed(desk.limiter(3), 5) == 0


def other_keys_do_not_let_one_in(desk: Desk) -> None:
    """Whatever comes after it, an exhausted key stays exhausted."""
    it = desk.limiter(10)
    assert desk.allowed(it, 20) == 10
    assert all(desk.ask(it, f"other {n}").allowed for n in range(1_100))
    assert desk.allowed(it, 20) == 0


def this_machines_clocks_do_not_count(desk: Desk) -> None:
    """The time of day, an hour ahead or back, brings nothing and takes nothing."""
    it = desk.limiter(100)
    assert desk.allowed(it, 120) == 100
    true = time.time()
    with pytest.MonkeyPatch.context() as patch:
        for hours in (1, -1):
            patch.setattr(time, "time", lambda hours=hours: true + hours * 3600)
            assert desk.allowed(it, 5) == 0


def any_rate_will_do(desk: Desk) -> None:
    """A unit in a million years and millions a second are counted too."""
    rare, often = desk.limiter(1, 1e14), desk.limiter(1e9, 1)
    assert [desk.ask(rare).allowed for _ in range(2)] == [True, False]
    assert desk.ask(rare).retry_after == pytest.approx(1e14)
    assert desk.ask(often, cost=1e9).available < 1e9
    assert not desk.ask(often, cost=1e9).allowed


CONTRACT = [
    a_burst_is_exact,
    decisions_tell_all,
    a_cost_is_taken_whole_or_not,
    retry_after_is_true,
    turns_are_reserved,
    who_has_no_time_takes_nothing,
    the_last_turn_can_be_given_back,
    a_turn_in_the_middle_does_not_move_the_others,
    keys_and_limits_are_apart,
    other_keys_do_not_let_one_in,
    this_machines_clocks_do_not_count,
    any_rate_will_do,
]


@pytest.mark.parametrize("behaviour", CONTRACT, ids=lambda one: one.__name__)
def test_contract(desk: Desk, behaviour: Callable[[Desk], None]) -> None:
    """Every store does what the contract says, by every client."""
    behaviour(desk)


# --- what only a server can do


def test_the_server_listens_to_this_machine_only(own_valkey: Valkey) -> None:
    """The engine is a real one, and on the loopback."""
    with admin(own_valkey.url) as behind:
        assert behind.config_get("bind") == {"bind": "127.0.0.1"}
        assert behind.info("server")["tcp_port"] == own_valkey.port


def test_a_decision_is_one_round_trip(own: Desk, own_valkey: Valkey) -> None:
    """The server is sent one command a decision, and a wait is no more than that."""
    slept: list[float] = []

    async def asleep(seconds: float) -> None:
        slept.append(seconds)

    it = own.limiter(100, burst=2, sleep=slept.append, asleep=asleep)
    own.ask(it)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(admin(own_valkey.url))
        other.ping()
        monitor = stack.enter_context(
            stack.enter_context(admin(own_valkey.url)).monitor()
        )
        for _ in range(5):
            own.ask(it)
        own.wait(it)
        other.echo("that is all")
        sent = []
        for seen in monitor.listen():
            if "that is all" in seen["command"]:
                break
            if seen["client_type"] != "lua":
                sent.append(seen["command"].split()[0].upper())
    assert sent == ["EVALSHA"] * 6
    assert len(slept) == 1


def test_clients_with_clocks_that_differ(remote: Desk) -> None:
    """Of two clients, one an hour ahead, each gets what the server's clock allows."""
    ours = remote.limiter(10)
    theirs = remote.limiter(10, clock=lambda: time.monotonic() + 3600)
    passed = [remote.allowed(it, tries) for it, tries in ((ours, 5), (theirs, 20))]
    assert passed == [5, 5]
    assert remote.allowed(ours, 20) == 0


def test_scripts_are_flushed(own: Desk, own_valkey: Valkey) -> None:
    """A server that forgets the script is sent it again, and forgets no count."""
    it = own.limiter(10)
    with admin(own_valkey.url) as behind:
        passed = 0
        for _ in range(20):
            behind.script_flush()
            passed += own.ask(it).allowed
    assert passed == 10


@pytest.mark.parametrize(
    ("policy", "passed"), [("allow", 20), ("deny", 0), ("local", 10)]
)
def test_the_server_is_killed_and_comes_back(
    own: Desk,
    own_valkey: Valkey,
    policy: str,
    passed: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without its server a limiter does as it was told, and then uses it again."""
    it = own.limiter(10, when_away=policy, clock=own.clock)
    assert own.allowed(it, 5) == 5
    own_valkey.kill()
    with caplog.at_level(logging.DEBUG, "patterns.rate_limit.limiter"):
        assert own.allowed(it, 20) == passed
        own.clock.now += 1.001
        assert own.ask(it).allowed == (policy == "allow")
    assert len(caplog.records) == 2
    own_valkey.start()
    assert own.ask(it).allowed == (policy == "allow")
    own.clock.now += 1.001
    assert own.allowed(it, 20) == 10  # a server that was killed has forgotten


def test_a_server_that_hangs(own: Desk, own_valkey: Valkey) -> None:
    """A server that does not answer costs one timeout a second, not one a request."""
    import signal

    it = own.limiter(10, when_away="allow", clock=own.clock)
    own.ask(it)
    own_valkey.process.send_signal(signal.SIGSTOP)
    begin = time.perf_counter()
    try:
        assert own.allowed(it, 50) == 50
    finally:
        own_valkey.process.send_signal(signal.SIGCONT)
    assert time.perf_counter() - begin < 5
    own.clock.now += 1.001
    assert own.ask(it).available < 9


@pytest.mark.parametrize(
    "fault",
    [
        "CONFIG SET maxmemory 1",
        "REPLICAOF 127.0.0.1 1",
        "ACL SETUSER default -evalsha -eval",
        "CONFIG SET requirepass hidden",
    ],
)
def test_a_server_that_will_not(
    own: Desk, own_valkey: Valkey, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is full, read only or closed is as good as away, and the log tells."""
    it = own.limiter(10, when_away="deny", clock=own.clock)
    assert own.ask(it).allowed
    with admin(own_valkey.url) as behind:
        behind.execute_command(*fault.split())
        if "requirepass" in fault:
            behind.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            own.allowed(it, 1)  # finds its connection closed
            own.clock.now += 1.001
            caplog.clear()
        assert own.ask(it) == (False, 0, 1.0, 1.0)
    (record,) = caplog.records
    assert "hidden" not in record.getMessage()
    assert "Error" in record.getMessage()


CLUSTER = ("--cluster-enabled", "yes", "--cluster-port", "{port}")


@pytest.mark.parametrize("own_valkey", [CLUSTER], indirect=True)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_cluster(own_valkey: Valkey, how: str) -> None:
    """A key is all that the script touches, so it runs in a cluster as well."""
    import redis.asyncio.cluster
    import redis.cluster

    with admin(own_valkey.url) as behind:
        behind.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        begin = time.perf_counter()
        while behind.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.perf_counter() - begin < 20
    if how == "sync":
        with redis.cluster.RedisCluster.from_url(own_valkey.url) as client:
            desk = Desk(client)
            it = desk.limiter(10)
            assert [desk.allowed(it, 15, f"{n}") for n in range(20)] == [10] * 20
        return
    with asyncio.Runner() as runner:

        async def connect() -> Any:
            return redis.asyncio.cluster.RedisCluster.from_url(own_valkey.url)

        client = runner.run(connect())
        desk = Desk(client, runner)
        it = desk.limiter(10)
        assert [desk.allowed(it, 15, f"{n}") for n in range(20)] == [10] * 20
        runner.run(client.aclose())


def test_memory_of_a_key(own: Desk, own_valkey: Valkey) -> None:
    """A key of a short name takes about 72 bytes, and some more while callers wait."""
    with admin(own_valkey.url) as behind:

        def size() -> int:
            (name,) = behind.keys()
            return int(behind.memory_usage(name))

        for limit, period in ((10, 1), (5_000, 1), (70_000, DAY), (3, 7), (1, 1e9)):
            it = Limiter(limit, period, store=RedisStore(own.client))
            own.ask(it, "k")
            assert size() <= 88
            for _ in range(2):
                own.settle(it._reserve("k", it.burst, math.inf))
            assert size() <= 104
            behind.flushdb()


def test_keys_expire(remote: Desk, behind: Any) -> None:
    """A key lives until it is as good as new, and a refusal does not prolong it."""
    long, short = remote.limiter(100, 50), remote.limiter(1000, 1, burst=20)
    remote.ask(long, cost=60)
    (name,) = remote.names(behind)
    assert 20_000 < behind.pttl(name) <= 30_001
    remote.ask(long, cost=60)
    assert behind.pttl(name) <= 30_001
    remote.ask(short, "other", cost=20)
    begin = time.perf_counter()
    while len(remote.names(behind)) > 1:
        assert time.perf_counter() - begin < 5


def seconds(behind: Any) -> float:
    """Return the time by the server."""
    whole, millionths = behind.time()
    return float(whole) + float(millionths) / 1e6


def test_the_servers_clock_is_set_back(remote: Desk, behind: Any) -> None:
    """A count from a time that is to come freezes the key for a burst at most."""
    it = remote.limiter(10, 1)
    remote.ask(it)
    (name,) = remote.names(behind)
    later = (seconds(behind) + 3600) * 10
    for held in (f"{later + 10:.17g}", f"{later + 500:.17g} 500"):
        behind.set(name, held)
        assert remote.ask(it).available == 9
    a_little = (seconds(behind) + 0.5) * 10
    behind.set(name, f"{a_little + 10:.17g}")
    assert 0 < remote.ask(it).retry_after < 1


def test_those_who_wait_are_no_clock_set_back(remote: Desk) -> None:
    """A long queue is told from a clock that was set back, and is kept."""
    it = remote.limiter(100, burst=1)
    remote.ask(it)
    waits = [remote.reserve(it).wait for _ in range(20)]
    told = remote.ask(it)
    assert told.retry_after == pytest.approx(max(waits) + DAY / 100, abs=5)


@pytest.mark.parametrize(
    "held",
    [
        *("", "nonsense", "nan", "inf", "-inf", "1e999", "1e999 1e999", "0x10", "1,5"),
        *(
            "1.2.3",
            "5 ",
            " 5",
            "1 2 3",
            "\0",
            "9" * 400,
            "1e308",
            "1e308 0",
            "- -",
            "+",
        ),
    ],
    ids=repr,
)
def test_a_value_that_is_none_of_ours(remote: Desk, behind: Any, held: str) -> None:
    """What another program left at the key is written over."""
    it = remote.limiter(10)
    remote.ask(it)
    (name,) = remote.names(behind)
    behind.set(name, held)
    assert remote.allowed(it, 20) == 10


@pytest.mark.parametrize(
    "words", ["RPUSH {} 1", "SADD {} 1", "HSET {} 1 1", "ZADD {} 1 1"]
)
def test_a_key_of_another_type(remote: Desk, behind: Any, words: str) -> None:
    """So is a list, a set, a hash or a sorted set."""
    it = remote.limiter(10)
    remote.ask(it)
    (name,) = remote.names(behind)
    behind.delete(name)
    behind.execute_command(*words.format(name).split())
    assert remote.allowed(it, 20) == 10
    assert 0 < behind.pttl(name) <= DAY * 1000 + 1


def test_tasks_that_are_cancelled(redis_url: str) -> None:
    """Tasks that wait by the server and are cancelled, last first, leave nothing."""
    with desk_over(redis_url, "redis-async-3") as desk:
        it = desk.limiter(100, burst=1)

        async def main() -> Any:
            await it.aacquire(KEY)
            tasks = []
            for n in range(10):
                tasks.append(asyncio.create_task(it.aacquire(KEY)))
                begin = time.perf_counter()
                while True:  # until its turn is taken
                    told = await it.atry_acquire(KEY)
                    if told.retry_after > DAY / 100 * (n + 1.5):
                        break
                    assert time.perf_counter() - begin < 20
            for task in reversed(tasks):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            return await it.atry_acquire(KEY)

        told = desk.settle(main())
    assert told.retry_after == pytest.approx(DAY / 100, abs=5)
