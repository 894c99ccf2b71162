"""Calls from the city to the company, through both nodes, and what became of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import Message
from solmu.exchange.v1 import access_rights_pb2, calls_pb2, exchanges_pb2, hosting_pb2, policies_pb2, services_pb2

from services.exchange import names
from services.runtime import identity
from services.runtime.database import Row
from services.runtime.errors import Fault
from services.runtime.identity import Caller
from tests.integration.exchange.mesh import Member, Node

CONSUMER = "FI/MUN/1/letters"
PROVIDER = "FI/COM/2/register"
CLIENT = "clients/case-system"


@dataclass
class Answered:
    """An answer, read to its end."""

    head: calls_pb2.CallResponseHead
    body: bytes = b""
    size: int = 0
    end: calls_pb2.CallResponseEnd | None = None
    frames: int = 0
    chunks: list[int] = field(default_factory=list)

    @property
    def exchange_id(self) -> uuid.UUID:
        return uuid.UUID(self.head.exchange.removeprefix("exchanges/"))

    def header(self, name: str) -> bytes | None:
        return next((one.value for one in self.head.headers if one.name.lower() == name), None)


def act_as_client() -> None:
    """Has the next calls come from the city's information system."""
    identity.set_caller(Caller(service="edge", client_id=CLIENT.removeprefix("clients/"), expires=4e9))


def head(service: str, **given) -> calls_pb2.CallRequestHead:
    """A request's head; GET / where nothing else is given."""
    fields = {"method": "GET", "target": b"/", **given}
    fields["headers"] = [
        calls_pb2.HeaderField(name=name, value=value) for name, value in fields.pop("headers", [("Accept", b"*/*")])
    ]
    return calls_pb2.CallRequestHead(service=names.service_resource(service), **fields)


async def whole(first: calls_pb2.CallRequestHead) -> AsyncIterator[calls_pb2.CallRequest]:
    """A request of one frame."""
    if not first.HasField("body"):
        first.body = b""
    yield calls_pb2.CallRequest(head=first)


async def flowing(
    first: calls_pb2.CallRequestHead, chunks: Sequence[bytes] | AsyncIterator[bytes], trailers: Sequence[tuple] = ()
) -> AsyncIterator[calls_pb2.CallRequest]:
    """A request whose body comes in chunks."""
    yield calls_pb2.CallRequest(head=first)
    if isinstance(chunks, Sequence):
        for chunk in chunks:
            yield calls_pb2.CallRequest(chunk=chunk)
    else:
        async for chunk in chunks:
            yield calls_pb2.CallRequest(chunk=chunk)
    fields = [calls_pb2.HeaderField(name=name, value=value) for name, value in trailers]
    yield calls_pb2.CallRequest(end=calls_pb2.CallEnd(trailers=fields))


async def send(node: Node, requests: AsyncIterator[calls_pb2.CallRequest], *, keep: bool = True) -> Answered:
    """Makes a call as the city's information system. Raises Fault."""
    act_as_client()
    answered = Answered(calls_pb2.CallResponseHead())
    async for frame in node.exchange.calls.Call(requests):
        answered.frames += 1
        kind = frame.WhichOneof("frame")
        if kind == "head":
            answered.head = frame.head
            if frame.head.HasField("end"):
                answered.body, answered.end = frame.head.body, frame.head.end
        elif kind == "chunk":
            answered.chunks.append(len(frame.chunk))
            answered.body += frame.chunk if keep else b""
        else:
            answered.end = frame.end
        answered.size = len(answered.body) or sum(answered.chunks)
    return answered


async def refused(node: Node, requests: AsyncIterator[calls_pb2.CallRequest]) -> Fault:
    """The refusal of a call."""
    try:
        await send(node, requests)
    except Fault as fault:
        return fault
    raise AssertionError("the call was answered")


async def record(node: Node, fault_or_answer: Fault | Answered, side: int) -> Row:
    """What a node remembers of an exchange."""
    if isinstance(fault_or_answer, Fault):
        exchange_id = uuid.UUID(fault_or_answer.metadata["exchange"])
    else:
        exchange_id = fault_or_answer.exchange_id
    row = await node.database.fetchrow("select * from exchange where exchange_id = $1 and side = $2", exchange_id, side)
    assert row is not None, "the exchange is not on record"
    return row


async def remembered(node: Node, side: int, **known) -> Row:
    """What a node remembers of the exchange that fits, once it does: nobody waits for the record of some."""
    condition = " and ".join(f"{name} = ${number}" for number, name in enumerate(known, start=2))
    query = f"select * from exchange where side = $1 and {condition}"
    for _ in range(600):
        row = await node.database.fetchrow(query, side, *known.values())
        if row is not None:
            return row
        await asyncio.sleep(0.05)
    raise AssertionError("the exchange is not on record")


def sizes(row: Row) -> tuple[int, int]:
    """Bytes of request and answer on record."""
    measured = exchanges_pb2.Exchange.Measurement.FromString(row["measurement"])
    return measured.request_bytes, measured.response_bytes


async def statements(node: Node, exchange_id: uuid.UUID | str) -> list[tuple[int, bool]]:
    """Kind and `own` of the statements that a node holds of an exchange."""
    rows = await node.database.fetch(
        "select kind, own from statement where exchange_id = $1 order by kind, own", uuid.UUID(str(exchange_id))
    )
    return [(row["kind"], row["own"]) for row in rows]


async def refused_proofs(node: Node, exchange_id: str) -> list[str]:
    """The reasons for which a node has refused proofs of an exchange."""
    rows = await node.database.fetch("select reason from refused_proof where exchange_id = $1", uuid.UUID(exchange_id))
    return [row["reason"] for row in rows]


async def host(node: Member, subsystem: str, **settings) -> None:
    """Changes a subsystem's settings."""
    hosting = hosting_pb2.Hosting(name=f"{names.resource('subsystems', subsystem)}/hosting", **settings)
    request = hosting_pb2.UpdateHostingRequest(hosting=hosting)
    request.update_mask.paths.extend(settings)
    await node.exchange.hosting.UpdateHosting(request)


async def service(node: Member, uri: str, *, subsystem: str = PROVIDER, code: str = "", **given) -> str:
    """A new service of a subsystem; returns its identifier."""
    code = code or f"service-{uuid.uuid4().hex[:8]}"
    backend = {"uri": uri, **given.pop("backend", {})}
    await node.exchange.catalogue.CreateService(
        services_pb2.CreateServiceRequest(
            parent=names.resource("subsystems", subsystem),
            service_code=code,
            service=services_pb2.Service(backend=services_pb2.Service.Backend(**backend), **given),
        )
    )
    return f"{subsystem}/{code}"


async def allow(node: Member, identifier: str, *patterns: tuple[str, str], consumer: str = CONSUMER, **given) -> str:
    """Gives a consumer a right to a service."""
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    right = await node.exchange.rights.CreateAccessRight(
        access_rights_pb2.CreateAccessRightRequest(
            parent=names.service_resource(identifier),
            access_right=access_rights_pb2.AccessRight(
                subsystem=names.resource("subsystems", consumer),
                patterns=[access_rights_pb2.AccessRight.Pattern(method=method, path=path) for method, path in patterns],
                **given,
            ),
        )
    )
    return right.name


async def policy(node: Member, **content) -> str:
    """A new policy; returns its name."""
    made = await node.exchange.policies.CreateExchangePolicy(
        policies_pb2.CreateExchangePolicyRequest(
            exchange_policy_id=f"policy-{uuid.uuid4().hex[:8]}",
            exchange_policy=policies_pb2.ExchangePolicy(**content),
        )
    )
    return made.name


def copy_of(message: Message) -> Message:
    """An equal message that may be changed."""
    made = type(message)()
    made.CopyFrom(message)
    return made
