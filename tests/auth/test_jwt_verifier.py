"""Tests of `patterns/auth/jwt_verifier.py`; they can be copied along with it."""

import asyncio
import base64
import hmac
import json
import logging
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from patterns.auth import jwt_verifier

NOW = 1_790_000_000
ISSUER, AUDIENCE = "https://issuer.test", "https://api.test"
URL = "https://issuer.test/jwks.json"
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 300, "sub": "ann"}
ALGORITHMS = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256"]
ALGORITHMS += ["PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]


def vectors(name):
    """Return the data in `vectors/` of this folder, or of one above."""
    folders = Path(__file__).resolve().parents
    path = next(p for folder in folders if (p := folder / "vectors" / name).exists())
    return json.loads(path.read_text("utf-8"))


@cache
def key(alg, kid="1"):
    """Return a key pair, or a secret, for an algorithm."""
    more = {"kid": kid}
    if alg.startswith("HS"):
        return OctKey.import_key({"kty": "oct", "k": b64(kid.encode() * 64), **more})
    if alg.startswith("ES"):
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[alg]
        return ECKey.generate_key(curve, more)
    if alg == "Ed25519":
        return OKPKey.generate_key("Ed25519", more)
    return rsa(kid)


@cache
def rsa(kid):
    """Return an RSA key, which takes a while to make."""
    return RSAKey.generate_key(2048, {"kid": kid})


def b64(raw):
    """Return base64url of bytes, or of the JSON of anything else."""
    raw = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sign(message, alg="Ed25519", by="1"):
    """Return a token: the message, and its signature."""
    model = JWSRegistry(algorithms=[alg]).get_alg(alg)
    return f"{message}.{b64(model.sign(message.encode(), key(alg, by)))}"


def token(claims=CLAIMS, alg="Ed25519", kid="1", *, by=None, **header):
    """Return a token that is genuine, unless it is signed by another key."""
    message = f"{b64({'alg': alg, 'kid': kid, **header})}.{b64(claims)}"
    return sign(message, alg, by or kid)


def public(alg="Ed25519", kid="1", /, **more):
    """Return the JWK that a token's verifier has."""
    return {**key(alg, kid).as_dict(private=False), **more}


def verifier(*keys, algorithms=("Ed25519",), **options):
    """Return a verifier of these keys, or of the one that `token` signs with."""
    jwks = options.pop("jwks", {"keys": list(keys or [public()])})
    options = {"clock": lambda: NOW, **options}
    return jwt_verifier.JwtVerifier(
        ISSUER, AUDIENCE, jwks, algorithms=algorithms, **options
    )


def refusal(call, *arguments, **options):
    """Return why a call refuses a token."""
    with pytest.raises(jwt_verifier.InvalidToken) as caught:
        call(*arguments, **options)
    error = caught.value
    assert error.__cause__ is None
    assert str(error)
    return error.reason


# --- the standards' own values


@pytest.mark.parametrize("name", ["rfc7515_a1", "rfc7515_a2", "rfc7515_a3"])
def test_rfc_7515(name):
    """The examples are genuine, and have no audience, which is refused afterwards."""
    vector = vectors("jose_rfc.json")[name]
    example = verifier(vector["jwk"], algorithms=[vector["alg"]])
    with pytest.raises(jwt_verifier.InvalidToken) as caught:
        example.verify(vector["jws"])
    assert (caught.value.reason, caught.value.claim) == ("missing_claim", "aud")
    message, _, signature = vector["jws"].rpartition(".")
    forged = "B" if signature[0] == "A" else "A"
    assert refusal(example.verify, f"{message}.{forged}{signature[1:]}") == "signature"


def test_rfc_7515_a4():
    """The example with ES512 is genuine, and its payload is no JSON."""
    vector = vectors("jose_rfc.json")["rfc7515_a4"]
    example = verifier(vector["jwk"], algorithms=["ES512"])
    assert refusal(example.verify, vector["jws"]) == "payload"


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_rfc_8037(name):
    """The example under Ed25519 is genuine, by the algorithm's old name and its new."""
    vector = vectors("jose_rfc.json")["rfc8037_a"]
    example = verifier(vector["jwk"], algorithms=[name])
    assert refusal(example.verify, vector["jws_a4"]) == "payload"


def test_rfc_7638():
    """The example's RSA key is one to verify with."""
    jwk = vectors("jose_rfc.json")["rfc7638_3_1"]["jwk"]
    example = verifier(jwk, algorithms=["RS256"])
    message = f"{b64({'alg': 'RS256', 'kid': jwk['kid']})}.{b64(CLAIMS)}"
    assert refusal(example.verify, f"{message}.{b64(b'0' * 256)}") == "signature"


# C2SP/wycheproof@dac1dd47. What it says of these contradicts it elsewhere.
CONTESTED = {
    346: "valid by PS384, under a key whose alg is PS256 (RFC 7517 §4.4)",
    350: "the same",
    347: "valid by ES512, under a key whose alg is ES521, which there is not",
    351: "the same",
    367: "invalid, and to the letter the token that 357 calls valid",
    370: "the same",
    372: "valid, with a ? in the base64url (RFC 7515 §2)",
    373: "the same",
}


def wycheproof(data):
    """Return of each vector its number, and whether it is right here and there."""
    outcomes = {}
    for group in data["testGroups"]:
        found = group.get("public") or group["private"]
        keys = found.get("keys", [found])
        for test in group["tests"]:
            if "jws" not in test:
                continue
            try:
                case = verifier(*keys, algorithms=[keys[0].get("alg", "RS256")])
                reason = refusal(case.verify, test["jws"])
            except ValueError:
                reason = "refused at construction"
            genuine = reason in ("payload", "missing_claim")
            outcomes[test["tcId"]] = genuine, test["result"] == "valid"
    return outcomes


def test_wycheproof_signatures():
    """Every vector that is not contested comes out as it should."""
    outcomes = wycheproof(vectors("wycheproof_signature.json"))
    wrong = {number for number, (ours, theirs) in outcomes.items() if ours != theirs}
    assert wrong == outcomes.keys() & CONTESTED.keys()
    assert len(outcomes) in (201, 401)  # the half that lies here, or all of them
    assert sum(valid for _, valid in outcomes.values()) > 20


def test_wycheproof_keys():
    """Every set with a weak, ambiguous or unfit key is refused."""
    outcomes = wycheproof(vectors("wycheproof_key.json"))
    assert all(ours == theirs for ours, theirs in outcomes.values())
    assert len(outcomes) in (13, 26)


def test_wycheproof_crypto():
    """Every vector that is a compact JWS comes out as it should, and so do others."""
    outcomes = wycheproof(vectors("wycheproof_crypto.json"))
    assert all(ours == theirs for ours, theirs in outcomes.values())
    assert len(outcomes) in (25, 49)


# --- tokens


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_good_tokens(alg):
    """A good token of each algorithm gives its claims."""
    case = verifier(public(alg), algorithms=[alg])
    for _ in range(2):  # the second time its header is known
        claims = case.verify(token(alg=alg))
        assert dict(claims) == CLAIMS
    assert asyncio.run(case.averify(token(alg=alg))) == claims
    forged = token({**CLAIMS, "sub": "eve"}, alg, by="2")
    assert refusal(case.verify, forged) == "signature"


@pytest.mark.parametrize("sent", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("pinned", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("alg", [{}, {"alg": "EdDSA"}, {"alg": "Ed25519"}])
def test_two_names_of_ed25519(sent, pinned, alg):
    """Both names are one algorithm, in the header, in the key and in the settings."""
    message = f"{b64({'alg': sent, 'kid': '1'})}.{b64(CLAIMS)}"
    case = verifier(public(**alg), algorithms=[pinned])
    assert case.verify(sign(message))["sub"] == "ann"


def test_eddsa_is_ed25519_alone():
    """A key of another curve is none for EdDSA."""
    other = OKPKey.generate_key("Ed448", {"kid": "1"}).as_dict(private=False)
    assert refusal(verifier(other).verify, token()) == "key"


def secret_token(secret, alg="HS256"):
    """Return a token made with a secret."""
    message = f"{b64({'alg': alg, 'kid': '1'})}.{b64(CLAIMS)}"
    mac = hmac.digest(secret, message.encode(), f"sha{alg[2:]}")
    return f"{message}.{b64(mac)}"


@pytest.mark.parametrize("alg", ["HS256", "HS384", "none", "NONE", "nOnE", "ES256"])
def test_algorithm_confusion(alg):
    """Neither a public key as secret nor no signature at all is believed."""
    case = verifier(public("RS256"), algorithms=["RS256"])
    pem = key("RS256").as_pem(private=False)
    forged = secret_token(pem, alg if alg.startswith("HS") else "HS256")
    message, _, _ = forged.rpartition(".")
    assert refusal(case.verify, forged) == "alg"
    header = b64({"alg": alg, "kid": "1"})
    assert refusal(case.verify, f"{header}.{message.split('.')[1]}.") == "alg"


def test_algorithms_of_one_key():
    """Of a key that fits several algorithms only the pinned ones are used."""
    case = verifier(public("RS256"), algorithms=["RS256", "PS256"])
    assert case.verify(token(alg="PS256")) == case.verify(token(alg="RS256"))
    assert refusal(case.verify, token(alg="RS384")) == "alg"
    case = verifier(public("RS256", alg="RS256"), algorithms=["RS256", "PS256"])
    assert refusal(case.verify, token(alg="PS256")) == "key"


HEADER, PAYLOAD = b64({"alg": "Ed25519", "kid": "1"}), b64(CLAIMS)


def raw(header=HEADER, payload=PAYLOAD):
    """Return a token of two parts as they are, with a genuine signature."""
    return sign(f"{header}.{payload}")


def headed(text):
    """Return a token whose header is this text."""
    return raw(b64(text if isinstance(text, bytes) else text.encode()))


DEEP = "[" * 3000 + "]" * 3000
MALFORMED = {
    "empty": "",
    "dots": "..",
    "one part": HEADER,
    "two parts": f"{HEADER}.{PAYLOAD}",
    "four parts": token() + ".",
    "five parts": f"{token()}.{PAYLOAD}.{PAYLOAD}",
    "JSON": json.dumps({"protected": HEADER, "payload": PAYLOAD, "signature": "AA"}),
    "space before": " " + token(),
    "space behind": token() + " ",
    "newline": token() + "\n",
    "nul": token() + "\0",
    "Bearer": "Bearer " + token(),
    "padded signature": token() + "==",
    "padded header": raw(HEADER + "=" * (-len(HEADER) % 4 or 4)),
    "space within": token().replace(".", ". ", 1),
    "standard alphabet": token()[:-4] + "+/==",
    "unused bits in the signature": token()[:-1] + chr(ord(token()[-1]) + 1),
    "unused bits in the header": raw(b64(b'{"alg":"Ed25519"  }')[:-1] + "R"),
    "a single character over": f"{HEADER}.{PAYLOAD}A.{'A' * 85}",
    "not ASCII": token()[:-1] + "é",
    "digits that are no ASCII": token()[:-1] + "٣",
    "surrogate": token() + "\ud800",
    "header of no JSON": headed("alg"),
    "header in single quotes": headed("{'alg': 'Ed25519'}"),
    "header of a list": headed('["Ed25519"]'),
    "header of text": headed('"Ed25519"'),
    "header of null": headed("null"),
    "header with BOM": headed(b"\xef\xbb\xbf" + b'{"alg": "Ed25519", "kid": "1"}'),
    "header in UTF-16": headed('{"alg": "Ed25519", "kid": "1"}'.encode("utf-16")),
    "header in Latin-1": headed('{"alg": "Ed25519", "kid": "é"}'.encode("latin-1")),
    "header with alg twice": headed('{"alg": "none", "alg": "Ed25519", "kid": "1"}'),
    "header with kid twice": headed('{"alg": "Ed25519", "kid": "2", "kid": "1"}'),
    "header with NaN": headed('{"alg": "Ed25519", "kid": "1", "x": NaN}'),
    "header with a large number": headed('{"alg": "Ed25519", "kid": "1", "x": 1e999}'),
    "header too deep": headed(f'{{"alg": "Ed25519", "kid": "1", "x": {DEEP}}}'),
    "header with half a pair": headed('{"alg": "Ed25519", "kid": "1", "x": "\\ud800"}'),
    "header with more behind": headed('{"alg": "Ed25519", "kid": "1"} {}'),
    "kid of null": token(kid=None, by="1"),
    "kid of a number": token(kid=1, by="1"),
    "kid of a list": token(kid=["1"], by="1"),
    "kid of an object": token(kid={}, by="1"),
    "typ of a number": token(typ=5),
    "typ of null": token(typ=None),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tokens(case):
    """What is no JWS in the one canonical spelling is refused, genuine or not."""
    assert refusal(verifier().verify, MALFORMED[case]) == "malformed"


@pytest.mark.parametrize("value", [None, 5, True, [], ["Ed25519"], {}, "", "Ed25519 "])
def test_odd_algorithms(value):
    """An algorithm that is no text, or another text, is not accepted."""
    assert refusal(verifier().verify, raw(b64({"alg": value, "kid": "1"}))) == "alg"
    assert refusal(verifier().verify, raw(b64({"kid": "1"}))) == "alg"


EXTENSIONS = [{"crit": value} for value in ([], ["b64"], ["exp"], 5, None, "exp", [5])]
EXTENSIONS += [{"b64": False}, {"b64": True}, {"b64": False, "crit": ["b64"]}]


@pytest.mark.parametrize("header", EXTENSIONS, ids=str)
def test_extensions(header):
    """A token that asks for an extension is refused: there are none here."""
    assert refusal(verifier().verify, token(**header)) == "crit"


def test_keys_in_the_header():
    """Keys and addresses in a header are not looked at, whatever they are."""
    foreign = {
        "jwk": public("Ed25519", "2"),
        "jku": "http://evil.test/",
        "x5u": "file:///",
    }
    for more in (foreign, {"jwk": 5, "x5c": "no list", "x5t": {}, "jku": None}):
        assert verifier().verify(token(**more, nonce="Entra", cat="Clerk"))
        stranger = token(kid="2", **more)
        assert refusal(verifier().verify, stranger) == "key"


def test_payloads():
    """A genuine token whose claims two readers could read differently is refused."""
    text = json.dumps(CLAIMS)
    odd = {
        "not JSON": b"exp",
        "empty": b"",
        "list": b"[]",
        "text": b'"exp"',
        "BOM": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without BOM": text.encode("utf-16-le"),
        "UTF-32": text.encode("utf-32"),
        "Latin-1": text.replace("ann", "é").encode("latin-1"),
        "claim twice": text.replace("{", '{"exp": 9999999999, ').encode(),
        "twice within": text.replace('"ann"', '{"a": 1, "a": 2}').encode(),
        "NaN": text.replace(str(NOW + 300), "NaN").encode(),
        "Infinity": text.replace(str(NOW + 300), "Infinity").encode(),
        "negative": text.replace(str(NOW + 300), "-Infinity").encode(),
        "1e999": text.replace(str(NOW + 300), "1e999").encode(),
        "5000 digits": text.replace(str(NOW + 300), "9" * 5000).encode(),
        "deep list": text.replace('"ann"', DEEP).encode(),
        "a bit deep": text.replace('"ann"', "[" * 40 + "]" * 40).encode(),
        "deep object": text.replace('"ann"', '{"a":' * 900 + "1" + "}" * 900).encode(),
        "half a pair": text.replace("ann", "\\ud800").encode(),
        "half a name": text.replace("sub", "\\uDFFF").encode(),
        "two values": text.encode() * 2,
        "control character": text.replace("ann", "a\nb").encode(),
        "comment": text.encode() + b"//",
    }
    for name, payload in odd.items():
        assert refusal(verifier().verify, raw(payload=b64(payload))) == "payload", name


def test_payloads_that_are_fine():
    """Spaces, escapes, whole pairs, depth within bounds and many members are."""
    text = json.dumps({**CLAIMS, "sub": "\U0001f511é"})
    wide = json.dumps({**CLAIMS, "roles": [{"name": "[["}] * 40, "deep": [[[{}]]]})
    for payload in (text.encode(), f" {text}\r\n".encode(), wide.encode()):
        assert verifier().verify(raw(payload=b64(payload)))["iss"] == ISSUER


def test_nothing_is_read_before_the_signature():
    """The claims of a forged token say nothing, be they expired or no JSON."""
    for payload in (b64({**CLAIMS, "exp": 1}), b64(b"{"), b64(b"")):
        forged = sign(f"{HEADER}.{payload}", by="2")
        assert refusal(verifier().verify, forged) == "signature"


@pytest.mark.parametrize("size", [0, 1, 63, 65, 200])
@pytest.mark.parametrize("alg", ["Ed25519", "ES256", "RS256", "HS256"])
def test_signatures_of_odd_size(alg, size):
    """A signature of another length is just a wrong one."""
    message = token(alg=alg).rpartition(".")[0]
    case = verifier(public(alg), algorithms=[alg])
    assert refusal(case.verify, f"{message}.{b64(bytes(size))}") == "signature"


def test_size_comes_first():
    """A token that is too large is refused by its length alone."""
    case = verifier(max_size=len(token()))
    assert case.verify(token())
    for large in (token() + "A", "." * 10**6, "\ud800" * 10**6):
        assert refusal(case.verify, large) == "too_large"
    assert refusal(verifier().verify, "A" * 16385) == "too_large"


@pytest.mark.parametrize("sent", [None, b"", token().encode(), 5, [], {}, object()])
def test_no_text(sent):
    """What is no text is no token."""
    assert refusal(verifier().verify, sent) == "malformed"


# --- claims

BAD_CLAIMS = [
    *[({"exp": value}, "bad_claim") for value in ("1790000300", None, True, [], {})],
    *[({"exp": value}, "bad_claim") for value in (10**12, 1e300, 10**400, -(10**400))],
    *[({"nbf": value}, "bad_claim") for value in ("1", None, True, False, 10**400)],
    *[({"iat": value}, "bad_claim") for value in ("1", None, True, False, {}, 1e300)],
    *[({"sub": value}, "bad_claim") for value in (5, None, ["ann"], {}, True)],
    *[({"iss": value}, "bad_claim") for value in (5, None, [ISSUER], {"a": ISSUER})],
    *[({"aud": value}, "bad_claim") for value in (5, None, {AUDIENCE: 1}, True)],
    *[({"aud": value}, "bad_claim") for value in ([AUDIENCE, 5], [[AUDIENCE]], [None])],
    ({"iss": ISSUER + "/"}, "iss"),
    ({"iss": ISSUER.upper()}, "iss"),
    ({"iss": ""}, "iss"),
    ({"aud": AUDIENCE + "/"}, "aud"),
    ({"aud": []}, "aud"),
    ({"aud": ""}, "aud"),
    ({"aud": ["x", AUDIENCE[:-1]]}, "aud"),
    ({"exp": NOW - 10}, "expired"),
    ({"exp": NOW - 10.5}, "expired"),
    ({"exp": 0}, "expired"),
    ({"exp": -5}, "expired"),
    ({"nbf": NOW + 11}, "not_yet_valid"),
    ({"iat": NOW + 10.5}, "not_yet_valid"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_CLAIMS, ids=str)
def test_claims_refused(change, reason):
    """Each claim is of its type and says what it must, and the error names it."""
    with pytest.raises(jwt_verifier.InvalidToken) as caught:
        verifier().verify(token({**CLAIMS, **change}))
    assert (caught.value.reason, [caught.value.claim]) == (reason, [*change])


@pytest.mark.parametrize(
    "change",
    [
        {"aud": [AUDIENCE]},
        {"aud": ["other", AUDIENCE, AUDIENCE]},
        {"exp": NOW - 9},
        {"exp": NOW - 9.5},
        {"exp": 253402300799},
        {"exp": 1.79e9 + 300},
        {"nbf": NOW + 10, "iat": NOW + 10},
        {"nbf": -1, "iat": 0},
        {"sub": ""},
        {"jti": 10**300, "scope": None},
    ],
    ids=str,
)
def test_claims_accepted(change):
    """Within the leeway, and in any form that RFC 7519 has, a claim is fine."""
    assert verifier().verify(token({**CLAIMS, **change})) == {**CLAIMS, **change}


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "client_id"])
def test_claims_that_are_required(name):
    """Issuer, audience and expiry must be there, and what the caller asks for."""
    case = verifier(required=("sub", "client_id"))
    claims = {**CLAIMS, "client_id": "app"}
    assert case.verify(token(claims))
    del claims[name]
    assert refusal(case.verify, token(claims)) == "missing_claim"


def test_several_audiences():
    """One of the audiences is enough, and there may be none in common."""
    jwks = {"keys": [public()]}
    for audience in (["a", AUDIENCE], {AUDIENCE}, frozenset({"b", AUDIENCE})):
        case = jwt_verifier.JwtVerifier(ISSUER, audience, jwks, algorithms=["EdDSA"])
        assert case.verify(token(), now=NOW)
        assert refusal(case.verify, token({**CLAIMS, "aud": "c"}), now=NOW) == "aud"


def test_now():
    """The time is the clock's, seconds or an aware datetime, and nothing else."""
    case = verifier(clock=lambda: NOW + 1000)
    assert refusal(case.verify, token()) == "expired"
    for now in (NOW, float(NOW), datetime.fromtimestamp(NOW, UTC)):
        assert case.verify(token(), now=now)
        assert asyncio.run(case.averify(token(), now=now))
    for now in (float("nan"), float("inf"), datetime(2026, 1, 1)):
        with pytest.raises(ValueError, match="now is"):
            case.verify("x", now=now)
    for now in ("2026", True, b"1"):
        with pytest.raises(TypeError, match="now is"):
            case.verify("x", now=now)


def test_leeway():
    """The leeway is the caller's, for every date alike; none at all is fine."""
    exact, broad = verifier(leeway=0), verifier(leeway=300)
    for change, reason in (
        ({"exp": NOW}, "expired"),
        ({"nbf": NOW + 1}, "not_yet_valid"),
        ({"iat": NOW + 1}, "not_yet_valid"),
    ):
        assert refusal(exact.verify, token({**CLAIMS, **change})) == reason
        assert broad.verify(token({**CLAIMS, **change}))
    assert exact.verify(token({**CLAIMS, "exp": NOW + 1, "nbf": NOW, "iat": NOW}))


@pytest.mark.parametrize("pinned", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_type(pinned):
    """A type that is asked for must be there, in any case and in either spelling."""
    case = verifier(typ=pinned)
    for sent in ("at+jwt", "application/at+jwt", "At+Jwt", "APPLICATION/AT+JWT"):
        assert case.verify(token(typ=sent))
    for sent in ("JWT", "", "at+jwt ", "text/at+jwt", "application/application/at+jwt"):
        assert refusal(case.verify, token(typ=sent)) == "typ"
    assert refusal(case.verify, token()) == "typ"
    assert verifier().verify(token(typ="anything"))


def test_claims_are_read_only():
    """Claims are a mapping that nobody changes and that shows only names."""
    claims = verifier().verify(token({**CLAIMS, "odd name": "secret"}))
    assert repr(claims) == "Claims(iss, aud, exp, sub, 'odd name')"
    with pytest.raises(TypeError):
        claims["sub"] = "eve"
    with pytest.raises(AttributeError):
        claims._claims = {}
    assert pickle.loads(pickle.dumps(claims)) == claims
    assert len(claims) == 5


# --- errors


@pytest.mark.parametrize("reason", sorted(jwt_verifier._REASONS))
def test_errors(reason):
    """Each reason has a text for people, and a challenge in RFC 6750's characters."""
    error = jwt_verifier.InvalidToken(reason)
    assert reason in jwt_verifier.InvalidToken.__doc__
    description = jwt_verifier._REASONS[reason]
    assert str(error) == description
    assert error.challenge() == (
        f'Bearer error="invalid_token", error_description="{description}"'
    )
    assert not set(description) & set('"\\')
    assert pickle.loads(pickle.dumps(error)).reason == reason


def test_challenge():
    """Parameters are quoted, and one that could not be sent is refused."""
    error = jwt_verifier.InvalidToken("expired", "exp")
    assert str(error) == "the token has expired: exp"
    told = error.challenge(
        realm='a "b" \\', scope="read write", resource_metadata="https://api.test/.w"
    )
    assert told == (
        'Bearer realm="a \\"b\\" \\\\", error="invalid_token", '
        'error_description="the token has expired", scope="read write", '
        'resource_metadata="https://api.test/.w"'
    )
    for value in ("a\r\nSet-Cookie: x", "é", "\0"):
        with pytest.raises(ValueError, match="printable"):
            error.challenge(realm=value)


def test_nothing_of_the_token_is_told():
    """No error, log line or repr has a part of the token in it."""
    claims = {**CLAIMS, "iss": "sesame"}
    for sent in (token(claims), token(kid="sesame"), "sesame." * 2 + "sesame"):
        with pytest.raises(jwt_verifier.InvalidToken) as caught:
            verifier().verify(sent)
        error = caught.value
        while error is not None:
            assert "sesame" not in repr(error) + str(error) + str(vars(error))
            assert not hasattr(error, "doc")  # a parser's error has the document
            error = error.__context__


# --- keys


def test_use_and_operations():
    """A key for something else verifies nothing."""
    for more in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": ["sign"]}):
        assert refusal(verifier(public(**more)).verify, token()) == "key"
    for more in ({"key_ops": "verify"}, {"key_ops": None}, {"use": 5}, {"alg": "x"}):
        assert refusal(verifier(public(**more)).verify, token()) == "key"
    for operations in (["verify"], ["sign", "verify"]):
        assert verifier(public(use="sig", key_ops=operations)).verify(token())


def test_weak_rsa_keys():
    """An RSA key of fewer than 2048 bits, or with an odd exponent, is left out."""
    jwk = public("RS256")
    weak = [{**jwk, "n": b64(b"\x8f" * 255)}] + [
        {**jwk, "e": b64(e)} for e in (b"\1", b"\3", b"\1\0\0", b"\0")
    ]
    weak += [{**jwk, "e": b64(b"\1" * 40)}, {**jwk, "n": b64(b"\xff" * 4096)}]
    weak += [{**jwk, "n": b64(b"\xfe" * 256)}, {**jwk, "e": b64(b"\1\0\2")}]
    for bad in weak:
        case = verifier(bad, algorithms=["RS256"])
        assert refusal(case.verify, token(alg="RS256")) == "key"


def test_coordinates_of_odd_spelling():
    """A coordinate has its full length and no more, in canonical base64url."""
    for alg, size in (("ES256", 32), ("ES512", 66), ("Ed25519", 32)):
        jwk = public(alg)
        good = base64.urlsafe_b64decode(jwk["x"] + "==")
        assert len(good) == size
        other = jwk["x"][:-1] + chr(ord(jwk["x"][-1]) + 1)
        for bad in (b64(b"\0" + good), b64(good[1:]), jwk["x"] + "=", other):
            case = verifier({**jwk, "x": bad}, algorithms=[alg])
            assert refusal(case.verify, token(alg=alg)) == "key"


@pytest.mark.parametrize(("alg", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_short_secrets(alg, size):
    """A secret has as many bytes as the hash, or more."""
    for length in (0, 1, size - 1, size, size + 1):
        secret = b"s" * length
        jwk = {"kty": "oct", "kid": "1", "k": b64(secret)}
        case = verifier(jwk, algorithms=[alg])
        sent = secret_token(secret, alg)
        if length < size:
            assert refusal(case.verify, sent) == "key"
        else:
            assert case.verify(sent)


def test_without_joserfc(monkeypatch):
    """Secrets need no other package; key pairs do, which is told at construction."""
    for name in ("joserfc", "joserfc.jws", "joserfc.jwk"):
        monkeypatch.setitem(sys.modules, name, None)
    jwk = {"kty": "oct", "kid": "1", "k": b64(b"s" * 32)}
    assert verifier(jwk, algorithms=["HS256"]).verify(secret_token(b"s" * 32))
    with pytest.raises(ImportError, match="joserfc"):
        verifier(jwk)


def test_a_public_key_as_secret():
    """A PEM that somebody put into a set of secrets is none."""
    pem = key("RS256").as_pem(private=False)
    case = verifier({"kty": "oct", "kid": "1", "k": b64(pem)}, algorithms=["HS256"])
    assert refusal(case.verify, secret_token(pem)) == "key"


BROKEN = [
    5,
    "key",
    None,
    [],
    {},
    {"kty": "oct2"},
    {"kty": 5, "kid": "x"},
    {"kty": ["EC"]},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "b1"},
    {"kty": "EC", "crv": "P-256", "kid": "b2"},
    {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
    {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
    {"kty": "OKP", "crv": "Ed25519", "x": 5},
    {"kty": "OKP", "crv": ["Ed25519"], "x": "AA"},
    {"kty": "OKP", "crv": "X25519", "x": "AA"},
    {"kty": "RSA", "n": "", "e": ""},
    {"kty": "RSA", "n": None, "e": "AQAB"},
    {"kty": "RSA", "n": "A A", "e": "AQAB"},
    {"kty": "RSA", "n": "A" * 10**5, "e": "AQAB"},
]


def test_broken_keys_are_left_out(caplog):
    """Keys that cannot be used do not keep others from it, and the log tells which."""
    caplog.set_level(logging.INFO)
    odd = [
        {**public("Ed25519", "2"), "kid": 5},
        {**public("ES256", "3"), "alg": ["ES256"]},
    ]
    case = verifier(*BROKEN, public(), *odd)
    assert case.verify(token())
    assert "key 0 of the set is left out" in caplog.text
    assert refusal(case.verify, token(kid="2")) == "key"


@pytest.mark.parametrize("jwk", BROKEN, ids=lambda jwk: str(jwk)[:40])
def test_sets_of_a_broken_key(jwk):
    """A set in which nothing is usable makes a verifier that knows no key."""
    assert refusal(verifier(jwk).verify, token()) == "key"


def test_two_keys_of_one_kid():
    """Which of two keys a kid means is not guessed: the set is refused."""
    for other in (public(), public("ES256", use="enc"), {"kid": "1"}):
        with pytest.raises(ValueError, match="same kid"):
            verifier(public(), other)


def test_sets_of_both_kinds():
    """A set that mixes secrets and public keys is refused."""
    for alg in ("Ed25519", "HS256"):
        with pytest.raises(ValueError, match="secrets"):
            verifier(public(), public("HS256", "2"), algorithms=[alg])


@pytest.mark.parametrize(
    "jwks", [{}, {"keys": None}, {"keys": {}}, {"keys": "x"}, [], None, 5, "{}"]
)
def test_no_set(jwks):
    """What is no key set is refused at once."""
    with pytest.raises(ValueError, match="list"):
        verifier(jwks=jwks)


def test_too_many_keys():
    """A set has at most a hundred keys."""
    with pytest.raises(ValueError, match="100"):
        verifier(*[{}] * 101)
    assert verifier(*[{}] * 99, public()).verify(token())


def test_kids():
    """A kid chooses; without one exactly one key must fit."""
    two = verifier(public(), public("Ed25519", "2"), public("ES256", "3"))
    remote = verifier(jwks=Issuer("1").keys())
    assert remote.verify(sign(f"{b64({'alg': 'Ed25519'})}.{PAYLOAD}"))
    assert two.verify(token(kid="2"))
    assert refusal(two.verify, token(kid="3")) == "key"
    assert refusal(two.verify, token(kid="")) == "key"
    bare = sign(f"{b64({'alg': 'Ed25519'})}.{PAYLOAD}")
    assert refusal(two.verify, bare) == "key"
    assert verifier(public(), public("ES256", "3")).verify(bare)
    nameless = {name: v for name, v in public().items() if name != "kid"}
    assert verifier(nameless).verify(bare)
    assert refusal(verifier(nameless).verify, token()) == "key"
    assert refusal(verifier(public("ES256", "3")).verify, bare) == "key"


# --- settings


@pytest.mark.parametrize(
    "algorithms",
    [
        [],
        ["none"],
        ["RS256", "none"],
        ["RS256", "HS256"],
        ["HS512", "EdDSA"],
        ["RS1"],
        ["rs256"],
        "RS256",
        [""],
    ],
    ids=str,
)
def test_algorithms_refused(algorithms):
    """No algorithm, an unknown one, or secrets beside key pairs: refused at once."""
    with pytest.raises(ValueError, match="algorithm"):
        verifier(algorithms=algorithms)


@pytest.mark.parametrize(
    "options",
    [
        {"leeway": -1},
        {"leeway": float("inf")},
        {"leeway": float("nan")},
        {"typ": ""},
        {"typ": 5},
        {"required": "sub"},
        {"required": [""]},
        {"required": [5]},
    ],
    ids=str,
)
def test_settings_refused(options):
    """A setting that cannot be right is refused at once."""
    with pytest.raises(ValueError, match=r"leeway|text|collection"):
        verifier(**options)


def test_issuer_and_audience_are_given():
    """There is no verifier without an issuer or an audience."""
    jwks = {"keys": [public()]}
    for issuer, audience in (
        ("", "a"),
        ("a", ""),
        ("a", []),
        (None, "a"),
        ("a", None),
        ("a", [5]),
    ):
        with pytest.raises(ValueError, match="text"):
            jwt_verifier.JwtVerifier(issuer, audience, jwks)


def test_default_clock(monkeypatch):
    """Without a clock the time is the system's, looked up when it is made."""
    monkeypatch.setattr("time.time", lambda: NOW)
    assert verifier(clock=None).verify(token())


# --- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.text() | st.binary() | st.none() | st.integers() | JSON)
def test_any_object(sent):
    """Whatever comes as a token is refused with a reason, and only so."""
    assert refusal(verifier().verify, sent) in ("malformed", "alg", "crit")


@given(data=st.data())
def test_any_change(data):
    """A good token with any character changed, added or taken is refused."""
    good = token()
    at = data.draw(st.integers(0, len(good)))
    letters = st.sampled_from("AQgw_-.+=") | st.characters()
    piece = data.draw(st.text(letters, max_size=2))
    changed = good[:at] + piece + good[at + data.draw(st.integers(0, 2)) :]
    if changed != good:
        reasons = {"malformed", "alg", "key", "signature", "crit"}
        assert refusal(verifier().verify, changed) in reasons


def judged(case, sent):
    """Return the claims of a token, or None, and the error that it was refused by."""
    try:
        return dict(case.verify(sent)), None
    except jwt_verifier.InvalidToken as error:
        return None, error


@given(JSON, st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "x"]))
def test_any_header(value, name):
    """A genuine token with anything in its header is refused or rightly accepted."""
    sent = raw(b64({"alg": "Ed25519", "kid": "1", name: value}))
    claims, error = judged(verifier(), sent)
    assert claims == CLAIMS or error.reason in ("malformed", "alg", "crit", "key")


@given(JSON, st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "x"]))
def test_any_claim(value, name):
    """A genuine token with anything as a claim is refused or rightly accepted."""
    claims, error = judged(verifier(), token({**CLAIMS, name: value}))
    if claims is None:
        assert error.claim == name or error.reason == "payload"
    else:
        assert claims[name] == value


MEMBERS = ("n", "e", "crv", "x", "y", "kid", "use", "key_ops", "alg")
KINDS = {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct"])}
JWK = st.fixed_dictionaries(KINDS, optional=dict.fromkeys(MEMBERS, JSON))


@given(st.lists(JSON | JWK, max_size=3))
def test_any_key_set(keys):
    """Any set of keys is refused as a set, or makes a verifier that stays closed."""
    try:
        case = verifier(*keys, {})
    except ValueError:
        return
    assert refusal(case.verify, token()) == "key"


# --- the keys of an issuer


class Issuer:
    """An issuer's key set over a mock transport, and how often it was asked for."""

    def __init__(self, *kids):
        self.now, self.fetches, self.headers, self.requests = 1000.0, 0, {}, []
        self.publish(*kids)
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def publish(self, *kids):
        self.answer = {"json": {"keys": [public("Ed25519", kid) for kid in kids]}}

    def handle(self, request):
        self.fetches += 1
        self.requests.append(request)
        answer = self.answer  # as it was when the fetch began
        self.started.set()
        assert self.go_on.wait(10)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(**{"status_code": 200, "headers": self.headers, **answer})

    async def ahandle(self, request):
        self.fetches += 1
        self.requests.append(request)
        answer = self.answer
        self.started.set()
        while not self.go_on.is_set():  # noqa: ASYNC110, since threads set it too
            await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(**{"status_code": 200, "headers": self.headers, **answer})

    def client(self):
        return httpx.Client(transport=httpx.MockTransport(self.handle))

    def aclient(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self.ahandle))

    def keys(self, client=None, **options):
        options = {"clock": lambda: self.now, **options}
        return jwt_verifier.JwksCache(URL, client or self.client(), **options)


async def begun(issuer):
    """Wait until a fetch has begun."""
    while not issuer.started.is_set():  # noqa: ASYNC110, since threads set it too
        await asyncio.sleep(0)


def good(case, kid="1"):
    """Tell that a token by this key is accepted."""
    return dict(case.verify(token(kid=kid))) == CLAIMS


def test_keys_are_fetched_once():
    """One fetch serves until the keys are no longer fresh."""
    issuer = Issuer("1", "2")
    case = verifier(jwks=issuer.keys())
    assert issuer.fetches == 0
    for _ in range(5):
        assert good(case, "1")
        assert good(case, "2")
    issuer.now += 599
    assert good(case)
    assert issuer.fetches == 1
    issuer.now += 2
    assert good(case)
    assert good(case)
    assert issuer.fetches == 2
    assert str(issuer.requests[0].url) == URL
    assert issuer.requests[0].headers["accept-encoding"] == "identity"


def test_credentials_stay_home():
    """What the client authenticates with elsewhere is not sent to the issuer."""
    issuer = Issuer("1")
    client = issuer.client()
    client.auth, client.params = ("ann", "sesame"), {"key": "sesame"}
    client.headers = {"authorization": "Bearer sesame", "x-key": "sesame"}
    client.headers["user-agent"] = "api/1"
    client.cookies.set("sid", "sesame")
    assert good(verifier(jwks=issuer.keys(client, timeout=3)))
    (sent,) = issuer.requests
    assert "sesame" not in f"{sent.url} {sent.headers.raw}"
    assert sent.url == URL
    assert sent.headers["user-agent"] == "api/1"
    assert set(sent.extensions["timeout"].values()) == {3}


def test_200_threads_make_one_fetch():
    """Who comes while keys are fetched waits for that fetch."""
    issuer = Issuer("1")
    issuer.go_on.clear()
    case = verifier(jwks=issuer.keys())
    with ThreadPoolExecutor(200) as pool:
        calls = [pool.submit(good, case) for _ in range(200)]
        assert issuer.started.wait(10)
        issuer.go_on.set()
        assert all(call.result(10) for call in calls)
    assert issuer.fetches == 1


def test_200_tasks_make_one_fetch():
    """So do tasks."""
    issuer = Issuer("1")

    async def main():
        async with issuer.aclient() as client:
            case = verifier(jwks=issuer.keys(client))
            await asyncio.gather(*(case.averify(token()) for _ in range(200)))

    asyncio.run(main())
    assert issuer.fetches == 1


def over(handle):
    """Return a constructor of clients whose requests are handled so."""

    def init(self):
        super(type(self), self).__init__(transport=httpx.MockTransport(handle))

    return init


def test_threads_and_loops_share_a_fetch(monkeypatch):
    """A cache with clients of its own serves threads and event loops at once."""
    issuer = Issuer("1")
    issuer.go_on.clear()
    for kind, handle in (("Client", issuer.handle), ("AsyncClient", issuer.ahandle)):
        made = type(kind, (getattr(httpx, kind),), {"__init__": over(handle)})
        monkeypatch.setattr(httpx, kind, made)
    case = verifier(jwks=jwt_verifier.JwksCache(URL, clock=lambda: issuer.now))

    async def tasks():
        await asyncio.gather(*(case.averify(token()) for _ in range(20)))

    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(asyncio.run, tasks()) for _ in range(5)]
        calls += [pool.submit(good, case) for _ in range(15)]
        assert issuer.started.wait(10)
        issuer.go_on.set()
        for call in calls:
            call.result(10)
    assert issuer.fetches == 1


def test_rotation():
    """A key that is new is fetched when the first token comes, and none is refused."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    assert good(case)
    for old, new in (("1", "2"), ("2", "3"), ("3", "4")):
        issuer.publish(old, new)
        assert good(case, new)
        assert good(case, old)
    assert issuer.fetches == 4


def test_unknown_kids_make_no_storm():
    """Made-up kids are asked for once, and then not before the cooldown is over."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    assert good(case)
    for number in range(200):
        assert refusal(case.verify, token(kid=f"x{number}", by="2")) == "key"
    assert issuer.fetches == 2
    issuer.now += 29
    issuer.publish("1", "2")
    assert refusal(case.verify, token(kid="2")) == "key"
    issuer.now += 2
    assert good(case, "2")
    assert issuer.fetches == 3


def test_unknown_kids_from_the_start():
    """The first fetch counts as well, if it did not bring what it was made for."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    for number in range(50):
        assert refusal(case.verify, token(kid=f"x{number}", by="2")) == "key"
    assert good(case)
    assert issuer.fetches == 1


def test_failures_count_as_attempts():
    """While the issuer is away, unknown kids and no keys at all cost one fetch each."""
    issuer = Issuer("1")
    issuer.answer = httpx.ConnectError("down")
    case = verifier(jwks=issuer.keys())
    for _ in range(50):
        assert refusal(case.verify, token()) == "keys_unavailable"
    assert issuer.fetches == 1
    issuer.now += 31
    issuer.publish("1")
    assert good(case)
    issuer.answer = httpx.ConnectError("down")
    for _ in range(50):
        assert refusal(case.verify, token(kid="2")) == "key"
        assert good(case)
    assert issuer.fetches == 3


def test_outage():
    """Stale keys serve through an outage, for a while, with few fetches."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    assert good(case)
    issuer.answer = {"status_code": 503}
    issuer.now += 601
    for _ in range(100):
        assert good(case)
    assert issuer.fetches == 2
    issuer.now += 31
    assert good(case)
    assert issuer.fetches == 3
    issuer.now += 86399 - 32
    assert good(case)
    issuer.now += 1
    assert refusal(case.verify, token()) == "keys_unavailable"
    issuer.now += 31
    issuer.publish("1")
    assert good(case)


def test_a_key_that_is_withdrawn():
    """A key that is no longer published is refused after the next refresh."""
    issuer = Issuer("1", "2")
    case = verifier(jwks=issuer.keys())
    assert good(case, "2")
    issuer.publish("1")
    assert good(case, "2")
    issuer.now += 601
    assert good(case, "1")
    assert refusal(case.verify, token(kid="2")) == "key"


BAD_ANSWERS = {
    "404": {"status_code": 404, "json": {"keys": []}},
    "500 with keys": {"status_code": 500, "json": {"keys": [public("Ed25519", "2")]}},
    "201 with keys": {"status_code": 201, "json": {"keys": [public("Ed25519", "2")]}},
    "redirect": {"status_code": 302, "headers": {"location": "https://evil.test/"}},
    "HTML": {"html": "<html>Sorry</html>"},
    "empty": {"content": b""},
    "list": {"json": [public("Ed25519", "2")]},
    "no keys": {"json": {"keys": []}},
    "keys of null": {"json": {"keys": None}},
    "nothing usable": {"json": {"keys": [{"kty": "RSA"}, 5]}},
    "secret": {"json": {"keys": [public("HS256", "2")]}},
    "mixed": {"json": {"keys": [public("HS256", "3"), public("Ed25519", "2")]}},
    "one kid": {"json": {"keys": [public("Ed25519", "2"), {"kid": "2"}]}},
    "keys twice": {
        "text": json.dumps({"keys": [public("Ed25519", "2")]})[:-1] + ', "keys": []}'
    },
    "BOM": {"content": b"\xef\xbb\xbf" + json.dumps({"keys": [public()]}).encode()},
    "large": {"content": b" " * 2**19 + json.dumps({"keys": [public()]}).encode()},
    "many": {"json": {"keys": [{}] * 101}},
    "deep": {"content": b'{"keys": ' + b"[" * 10**5},
    "gzip": {"headers": {"content-encoding": "gzip"}, "content": iter([b"\x1f\x8b"])},
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answers_change_nothing(name):
    """Whatever is not a sound set of public keys leaves the old ones in place."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    assert good(case)
    issuer.answer = BAD_ANSWERS[name]
    assert refusal(case.verify, token(kid="2")) == "key"
    assert good(case)
    assert issuer.fetches == 2
    cold = Issuer()
    cold.answer = {**BAD_ANSWERS[name]}
    assert refusal(verifier(jwks=cold.keys()).verify, token()) == "keys_unavailable"


ERRORS = [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("x"), RuntimeError("y")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_of_the_client(error, caplog):
    """Whatever the client raises is a fetch in vain, which the log tells of."""
    issuer = Issuer("1")
    issuer.answer = error
    case = verifier(jwks=issuer.keys())
    assert refusal(case.verify, token()) == "keys_unavailable"
    assert refusal(asyncio.run, acase(issuer)) == "keys_unavailable"
    assert issuer.fetches == 2
    assert f"issuer.test could not be had: {type(error).__name__}" in caplog.text
    issuer.answer, issuer.now = {"status_code": 404}, issuer.now + 31
    assert refusal(case.verify, token()) == "keys_unavailable"
    assert "an answer of 404" in caplog.text


async def acase(issuer, sent=None, **options):
    """Verify in an event loop of its own."""
    async with issuer.aclient() as client:
        case = verifier(jwks=issuer.keys(client, **options))
        return await case.averify(sent or token())


@pytest.mark.parametrize("is_async", [False, True])
def test_endless_and_slow_bodies(is_async):
    """A body is read no further than 512 KiB, and for no longer than the timeout."""
    issuer, taken = Issuer("1"), []

    def endless():
        while True:
            taken.append(1)
            yield b" " * 2**16

    def slow():
        for byte in json.dumps({"keys": [public()]}).encode():
            issuer.now += 1
            taken.append(1)
            yield bytes([byte])

    class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __init__(self, parts):
            self.parts = parts

        def __iter__(self):
            return self.parts

        async def __aiter__(self):
            for part in self.parts:
                yield part

    for body, most in ((endless(), 9), (slow(), 6)):
        taken.clear()
        issuer.answer = {"stream": Stream(body)}
        if is_async:
            assert refusal(asyncio.run, acase(issuer)) == "keys_unavailable"
        else:
            case = verifier(jwks=issuer.keys())
            assert refusal(case.verify, token()) == "keys_unavailable"
        assert len(taken) == most


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("max-age=900", 900),
        ("public, MAX-AGE=900, must-revalidate", 900),
        ('max-age="900"', 900),
        ("max-age=0", 60),
        ("max-age=999999999", 3600),
        ("max-age=-1", 600),
        ("max-age=", 600),
        ("s-maxage=900", 600),
        ("x-max-age=900", 600),
        ("max-age=9.5", 600),
        ("no-cache", 600),
        ("", 600),
    ],
)
def test_max_age(field, seconds):
    """Keys are fresh for as long as the issuer says, within bounds."""
    issuer = Issuer("1")
    issuer.headers = {"cache-control": field}
    case = verifier(jwks=issuer.keys())
    assert good(case)
    issuer.now += seconds - 1
    assert good(case)
    assert issuer.fetches == 1
    issuer.now += 2
    assert good(case)
    assert issuer.fetches == 2


def test_one_fetch_a_call():
    """Without a lifetime and a cooldown too, a call fetches once and then stops."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys(ttl=0, cooldown=0))
    for kid, reason in (("1", None), ("1", None), ("2", "key"), ("2", "key")):
        issuer.fetches = 0
        _, error = judged(case, token(kid=kid))
        assert reason == (error and error.reason)
        assert issuer.fetches == 1
    issuer.answer = httpx.ConnectError("down")
    assert good(case)
    assert issuer.fetches == 2


def test_known_keys_never_wait(monkeypatch):
    """While an unknown kid is asked for, or a refresh is under way, others go on."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys())
    assert good(case)
    monkeypatch.delattr(jwt_verifier._Flight, "wait")
    for leader, wait in ((token(kid="2"), 0), (token(), 601)):
        issuer.now += wait
        issuer.started.clear()
        issuer.go_on.clear()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(judged, case, leader)
            assert issuer.started.wait(10)
            assert good(case)  # in this thread, which nobody would wake
            assert not call.done()
            issuer.go_on.set()
            call.result(10)
    assert issuer.fetches == 3


def test_a_kid_that_is_published_meanwhile():
    """Who waited for a fetch that began too early makes the next one."""
    issuer = Issuer("1")
    issuer.go_on.clear()

    async def main():
        async with issuer.aclient() as client:
            case = verifier(jwks=issuer.keys(client))
            first = asyncio.create_task(case.averify(token()))
            await begun(issuer)
            issuer.publish("1", "2")
            second = asyncio.create_task(case.averify(token(kid="2")))
            await asyncio.sleep(0)
            issuer.go_on.set()
            assert await first == await second == CLAIMS

    asyncio.run(main())
    assert issuer.fetches == 2


def test_a_cancelled_leader():
    """The fetch goes on when the task that began it is cancelled."""
    issuer = Issuer("1")
    issuer.go_on.clear()

    async def main():
        async with issuer.aclient() as client:
            case = verifier(jwks=issuer.keys(client))
            leader = asyncio.create_task(case.averify(token()))
            await asyncio.sleep(0)
            followers = [asyncio.create_task(case.averify(token())) for _ in range(20)]
            await asyncio.sleep(0)
            followers[0].cancel()
            leader.cancel()
            await asyncio.sleep(0)
            issuer.go_on.set()
            ended = await asyncio.gather(leader, *followers, return_exceptions=True)
        assert [type(e) for e in ended[:2]] == [asyncio.CancelledError] * 2
        assert all(claims == CLAIMS for claims in ended[2:])

    asyncio.run(main())
    assert issuer.fetches == 1


def test_a_loop_that_ends():
    """A fetch that is cancelled with its loop frees who waits, and is no failure."""
    issuer = Issuer("1")
    issuer.go_on.clear()
    case = verifier(jwks=issuer.keys(issuer.aclient()))

    async def begin():
        task = asyncio.create_task(case.averify(token()))
        await begun(issuer)
        task.cancel()

    asyncio.run(begin())
    assert case._keys._flight is None
    issuer.go_on.set()
    assert asyncio.run(case.averify(token())) == CLAIMS
    assert issuer.fetches == 2


def test_a_loop_that_is_closed():
    """A fetch whose loop was closed under it is given up by who comes next."""
    issuer = Issuer("1")
    issuer.go_on.clear()
    keys = issuer.keys(issuer.aclient(), timeout=0.2)
    case = verifier(jwks=keys)
    loop = asyncio.new_event_loop()
    task = loop.create_task(case.averify(token()))
    loop.run_until_complete(begun(issuer))
    flight = keys._flight
    loop.close()
    flight.wait(1)  # does not wait
    issuer.go_on.set()
    assert asyncio.run(case.averify(token())) == CLAIMS
    assert keys._flight is None
    for lost in (task, flight.task):
        lost._log_destroy_pending = False
    flight.task.get_coro().close()
    task.get_coro().close()
    assert asyncio.run(case.averify(token())) == CLAIMS


def test_a_fetch_that_never_ends():
    """A fetch that outlives all its timeouts is given up."""
    issuer = Issuer("1")
    issuer.go_on.clear()
    case = verifier(jwks=issuer.keys())
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(judged, case, token())
        assert issuer.started.wait(10)
        issuer.started.clear()
        issuer.now += 26
        second = pool.submit(good, case)
        assert issuer.started.wait(10)
        issuer.go_on.set()
        assert second.result(10)
        stuck.result(10)
    assert issuer.fetches == 2


def test_a_fetch_that_is_given_up_ends():
    """In asyncio such a fetch is cancelled, so that none are left over."""
    ended = []

    async def handle(request):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
            case = verifier(jwks=jwt_verifier.JwksCache(URL, client, timeout=0.01))
            with pytest.raises(jwt_verifier.InvalidToken, match="cannot be had"):
                await case.averify(token())
            assert len(ended) == 1

    asyncio.run(main())


def test_waiting_for_oneself():
    """A blocking call within the loop or the fetch it waits for is refused at once."""
    issuer = Issuer("1")
    seen = []

    def reenter(request):
        seen.append(refusal(case.verify, token()))
        return issuer.handle(request)

    case = verifier(
        jwks=issuer.keys(httpx.Client(transport=httpx.MockTransport(reenter)))
    )
    assert good(case)
    assert seen == ["keys_unavailable"]


@pytest.mark.parametrize("is_async", [False, True])
def test_the_client_is_of_the_right_kind(is_async):
    """A blocking client would block the loop, and an async one cannot be waited for."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys(issuer.client() if is_async else issuer.aclient()))
    with pytest.raises(TypeError, match="is for"):
        asyncio.run(case.averify(token())) if is_async else case.verify(token())
    assert issuer.fetches == 0


def test_tokens_that_need_no_keys():
    """A token that is refused by its form or header never begins a fetch."""
    issuer = Issuer("1")
    case = verifier(jwks=issuer.keys(), typ="at+jwt")
    for sent in ("", "a.b.c", token(), token(crit=[]), secret_token(b"s" * 32)):
        refusal(case.verify, sent)
    assert issuer.fetches == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test/jwks",
        "ftp://issuer.test/",
        "file:///etc/passwd",
        "//issuer.test/",
        "https://",
        "https:///jwks",
        "https://user:pw@issuer.test/",
        "http://127.0.0.1.issuer.test/",
        "http://localhost.issuer.test/",
        "http://10.0.0.1/",
        "https://issuer.test:port/",
        "",
        None,
        5,
    ],
)
def test_urls_refused(url):
    """Keys come by https, or from this machine, and no credentials lie in a URL."""
    with pytest.raises(ValueError, match="key set") as caught:
        jwt_verifier.JwksCache(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "[::1]:8000", "localhost", "127.8.8.8"]
)
def test_loopback_is_fine(host):
    """On loopback http is fine."""
    assert jwt_verifier.JwksCache(f"http://{host}/jwks")


def test_repr_of_a_cache():
    """The repr has no query, which may hold a secret."""
    cache = jwt_verifier.JwksCache("https://issuer.test/jwks?key=sesame")
    assert repr(cache) == "JwksCache('https://issuer.test/jwks')"


@pytest.mark.parametrize("name", ["ttl", "cooldown", "stale", "timeout"])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
def test_times_refused(name, value):
    """A time is a finite number and not negative."""
    with pytest.raises(ValueError, match="finite"):
        jwt_verifier.JwksCache(URL, **{name: value})


def test_secrets_are_not_fetched():
    """HS256 with published keys is refused at construction."""
    with pytest.raises(ValueError, match="not published"):
        verifier(jwks=Issuer("1").keys(), algorithms=["HS256"])


def test_default_clock_of_a_cache(monkeypatch):
    """Without a clock the time is the monotonic one, looked up when it is made."""
    issuer = Issuer("1")
    monkeypatch.setattr("time.monotonic", lambda: issuer.now)
    case = verifier(jwks=issuer.keys(clock=None))
    monkeypatch.undo()
    assert good(case)
    issuer.now += 601
    assert good(case)
    assert issuer.fetches == 2
