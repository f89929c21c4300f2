# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Walk a paged API to its end, and never past it.

`paginate` (blocking) and `apaginate` (async) turn a paged collection into one stream
of items; a style says how a page names the next. A walk ends only where the server
says so, refuses to go round in circles or to carry credentials to another origin, and
resumes from a checkpoint. Not for a list that fits one response; retries and rate
limits belong in the client's transport. Follows RFC 8288 §3 and appendix B (Link),
RFC 3986 §5 (relative references), RFC 6454 §4 (origin) and AIP-158 (tokens).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import unquote_plus

import httpx

# fmt: off
__all__ = [
    "Address", "Answer", "CrossOriginNext", "Cursor", "LastItem", "Link",
    "LinkHeader", "NextUrl", "Offset", "Page", "PageNumber", "PaginationError",
    "PaginationLoop", "Relay", "ResumeMismatch", "Style", "UnexpectedPage",
    "UnexpectedStatus", "Walk", "apaginate", "next_link", "paginate", "parse_link",
]
# fmt: on

#: A dotted path into the JSON body (`"meta.next"`), or a function of the response.
Path: TypeAlias = "str | Callable[[httpx.Response], Any]"
Work: TypeAlias = "Callable[..., Coroutine[Any, Any, Any]]"

_ENDLESS = 10_000  # pages, where a walk without `max_pages` is taken for endless
_ABSENT = object()
_UNREADABLE = (  # what a caller's function raises on a page that it cannot read
    ArithmeticError, AttributeError, LookupError, StopIteration, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
# Query parameters that no checkpoint carries, in lower case.
_SECRET = re.compile(
    r"access_token|api[_-]?key|auth(orization)?|client_secret|jwt|password|sessionid|"
    r"sig(nature)?|x-(amz|goog)-(credential|security-token|signature)"
)
_NAME = re.compile(r"[A-Za-z@$_.-]{1,30}")  # a member's name that may be quoted
_SECRET_HEADER = re.compile("auth|cookie|key|secret|session|token", re.IGNORECASE)
_TARGET = re.compile(r"[ \t,]*<([^>]*)>")
_PARAM = re.compile(
    r"[ \t]*;[ \t]*([^ \t=;,]*)[ \t]*"
    r'(?:=[ \t]*(?:"((?:[^"\\]|\\.)*)("|\\?\Z)|([^;,]*)))?',
    re.DOTALL,
)


class PaginationError(Exception):
    """The walk cannot go on as the server answered, or as the caller asked."""


class PaginationLoop(PaginationError):
    """The server's fault: a page leads back to one already walked, or never ends."""


class CrossOriginNext(PaginationError):
    """The server's fault: the next address leaves the first request's origin."""


class ResumeMismatch(PaginationError):
    """The caller's fault: this is no checkpoint, or one of another walk."""


class UnexpectedPage(PaginationError):
    """The server's fault: page `number` is not what was `wanted`; see `seen`."""

    def __init__(
        self, number: int, wanted: str, seen: str, response: httpx.Response
    ) -> None:
        Exception.__init__(self, f"page {number}: wanted {wanted}, saw {seen}")
        self.number, self.wanted, self.seen = number, wanted, seen
        self.response, self.request = response, response.request

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.number, self.wanted, self.seen, self.response)


class UnexpectedStatus(UnexpectedPage, httpx.HTTPStatusError):
    """A page came with a status other than 2xx; also an `httpx.HTTPStatusError`."""


class Link(NamedTuple):
    """One link of a Link header; `rels` in lower case, `params` all of them."""

    target: str
    rels: tuple[str, ...]
    anchor: str | None
    params: tuple[tuple[str, str], ...]


class Page(NamedTuple):
    """One page as `.pages()` yields it; `number` counts from 1."""

    items: list[Any]
    response: httpx.Response
    number: int


class Address(NamedTuple):
    """Where a page is, as a difference from the first request.

    `url` replaces the URL, `params` are set in its query, and `body` holds values to
    set in the JSON body by dotted path.
    """

    url: str | None = None
    params: dict[str, str] = {}  # noqa: RUF012 - never changed in place
    body: dict[str, Any] = {}  # noqa: RUF012


@dataclass
class Answer:
    """One page's answer as a style sees it; `count` is all items up to its end."""

    response: httpx.Response
    address: Address
    number: int
    items: list[Any] = field(default_factory=list)
    count: int = 0

    @cached_property
    def body(self) -> Any:
        """The parsed JSON body."""
        try:
            return self.response.json()
        except (ValueError, RecursionError) as exc:
            kind = self.response.headers.get("content-type", "no content type")[:60]
            size = len(self.response.content)
            raise self.unexpected("JSON", f"{size} bytes of {kind}") from exc

    def find(self, path: Path) -> Any:
        """Return the value at `path`; what is not there is described as nothing."""
        if not callable(path):
            return _at(self.body, path)
        try:
            return path(self.response)
        except _UNREADABLE as exc:
            seen = type(exc).__name__
            raise self.unexpected("a page that the function reads", seen) from exc

    def expect(self, kind: type[Any], path: Path) -> Any:
        """Return the value at `path` if it is a `kind`, as `bool` or `int`."""
        value = self.find(path)
        if type(value) is not kind:
            raise self.unexpected(f"{kind.__name__} at {path!r}", _describe(value))
        return value

    def count_at(self, path: Path | None) -> int | None:
        """Return the count at `path`, which is not negative; None without a path."""
        count: int | None = None if path is None else self.expect(int, path)
        if count is not None and count < 0:
            raise self.unexpected("a count", "a negative number")
        return count

    def unexpected(self, wanted: str, seen: str) -> UnexpectedPage:
        """Return the error that this page is not what was wanted."""
        return UnexpectedPage(self.number, wanted, seen, self.response)


def parse_link(value: str) -> list[Link]:
    r"""Parse a Link header's value by RFC 8288 appendix B.2; never raises.

    As that algorithm says, nothing is read after a malformed link.

    >>> parse_link('</2>; rel="next last"; title="a, b"')[0].rels
    ('next', 'last')
    """
    return _scan(value)[0]


def next_link(value: str, rel: str = "next") -> str | None:
    """Return the target of the first link with relation `rel` and no anchor.

    >>> next_link('</1>; rel=prev, </3>; title="x; y"; rel=next')
    '/3'
    """
    links = (link for link in parse_link(value) if rel.lower() in link.rels)
    return next((link.target for link in links if not link.anchor), None)


def _scan(value: str) -> tuple[list[Link], bool]:
    """Return the links in a header's value, and whether a rest of it is none."""
    links: list[Link] = []
    at, rest = 0, False
    while target := _TARGET.match(value, at):
        at, params = target.end(), []
        while param := _PARAM.match(value, at):
            at, (name, quoted, closed, plain) = param.end(), param.groups()
            rest = rest or (closed not in ('"', None))
            text = re.sub(r"\\(.)", r"\1", quoted or "", flags=re.DOTALL)
            params.append((name.lower(), text or (plain or "").strip(" \t")))
        once = dict(reversed(params))  # RFC 8288 §3.3: of two rels the first counts
        rels = tuple(once.get("rel", "").lower().split())
        links.append(Link(target[1], rels, once.get("anchor"), tuple(params)))
    return links, rest or bool(value[at:].strip(" \t,"))


def _at(value: Any, path: str) -> Any:
    """Return what stands at a dotted path; a name that holds dots itself wins."""
    while isinstance(value, dict):
        if path in value:
            return value[path]
        name, _, path = path.partition(".")
        value = value.get(name, _ABSENT) if path else _ABSENT
    return _ABSENT


def _put(value: dict[str, Any], path: str, leaf: Any) -> dict[str, Any]:
    """Return a copy of `value` with `leaf` at the dotted path."""
    name, dot, rest = path.partition(".")
    inner = value.get(name)
    return {
        **value,
        name: _put(inner if isinstance(inner, dict) else {}, rest, leaf)
        if dot
        else leaf,
    }


def _describe(value: Any) -> str:
    """Say what was seen, quoting no more of it than the names of members."""
    if isinstance(value, dict):
        names = (str(name) for name in list(value)[:6])
        told = ", ".join(n if _NAME.fullmatch(n) else "…" for n in names)
        return f"an object with {told}" if told else "an empty object"
    if isinstance(value, list | str):
        return f"a {type(value).__name__} of length {len(value)}"
    kind = {type(_ABSENT): "nothing", type(None): "null"}.get(type(value))
    return kind or f"a {type(value).__name__}"


def _term(answer: Answer, path: Path, value: Any) -> str:
    """Return a cursor's value as it goes into a query."""
    sound = isinstance(value, str | int) or (
        isinstance(value, float) and math.isfinite(value)
    )
    if not sound or isinstance(value, bool):
        raise answer.unexpected(f"text or a number at {path!r}", _describe(value))
    return str(value)


class Style:
    """How a page names the next one, and where its items are unless `items=` says."""

    __slots__ = ()

    def first(self, request: httpx.Request) -> Address:
        """Return the first page's address."""
        return Address()

    def next(self, answer: Answer) -> Address | None:
        """Return the address after `answer`, or None at the explicit end."""
        return self.jump(answer, 1)

    def jump(self, answer: Answer, n: int) -> Address | None:
        """Return the address `n` pages on, where such addresses are computable."""
        raise NotImplementedError

    def items(self, answer: Answer) -> Any:
        """Return the page's items."""
        return answer.body


@dataclass(frozen=True, slots=True)
class LinkHeader(Style):
    """Follow the Link header's `rel="next"`; where there is none is the end."""

    rel: str = "next"

    def next(self, answer: Answer) -> Address | None:
        values = answer.response.headers.get_list("link")  # RFC 8288 B.1: one by one
        for target in (next_link(value, self.rel) for value in values):
            if target is not None:
                return Address(target)
        if any(_scan(value)[1] for value in values):
            raise answer.unexpected("a Link header", "a malformed one")
        return None


@dataclass(frozen=True, slots=True)
class NextUrl(Style):
    """Follow the URL at `path` in the body; absent, null or empty is the end."""

    path: Path = "next"

    def next(self, answer: Answer) -> Address | None:
        if answer.find(self.path) in (_ABSENT, None, ""):
            return None
        return Address(answer.expect(str, self.path))


@dataclass(frozen=True, slots=True)
class Cursor(Style):
    """Send the token at `path` back: as query `param`, or in the JSON body at `body`.

    The end is an absent or null token, or `has_more` saying false, never an empty
    page. An empty string is the end too (AIP-158); where it is a token like any other
    (MCP), say `empty_is_end=False`.
    """

    path: Path
    param: str | None = None
    body: str | None = None
    has_more: Path | None = None
    empty_is_end: bool = True

    def __post_init__(self) -> None:
        if (self.param is None) == (self.body is None):
            raise ValueError("a cursor goes into a query `param` or a `body` path")

    def next(self, answer: Answer) -> Address | None:
        more = None if self.has_more is None else answer.expect(bool, self.has_more)
        value = answer.find(self.path)
        if value in (_ABSENT, None) and more:
            raise answer.unexpected("a token, as there is more", _describe(value))
        if more is False or value in (_ABSENT, None, *([""] * self.empty_is_end)):
            return None
        if self.param is None:
            return Address(body={cast(str, self.body): value})
        return Address(params={self.param: _term(answer, self.path, value)})


@dataclass(frozen=True, slots=True)
class LastItem(Style):
    """Send the last item's `path` back as `param`, as Stripe's `starting_after`.

    The end is where `has_more` says false; without that member, an empty page.
    """

    path: str = "id"
    param: str = "starting_after"
    has_more: str | None = "has_more"

    def next(self, answer: Answer) -> Address | None:
        told = self.has_more and answer.find(self.has_more) is not _ABSENT
        more = answer.expect(bool, self.has_more or "") if told else bool(answer.items)
        if not more:
            return None
        if not answer.items:
            raise answer.unexpected("items, as there is more", "an empty page")
        value = _at(answer.items[-1], self.path)
        return Address(params={self.param: _term(answer, self.path, value)})


def _count_from(
    request: httpx.Request, name: str, start: int, size: dict[str, int | None]
) -> Address:
    """Return the first address: the URL's own number wins over `start`."""
    given = request.url.params.get(name, str(start))
    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise ValueError(f"the first URL's {name!r} is not a whole number")
    return Address(params={name: given, **{k: str(v) for k, v in size.items() if v}})


def _count_on(answer: Answer, name: str, by: int, end: int | None) -> Address | None:
    """Return the address `by` on; none at `end`, or without one on an empty page."""
    at = int(answer.address.params[name]) + by
    if at >= end if end is not None else not answer.items:
        return None
    return Address(params={**answer.address.params, name: str(at)})


@dataclass(frozen=True, slots=True)
class PageNumber(Style):
    """Count pages; the end is their number at `pages`, without it an empty page."""

    param: str = "page"
    start: int = 1
    size: int | None = None
    size_param: str = "per_page"
    pages: Path | None = None

    def first(self, request: httpx.Request) -> Address:
        size = {self.size_param: self.size}
        return _count_from(request, self.param, self.start, size)

    def jump(self, answer: Answer, n: int) -> Address | None:
        pages = answer.count_at(self.pages)
        end = None if pages is None else self.start + pages
        return _count_on(answer, self.param, n, end)


@dataclass(frozen=True, slots=True)
class Offset(Style):
    """Move on by the items that came, not by the `limit` asked for: servers clamp.

    The end is the count of items at `total`. Without it the end is an empty page, which
    steady inserts can keep from ever coming.
    """

    limit: int | None = None
    total: Path | None = None
    param: str = "offset"
    limit_param: str = "limit"
    start: int = 0

    def first(self, request: httpx.Request) -> Address:
        limit = {self.limit_param: self.limit}
        return _count_from(request, self.param, self.start, limit)

    def jump(self, answer: Answer, n: int) -> Address | None:
        by = n * len(answer.items)
        return _count_on(answer, self.param, by, answer.count_at(self.total))


@dataclass(frozen=True, slots=True)
class Relay(Style):
    """Walk the GraphQL connection at `path`, its cursor sent as variable `variable`.

    The first request is a POST of `query` and `variables` as JSON. The items are the
    connection's nodes, and `pageInfo.hasNextPage` says where the end is.
    """

    path: str
    variable: str = "after"

    def items(self, answer: Answer) -> Any:
        nodes = answer.find(f"{self.path}.nodes")
        if nodes is not _ABSENT:
            return nodes
        edges = answer.expect(list, f"{self.path}.edges")
        return [_at(edge, "node") for edge in edges if edge is not None]

    def next(self, answer: Answer) -> Address | None:
        if not answer.expect(bool, f"{self.path}.pageInfo.hasNextPage"):
            return None
        cursor = answer.expect(str, f"{self.path}.pageInfo.endCursor")
        return Address(body={f"variables.{self.variable}": cursor})


class _Plan(NamedTuple):
    """A page's request, ready to be sent; `mark` tells whether it was sent before."""

    request: httpx.Request
    address: Address
    number: int
    mark: bytes


@dataclass(eq=False, repr=False)
class Walk:
    """A walk, written once for both clients: `paginate` and `apaginate` are the two.

    Args:
        client: sends every request; its auth, transport and redirect setting count.
        request_or_url: the first request; every page gets its method, headers, body.
        style: how a page names the next one.
        items: where a page's items are; by default the body itself is the array.
        max_items: hand out no more items, and fetch no page for more.
        max_pages: fetch no more pages; without it, 10 000 are taken for a loop.
        prefetch: how many pages may be fetched while one is consumed.
        concurrency: how many requests may be under way at once where addresses can
            be computed (`Offset`, `PageNumber`); the items stay in order.
        resume: a checkpoint of the same walk; both limits count anew.
        origins: further origins, such as `https://eu.example.com`, that next
            addresses may lead to, credentials and all.
        on_page: called with each page before its items are handed out.

    Raises:
        PaginationError: while walking, `UnexpectedPage` (`UnexpectedStatus` is one),
            `PaginationLoop` or `CrossOriginNext`; at once, `ResumeMismatch`. Errors
            of httpx's transport pass through.
        ValueError: at once, for options that contradict each other.
        TypeError: at once, for a client of the other kind or of another package.
    """

    client: Any
    request_or_url: httpx.Request | httpx.URL | str
    style: Style
    _: KW_ONLY
    items: Path | None = None
    max_items: int | None = None
    max_pages: int | None = None
    prefetch: int = 0
    concurrency: int = 1
    resume: str | None = None
    origins: Collection[str] = ()
    on_page: Callable[[Page], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.style, Style):
            raise TypeError("a style is an instance of Style, such as LinkHeader()")
        limits = (self.max_items or 0, self.max_pages or 0, self.prefetch)
        if min(*limits, self.concurrency - 1) < 0:
            raise ValueError("limits are not negative, and concurrency is 1 or more")
        computable = type(self.style).jump is not Style.jump and not self.prefetch
        if self.concurrency > 1 and not computable:
            raise ValueError("concurrency: for computable addresses, without prefetch")
        if isinstance(self.request_or_url, httpx.Request):
            self._first = self.request_or_url
            if not isinstance(self._first.stream, httpx.SyncByteStream):
                raise ValueError("every page sends the body again: give it as bytes")
        else:
            self._first = self.client.build_request("GET", self.request_or_url)
            self._first.headers.pop("cookie", None)  # set anew for each page
        self._first.read()
        self._headers = self._first.headers.copy()
        for name in ("content-length", "transfer-encoding"):  # of each page's own body
            self._headers.pop(name, None)
        if isinstance(self.style, Relay) or getattr(self.style, "body", None):
            _fill(self._first, Address())
        further = [httpx.URL(url) for url in self.origins]
        if isinstance(self.origins, str) or not all(url.host for url in further):
            raise ValueError("origins are several, such as ['https://eu.example.com']")
        self._origins = {_origin(url) for url in [self._first.url, *further]}
        self._start = self.style.first(self._first), 1, 0  # address, number, index
        self._last: Answer | None = None  # the page being consumed
        self._index = 0  # how many items of it have been handed out
        self._rest: Iterator[Any] = iter(())  # those that have not
        self._ahead: deque[tuple[Address | None, Any]] = deque()  # pages on their way
        self._seen: dict[bytes, int] = {}  # the requests sent, with their page number
        if self.resume is not None:
            self._start = self._restore(self.resume)

    def checkpoint(self) -> str:
        """Return where the walk is, for `resume=`: text that holds no credentials.

        It names the page being consumed and the items of it handed out so far. The
        resumed walk fetches that page again and goes on behind them, so save it once
        what was handed out is processed.
        """
        (address, number, index), url, sent = self._start, None, self._first
        if self._last:
            address, number, index = self._last.address, self._last.number, self._index
            sent = self._last.response.request
        if address.url is not None:
            url = self._conceal(httpx.URL(address.url), sent)
        saved = json.dumps([number, index, url, address.params, address.body])
        return f"{self._seal(saved)}.{saved}"

    async def _turn(self) -> Page | None:
        """Turn to the next page, or return None where the walk ends."""
        last, skip = self._last, 0
        if self._ahead:
            answer = await self._join(self._ahead.popleft()[1])
        elif last is not None:
            answer = await self._after(last, self._seen)
        elif 0 in (self.max_items, self.max_pages):
            return None
        else:
            address, number, skip = self._start
            plan = self._plan(address, None, number)
            self._seen[plan.mark] = number
            answer = await self._fetch(plan, 0)
        if answer is None:
            return None
        self._compare(last, answer)
        items, before = answer.items[skip:], last.count if last else 0
        answer.count = before + len(items)
        self._last, self._index = answer, skip
        self._look_ahead(answer)
        if skip and not items:
            return await self._turn()
        room = None if self.max_items is None else self.max_items - before
        page = Page(items[:room], answer.response, answer.number)
        self._rest = iter(page.items)
        if self.on_page:
            self.on_page(page)
        return page

    def _left(self) -> Page | None:
        """Return what is left of a page that a loop over items has begun."""
        left = list(self._rest)
        last = self._last
        return Page(left, last.response, last.number) if left and last else None

    def _whole(self, page: Page) -> Page:
        """Hand out a page as a whole."""
        self._index, self._rest = self._index + len(page.items), iter(())
        return page

    def _compare(self, last: Answer | None, answer: Answer) -> None:
        """Refuse the same records twice: the server does not know the parameter."""
        if last and isinstance(self.style, PageNumber | Offset):
            records = answer.items and isinstance(answer.items[0], dict)
            if records and last.response.content == answer.response.content:
                told = f"page {answer.number} is page {last.number} again"
                raise PaginationLoop(told)

    async def _after(self, last: Any, seen: dict[bytes, int]) -> Answer | None:
        """Fetch the page after one that has come, or is on its way."""
        answer = last if isinstance(last, Answer) else await self._join(last)
        plan = None if answer is None else self._next(answer, seen)
        return None if plan is None else await self._fetch(plan, answer.count)

    def _next(self, answer: Answer, seen: dict[bytes, int]) -> _Plan | None:
        """Decide what follows a page: a request not sent before, or nothing."""
        if self._enough(answer.count, answer.number):
            return None
        address = self.style.next(answer)
        if address is None:
            return None
        if self.max_pages is None and answer.number >= _ENDLESS:
            raise PaginationLoop(f"no end after {_ENDLESS} pages; see max_pages")
        plan = self._plan(address, answer, answer.number + 1)
        if before := seen.get(plan.mark):
            raise PaginationLoop(f"page {answer.number} leads back to page {before}")
        seen[plan.mark] = plan.number
        return plan

    def _enough(self, count: int, number: int) -> bool:
        """Tell whether the caller's own limits end the walk here."""
        pages = number - self._start[1] + 1
        full = self.max_items is not None and count >= self.max_items
        return full or (self.max_pages is not None and pages >= self.max_pages)

    def _look_ahead(self, answer: Answer) -> None:
        """Start what may be fetched while a page is being consumed."""
        for _ in range(self.prefetch - len(self._ahead)):  # a chain, one after another
            tail = self._ahead[-1][1] if self._ahead else answer
            self._ahead.append((None, self._spawn(self._after, tail, self._seen)))
        if self.concurrency > 1:  # a window of computed addresses
            window: list[Address] = []
            with suppress(
                PaginationError
            ):  # told in its turn, behind this page's items
                window.extend(self._window(answer))
            held = [address for address, _ in self._ahead]
            if held != window[: len(held)]:
                while self._ahead:  # a page came up short: what is behind it moved
                    self._ahead.pop()[1].cancel()
            for address in window[len(self._ahead) :]:
                plan = self._plan(address, answer, answer.number + 1 + len(self._ahead))
                self._ahead.append((address, self._spawn(self._fetch, plan, 0)))

    def _window(self, answer: Answer) -> Iterator[Address]:
        """Compute the addresses that may be under way at once after a page."""
        for n in range(1, self.concurrency + 1):
            count, number = (
                answer.count + (n - 1) * len(answer.items),
                answer.number + n,
            )
            if not answer.items or self._enough(count, number - 1):
                return
            if self.max_pages is None and number > _ENDLESS:
                return
            address = self.style.jump(answer, n)
            if address is None:
                return
            yield address

    async def _fetch(self, plan: _Plan, before: int) -> Answer:
        """Fetch one page and find its items."""
        answer = Answer(await self._exchange(plan), plan.address, plan.number)
        if not answer.response.is_success:
            seen = str(answer.response.status_code)
            raise UnexpectedStatus(plan.number, "a 2xx status", seen, answer.response)
        path = self.items
        found = self.style.items(answer) if path is None else answer.find(path)
        if not isinstance(found, list | tuple):
            where = f" at {path!r}" if isinstance(path, str) else ""
            raise answer.unexpected(f"an array of items{where}", _describe(found))
        answer.items, answer.count = list(found), before + len(found)
        return answer

    async def _exchange(self, plan: _Plan) -> httpx.Response:
        """Send a request; follow redirects if the client does, inside the origin."""
        request = plan.request
        for _ in range(self.client.max_redirects + 1):
            try:
                response = await self._send(request)
            except (httpx.DecodingError, httpx.InvalidURL, UnicodeError) as exc:
                nothing, seen = httpx.Response(200, request=request), type(exc).__name__
                raise UnexpectedPage(plan.number, "an answer", seen, nothing) from None
            if response.next_request is None or not self.client.follow_redirects:
                return response
            request = response.next_request
            self._admit(request.url)
        raise PaginationLoop(f"page {plan.number} redirects without end")

    def _plan(self, address: Address, answer: Answer | None, number: int) -> _Plan:
        """Make the request for an address; `answer` is the page that named it."""
        first = self._first
        try:
            url, address = self._resolve(address, answer)
            content = first.content
            if address.body:
                content = json.dumps(_fill(first, address), allow_nan=False).encode()
            headers = self._headers
            if url.netloc != first.url.netloc:
                headers = httpx.Headers({**headers, "host": url.netloc.decode()})
            request = httpx.Request(
                first.method,
                url,
                headers=headers,
                cookies=self.client.cookies,
                content=content,
                extensions=first.extensions,
            )
        except (httpx.InvalidURL, ValueError, TypeError) as exc:  # it may quote the URL
            if answer is None:
                raise ResumeMismatch("the checkpoint has no usable address") from None
            raise answer.unexpected("a usable address", type(exc).__name__) from None
        mark = hashlib.blake2b(f"{url}\n".encode() + content, digest_size=16).digest()
        return _Plan(request, address, number, mark)

    def _resolve(
        self, address: Address, answer: Answer | None
    ) -> tuple[httpx.URL, Address]:
        """Return an address's URL, and the address with its own URL made absolute."""
        url = self._first.url
        if address.url is not None:
            base = answer.response.url if answer else url
            bare = base.copy_with(userinfo=b"").join(address.url)
            bare = bare.copy_with(fragment=None)
            self._admit(bare)
            url = bare.copy_with(userinfo=url.userinfo)
            address = address._replace(url=str(bare))
        for name, value in address.params.items():
            url = url.copy_set_param(name, value)
        return url, address

    def _admit(self, url: httpx.URL) -> None:
        """Refuse an address outside the origins, or one with a user name in it."""
        if url.userinfo and url.userinfo != self._first.url.userinfo:
            raise CrossOriginNext("the next address carries a user name")
        if _origin(url) not in self._origins:
            here = _origin(self._first.url)
            raise CrossOriginNext(f"the next address leaves {here} for {_origin(url)}")

    def _forget(self) -> list[Any]:
        """Give up what is on its way, and return it."""
        jobs = [job for _, job in self._ahead]
        self._ahead.clear()
        here = self._last.number if self._last else 0
        # A new dict: a thread that is still at work keeps writing into the old one.
        self._seen = {mark: n for mark, n in list(self._seen.items()) if n <= here}
        return jobs

    def _restore(self, text: str) -> tuple[Address, int, int]:
        """Return where a checkpoint of this same walk says to start."""
        seal, _, saved = text.partition(".") if isinstance(text, str) else ("", "", "")
        if seal != self._seal(saved):
            raise ResumeMismatch("not a checkpoint of this request, style and items")
        try:
            number, index, url, params, body = json.loads(saved)
            if url is not None:
                url = self._reveal(*url)
            _, address = self._resolve(Address(url, {**params}, {**body}), None)
            sound = type(number) is type(index) is int and number > 0 <= index
            sound &= all(isinstance(value, str) for value in params.values())
            for name, value in self._start[0].params.items():  # a count stays a count
                sound &= params[name].isdecimal() is value.isdecimal()
        except (ValueError, TypeError, LookupError, RecursionError, httpx.InvalidURL):
            sound = False  # sealed, but not by a walk
        if not sound:
            raise ResumeMismatch("not a checkpoint that a walk has made")
        return address, number, index

    def _conceal(self, url: httpx.URL, sent: httpx.Request) -> list[Any]:
        """Split a URL into its path and its query's pairs, less what is secret.

        What the first request has too, its path or the value of a pair, is only pointed
        to, and filled in again from there. Another credential, known by its name or
        because a header of the request carries it, is left out.
        """
        given = self._given()
        names, values = [n for n, _, _ in given], [v for _, v, _ in given]
        known = {self._first.url.password} - {""}
        for header, value in sent.headers.items():
            if _SECRET_HEADER.search(header):
                words = {value, *value.split(), *re.split(r"[\s;,=]+", value)}
                known |= {word for word in words if len(word) >= 8}
        pairs: list[Any] = []
        for pair in url.query.decode().split("&"):
            name, value = map(unquote_plus, pair.partition("=")[::2])
            if value and value in values:
                pairs.append([pair.partition("=")[0], values.index(value)])
            elif not _SECRET.fullmatch(name.lower()) and known.isdisjoint(
                (value, unquote_plus(value))
            ):
                pairs.append(pair)
            elif name in names:
                pairs.append([pair.partition("=")[0], names.index(name)])
        path = url.raw_path.partition(b"?")[0]
        if path == self._first.url.raw_path.partition(b"?")[0]:
            path = b""
        away = _origin(url) != _origin(self._first.url) or path.startswith(b"//")
        return [(_origin(url) if away else "") + path.decode(), pairs]

    def _reveal(self, start: str, pairs: list[Any]) -> str:
        """Put a URL together that `_conceal` has split."""
        values = [raw for _, _, raw in self._given()]
        whole = [p if isinstance(p, str) else f"{p[0]}={values[p[1]]}" for p in pairs]
        first = self._first.url
        start = start or _origin(first) + first.raw_path.decode().partition("?")[0]
        return start + "?" * (whole != [""]) + "&".join(whole)

    def _given(self) -> list[tuple[str, str, str]]:
        """Return the first query's names and values, and the values as they stand."""
        pairs = self._first.url.query.decode().split("&")
        parts = [pair.partition("=")[::2] for pair in pairs]
        return [(unquote_plus(n), unquote_plus(value), value) for n, value in parts]

    def _seal(self, saved: str) -> str:
        """Return a digest of a checkpoint and of the walk it is for."""
        url = self._first.url
        pairs = [
            (name, None if _SECRET.fullmatch(name.lower()) else value)
            for name, value in url.params.multi_items()
        ]
        names = getattr(self.style, "__dataclass_fields__", ())
        values = [getattr(self.style, name) for name in names]
        style = [type(self.style).__name__, *(v for v in values if not callable(v))]
        items = None if callable(self.items) else self.items
        walk = [_origin(url), url.path, pairs, style, items, saved]
        data = json.dumps(walk, default=str).encode() + self._first.content
        return hashlib.sha256(data).hexdigest()[:16]

    async def _send(self, request: httpx.Request) -> httpx.Response:
        raise NotImplementedError

    async def _join(self, job: Any) -> Any:
        raise NotImplementedError

    def _spawn(self, work: Work, *args: Any) -> Any:
        raise NotImplementedError


class paginate(Walk, Iterator[Any]):
    """Iterate over the items of a paged collection, with a blocking client.

    A loop that was left early can be taken up again. `prefetch` and `concurrency` use
    threads; the iterator itself belongs to one.

    >>> pages = {"a": {"data": [1, 2], "next": "b"}, "b": {"data": [3]}}
    >>> def server(request):
    ...     return httpx.Response(200, json=pages[request.url.params.get("at", "a")])
    >>> client = httpx.Client(transport=httpx.MockTransport(server))
    >>> list(paginate(client, "https://api.test", Cursor("next", "at"), items="data"))
    [1, 2, 3]
    """

    _loop: Iterator[Any] | None = None
    _pool: ThreadPoolExecutor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.client, httpx.Client):
            raise TypeError(
                "paginate wants a blocking client of the same httpx package"
            )
        super().__post_init__()

    def __iter__(self) -> Generator[Any, None, None]:
        try:
            while True:
                for item in self._rest:
                    self._index += 1
                    yield item
                if _run(self._turn()) is None:
                    return
        finally:
            self.close()

    def __next__(self) -> Any:
        self._loop = self._loop or iter(self)
        return next(self._loop)

    def pages(self) -> Iterator[Page]:
        """Yield pages instead of items, each with its raw response."""
        try:
            while page := self._left() or _run(self._turn()):
                yield self._whole(page)
        finally:
            self.close()

    def close(self) -> None:
        """Give up the pages on their way; the walk can still be taken up again."""
        self._forget()
        self._loop = None
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        return cast(httpx.Response, self.client.send(request, follow_redirects=False))

    def _spawn(self, work: Work, *args: Any) -> Any:
        # A chain of pages needs one thread, which takes one after another.
        self._pool = self._pool or ThreadPoolExecutor(self.concurrency)
        return self._pool.submit(lambda: _run(work(*args)))

    async def _join(self, job: Any) -> Any:
        return job.result()


class apaginate(Walk, AsyncIterator[Any]):
    """Iterate over the items of a paged collection, with an async client.

    `prefetch` and `concurrency` use asyncio tasks; without them any event loop will
    do. A loop that may be left early is best put under `contextlib.aclosing`.
    """

    _loop: AsyncIterator[Any] | None = None
    _walker: object = None  # the loop that walks now: one left earlier stops nothing

    def __post_init__(self) -> None:
        if not isinstance(self.client, httpx.AsyncClient):
            raise TypeError("apaginate wants an async client of the same httpx package")
        super().__post_init__()

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        mine = self._walker = object()
        try:
            while True:
                for item in self._rest:
                    self._index += 1
                    yield item
                if await self._turn() is None:
                    return
        finally:
            if self._walker is mine:
                await self.aclose()

    async def __anext__(self) -> Any:
        self._loop = self._loop or aiter(self)
        return await anext(self._loop)

    async def pages(self) -> AsyncGenerator[Page, None]:
        """Yield pages instead of items, each with its raw response."""
        mine = self._walker = object()
        try:
            while page := self._left() or await self._turn():
                yield self._whole(page)
        finally:
            if self._walker is mine:
                await self.aclose()

    async def aclose(self) -> None:
        """Cancel the pages on their way; the walk can still be taken up again."""
        self._loop = None
        jobs = self._forget()
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        response = await self.client.send(request, follow_redirects=False)
        return cast(httpx.Response, response)

    def _spawn(self, work: Work, *args: Any) -> Any:
        task = asyncio.ensure_future(work(*args))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _join(self, job: Any) -> Any:
        return await job


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends, as all of a blocking walk's."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking walk must not suspend")


def _origin(url: httpx.URL) -> str:
    """Return scheme, host and port; a default port is left out (RFC 6454 §6.2)."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + ("" if url.port is None else f":{url.port}")


def _fill(first: httpx.Request, address: Address) -> dict[str, Any]:
    """Return the first request's JSON body with the address's values in it."""
    body: Any = None
    with suppress(ValueError):
        body = json.loads(first.content)
    if not isinstance(body, dict):
        raise ValueError(
            "a cursor in the body needs a first request with a JSON object"
        )
    filled: dict[str, Any] = body
    for path, leaf in address.body.items():
        filled = _put(filled, path, leaf)
    return filled


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
