"""Thirteen traps of retrying: ours beside six other clients, on real connections.

Ours is held by plain tests. What a release of somebody else's does is stated in a test
with the mark `peer_behaviour`: when a later one does better, it says what to revise.
Waits are virtual, but for two traps that are about real time.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from claims import state

from patterns.errors import retry

peer = pytest.mark.peer_behaviour
Serve = Callable[[Any], str]
LATER = b"later, please"


class Failing:
    """An ASGI app with one answer for every request; it notes who asked.

    The first `hangs` requests get no answer at all. `requests` holds the method, the
    client's port, which tells its connections apart, and the body.
    """

    def __init__(self, status: int = 503, *, hangs: int = 0, **headers: str) -> None:
        self.status, self.hangs = status, hangs
        self.headers = [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in headers.items()
        ]
        self.requests: list[tuple[str, int, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        event = await receive()
        body: bytes = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event["body"]
        self.requests.append((scope["method"], scope["client"][1], body))
        if len(self.requests) <= self.hangs:
            while event["type"] != "http.disconnect":
                event = await receive()
            return
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": self.headers})
        await send({"type": "http.response.body", "body": LATER})

    @property
    def sent(self) -> int:
        """How many requests there were."""
        return len(self.requests)

    @property
    def connections(self) -> int:
        """Over how many connections they came."""
        return len({port for _, port, _ in self.requests})


class Clock:
    """A virtual clock: it goes on where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.sleeps = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which all peers sleep and count."""
    clock = Clock()
    ours = {**vars(time), "sleep": clock.sleep, "monotonic": clock}
    for name in ("httpx_retries.retry", "tenacity", "tenacity.nap"):
        monkeypatch.setattr(f"{name}.time", SimpleNamespace(**ours))
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(**ours))
    aours = {**vars(asyncio), "sleep": clock.asleep}
    monkeypatch.setattr("aiohttp_retry.client.asyncio", SimpleNamespace(**aours))
    return clock


def ours(
    url: str,
    method: str = "GET",
    clock: Clock | None = None,
    policy: retry.RetryPolicy | None = None,
    **request: Any,
) -> httpx.Response:
    """Send a request by our transport over a real one."""
    times: Any = {"clock": clock, "sleep": clock.sleep} if clock else {}
    below = httpx.HTTPTransport(verify=False, trust_env=False)
    transport = retry.RetryTransport(below, policy, random=lambda: 0.5, **times)
    with httpx.Client(transport=transport) as client:
        return client.request(method, url, **request)


# -- the peers: each sends a request, and returns the last answer or raises ----------


def by_httpx_retries(
    url: str, method: str = "GET", request: Any = None, **settings: Any
) -> Any:
    from httpx_retries import Retry, RetryTransport

    below = httpx.HTTPTransport(verify=False, trust_env=False)
    transport = RetryTransport(below, Retry(**settings))
    with httpx.Client(transport=transport) as client:
        return client.request(method, url, **(request or {}))


def by_urllib3(url: str, method: str = "GET", **settings: Any) -> Any:
    import urllib3

    settings = {"status_forcelist": [503], "raise_on_status": False, **settings}
    with urllib3.PoolManager(retries=urllib3.Retry(**settings)) as pool:
        return pool.request(method, url)


@contextmanager
def fetching(**settings: Any) -> Iterator[Callable[..., httpx.Response]]:
    """Yield a call that raises for a bad status, as one wraps it by a decorator."""
    settings = {"verify": False, "trust_env": False, **settings}
    with httpx.Client(**settings) as client:
        yield lambda method, url: client.request(method, url).raise_for_status()


def by_tenacity(
    url: str, method: str = "GET", timeout: float = 5, **settings: Any
) -> Any:
    import tenacity

    with fetching(timeout=timeout) as fetch:
        return tenacity.Retrying(reraise=True, **settings)(fetch, method, url)


def by_stamina(
    url: str,
    method: str = "GET",
    on: Any = httpx.HTTPError,
    per_attempt: float = 5,
    **settings: Any,
) -> Any:
    import stamina

    with fetching(timeout=per_attempt) as fetch:
        return stamina.RetryingCaller(**settings)(on, fetch, method, url)


def by_retryhttp(url: str, method: str = "GET", **settings: Any) -> Any:
    import retryhttp

    with fetching() as fetch:
        return retryhttp.retry(reraise=True, **settings)(fetch)(method, url)


def by_aiohttp_retry(url: str, method: str = "GET", **settings: Any) -> Any:
    from aiohttp_retry import ExponentialRetry, RetryClient

    async def main() -> Any:
        options = ExponentialRetry(**settings)
        async with RetryClient(retry_options=options) as client:
            return await client.request(method, url)

    return asyncio.run(main())


def quietly(send: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Return what a peer returns, or the error that it raises."""
    try:
        return send(*args, **settings)
    except Exception as exc:
        return exc


def four() -> dict[str, Any]:
    """Return tenacity's words for four attempts."""
    from tenacity import stop_after_attempt

    return {"stop": stop_after_attempt(4)}


# -- 1: a POST on 503 ----------------------------------------------------------------


def test_a_post_is_sent_once(serve: Serve, clock: Clock) -> None:
    """Without a key a POST is sent once, and with one up to four times."""
    app = Failing()
    url = serve(app)
    answer = ours(url, "POST", clock, json={"amount": 100})
    assert (answer.extensions["retry_stop"], app.sent) == ("unsafe", 1)
    ours(url, "POST", clock, headers={"idempotency-key": "8e03978e"}, content=b"100")
    assert [(m, body) for m, _, body in app.requests[1:]] == [("POST", b"100")] * 4


@peer
@pytest.mark.parametrize(
    ("send", "seen_in", "sends"),
    [
        (lambda *a: by_aiohttp_retry(*a, attempts=4), "aiohttp-retry 2.9.1", 4),
        (lambda *a: by_tenacity(*a, **four()), "tenacity 9.2.1", 4),
        (lambda *a: by_stamina(*a, attempts=4), "stamina 26.1.0", 4),
        (lambda *a: by_httpx_retries(*a, total=3), "httpx-retries 0.6.0", 1),
        (lambda *a: by_urllib3(*a, total=3), "urllib3 2.8.0", 1),
    ],
    ids=["aiohttp-retry", "tenacity", "stamina", "httpx-retries", "urllib3"],
)
def test_a_post_is_sent_again(
    serve: Serve, clock: Clock, send: Any, seen_in: str, sends: int
) -> None:
    """Three peers send a POST four times, and two of them once."""
    app = Failing()
    quietly(send, serve(app), "POST")
    claim = f"of four attempts it uses {sends} for a POST on 503"
    state([m for m, _, _ in app.requests] == ["POST"] * sends, seen_in, claim)


# -- 2: 404 under a net that is too wide -----------------------------------------------


def test_not_found_stays_not_found(serve: Serve, clock: Clock) -> None:
    """A GET of what is not there is sent once."""
    app = Failing(404)
    assert ours(serve(app), clock=clock).status_code == 404
    assert (app.sent, clock.sleeps) == (1, [])


@peer
def test_stamina_repeats_a_404(serve: Serve, clock: Clock) -> None:
    """Asked to retry on httpx.HTTPError, stamina repeats what is not there."""
    app = Failing(404)
    quietly(by_stamina, serve(app), attempts=4)
    state(app.sent == 4, "stamina 26.1.0", "on=HTTPError sends a GET of 404 four times")


# -- 3: the waits by default -----------------------------------------------------------


def test_defaults_are_few_and_apart(serve: Serve, clock: Clock) -> None:
    """By default there are four attempts, with waits that grow and are random."""
    app = Failing()
    ours(serve(app), clock=clock)
    assert app.sent == 4
    assert clock.sleeps == pytest.approx([0.05, 0.1, 0.2])  # half of the bounds


@peer
@pytest.mark.parametrize(
    ("send", "seen_in"),
    [(by_httpx_retries, "httpx-retries 0.6.0"), (by_urllib3, "urllib3 2.8.0")],
    ids=["httpx-retries", "urllib3"],
)
def test_eleven_requests_without_a_wait(
    serve: Serve, clock: Clock, send: Any, seen_in: str
) -> None:
    """By default two peers send eleven requests with no wait between them."""
    app = Failing()
    quietly(send, serve(app))
    claim = "its defaults send eleven requests without any wait"
    state((app.sent, sum(clock.sleeps)) == (11, 0), seen_in, claim)


@peer
def test_tenacity_never_stops(clock: Clock) -> None:
    """By default tenacity goes on without a wait and without an end."""
    import tenacity

    class Enough(BaseException):
        pass

    calls = iter(range(500))

    def fetch() -> None:
        if next(calls, None) is None:
            raise Enough
        raise httpx.ReadError("gone")

    with pytest.raises((Enough, Exception)) as caught:
        tenacity.Retrying(reraise=True)(fetch)
    holds = caught.type is Enough and not sum(clock.sleeps)
    claim = "its defaults call 500 times and more without any wait"
    state(holds, "tenacity 9.2.1", claim)


# -- 4: a Retry-After above the cap ----------------------------------------------------


def test_above_the_cap_it_stops(serve: Serve, clock: Clock) -> None:
    """Above `max_retry_after` the answer is returned, with what the server asked."""
    app = Failing(retry_after="86400")
    answer = ours(serve(app), clock=clock)
    assert (app.sent, clock.sleeps) == (1, [])
    assert answer.extensions["retry_stop"] == "retry-after"
    assert (answer.headers["retry-after"], answer.content) == ("86400", LATER)


@peer
def test_httpx_retries_comes_early(serve: Serve, clock: Clock) -> None:
    """httpx-retries cuts the wait at its cap, and comes before it was asked to."""
    app = Failing(retry_after="60")
    quietly(by_httpx_retries, serve(app), total=2, max_backoff_wait=0.5)
    claim = "told to come in 60 s, it comes after 0.5 s and 1 s, by its cap"
    state((app.sent, clock.now) == (3, 1.0), "httpx-retries 0.6.0", claim)


@peer
def test_urllib3_sleeps_for_hours(serve: Serve, clock: Clock) -> None:
    """urllib3 blocks its thread for six hours, and then comes early."""
    app = Failing(retry_after="86400")
    quietly(by_urllib3, serve(app), total=1)
    claim = "told to come in a day, it sleeps for six hours and comes then"
    state((app.sent, clock.sleeps) == (2, [21600]), "urllib3 2.8.0", claim)


@peer
def test_retryhttp_comes_after_a_second(serve: Serve, clock: Clock) -> None:
    """retryhttp takes its fallback where it is asked for more than its cap."""
    app = Failing(429, retry_after="3600")
    quietly(by_retryhttp, serve(app), max_attempt_number=2)
    claim = "told to come in an hour, it comes after a second"
    state((app.sent, clock.sleeps) == (2, [1]), "retryhttp 1.5.0", claim)


# -- 5 and 6: a wait that ends after the deadline --------------------------------------


def test_no_wait_goes_past_the_deadline(serve: Serve, clock: Clock) -> None:
    """Where the wait would end too late, the call ends at once."""
    app = Failing(retry_after="5")
    answer = ours(serve(app), clock=clock, policy=retry.RetryPolicy(deadline=1))
    assert answer.extensions["retry_stop"] == "deadline"
    assert (app.sent, clock.now) == (1, 0)


@peer
def test_httpx_retries_cuts_a_wait_at_its_timeout(serve: Serve, clock: Clock) -> None:
    """httpx-retries waits as long as it may, and then comes early."""
    app = Failing(retry_after="5")
    quietly(by_httpx_retries, serve(app), total_timeout=1)
    claim = "told to come in 5 s, with a total_timeout of 1 s it comes after 1 s"
    state((app.sent, clock.now) == (2, 1.0), "httpx-retries 0.6.0", claim)


@peer
@pytest.mark.parametrize(("asked", "timeout"), [(3, 1), (3600, 45)])
def test_stamina_sleeps_past_its_timeout(
    serve: Serve, clock: Clock, asked: int, timeout: float
) -> None:
    """stamina sleeps for what its hook says, whatever its timeout is."""
    app = Failing(retry_after=str(asked))
    hook = lambda error: float(error.response.headers["retry-after"])  # noqa: E731
    quietly(by_stamina, serve(app), on=hook, timeout=timeout)
    claim = f"with a timeout of {timeout} s it sleeps for {asked} s, as its hook says"
    state((app.sent, clock.sleeps) == (2, [asked]), "stamina 26.1.0", claim)


# -- 7 and 8: the forms of Retry-After -------------------------------------------------


def test_a_malformed_wait_is_none(serve: Serve, clock: Clock) -> None:
    """What cannot be read is ignored: backoff, and the answer is not lost."""
    app = Failing(retry_after="soon")
    assert ours(serve(app), clock=clock).content == LATER
    assert clock.sleeps == pytest.approx([0.05, 0.1, 0.2])


@peer
def test_urllib3_loses_the_answer_for_a_header(serve: Serve, clock: Clock) -> None:
    """urllib3 raises for the header, and its caller never learns of the 503."""
    from urllib3.exceptions import InvalidHeader

    raised = quietly(by_urllib3, serve(Failing(retry_after="soon")), total=3)
    claim = "a malformed Retry-After raises InvalidHeader in place of the 503"
    state(isinstance(raised, InvalidHeader), "urllib3 2.8.0", claim)


FORMS = {
    "IMF-fixdate": "%a, %d %b %Y %H:%M:%S GMT",
    "rfc850": "%A, %d-%b-%y %H:%M:%S GMT",
    "asctime": "%a %b %e %H:%M:%S %Y",
}


def in_a_minute(form: str) -> str:
    """Return the date of one minute from now, in one of the forms of RFC 9110."""
    return (datetime.now(UTC) + timedelta(seconds=60)).strftime(FORMS[form])


@pytest.mark.parametrize("form", FORMS)
def test_dates_of_all_forms_are_waited_for(
    serve: Serve, clock: Clock, form: str
) -> None:
    """The wait lasts until the date, in each of its three forms."""
    app = Failing(retry_after=in_a_minute(form))
    ours(serve(app), clock=clock, policy=retry.RetryPolicy(max_attempts=2))
    assert app.sent == 2
    assert 40 < clock.sleeps[0] < 66  # and half a tenth of it more


@peer
@pytest.mark.parametrize(
    ("send", "seen_in", "knows"),
    [
        (by_httpx_retries, "httpx-retries 0.6.0", set(FORMS)),
        (by_urllib3, "urllib3 2.8.0", set(FORMS)),
        (by_retryhttp, "retryhttp 1.5.0", {"IMF-fixdate"}),
    ],
    ids=["httpx-retries", "urllib3", "retryhttp"],
)
@pytest.mark.parametrize("form", FORMS)
def test_forms_that_peers_know(
    serve: Serve, clock: Clock, send: Any, seen_in: str, knows: set[str], form: str
) -> None:
    """Two peers know all forms of a date, and retryhttp one of the three."""
    app = Failing(429, retry_after=in_a_minute(form))
    once = {by_retryhttp: {"max_attempt_number": 2}}.get(send, {"total": 1})
    quietly(send, serve(app), **once)
    waited = clock.now > 40
    claim = f"it {'waits' if form in knows else 'does not wait'} for a date in {form}"
    state(app.sent == 2 and waited == (form in knows), seen_in, claim)


# -- 9: attempts that hang, in real time -----------------------------------------------

DEADLINE, HANG = 0.25, 0.2


def test_the_deadline_bounds_the_attempts_too(serve: Serve) -> None:
    """The last attempt gets what is left, and not its whole timeout."""
    app = Failing(hangs=99)
    url = serve(app)
    policy = retry.RetryPolicy(deadline=DEADLINE, base_delay=0.001)
    began = time.monotonic()
    with pytest.raises(httpx.TimeoutException):
        ours(url, policy=policy, timeout=HANG)
    assert time.monotonic() - began < 2 * DEADLINE
    assert app.sent <= 2


@peer
@pytest.mark.parametrize(
    ("name", "seen_in", "attempts"),
    [
        ("httpx-retries", "httpx-retries 0.6.0", 4),
        ("stamina", "stamina 26.1.0", 2),
        ("tenacity", "tenacity 9.2.1", 2),
    ],
    ids=["httpx-retries", "stamina", "tenacity"],
)
def test_a_total_that_counts_no_attempts(
    serve: Serve, name: str, seen_in: str, attempts: int
) -> None:
    """Three peers begin an attempt with its whole timeout just before their total."""
    import tenacity

    app = Failing(hangs=99)
    url = serve(app)
    sends: dict[str, Callable[[], Any]] = {
        "httpx-retries": lambda: by_httpx_retries(
            url, request={"timeout": HANG}, total=3, total_timeout=DEADLINE
        ),
        "stamina": lambda: by_stamina(
            url, per_attempt=HANG, timeout=DEADLINE, wait_initial=0, wait_jitter=0
        ),
        "tenacity": lambda: by_tenacity(
            url, timeout=HANG, stop=tenacity.stop_after_delay(DEADLINE)
        ),
    }
    began = time.monotonic()
    quietly(sends[name])
    took = time.monotonic() - began
    claim = f"with a total of {DEADLINE} s it makes {attempts} attempts of {HANG} s"
    holds = app.sent == attempts and took > 0.95 * attempts * HANG > DEADLINE
    state(holds, seen_in, claim)


# -- 10: a body that is gone -----------------------------------------------------------


def parts() -> Iterator[bytes]:
    """Yield a body that can be read once."""
    yield b"a" * 1000
    yield b"b" * 1000


def test_a_generator_keeps_its_answer(serve: Serve, clock: Clock) -> None:
    """A PUT from a generator is sent once, and its 503 can be read."""
    app = Failing()
    answer = ours(serve(app), "PUT", clock, content=parts())
    assert (answer.status_code, answer.content) == (503, LATER)
    assert answer.extensions["retry_stop"] == "body"
    assert [body for _, _, body in app.requests] == [b"".join(parts())]


@peer
def test_httpx_retries_loses_the_answer_for_a_body(serve: Serve, clock: Clock) -> None:
    """httpx-retries fails to send the body again, and raises that."""
    request = {"content": parts()}
    raised = quietly(by_httpx_retries, serve(Failing()), "PUT", request)
    claim = "a PUT from a generator raises StreamConsumed in place of the 503"
    state(isinstance(raised, httpx.StreamConsumed), "httpx-retries 0.6.0", claim)


# -- 11: connections -------------------------------------------------------------------


def test_six_attempts_over_one_connection(serve: Serve, clock: Clock) -> None:
    """A refused answer is read to its end, and so its connection serves the next."""
    app = Failing()
    ours(serve(app), clock=clock, policy=retry.RetryPolicy(max_attempts=6))
    assert (app.sent, app.connections) == (6, 1)


@peer
@pytest.mark.parametrize(
    ("send", "seen_in", "connections"),
    [(by_httpx_retries, "httpx-retries 0.6.0", 6), (by_urllib3, "urllib3 2.8.0", 1)],
    ids=["httpx-retries", "urllib3"],
)
def test_connections_for_six_attempts(
    serve: Serve, clock: Clock, send: Any, seen_in: str, connections: int
) -> None:
    """httpx-retries opens a connection for each attempt, and urllib3 one for all."""
    app = Failing()
    quietly(send, serve(app), total=5)
    claim = f"it opens {connections} for six attempts"
    state((app.sent, app.connections) == (6, connections), seen_in, claim)


# -- 12: no methods --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_no_methods_means_none(serve: Serve, clock: Clock, method: str) -> None:
    """An empty set of methods repeats none of them."""
    app = Failing()
    ours(serve(app), method, clock, retry.RetryPolicy(idempotent_methods=[]))
    assert app.sent == 1


@peer
@pytest.mark.parametrize(
    ("send", "method", "seen_in", "meaning"),
    [
        (by_httpx_retries, "GET", "httpx-retries 0.6.0", "the default ones"),
        (by_urllib3, "POST", "urllib3 2.8.0", "all of them"),
    ],
    ids=["httpx-retries", "urllib3"],
)
def test_no_methods_means_something_else(
    serve: Serve, clock: Clock, send: Any, method: str, seen_in: str, meaning: str
) -> None:
    """For two peers an empty set of methods is no set at all."""
    app = Failing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # urllib3 announces a change
        quietly(send, serve(app), method, total=3, allowed_methods=[])
    state(app.sent == 4, seen_in, f"`allowed_methods=[]` means {meaning}")


# -- 13: cancellation, in real time ----------------------------------------------------


def test_a_cancelled_call_ends(serve: Serve) -> None:
    """A call that is cancelled under way is not sent again."""
    app = Failing(200, hangs=1)
    url = serve(app)

    async def main() -> None:
        below = httpx.AsyncHTTPTransport(verify=False, trust_env=False)
        async with httpx.AsyncClient(transport=retry.RetryTransport(below)) as client:
            await asyncio.wait_for(client.get(url), 0.1)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert app.sent == 1


@peer
def test_tenacity_loses_a_cancellation(serve: Serve) -> None:
    """Told what not to retry on, tenacity retries on being cancelled."""
    import tenacity

    app = Failing(200, hangs=1)
    url = serve(app)

    async def main() -> Any:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_not_exception_type(ValueError), reraise=True
        )
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            return await asyncio.wait_for(retrying(client.get, url), 0.1)

    answer = quietly(lambda: asyncio.run(main()))
    holds = isinstance(answer, httpx.Response) and app.sent == 2
    claim = "retry_if_not_exception_type sends a cancelled call again and returns it"
    state(holds, "tenacity 9.2.1", claim)
