"""WatchService: lets a consumer hold the facts and judge checks by itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from solmu.authorisations.v1 import watch_pb2
from solmu.authorisations.v1.watch_pb2 import WatchResponse

from services.authorisations import messages, revision_store
from services.authorisations.fact_stream import FactStream
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.facts.tokens import token


class WatchServicer:
    """Answers WatchService. `revoked` says whether a client is."""

    def __init__(self, *, database: Database, stream: FactStream, revoked: Callable[[str], bool]) -> None:
        self._database = database
        self._stream = stream
        self._revoked = revoked

    async def GetHead(self, _: watch_pb2.GetHeadRequest) -> watch_pb2.Head:
        """Returns the newest revision, and the oldest from which a watch can go on."""
        head = await revision_store.head(self._database)
        oldest = await revision_store.oldest(self._database)
        return watch_pb2.Head(
            consistency_token=token(head.epoch, head.revision),
            oldest_consistency_token=token(head.epoch, oldest - 1),
            commit_time=messages.timestamp(head.commit_time),
        )

    async def Watch(self, request: watch_pb2.WatchRequest) -> AsyncGenerator[WatchResponse]:
        """Streams the facts, where no position is given, and then every change of them."""
        caller = identity.caller()
        async with contextlib.aclosing(self._stream.watch(request)) as parts:
            async for part in parts:
                if (fault := identity.still_valid(caller, revoked=self._revoked)) is not None:
                    raise fault
                yield part
