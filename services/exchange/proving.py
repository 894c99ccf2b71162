"""Statements of calls: composed and signed on the way out, verified on the way in.

A statement is verified in this order, each step with its reason:

1. there is a proof: PROOF_MISSING; its bytes are a statement: STATEMENT_MALFORMED;
2. the sender's member signed it, by a key that the directory pins: `signatures.verify`;
3. the certificate's status: `Status.accept`;
4. it says what it came with: STATEMENT_MISMATCH, with the line;
5. its time holds: STATEMENT_EXPIRED;
6. it answers what was asked: ANSWER_NOT_BOUND;
7. head, body, trailers and who stands behind it have the digests that it holds.

What the caller must still do: remember its id against replay (`Journal.append`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

from solmu.exchange.v1 import statements_pb2

from services.exchange import names
from services.exchange.directory import Directory
from services.exchange.evidence import signatures, statements
from services.exchange.evidence.signatures import PinnedKey
from services.exchange.evidence.statements import Kind, Statement
from services.exchange.journal import Content, Entry
from services.exchange.keys import KeyRing
from services.exchange.meshes import Meshes, utc_now
from services.exchange.policies import Policy
from services.exchange.proofs import signature_of
from services.runtime.errors import Fault, InvalidArgument

PARTS = {
    "head": "HEAD_DIGEST_MISMATCH",
    "body": "BODY_DIGEST_MISMATCH",
    "trailers": "TRAILERS_DIGEST_MISMATCH",
}
"""What a statement holds the digests of, and why another one is refused."""


class Status(Protocol):
    """Says how the status of certificates stands."""

    def admit(self, policy: Policy) -> None:
        """Raises Fault where a policy takes no more that would wait for its time stamp."""

    def staple(self, pinned: PinnedKey, policy: Policy) -> bytes:
        """What goes with a statement that this node signs now. Raises Fault where it may not be signed."""

    def accept(self, pinned: PinnedKey, stapled: bytes, policy: Policy) -> bytes:
        """By which a statement of another node is taken. Raises Fault where it is not."""

    def accept_stamp(self, value: bytes, token: bytes) -> bytes:
        """The time stamp that came with another node's signature value; empty: none counts. Raises Fault."""

    async def stamp(self, value: bytes, policy: Policy) -> bytes:
        """A time stamp over a signature value, where the policy asks for one before it goes on; empty: it does not."""


class Proving:
    """Signs statements with the keys of this node, and verifies those of others."""

    def __init__(self, *, ring: KeyRing, meshes: Meshes, status: Status) -> None:
        self._ring = ring
        self._meshes = meshes
        self._status = status

    def admit(self, policy: Policy) -> None:
        """Raises Unavailable where what comes could not be answered: as much evidence waits for time stamps as may."""
        self._status.admit(policy)

    async def sign(
        self, kind: Kind, lines: Mapping[str, str], *, subsystem: str, policy: Policy, content: Content
    ) -> Entry:
        """A statement of a subsystem of this node, signed now; `lines` lack time, directory and policy.

        Raises FailedPrecondition, KEY_MISSING, and what the policy demands of
        the certificate's status and of time stamps.
        """
        directory = self._meshes.directory_of(subsystem)
        now = utc_now()
        complete = {
            **lines,
            "time": statements.spell(now),
            "directory": directory.line,
            "policy": policy.line,
        }
        if kind is Kind.REQUEST:
            complete["expires"] = statements.spell(now + directory.request_lifetime)
        statement = statements.compose(kind, complete)
        key = self._ring.signing_key(names.member_of(subsystem))
        status = self._status.staple(key.pinned, policy)
        signature = await self._ring.sign_soon(statement, key)
        return Entry(
            statement=statement,
            signature=signature,
            own=True,
            subsystem=subsystem,
            policy=policy.line,
            certificate_status=status,
            time_stamp=await self._status.stamp(signature.value, policy),
            content=content,
        )

    def verify(
        self,
        proof: statements_pb2.Proof,
        kind: Kind,
        *,
        said: Mapping[str, str],
        subsystem: str,
        policy: Policy,
        content: Content,
        answers: Statement | None = None,
    ) -> Entry:
        """Steps 1 to 6, and of step 7 the head. `said` are the lines that the statement must have so.

        `subsystem` of this node keeps it. Raises InvalidArgument.
        """
        if not proof.statement:  # 1
            raise InvalidArgument("PROOF_MISSING", "no proof came")
        statement = statements.parse(proof.statement)
        if statement.kind is not kind:
            raise InvalidArgument("STATEMENT_MISMATCH", "the statement is of another kind", line="kind")
        pinned = self._meshes.statement_key(proof.signature.certificate_sha256)  # 2
        signatures.verify(statement, _signature(proof), pinned)
        assert pinned is not None  # `signatures.verify` refuses without
        status = self._status.accept(pinned, proof.certificate_status, policy)  # 3
        for line, value in said.items():  # 4
            if statement.lines.get(line) != value:
                raise InvalidArgument("STATEMENT_MISMATCH", "the statement says other than it came with", line=line)
        directory = self._directory(statement)
        statements.check_time(statement, now=utc_now(), skew=directory.clock_skew)  # 5
        if answers is not None:  # 6
            statements.check_bound(statement, answers)
        if content.head:  # 7
            check(statement, "head", content.head)
        return Entry(
            statement=statement,
            signature=proof.signature,
            own=False,
            subsystem=subsystem,
            policy=policy.line,
            certificate_status=status,
            time_stamp=self._status.accept_stamp(proof.signature.value, proof.time_stamp),
            content=content,
        )

    def _directory(self, statement: Statement) -> Directory:
        return self._meshes.directory_of(statement.member)


def digests(part: str, content: bytes) -> dict[str, str]:
    """The lines that hold the digest and length of a part."""
    return {f"{part}-sha256": hashlib.sha256(content).hexdigest(), f"{part}-bytes": str(len(content))}


def check(statement: Statement, part: str, content: bytes) -> None:
    """Step 7, for a part that is in memory. Raises InvalidArgument."""
    check_digest(statement, part, hashlib.sha256(content).hexdigest(), len(content))


def check_digest(statement: Statement, part: str, sha256: str, size: int) -> None:
    """Step 7, for a part whose digest is known. Raises InvalidArgument."""
    said = statement.lines.get(f"{part}-sha256"), statement.lines.get(f"{part}-bytes")
    nothing = part == "trailers" and said == (None, None) and size == 0
    if said != (sha256, str(size)) and not nothing:
        raise InvalidArgument(PARTS[part], f"the {part} has another digest or length than the statement says")


def check_on_behalf(statement: Statement, content: bytes) -> None:
    """Step 7, for who stands behind a call or an envelope. Raises InvalidArgument, ON_BEHALF_DIGEST_MISMATCH."""
    said = statement.lines.get("on-behalf-of-sha256")
    if said != (hashlib.sha256(content).hexdigest() if content else None):
        raise InvalidArgument(
            "ON_BEHALF_DIGEST_MISMATCH", "who stands behind it has another digest than the statement says"
        )


def _signature(proof: statements_pb2.Proof) -> signatures.Signature:
    try:
        return signature_of(proof.signature)
    except ValueError:
        raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the signature is of no known form") from None


def proves_nothing(fault: Fault) -> bool:
    """Whether a refusal says that a proof did not hold: of such what came is kept as evidence."""
    return fault.reason in _UNPROVEN


_UNPROVEN = frozenset(
    {
        "STATEMENT_MALFORMED",
        "STATEMENT_MISMATCH",
        "HEAD_DIGEST_MISMATCH",
        "BODY_DIGEST_MISMATCH",
        "BODY_LENGTH_MISMATCH",
        "TRAILERS_DIGEST_MISMATCH",
        "ON_BEHALF_DIGEST_MISMATCH",
        "ANSWER_NOT_BOUND",
        "STATEMENT_REPLAYED",
        "STATEMENT_EXPIRED",
        "SIGNATURE_INVALID",
        "TIME_STAMP_IMPRINT_MISMATCH",
        "TIME_STAMP_INVALID",
        "SIGNATURE_FORM_REFUSED",
        "SIGNER_NOT_SENDER",
        "KEY_CERTIFICATE_MISMATCH",
        "BATCH_PATH_INVALID",
        "CERTIFICATE_UNKNOWN",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_REVOKED",
        "CERTIFICATE_ISSUER_UNKNOWN",
        "STATUS_MISSING",
        "STATUS_STALE",
        "STATUS_NOT_FOR_CERTIFICATE",
        "STATUS_RESPONDER_INVALID",
    }
)
