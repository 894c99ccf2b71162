"""The consumer's side of a call: signed here, answered by the provider's node, verified before anybody sees it.

Where the provider has several nodes, those of the lowest priority number share
the load by weight, and the others stand by. A call goes to another node, or to
the same one once more, only while nothing was answered and the call is safe to
repeat: nothing of it was sent, or its method is safe, or the caller says so.
A body that is passed on while it comes is read once, so there is one try then.
Each try is an exchange of its own, so that none is taken for a replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sys
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
from solmu.exchange.v1 import exchanges_pb2, peer_frames_pb2, statements_pb2

from services.exchange import heads, names, proving
from services.exchange.bodies import CHUNK, IN_MEMORY, SMALL, Body
from services.exchange.configuration import Configuration
from services.exchange.evidence import identifiers
from services.exchange.evidence.statements import Kind
from services.exchange.frames import Frames, invalid
from services.exchange.heads import Header, RequestHead, ResponseHead
from services.exchange.journal import Content, Entry, Exchange, Journal, accepted
from services.exchange.meshes import Meshes, utc_now
from services.exchange.peers import Circuit, Peers, PeerStub
from services.exchange.policies import Policy
from services.exchange.providing import Clock, gone, renewed, too_long, with_content
from services.exchange.proving import Proving
from services.runtime import status
from services.runtime.errors import (
    DataLoss,
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidArgument,
    Unavailable,
)
from services.runtime.streams import NotWantedError, Stream

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that may be called twice (RFC 9110, section 9.2.1)."""

CONNECT_WITHIN = 5.0
"""Seconds that a node has to take a connection, before the next one is tried."""

Outcome = exchanges_pb2.Exchange.Outcome


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that a subsystem of this node makes. Identifiers are spelt with "/"."""

    consumer: str
    service: str
    head: RequestHead
    body: Frames[Any, Any] | bytes
    """Whole, or as it comes."""
    length: int | None = None
    """Of the body, where it is known."""
    message_id: str = ""
    on_behalf_of: bytes = b""
    """The serialised `OnBehalfOf`."""
    node: str = ""
    """A node of the provider to call; empty: any that serves it."""
    repeatable: bool = False
    timeout: float | None = None
    """Seconds until the answer begins, where the caller says."""


@dataclass
class Reply:
    """An answer. With `whole` it is verified; else once the chunks have ended."""

    exchange_id: str
    message_id: str
    head: ResponseHead
    length: int | None
    whole: bytes | None
    chunks: AsyncIterator[bytes]
    trailers: tuple[Header, ...] = ()
    request_sha256: bytes = b""
    response_sha256: bytes = b""


@dataclass
class _Try:
    """One try of a call, at one node."""

    call: Call
    policy: Policy
    exchange_id: str
    node: str
    """Empty until one is tried."""
    message_id: str
    clock: Clock
    answer: Body
    """What comes back."""
    proof: statements_pb2.Proof | None = None
    """Of the answer, as it came."""
    request: Entry | None = None
    sent: bool = False
    """Whether the node may have got some of it."""
    answered: bool = False
    recorded: bool = False
    """Whether what became of it is written, or about to be."""
    gathered: Body | None = None
    """The request's body, where it is taken whole before it is sent: any other cannot be sent again."""
    request_body: Body | None = None
    """As far as it came."""
    response: Entry | None = None
    refusal: Entry | None = None
    status: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the provider's node wants no more of the request."""
    kept: asyncio.Future[int | None] | None = None
    """Writes the request in the journal while it is on its way."""


class _Refused(Exception):  # it is an answer
    """The provider's node refuses."""

    def __init__(self, refusal: peer_frames_pb2.Refusal) -> None:
        super().__init__()
        self.refusal = refusal


class Calling:
    """Makes calls in the name of this node's subsystems."""

    def __init__(
        self, *, meshes: Meshes, configuration: Configuration, journal: Journal, proving: Proving, peers: Peers
    ) -> None:
        self._meshes = meshes
        self._configuration = configuration
        self._journal = journal
        self._proving = proving
        self._peers = peers
        self.under_way = 0

    @asynccontextmanager
    async def call(self, call: Call) -> AsyncIterator[Reply]:
        """Makes a call; its answer is read in the block.

        Raises Fault with the exchange and the side that refused in its metadata.
        """
        policy = self._configuration.current.policy_of_subsystem(call.consumer)
        first = _first_try(call, policy)
        self.under_way += 1
        try:
            with self._on_record(first):
                self._check_open(call, policy)
                body = first.request_body = Body(most=policy.max_request_bytes, expected=call.length)
                async with asyncio.timeout(policy.total_timeout) as limit:
                    known = await self._gather(first, body)
                    async with self._tried(first, body if known else None, limit) as reply:
                        yield reply
        finally:
            self.under_way -= 1
            if first.request_body is not None:
                first.request_body.close()

    def _check_open(self, call: Call, policy: Policy) -> None:
        """Whether this node makes calls of the subsystem at all, and the other one is known. Raises Fault."""
        current = self._configuration.current
        if current.maintenance.active:
            raise Unavailable("NODE_IN_MAINTENANCE", "the node is in maintenance", retry_after=60.0)
        if current.hosting(call.consumer).content.disabled:
            raise Unavailable("SUBSYSTEM_DISABLED", "the subsystem rests", subsystem=call.consumer)
        policy.check_directory(self._meshes.directory_of(call.consumer), now=utc_now())
        self._meshes.subsystem(names.subsystem_of(call.service))

    @contextlib.contextmanager
    def _on_record(self, first: _Try) -> Iterator[None]:
        """What ends before any node was tried is on record as well; who is refused does not wait for it."""
        try:
            yield
        except TimeoutError:
            fault = too_long()
        except Fault as refusal:
            fault = refusal
        except (asyncio.CancelledError, GeneratorExit):
            if not first.node:
                self._journal.note(self._record(first, gone()))
            raise
        else:
            return
        if not first.node:
            fault = renewed(fault, side="consumer", exchange=first.exchange_id)
            self._journal.note(self._record(first, fault))
        raise fault

    async def _gather(self, first: _Try, body: Body) -> bool:
        """Takes a small body whole; whether its proof can go ahead, since no trailers follow."""
        call = first.call
        if isinstance(call.body, bytes):
            await body.keep(call.body)
            body.end()
            first.gathered = body
            return True
        call.body.patience(first.policy.idle_timeout)
        if call.length is None or call.length > IN_MEMORY:
            return False
        async for chunk in call.body.chunks():
            await body.keep(chunk)
        body.end()
        first.gathered = body
        return not (call.body.end is not None and call.body.end.trailers)

    @asynccontextmanager
    async def _tried(self, first: _Try, known: Body | None, limit: asyncio.Timeout) -> AsyncIterator[Reply]:
        """Tries nodes until one answers."""
        call, policy = first.call, first.policy
        repeatable = known is not None and (call.repeatable or call.head.method in SAFE) and not call.head.grpc
        attempts, failure = 0, None
        for node, stub, circuit in self._candidates(call, names.subsystem_of(call.service)):
            if attempts == policy.attempts:
                break
            attempts += 1
            first.clock.steps.attempts = attempts
            attempt = first if attempts == 1 else _next_try(first)
            attempt.node = node
            try:
                with circuit.call():
                    async with self._attempt(attempt, stub, known, limit) as reply:
                        circuit.answered()
                        attempt.answered = True
                        yield reply
                        return
            except Fault as fault:
                failure = fault
                if not attempt.answered and _away(fault):
                    circuit.failed(fault.reason, most=policy.circuit_failures, pause=policy.circuit_pause)
                    safe = repeatable or fault.reason == "NODE_IN_MAINTENANCE"
                    if not attempt.sent or (safe and first.gathered is not None):
                        continue
                raise
        if failure is None or failure.reason == "PEER_UNAVAILABLE":
            failure = Unavailable(
                "PEER_UNAVAILABLE", "no node of the provider answers", tried=str(attempts), side="consumer"
            )
        raise failure

    def _candidates(self, call: Call, provider: str) -> Iterator[tuple[str, PeerStub, Circuit]]:
        """The provider's nodes in the order in which they are tried; each may be tried again after all others.

        Raises InvalidArgument (NODE_NOT_SERVING) and Unavailable (PEER_UNAVAILABLE, CIRCUIT_OPEN).
        """
        serving = self._meshes.directory_of(provider).serving.get(provider, [])
        if call.node:
            serving = [served for served in serving if served.node == call.node]
            if not serving:
                raise InvalidArgument(
                    "NODE_NOT_SERVING",
                    "the node does not serve the provider",
                    node=names.resource("nodes", call.node),
                )
        if not serving:
            raise Unavailable("PEER_UNAVAILABLE", "no node serves the provider", tried="0", side="consumer")
        ordered = sorted(
            serving,
            key=lambda served: (served.priority, -(random.random() ** (1 / served.weight))),  # noqa: S311  # a share of the load
        )
        closed = [served.node for served in ordered if not self._peers.circuit(served.node).open()]
        if not closed:
            raise Unavailable(
                "CIRCUIT_OPEN", "all nodes of the provider have failed too often", retry_after=5.0, side="consumer"
            )
        for node in [*closed, *closed, *closed]:
            for stub in self._peers.stubs(node):
                yield node, stub, self._peers.circuit(node)

    @asynccontextmanager
    async def _attempt(
        self, attempt: _Try, stub: PeerStub, known: Body | None, limit: asyncio.Timeout
    ) -> AsyncIterator[Reply]:
        """One try: what goes wrong before the block or in it becomes a Fault, on record."""
        stream: Any = None
        sending: asyncio.Task[None] | None = None
        try:
            await _connected(stub)
            if known is not None and known.size <= SMALL:
                stream = answers = await self._send_whole(attempt, stub, known)
            else:
                stream = Stream(stub.Exchange())
                sending, answers = asyncio.create_task(self._send(attempt, stream, known)), stream.answers()
            frames: Frames[Any, Any] = Frames(_responses(answers, attempt.enough), side="peer")
            first = await self._began(attempt, frames, sending)
            attempt.proof = first.proof
            yield await self._reply(attempt, first, frames, sending)
        except (Fault, _Refused, NotWantedError, grpc.aio.AioRpcError) as error:
            raise await self._failed(attempt, error) from None
        finally:
            if stream is not None:
                stream.cancel()
            if not attempt.recorded:  # the caller has gone, or the time for all of it is over
                self._journal.note(self._record(attempt, _left(limit)))
            attempt.answer.close()
            if sending is not None:
                sending.cancel()

    # What goes out

    async def _send_whole(self, attempt: _Try, stub: PeerStub, known: Body) -> Any:
        """Sends a small request in one frame; returns the call."""
        first = await self._proven_head(attempt, known)
        first.body = known.whole()
        stream = stub.exchange_whole(peer_frames_pb2.ExchangeRequest(head=first))
        attempt.clock.step("request_sent")
        return stream

    async def _send(self, attempt: _Try, stream: Stream, known: Body | None) -> None:
        """Sends the request: its proof ahead where the body is known, after it otherwise."""
        if known is not None:
            first = await self._proven_head(attempt, known)
            await stream.write(peer_frames_pb2.ExchangeRequest(head=first))
            async for chunk in known.chunks():
                await stream.write(peer_frames_pb2.ExchangeRequest(chunk=chunk))
            await stream.write(peer_frames_pb2.ExchangeRequest(end=peer_frames_pb2.ExchangeEnd()))
        else:
            await self._send_flowing(attempt, stream, _head(attempt))
        await stream.done_writing()
        attempt.clock.step("request_sent")

    async def _proven_head(self, attempt: _Try, known: Body) -> peer_frames_pb2.ExchangeRequestHead:
        """The head of a request whose body is known, with its proof; from here on it may have been sent."""
        first = _head(attempt)
        body = known.whole()
        content = Content(head=first.http_head, body=body, on_behalf_of=attempt.call.on_behalf_of)
        await self._sign(attempt, proving.digests("body", body), content)
        assert attempt.request is not None
        first.proof.CopyFrom(attempt.request.proof)
        first.body_bytes = known.size
        attempt.sent = True
        return first

    async def _send_flowing(self, attempt: _Try, stream: Stream, first: peer_frames_pb2.ExchangeRequestHead) -> None:
        call = attempt.call
        assert isinstance(call.body, Frames)
        body = attempt.request_body = Body(most=attempt.policy.max_request_bytes, expected=call.length)
        if call.length is not None:
            first.body_bytes = call.length
        attempt.sent = True
        await stream.write(peer_frames_pb2.ExchangeRequest(head=first))
        # One that was gathered was small, and only its trailers made it one that is proven last.
        chunks = attempt.gathered.chunks() if attempt.gathered is not None else call.body.chunks()
        async for chunk in _until(attempt.enough, chunks) if call.head.grpc else chunks:
            body.count(chunk)
            for at in range(0, len(chunk), CHUNK):
                await stream.write(peer_frames_pb2.ExchangeRequest(chunk=chunk[at : at + CHUNK]))
        body.end()
        given = call.body.end.trailers if call.body.end is not None else ()
        trailers = heads.fields(heads.passed_on((field.name, field.value) for field in given))
        lines = {"body-sha256": body.sha256, "body-bytes": str(body.size)}
        if trailers:
            lines |= proving.digests("trailers", trailers)
        content = Content(head=first.http_head, trailers=trailers, on_behalf_of=call.on_behalf_of)
        await self._sign(attempt, lines, content)
        assert attempt.request is not None
        end = peer_frames_pb2.ExchangeEnd(trailers=trailers, proof=attempt.request.proof)
        await stream.write(peer_frames_pb2.ExchangeRequest(end=end))

    async def _sign(self, attempt: _Try, body: dict[str, str], content: Content) -> None:
        """Signs the request; it is written in the journal while it is on its way."""
        call = attempt.call
        attempt.clock.step("request_received")
        lines = {
            "id": attempt.exchange_id,
            "sender": f"subsystem {call.consumer}",
            "receiver": f"service {call.service}",
            "message-id": identifiers.encode(attempt.message_id),
            "protocol": _protocol(call),
            **proving.digests("head", content.head),
            **body,
        }
        if call.on_behalf_of:
            lines["on-behalf-of-sha256"] = hashlib.sha256(call.on_behalf_of).hexdigest()
        attempt.request = await self._proving.sign(
            Kind.REQUEST, lines, subsystem=call.consumer, policy=attempt.policy, content=content
        )
        attempt.clock.step("request_proven")
        attempt.kept = self._journal.begin(attempt.request)

    # What comes back

    async def _began(
        self, attempt: _Try, frames: Frames[Any, Any], sending: asyncio.Task[None] | None
    ) -> peer_frames_pb2.ExchangeResponseHead:
        """The answer's head. While the request is sent (`sending`) its sender sets the pace."""
        frames.patience(None)
        reading: Awaitable[Any] = frames.head() if sending is None else await _while_sending(frames, sending)
        try:
            with _providers_fault():
                async with asyncio.timeout(_patience(attempt)):
                    head: peer_frames_pb2.ExchangeResponseHead = await reading
        except TimeoutError:
            raise DeadlineExceeded("PEER_TIMEOUT", "the provider's node did not begin to answer in time") from None
        attempt.clock.step("response_head")
        frames.patience(attempt.policy.idle_timeout)
        return head

    async def _reply(
        self,
        attempt: _Try,
        first: peer_frames_pb2.ExchangeResponseHead,
        frames: Frames[Any, Any],
        sending: asyncio.Task[None] | None,
    ) -> Reply:
        answer = attempt.answer
        with _providers_fault():
            head = heads.read_response(first.http_head)
        attempt.status = head.status
        answer.expected = first.body_bytes if first.HasField("body_bytes") else None
        reply = Reply(attempt.exchange_id, attempt.message_id, head, answer.expected, None, answer.chunks())

        async def complete() -> None:
            if sending is not None:
                await sending
            await self._complete(attempt, first, frames.end, reply)

        if attempt.policy.streamed and not first.HasField("proof"):
            reply.chunks = _released(frames, answer, complete, messages=attempt.call.head.grpc)
            return reply
        with _providers_fault():
            async for chunk in frames.chunks():
                await answer.keep(chunk)
            answer.end()
        await complete()
        reply.length = answer.size
        if answer.in_memory:
            reply.whole = answer.whole()
        return reply

    async def _complete(
        self,
        attempt: _Try,
        first: peer_frames_pb2.ExchangeResponseHead,
        end: peer_frames_pb2.ExchangeEnd | None,
        reply: Reply,
    ) -> None:
        """Verifies an answer that is there, and writes it in the journal."""
        attempt.clock.step("response_received")
        end = end or peer_frames_pb2.ExchangeEnd()
        proof = attempt.proof = first.proof if first.HasField("proof") else end.proof
        with _providers_fault():
            if first.HasField("proof") and end.HasField("proof"):
                raise invalid()
            entry = self._verified(attempt, first.http_head, proof, end.trailers)
            reply.trailers = heads.read_trailers(end.trailers)
        attempt.response = entry
        attempt.clock.step("response_proven")
        assert attempt.request is not None
        reply.request_sha256, reply.response_sha256 = attempt.request.statement.sha256, entry.statement.sha256
        attempt.clock.step("response_sent")
        assert attempt.kept is not None
        written = self._journal.begin(entry, exchange=self._record(attempt, None))
        attempt.recorded = True
        for revision in await asyncio.gather(attempt.kept, written):
            accepted(revision)

    def _verified(self, attempt: _Try, head: bytes, proof: statements_pb2.Proof, trailers: bytes) -> Entry:
        call, answer = attempt.call, attempt.answer
        assert attempt.request is not None
        entry = self._proving.verify(
            proof,
            Kind.RESPONSE,
            said={
                "id": attempt.exchange_id,
                "sender": f"subsystem {names.subsystem_of(call.service)}",
                "receiver": f"subsystem {call.consumer}",
                "protocol": _protocol(call),
                "status": str(attempt.status),
            },
            subsystem=call.consumer,
            policy=attempt.policy,
            content=Content(head=head),
            answers=attempt.request.statement,
        )
        proving.check_digest(entry.statement, "body", answer.sha256, answer.size)
        proving.check(entry.statement, "trailers", trailers)
        whole = answer.whole() if answer.in_memory and answer.kept else None
        return with_content(entry, Content(head=head, body=whole, trailers=trailers))

    # What goes wrong

    async def _failed(self, attempt: _Try, error: Fault | _Refused | NotWantedError | grpc.aio.AioRpcError) -> Fault:
        """What the caller is told; the exchange is on record with it."""
        entry = None
        if isinstance(error, _Refused):
            fault, entry = await self._refused(attempt, error.refusal)
        elif isinstance(error, Fault):
            fault = error
            if isinstance(fault, DataLoss) and attempt.response is None and attempt.proof is not None:
                await self._keep_refused(attempt, fault, attempt.proof)
        else:
            fault = _broken(error, attempt)
        named = renewed(fault, side=fault.metadata.get("side", "consumer"), exchange=attempt.exchange_id)
        record = self._record(attempt, named)
        if attempt.kept is not None:
            accepted(await attempt.kept)
        if not attempt.recorded:
            attempt.recorded = True
            await self._journal.append(*([entry] if entry is not None else []), exchange=record)
        return named

    async def _refused(self, attempt: _Try, refusal: peer_frames_pb2.Refusal) -> tuple[Fault, Entry | None]:
        """A refusal of the provider's node, verified like an answer."""
        call = attempt.call
        fault = renewed(status.from_status(refusal.status), side="provider")
        if not refusal.HasField("proof"):
            return fault, None
        try:
            with _providers_fault():
                entry = self._proving.verify(
                    refusal.proof,
                    Kind.REFUSAL,
                    said={
                        "id": attempt.exchange_id,
                        "receiver": f"subsystem {call.consumer}",
                        "reason": fault.reason,
                    },
                    subsystem=call.consumer,
                    policy=attempt.policy,
                    content=Content(),
                    answers=attempt.request.statement if attempt.request is not None else None,
                )
                if entry.statement.member not in {names.member_of(call.service), names.member_of(attempt.node)}:
                    raise InvalidArgument("SIGNER_NOT_SENDER", "the refusal is another member's")
        except DataLoss as unproven:
            await self._keep_refused(attempt, unproven, refusal.proof)
            return unproven, None
        attempt.response = None
        attempt.refusal = entry
        return fault, entry

    async def _keep_refused(self, attempt: _Try, fault: Fault, proof: statements_pb2.Proof) -> None:
        """What the provider's node has signed is evidence, also where it does not hold."""
        if proof.statement:
            await self._journal.refuse(
                exchange_id=attempt.exchange_id,
                node=attempt.node,
                reason=fault.reason,
                proof=proof,
                side=exchanges_pb2.SIDE_CONSUMER,
            )

    def _record(self, attempt: _Try, fault: Fault | None) -> Exchange:
        call = attempt.call
        steps = attempt.clock.steps
        if attempt.request_body is not None:
            steps.request_bytes = attempt.request_body.size
        steps.response_bytes = attempt.answer.size
        last = attempt.response or attempt.refusal
        if fault is None:
            outcome = Outcome.OUTCOME_ANSWERED if attempt.status < 400 else Outcome.OUTCOME_BACKEND_ERROR
        elif fault.reason in _BROKEN or (fault.reason in _OPEN and attempt.sent):
            outcome = Outcome.OUTCOME_BROKEN
        else:
            outcome = Outcome.OUTCOME_REFUSED
        refused_by = exchanges_pb2.SIDE_UNSPECIFIED
        if outcome == Outcome.OUTCOME_REFUSED and fault is not None:
            provider = fault.metadata.get("side") == "provider"
            refused_by = exchanges_pb2.SIDE_PROVIDER if provider else exchanges_pb2.SIDE_CONSUMER
        return Exchange(
            exchange_id=UUID(attempt.exchange_id),
            side=exchanges_pb2.SIDE_CONSUMER,
            message_id=attempt.message_id,
            consumer=call.consumer,
            service=call.service,
            consumer_node=self._meshes.node,
            provider_node=attempt.node,
            method=call.head.method,
            status=attempt.status if fault is None else 0,
            outcome=outcome,
            reason=fault.reason if fault is not None else "",
            refused_by=refused_by,
            on_behalf=bool(call.on_behalf_of),
            request_sha256=attempt.request.statement.sha256 if attempt.request is not None else None,
            response_sha256=last.statement.sha256 if last is not None else None,
            measurement=steps,
            backend_share=None,
            start_time=attempt.clock.start,
            end_time=utc_now(),
        )


_OPEN = frozenset({"EXCHANGE_BROKEN", "EXCHANGE_TOO_LONG", "PEER_TIMEOUT", "STREAM_IDLE"})
"""Reasons by which it is not known whether the backend took a call, once it was sent."""

_BROKEN = frozenset({"CALLER_GONE", "INTERNAL"})
"""And by which nobody refused it either way."""


def _first_try(call: Call, policy: Policy) -> _Try:
    message_id = call.message_id or f"{names.instance_of(call.consumer)}-{uuid.uuid4()}"
    answer = Body(most=policy.max_response_bytes)
    return _Try(call, policy, str(uuid.uuid4()), "", message_id, Clock(), answer)


def _next_try(first: _Try) -> _Try:
    """Another exchange of the same call."""
    answer = Body(most=first.policy.max_response_bytes)
    made = _Try(first.call, first.policy, str(uuid.uuid4()), "", first.message_id, first.clock, answer)
    made.gathered = first.gathered
    made.request_body = first.gathered or first.request_body
    return made


def _head(attempt: _Try) -> peer_frames_pb2.ExchangeRequestHead:
    """The frame with which a request begins, without what is known of its body."""
    call = attempt.call
    first = peer_frames_pb2.ExchangeRequestHead(
        exchange_id=attempt.exchange_id,
        sender=f"subsystem {call.consumer}",
        receiver=f"service {call.service}",
        http_head=call.head.encode(),
        on_behalf_of=call.on_behalf_of,
    )
    first.timeout.FromMilliseconds(int(_patience(attempt) * 1000))
    attempt.clock.step("request_head")
    return first


def _left(limit: asyncio.Timeout) -> Fault:
    """Why a try ends of which nobody has said how."""
    if limit.expired():
        return too_long()
    return Internal("INTERNAL", "a fault of the node") if isinstance(sys.exception(), Exception) else gone()


async def _connected(stub: PeerStub) -> None:
    """Returns once the node has taken a connection. Raises Unavailable, PEER_UNAVAILABLE."""
    connected = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_WITHIN):
            connected = await stub.connected()
    if not connected:
        raise Unavailable("PEER_UNAVAILABLE", "the provider's node does not answer")


async def _while_sending(frames: Frames[Any, Any], sending: asyncio.Task[None]) -> Awaitable[Any]:
    """The answer's head, asked for now; returns when it is there or no more is sent. Raises what the body does."""
    reading = asyncio.ensure_future(frames.head())
    try:
        await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            with contextlib.suppress(NotWantedError):  # the answer says why
                sending.result()
    except BaseException:
        reading.cancel()
        raise
    return reading


async def _responses(
    answers: AsyncIterable[peer_frames_pb2.ExchangeResponse], enough: asyncio.Event
) -> AsyncIterator[peer_frames_pb2.ExchangeResponse]:
    async for frame in answers:
        kind = frame.WhichOneof("frame")
        if kind == "refusal":
            raise _Refused(frame.refusal)
        if kind == "enough":
            enough.set()
        else:
            yield frame


async def _following(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


async def _until(enough: asyncio.Event, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks as they come, until there are enough."""
    stopped = asyncio.ensure_future(enough.wait())
    try:
        while not enough.is_set():
            coming = asyncio.ensure_future(_following(chunks))
            try:
                await asyncio.wait((coming, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                coming.cancel()  # nothing where it is done
            if coming.done() and not coming.cancelled():
                chunk = coming.result()
                if chunk is None:
                    return
                yield chunk
    finally:
        stopped.cancel()


async def _released(
    frames: Frames[Any, Any], body: Body, complete: Callable[[], Awaitable[None]], *, messages: bool
) -> AsyncIterator[bytes]:
    """A body while it comes; its last bytes, or of messages the status that ends them, once all of it is proven."""
    held = b""
    with _providers_fault():
        async for chunk in frames.chunks():
            body.count(chunk)
            if held and chunk:
                yield held
                held = b""
            if messages:
                yield chunk
            else:
                held = chunk or held
        body.end()
    await complete()
    if held:
        yield held


@contextlib.contextmanager
def _providers_fault() -> Iterator[None]:
    """The caller is without fault where it is the provider's answer that does not hold (errors.proto)."""
    try:
        yield
    except InvalidArgument as fault:
        raise renewed(fault, kind=DataLoss) from None


def _broken(error: NotWantedError | grpc.aio.AioRpcError, attempt: _Try) -> Fault:
    """What the error of a connection says, or of a node that answers a request and does not want all of it."""
    if isinstance(error, grpc.aio.AioRpcError):
        fault = status.fault_of(error)
        if "side" in fault.metadata or fault.reason not in {"UNAVAILABLE", "INTERNAL"}:
            return fault  # the other node's own words
    if not attempt.sent:
        return Unavailable("PEER_UNAVAILABLE", "the provider's node does not answer")
    return Unavailable(
        "EXCHANGE_BROKEN", "the connection broke after the call was sent; whether the backend took it is not known"
    )


def _away(fault: Fault) -> bool:
    """Whether another node may do better."""
    return fault.reason in {"PEER_UNAVAILABLE", "EXCHANGE_BROKEN", "PEER_TIMEOUT", "NODE_IN_MAINTENANCE"}


def _patience(attempt: _Try) -> float:
    """Seconds until the answer begins."""
    return attempt.call.timeout or attempt.policy.response_timeout


def _protocol(call: Call) -> str:
    return "grpc" if call.head.grpc else "http"
