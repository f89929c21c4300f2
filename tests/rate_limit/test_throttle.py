"""Tests of `patterns/rate_limit/throttle.py`; they can be copied along with it."""

import asyncio
import base64
import json
import math
import pickle
import selectors
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patterns.rate_limit import throttle

URL = "https://user:s3cret@api.test/items?token=s3cret"
NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def date(self):
        return NOW + timedelta(seconds=self.now - 1000)


class Skip(selectors.DefaultSelector):
    """A selector for an event loop in which nothing takes time."""

    now = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody will ever come")
        self.now += max(timeout, 0)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that goes at once to the time of the next timer."""

    def __init__(self):
        self.clock = Skip()
        super().__init__(self.clock)

    def time(self):
        return self.clock.now


def run(main):
    """Run a coroutine function of one argument, the clock, in virtual time."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main(runner.get_loop().time))


def answers(*given):
    """Return a transport that answers with (status, headers) pairs, then with 200."""
    left, requests = list(given), []

    def handle(request):
        requests.append(request)
        found = left.pop(0) if left else (200, {})
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found[0], headers=found[1])

    transport = httpx.MockTransport(handle)
    transport.requests = requests
    return transport


def client(below, clock, **options):
    """Return a client over `below`, on a virtual clock, and by default without luck."""
    options = {"random": lambda: 0.0, "now": clock.date, **options}
    transport = throttle.ThrottleTransport(
        below, clock=clock, sleep=clock.sleep, **options
    )
    return httpx.Client(transport=transport)


def limited(value, status=200, **headers):
    """Return an answer with a RateLimit field."""
    return status, {"RateLimit": value, **headers}


def waits(*given, calls=2, **options):
    """Return the seconds that each call waits, the first one left out."""
    clock, starts = Clock(), []
    with client(answers(*given), clock, **options) as http:
        for _ in range(calls):
            before = clock.now
            http.get(URL)
            starts.append(round(clock.now - before, 6))
    return starts[1:]


# --- fields


def plain(value):
    """Return a value of the vectors as the parser gives it: other types are None."""
    if isinstance(value, dict):
        binary = value["__type"] == "binary"
        return base64.b32decode(value["value"]) if binary else None
    return None if isinstance(value, list | bool | float) else value


@pytest.mark.parametrize("kind", ["list", "item"])
def test_structured_field_vectors(kind):
    """Every vector of the structured fields is read, or refused, as it says."""
    cases = [v for v in vectors("structured_fields.json") if v["header_type"] == kind]
    assert len(cases) > 100
    for case in cases:
        found = throttle._parse_list(", ".join(case["raw"]))
        if case.get("must_fail"):
            # No item by itself, but in a list: more than one, none, a tab behind.
            loose = found is not None and (len(found) != 1 or "\t" in case["raw"][0])
            assert found is None or (kind == "item" and loose), case
        else:
            expected = case["expected"] if kind == "list" else [case["expected"]]
            assert found == [
                (plain(value), {key: plain(v) for key, v in parameters})
                for value, parameters in expected
            ], case


@pytest.mark.parametrize(
    "case", vectors("ratelimit_fields.json")["vectors"], ids=lambda case: case
)
def test_examples_of_the_draft(case):
    """Every example of the draft is read."""
    field, value, expected = case
    policy = field == "RateLimit-Policy"
    read = throttle.parse_ratelimit_policy if policy else throttle.parse_ratelimit
    form = throttle.RateLimitPolicy if policy else throttle.RateLimit
    wanted = []
    for item in expected:
        given = {k: v for k, v in item.items() if not k.startswith("pk")}
        if "pk" in item or "pk_hex" in item:
            given["pk"] = bytes.fromhex(
                item.get("pk_hex", item.get("pk", "").encode().hex())
            )
        wanted.append(form(**given))
    assert read(value) == wanted


@pytest.mark.parametrize(
    "item",
    [
        "default;r=5",  # a token
        "5;r=5",
        ":YQ==:;r=5",
        '("a");r=5',
        '%"a";r=5',
        '"x"',
        '"x";t=5',
        '"x";r',
        '"x";r=?1',
        '"x";r=-1',
        '"x";r=5.0',
        '"x";r="5"',
        '"x";r=@5',
        '"x";r=five',
        '"x";r=5;t=-1',
        '"x";r=5;t=1.5',
        '"x";r=5;t',
        '"x";r=5;pk="a"',
        '"x";r=5;pk=a',
        '"x";r=5;r=?0',  # the last one counts
    ],
)
def test_malformed_service_limits(item):
    """An item that is no service limit is ignored, and its neighbours are not."""
    good = throttle.RateLimit("good", 1, 2)
    assert throttle.parse_ratelimit(f'{item}, "good";r=1;t=2,{item}') == [good]


@pytest.mark.parametrize(
    "item",
    [
        '"x"',
        '"x";q=-1',
        '"x";q=1;w=0',
        '"x";q=1;w=-5',
        '"x";q=1;qu=bytes',
        '"x";r=1',
        '"x";q=1;w=?1',
        '"x";q=1;pk',
        "x;q=1",
        '"x";q=1.0',
        '"x";q=1;w=60.0',
    ],
)
def test_malformed_policies(item):
    """An item that is no policy is ignored, and its neighbours are not."""
    good = throttle.RateLimitPolicy("good", 0)
    assert throttle.parse_ratelimit_policy(f'{item},"good";q=0') == [good]


def test_all_of_an_item():
    """Each parameter is read, the others are comments, and of two the last counts."""
    value = r'"a\"\\b";r=1;t=0;acme="x, \"y";r=7;pk=:YQ:;t=999999999999999'
    assert throttle.parse_ratelimit(value) == [
        throttle.RateLimit('a"\\b', 7, 999_999_999_999_999, b"a")
    ]
    value = '"";q=0;qu="content-bytes";w=1;pk=::;r=x'
    (policy,) = throttle.parse_ratelimit_policy(value)
    assert policy == throttle.RateLimitPolicy("", 0, 1, "content-bytes", b"")
    assert throttle.RateLimitPolicy("x", 1).qu == "requests"


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        '"a";r=1,',
        ',"a";r=1',
        '"a";r=1,,"b";r=1',
        '"a";r=1 "b";r=1',
        '"a";r=1;',
        '"a";r= 1',
        '"a";r=1000000000000000',
        '"a" ;r=1',
        '"a";R=1',
        '\t"a";r=1',
        '"a";r=1\n',
        '"ä";r=1',
        '"a;r=1',
        '"a";r=1, (1 (2))',
        '"a";r=1, (%"%ff")',
        '"a";r=1;x=%"%ff"',
        '"a";r=1;pk=:a:',
        "\ud800",
        "a\0",
        '"a";r=1;pk=:====:',
        '"a";r=1, 1.',
        '"a";r=1;a=1.0001',
        '"a";r=1;a=00000000000.1.1',
    ],
)
def test_lists_that_are_not_well_formed(value):
    """A list with any fault in its form is ignored whole."""
    assert throttle.parse_ratelimit(value) == []
    assert throttle.parse_ratelimit_policy(value) == []


def test_fields_that_are_too_long():
    """A field of too many items or characters is ignored whole."""
    item = '"a";r=1'
    assert len(throttle.parse_ratelimit(",".join([item] * 64))) == 64
    assert throttle.parse_ratelimit(",".join([item] * 65)) == []
    assert len(throttle.parse_ratelimit(item + " " * (8192 - len(item)))) == 1
    assert throttle.parse_ratelimit(item + " " * (8193 - len(item))) == []


PIECES = [
    '"a"',
    ";",
    "r",
    "t",
    "pk",
    "=",
    "1",
    "99",
    ":YQ==:",
    ",",
    " ",
    "(",
    ")",
    "?1",
]
PIECES += ["-", ".", "@", '%"%c3"', "*", "a", "\\", '"', "\t", "é"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
@example("(" + "a " * 4000)
@example('"a";b=' + "1.5;b=" * 1300)
@example("(" + "1 ;a=1.5" * 900)
@example('"' + "\\" * 8000)
@example("a" * 8000 + '"')
@example('%"' + "%c3" * 2700 + '"')
def test_any_text_can_be_read(text):
    """No text is an error, and what is found is what the draft says it may be."""
    for item in throttle.parse_ratelimit(text):
        assert type(item.r) is int
        assert item.r >= 0
        assert item.t is None or item.t >= 0
        assert item.pk is None or isinstance(item.pk, bytes)
    for item in throttle.parse_ratelimit_policy(text):
        assert item.q >= 0
        assert item.w is None or item.w > 0


NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
NUMBERS = st.integers(0, 999_999_999_999_999)


@given(NAMES, NUMBERS, st.none() | NUMBERS, st.none() | st.binary(max_size=20))
def test_round_trip(name, r, t, pk):
    """What is written is read back."""
    text = throttle._item(name, r=r, t=t, pk=pk)
    item = throttle.RateLimit(name, r, t, pk)
    assert throttle.parse_ratelimit(f"{text},{text}") == [item, item]


def test_names_may_change(monkeypatch):
    """Where the draft renames a field or a parameter, one table follows it."""
    renamed = {"limit": "RateLimits", "r": "a", "t": "w", "pk": "p"}
    monkeypatch.setattr(throttle, "_WIRE", {**throttle._WIRE, **renamed})
    assert throttle.parse_ratelimit('"x";a=1;w=2;p=:YQ==:') == [
        throttle.RateLimit("x", 1, 2, b"a")
    ]
    assert waits((200, {"ratelimits": '"x";a=0;w=5'})) == [5]
    fields = serve(throttle.ThrottleMiddleware(hello, Fixed())).headers
    assert fields["ratelimits"] == '"default";a=7;w=3'


# --- Retry-After


@pytest.mark.parametrize("case", vectors("retry_after.json")["vectors"], ids=str)
def test_retry_after_vectors(case):
    """Seconds and every form of a date are read; what is malformed is no wait."""
    value, seconds = case
    assert throttle._parse_retry_after(value, now=NOW) == seconds
    if seconds is None or seconds < 60:
        assert waits((429, {"Retry-After": value})) == [seconds or 0]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1.5",
        "+1",
        "1e3",
        "0x10",
        "٣",
        "5 s",
        "-5",
        "1994-11-06T08:49:37Z",
        "Nov",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 06 Nov",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Tomorrow",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "9" * 5000 + "x",
    ],
)
def test_retry_after_that_is_malformed(value):
    """Whatever is no Retry-After is ignored."""
    assert throttle._parse_retry_after(value, now=NOW) is None


@given(st.text() | st.sampled_from(throttle._DATES).flatmap(st.from_regex))
def test_any_retry_after_can_be_read(value):
    """No text is an error."""
    seconds = throttle._parse_retry_after(value, now=NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_retry_after_is_obeyed(status, luck):
    """The next call waits for no less than was asked, and for up to a tenth more."""
    asked = (status, {"Retry-After": "20"})
    assert waits(asked, calls=3, random=lambda: luck) == [20 + 2 * luck, 0]


@pytest.mark.parametrize("status", [200, 301, 404, 500])
def test_retry_after_elsewhere(status):
    """With another status it does not say that the origin should be left alone."""
    assert waits((status, {"Retry-After": "20"})) == [0]


def test_retry_after_beside_a_window():
    """Beside the field it goes first with any status (draft §7)."""
    window = {"RateLimit": '"a";r=0;t=60', "Retry-After": "20"}
    assert waits((200, window)) == [pytest.approx(20)]


def test_the_longest_retry_after_counts():
    """Of several lines that can be read, the longest wait counts."""
    lines = [("Retry-After", value) for value in ("5", "x", "20", "10")]
    assert waits((429, lines)) == [20]


def test_a_date_is_compared_with_the_servers_own():
    """A clock that is wrong on this side does no harm."""
    asked = {"Date": "Sun, 06 Nov 1994 07:00:00 GMT"}
    asked["Retry-After"] = "Sun, 06 Nov 1994 07:00:30 GMT"
    assert waits((429, asked)) == [30]
    assert waits((429, {**asked, "Date": "then"})) == [0]


def test_retry_after_goes_first():
    """Beside a Retry-After, a window that is longer or shorter is ignored."""
    for t in (5, 50):
        asked = limited(f'"x";r=0;t={t}', 429, **{"Retry-After": "20"})
        assert waits(asked, calls=3) == [20, 0]
    assert waits(limited('"x";r=0;t=50', 429, **{"Retry-After": "0"})) == [0]
    assert waits(limited('"x";r=0;t=50', 429, **{"Retry-After": "soon"})) == [50]


def test_retry_after_and_then_the_rest_of_the_window():
    """Units that are told along with it are counted down behind it (draft B.3)."""
    asked = limited('"x";r=2;t=40', 429, **{"Retry-After": "10"})
    failed = httpx.ReadError("no news")
    clock = Clock()
    with client(answers(asked, failed, failed), clock) as http:
        http.get(URL)
        for at in (1010, 1010, 1040):
            if at == 1040:
                http.get(URL)
            else:
                with pytest.raises(httpx.ReadError):
                    http.get(URL)
            assert clock.now == at


def test_the_answer_itself_is_passed_on():
    """A 429 is the caller's to see, and no byte of an answer is read on the way."""

    class Body(httpx.SyncByteStream):
        read = False

        def __iter__(self):
            self.read = True
            yield b"slow down"

    body = Body()
    below = httpx.MockTransport(
        lambda _: httpx.Response(429, headers={"Retry-After": "3"}, stream=body)
    )
    with client(below, Clock()) as http, http.stream("GET", URL) as response:
        assert response.status_code == 429
        assert not body.read
        assert response.stream._stream is body
        assert response.read() == b"slow down"


# --- RateLimit


def test_spent_quota_is_waited_for():
    """Without quota left, the next call waits for the window to end."""
    assert waits(limited('"x";r=0;t=50'), calls=3) == [50, 0]
    assert waits(limited('"x";r=1;t=50')) == [0]
    assert waits(limited('"x";r=0;t=50'), random=lambda: 1.0) == [55]


def test_the_most_restrictive_limit_counts():
    """Of several limits the one that ends last is waited for, in one line or more."""
    assert waits(limited('"a";r=9;t=60, "b";r=0;t=20, "c";r=0;t=10')) == [20]
    lines = [("RateLimit", '"a";r=0;t=10'), ("RateLimit", '"b";r=0;t=20')]
    assert waits((200, lines)) == [20]
    assert waits(limited('"a";r=0;t=20, "a";r=5;t=20')) == [20]
    assert waits(limited('"a";r=5;t=20, "a";r=0;t=20')) == [20]
    parts = '"a";r=0;t=20;pk=:YQ==:, "a";r=5;t=20;pk=:Yg==:'
    assert waits(limited(parts)) == [20]


def test_quota_is_counted_down():
    """What was told once is used up by calls whose answers tell nothing."""
    failed = [httpx.ReadError("lost")] * 5
    clock, times = Clock(), []
    with client(answers(limited('"x";r=3;t=40'), *failed), clock) as http:
        http.get(URL)
        for _ in range(4):
            with pytest.raises(httpx.ReadError):
                http.get(URL)
            times.append(clock.now)
    assert times == [1000, 1000, 1000, 1040]


def test_what_was_never_sent_does_not_count():
    """A call that found no connection has used nothing."""
    errors = [
        httpx.ConnectError("x"),
        httpx.ConnectTimeout("x"),
        httpx.PoolTimeout("x"),
    ]
    clock = Clock()
    with client(answers(limited('"x";r=1;t=40'), *errors * 2), clock) as http:
        http.get(URL)
        for error in errors * 2:
            with pytest.raises(type(error)):
                http.get(URL)
        assert http.get(URL).status_code == 200
        assert clock.slept == []


def test_an_answer_from_a_cache_tells_nothing():
    """With a positive age, the quota is not current; Retry-After still holds."""
    for age in ("1", "86400", "007"):
        assert waits(limited('"x";r=0;t=50', Age=age)) == [0]
        asked = limited('"x";r=0;t=50', 503, **{"Age": age, "Retry-After": "5"})
        assert waits(asked) == [5]
    for age in ("0", "00", "", "-1", "old"):
        assert waits(limited('"x";r=0;t=50', Age=age)) == [50]


@pytest.mark.parametrize(
    "value", ['x";r=0;t=50', '"x";r=0;t=50,', '"x";t=50', "r=0, t=50"]
)
def test_a_malformed_field_is_ignored(value):
    """A field that cannot be read holds nobody back."""
    assert waits(limited(value)) == [0]


def test_an_end_of_speech():
    """A server that no longer tells its limits is no longer asked to."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(clock())
            await asyncio.sleep(0.5)
            headers = {"RateLimit": '"x";r=0;t=5'} if len(times) == 1 else {}
            return httpx.Response(200, headers=headers)

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            await asyncio.gather(*(http.get(URL) for _ in range(4)))
        return times

    assert run(main) == [0, 5.5, 6, 6, 6]


def test_a_newer_answer_counts():
    """What a later call learns replaces what was known, up or down."""
    told = [limited(f'"x";r={r};t=50') for r in (5, 0, 9)]
    assert waits(*told, calls=4) == [0, 50, 0]


def test_other_origins():
    """An origin is scheme, host and port, and each has a state of its own."""
    clock = Clock()
    below = answers((429, {"Retry-After": "30"}))
    with client(below, clock) as http:
        http.get("https://api.test/")
        for url in ("http://api.test/", "https://api.test:444/", "https://b.test/"):
            http.get(url)
        assert clock.slept == []
        http.get("https://API.test:443/other")
        assert clock.slept == [30]


def test_another_key():
    """Who pays may be told from the request, for instance by its token."""
    clock = Clock()
    below = answers(limited('"user";r=0;t=30'))
    with client(below, clock, key=lambda r: r.headers["authorization"]) as http:
        http.get("https://api.test", headers={"Authorization": "a"})
        http.get("https://api.test", headers={"Authorization": "b"})
        assert clock.slept == []
        http.get("https://api.test", headers={"Authorization": "a"})
        assert clock.slept == [30]


def test_memory_is_bounded():
    """Neither many origins nor many names of policies fill the memory."""
    names = iter(range(100_000))

    def handle(request):
        items = [f'"{next(names)}";r=5;t=60' for _ in range(60)]
        return httpx.Response(200, headers={"RateLimit": ",".join(items)})

    clock = Clock()
    with client(httpx.MockTransport(handle), clock) as http:
        for n in range(1100):
            http.get(f"https://host{n}.test")
        for _ in range(5):
            http.get("https://host1099.test")
        origins = http._transport._origins
        assert len(origins) == 1000
        assert max(len(origin.windows) for origin in origins.values()) == 64
        assert "https://host1099.test:None" in origins


# --- waits that are too long


def refused(http):
    """Return the error by which a call is refused."""
    with pytest.raises(throttle.ThrottledError) as caught:
        http.get(URL)
    return caught.value


def test_too_long_a_wait():
    """A wait above the bound is not begun: nothing is sent, and the error tells it."""
    clock, below = Clock(), answers((429, {"Retry-After": "61"}))
    with client(below, clock) as http:
        http.get(URL)
        error = refused(http)
        assert error.retry_after == 61
        assert (len(below.requests), clock.slept) == (1, [])
        clock.now += 1
        http.get(URL)
        assert clock.slept == [60]


def test_the_error():
    """It is a transport error but no timeout, keeps its data, and tells no secret."""
    with client(answers((429, {"Retry-After": "300"})), Clock()) as http:
        http.get(URL)
        error = refused(http)
    assert isinstance(error, httpx.TransportError)
    assert not isinstance(error, httpx.TimeoutException | httpx.NetworkError)
    assert error.request.url.host == "api.test"
    assert "s3cret" not in f"{error!r} {error}"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.retry_after) == (str(error), 300)


@pytest.mark.parametrize(
    ("answer", "believed"),
    [
        (limited('"x";r=0;t=99999999999999'), 3600),
        ((429, {"Retry-After": "9" * 400}), 86_400),
        ((503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}), 86_400),
    ],
)
def test_what_is_believed(answer, believed):
    """A window is believed for an hour, Retry-After for a day, then one may ask."""
    clock = Clock()
    with client(answers(answer), clock) as http:
        http.get(URL)
        assert refused(http).retry_after == believed
        clock.now += believed - 61
        assert refused(http).retry_after == 61
        clock.now += 61
        http.get(URL)
        assert clock.slept == []


def test_the_patient_believe_for_longer():
    """Who is ready to wait for days is not made to ask before."""
    for answer in (limited('"x";r=0;t=200000'), (429, {"Retry-After": "200000"})):
        assert waits(answer, max_wait=300_000) == [200_000]


@pytest.mark.parametrize("max_wait", [-1, math.inf, math.nan])
def test_bounds_that_are_refused(max_wait):
    """A bound is finite."""
    with pytest.raises(ValueError, match="finite"):
        throttle.ThrottleTransport(answers(), max_wait=max_wait)


# --- the limiter


class TooLate(Exception):
    """What a limiter raises whose turn is too far off."""

    def __init__(self, decision):
        self.decision = decision


class Pace:
    """A limiter: one call in so many seconds; it tells what it was asked."""

    limit, burst = 1, 1

    def __init__(self, clock, period, sleep=None):
        self.clock, self.period, self.sleep = clock, period, sleep
        self.next, self.asked = -math.inf, []

    def try_acquire(self, key, cost=1):
        self.asked.append(key)
        wait = max(self.next - self.clock(), 0.0)
        if not wait:
            self.next = self.clock() + self.period
        window = self.next - self.clock()
        return SimpleNamespace(
            allowed=not wait, available=0, retry_after=wait, window=window
        )

    async def atry_acquire(self, key, cost=1):
        return self.try_acquire(key)

    def acquire(self, key, *, timeout):
        if wait := self.reserve(key, timeout):
            self.sleep(wait)

    async def aacquire(self, key, *, timeout):
        if wait := self.reserve(key, timeout):
            await asyncio.sleep(wait)

    def reserve(self, key, timeout):
        self.asked.append(key)
        wait = max(self.next - self.clock(), 0.0)
        if wait > timeout:
            raise TooLate(SimpleNamespace(retry_after=wait))
        self.next = self.clock() + wait + self.period
        return wait


def test_its_own_pace():
    """A limiter is kept to, and asked with the origin."""
    clock, times = Clock(), []
    pace = Pace(clock, 2.0, clock.sleep)
    with client(answers(), clock, limiter=pace) as http:
        for _ in range(4):
            http.get(URL)
            times.append(clock.now)
    assert times == [1000, 1002, 1004, 1006]
    assert set(pace.asked) == {"https://api.test:None"}


def test_a_pace_that_is_too_slow():
    """Nobody waits for the limiter longer than for the server."""
    clock = Clock()
    with client(answers(), clock, limiter=Pace(clock, 300), max_wait=60) as http:
        http.get(URL)
        assert refused(http).retry_after == 300
        assert clock.slept == []


def test_the_limiter_comes_last():
    """It is asked when the server lets a call pass, and again after any other wait."""
    clock = Clock()
    below = answers((429, {"Retry-After": "30"}))
    pace = Pace(clock, 1.0, clock.sleep)
    with client(below, clock, limiter=pace) as http:
        http.get(URL)
        clock.now += 5
        http.get(URL)
        assert (clock.slept, len(pace.asked)) == ([25], 2)


def test_news_while_the_limiter_waits():
    """A stop that comes meanwhile holds, and the pace behind it is kept."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(clock())
            await asyncio.sleep(0.5)
            busy = len(times) == 1
            headers = {"Retry-After": "10"} if busy else {}
            return httpx.Response(429 if busy else 200, headers=headers)

        pace = Pace(clock, 1.0)
        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), pace, clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await asyncio.gather(*(http.get(URL) for _ in range(3)))
        return times

    assert run(main) == [0, 10.5, 11.5]


# --- many at once


class Server:
    """A server with so many calls in a window; it tells what is left, after a while."""

    def __init__(self, clock, limit, window, *, latency=lambda: 0.1):
        self.clock, self.limit, self.window = clock, limit, window
        self.latency, self.used, self.end = latency, 0, -math.inf
        self.times, self.paths, self.refused = [], [], 0

    async def __call__(self, request):
        self.times.append(self.clock())
        self.paths.append(request.url.path)
        await asyncio.sleep(self.latency())
        now = self.clock()
        if now >= self.end:
            self.used, self.end = 0, now + self.window
        self.used += 1
        over, t = self.used > self.limit, math.ceil(self.end - now)
        self.refused += over
        field = f'"x";r={max(self.limit - self.used, 0)};t={t}'
        headers = {"RateLimit": field}
        if over:
            headers["Retry-After"] = str(max(t, 1))
        answer = httpx.Response(429 if over else 200, headers=headers)
        await asyncio.sleep(self.latency())
        return answer


def herd(calls, server, **options):
    """Send many calls at once, behind one that goes alone, and return the server."""

    async def main(clock):
        handler = server(clock)
        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handler), clock=clock, **options
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get("https://api.test/first")
            work = [http.get(f"https://api.test/{n}") for n in range(calls)]
            await asyncio.gather(*work)
        return handler

    return run(main)


def test_a_herd_keeps_to_the_quota():
    """Of 20 at once at r=3, three are sent and the rest waits; none is refused."""
    server = herd(20, lambda clock: Server(clock, 4, 30), max_wait=1000)
    assert server.refused == 0
    assert len(server.times) == 21
    assert [t < 1 for t in server.times].count(True) == 4
    for start in server.times:
        assert sum(start <= t < start + 29 for t in server.times) <= 4


def test_first_come_first_served():
    """Waiting calls are sent in the order in which they came."""
    server = herd(20, lambda clock: Server(clock, 4, 30), max_wait=1000)
    assert server.paths == ["/first", *(f"/{n}" for n in range(20))]


def test_after_a_stop_the_news_decide():
    """Those that wait for a Retry-After go one by one as long as it says so again."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(clock())
            await asyncio.sleep(0.2)
            busy = len(times) < 4
            headers = {"Retry-After": "10"} if busy else {}
            return httpx.Response(429 if busy else 200, headers=headers)

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0, max_wait=100
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            await asyncio.gather(*(http.get(URL) for _ in range(10)))
        return [round(t, 6) for t in times]

    assert run(main) == [0, 10.2, 20.4, 30.6, *[30.8] * 7]


def test_one_that_goes_first_and_hangs():
    """The others do not wait for its answer longer than for a second."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(clock())
            if len(times) == 2:
                await asyncio.sleep(1000)
            return httpx.Response(200, headers={"RateLimit": '"x";r=0;t=5'})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            await asyncio.gather(*(http.get(URL) for _ in range(3)))
        return times

    assert run(main) == [0, 5, 6, 11]


def test_quota_that_is_not_for_a_time():
    """Without a window, units are counted as well; without units one goes at a time."""
    server = herd(6, lambda clock: Untimed(clock, 3))
    assert server.most == 2
    assert herd(6, lambda clock: Untimed(clock, 0)).most == 1


class Untimed(Server):
    """A server that tells what is left, and not for how long."""

    def __init__(self, clock, limit):
        super().__init__(clock, limit, 0)
        self.now = self.most = 0

    async def __call__(self, request):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        field = f'"conc";r={max(self.limit - self.now - 1, 0)}'
        return httpx.Response(200, headers={"RateLimit": field})


def test_answers_out_of_order():
    """Of two answers to calls at the same time the stricter one counts."""

    async def main(clock):
        times, told = [], {"/a": (9, 0.1), "/b": (0, 0.2), "/c": (5, 0.3)}

        async def handle(request):
            times.append(clock())
            r, wait = told.get(request.url.path, (9, 0))
            await asyncio.sleep(wait)
            return httpx.Response(200, headers={"RateLimit": f'"x";r={r};t=20'})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await asyncio.gather(*(http.get(f"https://api.test{p}") for p in told))
            await http.get("https://api.test/d")
        return times

    assert run(main) == [0, 0, 0, 20.2]


def test_news_end_a_wait():
    """An answer that tells of more quota lets the next one go at once."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(round(clock(), 6))
            r = 1 if len(times) == 1 else 5
            await asyncio.sleep(0.5)
            return httpx.Response(200, headers={"RateLimit": f'"x";r={r};t=50'})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            await asyncio.gather(*(http.get(URL) for _ in range(4)))
        return times

    assert run(main) == [0, 0.5, 1, 1, 1]


def test_calls_under_way_may_have_been_counted():
    """Nobody is refused for a long window while calls under way may tell of more."""

    async def main(clock):
        async def handle(request):
            await asyncio.sleep(0.1 if request.url.path == "/0" else 0.5)
            field = '"x";r=4;t=3000'  # and all that are under way are in it
            return httpx.Response(200, headers={"RateLimit": field})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:

            async def late():
                await asyncio.sleep(0.2)
                await http.get(URL)
                return clock()

            work = [http.get(f"https://api.test/{n}") for n in range(6)]
            return (await asyncio.gather(*work, late()))[-1]

    assert run(main) == 1.0


def test_in_the_end_the_window_is_believed():
    """A call that hopes for news is refused when it has waited as long as it may."""

    async def main(clock):
        async def handle(request):
            await asyncio.sleep(0.1 if request.url.path == "/0" else 500)
            return httpx.Response(200, headers={"RateLimit": '"x";r=2;t=3000'})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            work = [
                asyncio.ensure_future(http.get(f"https://api.test/{n}"))
                for n in range(4)
            ]
            await asyncio.sleep(1)
            with pytest.raises(throttle.ThrottledError) as caught:
                await http.get(URL)
            assert clock() == 61
            await asyncio.gather(*work)
        return caught.value.retry_after

    assert round(run(main), 6) == 2939.1


def test_those_who_would_wait_too_long_in_the_queue():
    """The bound is on the whole wait, and not on each part of it."""

    async def main(clock):
        server = Server(clock, 1, 20)
        transport = throttle.ThrottleTransport(
            httpx.MockTransport(server), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            work = (http.get(URL) for _ in range(6))
            await http.get(URL)
            found = await asyncio.gather(*work, return_exceptions=True)
        return [
            getattr(one, "status_code", type(one).__name__) for one in found
        ], clock()

    found, end = run(main)
    assert found == [
        200,
        200,
        "ThrottledError",
        "ThrottledError",
        "ThrottledError",
        "ThrottledError",
    ]
    assert end < 60


@pytest.mark.parametrize("which", [0, 1, 2])
def test_cancelled_waiters(which):
    """Whoever is cancelled while waiting takes no quota and holds nobody up."""

    async def main(clock):
        server = Server(clock, 3, 20, latency=lambda: 0.0)
        transport = throttle.ThrottleTransport(
            httpx.MockTransport(server), clock=clock, random=lambda: 0.0, max_wait=90
        )
        async with httpx.AsyncClient(transport=transport) as http:
            for _ in range(3):
                await http.get(URL)
            tasks = [asyncio.ensure_future(http.get(URL)) for _ in range(4)]
            await asyncio.sleep(1)
            tasks[which].cancel()
            await asyncio.wait(tasks)
        (origin,) = transport._origins.values()
        assert not origin.turns
        assert not origin.flying
        assert tasks[which].cancelled()
        return server.times

    assert run(main) == [0, 0, 0, 20, 20, 20]


def test_cancelled_while_under_way():
    """A call that is cancelled behind its sending has used its unit, and is over."""

    async def main(clock):
        times = []

        async def handle(request):
            times.append(clock())
            if len(times) == 2:
                await asyncio.sleep(1000)
            return httpx.Response(200, headers={"RateLimit": '"x";r=1;t=20'})

        transport = throttle.ThrottleTransport(
            httpx.MockTransport(handle), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            task = asyncio.ensure_future(http.get(URL))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])
            (origin,) = transport._origins.values()
            assert not origin.flying
            await http.get(URL)
        return times

    assert run(main) == [0, 0, 20]


def test_threads_keep_to_the_quota():
    """Threads wait for their turn as tasks do, and are woken by news."""
    lock, state = threading.Lock(), {"now": 0, "most": 0, "sent": 0}

    def handle(request):
        with lock:
            state["now"] += 1
            state["sent"] += 1
            state["most"] = max(state["most"], state["now"])
        yield_to_others.wait(0.001)
        with lock:
            state["now"] -= 1
            left = 2 - state["now"]
        return httpx.Response(200, headers={"RateLimit": f'"at once";r={left}'})

    yield_to_others = threading.Event()
    transport = throttle.ThrottleTransport(httpx.MockTransport(handle))

    def work():
        for _ in range(10):
            http.get(URL)

    with httpx.Client(transport=transport) as http:
        http.get(URL)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
    assert (state["most"], state["sent"]) == (2, 81)


def test_a_thread_stops_waiting_for_news():
    """A thread waits for news only as long as for the end of the window."""
    gate, sent = threading.Event(), threading.Semaphore(0)

    def handle(request):
        sent.release()
        if request.url.path == "/slow":
            gate.wait(20)
        return httpx.Response(200, headers={"RateLimit": '"x";r=1;t=1'})

    now = [0.0]
    transport = throttle.ThrottleTransport(
        httpx.MockTransport(handle), clock=lambda: now[0], random=lambda: 0.0
    )
    with httpx.Client(transport=transport) as http:
        http.get(URL)
        slow = threading.Thread(target=http.get, args=["https://api.test/slow"])
        slow.start()
        assert sent.acquire(timeout=20)
        assert sent.acquire(timeout=20)
        now[0] = 0.9995  # a millisecond is left, of real time as well
        fast = threading.Thread(target=http.get, args=[URL])
        fast.start()
        now[0] = 2.5
        assert sent.acquire(timeout=20)
        gate.set()
        slow.join(20)
        fast.join(20)


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 6),
    window=st.integers(1, 30),
    starts=st.lists(st.floats(0, 60), min_size=1, max_size=25),
    delays=st.lists(st.floats(0, 0.45), min_size=1, max_size=10),
    luck=st.floats(0, 1),
)
@example(  # an answer overtakes two that were learnt after it was sent
    limit=5,
    window=2,
    starts=[0.0, 1.0, 0.25, 0.25, 0.375],
    delays=[0.25, 0.0],
    luck=0.0,
)
def test_a_polite_client_is_never_refused(limit, window, starts, delays, luck):
    """Once its first answer is there, no call is refused, whenever calls come."""
    at = iter(range(100_000))

    async def main(clock):
        server = Server(
            clock, limit, window, latency=lambda: delays[next(at) % len(delays)]
        )
        transport = throttle.ThrottleTransport(
            httpx.MockTransport(server),
            clock=clock,
            random=lambda: luck,
            max_wait=10_000,
        )

        async def one(http, start):
            await asyncio.sleep(start)
            assert (await http.get(URL)).status_code == 200

        async with httpx.AsyncClient(transport=transport) as http:
            await http.get(URL)
            await asyncio.gather(*(one(http, start) for start in starts))
        assert server.refused == 0
        assert len(server.times) == len(starts) + 1
        (origin,) = transport._origins.values()
        assert not origin.flying
        assert not origin.turns

    run(main)


def test_both_kinds_of_client_close_what_is_below():
    """Closing the client closes the transport below, by its own kind."""
    closed = []

    class Below(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def close(self):
            closed.append("close")

        async def aclose(self):
            closed.append("aclose")

    async def main(clock):
        async with httpx.AsyncClient(transport=throttle.ThrottleTransport(Below())):
            pass

    with httpx.Client(transport=throttle.ThrottleTransport(Below())):
        pass
    run(main)
    assert closed == ["close", "aclose"]


# --- the server's half


class Fixed:
    """A limiter that has decided already."""

    def __init__(self, allowed=True, available=7, retry_after=0.0, window=2.5, **more):
        self.decision = SimpleNamespace(
            allowed=allowed, available=available, retry_after=retry_after, window=window
        )
        self.limit, self.period = more.get("limit", 10), more.get("period", 60)
        self.keys = []

    async def atry_acquire(self, key, cost=1):
        self.keys.append(key)
        return self.decision


async def hello(scope, receive, send):
    """An ASGI app that has a limit of its own to tell."""
    headers = [(b"ratelimit", b'"app";r=1'), (b"x-app", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def serve(app, method="GET", client=("127.0.0.1", 50000), **options):
    """Return what an ASGI app answers in process."""

    async def main(clock):
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport) as http:
            return await http.request(method, "http://api.test/", **options)

    return run(main)


def test_an_allowed_request():
    """It reaches the app, and the answer tells what is left, beside the app's own."""
    limiter = Fixed()
    answer = serve(throttle.ThrottleMiddleware(hello, limiter))
    assert (answer.status_code, answer.text, answer.headers["x-app"]) == (
        200,
        "hello",
        "1",
    )
    assert answer.headers.get_list("ratelimit") == ['"app";r=1', '"default";r=7;t=3']
    assert answer.headers["ratelimit-policy"] == '"default";q=10;w=60'
    assert limiter.keys == ["127.0.0.1"]


def test_a_refused_request():
    """It gets a 429 with a problem, all the fields, and a wait that is rounded up."""
    app = throttle.ThrottleMiddleware(hello, Fixed(False, 0, 1.2, 1.2), name="daily")
    answer = serve(app)
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"] == "2"
    assert answer.headers.get_list("ratelimit") == ['"daily";r=0;t=2']
    assert answer.headers["ratelimit-policy"] == '"daily";q=10;w=60'
    assert answer.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "violated-policies": ["daily"],
    }


@pytest.mark.parametrize(
    ("retry_after", "window", "wait"),
    [(0.0, 0.0, 1), (0.01, 0.0, 1), (1.0, 1.0, 1), (1.0001, 1.0, 2), (3.0, 9.5, 10)],
)
def test_the_wait_that_is_asked_for(retry_after, window, wait):
    """Retry-After is at least 1, never too short, and not before the window's end."""
    app = throttle.ThrottleMiddleware(hello, Fixed(False, 0, retry_after, window))
    answer = serve(app)
    assert answer.headers["retry-after"] == str(wait)
    (limit,) = throttle.parse_ratelimit(answer.headers["ratelimit"])
    assert limit.t <= wait


def test_head_gets_no_body():
    """The answer to HEAD has the fields of GET, and no body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def main(clock):
        app = throttle.ThrottleMiddleware(hello, Fixed(False, 0, 1.0, 1.0))
        await app({"type": "http", "method": "HEAD"}, None, send)

    run(main)
    assert [message.get("body") for message in sent] == [None, b""]
    assert int(dict(sent[0]["headers"])[b"content-length"]) > 100


def test_the_body_of_a_refused_request_is_not_read():
    """Whoever is over the limit cannot make the server read."""

    async def receive():
        raise AssertionError("read")

    async def main(clock):
        sent = []

        async def send(message):
            sent.append(message["type"])

        app = throttle.ThrottleMiddleware(hello, Fixed(False, 0, 1.0, 1.0))
        await app({"type": "http", "method": "POST"}, receive, send)
        return sent

    assert run(main) == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_scopes_pass(kind):
    """WebSockets and the lifespan pass untouched and are not counted."""
    limiter, seen = Fixed(False), []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    async def main(clock):
        middleware = throttle.ThrottleMiddleware(app, limiter)
        await middleware({"type": kind}, "receive", "send")

    run(main)
    assert seen == [({"type": kind}, "receive", "send")]
    assert limiter.keys == []


def test_no_key_is_no_limit():
    """Whom the key names None is not limited, and is told nothing."""
    limiter = Fixed(False)
    app = throttle.ThrottleMiddleware(hello, limiter, key=lambda scope: None)
    answer = serve(app)
    assert answer.headers.get_list("ratelimit") == ['"app";r=1']
    assert limiter.keys == []


@pytest.mark.parametrize(
    ("client", "key"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("testclient", 1), "testclient"),
        (None, ""),
    ],
)
def test_client_address(client, key):
    """A client is its address, or its IPv6 network; those without one share a limit."""
    assert throttle.client_address({"client": client}) == key
    assert throttle.client_address({"client": list(client) if client else None}) == key


def test_a_client_cannot_name_itself():
    """What a request says of its own address does not count."""
    limiter = Fixed()
    app = throttle.ThrottleMiddleware(hello, limiter)
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        serve(app, headers={name: "203.0.113.9"})
    assert set(limiter.keys) == {"127.0.0.1"}


def test_policies_one_around_the_other():
    """Each adds its item, and the one that refuses is the one that is named."""
    outer, inner = Fixed(), Fixed(available=3, limit=1000, period=3600)
    app = throttle.ThrottleMiddleware(hello, inner, name="hour")
    app = throttle.ThrottleMiddleware(app, outer, name="minute")
    answer = serve(app)
    limits = throttle.parse_ratelimit(answer.headers["ratelimit"])
    assert [(x.name, x.r) for x in limits] == [("app", 1), ("hour", 3), ("minute", 7)]
    policies = throttle.parse_ratelimit_policy(answer.headers["ratelimit-policy"])
    assert [(x.name, x.q, x.w) for x in policies] == [
        ("hour", 1000, 3600),
        ("minute", 10, 60),
    ]
    inner.decision = Fixed(False, 0, 9.0, 9.0).decision
    answer = serve(app)
    assert answer.json()["violated-policies"] == ["hour"]
    limits = throttle.parse_ratelimit(answer.headers["ratelimit"])
    # The outer window is not told: it may end behind the Retry-After (draft §6).
    assert limits == [
        throttle.RateLimit("hour", 0, 9),
        throttle.RateLimit("minute", 7),
    ]


def test_partition_keys():
    """A partition key is told if the owner makes one, and otherwise never."""
    app = throttle.ThrottleMiddleware(hello, Fixed(), partition_key=str.encode)
    headers = serve(app).headers
    (_, limit) = throttle.parse_ratelimit(headers["ratelimit"])
    (policy,) = throttle.parse_ratelimit_policy(headers["ratelimit-policy"])
    assert (limit.pk, policy.pk) == (b"127.0.0.1", b"127.0.0.1")


@pytest.mark.parametrize(
    ("limit", "period", "told"),
    [
        (10, 60, "q=10;w=60"),
        (5, 0.5, "q=10;w=1"),
        (10, 1.5, "q=20;w=3"),
        (0.5, 1, "q=1;w=2"),
        (7, 0.1, "q=70;w=1"),
        (1, 1 / 3, "q=3;w=1"),
        (5, 1e-9, "q=5"),
        (10**20, 1, "q=999999999999999;w=1"),
    ],
)
def test_windows_in_whole_seconds(limit, period, told):
    """A window is a whole number of seconds, and the quota fits it."""
    app = throttle.ThrottleMiddleware(hello, Fixed(limit=limit, period=period))
    assert serve(app).headers["ratelimit-policy"] == f'"default";{told}'


@pytest.mark.parametrize("name", ["täglich", "a\nb", "a\x7f"])
def test_names_that_no_field_can_hold(name):
    """A name that cannot be told is refused when the app is set up."""
    with pytest.raises(ValueError, match="printable ASCII"):
        throttle.ThrottleMiddleware(hello, Fixed(), name=name)


def test_a_name_with_quotes():
    """A name with quotes is told so that it can be read."""
    app = throttle.ThrottleMiddleware(hello, Fixed(), name='a"\\')
    assert throttle.parse_ratelimit(serve(app).headers["ratelimit"])[1].name == 'a"\\'


def test_fractions_are_rounded_to_the_safe_side():
    """Units are rounded down and times up, into the range of an Integer."""
    app = throttle.ThrottleMiddleware(hello, Fixed(available=2.9, window=1e300))
    (_, limit) = throttle.parse_ratelimit(serve(app).headers["ratelimit"])
    assert (limit.r, limit.t) == (2, 999_999_999_999_999)


def test_both_halves_together():
    """The client keeps to what the middleware tells, and is never refused."""

    async def main(clock):
        pace = Pace(clock, 2.0)
        app = throttle.ThrottleMiddleware(hello, pace)
        transport = throttle.ThrottleTransport(
            httpx.ASGITransport(app), clock=clock, random=lambda: 0.0
        )
        async with httpx.AsyncClient(transport=transport) as http:
            first = await http.get(URL)
            rest = await asyncio.gather(*(http.get(URL) for _ in range(5)))
        return [answer.status_code for answer in (first, *rest)], clock()

    assert run(main) == ([200] * 6, 10.0)
