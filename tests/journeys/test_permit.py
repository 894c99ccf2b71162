"""A building permit, from the application through supporting documents to the decision (J1: Oulu and Jyväskylä)."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from solmu.messages.v1 import feed_pb2, inbox_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from deploy.local import demo_clients
from deploy.local.demo import make_decision
from deploy.local.node import Node
from gateway.client import Client, Fault, Profile

UNIT = "building-permits"
CASE = messages_pb2.CaseReference(system="Permit cases", case_id="BP-2026-0117")
PATIENCE = 30.0
"""Seconds that an event may take before the journey counts as failed."""

Message = messages_pb2.Message
Use = messages_pb2.MessageAttachment


async def events(office: Client, last: str) -> list[feed_pb2.Event]:
    """What the unit's case system has seen, up to the first event of a type."""
    seen: list[feed_pb2.Event] = []

    async def follow() -> None:
        request = feed_pb2.StreamEventsRequest(parent=f"units/{UNIT}")
        async with aclosing(office.stream(office.feed.StreamEvents, request)) as stream:
            async for event in stream:
                seen.append(event)
                if event.type == last:
                    return

    await asyncio.wait_for(follow(), PATIENCE)
    return seen


def text(value: str) -> messages_pb2.Body:
    return messages_pb2.Body(language="en", text=value)


async def test_a_permit_from_application_through_supporting_documents_to_the_decision(node: Node):
    def client(declared: demo_clients.DemoClient) -> Client:
        return Client(Profile.load(node.state.clients / declared.client_id))

    async with (
        client(demo_clients.OPERATOR) as operator,
        client(demo_clients.PERMITS) as office,
        client(demo_clients.RESIDENT) as resident,
    ):
        names = [LocalizedText(language="en", text="Building permits")]
        unit = units_pb2.Unit(display_names=names, accepts_new_messages=True)
        await operator.call(operator.units.CreateUnit, units_pb2.CreateUnitRequest(unit_id=UNIT, unit=unit))
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]

        # The resident applies, and has a receipt at once.
        application = await resident.upload(make_decision(), file_name="application.pdf", media_type="application/pdf")
        applied = await resident.call(
            resident.inbox.WriteToUnit,
            inbox_pb2.WriteToUnitRequest(
                parent=mailbox,
                unit=f"units/{UNIT}",
                title="Application for a sauna building",
                body=text("The plans are attached."),
                attachments=[Use(attachment=application.name, role=Use.ROLE_MAIN)],
                request_id=str(uuid.uuid4()),
            ),
        )
        assert applied.legal_effect.state == messages_pb2.LegalEffect.STATE_EFFECTIVE
        assert applied.author.party.startswith("persons/")

        # The case system hears of it, takes it in, opens a case and asks for more.
        (arrival,) = await events(office, "inbound.received")
        case_file = await office.call(office.messages.GetMessage, messages_pb2.GetMessageRequest(name=arrival.message))
        assert case_file.title == "Application for a sauna building"
        taken_in = await office.download(f"{case_file.name}/{case_file.attachments[0].attachment}")
        assert hashlib.sha256(taken_in).hexdigest() == application.sha256
        asked = Message(
            recipient=case_file.recipient,
            title="Your application needs a drawing",
            bodies=[text("Please send section A-A.")],
            in_reply_to=case_file.name,
            case_reference=CASE,
            correlation_id=CASE.case_id,
            reply_policy=messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS),
            actions=[
                messages_pb2.Action(
                    kind=messages_pb2.Action.KIND_SUPPLEMENT,
                    labels=[LocalizedText(language="en", text="How to draw a section")],
                    uri="https://permits.city.example/sections",
                )
            ],
        )
        asked.due_time.FromDatetime(datetime.now(UTC) + timedelta(days=14))
        request = messages_pb2.SendMessageRequest(parent=f"units/{UNIT}", message=asked, idempotency_key="BP-117|more")
        question = await office.call(office.messages.SendMessage, request, attempts=5)
        assert question.thread == case_file.thread

        # The resident opens it and replies with the drawing.
        unread = (await resident.rest("GET", f"/v1/{mailbox}/messages?unreadOnly=true"))["messages"]
        asking = next(entry for entry in unread if entry["thread"] == applied.thread)
        opened = await resident.rest("POST", f"/v1/{asking['name']}:open", {})
        assert opened["actions"][0]["uri"] == "https://permits.city.example/sections"
        assert opened["dueTime"]
        drawing = await resident.upload(make_decision(), file_name="section.pdf", media_type="application/pdf")
        reply = {
            "inReplyTo": asking["name"],
            "title": "Section A-A",
            "body": {"language": "en", "text": "Here it is."},
            "attachments": [{"attachment": drawing.name}],
            "requestId": str(uuid.uuid4()),
        }
        replied = await resident.rest("POST", f"/v1/{mailbox}/messages", reply)
        assert replied["thread"] == applied.thread

        # The case system finds it under its case, without having to look inside.
        listed = await office.call(
            office.messages.ListMessages,
            messages_pb2.ListMessagesRequest(
                parent=f"units/{UNIT}", case_id=CASE.case_id, direction=Message.DIRECTION_INBOUND
            ),
        )
        (supporting,) = listed.messages
        assert (supporting.in_reply_to, supporting.correlation_id) == (question.name, CASE.case_id)
        whole = await office.call(office.messages.GetMessage, messages_pb2.GetMessageRequest(name=supporting.name))
        content = await office.download(f"{whole.name}/{whole.attachments[0].attachment}")
        assert hashlib.sha256(content).hexdigest() == drawing.sha256

        # The decision goes out against a receipt.
        decision = await office.upload(make_decision(), file_name="decision.pdf", media_type="application/pdf")
        decided = messages_pb2.SendMessageRequest(
            parent=f"units/{UNIT}",
            idempotency_key="BP-117|decision",
            message=Message(
                recipient=case_file.recipient,
                title="Decision on your building permit",
                bodies=[text("The decision is attached.")],
                kind=Message.KIND_VERIFIABLE,
                attachments=[Use(attachment=decision.name, role=Use.ROLE_MAIN)],
                in_reply_to=supporting.name,
                correlation_id=CASE.case_id,
            ),
        )
        sent = await office.call(office.messages.SendMessage, decided, attempts=5)
        assert (sent.thread, sent.case_reference) == (applied.thread, CASE)
        received = f"{mailbox}/messages/{sent.name.split('/')[3]}"
        with pytest.raises(Fault) as locked:
            await resident.rest("POST", f"/v1/{received}:open", {})
        assert locked.value.reason == "RECEIPT_NOT_CONFIRMED"
        confirmed = await resident.rest("POST", f"/v1/{received}:confirmReceipt", {})
        assert confirmed["bodies"][0]["text"] == "The decision is attached."
        media_type, read = await resident.rest_content(f"/v1/{received}/{decision.name}/content")
        assert (media_type, hashlib.sha256(read).hexdigest()) == ("application/pdf", decision.sha256)

        # Every step is in the unit's feed, each once and in order.
        told = await events(office, "legal.effective")
        assert [(event.type, event.message) for event in told] == [
            ("inbound.received", case_file.name),
            ("message.accepted", question.name),
            ("delivery.available", question.name),
            ("delivery.opened", question.name),
            ("inbound.received", supporting.name),
            ("message.accepted", sent.name),
            ("delivery.available", sent.name),
            ("delivery.receipt_confirmed", sent.name),
            ("legal.effective", sent.name),
        ]
        assert told[-1].legal_effect.basis == messages_pb2.LegalEffect.BASIS_RECEIPT
        served = await office.call(office.messages.GetMessage, messages_pb2.GetMessageRequest(name=sent.name))
        assert served.deliveries[0].actor.party == applied.author.party

        # The resident sees the whole conversation, and who looked at what she sent.
        thread = await resident.rest("GET", f"/v1/{mailbox}/messages?thread={applied.thread}")
        assert len(thread["messages"]) == 4
        accesses = (await resident.rest("GET", f"/v1/{mailbox}/accesses?pageSize=50"))["accesses"]
        looked = [access["method"] for access in accesses if access.get("unit") == f"units/{UNIT}"]
        assert looked.count("DownloadAttachment") >= 2  # one that broke off and went on is two
        assert looked.count("GetMessage") == 3
