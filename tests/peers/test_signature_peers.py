"""Signatures of other people's packages: what they sign we verify, and the reverse.

Where one of them crashes on what a stranger can send, or believes it, ours stands
beside it. Those tests state what was seen of one release.
"""

from __future__ import annotations

import base64
import hmac
import json
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import standardwebhooks
import stripe
import svix.webhooks
from claims import state
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns.webhooks.signature import SignatureError, Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"paid": 7}'
OCTOKIT = "@octokit/webhooks-methods@6.0.0"
STANDARD = {
    "standardwebhooks 1.1.0": standardwebhooks.Webhook,
    "svix 2.9.1": svix.webhooks.Webhook,
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
IDS = st.text("abcXYZ0189_-", min_size=1, max_size=40)


def now() -> int:
    """Return the time; theirs takes no other."""
    return int(time.time())


def signed(scheme: str = "standard", body: bytes = BODY, at: int | None = None) -> Any:
    """Return our headers of a good message."""
    return Webhook(SECRET, scheme=scheme).sign(body, id="msg_1", timestamp=at or now())


def outcome(call: Callable[[], Any]) -> str:
    """Return `accepted`, or the name of what was raised."""
    try:
        call()
    except Exception as exc:
        return type(exc).__name__
    return "accepted"


# --- what they sign, and what we sign


@pytest.mark.parametrize("peer", STANDARD)
@given(text=TEXTS, id=IDS)
@settings(max_examples=50, deadline=None)
def test_standard_webhooks(peer: str, text: str, id: str) -> None:
    """Each reads what the other signs, whatever the text."""
    theirs, ours, at = STANDARD[peer](SECRET), Webhook(SECRET), now()
    headers = ours.sign(text.encode(), id=id, timestamp=at)
    made = theirs.sign(id, datetime.fromtimestamp(at, UTC), text)
    assert made == headers["webhook-signature"]
    assert ours.verify(text.encode(), headers | {"webhook-signature": made}).id == id
    if isinstance(theirs, standardwebhooks.Webhook):
        theirs.verify(text, headers, json_parse=False)
    else:
        theirs.verify(text, headers)
        lines = {name.replace("webhook", "svix"): v for name, v in headers.items()}
        theirs.verify(text, lines)
        assert ours.verify(text.encode(), lines).id == id


@given(text=TEXTS)
@settings(max_examples=50, deadline=None)
def test_stripe(text: str) -> None:
    """Each reads what the other signs, whatever the text."""
    at, theirs = now(), stripe.WebhookSignature
    header = theirs.generate_signature_header(text, SECRET, at)
    ours = signed("stripe", text.encode(), at)
    assert ours == {"Stripe-Signature": header}
    assert theirs.verify_header(text, header, SECRET, 300)
    assert Webhook(SECRET, scheme="stripe").verify(text.encode(), ours).timestamp == at


def octokit(node: str, folder: Path, cases: list[dict[str, str]]) -> list[Any]:
    """Return what Octokit signs and thinks of signatures."""
    script = Path(__file__).with_name("octokit_webhooks.mjs")
    command = [node, script, folder]
    done = subprocess.run(
        command, input=json.dumps(cases).encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return list(json.loads(done.stdout))


def test_octokit(node: str, npm_package: Callable[..., Path]) -> None:
    """Each reads what the other signs, whatever the text."""
    texts = ["x", "{}", '{"name": "Zoë 😀"}', "\0\n\r\t", "é" * 5000]
    hook = Webhook("It's a secret", scheme="github")
    headers = [hook.sign(t.encode(), id=None, timestamp=None) for t in texts]
    cases = [
        {"secret": "It's a secret", "body": text, "signature": h["X-Hub-Signature-256"]}
        for text, h in zip(texts, headers, strict=True)
    ]
    results = octokit(node, npm_package(OCTOKIT), cases)
    for text, case, result in zip(texts, cases, results, strict=True):
        assert result == {"signed": case["signature"], "verified": True}
        assert hook.verify(text.encode(), {"X-Hub-Signature-256": result["signed"]})


# --- over a socket, and in the frameworks' own mappings


async def receiver(scope: Any, receive: Any, send: Any) -> None:
    """Answer 204 for a message that is good, and 401 with the reason for another."""
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event.get("more_body", False)
    try:
        Webhook(SECRET).verify(body, scope["headers"])
        status, said = 204, b""
    except SignatureError as exc:
        status, said = 401, exc.reason.encode()
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": said})


def test_over_a_socket(serve: Callable[[Any], str]) -> None:
    """A server hands over what came: good messages pass, and bytes that are no text."""
    url = serve(receiver)
    with httpx.Client(trust_env=False) as client:
        for body in (b"", BODY, bytes(range(256)) * 300):
            headers = signed(body=body)
            assert client.post(url, content=body, headers=headers).status_code == 204
            answer = client.post(url, content=body + b" ", headers=headers)
            assert (answer.status_code, answer.text) == (401, "no_matching_signature")
        good = list(signed().items())
        answer = client.post(url, content=BODY, headers=[*good, ("webhook-id", "2")])
        assert (answer.status_code, answer.text) == (401, "bad_header")
    where = urlsplit(url)
    lines = [f"{name}: {text}".encode() for name, text in good if "sig" not in name]
    value = dict(good)["webhook-signature"].encode()
    for junk, status in ((b"\xff\xfe v1", b"401"), (b"v1,\x80 \xff " + value, b"204")):
        head = [b"POST / HTTP/1.1", b"Host: x", b"Connection: close", *lines]
        head += [b"webhook-signature: " + junk, b"Content-Length: %d" % len(BODY)]
        with socket.create_connection((str(where.hostname), where.port or 0)) as link:
            link.sendall(b"\r\n".join(head) + b"\r\n\r\n" + BODY)
            assert link.makefile("rb").readline().split()[1] == status


def test_mappings_of_frameworks() -> None:
    """Starlette's, Werkzeug's, multidict's and the mail package's headers will do."""
    from email.message import Message

    from multidict import CIMultiDict
    from starlette.datastructures import Headers
    from werkzeug.datastructures import Headers as WerkzeugHeaders

    lines = [*signed().items(), ("Host", "x")]
    raw = [(name.lower().encode(), text.encode()) for name, text in lines]
    mail = Message()
    for name, text in lines:
        mail[name] = text
    shapes: list[Any] = [Headers(raw=raw), WerkzeugHeaders(lines), CIMultiDict(lines)]
    for headers in [*shapes, mail]:
        assert Webhook(SECRET).verify(BODY, headers).id == "msg_1"
    again = [(b"webhook-id", b"msg_2")]
    twice: list[Any] = [
        Headers(raw=raw + again),
        WerkzeugHeaders([*lines, ("webhook-id", "msg_2")]),
        CIMultiDict([*lines, ("webhook-id", "msg_2")]),
    ]
    for headers in twice:
        with pytest.raises(SignatureError, match="bad header"):
            Webhook(SECRET).verify(BODY, headers)


# --- claims


def refused(headers: Any, body: Any = BODY, scheme: str = "standard") -> bool:
    """Tell whether ours refuses a message, and with its own error."""
    with pytest.raises(SignatureError):
        Webhook(SECRET, scheme=scheme).verify(body, headers)
    return True


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("peer", STANDARD)
@pytest.mark.parametrize(
    ("junk", "theirs"),
    [
        ("garbage", "ValueError"),
        ("v1", "ValueError"),
        ("v1,a,b", "ValueError"),
        ("", "ValueError"),
        ("v1,x", "Error"),
        ("v1,é", "ValueError"),
    ],
)
def test_junk_hides_a_good_signature(peer: str, junk: str, theirs: str) -> None:
    """They crash on an entry ahead of a good one, which is lost; ours reads on."""
    headers = signed()
    value = f"{junk} {headers['webhook-signature']}"
    headers = headers | {"webhook-signature": value}
    assert Webhook(SECRET).verify(BODY, headers).id == "msg_1"
    seen = outcome(lambda: STANDARD[peer](SECRET).verify(BODY, headers))
    state(
        seen == theirs, peer, f"verify ends with {theirs} at {junk!r} before a good one"
    )


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("peer", STANDARD)
def test_bodies_that_are_no_text(peer: str) -> None:
    """They crash on a body that is not UTF-8, signed or not; ours does not read it."""
    body = b"\xff\x00"
    headers = signed(body=body)
    assert Webhook(SECRET).verify(body, headers).body == body
    seen = outcome(lambda: STANDARD[peer](SECRET).verify(body, headers))
    claim = "verify ends with UnicodeDecodeError for a signed body that is no text"
    state(seen == "UnicodeDecodeError", peer, claim)


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("peer", STANDARD)
@pytest.mark.parametrize("suffix", [".75", " ", "_0", "e0"])
def test_times_that_were_not_signed(peer: str, suffix: str) -> None:
    """They believe a time in another spelling than the signed one; ours does not."""
    headers = signed()
    at = headers["webhook-timestamp"]
    other = f"{at[:-1]}_{at[-1]}" if suffix == "_0" else at + suffix
    headers = headers | {"webhook-timestamp": other}
    assert refused(headers)
    seen = outcome(lambda: STANDARD[peer](SECRET).verify(BODY, headers))
    state(seen == "accepted", peer, f"verify accepts a time with {suffix!r}")


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("peer", STANDARD)
def test_stray_characters_in_base64(peer: str) -> None:
    """They accept a signature with characters in it that are no base64."""
    headers = signed()
    value = headers["webhook-signature"].replace("v1,", "v1,!!")
    headers = headers | {"webhook-signature": value}
    assert refused(headers)
    seen = outcome(lambda: STANDARD[peer](SECRET).verify(BODY, headers))
    state(seen == "accepted", peer, "verify accepts v1,!!<signature>")


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("peer", STANDARD)
def test_secrets_of_another_kind(peer: str) -> None:
    """They take a public key for a secret, and drop what is no base64."""
    public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    safe = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-"
    with pytest.raises(ValueError, match="URL-safe"):
        Webhook(safe)
    with pytest.raises(ValueError, match="only public keys"):
        Webhook(public).sign(BODY, id="1", timestamp=1)
    taken = []
    for secret in (public, safe):
        taken.append(outcome(lambda secret=secret: STANDARD[peer](secret)))
    state(taken == ["accepted"] * 2, peer, "Webhook takes whpk_ and URL-safe base64")


@pytest.mark.peer_behaviour
def test_moments_in_other_timezones() -> None:
    """standardwebhooks signs another second for the same moment elsewhere."""
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    there = at.astimezone(timezone(timedelta(hours=2)))
    theirs = standardwebhooks.Webhook(SECRET)
    same = theirs.sign("1", at, "{}") == theirs.sign("1", there, "{}")
    state(not same, "standardwebhooks 1.1.0", "sign takes 17:00+02:00 for 17:00 UTC")


def stripe_says(header: str, body: Any = BODY, **options: Any) -> str:
    """Return what Stripe's package thinks of a message."""
    call = stripe.WebhookSignature.verify_header
    return outcome(lambda: call(body, header, SECRET, **options))


@pytest.mark.peer_behaviour
def test_stripe_believes_the_future() -> None:
    """Stripe's package accepts a message of the next decade, and so its replays."""
    header = signed("stripe", at=now() + 315_360_000)
    assert refused(header, scheme="stripe")
    seen = stripe_says(header["Stripe-Signature"], tolerance=300)
    state(seen == "accepted", "stripe 16.1.0", "verify_header has no window ahead")


@pytest.mark.peer_behaviour
def test_stripe_has_no_window_by_default() -> None:
    """Its `verify_header` accepts any age unless it is told otherwise."""
    header = signed("stripe", at=now() - 86_400)
    assert refused(header, scheme="stripe")
    seen = stripe_says(header["Stripe-Signature"])
    state(seen == "accepted", "stripe 16.1.0", "verify_header has no tolerance set")


@pytest.mark.peer_behaviour
@pytest.mark.parametrize("spelling", ["{0}_{1}", " {0}{1}", "+{0}{1}"])
def test_stripe_believes_other_spellings(spelling: str) -> None:
    """It believes a time in another spelling than the signed one."""
    header = signed("stripe")["Stripe-Signature"]
    at = header[2:12]
    other = header.replace(at, spelling.format(at[:5], at[5:]), 1)
    assert refused({"Stripe-Signature": other}, scheme="stripe")
    seen = stripe_says(other, tolerance=300)
    state(seen == "accepted", "stripe 16.1.0", f"it takes {spelling} for a time")


@pytest.mark.peer_behaviour
def test_stripe_crashes() -> None:
    """It crashes on a signature beyond ASCII, and on a body that is no text."""
    junk = {"Stripe-Signature": f"t={now()},v1=é"}
    assert refused(junk, scheme="stripe")
    body = b"\xff"
    good = signed("stripe", body)
    assert Webhook(SECRET, scheme="stripe").verify(body, good)
    seen = [
        stripe_says(junk["Stripe-Signature"]),
        stripe_says(good["Stripe-Signature"], body),
    ]
    claim = "verify_header ends with TypeError for é, and with UnicodeDecodeError"
    state(seen == ["TypeError", "UnicodeDecodeError"], "stripe 16.1.0", claim)


@pytest.mark.peer_behaviour
def test_octokit_throws(node: str, npm_package: Callable[..., Path]) -> None:
    """Octokit throws where no signature came, in place of saying false."""
    with pytest.raises(SignatureError, match="missing header"):
        Webhook("s", scheme="github").verify(b"x", {"X-Hub-Signature-256": ""})
    case = {"secret": "s", "body": "x", "signature": ""}
    (result,) = octokit(node, npm_package(OCTOKIT), [case])
    claim = "verify throws for an empty signature"
    state(result["verified"] not in (True, False), OCTOKIT, claim, installed=OCTOKIT)


@pytest.mark.peer_behaviour
def test_ten_thousand_signatures() -> None:
    """Ours reads sixteen of them, and standardwebhooks each."""
    headers = signed()
    good = headers["webhook-signature"]
    bogus = "v1," + base64.b64encode(hmac.digest(b"k", b"", "sha256")).decode()
    many = headers | {"webhook-signature": " ".join([*[bogus] * 10_000, good])}
    assert refused(many)
    seen = outcome(lambda: standardwebhooks.Webhook(SECRET).verify(BODY, many))
    state(
        seen == "accepted", "standardwebhooks 1.1.0", "verify reads 10 001 signatures"
    )
