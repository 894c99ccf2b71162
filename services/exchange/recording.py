"""Statements of envelopes and receipts: signed or verified, and written with what they bring about."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message
from solmu.exchange.v1 import statements_pb2

from services.exchange import journal_store
from services.exchange.configuration import Configuration
from services.exchange.evidence import signatures
from services.exchange.evidence.statements import Kind, Statement
from services.exchange.journal import Content, Entry
from services.exchange.keeping import Keeping
from services.exchange.meshes import Meshes
from services.exchange.policies import Policy
from services.exchange.proofs import signature_of
from services.exchange.proving import Proving, Status
from services.runtime.database import Connection
from services.runtime.errors import InvalidArgument, PermissionDenied
from services.runtime.outbox import Outbox, event


class Recorder:
    """Signs for this node's subsystems, judges what others signed, and writes both into the journal's tables."""

    def __init__(
        self,
        *,
        meshes: Meshes,
        configuration: Configuration,
        proving: Proving,
        status: Status,
        keeping: Keeping,
        outbox: Outbox | None,
    ) -> None:
        self._meshes = meshes
        self._configuration = configuration
        self._proving = proving
        self._status = status
        self._keeping = keeping
        self._outbox = outbox

    def policy(self, subsystem: str) -> Policy:
        """What goes for the exchanges of a subsystem of this node."""
        return self._configuration.current.policy_of_subsystem(subsystem)

    def admit(self, subsystem: str) -> None:
        """Raises Unavailable where what comes for a subsystem would wait for its time stamp for too long."""
        self._status.admit(self.policy(subsystem))

    async def sign(self, kind: Kind, lines: Mapping[str, str], *, subsystem: str) -> Entry:
        """A statement of a subsystem of this node, signed now; raises as `Proving.sign`."""
        return await self._proving.sign(
            kind,
            {**lines, "sender": f"subsystem {subsystem}"},
            subsystem=subsystem,
            policy=self.policy(subsystem),
            content=Content(),
        )

    def accept(self, statement: Statement, proof: statements_pb2.Proof, *, peer: str, subsystem: str) -> Entry:
        """What another node brings, once it is proven.

        Steps, with their reasons:

        1. The node serves who signs: PEER_NOT_AUTHORISED.
        2. The signature is the sender's member's, by a key that the directory pins: `signatures.verify`.
        3. The certificate's status is as the policy wants it: `Status.accept`.
        4. A time stamp that came along is over this signature: TIME_STAMP_INVALID, TIME_STAMP_IMPRINT_MISMATCH.

        What the caller must still check: what the statement says, its time, and
        the digests that it holds.
        """
        kind, sender = statement.sender
        if kind != "subsystem" or not self._meshes.serves(peer, sender):  # 1
            raise PermissionDenied("PEER_NOT_AUTHORISED", "the node does not serve the sender", node=peer)
        pinned = self._meshes.statement_key(proof.signature.certificate_sha256)  # 2
        try:
            signature = signature_of(proof.signature)
        except ValueError:
            raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the signature is of no known form") from None
        signatures.verify(statement, signature, pinned)
        assert pinned is not None  # `signatures.verify` refuses without
        policy = self.policy(subsystem)
        status = self._status.accept(pinned, proof.certificate_status, policy)  # 3
        return Entry(
            statement=statement,
            signature=proof.signature,
            own=False,
            subsystem=subsystem,
            policy=policy.line,
            certificate_status=status,
            time_stamp=self._status.accept_stamp(proof.signature.value, proof.time_stamp),  # 4
        )

    async def write(self, transaction: Connection, entry: Entry) -> bool:
        """Writes a statement with its evidence; says whether it was not there."""
        _, written = await journal_store.append(transaction, [entry], self._keeping.keep([entry]))
        return bool(written)

    async def tell(self, transaction: Connection, payload: Message) -> None:
        """Has the services of the node be told, once the transaction has committed."""
        if self._outbox is not None:
            await self._outbox.append(transaction, [event(payload)])

    def wake(self) -> None:
        """Has what was told be published now."""
        if self._outbox is not None:
            self._outbox.wake()
