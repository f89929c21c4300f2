# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Preconditions judged by the letter, and updates that undo nobody's change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.rest import preconditions

ETag, Proceed = preconditions.ETag, preconditions.Proceed
NotModified, PreconditionFailed = (
    preconditions.NotModified,
    preconditions.PreconditionFailed,
)
evaluate = preconditions.evaluate

AT = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
NOW = AT + timedelta(hours=1)
SAME, BEFORE, AFTER = (
    preconditions.format_http_date(AT + timedelta(seconds=s)) for s in (0, -1, 1)
)
GO, KNOWN, FAILED = Proceed(), NotModified(), PreconditionFailed()
OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF)).map(
    lambda text: "".join(c for c in text if c != '"' and not 0x7F <= ord(c) < 0x80)
)
TAGS = st.builds(ETag, OPAQUE, st.booleans())


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_comparisons(one: str, other: str, strong: bool, weak: bool) -> None:
    """The four rows of RFC 9110 §8.8.3.2, both ways round."""
    for a, b in ((one, other), (other, one)):
        assert ETag.parse(a).strong_compare(ETag.parse(b)) is strong
        assert ETag.parse(a).weak_compare(ETag.parse(b)) is weak


@given(TAGS)
def test_a_tag_is_read_as_it_was_written(tag: Any) -> None:
    """Every tag that can be made is its own text, alone and in a list."""
    assert ETag.parse(str(tag)) == tag
    assert preconditions.parse_etags(f" {tag},, {tag} ") == [tag, tag]


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "*",
        '"1',
        '1"',
        'w/"1"',
        'W/ "1"',
        '"a b"',
        '"a"b"',
        '"\x7f"',
        '"☃"',
        "W/1",
    ],
)
def test_no_tag(text: str) -> None:
    """What is not quoted, or has another prefix than `W/`, is no entity tag."""
    with pytest.raises(preconditions.InvalidETag):
        ETag.parse(text)
    with pytest.raises(preconditions.InvalidETag):
        preconditions.parse_etags(text + ',"ok"')


@pytest.mark.parametrize("opaque", ['a"b', "a b", "a\r\nb", "☃", "\x7f"])
def test_no_tag_is_made(opaque: str) -> None:
    """A tag that could not be sent cannot be made."""
    with pytest.raises(preconditions.InvalidETag):
        ETag(opaque)


def test_tag_of_content() -> None:
    """A tag made of bytes is strong, and another for other bytes."""
    assert ETag.of(b"a") == ETag.of(b"a") != ETag.of(b"b")
    assert not ETag.of(b"").weak


def test_lists() -> None:
    """A list may hold commas in its tags and empty members; `*` is no tag."""
    assert preconditions.parse_etags(' , "a,b" ,\t, W/"c",') == [
        ETag("a,b"),
        ETag("c", weak=True),
    ]
    assert preconditions.parse_etags(" * ") is None
    for text in (
        "",
        ",",
        '*, "a"',
        '"a" "b"',
        '"a""b"',
        '"a", b',
        '"a";x',
        '"a"' * 3000,
    ):
        with pytest.raises(preconditions.InvalidETag):
            preconditions.parse_etags(text)


@given(st.text(st.sampled_from('"W/*, \tab\\') | st.characters(), max_size=60))
def test_any_list(text: str) -> None:
    """Any text is a list of tags, or one documented error."""
    try:
        tags = preconditions.parse_etags(text)
    except preconditions.InvalidETag:
        return
    assert tags is None or preconditions.parse_etags(", ".join(map(str, tags))) == tags


def test_a_hostile_list_is_refused_at_once() -> None:
    """A long list takes time in step with its length."""
    for text in ('"a",' * 2000 + "x", "," * 8000 + "x", '"' * 8001, " " * 8000 + "x"):
        with pytest.raises(preconditions.InvalidETag):
            preconditions.parse_etags(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_dates(text: str) -> None:
    """The three forms of RFC 9110 §5.6.7 name one moment."""
    at = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert preconditions.parse_http_date(text) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "1994-11-06",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_no_dates(text: str) -> None:
    """Anything else is no date."""
    assert preconditions.parse_http_date(text) is None


@given(st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)))
def test_a_date_is_read_as_it_was_written(naive: datetime) -> None:
    """A date that is written is read again, and as the standard library writes it."""
    at = naive.replace(tzinfo=UTC, microsecond=0)
    text = preconditions.format_http_date(at)
    assert text == format_datetime(at, usegmt=True)
    assert preconditions.parse_http_date(text) == at == parsedate_to_datetime(text)


def test_a_date_without_a_zone() -> None:
    """A moment that does not know its zone is refused."""
    with pytest.raises(ValueError, match="zone"):
        preconditions.format_http_date(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="zone"):
        evaluate("GET", {}, None, datetime(2026, 1, 1))


# fmt: off
CASES: list[tuple[str, dict[str, str], str | None, datetime | None, Any]] = [
    # §13.1.1 If-Match: strongly, `*` for whatever is there
    ("PUT", {"If-Match": '"1"'}, '"1"', None, GO),
    ("PUT", {"If-Match": '"0", "1"'}, '"1"', None, GO),
    ("PUT", {"If-Match": '"0"'}, '"1"', None, FAILED),
    ("PUT", {"If-Match": 'W/"1"'}, '"1"', None, FAILED),
    ("PUT", {"If-Match": '"1"'}, 'W/"1"', None, FAILED),
    ("PUT", {"If-Match": "*"}, '"1"', None, GO),
    ("PUT", {"If-Match": "*"}, None, AT, GO),
    ("PUT", {"If-Match": "*"}, None, None, FAILED),
    ("PUT", {"If-Match": '"1"'}, None, AT, FAILED),
    ("PUT", {"If-Match": "1"}, '"1"', None, FAILED),
    ("PUT", {"If-Match": '"1", 2'}, '"1"', None, FAILED),
    ("PUT", {"If-Match": ""}, '"1"', None, FAILED),
    ("GET", {"If-Match": '"0"'}, '"1"', None, FAILED),
    # §13.1.4 If-Unmodified-Since, where there is no If-Match
    ("PUT", {"If-Unmodified-Since": SAME}, None, AT, GO),
    ("PUT", {"If-Unmodified-Since": AFTER}, None, AT, GO),
    ("PUT", {"If-Unmodified-Since": BEFORE}, None, AT, FAILED),
    ("PUT", {"If-Unmodified-Since": BEFORE}, '"1"', None, GO),
    ("PUT", {"If-Unmodified-Since": "yesterday"}, None, AT, GO),
    ("PUT", {"If-Match": '"1"', "If-Unmodified-Since": BEFORE}, '"1"', AT, GO),
    ("PUT", {"If-Match": '"0"', "If-Unmodified-Since": AFTER}, '"1"', AT, FAILED),
    # §13.1.2 If-None-Match: weakly, 304 for what reads
    ("GET", {"If-None-Match": '"1"'}, '"1"', None, KNOWN),
    ("HEAD", {"If-None-Match": 'W/"1"'}, '"1"', None, KNOWN),
    ("QUERY", {"If-None-Match": '"1"'}, 'W/"1"', None, KNOWN),
    ("GET", {"If-None-Match": '"0"'}, '"1"', None, GO),
    ("GET", {"If-None-Match": "*"}, '"1"', None, KNOWN),
    ("GET", {"If-None-Match": "*"}, None, None, GO),
    ("GET", {"If-None-Match": "1"}, '"1"', None, GO),
    ("GET", {"If-None-Match": ""}, '"1"', None, GO),
    ("PUT", {"If-None-Match": "*"}, None, None, GO),
    ("PUT", {"If-None-Match": "*"}, '"1"', None, FAILED),
    ("PUT", {"If-None-Match": 'W/"1"'}, '"1"', None, FAILED),
    ("PUT", {"If-None-Match": '"0"'}, '"1"', None, GO),
    ("PUT", {"If-None-Match": "x"}, None, None, FAILED),
    ("POST", {"If-None-Match": "*"}, '"1"', None, FAILED),
    # §13.1.3 If-Modified-Since: for what reads, where there is no If-None-Match
    ("GET", {"If-Modified-Since": SAME}, None, AT, KNOWN),
    ("GET", {"If-Modified-Since": AFTER}, None, AT, KNOWN),
    ("GET", {"If-Modified-Since": BEFORE}, None, AT, GO),
    ("GET", {"If-Modified-Since": SAME}, '"1"', None, GO),
    ("GET", {"If-Modified-Since": "0"}, None, AT, GO),
    ("PUT", {"If-Modified-Since": SAME}, None, AT, GO),
    ("GET", {"If-None-Match": '"0"', "If-Modified-Since": SAME}, '"1"', AT, GO),
    ("GET", {"If-None-Match": '"1"', "If-Modified-Since": BEFORE}, '"1"', AT, KNOWN),
    ("GET", {"If-None-Match": "junk", "If-Modified-Since": SAME}, '"1"', AT, GO),
    # §13.2.2: the first two come first
    ("GET", {"If-Match": '"0"', "If-None-Match": '"1"'}, '"1"', None, FAILED),
    ("GET", {"If-Match": '"1"', "If-None-Match": '"1"'}, '"1"', None, KNOWN),
    ("GET", {"If-Unmodified-Since": BEFORE, "If-None-Match": '"1"'}, '"1"', AT, FAILED),
    ("PUT", {"If-Match": '"1"', "If-None-Match": "*"}, '"1"', None, FAILED),
    # §13.2.1: nothing to judge
    ("OPTIONS", {"If-Match": '"0"', "If-None-Match": "*"}, '"1"', AT, GO),
    ("TRACE", {"If-Match": '"0"'}, '"1"', AT, GO),
    ("CONNECT", {"If-Match": '"0"'}, '"1"', AT, GO),
    ("GET", {}, '"1"', AT, GO),
    # §13.1.5 If-Range, §14.2 Range
    ("GET", {"Range": "bytes=0-1"}, '"1"', AT, Proceed(True)),
    ("GET", {"Range": "bytes=0-1", "If-Range": '"1"'}, '"1"', AT, Proceed(True)),
    ("GET", {"Range": "bytes=0-1", "If-Range": '"0"'}, '"1"', AT, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": 'W/"1"'}, 'W/"1"', AT, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": '"1"'}, None, AT, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": SAME}, None, AT, Proceed(True)),
    ("GET", {"Range": "bytes=0-1", "If-Range": AFTER}, None, AT, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": SAME}, '"1"', None, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": SAME}, None, NOW, GO),
    ("GET", {"Range": "bytes=0-1", "If-Range": "junk"}, '"1"', AT, GO),
    ("GET", {"If-Range": '"1"'}, '"1"', AT, GO),
    ("PUT", {"Range": "bytes=0-1"}, '"1"', AT, GO),
    ("HEAD", {"Range": "bytes=0-1"}, '"1"', AT, GO),
]
# fmt: on


@pytest.mark.parametrize(("method", "headers", "etag", "modified", "verdict"), CASES)
def test_verdicts(
    method: str,
    headers: dict[str, str],
    etag: str | None,
    modified: datetime | None,
    verdict: object,
) -> None:
    """Each row of RFC 9110 §13, whatever the case of the names and kind of headers."""
    lower = {name.lower(): value for name, value in headers.items()}
    for given_ in (headers, lower, httpx.Headers(headers), iter(lower.items())):
        assert evaluate(method, given_, etag, modified, now=NOW) == verdict


def test_a_date_within_its_second_is_weak() -> None:
    """A date is no strong validator in the second in which things changed."""
    asks = {"Range": "bytes=0-1", "If-Range": SAME}
    assert evaluate("GET", asks, None, AT, now=AT) == GO
    later = AT + timedelta(seconds=1)
    assert evaluate("GET", asks, None, AT, now=later) == Proceed(True)


def test_fractions_of_a_second() -> None:
    """A change within the second that a header can name is not later than it."""
    late = AT.replace(microsecond=900_000)
    assert evaluate("GET", {"If-Modified-Since": SAME}, None, late) == KNOWN
    assert evaluate("PUT", {"If-Unmodified-Since": SAME}, None, late) == GO


def test_lines_are_joined() -> None:
    """A list may come on several lines."""
    lines = [("If-Match", '"0"'), ("if-match", '"1"')]
    assert evaluate("PUT", lines, ETag("1"), None) == GO


def test_what_exists_without_validators() -> None:
    """`*` is about what exists, and that can be told."""
    assert evaluate("PUT", {"If-Match": "*"}, None, None, exists=True) == GO
    assert evaluate("PUT", {"If-None-Match": "*"}, None, None, exists=True) == FAILED
    assert evaluate("PUT", {"If-Match": '"1"'}, '"1"', None, exists=False) == FAILED


@given(
    st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "QUERY", "PURGE"]),
    st.dictionaries(
        st.sampled_from(preconditions._CONDITIONS), st.text(max_size=30), max_size=6
    ),
    st.none() | TAGS,
)
def test_any_headers(method: str, headers: dict[str, str], tag: Any) -> None:
    """Any headers give a verdict; what writes is never told 304."""
    verdict = evaluate(method, headers, tag, AT)
    assert isinstance(verdict, Proceed | NotModified | PreconditionFailed)
    if method not in ("GET", "HEAD", "QUERY"):
        assert verdict != KNOWN


def test_vary() -> None:
    """Two requests share an answer if they agree in all that it varies by."""
    key = preconditions.vary_key
    assert key("Accept", {"accept": "a"}) == key("accept,", [("ACCEPT", " a ")])
    assert key("Accept", {"Accept": "a"}) != key("Accept", {"Accept": "b"})
    assert key("Accept", {}) != key("Accept", {"Accept": ""})
    assert key("", {"Accept": "a"}) == ()
    assert key("Accept, *", {}) is None


def test_methods() -> None:
    """The table is RFC 9110 §9.2's: what is safe may be repeated too."""
    table = {method.name: method for method in preconditions.METHODS}
    assert len(table) == len(preconditions.METHODS) == 10
    assert all(method.idempotent for method in table.values() if method.safe)
    safe = [name for name, method in table.items() if method.safe]
    assert safe == ["GET", "HEAD", "QUERY", "OPTIONS", "TRACE"]
    assert [n for n, m in table.items() if m.idempotent] == [*safe, "PUT", "DELETE"]


# --- the middleware

Sent = list[dict[str, Any]]
FIRST = preconditions.Validators(ETag("1"), AT)
BODY = "http.response.body"


def call(
    app: Any, method: str = "GET", headers: dict[str, str] | None = None, **scope: Any
) -> Sent:
    """Send one request to an ASGI app, and return what it sends."""
    sent: Sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [
        (k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()
    ]
    scope = {"type": "http", "method": method, "headers": raw, "path": "/", **scope}
    asyncio.run(app(scope, receive, send))
    return sent


def guarded(
    validators: Any = FIRST,
    status: int = 200,
    **options: Any,
) -> Any:
    """Return an app behind the middleware, which keeps what it was called with."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        headers = [(b"content-type", b"text/plain"), (b"Vary", b"accept")]
        headers += [(b"content-length", b"4"), (b"cache-control", b"max-age=1")]
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": b"he", "more_body": True})
        await send({"type": "http.response.body", "body": b"re"})

    async def current(scope: Any) -> Any:
        return validators

    seen: list[Any] = []
    middleware = preconditions.PreconditionsMiddleware(app, current, **options)
    middleware.seen = seen  # type: ignore[attr-defined]
    return middleware


def content(sent: Sent) -> bytes:
    """Return the body of an answer."""
    return b"".join(message.get("body", b"") for message in sent[1:])


def test_validators_are_told() -> None:
    """Answers to what reads have the validators, and the app may say its own."""
    sent = call(guarded())
    headers = dict(sent[0]["headers"])
    assert (headers[b"etag"], headers[b"last-modified"]) == (b'"1"', SAME.encode())
    assert content(sent) == b"here"

    async def own(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"ETag", b'"own"')]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def current(scope: Any) -> Any:
        return preconditions.Validators(ETag("1"))

    sent = call(preconditions.PreconditionsMiddleware(own, current))
    assert sent[0]["headers"] == [(b"etag", b'"own"')]


def test_304() -> None:
    """A state that the client has is not sent again, and keeps the answer's headers."""
    sent = call(guarded(), headers={"If-None-Match": '"1"'})
    assert sent[0]["status"] == 304
    headers = dict(sent[0]["headers"])
    assert headers.keys() == {b"vary", b"cache-control", b"etag", b"last-modified"}
    assert content(sent) == b""
    assert not sent[-1].get("more_body")


@pytest.mark.parametrize("status", [404, 403, 302, 206])
def test_what_the_app_refuses_is_no_304(status: int) -> None:
    """Preconditions do not count where the answer would be another (§13.2.1)."""
    sent = call(guarded(status=status), headers={"If-None-Match": '"1"'})
    assert sent[0]["status"] == status
    assert content(sent) == b"here"
    assert (b"etag" in dict(sent[0]["headers"])) is (status == 206)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_412(method: str) -> None:
    """A write to another state does not reach the app."""
    app = guarded()
    sent = call(app, method, {"If-Match": '"0"'})
    assert sent[0]["status"] == 412
    assert json.loads(content(sent)) == {"title": "Precondition Failed", "status": 412}
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"content-length"] == str(len(content(sent))).encode()
    assert headers[b"cache-control"] == b"no-store"
    assert app.seen == []
    assert call(app, method, {"If-Match": '"1"'})[0]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "validators", "status"),
    [
        ({}, FIRST, 428),
        ({"If-Modified-Since": SAME}, FIRST, 428),
        ({"If-None-Match": '"0"'}, FIRST, 428),
        ({"If-Unmodified-Since": "x"}, FIRST, 428),
        ({"If-Unmodified-Since": SAME}, preconditions.Validators(ETag("1")), 428),
        ({"If-Unmodified-Since": SAME}, FIRST, 200),
        ({"If-None-Match": "*"}, FIRST, 412),
        ({}, None, 428),
        ({"If-None-Match": "*"}, None, 200),
        ({"If-Match": "*"}, None, 412),
    ],
)
def test_428(headers: dict[str, str], validators: Any, status: int) -> None:
    """A write has to name the state that it is for, or that there is none."""
    app = guarded(validators)
    assert call(app, "PUT", headers)[0]["status"] == status
    assert len(app.seen) == (status == 200)


def test_what_is_required() -> None:
    """Which methods have to name a state is told; POST need not."""
    assert call(guarded(), "POST")[0]["status"] == 200
    assert call(guarded(require=()), "PUT")[0]["status"] == 200
    assert call(guarded(require=["POST"]), "POST")[0]["status"] == 428
    with pytest.raises(ValueError, match="collection"):
        guarded(require="PUT")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "POST"])
def test_what_is_not_there_is_the_app_s(method: str) -> None:
    """Where there is nothing, the app says so, whatever the preconditions."""
    sent = call(guarded(None, 404), method, {"If-Match": '"1"'})
    assert sent[0]["status"] == 404


def test_the_app_gets_the_validators() -> None:
    """The app has what was compared, to compare again in its write."""
    app = guarded()
    call(app, "PUT", {"If-Match": '"1"'}, state={"user": "anna"})
    validators = FIRST
    assert app.seen[0]["state"] == {"user": "anna", "validators": validators}


def test_what_passes_untouched() -> None:
    """Other kinds of connection, and methods without a representation, pass."""
    app = guarded()
    for method in ("OPTIONS", "TRACE"):
        assert call(app, method, {"If-Match": '"0"'})[0]["headers"]
    call(app, type="websocket")
    assert len(app.seen) == 3
    assert "state" not in app.seen[0]


def test_an_answer_without_fields() -> None:
    """An app may leave out the headers, and may not send a file behind a 304."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        by_path = "http.response.pathsend" in scope["extensions"]
        await send({"type": "http.response.pathsend" if by_path else BODY, "path": ""})

    async def current(scope: Any) -> Any:
        return FIRST

    offered = {"http.response.pathsend": {}, "tls": {}}
    guard = preconditions.PreconditionsMiddleware(app, current)
    for tag, kind in (('"1"', BODY), ('"0"', "http.response.pathsend")):
        sent = call(guard, headers={"If-None-Match": tag}, extensions=offered)
        assert sent[-1]["type"] == kind
        assert dict(sent[0]["headers"])[b"etag"] == b'"1"'


def test_weak_bytes_in_headers() -> None:
    """Bytes beyond ASCII in a header are compared and harm nothing."""
    validators = preconditions.Validators(ETag("\xe9"))
    sent = call(guarded(validators), headers={"If-None-Match": '"\xe9"'})
    assert sent[0]["status"] == 304
    assert dict(sent[0]["headers"])[b"etag"] == b'"\xe9"'


# --- the client


class Shop:
    """One resource behind MockTransport, which others may change in between."""

    def __init__(self, value: Any, *, etag: str = '"{}"') -> None:
        self.value, self.version, self.etag = value, 1, etag
        self.between: Callable[[], None] = lambda: None
        self.requests: list[httpx.Request] = []
        self.extensions: dict[str, Any] = {}

    def write(self, value: Any) -> None:
        """Change the resource, as somebody else would."""
        self.value, self.version = value, self.version + 1

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        tag = self.etag.format(self.version)
        if request.method == "GET":
            answer = httpx.Response(200, json=self.value, headers={"etag": tag})
            self.between()
            return answer
        verdict = evaluate(request.method, request.headers, tag, None)
        if isinstance(verdict, PreconditionFailed):
            return httpx.Response(412, extensions=dict(self.extensions))
        self.write(json.loads(request.content))
        return httpx.Response(204, headers={"etag": self.etag.format(self.version)})


def both(shop: Any, change: Any, **options: Any) -> Any:
    """Update by either client, by the option `kind`."""
    options = {"random": lambda: 0.5, **options}
    if options.pop("kind", "sync") == "sync":
        with httpx.Client(transport=httpx.MockTransport(shop)) as client:
            options.setdefault("sleep", lambda seconds: None)
            return preconditions.update_with_etag(client, URL, change, **options)

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(shop)) as client:
            options.setdefault("sleep", lambda seconds: None)
            return await preconditions.aupdate_with_etag(client, URL, change, **options)

    return asyncio.run(main())


URL = "https://shop.test/orders/7"
kinds = pytest.mark.parametrize("kind", ["sync", "async"])


@kinds
def test_update(kind: str) -> None:
    """It reads past every cache, and writes to the state that it read."""
    shop = Shop([1])
    answer = both(shop, lambda lines: [*lines, 2], kind=kind, headers={"X-Tenant": "a"})
    assert (answer.status_code, shop.value) == (204, [1, 2])
    read, write = shop.requests
    assert (read.method, read.headers["cache-control"]) == ("GET", "no-cache")
    assert (write.method, write.headers["if-match"]) == ("PUT", '"1"')
    assert read.headers["x-tenant"] == write.headers["x-tenant"] == "a"
    assert "cache-control" not in write.headers


@kinds
def test_nobody_s_change_is_lost(kind: str) -> None:
    """Where another was faster, the change is made to what that one left."""
    shop = Shop([])
    rivals = iter(["a", "b"])

    def interfere() -> None:
        if (rival := next(rivals, None)) is not None:
            shop.write([*shop.value, rival])

    shop.between = interfere
    waits: list[float] = []
    both(shop, lambda lines: [*lines, "mine"], kind=kind, sleep=waits.append)
    assert shop.value == ["a", "b", "mine"]
    assert waits == [0.025, 0.05]
    assert len(shop.requests) == 6


@kinds
def test_the_bound(kind: str) -> None:
    """After the last attempt it gives up, and says how many there were."""
    shop = Shop([])
    shop.between = lambda: shop.write([])
    with pytest.raises(preconditions.UpdateError) as caught:
        both(shop, lambda lines: [1], kind=kind, max_attempts=3)
    assert (caught.value.reason, caught.value.attempts) == ("conflict", 3)
    assert caught.value.response.status_code == 412
    assert len(shop.requests) == 6


@pytest.mark.parametrize("etag", ['W/"{}"', "{}", ""])
def test_no_blind_write(etag: str) -> None:
    """Without a strong tag there is nothing to write for."""
    shop = Shop([], etag=etag)
    with pytest.raises(preconditions.UpdateError) as caught:
        both(shop, lambda lines: [1])
    assert (caught.value.reason, len(shop.requests)) == ("validator", 1)


def test_unknown() -> None:
    """A refusal of a write that was sent twice may be by its own first success."""
    shop = Shop([])
    shop.between = lambda: shop.write([])
    shop.extensions = {"attempts": 2}
    with pytest.raises(preconditions.UpdateError) as caught:
        both(shop, lambda lines: [1])
    assert (caught.value.reason, len(shop.requests)) == ("unknown", 2)


@pytest.mark.parametrize("status", [302, 404, 428, 500])
def test_other_answers(status: int) -> None:
    """Any other answer is raised as httpx does, 428 and redirects included."""

    def refusing(method: str) -> Any:
        def refuse(request: httpx.Request) -> httpx.Response:
            if request.method == method:
                return httpx.Response(status)
            return httpx.Response(200, json=[], headers={"etag": '"1"'})

        return refuse

    for method in ("GET", "PUT"):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            both(refusing(method), lambda lines: [1])
        assert caught.value.response.status_code == status


def test_a_change_that_returns_nothing() -> None:
    """A change made in place and not returned is a mistake, and told."""
    shop = Shop([])
    with pytest.raises(TypeError, match="change returned None"):
        both(shop, lambda lines: lines.append(1))
    assert len(shop.requests) == 1


def test_an_async_client() -> None:
    """The blocking update says at once that a client is not for it."""
    client = httpx.AsyncClient()
    with pytest.raises(TypeError, match="aupdate_with_etag"):
        preconditions.update_with_etag(client, URL, list)  # type: ignore[arg-type]


def test_own_codec_and_method() -> None:
    """What is read and written need not be JSON, nor by PUT."""

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.content))
        fields.update(request.headers)
        return httpx.Response(200, text="a", headers={"etag": '"1"'})

    seen: list[Any] = []
    fields: dict[str, str] = {}
    both(
        serve,
        lambda text: text + "b",
        method="PATCH",
        load=lambda response: response.text,
        dump=lambda text: {"content": text, "headers": {"If-Match": '"0"', "X": "y"}},
        headers={"z": "1"},
    )
    assert seen == [("GET", b""), ("PATCH", b"ab")]
    assert fields["if-match"] == '"1"'  # whatever else is sent, it is no blind write
    assert (fields["x"], fields["z"]) == ("y", "1")


@pytest.mark.parametrize("octets", ["\xe9".encode(), b"\xe9", "\u65e5".encode()])
def test_a_tag_of_other_octets(octets: bytes) -> None:
    """A tag beyond ASCII goes back as the octets that came, in whatever charset."""

    def serve(request: httpx.Request) -> httpx.Response:
        raw.append(dict(request.headers.raw))
        tag = b'"' + octets + b'"'
        return httpx.Response(200, json=1, headers=[(b"ETag", tag)])

    raw: list[Any] = []
    assert both(serve, lambda value: 2).status_code == 200
    assert raw[1][b"if-match"] == b'"' + octets + b'"'


@pytest.mark.parametrize(
    ("status", "method"), [(302, None), (303, "GET"), (307, "PUT"), (308, "PUT")]
)
def test_a_redirect_that_makes_a_read_of_the_write(status: int, method: Any) -> None:
    """A write that became a GET was not made, and no 200 hides it; 303 says it was."""

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT" and request.url == URL:
            return httpx.Response(status, headers={"location": "/new"})
        return httpx.Response(200, json=1, headers={"etag": '"1"'})

    transport = httpx.MockTransport(serve)
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        if method:
            answer = preconditions.update_with_etag(client, URL, lambda value: 2)
            assert answer.request.method == method
        else:
            with pytest.raises(httpx.HTTPStatusError, match="302"):
                preconditions.update_with_etag(client, URL, lambda value: 2)


def test_async_change() -> None:
    """In the async update the change may wait for something, and is raised through."""

    async def change(lines: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return [*lines, 1]

    async def broken(lines: list[int]) -> list[int]:
        raise LookupError("mine")

    shop = Shop([])
    both(shop, change, kind="async")
    assert shop.value == [1]
    with pytest.raises(LookupError, match="mine"):
        both(shop, broken, kind="async")


def test_transport_errors_are_the_caller_s() -> None:
    """An error of the transport is not repeated, for nobody knows what it left."""

    def fail(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if request.method == "PUT":
            raise httpx.ReadTimeout("late")
        return httpx.Response(200, json=[], headers={"etag": '"1"'})

    calls: list[str] = []
    with pytest.raises(httpx.ReadTimeout):
        both(fail, lambda lines: [1])
    assert calls == ["GET", "PUT"]
