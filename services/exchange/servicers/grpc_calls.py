"""gRPC services of other members, for consumers with stubs of their own: any method, called at this node.

A consumer calls the method as if the service were here, and says in metadata
which one is meant:

    solmu-service                `subsystems/{subsystem}/services/{service}`
    solmu-subsystem              in whose name, where the client has several: `subsystems/{subsystem}`
    solmu-message-id             the caller's own id
    solmu-node                   a node of the provider: `nodes/{node}`
    solmu-on-behalf-of-bin       a serialised `OnBehalfOf`
    solmu-backend-authorization  what the backend gets as `authorization`: the consumer's own is for this node

The rest of its metadata goes on. Back come the backend's metadata, messages and
status, with `solmu-exchange` before them and `solmu-request-statement` and
`solmu-response-statement` after. A refusal of one of the nodes is a status with
`google.rpc.ErrorInfo` of the domain "exchange.solmu".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import protovalidate
from google.protobuf.message import DecodeError
from solmu.exchange.v1 import calls_pb2
from solmu.exchange.v1.identifiers_pb2 import Requester
from solmu.exchange.v1.statements_pb2 import OnBehalfOf

from services.exchange import grpc_messages, names
from services.exchange.bodies import CHUNK
from services.exchange.calling import Call, Calling, Reply
from services.exchange.frames import Frames
from services.exchange.heads import Header, RequestHead, passed_on
from services.exchange.mandates import salted
from services.exchange.providing import OWN_HEADERS
from services.exchange.requesters import Requesters
from services.runtime.errors import InvalidArgument

SERVICE = "solmu-service"
"""The metadata that says that a call is for another member, and for which service."""

_NOT_PASSED_ON = re.compile(
    r"solmu-|x-edge-|x-envoy-|x-forwarded-|(?:authorization|x-request-id|traceparent|tracestate)$"
)
"""Metadata that is for this node, or that its edge writes."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcCalls:
    """Makes calls for consumers' stubs."""

    def __init__(self, *, calling: Calling, requesters: Requesters) -> None:
        self._calling = calling
        self._requesters = requesters

    async def call(
        self, method: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        """Makes one call. Raises Fault."""
        given: dict[str, Any] = dict(context.invocation_metadata() or ())
        call = Call(
            consumer=self._requesters.one(Requester(subsystem=_text(given, "solmu-subsystem"))),
            service=names.service(_named(given, SERVICE, "subsystems/*/services/*")),
            head=_head(method, context),
            body=Frames[Any, Any](_frames(requests), side="caller"),
            message_id=_text(given, "solmu-message-id"),
            on_behalf_of=_behalf(given.get("solmu-on-behalf-of-bin", b"")),
            node=names.identifier(_named(given, "solmu-node", "nodes/*"), 4) if "solmu-node" in given else "",
        )
        async with self._calling.call(call) as reply:
            began = _answered(reply.head.headers)
            await context.send_initial_metadata((*began, ("solmu-exchange", f"exchanges/{reply.exchange_id}")))
            async for message in grpc_messages.messages(reply.chunks):
                yield message
            _end(context, reply)


def _head(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> RequestHead:
    metadata = [(name, content) for name, content in context.invocation_metadata() or ()]
    kept = grpc_messages.headers((name, content) for name, content in metadata if not _NOT_PASSED_ON.match(name))
    own = grpc_messages.headers(
        ("authorization", content) for name, content in metadata if name == "solmu-backend-authorization"
    )
    left = context.time_remaining()
    timeout = (grpc_messages.timeout_header(left),) if left is not None else ()
    return RequestHead("POST", method.encode("ascii"), passed_on((grpc_messages.CONTENT_TYPE, *timeout, *own, *kept)))


async def _frames(requests: AsyncIterator[bytes]) -> AsyncIterator[calls_pb2.CallRequest]:
    async for message in requests:
        content = grpc_messages.framed(message)
        for at in range(0, len(content), CHUNK):
            yield calls_pb2.CallRequest(chunk=content[at : at + CHUNK])
    yield calls_pb2.CallRequest(end=calls_pb2.CallEnd())


def _end(context: grpc.aio.ServicerContext[Any, Any], reply: Reply) -> None:
    code, details = grpc_messages.status_of(reply.trailers)
    context.set_code(_CODES.get(code, grpc.StatusCode.UNKNOWN))
    context.set_details(details)
    context.set_trailing_metadata(
        (
            *_answered(reply.trailers),
            ("solmu-request-statement", f"statements/{reply.request_sha256.hex()}"),
            ("solmu-response-statement", f"statements/{reply.response_sha256.hex()}"),
        )
    )


def _answered(found: tuple[Header, ...]) -> tuple[tuple[str, str | bytes], ...]:
    """A backend's metadata, but for names under which this node alone speaks."""
    return tuple(pair for pair in grpc_messages.metadata(found) if not pair[0].startswith(OWN_HEADERS))


def _text(given: dict[str, Any], name: str) -> str:
    return str(given.get(name, ""))


def _named(given: dict[str, Any], name: str, form: str) -> str:
    found = _text(given, name)
    if not re.fullmatch(form.replace("*", "[^/:]+"), found):
        raise InvalidArgument(
            "FIELD_INVALID", "the metadata names no such thing", violations=[(name, f"is not of the form {form}")]
        )
    return found


def _behalf(serialised: bytes) -> bytes:
    if not serialised:
        return b""
    try:
        behalf = OnBehalfOf.FromString(serialised)
        protovalidate.validate(behalf)
    except (DecodeError, protovalidate.ValidationError):
        raise InvalidArgument(
            "FIELD_INVALID", "the metadata is no OnBehalfOf", violations=[("solmu-on-behalf-of-bin", "cannot be read")]
        ) from None
    return salted(behalf)
