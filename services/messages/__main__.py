"""The messages service: `python -m services.messages`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from solmu.messages.v1 import (
    attachments_pb2,
    contacts_pb2,
    feed_pb2,
    inbox_pb2,
    letters_pb2,
    mailboxes_pb2,
    messages_pb2,
    numbers_pb2,
    templates_pb2,
    units_pb2,
)

from services.messages import clock, digests, disposal, housekeeping
from services.messages.abroad import parcels, planning
from services.messages.abroad.assembly import Abroad
from services.messages.acting import Acting, theme
from services.messages.blob_settings import AttachmentSettings
from services.messages.blobs import Blobs
from services.messages.clamd import Clamd, place
from services.messages.deaths import Deaths
from services.messages.exporting import Exporting
from services.messages.feed import Feed, enter
from services.messages.notifications import sending as notifications
from services.messages.notifications import settings as notification_settings
from services.messages.notifications.sending import Manner
from services.messages.notifications.settings import NotificationSettings
from services.messages.posting import Posting
from services.messages.scanning import Scanning
from services.messages.servicers.attachments import Attachments
from services.messages.servicers.contacts import Contacts
from services.messages.servicers.feed import Feeds
from services.messages.servicers.inbox import Inbox
from services.messages.servicers.letters import Letters
from services.messages.servicers.mailboxes import Mailboxes
from services.messages.servicers.messages import Messages
from services.messages.servicers.numbers import Numbers
from services.messages.servicers.templates import Templates
from services.messages.servicers.units import Units
from services.messages.spool import Spool
from services.runtime import config, foundation, start_checks
from services.runtime.client import Peer
from services.runtime.config import Address, ServiceSettings, setting
from services.runtime.consumer import Consumer
from services.runtime.database import Connection
from services.runtime.facts.checks import Checks
from services.runtime.jetstream import Received
from services.runtime.keys.files import KeyFile
from services.runtime.keys.files import read as key_file
from services.runtime.keys.root import Root
from services.runtime.keys.setting import root_setting
from services.runtime.parties import PartyNames
from services.runtime.server import run


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings, AttachmentSettings, NotificationSettings):
    """What the messages service reads."""

    authorisations: Address = setting("SOLMU_AUTHORISATIONS", config.address, doc="host:port of authorisations")
    root_key: Root = root_setting()
    party_key: KeyFile = setting(
        "SOLMU_PARTY_KEY", key_file, doc="file of the key that turns identity codes into names"
    )
    clamd: Address | Path | None = setting(
        "SOLMU_CLAMD", place, default=None, doc="host:port of clamd, or unix: and its socket; attachments wait for it"
    )
    exchange: Address | None = setting(
        "SOLMU_EXCHANGE", config.address, default=None, doc="host:port of exchange, for mailboxes on other nodes"
    )
    mailbox_nodes: tuple[str, ...] = setting(
        "SOLMU_MAILBOX_NODES",
        parcels.nodes,
        default=(),
        doc="subsystems of nodes that are asked for mailboxes that are not here: FI/COM/2/solmu,FI/COM/3/solmu",
    )
    mail_theme: str = setting(
        "SOLMU_MAIL_THEME",
        theme,
        default="themes/mail",
        doc="theme of the mandates by which others may read and write a party's mail",
    )
    private_webhooks: bool = setting(
        "SOLMU_PRIVATE_WEBHOOKS", config.flag, default=False, doc="yes: post webhooks to private addresses, for tests"
    )
    test_mode: bool = setting("SOLMU_TEST_MODE", config.flag, default=False, doc="yes: take test identity codes")


async def follow(transaction: Connection, events: Sequence[Received]) -> None:
    """What follows from this service's own events: the senders' feeds, word to other nodes, notifications."""
    await enter(transaction, events)
    await planning.follow(transaction, events)
    await notifications.plan(transaction, events)


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Wires the service and serves."""
    settings = config.read(Settings)
    base = await foundation.lay(
        "messages",
        settings,
        stop=stop,
        stack=stack,
        fetch_keys=foundation.keys_from(settings.authorisations, settings),
        own=follow,
    )
    database, outbox = base.database, base.outbox
    vault = await foundation.vault(base, settings.root_key)
    party_key = await settings.party_key.opened(settings.root_key)
    await start_checks.check_key(database, "SOLMU_PARTY_KEY", party_key)
    parties = PartyNames(key=party_key, test_mode=settings.test_mode)
    authorisations = Peer(
        name="authorisations", address=settings.authorisations, files=settings.tls, telemetry=base.telemetry
    )
    checks = Checks(authorisations=authorisations, themes=(settings.mail_theme,))
    base.tasks.start(checks.run())
    acting = Acting(checks=checks, authorisations=authorisations, theme=settings.mail_theme)
    blobs = Blobs(await asyncio.to_thread(settings.store))
    await disposal.check_there(database, blobs)

    feed = Feed(database=database, nats=base.nats)
    await feed.listen()
    outbox.relayed.append(feed.written)
    base.consume(
        foundation.revocation_consumer(base, service="messages", also=Deaths(outbox=outbox, vault=vault).handle)
    )
    base.tasks.start(housekeeping.run(database=database, outbox=outbox))
    base.tasks.start(digests.run(database=database, vault=vault))
    base.tasks.start(disposal.run(database=database, blobs=blobs))
    base.tasks.start(clock.run(database=database, outbox=outbox))

    posting = Posting(
        database=database, feed=feed, vault=vault, origin=settings.issuer, private=settings.private_webhooks
    )
    base.tasks.start(posting.run())

    ports = notification_settings.ports(settings)
    manner = Manner(language=settings.language, portal=settings.portal, zone=settings.zone)
    notifying = notifications.Sending(database=database, outbox=outbox, vault=vault, ports=ports, manner=manner)
    base.tasks.start(notifying.run())

    base.tasks.start(Exporting(database=database, blobs=blobs, vault=vault).run())

    base.tasks.start(Spool(database=database, blobs=blobs, vault=vault, outbox=outbox).run())

    scanning = None
    if settings.clamd is not None:
        clamd = Clamd(settings.clamd)
        scanning = Scanning(database=database, blobs=blobs, vault=vault, outbox=outbox, clamd=clamd)
        base.tasks.start(scanning.run())

    feeds = Feeds(
        database=database,
        feed=feed,
        revoked=base.revocations.revoked,
        vault=vault,
        private_webhooks=settings.private_webhooks,
    )
    inbox = Inbox(database=database, feed=feed, outbox=outbox, vault=vault)
    mailboxes = Mailboxes(database=database, outbox=outbox, parties=parties, vault=vault, acting=acting)
    attachments = Attachments(
        database=database, blobs=blobs, inbox=inbox, outbox=outbox, vault=vault, scanning=scanning
    )
    messages = Messages(
        database=database,
        blobs=blobs,
        feed=feed,
        outbox=outbox,
        parties=parties,
        vault=vault,
        nodes=settings.mailbox_nodes if settings.exchange is not None else (),
    )
    if settings.exchange is not None:
        abroad = Abroad(
            database=database,
            feed=feed,
            outbox=outbox,
            vault=vault,
            blobs=blobs,
            exchange=Peer(name="exchange", address=settings.exchange, files=settings.tls, telemetry=base.telemetry),
            mailboxes=mailboxes,
            attachments=attachments,
            messages=messages,
        )
        outbox.relayed.append(abroad.wake)
        base.consume(
            Consumer(
                service="messages",
                publisher="exchange",
                database=database,
                nats=base.nats,
                handle=abroad.handle,
                telemetry=base.telemetry,
                committed=abroad.wake,
            )
        )
        base.tasks.start(abroad.run())
    contract = (
        (units_pb2, "UnitService", Units(database=database, parties=parties)),
        (mailboxes_pb2, "MailboxService", mailboxes),
        (attachments_pb2, "AttachmentService", attachments),
        (messages_pb2, "MessageService", messages),
        (inbox_pb2, "InboxService", inbox),
        (contacts_pb2, "ContactService", Contacts(database=database, vault=vault, channels=ports)),
        (feed_pb2, "FeedService", feeds),
        (letters_pb2, "LetterService", Letters(database=database, outbox=outbox, vault=vault)),
        (templates_pb2, "TemplateService", Templates(database=database)),
        (numbers_pb2, "NumberService", Numbers(database=database)),
    )
    for module, name, servicer in contract:
        base.server.add(module.DESCRIPTOR.services_by_name[name], servicer, judge=acting.right)
    await base.server.run(stop)


if __name__ == "__main__":
    run(main)
