"""A daughter reads and answers her mother's mail, until the mandate is revoked (J2)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from solmu.authorisations.v1 import (
    clients_pb2,
    mandate_service_pb2,
    mandate_service_pb2_grpc,
    mandates_pb2,
    parties_pb2,
    themes_pb2,
    themes_pb2_grpc,
)
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from deploy.local import demo_clients
from deploy.local.demo import make_decision
from deploy.local.demo_clients import DemoClient
from deploy.local.node import Node
from gateway.client import Client, Fault, Profile
from services.authorisations.exchange import ACCESS_TOKEN, TOKEN_EXCHANGE

THEME = "themes/mail"
UNIT = "pensions"
Message = messages_pb2.Message
MAIL = ("attachments.read", "attachments.write", "mailbox.read", "mailbox.write")

OFFICE = DemoClient(
    client_id="pensions",
    display_name="Back-office system of the pensions office",
    owner=demo_clients.CITY,
    scopes=(
        *("attachments.read", "attachments.write", "messages.read", "messages.send"),
        *("units.manage", "themes.manage", "clients.manage"),
    ),
)
MOTHER = DemoClient(
    client_id="mother",
    display_name="Mailbox of a mother",
    owner={"scheme": "FI_HETU", "value": "010150-9500"},
    scopes=(*MAIL, "mandates.read", "mandates.write"),
)
DAUGHTER = DemoClient(
    client_id="daughter",
    display_name="Mailbox of a daughter",
    owner={"scheme": "FI_HETU", "value": "010175-950E"},
    scopes=MAIL,
)


class Acting(Client):
    """Calls in another's name, with tokens exchanged for one's own."""

    def __init__(self, actor: Client, principal: str, *, theme: str = THEME, specifier: str = "") -> None:
        super().__init__(actor.profile)
        self._actor = actor
        self._detail = {"type": "mandate", "principal": principal, "theme": theme}
        if specifier:
            self._detail["specifier"] = specifier

    async def token(self) -> str:
        if not self._token:
            form = {
                "grant_type": TOKEN_EXCHANGE,
                "client_id": self.profile.client_id,
                "subject_token": await self._actor.token(),
                "subject_token_type": ACCESS_TOKEN,
                "authorization_details": json.dumps([self._detail]),
            }
            self._token = (await self._json("POST", "/oauth2/token", data=form))["access_token"]
        return self._token


@dataclass
class Family:
    """A mother and her daughter, and the office that writes to the mother."""

    office: Client
    mother: Client
    daughter: Client
    mailbox: mailboxes_pb2.Mailbox
    """The mother's."""
    daughter_party: str

    async def mandate(self, specifier: str = "") -> mandates_pb2.Mandate:
        """A new mandate for the mother's mail."""
        mandate = mandates_pb2.Mandate(
            kind=mandates_pb2.Mandate.KIND_ACT,
            theme=THEME,
            specifier=specifier,
            delegate=parties_pb2.Party(name=self.daughter_party),
            validity=parties_pb2.ValidityPeriod(last_day="2027-06-30"),
        )
        request = mandate_service_pb2.CreateMandateRequest(mandate=mandate, request_id=str(uuid.uuid4()))
        stub = self.mother.stub(mandate_service_pb2_grpc.MandateServiceStub)
        return await self.mother.call(stub.CreateMandate, request)

    async def revoke(self, mandate: mandates_pb2.Mandate) -> None:
        stub = self.mother.stub(mandate_service_pb2_grpc.MandateServiceStub)
        await self.mother.call(stub.RevokeMandate, mandate_service_pb2.RevokeMandateRequest(name=mandate.name))

    async def send(self, title: str, *, unit: str = UNIT, **fields: Any) -> str:
        """Sends the mother a message; answers its name in her mailbox."""
        reply = messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS)
        body = messages_pb2.Body(language="en", text="Read this.")
        recipient = messages_pb2.Recipient(mailbox=self.mailbox.name)
        message = Message(recipient=recipient, title=title, bodies=[body], reply_policy=reply, **fields)
        request = messages_pb2.SendMessageRequest(
            parent=f"units/{unit}", message=message, idempotency_key=str(uuid.uuid4())
        )
        sent = await self.office.call(self.office.messages.SendMessage, request)
        return f"{self.mailbox.name}/messages/{sent.name.split('/')[3]}"


async def register(operator: Client, node: Node, client: DemoClient) -> Client:
    demo_clients.equip(node.state, client, node=node.settings.node, edge=node.edge)
    described = clients_pb2.Client(
        display_name=client.display_name, owner=demo_clients.identifier(client.owner), scopes=client.scopes
    )
    request = clients_pb2.CreateClientRequest(client_id=client.client_id, client=described)
    await operator.call(operator.clients.CreateClient, request, attempts=5)
    return Client(Profile.load(node.state.clients / client.client_id))


@pytest.fixture(scope="module")
async def family(node: Node) -> AsyncIterator[Family]:
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(
            Client(Profile.load(node.state.clients / demo_clients.OPERATOR.client_id))
        )
        office, mother, daughter = [
            await stack.enter_async_context(await register(operator, node, client))
            for client in (OFFICE, MOTHER, DAUGHTER)
        ]
        names = [LocalizedText(language="en", text="Pensions")]
        for unit in (UNIT, "libraries"):
            request = units_pb2.CreateUnitRequest(unit_id=unit, unit=units_pb2.Unit(display_names=names))
            await operator.call(operator.units.CreateUnit, request)
        theme = themes_pb2.Theme(
            titles=[LocalizedText(language="en", text="Reading and writing mail")],
            longest_terms=[
                themes_pb2.Theme.LongestTerm(kind=kind, months=60)
                for kind in (mandates_pb2.Mandate.KIND_ACT, mandates_pb2.Mandate.KIND_REPRESENT)
            ],
            specifier_rule=themes_pb2.Theme.SpecifierRule(
                pattern="units/[a-z0-9-]{3,63}", titles=[LocalizedText(language="en", text="The unit")]
            ),
        )
        themes = office.stub(themes_pb2_grpc.ThemeServiceStub)
        made = await office.call(
            themes.CreateTheme, themes_pb2.CreateThemeRequest(theme_id=THEME.split("/")[1], theme=theme)
        )
        await office.call(themes.ActivateTheme, themes_pb2.ActivateThemeRequest(name=made.name, etag=made.etag))
        open_ = mailboxes_pb2.OpenMailboxRequest()
        mailbox = await mother.call(mother.mailboxes.OpenMailbox, open_)
        own = await daughter.call(daughter.mailboxes.OpenMailbox, open_)
        yield Family(office, mother, daughter, mailbox, own.party)


async def refusal(client: Client, message: str, *, within: float = 0) -> Fault:
    """Why a message cannot be opened; `within` so many seconds at most."""
    request = inbox_pb2.OpenInboxMessageRequest(name=message)
    async with asyncio.timeout(within or None):
        while True:
            try:
                await client.call(client.inbox.OpenInboxMessage, request, attempts=1)
            except Fault as refused:
                return refused
            assert within, "it was opened"
            await asyncio.sleep(0.02)


async def test_a_daughter_reads_and_answers_until_the_mandate_is_revoked(family: Family):
    mother, daughter, box = family.mother, family.daughter, family.mailbox.name
    content = make_decision()
    paper = await family.office.upload(content, file_name="pension.pdf", media_type="application/pdf")
    letter = await family.send("Your pension", attachments=[messages_pb2.MessageAttachment(attachment=paper.name)])
    secret = await family.send("Your health", visibility=Message.VISIBILITY_RECIPIENT_ONLY)

    # Without a mandate there is neither a mailbox to see nor a token to be had.
    listed = await daughter.call(daughter.mailboxes.ListMailboxes, mailboxes_pb2.ListMailboxesRequest())
    assert [one.party for one in listed.mailboxes] == [family.daughter_party]
    async with Acting(daughter, family.mailbox.party) as stranger:
        with pytest.raises(Fault) as refused:
            await stranger.token()
        assert refused.value.reason == "OAUTH_INVALID_AUTHORIZATION_DETAILS"

    # With one she finds the mailbox, and in it what the sender lets her see.
    mandate = await family.mandate()
    listed = await daughter.call(daughter.mailboxes.ListMailboxes, mailboxes_pb2.ListMailboxesRequest())
    assert [(one.name, one.unread_count) for one in listed.mailboxes][1:] == [(box, 1)]
    async with Acting(daughter, family.mailbox.party) as acting:
        shown = await acting.rest("GET", f"/v1/{box}/messages")
        assert [one["title"] for one in shown["messages"]] == ["Your pension"]
        opened = await acting.rest("POST", f"/v1/{letter}:open", {})
        assert opened["bodies"][0]["text"] == "Read this."
        assert await acting.download(f"{letter}/{paper.name}") == content
        assert (await refusal(acting, secret)).reason == "RESOURCE_NOT_FOUND"

        # She answers, with a paper of her own; the office reads who wrote for whom, and that her look counts.
        form = await acting.upload(make_decision(), file_name="form.pdf", media_type="application/pdf")
        reply = inbox_pb2.WriteToUnitRequest(
            parent=box,
            in_reply_to=letter,
            title="The form",
            body=messages_pb2.Body(language="en", text="For my mother."),
            attachments=[messages_pb2.MessageAttachment(attachment=form.name)],
            request_id=str(uuid.uuid4()),
        )
        written = await acting.call(acting.inbox.WriteToUnit, reply)
        acted = (family.mailbox.party, family.daughter_party, mandate.name, "clients/daughter")
        unit_side = f"units/{UNIT}/messages/"
        received = await family.office.rest("GET", f"/v1/{unit_side}{written.name.split('/')[3]}")
        sender = received["sender"]
        assert (sender["party"], sender["actingParty"], sender["mandate"], sender["client"]) == acted
        sent = await family.office.rest("GET", f"/v1/{unit_side}{letter.split('/')[3]}")
        viewer = sent["deliveries"][0]["actor"]
        assert sent["deliveries"][0]["state"] == "STATE_OPENED"
        assert (viewer["party"], viewer["actingParty"], viewer["mandate"], viewer["client"]) == acted

        # The right covers her mother's mail and nothing else.
        for path in (f"/v1/{box}/accesses", f"/v1/{box}:close", f"/v1/{box}:export"):
            with pytest.raises(Fault) as refused:
                await acting.rest("GET" if path.endswith("accesses") else "POST", path)
            assert refused.value.reason == "MANDATE_NOT_ENOUGH"

        # Her mother reads of each of her looks, and ends it: at once the same token opens nothing.
        accesses = await mother.call(mother.mailboxes.ListAccesses, mailboxes_pb2.ListAccessesRequest(parent=box))
        hers = [one for one in accesses.accesses if one.actor.acting_party == family.daughter_party]
        assert {(one.actor.mandate, one.actor.client) for one in hers} == {(mandate.name, "clients/daughter")}
        assert {"OpenInboxMessage", "DownloadAttachment", "ListMailboxes"} <= {one.method for one in hers}
        await family.revoke(mandate)
        ended = await refusal(acting, letter, within=3)
        assert (ended.code, ended.reason, ended.metadata["reason"]) == (
            "PERMISSION_DENIED",
            "MANDATE_MISSING",
            "NO_RIGHT",
        )
        with pytest.raises(Fault) as refused:
            await acting.rest("GET", f"/v1/{box}/messages")
        assert refused.value.reason == "MANDATE_MISSING"
    listed = await daughter.call(daughter.mailboxes.ListMailboxes, mailboxes_pb2.ListMailboxesRequest())
    assert len(listed.mailboxes) == 1


async def test_a_mandate_for_mail_with_one_unit_opens_nothing_of_another(family: Family):
    book = await family.send("Your book is due", unit="libraries")
    pension = await family.send("Your pension, again")
    mandate = await family.mandate(specifier="units/libraries")
    async with Acting(family.daughter, family.mailbox.party, specifier="units/libraries") as acting:
        listing = inbox_pb2.ListInboxMessagesRequest(parent=family.mailbox.name)
        shown = await acting.call(acting.inbox.ListInboxMessages, listing)
        assert [one.title for one in shown.messages] == ["Your book is due"]
        await acting.call(acting.inbox.OpenInboxMessage, inbox_pb2.OpenInboxMessageRequest(name=book))
        assert (await refusal(acting, pension)).reason == "RESOURCE_NOT_FOUND"
    await family.revoke(mandate)
