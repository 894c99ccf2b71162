"""What a message says: templates, languages, Markdown, actions."""

from __future__ import annotations

import asyncio

import pytest
from solmu.messages.v1 import inbox_pb2, messages_pb2, templates_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from services.runtime.errors import InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_sending import request
from tests.integration.messages.test_writing import open_unit

Message = messages_pb2.Message
Body = messages_pb2.Body
Action = messages_pb2.Action
DECISION = [
    Body(language="fi", format=Body.FORMAT_MARKDOWN, title="Päätös {{ case }}", text="Hyvä {{ name }}, **myönnetty**."),
    Body(language="sv", title="Beslut {{ case }}", text="Bästa {{ name }}, beviljat."),
]


async def made(service: Service, unit: str, bodies=DECISION, template_id: str = "decision") -> templates_pb2.Template:
    service.act_as(service.city)
    template = templates_pb2.Template(bodies=bodies)
    asked = templates_pb2.CreateTemplateRequest(parent=unit, template_id=template_id, template=template)
    return await service.templates.CreateTemplate(asked)


async def sending(service: Service, **fields):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.MergeFrom(Message(**fields))
    return asked


async def refusal(service: Service, asked: messages_pb2.SendMessageRequest) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(asked)
    return refused.value


async def from_template(service: Service, **values: str):
    asked = await sending(service, template_values=values)
    template = await made(service, asked.parent)
    asked.message.title = ""
    del asked.message.bodies[:]
    asked.message.template = template.name
    return asked


async def test_a_message_is_made_from_a_template_in_every_language(service: Service):
    asked = await from_template(service, case="BP-1", name="A. *Star*")
    sent = await service.messages.SendMessage(asked)
    assert sent.title == "Päätös BP-1"
    assert [(body.title, body.text) for body in sent.bodies] == [
        ("Päätös BP-1", "Hyvä A\\. \\*Star\\*, **myönnetty**."),
        ("Beslut BP-1", "Bästa A. *Star*, beviljat."),
    ]
    assert sent.template == asked.message.template
    assert await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name)) == sent


async def test_a_repeat_is_the_first_message_though_the_template_has_changed(service: Service):
    asked = await from_template(service, case="BP-1", name="A")
    sent = await service.messages.SendMessage(asked)
    await made(service, asked.parent, [Body(language="fi", title="Uusi", text="Uusi.")])
    assert await service.messages.SendMessage(asked) == sent


async def test_a_variable_without_a_value_stops_the_message(service: Service, tables):
    asked = await from_template(service, case="BP-1")
    before = await tables()
    refused = await refusal(service, asked)
    assert (refused.reason, refused.metadata) == ("TEMPLATE_INCOMPLETE", {"variable": "name"})
    assert await tables() == before


async def test_a_template_of_another_unit_is_none(service: Service):
    asked = await from_template(service, case="BP-1", name="A")
    asked.message.template = (await made(service, await service.unit())).name
    assert (await refusal(service, asked)).reason == "TEMPLATE_INCOMPLETE"


async def test_a_template_takes_the_place_of_title_and_text(service: Service):
    asked = await from_template(service, case="BP-1", name="A")
    asked.message.title = "Mine"
    assert (await refusal(service, asked)).reason == "FIELD_INVALID"


async def test_a_title_is_not_left_out(service: Service):
    asked = await sending(service)
    asked.message.title = ""
    assert (await refusal(service, asked)).reason == "FIELD_INVALID"


async def test_a_template_has_versions_and_each_stays_as_it_was(service: Service):
    unit = await service.unit()
    first = await made(service, unit)
    assert (first.name, first.version, list(first.variables)) == (f"{unit}/templates/decision", 1, ["case", "name"])
    assert await made(service, unit) == first
    other = [Body(language="fi", title="Toinen", text="Toinen.")]
    many = await asyncio.gather(*(made(service, unit, other) for _ in range(4)))
    assert {template.version for template in many} == {2}
    found = await service.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=first.name))
    assert found == many[0]
    await made(service, unit, template_id="another")
    listing = templates_pb2.ListTemplatesRequest(parent=unit, page_size=1)
    page = await service.templates.ListTemplates(listing)
    listing.page_token = page.next_page_token
    rest = await service.templates.ListTemplates(listing)
    assert [(found.name.split("/")[3], found.version) for found in (*page.templates, *rest.templates)] == [
        ("another", 1),
        ("decision", 2),
    ]
    assert rest.next_page_token == ""


async def test_only_its_organisation_sees_and_makes_a_units_templates(service: Service):
    unit = await service.unit()
    template = await made(service, unit)
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await service.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=template.name))
    with pytest.raises(NotFound):
        await service.templates.ListTemplates(templates_pb2.ListTemplatesRequest(parent=unit))
    asked = templates_pb2.CreateTemplateRequest(parent=unit, template_id="b", template=template)
    with pytest.raises(NotFound):
        await service.templates.CreateTemplate(asked)


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ([Body(language="fi", text="No title.")], "FIELD_INVALID"),
        ([Body(language="fi", title="T", text="{{ a.b }}")], "FIELD_INVALID"),
        ([Body(language="fi", title="T", text="a"), Body(language="fi", title="T", text="b")], "FIELD_INVALID"),
        ([Body(language="fi", title="T", text="<b>", format=Body.FORMAT_MARKDOWN)], "MARKDOWN_REFUSED"),
    ],
)
async def test_a_template_that_could_never_be_sent_is_refused(service: Service, bodies: list[Body], reason: str):
    unit = await service.unit()
    with pytest.raises(InvalidArgument) as refused:
        await made(service, unit, bodies)
    assert refused.value.reason == reason


async def test_markdown_with_a_script_is_refused_whoever_writes_it(service: Service):
    script = Body(language="sv", format=Body.FORMAT_MARKDOWN, text="[x](javascript:alert(1))")
    refused = await refusal(service, await sending(service, bodies=[script]))
    assert (refused.reason, refused.metadata) == ("MARKDOWN_REFUSED", {"language": "sv"})
    unit = await open_unit(service)
    _, mailbox = await service.resident()
    with pytest.raises(InvalidArgument) as from_resident:
        await service.inbox.WriteToUnit(
            inbox_pb2.WriteToUnitRequest(
                parent=mailbox, unit=unit, title="T", body=script, request_id="01890000-0000-7000-8000-000000000000"
            )
        )
    assert from_resident.value.reason == "MARKDOWN_REFUSED"


async def test_a_text_comes_once_per_language(service: Service):
    refused = await refusal(service, await sending(service, bodies=[Body(language="en", text="Again.")]))
    assert refused.reason == "FIELD_INVALID"


async def test_an_action_ends_after_it_begins_and_is_called_once_per_language(service: Service):
    label = LocalizedText(language="en", text="Pay")
    action = Action(kind=Action.KIND_PAYMENT, labels=[label], uri="https://pay.city.example/1")
    action.start_time.FromSeconds(2_000_000_000)
    action.end_time.FromSeconds(2_000_000_000)
    assert (await refusal(service, await sending(service, actions=[action]))).reason == "TIME_INVALID"
    action.end_time.FromSeconds(2_000_000_001)
    action.labels.append(label)
    assert (await refusal(service, await sending(service, actions=[action]))).reason == "FIELD_INVALID"
    del action.labels[1:]
    sent = await service.messages.SendMessage(await sending(service, actions=[action]))
    assert list(sent.actions) == [action]
