"""Themes: the subjects in which mandates are given, and what each allows. Pure rules.

A theme is written as a draft, activated once, and never changes again: whoever
gave a mandate in it finds what they read. It can be hidden, which ends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import IntEnum

from services.authorisations import patterns
from services.authorisations.days import Period, latest_last_day
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument
from services.runtime.facts.rules import GREATEST_DEPTH, Kind, PartyKind, Rules


class State(IntEnum):
    """Where a theme stands; numbered as in the contract."""

    DRAFT = 1
    ACTIVE = 2
    HIDDEN = 3


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A theme."""

    theme_id: str
    uri: str
    owner: str
    """The organisation that answers for it: a party name."""
    document: bytes
    """What it says, texts included, as it was sent; the rules are read from it."""
    rules: Rules
    state: State
    create_time: datetime
    update_time: datetime
    activate_time: datetime | None = None
    revision: int = 1

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"themes/{self.theme_id}"

    @property
    def etag(self) -> str:
        """What a caller shows to prove that it knows the theme as it is."""
        return str(self.revision)


def check(rules: Rules, languages: tuple[tuple[str, ...], ...]) -> None:
    """Whether the rules fit together, and each text is there once in a language.

    Raises InvalidArgument, THEME_RULE_INVALID.
    """
    for texts in languages:
        if len(set(texts)) < len(texts):
            raise _contradiction("a text is there twice in one language")
    if len({right.role for right in rules.register_rights}) < len(rules.register_rights):
        raise _contradiction("a role is named twice")
    through_organisations = {Kind.REPRESENT, Kind.ISSUE_REPRESENT} & rules.longest_terms.keys()
    if through_organisations and rules.principal_kind is PartyKind.PERSON:
        raise _contradiction("mandates to represent are given by organisations, and only persons may be principals")
    if Kind.REPRESENT in rules.longest_terms and rules.greatest_depth < GREATEST_DEPTH:
        raise _contradiction("a mandate to represent needs a depth of two")
    if rules.specifier_pattern:
        try:
            patterns.compiled(rules.specifier_pattern)
        except ValueError:
            raise _contradiction("the specifier's pattern is not a regular expression") from None


def updated(theme: Theme, *, uri: str, document: bytes, rules: Rules, etag: str, now: datetime) -> Theme:
    """The draft with new content. Raises Aborted, ETAG_MISMATCH; FailedPrecondition, THEME_IMMUTABLE."""
    _current(theme, etag)
    if theme.state is not State.DRAFT:
        raise FailedPrecondition("THEME_IMMUTABLE", "the theme has been activated", resource=theme.name)
    return replace(theme, uri=uri, document=document, rules=rules, revision=theme.revision + 1, update_time=now)


def activated(theme: Theme, *, etag: str, now: datetime) -> Theme:
    """The theme, in use; the same one where it is already. Raises as `updated`."""
    if theme.state is State.ACTIVE:
        return theme
    _current(theme, etag)
    if theme.state is not State.DRAFT:
        raise FailedPrecondition("THEME_IMMUTABLE", "the theme has been activated", resource=theme.name)
    return replace(theme, state=State.ACTIVE, activate_time=now, revision=theme.revision + 1, update_time=now)


def shown(theme: Theme, state: State, *, etag: str, now: datetime) -> Theme:
    """The theme, hidden or active again; the same one where it is so already.

    Raises Aborted, ETAG_MISMATCH; FailedPrecondition, THEME_NOT_IN_USE, for a
    draft.
    """
    if theme.state is state:
        return theme
    _current(theme, etag)
    if theme.state is State.DRAFT:
        raise FailedPrecondition("THEME_NOT_IN_USE", "the theme is a draft", resource=theme.name)
    return replace(theme, state=state, revision=theme.revision + 1, update_time=now)


def latest_day(rules: Rules, kind: Kind, first_day: date) -> date:
    """The last day that a mandate of this kind may have."""
    return latest_last_day(first_day, rules.longest_terms[kind])


def admit(theme: Theme, *, kind: Kind, principal: str, delegate: str, specifier: str, period: Period) -> None:
    """Whether a mandate like this can be given in the theme.

    Raises FailedPrecondition, THEME_NOT_IN_USE; InvalidArgument,
    THEME_UNSUITABLE, SAME_PARTY, PARTY_KIND, SPECIFIER_INVALID, TERM_TOO_LONG.
    What it does not check: whether the parties are of age and not blocked.
    """
    rules = theme.rules
    if theme.state is not State.ACTIVE:
        raise FailedPrecondition("THEME_NOT_IN_USE", "no mandate can be given in this theme", resource=theme.name)
    if kind not in rules.longest_terms:
        raise InvalidArgument("THEME_UNSUITABLE", "the theme does not allow this kind of mandate", theme=theme.name)
    if principal == delegate:
        raise InvalidArgument("SAME_PARTY", "principal and delegate are the same party")
    through_organisation = kind in (Kind.REPRESENT, Kind.ISSUE_REPRESENT)
    wanted = PartyKind.ORGANISATION if through_organisation else rules.principal_kind
    if not _is(principal, wanted):
        raise InvalidArgument("PARTY_KIND", "this kind of party cannot be the principal", field="principal")
    if not through_organisation and not _is(delegate, rules.delegate_kind) and kind is Kind.ACT:
        raise InvalidArgument("PARTY_KIND", "this kind of party cannot be the delegate", field="delegate")
    _admit_specifier(rules, specifier)
    assert period.last_day is not None
    latest = latest_day(rules, kind, period.first_day)
    if period.last_day > latest:
        raise InvalidArgument(
            "TERM_TOO_LONG", f"the period may end on {latest} at the latest", latest_last_day=latest.isoformat()
        )


def _admit_specifier(rules: Rules, specifier: str) -> None:
    fits = (
        bool(rules.specifier_pattern) and patterns.matches(rules.specifier_pattern, specifier)
        if specifier
        else not rules.specifier_required
    )
    if not fits:
        raise InvalidArgument("SPECIFIER_INVALID", "the specifier is missing, not wanted, or not of the theme's form")


def _is(party: str, kind: PartyKind) -> bool:
    return kind is PartyKind.EITHER or party.startswith("persons/") == (kind is PartyKind.PERSON)


def _current(theme: Theme, etag: str) -> None:
    if etag and etag != theme.etag:
        raise Aborted("ETAG_MISMATCH", "the theme has changed; read it again", resource=theme.name)


def _contradiction(what: str) -> InvalidArgument:
    return InvalidArgument("THEME_RULE_INVALID", what)
