"""`messages` and `events`: what a unit sends, and what becomes of it."""

from __future__ import annotations

import argparse
import sys
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Any

from solmu.messages.v1 import messages_pb2
from solmu.messages.v1.messages_pb2 import Message, MessageAttachment, SendMessageRequest
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.client import following
from gateway.client.client import Client
from gateway.client.command import lines
from gateway.client.command.output import Output, UsageError, aligned, label, plain
from services.runtime import status

DEMO_UNIT = "units/permits"


def add(commands: Any) -> None:
    """Adds the commands."""
    group = commands.add_parser("messages", help="send messages of a unit, and see them")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    send = actions.add_parser("send", help="send a message; the text comes from --text or standard input")
    _unit(send)
    to = send.add_mutually_exclusive_group(required=True)
    to.add_argument("--mailbox", metavar="mailboxes/ID", help="to whom")
    to.add_argument("--person-from", type=Path, metavar="FILE", help="a file with the identity code of whom it is to")
    send.add_argument("--title", required=True)
    send.add_argument("--text", help="the text (default: standard input)")
    send.add_argument("--language", default="en", help="of title and text (default: en)")
    send.add_argument(
        "--attach", type=Path, action="append", default=[], metavar="FILE", help="the first is the main one"
    )
    send.add_argument("--key", help="idempotency key: the same message is sent once however often this is run")
    send.add_argument("--correlation-id", default="", help="comes back in every event")
    send.set_defaults(remote=_send)

    many = actions.add_parser("send-many", help="send what a file says; run again, it sends what was not sent yet")
    many.add_argument("file", type=Path, help="JSON lines, each a SendMessageRequest of the contract with its key")
    many.set_defaults(remote=_send_many)

    download = actions.add_parser("download", help="save a message's attachments")
    download.add_argument("name", metavar="units/UNIT/messages/ID")
    download.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="where (default: here)")
    download.set_defaults(remote=_download)

    listing = actions.add_parser("list", help="list a unit's messages, latest first")
    _unit(listing)
    listing.add_argument("-n", "--number", type=int, default=50, help="at most so many (default: 50)")
    listing.set_defaults(remote=_list)

    show = actions.add_parser("show", help="show a message")
    show.add_argument("name", metavar="units/UNIT/messages/ID")
    show.set_defaults(remote=_show)

    events = commands.add_parser("events", help="what happens to a unit's messages")
    actions = events.add_subparsers(dest="action", required=True, metavar="ACTION")
    follow = actions.add_parser("follow", help="print each event as it happens, until interrupted")
    _unit(follow)
    follow.add_argument("--cursor", type=Path, metavar="FILE", help="remembers where to go on")
    follow.add_argument("--type", action="append", default=[], metavar="TYPE", help="only these; may be given again")
    follow.add_argument("-n", "--number", type=int, default=0, help="end after so many")
    follow.set_defaults(remote=_follow)


def _unit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unit", default=DEMO_UNIT, metavar="units/ID", help=f"default: {DEMO_UNIT}")


async def _send(client: Client, given: argparse.Namespace, out: Output) -> None:
    recipient = messages_pb2.Recipient(mailbox=given.mailbox or "")
    if given.person_from:
        # Never on the command line, which every user of a machine can read.
        code = given.person_from.read_text(encoding="utf-8").strip()
        person = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=code)
        recipient = messages_pb2.Recipient(identifier=person)
    text = given.text if given.text is not None else sys.stdin.read()
    if not text:
        raise UsageError("the message has no text: give --text, or write it to standard input")
    attachments: list[MessageAttachment] = []
    for file in given.attach:
        with out.bar(file.name) as bar:
            uploaded = await client.upload_file(file, progress=bar)
        role = MessageAttachment.ROLE_APPENDIX if attachments else MessageAttachment.ROLE_MAIN
        attachments.append(MessageAttachment(attachment=uploaded.name, role=role))
    request = messages_pb2.SendMessageRequest(
        parent=given.unit,
        idempotency_key=given.key or str(uuid.uuid4()),
        message=Message(
            recipient=recipient,
            title=given.title,
            bodies=[messages_pb2.Body(language=given.language, text=text)],
            attachments=attachments,
            correlation_id=given.correlation_id,
        ),
    )
    sent = await client.call(client.messages.SendMessage, request)
    if out.as_json:
        out.one(sent)
    else:
        print(sent.name)


async def _send_many(client: Client, given: argparse.Namespace, out: Output) -> int:
    """Prints what was refused, and how many; with --json the result of each."""
    count = sum(1 for _ in lines.read(given.file, SendMessageRequest))
    refused: list[str] = []
    with out.bar("messages", str) as bar:
        async with aclosing(client.send_all(lines.read(given.file, SendMessageRequest))) as results:
            async for result in results:
                if out.as_json:
                    out.line(plain(result))
                if result.HasField("refusal"):
                    fault = status.from_status(result.refusal)
                    refused.append(f"{result.idempotency_key}: {fault}")
                bar(result.index + 1, count)
    if not out.as_json:
        print("\n".join([*refused, f"{count - len(refused)} sent, {len(refused)} refused"]))
    return 1 if refused else 0


async def _download(client: Client, given: argparse.Namespace, out: Output) -> None:
    """Writes over nothing that is there."""
    asked = messages_pb2.GetMessageRequest(name=given.name)
    message = await client.call(client.messages.GetMessage, asked)
    given.to.mkdir(parents=True, exist_ok=True)
    for attachment in message.attachments:
        file = given.to / Path(attachment.file_name).name  # of somebody else's making
        if file.exists():
            raise UsageError(f"{file} is there already")
        with out.bar(file.name) as bar:
            await client.download_file(
                attachment.attachment, file, sha256=attachment.sha256, size=attachment.size_bytes, progress=bar
            )
        if out.as_json:
            out.line({"file": str(file), "bytes": attachment.size_bytes})
        else:
            print(file)


async def _list(client: Client, given: argparse.Namespace, out: Output) -> None:
    request = messages_pb2.ListMessagesRequest(parent=given.unit, page_size=min(given.number, 100))
    found: list[Message] = []
    async with aclosing(client.items(client.messages.ListMessages, request)) as listed:
        async for message in listed:
            found.append(message)
            if len(found) == given.number:
                break
    rows = [
        (
            message.create_time.ToJsonString()[:19],
            label(Message.State.Name(message.state)),
            message.name,
            message.correlation_id,
            message.title,
        )
        for message in found
    ]
    out.table(("sent", "state", "message", "correlation id", "title"), found, rows)


async def _show(client: Client, given: argparse.Namespace, out: Output) -> None:
    out.one(await client.call(client.messages.GetMessage, messages_pb2.GetMessageRequest(name=given.name)))


async def _follow(client: Client, given: argparse.Namespace, out: Output) -> None:
    number = 0
    async with aclosing(client.follow(given.unit, cursor=given.cursor, types=given.type)) as events:
        async for event in events:
            number += 1
            if out.as_json:
                out.line(plain(event))
            else:
                row = (event.time.ToJsonString()[:19], event.type.ljust(22), event.message, event.correlation_id)
                print(out.cut(aligned([row])[0]), flush=True)
            if number == given.number:
                following.write_cursor(given.cursor, event.cursor)
                return
