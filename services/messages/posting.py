"""Posts the events of feeds to webhooks, each feed in its order.

A webhook is claimed by one process at a time; its events are posted one after
another, and the next only when the one before was taken or has become a dead
letter. A post may be repeated after a crash: receivers know an event by its id.

The host of an address is looked up with every connection, and only public
addresses are connected to; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from google.protobuf import json_format
from solmu.messages.v1 import feed_pb2

from services.messages import webhook_store, webhooks
from services.messages.feed import POLL_INTERVAL, Feed, sequence
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.ids import new_id
from services.runtime.sealing import Vault

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Webhooks that one process posts to at the same time."""

BATCH = 100
"""Events posted to one webhook before another has its turn."""

POST_SECONDS = 10.0
"""For one post, from the look-up of the host to the status of the answer."""

CLAIM = timedelta(seconds=60)
"""How long a process may be silent about a webhook that it has claimed: several posts."""

PAUSE = 0.02
"""Seconds after news in which more may come: events arrive in crowds."""

ACTIVE, SUSPENDED = 1, 2


class PublicOnly(AbstractResolver):
    """Looks hosts up, and finds only those with public addresses."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host. Raises OSError where one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        if not all(webhooks.public(one["host"]) for one in found):
            raise OSError("a private address")
        return found

    async def close(self) -> None:
        """Nothing to close."""


class Posting:
    """Posts events. `origin` is the edge's; `private` lets posts go to private addresses, for tests."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        vault: Vault,
        origin: str,
        private: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._database = database
        self._feed = feed
        self._vault = vault
        self._origin = origin
        self._private = private
        self._context = context or ssl.create_default_context()

    async def run(self) -> None:
        """Posts for as long as the process runs."""
        resolver = None if self._private else PublicOnly()
        connector = aiohttp.TCPConnector(ssl=self._context, resolver=resolver, use_dns_cache=False)
        timeout = aiohttp.ClientTimeout(total=POST_SECONDS)
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            turns: set[asyncio.Task[None]] = set()
            while True:
                news = self._feed.news()
                turn = await self._turn(session) if len(turns) < AT_ONCE else None
                if turn is not None:
                    turns.add(group.create_task(turn.take()))
                    continue
                woken = group.create_task(news.wait())
                await asyncio.wait({woken, *turns}, timeout=POLL_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                turns = {turn for turn in turns if not turn.done()}
                await asyncio.sleep(PAUSE)

    async def next(self, session: aiohttp.ClientSession, *, now: datetime) -> bool:
        """Posts what waits for one webhook. False: nothing waits."""
        claim = uuid4()
        webhook = await webhook_store.claim(self._database, claim=claim, now=now, until=now + CLAIM)
        if webhook is not None:
            await _Turn(self, session, webhook, claim).all()
        return webhook is not None

    async def _turn(self, session: aiohttp.ClientSession) -> _Turn | None:
        claim, now = uuid4(), datetime.now(UTC)
        try:
            webhook = await webhook_store.claim(self._database, claim=claim, now=now, until=now + CLAIM)
        except PASSING as error:
            _waits(error)
            return None
        return _Turn(self, session, webhook, claim) if webhook is not None else None

    async def send(self, session: aiohttp.ClientSession, webhook: Row, event: feed_pb2.Event) -> int:
        """Posts one event; the HTTP status, or 0 where none came. It was taken if that is 200 to 299."""
        owner = f"webhooks/{webhook['webhook_id']}"
        secret = self._vault.sealer(webhook["data_key"], owner=owner).open(webhook["secret"], context=owner)
        body = json.dumps(self.cloud_event(webhook["unit_id"], event), separators=(",", ":")).encode()
        headers = webhooks.headers(body, event_id=event.id, secret=secret, now=datetime.now(UTC))
        try:
            webhooks.check_address(webhook["uri"], private=self._private)
            async with session.post(webhook["uri"], data=body, headers=headers, allow_redirects=False) as answer:
                return answer.status
        except (aiohttp.ClientError, InvalidArgument, OSError, ValueError) as error:
            logger.info("a post failed", extra={"webhook": owner, "error": type(error).__qualname__})
            return 0

    def cloud_event(self, unit_id: str, event: feed_pb2.Event) -> dict[str, Any]:
        """An event as CloudEvents 1.0 has it, with the feed's event as its data."""
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": f"{self._origin}/v1/units/{unit_id}",
            "type": f"solmu.messages.{event.type}",
            "subject": event.message,
            "time": event.time.ToJsonString(),
            "datacontenttype": "application/json",
            "data": json_format.MessageToDict(event),
        }

    @property
    def database(self) -> Database:
        """The service's database."""
        return self._database

    @property
    def feed(self) -> Feed:
        """The feeds."""
        return self._feed


class _Turn:
    """One turn of one webhook."""

    def __init__(self, posting: Posting, session: aiohttp.ClientSession, webhook: Row, claim: UUID) -> None:
        self._posting = posting
        self._database = posting.database
        self._session = session
        self._webhook = webhook
        self._webhook_id: UUID = webhook["webhook_id"]
        self._claim = claim

    async def take(self) -> None:
        """Posts what waits; where the database is away the turn ends, and the claim runs out."""
        try:
            await self.all()
        except PASSING as error:
            _waits(error)

    async def all(self) -> None:
        """Posts what waits, and frees the webhook where there is no reason to hold it."""
        if await self.replay() and await self.go_on():
            await webhook_store.free(self._database, self._webhook_id, claim=self._claim, now=datetime.now(UTC))

    async def replay(self) -> bool:
        """Posts the dead letters that were asked for again, each once. True: go on with the feed."""
        for letter in await webhook_store.to_replay(self._database, self._webhook_id, limit=BATCH):
            event = feed_pb2.Event.FromString(letter["event"])
            status = await self._posting.send(self._session, self._webhook, event)
            await webhook_store.set_replayed(
                self._database,
                letter["dead_letter_id"],
                succeeded=_taken(status),
                status=status,
                now=datetime.now(UTC),
            )
            until = datetime.now(UTC) + CLAIM
            if not await webhook_store.keep(self._database, self._webhook_id, claim=self._claim, until=until):
                return False
        return True

    async def go_on(self) -> bool:
        """Posts the next events of the feed. False: the webhook is not to be freed at once."""
        unit_id, after = self._webhook["unit_id"], self._webhook["sequence"]
        try:
            events, last = await self._posting.feed.page(unit_id, after=after, size=BATCH, types=self._webhook["types"])
        except FailedPrecondition as expired:  # suspended for longer than events are kept
            oldest = sequence(expired.metadata["oldest"], unit=unit_id)
            return await self._hold(oldest, succeeded=False)
        attempts = self._webhook["attempts"]
        for event in events:
            status = await self._posting.send(self._session, self._webhook, event)
            place = sequence(event.cursor, unit=unit_id)
            if _taken(status):
                attempts = 0
                if not await self._hold(place, succeeded=True):
                    return False
            else:
                return await self._failed(event, place, attempts=attempts + 1, status=status)
        return await self._hold(last, succeeded=bool(events))

    async def _hold(self, place: int, *, succeeded: bool) -> bool:
        """Records how far it is, and keeps the webhook; False where another process has it by now."""
        until = datetime.now(UTC) + CLAIM
        return await webhook_store.set_posted(
            self._database, self._webhook_id, claim=self._claim, sequence=place, succeeded=succeeded, until=until
        )

    async def _failed(self, event: feed_pb2.Event, place: int, *, attempts: int, status: int) -> bool:
        now, wait = datetime.now(UTC), webhooks.next_try(attempts)
        if wait is not None and status != 410:
            await webhook_store.set_failed(
                self._database, self._webhook_id, claim=self._claim, attempts=attempts, due=now + wait
            )
            return False
        gone = webhooks.suspended(self._webhook["failures"] + 1, status=status)
        async with self._database.transaction() as transaction:
            buried = await webhook_store.bury(
                transaction,
                self._webhook_id,
                claim=self._claim,
                sequence=place,
                dead_letter_id=new_id(),
                event=event.SerializeToString(),
                attempts=attempts,
                status=status,
                state=SUSPENDED if gone else ACTIVE,
                now=now,
            )
        host = urlsplit(self._webhook["uri"]).hostname
        logger.warning(
            "webhook suspended" if gone else "dead letter of a webhook",
            extra={"webhook": str(self._webhook_id), "host": host, "status": status},
        )
        return buried


def _waits(error: BaseException) -> None:
    logger.warning("posting waits", extra={"error": type(error).__qualname__})


def _taken(status: int) -> bool:
    return 200 <= status < 300
