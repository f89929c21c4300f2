"""Tests of `patterns/pagination/page_token.py`; they can be copied along with it."""

import base64
import itertools
import sqlite3
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns.pagination import page_token

KEY = b"0123456789abcdef0123456789abcdef"
OTHER = "a second key, of thirty-two bytes"
SCOPE = "GET /events"
POSITION = ["2026-11-23T10:00:00Z", 42]


def refusal(tokens, token, scope=SCOPE):
    """Return why a token is refused."""
    with pytest.raises(page_token.InvalidPageToken) as caught:
        tokens.decode(token, scope=scope)
    assert caught.value.__cause__ is None
    return caught.value.reason


# --- tokens

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
).filter(lambda value: "Infinity" not in repr(value) and "inf" not in repr(value))


@given(position=JSON, scope=JSON)
def test_round_trip(position, scope):
    """Any JSON value comes back from its token as it was."""
    tokens = page_token.PageTokens(KEY)
    token = tokens.encode(position, scope=scope)
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")
    assert tokens.decode(token, scope=scope) == position


@given(data=st.data())
def test_any_change_is_refused(data):
    """A token with one character changed, added or taken is refused."""
    tokens = page_token.PageTokens(KEY)
    token = tokens.encode(POSITION, scope=SCOPE)
    at = data.draw(st.integers(0, len(token)))
    piece = data.draw(st.text(max_size=2))
    changed = token[:at] + piece + token[at + data.draw(st.integers(0, 2)) :]
    if changed != token:
        assert refusal(tokens, changed) in ("malformed", "signature")


@given(st.text() | st.binary() | st.none() | st.integers())
def test_any_text_is_refused(token):
    """Whatever else comes as a token is refused with a reason, and only so."""
    tokens = page_token.PageTokens(KEY)
    assert refusal(tokens, token) in ("malformed", "signature")


def test_one_spelling():
    """Padding, the other alphabet and loose last bits are not another spelling."""
    tokens = page_token.PageTokens(KEY)
    token = tokens.encode("x", scope="")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    padded = base64.urlsafe_b64encode(raw + b" ").decode()
    assert refusal(tokens, token + "=") == "malformed"
    assert refusal(tokens, token + "\n") == "malformed"
    assert refusal(tokens, padded.rstrip("=")) == "signature"
    for last in string.ascii_letters:
        if last != token[-1]:
            assert refusal(tokens, token[:-1] + last) in ("malformed", "signature")


def test_rotation():
    """The first key signs, every key verifies, and a key that is gone does not."""
    old = page_token.PageTokens(KEY)
    both = page_token.PageTokens(OTHER, KEY)
    new = page_token.PageTokens(OTHER)
    token = old.encode(POSITION, scope=SCOPE)
    assert both.decode(token, scope=SCOPE) == POSITION
    assert refusal(new, token) == "signature"
    assert new.decode(both.encode(1, scope=SCOPE), scope=SCOPE) == 1
    assert refusal(old, both.encode(1, scope=SCOPE)) == "signature"


def test_key_as_text():
    """A key may be text, which is its UTF-8."""
    one, other = page_token.PageTokens("ключ"), page_token.PageTokens("ключ".encode())
    assert other.decode(one.encode(1, scope=0), scope=0) == 1


@pytest.mark.parametrize("keys", [(), (b"",), (KEY, "")])
def test_no_key(keys):
    """No key, or an empty one, is refused when the tokens are set up."""
    with pytest.raises(ValueError, match="need a key"):
        page_token.PageTokens(*keys)


@pytest.mark.parametrize("key", [32, [107] * 32, None, bytearray(KEY)])
def test_key_of_another_type(key):
    """A number is no key: `bytes(32)` would be 32 known ones."""
    with pytest.raises(TypeError, match="bytes or text"):
        page_token.PageTokens(key)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_no_lifetime(ttl):
    """A lifetime of nothing is refused when the tokens are set up."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        page_token.PageTokens(KEY, ttl=ttl)


@pytest.mark.parametrize("ttl", [0.5, 1, 3600])
def test_expiry(ttl):
    """A token is good for its lifetime, and for less than a second more."""
    now = [1_000_000.25]
    tokens = page_token.PageTokens(KEY, ttl=ttl, clock=lambda: now[0])
    token = tokens.encode(POSITION, scope=SCOPE)
    now[0] += ttl
    assert tokens.decode(token, scope=SCOPE) == POSITION
    now[0] += 1
    assert refusal(tokens, token) == "expired"
    forever = page_token.PageTokens(KEY, clock=lambda: now[0])
    assert forever.decode(forever.encode(1, scope=0), scope=0) == 1


@pytest.mark.parametrize(
    "scope",
    ["GET /other", ["GET /events"], None, {"route": "GET /events"}, "GET /events "],
)
def test_scope(scope):
    """A token is good for the query it was made for, and no other."""
    tokens = page_token.PageTokens(KEY)
    assert refusal(tokens, tokens.encode(POSITION, scope=SCOPE), scope) == "scope"


def test_scope_in_any_order():
    """The order of a scope's members does not count."""
    tokens = page_token.PageTokens(KEY)
    token = tokens.encode(1, scope={"a": 1, "b": 2})
    assert tokens.decode(token, scope={"b": 2, "a": 1}) == 1


def test_forged_comes_before_expired():
    """Nothing of a token is believed before its signature is."""
    now = [0.0]
    tokens = page_token.PageTokens(KEY, ttl=1, clock=lambda: now[0])
    token = page_token.PageTokens(OTHER, ttl=1, clock=lambda: 0).encode(1, scope="x")
    now[0] = 99
    assert refusal(tokens, token) == "signature"


def test_another_version(monkeypatch):
    """A token of a later layout is refused, though its signature is right."""
    tokens = page_token.PageTokens(KEY)
    monkeypatch.setattr(page_token, "_VERSION", 2)
    later = tokens.encode(1, scope=SCOPE)
    monkeypatch.undo()
    assert refusal(tokens, later) == "malformed"


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"x", float("inf")])
def test_not_json(value):
    """A position or scope that is not JSON is refused at the call that made it."""
    tokens = page_token.PageTokens(KEY)
    for position, scope in ((value, SCOPE), (1, value)):
        with pytest.raises(ValueError, match="JSON"):
            tokens.encode(position, scope=scope)


def test_too_deep():
    """So is one that nests without end."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="JSON"):
        page_token.PageTokens(KEY).encode(deep, scope=SCOPE)


def test_too_long():
    """A position too long for a URL is refused, and so is such a token unread."""
    tokens = page_token.PageTokens(KEY)
    with pytest.raises(ValueError, match="too long"):
        tokens.encode("x" * 4096, scope=SCOPE)
    longest = tokens.encode("x" * 2990, scope=SCOPE)
    assert 4000 < len(longest) <= 4096
    assert tokens.decode(longest, scope=SCOPE) == "x" * 2990
    assert refusal(tokens, "A" * 4097) == "malformed"


def test_keys_stay_secret():
    """Neither the tokens' repr nor a refusal shows a key or a token."""
    tokens = page_token.PageTokens(KEY, OTHER, ttl=60)
    assert repr(tokens) == "PageTokens(<2 keys>, ttl=60)"
    with pytest.raises(page_token.InvalidPageToken) as caught:
        tokens.decode("secret-token", scope=SCOPE)
    assert "secret" not in repr(caught.value)


def test_signatures_of_another_purpose():
    """A plain HMAC under the same key is no page token."""
    tokens = page_token.PageTokens(KEY)
    token = tokens.encode(POSITION, scope=SCOPE)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    forged = page_token._hmac(KEY, raw[16:])[:16] + raw[16:]
    assert refusal(tokens, base64.urlsafe_b64encode(forged).decode().rstrip("=")) == (
        "signature"
    )


# --- the scope of a query


def test_query_scope():
    """Route, principal and filters count in any order; the paging does not."""
    scope = page_token.query_scope("/e", {"b": "2", "a": "1", "limit": "5"})
    assert scope == page_token.query_scope("/e", {"a": "1", "page_token": "", "b": "2"})
    for route, query, principal in (
        ("/f", {"a": "1", "b": "2"}, ""),
        ("/e", {"a": "1"}, ""),
        ("/e", {"a": "1", "b": "3"}, ""),
        ("/e", {"a": "1", "b": "2"}, "ann"),
    ):
        other = page_token.query_scope(route, query, principal=principal)
        assert other != scope


def test_query_scope_with_names_twice():
    """A name that comes twice counts twice."""

    class Multi(dict):
        def multi_items(self):
            return [("kind", "b"), ("kind", "a")]

    class Lists(dict):
        def lists(self):
            return [("kind", ["b", "a"])]

    twice = [["kind", "b"], ["kind", "a"]]
    pairs = [("kind", "b"), ("kind", "a")]
    for query in (Multi(kind="a"), Lists(kind="a"), pairs):
        assert page_token.query_scope("/e", query) == ["/e", "", twice]
    assert page_token.query_scope("/e", pairs[::-1]) != ["/e", "", twice]
    assert page_token.query_scope("/e", [("a", 1), ("a", None)])[2] == [
        ["a", 1],
        ["a", None],
    ]


def test_query_scope_with_own_names():
    """An API with other paging parameters names them."""
    scope = page_token.query_scope("/e", {"$top": "5", "limit": "x"}, paging=["$top"])
    assert scope == ["/e", "", [["limit", "x"]]]


# --- keyset


def test_row_values():
    """Columns of one direction without NULLs become a row value."""
    for direction, operator in (("asc", ">"), ("desc", "<")):
        order = [("created", direction), ("id", direction)]
        sql, params = page_token.keyset(order, after=(7, 8))
        tail = f"ORDER BY created {direction.upper()}, id {direction.upper()}"
        assert sql == f"(created, id) {operator} (?, ?) {tail}"
        assert params == [7, 8]


def test_bounded_form():
    """Mixed directions become the bounded form, in the placeholder asked for."""
    order = ["created desc", "id"]
    sql, params = page_token.keyset(order, after=[7, 8], placeholder="%s")
    assert sql == (
        "(created <= %s AND (created < %s OR id > %s)) ORDER BY created DESC, id ASC"
    )
    assert params == [7, 7, 8]


def test_first_page():
    """Without a position there is the order alone, in a form that goes behind AND."""
    found = page_token.keyset(["score desc nulls last", "id"])
    assert found == ("TRUE ORDER BY score DESC NULLS LAST, id ASC", [])


def test_backwards():
    """Before a row, everything is the other way round."""
    order = [("score", "asc", "first"), ("id", "desc")]
    sql, _ = page_token.keyset(order, before=(1, 2))
    assert sql.endswith("ORDER BY score DESC NULLS LAST, id ASC")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["created"], "end it with id"),
        ([], "end it with id"),
        (["id desc", "id"], "twice"),
        (["id asc nulls last"], "unique column with NULLs"),
        (["name; drop table x", "id"], "not a plain|up to three|asc or desc"),
        (['"quoted"', "id"], "not a plain column"),
        (["a.b.c", "id"], "not a plain column"),
        ([("name) --",), "id"], "not a plain column"),
        ([("id", "upwards")], "asc or desc"),
        ([("score", "asc", "middle"), "id"], "first or last"),
        ([("a", "asc", "last", "x"), "id"], "three words"),
        ([5, "id"], "three words"),
        ([("a", 5), "id"], "three words"),
        ([""], "three words"),
        (["nulls desc id", "id"], "asc or desc"),
        ([("", "desc"), "id"], "not a plain"),
    ],
)
def test_orders_refused(order, message):
    """An order in which rows can tie, or that is no plain column, is refused."""
    with pytest.raises(ValueError, match=message):
        page_token.keyset(order)


def test_unique_of_several_columns():
    """A key of several columns must be in the order whole."""
    order = ["day", "tenant", "number"]
    sql, _ = page_token.keyset(order, after=[1, 2, 3], unique=("tenant", "number"))
    assert sql.startswith("(day, tenant, number) > (?, ?, ?)")
    with pytest.raises(ValueError, match="end it with number"):
        page_token.keyset(order[:2], unique=("tenant", "number"))
    with pytest.raises(ValueError, match="a unique column"):
        page_token.keyset(order, unique=())


@pytest.mark.parametrize(
    ("after", "message"),
    [([1], "position of 1"), ([1, 2, 3], "position of 3"), ([None, 1], "NULLs go")],
)
def test_positions_refused(after, message):
    """A position that does not fit the order is refused."""
    with pytest.raises(ValueError, match=message):
        page_token.keyset(["created", "id"], after=after)


@pytest.mark.parametrize("position", ["xy", 5, {"created": 1, "id": 2}, b"xy"])
def test_positions_that_are_no_lists(position):
    """A position is a list of values, and nothing that merely can be taken apart."""
    with pytest.raises(ValueError, match="list of the columns"):
        page_token.keyset(["created", "id"], after=position)


@pytest.mark.parametrize("placeholder", ["$1", ":p", "'; drop table t", ""])
def test_placeholders(placeholder):
    """Only placeholders that may be repeated as they are will do."""
    with pytest.raises(ValueError, match="placeholder"):
        page_token.keyset(["id"], after=[1], placeholder=placeholder)


def test_one_side_at_a_time():
    """A page is after a row or before one."""
    with pytest.raises(ValueError, match="not both"):
        page_token.keyset(["id"], after=[1], before=[2])


COLUMNS = [
    [("score", direction, nulls), ("id", way)]
    for direction, nulls, way in itertools.product(
        ("asc", "desc"), ("first", "last"), ("asc", "desc")
    )
]
COLUMNS += [
    [("kind", *one), ("score", *two), ("id", "asc")]
    for one, two in itertools.product(
        [("asc",), ("desc",)], [("asc", "last"), ("desc", "first")]
    )
]
COLUMNS += [[("kind", "desc"), ("id", "desc")], [("kind", "asc"), ("id", "desc")]]
TABLE = [(n, n % 3, None if n % 4 == 0 else n % 5) for n in range(40)]


@pytest.fixture(scope="module")
def table():
    """A table whose rows tie in two columns, one of them with NULLs."""
    con = sqlite3.connect(":memory:")
    con.execute("create table t (id integer primary key, kind not null, score)")
    con.executemany("insert into t values (?, ?, ?)", TABLE)
    yield con
    con.close()


@pytest.mark.parametrize("order", COLUMNS, ids=str)
@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("side", ["after", "before"])
def test_walk_over_every_row(table, order, size, side):
    """Page by page, either way, a walk meets every row once and in the order."""
    names = ", ".join(column[0] for column in order)
    query = f"select {names} from t where id >= 0 and "
    sql, params = page_token.keyset(order)
    whole = table.execute(query + sql, params).fetchall()
    position, seen = None, []
    while True:
        if position is None and side == "before":
            page = whole[: -size - 1 : -1]
        else:
            sql, params = page_token.keyset(order, **{side: position})
            page = table.execute(f"{query}{sql} limit {size}", params).fetchall()
        if not page:
            break
        seen += page
        position = page[-1]
    assert seen == (whole if side == "after" else whole[::-1])
    assert len(seen) == len(set(seen)) == len(TABLE)


@pytest.mark.parametrize("order", [["kind", "id"], ["kind desc", "id"]])
def test_index_is_used(table, order):
    """Both forms start at the position in the index, instead of reading up to it."""
    con = sqlite3.connect(":memory:")
    con.execute("create table t (id integer primary key, kind not null)")
    names = "kind desc, id" if "desc" in order[0] else "kind, id"
    con.execute(f"create index i on t ({names})")
    sql, params = page_token.keyset(order, after=[1, 2])
    plan = con.execute(f"explain query plan select * from t where {sql}", params)
    steps = " ".join(row[3] for row in plan)
    con.close()
    assert "SEARCH t USING COVERING INDEX i" in steps
    assert "TEMP B-TREE" not in steps


@pytest.mark.parametrize("change", ["insert into t values (?, 0)", "delete from t"])
@pytest.mark.parametrize("way", ["asc", "desc"])
def test_rows_that_change_meanwhile(change, way):
    """Rows that come and go between pages double none and hide none that stay."""
    con = sqlite3.connect(":memory:")
    con.execute("create table t (id integer primary key, kind not null)")
    con.executemany("insert into t values (?, ?)", ((n, n // 9) for n in range(90)))
    order, seen, position = [("kind", way), ("id", way)], [], None
    for step in itertools.count(1000):
        sql, params = page_token.keyset(order, after=position)
        page = con.execute(f"select kind, id from t where {sql} limit 7", params)
        page = page.fetchall()
        if not page:
            break
        seen += [row for _, row in page]
        position = page[-1]
        if change.startswith("insert"):
            con.execute(change, [step])
        else:  # one row behind the reader, and one before it
            con.execute(f"{change} where id in (?, ?)", [seen[0], (step * 37) % 90])
    stayed = {row for (row,) in con.execute("select id from t where id < 90")}
    con.close()
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
