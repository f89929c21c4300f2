"""The inbox on PostgreSQL: what a database must do, and many workers at once.

The list of behaviours is that of `tests/webhooks/test_inbox.py`, run over another `db`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patterns.webhooks import inbox

HERE = Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location(
    "contract_of_the_inbox", HERE.parent / "webhooks" / "test_inbox.py"
)
assert SPEC is not None
assert SPEC.loader is not None
contract: Any = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = contract
SPEC.loader.exec_module(contract)


def takes_a_database(test: Any) -> bool:
    """Tell whether a test is one of the list, which it is by its argument `db`."""
    return "db" in getattr(test, "__code__", takes_a_database.__code__).co_varnames[:4]


globals().update(
    {
        name: test
        for name, test in vars(contract).items()
        # A `row_factory` of psycopg's is not SQLite's, and has its own test below.
        if name.startswith("test_")
        and takes_a_database(test)
        and name != "test_rows_may_be_anything"
    }
)


@pytest.fixture(params=["manual", "autocommit"])
def db(request: pytest.FixtureRequest, postgres_schema: str) -> Iterator[Any]:
    """PostgreSQL, by connections that begin transactions themselves, and by others."""
    import psycopg

    def connect() -> Any:
        autocommit = request.param == "autocommit"
        conn = psycopg.connect(postgres_schema, autocommit=autocommit)
        if not autocommit:
            conn.execute("SET lock_timeout = '5s'")
            conn.commit()
        return conn

    database = contract.Database(connect)
    yield database
    for conn in database.connections:
        conn.close()


def test_the_list_is_all_there() -> None:
    """No behaviour that SQLite is held to is left out."""
    names = {name for name in globals() if name.startswith("test_")}
    wanted = {name for name in vars(contract) if name.startswith("test_")}
    assert len(wanted & names) >= 17


def test_rows_of_another_kind(db: Any) -> None:
    """A connection that returns dictionaries serves as well."""
    from psycopg.rows import dict_row

    db.receive("a")
    worker = db.open()
    worker.row_factory = dict_row
    assert db.inbox.process(worker, contract.apply) == "processed"
    assert db.effects() == ["a"]


def test_a_handler_that_outlives_its_lease_is_not_overtaken(db: Any) -> None:
    """The row is locked while its handler runs; others pass it by without waiting."""
    db.receive("a")

    def handler(conn: Any, message: Any) -> None:
        contract.apply(conn, message)
        db.now += 10 * db.inbox.lease
        assert db.inbox.process(db.open(), contract.apply) is None

    assert db.inbox.process(db.open(), handler) == "processed"
    assert db.effects() == ["a"]


def test_a_worker_passes_by_what_another_one_claims(db: Any) -> None:
    """Two workers get two messages, and neither waits for the other."""
    db.receive("a")
    db.now += 1
    db.receive("b")

    def handler(conn: Any, message: Any) -> None:
        contract.apply(conn, message)
        if message.id == "a":
            assert db.inbox.process(db.open(), contract.apply) == "processed"

    assert db.inbox.process(db.open(), handler) == "processed"
    assert db.effects() == ["a", "b"]


def test_a_handler_that_breaks_the_transaction(db: Any) -> None:
    """An error of the database that a handler swallows is a failure, not a success."""

    def handler(conn: Any, message: Any) -> None:
        contract.apply(conn, message)
        with contextlib.suppress(Exception):
            conn.execute("SELECT 1 / 0")

    db.receive("a")
    assert db.inbox.process(db.open(), handler) == "received"
    assert db.effects() == []


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a function that opens a connection to one engine, then to the other."""
    if request.param == "sqlite":

        def of_sqlite() -> Any:
            conn = sqlite3.connect(tmp_path / "inbox.db", timeout=60)
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA synchronous = NORMAL")
            return conn

        return of_sqlite
    import psycopg

    url = request.getfixturevalue("postgres_schema")
    return lambda: psycopg.connect(url)


def test_many_workers_while_duplicates_come_in(connect: Any) -> None:
    """Four workers and three receivers of the same messages: each effect happens once.

    Every third first attempt fails; the newest version is what is left.
    """
    box = inbox.Inbox(backoff=lambda attempt: 0.0)
    with contextlib.closing(connect()) as conn:
        box.create(conn)
        conn.execute("CREATE TABLE effect (id TEXT)")
        conn.execute("CREATE TABLE thing (version INTEGER)")
        conn.execute("INSERT INTO thing VALUES (-1)")
        conn.commit()
    errors: list[BaseException] = []
    receipts: Counter[str] = Counter()
    is_done = threading.Event()

    def mark(conn: Any) -> str:
        return "?" if isinstance(conn, sqlite3.Connection) else "%s"

    def handler(conn: Any, message: Any) -> None:
        conn.execute(f"INSERT INTO effect VALUES ({mark(conn)})", [message.id])
        version = int(message.id)
        if inbox.apply_if_newer(conn, "thing", version):
            conn.execute(f"UPDATE thing SET version = {mark(conn)}", [version])
        if version % 3 == 0 and message.attempt == 1:
            raise ZeroDivisionError

    def guarded(work: Any) -> None:
        try:
            with contextlib.closing(connect()) as conn:
                work(conn)
        except BaseException as exc:
            errors.append(exc)

    def receiver(conn: Any) -> None:
        for n in range(60):
            name = str(n * 17 % 60)
            receipts[box.receive(conn, "shop", contract.verified(name))] += 1
            conn.commit()

    def worker(conn: Any) -> None:
        while box.process(conn, handler) or not is_done.is_set():
            pass

    receivers = [threading.Thread(target=guarded, args=[receiver]) for _ in range(3)]
    workers = [threading.Thread(target=guarded, args=[worker]) for _ in range(4)]
    for thread in receivers + workers:
        thread.start()
    for thread in receivers:
        thread.join(60)
    is_done.set()
    for thread in workers:
        thread.join(60)
    assert errors == []
    assert receipts == {"accepted": 60, "duplicate": 120}
    with contextlib.closing(connect()) as conn:
        while box.process(conn, handler):
            pass
        effects = [name for (name,) in conn.execute("SELECT id FROM effect").fetchall()]
        version = conn.execute("SELECT version FROM thing").fetchone()
    assert sorted(map(int, effects)) == list(range(60))
    assert tuple(version) == (59,)


def test_the_claim_is_served_by_an_index(connect: Any) -> None:
    """A claim does not read the rows that are processed, however many there are."""
    with contextlib.closing(connect()) as conn:
        box = inbox.Inbox()
        box.create(conn)
        for n in range(2000):
            box.receive(conn, "shop", contract.verified(str(n)))
        conn.execute("UPDATE webhook_inbox SET state = 'processed', due = NULL")
        box.receive(conn, "shop", contract.verified("due"))
        query = (
            "SELECT source, id FROM webhook_inbox WHERE due <= 9e9 ORDER BY due LIMIT 1"
        )
        if isinstance(conn, sqlite3.Connection):
            plan = [step[3] for step in conn.execute(f"EXPLAIN QUERY PLAN {query}")]
        else:
            conn.execute("ANALYZE webhook_inbox")
            plan = [line for (line,) in conn.execute(f"EXPLAIN {query}").fetchall()]
        conn.commit()
    assert any("webhook_inbox_due" in step for step in plan), plan
