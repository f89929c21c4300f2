"""What depth costs by OFFSET and by keyset, and what a token costs."""

from __future__ import annotations

import base64
import contextlib
import hmac
import importlib.util
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from harness import Row, interleave

from patterns.pagination.page_token import PageTokens, keyset

SIZE = 100
WAYS = ("OFFSET", "keyset")
ORDER = (("created", "asc"), ("id", "asc"))
NULLS = (("score", "asc", "last"), ("id", "asc"))
MIXED = (("created", "desc"), ("id", "asc"))
TEXTBOOK = "created > ? OR (created = ? AND id > ?)"


def table(rows: int) -> sqlite3.Connection:
    """Return a database of events, three at each moment, half of them with a score."""
    db = sqlite3.connect(":memory:")
    columns = "id INTEGER PRIMARY KEY, created INT, body TEXT, score INT"
    db.execute(f"CREATE TABLE event ({columns})")
    events = (
        (n, n // 3, f"the body of event {n}", None if n % 2 else n // 6)
        for n in range(rows)
    )
    db.executemany("INSERT INTO event VALUES (?, ?, ?, ?)", events)
    db.execute("CREATE INDEX score ON event (score, id)")
    db.execute("CREATE INDEX up ON event (created, id)")
    db.execute("CREATE INDEX mixed ON event (created DESC, id)")
    return db


def bench_depth(quick: bool) -> Iterator[Row]:
    """Compare a page at some depth by OFFSET with the forms of the condition."""
    count = 1_000 if quick else 200_000
    depths = [count // 200, count // 2, count - count // 200]
    with contextlib.closing(table(count)) as db:

        def page(sql: str, params: list[Any]) -> Callable[[], int]:
            text = f"SELECT * FROM event WHERE {sql} LIMIT {SIZE}"
            return lambda: db.execute(text, params).fetchall()[0][0]

        for depth in depths:
            last = [(depth - 1) // 3, depth - 1]
            tail = "ORDER BY created, id"
            either = [last[0], *last]
            offset = f"TRUE {tail} LIMIT {SIZE} OFFSET {depth} --"
            cases = {
                f"OFFSET, {depth} deep": page(offset, []),
                f"keyset, {depth} deep": page(*keyset(ORDER, last)),
                f"textbook OR, {depth} deep": page(f"({TEXTBOOK}) {tail}", either),
            }
            times = interleave(cases, 1 if quick else 25, result=depth)
            keys, base = f"keyset, {depth} deep", f"OFFSET, {depth} deep"
            yield times.row(keys, base, target=1.0 if depth > SIZE * 10 else None)
            yield times.row(f"textbook OR, {depth} deep", base)
        forms = {
            "mixed directions": (MIXED, "created DESC, id", depths[1:]),
            # NULLs behind all values: no index serves `score >= ? OR score IS NULL`.
            "NULLs last": (NULLS, "score NULLS LAST, id", [count // 3, depths[2]]),
        }
        for name, (order, tail, places) in forms.items():
            for depth in places:
                names = ", ".join(term[0] for term in order)
                last, first = db.execute(
                    f"SELECT {names} FROM event ORDER BY {tail} "
                    f"LIMIT 2 OFFSET {depth - 1}"
                ).fetchall()
                offset = f"TRUE ORDER BY {tail} LIMIT {SIZE} OFFSET {depth} --"
                base, keys = (f"{way}, {name}, {depth} deep" for way in WAYS)
                cases = {base: page(offset, []), keys: page(*keyset(order, last))}
                times = interleave(cases, 1 if quick else 25, result=first[1])
                target = 1.0 if name == "mixed directions" else None
                yield times.row(keys, base, target=target)


def bench_full_walk(quick: bool) -> Iterator[Row]:
    """Compare a walk over the whole table."""
    count = 1_000 if quick else 200_000
    with contextlib.closing(table(count)) as db:

        def by_offset() -> int:
            sql = f"SELECT * FROM event ORDER BY created, id LIMIT {SIZE} OFFSET ?"
            for n in itertools.count():
                if not db.execute(sql, [n * SIZE]).fetchall():
                    return n * SIZE
            raise AssertionError

        def by_keyset() -> int:
            after, total = None, 0
            while True:
                rest = keyset(ORDER, after)
                sql = f"SELECT * FROM event WHERE {rest.sql} LIMIT {SIZE}"
                rows = db.execute(sql, rest.params).fetchall()
                if not rows:
                    return total
                after, total = (rows[-1][1], rows[-1][0]), total + len(rows)

        cases = {"OFFSET, all pages": by_offset, "keyset, all pages": by_keyset}
        times = interleave(cases, 1 if quick else 3, result=count)
        yield times.row("keyset, all pages", "OFFSET, all pages", target=0.1)


def bench_token(quick: bool) -> Iterator[Row]:
    """Compare a token with the barest one that is signed, and with itsdangerous."""
    key, position = b"k" * 32, ["2026-11-23T10:00:00Z", 123456]
    scope = ["/events", "ann", [["kind", "push"], ["sort", "newest"]]]
    tokens = PageTokens(key, ttl=3600)

    def bare_encode() -> str:
        text = json.dumps([position, scope]).encode()
        signed = hmac.digest(key, text, "sha256")[:16] + text
        return base64.urlsafe_b64encode(signed).decode()

    bare, token = bare_encode(), tokens.encode(position, scope=scope)

    def bare_decode() -> Any:
        raw = base64.urlsafe_b64decode(bare)
        assert hmac.compare_digest(raw[:16], hmac.digest(key, raw[16:], "sha256")[:16])
        return json.loads(raw[16:])[0]

    encoders: dict[str, Callable[[], Any]] = {
        "bare HMAC, encode": bare_encode,
        "PageTokens, encode": lambda: tokens.encode(position, scope=scope),
    }
    decoders: dict[str, Callable[[], Any]] = {
        "bare HMAC, decode": bare_decode,
        "PageTokens, decode": lambda: tokens.decode(token, scope=scope),
    }
    if importlib.util.find_spec("itsdangerous"):
        from itsdangerous import URLSafeTimedSerializer

        signer = URLSafeTimedSerializer(key, salt=json.dumps(scope))
        signed = signer.dumps(position)
        encoders["itsdangerous, encode"] = lambda: signer.dumps(position)
        decoders["itsdangerous, decode"] = lambda: signer.loads(signed, max_age=3600)
    rounds, repeat = (1, 2) if quick else (15, 2_000)
    for cases, result in ((encoders, None), (decoders, position)):
        times = interleave(cases, rounds, repeat=repeat, result=result)
        base, *others = cases
        for case in others:
            yield times.row(case, base)
