"""Everything about mailboxes on other nodes, put together, and run by one process of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from solmu.exchange.v1 import events_pb2

from services.messages.abroad.courier import Courier
from services.messages.abroad.guests import Guests
from services.messages.abroad.hearing import Hearing
from services.messages.abroad.news import News
from services.messages.abroad.receiving import Receiving
from services.messages.blobs import Blobs
from services.messages.feed import Feed
from services.messages.servicers.attachments import Attachments
from services.messages.servicers.mailboxes import Mailboxes
from services.messages.servicers.messages import Messages
from services.runtime.client import Peer
from services.runtime.database import PASSING, Connection, Database
from services.runtime.errors import Fault
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks for what is due to be said."""

RECEIVE_INTERVAL = 15.0
"""Seconds between two looks for what has come, where no event says that something has."""

WAITS: tuple[type[Exception], ...] = (Fault, *PASSING)
"""What passes: the exchange, or the database, is away, or the node is in no mesh yet."""

RETRY_INTERVAL = 2.0
"""Seconds until the next try while the database or the exchange is away."""


class Abroad:
    """Says what is to be said to other nodes, and takes what comes from there."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        outbox: Outbox,
        vault: Vault,
        blobs: Blobs,
        exchange: Peer,
        mailboxes: Mailboxes,
        attachments: Attachments,
        messages: Messages,
    ) -> None:
        self._database = database
        self._hearing = Hearing(outbox=outbox)
        self.courier = Courier(
            database=database, outbox=outbox, vault=vault, blobs=blobs, exchange=exchange, hearing=self._hearing
        )
        self.receiving = Receiving(
            exchange=exchange,
            guests=Guests(database=database, mailboxes=mailboxes, attachments=attachments, messages=messages),
            news=News(
                database=database,
                feed=feed,
                outbox=outbox,
                vault=vault,
                hearing=self._hearing,
                attachments=attachments,
            ),
        )
        self._due = asyncio.Event()
        self._come = asyncio.Event()

    async def handle(self, transaction: Connection, events: Sequence[Received]) -> None:
        """Takes events of the exchange."""
        await self._hearing.settled(transaction, events)
        if any(event.type == events_pb2.EnvelopeArrived.DESCRIPTOR.full_name for event in events):
            self._come.set()

    async def wake(self) -> None:
        """Says that there may be something to be said."""
        self._due.set()

    async def run(self) -> None:
        """Works for as long as the process runs; waits while another process does."""
        while True:
            try:
                async with self._database.leading("abroad") as lead, asyncio.TaskGroup() as group:
                    group.create_task(_turns(self.courier.turn, self._due, LOOK_INTERVAL, lead))
                    group.create_task(_turns(self.receiving.turn, self._come, RECEIVE_INTERVAL, lead))
            except PASSING as error:
                logger.warning("does not lead", extra={"error": type(error).__qualname__})
                await asyncio.sleep(RETRY_INTERVAL)


async def _turns(turn: Callable[[], Awaitable[bool]], news: asyncio.Event, interval: float, lead: Connection) -> None:
    """Takes turns, one after the other while there is something, then when there is news or an interval is over."""
    while not lead.is_closed():
        news.clear()
        try:
            while await turn():
                pass
            pause = interval
        except WAITS as error:
            logger.info(
                "waits", extra={"error": error.reason if isinstance(error, Fault) else type(error).__qualname__}
            )
            pause = RETRY_INTERVAL
        try:
            await asyncio.wait_for(news.wait(), pause)
        except TimeoutError:
            pass
