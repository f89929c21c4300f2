"""A list of events as a service, built from the server's half of the pattern.

`GET /events` takes `sort`, `kind`, `page_size` and `page_token`, and answers with
`items`, and where there are more with `next_page_token` and a Link header. A token
that is not to be honoured is a 400 problem.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from patterns.pagination.page_token import (
    InvalidPageToken,
    PageTokens,
    keyset,
    query_scope,
)

TABLE = """CREATE TABLE event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, created TEXT NOT NULL, score INTEGER
)"""
INSERT = "INSERT INTO event (id, kind, created, score) VALUES (?, ?, ?, ?)"
SORTS: dict[str, list[tuple[str, ...]]] = {
    "id": [("id",)],
    "newest": [("created", "desc"), ("id", "desc")],
    "best": [("score", "desc", "last"), ("created", "asc"), ("id", "desc")],
}
LARGEST = 50


def event(n: int) -> tuple[int, str, str, int | None]:
    """Return a row; four in five tie in `created`, a third has no score."""
    kind = "push" if n % 4 else "fork"
    return n, kind, f"2026-11-{n // 5 % 28 + 1:02}", n % 7 if n % 3 else None


class Refused(Exception):
    """A request that is answered with 400."""

    def __init__(self, title: str, **members: str) -> None:
        super().__init__(title)
        self.body = {"title": title, "status": 400, **members}


def listing(connect: Callable[[], Any], mark: str, tokens: PageTokens) -> Starlette:
    """Return the service over a database; `mark` is its placeholder."""

    def events(request: Request) -> JSONResponse:
        try:
            return answer(request)
        except Refused as refused:
            kind = "application/problem+json"
            return JSONResponse(refused.body, 400, media_type=kind)

    def answer(request: Request) -> JSONResponse:
        query = request.query_params
        size = page_size(query.get("page_size", "10"))
        order = SORTS.get(query.get("sort", "id"))
        if order is None:
            raise Refused("Unknown sort")
        scope = query_scope(
            request.url.path, query, principal=request.headers.get("authorization", "")
        )
        after = None
        if token := query.get("page_token"):
            try:
                after = tokens.decode(token, scope=scope)
            except InvalidPageToken as exc:
                raise Refused("Invalid page token", reason=exc.reason) from exc
        rest = keyset(order, after, placeholder=mark)
        kind, chosen = query.get("kind"), "TRUE"
        if kind is not None:
            chosen = f"kind = {mark}"
        sql = (
            f"SELECT id, kind, created, score FROM event WHERE {chosen} AND {rest.sql}"
        )
        values = [*([kind] if kind is not None else []), *rest.params, size + 1]
        with contextlib.closing(connect()) as connection:
            found = connection.execute(f"{sql} LIMIT {mark}", values).fetchall()
        names = ("id", "kind", "created", "score")
        rows = [dict(zip(names, row, strict=True)) for row in found]
        body: dict[str, Any] = {"items": rows[:size]}
        headers = {}
        if len(rows) > size:
            position = [rows[size - 1][column] for column, *_ in order]
            token = tokens.encode(position, scope=scope)
            body["next_page_token"] = token
            pairs = [pair for pair in query.multi_items() if pair[0] != "page_token"]
            address = f"/events?{urlencode([*pairs, ('page_token', token)])}"
            headers["link"] = f'<{address}>; rel="next"; title="more, if you; like"'
        return JSONResponse(body, headers=headers)

    return Starlette(routes=[Route("/events", events)])


def page_size(text: str) -> int:
    """Return a page size: one too large is cut, one that is none is refused."""
    if not (text.isascii() and text.isdecimal() and int(text[:9])):
        raise Refused("A page size is a whole number above 0")
    return min(int(text[:9]), LARGEST)
