"""The dispatcher over real sockets, with the outbox behind it, over both httpx's."""

from __future__ import annotations

import asyncio
import importlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from over import over

from patterns.webhooks import delivery
from patterns.webhooks.outbox import Outbox
from patterns.webhooks.signature import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVy"
Serve = Callable[[Any], str]
both = pytest.mark.parametrize("package", ["httpx", "httpx2"])


class Endpoints:
    """An ASGI app whose paths are endpoints of all kinds."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, dict[str, str]]] = []

    def paths(self) -> list[str]:
        """Return where something arrived, in order."""
        return [path for path, *_ in self.seen]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        path = scope["path"]
        self.seen.append((path, body, headers))
        if path == "/hang":
            await receive()  # until the client goes
            return
        status, *extra = {
            "/redirect": (307, (b"location", b"/ok")),
            "/gone": (410,),
            "/later": (503, (b"retry-after", b"3600")),
            "/cookie": (200, (b"set-cookie", b"a=b")),
        }.get(path, (200,))
        start = {"type": "http.response.start", "status": status, "headers": extra}
        await send(start)
        chunk = {"type": "http.response.body", "body": b"x" * 65_536}
        while path == "/endless":
            try:
                await asyncio.wait_for(receive(), 0.001)
                return
            except TimeoutError:
                await send(chunk | {"more_body": True})
        await send({"type": "http.response.body", "body": b"said"})


class Producer:
    """An outbox in a SQLite file, and the endpoints' origin."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path, self.url = folder / "app.db", url
        self.outbox, self.conn = Outbox(self.path), sqlite3.connect(self.path)
        self.outbox.create(self.conn)

    def register(self, path: str, *types: str) -> str:
        """Return the id of a new endpoint."""
        with self.conn:
            url = f"{self.url}{path}"
            return self.outbox.register(self.conn, url, types or ["order.*"], SECRET)

    def publish(self, data: Any, **options: Any) -> str:
        """Publish an event."""
        with self.conn:
            return self.outbox.publish(self.conn, "order.made", data, **options)

    def deliver(self, package: str, rounds: int = 1, **options: Any) -> None:
        """Deliver what is due, some times."""
        module, http = over(delivery, package), importlib.import_module(package)

        async def main() -> None:
            async with http.AsyncClient(trust_env=False, verify=False) as client:
                work = module.Dispatcher(self.outbox, client, sign, **options)
                for _ in range(rounds):
                    await work.run_once()

        asyncio.run(main())

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        """Return columns of the deliveries, in order."""
        sql = f"SELECT {columns} FROM webhook_delivery ORDER BY id"
        return self.conn.execute(sql).fetchall()


def sign(secrets: Any, body: bytes, id: str, timestamp: int) -> dict[str, str]:
    """Sign as the pattern beside does."""
    return dict(Webhook(*secrets).sign(body, id=id, timestamp=timestamp))


@pytest.fixture
def endpoints() -> Endpoints:
    """Return the endpoints."""
    return Endpoints()


@pytest.fixture
def producer(tmp_path: Path, serve: Serve, endpoints: Endpoints) -> Producer:
    """Return a producer whose endpoints are served."""
    return Producer(tmp_path, serve(endpoints))


@both
def test_a_peer_verifies_what_arrives(
    package: str, producer: Producer, endpoints: Endpoints
) -> None:
    """The reference library takes the webhook, by the old secret and by the new one."""
    endpoint = producer.register("/ok")
    with producer.conn:
        producer.outbox.rotate_secret(producer.conn, endpoint, OTHER)
    id = producer.publish({"name": "Zoë 😀"})
    producer.deliver(package)
    ((_, body, headers),) = endpoints.seen
    for secret in (SECRET, OTHER):
        event = standardwebhooks.Webhook(secret).verify(body, headers)
        assert event["type"] == "order.made"
        assert event["data"] == {"name": "Zoë 😀"}
    assert headers["webhook-id"] == id
    assert producer.rows("state, status, answer") == [("succeeded", 200, "said")]


@both
def test_a_hanging_endpoint_delays_no_other(
    package: str, producer: Producer, endpoints: Endpoints
) -> None:
    """While one endpoint hangs, all events reach the other one."""
    producer.register("/hang")
    producer.register("/ok")
    for n in range(20):
        producer.publish(n)
    module, http = over(delivery, package), importlib.import_module(package)
    times: list[float] = []

    async def main() -> None:
        stop, started = asyncio.Event(), time.monotonic()
        async with http.AsyncClient(trust_env=False, verify=False) as client:
            options: Any = {"timeout": 2.0, "per_endpoint": 2, "poll": 0.02}
            work = module.Dispatcher(producer.outbox, client, sign, **options)
            running = asyncio.create_task(work.run(stop))
            while endpoints.paths().count("/ok") < 20:
                await asyncio.sleep(0.01)
                assert time.monotonic() - started < 20
            times.append(time.monotonic() - started)
            hanging = endpoints.paths().count("/hang")
            stop.set()
            await running
            assert hanging == 2 or times[0] > 2

    asyncio.run(main())
    assert ("retrying", None, "timeout") in producer.rows("state, status, reason")


@both
def test_answers_of_all_kinds(
    package: str, producer: Producer, endpoints: Endpoints
) -> None:
    """No redirect is followed, an endless answer ends, and each has its consequence."""
    for path in ("/redirect", "/gone", "/later", "/endless", "/cookie"):
        producer.register(path)
    producer.register("/operator", "endpoint.disabled")
    id = producer.publish(1)
    producer.deliver(package, rounds=2, timeout=10)
    assert sorted(endpoints.paths()) == sorted(
        ["/redirect", "/gone", "/later", "/endless", "/cookie", "/operator"]
    )
    states = producer.rows("message, state, status")
    assert states[:5] == [
        (id, "retrying", 307),
        (id, "dead", 410),
        (id, "retrying", 503),
        (id, "succeeded", 200),
        (id, "succeeded", 200),
    ]
    ((due, answer),) = producer.rows("due, answer")[2:3]
    assert due - time.time() > 3500
    assert answer == "said"
    assert len(producer.rows("answer")[3][0]) == 2000
    (told,) = [body for path, body, _ in endpoints.seen if path == "/operator"]
    assert json.loads(told)["data"]["reason"] == "gone"


@both
def test_nobody_listens(package: str, producer: Producer) -> None:
    """A refused connection is a failure like any other."""
    with producer.conn:
        nowhere = "http://127.0.0.1:9/"
        producer.outbox.register(producer.conn, nowhere, ["*"], SECRET)
    producer.publish(1)
    producer.deliver(package)
    assert producer.rows("state, reason") == [("retrying", "ConnectError")]
