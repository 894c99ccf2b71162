"""Sending a message: kept once with its delivery and events, or not at all."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime import status, validation
from services.runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service, person

Message = messages_pb2.Message
ONE = messages_pb2.SendMessageRequest(idempotency_key="breaks a rule, which only its own result says")


def request(unit: str, identifier: NationalIdentifier, *, key: str = "decision-1", title: str = "Decision"):
    return messages_pb2.SendMessageRequest(
        parent=unit,
        idempotency_key=key,
        message=Message(
            recipient=messages_pb2.Recipient(identifier=identifier),
            title=title,
            bodies=[messages_pb2.Body(language="en", text="Granted.")],
            case_reference=messages_pb2.CaseReference(system="cases", case_id="BP-1"),
            correlation_id="corr-1",
        ),
    )


async def test_a_message_is_released_to_the_mailbox_at_once(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    sent = await service.messages.SendMessage(request(unit, identifier))
    assert sent.name.startswith(f"{unit}/messages/")
    assert sent.recipient.mailbox == mailbox
    assert not sent.recipient.HasField("identifier")
    assert sent.state == Message.STATE_RELEASED
    assert [delivery.state for delivery in sent.deliveries] == [messages_pb2.Delivery.STATE_AVAILABLE]
    assert (sent.title, sent.bodies[0].text, sent.case_reference.case_id) == ("Decision", "Granted.", "BP-1")
    assert await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name)) == sent


async def test_metadata_is_the_senders_and_lies_sealed(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.metadata.update({"archive.code": "10 03 00 02", "retention": "permanent-ish"})
    sent = await service.messages.SendMessage(asked)
    assert dict(sent.metadata) == {"archive.code": "10 03 00 02", "retention": "permanent-ish"}
    row = await service.database.fetchrow(
        "select * from message where message_id = $1", uuid.UUID(sent.name.split("/")[3])
    )
    assert row is not None
    assert b"permanent-ish" not in repr(dict(row)).encode() + row["content"]
    service.act_as(service.parties.name_of(identifier))
    name = f"{mailbox}/messages/{sent.name.split('/')[3]}"
    opened = await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    assert "permanent-ish" not in str(opened)


async def test_a_repeat_returns_the_first_result(service: Service, tables):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    first = await service.messages.SendMessage(request(unit, identifier))
    before = await tables()
    assert await service.messages.SendMessage(request(unit, identifier)) == first
    assert await tables() == before


async def test_many_repeats_at_once_make_one_message(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    sent = await asyncio.gather(*(service.messages.SendMessage(request(unit, identifier)) for _ in range(12)))
    assert len({message.name for message in sent}) == 1


async def test_the_same_key_with_other_content_names_the_first_message(service: Service, tables):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    first = await service.messages.SendMessage(request(unit, identifier))
    before = await tables()
    with pytest.raises(AlreadyExists) as refused:
        await service.messages.SendMessage(request(unit, identifier, title="Another"))
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert refused.value.metadata == {"message": first.name}
    assert (await tables())["message"] == before["message"]


async def test_a_key_belongs_to_one_recipient(service: Service):
    """Both guardians get the decision, though the sender's key is that of the decision."""
    unit = await service.unit()
    (one, _), (other, _) = await service.resident(), await service.resident()
    service.act_as(service.city)
    first = await service.messages.SendMessage(request(unit, one))
    second = await service.messages.SendMessage(request(unit, other))
    assert first.name != second.name


async def test_nobody_without_a_mailbox_is_written_to(service: Service, tables):
    unit = await service.unit()
    service.act_as(service.city)
    before = await tables()
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendMessage(request(unit, person()))
    assert refused.value.reason == "MAILBOX_NOT_ACTIVE"
    assert await tables() == before


async def test_only_the_organisation_of_the_unit_sends_in_its_name(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    for unknown in (unit, "units/there-is-none"):
        with pytest.raises(NotFound) as refused:
            await service.messages.SendMessage(request(unknown, identifier))
        assert refused.value.reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("code", ["010101-123X", "not a code", "131052-308U"])
async def test_an_identity_code_that_is_none_is_refused_without_being_repeated(service: Service, code: str):
    unit = await service.unit()
    service.act_as(service.city)
    wrong = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=code)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(request(unit, wrong))
    assert refused.value.reason == "IDENTIFIER_INVALID"
    assert code not in str(refused.value) + repr(refused.value.violations) + repr(refused.value.metadata)


async def test_a_code_set_aside_for_tests_is_refused_by_a_node_in_service(
    service: Service, monkeypatch: pytest.MonkeyPatch, tables
):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    before = await tables()
    monkeypatch.setattr(service.parties, "_test_mode", False)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(request(unit, identifier))
    assert (refused.value.reason, refused.value.metadata["scheme"]) == ("IDENTIFIER_INVALID", "FI_HETU")
    assert identifier.value not in str(refused.value) + repr(refused.value.violations)

    async def requests():
        yield messages_pb2.SendMessagesRequest(message=request(unit, identifier))

    (result,) = [result async for result in service.messages.SendMessages(requests())]
    assert result.WhichOneof("result") == "refusal"
    asked = mailboxes_pb2.LookUpMailboxesRequest(unit=unit, identifiers=[identifier])
    (found,) = (await service.mailboxes.LookUpMailboxes(asked)).results
    assert (found.reachable, found.refusal) == (False, "IDENTIFIER_INVALID")
    assert await tables() == before


@pytest.mark.parametrize("attachment", [str(uuid.uuid4())])
async def test_an_attachment_that_is_not_there_stops_the_whole_message(service: Service, tables, attachment: str):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=f"attachments/{attachment}")
    before = await tables()
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendMessage(asked)
    assert refused.value.reason == "ATTACHMENT_NOT_READY"
    assert await tables() == before


async def test_each_message_of_a_stream_has_a_result_of_its_own(service: Service):
    unit = await service.unit()
    (one, _), (other, _) = await service.resident(), await service.resident()
    service.act_as(service.city)

    async def requests():
        for number, identifier in enumerate((one, person(), other)):
            yield messages_pb2.SendMessagesRequest(message=request(unit, identifier, key=f"k{number}"))
        yield messages_pb2.SendMessagesRequest(message=request(unit, other, key="no spaces"))
        yield messages_pb2.SendMessagesRequest(message=request(unit, other, key="k4"))

    results = [result async for result in service.messages.SendMessages(requests())]
    assert [result.WhichOneof("result") for result in results] == [
        "message",
        "refusal",
        "message",
        "refusal",
        "message",
    ]
    assert [result.idempotency_key for result in results] == ["k0", "k1", "k2", "no spaces", "k4"]


async def results_of(service: Service, *batches: list[messages_pb2.SendMessageRequest]):
    """The results of a stream, each of whose requests holds several messages."""

    async def requests():
        for batch in batches:
            yield messages_pb2.SendMessagesRequest(messages=batch)

    responses = [response async for response in service.messages.SendMessages(requests())]
    assert [len(response.results) for response in responses] == [len(batch) for batch in batches]
    return [result for response in responses for result in response.results]


async def test_each_of_many_messages_in_a_request_has_a_result_of_its_own(service: Service, tables):
    unit, other = await service.unit(), await service.unit()
    (one, mailbox), (another, _) = await service.resident(), await service.resident()
    service.act_as(service.city)
    first = await service.messages.SendMessage(request(unit, one, key="sent-before"))
    before = await tables()
    malformed = request(unit, one, key="not a key!")
    unknown = request("units/nobodys", one)
    by_template = request(unit, one, key="template")
    by_template.message.template = f"{unit}/templates/none"
    reply = request(unit, one, key="reply")
    reply.message.in_reply_to = first.name
    results = await results_of(
        service,
        [
            request(unit, one, key="a"),
            malformed,
            request(unit, person(), key="b"),
            request(other, another, key="a"),
            unknown,
            by_template,
        ],
        [
            request(unit, one, key="sent-before"),
            request(unit, one, key="sent-before", title="Other"),
            request(unit, another, key="twice"),
            request(unit, another, key="twice"),
            reply,
        ],
    )
    assert [result.index for result in results] == list(range(11))
    reasons = ["", "FIELD_INVALID", "MAILBOX_NOT_ACTIVE", "", "RESOURCE_NOT_FOUND", "FIELD_INVALID"]
    reasons += ["", "IDEMPOTENCY_KEY_REUSED", "", "", ""]
    assert [reason_of(result) for result in results] == reasons
    assert results[6].message.name == first.name
    assert results[8].message.name == results[9].message.name
    assert results[10].message.thread == first.thread
    (again,) = await results_of(service, [request(unit, one, key="sent-before")])
    assert again.message == results[6].message
    after = await tables()
    assert after["message"] - before["message"] == 4
    assert after["event"] - before["event"] == 8
    made = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=results[0].message.name))
    assert (made.title, made.recipient.mailbox) == ("Decision", mailbox)
    for field in ("title", "bodies", "case_reference", "correlation_id", "recipient", "kind"):
        made.ClearField(field)
    assert results[0].message == made


def reason_of(result: messages_pb2.SendMessagesResponse) -> str:
    return status.from_status(result.refusal).reason if result.HasField("refusal") else ""


async def test_many_messages_in_a_request_share_two_statements(service: Service, monkeypatch: pytest.MonkeyPatch):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    statements = counted(service, monkeypatch)
    results = await results_of(service, [request(unit, identifier, key=f"k{number}") for number in range(300)])
    assert len({result.message.name for result in results}) == 300
    assert len(statements) == 2


async def test_two_large_requests_of_a_stream_are_worked_on_beside_each_other_and_no_third(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    wanted = [asyncio.Event() for _ in range(4)]

    async def requests():
        for number, event in enumerate(wanted):
            event.set()
            batch = [request(unit, identifier, key=f"k{number}-{place}") for place in range(200)]
            yield messages_pb2.SendMessagesRequest(messages=batch)

    responses = service.messages.SendMessages(requests())
    await anext(responses)  # which counts as under way until the next one is asked for
    async with asyncio.timeout(60):
        await wanted[2].wait()
    assert not wanted[3].is_set()
    assert [len(response.results) async for response in responses] == [200, 200, 200]


@pytest.mark.parametrize("fields", [{"message": ONE, "messages": [ONE]}, {"messages": [ONE] * 1001}])
async def test_a_request_of_a_stream_holds_one_message_or_so_many(fields: dict[str, Any]):
    with pytest.raises(InvalidArgument):
        validation.check(messages_pb2.SendMessagesRequest(**fields))


async def test_a_unit_lists_its_messages_latest_first_in_pages(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    sent = [(await service.messages.SendMessage(request(unit, identifier, key=f"k{n}"))).name for n in range(5)]
    listed: list[Message] = []
    token = ""
    while True:
        page = await service.messages.ListMessages(
            messages_pb2.ListMessagesRequest(parent=unit, page_size=2, page_token=token)
        )
        listed += page.messages
        token = page.next_page_token
        if not token:
            break
    assert [message.name for message in listed] == sent[::-1]
    assert not any(message.bodies for message in listed)
    by_key = await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit, idempotency_key="k3"))
    assert [message.name for message in by_key.messages] == [sent[3]]


async def test_content_lies_sealed_in_the_database(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    sent = await service.messages.SendMessage(request(unit, identifier, title="Very private matter"))
    row = await service.database.fetchrow(
        "select * from message where message_id = $1", uuid.UUID(sent.name.split("/")[3])
    )
    assert row is not None
    stored = repr(dict(row)).encode() + row["content"]
    assert b"private" not in stored
    assert identifier.value.encode() not in stored


def counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that sending carries out from now on."""
    statements: list[str] = []
    fetch = service.database.fetch

    async def counting(statement: str, *values: object):
        statements.append(statement)
        return await fetch(statement, *values)

    def forbidden(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(service.database, "fetch", counting)
    for other in ("fetchrow", "fetchval", "execute", "transaction"):
        monkeypatch.setattr(service.database, other, forbidden)
    return statements


async def test_sending_takes_two_round_trips_to_the_database(service: Service, monkeypatch: pytest.MonkeyPatch):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    statements = counted(service, monkeypatch)
    await service.messages.SendMessage(request(unit, identifier))
    assert len(statements) == 2


async def test_what_is_sent_at_the_same_time_shares_them(service: Service, monkeypatch: pytest.MonkeyPatch):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    statements = counted(service, monkeypatch)
    keys = [f"k{number}" for number in range(100)]
    asked = [request(unit, identifier, key=key) for key in keys]
    sent = await asyncio.gather(*(service.messages.SendMessage(one) for one in asked))
    assert len(statements) <= 6
    assert len({message.name for message in sent}) == 100
    assert [message.idempotency_key for message in sent] == keys


async def test_one_key_many_times_at_once_is_one_message(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    sent = await asyncio.gather(*(service.messages.SendMessage(request(unit, identifier)) for _ in range(20)))
    assert len({message.name for message in sent}) == 1
    assert (
        await service.database.fetchval(
            "select count(*) from delivery d join message m using (message_id) where m.unit_id = $1", unit.split("/")[1]
        )
        == 1
    )
