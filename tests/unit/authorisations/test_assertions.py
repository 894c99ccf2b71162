"""Client assertions: one test per defect."""

import json
import uuid
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from services.authorisations import assertions
from services.authorisations.assertions import NotProven, Used
from tests import jws_cases
from tests.tokens import Signer
from tests.unit.authorisations.builders import ISSUER, NOW

AT = int(NOW.timestamp())
KEYS = Signer(kid="case-system-1")


def made(*, keys: Signer = KEYS, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """An assertion that is in order but for the changes; None leaves a claim out."""
    claims = {"iss": "case-system", "sub": "case-system", "aud": ISSUER, "exp": AT + 60, "iat": AT, "jti": "1"}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    header = {"alg": "ES256", "kid": keys.kid, "typ": "JWT"} | (headers or {})
    header = {name: value for name, value in header.items() if value is not None}
    return jws_cases.signed(json.dumps(header).encode(), json.dumps(claims).encode(), keys.key)


def verified(assertion: str, jwks: str = "") -> Used:
    return assertions.verify(assertion, jwks=jwks or KEYS.jwks(), client_id="case-system", issuer=ISSUER, now=NOW)


def test_a_good_assertion_says_what_must_be_remembered_and_for_how_long() -> None:
    jti = str(uuid.uuid4())
    assert verified(made(jti=jti)) == Used(jti, NOW + timedelta(seconds=70))
    assert assertions.subject(made()) == "case-system"


@pytest.mark.parametrize(
    "variant",
    [
        {"headers": {"typ": "client-authentication+jwt"}},
        {"headers": {"typ": "jwt"}},
        {"headers": {"typ": None}},
        {"iat": None},
        {"nbf": AT},
        {"iat": AT + 10, "exp": AT + 310},
        {"iat": AT + 60},
        {"iat": AT - 200, "exp": AT - 9},
        {"exp": AT + 59.5, "iat": AT - 0.5},
        {"extra": {"a": 1}},
    ],
)
def test_what_the_profile_allows_is_taken(variant: dict[str, Any]) -> None:
    assert verified(made(**variant))


@pytest.mark.parametrize(
    "defect",
    [
        {"iss": "other"},
        {"iss": None},
        {"iss": ["case-system"]},
        {"sub": "other"},
        {"sub": None},
        {"aud": None},
        {"aud": [ISSUER]},
        {"aud": ISSUER + "/oauth2/token"},
        {"aud": ISSUER + "/"},
        {"aud": "https://other.example"},
        {"exp": None},
        {"exp": AT - 10},
        {"exp": AT + 361, "iat": None},
        {"exp": AT + 301},
        {"exp": AT + 100, "iat": AT - 201},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**400},
        {"exp": 2**36, "iat": None},
        {"exp": AT + 200, "iat": AT + 61},
        {"nbf": AT + 61},
        {"nbf": "x"},
        {"iat": [AT]},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 256},
        {"jti": "\ud800"},
        {"jti": "a\0b"},
        {"headers": {"typ": "at+jwt"}},
        {"headers": {"typ": "dpop+jwt"}},
        {"headers": {"typ": 5}},
        {"keys": Signer(kid="case-system-1")},
    ],
)
def test_a_defect_proves_nothing(defect: dict[str, Any]) -> None:
    with pytest.raises(NotProven):
        verified(made(**defect))


@pytest.mark.parametrize("name", [name for name, _ in jws_cases.refused(made(), KEYS.key)])
def test_a_token_that_is_not_what_was_signed_proves_nothing(name: str) -> None:
    assertion = made()
    assert verified(assertion)
    with pytest.raises(NotProven):
        verified(dict(jws_cases.refused(assertion, KEYS.key))[name])


RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "PS256"), (ed25519.Ed25519PrivateKey.generate(), "EdDSA")])
def test_each_algorithm_of_the_profile_is_taken(key: Any, algorithm: str) -> None:
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    jwk = {**jwk, "kid": "k", "use": "sig", "alg": algorithm, "key_ops": ["verify"]}
    jwks = assertions.key_set(json.dumps({"keys": [jwk]}))
    claims = jwt.decode(made(), options={"verify_signature": False})
    assert verified(jwt.encode(claims, key, algorithm, headers={"kid": "k"}), jwks)


def test_rs256_is_not_of_the_profile() -> None:
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(RSA.public_key(), as_dict=True)
    jwks = json.dumps({"keys": [{**jwk, "kid": "k", "use": "sig", "alg": "RS256"}]})
    claims = jwt.decode(made(), options={"verify_signature": False})
    with pytest.raises(NotProven):
        verified(jwt.encode(claims, RSA, "RS256", headers={"kid": "k"}), jwks)


@pytest.mark.parametrize("text", ["", "a.b.c", "é", made().replace(".", ""), made(sub=None), made(sub=5)])
def test_what_names_nobody_is_nobodys(text: str) -> None:
    with pytest.raises(NotProven):
        assertions.subject(text)
