"""`exchange`: services of subsystems, calls of them, and who may call."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from solmu.exchange.v1 import access_rights_pb2, calls_pb2, monitoring_pb2, services_pb2
from solmu.exchange.v1.access_rights_pb2_grpc import AccessRightServiceStub
from solmu.exchange.v1.calls_pb2_grpc import CallServiceStub
from solmu.exchange.v1.monitoring_pb2_grpc import MonitoringServiceStub
from solmu.exchange.v1.services_pb2_grpc import CatalogueServiceStub

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError, label, plain

SUBSYSTEM_PARTS = 4
SERVICE_PARTS = (5, 6)
CHUNK = 1 << 18
FAILED = 400
"""The first status of HTTP that says that a call has failed."""


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("exchange", help="services of other organisations and one's own: list, call, rights")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    services = actions.add_parser("services", help="list a subsystem's services (scope exchange.services.read)")
    services.add_argument("subsystem", metavar="SUBSYSTEM", help="such as FI/MUN/1/letters")
    services.set_defaults(remote=_services)

    call = actions.add_parser("call", help="call a service, print its answer (scope exchange.call)")
    call.add_argument("service", metavar="SERVICE", help="such as FI/COM/2/register/persons")
    call.add_argument("verb", metavar="VERB", type=str.upper)
    call.add_argument(
        "path",
        metavar="PATH",
        help="with its query; @FILE or - (standard input) keeps it out of process lists",
    )
    call.add_argument("--body", type=Path, metavar="FILE", help="what to send")
    call.add_argument("--type", default="application/json", help="of what is sent (default: application/json)")
    call.set_defaults(remote=_call)

    rights = actions.add_parser("rights", help="list who may call a service (scope exchange.services.manage)")
    rights.add_argument("service", metavar="SERVICE")
    rights.set_defaults(remote=_rights)

    allow = actions.add_parser("allow", help="let a subsystem call a service, or send to an inbox")
    allow.add_argument("what", metavar="WHAT", help="a service, or the inbox of a subsystem: FI/MUN/1/letters")
    allow.add_argument("who", metavar="SUBSYSTEM")
    allow.add_argument("calls", nargs="*", metavar="VERB:PATH", help="such as GET:/persons/**; none: all")
    allow.set_defaults(remote=_allow)

    forbid = actions.add_parser("forbid", help="take a right back, by its name as `allow` and `rights` show it")
    forbid.add_argument("right", metavar="RIGHT", help="such as subsystems/.../accessRights/...")
    forbid.set_defaults(remote=_forbid)

    check = actions.add_parser("check", help="say how a call would be judged; one that is refused ends with 1")
    check.add_argument("service", metavar="SERVICE")
    check.add_argument("who", metavar="SUBSYSTEM")
    check.add_argument("verb", metavar="VERB", type=str.upper)
    check.add_argument("path", metavar="PATH")
    check.set_defaults(remote=_check)

    peers = actions.add_parser("peers", help="list other nodes and what waits (scope exchange.monitoring.operate)")
    peers.set_defaults(remote=_peers)


def _subsystem(identifier: str) -> str:
    """The resource name. Raises UsageError."""
    parts = identifier.split("/")
    if len(parts) != SUBSYSTEM_PARTS:
        raise UsageError(f"{identifier} is not INSTANCE/CLASS/CODE/SUBSYSTEM")
    return f"subsystems/{'~'.join(parts)}"


def _service(identifier: str) -> str:
    """The resource name, with a version or without. Raises UsageError."""
    parts = identifier.split("/")
    if len(parts) not in SERVICE_PARTS:
        raise UsageError(f"{identifier} is not INSTANCE/CLASS/CODE/SUBSYSTEM/SERVICE")
    owner, service = parts[:SUBSYSTEM_PARTS], parts[SUBSYSTEM_PARTS:]
    return f"{_subsystem('/'.join(owner))}/services/{'~'.join(service)}"


async def _services(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = services_pb2.ListServicesRequest(parent=_subsystem(given.subsystem))
    found = [each async for each in client.items(client.stub(CatalogueServiceStub).ListServices, request)]
    kind = services_pb2.Service
    rows = [
        (
            each.name.rpartition("/")[2].replace("~", "/"),
            label(kind.State.Name(each.state)),
            label(kind.Protocol.Name(each.protocol), "PROTOCOL_"),
            each.display_name,
        )
        for each in found
    ]
    out.table(("service", "state", "protocol", "name"), found, rows)


async def _rights(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = access_rights_pb2.ListAccessRightsRequest(parent=_service(given.service))
    found = [each async for each in client.items(client.stub(AccessRightServiceStub).ListAccessRights, request)]
    rows = [
        (
            each.subsystem or each.local_group or each.global_group,
            ", ".join([*(f"{one.method} {one.path}" for one in each.patterns), *each.operation_ids]) or "all",
            each.expire_time.ToJsonString() if each.HasField("expire_time") else "",
            each.name,
        )
        for each in found
    ]
    out.table(("who", "what", "until", "right"), found, rows)


async def _allow(client: Client, given: argparse.Namespace, out: Output) -> None:
    inbox = len(given.what.split("/")) == SUBSYSTEM_PARTS
    right = access_rights_pb2.AccessRight(subsystem=_subsystem(given.who))
    for each in given.calls:
        verb, colon, path = each.partition(":")
        if not colon:
            raise UsageError(f"{each} is not VERB:PATH")
        right.patterns.add(method=verb.upper(), path=path)
    parent = f"{_subsystem(given.what)}/inbox" if inbox else _service(given.what)
    request = access_rights_pb2.CreateAccessRightRequest(parent=parent, access_right=right)
    out.one(await client.call(client.stub(AccessRightServiceStub).CreateAccessRight, request))


async def _forbid(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = access_rights_pb2.DeleteAccessRightRequest(name=given.right)
    out.one(await client.call(client.stub(AccessRightServiceStub).DeleteAccessRight, request))


async def _check(client: Client, given: argparse.Namespace, out: Output) -> int:
    request = access_rights_pb2.CheckAccessRequest(
        name=_service(given.service), subsystem=_subsystem(given.who), method=given.verb, path=given.path
    )
    judged = await client.call(client.stub(AccessRightServiceStub).CheckAccess, request)
    out.one(judged)
    return 0 if judged.allowed else 1


async def _peers(client: Client, _: argparse.Namespace, out: Output) -> None:
    listing = monitoring_pb2.ListPeersRequest()
    found = [each async for each in client.items(client.stub(MonitoringServiceStub).ListPeers, listing)]
    rows = [
        (
            each.node.removeprefix("nodes/").replace("~", "/"),
            label(monitoring_pb2.Peer.State.Name(each.state)),
            str(each.directory_version),
            str(each.envelopes_waiting),
            each.oldest_envelope_time.ToJsonString() if each.HasField("oldest_envelope_time") else "",
        )
        for each in found
    ]
    out.table(("node", "state", "directory", "envelopes", "since"), found, rows)


async def _call(client: Client, given: argparse.Namespace, out: Output) -> int:
    """Prints the answer's body as it comes; with --json all of the answer, its body in base64, as it comes too."""
    head, end, rest = calls_pb2.CallResponseHead(), calls_pb2.CallResponseEnd(), b""
    stub: Any = client.stub(CallServiceStub)
    async for frame in client.stream(stub.Call, _frames(_head(given), given.body, out)):
        if frame.HasField("head"):
            head, end = frame.head, frame.head.end
            if out.as_json:
                shown = {name: value for name, value in plain(head).items() if name not in {"body", "end"}}
                sys.stdout.write(json.dumps({**shown, "body": ""}, ensure_ascii=False)[:-2])
        elif frame.HasField("end"):
            end = frame.end
        part = frame.head.body or frame.chunk
        if out.as_json:
            rest += part
            whole = len(rest) - len(rest) % 3
            sys.stdout.write(base64.b64encode(rest[:whole]).decode())
            rest = rest[whole:]
        else:
            sys.stdout.buffer.write(part)
    sys.stdout.flush()
    if out.as_json:
        print(f'{base64.b64encode(rest).decode()}", "end": {json.dumps(plain(end), ensure_ascii=False)}}}')
    elif head.status >= FAILED:
        print(f"the service answered {head.status} {head.reason_phrase}; {head.exchange}", file=sys.stderr)
    return 1 if head.status >= FAILED else 0


def _head(given: argparse.Namespace) -> calls_pb2.CallRequestHead:
    """Raises UsageError; OSError where the file cannot be read."""
    head = calls_pb2.CallRequestHead(service=_service(given.service), method=given.verb, target=_target(given.path))
    if given.body is None:
        head.body = b""
    else:
        head.headers.add(name="Content-Type", value=given.type.encode())
        head.body_bytes = given.body.stat().st_size
    return head


def _target(path: str) -> bytes:
    """The path as it was typed, or the line that a file or standard input has. Raises OSError."""
    if path == "-":
        path = sys.stdin.readline()
    elif path.startswith("@"):
        path = Path(path[1:]).read_text(encoding="utf-8")
    return path.strip().encode()


async def _frames(head: calls_pb2.CallRequestHead, body: Path | None, out: Output) -> AsyncIterator[Message]:
    yield calls_pb2.CallRequest(head=head)
    if body is not None:
        sent = 0
        with out.bar(body.name) as bar:
            for chunk in _chunks(body):
                yield calls_pb2.CallRequest(chunk=chunk)
                sent += len(chunk)
                bar(sent, head.body_bytes)
        yield calls_pb2.CallRequest(end=calls_pb2.CallEnd())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
