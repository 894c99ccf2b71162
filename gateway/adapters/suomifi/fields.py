"""Reading JSON field by field: what is wrong is collected, and said all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class Fields:
    """The members of one JSON object. A member that is wrong reads as empty and becomes a fault of the whole."""

    def __init__(self, value: object, *, path: str = "", faults: list[str] | None = None) -> None:
        self._path = path
        self.faults: list[str] = [] if faults is None else faults
        """What is wrong so far, each with the path of its member."""
        self._members = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.faults.append(f"{path or 'the body'} is not an object")

    def text(self, name: str, default: str | None = None) -> str:
        """A text; a fault where it is missing and has no default."""
        value = self._members.get(name)
        if value is None and default is not None:
            return default
        return value if isinstance(value, str) else self._wrong(name, value, "text", "")

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._members.get(name, default)
        return value if isinstance(value, bool) else self._wrong(name, value, "true or false", default)

    def number(self, name: str) -> int:
        """A whole number above 0; 0 where it is missing."""
        value = self._members.get(name)
        if value is None:
            return 0
        plain = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return value if plain else self._wrong(name, value, "a whole number above 0", 0)

    def choice(self, name: str, choices: Mapping[str, Choice]) -> Choice:
        """What one of a few texts stands for; the first where it is missing."""
        first = next(iter(choices))
        value = self._members.get(name, first)
        if isinstance(value, str) and value in choices:
            return choices[value]
        return self._wrong(name, value, " or ".join(f'"{choice}"' for choice in choices), choices[first])

    def has(self, name: str) -> bool:
        """Whether the member is there."""
        return self._members.get(name) is not None

    def child(self, name: str) -> Fields:
        """An object inside."""
        return Fields(self._members.get(name), path=self._under(name), faults=self.faults)

    def children(self, name: str) -> list[Fields]:
        """The objects in a list; none where it is missing."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, list):
            self._wrong(name, value, "a list", None)
            return []
        return [
            Fields(each, path=f"{self._under(name)}[{index}]", faults=self.faults)
            for index, each in enumerate(value or ())
        ]

    def _under(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _wrong(self, name: str, value: object, wanted: str, instead: Choice) -> Choice:
        self.faults.append(f"{self._under(name)} is {'missing' if value is None else f'not {wanted}'}")
        return instead
