"""Tests of `patterns/webhooks/inbox.py`; they can be copied along with it.

What a database must do is in the tests that take `db`: another module may run them over
another database, with a `db` of its own.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import sqlite3
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.webhooks import inbox

SECRET = b"a secret"
DAY = 86_400.0


class Database:
    """A database, a clock that stands still, and what a test does with both."""

    def __init__(self, connect):
        self.connect, self.now, self.connections = connect, 1_000_000.0, []
        self.inbox = self.with_settings()
        self.conn = self.open()
        self.run(self.conn, "CREATE TABLE effect (n INTEGER, id TEXT)")
        with transaction(self.conn):
            self.inbox.create(self.conn)
            self.inbox.create(self.conn)  # a second time changes nothing

    def with_settings(self, **settings):
        """Return an inbox on this clock, which waits a second behind each attempt."""
        given = {"clock": lambda: self.now, "backoff": lambda attempt: 1.0, **settings}
        return inbox.Inbox(**given)

    def open(self):
        """Return another connection, such as a worker has."""
        conn = self.connect()
        self.connections.append(conn)
        return conn

    @staticmethod
    def run(conn, sql, *values):
        """Run a statement, whose mark is `?`, and commit if it began a transaction."""
        if not isinstance(conn, sqlite3.Connection):
            sql = sql.replace("?", "%s")
        cursor = conn.execute(sql, values)
        rows = cursor.fetchall() if cursor.description else []
        conn.commit()
        return rows

    def receive(self, *ids, source="shop"):
        """Receive messages, each in a transaction; return what became of them."""
        receipts = []
        for name in ids:
            with transaction(self.conn):
                message = verified(name)
                receipts.append(self.inbox.receive(self.conn, source, message))
        return receipts

    def effects(self):
        """Return the ids of messages that had their effect."""
        return sorted(name for (name,) in self.run(self.conn, "SELECT id FROM effect"))

    def state(self, name):
        """Return state and attempts of a row."""
        sql = "SELECT state, attempts FROM webhook_inbox WHERE id = ?"
        return self.run(self.conn, sql, name)[0]


def transaction(conn):
    """Return a context manager that commits; psycopg's own would close as well."""
    if isinstance(conn, sqlite3.Connection):
        return conn
    return conn.transaction()


@pytest.fixture
def db(tmp_path):
    """A SQLite file; its connections have the transaction control of old."""

    def connect():
        conn = sqlite3.connect(
            tmp_path / "inbox.db", timeout=0, check_same_thread=False
        )
        conn.execute("PRAGMA journal_mode = WAL")
        return conn

    database = Database(connect)
    yield database
    for conn in database.connections:
        conn.close()


def verified(name="msg_1", body=b"{}", timestamp=1_614_265_330):
    """Return a message as a verifier does."""
    return SimpleNamespace(id=name, timestamp=timestamp, body=body)


def apply(conn, message):
    """Have an effect in the same database: the handler of most tests."""
    mark = "?" if isinstance(conn, sqlite3.Connection) else "%s"
    sql = f"INSERT INTO effect (n, id) VALUES (1, {mark})"
    conn.execute(sql, [message.id])


def fail(conn, message):
    """Have an effect, and then fail."""
    apply(conn, message)
    raise ZeroDivisionError("no such\x00 order")


# --- what a database must do


def test_a_message_is_taken_once(db):
    """A second delivery is a duplicate, before and after the first is processed."""
    assert db.receive("a", "a") == ["accepted", "duplicate"]
    assert db.inbox.process(db.open(), apply) == "processed"
    assert db.receive("a") == ["duplicate"]
    assert db.inbox.process(db.open(), apply) is None
    assert db.effects() == ["a"]


def test_an_id_belongs_to_its_source(db):
    """Two producers may use the same id."""
    assert db.receive("a") + db.receive("a", source="bank") == ["accepted"] * 2


def test_a_message_comes_back_as_it_was(db):
    """A handler gets each byte of the body, and what else was verified."""
    body, seen = bytes(range(256)), []
    with transaction(db.conn):
        db.inbox.receive(db.conn, "shöp", verified("ïd {?} %s", body))
        db.inbox.receive(db.conn, "shöp", verified("none", b"", None))
    for _ in range(2):
        db.inbox.process(db.open(), lambda conn, message: seen.append(message))
    by_id = {message.id: message for message in seen}
    first = by_id["ïd {?} %s"]
    assert (first.source, first.body, first.attempt) == ("shöp", body, 1)
    assert first.timestamp == 1_614_265_330
    assert first.error is None
    assert (by_id["none"].body, by_id["none"].timestamp) == (b"", None)
    assert "\\x01" not in repr(first)


def test_the_transaction_is_the_callers(db):
    """A message whose transaction is rolled back was not received."""
    with contextlib.suppress(ZeroDivisionError), transaction(db.conn):
        assert db.inbox.receive(db.conn, "shop", verified("a")) == "accepted"
        raise ZeroDivisionError
    assert db.inbox.process(db.open(), apply) is None
    assert db.receive("a") == ["accepted"]


def test_effect_and_mark_are_one(db):
    """A failed handler leaves no effect, its error, and a row that is due later."""
    db.receive("a")
    worker = db.open()
    assert db.inbox.process(worker, fail) == "received"
    assert db.effects() == []
    assert db.inbox.process(worker, apply) is None
    db.now += 1
    errors = []
    handler = lambda conn, m: (apply(conn, m), errors.append(m.error))  # noqa: E731
    assert db.inbox.process(worker, handler) == "processed"
    assert errors == ["ZeroDivisionError: no such  order"]
    assert db.effects() == ["a"]
    assert db.state("a") == ("processed", 2)


def test_dead_after_the_last_attempt(db):
    """What fails each time is dead, is known, and lives again when requeued."""
    db.inbox = db.with_settings(max_attempts=3)
    db.receive("a")
    worker, states = db.open(), []
    for _ in range(3):
        states.append(db.inbox.process(worker, fail))
        db.now += DAY
    assert states == ["received", "received", "dead"]
    assert db.inbox.process(worker, apply) is None
    assert db.receive("a") == ["duplicate"]
    with transaction(db.conn):
        (dead,) = db.inbox.dead(db.conn)
        assert (dead.id, dead.attempt) == ("a", 3)
        assert dead.error.startswith("ZeroDivisionError")
        assert db.inbox.requeue(db.conn, "bank") == 0
        assert db.inbox.requeue(db.conn, "shop", "b") == 0
        assert db.inbox.requeue(db.conn, "shop", "a") == 1
        assert db.inbox.requeue(db.conn) == 0
    assert db.inbox.process(worker, fail) == "received"
    db.now += 1
    assert db.inbox.process(worker, apply) == "processed"
    assert db.effects() == ["a"]


def test_a_lease_keeps_others_off(db):
    """A worker that dies leaves its row to another, but only when the lease is over."""
    db.receive("a")
    with pytest.raises(KeyboardInterrupt):
        db.inbox.process(db.open(), die)
    assert db.state("a") == ("processing", 1)
    assert db.inbox.process(db.open(), apply) is None
    db.now += db.inbox.lease
    assert db.inbox.process(db.open(), apply) == "processed"
    assert db.state("a") == ("processed", 2)
    assert db.effects() == ["a"]


def die(conn, message):
    """End as a killed worker does: with an effect that is not committed."""
    apply(conn, message)
    raise KeyboardInterrupt


def test_what_kills_its_worker_is_dead_in_the_end(db):
    """A claim counts as an attempt, though nobody lives to tell of it."""
    db.inbox = db.with_settings(max_attempts=2)
    db.receive("poison")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            db.inbox.process(db.open(), die)
        db.now += db.inbox.lease
    assert db.inbox.process(db.open(), apply) == "dead"
    with transaction(db.conn):
        assert db.inbox.dead(db.conn)[0].error == "the worker died"
    assert db.effects() == []


@pytest.mark.parametrize("other", ["finishes", "dies"])
@pytest.mark.parametrize(("step", "handler"), [(2, apply), (3, fail)])
def test_a_lost_lease_has_no_effect(db, monkeypatch, step, handler, other):
    """A worker that comes too late neither applies nor settles what another one has."""
    db.receive("a")
    real, calls = inbox._transaction, []

    def transaction_of_the_late_one(conn):
        calls.append(conn)
        if len(calls) == step:
            monkeypatch.undo()
            db.now += db.inbox.lease
            if other == "finishes":
                assert db.inbox.process(db.open(), apply) == "processed"
            else:
                with pytest.raises(KeyboardInterrupt):
                    db.inbox.process(db.open(), die)
        return real(conn)

    monkeypatch.setattr(inbox, "_transaction", transaction_of_the_late_one)
    assert db.inbox.process(db.open(), handler) == "processing"
    assert db.effects() == ["a"] * (other == "finishes")
    assert db.state("a") == ("processed" if other == "finishes" else "processing", 2)


def test_a_requeued_row_is_not_the_late_ones(db, monkeypatch):
    """Attempts begin anew when a row is requeued, and yet its claims stay apart."""
    db.inbox = db.with_settings(max_attempts=1)
    db.receive("a")
    real, calls = inbox._transaction, []

    def transaction_of_the_late_one(conn):
        calls.append(conn)
        if len(calls) == 2:
            monkeypatch.undo()
            db.now += db.inbox.lease
            assert db.inbox.process(db.open(), apply) == "dead"
            with transaction(db.conn):
                assert db.inbox.requeue(db.conn) == 1
            with pytest.raises(KeyboardInterrupt):
                db.inbox.process(db.open(), die)
        return real(conn)

    monkeypatch.setattr(inbox, "_transaction", transaction_of_the_late_one)
    assert db.inbox.process(db.open(), apply) == "processing"
    assert db.effects() == []


def test_messages_come_in_the_order_they_are_due(db):
    """The oldest first; one that waits for its next attempt holds up no other."""
    db.receive("a")
    db.now += 1
    db.receive("b")
    seen, worker = [], db.open()

    def handler(conn, message):
        seen.append(message.id)
        if message.id == "a" and message.attempt == 1:
            raise ZeroDivisionError

    states = [db.inbox.process(worker, handler) for _ in range(3)]
    assert states == ["received", "processed", None]
    db.now += 1
    db.inbox.process(worker, handler)
    assert seen == ["a", "b", "a"]


def test_purge(db):
    """What is processed goes after the retention, and no earlier; the rest stays."""
    db.inbox = db.with_settings(retention=2 * DAY, max_attempts=1)
    db.receive("a", "dead")
    worker, start = db.open(), db.now
    for _ in range(2):
        db.inbox.process(worker, lambda c, m: (fail if m.id == "dead" else apply)(c, m))
    db.receive("waiting")
    for age, before, number in [
        (2 * DAY, None, 0),
        (2 * DAY, start + DAY, 0),
        (3 * DAY, start, 0),
        (2 * DAY + 1, start + 9 * DAY, 1),
        (9 * DAY, None, 0),
    ]:
        db.now = start + age
        with transaction(db.conn):
            assert db.inbox.purge(db.conn, before) == number, (age, before)
    assert db.receive("a", "dead", "waiting") == ["accepted", *["duplicate"] * 2]


def test_newer_versions_only(db):
    """A version at or below the newest of its key is refused; keys are apart."""
    steps = [("a", 5), ("a", 4), ("a", 5), ("b", 4), ("a", 6), ("a", -(2**62))]
    with transaction(db.conn):
        told = [inbox.apply_if_newer(db.conn, *step) for step in steps]
    assert told == [True, False, False, True, True, False]
    with transaction(db.conn):
        assert inbox.apply_if_newer(db.conn, "c", -(2**63) + 1)
        assert inbox.apply_if_newer(db.conn, "c", 2**63 - 1)


def test_a_version_is_rolled_back_with_its_news(db):
    """What is not committed is not there, so that the repetition applies it."""

    def handler(conn, message):
        assert inbox.apply_if_newer(conn, "order/7", 3)
        if message.attempt == 1:
            raise ZeroDivisionError
        apply(conn, message)

    db.receive("a")
    worker = db.open()
    assert db.inbox.process(worker, handler) == "received"
    db.now += 1
    assert db.inbox.process(worker, handler) == "processed"
    assert db.effects() == ["a"]


def test_a_handler_is_no_coroutine(db):
    """An async handler, which would do nothing at all, is a failure and says so."""

    async def handler(conn, message):
        raise AssertionError

    db.receive("a")
    with pytest.warns(RuntimeWarning, match="never awaited"):
        assert db.inbox.process(db.open(), handler) == "received"
    (error,) = db.run(db.conn, "SELECT error FROM webhook_inbox")[0]
    assert "not async" in error


def test_a_handler_ends_no_transaction(db):
    """A handler that commits, and so breaks effect and mark apart, is a failure."""

    def handler(conn, message):
        apply(conn, message)
        conn.commit()

    db.receive("a")
    assert db.inbox.process(db.open(), handler) == "received"


def test_a_worker_has_no_transaction_open(db):
    """A worker's transactions would be a part of another one, and end with that."""
    worker = db.open()
    worker.execute("BEGIN")
    with pytest.raises((RuntimeError, sqlite3.OperationalError), match="transaction"):
        db.inbox.process(worker, apply)
    worker.rollback()


def test_each_transition_happens(db):
    """A row goes each way that is in the table, and no other."""
    db.inbox = db.with_settings(max_attempts=3)
    db.receive("a")
    worker, way = db.open(), [db.state("a")[0]]

    def step(then):
        def handler(conn, message):
            way.append(db.state("a")[0])
            then(conn, message)

        try:
            way.append(db.inbox.process(worker, handler))
        except KeyboardInterrupt:
            db.now += db.inbox.lease
        db.now += 1

    for then in (fail, die, fail):
        step(then)
    with transaction(db.conn):
        db.inbox.requeue(db.conn)
    way.append(db.state("a")[0])
    step(apply)
    assert way == [
        *("received", "processing", "received", "processing", "processing", "dead"),
        *("received", "processing", "processed"),
    ]
    table = inbox.TRANSITIONS
    assert set(itertools.pairwise(way)) == {
        (old, new) for (old, _), new in table.items()
    }


def test_rows_may_be_anything(db):
    """A connection whose rows are dictionaries serves as well."""
    db.receive("a")
    worker = db.open()

    def names(cursor, row=None):
        raise AssertionError

    worker.row_factory = names
    assert db.inbox.process(worker, lambda conn, message: None) == "processed"


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["deliver", "deliver", "work", "fail", "die", "late"]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_any_interleaving_ends_the_same(actions):
    """Delivered, repeated, reordered, failed or killed: each has its effect once.

    What is kept is the newest version of those delivered.
    """
    db = Database(lambda: sqlite3.connect(":memory:"))
    db.inbox = db.with_settings(max_attempts=99)

    def handler(conn, message):
        apply(conn, message)
        version = int(message.body)
        if inbox.apply_if_newer(conn, "thing", version):
            conn.execute("DELETE FROM effect WHERE id = 'newest'")
            conn.execute("INSERT INTO effect VALUES (?, 'newest')", [version])

    def then(end):
        def both(conn, message):
            handler(conn, message)
            end(conn, message)

        return both

    delivered = set()
    for number, action in actions:
        if action == "deliver":
            with db.conn:
                name = str(number)
                receipt = db.inbox.receive(
                    db.conn, "s", verified(name, b"%d" % (number * 7 % 5))
                )
            assert receipt == ("duplicate" if number in delivered else "accepted")
            delivered.add(number)
        elif action == "late":
            db.now += db.inbox.lease
        elif action == "die":
            with contextlib.suppress(KeyboardInterrupt):
                db.inbox.process(db.conn, then(die))
        else:
            db.inbox.process(db.conn, then(fail) if action == "fail" else handler)
        db.now += number
    for _ in range(2 * len(delivered) + 2):
        db.now += db.inbox.lease
        db.inbox.process(db.conn, handler)
    assert [n for n in db.effects() if n != "newest"] == sorted(map(str, delivered))
    newest = db.run(db.conn, "SELECT n FROM effect WHERE id = 'newest'")
    assert newest == [(n,) for n in sorted(n * 7 % 5 for n in delivered)[-1:]]
    db.conn.close()


# --- what is kept, and how


@pytest.mark.parametrize(
    "name", [None, "", "x" * 256, "a\x00b", "\ud800", 7, b"a", "a\n"]
)
def test_ids_that_are_refused(name):
    """An id that a database would refuse, or change, is the producer's fault."""
    conn = sqlite3.connect(":memory:")
    box = inbox.Inbox()
    box.create(conn)
    for call in (
        {"message": verified(name)},
        {"message": verified("fine"), "id_of": lambda message: name},
    ):
        with pytest.raises(inbox.MessageError, match="id is missing") as caught:
            box.receive(conn, "shop", **call)
        assert caught.value.reason == "id"
    assert box.receive(conn, "shop", verified("x" * 255)) == "accepted"
    conn.close()


@pytest.mark.parametrize(
    ("error", "given"),
    [
        ("timestamp", {"message": verified(timestamp="17")}),
        ("timestamp", {"message": verified(timestamp=True)}),
        ("timestamp", {"message": verified(timestamp=2**63)}),
        ("source", {"source": ""}),
        ("source", {"source": None}),
    ],
)
def test_what_else_is_refused(error, given):
    """So is a time or a source of no use, with the reason."""
    conn = sqlite3.connect(":memory:")
    with pytest.raises(inbox.MessageError) as caught:
        inbox.Inbox().receive(conn, **{"source": "s", "message": verified(), **given})
    assert caught.value.reason == error
    conn.close()


@pytest.mark.parametrize("body", ["{}", None, bytearray(b"{}")])
def test_a_body_is_bytes(body):
    """Text in the place of bytes is the caller's mistake, since it was decoded."""
    with pytest.raises(TypeError, match="bytes"):
        inbox.Inbox().receive(None, "shop", verified(body=body))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b"\xff", b"{", b"[" * 99_999, b'{"id": 7}']
)
def test_ids_in_bodies_that_have_none(body):
    """An id that is looked for in a body may not be there, in whatever way."""
    with pytest.raises(inbox.MessageError, match="id is missing"):
        inbox.Inbox().receive(None, "stripe", verified(None, body), id_in_body)


def id_in_body(message):
    """Find the id as Stripe has it."""
    return json.loads(message.body)["id"]


def test_ids_in_bodies():
    """The id in the body counts where it is asked for."""
    conn = sqlite3.connect(":memory:")
    box = inbox.Inbox()
    box.create(conn)
    first = [
        box.receive(conn, "s", verified(name, b'{"id": "evt_1"}'), id_in_body)
        for name in (None, "x")
    ]
    assert first == ["accepted", "duplicate"]
    conn.close()


@pytest.mark.parametrize("version", [1.5, True, "1", None, 2**63, -(2**63)])
def test_versions_that_are_refused(version):
    """A version is an int of 64 bits: a fraction or a text has another order."""
    with pytest.raises(inbox.MessageError) as caught:
        inbox.apply_if_newer(None, "order/7", version)
    assert caught.value.reason == "version"
    with pytest.raises(inbox.MessageError) as caught:
        inbox.apply_if_newer(None, "", 1)
    assert caught.value.reason == "key"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease": 0},
        {"lease": float("inf")},
        {"lease": float("nan")},
        {"max_attempts": 0},
    ],
)
def test_settings_that_are_refused(wrong):
    """A lease without end, or an inbox that never tries, is refused at once."""
    with pytest.raises(ValueError, match="above 0"):
        inbox.Inbox(**wrong)


def test_waits_grow_to_an_hour():
    """Waits double, are spread over half of them, and stay below an hour."""
    waits = [inbox.Inbox().backoff(attempt) for attempt in range(1, 12)]
    for n, wait in enumerate(waits):
        whole = min(3600, 5 * 2**n)
        assert whole / 2 <= wait <= whole
    assert inbox.Inbox().backoff(10**6) <= 3600
    assert 4000 < sum(waits) < 9000


def test_defaults():
    """The defaults are as they are documented."""
    box = inbox.Inbox()
    assert (box.lease, box.max_attempts, box.retention) == (60, 12, 7 * DAY)
    assert box.retention > 75.6 * 3600 * 1.2


@pytest.mark.parametrize("isolation", [None, "", "EXCLUSIVE"])
def test_each_way_to_control_transactions(isolation, tmp_path):
    """It makes no difference how a connection of sqlite3 begins transactions."""
    conn = sqlite3.connect(tmp_path / "inbox.db", isolation_level=isolation)
    other = sqlite3.connect(tmp_path / "inbox.db")
    box = inbox.Inbox()
    box.create(conn)
    conn.execute("CREATE TABLE effect (n INTEGER, id TEXT)")
    box.receive(conn, "shop", verified())
    conn.commit()
    assert box.process(conn, apply) == "processed"
    assert other.execute("SELECT id FROM effect").fetchall() == [("msg_1",)]
    conn.close()
    other.close()


# --- handshakes


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"type": "url_verification", "challenge": "3eZ", "token": "t"}', "3eZ"),
        (b'{"type": "event_callback", "challenge": "3eZ"}', None),
        (b'{"type": "url_verification", "challenge": 7}', None),
        (b'{"type": "url_verification", "challenge": "\\ud800"}', None),
        (b'{"type": "url_verification"}', None),
        (b'["url_verification"]', None),
        (b"\xff\xfe", None),
        (b"", None),
        (b"[" * 99_999, None),
        (b"9" * 9999, None),
    ],
)
def test_slack_challenge(body, text):
    """Slack's challenge is found, and nothing else is taken for one."""
    assert inbox.slack_challenge(body) == text


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        ("a.test", ["a.test"], "a.test"),
        ("A.Test", ["a.tEST"], "A.Test"),
        ("b.test", ["a.test"], None),
        ("a.test.evil", ["a.test"], None),
        ("", ["a.test"], None),
        ("", ["*"], None),
        ("*", ["a.test"], None),
        ("b.test", ["*"], "*"),
        ("b.test", ["a.test", "*"], "*"),
        ("a.test, b.test", ["a.test", "b.test"], None),
        ("a.test", [], None),
    ],
)
def test_cloudevents_consent(origin, origins, allowed):
    """Consent is given to those named, in both headers or in none."""
    headers = inbox.cloudevents_consent(origin, origins)
    if allowed is None:
        assert headers == {}
    else:
        assert headers == {
            "WebHook-Allowed-Origin": allowed,
            "WebHook-Allowed-Rate": "*",
        }


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            b"hub.mode=subscribe&hub.topic=t&hub.challenge=a%2Bb+c&hub.lease_seconds=9",
            "a+b c",
        ),
        (b"hub.mode=unsubscribe&hub.topic=t&hub.challenge=x", "x"),
        (b"hub.topic=mine&hub.mode=subscribe&hub.topic=t&hub.challenge=x", "x"),
        (b"hub.mode=subscribe&hub.topic=t&hub.topic=mine&hub.challenge=x", None),
        (b"hub.mode=subscribe&hub.topic=other&hub.challenge=x", None),
        (b"hub.mode=denied&hub.topic=t&hub.challenge=x", None),
        (b"hub.mode=publish&hub.topic=t&hub.challenge=x", None),
        (b"hub.mode=subscribe&hub.topic=t", None),
        (b"hub.mode=subscribe&hub.topic=t&hub.challenge=", None),
        (b"hub.mode=subscribe&hub.challenge=x", None),
        (b"", None),
        (b"hub.mode=subscribe&hub.topic=t&hub.challenge=%ff", None),
        (b"hub.mode=subscribe&hub.topic=t&hub.challenge=\xff", None),
        (b"&".join([b"a=b"] * 65), None),
    ],
)
def test_websub_challenge(query, text):
    """A hub's challenge is echoed for the topic that was asked for, else never."""
    assert inbox.websub_challenge(query, lambda hub: hub["hub.topic"] == "t") == text


@given(
    st.binary(max_size=80)
    | st.text("hub.modetpicalng=&%f0", max_size=80).map(str.encode)
)
def test_any_query(query):
    """No query raises anything."""
    assert inbox.websub_challenge(query, lambda hub: False) is None


# --- the receiver


class Refused(ValueError):
    """What a verifier raises."""

    def __init__(self, reason):
        super().__init__(f"wanted the signature {SECRET!r}")
        self.reason = reason


def verify(body, headers):
    """Take a body that ends in the secret, as if that were a signature."""
    if (b"signature", SECRET) not in list(headers):
        raise Refused("no_match")
    names = [value.decode() for name, value in headers if name == b"webhook-id"]
    return verified(names[0] if names else None, body)


class Accepted(list):
    """A store in memory, which keeps the ids of what it was given."""

    async def __call__(self, message):
        inbox._kept(message.id, "id")
        self.append(message.id)


SIGNED = ((b"signature", SECRET), (b"webhook-id", b"msg_1"))


def ask(app, *parts, method="POST", headers=SIGNED, query=b"", then="http.disconnect"):
    """Send a request in parts; return status, headers and body of the answer.

    How often the app read is among the headers, as `"read"`.
    """
    scope = {"type": "http", "method": method, "headers": list(headers)}
    scope["query_string"] = query
    events = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if events and then == "http.disconnect":
        events[-1]["more_body"] = False
    sent, read = [], []

    async def receive():
        read.append(1)
        if len(read) <= len(events):
            return events[len(read) - 1]
        if then == "nothing":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(event):
        sent.append(event)

    asyncio.run(app(scope, receive, send))
    start, body = sent
    assert [start["type"], body["type"]] == [
        "http.response.start",
        "http.response.body",
    ]
    fields = {name.decode(): value.decode() for name, value in start["headers"]}
    assert len(fields) == len(start["headers"])
    assert all(name == name.lower() for name in fields)
    assert int(fields["content-length"]) == len(body["body"])
    return start["status"], fields | {"read": len(read)}, body["body"]


def problem(status, fields, body):
    """Return the detail of a problem document, which tells no secret."""
    assert fields["content-type"] == "application/problem+json"
    document = json.loads(body)
    assert document["status"] == status
    assert document["title"]
    assert SECRET not in body
    return document["detail"]


def test_a_message_is_accepted():
    """What is verified and stored is answered 202, without a body."""
    accepted = Accepted()
    app = inbox.WebhookReceiver(verify, accepted)
    status, _, body = ask(app, b"{", b"", b"}")
    assert (status, body, accepted) == (202, b"", ["msg_1"])


def test_over_a_real_inbox(tmp_path):
    """A duplicate is answered as the first was, and is there once."""
    box, path = inbox.Inbox(), tmp_path / "inbox.db"
    conn = sqlite3.connect(path)
    box.create(conn)

    async def accept(message):
        with conn:
            box.receive(conn, "shop", message)

    app = inbox.WebhookReceiver(verify, accept)
    assert [ask(app, b"{}")[0] for _ in range(3)] == [202] * 3
    assert conn.execute("SELECT count(*) FROM webhook_inbox").fetchone() == (1,)
    conn.close()


@pytest.mark.parametrize(
    "verifier",
    [
        verify,
        lambda body, headers: True,
        lambda body, headers: None,
        lambda body, headers: verified(body="decoded"),
        lambda body, headers: body.decode(),
        lambda body, headers: {}["signature"],
    ],
)
def test_what_is_not_verified_is_refused(verifier, caplog):
    """Without a message of the verifier's there is a 400, and nothing is stored."""
    caplog.set_level(logging.INFO)
    accepted = Accepted()
    answer = ask(inbox.WebhookReceiver(verifier, accepted), b"\xff", headers=())
    assert answer[0] == 400
    assert problem(*answer) == "the signature is not valid"
    assert accepted == []
    assert SECRET.decode() not in caplog.text
    if verifier is verify:
        assert "no_match" in caplog.text


def test_a_refusal_in_the_way_of_websub():
    """A hub wants 2xx for a wrong signature too, and the message is left out."""
    accepted = Accepted()
    app = inbox.WebhookReceiver(verify, accepted, refused=202)
    assert ask(app, b"{}", headers=())[0] == 202
    assert accepted == []


@pytest.mark.parametrize("name", [b"", b"x" * 256, b"a\tb"])
def test_an_id_of_no_use(name):
    """A verified message without a usable id is the producer's fault."""
    app = inbox.WebhookReceiver(verify, Accepted())
    headers = ((b"signature", SECRET), (b"webhook-id", name))
    answer = ask(app, b"{}", headers=headers)
    assert answer[0] == 400
    assert problem(*answer) == "the id is missing or malformed"


@pytest.mark.parametrize(
    ("length", "parts", "read"),
    [
        (b"11", [b""], 0),
        (b"99999999999999999999999", [b""], 0),
        (b"2", [b"x" * 11, b"x"], 1),
        (b"2", [b"xxxx", b"xxxx", b"xxxx", b"xxxx"], 3),
        (None, [b"xxxx", b"xxxx", b"xxxx", b"xxxx"], 3),
        (b"many", [b"x" * 11], 1),
    ],
)
def test_too_large_a_body(length, parts, read):
    """A body over the limit is refused as soon as that is known, whatever was said."""
    headers = [*SIGNED, *([(b"content-length", length)] if length else [])]
    calls = []
    app = inbox.WebhookReceiver(lambda *args: calls.append(args), None, max_body=10)
    answer = ask(app, *parts, headers=headers, then="nothing")
    assert answer[0] == 413
    assert "10 bytes" in problem(*answer)
    assert answer[1]["connection"] == "close"
    assert answer[1]["read"] == read
    assert calls == []


@pytest.mark.parametrize("length", [b"10", b"0", b"3", b"-1", b"\xb2", b"1e9", b""])
def test_a_body_at_the_limit(length):
    """A body of the limit is read, though its length was said to be another."""
    app = inbox.WebhookReceiver(verify, Accepted(), max_body=10)
    headers = [*SIGNED, (b"content-length", length)]
    assert ask(app, b"x" * 10, headers=headers)[0] == 202


def test_a_body_that_does_not_come():
    """A body that is not sent is not waited for without end."""
    app = inbox.WebhookReceiver(verify, Accepted(), timeout=1e-6)
    answer = ask(app, b"{", then="nothing")
    assert answer[0] == 408
    assert problem(*answer)
    assert answer[1]["connection"] == "close"


def test_a_client_that_is_gone():
    """Half a body is no message."""
    accepted = Accepted()
    app = inbox.WebhookReceiver(verify, accepted)
    assert ask(app, b"{}", then="gone")[0] == 408
    assert accepted == []


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "OPTIONS", "TRACE", "post", ""]
)
def test_other_methods(method):
    """Only POST delivers, and the answer says so."""
    app = inbox.WebhookReceiver(verify, Accepted())
    answer = ask(app, b"{}", method=method)
    assert answer[0] == 405
    assert answer[1]["allow"] == "POST"
    assert problem(*answer)


@pytest.mark.parametrize("slow", [False, True])
def test_a_store_that_fails(slow, caplog):
    """The producer is asked to repeat, and is not told what broke."""

    async def accept(message):
        if slow:
            await asyncio.Event().wait()
        raise sqlite3.OperationalError("/var/lib/inbox.db is locked")

    app = inbox.WebhookReceiver(verify, accept, timeout=1e-6 if slow else 9)
    answer = ask(app, b"{}")
    assert answer[0] == 503
    assert answer[1]["retry-after"] == "30"
    assert "lib" not in problem(*answer)
    assert SECRET.decode() not in caplog.text
    assert slow or "is locked" in caplog.text


def test_a_cancelled_request_is_not_answered():
    """Cancellation, such as at the end of a server, goes through."""

    async def accept(message):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        ask(inbox.WebhookReceiver(verify, accept), b"{}")


def test_what_is_no_request():
    """Lifespan is not for it, which servers take from the error."""
    app = inbox.WebhookReceiver(verify, Accepted())
    with pytest.raises(RuntimeError, match="HTTP"):
        asyncio.run(app({"type": "lifespan"}, None, None))


def test_an_upgrade_is_refused():
    """A WebSocket is closed before it is one, which servers answer with 403."""
    sent = []

    async def send(message):
        sent.append(message)

    app = inbox.WebhookReceiver(verify, Accepted())
    asyncio.run(app({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1000}]


def test_a_server_that_never_suspends():
    """Empty pieces without end run into the time limit as well."""

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    app = inbox.WebhookReceiver(verify, Accepted(), timeout=0.05)
    asyncio.run(app({"type": "http", "method": "POST", "headers": []}, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("status", [199, 204, 299, 500])
def test_refusals_that_make_no_sense(status):
    """A status that cannot be sent so is refused where the receiver is made."""
    with pytest.raises(ValueError, match="refused"):
        inbox.WebhookReceiver(verify, Accepted(), refused=status)


def test_slack_is_answered_once_verified():
    """A challenge is echoed as plain text, but only to Slack."""
    body = b'{"type": "url_verification", "challenge": "<b>3eZ</b>"}'
    accepted = Accepted()
    app = inbox.WebhookReceiver(verify, accepted, challenge=inbox.slack_challenge)
    status, fields, text = ask(app, body)
    assert (status, text) == (200, b"<b>3eZ</b>")
    assert fields["content-type"] == "text/plain; charset=utf-8"
    assert fields["x-content-type-options"] == "nosniff"
    assert ask(app, body, headers=())[0] == 400
    assert accepted == []
    assert ask(app, b'{"type": "event_callback"}')[0] == 202


def test_cloudevents_handshake():
    """OPTIONS of a sender that is let in is consented to; of another it is a 405."""
    app = inbox.WebhookReceiver(verify, None, origins=["a.test"], rate=120)
    name = b"webhook-request-origin"
    status, fields, _ = ask(app, method="OPTIONS", headers=[(name, b"a.test")])
    assert status == 200
    assert fields["webhook-allowed-origin"] == "a.test"
    assert fields["webhook-allowed-rate"] == "120"
    assert fields["allow"] == "POST, OPTIONS"
    for headers in (
        [],
        [(name, b"\xff")],
        [(name, b"a.test")] * 2,
        [(name, b"b.test")],
    ):
        status, fields, _ = ask(app, method="OPTIONS", headers=headers)
        assert (status, fields["allow"]) == (405, "POST, OPTIONS")
        assert not any(name.startswith("webhook") for name in fields)


def test_websub_handshake():
    """GET for a topic that was asked for is echoed; for another it is a 404."""
    app = inbox.WebhookReceiver(
        verify, None, is_wanted=lambda hub: hub["hub.topic"] == "t"
    )
    query = b"hub.mode=subscribe&hub.challenge=%3Cb%3E%C3%BC&hub.topic="
    status, fields, body = ask(app, method="GET", query=query + b"t")
    assert (status, body) == (200, "<b>ü".encode())
    assert fields["content-type"].startswith("text/plain")
    answer = ask(app, method="GET", query=query + b"other")
    assert answer[0] == 404
    assert problem(*answer)
    assert ask(app, method="PUT")[1]["allow"] == "POST, GET"


def test_hooks_that_fail_are_no_500():
    """What is ours and fails is a 503, like the store."""
    app = inbox.WebhookReceiver(verify, None, is_wanted=lambda hub: hub["hub.reason"])
    query = b"hub.mode=subscribe&hub.challenge=x&hub.topic=t"
    assert ask(app, method="GET", query=query)[0] == 503


def test_a_receiver_shows_nothing():
    """Its repr has no verifier, which may hold a secret."""
    assert SECRET.decode() not in repr(inbox.WebhookReceiver(SECRET, None))


NAMES = st.sampled_from(
    [b"content-length", b"content-type", b"webhook-id", b"signature", b"x", b""]
) | st.binary(max_size=9)


@settings(deadline=None)
@given(
    method=st.sampled_from(["POST", "GET", "OPTIONS", "PUT"]) | st.text(max_size=5),
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=30)), max_size=6),
    parts=st.lists(st.binary(max_size=20), max_size=4),
    query=st.binary(max_size=30),
    then=st.sampled_from(["http.disconnect", "gone"]),
)
def test_hostile_requests(method, headers, parts, query, then):
    """No request that is not signed reaches the store, or is answered by 5xx or 2xx."""
    accepted = Accepted()
    app = inbox.WebhookReceiver(
        verify,
        accepted,
        max_body=30,
        challenge=inbox.slack_challenge,
        origins=["a.test"],
        is_wanted=lambda hub: False,
    )
    headers = [pair for pair in headers if pair != (b"signature", SECRET)]
    answer = ask(app, *parts, method=method, headers=headers, query=query, then=then)
    assert accepted == []
    assert 400 <= answer[0] < 500
    problem(*answer)
