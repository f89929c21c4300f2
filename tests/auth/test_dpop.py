"""Tests of `patterns/auth/dpop.py`; they can be copied along with it."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import re
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey, import_key

from patterns.auth import dpop

KEY = dpop.DpopKey.generate()
API, TOKEN_URL = "https://api.test/things?id=7#top", "https://as.test/token"
BOUND = {"Authorization": "DPoP the-token"}
NOW = 1_700_000_000.75
ALGORITHMS = ("ES256", "ES384", "ES512", "Ed25519", "EdDSA", "RS256", "PS256")
KEYS = {name: dpop.DpopKey.generate(name) for name in ALGORITHMS}
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])
CHALLENGE = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n-1"}


def vectors(name):
    """Return a file of test data, which lies in a folder `vectors` further up."""
    for folder in Path(__file__).resolve().parents:
        if (path := folder / "vectors" / name).is_file():
            return json.loads(path.read_text("utf-8"))
    raise FileNotFoundError(name)


def part(text):
    """Return the JSON value in a part of a proof."""
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def read(proof):
    """Return header and claims of a proof, whose signature must be good."""
    header, claims, _ = proof.split(".")
    header, claims = part(header), part(claims)
    registry = jws.JWSRegistry(
        algorithms=[header["alg"]], header_registry={}, strict_check_header=False
    )
    registry.max_header_length = 4096
    with warnings.catch_warnings(action="ignore"):  # of the older name EdDSA
        jws.deserialize_compact(proof, import_key(header["jwk"]), registry=registry)
    return header, claims


def told(request):
    """Return the claims of a request's proof."""
    return read(request.headers["dpop"])[1]


class Server:
    """Answer by a list, its last one again and again, and keep the requests."""

    def __init__(self, *answers):
        self.answers, self.requests, self.bodies = list(answers), [], []

    def __call__(self, request):
        self.requests.append(request)
        self.bodies.append(request.content)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer(request) if callable(answer) else answer
        return httpx.Response(
            answer.status_code, headers=answer.headers.raw, stream=answer.stream
        )


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, which may fail, and which says whether it was closed."""

    def __init__(self, *pieces):
        self.pieces, self.closed, self.taken = pieces, 0, 0

    def __iter__(self):
        for piece in self.pieces:
            self.taken += 1
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    async def __aiter__(self):
        for piece in self:
            yield piece

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


def send(kind, server, *requests, key=KEY, transport=None, **options):
    """Send requests one by one through a client of a kind, and return the responses."""
    if transport is None:
        options = {"clock": lambda: NOW, "token_urls": [TOKEN_URL], **options}
        below = httpx.MockTransport(server)
        transport = dpop.DpopTransport(below, key, **options)
    if kind == "sync":
        with httpx.Client(transport=transport) as client:
            return [client.request(**request) for request in requests]

    async def work():
        async with httpx.AsyncClient(transport=transport) as client:
            return [await client.request(**request) for request in requests]

    return asyncio.run(work())


def get(url=API, **more):
    """Return a request with a bound token."""
    return {"method": "GET", "url": url, "headers": BOUND, **more}


def ask(**more):
    """Return a token request."""
    form = {"grant_type": "client_credentials"}
    return {"method": "POST", "url": TOKEN_URL, "data": form, **more}


# --- keys and proofs


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_proof(algorithm):
    """A proof is a JWT of its own type, whose header has the public key and no more."""
    key = KEYS[algorithm]
    proof = key.proof("POST", "https://as.test/token", now=NOW)
    header, claims = read(proof)
    assert header.keys() == {"typ", "alg", "jwk"}
    assert (header["typ"], header["alg"]) == ("dpop+jwt", algorithm)
    assert header["jwk"] == key.public_jwk()
    assert header["jwk"].keys() <= {"kty", "crv", "x", "y", "n", "e"}
    assert import_key(header["jwk"]).thumbprint() == key.thumbprint
    jti = claims.pop("jti")
    assert claims == {"htm": "POST", "htu": "https://as.test/token", "iat": int(NOW)}
    assert re.fullmatch("[A-Za-z0-9_-]{16,}", jti)  # 96 bits or more


def test_ath_of_the_rfc():
    """The hash of a token is that of RFC 9449 §7.1, figure 13."""
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    proof = KEY.proof("GET", API, access_token=token, nonce="eyJ7S_zG.eyJH0-Z.HX4w-7v")
    claims = read(proof)[1]
    assert claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
    assert claims["nonce"] == "eyJ7S_zG.eyJH0-Z.HX4w-7v"


def test_thumbprint_of_the_rfc():
    """The thumbprint is that of RFC 8037 A.3, and the name of a key is not in it."""
    given = vectors("jose_rfc.json")["rfc8037_a"]
    key = dpop.DpopKey({**given["jwk"], "kid": "mine", "use": "sig"})
    assert key.thumbprint == given["thumbprint_a3"]
    assert key.algorithm == "Ed25519"
    assert key.public_jwk().keys() == {"kty", "crv", "x"}


def test_each_proof_is_another():
    """Two proofs of one request are told apart, and a name can be given."""
    jtis = {read(KEY.proof("GET", API, now=NOW))[1]["jti"] for _ in range(100)}
    assert len(jtis) == 100
    assert read(KEY.proof("GET", API, jti="mine"))[1]["jti"] == "mine"


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://api.test", "https://api.test/"),
        ("https://api.test/a/b?c=d&e#f", "https://api.test/a/b"),
        ("https://api.test/?", "https://api.test/"),
        ("HTTPS://API.Test:443/A", "https://api.test/A"),
        ("http://api.test:8080/a", "http://api.test:8080/a"),
        ("https://ann:secret@api.test/a", "https://api.test/a"),
        ("https://[2001:DB8::1]:8443/a", "https://[2001:db8::1]:8443/a"),
        ("https://api.test/a b/ü/%7e%2F", "https://api.test/a%20b/%C3%BC/%7e%2F"),
        ("https://bücher.test/a", "https://xn--bcher-kva.test/a"),
    ],
)
def test_htu(url, htu):
    """The URL is the one on the wire, without query, fragment and userinfo."""
    assert read(KEY.proof("GET", url))[1]["htu"] == htu
    assert read(KEY.proof("GET", httpx.URL(url)))[1]["htu"] == htu


@pytest.mark.parametrize("url", ["", "/a", "api.test/a", "ftp://api.test/", "http:///"])
def test_no_url(url):
    """A proof is for a URL of http or https, and for nothing else."""
    with pytest.raises(ValueError, match="http or https"):
        KEY.proof("GET", url)
    with pytest.raises(ValueError, match="http or https"):
        dpop.DpopTransport(httpx.MockTransport(Server()), KEY, token_urls=[url])


def test_time():
    """The time is the clock's, in whole seconds, unless it is given."""
    before = read(KEY.proof("GET", API))[1]["iat"]
    assert abs(before - time.time()) < 60
    assert read(KEY.proof("GET", API, now=0))[1]["iat"] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", ["jwk", "pem", "bytes"])
def test_keys_that_are_kept(algorithm, form):
    """A key comes back from its JWK with its algorithm, and from PEM with one given."""
    key = KEYS[algorithm]
    given = key.private_jwk()
    assert given["alg"] == algorithm
    if form != "jwk":
        bare = {name: value for name, value in given.items() if name != "alg"}
        given = import_key(bare).as_pem(private=True)
        given = given.decode() if form == "pem" else given
    again = dpop.DpopKey(given, algorithm=None if form == "jwk" else algorithm)
    assert (again.thumbprint, again.algorithm) == (key.thumbprint, algorithm)
    assert read(again.proof("GET", API))


@pytest.mark.parametrize(
    ("kind", "size", "algorithm"),
    [
        (ECKey, "P-256", "ES256"),
        (ECKey, "P-521", "ES512"),
        (OKPKey, "Ed25519", "Ed25519"),
        (RSAKey, 2048, "RS256"),
    ],
)
def test_the_first_algorithm_that_fits(kind, size, algorithm):
    """A key that says nothing of its algorithm is used with the usual one."""
    pem = kind.generate_key(size).as_pem(private=True)
    assert dpop.DpopKey(pem).algorithm == algorithm


EC_JWK = ECKey.generate_key("P-256").as_dict(private=True)
OTHER_JWK = ECKey.generate_key("P-256").as_dict(private=True)
with warnings.catch_warnings(action="ignore"):
    SMALL = RSAKey.generate_key(1024).as_dict(private=True)
PEM = ECKey.import_key(EC_JWK).as_pem(private=True)


@pytest.mark.parametrize(
    "key",
    [
        *({}, {"kty": "EC"}, {"kty": []}, {1: 2}, "", b"", "no key", b"\xff", PEM[:90]),
        OctKey.generate_key(256).as_dict(private=True),
        {name: value for name, value in EC_JWK.items() if name != "d"},
        ECKey.import_key(EC_JWK).as_pem(private=False),
        ECKey.import_key(EC_JWK).as_pem(private=True, password="secret"),
        {**EC_JWK, "d": OTHER_JWK["d"]},
        {**EC_JWK, "d": "AAAA"},
        {**EC_JWK, "use": "enc"},
        {**EC_JWK, "key_ops": ["verify"]},
        {**EC_JWK, "alg": "ES384"},
        {**EC_JWK, "alg": "HS256"},
        {
            **OKPKey.generate_key("Ed25519").as_dict(private=True),
            "x": OKPKey.generate_key("Ed25519").as_dict()["x"],
        },
        OKPKey.generate_key("X25519").as_dict(private=True),
        OKPKey.generate_key("Ed448").as_dict(private=True),
        ECKey.generate_key("secp256k1").as_dict(private=True),
        SMALL,
    ],
    ids=lambda key: "key",  # the same names in each run
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_no_key(key):
    """What cannot sign, or nobody could verify, is refused, and nothing of it told."""
    with pytest.raises(ValueError, match=r"^(a proof is|the key does)") as caught:
        dpop.DpopKey(key)
    assert caught.value.__context__ is None


def test_an_algorithm_of_another_key():
    """An algorithm that does not fit the key is refused, and so is an unknown one."""
    for name in ("ES384", "Ed25519", "RS256", "HS256", "none", "ES256K"):
        with pytest.raises(ValueError, match="does not fit"):
            dpop.DpopKey(EC_JWK, algorithm=name)
    for name in ("HS256", "none", "ES256K", ""):
        with pytest.raises(ValueError, match="an algorithm is one of ES256"):
            dpop.DpopKey.generate(name)


def test_coordinates_of_full_length():
    """A coordinate that begins with zeros is not cut short (RFC 7518 §6.2.1.2)."""
    keys = (ec.derive_private_key(number, ec.SECP256R1()) for number in range(1, 9999))
    short = next(k for k in keys if k.public_key().public_numbers().x >> 248 == 0)
    pem = short.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert len(dpop.DpopKey(pem).public_jwk()["x"]) == 43


def test_repr():
    """The repr of a key has nothing of its private half."""
    assert repr(KEY) == f"DpopKey(ES256, {KEY.thumbprint})"
    assert KEY.private_jwk()["d"] not in str(vars(KEY)) + repr(KEY)


# --- the transport


@KINDS
def test_a_bound_token(kind):
    """A request with a bound token gets a proof of it, whatever the scheme's case."""
    server = Server(httpx.Response(200))
    send(
        kind,
        server,
        get(),
        get("http://other.test", headers={"Authorization": "dpop  t2"}),
        {"method": "POST", "url": API, "headers": BOUND, "json": {}},
    )
    claims = [told(request) for request in server.requests]
    assert [c["htu"] for c in claims] == [
        "https://api.test/things",
        "http://other.test/",
        "https://api.test/things",
    ]
    assert [c["htm"] for c in claims] == ["GET", "GET", "POST"]
    hashes = [hashlib.sha256(t).digest() for t in (b"the-token", b"t2", b"the-token")]
    wanted = [base64.urlsafe_b64encode(h).rstrip(b"=").decode() for h in hashes]
    assert [c["ath"] for c in claims] == wanted
    assert {c["iat"] for c in claims} == {int(NOW)}
    assert len({c["jti"] for c in claims}) == 3


@KINDS
@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"Authorization": "Bearer t"}, {"Authorization": "DPoPX t"}),
        *({"Authorization": "DPoP"}, {"Authorization": "Basic DPoP"}),
        {**BOUND, "DPoP": "its own"},
    ],
)
def test_what_needs_no_proof(kind, headers):
    """Without a bound token, or with a proof of its own, a request stays as it is."""
    server, seen = Server(httpx.Response(401, headers=CHALLENGE)), []

    def below(request):
        seen.append(request)
        return server(request)

    (response,) = send(kind, below, get(headers=headers))
    assert len(seen) == 1
    assert seen[0] is response.request
    assert seen[0].headers.get("dpop") == headers.get("DPoP")


@KINDS
@pytest.mark.parametrize("auth", [None, ("client", "secret")])
def test_a_token_request(kind, auth):
    """A request to a token URL gets a proof of no token, with or without Basic."""
    server = Server(httpx.Response(200))
    send(
        kind,
        server,
        ask(auth=auth),
        ask(auth=auth, url=f"{TOKEN_URL}?tenant=7"),
        ask(auth=auth, url="HTTPS://AS.test:443/token"),
        ask(auth=auth, url=f"{TOKEN_URL}/other"),
    )
    proofs = [request.headers.get("dpop") for request in server.requests]
    assert proofs.pop() is None
    for proof in proofs:
        claims = read(proof)[1]
        assert claims.keys() == {"jti", "htm", "htu", "iat"}
        assert (claims["htm"], claims["htu"]) == ("POST", TOKEN_URL)
    given = {
        request.headers.get("authorization", "")[:5] for request in server.requests
    }
    assert given == {"Basic" if auth else ""}


def test_one_token_url_as_text():
    """One token URL can be given as it is."""
    server = Server(httpx.Response(200))
    send("sync", server, ask(), token_urls=TOKEN_URL)
    assert "dpop" in server.requests[0].headers


@KINDS
def test_a_nonce_for_a_token_request(kind):
    """An error of the token endpoint that asks for a nonce is answered once with it."""
    refusal = httpx.Response(
        400, headers={"DPoP-Nonce": "n-1"}, json={"error": "use_dpop_nonce"}
    )
    server = Server(refusal, httpx.Response(200, text="good"))
    (response,) = send(kind, server, ask(auth=("a", "b")))
    assert response.text == "good"
    first, second = (told(request) for request in server.requests)
    assert "nonce" not in first
    assert second["nonce"] == "n-1"
    assert first["jti"] != second["jti"]
    assert server.bodies[0] == server.bodies[1] == b"grant_type=client_credentials"
    assert server.requests[1].headers["authorization"].startswith("Basic ")
    assert server.requests[1].headers.get_list("dpop") != []
    assert len(server.requests[1].headers.get_list("dpop")) == 1


@KINDS
def test_a_nonce_for_an_api(kind):
    """A 401 that asks for a nonce is answered once with it."""
    server = Server(httpx.Response(401, headers=CHALLENGE), httpx.Response(200))
    responses = send(kind, server, get(), get(), get("https://other.test"))
    assert [response.status_code for response in responses] == [200, 200, 200]
    claims = [told(request) for request in server.requests]
    assert [c.get("nonce") for c in claims] == [None, "n-1", "n-1", None]
    assert all("ath" in c for c in claims)


@KINDS
def test_the_newest_nonce(kind):
    """Any answer may bring a nonce, which is kept for its origin and no other."""
    news = [httpx.Response(200, headers={"DPoP-Nonce": f"n-{n}"}) for n in range(5)]
    server = Server(*news)
    plain = {"method": "GET", "url": "https://api.test/open"}
    send(
        *(kind, server, get(), get(), plain, get("https://api.test:444"), get()),
    )
    nonces = [told(r).get("nonce") for r in server.requests if "dpop" in r.headers]
    assert nonces == [None, "n-0", None, "n-2"]


@KINDS
def test_a_nonce_of_the_second_answer(kind):
    """The answer to the repetition may bring a further nonce."""
    server = Server(
        httpx.Response(401, headers=CHALLENGE),
        httpx.Response(200, headers={"DPoP-Nonce": "n-2"}),
        httpx.Response(200),
    )
    send(kind, server, get(), get())
    assert [told(r).get("nonce") for r in server.requests] == [None, "n-1", "n-2"]


@KINDS
def test_one_repetition(kind):
    """A server that asks for nonces again and again is answered once."""
    nonces = iter(range(99))

    def refuse(request):
        headers = {**CHALLENGE, "DPoP-Nonce": f"n-{next(nonces)}"}
        return httpx.Response(401, headers=headers, text="no")

    server = Server(refuse)
    (response,) = send(kind, server, get())
    assert (response.status_code, response.text) == (401, "no")
    assert len(server.requests) == 2


@KINDS
def test_a_nonce_that_was_used(kind):
    """A nonce that was used already is not tried again."""
    first = httpx.Response(200, headers={"DPoP-Nonce": "n-1"})
    server = Server(first, httpx.Response(401, headers=CHALLENGE))
    send(kind, server, get(), get())
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "nonce", [None, "", "a b", 'a"b', "a\\b", "ü".encode(), "n" * 1025, ["a", "b"]]
)
def test_no_nonce(nonce):
    """What is no nonce by RFC 9449 §8.1, or two of them, is not used."""
    given = nonce if isinstance(nonce, list) else [nonce]
    lines = [("DPoP-Nonce", value) for value in given if value is not None]
    headers = [("WWW-Authenticate", CHALLENGE["WWW-Authenticate"]), *lines]
    server = Server(httpx.Response(401, headers=headers))
    send("sync", server, get(), get())
    assert [told(r).get("nonce") for r in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("asks", "challenge"),
    [
        (True, 'DPoP error="use_dpop_nonce"'),
        (True, "dpop ERROR=use_dpop_nonce"),
        (True, 'DPoP realm="", error = "use_dpop_nonce", algs="ES256"'),
        (True, 'Bearer realm="a, DPoP", DPoP algs="ES256",error="use_dpop_nonce"'),
        (True, 'Negotiate abc==, DPoP x="\\"", error="use_dpop_nonce"'),
        (False, ""),
        (False, "DPoP"),
        (False, 'DPoP error="invalid_token"'),
        (False, 'DPoP error="use_dpop_nonce_"'),
        (False, 'Bearer error="use_dpop_nonce"'),
        (False, 'DPoP algs="ES256", Bearer error="use_dpop_nonce"'),
        (False, 'DPoP error_description="error=use_dpop_nonce"'),
        (False, 'Bearer realm="DPoP error=use_dpop_nonce"'),
        (False, "x" * 9000 + ', DPoP error="use_dpop_nonce"'),
    ],
)
def test_challenges(asks, challenge):
    """Only a challenge of the scheme DPoP with this very error asks for a nonce."""
    headers = {"WWW-Authenticate": challenge, "DPoP-Nonce": "n-1"}
    server = Server(httpx.Response(401, headers=headers))
    send("sync", server, get())
    assert len(server.requests) == 1 + asks


def test_challenges_on_two_lines():
    """The challenge may stand in a line of its own."""
    lines = [("WWW-Authenticate", "Bearer"), *CHALLENGE.items()]
    server = Server(httpx.Response(401, headers=lines))
    send("sync", server, get())
    assert len(server.requests) == 2


@given(st.text('DPoPerror=use_dpop_nonce", \\\t', max_size=300))
def test_any_challenge(value):
    """Whatever stands in the header, looking at it raises nothing."""
    assert dpop._asks_in_challenge(value) in (True, False)


def test_a_challenge_that_costs_no_time():
    """A long header of open quotes and spaces is looked at in no time."""
    for text in ('a="\\', "a ", 'a="', '"', "=", "a= "):
        assert not dpop._asks_in_challenge(text * 100_000)


# A refusal of the token endpoint, by what is not the standard's.
JSON = b'{"error": "use_dpop_nonce"}'
PASSED_ON = {
    "another error": (400, {}, b'{"error": "invalid_grant"}'),
    "another status": (403, {}, JSON),
    "success": (200, {}, JSON),
    "HTML": (400, {}, b"<p>use_dpop_nonce"),
    "no object": (400, {}, b'["error", "use_dpop_nonce"]'),
    "no text": (400, {}, b'{"error": ["use_dpop_nonce"]}'),
    "empty": (400, {}, b""),
    "deep": (400, {}, b"[" * 4000),
    "no UTF-8": (400, {}, b'{"error": "\xff"}'),
    "long": (400, {}, JSON[:-1] + b" " * 4096 + b"}"),
    "a bomb": (
        400,
        {"Content-Encoding": "gzip"},
        gzip.compress(bytes(9_000_000))[:4000],
    ),
    "no gzip": (400, {"Content-Encoding": "gzip"}, JSON),
    "API": (401, {"WWW-Authenticate": "Bearer"}, b"no"),
}


@KINDS
@pytest.mark.parametrize("case", PASSED_ON)
def test_what_is_passed_on(kind, case):
    """Any other refusal is the caller's, with all of its body, and not repeated."""
    status, headers, raw = PASSED_ON[case]
    body = Body(*(raw[at : at + 1000] for at in range(0, len(raw), 1000)))
    headers = {"DPoP-Nonce": "n-1", **headers}
    server = Server(httpx.Response(status, headers=headers, stream=body))
    if "Content-Encoding" in headers:
        seen = raw_of(kind, server)
    else:
        (response,) = send(kind, server, ask())
        assert response.status_code == status
        seen = response.content
    assert seen == raw
    assert body.closed
    assert len(server.requests) == 1


def raw_of(kind, server):
    """Return the body of an answer to a token request as it came."""
    transport = dpop.DpopTransport(
        httpx.MockTransport(server), KEY, token_urls=[TOKEN_URL]
    )
    if kind == "sync":
        with (
            httpx.Client(transport=transport) as client,
            client.stream(**ask()) as response,
        ):
            return b"".join(response.iter_raw())

    async def work():
        async with (
            httpx.AsyncClient(transport=transport) as client,
            client.stream(**ask()) as response,
        ):
            return b"".join([chunk async for chunk in response.aiter_raw()])

    return asyncio.run(work())


@KINDS
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_refusal_that_is_compressed(kind, encoding):
    """An error of the token endpoint may come compressed."""
    raw = gzip.compress(JSON) if encoding == "gzip" else zlib.compress(JSON)
    headers = {"DPoP-Nonce": "n-1", "Content-Encoding": encoding}
    body = Body(raw[:5], raw[5:])
    server = Server(
        httpx.Response(400, headers=headers, stream=body), httpx.Response(200)
    )
    (response,) = send(kind, server, ask())
    assert response.status_code == 200
    assert body.closed


@KINDS
@pytest.mark.parametrize("status", [400, 401])
def test_both_statuses_of_a_token_endpoint(kind, status):
    """A server that answers 401 as to a client it does not know is understood too."""
    refusal = httpx.Response(
        status, headers={"DPoP-Nonce": "n-1"}, json={"error": "use_dpop_nonce"}
    )
    server = Server(refusal, httpx.Response(200))
    assert send(kind, server, ask())[0].status_code == 200


@KINDS
def test_an_error_of_an_api_in_its_body(kind):
    """What an API says in a body is not read, since there only the challenge counts."""
    body = Body(JSON)
    headers = {"DPoP-Nonce": "n-1"}
    server = Server(httpx.Response(400, headers=headers, stream=body))
    (response,) = send(kind, server, get())
    assert response.content == JSON
    assert len(server.requests) == 1


@KINDS
def test_a_long_refusal_of_an_api(kind):
    """A 401 with a long body is repeated, without reading all of that."""
    body = Body(*[b"x" * 3000] * 50)
    refusal = httpx.Response(401, headers=CHALLENGE, stream=body)
    server = Server(refusal, httpx.Response(200))
    assert send(kind, server, get())[0].status_code == 200
    assert body.closed == 1
    assert body.taken == 2


@KINDS
def test_a_refusal_that_drips(kind):
    """A refusal that comes too slowly is passed on, as it comes."""
    body, clock = Body(*(JSON[at : at + 1] for at in range(len(JSON)))), iter(range(99))
    refusal = httpx.Response(400, headers={"DPoP-Nonce": "n-1"}, stream=body)
    server = Server(refusal)
    (response,) = send(kind, server, ask(), clock=lambda: float(next(clock)))
    assert response.content == JSON
    assert len(server.requests) == 1
    assert next(clock) < 10


@KINDS
def test_a_refusal_that_breaks_off(kind):
    """An error while the refusal is read is the caller's, and the answer is closed."""
    body = Body(b"{", httpx.ReadError("gone"))
    refusal = httpx.Response(400, headers={"DPoP-Nonce": "n-1"}, stream=body)
    with pytest.raises(httpx.ReadError, match="gone"):
        send(kind, Server(refusal), ask())
    assert body.closed == 1


def test_a_cancelled_call():
    """A call that is cancelled while a refusal is read closes the answer."""

    class Hanging(Body):
        async def __aiter__(self):
            yield b"{"
            await asyncio.sleep(3600)

    body = Hanging()
    refusal = httpx.Response(400, headers={"DPoP-Nonce": "n-1"}, stream=body)

    async def main():
        below = httpx.MockTransport(Server(refusal))
        transport = dpop.DpopTransport(below, KEY, token_urls=[TOKEN_URL])
        async with httpx.AsyncClient(transport=transport) as client:
            call = asyncio.create_task(client.request(**ask()))
            for _ in range(10):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()

    asyncio.run(main())
    assert body.closed == 1


def test_a_body_that_cannot_be_sent_again():
    """A request whose body is a generator's is not repeated; the nonce is kept."""
    server = Server(httpx.Response(401, headers=CHALLENGE, text="no"))
    post = {"method": "POST", "url": API, "headers": BOUND}
    (response,) = send("sync", server, {**post, "content": iter([b"a", b"b"])})
    assert (response.status_code, response.text) == (401, "no")
    assert len(server.requests) == 1


@KINDS
def test_bodies_that_can_be_sent_again(kind):
    """Bytes, a form and files that rewind are sent again."""
    ways = [{"content": b"abc"}, {"json": {"a": 1}}]
    if kind == "sync":
        ways.append({"files": {"f": io.BytesIO(b"abc")}})
    for way in ways:
        server = Server(httpx.Response(401, headers=CHALLENGE), httpx.Response(200))
        post = {"method": "POST", "url": API, "headers": BOUND, **way}
        assert send(kind, server, post)[0].status_code == 200
        assert server.bodies[0] == server.bodies[1] != b""


@KINDS
def test_a_redirect(kind):
    """A redirect gets a proof of its own; at another origin it gets none."""
    hops = ["https://api.test/b", "https://other.test/c"]
    server = Server(
        *(httpx.Response(302, headers={"Location": hop}) for hop in hops),
        httpx.Response(200),
    )
    send(kind, server, get(follow_redirects=True))
    first, second, third = server.requests
    assert told(first)["htu"] == "https://api.test/things"
    assert told(second)["htu"] == "https://api.test/b"
    assert told(first)["jti"] != told(second)["jti"]
    assert third.headers.keys() & {"dpop", "authorization"} == set()


@KINDS
def test_a_retry_above(kind):
    """A transport above that sends a request again gets a new proof for it."""

    class Again(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def __init__(self, below):
            self.below = below

        def handle_request(self, request):
            self.below.handle_request(request)
            return self.below.handle_request(request)

        async def handle_async_request(self, request):
            await self.below.handle_async_request(request)
            return await self.below.handle_async_request(request)

    server = Server(httpx.Response(200))
    below = dpop.DpopTransport(httpx.MockTransport(server), KEY)
    send(kind, server, get(), transport=Again(below))
    assert len({told(request)["jti"] for request in server.requests}) == 2


def test_the_original_is_left_alone():
    """The proof is not left behind in the request, nor its extensions copied."""
    seen = []

    def below(request):
        seen.append(request)
        return httpx.Response(200)

    (response,) = send("sync", below, get(extensions={"mine": 1}))
    assert "dpop" not in response.request.headers
    assert seen[0].extensions is response.request.extensions
    assert seen[0].url == response.request.url
    pairs = [pair for pair in seen[0].headers.raw if pair[0] != b"DPoP"]
    assert pairs == response.request.headers.raw


def test_other_schemes_pass():
    """A URL of another scheme is for the transport below to judge."""
    below = httpx.MockTransport(Server(httpx.Response(200)))
    transport = dpop.DpopTransport(below, KEY, token_urls=[TOKEN_URL])
    request = httpx.Request("GET", "ftp://api.test/a", headers=BOUND)
    transport.handle_request(request)
    transport.handle_request(httpx.Request("GET", "/a", headers=BOUND))


def test_nonces_are_bounded(monkeypatch):
    """Of too many origins the one goes whose nonce is the oldest."""
    monkeypatch.setattr(dpop, "_ORIGINS", 3)
    server = Server(lambda r: httpx.Response(200, headers={"DPoP-Nonce": r.url.host}))
    hosts = ["a.test", "b.test", "c.test", "a.test", "d.test", "a.test", "b.test"]
    send("sync", server, *(get(f"https://{host}/") for host in hosts))
    nonces = [told(request).get("nonce") for request in server.requests]
    assert nonces == [None, None, None, "a.test", None, "a.test", None]


def test_threads_share_the_nonces():
    """Many threads over one transport lose no nonce and raise nothing."""
    server = Server(lambda r: httpx.Response(200, headers={"DPoP-Nonce": r.url.host}))
    below = httpx.MockTransport(server)
    transport = dpop.DpopTransport(below, KEYS["Ed25519"])
    with httpx.Client(transport=transport) as client, ThreadPoolExecutor(8) as pool:
        urls = [f"https://h{n % 40}.test/" for n in range(200)]
        done = list(pool.map(lambda url: client.get(url, headers=BOUND), urls))
        assert [response.status_code for response in done] == [200] * 200
        client.get("https://h7.test/", headers=BOUND)
    assert told(server.requests[-1])["nonce"] == "h7.test"


def test_it_closes_what_is_below():
    """Closing a client closes the transport below."""
    closed = []

    class Below(httpx.MockTransport):
        def close(self):
            closed.append("sync")

        async def aclose(self):
            closed.append("async")

    for kind in ("sync", "async"):
        below = Below(Server(httpx.Response(200)))
        send(kind, None, get(), transport=dpop.DpopTransport(below, KEY))
    assert closed == ["sync", "async"]


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 400, 401]),
    body=st.binary(max_size=60) | st.just(JSON),
    encoding=st.sampled_from(
        ["", "gzip", "deflate", "identity", "x-odd", "gzip, gzip"]
    ),
    challenge=st.sampled_from(["", CHALLENGE["WWW-Authenticate"], "DPoP ,,="]),
    nonce=st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=9),
)
def test_any_answer(status, body, encoding, challenge, nonce):
    """Whatever a server answers is passed on as it came, after two requests at most."""
    headers = {"Content-Encoding": encoding, "DPoP-Nonce": nonce}
    headers["WWW-Authenticate"] = challenge
    answer = httpx.Response(status, headers=headers, stream=Body(body))
    server = Server(answer)
    assert raw_of("sync", server) == body
    assert len(server.requests) <= 2
