"""What an outbox costs a producer, and how fast its deliveries go out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
from harness import Row, fixtures, interleave

from patterns.webhooks.delivery import Dispatcher
from patterns.webhooks.outbox import Outbox
from patterns.webhooks.signature import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DATA = {"id": 7, "state": "paid", "note": "x" * 950}  # a body of about 1 KiB
BODY = json.dumps(DATA).encode()
TABLE = "CREATE TABLE invoice (id INTEGER, body TEXT)"


def sign(secrets: Any, body: bytes, id: str, timestamp: int) -> dict[str, str]:
    """Sign as a producer does."""
    return dict(Webhook(*secrets).sign(body, id=id, timestamp=timestamp))


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """Take everything, as an ASGI app."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def _sqlite(path: str) -> Any:
    conn = sqlite3.connect(path, timeout=30, check_same_thread=False)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    return conn


@contextlib.contextmanager
def _engines() -> Iterator[dict[str, Callable[[], Any]]]:
    """Give what connects to each engine there is; PostgreSQL runs without fsync."""
    kit = fixtures()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = str(Path(folder, "app.db"))
        found: dict[str, Callable[[], Any]] = {"SQLite": lambda: _sqlite(path)}
        if (home := kit.postgres_home()) is not None:
            address = stack.enter_context(kit.running_postgres(home))
            found["PostgreSQL"] = lambda: psycopg.connect(address)
        yield found


def bench_outbox_publish(quick: bool) -> Iterator[Row]:
    """Compare a transaction with and without an event in it."""
    rounds, repeat = (1, 2) if quick else (40, 50)
    with _engines() as engines:
        for name, connect in engines.items():
            outbox = Outbox()
            mark = "?" if name == "SQLite" else "%s"
            insert = f"INSERT INTO invoice VALUES ({mark}, {mark})"
            with contextlib.closing(connect()) as conn:
                conn.execute(TABLE)
                outbox.create(conn)
                outbox.register(conn, "https://a.test", ["invoice.*"], SECRET)
                conn.commit()

                def bare(conn: Any = conn, insert: str = insert) -> int:
                    conn.execute(insert, (7, "x"))
                    conn.commit()
                    return 1

                def published(
                    conn: Any = conn, insert: str = insert, outbox: Outbox = outbox
                ) -> int:
                    conn.execute(insert, (7, "x"))
                    outbox.publish(conn, "invoice.paid", DATA)
                    conn.commit()
                    return 1

                cases = {f"insert, {name}": bare, f"with publish, {name}": published}
                times = interleave(
                    cases, rounds, repeat=repeat, result=1, clock=time.perf_counter
                )
            yield times.row(f"with publish, {name}", f"insert, {name}")


def bench_outbox_deliver(quick: bool) -> Iterator[Row]:
    """Compare deliveries with bare POSTs of the same body, at the same concurrency."""
    rounds, count, slots = (1, 4, 2) if quick else (15, 400, 16)
    limits = httpx.Limits(max_connections=slots, max_keepalive_connections=slots)
    with (
        _engines() as engines,
        fixtures().serving(accept) as url,
        asyncio.Runner() as runner,
    ):
        client = httpx.AsyncClient(limits=limits, trust_env=False)

        async def posts() -> int:
            work = iter(range(count))

            async def one() -> int:
                sent = 0
                for _ in work:
                    stamp = int(time.time())
                    headers = sign([SECRET], BODY, "msg_1", stamp)
                    response = await client.post(url, content=BODY, headers=headers)
                    sent += response.is_success
                return sent

            return sum(await asyncio.gather(*(one() for _ in range(slots))))

        cases: dict[str, Callable[[], int]] = {}
        for name, connect in engines.items():
            with contextlib.closing(connect()) as conn:
                Outbox().create(conn)
                Outbox().register(conn, url, ["*"], SECRET)
                conn.commit()

            def deliver(connect: Callable[[], Any] = connect) -> int:
                with contextlib.closing(connect()) as conn:
                    for _ in range(count):
                        Outbox().publish(conn, "a", BODY)
                    conn.commit()
                started = time.perf_counter()
                runner.run(_deliver(connect, client, slots, count))
                spent.append(time.perf_counter() - started)
                return count

            cases[f"Dispatcher, {name}"] = deliver
        # Publishing is no part of it: so a clock that counts the sending alone.
        spent: list[float] = []

        def bare() -> int:
            started = time.perf_counter()
            sent = runner.run(posts())
            spent.append(time.perf_counter() - started)
            return sent

        cases["bare POSTs"] = bare
        times = interleave(cases, rounds, result=count, clock=lambda: sum(spent))
        runner.run(client.aclose())
        for name in engines:
            target = 1.25 if name == "SQLite" else None
            case = f"Dispatcher, {name}"
            yield times.row(case, "bare POSTs", target=target, per=count)


async def _deliver(
    connect: Callable[[], Any], client: httpx.AsyncClient, slots: int, count: int
) -> None:
    """Run a dispatcher until so many deliveries are settled."""
    stop, settled = asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    class Counting(Outbox):
        def settle(self, done: Any, decide: Any) -> None:
            nonlocal settled
            super().settle(done, decide)
            settled += len(done)
            if settled == count:
                loop.call_soon_threadsafe(stop.set)

    outbox = Counting(connect)
    work = Dispatcher(outbox, client, sign, concurrency=slots, per_endpoint=slots)
    await work.run(stop)
    outbox.close()
