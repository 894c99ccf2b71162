"""A city's decision reaches a resident whose mailbox is on another organisation's node, and comes back with receipts."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from solmu.exchange.v1 import access_rights_pb2
from solmu.messages.v1 import feed_pb2, messages_pb2
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from deploy.local import demo_clients
from deploy.local.demo import make_decision
from deploy.local.node import Node
from gateway.client import Client, Profile
from services.exchange import names
from tests.integration.exchange import mesh
from tests.journeys import pair

CITY, COMPANY = "FI/MUN/1/solmu", "FI/COM/2/solmu"
PATIENCE = 60.0
"""Seconds that something may take before the journey counts as failed."""

Message = messages_pb2.Message
Delivery = messages_pb2.Delivery


class Office:
    """The city's permits office, which reads its feed from where it was."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._cursor = ""
        self.events: list[feed_pb2.Event] = []

    async def send(self, title: str, *, key: str = "", attachments: Sequence[str] = (), **fields: Any) -> Message:
        """Sends a message to the resident."""
        message = Message(
            recipient=messages_pb2.Recipient(identifier=resident_identifier()),
            title=title,
            bodies=[messages_pb2.Body(language="en", text="What we have decided is attached.")],
            attachments=[messages_pb2.MessageAttachment(attachment=name) for name in attachments],
            reply_policy=messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS),
            **fields,
        )
        request = messages_pb2.SendMessageRequest(
            parent="units/permits", message=message, idempotency_key=key or str(uuid.uuid4())
        )
        return await self.client.call(self.client.messages.SendMessage, request, attempts=5)

    async def get(self, message: Message) -> Message:
        request = messages_pb2.GetMessageRequest(name=message.name)
        return await self.client.call(self.client.messages.GetMessage, request, attempts=5)

    async def hears(self, event_type: str, message: Message | None = None) -> feed_pb2.Event:
        """The first event of a type, of a message where one is given, that is told from here on or was before."""
        for _ in range(int(PATIENCE / 0.2)):
            for event in self.events:
                if event.type == event_type and (message is None or event.message == message.name):
                    return event
            request = feed_pb2.ListEventsRequest(parent="units/permits", cursor=self._cursor)
            page = await self.client.call(self.client.feed.ListEvents, request, attempts=5)
            self.events += page.events
            self._cursor = page.next_cursor
            if not page.events:
                await asyncio.sleep(0.2)
        raise AssertionError(f"no {event_type} among {[event.type for event in self.events]}")

    def heard(self, message: Message) -> list[str]:
        """What the feed has told of a message so far."""
        return [event.type for event in self.events if event.message == message.name]


class Resident:
    """A resident with a mailbox, by REST."""

    def __init__(self, client: Client, mailbox: str) -> None:
        self.client = client
        self.mailbox = mailbox

    async def finds(self, title: str) -> dict[str, Any]:
        """The message with a title, once it is there."""
        for _ in range(int(PATIENCE / 0.2)):
            listed = await self.client.rest("GET", f"/v1/{self.mailbox}/messages?pageSize=50")
            for message in listed.get("messages", []):
                if message["title"] == title:
                    found: dict[str, Any] = message
                    return found
            await asyncio.sleep(0.2)
        raise AssertionError(f"no message {title!r} came")

    async def titles(self) -> list[str]:
        listed = await self.client.rest("GET", f"/v1/{self.mailbox}/messages?pageSize=50")
        return [message.get("title", "") for message in listed.get("messages", [])]


def resident_identifier() -> NationalIdentifier:
    scheme, value = demo_clients.PERSON["scheme"], demo_clients.PERSON["value"]
    return NationalIdentifier(scheme=NationalIdentifier.Scheme.Value(f"SCHEME_{scheme}"), value=value)


async def allow(member: mesh.Member, own: str, other: str) -> None:
    """Lets the services of another member's node write to this one's."""
    await member.exchange.rights.CreateAccessRight(
        access_rights_pb2.CreateAccessRightRequest(
            parent=f"{names.resource('subsystems', own)}/inbox",
            access_right=access_rights_pb2.AccessRight(subsystem=names.resource("subsystems", other)),
        )
    )


@asynccontextmanager
async def as_client(node: Node, client: demo_clients.DemoClient) -> AsyncIterator[Client]:
    async with Client(Profile.load(node.state.clients / client.client_id)) as opened:
        yield opened


@pytest.mark.timeout(600)  # two nodes, each of which is stopped and started again
async def test_a_message_to_a_mailbox_on_another_node_comes_back_with_its_receipts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLMU_MAILBOX_NODES", COMPANY)  # whom the city asks; the company has nobody else to ask
    async with (
        pair.joined(tmp_path) as (city_node, city, company_node, company),
        as_client(city_node, demo_clients.PERMITS) as permits,
        as_client(company_node, demo_clients.RESIDENT) as client,
    ):
        await mesh.serve(city, city, CITY)
        await mesh.serve(company, city, COMPANY)
        await city.refresh()
        office = Office(permits)
        resident = Resident(client, (await client.rest("POST", "/v1/mailboxes:open", {}))["name"])

        # The company has not allowed the city to write to its services: nobody there is found, nothing arrives.
        await allow(city, CITY, COMPANY)
        unheard = await office.send("Not allowed yet")
        await office.hears("delivery.unreachable", unheard)
        assert (await office.get(unheard)).legal_effect.state == messages_pb2.LegalEffect.STATE_LAPSED
        await allow(company, COMPANY, CITY)

        # A decision with a PDF, against a receipt.
        decision = make_decision()
        uploaded = await permits.upload(decision, file_name="decision.pdf", media_type="application/pdf")
        key = str(uuid.uuid4())
        sent = await office.send("Building permit", key=key, attachments=[uploaded.name], kind=Message.KIND_VERIFIABLE)
        assert [way.channel for way in sent.deliveries] == [Delivery.CHANNEL_EXCHANGE]
        repeated = await office.send(
            "Building permit", key=key, attachments=[uploaded.name], kind=Message.KIND_VERIFIABLE
        )
        assert repeated.name == sent.name
        available = await office.hears("delivery.available", sent)
        assert available.delivery.channel == Delivery.CHANNEL_EXCHANGE
        found = await resident.finds("Building permit")
        assert (await resident.titles()).count("Building permit") == 1
        assert found["locked"]
        assert found["unitDisplayNames"], "the sender is shown by its name"

        # The receipt is confirmed; what it says and the PDF are those that were sent.
        read = await client.rest("POST", f"/v1/{found['name']}:confirmReceipt", {})
        assert read["bodies"][0]["text"] == "What we have decided is attached."
        content = await client.download(f"{found['name']}/{read['attachments'][0]['attachment']}")
        assert hashlib.sha256(content).digest() == hashlib.sha256(decision).digest()
        await office.hears("legal.effective", sent)
        assert office.heard(sent) == [
            "message.accepted",
            "delivery.available",
            "delivery.receipt_confirmed",
            "legal.effective",
        ]
        known = await office.get(sent)
        assert known.legal_effect.effective_time.ToJsonString() == read["legalEffect"]["effectiveTime"]
        assert known.deliveries[0].actor.party.startswith("persons/")

        # The reply, with an attachment, lands in the sender's own feed.
        drawing = await client.upload(make_decision(), file_name="drawing.pdf", media_type="application/pdf")
        written = await client.rest(
            "POST",
            f"/v1/{resident.mailbox}/messages",
            {
                "inReplyTo": found["name"],
                "title": "My reply",
                "body": {"language": "en", "text": "Thank you."},
                "attachments": [{"attachment": drawing.name}],
                "requestId": str(uuid.uuid4()),
            },
        )
        assert written["direction"] == "DIRECTION_INBOUND"
        arrived = await office.hears("inbound.received")
        reply = await permits.call(
            permits.messages.GetMessage, messages_pb2.GetMessageRequest(name=arrived.message), attempts=5
        )
        assert (reply.title, reply.bodies[0].text, reply.in_reply_to) == ("My reply", "Thank you.", sent.name)
        assert reply.thread == sent.thread
        assert reply.sender.party == known.deliveries[0].actor.party
        taken_in = await permits.download(f"{reply.name}/{reply.attachments[0].attachment}")
        assert hashlib.sha256(taken_in).hexdigest() == drawing.sha256

        # The answer to the reply goes on with the conversation at the other node.
        answer = await office.send("Your drawing", in_reply_to=reply.name)
        await office.hears("delivery.available", answer)
        follow_up = await resident.finds("Your drawing")
        assert follow_up["thread"] == found["thread"]
        assert follow_up["inReplyTo"] == written["name"]

        # Withdrawn before it is opened: it cannot be opened any more.
        mistake = await office.send("To the wrong person")
        await office.hears("delivery.available", mistake)
        wrong = await resident.finds("To the wrong person")
        await permits.call(
            permits.messages.WithdrawMessage,
            messages_pb2.WithdrawMessageRequest(
                name=mistake.name, explanations=[LocalizedText(language="en", text="Sent by mistake")]
            ),
        )
        for _ in range(int(PATIENCE / 0.2)):
            listed = await client.rest("GET", f"/v1/{resident.mailbox}/messages?pageSize=50")
            shown = next(each for each in listed["messages"] if each["name"] == wrong["name"])
            if "withdrawTime" in shown:
                break
            await asyncio.sleep(0.2)
        assert shown["withdrawExplanations"][0]["text"] == "Sent by mistake"
        assert "title" not in shown

        # The company's node is away: the message waits, and is there once it is back.
        await company_node.stop()
        waiting = await office.send("While you were away")
        await asyncio.sleep(2)
        assert [way.state for way in (await office.get(waiting)).deliveries] == [Delivery.STATE_QUEUED]
        await company_node.start()
        await office.hears("delivery.available", waiting)
        async with as_client(company_node, demo_clients.RESIDENT) as again:
            back = Resident(again, resident.mailbox)
            late = await back.finds("While you were away")

            # Now the city's node is away while the resident reads; its feed tells once it is back.
            await city_node.stop()
            await again.rest("POST", f"/v1/{late['name']}:open", {})
            await city_node.start()
        async with as_client(city_node, demo_clients.PERMITS) as permits_again:
            office.client = permits_again
            await office.hears("delivery.opened", waiting)

        # No personal data in logs of either node.
        personal = (demo_clients.PERSON["value"], "Building permit", "decision.pdf", "Thank you.")
        for node in (city_node, company_node):
            for log in node.state.log.iterdir():
                told = log.read_text(errors="replace")
                assert not [word for word in personal if word in told], f"{log.name} tells too much"
