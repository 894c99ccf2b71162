"""NumberService: messages by number, for adapters whose protocol has no other ids."""

from __future__ import annotations

from solmu.messages.v1 import numbers_pb2

from services.messages import number_store
from services.messages.servicers import names
from services.runtime.database import Database
from services.runtime.errors import not_found


class Numbers:
    """Numbers messages and finds them by number."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def NumberMessages(self, request: numbers_pb2.NumberMessagesRequest) -> numbers_pb2.NumberMessagesResponse:
        """The numbers of messages, those included that had none before."""
        message_ids = [names.uid(name, 3, field=f"names[{index}]") for index, name in enumerate(request.names)]
        found = await number_store.numbers(self._database, message_ids)
        if any(message_id not in found for message_id in message_ids):
            await number_store.number(self._database, message_ids)
            found = await number_store.numbers(self._database, message_ids)
        return numbers_pb2.NumberMessagesResponse(numbers=[found.get(message_id, 0) for message_id in message_ids])

    async def FindMessage(self, request: numbers_pb2.FindMessageRequest) -> numbers_pb2.FindMessageResponse:
        """The name of the message that has a number."""
        row = await number_store.numbered(self._database, request.number)
        if row is None:
            raise not_found(f"message {request.number}")
        return numbers_pb2.FindMessageResponse(name=f"units/{row['unit_id']}/messages/{row['message_id']}")
