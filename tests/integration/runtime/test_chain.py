"""What every call goes through, over real mTLS: who may call, with what, and what a refusal says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from solmu.exchange.v1 import calls_pb2, calls_pb2_grpc
from solmu.messages.v1 import (
    attachments_pb2,
    attachments_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    units_pb2,
    units_pb2_grpc,
)

from deploy import pki
from services.runtime import identity, status, tls
from services.runtime.chain import Chain, Policy, closed_by
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.errors import FailedPrecondition, Fault, PermissionDenied, Unavailable
from services.runtime.identity import Authenticator, Right, TokenVerifier
from services.runtime.server import Server
from services.runtime.telemetry import Telemetry
from tests.tokens import ISSUER, Signer

CERTIFICATE = "ab" * 32
NODE = "solmu"
SIGNER = Signer()


class Units:
    """Stands in for a servicer; the rules under test are those around it."""

    async def GetUnit(self, request: units_pb2.GetUnitRequest) -> units_pb2.Unit:
        caller = identity.caller()
        match request.name.removeprefix("units/"):
            case "fault":
                raise FailedPrecondition("MAILBOX_NOT_ACTIVE", "no mailbox", retry_after=2.0)
            case "crash":
                raise ValueError("Matti Meikäläinen, 131052-308T")
            case "away":
                raise ConnectionResetError("the database")
        return units_pb2.Unit(name=request.name, organisation=f"{caller.service}|{caller.client}|{caller.party}")


class Feeds:
    async def StreamEvents(self, request: feed_pb2.StreamEventsRequest) -> AsyncIterator[feed_pb2.Event]:
        for number in range(3):
            yield feed_pb2.Event(id=str(number))
        if request.cursor:
            raise FailedPrecondition("CURSOR_EXPIRED", "gone")


class Attachments:
    async def GetAttachment(self, request: attachments_pb2.GetAttachmentRequest) -> attachments_pb2.Attachment:
        caller = identity.caller()
        mandates = caller.right.mandates if caller.right else ()
        return attachments_pb2.Attachment(name=request.name, file_name="|".join((caller.party, *mandates)))

    async def DownloadAttachment(
        self, _: attachments_pb2.DownloadAttachmentRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        for number in range(3):
            yield httpbody_pb2.HttpBody(data=bytes([number]))


class Calls:
    """Answers a frame for a frame, and ends with what says that it is the end."""

    @closed_by(lambda frame: frame.HasField("end"))
    async def Call(self, requests: AsyncIterator[calls_pb2.CallRequest]) -> AsyncIterator[calls_pb2.CallResponse]:
        async for request in requests:
            if request.chunk == b"refuse":
                raise FailedPrecondition("MAILBOX_NOT_ACTIVE", "no mailbox")
            if request.HasField("end"):
                yield calls_pb2.CallResponse(end=calls_pb2.CallResponseEnd())
                return
            yield calls_pb2.CallResponse(chunk=request.chunk)


class Mandates:
    """What a service asks before it serves one who acts for another."""

    def __init__(self) -> None:
        self.answers: list[Fault | Right] = []
        self.asked: list[str] = []

    async def judge(self, caller: identity.Caller) -> Right:
        self.asked.append(f"{caller.actor} for {caller.party}")
        answer = self.answers.pop(0)
        if isinstance(answer, Fault):
            raise answer
        return answer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    return pki.Authority.create(tmp_path_factory.mktemp("internal"), "internal")


def certificate(authority: pki.Authority, name: str, *, node: str = NODE) -> tls.Files:
    folder = authority.certificate_path.parent / f"{node}-{name}"
    if not folder.exists():
        authority.issue(pki.Identity.service(node, name), folder)
    return tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)


@contextlib.asynccontextmanager
async def serving(
    files: tls.Files,
    telemetry: Telemetry | None = None,
    units: object | None = None,
    mandates: Mandates | None = None,
) -> AsyncIterator[Address]:
    async def fetch() -> str:
        return SIGNER.jwks()

    async def ready() -> bool:
        return True

    authenticator = Authenticator(
        verifier=TokenVerifier(issuer=ISSUER, fetch=fetch), revoked=lambda client: client == "revoked"
    )
    chain = Chain(service="messages", node=NODE, authenticator=authenticator, telemetry=telemetry or Telemetry())
    server = Server(chain=chain, files=files, listen=Address("127.0.0.1", 0), ready=ready)
    server.add(units_pb2.DESCRIPTOR.services_by_name["UnitService"], units or Units())
    server.add(feed_pb2.DESCRIPTOR.services_by_name["FeedService"], Feeds())
    server.add(calls_pb2.DESCRIPTOR.services_by_name["CallService"], Calls())
    if mandates is not None:
        contract = attachments_pb2.DESCRIPTOR.services_by_name["AttachmentService"]
        server.add(contract, Attachments(), judge=mandates.judge)
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    yield Address("127.0.0.1", server.port)
    stop.set()
    await running


@pytest.fixture(scope="module")
async def address(authority: pki.Authority) -> AsyncIterator[Address]:
    async with serving(certificate(authority, "messages")) as listening:
        yield listening


@contextlib.asynccontextmanager
async def calling(address: Address, files: tls.Files) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.ssl_target_name_override", "messages"), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(str(address), tls.channel_credentials(files), options=options) as channel:
        yield channel


def edge_metadata(**claims) -> list[tuple[str, str]]:
    token = SIGNER.token(CERTIFICATE, **claims)
    return [("authorization", f"Bearer {token}"), ("x-forwarded-client-cert", f"Hash={CERTIFICATE}")]


async def get(channel: grpc.aio.Channel, name: str = "units/abc", *, metadata=()) -> units_pb2.Unit:
    try:
        return await units_pb2_grpc.UnitServiceStub(channel).GetUnit(
            units_pb2.GetUnitRequest(name=name), metadata=metadata, timeout=10
        )
    except grpc.RpcError as error:
        raise status.fault_of(error) from None


async def refusal(channel: grpc.aio.Channel, name: str = "units/abc", *, metadata=()) -> Fault:
    with pytest.raises(Fault) as refused:
        await get(channel, name, metadata=metadata)
    return refused.value


async def test_the_edge_speaks_for_a_client_whose_token_it_carries(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        unit = await get(channel, metadata=edge_metadata())
        assert unit.organisation == "edge|clients/test|organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa"


async def test_the_edge_alone_speaks_for_nobody(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        for metadata, reason in (
            ((), "TOKEN_MISSING"),
            (edge_metadata()[:1], "TOKEN_BINDING_MISMATCH"),
            ([edge_metadata()[0], ("x-forwarded-client-cert", f"Hash={'cd' * 32}")], "TOKEN_BINDING_MISMATCH"),
            (edge_metadata(client_id="revoked"), "CLIENT_REVOKED"),
            (edge_metadata(exp=1), "TOKEN_EXPIRED"),
        ):
            fault = await refusal(channel, metadata=metadata)
            assert (fault.code, fault.reason) == ("UNAUTHENTICATED", reason)


async def test_a_scope_that_is_missing_is_named(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        fault = await refusal(channel, metadata=edge_metadata(scope="messages.send messages.readx"))
        assert (fault.code, fault.reason, fault.metadata) == (
            "PERMISSION_DENIED",
            "SCOPE_MISSING",
            {"scope": "messages.read"},
        )


async def test_a_token_that_rests_on_a_mandate_opens_no_method_that_does_not_ask_for_it(
    address: Address, authority: pki.Authority
):
    mandate = {"type": "mandate", "theme": "themes/building-permits", "mandates": ["mandates/1"]}
    claims = {"act": {"sub": "persons/aaaaaaaaaaaaaaaaaaaaaaaaaa"}, "authorization_details": [mandate]}
    async with calling(address, certificate(authority, "edge")) as channel:
        fault = await refusal(channel, metadata=edge_metadata(**claims))
        assert (fault.code, fault.reason) == ("PERMISSION_DENIED", "MANDATE_NOT_ENOUGH")
        assert (await refusal(channel, metadata=edge_metadata(act={"sub": ""}))).reason == "TOKEN_INVALID"


MOTHER, DAUGHTER = "persons/" + "m" * 26, "persons/" + "d" * 26
ATTACHMENT = f"attachments/{'1' * 8}-{'1' * 4}-{'1' * 4}-{'1' * 4}-{'1' * 12}"
DENIED = PermissionDenied("MANDATE_MISSING", "no mandate in force allows this", reason="NO_RIGHT")


def daughters(scope: str) -> list[tuple[str, str]]:
    mandate = {"type": "mandate", "theme": "themes/mail", "mandates": ["mandates/old"]}
    return edge_metadata(scope=scope, sub=MOTHER, act={"sub": DAUGHTER}, authorization_details=[mandate])


async def test_every_call_on_anothers_behalf_is_judged_anew(authority: pki.Authority):
    mandates = Mandates()
    away = Unavailable("UNAVAILABLE", "not known", retry_after=1.0)
    mandates.answers = [Right(mandates=("mandates/1",)), DENIED, away, Right()]
    async with (
        serving(certificate(authority, "messages"), mandates=mandates) as address,
        calling(address, certificate(authority, "edge")) as channel,
    ):
        stub = attachments_pb2_grpc.AttachmentServiceStub(channel)
        request = attachments_pb2.GetAttachmentRequest(name=ATTACHMENT)

        async def attempt(metadata: list[tuple[str, str]]) -> str:
            try:
                answer: attachments_pb2.Attachment = await stub.GetAttachment(request, metadata=metadata)
            except grpc.RpcError as error:
                return status.fault_of(error).reason
            return answer.file_name

        token = daughters("attachments.write")
        assert [await attempt(token) for _ in range(4)] == [
            f"{MOTHER}|mandates/1",
            "MANDATE_MISSING",
            "UNAVAILABLE",
            MOTHER,
        ]
        assert mandates.asked == [f"{DAUGHTER} for {MOTHER}"] * 4
        own = edge_metadata(scope="attachments.write", sub=MOTHER)
        assert await attempt(own) == MOTHER
        assert len(mandates.asked) == 4, "nobody is asked about those who act for themselves"
        assert await attempt(daughters("attachments.read")) == "SCOPE_MISSING"
        assert len(mandates.asked) == 4


async def test_a_stream_on_anothers_behalf_ends_with_the_right(
    authority: pki.Authority, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.runtime.chain.JUDGED_AGAIN", 0.0)
    mandates = Mandates()
    mandates.answers = [Right(), Right(), DENIED]
    async with (
        serving(certificate(authority, "messages"), mandates=mandates) as address,
        calling(address, certificate(authority, "edge")) as channel,
    ):
        stub = attachments_pb2_grpc.AttachmentServiceStub(channel)
        request = attachments_pb2.DownloadAttachmentRequest(name=ATTACHMENT)
        pieces = aiter(stub.DownloadAttachment(request, metadata=daughters("attachments.read")))
        assert (await anext(pieces)).data == b"\0"
        with pytest.raises(grpc.RpcError) as ended:
            await anext(pieces)
        assert status.fault_of(ended.value).reason == "MANDATE_MISSING"


def test_a_method_that_takes_calls_on_anothers_behalf_needs_a_judge():
    methods = attachments_pb2.DESCRIPTOR.services_by_name["AttachmentService"].methods
    with pytest.raises(ValueError, match="nothing judges them"):
        Policy.of(methods[0])


async def test_a_service_that_is_not_on_the_list_is_refused_whatever_it_carries(
    address: Address, authority: pki.Authority
):
    for name in ("exchange", "operator"):
        async with calling(address, certificate(authority, name)) as channel:
            fault = await refusal(channel, metadata=edge_metadata())
            assert (fault.code, fault.reason, fault.metadata) == (
                "PERMISSION_DENIED",
                "CALLER_NOT_ALLOWED",
                {"caller": name},
            )


async def test_the_same_name_on_another_node_is_nobody(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge", node="elsewhere")) as channel:
        fault = await refusal(channel, metadata=edge_metadata())
        assert (fault.reason, fault.metadata) == ("CALLER_NOT_ALLOWED", {"caller": "unknown"})


async def test_nobody_calls_without_a_certificate_of_the_node(
    address: Address, authority: pki.Authority, tmp_path: Path
):
    other = pki.Authority.create(tmp_path / "other", "other")
    folder = tmp_path / "edge"
    other.issue(pki.Identity.service(NODE, "edge"), folder)
    forged = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)
    async with calling(address, forged) as channel:
        assert (await refusal(channel)).code == "UNAVAILABLE"
    options = [("grpc.ssl_target_name_override", "messages")]
    bare = grpc.ssl_channel_credentials(authority.certificate_path.read_bytes())
    async with grpc.aio.secure_channel(str(address), bare, options=options) as channel:
        assert (await refusal(channel)).code == "UNAVAILABLE"


async def test_a_service_is_who_its_certificate_says(authority: pki.Authority):
    """Who holds the certificate of another service cannot serve in the place of this one."""
    async with (
        serving(certificate(authority, "exchange")) as impostor,
        calling(impostor, certificate(authority, "edge")) as channel,
    ):
        assert (await refusal(channel, metadata=edge_metadata())).code == "UNAVAILABLE"


async def test_a_field_that_breaks_its_rule_is_named(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        fault = await refusal(channel, "nonsense", metadata=edge_metadata())
        assert (fault.code, fault.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
        assert [field for field, _ in fault.violations] == ["name"]


async def test_refusals_keep_their_reason_and_crashes_their_secrets(
    address: Address, authority: pki.Authority, caplog: pytest.LogCaptureFixture
):
    async with calling(address, certificate(authority, "edge")) as channel:
        fault = await refusal(channel, "units/fault", metadata=edge_metadata())
        assert (fault.code, fault.reason, fault.retry_after) == ("FAILED_PRECONDITION", "MAILBOX_NOT_ACTIVE", 2.0)
        away = await refusal(channel, "units/away", metadata=edge_metadata())
        assert (away.code, away.reason) == ("UNAVAILABLE", "UNAVAILABLE")
        crash = await refusal(channel, "units/crash", metadata=edge_metadata())
    assert (crash.code, crash.reason) == ("INTERNAL", "INTERNAL")
    assert "Matti" not in crash.message
    (record,) = [record for record in caplog.records if record.message == "internal error"]
    assert record.error_id == crash.metadata["error_id"]  # type: ignore[attr-defined]


async def test_what_the_contract_has_and_the_service_lacks_says_so(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            await units_pb2_grpc.UnitServiceStub(channel).ListUnits(
                units_pb2.ListUnitsRequest(), metadata=edge_metadata()
            )
        fault = status.fault_of(refused.value)
        assert (fault.code, fault.reason) == ("UNIMPLEMENTED", "METHOD_NOT_IMPLEMENTED")


async def test_a_stream_is_checked_as_a_call_is(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "edge")) as channel:
        stub = feed_pb2_grpc.FeedServiceStub(channel)

        async def stream(**fields) -> list[str]:
            asked = feed_pb2.StreamEventsRequest(**{"parent": "units/abc"} | fields)
            got = []
            try:
                async for event in stub.StreamEvents(asked, metadata=edge_metadata()):
                    got.append(event.id)
            except grpc.RpcError as error:
                return [*got, status.fault_of(error).reason]
            return got

        assert await stream() == ["0", "1", "2"]
        assert await stream(cursor="x") == ["0", "1", "2", "CURSOR_EXPIRED"]
        assert await stream(parent="nonsense") == ["FIELD_INVALID"]


async def test_a_stream_that_ends_with_a_message_hands_over_each_at_once(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "gateway")) as channel:
        stub: Any = calls_pb2_grpc.CallServiceStub(channel)
        stream = stub.Call()
        for chunk in (b"a", b"b"):
            await stream.write(calls_pb2.CallRequest(chunk=chunk))
            assert (await stream.read()).chunk == chunk  # before the next one is sent
        await stream.write(calls_pb2.CallRequest(end=calls_pb2.CallEnd()))
        assert (await stream.read()).HasField("end")
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK

        stream = stub.Call()
        await stream.write(calls_pb2.CallRequest(chunk=b"a"))
        await stream.write(calls_pb2.CallRequest(chunk=b"refuse"))
        assert (await stream.read()).chunk == b"a"
        with pytest.raises(grpc.RpcError) as refused:
            await stream.read()
        assert status.fault_of(refused.value).reason == "MAILBOX_NOT_ACTIVE"


def test_the_end_of_a_stream_goes_out_with_its_last_message():
    contract = calls_pb2.DESCRIPTOR.services_by_name["CallService"]
    authenticator = Authenticator(verifier=TokenVerifier(issuer=ISSUER, fetch=None), revoked=bool)  # type: ignore[arg-type]
    chain = Chain(service="exchange", node=NODE, authenticator=authenticator, telemetry=Telemetry())
    handler = chain.handlers(contract, Calls())["Call"]
    assert handler.request_streaming
    assert not handler.response_streaming  # gRPC sends the answer of such a method with its status


async def test_certificates_are_renewed_while_connections_stay(authority: pki.Authority, tmp_path: Path):
    folder = tmp_path / "messages"
    authority.issue(pki.Identity.service(NODE, "messages"), folder)
    files = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)
    async with serving(files) as listening, calling(listening, certificate(authority, "edge")) as old:
        await get(old, metadata=edge_metadata())
        assert await _serial(listening, authority) == _serial_in(folder)
        authority.issue(pki.Identity.service(NODE, "messages"), folder)
        assert await _serial(listening, authority) == _serial_in(folder)
        await get(old, metadata=edge_metadata())
        (folder / pki.KEY).write_text("half a rotation")
        await _serial(listening, authority)


async def test_a_peer_follows_its_renewed_certificate(address: Address, authority: pki.Authority, tmp_path: Path):
    folder = tmp_path / "edge"
    authority.issue(pki.Identity.service(NODE, "edge"), folder)
    files = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)
    peer = Peer(name="messages", address=address, files=files, telemetry=Telemetry())
    first = peer._channel
    authority.issue(pki.Identity.service(NODE, "edge"), folder)
    peer._looked = float("-inf")
    stub = peer.stub(units_pb2_grpc.UnitServiceStub)
    assert peer._channel is not first
    unit = await stub.GetUnit(units_pb2.GetUnitRequest(name="units/abc"), metadata=edge_metadata())
    assert unit.name == "units/abc"
    await peer.close()


async def test_a_call_belongs_to_the_trace_that_it_carries(authority: pki.Authority):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = Telemetry(provider)
    async with (
        serving(certificate(authority, "messages"), traced) as listening,
        calling(listening, certificate(authority, "edge")) as channel,
    ):
        with traced.span("root"):
            parent = traced.outgoing()["traceparent"]
            await get(channel, metadata=[*edge_metadata(), ("traceparent", parent)])
            await refusal(channel, "units/crash", metadata=[*edge_metadata(), ("traceparent", parent)])
    spans = [span for span in exporter.get_finished_spans() if span.name.endswith("GetUnit")]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {parent.split("-")[1]}
    assert [span.status.is_ok for span in spans] == [True, False]
    assert "Matti" not in "".join(span.to_json() for span in spans)


def test_a_method_that_does_not_say_who_may_call_it_is_not_served():
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t")
    file.message_type.add(name="M")
    file.service.add(name="S").method.add(name="Do", input_type=".t.M", output_type=".t.M")
    service = descriptor_pool.DescriptorPool()
    service.Add(file)
    with pytest.raises(ValueError, match="does not say who may call it"):
        Policy.of(service.FindServiceByName("t.S").methods[0])


async def _serial(address: Address, authority: pki.Authority) -> int:
    context = tls.client_context(certificate(authority, "edge"))
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname="messages")
    serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    writer.close()
    return serial


def _serial_in(folder: Path) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate((folder / pki.CERTIFICATE).read_bytes()).serial_number


async def test_the_gateway_carries_a_clients_token_and_is_itself_nobody(address: Address, authority: pki.Authority):
    async with calling(address, certificate(authority, "gateway")) as channel:
        unit = await get(channel, metadata=edge_metadata())
        assert unit.organisation == "edge|clients/test|organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa"
        assert (await refusal(channel)).reason == "CALLER_NOT_ALLOWED"
        stolen = [edge_metadata()[0], ("x-forwarded-client-cert", f"Hash={'cd' * 32}")]
        assert (await refusal(channel, metadata=stolen)).reason == "TOKEN_BINDING_MISMATCH"
        assert (await refusal(channel, metadata=edge_metadata(scope="other"))).reason == "SCOPE_MISSING"
    async with calling(address, certificate(authority, "exchange")) as channel:
        fault = await refusal(channel, metadata=edge_metadata())
        assert fault.reason == "CALLER_NOT_ALLOWED", "no other service speaks for clients"
