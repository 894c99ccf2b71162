"""Texts with {{ variables }}: pure rules.

Nothing but variables: what a unit writes stays a letter that its lawyers can
read, and no sender's value can run anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from services.runtime.errors import InvalidArgument

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z][A-Za-z0-9_]{0,63})\s*\}\}")


def variables(texts: Iterable[str]) -> list[str]:
    """The variables of texts, each once, by name.

    Raises InvalidArgument, FIELD_INVALID, for braces that are no variable.
    """
    found: set[str] = set()
    for text in texts:
        found.update(_VARIABLE.findall(text))
        if re.search(r"\{\{|\}\}", _VARIABLE.sub("", text)):
            violations = [("template.bodies", "has double braces that are no variable")]
            raise InvalidArgument(
                "FIELD_INVALID", "a text has double braces that are no variable", violations=violations
            )
    return sorted(found)


def filled(text: str, values: Mapping[str, str], *, write: Callable[[str], str] = str) -> str:
    """The text with its variables' values, each as `write` puts it.

    Raises InvalidArgument, TEMPLATE_INCOMPLETE, which names a variable without
    a value. Values that no variable asks for are passed over.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InvalidArgument("TEMPLATE_INCOMPLETE", "a variable has no value", variable=match[1])
        return write(values[match[1]])

    return _VARIABLE.sub(value, text)
