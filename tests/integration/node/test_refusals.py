"""What the node refuses, by gRPC and by REST, with its documented reason; and that nothing of it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from solmu.messages.v1 import attachments_pb2, messages_pb2, messages_pb2_grpc, units_pb2_grpc
from solmu.messages.v1.units_pb2 import GetUnitRequest
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy import pki
from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Fault
from services.runtime import mesh, status
from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests.integration.node.callers import Caller, Refusal, files_in, issuer, profile
from tests.tokens import Signer, keyed, unsigned

UNIT = f"units/{demo_clients.UNIT}"
PATH = f"/v1/{UNIT}/messages"
HTTP = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "INVALID_ARGUMENT": 400, "UNIMPLEMENTED": 404}


@pytest.fixture(scope="module")
async def database(node: Node) -> AsyncIterator[Database]:
    database = await Database.connect(
        f"postgresql://messages@127.0.0.1:{node.ports['postgres']}/messages",
        files=node.state.identity("messages"),
        size=1,
        telemetry=Telemetry(),
    )
    yield database
    await database.close()


@pytest.fixture(autouse=True)
async def nothing_is_stored(database: Database) -> AsyncIterator[None]:
    async def rows() -> dict[str, int]:
        tables = ("message", "delivery", "unit")
        counts = {table: await database.fetchval(f"select count(*) from {table}") for table in tables}
        events = "select (select count(*) from outbox) + (select count(*) from feed_event)"
        return counts | {"event": await database.fetchval(events)}

    before = await rows()
    yield
    assert await rows() == before


@pytest.fixture(scope="module")
async def good(node: Node) -> Caller:
    """The back-office system of the permits office, with a token of the node."""
    async with Client(profile(node, "permits")) as client:
        return Caller(node.edge, client.profile.files, await client.token())


def message() -> messages_pb2.SendMessageRequest:
    identifier = NationalIdentifier(
        scheme=NationalIdentifier.SCHEME_FI_HETU, value=demo_clients.RESIDENT.owner["value"]
    )
    return messages_pb2.SendMessageRequest(
        parent=UNIT,
        idempotency_key="refused",
        message=messages_pb2.Message(
            recipient=messages_pb2.Recipient(identifier=identifier),
            title="Decision",
            bodies=[messages_pb2.Body(language="en", text="Granted.")],
        ),
    )


def body() -> dict[str, Any]:
    return {
        "recipient": {"identifier": {"scheme": "SCHEME_FI_HETU", "value": demo_clients.RESIDENT.owner["value"]}},
        "title": "Decision",
        "bodies": [{"language": "en", "text": "Granted."}],
    }


async def both_doors(caller: Caller, expected: Refusal) -> None:
    """The same refusal at the gRPC door and at the REST door."""
    assert await caller.grpc(messages_pb2_grpc.MessageServiceStub, "SendMessage", message()) == expected
    http, problem = await caller.rest("POST", f"{PATH}?idempotencyKey=refused", body())
    assert (http, problem["reason"]) == (HTTP[expected.status], expected.reason)
    assert (problem["status"], problem["type"]) == (http, f"urn:solmu:reason:{expected.reason}")


# Certificates


async def refused_in_handshake(node: Node, caller: Caller) -> None:
    refusal = await caller.grpc(messages_pb2_grpc.MessageServiceStub, "SendMessage", message())
    assert refusal.status == "UNAVAILABLE"
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await caller.rest("POST", PATH, body())


@pytest.fixture
def authority(node: Node) -> pki.Authority:
    return pki.Authority.load(node.state.public)


async def test_no_certificate(node: Node, good: Caller, authority: pki.Authority):
    bare = grpc.ssl_channel_credentials(authority.certificate_path.read_bytes())
    async with grpc.aio.secure_channel(node.edge.removeprefix("https://"), bare) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            await messages_pb2_grpc.MessageServiceStub(channel).SendMessage(message(), metadata=good.metadata())
    assert status.fault_of(refused.value).code == "UNAVAILABLE"
    context = __import__("ssl").create_default_context(cafile=str(authority.certificate_path))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await session.post(node.edge + PATH, json=body(), headers=dict(good.metadata()))


async def test_a_certificate_of_another_authority(node: Node, good: Caller, authority: pki.Authority, tmp_path: Path):
    other = pki.Authority.create(tmp_path / "other", "other")
    other.issue(pki.Identity.information_system(node.settings.node, "permits"), tmp_path / "permits")
    await refused_in_handshake(
        node, Caller(node.edge, files_in(tmp_path / "permits", authority.certificate_path), good.token)
    )


async def test_a_certificate_of_the_nodes_inner_authority(node: Node, good: Caller):
    await refused_in_handshake(
        node,
        Caller(
            node.edge,
            files_in(node.state.identity("messages").certificate.parent, node.state.public / pki.AUTHORITY),
            good.token,
        ),
    )


async def test_an_expired_certificate(node: Node, good: Caller, tmp_path: Path):
    past = pki.Authority.load(node.state.public, clock=lambda: datetime.now(UTC) - timedelta(days=3))
    identity = pki.Identity.information_system(node.settings.node, "permits")
    past.issue(identity, tmp_path / "expired", lifetime=timedelta(days=1))
    await refused_in_handshake(
        node, Caller(node.edge, files_in(tmp_path / "expired", past.certificate_path), good.token)
    )


async def test_a_revoked_certificate(node: Node, good: Caller, authority: pki.Authority, tmp_path: Path):
    import asyncio

    identity = pki.Identity.information_system(node.settings.node, "permits")
    certificate = authority.issue(identity, tmp_path / "revoked")
    caller = Caller(node.edge, files_in(tmp_path / "revoked", authority.certificate_path), None)
    assert (await caller.rest("GET", f"/v1/{UNIT}"))[1]["reason"] == "TOKEN_MISSING"
    authority.revoke(certificate)
    async with asyncio.timeout(10):
        while True:
            try:
                await caller.rest("GET", f"/v1/{UNIT}")
            except (aiohttp.ClientError, ConnectionError):
                break
            await asyncio.sleep(0.1)
    await refused_in_handshake(node, Caller(node.edge, caller.files, good.token))


# Tokens


def with_token(node: Node, good: Caller, make: Any) -> Caller:
    return Caller(node.edge, good.files, make(issuer(node), good.fingerprint))


TOKENS = {
    "none": (lambda signer, mine: None, Refusal("UNAUTHENTICATED", "TOKEN_MISSING")),
    "expired": (
        lambda signer, mine: signer.token(mine, exp=1_700_000_000),
        Refusal("UNAUTHENTICATED", "TOKEN_EXPIRED"),
    ),
    "for another audience": (
        lambda signer, mine: signer.token(mine, aud="https://elsewhere"),
        Refusal("UNAUTHENTICATED", "TOKEN_AUDIENCE_MISMATCH"),
    ),
    "with another scope": (
        lambda signer, mine: signer.token(mine, scope="messages.read"),
        Refusal("PERMISSION_DENIED", "SCOPE_MISSING"),
    ),
    "bound to another certificate": (
        lambda signer, mine: signer.token("ab" * 32),
        Refusal("UNAUTHENTICATED", "TOKEN_BINDING_MISMATCH"),
    ),
    "signed with another key": (
        lambda signer, mine: Signer(kid=signer.kid).token(mine, iss=signer.issuer, aud=signer.issuer),
        Refusal("UNAUTHENTICATED", "TOKEN_INVALID"),
    ),
    "alg none": (
        lambda signer, mine: unsigned(signer.token(mine)),
        Refusal("UNAUTHENTICATED", "TOKEN_INVALID"),
    ),
    "the public key as a secret": (
        lambda signer, mine: keyed(signer.token(mine), signer.public_pem()),
        Refusal("UNAUTHENTICATED", "TOKEN_INVALID"),
    ),
    "of another type": (
        lambda signer, mine: signer.token(mine, headers={"typ": "JWT"}),
        Refusal("UNAUTHENTICATED", "TOKEN_INVALID"),
    ),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_token_with_a_defect(node: Node, good: Caller, case: str):
    make, expected = TOKENS[case]
    await both_doors(with_token(node, good, make), expected)


async def test_the_services_check_again_what_the_edge_has_checked(node: Node, good: Caller):
    """An edge that is taken over cannot speak for clients: its certificate alone opens nothing."""
    inside = node.state.identity(mesh.EDGE)
    options = [("grpc.ssl_target_name_override", "messages")]
    from services.runtime import tls

    for token, forwarded in (
        (good.token, ""),
        (good.token, f"Hash={'ab' * 32}"),
        (issuer(node).token("ab" * 32, exp=1), f"Hash={'ab' * 32}"),
        (Signer().token("ab" * 32), f"Hash={'ab' * 32}"),
    ):
        metadata = [("authorization", f"Bearer {token}"), ("x-forwarded-client-cert", forwarded)]
        target = f"127.0.0.1:{node.ports['messages']}"
        async with grpc.aio.secure_channel(target, tls.channel_credentials(inside), options=options) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                await messages_pb2_grpc.MessageServiceStub(channel).SendMessage(message(), metadata=metadata)
        assert status.fault_of(refused.value).code == "UNAUTHENTICATED"


async def test_a_service_that_is_not_on_the_list(node: Node, good: Caller):
    from services.runtime import tls

    options = [("grpc.ssl_target_name_override", "messages")]
    target = f"127.0.0.1:{node.ports['messages']}"
    for name in ("exchange", "operator"):
        credentials = tls.channel_credentials(node.state.identity(name))
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                await messages_pb2_grpc.MessageServiceStub(channel).SendMessage(message(), metadata=good.metadata())
        fault = status.fault_of(refused.value)
        assert (fault.code, fault.reason) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


# Requests


async def test_an_unknown_method(node: Node, good: Caller):
    async with good.channel() as channel:
        call = channel.unary_unary(
            "/solmu.messages.v1.MessageService/Nothing",
            request_serializer=GetUnitRequest.SerializeToString,
            response_deserializer=GetUnitRequest.FromString,
        )
        with pytest.raises(grpc.RpcError) as refused:
            await call(GetUnitRequest(), metadata=good.metadata())
    fault = status.fault_of(refused.value)
    assert (fault.code, fault.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
    for verb, path in (("GET", "/v1/nothing"), ("PUT", f"/v1/{UNIT}"), ("GET", "/"), ("GET", "/solmu.internal")):
        http, problem = await good.rest(verb, path)
        assert (http, problem["reason"]) == (404, "METHOD_UNKNOWN")


async def test_a_method_for_services_only_has_no_way_in(node: Node, good: Caller):
    from solmu.authorisations.v1 import tokens_pb2, tokens_pb2_grpc

    refusal = await good.grpc(tokens_pb2_grpc.KeyServiceStub, "GetKeySet", tokens_pb2.GetKeySetRequest())
    assert refusal == Refusal("UNIMPLEMENTED", "METHOD_UNKNOWN")


async def test_a_body_over_the_limit(node: Node, good: Caller):
    large = message()
    large.message.metadata.update({f"key{number}": "x" * 1000 for number in range(2000)})
    refusal = await good.grpc(messages_pb2_grpc.MessageServiceStub, "SendMessage", large)
    assert refusal == Refusal("RESOURCE_EXHAUSTED", "BODY_TOO_LARGE")
    http, problem = await good.rest("POST", PATH, raw=b'{"title": "' + b"x" * 4_000_000 + b'"}')
    assert (http, problem["reason"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("raw", [b"{", b"[1, 2]", b'{"title": 5}', b"not json", b'{"kind": "KIND_NONE"}'])
async def test_malformed_json(node: Node, good: Caller, raw: bytes):
    http, problem = await good.rest("POST", PATH, raw=raw)
    assert (http, problem["reason"]) == (400, "JSON_MALFORMED")


async def test_a_field_that_breaks_its_rule(node: Node, good: Caller):
    wrong = message()
    wrong.idempotency_key = "no spaces"
    wrong.message.bodies[0].language = "English"
    assert await good.grpc(messages_pb2_grpc.MessageServiceStub, "SendMessage", wrong) == Refusal(
        "INVALID_ARGUMENT", "FIELD_INVALID"
    )
    http, problem = await good.rest("POST", f"{PATH}?idempotencyKey=no%20spaces", body() | {"title": "x" * 257})
    assert (http, problem["reason"]) == (400, "FIELD_INVALID")
    assert {error["field"] for error in problem["errors"]} == {"idempotency_key", "message.title"}


async def test_a_field_that_breaks_its_rule_in_a_stream_is_refused_for_its_own_message(good: Caller):
    unknown, malformed = message(), message()
    unknown.message.recipient.identifier.value = "131052-308U"
    malformed.idempotency_key, malformed.message.title = "no spaces", "x" * 257

    async def requests() -> AsyncIterator[messages_pb2.SendMessagesRequest]:
        for one in (malformed, None, unknown):
            yield messages_pb2.SendMessagesRequest(message=one)

    async with good.channel() as channel:
        call = messages_pb2_grpc.MessageServiceStub(channel).SendMessages(requests(), metadata=good.metadata())
        results = [result async for result in call]
    refused = [status.from_status(result.refusal) for result in results]
    assert [result.index for result in results] == [0, 1, 2]
    assert [fault.reason for fault in refused] == ["FIELD_INVALID", "FIELD_INVALID", "IDENTIFIER_INVALID"]
    assert {field for field, _ in refused[0].violations} == {"idempotency_key", "message.title"}


async def test_an_attachment_whose_digest_differs(node: Node, good: Caller, database: Database):
    content, other = b"%PDF-1.7 decision", b"%PDF-1.7 Decision"
    async with Client(profile(node, "permits")) as client:
        asked = attachments_pb2.Attachment(
            file_name="decision.pdf",
            media_type="application/pdf",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        reserved = await client.call(
            client.attachments.CreateAttachment, attachments_pb2.CreateAttachmentRequest(attachment=asked)
        )
        with pytest.raises(Fault) as refused:
            await client.upload_content(reserved.name, other)
        assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "ATTACHMENT_DIGEST_MISMATCH")
    http, problem = await good.rest("PUT", f"/v1/{reserved.name}/content", raw=other)
    assert (http, problem["reason"]) == (400, "ATTACHMENT_DIGEST_MISMATCH")
    assert problem["domain"] == "messages.solmu"
    http, kept = await good.rest("GET", f"/v1/{reserved.name}")
    assert (http, kept["state"], kept.get("receivedBytes", "0")) == (200, "STATE_RESERVED", "0")


async def test_another_organisations_unit_is_not_there(node: Node):
    async with Client(profile(node, "resident")) as client:
        resident = Caller(
            node.edge,
            client.profile.files,
            issuer(node).token(
                Caller(node.edge, client.profile.files, None).fingerprint,
                sub="persons/aaaaaaaaaaaaaaaaaaaaaaaaaa",
                client_id="resident",
            ),
        )
    refusal = await resident.grpc(units_pb2_grpc.UnitServiceStub, "GetUnit", GetUnitRequest(name=UNIT))
    assert refusal == Refusal("NOT_FOUND", "RESOURCE_NOT_FOUND")
    http, problem = await resident.rest("GET", f"/v1/{UNIT}")
    assert (http, problem["reason"], problem["domain"]) == (404, "RESOURCE_NOT_FOUND", "node.solmu")
