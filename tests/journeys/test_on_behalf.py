"""Mail of others, read and answered as long as they, or the registers, have it so (J2)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.mandates_pb2 import Mandate
from solmu.authorisations.v1.parties_pb2 import ValidityPeriod
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import Actor, LocalizedText, NationalIdentifier

from deploy.local.demo import make_decision
from deploy.local.node import Node
from gateway.client import Client, Fault
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import HELSINKI, Keeper, known_as, mail_theme
from tests.journeys.mandates import MAIL as THEME
from tests.journeys.test_parent import born, custody

UNIT, OTHER_UNIT = "pensions", "libraries"
MAIL = ("attachments.read", "attachments.write", "mailbox.read", "mailbox.write")
OFFICE = ("attachments.read", "attachments.write", "messages.read", "messages.send", "units.manage", "themes.manage")
MANDATES = ("mandates.read", "mandates.write")
MOMENT = 3.0
"""Seconds after which nobody acts by a mandate that has been revoked, whatever is away; usually it is milliseconds."""

TODAY = datetime.now(HELSINKI).date()
Message = messages_pb2.Message


class Acting(Client):
    """Calls in another's name."""

    def __init__(self, actor: Client, principal: str, *, specifier: str = "") -> None:
        super().__init__(actor.profile.acting_for(principal, theme=THEME, specifier=specifier))

    async def open(self, name: str) -> inbox_pb2.InboxMessage:
        """Opens a message once, without trying again."""
        return await self.call(self.inbox.OpenInboxMessage, inbox_pb2.OpenInboxMessageRequest(name=name), attempts=1)

    async def refusal(self, name: str) -> tuple[str, str]:
        """Why a message cannot be opened."""
        with pytest.raises(Fault) as refused:
            await self.open(name)
        return refused.value.reason, refused.value.metadata.get("reason", "")

    async def ended(self, name: str) -> tuple[str, str]:
        """Why a message cannot be opened any more: what has ended is known everywhere within MOMENT."""
        async with asyncio.timeout(MOMENT):
            while True:
                try:
                    await self.open(name)
                except Fault as refused:
                    return refused.reason, refused.metadata.get("reason", "")


@dataclass
class Principal:
    """A party with a mailbox, and its own client."""

    client: Client
    box: str
    party: str

    async def gives(self, delegate: NationalIdentifier, *, kind: Any = Mandate.KIND_ACT, specifier: str = "") -> str:
        """A new mandate for its mail."""
        until = ValidityPeriod(last_day=(TODAY + timedelta(days=365)).isoformat())
        mandate = Mandate(kind=kind, theme=THEME, specifier=specifier, delegate=known_as(delegate), validity=until)
        stub = self.client.stub(MandateServiceStub)
        return str((await self.client.call(stub.CreateMandate, api.CreateMandateRequest(mandate=mandate))).name)

    async def revokes(self, mandate: str) -> None:
        stub = self.client.stub(MandateServiceStub)
        await self.client.call(stub.RevokeMandate, api.RevokeMandateRequest(name=mandate), attempts=1)

    async def looks(self) -> list[mailboxes_pb2.Access]:
        """Who looked at its mail."""
        request = mailboxes_pb2.ListAccessesRequest(parent=self.box)
        return list((await self.client.call(self.client.mailboxes.ListAccesses, request)).accesses)


async def principal(client: Client) -> Principal:
    """A party that opens its mailbox."""
    opened = await client.call(client.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())
    return Principal(client, opened.name, opened.party)


@pytest.fixture(scope="module")
async def office(node: Node) -> AsyncIterator[Client]:
    """The office that writes; it has made the theme of mandates for mail and two units."""
    async with client_of(node, organisation(2468013), *OFFICE) as client:
        await mail_theme(client)
        for unit in (UNIT, OTHER_UNIT):
            described = units_pb2.Unit(display_names=[LocalizedText(language="en", text=unit)])
            await client.call(client.units.CreateUnit, units_pb2.CreateUnitRequest(unit_id=unit, unit=described))
        yield client


async def send(office: Client, to: Principal, title: str, *, unit: str = UNIT, **fields: Any) -> str:
    """Sends a message; answers its name in the mailbox."""
    message = Message(
        recipient=messages_pb2.Recipient(mailbox=to.box),
        title=title,
        bodies=[messages_pb2.Body(language="en", text="Read this.")],
        reply_policy=messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS),
        **fields,
    )
    request = messages_pb2.SendMessageRequest(
        parent=f"units/{unit}", message=message, idempotency_key=str(uuid.uuid4())
    )
    sent = await office.call(office.messages.SendMessage, request)
    return f"{to.box}/messages/{sent.name.split('/')[3]}"


async def seen_by_office(office: Client, message: str) -> Message:
    name = f"units/{UNIT}/messages/{message.split('/')[3]}"
    return await office.call(office.messages.GetMessage, messages_pb2.GetMessageRequest(name=name))


async def mailboxes(client: Client) -> list[mailboxes_pb2.Mailbox]:
    """What a client finds that it may read."""
    return list((await client.call(client.mailboxes.ListMailboxes, mailboxes_pb2.ListMailboxesRequest())).mailboxes)


async def test_a_daughter_reads_and_answers_until_the_mandate_is_revoked(node: Node, office: Client):
    daughters_code = person()
    async with AsyncExitStack() as stack:
        mother = await principal(await stack.enter_async_context(client_of(node, person(), *MAIL, *MANDATES)))
        daughter = await stack.enter_async_context(client_of(node, daughters_code, *MAIL))
        own = await principal(daughter)
        content = make_decision()
        paper = await office.upload(content, file_name="pension.pdf", media_type="application/pdf")
        attached = [messages_pb2.MessageAttachment(attachment=paper.name)]
        letter = await send(office, mother, "Your pension", attachments=attached)
        secret = await send(office, mother, "Your health", visibility=Message.VISIBILITY_RECIPIENT_ONLY)

        # Without a mandate there is neither a mailbox to see nor a token to be had.
        assert [one.name for one in await mailboxes(daughter)] == [own.box]
        async with Acting(daughter, mother.party) as stranger:
            with pytest.raises(Fault) as fault:
                await stranger.token()
            assert fault.value.reason == "OAUTH_INVALID_AUTHORIZATION_DETAILS"

        # With one she finds the mailbox, and in it what the sender lets her see.
        mandate = await mother.gives(daughters_code)
        assert [(one.name, one.unread_count) for one in await mailboxes(daughter)] == [(own.box, 0), (mother.box, 1)]
        acting = await stack.enter_async_context(Acting(daughter, mother.party))
        shown = await acting.rest("GET", f"/v1/{mother.box}/messages")
        assert [one["title"] for one in shown["messages"]] == ["Your pension"]
        opened = await acting.rest("POST", f"/v1/{letter}:open", {})
        assert opened["bodies"][0]["text"] == "Read this."
        assert await acting.download(f"{letter}/{paper.name}") == content
        assert (await acting.refusal(secret))[0] == "RESOURCE_NOT_FOUND"

        # She answers, with a paper of her own; the office reads who wrote for whom, and that her look counts.
        form = await acting.upload(make_decision(), file_name="form.pdf", media_type="application/pdf")
        reply = inbox_pb2.WriteToUnitRequest(
            parent=mother.box,
            in_reply_to=letter,
            title="The form",
            body=messages_pb2.Body(language="en", text="For my mother."),
            attachments=[messages_pb2.MessageAttachment(attachment=form.name)],
            request_id=str(uuid.uuid4()),
        )
        written = await acting.call(acting.inbox.WriteToUnit, reply)
        client = f"clients/{daughter.profile.client_id}"
        acted = Actor(party=mother.party, acting_party=own.party, mandate=mandate, client=client)
        assert (await seen_by_office(office, written.name)).sender == acted
        (delivery,) = (await seen_by_office(office, letter)).deliveries
        assert (delivery.state, delivery.actor) == (messages_pb2.Delivery.STATE_OPENED, acted)

        # The right covers her mother's mail and nothing else.
        for verb, path in (("GET", "accesses"), ("GET", "contacts"), ("POST", ":close"), ("POST", ":export")):
            with pytest.raises(Fault) as fault:
                await acting.rest(verb, f"/v1/{mother.box}{'/' if verb == 'GET' else ''}{path}")
            assert fault.value.reason == "MANDATE_NOT_ENOUGH", path

        # Her mother reads of each of her looks, and ends it: the very next call is refused, with the same token.
        hers = [look for look in await mother.looks() if look.actor.acting_party == own.party]
        assert {(look.actor.mandate, look.actor.client) for look in hers} == {(mandate, client)}
        methods = {"ListMailboxes", "ListInboxMessages", "OpenInboxMessage", "DownloadAttachment", "WriteToUnit"}
        assert {look.method for look in hers} == methods
        await mother.revokes(mandate)
        assert await acting.ended(letter) == ("MANDATE_MISSING", "NO_RIGHT")
        with pytest.raises(Fault) as fault:
            await acting.rest("GET", f"/v1/{mother.box}/messages")
        assert (fault.value.code, fault.value.reason) == ("PERMISSION_DENIED", "MANDATE_MISSING")
        assert [one.name for one in await mailboxes(daughter)] == [own.box]


async def test_a_mandate_for_mail_with_one_unit_opens_nothing_of_another(node: Node, office: Client):
    reader_code = person()
    async with (
        client_of(node, person(), *MAIL, *MANDATES) as client,
        client_of(node, reader_code, *MAIL) as reader,
    ):
        owner = await principal(client)
        book = await send(office, owner, "Your book is due", unit=OTHER_UNIT)
        pension = await send(office, owner, "Your pension")
        await owner.gives(reader_code, specifier=f"units/{OTHER_UNIT}")
        async with Acting(reader, owner.party, specifier=f"units/{OTHER_UNIT}") as acting:
            listing = inbox_pb2.ListInboxMessagesRequest(parent=owner.box)
            shown = await acting.call(acting.inbox.ListInboxMessages, listing)
            assert [one.title for one in shown.messages] == ["Your book is due"]
            assert (await acting.open(book)).bodies
            assert (await acting.refusal(pension))[0] == "RESOURCE_NOT_FOUND"


async def test_a_parent_reads_a_childs_mail_while_the_register_says_so(node: Node, office: Client):
    birth_day = born(TODAY, days_to_birthday=60)
    parents_code, childs_code = person(), person(birth_day)
    async with (
        client_of(node, organisation(1357913), "registers.manage", "registers.import") as register,
        client_of(node, parents_code, *MAIL) as parent,
        client_of(node, childs_code, *MAIL) as client,
    ):
        child = await principal(client)
        letter = await send(office, child, "Your school")
        keeper = Keeper(register)
        await keeper.open("custody")
        await keeper.says(custody(parents_code, childs_code, birth_day))
        assert [one.name for one in await mailboxes(parent)] == [child.box]
        async with Acting(parent, child.party) as acting:
            assert (await acting.open(letter)).bodies
            (delivery,) = (await seen_by_office(office, letter)).deliveries
            assert delivery.actor.acting_party.startswith("persons/")
            assert (delivery.actor.party, delivery.actor.mandate) == (child.party, ""), "by register, not by mandate"
            await keeper.says(custody(parents_code, person(birth_day), birth_day))
            assert await acting.ended(letter) == ("MANDATE_MISSING", "NO_RIGHT")


async def test_an_accountant_reads_a_companys_mail_through_the_firm(node: Node, office: Client):
    firms_code, accountants_code = organisation(9753186), person()
    async with (
        client_of(node, organisation(8642097), *MAIL, *MANDATES) as companys,
        client_of(node, firms_code, *MAIL, *MANDATES) as firms,
        client_of(node, accountants_code, *MAIL) as accountant,
    ):
        company, firm = await principal(companys), await principal(firms)
        letter = await send(office, company, "Your taxes")
        act = await company.gives(firms_code)
        represent = await firm.gives(accountants_code, kind=Mandate.KIND_REPRESENT)
        async with Acting(accountant, company.party) as acting:
            assert (await acting.open(letter)).bodies
            looks = [look.actor for look in await company.looks() if look.method == "OpenInboxMessage"]
            assert [(actor.mandate, actor.through, actor.through_mandate) for actor in looks] == [
                (represent, firm.party, act)
            ]
            await company.revokes(act)
            assert await acting.ended(letter) == ("MANDATE_MISSING", "NO_RIGHT")
