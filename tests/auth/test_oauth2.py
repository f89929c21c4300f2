"""Tests of `patterns/auth/oauth2.py`; they can be copied along with it."""

import asyncio
import base64
import copy
import gc
import gzip
import json
import logging
import pickle
import re
import socket
import threading
import time
import urllib.parse
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from patterns.auth import oauth2

TOKEN_URL = "https://as.test/token"
API = "https://api.test/things"
SECRET = "p%ss w+rd:/~x"
both = pytest.mark.parametrize("kind", ["sync", "async"])


def vectors(name):
    """Return a data file, looked for from this file's folder upwards."""
    here = Path(__file__).resolve()
    place = next(p for p in here.parents if (p / "vectors" / name).is_file())
    return json.loads((place / "vectors" / name).read_text("utf-8"))


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


def grant(access="t1", **members):
    """Return a token response."""
    members = {"access_token": access, "token_type": "Bearer", **members}
    return httpx.Response(200, json={n: v for n, v in members.items() if v is not ...})


class Server:
    """An authorization server with rotation and reuse detection, and an API."""

    def __init__(self, expires_in=3600):
        self.expires_in, self.forms, self.heads = expires_in, [], []
        self.calls, self.alive, self.refresh = [], set(), "r0"
        self.answers, self.api, self.until = [], None, None
        self.lock, self.arrived = threading.Lock(), 0

    def token(self, request):
        form = dict(urllib.parse.parse_qsl(request.content.decode()))
        with self.lock:
            self.forms.append(form)
            self.heads.append(dict(request.headers))
            number = len(self.forms)
            if self.answers:
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
            more = {}
            if form["grant_type"] == "refresh_token":
                if form["refresh_token"] != self.refresh:
                    self.alive, self.refresh = set(), None  # the family is revoked
                    return httpx.Response(400, json={"error": "invalid_grant"})
                self.refresh = more["refresh_token"] = f"r{number}"
            self.alive.add(f"t{number}")
            return grant(f"t{number}", expires_in=self.expires_in, **more)

    def call(self, request):
        self.calls.append(request.headers.get("authorization"))
        if self.api is not None:
            return self.api(request)
        kind, _, token = (self.calls[-1] or "").partition(" ")
        return httpx.Response(200 if token in self.alive else 401, text=f"{kind}")

    def handle(self, request):
        if request.url.path != "/token":
            return self.call(request)
        self.arrived += 1
        while self.until is not None and not self.until():
            time.sleep(0)
        return self.token(request)

    async def ahandle(self, request):
        if request.url.path != "/token":
            return self.call(request)
        self.arrived += 1
        await until(lambda: self.until is None or self.until())
        return self.token(request)

    def client(self, kind, **options):
        if kind == "sync":
            transport = httpx.MockTransport(self.handle)
            return httpx.Client(transport=transport, **options)
        transport = httpx.MockTransport(self.ahandle)
        return httpx.AsyncClient(transport=transport, **options)


def credentials(server, kind, clock=None, **options):
    """Return client credentials at a server."""
    options = {"client_id": "me", "client_secret": SECRET, **options}
    options = {"client": server.client(kind), **options}
    return oauth2.ClientCredentials(
        token_url=TOKEN_URL, clock=clock or Clock(), **options
    )


def refreshing(server, kind, clock=None, **options):
    """Return a refresh token's auth at a server."""
    if "token" not in options and "store" not in options:
        options["refresh_token"] = "r0"
    options = {"client_id": "app", "client": server.client(kind), **options}
    return oauth2.RefreshToken(token_url=TOKEN_URL, clock=clock or Clock(), **options)


def fetch(kind, server, auth, url=API, **options):
    """Make a call with an auth, in either kind of client."""
    method = options.pop("method", "GET")
    if kind == "sync":
        return server.client(kind, auth=auth).request(method, url, **options)

    async def call():
        return await server.client(kind, auth=auth).request(method, url, **options)

    return asyncio.run(call())


def get(kind, auth):
    """Get a token in either way."""
    return auth.get_token() if kind == "sync" else asyncio.run(auth.aget_token())


def run(kind, flow, name, *args, **options):
    """Call a method of a flow, or its async twin."""
    if kind == "sync":
        return getattr(flow, name)(*args, **options)
    return asyncio.run(getattr(flow, f"a{name}")(*args, **options))


def error(kind, auth):
    """Return the error that getting a token gives."""
    with pytest.raises(oauth2.OAuth2Error) as caught:
        get(kind, auth)
    return caught.value


def counting(auth, server, enough):
    """Let the token endpoint answer when so many callers have come."""
    seen, board = [], auth._board

    def counted(*args):
        found = board(*args)
        seen.append(found)
        return found

    auth._board = counted
    server.until = lambda: len(seen) >= enough
    return seen


async def until(ready):
    """Let the other tasks run until something is so."""
    while not ready():  # noqa: ASYNC110
        await asyncio.sleep(0)


def in_threads(number, call):
    """Call something in so many threads, and return results and errors."""
    results = []

    def work():
        try:
            results.append(call())
        except Exception as exc:
            results.append(exc)

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


async def in_tasks(number, call):
    """Await something in so many tasks, and return results and errors."""
    tasks = (call() for _ in range(number))
    return await asyncio.gather(*tasks, return_exceptions=True)


def texts(token):
    """Return an access token, or the name of an error."""
    return getattr(token, "access_token", None) or type(token).__name__


# -- the table ---------------------------------------------------------------------


def test_table_is_the_machine():
    """Each state can be reached and left, and no transition leads out of the table."""
    states = {"missing", "valid", "refreshing", "lost"}
    table = oauth2.TRANSITIONS
    assert {state for state, _ in table} == set(table.values()) == states
    assert all(event.isalpha() for _, event in table)


class Machine(RuleBasedStateMachine):
    """The auth against a model: what is held, and how often the server was asked."""

    def __init__(self):
        super().__init__()
        self.server, self.clock = Server(expires_in=100), Clock()
        self.auth = refreshing(self.server, "sync", self.clock)
        self.asked, self.fresh, self.dead = 0, None, False

    def usable(self):
        return self.fresh is not None and self.clock.now < self.fresh + 70

    @rule(seconds=st.sampled_from([1, 60, 69, 70, 1000]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule(status=st.sampled_from([0, 429, 503, 200]))
    def call(self, status):
        if status and not self.usable() and not self.dead:
            self.server.answers = [httpx.Response(status, text="<html>")]
        asks = not self.usable() and not self.dead
        try:
            token = self.auth.get_token()
        except oauth2.OAuth2Error:
            assert self.dead or status
            self.fresh = None
        else:
            assert token.access_token in self.server.alive
            self.fresh = self.clock.now if asks else self.fresh
        self.asked += asks

    @precondition(lambda self: not self.dead)
    @rule()
    def revoked(self):
        self.server.answers = [httpx.Response(400, json={"error": "invalid_grant"})]
        usable = self.usable()
        try:
            self.auth.get_token()
            assert usable
            self.server.answers = []
        except oauth2.OAuth2Error:
            self.dead, self.asked = True, self.asked + 1

    @rule()
    def given(self):
        self.server.refresh = f"new{self.asked}"
        self.server.alive.add("given")
        self.auth.token = oauth2.Token(
            "given", refresh_token=self.server.refresh, expires_at=self.clock.now + 100
        )
        self.fresh, self.dead = self.clock.now, False

    @invariant()
    def asked_as_often_as_needed(self):
        assert len(self.server.forms) == self.asked
        assert (self.auth._state == "lost") == self.dead


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


# -- one flight for all ------------------------------------------------------------


@pytest.mark.parametrize("make", [credentials, refreshing])
def test_threads_share_one_request(make):
    """200 threads without a token make one token request."""
    server = Server()
    auth = make(server, "sync")
    counting(auth, server, 200)
    tokens = in_threads(200, auth.get_token)
    assert {texts(token) for token in tokens} == {"t1"}
    assert len(server.forms) == 1


@pytest.mark.parametrize("make", [credentials, refreshing])
def test_tasks_share_one_request(make):
    """200 tasks without a token make one token request."""
    server = Server()
    auth = make(server, "async")
    counting(auth, server, 200)
    tokens = asyncio.run(in_tasks(200, auth.aget_token))
    assert {texts(token) for token in tokens} == {"t1"}
    assert len(server.forms) == 1


def test_expired_token_is_renewed_once():
    """200 threads with an expired token make one request, and the family lives."""
    server, clock = Server(), Clock()
    auth = refreshing(server, "sync", clock)
    auth.get_token()
    clock.now += 3600
    counting(auth, server, 200)
    assert {texts(t) for t in in_threads(200, auth.get_token)} == {"t2"}
    clock.now += 3600
    server.until = None
    assert auth.get_token().access_token == "t3"
    assert [form["refresh_token"] for form in server.forms] == ["r0", "r1", "r2"]


def test_threads_and_tasks_share_one_request(monkeypatch):
    """Threads and tasks at once on one object, with clients of its own, ask once."""
    server = Server()
    own = {"sync": server.client("sync"), "async": server.client("async")}
    made = {n: lambda *, timeout, n=n: own[n] for n in own}
    auth = credentials(server, "sync", client=None)
    monkeypatch.setattr(oauth2, "_require", lambda client, kind: None)
    monkeypatch.setattr(httpx, "Client", made["sync"])
    monkeypatch.setattr(httpx, "AsyncClient", made["async"])
    counting(auth, server, 100)
    tokens = []
    threads = threading.Thread(
        target=lambda: tokens.extend(in_threads(50, auth.get_token))
    )
    threads.start()
    tokens += asyncio.run(in_tasks(50, auth.aget_token))
    threads.join(20)
    assert [texts(token) for token in tokens] == ["t1"] * 100
    assert len(server.forms) == 1


def test_two_loops_in_two_threads():
    """Two event loops in two threads share one flight."""
    server = Server()
    auth = credentials(server, "async")
    counting(auth, server, 40)
    tokens = in_threads(2, lambda: asyncio.run(in_tasks(20, auth.aget_token)))
    assert [texts(token) for some in tokens for token in some] == ["t1"] * 40
    assert len(server.forms) == 1


def test_second_loop_after_the_first():
    """An object outlives the event loop that it was first used in."""
    server, clock = Server(), Clock()
    auth = credentials(server, "async", clock)
    for number in (1, 2):
        assert get("async", auth).access_token == f"t{number}"
        clock.now += 3600


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("failure", [503, httpx.ConnectError("refused")])
def test_failure_is_told_to_all(kind, failure):
    """A failure is asked for once, and each who waits gets an error of its own."""
    server = Server()
    server.answers = [httpx.Response(503) if failure == 503 else failure]
    auth = refreshing(server, kind)
    counting(auth, server, 60)
    if kind == "sync":
        errors = in_threads(60, auth.get_token)
    else:
        errors = asyncio.run(in_tasks(60, auth.aget_token))
    wanted = oauth2.OAuth2Error if failure == 503 else httpx.ConnectError
    assert {type(exc) for exc in errors} == {wanted}
    assert len({id(exc) for exc in errors}) == 60
    assert len(server.forms) == 1
    server.until = None
    assert get(kind, auth).access_token == "t2"  # a later caller asks again


def test_cancelled_leader_ends_alone():
    """Who is cancelled while it fetches the token leaves the others their answer."""
    server = Server()
    auth = refreshing(server, "async")
    seen = counting(auth, server, 1000)

    async def main():
        tasks = [asyncio.create_task(auth.aget_token()) for _ in range(20)]
        await until(lambda: len(seen) == 20)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        server.until = None
        return tasks[0], await asyncio.gather(*tasks[1:])

    leader, others = asyncio.run(main())
    assert leader.cancelled()
    assert [texts(token) for token in others] == ["t1"] * 19
    assert server.arrived == 1


def test_all_callers_cancelled():
    """A flight that nobody waits for any more still lands, and serves the next."""
    server = Server()
    auth = credentials(server, "async")
    seen = counting(auth, server, 1000)

    async def main():
        task = asyncio.create_task(auth.aget_token())
        await until(lambda: seen)
        task.cancel()
        await asyncio.wait([task])
        gc.collect()  # the flight's task is held by more than the loop
        server.until = None
        return await auth.aget_token()

    assert asyncio.run(main()).access_token == "t1"
    assert server.arrived == 1


def test_loop_that_ends_under_the_flight():
    """A flight whose loop was shut down is over, and the next caller asks."""
    server = Server()
    auth = credentials(server, "async")
    seen = counting(auth, server, 1000)

    async def leave():
        asyncio.create_task(auth.aget_token())  # noqa: RUF006
        await until(lambda: seen)

    asyncio.run(leave())
    server.until = None
    assert get("async", auth).access_token == "t1"


@pytest.mark.parametrize("close", [True, False])
def test_loop_that_stops_under_the_flight(close):
    """A loop that only stopped, or was closed as it was, holds nobody up."""
    server, store = Server(), oauth2.MemoryTokenStore()
    auth = credentials(server, "async", store=store)
    seen = counting(auth, server, 1000)
    loop = asyncio.new_event_loop()

    async def leave():
        task = asyncio.ensure_future(auth.aget_token())
        await until(lambda: seen)
        for _ in range(5):
            await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(leave())
    if close:
        task._log_destroy_pending = auth._flight.task._log_destroy_pending = False
        loop.close()
    server.until = None
    assert get("async", auth).access_token == "t1"
    if not close:  # what comes back late is told that it came to nothing
        assert loop.run_until_complete(task).access_token == "t1"
        loop.close()
    assert server.arrived == 2
    assert store.try_lock()


def test_task_cancelled_before_it_began():
    """A flight that was cancelled before its first step is lost, and not waited for."""
    server = Server()
    auth = credentials(server, "async")

    async def main():
        caller = asyncio.create_task(auth.aget_token())
        await asyncio.sleep(0)
        auth._flight.task.cancel()
        return await caller

    old, oauth2._LOOK = oauth2._LOOK, 0.01
    try:
        assert asyncio.run(main()).access_token == "t1"
    finally:
        oauth2._LOOK = old


def test_flight_that_never_lands():
    """A flight is given up after a bounded time."""
    server = Server()
    auth = credentials(server, "sync")
    flight, leads = auth._board(None)
    assert leads
    flight.until = 0
    assert auth.get_token().access_token == "t1"
    auth._land(flight, None)  # too late to say anything
    assert auth.token.access_token == "t1"


def test_interrupted_leader_frees_the_others():
    """Ctrl-C in the thread that fetches the token lets the others fetch it."""
    server, kills = Server(), [KeyboardInterrupt()]
    auth = credentials(server, "sync", client=None)

    def handle(request):
        while not server.until():
            time.sleep(0)
        if kills:
            raise kills.pop()
        return server.token(request)

    transport = httpx.MockTransport(handle)
    auth._registration.client = httpx.Client(transport=transport)
    counting(auth, server, 20)
    results = []

    def work():
        try:
            results.append(auth.get_token())
        except KeyboardInterrupt as exc:
            results.append(exc)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    found = sorted(texts(result) for result in results)
    assert found == ["KeyboardInterrupt"] + ["t1"] * 19


def test_blocking_call_on_the_thread_of_the_flight():
    """A blocking call that would wait for its own thread is refused at once."""
    server = Server()
    auth = credentials(server, "async")
    seen = counting(auth, server, 1000)
    auth._registration.client = None

    async def main():
        task = asyncio.create_task(auth.aget_token())
        await until(lambda: seen)
        with pytest.raises(RuntimeError, match="await it there"):
            auth.get_token()
        task.cancel()

    made = server.client("async")
    own, httpx.AsyncClient = httpx.AsyncClient, lambda *, timeout: made
    old, oauth2._require = oauth2._require, lambda client, kind: None
    try:
        asyncio.run(main())
    finally:
        httpx.AsyncClient, oauth2._require = own, old


@both
def test_call_inside_of_the_flight(kind):
    """A hook of the token client that wants a token itself is refused, not hung."""
    server = Server()
    auth = credentials(server, kind)
    wants = auth.get_token if kind == "sync" else auth.aget_token
    hooks = {"request": [lambda request: wants()]}
    auth._registration.client.event_hooks = hooks
    with pytest.raises(RuntimeError, match="inside of what fetches it"):
        get(kind, auth)
    auth._registration.client.event_hooks = {}
    assert get(kind, auth).access_token == "t1"


def test_flight_of_a_parent_process(monkeypatch):
    """A process that was forked during a flight does not wait for its parent's."""
    server = Server()
    auth = credentials(server, "sync")
    flight, _ = auth._board(None)
    flight.talk = auth._renewal(flight)
    flight.thread = next(flight.talk) and 0  # the store's lock is taken too
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert flight.is_lost()
    assert auth.get_token().access_token == "t1"


def test_client_of_the_other_kind():
    """A client of the other kind is a TypeError, and is not gone around."""
    server = Server()
    with pytest.raises(TypeError, match="AsyncClient"):
        get("async", credentials(server, "sync"))
    with pytest.raises(TypeError, match=r"httpx\.Client"):
        get("sync", credentials(server, "async"))
    assert server.forms == []


# -- calls with the token ----------------------------------------------------------


@both
def test_header(kind):
    """Requests go out with the token, which is asked for once."""
    server = Server()
    auth = credentials(server, kind)
    assert [fetch(kind, server, auth).status_code for _ in range(3)] == [200] * 3
    assert server.calls == ["Bearer t1"] * 3
    assert len(server.forms) == 1


@both
def test_dpop_type(kind):
    """A DPoP token is for who asked for that type, and goes out under its name."""
    server = Server()
    server.answers = [grant("d1", token_type="dpop"), grant("d2", token_type="dpop")]
    server.api = lambda request: httpx.Response(200)
    types = ("Bearer", "DPoP")
    fetch(kind, server, credentials(server, kind, token_types=types))
    assert server.calls == ["DPoP d1"]
    assert error(kind, credentials(server, kind)).error == "invalid_response"


@both
def test_refused_token_is_renewed_once(kind):
    """A 401 for a token that was valid so far is answered by one renewal."""
    server = Server()
    auth = refreshing(server, kind)
    get(kind, auth)
    server.alive.clear()
    assert fetch(kind, server, auth).status_code == 200
    assert server.calls == ["Bearer t1", "Bearer t2"]
    assert len(server.forms) == 2


@both
def test_refused_once_more(kind):
    """A 401 for the second token is final, and the next request asks once more."""
    server = Server()
    server.api = lambda request: httpx.Response(401)
    auth = credentials(server, kind)
    for calls in (2, 4):
        assert fetch(kind, server, auth).status_code == 401
        assert len(server.calls) == calls
    assert len(server.forms) <= 4


@both
def test_first_token_is_refused(kind):
    """A token that was fetched for this request is renewed once too."""
    server = Server()
    answers = iter([401, 200])
    server.api = lambda request: httpx.Response(next(answers))
    auth = credentials(server, kind)
    assert fetch(kind, server, auth).status_code == 200
    assert len(server.forms) == 2


def test_newer_token_is_used_without_asking():
    """Where another caller renewed the refused token, its token is used."""
    server = Server()
    auth = credentials(server, "sync")
    auth.get_token()
    request = httpx.Request("GET", API)
    flow = auth.sync_auth_flow(request)
    assert next(flow).headers["authorization"] == "Bearer t1"
    auth.token = oauth2.Token("t9")
    flow.send(httpx.Response(401, request=request))
    assert request.headers["authorization"] == "Bearer t9"
    assert len(server.forms) == 1


def test_same_token_again():
    """A server that gives the refused token again is asked once for all it was in."""
    server = Server()
    auth = credentials(server, "sync")
    server.answers = [grant("same") for _ in range(4)]
    old = auth.get_token()
    requests = [httpx.Request("GET", API) for _ in range(3)]
    flows = [auth.sync_auth_flow(request) for request in requests]
    for flow in flows:
        assert next(flow).headers["authorization"] == f"Bearer {old.access_token}"
    for flow, request in zip(flows, requests, strict=True):
        flow.send(httpx.Response(401, request=request))
    assert len(server.forms) == 2


def test_many_threads_with_a_refused_token():
    """100 threads that are all refused renew the token once."""
    server = Server()
    auth = refreshing(server, "sync")
    auth.get_token()
    server.alive.clear()
    client = server.client("sync", auth=auth)
    codes = in_threads(100, lambda: client.get(API).status_code)
    assert codes == [200] * 100
    assert len(server.forms) == 2


@pytest.mark.parametrize(
    ("challenge", "again"),
    [
        ('Bearer error="invalid_token"', True),
        ("Bearer error=invalid_token", True),
        ('Bearer realm="x"', True),
        ("Negotiate", True),
        ('Bearer realm="error=insufficient_scope"', True),
        ('Bearer error="insufficient_scope", scope="write"', False),
        ('Bearer realm="a\\"b", error="insufficient_scope"', False),
        ('DPoP error="use_dpop_nonce"', False),
    ],
)
def test_challenge_says_what_was_wrong(challenge, again):
    """Only a 401 that is about the token is worth another token (RFC 6750 §3.1)."""
    server = Server()
    auth = credentials(server, "sync")
    auth.get_token()
    head = {"www-authenticate": challenge}
    server.api = lambda request: httpx.Response(401, headers=head)
    assert fetch("sync", server, auth).status_code == 401
    assert len(server.calls) == 1 + again


@both
@pytest.mark.parametrize("body", ["bytes", "stream"])
def test_body_that_can_be_sent_again(kind, body):
    """A 401 is repeated where the body is bytes, and left where it was a stream."""
    server = Server()
    auth = credentials(server, kind)
    get(kind, auth)
    server.alive.clear()

    def chunks():
        yield b"abc"

    async def achunks():
        yield b"abc"

    stream = chunks() if kind == "sync" else achunks()
    content = b"abc" if body == "bytes" else stream
    answer = fetch(kind, server, auth, method="POST", content=content)
    assert answer.status_code == (200 if body == "bytes" else 401)
    assert len(server.calls) == (2 if body == "bytes" else 1)


@both
def test_refused_token_of_a_stream_is_not_used_again(kind):
    """A 401 that cannot be repeated renews the token for the next request."""
    server = Server()
    auth = credentials(server, kind)
    get(kind, auth)
    server.alive.clear()

    def post():
        achunks = (chunk async for chunk in Chunks(b"abc"))
        content = iter([b"abc"]) if kind == "sync" else achunks
        return fetch(kind, server, auth, method="POST", content=content).status_code

    assert [post(), post()] == [401, 200]


def test_form_with_a_file_is_sent_again():
    """A multipart form whose file rewinds can be repeated."""
    server = Server()
    auth = credentials(server, "sync")
    auth.get_token()
    server.alive.clear()
    files = {"file": ("a.txt", b"abc")}
    answer = fetch("sync", server, auth, method="POST", files=files)
    assert answer.status_code == 200


@both
def test_authorization_of_the_caller(kind):
    """A request that has an Authorization keeps it, and its 401 is its own."""
    server = Server()
    auth = credentials(server, kind)
    headers = {"Authorization": "Basic abc"}
    assert fetch(kind, server, auth, headers=headers).status_code == 401
    assert server.calls == ["Basic abc"]
    assert server.forms == []


def test_request_sent_again():
    """A request object that is sent twice gets the token of the day."""
    server, clock = Server(), Clock()
    auth = credentials(server, "sync", clock)
    client = server.client("sync", auth=auth)
    request = client.build_request("GET", API)
    client.send(request)
    clock.now += 3600
    client.send(request)
    assert server.calls == ["Bearer t1", "Bearer t2"]
    request.url = httpx.URL("https://evil.test/")
    client.send(request)
    assert server.calls[2] is None


@both
def test_other_origins_get_nothing(kind, caplog):
    """The token goes to the origin of the first request, and to no other."""
    server = Server()
    auth = credentials(server, kind)
    fetch(kind, server, auth)
    others = ["https://evil.test/a?k=s3cret", "http://api.test/", "https://api.test:8/"]
    for url in others * 2:
        assert fetch(kind, server, auth, url).status_code == 401
    assert server.calls == ["Bearer t1"] + [None] * 6
    told = [r.getMessage() for r in caplog.records if r.name == oauth2.__name__]
    assert len(told) == 3
    assert "evil.test" in told[0]
    assert "s3cret" not in caplog.text
    assert len(server.forms) == 1


def test_given_origins():
    """With `origins`, those get the token, and no first request makes another one."""
    server = Server()
    server.api = lambda request: httpx.Response(200)
    origins = ["https://a.test/path", httpx.URL("https://b.test:443")]
    auth = credentials(server, "sync", origins=origins)
    hosts = ["https://c.test", "https://a.test", "https://b.test", "https://a.test:444"]
    for url in hosts:
        fetch("sync", server, auth, url)
    assert server.calls == [None, "Bearer t1", "Bearer t1", None]
    single = credentials(server, "sync", origins="https://a.test")
    assert single._origins == {("https", "a.test", None)}


@both
@pytest.mark.parametrize(
    "place", ["https://evil.test/x", "https://api.test:8/x", "http://api.test/x"]
)
def test_redirect_to_another_origin(kind, place):
    """A redirect away loses the token, and the 401 there brings no new one."""
    server = Server()
    auth = credentials(server, kind)
    get(kind, auth)

    def api(request):
        if request.url.path == "/things":
            return httpx.Response(307, headers={"location": place})
        return httpx.Response(401)

    server.api = api
    client = {"follow_redirects": True}
    assert fetch(kind, server, auth, **client).status_code == 401
    assert server.calls == ["Bearer t1", None]
    assert len(server.forms) == 1


def test_https_upgrade_is_another_origin():
    """httpx keeps the header from http to https; the 401 there is not followed."""
    server = Server()
    auth = credentials(server, "sync")
    auth.get_token()

    def api(request):
        if request.url.scheme == "http":
            return httpx.Response(307, headers={"location": "https://api.test/x"})
        return httpx.Response(401)

    server.api = api
    fetch("sync", server, auth, "http://api.test/x", follow_redirects=True)
    assert len(server.calls) == 2
    assert len(server.forms) == 1


def test_redirected_post_is_not_posted_again():
    """After a 303 the request that was refused is repeated, not the POST before it."""
    server = Server()
    auth = credentials(server, "sync")
    auth.get_token()
    seen = []

    def api(request):
        seen.append(f"{request.method} {request.url.path}")
        if request.url.path == "/things":
            return httpx.Response(303, headers={"location": "/done"})
        ok = request.headers["authorization"] == "Bearer t2"
        return httpx.Response(200 if ok else 401)

    server.api = api
    options = {"method": "POST", "content": b"x", "follow_redirects": True}
    assert fetch("sync", server, auth, **options).status_code == 200
    assert seen == ["POST /things", "GET /done", "GET /done"]


@both
def test_failed_renewal_after_a_401(kind):
    """Where the renewal fails, its error is raised, since it says more than the 401."""
    server = Server()
    auth = refreshing(server, kind)
    get(kind, auth)
    server.alive.clear()
    server.answers = [httpx.Response(503, headers={"retry-after": "7"})]
    with pytest.raises(oauth2.OAuth2Error) as caught:
        fetch(kind, server, auth)
    assert (caught.value.error, caught.value.status) == ("server_error", 503)
    assert caught.value.retry_after == 7


# -- expiry ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "leeway", "last"),
    [(3600, 30, 3569.9), (3600, 0, 3599.9), (20, 30, 9.9), ("3600", 30, 3569.9)],
)
def test_leeway(expires_in, leeway, last):
    """A token is renewed a leeway before it expires, at most half of its life."""
    server, clock = Server(expires_in), Clock()
    auth = credentials(server, "sync", clock, leeway=leeway)
    auth.get_token()
    clock.now += last
    assert auth.get_token().access_token == "t1"
    clock.now += 0.2
    assert auth.get_token().access_token == "t2"


@both
@pytest.mark.parametrize("expires_in", [0, -5, "0", -1e300])
def test_token_that_is_expired_already(kind, expires_in):
    """A token without a life serves the call it was fetched for, and no other."""
    server = Server(expires_in)
    auth = credentials(server, kind)
    assert [fetch(kind, server, auth).status_code for _ in range(3)] == [200] * 3
    assert server.calls == ["Bearer t1", "Bearer t2", "Bearer t3"]


@both
def test_token_without_an_expiry(kind):
    """A token whose life is not told is used until it is refused."""
    server, clock = Server(expires_in=...), Clock()
    auth = credentials(server, kind, clock)
    assert get(kind, auth).expires_at is None
    clock.now += 1e9
    assert fetch(kind, server, auth).status_code == 200
    server.alive.clear()
    assert fetch(kind, server, auth).status_code == 200
    assert len(server.forms) == 2


# -- the token request -------------------------------------------------------------


def test_basic_is_form_urlencoded_first():
    """Both parts are form-urlencoded before base64 (RFC 6749 §2.3.1)."""
    server = Server()
    credentials(server, "sync", client_id="a:b c", scope="x y").get_token()
    sent = server.heads[0]["authorization"].removeprefix("Basic ")
    name, _, secret = base64.b64decode(sent).decode().partition(":")
    assert (name, secret) == ("a%3Ab+c", "p%25ss+w%2Brd%3A%2F~x")
    assert server.forms[0] == {"grant_type": "client_credentials", "scope": "x y"}
    assert server.heads[0]["accept"] == "application/json"


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"client_auth": "post"}, {"client_id": "me", "client_secret": SECRET}),
        ({"client_auth": "none"}, {"client_id": "me"}),
        ({"client_secret": None}, {"client_id": "me"}),
        ({"client_auth": lambda f, u: {"x": u}}, {"client_id": "me", "x": TOKEN_URL}),
        (
            {"client_auth": "post", "extra": {"aud": "a", "grant_type": "evil"}},
            ...,
        ),
    ],
)
def test_client_authentication(options, form):
    """The client says who it is in the form, and `extra` overrides none of it."""
    server = Server()
    credentials(server, "sync", **options).get_token()
    if form is ...:
        form = {"client_id": "me", "client_secret": SECRET, "aud": "a"}
    assert server.forms[0] == {"grant_type": "client_credentials", **form}
    assert "authorization" not in server.heads[0]


def test_extra_goes_along_with_each_refresh():
    """Further parameters are sent at refreshes too, and lists as often as they say."""
    server, clock = Server(), Clock()
    auth = refreshing(server, "sync", clock, extra={"resource": ["urn:a", "urn:b"]})
    auth.get_token()
    clock.now += 3600
    auth.get_token()
    assert [form["resource"] for form in server.forms] == ["urn:b"] * 2


def test_client_of_the_callers():
    """Of a given client neither auth nor redirects nor headers come into play."""
    server = Server()
    auth = credentials(server, "sync")
    headers = {"Authorization": "Bearer other", "User-Agent": "mine/1"}
    options = {"auth": ("u", "p"), "follow_redirects": True, "headers": headers}
    auth._registration.client = server.client("sync", **options)
    auth.get_token()
    assert server.heads[0]["authorization"].startswith("Basic bWU6")
    assert server.heads[0]["user-agent"] == "mine/1"
    place = {"location": "https://evil.test/token"}
    server.answers = [httpx.Response(307, headers=place)]
    auth.forget()
    assert error("sync", auth).error == "invalid_response"
    assert len(server.forms) == 2


def test_hook_that_raises_for_status():
    """A hook that makes an error of a status does not take its place, or leak it."""
    server = Server()
    server.answers = [httpx.Response(503, json={"error": "temporarily_unavailable"})]

    def hook(response):
        response.raise_for_status()

    async def ahook(response):
        response.raise_for_status()

    for kind, each in [("sync", hook), ("async", ahook)]:
        client = server.client(kind, event_hooks={"response": [each]})
        server.answers = [httpx.Response(503)]
        found = error(kind, credentials(server, kind, client=client))
        assert (found.error, found.status) == ("server_error", 503)


@both
def test_own_client_is_closed(kind, monkeypatch):
    """A client of its own is made for a flight with a timeout, and closed behind it."""
    server, made = Server(), []
    real = {"sync": httpx.Client, "async": httpx.AsyncClient}[kind]

    class Own(real):
        def __init__(self, **options):
            handler = server.handle if kind == "sync" else server.ahandle
            super().__init__(transport=httpx.MockTransport(handler), **options)
            made.append(self)

    monkeypatch.setattr(httpx, real.__name__, Own)
    auth = oauth2.ClientCredentials(token_url=TOKEN_URL, client_id="me")
    get(kind, auth)
    assert [client.is_closed for client in made] == [True]
    assert made[0].timeout == httpx.Timeout(10)


@pytest.mark.parametrize(
    "url",
    [
        "http://as.test/token",
        "ftp://as.test/token",
        "https://u:p@as.test/token",
        "https://as.test/token#f",
        "//as.test/token",
        "https:///token",
        "http://127.0.0.1.evil.test/",
        "https://[::1",
        "https://\u200b/",
        "",
        None,
        5,
    ],
)
def test_endpoint_that_is_not_safe(url):
    """An endpoint is https, or http to this machine; the error does not repeat it."""
    with pytest.raises(ValueError, match="token_url: https") as caught:
        oauth2.ClientCredentials(token_url=url, client_id="a")
    assert "evil" not in str(caught.value)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "127.9.9.9", "[::1]:1", "localhost"]
)
def test_endpoint_on_this_machine(host):
    """Plain http is for loopback addresses."""
    oauth2.ClientCredentials(token_url=f"http://{host}/token", client_id="a")


@pytest.mark.parametrize(
    "options",
    [
        {"client_id": ""},
        {"client_auth": "digest"},
        {"client_auth": "post"},
        {"leeway": -1},
        {"leeway": float("nan")},
        {"origins": ["/relative"]},
        {"token_types": ["mac"]},
        {"scope": ["read", "write"]},
    ],
)
def test_arguments(options):
    """Arguments that make no sense are refused at once."""
    options = {"token_url": TOKEN_URL, "client_id": "a", **options}
    with pytest.raises(ValueError, match=r"client|leeway|origins|scope|token_types"):
        oauth2.ClientCredentials(**options)


# -- answers -----------------------------------------------------------------------

BAD = [
    {"access_token": ...},
    {"access_token": ""},
    {"access_token": 5},
    {"access_token": "a b"},
    {"access_token": "a\r\nx: y"},
    {"access_token": "é"},
    {"access_token": "a" * 16_385},
    {"token_type": ...},
    {"token_type": 5},
    {"token_type": "mac"},
    {"token_type": "DPoP"},
    {"token_type": "Bearer "},
    {"expires_in": True},
    {"expires_in": "soon"},
    {"expires_in": "1e3"},
    {"expires_in": []},
    {"refresh_token": 5},
    {"refresh_token": "a b"},
    {"error": "odd", "access_token": ...},
    {"error": ["x"]},
]


@pytest.mark.parametrize("members", BAD)
def test_response_that_is_no_token(members):
    """A 200 that lacks what RFC 6749 §5.1 asks for is refused, and not repeated."""
    server = Server()
    members = {"access_token": "s3cret", "refresh_token": "s3cret", **members}
    server.answers = [grant(**members)]
    found = error("sync", credentials(server, "sync"))
    code = "odd" if members.get("error") == "odd" else "invalid_response"
    assert found.error == code
    assert found.status in (200, None)
    assert "s3cret" not in repr(found) + str(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"access_token":"a","token_type":"Bearer","expires_in":NaN}',
        b'{"access_token":"a","token_type":"Bearer","expires_in":1e999}',
        b'{"access_token":"a","access_token":"b","token_type":"Bearer"}',
        b'{"access_token":"a","token_type":"Bearer","x":' + b"[" * 100_000,
        b'{"access_token":"a","token_type":"Bearer","x":"' + b" " * 2**20 + b'"}',
        b'{"access_token":"a","token_type":"Bearer","x":' + b"9" * 5000 + b"}",
    ],
    ids=range(13),
)
@both
def test_body_that_is_no_json_object(kind, body):
    """What is no JSON object of UTF-8 up to 1 MiB is no token response."""
    server = Server()
    server.answers = [httpx.Response(200, content=body)]
    assert error(kind, credentials(server, kind)).error == "invalid_response"


@pytest.mark.parametrize("expires_in", [10**300, 1e300, "99999999999999999999"])
def test_endless_life(expires_in):
    """A life of more than ten years is taken for ten years."""
    server, clock = Server(expires_in), Clock()
    token = credentials(server, "sync", clock).get_token()
    assert token.expires_at == clock.now + 315_360_000


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, and counts how many were taken."""

    def __init__(self, *chunks, times=1):
        self.chunks, self.times, self.taken, self.closed = chunks, times, 0, 0

    def __iter__(self):
        for _ in range(self.times):
            for chunk in self.chunks:
                self.taken += 1
                yield chunk

    async def __aiter__(self):
        for chunk in self:
            await asyncio.sleep(0)
            yield chunk

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


@both
def test_endless_body(kind):
    """Of an answer no more than 1 MiB is read, and it is closed."""
    server, body = Server(), Chunks(b"x" * 65_536, times=10_000)
    server.answers = [httpx.Response(200, stream=body)]
    assert error(kind, credentials(server, kind)).error == "invalid_response"
    assert body.taken == 17
    assert body.closed


@both
@pytest.mark.parametrize(
    ("coding", "body", "good"),
    [
        ("gzip", gzip.compress(grant("z1").content, mtime=0), True),
        ("identity", grant("z1").content, True),
        ("gzip", gzip.compress(grant("z1", pad="a" * 2**21).content, mtime=0), False),
        ("gzip", b"junk", False),
        ("br", b"junk", False),
    ],
)
def test_compressed_body(kind, coding, body, good):
    """An answer is unpacked up to 1 MiB, though it was asked for as it is."""
    server = Server()
    head = {"content-encoding": coding}
    server.answers = [httpx.Response(200, headers=head, stream=Chunks(body))]
    auth = credentials(server, kind)
    if good:
        assert get(kind, auth).access_token == "z1"
    else:
        assert error(kind, auth).error == "invalid_response"
    assert server.heads[0]["accept-encoding"] == "identity"


@both
def test_answer_that_drips(kind, monkeypatch):
    """The whole answer has a time, however often a piece of it comes."""
    server = Server()
    server.answers = [httpx.Response(200, stream=Chunks(b" ", times=1000))]
    monkeypatch.setattr(oauth2, "_OVERALL", -1)
    auth = credentials(server, kind)
    with pytest.raises(httpx.ReadTimeout) as caught:
        get(kind, auth)
    assert str(caught.value.request.url) == TOKEN_URL
    assert "content-type" not in caught.value.request.headers


@both
@pytest.mark.parametrize(
    "place", [b"http://xn--\xff/", b"//[", b"http://\xff:99999999"]
)
def test_redirect_to_nowhere(kind, place):
    """A Location that nothing can be made of is a transport's error, or ours."""
    server = Server()
    server.answers = [httpx.Response(302, headers=[(b"location", place)])]
    with pytest.raises((oauth2.OAuth2Error, httpx.RemoteProtocolError)):
        get(kind, credentials(server, kind))


@given(
    st.binary(max_size=40), st.sampled_from([b"http://", b"//", b"http://xn--", b""])
)
@settings(deadline=None)
def test_any_redirect(place, before):
    """Any Location is a transport's error, or this module's own."""
    server = Server()
    head = [(b"location", before + place)]
    server.answers = [httpx.Response(302, headers=head)]
    with pytest.raises((oauth2.OAuth2Error, httpx.RemoteProtocolError)):
        get("sync", credentials(server, "sync"))


@pytest.mark.parametrize(
    ("status", "members", "code"),
    [
        (400, {"error": "invalid_client"}, "invalid_client"),
        (200, {"error": "authorization_pending"}, "authorization_pending"),
        (401, None, "invalid_response"),
        (403, {"error": "é"}, "invalid_response"),
        (400, {"error": 'a"b'}, "invalid_response"),
        (400, {"error": "x" * 101}, "invalid_response"),
        (400, {"error": SECRET}, "invalid_response"),
        (400, {"error": ["x"]}, "invalid_response"),
        (302, {"error": "x"}, "invalid_response"),
        (500, None, "server_error"),
        (429, None, "server_error"),
        (503, {"error": "temporarily_unavailable"}, "temporarily_unavailable"),
    ],
)
def test_error_of_the_server(status, members, code):
    """The code is the server's, if it has the standard's shape, or else ours."""
    server = Server()
    content = b"<html>" if members is None else json.dumps(members).encode()
    server.answers = [httpx.Response(status, content=content)]
    found = error("sync", credentials(server, "sync"))
    assert (found.error, found.status) == (code, status)


def test_description_without_secrets():
    """A description loses what was sent, what may be a token, and odd characters."""
    server = Server()
    words = f"no r0 for {SECRET}\r\nhere: {'eyJhbGciOi' * 9} \x1b[31m\ud800 "
    words += "long " * 99
    members = {"error": "invalid_scope", "error_description": words}
    members["error_uri"] = "https://as.test/errors"
    server.answers = [httpx.Response(400, content=json.dumps(members).encode())]
    found = error("sync", refreshing(server, "sync", client_secret=SECRET))
    assert found.error_description.startswith("no … for … here: … [31m long")
    assert len(found.error_description) <= 300
    assert found.error_uri == "https://as.test/errors"
    assert str(found).startswith("invalid_scope: no …")
    members["error_uri"], members["error_description"] = "javascript:x", 5
    server.answers = [httpx.Response(400, content=json.dumps(members).encode())]
    found = error("sync", refreshing(server, "sync"))
    assert (found.error_uri, found.error_description) == (None, None)


@pytest.mark.parametrize(
    "told", ["hunter2", "a/b", "a%2Fb", "bWU6YSUyRmI=", "_s3cr3ts_"]
)
def test_description_repeats_what_was_sent(told):
    """No parameter and no authorization comes back, encoded or inside of a word."""
    server = Server()
    extra = {"password": "hunter2", "pin": "s3cr3ts_"}
    auth = credentials(server, "sync", client_secret="a/b", extra=extra)
    members = {"error": "invalid_client", "error_description": f"it was {told}."}
    server.answers = [httpx.Response(400, json=members)]
    assert error("sync", auth).error_description in ("it was ….", "it was _….")


NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (format_datetime(NOW.replace(minute=1), usegmt=True), 60),
        ("Wed, 25 Nov 2026 00:01:00 -0000", 60),
        ("Wed, 25 Nov 2020 00:01:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("9" * 99, None),
        ("Wed, 99 Nov 9999999999 00:01:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after(value, seconds):
    """Retry-After is told in seconds, whichever form it has."""
    server = Server()
    server.answers = [httpx.Response(503, headers={"retry-after": value})]
    clock = Clock(NOW.timestamp())
    assert error("sync", credentials(server, "sync", clock)).retry_after == seconds


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
token_members = st.dictionaries(
    st.sampled_from(
        [
            "access_token",
            "token_type",
            "expires_in",
            "refresh_token",
            "scope",
            "error",
            "error_uri",
            "error_description",
            "id_token",
        ]
    ),
    json_values | st.sampled_from(["Bearer", "a.b", "3600", 3600]),
)


@given(token_members, st.integers(200, 599))
@settings(deadline=None)
def test_any_token_response(members, status):
    """Any JSON gives a token that can be sent, or this module's own error."""
    server = Server()
    content = json.dumps(members).encode("utf-8", "surrogatepass")
    server.answers = [httpx.Response(status, content=content)]
    auth = credentials(server, "sync")
    try:
        token = auth.get_token()
    except oauth2.OAuth2Error as exc:
        found = exc.error
        assert re.fullmatch(r"[\x20-\x7e]{1,100}", found)
    else:
        assert 200 <= status < 300
        assert token.access_token.isascii()
        assert oauth2.Token.from_dict(token.to_dict()) == token


@given(st.binary(), st.integers(200, 599), st.sampled_from(["", "gzip", "br"]))
@settings(deadline=None)
def test_any_bytes(content, status, coding):
    """Any bytes are no token, and nothing but this module's own error."""
    server, head = Server(), {"content-encoding": coding}
    stream = Chunks(content)
    server.answers = [httpx.Response(status, headers=head, stream=stream)]
    assert error("sync", credentials(server, "sync")).error


# -- refresh and store -------------------------------------------------------------


def test_refresh_token_that_stays():
    """A response without a refresh token keeps the old one, and its scope."""
    server = Server()
    server.answers = [
        grant("n1", expires_in=0),
        grant("n2", refresh_token="", scope="a"),
    ]
    token = oauth2.Token("old", refresh_token="keep", scope="a b", expires_at=1)
    auth = refreshing(server, "sync", token=token)
    first, second = auth.get_token(), auth.get_token()
    assert [form["refresh_token"] for form in server.forms] == ["keep", "keep"]
    assert (first.scope, second.scope, second.refresh_token) == ("a b", "a", "keep")


@both
def test_invalid_grant_is_final(kind):
    """A refused refresh token is forgotten; until there is another nobody asks."""
    server, store = Server(), oauth2.MemoryTokenStore()
    server.refresh = "other"
    token = oauth2.Token("old", refresh_token="r0", expires_at=1)
    auth = refreshing(server, kind, token=token, store=store)
    found = [error(kind, auth) for _ in range(5)]
    assert {exc.error for exc in found} == {"invalid_grant"}
    assert len({id(exc) for exc in found}) == 5
    assert len(server.forms) == 1
    assert auth.token is None
    assert store.load() is None
    server.refresh = "r7"
    auth.token = oauth2.Token("new", refresh_token="r7", expires_at=1)
    assert get(kind, auth).access_token == "t2"


def test_new_login_by_another_process():
    """After invalid_grant a token set that another puts in the store is used."""
    server, store = Server(), oauth2.MemoryTokenStore()
    server.refresh = None
    auth = refreshing(server, "sync", store=store, refresh_token="r0")
    assert error("sync", auth).error == "invalid_grant"
    store.save(oauth2.Token("theirs").to_dict())
    assert auth.get_token().access_token == "theirs"
    assert len(server.forms) == 1


@both
@pytest.mark.parametrize("failure", [500, 503, 429, "refused", "html", "5xx grant"])
def test_other_failures_are_not_final(kind, failure):
    """Any other failure leaves the refresh token as it was."""
    server = Server()
    server.answers = {
        "refused": [httpx.ConnectError("refused")],
        "html": [httpx.Response(400, text="<html>")],
        "5xx grant": [httpx.Response(502, json={"error": "invalid_grant"})],
    }.get(failure) or [httpx.Response(failure)]
    auth = refreshing(server, kind)
    with pytest.raises((oauth2.OAuth2Error, httpx.ConnectError)):
        get(kind, auth)
    assert get(kind, auth).access_token == "t2"
    assert [form["refresh_token"] for form in server.forms] == ["r0", "r0"]


def test_invalid_grant_for_client_credentials():
    """Without a refresh token there is nothing to lose by it."""
    server = Server()
    server.answers = [httpx.Response(400, json={"error": "invalid_grant"})]
    auth = credentials(server, "sync")
    assert error("sync", auth).error == "invalid_grant"
    assert auth.get_token().access_token == "t2"


def test_no_refresh_token():
    """Without a refresh token an expired token set says that a login is due."""
    server = Server()
    auth = refreshing(server, "sync", token=oauth2.Token("old", expires_at=1))
    assert error("sync", auth).error == "login_required"
    auth = refreshing(server, "sync", token=oauth2.Token("good"))
    auth.forget()
    assert auth.token is None
    assert error("sync", auth).error == "login_required"
    assert server.forms == []


class Store(oauth2.MemoryTokenStore):
    """A store that writes down what it was asked, and fails where it is told to."""

    def __init__(self, fails=()):
        super().__init__()
        self.log, self.fails = [], list(fails)

    def note(self, name):
        self.log.append(name)
        if name in self.fails:
            self.fails.remove(name)
            raise OSError(f"{name} failed")

    def load(self):
        self.note("load")
        return super().load()

    def save(self, token):
        self.note("save")
        super().save(token)

    def try_lock(self):
        self.note("try_lock")
        return super().try_lock()

    def unlock(self):
        self.log.append("unlock")
        super().unlock()


@both
def test_saved_before_it_is_used(kind):
    """A new refresh token is in the store before anybody gets the access token."""
    server, store, seen = Server(), Store(), []
    auth = refreshing(
        server,
        kind,
        store=store,
        refresh_token="r0",
        on_token=lambda token: seen.append((store.load()["refresh_token"], auth.token)),
    )
    assert get(kind, auth).access_token == "t1"
    assert store.log == ["load", "try_lock", "load", "save", "load", "unlock"]
    assert seen == [("r1", None)]
    assert oauth2.Token.from_dict(store.load()) == auth.token


@both
@pytest.mark.parametrize("step", ["try_lock", "load"])
def test_store_that_fails_before(kind, step):
    """What the store raises reaches the callers, nothing was asked, no lock is left."""
    server, store = Server(), Store()
    auth = refreshing(server, kind, store=store, refresh_token="r0")
    store.fails = [step]
    with pytest.raises(OSError, match=f"{step} failed"):
        get(kind, auth)
    assert server.forms == []
    assert get(kind, auth).access_token == "t1"
    assert store.try_lock()


@both
def test_store_that_fails_to_save(kind):
    """A token set that could not be saved is saved at the next call, not asked anew."""
    server, store = Server(), Store()
    auth = refreshing(server, kind, store=store, refresh_token="r0")
    store.fails = ["save", "save"]
    for _ in range(2):
        with pytest.raises(OSError, match="save failed"):
            get(kind, auth)
    assert get(kind, auth).access_token == "t1"
    assert store.load()["refresh_token"] == "r1"
    assert len(server.forms) == 1
    assert store.try_lock()


def test_store_that_fails_to_save_for_long():
    """The refresh token that could not be saved is the one that is used next."""
    server, store, clock = Server(), Store(), Clock()
    auth = refreshing(server, "sync", clock, store=store, refresh_token="r0")
    store.fails = ["save"]
    with pytest.raises(OSError, match="save failed"):
        auth.get_token()
    clock.now += 3600
    assert auth.get_token().access_token == "t2"
    assert server.forms[1]["refresh_token"] == "r1"


def test_two_objects_on_one_store():
    """What another has renewed meanwhile is used, and the server is not asked."""
    server, store, clock = Server(), oauth2.MemoryTokenStore(), Clock()
    old = oauth2.Token("old", refresh_token="r0", expires_at=clock.now + 40)
    autos = [
        refreshing(server, "sync", clock, token=old, store=store) for _ in range(2)
    ]
    clock.now += 40
    assert [auth.get_token().access_token for auth in autos] == ["t1", "t1"]
    assert len(server.forms) == 1
    server.alive.clear()
    for auth in autos:
        assert fetch("sync", server, auth).status_code == 200
    assert len(server.forms) == 2


def test_store_at_the_start():
    """What the store has goes before a refresh token, and before an older token set."""
    server, store, clock = Server(), oauth2.MemoryTokenStore(), Clock()
    kept = oauth2.Token("kept", expires_at=clock.now + 500)
    store.save(kept.to_dict())
    auth = refreshing(server, "sync", clock, store=store, refresh_token="r0")
    assert auth.get_token() == kept
    older = oauth2.Token("older", expires_at=clock.now + 400)
    auth = refreshing(server, "sync", clock, store=store, token=older)
    assert auth.token == kept
    newer = oauth2.Token("newer", expires_at=clock.now + 600)
    assert refreshing(server, "sync", clock, store=store, token=newer).token == newer
    assert store.load()["access_token"] == "newer"


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"access_token": 5},
        {"access_token": "a", "expires_at": "x"},
        {"access_token": "a", "expires_at": float("nan")},
        {"access_token": "a", "token_type": "DPoP"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": "a b"},
        {"access_token": "a", "scope": 5},
        [1],
    ],
)
def test_store_with_junk(junk, caplog):
    """A store whose content is no token set is as good as empty, and that is told."""
    server, store = Server(), oauth2.MemoryTokenStore()
    store._token, store.load = junk, lambda: junk
    auth = credentials(server, "sync", store=store)
    assert auth.get_token().access_token == "t1"
    assert "no token set of ours" in caplog.text


@both
def test_lock_of_another(kind, monkeypatch):
    """While another holds the store's lock the waits grow, and then it is an error."""
    server, store, waits = Server(), oauth2.MemoryTokenStore(), []
    store.try_lock()

    async def asleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(asyncio, "sleep", asleep)
    auth = credentials(server, kind, store=store)
    assert error(kind, auth).error == "timeout"
    assert waits[:3] == [0.01, 0.02, 0.04]
    assert waits[-1] == 0.5
    assert 45 < sum(waits) < 46
    store.unlock()
    assert get(kind, auth).access_token == "t1"


def test_forgotten_meanwhile():
    """What comes back after `forget` goes to who waited, and is not kept."""
    server, store = Server(), oauth2.MemoryTokenStore()
    auth = credentials(server, "sync", store=store)
    server.until = lambda: auth.forget() or True
    assert auth.get_token().access_token == "t1"
    assert (auth.token, store.load()) == (None, None)


@pytest.mark.parametrize("status", [200, 400])
def test_given_or_forgotten_while_it_is_saved(status):
    """What a caller says while an outcome is being stored is what stays."""
    server, mine, threads = Server(), oauth2.Token("mine", refresh_token="new"), []

    class Slow(oauth2.MemoryTokenStore):
        def save(self, token):
            if not threads:
                work = auth.forget if status == 200 else partial(setattr, auth, "token")
                args = () if status == 200 else (mine,)
                threads.append(threading.Thread(target=work, args=args))
                threads[0].start()
                threads[0].join(0.1)
            super().save(token)

    store = Slow()
    if status == 400:
        server.answers = [httpx.Response(400, json={"error": "invalid_grant"})]
    auth = refreshing(server, "sync", store=store, refresh_token="r0")
    with suppress(oauth2.OAuth2Error):
        auth.get_token()
    threads[0].join(10)
    assert store.load() == (None if status == 200 else mine.to_dict())
    assert auth.token == (None if status == 200 else mine)


def test_given_meanwhile():
    """A token that is set during a flight stays."""
    server, mine = Server(), oauth2.Token("mine")
    auth = credentials(server, "sync")

    def give():
        auth.token = mine
        return True

    server.until = give
    auth.get_token()
    assert auth.get_token() == auth.token == mine


# -- secrets -----------------------------------------------------------------------


def everything(exc):
    """Return the text of an error with all that hangs on it."""
    seen = []
    while exc is not None:
        seen += [repr(exc), str(exc), repr(vars(exc))]
        request = getattr(exc, "_request", None)
        if request is not None:
            seen += [str(request.url), str(request.headers.raw), str(request.read())]
        exc = exc.__cause__ or exc.__context__
    return "\n".join(seen)


@both
@pytest.mark.parametrize("failure", ["refused", "refusal", "junk"])
def test_no_secret_in_an_error(kind, failure, caplog):
    """Neither error, nor its causes, nor the request on it, nor a log has a secret."""
    caplog.set_level(logging.DEBUG)
    server = Server()

    def fail(request):
        raise httpx.ConnectError("no way", request=request)

    bodies = {"refusal": {"error": "x", "error_description": "s3cret-refresh-token"}}
    answer = httpx.Response(400, json=bodies.get(failure, ["s3cret"]))
    client = server.client(kind)
    if failure == "refused":
        server.token = fail
    server.answers = [answer]
    auth = oauth2.RefreshToken(
        token_url=TOKEN_URL + "?tenant=s3cret",
        client_id="app",
        client_secret="s3cret-password",
        client_auth="post",
        refresh_token="s3cret-refresh-token",
        client=client,
        clock=Clock(),
    )
    with pytest.raises((oauth2.OAuth2Error, httpx.ConnectError)) as caught:
        get(kind, auth)
    assert "s3cret" not in everything(caught.value)
    ours = [r.getMessage() for r in caplog.records if r.name == oauth2.__name__]
    assert "s3cret" not in repr(auth) + str(ours)


def test_error_of_a_strange_class():
    """A transport's own error class keeps its attributes, or becomes a plain one."""

    class Odd(httpx.ConnectError):
        def __init__(self, one, two):
            super().__init__("odd")

    class Kept(httpx.ConnectError):
        retry_after = 0.0

    kept = Kept("kept")
    kept.retry_after = 5.0
    for failure, kind in [(kept, Kept), (Odd(1, 2), httpx.TransportError)]:
        server = Server()
        server.answers = [failure]
        with pytest.raises(kind) as caught:
            credentials(server, "sync").get_token()
        assert getattr(caught.value, "retry_after", 5.0) == 5.0


def test_fault_in_the_client_auth():
    """What a caller's own callable raises reaches all, with the place it came from."""

    def fault(form, url):
        raise ZeroDivisionError("mine")

    server = Server()
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        credentials(server, "sync", client_auth=fault).get_token()
    assert caught.traceback[-1].name == "fault"


def test_secrets_are_not_shown_or_pickled():
    """No repr has a secret, and nothing that holds one can be pickled."""
    token = oauth2.Token("s3cret", refresh_token="s3cret", id_token="s3cret")
    request = oauth2.AuthorizationRequest(
        "https://s3cret", "s3cret", "s3cret", "http://x"
    )
    device = oauth2.DeviceAuthorization("AB-CD", "https://x", None, 1.0, 5.0, "s3cret")
    auth = credentials(Server(), "sync", client_secret="s3cret", client=None)
    for thing in (token, request, device, auth):
        assert "s3cret" not in repr(thing) + str(thing)
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    found = oauth2.OAuth2Error("x", "words", None, 400, 5.0)
    for other in (copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert (other.error, other.status, str(other)) == ("x", 400, "x: words (400)")
    assert str(oauth2.OAuth2Error("x")) == "x"


# -- keys --------------------------------------------------------------------------


def test_pkce_vector():
    """The S256 challenge of RFC 7636, appendix B."""
    case = vectors("jose_rfc.json")["rfc7636_appendix_b"]
    assert oauth2.pkce_challenge(case["code_verifier"]) == case["code_challenge"]
    for bad in ("a" * 42, "a" * 129, "a" * 42 + "=", "a" * 43 + "\n"):
        with pytest.raises(ValueError, match="43 to 128"):
            oauth2.pkce_challenge(bad)


@pytest.mark.parametrize("kind", ["ES256", "RS256", "Ed25519", "pem"])
def test_private_key_jwt(kind):
    """Each request has an assertion of its own, by the client and for the server."""
    jwk = pytest.importorskip("joserfc.jwk")
    jwt = pytest.importorskip("joserfc.jwt")
    options = {"RS256": ("RSA", 2048), "Ed25519": ("OKP", "Ed25519")}
    key = jwk.generate_key(*options.get(kind, ("EC", "P-256")), private=True)
    data = {**key.as_dict(private=True), "kid": "k1"}
    given_key = key.as_pem(private=True).decode() if kind == "pem" else data
    clock = Clock()
    auths = [
        oauth2.private_key_jwt("me", given_key, clock=clock),
        oauth2.private_key_jwt("me", given_key, audience="as", clock=clock),
    ]
    for auth, audience in zip(auths, [TOKEN_URL, "as"], strict=True):
        server, ids = Server(), set()
        for _ in range(2):
            credentials(server, "sync", client_auth=auth).get_token()
            form = server.forms[-1]
            assert form["client_id"] == "me"
            assert form["client_assertion_type"].endswith(":jwt-bearer")
            name = "ES256" if kind == "pem" else kind
            told = jwt.decode(form["client_assertion"], key, algorithms=[name])
            assert told.header.get("kid") == (None if kind == "pem" else "k1")
            ids.add(told.claims.pop("jti"))
            assert told.claims == {
                **{"iss": "me", "sub": "me", "aud": audience},
                **{"iat": int(clock.now), "exp": int(clock.now) + 60},
            }
        assert len(ids) == 2
        assert "s3cret" not in repr(auth)


def test_private_key_jwt_without_a_private_key(monkeypatch):
    """A public or symmetric key is refused, and a missing package is named."""
    jwk = pytest.importorskip("joserfc.jwk")
    public = jwk.generate_key("EC", "P-256").as_dict(private=False)
    for key in (public, {"kty": "oct", "k": "c2VjcmV0"}, "junk", {}):
        with pytest.raises(ValueError, match="no private key"):
            oauth2.private_key_jwt("me", key)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match="needs the package joserfc"):
        oauth2.private_key_jwt("me", {})


# -- authorization code ------------------------------------------------------------

CALLBACK = "https://app.test/callback"


def code_flow(server, kind, **options):
    """Return an authorization code flow at a server."""
    options = {"client_id": "app", "redirect_uri": CALLBACK, **options}
    return oauth2.AuthorizationCode(
        authorization_url="https://as.test/auth?tenant=1",
        token_url=TOKEN_URL,
        client=server.client(kind),
        clock=Clock(),
        **options,
    )


@both
def test_code_flow(kind):
    """The URL has state and challenge, and the code goes out with the verifier."""
    server = Server()
    flow = code_flow(server, kind, scope="a b", extra={"resource": "urn:x"})
    request = run(kind, flow, "start")
    sent = dict(httpx.URL(request.url).params)
    assert sent.pop("state") == request.state
    assert len(request.state) >= 43
    assert len(request.code_verifier) >= 43
    assert sent.pop("code_challenge") == oauth2.pkce_challenge(request.code_verifier)
    assert sent == {
        **{"tenant": "1", "response_type": "code", "client_id": "app"},
        **{"redirect_uri": CALLBACK, "scope": "a b", "resource": "urn:x"},
        "code_challenge_method": "S256",
    }
    callback = f"{CALLBACK}?code=c0de&state={request.state}"
    token = run(kind, flow, "exchange", request, callback)
    assert (token.access_token, token.scope) == ("t1", "a b")
    assert server.forms == [
        {
            **{"grant_type": "authorization_code", "code": "c0de"},
            **{"redirect_uri": CALLBACK, "code_verifier": request.code_verifier},
            **{"client_id": "app", "resource": "urn:x"},
        }
    ]
    other = flow.start() if kind == "sync" else run(kind, flow, "start")
    assert other.state != request.state
    assert other.code_verifier != request.code_verifier


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("code=c", "state_mismatch"),
        ("code=c&state=", "state_mismatch"),
        ("code=c&state=other", "state_mismatch"),
        ("code=c&state=%FF%C3%A9", "state_mismatch"),
        ("error=access_denied", "state_mismatch"),
        ("code=c&state={state}&iss=https://evil.test", "issuer_mismatch"),
        ("error=x&state={state}&iss=https://evil.test", "issuer_mismatch"),
        ("code=c&state={state}&iss=", "issuer_mismatch"),
        ("error=access_denied&state={state}", "access_denied"),
        ("error=access_denied&code=c&state={state}", "access_denied"),
        ("error=%00&state={state}", "invalid_response"),
        ("error={state}&state={state}", "invalid_response"),
        ("state={state}", "invalid_response"),
        ("code=&state={state}", "invalid_response"),
        ("code=%0A&state={state}", "invalid_response"),
        ("code=c&code=d&state={state}", "invalid_response"),
        ("code=c&state={state}&state={state}", "invalid_response"),
        ("code=c&state={state}&iss=https://as.test&iss=https://as.test", ...),
        ("&".join(f"a{n}=1" for n in range(100)), "invalid_response"),
    ],
)
def test_callback_that_is_refused(query, code):
    """A callback is refused, in the order of what it is to be trusted for."""
    server = Server()
    flow = code_flow(server, "sync", issuer="https://as.test")
    request = flow.start()
    url = f"{CALLBACK}?{query.replace('{state}', request.state)}"
    with pytest.raises(oauth2.OAuth2Error) as caught:
        flow.exchange(request, url)
    assert caught.value.error == ("invalid_response" if code is ... else code)
    assert request.state not in everything(caught.value)
    assert server.forms == []


@pytest.mark.parametrize(
    "url",
    [
        "http://app.test/callback",
        "https://evil.test/callback",
        "https://app.test:444/callback",
        "https://app.test/callback/",
        "https://app.test@evil.test/callback",
        "/callback",
        "",
        None,
        b"https://app.test/callback",
        "https://[::1/callback",
        "https://app.test:99999999/callback",
        "https://app.test/callback?" + "a" * 20_000,
    ],
)
def test_callback_of_another_address(url):
    """A URL that is not the redirect URI is not the answer, whatever it says."""
    flow = code_flow(Server(), "sync")
    request = flow.start()
    if isinstance(url, str):
        url += f"?code=c&state={request.state}"
    with pytest.raises(oauth2.OAuth2Error) as caught:
        flow.exchange(request, url)
    assert caught.value.error == "redirect_mismatch"


def test_issuer_in_the_callback():
    """`iss` is required where the server says that it sends it (RFC 9207 §2.4)."""
    server = Server()
    metadata = {
        "issuer": "https://as.test",
        "authorization_endpoint": "https://as.test/auth",
        "token_endpoint": TOKEN_URL,
    }
    for sends in (True, False):
        metadata["authorization_response_iss_parameter_supported"] = sends
        flow = oauth2.AuthorizationCode.from_metadata(
            oauth2.ServerMetadata(metadata),
            client_id="app",
            redirect_uri=CALLBACK,
            client=server.client("sync"),
        )
        request = flow.start()
        callback = f"{CALLBACK}?code=c&state={request.state}"
        assert flow.exchange(request, callback + "&iss=https://as.test").access_token
        if sends:
            with pytest.raises(oauth2.OAuth2Error, match="issuer_mismatch"):
                flow.exchange(request, callback)
        else:
            assert flow.exchange(request, callback).access_token
    del metadata["token_endpoint"]
    with pytest.raises(oauth2.OAuth2Error, match="invalid_metadata"):
        oauth2.AuthorizationCode.from_metadata(metadata, client_id="app")
    with pytest.raises(ValueError, match="needs an issuer"):
        code_flow(server, "sync", require_iss=True)


@both
def test_pushed_request(kind):
    """A pushed request leaves only its name in the URL (RFC 9126)."""
    server = Server()
    answer = {"request_uri": "urn:ietf:params:oauth:request_uri:x", "expires_in": 60}
    server.answers = [httpx.Response(201, json=answer), httpx.Response(201, json={})]
    flow = code_flow(server, kind, par_url=TOKEN_URL)
    request = run(kind, flow, "start")
    assert dict(httpx.URL(request.url).params) == {
        **{"tenant": "1", "client_id": "app"},
        "request_uri": answer["request_uri"],
    }
    assert server.forms[0]["state"] == request.state
    assert server.forms[0]["code_challenge_method"] == "S256"
    with pytest.raises(oauth2.OAuth2Error, match="invalid_response"):
        run(kind, flow, "start")


def test_push_that_the_server_requires():
    """Where the server requires a pushed request, it is pushed."""
    metadata = {
        "issuer": "https://as.test",
        "authorization_endpoint": "https://as.test/auth",
        "token_endpoint": TOKEN_URL,
        "pushed_authorization_request_endpoint": "https://as.test/par",
        "require_pushed_authorization_requests": True,
    }
    flow = oauth2.AuthorizationCode.from_metadata(metadata, client_id="app")
    assert flow._par_url == "https://as.test/par"
    with pytest.raises(ValueError, match="no redirect_uri"):
        flow.start()
    del metadata["pushed_authorization_request_endpoint"]
    with pytest.raises(oauth2.OAuth2Error, match="invalid_metadata"):
        oauth2.AuthorizationCode.from_metadata(metadata, client_id="app")


@given(st.text(), st.text(), st.text())
def test_any_callback(query, state, code):
    """Any callback is refused by this module's own error, if its state is not right."""
    flow = code_flow(Server(), "sync")
    request = flow.start()
    for url in (query, f"{CALLBACK}?{query}", f"{CALLBACK}?state={state}&code={code}"):
        with pytest.raises(oauth2.OAuth2Error):
            flow.exchange(request, url)


# -- the loopback listener ---------------------------------------------------------


def knock(uri, text):
    """Open a connection to the listener and send something."""
    url = httpx.URL(uri)
    guest = socket.create_connection((url.host, url.port))
    guest.sendall(text.encode())
    return guest


def reply(guest):
    """Return all that the listener answers."""
    with guest:
        guest.settimeout(5)
        return b"".join(iter(lambda: guest.recv(4096), b"")).decode()


def test_listener():
    """Other paths and methods are passed over, up to the first callback."""
    with oauth2.LoopbackListener() as listener:
        port = httpx.URL(listener.redirect_uri).port
        assert listener.redirect_uri == f"http://127.0.0.1:{port}/callback"
        others = [
            "GET /favicon.ico HTTP/1.1\r\n\r\n",
            "GET /callback HTTP/1.1\r\n\r\n",
            "GET /callback?code=c HTTP/1.1\r\n\r\n",
            "GET /callback/x?code=c&state=s HTTP/1.1\r\n\r\n",
            "POST /callback?code=c&state=s HTTP/1.1\r\n\r\n",
            "GET /callback?code=c&code=d&state=s HTTP/1.1\r\n\r\n",
            "GET http://evil/callback?code=c&state=s HTTP/1.1\r\n\r\n",
            "\x00\xff\r\n\r\n",
            "x" * 16_384,
        ]
        idle = knock(listener.redirect_uri, "GET /call")
        guests = [knock(listener.redirect_uri, text) for text in others]
        last = knock(
            listener.redirect_uri, "GET /callback?code=c&state=s HTTP/1.1\r\n\r\n"
        )
        assert listener.wait(10) == f"{listener.redirect_uri}?code=c&state=s"
        said = reply(last)
        assert said.startswith("HTTP/1.1 200 OK\r\n")
        assert "Cache-Control: no-store" in said
        assert "Referrer-Policy: no-referrer" in said
        idle.close()
        for guest in guests:
            guest.close()


def test_listener_answers_404():
    """What is not the callback is answered, and the waiting goes on to its end."""
    with oauth2.LoopbackListener(path="/back") as listener:
        guest = knock(listener.redirect_uri, "GET / HTTP/1.1\r\n\r\n")
        for _ in range(3):
            assert listener._look(0.1) is None
        assert reply(guest).startswith("HTTP/1.1 404 Not Found")
        with pytest.raises(oauth2.OAuth2Error, match="timeout"):
            listener.wait(0)
        with pytest.raises(oauth2.OAuth2Error, match="timeout"):
            asyncio.run(listener.await_(0))


def test_listener_with_many_guests():
    """More connections than it keeps open push out the oldest, and no callback."""
    with oauth2.LoopbackListener() as listener:
        guests = []
        for _ in range(40):
            guests.append(knock(listener.redirect_uri, "GET"))
            listener._look(1)
        text = "GET /callback?error=access_denied&state=s HTTP/1.1\r\n\r\n"
        guests.append(knock(listener.redirect_uri, text))
        assert listener.wait(10).endswith("?error=access_denied&state=s")
        assert len(listener._selector.get_map()) <= 33
        for guest in guests:
            guest.close()


@pytest.mark.parametrize(
    "options",
    [{"host": "0.0.0.0"}, {"host": "localhost"}, {"host": "x"}, {"path": "x"}],
)
def test_listener_listens_on_loopback_only(options):
    """No other address can be listened on, and `localhost` may be another's."""
    with pytest.raises(ValueError, match="loopback"):
        oauth2.LoopbackListener(**options)


@given(st.binary())
def test_any_request_to_the_listener(head):
    """Any bytes are a callback or none, and nothing is raised."""
    assert oauth2._target(head, "/callback") is None
    assert oauth2._target(b"GET /callback?" + head + b" HTTP/1.1\r\n", "/") is None


@both
def test_authorize(kind):
    """The browser is sent to the server, and comes back to the listener."""
    server, guests = Server(), []
    flow = code_flow(server, kind, redirect_uri=None)

    def browser(url):
        sent = httpx.URL(url).params
        target = f"/callback?code=c0de&state={sent['state']}"
        text = f"GET {target} HTTP/1.1\r\n\r\n"
        guests.append(knock(sent["redirect_uri"], text))

    assert run(kind, flow, "authorize", browser, 10).access_token == "t1"
    assert server.forms[0]["redirect_uri"].startswith("http://127.0.0.1:")
    assert reply(guests[0]).startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    ("registered", "place"),
    [
        ("http://127.0.0.1/done", "http://127.0.0.1:*/done"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:*/"),
        ("http://localhost/done", "http://127.0.0.1:*/callback"),
        ("https://app.test/done", "http://127.0.0.1:*/callback"),
    ],
)
def test_authorize_at_the_registered_path(registered, place):
    """The listener has the path of the redirect URI, if that is one on this machine."""
    flow, opened = code_flow(Server(), "sync", redirect_uri=registered), []
    with pytest.raises(oauth2.OAuth2Error, match="timeout"):
        flow.authorize(opened.append, timeout=0)
    sent = httpx.URL(opened[0]).params["redirect_uri"]
    assert re.sub(r":\d+/", ":*/", sent) == place


def test_authorize_opens_the_browser(monkeypatch):
    """By default the browser is the system's."""
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    flow = code_flow(Server(), "sync")
    with pytest.raises(oauth2.OAuth2Error, match="timeout"):
        flow.authorize(timeout=0)
    assert opened[0].startswith("https://as.test/auth?")


# -- devices -----------------------------------------------------------------------


def device_flow(server, kind, clock):
    """Return a device flow at a server."""
    return oauth2.DeviceFlow(
        device_authorization_url=TOKEN_URL,
        token_url=TOKEN_URL,
        client_id="tv",
        scope="a",
        client=server.client(kind),
        clock=clock,
    )


DEVICE = {
    "device_code": "s3cret-device",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://as.test/device",
    "expires_in": 100,
}


def polled(kind, answers, **members):
    """Go through a device flow; return what came of it, the waits, and the server."""
    server, clock, waits = Server(), Clock(), []
    server.answers = [httpx.Response(200, json={**DEVICE, **members}), *answers]
    flow = device_flow(server, kind, clock)
    started = run(kind, flow, "start")

    def sleep(seconds):
        waits.append(seconds)
        clock.now += seconds

    async def asleep(seconds):
        sleep(seconds)

    wait = sleep if kind == "sync" else asleep
    try:
        outcome = run(kind, flow, "poll", started, sleep=wait)
    except oauth2.OAuth2Error as exc:
        outcome = exc.error
    return outcome, waits, server


def told(code, status=400):
    """Return an error response."""
    return httpx.Response(status, json={"error": code})


@both
def test_device_flow(kind):
    """Pending polls go on at the interval, and `slow_down` adds 5 s for good."""
    answers = [told("authorization_pending"), told("slow_down")]
    answers += [told("authorization_pending"), told("slow_down", 200), grant("d1")]
    token, waits, server = polled(kind, answers)
    assert (token.access_token, token.scope) == ("d1", "a")
    assert waits == [5, 5, 10, 10, 15]
    assert server.forms[0] == {"client_id": "tv", "scope": "a"}
    assert server.forms[1]["device_code"] == "s3cret-device"
    assert server.forms[1]["grant_type"].endswith(":device_code")


@both
@pytest.mark.parametrize("code", ["access_denied", "expired_token", "invalid_client"])
def test_device_flow_refused(kind, code):
    """Any other error is final."""
    outcome, waits, _ = polled(kind, [told(code)], interval=7)
    assert (outcome, waits) == (code, [7])


@both
def test_device_flow_without_a_connection(kind):
    """A failing server is polled at doubling intervals, up to a minute."""
    failures = [httpx.ConnectError("x"), httpx.Response(503), httpx.Response(502)]
    answers = [*failures, told("authorization_pending"), grant("d1")]
    token, waits, _ = polled(kind, answers, expires_in=1000)
    assert token.access_token == "d1"
    assert waits == [5, 10, 20, 40, 5]
    answers = [httpx.ReadTimeout("x")] * 5 + [grant("d1")]
    assert polled(kind, answers, expires_in=1000)[1] == [5, 10, 20, 40, 60, 60]
    answers = [httpx.Response(503, headers={"retry-after": "90"}), grant("d1")]
    assert polled(kind, answers, expires_in=1000)[1] == [5, 90]


@both
def test_device_flow_to_the_end(kind):
    """The last wait ends with the code, and then the time is over."""
    answers = [told("authorization_pending")] * 9
    outcome, waits, server = polled(kind, answers, interval=30)
    assert outcome == "expired_token"
    assert waits == [30, 30, 30, 10]
    assert len(server.forms) == 5


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("device_code", ...),
        ("device_code", ""),
        ("device_code", 5),
        ("user_code", None),
        ("user_code", "a\nb"),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri", ...),
        ("expires_in", ...),
        ("expires_in", True),
        ("interval", "soon"),
        ("interval", True),
        ("interval", [5]),
    ],
)
def test_device_response_that_cannot_be_used(member, value):
    """A device response without what RFC 8628 §3.2 asks for is refused."""
    server = Server()
    members = {**DEVICE, member: value}
    members = {name: value for name, value in members.items() if value is not ...}
    server.answers = [httpx.Response(200, json=members)]
    with pytest.raises(oauth2.OAuth2Error, match="invalid_response"):
        device_flow(server, "sync", Clock()).start()


def test_device_response():
    """What is shown to the user comes out as it is, and a hostile address does not."""
    server, clock = Server(), Clock()
    members = {"verification_uri_complete": "https://as.test/device?c=1", "interval": 0}
    server.answers = [httpx.Response(200, json={**DEVICE, **members})]
    started = device_flow(server, "sync", clock).start()
    assert started.verification_uri_complete == "https://as.test/device?c=1"
    assert (started.interval, started.expires_at) == (1, clock.now + 100)
    for interval, seconds in [("7", 7), (None, 5), (1e300, 600), (-1, 1)]:
        members["interval"] = interval
        server.answers = [httpx.Response(200, json={**DEVICE, **members})]
        assert device_flow(server, "sync", clock).start().interval == seconds
    members["verification_uri_complete"] = "javascript:x"
    server.answers = [httpx.Response(200, json={**DEVICE, **members})]
    started = device_flow(server, "sync", clock).start()
    assert started.verification_uri_complete is None


@given(st.dictionaries(st.sampled_from([*DEVICE, "interval"]), json_values))
@settings(deadline=None)
def test_any_device_response(members):
    """Any device response is one, or this module's own error."""
    server = Server()
    content = json.dumps({**DEVICE, **members}).encode("utf-8", "surrogatepass")
    server.answers = [httpx.Response(200, content=content)]
    try:
        started = device_flow(server, "sync", Clock()).start()
    except oauth2.OAuth2Error:
        return
    assert 1 <= started.interval <= 600
    assert started.verification_uri.startswith("http")


# -- metadata and revocation -------------------------------------------------------


def finding(kind, issuer, documents):
    """Discover at a server that has these documents, and return the paths asked for."""
    paths = []

    def handle(request):
        paths.append(request.url.path)
        found = documents.get(request.url.path, 404)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, int | bytes):
            status, content = (found, b"") if isinstance(found, int) else (200, found)
            return httpx.Response(status, content=content)
        return httpx.Response(200, json=found)

    transport = httpx.MockTransport(handle)
    if kind == "sync":
        client = httpx.Client(transport=transport)
        return oauth2.discover(issuer, client=client), paths
    client = httpx.AsyncClient(transport=transport)
    return asyncio.run(oauth2.adiscover(issuer, client=client)), paths


@both
@pytest.mark.parametrize(
    ("issuer", "first", "second"),
    [
        (
            "https://as.test",
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
        ),
        (
            "https://as.test/t/",
            "/.well-known/oauth-authorization-server/t",
            "/t/.well-known/openid-configuration",
        ),
    ],
)
def test_discovery(kind, issuer, first, second):
    """RFC 8414 puts the well-known name before the path, OpenID Connect behind it."""
    document = {"issuer": issuer, "token_endpoint": TOKEN_URL, "x": 1}
    metadata, paths = finding(kind, issuer, {first: document})
    assert paths == [first]
    assert (metadata.issuer, metadata.token_endpoint) == (issuer, TOKEN_URL)
    assert metadata.jwks_uri is None
    assert dict(metadata) == document
    assert finding(kind, issuer, {second: document})[1] == [first, second]
    html = {first: b"<html>", second: document}
    assert finding(kind, issuer, html)[0] == metadata


@both
def test_discovery_that_fails(kind):
    """Another's metadata, unsafe endpoints and failing servers are errors."""
    issuer, place = "https://as.test", "/.well-known/oauth-authorization-server"
    cases = [
        ({}, "invalid_response"),
        ({place: {"issuer": "https://as.test/"}}, "issuer_mismatch"),
        ({place: {}}, "issuer_mismatch"),
        ({place: {"issuer": issuer, "token_endpoint": "http://x"}}, "invalid_metadata"),
        ({place: {"issuer": issuer, "jwks_uri": 5}}, "invalid_metadata"),
        ({place: {"issuer": issuer, "x_endpoint": "file:///"}}, "invalid_metadata"),
    ]
    for documents, code in cases:
        with pytest.raises(oauth2.OAuth2Error) as caught:
            finding(kind, issuer, documents)
        assert caught.value.error == code
        assert caught.value.__context__ is None
    with pytest.raises(httpx.ConnectError):
        finding(kind, issuer, {place: httpx.ConnectError("x")})
    for bad in ("http://as.test", "https://as.test?x", "https://as.test#x", "x"):
        with pytest.raises(ValueError, match="issuer"):
            finding(kind, bad, {})


def test_metadata_do_not_change():
    """Metadata are a mapping that cannot be written, and know no other attributes."""
    metadata = oauth2.ServerMetadata({"issuer": "https://as.test", "x": 1})
    with pytest.raises(AttributeError):
        metadata.issuer = "https://evil.test"
    with pytest.raises(TypeError):
        metadata["issuer"] = "https://evil.test"
    with pytest.raises(AttributeError):
        _ = metadata.isuer
    assert (metadata["x"], len(metadata), list(metadata)) == (1, 2, ["issuer", "x"])
    assert repr(metadata) == "ServerMetadata('https://as.test')"
    assert copy.deepcopy(metadata) == pickle.loads(pickle.dumps(metadata)) == metadata


@given(st.dictionaries(st.sampled_from(["issuer", "token_endpoint", "x"]), json_values))
@settings(deadline=None)
def test_any_metadata(document):
    """Any document is the issuer's metadata, or this module's own error."""
    place = "/.well-known/oauth-authorization-server"
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    with pytest.raises(oauth2.OAuth2Error):
        finding("sync", "https://as.test", {place: content})
    document = {**document, "issuer": "https://as.test"}
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    try:
        found, _ = finding("sync", "https://as.test", {place: content})
    except oauth2.OAuth2Error:
        return
    assert "token_endpoint" not in found or found.token_endpoint.startswith("http")


@both
def test_revoke(kind):
    """A token is revoked by a 200, whatever its body; errors are the server's."""
    server = Server()
    server.answers = [httpx.Response(200, text="<html>")]
    server.answers += [told("unsupported_token_type"), httpx.Response(503)]
    server.answers += [httpx.Response(204), httpx.ConnectError("x")]

    def revoke():
        client = server.client(kind)
        options = {"revocation_url": TOKEN_URL, "client_id": "app", "client": client}
        options["token_type_hint"] = "refresh_token"
        if kind == "sync":
            return oauth2.revoke("s3cret", **options)
        return asyncio.run(oauth2.arevoke("s3cret", **options))

    assert revoke() is None
    assert server.forms[0] == {
        **{"token": "s3cret", "token_type_hint": "refresh_token", "client_id": "app"}
    }
    for code in ("unsupported_token_type", "server_error"):
        with pytest.raises(oauth2.OAuth2Error, match=code):
            revoke()
    assert revoke() is None
    with pytest.raises(httpx.ConnectError):
        revoke()
