"""What may become of a client."""

from datetime import timedelta

import pytest

from services.authorisations.clients import Changes, changed, revoked
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument
from tests.unit.authorisations.builders import NOW, RULES, client

LATER = NOW + timedelta(hours=1)


def test_scopes_are_kept_sorted_and_once() -> None:
    assert RULES.scopes(["messages.send", "messages.read", "messages.send"]) == ("messages.read", "messages.send")


def test_a_scope_that_no_method_needs_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        RULES.scopes(["messages.send", "messages.burn", "coffee.make"])
    assert refusal.value.reason == "SCOPE_UNKNOWN"
    assert refusal.value.metadata == {"scope": "coffee.make messages.burn"}


def test_a_client_is_known_by_its_own_uri_where_none_is_given() -> None:
    assert RULES.certificate_uri("", client_id="case-system") == "spiffe://solmu/client/case-system"


def test_a_uri_of_another_authority_is_taken_as_it_is() -> None:
    uri = "https://partner.example/systems/7"
    assert RULES.certificate_uri(uri, client_id="case-system") == uri


@pytest.mark.parametrize("uri", ["spiffe://solmu/client/other", "spiffe://solmu/service/edge", "spiffe://solmu/"])
def test_a_client_cannot_take_the_name_of_another_member(uri: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        RULES.certificate_uri(uri, client_id="case-system")
    assert refusal.value.reason == "CERTIFICATE_URI_RESERVED"


def test_an_update_changes_what_it_names_and_the_etag() -> None:
    before = client()
    after = changed(before, Changes(scopes=("messages.read",)), etag=before.etag, rules=RULES, now=LATER)
    assert after.scopes == ("messages.read",)
    assert after.display_name == before.display_name
    assert after.etag != before.etag
    assert after.update_time == LATER


def test_an_update_to_what_is_there_changes_nothing() -> None:
    before = client()
    assert changed(before, Changes(display_name=before.display_name), etag="", rules=RULES, now=LATER) is before


def test_an_update_of_an_older_state_is_refused() -> None:
    with pytest.raises(Aborted) as refusal:
        changed(client(revision=2), Changes(display_name="New"), etag="1", rules=RULES, now=LATER)
    assert refusal.value.reason == "ETAG_MISMATCH"


def test_a_revoked_client_cannot_be_changed() -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        changed(client(revoke_time=NOW), Changes(display_name="New"), etag="", rules=RULES, now=LATER)
    assert refusal.value.reason == "CLIENT_IS_REVOKED"


def test_revocation_is_final_and_happens_once() -> None:
    first = revoked(client(), etag="", now=NOW)
    assert not first.active
    assert first.revoke_time == NOW
    assert revoked(first, etag="whatever", now=LATER) is first


def test_revocation_of_an_older_state_is_refused() -> None:
    with pytest.raises(Aborted):
        revoked(client(revision=2), etag="1", now=NOW)
