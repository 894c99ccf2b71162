"""The client credentials grant: one test per defect, and what holds for every request."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authorisations.clients import Client
from services.authorisations.grants import TOKEN_LIFETIME, access_token, client_credentials, examine, scopes
from services.runtime.errors import InvalidArgument
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, PARTY, asked, client

SCOPES = ("clients.manage", "mailbox.read", "messages.read", "messages.send", "units.manage")


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ({"grant_type": ""}, "OAUTH_INVALID_REQUEST"),
        ({"grant_type": "password"}, "OAUTH_UNSUPPORTED_GRANT_TYPE"),
        ({"grant_type": "refresh_token"}, "OAUTH_UNSUPPORTED_GRANT_TYPE"),
        ({"resource": "https://elsewhere.example"}, "OAUTH_INVALID_TARGET"),
        ({"resource": ISSUER + "/"}, "OAUTH_INVALID_TARGET"),
        ({"authorization_details": True}, "OAUTH_INVALID_AUTHORIZATION_DETAILS"),
    ],
)
def test_a_request_of_the_wrong_form_is_refused(defect: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        examine(asked(**defect), audience=ISSUER)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("resource", ["", ISSUER])
def test_the_resource_is_this_node_or_left_out(resource: str) -> None:
    examine(asked(resource=resource), audience=ISSUER)


@pytest.mark.parametrize(
    "scope", [" ", "messages.send ", " messages.send", "messages.read  messages.send", 'a"b', "ä", "a\tb"]
)
def test_a_malformed_scope_is_refused(scope: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        scopes(asked(scope=scope), client_credentials(client()))
    assert refusal.value.reason == "OAUTH_INVALID_SCOPE"


def test_a_scope_that_is_not_registered_is_refused_and_named() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        scopes(asked(scope="messages.send units.manage messages.sen"), client_credentials(client()))
    assert refusal.value.metadata == {"scope": "messages.sen units.manage"}


def test_a_client_without_scopes_gets_no_token() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        scopes(asked(), client_credentials(client(scopes=())))
    assert refusal.value.reason == "OAUTH_INVALID_SCOPE"


def granted_or_refused(scope: str, holder: Client) -> set[str] | str:
    """The scopes granted, or the reason of the refusal."""
    try:
        return set(scopes(asked(scope=scope), client_credentials(holder)))
    except InvalidArgument as refusal:
        return refusal.reason


@given(st.sets(st.sampled_from(SCOPES)), st.lists(st.sampled_from(SCOPES)))
def test_a_request_gets_what_it_asks_for_where_that_is_registered(registered: set[str], wanted: list[str]) -> None:
    outcome = granted_or_refused(" ".join(wanted), client(scopes=tuple(sorted(registered))))
    if registered and set(wanted) <= registered:
        assert outcome == (set(wanted) or registered)
    else:
        assert outcome == "OAUTH_INVALID_SCOPE"


@given(st.text(max_size=60))
def test_no_text_gets_more_than_is_registered(scope: str) -> None:
    outcome = granted_or_refused(scope, client())
    assert outcome == "OAUTH_INVALID_SCOPE" or set(outcome) <= set(client().scopes)


def claims(holder: Client, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "client": holder,
        "basis": client_credentials(holder),
        "scopes": holder.scopes,
        "certificate_sha256": CERTIFICATE,
        "issuer": ISSUER,
        "issued_at": 1_795_000_000,
        "token_id": "t-1",
    }
    return access_token(**values | changes)


def test_a_token_holds_exactly_the_claims_of_the_profile() -> None:
    assert claims(client()) == {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": PARTY,
        "client_id": "case-system",
        "scope": "messages.read messages.send",
        "iat": 1_795_000_000,
        "exp": 1_795_000_300,
        "jti": "t-1",
        "cnf": {"x5t#S256": "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s", "x5t_hex": CERTIFICATE},
    }


def test_a_token_lives_no_longer_than_five_minutes() -> None:
    assert TOKEN_LIFETIME == 300


@given(st.binary(min_size=32, max_size=32))
def test_both_forms_of_the_binding_say_the_same(digest: bytes) -> None:
    bound = claims(client(), certificate_sha256=digest.hex())["cnf"]
    padded = bound["x5t#S256"] + "="
    assert len(bound["x5t#S256"]) == 43
    assert base64.urlsafe_b64decode(padded) == bytes.fromhex(bound["x5t_hex"]) == digest
