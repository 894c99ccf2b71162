"""Path templates of `google.api.http` as those of OpenAPI, with a parameter for each id in them.

`/v1/{parent=units/*}/messages` becomes `/v1/units/{unit}/messages`: what a
resource name is made of stands in the path as web developers expect it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")


@dataclass(frozen=True)
class Parameter:
    """One variable segment of a path."""

    name: str
    field: str
    """Path of the request's field whose value it is part of: "client.name"."""
    pattern: str
    """What the id may be, as a regular expression; empty where the contract does not say."""


def translate(template: str, patterns: dict[str, str]) -> tuple[str, list[Parameter]]:
    """The path and its parameters. `patterns` are the rules of the fields bound to it, by field path."""
    parameters: list[Parameter] = []

    def variable(found: re.Match[str]) -> str:
        field, segments = found[1], (found[2] or "*").split("/")
        rules = _segments_of(patterns.get(field, ""), segments)
        out = []
        for place, segment in enumerate(segments):
            if segment != "*":
                out.append(segment)
                continue
            collection = segments[place - 1] if place else field.rpartition(".")[2]
            name = _unused(singular(collection), parameters)
            parameters.append(Parameter(name, field, rules[place] if rules else ""))
            out.append("{" + name + "}")
        return "/".join(out)

    return _VARIABLE.sub(variable, template), parameters


def singular(collection: str) -> str:
    """What one member of a collection is called: "mailbox" for "mailboxes"."""
    if collection.endswith("ies"):
        return collection[:-3] + "y"
    if collection.endswith(("xes", "sses")):
        return collection[:-2]
    return collection.removesuffix("s")


def _segments_of(pattern: str, segments: list[str]) -> list[str]:
    """The rule of each segment, where the rule of the whole name can be taken apart; else nothing."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return []
    parts = _split(pattern[1:-1])
    fits = len(parts) == len(segments) and all(
        segment in ("*", part) for segment, part in zip(segments, parts, strict=True)
    )
    return [f"^{part}$" for part in parts] if fits else []


def _split(pattern: str) -> list[str]:
    """The pattern at its slashes, but for those in brackets and groups; nothing where it has alternatives outside."""
    parts, depth = [""], 0
    for character in pattern:
        depth += (character in "[(") - (character in "])")
        if character == "/" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _unused(name: str, parameters: list[Parameter]) -> str:
    taken = {parameter.name for parameter in parameters}
    return name if name not in taken else f"{name}{len(taken) + 1}"
