"""FeedService: what happened to a unit's messages, as pages, as a stream and as webhooks."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from uuid import UUID

from solmu.messages.v1 import feed_pb2

from services.messages import webhook_store, webhooks
from services.messages.feed import Feed, cursor, sequence
from services.messages.servicers import names
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, Fault, not_found
from services.runtime.ids import new_id
from services.runtime.sealing import Vault

Webhook = feed_pb2.Webhook

DEFAULT_SIZE = 100
"""Events on a page where the caller does not say."""


class Feeds:
    """Shows a unit its feed."""

    def __init__(
        self, *, database: Database, feed: Feed, revoked: Callable[[str], bool], vault: Vault, private_webhooks: bool
    ) -> None:
        self._database = database
        self._vault = vault
        self._private = private_webhooks
        self._feed = feed
        self._revoked = revoked

    async def ListEvents(self, request: feed_pb2.ListEventsRequest) -> feed_pb2.ListEventsResponse:
        """The events after a cursor."""
        unit = names.part(request.parent, 1)
        await names.own_unit(self._database, unit)
        after = sequence(request.cursor, unit=unit)
        size = pages.size(request.page_size, DEFAULT_SIZE)
        events, last = await self._feed.page(unit, after=after, size=size, types=request.types)
        return feed_pb2.ListEventsResponse(events=events, next_cursor=cursor(unit, last))

    async def StreamEvents(self, request: feed_pb2.StreamEventsRequest) -> AsyncGenerator[feed_pb2.Event]:
        """The events after a cursor, and then each as it happens, for as long as the caller may see them."""
        unit = names.part(request.parent, 1)
        await names.own_unit(self._database, unit)
        caller, after = identity.caller(), sequence(request.cursor, unit=unit)

        def ended() -> Fault | None:
            return identity.still_valid(caller, revoked=self._revoked)

        async for event in self._feed.stream(unit, after=after, types=request.types, ended=ended):
            yield event

    async def CreateWebhook(self, request: feed_pb2.CreateWebhookRequest) -> Webhook:
        """Makes a webhook, from the next event on; its secret is in this answer and in none after it."""
        unit_id, asked = names.part(request.parent, 1), request.webhook
        await names.own_unit(self._database, unit_id)
        webhooks.check_address(asked.uri, private=self._private)
        webhook_id, secret = new_id(), secrets.token_bytes(webhooks.SECRET_BYTES)
        owner = f"webhooks/{webhook_id}"
        data_key = self._vault.new_key(owner=owner)
        row = await webhook_store.insert(
            self._database,
            webhook_id=webhook_id,
            unit_id=unit_id,
            uri=asked.uri,
            types=list(asked.types),
            secret=self._vault.sealer(data_key, owner=owner).seal(secret, context=owner),
            data_key=data_key,
            most=webhooks.MAX_WEBHOOKS,
            now=names.now(),
        )
        if row is None:
            raise FailedPrecondition("WEBHOOK_LIMIT", f"the unit has {webhooks.MAX_WEBHOOKS} webhooks already")
        made = _webhook(row)
        made.signing_secret = webhooks.shown(secret)
        return made

    async def GetWebhook(self, request: feed_pb2.GetWebhookRequest) -> Webhook:
        """A webhook of a unit of the caller's organisation."""
        return _webhook(await self._own(request.name))

    async def ListWebhooks(self, request: feed_pb2.ListWebhooksRequest) -> feed_pb2.ListWebhooksResponse:
        """A unit's webhooks."""
        unit_id = names.part(request.parent, 1)
        await names.own_unit(self._database, unit_id)
        rows = await webhook_store.webhooks_of(self._database, unit_id)
        return feed_pb2.ListWebhooksResponse(webhooks=[_webhook(row) for row in rows])

    async def DeleteWebhook(self, request: feed_pb2.DeleteWebhookRequest) -> Webhook:
        """Deletes a webhook with its dead letters."""
        row = await self._own(request.name)
        deleted = await webhook_store.delete(self._database, row["unit_id"], row["webhook_id"])
        if deleted is None:
            raise not_found(request.name)
        return _webhook(deleted)

    async def ListDeadLetters(self, request: feed_pb2.ListDeadLettersRequest) -> feed_pb2.ListDeadLettersResponse:
        """The events that could not be posted, in the feed's order."""
        row = await self._own(request.parent)
        key = pages.key(request.page_token, question=request.parent)
        size = pages.size(request.page_size)
        after = int(key) if key else 0
        rows = await webhook_store.dead_letters(self._database, row["webhook_id"], after=after, limit=size + 1)
        response = feed_pb2.ListDeadLettersResponse(
            dead_letters=[
                feed_pb2.DeadLetter(
                    name=f"{request.parent}/deadLetters/{letter['dead_letter_id']}",
                    event=feed_pb2.Event.FromString(letter["event"]),
                    attempts=letter["attempts"],
                    last_status=letter["last_status"],
                    last_attempt_time=names.timestamp(letter["last_attempt_time"]),
                )
                for letter in rows[:size]
            ]
        )
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["sequence"]), question=request.parent)
        return response

    async def ReplayDeadLetters(self, request: feed_pb2.ReplayDeadLettersRequest) -> feed_pb2.ReplayDeadLettersResponse:
        """Has dead letters posted again, each once, before anything else; a suspended webhook goes on."""
        row = await self._own(request.parent)
        asked: list[UUID] = []
        for index, name in enumerate(request.names):
            if not name.startswith(f"{request.parent}/deadLetters/"):
                raise not_found(name)
            asked.append(names.uid(name, 5, field=f"names[{index}]"))
        count = await webhook_store.replay(self._database, row["webhook_id"], asked, now=names.now())
        return feed_pb2.ReplayDeadLettersResponse(count=count)

    async def _own(self, name: str) -> Row:
        unit_id, webhook_id = names.part(name, 1), names.uid(name, 3)
        await names.own_unit(self._database, unit_id)
        row = await webhook_store.webhook(self._database, unit_id, webhook_id)
        if row is None:
            raise not_found(name)
        return row


def _webhook(row: Row) -> Webhook:
    return Webhook(
        name=f"units/{row['unit_id']}/webhooks/{row['webhook_id']}",
        uri=row["uri"],
        types=row["types"],
        state=row["state"],
        cursor=cursor(row["unit_id"], row["sequence"]),
        create_time=names.timestamp(row["create_time"]),
    )
