"""What AuthZEN's entities mean in Solmu, both ways. Pure.

    subject     who acts: type "person" or "organisation", id a party name; with the
                property `identifier_scheme` ("FI_HETU") the id is an identity code.
                Other properties: `acr`, how surely the person is known (a level of
                eIDAS), and `through`, the organisation through which the party acts.
    action      in what: name "themes/{theme}"; the property `specifier` names one thing
    resource    for whom: as the subject
    context     `at`, the instant to judge (RFC 3339); `consistency_token`

Whatever else an entity or the context holds is ignored, a `time` of the caller's
own included: a right is judged by the node's clock. A person of whom no `acr` is
said counts as known at the level low. Who or what the node does not know is no
fault: it is denied, and nothing is found of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from solmu.authorisations.v1 import checks_pb2, rights_pb2
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel, Party
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime.identity import ASSURANCE_LEVELS

Json = dict[str, Any]

PAGE_SIZE = 50
"""Results of a page where the caller does not say."""

MAX_PAGE_SIZE = 1000
"""Results of a page at most."""

MAX_IDENTIFIER, MAX_SPECIFIER = 32, 200
"""Characters of an identity code and of a specifier, as the contract has them: nothing longer is known."""

UNKNOWN_REASONS = frozenset({"THEME_UNSUITABLE"})
"""Refusals of a check that say that the node does not know what was asked about."""

_LEVELS = {acr: AssuranceLevel.ValueType(level) for acr, level in ASSURANCE_LEVELS.items()}
_ACR = {level: acr for acr, level in _LEVELS.items()}
_COLLECTIONS = {"person": "persons/", "organisation": "organisations/"}
_PARTY = re.compile(r"(persons|organisations)/[a-z2-7]{26}")
_THEME = re.compile(r"themes/[a-z][a-z0-9-]{1,61}[a-z0-9]")
_SEMANTICS = {
    "execute_all": checks_pb2.BatchCheckRequest.SEMANTICS_ALL,
    "deny_on_first_deny": checks_pb2.BatchCheckRequest.SEMANTICS_STOP_AT_DENIED,
    "permit_on_first_permit": checks_pb2.BatchCheckRequest.SEMANTICS_STOP_AT_ALLOWED,
}
_INHERITED = ("subject", "action", "resource", "context")


class Malformed(Exception):
    """A call that lacks what the specification requires, or has it of another type; never with its content."""


class Unknown(Exception):
    """A call about somebody or something that the node does not know."""


def check(evaluation: Mapping[str, Any]) -> checks_pb2.CheckRequest:
    """The check that an evaluation asks for. Raises Malformed, Unknown."""
    subject, resource = _entity(evaluation, "subject"), _entity(evaluation, "resource")
    action, context = _action(evaluation), _context(evaluation)
    request = checks_pb2.CheckRequest(
        delegate=_party(subject, "subject"),
        principal=_party(resource, "resource"),
        theme=_theme(action),
        specifier=_specifier(action),
        through=_through(subject),
        assurance_level=_level(subject),
        consistency_token=_text(context, "consistency_token", "context"),
    )
    if at := _at(context):
        request.at.FromDatetime(at)
    return request


def evaluations(body: Mapping[str, Any]) -> list[Json]:
    """Each evaluation with what it takes over from the whole (section 7.1.1). Raises Malformed."""
    each = body.get("evaluations", [])
    if not isinstance(each, list) or not all(isinstance(one, dict) for one in each):
        raise Malformed("evaluations is not an array of objects")
    defaults = {name: body[name] for name in _INHERITED if name in body}
    return [defaults | one for one in each]


def semantics(body: Mapping[str, Any]) -> checks_pb2.BatchCheckRequest.Semantics.ValueType:
    """When to stop (section 7.1.2.1). Raises Malformed."""
    options = _object(body, "options")
    chosen = options.get("evaluations_semantic", "execute_all")
    if not isinstance(chosen, str) or chosen not in _SEMANTICS:
        raise Malformed("options.evaluations_semantic is none of " + ", ".join(_SEMANTICS))
    return _SEMANTICS[chosen]


def decision(response: checks_pb2.CheckResponse) -> Json:
    """The decision on a check, with what helps to understand it (section 5.5.1)."""
    allowed = response.decision == checks_pb2.DECISION_ALLOWED
    context: Json = {"consistency_token": response.consistency_token, "audit_record": response.audit_record}
    if allowed:
        context["basis"] = rights_pb2.RightBasis.Name(response.basis).removeprefix("RIGHT_BASIS_")
        context["mandates"] = list(response.mandates)
        if response.HasField("through"):
            context["through"] = response.through.name
        if response.HasField("expire_time"):
            context["expire_time"] = response.expire_time.ToJsonString()
    else:
        context["reason"] = checks_pb2.DenialReason.Name(response.reason).removeprefix("DENIAL_REASON_")
        if response.reason == checks_pb2.DENIAL_REASON_ASSURANCE_TOO_LOW:
            context["acr_values"] = _ACR[response.needed_assurance_level]
    return {"decision": allowed, "context": context}


def result(one: checks_pb2.BatchCheckResponse.Result) -> Json:
    """The decision on one check of many; one that could not be made is denied."""
    if one.HasField("response"):
        return decision(one.response)
    if one.fault.reason in UNKNOWN_REASONS:
        return failed(404, one.fault.message)
    return failed(503 if one.fault.reason in _PASSING else 400, one.fault.message, reason=one.fault.reason)


_PASSING = frozenset({"REGISTER_STALE", "NOT_FRESH"})
"""Faults of a check that the node may not have a moment later."""


def denied(unknown: Unknown) -> Json:
    """The decision on what the node does not know."""
    return failed(404, str(unknown))


def failed(status: int, message: str, *, reason: str = "") -> Json:
    """The decision where none could be made: denied, with the error (section 7.2.1)."""
    error: Json = {"status": status, "message": message}
    return {"decision": False, "context": {"error": error | ({"reason": reason} if reason else {})}}


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search, and where it goes on."""

    method: str
    """Of `CheckService`."""
    question: Mapping[str, Any]
    """Fields of the method's request; empty where nothing can be found."""
    kind: str
    """Entities of this type are searched for: "person", "organisation" or, for actions, none."""
    specifier: str
    level: int
    """How surely the subject is known; 0 for not compared."""
    limit: int
    token: str
    """The service's token of the page; empty for the first."""
    digest: str
    """Of all that was searched for: a token belongs to one search."""

    def request(self, *, page_size: int, page_token: str) -> Any:
        """The method's request for a page."""
        requests = {
            "ListDelegates": rights_pb2.ListDelegatesRequest,
            "ListPrincipals": rights_pb2.ListPrincipalsRequest,
            "ListAllowedThemes": rights_pb2.ListAllowedThemesRequest,
        }
        return requests[self.method](**self.question, page_size=page_size, page_token=page_token)

    def entity(self, right: rights_pb2.Right) -> Json | None:
        """What a right gives as a result; None where an evaluation of it would be denied."""
        if 0 < self.level < right.needed_assurance_level:
            return None
        if self.method == "ListAllowedThemes":
            specified = {"properties": {"specifier": right.specifier}} if right.specifier else {}
            return {"name": right.theme, **specified}
        name = right.delegate.name if self.method == "ListDelegates" else right.principal.name
        if right.specifier not in ("", self.specifier) or not name.startswith(_COLLECTIONS[self.kind]):
            return None
        return {"type": self.kind, "id": name}

    def next_token(self, token: str) -> str:
        """The token of the page after this one."""
        return base64.urlsafe_b64encode(json.dumps([self.digest, self.limit, token]).encode()).decode()


def subject_search(body: Mapping[str, Any]) -> Search:
    """Who may act. Raises Malformed."""
    subject, resource = _entity(body, "subject", wanted=True), _entity(body, "resource")
    action, context = _action(body), _context(body)
    return _search(
        "ListDelegates",
        body,
        kind=subject["type"],
        question=lambda: {"principal": _party(resource, "resource"), "theme": _theme(action), **_asked(context)},
        specifier=_property(action, "specifier", "action"),
        level=_level(subject),
    )


def resource_search(body: Mapping[str, Any]) -> Search:
    """For whom a subject may act. Raises Malformed."""
    subject, resource = _entity(body, "subject"), _entity(body, "resource", wanted=True)
    action, context = _action(body), _context(body)
    return _search(
        "ListPrincipals",
        body,
        kind=resource["type"],
        question=lambda: {
            "delegate": _party(subject, "subject"),
            "theme": _theme(action),
            "through": _through(subject),
            **_asked(context),
        },
        specifier=_property(action, "specifier", "action"),
        level=_level(subject),
    )


def action_search(body: Mapping[str, Any]) -> Search:
    """In what a subject may act for a resource. Raises Malformed."""
    subject, resource = _entity(body, "subject"), _entity(body, "resource")
    context = _context(body)
    return _search(
        "ListAllowedThemes",
        body,
        kind="",
        question=lambda: {
            "delegate": _party(subject, "subject"),
            "principal": _party(resource, "resource"),
            "through": _through(subject),
            **_asked(context),
        },
        specifier="",
        level=_level(subject),
    )


def page(results: list[Json], next_token: str) -> Json:
    """A page of results (section 8.3)."""
    return {"page": {"next_token": next_token, "count": len(results)}, "results": results}


def _search(method: str, body: Mapping[str, Any], *, kind: str, question: Any, specifier: str, level: int) -> Search:
    wanted = {name: body[name] for name in _INHERITED if name in body}
    digest = hashlib.sha256(json.dumps([method, wanted], sort_keys=True).encode()).hexdigest()[:32]
    limit, token = _page(body, digest)
    try:
        known = question() if kind in ("", *_COLLECTIONS) else {}
    except Unknown:
        known = {}
    return Search(
        method=method, question=known, kind=kind, specifier=specifier, level=level, limit=limit, token=token,
        digest=digest,
    )  # fmt: skip


def _page(body: Mapping[str, Any], digest: str) -> tuple[int, str]:
    """How many results, and the service's token (section 8.2.1). Raises Malformed."""
    asked = _object(body, "page")
    token, limit = asked.get("token", ""), asked.get("limit")
    if not isinstance(token, str) or (limit is not None and (type(limit) is not int or limit < 0)):
        raise Malformed("page.token is not a string, or page.limit not a whole number of 0 or more")
    if not token:
        return min(PAGE_SIZE if limit is None else limit, MAX_PAGE_SIZE), ""
    try:
        of, first_limit, position = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError):
        raise Malformed("page.token is none of this decision point") from None
    if type(first_limit) is not int or not isinstance(position, str):
        raise Malformed("page.token is none of this decision point")
    if of != digest or (limit is not None and min(limit, MAX_PAGE_SIZE) != first_limit):
        raise Malformed("page.token belongs to another search")
    return min(max(first_limit, 0), MAX_PAGE_SIZE), position


def _asked(context: Mapping[str, Any]) -> Json:
    """What listings take of the context."""
    asked: Json = {"consistency_token": _text(context, "consistency_token", "context")}
    if at := _at(context):
        asked["at"] = at
    return asked


def _entity(body: Mapping[str, Any], name: str, *, wanted: bool = False) -> Json:
    """A subject or resource; one that is searched for needs no id."""
    entity = _object(body, name, required=True)
    needed = ("type",) if wanted else ("type", "id")
    for member in needed:
        _text(entity, member, name, required=True)
    _object(entity, "properties", where=f"{name}.")
    return entity


def _action(body: Mapping[str, Any]) -> Json:
    action = _object(body, "action", required=True)
    _text(action, "name", "action", required=True)
    _object(action, "properties", where="action.")
    return action


def _context(body: Mapping[str, Any]) -> Json:
    return _object(body, "context")


def _object(holder: Mapping[str, Any], name: str, *, where: str = "", required: bool = False) -> Json:
    if name not in holder:
        if required:
            raise Malformed(f"{where}{name} is missing")
        return {}
    value = holder[name]
    if not isinstance(value, dict):
        raise Malformed(f"{where}{name} is not an object")
    return value


def _text(holder: Mapping[str, Any], name: str, where: str, *, required: bool = False) -> str:
    if name not in holder:
        if required:
            raise Malformed(f"{where}.{name} is missing")
        return ""
    value = holder[name]
    if not isinstance(value, str):
        raise Malformed(f"{where}.{name} is not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{where}.{name} is not Unicode text") from None
    return value


def _property(entity: Mapping[str, Any], name: str, where: str) -> str:
    return _text(entity.get("properties", {}), name, f"{where}.properties")


def _party(entity: Mapping[str, Any], where: str) -> Party:
    """Raises Unknown where the node could know no such party."""
    kind, identifier = entity["type"], entity["id"]
    scheme = _property(entity, "identifier_scheme", where)
    if kind not in _COLLECTIONS:
        raise Unknown(f"{where}.type is none of this decision point")
    if scheme:
        known = dict(NationalIdentifier.Scheme.items()).get(f"SCHEME_{scheme}")
        if not known:
            raise Unknown(f"{where}.properties.identifier_scheme is none of this decision point")
        if not 0 < len(identifier) <= MAX_IDENTIFIER:
            raise Unknown(f"{where} is not known")
        return Party(identifier=NationalIdentifier(scheme=known, value=identifier))
    if not _PARTY.fullmatch(identifier) or not identifier.startswith(_COLLECTIONS[kind]):
        raise Unknown(f"{where} is not known")
    return Party(name=identifier)


def _through(subject: Mapping[str, Any]) -> Party | None:
    name = _property(subject, "through", "subject")
    if name and not _PARTY.fullmatch(name):
        raise Unknown("subject.properties.through is not known")
    return Party(name=name) if name else None


def _theme(action: Mapping[str, Any]) -> str:
    name: str = action["name"]
    if not _THEME.fullmatch(name):
        raise Unknown("action is not known")
    return name


def _specifier(action: Mapping[str, Any]) -> str:
    specifier = _property(action, "specifier", "action")
    if len(specifier) > MAX_SPECIFIER:
        raise Unknown("action.properties.specifier is not known")
    return specifier


def _level(subject: Mapping[str, Any]) -> AssuranceLevel.ValueType:
    """Levels are of persons. One that is not said, or not known here, is the lowest."""
    acr = _property(subject, "acr", "subject")
    if subject["type"] != "person":
        return AssuranceLevel.ASSURANCE_LEVEL_UNSPECIFIED
    return _LEVELS.get(acr, AssuranceLevel.ASSURANCE_LEVEL_LOW)


def _at(context: Mapping[str, Any]) -> datetime | None:
    text = _text(context, "at", "context")
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Malformed("context.at is not an instant of RFC 3339")
    return at
