"""The command line in place of a client: every call of a contract becomes a `solmu call`, as an administrator types it."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from google.api import annotations_pb2
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from solmu.exchange.v1 import (
    access_rights_pb2,
    directory_service_pb2,
    hosting_pb2,
    keys_pb2,
    mesh_pb2,
    policies_pb2,
    publishing_pb2,
    services_pb2,
)

from tests.integration.client.test_command import solmu


class Service:
    """A service of the contract, through a profile."""

    def __init__(self, profile: Path, service: ServiceDescriptor) -> None:
        self._profile = profile
        self._service = service

    def __getattr__(self, name: str) -> Callable[[Message], Awaitable[Any]]:
        method = self._service.methods_by_name[name]

        async def call(request: Message) -> Message:
            answer = message_factory.GetMessageClass(method.output_type)()
            return json_format.ParseDict(await typed(self._profile, *arguments(method, request)), answer)

        return call


class Exchange:
    """The services by which a node's exchange is administered, by the short names that the nodes of tests have."""

    def __init__(self, profile: Path) -> None:
        of = {
            "directories": directory_service_pb2.DESCRIPTOR.services_by_name["DirectoryService"],
            "mesh": mesh_pb2.DESCRIPTOR.services_by_name["MeshService"],
            "publishing": publishing_pb2.DESCRIPTOR.services_by_name["PublisherService"],
            "keys": keys_pb2.DESCRIPTOR.services_by_name["OrganisationKeyService"],
            "hosting": hosting_pb2.DESCRIPTOR.services_by_name["HostingService"],
            "catalogue": services_pb2.DESCRIPTOR.services_by_name["CatalogueService"],
            "rights": access_rights_pb2.DESCRIPTOR.services_by_name["AccessRightService"],
            "policies": policies_pb2.DESCRIPTOR.services_by_name["PolicyService"],
        }
        vars(self).update({name: Service(profile, service) for name, service in of.items()})


async def typed(profile: Path, *arguments: str | Path) -> Any:
    """What `solmu` prints as JSON. It must succeed."""
    done = await solmu("--profile", profile, "--json", *arguments)
    assert done.status == 0, f"solmu {' '.join(map(str, arguments))}: {done.error}"
    return json.loads(done.out or "null")


def arguments(method: MethodDescriptor, request: Message) -> list[str]:
    """`call VERB PATH [JSON]` for a request."""
    http: Any = annotations_pb2.http
    rule = method.GetOptions().Extensions[http]
    bindings = [binding for binding in (rule, *rule.additional_bindings) if fits(binding, request)]
    verb = bindings[0].WhichOneof("pattern")
    rest = json_format.MessageToDict(request)

    def filled(variable: re.Match[str]) -> str:
        *parents, last = variable[1].split(".")
        holder = rest
        for name in parents:
            holder = holder[camel(name)]
        return str(holder.pop(camel(last)))

    path = re.sub(VARIABLE, filled, getattr(bindings[0], verb))
    body = rest if bindings[0].body == "*" else rest.pop(camel(bindings[0].body), None) if bindings[0].body else None
    if bindings[0].body != "*" and rest:
        path += f"?{urlencode(rest, doseq=True)}"
    return ["call", verb.upper(), path, *([json.dumps(body)] if body is not None else [])]


VARIABLE = r"\{([\w.]+)=([^}]*)\}"


def fits(binding: Any, request: Message) -> bool:
    """Whether the fields of a request that stand in the path have the form that this binding wants."""
    template = getattr(binding, binding.WhichOneof("pattern"))
    for field, form in re.findall(VARIABLE, template):
        value: Any = request
        for name in field.split("."):
            value = getattr(value, name)
        if not re.fullmatch(form.replace("*", "[^/]+"), value):
            return False
    return True


def camel(name: str) -> str:
    """The name of a field in JSON."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
