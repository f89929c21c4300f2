"""Tests of `patterns/webhooks/outbox.py`; they can be copied along with it."""

import base64
import json
import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.webhooks import outbox

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"t" * 32).decode()
URL = "https://hooks.test/in?token=t0ken"
WELL = (0, None, None)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Box:
    """An outbox over a file, a producer's connection, and what is in the tables."""

    def __init__(self, path, **settings):
        self.path, self.clock = path, Clock()
        self.outbox = outbox.Outbox(path, clock=self.clock, **settings)
        self.conn = sqlite3.connect(path)
        self.outbox.create(self.conn)

    def register(self, *types, url=URL, **options):
        """Return the id of a new endpoint."""
        with self.conn:
            kinds = types or ["*"]
            return self.outbox.register(self.conn, url, kinds, SECRET, **options)

    def publish(self, *args, **options):
        """Publish in a transaction of its own."""
        with self.conn:
            return self.outbox.publish(self.conn, *args, **options)

    def claim(self, limit=100, lease=60, per_endpoint=100):
        """Claim as a worker does."""
        return self.outbox.claim(limit, lease, per_endpoint=per_endpoint)

    def settle(self, claims, state="succeeded", due=None, health=WELL, disable=None):
        """Settle claims with a decision that is given."""
        following = (state, due, "why", health, disable)
        done = [(claim, (None, "timeout", "answer", None)) for claim in claims]
        self.outbox.settle(done, lambda *_: following)

    def rows(self, sql):
        """Return what a query gives, by a connection of its own."""
        with closing(sqlite3.connect(self.path)) as conn:
            return conn.execute(sql).fetchall()

    def states(self):
        """Return the state of each delivery, by message."""
        return dict(self.rows("SELECT message, state FROM webhook_delivery"))


@pytest.fixture
def box(tmp_path):
    """Return a box, and close it."""
    box = Box(tmp_path / "app.db")
    yield box
    box.conn.close()
    box.outbox.close()


# -- publishing -------------------------------------------------------------------


def test_rollback_takes_the_event_back(box):
    """Nothing is sent for what did not happen."""
    box.register()
    box.outbox.publish(box.conn, "invoice.paid", {})
    box.conn.rollback()
    assert box.claim() == []
    assert box.rows("SELECT * FROM webhook_message") == []


def test_commit_keeps_the_event_beside_the_data(box):
    """The business row and the event are there together, or neither is."""
    box.conn.execute("CREATE TABLE invoice (id)")
    box.register()
    with box.conn:
        box.conn.execute("INSERT INTO invoice VALUES (7)")
        id = box.outbox.publish(box.conn, "invoice.paid", {"id": 7})
        assert box.states() == {}  # nobody sees it before
    (claim,) = box.claim()
    assert (claim.message, claim.event_type, claim.attempt) == (id, "invoice.paid", 1)
    assert (claim.url, claim.secrets) == (URL, (SECRET,))


@pytest.mark.parametrize("way", ["publish", "register", "disable", "replay", "recover"])
def test_no_transaction_is_refused(box, way):
    """A connection that commits each statement cannot keep event and data together."""
    endpoint = box.register()
    id = box.publish("a", 1)
    calls = {
        "publish": ("a", 1),
        "register": (URL, ["a"], SECRET),
        "disable": (endpoint,),
        "replay": (id,),
        "recover": (endpoint, 0),
    }
    with closing(sqlite3.connect(box.path, isolation_level=None)) as conn:
        with pytest.raises(outbox.NotInTransactionError):
            getattr(box.outbox, way)(conn, *calls[way])
        conn.execute("BEGIN")
        getattr(box.outbox, way)(conn, *calls[way])
        conn.execute("ROLLBACK")


def test_other_connections_are_refused(box):
    """What is neither sqlite3's nor psycopg's is told so."""
    with pytest.raises(TypeError, match="sqlite3"):
        box.outbox.publish(object(), "a", 1)


def test_rows_of_any_factory(box):
    """A connection whose rows are dicts works as any."""
    box.conn.row_factory = lambda cursor, row: {"nothing": row}
    endpoint = box.register()
    with box.conn:
        box.outbox.rotate_secret(box.conn, endpoint, OTHER)
    assert box.outbox.dead(box.conn) == []


def test_payload_of_the_standard(box):
    """A value is sent with its type and time; bytes are sent as they are."""
    box.register()
    box.publish("a.b", {"name": "Zoë 😀"}, now=0.5)
    box.publish("a.b", b"\xff{}")
    first, second = box.claim()
    assert first.payload == (
        '{"type":"a.b","timestamp":"1970-01-01T00:00:00.500Z",'
        '"data":{"name":"Zoë 😀"}}'.encode()
    )
    assert second.payload == b"\xff{}"


def test_publishing_an_id_again_changes_nothing(box):
    """The first one stands, and its deliveries are not doubled."""
    box.register()
    assert box.publish("a", 1, id="evt_1") == "evt_1"
    assert box.publish("a", 2, id="evt_1") == "evt_1"
    (claim,) = box.claim()
    assert json.loads(claim.payload)["data"] == 1


def test_an_id_of_another_event(box):
    """An id that another tenant or type has is no repetition, and is refused."""
    box.publish("a", 1, id="evt_1")
    for other in ({"event_type": "b"}, {"tenant": "other"}):
        event = {"event_type": "a", "data": 1, "id": "evt_1", **other}
        with pytest.raises(ValueError, match="another event"):
            box.publish(**event)


def test_event_types_are_a_collection():
    """One name is no list of its letters."""
    with pytest.raises(ValueError, match="collection"):
        outbox.Outbox(event_types="a.b")


def recursive():
    """Return a list deeper than any parser goes."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("event_type", "data", "options"),
    [
        ("", 1, {}),
        ("a..b", 1, {}),
        ("a.*", 1, {}),
        ("*", 1, {}),
        ("a\n", 1, {}),
        ("é", 1, {}),
        ("a" * 129, 1, {}),
        (None, 1, {}),
        ("a", 1, {"id": ""}),
        ("a", 1, {"id": "with.dot"}),
        ("a", 1, {"id": "a\n"}),
        ("a", 1, {"id": "a" * 65}),
        ("a", 1, {"id": 7}),
        ("a", {1, 2}, {}),
        ("a", float("nan"), {}),
        ("a", "\ud800", {}),
        ("a", recursive(), {}),
        ("a", b"x" * 101, {}),
    ],
)
def test_bad_events_are_refused(tmp_path, event_type, data, options):
    """Whatever is wrong with an event is a ValueError at the call that made it."""
    box = Box(tmp_path / "app.db", max_payload=100)
    with pytest.raises(ValueError, match=r"."):
        box.publish(event_type, data, **options)
    assert box.rows("SELECT * FROM webhook_message") == []


def test_payload_up_to_the_limit(tmp_path):
    """A body of exactly the limit is taken."""
    box = Box(tmp_path / "app.db", max_payload=100)
    assert box.publish("a", b"x" * 100)


# -- subscriptions ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "event_type", "matches"),
    [
        ("invoice.paid", "invoice.paid", True),
        ("invoice.paid", "invoice.paid_late", False),
        ("invoice.paid", "invoice.pai", False),
        ("invoice.paid", "Invoice.paid", False),
        ("invoice.*", "invoice.paid", True),
        ("invoice.*", "invoice.line.added", True),
        ("invoice.*", "invoice", False),
        ("invoice.*", "invoices.paid", False),
        ("in_oice.*", "invoice.paid", False),
        ("*", "invoice.paid", True),
    ],
)
def test_filters(box, pattern, event_type, matches):
    """A type exactly, all below a prefix, or all there are; `_` stands for itself."""
    box.register(pattern)
    box.publish(event_type, 1)
    assert len(box.claim()) == matches


def test_one_delivery_an_endpoint(box):
    """Filters that overlap do not double, and each endpoint has its own."""
    first = box.register("a", "a.*", "*", "a")
    second = box.register("*")
    box.register("b")
    box.publish("a", 1)
    assert sorted(claim.endpoint for claim in box.claim()) == sorted([first, second])


def test_tenants_are_apart(box):
    """An endpoint gets nothing of another tenant's."""
    mine = box.register(tenant="ann")
    box.register(tenant="bob")
    box.register()
    box.publish("a", 1, tenant="ann")
    assert [claim.endpoint for claim in box.claim()] == [mine]
    with box.conn:
        assert box.outbox.recover(box.conn, mine, 0) == 0


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "hooks.test",
            "//hooks.test",
            "ftp://hooks.test",
            "https://",
            "https:///x",
        ),
        *(
            "https://ann:s3cret@hooks.test",
            "https://hooks.test#part",
            "https://a b.test",
        ),
        *(
            "https://hooks.test\\@inside",
            "https://hooks.test:0",
            "https://a.test:99999",
        ),
        *(
            "https://hooks.test/\n",
            "https://höoks.test",
            "https://[::1",
            "https://a..b",
        ),
        *("https://[1.2.3.4]", "HTTPS//a", "https://a.test/" + "a" * 2048, None, b"x"),
        *(
            "javascript:alert(1)",
            "https://a.test:x",
            "https://a.test/\u00e9",
            "https://?",
        ),
    ],
)
def test_bad_urls_are_refused(box, url):
    """A malformed URL is a ValueError that tells nothing of it."""
    with pytest.raises(ValueError, match="URL") as caught:
        box.register("*", url=url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.test", "http://127.0.0.1:8000/in?a=b", "https://[::1]:8443/"),
        *("https://a_b.xn--hks-2qa.test./~x;y=%20", "https://a.test?x"),
    ],
)
def test_good_urls_are_taken(box, url):
    """What an HTTP client can send to is taken as it is."""
    box.register("*", url=url)
    box.publish("a", 1)
    assert box.claim()[0].url == url


def test_check_has_the_last_word(box):
    """What the caller's check raises is raised, and nothing is registered."""

    def check(url):
        raise ValueError(f"not to {url[:8]}")

    with pytest.raises(ValueError, match="not to https://"):
        box.register("*", check=check)
    assert box.rows("SELECT * FROM webhook_endpoint") == []


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", SECRET[6:], "whsec_" + "e" * 31, "v1," + SECRET, SECRET + "\n"),
        *("whsec_" + base64.b64encode(b"s" * 23).decode(), "whsec_-" + SECRET[7:]),
        *("whsec_" + base64.b64encode(b"s" * 65).decode(), "whpk_" + SECRET[6:], None),
        *("whsk_" + base64.b64encode(b"s" * 32).decode(), SECRET + "é", b"whsec_"),
    ],
)
def test_bad_secrets_are_refused(box, secret):
    """A secret that is short, or no base64 with its prefix, is refused and not told."""
    endpoint = box.register()
    for call in (
        lambda: box.outbox.register(box.conn, URL, ["*"], secret),
        lambda: box.outbox.rotate_secret(box.conn, endpoint, secret),
    ):
        with pytest.raises(ValueError, match="whsec_") as caught:
            call()
        assert not secret or len(secret) < 7 or str(secret[6:]) not in str(caught.value)


def test_ed25519_keys_are_taken(box):
    """A `whsk_` key has 64 bytes: the seed and the public key."""
    with box.conn:
        key = "whsk_" + base64.b64encode(b"k" * 64).decode()
        assert box.outbox.register(box.conn, URL, ["*"], key)


@pytest.mark.parametrize("types", [[], "invoice.paid", ["a."], ["*.a"], ["a*"], [None]])
def test_bad_filters_are_refused(box, types):
    """A filter is a type, a prefix with `.*`, or `*`; text is no list of them."""
    with pytest.raises(ValueError, match="event"):
        box.outbox.register(box.conn, URL, types, SECRET)


def test_catalogue_of_types(tmp_path):
    """Where the types are named, one that is not is refused on both ends."""
    box = Box(tmp_path / "app.db", event_types=["invoice.paid", "order.made"])
    assert box.register("invoice.*", "order.made", "*", "endpoint.disabled")
    for pattern in ("invoice.made", "orders.*", "invoice.paid.*"):
        with pytest.raises(ValueError, match="unknown event type"):
            box.register(pattern)
    assert box.publish("invoice.paid", 1)
    with pytest.raises(ValueError, match=r"unknown event type: invoice\.made"):
        box.publish("invoice.made", 1)


# -- secrets ----------------------------------------------------------------------


def secrets(box):
    """Return the secrets that an attempt made now is signed with."""
    box.publish("a", 1)
    return box.claim()[-1].secrets


def test_rotation_with_overlap(box):
    """The old secret signs along for the overlap, and no longer."""
    endpoint = box.register()
    with box.conn:
        box.outbox.rotate_secret(box.conn, endpoint, OTHER, overlap=100)
    assert secrets(box) == (OTHER, SECRET)
    box.clock.now += 99.9
    assert secrets(box) == (OTHER, SECRET)
    box.clock.now += 0.1
    assert secrets(box) == (OTHER,)


def test_second_rotation_lengthens_no_overlap(box):
    """A secret that was to go goes when it was to; ten are kept at the most."""
    endpoint = box.register()
    many = ["whsec_" + base64.b64encode(bytes([n] * 24)).decode() for n in range(12)]
    with box.conn:
        box.outbox.rotate_secret(box.conn, endpoint, many[0], overlap=10)
        box.outbox.rotate_secret(box.conn, endpoint, many[1], overlap=1000)
    assert secrets(box) == (many[1], many[0], SECRET)
    box.clock.now += 10
    assert secrets(box) == (many[1], many[0])
    with box.conn:
        for secret in many:
            box.outbox.rotate_secret(box.conn, endpoint, secret, overlap=1000)
    assert secrets(box) == tuple(many[:1:-1])


def test_rotation_to_the_same_secret(box):
    """Its signature is not sent twice."""
    endpoint = box.register()
    with box.conn:
        box.outbox.rotate_secret(box.conn, endpoint, SECRET)
    assert secrets(box) == (SECRET,)


@pytest.mark.parametrize("overlap", [-1, float("inf"), float("nan")])
def test_overlap_is_a_time(box, overlap):
    """An overlap that is no number of seconds is refused."""
    with pytest.raises(ValueError, match="overlap"):
        box.outbox.rotate_secret(box.conn, "x", OTHER, overlap)


def test_no_secret_in_a_repr(box):
    """A claim tells neither its secrets nor its URL's query nor its body."""
    box.register()
    box.publish("a", "private")
    told = repr(box.claim())
    assert not any(word in told for word in (SECRET[6:], "t0ken", "private"))


# -- claims -----------------------------------------------------------------------


def test_lease(box):
    """A claim is one worker's until its lease runs out, and then another's."""
    box.register()
    box.publish("a", 1)
    (first,) = box.claim(lease=60)
    box.clock.now += 59.9
    assert box.claim() == []
    box.clock.now += 0.1
    (second,) = box.claim()
    assert (second.delivery, second.attempt) == (first.delivery, 1)


def test_late_worker_settles_nothing(box):
    """What a worker reports whose lease went to another changes nothing."""
    box.register()
    box.publish("a", 1)
    late = box.claim(lease=60)
    box.clock.now += 60
    box.claim()
    box.settle(late, "dead", health=(9, 1.0, 2.0), disable="gone")
    assert list(box.states().values()) == ["sending"]
    assert box.rows("SELECT status, failures FROM webhook_endpoint") == [("active", 0)]


def test_settled_is_settled(box):
    """What was settled once is not settled again, whoever asks for it."""
    box.register()
    box.publish("a", 1)
    claims = box.claim()
    box.settle(claims)
    box.settle(claims, "dead")
    assert list(box.states().values()) == ["succeeded"]


def test_retry_is_claimed_when_due(box):
    """An attempt that failed comes again when it is due, with the next number."""
    box.register()
    id = box.publish("a", 1)
    box.settle(box.claim(), "retrying", due=1005.0)
    box.clock.now = 1004.9
    assert box.claim() == []
    box.clock.now = 1005
    assert [(claim.message, claim.attempt) for claim in box.claim()] == [(id, 2)]


def test_one_endpoint_holds_its_own_slots_only(box):
    """Claims that are not settled keep their endpoint's slots, and no other's."""
    hanging = box.register("slow")
    other = box.register("fast")
    for _ in range(50):
        box.publish("slow", 1)
    assert len(box.claim(per_endpoint=2)) == 2
    box.publish("fast", 1)
    assert [claim.endpoint for claim in box.claim(per_endpoint=2)] == [other]
    box.clock.now += 60  # the leases run out
    claims = box.claim(per_endpoint=2)
    assert [claim.endpoint for claim in claims].count(hanging) == 2


def test_backlog_of_one_endpoint_hides_no_other(box):
    """A worker with few slots free gives each endpoint a share of them."""
    big, small = box.register("big"), box.register("small")
    for n in range(20):
        box.clock.now += 1
        box.publish("big", n)
    box.publish("small", 1)
    claims = box.claim(limit=4)
    assert len(claims) <= 4
    assert {claim.endpoint for claim in claims} == {big, small}


def test_open_endpoint_is_left_alone_and_then_probed(box):
    """Nothing is claimed until the time is over, and then one at a time."""
    box.register()
    for n in range(4):
        box.publish("a", n)
    (first, *_) = box.claim(limit=1)
    box.settle([first], "retrying", due=1000.0, health=(5, 1000.0, 1060.0))
    assert box.claim() == []
    box.clock.now = 1060
    (probe,) = box.claim()
    assert box.claim() == []
    box.settle([probe])
    assert len(box.claim()) == 3


def test_claims_are_in_order(box):
    """Of one endpoint the oldest comes first."""
    box.register()
    ids = []
    for n in range(5):
        box.clock.now += 1
        ids.append(box.publish("a", n))
    assert [claim.message for claim in box.claim()] == ids


def test_two_workers_share(box):
    """Threads that claim at once never have the same delivery."""
    for _ in range(4):
        box.register()
    for n in range(25):
        box.publish("a", n)
    got, lock = [], threading.Lock()

    def work():
        while claims := box.claim(limit=7):
            with lock:
                got.extend(claim.delivery for claim in claims)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 100


def test_decision_sees_the_row_as_it_is(box):
    """Each decision of a batch sees the health that the one before it left."""
    box.register()
    for n in range(3):
        box.publish("a", n)
    seen = []

    def decide(outcome, attempt, health, now):
        seen.append((outcome[1], attempt, health, now))
        return ("retrying", now + 5, "why", (health[0] + 1, 7.0, None), None)

    done = [(claim, (None, "timeout", "", None)) for claim in box.claim()]
    box.outbox.settle(done, decide)
    assert seen == [
        ("timeout", 1, (0, None, None), 1000.0),
        ("timeout", 1, (1, 7.0, None), 1000.0),
        ("timeout", 1, (2, 7.0, None), 1000.0),
    ]
    box.outbox.settle([], decide)


# -- ends, and ways back ----------------------------------------------------------


def test_dead_letters_and_replay(box):
    """A delivery that was given up is kept with its reason, and replayed by its id."""
    endpoint = box.register()
    id = box.publish("a", 1)
    box.settle(box.claim(), "dead")
    (letter,) = box.outbox.dead(box.conn)
    assert letter == (id, endpoint, "a", 1, "why", None, "answer")
    assert box.claim() == []
    with box.conn:
        assert box.outbox.replay(box.conn, id) == id
    assert [(claim.message, claim.attempt) for claim in box.claim()] == [(id, 1)]
    assert box.outbox.dead(box.conn) == []


def test_replay_with_a_new_id(box):
    """A copy has another id, the same body, and the same endpoints."""
    box.register()
    box.register("b")
    id = box.publish("a", 1)
    box.settle(box.claim())
    with box.conn:
        new = box.outbox.replay(box.conn, id, new_id=True)
    (claim,) = box.claim()
    assert claim.message == new != id
    assert json.loads(claim.payload)["data"] == 1
    assert box.states()[id] == "succeeded"


def test_replay_to_one_endpoint(box):
    """Only the endpoint that is named gets it again."""
    first, second = box.register(), box.register()
    id = box.publish("a", 1)
    box.settle(box.claim())
    with box.conn:
        box.outbox.replay(box.conn, id, endpoint=second)
    assert [claim.endpoint for claim in box.claim()] == [second]
    with box.conn:
        box.outbox.disable(box.conn, first)
        with pytest.raises(LookupError):
            box.outbox.replay(box.conn, id, endpoint=first)
        with pytest.raises(LookupError):
            box.outbox.replay(box.conn, "unknown", new_id=True)


def test_replay_leaves_alone_what_is_being_sent(box):
    """A delivery on its way is not sent a second time beside it."""
    box.register()
    id = box.publish("a", 1)
    claims = box.claim()
    with box.conn:
        box.outbox.replay(box.conn, id)
    assert box.claim() == []
    box.settle(claims)
    assert box.states() == {id: "succeeded"}


def test_disabled_endpoint(box):
    """It gets nothing more, and the others are told so, once."""
    gone, other = box.register("a"), box.register("endpoint.*")
    id = box.publish("a", 1)
    box.settle(box.claim(), "dead", disable="gone")
    with box.conn:
        box.outbox.disable(box.conn, gone, "again")
    box.publish("a", 2)
    (told,) = box.claim()
    assert (told.endpoint, told.event_type) == (other, "endpoint.disabled")
    assert json.loads(told.payload)["data"] == {"endpoint": gone, "reason": "gone"}
    assert box.states()[id] == "dead"


def test_disabling_cancels_and_recovery_brings_back(box):
    """Enabled again, an endpoint gets what is new, and by `recover` what it missed."""
    endpoint = box.register("a")
    box.settle(box.claim())
    before = box.publish("a", 0)
    box.settle(box.claim())
    box.clock.now = 1001
    waiting = box.publish("a", 1)
    with box.conn:
        box.outbox.disable(box.conn, endpoint)
    assert box.states()[waiting] == "cancelled"
    box.clock.now = 1002
    missed = box.publish("a", 2)
    box.publish("b", 2)
    box.clock.now = 1003
    later = box.publish("a", 3)
    with box.conn:
        box.outbox.enable(box.conn, endpoint)
    assert box.claim() == []
    with box.conn:
        assert box.outbox.recover(box.conn, endpoint, 1000, 1003) == 2
        assert box.outbox.recover(box.conn, endpoint, 1000, 1003) == 0
    assert {claim.message for claim in box.claim()} == {waiting, missed}
    assert box.states()[before] == "succeeded"
    assert later not in box.states()


def test_enabling_forgets_the_failures(box):
    """An endpoint that is enabled is sent to at once."""
    endpoint = box.register()
    box.publish("a", 1)
    health = (5, 1.0, 9999.0)
    box.settle(box.claim(), "retrying", due=1.0, health=health, disable="failing")
    box.publish("a", 2)
    with box.conn:
        box.outbox.enable(box.conn, endpoint)
        box.outbox.recover(box.conn, endpoint, 0)
    assert len(box.claim()) == 3  # and that it was disabled


@pytest.mark.parametrize("way", ["enable", "disable", "recover", "rotate_secret"])
def test_unknown_endpoint(box, way):
    """An endpoint that is not there is told so."""
    more = {"recover": [0], "rotate_secret": [OTHER]}.get(way, [])
    with pytest.raises(LookupError, match="no such endpoint"):
        getattr(box.outbox, way)(box.conn, "ep_x", *more)


# -- connections ------------------------------------------------------------------


def test_producer_alone_claims_nothing():
    """An outbox that was not told how to connect says so."""
    with pytest.raises(ValueError, match="how to connect"):
        outbox.Outbox().claim(1, 1)


def test_error_rolls_back(box):
    """A settlement is all or nothing, and the connection is used again."""
    box.register()
    box.publish("a", 1)
    box.publish("a", 2)
    done = [(claim, (None, "timeout", "", None)) for claim in box.claim()]
    answers = iter([("succeeded", None, "", WELL, None)])
    with pytest.raises(StopIteration):
        box.outbox.settle(done, lambda *_: next(answers))
    assert set(box.states().values()) == {"sending"}
    box.settle([claim for claim, _ in done])
    assert set(box.states().values()) == {"succeeded"}


def test_broken_connection_is_replaced(tmp_path):
    """A worker whose connection broke opens another the next time."""
    box, opened = Box(tmp_path / "app.db"), []

    def connect():
        conn = sqlite3.connect(box.path)
        opened.append(conn)
        return conn

    worker = outbox.Outbox(connect)
    assert worker.claim(1, 1) == worker.claim(1, 1) == []
    assert len(opened) == 1
    opened[0].close()
    with pytest.raises(sqlite3.ProgrammingError):
        worker.claim(1, 1)
    assert worker.claim(1, 1) == []
    assert len(opened) == 2


def test_clock_of_the_database(tmp_path):
    """Without a clock of its own, an outbox goes by the database's."""
    box = Box(tmp_path / "app.db")
    worker = outbox.Outbox(box.path)
    with box.conn:
        endpoint = worker.register(box.conn, URL, ["*"], SECRET)
        worker.publish(box.conn, "a", 1)
        now = "(julianday('now') - 2440587.5) * 86400"
    ((age,),) = box.rows(f"SELECT {now} - created FROM webhook_message")
    assert 0 <= age < 60
    (claim,) = worker.claim(1, 60)
    assert claim.endpoint == endpoint
    ((left,),) = box.rows(f"SELECT due - {now} FROM webhook_delivery")
    assert 0 < left <= 60


# -- any order of steps -----------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "claim", "succeed", "fail", "die", "pass", "disable", "enable"]
        ),
        st.integers(0, 9),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_no_event_is_lost_whatever_happens(steps):
    """After any steps each event is delivered, at its end, or can be recovered."""
    conn, clock = sqlite3.connect(":memory:"), Clock()
    box = outbox.Outbox(lambda: conn, clock=clock)
    box.create(conn)
    endpoint = box.register(conn, URL, ["a"], SECRET)
    published, taken, held = set(), set(), []
    for step, n in steps:
        with conn:
            if step == "publish":
                published.add(box.publish(conn, "a", n))
            elif step == "disable":
                box.disable(conn, endpoint)
            elif step == "enable":
                box.enable(conn, endpoint)
        if step == "claim":
            held += box.claim(n + 1, 60, per_endpoint=5)
        elif step == "pass":
            clock.now += 20 * n
        elif step in ("succeed", "fail", "die") and held:
            claim = held.pop(n % len(held))
            taken |= {claim.message} if step == "succeed" else set()
            following = {
                "succeed": ("succeeded", None, "", WELL, None),
                "fail": ("retrying", clock.now + n, "", (n, 1.0, None), None),
                "die": ("dead", None, "", (n, 1.0, None), None),
            }[step]
            done = [(claim, (None, "", "", None))]
            box.settle(done, lambda *_, following=following: following)
    with conn:
        box.enable(conn, endpoint)
        box.recover(conn, endpoint, 0)
    clock.now += 1000
    while claims := box.claim(100, 60, per_endpoint=100):
        taken |= {claim.message for claim in claims}
        done = [(claim, (200, "", "", None)) for claim in claims]
        box.settle(done, lambda *_: ("succeeded", None, "", WELL, None))
    conn.close()
    assert taken == published


@given(st.text() | st.binary() | st.none() | st.integers())
def test_any_input_is_a_value_error(value):
    """Whatever comes as URL, secret, id or type raises ValueError and nothing else."""
    conn, box = sqlite3.connect(":memory:"), outbox.Outbox(event_types=["a"])
    box.create(conn)
    for call in (
        lambda: box.register(conn, value, ["a"], SECRET),
        lambda: box.register(conn, URL, [value], SECRET),
        lambda: box.register(conn, URL, ["a"], value),
        lambda: box.publish(conn, value, 1),
    ):
        try:
            call()
        except ValueError:
            continue
        assert value in ("a", "*")
    conn.close()
