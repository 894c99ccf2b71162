"""Between the messages of mandates, themes and facts and the domain's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.authorisations.v1 import mandates_pb2
from solmu.authorisations.v1.events_pb2 import DeathsChanged, MandateChanged
from solmu.authorisations.v1.facts_pb2 import (
    AgeInstant,
    BlockFact,
    Fact,
    FactChange,
    MandateFact,
    RegisterFact,
    RegisterRightFact,
)
from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE, TERMS_JOINTLY, Party, ValidityPeriod
from solmu.authorisations.v1.themes_pb2 import Theme as ThemeMessage
from solmu.types.v1 import types_pb2

from services.authorisations import confirming, themes
from services.authorisations.days import Period
from services.authorisations.mandates import Actor, Ending, Event, Mandate
from services.authorisations.themes import Theme
from services.runtime import ids
from services.runtime.database import Row
from services.runtime.errors import InvalidArgument
from services.runtime.facts import wire
from services.runtime.facts.rules import ADULT_AGE, Kind
from services.runtime.facts.wire import rules_in
from services.runtime.parties import PartyNames

OUTPUT_OF_THEME = (
    "name", "owner", "state", "create_time", "activate_time", "update_time", "etag", "consistency_token",
)  # fmt: skip
"""Fields of a theme that are not part of what it says."""


def party_name(party: Party, parties: PartyNames, *, field: str) -> str:
    """The name of a party that a request names either way. Raises InvalidArgument, IDENTIFIER_INVALID."""
    return party.name or parties.name_of(party.identifier, field=f"{field}.identifier")


def name_parties(message: Message, parties: PartyNames) -> None:
    """Puts names in place of identity codes, wherever a party stands in a message. Raises as `party_name`."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Party):
                name = party_name(one, parties, field=field.name)
                one.Clear()
                one.name = name
            else:
                name_parties(one, parties)


def record_name(register_id: str, record: UUID) -> str:
    """The name of a register's record, or of a block that officers placed, which belongs to no register."""
    return f"registers/{register_id}/records/{record}" if register_id else f"blocks/{record}"


def death(person: str, row: Row | None) -> DeathsChanged.Death:
    """What a register's record says of a person's death; None: no register says so any more."""
    if row is None:
        return DeathsChanged.Death(person=person)
    return DeathsChanged.Death(
        person=person, record=record_name(row["register_id"], row["record"]), death_time=timestamp(row["held_from"])
    )


def instant(time: Timestamp) -> datetime:
    """An instant of a request. Raises InvalidArgument, FIELD_INVALID, for one that the calendar lacks."""
    try:
        return time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("FIELD_INVALID", "there is no such instant") from None


def uid(name: str, position: int = 1) -> UUID:
    """One part of a resource name as a UUID. Raises InvalidArgument, NAME_INVALID."""
    try:
        return ids.parsed(name.split("/")[position])
    except ValueError:
        raise InvalidArgument("NAME_INVALID", "the resource name does not have the right form", field="name") from None


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time for an answer; None leaves the field unset."""
    return None if time is None else wire.timestamp(time)


def period(value: Period) -> ValidityPeriod:
    """A period."""
    return ValidityPeriod(
        first_day=value.first_day.isoformat(),
        last_day=value.last_day.isoformat() if value.last_day else "",
        start_time=timestamp(value.start),
        end_time=timestamp(value.end),
    )


def actor(value: Actor) -> types_pb2.Actor:
    """Who did something."""
    return types_pb2.Actor(
        party=value.party, acting_party=value.acting_party, mandate=value.mandate, client=value.client
    )


def confirmation_rule(rule: confirming.Rule) -> mandates_pb2.ConfirmationRule:
    """Who must confirm."""
    kind = mandates_pb2.ConfirmationRule
    return kind(
        alternatives=[
            kind.Alternative(
                parts=[
                    kind.Part(parties=[Party(name=party) for party in part.parties], needed=part.needed)
                    for part in one.parts
                ],
                basis=one.basis,
            )
            for one in rule
        ]
    )


def mandate(value: Mandate, *, now: datetime, token: str = "") -> mandates_pb2.Mandate:  # not a secret
    """A mandate as its parties see it at an instant."""
    return mandates_pb2.Mandate(
        name=value.name,
        kind=value.kind,  # type: ignore[arg-type]
        principal=Party(name=value.principal),
        delegate=Party(name=value.delegate),
        theme=value.theme,
        specifier=value.specifier,
        validity=period(value.period),
        state=value.state(now),  # type: ignore[arg-type]
        confirmation_rule=confirmation_rule(value.rule),
        confirmations=[
            mandates_pb2.Confirmation(
                party=Party(name=one.party),
                basis=one.basis,
                assurance_level=one.assurance_level,  # type: ignore[arg-type]
                confirm_time=timestamp(one.time),
            )
            for one in value.confirmations
        ],
        confirm_expire_time=timestamp(value.confirm_until),
        issued_under=f"mandates/{value.issued_under}" if value.issued_under else "",
        renews=f"mandates/{value.renews}" if value.renews else "",
        group_id=str(value.group_id),
        requested_by=actor(value.requested_by),
        create_time=timestamp(value.create_time),
        update_time=timestamp(value.update_time),
        confirm_time=timestamp(value.confirm_time),
        ending=ending(value.ending) if value.ending else None,
        etag=value.etag,
        consistency_token=token,
    )


def ending(value: Ending) -> mandates_pb2.Ending:
    """How a mandate ended."""
    return mandates_pb2.Ending(
        cause=value.cause,  # type: ignore[arg-type]
        end_time=timestamp(value.time),
        ended_by=actor(value.ended_by) if value.ended_by else None,
        record=value.record,
        proposal=value.proposal,
    )


def mandate_event(name: str, number: int, value: Event) -> mandates_pb2.MandateEvent:
    """One step in the life of the mandate `name`."""
    return mandates_pb2.MandateEvent(
        name=f"{name}/events/{number}",
        type=value.happening,  # type: ignore[arg-type]
        event_time=timestamp(value.time),
        actor=actor(value.actor) if value.actor else None,
        state=value.state,  # type: ignore[arg-type]
        renewed_by=f"mandates/{value.renewed_by}" if value.renewed_by else "",
        ending=ending(value.ending) if value.ending else None,
    )


def mandate_changed(value: Mandate, happened: Event) -> MandateChanged:
    """The news of one step, for those who tell the parties."""
    return MandateChanged(
        mandate=value.name,
        type=happened.happening,  # type: ignore[arg-type]
        state=happened.state,  # type: ignore[arg-type]
        kind=value.kind,  # type: ignore[arg-type]
        principal=value.principal,
        delegate=value.delegate,
        theme=value.theme,
        event_time=timestamp(happened.time),
        awaited=sorted(value.awaited),
    )


def mandate_fact(
    mandate_id: UUID,
    *,
    kind: Kind,
    principal: str,
    delegate: str,
    theme_id: str,
    specifier: str,
    held: tuple[datetime, datetime],
) -> FactChange:
    """A confirmed mandate as a fact."""
    content = MandateFact(
        kind=kind,  # type: ignore[arg-type]
        principal=principal,
        delegate=delegate,
        theme=f"themes/{theme_id}",
        specifier=specifier,
    )
    return _fact(f"mandates/{mandate_id}", held, mandate=content)


def right_fact(
    name: str,
    held: tuple[datetime, datetime | None],
    *,
    delegate: str,
    principal: str,
    role: str,
    alone: bool,
    reached: Mapping[int, datetime],
) -> FactChange:
    """A right by register as a fact, with the instants at which a child reaches ages that themes name."""
    content = RegisterRightFact(
        delegate=delegate,
        principal=principal,
        role=role,
        terms=TERMS_ALONE if alone else TERMS_JOINTLY,
        ages=[AgeInstant(age=age, reach_time=timestamp(time)) for age, time in sorted(reached.items())],
    )
    return _fact(name, held, register_right=content)


def block_fact(
    name: str, held: tuple[datetime, datetime | None], *, party: str, counterpart: str, kind: str, effect: int
) -> FactChange:
    """A block as a fact."""
    content = BlockFact(party=party, counterpart=counterpart, kind=kind, effect=effect)  # type: ignore[arg-type]
    return _fact(name, held, block=content)


def register_fact(row: Row) -> FactChange:
    """That a register has spoken, and until when that counts."""
    name, start = f"registers/{row['register_id']}", row["create_time"]
    end = None
    if row["greatest_age"] is not None:
        end = row["as_of"] + row["greatest_age"] if row["as_of"] else start
    return _fact(name, (start, end), register=RegisterFact(contents=row["contents"]))


def ages_named(in_use: Iterable[Theme]) -> frozenset[int]:
    """The ages at which rights by register end: those that themes name, and that of majority."""
    return frozenset({ADULT_AGE} | {right.until_age for one in in_use for right in one.rules.register_rights} - {0})


def _fact(name: str, held: tuple[datetime, datetime | None], **content: Any) -> FactChange:
    start, end = held
    return FactChange(name=name, fact=Fact(name=name, start_time=timestamp(start), end_time=timestamp(end), **content))


def theme(value: Theme, *, token: str = "") -> ThemeMessage:  # not a secret
    """A theme."""
    message = ThemeMessage.FromString(value.document)
    message.MergeFrom(
        ThemeMessage(
            name=value.name,
            owner=value.owner,
            state=value.state,  # type: ignore[arg-type]
            create_time=timestamp(value.create_time),
            activate_time=timestamp(value.activate_time),
            update_time=timestamp(value.update_time),
            etag=value.etag,
            consistency_token=token,
        )
    )
    return message


def theme_fact(value: Theme) -> FactChange:
    """A theme as a fact. It holds from its activation on, hidden or not."""
    return FactChange(
        name=value.name, fact=Fact(name=value.name, start_time=timestamp(value.activate_time), theme=theme(value))
    )


def theme_document(message: ThemeMessage, *, theme_id: str) -> bytes:
    """What a theme says, as it is kept. Raises InvalidArgument, THEME_RULE_INVALID."""
    kept = ThemeMessage()
    kept.CopyFrom(message)
    for field in OUTPUT_OF_THEME:
        kept.ClearField(field)  # type: ignore[arg-type]
    kept.uri = kept.uri or f"urn:solmu:theme:{theme_id}"
    if len({term.kind for term in kept.longest_terms}) < len(kept.longest_terms):
        raise InvalidArgument("THEME_RULE_INVALID", "a kind of mandate is named twice")
    document = kept.SerializeToString(deterministic=True)
    specifier = (kept.specifier_rule.titles,) if kept.HasField("specifier_rule") else ()
    texts = (kept.titles, kept.descriptions, *specifier)
    themes.check(rules_in(document), tuple(tuple(text.language for text in each) for each in texts))
    return document


def facts_of(changed: Sequence[Mandate]) -> list[FactChange]:
    """The changes of facts that changes of mandates are."""
    return [
        mandate_fact(
            one.mandate_id,
            kind=one.kind,
            principal=one.principal,
            delegate=one.delegate,
            theme_id=one.theme_id,
            specifier=one.specifier,
            held=one.held,
        )
        if one.held is not None
        else FactChange(name=one.name)
        for one in changed
        if one.confirm_time is not None
    ]
