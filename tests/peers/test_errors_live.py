"""Retries and breakers over real connections, under httpx and httpx2, in both kinds.

Waits between attempts are noted and not slept. Deadlines are real, with wide margins.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import socket
import socketserver
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from over import over

from patterns.errors import circuit_breaker, retry

Serve = Callable[[Any], str]
PATIENCE = 10  # seconds after which a test that waits has failed


class Kit:
    """One httpx package and one kind of client, and our modules over that package."""

    def __init__(self, package: str, kind: str) -> None:
        self.http: Any = importlib.import_module(package)
        self.retry: Any = over(retry, package)
        self.breaker: Any = over(circuit_breaker, package)
        self.kind, self.is_async = kind, kind == "async"
        self.sleeps: list[float] = []
        self.now: float = 0
        self.on_sleep: Callable[[], object] = lambda: None

    def below(self) -> Any:
        """Return httpx's own transport."""
        name = "AsyncHTTPTransport" if self.is_async else "HTTPTransport"
        return getattr(self.http, name)(verify=False, trust_env=False)

    def retrying(self, below: Any = None, *, times: Any = None, **policy: Any) -> Any:
        """Return our transport over httpx's own, or another; it notes its sleeps."""
        transport = below or self.below()
        settings = {"sleep": self.sleep, "asleep": self.asleep, **(times or {})}
        policy = self.retry.RetryPolicy(**policy)
        return self.retry.RetryTransport(transport, policy, **settings)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.on_sleep()

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def calls(self, transport: Any, *requests: Any, **client: Any) -> list[Any]:
        """Send requests by one client in turn; return what came of each.

        A request is a URL to get, or the arguments of `client.request`.
        """
        given = [{"url": r} if isinstance(r, str) else r for r in requests]
        given = [{"method": "GET", **request} for request in given]
        if self.is_async:
            return asyncio.run(self._await(transport, given, client))
        with self.http.Client(transport=transport, **client) as http:
            return [self.fetch(http, request) for request in given]

    async def _await(self, transport: Any, given: Any, client: Any) -> list[Any]:
        async with self.http.AsyncClient(transport=transport, **client) as http:
            return [await self.afetch(http, request) for request in given]

    def fetch(self, http: Any, request: dict[str, Any]) -> Any:
        """Return the answer to a request, or the error that it raised."""
        try:
            return http.request(**request)
        except self.http.HTTPError as exc:
            return exc

    async def afetch(self, http: Any, request: dict[str, Any]) -> Any:
        """Do the same by an async client."""
        try:
            return await http.request(**request)
        except self.http.HTTPError as exc:
            return exc

    def streamed(self, transport: Any, url: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer that is streamed."""
        if self.is_async:
            return asyncio.run(self._astreamed(transport, url))
        with (
            self.http.Client(transport=transport) as http,
            http.stream("GET", url) as answer,
        ):
            return answer.status_code, b"".join(answer.iter_bytes())

    async def _astreamed(self, transport: Any, url: str) -> tuple[int, bytes]:
        async with (
            self.http.AsyncClient(transport=transport) as http,
            http.stream("GET", url) as answer,
        ):
            parts = [part async for part in answer.aiter_bytes()]
            return answer.status_code, b"".join(parts)

    def at_once(
        self, transport: Any, url: str, count: int, rest: Callable[[], object]
    ) -> list[Any]:
        """Get something many times at once, by tasks or by threads.

        `rest` is called when all calls but one have ended. They are in that order.
        """
        outcomes: list[Any] = []
        request = {"method": "GET", "url": url}

        def land(outcome: Any) -> None:
            outcomes.append(outcome)
            if len(outcomes) == count - 1:
                rest()

        async def aone(http: Any) -> None:
            land(await self.afetch(http, request))

        async def main() -> None:
            async with self.http.AsyncClient(transport=transport) as http:
                await asyncio.gather(*(aone(http) for _ in range(count)))

        if self.is_async:
            asyncio.run(main())
        else:
            with (
                self.http.Client(transport=transport) as http,
                ThreadPoolExecutor(count) as pool,
            ):
                for _ in range(count):
                    pool.submit(lambda: land(self.fetch(http, request)))
        return outcomes


@pytest.fixture(
    params=[
        pytest.param((package, kind), id=f"{package}-{kind}")
        for package in ("httpx", "httpx2")
        for kind in ("sync", "async")
    ]
)
def kit(request: pytest.FixtureRequest) -> Kit:
    """Return each package with each kind of client in turn."""
    return Kit(*request.param)


# -- servers -------------------------------------------------------------------------


class Scripted:
    """An ASGI app whose answers come in turn, the last of them for ever.

    An answer is a status, headers and a body. `asked` holds of each request the path,
    the client's port, which tells its connections apart, the headers and the body.
    """

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        event = await receive()
        body: bytes = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event["body"]
        given = {name.decode(): value.decode() for name, value in scope["headers"]}
        n = min(len(self.asked), len(self.answers) - 1)
        self.asked.append((scope["path"], scope["client"][1], given, body))
        status, headers, content = self.answers[n]
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": status, "headers": pairs}
        await send(start)
        await send({"type": "http.response.body", "body": content})

    @property
    def connections(self) -> int:
        """Over how many connections the requests came."""
        return len({port for _, port, _, _ in self.asked})


Script = Callable[["Raw", socket.socket], None]


class Raw(socketserver.ThreadingTCPServer):
    """A server that sends bytes as they are: each connection has the next script."""

    daemon_threads = True

    def __init__(self, *scripts: Script) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler, False)
        self.scripts, self.requests = scripts, list[bytes]()
        self.numbers = itertools.count()
        self.server_bind()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def finish_request(self, request: Any, client_address: Any) -> None:
        script = self.scripts[min(next(self.numbers), len(self.scripts) - 1)]
        with suppress(OSError):  # the client is gone
            script(self, request)

    def receive(self, connection: socket.socket) -> bytes:
        """Read and note a request with its body; b"" if there is none to come."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := connection.recv(65_536)):
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        while len(body) < int(length or 0):
            body += connection.recv(65_536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]


@contextmanager
def raw(*scripts: Script, listens: bool = True) -> Iterator[Raw]:
    """Run a raw server; without `listens` only its port is bound, and refuses."""
    with Raw(*scripts) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        if listens:
            server.server_activate()
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says(*answers: bytes) -> Script:
    """Send an answer to each request, and close the connection after the last."""

    def script(server: Raw, connection: socket.socket) -> None:
        for answer in answers:
            if server.receive(connection):
                connection.sendall(answer)

    return script


def drips(rest: bytes, *, after: bytes = b"", pause: float = 0.05) -> Script:
    """Send what comes first at once, and of the rest a byte a `pause`."""

    def script(server: Raw, connection: socket.socket) -> None:
        server.receive(connection)
        connection.sendall(after)
        for n in range(len(rest)):
            connection.sendall(rest[n : n + 1])
            time.sleep(pause)

    return script


def hangs(after: bytes = b"") -> Script:
    """Send so much, and then nothing until the client leaves."""

    def script(server: Raw, connection: socket.socket) -> None:
        server.receive(connection)
        connection.sendall(after)
        connection.recv(1)

    return script


def resets(server: Raw, connection: socket.socket) -> None:
    """Take a request, and reset the connection."""
    server.receive(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer in full, with its length unless headers say something else."""
    given = {"content_length": str(len(body)), **headers}
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in given.items() if v]
    return "\r\n".join([f"HTTP/1.1 {status} x", *lines, "", ""]).encode() + body


OK, LATER = reply(200, b"done"), reply(503, b"later")
CUT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-le"
LONG = {"content_length": "1000"}


# -- retries -------------------------------------------------------------------------


def test_refused_and_then_served(kit: Kit, serve: Serve) -> None:
    """A 503 is waited for as it asks, and the 200 comes over the same connection."""
    app = Scripted((503, {"retry-after": "2"}, b"later"), (200, {}, b"done"))
    [answer] = kit.calls(kit.retrying(), f"{serve(app)}/")
    assert (answer.status_code, answer.content) == (200, b"done")
    assert answer.extensions["attempts"] == 2
    assert len(kit.sleeps) == 1
    assert 2 <= kit.sleeps[0] <= 2.2
    assert (len(app.asked), app.connections) == (2, 1)


def test_a_server_that_comes_up(kit: Kit) -> None:
    """A POST that met nobody is sent once the server is there."""
    with raw(says(OK), listens=False) as server:
        kit.on_sleep = lambda: len(kit.sleeps) == 2 and server.server_activate()
        request = {"method": "POST", "url": server.url, "content": b"order"}
        [answer] = kit.calls(kit.retrying(), request)
    assert (answer.status_code, answer.extensions["attempts"]) == (200, 3)
    assert [r.endswith(b"order") for r in server.requests] == [True]


def test_nobody_is_there(kit: Kit) -> None:
    """A refused connection is the caller's error after all attempts."""
    with raw(listens=False) as server:
        [error] = kit.calls(kit.retrying(), server.url)
    assert isinstance(error, kit.http.ConnectError)
    assert error.__notes__ == ["attempt 4, the last one: attempts"]
    assert len(kit.sleeps) == 3


def test_a_head_that_breaks_off(kit: Kit) -> None:
    """A GET is sent again after half a head, and a POST is not."""
    with raw(says(CUT_HEAD), says(CUT_HEAD), says(OK)) as server:
        [answer] = kit.calls(kit.retrying(), server.url)
    assert (answer.status_code, len(server.requests)) == (200, 3)
    with raw(says(CUT_HEAD)) as server:
        [error] = kit.calls(kit.retrying(), {"method": "POST", "url": server.url})
    assert isinstance(error, kit.http.RemoteProtocolError)
    assert error.__notes__ == ["attempt 1, the last one: unsafe"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        reply(503, b"breaks off", **LONG),
        reply(503, b"until it closes", content_length=""),
        reply(503, b"zz\r\nno chunk", transfer_encoding="chunked"),
        reply(503, b"no gzip", content_encoding="gzip", connection="close"),
        reply(503, connection="close"),
    ],
    ids=["cut", "close", "chunk", "gzip", "empty"],
)
def test_a_refusal_whose_body_is_bad(kit: Kit, refusal: bytes) -> None:
    """Whatever becomes of a refusal's body, the next attempt is made."""
    with raw(says(refusal), says(OK)) as server:
        [answer] = kit.calls(kit.retrying(), server.url)
    assert (answer.status_code, answer.extensions["attempts"]) == (200, 2)


def test_a_refusal_whose_body_stalls(kit: Kit) -> None:
    """A refusal's body holds a call for a second, whatever the client's timeout is."""
    with raw(hangs(reply(503, b"la", **LONG)), says(OK)) as server:
        began = time.monotonic()
        [answer] = kit.calls(kit.retrying(), server.url, timeout=30)
        took = time.monotonic() - began
    assert answer.status_code == 200
    assert took < 4


def test_a_kept_answer_that_breaks_off(kit: Kit) -> None:
    """An answer that is the caller's raises its own fault when it is read, once."""
    with raw(says(reply(503, b"x", **LONG))) as server:
        [error] = kit.calls(kit.retrying(max_attempts=1), server.url)
    assert isinstance(error, kit.http.RemoteProtocolError)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("policy", "reason"),
    [({}, "attempts"), ({"deadline": 1}, "deadline"), ({"max_retry_after": 1}, None)],
    ids=["attempts", "deadline", "retry-after"],
)
def test_a_kept_answer_is_whole(kit: Kit, policy: Any, reason: str | None) -> None:
    """The 503 that the caller gets can be read, at once or as a stream."""
    asks = {} if reason == "attempts" else {"retry-after": "9"}
    body = b"later" * 50_000
    with raw(says(*[reply(503, body, **asks)] * 9)) as server:
        [answer] = kit.calls(kit.retrying(**policy), server.url)
        assert (answer.status_code, answer.content) == (503, body)
        assert answer.extensions["retry_stop"] == (reason or "retry-after")
        assert kit.streamed(kit.retrying(**policy), server.url) == (503, body)


def test_a_post_that_is_reset_is_sent_once(kit: Kit) -> None:
    """A POST whose connection is reset may have arrived, and is not sent again."""
    request = {"method": "POST", "content": b"order"}
    with raw(resets) as server:
        [error] = kit.calls(kit.retrying(), {**request, "url": server.url})
    assert isinstance(error, kit.http.NetworkError | kit.http.RemoteProtocolError)
    assert error.__notes__ == ["attempt 1, the last one: unsafe"]
    assert [r.endswith(b"order") for r in server.requests] == [True]
    with raw(resets, says(OK)) as server:
        key = {"headers": {"idempotency-key": "8e03978e"}}
        [answer] = kit.calls(kit.retrying(), {**request, **key, "url": server.url})
    assert answer.status_code == 200
    assert [r.endswith(b"order") for r in server.requests] == [True, True]


# -- deadlines -----------------------------------------------------------------------


def timed(kit: Kit, url: str, deadline: float = 0.3) -> tuple[Any, float]:
    """Get something within a deadline; return the outcome and how long it took."""
    transport = kit.retrying(deadline=deadline, base_delay=0.001)
    began = time.monotonic()
    [outcome] = kit.calls(transport, url, timeout=30)
    return outcome, time.monotonic() - began


def test_a_server_that_hangs(kit: Kit) -> None:
    """The deadline ends an attempt that gets no answer, and there is no other."""
    with raw(hangs()) as server:
        error, took = timed(kit, server.url)
    assert isinstance(error, kit.http.TimeoutException)
    assert 0.25 < took < 2
    assert len(server.requests) == 1


def test_a_head_that_drips(kit: Kit) -> None:
    """An async call ends in time; a blocking one once the head is there.

    httpx hands a blocking transport's caller nothing before the head is complete, and
    its read timeout is for each piece: RetryTransport says so of itself.
    """
    with raw(drips(OK, pause=0.02)) as server:  # in about a second
        error, took = timed(kit, server.url, 0.2)
    assert isinstance(error, kit.retry.DeadlineExceeded)
    assert 0.15 < took < 4
    if kit.is_async:
        assert took < 0.8


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_body_that_drips(kit: Kit, status: int) -> None:
    """The deadline holds while the caller reads, and while a refusal is drained."""
    head = reply(status, content_length="400")
    with raw(drips(b"x" * 400, after=head)) as server:  # in twenty seconds
        error, took = timed(kit, server.url)
    assert isinstance(error, kit.retry.DeadlineExceeded)
    assert took < 3


def test_a_body_that_stalls(kit: Kit) -> None:
    """The deadline ends the wait for the rest of a body."""
    with raw(hangs(reply(200, b"x", **LONG))) as server:
        error, took = timed(kit, server.url)
    assert isinstance(error, kit.http.TimeoutException)
    assert took < 2


# -- what lies above the transport ---------------------------------------------------


class Noting:
    """A transport that notes the timeouts of each attempt."""

    def __init__(self, below: Any) -> None:
        self.below, self.reads = below, list[float]()

    def handle_request(self, request: Any) -> Any:
        self.reads.append(request.extensions["timeout"]["read"])
        return self.below.handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        self.reads.append(request.extensions["timeout"]["read"])
        return await self.below.handle_async_request(request)

    def close(self) -> None:
        self.below.close()

    async def aclose(self) -> None:
        await self.below.aclose()


def test_a_redirect_is_a_call_of_its_own(kit: Kit, serve: Serve) -> None:
    """The hop to another path has attempts, a deadline and timeouts of its own."""
    later = (503, {"retry-after": "20"}, b"later")
    moved = (302, {"location": "/other"}, b"")
    app = Scripted(later, moved, later, (200, {}, b"done"))
    noting = Noting(kit.below())
    times = {"clock": lambda: kit.now, "random": lambda: 0.0}
    transport = kit.retrying(noting, times=times, deadline=30)
    options = {"timeout": 25, "follow_redirects": True}
    [answer] = kit.calls(transport, f"{serve(app)}/first", **options)
    assert answer.content == b"done"
    paths = [path for path, _, _, _ in app.asked]
    assert paths == ["/first", "/first", "/other", "/other"]
    assert noting.reads == [25, 10, 25, 10]
    assert [a.extensions["attempts"] for a in (*answer.history, answer)] == [2, 2]


def test_auth_above_it(kit: Kit, serve: Serve) -> None:
    """An Auth that answers a 401 with a token has each of its requests retried."""

    class Token(kit.http.Auth):
        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            answer = yield request
            if answer.status_code == 401:
                request.headers["authorization"] = "Bearer t"
                yield request

    later = (503, {}, b"later")
    app = Scripted(later, (401, {}, b""), later, (200, {}, b"done"))
    [answer] = kit.calls(kit.retrying(), f"{serve(app)}/", auth=Token())
    assert answer.content == b"done"
    tokens = [headers.get("authorization") for _, _, headers, _ in app.asked]
    assert tokens == [None, None, "Bearer t", "Bearer t"]
    assert app.connections == 1


# -- bodies and connections ----------------------------------------------------------


def test_a_form_with_a_file_is_sent_again(
    kit: Kit, serve: Serve, tmp_path: Path
) -> None:
    """A form is sent again with the same bytes, its file from its start."""
    path = tmp_path / "scan.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    app = Scripted((503, {}, b"later"), (200, {}, b"done"))
    with path.open("rb") as file:
        request = {"method": "PUT", "url": f"{serve(app)}/", "files": {"scan": file}}
        [answer] = kit.calls(kit.retrying(), request)
    assert answer.content == b"done"
    first, second = (body for _, _, _, body in app.asked)
    assert first == second
    assert path.read_bytes() in first


def test_a_stream_is_sent_once(kit: Kit, serve: Serve, tmp_path: Path) -> None:
    """An open file, or an async generator, is sent once, and its 503 is kept."""
    path = tmp_path / "scan.bin"
    path.write_bytes(b"x" * 100_000)
    app = Scripted((503, {}, b"later"), (200, {}, b"done"))

    async def generate() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    with path.open("rb") as file:
        content: Any = generate() if kit.is_async else file
        request = {"method": "PUT", "url": f"{serve(app)}/", "content": content}
        [answer] = kit.calls(kit.retrying(), request)
    assert (answer.status_code, answer.content) == (503, b"later")
    assert answer.extensions["retry_stop"] == "body"
    assert [body for _, _, _, body in app.asked] == [path.read_bytes()]


@pytest.mark.parametrize(
    ("size", "connections"), [(0, 1), (60_000, 1), (20_000_000, 2)]
)
def test_which_connections_are_kept(
    kit: Kit, serve: Serve, size: int, connections: int
) -> None:
    """After a refusal that is read to its end the connection serves on, else not."""
    app = Scripted((503, {}, b"x" * size), (200, {}, b"done"))
    url = f"{serve(app)}/"
    answers = kit.calls(kit.retrying(), url, url, url)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert (len(app.asked), app.connections) == (4, connections)


# -- breakers ------------------------------------------------------------------------


def test_a_breaker_below_retries(kit: Kit) -> None:
    """A service that is away is asked four times; a refusal is not retried."""
    model = kit.breaker.CircuitBreaker(minimum_number_of_calls=4)
    with raw(listens=False) as server:
        breaker = kit.breaker.CircuitBreakerTransport(kit.below(), model)
        outcomes = kit.calls(kit.retrying(breaker), *[server.url] * 5)
    assert isinstance(outcomes[0], kit.http.ConnectError)
    assert {type(o) for o in outcomes[1:]} == {kit.breaker.CircuitOpenError}
    assert len(kit.sleeps) == 3
    assert 0 < outcomes[1].retry_after <= 5


def test_faults_on_the_wire_open_it(kit: Kit) -> None:
    """Half a head, a reset and a timeout count as failures, as a 503 does."""
    model = kit.breaker.CircuitBreaker(minimum_number_of_calls=4)
    with raw(says(CUT_HEAD), resets, hangs(), says(LATER)) as server:
        breaker = kit.breaker.CircuitBreakerTransport(kit.below(), model)
        outcomes = kit.calls(breaker, *[server.url] * 6, timeout=0.4)
    assert isinstance(outcomes[2], kit.http.ReadTimeout)
    assert outcomes[3].content == b"later"
    assert {type(o) for o in outcomes[4:]} == {kit.breaker.CircuitOpenError}
    assert len(server.requests) == 4


def test_twenty_at_once_and_one_probe(kit: Kit) -> None:
    """Of twenty tasks or threads one reaches a server that may be back."""
    go = threading.Event()

    def script(server: Raw, connection: socket.socket) -> None:
        server.receive(connection)
        assert go.wait(PATIENCE)  # the others are through before the probe is
        connection.sendall(OK)

    with raw(script) as server:
        clock = lambda: kit.now  # noqa: E731
        model = kit.breaker.CircuitBreaker(minimum_number_of_calls=4, clock=clock)
        transport = kit.breaker.CircuitBreakerTransport(kit.below(), model)
        breaker = transport.breaker(server.url)
        for _ in range(4):
            breaker.acquire().settle(False)
        kit.now += 5
        assert breaker.state == "half_open"
        outcomes = kit.at_once(transport, server.url, 20, go.set)
    assert {type(o) for o in outcomes[:19]} == {kit.breaker.CircuitOpenError}
    assert outcomes[19].content == b"done"
    assert len(server.requests) == 1
    assert breaker.state == "closed"
