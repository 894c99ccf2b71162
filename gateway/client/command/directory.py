"""`directory`: the meshes that a node is in, their members, and the anchors by which nodes join."""

from __future__ import annotations

import argparse
import io
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from google.protobuf import proto
from solmu.exchange.v1 import directory_pb2, directory_service_pb2, identifiers_pb2, mesh_pb2
from solmu.exchange.v1.directory_service_pb2_grpc import DirectoryServiceStub
from solmu.exchange.v1.mesh_pb2_grpc import MeshServiceStub

from gateway.client.client import Client
from gateway.client.command.output import Output, UsageError, label

NODE_PARTS = 4


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("directory", help="meshes of the node: how they stand, members, anchors, joining")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    show = actions.add_parser("show", help="how the directories stand (scope exchange.directory.read)")
    show.add_argument("instance", nargs="?", help="only this one, with all that it has")
    show.set_defaults(remote=_show)

    members = actions.add_parser("members", help="list members")
    members.add_argument("--instance", default="", help="only of this mesh")
    members.set_defaults(remote=_members)

    anchor = actions.add_parser("anchor", help="write a mesh's first anchor to a file, for those who are to join")
    anchor.add_argument("instance")
    anchor.add_argument("file", type=Path, metavar="FILE")
    anchor.set_defaults(remote=_anchor)

    inspect = actions.add_parser("inspect", help="show what an anchor file says (scope exchange.mesh.manage)")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.set_defaults(remote=_inspect)

    join = actions.add_parser("join", help="join a mesh by its anchor (scope exchange.mesh.manage)")
    join.add_argument("file", type=Path, metavar="FILE")
    join.add_argument("--fingerprint", required=True, metavar="HEX", help="of the anchor, as it came by another way")
    join.add_argument("--node", required=True, metavar="INSTANCE/CLASS/CODE/NODE", help="what the node is to be")
    join.set_defaults(remote=_join)

    refresh = actions.add_parser("refresh", help="look for a newer directory now (scope exchange.mesh.manage)")
    refresh.add_argument("instance")
    refresh.set_defaults(remote=_refresh)

    leave = actions.add_parser("leave", help="leave the node's mesh: what waits for others is given up")
    leave.add_argument("instance")
    leave.add_argument("--confirm", required=True, metavar="INSTANCE", help="the same once more, against slips")
    leave.set_defaults(remote=_leave)


async def _show(client: Client, given: argparse.Namespace, out: Output) -> None:
    stub = client.stub(DirectoryServiceStub)
    if given.instance:
        request = directory_service_pb2.GetDirectoryRequest(name=f"directories/{given.instance}")
        out.one(await client.call(stub.GetDirectory, request))
        return
    listing = directory_service_pb2.ListDirectoriesRequest()
    found = [each async for each in client.items(stub.ListDirectories, listing)]
    rows = [
        (
            each.instance,
            label(directory_pb2.Directory.State.Name(each.state)),
            str(each.version),
            each.expire_time.ToJsonString() if each.HasField("expire_time") else "",
            "own" if each.own else "federated",
        )
        for each in found
    ]
    out.table(("instance", "state", "version", "holds until", "mesh"), found, rows)


async def _members(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = directory_service_pb2.ListMembersRequest(instance=given.instance)
    found = [each async for each in client.items(client.stub(DirectoryServiceStub).ListMembers, request)]
    rows = [(each.id.instance, each.id.member_class, each.id.member_code, each.display_name) for each in found]
    out.table(("instance", "class", "code", "name"), found, rows)


async def _anchor(client: Client, given: argparse.Namespace, out: Output) -> None:
    """The anchor is the first entry of an export."""
    request = mesh_pb2.ExportDirectoryRequest(name=f"directories/{given.instance}")
    content = b""
    async with aclosing(client.stream(client.stub(MeshServiceStub).ExportDirectory, request)) as parts:
        async for part in parts:
            content += part.data
    entry = proto.parse_length_prefixed(mesh_pb2.DirectoryExportEntry, io.BytesIO(content))
    if entry is None or not entry.HasField("anchor"):
        raise UsageError("the export holds no anchor")
    given.file.write_bytes(entry.anchor.SerializeToString())
    await _inspect(client, given, out)


async def _inspect(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = mesh_pb2.InspectAnchorRequest(anchor=given.file.read_bytes())
    out.one(await client.call(client.stub(MeshServiceStub).InspectAnchor, request))


async def _join(client: Client, given: argparse.Namespace, out: Output) -> None:
    parts = [unquote(part) for part in given.node.split("/")]
    if len(parts) != NODE_PARTS:
        raise UsageError(f"{given.node} is not INSTANCE/CLASS/CODE/NODE")
    instance, member_class, member_code, node_code = parts
    owner = identifiers_pb2.MemberId(instance=instance, member_class=member_class, member_code=member_code)
    request = mesh_pb2.JoinMeshRequest(
        anchor=given.file.read_bytes(),
        fingerprint=given.fingerprint,
        node=identifiers_pb2.NodeId(owner=owner, node_code=node_code),
    )
    out.one(await client.call(client.stub(MeshServiceStub).JoinMesh, request))


async def _refresh(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = mesh_pb2.RefreshDirectoryRequest(name=f"directories/{given.instance}")
    out.one(await client.call(client.stub(MeshServiceStub).RefreshDirectory, request))


async def _leave(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = mesh_pb2.LeaveMeshRequest(name=f"directories/{given.instance}", confirm_instance=given.confirm)
    out.one(await client.call(client.stub(MeshServiceStub).LeaveMesh, request))
