"""Tests of `patterns/webhooks/delivery.py`; they can be copied along with it."""

import asyncio
import gzip
import json
import logging
import math
import selectors
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.webhooks import delivery

URL = "https://hooks.test/in?token=t0ken"
HOUR = 3600.0


def vectors(name):
    """Return the data in `vectors/<name>`, beside this file or above it."""
    places = (folder / "vectors" / name for folder in Path(__file__).parents)
    path = next(place for place in places if place.is_file())
    return json.loads(path.read_text("utf-8"))


class Selector(selectors.SelectSelector):
    """A selector that does not wait: it moves the loop's clock on."""

    now = 0.0

    def select(self, timeout=None):
        """Return what is ready now; if nothing is, let the time pass at once."""
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for nothing"
            self.now += timeout
        return ready


def virtual(main):
    """Run a coroutine on a clock of its own, and return the seconds it took there."""
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
        return selector.now


@dataclass
class Due:
    """A delivery in the store below."""

    message: str
    endpoint: str = "one"
    url: str = URL
    secrets: tuple[str, ...] = ("whsec_s3cret",)
    payload: bytes = b'{"a":1}'
    attempt: int = 1


@dataclass
class Store:
    """A store in memory, on whose clock nothing waits."""

    due: list[Due] = field(default_factory=list)
    health: dict[str, tuple] = field(default_factory=dict)
    settled: list[tuple] = field(default_factory=list)
    held: list[Due] = field(default_factory=list)
    fails: int = 0
    now: float = 1000.0

    def claim(self, limit, lease, *, per_endpoint):
        """Hand out what is due, within the slots."""
        self.trip()
        claims = []
        for each in list(self.due):
            busy = [one for one in self.held if one.endpoint == each.endpoint]
            if len(claims) < limit and len(busy) < per_endpoint:
                self.due.remove(each)
                self.held.append(each)
                claims.append(each)
        return claims

    def settle(self, done, decide):
        """Write down what is decided."""
        self.trip()
        for each, outcome in done:
            health = self.health.get(each.endpoint, (0, None, None))
            step = decide(outcome, each.attempt, health, self.now)
            self.health[each.endpoint] = step.health
            self.settled.append((each.message, outcome, step))
            self.held.remove(each)

    def trip(self):
        """Fail as often as was asked for."""
        if self.fails:
            self.fails -= 1
            raise OSError("the database is away")


def sign(secrets, body, id, timestamp):
    """Return headers that tell what was signed."""
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{len(secrets)}.{len(body)}",
    }


def dispatcher(store, handler, *, client=None, **options):
    """Return a dispatcher over a transport in memory."""
    client = client or httpx.AsyncClient(transport=httpx.MockTransport(handler))
    options = {"threaded": False, "now": lambda: 1234.9, **options}
    return delivery.Dispatcher(store, client, sign, **options)


def once(handler, *due, **options):
    """Deliver once, and return the store and the virtual seconds it took."""
    store = Store(list(due or [Due("msg_1")]))
    took = virtual(dispatcher(store, handler, **options).run_once())
    return store, took


def outcome(handler, **options):
    """Return how one attempt went."""
    store, _ = once(handler, **options)
    ((_, result, _),) = store.settled
    return result


async def hang(request):
    """Never answer."""
    await asyncio.Event().wait()


# -- decisions --------------------------------------------------------------------


def decide(status=503, attempt=1, health=(), *, now=0.0, r=0.5, after=None, **settings):
    """Decide by a policy with settings of its own."""
    seen = delivery.Outcome(status, retry_after=after)
    policy = delivery.Policy(**settings)
    known = delivery.Health(*health)
    return policy.decide(seen, attempt, now, known, random=lambda: r)


def test_table_is_the_machine():
    """Every state is left and reached, and decisions reach what the table says."""
    table = delivery.TRANSITIONS
    assert {state for state, _ in table} == set(table.values())
    decided = {decide(200).state, decide(503).state, decide(503, 10).state}
    reached = {new for (old, _), new in table.items() if old == "sending"}
    assert reached == decided | {"sending", "cancelled"}


def test_ten_steps():
    """The waits are those of Standard Webhooks, and the tenth failure is the last."""
    steps = [decide(attempt=n, now=100.0) for n in range(1, 11)]
    waits = [step.due - 100 for step in steps[:-1]]
    hours = [2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]
    assert waits == pytest.approx([5, 300, 1800, *hours])
    assert [step.state for step in steps] == ["retrying"] * 9 + ["dead"]
    assert steps[-1].due is None
    assert delivery.Policy().schedule[0] == 0


@pytest.mark.parametrize(("r", "wait"), [(0, 240), (0.5, 300), (1, 360)])
def test_jitter_is_a_fifth(r, wait):
    """A wait is up to a fifth shorter or longer."""
    assert decide(attempt=2, r=r).due == pytest.approx(wait)


@given(
    after=st.floats(0, 8 * 86_400),
    attempt=st.integers(1, 12),
    r=st.floats(0, 1),
    failures=st.integers(0, 20),
    until=st.none() | st.floats(0, 2000),
)
def test_never_earlier_than_retry_after(after, attempt, r, failures, until):
    """Neither the delivery nor any other comes before the time that was asked for."""
    health = (failures, 0.0, until)
    step = decide(429, attempt, health, now=1000.0, r=r, after=after)
    if step.state == "retrying":
        assert step.due >= 1000 + after
    assert step.health.open_until is None or step.health.open_until > 0
    if 0 < after <= 7 * 86_400:
        assert step.health.open_until >= 1000 + after
    longest = max(1.2 * 7 * 86_400, 1.2 * 86_400)
    assert step.due is None or 1000 <= step.due <= 1000 + longest


def test_retry_after_that_is_too_long():
    """A delivery that may not be sent for ages is given up, and not sent too early."""
    step = decide(503, after=8 * 86_400.0)
    assert (step.state, step.due) == ("dead", None)
    assert decide(503, after=math.inf).state == "dead"
    assert decide(503, after=math.inf).health.open_until == 7 * 86_400


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_taken(status):
    """All of 2xx says that the endpoint took it, and that it is well."""
    step = decide(status, 3, (4, 1.0, 2.0))
    assert (step.state, step.health) == ("succeeded", (0, None, None))


@pytest.mark.parametrize("status", [300, 301, 307, 400, 404, 413, 429, 500, 502, 504])
def test_not_taken(status):
    """Anything else is a failure that is tried again, a redirect too."""
    step = decide(status)
    assert (step.state, step.reason) == ("retrying", f"status {status}")
    assert step.disable is None


def test_gone_disables():
    """410 says that no webhook is wanted there any more."""
    step = decide(410)
    assert (step.state, step.disable) == ("dead", "gone")


def test_opens_after_failures_in_a_row():
    """The fifth failure in a row leaves the endpoint alone; a success forgets them."""
    health = ()
    for n in range(1, 5):
        health = decide(health=health, now=float(n), r=0).health
        assert health == (n, 1.0, None)
    health = decide(health=health, now=5.0, r=0).health
    assert health == (5, 1.0, 65.0)


def test_probe_that_fails_doubles_the_time():
    """Each probe that fails leaves it alone for twice as long, up to an hour."""
    health, waits = (4, 0.0, None), []
    now = 0.0
    for _ in range(8):
        health = decide(health=health, now=now, r=0).health
        waits.append(health.open_until - now)
        now = health.open_until
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_those_sent_before_it_opened_count_for_nothing():
    """Attempts that were under way when it opened do not open it further."""
    health = decide(health=(4, 0.0, None), r=0).health
    assert decide(health=health, now=30.0, r=0).health == health


def test_disables_after_days_without_a_success():
    """Five days of failures disable, but two failures in a week do not."""
    days = 5 * 86_400.0
    assert decide(health=(9, 0.0, None), now=days - 1).disable is None
    assert decide(health=(9, 0.0, None), now=days).disable == "failing"
    assert decide(health=(1, 0.0, None), now=days).disable is None
    assert decide(health=(4, 0.0, None), now=days, attempt=10).disable == "failing"


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": ()},
        {"schedule": (0, -1)},
        {"schedule": (math.inf,)},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"opens_after": 0},
        {"open_for": math.nan},
        {"disable_after": math.inf},
    ],
)
def test_policy_makes_sense(settings):
    """Numbers that make no sense are refused."""
    with pytest.raises(ValueError, match="finite"):
        delivery.Policy(**settings)


# -- Retry-After ------------------------------------------------------------------


VECTORS = vectors("retry_after.json")


@pytest.mark.parametrize(("value", "wanted"), VECTORS["vectors"])
def test_retry_after_vectors(value, wanted):
    """Seconds, and dates in all three forms; anything else is none."""
    now = datetime.fromisoformat(VECTORS["now"])
    assert delivery.parse_retry_after(value, now=now) == wanted


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d\d Nov \d{4} \d\d:\d\d:\d\d GMT"))
def test_any_retry_after(value):
    """Whatever comes is a time that is not negative, or none."""
    seconds = delivery.parse_retry_after(value, now=datetime(2026, 11, 23, tzinfo=UTC))
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([("retry-after", "120")], 120),
        ([("retry-after", "soon")], None),
        ([("retry-after", "5"), ("retry-after", "7")], 7),
        ([("retry-after", "Thu, 01 Jan 1970 00:21:34 GMT")], 60.1),
        (
            [
                ("date", "Thu, 01 Jan 1970 00:21:04 GMT"),
                ("retry-after", "Thu, 01 Jan 1970 00:21:34 GMT"),
            ],
            30,
        ),
    ],
)
def test_retry_after_of_an_answer(headers, wanted):
    """The longest one counts, and a date is compared with the answer's own."""
    if wanted == 60.1:
        headers = [("retry-after", "Thu, 01 Jan 1970 00:21:35 GMT")]
    seen = outcome(lambda request: httpx.Response(429, headers=headers))
    assert seen.retry_after == (wanted if wanted is None else pytest.approx(wanted))


# -- one attempt ------------------------------------------------------------------


def test_request():
    """The body is sent as it is, signed at the time it is sent, and by whom is told."""
    seen = []

    def handler(request):
        seen.append(request)
        return httpx.Response(204)

    store, _ = once(handler, user_agent="kit/1")
    (request,) = seen
    assert (request.method, str(request.url), request.content) == (
        "POST",
        URL,
        b'{"a":1}',
    )
    wanted = {
        **sign([1], b"1234567", "msg_1", 1234),
        "content-type": "application/json",
        "user-agent": "kit/1",
        "content-length": "7",
        "accept-encoding": "identity",
        "host": "hooks.test",
    }
    assert dict(request.headers) == wanted
    ((_, result, step),) = store.settled
    assert (result, step.state) == ((204, "", "", None), "succeeded")


def test_nothing_of_the_client_is_sent():
    """The client's headers, its auth and its cookies are no endpoint's business."""
    seen = []

    def handler(request):
        seen.append(request.headers)
        return httpx.Response(200, headers={"set-cookie": "a=b; Path=/"})

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(handler),
        headers={"x-internal": "1"},
        auth=("ann", "s3cret"),
        cookies={"session": "1"},
    )
    once(handler, Due("msg_1"), Due("msg_2"), client=client, per_endpoint=1)
    store = Store([Due("msg_3")])
    virtual(dispatcher(store, handler, client=client).run_once())
    assert len(seen) == 2
    for headers in seen:
        assert not {"x-internal", "authorization", "cookie"} & set(headers)
    assert len(client.cookies.jar) == 0


def test_no_redirect_is_followed():
    """A redirect is a failure, whatever the client is set to."""
    seen = []

    def handler(request):
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://169.254.169.254/"})

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(handler), follow_redirects=True
    )
    store, _ = once(handler, client=client)
    assert seen == [URL]
    assert store.settled[0][2].state == "retrying"


class Slow(httpx.AsyncByteStream):
    """A body that drips for ever, and tells that it was closed."""

    closed = False

    async def __aiter__(self):
        while True:
            yield b"x"
            await asyncio.sleep(1)

    async def aclose(self):
        self.closed = True


@pytest.mark.parametrize(("status", "state"), [(500, "retrying"), (200, "succeeded")])
def test_time_is_limited_in_all(status, state):
    """A body that drips holds its place for a second; what was taken stays taken."""
    body = Slow()
    store, took = once(lambda request: httpx.Response(status, stream=body))
    ((_, result, step),) = store.settled
    assert (took, body.closed) == (1, True)
    assert (result.status, result.error, step.state) == (status, "timeout", state)


def test_endpoint_that_hangs():
    """No answer in time is a failure."""
    store, took = once(hang)
    ((_, result, step),) = store.settled
    assert (took, result[:2], step.reason) == (20, (None, "timeout"), "timeout")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (httpx.ReadTimeout("x"), "timeout"),
        (httpx.ConnectError("to t0ken"), "ConnectError"),
        (ValueError("t0ken"), "ValueError"),
    ],
)
def test_error_is_a_name(error, name):
    """Whatever is raised on the way is a failure, of which only the name is kept."""

    def handler(request):
        raise error

    assert outcome(handler) == (None, name, "", None)


@pytest.mark.parametrize("url", ["https://a.test:port", "https://a.test/\n", None])
def test_url_that_became_bad(url):
    """A URL that cannot be sent to is a failure of that delivery alone."""
    store, _ = once(lambda request: httpx.Response(200), Due("a", url=url), Due("b"))
    (_, first, step), (_, second, _) = sorted(store.settled)
    assert (first.status, step.state, second.status) == (None, "retrying", 200)
    assert first.error in ("InvalidURL", "TypeError")


def test_signing_that_fails():
    """A secret that cannot sign fails its own delivery, and nothing is sent."""
    store = Store([Due("msg_1")])
    client = httpx.AsyncClient(transport=httpx.MockTransport(hang))

    def unable(*args):
        raise RuntimeError("s3cret")

    virtual(delivery.Dispatcher(store, client, unable, threaded=False).run_once())
    assert store.settled[0][1] == (None, "RuntimeError", "", None)


class Endless(httpx.AsyncByteStream):
    """A body without an end, which counts what was read of it."""

    read = 0

    async def __aiter__(self):
        while True:
            self.read += 1
            yield b"\x00\xff" * 500


def test_answer_is_cut_short():
    """At most so much is read, less is kept, and it is text without NUL."""
    body = Endless()
    seen = outcome(lambda request: httpx.Response(500, stream=body), max_answer=3000)
    assert body.read == 3
    assert seen.answer == "\ufffd" * 2000


def test_packed_answer_is_not_unpacked():
    """A body that was packed, though none was asked for, is not read."""
    body = gzip.compress(b"0" * 1_000_000)

    class Packed(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield body

    headers = {"content-encoding": "gzip"}
    handler = lambda request: httpx.Response(400, headers=headers, stream=Packed())  # noqa: E731
    assert outcome(handler) == (400, "", "", None)


def test_answer_is_kept():
    """What an endpoint says is kept, for the one who looks for its fault."""
    seen = outcome(lambda request: httpx.Response(400, text="no such tenant: Zoë"))
    assert seen.answer == "no such tenant: Zoë"


def test_log_tells_no_secret(caplog):
    """An attempt is logged by its id, without URL, secrets or answer."""
    caplog.set_level(logging.DEBUG, delivery.__name__)
    outcome(lambda request: httpx.Response(400, text="private"))
    assert caplog.messages == ["webhook msg_1: attempt 1: 400"]


# -- many -------------------------------------------------------------------------


def test_hanging_endpoint_delays_no_other():
    """While one hangs, the others are sent and settled at once."""
    times = {}

    async def handler(request):
        if request.url.host == "slow.test":
            await hang(request)
        return httpx.Response(200)

    class Timed(Store):
        def settle(self, done, decide):
            for each, _ in done:
                times[each.message] = asyncio.get_running_loop().time()
            super().settle(done, decide)

    slow = [Due(f"s{n}", "slow", "https://slow.test") for n in range(20)]
    fast = [Due(f"f{n}", f"e{n}") for n in range(20)]
    store = Timed([*slow, *fast])

    async def main():
        stop = asyncio.Event()
        work = dispatcher(store, handler, concurrency=8, per_endpoint=2)
        running = asyncio.create_task(work.run(stop))
        await asyncio.sleep(19)
        assert len(store.settled) == 20
        assert len(store.held) == 2
        stop.set()
        await running

    assert virtual(main()) == 20
    assert {times[f"f{n}"] for n in range(20)} == {0}
    assert (times["s0"], times["s1"]) == (20, 20)
    assert len(store.due) == 18


def test_concurrency_is_a_limit():
    """Never are more attempts under way than there are slots."""
    now, most = 0, 0

    async def handler(request):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1
        return httpx.Response(200)

    store = Store([Due(f"m{n}", f"e{n % 5}") for n in range(40)])

    async def main():
        stop = asyncio.Event()
        work = dispatcher(store, handler, concurrency=7, per_endpoint=3)
        running = asyncio.create_task(work.run(stop))
        await asyncio.sleep(7.5)
        assert not store.due
        assert not store.held
        stop.set()
        await running

    assert virtual(main()) <= 8
    assert most == 7
    assert len(store.settled) == 40


def test_new_work_is_found_by_asking():
    """A store that had nothing is asked again after `poll`."""
    store = Store()

    async def main():
        stop = asyncio.Event()
        work = dispatcher(store, lambda request: httpx.Response(200), poll=3)
        running = asyncio.create_task(work.run(stop))
        await asyncio.sleep(1)
        store.due.append(Due("late"))
        await asyncio.sleep(1.9)
        assert store.settled == []
        await asyncio.sleep(0.2)
        assert len(store.settled) == 1
        stop.set()
        await running

    assert virtual(main()) == pytest.approx(3.1)


def test_stop_ends_what_is_under_way():
    """Nothing new is claimed, and what was begun is settled."""

    async def handler(request):
        await asyncio.sleep(5)
        return httpx.Response(200)

    store = Store([Due("a"), Due("b"), Due("c")])

    async def main():
        stop = asyncio.Event()
        work = dispatcher(store, handler, per_endpoint=1)
        running = asyncio.create_task(work.run(stop))
        await asyncio.sleep(1)
        stop.set()
        await running

    assert virtual(main()) == 5
    assert [message for message, *_ in store.settled] == ["a"]
    assert len(store.due) == 2


def test_stop_before_the_start():
    """A dispatcher that was stopped before it began claims nothing."""
    store = Store([Due("a")])

    async def main():
        stop = asyncio.Event()
        stop.set()
        await dispatcher(store, hang).run(stop)

    assert virtual(main()) == 0
    assert store.held == []


def test_store_that_fails_is_asked_again(caplog):
    """Outcomes are kept while the store is away, and settled when it is back."""

    async def handler(request):
        store.fails = 3
        return httpx.Response(200)

    store = Store([Due("a")])

    async def main():
        stop = asyncio.Event()
        running = asyncio.create_task(dispatcher(store, handler).run(stop))
        await asyncio.sleep(2.5)
        assert store.settled == []
        await asyncio.sleep(1)
        assert len(store.settled) == 1
        stop.set()
        await running

    virtual(main())
    assert caplog.messages == ["the store failed: OSError"] * 3


def test_store_that_is_away_at_the_end():
    """Stopped, a dispatcher does not wait for a store for ever."""

    async def handler(request):
        store.fails = 10**9
        stop.set()
        return httpx.Response(200)

    store, stop = Store([Due("a")]), asyncio.Event()
    assert virtual(dispatcher(store, handler).run(stop)) <= 1
    assert store.settled == []


def test_run_once_raises_what_the_store_raises():
    """One round tells the caller, and leaves no task behind."""
    store = Store([Due("a"), Due("b", "two", "https://slow.test")])

    async def handler(request):
        if request.url.host == "slow.test":
            await hang(request)
        store.fails = 1
        return httpx.Response(200)

    async def main():
        with pytest.raises(OSError, match="away"):
            await dispatcher(store, handler).run_once()
        assert len(asyncio.all_tasks()) == 1

    virtual(main())


@pytest.mark.parametrize("way", ["run_once", "run"])
def test_cancelled_leaves_it_to_the_leases(way):
    """Cancelled, it settles nothing and ends its attempts."""
    store = Store([Due("a")])

    async def main():
        work = dispatcher(store, hang)
        call = work.run_once() if way == "run_once" else work.run(asyncio.Event())
        task = asyncio.create_task(call)
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    assert virtual(main()) == 1
    assert (store.settled, len(store.held)) == ([], 1)


def test_store_is_called_in_a_thread():
    """A store that blocks does not hold up the loop, unless it was asked to."""
    import threading

    seen = []

    class Threaded(Store):
        def claim(self, *args, **options):
            seen.append(threading.current_thread() is threading.main_thread())
            return super().claim(*args, **options)

    for threaded in (True, False):
        store = Threaded([Due("a")])
        work = dispatcher(store, lambda request: httpx.Response(200), threaded=threaded)
        assert asyncio.run(work.run_once()) == 1
    assert seen == [False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 60},
        {"timeout": 0},
        {"lease": 20},
        {"concurrency": 0},
        {"per_endpoint": 0},
        {"poll": 0},
    ],
)
def test_settings_make_sense(options):
    """A lease must be longer than an attempt, and a limit above nothing."""
    with pytest.raises(ValueError, match=r"lease|concurrency"):
        dispatcher(Store(), hang, **options)


def test_claims_ask_for_lease_and_slots():
    """The store is told the free slots, the lease, and the slots of an endpoint."""
    seen = []

    class Asked(Store):
        def claim(self, limit, lease, *, per_endpoint):
            seen.append((limit, lease, per_endpoint))
            return []

    options = {"concurrency": 9, "lease": 33, "per_endpoint": 2}
    virtual(dispatcher(Asked(), hang, **options).run_once())
    assert seen == [(9, 33, 2)]
