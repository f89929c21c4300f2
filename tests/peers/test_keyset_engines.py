"""Keyset pages on real engines: SQLite and PostgreSQL have the last word on an order.

Every order of up to three columns is walked, over rows in which all values tie and
NULLs stand in every place, forwards and backwards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from patterns.pagination.page_token import PageTokens, keyset

Terms = tuple[tuple[str, ...], ...]

NULLABLE = [
    (direction, nulls) for direction in ("asc", "desc") for nulls in ("first", "last")
]
PLAIN = [("asc",), ("desc",)]
ROWS = [
    (n1, n2, v)
    for n1 in (None, 1, 2)
    for n2 in (None, 1, 2)
    for v in (1, 2)
    for _ in range(2)
]


class Engine:
    """A connection, and what differs between engines."""

    def __init__(self, connection: Any, mark: str) -> None:
        self.connection, self.mark = connection, mark

    def __call__(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """Run a statement whose placeholders are `?`."""
        cursor = self.connection.execute(sql.replace("?", self.mark), list(values))
        return list(cursor.fetchall()) if cursor.description else []

    def page(
        self, table: str, order: Terms, size: int, **where: Any
    ) -> list[tuple[Any, ...]]:
        """Return a page, its rows being the values of the order's columns."""
        rest = keyset(order, placeholder=self.mark, **where)
        names = ", ".join(term[0] for term in order)
        sql = f"SELECT {names} FROM {table} WHERE {rest.sql} LIMIT {size}"
        return list(self.connection.execute(sql, rest.params).fetchall())


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Return each engine in turn, with an empty database."""
    if request.param == "sqlite":
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            yield Engine(connection, "?")
        return
    import psycopg

    with psycopg.connect(request.getfixturevalue("postgres_schema")) as connection:
        yield Engine(connection, "%s")


@pytest.fixture
def rows(engine: Engine) -> Engine:
    """Return the engine with a table of rows that tie, in no order."""
    engine("CREATE TABLE t (n1 INTEGER, n2 INTEGER, v INTEGER, id INTEGER PRIMARY KEY)")
    ids = random.Random(3).sample(range(1000), len(ROWS))
    for row, key in zip(ROWS, ids, strict=True):
        engine("INSERT INTO t VALUES (?, ?, ?, ?)", [*row, key])
    return engine


def orders(*columns: str) -> list[Terms]:
    """Return every mix of directions and NULLS for the columns, and `id` at the end."""
    choices = [
        [(name, *how) for how in (NULLABLE if name.startswith("n") else PLAIN)]
        for name in (*columns, "id")
    ]
    return list(itertools.product(*choices))


def sorted_by(engine: Engine, order: Terms) -> list[tuple[Any, ...]]:
    """Return all rows as the engine itself sorts them."""
    terms = [
        f"{name} {how[0]}" + (f" NULLS {how[1]}" if how[1:] else "")
        for name, *how in order
    ]
    names = ", ".join(term[0] for term in order)
    return engine(f"SELECT {names} FROM t ORDER BY {', '.join(terms)}")


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    "columns",
    [(), ("v",), ("n1",), ("n1", "n2"), ("n1", "v"), ("v", "n2")],
    ids=lambda columns: "+".join((*columns, "id")),
)
def test_a_walk_has_each_row_once_in_the_engines_order(
    rows: Engine, columns: tuple[str, ...], size: int
) -> None:
    """Any mix of directions and NULLS gives each row once, as the engine sorts them."""
    for order in orders(*columns):
        wanted = sorted_by(rows, order)
        walked: list[tuple[Any, ...]] = []
        position = None
        while page := rows.page("t", order, size, after=position):
            walked += page
            position = json.loads(json.dumps(page[-1]))
        assert walked == wanted, order


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    "columns",
    [("v",), ("n1",), ("n1", "n2"), ("v", "n2")],
    ids=lambda columns: "+".join((*columns, "id")),
)
def test_a_walk_backwards_is_the_walk_forwards_reversed(
    rows: Engine, columns: tuple[str, ...], size: int
) -> None:
    """Pages before a row come in reverse, and lead back to the very first row."""
    for order in orders(*columns):
        *wanted, last = sorted_by(rows, order)
        walked: list[tuple[Any, ...]] = []
        position = last
        while page := rows.page("t", order, size, before=position):
            walked += page
            position = page[-1]
        assert walked[::-1] == wanted, order


def test_a_position_of_text_and_time_survives_a_token(engine: Engine) -> None:
    """A moment and a text with quotes go through a token and continue the order."""
    kind = "TEXT" if engine.mark == "?" else "TIMESTAMPTZ"
    engine(f"CREATE TABLE t (at {kind}, name TEXT, id INTEGER PRIMARY KEY)")
    for n in range(20):
        at = f"2026-11-23 10:00:00.00000{n // 4}+00"
        engine("INSERT INTO t VALUES (?, ?, ?)", [at, f"o'{chr(233 + n % 2)} \\?%", n])
    order = (("at", "desc"), ("name", "asc"), ("id", "desc"))
    tokens, walked, position = PageTokens(b"k" * 32), [], None
    while page := engine.page("t", order, 3, after=position):
        walked += page
        at, *others = page[-1]
        token = tokens.encode([str(at), *others], scope="t")
        position = tokens.decode(token, scope="t")
    assert walked == sorted_by(engine, order)
    assert len(walked) == 20


INDEXED: dict[str, Terms] = {
    "row value": (("a", "desc"), ("id", "desc")),
    "bounded": (("a", "desc"), ("b", "asc"), ("id", "desc")),
}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("form", ["row value", "bounded"])
def test_an_index_serves_the_condition_and_the_order(
    engine: Engine, form: str, backwards: bool
) -> None:
    """The engine enters the index at the position, and sorts nothing."""
    order = INDEXED[form]
    engine("CREATE TABLE t (a INTEGER, b INTEGER, id INTEGER, rest TEXT)")
    insert = "INSERT INTO t VALUES (?, ?, ?, ?)".replace("?", engine.mark)
    rows = [(n % 97, n % 11, n, "more than the index holds") for n in range(5000)]
    engine.connection.cursor().executemany(insert, rows)
    terms = ", ".join(f"{name} {direction}" for name, direction in order)
    engine(f"CREATE UNIQUE INDEX t_order ON t ({terms})")
    engine("ANALYZE t")
    position = {"row value": [48, 2500], "bounded": [48, 5, 2500]}[form]
    way = {"before" if backwards else "after": position}
    rest = keyset(order, placeholder=engine.mark, **way)
    sql = f"SELECT * FROM t WHERE {rest.sql} LIMIT 50"
    if engine.mark == "?":
        plan = engine.connection.execute(f"EXPLAIN QUERY PLAN {sql}", rest.params)
        sign = ">" if backwards else "<"
        bound = {"row value": f"(a,id){sign}(?,?)", "bounded": f"a{sign}?"}[form]
        steps = [step[3] for step in plan]
        assert steps == [f"SEARCH t USING INDEX t_order ({bound})"]
    else:
        plan = engine.connection.execute(f"EXPLAIN (FORMAT JSON) {sql}", rest.params)
        node = plan.fetchone()[0][0]["Plan"]
        names = [node["Node Type"]]
        while "Plans" in node:
            (node,) = node["Plans"]
            names.append(node["Node Type"])
        assert names == ["Limit", "Index Scan"]
        assert node["Index Name"] == "t_order"
        assert "a" in node["Index Cond"]
