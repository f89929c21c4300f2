"""The paginator against datasette, a real server with keyset pages and a Link header.

datasette sorts a column that holds NULLs, and goes on behind them.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = 257
STYLES = {
    "LinkHeader": lambda kit: kit.LinkHeader(),
    "NextUrl": lambda kit: kit.NextUrl("next_url"),
    "Cursor": lambda kit: kit.Cursor("next", param="_next"),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database in which a third of the scores are NULL and most tie."""
    path = tmp_path_factory.mktemp("datasette") / "events.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, score INT, name TEXT)")
        rows = [(i, None if i % 3 == 0 else i % 7, f"n, {i};") for i in range(ROWS)]
        db.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)
    db.close()
    return path


@pytest.fixture(scope="module")
def datasette(launch: Callable[..., str], database: Path) -> str:
    """Return the address of the table, as datasette serves it."""
    command = [sys.executable, "-m", "datasette", str(database)]
    base = launch(*command, "-h", "127.0.0.1", "-p", "{port}")
    return f"{base}/events/event.json?_size=50"


def rows(database: Path, order: str) -> list[dict[str, Any]]:
    """Return the rows as the database itself has them, in datasette's order."""
    db = sqlite3.connect(database)
    db.row_factory = sqlite3.Row
    found = [dict(r) for r in db.execute(f"SELECT * FROM event ORDER BY {order}")]
    db.close()
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("query", "order"),
    [("_sort=score", "score, id"), ("_sort_desc=score", "score DESC, id")],
    ids=["ascending", "descending"],
)
def test_each_style_hands_out_the_rows_of_the_table_in_order(
    walker: Any, datasette: str, database: Path, style: str, query: str, order: str
) -> None:
    """Each style hands out each row once, in the order that the database has."""
    url = f"{datasette}&_shape=objects&{query}"
    walked = walker.walk(url, STYLES[style](walker.paginator), items="rows")
    assert walked.items == rows(database, order)


def test_a_bare_array_needs_no_path(
    walker: Any, datasette: str, database: Path
) -> None:
    """A body that is the array itself is walked by its Link header alone."""
    style = walker.paginator.LinkHeader()
    walked = walker.walk(f"{datasette}&_shape=array", style)
    assert walked.items == rows(database, "id")


@pytest.mark.parametrize("style", ["NextUrl", "Cursor"])
@pytest.mark.parametrize("taken", [0, 1, 50, 125, 257])
def test_a_walk_resumes_where_it_stood(
    walker: Any, datasette: str, database: Path, style: str, taken: int
) -> None:
    """A checkpoint inside a page, or at its edge, loses and repeats no row."""
    url, kit = f"{datasette}&_shape=objects&_sort=score", walker.paginator
    before = walker.walk(url, STYLES[style](kit), items="rows", take=taken)
    after = walker.walk(url, STYLES[style](kit), items="rows", resume=before.checkpoint)
    assert len(before.items) == taken
    assert before.items + after.items == rows(database, "score, id")


def test_prefetch_changes_nothing_but_time(
    walker: Any, datasette: str, database: Path
) -> None:
    """Two pages fetched ahead hand out the same rows in the same order."""
    style = walker.paginator.NextUrl("next_url")
    url = f"{datasette}&_shape=objects&_sort=score"
    walked = walker.walk(url, style, items="rows", prefetch=2)
    assert walked.items == rows(database, "score, id")
