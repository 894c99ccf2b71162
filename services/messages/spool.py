"""Makes the PDFs of letters, which print houses then claim.

Every process of the service takes part. A letter is claimed for a while, its
PDF made outside of the event loop, sealed and kept as an attachment that is
nobody's; where a process dies in between, another claims the letter again, and
what the first one wrote is forgotten. A letter that was stopped meanwhile
stays so. A letter that cannot be made has failed, and its sender is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from solmu.messages.v1 import messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import attachment_store, composing, course, deliveries, digests, letter_store, message_store
from services.messages.blobs import Blobs
from services.messages.profiles import PROFILES
from services.messages.servicers import courses, papers, units, views
from services.messages.servicers.courses import Move
from services.messages.typesetting import Head
from services.runtime.database import PASSING, Database, Row
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

logger = logging.getLogger(__name__)

Message = messages_pb2.Message

AT_ONCE = 2
"""Letters that one process makes at the same time; most of it is Python, which does one thing at a time."""

POLL_INTERVAL = 1.0
"""Seconds between two looks; what is to be printed is in no greater hurry."""

CLAIM = timedelta(seconds=30)
"""How long making one letter may take before another process tries; it takes milliseconds, of large files seconds."""

RETRY = timedelta(minutes=1)
"""Until the next try, times the tries so far."""

TRIES = 10
"""After which, within an hour, a letter counts as one that cannot be made."""

FORGOTTEN = timedelta(hours=24)
"""After which a PDF that a process left behind is deleted."""


@dataclass(frozen=True)
class Made:
    """A letter's PDF."""

    content: bytes
    page_count: int


class Spool:
    """Makes letters."""

    def __init__(self, *, database: Database, blobs: Blobs, vault: Vault, outbox: Outbox) -> None:
        self._database = database
        self._blobs = blobs
        self._vault = vault
        self._outbox = outbox

    async def run(self) -> None:
        """Makes letters for as long as the process runs."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            try:
                while await self.next(now=datetime.now(UTC)):
                    pass
            except PASSING as error:
                logger.warning("the spool waits", extra={"error": type(error).__qualname__})
            await asyncio.sleep(POLL_INTERVAL)

    async def next(self, *, now: datetime) -> bool:
        """Makes the letter that has waited longest. False: none waits."""
        row = await letter_store.claim_composing(self._database, now=now, until=now + CLAIM)
        if row is None:
            return False
        message_id: UUID = row["message_id"]
        if row["data_key"] is None:  # the mailbox has been erased
            await self._fail(message_id, now=now)
            return True
        attached = await attachment_store.attachments_of(self._database, [message_id])
        try:
            made = await asyncio.to_thread(self._make, row, attached)
        except Exception as error:  # noqa: BLE001  # whatever a PDF does to a library; its text may hold the letter's
            logger.warning("a letter was not made", extra={"letter": message_id, "error": type(error).__qualname__})
            if row["attempts"] >= TRIES:
                await self._fail(message_id, now=now)
            else:
                await letter_store.postpone(self._database, message_id, until=now + RETRY * row["attempts"])
            return True
        await self._keep(message_id, made, now=now)
        return True

    def _make(self, row: Row, attached: Sequence[Row]) -> Made:
        content = Message.FromString(views.opened(row, vault=self._vault))
        options = content.paper.options
        head = None if options.has_address_page else self._head(row, content)
        printed = [one for one in attached if papers.goes_on_paper(views.attached(one, vault=self._vault))]

        with ExitStack() as stack:
            files = [
                stack.enter_context(
                    self._blobs.opened(
                        one["blob_id"],
                        views.blob_sealer(one, vault=self._vault),
                        size=one["size_bytes"],
                    )
                )
                for one in printed
            ]
            return Made(*composing.letter(head, papers.texts(content), files, single_sided=options.single_sided))

    def _head(self, row: Row, content: Message) -> Head:
        profile = PROFILES[row["legal_profile"]]
        to = content.paper.address
        if row["address"] is not None:
            sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
            to = types_pb2.PostalAddress.FromString(
                sealer.open(row["address"], context=papers.address_context(row["message_id"]))
            )
        language = content.bodies[0].language if content.bodies else ""
        sender = units.display_name(row["display_names"], language=language)
        returned = [sender]
        if content.paper.HasField("return_address"):
            returned = papers.address(content.paper.return_address).return_lines(home=profile.country)
        day = row["create_time"].astimezone(profile.zone)
        return Head(
            address=papers.address(to).lines(home=profile.country),
            sender=sender,
            return_address=returned,
            references=[f"{day.day}.{day.month}.{day.year}", content.case_reference.case_id],
        )

    async def _keep(self, message_id: UUID, made: Made, *, now: datetime) -> None:
        attachment_id = new_id()
        name = f"attachments/{attachment_id}"
        data_key = self._vault.new_key(owner=name)
        sealer = self._vault.sealer(data_key, owner=name)
        await letter_store.insert_file(
            self._database,
            attachment_id=attachment_id,
            owner=f"letters/{message_id}",
            data_key=data_key,
            now=now,
            expire_time=now + FORGOTTEN,
        )
        async with self._blobs.writer(attachment_id, sealer) as writer:
            await writer.append(made.content)
            await writer.finish()
            digest = writer.digest
        kept = await letter_store.set_composed(
            self._database,
            message_id,
            attachment_id=attachment_id,
            file_name=sealer.seal(b"letter.pdf", context=f"{name}/name"),
            size=len(made.content),
            digest=digests.sealed(digest, attachment_id=attachment_id, sealer=sealer),
            page_count=made.page_count,
            now=now,
        )
        if not kept:
            await self._blobs.delete(attachment_id)
            return
        TRANSACTIONS.labels("letter", "out").inc()

    async def _fail(self, message_id: UUID, *, now: datetime) -> None:
        async with self._database.transaction() as transaction:
            row = await message_store.hold(transaction, message_id)
            assert row is not None
            (before,) = await courses.of(transaction, [row])
            if before.letter is None or before.letter.state is not deliveries.State.QUEUED:
                return
            after = course.reported(before, deliveries.State.FAILED, time=now, now=now)
            await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
        self._outbox.wake()
