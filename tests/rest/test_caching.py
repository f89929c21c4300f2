"""Tests of `patterns/rest/caching.py`; they can be copied along with it."""

import asyncio
import gzip
import os
import sqlite3
import threading
import time
from email.utils import formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.rest import caching

URL = "https://api.test/orders/7"
T0 = 1_700_000_000.0
BOTH = pytest.mark.parametrize("kind", ["blocking", "async"])


class Clock:
    """Seconds since the epoch, that pass when they are told to."""

    def __init__(self):
        self.now = T0

    def __call__(self):
        return self.now


class Origin:
    """A server that answers by a list of responses, the last one for ever."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    def __call__(self, request):
        self.seen.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes from a network, and can break."""

    def __init__(self, *chunks, error=None):
        self.chunks, self.error, self.closed = chunks, error, False

    def __iter__(self):
        yield from self.chunks
        if self.error:
            raise self.error

    async def __aiter__(self):
        for chunk in self:
            yield chunk

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


def answer(body=b"paid", status=200, stream=None, **fields):
    """Return a maker of responses; `max_age=60` and the like are for its head."""
    headers = [(name.replace("_", "-"), value) for name, value in fields.items()]

    def make(request):
        if stream is not None:
            return httpx.Response(status, headers=headers, stream=stream)
        content = b"" if request.method == "HEAD" else body
        return httpx.Response(status, headers=headers, content=content)

    return make


def fresh(body=b"paid", seconds=60, **fields):
    """Return a maker of responses that are fresh for a time."""
    return answer(body, cache_control=f"max-age={seconds}", **fields)


class Client:
    """A client of either kind, with a cache and a clock, driven alike."""

    def __init__(self, kind, origin, principal="ann", clock=None, **options):
        self.kind, self.origin = kind, origin
        self.clock = clock or Clock()
        self.transport = caching.PrivateCacheTransport(
            httpx.MockTransport(origin), principal, clock=self.clock, **options
        )
        if kind == "blocking":
            self.client = httpx.Client(transport=self.transport)
        else:
            self.runner = asyncio.Runner()
            self.client = httpx.AsyncClient(transport=self.transport)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        if self.kind == "blocking":
            self.client.close()
        else:
            self.runner.run(self.client.aclose())
            self.runner.close()

    def ask(self, method="GET", url=URL, **options):
        headers = {
            name.replace("_", "-"): value
            for name, value in options.pop("fields", {}).items()
        }
        call = self.client.request(method, url, headers=headers, **options)
        return call if self.kind == "blocking" else self.runner.run(call)

    def told(self, **options):
        """Ask, and return where the answer came from and its body."""
        response = self.ask(**options)
        told = response.extensions["caching"]
        names = [name for name, value in told.items() if value]
        return " ".join(names) or "server", response.content


# --- Cache-Control


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", {}),
        ("max-age=60", {"max-age": 60}),
        ("MAX-Age=60, No-Store", {"max-age": 60, "no-store": None}),
        ('max-age="60"', {"max-age": 60}),
        ("max-age='60'", {"max-age": 0}),
        ("max-age=0060", {"max-age": 60}),
        ("max-age=60, max-age=5", {"max-age": 5}),
        ("max-age=5, max-age=60", {"max-age": 5}),
        ("min-fresh=5, min-fresh=60", {"min-fresh": 60}),
        ("max-age=2147483648", {"max-age": 2**31}),
        ("max-age=99999999999999999999", {"max-age": 2**31}),
        ("max-age=" + "9" * 5000, {"max-age": 2**31}),
        ("max-age=-1", {"max-age": 0}),
        ("max-age=+1", {"max-age": 0}),
        ("max-age=1.5", {"max-age": 0}),
        ("max-age=1_0", {"max-age": 0}),
        ("max-age=\u0661", {"max-age": 0}),
        ("max-age", {"max-age": 0}),
        ("max-age=", {"max-age": 0}),
        ("min-fresh=soon", {"min-fresh": 2**31}),
        ("max-stale", {"max-stale": 2**31}),
        ("max-stale=soon", {"max-stale": 0}),
        ("max-stale, max-stale=7", {"max-stale": 7}),
        ('no-cache="a, b", x', {"no-cache": "a, b", "x": None}),
        ('no-cache="a", no-cache="b"', {"no-cache": "a, b"}),
        ('no-cache="a", no-cache', {"no-cache": None}),
        ('no-cache, no-cache="a"', {"no-cache": None}),
        (r'x="a\"b, max-age=9"', {"x": 'a"b, max-age=9'}),
        ('x="max-age=3600", max-age=1', {"x": "max-age=3600", "max-age": 1}),
        ('max-age=9, x="a, no-store', {"max-age": 9, "x": '"a', "no-store": None}),
        (",, ;, a b, =1, max-age=9,", {"max-age": 9}),
        (" a\t=\t1 ", {"a": "1"}),
        ("x=1, x=2", {"x": "1, 2"}),
    ],
)
def test_cache_control(value, wanted):
    """Directives are read in any form, junk is left out, and the strictest counts."""
    assert caching.parse_cache_control(value) == wanted


@given(st.text(alphabet='max-age=0159,"\\ no-store\t;\x00é', max_size=60) | st.text())
def test_any_cache_control(value):
    """Whatever comes gives directives, and seconds that are within bounds."""
    for name, found in caching.parse_cache_control(value).items():
        assert name == name.lower()
        assert found is None or isinstance(found, str) or 0 <= found <= 2**31


@pytest.mark.parametrize("piece", ["a", ",", '"', '\\"', 'a="', "max-age=1,", "a=b,"])
def test_a_cache_control_of_a_hundred_kilobytes(piece):
    """A value that no server sends is refused as a whole, in no time."""
    start = time.process_time()
    assert caching.parse_cache_control(piece * (100_000 // len(piece))) == {
        "no-store": None
    }
    caching.parse_cache_control((piece * 8192)[:8192])
    assert time.process_time() - start < 1


# --- ages and dates


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("0", 0),
        ("120", 120),
        (" 120\t", 120),
        ("120, 3", 120),
        ("99999999999999999999", 2**31),
        ("-1", None),
        ("1.0", None),
        ("1;a=b", None),
        ("", None),
        (", 120", None),
        ("\u0661", None),
    ],
)
def test_age(value, wanted):
    """The first member of an Age counts, and what is no number is ignored."""
    assert caching.parse_age(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        " Sun, 06 Nov 1994 08:49:37 GMT ",
    ],
)
def test_expires(value):
    """All three forms of an HTTP-date are read (RFC 9110 §5.6.7)."""
    assert caching.parse_expires(value, now=T0) == 784111777.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "-1",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug  2050 02:01:18 GMT",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 gmt",
        "Thu, 18 AUG 2050 02:01:18 GMT",
        "Thu, 32 Aug 2050 02:01:18 GMT",
        "Thu, 18 Aug 0000 02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 Aug \u0662\u0660\u0665\u0660 02:01:18 GMT",
    ],
)
def test_expires_that_is_none(value):
    """What is not one HTTP-date has expired (RFC 9111 §5.3)."""
    assert caching.parse_expires(value, now=T0) is None
    headers = {"Expires": value, "Date": "Thu, 18 Aug 2022 02:01:18 GMT"}
    assert caching.freshness_lifetime(headers, response_time=T0) == 0


@given(st.text() | st.dates().map(str), st.floats(0, 4e9))
def test_any_expires(value, now):
    """Whatever comes as a date is a time or none."""
    at = caching.parse_expires(value, now=now)
    assert at is None or isinstance(at, float)


def date(seconds):
    """Return an HTTP-date, seconds after the start."""
    return formatdate(T0 + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "delay", "wanted"),
    [
        ({}, 0, 10),
        ({}, 3, 13),  # the exchange took that long
        ({"Age": "100"}, 3, 113),
        ({"Date": date(-50)}, 0, 60),  # apparent age
        ({"Date": date(-50), "Age": "20"}, 0, 60),
        ({"Date": date(-50), "Age": "70"}, 0, 80),
        ({"Date": date(+50)}, 0, 10),  # its clock is ahead
        ({"Date": "yesterday", "Age": "soon"}, 0, 10),
        ({"Age": "9" * 30}, 0, 2**31 + 10),
    ],
)
def test_current_age(headers, delay, wanted):
    """Age, Date, the exchange and the time in the store are counted (§4.2.3)."""
    age = caching.current_age(
        headers, request_time=T0 - delay, response_time=T0, now=T0 + 10
    )
    assert age == wanted


@given(
    st.floats(0, 4e9), st.floats(0, 4e9), st.floats(0, 4e9), st.floats(0, 1e6),
    st.text(), st.text(),
)  # fmt: skip
def test_nothing_gets_younger(sent, came, now, more, age, at):
    """An age is never negative, and grows with time, whatever the clocks do."""
    headers = {"Age": age, "Date": at}
    with_times = {"request_time": sent, "response_time": came}
    first = caching.current_age(headers, **with_times, now=now)
    assert 0 <= first <= caching.current_age(headers, **with_times, now=now + more)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, None),
        ({"Cache-Control": "max-age=60"}, 60),
        ({"Cache-Control": "max-age=60", "Expires": date(5)}, 60),
        ({"Cache-Control": "max-age=0", "Expires": date(5)}, 0),
        ({"Cache-Control": "max-age=soon", "Expires": date(5)}, 0),
        ({"Cache-Control": "s-maxage=60"}, None),
        ({"Expires": date(5), "Date": date(0)}, 5),
        ({"Expires": date(5), "Date": date(-9)}, 14),
        ({"Expires": date(5), "Date": "yesterday"}, 5),
        ({"Expires": date(5)}, 5),
        ({"Expires": date(-5), "Date": date(0)}, 0),
        ({"Last-Modified": date(-1000)}, None),
    ],
)
def test_freshness_lifetime(headers, wanted):
    """`max-age` goes before `Expires`, and nothing is guessed (§4.2.1)."""
    assert caching.freshness_lifetime(headers, response_time=T0) == wanted


def test_a_guess_has_to_be_asked_for():
    """A share of the time since the last change is taken where one was named."""
    headers = {"Last-Modified": date(-1000), "Date": date(0)}
    found = caching.freshness_lifetime(headers, response_time=T0, heuristic=0.1)
    assert found == pytest.approx(100)
    headers["Last-Modified"] = date(1000)
    assert caching.freshness_lifetime(headers, response_time=T0, heuristic=0.1) == 0
    headers["Cache-Control"] = "max-age=7"
    assert caching.freshness_lifetime(headers, response_time=T0, heuristic=0.1) == 7


# --- what may be stored


@pytest.mark.parametrize(
    ("wanted", "method", "status", "asked", "said"),
    [
        (True, "GET", 200, "", "max-age=60"),
        (True, "GET", 200, "", ""),
        (True, "GET", 404, "", ""),
        (True, "GET", 200, "", "private"),
        (True, "GET", 302, "", "max-age=60"),
        (True, "GET", 599, "", "max-age=60"),
        (True, "GET", 200, "", "no-cache"),
        (False, "GET", 302, "", ""),
        (False, "GET", 302, "", "s-maxage=60"),
        (False, "GET", 200, "", "max-age=60, no-store"),
        (False, "GET", 200, "no-store", "max-age=60"),
        (False, "GET", 206, "", "max-age=60"),
        (False, "GET", 304, "", "max-age=60"),
        (False, "GET", 103, "", "max-age=60"),
        (False, "POST", 200, "", "max-age=60"),
        (False, "HEAD", 200, "", "max-age=60"),
        (True, "GET", 200, "", "max-age=60, must-understand, no-store"),
        (False, "GET", 299, "", "max-age=60, must-understand"),
    ],
)
def test_storable(wanted, method, status, asked, said):
    """What a private cache may store (§3)."""
    headers = {"Cache-Control": asked}, {"Cache-Control": said}
    assert caching.is_storable(method, status, *headers) is wanted


def test_a_response_that_varies_by_anything_is_not_stored():
    """`Vary: *` matches no request, so there is nothing to keep it for."""
    headers = {"Cache-Control": "max-age=60", "Vary": "accept, *"}
    assert not caching.is_storable("GET", 200, {}, headers)


def test_vary_key():
    """Requests match if the fields that are named are the same, or are missing."""
    key = caching.vary_key
    assert key("", {"a": "1"}) == key("", {"a": "2"}) == ""
    assert key("A, b", {"a": "1"}) == key("b,,a", {"A": "1", "c": "3"})
    assert key("a", {"a": "1"}) != key("a", {"a": "2"})
    assert key("a", {}) != key("a", {"a": ""})
    assert key("a", {"a": "secret"}).isalnum()
    assert "secret" not in key("a", {"a": "secret"})
    assert key("a, *", {}) is None
    assert key(",".join(map(str, range(9000))), {}) is None  # too much to look up
    lines = httpx.Headers([("a", "1"), ("a", "2")])
    assert key("a", lines) == key("a", {"a": "1, 2"})


# --- decisions


def decide(said, asked="", *, age=0, method="GET", fields=(), **more):
    """Decide for a stored response that is so many seconds old."""
    headers = httpx.Headers({"Cache-Control": said, **more})
    stored = caching.Stored(200, headers, T0, T0)
    request = httpx.Request(
        method, URL, headers=[("Cache-Control", asked), *dict(fields).items()]
    )
    return caching.may_reuse(request, stored, now=T0 + age)


TAG = {"ETag": '"7"'}
CONDITIONAL = {"if-none-match": '"7"'}


@pytest.mark.parametrize(
    ("said", "asked", "age", "wanted"),
    [
        ("max-age=60", "", 0, "reuse"),
        ("max-age=60", "", 59.5, "reuse"),
        ("max-age=60", "", 60, "ask"),
        ("max-age=60, must-revalidate", "", 59, "reuse"),
        ("max-age=60, must-revalidate", "", 61, "ask"),
        ("max-age=60, no-cache", "", 0, "ask"),
        ('max-age=60, no-cache="set-cookie"', "", 0, "reuse"),
        ("", "", 0, "ask"),
        ("max-age=60", "no-cache", 0, "ask"),
        ("max-age=60", "max-age=10", 10, "reuse"),
        ("max-age=60", "max-age=10", 11, "ask"),
        ("max-age=60", "max-age=0", 0, "ask"),
        ("max-age=60", "max-age=soon", 0, "ask"),
        ("max-age=60", "min-fresh=10", 50, "reuse"),
        ("max-age=60", "min-fresh=10", 51, "ask"),
        ("max-age=60", "max-stale=10", 70, "stale"),
        ("max-age=60", "max-stale=10", 71, "ask"),
        ("max-age=60", "max-stale", 10**8, "stale"),
        ("max-age=60", "max-stale=soon", 61, "ask"),
        ("max-age=60", "max-stale, max-age=65", 66, "ask"),
        ("max-age=60, must-revalidate", "max-stale", 61, "ask"),
        ("max-age=60, no-cache", "max-stale", 61, "ask"),
        ("max-age=60, proxy-revalidate", "max-stale", 61, "stale"),
        ("max-age=60", "only-if-cached", 59, "reuse"),
        ("max-age=60", "only-if-cached", 61, "refuse"),
        ("max-age=60", "only-if-cached, max-stale", 61, "stale"),
        ("max-age=60, no-cache", "only-if-cached", 0, "refuse"),
        ("max-age=60, immutable", "max-age=0", 59, "reuse"),
        ("max-age=60, immutable", "max-age=0", 60, "ask"),
        ("max-age=60, immutable", "no-cache", 0, "ask"),
        ("max-age=60", "no-store", 0, "reuse"),
        ('max-age=60, no-cache=""', "", 0, "ask"),
        ("max-age=60", "", -3600, "ask"),
    ],
)
def test_decision(said, asked, age, wanted):
    """What the server said and the request asks for is decided as §4 and §5.2 say."""
    want = {
        "reuse": caching.Reuse(age),
        "stale": caching.Reuse(age, stale=True),
        "ask": caching.Revalidate(CONDITIONAL),
        "refuse": caching.Refuse(),
    }
    assert decide(said, asked, age=age, **TAG) == want[wanted]


@pytest.mark.parametrize(
    ("said", "asked", "age", "if_error", "meanwhile"),
    [
        ("max-age=60, stale-if-error=10", "", 70, True, False),
        ("max-age=60, stale-if-error=10", "", 71, False, False),
        ("max-age=60", "stale-if-error=10", 70, True, False),
        ("max-age=60, must-revalidate, stale-if-error=10", "", 61, False, False),
        ("max-age=60, no-cache, stale-if-error=10", "", 61, False, False),
        ("max-age=60, stale-if-error=10", "no-cache", 0, False, False),
        ("max-age=60, stale-while-revalidate=10", "", 70, False, True),
        ("max-age=60, stale-while-revalidate=10", "", 71, False, False),
        ("max-age=60, must-revalidate, stale-while-revalidate=9", "", 61, False, False),
    ],
)
def test_what_a_stale_response_is_good_for(said, asked, age, if_error, meanwhile):
    """The times of RFC 5861 count from where freshness ends."""
    wanted = caching.Revalidate(CONDITIONAL, if_error, meanwhile)
    assert decide(said, asked, age=age, **TAG) == wanted


def test_conditions():
    """Both validators are sent; without one there is nothing to ask for."""
    both = {"ETag": 'W/"7"', "Last-Modified": date(-5)}
    wanted = {"if-none-match": 'W/"7"', "if-modified-since": date(-5)}
    assert decide("max-age=0", **both) == caching.Revalidate(wanted)
    assert decide("max-age=0") == caching.Fetch()
    assert decide("stale-if-error=9", age=5) == caching.Revalidate({}, if_error=True)


@pytest.mark.parametrize("name", ["Range", "If-None-Match", "If-Match", "If-Range"])
def test_a_request_with_conditions_of_its_own(name):
    """It is for the server to answer."""
    assert decide("max-age=60", fields={name: "x"}) == caching.Fetch()
    refused = decide("max-age=60", "only-if-cached", fields={name: "x"})
    assert refused == caching.Refuse()


def test_other_methods():
    """A stored response answers GET and HEAD."""
    assert decide("max-age=60", method="HEAD") == caching.Reuse(0)
    assert decide("max-age=60", method="POST") == caching.Fetch()
    assert decide("max-age=60", "only-if-cached", method="POST") == caching.Fetch()


def test_a_response_for_other_fields():
    """Where the fields that Vary names differ, a response is for another request."""
    headers = httpx.Headers({"Cache-Control": "max-age=60", "Vary": "Accept"})
    key = caching.vary_key("Accept", {"Accept": "a"})
    stored = caching.Stored(200, headers, T0, T0, key)
    same, other = (httpx.Request("GET", URL, headers={"Accept": a}) for a in "ab")
    assert caching.may_reuse(same, stored, now=T0) == caching.Reuse(0)
    assert caching.may_reuse(other, stored, now=T0) == caching.Fetch()
    star = caching.Stored(200, httpx.Headers({**headers, "Vary": "*"}), T0, T0, None)
    assert caching.may_reuse(same, star, now=T0) == caching.Fetch()


FIELD = st.text(alphabet='max-age=0159,"\\ no-storeGMT:\x80', max_size=40)


@given(*[FIELD] * 7, st.floats(0, 1e6))
def test_any_decision(asked, said, age, expires, at, vary, etag, passed):
    """Whatever the fields hold, there is a decision, and `no-store` is obeyed."""
    names = ("Cache-Control", "Age", "Expires", "Date", "Vary", "ETag")
    values = (said, age, expires, at, vary, etag)
    headers = httpx.Headers(
        [(n.encode(), v.encode()) for n, v in zip(names, values, strict=True)]
    )
    stored = caching.Stored(200, headers, T0, T0)
    request = httpx.Request("GET", URL, headers={"Cache-Control": asked.encode()})
    step = caching.may_reuse(request, stored, now=T0 + passed)
    if isinstance(step, caching.Reuse):
        assert step.age >= passed * 0.999
        assert "no-cache" not in caching.parse_cache_control(asked)
    if "no-store" in caching.parse_cache_control(said):
        assert not caching.is_storable("GET", 200, {}, headers)


# --- freshening, and what changes


def stored(**fields):
    """Return a stored response with these fields."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return caching.Stored(200, httpx.Headers(headers), T0, T0)


def test_freshen():
    """Fields of a 304 replace the stored ones, but those that read the content."""
    old = stored(etag='"7"', age="9", content_length="4", x="1", z="1")
    new = httpx.Headers(
        [
            ("etag", '"7"'),
            ("content-length", "0"),
            ("x", "2"),
            ("x", "3"),
            ("connection", "y"),
            ("y", "1"),
            ("content-encoding", "br"),
        ]
    )
    assert caching.freshen(old, new).multi_items() == [
        ("content-length", "4"),
        ("z", "1"),
        ("etag", '"7"'),
        ("x", "2"),
        ("x", "3"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "head", "same"),
    [
        ({"etag": '"7"'}, {"etag": '"7"'}, False, True),
        ({"etag": 'W/"7"'}, {"etag": '"7"'}, False, True),
        ({"etag": '"7"'}, {"etag": '"8"'}, False, False),
        ({"etag": '"7"'}, {}, False, True),
        ({"last_modified": "a"}, {"last_modified": "b"}, False, False),
        ({"last_modified": "a"}, {"last_modified": "a"}, False, True),
        ({"content_length": "4"}, {"content_length": "0"}, False, True),
        ({"content_length": "4"}, {"content_length": "5"}, True, False),
        ({"content_length": "4"}, {"content_length": "4"}, True, True),
    ],
)
def test_what_a_304_is_about(old, new, head, same):
    """A 304 with another validator is about another response (§4.3.4)."""
    new = httpx.Headers({n.replace("_", "-"): v for n, v in new.items()})
    assert (caching.freshen(stored(**old), new, head=head) is not None) is same


@pytest.mark.parametrize(
    ("method", "status", "fields", "wanted"),
    [
        ("PUT", 204, {}, [URL]),
        ("PATCH", 200, {}, [URL]),
        ("M-SEARCH", 200, {}, [URL]),
        ("POST", 303, {"Location": "/a"}, [URL, "https://api.test/a"]),
        ("POST", 201, {"Content-Location": "8"}, [URL, "https://api.test/orders/8"]),
        ("POST", 201, {"Location": "https://other.test/a"}, [URL]),
        ("POST", 201, {"Location": "http://api.test/a"}, [URL]),
        ("POST", 201, {"Location": "https://[oops"}, [URL]),
        ("POST", 201, {"Location": "\x00"}, [URL]),
        ("POST", 201, {"Location": "http://xn--zzz--/"}, [URL]),
        ("POST", 400, {"Location": "/a"}, []),
        ("GET", 200, {"Location": "/a"}, []),
        ("QUERY", 200, {}, []),
    ],
)
def test_changed_urls(method, status, fields, wanted):
    """An unsafe request that did not fail changes URLs of its own origin (§4.4)."""
    response = httpx.Response(status, headers=fields)
    found = caching.changed_urls(httpx.Request(method, URL), response)
    assert [str(url) for url in found] == wanted


# --- the transport


@BOTH
def test_a_hit(kind):
    """A fresh response comes from the cache, with its age, and as it was."""
    origin = Origin(fresh(x="1", age="5", content_type="text/plain"))
    with Client(kind, origin) as client:
        first = client.ask()
        assert first.extensions["caching"] == {
            "from_cache": False, "revalidated": False, "stored": True, "stale": False,
        }  # fmt: skip
        client.clock.now += 10.5
        second = client.ask()
        assert second.extensions["caching"]["from_cache"]
        assert second.headers["age"] == "15"
        assert "age" in first.headers
        assert first.headers["age"] == "5"
        assert second.headers["x"] == "1"
        assert second.text == first.text == "paid"
        assert second.status_code == 200
        client.clock.now += 44.5
        assert client.told() == ("stored", b"paid")
        assert len(origin.seen) == 2


@BOTH
def test_everything_of_a_response_is_kept(kind):
    """Repeated fields, other charsets, an encoded body and a status all come back."""
    head = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x", b"caf\xe9")]
    head += [(b"cache-control", b"max-age=60"), (b"content-encoding", b"gzip")]
    stream = Chunks(*[bytes([b]) for b in gzip.compress(b"paid" * 99)])
    origin = Origin(lambda request: httpx.Response(404, headers=head, stream=stream))
    with Client(kind, origin) as client:
        first = client.ask()
        client.client.cookies.clear()  # which name another user
        second = client.ask()
        assert second.extensions["caching"]["from_cache"]
        assert second.content == first.content == b"paid" * 99
        assert second.status_code == 404
        raw = [pair for pair in second.headers.raw if pair[0] != b"age"]
        assert raw == head == first.headers.raw
    assert stream.closed


@BOTH
@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({"connection": "X-Hop, close", "x_hop": "1"}, ["connection", "x-hop"]),
        ({"proxy_authenticate": "Basic"}, ["proxy-authenticate"]),
        (
            {"cache_control": 'max-age=60, no-cache="X-Once"', "x_once": "1"},
            ["x-once"],
        ),
    ],
)
def test_fields_that_are_not_stored(kind, fields, gone):
    """What is for one connection or one answer is there once (§3.1)."""
    fields = {"cache_control": "max-age=60", **fields}
    with Client(kind, Origin(answer(**fields))) as client:
        assert set(gone) <= set(client.ask().headers)
        second = client.ask()
        assert second.extensions["caching"]["from_cache"]
        assert not set(gone) & set(second.headers)


@BOTH
@pytest.mark.parametrize(
    "said",
    [
        {"cache_control": "max-age=60", "age": "120"},
        {"cache_control": "max-age=60", "age": "120, 0"},
        {"cache_control": "max-age=60", "date": date(-61)},
        {"expires": "Thu, 18 Aug 2050 02:01:18 UTC"},
        {"expires": "0"},
        {"cache_control": "max-age=3600, max-age=0"},
        {"cache_control": "max-age=60, no-store"},
        {"cache_control": "max-age=60", "vary": "*"},
        {"cache_control": "s-maxage=60"},
        {},
    ],
)
def test_what_is_not_fresh_is_not_reused(kind, said):
    """Old, expired, contradictory or unsaid: the server is asked."""
    origin = Origin(answer(**said))
    with Client(kind, origin) as client:
        client.ask()
        assert not client.ask().extensions["caching"]["from_cache"]
        assert len(origin.seen) == 2


@BOTH
def test_revalidation(kind):
    """A stale response is asked after, and is fresh again by a 304."""
    not_modified = answer(
        status=304, cache_control="max-age=30", x="2", content_length="0"
    )
    origin = Origin(fresh(etag='"7"', x="1", age="1"), not_modified)
    with Client(kind, origin) as client:
        client.ask()
        client.clock.now += 60
        second = client.ask()
        assert second.extensions["caching"]["revalidated"]
        assert (second.status_code, second.content) == (200, b"paid")
        assert (second.headers["x"], second.headers["age"]) == ("2", "0")
        assert origin.seen[1].headers["if-none-match"] == '"7"'
        assert "if-none-match" not in second.request.headers
        client.clock.now += 29
        assert client.told() == ("from_cache", b"paid")
        assert client.ask().headers["age"] == "29"
        client.clock.now += 1
        assert client.told() == ("from_cache revalidated", b"paid")


@BOTH
def test_a_new_response_takes_the_place(kind):
    """A 200 to a conditional request is given, and kept instead."""
    origin = Origin(fresh(etag='"7"'), fresh(b"sent", etag='"8"'))
    with Client(kind, origin) as client:
        client.ask()
        client.clock.now += 60
        assert client.told() == ("stored", b"sent")
        assert client.told() == ("from_cache", b"sent")


@BOTH
def test_what_was_replaced_never_comes_back(kind):
    """A newer response that may not be stored takes the stored one away."""
    gone = answer(status=410, cache_control="no-store")
    origin = Origin(fresh(), gone, answer(b"new", cache_control="no-store"))
    with Client(kind, origin) as client:
        client.ask()
        assert client.told(fields={"cache_control": "no-cache"})[0] == "server"
        assert client.told() == ("server", b"new")


@BOTH
def test_a_304_about_something_else(kind):
    """Where the server says that another response still holds, it is asked again."""
    other = answer(status=304, etag='"8"')
    origin = Origin(fresh(etag='"7"'), other, fresh(b"sent", etag='"8"'))
    with Client(kind, origin) as client:
        client.ask()
        client.clock.now += 60
        assert client.told() == ("stored", b"sent")
        assert "if-none-match" not in origin.seen[2].headers


@BOTH
def test_a_304_that_the_caller_asked_for(kind):
    """A caller's own condition goes to the server, and its 304 to the caller."""
    origin = Origin(fresh(etag='"7"'), answer(status=304, etag='"7"'), fresh(b"new"))
    with Client(kind, origin) as client:
        client.ask()
        assert client.ask(fields={"if_none_match": '"7"'}).status_code == 304
        assert client.told() == ("from_cache", b"paid")
        assert client.ask(fields={"range": "bytes=0-1"}).content == b"new"
        assert len(origin.seen) == 3


@BOTH
@pytest.mark.parametrize("failure", [503, httpx.ConnectError("no")])
def test_stale_if_error(kind, failure):
    """While the server fails, a stale response is given, for as long as it said."""
    down = answer(b"down", 503) if failure == 503 else failure
    said = "max-age=60, stale-if-error=10"
    origin = Origin(answer(cache_control=said, etag='"7"'), down)
    with Client(kind, origin) as client:
        client.ask()
        client.clock.now += 70
        assert client.told() == ("from_cache stale", b"paid")
        client.clock.now += 1
        if failure == 503:
            assert client.ask().status_code == 503
        else:
            with pytest.raises(httpx.ConnectError):
                client.ask()


@BOTH
def test_only_if_cached(kind):
    """The server is not asked, and the answer is 504 where nothing is stored."""
    origin = Origin(fresh())
    only = {"cache_control": "only-if-cached"}
    with Client(kind, origin) as client:
        assert client.ask(fields=only).status_code == 504
        assert origin.seen == []
        client.ask()
        assert client.told(fields=only) == ("from_cache", b"paid")


@BOTH
def test_head(kind):
    """A stored response to GET answers HEAD; what HEAD brings freshens it."""
    another = fresh(content_length="5")
    origin = Origin(
        fresh(x="1"), fresh(x="2", content_length="4"), another, fresh(b"sent")
    )
    with Client(kind, origin) as client:
        client.ask()
        head = client.ask("HEAD")
        assert (head.content, head.headers["content-length"]) == (b"", "4")
        assert head.extensions["caching"]["from_cache"]
        client.clock.now += 60
        assert not client.ask("HEAD").extensions["caching"]["stored"]
        assert client.told() == ("from_cache", b"paid")
        assert client.ask().headers["x"] == "2"
        client.clock.now += 60
        client.ask("HEAD")  # of 5 bytes: it is another one by now
        assert client.told() == ("stored", b"sent")


@BOTH
def test_variants(kind):
    """Responses that vary by a field are kept side by side, some of them."""
    origin = Origin(lambda r: fresh(r.headers["accept"].encode(), vary="Accept")(r))
    with Client(kind, origin) as client:
        for name in ("a", "b", "a", "b"):
            assert client.ask(fields={"accept": name}).text == name
        assert len(origin.seen) == 2
        for number in range(40):
            client.clock.now += 1
            client.ask(fields={"accept": str(number)})
        assert client.told(fields={"accept": "39"})[0] == "from_cache"
        assert client.told(fields={"accept": "0"})[0] == "stored"
        storage = client.transport._storage(True)
        (count,) = storage.connection.execute(
            "select count(*) from entries where expires_at is null"
        ).fetchone()
        assert count == 16


# --- principals


ME = {"authorization": "Bearer ann"}


def whoami(**more):
    """Return an origin that names the one who asks, as something to be kept."""
    return Origin(
        lambda r: fresh(r.headers.get("authorization", "nobody").encode(), **more)(r)
    )


@BOTH
@pytest.mark.parametrize("name", ["authorization", "cookie"])
def test_other_credentials_get_other_responses(kind, name):
    """What one user got is not given to another, though the client be the same."""
    origin = Origin(lambda request: fresh(request.headers[name].encode())(request))
    with Client(kind, origin) as client:
        for user in ("ann", "bob", "ann", "bob"):
            assert client.ask(fields={name: user}).text == user
        assert len(origin.seen) == 2


def test_credentials_can_be_named():
    """A field that tells users apart elsewhere does so here when it is named."""
    origin = Origin(lambda r: fresh(r.headers["x-api-key"].encode())(r))
    with Client("blocking", origin, credentials=["X-API-Key"]) as client:
        for user in ("ann", "bob"):
            assert client.ask(fields={"x_api_key": user}).text == user


@BOTH
def test_principals_share_nothing(kind, tmp_path):
    """Principals have a file each in a folder; a store of hishel's they may share."""
    import hishel

    one, two = whoami(), whoami()
    both = Clock()
    with (
        Client(kind, one, "ann", both, folder=tmp_path) as ann,
        Client(kind, two, "bob", both, folder=tmp_path) as bob,
    ):
        ann.ask(fields=ME)
        assert bob.told(fields=ME)[0] == "stored"
        assert ann.told(fields=ME)[0] == "from_cache"
    assert len(list(tmp_path.glob("*.sqlite"))) == 2
    names = {"blocking": "SqliteStorage", "async": "AsyncSqliteStorage"}
    shared = getattr(hishel, names[kind])(database_path=tmp_path / "shared.db")
    with Client(kind, one, "ann", both, storage=shared) as ann:
        ann.ask(fields=ME)
        assert ann.told(fields=ME)[0] == "from_cache"
    with Client(kind, two, "bob", both, storage=shared) as bob:
        assert bob.told(fields=ME)[0] == "stored"
        if kind == "async":
            bob.runner.run(shared.close())
    if kind == "blocking":
        shared.close()


@pytest.mark.parametrize("principal", ["", None, 7, b"ann"])
def test_a_principal_is_needed(principal):
    """Nobody in particular is everybody."""
    with pytest.raises(ValueError, match="principal"):
        caching.PrivateCacheTransport(httpx.MockTransport(fresh()), principal)


@BOTH
def test_no_mode_can_be_chosen_by_a_request(kind):
    """What hishel reads from a request's extensions changes nothing here."""
    said = {"cache_control": "no-store", "vary": "Authorization"}
    origin = Origin(answer(**said))
    modes = {"caching": {"rfc": False, "key": "k", "ttl": 99}}
    with Client(kind, origin) as client:
        client.ask(extensions=modes)
        assert client.told(extensions=modes)[0] == "server"


def test_the_file_holds_no_secret(tmp_path):
    """Neither who asked nor with what lies in the store, and no other user reads it."""
    origin = whoami()
    origin.answers = [fresh(b"paid", vary="X-Key")]
    url = "https://user:pa55word@api.test/orders?token=t0ken#frag"
    with Client("blocking", origin, "ann-the-principal", folder=tmp_path) as client:
        client.ask(url=url, fields={**ME, "x_key": "k3y", "cookie": "c00kie"})
        (path,) = tmp_path.glob("*.sqlite")
        if os.name == "posix":
            assert path.stat().st_mode & 0o077 == 0
    data = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    assert b"paid" in data
    for secret in (b"Bearer", b"pa55", b"t0ken", b"k3y", b"c00kie", b"the-principal"):
        assert secret not in data
        assert secret.decode() not in repr(client.transport)


# --- what changes


@BOTH
@pytest.mark.parametrize("token", ["ann", "bob"])
def test_an_unsafe_request_forgets(kind, token):
    """After a change nothing from before is given, whoever of the principal made it."""
    change = answer(status=204, location="/orders/8", content_location="//x.test/")
    origin = Origin(fresh(b"1"), fresh(b"2"), change, fresh(b"3"), fresh(b"4"))
    other = "https://api.test/orders/8"
    with Client(kind, origin) as client:
        client.ask(fields=ME)
        client.ask(url=other, fields=ME)
        client.ask("PUT", fields={"authorization": f"Bearer {token}"}, url=URL + "#x")
        assert client.told(fields=ME) == ("stored", b"3")
        assert client.told(url=other, fields=ME) == ("stored", b"4")


@BOTH
def test_a_failed_change_forgets_nothing(kind):
    """What the server refused to change has not changed."""
    origin = Origin(fresh(), answer(status=412))
    with Client(kind, origin) as client:
        client.ask()
        client.ask("PUT")
        assert client.told() == ("from_cache", b"paid")


def test_a_response_that_a_change_overtook():
    """A response that was under way while its URL changed is given, but not kept."""
    origin = Origin(fresh(b"before"), answer(status=204), fresh(b"after"))
    with Client("blocking", origin) as client:
        with client.client.stream("GET", URL) as slow:
            client.ask("PUT")
            # A body that was complete at once is not read by the client.
            assert b"".join(slow.iter_raw()) == b"before"
        assert client.told() == ("stored", b"after")


def test_a_change_that_was_long_ago_is_not_forgotten(monkeypatch):
    """Not even more changes than are remembered let an overtaken response be kept."""
    monkeypatch.setattr(caching, "_REMEMBERED", 5)
    origin = Origin(fresh(b"before"), *[answer(status=204)] * 7, fresh(b"after"))
    with Client("blocking", origin) as client:
        with client.client.stream("GET", URL) as slow:
            for number in range(7):
                client.ask("PUT", url=f"{URL}/{number}" if number else URL)
            assert b"".join(slow.iter_raw()) == b"before"
        assert client.told() == ("stored", b"after")


@BOTH
def test_a_change_that_nobody_saw_end(kind):
    """After a write that timed out, the stored response may be wrong: it is gone."""
    origin = Origin(fresh(b"before"), httpx.ReadTimeout("late"), fresh(b"after"))
    with Client(kind, origin) as client:
        client.ask()
        with pytest.raises(httpx.ReadTimeout):
            client.ask("PUT")
        assert client.told() == ("stored", b"after")


@BOTH
@pytest.mark.parametrize("tag", ["\xe9".encode(), b"\xe9", "\u65e5".encode()])
def test_a_tag_of_other_octets(kind, tag):
    """A validator goes back as the octets that came, in whatever charset."""
    head = [(b"cache-control", b"no-cache"), (b"etag", b'"' + tag + b'"')]
    origin = Origin(httpx.Response(200, headers=head, content=b"paid"))
    with Client(kind, origin) as client:
        client.ask()
        client.ask()
        raw = dict(origin.seen[1].headers.raw)
        assert raw[b"if-none-match"] == b'"' + tag + b'"'


def test_a_question_with_content_is_passed_on():
    """Two requests to GET that differ in their content have nothing in common."""
    origin = Origin(lambda request: fresh(request.content)(request))
    with Client("blocking", origin) as client:
        for content in (b"a", b"b"):
            answer = client.client.request("GET", URL, content=content)
            assert answer.content == content
            assert not answer.extensions["caching"]["stored"]


# --- bodies


@BOTH
def test_a_body_that_breaks_is_not_kept(kind):
    """A response that did not come to its end is no response to give again."""
    broken = Chunks(b"pa", error=httpx.ReadError("reset"))
    origin = Origin(fresh(stream=broken), fresh())
    with Client(kind, origin) as client:
        with pytest.raises(httpx.ReadError):
            client.ask()
        assert broken.closed
        assert client.told() == ("stored", b"paid")


def test_a_body_that_nobody_reads_is_not_kept():
    """What a caller leaves unread is closed, and not stored."""
    stream = Chunks(b"pa", b"id")
    origin = Origin(fresh(stream=stream), fresh())
    with Client("blocking", origin) as client:
        with client.client.stream("GET", URL) as response:
            next(response.iter_raw())
        assert stream.closed
        assert client.told() == ("stored", b"paid")


@BOTH
def test_a_body_that_is_too_long_is_not_kept(kind):
    """A body over the limit is passed on, and not held in memory."""
    origin = Origin(fresh(stream=Chunks(*[b"x" * 100] * 30)))
    with Client(kind, origin, max_body=2999) as client:
        assert len(client.ask().content) == 3000
        assert client.told()[0] == "stored"  # which was the intention
        assert len(origin.seen) == 2


def test_a_body_that_was_read_below_is_not_kept():
    """What another layer decoded is not what came."""

    class Reads(httpx.BaseTransport):
        def handle_request(self, request):
            stream = Chunks(gzip.compress(b"paid"))
            head = {"cache-control": "max-age=60", "content-encoding": "gzip"}
            response = httpx.Response(200, headers=head, stream=stream)
            response.read()
            return response

    transport = caching.PrivateCacheTransport(Reads(), "ann")
    with httpx.Client(transport=transport) as client:
        for _ in range(2):
            told = client.get(URL).extensions["caching"]
            assert not told["stored"]
            assert not told["from_cache"]


# --- stores


@BOTH
def test_a_file_outlives_the_client(kind, tmp_path):
    """Another client of the same principal finds what the first one kept."""
    clock = Clock()
    for wanted in ("stored", "from_cache"):
        with Client(kind, Origin(fresh()), "ann", clock, folder=tmp_path) as client:
            assert client.told() == (wanted, b"paid")


@BOTH
@pytest.mark.parametrize(
    "damage",
    [
        "update streams set chunk_data = 7",
        "delete from streams",
        "update entries set data = x'c0'",
        "update entries set data = x'00112233'",
    ],
)
def test_damaged_rows_are_a_miss(kind, tmp_path, damage, caplog):
    """What cannot be read is fetched again, and then it is there again."""
    clock, origin = Clock(), Origin(fresh())
    with Client(kind, origin, "ann", clock, folder=tmp_path) as client:
        client.ask()
    (path,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(path) as con:
        con.execute(damage)
    con.close()
    with Client(kind, origin, "ann", clock, folder=tmp_path) as client:
        assert client.told() == ("stored", b"paid")
        assert client.told() == ("from_cache", b"paid")
    assert caplog.records


@BOTH
def test_a_file_that_is_no_store_is_a_miss(kind, tmp_path, caplog):
    """With a damaged file a client works as without a cache, and says so in the log."""
    clock, origin = Clock(), Origin(fresh())
    with Client(kind, origin, "ann", clock, folder=tmp_path):
        pass
    with Client(kind, origin, "ann", clock, folder=tmp_path) as client:
        client.ask()
    (path,) = tmp_path.glob("*.sqlite")
    for beside in tmp_path.glob("*.sqlite-*"):
        beside.unlink()
    path.write_bytes(b"not a database" * 999)
    with Client(kind, origin, "ann", clock, folder=tmp_path) as client:
        assert client.ask().content == client.ask().content == b"paid"
    assert len(origin.seen) == 3
    assert caplog.records


@given(
    kept=st.sampled_from(
        [
            '[NaN, 1, "", 1]',
            '[1, 1e99, "", 1]',
            "7",
            "[]",
            "[1, 2, 3]",
            '["a", 1, "", ""]',
            "{",
            '"\\ud800"',
        ]
    )
    | st.text()
)
def test_any_record_that_is_damaged(kept):
    """An entry that this module did not write so is none."""
    import hishel

    headers = hishel.Headers({"x": "1", ":kept": kept})
    entry = hishel.Entry(None, None, hishel.Response(200, headers, None))
    _, found = caching._unpack(entry)
    assert found is None or isinstance(found, caching.Stored)
    if found:
        caching.may_reuse(httpx.Request("GET", URL), found, now=T0)
    assert caching._unpack(object()) == ("", None)


def test_threads():
    """Many threads get the right responses from one cache."""
    origin = Origin(lambda request: fresh(request.url.path.encode())(request))
    wrong = []
    with Client("blocking", origin) as client:

        def work():
            for number in range(40):
                path = f"/{number % 5}"
                response = client.client.get(f"https://api.test{path}")
                if response.text != path:
                    wrong.append(response.text)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(origin.seen) <= 20


def test_tasks():
    """Many tasks get the right responses from one cache."""

    async def main():
        async def slow(request):
            await asyncio.sleep(0)
            return fresh(request.url.path.encode())(request)

        below = httpx.MockTransport(slow)
        transport = caching.PrivateCacheTransport(below, "ann")
        async with httpx.AsyncClient(transport=transport) as client:

            async def one(number):
                path = f"/{number % 5}"
                return (await client.get(f"https://api.test{path}")).text == path

            assert all(await asyncio.gather(*map(one, range(100))))

    asyncio.run(main())


def test_a_cancelled_request_closes_what_it_got():
    """Who is cancelled while the answer is dealt with leaves no connection open."""
    stream = Chunks(b"")

    class Slow:
        async def get_entries(self, key):
            if opened:
                await asyncio.Event().wait()
            return []

    opened = []

    async def put(request):
        opened.append(request)
        return httpx.Response(204, stream=stream)

    async def main():
        below = httpx.MockTransport(put)
        transport = caching.PrivateCacheTransport(below, "ann", storage=Slow())
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await client.put(URL)

    asyncio.run(main())
    assert stream.closed


def test_what_is_remembered_is_bounded(monkeypatch):
    """Changes of ever new URLs do not fill the memory."""
    monkeypatch.setattr(caching, "_REMEMBERED", 5)
    with Client("blocking", Origin(answer(status=204))) as client:
        for number in range(20):
            client.ask("PUT", url=f"{URL}/{number}")
        assert len(client.transport._changed) == 5


class Broken:
    """A store of which one operation fails, or the only one that is called."""

    def __init__(self, name, real):
        self.name, self.real = name, real

    def __getattr__(self, name):
        if name == self.name:
            raise LookupError("away")
        return getattr(self.real, name)


@BOTH
@pytest.mark.parametrize(
    "name", ["get_entries", "create_entry", "remove_entry", "update_headers"]
)
def test_a_store_that_is_away(kind, name, caplog):
    """Whatever of it fails, requests are answered, and it is logged."""
    not_modified = answer(status=304, etag='"7"', cache_control="no-cache")
    origin = Origin(fresh(etag='"7"'), not_modified, answer(status=204), fresh(b"new"))
    with Client(kind, origin) as client:
        client.ask()
        real = client.transport._storage(kind == "blocking")
        client.transport._given = Broken(name, real)
        client.clock.now += 60
        for method, status in (("GET", {200, 304}), ("PUT", {204}), ("GET", {200})):
            assert client.ask(method).status_code in status
    assert "away" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    """Where there can be no file, a client works as without a cache."""
    (tmp_path / "file").touch()
    with Client("blocking", Origin(fresh()), folder=tmp_path / "file") as client:
        assert client.ask().content == client.ask().content == b"paid"
    assert "FileExistsError" in caplog.text


def test_a_closed_store_is_opened_again(tmp_path):
    """A transport that was closed with its client serves another one."""
    clock, origin = Clock(), Origin(fresh())
    with Client("blocking", origin, "ann", clock, folder=tmp_path) as client:
        client.ask()
    with httpx.Client(transport=client.transport) as again:
        assert again.get(URL).extensions["caching"]["from_cache"]


def test_a_store_that_fails_fails_no_request(caplog):
    """A response that cannot be stored was given all the same."""
    origin = Origin(fresh(stream=Chunks(b"paid")))
    with (
        Client("blocking", origin) as client,
        client.client.stream("GET", URL) as response,
    ):
        client.transport._storage(True).close()
        assert response.read() == b"paid"
    assert "could not be stored" in caplog.text
