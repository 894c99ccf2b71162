"""The calls in deploy/README.md are calls of the contracts."""

import json
import re

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import Default

from deploy.local.plan import SOURCE
from gateway import contracts, routes
from services.runtime import mesh

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
    whole = Default().FindServiceByName(route.service).methods_by_name[route.method].input_type
    taken = whole if binding.body in {"", "*"} else whole.fields_by_name[binding.body].message_type
    assert taken is not None
    json_format.ParseDict(json.loads(body or "{}"), message_factory.GetMessageClass(taken)())


def test_the_page_has_calls() -> None:
    assert len(CALLS) >= 10
