"""What other nodes bring: envelopes for this node's subsystems, and receipts of envelopes that it had sent.

Everything is verified before it is stored, and stored before it is taken. What
was brought before is taken as a duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from solmu.exchange.v1 import envelopes_pb2, events_pb2, statements_pb2
from solmu.exchange.v1.mandates_pb2 import CheckMandateResponse

from services.exchange import backlog_store, delivery_store, envelope_store, names, proving, topic_store
from services.exchange.bodies_at_rest import IncomingBody
from services.exchange.configuration import Configuration
from services.exchange.evidence import identifiers, statements
from services.exchange.evidence.statements import Kind, Statement
from services.exchange.journal import Entry
from services.exchange.mandates import Mandates
from services.exchange.meshes import Meshes
from services.exchange.recording import Recorder
from services.exchange.sending import Sending
from services.runtime.database import Connection, Database
from services.runtime.errors import (
    FailedPrecondition,
    Fault,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

State = envelopes_pb2.DeliveryState

KEPT = timedelta(days=7)
"""For how long at least what came stays, to be handed out again."""

PURPOSES = {
    "event": envelopes_pb2.PURPOSE_EVENT,
    "request": envelopes_pb2.PURPOSE_REQUEST,
    "answer": envelopes_pb2.PURPOSE_ANSWER,
}


@dataclass(frozen=True)
class RefusedFor:
    """That an envelope was refused for a recipient."""

    subsystem: str
    fault: Fault
    rejection: statements_pb2.Proof


@dataclass(frozen=True)
class Taken:
    """That something was taken."""

    duplicate: bool = False
    refused: Sequence[RefusedFor] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Judged:
    """What becomes of an envelope with each recipient."""

    findings: dict[str, CheckMandateResponse | None] = field(default_factory=dict)
    """Those who take it, with what was found of the mandate where it is on behalf of somebody."""
    faults: dict[str, Fault] = field(default_factory=dict)


class Arriving:
    """Judges and stores what is brought."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        meshes: Meshes,
        configuration: Configuration,
        recorder: Recorder,
        sending: Sending,
        mandates: Mandates,
    ) -> None:
        self._database = database
        self._vault = vault
        self._meshes = meshes
        self._configuration = configuration
        self._recorder = recorder
        self._sending = sending
        self._mandates = mandates

    def body_of(self, statement: Statement, on_behalf_of: bytes) -> IncomingBody:
        """Where the body of an envelope that is brought goes. Raises InvalidArgument, ON_BEHALF_DIGEST_MISMATCH."""
        proving.check_on_behalf(statement, on_behalf_of)
        body = IncomingBody(self._vault, UUID(statement.lines["id"]))
        body.on_behalf_of = on_behalf_of
        return body

    def admit(self, peer: str, proof: statements_pb2.Proof, *, recipients: Sequence[str], replayed: bool) -> Entry:
        """What is judged of an envelope before its body is taken.

        1. It is an envelope's statement: STATEMENT_MALFORMED, STATEMENT_MISMATCH.
        2. The node, the signature and its certificate: `Recorder.accept`.
        3. Its time holds, but for one that the receiver asked for again: STATEMENT_EXPIRED.
        4. Its body is no larger than is taken here: EXCHANGE_TOO_LARGE.

        What is taken later, once its recipient has received more, `check_room` says.
        """
        statement = statements.parse(proof.statement)  # 1
        if statement.kind is not Kind.ENVELOPE:
            raise InvalidArgument("STATEMENT_MISMATCH", "the statement is not an envelope's", line="kind")
        entry = self._recorder.accept(statement, proof, peer=peer, subsystem=recipients[0])  # 2
        skew = self._meshes.directory_of(statement.sender[1]).clock_skew
        now = datetime.now(UTC)
        statements.check_time(statement, now=min(now, statement.time) if replayed else now, skew=skew)  # 3
        most = self._recorder.policy(recipients[0]).max_request_bytes
        if int(statement.lines["body-bytes"]) > most:  # 4
            raise ResourceExhausted("EXCHANGE_TOO_LARGE", "the body is too large", max_bytes=str(most))
        return entry

    async def check_room(self, recipients: Sequence[str]) -> None:
        """Raises Unavailable, where as much waits as may.

        To be received by one of these: QUEUE_FULL. For time stamps: TIME_STAMP_BACKLOG_FULL, TIME_STAMP_UNAVAILABLE.
        """
        for subsystem in recipients:
            self._recorder.admit(subsystem)
            bound = self._recorder.policy(subsystem).max_waiting
            if await backlog_store.is_inbox_full(self._database, subsystem, bound=bound):
                raise Unavailable("QUEUE_FULL", "as many envelopes wait to be received as may")

    async def take(self, entry: Entry, body: IncomingBody, *, recipients: Sequence[str], replayed: bool) -> Taken:
        """Takes an envelope that was admitted, now that its body is here.

        1. The body is what the statement says: BODY_LENGTH_MISMATCH, BODY_DIGEST_MISMATCH.
        2. For each recipient: this node serves it, it is addressed, and takes from the sender:
           SUBSYSTEM_NOT_HOSTED, NOT_ADDRESSED, RECIPIENT_REFUSES. One that does not is refused by itself,
           with a signed rejection.
        3. Who stands behind it may act so, by the recipient's policy: MANDATE_MISSING, MANDATE_SOURCE_UNTRUSTED,
           FIELD_INVALID, a rejection as well. Where that cannot be asked now, MANDATE_UNVERIFIABLE: nothing is
           stored, for nobody, and it is to be brought again.
        """
        statement = entry.statement
        _check_body(statement, body)  # 1
        judged = await self._judge(statement, body, recipients)  # 2, 3: may ask another node, so in no transaction
        refused: list[RefusedFor] = []
        fresh = False
        async with self._database.transaction() as transaction:
            await self._recorder.write(transaction, entry)
            for recipient, fault in judged.faults.items():
                refused.append(await self._refuse(transaction, statement, recipient, fault))
            if judged.findings:
                await self._store(transaction, statement, body)
            for recipient, finding in judged.findings.items():
                if await delivery_store.insert(
                    transaction,
                    body.envelope_id,
                    recipient,
                    state=State.DELIVERY_STATE_ARRIVED,
                    finding=finding.SerializeToString() if finding is not None else None,
                ):
                    fresh = True
                    await self._recorder.tell(transaction, _arrived(statement, recipient))
                elif replayed and statement.receiver[0] == "topic":  # else it was replayed here
                    await delivery_store.replay_one(transaction, body.envelope_id, recipient)
        self._recorder.wake()
        if fresh:
            TRANSACTIONS.labels("envelope", "in").inc()
        return Taken(duplicate=bool(judged.findings) and not fresh, refused=refused)

    async def take_receipt(self, peer: str, proof: statements_pb2.Proof) -> Taken:
        """Takes a receipt or rejection of an envelope that this node had sent.

        1. It is one: STATEMENT_MALFORMED, STATEMENT_MISMATCH.
        2. It answers an envelope of this node, of one of its recipients: ANSWER_NOT_BOUND, NOT_ADDRESSED.
        3. The node, the signature and its certificate: `Recorder.accept`.
        """
        statement = statements.parse(proof.statement)  # 1
        if statement.kind not in {Kind.RECEIPT, Kind.REJECTION}:
            raise InvalidArgument("STATEMENT_MISMATCH", "the statement is no receipt's", line="kind")
        envelope = await envelope_store.by_statement(self._database, bytes.fromhex(statement.lines["answers"]))  # 2
        if envelope is None or str(envelope["envelope_id"]) != statement.lines["id"]:
            raise InvalidArgument("ANSWER_NOT_BOUND", "the receipt answers no envelope of this node")
        entry = self._recorder.accept(statement, proof, peer=peer, subsystem=envelope["sender"])  # 3
        settled = await self.settle(entry)
        return Taken(duplicate=not settled)

    async def settle(self, entry: Entry) -> bool:
        """Ends an envelope of this node by a receipt or rejection that was verified; says whether it had not ended."""
        statement, subsystem = entry.statement, entry.statement.sender[1]
        async with self._database.transaction() as transaction:
            envelope = await envelope_store.by_statement(transaction, bytes.fromhex(statement.lines["answers"]))
            if envelope is None:
                raise InvalidArgument("ANSWER_NOT_BOUND", "the receipt answers no envelope of this node")
            rejected = statement.kind is Kind.REJECTION
            settled = await self._sending.settle(
                transaction,
                envelope,
                subsystem,
                state=State.DELIVERY_STATE_REFUSED if rejected else State.DELIVERY_STATE_ACKNOWLEDGED,
                reason=statement.lines.get("reason", ""),
                statement=statement.sha256,
            )
            if settled:
                await self._recorder.write(transaction, entry)
        self._recorder.wake()
        return settled

    async def _store(self, transaction: Connection, statement: Statement, body: IncomingBody) -> None:
        lines = statement.lines
        assert statement.expires is not None  # an envelope's statement has it
        answered = None
        if "answers" in lines:
            found = await envelope_store.by_statement(transaction, bytes.fromhex(lines["answers"]))
            answered = found["envelope_id"] if found is not None else None
        await body.keep(transaction, until=max(statement.expires, datetime.now(UTC) + KEPT))
        await delivery_store.insert_arrival(
            transaction,
            (
                body.envelope_id,
                statement.sender[1],
                lines["receiver"],
                identifiers.decode(lines["message-id"]) if "message-id" in lines else "",
                PURPOSES[lines["purpose"]],
                lines.get("type", ""),
                lines.get("media-type", ""),
                answered,
                lines.get("lane", ""),
                int(lines.get("place", "0")),
                bytes.fromhex(lines["body-sha256"]),
                body.size,
                statement.sha256,
                statement.time,
                statement.expires,
            ),
        )

    async def _judge(self, statement: Statement, body: IncomingBody, recipients: Sequence[str]) -> _Judged:
        await self._configuration.load()  # a right that was just given or taken back counts, in whatever process
        judged = _Judged()
        for recipient in recipients:
            try:
                await self._check_recipient(statement, recipient)
                judged.findings[recipient] = await self._find_mandate(statement, body, recipient)
            except Unavailable:
                raise
            except Fault as fault:
                judged.faults[recipient] = fault
        return judged

    async def _find_mandate(
        self, statement: Statement, body: IncomingBody, recipient: str
    ) -> CheckMandateResponse | None:
        """What is found now, or, of an envelope that is here already, was found when it came."""
        policy = self._recorder.policy(recipient)
        if not body.on_behalf_of and not policy.content.mandate_required:
            return None
        known = await delivery_store.one(self._database, body.envelope_id, recipient)
        if known is not None and known["statement_sha256"] == statement.sha256:
            return CheckMandateResponse.FromString(known["finding"]) if known["finding"] is not None else None
        return await self._mandates.judge(
            body.on_behalf_of, consumer=statement.sender[1], policy=policy, message_id=str(body.envelope_id)
        )

    async def _check_recipient(self, statement: Statement, recipient: str) -> None:
        if not self._meshes.hosts(recipient):
            raise FailedPrecondition("SUBSYSTEM_NOT_HOSTED", "this node does not serve it", subsystem=recipient)
        kind, target = statement.receiver
        if kind == "topic":
            if not await topic_store.active(self._database, recipient, target):
                raise _not_addressed()
            return
        if (kind == "subsystem" and target != recipient) or kind not in {"subsystem", "group"}:
            raise _not_addressed()
        if kind == "group" and target.count("/") == 1 and target not in self._meshes.groups(recipient):
            raise _not_addressed()
        sender = statement.sender[1]
        rights = self._configuration.current.rights.get(f"inbox {recipient}", ())
        groups, now = self._meshes.groups(sender), datetime.now(UTC)
        if not any(right.held_by(sender, groups, now=now) for right in rights):
            raise PermissionDenied("RECIPIENT_REFUSES", "the recipient takes nothing from this sender")

    async def _refuse(self, transaction: Connection, statement: Statement, recipient: str, fault: Fault) -> RefusedFor:
        if not self._meshes.hosts(recipient):  # nobody here can sign for it
            return RefusedFor(recipient, fault, statements_pb2.Proof())
        rejection = await self._recorder.sign(
            Kind.REJECTION, answer_lines(statement.lines["id"], statement.sha256, statement.sender[1], fault.reason),
            subsystem=recipient,
        )  # fmt: skip
        await self._recorder.write(transaction, rejection)
        return RefusedFor(recipient, fault, rejection.proof)


def answer_lines(envelope_id: str, sha256: bytes, sender: str, reason: str = "") -> dict[str, str]:
    """The lines of a receipt or, with a reason, of a rejection."""
    lines = {"id": envelope_id, "receiver": f"subsystem {sender}", "answers": sha256.hex()}
    return {**lines, "reason": reason} if reason else lines


def _check_body(statement: Statement, body: IncomingBody) -> None:
    expected = statement.lines["body-bytes"]
    if str(body.size) != expected:
        raise InvalidArgument(
            "BODY_LENGTH_MISMATCH", "more or fewer bytes came", expected=expected, actual=str(body.size)
        )
    if body.sha256.hex() != statement.lines["body-sha256"]:
        raise InvalidArgument("BODY_DIGEST_MISMATCH", "the body has another digest than the statement says")


def _arrived(statement: Statement, recipient: str) -> events_pb2.EnvelopeArrived:
    kind, target = statement.receiver
    topic = ""
    if kind == "topic":
        owner, _, code = target.rpartition("/")
        topic = f"{names.resource('subsystems', owner)}/topics/{code}"
    return events_pb2.EnvelopeArrived(
        delivery=f"{names.resource('subsystems', recipient)}/deliveries/{statement.lines['id']}",
        sender=names.resource("subsystems", statement.sender[1]),
        topic=topic,
        purpose=PURPOSES[statement.lines["purpose"]],
        type=statement.lines.get("type", ""),
        body_bytes=int(statement.lines["body-bytes"]),
    )


def _not_addressed() -> Fault:
    return FailedPrecondition("NOT_ADDRESSED", "the recipient is not among those whom the envelope was sent to")
