"""The list of who looked at what is in a mailbox, or acted on it.

Every method that answers with what is in a mailbox, or about it, writes to it
before it answers; who cannot be put on the list sees nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from solmu.messages.v1 import mailboxes_pb2
from solmu.options.v1 import access_pb2
from solmu.types.v1 import types_pb2

from services.messages import access_store
from services.messages.servicers import names
from services.runtime import contracts
from services.runtime.database import Connection, Database, Row
from services.runtime.ids import new_id

SCOPES: Mapping[str, Sequence[str]] = {
    method.name: list(method.GetOptions().Extensions[access_pb2.access].scopes)
    for contract in contracts.files("messages")
    for service in contract.services_by_name.values()
    for method in service.methods
}
"""The scopes that each method needs: for what the look was allowed."""


async def record(
    database: Database | Connection, mailbox_id: UUID, method: str, *, message_id: UUID | None = None
) -> None:
    """Puts the caller, the owner of a mailbox or one who acts for it, on the mailbox's list."""
    await _record(database, [(mailbox_id, message_id)], method)


async def record_unit(database: Database | Connection, unit_id: str, message: Row, method: str) -> None:
    """Puts a unit that looks at a message, or acts on it, on the list of its mailbox."""
    await _record(database, [(message["mailbox_id"], message["message_id"])], method, unit_id=unit_id)


async def record_page(database: Database, unit_id: str, messages: Iterable[Row], method: str) -> None:
    """Puts a unit that looks at a list of messages on the lists of all their mailboxes, once on each."""
    mailboxes = dict.fromkeys(message["mailbox_id"] for message in messages)
    await _record(database, [(mailbox_id, None) for mailbox_id in mailboxes], method, unit_id=unit_id)


def access(mailbox: str, row: Row) -> mailboxes_pb2.Access:
    """An entry of the list, for an answer."""
    return mailboxes_pb2.Access(
        name=f"{mailbox}/accesses/{row['access_id']}",
        actor=types_pb2.Actor.FromString(row["actor"]),
        method=row["method"],
        message=f"{mailbox}/messages/{row['message_id']}" if row["message_id"] else "",
        time=names.timestamp(row["time"]),
        unit=f"units/{row['unit_id']}" if row["unit_id"] else "",
        scopes=SCOPES.get(row["method"], ()),
    )


async def _record(
    database: Database | Connection,
    seen: Iterable[tuple[UUID, UUID | None]],
    method: str,
    *,
    unit_id: str | None = None,
) -> None:
    await access_store.record(
        database,
        [(new_id(), mailbox_id, message_id) for mailbox_id, message_id in seen],
        unit_id=unit_id,
        method=method,
        actor=names.actor().SerializeToString(),
        now=names.now(),
    )
