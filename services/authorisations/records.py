"""From the messages of register records to what they say."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord

from services.authorisations import days, messages
from services.authorisations.registers import DISSOLUTION, GUARDIAN_ROLES, Said
from services.runtime.errors import InvalidArgument
from services.runtime.facts.checking import DEAD, DISSOLVED, Effect
from services.runtime.facts.rules import CUSTODIAN
from services.runtime.parties import PartyNames


def said(record: RegisterRecord, *, as_of: datetime, parties: PartyNames, zone: ZoneInfo) -> Said:
    """What a record says, with names in place of identity codes. Raises InvalidArgument."""
    what = record.WhichOneof("content") or ""
    if record.removed:
        return Said(record_id=record.record_id, removed=True)
    if not what:
        raise InvalidArgument("FIELD_INVALID", "the record says nothing")
    kept = RegisterRecord()
    kept.CopyFrom(record)
    kept.ClearField("name")
    messages.name_parties(kept, parties)
    period = days.record_period(record.validity.first_day, record.validity.last_day, as_of=as_of, zone=zone)
    values = _READ[what](kept, zone)
    _forget_birth_day(kept)
    start = values.get("death") or (period.start if record.validity.first_day else None)
    return Said(
        record_id=record.record_id,
        what=what,
        start=start,
        end=period.end,
        content=kept.SerializeToString(deterministic=True),
        **values,
    )


def _guardianship(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    content = record.guardianship
    return {
        "subject": content.guardian.name,
        "object": content.ward.name,
        "role": GUARDIAN_ROLES[content.extent],
        "alone": content.terms == TERMS_ALONE,
    }


def _custody(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    content = record.custody
    return {
        "subject": content.custodian.name,
        "object": content.child.name,
        "role": CUSTODIAN,
        "alone": content.terms == TERMS_ALONE,
        "birth_day": days.parse(content.child_birth_day, field="child_birth_day"),
    }


def _organisation_role(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    content = record.organisation_role
    return {
        "subject": content.holder.name,
        "object": content.organisation.name,
        "role": content.role,
        "alone": content.terms == TERMS_ALONE,
    }


def _signatory_rule(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    return {"subject": record.signatory_rule.organisation.name}


def _person_status(record: RegisterRecord, zone: ZoneInfo) -> dict[str, Any]:
    content = record.person_status
    values: dict[str, Any] = {"subject": content.person.name}
    if content.birth_day:
        values["birth_day"] = days.parse(content.birth_day, field="birth_day")
    if content.death_day:
        death = days.first_instant(days.parse(content.death_day, field="death_day"), zone)
        values |= {"block": DEAD, "effect": Effect.BOTH, "death": death}
    return values


def _organisation_status(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    content = record.organisation_status
    values: dict[str, Any] = {"subject": content.organisation.name, "phase": content.phase}
    return values | ({"block": DISSOLVED, "effect": Effect.BOTH} if content.phase == DISSOLUTION else {})


def _block(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    content = record.block
    return {
        "subject": content.party.name,
        "object": content.counterpart.name,
        "block": content.kind,
        "effect": Effect(content.effect),
    }


def _party_name(record: RegisterRecord, _: ZoneInfo) -> dict[str, Any]:
    return {"subject": record.party_name.party.name}


def _forget_birth_day(record: RegisterRecord) -> None:
    if record.HasField("custody"):
        record.custody.ClearField("child_birth_day")
    if record.HasField("person_status"):
        record.person_status.ClearField("birth_day")


_READ = {
    "guardianship": _guardianship,
    "custody": _custody,
    "organisation_role": _organisation_role,
    "signatory_rule": _signatory_rule,
    "person_status": _person_status,
    "organisation_status": _organisation_status,
    "block": _block,
    "party_name": _party_name,
}
