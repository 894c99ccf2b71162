"""Envelopes on their way out: taken, signed, addressed; and what becomes of them with each recipient."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import envelopes_pb2, events_pb2, topics_pb2

from services.exchange import backlog_store, delivery_store, envelope_store, names, topic_store
from services.exchange.bodies_at_rest import IncomingBody
from services.exchange.configuration import Configuration
from services.exchange.evidence import identifiers, statements
from services.exchange.evidence.statements import Kind
from services.exchange.mandates import salted
from services.exchange.meshes import Meshes
from services.exchange.recording import Recorder
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    not_found,
)
from services.runtime.ids import new_id
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

State = envelopes_pb2.DeliveryState
Envelope = envelopes_pb2.Envelope

LIFETIME = timedelta(days=7)
MESH_LIFETIME = timedelta(days=30)
"""For how long an envelope is delivered where policy and mesh do not say."""

TOPIC_RETENTION = timedelta(days=7)
"""For how long what was sent to a topic stays where the topic does not say."""

LANE_BYTES = 16

FULL_RETRY = 60.0
"""Seconds after which a sender may ask whether a full queue has become shorter."""

PURPOSES = {
    envelopes_pb2.PURPOSE_UNSPECIFIED: "event",
    envelopes_pb2.PURPOSE_EVENT: "event",
    envelopes_pb2.PURPOSE_REQUEST: "request",
    envelopes_pb2.PURPOSE_ANSWER: "answer",
}


class Sending:
    """Takes envelopes of this node's subsystems."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        meshes: Meshes,
        configuration: Configuration,
        recorder: Recorder,
    ) -> None:
        self._database = database
        self._vault = vault
        self._meshes = meshes
        self._configuration = configuration
        self._recorder = recorder

    async def send(self, sender: str, asked: Envelope, body: AsyncIterator[bytes]) -> Row:
        """Takes an envelope whole or not at all; a repeat returns the first.

        Raises InvalidArgument, BODY_DIGEST_MISMATCH; ResourceExhausted,
        EXCHANGE_TOO_LARGE, QUEUE_FULL; AlreadyExists, MESSAGE_ID_REUSED; NotFound,
        MEMBER_UNKNOWN; FailedPrecondition, NOT_ANSWERABLE; and what signing
        demands.
        """
        incoming = IncomingBody(self._vault, new_id())
        incoming.on_behalf_of = salted(asked.on_behalf_of) if asked.HasField("on_behalf_of") else b""
        try:
            most = self._recorder.policy(sender).max_request_bytes
            async for piece in body:
                if incoming.size + len(piece) > most:
                    raise ResourceExhausted("EXCHANGE_TOO_LARGE", "the body is too large", max_bytes=str(most))
                await incoming.write(piece)
            if asked.body_sha256 and bytes.fromhex(asked.body_sha256) != incoming.sha256:
                raise InvalidArgument("BODY_DIGEST_MISMATCH", "the body has another digest than the caller says")
            return await self._take(sender, asked, incoming)
        finally:
            incoming.close()

    async def _take(self, sender: str, asked: Envelope, body: IncomingBody) -> Row:
        digest = self._digest(asked, body.sha256)
        first = await envelope_store.by_message_id(self._database, sender, asked.message_id)
        if first is None:
            try:
                async with self._database.transaction() as transaction:
                    await self._write(transaction, sender, asked, body, digest)
            except asyncpg.UniqueViolationError:  # the same was sent twice at once
                pass
            else:
                TRANSACTIONS.labels("envelope", "out").inc()
            self._recorder.wake()
            first = await envelope_store.by_message_id(self._database, sender, asked.message_id)
            assert first is not None
        if first["digest"] != digest:
            raise AlreadyExists(
                "MESSAGE_ID_REUSED", "the message id was used for other content", envelope=envelope_name(first)
            )
        return first

    async def _write(
        self, transaction: Connection, sender: str, asked: Envelope, body: IncomingBody, digest: bytes
    ) -> None:
        now = datetime.now(UTC)
        target, recipients, retention = await self._addressed(transaction, sender, asked)
        full = await self._full(transaction, sender, recipients, alone=asked.WhichOneof("target") == "subsystem")
        answered = await self._answered(transaction, sender, asked)
        lane = self._lane(sender, asked.ordering_key)
        place = await envelope_store.next_place(transaction, sender, target, lane) if lane else 0
        expires = self._expires(sender, asked, now)
        lines = {
            "id": str(body.envelope_id),
            "expires": statements.spell(expires),
            "receiver": target,
            "message-id": identifiers.encode(asked.message_id),
            "purpose": PURPOSES[asked.purpose],
            "media-type": asked.media_type,
            "body-sha256": body.sha256.hex(),
            "body-bytes": str(body.size),
            **({"type": asked.type} if asked.type else {}),
            **({"lane": lane, "place": str(place)} if lane else {}),
            **({"on-behalf-of-sha256": hashlib.sha256(body.on_behalf_of).hexdigest()} if body.on_behalf_of else {}),
            **({"answers": answered["statement_sha256"].hex()} if answered else {}),
        }
        entry = await self._recorder.sign(Kind.ENVELOPE, lines, subsystem=sender)
        await self._recorder.write(transaction, entry)
        await body.keep(transaction, until=max(expires, now + retention))
        await envelope_store.insert(
            transaction,
            (
                body.envelope_id,
                sender,
                asked.message_id,
                digest,
                target,
                asked.purpose or envelopes_pb2.PURPOSE_EVENT,
                asked.type,
                asked.media_type,
                answered["envelope_id"] if answered else None,
                lane,
                place,
                body.sha256,
                body.size,
                entry.proof.SerializeToString(),
                entry.statement.sha256,
                expires,
            ),
            recipients,
            state=State.DELIVERY_STATE_QUEUED,
        )
        if full:
            envelope = await envelope_store.envelope(transaction, body.envelope_id)
            assert envelope is not None
            for subsystem in full:
                await self.settle(
                    transaction, envelope, subsystem, state=State.DELIVERY_STATE_REFUSED, reason="QUEUE_FULL"
                )

    async def _full(self, transaction: Connection, sender: str, recipients: Sequence[str], *, alone: bool) -> list[str]:
        """The recipients for whom as much waits as may. Raises ResourceExhausted, QUEUE_FULL, for one addressed alone.

        Of many one that has been away for long must not hold up the others.
        """
        bound = self._recorder.policy(sender).max_waiting
        full = [each for each in recipients if await backlog_store.is_full(transaction, each, bound=bound)]
        if full and alone:
            raise queue_full(full[0])
        return full

    async def _addressed(
        self, transaction: Connection, sender: str, asked: Envelope
    ) -> tuple[str, list[str], timedelta]:
        """For whom it is, as the statement says it; each of them; and how long it stays for others who may come."""
        kind = asked.WhichOneof("target")
        if kind == "subsystem":
            subsystem = names.identifier(asked.subsystem, 4)
            self._meshes.subsystem(subsystem)
            return f"subsystem {subsystem}", [subsystem], timedelta(0)
        if kind == "group":
            identifier, members = self._group(sender, asked.group)
            return f"group {identifier}", sorted(members - {sender}), timedelta(0)
        topic = f"{sender}/{asked.topic.rsplit('/', 1)[1]}"
        row = await topic_store.topic(transaction, topic)
        owner = asked.topic.split("/")[1]
        if row is None or owner not in {"-", sender.replace("/", "~")}:
            raise not_found(asked.topic)
        content = topics_pb2.Topic.FromString(row["content"])
        if content.types and asked.type not in content.types:
            raise InvalidArgument(
                "FIELD_INVALID", "the topic has no such type", violations=[("envelope.type", "is none of the topic's")]
            )
        return (
            f"topic {topic}",
            await topic_store.subscribers(transaction, topic, kind=asked.type),
            retention_of(content),
        )

    def _group(self, sender: str, name: str) -> tuple[str, set[str]]:
        parts = name.split("/")
        if parts[0] == "directories":
            identifier = f"{parts[1]}/{parts[3]}"
            found = self._meshes.directory(identifiers.decode(parts[1])).groups.get(identifier)
            members = found.subsystems if found is not None else None
            if members is None:
                raise NotFound("MEMBER_UNKNOWN", "the directory has no such group", subject=identifier)
            return identifier, {names.subsystem(each) for each in members}
        subsystem, code = names.identifier(name, 4), parts[3]
        local = self._configuration.current.groups.get((subsystem, code))
        if local is None or subsystem != sender:
            raise not_found(name)
        return f"{subsystem}/{code}", {names.identifier(each, 4) for each in local[0].subsystems}

    async def _answered(self, transaction: Connection, sender: str, asked: Envelope) -> Row | None:
        if not asked.answers:
            if asked.purpose == envelopes_pb2.PURPOSE_ANSWER:
                raise FailedPrecondition("NOT_ANSWERABLE", "an answer names the envelope that it answers")
            return None
        found = await delivery_store.one(transaction, UUID(asked.answers.rsplit("/", 1)[1]), sender)
        if (
            found is None
            or found["purpose"] != envelopes_pb2.PURPOSE_REQUEST
            or asked.purpose != envelopes_pb2.PURPOSE_ANSWER
        ):
            raise FailedPrecondition("NOT_ANSWERABLE", "it answers nothing that was a request to this subsystem")
        return found

    def _digest(self, asked: Envelope, body_sha256: bytes) -> bytes:
        """What was asked for, so that a repeat is told from a reuse; keyed where it says who acts for whom."""
        meant = Envelope()
        meant.CopyFrom(asked)
        meant.body_sha256 = body_sha256.hex()
        meant.purpose = asked.purpose or envelopes_pb2.PURPOSE_EVENT
        if not asked.HasField("on_behalf_of"):
            return hashlib.sha256(meant.SerializeToString(deterministic=True)).digest()
        meant.on_behalf_of.ClearField("salt")
        return self._vault.digest(b"envelope\n" + meant.SerializeToString(deterministic=True))

    def _lane(self, sender: str, key: str) -> str:
        return self._vault.digest(f"lane\n{sender}\n{key}".encode())[:LANE_BYTES].hex() if key else ""

    def _expires(self, sender: str, asked: Envelope, now: datetime) -> datetime:
        policy = self._recorder.policy(sender).content
        parameters = self._meshes.directory_of(sender).document.parameters
        most = now + _span(parameters.envelope_lifetime, MESH_LIFETIME)
        usual = now + _span(policy.envelope_lifetime, LIFETIME)
        wanted = asked.expire_time.ToDatetime(UTC) if asked.HasField("expire_time") else usual
        if wanted <= now:
            raise FailedPrecondition("ENVELOPE_EXPIRED", "the envelope's time is over")
        return min(wanted, most)

    # What becomes of them

    async def settle(
        self,
        transaction: Connection,
        envelope: Row,
        subsystem: str,
        *,
        state: State.ValueType,
        reason: str = "",
        statement: bytes | None = None,
    ) -> bool:
        """Ends an envelope with a recipient, and tells its sender; says whether it had not ended."""
        row = await envelope_store.settle(
            transaction, envelope["envelope_id"], subsystem, state=state, reason=reason, statement=statement
        )
        if row is None:
            return False
        view = recipient_view(row, envelope["sender"])
        await envelope_store.append_receipt(
            transaction,
            receipt_id=new_id(),
            sender=envelope["sender"],
            envelope_id=envelope["envelope_id"],
            message_id=envelope["message_id"],
            content=view.SerializeToString(),
        )
        await self._recorder.tell(
            transaction,
            events_pb2.EnvelopeSettled(
                envelope=envelope_name(envelope),
                message_id=envelope["message_id"],
                recipient=view.subsystem,
                state=state,
                reason=reason,
                statement=view.statement,
            ),
        )
        return True

    async def cancel(self, envelope: Row) -> None:
        """Stops an envelope where it has not arrived. Raises FailedPrecondition, ENVELOPE_SETTLED."""
        async with self._database.transaction() as transaction:
            waiting = await envelope_store.cancellable(transaction, envelope["envelope_id"])
            if not waiting:
                raise FailedPrecondition("ENVELOPE_SETTLED", "the envelope has arrived everywhere, or has ended")
            for subsystem in waiting:
                await self.settle(transaction, envelope, subsystem, state=State.DELIVERY_STATE_CANCELLED)
        self._recorder.wake()

    async def abandon(self, *, limit: int = 200) -> int:
        """Gives up what has not arrived anywhere, and tells its senders; returns how many envelopes that were."""
        given_up: set[UUID] = set()
        while True:
            async with self._database.transaction() as transaction:
                rows = await envelope_store.undelivered(transaction, limit=limit)
                for row in rows:
                    envelope = await envelope_store.envelope(transaction, row["envelope_id"])
                    assert envelope is not None
                    await self.settle(transaction, envelope, row["subsystem"], state=State.DELIVERY_STATE_CANCELLED)
                    given_up.add(row["envelope_id"])
            if len(rows) < limit:
                self._recorder.wake()
                return len(given_up)

    async def expire(self, *, now: datetime, limit: int = 200) -> int:
        """Ends envelopes whose time is over; returns how many recipients that concerned."""
        async with self._database.transaction() as transaction:
            rows = await envelope_store.overdue(transaction, now=now, limit=limit)
            for row in rows:
                envelope = await envelope_store.envelope(transaction, row["envelope_id"])
                assert envelope is not None
                await self.settle(transaction, envelope, row["subsystem"], state=State.DELIVERY_STATE_EXPIRED)
        if rows:
            self._recorder.wake()
        return len(rows)


def queue_full(subsystem: str) -> ResourceExhausted:
    """The refusal of an envelope for whose recipient too much waits already."""
    return ResourceExhausted(
        "QUEUE_FULL",
        "as many envelopes wait for the recipient as may",
        retry_after=FULL_RETRY,
        recipient=names.resource("subsystems", subsystem),
    )


def envelope_name(row: Row) -> str:
    """An envelope's resource name."""
    return f"{names.resource('subsystems', row['sender'])}/envelopes/{row['envelope_id']}"


def recipient_view(row: Row, sender: str) -> envelopes_pb2.Recipient:
    """A recipient as the contract shows it."""
    subsystem = names.resource("subsystems", row["subsystem"])
    code = subsystem.removeprefix("subsystems/")
    view = envelopes_pb2.Recipient(
        name=f"{names.resource('subsystems', sender)}/envelopes/{row['envelope_id']}/recipients/{code}",
        subsystem=subsystem,
        state=row["state"],
        reason=row["reason"],
        statement=f"statements/{row['statement_sha256'].hex()}" if row["statement_sha256"] else "",
        attempts=row["attempts"],
        last_failure=row["last_failure"],
    )
    if row["state"] == State.DELIVERY_STATE_QUEUED:
        view.next_attempt_time.FromDatetime(row["next_attempt_time"])
    if row["arrive_time"] is not None:
        view.arrive_time.FromDatetime(row["arrive_time"])
    if row["settle_time"] is not None:
        view.settle_time.FromDatetime(row["settle_time"])
    return view


def retention_of(topic: topics_pb2.Topic) -> timedelta:
    """For how long what was sent to a topic stays."""
    return topic.retention.ToTimedelta() if topic.HasField("retention") else TOPIC_RETENTION


def _span(value: Duration, default: timedelta) -> timedelta:
    return value.ToTimedelta() if value.ByteSize() else default
