"""The examples, run as a new user runs them, one after the other."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from solmu.messages.v1 import letters_pb2, messages_pb2

from deploy.local.node import Node
from gateway.client import Client, Profile, examples

HOME = {
    "recipientName": "Aino Aalto",
    "streetAddress": "Kotikatu 1",
    "postalCode": "00100",
    "locality": "HELSINKI",
    "countryCode": "FI",
}
PATIENCE = 30.0


async def run(example: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", f"{examples.__name__}.{example}", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def letter(node: Node) -> None:
    """Has a letter wait for the print house."""
    async with Client(Profile.load(node.state.clients / "permits")) as office:
        message = {
            "recipient": {"postalAddress": HOME},
            "title": "Water will be shut off on Monday",
            "bodies": [{"language": "en", "text": "From 9 to 12, in the whole street."}],
        }
        asked = {"parent": "units/permits", "idempotencyKey": str(uuid.uuid4()), "message": message}
        request = json_format.ParseDict(asked, messages_pb2.SendMessageRequest())
        sent = await office.call(office.messages.SendMessage, request)
    async with Client(Profile.load(node.state.clients / "print-house")) as house, asyncio.timeout(PATIENCE):
        # The node makes the PDF within a second or two: a claim of an instant says when it is there.
        while True:
            claim = letters_pb2.ClaimLettersRequest(lease=Duration(seconds=1))
            claimed = await house.call(house.letters.ClaimLetters, claim)
            if any(one.name.endswith(sent.name.rpartition("/")[2]) for one in claimed.letters):
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.1)


async def test_the_usual_jobs_work_as_they_stand(node: Node, tmp_path: Path):
    clients, case = node.state.clients, f"case-{uuid.uuid4()}"
    decision, saved = tmp_path / "decision.pdf", tmp_path / "saved"
    decision.write_bytes(b"%PDF-1.4 a decision " * 1000)
    saved.mkdir()

    assert "may have" in await run("register_client", clients / "operator")
    assert "units/library" in await run("make_unit", clients / "operator")
    assert "is open" in await run("open_mailbox", clients / "resident")
    assert "sent: units/permits" in await run("send_decision", clients / "permits", decision, case)
    assert "sent before: units/permits" in await run("send_decision", clients / "permits", decision, case)
    assert "0: units/permits" in await run("send_many", clients / "permits", f"batch-{case}")
    assert (await run("list_messages", clients / "permits")).count(case) == 1
    assert "A decision in your case" in await run("read_mailbox", clients / "resident", saved)
    assert (saved / "decision.pdf").read_bytes() == decision.read_bytes()
    assert "delivery.opened" in await run("follow_events", clients / "permits", tmp_path / "cursor")
    assert "resident" in await run("who_looked", clients / "resident")
    await letter(node)
    assert "1 pages to" in await run("print_letters", clients / "print-house", saved)
    assert "revoked at" in await run("revoke_client", clients / "operator")


def test_there_are_eleven_examples():
    folder = Path(examples.__file__).parent
    assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) == 11
