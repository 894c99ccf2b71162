"""The OpenAPI document: that of the contracts as they are, valid, and with examples that hold."""

from __future__ import annotations

import json
from typing import Any

import protovalidate
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import Default
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway import contracts, openapi
from gateway.openapi.__main__ import descriptors, text
from gateway.openapi.examples import EXAMPLES
from gateway.openapi.paths import translate
from gateway.routes import routes
from services.runtime import mesh

DOCUMENT: dict[str, Any] = json.loads(openapi.committed())
PUBLIC = {f"{route.upstream}.{route.method}": route for route in routes(contracts.load(mesh.SERVICES))}
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}


def test_the_committed_document_is_that_of_the_contracts():
    assert openapi.committed().decode() == text(descriptors()), "run `make proto`"


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_public_method_is_an_operation_with_its_scopes_and_its_refusals():
    assert PUBLIC.keys() <= OPERATIONS.keys()
    for name, route in PUBLIC.items():
        operation = OPERATIONS[name]
        assert operation["security"] == [{"certificate": [], "token": list(route.scopes)}]
        assert {"400", "401", "403", "404", "501", "503"} <= operation["responses"].keys()
        assert operation["summary"]


def test_every_documented_reason_is_told_of():
    told = json.dumps(DOCUMENT["components"]["responses"])
    for service in (*mesh.SERVICES, "runtime"):
        enum = Default().FindEnumTypeByName(f"solmu.{service}.v1.ErrorReason")
        missing = [
            value.name
            for value in enum.values
            if value.number and f"`{value.name.removeprefix('ERROR_REASON_')}`" not in told
        ]
        assert missing == []


def test_nothing_personal_can_be_asked_for_in_a_url():
    for name, route in PUBLIC.items():
        operation = OPERATIONS[name]
        request = Default().FindServiceByName(route.service).methods_by_name[route.method].input_type
        for parameter in operation.get("parameters", []):
            field = parameter["name"] if parameter["in"] == "query" else ""
            described = next((each for each in request.fields if each.json_name == field.partition(".")[0]), None)
            if described is not None:
                assert not described.GetOptions().debug_redact, f"{name}: {field}"
                assert described.type != described.TYPE_BYTES, f"{name}: {field}"


def test_rules_of_the_contract_are_in_the_schemas():
    attachment = DOCUMENT["components"]["schemas"]["messages.Attachment"]
    assert attachment["properties"]["sha256"]["pattern"] == "^[0-9a-f]{64}$"
    assert "≤ 2147483648" in attachment["properties"]["sizeBytes"]["description"]
    assert attachment["properties"]["state"]["readOnly"] is True
    assert {"fileName"} == set(attachment["required"])
    recipient = DOCUMENT["components"]["schemas"]["messages.Recipient"]
    assert {"required": ["mailbox"]} in recipient["allOf"][0]["oneOf"]
    [key] = [each for each in OPERATIONS["messages.SendMessage"]["parameters"] if each["name"] == "idempotencyKey"]
    assert key["required"]
    assert key["schema"]["pattern"] == "^[A-Za-z0-9._:|/=+-]{1,128}$"


@pytest.mark.parametrize(
    ("template", "rules", "path", "ids"),
    [
        (
            "/v1/{parent=units/*}/messages",
            {"parent": "^units/[a-z-]{3,63}$"},
            "/v1/units/{unit}/messages",
            {"unit": "^[a-z-]{3,63}$"},
        ),
        ("/v1/{client.name=clients/*}", {}, "/v1/clients/{client}", {"client": ""}),
        ("/v1/{name=mailboxes/*}:open", {}, "/v1/mailboxes/{mailbox}:open", {"mailbox": ""}),
        (
            "/v1/{name=subsystems/*/services/*}",
            {"name": "^subsystems/[^/:~]+(~[^/:~]+){3}/services/[a-z]+$"},
            "/v1/subsystems/{subsystem}/services/{service}",
            {"subsystem": "^[^/:~]+(~[^/:~]+){3}$", "service": "^[a-z]+$"},
        ),
        # A rule with alternatives for the whole name says nothing of one segment.
        (
            "/v1/{name=attachments/*}/content",
            {"name": "^(mailboxes/[0-9a-f-]{36}/)?attachments/[0-9a-f-]{36}$"},
            "/v1/attachments/{attachment}/content",
            {"attachment": ""},
        ),
    ],
)
def test_resource_names_become_ids_in_the_path(template: str, rules: dict[str, str], path: str, ids: dict[str, str]):
    found, parameters = translate(template, rules)
    assert found == path
    assert {parameter.name: parameter.pattern for parameter in parameters} == ids


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_one_of_its_method_and_keeps_its_rules(name: str):
    route = PUBLIC[name]
    method = Default().FindMethodByName(f"{route.service}.{route.method}")
    if "request" in EXAMPLES[name]:
        field = method.input_type.fields_by_name.get(route.rest[0].body)
        body = message_factory.GetMessageClass((field and field.message_type) or method.input_type)()
        json_format.ParseDict(EXAMPLES[name]["request"], body)
        if field:
            protovalidate.validate(body)
    if "answer" in EXAMPLES[name]:
        json_format.ParseDict(EXAMPLES[name]["answer"], message_factory.GetMessageClass(method.output_type)())
