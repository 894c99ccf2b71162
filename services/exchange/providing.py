"""The provider's side of a call: another node brings it, the backend answers.

In this order, and nothing reaches the backend before all of it holds:

1. the calling node serves the sender: PEER_NOT_AUTHORISED;
2. this node takes calls, has the service, and it takes this protocol;
3. a right allows the path as it will be sent (`access.judge`);
4. the statement is its sender's (`proving`), and head and body are what it says;
5. it is written in the journal: an id is taken once;
6. who stands behind it holds a mandate.

With `BODY_RELEASE_STREAMED` the body goes on while it comes, its last bytes
held back until 4 and 5 hold. A refusal is signed and kept like an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from solmu.exchange.v1 import exchanges_pb2, peer_frames_pb2, statements_pb2

from services.exchange import access, heads, names, proving
from services.exchange.backends import Answer
from services.exchange.bodies import CHUNK, IN_MEMORY, SMALL, Body
from services.exchange.configuration import Configuration, Service, Snapshot
from services.exchange.evidence import identifiers
from services.exchange.evidence.statements import Kind
from services.exchange.frames import Frames, invalid
from services.exchange.heads import RequestHead
from services.exchange.journal import Content, Entry, Exchange, Journal
from services.exchange.meshes import Meshes, utc_now
from services.exchange.metaservices import own_service
from services.exchange.policies import Policy
from services.exchange.proving import Proving
from services.exchange.rates import Rates
from services.runtime import status
from services.runtime.errors import (
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)

CONSUMER = "X-Road-Client"
"""The header that tells a backend who calls."""

OWN_HEADERS = "solmu-"
"""How headers begin that the node alone writes."""

Response = peer_frames_pb2.ExchangeResponse
Frame = Frames[peer_frames_pb2.ExchangeRequest, peer_frames_pb2.ExchangeRequestHead]
Outcome = exchanges_pb2.Exchange.Outcome


class Backend(Protocol):
    """Answers calls of a service."""

    def call(
        self,
        service: Service,
        head: RequestHead,
        body: AsyncIterator[bytes] | bytes,
        length: int | None,
        policy: Policy,
    ) -> AbstractAsyncContextManager[Answer]:
        """Makes one call; the answer's chunks are read in the block. Raises Fault."""


class Mandates(Protocol):
    """Checks by what right somebody acts for another."""

    async def check(
        self, on_behalf_of: bytes, *, consumer: str, policy: Policy, message_id: str
    ) -> tuple[heads.Header, ...]:
        """What the backend is told of it; `message_id` names the call. Raises Fault."""


class Clock:
    """Steps of one exchange, from its start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.start = utc_now()
        self.steps = exchanges_pb2.Exchange.Measurement(attempts=1)

    def step(self, name: str) -> None:
        """A step was taken now."""
        getattr(self.steps, name).FromMicroseconds(int((time.monotonic() - self._begin) * 1e6))


@dataclass
class _Call:
    """What is known of a call while it is served."""

    node: str
    clock: Clock = field(default_factory=Clock)
    frame: peer_frames_pb2.ExchangeRequestHead = field(default_factory=peer_frames_pb2.ExchangeRequestHead)
    head: RequestHead | None = None
    service: Service | None = None
    policy: Policy | None = None
    request: Entry | None = None
    proof: statements_pb2.Proof | None = None
    """As it came, until it is verified."""
    proven: bool = False
    """Whether all of the request holds and is written: nothing is answered before."""
    judged_by: int = 0
    """The revision of the configuration by which it was admitted."""
    status: int = 0
    received: Body | None = None
    answered: Body | None = None
    failure: Fault | None = None
    """Why it was not answered."""
    recorded: bool = False
    """Whether what became of it is written, or about to be."""

    @property
    def consumer(self) -> str:
        """The subsystem that calls."""
        return self.frame.sender.partition(" ")[2]

    @property
    def target(self) -> str:
        """The service that is called."""
        return self.frame.receiver.partition(" ")[2]

    @property
    def provider(self) -> str:
        """The subsystem that is called."""
        return names.subsystem_of(self.target)


class Providing:
    """Serves the calls of other nodes."""

    def __init__(
        self,
        *,
        meshes: Meshes,
        configuration: Configuration,
        journal: Journal,
        proving: Proving,
        backend: Callable[[Service], Backend],
        mandates: Mandates,
        places: Callable[[str, int], AbstractAsyncContextManager[None]],
    ) -> None:
        self._meshes = meshes
        self._configuration = configuration
        self._journal = journal
        self._proving = proving
        self._backend = backend
        self._mandates = mandates
        self._places = places
        self._rates = Rates()
        self.under_way = 0

    async def serve(
        self, requests: AsyncIterator[peer_frames_pb2.ExchangeRequest], *, node: str
    ) -> AsyncIterator[Response]:
        """Carries one call of another node, and its answer."""
        call = _Call(node)
        frames: Frame = Frames(requests, side="peer")
        self.under_way += 1
        try:
            async for response in self._answer(call, frames):
                yield response
        except TimeoutError:
            yield await self._refuse(call, too_long())
        except Fault as fault:
            yield await self._refuse(call, fault)
        except (asyncio.CancelledError, GeneratorExit):
            call.failure = call.failure or gone()
            raise
        finally:
            self.under_way -= 1
            if call.policy is not None and not call.recorded:
                call.failure = call.failure or Internal("INTERNAL", "a fault of the node")
                self._journal.note(self._record(call, None))

    async def _answer(self, call: _Call, frames: Frame) -> AsyncIterator[Response]:
        call.frame = await frames.head()
        call.clock.step("request_head")
        self._identify(call)
        service, policy = self._admit(call)
        frames.patience(policy.idle_timeout)
        head = call.head
        assert head is not None  # `_admit` has read it
        most = call.frame.body_bytes if call.frame.HasField("body_bytes") else None
        body = call.received = Body(most=policy.max_request_bytes, expected=most)
        try:
            async with asyncio.timeout(policy.total_timeout):
                streamed = policy.streamed and frames.whole is None and not call.frame.HasField("proof")
                if call.frame.HasField("proof"):
                    self._verify(call, call.frame.proof)
                if streamed:
                    source: AsyncIterator[bytes] | bytes = self._released(call, frames, body)
                    length = body.expected
                else:
                    await self._receive(call, frames, body)
                    await self._prove(call, frames, body)
                    source = body.whole() if body.in_memory else body.chunks()
                    length = body.size
                told = await self._mandates.check(
                    call.frame.on_behalf_of,
                    consumer=call.consumer,
                    policy=policy,
                    message_id=call.frame.exchange_id,
                )
                call.clock.step("request_admitted")
                head = RequestHead(head.method, head.target, (*_told(call), *_untold(head.headers, told), *told))
                async with (
                    self._places(service.identifier, service.content.backend.max_concurrent_calls),
                    self._backend(service).call(service, head, source, length, policy) as answer,
                ):
                    call.clock.step("response_head")
                    async for response in self._respond(call, answer, policy):
                        yield response
        finally:
            body.close()

    # Who calls, and may they?

    def _identify(self, call: _Call) -> None:
        """Step 1. What fails here is refused without a statement: there is nobody to sign it for."""
        kind, _, consumer = call.frame.sender.partition(" ")
        if kind != "subsystem" or not self._meshes.serves(call.node, consumer):
            raise PermissionDenied(
                "PEER_NOT_AUTHORISED", "the node does not serve the sender", node=names.resource("nodes", call.node)
            )

    def _admit(self, call: _Call) -> tuple[Service, Policy]:
        """Steps 2 and 3: the service, and by which policy."""
        kind, _, identifier = call.frame.receiver.partition(" ")
        current = self._configuration.current
        if kind != "service" or not self._meshes.hosts(names.subsystem_of(identifier)):
            raise NotFound("MEMBER_UNKNOWN", "this node serves no such subsystem", subject=call.provider)
        policy = current.policy_of_subsystem(call.provider)
        call.policy = policy
        if current.maintenance.active:
            raise Unavailable("NODE_IN_MAINTENANCE", "the node is in maintenance", retry_after=60.0)
        call.head = heads.read_request(call.frame.http_head)
        reserved = own_service(identifier)
        service = reserved or current.services.get(identifier)
        if service is None:
            raise NotFound("SERVICE_UNKNOWN", "the subsystem has no such service", service=identifier)
        call.service = service
        if reserved is None:
            policy = call.policy = current.policy_of_service(service)
        policy.check_directory(self._meshes.directory_of(call.provider), now=utc_now())
        self._proving.admit(policy)
        if service.protocol != ("grpc" if call.head.grpc else "http"):
            raise InvalidArgument("SERVICE_PROTOCOL_MISMATCH", "the service is not called this way", service=identifier)
        self._judge(call, current)
        self._check_rate(call, policy)
        return service, policy

    def _judge(self, call: _Call, current: Snapshot) -> None:
        """Step 3, and whether the service is there for anybody at all."""
        assert call.head is not None
        call.judged_by = current.revision
        path = access.path_of(call.head.target)
        if own_service(call.target) is not None:
            access.segments(path)  # open to every member
        else:
            try:
                access.judge(
                    current.rights.get(f"services {call.target}", ()),
                    subsystem=call.consumer,
                    groups=self._meshes.groups(call.consumer),
                    method=call.head.method,
                    path=path,
                    now=utc_now(),
                )
            except PermissionDenied as fault:
                raise PermissionDenied(fault.reason, fault.message, service=call.target) from None
            service = current.services.get(call.target)
            if service is None or service.disabled:
                notice = service.content.notice if service is not None else ""
                raise Unavailable(
                    "SERVICE_DISABLED", "the provider has disabled the service", service=call.target, notice=notice
                )
        if current.hosting(call.provider).content.disabled:
            raise Unavailable("SUBSYSTEM_DISABLED", "the subsystem rests", subsystem=call.provider)

    def _check_rate(self, call: _Call, policy: Policy) -> None:
        rate = policy.content.limits.calls_per_second
        if rate:
            self._rates.take(f"{call.target} {call.consumer}", rate=rate)

    # What came, and is it proven?

    async def _receive(self, call: _Call, frames: Frame, body: Body) -> None:
        async for chunk in frames.chunks():
            await body.keep(chunk)
        body.end()
        call.clock.step("request_received")

    async def _prove(self, call: _Call, frames: Frame, body: Body) -> None:
        """Steps 4 and 5, once the body is there."""
        end = frames.end
        trailers = end.trailers if end is not None else b""
        heads.read_trailers(trailers)
        if end is not None and end.HasField("proof"):
            if call.request is not None:
                raise invalid()
            self._verify(call, end.proof)
        entry = call.request
        if entry is None:
            raise InvalidArgument("PROOF_MISSING", "no proof came")
        proving.check_digest(entry.statement, "body", body.sha256, body.size)
        proving.check(entry.statement, "trailers", trailers)
        content = Content(
            head=call.frame.http_head,
            body=body.whole() if body.in_memory else None,
            trailers=trailers,
            on_behalf_of=call.frame.on_behalf_of,
        )
        entry = call.request = with_content(entry, content)
        call.clock.step("request_proven")
        revision = await self._journal.append(entry)
        call.proof = None
        if revision != call.judged_by:
            await self._configuration.load()
            self._judge(call, self._configuration.current)
        call.proven = True

    def _verify(self, call: _Call, proof: statements_pb2.Proof) -> None:
        assert call.service is not None
        assert call.policy is not None
        call.proof = proof
        call.request = self._proving.verify(
            proof,
            Kind.REQUEST,
            said={
                "id": call.frame.exchange_id,
                "sender": call.frame.sender,
                "receiver": call.frame.receiver,
                "protocol": call.service.protocol,
            },
            subsystem=call.provider,
            policy=call.policy,
            content=Content(head=call.frame.http_head),
        )
        proving.check_on_behalf(call.request.statement, call.frame.on_behalf_of)

    async def _released(self, call: _Call, frames: Frame, body: Body) -> AsyncIterator[bytes]:
        """The body while it comes; its last bytes, or the end of a stream of messages, once all of it is proven."""
        assert call.head is not None
        held = b""
        async for chunk in frames.chunks():
            body.count(chunk)
            if held and chunk:
                yield held
                held = b""
            if call.head.grpc:
                yield chunk
            else:
                held = chunk or held
        body.end()
        call.clock.step("request_received")
        await self._prove(call, frames, body)
        if held:
            yield held

    # What is answered

    async def _respond(self, call: _Call, answer: Answer, policy: Policy) -> AsyncIterator[Response]:
        body = call.answered = Body(most=policy.max_response_bytes)
        try:
            call.status = answer.head.status
            chunks = aiter(answer.chunks)
            if answer.sending is not None and policy.streamed:
                async for response in self._flowing(call, answer, body, chunks):
                    yield response
                return
            async for chunk in chunks:
                await body.keep(chunk)
                if body.size > IN_MEMORY:
                    break
            else:
                async for response in self._whole(call, answer, body):
                    yield response
                return
            async for response in self._flowing(call, answer, body, chunks):
                yield response
        finally:
            body.close()

    async def _whole(self, call: _Call, answer: Answer, body: Body) -> AsyncIterator[Response]:
        """An answer that is known: its proof goes ahead."""
        call.clock.step("response_received")
        content = body.whole()
        head, trailers = answer.head.encode(), heads.fields(answer.trailers)
        entry = await self._sign(
            call,
            answer.head.status,
            proving.digests("body", content),
            Content(head=head, body=content, trailers=trailers),
        )
        call.clock.step("response_proven")
        await self._keep(call, entry)
        first = peer_frames_pb2.ExchangeResponseHead(http_head=head, proof=entry.proof, body_bytes=body.size)
        if len(content) <= SMALL and not trailers:
            first.body = content
            yield Response(head=first)
            return
        yield Response(head=first)
        for at in range(0, len(content), CHUNK):
            yield Response(chunk=content[at : at + CHUNK])
        yield Response(end=peer_frames_pb2.ExchangeEnd(trailers=trailers))

    async def _flowing(
        self, call: _Call, answer: Answer, kept: Body, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[Response]:
        """An answer that is not known yet: its proof comes last."""
        head = answer.head.encode()
        yield Response(head=peer_frames_pb2.ExchangeResponseHead(http_head=head, body_bytes=answer.length))
        async for chunk in kept.chunks():
            yield Response(chunk=chunk)
        async for chunk in chunks:
            kept.count(chunk)
            for at in range(0, len(chunk), CHUNK):
                yield Response(chunk=chunk[at : at + CHUNK])
        call.clock.step("response_received")
        if answer.sending is not None:
            if not answer.sending.done():
                yield Response(enough=peer_frames_pb2.RequestEnough())
            await answer.sending
        trailers = heads.fields(answer.trailers)
        lines = {"body-sha256": kept.sha256, "body-bytes": str(kept.size)}
        entry = await self._sign(call, answer.head.status, lines, Content(head=head, trailers=trailers))
        call.clock.step("response_proven")
        await self._keep(call, entry)
        yield Response(end=peer_frames_pb2.ExchangeEnd(trailers=trailers, proof=entry.proof))

    async def _sign(self, call: _Call, answered: int, body: dict[str, str], content: Content) -> Entry:
        if call.request is None or not call.proven:
            raise InvalidArgument("PROOF_MISSING", "the backend answered before the request was proven")
        assert call.service is not None
        assert call.policy is not None
        lines = {
            "id": call.frame.exchange_id,
            "sender": f"subsystem {call.provider}",
            "receiver": f"subsystem {call.consumer}",
            "protocol": call.service.protocol,
            "status": str(answered),
            "answers": call.request.statement.sha256.hex(),
            **proving.digests("head", content.head),
            **body,
            **(proving.digests("trailers", content.trailers) if content.trailers else {}),
        }
        if "message-id" in call.request.statement.lines:
            lines["message-id"] = call.request.statement.lines["message-id"]
        return await self._proving.sign(
            Kind.RESPONSE,
            lines,
            subsystem=call.provider,
            policy=call.policy,
            content=content,
        )

    # What is refused

    async def _refuse(self, call: _Call, fault: Fault) -> Response:
        """A refusal with its statement; raised as it is where the node cannot sign one."""
        fault = call.failure = renewed(fault, side="provider", exchange=call.frame.exchange_id)
        if call.proof is not None and proving.proves_nothing(fault):
            await self._journal.refuse(
                exchange_id=call.frame.exchange_id,
                node=call.node,
                reason=fault.reason,
                proof=call.proof,
                side=exchanges_pb2.SIDE_PROVIDER,
            )
            call.request = None if fault.reason != "STATEMENT_REPLAYED" else call.request
        if call.policy is None:
            raise fault
        shown = status.to_status(fault, service="exchange")
        try:
            entry = await self._sign_refusal(call, _reason(shown))
        except Fault:  # the node cannot sign now; why it refuses is told all the same
            raise fault from None
        with contextlib.suppress(Fault):  # a refusal under this id is kept already
            await self._keep(call, entry)
        return Response(refusal=peer_frames_pb2.Refusal(status=shown, proof=entry.proof))

    async def _sign_refusal(self, call: _Call, reason: str) -> Entry:
        assert call.policy is not None
        lines = {
            "id": call.frame.exchange_id,
            "sender": f"subsystem {call.provider}",
            "receiver": f"subsystem {call.consumer}",
            "reason": reason,
        }
        if call.request is not None:
            lines["answers"] = call.request.statement.sha256.hex()
        return await self._proving.sign(
            Kind.REFUSAL, lines, subsystem=call.provider, policy=call.policy, content=Content()
        )

    async def _keep(self, call: _Call, entry: Entry) -> None:
        """Writes the statement with which an exchange ends, and what became of it."""
        record = self._record(call, entry)
        call.recorded = True
        await self._journal.append(entry, exchange=record)

    def _record(self, call: _Call, entry: Entry | None) -> Exchange:
        """What became of a call; without an entry no statement of this node ends it."""
        steps, fault = call.clock.steps, call.failure
        if call.request is not None:
            steps.request_bytes = int(call.request.statement.lines["body-bytes"])
        elif call.received is not None:
            steps.request_bytes = call.received.size
        if call.answered is not None:
            steps.response_bytes = call.answered.size
        end = utc_now()
        if fault is not None and fault.reason in _OPEN:
            outcome = Outcome.OUTCOME_BROKEN
        elif fault is not None:
            outcome = Outcome.OUTCOME_REFUSED
        else:
            outcome = Outcome.OUTCOME_ANSWERED if call.status < 400 else Outcome.OUTCOME_BACKEND_ERROR
        return Exchange(
            exchange_id=UUID(call.frame.exchange_id),
            side=exchanges_pb2.SIDE_PROVIDER,
            message_id=message_id_of(call.request),
            consumer=call.consumer,
            service=call.target,
            consumer_node=call.node,
            provider_node=self._meshes.node,
            method=call.head.method if call.head is not None else "",
            status=call.status if fault is None else 0,
            outcome=outcome,
            reason=fault.reason if fault is not None else "",
            refused_by=(
                exchanges_pb2.SIDE_PROVIDER if outcome == Outcome.OUTCOME_REFUSED else exchanges_pb2.SIDE_UNSPECIFIED
            ),
            on_behalf=bool(call.frame.on_behalf_of),
            request_sha256=call.request.statement.sha256 if call.request is not None else None,
            response_sha256=entry.statement.sha256 if entry is not None else None,
            measurement=steps,
            backend_share=_backend_share(call.clock, end) if fault is None else None,
            start_time=call.clock.start,
            end_time=end,
        )


def too_long() -> Fault:
    """The refusal of an exchange that its policy gives no more time."""
    return DeadlineExceeded("EXCHANGE_TOO_LONG", "the exchange took longer than the policy allows")


def gone() -> Fault:
    """Why an exchange broke off where nobody is left to be told."""
    return Unavailable("CALLER_GONE", "who had called went away, or cancelled")


def renewed(fault: Fault, *, kind: type[Fault] | None = None, **metadata: str) -> Fault:
    """The same refusal with more metadata, or of another kind."""
    return (kind or type(fault))(
        fault.reason,
        fault.message,
        violations=fault.violations,
        retry_after=fault.retry_after,
        **{**fault.metadata, **metadata},
    )


def with_content(entry: Entry, content: Content) -> Entry:
    """An entry with what it holds the digests of."""
    return replace(entry, content=content)


def message_id_of(entry: Entry | None) -> str:
    """The caller's own id."""
    given = entry.statement.lines.get("message-id", "") if entry is not None else ""
    return identifiers.decode(given) if given else ""


def _told(call: _Call) -> tuple[heads.Header, ...]:
    """What the statement proves, as a backend is told of it: X-Road's headers (PR-REST, section 4.3)."""
    told = {
        CONSUMER: call.consumer,
        "X-Road-Service": call.target,
        "X-Road-Request-Id": call.frame.exchange_id,
        "X-Road-Id": call.request.statement.lines.get("message-id", "") if call.request is not None else "",
    }
    return tuple((name, value.encode("ascii")) for name, value in told.items() if value)


def _untold(headers: tuple[heads.Header, ...], told: tuple[heads.Header, ...]) -> tuple[heads.Header, ...]:
    """The headers without those that only the node may say, or that it says now."""
    proven = _PROVEN | {name.lower() for name, _ in told}
    return tuple(
        header
        for header in headers
        if header[0].lower() not in proven and not header[0].lower().startswith(OWN_HEADERS)
    )


_OPEN = frozenset({"CALLER_GONE", "INTERNAL"})
"""Reasons by which it is not known whether the backend took a call."""

_PROVEN = {"x-road-client", "x-road-service", "x-road-request-id", "x-road-id"}


def _reason(shown: Status) -> str:
    info = ErrorInfo()
    for detail in shown.details:
        detail.Unpack(info)
    return info.reason


def _backend_share(clock: Clock, end: datetime) -> float:
    whole = (end - clock.start).total_seconds()
    backend = clock.steps.response_received.ToTimedelta() - clock.steps.request_admitted.ToTimedelta()
    return min(1.0, max(0.0, backend.total_seconds() / whole)) if whole > 0 else 0.0
