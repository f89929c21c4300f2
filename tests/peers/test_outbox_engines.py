"""The outbox on real engines: one contract, and what only several machines show.

The same steps run on SQLite and PostgreSQL; the last test hands claimed deliveries over
to procrastinate, for those who have workers already.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import pytest

from patterns.webhooks import outbox as module
from patterns.webhooks.outbox import Claim, NotInTransactionError, Outbox

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"t" * 24).decode()
URL = "https://hooks.test/in"
WELL = (0, None, None)
Connect = Callable[[], Any]


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Return what opens a connection to each engine in turn, with the tables made."""
    if request.param == "sqlite":
        path = tmp_path / "app.db"
        sqlite3.connect(path).execute("PRAGMA journal_mode = WAL")

        def opened() -> Any:
            return sqlite3.connect(path, timeout=30, check_same_thread=False)

    else:
        address = request.getfixturevalue("postgres_schema")

        def opened() -> Any:
            return psycopg.connect(address)

    with contextlib.closing(opened()) as conn:
        Outbox().create(conn)
        Outbox().create(conn)  # and it does no harm a second time
        conn.commit()
    return opened


@pytest.fixture
def conn(connect: Connect) -> Iterator[Any]:
    """Return a producer's connection."""
    with contextlib.closing(connect()) as conn:
        yield conn


@pytest.fixture
def outbox(connect: Connect) -> Iterator[Outbox]:
    """Return an outbox that goes by the engine's own clock."""
    outbox = Outbox(connect)
    yield outbox
    outbox.close()


def settle(outbox: Outbox, claims: list[Claim], *step: Any) -> None:
    """Settle claims, by default as delivered."""
    following = step or ("succeeded", None, "", WELL, None)
    done = [(claim, (None, "timeout", "", None)) for claim in claims]
    outbox.settle(done, lambda *_: following)


def one(conn: Any, sql: str) -> Any:
    """Return the one value that a query gives, and end the transaction."""
    value = conn.execute(sql).fetchone()[0]
    conn.commit()
    return value


def test_the_life_of_a_delivery(conn: Any, outbox: Outbox) -> None:
    """Published, claimed, failed, claimed again, dead, replayed, copied, recovered."""
    conn.execute("CREATE TABLE invoice (id INTEGER)")
    endpoint = outbox.register(conn, URL, ["invoice.*", "in_oice.paid"], SECRET)
    outbox.register(conn, URL, ["order.*"], SECRET)
    conn.commit()
    conn.execute("INSERT INTO invoice VALUES (1)")
    outbox.publish(conn, "invoice.paid", {"id": 1})
    conn.rollback()
    assert one(conn, "SELECT count(*) FROM invoice") == 0
    assert outbox.claim(10, 60) == []

    conn.execute("INSERT INTO invoice VALUES (7)")
    id = outbox.publish(conn, "invoice.paid", {"name": "Zoë\u0000"})
    assert outbox.publish(conn, "invoice.paid", {}, id=id) == id
    assert outbox.publish(conn, "invoice_paid", b"\x00\xff", id="other") == "other"
    conn.commit()
    (claim,) = outbox.claim(10, 60, per_endpoint=5)
    assert (claim.message, claim.endpoint, claim.attempt) == (id, endpoint, 1)
    assert json.loads(claim.payload)["data"] == {"name": "Zoë\u0000"}
    assert outbox.claim(10, 60) == []

    past = time.time() - 3600
    settle(outbox, [claim], "retrying", past, "status 503", (1, past, None), None)
    (claim,) = outbox.claim(10, 60)
    assert claim.attempt == 2
    settle(outbox, [claim], "dead", None, "status 503", WELL, "failing")
    assert [letter.message for letter in outbox.dead(conn)] == [id]
    conn.rollback()
    with pytest.raises(LookupError):
        outbox.replay(conn, id)
    outbox.enable(conn, endpoint)
    new = outbox.replay(conn, id, new_id=True)
    assert outbox.recover(conn, endpoint, past) == 1
    conn.commit()
    claims = outbox.claim(10, 60, per_endpoint=5)
    assert {claim.message for claim in claims} == {id, new}
    settle(outbox, claims)
    assert outbox.recover(conn, endpoint, past) == 0
    conn.commit()


def test_rotation(conn: Any, outbox: Outbox) -> None:
    """The old secret goes when its overlap is over by the engine's clock."""
    endpoint = outbox.register(conn, URL, ["*"], SECRET)
    outbox.rotate_secret(conn, endpoint, OTHER, overlap=3600)
    outbox.publish(conn, "a", 1)
    conn.commit()
    (claim,) = outbox.claim(1, 60)
    assert claim.secrets == (OTHER, SECRET)
    settle(outbox, [claim])
    outbox.rotate_secret(conn, endpoint, SECRET, overlap=0)
    outbox.publish(conn, "a", 1)
    conn.commit()
    assert outbox.claim(1, 60)[0].secrets == (SECRET,)


def test_leases_go_by_one_clock(
    conn: Any, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose own clock is a day ahead takes no lease away from another."""
    outbox.register(conn, URL, ["*"], SECRET)
    outbox.publish(conn, "a", 1)
    conn.commit()
    assert len(outbox.claim(1, 60)) == 1
    day = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: day)
    assert outbox.claim(1, 60) == []


def test_a_lease_runs_out(conn: Any, outbox: Outbox) -> None:
    """A claim whose lease is over is another's, and the late worker is fenced."""
    outbox.register(conn, URL, ["*"], SECRET)
    id = outbox.publish(conn, "a", 1)
    conn.commit()
    late = outbox.claim(1, -1)  # over as soon as it begins
    (claim,) = outbox.claim(1, 60)
    assert (claim.message, claim.attempt) == (id, 1)
    settle(outbox, late, "dead", None, "", WELL, "gone")
    assert one(conn, "SELECT state FROM webhook_delivery") == "sending"
    settle(outbox, [claim])
    assert one(conn, "SELECT state FROM webhook_delivery") == "succeeded"


def test_a_slow_endpoint_holds_its_own_slots(conn: Any, outbox: Outbox) -> None:
    """All workers together lease no more of an endpoint than it has slots."""
    slow = outbox.register(conn, URL, ["slow"], SECRET)
    fast = outbox.register(conn, URL, ["fast"], SECRET)
    for n in range(30):
        outbox.publish(conn, "slow", n)
    outbox.publish(conn, "fast", 1)
    conn.commit()
    claims = outbox.claim(10, 60, per_endpoint=3)
    assert sorted(claim.endpoint for claim in claims) == sorted([slow] * 3 + [fast])
    assert outbox.claim(10, 60, per_endpoint=3) == []


def test_many_workers(connect: Connect, conn: Any) -> None:
    """Workers at once lease each delivery once, never more than the slots at a time."""
    outbox, slots = Outbox(connect), 3
    for _ in range(5):
        outbox.register(conn, URL, ["*"], SECRET)
    for n in range(40):
        outbox.publish(conn, "a", n)
    conn.commit()
    seen: list[int] = []
    held: dict[str, int] = {}
    most, lock = 0, threading.Lock()

    def work() -> None:
        nonlocal most
        worker = Outbox(connect)
        for _ in range(2000):
            claims = worker.claim(8, 60, per_endpoint=slots)
            with lock:
                for claim in claims:
                    held[claim.endpoint] = held.get(claim.endpoint, 0) + 1
                    most = max(most, held[claim.endpoint])
                seen.extend(claim.delivery for claim in claims)
                if len(seen) == 200:
                    break
                for claim in claims:
                    held[claim.endpoint] -= 1
            settle(worker, claims)
        worker.close()

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(work) for _ in range(4)]:
            job.result()
    assert len(seen) == len(set(seen)) == 200
    assert most <= slots


def test_publishing_an_id_at_once(connect: Connect, conn: Any) -> None:
    """Two that publish one id at the same time make one event of it."""
    outbox = Outbox()
    outbox.register(conn, URL, ["*"], SECRET)
    conn.commit()

    def work() -> None:
        with contextlib.closing(connect()) as mine:
            outbox.publish(mine, "a", 1, id="evt_1")
            mine.commit()

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(work) for _ in range(8)]:
            job.result()
    assert one(conn, "SELECT count(*) FROM webhook_delivery") == 1


def test_a_producer_waits_for_no_worker(conn: Any, connect: Connect) -> None:
    """A worker passes over an endpoint that a transaction holds, on PostgreSQL."""
    if isinstance(conn, sqlite3.Connection):
        pytest.skip("SQLite has one writer at a time")
    outbox = Outbox(connect)
    endpoint = outbox.register(conn, URL, ["a"], SECRET)
    other = outbox.register(conn, URL, ["a"], SECRET)
    outbox.publish(conn, "a", 1)
    conn.commit()
    outbox.rotate_secret(conn, endpoint, OTHER)  # not committed yet
    assert [claim.endpoint for claim in outbox.claim(9, 60)] == [other]
    conn.commit()
    assert [claim.endpoint for claim in outbox.claim(9, 60)] == [endpoint]


def test_psycopg_without_a_transaction(postgres_schema: str) -> None:
    """A connection in autocommit is refused, until it begins a transaction."""
    with psycopg.connect(postgres_schema, autocommit=True) as conn:
        Outbox().create(conn)
        with pytest.raises(NotInTransactionError):
            Outbox().publish(conn, "a", 1)
        with conn.transaction():
            assert Outbox().publish(conn, "a", 1, id="evt_1") == "evt_1"


def test_psycopg_with_rows_as_dicts(postgres_schema: str) -> None:
    """The caller's row factory is not ours."""
    rows: Any = psycopg.rows.dict_row
    with psycopg.connect(postgres_schema, row_factory=rows) as conn:
        outbox = Outbox()
        outbox.create(conn)
        endpoint = outbox.register(conn, URL, ["*"], SECRET)
        outbox.rotate_secret(conn, endpoint, OTHER)
        assert outbox.dead(conn) == []


def test_async_connections_are_refused(postgres_schema: str) -> None:
    """What would return coroutines is told at once."""

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres_schema) as conn:
            with pytest.raises(TypeError, match="blocking"):
                Outbox().publish(conn, "a", 1)

    import asyncio

    asyncio.run(main())


def test_no_claim_reads_the_backlog(conn: Any, outbox: Outbox) -> None:
    """The engines serve a claim from the indexes, however much there is to deliver."""
    for _ in range(3):
        outbox.register(conn, URL, ["*"], SECRET)
    ids = [row[0] for row in conn.execute("SELECT id FROM webhook_endpoint").fetchall()]
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    )
    conn.execute(
        many.format(100_000)
        + " INSERT INTO webhook_message"
        " SELECT 'msg_' || i, '', 'a', CAST('x' AS {}), 1.0 FROM n".format(
            "BLOB" if isinstance(conn, sqlite3.Connection) else "BYTEA"
        )
    )
    for n, endpoint in enumerate(ids):
        conn.execute(
            many.format(33_000) + " INSERT INTO webhook_delivery"
            " (message, endpoint, state, due)"
            f" SELECT 'msg_' || (3 * i + {n}), '{endpoint}', 'pending', i FROM n"
        )
    conn.commit()
    conn.execute("ANALYZE")
    conn.commit()
    values: dict[str, Any] = {"now": 1e9, "limit": 9, "slots": 4, "share": 2}
    picks = []
    for n, endpoint in enumerate(ids):
        values |= {f"e{n}": endpoint, f"slots{n}": 4}
        picks.append(module._PICK.format(n=n, lock=""))
    claim = module._CLAIM.format(picks=" UNION ALL ".join(picks))
    for sql in (module._FREE, claim):
        if isinstance(conn, sqlite3.Connection):
            plan = conn.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            steps = [step[3] for step in plan]
            assert not [s for s in steps if re.match("SCAN (d|webhook_delivery)", s)]
        else:
            sql = module._percent(sql)
            plan = conn.execute(f"EXPLAIN {sql}", values).fetchall()
            assert "Seq Scan on webhook_delivery" not in str(plan)
            assert "webhook_delivery_due" in str(plan)


def test_procrastinate_as_the_relay(postgres_schema: str) -> None:
    """Claimed deliveries become jobs, and each job settles its own claim.

    The table keeps what is due and when; the engine has the workers. A job that dies
    with its worker says nothing, and so its lease lets it be handed over again.
    """
    import asyncio

    outbox = Outbox(lambda: psycopg.connect(postgres_schema))
    with psycopg.connect(postgres_schema) as conn:
        outbox.create(conn)
        endpoint = outbox.register(conn, URL, ["*"], SECRET)
        for n in range(3):
            outbox.publish(conn, "a", n)
    connector = procrastinate.PsycopgConnector(conninfo=postgres_schema)
    app = procrastinate.App(connector=connector)
    claims: dict[int, Claim] = {}
    sent: list[int] = []

    @app.task(name="deliver")
    async def deliver(delivery: int) -> None:
        claim = claims[delivery]
        sent.append(json.loads(claim.payload)["data"])
        await asyncio.to_thread(settle, outbox, [claim])

    async def main() -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            for claim in outbox.claim(10, 60, per_endpoint=10):
                claims[claim.delivery] = claim
                # The lock makes the engine send to one endpoint in turn.
                job = deliver.configure(lock=claim.endpoint)
                await job.defer_async(delivery=claim.delivery)
            await app.run_worker_async(wait=False, install_signal_handlers=False)

    asyncio.run(main())
    assert sent == [0, 1, 2]
    with psycopg.connect(postgres_schema) as conn:
        states = conn.execute("SELECT DISTINCT state FROM webhook_delivery").fetchall()
        assert states == [("succeeded",)]
        assert outbox.recover(conn, endpoint, 0) == 0
    outbox.close()
