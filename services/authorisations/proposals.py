"""What officers do, two of them together. Pure rules: a state machine over values.

One officer proposes, another approves: persons, known by who acts, so that the
same person through two clients is still one. That a proposal has lapsed follows
from the clock when it is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from uuid import UUID

from services.authorisations.mandates import Actor
from services.runtime.errors import Aborted, FailedPrecondition, PermissionDenied

TIME_TO_DECIDE = timedelta(days=7)
"""How long a proposal waits for a second officer: over a weekend and an absence, and no standing order."""


class State(IntEnum):
    """Where a proposal stands; numbered as in the contract."""

    PENDING = 1
    APPROVED = 2
    REJECTED = 3
    WITHDRAWN = 4
    LAPSED = 5


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A change that waits for, or has had, a second pair of eyes."""

    proposal_id: UUID
    change: bytes
    """What is to be done, as it is kept."""
    purpose: str
    proposed_by: Actor
    create_time: datetime
    expire_time: datetime
    stored: State = State.PENDING
    decided_by: Actor | None = None
    decide_time: datetime | None = None
    result: str = ""
    """What applying it made or ended: a resource name."""
    token: str = ""
    """The consistency token that covers what it did."""
    revision: int = 1

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"proposals/{self.proposal_id}"

    @property
    def etag(self) -> str:
        """What an officer shows to prove that they know the proposal as it is."""
        return str(self.revision)

    def state(self, now: datetime) -> State:
        """Where it stands at an instant."""
        return State.LAPSED if self.stored is State.PENDING and now >= self.expire_time else self.stored


def officer(actor: Actor) -> Actor:
    """The actor, who is a person. Raises PermissionDenied, PERSON_NEEDED."""
    if not actor.person.startswith("persons/"):
        raise PermissionDenied("PERSON_NEEDED", "only a person may do this, and the token names none")
    return actor


def proposed(*, proposal_id: UUID, change: bytes, purpose: str, actor: Actor, now: datetime) -> Proposal:
    """A new proposal. Raises as `officer`."""
    return Proposal(
        proposal_id=proposal_id,
        change=change,
        purpose=purpose,
        proposed_by=officer(actor),
        create_time=now,
        expire_time=now + TIME_TO_DECIDE,
    )


def decided(proposal: Proposal, state: State, *, actor: Actor, etag: str, now: datetime) -> Proposal:
    """The proposal as another officer approved or rejected it; the same one where this officer did so already.

    Raises PermissionDenied, PERSON_NEEDED, FOUR_EYES_NEEDED; FailedPrecondition,
    PROPOSAL_STATE; Aborted, ETAG_MISMATCH.
    """
    if officer(actor).person == proposal.proposed_by.person:
        raise PermissionDenied("FOUR_EYES_NEEDED", "another officer than the one who proposed it decides")
    if proposal.stored is state and proposal.decided_by and proposal.decided_by.person == actor.person:
        return proposal
    return replace(_closed(proposal, state, etag=etag, now=now), decided_by=actor)


def withdrawn(proposal: Proposal, *, actor: Actor, etag: str, now: datetime) -> Proposal:
    """The proposal, taken back by the officer who made it; the same one where it is already.

    Raises PermissionDenied, PERSON_NEEDED, WRONG_SIDE, and as `decided`.
    """
    if officer(actor).person != proposal.proposed_by.person:
        raise PermissionDenied("WRONG_SIDE", "only the officer who made it takes a proposal back")
    if proposal.stored is State.WITHDRAWN:
        return proposal
    return _closed(proposal, State.WITHDRAWN, etag=etag, now=now)


def _closed(proposal: Proposal, state: State, *, etag: str, now: datetime) -> Proposal:
    present = proposal.state(now)
    if present is not State.PENDING:
        raise FailedPrecondition(
            "PROPOSAL_STATE", "the proposal waits for nobody any more", resource=proposal.name, state=present.name
        )
    if etag and etag != proposal.etag:
        raise Aborted("ETAG_MISMATCH", "the proposal has changed; read it again", resource=proposal.name)
    return replace(proposal, stored=state, decide_time=now, revision=proposal.revision + 1)
