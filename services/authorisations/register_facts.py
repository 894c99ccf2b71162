"""What the registers say of the parties to a mandate, at one instant."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from solmu.authorisations.v1.register_records_pb2 import RegisterRecord

from services.authorisations import messages, register_store
from services.authorisations.confirming import Carer, Holder, SignatoryPart, SignatoryRule, Standing
from services.authorisations.days import reaches_age
from services.runtime.database import Connection, Database, Row
from services.runtime.facts.checking import Effect
from services.runtime.facts.rules import ADULT_AGE
from services.runtime.sealing import Sealer

LIMITED_COMPETENCE = "limited-competence"
"""The kind of block under which a person does not confirm mandates for itself."""


class BirthDays:
    """Seals days of birth under a key of their own, made from the node's key for party names."""

    def __init__(self, party_key: bytes) -> None:
        self._key = hmac.digest(party_key, b"solmu days of birth", hashlib.sha256)
        self._sealer = Sealer(self._key)

    def digest(self, record: bytes) -> bytes:
        """A keyed digest of a record: the same for the same record, and telling nothing of a day of birth in it."""
        return hmac.digest(self._key, record, hashlib.sha256)

    def seal(self, day: date, *, record: UUID) -> bytes:
        """A day of birth as it is kept with its record."""
        return self._sealer.seal(day.isoformat().encode(), context=f"birth day of {record}")

    def open(self, sealed: bytes, *, record: UUID) -> date:
        """The day."""
        return date.fromisoformat(self._sealer.open(sealed, context=f"birth day of {record}").decode())


@dataclass(frozen=True)
class RegisterFacts:
    """Reads the registers for those who give mandates. Checks read them by themselves, many at once."""

    birth_days: BirthDays
    zone: ZoneInfo

    async def standing(self, reader: Database | Connection, principal: str, *, at: datetime) -> Standing:
        """What decides who confirms for a principal."""
        rows = await register_store.about(reader, principal, at=at)
        towards = [row for row in rows if row["object"] == principal]
        own = [row for row in rows if row["subject"] == principal]
        minor = any(row["what"] == "custody" and self._younger(row, ADULT_AGE, at) for row in towards)
        carers = tuple(
            Carer(
                party=row["subject"],
                alone=row["alone"],
                basis=messages.record_name(row["register_id"], row["record"]),
                until=self._until(row),
            )
            for row in towards
            if row["what"] == "guardianship" or (row["what"] == "custody" and self._younger(row, ADULT_AGE, at))
        )
        return Standing(
            principal=principal,
            minor=minor,
            incompetent=any(row["block"] == LIMITED_COMPETENCE for row in own),
            carers=carers,
            signatories=tuple(_signatory_rule(row) for row in own if row["what"] == "signatory_rule"),
            holders=tuple(
                Holder(party=row["subject"], role=row["role"]) for row in towards if row["what"] == "organisation_role"
            ),
        )

    async def eligible(
        self, reader: Database | Connection, party: str, *, side: Effect, least_age: int, at: datetime
    ) -> bool:
        """Whether no register keeps the party from this side of a mandate, by its age or by a block towards all."""
        rows = await register_store.about(reader, party, at=at)
        blocked = any(row["subject"] == party and not row["object"] and row["effect"] & side for row in rows)
        of_its_birth = [
            row
            for row in rows
            if row["birth_day"] is not None and party == (row["object"] if row["what"] == "custody" else row["subject"])
        ]
        return not blocked and not any(self._younger(row, least_age, at) for row in of_its_birth)

    def ages(self, sealed: bytes, record: UUID, ages: Collection[int]) -> dict[int, datetime]:
        """When somebody reaches each age."""
        birth_day = self.birth_days.open(sealed, record=record)
        return {age: reaches_age(birth_day, age, self.zone) for age in ages}

    def _until(self, row: Row) -> datetime | None:
        """When somebody's care for another ends: with the record, and custody when the child comes of age."""
        end: datetime | None = row["held_until"]
        if row["what"] != "custody":
            return end
        of_age = reaches_age(self.birth_days.open(row["birth_day"], record=row["record"]), ADULT_AGE, self.zone)
        return min(end, of_age) if end else of_age

    def _younger(self, row: Row, age: int, at: datetime) -> bool:
        birth_day = self.birth_days.open(row["birth_day"], record=row["record"])
        return at < reaches_age(birth_day, age, self.zone)


def _signatory_rule(row: Row) -> SignatoryRule:
    said = RegisterRecord.FromString(row["content"]).signatory_rule
    return SignatoryRule(
        alternatives=tuple(
            tuple(
                SignatoryPart(
                    roles=tuple(part.roles), persons=tuple(one.name for one in part.persons), needed=part.needed
                )
                for part in alternative.parts
            )
            for alternative in said.alternatives
        ),
        basis=messages.record_name(row["register_id"], row["record"]),
    )
