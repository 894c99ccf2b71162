"""A mailbox's owner gets all that is in it as an archive, and nobody else does."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import json_format
from solmu.messages.v1 import contacts_pb2, mailboxes_pb2

from services.messages import exporting
from services.messages.exporting import Exporting
from services.runtime.errors import NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_attachments import CONTENT, download, reserve, upload
from tests.integration.messages.test_sending import request

Export = mailboxes_pb2.MailboxExport


def wired(service: Service) -> Exporting:
    return Exporting(database=service.database, blobs=service.blobs, vault=service.messages._vault)


async def make_all(service: Service, *, later: timedelta = timedelta()) -> None:
    while await wired(service).next(now=datetime.now(UTC) + later):
        pass


async def ask(service: Service, mailbox: str) -> Export:
    return await service.mailboxes.ExportMailbox(mailboxes_pb2.ExportMailboxRequest(name=mailbox))


async def shown(service: Service, name: str) -> Export:
    return await service.mailboxes.GetMailboxExport(mailboxes_pb2.GetMailboxExportRequest(name=name))


async def test_the_archive_holds_messages_and_files(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "PAGE", 2)
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    attachment = await upload(service, await reserve(service))
    sent = []
    for number in range(3):
        asked = request(unit, identifier, key=f"k{number}", title=f"Päätös {number}")
        if number == 1:
            asked.message.attachments.add(attachment=attachment.name)
        sent.append(await service.messages.SendMessage(asked))

    service.act_as(service.parties.name_of(identifier))
    running = await ask(service, mailbox)
    assert (running.state, running.attachment) == (Export.STATE_RUNNING, "")
    await make_all(service)
    ready = await shown(service, running.name)
    assert ready.state == Export.STATE_READY
    assert ready.expire_time.ToDatetime() > ready.create_time.ToDatetime()

    with zipfile.ZipFile(io.BytesIO(await download(service, ready.attachment))) as archive:
        assert archive.testzip() is None
        paths = [f"messages/{message.name.split('/')[3]}" for message in sent]
        file = f"{paths[1]}/{attachment.name.split('/')[1]}/päätös.pdf"
        others = {"contacts.json", "accesses/1.json"}
        assert set(archive.namelist()) == {*(f"{path}.json" for path in paths), file} | others
        assert archive.read(file) == CONTENT
        documents = [json.loads(archive.read(f"{path}.json")) for path in paths]
    assert [document["title"] for document in documents] == ["Päätös 0", "Päätös 1", "Päätös 2"]
    assert documents[0]["bodies"][0]["text"] == "Granted."
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))
    assert [one.method for one in accesses.accesses][:3] == ["DownloadAttachment", "GetMailboxExport", "ExportMailbox"]


async def test_the_archive_holds_who_looked_and_where_the_owner_is_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exporting, "PAGE", 2)
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    contact = contacts_pb2.Contact(name=f"{mailbox}/contacts/email", email="resident@example.org")
    await service.contacts.SetContact(contacts_pb2.SetContactRequest(contact=contact))
    running = await ask(service, mailbox)
    looks = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))
    await make_all(service)
    content = await download(service, (await shown(service, running.name)).attachment)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        told = contacts_pb2.ListContactsResponse()
        json_format.Parse(archive.read("contacts.json"), told)
        assert [one.email for one in told.contacts] == ["resident@example.org"]
        pages = [name for name in archive.namelist() if name.startswith("accesses/")]
        assert pages == ["accesses/1.json", "accesses/2.json"]
        found = [
            look
            for page in pages
            for look in json_format.Parse(archive.read(page), mailboxes_pb2.ListAccessesResponse()).accesses
        ]
    assert found == list(looks.accesses)
    assert [look.method for look in found] == ["ExportMailbox", "SetContact", "OpenMailbox"]


async def test_an_archive_is_its_owners_alone(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    export = await ask(service, mailbox)
    await make_all(service)
    archive = (await shown(service, export.name)).attachment
    service.act_as(service.city)
    for act in (ask(service, mailbox), shown(service, export.name), download(service, archive)):
        with pytest.raises(NotFound):
            await act
    service.act_as(service.parties.name_of(identifier))
    with pytest.raises(NotFound):
        await shown(service, f"{mailbox}/exports/{uuid.uuid4()}")


async def test_an_archive_that_a_dead_process_began_is_made_anew(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    export = await ask(service, mailbox)
    now = datetime.now(UTC)
    await service.database.execute(
        "update mailbox_export set due_time = $1, attempts = 1 where state = 1", now + exporting.CLAIM
    )
    assert not await wired(service).next(now=now)
    await make_all(service, later=exporting.CLAIM)
    assert (await shown(service, export.name)).state == Export.STATE_READY


async def test_what_cannot_be_made_is_given_up(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    export = await ask(service, mailbox)
    await service.database.execute("update mailbox_export set attempts = $1 where state = 1", exporting.MAX_ATTEMPTS)
    await make_all(service)
    assert (await shown(service, export.name)).state == Export.STATE_FAILED


async def test_an_archive_goes_with_its_mailbox(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    export = await ask(service, mailbox)
    await make_all(service)
    archive = (await shown(service, export.name)).attachment
    unmade = await ask(service, mailbox)
    service.act_as(service.city)
    await service.mailboxes.EraseMailbox(mailboxes_pb2.EraseMailboxRequest(name=mailbox, justification="asked for"))
    await make_all(service)
    service.act_as(service.parties.name_of(identifier))
    with pytest.raises(NotFound):
        await download(service, archive)
    assert await service.stored(archive) == []
    made = "select state from mailbox_export where export_id = $1"
    assert await service.database.fetchval(made, uuid.UUID(unmade.name.split("/")[3])) == Export.STATE_FAILED
