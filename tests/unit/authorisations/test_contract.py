"""What holds for every method of the contract."""

from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from solmu.authorisations.v1 import clients_pb2, errors_pb2, tokens_pb2
from solmu.options.v1 import access_pb2
from solmu.runtime.v1 import errors_pb2 as runtime_errors_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations.surface import surface
from services.runtime import contracts, mesh

NOTHING: Any = object()
PARTS = (
    "clients",
    "certificates",
    "tokens",
    "keys",
    "mandates",
    "themes",
    "checks",
    "audit",
    "watch",
    "registers",
    "administration",
    "log_ins",
)
SERVICES = [service for service, _ in surface(**dict.fromkeys(PARTS, NOTHING))]
METHODS = {method.full_name: method for service in SERVICES for method in service.methods}


def access(method: MethodDescriptor) -> access_pb2.Access:
    return method.GetOptions().Extensions[access_pb2.access]


def rule(method: MethodDescriptor) -> Any:
    return method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]


def reachable(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if message.full_name not in seen:
        seen.add(message.full_name)
        yield message
        for field in message.fields:
            if field.message_type is not None:
                yield from reachable(field.message_type, seen)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_with_scopes_looks_like_something_at_rest_and_only_then(name: str) -> None:
    method = METHODS[name]
    assert bool(access(method).scopes) == bool(rule(method).WhichOneof("pattern"))
    assert set(access(method).callers) <= mesh.SERVICES.keys() | {mesh.GATEWAY}


@pytest.mark.parametrize("name", METHODS)
def test_identity_codes_and_redacted_values_travel_in_bodies_only(name: str) -> None:
    method = METHODS[name]
    if not rule(method).WhichOneof("pattern") or rule(method).body == "*":
        return
    outside = [field for field in method.input_type.fields if field.name != rule(method).body]
    for field in outside:
        assert not field.GetOptions().debug_redact
        if field.message_type is not None:
            kinds = {kind.full_name for kind in reachable(field.message_type, set())}
            assert NationalIdentifier.DESCRIPTOR.full_name not in kinds


@pytest.mark.parametrize("name", METHODS)
def test_a_list_has_pages_that_the_contract_bounds(name: str) -> None:
    fields = METHODS[name].input_type.fields_by_name
    if "page_size" not in fields:
        assert not METHODS[name].name.startswith(("List", "Search"))
        return
    assert "page_token" in fields
    assert "next_page_token" in METHODS[name].output_type.fields_by_name


def test_every_service_of_the_contract_is_served() -> None:
    declared = {service for file in contracts.files("authorisations") for service in file.services_by_name.values()}
    assert set(SERVICES) == declared
    assert len(SERVICES) == len(declared)


def test_the_scopes_of_all_contracts_are_known() -> None:
    assert {"clients.manage", "mandates.check", "messages.send"} <= contracts.scopes()
    assert contracts.scopes(["authorisations"]) < contracts.scopes()


def test_a_reason_belongs_to_the_service_or_to_the_runtime() -> None:
    own = set(errors_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert not own & set(runtime_errors_pb2.ErrorReason.keys())
    assert all(len(name.removeprefix("ERROR_REASON_")) <= 63 for name in own)


def broken(message: Any) -> set[str]:
    paths = [violation.proto.field for violation in protovalidate.collect_violations(message)]
    return {".".join(element.field_name for element in path.elements) for path in paths if path}


def owner() -> NationalIdentifier:
    return NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="0201256-6")


def test_a_client_in_order_breaks_no_rule() -> None:
    client = clients_pb2.Client(display_name="Case system", owner=owner(), scopes=["messages.send"])
    assert not broken(clients_pb2.CreateClientRequest(client_id="case-system", client=client))


@pytest.mark.parametrize(
    "client_id", ["", "ab", "Case", "9lives", "case_system", "case-", "a" * 64, "case/../x", "case\n"]
)
def test_a_client_id_of_another_form_is_refused(client_id: str) -> None:
    client = clients_pb2.Client(display_name="Case system", owner=owner())
    assert broken(clients_pb2.CreateClientRequest(client_id=client_id, client=client)) == {"client_id"}


@pytest.mark.parametrize(
    ("client", "field"),
    [
        (clients_pb2.Client(display_name="x"), "client"),
        (clients_pb2.Client(owner=owner()), "client"),
        (clients_pb2.Client(display_name="x", owner=NationalIdentifier(value="1")), "client.owner.scheme"),
        (clients_pb2.Client(display_name="x", owner=owner(), scopes=["a b"]), "client.scopes"),
        (clients_pb2.Client(display_name="x", owner=owner(), scopes=["a.b", "a.b"]), "client.scopes"),
        (clients_pb2.Client(display_name="x", owner=owner(), certificate_uri="no uri"), "client.certificate_uri"),
    ],
)
def test_a_client_that_breaks_a_rule_is_refused_by_its_field(client: clients_pb2.Client, field: str) -> None:
    assert broken(clients_pb2.CreateClientRequest(client_id="case-system", client=client)) == {field}


@pytest.mark.parametrize(
    "uri",
    [
        "https://portal.example/",
        "https://portal.example:8443/back?from=solmu",
        "http://127.0.0.1:8765/",
        "http://[::1]:8765/back",
    ],
)
def test_people_may_be_sent_back_by_https_or_within_their_own_machine(uri: str) -> None:
    client = clients_pb2.Client(display_name="x", owner=owner(), redirect_uris=[uri])
    assert not broken(clients_pb2.CreateClientRequest(client_id="portal", client=client))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://portal.example",
        "http://portal.example/",
        "http://localhost:8765/",
        "http://127.0.0.1.portal.example/",
        "http://127.0.0.1@portal.example/",
        "https://user@portal.example/",
        "https://portal.example/#back",
        "https://portal.example/\\other.example",
        "https://portal.example/\r\nset-cookie: a=b",
        "https://portal.example/ ",
        "https://portal.example/\n",
        "https:///back",
        "javascript:alert(1)",
        "portal://back",
        "//portal.example/",
    ],
)
def test_people_are_sent_nowhere_else(uri: str) -> None:
    client = clients_pb2.Client(display_name="x", owner=owner(), redirect_uris=[uri])
    assert broken(clients_pb2.CreateClientRequest(client_id="portal", client=client)) == {"client.redirect_uris"}


def test_an_update_names_its_client_and_leaves_the_owner() -> None:
    assert broken(clients_pb2.UpdateClientRequest(client=clients_pb2.Client(display_name="x"))) == {"client"}
    named = clients_pb2.Client(name="clients/case-system", owner=owner())
    assert broken(clients_pb2.UpdateClientRequest(client=named)) == {"client"}
    assert not broken(clients_pb2.UpdateClientRequest(client=clients_pb2.Client(name="clients/case-system")))


@pytest.mark.parametrize("sha256", ["", "AB" * 32, "ab" * 31, "zz" * 32])
def test_a_certificate_is_named_by_its_digest(sha256: str) -> None:
    request = tokens_pb2.IssueTokenRequest(certificate=tokens_pb2.ClientCertificate(sha256=sha256))
    assert broken(request) == {"certificate.sha256"}


def test_a_token_is_not_issued_without_a_certificate() -> None:
    assert broken(tokens_pb2.IssueTokenRequest(grant_type="client_credentials")) == {"certificate"}
