"""Who may give, see and end which mandate, by what the registers and other mandates say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from solmu.authorisations.v1 import mandates_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord

from services.authorisations import confirming, days, mandate_store, mandates, messages, themes
from services.authorisations.confirming import Alternative, Part, Rule
from services.authorisations.mandates import Actor, Cause, Ending, Event, Mandate, Step
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.revisions import Write
from services.authorisations.theme_store import ThemeStore
from services.authorisations.themes import Theme
from services.runtime.database import Connection, Database
from services.runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied
from services.runtime.facts.checking import Effect
from services.runtime.facts.rules import Kind
from services.runtime.outbox import event
from services.runtime.parties import PartyNames


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A mandate as it was asked for."""

    kind: Kind
    principal: str
    delegate: str
    theme_id: str
    specifier: str
    first_day: str
    last_day: str


@dataclass(frozen=True, kw_only=True)
class Right:
    """A right to give mandates of one kind in one theme."""

    theme: Theme
    kind: Kind
    latest_last_day: date
    rule: Rule
    issued_under: Mandate | None = None


def draft(asked: mandates_pb2.Mandate, actor: Actor, *, parties: PartyNames) -> Draft:
    """What a request asks for; a side that it leaves out is the caller's party. Raises InvalidArgument."""
    return Draft(
        kind=Kind(asked.kind),
        principal=messages.party_name(asked.principal, parties, field="principal")
        if asked.HasField("principal")
        else actor.party,
        delegate=messages.party_name(asked.delegate, parties, field="delegate")
        if asked.HasField("delegate")
        else actor.party,
        theme_id=asked.theme.removeprefix("themes/"),
        specifier=asked.specifier,
        first_day=asked.validity.first_day,
        last_day=asked.validity.last_day,
    )


async def keep(write: Write, mandate: Mandate, happened: Sequence[Event]) -> None:
    """Keeps the history of a step, and tells of it, in the step's transaction."""
    await mandate_store.append(write.transaction, mandate.mandate_id, happened)
    write.changes += messages.facts_of([mandate])
    write.note(AuditRecord.KIND_MANDATE, mandate.name, mandate.principal, mandate.delegate)
    write.events += [event(messages.mandate_changed(mandate, one), now=one.time) for one in happened]


class Issuing:
    """Judges what callers may do with mandates. Every method takes the reader, so that it sees one state."""

    def __init__(
        self, *, themes: ThemeStore, registers: RegisterFacts, zone: ZoneInfo, new_id: Callable[[], UUID]
    ) -> None:
        self._themes = themes
        self._registers = registers
        self._zone = zone
        self._new_id = new_id

    async def judge(
        self,
        reader: Connection,
        drafts: Sequence[Draft],
        actor: Actor,
        *,
        now: datetime,
        renews: Mandate | None = None,
    ) -> list[Step]:
        """The mandates that drafts become, confirmed as far as the actor's right goes.

        Raises Fault: VALIDITY_INVALID, what `themes.admit` raises,
        ISSUING_RIGHT_MISSING, PARTY_NOT_ELIGIBLE, ASSURANCE_TOO_LOW,
        MANDATE_EXISTS, and for a renewal MANDATE_STATE.
        """
        steps: list[Step] = []
        group_id = self._new_id()
        for one in drafts:
            step = await self._judge(reader, one, actor, group_id=group_id, now=now, renews=renews)
            await self._alone(reader, step[0], [other for other, _ in steps], now=now)
            steps.append(step)
        return steps

    async def granted(
        self, reader: Connection, one: Draft, *, asked_by: Actor, granted_by: Actor, now: datetime
    ) -> Step:
        """The mandate that a draft becomes where officers give it: nobody's own right is asked for.

        Raises Fault as `judge`, but for ISSUING_RIGHT_MISSING.
        """
        theme, period = await self._suitable(reader, one, now=now)
        await self._eligible(reader, one, least_age=theme.rules.least_age, now=now)
        asked, _ = mandates.requested(
            mandate_id=self._new_id(),
            kind=one.kind,
            principal=one.principal,
            delegate=one.delegate,
            theme_id=one.theme_id,
            specifier=one.specifier,
            period=period,
            rule=(),
            actor=asked_by,
            group_id=self._new_id(),
            now=now,
        )
        await self._alone(reader, asked, [], now=now)
        return mandates.granted(asked, actor=granted_by, now=now)

    async def may_confirm(self, reader: Connection, mandate: Mandate, actor: Actor, *, now: datetime) -> bool:
        """Whether the caller's right to confirm, by which the request named it, still stands."""
        return actor.person in confirming.parties(await self._rule(reader, mandate.principal, now))

    async def uphold(self, write: Write, ward: str, ended: Mapping[str, str], *, now: datetime) -> int:
        """Holds what was given in a ward's name to those who look after it; returns how many mandates end at once.

        `ended` are they who do so no longer, each with the record that ended.
        What others may give until a day to come ends on that day.
        """
        standing = await self._registers.standing(write.transaction, ward, at=now)
        carers = {carer.party for carer in standing.carers}
        lost = [(party, record) for party, record in ended.items() if party not in carers]
        count = 0
        for mandate in await mandate_store.open_of(write.transaction, [ward]):
            if mandate.principal != ward or mandate.issued_under is not None:  # the latter goes with what it is under
                continue
            confirmed = _confirmed(mandate)
            records = [record for party, record in lost if party in {one for one, _ in confirmed}]
            if records and not confirming.upheld(mandate.rule, confirmed, carers):
                count += await self.end(write, mandate, Cause.ISSUING_RIGHT_ENDED, record=records[0], now=now)
            else:
                await self._foresee(write, mandate, _end_with(standing, mandate), now=now)
        return count

    async def foreseen(self, reader: Connection, step: Step, *, now: datetime) -> Step:
        """A step with the end that the registers have for what it gives in another's name, where they have one."""
        mandate, happened = step
        if not happened or not any(basis.startswith("registers/") for _, basis in _confirmed(mandate)):
            return step
        standing = await self._registers.standing(reader, mandate.principal, at=now)
        ending = _end_with(standing, mandate)
        if ending is None or ending.time >= mandate.end:
            return step
        return replace(mandate, ending=ending), happened

    async def end(self, write: Write, mandate: Mandate, cause: Cause, *, record: str, now: datetime) -> int:
        """Ends a mandate by law, with what was given under it; returns how many mandates."""
        if not await invalidate(write, mandate, cause, record=record, now=now):
            return 0
        ended = await mandate_store.find(write.transaction, mandate.mandate_id)
        assert ended is not None
        return 1 + await self.cascade(write, ended, now=now)

    async def needed_level(self, reader: Connection, mandate: Mandate) -> int:
        """How surely who confirms the mandate must be known."""
        theme = await self._themes.find(reader, mandate.theme_id)
        assert theme is not None
        return theme.rules.assurance_level

    async def entitled(
        self, reader: Database | Connection, mandate: Mandate, actor: Actor, *, now: datetime
    ) -> frozenset[str]:
        """Who may end a mandate: its principal, all who may confirm for it now, and who may issue it.

        Where the caller is the principal nobody else is looked for.
        """
        if actor.person == mandate.principal:
            return frozenset({actor.person})
        entitled = confirming.parties(await self._rule(reader, mandate.principal, now))
        if mandate.issued_under is not None:
            held = await mandate_store.issuing(reader, delegate=actor.person, principal=mandate.principal, at=now)
            if any(_covers(one, mandate.theme_id, mandate.specifier) for one in held):
                entitled |= {actor.person}
        return entitled

    async def may_see(self, reader: Database | Connection, mandate: Mandate, actor: Actor, *, now: datetime) -> bool:
        """Whether the mandate concerns the caller: as a party, as one who asked or may confirm, or who may end it."""
        if actor.party in (mandate.principal, mandate.delegate, mandate.requested_by.party):
            return True
        if actor.person in confirming.parties(mandate.rule):
            return True
        return actor.person in await self.entitled(reader, mandate, actor, now=now)

    async def rights(self, reader: Database, principal: str, actor: Actor, *, now: datetime) -> list[Right]:
        """What the caller may give in a principal's name."""
        standing = await self._registers.standing(reader, principal, at=now)
        rule, care_ends = confirming.rule(standing), confirming.until(standing)
        issuing = await mandate_store.issuing(reader, delegate=actor.person, principal=principal, at=now)
        today = now.astimezone(self._zone).date()
        found = []
        for theme in await self._themes.in_use(reader):
            if theme.state is not themes.State.ACTIVE:
                continue
            own = theme.rules.longest_terms if actor.person in confirming.parties(rule) else ()
            for kind in sorted(own):
                latest = themes.latest_day(theme.rules, kind, today)
                latest = min(latest, self._last_day(care_ends)) if care_ends else latest
                found.append(Right(theme=theme, kind=kind, latest_last_day=latest, rule=rule))
            for issue in issuing:
                if issue.theme_id == theme.theme_id and Kind.ACT in theme.rules.longest_terms:
                    latest = min(themes.latest_day(theme.rules, Kind.ACT, today), self._last_day(issue.last_end))
                    by_issuer = _issuers_rule(actor, issue)
                    found.append(
                        Right(theme=theme, kind=Kind.ACT, latest_last_day=latest, rule=by_issuer, issued_under=issue)
                    )
        return found

    async def cascade(self, write: Write, ended: Mandate, *, now: datetime) -> int:
        """Ends what was given under a mandate to issue that has ended, where the theme says so; returns how many."""
        if ended.ending is None or ended.ending.time > now:
            return 0
        count = 0
        for mandate in await self._given_under(write, ended):
            count += await invalidate(write, mandate, Cause.ISSUING_RIGHT_ENDED, record="", now=now)
        return count

    async def _foresee(self, write: Write, mandate: Mandate, ending: Ending | None, *, now: datetime) -> None:
        """Notes the end that registers have for a mandate, and for what was given under it where the theme says so."""
        fresh = mandates.foreseen(mandate, ending, now=now)
        if fresh is mandate:
            return
        await mandate_store.update(write.transaction, fresh)
        await keep(write, fresh, ())
        for given in await self._given_under(write, fresh):
            await self._foresee(write, given, ending, now=now)

    async def _given_under(self, write: Write, mandate: Mandate) -> list[Mandate]:
        """What was given under a mandate to issue and ends with it."""
        if mandate.kind is not Kind.ISSUE:
            return []
        theme = await self._themes.find(write.transaction, mandate.theme_id)
        if theme is None or not theme.rules.issued_end_with_issuer:
            return []
        return await mandate_store.issued_under(write.transaction, mandate.mandate_id)

    async def _judge(
        self,
        reader: Connection,
        one: Draft,
        actor: Actor,
        *,
        group_id: UUID,
        now: datetime,
        renews: Mandate | None,
    ) -> Step:
        theme, period = await self._suitable(reader, one, now=now)
        if renews is not None:
            mandates.renewable(renews, period=period, now=now)
        rule, issued_under = await self._right(reader, one, actor, period=period, now=now)
        await self._eligible(reader, one, least_age=theme.rules.least_age, now=now)
        step = mandates.requested(
            mandate_id=self._new_id(),
            kind=one.kind,
            principal=one.principal,
            delegate=one.delegate,
            theme_id=one.theme_id,
            specifier=one.specifier,
            period=period,
            rule=rule,
            actor=actor,
            group_id=group_id,
            now=now,
            needed_level=theme.rules.assurance_level,
            issued_under=issued_under.mandate_id if issued_under else None,
            renews=renews.mandate_id if renews else None,
        )
        return await self.foreseen(reader, step, now=now)

    async def _suitable(self, reader: Connection, one: Draft, *, now: datetime) -> tuple[Theme, days.Period]:
        """The theme and the period of a draft, which fits both."""
        theme = await self._themes.find(reader, one.theme_id)
        if theme is None:
            raise InvalidArgument("THEME_UNSUITABLE", "there is no such theme", theme=f"themes/{one.theme_id}")
        period = days.mandate_period(one.first_day, one.last_day, now=now, zone=self._zone)
        themes.admit(
            theme,
            kind=one.kind,
            principal=one.principal,
            delegate=one.delegate,
            specifier=one.specifier,
            period=period,
        )
        return theme, period

    async def _eligible(self, reader: Connection, one: Draft, *, least_age: int, now: datetime) -> None:
        """Whether no register keeps a party from its side."""
        for field, party, side in (
            ("principal", one.principal, Effect.BEING_ACTED_FOR),
            ("delegate", one.delegate, Effect.ACTING),
        ):
            if not await self._registers.eligible(reader, party, side=side, least_age=least_age, at=now):
                raise FailedPrecondition("PARTY_NOT_ELIGIBLE", "the party cannot be on this side", field=field)

    async def _alone(self, reader: Connection, mandate: Mandate, beside: Sequence[Mandate], *, now: datetime) -> None:
        """Whether the same right is not there already, or asked for beside it."""
        alike = await mandate_store.alike(reader, mandate)
        same = [other for other in beside if _right_of(other) == _right_of(mandate)]
        if twin := mandates.overlaps(mandate, [*alike, *same], now=now):
            raise AlreadyExists("MANDATE_EXISTS", "the same mandate is there already", resource=twin.name)

    async def _right(
        self, reader: Connection, one: Draft, actor: Actor, *, period: days.Period, now: datetime
    ) -> tuple[Rule, Mandate | None]:
        standing = await self._registers.standing(reader, one.principal, at=now)
        rule = confirming.rule(standing)
        if rule and (actor.party in (one.principal, one.delegate) or actor.person in confirming.parties(rule)):
            self._within_care(period, confirming.until(standing))
            return rule, None
        if one.kind is Kind.ACT and one.delegate not in (actor.party, actor.person):
            held = await mandate_store.issuing(reader, delegate=actor.person, principal=one.principal, at=now)
            for issue in held:  # the one that ends last comes first
                if _covers(issue, one.theme_id, one.specifier):
                    self._within(period, issue)
                    return _issuers_rule(actor, issue), issue
        raise PermissionDenied("ISSUING_RIGHT_MISSING", "the caller may not give this mandate for this principal")

    def _within_care(self, period: days.Period, until: datetime | None) -> None:
        assert period.end is not None
        if until is not None and period.end > until:
            latest = self._last_day(until).isoformat()
            raise InvalidArgument("TERM_TOO_LONG", f"the right to give it ends on {latest}", latest_last_day=latest)

    def _within(self, period: days.Period, issue: Mandate) -> None:
        assert period.end is not None
        if period.end > issue.last_end:
            latest = self._last_day(issue.last_end).isoformat()
            raise InvalidArgument("TERM_TOO_LONG", f"the right to issue it ends on {latest}", latest_last_day=latest)

    def _last_day(self, end: datetime) -> date:
        return (end.astimezone(self._zone) - timedelta(microseconds=1)).date()

    async def _rule(self, reader: Database | Connection, principal: str, now: datetime) -> Rule:
        return confirming.rule(await self._registers.standing(reader, principal, at=now))


async def invalidate(write: Write, mandate: Mandate, cause: Cause, *, record: str, now: datetime) -> bool:
    """Ends a mandate by law, and says whether there was anything to end."""
    fresh, happened = mandates.invalidated(mandate, cause=cause, record=record, actor=None, now=now)
    if happened:
        await mandate_store.update(write.transaction, fresh)
        await keep(write, fresh, happened)
    return bool(happened)


def _confirmed(mandate: Mandate) -> list[tuple[str, str]]:
    return [(one.party, one.basis) for one in mandate.confirmations]


def _end_with(standing: confirming.Standing, mandate: Mandate) -> Ending | None:
    """The end that the registers have for what those gave who look after the principal."""
    last = confirming.upheld_until(mandate.rule, _confirmed(mandate), standing.carers)
    if last is None or last.until is None:
        return None
    return Ending(cause=Cause.ISSUING_RIGHT_ENDED, time=last.until, record=last.basis)


def _issuers_rule(actor: Actor, issue: Mandate) -> Rule:
    return (Alternative(parts=(Part(parties=(actor.person,)),), basis=issue.name),)


def _covers(issue: Mandate, theme_id: str, specifier: str) -> bool:
    return issue.theme_id == theme_id and issue.specifier in ("", specifier)


def _right_of(mandate: Mandate) -> tuple[object, ...]:
    return mandate.kind, mandate.principal, mandate.delegate, mandate.theme_id, mandate.specifier
