"""Tests of `patterns/auth/dpop_verifier.py`; they can be copied along with it."""

import base64
import hashlib
import itertools
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from patterns.auth import dpop_verifier

# RFC 9449 §4.1, figure 2 (line breaks removed), and §7.1, figures 12 and 13.
FIGURE_2 = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik"
    "VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR"
    "nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE"
    "QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIj"
    "oiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwia"
    "WF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg"
    "4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
AT, SERVER = 1562262616, "https://server.example.com/token"
JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_ATH = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"

URL, NOW, TOKEN = "https://api.test/things", 1_700_000_000, "the-token"
EC, ED, RSA = (
    ECKey.generate_key("P-256"),
    OKPKey.generate_key("Ed25519"),
    RSAKey.generate_key(2048),
)
NAMES = itertools.count()
ALL = ("ES256", "ES384", "ES512", "Ed25519", "RS256", "RS512", "PS256", "PS384")
# fmt: off
REASONS = {
    "missing", "multiple", "too_large", "malformed", "crit", "typ", "alg", "jwk",
    "signature", "jti", "htm", "htu", "nonce", "iat", "ath", "cnf", "replay",
}
# fmt: on


def base64url(raw):
    """Return bytes as base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def ath(token):
    """Return what a proof says of a token."""
    return base64url(hashlib.sha256(token.encode()).digest())


def part(value):
    """Return a part of a proof; bytes and text are taken as they are."""
    if not isinstance(value, bytes | str):
        value = json.dumps(value)
    return base64url(value if isinstance(value, bytes) else value.encode())


def sign(header, claims, key=EC, algorithm="ES256"):
    """Return a proof whose signature is good, whatever its parts are."""
    text = f"{part(header)}.{part(claims)}"
    with warnings.catch_warnings(action="ignore"):
        registry = JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    return f"{text}.{base64url(registry.sign(text.encode(), key))}"


def header(key=EC, alg="ES256", **more):
    """Return the header of a good proof with some members changed."""
    return {"typ": "dpop+jwt", "alg": alg, "jwk": key.as_dict(private=False), **more}


def claims(**more):
    """Return what a good proof says, with some of it changed; None takes it out."""
    said = {"jti": f"jti-{next(NAMES)}", "htm": "GET", "htu": URL, "iat": NOW}
    said |= {"ath": ath(TOKEN)} | more
    return {name: value for name, value in said.items() if value is not None}


def proof(key=EC, algorithm="ES256", **more):
    """Return a proof with some of its claims changed."""
    return sign(header(key, algorithm), claims(**more), key, algorithm)


def bound(key=EC):
    """Return the claims of a token that is bound to a key."""
    return {"sub": "ann", "cnf": {"jkt": key.thumbprint()}}


def verifier(**options):
    """Return a verifier of its own, whose clock stands still."""
    return dpop_verifier.DpopVerifier(**{"clock": lambda: float(NOW), **options})


def refusal(proofs, url=URL, method="GET", on=None, token=TOKEN, of=EC, **more):
    """Return the refusal of a proof, or None if it is accepted."""
    said = bound(of) if isinstance(of, ECKey | OKPKey | RSAKey) else of
    more = {"access_token": token, "claims": said, **more}
    try:
        (on or verifier()).check(proofs, method, url, **more)
    except dpop_verifier.InvalidProof as exc:
        return exc
    return None


def reason(*args, **more):
    """Return why a proof is refused, or None if it is accepted."""
    caught = refusal(*args, **more)
    assert caught is None or caught.reason in REASONS
    return caught and caught.reason


# --- the standard's own


def test_the_proof_of_the_rfc():
    """The proof of figure 2 is good at its token endpoint, and names its key."""
    found = verifier().check(FIGURE_2, "POST", SERVER, now=AT)
    assert found.jkt == JKT
    assert found.expires == AT + 60


def test_the_token_of_the_rfc():
    """The hash of the token in figure 12 is the `ath` of figure 13."""
    made = proof(ath=RFC_ATH)
    assert reason(made, token=RFC_TOKEN) is None
    assert reason(proof(ath=RFC_ATH), token=RFC_TOKEN + "x") == "ath"


def test_every_bit_is_signed():
    """The proof of figure 2 is refused with any one character changed."""
    good = verifier()
    for at in range(len(FIGURE_2)):
        other = "A" if FIGURE_2[at] != "A" else "B"
        changed = FIGURE_2[:at] + other + FIGURE_2[at + 1 :]
        with pytest.raises(dpop_verifier.InvalidProof):
            good.check(changed, "POST", SERVER, now=AT)


@pytest.mark.parametrize("algorithm", ALL)
def test_algorithms(algorithm):
    """Each algorithm is accepted where it was named, and only there."""
    curves = {"ES384": "P-384", "ES512": "P-521"}
    key = ED if algorithm == "Ed25519" else RSA
    if algorithm.startswith("ES"):
        key = ECKey.generate_key(curves.get(algorithm, "P-256"))
    made = proof(key, algorithm)
    assert reason(made, of=key, on=verifier(algorithms=[algorithm])) is None
    others = [name for name in ALL if name != algorithm]
    assert reason(made, of=key, on=verifier(algorithms=others)) == "alg"


@pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("sent", ["EdDSA", "Ed25519"])
def test_two_names_of_one_algorithm(named, sent):
    """EdDSA and Ed25519 are the same algorithm for a key of that curve (RFC 9864)."""
    made = sign(header(ED, sent), claims(), ED, "Ed25519")
    assert reason(made, of=ED, on=verifier(algorithms=[named])) is None
    jwk = {**ED.as_dict(private=False), "alg": named}
    made = sign(header(ED, sent, jwk=jwk), claims(), ED, "Ed25519")
    assert reason(made, of=ED, on=verifier(algorithms=[named])) is None


def test_defaults():
    """ES256 and Ed25519 are accepted, and a challenge can name them."""
    assert verifier().algorithms == ("ES256", "Ed25519")
    assert reason(proof()) is None
    assert reason(proof(ED, "EdDSA"), of=ED) is None
    assert reason(proof(RSA, "RS256"), of=RSA) == "alg"


@pytest.mark.parametrize(
    "options",
    [
        *({"algorithms": names} for names in ([], ["none"], ["HS256"], ["ES256", ""])),
        *({"algorithms": names} for names in (["ES256K"], ["Ed448"], "ES256")),
        *({"window": window} for window in (0, -1, float("nan"), float("inf"))),
        *({"origin": text} for text in ("", "api.test", "ftp://api.test", "https://")),
        *({"origin": f"https://api.test{text}"} for text in ("/v1", "?", "#", "?a/b")),
        *(
            {"origin": f"https://{text}"}
            for text in ("a@api.test", "api.test:x", "a b")
        ),
    ],
)
def test_wrong_settings(options):
    """What cannot be a setting is refused when the verifier is made."""
    with pytest.raises(ValueError, match=r"^an? (algorithm|window|origin)"):
        verifier(**options)


# --- the header


@pytest.mark.parametrize(
    ("proofs", "why"),
    [
        *((nothing, "missing") for nothing in (None, [], [None], ())),
        *((text, "malformed") for text in ("", "a", "a.b", "a.b.c", "....", b"\xff")),
        ("x" * 8193, "too_large"),
        (b"x" * 8193, "too_large"),
        *((value, "malformed") for value in ([5], ["ü"], [["a"]], "ü.ü.ü", "a.b.c.d")),
    ],
)
def test_no_proof(proofs, why):
    """None, or what is none, is refused for what it is."""
    assert reason(proofs) == why


def test_one_header():
    """There is exactly one proof, as text or bytes, alone or in a list."""
    for given_as in (str, str.encode, lambda text: [text], lambda text: (text, None)):
        assert reason(given_as(proof())) is None
    assert reason([proof(), proof()]) == "multiple"
    assert reason(f"{proof()}, {proof()}") == "malformed"
    same = proof()
    assert reason([same, same.encode()]) == "multiple"


def test_no_other_form():
    """A proof with a fourth part, with spaces or padding, or of five parts is none."""
    made = proof()
    head, said, tail = made.split(".")
    for text in (
        *(f"{made}.", f".{made}", f"{made}.x", f" {made}", f"{made}\n", f"{made}="),
        *(
            f"{head}=.{said}.{tail}",
            f"{head}..{tail}",
            f"{head}.{said}.",
            f"{head}.{said}",
        ),
        json.dumps({"protected": head, "payload": said, "signature": tail}),
        f"{head}.{said}.{tail[:-1]}{'B' if tail[-1] != 'B' else 'C'}",
    ):
        assert reason(text) in ("malformed", "signature"), text
    # Of the last character four bits count, so it has one spelling among sixteen.
    assert [c for c in "ABCDQRSTghijwxyz" if reason(f"{made[:-1]}{c}") is None] == [
        made[-1]
    ]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        *(({"typ": typ}, "typ") for typ in ("JWT", "at+jwt", "DPoP+JWT", "", None, 5)),
        ({"typ": "application/dpop+jwt"}, "typ"),
        *(
            ({"alg": alg}, "alg")
            for alg in ("none", "HS256", "RS256", "", None, [], {})
        ),
        ({"alg": "es256"}, "alg"),
        *(({"crit": crit}, "crit") for crit in ([], ["b64"], ["exp"], 5, None)),
        ({"b64": False}, "crit"),
        ({"alg": "Ed25519"}, "jwk"),
        *(({"jwk": jwk}, "jwk") for jwk in (None, 5, "x", [], {}, {"kty": "EC"})),
        *(({"jwk": {"kty": kty}}, "jwk") for kty in ([], {}, "oct", None, "RSA")),
        ({"jwk": ED.as_dict(private=False)}, "jwk"),
        ({"jwk": OctKey.generate_key(256).as_dict(private=True)}, "jwk"),
        ({"jwk": ECKey.generate_key("P-384").as_dict(private=False)}, "jwk"),
        ({"jwk": ECKey.generate_key("secp256k1").as_dict(private=False)}, "jwk"),
        ({"jwk": EC.as_dict(private=True)}, "jwk"),
        ({"jwk": ECKey.generate_key("P-256").as_dict(private=False)}, "signature"),
    ],
)
def test_header(more, why):
    """A header that the standard does not allow is refused for what is wrong."""
    assert reason(sign(header(**more), claims())) == why


@pytest.mark.parametrize("name", ["typ", "alg", "jwk"])
def test_header_lacks(name):
    """A header without one of its members is refused."""
    given = {key: value for key, value in header().items() if key != name}
    assert reason(sign(given, claims())) == name


def test_header_members_that_do_not_count():
    """Other members of the header are not believed, and do no harm."""
    other = ECKey.generate_key("P-256")
    more = {"kid": "x", "x5c": ["x"], "jku": "https://evil.test", "nonce": 5}
    assert reason(sign(header(**more), claims())) is None
    jwk = {**EC.as_dict(private=False), "kid": "k", "ext": True, "key_ops": ["verify"]}
    assert reason(sign(header(jwk=jwk), claims())) is None
    assert reason(sign(header(other, kid=EC.thumbprint()), claims(), other)) == "cnf"


PUBLIC = EC.as_dict(private=False)
X = base64.urlsafe_b64decode(PUBLIC["x"] + "=")


@pytest.mark.parametrize(
    "more",
    [
        *(
            {name: EC.as_dict(private=True)["d"]}
            for name in ("d", "k", "p", "dp", "oth")
        ),
        *({"x": value} for value in (None, 5, [], "", "AAAA", PUBLIC["x"] + "=")),
        *({"x": base64url(raw)} for raw in (X[:-1], X + b"\0", b"\0" + X, bytes(32))),
        {"x": PUBLIC["y"], "y": PUBLIC["x"]},
        {"x": PUBLIC["x"][:-1] + "\n"},
        *({"crv": crv} for crv in ("P-384", "p-256", "Ed25519", None, [], 5)),
        *({"alg": alg} for alg in ("ES384", "none", "EdDSA", 5, None, [])),
        *({"use": use} for use in ("enc", None, [], 5)),
        *({"key_ops": ops} for ops in (["sign"], [], 5, None, "sign", [[]])),
    ],
)
def test_keys(more):
    """A key that is private, not on its curve or for something else is refused."""
    assert reason(sign(header(jwk={**PUBLIC, **more}), claims())) == "jwk"


def rsa_jwk(**more):
    """Return a public RSA key with some numbers changed."""
    numbers = {
        name: base64url(n.to_bytes((n.bit_length() + 7) // 8))
        for name, n in more.items()
    }
    return {**RSA.as_dict(private=False), **numbers}


@pytest.mark.parametrize(
    "numbers",
    [
        *({"e": e} for e in (0, 1, 2, 3, 17, 65536, 65538, 2**32 + 1)),
        *({"n": n} for n in (0, 1, 2**2047 - 1, 2**2048 - 2, 2**4096 + 1)),
    ],
)
def test_rsa_keys(numbers):
    """An RSA key that is weak, odd, or made to cost time is refused."""
    on = verifier(algorithms=["RS256"])
    made = sign(header(alg="RS256", jwk=rsa_jwk(**numbers)), claims(), RSA, "RS256")
    assert reason(made, on=on) == "jwk"
    assert reason(proof(RSA, "RS256"), of=RSA, on=on) is None


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519", "RS256", "PS256"])
def test_signatures(algorithm):
    """A signature that is cut, long, empty, zero or another's is wrong, and no more."""
    key = {"ES256": EC, "Ed25519": ED}.get(algorithm, RSA)
    on = verifier(algorithms=[algorithm])
    head, said, tail = proof(key, algorithm).split(".")
    raw = base64.urlsafe_b64decode(tail + "=" * (-len(tail) % 4))
    other = proof(key, algorithm).split(".")[2]
    sizes = (
        raw[:-1],
        raw + b"\0",
        b"\0" + raw,
        bytes(len(raw)),
        b"\xff" * len(raw),
        b"",
    )
    for bad in (*map(base64url, sizes), other):
        assert reason(f"{head}.{said}.{bad}", of=key, on=on) == "signature"
    assert reason(f"{head}.{said}.{tail}", of=key, on=on) is None


# --- strict JSON


HEADER = json.dumps(header())


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", '"x"', "5", "{", "{}x", "{'a': 1}", '{"a": }', " "),
        *(HEADER + "x", "\ufeff" + HEADER, HEADER.encode("utf-16")),
        HEADER[:-1] + ', "alg": "ES256"}',
        HEADER[:-1] + ', "x": {"a": 1, "a": 1}}',
        *(f'{HEADER[:-1]}, "x": {v}}}' for v in ("NaN", "-Infinity", "1e999", "01")),
        HEADER[:-1] + ', "x": "\\ud800"}',
        HEADER[:-1] + ', "\\udfff": 1}',
        HEADER[:-1] + f', "x": {"9" * 4400}}}',
        HEADER[:-1] + ', "x": ' + "[" * 2500,
        HEADER[:-1].encode() + b', "x": "\xff"}',
    ],
)
def test_strict_json(text):
    """What not every reader would read alike is refused, in both parts."""
    assert reason(sign(text, claims())) in ("malformed", "too_large")
    if text != HEADER:
        assert reason(sign(header(), text)) in ("malformed", "too_large")


def test_deep_json():
    """Levels without end are no way out of the parser."""
    deep = '{"a":' * 800 + "1" + "}" * 800
    assert reason(sign(deep, claims())) in ("malformed", "typ")


# --- the claims


@pytest.mark.parametrize(
    ("more", "why"),
    [
        *(({"jti": j}, "jti") for j in (None, "", 5, [], "x" * 257, "a b", "ü", "\0")),
        *(({"htm": m}, "htm") for m in (None, "POST", "get", "", 5, ["GET"])),
        *(
            ({"htu": u}, "htu")
            for u in (None, "", 5, [URL], "/things", "api.test/things")
        ),
        *(
            ({"iat": i}, "iat")
            for i in (None, True, str(NOW), [], {}, 10**400, -1, 1e300)
        ),
        *(({"ath": a}, "ath") for a in (None, "", 5, [], ath("x"), ath(TOKEN) + "=")),
    ],
)
def test_claims(more, why):
    """A claim that is missing, of the wrong type or of another request is told."""
    assert reason(proof(**more)) == why


def test_claims_that_do_not_count():
    """Claims that are none of the standard's are left alone, exp and nonce included."""
    more = {"exp": 1, "nbf": NOW + 999, "nonce": 5, "aud": "x", "x": {"a": [1]}}
    assert reason(proof(**more)) is None


def test_jti():
    """A name has 1 to 256 visible ASCII characters."""
    for name in ("x", "!~" * 128, "550e8400-e29b-41d4-a716-446655440000"):
        assert reason(proof(jti=name)) is None


@pytest.mark.parametrize("age", [-61, -60.5, -60, -1, 0, 0.25, 60, 60.5, 61])
def test_window(age):
    """A proof may be as old as the window, and its clock ahead by as much."""
    assert reason(proof(iat=NOW - age)) == (None if abs(age) <= 60 else "iat")
    on = verifier(window=5)
    assert reason(proof(iat=NOW - age), on=on) == (None if abs(age) <= 5 else "iat")
    assert reason(proof(iat=7), now=7 + age) == (None if abs(age) <= 60 else "iat")


EQUAL = [
    ("https://api.test/things", "https://api.test/things?id=7#top"),
    ("https://api.test/things?id=8", "https://api.test/things"),
    ("HTTPS://API.TEST:443/things", "https://api.test/things"),
    ("https://api.test:/things", "https://api.test:0443/things"),
    ("http://api.test:80", "http://api.test/"),
    ("https://api.test?x", "https://api.test"),
    ("https://api.test/%7Eann/%c3%bc", "https://api.test/~ann/%C3%BC"),
    ("https://api.test/a/./b/../c", "https://api.test/a/c"),
    ("https://api.test/a/b/..", "https://api.test/a/"),
    ("https://api.test/a/.", "https://api.test/a/"),
    ("https://api.test/../../a", "https://api.test/a"),
    ("https://api.test/a/%2E%2e/b", "https://api.test/b"),
    ("https://[2001:DB8::1]:8443/a", "https://[2001:db8::1]:8443/a"),
]
UNEQUAL = [
    ("https://api.test/things", "http://api.test/things"),
    ("https://api.test/things", "https://api.test:8443/things"),
    ("https://api.test/things", "https://api.test/Things"),
    ("https://api.test/things", "https://api.test/things/"),
    ("https://api.test/things", "https://api.test/"),
    ("https://api.test/a%2Fb", "https://api.test/a/b"),
    ("https://api.test/a%2f", "https://api.test/a%252f"),
    ("https://api.test//a", "https://api.test/a"),
    ("https://api.test", "https://api.test.evil.test"),
    ("https://ann@api.test/", "https://api.test/"),
    ("https://api.test\\@evil.test/", "https://api.test/"),
    ("https://api.test/\n", "https://api.test/"),
    (" https://api.test/", "https://api.test/"),
    ("https://api.test/a b", "https://api.test/a%20b"),
    ("https://ápi.test/", "https://api.test/"),
    ("https://[::1/", "https://api.test/"),
    ("https:/api.test/", "https://api.test/"),
    ("https:///", "https:///"),
    ("https://api.test:port/", "https://api.test/"),
    ("wss://api.test/", "wss://api.test/"),
]


@pytest.mark.parametrize(("htu", "url"), EQUAL)
def test_equal_urls(htu, url):
    """Spellings that RFC 3986 §6.2 makes the same are the same, either way round."""
    assert reason(proof(htu=htu), url=url) is None
    assert reason(proof(htu=url), url=htu) is None


@pytest.mark.parametrize(("htu", "url"), UNEQUAL)
def test_unequal_urls(htu, url):
    """Other URLs are others, and what is no URL equals none, itself included."""
    assert reason(proof(htu=htu), url=url) == "htu"
    assert reason(proof(htu=url), url=htu) == "htu"


def test_a_long_url():
    """Of a URL that is too long nothing is looked at, of a long query only the rest."""
    long = "a" * 8200
    assert reason(proof(), url=f"https://api.test/{long}") == "htu"
    assert reason(proof(), url=f"{URL}?{long}") is None


@given(st.text(st.characters(codec="ascii"), max_size=60) | st.text(max_size=30))
def test_any_url(text):
    """Normalising raises nothing and changes nothing the second time."""
    for url in (text, f"https://{text}", f"https://api.test/{text}"):
        once = dpop_verifier._normal(url)
        assert once is None or dpop_verifier._normal(once) == once


@pytest.mark.parametrize(
    "cnf",
    [
        *(None, 5, [], "x", {}, {"jkt": None}, {"jkt": [EC.thumbprint()]}),
        *({"jkt": ED.thumbprint()}, {"jkt": ""}, {"x5t#S256": EC.thumbprint()}),
    ],
)
def test_binding(cnf):
    """A token that is bound to another key, or to none, does not go with a proof."""
    caught = refusal(proof(), of={"cnf": cnf})
    assert (caught.reason, caught.error) == ("cnf", "invalid_token")
    assert reason(proof(), of={}) == "cnf"


def test_a_token_has_claims():
    """A token without its claims, or the reverse, is a fault of the caller."""
    for more in ({"access_token": TOKEN}, {"claims": bound()}):
        with pytest.raises(TypeError, match="give both"):
            verifier().check(proof(), "GET", URL, **more)


def test_without_a_token():
    """At a token endpoint no token is looked for, and the proof's key is told."""
    found = verifier().check(proof(ath=None, htm="POST"), "POST", URL)
    assert found.jkt == EC.thumbprint()


@pytest.mark.parametrize("token", ["ü", "\ud800", ""])
def test_odd_tokens(token):
    """A token that is no ASCII is another than the proof's, and no error."""
    assert reason(proof(), token=token) == "ath"


# --- replay


def test_a_proof_is_good_once():
    """A proof that was used is refused, for as long as it would be good."""
    on, made = verifier(), proof(iat=NOW + 60)
    assert reason(made, on=on) is None
    for later in (0, 60, 119, 120):
        assert reason(made, on=on, now=NOW + later) == "replay"
    assert reason(made, on=on, now=NOW + 121) == "iat"


def test_replay_is_by_key_and_name():
    """Another key may use the same name; the same key may not, in whatever proof."""
    on, other = verifier(), ECKey.generate_key("P-256")
    assert reason(proof(jti="same"), on=on) is None
    assert reason(proof(other, jti="same"), of=other, on=on) is None
    assert reason(proof(jti="same", iat=NOW + 1), on=on) == "replay"
    assert reason(proof(jti="same", x=1), on=on) == "replay"
    assert reason(sign(header(kid="x"), claims(jti="same")), on=on) == "replay"


def test_what_is_refused_is_not_remembered():
    """A proof that was refused for another reason is not used up."""
    on, made = verifier(), proof()
    assert reason(made, on=on, method="POST") == "htm"
    assert reason(made, on=on, token="other") == "ath"
    assert reason(made, on=on, of=ED) == "cnf"
    assert reason(made, on=on) is None


def test_a_store_of_ones_own():
    """A store is asked once for each good proof, also one that is empty and false."""
    asked = []

    class Store(list):
        def add(self, key, *, expires, now):
            asked.append((key, expires, now))
            return len(asked) == 1

    on = verifier(store=Store())
    found = on.check(proof(ath=None), "GET", URL, now=NOW + 1)
    assert asked == [(found.key, NOW + 60, NOW + 1)]
    assert reason(proof(), on=on) == "replay"


def test_memory_is_bounded():
    """A full store refuses what is new until something is over, and forgets nothing."""
    store = dpop_verifier.MemoryReplayStore(limit=3)
    ends = {"a": 30, "b": 10, "c": 20}
    assert [store.add(key, expires=at, now=0) for key, at in ends.items()] == [True] * 3
    assert not store.add("d", expires=30, now=10)
    assert store.add("d", expires=30, now=11)
    assert [store.add(key, expires=99, now=11) for key in "acd"] == [False] * 3
    assert len(store._keys) == len(store._ends) == 3
    on = verifier(store=dpop_verifier.MemoryReplayStore(limit=1))
    assert [reason(proof(), on=on) for _ in range(2)] == [None, "replay"]
    assert reason(proof(iat=NOW + 99), on=on, now=NOW + 99) is None


def test_a_clock_that_is_set_back():
    """A proof that was forgotten while the clock ran ahead does not pass again."""
    on, used = verifier(), proof()
    assert reason(used, on=on) is None
    assert reason(proof(iat=NOW + 500), on=on, now=NOW + 500) is None
    assert reason(used, on=on) == "replay"
    assert reason(proof(iat=NOW + 1), on=on, now=NOW + 1) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9), st.integers(0, 5)),
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_memory_against_a_model(steps, limit):
    """The store says of each key what a plain table of all of them says."""
    store, table, now = dpop_verifier.MemoryReplayStore(limit), {}, 0
    for key, ahead, wait in steps:
        now += wait
        table = {k: end for k, end in table.items() if end >= now}
        is_new = key not in table and len(table) < limit
        if is_new:
            table[key] = now + ahead
        assert store.add(key, expires=now + ahead, now=now) == is_new


def test_threads_and_one_proof():
    """Of many threads with one proof, one passes."""
    on, made = verifier(), proof()
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda _: reason(made, on=on), range(40)))
    assert reasons.count(None) == 1
    assert reasons.count("replay") == 39


# --- nonces

SECRET, OLD = b"0123456789abcdef0123456789abcdef", b"f" * 32


def test_a_nonce_is_asked_for():
    """Without a nonce a proof is refused with one to use, and good with that."""
    nonces = dpop_verifier.DpopNonces(SECRET)
    on = verifier(nonces=nonces)
    for wrong in (None, "", 5, [], "x", "A" * 30, nonces.issue(NOW)[:-1]):
        caught = refusal(proof(nonce=wrong), on=on)
        assert (caught.reason, caught.error) == ("nonce", "use_dpop_nonce")
        assert caught.nonce == nonces.issue(NOW)
    assert reason(proof(nonce=caught.nonce), on=on) is None
    other = refusal(proof(nonce=caught.nonce, ath=None), on=on)
    assert (other.nonce, other.error) == (None, "invalid_dpop_proof")


def test_nonces_age():
    """A nonce is good for its lifetime, by the clock of any server with the key."""
    nonces = dpop_verifier.DpopNonces(SECRET, lifetime=300)
    nonce = nonces.issue(NOW + 0.9)
    fresh = [nonces.accepts(nonce, NOW + age) for age in (-301, -300, 0, 300, 301)]
    assert fresh == [False, True, True, True, False]
    assert dpop_verifier.DpopNonces(SECRET).accepts(nonce, NOW)


def test_nonces_rotate():
    """The first key signs, each verifies, and a key that is gone does not."""
    before = dpop_verifier.DpopNonces(OLD).issue(NOW)
    both = dpop_verifier.DpopNonces(SECRET, OLD)
    assert both.accepts(before, NOW)
    assert both.issue(NOW) == dpop_verifier.DpopNonces(SECRET).issue(NOW) != before
    assert not dpop_verifier.DpopNonces(SECRET).accepts(before, NOW)


def test_nonces_fit_their_header():
    """A nonce has the characters of RFC 9449 §8.1, and nothing of the key."""
    nonce = dpop_verifier.DpopNonces(SECRET).issue(NOW)
    assert nonce.isascii()
    assert len(nonce) == 32
    assert not set(nonce) & set(' "\\')
    assert "0123" not in repr(dpop_verifier.DpopNonces(SECRET))


@pytest.mark.parametrize("keys", [(), (b"",), (b"k" * 31,), (SECRET, b"short")])
def test_weak_keys_of_nonces(keys):
    """Nonces need a key, and none that is short."""
    with pytest.raises(ValueError, match="keys of 32 bytes"):
        dpop_verifier.DpopNonces(*keys)
    for lifetime in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lifetime"):
            dpop_verifier.DpopNonces(SECRET, lifetime=lifetime)


@given(st.text() | st.binary() | st.integers() | st.none())
def test_any_nonce(nonce):
    """Whatever else comes as a nonce is not accepted."""
    assert not dpop_verifier.DpopNonces(SECRET).accepts(nonce, NOW)


@given(data=st.data())
def test_any_change_of_a_nonce(data):
    """A nonce with any character changed is not accepted."""
    nonce = dpop_verifier.DpopNonces(SECRET).issue(NOW)
    at = data.draw(st.integers(0, len(nonce) - 1))
    piece = data.draw(st.sampled_from("ABCDxyz_-="))
    changed = nonce[:at] + piece + nonce[at + 1 :]
    accepted = dpop_verifier.DpopNonces(SECRET).accepts(changed, NOW)
    assert accepted == (changed == nonce)


# --- ASGI


def scope(*headers, **more):
    """Return the scope of a request; a proof is given as text."""
    given = [(b"host", b"api.test"), *headers]
    given = [(b"DPoP", h.encode()) if isinstance(h, str) else h for h in given]
    base = {"type": "http", "method": "GET", "scheme": "https", "path": "/things"}
    return {**base, "raw_path": b"/things", "headers": given, **more}


def scope_reason(given, on=None, of=EC):
    """Return why the proof of a request is refused, or None if it is accepted."""
    try:
        assert (on or verifier()).check_scope(given, TOKEN, bound(of)) is None
    except dpop_verifier.InvalidProof as exc:
        return exc.reason
    return None


def test_a_request():
    """The proof of a request is judged by its method, URL, token and claims."""
    assert scope_reason(scope(proof())) is None
    assert scope_reason(scope(proof(), method="POST")) == "htm"
    assert scope_reason(scope(proof(), raw_path=b"/other")) == "htu"
    assert scope_reason(scope(proof(), scheme="http")) == "htu"
    assert scope_reason(scope(proof()), of=ED) == "cnf"
    assert scope_reason(scope()) == "missing"
    assert scope_reason(scope(proof(), proof())) == "multiple"
    assert scope_reason(scope((b"dpop", b"\xff"))) == "malformed"
    assert scope_reason(scope(proof(), raw_path=None, path="/\udcff")) == "htu"
    plain = scope(proof(htu="http://api.test/things"))
    del plain["scheme"], plain["raw_path"]  # ASGI lets a server leave both out
    assert scope_reason(plain) is None


def test_the_path_of_a_request():
    """The path is the one on the wire, or the decoded one, encoded again."""
    made = {"htu": "https://api.test/a%20b/%C3%BC;x=1"}
    wire = {"raw_path": b"/a%20b/%C3%BC;x=1", "path": "/a b/ü;x=1"}
    assert scope_reason(scope(proof(**made), **wire)) is None
    for raw in (None, b""):
        assert scope_reason(scope(proof(**made), **wire | {"raw_path": raw})) is None
    assert scope_reason(scope(proof(), raw_path=b"/things#/../x")) == "htu"
    assert scope_reason(scope(proof(), raw_path=b"/\xfc")) == "htu"
    assert scope_reason(scope(proof(), raw_path=b"*")) == "htu"


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"evil.test", b"api.test?", b"api.test#", b"api.test/", b"a@api.test"),
        *(b"api.test\\", b"api.test, x", b"\xff", b"api.test:444", b"api.test/things?"),
    ],
)
def test_hosts(host):
    """A host that is another, or none, makes no URL that a proof could be for."""
    given = scope(proof(htu="https://api.test/"))
    assert scope_reason(given | {"headers": [(b"host", host), *given["headers"][1:]]})
    made = (b"dpop", proof().encode())
    if host != b"api.test/":  # a path of its own is all that a slash adds
        assert scope_reason(scope() | {"headers": [(b"host", host), made]}) == "htu"


def test_one_host():
    """Without a host, or with two, there is no URL."""
    given = scope(proof())
    hosts = [(b"host", b"api.test")] * 2
    proofs = given["headers"][1:]
    assert scope_reason(given | {"headers": proofs}) == "htu"
    assert scope_reason(given | {"headers": hosts + proofs}) == "htu"


def test_behind_a_proxy():
    """With an origin given, neither scheme nor host of the request are believed."""
    for origin in ("https://api.test", "https://api.test/", "HTTPS://API.test:443"):
        on = verifier(origin=origin)
        given = scope(proof(), scheme="http")
        headers = [(b"host", b"10.0.0.7:8000"), *given["headers"][1:]]
        assert scope_reason(given | {"headers": headers}, on=on) is None
        evil = proof(htu="https://evil.test/things")
        spoofed = [(b"host", b"evil.test"), (b"dpop", evil.encode())]
        assert scope_reason(scope() | {"headers": spoofed}, on=on) == "htu"


@pytest.mark.parametrize("schemes", [("ws", "http"), ("wss", "https")])
def test_websockets(schemes):
    """The handshake of a WebSocket is a GET of http or https."""
    given = scope(proof(htu=f"{schemes[1]}://api.test/things"), scheme=schemes[0])
    del given["method"]
    assert scope_reason(given | {"type": "websocket"}) is None


# --- any input

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "d", "jkt"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=2) | st.text() | st.binary())
def test_any_header(proofs):
    """Whatever comes as a header, no other error than the documented one is raised."""
    assert reason(proofs) is not None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_member(data):
    """Whatever a signed proof says of whatever type, it is accepted or refused."""
    head, said = header(), claims()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([head, head["jwk"], said]))
        name = data.draw(st.sampled_from([*place, "crit", "alg", "use", "nonce"]))
        place[name] = data.draw(VALUES | st.sampled_from(ALL))
        if not isinstance(head["jwk"], dict):
            break
    assert reason(sign(head, said)) in REASONS | {None}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_bytes(data):
    """Whatever is signed in place of header and claims, nothing else is raised."""
    raw = st.binary(max_size=40) | VALUES.map(json.dumps) | st.text(max_size=20)
    raw = raw.filter(lambda v: isinstance(v, bytes) or v.isascii())
    assert reason(sign(data.draw(raw), data.draw(raw))) in REASONS


def test_errors_tell_nothing():
    """Nothing of a proof or a token is in an error, and it survives pickling."""
    made = proof(htu="https://api.test/secret?token=x", ath=None)
    caught = refusal(made)
    assert str(caught) == "DPoP proof refused: htu"
    again = pickle.loads(pickle.dumps(caught))
    assert (again.reason, again.nonce, str(again)) == ("htu", None, str(caught))
    assert TOKEN not in repr(caught)
    for proofs in (made, "x" * 9000, "a.b.c", sign("{", claims())):
        caught = refusal(proofs)
        assert caught.__cause__ is caught.__context__ is None
        assert len(repr(caught)) < 60
