"""E-mail, over SMTP with submission to the site's own server (RFC 5321, RFC 6409, RFC 3207)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address as MailAddress
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from enum import StrEnum

import aiosmtplib
from aiosmtplib import SMTP

from services.messages.notifications.ports import Outcome, Outgoing
from services.runtime.config import Address

SECONDS = 10.0
"""For one step of the protocol, to connect included."""

LANES = 4
"""Connections to the server at the same time; each sends one mail after another."""


def well_formed(address: str) -> bool:
    """Whether an address can stand in the header of an e-mail."""
    try:
        return MailAddress(addr_spec=address).addr_spec == address
    except (MessageError, ValueError, IndexError):
        return False


class Security(StrEnum):
    """How the connection is kept from being read."""

    STARTTLS = "starttls"
    """Begun by STARTTLS; without it nothing is sent."""
    TLS = "tls"
    """From the first byte."""
    NONE = "none"
    """Not at all; to this machine only."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server that takes mail over, and how to prove oneself to it."""

    address: Address
    security: Security
    user: str = ""
    password: str = ""
    context: ssl.SSLContext | None = None


class Mail:
    """Sends e-mail from one address, such as `Oulu <no-reply@oulu.example>`."""

    def __init__(self, server: Server, *, sender: str) -> None:
        self._server = server
        name, address = parseaddr(sender)
        self._from = MailAddress(display_name=name, addr_spec=address)

    async def send(self, notifications: Sequence[Outgoing]) -> list[Outcome]:
        """Tries each once. See `Port`."""
        lanes = [notifications[lane::LANES] for lane in range(min(LANES, len(notifications)))]
        done = await asyncio.gather(*(self._in_order(lane) for lane in lanes))
        outcomes = {
            one.notification_id: outcome
            for lane, outcomes in zip(lanes, done, strict=True)
            for one, outcome in zip(lane, outcomes, strict=True)
        }
        return [outcomes[one.notification_id] for one in notifications]

    async def _in_order(self, notifications: Sequence[Outgoing]) -> list[Outcome]:
        """Over one connection; what comes after it has broken has failed, too."""
        outcomes: list[Outcome] = []
        try:
            async with self._connection() as connection:
                for one in notifications:
                    outcomes.append(await self._one(connection, one))  # noqa: PERF401  # those before a break count
        except (aiosmtplib.SMTPException, OSError):
            pass  # the server is away, or wants something else of us
        return outcomes + [Outcome.FAILED] * (len(notifications) - len(outcomes))

    def _connection(self) -> SMTP:
        server = self._server
        return SMTP(
            hostname=server.address.host,
            port=server.address.port,
            use_tls=server.security is Security.TLS,
            start_tls=server.security is Security.STARTTLS,
            tls_context=server.context,
            username=server.user or None,
            password=server.password or None,
            local_hostname=self._from.domain,
            timeout=SECONDS,
        )

    async def _one(self, connection: SMTP, one: Outgoing) -> Outcome:
        try:
            await connection.send_message(self._message(one), sender=self._from.addr_spec, recipients=[one.to])
        except aiosmtplib.SMTPRecipientsRefused as refused:
            final = all(500 <= recipient.code < 600 for recipient in refused.recipients)
            return Outcome.REFUSED if final else Outcome.FAILED
        except aiosmtplib.SMTPDataError as refused:
            return Outcome.REFUSED if 500 <= refused.code < 600 else Outcome.FAILED
        return Outcome.SENT

    def _message(self, one: Outgoing) -> EmailMessage:
        message = EmailMessage(policy=SMTP_POLICY)
        message["From"] = self._from
        message["To"] = MailAddress(addr_spec=one.to)
        message["Subject"] = one.notice.subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = f"<{one.notification_id}@{self._from.domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(one.notice.text)
        message["Content-Language"] = one.notice.language
        return message
