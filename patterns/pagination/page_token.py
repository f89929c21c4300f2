# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Serve pages that stay right while rows change, by keyset and token.

`keyset` writes the condition and order that continue a query behind a row, and
`PageTokens` carries that row's position to the client and back: signed, expiring,
stateless, and bound to the query it was made for. For the server's side of any list
that grows or that is deeper than some pages; not for jumping to page 57, which only
OFFSET can, nor for hiding the position, since a token is signed and not encrypted.
Follows AIP-158 (page tokens), RFC 2104 (HMAC) and RFC 4648 §5 (base64url).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = ["InvalidPageToken", "Keyset", "Order", "PageTokens", "keyset", "query_scope"]

_VERSION = 1
_MAC = 16  # bytes of HMAC-SHA-256 kept: RFC 2104 §5 asks for half of the output
_LONGEST = 4096  # characters of a token that are looked at, and made
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_PAGING = frozenset(
    {"cursor", "limit", "page_size", "page_token", "pageSize", "pageToken", "per_page"}
)


class InvalidPageToken(ValueError):
    """The client's fault: answer 400. `reason` is one of four words.

    `malformed`, `signature` (forged, or a retired key), `scope` (made for another
    query or principal) or `expired`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"page token refused: {reason}")
        self.reason = reason


class PageTokens:
    """Make and read page tokens.

    Args:
        keys: secrets of 32 random bytes or more. The first signs, each verifies: to
            rotate, put the new key first and drop the old one after `ttl`.
        ttl: seconds a token is good for, up to the next full one, or None for ever.
        clock: seconds since the epoch.

    >>> tokens = PageTokens(b"k" * 32, ttl=3600)
    >>> token = tokens.encode(["2026-11-23", 42], scope="GET /events")
    >>> tokens.decode(token, scope="GET /events")
    ['2026-11-23', 42]
    """

    def __init__(
        self,
        *keys: bytes | str,
        ttl: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not all(isinstance(key, bytes | str) for key in keys):
            raise TypeError("a key is bytes or text")
        secrets = [key.encode() if isinstance(key, str) else key for key in keys]
        if not secrets or not all(secrets):
            raise ValueError("page tokens need a key, and no empty one")
        if ttl is not None and not 0 < ttl < math.inf:
            raise ValueError("a ttl is more than 0 seconds; None is for ever")
        # A key of its own, so that no signature made for another purpose fits here.
        self._keys = [_hmac(secret, b"page-token:1") for secret in secrets]
        self._ttl, self._clock = ttl, clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self._keys)} keys>, ttl={self._ttl})"

    def encode(self, position: Any, *, scope: Any) -> str:
        """Return a token for a position, which is any JSON value.

        `scope` is what must be the same when the token comes back: route, sort,
        filters and principal (`query_scope` makes one), but not the page size, which
        a client may change between pages (AIP-158).

        Raises:
            ValueError: `position` or `scope` is not JSON, or the token gets longer
                than 4096 characters.
        """
        expires = None if self._ttl is None else math.ceil(self._clock() + self._ttl)
        payload = _canonical([_VERSION, expires, _digest(scope), position])
        raw = _hmac(self._keys[0], payload)[:_MAC] + payload
        token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if len(token) > _LONGEST:
            raise ValueError(f"a page token of {len(token)} characters is too long")
        return token

    def decode(self, token: str, *, scope: Any) -> Any:
        """Return the position in a token made for the same scope.

        Raises:
            InvalidPageToken: the token is not one to be honoured; see its `reason`.
        """
        raw = _unpack(token)
        mac, payload = raw[:_MAC], raw[_MAC:]
        macs = [_hmac(key, payload)[:_MAC] for key in self._keys]
        if not any([hmac.compare_digest(mac, good) for good in macs]):
            raise InvalidPageToken("signature")
        version, expires, digest, position = json.loads(payload)
        if version != _VERSION:
            raise InvalidPageToken("malformed")
        if not hmac.compare_digest(digest, _digest(scope)):
            raise InvalidPageToken("scope")
        if expires is not None and self._clock() >= expires:
            raise InvalidPageToken("expired")
        return position


def query_scope(
    route: str,
    query: Mapping[str, Any] | Iterable[tuple[str, Any]],
    *,
    principal: str = "",
    paging: Iterable[str] = _PAGING,
) -> list[Any]:
    """Return the scope of a list request: all of its query but the paging itself.

    >>> query_scope("/events", {"kind": "push", "limit": "50"}, principal="ann")
    ['/events', 'ann', [['kind', 'push']]]
    """
    if hasattr(query, "lists"):  # Django, Werkzeug: names that come twice
        query = [(name, value) for name, values in query.lists() for value in values]
    elif isinstance(query, Mapping):  # httpx, Starlette: the same
        query = getattr(query, "multi_items", query.items)()
    leave = frozenset(paging)
    pairs = [[name, value] for name, value in query if name not in leave]
    return [route, principal, sorted(pairs, key=lambda pair: pair[0])]


def _unpack(token: str) -> bytes:
    """Return the bytes of a token that is canonical base64url, and not too long."""
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST:
        raise InvalidPageToken("malformed")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken("malformed") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
        raise InvalidPageToken("malformed")  # another spelling of the same bytes
    return raw


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _canonical(value: Any) -> bytes:
    """Return one JSON text for one value, whatever the order of its members."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, RecursionError) as exc:
        raise ValueError(f"a page token holds JSON values only: {exc}") from None
    return text.encode()


def _digest(scope: Any) -> str:
    return hashlib.sha256(_canonical(scope)).hexdigest()[:16]


Nulls: TypeAlias = Literal["first", "last"]


class Order(NamedTuple):
    """One column of an order; `nulls` says where NULLs go, None that there are none."""

    column: str
    direction: Literal["asc", "desc"] = "asc"
    nulls: Nulls | None = None


class Keyset(NamedTuple):
    """The rest of a query from behind `WHERE`, and its parameters."""

    sql: str
    params: list[Any]


@dataclass(frozen=True, slots=True)
class _Side:
    """One column against the value in the position it is to be behind of."""

    order: Order
    value: Any
    mark: str

    @property
    def operator(self) -> str:
        return ">" if self.order.direction == "asc" else "<"

    def behind(self) -> Keyset:
        """Return the condition that a row is behind the value in this column."""
        column, last = self.order.column, self.order.nulls == "last"
        if self.value is None:
            return Keyset("FALSE" if last else f"{column} IS NOT NULL", [])
        sql = f"{column} {self.operator} {self.mark}"
        return Keyset(f"({sql} OR {column} IS NULL)" if last else sql, [self.value])

    def not_before(self) -> Keyset:
        """Return the condition that a row is level with the value, or behind it."""
        column, last = self.order.column, self.order.nulls == "last"
        if self.value is None:
            return Keyset(f"{column} IS NULL" if last else "TRUE", [])
        sql = f"{column} {self.operator}= {self.mark}"
        return Keyset(f"({sql} OR {column} IS NULL)" if last else sql, [self.value])


def keyset(
    order_by: Sequence[Order | tuple[str, ...] | str],
    after: Sequence[Any] | None = None,
    *,
    before: Sequence[Any] | None = None,
    unique: str | Sequence[str] = "id",
    placeholder: str = "?",
) -> Keyset:
    """Return the condition and order that continue a query behind a row.

    The text goes behind `WHERE` or `AND`, and `LIMIT` behind it:
    `f"SELECT … FROM events WHERE kind = ? AND {sql} LIMIT 51"`. Fetch one row more
    than a page to know whether there is another.

    Args:
        order_by: columns as `Order`, `("created", "desc")` or `"created desc"`; one
            that may be NULL says where: `"score desc nulls last"`.
        after: the values of those columns in the last row of the page before.
        before: the same for the first row of the page behind, to go backwards; the
            rows then come in reverse.
        unique: the column, or the columns, that no two rows share; all of them must
            be in the order, or rows that tie are lost between pages.
        placeholder: `?` for SQLite, `%s` for psycopg.

    Columns of one direction without NULLs are compared as a row value, which SQLite and
    PostgreSQL serve from an index on them in that order. Otherwise the form is bounded,
    `a >= ? AND (a > ? OR b < ?)`, since `a > ? OR (a = ? AND b < ?)` makes SQLite read
    all rows before. A column with NULLs gives the right rows, but an index may not
    bound them: sort deep lists by columns without.

    Raises:
        ValueError: the order is not total, a column's name is not plain, or the
            position does not fit the order.

    >>> keyset([("created", "desc"), ("id", "desc")], after=["2026-11-23", 42]).sql
    '(created, id) < (?, ?) ORDER BY created DESC, id DESC'
    """
    orders = [_order(column) for column in order_by]
    _require_total(orders, [unique] if isinstance(unique, str) else list(unique))
    if placeholder not in ("?", "%s"):
        raise ValueError("a placeholder is ? or %s")
    if after is not None and before is not None:
        raise ValueError("a page is after a row or before one, not both")
    if before is not None:
        orders, after = [_reverse(order) for order in orders], before
    tail = ", ".join(_term(order) for order in orders)
    if after is None:
        return Keyset(f"TRUE ORDER BY {tail}", [])
    if not isinstance(after, Sequence) or isinstance(after, str | bytes):
        raise ValueError("a position is a list of the columns' values")
    where = _condition(orders, list(after), placeholder)
    return Keyset(f"{where.sql} ORDER BY {tail}", where.params)


def _order(given: Order | tuple[str, ...] | str) -> Order:
    """Return a column of the order, checked: its name comes from a client at times."""
    try:
        column, *rest = given.split() if isinstance(given, str) else given
        words = [word for word in rest if word and word.lower() != "nulls"]
        order = Order(column, *words)  # type: ignore[arg-type]
        direction = order.direction.lower()
        nulls = order.nulls.lower() if order.nulls else None
        plain = _COLUMN.fullmatch(order.column)
    except (TypeError, AttributeError, ValueError) as exc:
        raise ValueError("a column of an order is up to three words") from exc
    if not plain:
        raise ValueError(f"not a plain column name: {order.column[:40]!r}")
    if direction not in ("asc", "desc") or nulls not in ("first", "last", None):
        raise ValueError(f"{order.column}: asc or desc, then NULLs first or last")
    return Order(order.column, direction, nulls)  # type: ignore[arg-type]


def _require_total(orders: list[Order], unique: list[str]) -> None:
    """Refuse an order in which two rows can tie."""
    columns = {order.column: order for order in orders}
    missing = [name for name in unique if name not in columns]
    if missing or not unique:
        wanted = ", ".join(missing) or "a unique column"
        raise ValueError(f"rows can tie in this order: end it with {wanted}")
    if len(columns) < len(orders):
        raise ValueError("a column stands in the order twice")
    if any(columns[name].nulls for name in unique):
        raise ValueError("a unique column with NULLs does not keep rows apart")


def _reverse(order: Order) -> Order:
    """Return a column's order read from the other end."""
    nulls: Nulls | None = order.nulls and ("first" if order.nulls == "last" else "last")
    return Order(order.column, "asc" if order.direction == "desc" else "desc", nulls)


def _term(order: Order) -> str:
    nulls = f" NULLS {order.nulls.upper()}" if order.nulls else ""
    return f"{order.column} {order.direction.upper()}{nulls}"


def _condition(orders: list[Order], values: list[Any], mark: str) -> Keyset:
    """Return the condition that a row is behind the position."""
    if len(values) != len(orders):
        raise ValueError(f"{len(orders)} columns, but a position of {len(values)}")
    for order, value in zip(orders, values, strict=True):
        if value is None and order.nulls is None:
            raise ValueError(f"{order.column} is NULL: say where NULLs go in its order")
    sides = [_Side(*pair, mark) for pair in zip(orders, values, strict=True)]
    plain = len({order.direction for order in orders}) == 1
    if plain and not any(order.nulls for order in orders):
        names = ", ".join(order.column for order in orders)
        marks = ", ".join([mark] * len(orders))
        return Keyset(f"({names}) {sides[0].operator} ({marks})", values)
    return _bounded(sides)


def _bounded(sides: list[_Side]) -> Keyset:
    """Return the bounded form, from the last column back to the first."""
    sql, params = sides[-1].behind()
    for side in reversed(sides[:-1]):
        level, behind = side.not_before(), side.behind()
        if behind.sql == "FALSE":  # left out, so that an index serves the rest
            sql = f"{level.sql} AND {sql}"
        else:
            sql = f"{level.sql} AND ({behind.sql} OR {sql})"
        params = [*level.params, *behind.params, *params]
    return Keyset(f"({sql})", params)


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
