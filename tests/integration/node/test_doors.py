"""Every public method has both doors, and who knocks at either reaches the service behind it."""

from __future__ import annotations

import re

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from solmu.exchange.v1 import errors_pb2

from deploy.local.node import Node
from gateway import contracts
from gateway.routes import Route, routes
from services.runtime import mesh, status
from services.runtime.database import Database  # noqa: F401
from tests.integration.node.callers import Caller, issuer, profile

PUBLIC = routes(contracts.load(mesh.SERVICES))
ANSWERS = {"METHOD_NOT_IMPLEMENTED", "FIELD_INVALID", "RESOURCE_NOT_FOUND", "NAME_INVALID"} | {
    reason.removeprefix(status.PREFIX)
    for reason in errors_pb2.ErrorReason.keys()  # noqa: SIM118  # an enum of protobuf
}
"""Reasons that only a service gives: the edge let the call through."""


def caller(node: Node, route: Route) -> Caller:
    files = profile(node, "permits").files
    mine = Caller(node.edge, files, None).fingerprint
    return Caller(node.edge, files, issuer(node).token(mine, scope=" ".join(route.scopes)))


@pytest.mark.parametrize("route", PUBLIC, ids=lambda route: route.path)
async def test_a_method_is_reached_by_grpc_and_rest(node: Node, route: Route):
    knocking = caller(node, route)
    method = Default().FindMethodByName(route.path.strip("/").replace("/", "."))
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    async with knocking.channel() as channel:
        call = getattr(channel, f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}")(
            route.path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        argument = iter([request()]) if method.client_streaming else request()
        try:
            answer = call(argument, metadata=knocking.metadata(), timeout=10)
            if method.server_streaming:
                async for _ in answer:
                    break
            else:
                await answer
        except grpc.RpcError as error:
            assert status.fault_of(error).reason in ANSWERS

    assert route.rest, f"{route.path} has no REST door"
    for binding in route.rest:
        path = re.sub(
            r"\{[^=}]*=([^}]*)\}", lambda found: found[1].replace("**", "x").replace("*", "x"), binding.template
        )
        path = re.sub(r"\{[^}]*\}", "x", path)
        raw = (b"[{}]" if method.client_streaming else b"{}") if binding.body else None
        http, document = await knocking.rest(binding.verb, path, raw=raw, stream=method.server_streaming)
        assert http == 200 or document["reason"] in ANSWERS, (http, document)


def _kind(streams: bool) -> str:
    return "stream" if streams else "unary"
