"""ContactService: where the owner of a mailbox is told that something has come."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from datetime import time, timedelta
from typing import Any
from uuid import UUID

from solmu.messages.v1 import contacts_pb2

from services.messages.notifications import contact_store, mail, rules, sealed, store
from services.messages.notifications.rules import Channel, Kind
from services.messages.servicers import accesses, names
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, not_found
from services.runtime.ids import new_id
from services.runtime.sealing import Sealer, Vault

Contact = contacts_pb2.Contact

CHANNELS = {"email": Channel.EMAIL, "sms": Channel.SMS}
"""By the last part of a name."""

ADDRESSES = {Channel.EMAIL: "email", Channel.SMS: "phone_number"}
"""The field of the contract that holds the address of each channel."""

DAY = timedelta(days=1)
"""The time that a limit on changes looks back."""


class Contacts:
    """Keeps contact details; those of `channels`, which the node has, can be set."""

    def __init__(self, *, database: Database, vault: Vault, channels: Collection[Channel]) -> None:
        self._database = database
        self._vault = vault
        self._channels = channels

    async def ListContacts(self, request: contacts_pb2.ListContactsRequest) -> contacts_pb2.ListContactsResponse:
        """The contact details of the owner's mailbox."""
        mailbox_id = names.uid(request.parent, 1, field="parent")
        sealer = self._sealer(await names.own_mailbox(self._database, mailbox_id))
        await accesses.record(self._database, mailbox_id, "ListContacts")
        rows = await contact_store.contacts_of(self._database, mailbox_id)
        return contacts_pb2.ListContactsResponse(contacts=[contact(row, sealer) for row in rows])

    async def SetContact(self, request: contacts_pb2.SetContactRequest) -> Contact:
        """Keeps contact details; where the address is not the one confirmed, has a code sent to it."""
        asked = request.contact
        mailbox_id, channel = _named(asked.name)
        address = _address(asked, channel)
        if channel not in self._channels:
            raise FailedPrecondition("CHANNEL_NOT_AVAILABLE", "the node does not tell residents by this channel")
        async with self._database.transaction() as transaction:
            sealer = self._sealer(await names.hold_own_mailbox(transaction, mailbox_id))
            before = await contact_store.contact(transaction, mailbox_id, channel)
            known = before is not None and sealed.opened(sealer, before, sealed.ADDRESS) == address
            confirm_time = before["confirm_time"] if before is not None and known else None
            code = None if confirm_time else await self._new_code(transaction, mailbox_id, channel)
            values = _values(asked, sealer, address=address, code=code)
            row = await contact_store.put(transaction, values | {"confirm_time": confirm_time})
            await accesses.record(transaction, mailbox_id, "SetContact")
        return contact(row, sealer)

    async def ConfirmContact(self, request: contacts_pb2.ConfirmContactRequest) -> Contact:
        """Has contact details used from now on, where the code is the one that was sent."""
        mailbox_id, channel = _named(request.name)
        sealer = self._sealer(await names.own_mailbox(self._database, mailbox_id))
        tried = await contact_store.try_code(
            self._database, mailbox_id, channel, most=rules.CODE_TRIES, now=names.now()
        )
        if tried is None or not hmac.compare_digest(sealed.opened(sealer, tried, sealed.CODE), request.code):
            raise _code_refused()
        async with self._database.transaction() as transaction:
            row = await contact_store.confirm(transaction, tried, now=names.now())
            if row is None:
                raise _code_refused()
            await accesses.record(transaction, mailbox_id, "ConfirmContact")
        return contact(row, sealer)

    async def DeleteContact(self, request: contacts_pb2.DeleteContactRequest) -> Contact:
        """Forgets contact details."""
        mailbox_id, channel = _named(request.name)
        async with self._database.transaction() as transaction:
            sealer = self._sealer(await names.hold_own_mailbox(transaction, mailbox_id))
            row = await contact_store.delete(transaction, mailbox_id, channel)
            if row is None:
                raise not_found(request.name)
            await accesses.record(transaction, mailbox_id, "DeleteContact")
        return contact(row, sealer)

    async def _new_code(self, transaction: Connection, mailbox_id: UUID, channel: Channel) -> str:
        """A code that is about to be sent. Raises ResourceExhausted, CONTACT_LIMIT."""
        now = names.now()
        changes = await contact_store.changes_since(transaction, mailbox_id, method="SetContact", since=now - DAY)
        if changes >= rules.CODES_A_DAY:
            raise ResourceExhausted(
                "CONTACT_LIMIT", "contact details were set too often today", retry_after=DAY.total_seconds()
            )
        await store.put_code(transaction, new_id(), mailbox_id, channel, Kind.CODE, now=now)
        return f"{secrets.randbelow(10**6):06}"

    def _sealer(self, mailbox: Row) -> Sealer:
        return self._vault.sealer(mailbox["data_key"], owner=f"mailboxes/{mailbox['mailbox_id']}")


def _named(name: str) -> tuple[UUID, Channel]:
    return names.uid(name, 1), CHANNELS[names.part(name, 3)]


def _address(asked: Contact, channel: Channel) -> str:
    """The address that belongs to the channel. Raises InvalidArgument where it is another channel's."""
    field = ADDRESSES[channel]
    if asked.WhichOneof("address") != field:
        violations = [(f"contact.{field}", "is not set")]
        raise InvalidArgument("FIELD_INVALID", "the address is not one of this channel", violations=violations)
    address = str(getattr(asked, field))
    if channel is Channel.EMAIL and not mail.well_formed(address):
        violations = [(f"contact.{field}", "is not an address that mail can be sent to")]
        raise InvalidArgument("FIELD_INVALID", "the address is not one of this channel", violations=violations)
    return address


def _values(asked: Contact, sealer: Sealer, *, address: str, code: str | None) -> dict[str, Any]:
    """Contact details as they are kept."""
    mailbox_id, channel = _named(asked.name)
    quiet = asked.quiet_hours if asked.HasField("quiet_hours") else None
    place: dict[str, Any] = {"mailbox_id": mailbox_id, "channel": channel}
    return place | {
        "address": sealed.seal(sealer, address, column=sealed.ADDRESS, **place),
        "language": asked.language,
        "quiet_start": time.fromisoformat(quiet.start_time) if quiet else None,
        "quiet_end": time.fromisoformat(quiet.end_time) if quiet else None,
        "code": sealed.seal(sealer, code, column=sealed.CODE, **place) if code else None,
        "code_expire_time": names.now() + rules.CODE_LIFE if code else None,
    }


def contact(row: Row, sealer: Sealer) -> Contact:
    """Contact details as their owner sees them."""
    channel = Channel(row["channel"])
    result = Contact(
        name=f"mailboxes/{row['mailbox_id']}/contacts/{channel.name.lower()}",
        language=row["language"],
        confirm_time=names.timestamp(row["confirm_time"]),
        code_expire_time=names.timestamp(row["code_expire_time"]),
        **{ADDRESSES[channel]: sealed.opened(sealer, row, sealed.ADDRESS)},  # type: ignore[arg-type]
    )
    if row["quiet_start"] is not None:
        result.quiet_hours.start_time = row["quiet_start"].strftime("%H:%M")
        result.quiet_hours.end_time = row["quiet_end"].strftime("%H:%M")
    return result


def _code_refused() -> FailedPrecondition:
    """The one answer to codes that do not confirm."""
    return FailedPrecondition("CONTACT_CODE_REFUSED", "the code is not the one sent last, or is good no more")
