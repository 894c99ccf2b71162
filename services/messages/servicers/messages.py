"""MessageService: what a unit sends, and sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from solmu.messages.v1 import messages_pb2

from services.messages import attachment_store, course, letter_store, message_store
from services.messages.blobs import Blobs
from services.messages.course import Course
from services.messages.feed import Feed
from services.messages.servicers import accesses, courses, names, views
from services.messages.servicers.accepting import Accepting
from services.messages.servicers.courses import Move
from services.messages.servicers.papers import Papers
from services.runtime import pages
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import not_found
from services.runtime.gathering import MOST, in_order
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault

Message = messages_pb2.Message


class Messages:
    """Sends messages and shows them to the unit that sent them."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: Blobs,
        feed: Feed,
        outbox: Outbox,
        parties: PartyNames,
        vault: Vault,
        nodes: Sequence[str] = (),
    ) -> None:
        """`nodes` are those that are asked for mailboxes that are not here, by their subsystems."""
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._papers = Papers(database=database, blobs=blobs, vault=vault)
        self._accepting = Accepting(
            database=database,
            feed=feed,
            outbox=outbox,
            papers=self._papers,
            parties=parties,
            vault=vault,
            nodes=nodes,
            shown=self._shown,
        )

    async def SendMessage(self, request: messages_pb2.SendMessageRequest) -> Message:
        """Accepts a message and delivers it; a repeat returns the first result. Two round trips to the database."""
        return await self._accepting.one(request)

    async def SendMessages(
        self, requests: AsyncIterator[messages_pb2.SendMessagesRequest]
    ) -> AsyncIterator[messages_pb2.SendMessagesResponse]:
        """Sends each message of a stream, with a result of its own, in the stream's order."""
        index = 0
        async for response in in_order(self._answered, requests, size=_size):
            for result in response.results or [response]:
                result.index = index
                index += 1
            yield response

    async def _answered(self, request: messages_pb2.SendMessagesRequest) -> messages_pb2.SendMessagesResponse:
        if request.messages:
            return await self._accepting.many(request.messages)
        return await self._accepting.result(request.message)

    async def GetMessage(self, request: messages_pb2.GetMessageRequest) -> Message:
        """A message, for the unit that sent or received it."""
        unit_id = names.part(request.name, 1)
        await names.own_unit(self._database, unit_id)
        return await self._shown(unit_id, names.uid(request.name, 3), method="GetMessage")

    async def ListMessages(self, request: messages_pb2.ListMessagesRequest) -> messages_pb2.ListMessagesResponse:
        """A unit's messages, latest first, without their bodies."""
        unit_id = names.part(request.parent, 1)
        await names.own_unit(self._database, unit_id)
        question = f"{request.parent} {request.idempotency_key} {request.case_id} {request.direction}"
        key = pages.key(request.page_token, question=question)
        size = pages.size(request.page_size)
        rows = await message_store.messages_of_unit(
            self._database,
            unit_id,
            before=UUID(key) if key else None,
            idempotency_key=request.idempotency_key,
            case_id=request.case_id,
            direction=request.direction,
            limit=size + 1,
        )
        await accesses.record_page(self._database, unit_id, rows[:size], "ListMessages")
        response = messages_pb2.ListMessagesResponse()
        for row, known in zip(rows[:size], await courses.of(self._database, rows[:size]), strict=True):
            message = self._view(row, known, [])
            message.ClearField("bodies")
            response.messages.append(message)
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["message_id"]), question=question)
        return response

    async def WithdrawMessage(self, request: messages_pb2.WithdrawMessageRequest) -> Message:
        """Withdraws a message of the unit; withdrawing again changes nothing."""
        unit_id, now = names.part(request.name, 1), names.now()
        await names.own_unit(self._database, unit_id)
        message_id = names.uid(request.name, 3)
        async with self._database.transaction() as transaction:
            row, before = await _hold(transaction, request.name)
            after = course.withdrawn(before, now=now)
            if after is not before:
                await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
                if request.explanations and row["data_key"] is not None:
                    sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
                    explained = messages_pb2.WithdrawMessageRequest(explanations=request.explanations)
                    sealed = sealer.seal(explained.SerializeToString(), context=f"messages/{message_id}/withdrawal")
                    await message_store.write_withdrawal(transaction, message_id, withdrawal=sealed)
        self._outbox.wake()
        return await self._shown(unit_id, message_id, method="WithdrawMessage")

    async def SendOnPaper(self, request: messages_pb2.SendOnPaperRequest) -> Message:
        """Has a message of the unit sent on paper now, or its letter tried again that failed; else changes nothing.

        Where it cannot go to the address given now, because it goes to another, that is refused.
        """
        unit_id, message_id, now = names.part(request.name, 1), names.uid(request.name, 3), names.now()
        await names.own_unit(self._database, unit_id)
        async with self._database.transaction() as transaction:
            row, before = await _hold(transaction, request.name)
            after = course.sent_on_paper(before, now=now)
            if after is not before:
                again = before.letter is not None
                sealed = self._papers.address_for(request, row, before.profile, again=again)
                await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
                if sealed is not None:
                    await letter_store.set_address(transaction, message_id, address=sealed)
            elif request.HasField("address"):
                known = await letter_store.address(transaction, message_id)
                self._papers.check_goes_there(
                    request, row, known, state=after.letter.state.name if after.letter else ""
                )
        self._outbox.wake()
        return await self._shown(unit_id, message_id, method="SendOnPaper")

    async def _shown(self, unit_id: str, message_id: UUID, *, method: str) -> Message:
        """A message as it is now; that the unit looked at it is on record."""
        row = await message_store.message_of_unit(self._database, unit_id, message_id)
        if row is None:
            raise not_found(f"units/{unit_id}/messages/{message_id}")
        await accesses.record_unit(self._database, unit_id, row, method)
        (known,) = await courses.of(self._database, [row])
        return self._view(row, known, await attachment_store.attachments_of(self._database, [message_id]))

    def _view(self, row: Row, known: Course, attachments: list[Row]) -> Message:
        content = views.opened(row, vault=self._vault)
        return views.message(row, known, attachments, content=content, vault=self._vault)


def _size(asked: messages_pb2.SendMessagesRequest) -> int:
    """For how many messages a request counts: half of those under way at most, so that one is worked on beside it."""
    return min(len(asked.messages), MOST // 2) or 1


async def _hold(transaction: Connection, name: str) -> tuple[Row, Course]:
    """A message that the unit in its name has sent, locked, and where it is. Raises NotFound."""
    row = await message_store.hold(transaction, names.uid(name, 3))
    if row is None or row["unit_id"] != names.part(name, 1) or row["direction"] != Message.DIRECTION_OUTBOUND:
        raise not_found(name)
    (before,) = await courses.of(transaction, [row])
    return row, before
