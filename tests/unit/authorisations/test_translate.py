"""What of a client's message becomes a client, and back."""

import json

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.authorisations.v1.clients_pb2 import Client, CreateClientRequest, UpdateClientRequest
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations import translate
from services.authorisations.clients import Authentication, Changes
from services.runtime.errors import InvalidArgument
from services.runtime.parties import PartyNames
from tests.tokens import Signer
from tests.unit.authorisations.builders import NOW, OWNER, RULES, client

PARTIES = PartyNames(key=b"k" * 32, test_mode=True)
KEYS = Signer()


def request(**fields: object) -> CreateClientRequest:
    owner = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value=OWNER)
    values: dict[str, object] = {"display_name": "Case system", "owner": owner, "scopes": ["messages.send"]}
    return CreateClientRequest(client_id="case-system", client=Client(**values | fields))  # type: ignore[arg-type]


def test_the_owner_becomes_a_party_and_nothing_else() -> None:
    registered = translate.client_to_register(request(), parties=PARTIES, rules=RULES, now=NOW)
    assert registered.party == PARTIES.name_of(request().client.owner)
    assert registered.party.startswith("organisations/")
    shown = translate.client_message(registered)
    assert not shown.HasField("owner")
    assert OWNER not in str(shown)


def test_a_wrong_identity_code_is_refused_by_its_field() -> None:
    owner = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="0201256-7")
    with pytest.raises(InvalidArgument) as refusal:
        translate.client_to_register(request(owner=owner), parties=PARTIES, rules=RULES, now=NOW)
    assert refusal.value.reason == "IDENTIFIER_INVALID"
    assert refusal.value.violations[0][0] == "client.owner.value"


def test_output_fields_of_a_request_are_not_taken_over() -> None:
    sent = request(name="clients/other", party="organisations/other", state=Client.STATE_REVOKED, etag="9")
    registered = translate.client_to_register(sent, parties=PARTIES, rules=RULES, now=NOW)
    assert registered.name == "clients/case-system"
    assert registered.active
    assert registered.party != "organisations/other"


def test_where_people_are_sent_back_to_is_kept_changed_and_taken_away() -> None:
    back = ["https://portal.example/back"]
    registered = translate.client_to_register(request(redirect_uris=back), parties=PARTIES, rules=RULES, now=NOW)
    assert translate.client_message(registered).redirect_uris == back
    update = UpdateClientRequest(client=Client(redirect_uris=["http://127.0.0.1:8765/"]))
    assert translate.changes(update).redirect_uris == ("http://127.0.0.1:8765/",)
    update = UpdateClientRequest(client=Client(), update_mask=FieldMask(paths=["redirect_uris"]))
    assert translate.changes(update).redirect_uris == ()
    assert translate.changes(UpdateClientRequest(client=Client(display_name="x"))).redirect_uris is None


def test_authentication_by_certificate_may_be_said_aloud() -> None:
    sent = request(authentication=Client.AUTHENTICATION_TLS_CLIENT_AUTH)
    assert translate.client_to_register(sent, parties=PARTIES, rules=RULES, now=NOW)


def test_keys_are_kept_for_what_they_are_and_shown() -> None:
    sent = request(authentication=Client.AUTHENTICATION_PRIVATE_KEY_JWT, jwks=KEYS.jwks())
    registered = translate.client_to_register(sent, parties=PARTIES, rules=RULES, now=NOW)
    shown = translate.client_message(registered)
    assert shown.authentication == Client.AUTHENTICATION_PRIVATE_KEY_JWT
    assert json.loads(shown.jwks) == json.loads(KEYS.jwks())


@pytest.mark.parametrize(
    "jwks",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": {}}',
        json.dumps({"keys": [KEYS.jwk()] * 2}),
        json.dumps({"keys": [KEYS.jwk(kid=f"key-{number}") for number in range(17)]}),
        json.dumps({"keys": [KEYS.jwk(use="enc")]}),
        json.dumps({"keys": [KEYS.jwk(alg="ES384")]}),
        json.dumps({"keys": [KEYS.jwk(key_ops=["sign"])]}),
        json.dumps({"keys": [KEYS.jwk(d="AA")]}),
        json.dumps({"keys": [KEYS.jwk(kid="")]}),
        json.dumps({"keys": [{name: value for name, value in KEYS.jwk().items() if name != "alg"}]}),
        json.dumps({"keys": [{name: value for name, value in KEYS.jwk().items() if name != "use"}]}),
        json.dumps({"keys": [KEYS.jwk(), {"kty": "oct", "k": "AAAA", "kid": "s", "use": "sig", "alg": "HS256"}]}),
        KEYS.jwks().replace('"kid"', '"kid": "a", "kid"'),
    ],
)
def test_a_key_set_with_a_defect_registers_nothing(jwks: str) -> None:
    sent = request(authentication=Client.AUTHENTICATION_PRIVATE_KEY_JWT, jwks=jwks)
    with pytest.raises(InvalidArgument) as refusal:
        translate.client_to_register(sent, parties=PARTIES, rules=RULES, now=NOW)
    assert refusal.value.reason == "KEY_SET_INVALID"
    assert refusal.value.violations[0][0] == "client.jwks"


def test_a_client_that_was_read_can_be_written_back() -> None:
    shown = translate.client_message(client())
    assert translate.changes(UpdateClientRequest(client=shown)) == Changes(
        display_name="Case system",
        scopes=("messages.read", "messages.send"),
        certificate_uri="spiffe://solmu/client/case-system",
        authentication=Authentication.TLS,
    )


def test_a_mask_names_what_changes_even_to_nothing() -> None:
    update = UpdateClientRequest(client=Client(display_name="Ignored"))
    update.update_mask.paths.append("scopes")
    assert translate.changes(update) == Changes(scopes=())


@pytest.mark.parametrize("path", ["owner", "party", "state", "client.scopes", "*", "etag", "nonsense"])
def test_a_field_that_cannot_change_is_refused(path: str) -> None:
    update = UpdateClientRequest(client=Client(display_name="New"))
    update.update_mask.paths.append(path)
    with pytest.raises(InvalidArgument) as refusal:
        translate.changes(update)
    assert refusal.value.reason == "UPDATE_MASK_INVALID"


def test_a_client_keeps_a_display_name() -> None:
    update = UpdateClientRequest(client=Client())
    update.update_mask.paths.append("display_name")
    with pytest.raises(InvalidArgument) as refusal:
        translate.changes(update)
    assert refusal.value.reason == "UPDATE_MASK_INVALID"
