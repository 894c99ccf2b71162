"""Envelopes from the city to the company, through both nodes, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import deliveries_pb2, envelopes_pb2
from solmu.exchange.v1.envelopes_pb2 import DeliveryState, Envelope

from services.runtime import identity
from tests.integration.exchange.mesh import Node

CITY, COMPANY = "subsystems/FI~MUN~1~letters", "subsystems/FI~COM~2~register"
ACKNOWLEDGED, REFUSED = DeliveryState.DELIVERY_STATE_ACKNOWLEDGED, DeliveryState.DELIVERY_STATE_REFUSED


def act(client_id: str = "system") -> None:
    identity.set_caller(identity.Caller(service="edge", client_id=client_id, expires=4e9))


async def send(node: Node, body: bytes = b"content", **fields) -> Envelope:
    values = {"subsystem": COMPANY, "message_id": str(uuid.uuid4()), "media_type": "text/plain", **fields}
    if values.keys() & {"topic", "group"}:
        del values["subsystem"]
    return await node.exchange.asynchronous.envelopes.SendEnvelope(
        envelopes_pb2.SendEnvelopeRequest(parent="subsystems/-", envelope=Envelope(**values), body=body)
    )


async def receive(node: Node, number: int = 1, *, within: float = 20.0, **fields) -> list[deliveries_pb2.Delivery]:
    """So many deliveries, as they come."""
    found: list[deliveries_pb2.Delivery] = []
    end = asyncio.get_running_loop().time() + within
    while len(found) < number:
        request = deliveries_pb2.ReceiveDeliveriesRequest(
            parent="subsystems/-", max_deliveries=number - len(found), wait=Duration(seconds=2), **fields
        )
        found += (await node.exchange.asynchronous.deliveries.ReceiveDeliveries(request)).deliveries
        assert asyncio.get_running_loop().time() < end, f"{len(found)} of {number} came"
    return found


async def acknowledge(node: Node, *deliveries: deliveries_pb2.Delivery):
    one = deliveries_pb2.AcknowledgeDeliveriesRequest.Acknowledgement
    return await node.exchange.asynchronous.deliveries.AcknowledgeDeliveries(
        deliveries_pb2.AcknowledgeDeliveriesRequest(
            parent="subsystems/-",
            acknowledgements=[one(name=each.name, lease_id=each.lease_id) for each in deliveries],
        )
    )


async def recipients(node: Node, envelope: Envelope) -> list[envelopes_pb2.Recipient]:
    request = envelopes_pb2.ListRecipientsRequest(parent=envelope.name)
    return list((await node.exchange.asynchronous.envelopes.ListRecipients(request)).recipients)


async def until(node: Node, envelope: Envelope, *states: DeliveryState.ValueType) -> list[envelopes_pb2.Recipient]:
    """The recipients, once they are in these states."""
    for _ in range(100):
        found = await recipients(node, envelope)
        if [each.state for each in found] == list(states):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{found}")


async def drain(node: Node) -> None:
    """Acknowledges all that has come."""
    while found := (
        await node.exchange.asynchronous.deliveries.ReceiveDeliveries(
            deliveries_pb2.ReceiveDeliveriesRequest(parent="subsystems/-", max_deliveries=100)
        )
    ).deliveries:
        await acknowledge(node, *found)


@contextlib.contextmanager
def unreachable(node: Node, monkeypatch: pytest.MonkeyPatch):
    """No other node is reached from this one."""

    class Away:
        def Deliver(self, *_, **__):
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())

        Subscribe = Greet = Deliver

    with monkeypatch.context() as patch:
        patch.setattr(node.exchange.peers, "stubs", lambda _: [Away()])
        yield
