"""Signed tokens and keys: what public test vectors check, one case per defect."""

from __future__ import annotations

import base64
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from services.runtime import jws
from tests import jws_cases
from tests.jws_cases import part, signed

EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()
ALL = {jws.ES256, jws.PS256, jws.EDDSA, jws.RS256}
HEADER = {"alg": "ES256", "kid": "ec", "typ": "JWT"}


def jwk(key: Any, kid: str, algorithm: str, **changes: Any) -> dict[str, Any]:
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    public.pop("key_ops", None)
    return public | {"kid": kid, "alg": algorithm} | changes


KEYS = {
    "ec": jwk(EC, "ec", "ES256"),
    "ps": jwk(RSA, "ps", "PS256"),
    "rs": jwk(RSA, "rs", "RS256"),
    "ed": jwk(ED, "ed", "EdDSA"),
}
SET = jws.keys_of(json.dumps({"keys": list(KEYS.values())}), ALL)
GOOD = signed(json.dumps(HEADER).encode(), b'{"sub": "a", "exp": 1}', EC)


@pytest.mark.parametrize(
    ("key", "kid", "algorithm"), [(EC, "ec", "ES256"), (RSA, "ps", "PS256"), (RSA, "rs", "RS256"), (ED, "ed", "EdDSA")]
)
def test_a_good_token_of_each_algorithm_verifies(key: Any, kid: str, algorithm: str) -> None:
    token = jwt.encode({"sub": "a"}, key, algorithm, headers={"kid": kid})
    assert jws.claims(token, SET) == {"sub": "a"}


@pytest.mark.parametrize(
    "header", [b'{ "alg" : "ES256",\r\n\t"kid":"ec" }', b'{"kid":"ec","alg":"ES256","x":{"y":[1]}}']
)
def test_white_space_and_unknown_members_of_the_header_are_no_defect(header: bytes) -> None:
    assert jws.claims(signed(header, b'{"sub": "a"}', EC), SET) == {"sub": "a"}


@pytest.mark.parametrize("name", [name for name, _ in jws_cases.refused(GOOD, EC)])
def test_a_token_with_a_defect_is_refused(name: str) -> None:
    token = dict(jws_cases.refused(GOOD, EC))[name]
    with pytest.raises(jws.JwsError) as refusal:
        jws.claims(token, SET)
    assert not token or token not in str(refusal.value)


def test_a_bad_signature_of_rsa_is_refused() -> None:
    header = json.dumps({"alg": "PS256", "kid": "ps"}).encode()
    cases = dict(jws_cases.refused_of_rsa(f"{part(header)}.{part(b'{}')}", RSA))
    assert len(cases) > 15
    for token in cases.values():
        with pytest.raises(jws.JwsError):
            jws.payload(token, SET)


@pytest.mark.parametrize(("kid", "algorithm"), [("ps", "RS256"), ("rs", "PS256")])
def test_a_key_of_one_algorithm_is_none_of_another(kid: str, algorithm: str) -> None:
    with pytest.raises(jws.JwsError):
        jws.payload(jwt.encode({}, RSA, algorithm, headers={"kid": kid}), SET)


def number(value: int) -> str:
    return part(value.to_bytes((value.bit_length() + 7) // 8))


def weak_modulus() -> int:
    """A number of 2048 bits of the form that the generator of CVE-2017-15361 gave its keys."""
    product = math.prod(jws._ROCA)
    value = pow(65537, 12_345, product)
    value += product * ((1 << 2047) // product + 1)
    return value if value % 2 else value + product


SMALL = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    "bad",
    [
        KEYS["ec"] | {"use": "enc"},
        KEYS["rs"] | {"use": "enc"},
        KEYS["ec"] | {"use": None},
        KEYS["ec"] | {"key_ops": ["encrypt"]},
        KEYS["rs"] | {"key_ops": ["sign"]},
        KEYS["ec"] | {"key_ops": "verify"},
        KEYS["ec"] | {"key_ops": []},
        KEYS["ec"] | {"alg": "ES384"},
        KEYS["ec"] | {"alg": "RS256"},
        KEYS["ec"] | {"alg": "none"},
        KEYS["ec"] | {"alg": ["ES256"]},
        KEYS["ec"] | {"crv": "P-384"},
        KEYS["ec"] | {"crv": ["P-256"]},
        KEYS["ec"] | {"kty": "RSA"},
        KEYS["ec"] | {"kty": "OKP"},
        KEYS["ed"] | {"crv": "Ed448"},
        KEYS["ed"] | {"x": "AA"},
        KEYS["ec"] | {"kid": 5},
        KEYS["ec"] | {"kid": ""},
        KEYS["ec"] | {"x": KEYS["ec"]["y"]},
        KEYS["ec"] | {"y": "!"},
        KEYS["ec"] | {"y": 5},
        KEYS["ec"] | {"d": "AA"},
        KEYS["rs"] | {"p": "AA"},
        {name: value for name, value in KEYS["rs"].items() if name != "e"},
        KEYS["rs"] | {"e": number(1)},
        KEYS["rs"] | {"e": number(3)},
        KEYS["rs"] | {"n": number(weak_modulus())},
        jwk(SMALL, "small", "RS256"),
        jwk(P384, "p384", "ES384"),
        {"kty": "oct", "k": "AAAA", "kid": "secret", "alg": "HS256"},
        "ec",
        None,
    ],
)
def test_a_key_for_something_else_is_refused_and_left_out(bad: Any) -> None:
    with pytest.raises(jws.JwkError):
        jws.key(bad, ALL)
    assert list(jws.keys_of(json.dumps({"keys": [bad, KEYS["ed"]]}), ALL)) == ["ed"]


def test_a_key_is_taken_for_the_algorithms_asked_for_only() -> None:
    document = json.dumps({"keys": list(KEYS.values())})
    assert list(jws.keys_of(document, {jws.ES256, jws.EDDSA})) == ["ec", "ed"]


def test_a_key_that_names_no_algorithm_has_the_usual_one_of_its_kind() -> None:
    bare = {name: value for name, value in KEYS["ps"].items() if name != "alg"}
    assert jws.key(bare, ALL)[1].algorithm_name == "RS256"


def test_two_keys_of_one_id_make_no_key_set() -> None:
    with pytest.raises(ValueError, match="kid"):
        jws.keys_of(json.dumps({"keys": [KEYS["ec"], KEYS["ed"] | {"kid": "ec"}]}), ALL)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', '{"keys": [], "keys": []}', "null"])
def test_what_is_no_key_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any will do
        jws.keys_of(text, ALL)


VECTORS = os.environ.get("SOLMU_TEST_JWS_VECTORS", "")
"""Project Wycheproof's json_web_signature_test.json, where somebody has it: it is not ours to bring along."""

STRICTER = {"InvalidCharacterInsertedInHeader", "InvalidCharacterInsertedInPayload"}
"""Vectors of tokens with characters that base64url does not have, which some verifiers pass over."""


@pytest.mark.skipif(not VECTORS, reason="SOLMU_TEST_JWS_VECTORS names no file")
def test_the_public_vectors_are_all_judged_rightly() -> None:
    groups = json.loads(Path(VECTORS).read_text(encoding="utf-8"))["testGroups"]
    judged = Counter[bool]()
    for group in groups:
        public = {"kid": "vector", **(group.get("public") or {})}
        for vector in group["tests"]:
            token = vector["jws"] if isinstance(vector["jws"], str) else json.dumps(vector["jws"])
            good = vector["result"] == "valid" and _taken(public, token) and vector["comment"] not in STRICTER
            assert _verifies(public, token) is good, f"{vector['tcId']}: {vector['comment']}"
            judged[good] += 1
    assert judged[True] >= 16
    assert judged[False] >= 300


def _taken(public: dict[str, Any], token: str) -> bool:
    """Whether the vector is of an algorithm that is taken here, and of the key's own."""
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    kinds = {"ES256": "P-256", "EdDSA": "Ed25519", "RS256": None, "PS256": None}
    algorithm = header.get("alg")
    return algorithm in kinds and public.get("crv") == kinds[algorithm] and public.get("alg", algorithm) == algorithm


def _verifies(public: dict[str, Any], token: str) -> bool:
    try:
        header = jws.header(token)
        _, key = jws.key(public, ALL)
        if "kid" in header:
            jws.payload(token, {header["kid"]: key})
        else:  # ours always name their key
            jws._JWS.decode(token, key, algorithms=[key.algorithm_name])
    except (jws.JwsError, jws.JwkError, jwt.PyJWTError, ValueError):
        return False
    return True
