# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Publish webhooks in the transaction that makes them true.

`Outbox.publish` writes an event, and a delivery for each endpoint that subscribed to
it, by the caller's own connection: a rollback takes them back, a commit keeps them,
and no crash comes between. Workers lease deliveries by `claim` and report by `settle`;
`delivery.Dispatcher` is such a worker. For a producer whose data lies in SQLite or
PostgreSQL; not for one that has no database, nor to be read by others as a queue.
Deliveries come at least once, in no order, and always with the same id. Secrets lie in
the table as they are, so whoever reads it can sign. Follows Standard Webhooks 1.0.0
(payload, event types, secrets, rotation, replay).
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from os import PathLike
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

__all__ = ["Claim", "DeadLetter", "NotInTransactionError", "Outbox"]

# Plain tuples, since a worker in another file has names of its own for them.
_Health: TypeAlias = tuple[int, float | None, float | None]  # failures, since, until
_Outcome: TypeAlias = tuple[int | None, str, str, Any]  # status, error, answer, …
_Next: TypeAlias = tuple[str, float | None, str, _Health, str | None]

_TYPE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")  # as Standard Webhooks has it
_FILTER = re.compile(rf"\*|{_TYPE.pattern}(\.\*)?")
# No dot: `id.timestamp.body` is what is signed, and must not be read in two ways.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = r"([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])"
_URL = re.compile(rf"https?://{_HOST}(:[1-9][0-9]{{0,4}})?([/?][!-\"$-\[\]-~]*)?")
_SECRETS = {"whsec_": range(24, 65), "whsk_": range(64, 65)}  # bytes behind the prefix
_MOST_SECRETS = 10  # of an endpoint: receivers read some signatures more, not many
_DISABLED = "endpoint.disabled"

# A delivery that has not come to its end has a `due`: when it may be claimed, or while
# it is sent, when its lease runs out. `claims` is the token that fences a late worker.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS webhook_endpoint (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, url TEXT NOT NULL,
    secrets TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'active', reason TEXT,
    failures INTEGER NOT NULL DEFAULT 0, failing_since {real}, open_until {real});
CREATE INDEX IF NOT EXISTS webhook_endpoint_tenant ON webhook_endpoint (tenant);
CREATE TABLE IF NOT EXISTS webhook_subscription (
    endpoint TEXT NOT NULL, pattern TEXT NOT NULL, PRIMARY KEY (endpoint, pattern));
CREATE TABLE IF NOT EXISTS webhook_message (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, event_type TEXT NOT NULL,
    payload {blob} NOT NULL, created {real} NOT NULL);
CREATE INDEX IF NOT EXISTS webhook_message_created ON webhook_message (created);
CREATE TABLE IF NOT EXISTS webhook_delivery (
    id {serial}, message TEXT NOT NULL, endpoint TEXT NOT NULL, state TEXT NOT NULL,
    due {real}, attempts INTEGER NOT NULL DEFAULT 0, claims INTEGER NOT NULL DEFAULT 0,
    reason TEXT, status INTEGER, answer TEXT, UNIQUE (message, endpoint));
CREATE INDEX IF NOT EXISTS webhook_delivery_due ON webhook_delivery (endpoint, due)
    WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS webhook_delivery_sending ON webhook_delivery (endpoint, due)
    WHERE state = 'sending'
"""
_MATCHES = """EXISTS (SELECT 1 FROM webhook_subscription s WHERE s.endpoint = e.id AND (
    s.pattern = m.event_type OR
    substr(m.event_type, 1, length(s.pattern) - 1) = rtrim(s.pattern, '*')))"""
_ADD = """INSERT INTO webhook_message (id, tenant, event_type, payload, created)
    VALUES (:id, :tenant, :type, :payload, :now) ON CONFLICT (id) DO NOTHING"""
_WHOSE = "SELECT tenant, event_type FROM webhook_message WHERE id = :id"
_FAN_OUT = f"""INSERT INTO webhook_delivery (message, endpoint, state, due)
    SELECT m.id, e.id, 'pending', m.created FROM webhook_message m
    JOIN webhook_endpoint e ON e.tenant = m.tenant
    WHERE m.id = :id AND e.status = 'active' AND {_MATCHES}"""  # noqa: S608
_RECOVER = f"""INSERT INTO webhook_delivery (message, endpoint, state, due)
    SELECT m.id, e.id, 'pending', :now FROM webhook_message m
    JOIN webhook_endpoint e ON e.tenant = m.tenant
    WHERE e.id = :endpoint AND m.created >= :since AND m.created < :until AND {_MATCHES}
    AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.message = m.id
        AND d.endpoint = e.id AND d.state NOT IN ('dead', 'cancelled'))
    ON CONFLICT (message, endpoint) DO UPDATE
    SET state = 'pending', due = excluded.due, attempts = 0"""  # noqa: S608
_AGAIN = """UPDATE webhook_delivery SET state = 'pending', due = :now, attempts = 0
    WHERE state <> 'sending' AND """
_COPY = """INSERT INTO webhook_message (id, tenant, event_type, payload, created)
    SELECT :new, tenant, event_type, payload, :now FROM webhook_message
    WHERE id = :id"""
_COPY_DELIVERY = """INSERT INTO webhook_delivery (message, endpoint, state, due)
    SELECT :new, endpoint, 'pending', :now FROM webhook_delivery WHERE """
_HAD_IT = """message = :id AND (:endpoint = '' OR endpoint = :endpoint)
    AND endpoint IN (SELECT id FROM webhook_endpoint WHERE status = 'active')"""
_DEAD = """SELECT d.message, d.endpoint, m.event_type, d.attempts, d.reason, d.status,
    d.answer FROM webhook_delivery d JOIN webhook_message m ON m.id = d.message
    WHERE d.state = 'dead' ORDER BY d.id DESC LIMIT :limit"""
_TENANT = "SELECT tenant FROM webhook_endpoint WHERE id = :id"
_CANCEL = """UPDATE webhook_delivery SET state = 'cancelled', due = NULL,
    reason = 'the endpoint is disabled' WHERE endpoint = :id AND due IS NOT NULL"""

_FREE = """SELECT e.id, e.url, e.secrets, e.open_until, (SELECT min(d.due)
        FROM webhook_delivery d WHERE d.endpoint = e.id AND d.due <= :now) AS oldest
    FROM webhook_endpoint e WHERE e.status = 'active'
    AND (e.open_until IS NULL OR e.open_until <= :now)
    AND EXISTS (SELECT 1 FROM webhook_delivery d
        WHERE d.endpoint = e.id AND d.due <= :now)
    AND (SELECT count(*) FROM webhook_delivery d WHERE d.endpoint = e.id
        AND d.state = 'sending' AND d.due > :now)
        < CASE WHEN e.open_until IS NULL THEN :slots ELSE 1 END
    ORDER BY oldest LIMIT :limit"""
# The endpoint is locked by now, and so this statement, whose snapshot is younger than
# the lock, counts all leases that there are.
_PICK = """SELECT id FROM (SELECT id FROM webhook_delivery
    WHERE endpoint = :e{n} AND due <= :now ORDER BY due, id
    LIMIT (SELECT CASE WHEN count(*) + :share <= :slots{n} THEN :share
        WHEN count(*) < :slots{n} THEN :slots{n} - count(*) ELSE 0 END
        FROM webhook_delivery
        WHERE endpoint = :e{n} AND state = 'sending' AND due > :now){lock}) p{n}"""
# Materialized: a planner may run a subquery with a LIMIT twice, and lock twice as much.
# LIMIT 100 cuts nothing, but tells it that these are few, so that it reads no backlog.
_CLAIM = """WITH picked AS MATERIALIZED (SELECT id FROM ({picks}) p LIMIT 100)
    SELECT d.id, d.claims, d.endpoint, d.attempts, m.id, m.event_type, m.payload
    FROM picked JOIN webhook_delivery d ON d.id = picked.id
    JOIN webhook_message m ON m.id = d.message ORDER BY d.due, d.id"""
_LEASE = """UPDATE webhook_delivery SET state = 'sending', due = :until,
    claims = claims + 1 WHERE id = :id"""
_HEALTH = """SELECT id, failures, failing_since, open_until FROM webhook_endpoint
    WHERE id IN ({marks}) ORDER BY id"""  # in one order, or two workers may deadlock
_SET_HEALTH = """UPDATE webhook_endpoint SET failures = :failures,
    failing_since = :since, open_until = :until WHERE id = :id"""
_SETTLE = """UPDATE webhook_delivery SET state = :state, due = :due, reason = :reason,
    status = :status, answer = :answer, attempts = attempts + 1
    WHERE id = :id AND claims = :token AND state = 'sending'"""
_WELL: _Health = (0, None, None)


class NotInTransactionError(RuntimeError):
    """The connection commits each statement by itself: begin a transaction first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is leased; `message` is the webhook's id.

    `attempt` counts from 1, and `secrets` are those good now, the newest first.
    """

    delivery: int
    token: int
    endpoint: str
    url: str = field(repr=False)  # its query may be a secret too
    secrets: tuple[str, ...] = field(repr=False)
    attempt: int
    message: str
    event_type: str
    payload: bytes = field(repr=False)


class DeadLetter(NamedTuple):
    """A delivery that was given up, and why; `replay` or `recover` brings it back.

    `status` and `answer`, which is cut short, are those of the last attempt.
    """

    message: str
    endpoint: str
    event_type: str
    attempts: int
    reason: str
    status: int | None
    answer: str


# What differs between the engines.
_SQLITE = {
    "real": "REAL",
    "blob": "BLOB",
    "serial": "INTEGER PRIMARY KEY",
    "now": "(julianday('now') - 2440587.5) * 86400.0",
    "lock": "",
    "skip": "",
}
_POSTGRES = {
    "real": "DOUBLE PRECISION",
    "blob": "BYTEA",
    "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "now": "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "lock": " FOR UPDATE",
    "skip": " FOR UPDATE SKIP LOCKED",
}


@lru_cache(maxsize=256)
def _percent(sql: str) -> str:
    """Return a statement with the placeholders of psycopg."""
    return re.sub(r":([a-z]\w*)", r"%(\1)s", sql)


class _Session:
    """A cursor that takes named values, and returns plain tuples whatever is set."""

    def __init__(self, conn: Any, *, write: bool = True) -> None:
        kinds = {(t.__module__[:7], t.__name__) for t in type(conn).__mro__}
        is_sqlite = isinstance(conn, sqlite3.Connection)
        if is_sqlite:  # Python 3.12 has another way to say that it begins by itself
            legacy = getattr(conn, "autocommit", -1) == -1
            safe = conn.in_transaction or (legacy and conn.isolation_level is not None)
        elif ("psycopg", "Connection") in kinds:
            safe = not conn.autocommit or conn.info.transaction_status != 0
        else:
            raise TypeError("a connection is of sqlite3, or a blocking one of psycopg")
        self.dialect = _SQLITE if is_sqlite else _POSTGRES
        if write and not safe:
            raise NotInTransactionError("begin a transaction: this connection has none")
        self.conn, self._cursor = conn, conn.cursor()
        self._cursor.row_factory = None if is_sqlite else lambda _: tuple
        self._text = str if is_sqlite else _percent

    def run(self, sql: str, **values: Any) -> Any:
        """Execute a statement and return the cursor."""
        self._cursor.execute(self._text(sql), values)
        return self._cursor

    def many(self, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        """Execute a statement for each row of values."""
        self._cursor.executemany(self._text(sql), rows)

    def one(self, what: str, sql: str, **values: Any) -> tuple[Any, ...]:
        """Return the one row there is; without it, raise LookupError."""
        row: tuple[Any, ...] | None = self.run(sql, **values).fetchone()
        if row is None:
            raise LookupError(f"no such {what}")
        return row


def _check_url(url: str) -> None:
    """Refuse what is no plain http(s) URL; where it may lead is for `check` to say."""
    try:  # of it nothing is told: there may be a password in it, or a token
        ok = len(url) <= 2048 and _URL.fullmatch(url) and urlsplit(url).port != 0
    except (TypeError, ValueError):
        ok = False
    if not ok:
        raise ValueError(
            "an endpoint's URL is http(s)://host, without user or fragment"
        )


def _check_secret(secret: str) -> None:
    """Refuse what receivers could not use, or others could guess."""
    text = secret if isinstance(secret, str) else ""
    prefix = next(filter(text.startswith, _SECRETS), "")
    try:
        size = len(base64.b64decode(text[len(prefix) :], validate=True))
    except ValueError:
        size = 0
    if not prefix or size not in _SECRETS[prefix]:
        raise ValueError("a secret is whsec_ and base64 of 24 to 64 bytes, or whsk_ …")


def _body(event_type: str, data: Any, now: float) -> bytes:
    """Return what is sent: bytes as they are, anything else as a standard payload."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    whole = {"type": event_type, "timestamp": at.replace("+00:00", "Z"), "data": data}
    try:
        text = json.dumps(
            whole, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
    except (TypeError, RecursionError) as exc:
        raise ValueError("an event's data is a JSON value, or bytes") from exc
    return text.encode()


def _below(pattern: str, name: str) -> bool:
    return pattern.endswith("*") and name.startswith(pattern[:-1])


class Outbox:
    """Events, endpoints and deliveries in tables beside the data they tell of.

    What takes a connection is part of the caller's transaction and commits nothing.
    `claim` and `settle` are a worker's and use connections of their own. Times are
    seconds since the epoch by the database's clock, so that workers on machines whose
    clocks differ agree on leases. Thread-safe, as far as connections are not shared.

    Args:
        connect: opens a worker's connection, or is the path of a SQLite file. One of
            sqlite3 needs `check_same_thread=False`, one of psycopg no autocommit; a
            producer alone needs none.
        event_types: those there are; None allows any that is well formed.
        max_payload: bytes of a payload.
        clock: in place of the database's clock, for tests.

    >>> conn, outbox = sqlite3.connect(":memory:"), Outbox()
    >>> outbox.create(conn)
    >>> secret = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    >>> endpoint = outbox.register(conn, "https://a.test", ["invoice.*"], secret)
    >>> with conn:
    ...     outbox.publish(conn, "invoice.paid", {"id": 7}, id="msg_1")
    'msg_1'
    >>> worker = Outbox(lambda: conn)
    >>> [(c.message, c.attempt, c.url) for c in worker.claim(10, lease=60)]
    [('msg_1', 1, 'https://a.test')]
    """

    def __init__(
        self,
        connect: Callable[[], Any] | str | PathLike[str] | None = None,
        *,
        event_types: Collection[str] | None = None,
        max_payload: int = 262_144,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if isinstance(event_types, str):
            raise ValueError("event_types is a collection of names")
        self._connect, self._idle = connect, list[Any]()
        self._types = None if event_types is None else {*event_types, _DISABLED}
        self._max_payload, self._clock = max_payload, clock

    def create(self, conn: Any) -> None:
        """Make the tables where they are not there yet."""
        session = _Session(conn, write=False)
        for statement in _SCHEMA.format(**session.dialect).split(";"):
            session.run(statement)

    def register(
        self,
        conn: Any,
        url: str,
        event_types: Collection[str],
        secret: str,
        *,
        tenant: str = "",
        check: Callable[[str], object] | None = None,
    ) -> str:
        """Subscribe an endpoint, and return its id.

        Args:
            conn: the caller's connection.
            url: http or https; whether it may lead inside is for `check` to say.
            event_types: exact ones, `invoice.*` for all below, or `*`.
            secret: `whsec_` and base64 of 24 to 64 bytes, or an Ed25519 `whsk_` key.
            tenant: it gets the events of this one only.
            check: called with the URL, and raises if it must not be called.

        Raises:
            ValueError: the URL, an event type or the secret is malformed or unknown.
        """
        _check_url(url)
        _check_secret(secret)
        if isinstance(event_types, str) or not event_types:
            raise ValueError("event_types is a list of at least one")
        for pattern in event_types:
            self._check_type(pattern, _FILTER)
        if check is not None:
            check(url)
        session, endpoint = _Session(conn), f"ep_{secrets.token_hex(16)}"
        values = {"tenant": tenant, "url": url, "secrets": json.dumps([[secret, None]])}
        sql = "INSERT INTO webhook_endpoint (id, tenant, url, secrets)"
        session.run(
            f"{sql} VALUES (:id, :tenant, :url, :secrets)", id=endpoint, **values
        )
        rows = [{"id": endpoint, "pattern": pattern} for pattern in {*event_types}]
        session.many("INSERT INTO webhook_subscription VALUES (:id, :pattern)", rows)
        return endpoint

    def rotate_secret(
        self, conn: Any, endpoint: str, secret: str, overlap: float = 86_400
    ) -> None:
        """Sign with a new secret, and for `overlap` seconds with the old one too.

        Raises:
            ValueError: the secret is malformed, or the overlap negative.
            LookupError: there is no such endpoint.
        """
        _check_secret(secret)
        if not 0 <= overlap < float("inf"):
            raise ValueError("an overlap is a number of seconds")
        session = _Session(conn)
        sql = "SELECT secrets FROM webhook_endpoint WHERE id = :id"
        (text,) = session.one("endpoint", sql + session.dialect["lock"], id=endpoint)
        end = self._now(session) + overlap
        old = [(s, end if t is None else min(t, end)) for s, t in json.loads(text)]
        keep = [pair for pair in old if pair[0] != secret][: _MOST_SECRETS - 1]
        sql = "UPDATE webhook_endpoint SET secrets = :new WHERE id = :id"
        session.run(sql, new=json.dumps([(secret, None), *keep]), id=endpoint)

    def publish(
        self,
        conn: Any,
        event_type: str,
        data: Any,
        *,
        id: str | None = None,
        tenant: str = "",
        now: float | None = None,
    ) -> str:
        """Write an event and its deliveries, and return its id.

        Args:
            conn: the connection whose transaction makes the event true.
            event_type: such as `invoice.paid`.
            data: a JSON value, sent as `{"type", "timestamp", "data"}`; or bytes, sent
                as they are.
            id: of the event, without dots, and its own over all tenants. Publishing it
                again changes nothing.
            tenant: whose endpoints get it.
            now: when it happened, as the payload tells.

        Raises:
            ValueError: the type is unknown, the id malformed or another event's, or
                the body no JSON or over the limit.
            NotInTransactionError: the connection is in no transaction.
        """
        self._check_type(event_type, _TYPE)
        id = f"msg_{secrets.token_hex(16)}" if id is None else id
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise ValueError("an id is 1 to 64 of A-Z, a-z, 0-9, _ and -")
        clock = self._clock or time.time
        payload = _body(event_type, data, clock() if now is None else now)
        size, ours = len(payload), event_type == _DISABLED
        if size > self._max_payload and not ours:
            raise ValueError(f"a payload of {size} bytes is over {self._max_payload}")
        values: dict[str, Any] = {"id": id, "tenant": tenant, "payload": payload}
        session, add = _Session(conn), _ADD
        if self._clock:
            values["now"] = self._clock()
        else:  # one statement less
            add = add.replace(":now", session.dialect["now"])
        if session.run(add, type=event_type, **values).rowcount:
            session.run(_FAN_OUT, id=id)
        elif tuple(session.one("event", _WHOSE, id=id)) != (tenant, event_type):
            raise ValueError(f"the id {id} is that of another event")
        return id

    def replay(
        self, conn: Any, message: str, *, endpoint: str = "", new_id: bool = False
    ) -> str:
        """Deliver an event again, to all active endpoints that had it or to one.

        It keeps its id, so that a receiver who has it drops it; `new_id=True` makes a
        copy that receivers take for another event. What is being sent is left alone.

        Raises:
            LookupError: no active endpoint had such an event.
        """
        session = _Session(conn)
        values = {"id": message, "endpoint": endpoint, "now": self._now(session)}
        sql = f"SELECT 1 FROM webhook_delivery WHERE {_HAD_IT}"  # noqa: S608
        session.one("event at an active endpoint", sql, **values)
        if not new_id:
            session.run(_AGAIN + _HAD_IT, **values)
            return message
        values["new"] = new = f"msg_{secrets.token_hex(16)}"
        session.run(_COPY, **values)
        session.run(_COPY_DELIVERY + _HAD_IT, **values)
        return new

    def recover(
        self, conn: Any, endpoint: str, since: float, until: float = float("inf")
    ) -> int:
        """Deliver what an endpoint missed, with the ids it had, and return how many.

        That is what it subscribed to, of all that was published from `since` and
        before `until`, and neither got nor is about to get.

        Raises:
            LookupError: there is no such endpoint.
        """
        session = _Session(conn)
        session.one("endpoint", _TENANT, id=endpoint)
        values = {"endpoint": endpoint, "since": since, "until": until}
        return int(session.run(_RECOVER, now=self._now(session), **values).rowcount)

    def dead(self, conn: Any, *, limit: int = 100) -> list[DeadLetter]:
        """Return deliveries that were given up, the newest first."""
        rows = _Session(conn, write=False).run(_DEAD, limit=limit)
        return [DeadLetter(*row) for row in rows.fetchall()]

    def disable(self, conn: Any, endpoint: str, reason: str = "by hand") -> None:
        """Send an endpoint nothing more, and publish `endpoint.disabled`, once.

        What was to be sent is cancelled; `enable` and `recover` bring it back.

        Raises:
            LookupError: there is no such endpoint.
        """
        session = _Session(conn)
        (tenant,) = session.one("endpoint", _TENANT, id=endpoint)
        sql = "UPDATE webhook_endpoint SET status = 'disabled', reason = :reason"
        sql += " WHERE id = :id AND status = 'active'"
        if session.run(sql, id=endpoint, reason=reason).rowcount:
            session.run(_CANCEL, id=endpoint)
            data = {"endpoint": endpoint, "reason": reason}
            self.publish(conn, _DISABLED, data, tenant=tenant)

    def enable(self, conn: Any, endpoint: str) -> None:
        """Send an endpoint what is published from now on.

        Raises:
            LookupError: there is no such endpoint.
        """
        sql = "UPDATE webhook_endpoint SET status = 'active', reason = NULL,"
        sql += " failures = 0, failing_since = NULL, open_until = NULL WHERE id = :id"
        if not _Session(conn).run(sql, id=endpoint).rowcount:
            raise LookupError("no such endpoint")

    def claim(self, limit: int, lease: float, *, per_endpoint: int = 1) -> list[Claim]:
        """Lease deliveries that are due; each is one worker's for `lease` seconds.

        Of one endpoint at most `per_endpoint` are leased at a time, by all workers
        together, and one where it failed so often that it is only probed.
        """
        with self._transaction() as session:
            now, skip = self._now(session), session.dialect["skip"]
            values: dict[str, Any] = {"now": now, "limit": min(limit, 100)}
            free = session.run(_FREE + skip, slots=per_endpoint, **values).fetchall()
            if not free:
                return []
            values["share"] = max(limit // len(free), 1)
            for n, (endpoint, _, _, open_until, _) in enumerate(free):
                values[f"e{n}"] = endpoint
                values[f"slots{n}"] = per_endpoint if open_until is None else 1
            picks = [_PICK.format(n=n, lock=skip) for n in range(len(free))]
            sql = _CLAIM.format(picks=" UNION ALL ".join(picks))
            rows = session.run(sql, **values).fetchall()
            until = now + lease
            session.many(_LEASE, [{"id": row[0], "until": until} for row in rows])
        targets = {
            id: (id, url, tuple(s for s, t in json.loads(text) if t is None or t > now))
            for id, url, text, *_ in free
        }
        return [
            Claim(
                id, token + 1, *targets[endpoint], attempts + 1, message, type, bytes(b)
            )
            for id, token, endpoint, attempts, message, type, b in rows
        ]

    def settle(
        self,
        done: Sequence[tuple[Claim, _Outcome]],
        decide: Callable[[Any, int, _Health, float], _Next],
    ) -> None:
        """Write down how attempts went, and what follows, in one transaction.

        `decide(outcome, attempt, health, now)` is called with the endpoint's row
        locked. A claim whose lease ran out and went to another worker is skipped.
        """
        if not done:
            return
        names = {f"e{n}": name for n, name in enumerate({c.endpoint for c, _ in done})}
        with self._transaction() as session:
            sql = _HEALTH.format(marks=", ".join(f":{name}" for name in names))
            rows = session.run(sql + session.dialect["lock"], **names).fetchall()
            health: dict[str, _Health] = {id: tuple(rest) for id, *rest in rows}
            now, disabled = self._now(session), {}
            for claim, outcome in done:
                status, _, answer, *_ = outcome
                state, due, reason, after, why = decide(
                    outcome, claim.attempt, health.get(claim.endpoint, _WELL), now
                )
                values = {"state": state, "due": due, "reason": reason}
                values |= {"id": claim.delivery, "token": claim.token, "answer": answer}
                if session.run(_SETTLE, status=status, **values).rowcount:
                    health[claim.endpoint] = after
                    if why is not None:
                        disabled[claim.endpoint] = why
            keys = ("failures", "since", "until")
            after_all = [dict(zip(keys, h), id=id) for id, h in health.items()]  # noqa: B905
            session.many(_SET_HEALTH, after_all)
            for endpoint, why in disabled.items():
                self.disable(session.conn, endpoint, why)

    def close(self) -> None:
        """Close the connections that no claim and no settlement uses."""
        while self._idle:
            self._idle.pop().close()

    def _check_type(self, name: str, form: re.Pattern[str]) -> None:
        """Refuse an event type, or a filter, that is malformed or matches none."""
        if not isinstance(name, str) or len(name) > 128 or not form.fullmatch(name):
            raise ValueError("an event type is words of A-Z, a-z, 0-9, _ with dots")
        known = self._types is None or name in self._types
        if not known and not any(_below(name, each) for each in self._types or ()):
            raise ValueError(f"an unknown event type: {name}")

    def _now(self, session: _Session) -> float:
        if self._clock:
            return self._clock()
        return float(session.run(f"SELECT {session.dialect['now']}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[_Session]:
        """Lend a connection in a transaction; one that broke is not used again."""
        conn = self._idle.pop() if self._idle else self._open()
        try:
            if isinstance(conn, sqlite3.Connection):
                conn.execute("BEGIN IMMEDIATE")  # a lock asked for later may be refused
            yield _Session(conn)
            conn.commit()
        except BaseException:
            try:
                conn.rollback()
            except Exception:
                conn.close()
                raise
            self._idle.append(conn)
            raise
        self._idle.append(conn)

    def _open(self) -> Any:
        if self._connect is None:
            raise ValueError("a worker's Outbox needs to be told how to connect")
        if callable(self._connect):
            return self._connect()
        conn = sqlite3.connect(self._connect, timeout=30, check_same_thread=False)
        with suppress(sqlite3.OperationalError):  # in use: as it is until the next time
            conn.execute("PRAGMA journal_mode = WAL")  # readers do not wait
        conn.execute("PRAGMA synchronous = FULL")  # a commit lasts
        return conn


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
