"""A print house and its letters, for tests of one service."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pikepdf
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import letters_pb2, messages_pb2
from solmu.types.v1.types_pb2 import PostalAddress

from tests.integration.messages.conftest import Service, person
from tests.integration.messages.test_attachments import download, reserve, upload
from tests.integration.messages.test_sending import request

Letter = letters_pb2.Letter
Message = messages_pb2.Message
Paper = messages_pb2.PaperPolicy
State = messages_pb2.Delivery.State
DAY = timedelta(days=1)

HOME = PostalAddress(
    recipient_name="Aino Ántá",
    street_address="Kotikatu 1 A 2",
    postal_code="00100",
    locality="HELSINKI",
    country_code="FI",
)
PRINT_HOUSE, OTHER_HOUSE = "organisations/print-house", "organisations/other-print-house"


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(time: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result


def policy(trigger: str = "IF_UNREACHABLE", **fields) -> Paper:
    return Paper(trigger=Paper.Trigger.Value(f"TRIGGER_{trigger}"), address=HOME, **fields)


def unread(after: timedelta = 2 * DAY, **fields) -> Paper:
    result = policy("IF_UNREAD", **fields)
    result.unread_after.FromTimedelta(after)
    return result


async def letter_to_nobody(
    service: Service, paper: Paper | None = None, *, unit: str = "", key: str = "letter-1", **fields
):
    """A message to one who has no mailbox."""
    unit = unit or await service.unit()
    return await send(service, unit, person(), paper or policy(), key=key, **fields)


async def send(service: Service, unit: str, identifier, paper: Paper, *, key: str = "letter-1", **fields) -> Message:
    asked = request(unit, identifier, key=key)
    asked.message.paper.CopyFrom(paper)
    for field, value in fields.items():
        if isinstance(value, list):
            getattr(asked.message, field).extend(value)
        else:
            setattr(asked.message, field, value)
    service.act_as(service.city)
    return await service.messages.SendMessage(asked)


async def pdf(service: Service, content: bytes, **fields) -> str:
    """An attachment of the city."""
    return (await upload(service, await reserve(service, content, **fields), content)).name


async def compose(service: Service, at: datetime | None = None) -> None:
    """Has all letters made that wait for it."""
    while await service.spool.next(now=at or now()):
        pass


async def claim(service: Service, *, house: str = PRINT_HOUSE, most: int = 1000, lease: timedelta = timedelta(hours=1)):
    service.act_as(house)
    asked = letters_pb2.ClaimLettersRequest(max_letters=most)
    asked.lease.FromTimedelta(lease)
    return list((await service.letters.ClaimLetters(asked)).letters)


async def claim_of(service: Service, message: Message, **options) -> Letter:
    """Claims what waits, and returns the letter of a message."""
    name = f"letters/{message.name.split('/')[3]}"
    (found,) = [letter for letter in await claim(service, **options) if letter.name == name]
    result: Letter = found
    return result


async def report(service: Service, letter: Letter, state: str, *, house: str = PRINT_HOUSE, time=None, **fields):
    service.act_as(house)
    one = letters_pb2.ReportLettersRequest.Report(
        letter=letter.name,
        claim=letter.claim,
        state=State.Value(f"STATE_{state}"),
        time=timestamp(time or now()),
        **fields,
    )
    return await service.letters.ReportLetters(letters_pb2.ReportLettersRequest(reports=[one]))


async def printed(service: Service, letter: Letter) -> pikepdf.Pdf:
    """The PDF of a letter, as the print house downloads it."""
    service.act_as(PRINT_HOUSE)
    return pikepdf.open(io.BytesIO(await download(service, letter.attachment)))


async def read(service: Service, message: Message) -> Message:
    service.act_as(service.city)
    return await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=message.name))


def ways(message: Message) -> dict[str, str]:
    """The states of a message's deliveries by channel."""
    return {
        messages_pb2.Delivery.Channel.Name(way.channel).removeprefix("CHANNEL_"): State.Name(way.state).removeprefix(
            "STATE_"
        )
        for way in message.deliveries
    }
