"""The client against a node: transfers that break, feeds that are taken up again, tokens that go stale."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import uuid
from contextlib import aclosing
from pathlib import Path

import pytest
from solmu.messages.v1 import messages_pb2

from deploy.local.node import Node
from gateway.client import Client, DataLoss, Profile
from tests.integration.client.cut import cutting

MEGABYTE = 1 << 20


def profile(node: Node, client: str = "permits", *, edge: str = "") -> Profile:
    loaded = Profile.load(node.state.clients / client)
    return dataclasses.replace(loaded, edge=edge or loaded.edge)


async def mailbox_of(node: Node) -> str:
    async with Client(profile(node, "resident")) as resident:
        return str((await resident.rest("POST", "/v1/mailboxes:open", {}))["name"])


async def sent(office: Client, mailbox: str) -> messages_pb2.Message:
    request = messages_pb2.SendMessageRequest(
        parent="units/permits",
        idempotency_key=str(uuid.uuid4()),
        message=messages_pb2.Message(
            recipient=messages_pb2.Recipient(mailbox=mailbox),
            title="A notice",
            bodies=[messages_pb2.Body(language="en", text="Of something.")],
        ),
    )
    return await office.call(office.messages.SendMessage, request)


async def test_an_upload_and_a_download_go_on_where_they_broke_off(node: Node, tmp_path: Path):
    big = tmp_path / "big.txt"
    big.write_text(secrets.token_hex(3 * MEGABYTE))
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    told: list[tuple[int, int]] = []
    # Connections are cut in the middle of what they carry, again and again.
    shares = iter([1 << 40, 2 * MEGABYTE, 2 * MEGABYTE])
    async with cutting(node.edge, shares) as edge, Client(profile(node, edge=edge)) as office:
        attachment = await office.upload_file(big, progress=lambda done, total: told.append((done, total)))
    assert next(shares, None) is None, "nothing was cut"
    assert attachment.sha256 == digest
    assert told[-1] == (6 * MEGABYTE, 6 * MEGABYTE)

    back, shares = tmp_path / "back.txt", iter([1 << 40, 2 * MEGABYTE, 2 * MEGABYTE])
    async with cutting(node.edge, shares) as edge, Client(profile(node, edge=edge)) as office:
        await office.download_file(attachment.name, back, sha256=digest)
    assert next(shares, None) is None, "nothing was cut"
    assert hashlib.sha256(back.read_bytes()).hexdigest() == digest
    assert not back.with_name("back.txt.part").exists()


async def test_a_download_that_is_not_what_was_promised_leaves_nothing(node: Node, tmp_path: Path):
    async with Client(profile(node)) as office:
        attachment = await office.upload(b"content", file_name="a.txt", media_type="text/plain")
        with pytest.raises(DataLoss):
            await office.download_file(attachment.name, tmp_path / "a.txt", sha256="0" * 64)
    assert not os.listdir(tmp_path)  # noqa: PTH208 - of a folder with nothing in it


async def test_a_feed_is_taken_up_at_the_saved_cursor(node: Node, tmp_path: Path):
    mailbox, cursor = await mailbox_of(node), tmp_path / "cursor"
    async with Client(profile(node)) as office:
        first, second = await sent(office, mailbox), await sent(office, mailbox)
        seen: list[str] = []
        async with aclosing(office.follow("units/permits", cursor=cursor, types=["message.accepted"])) as events:
            async for event in events:
                seen.append(event.message)
                if event.message == first.name:
                    break
        async with aclosing(office.follow("units/permits", cursor=cursor, types=["message.accepted"])) as events:
            again = [(await anext(events)).message, (await anext(events)).message]
    # The event during which the reader left comes again; none before it does.
    assert again == [first.name, second.name]


async def test_a_list_is_read_page_after_page(node: Node):
    mailbox = await mailbox_of(node)
    async with Client(profile(node)) as office:
        names = [(await sent(office, mailbox)).name for _ in range(3)]
        request = messages_pb2.ListMessagesRequest(parent="units/permits", page_size=1)
        found = [message.name async for message in office.items(office.messages.ListMessages, request)]
    assert found[:3] == names[::-1]


async def test_a_token_that_has_gone_stale_is_replaced_in_the_same_call(node: Node):
    async with Client(profile(node)) as office:
        token = await office.token()
        office._token = token[:-8] + ("A" * 8 if not token.endswith("A" * 8) else "B" * 8)
        request = messages_pb2.ListMessagesRequest(parent="units/permits")
        assert await office.call(office.messages.ListMessages, request)
