"""FeedService: what happened to a unit's messages, as pages and as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from solmu.messages.v1 import feed_pb2

from services.messages.feed import Feed, cursor, sequence
from services.messages.servicers import names
from services.runtime import identity, pages
from services.runtime.database import Database
from services.runtime.errors import Fault

DEFAULT_SIZE = 100
"""Events on a page where the caller does not say."""


class Feeds:
    """Shows a unit its feed."""

    def __init__(self, *, database: Database, feed: Feed, revoked: Callable[[str], bool]) -> None:
        self._database = database
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
