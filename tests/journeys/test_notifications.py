"""A resident confirms her address, and is told of a decision by e-mail without being told what it is."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
from solmu.messages.v1 import messages_pb2

from deploy.local import demo_clients
from deploy.local.node import NodeSettings, running
from gateway.client import Client, Fault, Profile
from tests.mailroom import mailroom

ADDRESS = "resident@example.org"


async def test_a_resident_is_told_of_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with mailroom() as room:
        monkeypatch.setenv("SOLMU_SMTP", f"127.0.0.1:{room.port}")
        monkeypatch.setenv("SOLMU_SMTP_SECURITY", "none")
        monkeypatch.setenv("SOLMU_MAIL_FROM", "City <no-reply@city.example>")
        monkeypatch.setenv("SOLMU_PORTAL", "https://mail.city.example")
        async with running(NodeSettings(state=tmp_path / "state", edge_port=0)) as node:
            clients = node.state.clients
            async with (
                Client(Profile.load(clients / demo_clients.RESIDENT.client_id)) as resident,
                Client(Profile.load(clients / demo_clients.PERMITS.client_id)) as permits,
            ):
                mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
                contact = f"{mailbox}/contacts/email"
                await resident.rest("PUT", f"/v1/{contact}", {"email": ADDRESS, "language": "sv"})
                (code,) = re.findall(r"\b\d{6}\b", (await room.next_to(ADDRESS)).get_content())
                confirmed = await resident.rest("POST", f"/v1/{contact}:confirm", {"code": code})
                assert confirmed["confirmTime"]
                phone = {"phoneNumber": "+358401234567"}
                with pytest.raises(Fault) as refused:
                    await resident.rest("PUT", f"/v1/{mailbox}/contacts/sms", phone)
                assert refused.value.reason == "CHANNEL_NOT_AVAILABLE"

                message = messages_pb2.Message(
                    recipient=messages_pb2.Recipient(mailbox=mailbox),
                    title="Decision on your building permit",
                    bodies=[messages_pb2.Body(language="en", text="Granted.")],
                )
                request = messages_pb2.SendMessageRequest(
                    parent=f"units/{demo_clients.UNIT}", message=message, idempotency_key=str(uuid.uuid4())
                )
                await permits.call(permits.messages.SendMessage, request)
                told = await room.next_to(ADDRESS, 2)
                assert told["Subject"] == "Du har ett nytt meddelande: Permits office"
                assert "https://mail.city.example" in told.get_content()
                assert not re.search("building|Granted", told.as_string())
        logs = "".join(path.read_text() for path in (tmp_path / "state" / "log").iterdir() if path.is_file())
        assert "serving" in logs
        assert ADDRESS not in logs
        assert "building permit" not in logs
