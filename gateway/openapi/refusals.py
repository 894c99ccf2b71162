"""What a call may be refused with: the reasons of `errors.proto`, by HTTP status, as problem documents (RFC 9457)."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from gateway.openapi.contract import Contract
from gateway.problems import MEDIA_TYPE, NODE_DOMAIN, TITLES, problem

PREFIX = "ERROR_REASON_"

_STATUS = re.compile(r"\b[A-Z][A-Z_]+, (\d{3})(?: or (\d{3}))?\b")
"""How the comment on a reason says what it comes with: "INVALID_ARGUMENT, 400."."""

_UNSAID = [("400", "")]
"""Of a reason whose comment names none: those of verifying, of which `errors.proto` speaks together."""

PROBLEM = "Problem"

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Why a call was refused (RFC 9457). `reason` never changes for the same failure; `detail` may.",
    "required": ["type", "title", "status", "detail", "reason", "domain"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "urn:solmu:reason:<REASON>"},
        "title": {"type": "string", "description": "Phrase of the HTTP status."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "For people. May change."},
        "reason": {"type": "string", "description": "What programs branch on."},
        "domain": {"type": "string", "description": "Who gives the reason, such as node.solmu or messages.solmu."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "errors": {
            "type": "array",
            "description": "Fields that break a rule of the contract.",
            "items": {
                "type": "object",
                "required": ["field", "description"],
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
    },
}


def schemas() -> dict[str, Any]:
    """The schema of the problem document."""
    return {PROBLEM: _SCHEMA}


class Refusals:
    """The documented refusals of every service, and those that all of them share."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._shared = self._reasons("runtime", NODE_DOMAIN)
        self.components: dict[str, Any] = {}

    def responses(self, service: str) -> dict[str, Any]:
        """For the operations of a service: a reference for each HTTP status."""
        by_status: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
        for status, reasons in (*self._shared.items(), *self._reasons(service, f"{service}.solmu").items()):
            by_status[status] += reasons
        found = {}
        for status, reasons in sorted(by_status.items()):
            name = f"{service}.{status}"
            self.components.setdefault(name, _response(status, reasons))
            found[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return found

    def _reasons(self, service: str, domain: str) -> dict[int, list[tuple[str, str, str]]]:
        """Reason, domain and meaning, by status."""
        found: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
        name = f"solmu.{service}.v1.ErrorReason"
        enum = self._contract.enums.get(name)
        for value in enum.value[1:] if enum else ():
            comment = self._contract.comment(f"{name}.{value.name}")
            for statuses in _STATUS.findall(comment) or _UNSAID:
                for status in filter(None, statuses):
                    found[int(status)].append((value.name.removeprefix(PREFIX), domain, comment))
        return found


def _response(status: int, reasons: list[tuple[str, str, str]]) -> dict[str, Any]:
    lines = [f"- `{reason}`: {comment}" for reason, _, comment in reasons]
    first, domain, comment = reasons[0]
    detail = comment.split(". ")[0].rstrip(".")
    example = problem(first, status=status, detail=detail, domain=domain)
    return {
        "description": "\n".join([f"{TITLES[status]}. Reasons:", "", *lines]),
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{PROBLEM}"}, "examples": {first: {"value": example}}}
        },
    }
