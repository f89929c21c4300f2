"""The receiver under uvicorn, with real senders' signatures and over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from patterns.webhooks import inbox
from patterns.webhooks.signature import Webhook

Serve = Callable[[Any], str]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"id": "evt_1", "object": "event", "data": {"n": 1}}'


class Shop:
    """A consumer: its file of SQLite, its inbox, and its receiver's `accept`."""

    def __init__(self, path: Path, **id_of: Any) -> None:
        self.path, self.box, self.id_of = path, inbox.Inbox(), id_of
        with self.connection() as conn:
            conn.execute("PRAGMA journal_mode = WAL")
            self.box.create(conn)
            conn.commit()

    def connection(self) -> Any:
        """Open a connection, to be closed by `with`."""
        return contextlib.closing(sqlite3.connect(self.path, timeout=30))

    def store(self, message: Any) -> None:
        """Receive a message in a transaction of its own."""
        with self.connection() as conn, conn:
            self.box.receive(conn, "shop", message, **self.id_of)

    async def accept(self, message: Any) -> None:
        """Store a message, and leave the event loop to others meanwhile."""
        await asyncio.to_thread(self.store, message)

    def bodies(self) -> list[tuple[str, bytes]]:
        """Process all that is there; return ids and bodies."""
        seen: list[tuple[str, bytes]] = []
        with self.connection() as conn:
            while self.box.process(
                conn, lambda _, message: seen.append((message.id, message.body))
            ):
                pass
        return seen


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop that takes the id of the headers."""
    return Shop(tmp_path / "shop.db")


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client that is led nowhere by the environment."""
    with httpx.Client(trust_env=False, verify=False, timeout=30) as http:
        yield http


def by_standardwebhooks() -> dict[str, str]:
    """Sign as the package of Standard Webhooks does."""
    import standardwebhooks

    now = datetime.now(UTC)
    signature = standardwebhooks.Webhook(SECRET).sign("msg_1", now, BODY.decode())
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return dict(
        zip(names, ("msg_1", str(int(now.timestamp())), signature), strict=True)
    )


def by_svix() -> dict[str, str]:
    """Sign as Svix does, with its own names of headers."""
    import svix

    now = datetime.now(UTC)
    signature = svix.Webhook(SECRET).sign("msg_1", now, BODY.decode())
    names = ("svix-id", "svix-timestamp", "svix-signature")
    return dict(
        zip(names, ("msg_1", str(int(now.timestamp())), signature), strict=True)
    )


@pytest.mark.parametrize("sign", [by_standardwebhooks, by_svix])
def test_what_a_real_sender_signs(
    serve: Serve, shop: Shop, client: httpx.Client, sign: Callable[[], Any]
) -> None:
    """A delivery and its repetitions are accepted, and it is there once, as it was."""
    url = serve(inbox.WebhookReceiver(Webhook(SECRET).verify, shop.accept))
    headers = sign()
    answers = [client.post(url, content=BODY, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert shop.bodies() == [("msg_1", BODY)]
    forged = client.post(url, content=BODY + b" ", headers=headers)
    assert forged.status_code == 400
    assert forged.headers["content-type"] == "application/problem+json"
    assert headers[[*headers][2]] not in forged.text
    assert shop.bodies() == []


def test_stripes_id_is_in_the_body(
    serve: Serve, tmp_path: Path, client: httpx.Client
) -> None:
    """A signature of Stripe's, and the event's id out of the body that it is of."""
    import stripe

    shop = Shop(tmp_path / "s.db", id_of=lambda m: json.loads(m.body)["id"])
    verify = Webhook("whsec_test", scheme="stripe").verify
    url = serve(inbox.WebhookReceiver(verify, shop.accept))
    for _ in range(2):
        header = stripe.WebhookSignature.generate_signature_header(
            BODY.decode(), "whsec_test"
        )
        headers = {"stripe-signature": header}
        assert client.post(url, content=BODY, headers=headers).status_code == 202
    assert shop.bodies() == [("evt_1", BODY)]
    header = stripe.WebhookSignature.generate_signature_header("[]", "whsec_test")
    answer = client.post(url, content=b"[]", headers={"stripe-signature": header})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "the id is missing or malformed"


def test_slack_registers_its_url(
    serve: Serve, tmp_path: Path, client: httpx.Client
) -> None:
    """Slack's challenge comes back as text if it is signed, and events are kept."""
    shop = Shop(tmp_path / "s.db", id_of=lambda m: json.loads(m.body)["event_id"])
    verify = Webhook("8f742231", scheme="slack").verify
    slack = inbox.slack_challenge
    url = serve(inbox.WebhookReceiver(verify, shop.accept, challenge=slack))

    def post(body: bytes, secret: bytes = b"8f742231") -> httpx.Response:
        now = str(int(time.time()))
        signed = b"v0:" + now.encode() + b":" + body
        digest = hmac.new(secret, signed, hashlib.sha256).hexdigest()
        headers = {
            "x-slack-request-timestamp": now,
            "x-slack-signature": f"v0={digest}",
        }
        return client.post(url, content=body, headers=headers)

    ask = b'{"token": "t", "challenge": "3eZbrw1a", "type": "url_verification"}'
    assert (post(ask).status_code, post(ask).text) == (200, "3eZbrw1a")
    assert post(ask, b"another").status_code == 400
    event = b'{"type": "event_callback", "event_id": "Ev1"}'
    assert [post(event).status_code for _ in range(2)] == [202, 202]
    assert shop.bodies() == [("Ev1", event)]


def test_duplicates_at_once(serve: Serve, shop: Shop) -> None:
    """Forty deliveries of four messages at the same time are four rows, and all 202."""
    webhook = Webhook(SECRET)
    url = serve(inbox.WebhookReceiver(webhook.verify, shop.accept))

    def post(number: int) -> int:
        name = f"msg_{number % 4}"
        headers = webhook.sign(BODY, id=name, timestamp=int(time.time()))
        with httpx.Client(trust_env=False, verify=False, timeout=60) as http:
            return http.post(url, content=BODY, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(40))) == {202}
    assert sorted(name for name, _ in shop.bodies()) == [f"msg_{n}" for n in range(4)]


def test_a_store_that_is_locked(serve: Serve, shop: Shop, client: httpx.Client) -> None:
    """A store that does not answer in time is a 503, and the repetition is taken."""
    webhook = Webhook(SECRET)
    url = serve(inbox.WebhookReceiver(webhook.verify, shop.accept, timeout=0.2))
    headers = webhook.sign(BODY, id="msg_1", timestamp=int(time.time()))
    with shop.connection() as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post(url, content=BODY, headers=headers)
        other.rollback()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    deadline = time.monotonic() + 20
    while client.post(url, content=BODY, headers=headers).status_code != 202:
        assert time.monotonic() < deadline
    assert shop.bodies() == [("msg_1", BODY)]


def talk(url: str, *parts: bytes) -> bytes:
    """Send bytes over a socket; return what is said until the other side closes."""
    target = httpx.URL(url)
    with socket.create_connection((target.host, target.port), timeout=10) as conn:
        said = b""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                conn.sendall(part)
            while part := conn.recv(65536):
                said += part
        return said


HEAD = b"POST / HTTP/1.1\r\nhost: a.test\r\n"


def test_a_body_too_large_is_not_read_on(serve: Serve, shop: Shop) -> None:
    """A length over the limit, or chunks over it, are refused, and the line closed."""
    verify = Webhook(SECRET).verify
    url = serve(inbox.WebhookReceiver(verify, shop.accept, max_body=1000))
    said = talk(url, HEAD + b"content-length: 1000000000\r\n\r\n", b"x" * 100)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said.lower()
    chunk = b"%x\r\n%s\r\n" % (600, b"x" * 600)
    said = talk(url, HEAD + b"transfer-encoding: chunked\r\n\r\n", chunk, chunk)
    assert said.startswith(b"HTTP/1.1 413 ")


def test_a_body_too_slow_is_not_waited_for(serve: Serve, shop: Shop) -> None:
    """A sender that says it has more, and sends none, is answered and left."""
    verify = Webhook(SECRET).verify
    url = serve(inbox.WebhookReceiver(verify, shop.accept, timeout=0.1))
    said = talk(url, HEAD + b"content-length: 10\r\n\r\nhalf")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said.lower()


def test_a_sender_that_leaves(serve: Serve, shop: Shop, client: httpx.Client) -> None:
    """Half a body and then nobody: nothing is stored, and the server serves on."""
    webhook = Webhook(SECRET)
    url = serve(inbox.WebhookReceiver(webhook.verify, shop.accept))
    target = httpx.URL(url)
    with socket.create_connection((target.host, target.port), timeout=10) as conn:
        conn.sendall(HEAD + b"content-length: 10\r\n\r\nhalf")
    headers = webhook.sign(BODY, id="msg_1", timestamp=int(time.time()))
    assert client.post(url, content=BODY, headers=headers).status_code == 202
    assert shop.bodies() == [("msg_1", BODY)]


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"webhook-signature: v1,\xff\xfe\r\nwebhook-id: \xff\r\n",
        b"webhook-id: a\r\nwebhook-id: b\r\nwebhook-timestamp: 9999999999999999\r\n",
        b"webhook-signature: " + b"v1,x " * 900 + b"\r\n",
        b"content-type: application/json; charset=\xff\r\ncontent-encoding: gzip\r\n",
    ],
)
def test_hostile_headers(serve: Serve, shop: Shop, lines: bytes) -> None:
    """Whatever stands in a request, it is a 4xx."""
    url = serve(inbox.WebhookReceiver(Webhook(SECRET).verify, shop.accept))
    closing = b"connection: close\r\ncontent-length: 2\r\n\r\n\xff{"
    said = talk(url, HEAD + lines + closing)
    assert said.startswith(b"HTTP/1.1 4")
    assert shop.bodies() == []


def test_handshakes(serve: Serve, shop: Shop, client: httpx.Client) -> None:
    """CloudEvents' OPTIONS, WebSub's GET and HEAD get what is theirs."""
    url = serve(
        inbox.WebhookReceiver(
            Webhook(SECRET).verify,
            shop.accept,
            origins=["events.example"],
            rate=60,
            is_wanted=lambda hub: hub["hub.topic"] == "https://a.test/feed",
        )
    )
    headers = {
        "WebHook-Request-Origin": "events.example",
        "WebHook-Request-Rate": "120",
    }
    answer = client.options(url, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "events.example"
    assert answer.headers["WebHook-Allowed-Rate"] == "60"
    assert "WebHook-Allowed-Origin" not in client.options(url).headers
    ask = {
        "hub.mode": "subscribe",
        "hub.challenge": "a b+<c>",
        "hub.lease_seconds": "9",
    }
    topic = {"hub.topic": "https://a.test/feed"}
    answer = client.get(url, params=ask | topic)
    assert (answer.status_code, answer.text) == (200, "a b+<c>")
    topic = {"hub.topic": "https://a.test/other"}
    assert client.get(url, params=ask | topic).status_code == 404
    assert client.head(url).status_code == 405
    assert client.put(url).headers["allow"] == "POST, OPTIONS, GET"
