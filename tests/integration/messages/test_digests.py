"""The digest of a document: told to who may see the document, sealed in the database, gone with its key."""

from __future__ import annotations

import asyncio
import hashlib
from uuid import UUID

from solmu.messages.v1 import attachments_pb2, mailboxes_pb2, messages_pb2

from services.messages import digests
from services.runtime.database import Row
from tests.integration.messages.conftest import Service
from tests.integration.messages.print_house import claim_of, compose, letter_to_nobody
from tests.integration.messages.test_attachments import download, reserve, unique, upload
from tests.integration.messages.test_exporting import ask, make_all, shown
from tests.integration.messages.test_sending import request


async def row_of(service: Service, attachment: str) -> Row:
    row = await service.database.fetchrow(
        "select * from attachment where attachment_id = $1", UUID(attachment.split("/")[1])
    )
    assert row is not None
    return row


async def assert_sealed(service: Service, attachment: str, digest: str) -> None:
    stored = repr(dict(await row_of(service, attachment)))
    assert digest not in stored
    assert repr(bytes.fromhex(digest))[2:-1] not in stored


async def told(service: Service, attachment: str) -> str:
    service.act_as(service.city)
    asked = attachments_pb2.GetAttachmentRequest(name=attachment)
    return (await service.attachments.GetAttachment(asked)).sha256


async def test_a_digest_is_told_and_lies_sealed_from_the_reservation_on(service: Service):
    content = unique()
    digest = hashlib.sha256(content).hexdigest()
    reserved = await reserve(service, content)
    assert reserved.sha256 == digest
    await assert_sealed(service, reserved.name, digest)
    assert (await upload(service, reserved, content)).sha256 == digest
    await assert_sealed(service, reserved.name, digest)


async def test_the_digests_of_letters_and_archives_are_told_and_lie_sealed(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    letter = await claim_of(service, message)
    assert letter.sha256 == hashlib.sha256(await download(service, letter.attachment)).hexdigest()
    await assert_sealed(service, letter.attachment, letter.sha256)

    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    running = await ask(service, mailbox)
    await make_all(service)
    archive = (await shown(service, running.name)).attachment
    asked = attachments_pb2.GetAttachmentRequest(name=archive)
    digest = (await service.attachments.GetAttachment(asked)).sha256
    assert digest == hashlib.sha256(await download(service, archive)).hexdigest()
    await assert_sealed(service, archive, digest)


async def test_what_an_earlier_release_left_in_the_clear_is_told_and_then_sealed(service: Service):
    kept, erased = [await upload(service, await reserve(service, content), content) for content in (unique(), unique())]
    for attachment in (kept, erased):
        await service.database.execute(
            "update attachment set sha256 = $2, digest = null where attachment_id = $1",
            UUID(attachment.name.split("/")[1]),
            attachment.sha256,
        )
    assert await told(service, kept.name) == kept.sha256
    await service.database.execute(
        "update attachment set data_key = null where attachment_id = $1", UUID(erased.name.split("/")[1])
    )
    both = (digests.seal_left(database=service.database, vault=service.vault) for _ in range(2))
    assert sum(await asyncio.gather(*both)) == 2
    assert await digests.seal_left(database=service.database, vault=service.vault) == 0
    for attachment in (kept, erased):
        await assert_sealed(service, attachment.name, attachment.sha256)
    assert await told(service, kept.name) == kept.sha256
    assert (await row_of(service, erased.name))["digest"] is None


async def test_a_digest_goes_with_the_mailbox_that_is_erased(service: Service):
    unit, content = await service.unit(), unique()
    identifier, mailbox = await service.resident()
    attachment = await upload(service, await reserve(service, content), content)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=attachment.name)
    sent = await service.messages.SendMessage(asked)
    assert [one.sha256 for one in sent.attachments] == [attachment.sha256]
    await service.mailboxes.EraseMailbox(mailboxes_pb2.EraseMailboxRequest(name=mailbox, justification="asked for"))
    seen = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    assert [one.sha256 for one in seen.attachments] == [""]
