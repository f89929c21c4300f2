"""What it costs to verify a webhook, beside the bare HMAC and what others take."""

from __future__ import annotations

import hmac
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import standardwebhooks
import stripe
import svix.webhooks
from harness import Row, interleave

from patterns.webhooks.signature import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BARE = "hmac.digest"
SIZES = {1024: 1.8, 65536: 1.1}  # bytes of a body, and the target
FRAMEWORK = {  # what a request has beside them
    "host": "api.test",
    "user-agent": "Svix-Webhooks/1.86",
    "accept": "*/*",
    "accept-encoding": "gzip",
    "content-type": "application/json",
    "content-length": "1024",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-forwarded-for": "192.0.2.7",
    "x-forwarded-proto": "https",
}


def done(
    call: Callable[..., Any], *arguments: Any, **options: Any
) -> Callable[[], bool]:
    """Return a case whose result is that it did not raise."""

    def case() -> bool:
        call(*arguments, **options)
        return True

    return case


def bench_signature(quick: bool) -> Iterator[Row]:
    """Compare a verification with the HMAC alone, over bytes put together before."""
    at, text_secret = int(time.time()), SECRET.removeprefix("whsec_")
    for size, target in SIZES.items():
        body = b'{"x":"' + b"x" * (size - 8) + b'"}'
        ours, headers = Webhook(SECRET), Webhook(SECRET).sign(body, id=ID, timestamp=at)
        theirs = standardwebhooks.Webhook(SECRET)
        moment = datetime.fromtimestamp(at, UTC)
        made = theirs.sign(ID, moment, body.decode())
        assert made == headers["webhook-signature"]
        content = f"{ID}.{at}.".encode() + body
        paid = Webhook(SECRET, scheme="stripe")
        line = paid.sign(body, id=None, timestamp=at)
        verify = stripe.WebhookSignature.verify_header
        name = f"{size // 1024} KiB"
        bare = done(hmac.digest, b64decode(text_secret), content, "sha256")
        cases = {
            f"{BARE}, {name}": bare,
            f"Webhook, {name}": done(ours.verify, body, headers),
            f"Webhook, 12 headers, {name}": done(
                ours.verify, body, {**FRAMEWORK, **headers}
            ),
            f"Webhook, stripe, {name}": done(paid.verify, body, line),
            f"standardwebhooks, unparsed, {name}": done(
                theirs.verify, body, headers, json_parse=False
            ),
            f"standardwebhooks, {name}": done(theirs.verify, body, headers),
            f"svix, {name}": done(svix.webhooks.Webhook(SECRET).verify, body, headers),
            f"stripe, {name}": done(
                verify, body, line["Stripe-Signature"], SECRET, tolerance=300
            ),
        }
        repeat = 1 if quick else 6_000_000 // (size + 2048)
        times = interleave(cases, 1 if quick else 61, repeat=repeat, result=True)
        for case in list(cases)[1:]:
            goal = target if case == f"Webhook, {name}" else None
            yield times.row(case, f"{BARE}, {name}", target=goal)
