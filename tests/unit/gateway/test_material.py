"""What Envoy must not get to see is found before."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from gateway import material
from gateway.material import MaterialError
from tests.tokens import Signer
from tests.unit.gateway.pki import Authority

NOW = datetime.now(UTC)
PUBLIC, OTHER = Authority("public"), Authority("public")
PAIR = PUBLIC.server("localhost")
JWK = Signer().jwk()


def test_a_certificate_is_good_until_it_ends() -> None:
    until = material.check_certificate(PAIR.certificate_pem, PAIR.key_pem, now=NOW)
    assert until == PAIR.certificate.not_valid_after_utc


def test_a_chain_is_judged_by_its_first_certificate() -> None:
    material.check_certificate(PAIR.certificate_pem + PUBLIC.pem, PAIR.key_pem, now=NOW)
    with pytest.raises(MaterialError, match="another certificate"):
        material.check_certificate(PUBLIC.pem + PAIR.certificate_pem, PAIR.key_pem, now=NOW)


@pytest.mark.parametrize(
    ("chain", "key", "text"),
    [
        ("", PAIR.key_pem, "no PEM certificate"),
        ("garbage", PAIR.key_pem, "no PEM certificate"),
        (PAIR.certificate_pem.replace("MI", "AA", 1), PAIR.key_pem, "malformed"),
        (PAIR.certificate_pem, "", "private key is not"),
        (PAIR.certificate_pem, PAIR.certificate_pem, "private key is not"),
        (PAIR.certificate_pem, PUBLIC.server("localhost").key_pem, "another certificate"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(chain: str, key: str, text: str) -> None:
    with pytest.raises(MaterialError, match=text):
        material.check_certificate(chain, key, now=NOW)


@pytest.mark.parametrize(("days", "text"), [(30, "expired"), (-30, "not valid yet")])
def test_a_certificate_out_of_its_time_is_refused(days: int, text: str) -> None:
    with pytest.raises(MaterialError, match=text):
        material.check_certificate(PAIR.certificate_pem, PAIR.key_pem, now=NOW + timedelta(days=days))


def test_a_refusal_quotes_no_key() -> None:
    with pytest.raises(MaterialError) as caught:
        material.check_certificate(PAIR.certificate_pem, PAIR.key_pem.replace("M", "N"), now=NOW)
    assert "N" * 2 not in str(caught.value)
    assert caught.value.__cause__ is None


def test_authorities_are_authorities() -> None:
    assert material.check_authorities(PUBLIC.pem, now=NOW) == PUBLIC.certificate.not_valid_after_utc
    with pytest.raises(MaterialError, match="not a certificate of an authority"):
        material.check_authorities(PUBLIC.pem + PAIR.certificate_pem, now=NOW)


def test_a_revocation_list_is_good_until_its_next_update() -> None:
    until = material.check_revocations(PUBLIC.pem, PUBLIC.crl(PAIR, days=0.5), now=NOW)
    assert NOW + timedelta(hours=11) < until < NOW + timedelta(hours=13)


def test_every_authority_has_its_list() -> None:
    second = Authority("second")
    both = PUBLIC.pem + second.pem
    material.check_revocations(both, PUBLIC.crl() + second.crl(), now=NOW)
    with pytest.raises(MaterialError, match="no revocation list signed by CN=second"):
        material.check_revocations(both, PUBLIC.crl(), now=NOW)


@pytest.mark.parametrize(
    ("crl", "text"),
    [
        ("", "no PEM block"),
        (PUBLIC.pem, "no PEM block"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "malformed"),
        ("-----BEGIN X509 CRL-----\n", "malformed"),
        (PUBLIC.crl() + "-----BEGIN X509 CRL-----\nAAAA\n", "malformed"),
        (OTHER.crl(PAIR), "no revocation list signed by CN=public"),
        (PUBLIC.crl(days=-1), "past its next update"),
        (PUBLIC.crl(days=-1) + PUBLIC.crl(), "past its next update"),
    ],
)
def test_a_revocation_list_that_would_shut_everybody_out_is_refused(crl: str, text: str) -> None:
    with pytest.raises(MaterialError, match=text):
        material.check_revocations(PUBLIC.pem, crl, now=NOW)


def test_keys_come_back_in_one_spelling() -> None:
    other = Signer(kid="other").jwk()
    forth = material.check_keys(json.dumps({"keys": [JWK, other]}))
    back = material.check_keys(json.dumps({"keys": [dict(reversed(other.items())), JWK], "more": 1}, indent=3))
    assert forth == back


@pytest.mark.parametrize(
    "unfit",
    [{"kty": "RSA"}, {"crv": "P-384"}, {"alg": "RS256"}, {"use": "enc"}, {"d": "AAAA"}, {"kid": None}],
    ids=lambda change: next(iter(change)),
)
def test_keys_that_do_not_verify_access_tokens_are_left_out(unfit: dict[str, str]) -> None:
    kept = material.check_keys(json.dumps({"keys": [JWK, {**JWK, "kid": "unfit", **unfit}]}))
    assert json.loads(kept) == {"keys": [JWK]}


@pytest.mark.parametrize(
    "jwks",
    ["", "[]", "{}", '{"keys": 1}', '{"keys": []}', '{"keys": ["x"]}', json.dumps({"keys": [{**JWK, "x": "!"}]})],
)
def test_a_key_set_without_keys_is_refused(jwks: str) -> None:
    with pytest.raises(MaterialError):
        material.check_keys(jwks)
