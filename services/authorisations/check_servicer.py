"""CheckService: answers whether one party may act for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from solmu.authorisations.v1 import checks_pb2, rights_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import asking, audit_log, callers, check_records, check_store, messages
from services.authorisations.check_records import Judged as Recorded
from services.authorisations.check_store import Candidate
from services.authorisations.elsewhere import Elsewhere
from services.authorisations.revisions import Revisions
from services.authorisations.theme_store import ThemeStore
from services.runtime import identity, pages
from services.runtime.database import Database
from services.runtime.errors import Fault, InvalidArgument, not_found
from services.runtime.facts import wire
from services.runtime.facts.cache import FactCache
from services.runtime.facts.checking import Question, Verdict
from services.runtime.facts.table import Judged
from services.runtime.parties import PartyNames

PATIENCE = 5.0
"""Seconds that a check waits for facts that are fresh enough: a process that has just started reads them first."""

TURN = 250
"""Answers of a batch that are made and given to the record at once; in between others get their turn."""

LOOK_AHEAD = 200
"""Candidates of a listing judged at once beyond what the page still needs."""


@dataclass(frozen=True)
class _Answers:
    """The verdicts on some questions, all by the same facts."""

    token: str
    """The consistency token of the facts."""
    verdicts: list[Judged]


class CheckServicer:
    """Answers CheckService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        facts: FactCache,
        revisions: Revisions,
        themes: ThemeStore,
        limits: asking.Limits,
        audit: audit_log.AuditLog,
        parties: PartyNames,
        elsewhere: Elsewhere,
        clock: Callable[[], datetime],
    ) -> None:
        self._elsewhere = elsewhere
        self._database = database
        self._facts = facts
        self._revisions = revisions
        self._themes = themes
        self._limits = limits
        self._audit = audit
        self._parties = parties
        self._clock = clock

    async def Check(self, request: checks_pb2.CheckRequest) -> checks_pb2.CheckResponse:
        """Checks one act."""
        _hold_relying_party(request)
        if request.registered_at:
            return await self._check_elsewhere(request)
        await self._name_theme(request)
        question = self._question(request, self._clock(), await self._limits.themes())
        answers = await self._judge([question], tokens=[request.consistency_token])
        verdict = _raised(answers.verdicts[0])
        response = self._response(verdict, answers)
        recorded = _recorded(question, response, verdict)
        recorded.request.relying_party = request.relying_party
        await self._record("Check", [recorded])
        return response

    async def _check_elsewhere(self, request: checks_pb2.CheckRequest) -> checks_pb2.CheckResponse:
        """Checks one act at the node where the mandate is registered."""
        uri = await self._theme_uri(request)
        response = await self._elsewhere.check(request, theme_uri=uri)
        response.audit_record = self._name()
        messages.name_parties(request, self._parties)
        await self._record("Check", [Recorded(request, response)])
        return response

    async def _theme_uri(self, request: checks_pb2.CheckRequest) -> str:
        """The theme of a question for another node; the caller may ask about this node's theme of the same URI."""
        if request.theme:
            theme = await self._themes.find(self._database, request.theme.removeprefix("themes/"))
            if theme is None:
                raise not_found(request.theme)
        else:
            theme = await self._themes.of_uri(self._database, request.theme_uri)
        asking.hold(theme.name if theme is not None else request.theme_uri, await self._limits.themes())
        return theme.uri if theme is not None else request.theme_uri

    async def _name_theme(self, request: checks_pb2.CheckRequest) -> None:
        """Puts the theme's name where its URI was given. Raises InvalidArgument: THEME_UNSUITABLE, FIELD_INVALID."""
        if request.registered_at:
            raise _field_invalid("registered_at", "only Check asks other nodes")
        if request.theme:
            return
        if not request.theme_uri:
            raise _field_invalid("theme", "neither the theme nor its URI is there")
        theme = await self._themes.of_uri(self._database, request.theme_uri)
        if theme is None:
            raise InvalidArgument("THEME_UNSUITABLE", "this node has no such theme")
        request.theme = theme.name

    async def BatchCheck(self, request: checks_pb2.BatchCheckRequest) -> checks_pb2.BatchCheckResponse:
        """Checks many acts on the same facts."""
        now, limits = self._clock(), await self._limits.themes()
        asked: list[Question | Fault] = []
        for check in request.checks:
            try:
                if not check.theme or check.registered_at:
                    await self._name_theme(check)
                asked.append(self._question(check, now, limits))
            except Fault as fault:
                asked.append(fault)
        questions = [one for one in asked if isinstance(one, Question)]
        tokens = [request.consistency_token, *(check.consistency_token for check in request.checks)]
        answers = await self._judge(questions, tokens=tokens)
        outcomes = _until_stopped(asked, answers.verdicts, request.semantics)
        response = checks_pb2.BatchCheckResponse(consistency_token=answers.token)
        recording = []
        for start in range(0, len(outcomes), TURN):
            turn, answered = outcomes[start : start + TURN], []
            for (one, verdict), name in zip(turn, self._audit.names(len(turn)), strict=True):
                result = response.results.add()
                if isinstance(one, Fault) or isinstance(verdict, Fault):
                    result.fault.CopyFrom(_fault(verdict))
                    continue
                wire.fill(result.response, verdict, consistency_token=answers.token, audit_record=name)
                answered.append(_recorded(one, result.response, verdict))
            recording.append(asyncio.create_task(self._record("BatchCheck", answered)))
            await asyncio.sleep(0)
        await asyncio.gather(*recording)
        return response

    async def ExplainCheck(self, request: checks_pb2.ExplainCheckRequest) -> checks_pb2.ExplainCheckResponse:
        """Checks one act, and says how each rule judged it."""
        await self._name_theme(request.check)
        question = self._question(request.check, self._clock(), await self._limits.themes())
        answers = await self._judge([question], tokens=[request.check.consistency_token], explain=True)
        verdict = _raised(answers.verdicts[0])
        response = self._response(verdict, answers)
        await self._record("ExplainCheck", [_recorded(question, response, verdict)], purpose=request.purpose)
        return checks_pb2.ExplainCheckResponse(response=response, steps=map(check_records.step, verdict.steps))

    async def RecordChecks(self, request: checks_pb2.RecordChecksRequest) -> checks_pb2.RecordChecksResponse:
        """Records checks that another service of the node judged by itself."""
        for one in request.checks:
            one.response.audit_record = f"auditRecords/{messages.uid(one.response.audit_record)}"
        await self._record("RecordChecks", [Recorded(one.check, one.response) for one in request.checks])
        return checks_pb2.RecordChecksResponse()

    async def ListPrincipals(self, request: rights_pb2.ListPrincipalsRequest) -> rights_pb2.ListPrincipalsResponse:
        """Lists for whom a party may act."""
        party = self._own_or(request.delegate if request.HasField("delegate") else None, field="delegate")
        through = self._named(request.through, field="through") if request.HasField("through") else ""
        listing = _Listing("ListPrincipals", party, forward=True, theme=request.theme, through=through)
        rights, next_token, facts_token = await self._list(listing, request)
        return rights_pb2.ListPrincipalsResponse(
            rights=rights, next_page_token=next_token, consistency_token=facts_token
        )

    async def ListDelegates(self, request: rights_pb2.ListDelegatesRequest) -> rights_pb2.ListDelegatesResponse:
        """Lists who may act for a party."""
        party = self._own_or(request.principal if request.HasField("principal") else None, field="principal")
        listing = _Listing("ListDelegates", party, forward=False, theme=request.theme)
        rights, next_token, facts_token = await self._list(listing, request)
        return rights_pb2.ListDelegatesResponse(
            rights=rights, next_page_token=next_token, consistency_token=facts_token
        )

    async def ListAllowedThemes(
        self, request: rights_pb2.ListAllowedThemesRequest
    ) -> rights_pb2.ListAllowedThemesResponse:
        """Lists the themes in which one party may act for another."""
        party = self._named(request.delegate, field="delegate")
        other = self._named(request.principal, field="principal")
        through = self._named(request.through, field="through") if request.HasField("through") else ""
        listing = _Listing("ListAllowedThemes", party, forward=True, other=other, through=through)
        rights, next_token, facts_token = await self._list(listing, request)
        return rights_pb2.ListAllowedThemesResponse(
            rights=rights, next_page_token=next_token, consistency_token=facts_token
        )

    async def _list(self, listing: _Listing, request: _ListRequest) -> tuple[list[rights_pb2.Right], str, str]:
        """A page: candidates in order, each judged as a check of it would be."""
        key = pages.key(request.page_token, question=listing.question)
        instant, after = _position(key) if key else (None, ("", "", ""))
        at = instant or (messages.instant(request.at) if request.HasField("at") else self._clock())
        limits = await self._limits.themes()
        if listing.theme:
            asking.hold(listing.theme, limits)
        size = pages.size(request.page_size)
        roles = [
            (theme.theme_id, role) for theme in await self._themes.in_use(self._database) for role in theme.rules.roles
        ]
        rights: list[rights_pb2.Right] = []
        facts_token = ""
        while True:
            wanted = size - len(rights) + LOOK_AHEAD
            async with self._database.transaction() as transaction:
                await transaction.execute("set transaction isolation level repeatable read read only")
                head = await self._revisions.head(request.consistency_token, reader=transaction)
                candidates = await check_store.candidates(
                    transaction,
                    listing.party,
                    forward=listing.forward,
                    at=at,
                    roles=roles,
                    theme_id=listing.theme.removeprefix("themes/"),
                    other=listing.other,
                    after=after,
                    limit=wanted,
                )
            questions = [listing.asks(candidate, at) for candidate in candidates]
            answers = await self._judge(questions, known=head)
            facts_token = facts_token or head
            for candidate, question, verdict in zip(candidates, questions, answers.verdicts, strict=True):
                found = _raised(verdict)
                if not found.allowed or (limits and f"themes/{question.theme_id}" not in limits):
                    continue
                if len(rights) == size:
                    await self._record_listing(listing, rights)
                    return rights, pages.token(_key(at, after), question=listing.question), facts_token
                rights.append(_right(question, found))
                after = candidate
            if len(candidates) < wanted:
                await self._record_listing(listing, rights)
                return rights, "", facts_token
            after = candidates[-1]

    async def _judge(
        self, questions: Sequence[Question], *, tokens: Iterable[str] = (), known: str = "", explain: bool = False
    ) -> _Answers:
        """Judges questions by facts that include what the tokens stand for, and what this process has written.

        Raises InvalidArgument, CONSISTENCY_TOKEN_UNKNOWN; Unavailable,
        NOT_FRESH; in each verdict's place THEME_UNSUITABLE and REGISTER_STALE.
        """
        known = max(known, self._revisions.latest)
        facts = await self._facts.reach(*set(tokens), known=known, patience=PATIENCE)
        now = self._clock()
        verdicts = [facts.judge(question, now=now, explain=explain) for question in questions]
        return _Answers(self._facts.position, verdicts)

    def _question(self, request: checks_pb2.CheckRequest, now: datetime, limits: asking.Themes) -> Question:
        asking.hold(request.theme, limits)
        return Question(
            delegate=self._named(request.delegate, field="delegate"),
            principal=self._named(request.principal, field="principal"),
            theme_id=request.theme.removeprefix("themes/"),
            specifier=request.specifier,
            through=self._named(request.through, field="through") if request.HasField("through") else "",
            assurance_level=request.assurance_level,
            at=messages.instant(request.at) if request.HasField("at") else now,
        )

    def _named(self, party: Party, *, field: str) -> str:
        return messages.party_name(party, self._parties, field=field)

    def _own_or(self, party: Party | None, *, field: str) -> str:
        return self._named(party, field=field) if party is not None else callers.party_actor().party

    def _response(self, verdict: Verdict, answers: _Answers) -> checks_pb2.CheckResponse:
        return wire.response(verdict, consistency_token=answers.token, audit_record=self._name())

    def _name(self) -> str:
        return self._audit.names(1)[0]

    async def _record(self, method: str, checks: Sequence[Recorded], *, purpose: str = "") -> None:
        shared = AuditRecord(
            actor=messages.actor(callers.actor()),
            method=f"{checks_pb2.DESCRIPTOR.package}.CheckService/{method}",
            purpose=purpose,
        )
        await self._audit.record_checks(checks, shared)

    async def _record_listing(self, listing: _Listing, rights: Sequence[rights_pb2.Right]) -> None:
        parties = [listing.party, listing.other, *(listing.other_side(right) for right in rights)]
        await self._audit.record(
            [
                AuditRecord(
                    kind=AuditRecord.KIND_LISTING,
                    actor=messages.actor(callers.actor()),
                    method=f"{checks_pb2.DESCRIPTOR.package}.CheckService/{listing.method}",
                    parties=[Party(name=party) for party in sorted(set(parties)) if party],
                )
            ]
        )


_ListRequest = rights_pb2.ListPrincipalsRequest | rights_pb2.ListDelegatesRequest | rights_pb2.ListAllowedThemesRequest


@dataclass(frozen=True)
class _Listing:
    """What is listed."""

    method: str
    party: str
    forward: bool
    theme: str = ""
    other: str = ""
    through: str = ""

    @property
    def question(self) -> str:
        """What a page token belongs to."""
        return f"{self.method} {self.party} {self.theme} {self.other} {self.through}"

    def asks(self, candidate: Candidate, at: datetime) -> Question:
        """The check that judges a candidate."""
        other, theme_id, specifier = candidate
        asked = Question(
            delegate=self.party,
            principal=other,
            theme_id=theme_id,
            specifier=specifier,
            through=self.through,
            at=at,
        )
        return asked if self.forward else asked._replace(delegate=other, principal=self.party)

    def other_side(self, right: rights_pb2.Right) -> str:
        """The party of a right that is not the one listed for."""
        return right.principal.name if self.forward else right.delegate.name


def _right(question: Question, verdict: Verdict) -> rights_pb2.Right:
    return rights_pb2.Right(
        delegate=Party(name=question.delegate),
        principal=Party(name=question.principal),
        theme=f"themes/{question.theme_id}",
        specifier=question.specifier,
        basis=verdict.basis,  # type: ignore[arg-type]
        role=verdict.role,
        mandates=verdict.mandates,
        through=Party(name=verdict.through) if verdict.through else None,
        expire_time=messages.timestamp(verdict.expire),
        needed_assurance_level=verdict.assurance_level,  # type: ignore[arg-type]
    )


def _recorded(question: Question, response: checks_pb2.CheckResponse, verdict: Verdict) -> Recorded:
    return Recorded(wire.request(question), response, verdict.steps)


def _hold_relying_party(request: checks_pb2.CheckRequest) -> None:
    """Raises InvalidArgument, FIELD_INVALID, where another than the exchange says for whom it asks."""
    if request.relying_party and identity.caller().service != "exchange":
        raise _field_invalid("relying_party", "only the exchange asks for another member")


def _field_invalid(field: str, text: str) -> Fault:
    return InvalidArgument("FIELD_INVALID", "the check cannot be made like this", violations=[(field, text)])


def _raised(verdict: Judged) -> Verdict:
    if isinstance(verdict, Fault):
        raise verdict
    return verdict


def _until_stopped(
    asked: Sequence[Question | Fault], verdicts: Sequence[Judged], semantics: int
) -> list[tuple[Question | Fault, Judged]]:
    """Each of what was asked with its outcome, up to and with the one that stops the batch; a fault allows nothing."""
    kind, judged = checks_pb2.BatchCheckRequest, iter(verdicts)
    outcomes: list[tuple[Question | Fault, Judged]] = []
    for one in asked:
        verdict = one if isinstance(one, Fault) else next(judged)
        outcomes.append((one, verdict))
        allowed = isinstance(verdict, Verdict) and verdict.allowed
        if semantics == (kind.SEMANTICS_STOP_AT_ALLOWED if allowed else kind.SEMANTICS_STOP_AT_DENIED):
            break
    return outcomes


def _fault(outcome: Judged) -> checks_pb2.BatchCheckResponse.CheckFault:
    assert isinstance(outcome, Fault)
    return checks_pb2.BatchCheckResponse.CheckFault(reason=outcome.reason, message=outcome.message)


def _key(at: datetime, last: Candidate) -> str:
    return "\n".join((at.isoformat(), *last))


def _position(key: str) -> tuple[datetime, Candidate]:
    at, other, theme_id, specifier = key.split("\n")
    return datetime.fromisoformat(at), (other, theme_id, specifier)
