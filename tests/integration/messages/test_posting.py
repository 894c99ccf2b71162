"""Webhooks: every event once and in order, signed, tried again, and kept where nobody takes it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from solmu.messages.v1 import feed_pb2

from services.messages import posting, webhooks
from services.messages.posting import Posting, PublicOnly
from services.messages.servicers.feed import Feeds
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_sending import request

Webhook = feed_pb2.Webhook


@dataclass
class Receiver:
    """Another system's server: takes posts, or answers what `answers` says next."""

    context: ssl.SSLContext
    uri: str = ""
    answers: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def take(self, asked: web.Request) -> web.Response:
        status = self.answers.pop(0) if self.answers else 204
        if 200 <= status < 300:
            self.bodies.append(await asked.read())
            self.headers.append(dict(asked.headers))
        elif status == 302:
            return web.Response(status=302, headers={"Location": self.uri})
        return web.Response(status=status)

    @property
    def events(self) -> list[dict]:
        return [json.loads(body) for body in self.bodies]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    chain, key = certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(chain, key)
    made = Receiver(ssl.create_default_context(cafile=str(chain)))
    application = web.Application()
    application.router.add_post("/hook", made.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server)
    await site.start()
    made.uri = f"https://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
async def posts(service: Service, receiver: Receiver) -> AsyncIterator[Posting]:
    yield wired(service, receiver)
    await service.database.execute("delete from webhook")


def wired(service: Service, receiver: Receiver) -> Posting:
    return Posting(
        database=service.database,
        feed=service.feeds._feed,
        vault=service.feeds._vault,
        origin="https://edge.example.org",
        private=True,
        context=receiver.context,
    )


async def post_all(posts: Posting, *, later: timedelta = timedelta()) -> None:
    """Posts what waits now, as if it were so much later."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=posts._context)) as session:
        while await posts.next(session, now=datetime.now(UTC) + later):
            pass


async def hook(service: Service, unit: str, uri: str, **fields) -> Webhook:
    service.act_as(service.city)
    asked = feed_pb2.CreateWebhookRequest(parent=unit, webhook=Webhook(uri=uri, **fields))
    return await service.feeds.CreateWebhook(asked)


async def messages(service: Service, unit: str, count: int) -> None:
    """Has so many messages sent, and their two events each in the feed."""
    identifier, _ = await service.resident()
    service.act_as(service.city)
    at = await service.feeds.ListEvents(feed_pb2.ListEventsRequest(parent=unit, page_size=1000))
    for number in range(count):
        await service.messages.SendMessage(request(unit, identifier, key=f"{uuid.uuid4()}-{number}"))
    await events_of(service, unit, len(at.events) + 2 * count)


async def shown(service: Service, made: Webhook) -> Webhook:
    service.act_as(service.city)
    return await service.feeds.GetWebhook(feed_pb2.GetWebhookRequest(name=made.name))


async def letters(service: Service, made: Webhook, **fields) -> feed_pb2.ListDeadLettersResponse:
    service.act_as(service.city)
    return await service.feeds.ListDeadLetters(feed_pb2.ListDeadLettersRequest(parent=made.name, **fields))


async def test_events_are_posted_in_the_feeds_order_from_the_next_one_on(
    service: Service, posts: Posting, receiver: Receiver
):
    unit = await service.unit()
    await messages(service, unit, 1)
    made = await hook(service, unit, receiver.uri)
    await messages(service, unit, 3)
    await post_all(posts)
    feed = await events_of(service, unit, 8)
    assert [event["id"] for event in receiver.events] == [event.id for event in feed[2:]]
    assert (await shown(service, made)).cursor == feed[-1].cursor


async def test_a_post_is_a_signed_cloud_event(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    made = await hook(service, unit, receiver.uri, types=["delivery.available"])
    await messages(service, unit, 1)
    await post_all(posts)
    [body], [headers], [event] = receiver.bodies, receiver.headers, receiver.events
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    key = base64.b64decode(made.signing_secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert event["id"] == headers["webhook-id"]
    assert (event["specversion"], event["type"]) == ("1.0", "solmu.messages.delivery.available")
    assert event["source"] == f"https://edge.example.org/v1/{unit}"
    assert event["subject"].startswith(f"{unit}/messages/")
    assert event["data"]["correlationId"] == "corr-1"


async def test_the_secret_is_told_once(service: Service, posts: Posting, receiver: Receiver):
    made = await hook(service, await service.unit(), receiver.uri)
    assert made.signing_secret
    assert not (await shown(service, made)).signing_secret
    row = await service.database.fetchrow("select * from webhook where webhook_id = $1", made.name.split("/")[3])
    assert row is not None
    assert base64.b64decode(made.signing_secret.removeprefix("whsec_")) not in row["secret"]


async def test_the_others_wait_while_one_is_tried_again(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    await hook(service, unit, receiver.uri)
    await messages(service, unit, 2)
    receiver.answers = [204, 503, 302]
    await post_all(posts)
    assert len(receiver.bodies) == 1
    await post_all(posts, later=webhooks.RETRIES[0] / 2)
    assert len(receiver.bodies) == 1
    await post_all(posts, later=webhooks.RETRIES[0])
    assert len(receiver.bodies) == 1
    await post_all(posts, later=webhooks.RETRIES[0] + webhooks.RETRIES[1])
    assert [event["id"] for event in receiver.events] == [event.id for event in await events_of(service, unit, 4)]


async def test_what_nobody_takes_becomes_a_dead_letter_and_can_be_replayed(
    service: Service, posts: Posting, receiver: Receiver
):
    unit = await service.unit()
    made = await hook(service, unit, receiver.uri)
    await messages(service, unit, 2)
    feed = await events_of(service, unit, 4)
    tries = len(webhooks.RETRIES) + 1
    receiver.answers = [500] * tries
    later = timedelta()
    for wait in (timedelta(), *webhooks.RETRIES):
        later += wait
        await post_all(posts, later=later)
    assert [event["id"] for event in receiver.events] == [event.id for event in feed[1:]]
    [letter] = (await letters(service, made)).dead_letters
    assert (letter.event.id, letter.attempts, letter.last_status) == (feed[0].id, tries, 500)

    asked = feed_pb2.ReplayDeadLettersRequest(parent=made.name, names=[letter.name])
    receiver.answers = [500]
    assert (await service.feeds.ReplayDeadLetters(asked)).count == 1
    await post_all(posts, later=later)
    [kept] = (await letters(service, made)).dead_letters
    assert kept.attempts == tries + 1
    assert (await service.feeds.ReplayDeadLetters(feed_pb2.ReplayDeadLettersRequest(parent=made.name))).count == 1
    await post_all(posts, later=later)
    assert receiver.events[-1]["id"] == feed[0].id
    assert not (await letters(service, made)).dead_letters


async def test_an_address_that_is_gone_is_suspended_until_a_replay(
    service: Service, posts: Posting, receiver: Receiver
):
    unit = await service.unit()
    made = await hook(service, unit, receiver.uri)
    await messages(service, unit, 2)
    receiver.answers = [410]
    await post_all(posts)
    assert receiver.bodies == []
    assert (await shown(service, made)).state == Webhook.STATE_SUSPENDED
    await service.feeds.ReplayDeadLetters(feed_pb2.ReplayDeadLettersRequest(parent=made.name))
    await post_all(posts)
    assert (await shown(service, made)).state == Webhook.STATE_ACTIVE
    assert [event["id"] for event in receiver.events] == [event.id for event in await events_of(service, unit, 4)]


async def test_dead_letters_come_in_pages(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    made = await hook(service, unit, receiver.uri)
    await messages(service, unit, 2)
    for _ in range(3):
        receiver.answers = [410]
        await service.database.execute("update webhook set state = 1")
        await post_all(posts)
    found, token = [], ""
    for _ in range(3):
        answer = await letters(service, made, page_size=1, page_token=token)
        found += [letter.event.id for letter in answer.dead_letters]
        token = answer.next_page_token
    assert found == [event.id for event in (await events_of(service, unit, 4))[:3]]
    assert not token


async def test_another_process_goes_on_where_one_died(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    await hook(service, unit, receiver.uri)
    await messages(service, unit, 1)
    dead = uuid.uuid4()
    until = datetime.now(UTC) + posting.CLAIM
    await service.database.execute("update webhook set claim = $1, due_time = $2", dead, until)
    await post_all(posts)
    assert receiver.bodies == []
    await post_all(posts, later=posting.CLAIM)
    assert len(receiver.bodies) == 2


async def test_new_events_wake_the_posting(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    await hook(service, unit, receiver.uri)
    running = asyncio.create_task(posts.run())
    try:
        await messages(service, unit, 2)
        async with asyncio.timeout(20):
            while len(receiver.bodies) < 4:
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [event["id"] for event in receiver.events] == [event.id for event in await events_of(service, unit, 4)]


async def test_a_hosts_name_that_leads_inside_is_not_followed():
    resolver = PublicOnly()
    with pytest.raises(OSError, match="private"):
        await resolver.resolve("localhost", 443)


async def test_only_public_addresses_are_registered_where_no_setting_says_otherwise(service: Service):
    unit = await service.unit()
    feeds = service.feeds
    service.feeds = Feeds(
        database=service.database, feed=feeds._feed, revoked=feeds._revoked, vault=feeds._vault, private_webhooks=False
    )
    try:
        with pytest.raises(InvalidArgument) as refused:
            await hook(service, unit, "https://127.0.0.1/")
        assert refused.value.reason == "WEBHOOK_ADDRESS_REFUSED"
    finally:
        service.feeds = feeds


async def test_a_unit_has_a_few_webhooks_of_its_own(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    made = [await hook(service, unit, receiver.uri) for _ in range(webhooks.MAX_WEBHOOKS)]
    with pytest.raises(FailedPrecondition) as refused:
        await hook(service, unit, receiver.uri)
    assert refused.value.reason == "WEBHOOK_LIMIT"
    listed = await service.feeds.ListWebhooks(feed_pb2.ListWebhooksRequest(parent=unit))
    assert [one.name for one in listed.webhooks] == [one.name for one in made]
    deleted = feed_pb2.DeleteWebhookRequest(name=made[0].name)
    assert (await service.feeds.DeleteWebhook(deleted)).name == made[0].name
    with pytest.raises(NotFound):
        await service.feeds.DeleteWebhook(deleted)
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await service.feeds.GetWebhook(feed_pb2.GetWebhookRequest(name=made[1].name))


async def test_a_replay_forgets_no_tries_of_what_waits(service: Service, posts: Posting, receiver: Receiver):
    unit = await service.unit()
    made = await hook(service, unit, receiver.uri)
    await messages(service, unit, 1)
    receiver.answers = [410]
    await post_all(posts)
    await service.feeds.ReplayDeadLetters(feed_pb2.ReplayDeadLettersRequest(parent=made.name))
    receiver.answers = [500, 500]
    await post_all(posts)
    await service.feeds.ReplayDeadLetters(feed_pb2.ReplayDeadLettersRequest(parent=made.name))
    receiver.answers = [500, 500]
    await post_all(posts)
    assert await service.database.fetchval("select attempts from webhook") == 2
