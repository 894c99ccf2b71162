"""What an officers' proposal would do, and does once it is approved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from solmu.authorisations.v1.administration_pb2 import Proposal as Message
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord

from services.authorisations import days, fact_store, issuing, mandate_store, mandates, messages, register_store
from services.authorisations.issuing import Issuing, keep
from services.authorisations.mandates import Actor, Cause
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.revisions import Write
from services.runtime.database import Connection, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument, not_found
from services.runtime.facts.checking import ENDED_PARTY
from services.runtime.parties import PartyNames


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An approved proposal, as its change knows it."""

    name: str
    proposed_by: Actor
    approved_by: Actor
    now: datetime


class Officers:
    """Judges and applies what officers propose. Each kind of change is judged by the same code that applies it."""

    def __init__(
        self, *, issuing: Issuing, registers: RegisterFacts, parties: PartyNames, new_id: Callable[[], UUID]
    ) -> None:
        self._issuing = issuing
        self._registers = registers
        self._parties = parties
        self._new_id = new_id

    def change(self, proposal: Message) -> Message:
        """What is to be done and nothing else, with names in place of identity codes. Raises InvalidArgument."""
        kept = Message()
        kept.CopyFrom(proposal)
        for field, _ in proposal.ListFields():
            if field.containing_oneof is None:
                kept.ClearField(field.name)  # type: ignore[arg-type]
        messages.name_parties(kept, self._parties)
        if kept.HasField("give_mandate"):
            _both_sides(kept)
        return kept

    async def parties(self, reader: Connection, change: Message) -> list[str]:
        """The parties that a change concerns."""
        match change.WhichOneof("change"):
            case "give_mandate":
                return [change.give_mandate.mandate.principal.name, change.give_mandate.mandate.delegate.name]
            case "place_block":
                return [change.place_block.block.party.name, change.place_block.block.counterpart.name]
            case "lift_block":
                row = await register_store.find_record(reader, messages.uid(change.lift_block.block))
                return [row["subject"], row["object"]] if row else []
            case _:
                mandate = await mandate_store.find(reader, messages.uid(change.end_mandate.mandate))
                return [mandate.principal, mandate.delegate] if mandate else []

    async def judge(self, reader: Connection, change: Message, actor: Actor, *, now: datetime) -> None:
        """Whether the change could be applied now. Raises the fault that applying it would."""
        decision = Decision(name="", proposed_by=actor, approved_by=actor, now=now)
        match change.WhichOneof("change"):
            case "give_mandate":
                await self._given(reader, change, decision)
            case "end_mandate":
                await self._ending(reader, change, decision)
            case "place_block":
                await self._placed(reader, change, decision)
            case "lift_block":
                await self._lifted(reader, change, decision)

    async def apply(self, write: Write, change: Message, decision: Decision) -> str:
        """Applies the change; returns the name of what it made or ended. Raises Fault where it cannot be applied."""
        match change.WhichOneof("change"):
            case "give_mandate":
                return await self._give(write, change, decision)
            case "end_mandate":
                return await self._end(write, change, decision)
            case "place_block":
                return await self._place(write, change, decision)
            case _:
                return await self._lift(write, change, decision)

    async def _give(self, write: Write, change: Message, decision: Decision) -> str:
        mandate, happened = await self._given(write.transaction, change, decision)
        await mandate_store.insert(write.transaction, mandate)
        await keep(write, mandate, happened)
        return mandate.name

    async def _given(self, reader: Connection, change: Message, decision: Decision) -> mandates.Step:
        draft = issuing.draft(change.give_mandate.mandate, decision.proposed_by, parties=self._parties)
        return await self._issuing.granted(
            reader, draft, asked_by=decision.proposed_by, granted_by=decision.approved_by, now=decision.now
        )

    async def _end(self, write: Write, change: Message, decision: Decision) -> str:
        mandate, happened = await self._ending(write.transaction, change, decision)
        await mandate_store.update(write.transaction, mandate)
        await keep(write, mandate, happened)
        await self._issuing.cascade(write, mandate, now=decision.now)
        return mandate.name

    async def _ending(self, reader: Connection, change: Message, decision: Decision) -> mandates.Step:
        name = change.end_mandate.mandate
        mandate = await mandate_store.find(reader, messages.uid(name))
        if mandate is None:
            raise not_found(name)
        return mandates.ended_by_officers(
            mandate, cause=Cause.OFFICER, proposal=decision.name, actor=decision.approved_by, now=decision.now
        )

    async def _place(self, write: Write, change: Message, decision: Decision) -> str:
        period = await self._placed(write.transaction, change, decision)
        block, record = change.place_block.block, self._new_id()
        content = RegisterRecord(record_id=str(record), block=block, validity=change.place_block.validity)
        row = await register_store.place_block(
            write.transaction,
            record=record,
            proposal_id=messages.uid(decision.name),
            content=content.SerializeToString(deterministic=True),
            subject=block.party.name,
            counterpart=block.counterpart.name,
            kind=block.kind,
            effect=block.effect,
            held=(period.start, period.end),
        )
        return self._changed(write, row)

    async def _placed(self, reader: Connection, change: Message, decision: Decision) -> days.Period:
        """The period of a block to place: from its first day, or from now on where that has come."""
        kind, validity = change.place_block.block.kind, change.place_block.validity
        if kind in ENDED_PARTY or await register_store.has_blocks(reader, kind):
            raise InvalidArgument(
                "FIELD_INVALID",
                "a register tells of blocks of this kind",
                violations=[("change.place_block.block.kind", "is one that a register uses")],
            )
        period = days.record_period(
            validity.first_day, validity.last_day, as_of=decision.now, zone=self._registers.zone
        )
        return days.not_before(period, decision.now)

    async def _lift(self, write: Write, change: Message, decision: Decision) -> str:
        row = await self._lifted(write.transaction, change, decision)
        return self._changed(write, await register_store.end_block(write.transaction, row["record"], decision.now))

    async def _lifted(self, reader: Connection, change: Message, decision: Decision) -> Row:
        name = change.lift_block.block
        row = await register_store.find_record(reader, messages.uid(name))
        if row is None or not row["effect"]:
            raise not_found(name)
        over = row["held_until"] is not None and row["held_until"] <= decision.now
        if row["register_id"] or over:
            raise FailedPrecondition(
                "BLOCK_NOT_LIFTABLE", "the block is a register's, or holds no longer", resource=name
            )
        return row

    def _changed(self, write: Write, row: Row) -> str:
        change = fact_store.record_change(row, self._registers, ())
        write.changes.append(change)
        return change.name


def _both_sides(change: Message) -> None:
    sides: tuple[Literal["principal", "delegate"], ...] = ("principal", "delegate")
    for side in sides:
        if not change.give_mandate.mandate.HasField(side):
            raise InvalidArgument(
                "FIELD_INVALID",
                "officers name both sides of a mandate",
                violations=[(f"proposal.give_mandate.mandate.{side}", "is needed")],
            )
