# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Verify a signed webhook before you trust a byte of its body.

`Webhook` verifies and signs by Standard Webhooks and by the schemes of GitHub, Stripe,
Slack and Shopify. It wants the body as it came, not decoded, nor parsed and written
again. A good signature says who sent a message and not that it is new: keep the ids
that were processed, above all for GitHub and Shopify, who sign no time. Not for
signatures over a whole request (RFC 9421), nor against a sender who knows your secret.
Follows Standard Webhooks 1.0.0 ("Signature scheme", "Webhook headers"), RFC 2104
(HMAC), RFC 8259 (JSON) and RFC 8032 (Ed25519: only for keys `whpk_` and `whsk_`, which
need the package cryptography).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import importlib
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeAlias

__all__ = ["SignatureError", "Webhook", "WebhookMessage", "generate_secret"]

_MOST = 16  # secrets, and signatures that are read
_LONGEST = 8192  # characters of a header that are looked at; 16 signatures have 1500
_ID = re.compile("[ -\\-/-~]{1,255}")  # to sign: no dot; 255 fit into an index
_BASE64 = re.compile("[A-Za-z0-9+/]+={0,2}")
_KINDS = ("whsec_", "whpk_", "whsk_")
_V1A = re.compile(rb"v1a,([A-Za-z0-9+/]{85}[AQgw]==)")  # one spelling of 64 bytes
_Fields: TypeAlias = Mapping[str, Any] | Iterable[tuple[str | bytes, Any]]


class SignatureError(ValueError):
    """The sender's fault: answer 400 or 401, and say no more.

    `reason` is `missing_header`, `bad_header` (too long, twice with two values, or no
    id), `bad_timestamp`, `no_matching_signature`, or `too_old` or `too_new`, which are
    said of genuine messages only. Nothing that was sent or expected is in the error.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"webhook refused: {self.reason.replace('_', ' ')}"


class WebhookMessage(NamedTuple):
    """A message whose signature is good.

    `id`, of 1 to 255 printable ASCII characters, is the same for each attempt. Only
    Standard Webhooks signs it. GitHub and Shopify do not, so who replays a body can
    give it another, and it may be None. Stripe and Slack have it in the body, and None
    here. `timestamp` is in seconds since the epoch and signed, or None for GitHub and
    Shopify. `body` is the bytes that were signed, which the repr leaves out.
    """

    id: str | None
    timestamp: int | None
    body: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, timestamp={self.timestamp})"

    def json(self) -> Any:
        """Return the body's value, parsed anew each time.

        Raises:
            ValueError: the body is no JSON in UTF-8 (a BOM is fine), has NaN in it, or
                nests too deep for the parser. The error has no part of it.
        """
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(self.body.decode("utf-8-sig"), parse_constant=_refuse)
        # Out here, or the parser's error, which holds the body, would be the context.
        raise ValueError("the body is not JSON")


# Twin of _refuse in errors/problem_details.py.
def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How one sender signs."""

    headers: tuple[str, str, str]  # of signature, time and id, as their owner has them
    before: str  # what is signed ahead of the body: {0} is the id, {1} the time
    mark: bytes  # what a signature begins with
    encode: Callable[[bytes], bytes]
    between: bytes = b" "  # what parts the entries
    several: bool = False  # each secret signs, and not the first alone
    time: bytes = b""  # what the entry begins with that is the time
    also: tuple[str, str] = ("", "")  # another beginning of the headers' names


_hex, _base64 = binascii.hexlify, base64.b64encode
_SCHEMES = {
    "standard": _Scheme(
        ("webhook-signature", "webhook-timestamp", "webhook-id"),
        *("{0}.{1}.", b"v1,", _base64),
        several=True,
        also=("webhook-", "svix-"),
    ),
    # Never X-Hub-Signature, which is SHA-1: who takes both takes the weaker one.
    "github": _Scheme(
        ("X-Hub-Signature-256", "", "X-GitHub-Delivery"), "", b"sha256=", _hex
    ),
    # v1 only: who takes v0 too takes what is signed for tests.
    "stripe": _Scheme(
        ("Stripe-Signature", "", ""), "{1}.", b"v1=", _hex, b",", True, b"t="
    ),
    "slack": _Scheme(
        ("X-Slack-Signature", "X-Slack-Request-Timestamp", ""),
        *("v0:{1}:", b"v0=", _hex),
    ),
    # Shopify's page "Verify webhook deliveries" tells duplicates by this id.
    "shopify": _Scheme(
        ("X-Shopify-Hmac-SHA256", "", "X-Shopify-Webhook-Id"), "", b"", _base64
    ),
}


class Webhook:
    """Verify and sign webhooks of one sender. Immutable, and safe across threads.

    Args:
        secrets: 1 to 16. The first is the newest, and each verifies: to rotate, put the
            new one first and drop the old one when nobody signs with it. In Standard
            Webhooks text is base64, with `whsec_` ahead or alone, or a key `whpk_`
            (verifies) or `whsk_` (signs too), and bytes are the key itself. For others
            a secret is what their page shows, `whsec_` included.
        scheme: `standard`, `github`, `stripe`, `slack` or `shopify`.
        tolerance: seconds that a timestamp may lie in the past, and in the future.
        clock: seconds since the epoch.

    Raises:
        TypeError: a secret is neither text nor bytes.
        ValueError: an argument cannot be right; of a secret its place is told, not it.
        ImportError: a key `whpk_` or `whsk_` without the package cryptography.

    >>> hook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> headers = hook.sign(b'{"paid": 7}', id="msg_1", timestamp=1614265330)
    >>> hook.verify(b'{"paid": 7}', headers, now=1614265390).json()
    {'paid': 7}
    >>> try:
    ...     hook.verify(b'{"paid": 8}', headers, now=1614265390)
    ... except SignatureError as error:
    ...     print(error.reason)
    no_matching_signature
    """

    def __init__(
        self,
        *secrets: str | bytes,
        scheme: str = "standard",
        tolerance: float = 300,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if scheme not in _SCHEMES:
            raise ValueError(f"a scheme is one of {', '.join(_SCHEMES)}")
        if not 0 <= tolerance < math.inf:
            raise ValueError("a tolerance is a number of seconds, 0 or more")
        if not 1 <= len(secrets) <= _MOST:
            raise ValueError(f"a webhook has 1 to {_MOST} secrets")
        self._name, self._scheme = scheme, _SCHEMES[scheme]
        self._tolerance, self._clock = tolerance, clock
        self._signs_id = "{0}" in self._scheme.before
        self._signs_time = "{1}" in self._scheme.before
        keys = [_key(s, scheme, f"secret {n}") for n, s in enumerate(secrets, 1)]
        self._macs = [_keyed(key) for key in keys if isinstance(key, bytes)]
        self._pairs = [key for key in keys if isinstance(key, _Ed25519)]
        # What no secret here could have made does not use up the sixteen.
        self._marks = (self._scheme.mark,) * bool(self._macs)
        self._marks += (b"v1a,",) * bool(self._pairs)
        self._wanted: dict[str | bytes, int] = {}  # in lower case, as text and as bytes
        for place, name in enumerate(map(str.lower, self._scheme.headers)):
            for low in filter(None, (name, name.replace(*self._scheme.also))):
                self._wanted |= {low: place, low.encode(): place}

    def __repr__(self) -> str:
        known = f"scheme={self._name!r}, tolerance={self._tolerance}"
        return f"Webhook(<{len(self._macs) + len(self._pairs)} secrets>, {known})"

    def verify(
        self, body: bytes, headers: _Fields, *, now: float | datetime | None = None
    ) -> WebhookMessage:
        """Return the message, if one signature is good under one secret.

        Args:
            body: the request's bytes. Its server limits them; each secret reads them.
            headers: a mapping with names in any case, or pairs as in an ASGI scope. A
                header that comes twice must say the same, but for signatures.
            now: seconds since the epoch or an aware datetime; None is the clock's.

        Of the signatures that a secret could have made 16 are read, and other entries
        passed over. Each secret is tried, whichever fits.

        Raises:
            SignatureError: the message is not to be trusted; see its `reason`.
            TypeError, ValueError: the caller's fault: the body is text, `now` no time.
        """
        payload = body if type(body) is bytes else _payload(body)
        seconds = self._clock() if now is None else _seconds(now)
        entries, sent, id = self._read(headers)
        before = self._scheme.before.format(id, sent).encode()
        if not self._matches(entries, before, payload):
            raise SignatureError("no_matching_signature")
        timestamp = int(sent) if sent else None
        if timestamp is not None and abs(seconds - timestamp) > self._tolerance:
            raise SignatureError("too_old" if timestamp < seconds else "too_new")
        return WebhookMessage(id or None, timestamp, payload)

    def sign(
        self, body: bytes, *, id: str | None, timestamp: int | None
    ) -> dict[str, str]:
        """Return the headers that go with a body.

        Args:
            id: the same for each attempt. It has no dot, or the signature would fit
                another message too ("Signature scheme").
            timestamp: of this attempt, in whole seconds since the epoch.

        What the scheme has no header for is left out, and may be None. Standard
        Webhooks and Stripe sign with each secret, the others with the first.

        Raises:
            TypeError, ValueError: an argument cannot be signed, or no secret can sign.
        """
        payload, scheme = _payload(body), self._scheme
        name, sent = _checked(id, timestamp)
        if (self._signs_id and not name) or (self._signs_time and not sent):
            raise ValueError(f"the scheme {self._name} signs what is None here")
        before = scheme.before.format(name, sent).encode()
        entries = self._signatures(before, payload)
        private = [key.private for key in self._pairs if key.private]
        entries += [b"v1a," + _base64(key.sign(before + payload)) for key in private]
        if not entries:
            raise ValueError("there are only public keys, which cannot sign")
        if scheme.time:
            entries.insert(0, scheme.time + sent.encode())
        value = scheme.between.join(entries) if scheme.several else entries[0]
        fields = zip(scheme.headers, (value.decode(), sent, name), strict=True)
        return {header: text for header, text in fields if header and text}

    def _read(self, headers: _Fields) -> tuple[list[bytes], str, str]:
        """Return the signatures, the time and the id, "" where the scheme has none."""
        found, wanted, scheme = ["", "", ""], self._wanted, self._scheme
        lines: Any = headers.items() if type(headers) is dict else _lines(headers)
        for name, value in lines:
            place = wanted.get(name.lower())
            if place is None or not value:
                continue
            if type(value) is not str or found[place]:
                value = self._joined(found[place], value, place)
            found[place] = value
        signatures, sent, id = found
        if not signatures or (self._signs_id and not id):
            raise SignatureError("missing_header")
        plain = id.isascii() and id.isprintable() and len(id) <= 255
        if not plain or len(signatures) > _LONGEST:
            raise SignatureError("bad_header")
        entries = signatures.encode("utf-8", "surrogatepass").split(scheme.between)
        if mark := scheme.time:
            times = {e.removeprefix(mark) for e in entries if e.startswith(mark)}
            sent = times.pop().decode("latin-1") if len(times) == 1 else "none, or two"
        # Digits alone: who strips or rounds believes in a time that was not signed.
        digits = sent.isdecimal() and sent.isascii() and len(sent) <= 11
        if self._signs_time and not digits:
            raise SignatureError("bad_timestamp" if sent else "missing_header")
        return entries, sent, id

    def _joined(self, before: str, value: Any, place: int) -> str:
        """Return what a line says, behind the lines of its name that came before."""
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(text, str) or len(before) > _LONGEST:
            raise SignatureError("bad_header")
        if before in ("", text):
            return text
        if place:  # of two ids or times, two readers could believe two
            raise SignatureError("bad_header")
        return before + self._scheme.between.decode() + text

    def _matches(self, entries: list[bytes], before: bytes, payload: bytes) -> bool:
        """Tell whether one entry is the signature under one of the secrets.

        The texts are compared: nothing is decoded, and junk is just another text.
        """
        good, match, left = self._signatures(before, payload), False, _MOST
        message = before + payload if self._pairs else b""
        for entry in entries:
            if left and entry.startswith(self._marks):
                left -= 1
                # Each is tried, so that the time does not tell which secret fits.
                for one in good:
                    match |= hmac.compare_digest(entry, one)
                for key in self._pairs:
                    match |= key.made(entry, message)
        return match

    def _signatures(self, before: bytes, payload: bytes) -> list[bytes]:
        """Return the body's signature under each symmetric secret, in their order."""
        mark, encode, signatures = self._scheme.mark, self._scheme.encode, []
        for inner, outer in self._macs:
            inner, outer = inner.copy(), outer.copy()
            inner.update(before)
            inner.update(payload)
            outer.update(inner.digest())
            signatures.append(mark + encode(outer.digest()))
        return signatures


def generate_secret(
    size: int = 32, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> str:
    """Return a new secret of 24 to 64 bytes, as Standard Webhooks writes it.

    >>> generate_secret(24, random=bytes)
    'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if not 24 <= size <= 64:
        raise ValueError("a secret has 24 to 64 bytes")
    return "whsec_" + base64.b64encode(random(size)).decode()


class _Ed25519(NamedTuple):
    private: Any  # None of another's
    public: Any
    invalid: type[Exception]

    def made(self, entry: bytes, message: bytes) -> bool:
        """Tell whether an entry is this key's signature."""
        if not (found := _V1A.fullmatch(entry)):
            return False
        try:
            self.public.verify(base64.b64decode(found[1]), message)
        except self.invalid:
            return False
        return True


def _ed25519(kind: str, raw: bytes, place: str) -> _Ed25519:
    try:
        name = "cryptography.hazmat.primitives.asymmetric.ed25519"
        keys: Any = importlib.import_module(name)
        invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    except ImportError as exc:
        raise ImportError(f"{place}: {kind} needs the package cryptography") from exc
    if len(raw) != 32 and (kind, len(raw)) != ("whsk_", 64):
        raise ValueError(f"{place}: {len(raw)} bytes are no key {kind}")
    if kind == "whpk_":
        return _Ed25519(None, keys.Ed25519PublicKey.from_public_bytes(raw), invalid)
    private = keys.Ed25519PrivateKey.from_private_bytes(raw[:32])
    public = private.public_key()
    if raw[32:] not in (b"", public.public_bytes_raw()):
        raise ValueError(f"{place}: its private and public half are of two keys")
    return _Ed25519(private, public, invalid)


def _key(secret: str | bytes, scheme: str, place: str) -> bytes | _Ed25519:
    """Return the key that a secret stands for; no error shows any of it."""
    if not isinstance(secret, str | bytes):
        raise TypeError(f"{place} is neither text nor bytes; give each on its own")
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    if not raw:
        raise ValueError(f"{place} is empty")
    if raw != raw.strip(b"\r\n") and isinstance(secret, str):
        raise ValueError(f"{place} has a line break at an end, as of a file")
    kind = next((kind for kind in _KINDS if raw.startswith(kind.encode())), "")
    if scheme != "standard" or (isinstance(secret, bytes) and not kind):
        return raw
    if isinstance(secret, bytes):
        raise ValueError(f"{place} is a key's text, which as bytes is another key")
    text = secret.removeprefix(kind)
    bare = text.rstrip("=")
    if any(kind in text for kind in _KINDS):
        raise ValueError(f"{place} has something ahead of {' or '.join(_KINDS)}")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        safe = _BASE64.fullmatch(re.sub("[-_]", "+", text)) and {*text} & {*"-_"}
        why = "URL-safe base64, not the standard one" if safe else "no base64"
        raise ValueError(f"{place} is {why if text else f'empty behind {kind}'}")
    raw = base64.b64decode(bare + "=" * (-len(bare) % 4))
    return _ed25519(kind, raw, place) if kind in ("whpk_", "whsk_") else raw


def _keyed(key: bytes) -> tuple[Any, Any]:
    """Return the two hashes of HMAC, keyed once to be copied (RFC 2104 §4)."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    return hashlib.sha256(inner), hashlib.sha256(outer)


def _payload(body: bytes) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)  # a copy, which nobody changes meanwhile
    raise TypeError(f"a body is bytes, as they came, and not {type(body).__name__}")


def _lines(headers: Any) -> Any:
    """Return each line; in its `items` httpx joins those of one name."""
    pairs = getattr(headers, "multi_items", None) or getattr(headers, "items", None)
    return pairs() if pairs else headers


def _seconds(now: float | datetime) -> float:
    if isinstance(now, (int, float)) and not isinstance(now, bool):
        if not abs(now) < math.inf:
            raise ValueError("now is a finite number of seconds")
        return now
    if not isinstance(now, datetime):
        raise TypeError("now is seconds since the epoch, or an aware datetime")
    if now.utcoffset() is None:
        raise ValueError("now is a naive datetime: give it its timezone")
    return now.timestamp()


def _checked(id: str | None, timestamp: int | None) -> tuple[str, str]:
    if not isinstance(id, str | None):
        raise TypeError("an id is text")
    if not isinstance(timestamp, int | None) or isinstance(timestamp, bool):
        raise TypeError("a timestamp is a whole number of seconds since the epoch")
    if id is not None and not _ID.fullmatch(id):
        raise ValueError("an id is 1 to 255 printable ASCII characters without a dot")
    if timestamp is not None and not 0 <= timestamp < 10**11:
        raise ValueError("a timestamp has 1 to 11 digits")
    return id or "", "" if timestamp is None else str(timestamp)


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
