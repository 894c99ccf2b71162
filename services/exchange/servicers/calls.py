"""CallService: the consumer's side of a call, in the form in which the exchange takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from solmu.exchange.v1 import calls_pb2

from services.exchange import heads, names
from services.exchange.bodies import CHUNK, SMALL
from services.exchange.calling import Call, Calling, Reply
from services.exchange.frames import Frames
from services.exchange.heads import Header, RequestHead
from services.exchange.mandates import salted
from services.exchange.requesters import Requesters
from services.runtime.chain import closed_by

Response = calls_pb2.CallResponse


class Calls:
    """Makes calls for the clients of this node."""

    def __init__(self, *, calling: Calling, requesters: Requesters) -> None:
        self._calling = calling
        self._requesters = requesters

    @closed_by(lambda frame: frame.HasField("end") or frame.head.HasField("end"))
    async def Call(self, requests: AsyncIterator[calls_pb2.CallRequest]) -> AsyncIterator[calls_pb2.CallResponse]:
        """Makes one call."""
        frames: Frames[calls_pb2.CallRequest, calls_pb2.CallRequestHead] = Frames(requests, side="caller")
        head = await frames.head()
        call = Call(
            consumer=self._requesters.one(head.requester),
            service=names.service(head.service),
            head=_request(head),
            body=frames.whole if frames.whole is not None else frames,
            length=head.body_bytes if head.HasField("body_bytes") else None,
            message_id=head.message_id,
            on_behalf_of=salted(head.on_behalf_of) if head.HasField("on_behalf_of") else b"",
            node=names.identifier(head.node, 4) if head.node else "",
            repeatable=head.repeatable,
            timeout=head.timeout.ToTimedelta().total_seconds() if head.HasField("timeout") else None,
        )
        async with self._calling.call(call) as reply:
            first = calls_pb2.CallResponseHead(
                exchange=f"exchanges/{reply.exchange_id}",
                status=reply.head.status,
                reason_phrase=reply.head.reason,
                headers=_fields(reply.head.headers),
                body_bytes=reply.length,
                message_id=reply.message_id,
            )
            if frames.whole is not None and reply.whole is not None and len(reply.whole) <= SMALL:
                first.body = reply.whole
                first.end.CopyFrom(_end(reply))
                yield Response(head=first)
                return
            yield Response(head=first)
            async for chunk in reply.chunks:
                for at in range(0, len(chunk), CHUNK):
                    yield Response(chunk=chunk[at : at + CHUNK])
            yield Response(end=_end(reply))


def _request(head: calls_pb2.CallRequestHead) -> RequestHead:
    made = RequestHead(
        head.method, head.target, heads.passed_on((header.name, header.value) for header in head.headers)
    )
    return heads.read_request(made.encode())  # what could not be read on the other side is refused here


def _end(reply: Reply) -> calls_pb2.CallResponseEnd:
    return calls_pb2.CallResponseEnd(
        trailers=_fields(reply.trailers),
        request_statement=f"statements/{reply.request_sha256.hex()}",
        response_statement=f"statements/{reply.response_sha256.hex()}",
    )


def _fields(headers: tuple[Header, ...]) -> list[calls_pb2.HeaderField]:
    return [calls_pb2.HeaderField(name=name, value=value) for name, value in headers]
