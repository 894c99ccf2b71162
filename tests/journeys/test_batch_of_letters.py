"""A batch of letters of which a tenth has no mailbox and a tenth stays unread (J5: Kristiansund's "Response Out").

Meanwhile the messages service is killed, and a print house dies with what it
has claimed. It ends with exactly one delivery of each.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import pikepdf
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import feed_pb2, inbox_pb2, letters_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier, PostalAddress

from deploy.local import demo_clients
from deploy.local.node import Node
from deploy.local.supervisor import Condition
from gateway.client import Client, Fault, Profile
from tests.integration.node.people import client_of, person

Message = messages_pb2.Message
Paper = messages_pb2.PaperPolicy
Delivery = messages_pb2.Delivery
Report = letters_pb2.ReportLettersRequest.Report
Call = Callable[[], Awaitable[None]]

READERS = 8
"""Property companies, each of which gets a letter for each of its houses and reads them all."""

COST = "1.21"
ATTEMPTS = 60
"""Tries of a call while the service is killed and comes back."""

AT_ONCE = 16
"""Calls of one client beside one another."""

PATIENCE = 600.0


@dataclass
class Batch:
    """The letters by their idempotency key, and what became of them."""

    count: int
    unread_after: timedelta
    unit: str = ""
    requests: dict[str, messages_pb2.SendMessageRequest] = field(default_factory=dict)
    sent: dict[str, Message] = field(default_factory=dict)
    read_in_time: set[str] = field(default_factory=set)
    """Keys of those that were opened before they could have gone on paper."""


def kind_of(number: int) -> str:
    return {0: "no mailbox", 1: "unread"}.get(number % 10, "read")


async def gather(calls: Sequence[Call]) -> None:
    """Makes calls, some beside one another."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(call: Call) -> None:
        async with gate:
            await call()

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))


# Who takes part


async def mailbox_of_nobody_who_reads(operator: Client) -> NationalIdentifier:
    owner = person()
    asked = mailboxes_pb2.CreateMailboxRequest(
        owner=owner,
        kind=mailboxes_pb2.Mailbox.KIND_PERSON,
        legal_basis=mailboxes_pb2.Mailbox.LEGAL_BASIS_STATUTE,
    )
    await operator.call(operator.mailboxes.CreateMailbox, asked, attempts=ATTEMPTS)
    return owner


# Sending


def asked(batch: Batch, number: int, recipient: messages_pb2.Recipient) -> None:
    key = f"fee-{number}"
    paper = Paper(
        trigger=Paper.TRIGGER_IF_UNREAD,
        address=PostalAddress(
            recipient_name=f"Resident {number}",
            street_address=f"Kotikatu {number}",
            postal_code="00100",
            locality="HELSINKI",
            country_code="FI",
        ),
    )
    paper.unread_after.FromTimedelta(batch.unread_after)
    batch.requests[key] = messages_pb2.SendMessageRequest(
        parent=batch.unit,
        idempotency_key=key,
        message=Message(
            recipient=recipient,
            title="The waste fees of next year",
            bodies=[
                messages_pb2.Body(language="fi", text="Maksut nousevat kaksi prosenttia."),
                messages_pb2.Body(language="sv", text="Avgifterna stiger med två procent."),
            ],
            paper=paper,
        ),
    )


async def send(office: Client, batch: Batch, *, until: int) -> None:
    """Streams what has no answer yet, and again where the stream breaks, until so many have one."""
    async with asyncio.timeout(PATIENCE):
        while len(batch.sent) < until:
            left = [request for key, request in batch.requests.items() if key not in batch.sent]

            try:
                async with aclosing(office.send_all(left)) as results:
                    async for result in results:
                        assert not result.HasField("refusal"), result.refusal
                        batch.sent[result.idempotency_key] = result.message
                        if len(batch.sent) >= until:
                            break
            except Fault as fault:
                assert fault.code in {"UNAVAILABLE", "INTERNAL"}, fault
                await asyncio.sleep(0.2)


# Reading


async def read(batch: Batch, key: str, box: str, client: Client) -> None:
    name = f"{box}/messages/{batch.sent[key].name.split('/')[3]}"
    opened = await client.call(
        client.inbox.OpenInboxMessage, inbox_pb2.OpenInboxMessageRequest(name=name), attempts=ATTEMPTS
    )
    assert opened.bodies
    if datetime.now(UTC) < batch.sent[key].release_time.ToDatetime(UTC) + batch.unread_after:
        batch.read_in_time.add(key)


# Printing


@dataclass
class PrintHouse:
    """Prints what it claims, on paper that is `printed`."""

    client: Client
    printed: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0

    async def run(self) -> None:
        while True:
            letters = await self.claim(timedelta(minutes=5))
            await gather([partial(self.download, letter) for letter in letters])
            taken = await self.report(letters, "SUBMITTED")
            self.printed.update(letter.name for letter in taken)
            await self.report(taken, "PRINTED")
            await self.report(taken, "POSTED", cost=COST, cost_currency="EUR")
            if not letters:
                await asyncio.sleep(0.2)

    async def claim(self, lease: timedelta) -> list[letters_pb2.Letter]:
        request = letters_pb2.ClaimLettersRequest(max_letters=200)
        request.lease.FromTimedelta(lease)
        answer = await self.client.call(self.client.letters.ClaimLetters, request, attempts=ATTEMPTS)
        return list(answer.letters)

    async def download(self, letter: letters_pb2.Letter) -> None:
        while True:
            try:
                content = await self.client.download(letter.attachment)
                break
            except Fault as fault:
                assert fault.code == "UNAVAILABLE", fault
                await asyncio.sleep(0.2)
        self.looked_at += 1
        if self.looked_at % 50 == 1:
            with pikepdf.open(io.BytesIO(content)) as pdf:
                assert len(pdf.pages) == letter.page_count == 1

    async def report(self, letters: list[letters_pb2.Letter], state: str, **cost: str) -> list[letters_pb2.Letter]:
        """Those of which the report was taken."""
        if not letters:
            return []
        now = Timestamp()
        now.GetCurrentTime()
        reports = [
            Report(letter=one.name, claim=one.claim, state=Delivery.State.Value(f"STATE_{state}"), time=now, **cost)
            for one in letters
        ]
        request = letters_pb2.ReportLettersRequest(reports=reports)
        answer = await self.client.call(self.client.letters.ReportLetters, request, attempts=ATTEMPTS)
        refused = {refusal.index for refusal in answer.refusals}
        return [letter for index, letter in enumerate(letters) if index not in refused]


# What became of it


async def found(office: Client, batch: Batch) -> dict[str, Message]:
    """The unit's messages by their keys, each once."""
    result: dict[str, Message] = {}
    listing = messages_pb2.ListMessagesRequest(parent=batch.unit, page_size=1000)
    async with aclosing(office.items(office.messages.ListMessages, listing)) as listed:
        async for message in listed:
            assert message.idempotency_key not in result
            result[message.idempotency_key] = message
    return result


def goes(message: Message) -> dict[str, str]:
    """The deliveries of a message by which it has gone, or may still go."""
    over = {"UNREACHABLE", "SUPERSEDED", "WITHDRAWN", "FAILED"}
    ways = {
        Delivery.Channel.Name(way.channel).removeprefix("CHANNEL_"): Delivery.State.Name(way.state).removeprefix(
            "STATE_"
        )
        for way in message.deliveries
    }
    return {channel: state for channel, state in ways.items() if state not in over}


async def settled(office: Client, batch: Batch) -> dict[str, Message]:
    """The messages, once all of them have been opened or posted."""
    while True:
        known = await found(office, batch)
        if all(list(goes(message).values()) in (["OPENED"], ["POSTED"]) for message in known.values()):
            return known
        await asyncio.sleep(1)


async def events(office: Client, batch: Batch) -> Counter[tuple[str, str]]:
    """How often each thing happened to each message, by the feed."""
    seen: dict[str, tuple[str, str]] = {}
    cursor = ""
    while True:
        page = await office.call(
            office.feed.ListEvents, feed_pb2.ListEventsRequest(parent=batch.unit, cursor=cursor, page_size=1000)
        )
        seen.update((event.id, (event.message, event.type)) for event in page.events)
        cursor = page.next_cursor
        if not page.events:
            return Counter(seen.values())


@asynccontextmanager
async def printing(house: PrintHouse) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(house.run())
        yield
        task.cancel()


async def killed(node: Node) -> None:
    """kill -9 of the messages service."""
    process = node.process("messages")
    old = process.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    async with asyncio.timeout(90):
        while process.pid in (None, old) or node.processes["messages"].condition is not Condition.READY:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("count", "unread_after"),
    [
        pytest.param(1000, timedelta(seconds=20), id="1000"),
        pytest.param(10_000, timedelta(seconds=150), id="10000", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_batch_ends_with_exactly_one_delivery_of_each_letter(node: Node, count: int, unread_after: timedelta):
    batch = Batch(count, unread_after)
    began = time.perf_counter()

    def done(what: str) -> None:
        print(f"{time.perf_counter() - began:7.1f} s  {what}")

    async with AsyncExitStack() as stack:
        operator, office, printer = [
            await stack.enter_async_context(Client(Profile.load(node.state.clients / declared.client_id)))
            for declared in (demo_clients.OPERATOR, demo_clients.PERMITS, demo_clients.PRINT_HOUSE)
        ]
        unit_id = f"waste-fees-{uuid.uuid4().hex[:6]}"
        unit = units_pb2.Unit(display_names=[LocalizedText(language="fi", text="Jätehuolto")])
        await operator.call(operator.units.CreateUnit, units_pb2.CreateUnitRequest(unit_id=unit_id, unit=unit))
        batch.unit = f"units/{unit_id}"
        readers = []
        for _ in range(READERS):
            client = await stack.enter_async_context(client_of(node, person(), "mailbox.read", "mailbox.write"))
            opened = await client.call(
                client.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest(), attempts=ATTEMPTS
            )
            readers.append((opened.name, client))
        unread = [number for number in range(count) if kind_of(number) == "unread"]
        owners: dict[int, NationalIdentifier] = {}

        async def open_one(number: int) -> None:
            owners[number] = await mailbox_of_nobody_who_reads(operator)

        await gather([partial(open_one, number) for number in unread])
        done(f"{READERS + len(unread)} mailboxes are open")

        for number in range(count):
            match kind_of(number):
                case "no mailbox":
                    recipient = messages_pb2.Recipient(identifier=person())
                case "unread":
                    recipient = messages_pb2.Recipient(identifier=owners[number])
                case _:
                    recipient = messages_pb2.Recipient(mailbox=readers[number % READERS][0])
            asked(batch, number, recipient)

        house = PrintHouse(printer)
        await send(office, batch, until=count // 2)
        sending = asyncio.create_task(send(office, batch, until=count))
        await killed(node)
        await sending
        done(f"{count} letters are sent, over one stream that broke once")

        # The first print house dies with what it has claimed.
        async with asyncio.timeout(PATIENCE):
            while not (lost := await house.claim(timedelta(seconds=2))):
                await asyncio.sleep(0.1)
        done(f"a print house died with {len(lost)} letters")

        async with printing(house):
            calls = []
            for number in range(count):
                if kind_of(number) == "read":
                    box, client = readers[number % READERS]
                    calls.append(partial(read, batch, f"fee-{number}", box, client))
            await gather(calls)
            done(f"{len(calls)} are read, {len(batch.read_in_time)} of them in time")
            async with asyncio.timeout(PATIENCE):
                known = await settled(office, batch)
        done(f"{house.printed.total()} are printed and posted")

        assert known.keys() == batch.requests.keys()
        for number in range(count):
            message = known[f"fee-{number}"]
            expected = {"read": {"ELECTRONIC": "OPENED"}}.get(kind_of(number), {"PAPER": "POSTED"})
            if kind_of(number) != "read" or message.idempotency_key in batch.read_in_time:
                assert goes(message) == expected, (kind_of(number), message.deliveries)
        posted = {f"letters/{message.name.split('/')[3]}" for message in known.values() if "PAPER" in goes(message)}
        assert house.printed == Counter(posted), "a letter for each, and no second one"
        costs = [way.cost for message in known.values() for way in message.deliveries if way.cost]
        assert costs == [COST] * len(posted)
        happened = await events(office, batch)
        assert set(happened.values()) == {1}
        kinds = Counter(kind for _, kind in happened)
        assert (kinds["message.accepted"], kinds["paper.posted"]) == (count, len(posted))
        assert kinds["delivery.opened"] == count - len(posted)
        done(f"{happened.total()} events tell of it")
