"""Tests of `patterns/pagination/paginator.py`; they can be copied along with it."""

import asyncio
import gzip
import itertools
import json
import pickle
import threading
from contextlib import aclosing, closing
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.pagination import paginator

BASE = "https://api.test"
SECRET = "s3cr3t-token-value"


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


class Server:
    """A fake server over a handler; it remembers the requests it got."""

    def __init__(self, answer, **options):
        self.answer, self.options, self.requests = answer, options, []

    def __call__(self, request):
        self.requests.append(request)
        found = self.answer(request)
        return found if isinstance(found, httpx.Response) else _json(found)

    async def later(self, request):
        await asyncio.sleep(0)
        return self(request)

    def client(self):
        return httpx.Client(transport=httpx.MockTransport(self), **self.options)

    def async_client(self):
        handler = httpx.MockTransport(self.later)
        return httpx.AsyncClient(transport=handler, **self.options)


def _json(value):
    return httpx.Response(200, json=value)


def walk(server, url, style, **options):
    """Return what a walk yields or raises, the same for both kinds of client."""
    outcomes = []
    for run in (_walk, _walk_async):
        server.requests = []
        outcomes.append((run(server, url, style, options), len(server.requests)))
    (one, count), (other, other_count) = outcomes
    assert str(one) == str(other)
    assert type(one) is type(other)
    if not options.get("prefetch") and not options.get("concurrency"):
        assert count == other_count
    return one


def _walk(server, url, style, options):
    try:
        with server.client() as client:
            return list(paginator.paginate(client, url, style, **options))
    except paginator.PaginationError as exc:
        return exc


def _walk_async(server, url, style, options):
    async def collect():
        async with server.async_client() as client:
            found = paginator.apaginate(client, url, style, **options)
            return [item async for item in found]

    try:
        return asyncio.run(collect())
    except paginator.PaginationError as exc:
        return exc


def tokens(pages, *, key="next"):
    """Return an answer function: token N leads to `pages[N]`, the last has none."""

    def answer(request):
        at = int(request.url.params.get("cursor", 0))
        more = {key: str(at + 1)} if at + 1 < len(pages) else {}
        return {"data": pages[at], **more}

    return answer


CURSOR = paginator.Cursor("next", param="cursor")
PAGES = [[1, 2, 3], [], [4, 5], [6]]
ALL = [1, 2, 3, 4, 5, 6]


def rows(total, clamp=7):
    """Return an answer function over rows 0 to `total`, as offset, page and link."""

    def answer(request):
        asked = request.url.params
        size = min(int(asked.get("limit", clamp)), clamp)
        at = (int(asked.get("page", 1)) - 1) * size + int(asked.get("offset", 0))
        chunk = [{"id": n} for n in range(total)][at : at + size]
        pages = -(-total // size)
        return {"data": chunk, "total": total, "pages": pages}

    return answer


def ids(items):
    return [item["id"] for item in items]


# --- Link header


@pytest.mark.parametrize("case", vectors("link_header.json"), ids=lambda c: c["id"])
def test_link_vectors(case):
    """Every published vector gives its next links, in order."""
    links = paginator.parse_link(case["header"])
    found = [x.target for x in links if "next" in x.rels and not x.anchor]
    assert found == case["next"]
    assert paginator.next_link(case["header"]) == next(iter(case["next"]), None)


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ('<a>; rel="next"; rel="last"', "a"),
        ('<a>; rel="last"; rel="next"', None),
        ('<a>; REL="Prev NEXT"', "a"),
        ('<a>;rel = next , <b>;rel="next"', "a"),
        ('<a>; rel="next"; anchor="#x", <b>; rel=next', "b"),
        ('<a>; anchor="", <b>; anchor=""; rel=next', "b"),
        (',, <a> ; ; rel="next",', "a"),
        ('<a>; title="x\\"; rel=\\"next\\""; rel=prev', None),
        ('<a>; title="un\\', None),
        ('<a>; rel="next', "a"),
        ('<a; rel="next"', None),
        ("<a>; crossorigin; rel=next", "a"),
        ('<a>; title=x"y; rel=next', "a"),
        ("<>; rel=next", ""),
        ('junk, <a>; rel="next"', None),
        ("", None),
    ],
)
def test_link_edges(value, target):
    """Odd but legal forms are read as RFC 8288 appendix B.2 reads them."""
    assert paginator.next_link(value) == target


def test_link_parts():
    """A link has its target, relations, anchor and every parameter in order."""
    link = paginator.parse_link('<a>; rel="x Y"; anchor="#f"; hreflang=de; hreflang=fr')
    assert link == [
        (
            "a",
            ("x", "y"),
            "#f",
            (("rel", "x Y"), ("anchor", "#f"), ("hreflang", "de"), ("hreflang", "fr")),
        )
    ]


@given(st.text())
def test_link_total(value):
    """No text makes the parser raise, and targets stand in the text."""
    for link in paginator.parse_link(value):
        assert f"<{link.target}>" in value


# --- styles and their ends


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_empty_page_is_no_end(prefetch):
    """A token walk goes on over an empty page."""
    server = Server(tokens(PAGES))
    assert walk(server, BASE, CURSOR, items="data", prefetch=prefetch) == ALL
    assert len(server.requests) == 4


@pytest.mark.parametrize(("end", "requests"), [(None, 1), ("", 1)])
def test_cursor_ends(end, requests):
    """A null or an empty token is the end."""
    server = Server(lambda request: {"data": [1], "next": end})
    assert walk(server, BASE, CURSOR, items="data") == [1]
    assert len(server.requests) == requests


def test_empty_string_as_token():
    """Where an empty string is a token, it is sent, and only absence ends."""

    def answer(request):
        at = request.url.params.get("cursor")
        return {"data": [at], **({"next": ""} if at is None else {})}

    style = paginator.Cursor("next", param="cursor", empty_is_end=False)
    assert walk(Server(answer), BASE, style, items="data") == [None, ""]


def test_has_more_decides():
    """`has_more` false ends a walk whose last page still has a token."""
    server = Server(lambda request: {"data": [1], "next": "again", "more": False})
    style = paginator.Cursor("next", param="cursor", has_more="more")
    assert walk(server, BASE, style, items="data") == [1]


def test_has_more_without_token():
    """`has_more` true without a token is an error, not a silent end."""
    server = Server(lambda request: {"data": [1], "more": True})
    style = paginator.Cursor("next", param="cursor", has_more="more")
    found = walk(server, BASE, style, items="data")
    assert str(found) == "page 1: wanted a token, as there is more, saw nothing"


def test_has_more_goes_on():
    """`has_more` true with a token goes on."""
    pages = {None: {"d": [1], "n": "b", "m": True}, "b": {"d": [2], "m": False}}
    server = Server(lambda request: pages[request.url.params.get("cursor")])
    style = paginator.Cursor("n", "cursor", has_more="m")
    assert walk(server, BASE, style, items="d") == [1, 2]


@pytest.mark.parametrize("token", [7, 1.5, "x y&z=ü"])
def test_tokens_as_they_came(token):
    """Numbers and odd text go back as they came."""
    asked = []

    def answer(request):
        asked.append(request.url.params.get("cursor"))
        return {"data": [], **({"next": token} if asked[-1] is None else {})}

    assert walk(Server(answer), BASE, CURSOR, items="data") == []
    assert asked == [None, str(token)] * 2


def test_cursor_in_body():
    """A cursor of any shape goes into the JSON body, the rest of which stays."""
    seen = []

    def answer(request):
        seen.append(json.loads(request.content))
        more = {"Last": {"id": {"N": "1"}}} if len(seen) % 2 else {}
        return {"Items": [len(seen) % 2], **more}

    style = paginator.Cursor("Last", body="Start.Key")
    first = httpx.Request("POST", BASE, json={"Table": "t", "Start": {"x": 1}})
    assert walk(Server(answer), first, style, items="Items") == [1, 0]
    start = {"x": 1, "Key": {"id": {"N": "1"}}}
    assert seen[1] == {"Table": "t", "Start": start}


@pytest.mark.parametrize("body", [b"", b"[1]", b"x=1"])
@pytest.mark.parametrize(
    "style", [paginator.Cursor("next", body="after"), paginator.Relay("data")]
)
def test_cursor_without_a_body(body, style):
    """A cursor for the body needs one of JSON, and says so at the call."""
    first = httpx.Request("POST", BASE, content=body)
    with httpx.Client() as client, pytest.raises(ValueError, match="JSON object"):
        paginator.paginate(client, first, style)


@pytest.mark.parametrize("style", [paginator.LinkHeader, None, "next"])
def test_style_that_is_none(style):
    """A style without its brackets is told at the call."""
    with httpx.Client() as client, pytest.raises(TypeError, match="LinkHeader"):
        paginator.paginate(client, BASE, style)


def test_cursor_needs_a_place():
    """A cursor goes to the query or to the body, not to both or none."""
    for options in ({}, {"param": "a", "body": "b"}):
        with pytest.raises(ValueError, match="query `param` or a `body`"):
            paginator.Cursor("next", **options)


def test_cursor_from_header():
    """A path may be a function of the response."""

    def answer(request):
        at = int(request.url.params.get("cursor", 0))
        headers = {"x-next": str(at + 1)} if at < 2 else {}
        return httpx.Response(200, json=[at], headers=headers)

    style = paginator.Cursor(lambda r: r.headers.get("x-next"), param="cursor")
    assert walk(Server(answer), BASE, style) == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda r: r.json()["data"], KeyError),
        (lambda r: next(iter(r.json()["rows"])), StopIteration),
        (lambda r: 1 / len(r.json()["rows"]), ZeroDivisionError),
    ],
)
def test_function_that_fails(function, error):
    """A function that cannot read a page makes it an unexpected page."""
    server = Server(lambda request: {"rows": []})
    found = walk(server, BASE, CURSOR, items=function)
    assert isinstance(found, paginator.UnexpectedPage)
    assert isinstance(found.__cause__, error)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


@pytest.mark.parametrize("path", ["links.next", "@odata.nextLink", "meta.@x.next"])
def test_next_url(path):
    """A URL in the body is followed, relative or not; dots may be part of a name."""
    place = {"links.next": lambda u: {"links": {"next": u}}}
    place["@odata.nextLink"] = lambda u: {"@odata.nextLink": u}
    place["meta.@x.next"] = lambda u: {"meta": {"@x.next": u}}

    def answer(request):
        page = int(request.url.params.get("page", 1))
        target = [f"{BASE}/items?page=2", "?page=3", None][page - 1]
        return {"data": [page], **place[path](target)}

    style = paginator.NextUrl(path)
    assert walk(Server(answer), f"{BASE}/items", style, items="data") == [1, 2, 3]


def test_link_header_walk():
    """A relative Link target is resolved against the page it came with."""

    def answer(request):
        page = int(request.url.params.get("page", 1))
        headers = {"Link": f"<items?page={page + 1}#top>; rel=next"} if page < 3 else {}
        return httpx.Response(200, json=[page], headers=headers)

    server = Server(answer)
    assert walk(server, f"{BASE}/v1/items", paginator.LinkHeader()) == [1, 2, 3]
    assert {request.url.path for request in server.requests} == {"/v1/items"}


def test_link_fields_are_read_one_by_one():
    """A field that does not end hides no link in the next one."""

    def answer(request):
        headers = [("link", '</s.css>; rel=preload; title="x')]
        more = [("link", "<?p=2>; rel=Next")] if not request.url.query else []
        return httpx.Response(200, json=[1], headers=[*more, *headers])

    found = walk(Server(answer), BASE, paginator.LinkHeader("NEXT"))
    assert isinstance(found, paginator.UnexpectedPage)
    assert found.number == 2


def test_malformed_link_is_no_end():
    """A Link header that cannot be read is an error, not a silent end."""
    headers = {"Link": '<https://api.test/?page=2; rel="next"'}
    server = Server(lambda request: httpx.Response(200, json=[1], headers=headers))
    found = walk(server, BASE, paginator.LinkHeader())
    assert str(found) == "page 1: wanted a Link header, saw a malformed one"


@pytest.mark.parametrize("limit", [None, 3, 7, 100])
@pytest.mark.parametrize("total", [None, "total"])
@pytest.mark.parametrize("ahead", [{}, {"concurrency": 3}, {"prefetch": 2}])
def test_offset_moves_by_what_came(limit, total, ahead):
    """A server that clamps the limit loses no rows."""
    server = Server(rows(50))
    style = paginator.Offset(limit=limit, total=total)
    assert ids(walk(server, BASE, style, items="data", **ahead)) == list(range(50))
    if not ahead:
        assert len(server.requests) == -(-50 // min(limit or 7, 7)) + (total is None)


@pytest.mark.parametrize("pages", [None, "pages"])
@pytest.mark.parametrize("ahead", [{}, {"concurrency": 4}, {"prefetch": 1}])
def test_page_numbers(pages, ahead):
    """Pages are counted to the number the server tells, or to an empty page."""
    server = Server(rows(50))
    style = paginator.PageNumber(size=5, size_param="limit", pages=pages)
    assert ids(walk(server, BASE, style, items="data", **ahead)) == list(range(50))
    if not ahead:
        assert len(server.requests) == 10 + (pages is None)


def test_start_in_the_url():
    """The first URL's own page number is where the walk starts."""
    style = paginator.PageNumber(pages="pages")
    found = walk(Server(rows(50)), f"{BASE}/?page=7", style, items="data")
    assert ids(found) == list(range(42, 50))
    with httpx.Client() as client, pytest.raises(ValueError, match="whole number"):
        paginator.paginate(client, f"{BASE}/?page=x", style)


@pytest.mark.parametrize("start", [0, 1])
def test_page_zero(start):
    """An API that counts from zero has as many pages."""

    def answer(request):
        return {"data": [request.url.params["page"]], "pages": 3}

    style = paginator.PageNumber(start=start, pages="pages")
    found = walk(Server(answer), BASE, style, items="data")
    assert found == [str(n + start) for n in range(3)]


def test_short_page_in_a_window():
    """A short page in the middle makes concurrent requests start anew, losing none."""

    def answer(request):
        at = int(request.url.params["offset"])
        size = 3 if at == 10 else 5
        return {"data": [{"id": n} for n in range(40)][at : at + size], "total": 40}

    style = paginator.Offset(limit=5, total="total")
    found = walk(Server(answer), BASE, style, items="data", concurrency=3)
    assert ids(found) == list(range(40))


def test_total_not_reached():
    """An empty page before the total is a loop, found at once."""
    server = Server(lambda request: {"data": [], "total": 9})
    found = walk(server, BASE, paginator.Offset(limit=3, total="total"), items="data")
    assert isinstance(found, paginator.PaginationLoop)
    assert len(server.requests) == 1


def test_last_item():
    """The last item's id is sent back until `has_more` says false."""

    def answer(request):
        at = int(request.url.params.get("starting_after", 0))
        return {"data": [{"id": at + 1}, {"id": at + 2}], "has_more": at < 4}

    found = walk(Server(answer), BASE, paginator.LastItem(), items="data")
    assert ids(found) == [1, 2, 3, 4, 5, 6]


def test_last_item_without_has_more():
    """Without `has_more` the first empty page is the end."""

    def answer(request):
        at = int(request.url.params.get("before", 0))
        return httpx.Response(200, json=[{"n": {"id": at + 1}}] if at < 3 else [])

    for has_more in (None, "has_more"):
        style = paginator.LastItem("n.id", param="before", has_more=has_more)
        assert len(walk(Server(answer), BASE, style)) == 3


def test_last_item_missing():
    """`has_more` on an empty page is an error, not a silent end."""
    server = Server(lambda request: {"data": [], "has_more": True})
    found = walk(server, BASE, paginator.LastItem(), items="data")
    assert "wanted items, as there is more, saw an empty page" in str(found)


def graph(nodes):
    """Return a GraphQL answer function over two pages."""

    def answer(request):
        after = json.loads(request.content).get("variables", {}).get("after")
        chunk = [3] if after == "c2" else [1, 2]
        info = {"hasNextPage": after is None, "endCursor": "c2"}
        return {"data": {"x": {**nodes(chunk), "pageInfo": info}}}

    return answer


@pytest.mark.parametrize(
    "nodes",
    [
        lambda chunk: {"nodes": chunk},
        lambda chunk: {"edges": [*({"node": n} for n in chunk), None]},
    ],
)
def test_relay(nodes):
    """A GraphQL connection is walked by its pageInfo, over nodes or edges."""
    first = httpx.Request("POST", BASE, json={"query": "{x}", "variables": {"n": 2}})
    server = Server(graph(nodes))
    assert walk(server, first, paginator.Relay("data.x")) == [1, 2, 3]
    sent = json.loads(server.requests[-1].content)
    assert sent == {"query": "{x}", "variables": {"n": 2, "after": "c2"}}


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [], "data": None},
        {"data": {"x": {"nodes": []}}},
        {"data": {"x": {"nodes": [], "pageInfo": {"hasNextPage": "yes"}}}},
        {"data": {"x": {"nodes": [], "pageInfo": {"hasNextPage": True}}}},
        {"data": {"x": {"edges": 5, "pageInfo": {"hasNextPage": False}}}},
    ],
)
def test_relay_of_another_shape(body):
    """A GraphQL answer that is no connection is an unexpected page."""
    first = httpx.Request("POST", BASE, json={"query": "{x}"})
    found = walk(Server(lambda request: body), first, paginator.Relay("data.x"))
    assert isinstance(found, paginator.UnexpectedPage)


# --- loops


@pytest.mark.parametrize(
    ("path", "requests"), [("AA", 2), ("ABA", 3), ("ABCDB", 5), ("A" * 9, 2)]
)
@pytest.mark.parametrize("style", ["cursor", "link", "url"])
def test_loops(path, requests, style):
    """A page that leads back anywhere into the walk ends it, with no request more."""
    after = {None: path[0], **dict(itertools.pairwise(path))}

    def answer(request):
        token = after[request.url.params.get("cursor")]
        url = f"{BASE}/?cursor={token}"
        headers = {"link": f'<{url}>; rel="next"'}
        body = {"data": [1], "next": url if style == "url" else token}
        return httpx.Response(200, json=body, headers=headers)

    styles = {"cursor": CURSOR, "link": paginator.LinkHeader()}
    server = Server(answer)
    chosen = styles.get(style, paginator.NextUrl())
    found = walk(server, BASE, chosen, items="data")
    assert isinstance(found, paginator.PaginationLoop)
    assert len(server.requests) == requests


def test_loop_to_the_first_page():
    """A next address that is the first request's own is a loop."""
    server = Server(lambda request: {"data": [], "next": f"{BASE}/items#2"})
    found = walk(server, f"{BASE}/items", paginator.NextUrl(), items="data")
    assert str(found) == "page 1 leads back to page 1"
    assert len(server.requests) == 1


@pytest.mark.parametrize("style", [paginator.Offset(), paginator.PageNumber()])
def test_no_end_in_a_window(style, monkeypatch):
    """Nor is a walk endless whose addresses are computed."""
    monkeypatch.setattr(paginator, "_ENDLESS", 20)
    server = Server(lambda request: {"data": [1, 2, 3]})
    found = walk(server, BASE, style, items="data", concurrency=3)
    assert isinstance(found, paginator.PaginationLoop)
    assert len(server.requests) == 20


def test_no_end(monkeypatch):
    """New tokens for ever are taken for a loop, unless the caller sets the limit."""
    monkeypatch.setattr(paginator, "_ENDLESS", 20)

    def answer(request):
        return {"data": [], "next": int(request.url.params.get("cursor", 0)) + 1}

    server = Server(answer)
    found = walk(server, BASE, CURSOR, items="data")
    assert isinstance(found, paginator.PaginationLoop)
    assert len(server.requests) == 20
    assert walk(server, BASE, CURSOR, items="data", max_pages=25) == []
    assert len(server.requests) == 25


@pytest.mark.parametrize(
    "style",
    [
        paginator.Offset(5),
        paginator.PageNumber(),
        paginator.Offset(total="total"),
        paginator.PageNumber(pages="total"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_parameter_that_the_server_ignores(style, concurrency):
    """The same records again are a loop, whatever end is told."""
    server = Server(lambda request: {"data": [{"id": 1}], "total": 9})
    found = walk(server, BASE, style, items="data", concurrency=concurrency)
    assert str(found) == "page 2 is page 1 again"


def test_equal_pages_of_numbers():
    """Pages that are equal by chance, without records in them, are no loop."""

    def answer(request):
        return {"data": [0, 0] if int(request.url.params["page"]) < 4 else []}

    assert walk(Server(answer), BASE, paginator.PageNumber(), items="data") == [0] * 6


# --- origin


@pytest.mark.parametrize(
    "target",
    [
        "http://api.test/2",
        "https://api.test:444/2",
        "https://evil.test/2",
        "https://api.test@evil.test/2",
        "https://api.test./2",
        "//evil.test/2",
        f"https://u:{SECRET}@api.test/2",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http:2",
        "https://api.test:0/2",
        "https://[::1]/2",
    ],
)
@pytest.mark.parametrize("style", [paginator.LinkHeader(), paginator.NextUrl()])
def test_other_origins(target, style):
    """Scheme, host and port are one; nothing is sent elsewhere, nothing is told."""

    def answer(request):
        headers = {"link": f'<{target}>; rel="next"'}
        return httpx.Response(200, json={"data": [1], "next": target}, headers=headers)

    server = Server(answer, headers={"authorization": f"Bearer {SECRET}"})
    found = walk(server, BASE, style, items="data")
    assert isinstance(found, paginator.CrossOriginNext)
    assert SECRET not in str(found)
    assert {request.url.host for request in server.requests} == {"api.test"}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url", ["https://API.test:443/2", "/2", "2", "HTTPS://api.test/2"]
)
def test_same_origin_in_other_words(url):
    """A default port and another case are the same origin."""

    def answer(request):
        return {"data": [1], "next": url if request.url.path == "/" else None}

    assert walk(Server(answer), f"{BASE}/", paginator.NextUrl(), items="data") == [1, 1]


def test_origins_of_addresses():
    """An IPv6 address that ends in the first one's port is another host."""
    target = "http://[2001:db8::1:8443]/steal"
    server = Server(lambda request: {"data": [1], "next": target})
    url = "http://[2001:db8::1]:8443/x"
    found = walk(server, url, paginator.NextUrl(), items="data")
    assert str(found) == (
        "the next address leaves http://[2001:db8::1]:8443 for http://[2001:db8::1:8443]"
    )


@pytest.mark.parametrize("origins", ["https://eu.test", ["eu.test"], [""]])
def test_origins_that_are_none(origins):
    """What is no origin, or not several, is refused at the call."""
    with httpx.Client() as client, pytest.raises(ValueError, match="origins are"):
        paginator.paginate(client, BASE, CURSOR, origins=origins)


def test_allowed_origins():
    """A further origin may be allowed by name; its Host header is its own."""

    def answer(request):
        home = request.url.host == "api.test"
        return {"data": [request.headers["host"]], "next": "http://b.test/" * home}

    found = walk(
        Server(answer),
        BASE,
        paginator.NextUrl(),
        items="data",
        origins=["http://b.test"],
    )
    assert found == ["api.test", "b.test"]


def test_own_user_name_is_kept():
    """Credentials in the first URL go along to the same origin, as Basic auth."""

    def answer(request):
        first = request.url.path == "/1"
        return {"data": [request.headers.get("authorization")], "next": "/2" * first}

    found = walk(
        Server(answer), "https://u:p@api.test/1", paginator.NextUrl(), items="data"
    )
    assert found == ["Basic dTpw"] * 2


@pytest.mark.parametrize("target", ["https://evil.test/", "http://api.test/x"])
def test_redirect_to_another_origin(target):
    """A redirect out of the origin is refused before anything is sent there."""

    def answer(request):
        if "cursor" in request.url.params:
            return httpx.Response(302, headers={"location": target})
        return {"data": [1], "next": "2"}

    server = Server(answer, headers={"x-api-key": SECRET}, follow_redirects=True)
    found = walk(server, BASE, CURSOR, items="data")
    assert isinstance(found, paginator.CrossOriginNext)
    assert len(server.requests) == 2


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    "target", ["https://xn--a/", "mailto:x@y", "javascript:1", "https:{v1.x", "http://"]
)
def test_redirect_nowhere(target, follow):
    """A redirect to what is no address ends the walk in the module's own error."""

    def answer(request):
        return httpx.Response(302, headers={"location": target})

    server = Server(answer, follow_redirects=follow)
    try:
        found = walk(server, BASE, CURSOR, items="data")
    except httpx.RemoteProtocolError:  # httpx's own word for a Location it cannot read
        found = None
    assert found is None or isinstance(found, paginator.PaginationError)


def test_redirect_inside_the_origin():
    """A redirect inside the origin is followed if the client follows redirects."""

    def answer(request):
        if request.url.path == "/old":
            return httpx.Response(301, headers={"location": "/new/"})
        more = {"link": "<two>; rel=next"} if request.url.path == "/new/" else {}
        return httpx.Response(200, json=[request.url.path], headers=more)

    url, style = f"{BASE}/old", paginator.LinkHeader()
    found = walk(Server(answer, follow_redirects=True), url, style)
    assert found == ["/new/", "/new/two"]
    found = walk(Server(answer), url, style)
    assert isinstance(found, paginator.UnexpectedStatus)
    assert found.seen == "301"


def test_redirects_without_end():
    """A redirect to itself ends."""
    server = Server(
        lambda request: httpx.Response(307, headers={"location": "/"}),
        follow_redirects=True,
        max_redirects=3,
    )
    found = walk(server, BASE, CURSOR, items="data")
    assert str(found) == "page 1 redirects without end"
    assert len(server.requests) == 4


# --- pages of another shape


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_json({"rows": [], "x": 1}), "an array of items at 'data', saw nothing"),
        (_json({"data": None}), "an array of items at 'data', saw null"),
        (_json({"data": {"a": 1}}), "at 'data', saw an object with a"),
        (_json({"data": {}}), "at 'data', saw an empty object"),
        (_json({"data": {"s3cret": 1, "b": 2}}), "saw an object with …, b"),
        (_json({"data": "xyz"}), "at 'data', saw a str of length 3"),
        (_json({"data": True}), "at 'data', saw a bool"),
        (_json([1]), "at 'data', saw nothing"),
        (httpx.Response(200, html="<p>x"), "JSON, saw 4 bytes of text/html"),
        (httpx.Response(200), "JSON, saw 0 bytes of no content type"),
        (httpx.Response(200, content=b"\xff\xfe\x00"), "wanted JSON"),
        (httpx.Response(200, content=b"[" * 100_000), "wanted JSON"),
        (_json({"data": [], "next": [1]}), "text or a number at 'next', saw a list"),
        (_json({"data": [], "next": True}), "at 'next', saw a bool"),
        (_json({"data": [], "next": {"a": 1}}), "at 'next', saw an object with a"),
        (httpx.Response(200, content=b'{"data":[],"next":NaN}'), "saw a float"),
        (
            httpx.Response(200, content=b'{"data":[],"next":"\\ud800"}'),
            "usable address",
        ),
        (_json({"data": [], "next": "x" * 70_000}), "a usable address, saw InvalidURL"),
    ],
)
def test_unexpected_pages(answer, message):
    """A page of another shape is refused, with what was wanted and seen."""
    body = answer.content
    headers = answer.headers

    def again(request):
        return httpx.Response(200, content=body, headers=headers)

    found = walk(Server(again), BASE, CURSOR, items="data")
    assert isinstance(found, paginator.UnexpectedPage)
    assert message in str(found)
    assert found.response.content == body


def test_body_is_the_array_by_default():
    """Without `items` the body is the array; an object says where it has members."""
    server = Server(lambda request: {"data": [1]})
    found = walk(server, BASE, paginator.LinkHeader())
    assert str(found) == "page 1: wanted an array of items, saw an object with data"


@pytest.mark.parametrize(
    "target", ["https://[::1", "http://\x00", "https://a b", "\ud800"]
)
def test_next_url_that_is_none(target):
    """A next URL that no request can be made of is an unexpected page."""
    body = json.dumps({"data": [], "next": target})
    server = Server(lambda request: httpx.Response(200, content=body))
    found = walk(server, BASE, paginator.NextUrl(), items="data")
    assert isinstance(found, paginator.PaginationError)


@pytest.mark.parametrize("value", [5, ["x"], {"href": "/2"}, False])
def test_next_url_of_another_type(value):
    """A next URL that is no text is an unexpected page."""
    server = Server(lambda request: {"data": [], "next": value})
    found = walk(server, BASE, paginator.NextUrl(), items="data")
    assert "wanted str at 'next'" in str(found)


@pytest.mark.parametrize("total", [None, "9", 1.5, True])
def test_total_of_another_type(total):
    """A total that is no whole number is an unexpected page."""
    server = Server(lambda request: {"data": [1], "total": total})
    found = walk(server, BASE, paginator.Offset(total="total"), items="data")
    assert "wanted int at 'total'" in str(found)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_items_come_before_an_error_behind_them(concurrency):
    """A page that does not tell the end gives its items before the error."""

    def answer(request):
        at = int(request.url.params["offset"])
        return {"data": [at, at + 1], **({"total": 9} if at < 2 else {})}

    style, taken = paginator.Offset(total="total"), []
    with Server(answer).client() as client:
        found = paginator.paginate(
            client, BASE, style, items="data", concurrency=concurrency
        )
        taken += [next(found) for _ in range(4)]
        with pytest.raises(paginator.UnexpectedPage, match="page 2: wanted int"):
            next(found)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("total", [-1, -2])
def test_total_that_is_unknown(total):
    """A negative total, some servers' word for unknown, is no end."""
    server = Server(lambda request: {"data": [1], "total": total})
    for style in (paginator.Offset(total="total"), paginator.PageNumber(pages="total")):
        found = walk(server, BASE, style, items="data")
        assert "wanted a count, saw a negative number" in str(found)


@pytest.mark.parametrize("status", [204, 304, 400, 404, 429, 500])
def test_status(status):
    """Other than 2xx is both a PaginationError and an httpx.HTTPStatusError."""
    server = Server(lambda request: httpx.Response(status, text=SECRET))
    found = walk(server, f"{BASE}/?api_key={SECRET}", CURSOR, items="data")
    assert isinstance(found, paginator.UnexpectedPage)
    if status == 204:
        assert "wanted JSON, saw 18 bytes" in str(found)
    else:
        assert isinstance(found, httpx.HTTPStatusError)
        assert found.response.status_code == status
        assert found.request.url.host == "api.test"
    assert SECRET not in str(found)
    assert SECRET not in repr(found)


def test_garbled_encoding():
    """A body that its Content-Encoding does not fit is an unexpected page."""

    def answer(request):
        headers = {"content-encoding": "gzip"}
        return httpx.Response(200, headers=headers, stream=_Stream(b"no gzip"))

    class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __init__(self, data):
            self.data = data

        def __iter__(self):
            yield self.data

        async def __aiter__(self):
            yield self.data

    found = walk(Server(answer), BASE, CURSOR, items="data")
    assert str(found) == "page 1: wanted an answer, saw DecodingError"


def test_transport_errors_pass():
    """What the transport raises is not the paginator's to change."""

    def answer(request):
        raise httpx.ConnectError("no route")

    with Server(answer).client() as client, pytest.raises(httpx.ConnectError):
        list(paginator.paginate(client, BASE, CURSOR, items="data"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
LIKELY = st.fixed_dictionaries(
    {"data": st.lists(st.integers(), max_size=2)},
    optional={"next": JSON, "has_more": JSON, "total": JSON, "pageInfo": JSON},
).map(lambda value: json.dumps(value).encode())
STYLES = [
    CURSOR,
    paginator.Cursor("next", body="a.b", has_more="has_more", empty_is_end=False),
    paginator.NextUrl(),
    paginator.LinkHeader(),
    paginator.Offset(total="total"),
    paginator.PageNumber(pages="total"),
    paginator.LastItem("a"),
    paginator.Relay("data"),
]


@settings(max_examples=300, deadline=None)
@given(
    body=BODIES | LIKELY,
    link=st.binary(max_size=60),
    style=st.sampled_from(STYLES),
    items=st.sampled_from([None, "data"]),
)
def test_any_answer(body, link, style, items):
    """Any bytes in body and header end a walk, with items or the module's error."""

    def answer(request):
        headers = [(b"link", link), (b"content-type", b"application/json")]
        return httpx.Response(200, content=body, headers=headers)

    server = Server(answer, headers={"authorization": f"Bearer {SECRET}"})
    first = httpx.Request("POST", BASE, json={})
    with server.client() as client:
        found = paginator.paginate(client, first, style, items=items, max_pages=5)
        told = ""
        try:
            list(found)
        except paginator.PaginationError as exc:
            told = str(exc)
        assert SECRET not in told + found.checkpoint()
    assert len(server.requests) <= 5


# --- limits, progress, pages


@pytest.mark.parametrize("ahead", [{}, {"prefetch": 2}])
@pytest.mark.parametrize(
    ("limit", "requests"), [(0, 0), (1, 1), (3, 1), (4, 3), (5, 3), (6, 4), (99, 4)]
)
def test_max_items(limit, requests, ahead):
    """No page is fetched once there are items enough."""
    server = Server(tokens(PAGES))
    assert (
        walk(server, BASE, CURSOR, items="data", max_items=limit, **ahead)
        == ALL[:limit]
    )
    assert len(server.requests) == requests


@pytest.mark.parametrize("limit", [0, 1, 15, 20, 50, 99])
def test_max_items_in_a_window(limit):
    """Nor in a window of concurrent requests."""
    server = Server(rows(50, clamp=5))
    style = paginator.Offset(total="total")
    found = walk(server, BASE, style, items="data", max_items=limit, concurrency=4)
    assert ids(found) == list(range(min(limit, 50)))
    assert len(server.requests) == min(-(-limit // 5), 10)


@pytest.mark.parametrize("ahead", [{}, {"prefetch": 3}])
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_max_pages(limit, ahead):
    """The caller's limit of pages ends the walk without an error."""
    server = Server(tokens(PAGES))
    found = walk(server, BASE, CURSOR, items="data", max_pages=limit, **ahead)
    assert found == [item for page in PAGES[:limit] for item in page]
    assert len(server.requests) == limit


def test_pages():
    """Pages come with items, response and number, empty ones too; progress is told."""
    told = []
    server = Server(tokens(PAGES))
    with server.client() as client:
        options = {"items": "data", "max_items": 4, "on_page": told.append}
        pages = list(paginator.paginate(client, BASE, CURSOR, **options).pages())
    assert [page.items for page in pages] == [[1, 2, 3], [], [4]]
    assert [page.number for page in pages] == [1, 2, 3]
    assert pages[2].response.json()["data"] == [4, 5]
    assert told == pages


def test_pages_after_items():
    """Pages begin with what a loop over items has left of one."""
    with Server(tokens(PAGES)).client() as client:
        found = paginator.paginate(client, BASE, CURSOR, items="data")
        assert next(found) == 1
        pages = [page.items for page in found.pages()]
    assert pages == [[2, 3], [], [4, 5], [6]]


def test_progress_that_fails():
    """A page whose progress cannot be told is not lost."""
    told = []

    def tell(page):
        told.append(page.number)
        if told == [1, 2, 3]:
            raise OSError("no terminal")

    with Server(tokens(PAGES)).client() as client:
        found = paginator.paginate(client, BASE, CURSOR, items="data", on_page=tell)
        pages = found.pages()
        taken = [*next(pages).items, *next(pages).items]
        with pytest.raises(OSError, match="terminal"):
            next(pages)
        taken += [item for page in found.pages() for item in page.items]
    assert taken == ALL


def test_pages_async():
    """The async walk gives pages too."""

    async def collect():
        async with Server(tokens(PAGES)).async_client() as client:
            found = paginator.apaginate(client, BASE, CURSOR, items="data")
            return [page.items async for page in found.pages()]

    assert asyncio.run(collect()) == PAGES


@pytest.mark.parametrize(
    "options",
    [
        {"max_items": -1},
        {"max_pages": -1},
        {"prefetch": -1},
        {"concurrency": 0},
        {"concurrency": 2},
        {"concurrency": 2, "prefetch": 1, "style": paginator.Offset()},
    ],
)
def test_options_that_contradict(options):
    """Options without sense are refused when the walk is made."""
    style = options.pop("style", CURSOR)
    with httpx.Client() as client, pytest.raises(ValueError, match="concurrency"):
        paginator.paginate(client, BASE, style, **options)


def test_client_of_the_other_kind():
    """A client of the other kind is refused by name."""
    with pytest.raises(TypeError, match="blocking client"):
        paginator.paginate(httpx.AsyncClient(), BASE, CURSOR)
    with pytest.raises(TypeError, match="async client"):
        paginator.apaginate(httpx.Client(), BASE, CURSOR)


def test_a_style_of_ones_own():
    """A style is a class with `next`; without `jump` it has no computed addresses."""

    class Twice(paginator.Style):
        def next(self, answer):
            again = answer.number == 1
            return paginator.Address(params={"again": "1"}) if again else None

    assert walk(Server(lambda r: _json([1])), BASE, Twice()) == [1, 1]
    with pytest.raises(NotImplementedError):
        paginator.Style().next(None)


# --- the request that every page gets


def test_every_page_gets_the_first_request():
    """Method, headers, body, timeouts and fresh cookies go along to every page."""

    def answer(request):
        at = int(request.url.params.get("cursor", 0))
        headers = {"set-cookie": f"s={at}"}
        body = {"data": [at], "next": at + 1 if at < 2 else None}
        return httpx.Response(200, json=body, headers=headers)

    server = Server(answer, headers={"x-key": "k"}, timeout=3, params={"v": "1"})
    assert walk(server, f"{BASE}/", CURSOR, items="data") == [0, 1, 2]
    assert {r.headers["x-key"] for r in server.requests} == {"k"}
    assert {r.url.params["v"] for r in server.requests} == {"1"}
    assert [r.headers.get("cookie") for r in server.requests] == [None, "s=0", "s=1"]
    assert {r.extensions["timeout"]["read"] for r in server.requests} == {3}


def test_auth_goes_along():
    """The client's auth signs every page's request."""

    def answer(request):
        return {"data": [], "next": None if request.url.query else "2"}

    server = Server(answer, auth=("u", "p"))
    assert walk(server, BASE, CURSOR, items="data") == []
    assert [r.headers["authorization"] for r in server.requests] == ["Basic dTpw"] * 2


def test_opaque_urls_stay():
    """A next URL is sent as it came, and not encoded again."""
    seen = []

    def answer(request):
        seen.append(request.url.raw_path.decode())
        target = "/x%2Fy?a=b%2Cc&a=d+e&flag&next=%E2%82%AC"
        return {"data": [], "next": target if len(seen) % 2 else None}

    walk(Server(answer), BASE, paginator.NextUrl(), items="data")
    assert seen[1] == "/x%2Fy?a=b%2Cc&a=d+e&flag&next=%E2%82%AC"


# --- checkpoints


def link_rows(request):
    """Answer with a Link header that repeats the key it was asked with."""
    page = int(request.url.params.get("page", 1))
    following = f"/?page={page + 1}&api_key={SECRET}&via={SECRET}&q=a,b"
    headers = {"link": f'<{following}>; rel="next"'} if page < 5 else {}
    return httpx.Response(200, json=[page * 10 + n for n in range(3)], headers=headers)


WALKS = [
    (rows(23), f"{BASE}/", paginator.Offset(5, "total"), "data"),
    (rows(23), f"{BASE}/", paginator.PageNumber(pages="pages"), "data"),
    (tokens(PAGES), f"{BASE}/?key={SECRET}", CURSOR, "data"),
    (link_rows, f"{BASE}/?api_key={SECRET}&q=a,b", paginator.LinkHeader(), None),
    (link_rows, f"https://u:{SECRET}@api.test/", paginator.LinkHeader(), None),
]


@pytest.mark.parametrize(("answer", "url", "style", "items"), WALKS)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume(answer, url, style, items, prefetch):
    """From any item on, the rest of a walk is what it would have been."""
    server = Server(answer, headers={"authorization": f"Bearer {SECRET}"})
    options = {"items": items, "prefetch": prefetch}
    with server.client() as client:
        whole = list(paginator.paginate(client, url, style, **options))
        for count in range(len(whole) + 1):
            first = paginator.paginate(client, url, style, **options)
            taken = [next(first) for _ in range(count)]
            saved = first.checkpoint()
            first.close()
            assert SECRET not in saved
            rest = paginator.paginate(client, url, style, resume=saved, **options)
            assert taken + list(rest) == whole


def test_resume_async():
    """A checkpoint of a blocking walk is good for an async one."""
    server = Server(tokens(PAGES))
    with server.client() as client:
        first = paginator.paginate(client, BASE, CURSOR, items="data")
        taken = [next(first) for _ in range(4)]

    async def rest():
        async with server.async_client() as client:
            saved = first.checkpoint()
            found = paginator.apaginate(
                client, BASE, CURSOR, items="data", resume=saved
            )
            return [await anext(found) for _ in range(2)]

    assert taken + asyncio.run(rest()) == ALL


def test_resume_sends_the_key_again():
    """What a checkpoint left out of a URL is filled in from the first request."""
    server = Server(link_rows, headers={"authorization": f"Bearer {SECRET}"})
    url = f"{BASE}/?api_key={SECRET}&q=a,b"
    with server.client() as client:
        first = paginator.paginate(client, url, paginator.LinkHeader())
        taken = [next(first) for _ in range(4)]
        saved = first.checkpoint()
        style = paginator.LinkHeader()
        rest = list(paginator.paginate(client, url, style, resume=saved))
    again = server.requests[2].url
    assert again.params["api_key"] == SECRET
    assert again.params["page"] == "2"
    assert again.params["via"] == SECRET  # as the server had put it
    assert taken[-1] == 20
    assert rest[0] == 21


def test_checkpoint_leaves_out_what_the_first_request_has():
    """A key under any name stays out of a checkpoint, and is filled in again."""

    def answer(request):
        page = int(request.url.params.get("page", 1))
        url = f"?page={page + 1}&key={request.url.params['key']}" if page < 3 else None
        return {"data": [page], "next": url}

    style = paginator.NextUrl()
    with Server(answer).client() as client:
        first = paginator.paginate(client, f"{BASE}/?key=k1", style, items="data")
        assert [next(first), next(first)] == [1, 2]
        saved = first.checkpoint()
        assert "k1" not in saved
        rest = paginator.paginate(
            client, f"{BASE}/?key=k1", style, items="data", resume=saved
        )
        assert list(rest) == [3]


def test_resume_tells_a_position_from_a_secret():
    """A position that equals some harmless header's value is not taken for a secret."""

    def answer(request):
        page = int(request.url.params.get("page", 1))
        url = f"?page={page + 1}&tag=a&tag=c" if page < 30 else None
        return {"data": [page], "next": url}

    first = httpx.Request(
        "POST", f"{BASE}/?tag=a&tag=b&v=1", content=b'{"query": "abcdef"}'
    )
    size = int(first.headers["content-length"])
    server, style = Server(answer), paginator.NextUrl()
    with server.client() as client:
        walk = paginator.paginate(client, first, style, items="data")
        taken = [next(walk) for _ in range(size)]
        saved = walk.checkpoint()
        rest = paginator.paginate(client, first, style, items="data", resume=saved)
        assert taken + list(rest) == list(range(1, 31))
    assert server.requests[size].url.query == f"page={size}&tag=a&tag=c".encode()


def test_body_that_cannot_be_sent_again():
    """An async stream as body is refused: every page needs it."""

    async def body():
        yield b"{}"

    first = httpx.Request("POST", BASE, content=body())
    with pytest.raises(ValueError, match="as bytes"):
        paginator.apaginate(httpx.AsyncClient(), first, CURSOR)


def test_goes_on_after_a_failure():
    """After an error, the same walk can go on with the page that failed."""
    failed = []

    def answer(request):
        if request.url.params.get("cursor") == "2" and not failed:
            failed.append(request)
            raise httpx.ReadTimeout("slow")
        return tokens(PAGES)(request)

    for prefetch in (0, 1, 3):
        failed.clear()
        with Server(answer).client() as client:
            found = paginator.paginate(
                client, BASE, CURSOR, items="data", prefetch=prefetch
            )
            taken = [next(found) for _ in range(3)]
            with pytest.raises(httpx.ReadTimeout):
                next(found)
            assert taken + list(found) == ALL


@pytest.mark.parametrize(
    ("url", "following"),
    [
        (f"{BASE}/?token=S%2Fs3cr3t==", "?token=S/s3cr3t==&page=2"),
        (f"{BASE}/?key=s3cr3t==", "?k=s3cr3t%3D%3D&page=2"),
        (f"{BASE}/", "?access%5Ftoken=s3cr3t&page=2"),
        (f"{BASE}/", "?sid=s3cr3t-cookie&page=2"),
        (f"{BASE}/", "?sid=s3cr3t%252Dcookie&page=2"),
        (f"{BASE}/bots3cr3t/", "/bots3cr3t/?page=2"),
        (f"{BASE}//s3cr3t/", "?page=2"),
    ],
)
def test_checkpoint_holds_no_secret_in_disguise(url, following):
    """However a next address spells a credential, a checkpoint does not hold it."""

    def answer(request):
        last = "page" in request.url.params
        return {"data": [1, 2], "next": None if last else following}

    style = paginator.NextUrl()
    server = Server(answer, cookies={"sid": "s3cr3t-cookie"})
    with server.client() as client:
        first = paginator.paginate(client, url, style, items="data")
        assert [next(first) for _ in range(3)] == [1, 2, 1]
        saved = first.checkpoint()
        assert "s3cr3t" not in saved
        rest = paginator.paginate(client, url, style, items="data", resume=saved)
        assert list(rest) == [2]
    assert server.requests[-1].url.params["page"] == "2"
    assert server.requests[-1].url.path == server.requests[0].url.path


def test_checkpoint_of_a_resumed_walk():
    """A resumed walk that got no page yet has the checkpoint it began with."""
    with Server(link_rows).client() as client:
        style = paginator.LinkHeader()
        first = paginator.paginate(client, f"{BASE}/", style)
        taken = [next(first) for _ in range(5)]
        saved = first.checkpoint()
        again = paginator.paginate(client, f"{BASE}/", style, resume=saved)
        assert again.checkpoint() == saved
        rest = paginator.paginate(client, f"{BASE}/", style, resume=again.checkpoint())
        whole = list(paginator.paginate(client, f"{BASE}/", style))
        assert taken + list(rest) == whole


def test_resume_on_another_path():
    """A next address on another path or allowed origin is resumed there."""

    def answer(request):
        path = request.url.path
        targets = {"/": "/two?x=1", "/two": "https://b.test/three?y=2"}
        return {"data": [path, path], "next": targets.get(path)}

    style, options = (
        paginator.NextUrl(),
        {"items": "data", "origins": ["https://b.test"]},
    )
    with Server(answer).client() as client:
        for count, path in ((3, "/two"), (5, "/three")):
            first = paginator.paginate(client, f"{BASE}/", style, **options)
            saved = [first.checkpoint() for _ in zip(range(count), first, strict=False)]
            rest = paginator.paginate(
                client, f"{BASE}/", style, resume=saved[-1], **options
            )
            assert next(rest) == path


def test_checkpoint_of_pages():
    """A page that was handed out is behind the checkpoint, and not repeated empty."""
    with Server(tokens(PAGES)).client() as client:
        first = paginator.paginate(client, BASE, CURSOR, items="data")
        page = next(first.pages())
        saved = first.checkpoint()
        rest = paginator.paginate(client, BASE, CURSOR, items="data", resume=saved)
        pages = list(rest.pages())
    assert page.items == [1, 2, 3]
    assert [p.items for p in pages] == [[], [4, 5], [6]]
    assert [p.number for p in pages] == [2, 3, 4]


def test_checkpoint_after_a_failure():
    """A page that fails leaves the checkpoint at the last good one."""
    broken = [True]

    def answer(request):
        if request.url.params.get("cursor") == "2" and broken[0]:
            return httpx.Response(503)
        return tokens(PAGES)(request)

    with Server(answer).client() as client:
        first = paginator.paginate(client, BASE, CURSOR, items="data")
        taken = [next(first) for _ in range(3)]
        with pytest.raises(paginator.UnexpectedStatus):
            next(first)
        broken[0] = False
        saved = first.checkpoint()
        rest = paginator.paginate(client, BASE, CURSOR, items="data", resume=saved)
        assert taken + list(rest) == ALL


def test_checkpoint_before_the_start():
    """A walk that has not begun, or failed at once, resumes from its beginning."""
    with Server(tokens(PAGES)).client() as client:
        saved = paginator.paginate(client, BASE, CURSOR, items="data").checkpoint()
        rest = paginator.paginate(client, BASE, CURSOR, items="data", resume=saved)
        assert list(rest) == ALL


@pytest.mark.parametrize(
    "changed",
    [
        {"url": f"{BASE}/other"},
        {"url": f"{BASE}/?filter=x"},
        {"url": "https://other.test"},
        {"style": paginator.Cursor("next", param="after")},
        {"style": paginator.NextUrl()},
        {"items": "rows"},
    ],
)
def test_resume_of_another_walk(changed):
    """A checkpoint does not fit another request, style or items."""
    with Server(tokens(PAGES)).client() as client:
        first = paginator.paginate(client, BASE, CURSOR, items="data")
        next(first)
        other = {"url": BASE, "style": CURSOR, "items": "data", **changed}
        with pytest.raises(paginator.ResumeMismatch):
            paginator.paginate(
                client,
                other["url"],
                other["style"],
                items=other["items"],
                resume=first.checkpoint(),
            )


def test_resume_with_a_new_key():
    """A credential may change between the walks."""
    with Server(tokens(PAGES)).client() as client:
        url = f"{BASE}/?api_key="
        first = paginator.paginate(client, url + "old", CURSOR, items="data")
        taken = next(first)
        saved = first.checkpoint()
        rest = paginator.paginate(
            client, url + "new", CURSOR, items="data", resume=saved
        )
        assert [taken, *rest] == ALL


@given(st.text() | st.binary() | st.none() | st.integers())
def test_any_checkpoint(text):
    """Anything else is refused at once, and quoted nowhere."""
    with (
        Server(tokens(PAGES)).client() as client,
        pytest.raises(paginator.ResumeMismatch, match=r"^not a checkpoint of this"),
    ):
        paginator.paginate(client, BASE, CURSOR, items="data", resume=text or "x")


@given(st.data())
def test_damaged_checkpoint(data):
    """A checkpoint with one character changed is refused."""
    with Server(tokens(PAGES)).client() as client:
        saved = paginator.paginate(client, BASE, CURSOR, items="data").checkpoint()
        at = data.draw(st.integers(0, len(saved) - 1))
        new = data.draw(st.characters().filter(lambda c: c != saved[at]))
        damaged = saved[:at] + new + saved[at + 1 :]
        with pytest.raises(paginator.ResumeMismatch):
            paginator.paginate(client, BASE, CURSOR, items="data", resume=damaged)


@pytest.mark.parametrize(
    "saved",
    [
        "null",
        "x",
        "{}",
        "[1]",
        "[" * 3000,
        '["a",0,null,{},{}]',
        '[1,"0",null,{},{}]',
        "[1,-5,null,{},{}]",
        "[1e400,0,null,{},{}]",
        "[0,0,null,{},{}]",
        "[true,0,null,{},{}]",
        "[1,0,null,[],{}]",
        "[1,0,null,{},5]",
        "[1,0,5,{},{}]",
        '[1,0,["/",[9]],{},{}]',
        '[1,0,["/",[null]],{},{}]',
        '[1,0,["https://[::1",[]],{},{}]',
        '[1,0,["/",[""]],{"a":["\\ud800"]},{}]',
    ],
)
def test_forged_checkpoint(saved):
    """A checkpoint with a right seal on something else is refused at once."""
    with Server(tokens(PAGES)).client() as client:
        walk = paginator.paginate(client, BASE, CURSOR, items="data")
        forged = f"{walk._seal(saved)}.{saved}"
        with pytest.raises(paginator.ResumeMismatch):
            paginator.paginate(client, BASE, CURSOR, items="data", resume=forged)


@pytest.mark.parametrize("params", [{}, {"offset": "x", "limit": "5"}])
def test_forged_count(params):
    """Nor on another count than a number."""
    style = paginator.Offset(5)
    with Server(rows(9)).client() as client:
        walk = paginator.paginate(client, BASE, style, items="data")
        saved = json.dumps([1, 0, None, params, {}])
        forged = f"{walk._seal(saved)}.{saved}"
        with pytest.raises(paginator.ResumeMismatch):
            paginator.paginate(client, BASE, style, items="data", resume=forged)


def test_forged_checkpoint_of_another_origin():
    """Nor does one lead to another origin."""
    saved = '[2,0,["http://evil.test/",[""]],{},{}]'
    with Server(tokens(PAGES)).client() as client:
        walk = paginator.paginate(client, BASE, paginator.NextUrl(), items="data")
        forged = f"{walk._seal(saved)}.{saved}"
        with pytest.raises(paginator.CrossOriginNext):
            paginator.paginate(
                client, BASE, paginator.NextUrl(), items="data", resume=forged
            )


def test_walk_tells_no_secret():
    """Neither a walk nor its style show the request in their repr."""
    with httpx.Client(headers={"authorization": SECRET}) as client:
        found = paginator.paginate(client, f"{BASE}/?api_key={SECRET}", CURSOR)
    assert SECRET not in repr(found)


# --- ahead of the consumer


def test_prefetch_asks_for_no_more():
    """At most the pages asked for are fetched ahead; a loop left early stops them."""
    server = Server(tokens([[n] for n in range(20)]))

    async def leave():
        async with server.async_client() as client:
            found = paginator.apaginate(client, BASE, CURSOR, items="data", prefetch=2)
            async with aclosing(found):
                await anext(found)
                for _ in range(20):
                    await asyncio.sleep(0)
            return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1
    assert len(server.requests) == 3


def test_break_cancels_what_is_on_its_way():
    """A loop that is broken off cancels a request under way."""
    cancelled = []

    async def slow(request):
        if "cursor" in request.url.params:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request)
                raise
        return _json({"data": [1], "next": "2"})

    async def leave():
        transport = httpx.MockTransport(slow)
        async with httpx.AsyncClient(transport=transport) as client:
            found = paginator.apaginate(client, BASE, CURSOR, items="data", prefetch=1)
            async for _ in found:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                break
            await found.aclose()
            return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1
    assert len(cancelled) == 1


def test_prefetch_overlaps():
    """While a page is consumed, the next one is on its way, in a thread."""
    asked = threading.Event()

    def answer(request):
        if "cursor" in request.url.params:
            asked.set()
        return tokens(PAGES)(request)

    with Server(answer).client() as client:
        found = paginator.paginate(client, BASE, CURSOR, items="data", prefetch=1)
        with closing(found):
            assert next(found) == 1
            assert asked.wait(10)
        assert list(found) == ALL[1:]


def test_error_ahead_comes_in_its_turn():
    """A page that fails ahead of the consumer is raised when its turn comes."""

    def answer(request):
        if request.url.params.get("cursor") == "2":
            return httpx.Response(500)
        return tokens([[0], [1], [2], [3]])(request)

    server = Server(answer)
    with server.client() as client:
        found = paginator.paginate(client, BASE, CURSOR, items="data", prefetch=3)
        assert [next(found), next(found)] == [0, 1]
        with pytest.raises(paginator.UnexpectedStatus, match="page 3"):
            next(found)

    async def again():
        async with server.async_client() as client:
            found = paginator.apaginate(client, BASE, CURSOR, items="data", prefetch=3)
            assert [await anext(found), await anext(found)] == [0, 1]
            with pytest.raises(paginator.UnexpectedStatus, match="page 3"):
                await anext(found)
            await found.aclose()

    asyncio.run(again())


def test_concurrency_is_bounded():
    """No more requests than asked for are under way at once, and order is kept."""
    under_way, most = 0, 0

    async def answer(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(1 + int(request.url.params["offset"]) % 4):
            await asyncio.sleep(0)
        under_way -= 1
        return _json(rows(60, clamp=5)(request))

    async def collect():
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport) as client:
            style = paginator.Offset(total="total")
            found = paginator.apaginate(
                client, BASE, style, items="data", concurrency=3
            )
            return ids([item async for item in found])

    assert asyncio.run(collect()) == list(range(60))
    assert most == 3


def test_a_loop_taken_up_again():
    """A walk goes on where the last loop over it stopped."""
    for prefetch in (0, 2):
        with Server(tokens(PAGES)).client() as client:
            found = paginator.paginate(
                client, BASE, CURSOR, items="data", prefetch=prefetch
            )
            taken = []
            for stop in (1, 4, 9):
                for item in found:
                    taken.append(item)
                    if item == stop:
                        break
            assert taken == ALL
            assert list(found) == []


def test_async_loop_taken_up_again():
    """So does an async walk, and its end is an end."""

    async def collect():
        async with Server(tokens(PAGES)).async_client() as client:
            found = paginator.apaginate(client, BASE, CURSOR, items="data", prefetch=1)
            taken = [await anext(found)]
            async for item in found:
                taken.append(item)
                if item == 4:
                    break
            taken += [item async for item in found]
            with pytest.raises(StopAsyncIteration):
                await anext(found)
            return taken

    assert asyncio.run(collect()) == ALL


def test_async_loop_taken_up_at_once():
    """The loop that was left early stops nothing of the one that goes on."""

    async def collect(prefetch):
        async with Server(tokens([[n] for n in range(9)])).async_client() as client:
            found = paginator.apaginate(
                client, BASE, CURSOR, items="data", prefetch=prefetch
            )
            taken = []
            for stop in (0, 1, 4, 9):
                async for item in found:
                    taken.append(item)
                    if item == stop:
                        break
            return taken

    for prefetch in (1, 2, 3):
        assert asyncio.run(collect(prefetch)) == list(range(9))


def test_streamed_body():
    """A body given as a generator is sent with its length, and only so."""
    first = httpx.Request("POST", BASE, content=(part for part in [b"{}", b"  "]))
    server = Server(tokens(PAGES))
    with server.client() as client:
        assert list(paginator.paginate(client, first, CURSOR, items="data")) == ALL
    for request in server.requests:
        assert request.headers["content-length"] == "4"
        assert "transfer-encoding" not in request.headers


def test_compressed_pages():
    """A compressed page is a page."""

    def answer(request):
        body = gzip.compress(json.dumps({"data": [1]}).encode())
        return httpx.Response(200, content=body, headers={"content-encoding": "gzip"})

    assert walk(Server(answer), BASE, CURSOR, items="data") == [1]


def test_any_event_loop():
    """Without tasks ahead, an async walk needs no asyncio."""

    async def collect():
        transport = httpx.MockTransport(Server(tokens(PAGES)))
        client = httpx.AsyncClient(transport=transport)
        found = paginator.apaginate(client, BASE, CURSOR, items="data")
        return [item async for item in found]

    steps = collect()
    with pytest.raises(StopIteration) as done:
        steps.send(None)
    assert done.value.value == ALL
