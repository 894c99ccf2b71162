"""The calls in deploy/README.md are calls of the contracts."""

import json
import re

import pytest
from google.protobuf import json_format, message_factory
from solmu.exchange.v1 import keys_pb2, mesh_pb2, publishing_pb2

from deploy.local.plan import SOURCE
from gateway import contracts, routes
from services.runtime import mesh

FILES = (keys_pb2, mesh_pb2, publishing_pb2)
METHODS = {
    method.full_name: method
    for file in FILES
    for each in file.DESCRIPTOR.services_by_name.values()
    for method in each.methods
}
CALLS = re.findall(
    r"solmu call (GET|POST|PUT) (\S+?)`?(?: '(\{.*?\})'\s|\s)", (SOURCE / "deploy/README.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize(("verb", "path", "body"), CALLS)
def test_a_call_in_the_page_is_one_of_the_contract(verb: str, path: str, body: str) -> None:
    table = routes.routes(contracts.load(mesh.SERVICES))
    [(route, binding)] = [
        (route, binding)
        for route in table
        for binding in route.rest
        if binding.verb == verb and re.fullmatch(binding.pattern, path)
    ]
    method = METHODS[f"{route.service}.{route.method}"]
    whole = method.input_type
    taken = whole if binding.body in {"", "*"} else whole.fields_by_name[binding.body].message_type
    json_format.ParseDict(json.loads(body or "{}"), message_factory.GetMessageClass(taken)())


def test_the_page_has_calls() -> None:
    assert len(CALLS) >= 10
