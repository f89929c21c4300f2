"""Tests of `patterns/errors/retry.py`; they can be copied along with it."""

import asyncio
import io
import json
import logging
import pickle
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.errors import retry

URL = "https://ann:s3cret@api.test/path/t0ken?key=k3y"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
both = pytest.mark.parametrize("kind", ["sync", "async"])


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on only where it would wait."""

    def __init__(self):
        super().__init__()
        self.now, select = 0.0, self._selector.select

        def skip(timeout):
            assert timeout is not None, "all tasks wait for ever"
            self.now += timeout
            return select(0)

        self._selector.select = skip

    def time(self):
        return self.now


class Server:
    """A transport that answers by a script, and notes when it was asked.

    A step is a status, a response, an error to raise, or seconds to take before the
    next step; the last step is repeated.
    """

    def __init__(self, *script):
        self.script, self.at, self.times, self.requests = list(script), 0, [], []
        self.loop, self.now, self.sleeps = None, 0.0, []

    def clock(self):
        return self.loop.time() if self.loop else self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds

    def step(self):
        step = self.script[min(self.at, len(self.script) - 1)]
        self.at += 1
        return step

    def ends(self, step):
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step) if isinstance(step, int) else step

    def handle_request(self, request):
        self.times.append(self.now)
        self.requests.append(request)
        step = self.step()
        while isinstance(step, float):  # takes a while, at most until the read timeout
            longest = request.extensions["timeout"]["read"]
            self.now += min(step, longest)
            if step > longest:
                raise httpx.ReadTimeout("too slow")
            step = self.step()
        return self.ends(step)

    async def handle_async_request(self, request):
        self.times.append(self.clock())
        self.requests.append(request)
        step = self.step()
        while isinstance(step, float):
            await asyncio.sleep(step)
            step = self.step()
        return self.ends(step)

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


def call(kind, server, policy=None, method="GET", *, request=None, **options):
    """Send one request by a client of a kind; return what came, raised or not."""
    policy = policy or retry.RetryPolicy(base_delay=1)
    options = {"random": lambda: 0.5, "now": lambda: NOW, **options}
    request = request or {}
    try:
        if kind == "sync":
            options = {"clock": server.clock, "sleep": server.sleep, **options}
            transport = retry.RetryTransport(server, policy, **options)
            with httpx.Client(transport=transport) as client:
                return client.request(method, URL, **request)
        return run(_acall(server, policy, method, request, options), server)
    except httpx.HTTPError as exc:
        return exc


async def _acall(server, policy, method, request, options):
    async def asleep(seconds):
        server.sleeps.append(seconds)
        await asyncio.sleep(seconds)

    options = {"clock": server.clock, "asleep": asleep, **options}
    transport = retry.RetryTransport(server, policy, **options)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.request(method, URL, **request)


def run(work, server=None):
    """Run a coroutine in virtual time."""
    loop = VirtualLoop()
    if server:
        server.loop = loop
    try:
        return loop.run_until_complete(work)
    finally:
        server and setattr(server, "now", loop.now)
        loop.close()


def refused(after, status=503):
    """Return an answer that asks for a wait."""
    return httpx.Response(status, headers={"retry-after": str(after)}, text="later")


# -- when to send again -----------------------------------------------------------


@both
def test_a_passing_error_is_repeated(kind):
    """After two answers of 503 the caller sees the 200, and how many it took."""
    server = Server(503, 503, 200)
    answer = call(kind, server)
    assert answer.status_code == 200
    assert answer.extensions["attempts"] == 3
    assert server.times == [0, 0.5, 1.5]


@both
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_attempts_are_bounded(kind, status):
    """After `max_attempts` the last answer is the caller's, with the reason."""
    server = Server(status)
    answer = call(kind, server)
    assert answer.status_code == status
    assert answer.extensions["attempts"] == len(server.times) == 4
    assert answer.extensions["retry_stop"] == "attempts"


@both
@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 409, 412, 422, 500, 501])
def test_a_final_answer_is_not_repeated(kind, status):
    """What a repetition does not change is returned at once."""
    server = Server(status)
    answer = call(kind, server)
    assert answer.status_code == status
    assert answer.extensions["attempts"] == len(server.times) == 1


@both
@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "X"])
def test_unsafe_methods_are_sent_once(kind, method):
    """A method that is not idempotent is not repeated."""
    server = Server(503)
    answer = call(kind, server, method=method)
    assert len(server.times) == 1
    assert answer.extensions["retry_stop"] == "unsafe"


@both
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "QUERY"]
)
def test_idempotent_methods_are_repeated(kind, method):
    """The idempotent methods of RFC 9110 and RFC 10008 are."""
    server = Server(503, 200)
    assert call(kind, server, method=method).status_code == 200


@both
def test_an_idempotency_key_makes_a_post_repeatable(kind):
    """A POST that carries an Idempotency-Key is sent again."""
    server = Server(503, 201)
    headers = {"Idempotency-Key": "8e03978e"}
    answer = call(kind, server, method="POST", request={"headers": headers, "json": {}})
    assert answer.status_code == 201
    assert [r.content for r in server.requests] == [b"{}", b"{}"]


@both
@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_is_none(kind, key):
    """An Idempotency-Key without a key in it promises nothing."""
    server = Server(503)
    headers = {"Idempotency-Key": key}
    call(kind, server, method="POST", request={"headers": headers})
    assert len(server.times) == 1


@both
@pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout", "PoolTimeout"])
def test_what_was_never_sent_is_sent_again(kind, error):
    """A POST that met no server may be sent: it cannot have been done."""
    server = Server(getattr(httpx, error)("no"), 201)
    assert call(kind, server, method="POST").status_code == 201


@both
@pytest.mark.parametrize("error", ["ReadTimeout", "ReadError", "WriteError"])
def test_what_may_have_been_sent_is_not_sent_again(kind, error):
    """A POST that may have arrived raises its error, with a note on why it ends."""
    server = Server(getattr(httpx, error)("no"))
    raised = call(kind, server, method="POST")
    assert type(raised).__name__ == error
    assert raised.__notes__ == ["attempt 1, the last one: unsafe"]
    assert len(server.times) == 1


@both
@pytest.mark.parametrize(
    "error",
    ["ConnectError", "ReadError", "ReadTimeout", "RemoteProtocolError", "WriteTimeout"],
)
def test_a_broken_connection_is_repeated_for_get(kind, error):
    """An idempotent request is repeated after a fault of the network."""
    server = Server(getattr(httpx, error)("no"), 200)
    assert call(kind, server).status_code == 200


@both
@pytest.mark.parametrize(
    "error",
    ["UnsupportedProtocol", "LocalProtocolError", "ProxyError", "DecodingError"],
)
def test_faults_that_stay_are_not_repeated(kind, error):
    """An error that a repetition cannot cure is raised at once."""
    server = Server(getattr(httpx, error)("no"))
    assert type(call(kind, server)).__name__ == error
    assert len(server.times) == 1


@both
def test_a_refusal_from_within_is_not_repeated(kind):
    """An error of a breaker or limiter below, a plain TransportError, passes."""

    class OpenError(httpx.TransportError):
        pass

    server = Server(OpenError("open"))
    assert isinstance(call(kind, server), OpenError)
    assert len(server.times) == 1


@both
def test_no_methods_means_none(kind):
    """An empty set of methods is no default."""
    server = Server(503)
    call(kind, server, retry.RetryPolicy(idempotent_methods=()))
    assert len(server.times) == 1


@both
def test_a_request_may_bring_its_own_policy(kind):
    """`extensions={"retry": …}` is for that call alone."""
    server = Server(503)
    once = retry.RetryPolicy(max_attempts=1)
    answer = call(kind, server, request={"extensions": {"retry": once}})
    assert answer.extensions["retry_stop"] == "attempts"
    assert len(server.times) == 1


# -- bodies -----------------------------------------------------------------------


@both
def test_a_body_that_is_gone_is_not_sent_again(kind):
    """A PUT from a generator keeps its first answer, with a readable body."""
    server = Server(refused(0), 200)
    body = iter([b"a"]) if kind == "sync" else _agenerate()
    answer = call(kind, server, method="PUT", request={"content": body})
    assert (answer.status_code, answer.text) == (503, "later")
    assert answer.extensions["retry_stop"] == "body"
    assert len(server.times) == 1


async def _agenerate():
    yield b"a"


def test_a_transport_that_buffers_changes_nothing():
    """What counts is the body as it was given, not what a transport made of it."""
    seen = []
    below = httpx.MockTransport(lambda r: seen.append(r.read()) or httpx.Response(503))
    transport = retry.RetryTransport(below, sleep=lambda seconds: None)
    with httpx.Client(transport=transport) as client:
        client.put(URL, content=iter([b"a"]))
    assert seen == [b"a"]


@both
@pytest.mark.parametrize(
    ("file", "again"),
    [(b"bytes", True), (io.BytesIO(b"file"), True), ("pipe", False)],
)
def test_forms_with_files(kind, file, again):
    """A form is sent again where its files can be rewound, with the same bytes."""

    class Pipe(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            return 0

    server, bodies = Server(503, 200), []
    handle = server.handle_request

    def reading(request):
        bodies.append(b"".join(request.stream))
        return handle(request)

    server.handle_request = reading
    file = Pipe() if file == "pipe" else file
    if kind == "async":

        async def areading(request):
            bodies.append(b"".join([part async for part in request.stream]))
            return handle(request)

        server.handle_async_request = areading
    answer = call(kind, server, method="PUT", request={"files": {"f": ("n", file)}})
    assert answer.status_code == (200 if again else 503)
    assert len(set(bodies)) == 1
    assert len(bodies) == 1 + again


class Counted(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that counts what was read of it, and notes its closing."""

    def __init__(self, *chunks, error=None):
        self.chunks, self.error, self.read, self.closed = chunks, error, 0, 0

    def __iter__(self):
        for chunk in self.chunks:
            self.read += len(chunk)
            yield chunk
        if self.error:
            raise self.error

    async def __aiter__(self):
        for chunk in self:
            yield chunk

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


@both
@pytest.mark.parametrize(
    ("body", "read"),
    [
        (Counted(b"x" * 1000, b"y" * 1000), 2000),
        (Counted(*[b"x" * 30_000] * 100), 90_000),
        (Counted(b"x", error=httpx.ReadError("gone")), 1),
        (Counted(b"x", error=httpx.StreamClosed()), 1),
    ],
    ids=["small", "huge", "broken", "closed"],
)
def test_a_refused_answer_is_drained_within_limits(kind, body, read):
    """A small body is read to its end and a huge one is not; each is closed once."""
    body.read = body.closed = 0
    server = Server(httpx.Response(503, stream=body), 200)
    assert call(kind, server).status_code == 200
    assert (body.read, body.closed) == (read, 1)


@both
def test_a_refused_answer_that_drips_is_given_up(kind):
    """Draining takes about a second at the most."""
    ticks = iter(range(1000))
    body = Counted(*[b"x"] * 100)
    server = Server(httpx.Response(503, stream=body), 200)
    call(kind, server, clock=lambda: next(ticks) * 0.4)
    assert 0 < body.read < 10
    assert body.closed == 1


@both
@pytest.mark.parametrize(("deadline", "longest"), [(None, 1.0), (10, 1.0), (0.4, 0.4)])
@pytest.mark.parametrize("read", [None, 5, 0.2])
def test_a_refused_answer_that_stalls_is_given_up(kind, deadline, longest, read):
    """The read timeout of an answer that nobody gets is a second, or what is left."""
    seen = []

    class Looking(Counted):
        def __iter__(self):
            seen.append(request.extensions["timeout"]["read"])
            return iter([b"x"])

    server, request = Server(httpx.Response(503, stream=Looking()), 200), None
    handle = server.handle_request

    def noting(sent):
        nonlocal request
        request = request or sent
        return handle(sent)

    async def anoting(sent):
        return noting(sent)

    server.handle_request, server.handle_async_request = noting, anoting
    policy = retry.RetryPolicy(base_delay=0, deadline=deadline)
    timeout = httpx.Timeout(5, read=read)
    answer = call(kind, server, policy, request={"timeout": timeout})
    assert seen == [pytest.approx(min(read or 9, longest))]
    assert answer.request.extensions["timeout"] == timeout.as_dict()


@both
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_refused_answer_is_closed_whatever_happens(kind, error):
    """An error that is none of httpx's passes, and the answer is closed."""
    body = Counted(b"x", error=error())
    with pytest.raises(error):
        call(kind, Server(httpx.Response(503, stream=body), 200))
    assert body.closed == 1


# -- waiting ----------------------------------------------------------------------


@given(
    number=st.integers(1, 10_000),
    base=st.floats(0, 1e6),
    longest=st.floats(0, 1e6),
    dice=st.floats(0, 1),
)
def test_full_jitter(number, base, longest, dice):
    """A wait lies between 0 and the bound, which doubles up to `max_delay`."""
    policy = retry.RetryPolicy(
        max_attempts=20_000, base_delay=base, max_delay=longest, max_retry_after=1e9
    )
    step = policy.decide(retry.Attempt(number, 503), random=lambda: dice)
    bound = min(base * 2.0 ** min(number - 1, 64), longest)
    assert step == retry.Wait(dice * bound)


def test_defaults_as_stated():
    """The defaults are those of the docstring's formula."""
    policy = retry.RetryPolicy()
    waits = [
        policy.decide(retry.Attempt(n, 503), random=lambda: 1.0).delay
        for n in (1, 2, 3)
    ]
    assert waits == [0.1, 0.2, 0.4]
    assert policy.decide(retry.Attempt(4, 503)) == retry.Stop("attempts")


@both
@given(after=st.integers(0, 60), dice=st.floats(0, 1, exclude_max=True))
def test_never_earlier_than_asked(kind, after, dice):
    """The wait is Retry-After and some more, never less, so that a herd spreads out."""
    server = Server(refused(after), 200)
    assert call(kind, server, random=lambda: dice).status_code == 200
    assert after <= server.times[1] <= after + max(1, after * 0.1) + 1e-9


@both
def test_several_retry_afters(kind):
    """Of several lines the longest wait counts; one that is malformed is ignored."""
    headers = [("retry-after", "3"), ("retry-after", "soon"), ("retry-after", "7")]
    server = Server(httpx.Response(503, headers=headers), 200)
    call(kind, server, random=lambda: 0.0)
    assert server.times == [0, 7]


@both
@pytest.mark.parametrize("value", ["soon", "-5", "", "1.5", "٣", "Mon, 32 Foo 2026"])
def test_malformed_retry_after_is_ignored(kind, value):
    """A value that cannot be read leaves the plain backoff, and the answer is kept."""
    headers = [(b"retry-after", value.encode())]
    server = Server(httpx.Response(503, headers=headers), 200)
    assert call(kind, server).status_code == 200
    assert server.times == [0, 0.5]


@both
@pytest.mark.parametrize("after", ["61", "9" * 30, "9" * 5000])
def test_retry_after_above_the_cap(kind, after):
    """A wait longer than the policy's is not cut short: the answer is returned."""
    server = Server(refused(after))
    answer = call(kind, server)
    assert (answer.status_code, answer.text) == (503, "later")
    assert answer.extensions["retry_stop"] == "retry-after"
    assert answer.extensions["attempts"] == 1
    assert server.times == [0]


@both
def test_a_date_is_taken_by_the_servers_clock(kind):
    """A date is compared with the answer's own Date: a wrong clock here is harmless."""
    there = NOW + timedelta(hours=1)
    headers = {
        "date": there.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "retry-after": (there + timedelta(seconds=9)).strftime(
            "%a, %d %b %Y %H:%M:%S GMT"
        ),
    }
    server = Server(httpx.Response(503, headers=headers), 200)
    call(kind, server, random=lambda: 0.0)
    assert server.times == [0, 9]


@both
def test_a_date_without_a_clock_of_the_servers(kind):
    """Where the answer has no Date, or none that can be read, ours is taken."""
    at = (NOW + timedelta(seconds=9)).strftime("%A, %d-%b-%y %H:%M:%S GMT")
    headers = {"date": "today", "retry-after": at}
    server = Server(httpx.Response(503, headers=headers), 200)
    call(kind, server, random=lambda: 0.0)
    assert server.times == [0, 9]


def test_chance_takes_half_of_what_is_left():
    """With a deadline the random part of a wait leaves time for the attempt."""
    policy = retry.RetryPolicy(deadline=10, base_delay=100, max_delay=100)
    step = policy.decide(retry.Attempt(1, 503), random=lambda: 1.0)
    assert step == retry.Wait(5)
    asked = retry.Attempt(1, 503, elapsed=1, retry_after=8)
    assert policy.decide(asked, random=lambda: 1.0) == retry.Wait(8.5)


# -- the deadline -----------------------------------------------------------------


@both
def test_retry_after_past_the_deadline(kind):
    """A wait that ends past the deadline is not begun, and the answer is kept."""
    server = Server(refused(5))
    answer = call(kind, server, retry.RetryPolicy(deadline=1))
    assert (answer.status_code, answer.text) == (503, "later")
    assert answer.extensions["retry_stop"] == "deadline"
    assert server.now == 0


@both
def test_attempts_that_hang_end_with_the_deadline(kind):
    """The last attempt gets no more time than is left, whatever the client allows."""
    server = Server(0.8, 503, 0.8, 503, 0.8, 503)
    policy = retry.RetryPolicy(deadline=1, base_delay=0)
    raised = call(kind, server, policy)
    assert isinstance(raised, httpx.TimeoutException)
    assert server.now == pytest.approx(1, abs=0.03)
    assert len(server.times) == 2
    assert raised.__notes__ == ["attempt 2, the last one: deadline"]


@both
def test_a_deadline_that_has_passed_sends_nothing(kind):
    """Where a wait took longer than asked, the next attempt is not begun."""
    server = Server(503)
    ticks = iter([0, 0, 0.1, 0.1, 0.1, 5, 5, 5])
    policy = retry.RetryPolicy(deadline=1, base_delay=0)
    raised = call(kind, server, policy, clock=lambda: next(ticks))
    assert isinstance(raised, retry.DeadlineExceeded)
    assert str(raised) == "1 s passed by attempt 2"
    assert raised.request.method == "GET"
    assert len(server.times) == 1


@both
@pytest.mark.parametrize("read", [None, 0.3, 5])
def test_timeouts_shrink_to_what_is_left(kind, read):
    """Each timeout of an attempt is the client's or what is left, the lesser; after
    the call the request has its own again, which a redirect inherits."""
    seen = []
    server = Server(503, 200)
    handle = server.handle_request

    def noting(request):
        seen.append(dict(request.extensions["timeout"]))
        return handle(request)

    async def anoting(request):
        return noting(request)

    server.handle_request, server.handle_async_request = noting, anoting
    timeout = httpx.Timeout(5, read=read)
    policy = retry.RetryPolicy(deadline=1, base_delay=1)
    answer = call(kind, server, policy, request={"timeout": timeout})
    assert [times["read"] for times in seen] == [min(read or 9, 1), min(read or 9, 0.5)]
    assert [times["connect"] for times in seen] == [1, 0.5]
    assert answer.request.extensions["timeout"] == timeout.as_dict()


class Dripping(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes a byte a tenth of a second."""

    def __init__(self, server, count):
        self.server, self.count, self.closed = server, count, False

    def __iter__(self):
        for _ in range(self.count):
            self.server.now += 0.1
            yield b"x"

    async def __aiter__(self):
        for _ in range(self.count):
            await asyncio.sleep(0.1)
            yield b"x"

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


@both
@pytest.mark.parametrize("status", [200, 503])
def test_a_body_that_drips_past_the_deadline(kind, status):
    """The deadline holds for the reading of the answer as well."""
    server = Server(0)
    body = Dripping(server, 100)
    server.script = [httpx.Response(status, stream=body)]
    raised = call(kind, server, retry.RetryPolicy(deadline=1, max_attempts=1))
    assert isinstance(raised, retry.DeadlineExceeded)
    assert server.now == pytest.approx(1, abs=0.11)
    assert body.closed


@both
def test_a_body_that_is_in_time(kind):
    """A body read before the deadline is whole."""
    server = Server(0)
    server.script = [httpx.Response(200, stream=Dripping(server, 5))]
    assert call(kind, server, retry.RetryPolicy(deadline=1)).text == "xxxxx"


def test_a_timeout_from_within_is_no_deadline():
    """A TimeoutError of the transport's own is not taken for the deadline's."""

    class Own:
        async def handle_async_request(self, request):
            raise TimeoutError("its own")

        async def aclose(self):
            pass

    async def main():
        transport = retry.RetryTransport(Own(), retry.RetryPolicy(deadline=1))
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(URL)

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(main())


@pytest.mark.parametrize("where", ["attempt", "wait", "drain"])
def test_cancellation_passes(where):
    """A cancelled call ends at once, wherever it is, and closes what it had open."""
    body = Counted(b"x")
    server = Server({"attempt": 9.0, "wait": 503, "drain": 0}[where], 503)
    if where == "drain":
        server.script = [httpx.Response(503, stream=Dripping(server, 100))]

    async def main():
        policy = retry.RetryPolicy(base_delay=50)
        transport = retry.RetryTransport(server, policy, random=lambda: 1.0)
        async with (
            httpx.AsyncClient(transport=transport) as client,
            asyncio.timeout(0.5),
        ):
            await client.get(URL)

    with pytest.raises(TimeoutError):
        run(main(), server)
    assert server.now == pytest.approx(0.5)
    assert len(server.times) == 1
    if where == "drain":
        assert server.script[0].stream.closed
    assert not body.read


# -- the budget -------------------------------------------------------------------


def budget(**options):
    return retry.RetryBudget(clock=lambda: 0.0, **options)


@both
def test_budget_bounds_the_retries_of_all_calls(kind):
    """A thousand calls that fail are retried a hundred times, and ten to begin with."""
    shared, sent = budget(), 0
    policy = retry.RetryPolicy(budget=shared, base_delay=0)
    for _ in range(1000):
        server = Server(503)
        answer = call(kind, server, policy)
        sent += len(server.times)
    assert 1000 + 10 + 99 <= sent <= 1000 + 10 + 100
    assert (shared.taken, shared.refused > 800) == (sent - 1000, True)
    assert answer.extensions["retry_stop"] in ("budget", "attempts")


def test_budget_is_taken_before_the_wait():
    """Of a hundred calls that wait at once, no more wait than there are tokens."""
    shared = budget(ratio=0)
    policy = retry.RetryPolicy(budget=shared, base_delay=10)
    server = Server(503)

    async def main():
        transport = retry.RetryTransport(server, policy, random=lambda: 1.0)
        async with httpx.AsyncClient(transport=transport) as client:
            calls = [asyncio.ensure_future(client.get(URL)) for _ in range(100)]
            await asyncio.sleep(1)
            waiting = sum(not call.done() for call in calls)
            await asyncio.gather(*calls)
            return waiting

    assert run(main(), server) == 10
    assert len(server.times) == 110


def test_budget_is_left_alone_where_nothing_is_retried():
    """A decision that stops for another reason takes no token."""
    shared = budget()
    policy = retry.RetryPolicy(budget=shared, deadline=5)
    for attempt in (
        retry.Attempt(1, 404),
        retry.Attempt(4, 503),
        retry.Attempt(1, 503, repeatable=False),
        retry.Attempt(1, 503, replayable=False),
        retry.Attempt(1, 503, retry_after=61),
        retry.Attempt(1, 503, elapsed=5),
    ):
        assert isinstance(policy.decide(attempt), retry.Stop)
    assert (shared.balance, shared.taken, shared.refused) == (10, 0, 0)


def test_budget_comes_back_with_time():
    """A client that seldom calls may retry too; time fills up to the start only."""
    clock = [0.0]
    shared = retry.RetryBudget(0, min_tokens=2, per_second=0.1, clock=lambda: clock[0])
    assert [shared.take() for _ in range(3)] == [True, True, False]
    clock[0] = 10.0
    assert [shared.take() for _ in range(2)] == [True, False]
    clock[0] = 1000.0
    assert shared.balance == 2
    clock[0] = 0.0  # set back: nothing comes, and nothing is lost
    assert shared.balance == 2


def test_budget_saves_up_to_its_most():
    """Good times save tokens up to `max_tokens`, which time alone would not."""
    shared = budget(ratio=0.5, max_tokens=20)
    for _ in range(100):
        shared.deposit()
    assert shared.balance == 20
    assert budget(min_tokens=50, max_tokens=20).max_tokens == 50


def test_ten_tenths_make_one():
    """Ten calls at a ratio of a tenth pay for one retry, whatever floats say of it."""
    shared = budget(min_tokens=0)
    for _ in range(10):
        shared.deposit()
    assert [shared.take(), shared.take()] == [True, False]
    assert shared.balance == 0


@given(st.lists(st.sampled_from(["deposit", "take", "tick"]), max_size=200))
def test_budget_never_overspends(steps):
    """Retries never exceed the start, a tenth of the calls and what time brought."""
    clock = [0.0]
    shared = retry.RetryBudget(per_second=0.1, clock=lambda: clock[0])
    for step in steps:
        if step == "tick":
            clock[0] += 1
        else:
            getattr(shared, step)()
        brought = 10 + 0.1 * steps.count("deposit") + 0.1 * clock[0]
        assert shared.taken <= brought + 1e-6
        assert 0 <= shared.balance <= 100


def test_budget_is_shared_by_threads():
    """No token is given twice."""
    shared = budget(ratio=0, min_tokens=500, max_tokens=500)
    work = [
        threading.Thread(target=lambda: [shared.take() for _ in range(200)])
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert (shared.taken, shared.refused, shared.balance) == (500, 1100, 0)


# -- what is told -----------------------------------------------------------------


@both
def test_each_attempt_is_logged_once_without_secrets(kind, caplog):
    """There is a record for each attempt, and of the URL it has only the origin."""
    caplog.set_level(logging.DEBUG, logger=retry.__name__)
    server = Server(503, httpx.ReadError("key k3y"), 200)
    headers = {"authorization": "Bearer s3cret"}
    call(kind, server, request={"headers": headers})
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == retry.__name__
    ]
    assert lines == [
        "GET https://api.test: attempt 1: 503; again in 0.5 s",
        "GET https://api.test: attempt 2: ReadError; again in 1 s",
        "GET https://api.test: attempt 3: 200; final",
    ]


def test_the_log_tells_the_port(caplog):
    """An origin has its port, and brackets around an IPv6 address."""
    caplog.set_level(logging.DEBUG, logger=retry.__name__)
    transport = retry.RetryTransport(Server(200))
    transport.handle_request(httpx.Request("GET", "http://u:p@[::1]:8443/x"))
    assert "GET http://[::1]:8443: attempt 1" in caplog.text


@both
def test_the_last_error_is_the_callers(kind):
    """The error of the last attempt is raised, with its request and a note."""
    raised = call(kind, Server(503, httpx.ReadError("gone")))
    assert isinstance(raised, httpx.ReadError)
    assert raised.request.method == "GET"
    assert raised.__notes__ == ["attempt 4, the last one: attempts"]


@both
def test_the_transport_below_is_closed(kind):
    """Closing the client closes what lies below."""
    server = Server(200)
    call(kind, server)
    assert server.closed


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": float("nan")},
        {"base_delay": -1},
        {"max_delay": float("inf")},
        {"max_retry_after": float("nan")},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"spread": -0.1},
        {"idempotent_methods": "GET"},
    ],
)
def test_a_policy_that_makes_no_sense(wrong):
    """A wrong number is refused where the policy is written."""
    with pytest.raises(ValueError, match=r"\w"):
        retry.RetryPolicy(**wrong)


@pytest.mark.parametrize("name", ["ratio", "min_tokens", "max_tokens", "per_second"])
@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_a_budget_that_makes_no_sense(name, wrong):
    """The same for a budget."""
    with pytest.raises(ValueError, match="finite"):
        retry.RetryBudget(**{name: wrong})


def test_a_deadline_error_travels():
    """The error can be pickled, as between processes."""
    error = retry.DeadlineExceeded("1 s passed in attempt 2")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# -- Retry-After ------------------------------------------------------------------

VECTORS = vectors("retry_after.json")


@pytest.mark.parametrize(("value", "wanted"), VECTORS["vectors"])
def test_retry_after_vectors(value, wanted):
    """Seconds and the three forms of a date, by RFC 9110."""
    now = datetime.fromisoformat(VECTORS["now"])
    assert retry.parse_retry_after(value, now=now) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("Tuesday, 24-Nov-26 12:00:09 GMT", 9),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),  # 1994, and not 2094
        ("Tuesday, 24-Nov-76 12:00:00 GMT", 1577923200),  # 50 years ahead are not more
        ("Tuesday, 24-Nov-76 12:00:01 GMT", 0),  # more than 50 years: 1976
        ("Friday, 01-Jan-27 00:00:00 GMT", 3240000),
        ("Tue Nov 24 12:00:09 2026", 9),
        ("Tue Nov  3 12:00:09 2026", 0),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 0),  # a leap second
        ("Fri, 31 Dec 9999 23:59:60 GMT", None),
        ("Tue, 24 Nov 2026 12:00:61 GMT", None),
        ("Tue, 24 Nov 2026 24:00:00 GMT", None),
        ("Tue, 31 Nov 2026 12:00:00 GMT", None),
        ("Tue, 00 Nov 2026 12:00:00 GMT", None),
        ("Tue, 24 Nov 0000 12:00:00 GMT", None),
        ("Tue, 24 nov 2026 12:00:00 GMT", None),
        ("Tue, 24 Nov 2026 12:00:09 +0000", None),
        ("Tue, 24 Nov 2026 12:00:09 GMT, 5", None),
        ("Tue, 24 Nov 2026 12:00:09 GMT\n", None),
        (" \t9 ", 9),
        ("9 s", None),
        ("+9", None),
        ("٩", None),
        ("", None),
    ],
)
def test_retry_after_edges(value, wanted):
    """Leap seconds, two-digit years on both sides of the rule, and what is no date."""
    assert retry.parse_retry_after(value, now=NOW) == wanted


def test_retry_after_on_a_leap_day():
    """The rule of 50 years holds on the 29th of February, which 2078 has not."""
    now = datetime(2028, 2, 29, tzinfo=UTC)
    value = "Monday, 28-Feb-78 00:00:00 GMT"
    assert retry.parse_retry_after(value, now=now) > 49 * 365 * 86400
    assert retry.parse_retry_after(value.replace("28-Feb", "01-Mar"), now=now) == 0


def test_retry_after_in_another_zone():
    """`now` may be in any time zone."""
    now = NOW.astimezone(timezone(timedelta(hours=9)))
    assert retry.parse_retry_after("Tuesday, 24-Nov-26 12:00:09 GMT", now=now) == 9


DATE = st.datetimes(min_value=datetime(1901, 1, 1), max_value=datetime(2200, 1, 1))


@given(at=DATE, now=DATE, form=st.sampled_from(["%d %b %Y", "%d-%b-%y", "asctime"]))
def test_retry_after_of_any_date(at, now, form):
    """A date is read as it was written, whatever the time is; two digits come close."""
    at, now = at.replace(microsecond=0, tzinfo=UTC), now.replace(tzinfo=UTC)
    if form == "asctime":
        value = at.ctime()
    else:
        day = "%a" if "Y" in form else "%A"
        value = at.strftime(f"{day}, {form} %H:%M:%S GMT")
    found = retry.parse_retry_after(value, now=now)
    if "y" in form:
        assert found % 1 in (0, pytest.approx((at - now).total_seconds() % 1, abs=1e-5))
        assert found <= 51 * 366 * 86400
    else:
        assert found == max((at - now).total_seconds(), 0)


@given(st.text() | st.from_regex(r"[A-Za-z]{3,9},? [ 0-9A-Za-z:-]{0,30}( GMT)?"))
def test_retry_after_of_garbage(value):
    """Whatever the value, there is a number that is not negative, or None."""
    found = retry.parse_retry_after(value, now=NOW)
    assert found is None or found >= 0


@given(
    number=st.integers(1, 9),
    outcome=st.integers(100, 599)
    | st.sampled_from([httpx.ReadError("x"), ValueError()]),
    elapsed=st.floats(0, 100),
    repeatable=st.booleans(),
    replayable=st.booleans(),
    retry_after=st.none() | st.floats(0, 1e9) | st.just(float("inf")),
)
def test_decisions_keep_every_promise(
    number, outcome, elapsed, repeatable, replayable, retry_after
):
    """Whatever happened, a wait keeps all limits at once."""
    policy = retry.RetryPolicy(deadline=50)
    attempt = retry.Attempt(
        number, outcome, elapsed, repeatable, replayable, retry_after
    )
    step = policy.decide(attempt)
    if isinstance(step, retry.Wait):
        assert repeatable
        assert replayable
        assert number < 4
        assert step.delay >= (retry_after or 0)
        assert elapsed + step.delay < 50
        assert (retry_after or 0) <= 60
    else:
        assert step.reason in (retry.Stop.__doc__ or "")


def test_stopped_early_leaves_no_warning():
    """A call that is over before its first attempt leaves no coroutine behind."""
    ticks = iter([0.0, 5.0])
    policy = retry.RetryPolicy(deadline=1)
    transport = retry.RetryTransport(Server(200), policy, clock=lambda: next(ticks))

    async def main():
        async with httpx.AsyncClient(transport=transport) as client:
            with suppress(retry.DeadlineExceeded):
                await client.get(URL)

    asyncio.run(main())
