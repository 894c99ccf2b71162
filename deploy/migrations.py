"""Migrations that let the release before run on: they expand first, and contract a release later.

    python -m deploy.migrations check       says which do not, and ends with status 1
    python -m deploy.migrations release     writes `deploy/migrations.txt` anew: for whoever makes a release

While a node is updated, processes of the last release and of the new one stand
side by side on databases that the new one has migrated already; and whoever
takes a release back does so without touching the data. So a migration may add:
tables, columns with a default or nullable, indexes. What takes away or tightens
something that the last release uses comes one release after the code stopped
using it, and its first line names a migration that came with that code:

    -- needs: messages/0050_expanded.sql

Releases that know the migration named there run beside it, all others refuse
to start (`services.runtime.database`). `deploy/migrations.txt` lists the
migrations of the last release, each with its checksum: they are not edited.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from services.runtime.database import needed

SOURCE = Path(__file__).resolve().parents[1]
RELEASED = SOURCE / "deploy/migrations.txt"
HEADER = "# The migrations of the last release: python -m deploy.migrations release\n"
EX_USAGE = 64

TABLE = r"(?:table|index|on|into)\s+(?:only\s+)?(?:concurrently\s+)?(?:if\s+(?:not\s+)?exists\s+)?"

BREAKING: Mapping[str, str] = {
    r"\bdrop\s+(?!not\s+null)": "drops something",
    r"\brename\b": "renames something",
    r"\btruncate\b|\bdelete\s+from\b": "deletes rows",
    r"\balter\s+(?:column\s+)?\w+\s+(?:set\s+data\s+)?type\b": "changes a column's type",
    r"\bset\s+not\s+null\b": "takes NULL away",
    r"\badd\s+(?!.*\b(?:default|generated)\b).*\bnot\s+null\b": (
        "adds a column that the last release leaves out, NOT NULL and without a default"
    ),
    r"\badd\s+(?:constraint|check|unique|primary|foreign|exclude)\b": "adds a constraint",
    r"\bcreate\s+unique\s+index\b": "adds a unique index",
    r"\bcreate\s+(?:or\s+replace\s+)?(?:constraint\s+)?trigger\b|\bor\s+replace\b": "changes what a write does",
}
"""What an action on a table of the last release may not do, and how that is said."""

ACTIONS = re.compile(r",\s*(?=(?:add|alter|drop|rename|set)\s)")
"""Between two actions of one ALTER TABLE."""


def migrations(source: Path = SOURCE) -> dict[str, str]:
    """Every migration by its name as databases keep it, such as messages/0001_messages.sql."""
    found = sorted(source.glob("services/*/migrations/*.sql"))
    return {f"{path.parents[1].name}/{path.name}": path.read_text(encoding="utf-8") for path in found}


def faults(released: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """What is wrong with the migrations there are, given the last release's: checksums by name, and contents."""
    found = []
    for name, sha256 in released.items():
        if name not in present:
            found.append(f"{name} is gone, and the last release has it")
        elif digest(present[name]) != sha256:
            found.append(f"{name} was edited, and the last release has it")
    fresh = {name: statements for name, statements in present.items() if name not in released}
    for name, statements in fresh.items():
        needs = needed(statements)
        if needs is None:
            own = created({other: each for other, each in fresh.items() if other.split("/")[0] == name.split("/")[0]})
            found += [
                f"{name} {what}, which the last release may use: {text}" for what, text in breaking(statements, own)
            ]
        elif needs not in released:
            found.append(f"{name} needs {needs}, which is not in the last release: whoever runs it could not go on")
    return found


def breaking(statements: str, own: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """What the last release might not go on with, and the statement that does it; tables in `own` are unknown to it."""
    for statement in split(statements):
        if any(re.search(rf"\b{TABLE}{re.escape(table)}\b", statement) for table in own):
            continue
        for action in ACTIONS.split(statement):
            yield from ((what, statement) for pattern, what in BREAKING.items() if re.search(pattern, action))


def created(files: Mapping[str, str]) -> list[str]:
    """The tables that these migrations make."""
    pattern = r"\bcreate\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?(\w+)"
    return [name for statements in files.values() for each in split(statements) for name in re.findall(pattern, each)]


def split(statements: str) -> list[str]:
    """The statements, in lower case, without comments and what stands in quotes, each on one line."""
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", " ", statements, flags=re.DOTALL)
    bare = re.sub(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", "''", bare, flags=re.DOTALL)
    return [" ".join(each.lower().split()) for each in bare.split(";") if each.strip()]


def digest(statements: str) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(statements.encode()).hexdigest()


def released() -> dict[str, str]:
    """The migrations of the last release: checksums by name."""
    lines = RELEASED.read_text().removeprefix(HEADER).splitlines()
    return {name: sha256 for sha256, name in (line.split() for line in lines)}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; answers the exit status."""
    match list(arguments):
        case ["check"]:
            found = faults(released(), migrations())
            sys.stderr.writelines(f"{fault}\n" for fault in found)
            return 1 if found else 0
        case ["release"]:
            lines = [f"{digest(statements)}  {name}\n" for name, statements in migrations().items()]
            RELEASED.write_text(HEADER + "".join(lines))
            return 0
    sys.stderr.write(f"{__doc__}\n")
    return EX_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
