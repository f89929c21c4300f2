"""Tests of `patterns/rest/idempotency.py`; they can be copied along with it."""

import asyncio
import json
import sqlite3
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from patterns.rest import idempotency

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
DOCS = "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/#"


class Now:
    """A clock that a test sets."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


class Got:
    """What a request got, as an ASGI server would have seen it."""

    def __init__(self):
        self.messages = []

    async def __call__(self, message):
        self.messages.append(message)

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def headers(self):
        pairs = self.messages[0]["headers"]
        return {name.decode(): value.decode() for name, value in pairs}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def is_replay(self):
        return self.headers.get("idempotent-replayed") == "true"

    def problem(self):
        """Return a problem's own word, and check that it is one."""
        problem = json.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["content-length"] == str(len(self.body))
        assert self.headers["cache-control"] == "no-store"
        assert problem["status"] == self.status
        assert problem["type"].startswith(DOCS)
        assert problem["title"]
        assert problem["detail"]
        return problem["type"].removeprefix(DOCS)


def a_scope(key=f'"{KEY}"', method="POST", path="/orders", **more):
    """Return a request's scope; `key` may be a list of lines, or None."""
    lines = [key] if isinstance(key, str | bytes) else key or []
    lines = [
        line.encode("latin-1") if isinstance(line, str) else line for line in lines
    ]
    headers = [(b"content-type", b"application/json"), *more.pop("headers", [])]
    headers += [(b"idempotency-key", line) for line in lines]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        **more,
    }


async def ask(app, body=b"{}", *, chunks=None, **options):
    """Make one request of an app, and return what it got."""
    parts = [body] if chunks is None else list(chunks)
    events = [
        {"type": "http.request", "body": part, "more_body": n < len(parts)}
        for n, part in enumerate(parts, start=1)
    ]
    got = Got()

    async def receive():
        return events.pop(0) if events else {"type": "http.disconnect"}

    await app(a_scope(**options), receive, got)
    return got


class Shop:
    """An app that counts what it did, and answers as it is told."""

    def __init__(self, status=201, body=b"made", headers=(), chunks=None):
        self.status, self.chunks = status, chunks or [body]
        self.headers, self.effects, self.bodies = list(headers), 0, []
        self.error = self.gate = self.behind = None
        self.attempts = []

    async def __call__(self, scope, receive, send):
        self.attempts.append(scope.get("state", {}).get("idempotency"))
        event = await receive()
        self.bodies.append(event["body"])
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        self.effects += 1
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": [*self.headers]})
        for n, chunk in enumerate(self.chunks, start=1):
            more = n < len(self.chunks)
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
        if self.behind:
            await self.behind()


def guard(app, store=None, **options):
    """Return the middleware around an app, for one principal."""
    options.setdefault("principal", lambda scope: "ann")
    store = idempotency.MemoryStore() if store is None else store
    return idempotency.IdempotencyMiddleware(app, store, **options)


def refusal(value, **options):
    """Return why a key is refused."""
    with pytest.raises(idempotency.InvalidKey) as caught:
        idempotency.parse_idempotency_key(value, **options)
    return caught.value.reason


# --- the key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (f'"{KEY}"', KEY),
        (KEY, KEY),
        (f' \t"{KEY}"  ', KEY),
        (r'"a\"b\\c"', r'a"b\c'),
        ('"a b, c"', "a b, c"),
        ('"a";v=1', "a"),
        ('"a"; v; w="x\\"y" ;z=:YQ==:'.replace(" ;", ";"), "a"),
        ('"a";d=@17;t=tok/en:x;f=-1.5;b=?0;s=%"x"', "a"),
        ("a;b=c", "a;b=c"),
        ("x" * 255, "x" * 255),
        ('"' + r"\"" * 255 + '"', '"' * 255),
    ],
)
def test_keys(value, key):
    """A key is RFC 9651's string, or bare; parameters of a string mean nothing."""
    assert idempotency.parse_idempotency_key(value) == key
    assert idempotency.parse_idempotency_key(value.encode()) == key


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *[("", "missing"), (" \t ", "missing"), ('""', "missing")],
        *[("x" * 256, "length"), ("x" * 10_000, "length"), (b'"' * 10_000, "length")],
        *[('"' + "x" * 256 + '"', "length"), ("é" * 10_000, "length")],
        *[('"', "malformed"), ('"a', "malformed"), ('a"', "malformed")],
        *[('"a" "b"', "malformed"), ('"a", "b"', "malformed"), ("a,b", "malformed")],
        *[("a b", "malformed"), ('"a"b', "malformed"), (r'"a\n"', "malformed")],
        *[('"\x7f"', "malformed"), ('"a\tb"', "malformed"), ("a\x00", "malformed")],
        *[("ключ", "malformed"), ('"é"', "malformed"), ("a\r\nb", "malformed")],
        *[('"a";', "malformed"), ('"a";V=1', "malformed"), ('"a" ;v', "malformed")],
        *[("   ", "missing"), ('"  "', "malformed"), ("a\n", "malformed")],
        *[('"\ud800"', "malformed"), ('"a";v=', "malformed"), ("\u2028", "malformed")],
    ],
)
def test_keys_refused(value, reason):
    """What is no key is refused with a reason, and a long one unread."""
    assert refusal(value) == reason
    if isinstance(value, str) and value.isascii():
        assert refusal(value.encode()) == reason


def test_shorter_keys():
    """An API may allow shorter keys only."""
    assert idempotency.parse_idempotency_key('"abc"', max_length=3) == "abc"
    assert refusal("abcd", max_length=3) == "length"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_quoting(key):
    """Every key that can be sent quoted is read as it was."""
    if key.strip() and len(key) <= 255:
        transport = idempotency.IdempotencyKeyTransport(httpx.MockTransport(print))
        assert idempotency.parse_idempotency_key(transport._written(key)) == key


@given(st.text() | st.binary())
def test_any_value(value):
    """Whatever comes is a key of printable ASCII, or refused."""
    try:
        key = idempotency.parse_idempotency_key(value)
    except idempotency.InvalidKey:
        return
    assert key.isascii()
    assert key.isprintable()
    assert 0 < len(key) <= 255


@pytest.mark.parametrize(
    "value", ['"' + "\\" * 570, '"a"' + ";a" * 280 + "!", '"' + ";" * 570]
)
def test_no_value_takes_long(value):
    """A value made to be slow is refused as fast as any."""
    begin = time.process_time()
    for _ in range(100):
        assert refusal(value) in ("malformed", "length")
    assert time.process_time() - begin < 1


def test_a_key_derived():
    """The same operation has the same key, and no other has it."""
    key = idempotency.derive_key("charge", "order/7")
    assert key == idempotency.derive_key("charge", "order/7")
    assert key != idempotency.derive_key("charge", "order", "7")
    assert key != idempotency.derive_key("chargeorder/7")
    assert idempotency.parse_idempotency_key(key) == key


# --- the middleware: what is answered


def test_a_repeat():
    """A repeat gets the recorded answer with a mark, and the app runs once."""
    shop = Shop(
        headers=[(b"location", b"/orders/7"), (b"x-id", b"1")], chunks=[b"a", b"b"]
    )
    app = guard(shop)

    async def main():
        return [await ask(app) for _ in range(3)]

    first, *others = asyncio.run(main())
    assert shop.effects == 1
    assert (first.status, first.body, first.is_replay) == (201, b"ab", False)
    for other in others:
        assert (other.status, other.body, other.is_replay) == (201, b"ab", True)
        headers = {**first.headers, "idempotent-replayed": "true"}
        assert other.headers == headers


def test_quoted_and_bare_are_one_key():
    """A key is the same, however it is written."""
    shop = Shop()
    app = guard(shop)

    async def main():
        return [await ask(app, key=key) for key in (KEY, f'"{KEY}"', f'"{KEY}";v=1')]

    assert [got.is_replay for got in asyncio.run(main())] == [False, True, True]


def test_an_error_of_the_clients_is_recorded():
    """A repeat of what was answered 4xx gets that again (draft §2.6)."""
    shop = Shop(status=404, body=b"none")
    app = guard(shop)

    async def main():
        return [await ask(app) for _ in range(2)]

    _, other = asyncio.run(main())
    assert (other.status, other.body, other.is_replay, shop.effects) == (
        404,
        b"none",
        True,
        1,
    )


@pytest.mark.parametrize("status", [500, 502, 503, 401, 408, 425, 429])
def test_answers_that_are_not_final(status):
    """What failed, or was not done, is sent and not recorded: the next attempt runs."""
    shop = Shop(status=status)
    app = guard(shop)

    async def main():
        first = await ask(app)
        shop.status = 201
        return [first, await ask(app), await ask(app)]

    assert [got.status for got in asyncio.run(main())] == [status, 201, 201]
    assert shop.effects == 2


def test_an_api_that_cannot_undo():
    """Where all answers are final, a 500 is recorded as well."""
    shop = Shop(status=500)
    app = guard(shop, is_final=lambda status: True)

    async def main():
        return [await ask(app) for _ in range(2)]

    assert [got.is_replay for got in asyncio.run(main())] == [False, True]
    assert shop.effects == 1


def test_the_app_raises():
    """An error goes to the server, and the next attempt runs at once."""
    shop, app = Shop(), None
    app, shop.error = guard(shop), ZeroDivisionError("a bug")

    async def main():
        with pytest.raises(ZeroDivisionError):
            await ask(app)
        shop.error = None
        return await ask(app)

    assert asyncio.run(main()).status == 201


@pytest.mark.parametrize(
    ("lines", "slug"),
    [
        ([], "key-missing"),
        ([""], "key-missing"),
        (["a", "a"], "key-repeated"),
        (['"a", "b"'], "key-malformed"),
        (["x" * 10_000], "key-length"),
        ([b"\xff"], "key-malformed"),
    ],
)
def test_bad_keys(lines, slug):
    """No key where one is required, or none that can be read, is 400."""
    shop = Shop()
    got = asyncio.run(ask(guard(shop, required=True), key=lines))
    assert (got.status, got.problem(), shop.effects) == (400, slug, 0)


def test_required_by_route():
    """Whether a key is required may depend on the request."""
    app = guard(Shop(), required=lambda scope: scope["path"] == "/charges")
    assert asyncio.run(ask(app, key=None)).status == 201
    assert asyncio.run(ask(app, key=None, path="/charges")).status == 400


@pytest.mark.parametrize(
    "change", [{"method": "GET"}, {"key": None}, {"method": "PUT"}]
)
def test_others_pass(change):
    """Other methods, and requests without a key, go to the app as they are."""
    shop = Shop()
    app = guard(shop)

    async def main():
        return [await ask(app, **change) for _ in range(2)]

    assert [got.is_replay for got in asyncio.run(main())] == [False, False]
    assert shop.effects == 2
    assert shop.attempts == [None, None]


def test_other_protocols_pass():
    """WebSockets and the lifespan are the app's."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    async def main():
        for kind in ("websocket", "lifespan"):
            await guard(app)({"type": kind}, None, None)

    asyncio.run(main())
    assert seen == ["websocket", "lifespan"]


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"n": 2}'},
        {"query_string": b"a=1"},
        {"headers": [(b"content-type", b"text/plain")]},
        {"headers": [(b"content-encoding", b"gzip")]},
        {"raw_path": b"/%6frders"},
        {"body": b'{"n":1}'},
        {"body": b""},
    ],
)
def test_another_request_under_the_key(change):
    """A key that comes with another body, query or type is refused by 422."""
    shop = Shop()
    app = guard(shop)

    async def main():
        await ask(app, body=b'{"n": 1}')
        return await ask(app, **{"body": b'{"n": 1}', **change})

    got = asyncio.run(main())
    assert (got.status, got.problem(), shop.effects) == (422, "key-reused", 1)
    assert "retry-after" not in got.headers


@pytest.mark.parametrize(
    "change", [{"path": "/other"}, {"method": "PATCH"}, {"who": "bob"}]
)
def test_another_scope_of_the_key(change):
    """The same key of another principal, route or method is another key."""
    shop = Shop()
    app = guard(shop, principal=lambda scope: scope.get("who", "ann"))

    async def main():
        return [await ask(app), await ask(app, **change)]

    assert [got.is_replay for got in asyncio.run(main())] == [False, False]
    assert shop.effects == 2


def test_nobody_is_no_principal():
    """Those who are nobody do not share their keys: it is an error of the server's."""
    shop = Shop()
    with pytest.raises(TypeError, match="principal"):
        asyncio.run(ask(guard(shop, principal=lambda scope: None)))
    with pytest.raises(TypeError, match="principal"):
        guard(shop, principal="ann")
    assert shop.effects == 0


def test_scopes_do_not_run_together():
    """Where a principal's name ends and a path begins is part of a key's name."""
    app = guard(Shop(), principal=lambda scope: scope["who"])
    names = {
        app._name(a_scope(who=who, path=path, method=method), key)
        for who, path, method, key in (
            ("ann", "/a", "POST", "k"),
            ("ann/a", "", "POST", "k"),
            ("ann", "/", "POST", "ak"),
            ("", "ann/a", "POST", "k"),
            ("annPOST", "/a", "", "k"),
        )
    }
    assert len(names) == 5


def test_canonical_bodies():
    """An API that compares values takes a body that was made anew for the same."""
    shop = Shop()
    app = guard(shop, canonical=idempotency.canonical_json)

    async def main():
        bodies = (b'{"a": 1, "b": [1.50]}', b'{"b":[1.50],"a":1}', b'{"a":1,"b":[1.5]}')
        return [await ask(app, body=body) for body in bodies]

    assert [got.status for got in asyncio.run(main())] == [201, 201, 422]
    assert shop.effects == 1
    other = (b'[{"\\u0000": "1.5"}]', b'[[NaN, "1.5"]]', b'[["NaN", "1.5"]]', b"[1.5]")
    form = "application/json"
    assert len({idempotency.canonical_json(form, body) for body in other}) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(one=JSON, other=JSON, indent=st.sampled_from([None, 0, 2]))
def test_canonical_values(one, other, indent):
    """One value has one text however it is written, and two have two."""
    text = json.dumps(one)
    anew = json.dumps(one, indent=indent, sort_keys=True, ensure_ascii=False)
    form = "application/problem+json; charset=utf-8"
    canonical = idempotency.canonical_json(form, text.encode())
    if "\\ud" not in text:
        assert canonical == idempotency.canonical_json(form, anew.encode())
    if json.dumps(other, sort_keys=True) != json.dumps(one, sort_keys=True):
        assert canonical != idempotency.canonical_json(form, json.dumps(other).encode())


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"{", b"\xff", b'{"a":1,"a":1}', b"[" * 100_000, b"1" * 5000],
        *[b'{"a":' * 50_000 + b"1" + b"}" * 50_000],
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_stay_as_they_are(body):
    """What is no JSON, or is not read alike by all, counts by its bytes."""
    kept = idempotency.canonical_json("application/json", body)
    assert kept == b"application/json\n" + body
    assert idempotency.canonical_json("text/csv", b"1.0") == b"text/csv\n1.0"


# --- the middleware: the body of a request


def test_a_body_in_pieces():
    """A body counts as a whole, and reaches the app as one."""
    shop = Shop()
    app = guard(shop)

    async def main():
        return [await ask(app, chunks=c) for c in ([b"a", b"", b"bc"], [b"abc"])]

    assert [got.is_replay for got in asyncio.run(main())] == [False, True]
    assert shop.bodies == [b"abc"]


@pytest.mark.parametrize("length", [b"11", b"9" * 400])
def test_a_body_that_says_it_is_too_large(length):
    """A body over the limit is refused by 413 before it is read."""
    app = guard(Shop(), max_body=10)

    async def main():
        got = Got()
        scope = a_scope(headers=[(b"content-length", length)])
        await app(scope, None, got)
        return got

    got = asyncio.run(main())
    assert (got.status, got.problem()) == (413, "body-too-large")


def test_an_endless_body():
    """So is one that does not say it, as soon as it is too large."""
    shop, read = Shop(), []
    app = guard(shop, max_body=10)

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"xxx", "more_body": True}

    async def main():
        got = Got()
        headers = [(b"content-length", b"5")]
        await app(a_scope(headers=headers), receive, got)
        return got

    assert asyncio.run(main()).status == 413
    assert (len(read), shop.effects) == (4, 0)


def test_a_body_of_the_greatest_length():
    """The limit itself is within it."""
    assert asyncio.run(ask(guard(Shop(), max_body=10), body=b"x" * 10)).status == 201


def test_the_client_goes_while_it_sends():
    """A body that ends too soon takes no key and is not answered."""
    shop, store = Shop(), idempotency.MemoryStore()
    app = guard(shop, store)

    async def receive():
        return {"type": "http.disconnect"}

    async def main():
        got = Got()
        await app(a_scope(), receive, got)
        return got.messages, await ask(app)

    messages, got = asyncio.run(main())
    assert (messages, got.is_replay, shop.effects) == ([], False, 1)


# --- the middleware: at the same time


def test_a_request_under_way():
    """Who comes while the first is under way gets 409, and when to come again."""
    shop = Shop()
    app = guard(shop)

    async def main():
        shop.gate = asyncio.Event()
        first = asyncio.create_task(ask(app))
        await asyncio.sleep(0)
        others = [await ask(app) for _ in range(19)]
        changed = await ask(app, body=b"x")
        shop.gate.set()
        return await first, others, changed, await ask(app)

    first, others, changed, last = asyncio.run(main())
    assert (first.status, last.is_replay, shop.effects) == (201, True, 1)
    assert {(o.status, o.problem(), o.headers["retry-after"]) for o in others} == {
        (409, "request-outstanding", "1")
    }
    assert changed.status == 422


@pytest.mark.parametrize("behind", ["cancel", "send"])
def test_the_client_goes_while_the_app_works(behind):
    """The app ends its work, and the client's repeat gets the answer."""
    shop = Shop()
    app = guard(shop)

    async def main():
        shop.gate = asyncio.Event()
        task = asyncio.create_task(ask(app))
        await asyncio.sleep(0)
        if behind == "cancel":  # as some servers do
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            shop.gate.set()
            await asyncio.gather(*app._flights)
        else:  # as others let it know

            async def gone(message):
                raise OSError("the client is gone")

            shop.gate.set()
            scope = a_scope(key="another")
            events = [{"type": "http.request", "body": b"{}"}]
            with pytest.raises(OSError, match="gone"):
                await app(scope, lambda: asyncio.sleep(0, events.pop()), gone)
            await task
            return await ask(app, key="another")
        return await ask(app)

    got = asyncio.run(main())
    assert (got.status, got.is_replay) == (201, True)


def test_the_app_is_not_told_that_the_client_goes():
    """What waits for the client's leaving waits until the answer is complete."""
    seen = []

    async def app(scope, receive, send):
        await receive()
        leaving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        seen.append(leaving.done())
        await Shop()(scope, lambda: asyncio.sleep(0, {"body": b""}), send)
        seen.append((await leaving)["type"])

    asyncio.run(ask(guard(app)))
    assert seen == [False, "http.disconnect"]


def test_the_loop_ends_while_the_app_works():
    """A run that is cancelled with its loop makes way for another attempt."""
    shop, store = Shop(), idempotency.MemoryStore()

    async def main():
        shop.gate = asyncio.Event()
        asyncio.get_running_loop().call_later(0, lambda: None)
        task = asyncio.create_task(ask(guard(shop, store)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    asyncio.run(main())
    shop.gate = None
    assert asyncio.run(ask(guard(shop, store))).status == 201


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes at once."""

    def __init__(self):
        super().__init__()
        self.now, select = 1000.0, self._selector.select

        def at_once(timeout=None):
            self.now += timeout or 0
            return select(0)

        self._selector.select = at_once

    def time(self):
        return self.now


def run_virtually(main):
    """Run a coroutine function, given its loop, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        return runner.run(asyncio.wait_for(main(loop), 1000))


def test_a_lease_is_renewed():
    """An app that takes longer than a lease keeps its key all the while."""
    shop = Shop()

    async def main(loop):
        app = guard(shop, idempotency.MemoryStore(clock=loop.time), lease=3)
        shop.gate = asyncio.Event()
        first = asyncio.create_task(ask(app))
        seen = []
        for _ in range(50):
            await asyncio.sleep(1)
            seen.append((await ask(app)).status)
        shop.gate.set()
        return seen, await first, await ask(app)

    seen, first, last = run_virtually(main)
    assert set(seen) == {409}
    assert (first.status, last.is_replay, shop.effects) == (201, True, 1)


def test_a_lease_that_is_over():
    """Where an attempt stands still, another runs, and the late answer is not used."""
    shop = Shop()

    async def main(loop):
        store = idempotency.MemoryStore(clock=loop.time)
        store.renew = lambda *values: True  # the process is frozen
        app = guard(shop, store, lease=3)
        shop.gate = asyncio.Event()
        late = asyncio.create_task(ask(app))
        await asyncio.sleep(3)
        shop.gate, gate = None, shop.gate
        shop.body, shop.chunks = b"", [b"second"]
        second = await ask(app)
        shop.chunks = [b"first"]
        gate.set()
        return second, await late, await ask(app)

    second, late, last = run_virtually(main)
    assert (second.body, second.is_replay) == (b"second", False)
    assert late.body == last.body == b"second"


def test_late_and_the_other_still_at_work():
    """Who finishes late while another is under way is told to come again."""
    shop = Shop()

    async def main(loop):
        store = idempotency.MemoryStore(clock=loop.time)
        store.renew = lambda *values: True
        app = guard(shop, store, lease=3)
        first, second = asyncio.Event(), asyncio.Event()
        shop.gate = first
        late = asyncio.create_task(ask(app))
        await asyncio.sleep(3)
        shop.gate = second
        other = asyncio.create_task(ask(app))
        await asyncio.sleep(1)
        first.set()
        late = await late
        second.set()
        return late, await other, await ask(app)

    late, other, last = run_virtually(main)
    assert (late.status, late.problem()) == (409, "request-outstanding")
    assert (other.status, last.is_replay) == (201, True)


def test_a_lease_that_cannot_be_renewed(caplog):
    """A store that fails for a while does not end an attempt; a lost key is told."""
    shop, seen = Shop(), []

    async def main(loop):
        store = idempotency.MemoryStore(clock=loop.time)

        def renew(*values):
            seen.append(loop.time())
            if len(seen) < 3:
                raise OSError("away")
            return False

        store.renew = renew
        shop.gate = asyncio.Event()
        loop.call_later(30, shop.gate.set)
        return await ask(guard(shop, store, lease=3))

    assert run_virtually(main).status == 201
    assert seen == [1001, 1002, 1003]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "lost its key" in told[-1]


# --- the middleware: what is recorded


def test_fields_that_are_not_kept():
    """Of a connection, a moment or a session nothing is kept; the first gets it all."""
    fleeting = {
        "set-cookie": "session=secret",
        "date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "connection": "x-hop, close",
        "x-hop": "1",
        "keep-alive": "timeout=5",
        "ratelimit": '"default";r=1',
        "age": "3",
    }
    kept = {"content-type": "text/plain", "etag": '"1"'}
    fields = {**fleeting, **kept}
    shop = Shop(headers=[(n.encode(), v.encode()) for n, v in fields.items()])
    app = guard(shop)

    async def main():
        return [await ask(app) for _ in range(2)]

    first, other = asyncio.run(main())
    assert first.headers == fields
    assert other.headers == {**kept, "idempotent-replayed": "true"}


def test_the_record_comes_first():
    """Nothing is sent that is not recorded: a client has seen what repeats get."""
    told = []

    class Told(idempotency.MemoryStore):
        def complete(self, *values):
            told.append("recorded")
            return super().complete(*values)

    async def main():
        async def send(message):
            told.append("sent")

        events = [{"type": "http.request", "body": b""}]
        app = guard(Shop(), Told())
        await app(a_scope(), lambda: asyncio.sleep(0, events.pop()), send)

    asyncio.run(main())
    assert told == ["recorded", "sent", "sent"]


def test_work_behind_the_answer():
    """A client does not wait for what an app does behind its answer."""
    shop = Shop()
    app = guard(shop)

    async def main():
        released = asyncio.Event()

        async def behind():
            await released.wait()
            raise ZeroDivisionError

        shop.behind, got = behind, Got()
        events = [{"type": "http.request", "body": b"{}"}]
        task = asyncio.create_task(
            app(a_scope(), lambda: asyncio.sleep(0, events.pop()), got)
        )
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(got.messages) == 2
        repeat = await ask(app)
        released.set()
        with pytest.raises(ZeroDivisionError):
            await task
        return got, repeat, await ask(app)

    got, repeat, last = asyncio.run(main())
    assert (got.body, repeat.is_replay, last.is_replay) == (b"made", True, True)


@pytest.mark.parametrize(
    ("headers", "chunks"),
    [
        ([(b"content-type", b"application/json")], [b"x" * 11]),
        ([], [b"xxxx"] * 5),
        ([], [b"xxxx"] * 3),
        ([(b"content-type", b"text/event-stream; x")], [b"a", b"b"]),
    ],
)
def test_answers_that_are_too_large(headers, chunks):
    """A large answer is passed on, and a repeat is told that it was not kept."""
    shop = Shop(headers=[*headers, (b"location", b"/orders/7")], chunks=chunks)
    app = guard(shop, max_response=10)

    async def main():
        return [await ask(app) for _ in range(2)]

    first, other = asyncio.run(main())
    assert (first.status, first.body) == (201, b"".join(chunks))
    assert first.messages[-1].get("more_body", False) is False
    assert (other.status, other.problem()) == (409, "answer-not-kept")
    assert json.loads(other.body)["recorded_status"] == 201
    assert other.headers["location"] == "/orders/7"
    assert other.is_replay
    assert "retry-after" not in other.headers
    assert shop.effects == 1


def test_an_answer_of_the_greatest_length():
    """The limit itself is within it, and an event stream that has ended is kept."""
    kind = [(b"content-type", b"text/event-stream")]
    for shop in (Shop(chunks=[b"x" * 5] * 2), Shop(headers=kind)):
        app = guard(shop, max_response=10)

        async def main(app=app):
            return [await ask(app) for _ in range(2)]

        first, other = asyncio.run(main())
        assert other.body == first.body


def test_a_stream_is_not_held_back():
    """The events of a stream come as the app sends them."""
    seen = []

    async def app(scope, receive, send):
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        for n in range(3):
            event = {
                "type": "http.response.body",
                "body": b"%d" % n,
                "more_body": n < 2,
            }
            await send(event)
            seen.append(len(got.messages))

    got = Got()

    async def main():
        events = [{"type": "http.request", "body": b"{}"}]
        await guard(app)(a_scope(), lambda: asyncio.sleep(0, events.pop()), got)

    asyncio.run(main())
    assert seen == [2, 3, 4]


@pytest.mark.parametrize("how", ["told", "refused", "cancelled"])
def test_an_endless_stream_ends_with_its_client(how):
    """An event stream might never end, so its app is told that nobody listens."""

    async def app(scope, receive, send):
        await receive()
        kind = (b"content-type", b"text/event-stream")
        start = {"type": "http.response.start", "status": 200, "headers": iter([kind])}
        await send(start)
        gone = asyncio.create_task(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0)
        ended.append(gone.result()["type"])

    async def send(message):
        sent.append(message)
        if len(sent) > 3:
            begun.set()
        if how == "refused" and len(sent) > 3:
            raise OSError("gone")

    async def main():
        events = [{"type": "http.request", "body": b"{}"}]

        async def receive():
            if not events:
                await (begun if how == "told" else asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            return events.pop()

        it = guard(app)
        task = asyncio.create_task(it(a_scope(), receive, send))
        await begun.wait()
        if how == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        await asyncio.gather(*it._flights)

    sent, ended, begun = [], [], asyncio.Event()
    asyncio.run(asyncio.wait_for(main(), 5))
    assert ended == ["http.disconnect"]
    assert sent[0]["headers"] == [(b"content-type", b"text/event-stream")]


def test_a_large_answer_whose_client_goes():
    """A server that refuses to send does not keep the app from its end."""
    shop = Shop(chunks=[b"xxxx"] * 5)
    shop.behind = lambda: asyncio.sleep(0, ended.append(True))

    async def send(message):
        raise OSError("gone")

    async def main():
        events = [{"type": "http.request", "body": b"{}"}]
        receive = lambda: asyncio.sleep(0, events.pop())  # noqa: E731
        await guard(shop, max_response=10)(a_scope(), receive, send)

    ended = []
    asyncio.run(main())
    assert ended == [True]


def test_a_stream_whose_client_goes():
    """Of a stream whose client has gone the rest is dropped, and the app ends."""
    sent, ended = [], []

    async def app(scope, receive, send):
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        for n in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": n < 2})
            await gate.wait()
        ended.append(True)

    async def send(message):
        sent.append(message)

    async def main():
        global gate
        gate = asyncio.Event()
        events = [{"type": "http.request", "body": b"{}"}]
        it = guard(app)
        receive = lambda: asyncio.sleep(0, events.pop())  # noqa: E731
        task = asyncio.create_task(it(a_scope(), receive, send))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        gate.set()
        await asyncio.gather(*it._flights)

    asyncio.run(main())
    assert (len(sent), ended) == (2, [True])


def test_a_large_answer_that_is_not_final():
    """A failure too large to keep is passed on, and the key is released."""
    shop = Shop(status=503, chunks=[b"xxxx"] * 5)
    app = guard(shop, max_response=10)

    async def main():
        return [await ask(app) for _ in range(2)]

    assert [(g.status, len(g.body)) for g in asyncio.run(main())] == [(503, 20)] * 2
    assert shop.effects == 2


def test_what_cannot_be_recorded_is_not_offered():
    """The app is not told that it may answer by a file's path, and the like."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["extensions"])
        await Shop()(scope, receive, send)

    given = {"http.response.pathsend": {}, "tls": {"tls_version": 1}}
    asyncio.run(ask(guard(app), extensions=given))
    asyncio.run(ask(guard(app), extensions=None))
    assert seen == [{"tls": {"tls_version": 1}}, {}]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.response.start", "status": 200}],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": b"x", "more_body": True},
        ],
    ],
)
def test_an_app_that_does_not_answer(messages):
    """An answer that is not whole is none: nothing is sent, and the key is released."""
    shop = Shop()
    store = idempotency.MemoryStore()

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    async def main():
        return await ask(guard(app, store)), await ask(guard(shop, store))

    none, got = asyncio.run(main())
    assert (none.messages, got.status) == ([], 201)


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.body", "body": b"x"}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.zip"}],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": b"x"},
            {"type": "http.response.start", "status": 200},
        ],
    ],
)
def test_an_app_that_answers_wrongly(messages):
    """What an app may not send is an error of the app."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    with pytest.raises(RuntimeError, match="not to be sent"):
        asyncio.run(ask(guard(app)))


def test_an_error_page_instead():
    """An error handler within may begin another answer while there is no body."""

    async def app(scope, receive, send):
        for status in (200, 400):
            start = {"type": "http.response.start", "status": status, "headers": []}
            await send(start)
        await send({"type": "http.response.body"})

    assert asyncio.run(ask(guard(app))).status == 400


# --- the middleware: the store


class Away:
    """A store that is away for some of its methods."""

    def __init__(self, *methods):
        self.store, self.methods = idempotency.MemoryStore(), methods

    def __getattr__(self, name):
        if name in self.methods:
            raise OSError("secret: no store")
        return getattr(self.store, name)


def test_without_a_store_nothing_runs(caplog):
    """An effect is never unguarded: without the store it is 503, to be repeated."""
    shop = Shop()
    got = asyncio.run(ask(guard(shop, Away("begin"))))
    assert (got.status, got.problem(), shop.effects) == (503, "store-away", 0)
    assert int(got.headers["retry-after"]) > 0
    assert b"secret" not in got.body
    assert len(caplog.records) == 1


def test_the_store_goes_before_the_answer(caplog):
    """What was done is told, though it could not be recorded; the log has it."""
    got = asyncio.run(ask(guard(Shop(), Away("complete"))))
    assert (got.status, got.body) == (201, b"made")
    assert "not recorded" in caplog.text


def test_the_store_goes_before_the_release(caplog):
    """The app's own error is not hidden by that of a store."""
    shop = Shop()
    shop.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(guard(shop, Away("release"))))
    assert "not released" in caplog.text


@pytest.mark.parametrize("options", [{"ttl": 0}, {"lease": -1}, {"ttl": float("inf")}])
def test_times_that_make_no_sense(options):
    """A lifetime of nothing, or without an end, is refused at once."""
    with pytest.raises(ValueError, match="more than 0"):
        guard(Shop(), **options)


def test_methods_are_a_collection():
    """One method's name is no collection of names."""
    with pytest.raises(ValueError, match="collection"):
        guard(Shop(), methods="POST")
    with pytest.raises(ValueError, match="collection"):
        idempotency.IdempotencyKeyTransport(httpx.MockTransport(print), methods="POST")


def test_another_header():
    """An API may have another name for the field."""
    app = guard(Shop(), header="X-Request-Key", required=True)

    async def main():
        yes = await ask(app, key=None, headers=[(b"x-request-key", b"a")])
        return yes.status, (await ask(app)).status

    assert asyncio.run(main()) == (201, 400)


# --- the stores


ANSWER = idempotency.Answer(201, ((b"a", b"\xff"),), b"\x00\n\xff")
TABLE = {"memory": idempotency.MemoryStore, "sqlite": idempotency.SQLiteStore}


@given(
    status=st.integers(100, 599),
    headers=st.lists(st.tuples(st.binary(), st.binary())).map(tuple),
    body=st.none() | st.binary(),
)
def test_answers_are_packed(status, headers, body):
    """An answer comes back from its bytes as it was."""
    answer = idempotency.Answer(status, headers, body)
    assert idempotency.Answer.from_bytes(answer.to_bytes()) == answer


def test_answers_are_not_shown():
    """The repr of an answer has nothing of its fields or its body."""
    assert repr(ANSWER) == "Answer(status=201)"


class Script:
    """What `register_script` returns, over a store in memory; blocking."""

    def __init__(self, store):
        self.store, self.fences, self.names = store, {}, set()

    def __call__(self, keys, args):
        (name,), (verb, fence, lease, ttl, text) = keys, args
        self.names.add(name)
        return [
            word.encode() for word in self.reply(name, verb, fence, lease, ttl, text)
        ]

    def reply(self, name, verb, fence, lease, ttl, text):
        lease, ttl = lease / 1000, ttl / 1000
        held = self.fences.get(fence, "none")
        if verb == "begin":
            outcome = self.store.begin(name, text, lease, ttl)
            if isinstance(outcome, idempotency.Began):
                self.fences[fence] = outcome.fence
                return "begun", ""
            if isinstance(outcome, idempotency.InProgress):
                return "running", str(outcome.retry_after * 1000)
            if isinstance(outcome, idempotency.Mismatch):
                return "mismatch", ""
            return "finished", outcome.answer.headers[0][0].decode()
        if verb == "complete":  # as text, which is not the store's business
            packed = idempotency.Answer(200, ((text.encode(), b""),), b"")
            found = self.store.complete(name, held, packed, ttl)
            return ("finished", found.headers[0][0].decode()) if found else ("lost", "")
        if verb == "renew":
            return ("begun" if self.store.renew(name, held, lease, ttl) else "lost"), ""
        return "released", str(self.store.release(name, held) or "")


class TextScript(Script):
    """The same, async, for a client that decodes what it reads."""

    async def __call__(self, keys, args):
        return [word.decode() for word in super().__call__(keys, args)]


class Client:
    """A client of Redis's that can do nothing but run one script."""

    def __init__(self, script):
        self.script = script

    def register_script(self, text):
        assert "PEXPIRE" in text
        return self.script


class Awaited:
    """An async store, for one who does not await."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return lambda *values: asyncio.run(getattr(self.store, name)(*values))


class FakePostgres:
    """A connection that takes PostgreSQL's words, and runs them in SQLite."""

    def __init__(self, path, clock):
        self.conn, self.autocommit = sqlite3.connect(path, isolation_level=None), False
        self.conn.create_function("pg_advisory_xact_lock", 1, self.lock)
        self.conn.create_function("now_epoch", 0, clock)
        self.locked = []

    def lock(self, number):
        assert -(2**63) <= number < 2**63
        self.locked.append(number)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.conn.close()

    @property
    def info(self):
        return self

    @property
    def transaction_status(self):
        return 2 * self.conn.in_transaction

    def transaction(self):
        self.conn.execute("BEGIN IMMEDIATE")
        return self.conn

    def cursor(self, row_factory):
        assert row_factory(None) is tuple
        return self

    def execute(self, sql, values):
        assert "?" not in sql
        sql = sql.replace("extract(epoch FROM clock_timestamp())", "now_epoch()")
        sql = sql.replace("FOR UPDATE SKIP LOCKED", "").replace("%s", "?")
        return self.conn.execute(sql, values)


def every_store(clock, folder):
    """Return a store of each kind, over fakes where there is a server."""
    memory = [idempotency.MemoryStore(clock=clock) for _ in range(3)]
    scripts = [Script(memory[1]), TextScript(memory[2])]
    redis = [idempotency.RedisStore(Client(script)) for script in scripts]
    assert [store.blocks for store in redis] == [True, False]
    path = folder and folder / "fake.db"
    return {
        "memory": memory[0],
        "sqlite": idempotency.SQLiteStore(":memory:", clock=clock),
        "redis": redis[0],
        **({"redis async": Awaited(redis[1])} if folder else {}),
        **(
            {"postgres": idempotency.PostgresStore(lambda: FakePostgres(path, clock))}
            if folder
            else {}
        ),
    }


def test_every_store(tmp_path):
    """All stores tell the same of a key, from its first attempt to its end."""
    clock = Now()
    for name, store in every_store(clock, tmp_path).items():
        first = store.begin("ab" * 32, "f", 10, 30)
        assert isinstance(first, idempotency.Began), name
        assert store.begin("ab" * 32, "f", 10, 30) == idempotency.InProgress(10)
        assert store.begin("ab" * 32, "g", 10, 30) == idempotency.Mismatch()
        assert store.renew("ab" * 32, first.fence, 20, 30) is True
        clock.now += 20
        second = store.begin("ab" * 32, "f", 10, 30)
        assert store.renew("ab" * 32, first.fence, 20, 30) is False
        assert store.complete("ab" * 32, first.fence, ANSWER, 30) is None
        assert store.complete("ab" * 32, second.fence, ANSWER, 30) == ANSWER
        other = idempotency.Answer(500, (), None)
        assert store.complete("ab" * 32, first.fence, other, 30) == ANSWER
        store.release("ab" * 32, second.fence)
        assert store.begin("ab" * 32, "f", 10, 30) == idempotency.Finished(ANSWER)
        clock.now += 30
        third = store.begin("ab" * 32, "g", 10, 30)
        store.release("ab" * 32, third.fence)
        assert isinstance(store.begin("ab" * 32, "f", 10, 30), idempotency.Began)


def test_postgres_in_the_apps_transaction(tmp_path):
    """The answer is recorded by the app's connection, under the key's own lock."""
    clock, path = Now(), tmp_path / "fake.db"
    store = idempotency.PostgresStore(lambda: FakePostgres(path, clock))
    fence = store.begin("f" * 64, "f", 10, 30).fence
    with FakePostgres(path, clock) as conn:
        conn.autocommit = True
        with pytest.raises(RuntimeError, match="begin the transaction"):
            store.complete_in(conn, "f" * 64, fence, ANSWER, 30)
        with conn.transaction():
            store.complete_in(conn, "f" * 64, fence, ANSWER, 30)
        assert conn.locked == [16**15 - 1]
        with conn.transaction(), pytest.raises(idempotency.LeaseLostError):
            store.complete_in(conn, "f" * 64, fence, ANSWER, 30)
    assert store.begin("f" * 64, "f", 10, 30) == idempotency.Finished(ANSWER)


@pytest.mark.parametrize("script", [Script, TextScript])
def test_a_server_of_keys(script):
    """The middleware works by a blocking client, in a thread, and by an async one."""
    shop, script = Shop(), script(idempotency.MemoryStore())
    app = guard(shop, idempotency.RedisStore(Client(script), prefix="shop:"))

    async def main():
        return [await ask(app) for _ in range(2)]

    assert [got.is_replay for got in asyncio.run(main())] == [False, True]
    (name,) = script.names
    assert name.startswith("shop:")
    assert KEY not in name


class Stores(RuleBasedStateMachine):
    """The stores, and TRANSITIONS as the model of what they do."""

    LEASE, TTL = 10, 30

    @initialize()
    def begin_anew(self):
        self.clock = Now()
        self.stores = every_store(self.clock, None)
        self.model = {}  # key: state, fingerprint, attempt, until, expires, answer
        self.attempts = []  # key, and the fence by store

    def teardown(self):
        self.stores["sqlite"].close()

    def state(self, key):
        """Return the model's state of a key, after what time does."""
        if key not in self.model:
            return "absent"
        state, _, _, _, expires, _ = self.model[key]
        if self.clock.now >= expires:
            del self.model[key]
            return idempotency.TRANSITIONS[state, "expired"]
        return state

    @rule(key=st.sampled_from("kl"), fingerprint=st.sampled_from("fg"))
    def begin(self, key, fingerprint):
        state, now = self.state(key), self.clock.now
        outcomes = {
            name: store.begin(key, fingerprint, self.LEASE, self.TTL)
            for name, store in self.stores.items()
        }
        held = self.model.get(key)
        if held and held[1] != fingerprint:
            wanted = idempotency.Mismatch()
        elif state == "finished":
            wanted = idempotency.Finished(held[5])
        elif state == "running" and now < held[3]:
            wanted = idempotency.InProgress(held[3] - now)
        else:
            event = "lease over" if held else "begun"
            until = now + self.LEASE
            new = idempotency.TRANSITIONS[state, event]
            number, expires = len(self.attempts), until + self.TTL
            self.model[key] = new, fingerprint, number, until, expires, None
            fences = {name: outcome.fence for name, outcome in outcomes.items()}
            self.attempts.append((key, fences))
            return
        assert list(outcomes.values()) == [wanted] * len(outcomes)

    def of_an_attempt(self, data):
        """Return an attempt's key, whether it has that key, and what to call."""
        number = data.draw(st.integers(0, len(self.attempts) - 1))
        key, fences = self.attempts[number]
        state = self.state(key)
        is_held = state == "running" and self.model[key][2] == number
        calls = [(self.stores[name], fence) for name, fence in fences.items()]
        return key, is_held, calls

    @rule(data=st.data())
    def renew(self, data):
        if not self.attempts:
            return
        key, is_held, calls = self.of_an_attempt(data)
        for store, fence in calls:
            assert store.renew(key, fence, self.LEASE, self.TTL) is is_held
        if is_held:
            _, fingerprint, number, *_ = self.model[key]
            until = self.clock.now + self.LEASE
            state = idempotency.TRANSITIONS["running", "renewed"]
            self.model[key] = state, fingerprint, number, until, until + self.TTL, None

    @rule(data=st.data(), status=st.integers(200, 210))
    def complete(self, data, status):
        if not self.attempts:
            return
        key, is_held, calls = self.of_an_attempt(data)
        answer = idempotency.Answer(status, (), b"x")
        if is_held:
            _, fingerprint, number, until, *_ = self.model[key]
            state = idempotency.TRANSITIONS["running", "completed"]
            expires = self.clock.now + self.TTL
            self.model[key] = state, fingerprint, number, until, expires, answer
        wanted = self.model[key][5] if self.state(key) == "finished" else None
        for store, fence in calls:
            assert store.complete(key, fence, answer, self.TTL) == wanted

    @rule(data=st.data())
    def release(self, data):
        if not self.attempts:
            return
        key, is_held, calls = self.of_an_attempt(data)
        for store, fence in calls:
            store.release(key, fence)
        if is_held:
            assert idempotency.TRANSITIONS["running", "released"] == "absent"
            del self.model[key]

    @rule(seconds=st.sampled_from([1, 5, 9, 10, 30, 40]))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def one_attempt_has_a_key(self):
        fences = [f for _, held in getattr(self, "attempts", ()) for f in held.values()]
        assert len(fences) == len(set(fences))


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_every_transition_is_one_of_a_known_state():
    """The table has the three states, and a way back from each."""
    states = {state for state, _ in idempotency.TRANSITIONS}
    assert states == set(idempotency.TRANSITIONS.values())
    assert states == {"absent", "running", "finished"}


def test_an_attempt_long_gone_has_no_fence():
    """A key that was released and begun again is not the first attempt's."""
    for kind in TABLE:
        store = TABLE[kind](":memory:") if kind == "sqlite" else TABLE[kind]()
        first = store.begin("k", "f", 60, 60).fence
        store.release("k", first)
        second = store.begin("k", "f", 60, 60).fence
        assert store.complete("k", first, ANSWER, 60) is None
        store.release("k", first)
        assert not store.renew("k", first, 60, 60)
        assert store.complete("k", second, ANSWER, 60) == ANSWER


def test_memory_has_room_for_so_many():
    """Nothing is forgotten before its time: who finds no room is refused."""
    clock = Now()
    store = idempotency.MemoryStore(max_keys=2, clock=clock)
    fence = store.begin("a", "f", 10, 20).fence
    store.begin("b", "f", 10, 20)
    with pytest.raises(idempotency.StoreFullError, match="2 keys"):
        store.begin("c", "f", 10, 20)
    assert store.complete("a", fence, ANSWER, 20) == ANSWER
    assert store.begin("a", "f", 10, 20) == idempotency.Finished(ANSWER)
    clock.now += 30
    for key in ("c", "d"):
        assert isinstance(store.begin(key, "f", 10, 20), idempotency.Began)


def test_memory_forgets_what_lies_behind():
    """What has expired makes room, though a key of a longer time was there first."""
    now = Now()
    store = idempotency.MemoryStore(max_keys=3, max_bytes=4, clock=now)
    store.begin("long", "f", 60, 10**6)
    for key in ("a", "b"):
        fence = store.begin(key, "f", 1, 1).fence
        store.complete(key, fence, idempotency.Answer(200, (), b"xx"), 1)
    with pytest.raises(idempotency.StoreFullError):
        store.begin("c", "f", 1, 1)
    now.now += 10
    fence = store.begin("c", "f", 60, 60).fence
    store.complete("c", fence, idempotency.Answer(200, (), b"xxxx"), 60)
    assert store.begin("c", "f", 60, 60).answer.body == b"xxxx"


def test_memory_has_room_for_so_many_bytes():
    """Beyond its bytes an answer is recorded without a body; expiry makes room."""
    clock = Now()
    store = idempotency.MemoryStore(max_bytes=5, clock=clock)

    def done(key, body):
        answer = idempotency.Answer(200, (), body)
        fence = store.begin(key, "f", 10, 20).fence
        assert store.complete(key, fence, answer, 20) == answer
        return store.begin(key, "f", 10, 20).answer.body

    bodies = [done(key, body) for key, body in (("a", b"123"), ("b", b"123"))]
    assert bodies == [b"123", None]
    assert done("c", b"12") == b"12"
    assert done("d", None) is None
    clock.now += 20
    assert done("e", b"12345") == b"12345"


def test_a_full_store_is_503():
    """A server without room for a key does not run the app."""
    store = idempotency.MemoryStore(max_keys=1)
    app = guard(Shop(), store)

    async def main():
        return [(await ask(app, key=key)).status for key in ("a", "b", "a")]

    assert asyncio.run(main()) == [201, 503, 201]


def test_many_keys_of_memory_take_no_longer():
    """That many keys are held makes a new one no slower."""
    store = idempotency.MemoryStore()
    begin = time.process_time()
    for n in range(20_000):
        store.begin(f"{n}", "f", 60, 60)
    assert time.process_time() - begin < 5


def test_sqlite_survives(tmp_path):
    """What was recorded is there after a restart, and the app does not run."""
    shop = Shop(body=b"\x00\xff")
    for _ in range(2):
        store = idempotency.SQLiteStore(tmp_path / "keys.db")
        got = asyncio.run(ask(guard(shop, store)))
        store.close()
        store.close()
    assert (got.body, got.is_replay, shop.effects) == (b"\x00\xff", True, 1)


def test_sqlite_forgets_what_has_expired(tmp_path):
    """The file does not grow by what is of no use, and no key pays for all."""
    clock, path = Now(), tmp_path / "keys.db"
    store = idempotency.SQLiteStore(path, clock=clock)
    for n in range(20):
        store.begin(f"{n}", "f", 1, 1)
    clock.now += 2
    counts = []
    for n in range(4):
        store.begin(f"new {n}", "f", 1, 1)
        with sqlite3.connect(path) as conn:
            counts += conn.execute("SELECT count(*) FROM idempotency_key").fetchone()
        conn.close()
    store.close()
    assert counts == [13, 6, 3, 4]


def test_sqlite_that_cannot_be_opened(tmp_path):
    """A file that is none of SQLite's, or cannot be had, is a store that is away."""
    (tmp_path / "none").write_bytes(b"no database at all" * 100)
    for path in (tmp_path / "none", tmp_path / "no folder" / "keys.db"):
        store = idempotency.SQLiteStore(path)
        got = asyncio.run(ask(guard(Shop(), store)))
        assert (got.status, got.problem()) == (503, "store-away")
        with pytest.raises(sqlite3.Error):
            store.begin("k", "f", 1, 1)


def test_sqlite_rolls_back(tmp_path):
    """A call that fails in the midst leaves the store usable."""
    store = idempotency.SQLiteStore(tmp_path / "keys.db")
    with pytest.raises(sqlite3.Error):
        store.begin("k", object(), 1, 1)
    assert isinstance(store.begin("k", "f", 60, 1), idempotency.Began)
    store.close()


def test_sqlite_while_another_writes(tmp_path):
    """Who writes for longer than the timeout makes it 503, and no longer than that."""
    path = tmp_path / "keys.db"
    store = idempotency.SQLiteStore(path, timeout=0.01)
    app = guard(Shop(), store)
    assert asyncio.run(ask(app)).status == 201
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert asyncio.run(ask(app, key="b")).status == 503
    other.execute("ROLLBACK")
    other.close()
    assert asyncio.run(ask(app, key="b")).status == 201
    store.close()


def test_sqlite_in_many_threads(tmp_path):
    """A thread waits for others no longer than the timeout."""
    store = idempotency.SQLiteStore(tmp_path / "keys.db", timeout=0.01)
    with store._open(), pytest.raises(TimeoutError, match="others wait"):
        store.begin("k", "f", 60, 60)
    assert isinstance(store.begin("k", "f", 60, 60), idempotency.Began)
    store.close()


# --- effect and record in one transaction


class Till:
    """An app whose effect is a row, recorded in the same transaction."""

    def __init__(self, path):
        self.path, self.steps, self.answer = path, [], 201
        with sqlite3.connect(path) as conn:
            conn.execute("CREATE TABLE effect (key)")
        conn.close()

    def count(self):
        conn = sqlite3.connect(self.path)
        try:
            return conn.execute("SELECT count(*) FROM effect").fetchone()[0]
        finally:
            conn.close()

    async def __call__(self, scope, receive, send):
        attempt = scope["state"]["idempotency"]
        conn = sqlite3.connect(self.path)
        conn.row_factory = sqlite3.Row
        try:
            with conn:
                for step in self.steps[:1]:
                    await step()
                conn.execute("INSERT INTO effect VALUES (?)", [attempt.key])
                headers = [("Content-Type", "text/plain"), (b"Set-Cookie", b"s")]
                attempt.complete_in(conn, 201, headers, b"made")
                for step in self.steps[1:2]:
                    await step()
        finally:
            conn.close()
        for step in self.steps[2:3]:
            await step()
        headers = [(b"content-type", b"text/plain")]
        await send(
            {
                "type": "http.response.start",
                "status": self.answer,
                "headers": headers,
            }
        )
        await send({"type": "http.response.body", "body": b"made"})


async def go_on():
    """Do nothing."""


async def fail():
    """Fail as a bug does."""
    raise ZeroDivisionError


@pytest.fixture
def till(tmp_path):
    """An app with a store in the same file."""
    till = Till(tmp_path / "shop.db")
    till.store = idempotency.SQLiteStore(tmp_path / "shop.db")
    till.guarded = guard(till, till.store)
    yield till
    till.store.close()


def test_one_transaction(till):
    """The effect and its record are there together."""

    async def main():
        return [await ask(till.guarded) for _ in range(2)]

    first, other = asyncio.run(main())
    assert (first.status, first.body, first.is_replay) == (201, b"made", False)
    assert (other.status, other.body, other.is_replay) == (201, b"made", True)
    assert other.headers["content-type"] == "text/plain"
    assert "set-cookie" not in other.headers
    assert till.count() == 1


def test_a_failure_before_the_commit(till):
    """Neither is there, and the next attempt has the effect."""
    till.steps = [go_on, fail]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(till.guarded))
    assert till.count() == 0
    till.steps = []
    got = asyncio.run(ask(till.guarded))
    assert (got.status, got.is_replay, till.count()) == (201, False, 1)


def test_a_failure_behind_the_commit(till):
    """Both are there: the client gets an error, and its repeat the answer."""
    till.steps = [go_on, go_on, fail]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(till.guarded))
    got = asyncio.run(ask(till.guarded))
    assert (got.status, got.is_replay, till.count()) == (201, True, 1)


def test_what_was_committed_is_the_answer(till):
    """What the app sends behind it, the client does not get."""
    till.answer = 404
    got = asyncio.run(ask(till.guarded))
    assert (got.status, got.body, got.is_replay) == (201, b"made", False)


def test_repeats_that_wait_for_the_transaction(till):
    """Repeats that wait for the app's lock leave it the threads to let go of it."""
    repeats = []

    async def come():
        for _ in range(3):
            repeats.append(asyncio.create_task(ask(till.guarded)))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(lambda: None)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        till.steps = [go_on, come]
        begin = time.monotonic()
        first = await ask(till.guarded)
        seconds = time.monotonic() - begin
        return first, await asyncio.gather(*repeats), seconds

    first, others, seconds = asyncio.run(main())
    assert first.status == 201
    assert all(got.status in (201, 409) for got in others)
    assert seconds < 4  # of the store's five


def test_an_attempt_that_was_overtaken_has_no_effect(till):
    """Who has lost the key to another attempt cannot commit."""

    async def overtake():
        attempt = till.attempt
        key, fingerprint = attempt._name, till.fingerprint
        till.clock.now += 61
        outcome = till.store.begin(key, fingerprint, 60, 60)
        assert isinstance(outcome, idempotency.Began)
        till.other = outcome.fence

    till.clock = Now(time.time())
    till.store._clock = till.clock
    begin = till.store.begin

    def noting(key, fingerprint, lease, ttl):
        till.fingerprint = fingerprint
        return begin(key, fingerprint, lease, ttl)

    async def app(scope, receive, send):
        till.attempt = scope["state"]["idempotency"]
        await till(scope, receive, send)

    till.store.begin, till.steps = noting, [overtake]
    with pytest.raises(idempotency.LeaseLostError):
        asyncio.run(ask(guard(app, till.store)))
    assert till.count() == 0
    assert till.store.complete(till.attempt._name, till.other, ANSWER, 60) == ANSWER


def test_no_transaction(till):
    """Without a transaction there is nothing to be one with."""

    async def app(scope, receive, send):
        conn = sqlite3.connect(till.path)
        try:
            scope["state"]["idempotency"].complete_in(conn, 201)
        finally:
            conn.close()

    with pytest.raises(RuntimeError, match="begin the transaction"):
        asyncio.run(ask(guard(app, till.store)))


def test_a_store_without_transactions():
    """A store that has none to share says so."""

    async def app(scope, receive, send):
        scope["state"]["idempotency"].complete_in(None, 201)

    with pytest.raises(AttributeError, match="complete_in"):
        asyncio.run(ask(guard(app)))


def test_the_state_of_others_is_kept():
    """What a server or another middleware has put into the state is still there."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["state"])
        await Shop()(scope, receive, send)

    given = {"pool": 1}
    asyncio.run(ask(guard(app), state=given))
    assert seen[0]["pool"] == 1
    assert seen[0]["idempotency"].key == KEY
    assert given == {"pool": 1}


# --- the client


def sending(handler, kind, **options):
    """Return a function that sends requests by a blocking or an async client."""
    transport = idempotency.IdempotencyKeyTransport(
        httpx.MockTransport(handler), **options
    )

    def send(*requests, **how):
        if kind == "sync":
            with httpx.Client(transport=transport) as client:
                return [client.send(request, **how) for request in requests]

        async def main():
            async with httpx.AsyncClient(transport=transport) as client:
                return [await client.send(request, **how) for request in requests]

        return asyncio.run(main())

    return send


kinds = pytest.mark.parametrize("kind", ["sync", "async"])


def echo(request):
    """Answer with the lines of the key that came."""
    lines = request.headers.get_list("idempotency-key")
    return httpx.Response(200, json=[request.method, *lines])


@kinds
def test_each_operation_has_a_key(kind):
    """A POST or PATCH gets a quoted UUID of its own, and others get none."""
    requests = [
        httpx.Request(method, "https://api.test/")
        for method in ("POST", "POST", "PATCH", "PUT", "GET", "DELETE")
    ]
    responses = sending(echo, kind)(*requests)
    lines = [response.json()[1:] for response in responses]
    assert lines[3:] == [[], [], []]
    keys = [idempotency.parse_idempotency_key(line) for (line,) in lines[:3]]
    assert [uuid.UUID(key).version for key in keys] == [4, 4, 4]
    assert [line for (line,) in lines[:3]] == [f'"{key}"' for key in keys]
    assert len(set(keys)) == 3
    assert keys[0] == responses[0].request.extensions["idempotency_key"]


@kinds
def test_a_request_sent_again_keeps_its_key(kind):
    """A request that is sent twice is one operation."""
    request = httpx.Request("POST", "https://api.test/")
    first, second = (r.json() for r in sending(echo, kind)(request, request))
    assert first == second
    assert len(first) == 2


@kinds
@pytest.mark.parametrize("line", [f'"{KEY}"', KEY, '"a\\"b"'])
def test_a_key_of_the_callers(kind, line):
    """A header that the caller has set stays as it is."""
    request = httpx.Request(
        "POST", "https://api.test/", headers={"Idempotency-Key": line}
    )
    (response,) = sending(echo, kind)(request)
    assert response.json() == ["POST", line]
    key = idempotency.parse_idempotency_key(line)
    assert request.extensions["idempotency_key"] == key


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_key_handed_over(method):
    """A key that the caller hands over is sent, with whatever method but GET."""
    with httpx.Client(
        transport=idempotency.IdempotencyKeyTransport(httpx.MockTransport(echo))
    ) as client:
        options = {"extensions": {"idempotency_key": 'order "7"'}}
        for _ in range(2):
            response = client.request(method, "https://api.test/", **options)
            assert response.json() == [method, '"order \\"7\\""']
        assert options == {"extensions": {"idempotency_key": 'order "7"'}}
        response = client.get("https://api.test/", **options)
        assert response.json() == ["GET"]


def test_bare_keys():
    """A server such as Stripe's gets the key without quotes."""
    request = httpx.Request("POST", "https://api.test/")
    (response,) = sending(echo, "sync", quoted=False, new_key=lambda: KEY)(request)
    assert response.json() == ["POST", KEY]


def test_another_name_and_other_methods():
    """The field's name and the methods are the API's."""
    options = {"header": "X-Request-Id", "methods": ["PUT"], "new_key": lambda: "k"}
    requests = [
        httpx.Request(method, "https://api.test/") for method in ("PUT", "POST")
    ]
    sending(echo, "sync", **options)(*requests)
    assert [r.headers.get("x-request-id") for r in requests] == ['"k"', None]


@pytest.mark.parametrize(
    ("headers", "extension", "options"),
    [
        ([("Idempotency-Key", "a"), ("Idempotency-Key", "a")], None, {}),
        ([("Idempotency-Key", "a")], "b", {}),
        ([("Idempotency-Key", "")], None, {}),
        ([("Idempotency-Key", "a b")], None, {}),
        ([], "", {}),
        ([], "ключ", {}),
        ([], "a\r\nX-Evil: 1", {}),
        ([], 'a"b', {"quoted": False}),
        ([], '"ab"', {"quoted": False}),
        ([], " ab", {"quoted": False}),
        ([], "x" * 256, {}),
        ([], 7, {}),
        ([], None, {"new_key": lambda: "x" * 10_000}),
    ],
)
def test_keys_that_are_not_sent(headers, extension, options):
    """A request with no good key, or with two, is not sent."""
    extensions = {} if extension is None else {"idempotency_key": extension}
    request = httpx.Request(
        "POST", "https://api.test/", headers=headers, extensions=extensions
    )
    with pytest.raises(idempotency.InvalidKey):
        sending(pytest.fail, "sync", **options)(request)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("origin", ["https://api.test", "https://other.test"])
def test_a_redirect_of_the_operation(status, origin):
    """A redirect that keeps the method keeps the key, to wherever the body goes."""

    def handler(request):
        if request.url.path == "/":
            return httpx.Response(status, headers={"Location": f"{origin}/there"})
        return echo(request)

    request = httpx.Request("POST", "https://api.test/", content=b"x")
    (response,) = sending(handler, "sync")(request, follow_redirects=True)
    assert response.json() == ["POST", request.headers["idempotency-key"]]


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "mine"}])
def test_a_redirect_to_the_result(status, headers):
    """A redirect that becomes a GET loses the key, whoever set it."""

    def handler(request):
        if request.url.path == "/":
            return httpx.Response(status, headers={"Location": "https://b.test/there"})
        return echo(request)

    request = httpx.Request("POST", "https://a.test/", content=b"x", headers=headers)
    (response,) = sending(handler, "sync")(request, follow_redirects=True)
    assert response.json() == ["GET"]
    plain = httpx.Request("GET", "https://a.test/there", headers=headers)
    (response,) = sending(handler, "sync")(plain)
    assert response.json() == ["GET", *headers.values()]


@kinds
def test_retries_below_and_above(kind):
    """Layers around and below send one key for one operation."""
    seen = []

    def handler(request):
        seen.append(request.headers["idempotency-key"])
        return httpx.Response(503 if len(seen) < 4 else 200)

    class Twice(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def __init__(self, transport):
            self.transport = transport

        def handle_request(self, request):
            self.transport.handle_request(request)
            return self.transport.handle_request(request)

        async def handle_async_request(self, request):
            await self.transport.handle_async_request(request)
            return await self.transport.handle_async_request(request)

    below = Twice(httpx.MockTransport(handler))
    above = Twice(idempotency.IdempotencyKeyTransport(below))
    request = httpx.Request("POST", "https://api.test/")
    if kind == "sync":
        assert above.handle_request(request).status_code == 200
    else:
        assert asyncio.run(above.handle_async_request(request)).status_code == 200
    assert len(seen) == 4
    assert len(set(seen)) == 1


@kinds
def test_closing(kind):
    """Closing the client closes the transport below."""
    closed = []

    class Below(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def close(self):
            closed.append("sync")

        async def aclose(self):
            closed.append("async")

    transport = idempotency.IdempotencyKeyTransport(Below())
    if kind == "sync":
        httpx.Client(transport=transport).close()
    else:
        asyncio.run(httpx.AsyncClient(transport=transport).aclose())
    assert closed == [kind]
