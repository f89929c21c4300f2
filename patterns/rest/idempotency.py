# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Make a POST safe to repeat, by a key that names the operation.

`IdempotencyKeyTransport` (client) gives each operation one key, kept across retries.
`IdempotencyMiddleware` (ASGI) runs the app once for a key, and answers repeats with the
recorded answer. Where the effect is in SQLite or PostgreSQL, `Attempt.complete_in` puts
the record into the app's own transaction, so that no crash comes between the two. Not
for methods that are idempotent as they are, nor in place of a unique constraint where
the data have a key of their own. Follows draft-ietf-httpapi-idempotency-key-header-07,
RFC 9651 §3.3.3 (strings), RFC 9457 (problems) and RFC 9110 §7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import inspect
import json
import logging
import math
import re
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import httpx

# fmt: off
__all__ = [
    "Answer", "Attempt", "Began", "Finished", "IdempotencyKeyTransport",
    "IdempotencyMiddleware", "InProgress", "InvalidKey", "LeaseLostError",
    "MemoryStore", "Mismatch", "PostgresStore", "Record", "RedisStore", "SQLiteStore",
    "Store", "StoreFullError", "canonical_json", "decide", "derive_key", "is_final",
    "parse_idempotency_key",
]
# fmt: on

_log = logging.getLogger(__name__)

State: TypeAlias = Literal["absent", "running", "finished"]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

#: From which state of a key what leads to which. **Running**: one attempt has it, under
#: a lease and by a fence that no other attempt ever had. **Finished**: repeats get what
#: was recorded. What an attempt reports by an old fence changes nothing.
TRANSITIONS: dict[tuple[State, str], State] = {
    ("absent", "begun"): "running",
    ("running", "renewed"): "running",
    ("running", "lease over"): "running",
    ("running", "completed"): "finished",
    ("running", "released"): "absent",
    ("running", "expired"): "absent",
    ("finished", "expired"): "absent",
}

_DOCS = "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/#"
# RFC 9651 §3.3.3; what comes behind a string are its parameters (§3.1.2), which mean
# nothing here.
_QUOTED = re.compile(
    r'"((?:[ !#-\[\]-~]|\\["\\])*)"'
    r"(?:; *[a-z*][a-z0-9_.*-]*(?:=(?:-?[0-9]{1,15}(?:\.[0-9]{1,3})?|@-?[0-9]{1,15}"
    r"|\?[01]|:[A-Za-z0-9+/=]*:|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
    r'|%?"(?:[ !#-\[\]-~]|\\["\\])*"))?)*'
)
_BARE = re.compile(r"[!#-+\--~]+")  # no comma: two lines that a proxy made one
# Of an answer, what belongs to its connection (RFC 9110 §7.6.1), to its moment, or to
# the one who got it first: a session must not lie in a store.
_FLEETING = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
    *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    *(b"age", b"date", b"set-cookie", b"ratelimit", b"ratelimit-policy"),
}


class InvalidKey(ValueError):
    """The key is none; `reason` is `missing`, `repeated`, `length` or `malformed`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"idempotency key refused: {reason}")
        self.reason = reason


class LeaseLostError(Exception):
    """Another attempt took the key over: roll back, and have no effect."""


class StoreFullError(Exception):
    """There is no room for another key, and none may be forgotten yet."""


def parse_idempotency_key(value: bytes | str, *, max_length: int = 255) -> str:
    r"""Return the key in a field value: quoted, as the draft has it, or bare.

    A key is printable ASCII of 1 to `max_length` characters; a bare one has no space,
    comma or quote. What is longer than such a key can be is not looked at.

    Raises:
        InvalidKey: there is no key, or it is malformed or too long.

    >>> parse_idempotency_key(b'"8e03978e"'), parse_idempotency_key("8e03978e")
    ('8e03978e', '8e03978e')
    """
    if len(value) > 2 * max_length + 64:  # each character escaped, and parameters
        raise InvalidKey("length")
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip(" \t")
    if found := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", found[1])
        if text and not text.strip():
            raise InvalidKey("malformed")
    elif text and not _BARE.fullmatch(text):
        raise InvalidKey("malformed")
    if not 0 < len(text) <= max_length:
        raise InvalidKey("length" if text else "missing")
    return text


def derive_key(*parts: str) -> str:
    """Return the key of an operation that has a name, the same after a restart.

    Of no use for two operations that are alike in all parts and yet are two.

    >>> derive_key("charge", "order/7") == derive_key("charge", "order/7")
    True
    """
    return _digest(parts).hex()[:32]


def canonical_json(content_type: str, body: bytes) -> bytes:
    """Return one text for a JSON value, however it is spaced and its members ordered.

    For `IdempotencyMiddleware(canonical=…)`, if clients make the body of a repeat anew.
    Fractions keep their spelling, so `1` is not `1.0`. What is no JSON, or has a member
    twice, stays as it is.

    >>> one, two = b'{"a": 1, "b": 2}', b'{"b":2,"a":1}'
    >>> form = "application/json"
    >>> canonical_json(form, one) == canonical_json(form, two)
    True
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        keep: Any = str.encode  # so that a number cannot pass for a text
        try:
            value = json.loads(
                body, parse_float=keep, parse_constant=keep, object_pairs_hook=_members
            )
            fraction = lambda n: [math.nan, n.decode()]  # noqa: E731
            text = json.dumps(value, sort_keys=True, default=fraction)
            return b"json:" + text.encode()
        except (ValueError, RecursionError):
            pass
    return content_type.encode("latin-1", "replace") + b"\n" + body


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member comes twice")
    return members


def is_final(status: int) -> bool:
    """Tell whether an answer is recorded, or the key is released for another attempt.

    Released by: 5xx (the app failed, and has undone what it did), and what says that
    nothing was done: 401 (a refreshed token repeats the request), 408, 425 and 429.
    An API that cannot undo its effects records all: `is_final=lambda status: True`.

    >>> [is_final(status) for status in (201, 422, 429, 500)]
    [True, True, False, False]
    """
    return status < 500 and status not in (401, 408, 425, 429)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; a `body` of None was not kept, since it was too large or streamed."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes | None = field(repr=False)

    def kept(self) -> Answer:
        """Return it without the fields that are for its first receiver only."""
        named = [v for n, v in self.headers if n.lower() == b"connection"]
        gone = {name.strip().lower() for name in b",".join(named).split(b",")}
        gone |= _FLEETING
        fields = ((n, v) for n, v in self.headers if n.lower() not in gone)
        return replace(self, headers=tuple(fields))

    def to_bytes(self) -> bytes:
        """Return it as one line of JSON, and the body behind it."""
        pairs = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in self.headers]
        head = json.dumps([self.status, pairs, self.body is not None])
        return head.encode() + b"\n" + (self.body or b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """Return what `to_bytes` was called of."""
        head, _, body = bytes(data).partition(b"\n")
        status, pairs, has_body = json.loads(head)
        fields = tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs)
        return cls(status, fields, body if has_body else None)


class Began(NamedTuple):
    """The key is the caller's: do it, and report by this fence."""

    fence: str


class InProgress(NamedTuple):
    """Another attempt has the key, for this many seconds unless it is renewed."""

    retry_after: float


class Finished(NamedTuple):
    """It was done, and this is the answer."""

    answer: Answer


class Mismatch(NamedTuple):
    """The key was used for another request."""


Outcome: TypeAlias = Began | InProgress | Finished | Mismatch


class Record(NamedTuple):
    """What is known of a key; times are in seconds by the store's clock."""

    state: State
    fingerprint: str
    fence: str
    until: float  # end of the lease
    expires: float
    answer: Answer | None = None


def decide(record: Record | None, fingerprint: str, now: float, fence: str) -> Outcome:
    """Decide what a request is that comes with a key; `fence` is for an attempt.

    >>> record = Record("running", "f", "1", until=60.0, expires=90.0)
    >>> decide(record, "f", 50.0, "2"), decide(record, "f", 60.0, "2")
    (InProgress(retry_after=10.0), Began(fence='2'))
    """
    if record is None or now >= record.expires:
        return Began(fence)
    if record.fingerprint != fingerprint:
        return Mismatch()
    if record.answer is not None:
        return Finished(record.answer)
    if now < record.until:
        return InProgress(record.until - now)
    return Began(fence)  # the attempt before died, or has lost the key


class Store(Protocol):
    """What remembers the keys, which come as digests.

    A method may return its result or an awaitable. If `blocks` is true, it is called in
    a thread. Whatever it raises means that the store is away.
    """

    blocks: bool

    def begin(self, key: str, fingerprint: str, lease: float, ttl: float) -> Any:
        """Return the `Outcome`; on `Began`, the key is running for `lease` seconds."""

    def renew(self, key: str, fence: str, lease: float, ttl: float) -> Any:
        """Begin the lease anew; tell whether the attempt still has the key."""

    def complete(self, key: str, fence: str, answer: Answer, ttl: float) -> Any:
        """Record an answer for `ttl` seconds, and return the `Answer` of the key.

        It is another one if that was recorded before, and None if the attempt has lost
        the key and there is none yet.
        """

    def release(self, key: str, fence: str) -> Any:
        """Forget a key that this attempt has, so that another may begin."""


_Table: TypeAlias = "_Dict | _Rows"  # the records, within a transaction


class _Records:
    """What those stores have in common that read a record, decide, and write it."""

    blocks = False

    def _open(self) -> AbstractContextManager[_Table]:
        raise NotImplementedError

    def begin(self, key: str, fingerprint: str, lease: float, ttl: float) -> Outcome:
        """Take the key, or tell who has it or had it."""
        with self._open() as table:
            record, now = _live(table, key)
            outcome = decide(record, fingerprint, now, secrets.token_hex(16))
            if isinstance(outcome, Began):
                state, until = TRANSITIONS["absent", "begun"], now + lease
                if record:
                    state = TRANSITIONS["running", "lease over"]
                new = Record(state, fingerprint, outcome.fence, until, until + ttl)
                table.put(key, new, now)
            return outcome

    def renew(self, key: str, fence: str, lease: float, ttl: float) -> bool:
        """Begin the lease anew; tell whether the attempt still has the key."""
        with self._open() as table:
            record, now = _live(table, key)
            if record is None or record.fence != fence or record.answer is not None:
                return False
            until = now + lease
            table.put(key, record._replace(until=until, expires=until + ttl), now)
            return True

    def complete(self, key: str, fence: str, answer: Answer, ttl: float) -> Any:
        """Record an answer, and return the one that repeats get, if there is one."""
        with self._open() as table:
            return _complete(table, key, fence, answer, ttl)

    def release(self, key: str, fence: str) -> None:
        """Forget a key that this attempt has."""
        with self._open() as table:
            record, _ = _live(table, key)
            if record and record.fence == fence and record.answer is None:
                table.drop(key)


def _live(table: _Table, key: str) -> tuple[Record | None, float]:
    record, now = table.look(key)
    return (record if record and now < record.expires else None), now


def _complete(
    table: _Table, key: str, fence: str, answer: Answer, ttl: float
) -> Answer | None:
    record, now = _live(table, key)
    if record is None or record.answer is not None or record.fence != fence:
        return record and record.answer
    state = TRANSITIONS["running", "completed"]
    new = record._replace(state=state, until=now, expires=now + ttl, answer=answer)
    table.put(key, new, now)
    return answer


class MemoryStore(_Records):
    """Remember in this process, for all its threads and tasks.

    Nothing is forgotten before its time: with `max_keys` of them, a new one is refused
    by `StoreFullError`. Beyond `max_bytes` answers are recorded without their body.

    >>> store, answer = MemoryStore(), Answer(201, (), b"done")
    >>> fence = store.begin("k", "f", lease=60, ttl=3600).fence
    >>> store.complete("k", fence, answer, ttl=3600) == answer
    True
    >>> store.begin("k", "f", 60, 3600), store.begin("k", "g", 60, 3600)
    (Finished(answer=Answer(status=201)), Mismatch())
    """

    def __init__(
        self,
        *,
        max_keys: int = 100_000,
        max_bytes: int = 1 << 26,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._dict = _Dict(max_keys, max_bytes, clock or time.monotonic)
        self._lock = threading.Lock()

    @contextmanager
    def _open(self) -> Iterator[_Table]:
        with self._lock:
            yield self._dict


class _Dict:  # by and large in the order of expiry
    def __init__(self, keys: int, left: int, clock: Callable[[], float]) -> None:
        self.keys, self.left, self.clock = keys, left, clock
        self.records: dict[str, Record] = {}
        self.soonest = math.inf  # before which none of them expires

    def look(self, key: str) -> tuple[Record | None, float]:
        return self.records.get(key), self.clock()

    def put(self, key: str, record: Record, now: float) -> None:
        self.drop(key)
        while first := next(iter(self.records), None):
            if self.records[first].expires > now:
                break
            self.drop(first)
        size = _size(record)
        is_full = len(self.records) >= self.keys or size > self.left
        if is_full and now >= self.soonest:  # where ttls differ, some lie behind
            for old in [k for k, r in self.records.items() if r.expires <= now]:
                self.drop(old)
            times = (held.expires for held in self.records.values())
            self.soonest = min(times, default=math.inf)
        if len(self.records) >= self.keys:
            raise StoreFullError(f"{self.keys} keys are held")
        if record.answer and size > self.left:
            record = record._replace(answer=replace(record.answer, body=None))
            size = 0
        self.left -= size
        self.records[key] = record
        self.soonest = min(self.soonest, record.expires)

    def drop(self, key: str) -> None:
        if record := self.records.pop(key, None):
            self.left += _size(record)


def _size(record: Record) -> int:
    return len(record.answer.body or b"") if record.answer else 0


# `?` and what is in braces is written as the database has them.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS idempotency_key (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, fingerprint TEXT NOT NULL,
    fence TEXT NOT NULL, until DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION NOT NULL, answer {blob})""",
    "CREATE INDEX IF NOT EXISTS idempotency_expires ON idempotency_key (expires)",
)
_LOOK = """SELECT state, fingerprint, fence, until, expires, answer
    FROM idempotency_key WHERE key = ?"""
_PUT = """INSERT INTO idempotency_key VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, fence = excluded.fence,
    fingerprint = excluded.fingerprint, until = excluded.until,
    expires = excluded.expires, answer = excluded.answer"""
_DROP = "DELETE FROM idempotency_key WHERE key = ?"
_PURGE = """DELETE FROM idempotency_key WHERE key IN (
    SELECT key FROM idempotency_key WHERE expires <= ? LIMIT 8 {skip})"""


class _Rows:  # of SQLite, within a transaction
    words: dict[str, str] = {"blob": "BLOB", "skip": ""}  # noqa: RUF012

    def __init__(self, conn: Any, clock: Callable[[], float] | None = None) -> None:
        self.conn, self.clock = conn, clock or time.time

    def execute(self, sql: str, *values: Any) -> Any:
        cursor = self.conn.cursor()
        cursor.row_factory = None  # the application may have set one
        return cursor.execute(sql.format_map(self.words), values)

    def now(self, key: str) -> float:
        return self.clock()

    def look(self, key: str) -> tuple[Record | None, float]:
        now = self.now(key)
        row = self.execute(_LOOK, key).fetchone()
        if row is None:
            return None, now
        answer = row[5] and Answer.from_bytes(row[5])
        return Record._make((*row[:5], answer)), now

    def put(self, key: str, record: Record, now: float) -> None:
        self.execute(_PURGE, now)
        answer = record.answer and record.answer.to_bytes()
        self.execute(_PUT, key, *record[:5], answer)

    def drop(self, key: str) -> None:
        self.execute(_DROP, key)


class _PostgresRows(_Rows):
    words: dict[str, str] = {"blob": "BYTEA", "skip": "FOR UPDATE SKIP LOCKED"}  # noqa: RUF012

    def execute(self, sql: str, *values: Any) -> Any:
        sql = sql.format_map(self.words).replace("?", "%s")
        return self.conn.cursor(row_factory=lambda cursor: tuple).execute(sql, values)

    def now(self, key: str) -> float:
        # There may be no row to lock, so it is the key that is locked.
        number = int(key[:15], 16)
        sql = "SELECT pg_advisory_xact_lock(?), extract(epoch FROM clock_timestamp())"
        return float(self.execute(sql, number).fetchone()[1])


class _SQLStore(_Records):
    blocks = True
    _rows: type[_Rows]
    _clock: Callable[[], float] | None = None

    def complete_in(
        self, conn: Any, key: str, fence: str, answer: Answer, ttl: float
    ) -> None:
        """Record an answer in the caller's transaction, which has the effect too.

        Raises:
            LeaseLostError: another attempt has the key: roll back.
            RuntimeError: there is no transaction.
        """
        if isinstance(conn, sqlite3.Connection):
            is_open = conn.in_transaction
        else:
            is_open = conn.info.transaction_status or not conn.autocommit
        if not is_open:
            raise RuntimeError("begin the transaction first, and have the effect in it")
        rows = self._rows(conn, self._clock)
        if _complete(rows, key, fence, answer, ttl) is not answer:
            raise LeaseLostError("another attempt has the key")


class SQLiteStore(_SQLStore):
    """Remember in a file of SQLite, for all processes of this machine.

    It is opened at first use, and a table `idempotency_key` is made in it. Take the
    application's own file, and effect and record can be one transaction. An answer that
    was recorded is on the disk.

    Args:
        path: of the file.
        timeout: seconds to wait for those who write; above that the store is away.
        clock: seconds since the epoch, the same for all processes.
    """

    _rows = _Rows

    def __init__(
        self,
        path: Any,
        *,
        timeout: float = 5.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._path, self._timeout, self._clock = path, timeout, clock
        self._conn: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def _connect(self) -> sqlite3.Connection:
        conn = sqlite3.connect(
            self._path,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            conn.execute("PRAGMA journal_mode = WAL")
            for sql in _SCHEMA:
                conn.execute(sql.format_map(_Rows.words))
        except BaseException:
            conn.close()
            raise
        return conn

    @contextmanager
    def _open(self) -> Iterator[_Table]:
        if not self._lock.acquire(timeout=self._timeout):
            raise TimeoutError("others wait for the file")
        try:
            conn = self._conn = self._conn or self._connect()
            # IMMEDIATE: what begins by reading could be refused when it writes.
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield _Rows(conn, self._clock)
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the file; it is opened again if it is used."""
        with self._lock:
            if self._conn is not None:
                self._conn.close()
            self._conn = None


class PostgresStore(_SQLStore):
    """Remember in PostgreSQL, by its clock, for many machines.

    Args:
        connect: returns a context with a connection of `psycopg`'s that commits at its
            end: `pool.connection` of a `ConnectionPool`, or `lambda:
            psycopg.connect(url)`. Give it short timeouts.
    """

    _rows = _PostgresRows

    def __init__(self, connect: Callable[[], AbstractContextManager[Any]]) -> None:
        self._connect, self._is_made = connect, False

    @contextmanager
    def _open(self) -> Iterator[_Table]:
        with self._connect() as conn, conn.transaction():
            rows = _PostgresRows(conn)
            if not self._is_made:
                rows.execute("SELECT pg_advisory_xact_lock(?)", -1)  # one at a time
                for sql in _SCHEMA:
                    rows.execute(sql)
            yield rows
        self._is_made = True


# A key is a hash of fence, fingerprint, end of lease in ms and answer, by the server's
# clock; it expires by itself. The steps are those of `decide`, in one round trip.
_SCRIPT = """
local key, verb, fence = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', key, 'fence', 'fingerprint', 'until', 'answer')
local mine = held[1] == fence and not held[4]
if verb == 'begin' then
  if held[1] and held[2] ~= ARGV[5] then return {'mismatch', ''} end
  if held[4] then return {'finished', held[4]} end
  local rival = held[1] and held[1] ~= fence  -- else a client that sends it again
  local left = rival and tonumber(held[3]) - now or 0
  if left > 0 then return {'running', tostring(left)} end
elseif verb == 'complete' and mine then
  redis.call('HSET', key, 'answer', ARGV[5])
  redis.call('PEXPIRE', key, ARGV[4])
  return {'finished', ARGV[5]}
elseif verb == 'complete' then
  return {held[4] and 'finished' or 'lost', held[4] or ''}
elseif not mine then
  return {'lost', ''}
elseif verb == 'release' then
  redis.call('DEL', key)
  return {'released', ''}
end
local ends = string.format('%.0f', now + ARGV[3])
redis.call('HSET', key, 'fence', fence, 'until', ends)
if verb == 'begin' then redis.call('HSET', key, 'fingerprint', ARGV[5]) end
redis.call('PEXPIRE', key, string.format('%.0f', ARGV[3] + ARGV[4]))
return {'begun', ''}
"""


class RedisStore:
    """Remember in Redis (5 or newer) or Valkey, for many machines.

    Each call is one round trip, by the server's clock. A server that may evict keys
    (its `maxmemory-policy`), or that fails over before a write was replicated, forgets
    them, and what was done may be done again.

    Args:
        client: of `redis` or `valkey`, blocking or async, for one server or a cluster.
            Each request waits for it, so give it short timeouts.
        prefix: what the names of the keys begin with.
    """

    def __init__(self, client: Any, *, prefix: str = "idempotency:") -> None:
        self._script, self._prefix = client.register_script(_SCRIPT), prefix
        self.blocks = not inspect.iscoroutinefunction(self._script.__call__)

    def begin(self, key: str, fingerprint: str, lease: float, ttl: float) -> Any:
        """Take the key, or tell who has it or had it."""
        fence = secrets.token_hex(16)

        def read(word: str, text: str) -> Outcome:
            if word == "begun":
                return Began(fence)
            if word == "running":
                return InProgress(float(text) / 1000)
            return Mismatch() if word == "mismatch" else Finished(_unpacked(text))

        return self._call(read, key, "begin", fence, lease, ttl, fingerprint)

    def renew(self, key: str, fence: str, lease: float, ttl: float) -> Any:
        """Begin the lease anew; tell whether the attempt still has the key."""
        return self._call(
            lambda word, text: word == "begun", key, "renew", fence, lease, ttl, ""
        )

    def complete(self, key: str, fence: str, answer: Answer, ttl: float) -> Any:
        """Record an answer, and return the one that repeats get, if there is one."""
        # ASCII, since a client may be one that decodes what it reads.
        packed = base64.b64encode(answer.to_bytes()).decode()
        return self._call(
            lambda word, text: _unpacked(text) if word == "finished" else None,
            *(key, "complete", fence, 0, ttl, packed),
        )

    def release(self, key: str, fence: str) -> Any:
        """Forget a key that this attempt has."""
        return self._call(lambda word, text: None, key, "release", fence, 0, 0, "")

    def _call(
        self,
        read: Callable[[str, str], Any],
        key: str,
        verb: str,
        fence: str,
        lease: float,
        ttl: float,
        text: str,
    ) -> Any:
        times = (max(1, round(seconds * 1000)) for seconds in (lease, ttl))
        reply = self._script([self._prefix + key], [verb, fence, *times, text])

        def said(reply: Any) -> Any:
            return read(*(t.decode() if isinstance(t, bytes) else t for t in reply))

        async def later() -> Any:
            return said(await reply)

        return said(reply) if self.blocks else later()


def _unpacked(text: str) -> Answer:
    return Answer.from_bytes(base64.b64decode(text))


class Attempt:
    """The app's handle of its attempt: `scope["state"]["idempotency"]`.

    Attributes:
        key: the client's key, to be handed on to services that take one.
        fence: of this attempt and no other.
    """

    def __init__(self, key: str, fence: str, name: str, store: Any, ttl: float) -> None:
        self.key, self.fence = key, fence
        self._name, self._store, self._ttl = name, store, ttl

    def complete_in(
        self, conn: Any, status: int, headers: Collection[Any] = (), body: bytes = b""
    ) -> None:
        """Record the answer in the app's own transaction, to commit with the effect.

        From then on repeats get this answer, and this client too, unless the app sends
        one that is not final. The store is an `SQLiteStore` or a `PostgresStore`,
        `conn` a blocking connection to the same database with the transaction open that
        has the effect. `headers` are pairs.

        Raises:
            LeaseLostError: another attempt has the key: roll back.
            RuntimeError: there is no transaction.
        """
        pairs = tuple((_bytes(name).lower(), _bytes(value)) for name, value in headers)
        answer = Answer(status, pairs, body).kept()
        self._store.complete_in(conn, self._name, self.fence, answer, self._ttl)


def _bytes(text: bytes | str) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _problem(status: int, slug: str, detail: str, **more: Any) -> Answer:
    headers = {"content-type": "application/problem+json", "cache-control": "no-store"}
    headers |= more.pop("headers", {})
    title = slug.replace("-", " ")
    members = {"type": _DOCS + slug, "title": title, "status": status, "detail": detail}
    body = json.dumps(members | more).encode()
    headers["content-length"] = str(len(body))
    pairs = tuple((_bytes(name), _bytes(value)) for name, value in headers.items())
    return Answer(status, pairs, body)


def _outstanding() -> Answer:
    told = "a request with this key is being processed; repeat it later"
    return _problem(409, "request-outstanding", told, headers={"retry-after": "1"})


def _replay(answer: Answer) -> Answer:
    """Return what a repeat gets."""
    if answer.body is None:
        told = "the request was processed before, but its answer was too large to keep"
        where = {n: v for n, v in answer.headers if n.lower() == b"location"}
        headers = {n.decode(): v.decode("latin-1") for n, v in where.items()}
        more = {"headers": headers, "recorded_status": answer.status}
        answer = _problem(409, "answer-not-kept", told, **more)
    mark = (b"idempotent-replayed", b"true")
    return replace(answer, headers=(*answer.headers, mark))


async def _send(send: Send, answer: Answer) -> None:
    headers = [*answer.headers]
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body or b""})


class IdempotencyMiddleware:
    """Run the app once for a key, and answer repeats with what it answered.

    A repeat gets the recorded answer with `Idempotent-Replayed: true`; 409 while the
    first is under way; 422 if it is another request. No key where one is required, or a
    malformed one, is 400; a body over `max_body` 413. Without the store nothing runs:
    503. Refusals are problems with a stable `type`. An answer is recorded before it is
    sent. Not kept are its Date, Set-Cookie, `RateLimit` and hop-by-hop fields.

    The app runs in a task of its own, with its lease renewed: it ends though the client
    is gone. If it raises, or is cancelled or killed, another attempt may run, at once
    or after the lease: it has to undo what it did, or to use `complete_in`. One that
    blocks the event loop for longer than the lease loses the key.

    An answer over `max_response`, or an event stream, is passed on and recorded without
    its body: a repeat gets 409 `answer-not-kept`, without Retry-After. The app of an
    event stream is told when its client goes, for it might never end. Put what checks
    who asks, compression and CORS around this, as a replay does not reach the app.

    Args:
        app: the ASGI app.
        store: remembers the keys.
        principal: names who asks, as verified; keys of one are none of another's.
        methods: for which a key counts.
        required: whether there must be one, or a function of the scope that tells.
        ttl: seconds for which an answer is kept. Publish it (draft §2.3).
        lease: seconds after which a crashed attempt makes way.
        max_body: bytes of a request with a key.
        max_response: bytes of an answer that is kept.
        max_key: characters of a key.
        header: the field's name.
        canonical: makes from content type and body what must be the same in a repeat,
            such as `canonical_json`. If not given, all bytes count.
        is_final: tells by its status whether an answer is recorded.

    >>> async def app(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 201, "headers": []})
    ...     await send({"type": "http.response.body", "body": b"made"})
    >>> app = IdempotencyMiddleware(app, MemoryStore(), principal=lambda scope: "ann")
    >>> async def main():
    ...     transport = httpx.ASGITransport(app)
    ...     key = {"Idempotency-Key": '"order-7"'}
    ...     async with httpx.AsyncClient(transport=transport) as client:
    ...         for _ in range(2):
    ...             answer = await client.post("http://api.test/o", headers=key)
    ...             print(answer.text, answer.headers.get("idempotent-replayed"))
    >>> asyncio.run(main())
    made None
    made true
    """

    def __init__(
        self,
        app: App,
        store: Store,
        *,
        principal: Callable[[Scope], str],
        methods: Collection[str] = ("POST", "PATCH"),
        required: bool | Callable[[Scope], bool] = False,
        ttl: float = 86_400.0,
        lease: float = 60.0,
        max_body: int = 1 << 20,
        max_response: int = 1 << 20,
        max_key: int = 255,
        header: str = "Idempotency-Key",
        canonical: Callable[[str, bytes], bytes] | None = None,
        is_final: Callable[[int], bool] = is_final,
    ) -> None:
        if not (0 < lease < float("inf") and 0 < ttl < float("inf")):
            raise ValueError("lease and ttl are more than 0 seconds, and finite")
        if isinstance(methods, str):
            raise ValueError("methods is a collection of names")
        if not callable(principal):
            raise TypeError("principal: a callable, which names who asks")
        self.app, self.store, self.principal = app, store, principal
        self.ttl, self.lease, self.is_final = ttl, lease, is_final
        self.max_body, self.max_response, self.max_key = max_body, max_response, max_key
        self._methods, self._header = frozenset(methods), header.lower().encode()
        self._required = required if callable(required) else lambda scope: required
        self._canonical = canonical
        self._flights: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(thread_name_prefix="idempotency")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] not in self._methods:
            return await self.app(scope, receive, send)
        lines = [v for n, v in scope["headers"] if n.lower() == self._header]
        if not lines and not self._required(scope):
            return await self.app(scope, receive, send)
        step = await self._begin(scope, lines, receive, send)
        if isinstance(step, Answer):
            await _send(send, step)
        elif step is not None:
            await self._wait(step, receive, send)

    async def ask(self, call: Callable[..., Any], *values: Any) -> Any:
        """Return what the store says, without blocking the loop."""
        if getattr(self.store, "blocks", False):
            # Not in the loop's own threads: those that wait for the app's transaction
            # to end could leave none in which it does.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, call, *values)
        answer = call(*values)
        return await answer if inspect.isawaitable(answer) else answer

    async def _begin(
        self, scope: Scope, lines: list[bytes], receive: Receive, send: Send
    ) -> Answer | _Flight | None:
        """Return the answer, or the app's run; None if the client has gone."""
        try:
            if len(lines) != 1:
                raise InvalidKey("repeated" if lines else "missing")
            key = parse_idempotency_key(lines[0], max_length=self.max_key)
        except InvalidKey as exc:
            told = f"send one {self._header.decode()}, a quoted string of ASCII"
            return _problem(400, f"key-{exc.reason}", told)
        try:
            body = await self._read(scope["headers"], receive)
        except ConnectionError:
            return None
        if body is None:
            told = f"over {self.max_body} bytes"
            close = {"connection": "close"}  # the rest is not read
            return _problem(413, "body-too-large", told, headers=close)
        name, fingerprint = self._name(scope, key), self._fingerprint(scope, body)
        values = name, fingerprint, self.lease, self.ttl
        try:
            outcome = await self.ask(self.store.begin, *values)
        except Exception as exc:
            _log.error("the store of keys is away", exc_info=exc)
            told, headers = "nothing was done; repeat it later", {"retry-after": "5"}
            return _problem(503, "store-away", told, headers=headers)
        if isinstance(outcome, Began):
            attempt = Attempt(key, outcome.fence, name, self.store, self.ttl)
            return _Flight(self, scope, body, send, attempt)
        if isinstance(outcome, Finished):
            return _replay(outcome.answer)
        if isinstance(outcome, InProgress):
            return _outstanding()
        return _problem(422, "key-reused", "the key was used for another request")

    async def _wait(self, flight: _Flight, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(flight.run())
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)
        watch = None
        try:
            # Unlike `await task`, a wait that is cancelled leaves the task alone.
            await asyncio.wait((task, flight.told), return_when="FIRST_COMPLETED")
            if flight.told.done() and (answer := flight.told.result()) is not None:
                await _send(send, answer)
            elif flight.is_events:
                watch = asyncio.create_task(flight.watch(receive))
            await asyncio.wait((task,))
        finally:
            if watch is not None:
                watch.cancel()
            if not task.done():
                flight.leave()
        task.result()

    async def _read(self, headers: Any, receive: Receive) -> bytes | None:
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

    def _name(self, scope: Scope, key: str) -> str:
        """Return the store's name of a key: none is told from another by its text."""
        route, who = (scope.get("root_path", ""), scope["path"]), self.principal(scope)
        if not isinstance(who, str):  # else all who are nobody would share their keys
            raise TypeError("a principal is a text")
        return _digest([who, scope["method"], *route, key]).hex()

    def _fingerprint(self, scope: Scope, body: bytes) -> str:
        fields = {b"content-type": "", b"content-encoding": ""}
        for name, value in scope["headers"]:
            if name.lower() in fields:
                fields[name.lower()] = value.decode("latin-1")
        content_type = fields[b"content-type"]
        if self._canonical and not fields[b"content-encoding"]:
            body, content_type = self._canonical(content_type, body), ""
        raw = scope.get("raw_path") or b""
        query = (scope.get("query_string") or b"").decode("latin-1")
        said = [raw.decode("latin-1"), query, content_type, fields[b"content-encoding"]]
        return _digest([*said, hashlib.sha256(body).hexdigest()]).hex()


class _Flight:
    """One run of the app, from the first lease to the answer."""

    def __init__(
        self,
        parent: IdempotencyMiddleware,
        scope: Scope,
        body: bytes,
        send: Send,
        attempt: Attempt,
    ) -> None:
        self.parent, self.send, self.attempt, self.given = parent, send, attempt, body
        state = {**scope.get("state", {}), "idempotency": attempt}
        extensions = {  # such as a file by its path, which could not be recorded
            name: value
            for name, value in (scope.get("extensions") or {}).items()
            if not name.startswith("http.response.")
        }
        self.scope = {**scope, "state": state, "extensions": extensions}
        self.loop = asyncio.get_running_loop()
        #: What is to be sent, or None if it is passed on as it comes.
        self.told: asyncio.Future[Answer | None] = self.loop.create_future()
        self.over = asyncio.Event()
        self.is_read = self.is_left = self.is_events = False
        self.mode = "collect"  # and then pass on, or drop
        self.start: Scope | None = None
        self.body = bytearray()

    async def run(self) -> None:
        """Run the app; if it does not answer, release the key."""
        self.timer = self.loop.call_later(self.parent.lease / 3, self._beat)
        try:
            await self.parent.app(self.scope, self._receive, self._collect)
        finally:
            self.over.set()
            self.timer.cancel()
            if not self.told.done():
                await self._release()

    async def _receive(self) -> Scope:
        if not self.is_read:
            self.is_read = True
            return {"type": "http.request", "body": self.given, "more_body": False}
        # That the client has gone is not told: the answer is for its repeat, too.
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def _collect(self, message: Scope) -> None:
        """Take what the app sends."""
        kind, is_last = message["type"], not message.get("more_body")
        if kind == "http.response.start" and self.mode == "collect":
            pairs = [(bytes(n), bytes(v)) for n, v in message.get("headers", ())]
            self.start = {**message, "headers": pairs}
            form = dict(pairs).get(b"content-type", b"")
            self.is_events = form.startswith(b"text/event-stream")
            return
        if kind != "http.response.body" or self.start is None:
            raise RuntimeError(f"{kind} is not to be sent now")
        if self.mode == "collect":
            self.body += message.get("body", b"")
            is_whole = is_last and len(self.body) <= self.parent.max_response
            if is_whole:
                await self._settle(bytes(self.body))
            elif len(self.body) > self.parent.max_response or self.is_events:
                await self._settle(None)
                message = {**message, "body": bytes(self.body)}
                if self.mode == "pass":
                    await self._pass(self.start)
        if self.mode == "pass":
            await self._pass(message)
        if is_last:
            self.over.set()

    async def _settle(self, body: bytes | None) -> None:
        """Record the answer, and tell which is to be sent."""
        self.timer.cancel()
        assert self.start is not None
        answer = Answer(self.start["status"], tuple(self.start["headers"]), body)
        kept = answer.kept()
        recorded: Answer | None = kept
        if self.parent.is_final(answer.status):
            # If it is not recorded, it was done: the client gets to know at least.
            values = "complete", kept, self.parent.ttl
            recorded = await self._try("an answer was not recorded", kept, *values)
        else:
            await self._release()
        if recorded is None:  # the lease was lost: repeats get another's answer
            answer = _outstanding()
        elif recorded != kept:  # by `complete_in`, or by another attempt
            answer = recorded if recorded.body is not None else _replay(recorded)
        is_own = recorded == kept
        self.mode = "pass" if body is None and is_own else "drop"
        if not self.told.done():
            self.told.set_result(None if self.mode == "pass" else answer)

    async def _pass(self, message: Scope) -> None:
        if not self.is_left:
            try:
                await self.send(message)
            except OSError:  # what a server raises when the client is gone
                self.leave()

    async def watch(self, receive: Receive) -> None:
        """Wait until the client goes, and let the app be told."""
        if (await receive())["type"] == "http.disconnect":
            self.over.set()

    def leave(self) -> None:
        """Send no more; the app ends all the same, or is told if it might not."""
        self.is_left = True
        if self.is_events:
            self.over.set()

    async def _try(self, told: str, default: Any, name: str, *values: Any) -> Any:
        """Return what the store says of the attempt, or the default, with a log."""
        try:
            it, call = self.attempt, getattr(self.parent.store, name)
            return await self.parent.ask(call, it._name, it.fence, *values)
        except Exception as exc:
            _log.error(told, exc_info=exc)
            return default

    async def _release(self) -> None:
        told = "a key was not released; its lease ends it"
        await self._try(told, None, "release")

    def _beat(self) -> None:
        self.pulse = self.loop.create_task(self._renew())

    async def _renew(self) -> None:
        parent, told = self.parent, "a lease was not renewed"
        values = parent.lease, parent.ttl
        is_held = await self._try(told, True, "renew", *values)
        if not is_held:
            _log.warning("an attempt has lost its key, or has completed it")
        elif not self.told.done() and not self.over.is_set():
            self.timer = self.loop.call_later(parent.lease / 3, self._beat)


class IdempotencyKeyTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Give each operation a key, and keep it in all its retries.

    The key is put on the request itself: in its header, and as plain text in
    `extensions["idempotency_key"]`. A request that has one, because the caller set
    either of them or because it is sent again, keeps it. Put this around a
    `RetryTransport`, which repeats a POST only if it has a key. A new request has a new
    key: to repeat one by hand, or after a restart, hand over the same,
    `client.post(url, extensions={"idempotency_key": key})`, which `derive_key` made or
    which you have kept before you sent it.

    A redirect by 307 or 308 is the same operation and keeps the key, to another origin
    too, which gets the body as well; one that becomes a GET loses it.

    Args:
        transport: the transport below, of the client's kind.
        methods: of requests that get a key. A caller's own is sent by any but GET.
        quoted: whether it is sent as the draft's string, or bare, as Stripe wants it.
        header: the field's name.
        new_key: makes a key; a random UUID, unless given.

    Raises:
        InvalidKey: when a request is sent: its key is none, or it has two.

    >>> below = httpx.MockTransport(lambda request: httpx.Response(201))
    >>> client = httpx.Client(transport=IdempotencyKeyTransport(below))
    >>> key = {"idempotency_key": "order-7"}
    >>> response = client.post("https://api.test/orders", extensions=key)
    >>> response.request.headers["idempotency-key"]
    '"order-7"'
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        *,
        methods: Collection[str] = ("POST", "PATCH"),
        quoted: bool = True,
        header: str = "Idempotency-Key",
        new_key: Callable[[], str] | None = None,
    ) -> None:
        if isinstance(methods, str):
            raise ValueError("methods is a collection of names")
        self._transport: Any = transport
        self._methods, self._quoted = frozenset(methods), quoted
        self._header, self._new_key = header, new_key or (lambda: str(uuid.uuid4()))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request with its key."""
        self._mark(request)
        response: httpx.Response = self._transport.handle_request(request)
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request with its key."""
        self._mark(request)
        response: httpx.Response = await self._transport.handle_async_request(request)
        return response

    def _mark(self, request: httpx.Request) -> None:
        given, lines = request.extensions, request.headers.get_list(self._header)
        key = given.get("idempotency_key")
        if request.method in ("GET", "HEAD"):
            if key is not None and lines:  # what a redirect made of a POST
                del request.headers[self._header]
            return
        if lines:
            if len(lines) > 1 or key not in (
                None,
                parsed := parse_idempotency_key(lines[0]),
            ):
                raise InvalidKey("repeated")
            given["idempotency_key"] = parsed
        elif key is not None or request.method in self._methods:
            key = self._new_key() if key is None else key
            if not isinstance(key, str):
                raise InvalidKey("malformed")
            request.headers[self._header] = value = self._written(key)
            given["idempotency_key"] = parse_idempotency_key(value)

    def _written(self, key: str) -> str:
        text = re.sub(r'(["\\])', r"\\\1", key)
        value = f'"{text}"' if self._quoted else key
        if parse_idempotency_key(value) != key:
            raise InvalidKey("malformed")
        return value

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
