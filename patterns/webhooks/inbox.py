# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Take each webhook once, answer at once, and do its work later.

`WebhookReceiver` (ASGI) verifies a request, and answers 202 once `Inbox.receive` has
put it into a table where (source, id) is unique. A worker calls `Inbox.process`: a
handler runs in the transaction that marks the row, so its effects in that database
(SQLite, or PostgreSQL by psycopg) happen once, whatever is repeated, reordered or
killed. Elsewhere they may happen again: hand on the message's id as idempotency key.
Follows RFC 9110, CloudEvents HTTP 1.1 Web Hooks 1.0.2 §4, WebSub §5, and Slack's docs.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl

__all__ = [
    "Inbox",
    "InboxMessage",
    "MessageError",
    "WebhookReceiver",
    "apply_if_newer",
    "cloudevents_consent",
    "slack_challenge",
    "websub_challenge",
]

_log = logging.getLogger(__name__)

State: TypeAlias = Literal["received", "processing", "processed", "dead"]
Conn: TypeAlias = Any  # sqlite3.Connection, or psycopg.Connection
Verified: TypeAlias = Any  # what a verifier returns, with `id`, `timestamp` and `body`
Handler: TypeAlias = "Callable[[Conn, InboxMessage], object]"
IsWanted: TypeAlias = Callable[[dict[str, str]], bool]
_Answer: TypeAlias = tuple[int, dict[str, str], bytes]

#: From which state of a row what leads to which; a repeated delivery changes none.
#: **Received**: safe, as the producer knows. **Processing**: under a lease; if a worker
#: dies, its changes are rolled back. **Dead**: left alone until somebody requeues it.
TRANSITIONS: dict[tuple[State, str], State] = {
    ("received", "claimed"): "processing",
    ("processing", "lease over"): "processing",
    ("processing", "applied"): "processed",
    ("processing", "failed"): "received",
    ("processing", "given up"): "dead",
    ("dead", "requeued"): "received",
}

# `?` and what is in braces is written as the database has them. `due` is when a row
# may be claimed, NULL if never; `fence` is the number of claims, and never goes back.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS webhook_inbox (
    source TEXT NOT NULL, id TEXT NOT NULL, sent BIGINT, body {blob} NOT NULL,
    state TEXT NOT NULL, due DOUBLE PRECISION, received DOUBLE PRECISION NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0, error TEXT,
    PRIMARY KEY (source, id))""",
    "CREATE INDEX IF NOT EXISTS webhook_inbox_due ON webhook_inbox (due)",
    "CREATE INDEX IF NOT EXISTS webhook_inbox_state ON webhook_inbox (state, received)",
    "CREATE TABLE IF NOT EXISTS webhook_version (key TEXT PRIMARY KEY, version BIGINT)",
)
_INSERT = """INSERT INTO webhook_inbox (source, id, sent, body, state, due, received)
    VALUES (?, ?, ?, ?, 'received', ?, ?) ON CONFLICT (source, id) DO NOTHING"""
# MATERIALIZED: else PostgreSQL may run the inner query again, and lock more rows.
_CLAIM = """WITH picked AS MATERIALIZED (
    SELECT source, id FROM webhook_inbox WHERE due <= ? ORDER BY due LIMIT 1 {lock})
    UPDATE webhook_inbox SET state = ?, due = ?, attempts = attempts + 1,
    fence = fence + 1 WHERE (source, id) IN (SELECT source, id FROM picked)
    RETURNING source, id, sent, body, attempts, fence, error"""
# Waits for the lock: a claim in another worker has it for a moment, and then lets go.
_HOLD = """SELECT 1 FROM webhook_inbox
    WHERE source = ? AND id = ? AND fence = ? AND state = 'processing' {wait}"""
_SETTLE = """UPDATE webhook_inbox SET state = ?, due = ?, error = ?
    WHERE source = ? AND id = ? AND fence = ? AND state = 'processing'"""
_DEAD = """SELECT source, id, sent, body, attempts, fence, error FROM webhook_inbox
    WHERE state = 'dead' ORDER BY received LIMIT ?"""
_REQUEUE = """UPDATE webhook_inbox SET state = ?, due = ?, attempts = 0
    WHERE state = 'dead' AND source = COALESCE(?, source) AND id = COALESCE(?, id)"""
_PURGE = "DELETE FROM webhook_inbox WHERE state = 'processed' AND received < ?"
_NEWER = """INSERT INTO webhook_version (key, version) VALUES (?, ?)
    ON CONFLICT (key) DO UPDATE SET version = excluded.version
    WHERE webhook_version.version < excluded.version"""


class MessageError(ValueError):
    """A message's `id` or `timestamp`, or a caller's `key`…, is unfit: see `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the {reason} is missing or malformed")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """A row as a handler gets it; `attempt` is 1 at first, `fence` counts claims."""

    source: str
    id: str
    timestamp: int | None
    body: bytes = field(repr=False)
    attempt: int
    fence: int
    error: str | None = field(repr=False)  # of the attempt before


def _backoff(attempt: int) -> float:
    return min(3600.0, 5 * 2.0 ** min(attempt - 1, 60)) * random.uniform(0.5, 1)  # noqa: S311


def slack_challenge(body: bytes) -> str | None:
    """Return what Slack's `url_verification`, once verified, wants back; else None.

    >>> slack_challenge(b'{"type": "url_verification", "challenge": "3eZbrw1a"}')
    '3eZbrw1a'
    """
    with suppress(ValueError, RecursionError):
        match json.loads(body):
            case {"type": "url_verification", "challenge": str(text)} if text.isascii():
                return text
    return None


def cloudevents_consent(
    origin: str, origins: Collection[str], rate: int | str = "*"
) -> dict[str, str]:
    """Return the headers that let a sender deliver, or none (§4.2).

    `origin` is its `WebHook-Request-Origin`, `origins` has the names let in, or `"*"`,
    `rate` is how often a minute. Never call its `WebHook-Request-Callback`.
    """
    allowed = "*" if "*" in origins else origin
    if not origin or allowed.lower() not in {name.lower() for name in origins}:
        return {}
    return {"WebHook-Allowed-Origin": allowed, "WebHook-Allowed-Rate": str(rate)}


def websub_challenge(query: bytes, is_wanted: IsWanted) -> str | None:
    """Return what a hub's GET wants back (§5.3), if so told of `hub.topic`…; else None.

    >>> ask = b"hub.mode=subscribe&hub.topic=https://a.test/&hub.challenge=x"
    >>> websub_challenge(ask, lambda hub: hub["hub.topic"] == "https://a.test/")
    'x'
    """
    try:  # of a name the last counts: the callback's own query comes first (§5.1.1)
        hub = dict(parse_qsl(query.decode("ascii"), errors="strict", max_num_fields=64))
    except ValueError:
        return None
    is_ask = hub.get("hub.mode") in ("subscribe", "unsubscribe") and "hub.topic" in hub
    return hub.get("hub.challenge") if is_ask and is_wanted(hub) else None


def _kept(value: Any, reason: str) -> Any:
    """Return what every database keeps as it is: no NUL, no lone surrogate, 64 bits."""
    is_fit = type(value) is int and abs(value) < 2**63
    if reason not in ("timestamp", "version"):
        is_fit = isinstance(value, str) and value.isprintable() and 0 < len(value) < 256
    if not is_fit:
        raise MessageError(reason)
    return value


def _execute(conn: Conn, sql: str, *values: Any) -> Any:
    """Run a statement as the connection's database has it; rows come as tuples."""
    if isinstance(conn, sqlite3.Connection):
        sql, cursor = sql.format(lock="", wait="", blob="BLOB"), conn.cursor()
        cursor.row_factory = None
        return cursor.execute(sql, values)
    words = {"lock": "FOR UPDATE SKIP LOCKED", "wait": "FOR UPDATE", "blob": "BYTEA"}
    sql = sql.format_map(words).replace("?", "%s")
    return conn.cursor(row_factory=lambda cursor: tuple).execute(sql, values)


@contextmanager
def _transaction(conn: Conn) -> Iterator[None]:
    if not isinstance(conn, sqlite3.Connection):
        if conn.info.transaction_status:  # it would only be a savepoint in that one
            raise RuntimeError("a worker has a connection with no transaction open")
        with conn.transaction():
            yield
        return
    # IMMEDIATE: a transaction that begins by reading could be refused when it writes.
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def apply_if_newer(conn: Conn, key: str, version: int) -> bool:
    """Note a version in the caller's transaction; tell if it is the newest of its key.

    Another worker with that key waits meanwhile. What ties is not newer, and so whole
    seconds make a poor version: take a counter, or a moment's microseconds.

    >>> conn = sqlite3.connect(":memory:")
    >>> Inbox().create(conn)
    >>> [apply_if_newer(conn, "order/7", version) for version in (1, 3, 2, 3)]
    [True, True, False, False]
    """
    values = _kept(key, "key"), _kept(version, "version")
    return bool(_execute(conn, _NEWER, *values).rowcount)


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """The table of messages. It holds settings only: threads may share it.

    `process` is for a worker with its own connection; it ends each transaction. All
    else runs in the caller's. SQLite: WAL, and a `timeout` above a handler's time;
    PostgreSQL: READ COMMITTED. A handler that outlives its lease is not overtaken.

    >>> from types import SimpleNamespace
    >>> conn, inbox = sqlite3.connect(":memory:"), Inbox()
    >>> inbox.create(conn)
    >>> message = SimpleNamespace(id="msg_1", timestamp=1614265330, body=b"{}")
    >>> [inbox.receive(conn, "shop", message) for _ in range(2)], conn.commit()
    (['accepted', 'duplicate'], None)
    >>> inbox.process(conn, lambda conn, message: print(message.id, message.attempt))
    msg_1 1
    'processed'
    """

    lease: float = 60.0  # seconds until a claimed row is claimed again
    max_attempts: int = 12  # until a row is dead, crashes included; about two hours
    retention: float = 7 * 86_400.0  # seconds; all retries take 75.6 h by the Standard
    backoff: Callable[[int], float] = _backoff  # seconds to wait behind the nth
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not (0 < self.lease < float("inf") and self.max_attempts > 0):
            raise ValueError("a lease and a number of attempts are above 0, and finite")

    def create(self, conn: Conn) -> None:
        """Create the tables and indexes that are not there."""
        for sql in _SCHEMA:
            _execute(conn, sql)

    def receive(
        self, conn: Conn, source: str, message: Verified, id_of: Any = None
    ) -> Literal["accepted", "duplicate"]:
        """Keep a verified message, unless it is there. Commit, and then answer 202.

        `source` names the producer, to whom ids belong. `id_of` is for one whose ids
        are in the body: `lambda m: json.loads(m.body)["id"]`.

        Raises:
            MessageError: there is no id, or it or the timestamp is none to be kept.
            TypeError: the body is not bytes.
        """
        try:
            found = id_of(message) if id_of else message.id
        except Exception:  # whatever is wrong with a stranger's JSON
            found = None
        if (sent := message.timestamp) is not None:
            _kept(sent, "timestamp")
        if not isinstance(message.body, bytes):
            raise TypeError("a body is the bytes that were signed")
        key, now = (_kept(source, "source"), _kept(found, "id")), self.clock()
        row = _execute(conn, _INSERT, *key, sent, message.body, now, now)
        return "accepted" if row.rowcount else "duplicate"

    def process(self, conn: Conn, handler: Handler) -> State | None:
        """Claim a message that is due and handle it; None if none is due.

        What `handler(conn, message)` writes by `conn` is there exactly if the row is
        processed; it must not end the transaction. An `Exception` of its is kept, and
        the row is due again after `backoff`, or dead. Returns the row's state, which is
        "processing" if the lease was lost to another worker. Errors of the database
        itself go through: begin anew with another connection.
        """
        now, state = self.clock(), TRANSITIONS["received", "claimed"]
        with _transaction(conn):
            row = _execute(conn, _CLAIM, now, state, now + self.lease).fetchone()
        if row is None:
            return None
        message = InboxMessage(*row)
        is_last, error = message.attempt >= self.max_attempts, "the worker died"
        if message.attempt <= self.max_attempts:  # that of a dead worker counts
            try:
                with _transaction(conn):
                    held = message.source, message.id, message.fence
                    if not _execute(conn, _HOLD, *held).fetchone():
                        return "processing"
                    if hasattr(handler(conn, message), "__await__"):
                        raise TypeError("a handler is a plain function, not async")
                    if isinstance(conn, sqlite3.Connection) and not conn.in_transaction:
                        raise RuntimeError("a handler must not end the transaction")
                    return self._settle(conn, message, "applied", "")
            except Exception as exc:
                error = f"{type(exc).__name__}: {exc}"
        event = "given up" if is_last else "failed"
        with _transaction(conn):
            return self._settle(conn, message, event, error)

    def _settle(self, conn: Conn, row: InboxMessage, event: str, told: str) -> State:
        state, due = TRANSITIONS["processing", event], None
        if state == "received":
            due = self.clock() + self.backoff(row.attempt)
        told = "".join(c if c.isprintable() else " " for c in told[:500])
        held = row.source, row.id, row.fence
        done = _execute(conn, _SETTLE, state, due, told or None, *held).rowcount
        return state if done else "processing"

    def dead(self, conn: Conn, limit: int = 100) -> list[InboxMessage]:
        """Return messages that were given up, oldest first, and with what `error`."""
        return [InboxMessage(*row) for row in _execute(conn, _DEAD, limit).fetchall()]

    def requeue(self, conn: Conn, source: str | None = None, id: Any = None) -> int:
        """Make dead messages due, all or those named; return their number."""
        values = TRANSITIONS["dead", "requeued"], self.clock(), source, id
        return int(_execute(conn, _REQUEUE, *values).rowcount)

    def purge(self, conn: Conn, before: float | None = None) -> int:
        """Delete what is processed, was received before and is out of the retention."""
        latest = self.clock() - self.retention
        until = latest if before is None else min(before, latest)
        return int(_execute(conn, _PURGE, until).rowcount)


def _problem(status: int, detail: str, **headers: str) -> _Answer:
    members = {"title": http.HTTPStatus(status).phrase, "status": status}
    kind = {"content-type": "application/problem+json"}
    return status, kind | headers, json.dumps(members | {"detail": detail}).encode()


def _echo(text: str) -> _Answer:
    kind = {"content-type": "text/plain; charset=utf-8"}
    return 200, kind | {"x-content-type-options": "nosniff"}, text.encode()


@dataclass(frozen=True, repr=False)
class WebhookReceiver:
    """An ASGI app that takes one producer's deliveries, on any path it is mounted at.

    It answers 202 when a message is safe, new or not; 400 if it is not verified, or has
    no usable id; 405, 408, 413 (without reading on); and 503 with Retry-After if it
    fails itself, so that the producer repeats. It does not decode the body, nor tell
    what is wrong with a signature; the log, at INFO, has the `reason`.

    `verify` gets the body and the headers, pairs of bytes with names in lower case, and
    returns a message or raises. `accept` returns when that is safe.
    """

    verify: Callable[[bytes, list[tuple[bytes, bytes]]], Verified]
    accept: Callable[[Verified], Awaitable[object]]  # what blocks: `asyncio.to_thread`
    _: KW_ONLY
    max_body: int = 1 << 20  # bytes
    timeout: float = 10.0  # seconds for the body, and again for `accept`
    refused: int = 400  # for a wrong signature; WebSub §7.1.2 asks for one of 2xx
    challenge: Callable[[bytes], str | None] | None = None  # such as `slack_challenge`
    origins: Collection[str] = ()  # for OPTIONS, see `cloudevents_consent`
    rate: int | str = "*"
    is_wanted: IsWanted | None = None  # for WebSub's GET

    def __post_init__(self) -> None:
        if self.refused not in (200, 202, 400, 401, 403):
            raise ValueError("refused is 200, 202, 400, 401 or 403")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":  # refused before it is one
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise RuntimeError("a webhook is an HTTP request")
        try:
            answer = await self._answer(scope, scope["headers"], receive)
        except Exception as exc:
            _log.error("a webhook could not be taken", exc_info=exc)
            answer = _problem(503, "repeat it later", **{"retry-after": "30"})
        status, fields, body = answer
        fields = {"content-length": str(len(body))} | fields
        pairs = [(k.lower().encode(), v.encode("latin-1")) for k, v in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Any, headers: Any, receive: Any) -> _Answer:
        if scope["method"] != "POST":
            return self._shake_hands(scope)
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(headers, receive)
        except (TimeoutError, ConnectionError):  # too slow, or gone and not to hear it
            return _problem(408, "the body did not come", connection="close")
        if body is None:
            return _problem(413, f"over {self.max_body} bytes", connection="close")
        try:
            message = self.verify(body, headers)
            if not isinstance(message.body, bytes):  # True has none
                raise TypeError("a verifier returns a message")
        except Exception as exc:
            reason = getattr(exc, "reason", type(exc).__name__)
            _log.info("a webhook was refused: %.40r", reason)
            return _problem(self.refused, "the signature is not valid")
        if text := self.challenge and self.challenge(message.body):
            return _echo(text)
        try:
            async with asyncio.timeout(self.timeout):
                await self.accept(message)
        except MessageError as exc:
            return _problem(400, str(exc))
        return 202, {}, b""

    async def _read(self, headers: Any, receive: Any) -> bytes | None:
        """Return the body, or None as soon as it is known to be too large."""
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(n.isdigit() and int(n[:18]) > self.max_body for n in lengths):
            return None
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise ConnectionError("the client is gone")
            body += event.get("body", b"")
            if len(body) > self.max_body:  # whatever Content-Length said
                return None
            if not event.get("more_body"):
                return bytes(body)
            await asyncio.sleep(0)  # or a server that never suspends has no time limit

    def _shake_hands(self, scope: Any) -> _Answer:
        if scope["method"] == "GET" and self.is_wanted:
            text = websub_challenge(scope["query_string"], self.is_wanted)
            return _problem(404, "not asked for") if text is None else _echo(text)
        options = ["OPTIONS"] * bool(self.origins) + ["GET"] * bool(self.is_wanted)
        allow = {"allow": ", ".join(["POST", *options])}
        if scope["method"] == "OPTIONS":
            name = b"webhook-request-origin"
            given = [value for key, value in scope["headers"] if key == name]
            origin = b", ".join(given).decode("latin-1")
            if consent := cloudevents_consent(origin, self.origins, self.rate):
                return 200, consent | allow, b""
        return _problem(405, "not a method for this", **allow)  # as §4.2 has it


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
