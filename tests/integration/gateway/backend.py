"""A real gRPC service behind the edge: mTLS, and a method of each kind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.unit.gateway import contract

PIECE = 64 << 10
_to_status: Any = rpc_status.to_status


class Parcels(contract.services.ParcelServiceServicer):  # type: ignore[misc]
    """Answers with what it received, so that tests see what reached it."""

    def __init__(self) -> None:
        self.calls = 0
        self.contents: dict[str, bytes] = {}
        self.largest_piece = 0

    async def GetParcel(self, request: Any, context: Any) -> Any:
        self.calls += 1
        if request.name == "parcels/broken":
            await refuse(context, 'says "no" {to} [you], ä🙂 \\ back\n%s %REQ(:path)%')
        if request.name == "parcels/missing":
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
        if request.name == "parcels/slow":
            await asyncio.sleep(30)
        return contract.messages.Parcel(name=request.name, headers=metadata(context))

    SealParcel = GetParcel

    async def CreateParcel(self, request: Any, _: Any) -> Any:
        self.calls += 1
        if request.parcel.name == "slow":
            await asyncio.sleep(30)
        return request.parcel

    async def WatchParcels(self, request: Any, _: Any) -> AsyncIterator[Any]:
        self.calls += 1
        for number in range(1000 if request.name == "parcels/many" else 3):
            yield contract.messages.Parcel(name=f"parcels/{number}")
            await asyncio.sleep(0.02 if request.name == "parcels/many" else 0)

    async def ImportParcels(self, requests: AsyncIterator[Any], _: Any) -> Any:
        self.calls += 1
        names = [request.parcel.name async for request in requests]
        return contract.messages.Parcel(note=f"{len(names)} parcels")

    async def UploadContent(self, requests: AsyncIterator[Any], _: Any) -> Any:
        self.calls += 1
        name, content, types = "", bytearray(), set()
        async for request in requests:
            name = name or request.name
            if request.content.content_type:
                types.add(request.content.content_type)
            self.largest_piece = max(self.largest_piece, len(request.content.data))
            content += request.content.data
        self.contents[name] = bytes(content)
        return contract.messages.Parcel(
            name=name, note=",".join(types), size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )

    async def DownloadContent(self, request: Any, _: Any) -> AsyncIterator[Any]:
        self.calls += 1
        content = self.contents[request.name]
        for start in range(0, len(content), PIECE):
            yield HttpBody(content_type="application/pdf", data=content[start : start + PIECE])


def metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}


async def refuse(context: Any, text: str) -> None:
    """Refuses as a service of the node does: reason, field violations and when to try again."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="parcel.name", description=text)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=text)
    for detail in (
        error_details_pb2.ErrorInfo(reason="FIELD_INVALID", domain="parcels.solmu", metadata={"}": '"]'}),
        error_details_pb2.BadRequest(field_violations=[violation, violation]),
        retry,
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort_with_status(_to_status(status))
