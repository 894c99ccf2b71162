"""Token exchange: one test per defect, and that nothing ever widens."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authorisations import exchange, grants
from services.authorisations.exchange import ACCESS_TOKEN, ID_TOKEN, Representation, Support
from services.authorisations.grants import Basis
from services.runtime.errors import InvalidArgument
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, asked, client

PERSON, OTHER, COMPANY = "persons/" + "a" * 26, "persons/" + "b" * 26, "organisations/" + "c" * 26
MANDATE = {"type": "mandate", "principal": OTHER, "theme": "themes/building-permits"}
WANTED = Representation(principal=OTHER, theme="themes/building-permits", specifier="")


def parameters(**changes: str) -> exchange.Asked:
    values = {
        "subject_token": "a.b.c",
        "subject_token_type": ACCESS_TOKEN,
        "actor_token": "",
        "actor_token_type": "",
        "requested_token_type": "",
        "audience": "",
        "authorization_details": json.dumps([MANDATE]),
    }
    return exchange.Asked(**values | changes)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"requested_token_type": ACCESS_TOKEN},
        {"audience": ISSUER},
        {"subject_token_type": ID_TOKEN, "authorization_details": ""},
    ],
)
def test_both_steps_are_taken(variant: dict[str, str]) -> None:
    exchange.examine(parameters(**variant), audience=ISSUER)


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ({"subject_token": ""}, "OAUTH_INVALID_REQUEST"),
        ({"subject_token_type": ""}, "OAUTH_INVALID_REQUEST"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, "OAUTH_INVALID_REQUEST"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "OAUTH_INVALID_REQUEST"),
        ({"actor_token": "a.b.c"}, "OAUTH_INVALID_REQUEST"),
        ({"actor_token_type": ACCESS_TOKEN}, "OAUTH_INVALID_REQUEST"),
        ({"requested_token_type": ID_TOKEN}, "OAUTH_INVALID_REQUEST"),
        ({"audience": "https://elsewhere.example"}, "OAUTH_INVALID_TARGET"),
        ({"authorization_details": ""}, "OAUTH_INVALID_AUTHORIZATION_DETAILS"),
        ({"subject_token_type": ID_TOKEN}, "OAUTH_INVALID_AUTHORIZATION_DETAILS"),
    ],
)
def test_parameters_with_a_defect_are_refused(defect: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        exchange.examine(parameters(**defect), audience=ISSUER)
    assert refusal.value.reason == reason


def test_a_mandate_is_asked_for_by_principal_theme_and_specifier() -> None:
    assert exchange.representation(json.dumps([MANDATE])) == WANTED
    assert exchange.representation(json.dumps([MANDATE | {"specifier": "091-1-2-3"}])).specifier == "091-1-2-3"


@pytest.mark.parametrize(
    "details",
    [
        "",
        "{",
        "null",
        "{}",
        "[]",
        "[[]]",
        "[" * 100_000,
        json.dumps(MANDATE),
        json.dumps([MANDATE, MANDATE]),
        json.dumps([MANDATE | {"type": "payment"}]),
        json.dumps([MANDATE | {"type": ["mandate"]}]),
        json.dumps([MANDATE | {"actions": ["read"]}]),
        json.dumps([MANDATE | {"principal": "010101-123N"}]),
        json.dumps([MANDATE | {"principal": PERSON + "\n"}]),
        json.dumps([MANDATE | {"principal": None}]),
        json.dumps([MANDATE | {"theme": "building-permits"}]),
        json.dumps([MANDATE | {"theme": 5}]),
        json.dumps([MANDATE | {"specifier": 5}]),
        json.dumps([MANDATE | {"specifier": "x" * 201}]),
        json.dumps([{"type": "mandate"}]),
    ],
)
def test_details_of_another_form_are_refused(details: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        exchange.representation(details)
    assert refusal.value.reason == "OAUTH_INVALID_AUTHORIZATION_DETAILS"


SUBJECT = {"sub": PERSON, "client_id": "case-system"}


def test_who_acts_is_who_the_subject_token_is_about() -> None:
    assert exchange.actor(SUBJECT, client_id="case-system") == PERSON


@pytest.mark.parametrize(
    "defect",
    [{"client_id": "other"}, {"act": {"sub": OTHER}}, {"authorization_details": [MANDATE]}, {"act": None}],
)
def test_another_clients_token_and_one_that_rests_on_a_mandate_become_nothing(defect: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        exchange.actor(SUBJECT | defect, client_id="case-system")
    assert refusal.value.reason == "OAUTH_INVALID_GRANT"


def test_a_token_names_who_acts_through_whom_and_by_what() -> None:
    support = Support(mandates=("mandates/1", "mandates/2"), through=COMPANY, consistency_token="t-1")
    assert exchange.on_behalf(WANTED, support, actor=PERSON) == {
        "sub": OTHER,
        "act": {"sub": PERSON, "act": {"sub": COMPANY}},
        "authorization_details": [
            {
                "type": "mandate",
                "theme": "themes/building-permits",
                "mandates": ["mandates/1", "mandates/2"],
                "consistency_token": "t-1",
            }
        ],
    }
    direct = exchange.on_behalf(WANTED, Support(mandates=("mandates/1",)), actor=PERSON)
    assert direct["act"] == {"sub": PERSON}


SCOPES = st.sets(st.sampled_from(["mailbox.read", "mailbox.write", "messages.read", "messages.send"]))
AT = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())


@given(
    may=SCOPES,
    wanted=st.lists(st.sampled_from(sorted({"mailbox.read", "messages.send", "units.manage"}))),
    left=st.integers(-400, 4000),
)
def test_no_token_is_wider_or_longer_than_what_it_stands_on(may: set[str], wanted: list[str], left: int) -> None:
    basis = Basis(scopes=frozenset(may), claims={"sub": PERSON}, expires=AT + left, origin="urn:x")
    try:
        claims = grants.access_token(
            client=client(),
            basis=basis,
            scopes=grants.scopes(asked(scope=" ".join(wanted)), basis),
            certificate_sha256=CERTIFICATE,
            issuer=ISSUER,
            issued_at=AT,
            token_id="urn:y",
        )
    except InvalidArgument as refusal:
        assert refusal.reason in ("OAUTH_INVALID_SCOPE", "OAUTH_INVALID_GRANT")
        assert left <= 0 or not may or set(wanted) - may
        return
    assert set(claims["scope"].split()) <= may
    assert AT < claims["exp"] <= min(AT + left, AT + grants.TOKEN_LIFETIME)
    assert (claims["aud"], claims["sub"]) == (ISSUER, PERSON)


def test_what_a_token_stands_on_cannot_change_its_own_claims() -> None:
    basis = Basis(
        scopes=frozenset({"a"}), claims={"sub": PERSON, "exp": 1, "cnf": {}, "client_id": "other", "aud": "x"}
    )
    claims = grants.access_token(
        client=client(),
        basis=basis,
        scopes=("a",),
        certificate_sha256=CERTIFICATE,
        issuer=ISSUER,
        issued_at=AT,
        token_id="urn:y",
    )
    assert (claims["exp"], claims["client_id"], claims["aud"]) == (AT + 300, "case-system", ISSUER)
    assert claims["cnf"]["x5t_hex"] == CERTIFICATE
