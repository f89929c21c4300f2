"""Tests of `patterns/rate_limit/concurrency.py`; they can be copied along with it."""

import asyncio
import gc
import pickle
import threading

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.rate_limit import concurrency

URL = "https://user:s3cret@api.test/?token=s3cret"


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is not in memory; it may break, and its closing may fail."""

    def __init__(self, *, broken=False):
        self.broken, self.closed = broken, 0

    def __iter__(self):
        yield b"a"
        if self.broken:
            raise httpx.ReadError("broken")
        yield b"b"

    async def __aiter__(self):
        for chunk in self:
            await asyncio.sleep(0)
            yield chunk

    def close(self):
        self.closed += 1
        if self.broken:
            raise httpx.CloseError("broken")

    async def aclose(self):
        self.close()


class Below(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that counts the calls under way; an async call waits for `gate`."""

    def __init__(self, respond=lambda request: httpx.Response(200, stream=Body())):
        self.respond, self.now, self.most, self.paths = respond, 0, 0, []
        self.gate, self.closed, self.lock = None, [], threading.Lock()

    def begin(self, request):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.paths.append(request.url.path)

    def end(self):
        with self.lock:
            self.now -= 1

    def handle_request(self, request):
        self.begin(request)
        try:
            return self.respond(request)
        finally:
            self.end()

    async def handle_async_request(self, request):
        self.begin(request)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            return self.respond(request)
        finally:
            self.end()

    def close(self):
        self.closed.append("close")

    async def aclose(self):
        self.closed.append("aclose")


async def settle():
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def taken(transport):
    """Return the places that are taken, and the turns of those that wait."""
    return sorted((len(p.taken), len(p.waiting)) for p in transport._places.values())


# --- places


def test_a_body_holds_its_place():
    """A call is under way until its response is closed, however often that happens."""
    transport = concurrency.ConcurrencyLimit(Below(), 2, max_waiting=0)
    with httpx.Client(transport=transport) as http:
        with http.stream("GET", URL) as one, http.stream("GET", URL):
            assert taken(transport) == [(2, 0)]
            with pytest.raises(concurrency.BulkheadFullError):
                http.get(URL)
            one.close()
            one.stream.close()
            assert taken(transport) == [(1, 0)]
            with http.stream("GET", URL):
                assert taken(transport) == [(2, 0)]
        assert taken(transport) == []


def test_reading_to_the_end_gives_the_place_back():
    """A body that was read to its end is closed by that."""
    transport = concurrency.ConcurrencyLimit(Below(), 1, max_waiting=0)
    with httpx.Client(transport=transport) as http:
        response = http.send(http.build_request("GET", URL), stream=True)
        assert taken(transport) == [(1, 0)]
        assert response.read() == b"ab"
        assert taken(transport) == []
        assert http.get(URL).content == b"ab"


def test_reading_to_the_end_in_an_async_client():
    """So it is in an async client, for a body that is closed half read, too."""

    async def main():
        transport = concurrency.ConcurrencyLimit(Below(), 1, max_waiting=0)
        async with httpx.AsyncClient(transport=transport) as http:
            assert (await http.get(URL)).content == b"ab"
            assert taken(transport) == []
            async with http.stream("GET", URL) as response:
                async for _ in response.aiter_raw():
                    break
                assert taken(transport) == [(1, 0)]
            assert taken(transport) == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_goes_wrong_gives_the_place_back(kind):
    """An error in sending, in the body or in closing it leaves no place taken."""

    def fail(request):
        raise httpx.ConnectError("no")

    def broken(request):
        return httpx.Response(200, stream=Body(broken=True))

    async def main(transport):
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)

    for respond in (fail, broken):
        transport = concurrency.ConcurrencyLimit(Below(respond), 1, max_waiting=0)
        call = httpx.Client(transport=transport).get
        with pytest.raises(httpx.NetworkError):
            asyncio.run(main(transport)) if kind == "async" else call(URL)
        assert taken(transport) == []


def test_an_answer_without_a_stream():
    """A response that was made in memory holds no place, and is not touched."""
    answer = httpx.Response(200, json=[1])
    transport = concurrency.ConcurrencyLimit(Below(lambda _: answer), 1, max_waiting=0)
    stream = answer.stream
    found = transport.handle_request(httpx.Request("GET", URL))
    assert found is answer
    assert found.stream is stream
    assert taken(transport) == []


def test_redirects_and_authentication():
    """A call that makes another one behind it does not wait for itself."""

    def respond(request):
        if request.url.path == "/" and "authorization" not in request.headers:
            return httpx.Response(401, stream=Body())
        status = 302 if request.url.path == "/" else 200
        return httpx.Response(status, headers={"Location": "/b"}, stream=Body())

    class Again(httpx.Auth):
        def auth_flow(self, request):
            response = yield request
            if response.status_code == 401:
                request.headers["Authorization"] = "x"
                yield request

    below = Below(respond)
    transport = concurrency.ConcurrencyLimit(below, 1, max_waiting=0)
    with httpx.Client(transport=transport, follow_redirects=True) as http:
        assert http.get("https://api.test/", auth=Again()).status_code == 200
    assert below.paths == ["/", "/", "/b"]


# --- waiting


def test_tasks_wait_their_turn():
    """No more than the limit are under way, first come first served."""

    async def main():
        below = Below()
        transport = concurrency.ConcurrencyLimit(below, 3)
        async with httpx.AsyncClient(transport=transport) as http:
            work = (http.get(f"https://api.test/{n}") for n in range(40))
            await asyncio.gather(*work)
        assert below.most == 3
        assert below.paths == [f"/{n}" for n in range(40)]
        assert taken(transport) == []

    asyncio.run(main())


def test_nobody_overtakes():
    """A place that comes free belongs to the first that waits, not to a newcomer."""

    async def main():
        below = Below()
        transport = concurrency.ConcurrencyLimit(below, 1)
        async with httpx.AsyncClient(transport=transport) as http:
            async with http.stream("GET", "https://api.test/0"):
                waits = asyncio.ensure_future(http.get("https://api.test/1"))
                await settle()
            comes = asyncio.ensure_future(http.get("https://api.test/2"))
            await asyncio.wait([waits, comes])
        assert below.paths == ["/0", "/1", "/2"]

    asyncio.run(main())


def test_threads_wait_their_turn():
    """Threads share the places too, and none of them is lost."""
    wait = threading.Event()

    def respond(request):
        wait.wait(0.001)
        return httpx.Response(200, stream=Body())

    below = Below(respond)
    transport = concurrency.ConcurrencyLimit(below, 3)

    def work():
        for _ in range(10):
            http.get(URL)

    with httpx.Client(transport=transport) as http:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert below.most == 3
    assert len(below.paths) == 80
    assert taken(transport) == []


def test_several_event_loops():
    """Tasks of several loops share the places and wake each other."""
    transport = concurrency.ConcurrencyLimit(Below(), 2)

    async def main():
        async with httpx.AsyncClient(transport=transport) as http:
            await asyncio.gather(*(http.get(URL) for _ in range(25)))

    threads = [threading.Thread(target=asyncio.run, args=[main()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(transport._transport.paths) == 100
    assert taken(transport) == []


def test_each_origin_by_itself():
    """With `per_origin` a slow service leaves the places of the others alone."""
    transport = concurrency.ConcurrencyLimit(Below(), 1, per_origin=True, max_waiting=0)
    urls = ["https://a.test", "http://a.test", "https://a.test:444", "https://b.test"]
    with httpx.Client(transport=transport) as http:
        responses = [
            http.send(http.build_request("GET", url), stream=True) for url in urls
        ]
        assert taken(transport) == [(1, 0)] * 4
        with pytest.raises(concurrency.BulkheadFullError):
            http.get("https://A.test:443/other")
        for response in responses:
            response.close()
        assert taken(transport) == []  # nothing of them is remembered


def test_places_come_back_for_all_origins_together():
    """Without it, all origins share the places."""
    transport = concurrency.ConcurrencyLimit(Below(), 1, max_waiting=0)
    with (
        httpx.Client(transport=transport) as http,
        http.stream("GET", URL),
        pytest.raises(concurrency.BulkheadFullError),
    ):
        http.get("https://b.test")


# --- refusals


def test_the_queue_is_full():
    """Beyond `max_waiting` a call is refused at once, and those who wait are not."""

    async def main():
        below = Below()
        below.gate = asyncio.Event()
        transport = concurrency.ConcurrencyLimit(below, 2, max_waiting=3)
        async with httpx.AsyncClient(transport=transport) as http:
            tasks = [asyncio.ensure_future(http.get(URL)) for _ in range(5)]
            await settle()
            assert taken(transport) == [(2, 3)]
            extra = asyncio.ensure_future(http.get(URL))
            await settle()
            assert taken(transport) == [(2, 3)]
            assert extra.done()
            below.gate.set()
            assert [r.status_code for r in await asyncio.gather(*tasks)] == [200] * 5
        return extra.exception()

    error = asyncio.run(main())
    assert error.limit == 2
    assert isinstance(error, httpx.TransportError)
    assert not isinstance(error, httpx.TimeoutException)
    assert "s3cret" not in f"{error} {error!r}"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.limit) == (str(error), 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_wait_is_over(kind):
    """A call that waited for as long as it may is refused, and gives its turn back."""

    async def main():
        async with httpx.AsyncClient(transport=transport) as http:
            async with http.stream("GET", URL):
                with pytest.raises(concurrency.BulkheadFullError, match="in 0 s"):
                    await http.get(URL)
                assert taken(transport) == [(1, 0)]
            assert (await http.get(URL)).content == b"ab"

    transport = concurrency.ConcurrencyLimit(Below(), 1, timeout=0)
    if kind == "async":
        asyncio.run(main())
        return
    with httpx.Client(transport=transport) as http:
        with http.stream("GET", URL):
            with pytest.raises(concurrency.BulkheadFullError, match="in 0 s"):
                http.get(URL)
            assert taken(transport) == [(1, 0)]
        assert http.get(URL).content == b"ab"


@pytest.mark.parametrize("which", range(4))
def test_who_is_cancelled_gives_back_what_it_has(which):
    """Of one under way and three that wait, any may be cancelled; the others go on."""

    async def main():
        below = Below()
        below.gate = asyncio.Event()
        transport = concurrency.ConcurrencyLimit(below, 1)
        async with httpx.AsyncClient(transport=transport) as http:
            tasks = [
                asyncio.ensure_future(http.get(f"https://api.test/{n}"))
                for n in range(4)
            ]
            await settle()
            tasks[which].cancel()
            await settle()
            assert taken(transport) == [(1, 2)]
            below.gate.set()
            await asyncio.wait(tasks)
        assert tasks[which].cancelled()
        served = [0] * (which == 0) + [n for n in range(4) if n != which]
        assert below.paths == [f"/{n}" for n in served]
        assert below.most == 1
        assert taken(transport) == []

    asyncio.run(main())


def test_cancelled_as_its_place_comes():
    """A place that came in the same moment goes on to the next one."""

    async def main():
        below = Below()
        transport = concurrency.ConcurrencyLimit(below, 1)
        async with httpx.AsyncClient(transport=transport) as http:
            async with http.stream("GET", URL):
                one = asyncio.ensure_future(http.get(URL))
                two = asyncio.ensure_future(http.get(URL))
                await settle()
            one.cancel()  # it has the place, and does not know it yet
            await asyncio.wait([one, two])
        assert one.cancelled()
        assert two.result().content == b"ab"
        assert taken(transport) == []

    asyncio.run(main())


def test_a_cancelled_waiter_is_passed_over():
    """Who is leaving, and has not left yet, gets no place."""

    async def main():
        transport = concurrency.ConcurrencyLimit(Below(), 1)
        async with httpx.AsyncClient(transport=transport) as http:
            async with http.stream("GET", URL):
                one = asyncio.ensure_future(http.get(URL))
                two = asyncio.ensure_future(http.get(URL))
                await settle()
                transport._places[None].waiting[0].cancel()  # as a thread would see it
            assert (await two).content == b"ab"
            await asyncio.wait([one])
        assert one.cancelled()
        assert taken(transport) == []

    asyncio.run(main())


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["call", "close", "cancel"]), st.integers(0, 30)),
        max_size=40,
    ),
)
def test_any_order_of_events(limit, moves):
    """Whatever comes in whatever order, the limit holds and no place is lost."""

    async def main():
        transport = concurrency.ConcurrencyLimit(Below(), limit)
        tasks, closed = [], set()
        async with httpx.AsyncClient(transport=transport) as http:

            def running():
                done = [t for t in tasks if t.done() and not t.cancelled()]
                return [t for t in done if t not in closed]

            for move, at in moves:
                if move == "call":
                    request = http.build_request("GET", URL)
                    tasks.append(asyncio.ensure_future(http.send(request, stream=True)))
                elif move == "close" and running():
                    task = running()[at % len(running())]
                    closed.add(task)
                    await task.result().aclose()
                elif move == "cancel" and tasks:
                    tasks[at % len(tasks)].cancel()
                if at % 2:
                    await settle()
                assert sum(places for places, _ in taken(transport)) <= limit
            await settle()
            waiting = [task for task in tasks if not task.done()]
            assert len(running()) == limit or not waiting
            while open_ := running():
                closed.add(open_[0])
                await open_[0].result().aclose()
                await settle()
        assert all(task.done() for task in tasks)
        assert taken(transport) == []

    asyncio.run(main())


def test_a_response_that_is_never_closed():
    """It keeps its place, even when nobody has it any more: that is the caller's."""
    transport = concurrency.ConcurrencyLimit(Below(), 1, max_waiting=0)
    http = httpx.Client(transport=transport)
    http.send(http.build_request("GET", URL), stream=True)
    gc.collect()
    with pytest.raises(concurrency.BulkheadFullError):
        http.get(URL)


@pytest.mark.parametrize(
    ("limit", "more"),
    [(0, {}), (-1, {}), (1, {"max_waiting": -1}), (1, {"timeout": -1})],
)
def test_limits_that_are_refused(limit, more):
    """A limit of nothing would let no call through, for ever."""
    with pytest.raises(ValueError, match="at least"):
        concurrency.ConcurrencyLimit(Below(), limit, **more)


def test_both_kinds_of_client_close_what_is_below():
    """Closing the client closes the transport below, by its own kind."""
    below = Below()

    async def main():
        transport = concurrency.ConcurrencyLimit(below, 1)
        async with httpx.AsyncClient(transport=transport):
            pass

    with httpx.Client(transport=concurrency.ConcurrencyLimit(below, 1)):
        pass
    asyncio.run(main())
    assert below.closed == ["close", "aclose"]
