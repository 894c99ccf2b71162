"""A mail server and an SMS provider in this process, which keep what they take."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

PATIENCE = 20.0
"""Seconds that something sent may take to arrive."""


@dataclass
class Mailroom:
    """A mail server. `answers`: what it says to the next recipients in place of taking the mail."""

    port: int = 0
    answers: list[str] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    async def handle_RCPT(  # aiosmtpd's names
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.sessions.append(session)
        return "250 OK"

    def to(self, address: str) -> list[EmailMessage]:
        """What has come for an address."""
        return [mail for mail in self.mails if mail["To"] == address]

    async def next_to(self, address: str, number: int = 1) -> EmailMessage:
        """The mail of this number for an address, once it has come."""
        async with asyncio.timeout(PATIENCE):
            while len(self.to(address)) < number:
                await asyncio.sleep(0.05)
        return self.to(address)[number - 1]


@asynccontextmanager
async def mailroom(
    *, context: ssl.SSLContext | None = None, login: bytes | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Mailroom]:
    """A mail server on loopback; with a `context` it has STARTTLS, with a `login` it wants this password."""
    room = Mailroom()

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=data.password == login)

    def protocol() -> SMTP:
        return SMTP(
            room,
            tls_context=context,
            authenticator=check if login else None,
            auth_required=login is not None,
            loop=asyncio.get_running_loop(),
        )

    server = await asyncio.get_running_loop().create_server(protocol, host, port)
    room.port = server.sockets[0].getsockname()[1]
    try:
        yield room
    finally:
        server.close()
        await server.wait_closed()


@dataclass
class Provider:
    """An SMS provider. `answers`: statuses of the next answers, in place of 202."""

    uri: str = ""
    answers: list[int] = field(default_factory=list)
    taken: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def take(self, asked: web.Request) -> web.Response:
        status = self.answers.pop(0) if self.answers else 202
        if status == 202:
            self.taken.append(json.loads(await asked.read()))
            self.headers.append(dict(asked.headers))
        return web.Response(status=status, headers={"Location": self.uri})


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """An SMS provider on loopback."""
    found = Provider()
    application = web.Application()
    application.router.add_post("/sms", found.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    found.uri = f"http://127.0.0.1:{port}/sms"
    yield found
    await runner.cleanup()
