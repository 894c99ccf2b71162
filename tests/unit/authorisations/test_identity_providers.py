"""Trusted identity providers and their id_tokens: one test per defect."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations.identity_providers import IdentityProviders, Person, Refused
from services.authorisations.provider_file import ASSURANCE
from services.runtime.config import ConfigError
from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames
from tests import jws_cases
from tests.tokens import Signer
from tests.unit.authorisations.builders import NOW

AT = int(NOW.timestamp())
PROVIDER = "https://login.example"
CODE = "150390-900B"
"""Of the range that the register keeps for tests: no person's."""
CLAIM = "urn:oid:1.2.246.21"
PARTIES = PartyNames(key=b"k" * 32, test_mode=True)
KEYS = Signer(kid="provider-1")


def entry(**changes: Any) -> dict[str, Any]:
    """A provider of the file; None leaves a member out."""
    values: dict[str, Any] = {
        "issuer": PROVIDER,
        "jwks": {"keys": [KEYS.jwk()]},
        "algorithms": ["ES256"],
        "clients": {"portal-there": "portal"},
        "identifier": {"claim": CLAIM, "scheme": "FI_HETU"},
        "assurance": {"loa2": "SUBSTANTIAL", "loa3": "HIGH"},
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def log_in(**changes: Any) -> dict[str, Any]:
    """How people log in there; None leaves a member out."""
    values: dict[str, Any] = {
        "id": "bank",
        "display_name": "Bank log-in",
        "client_id": "node-there",
        "authorization_endpoint": f"{PROVIDER}/authorize",
        "token_endpoint": f"{PROVIDER}/token",
        "pushed_authorization_request_endpoint": f"{PROVIDER}/par",
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def file(folder: Path, *entries: Any) -> Path:
    path = folder / "providers.json"
    path.write_text(json.dumps({"identity_providers": entries}))
    return path


def id_token(keys: Signer = KEYS, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """An id_token that is in order but for the changes; None leaves a claim out."""
    claims = {"iss": PROVIDER, "sub": "x", "aud": "portal-there", "exp": AT + 600, "iat": AT, "nonce": "n", CLAIM: CODE}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    header = {"alg": "ES256", "kid": keys.kid, "typ": "JWT"} | (headers or {})
    return jws_cases.signed(json.dumps(header).encode(), json.dumps(claims).encode(), keys.key)


@pytest.fixture
def providers(tmp_path: Path) -> IdentityProviders:
    return IdentityProviders(file(tmp_path, entry()), parties=PARTIES)


def person(providers: IdentityProviders, token: str, client_id: str = "portal") -> Person:
    return providers.person(token, client_id=client_id, now=NOW)


def refusal(providers: IdentityProviders, token: str, client_id: str = "portal") -> InvalidArgument:
    with pytest.raises(InvalidArgument) as refused:
        person(providers, token, client_id)
    assert refused.value.reason == "OAUTH_INVALID_GRANT"
    assert CODE not in str(refused.value)
    assert refused.value.metadata == {}
    return refused.value


def test_a_good_id_token_says_who_how_surely_since_when_and_until_when(providers: IdentityProviders) -> None:
    party = PARTIES.name_of(NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=CODE))
    token = id_token(acr="loa2", auth_time=AT - 5)
    assert person(providers, token) == Person(party, ASSURANCE["SUBSTANTIAL"], AT - 5, AT + 600)


@pytest.mark.parametrize(
    "variant",
    [
        {"aud": ["portal-there"]},
        {"azp": "portal-there"},
        {"acr": "another"},
        {"iat": AT + 10, "exp": AT + 20},
        {"exp": AT - 9, "iat": AT - 600},
        {"headers": {"typ": "id_token+jwt"}},
    ],
)
def test_what_the_standard_allows_is_taken(providers: IdentityProviders, variant: dict[str, Any]) -> None:
    assert person(providers, id_token(**variant)).acr == ""


@pytest.mark.parametrize(
    "defect",
    [
        {"iss": None},
        {"iss": "https://other.example"},
        {"iss": [PROVIDER]},
        {"aud": None},
        {"aud": "another-there"},
        {"aud": "portal"},
        {"aud": ["portal-there", "another-there"]},
        {"aud": []},
        {"aud": [["portal-there"]]},
        {"azp": "another-there"},
        {"azp": 5},
        {"exp": None},
        {"exp": AT - 10},
        {"exp": "soon"},
        {"exp": 10**400},
        {"iat": None},
        {"iat": AT + 11},
        {"nbf": AT + 11},
        {"auth_time": "now"},
        {CLAIM: None},
        {CLAIM: [CODE]},
        {CLAIM: "150390-900C"},
        {CLAIM: ""},
        {"headers": {"typ": "at+jwt"}},
        {"headers": {"typ": "logout+jwt"}},
        {"headers": {"typ": 5}},
        {"keys": Signer(kid="provider-1")},
        {"keys": Signer(kid="unknown")},
    ],
)
def test_a_defect_says_nothing_about_anybody(providers: IdentityProviders, defect: dict[str, Any]) -> None:
    refusal(providers, id_token(**defect))


def test_an_id_token_is_of_use_to_the_client_that_it_was_issued_to(providers: IdentityProviders) -> None:
    refusal(providers, id_token(), client_id="another")
    refusal(providers, id_token(), client_id="portal-there")


@pytest.mark.parametrize("name", [name for name, _ in jws_cases.refused(id_token(), KEYS.key)])
def test_a_token_that_is_not_what_was_signed_says_nothing(providers: IdentityProviders, name: str) -> None:
    token = id_token()
    assert person(providers, token)
    refusal(providers, dict(jws_cases.refused(token, KEYS.key))[name])


def test_an_identity_code_that_is_set_aside_for_tests_counts_in_test_mode_only(tmp_path: Path) -> None:
    strict = IdentityProviders(file(tmp_path, entry()), parties=PartyNames(key=b"k" * 32, test_mode=False))
    refusal(strict, id_token())


def test_without_a_file_nobody_is_trusted() -> None:
    refusal(IdentityProviders(None, parties=PARTIES), id_token())


def test_one_providers_key_speaks_for_no_other(tmp_path: Path) -> None:
    other = Signer(kid="other-1")
    second = entry(issuer="https://second.example", jwks={"keys": [other.jwk()]})
    providers = IdentityProviders(file(tmp_path, entry(), second), parties=PARTIES)
    assert person(providers, id_token(other, iss="https://second.example"))
    refusal(providers, id_token(other))


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ({"issuer": None}, "issuer"),
        ({"issuer": "http://login.example"}, "https"),
        ({"issuer": 5}, r"providers\[1\]"),
        ({"jwks": None}, "jwks"),
        ({"jwks": {"keys": []}}, "no key"),
        ({"jwks": {"keys": [KEYS.jwk(use="enc")]}}, "no key"),
        ({"jwks": []}, r"providers\[1\]"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": "ES256"}, "algorithms"),
        ({"algorithms": ["EdDSA"]}, "no key"),
        ({"clients": {"a": 5}}, "clients"),
        ({"clients": None}, "clients"),
        ({"identifier": {"claim": CLAIM, "scheme": "FI_KETU"}}, "FI_KETU"),
        ({"identifier": {"claim": "", "scheme": "FI_HETU"}}, "claim"),
        ({"assurance": {"loa2": "GOOD"}}, "GOOD"),
        ({"keys": []}, "keys"),
        ({"issuer": "https://localhost:8446"}, "only an embedded node"),
        ({"issuer": "https://127.0.0.1"}, "only an embedded node"),
        ({"issuer": "https://[::1]:8446"}, "only an embedded node"),
        ({"issuer": "https://people.localhost"}, "only an embedded node"),
        ({"log_in": []}, r"providers\[1\]"),
        ({"log_in": log_in(id="Bank")}, "id"),
        ({"log_in": log_in(id=None)}, "id"),
        ({"log_in": log_in(display_name="")}, "display_name"),
        ({"log_in": log_in(client_id="portal-there")}, "client_id"),
        ({"log_in": log_in(client_secret="s")}, "client_secret"),
        ({"log_in": log_in(token_endpoint="http://login.example/token")}, "token_endpoint"),
        ({"log_in": log_in(authorization_endpoint="https:///authorize")}, "authorization_endpoint"),
        ({"log_in": log_in(pushed_authorization_request_endpoint=None)}, "pushed_authorization_request_endpoint"),
        ({"log_in": log_in(authorities="/nowhere.pem")}, "authorities"),
        ({}, "twice"),
    ],
)
def test_a_wrong_entry_ends_the_start_with_its_place(tmp_path: Path, defect: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        IdentityProviders(file(tmp_path, entry(), entry(**defect)), parties=PARTIES)
    assert all("identity_providers[1]" in fault for fault in refused.value.faults)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity_providers": {}}', "null"])
def test_a_file_of_another_form_ends_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "providers.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        IdentityProviders(path, parties=PARTIES)


def test_new_keys_are_read_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = file(tmp_path, entry())
    providers = IdentityProviders(path, parties=PARTIES)
    fresh = Signer(kid="provider-2")
    replace(path, file(tmp_path / "..", entry(jwks={"keys": [fresh.jwk()]})))
    providers.look()
    assert person(providers, id_token(fresh))
    refusal(providers, id_token())
    (tmp_path / "broken").write_text("{")
    replace(path, tmp_path / "broken")
    providers.look()
    assert person(providers, id_token(fresh))
    path.unlink()
    providers.look()
    assert providers.person(id_token(fresh), client_id="portal", now=NOW + timedelta(seconds=60))


def replace(path: Path, by: Path) -> None:
    by.replace(path)


def test_an_embedded_node_takes_invented_people(tmp_path: Path) -> None:
    path = file(tmp_path, entry(issuer="https://localhost:8446", log_in=log_in()), entry())
    [provider] = IdentityProviders(path, parties=PARTIES, embedded=True).for_log_in()
    assert provider.test


def test_two_providers_do_not_share_an_id(tmp_path: Path) -> None:
    other = entry(issuer="https://second.example", log_in=log_in())
    with pytest.raises(ConfigError, match="id of its log_in stands twice"):
        IdentityProviders(file(tmp_path, entry(log_in=log_in()), other), parties=PARTIES)


def logged_in(folder: Path, token: str, *, acr_values: str = "", since: float | None = None) -> Person:
    providers = IdentityProviders(file(folder, entry(log_in=log_in())), parties=PARTIES)
    [provider] = providers.for_log_in()
    return providers.logged_in(token, provider, nonce="n", acr_values=acr_values, since=since, now=NOW)


def test_the_nodes_own_id_token_says_who_has_logged_in(tmp_path: Path) -> None:
    token = id_token(aud="node-there", acr="loa3", auth_time=AT)
    found = logged_in(tmp_path, token, acr_values="loa2 loa3", since=AT)
    assert (found.acr, found.auth_time) == (ASSURANCE["HIGH"], AT)


@pytest.mark.parametrize(
    "defect",
    [
        {"nonce": None},
        {"nonce": "another"},
        {"nonce": ["n"]},
        {"aud": "portal-there"},
        {"aud": ["node-there", "portal-there"]},
        {"iss": "https://second.example"},
        {"exp": AT - 10},
        {"keys": Signer(kid="provider-1")},
        {CLAIM: "150390-900C"},
    ],
)
def test_an_id_token_with_a_defect_logs_nobody_in(
    tmp_path: Path, defect: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused) as refusal:
        logged_in(tmp_path, id_token(**{"aud": "node-there"} | defect))
    assert refusal.value.error == "server_error"
    assert CODE[:6] not in caplog.text
    assert CODE[:6] not in str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("acr", [None, "loa2", "loa3 "])
def test_less_surely_than_asked_for_does_not_do(tmp_path: Path, acr: str | None) -> None:
    with pytest.raises(Refused) as refusal:
        logged_in(tmp_path, id_token(aud="node-there", acr=acr), acr_values="loa3")
    assert refusal.value.error == "unmet_authentication_requirements"


@pytest.mark.parametrize("auth_time", [None, AT - 60])
def test_a_session_from_before_does_not_do_where_the_person_must_be_asked_again(
    tmp_path: Path, auth_time: int | None
) -> None:
    with pytest.raises(Refused) as refusal:
        logged_in(tmp_path, id_token(aud="node-there", auth_time=auth_time), since=AT)
    assert refusal.value.error == "login_required"


def test_an_id_token_of_the_node_is_no_clients_to_exchange(tmp_path: Path) -> None:
    providers = IdentityProviders(file(tmp_path, entry(log_in=log_in())), parties=PARTIES)
    refusal(providers, id_token(aud="node-there"))
    refusal(providers, id_token(aud="node-there"), client_id="node-there")
