"""What every call goes through before a servicer sees it.

A method's handler is built from its descriptor, with the checks around it, in
this order:

1. telemetry, outermost, so that refusals are counted and traced too;
2. errors: a Fault becomes its status once; anything else becomes INTERNAL with
   an id that stands in the log, and no text;
3. peer: the certificate must be the edge's, or that of a service on the
   method's list (`access.callers`);
4. caller: the edge's calls carry a client's token, verified again here; so do
   those that the gateway's adapters make for a client;
5. scopes: all of `access.scopes` must be in the token; a token that rests on a
   mandate must be wanted (`access.on_behalf`);
6. mandate: whether one who acts for another may do so now (`Judge`), for a
   stream again every few seconds;
7. validation of the shape that the contract declares (`validation.py`), with the
   version that `if-match` asks for in its place (`etags.py`); of a stream, of
   each message as it comes.

A method that the servicer does not have answers METHOD_NOT_IMPLEMENTED after
all of these; one without the option `access` cannot be built.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind
from solmu.options.v1 import access_pb2

from services.runtime import database, identity, mesh, telemetry, tls, validation
from services.runtime.errors import Fault, Internal, InvalidArgument, PermissionDenied, Unavailable, Unimplemented
from services.runtime.etags import Tags
from services.runtime.status import to_status

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic in their stubs alone
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


F = TypeVar("F", bound=Callable[..., Any])

Passing = Callable[[str, AsyncIterator[bytes], "Context"], AsyncIterator[bytes]]
"""Passes a call on: its path, its messages, and the context in which metadata and status are."""

Judge = Callable[[identity.Caller], Awaitable[identity.Right]]
"""What allows a caller to act in another's name now. Raises PermissionDenied, and Unavailable where it cannot know."""

JUDGED_AGAIN = 3.0
"""Seconds for which a stream on another's behalf goes on before its right is asked for again."""


def closed_by(is_last: Callable[[Any], bool]) -> Callable[[F], F]:
    """Marks a method of two streams whose answer always ends with a message that `is_last` knows.

    That message and the end of the stream then go out in one piece, once the
    method has returned: a stream of one message costs little more than a call.
    """

    def mark(behaviour: F) -> F:
        behaviour.is_last = is_last  # type: ignore[attr-defined]
        return behaviour

    return mark


@dataclass(frozen=True)
class Policy:
    """Who may call a method."""

    method: str
    """Full name: "solmu.messages.v1.MessageService.SendMessage"."""
    scopes: frozenset[str]
    callers: frozenset[str]
    judge: Judge | None
    """Asked about calls on another's behalf; None where the method takes none."""

    @classmethod
    def of(cls, method: MethodDescriptor, judge: Judge | None = None) -> Policy:
        """The policy that the contract declares. Raises ValueError where it declares none, or one without its judge."""
        access = method.GetOptions().Extensions[access_pb2.access]
        if not access.scopes and not access.callers:
            raise ValueError(f"{method.full_name} does not say who may call it: the option access is missing")
        if access.on_behalf and judge is None:
            raise ValueError(f"{method.full_name} takes calls on another's behalf, and nothing judges them")
        scopes, callers = frozenset(access.scopes), frozenset(access.callers)
        return cls(method.full_name, scopes, callers, judge if access.on_behalf else None)


Admit = Callable[[Policy, Mapping[str, Iterable[bytes]]], identity.Caller]
"""Says who calls a method from the properties of the connection, or raises a Fault."""


class Chain:
    """Builds the handlers of one service process.

    `service` names the reasons' domain, `node` the trust domain of peers;
    `authenticator` turns the edge's calls into clients. `admit` says who calls where
    it is neither the edge nor a service of the node.
    """

    def __init__(
        self,
        *,
        service: str,
        node: str,
        authenticator: identity.Authenticator,
        telemetry: telemetry.Telemetry,
        admit: Admit | None = None,
    ) -> None:
        self._admission = admit
        self._service = service
        self._node = node
        self._authenticator = authenticator
        self._telemetry = telemetry

    def handlers(
        self, service: ServiceDescriptor, servicer: object, *, judge: Judge | None = None
    ) -> dict[str, Handler]:
        """A handler for each method of the contract; `servicer` has coroutines and generators of their names.

        `judge` is asked about every call on another's behalf; without it a
        contract whose methods take such calls is refused with ValueError.
        """
        known = {method.name for method in service.methods}
        for name, _ in inspect.getmembers(type(servicer), inspect.isfunction):
            if not name.startswith("_") and name[0].isupper() and name not in known:
                raise ValueError(f"{type(servicer).__name__}.{name} is not a method of {service.full_name}")
        return {
            method.name: self._handler(Policy.of(method, judge), method, getattr(servicer, method.name, None))
            for method in service.methods
        }

    def passing(self, method: MethodDescriptor, behaviour: Passing) -> Callable[[str], Handler]:
        """Handlers for methods of others' contracts, by their paths, that go by the policy of one's own.

        Whatever their shape they are streams of messages, which are passed on as bytes.
        """
        policy = Policy.of(method)

        def handler(path: str) -> Handler:
            async def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
                with telemetry.STREAMS_OPEN.labels(policy.method).track_inprogress():
                    async with self._around(policy, context, _metadata(context)):
                        async for response in behaviour(path, requests, context):
                            yield response

            return grpc.stream_stream_rpc_method_handler(stream)

        return handler

    def _handler(
        self, policy: Policy, method: MethodDescriptor, behaviour: Callable[..., Any] | None
    ) -> grpc.RpcMethodHandler[Any, Any]:
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        validation.prepare(request)
        behaviour = behaviour or _missing(policy.method, streams=method.server_streaming)
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        if method.client_streaming and (is_last := getattr(behaviour, "is_last", None)):
            closing = self._closing(self._streaming(policy, behaviour, streamed=True), is_last)
            return grpc.stream_unary_rpc_method_handler(closing, request_deserializer=request.FromString)
        if method.server_streaming:
            handler = self._streaming(policy, behaviour, streamed=method.client_streaming)
        else:
            tags = Tags(method.input_type, method.output_type)
            handler = self._answering(policy, behaviour, tags, streamed=method.client_streaming)
        return kinds[method.client_streaming, method.server_streaming](
            handler,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    def _answering(
        self, policy: Policy, behaviour: Callable[..., Awaitable[Message]], tags: Tags, *, streamed: bool
    ) -> Any:
        async def answer(request: Any, context: Context) -> Message:
            metadata = _metadata(context)
            async with self._around(policy, context, metadata):
                if not streamed:
                    tags.take(request, metadata)
                response = await behaviour(_checked(request, streamed=streamed))
                if header := tags.header(response):
                    await context.send_initial_metadata(header)
                return response
            raise AssertionError("unreachable: a refusal has ended the call")

        return answer

    def _streaming(self, policy: Policy, behaviour: Callable[..., AsyncIterator[Message]], *, streamed: bool) -> Any:
        async def stream(request: Any, context: Context) -> AsyncIterator[Message]:
            gauge = telemetry.STREAMS_OPEN.labels(policy.method)
            with gauge.track_inprogress():
                async with self._around(policy, context, _metadata(context)) as caller:
                    judged = time.monotonic()
                    async for response in behaviour(_checked(request, streamed=streamed)):
                        if caller.actor and time.monotonic() - judged > JUDGED_AGAIN:
                            await _judged(policy, caller)
                            judged = time.monotonic()
                        yield response

        return stream

    @staticmethod
    def _closing(stream: Any, is_last: Callable[[Any], bool]) -> Any:
        """A stream whose last message is handed over as the answer, so that gRPC sends it with the status."""

        async def close(requests: Any, context: Context) -> bytes:
            last = b""
            async for response in stream(requests, context):
                if is_last(response):
                    last = response.SerializeToString()
                else:
                    await context.write(response.SerializeToString())
            return last

        return close

    @asynccontextmanager
    async def _around(
        self, policy: Policy, context: Context, metadata: dict[str, str]
    ) -> AsyncIterator[identity.Caller]:
        started = time.perf_counter()
        fault: Fault | None = None
        try:
            with self._telemetry.span(policy.method, SpanKind.SERVER, carrier=metadata, rpc_system="grpc"):
                caller = await self._admit(policy, context, metadata)
                caller = await _judged(policy, caller)
                identity.set_caller(caller)
                yield caller
        except (asyncio.CancelledError, GeneratorExit):
            telemetry.CALLS.labels(policy.method, "CANCELLED").inc()
            raise
        except Fault as refusal:
            fault = refusal
        except database.AWAY as error:
            logger.warning("database away", extra={"method": policy.method, "error": type(error).__qualname__})
            fault = Unavailable("UNAVAILABLE", "the database is away; try again", retry_after=1.0)
        except Exception as error:  # noqa: BLE001  # whatever a servicer raises
            fault = _internal(policy.method, error)
        telemetry.CALL_SECONDS.labels(policy.method).observe(time.perf_counter() - started)
        telemetry.CALLS.labels(policy.method, fault.code if fault else "OK").inc()
        if fault:
            status = to_status(fault, service=self._service)
            await context.abort_with_status(rpc_status.to_status(status))  # type: ignore[no-untyped-call]

    async def _admit(self, policy: Policy, context: Context, metadata: dict[str, str]) -> identity.Caller:
        if self._admission is not None:
            return self._admission(policy, context.auth_context())
        peer = tls.peer_service(context.auth_context(), self._node)
        if peer is None or not (peer == mesh.EDGE or (peer == mesh.GATEWAY and "authorization" in metadata)):
            if peer is None or peer not in policy.callers:
                raise PermissionDenied(
                    "CALLER_NOT_ALLOWED", "the caller may not call this method", caller=peer or "unknown"
                )
            return identity.Caller(service=peer)
        if not policy.scopes:
            raise PermissionDenied("CALLER_NOT_ALLOWED", "this method is for services of the node only", caller=peer)
        client = await self._authenticator.client(metadata)
        if not policy.scopes <= client.scopes:
            scope = " ".join(sorted(policy.scopes))
            raise PermissionDenied("SCOPE_MISSING", f"the access token needs the scope {scope}", scope=scope)
        if client.actor and policy.judge is None:
            raise PermissionDenied("MANDATE_NOT_ENOUGH", "the method is not open to those who act by a mandate")
        return client


async def _judged(policy: Policy, caller: identity.Caller) -> identity.Caller:
    """The caller, with the right by which it acts for another where it does."""
    if not caller.actor or policy.judge is None:
        return caller
    return replace(caller, right=await policy.judge(caller))


def _checked(request: Any, *, streamed: bool) -> Any:
    if streamed:
        return _each_checked(request)
    validation.check(request)
    return request


async def _each_checked(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    try:
        async for request in requests:
            validation.check(request)
            yield request
    except DecodeError:
        raise InvalidArgument("FIELD_INVALID", "what came is no message of the contract") from None


def _metadata(context: Context) -> dict[str, str]:
    return {str(name): str(value) for name, value in context.invocation_metadata() or ()}


def _internal(method: str, error: Exception) -> Internal:
    error_id = str(uuid.uuid4())
    logger.error("internal error", exc_info=error, extra={"error_id": error_id, "method": method})
    return Internal("INTERNAL", f"a fault of the node; it is in the log as {error_id}", error_id=error_id)


def _missing(method: str, *, streams: bool) -> Callable[..., Any]:
    refusal = Unimplemented("METHOD_NOT_IMPLEMENTED", "this release does not have the method yet", method=method)

    async def answer(_: Message) -> Message:
        raise refusal

    async def stream(_: Message) -> AsyncIterator[Message]:
        raise refusal
        yield  # makes it a generator

    return stream if streams else answer
