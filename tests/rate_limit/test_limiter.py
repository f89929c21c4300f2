"""Tests of `patterns/rate_limit/limiter.py`; they can be copied along with it."""

import asyncio
import heapq
import itertools
import logging
import math
import pickle
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.rate_limit import limiter

KEY = "ann"


class Clock:
    """A time that passes when it is told to, or when somebody sleeps."""

    def __init__(self, now=1000.0):
        self.now = now
        self.slept = []
        self.sleepers = []
        self.order = itertools.count()

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        entry = (self.now + seconds, next(self.order), future)
        heapq.heappush(self.sleepers, entry)
        await future

    async def pass_until(self, end):
        """Wake who sleeps, one after another, up to a time."""
        await settle()
        while self.sleepers and self.sleepers[0][0] <= end:
            when, _, future = heapq.heappop(self.sleepers)
            if not future.done():
                self.now = max(self.now, when)
                future.set_result(None)
                await settle()
        self.now = max(self.now, end)


async def settle():
    """Let all tasks run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def limit(rate, period=1, clock=None, **options):
    """Return a limiter on a clock of its own, or on a given one."""
    clock = clock or Clock()
    times = {"clock": clock, "sleep": clock.sleep, "asleep": clock.asleep}
    return limiter.Limiter(rate, period, **times, **options)


def allowed(it, tries, key=KEY, cost=1):
    """Return how many of some tries are let pass."""
    return sum(it.try_acquire(key, cost).allowed for _ in range(tries))


# --- decisions


def test_a_burst_and_then_the_rate():
    """A burst is let pass, what is over it is told when to come, and then may."""
    clock = Clock()
    it = limit(10, 1, clock)
    told = [it.try_acquire(KEY) for _ in range(11)]
    assert [one.allowed for one in told] == [True] * 10 + [False]
    assert [one.available for one in told] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert [one.retry_after for one in told] == [0.0] * 10 + [pytest.approx(0.1)]
    assert [one.window for one in told] == [pytest.approx(0.1)] * 11
    clock.now += 0.0999
    assert not it.try_acquire(KEY).allowed
    clock.now += 0.0001
    assert it.try_acquire(KEY).allowed
    clock.now += 1000
    assert allowed(it, 20) == 10


def test_a_decision_is_four_things():
    """A decision can be taken apart, in the order of the contract."""
    allowed, available, retry_after, window = limit(2, 60).try_acquire(KEY)
    assert (allowed, available, retry_after, window) == (True, 1, 0.0, 30.0)
    assert isinstance(available, int)


RATES = [
    *((10, 1), (3, 7), (7, 3), (1, 0.1), (70_000, 86_400), (1_000, 3_600), (1, 86_400)),
    *((0.5, 1), (592, 60), (1_000, 1), (1_000_000, 1)),
]


STARTS = [0.0, 0.3, 86_400.7, 1e6 + 0.1, 1.7e9]


@pytest.mark.parametrize(
    ("rate", "period", "start"),
    # A clock of this century, in seconds, cannot tell millionths of them apart.
    [(*r, start) for r in RATES for start in STARTS if r[0] / r[1] * start < 2e12],
)
def test_no_turn_is_lost_to_rounding(rate, period, start):
    """One in each interval is let pass at its very moment, and none before it."""
    interval = Fraction(period) / Fraction(rate)
    clock = Clock()
    it = limit(rate, period, clock, burst=1)
    for turn in range(300):
        moment = Fraction(start) + turn * interval
        if turn:
            clock.now = float(moment - interval / 100)
            assert not it.try_acquire(KEY).allowed
        clock.now = float(moment)
        assert it.try_acquire(KEY).allowed, turn


def test_ten_a_second_for_three_seconds():
    """A clock that adds up tenths, as a program does, loses no turn either."""
    clock = Clock(0.0)
    it = limit(10, 1, clock, burst=1)
    count = 0
    for _ in range(300):
        count += it.try_acquire(KEY).allowed
        clock.now += 0.01
    assert count == 30


class Bucket:
    """A token bucket in fractions, which is what the limiter has to agree with."""

    def __init__(self, rate, burst):
        self.rate, self.burst, self.level, self.then = rate, burst, burst, 0

    def take(self, now, cost):
        self.level = min(self.burst, self.level + (now - self.then) * self.rate)
        self.then = now
        allowed = self.level >= cost
        self.level -= cost if allowed else 0
        left = math.floor(self.level)
        retry_after = 0 if allowed else (cost - self.level) / self.rate
        return allowed, left, retry_after, (left + 1 - self.level) / self.rate


@given(
    rate=st.integers(1, 10_000),
    period=st.integers(1, 100_000),
    burst=st.integers(1, 50),
    start=st.sampled_from([0, 12_345, 10**7]),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), max_size=60),
)
def test_agrees_with_a_token_bucket(rate, period, burst, start, steps):
    """All four things are those of an exact bucket, at any rate, moment and cost."""
    clock = Clock(float(start))
    it = limit(rate, period, clock, burst=burst)
    bucket = Bucket(Fraction(rate, period), burst)
    now = Fraction(0)
    for eighths, cost in steps:
        now += Fraction(eighths * period, 8 * rate)
        clock.now = float(start + now)
        told = it.try_acquire(KEY, min(cost, burst))
        expected = bucket.take(now, min(cost, burst))
        assert told[:2] == expected[:2]
        close = {"rel": 1e-6, "abs": 1e-7}
        assert told[2:] == pytest.approx(tuple(map(float, expected[2:])), **close)


@given(
    rate=st.floats(0.01, 1e5),
    burst=st.floats(1, 100),
    steps=st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=40
    ),
)
def test_no_span_of_time_brings_more(rate, burst, steps):
    """What is let pass in any span is at most the burst and what the span brings."""
    clock = Clock(0.0)
    it = limit(rate, 1, clock, burst=burst)
    passed = []
    for wait, part in steps:
        clock.now += wait / rate
        if it.try_acquire(KEY, part * burst).allowed:
            passed.append((clock.now, part * burst))
    assert conforms(passed, rate, burst)


def conforms(passed, rate, burst):
    """Tell whether what passed at some times keeps to a limit in every span."""
    passed = sorted(passed)
    for first, (begin, _) in enumerate(passed):
        total = 0.0
        for moment, cost in passed[first:]:
            total += cost
            if total > burst + (moment - begin) * rate + 0.01:
                return False
    return True


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 20),
    waits=st.lists(st.integers(0, 3000), max_size=30),
)
def test_what_is_told_is_true(rate, burst, waits):
    """`available` can be taken and no more, and one more once `window` is over."""
    clock = Clock()
    it = limit(rate, 1, clock, burst=burst)
    for thousandths in waits:
        clock.now += thousandths / 1000 / rate
        told = it.try_acquire(KEY)
    told = it.try_acquire(KEY, 0)
    assert told.allowed
    assert allowed(it, burst + 5) == told.available
    clock.now += told.window - 0.001 / rate
    assert not it.try_acquire(KEY).allowed
    clock.now += 0.001 / rate
    assert it.try_acquire(KEY).allowed


@given(taken=st.integers(0, 20), cost=st.integers(1, 20))
def test_retry_after_is_the_moment(taken, cost):
    """A cost is refused until `retry_after` is over, and allowed then."""
    clock = Clock()
    it = limit(20, 7, clock)
    it.try_acquire(KEY, taken)
    told = it.try_acquire(KEY, cost)
    assert told.allowed == (taken + cost <= 20)
    assert (told.retry_after > 0) == (not told.allowed)
    if not told.allowed:
        clock.now += told.retry_after - 1e-4
        assert not it.try_acquire(KEY, cost).allowed
        clock.now += 1e-4
        assert it.try_acquire(KEY, cost).allowed


def test_refused_takes_nothing():
    """Refused requests do not push the next turn away, and neither does a look."""
    clock = Clock()
    it = limit(10, 1, clock)
    allowed(it, 10)
    for _ in range(50):
        clock.now += 0.001
        assert not it.try_acquire(KEY, 3).allowed
        assert it.try_acquire(KEY, 0).allowed
    clock.now += 0.05
    assert it.try_acquire(KEY).allowed


def test_parts_of_a_unit():
    """Ten tenths are a unit."""
    for start in (0.0, 1234.5, 1e6 + 0.7):
        it = limit(1, 60, Clock(start), burst=1)
        assert allowed(it, 12, cost=0.1) == 10
    it = limit(10, 1, burst=2.5)
    assert it.try_acquire(KEY, 0) == (True, 2, 0.0, pytest.approx(0.05))
    assert allowed(it, 3) == 2


def test_keys_are_apart():
    """Each key has the whole limit."""
    it = limit(3, 60)
    assert [allowed(it, 5, key) for key in ("ann", "bob", "", "Ann")] == [3, 3, 3, 3]


@pytest.mark.parametrize("cost", [-1, -0.001, 11, 10.5, math.inf, -math.inf, math.nan])
def test_costs_that_can_never_be(cost):
    """A cost below 0, or above the burst, is an error and takes nothing."""
    it = limit(10, 1)
    with pytest.raises(ValueError, match="a cost is from 0 to 10, not"):
        it.try_acquire(KEY, cost)
    with pytest.raises(ValueError, match="a cost is from 0 to 10, not"):
        it.acquire(KEY, cost)
    for call in (it.atry_acquire, it.aacquire):
        with pytest.raises(ValueError, match="a cost is from 0 to 10, not"):
            asyncio.run(call(KEY, cost))
    assert allowed(it, 20) == 10


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("name", ["limit", "period", "burst"])
def test_limits_that_are_none(name, bad):
    """A limit, a period and a burst are finite and above 0."""
    with pytest.raises(ValueError, match="finite numbers above 0"):
        limiter.Limiter(**{"limit": 10, "period": 1, name: bad})


def test_what_is_no_number():
    """What is of another type is a fault of the program."""
    with pytest.raises(TypeError):
        limiter.Limiter("10", 1)
    with pytest.raises(TypeError):
        limit(10).try_acquire(KEY, "1")
    with pytest.raises(TypeError):
        limit(10).try_acquire(7)
    with pytest.raises(TypeError):
        limit(10).try_acquire(None)


def test_defaults():
    """The burst is the limit and one at least, and the clock is monotonic."""
    assert [limiter.Limiter(n, 1).burst for n in (10, 1, 0.5, 2.5)] == [10, 1, 1, 2.5]
    it = limiter.Limiter(10, 60, burst=3)
    assert (it.limit, it.period, it.burst) == (10, 60, 3)


def test_the_clock_is_looked_up_when_a_limiter_is_made(monkeypatch):
    """Who replaces the time module's functions for a test has them replaced here."""
    slept, now = [], [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    it = limiter.Limiter(1, 60)
    assert it.try_acquire("k").allowed
    assert not it.try_acquire("k").allowed
    it.acquire("k")
    assert slept == [pytest.approx(60)]
    now[0] += 120
    assert it.try_acquire("k").allowed


def test_cancelled_newcomers_where_there_is_no_room():
    """Who shares a key gives its turn back under that key."""
    clock = Clock(0.0)
    store = limiter.MemoryStore(max_keys=1)
    it = limiter.Limiter(1, 1, store=store, clock=clock)
    it.try_acquire("held")
    reserve = it._reserve
    it.try_acquire("new")
    turns = [reserve("new", 1, math.inf) for _ in range(9)]
    for turn in reversed(turns):
        reserve("new", 1, 0.0, turn.mark)
    assert it.try_acquire("other").retry_after == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 20])
def test_edges_of_a_window(count):
    """Bursts on both sides of a full second are one burst: there are no windows."""
    clock = Clock(999.95)
    it = limit(10, 1, clock)
    passed = allowed(it, 20)
    clock.now += 0.1
    assert passed + allowed(it, 20) == 11


# --- clocks that jump


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_the_time_of_day_is_not_asked(monkeypatch, jump):
    """Setting the clock on the wall changes nothing."""
    it = limiter.Limiter(10, 3600)
    assert allowed(it, 10) == 10
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert allowed(it, 20) == 0


def test_a_clock_set_back_freezes_nothing():
    """Where the clock goes back for an hour, the key starts anew."""
    clock = Clock(7200.0)
    it = limit(10, 1, clock)
    assert allowed(it, 20) == 10
    clock.now += 1.2 - 3600
    assert allowed(it, 20) == 10
    clock.now += 0.5
    assert allowed(it, 20) == 5


def test_a_clock_set_back_a_little():
    """A small step back gives nothing for free, and is made up for in its own time."""
    clock = Clock()
    it = limit(10, 1, clock)
    assert allowed(it, 20) == 10
    for _ in range(100):
        clock.now -= 0.009
        assert allowed(it, 20) == 0
        clock.now += 0.009
    clock.now -= 0.9
    assert allowed(it, 20) == 0
    clock.now += 1.0
    assert allowed(it, 20) == 1


def test_a_clock_set_back_over_those_who_wait():
    """Reservations of a time that never was stand in nobody's way."""
    clock = Clock(7200.0)
    it = limit(10, 1, clock, burst=1)
    marks = [it._reserve(KEY, 1, math.inf) for _ in range(50)]
    clock.now -= 3600
    assert it.try_acquire(KEY).allowed
    it._reserve(KEY, 1, 0.0, marks[20].mark)
    assert it._reserve(KEY, 1, math.inf).wait == pytest.approx(0.1)


# --- many keys


def test_other_keys_do_not_let_an_exhausted_one_in():
    """Whatever number of keys come after it, an exhausted key stays exhausted."""
    it = limit(10, 3600)
    assert allowed(it, 20) == 10
    for n in range(20_000):
        assert it.try_acquire(f"other {n}").allowed
    assert allowed(it, 20) == 0


def test_newcomers_share_where_there_is_no_room():
    """Where all places are taken, newcomers count as one, and nobody else changes."""
    clock = Clock()
    store = limiter.MemoryStore(max_keys=100)
    it = limit(10, 3600, clock, store=store)
    held = [f"held {n}" for n in range(100)]
    assert [allowed(it, 7, key) for key in held] == [7] * 100
    assert sum(allowed(it, 1, f"new {n}") for n in range(10_000)) == 10
    assert [allowed(it, 7, key) for key in held] == [3] * 100
    (table,) = store._tables.values()
    assert len(table._tats) <= 101
    clock.now += 3600
    assert sum(allowed(it, 1, f"new {n}") for n in range(50)) == 50


def test_keys_that_are_done_with_are_forgotten():
    """Keys do not pile up while there is room: those as good as new go."""
    clock = Clock()
    store = limiter.MemoryStore()
    it = limit(10, 1, clock, store=store)
    (table,) = store._tables.values()
    most = 0
    for n in range(50_000):
        clock.now += 0.001
        it.try_acquire(f"{n}")
        most = max(most, len(table._tats))
    assert most <= 2048


@pytest.mark.parametrize("pause", [0.0, 0.01, 2.0])
def test_looking_through_the_keys_is_rare(pause):
    """The looks cost a newcomer the look at a few keys, even where all are in use."""
    clock = Clock()
    store = limiter.MemoryStore(max_keys=2_000)
    it = limit(10, 3600, clock, store=store)
    (table,) = store._tables.values()
    looked, before = 0, table._tats
    for n in range(20_000):
        clock.now += pause
        it.try_acquire(f"{n}")
        if table._tats is not before:
            looked += len(before)
        before = table._tats
    assert looked <= 20_000 * 9


def test_newcomers_do_not_share_while_there_is_room():
    """Keys that come once and are soon done with take no room from those to come."""
    clock = Clock()
    it = limit(1_000, 3600, clock, store=limiter.MemoryStore(max_keys=10_000))
    for n in range(100_000):
        clock.now += 0.004
        assert it.try_acquire(f"{n}").available == 999


def test_room_is_found_when_few_come():
    """Where places are free again, that is found out though hardly anybody comes."""
    clock = Clock()
    it = limit(10, 3600, clock, store=limiter.MemoryStore(max_keys=1_000))
    for n in range(1_000):
        assert allowed(it, 10, f"{n}") == 10
    assert allowed(it, 11, "shares") == 10
    assert allowed(it, 11, "shares too") == 0
    clock.now += 3600
    assert allowed(it, 11, "newcomer") == 10
    assert allowed(it, 11, "another") == 10


def test_long_keys_are_held_as_digests():
    """A key of any length and any characters counts, and is not held as it is."""
    store = limiter.MemoryStore()
    it = limit(2, 60, store=store)
    for key in ("x" * 65, "x" * 66, "y" * 100_000, "\ud800" * 70, "\0", "\ud800"):
        assert allowed(it, 5, key) == 2
    (table,) = store._tables.values()
    assert max(len(key) for key in table._tats) < 100


def test_limiters_over_one_store():
    """Over one store those of one limit count together, and others apart."""
    clock = Clock()
    store = limiter.MemoryStore()
    one = limit(10, 1, clock, store=store)
    same = limit(10, 1, clock, store=store)
    other = limit(1000, 3600, clock, store=store)
    assert allowed(one, 20) == 10
    assert allowed(same, 20) == 0
    assert allowed(other, 1001) == 1000


def test_threads():
    """Eight threads at once get the burst between them, and not one more."""
    it = limiter.Limiter(100, 86_400)
    counts = []
    ready = threading.Barrier(8)

    def work():
        ready.wait()
        counts.append(allowed(it, 200))

    threads = [threading.Thread(target=work) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(counts) == 100


# --- waiting


def test_waits_its_turn():
    """Who asks too early sleeps once, until the turn, and is told so."""
    clock = Clock()
    it = limit(10, 1, clock, burst=2)
    told = [it.acquire(KEY) for _ in range(6)]
    assert clock.slept == pytest.approx([0.1] * 4)
    assert clock.now == pytest.approx(1000.4)
    assert told[0] == (True, 1, 0.0, pytest.approx(0.1))
    assert told[5] == (True, 0, 0.0, pytest.approx(0.1))


def test_turns_are_handed_out_without_waiting():
    """The turns of all who wait are known when they ask, one interval apart."""
    clock = Clock()
    slept = []
    it = limiter.Limiter(10, 1, burst=1, clock=clock, sleep=slept.append)
    for _ in range(1000):
        it.acquire(KEY)
    assert slept == pytest.approx([n / 10 for n in range(1, 1000)])


def test_a_turn_that_is_too_far_off():
    """Beyond `timeout` the wait fails at once, says when to come, and takes nothing."""
    clock = Clock()
    it = limit(10, 1, clock)
    it.acquire(KEY, 10)
    for _ in range(5):
        with pytest.raises(limiter.LimitExceeded) as caught:
            it.acquire(KEY, 3, timeout=0.299)
    assert caught.value.decision == (False, 0, pytest.approx(0.3), pytest.approx(0.1))
    assert clock.slept == []
    it.acquire(KEY, 3, timeout=0.3)
    assert clock.slept == [pytest.approx(0.3)]
    assert pickle.loads(pickle.dumps(caught.value)).decision == caught.value.decision


@pytest.mark.parametrize("rate", RATES)
def test_a_timeout_as_long_as_the_wait(rate):
    """A timeout that is just what was told is long enough."""
    clock = Clock(12_345.678)
    it = limit(*rate, clock, burst=1)
    it.acquire(KEY)
    assert it.acquire(KEY, timeout=it.try_acquire(KEY).retry_after).allowed


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -math.inf, math.nan])
def test_no_patience(timeout):
    """Without any patience there is no wait, and still what is free is had."""
    clock = Clock()
    it = limit(10, 1, clock)
    assert it.acquire(KEY, 10, timeout=timeout).allowed
    with pytest.raises(limiter.LimitExceeded):
        it.acquire(KEY, timeout=timeout)
    assert clock.slept == []


def test_who_waits_is_not_overtaken():
    """While somebody waits for a large cost, small ones are refused or come after."""
    clock = Clock()
    it = limiter.Limiter(10, 1, clock=clock, sleep=lambda seconds: None)
    it.acquire(KEY, 10)
    it.acquire(KEY, 8)
    for tenth in range(1, 9):
        clock.now = 1000 + tenth / 10
        assert not it.try_acquire(KEY).allowed
    assert it.try_acquire(KEY).retry_after == pytest.approx(0.1)


def test_interrupted():
    """A wait that Ctrl-C ends gives its turn back."""
    clock = Clock()

    def interrupt(seconds):
        raise KeyboardInterrupt

    it = limiter.Limiter(10, 1, burst=1, clock=clock, sleep=interrupt)
    it.acquire(KEY)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            it.acquire(KEY)
    clock.now += 0.1
    assert it.try_acquire(KEY).allowed


def together(main):
    """Run a coroutine function of a clock and a limiter: 10 a second, one at once."""
    clock = Clock()
    it = limit(10, 1, clock, burst=1)

    async def run():
        return await main(clock, it)

    return asyncio.run(run())


def test_tasks_come_in_their_order():
    """Tasks go in the order of their asking, each at its turn."""

    async def main(clock, it):
        went = []

        async def one(n, cost):
            told = await it.aacquire(KEY, cost)
            assert told == (True, 0, 0.0, pytest.approx(0.1))
            went.append((n, round(clock.now, 6)))

        costs = [1, 0.5, 1, 0.25, 1]
        tasks = [asyncio.create_task(one(n, cost)) for n, cost in enumerate(costs)]
        await clock.pass_until(1002)
        await asyncio.gather(*tasks)
        assert went == [
            (0, 1000),
            (1, 1000.05),
            (2, 1000.15),
            (3, 1000.175),
            (4, 1000.275),
        ]

    together(main)


def test_a_large_cost_is_not_starved():
    """A large cost has its turn behind those who came before, whoever comes after."""
    clock = Clock()
    it = limit(10, 1, clock, burst=5)

    async def main():
        async def small():
            while clock.now < 1004:
                await it.aacquire(KEY)

        async def large():
            await it.aacquire(KEY, 5)
            return clock.now

        loops = [asyncio.create_task(small()) for _ in range(20)]
        await settle()
        late = asyncio.create_task(large())
        await clock.pass_until(1010)
        await asyncio.gather(*loops)
        return await late

    assert asyncio.run(main()) == pytest.approx(1002.5)


def test_free_turns_need_no_loop():
    """What need not wait does not even yield."""
    it = limit(10, 1)
    with pytest.raises(StopIteration) as stop:
        it.aacquire(KEY).send(None)
    assert stop.value.value.allowed
    with pytest.raises(StopIteration) as stop:
        it.atry_acquire(KEY).send(None)
    assert stop.value.value.available == 8


def test_no_time_for_a_task():
    """A task whose turn is beyond its timeout fails at once."""

    async def main(clock, it):
        await it.aacquire(KEY)
        with pytest.raises(limiter.LimitExceeded):
            await it.aacquire(KEY, timeout=0.05)
        assert not (await it.atry_acquire(KEY)).allowed
        clock.now += 0.1
        assert (await it.atry_acquire(KEY)).allowed

    together(main)


async def waiting(it, count, cost=1):
    """Return tasks that wait for their turns, the first place being taken."""
    assert it.try_acquire(KEY).allowed
    tasks = [asyncio.create_task(it.aacquire(KEY, cost)) for _ in range(count)]
    await settle()
    return tasks


async def cancel(*tasks):
    """Cancel tasks, one after another."""
    for task in tasks:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("backwards", [False, True])
def test_all_are_cancelled(backwards):
    """Tasks that are all cancelled, in whatever order, leave nothing behind."""

    async def main(clock, it):
        tasks = await waiting(it, 100)
        await cancel(*tasks[:: -1 if backwards else 1])
        clock.now += 0.1
        assert it.try_acquire(KEY).allowed
        assert it.try_acquire(KEY).retry_after == pytest.approx(0.1)

    together(main)


def test_the_last_is_cancelled():
    """The last turn, given back, is as if it had never been."""

    async def main(clock, it):
        tasks = await waiting(it, 3)
        await cancel(tasks[2])
        assert it._reserve(KEY, 1, math.inf).wait == pytest.approx(0.3)
        assert it._reserve(KEY, 1, math.inf).wait == pytest.approx(0.4)
        await clock.pass_until(1001)

    together(main)


def test_one_in_the_middle_is_cancelled():
    """A turn given up in the middle is for the next who comes, and only once."""

    async def main(clock, it):
        tasks = await waiting(it, 4)
        await cancel(tasks[1])
        ask = [it._reserve(KEY, 1, math.inf).wait for _ in range(2)]
        assert ask == pytest.approx([0.2, 0.5])
        await clock.pass_until(1000.4)
        assert [task.done() for task in tasks] == [True] * 4
        assert not it.try_acquire(KEY).allowed

    together(main)


def test_a_turn_given_up_is_not_for_a_larger_cost():
    """A turn is for those who ask for no more than it, until its time is over."""

    async def main(clock, it):
        tasks = await waiting(it, 4, cost=0.5)
        await cancel(tasks[1])  # the turn at 1000.1
        assert it._reserve(KEY, 1, math.inf).wait == pytest.approx(0.3)
        assert it._reserve(KEY, 0.25, math.inf).wait == pytest.approx(0.1)
        await cancel(tasks[2])  # the turn at 1000.15
        await clock.pass_until(1000.16)
        assert it._reserve(KEY, 0.25, math.inf).wait == pytest.approx(0.325 - 0.16)
        await clock.pass_until(1001)

    together(main)


def test_a_turn_given_up_is_taken_within_the_timeout():
    """A turn that was given up but is too far off is not taken."""

    async def main(clock, it):
        tasks = await waiting(it, 4)
        await cancel(tasks[2])  # the turn at 1000.3
        assert not it._reserve(KEY, 1, 2.9).allowed
        assert it._reserve(KEY, 1, 3.1).wait == pytest.approx(0.3)

    together(main)


def test_who_give_up_do_not_bring_all_to_a_halt():
    """With twice the load and callers that give up, the limit is still made use of."""

    async def main(clock, it):
        served = []

        async def one():
            await it.aacquire(KEY)
            served.append((clock.now, 1))

        tasks = []
        for n in range(1200):
            await clock.pass_until(1000 + n * 0.05)
            tasks.append(asyncio.create_task(one()))
            await settle()
            if n >= 100 and not tasks[n - 100].done():
                tasks[n - 100].cancel()
        later = [moment for moment, _ in served if moment > 1020]
        assert len(later) > 0.9 * 10 * 40
        assert conforms(served, 10, 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    together(main)


@given(
    burst=st.integers(1, 5),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "ask", "cancel", "pass", "try"]),
            st.integers(0, 9),
        ),
        max_size=60,
    ),
)
def test_turns_conform_whoever_gives_up(burst, steps):
    """Whatever is given back and taken again, those who go keep to the limit."""
    clock = Clock()
    it = limit(1, 1, clock, burst=burst)
    waiting, passed = [], []
    for step, n in steps:
        cost = min(burst, 1 + n % 3)
        if step == "pass":
            clock.now += n / 4
        elif step == "try" and it.try_acquire(KEY, cost).allowed:
            passed.append((clock.now, cost))
        elif step == "ask":
            answer = it._reserve(KEY, cost, math.inf if n % 2 else n)
            if isinstance(answer, limiter.Reservation):
                waiting.append((clock.now + answer.wait, cost, answer.mark))
            elif answer.allowed:
                passed.append((clock.now, cost))
        elif step == "cancel" and waiting:
            turn, cost, mark = waiting.pop(n % len(waiting))
            if turn > clock.now:
                it._reserve(KEY, cost, 0.0, mark)
            else:
                passed.append((turn, cost))
    assert conforms(passed + [(turn, cost) for turn, cost, _ in waiting], 1, burst)


# --- Redis, by a stand-in that does what the script does


class RedisError(Exception):
    """Named as the client's own base."""


class ConnectionError_(RedisError):
    """Derived from it."""


class ValkeyError(Exception):
    """Named as that of the other client."""


class Server:
    """What the script does, in Python, with a clock of the server's own."""

    def __init__(self):
        self.clock, self.held, self.calls, self.fault = Clock(5e8), {}, [], None

    def run(self, keys, args):
        self.calls.append((keys, args))
        if self.fault:
            raise self.fault
        ((key,), (rate, burst, cost, patience)) = keys, map(float, args[:4])
        now = self.clock.now * 1e6 * rate
        tat = self.held.get(key, now)
        turn = max(tat, now) + cost
        excess = turn - now - burst
        if args[4]:
            if float(args[4]) == tat:
                self.held[key] = tat - cost
        elif cost and excess <= patience:
            self.held[key] = turn
        return [repr(turn).encode(), repr(excess).encode()]

    def client(self, kind):
        return Client(self, kind)


class Client:
    """The one method that is asked of a client, blocking or async."""

    def __init__(self, server, kind):
        self.server, self.kind = server, kind

    def register_script(self, text):
        assert "redis.call('TIME')" in text

        class Script:
            def __call__(_, keys, args):
                return self.server.run(keys, args)

        class AsyncScript:
            async def __call__(_, keys, args):
                await asyncio.sleep(0)
                return self.server.run(keys, args)

        return AsyncScript() if self.kind == "async" else Script()


class Remote:
    """A limiter over the stand-in, asked in the way that its client needs."""

    def __init__(self, kind, rate=10, period=1, when_away=None, server=None, **options):
        self.kind, self.server, self.clock = kind, server or Server(), Clock()
        policy = {"when_away": when_away} if when_away else {}
        store = limiter.RedisStore(self.server.client(kind), **policy)
        self.limiter = limit(rate, period, self.clock, store=store, **options)

    def ask(self, key=KEY, cost=1):
        if self.kind == "async":
            return asyncio.run(self.limiter.atry_acquire(key, cost))
        return self.limiter.try_acquire(key, cost)

    def wait(self, cost=1, **options):
        if self.kind == "async":

            async def main():
                task = asyncio.create_task(self.limiter.aacquire(KEY, cost, **options))
                await self.clock.pass_until(self.clock.now)
                while not task.done():
                    await self.clock.pass_until(self.clock.sleepers[0][0])
                return await task

            return asyncio.run(main())
        return self.limiter.acquire(KEY, cost, **options)

    def allowed(self, tries):
        return sum(self.ask().allowed for _ in range(tries))


@pytest.fixture(params=["sync", "async"])
def kind(request):
    """Return both kinds of client in turn."""
    return request.param


def test_a_decision_is_one_call(kind):
    """Each decision runs the script once, on one key, with numbers that are exact."""
    it = Remote(kind, 70_000, 86_400, burst=2)
    assert it.ask("ann", 1.5) == (True, 0, 0.0, pytest.approx(0.5 * 86_400 / 70_000))
    (((key,), args),) = it.server.calls
    assert key == b"limit:0.810185185/2:ann"
    assert [float(arg) for arg in args[:3]] == [70_000 / 86_400 / 1e6, 2, 1.5]
    assert args[4] == ""
    told = it.ask()
    assert not told.allowed
    assert told.retry_after == told.window == pytest.approx(0.5 * 86_400 / 70_000)
    assert len(it.server.calls) == 2


def test_the_clock_is_the_servers(kind):
    """What this machine takes the time to be does not count."""
    it = Remote(kind)
    assert it.allowed(20) == 10
    it.clock.now += 3600
    assert it.allowed(20) == 0
    it.server.clock.now += 0.5
    assert it.allowed(20) == 5


def test_any_key(kind):
    """A key of any length and any characters becomes a name of bounded length."""
    it = Remote(kind, 2, 60)
    for key in ("x" * 65, "x" * 66, "\ud800", "\ud800" * 70, "ключ", "a:b", ""):
        assert [it.ask(key).allowed for _ in range(3)] == [True, True, False]
    assert max(len(key) for ((key,), _) in it.server.calls) < 110


def test_limits_over_one_server(kind):
    """Over one server those of one limit count together, and others apart."""
    it = Remote(kind)
    same = Remote(kind, 600, 60, server=it.server, burst=10)
    other = Remote(kind, 1000, 3600, server=it.server)
    assert it.allowed(20) == 10
    assert same.allowed(20) == 0
    assert other.allowed(20) == 20


def test_waits_by_the_server(kind):
    """A wait is a reservation of the server's, and one call."""
    it = Remote(kind, burst=1)
    assert it.wait().allowed
    assert it.wait() == (True, 0, 0.0, pytest.approx(0.1))
    assert len(it.server.calls) == 2
    with pytest.raises(limiter.LimitExceeded):
        it.wait(timeout=0.1)


def test_gives_back_to_the_server(kind):
    """A wait that is broken off gives its turn back to the server."""
    it = Remote(kind, burst=1)
    it.wait()
    held = dict(it.server.held)

    def interrupt(seconds):
        raise KeyboardInterrupt

    async def main():
        task = asyncio.create_task(it.limiter.aacquire(KEY))
        await settle()
        assert it.server.held != held
        await cancel(task)

    if kind == "async":
        asyncio.run(main())
    else:
        it.limiter._sleep = interrupt
        with pytest.raises(KeyboardInterrupt):
            it.limiter.acquire(KEY)
    assert it.server.held == held


@pytest.mark.filterwarnings("error")
def test_an_async_store_is_not_asked_in_passing():
    """Asking an async store without awaiting is an error that says what to do."""
    it = Remote("async").limiter
    for call in (it.try_acquire, it.acquire):
        with pytest.raises(TypeError, match="use atry_acquire and aacquire"):
            call(KEY)


FAULTS = [
    *(
        OSError("redis://:s3cret@host"),
        TimeoutError("s3cret"),
        ConnectionError_("s3cret"),
    ),
    *(RedisError("s3cret"), ValkeyError("s3cret")),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize(
    ("policy", "passed"), [("allow", 20), ("deny", 0), ("local", 10), (None, 10)]
)
def test_a_server_that_is_away(kind, policy, passed, fault, caplog):
    """Without its server a limiter does as it was told, and says so without secrets."""
    it = Remote(kind, 10, 60, when_away=policy)
    it.server.fault = fault
    with caplog.at_level(logging.DEBUG, limiter.__name__):
        assert it.allowed(20) == passed
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (policy or "local") in record.getMessage()
    assert type(fault).__name__ in record.getMessage()
    assert "s3cret" not in caplog.text


def test_what_is_told_without_a_server(kind):
    """The answers are sound: a refusal has a time, and what is let pass has a quota."""
    for policy, told in (
        ("allow", (True, 9, 0.0, pytest.approx(6.0))),
        ("local", (True, 9, 0.0, pytest.approx(6.0))),
        ("deny", (False, 0, 1.0, 1.0)),
    ):
        it = Remote(kind, 10, 60, when_away=policy)
        it.server.fault = OSError()
        assert it.ask() == told


def test_waiting_without_a_server(kind):
    """Who waits is let go, waits in this process, or is told that there is no turn."""
    it = Remote(kind, burst=1, when_away="allow")
    it.server.fault = OSError()
    assert [it.wait().allowed for _ in range(3)] == [True] * 3
    assert it.clock.slept == []
    it = Remote(kind, burst=1, when_away="local")
    it.server.fault = OSError()
    it.wait()
    assert not it.ask().allowed
    assert it.wait().allowed
    it = Remote(kind, when_away="deny")
    it.server.fault = OSError()
    with pytest.raises(limiter.LimitExceeded, match=r"retry_after=1\.0"):
        it.wait()


@pytest.mark.parametrize("policy", ["allow", "deny", "local"])
def test_a_turn_given_up_while_the_server_is_away(kind, policy):
    """Giving a turn back never fails, and never takes one."""
    it = Remote(kind, burst=1, when_away=policy)
    it.wait()
    turn = it.limiter._reserve(KEY, 1, math.inf)
    turn = asyncio.run(awaited(turn)) if kind == "async" else turn
    it.server.fault = OSError()
    given = it.limiter._reserve(KEY, 1, 0.0, turn.mark)
    if kind == "async":
        asyncio.run(awaited(given))
    assert it.ask().allowed == (policy != "deny")


async def awaited(value):
    """Await what is to be awaited."""
    return await value


def test_the_server_is_left_alone_for_a_second(kind):
    """After a fault one call a second tries the server, and then it is used again."""
    it = Remote(kind, 10, 60, when_away="allow")
    it.server.fault = OSError()
    for _ in range(50):
        it.ask()
    assert len(it.server.calls) == 1
    it.clock.now += 1.001
    for _ in range(50):
        it.ask()
    assert len(it.server.calls) == 2
    it.server.fault = None
    it.clock.now += 1.001
    assert it.allowed(20) == 10
    it.server.fault = OSError()
    assert it.allowed(20) == 20


def test_one_tries_and_the_others_do_not_wait():
    """While one call finds out whether the server is back, the others go on without."""
    it = Remote("async", 10, 60, when_away="deny")
    it.server.fault = OSError()
    it.ask()
    it.server.fault = None
    it.clock.now += 1.001

    async def main():
        asked = [it.limiter.atry_acquire(KEY) for _ in range(5)]
        return [told.allowed for told in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == [True, False, False, False, False]
    assert it.allowed(20) == 9


def test_a_pause_ends_though_the_clock_goes_back(kind):
    """A clock that is set back does not make the pause longer."""
    it = Remote(kind, when_away="deny")
    it.server.fault = OSError()
    assert it.allowed(2) == 0
    it.server.fault = None
    it.clock.now -= 3600
    assert it.allowed(20) == 10


@pytest.mark.parametrize(
    "fault", [TypeError("bug"), ValueError("bug"), KeyError("bug")]
)
def test_faults_of_the_program_pass(kind, fault, caplog):
    """An error that is no sign of a server's absence is not covered up."""
    it = Remote(kind, when_away="allow")
    it.server.fault = fault
    with pytest.raises(type(fault), match="bug"):
        it.ask()
    assert caplog.records == []


def test_a_policy_has_a_name():
    """A policy that is none is refused when the store is set up."""
    for policy in ("denny", "", None, True):
        with pytest.raises(ValueError, match="local, allow or deny"):
            limiter.RedisStore(Server().client("sync"), when_away=policy)


def test_a_prefix():
    """Keys are named as they are told to be."""
    server = Server()
    store = limiter.RedisStore(server.client("sync"), prefix="app:")
    limit(10, 1, store=store).try_acquire(KEY)
    assert list(server.held) == [b"app:10/10:ann"]


def test_a_store_of_ones_own():
    """A store is anything with an `open` that returns what reserves."""

    class Full:
        def open(self, rate, burst, clock):
            assert (rate, burst) == (10.0, 5)
            return lambda key, cost, patience: limiter.Decision(False, 0, 1.0, 1.0)

    it = limit(10, 1, burst=5, store=Full())
    assert not it.try_acquire(KEY).allowed


# --- the pure functions


def test_gcra():
    """A key that rests is level with now, and one that does not is ahead of it."""
    assert limiter.gcra(5.0, 9.0, 2) == 11.0
    assert limiter.gcra(9.0, 5.0, 2) == 11.0


def test_decide():
    """What is told follows from the excess alone."""
    assert limiter.decide(-2.5, 1, 1.0) == (True, 2, 0.0, 0.5)
    assert limiter.decide(0.0, 1, 4.0) == (True, 0, 0.0, 0.25)
    assert limiter.decide(0.5, 3, 1.0) == (False, 2, 0.5, 0.5)
    assert limiter.decide(7.0, 3, 1.0) == (False, 0, 7.0, 5.0)
