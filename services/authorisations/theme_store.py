"""Themes in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from services.authorisations.themes import State, Theme
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import AlreadyExists, Fault
from services.runtime.facts.rules import Rules

_COLUMNS = "theme_id, uri, owner, document, state, create_time, update_time, activate_time, revision"

Read = Callable[[bytes], Rules]
"""Reads the rules from a theme's document."""


@dataclass(frozen=True)
class ThemeStore:
    """The themes. `rules_of` reads a document."""

    rules_of: Read

    async def insert(self, transaction: Connection, theme: Theme) -> None:
        """Adds a theme. Raises AlreadyExists: RESOURCE_EXISTS, THEME_URI_TAKEN."""
        try:
            await transaction.execute(
                f"insert into theme ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)", *_values(theme)
            )
        except asyncpg.UniqueViolationError as error:
            raise _taken(error, theme) from None

    async def update(self, transaction: Connection, theme: Theme) -> None:
        """Writes a theme that is held. Raises AlreadyExists, THEME_URI_TAKEN."""
        try:
            await transaction.execute(
                "update theme set uri = $2, owner = $3, document = $4, state = $5, create_time = $6,"
                " update_time = $7, activate_time = $8, revision = $9 where theme_id = $1",
                *_values(theme),
            )
        except asyncpg.UniqueViolationError as error:
            raise _taken(error, theme) from None

    async def find(self, reader: Database | Connection, theme_id: str) -> Theme | None:
        """The theme of this id."""
        row = await reader.fetchrow(f"select {_COLUMNS} from theme where theme_id = $1", theme_id)
        return self._theme(row) if row else None

    async def of_uri(self, reader: Database | Connection, uri: str) -> Theme | None:
        """The theme of this URI, in use."""
        row = await reader.fetchrow(f"select {_COLUMNS} from theme where uri = $1 and state <> $2", uri, State.DRAFT)
        return self._theme(row) if row else None

    async def page(
        self, reader: Database | Connection, *, after: str, size: int, show_all: bool, owner: str
    ) -> list[Theme]:
        """At most `size` themes after an id: the active, and where all are shown the hidden and `owner`'s drafts."""
        rows = await reader.fetch(
            f"select {_COLUMNS} from theme where theme_id > $1"
            " and (state = $3 or $4 and (state = $5 or owner = $6)) order by theme_id limit $2",
            after,
            size,
            State.ACTIVE,
            show_all,
            State.HIDDEN,
            owner,
        )
        return [self._theme(row) for row in rows]

    async def in_use(self, reader: Database | Connection) -> list[Theme]:
        """All themes that mandates may have been given in."""
        rows = await reader.fetch(f"select {_COLUMNS} from theme where state <> $1 order by theme_id", State.DRAFT)
        return [self._theme(row) for row in rows]

    def _theme(self, row: Row) -> Theme:
        return Theme(**{**row, "state": State(row["state"])}, rules=self.rules_of(row["document"]))


def _values(theme: Theme) -> tuple[object, ...]:
    return (
        theme.theme_id,
        theme.uri,
        theme.owner,
        theme.document,
        theme.state,
        theme.create_time,
        theme.update_time,
        theme.activate_time,
        theme.revision,
    )


def _taken(error: asyncpg.UniqueViolationError, theme: Theme) -> Fault:
    if error.constraint_name == "theme_uri":
        return AlreadyExists("THEME_URI_TAKEN", "another theme has this URI", uri=theme.uri)
    return AlreadyExists("RESOURCE_EXISTS", f"{theme.name} exists already", resource=theme.name)
