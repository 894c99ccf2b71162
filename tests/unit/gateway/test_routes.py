"""Contracts become routes, or a list of what is wrong with them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from solmu.options.v1 import access_pb2

from gateway import contracts
from gateway.routes import Binding, ContractError, Route, routes, scopes
from services.runtime import mesh
from tests.unit.gateway import contract

SERVICE = "solmu.parcels.v1.ParcelService"
HTTP: Any = annotations_pb2.http


def route(method: str) -> Route:
    return next(route for route in routes(contract.DESCRIPTORS) if route.method == method)


def changed(method: str) -> tuple[FileDescriptorSet, MethodDescriptorProto]:
    descriptors = FileDescriptorSet.FromString(contract.DESCRIPTORS.SerializeToString())
    file = next(file for file in descriptors.file if file.package == "solmu.parcels.v1")
    return descriptors, next(each for each in file.service[0].method if each.name == method)


def test_a_route_has_what_the_contract_declares() -> None:
    assert route("CreateParcel") == Route(
        service=SERVICE,
        method="CreateParcel",
        upstream="parcels",
        scopes=("parcels.read", "parcels.write"),
        max_request_bytes=4096,
        timeout_seconds=1,
        client_streaming=False,
        server_streaming=False,
        rest=(Binding("POST", "/v1/parcels", "parcel"),),
    )


def test_what_is_not_declared_has_a_default() -> None:
    unary, stream = route("GetParcel"), route("WatchParcels")
    assert (unary.max_request_bytes, unary.timeout_seconds) == (1 << 20, 15)
    assert (stream.max_request_bytes, stream.timeout_seconds) == (1 << 20, 3600)


def test_a_method_without_scopes_has_no_route() -> None:
    assert "AuditParcels" not in {route.method for route in routes(contract.DESCRIPTORS)}


def test_additional_bindings_are_bindings() -> None:
    assert [binding.template for binding in route("GetParcel").rest] == [
        "/v1/{name=parcels/*}",
        "/v1/{name=depots/*/parcels/*}",
    ]


def test_all_scopes_are_found() -> None:
    assert scopes(routes(contract.DESCRIPTORS)) == ("parcels.read", "parcels.write")


def test_a_method_that_does_not_say_who_may_call_it_is_a_fault() -> None:
    descriptors, method = changed("GetParcel")
    method.options.ClearExtension(access_pb2.access)
    with pytest.raises(ContractError, match=rf"{SERVICE}\.GetParcel does not say who may call it"):
        routes(descriptors)


def test_a_method_that_opens_to_nobody_is_a_fault() -> None:
    descriptors, method = changed("AuditParcels")
    del method.options.Extensions[access_pb2.access].callers[:]
    with pytest.raises(ContractError, match=rf"{SERVICE}\.AuditParcels opens to nobody"):
        routes(descriptors)


def test_two_methods_under_one_path_are_a_fault() -> None:
    descriptors, method = changed("DownloadContent")
    method.options.Extensions[HTTP].get = "/v1/{other=parcels/*}"
    with pytest.raises(ContractError) as caught:
        routes(descriptors)
    assert len(caught.value.faults) == 2


def test_all_faults_are_told_at_once() -> None:
    descriptors, method = changed("GetParcel")
    method.options.ClearExtension(access_pb2.access)
    for each in descriptors.file[-1].service[0].method:
        each.options.ClearExtension(access_pb2.access)
    with pytest.raises(ContractError) as caught:
        routes(descriptors)
    assert len(caught.value.faults) == 8


@pytest.mark.parametrize(
    ("template", "matching", "other"),
    [
        ("/v1/parcels", ["/v1/parcels"], ["/v1/parcels/", "/v1/parcels:watch", "/v1/parcelsx", "/v2/parcels"]),
        ("/v1/{name=parcels/*}", ["/v1/parcels/7"], ["/v1/parcels/7:seal", "/v1/parcels/7/content", "/v1/parcels/"]),
        ("/v1/{id}", ["/v1/7"], ["/v1/7/8"]),
        ("/v1/{name=parcels/*}:seal", ["/v1/parcels/7:seal"], ["/v1/parcels/7", "/v1/parcels/7:sealx"]),
        ("/v1/{name=a/**}/b", ["/v1/a/1/b", "/v1/a/1/2/b"], ["/v1/a/b", "/v1/a/1"]),
        ("/v1/a.b", ["/v1/a.b"], ["/v1/axb"]),
    ],
)
def test_a_template_matches_its_paths_only(template: str, matching: list[str], other: list[str]) -> None:
    pattern = Binding("GET", template, "").pattern
    assert all(re.fullmatch(pattern, path) for path in matching)
    assert not any(re.fullmatch(pattern, path) for path in other)


def test_the_contracts_of_the_node_make_a_route_table() -> None:
    table = routes(contracts.load(mesh.SERVICES))
    assert {route.upstream for route in table} <= set(mesh.SERVICES)
    assert all(binding.template.startswith("/v1/") for route in table for binding in route.rest)
    assert all(route.scopes for route in table)


def test_descriptors_come_after_what_they_import() -> None:
    seen: set[str] = set()
    for file in contract.DESCRIPTORS.file:
        assert set(file.dependency) <= seen
        seen.add(file.name)
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= seen
