"""Acting for another in a mailbox: what is asked, and what the answers mean here.

A token on another's behalf (RFC 8693) says who acts for whom in which theme.
Whether that holds is judged anew for every call, by facts that this process
holds and that follow those of authorisations within milliseconds
(`runtime/facts/`): a mandate that was revoked opens nothing, and nothing is
opened while it cannot be known. They are at least as new as those that the
token was given by, so that a right that was given a moment ago counts. A
mandate with a specifier, `units/{unit}`, is for mail with that unit.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from solmu.authorisations.v1 import checks_pb2_grpc, rights_pb2
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel, Party

from services.runtime.client import Peer
from services.runtime.errors import Fault, InvalidArgument, PermissionDenied, Unavailable
from services.runtime.facts.checking import Question
from services.runtime.facts.checks import Checks
from services.runtime.identity import Caller, Right

ANSWER_WITHIN = 5.0
"""Seconds that authorisations has for an answer."""

MANDATE = "mandate"
"""The type of authorisation details (RFC 9396) that name a mandate."""


@dataclass(frozen=True)
class Represented:
    """A party whose mail somebody may read."""

    party: str
    right: Right


class Acting:
    """Says who may act for whom. `theme` is that of mandates for mail: `themes/{theme}`."""

    def __init__(self, *, checks: Checks, authorisations: Peer, theme: str) -> None:
        self._checks = checks
        self._authorisations = authorisations
        self._theme = theme

    async def right(self, caller: Caller) -> Right:
        """What allows this caller to act for the party that it names.

        Raises PermissionDenied, MANDATE_MISSING, and Unavailable where
        authorisations does not say.
        """
        detail = _mandate(caller, self._theme)
        specifier = _text(detail, "specifier")
        question = Question(
            delegate=caller.actor,
            principal=caller.party,
            theme_id=self._theme.removeprefix("themes/"),
            specifier=specifier,
            assurance_level=_level(caller),
            at=datetime.now(UTC),
        )
        with _answering():
            verdict = await self._checks.check(question, consistency_token=_text(detail, "consistency_token"))
        if not verdict.allowed:
            raise denied(verdict.reason.name)
        if not _known_surely(caller, caller.actor, verdict.assurance_level):
            raise denied("ASSURANCE_TOO_LOW")
        return Right(mandates=verdict.mandates, through=verdict.through, specifier=specifier)

    async def principals(self, caller: Caller, *, page_token: str, size: int) -> tuple[list[Represented], str]:
        """For whom a caller may read mail, in pages: each party once a page, and the token of the next page.

        Raises Unavailable where authorisations does not say.
        """
        request = rights_pb2.ListPrincipalsRequest(
            delegate=Party(name=caller.party), theme=self._theme, page_size=size, page_token=page_token
        )
        stub: checks_pb2_grpc.CheckServiceAsyncStub = self._authorisations.stub(checks_pb2_grpc.CheckServiceStub)
        with _answering(), self._authorisations.faults():
            answer = await stub.ListPrincipals(request, timeout=ANSWER_WITHIN, metadata=self._authorisations.metadata())
        found: dict[str, Represented] = {}
        for one in answer.rights:
            if _known_surely(caller, caller.party, one.needed_assurance_level):
                right = Right(mandates=tuple(one.mandates), through=one.through.name, specifier=one.specifier)
                found.setdefault(one.principal.name, Represented(one.principal.name, right))
        return list(found.values()), answer.next_page_token


def theme(value: str) -> str:
    """Reads the name of a theme."""
    if not re.fullmatch(r"themes/[a-z][a-z0-9-]{1,61}[a-z0-9]", value):
        raise ValueError(f"{value!r} is not themes/ and the name of a theme")
    return value


def denied(reason: str) -> PermissionDenied:
    """The refusal of one who may not act for the owner of a mailbox; `reason` as the contract lists them."""
    return PermissionDenied("MANDATE_MISSING", "no mandate in force allows this", reason=reason)


def _mandate(caller: Caller, theme: str) -> Mapping[str, Any]:
    """What the caller's token says of its mandate. Raises PermissionDenied where it is for another theme."""
    details = [detail for detail in caller.authorization_details if detail.get("type") == MANDATE]
    if len(details) != 1 or details[0].get("theme") != theme:
        raise denied("THEME")
    return details[0]


def _text(detail: Mapping[str, Any], member: str) -> str:
    """A member of what a token says of its mandate; empty where it says nothing."""
    value = detail.get(member, "")
    if not isinstance(value, str):
        raise denied("NO_RIGHT")
    return value


def _level(caller: Caller) -> AssuranceLevel.ValueType:
    return AssuranceLevel.ValueType(caller.assurance_level)


def _known_surely(caller: Caller, actor: str, needed: int) -> bool:
    """Levels are of persons: an organisation's system is known by its certificate."""
    return not actor.startswith("persons/") or _level(caller) >= needed


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """What comes of a question that has no answer: nothing is allowed, and not known is not the same as no."""
    try:
        yield
    except InvalidArgument:  # such as a theme that is not there: nothing in it is allowed
        raise denied("NO_RIGHT") from None
    except Fault:
        raise Unavailable(
            "UNAVAILABLE", "whether a mandate allows this cannot be known now; try again", retry_after=1.0
        ) from None
