"""Tests of `patterns/errors/problem_details.py`; they can be copied along with it."""

import asyncio
import copy
import dataclasses
import gzip
import http
import itertools
import json
import pickle
import tracemalloc
import zlib
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patterns.errors import problem_details

URL = "https://api.test/orders/7"
SECRET = "s3cr3t-t0ken"
PRIVATE = f"https://ann:{SECRET}@api.test/orders/7?key={SECRET}#{SECRET}"
MIB = 2**20
PROBLEM = {"type": "https://example.com/probs/sold-out", "title": "Sold out."}


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


def response(body, *, status=409, kind="application/problem+json", url=URL):
    """Return a response that was read; its body is bytes, text or a JSON value."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    request = httpx.Request("GET", url) if url else None
    headers = {"content-type": kind}
    return httpx.Response(status, headers=headers, content=body, request=request)


def read(body, **options):
    """Return the problem that a response with this body tells of."""
    return problem_details.ProblemDetails.from_response(response(body, **options))


# --- reading

VECTORS = vectors("problem_details.json")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector):
    """The documents of the standards read as they say."""
    options = {"kind": vector["content_type"], "url": vector["url"]}
    problem = read(vector["body"], status=vector["http_status"], **options)
    if vector["expect"] is None:
        assert problem is None
    else:
        seen = {name: getattr(problem, name) for name in vector["expect"]}
        assert seen == vector["expect"]


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [
        ("application/problem+json", True),
        ("APPLICATION/Problem+Json", True),
        (" application/problem+json \t; charset=utf-8", True),
        ("application/problem+json;profile=x;charset=utf-16", True),
        ("application/problem+json; charset=latin-1", True),
        ("application/problem+json,text/html", False),
        ("application/problem+jsonp", False),
        ("application/x.problem+json", False),
        ("application/problem+xml", False),
        ("application/json", False),
        ("application/hal+json", False),
        ("", False),
    ],
)
def test_media_type(kind, is_one):
    """Only the one media type is a problem document, in any case, with parameters."""
    assert (read('{"title": "é"}', kind=kind) is not None) is is_one
    assert is_one is False or read('{"title": "é"}', kind=kind).title == "é"


def test_no_media_type():
    """A response without a media type is no problem document."""
    bare = httpx.Response(409, content=b'{"title": "t"}')
    assert problem_details.ProblemDetails.from_response(bare) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html>",
        b"null",
        b"[]",
        b'"title"',
        b"1",
        b'{"title": "t"',
        b'{"title": "t"} x',
        b"{'title': 't'}",
        b'{"title": "\xe9"}',
        b'{"title": "t", "n": NaN}',
        b'{"title": "t", "n": [-Infinity]}',
        b'{"title": "t", "n": 1e999}',
        b'{"title": "t", "n": %s}' % (b"9" * 5000),
        b'{"title": "t\n"}',
        '{"title": "t"}'.encode("utf-16"),
        '{"title": "t"}'.encode("utf-16-le"),
        '{"title": "t"}'.encode("utf-32"),
        b"\xef\xbb\xbf" * 2 + b"{}",
    ],
)
def test_no_document(body):
    """What is no JSON object in UTF-8 is no problem document, whatever it says."""
    assert read(body) is None


def test_byte_order_mark():
    """A byte order mark before the UTF-8 is passed over."""
    assert read(b'\xef\xbb\xbf{"title": "t"}').title == "t"


def test_names_that_come_twice():
    """Of a member that comes twice, the last one counts."""
    problem = read('{"title": "a", "x": 1, "title": "b", "x": 2}')
    assert (problem.title, problem.extensions) == ("b", {"x": 2})


@pytest.mark.parametrize("depth", [101, 1000, 100_000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}")])
def test_nesting(depth, ends):
    """What is nested deep is no document, on each release of Python alike."""
    opened, closed = ends

    def nested(levels):
        return '{"a":' + opened * levels + "1" + closed * levels + "}"

    assert read(nested(depth)) is None
    problem = read(nested(99))
    assert copy.deepcopy(problem) == pickle.loads(pickle.dumps(problem)) == problem
    assert len(repr(problem)) > 99


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_size(extra):
    """A body of up to 1 MiB is looked at, and a larger one is not."""
    frame = '{"title": "t", "x": ""}'
    body = frame.replace('""', f'"{"x" * (MIB + extra - len(frame))}"')
    assert (read(body) is None) is (extra > 0)


@pytest.mark.parametrize("value", [None, 0, True, 1.5, [], {}, ["t"]])
def test_members_of_the_wrong_type(value):
    """A member of the wrong type is as if it were not there, and no extension."""
    names = ("type", "title", "status", "detail", "instance")
    problem = read({**dict.fromkeys(names, value), "other": value})
    bare = problem_details.ProblemDetails(status=409, extensions={"other": value})
    assert problem == bare


@pytest.mark.parametrize("said", [500, "500", True, 409.0, None, -1, 10**20])
@pytest.mark.parametrize("status", [200, 409, 599])
def test_status(said, status):
    """The status is that of the response, whatever the document says."""
    body = response({"status": said}, status=status)
    problem = problem_details.ProblemDetails.from_response(body)
    assert problem.status == status
    assert type(problem.status) is int
    assert body.json()["status"] == said


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_status_that_is_none(status):
    """A status that HTTP does not have is not told as one."""
    assert read({"status": 400}, status=status).status is None


def test_status_of_an_enumeration():
    """A status is a plain number, also where the response has one of an enumeration."""
    assert repr(read({}, status=http.HTTPStatus.CONFLICT).status) == "409"


def test_body_that_is_not_read():
    """A body that is still a stream is left one."""
    stream = Parts([b'{"title": "t"}'])
    unread = httpx.Response(409, headers={"content-type": KIND}, stream=stream)
    assert problem_details.ProblemDetails.from_response(unread) is None
    assert stream.taken == 0
    unread.close()
    assert problem_details.ProblemDetails.from_response(unread) is None


# --- references

# RFC 3986 §5.4, the base without its query; the last of them as a strict parser has it.
BASE = "http://a/b/c/d;p"
EXAMPLES = """
g:h g:h | g http://a/b/c/g | ./g http://a/b/c/g | g/ http://a/b/c/g/ | /g http://a/g
//g http://g | ?y http://a/b/c/d;p?y | g?y http://a/b/c/g?y | #s http://a/b/c/d;p#s
g#s http://a/b/c/g#s | g?y#s http://a/b/c/g?y#s | ;x http://a/b/c/;x
g;x http://a/b/c/g;x | g;x?y#s http://a/b/c/g;x?y#s | . http://a/b/c/
./ http://a/b/c/ | .. http://a/b/ | ../ http://a/b/ | ../g http://a/b/g
../.. http://a/ | ../../ http://a/ | ../../g http://a/g | ../../../g http://a/g
../../../../g http://a/g | /./g http://a/g | /../g http://a/g | g. http://a/b/c/g.
.g http://a/b/c/.g | g.. http://a/b/c/g.. | ..g http://a/b/c/..g
./../g http://a/b/g | ./g/. http://a/b/c/g/ | g/./h http://a/b/c/g/h
g/../h http://a/b/c/h | g;x=1/./y http://a/b/c/g;x=1/y | g;x=1/../y http://a/b/c/y
g?y/./x http://a/b/c/g?y/./x | g?y/../x http://a/b/c/g?y/../x
g#s/./x http://a/b/c/g#s/./x | g#s/../x http://a/b/c/g#s/../x | http:g http:g
"""
RESOLVED = [pair.split() for pair in EXAMPLES.strip().replace("\n", "|").split("|")]


@pytest.mark.parametrize(("reference", "resolved"), RESOLVED)
def test_relative_references(reference, resolved):
    """`type` and `instance` are resolved against the request's URL by RFC 3986."""
    problem = read({"type": reference, "instance": reference}, url=f"{BASE}?q#f")
    assert problem.type == problem.instance == resolved


@pytest.mark.parametrize(
    "uri",
    [
        "about:blank",
        "urn:problem-type:sold-out",
        "tag:example.com,2024:sold-out",
        "HTTPS://Example.COM:443/a/../b?#",
        "https://example.com/prob%6cems",
        "https://example.com/größe",
        "https://[::1]:8080/x",
        "file:///x",
        "javascript:alert(1)",
    ],
)
def test_absolute_references(uri):
    """An absolute URI stays as it was written: it is compared as text."""
    problem = read({"type": uri, "instance": uri})
    assert problem.type == problem.instance == uri


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "http://[",
        "//[",
        "http://h:port/",
        "//h:99999",
        "a b",
        " a",
        "a\n",
        "/a\r\nb",
        "\ud800",
        "/\u2028",
        "/\u202e",
        "http://\u2028/",
        "//xn--\u00fc.-/",
        "<script>",
        "{id}",
        "a\\b",
        "x" * 8001,
        "\x00",
    ],
)
def test_no_references(reference):
    """An empty or an ill-formed reference is ignored: no type, no instance."""
    problem = read({"type": reference, "instance": reference})
    assert problem == problem_details.ProblemDetails(status=409)


def test_response_without_a_request():
    """Without a request a relative reference stays one, and nothing fails."""
    problem = read({"type": "/probs/x", "instance": "../y"}, url=None)
    assert (problem.type, problem.instance) == ("/probs/x", "../y")


@pytest.mark.parametrize("reference", ["", "#part", "?page=2", "x", "/x", "//other/x"])
def test_references_hold_no_secrets(reference):
    """Nothing of the request's userinfo, query or fragment gets into a reference."""
    problem = read({"type": reference, "instance": reference}, url=PRIVATE)
    assert SECRET not in repr(problem)


# --- writing


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"type": None}, TypeError),
        ({"type": b"about:blank"}, TypeError),
        ({"title": 1}, TypeError),
        ({"detail": ["d"]}, TypeError),
        ({"instance": httpx.URL(URL)}, TypeError),
        ({"status": True}, TypeError),
        ({"status": "409"}, TypeError),
        ({"status": 409.0}, TypeError),
        ({"status": 99}, ValueError),
        ({"status": 600}, ValueError),
        ({"extensions": None}, TypeError),
        ({"extensions": [("a", 1)]}, TypeError),
        ({"extensions": {1: 1}}, TypeError),
        ({"extensions": {"balance": 30, "status": 200}}, ValueError),
    ],
)
def test_what_a_server_must_not_say(members, error):
    """A member of the wrong type, or an extension in its place, is refused at once."""
    with pytest.raises(error, match=r"text|status|mapping"):
        problem_details.ProblemDetails(**members)


@pytest.mark.parametrize("status", [100, http.HTTPStatus.CONFLICT, 599])
def test_statuses(status):
    """A status is from 100 to 599, and kept as a plain number."""
    kept = problem_details.ProblemDetails(status=status).status
    assert (kept, type(kept)) == (status, int)


def test_immutable():
    """A problem does not change, nor do the extensions that it was made from."""
    given_ = {"balance": 30}
    problem = problem_details.ProblemDetails(extensions=given_)
    given_["balance"] = 0
    problem.to_dict()["balance"] = 0
    with pytest.raises(TypeError):
        problem.extensions["balance"] = 0
    with pytest.raises(AttributeError):
        problem.title = "t"
    assert problem.extensions == {"balance": 30}


def test_values():
    """Problems of the same members are equal, hash alike, and survive copies."""
    members = {**PROBLEM, "status": 409, "extensions": {"left": [0]}}
    one = problem_details.ProblemDetails(**members)
    other = problem_details.ProblemDetails(**members)
    changed = dataclasses.replace(one, extensions={"left": [1]})
    assert one == other != changed
    assert len({one, other}) == 1
    assert (
        pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == copy.copy(one) == one
    )
    copy.deepcopy(one).extensions["left"].append(1)
    assert one.extensions == {"left": [0]}


def test_document():
    """The type is always said, other members where there are any, extensions flat."""
    assert problem_details.ProblemDetails().to_dict() == {"type": "about:blank"}
    problem = problem_details.ProblemDetails(
        "/t", "T", 409, "d", "/i", extensions={"x": None, "title ": ""}
    )
    document = problem.to_dict()
    assert list(document) == [
        *("type", "title", "status", "detail", "instance", "x", "title ")
    ]
    assert document["x"] is None


def test_render():
    """A rendered problem is strict JSON in ASCII with its media type and status."""
    problem = problem_details.ProblemDetails(title="Größe\ud800", status=413)
    body, status, headers = problem.render()
    assert (
        body
        == rb'{"type": "about:blank", "title": "Gr\u00f6\u00dfe\ud800", "status": 413}'
    )
    assert (status, headers) == (413, {"content-type": "application/problem+json"})


@pytest.mark.parametrize("status", [None, 100, 199, 204, 205, 304])
def test_render_without_a_body(status):
    """A problem is not sent without a status, nor with one that has no body."""
    with pytest.raises(ValueError, match="status"):
        problem_details.ProblemDetails(status=status).render()


LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (LOOP, ValueError), (b"x", TypeError)],
)
def test_render_what_json_has_not(value, error):
    """An extension that JSON cannot hold is refused instead of written wrong."""
    problem = problem_details.ProblemDetails(status=409, extensions={"x": value})
    with pytest.raises(error):
        problem.render()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = ("type", "title", "status", "detail", "instance")
URIS = st.sampled_from(["about:blank", "urn:x:y", "https://h/p?q#f", "HTTP://H:80/ü"])
EXTENSIONS = st.dictionaries(st.text().filter(lambda name: name not in NAMES), JSON)
PROBLEMS = st.builds(
    problem_details.ProblemDetails,
    type=URIS,
    title=st.none() | st.text(),
    status=st.integers(200, 599).filter(lambda status: status not in (204, 205, 304)),
    detail=st.none() | st.text(),
    instance=st.none() | URIS,
    extensions=EXTENSIONS,
)


@given(PROBLEMS)
def test_round_trip(problem):
    """What is rendered reads as it was, where its URIs are absolute."""
    body, status, headers = problem.render()
    sent = httpx.Response(status, headers=headers, content=body)
    assert problem_details.ProblemDetails.from_response(sent) == problem


MEMBERS = st.dictionaries(st.sampled_from(NAMES) | st.text(), JSON)


@given(members=MEMBERS, status=st.integers(100, 599))
def test_any_object(members, status):
    """Any JSON object is a problem, with its extensions as they came."""
    problem = read(members, status=status)
    assert problem.status == status
    assert problem.extensions == {k: v for k, v in members.items() if k not in NAMES}
    for name in ("title", "detail"):
        value = members.get(name)
        assert getattr(problem, name) == (value if isinstance(value, str) else None)


@given(
    body=st.binary() | st.text().map(str.encode) | JSON.map(json.dumps).map(str.encode),
    kind=st.binary() | st.just(b"application/problem+json"),
    status=st.integers(0, 999),
)
@example(
    body=b'{"title": "\\ud800"}', kind=b"application/problem+json;\xff", status=500
)
def test_anything(body, kind, status):
    """Whatever comes, reading gives a problem or None, and raising a status error."""
    headers = [(b"Content-Type", kind)]
    request = httpx.Request("GET", PRIVATE)
    came = httpx.Response(status, headers=headers, content=body, request=request)
    problem = problem_details.ProblemDetails.from_response(came)
    if problem and problem.status in range(400, 600):
        assert json.loads(problem.render()[0])["status"] == status
    if status < 400:
        assert problem_details.raise_for_problem(came) is came
    else:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            problem_details.raise_for_problem(came)
        assert isinstance(caught.value, problem_details.ProblemError) is bool(problem)
        assert str(caught.value).isprintable()


@given(st.text(st.characters(), max_size=40))
@example("//[")
@example("http://\u200b/")
@example("//\u0660")
def test_any_reference(reference):
    """Any text as a reference gives a type and an instance that can be shown."""
    problem = read({"type": reference, "instance": reference})
    assert problem.type.isprintable()
    assert (problem.instance or "").isprintable()
    assert problem.type == (problem.instance or "about:blank")


# --- raising

KIND = "application/problem+json"


@pytest.fixture(params=["hook", "hand", "async hook", "async hand"])
def way(request):
    """Return each way to ask in turn."""
    return request.param


class Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts, of both kinds; an exception among them is raised."""

    def __init__(self, parts):
        self.parts, self.taken, self.closed = parts, 0, 0

    def __iter__(self):
        for part in self.parts:
            self.taken += 1
            if isinstance(part, BaseException):
                raise part
            yield part

    async def __aiter__(self):
        for part in self:
            await asyncio.sleep(0)
            yield part

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


def answer(parts=(), status=409, **headers):
    """Return a handler that answers with a body in parts, and the stream of that."""
    stream = Parts(parts)
    names = {"content-type": KIND}
    names |= {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, headers=names, stream=stream), stream


def ask(
    way, handler, url=URL, method="GET", clock=lambda: 0.0, before_read=bool, **options
):
    """Return the response to a request, or raise what it tells of, in a way."""

    def check(response):
        return problem_details.raise_for_problem(response, clock=clock)

    async def acheck(response):
        return await problem_details.araise_for_problem(response, clock=clock)

    options |= {"transport": httpx.MockTransport(handler)}
    hook = {"response": [acheck if "async" in way else check]}
    hooks = {"event_hooks": hook} if "hook" in way else {}

    async def aask():
        async with httpx.AsyncClient(**options, **hooks) as client:
            async with client.stream(method, url) as response:
                if not hooks:
                    assert await acheck(response) is response
                before_read()
                await response.aread()
            return response

    if "async" in way:
        return asyncio.run(aask())
    with httpx.Client(**options, **hooks) as client:
        with client.stream(method, url) as response:
            if not hooks:
                assert check(response) is response
            before_read()
            response.read()
        return response


def failure(way, handler, kind=httpx.HTTPStatusError, **options):
    """Return the error that a request ends with, which is exactly of that kind."""
    with pytest.raises(httpx.HTTPStatusError) as caught:
        ask(way, handler, **options)
    error = caught.value
    assert type(error) is kind
    assert error.request is error.response.request
    assert error.response.is_closed
    assert isinstance(error.response.text, str)  # it can be logged, whatever came
    return error


def in_parts(body, size=7):
    """Return a body in parts."""
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors_raised(way, vector):
    """Each document is raised as a problem, and what is none as a plain error."""
    body = in_parts(vector["body"].encode())
    handler, stream = answer(
        body, vector["http_status"], content_type=vector["content_type"]
    )
    ours = vector["expect"] is not None
    kind = problem_details.ProblemError if ours else httpx.HTTPStatusError
    error = failure(way, handler, kind, url=vector["url"])
    assert error.response.text == vector["body"]
    assert error.response.num_bytes_downloaded == len(vector["body"])
    assert error.response.elapsed.total_seconds() >= 0
    assert stream.closed == 1
    assert error.__cause__ is None
    for name, value in (vector["expect"] or {}).items():
        assert getattr(error.problem, name) == value


@pytest.mark.parametrize("status", [200, 204, 299, 300, 304, 399])
def test_no_error(way, status):
    """Below 400 nothing is raised and nothing read: a stream stays one."""
    handler, stream = answer([b'{"title": "t"}'], status)
    taken = []
    came = ask(way, handler, before_read=lambda: taken.append(stream.taken))
    assert came.json() == {"title": "t"}
    assert taken == [0]


def test_redirects_are_followed(way):
    """A redirect is no error, and its end is resolved against that end's URL."""

    def handler(request):
        if request.url.path == "/orders/7":
            headers = {"location": "/archive/7/", "content-type": KIND}
            return httpx.Response(307, headers=headers, json={"title": "Moved"})
        return httpx.Response(
            404, headers={"content-type": KIND}, json={"type": "gone"}
        )

    error = failure(way, handler, problem_details.ProblemError, follow_redirects=True)
    assert error.problem.type == "https://api.test/archive/7/gone"


@pytest.mark.parametrize("status", [400, 499, 500, 599, 600, 999])
def test_every_status_of_an_error(way, status):
    """From 400 on an error is raised, also for a status that HTTP does not have."""
    handler, _ = answer([b"{}"], status)
    error = failure(way, handler, problem_details.ProblemError)
    assert error.response.status_code == status


@pytest.mark.parametrize(
    "coding", ["gzip", "deflate", "identity", "unheard-of", "gzip, identity", "gzip,"]
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_content_codings(way, coding, size):
    """An encoded document is decoded, whatever the parts that it comes in."""
    body = json.dumps(PROBLEM).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}
    packed = pack.get(coding.partition(",")[0], bytes)(body)
    handler, _ = answer(in_parts(packed, size), content_encoding=coding)
    error = failure(way, handler, problem_details.ProblemError)
    assert error.problem.type == PROBLEM["type"]
    assert error.response.json() == PROBLEM


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_broken_coding(way, coding):
    """A body in another coding than it says leaves the status, and says why."""
    body = b'{"title": "t"}' + bytes(range(256))
    handler, _ = answer([body], 502, content_encoding=coding)
    error = failure(way, handler)
    assert isinstance(error.__cause__, httpx.DecodingError)
    assert str(error) == "502 Bad Gateway; its body cannot be read"
    assert error.response.content == b""


def test_coding_in_other_letters(way):
    """A coding that is no ASCII is none, and does no harm."""
    stream = Parts([b'{"title": "t"}'])
    headers = [(b"content-type", KIND.encode()), (b"content-encoding", b"\xff")]
    error = failure(
        way,
        lambda _: httpx.Response(409, headers=headers, stream=stream),
        problem_details.ProblemError,
    )
    assert error.problem.title == "t"


def test_many_codings(way):
    """A body in more codings than anyone decodes leaves the status."""
    handler, _ = answer([b"x"], 503, content_encoding=", ".join(["gzip"] * 9))
    error = failure(way, handler)
    assert error.response.status_code == 503
    assert error.response.content == b""
    assert error.response.headers["content-encoding"].count("gzip") == 9


def test_path_too_long_to_write_again():
    """A path that httpx sends, but would not write again, leaves references as is."""
    request = httpx.Request("GET", "https://a.test/" + "é" * 11_000)
    body, headers = b'{"type": "relative"}', {"content-type": KIND}
    response = httpx.Response(414, headers=headers, content=body, request=request)
    problem = problem_details.ProblemDetails.from_response(response)
    assert (problem.type, problem.status) == ("relative", 414)


def test_body_that_swells(way):
    """A small body that decodes to 64 MiB is given up before it takes the memory."""
    packed = gzip.compress(bytes(64 * MIB))
    handler, _ = answer([packed], content_encoding="gzip")
    tracemalloc.start()
    try:
        error = failure(way, handler)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error).endswith("its body is too large or too slow")
    assert peak < 4 * MIB
    assert error.response.content == b""


def test_body_that_swells_twice(way):
    """A body that is encoded twice is not decoded: each coding would multiply it."""
    packed = gzip.compress(gzip.compress(b'{"title": "t"}'))
    handler, _ = answer([packed], content_encoding="gzip, gzip")
    assert failure(way, handler).response.content == b""


@pytest.mark.parametrize("extra", [0, 1])
def test_large_body(way, extra):
    """1 MiB of a body is read, and the error tells the status where there is more."""
    frame = b'{"title": ""}'
    body = frame.replace(b'""', b'"%s"' % (b"x" * (MIB + extra - len(frame))))
    handler, stream = answer(in_parts(body, 65536))
    kind = httpx.HTTPStatusError if extra else problem_details.ProblemError
    error = failure(way, handler, kind)
    assert error.response.content == (b"" if extra else body)
    assert stream.closed == 1


def test_endless_body(way):
    """An endless body is left when it passes the bound, and its connection closed."""
    handler, stream = answer(itertools.repeat(b" " * 1000), 503)
    error = failure(way, handler)
    assert str(error) == ("503 Service Unavailable; its body is too large or too slow")
    assert stream.taken == MIB // 1000 + 1
    assert stream.closed == 1


@pytest.mark.parametrize(("step", "ours"), [(2.9, True), (3.1, False)])
def test_slow_body(way, step, ours):
    """A body that drips is left after 30 seconds, though no part takes long."""
    body = json.dumps({"title": "t" * 17}).encode()
    handler, stream = answer(in_parts(body, 3))
    assert len(stream.parts) == 10
    clock = itertools.count(0, step).__next__
    kind = problem_details.ProblemError if ours else httpx.HTTPStatusError
    failure(way, handler, kind, clock=clock)
    assert stream.taken == 10


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        httpx.StreamConsumed(),
    ],
)
def test_broken_body(way, fault):
    """A body that breaks off leaves the status, though what came is a document."""
    handler, stream = answer([json.dumps(PROBLEM).encode(), fault], 502)
    error = failure(way, handler)
    assert error.__cause__ is fault
    assert error.response.status_code == 502
    assert error.response.content == b""
    assert stream.closed == 1


@pytest.mark.parametrize("fault", [ZeroDivisionError(), KeyboardInterrupt()])
def test_faults_of_others(way, fault):
    """An error that is none of HTTP is not swallowed, and the stream closed."""
    handler, stream = answer([b"{", fault])
    with pytest.raises(type(fault)):
        ask(way, handler)
    assert stream.closed


@pytest.mark.parametrize("way", ["async hook", "async hand"])
def test_cancellation(way):
    """A task that is cancelled while it reads an error's body ends as cancelled."""
    handler, stream = answer([b"{", asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        ask(way, handler)
    assert stream.closed


def test_body_that_was_read():
    """A body that somebody read before is not read again."""
    body = response(PROBLEM)
    with pytest.raises(problem_details.ProblemError):
        problem_details.raise_for_problem(body)
    with pytest.raises(problem_details.ProblemError):
        asyncio.run(problem_details.araise_for_problem(body))


@pytest.mark.parametrize("kept", [True, False])
def test_body_that_is_gone(kept):
    """A stream that was consumed or closed leaves the status."""
    handler, _ = answer([b'{"title": "t"}', b" "])
    transport = httpx.MockTransport(handler)
    with httpx.Client(transport=transport) as client:
        with client.stream("GET", URL) as unread:
            if kept:
                next(unread.iter_raw())
        with pytest.raises(httpx.HTTPStatusError, match="no problem details") as caught:
            problem_details.raise_for_problem(unread)
        assert type(caught.value) is httpx.HTTPStatusError


def test_stream_of_the_other_kind():
    """The wrong one of the two functions says which is the right one."""

    async def main(check, options):
        client = httpx.AsyncClient(**options)
        async with client, client.stream("GET", URL) as unread:
            check(unread)

    class Later(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"{}"

    def handler(_):
        return httpx.Response(409, stream=Later())

    options = {"transport": httpx.MockTransport(handler)}
    with pytest.raises(RuntimeError, match="await araise_for_problem"):
        asyncio.run(main(problem_details.raise_for_problem, options))


def test_answer_to_head():
    """The answer to HEAD has no body, and so tells no more than its status."""
    handler, _ = answer([], content_length="300")
    assert failure("hook", handler, method="HEAD").response.content == b""


def test_returns_the_response():
    """A response without an error is returned, so that calls can be chained."""
    fine = response({"left": 1}, status=200, kind="application/json")
    assert problem_details.raise_for_problem(fine).json() == {"left": 1}


def test_without_a_request():
    """A response that was made by hand is raised as any other."""
    for body, kind in ((PROBLEM, problem_details.ProblemError), ("", None)):
        with pytest.raises(kind or httpx.HTTPStatusError) as caught:
            problem_details.raise_for_problem(response(body, url=None))
        with pytest.raises(RuntimeError):
            _ = caught.value.request


def test_auth_that_answers_a_challenge():
    """By hand it leaves room for an auth that answers a 401, which a hook does not."""

    def handler(request):
        if "authorization" in request.headers:
            return httpx.Response(200)
        headers = {"www-authenticate": 'Digest realm="r", nonce="n"'}
        return httpx.Response(401, headers=headers)

    by_hand, hook = httpx.DigestAuth("ann", SECRET), httpx.DigestAuth("ann", SECRET)
    assert ask("hand", handler, auth=by_hand).status_code == 200
    assert failure("hook", handler, auth=hook).response.status_code == 401


# --- the error


def raised(body, **options):
    """Return the error that a response is raised as."""
    with pytest.raises(httpx.HTTPStatusError) as caught:
        problem_details.raise_for_problem(response(body, **options))
    return caught.value


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, "409 Conflict"),
        ({"title": "Conflict"}, "409 Conflict"),
        ({"title": " "}, "409 Conflict"),
        ({"title": "Sold out."}, "409 Conflict: Sold out."),
        ({"type": "sold-out"}, "409 Conflict (https://api.test/orders/sold-out)"),
        (PROBLEM, "409 Conflict: Sold out. (https://example.com/probs/sold-out)"),
        ({"type": "http://u:p@h/p?q=1#f"}, "409 Conflict (http://h/p#f)"),
        (
            {"title": "a\r\nb\x1b[31m\u2028c\u202ed\ud800e"},
            "409 Conflict: a b [31m c d e",
        ),
        ({"title": "é" * 201}, f"409 Conflict: {'é' * 200}…"),
        ({"type": f"urn:{'x' * 5000}"}, f"409 Conflict (urn:{'x' * 196}…)"),
    ],
)
def test_message(members, text):
    """The text of an error is its status, title and type, on one line and short."""
    assert str(raised(members)) == text


def test_message_of_a_status_without_a_name():
    """A status that has no name is told by its number."""
    assert str(raised({}, status=499)) == "499"
    assert str(raised("", status=499)) == "499; no problem details"


@pytest.mark.parametrize("body", [PROBLEM, {"type": "?"}, {"type": "#a"}, "<html>"])
def test_no_secrets(body):
    """Neither the text nor the repr of an error has the request's secrets."""
    error = raised(body, url=PRIVATE)
    assert SECRET not in str(error) + repr(error)
    assert SECRET in str(error.request.url)


def test_pickled(way):
    """An error can go to another process, with its problem and its response."""
    handler, _ = answer(in_parts(json.dumps(PROBLEM).encode()))
    error = failure(way, handler, problem_details.ProblemError)
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is problem_details.ProblemError
    assert str(came) == str(error)
    assert came.problem == error.problem
    assert came.response.json() == PROBLEM
    assert came.request.url == URL
