"""The messages service in this process, on real engines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import pytest
from solmu.messages.v1 import mailboxes_pb2, units_pb2
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from services.messages import clock, disposal
from services.messages.__main__ import follow
from services.messages.acting import Acting, Represented
from services.messages.blob_folder import Folder
from services.messages.blobs import Blobs
from services.messages.feed import Feed
from services.messages.notifications.rules import Channel
from services.messages.servicers.attachments import Attachments
from services.messages.servicers.contacts import Contacts
from services.messages.servicers.feed import Feeds
from services.messages.servicers.inbox import Inbox
from services.messages.servicers.letters import Letters
from services.messages.servicers.mailboxes import Mailboxes
from services.messages.servicers.messages import Messages
from services.messages.servicers.templates import Templates
from services.messages.servicers.units import Units
from services.messages.spool import Spool
from services.runtime import identity, jetstream
from services.runtime.database import Database
from services.runtime.identity import Caller, Right
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import FIRST, Vault
from services.runtime.telemetry import Telemetry
from tests.engines import NODE, Engines

CITY = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="9999999-2")
_numbers = itertools.count(1)


class Rights:
    """What authorisations would answer: for whom a party may read mail."""

    def __init__(self) -> None:
        self.represented: dict[str, list[Represented]] = {}

    async def principals(self, caller: Caller, *, page_token: str, size: int) -> tuple[list[Represented], str]:
        """As `Acting.principals`."""
        start = int(page_token or 0)
        found = self.represented.get(caller.party, [])
        return found[start : start + size], str(start + size) if len(found) > start + size else ""


@dataclass
class Service:
    """The servicers, wired as in the process."""

    database: Database
    outbox: Outbox
    parties: PartyNames
    blobs: Blobs
    units: Units
    mailboxes: Mailboxes
    attachments: Attachments
    messages: Messages
    inbox: Inbox
    feeds: Feeds
    templates: Templates
    contacts: Contacts
    vault: Vault
    letters: Letters
    spool: Spool
    rights: Rights

    def act_as(self, party: str, client: str = "test") -> None:
        """Has the next calls made by this party."""
        identity.set_caller(Caller(service="edge", client_id=client, party=party, expires=4e9))

    def act_for(self, party: str, *, actor: str, right: Right) -> None:
        """Has the next calls made in a party's name, by a right that was found to be in force."""
        identity.set_caller(
            Caller(service="edge", client_id="test", party=party, actor=actor, right=right, expires=4e9)
        )

    @property
    def city(self) -> str:
        return self.parties.name_of(CITY)

    async def unit(self) -> str:
        """A new unit of the city."""
        self.act_as(self.city)
        request = units_pb2.CreateUnitRequest(
            unit_id=f"unit-{next(_numbers)}-{secrets.token_hex(3)}",
            unit=units_pb2.Unit(display_names=[LocalizedText(language="en", text="Permits")]),
        )
        return (await self.units.CreateUnit(request)).name

    async def resident(self) -> tuple[NationalIdentifier, str]:
        """A new resident with an open mailbox: identity code and mailbox."""
        identifier = person()
        self.act_as(self.parties.name_of(identifier))
        mailbox = await self.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
        return identifier, mailbox.name

    async def stored(self, attachment: str) -> list[int]:
        """The sizes of the segments of an attachment's blob, once what is nobody's has been deleted."""
        while await disposal.once(database=self.database, blobs=self.blobs, now=datetime.now(UTC)):
            pass
        return self.blobs._store.sizes(await self.blob_of(attachment))

    async def blob_of(self, attachment: str) -> UUID:
        """Under which id the content of an attachment lies."""
        blob = "select coalesce(blob_id, attachment_id) from attachment where attachment_id = $1"
        found: UUID = await self.database.fetchval(blob, UUID(attachment.split("/")[1]))
        return found

    async def pass_time(self, now: datetime) -> None:
        """Has everything happen that is due by a moment."""
        while await clock.once(database=self.database, outbox=self.outbox, now=now):
            pass


def person() -> NationalIdentifier:
    """A test identity code that was not used before."""
    number = next(_numbers)
    day, individual = divmod(number, 99)
    digits = f"{day % 28 + 1:02}{day // 28 % 12 + 1:02}50", f"{900 + individual:03}"
    check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int("".join(digits)) % 31]
    return NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=f"{digits[0]}-{digits[1]}{check}")


def organisation() -> NationalIdentifier:
    """A business id that was not used before."""
    while True:
        digits = f"{3_000_000 + next(_numbers):07}"
        rest = sum(int(digit) * weight for digit, weight in zip(digits, (7, 9, 10, 5, 8, 4, 2), strict=True)) % 11
        if rest != 1:  # such numbers are not given out
            value = f"{digits}-{(11 - rest) % 11}"
            return NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value=value)


@pytest.fixture(scope="session")
async def service(
    engines: Engines, messages_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """The service, its outbox relayed and its feed fed."""
    telemetry, vault = Telemetry(), Vault({FIRST: secrets.token_bytes(32)}, current=FIRST)
    parties = PartyNames(key=secrets.token_bytes(32), test_mode=True)
    nats = await jetstream.connect(f"tls://{engines.nats}", service="messages", files=engines.identity("messages"))
    await jetstream.declare(nats, "messages", replicas=1)
    outbox = Outbox(
        database=messages_database, nats=nats, node=NODE, service="messages", telemetry=telemetry, own=follow
    )
    feed = Feed(database=messages_database, nats=nats)
    await feed.listen()
    outbox.relayed.append(feed.written)
    relay = asyncio.create_task(outbox.relay())
    blobs = Blobs(Folder(tmp_path_factory.mktemp("attachments")))
    inbox = Inbox(database=messages_database, feed=feed, outbox=outbox, vault=vault)
    rights = Rights()
    yield Service(
        database=messages_database,
        outbox=outbox,
        parties=parties,
        blobs=blobs,
        units=Units(database=messages_database, parties=parties),
        mailboxes=Mailboxes(
            database=messages_database, outbox=outbox, parties=parties, vault=vault, acting=cast("Acting", rights)
        ),
        attachments=Attachments(
            database=messages_database, blobs=blobs, inbox=inbox, outbox=outbox, vault=vault, scanning=None
        ),
        messages=Messages(
            database=messages_database, blobs=blobs, feed=feed, outbox=outbox, parties=parties, vault=vault
        ),
        inbox=inbox,
        feeds=Feeds(database=messages_database, feed=feed, revoked=lambda _: False, vault=vault, private_webhooks=True),
        templates=Templates(database=messages_database),
        contacts=Contacts(database=messages_database, vault=vault, channels=set(Channel)),
        vault=vault,
        letters=Letters(database=messages_database, outbox=outbox, vault=vault),
        spool=Spool(database=messages_database, blobs=blobs, vault=vault, outbox=outbox),
        rights=rights,
    )
    relay.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await relay
    await nats.close()


@pytest.fixture
def tables(messages_database: Database) -> Callable[[], object]:
    """How many rows each table of the service holds, and how many events there are, waiting or in feeds."""

    async def count() -> dict[str, int]:
        names = ("unit", "mailbox", "attachment", "message", "message_attachment", "delivery")
        counts = {name: await messages_database.fetchval(f"select count(*) from {name}") for name in names}
        events = "select (select count(*) from outbox) + (select count(*) from feed_event)"
        return counts | {"event": await messages_database.fetchval(events)}

    return count
