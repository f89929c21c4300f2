"""Tests of `patterns/webhooks/signature.py`; they can be copied along with it."""

import base64
import hashlib
import hmac
import json
import pickle
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patterns.webhooks import signature

NOW = 1_700_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = b'{"paid": 7}'
REASONS = {"missing_header", "bad_header", "bad_timestamp", "no_matching_signature"}
REASONS |= {"too_old", "too_new"}
SCHEMES = ["standard", "github", "stripe", "slack", "shopify"]
TIMED = ["standard", "stripe", "slack"]
PLACES = {  # of the signature, the timestamp and the id
    "standard": ("webhook-signature", "webhook-timestamp", "webhook-id"),
    "github": ("X-Hub-Signature-256", None, "X-GitHub-Delivery"),
    "stripe": ("Stripe-Signature", None, None),
    "slack": ("X-Slack-Signature", "X-Slack-Request-Timestamp", None),
    "shopify": ("X-Shopify-Hmac-SHA256", None, "X-Shopify-Webhook-Id"),
}
KEYS = {
    "seed": bytes(range(32)),
    "private": "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqS"
    "KJp4AJ6p9lMicMFs6Kvg==",
    "public": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
}


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


def webhook(scheme="standard", *secrets, **options):
    """Return a webhook of a scheme, whose clock stands still."""
    options.setdefault("clock", lambda: NOW)
    return signature.Webhook(*(secrets or [SECRET]), scheme=scheme, **options)


def signed(scheme="standard", body=BODY, at=NOW, hook=None):
    """Return the headers of a good message."""
    return (hook or webhook(scheme)).sign(body, id="msg_1", timestamp=at)


def refusal(headers, scheme="standard", body=BODY, hook=None, **options):
    """Return why a message is refused."""
    with pytest.raises(signature.SignatureError) as caught:
        (hook or webhook(scheme)).verify(body, headers, **options)
    assert caught.value.reason in REASONS
    assert caught.value.__context__ is None
    return caught.value.reason


def outcome(headers, hook):
    """Return the message, or why it is refused."""
    try:
        return hook.verify(BODY, headers)
    except signature.SignatureError as exc:
        return exc.reason


def mac(text, secret=SECRET):
    """Return the base64 of a HMAC, by the standard library alone."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, text, "sha256"))


# --- vectors


@pytest.mark.parametrize(
    "case", vectors("webhook_signatures.json"), ids=lambda case: case["origin"][:40]
)
def test_vectors(case):
    """Each published vector of a scheme is judged as it should be, and signed alike."""
    name = case["scheme"].removesuffix("-webhooks").removesuffix("-webhooks-v1a")
    body = case.get("body", case.get("payload", "")).encode()
    at, value = case.get("timestamp"), case.get("signature", case.get("header"))
    secrets = [case.get("public_key") or case["secret"]]
    valid = case["valid"]
    if name == "convoy":  # its simple form is GitHub's without a mark; others are not
        name, value = "github", f"sha256={value}"
        valid = valid and case["hash"] == "SHA256" and not case["advanced"]
        if case["advanced"]:  # it signs `t,body` under what looks like Stripe's header
            name, value, at = "stripe", case["header"], 1_700_000_000
    if name == "standard" and secrets[0].startswith("whpk_"):
        pytest.importorskip("cryptography")
    hook = signature.Webhook(*secrets, scheme=name)
    places = dict(zip(PLACES[name], (value, str(at), case.get("id")), strict=True))
    headers = {place: text for place, text in places.items() if place and text}
    if not valid:
        assert refusal(headers, body=body, hook=hook, now=at) == "no_matching_signature"
        return
    message = hook.verify(body, headers, now=at)
    assert (message.id, message.timestamp) == (case.get("id"), at)
    assert message.body == body
    if "whpk_" in secrets[0]:
        hook = signature.Webhook(case["secret_key"])
    if "v0=0" not in value:  # which holds a key's signature that we have not
        assert hook.sign(body, id=case.get("id"), timestamp=at) == headers


# --- all schemes alike


@pytest.mark.parametrize("scheme", SCHEMES)
@given(body=st.binary(max_size=300), size=st.integers(1, 200))
def test_round_trip(scheme, body, size):
    """What is signed verifies, whatever the bytes and however long the key."""
    key = bytes(n % 251 + 1 for n in range(size)).strip(b"\n\r") or b"k"
    hook = webhook(scheme, key)
    message = hook.verify(body, hook.sign(body, id="msg_1", timestamp=NOW))
    assert message.body == body
    assert message.id == ("msg_1" if PLACES[scheme][2] else None)
    assert message.timestamp == (NOW if scheme in TIMED else None)
    other = hook.verify(
        memoryview(body), hook.sign(bytearray(body), id="1", timestamp=1), now=1
    )
    assert type(other.body) is bytes


@given(key=st.binary(min_size=1, max_size=200), body=st.binary(max_size=200))
@example(key=bytes(range(1, 66)), body=b"a key longer than a block")
@example(key=bytes(range(1, 65)), body=b"a key as long as a block")
def test_hmac(key, body):
    """A signature is the HMAC of RFC 2104, for keys of any length."""
    headers = webhook("github", key).sign(body, id=None, timestamp=None)
    good = hmac.new(key, body, hashlib.sha256).hexdigest()
    assert headers == {"X-Hub-Signature-256": f"sha256={good}"}


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_any_change_is_refused(scheme, data):
    """A message with a byte of the body or a character of a header changed is none."""
    hook, headers = webhook(scheme), signed(scheme)
    place = data.draw(st.sampled_from([None, *headers]))
    if place in (None, PLACES[scheme][2]) and scheme != "standard":
        place = None  # their ids are not signed
    text = BODY.decode() if place is None else headers[place]
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.text(st.characters(codec="latin-1"), max_size=2))
    changed = text[:at] + piece + text[at + data.draw(st.integers(0, 2)) :]
    if changed == text:
        return
    if place is None:
        found = refusal(headers, body=changed.encode("latin-1"), hook=hook)
        assert found == "no_matching_signature"
    elif outcome(headers | {place: changed}, hook) not in REASONS:
        # only more of what may stand beside a signature
        assert text in changed or (scheme == "stripe" and "t=" in changed)
        assert place == PLACES[scheme][0]


JUNK = st.text(max_size=40) | st.binary(max_size=40) | st.none() | st.integers()
JUNK |= st.sampled_from([[], ["v1,x"], "\ud800", "v1,\ud800", b"\xff\xfe", 10**400])


@pytest.mark.parametrize("scheme", SCHEMES)
@given(values=st.lists(JUNK, min_size=3, max_size=3), body=st.binary(max_size=50))
def test_any_junk_is_refused(scheme, values, body):
    """Whatever stands in the headers is refused with a reason, and only so."""
    lines = [(p, v) for p, v in zip(PLACES[scheme], values, strict=True) if p]
    assert refusal(dict(lines), scheme, body) in REASONS
    assert refusal([*lines, *lines[::-1]], scheme, body) in REASONS
    for place, value in lines:
        found = outcome(signed(scheme) | {place: value}, webhook(scheme))
        assert found in REASONS or place == PLACES[scheme][2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_missing_headers(scheme):
    """A header that the scheme needs is missed; an id that nobody signed is not."""
    headers = signed(scheme)
    assert refusal({}, scheme) == "missing_header"
    for place in headers:
        rest = {name: text for name, text in headers.items() if name != place}
        for lines in (rest, rest | {place: None}, rest | {place: ""}):
            if scheme != "standard" and place == PLACES[scheme][2]:
                assert webhook(scheme).verify(BODY, lines).id is None
            else:
                assert refusal(lines, scheme) == "missing_header"


class Multi(dict):
    """A mapping that gives the lines of a name one by one, as httpx does."""

    def multi_items(self):
        return [(name.title(), text) for name, text in self.items()]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "shape",
    [
        dict,
        lambda headers: {name.upper(): text for name, text in headers.items()},
        lambda headers: {name.title(): text.encode() for name, text in headers.items()},
        lambda headers: [(n.lower().encode(), t.encode()) for n, t in headers.items()],
        lambda headers: iter([(n, t) for n, t in headers.items()]),
        lambda headers: {"host": "x", **headers, "x-empty": "", "": "?"},
        httpx.Headers,
        Multi,
    ],
)
def test_shapes_of_headers(scheme, shape):
    """Headers come as mappings in any case, or as pairs of text or bytes."""
    assert webhook(scheme).verify(BODY, shape(signed(scheme))).json() == {"paid": 7}


def test_names_of_svix():
    """Svix has names of its own for the headers of Standard Webhooks."""
    headers = {n.replace("webhook", "svix"): text for n, text in signed().items()}
    assert webhook().verify(BODY, headers).id == "msg_1"
    assert webhook().verify(BODY, headers | signed()).id == "msg_1"
    assert refusal({**headers, "webhook-id": "msg_2"}) == "bad_header"


@pytest.mark.parametrize("place", ["webhook-id", "webhook-timestamp"])
def test_two_values(place):
    """Of two ids or times one could be believed here and the other elsewhere."""
    lines = list(signed().items())
    same = [*lines, (place.upper(), signed()[place])]
    assert webhook().verify(BODY, same).id == "msg_1"
    for other in ("msg_2", "1700000001"):
        assert refusal([*lines, (place, other)]) == "bad_header"
        assert refusal([(place.encode(), other.encode()), *lines]) == "bad_header"
        assert refusal(signed() | {place.title(): other}) == "bad_header"
        assert refusal(httpx.Headers([*lines, (place, other)])) == "bad_header"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("order", [1, -1])
def test_two_lines_of_signatures(scheme, order):
    """Two lines with signatures are several signatures, and one is good enough."""
    place = PLACES[scheme][0]
    lines = [*signed(scheme).items(), (place, "v1,AAAA")]
    if scheme == "stripe" and order == -1:
        lines = [(place, "v1=AAAA"), *signed(scheme).items()]
    assert webhook(scheme).verify(BODY, lines[::order] if scheme != "stripe" else lines)


# --- entries


@pytest.mark.parametrize(
    "junk",
    ["garbage", "v1", "v1,a,b", "v1,", ",", "", " ", "v2,x", "v1a,x", "v1,é", "\ud800"],
)
def test_junk_hides_nothing(junk):
    """A junk entry is passed over, on either side of a good one."""
    headers = signed()
    good = headers["webhook-signature"]
    for value in (f"{junk} {good}", f"{good} {junk}", f"{junk}  {junk} {good}"):
        assert webhook().verify(BODY, headers | {"webhook-signature": value})


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
def test_at_most_sixteen(scheme):
    """Sixteen signatures of the scheme's kind are read; other kinds do not count."""
    hook, place, headers = webhook(scheme), PLACES[scheme][0], signed(scheme)
    parts = {"standard": (" ", "v1,AAAA", "v1a,AA"), "stripe": (",", "v1=00", "v0=00")}
    between, bogus, other = parts[scheme]
    good = headers[place]
    time_first, _, entry = good.rpartition(between)
    lead = [time_first] if time_first else []

    def value(*junk):
        return {place: between.join([*lead, *junk, entry])}

    assert hook.verify(BODY, headers | value(*[bogus] * 15))
    assert refusal(headers | value(*[bogus] * 16), hook=hook) == "no_matching_signature"
    assert hook.verify(BODY, headers | value(*[other] * 40, *[bogus] * 15))


def test_long_headers():
    """A header of no sensible length is refused unread, and so are many lines of it."""
    headers = signed()
    place, good = "webhook-signature", headers["webhook-signature"]
    longest = good.rjust(8192)
    assert webhook().verify(BODY, headers | {place: longest})
    assert refusal(headers | {place: f" {longest}"}) == "bad_header"
    lines = [(place, f"v1,{n}") for n in range(10_000)]
    assert refusal([*lines, *headers.items()]) == "bad_header"
    for size, reason in ((255, "no_matching_signature"), (256, "bad_header")):
        assert refusal(headers | {"webhook-id": "m" * size}) == reason


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_spelling(scheme):
    """The same bytes in another spelling are another signature."""
    place = PLACES[scheme][0]
    good = signed(scheme)[place]
    start = max(good.rfind("="), good.rfind(",")) + 1 if scheme != "shopify" else 0
    if scheme == "standard":
        start = 3
    head, text = good[:start], good[start:]
    others = [
        text + "=",
        text[:-1],
        "!!" + text,
        text.swapcase(),
        text + "\n",
        "\t" + text,
    ]
    for other in others:
        assert refusal(signed(scheme) | {place: head + other}, scheme) == (
            "no_matching_signature"
        )


def test_no_downgrade():
    """What is weaker, or of another kind, is no signature, though it is right."""
    sha1 = "sha1=" + hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest()
    hook = webhook("github")
    assert refusal({"X-Hub-Signature": sha1}, hook=hook) == "missing_header"
    for value in (sha1, sha1.replace("sha1", "sha256")):
        lines = {"X-Hub-Signature-256": value}
        assert refusal(lines, hook=hook) == "no_matching_signature"
    test = signed("stripe")["Stripe-Signature"].replace("v1=", "v0=")
    assert refusal({"Stripe-Signature": test}, "stripe") == "no_matching_signature"
    asymmetric = signed()["webhook-signature"].replace("v1,", "v1a,")
    lines = signed() | {"webhook-signature": asymmetric}
    assert refusal(lines) == "no_matching_signature"


def test_body_is_bytes_that_nobody_reads():
    """Bytes that are no text, or no bytes at all, verify as any others."""
    for body in (b"", b"\xff\xfe\x00", b"\xed\xa0\x80", "😀".encode("utf-16")):
        for scheme in SCHEMES:
            assert webhook(scheme).verify(body, signed(scheme, body)).body == body


def test_body_that_changes_meanwhile():
    """A message holds the bytes that were verified, whoever writes over them later."""
    body = bytearray(BODY)
    message = webhook().verify(body, signed())
    body[:] = b"x" * len(body)
    assert message.body == BODY


@pytest.mark.parametrize("body", ["{}", None, {"paid": 7}, 7, [1]])
def test_decoded_body(body):
    """A body that is not bytes is the caller's fault, and no refusal."""
    for call in (
        lambda: webhook().verify(body, signed()),
        lambda: webhook().sign(body, id="1", timestamp=1),
    ):
        with pytest.raises(TypeError, match="body is bytes"):
            call()


# --- time


@pytest.mark.parametrize("scheme", TIMED)
@pytest.mark.parametrize("tolerance", [0, 300, 0.5])
def test_window(scheme, tolerance):
    """The window is as wide into the future as into the past."""
    hook = webhook(scheme, tolerance=tolerance)
    headers = signed(scheme)
    for sign, reason in ((1, "too_old"), (-1, "too_new")):
        assert hook.verify(BODY, headers, now=NOW + sign * tolerance)
        late = NOW + sign * (tolerance + 0.25)
        assert refusal(headers, hook=hook, now=late) == reason
        assert (
            refusal(headers, body=b"x", hook=hook, now=late) == "no_matching_signature"
        )
    assert refusal(signed(scheme, at=NOW + 315_360_000), scheme) == "too_new"


@pytest.mark.parametrize("scheme", ["github", "shopify"])
def test_no_window(scheme):
    """Who signs no time has no window."""
    assert webhook(scheme).verify(BODY, signed(scheme), now=0).timestamp is None


def test_clock():
    """Without `now` it is the clock's, which is the real one by default."""
    hook = signature.Webhook(SECRET)
    assert hook.verify(BODY, signed(at=int(time.time())))
    assert refusal(signed(at=int(time.time()) - 400), hook=hook) == "too_old"


def test_now():
    """Now may be a moment in any timezone, but not one without."""
    hook, headers = webhook(), signed()
    zone = timezone(timedelta(hours=2))
    assert hook.verify(BODY, headers, now=datetime.fromtimestamp(NOW, zone))
    late = datetime.fromtimestamp(NOW + 400, zone)
    assert refusal(headers, now=late) == "too_old"
    assert refusal(headers, now=10**400) == "too_old"
    for now in (datetime(2026, 1, 1), float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"naive|finite"):
            hook.verify(BODY, headers, now=now)
    for now in (True, "1700000000", timedelta(1)):
        with pytest.raises(TypeError, match="now is seconds"):
            hook.verify(BODY, headers, now=now)


TIMES = [
    "1700000000.75",
    "1_700_000_000",
    "17e8",
    "１７００００００００",
    " 1700000000",
]
TIMES += ["1700000000 ", "+1700000000", "-1", "1700000000\n", "x", "0x6", "¹", "9" * 12]
TIMES += ["9" * 5000, "1700000000,1700000000", "\ud800"]


@pytest.mark.parametrize("text", TIMES)
@pytest.mark.parametrize("scheme", TIMED)
def test_timestamps_are_digits(scheme, text):
    """A time that a parser would forgive is refused, signed though it is."""
    raw = text.encode("utf-8", "surrogatepass")
    key = SECRET.encode()
    if scheme == "standard":
        value = b"v1," + mac(b"msg_1." + raw + b"." + BODY)
    else:
        before = raw + b"." if scheme == "stripe" else b"v0:" + raw + b":"
        value = hmac.new(key, before + BODY, hashlib.sha256).hexdigest().encode()
        value = b"t=" + raw + b",v1=" + value if scheme == "stripe" else b"v0=" + value
    name, when, _ = PLACES[scheme]
    for lines in (
        signed(scheme) | {name: value} | ({when: text} if when else {}),
        signed(scheme) | {name: value} | ({when: raw} if when else {}),
    ):
        reasons = {"bad_timestamp", "bad_header"}
        if (
            scheme == "stripe" and "," in text
        ):  # which parts it: another text was signed
            reasons = {"no_matching_signature"}
        assert refusal(lines, scheme) in reasons


def test_time_is_the_signed_text():
    """A number with another spelling than the signed one is not the signed one."""
    for text in ("01700000000", "001700000000"[1:]):
        lines = signed() | {"webhook-timestamp": text}
        assert refusal(lines) == "no_matching_signature"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("v1={},t=1700000000", None),
        ("t=1700000000,v1=00,v1={},v0=00", None),
        ("junk,t,=,t=1700000000,,v1={}", None),
        ("t=1700000000,t=1700000000,v1={}", None),
        ("t=1700000000,t=1700000001,v1={}", "bad_timestamp"),
        ("v1={}", "bad_timestamp"),
        ("t=,v1={}", "bad_timestamp"),
        ("t=1700000000, v1={}", "no_matching_signature"),
        ("t=1700000000", "no_matching_signature"),
        ("T=1700000000,v1={}", "bad_timestamp"),
        ("t=1700000000,v1={},", None),
        ("t=1700000000;v1={}", "bad_timestamp"),
        ("t=1700000000,v1=1234567890", "no_matching_signature"),
    ],
)
def test_stripe(value, reason):
    """Stripe's entries come in any order, and the time once."""
    good = signed("stripe")["Stripe-Signature"].rpartition("=")[2]
    headers = {"stripe-signature": value.format(good)}
    if reason:
        found = refusal(headers, "stripe")
        assert found == reason or (reason == "bad_timestamp" and "missing" in found)
    else:
        assert webhook("stripe").verify(BODY, headers).timestamp == NOW


# --- secrets


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rotation(scheme):
    """The first secret signs, each verifies, and one that is gone does not."""
    old, new = webhook(scheme, SECRET), webhook(scheme, OTHER)
    both = webhook(scheme, OTHER, SECRET)
    for hook in (old, new, both):
        assert both.verify(BODY, signed(hook=hook))
    assert new.verify(BODY, signed(hook=both))
    assert refusal(signed(hook=old), hook=new) == "no_matching_signature"
    bridged = scheme in ("standard", "stripe")
    assert (outcome(signed(hook=both), old) not in REASONS) == bridged


def test_every_secret_is_tried(monkeypatch):
    """No comparison is saved once a secret fits, so the time tells nothing."""
    seen = []

    def compare(one, other):
        seen.append(one == other)
        return one == other

    hook = webhook("standard", SECRET, OTHER)
    headers = signed(hook=hook)
    monkeypatch.setattr(signature.hmac, "compare_digest", compare)
    hook.verify(BODY, headers)
    assert seen == [True, False, False, True]


def test_spellings_of_a_secret():
    """A standard secret comes with or without prefix and padding, or raw."""
    raw = base64.b64decode(SECRET.removeprefix("whsec_"))
    short = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"  # 23 bytes: of their own tests
    for secret in (SECRET, SECRET.removeprefix("whsec_"), raw):
        assert webhook("standard", secret).verify(BODY, signed())
    assert webhook("standard", OTHER.rstrip("="), short).verify(
        BODY, signed(hook=webhook("standard", OTHER))
    )
    text = "whsec_ключ"
    for scheme in SCHEMES[1:]:
        one, other = webhook(scheme, text), webhook(scheme, text.encode())
        assert other.verify(BODY, signed(hook=one))


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("", "secret 1 is empty"),
        (b"", "secret 1 is empty"),
        ("whsec_", "empty behind whsec_"),
        ("v1,whsec_c2VjcmV0", "something ahead of whsec_"),
        ("whsec_whsec_c2VjcmV0", "something ahead"),
        ("whsec_c2VjcmV0-_==", "URL-safe base64"),
        ("whsec_c2VjcmV0!", "no base64"),
        ("whsec_ c2VjcmV0", "no base64"),
        ("c2VjcmV0c", "no base64"),
        ("c2VjcmV0===", "no base64"),
        ("whsec_c2VjcmV0\n", "line break"),
        ("whsec_é", "no base64"),
        ("whsec_\ud800", "no base64"),
        (SECRET.encode(), "as bytes is another"),
        ("whpk_c2VjcmV0", "6 bytes are no key whpk_"),
        ("whsk_c2VjcmV0", "6 bytes are no key whsk_"),
        ("whpk_" + KEYS["private"][5:], "64 bytes are no key whpk_"),
        ("whsk_" + base64.b64encode(bytes(64)).decode(), "two keys"),
    ],
)
def test_secrets_refused(secret, message):
    """A secret that cannot be one is refused when set up, and not shown."""
    if "wh" in message or "two" in message:
        pytest.importorskip("cryptography")
    with pytest.raises(ValueError, match=message) as caught:
        signature.Webhook(secret)
    assert "c2VjcmV0" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_place_of_a_secret():
    """Of several secrets the error tells which one it is."""
    with pytest.raises(ValueError, match="secret 2 is no base64"):
        signature.Webhook(SECRET, "?")
    for secret in (None, 32, [SECRET], bytearray(b"k")):
        with pytest.raises(TypeError, match="secret 1 is neither text nor bytes"):
            signature.Webhook(secret)


@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_secret_from_a_file(scheme):
    """A line break at the end of a secret is refused, but not in bytes."""
    with pytest.raises(ValueError, match="line break"):
        webhook(scheme, "secret\n")
    assert webhook(scheme, b"secret\n", "\ud800")


def test_settings_refused():
    """So are no secret, too many, an unknown scheme and a tolerance that is none."""
    for secrets in ((), (SECRET,) * 17):
        with pytest.raises(ValueError, match="1 to 16 secrets"):
            signature.Webhook(*secrets)
    with pytest.raises(ValueError, match="standard, github, stripe, slack, shopify"):
        webhook("twitter")
    for tolerance in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance"):
            webhook(tolerance=tolerance)


def test_generate_secret():
    """A new secret has the length asked for, within the range of the standard."""
    assert signature.generate_secret() != signature.generate_secret()
    for size in (24, 64):
        secret = signature.generate_secret(size)
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == size
        assert signature.Webhook(secret)
    for size in (23, 65):
        with pytest.raises(ValueError, match="24 to 64"):
            signature.generate_secret(size)


def test_nothing_is_shown():
    """Neither repr nor refusal shows a secret, a signature or a body."""
    hook = webhook("standard", SECRET, OTHER, tolerance=60)
    known = "Webhook(<2 secrets>, scheme='standard', tolerance=60)"
    assert repr(hook) == str(hook) == known
    held = repr(vars(hook))
    assert SECRET[6:] not in held
    assert repr(base64.b64decode(SECRET[6:])) not in held
    headers = signed() | {"webhook-signature": "v1,c2VudA=="}
    with pytest.raises(signature.SignatureError) as caught:
        hook.verify(BODY, headers)
    shown = repr(caught.value) + str(caught.value) + repr(vars(caught.value))
    assert "c2VudA" not in shown
    assert signed()["webhook-signature"][3:] not in shown
    message = hook.verify(BODY, signed())
    assert repr(message) == "WebhookMessage(id='msg_1', timestamp=1700000000)"


def test_errors_travel():
    """A refusal keeps its reason when it is pickled, as between processes."""
    error = pickle.loads(pickle.dumps(signature.SignatureError("too_old")))
    assert (error.reason, str(error)) == ("too_old", "webhook refused: too old")
    assert isinstance(error, ValueError)


# --- v1a


def test_asymmetric():
    """Who has the public key verifies and cannot sign; the private one does both."""
    pytest.importorskip("cryptography")
    seed = "whsk_" + base64.b64encode(KEYS["seed"]).decode()
    public, private = (
        webhook("standard", KEYS["public"]),
        webhook("standard", KEYS["private"]),
    )
    headers = signed(hook=private)
    assert headers["webhook-signature"].startswith("v1a,")
    for hook in (public, private, webhook("standard", SECRET, seed, KEYS["public"])):
        assert hook.verify(BODY, headers).id == "msg_1"
        assert refusal(headers, body=b"x", hook=hook) == "no_matching_signature"
    assert refusal(headers, hook=webhook("standard", seed)) == "no_matching_signature"
    assert refusal(headers) == "no_matching_signature"
    with pytest.raises(ValueError, match="only public keys"):
        signed(hook=public)
    both = signed(hook=webhook("standard", KEYS["private"], SECRET))
    assert len(both["webhook-signature"].split(" ")) == 2
    assert webhook().verify(BODY, both)
    assert public.verify(BODY, both)


@pytest.mark.parametrize("junk", ["", "x", "!" * 88, "A" * 86 + "==", "é" * 86 + "=="])
def test_asymmetric_junk(junk):
    """A junk entry of `v1a` is passed over, and one more spelling is junk."""
    pytest.importorskip("cryptography")
    hook = webhook("standard", KEYS["private"], SECRET)
    headers = signed(hook=hook)
    place = "webhook-signature"
    good = next(e for e in headers[place].split() if e.startswith("v1a,"))
    public = webhook("standard", KEYS["public"])
    assert public.verify(BODY, headers | {place: f"v1a,{junk} {good}"})
    assert refusal(headers | {place: f"v1a,{junk}"}, hook=public)
    last = good[-3]
    loose = good[:-3] + "ABCD"["AQgw".index(last) - 1] + "=="
    for other in (good + "=", good.rstrip("="), good[:-3] + "B==", loose):
        assert refusal(headers | {place: other}, hook=public) == "no_matching_signature"


@pytest.mark.parametrize("count", [16, 17])
def test_asymmetric_sixteen(count):
    """The cap is over all kinds of signatures together."""
    pytest.importorskip("cryptography")
    hook = webhook("standard", KEYS["private"])
    headers = signed(hook=hook)
    good = headers["webhook-signature"]
    bogus = ["v1,AAAA", "v1a," + "A" * 86 + "=="] * 8
    value = " ".join([*bogus[: count - 1], good])
    both = webhook("standard", KEYS["public"], SECRET)
    lines = headers | {"webhook-signature": value}
    if count == 16:
        assert both.verify(BODY, lines)
    else:
        assert refusal(lines, hook=both) == "no_matching_signature"


def test_without_cryptography(monkeypatch):
    """Keys of `v1a` need a package, and say so; nothing else does."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    name = "cryptography.hazmat.primitives.asymmetric.ed25519"
    monkeypatch.setitem(sys.modules, name, None)
    for kind in ("public", "private"):
        with pytest.raises(ImportError, match="needs the package cryptography"):
            signature.Webhook(KEYS[kind])
    assert webhook().verify(BODY, signed())


# --- sign


@pytest.mark.parametrize(
    "id", ["", "a.b", "a\n", "a\0", "é", "\ud800", "x" * 256, ".", "a\x7f", "日"]
)
def test_ids_refused(id):
    """An id with a dot, or that a header cannot hold as it is, is not signed."""
    for scheme in SCHEMES:
        with pytest.raises(ValueError, match="without a dot"):
            webhook(scheme).sign(BODY, id=id, timestamp=NOW)


def test_delimiter():
    """An id with a dot would make the signature good for another message, too."""
    mixed = mac(b"evt.%d.%d.{}" % (NOW, NOW)).decode()
    headers = {"webhook-timestamp": str(NOW), "webhook-signature": f"v1,{mixed}"}
    body = b"%d.{}" % NOW
    assert webhook().verify(body, {**headers, "webhook-id": "evt"}).body == body
    assert (
        webhook().verify(b"{}", {**headers, "webhook-id": f"evt.{NOW}"}).body == b"{}"
    )


@pytest.mark.parametrize("at", [True, 1.0, "1", datetime(2026, 1, 1)])
def test_times_of_another_type(at):
    """A time to sign is an integer, so that no rounding comes between."""
    with pytest.raises(TypeError, match="whole number"):
        webhook().sign(BODY, id="1", timestamp=at)
    with pytest.raises(TypeError, match="an id is text"):
        webhook().sign(BODY, id=b"1", timestamp=1)


def test_times_refused():
    """A time to sign is no negative one, and has at most 11 digits."""
    for at in (-1, 10**11):
        with pytest.raises(ValueError, match="11 digits"):
            webhook().sign(BODY, id="1", timestamp=at)
    for at in (0, 10**11 - 1):
        assert webhook().verify(BODY, signed(at=at), now=at).timestamp == at


def test_what_must_be_signed():
    """An id or time may be None where the scheme signs none."""
    for scheme, id, at in (("standard", None, 1), ("standard", "1", None)):
        with pytest.raises(ValueError, match="signs what is None"):
            webhook(scheme).sign(BODY, id=id, timestamp=at)
    for scheme in ("stripe", "slack"):
        with pytest.raises(ValueError, match="signs what is None"):
            webhook(scheme).sign(BODY, id="1", timestamp=None)
        assert webhook(scheme).sign(BODY, id=None, timestamp=1)
    for scheme in ("github", "shopify"):
        (name,) = webhook(scheme).sign(BODY, id=None, timestamp=None)
        assert name == PLACES[scheme][0]


def test_headers_that_are_written():
    """Each scheme's headers have the names that its owner gives them."""
    for scheme in SCHEMES:
        assert set(signed(scheme)) == {name for name in PLACES[scheme] if name}


# --- JSON


def message(body):
    """Return a verified message."""
    return webhook().verify(body, signed(body=body))


def test_json():
    """The body is parsed after it was verified, as UTF-8 with or without a BOM."""
    assert message('\ufeff{"é": [1, 2.5e1, null]}'.encode()).json() == {
        "é": [1, 25.0, None]
    }


NO_JSON = [b"", b"no", b"\xff", b"NaN", b"[-Infinity]", b'{"a', b"[" * 100_000]
NO_JSON += [b"1" * 5000, "{}".encode("utf-16")]


@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: repr(body[:9]))
def test_no_json(body):
    """What is no JSON verifies, and says so without a part of it."""
    with pytest.raises(ValueError, match=r"^the body is not JSON$") as caught:
        message(body).json()
    assert caught.value.__context__ is None
    assert not isinstance(caught.value, signature.SignatureError)


def test_message_is_a_value():
    """A message is equal by its parts, and does not change."""
    one = message(BODY)
    assert one == message(BODY)
    assert hash(one) == hash(message(BODY))
    with pytest.raises(AttributeError):
        one.id = "msg_2"
