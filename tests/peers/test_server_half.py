"""The server's half, over SQLite and PostgreSQL, walked by ours and by strangers.

All the while another thread deletes rows and puts them in.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from listing import INSERT, TABLE, event, listing

from patterns.pagination.page_token import PageTokens

STAYS = range(0, 240, 2)  # rows that no test touches
COMES_AND_GOES = range(1, 240, 2)
PAGE = "/events?page_size=9"


@dataclass
class Database:
    """A database with the table of events."""

    connect: Callable[[], Any]
    mark: str

    def fill(self) -> None:
        """Make the table and put the rows in."""
        with contextlib.closing(self.connect()) as connection:
            connection.execute(TABLE)
            for n in STAYS:
                connection.execute(INSERT.replace("?", self.mark), event(n))
            connection.commit()

    @contextlib.contextmanager
    def churn(self) -> Iterator[list[int]]:
        """Delete rows and put them in, in another thread; yields a list of what came
        and went.
        """
        stop, changed, chance = threading.Event(), list[int](), random.Random(7)

        def toggle() -> None:
            with contextlib.closing(self.connect()) as connection:
                delete = f"DELETE FROM event WHERE id = {self.mark}"
                while not stop.wait(0.0005):
                    n = chance.choice(COMES_AND_GOES)
                    if not connection.execute(delete, [n]).rowcount:
                        connection.execute(INSERT.replace("?", self.mark), event(n))
                    connection.commit()
                    changed.append(n)

        thread = threading.Thread(target=toggle)
        thread.start()
        try:
            yield changed
        finally:
            stop.set()
            thread.join()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return each kind of database in turn, filled."""
    if request.param == "sqlite":
        path = tmp_path / "events.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        made = Database(lambda: sqlite3.connect(path, timeout=30), "?")
    else:
        import psycopg

        url = request.getfixturevalue("postgres_schema")
        made = Database(lambda: psycopg.connect(url), "%s")
    made.fill()
    return made


@pytest.fixture
def clock() -> list[float]:
    """Return the seconds since the epoch, for a test to change."""
    return [1_800_000_000.0]


@pytest.fixture
def service(database: Database, serve: Callable[[Any], str], clock: list[float]) -> str:
    """Return the address of the service."""
    tokens = PageTokens(b"k" * 32, ttl=60, clock=lambda: clock[0])
    return serve(listing(database.connect, database.mark, tokens))


@pytest.fixture
def browse(service: str) -> Iterator[httpx.Client]:
    """Return a plain client of the service."""
    with httpx.Client(base_url=service, trust_env=False) as client:
        yield client


def is_whole(items: list[dict[str, Any]], changed: list[int]) -> None:
    """Check that rows that stayed came once, and no other came twice."""
    ids = [item["id"] for item in items]
    assert len(ids) == len(set(ids))
    assert set(ids) >= set(STAYS)
    assert changed, "nothing changed during the walk"


@pytest.mark.parametrize("sort", ["id", "newest", "best"])
@pytest.mark.parametrize("style", ["Cursor", "LinkHeader"])
def test_ours_has_each_row_once(
    walker: Any, service: str, database: Database, sort: str, style: str
) -> None:
    """Both halves together hand out each row once while rows come and go."""
    kit = walker.paginator
    named = {
        "Cursor": lambda: kit.Cursor("next_page_token", param="page_token"),
        "LinkHeader": kit.LinkHeader,
    }[style]()
    with database.churn() as changed:
        walked = walker.walk(f"{service}{PAGE}&sort={sort}", named, items="items")
    is_whole(walked.items, changed)


def test_ours_resumes_within_a_token(walker: Any, service: str) -> None:
    """A checkpoint holds our own server's token and goes on from it."""
    style = walker.paginator.Cursor("next_page_token", param="page_token")
    url = f"{service}{PAGE}&sort=best"
    before = walker.walk(url, style, items="items", take=31)
    after = walker.walk(url, style, items="items", resume=before.checkpoint)
    ids = [item["id"] for item in before.items + after.items]
    assert sorted(ids) == list(STAYS)


@pytest.mark.parametrize("sort", ["newest", "best"])
@pytest.mark.parametrize("style", ["token", "link"])
def test_dlt_has_each_row_once(
    service: str, database: Database, sort: str, style: str
) -> None:
    """dlt's REST client walks our pages by token and by Link header."""
    from dlt.sources.helpers.rest_client import RESTClient, paginators

    paginator: Any = {
        "token": lambda: paginators.JSONResponseCursorPaginator(
            cursor_path="next_page_token", cursor_param="page_token"
        ),
        "link": paginators.HeaderLinkPaginator,
    }[style]()
    client = RESTClient(service, paginator=paginator, data_selector="items")
    with database.churn() as changed:
        pages = client.paginate("/events", params={"page_size": 9, "sort": sort})
        items = [item for page in pages for item in page]
    is_whole(items, changed)


@pytest.fixture
def botocore_paginator(browse: httpx.Client) -> Any:
    """Return botocore's paginator over our service."""
    from botocore.paginate import Paginator

    def list_events(**params: Any) -> Any:
        return browse.get("/events", params=params).raise_for_status().json()

    config = {
        "input_token": "page_token",
        "output_token": "next_page_token",
        "result_key": "items",
        "limit_key": "page_size",
    }
    return Paginator(list_events, config, None)


def test_botocore_has_each_row_once(
    botocore_paginator: Any, database: Database
) -> None:
    """botocore's paginator walks our pages by token."""
    with database.churn() as changed:
        pages = botocore_paginator.paginate(page_size="9", sort="best")
        items = [item for page in pages for item in page["items"]]
    is_whole(items, changed)


def test_botocore_resumes_within_a_page(botocore_paginator: Any) -> None:
    """A token that botocore makes of ours and a count of rows leads on from there."""
    items: list[Any] = []
    start: dict[str, Any] = {}
    while not items or start.get("StartingToken"):
        pages = botocore_paginator.paginate(
            page_size="9", sort="best", PaginationConfig={"MaxItems": 25, **start}
        )
        found = pages.build_full_result()
        items += found["items"]
        start = {"StartingToken": found.get("NextToken")}
    assert sorted(item["id"] for item in items) == list(STAYS)


def test_octokit_has_each_row_once(
    service: str, database: Database, node: str, npm_package: Callable[..., Path]
) -> None:
    """Octokit's pagination plugin walks our pages by their Link header."""
    folder = npm_package("@octokit/core@7.0.6", "@octokit/plugin-paginate-rest@16.0.0")
    script = Path(__file__).with_name("octokit.mjs")
    with database.churn() as changed:
        done = subprocess.run(
            [node, script, folder, service, f"{PAGE}&sort=newest"],
            capture_output=True,
            text=True,
            check=True,
        )
    is_whole(json.loads(done.stdout), changed)


def test_the_page_size_may_change_between_pages(browse: httpx.Client) -> None:
    """A token is good for a page of another size (AIP-158)."""
    first = browse.get("/events?page_size=7").json()
    query = {"page_size": 50, "page_token": first["next_page_token"]}
    second = browse.get("/events", params=query).json()
    ids = [item["id"] for item in first["items"] + second["items"]]
    assert ids == list(STAYS)[:57]


def test_the_last_page_names_no_other(browse: httpx.Client) -> None:
    """A page that is the last has no token and no link, full or not."""
    sizes = []
    query: dict[str, Any] = {"page_size": 40}  # 120 rows: the last page is full
    while True:
        response = browse.get("/events", params=query)
        sizes.append(len(response.json()["items"]))
        if "next_page_token" not in response.json():
            break
        assert 'rel="next"' in response.headers["link"]
        query["page_token"] = response.json()["next_page_token"]
    assert sizes == [40, 40, 40]
    assert "link" not in response.headers


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sort=newest", "scope"),
        ("kind=push", "scope"),
        ("page_token=x", "malformed"),
        ("page_token={forged}", "signature"),
        ("later", "expired"),
        ("principal", "scope"),
    ],
)
def test_a_token_out_of_place_is_a_problem(
    browse: httpx.Client, clock: list[float], change: str, reason: str
) -> None:
    """A token used for another query, principal or time is answered with 400."""
    token = browse.get("/events?page_size=5").json()["next_page_token"]
    query = {"page_size": "5", "page_token": token}
    headers = {}
    if change == "later":
        clock[0] += 61
    elif change == "principal":
        headers["authorization"] = "Bearer another"
    else:
        other = PageTokens(b"another key").encode([5], scope="/events")
        query.update(parse_qsl(change.format(forged=other)))
    response = browse.get("/events", params=query, headers=headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["reason"] == reason


def test_ours_reports_a_refused_token(
    walker: Any, service: str, clock: list[float]
) -> None:
    """A token that expires in the middle of a walk ends it with the server's 400."""
    kit = walker.paginator

    def later(page: Any) -> None:
        if page.number == 3:
            clock[0] += 61

    style = kit.Cursor("next_page_token", param="page_token")
    with pytest.raises(kit.UnexpectedStatus) as caught:
        walker.walk(f"{service}{PAGE}", style, items="items", on_page=later)
    assert caught.value.number == 4
    assert caught.value.response.json()["reason"] == "expired"
