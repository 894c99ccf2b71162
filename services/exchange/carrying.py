"""Brings envelopes, receipts and subscriptions to the nodes that they are for, until they are taken.

PostgreSQL remembers what waits; nothing is lost where this process, this node
or the other one is away. Each node is brought its things, and told of
subscriptions, by itself, so that one that hangs holds up no other; of each lane
the first that has not arrived is brought, so that a lane arrives in its order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import peer_frames_pb2, peer_pb2, peer_pb2_grpc, statements_pb2, topics_pb2

from services.exchange import bodies_at_rest, delivery_store, envelope_store, topic_store
from services.exchange.arriving import Arriving, Taken
from services.exchange.evidence import statements
from services.exchange.meshes import Meshes
from services.exchange.peers import Peers
from services.exchange.recording import Recorder
from services.exchange.sending import Sending, State
from services.exchange.subscribing import Subscribing, subscription_view
from services.exchange.words import refused, taken_word
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import DeadlineExceeded, Fault, ResourceExhausted, Unavailable
from services.runtime.sealing import Vault
from services.runtime.status import fault_of, from_status

logger = logging.getLogger(__name__)

DeliverRequest = peer_frames_pb2.DeliverRequest
DeliverResponse = peer_frames_pb2.DeliverResponse
Subscription = topics_pb2.Subscription

INTERVAL = 0.25
"""Seconds between two looks for what is to be brought."""

EXPIRE_INTERVAL = 1.0
"""Seconds between two looks for what is over."""

BATCH = 500
"""Envelopes, and receipts, that are looked at in one turn."""

FIRST_BACKOFF = timedelta(seconds=1)
MAX_BACKOFF = timedelta(minutes=10)
"""Pauses between tries, where the policy does not say (`ExchangePolicy.retries.max_envelope_backoff`)."""

BRING_WITHIN = 600.0
"""Seconds for one stream; a large body takes its time, and a node that hangs is left after it."""

TELL_WITHIN = 10.0
"""Seconds for a publisher's node to enter a subscription."""

TELL_AGAIN = timedelta(seconds=10)
"""Pause where it was not reached, or had no time."""


@dataclass
class _Load:
    """What is brought to one node in one go."""

    envelopes: dict[bytes, list[Row]] = field(default_factory=lambda: defaultdict(list))
    """By digest of the statement: the recipients."""
    receipts: dict[bytes, Row] = field(default_factory=dict)


class Carrier:
    """Brings things."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        meshes: Meshes,
        peers: Peers,
        recorder: Recorder,
        sending: Sending,
        arriving: Arriving,
        subscribing: Subscribing,
    ) -> None:
        self._database = database
        self._vault = vault
        self._meshes = meshes
        self._peers = peers
        self._recorder = recorder
        self._sending = sending
        self._arriving = arriving
        self._subscribing = subscribing
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        """What is done for which node."""

    async def turn(self) -> float:
        """Has each node that something is due for be brought it; one process at a time."""
        now = datetime.now(UTC)
        loads: dict[str, _Load] = defaultdict(_Load)
        for row in await envelope_store.due(self._database, now=now, limit=BATCH):
            if node := self._node_of(row["subsystem"]):
                loads[node].envelopes[row["statement_sha256"]].append(row)
            else:
                await self._failed([row], "MEMBER_UNKNOWN")
        for row in await delivery_store.due_receipts(self._database, now=now, limit=BATCH):
            if node := self._node_of(row["sender"]):
                loads[node].receipts[statements.parse(row["content"]).sha256] = row
            else:
                await self._receipt_failed(row)
        subscriptions: dict[str, list[Row]] = defaultdict(list)
        for row in await topic_store.untold(self._database, now=now, limit=BATCH):
            subscriptions[self._node_of(row["topic"].rpartition("/")[0])].append(row)
        self._under_way = {key: task for key, task in self._under_way.items() if not task.done()}
        for node, load in loads.items():
            self._start("bring", node, partial(self._bring, node, load))
        for node, rows in subscriptions.items():
            self._start("tell", node, partial(self._tell, node, rows))
        return INTERVAL

    async def expire(self) -> float:
        """Ends what has not come, or was not acknowledged, in its time; one process at a time."""
        now = datetime.now(UTC)
        while await self._sending.expire(now=now):
            pass
        await delivery_store.expire(self._database, now=now)
        return EXPIRE_INTERVAL

    def _start(self, what: str, node: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Does something for a node, where it is not being done."""
        if (what, node) not in self._under_way:
            self._under_way[what, node] = asyncio.create_task(work())

    async def settled(self) -> None:
        """Returns once nothing is under way."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _node_of(self, subsystem: str) -> str:
        """The node to which something for a subsystem is brought; empty where the directory has none."""
        if self._meshes.hosts(subsystem):
            return self._meshes.node
        try:
            serving = self._meshes.directory_of(subsystem).serving.get(subsystem, [])
        except Fault:
            return ""
        return min(serving, key=lambda one: (one.priority, -one.weight)).node if serving else ""

    async def _bring(self, node: str, load: _Load) -> None:
        try:
            if node == self._meshes.node:
                await self._bring_here(node, load)
            else:
                await self._bring_there(node, load)
        except PASSING as error:
            logger.warning("bringing waits", extra={"peer": node, "error": type(error).__qualname__})
        except Fault as fault:
            logger.info("not brought", extra={"peer": node, "reason": fault.reason})
            await self._all_failed(load, fault.reason)

    # To another node

    async def _bring_there(self, node: str, load: _Load) -> None:
        stubs = self._peers.stubs(node)
        if not stubs:
            raise Unavailable("PEER_UNAVAILABLE", "the node has no address")
        waiting = dict(load.envelopes)
        receipts = dict(load.receipts)
        try:
            async for answer in self._deliver(stubs[0], load):
                if answer.statement_sha256 in waiting:
                    await self._take_word(waiting.pop(answer.statement_sha256), answer)
                elif answer.statement_sha256 in receipts:
                    await self._take_receipts_word(receipts.pop(answer.statement_sha256), answer)
        except grpc.RpcError as error:
            reason = fault_of(error).reason
            logger.info("not brought", extra={"peer": node, "reason": reason})
            await self._all_failed(_Load(waiting, receipts), reason)
        else:
            await self._all_failed(_Load(waiting, receipts), "FRAMES_INVALID")  # a peer that gave no word on these

    async def _still(self, rows: Sequence[Row]) -> list[Row]:
        """Those to whom an envelope is to be brought when its turn comes: it may be cancelled by then."""
        waiting = await envelope_store.still_waiting(
            self._database, rows[0]["envelope_id"], [row["subsystem"] for row in rows]
        )
        return [row for row in rows if row["subsystem"] in waiting]

    def _deliver(self, stub: peer_pb2_grpc.PeerServiceAsyncStub, load: _Load) -> AsyncIterable[DeliverResponse]:
        async def requests() -> AsyncIterator[DeliverRequest]:
            for found in load.envelopes.values():
                rows = await self._still(found)
                if not rows:
                    continue
                brought = peer_frames_pb2.BroughtEnvelope(
                    proof=statements_pb2.Proof.FromString(rows[0]["statement"]),
                    recipients=[row["subsystem"] for row in rows],
                    on_behalf_of=bodies_at_rest.on_behalf_of(self._vault, rows[0]),
                    replayed=any(row["replayed"] for row in rows),
                )
                yield DeliverRequest(envelope=brought)
                async for piece in bodies_at_rest.read(self._database, self._vault, rows[0]["envelope_id"]):
                    yield DeliverRequest(chunk=piece)
            for row in load.receipts.values():
                yield DeliverRequest(receipt=receipt_proof(row))

        return stub.Deliver(requests(), timeout=BRING_WITHIN)

    async def _take_word(self, rows: Sequence[Row], answer: DeliverResponse) -> None:
        """Enters what a peer said of an envelope."""
        if answer.HasField("deferred"):
            await self._failed(rows, from_status(answer.deferred).reason)
            return
        envelope = await envelope_store.envelope(self._database, rows[0]["envelope_id"])
        assert envelope is not None
        if answer.HasField("refused"):
            reasons = {row["subsystem"]: from_status(answer.refused.status).reason for row in rows}
        else:
            reasons = {one.recipient: from_status(one.refusal.status).reason for one in answer.taken.refused_recipients}
            for one in answer.taken.refused_recipients:
                await self._keep_rejection(one)
        async with self._database.transaction() as transaction:
            there = []
            for subsystem in (row["subsystem"] for row in rows):
                reason = reasons.get(subsystem)
                if reason is None or not await self._sending.settle(
                    transaction, envelope, subsystem, state=State.DELIVERY_STATE_REFUSED, reason=reason
                ):
                    there.append(subsystem)  # or had ended before it was brought again, and that stands
            await envelope_store.set_arrived(transaction, envelope["envelope_id"], there)
        self._recorder.wake()

    async def _keep_rejection(self, one: peer_frames_pb2.RefusedRecipient) -> None:
        """Settles by a signed rejection, where it holds; one that does not leaves the refusal without proof."""
        if not one.refusal.HasField("proof"):
            return
        try:
            node = self._node_of(one.recipient)
            await self._arriving.take_receipt(node, one.refusal.proof)
        except Fault as fault:
            logger.warning("a rejection does not hold", extra={"reason": fault.reason})

    async def _take_receipts_word(self, row: Row, answer: DeliverResponse) -> None:
        if answer.HasField("deferred"):
            await self._receipt_failed(row)
            return
        if answer.HasField("refused"):
            logger.warning("a receipt was refused", extra={"reason": from_status(answer.refused.status).reason})
        await delivery_store.set_receipt_due(self._database, row["envelope_id"], row["subsystem"], None)

    # Within the node

    async def _bring_here(self, node: str, load: _Load) -> None:
        for found in load.envelopes.values():
            rows = await self._still(found)
            if not rows:
                continue
            try:
                taken = await self._take_here(node, rows)
                await self._take_word(rows, taken_word(rows[0]["statement_sha256"], taken))
            except Unavailable as fault:
                await self._failed(rows, fault.reason)
            except Fault as fault:
                await self._take_word(rows, refused(rows[0]["statement_sha256"], fault))
        for row in load.receipts.values():
            await self._arriving.take_receipt(node, receipt_proof(row))
            await delivery_store.set_receipt_due(self._database, row["envelope_id"], row["subsystem"], None)

    async def _take_here(self, node: str, rows: Sequence[Row]) -> Taken:
        to, replayed = [row["subsystem"] for row in rows], any(row["replayed"] for row in rows)
        proof = statements_pb2.Proof.FromString(rows[0]["statement"])
        entry = self._arriving.admit(node, proof, recipients=to, replayed=replayed)
        await self._arriving.check_room(to)
        body = self._arriving.body_of(entry.statement, bodies_at_rest.on_behalf_of(self._vault, rows[0]))
        try:
            async for piece in bodies_at_rest.read(self._database, self._vault, rows[0]["envelope_id"]):
                await body.write(piece)
            return await self._arriving.take(entry, body, recipients=to, replayed=replayed)
        finally:
            body.close()

    # What did not work

    async def _all_failed(self, load: _Load, reason: str) -> None:
        for rows in load.envelopes.values():
            await self._failed(rows, reason)
        for row in load.receipts.values():
            await self._receipt_failed(row)

    async def _failed(self, rows: Sequence[Row], reason: str) -> None:
        backoff = _backoff(rows[0]["attempts"], self._most(rows[0]["sender"]))
        await envelope_store.set_failed(
            self._database,
            rows[0]["envelope_id"],
            [row["subsystem"] for row in rows],
            failure=reason,
            next_attempt=datetime.now(UTC) + backoff,
        )

    async def _receipt_failed(self, row: Row) -> None:
        due = datetime.now(UTC) + _backoff(row["receipt_attempts"], self._most(row["subsystem"]))
        await delivery_store.set_receipt_due(self._database, row["envelope_id"], row["subsystem"], due)

    def _most(self, subsystem: str) -> timedelta:
        wanted: Duration = self._recorder.policy(subsystem).content.retries.max_envelope_backoff
        return wanted.ToTimedelta() if wanted.ByteSize() else MAX_BACKOFF

    # Subscriptions

    async def _tell(self, node: str, rows: Sequence[Row]) -> None:
        try:
            for row in rows:
                await self._tell_of(node, row)
        except PASSING as error:
            logger.warning("telling waits", extra={"peer": node, "error": type(error).__qualname__})

    async def _tell_of(self, node: str, row: Row) -> None:
        """Has the publisher's node hear of a subscription: what it says stands, and where it is away it hears later."""
        try:
            await self._subscribe(node, row)
        except (Fault, grpc.RpcError) as error:
            fault = fault_of(error) if isinstance(error, grpc.RpcError) else error
            if isinstance(fault, Unavailable | DeadlineExceeded | ResourceExhausted):
                await topic_store.tell_later(self._database, row["subscription_id"], datetime.now(UTC) + TELL_AGAIN)
            else:
                await self._subscribing.refused(row, fault.reason)

    async def _subscribe(self, node: str, row: Row) -> None:
        wanted = subscription_view(row)
        if node == self._meshes.node:
            told = await self._subscribing.enter(node, row["subsystem"], wanted)
        else:
            stubs = self._peers.stubs(node) if node else []
            if not stubs:
                raise Unavailable("PEER_UNAVAILABLE", "the publisher's node has no address")
            request = peer_pb2.SubscribeRequest(subscriber=row["subsystem"], subscription=wanted)
            told = (await stubs[0].Subscribe(request, timeout=TELL_WITHIN)).subscription
        await self._subscribing.heard(row, told)


def receipt_proof(row: Row) -> statements_pb2.Proof:
    """A receipt as it travels, from a row of `delivery_store.due_receipts`."""
    return statements_pb2.Proof(
        statement=row["content"],
        signature=statements_pb2.Signature.FromString(row["signature"]),
        certificate_status=row["answer"] or b"",
        time_stamp=row["time_stamp"],
    )


def _backoff(attempts: int, most: timedelta) -> timedelta:
    return min(most, FIRST_BACKOFF * (1 << min(attempts, 20)))
