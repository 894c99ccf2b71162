"""The ways of telling residents: SMTP to a real mail server, and the port to an SMS provider."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy import pki
from services.messages.notifications import settings
from services.messages.notifications.mail import LANES, Mail, Security, Server, well_formed
from services.messages.notifications.ports import Outcome, Outgoing
from services.messages.notifications.rules import Channel
from services.messages.notifications.settings import NotificationSettings
from services.messages.notifications.sms import Sms
from services.messages.notifications.texts import Notice
from services.runtime import config
from services.runtime.config import Address, ConfigError
from tests.mailroom import Mailroom, mailroom, provider

NOTICE = Notice("fi", "Sinulle on uusi viesti: Päätökset", "Sinulle on saapunut uusi viesti.\n\nhttps://oma.example")
ADDRESS = "matti@example.org"


def outgoing(to: str = ADDRESS) -> Outgoing:
    return Outgoing(uuid.uuid4(), to, NOTICE)


def mail(room: Mailroom, *, security: Security = Security.NONE, host: str = "127.0.0.1", **server) -> Mail:
    at = Server(address=Address(host, room.port), security=security, **server)
    return Mail(at, sender="Kaupunki <no-reply@city.example>")


@pytest.fixture
async def room() -> AsyncIterator[Mailroom]:
    async with mailroom() as opened:
        yield opened


async def test_a_mail_says_who_it_is_from_and_that_a_machine_wrote_it(room: Mailroom):
    one = outgoing()
    assert await mail(room).send([one]) == [Outcome.SENT]
    (got,) = room.mails
    assert (got["From"], got["To"], got["Subject"]) == ("Kaupunki <no-reply@city.example>", ADDRESS, NOTICE.subject)
    assert got.get_content().strip().replace("\r\n", "\n") == NOTICE.text
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["Content-Language"] == "fi"
    assert got["Message-ID"] == f"<{one.notification_id}@city.example>", "a repeat can be known as one"
    assert got["Date"]


async def test_many_go_over_few_connections_and_each_has_its_outcome(room: Mailroom):
    many = [outgoing(f"resident-{number}@example.org") for number in range(20)]
    assert await mail(room).send(many) == [Outcome.SENT] * 20
    assert {got["To"] for got in room.mails} == {one.to for one in many}
    assert len({session.peer for session in room.sessions}) == LANES


@pytest.mark.parametrize(
    ("answer", "outcome"), [("550 no such user", Outcome.REFUSED), ("451 greylisted", Outcome.FAILED)]
)
async def test_an_address_that_is_refused_is_told_from_a_server_that_is_busy(
    room: Mailroom, answer: str, outcome: Outcome
):
    room.answers = [answer]
    assert await mail(room).send([outgoing()]) == [outcome]
    assert await mail(room).send([outgoing()]) == [Outcome.SENT]


async def test_what_no_server_takes_has_failed():
    async with mailroom() as closed:
        pass
    assert await mail(closed).send([outgoing() for _ in range(5)]) == [Outcome.FAILED] * 5
    assert await mail(closed).send([]) == []


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.Authority.create(tmp_path / "authority", "mail")


def contexts(authority: pki.Authority, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority.issue(pki.Identity.edge(), tmp_path / "server")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "server" / pki.CERTIFICATE, tmp_path / "server" / pki.KEY)
    return server, ssl.create_default_context(cafile=str(authority.certificate_path))


async def test_mail_goes_over_tls_with_a_log_in(
    authority: pki.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.messages.notifications.mail.SECONDS", 1.0)
    server, client = contexts(authority, tmp_path)
    async with mailroom(context=server, login=b"secret") as room:
        known: dict[str, Any] = {"security": Security.STARTTLS, "context": client, "user": "node"}
        assert await mail(room, password="secret", **known).send([outgoing()]) == [Outcome.SENT]
        assert room.sessions[0].ssl
        assert await mail(room, password="wrong", **known).send([outgoing()]) == [Outcome.FAILED]
        strangers = ssl.create_default_context()
        unknown = known | {"context": strangers, "password": "secret"}
        assert await mail(room, **unknown).send([outgoing()]) == [Outcome.FAILED], "a server that is not known"
        assert len(room.mails) == 1


async def test_where_tls_is_wanted_nothing_goes_in_the_clear(room: Mailroom):
    assert await mail(room, security=Security.STARTTLS).send([outgoing()]) == [Outcome.FAILED]
    assert await mail(room, security=Security.TLS).send([outgoing()]) == [Outcome.FAILED]
    assert not room.mails


@pytest.mark.parametrize("address", ["a@b@c.example", "a b@example.org", "a\r\nBcc: x@example.org", "matti", "@x", ""])
def test_what_cannot_stand_in_a_header_is_no_address(address: str):
    assert not well_formed(address)
    assert well_formed(ADDRESS)


async def test_an_sms_is_posted_as_json_with_a_key_by_which_a_repeat_is_known():
    one = outgoing("+358401234567")
    async with provider() as sms:
        assert await Sms(sms.uri, token="secret").send([one]) == [Outcome.SENT]
        assert sms.taken == [
            {"id": str(one.notification_id), "to": "+358401234567", "text": NOTICE.text, "language": "fi"}
        ]
        assert sms.headers[0]["Authorization"] == "Bearer secret"
        assert sms.headers[0]["Idempotency-Key"] == str(one.notification_id)
        assert await Sms(sms.uri, token="").send([outgoing() for _ in range(20)]) == [Outcome.SENT] * 20
        assert "Authorization" not in sms.headers[-1]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (401, Outcome.FAILED),
        (429, Outcome.FAILED),
        (500, Outcome.FAILED),
        (302, Outcome.FAILED),
    ],
)
async def test_what_the_provider_says_of_the_number_is_told_from_what_it_says_of_us(status: int, outcome: Outcome):
    async with provider() as sms:
        sms.answers = [status]
        assert await Sms(sms.uri, token="").send([outgoing()]) == [outcome]
        assert not sms.taken, "redirects are not followed"
    assert await Sms(sms.uri, token="").send([outgoing()]) == [Outcome.FAILED]


def read(**environment: str) -> NotificationSettings:
    return config.read(NotificationSettings, environment)


def test_a_node_without_servers_tells_nobody_and_says_so(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        assert settings.ports(read()) == {}
    said = [(record.channel, record.setting) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [("EMAIL", "SOLMU_SMTP"), ("SMS", "SOLMU_SMS")]


def test_the_settings_make_the_ports(tmp_path: Path):
    (tmp_path / "token").write_text("secret\n")
    sender = "Oulu <no-reply@oulu.example>"
    found = settings.ports(
        read(
            SOLMU_SMTP="mail.example:587",
            SOLMU_MAIL_FROM=sender,
            SOLMU_SMS="https://sms.example/v1",
            SOLMU_SMS_TOKEN=str(tmp_path / "token"),
            SOLMU_LANGUAGE="fi",
        )
    )
    assert found.keys() == {Channel.EMAIL, Channel.SMS}


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"SOLMU_MAIL_FROM": "nobody"}, "is not an e-mail address"),
        ({"SOLMU_SMS": "http://sms.example"}, "in the clear"),
        ({"SOLMU_SMS": "ftp://sms.example"}, "is not an https address"),
        ({"SOLMU_PORTAL": "http://oma.example"}, "is not an https address"),
        ({"SOLMU_LANGUAGE": "xx"}, "is none of"),
        ({"SOLMU_TIME_ZONE": "Helsinki"}, "is not a time zone"),
        ({"SOLMU_SMTP_SECURITY": "ssl"}, "SOLMU_SMTP_SECURITY"),
        ({"SOLMU_SMTP": "mail.example:25"}, "SOLMU_MAIL_FROM is not set"),
        (
            {"SOLMU_SMTP": "mail.example:25", "SOLMU_MAIL_FROM": "a@b.example", "SOLMU_SMTP_SECURITY": "none"},
            "is not this machine",
        ),
    ],
)
def test_settings_that_are_wrong_end_the_start(environment: dict[str, str], fault: str):
    with pytest.raises(ConfigError) as refused:
        settings.ports(read(**environment))
    assert fault in str(refused.value)
