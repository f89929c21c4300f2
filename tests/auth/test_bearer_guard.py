"""Tests of `patterns/auth/bearer_guard.py`; they can be copied along with it."""

import asyncio
import json
import logging
import re
import ssl
import urllib.error

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patterns.auth import bearer_guard

BearerGuard = bearer_guard.BearerGuard
RESOURCE = "https://api.test/v1"
METADATA = "https://api.test/.well-known/oauth-protected-resource/v1"
INVALID = 'error="invalid_token", error_description="the access token is not valid"'
JKT = {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}

# By the token, what an issuer said when it made it.
CLAIMS = {
    "none": {"sub": "ann"},
    "read": {"sub": "ann", "scope": "read"},
    "both": {"sub": "ann", "scope": "read write"},
    "bound": {"sub": "ann", "scope": "read", "cnf": JKT},
    "mtls": {
        "sub": "ann",
        "cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jd"},
    },
    "mixed": {"sub": "ann", "cnf": {**JKT, "x5t#S256": "bwcK0esc3ACC3DB2Y5_lES"}},
    "empty": {"sub": "ann", "cnf": {}},
    "null": {"sub": "ann", "cnf": None},
    "odd": {"sub": "ann", "cnf": {"jkt": 7}},
    "revoked": {"active": False},
    "active": {"active": True, "sub": "ann"},
    "unclear": {"active": "false", "sub": "ann"},
}


class Refusal(Exception):
    """An error as other patterns have it: with a reason, and a nonce at times."""

    def __init__(self, reason, nonce=None):
        super().__init__("s3cret")
        self.reason, self.nonce = reason, nonce


def verify(token):
    """Return the claims of a token that was issued above."""
    if token in CLAIMS:
        return CLAIMS[token]
    raise Refusal("signature")


class App:
    """An app that answers 200, and keeps what it was called with."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    @property
    def claims(self):
        return self.scopes[-1]["state"]["claims"]


class Answer:
    """What was sent, put together."""

    def __init__(self, sent):
        self.sent = sent
        start = next((m for m in sent if m["type"].endswith("response.start")), {})
        self.status = start.get("status")
        self.fields = [(k.decode(), v.decode()) for k, v in start.get("headers", [])]
        self.headers = dict(self.fields)
        self.body = b"".join(message.get("body", b"") for message in sent)
        self.challenges = [v for k, v in self.fields if k == "www-authenticate"]

    @property
    def problem(self):
        return json.loads(self.body)


def call(app, *authorization, receive=None, **scope):
    """Call an ASGI app by a request with these `Authorization` fields."""
    headers = [(b"host", b"api.test"), *scope.pop("headers", [])]
    for value in authorization:
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        headers.append((b"authorization", raw))
    scope = {"type": "http", "method": "GET", "path": "/v1/items", **scope}
    sent = []

    async def answer(message):
        sent.append(message)

    async def connect():
        return {"type": "websocket.connect"}

    asyncio.run(app({**scope, "headers": headers}, receive or connect, answer))
    return Answer(sent)


def guarded(verify=verify, **options):
    """Return an app and a guard in front of it."""
    app = App()
    return app, BearerGuard(app, verify, **options)


def test_a_good_token_passes_and_its_claims_are_handed_on():
    """The app finds the claims in its state, beside what was there, and no token."""
    app, guard = guarded()
    given = {"pool": 7}
    answer = call(guard, "Bearer read", state=given)
    assert (answer.status, answer.body) == (200, b"ok")
    assert app.claims == CLAIMS["read"]
    assert app.scopes[0]["state"] == {"pool": 7, "claims": CLAIMS["read"]}


def test_the_state_of_the_server_is_not_written_to():
    """A state that a server shares between requests never gets anybody's claims."""
    app, guard = guarded()
    shared = {}
    call(guard, "Bearer read", state=shared)
    assert shared == {}
    assert app.claims == CLAIMS["read"]


def test_no_credentials():
    """RFC 6750 §3.1: who sent no token is told no error code."""
    app, guard = guarded(realm="example")
    answer = call(guard)
    assert answer.status == 401
    assert answer.challenges == ['Bearer realm="example"']
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.problem == {
        "title": "Unauthorized",
        "status": 401,
        "detail": "an access token is needed",
    }
    assert app.scopes == []


def test_a_challenge_has_a_parameter():
    """RFC 6750 §3: at least one, and so there is a realm where nothing else is told."""
    for options in ({}, {"realm": ""}, {"realm": None}):
        _, guard = guarded(**options)
        assert call(guard).challenges == ['Bearer realm="api"']
    _, guard = guarded(resource=RESOURCE)
    assert call(guard).challenges == [f'Bearer resource_metadata="{METADATA}"']


@pytest.mark.parametrize(
    "value",
    [
        "Basic cmVhZDpyZWFk",
        "Digest",
        "",
        " ",
        "\xff",
        "Bearers read",
        "=",
        "read",
        "DPoP read",
    ],
)
def test_other_schemes(value):
    """What is not for these schemes is as no credentials at all."""
    _, guard = guarded()
    answer = call(guard, value)
    assert (answer.status, answer.challenges) == (401, ['Bearer realm="api"'])


@pytest.mark.parametrize(
    "value", ["bearer read", "BEARER read", "bEaReR   read", " Bearer read\t"]
)
def test_the_scheme_in_any_case(value):
    """RFC 9110 §11.1: the scheme is compared without regard to case."""
    _, guard = guarded()
    assert call(guard, value).status == 200


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["Bearer "],
        ["Bearer\tread"],
        ["Bearer,read"],
        ["Bearer=read"],
        ["Bearer read both"],
        ["Bearer read, Bearer both"],
        ["Bearer read,"],
        ['Bearer "read"'],
        ["Bearer re\x00ad"],
        ["Bearer read\r\n"],
        ["Bearer \xe9"],
        ["Bearer =read"],
        ["Bearer re=ad"],
        ["Bearer token=read"],
        ["Bearer read", "Bearer read"],
        ["Bearer read", "Basic cmVhZDpyZWFk"],
        ["Basic cmVhZDpyZWFk", "Bearer read"],
    ],
)
def test_malformed_requests(values):
    """RFC 6750 §3.1: what is no one token is a malformed request, and never judged."""
    judged = []
    _, guard = guarded(judged.append)
    answer = call(guard, *values)
    assert answer.status == 400
    assert answer.problem["error"] == "invalid_request"
    assert answer.challenges == [
        'Bearer realm="api", error="invalid_request", '
        'error_description="the Authorization field is malformed"'
    ]
    assert judged == []


def test_a_token_elsewhere_is_none():
    """A token in the query or in a form is not read (RFC 6750 §2.2, §2.3)."""

    async def form():
        raise AssertionError("the body was read")

    _, guard = guarded()
    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    sent = {"method": "POST", "query_string": b"access_token=read", "headers": headers}
    answer = call(guard, receive=form, **sent)
    assert (answer.status, answer.challenges) == (401, ['Bearer realm="api"'])


def test_an_invalid_token():
    """A refused token is answered in fixed words, without what the error says."""
    _, guard = guarded()
    answer = call(guard, "Bearer forged")
    assert answer.status == 401
    assert answer.challenges == [f'Bearer realm="api", {INVALID}']
    assert answer.problem["error"] == "invalid_token"
    assert b"s3cret" not in answer.body
    assert b"signature" not in answer.body


def test_a_token_too_long_is_not_judged():
    """What is longer than 16384 characters is refused as it stands."""
    judged = []
    _, guard = guarded(lambda token: judged.append(token) or {})
    assert call(guard, "Bearer " + "a" * 16384).status == 200
    assert call(guard, "Bearer " + "a" * 16385).status == 401
    assert len(judged) == 1


def test_keys_that_cannot_be_had():
    """It is not the token's fault: 503, and no challenge by which to discard it."""

    def away(token):
        raise Refusal("keys_unavailable")

    _, guard = guarded(away, retry_after=17)
    answer = call(guard, "Bearer read")
    assert (answer.status, answer.headers["retry-after"]) == (503, "17")
    assert answer.challenges == []
    assert answer.problem == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "tokens cannot be judged at the moment",
    }


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        ssl.SSLError(1, "CERTIFICATE_VERIFY_FAILED"),
        urllib.error.URLError("refused"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Refusal(7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_raised(error):
    """An error that refuses no token is a fault, even if it has a `reason` too."""

    def fails(token):
        raise error

    app, guard = guarded(fails)
    with pytest.raises(type(error)):
        call(guard, "Bearer read")
    assert app.scopes == []


def test_a_verifier_may_be_async():
    """What can be awaited is awaited, and its refusals are refusals as well."""

    async def averify(token):
        await asyncio.sleep(0)
        return verify(token)

    app, guard = guarded(averify)
    assert call(guard, "Bearer read").status == 200
    assert app.claims == CLAIMS["read"]
    assert call(guard, "Bearer forged").status == 401


@pytest.mark.parametrize("claims", [None, True, "ann", ["ann"]])
def test_what_is_no_claims_lets_nobody_in(claims):
    """A verifier that returns no mapping is a fault, and not a yes."""
    app, guard = guarded(lambda token: claims)
    with pytest.raises(TypeError, match="mapping"):
        call(guard, "Bearer read")
    assert app.scopes == []


@pytest.mark.parametrize(
    ("token", "status"), [("active", 200), ("revoked", 401), ("unclear", 401)]
)
def test_an_introspection_that_says_no(token, status):
    """RFC 7662 §2.2: a token that is not active is refused, whatever else is said."""
    _, guard = guarded()
    assert call(guard, f"Bearer {token}").status == status


def test_a_scope_that_is_missing():
    """RFC 6750 §3.1: 403, and the scopes that are needed."""
    app, guard = guarded(scope="read write")
    assert call(guard, "Bearer both").status == 200
    answer = call(guard, "Bearer read")
    assert answer.status == 403
    assert answer.challenges == [
        'Bearer realm="api", error="insufficient_scope", '
        'error_description="the access token lacks a scope", scope="read write"'
    ]
    assert answer.problem["error"] == "insufficient_scope"
    assert call(guard, "Bearer none").status == 403
    assert call(guard).challenges == ['Bearer realm="api", scope="read write"']
    assert len(app.scopes) == 1


def test_scopes_of_a_request():
    """What one request needs comes on top of what all need."""

    def scopes(scope):
        return "write" if scope["method"] == "POST" else ()

    _, guard = guarded(scope=["read"], scopes=scopes)
    assert call(guard, "Bearer read").status == 200
    answer = call(guard, "Bearer read", method="POST")
    assert answer.status == 403
    assert 'scope="read write"' in answer.challenges[0]
    assert call(guard, "Bearer both", method="POST").status == 200
    assert call(guard, "Bearer none").status == 403


def test_scopes_of_a_request_are_scopes():
    """What would break the challenge is the caller's fault, and lets nobody in."""
    app, guard = guarded(scopes=lambda scope: ['a"b'])
    with pytest.raises(ValueError, match="scope"):
        call(guard, "Bearer both")
    assert app.scopes == []


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, []),
        ({"scope": "read write"}, ["read", "write"]),
        ({"scope": "read  write "}, ["read", "write"]),
        ({"scope": ["read", "write"]}, ["read", "write"]),
        ({"scope": ["read write"]}, ["read write"]),
        ({"scope": "read\u00a0write"}, ["read\u00a0write"]),
        ({"scope": "read\twrite\n"}, ["read\twrite\n"]),
        ({"scope": ["read", 7, None, ["write"]]}, ["read"]),
        ({"scope": {"write": True}}, []),
        ({"scope": 7}, []),
        ({"scope": True}, []),
        ({"scope": ""}, []),
        ({"scp": "read write"}, ["read", "write"]),
        ({"scp": ["read"]}, ["read"]),
        ({"scope": None, "scp": ["read"]}, ["read"]),
        ({"scope": "", "scp": ["write"]}, []),
        ({"scope": "read", "scp": ["write"]}, ["read"]),
    ],
)
def test_granted_scopes(claims, scopes):
    """Text is parted by spaces alone, and what is no text grants nothing."""
    assert sorted(bearer_guard.granted_scopes(claims)) == scopes


@pytest.mark.parametrize(
    ("resource", "url"),
    [
        # RFC 9728 §3.1, with and without a path, and with a query.
        ("https://resource.example.com", "https://resource.example.com{}"),
        ("https://resource.example.com/", "https://resource.example.com{}"),
        (
            "https://resource.example.com/resource1",
            "https://resource.example.com{}/resource1",
        ),
        ("https://a.test:8443/v1/", "https://a.test:8443{}/v1/"),
        ("https://a.test/?k=v", "https://a.test{}?k=v"),
        ("https://a.test?k=v", "https://a.test{}?k=v"),
        ("https://a.test/b?k=v&l=/", "https://a.test{}/b?k=v&l=/"),
        ("https://a.test/a%20b", "https://a.test{}/a%20b"),
        ("http://127.0.0.1:8000/b", "http://127.0.0.1:8000{}/b"),
        ("http://localhost", "http://localhost{}"),
        ("http://[::1]:80", "http://[::1]:80{}"),
    ],
)
def test_metadata_url(resource, url):
    """The well-known part goes between the host and the path."""
    expected = url.format("/.well-known/oauth-protected-resource")
    assert bearer_guard.metadata_url(resource) == expected


BAD_URLS = [
    "http://api.test",
    "http://127.0.0.1.evil.test",
    "ftp://127.0.0.1",
    "api.test",
    "//api.test",
    "https://",
    "https:///v1",
    "https://api.test/#",
    "https://api.test/#top",
    "https://ann:s3cret@api.test",
    "https://ann@api.test",
    "https://api.test:port",
    "https://[::1",
    'https://api.test/"',
    "https://api.test/a b",
    "https://api.test/\\",
    "https://api.test/\r\nx: y",
    "https://\u00e4pi.test",
    "urn:example:api",
    "",
    None,
    7,
    b"https://api.test",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_no_resource(url):
    """RFC 9728 §1.2: https without a fragment; and nothing that breaks a challenge."""
    with pytest.raises(ValueError, match="plain URL") as caught:
        bearer_guard.metadata_url(url)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"URL|list"):
        guarded(resource=RESOURCE, metadata={"authorization_servers": [url]})


def test_the_metadata():
    """RFC 9728 §3.2: served to anybody, and named in every challenge (§5.1)."""
    servers = ["https://as.test"]
    app, guard = guarded(
        scope="read",
        resource=RESOURCE,
        metadata={
            "authorization_servers": servers,
            "resource_name": "Ännas API",
            "resource_documentation": None,
            "jwks_uri": None,
            "authorization_details_types_supported": [],
        },
    )
    document = {
        "resource": RESOURCE,
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["read"],
        "authorization_servers": servers,
        "resource_name": "Ännas API",
    }
    assert guard.metadata == document
    assert guard.metadata_url == METADATA
    path = "/.well-known/oauth-protected-resource/v1"
    answer = call(guard, path=path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.problem == document
    assert call(guard, path=path, method="HEAD").body == b""
    refused = call(guard, path=path, method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert f'resource_metadata="{METADATA}"' in call(guard).challenges[0]
    assert f'resource_metadata="{METADATA}"' in call(guard, "Bearer x").challenges[0]
    assert app.scopes == []
    assert call(guard, path="/.well-known/oauth-protected-resource").status == 401
    assert call(guard, path=f"{path}/").status == 401
    assert call(guard, path=f"/app{path}", root_path="/app").status == 200
    assert call(guard, path=path, type="websocket").sent[0]["code"] == 1008


def test_the_metadata_of_a_resource_with_a_query():
    """RFC 9728 §3.1: of resources that differ in the query, each has its own."""
    _, guard = guarded(resource="https://api.test/a%20b?tenant=7")
    path = "/.well-known/oauth-protected-resource/a b"
    assert call(guard, path=path, query_string=b"tenant=7").status == 200
    assert call(guard, path=path, query_string=b"tenant=8").status == 401
    assert call(guard, path=path).status == 401


def test_nothing_is_served_without_a_resource():
    """Without a resource there are no metadata, and that path is one like others."""
    _, guard = guarded()
    assert guard.metadata is None
    assert call(guard, path="/.well-known/oauth-protected-resource").status == 401


@pytest.mark.parametrize(
    "realm", ['say "hi"', "back\\slash", '"', "\\", '\\"', "a, Bearer error=x", "~ !"]
)
def test_challenges_are_quoted(realm):
    """RFC 9110 §5.6.4: whatever the realm, it is one parameter of one challenge."""
    _, guard = guarded(realm=realm)
    (challenge,) = call(guard).challenges
    found = re.fullmatch(r'Bearer realm="((?:[^"\\]|\\.)*)"', challenge)
    assert re.sub(r"\\(.)", r"\1", found[1]) == realm


def test_public_paths():
    """What is public needs no token, to the character, and gets no claims."""
    app, guard = guarded(public=["/health", "/docs/"])
    for path in ("/health", "/docs/"):
        assert call(guard, "Bearer forged", path=path).status == 200
    for path in (
        "/",
        "/health/",
        "/healthy",
        "/docs",
        "/HEALTH",
        "//health",
        "/x/../health",
    ):
        assert call(guard, path=path).status == 401
    assert "state" not in app.scopes[0]
    _, guard = guarded(public=(path for path in ["/health"]))
    assert [call(guard, path="/health").status for _ in "ab"] == [200, 200]


def test_public_by_a_callable():
    """A callable decides by the whole of the ASGI scope."""
    _, guard = guarded(public=lambda scope: scope["method"] == "GET")
    assert call(guard).status == 200
    assert call(guard, method="POST").status == 401


def test_preflights():
    """They pass if asked for, and only what a browser would send as one."""
    origin = (b"origin", b"https://app.test")
    method = (b"Access-Control-Request-Method", b"PUT")
    _, guard = guarded()
    assert call(guard, method="OPTIONS", headers=[origin, method]).status == 401
    _, guard = guarded(preflight=True, public=["/health"])
    assert call(guard, method="OPTIONS", headers=[origin, method]).status == 200
    for headers in ([origin], [method], []):
        assert call(guard, method="OPTIONS", headers=headers).status == 401
    assert call(guard, method="PUT", headers=[origin, method]).status == 401
    assert call(guard, method="OPTIONS", path="/health").status == 200


def test_head_is_refused_without_a_body():
    """RFC 9110 §9.3.2: the same fields, and no content."""
    _, guard = guarded()
    head, get = call(guard, method="HEAD"), call(guard)
    assert (head.status, head.body) == (401, b"")
    assert head.fields == get.fields


def test_websockets():
    """A WebSocket is refused before it is accepted, and passes with a token."""
    app, guard = guarded()
    socket = {"type": "websocket", "path": "/ws"}
    assert call(guard, **socket).sent == [{"type": "websocket.close", "code": 1008}]
    socket["extensions"] = None
    assert call(guard, **socket).sent == [{"type": "websocket.close", "code": 1008}]
    socket["extensions"] = {"websocket.http.response": {}}
    answer = call(guard, "Bearer forged", **socket)
    assert [message["type"] for message in answer.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (answer.status, answer.problem["error"]) == (401, "invalid_token")
    assert app.scopes == []
    call(guard, "Bearer read", **socket)
    assert app.claims == CLAIMS["read"]


def test_a_websocket_is_refused_after_its_connect():
    """ASGI: the connect is received before anything is sent."""
    events = []

    async def receive():
        events.append("received")
        return {"type": "websocket.connect"}

    async def send(message):
        events.append(message["type"])

    _, guard = guarded()
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert events == ["received", "websocket.close"]


def test_other_protocols():
    """The lifespan passes, and what is not known does not."""
    app, guard = guarded()
    asyncio.run(guard({"type": "lifespan"}, None, None))
    assert app.scopes == [{"type": "lifespan"}]
    with pytest.raises(ValueError, match="not known"):
        call(guard, "Bearer read", type="webtransport")
    assert len(app.scopes) == 1


class Prover:
    """A checker of proofs that says what it is told to."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), []

    def __call__(self, scope, token, claims):
        self.asked.append((scope["path"], token, claims))
        if self.errors:
            raise self.errors.pop(0)


def test_a_token_that_is_bound_to_a_key():
    """RFC 9449 §7.1: it passes by the scheme DPoP, when its proof was checked."""
    prover = Prover()
    app, guard = guarded(proof=prover)
    assert call(guard, "dpop bound").status == 200
    assert app.claims == CLAIMS["bound"]
    assert prover.asked == [("/v1/items", "bound", CLAIMS["bound"])]
    assert call(guard, "Bearer read").status == 200
    assert len(prover.asked) == 1


@pytest.mark.parametrize("proof", [None, Prover()])
@pytest.mark.parametrize("token", ["bound", "mtls", "mixed", "empty", "null", "odd"])
def test_bound_tokens_are_no_bearer_tokens(token, proof):
    """RFC 9449 §7.2: who was stolen such a token must not lose by it."""
    app, guard = guarded(proof=proof)
    answer = call(guard, f"Bearer {token}")
    assert answer.status == 401
    assert answer.challenges[0] == f'Bearer realm="api", {INVALID}'
    assert app.scopes == []


@pytest.mark.parametrize("token", ["read", "mtls", "mixed", "empty", "null", "odd"])
def test_a_proof_is_for_a_token_that_is_bound_to_a_key(token):
    """By the scheme DPoP comes only what is bound to a key, and to nothing else."""
    prover = Prover()
    app, guard = guarded(proof=prover)
    answer = call(guard, f"DPoP {token}")
    assert answer.status == 401
    assert answer.challenges[0] == f'DPoP realm="api", {INVALID}, algs="ES256"'
    assert (app.scopes, prover.asked) == ([], [])


def test_challenges_of_two_schemes():
    """Each scheme has a challenge of its own, and the one that was used the error."""
    _, guard = guarded(
        proof=Prover(Refusal("htu")), algs=["ES256", "PS256"], scope="read"
    )
    bearer, dpop = 'Bearer realm="api", ', 'DPoP realm="api", '
    end = 'scope="read", algs="ES256 PS256"'
    assert call(guard).challenges == [f'{bearer}scope="read"', f"{dpop}{end}"]
    assert call(guard, "DPoP bound").challenges == [
        f'{dpop}error="invalid_dpop_proof", '
        f'error_description="the DPoP proof is not valid", {end}',
        f'{bearer}scope="read"',
    ]
    assert call(guard, "Bearer x").challenges == [
        f'{bearer}{INVALID}, scope="read"',
        f"{dpop}{end}",
    ]


def test_dpop_required():
    """Then a token that is bound to nothing is refused, and Bearer not offered."""
    _, guard = guarded(proof=Prover(), dpop_required=True, resource=RESOURCE)
    answer = call(guard, "Bearer read")
    assert answer.status == 401
    assert [challenge.partition(" ")[0] for challenge in answer.challenges] == ["DPoP"]
    assert call(guard, "DPoP bound").status == 200
    assert guard.metadata["dpop_bound_access_tokens_required"] is True
    assert guard.metadata["dpop_signing_alg_values_supported"] == ["ES256"]


def test_a_nonce():
    """RFC 9449 §9: the client is told the nonce, and to use it."""
    prover = Prover(Refusal("nonce", "eyJ7S_zG.eyJH0-Z.HX4w-7v"))
    _, guard = guarded(proof=prover)
    answer = call(guard, "DPoP bound")
    assert answer.status == 401
    assert answer.headers["dpop-nonce"] == "eyJ7S_zG.eyJH0-Z.HX4w-7v"
    assert 'error="use_dpop_nonce"' in answer.challenges[0]
    assert call(guard, "DPoP bound").status == 200


@pytest.mark.parametrize(
    "nonce", ["", "a b", 'a"', "a\\", "a\r\nx: y", "\u00e9", 7, b"a"]
)
def test_a_nonce_that_is_none(nonce):
    """RFC 9449 §8.1: no other characters get into the field."""
    _, guard = guarded(proof=Prover(Refusal("nonce", nonce)))
    answer = call(guard, "DPoP bound")
    assert "dpop-nonce" not in answer.headers
    assert 'error="invalid_dpop_proof"' in answer.challenges[0]


def test_a_nonce_is_for_proofs():
    """A verifier's error does not get a nonce out, nor a prover's reason a 503."""

    def forged(token):
        raise Refusal("signature", "abc")

    _, guard = guarded(forged, proof=Prover())
    answer = call(guard, "DPoP bound")
    assert "dpop-nonce" not in answer.headers
    assert answer.problem["error"] == "invalid_token"
    _, guard = guarded(proof=Prover(Refusal("keys_unavailable")))
    assert call(guard, "DPoP bound").status == 401


def test_a_proof_for_another_key():
    """RFC 9449 §7.1, figure 15: then it is the token that does not fit."""
    _, guard = guarded(proof=Prover(Refusal("cnf")))
    answer = call(guard, "DPoP bound")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.challenges[0]

    def cnf(token):
        raise Refusal("cnf")

    _, guard = guarded(cnf)
    assert call(guard, "Bearer read").problem["error"] == "invalid_token"


def test_a_prover_may_be_async():
    """What can be awaited is awaited; errors that refuse nothing are raised."""

    async def proof(scope, token, claims):
        await asyncio.sleep(0)
        raise errors.pop()

    app, guard = guarded(proof=proof)
    errors = [ZeroDivisionError(), Refusal("ath")]
    assert call(guard, "DPoP bound").status == 401
    with pytest.raises(ZeroDivisionError):
        call(guard, "DPoP bound")
    assert app.scopes == []


def test_a_proof_comes_before_the_scopes():
    """Who cannot prove the token is not told what it grants."""
    _, guard = guarded(proof=Prover(Refusal("ath")), scope="admin")
    assert call(guard, "DPoP bound").status == 401
    assert call(guard, "DPoP bound").status == 403


def test_what_is_logged(caplog):
    """The reason is, if it is a word; a token, or what holds one, is not."""
    caplog.set_level(logging.DEBUG)
    errors = [Refusal("expired"), Refusal("the token s3cret.s3cret is not good")]

    def fails(token):
        raise errors.pop(0)

    _, guard = guarded(fails)
    for _ in "ab":
        assert call(guard, "Bearer s3cret").status == 401
    assert [r.getMessage() for r in caplog.records if "guard" in r.name] == [
        "invalid_token: expired"
    ]
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"realm": "caf\u00e9"},
        {"realm": "a\r\nx: y"},
        {"realm": 7},
        {"scope": 'a"b'},
        {"scope": ["a b"]},
        {"scope": ["a\\b"]},
        {"scope": ["\u00e9"]},
        {"scope": [""]},
        {"scope": [["read"]]},
        {"scope": None},
        {"scope": 7},
        {"scope": b"read"},
        {"scopes": ["read"]},
        {"proof": "yes"},
        {"public": "/health"},
        {"public": ["health"]},
        {"public": ["*"]},
        {"public": None},
        {"public": [7]},
        {"public": 7},
        {"retry_after": -1},
        {"retry_after": 0.5},
        {"retry_after": True},
        {"retry_after": "5"},
        {"dpop_required": True},
        {"algs": ["ES 256"]},
        {"metadata": {"resource_name": "x"}},
        {"resource": RESOURCE, "metadata": {"resource": "https://other.test"}},
        {"resource": RESOURCE, "metadata": {"bearer_methods_supported": ["query"]}},
        {
            "resource": RESOURCE,
            "metadata": {"authorization_servers": "https://as.test"},
        },
        {
            "resource": RESOURCE,
            "metadata": {"authorization_servers": ["https://as.test?a"]},
        },
        {"resource": RESOURCE, "metadata": {"x": float("nan")}},
        {"resource": RESOURCE, "metadata": {"x": {1}}},
        {"resource": RESOURCE, "metadata": ["x"]},
    ],
    ids=repr,
)
def test_arguments_that_cannot_be_right(options):
    """They are refused when the guard is made, and not by the first request."""
    with pytest.raises(ValueError, match=r"\w"):
        guarded(**options)


def test_what_is_not_callable():
    """An app or a verifier that cannot be called is refused at once."""
    with pytest.raises(ValueError, match="callables"):
        BearerGuard(App(), None)
    with pytest.raises(ValueError, match="callables"):
        BearerGuard("app", verify)


@settings(deadline=None)
@given(
    st.lists(
        st.binary(max_size=40) | st.binary(max_size=20).map(b"Bearer ".__add__),
        max_size=3,
    )
)
@example([b"Bearer \xff\xfe"])
@example([b"BEARER" + b" " * 5000 + b"read"])
@example([b"Bearer read" + b"=" * 5000 + b"!"])
def test_any_bytes(values):
    """No bytes in the field raise, or let anybody in who has no token."""
    app, guard = guarded(proof=Prover())
    answer = call(guard, *values)
    if answer.status == 200:
        assert app.claims in CLAIMS.values()
    else:
        assert answer.status in (400, 401)
        assert all(challenge.isprintable() for challenge in answer.challenges)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["scope", "scp", "cnf", "active"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_claims(claims):
    """Claims of any type raise nothing, and grant no more than they say."""
    _, guard = guarded(lambda token: claims, scope="read", proof=Prover())
    for scheme in ("Bearer", "DPoP"):
        answer = call(guard, f"{scheme} x")
        assert answer.status in (200, 401, 403)
        if answer.status == 200:
            told = claims.get("scope") or claims.get("scp")
            assert "read" in (told.split(" ") if isinstance(told, str) else told)
            assert ("cnf" in claims) == (scheme == "DPoP")


def test_through_httpx():
    """A client sees a problem document, and challenges that it can read."""
    _, guard = guarded(scope="read", resource=RESOURCE, proof=Prover())

    async def main():
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url=RESOURCE) as client:
            refused = await client.get("/items")
            found = re.search(
                r'resource_metadata="([^"]+)"', refused.headers["www-authenticate"]
            )
            document = (await client.get(found[1])).json()
            token = {"Authorization": "Bearer read"}
            return refused, document, await client.get("/items", headers=token)

    refused, document, answer = asyncio.run(main())
    assert refused.status_code == 401
    assert len(refused.headers.get_list("www-authenticate")) == 2
    assert document["resource"] == RESOURCE
    assert (answer.status_code, answer.text) == (200, "ok")
