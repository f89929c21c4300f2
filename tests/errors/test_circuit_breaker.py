"""Tests of `patterns/errors/circuit_breaker.py`; they can be copied along with it."""

import asyncio
import itertools
import logging
import pickle
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.errors import circuit_breaker

URL = "https://ann:s3cret@api.test/t0ken?key=k3y"
both = pytest.mark.parametrize("kind", ["sync", "async"])


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def make(clock=None, **settings):
    """Return a breaker that four calls can open, and its clock."""
    clock = clock or Clock()
    settings = {"minimum_number_of_calls": 4, **settings}
    return circuit_breaker.CircuitBreaker(clock=clock, **settings), clock


def report(breaker, *outcomes):
    """Let calls pass and report their outcomes."""
    for success in outcomes:
        breaker.acquire().settle(success)


def opened(**settings):
    """Return a breaker that has just opened, and its clock."""
    breaker, clock = make(**settings)
    report(breaker, *[False] * 4)
    return breaker, clock


def refused(breaker):
    """Return the seconds that a refusal tells, or None if a call may pass."""
    try:
        breaker.acquire()
    except circuit_breaker.CircuitOpenError as error:
        return error.retry_after
    return None


# -- the states -------------------------------------------------------------------


def test_table_is_the_machine():
    """Each state can be left and reached, and no two transitions say the same."""
    states = {"closed", "open", "half_open"}
    table = circuit_breaker.TRANSITIONS
    assert {state for state, _ in table} == set(table.values()) == states
    assert len({event for _, event in table}) == len(table) == 4


def test_whole_round():
    """Closed, open after failures, half open after the wait, closed after a probe."""
    seen = []
    breaker, clock = make(on_transition=lambda b, old, new: seen.append((old, new)))
    report(breaker, *[False] * 4)
    assert breaker.state == "open"
    clock.now += 5
    assert breaker.state == "half_open"
    report(breaker, True)
    assert breaker.state == "closed"
    assert seen == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert set(seen) | {("half_open", "open")} == {
        (old, new) for (old, _), new in circuit_breaker.TRANSITIONS.items()
    }


def test_few_calls_are_no_rate():
    """Below the minimum of calls nothing opens it, though all of them fail."""
    breaker, _ = make()
    report(breaker, False, False, False)
    assert (breaker.state, breaker.failure_rate) == ("closed", None)
    report(breaker, False)
    assert breaker.state == "open"


def test_alternating_failures_open_it():
    """Half of the calls fail, never two in a row: a count of those would not see it."""
    breaker, _ = make(minimum_number_of_calls=10)
    passed = 0
    for n in range(1000):
        if refused_or_reported(breaker, success=n % 2 == 0):
            break
        passed += 1
    assert passed == 10


def refused_or_reported(breaker, success):
    try:
        breaker.acquire().settle(success)
    except circuit_breaker.CircuitOpenError:
        return True
    return False


def test_rate_below_the_threshold():
    """Three failures of ten are under a half, and five are not."""
    breaker, _ = make(minimum_number_of_calls=10)
    report(breaker, *[False] * 4, *[True] * 6)
    assert (breaker.state, breaker.failure_rate) == ("closed", 0.4)
    report(breaker, False, False)
    assert breaker.state == "open"


def test_window_slides():
    """Failures older than the window do not count with those of now."""
    breaker, clock = make()
    report(breaker, False, False, False)
    clock.now += 10
    report(breaker, False)
    assert (breaker.state, breaker.failure_rate) == ("closed", None)
    clock.now += 5
    report(breaker, False, False, False)
    assert breaker.state == "open"


def test_open_refuses_and_tells_how_long():
    """While it is open no call passes, and the error says when one may."""
    breaker, clock = opened(name="the shop")
    clock.now += 2
    with pytest.raises(circuit_breaker.CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == 3
    told = "the circuit of the shop is open; a probe may pass in 3 s"
    assert str(caught.value) == told
    clock.now += 2.999
    assert refused(breaker) > 0
    clock.now += 0.001
    assert refused(breaker) is None


def test_refusal_always_tells_some_wait():
    """However the wait is rounded, a call either passes or is told more than 0."""
    breaker, clock = opened(wait_duration_in_open_state=0.1)
    start = clock.now
    for n in range(1, 200):
        clock.now = start + n / 1000
        wait = refused(breaker)
        if wait is None:
            break
        assert wait > 0
    assert clock.now == pytest.approx(start + 0.1)


# -- half open --------------------------------------------------------------------


def test_one_probe():
    """Half open, one call passes and the others are refused until it reports."""
    breaker, clock = opened()
    clock.now += 5
    probe = breaker.acquire()
    assert [refused(breaker) for _ in range(19)] == [30.0] * 19
    probe.settle(True)
    assert breaker.state == "closed"
    assert refused(breaker) is None


def test_probe_that_fails_opens_it_again():
    """A failed probe begins a new wait."""
    breaker, clock = opened()
    clock.now += 5
    report(breaker, False)
    assert breaker.state == "open"
    assert refused(breaker) == 5


def test_probe_that_is_cancelled_frees_its_place():
    """A cancelled probe decides nothing, and the next call is the probe."""
    breaker, clock = opened()
    clock.now += 5
    report(breaker, None)
    assert breaker.state == "half_open"
    report(breaker, True)
    assert breaker.state == "closed"


def test_probe_that_never_reports_loses_its_lease():
    """A stuck probe holds the breaker for its lease and no longer."""
    breaker, clock = opened(probe_lease=30)
    clock.now += 5
    stuck = breaker.acquire()
    clock.now += 29
    assert refused(breaker) == 1
    clock.now += 1
    report(breaker, True)
    assert breaker.state == "closed"
    stuck.settle(False)  # too late to say anything
    assert breaker.state == "closed"
    assert breaker.failure_rate is None


def test_probe_given_up_does_not_count_beside_another():
    """The report of a probe whose lease another has is ignored."""
    breaker, clock = opened(probe_lease=30)
    clock.now += 5
    stuck = breaker.acquire()
    clock.now += 30
    breaker.acquire()
    stuck.settle(False)
    assert breaker.state == "half_open"


def test_several_probes():
    """With three permitted calls, three pass, and all three must succeed."""
    breaker, clock = opened(permitted_calls_in_half_open=3)
    clock.now += 5
    probes = [breaker.acquire() for _ in range(3)]
    assert refused(breaker) == 30
    probes[0].settle(True)
    assert refused(breaker) == 30  # of three probes one is over and two are out
    probes[1].settle(True)
    assert breaker.state == "half_open"
    probes[2].settle(True)
    assert breaker.state == "closed"


def test_report_of_an_earlier_period():
    """A call that began before the breaker opened is no probe, and counts no more."""
    breaker, clock = make()
    late = [breaker.acquire() for _ in range(6)]
    report(breaker, *[False] * 4)
    late[0].settle(True)
    assert breaker.state == "open"
    clock.now += 5
    probe = breaker.acquire()
    late[1].settle(False)
    assert breaker.state == "half_open"
    probe.settle(True)
    for permit in late[2:]:
        permit.settle(False)
    assert breaker.state == "closed"


# -- permits ----------------------------------------------------------------------


def test_permit_as_a_context():
    """Without an error it succeeds, an Exception fails, a cancellation is neither."""
    breaker, _ = make()
    with breaker.acquire():
        pass
    with pytest.raises(ValueError, match="x"), breaker.acquire():
        raise ValueError("x")
    for error in (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), breaker.acquire():
            raise error
    report(breaker, True, True)
    assert breaker.failure_rate == 0.25


def test_permit_counts_once():
    """What is reported a second time counts for nothing."""
    breaker, _ = make()
    permit = breaker.acquire()
    for _ in range(10):
        permit.settle(False)
    assert breaker.state == "closed"


# -- clocks -----------------------------------------------------------------------


@pytest.mark.parametrize("back", [1, 3600])
def test_clock_set_back_while_open(back):
    """The wait begins anew, and ends: the breaker is not frozen for an hour."""
    breaker, clock = opened()
    clock.now -= back
    assert refused(breaker) == 5
    clock.now += 5
    assert breaker.state == "half_open"


def test_clock_set_back_while_half_open():
    """A probe's lease is none of the future's."""
    breaker, clock = opened()
    clock.now += 5
    breaker.acquire()
    clock.now -= 3600
    assert refused(breaker) is None


def test_clock_set_back_while_closed():
    """What was counted in a future is dropped, and counting goes on."""
    breaker, clock = make()
    report(breaker, False, False, False)
    clock.now -= 3600
    report(breaker, False, False, False)
    assert (breaker.state, breaker.failure_rate) == ("closed", None)
    report(breaker, False)
    assert breaker.state == "open"


def test_clock_that_trembles():
    """A clock that goes to and fro within the window loses no call, and no memory."""
    breaker, clock = make(minimum_number_of_calls=1000)
    for n in range(999):
        clock.now = 1000.0 + 3 * (n % 2)
        report(breaker, False)
    assert len(breaker._window.buckets) <= 10
    assert breaker._window.calls == 999


@given(
    st.lists(
        st.tuples(st.sampled_from([True, False, None]), st.floats(-20, 20)),
        max_size=100,
    )
)
def test_window_counts_right(steps):
    """Whatever time does, failures are at most the calls, and no bucket is lost."""
    breaker, clock = make(minimum_number_of_calls=1000)
    for success, move in steps:
        clock.now += move
        report(breaker, success)
        window = breaker._window
        assert 0 <= window.failures <= window.calls
        assert window.calls == sum(calls for _, calls, _ in window.buckets)
        assert len(window.buckets) <= 10


@given(
    st.lists(
        st.sampled_from(["call", "ok", "fail", "cancel", "tick", "back"]), max_size=80
    )
)
def test_machine_holds_its_promises(steps):
    """Only transitions of the table happen, and half open never has two probes."""
    moves, clock = [], Clock()
    breaker, clock = make(clock, on_transition=lambda _, *move: moves.append(move))
    flying, waits = [], []
    for step in steps:
        if step == "call":
            try:
                flying.append(breaker.acquire())
            except circuit_breaker.CircuitOpenError as error:
                waits.append(error.retry_after)
            assert len(breaker._leases) <= 1
        elif step in ("tick", "back"):
            clock.now += 3 if step == "tick" else -7
        elif flying:
            outcome = {"ok": True, "fail": False, "cancel": None}[step]
            flying.pop(0).settle(outcome)
    allowed = {(old, new) for (old, _), new in circuit_breaker.TRANSITIONS.items()}
    assert set(moves) <= allowed
    assert all(one[1] == two[0] for one, two in itertools.pairwise(moves))
    assert all(0 < wait <= 30 for wait in waits)


# -- settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_rate_threshold": 0},
        {"failure_rate_threshold": 1.1},
        {"minimum_number_of_calls": 0},
        {"permitted_calls_in_half_open": 0},
        {"sliding_window_seconds": 0},
        {"wait_duration_in_open_state": float("inf")},
        {"probe_lease": float("nan")},
    ],
)
def test_settings_that_make_no_sense(wrong):
    """A wrong number is refused where the breaker is made."""
    with pytest.raises(ValueError, match=r"\w"):
        circuit_breaker.CircuitBreaker(**wrong)


def test_like():
    """A breaker like another has its settings, and nothing of its state."""
    model, _ = opened(wait_duration_in_open_state=7)
    other = model.like("b")
    assert (other.state, other.name, model.name) == ("closed", "b", "")
    report(other, *[False] * 4)
    assert refused(other) == 7
    assert other._lock is not model._lock


# -- the transport ----------------------------------------------------------------


class Server:
    """A transport that answers by a script, and counts who comes."""

    def __init__(self, *script):
        self.script, self.count, self.closed = list(script), 0, False

    def answer(self):
        step = self.script[min(self.count, len(self.script) - 1)]
        self.count += 1
        if isinstance(step, BaseException):
            raise step
        return httpx.Response(step)

    def handle_request(self, request):
        return self.answer()

    async def handle_async_request(self, request):
        await asyncio.sleep(0)
        return self.answer()

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


def calls(kind, server, count, clock=None, url=URL, transport=None, **settings):
    """Send calls one after another; return what came of each, and the transport."""
    if transport is None:
        model, clock = make(clock, **settings)
        transport = circuit_breaker.CircuitBreakerTransport(server, model)
    outcomes = []
    if kind == "sync":
        client = httpx.Client(transport=transport)
        for _ in range(count):
            try:
                outcomes.append(client.get(url).status_code)
            except BaseException as exc:
                outcomes.append(exc)
        return outcomes, transport

    async def main():
        client = httpx.AsyncClient(transport=transport)
        for _ in range(count):
            try:
                outcomes.append((await client.get(url)).status_code)
            except BaseException as exc:
                outcomes.append(exc)

    asyncio.run(main())
    return outcomes, transport


@both
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_statuses_that_fail(kind, status):
    """Answers of a failing server count without being raised; then none is asked."""
    server = Server(status)
    outcomes, _ = calls(kind, server, 10)
    assert outcomes[:4] == [status] * 4
    assert {type(o) for o in outcomes[4:]} == {circuit_breaker.CircuitOpenError}
    assert server.count == 4


@both
@pytest.mark.parametrize("status", [200, 301, 400, 404, 429, 501, 505])
def test_statuses_that_do_not_fail(kind, status):
    """An answer that is the caller's fault, or says no for good, opens nothing."""
    server = Server(status)
    calls(kind, server, 10)
    assert server.count == 10


@both
@pytest.mark.parametrize(
    "error", ["ConnectError", "ReadTimeout", "RemoteProtocolError", "ProxyError"]
)
def test_errors_that_fail(kind, error):
    """Timeouts and broken connections count as failures, and are raised as they are."""
    server = Server(getattr(httpx, error)("no"))
    outcomes, _ = calls(kind, server, 10)
    assert type(outcomes[0]).__name__ == error
    assert server.count == 4


@both
@pytest.mark.parametrize(
    "error",
    [
        httpx.PoolTimeout("no"),
        httpx.UnsupportedProtocol("no"),
        httpx.LocalProtocolError("no"),
        ValueError("no"),
        circuit_breaker.CircuitOpenError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_say_nothing_of_the_service(kind, error):
    """The caller's own errors, and a refusal from below, count for nothing."""
    server = Server(error)
    outcomes, transport = calls(kind, server, 10)
    assert outcomes == [error] * 10
    assert transport.breaker(URL).failure_rate is None


def test_twenty_callers_and_one_probe():
    """Of twenty tasks that meet a half-open breaker one reaches the server."""
    server, clock = Server(503, 503, 503, 503, 200), Clock()
    _, transport = calls("sync", server, 4, clock)
    clock.now += 5

    async def main():
        client = httpx.AsyncClient(transport=transport)
        tasks = [client.get(URL) for _ in range(20)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert server.count == 5
    assert sum(isinstance(o, httpx.Response) for o in outcomes) == 1
    refusals = [o for o in outcomes if isinstance(o, httpx.TransportError)]
    assert {type(o) for o in refusals} == {circuit_breaker.CircuitOpenError}
    assert len(refusals) == 19
    assert transport.breaker(URL).state == "closed"


def test_twenty_threads_and_one_probe():
    """The same with threads; and no lock is held while a call is under way."""
    clock, inside, go = Clock(), threading.Semaphore(0), threading.Event()
    server = Server(503)
    _, transport = calls("sync", server, 4, clock)
    clock.now += 5
    outcomes = []

    def slow(request):
        inside.release()
        assert go.wait(10)
        return httpx.Response(200)

    server.handle_request = slow

    def work():
        try:
            outcomes.append(transport.handle_request(httpx.Request("GET", URL)))
        except circuit_breaker.CircuitOpenError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=10)
    while len(outcomes) < 19:  # the others are through before the probe is
        threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert sum(isinstance(o, httpx.Response) for o in outcomes) == 1
    assert not inside.acquire(blocking=False)


def test_calls_in_threads_do_not_wait_for_each_other():
    """Eight calls through a closed breaker are under way at the same time."""
    model, _ = make()
    together = threading.Barrier(8)

    class Meeting:
        def handle_request(self, request):
            together.wait(10)
            return httpx.Response(200)

    transport = circuit_breaker.CircuitBreakerTransport(Meeting(), model)
    request = httpx.Request("GET", URL)
    threads = [
        threading.Thread(target=transport.handle_request, args=[request])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    assert transport.breaker(URL)._window.calls == 8


def test_cancelled_calls_open_nothing():
    """Callers that lose patience with a healthy service are no failures of it."""

    class Slow:
        async def handle_async_request(self, request):
            await asyncio.sleep(3600)

    model, _ = make()
    transport = circuit_breaker.CircuitBreakerTransport(Slow(), model)

    async def main():
        client = httpx.AsyncClient(transport=transport)
        for _ in range(10):
            task = asyncio.ensure_future(client.get(URL))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    asyncio.run(main())
    breaker = transport.breaker(URL)
    assert (breaker.state, breaker._window.calls) == ("closed", 0)


def test_cancelled_probe_leaves_the_next_call_to_probe():
    """A probe whose task is cancelled does not hold the breaker for its lease."""
    server, clock = Server(503), Clock()
    _, transport = calls("sync", server, 4, clock)
    clock.now += 5

    async def main():
        client = httpx.AsyncClient(transport=transport)
        task = asyncio.ensure_future(client.get(URL))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.script = [200]
        return (await client.get(URL)).status_code

    assert asyncio.run(main()) == 200
    assert transport.breaker(URL).state == "closed"


@both
def test_each_origin_has_its_own(kind):
    """One origin's failures do not keep another from being asked."""
    server = Server(503)
    _, transport = calls(kind, server, 5)
    others = ["http://api.test", "https://api.test:8443", "https://www.api.test"]
    for url in [*others, "https://[::1]/"]:
        outcomes, _ = calls(kind, server, 1, url=url, transport=transport)
        assert outcomes == [503]
    same, _ = calls(kind, server, 1, url="https://API.test:443/x", transport=transport)
    assert isinstance(same[0], circuit_breaker.CircuitOpenError)
    assert transport.breaker("https://[::1]").name == "https://[::1]"


@both
def test_refusal_has_its_request_and_no_secret(kind, caplog):
    """The error knows the request; its words and the log know only the origin."""
    caplog.set_level(logging.DEBUG, logger=circuit_breaker.__name__)
    outcomes, _ = calls(kind, Server(503), 5)
    error = outcomes[-1]
    assert error.request.url.path == "/t0ken"
    assert str(error).startswith("the circuit of https://api.test is open")
    logged = [
        record.getMessage()
        for record in caplog.records
        if record.name == circuit_breaker.__name__
    ]
    assert logged == ["circuit https://api.test: closed -> open (failure rate reached)"]


def test_origins_are_bounded():
    """Of ever new origins a thousand are kept, and an open one is not let go."""
    transport = circuit_breaker.CircuitBreakerTransport(Server(503), make()[0])
    bad = transport.breaker("https://bad.test")
    report(bad, *[False] * 4)
    for n in range(3000):
        transport.breaker(f"https://h{n}.test")
    assert len(transport._breakers) == 1000
    assert transport.breaker("https://bad.test") is bad


def test_origins_are_bounded_when_all_are_open():
    """Where all of them are open, the oldest makes room."""
    transport = circuit_breaker.CircuitBreakerTransport(Server(503), make()[0])
    for n in range(1001):
        report(transport.breaker(f"https://h{n}.test"), *[False] * 4)
    assert len(transport._breakers) == 1000
    assert ("https", b"h0.test") not in transport._breakers


@both
def test_own_judge(kind):
    """What counts as a failure can be said by the caller."""
    server = Server(429)
    model, _ = make()
    transport = circuit_breaker.CircuitBreakerTransport(
        server, model, judge=lambda outcome: outcome.status_code != 429
    )
    calls(kind, server, 10, transport=transport)
    assert server.count == 4


@both
def test_a_judge_that_fails_frees_the_probe(kind):
    """An error of the caller's own judge is raised, and holds no lease."""
    server, clock = Server(503, 503, 503, 503, 200), Clock()
    _, transport = calls(kind, server, 4, clock)
    clock.now += 5
    transport._judge = lambda outcome: 1 / 0
    (error,), _ = calls(kind, server, 1, transport=transport)
    assert isinstance(error, ZeroDivisionError)
    assert refused(transport.breaker(URL)) is None


def test_a_listener_that_fails_is_logged(caplog):
    """What on_transition raises does not become the caller's error."""
    breaker, clock = make(on_transition=lambda *_: 1 / 0)
    report(breaker, *[False] * 4)
    clock.now += 5
    report(breaker, True)
    assert breaker.state == "closed"
    assert caplog.text.count("on_transition failed") == 3


def test_a_lease_that_ends_at_zero():
    """A lease is a lease, whatever the clock says when it ends."""
    clock = Clock()
    clock.now = -35.0
    breaker, _ = make(clock, probe_lease=30)
    report(breaker, *[False] * 4)
    clock.now = -30.0
    report(breaker, True)
    assert breaker.state == "closed"


def test_transport_with_defaults():
    """Without a model the defaults hold: ten failures open it."""
    server = Server(503)
    transport = circuit_breaker.CircuitBreakerTransport(server)
    calls("sync", server, 20, transport=transport)
    assert server.count == 10


@both
def test_the_transport_below_is_closed(kind):
    """Closing the client closes what lies below."""
    server = Server(200)
    _, transport = calls(kind, server, 1)
    if kind == "sync":
        transport.close()
    else:
        asyncio.run(transport.aclose())
    assert server.closed


def test_refusal_travels():
    """The error can be pickled, with what it tells."""
    error = circuit_breaker.CircuitOpenError("open", retry_after=3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retry_after) == ("open", 3.0)
