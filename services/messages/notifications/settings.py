"""What the process reads of notifications from its environment."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from services.messages.notifications import texts
from services.messages.notifications.mail import Mail, Security, Server, well_formed
from services.messages.notifications.ports import Port
from services.messages.notifications.rules import Channel
from services.messages.notifications.sms import Sms
from services.runtime.config import Address, ConfigError, address, file, setting, time_zone

logger = logging.getLogger(__name__)


def loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def secret(value: str) -> str:
    """A file with a secret on its one line."""
    return file(value).read_text(encoding="utf-8").strip()


def provider(value: str) -> str:
    """An https address, or one on this machine."""
    parts = urlsplit(value)
    if not parts.hostname or parts.scheme not in ("https", "http"):
        raise ValueError(f"{value!r} is not an https address")
    if parts.scheme == "http" and not loopback(parts.hostname):
        raise ValueError(f"{value!r} would send telephone numbers in the clear")
    return value


def portal(value: str) -> str:
    """An https address."""
    if urlsplit(value).scheme != "https":
        raise ValueError(f"{value!r} is not an https address")
    return value


def mail_address(value: str) -> str:
    """An e-mail address, with a name or without: `Oulu <no-reply@oulu.example>`."""
    address = parseaddr(value)[1]
    if "@" not in address or not well_formed(address):
        raise ValueError(f"{value!r} is not an e-mail address")
    return value


def language(value: str) -> str:
    """A language that the node has words in."""
    if value not in texts.TEXTS:
        raise ValueError(f"{value!r} is none of {', '.join(texts.TEXTS)}")
    return value


@dataclass(frozen=True, kw_only=True)
class NotificationSettings:
    """Where notifications go out, and how they read."""

    smtp: Address | None = setting(
        "SOLMU_SMTP", address, default=None, doc="host:port of the mail server; without it no e-mail is sent"
    )
    smtp_security: Security = setting(
        "SOLMU_SMTP_SECURITY",
        Security,
        default=Security.STARTTLS,
        doc="starttls, tls, or none for a server on this machine",
    )
    smtp_user: str = setting("SOLMU_SMTP_USER", str, default="", doc="name at the mail server; empty: no log-in")
    smtp_password: str = setting(
        "SOLMU_SMTP_PASSWORD", secret, default="", doc="file of the password at the mail server"
    )
    smtp_authorities: Path | None = setting(
        "SOLMU_SMTP_AUTHORITIES", file, default=None, doc="authorities of the mail server, PEM; empty: the system's"
    )
    mail_from: str = setting(
        "SOLMU_MAIL_FROM", mail_address, default="", doc="address of e-mail notifications: Oulu <no-reply@oulu.example>"
    )
    sms: str = setting(
        "SOLMU_SMS", provider, default="", doc="address that takes each SMS as JSON; without it no SMS is sent"
    )
    sms_token: str = setting("SOLMU_SMS_TOKEN", secret, default="", doc="file of the bearer token for SOLMU_SMS")
    portal: str = setting(
        "SOLMU_PORTAL", portal, default="", doc="where residents read their mail, for notifications; empty: not said"
    )
    language: str = setting(
        "SOLMU_LANGUAGE", language, default="en", doc="language of notifications where the resident's is not known"
    )
    zone: ZoneInfo = setting(
        "SOLMU_TIME_ZONE", time_zone, default=ZoneInfo("Europe/Helsinki"), doc="time zone of quiet hours"
    )


def ports(settings: NotificationSettings) -> Mapping[Channel, Port]:
    """The ways of telling residents that this node has. Raises ConfigError where one of them is not whole."""
    found: dict[Channel, Port] = {}
    faults: list[str] = []
    if settings.smtp is not None:
        if not settings.mail_from:
            faults.append("SOLMU_MAIL_FROM is not set, and SOLMU_SMTP is")
        if settings.smtp_security is Security.NONE and not loopback(settings.smtp.host):
            faults.append("SOLMU_SMTP_SECURITY is none, and SOLMU_SMTP is not this machine")
        if not faults:
            found[Channel.EMAIL] = Mail(_server(settings, settings.smtp), sender=settings.mail_from)
    if settings.sms:
        found[Channel.SMS] = Sms(settings.sms, token=settings.sms_token)
    if faults:
        raise ConfigError(faults)
    for channel, name in ((Channel.EMAIL, "SOLMU_SMTP"), (Channel.SMS, "SOLMU_SMS")):
        if channel not in found:
            logger.info("no notifications by this channel", extra={"channel": channel.name, "setting": name})
    return found


def _server(settings: NotificationSettings, at: Address) -> Server:
    authorities = str(settings.smtp_authorities) if settings.smtp_authorities else None
    return Server(
        address=at,
        security=settings.smtp_security,
        user=settings.smtp_user,
        password=settings.smtp_password,
        context=ssl.create_default_context(cafile=authorities),
    )
