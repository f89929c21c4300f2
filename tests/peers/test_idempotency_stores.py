"""One contract, held by every store: memory, SQLite, PostgreSQL, and a real Valkey.

Below it stands what only a server can do: go away, come back, or hold something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from patterns.rest.idempotency import (
    Answer,
    Began,
    Finished,
    IdempotencyMiddleware,
    InProgress,
    LeaseLostError,
    MemoryStore,
    Mismatch,
    PostgresStore,
    RedisStore,
    SQLiteStore,
)

if TYPE_CHECKING:
    from conftest import Valkey

ANSWER = Answer(201, ((b"location", b"/\xff"),), bytes(range(256)) * 20)
LONG, SHORT = 3600.0, 0.05


class Desk:
    """A store twice, as two processes have it, and how to ask it."""

    def __init__(self, stores: list[Any], runner: asyncio.Runner | None = None) -> None:
        self.stores, self.runner, self.turn = stores, runner, 0
        self.key = secrets.token_hex(32)

    def ask(self, verb: str, *values: Any, key: str = "") -> Any:
        """Call a method of the one or the other in turns."""
        self.turn += 1
        store = self.stores[self.turn % len(self.stores)]
        answer = getattr(store, verb)(key or self.key, *values)
        if not asyncio.iscoroutine(answer):
            return answer
        assert self.runner is not None
        return self.runner.run(answer)

    def begin(self, fingerprint: str = "f", lease: float = LONG, **more: Any) -> Any:
        return self.ask("begin", fingerprint, lease, LONG, **more)

    def at_once(self, callers: int) -> list[Any]:
        """Begin one key from many threads or tasks."""
        values = self.key, "f", LONG, LONG
        if self.runner is not None:

            async def main() -> list[Any]:
                stores = (self.stores * callers)[:callers]
                return list(await asyncio.gather(*(s.begin(*values) for s in stores)))

            return self.runner.run(main())
        outcomes: list[Any] = []
        ready = threading.Barrier(callers)

        def work(store: Any) -> None:
            ready.wait()
            outcomes.append(store.begin(*values))

        threads = [
            threading.Thread(target=work, args=(self.stores[n % len(self.stores)],))
            for n in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes


@contextlib.contextmanager
def desk_over(url: str, kind: str) -> Iterator[Desk]:
    """Connect twice as `redis-sync-2` says: package, how, and protocol."""
    package, how, protocol = kind.split("-")
    name = f"{package}.asyncio" if how == "async" else package
    cls = getattr(importlib.import_module(name), package.capitalize())
    options = {
        "protocol": int(protocol),
        "decode_responses": protocol == "2" and how == "sync",
        "socket_timeout": 5,
    }
    url, prefix = (
        url.replace("redis://", f"{package}://"),
        f"kit-{secrets.token_hex(8)}:",
    )
    clients = [cls.from_url(url, **options) for _ in range(2)]
    stores = [RedisStore(client, prefix=prefix) for client in clients]
    if how == "sync":
        yield Desk(stores)
        for client in clients:
            client.close()
        return
    with asyncio.Runner() as runner:
        yield Desk(stores, runner)
        for client in clients:
            runner.run(client.aclose())


KINDS = [
    *("redis-sync-2", "redis-sync-3", "redis-async-2", "redis-async-3"),
    *("valkey-sync-3", "valkey-async-3"),
]


@pytest.fixture(params=["memory", "sqlite", "postgres", *KINDS])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """Return each store in turn."""
    if request.param == "memory":
        yield Desk([MemoryStore()])
    elif request.param == "sqlite":
        stores = [SQLiteStore(tmp_path / "keys.db", timeout=30) for _ in range(2)]
        yield Desk(stores)
        for store in stores:
            store.close()
    elif request.param == "postgres":
        import psycopg

        url = request.getfixturevalue("postgres_schema")
        yield Desk([PostgresStore(lambda: psycopg.connect(url)) for _ in range(2)])
    else:
        url = request.getfixturevalue("redis_url")
        with desk_over(url, request.param) as desk:
            yield desk


def eventually(ask: Callable[[], Any], wanted: type) -> Any:
    """Ask until there is what is wanted."""
    deadline = time.monotonic() + 20
    while not isinstance(outcome := ask(), wanted):
        assert time.monotonic() < deadline, outcome
    return outcome


def one_attempt_at_a_time(desk: Desk) -> None:
    """The first begins; others are told how long it has the key at most."""
    assert isinstance(desk.begin(), Began)
    for _ in range(2):
        outcome = desk.begin()
        assert isinstance(outcome, InProgress)
        assert LONG - 60 < outcome.retry_after <= LONG


def answers_come_back(desk: Desk) -> None:
    """What was recorded is told, byte for byte, and so is that there is no body."""
    for key, answer in (("a" * 64, ANSWER), ("b" * 64, Answer(200, (), None))):
        fence = desk.begin(key=key).fence
        assert desk.ask("complete", fence, answer, LONG, key=key) == answer
        assert [desk.begin(key=key) for _ in range(2)] == [Finished(answer)] * 2


def another_request_is_told(desk: Desk) -> None:
    """A key with another fingerprint is refused, running or finished."""
    fence = desk.begin().fence
    assert desk.begin("g") == Mismatch()
    desk.ask("complete", fence, ANSWER, LONG)
    assert desk.begin("g") == Mismatch()


def a_release_makes_way(desk: Desk) -> None:
    """After a release the next attempt begins, with any fingerprint and a new fence."""
    first = desk.begin().fence
    desk.ask("release", first)
    second = desk.begin("g").fence
    assert first != second
    desk.ask("release", first)
    assert isinstance(desk.begin("g"), InProgress)
    assert desk.ask("complete", first, ANSWER, LONG) is None
    assert desk.ask("renew", first, LONG, LONG) is False


def a_lease_ends(desk: Desk) -> None:
    """A dead attempt makes way, and keeps the key from other requests even so."""
    first = desk.begin(lease=SHORT).fence
    second = eventually(lambda: desk.begin(), Began).fence
    assert desk.begin("g") == Mismatch()
    assert desk.ask("complete", first, ANSWER, LONG) is None
    assert desk.ask("renew", first, LONG, LONG) is False
    desk.ask("release", first)
    assert isinstance(desk.begin(), InProgress)
    other = Answer(404, (), b"")
    assert desk.ask("complete", second, other, LONG) == other
    assert desk.ask("complete", first, ANSWER, LONG) == other
    assert desk.begin() == Finished(other)


def a_late_finisher_without_a_rival_counts(desk: Desk) -> None:
    """A lease that is over, and that nobody took, may still be completed."""
    fence = desk.begin(lease=SHORT).fence
    time.sleep(SHORT)
    assert desk.ask("complete", fence, ANSWER, LONG) == ANSWER


def a_lease_is_renewed(desk: Desk) -> None:
    """From each renewal the lease counts anew."""
    fence = desk.begin(lease=0.5).fence
    assert desk.ask("renew", fence, LONG, LONG) is True
    assert desk.begin().retry_after > LONG / 2
    desk.ask("complete", fence, ANSWER, LONG)
    assert desk.ask("renew", fence, LONG, LONG) is False
    desk.ask("release", fence)
    assert desk.begin() == Finished(ANSWER)


def answers_expire(desk: Desk) -> None:
    """After its lifetime a key is as good as new."""
    fence = desk.begin().fence
    desk.ask("complete", fence, ANSWER, SHORT)
    outcome = eventually(lambda: desk.begin("g"), Began)
    assert outcome.fence != fence


def one_of_twenty_begins(desk: Desk) -> None:
    """Of twenty at once, one begins."""
    outcomes = desk.at_once(20)
    assert sorted(type(o).__name__ for o in outcomes) == ["Began", *["InProgress"] * 19]


def all_stores_are_alike(desk: Desk) -> None:
    """A random walk is answered as memory answers it."""
    model, chance = MemoryStore(clock=lambda: 0.0), random.Random(7)
    keys = [secrets.token_hex(32) for _ in range(3)]
    fences: list[tuple[str, str, str]] = []
    for _ in range(150):
        verb = chance.choice(["begin", "begin", "renew", "complete", "release"])
        if verb == "begin" or not fences:
            key, fingerprint = chance.choice(keys), chance.choice("fff" + "g")
            mine = model.begin(key, fingerprint, LONG, LONG)
            told = desk.begin(fingerprint, key=key)
            assert type(mine) is type(told)
            if isinstance(mine, Began):
                fences.append((key, mine.fence, told.fence))
            elif isinstance(mine, Finished):
                assert mine == told
            continue
        key, here, there = chance.choice(fences[-4:])
        answer = Answer(chance.randrange(200, 600), (), b"x")
        values: tuple[Any, ...] = {
            "renew": (LONG, LONG),
            "complete": (answer, LONG),
            "release": (),
        }[verb]
        wanted = getattr(model, verb)(key, here, *values)
        assert desk.ask(verb, there, *values, key=key) == wanted


CONTRACT = [
    one_attempt_at_a_time,
    answers_come_back,
    another_request_is_told,
    a_release_makes_way,
    a_lease_ends,
    a_late_finisher_without_a_rival_counts,
    a_lease_is_renewed,
    answers_expire,
    one_of_twenty_begins,
    all_stores_are_alike,
]


@pytest.mark.parametrize("behaviour", CONTRACT, ids=lambda one: one.__name__)
def test_contract(desk: Desk, behaviour: Callable[[Desk], None]) -> None:
    """Every store does what the contract says."""
    behaviour(desk)


def test_names_and_expiry_at_a_server(redis_url: str) -> None:
    """A server holds a key under its prefix, and no longer than lease and lifetime."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client, prefix=f"kit-{secrets.token_hex(8)}:")
        fence = store.begin("k", "f", 10, 100).fence
        name = f"{store._prefix}k"
        assert 100_000 < client.pttl(name) <= 110_000
        store.complete("k", fence, ANSWER, 50)
        assert 40_000 < client.pttl(name) <= 50_000


def test_a_call_that_a_client_sends_again(redis_url: str) -> None:
    """A client whose reply got lost may send a call again, and gets the same reply."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client, prefix=f"kit-{secrets.token_hex(8)}:")
        name = [f"{store._prefix}k"]
        begin = ["begin", "fence", 60_000, 60_000, "f"]
        assert [store._script(name, begin)[0] for _ in range(2)] == [b"begun"] * 2
        assert isinstance(store.begin("k", "f", LONG, LONG), InProgress)
        for _ in range(2):
            assert store.complete("k", "fence", ANSWER, LONG) == ANSWER


def test_a_key_of_another_type(redis_url: str) -> None:
    """What another program has put there is an error of the store: nothing runs."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client, prefix=f"kit-{secrets.token_hex(8)}:")
        client.rpush(f"{store._prefix}k", 1)
        with pytest.raises(redis.ResponseError):
            store.begin("k", "f", 10, 100)
        client.delete(f"{store._prefix}k")


# --- with the middleware


async def post(app: Any) -> tuple[int, bool]:
    """Order something, and tell the status and whether it was a replay."""
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        key = {"idempotency-key": '"k"'}
        answer = await client.post("http://shop.test/", headers=key)
        return answer.status_code, "idempotent-replayed" in answer.headers


@pytest.mark.parametrize("how", ["sync", "async"])
def test_the_server_is_killed_and_comes_back(own_valkey: Valkey, how: str) -> None:
    """Without its store a server does nothing, and then goes on."""
    import redis
    import redis.asyncio

    done = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        done.append(1)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"made"})

    async def main() -> list[Any]:
        cls = redis.asyncio.Redis if how == "async" else redis.Redis
        client: Any = cls.from_url(own_valkey.url, socket_timeout=0.5)
        guarded = IdempotencyMiddleware(
            app, RedisStore(client), principal=lambda scope: "ann"
        )
        seen = [await post(guarded), await post(guarded)]
        own_valkey.kill()
        seen.append(await post(guarded))
        own_valkey.start()
        seen.append(await post(guarded))
        closed = client.aclose() if how == "async" else client.close()
        if closed is not None:
            await closed
        return seen

    seen = asyncio.run(main())
    # The server was killed with all that it held, and so the last one is a new one.
    assert seen == [(201, False), (201, True), (503, False), (201, False)]
    assert len(done) == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_effect_and_record(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Effect and record are committed or rolled back together."""
    import psycopg

    store: SQLiteStore | PostgresStore
    if kind == "sqlite":
        path = tmp_path / "shop.db"
        connect: Any = lambda: sqlite3.connect(path)  # noqa: E731
        store = SQLiteStore(path)
    else:
        url = request.getfixturevalue("postgres_schema")
        connect = lambda: psycopg.connect(url)  # noqa: E731
        store = PostgresStore(connect)
    with contextlib.closing(connect()) as conn:
        conn.execute("CREATE TABLE effect (n INTEGER)")
        conn.commit()
    fail = [True]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.closing(connect()) as conn, conn:
            conn.execute("INSERT INTO effect VALUES (1)")
            scope["state"]["idempotency"].complete_in(conn, 201, [], b"made")
            if fail:
                raise ZeroDivisionError(fail.pop())
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"made"})

    async def main() -> list[Any]:
        guarded = IdempotencyMiddleware(app, store, principal=lambda scope: "ann")
        with pytest.raises(ZeroDivisionError):
            await post(guarded)
        return [await post(guarded) for _ in range(2)]

    assert asyncio.run(main()) == [(201, False), (201, True)]
    with contextlib.closing(connect()) as conn:
        assert conn.execute("SELECT count(*) FROM effect").fetchone()[0] == 1
        key = secrets.token_hex(32)
        first = store.begin(key, "f", SHORT, LONG)
        assert isinstance(first, Began)
        eventually(lambda: store.begin(key, "f", LONG, LONG), Began)
        conn.execute("INSERT INTO effect VALUES (1)")
        with pytest.raises(LeaseLostError):
            store.complete_in(conn, key, first.fence, ANSWER, LONG)
        conn.rollback()
    if isinstance(store, SQLiteStore):
        store.close()


def test_postgres_by_a_connection_that_commits_each_statement(
    postgres_schema: str,
) -> None:
    """Where each statement is a transaction, there is none to be one with."""
    import psycopg

    store = PostgresStore(lambda: psycopg.connect(postgres_schema))
    fence = store.begin("a" * 64, "f", LONG, LONG).fence  # type: ignore[union-attr]
    with psycopg.connect(postgres_schema, autocommit=True) as conn:
        with pytest.raises(RuntimeError, match="begin the transaction"):
            store.complete_in(conn, "a" * 64, fence, ANSWER, LONG)
        with conn.transaction():
            store.complete_in(conn, "a" * 64, fence, ANSWER, LONG)
    assert store.begin("a" * 64, "f", LONG, LONG) == Finished(ANSWER)
