"""gRPC services of a member, called through both nodes by a stub that knows nothing of them."""

import asyncio
import uuid
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from solmu.exchange.v1 import calls_pb2, exchanges_pb2, peer_frames_pb2, policies_pb2, services_pb2

from services.exchange import names
from services.exchange.evidence import statements
from services.exchange.grpc_messages import framed
from services.exchange.servicers.grpc_calls import SERVICE
from services.runtime import status
from services.runtime.chain import Chain
from services.runtime.identity import Authenticator, Caller, TokenVerifier
from services.runtime.server import MAX_MESSAGE_BYTES, OPTIONS, _Passing
from services.runtime.telemetry import Telemetry
from tests.integration.exchange import backend as http_backends
from tests.integration.exchange import calls, grpc_backend
from tests.integration.exchange.calls import CLIENT, CONSUMER, flowing, head, refused, send
from tests.integration.exchange.grpc_backend import PACKAGE

STREAMED = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED
GRPC = services_pb2.Service.PROTOCOL_GRPC
CONSUMERS, PROVIDERS = exchanges_pb2.SIDE_CONSUMER, exchanges_pb2.SIDE_PROVIDER
Outcome = exchanges_pb2.Exchange.Outcome


@pytest.fixture(scope="module")
async def backend():
    async with grpc_backend.running() as started:
        yield started


@pytest.fixture(scope="module")
async def channel(pair):
    """To the city's node, as its case system has it; the edge in front of it is another test's."""
    caller = Caller(service="edge", client_id=CLIENT.removeprefix("clients/"), expires=4e9)
    verifier = TokenVerifier(issuer="", fetch=None)  # type: ignore[arg-type]  # `admit` says who calls
    chain = Chain(
        service="exchange",
        node="",
        authenticator=Authenticator(verifier=verifier, revoked=lambda _: True),
        telemetry=Telemetry(),
        admit=lambda *_: caller,
    )
    passing = _Passing()
    passing.named = SERVICE
    method = calls_pb2.DESCRIPTOR.services_by_name["CallService"].methods_by_name["Call"]
    passing.handler = chain.passing(method, pair[0].exchange.grpc_calls.call)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((passing,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


@pytest.fixture(params=["verified", "streamed"])
async def service(request, pair, backend):
    """A service that the city may call in any way, passed on after verification, and as it comes."""
    backend.called.clear()
    async for identifier in offered(pair, backend, streamed=request.param == "streamed"):
        yield identifier


@pytest.fixture
async def streamed(pair, backend):
    backend.called.clear()
    async for identifier in offered(pair, backend, streamed=True):
        yield identifier


async def offered(pair, backend, *, streamed, patterns=(), **content):
    city, company = pair
    given = {"body_release": STREAMED, **content} if streamed else content
    await calls.host(city, CONSUMER, policy=await calls.policy(city, **given))
    policy = await calls.policy(company, **given)
    identifier = await calls.service(company, backend.uri, protocol=GRPC, policy=policy)
    await calls.allow(company, identifier, *patterns)
    yield identifier
    await calls.host(city, CONSUMER, policy="")


def named(service, *metadata):
    return ((SERVICE, names.service_resource(service)), *metadata)


async def exchange_of(call):
    metadata = dict(await call.initial_metadata())
    return uuid.UUID(metadata["solmu-exchange"].removeprefix("exchanges/"))


async def refusal_of(call):
    """The reason for which a node refuses, and the status."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in call:
            pass
    return status.fault_of(error.value), error.value.code()


async def numbered(count, *, size=0):
    for number in range(count):
        yield b"%d" % number + bytes(size)


# What goes through


async def test_a_generated_stub_calls_a_service_as_if_it_were_here_and_both_ends_hold_the_proof(
    pair, channel, backend, service
):
    city, company = pair
    call = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service="parcels"), metadata=named(service)
    )
    assert (await call).status == health_pb2.HealthCheckResponse.SERVING
    exchange_id = await exchange_of(call)
    assert await calls.statements(city, exchange_id) == [(1, True), (2, False)]
    assert await calls.statements(company, exchange_id) == [(1, False), (2, True)]
    trailers = dict(await call.trailing_metadata())
    for node, side in ((city, CONSUMERS), (company, PROVIDERS)):
        row = await node.database.fetchrow(
            "select * from exchange where exchange_id = $1 and side = $2", exchange_id, side
        )
        assert (row["outcome"], row["method"], row["service"]) == (Outcome.OUTCOME_ANSWERED, "POST", service)
        assert trailers["solmu-request-statement"] == f"statements/{row['request_sha256'].hex()}"
        assert trailers["solmu-response-statement"] == f"statements/{row['response_sha256'].hex()}"
        contents = await node.database.fetch("select content from statement where exchange_id = $1", exchange_id)
        assert {statements.parse(row["content"]).lines["protocol"] for row in contents} == {"grpc"}


async def test_messages_go_in_all_four_ways(channel, backend, service):
    assert await channel.unary_unary(f"{PACKAGE}/Join")(b"a", metadata=named(service)) == b"<a>"
    assert await channel.unary_unary(f"{PACKAGE}/Join")(b"", metadata=named(service)) == b"<>"
    assert await channel.stream_unary(f"{PACKAGE}/Collect")(numbered(4), metadata=named(service)) == b"0+1+2+3"
    assert await channel.stream_unary(f"{PACKAGE}/Collect")(numbered(0), metadata=named(service)) == b""
    call = channel.unary_stream(f"{PACKAGE}/Count")(b"3", metadata=named(service))
    assert [message async for message in call] == [b"0", b"1", b"2"]
    call = channel.stream_stream(f"{PACKAGE}/Echo")(numbered(3), metadata=named(service))
    assert [message async for message in call] == [b"0", b"1", b"2"]
    assert backend.called == ["Join", "Join", "Collect", "Collect", "Count", "Echo"]


async def test_each_side_may_wait_for_the_other(pair, channel, backend, streamed):
    call = channel.stream_stream(f"{PACKAGE}/Echo")(metadata=named(streamed))
    for number in range(20):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    assert len(await calls.statements(pair[1], await exchange_of(call))) == 2


async def test_metadata_and_trailers_go_both_ways_and_the_consumers_token_stays_at_its_node(channel, backend, service):
    given = (
        ("colour", "red"),
        ("colour-bin", b"\x00\xff\xfe"),
        ("authorization", "Bearer of the city's node"),
        ("solmu-backend-authorization", "Bearer of the backend"),
        ("x-forwarded-client-cert", "By=somebody"),
        ("x-edge-certificate-serial", "1"),
        ("x-road-client", "FI/MUN/1/other"),
    )
    call = channel.unary_unary(f"{PACKAGE}/Join")(b"a", metadata=named(service, *given))
    await call
    seen = backend.metadata
    assert (seen["colour"], seen["colour-bin"]) == ("red", b"\x00\xff\xfe")
    assert (seen["authorization"], seen["x-road-client"]) == ("Bearer of the backend", CONSUMER)
    assert not [name for name in seen if name.startswith(("solmu-", "x-forwarded-", "x-edge-"))]
    began, ended = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
    assert (began["began"], began["raw-bin"]) == ("yes", b"\x00\xff")
    assert (ended["ended"], ended["tail-bin"]) == ("yes", b"\xfe")


async def test_a_backend_does_not_speak_in_the_nodes_name(channel, backend, service):
    call = channel.unary_unary(f"{PACKAGE}/Join")(b"a", metadata=named(service))
    await call
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        own = [(name, value) for name, value in metadata if name.startswith("solmu-")]
        assert own
        assert not [value for _, value in own if "forged" in value]


async def test_a_status_comes_with_its_text_and_details_and_is_an_answer(pair, channel, backend, service):
    call = channel.unary_unary(f"{PACKAGE}/Fail")(b"a", metadata=named(service))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    found = rpc_status.from_call(error.value)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "ä parcel 100 %")
    info = error_details_pb2.ErrorInfo()
    assert found.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("PARCEL_LOST", "parcels.example")
    assert len(await calls.statements(pair[0], await exchange_of(call))) == 2


async def test_a_method_that_the_backend_lacks_is_its_answer(channel, backend, service):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(f"{PACKAGE}/Nothing")(b"a", metadata=named(service))
    # A client of grpcio may lose the status of a call that is refused before its own first bytes are out.
    assert error.value.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}


async def test_a_backend_that_has_had_enough_ends_the_call_and_all_of_it_is_proven(pair, channel, backend, streamed):
    """The consumer goes on writing: what the backend did not want is cut where it was, and signed."""
    call = channel.stream_stream(f"{PACKAGE}/Enough")(metadata=named(streamed))
    await call.write(b"first")
    assert await call.read() == b"first"
    assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call.details() == "that will do"
    for node in pair:
        assert len(await calls.statements(node, await exchange_of(call))) == 2


async def test_a_backend_that_ends_a_call_while_it_is_written_to_is_heard(pair, backend, streamed):
    """Its own status is the answer, not that the rest could not be written."""

    async def endless():
        while True:
            yield framed(bytes(60_000))

    given = {"headers": [("content-type", b"application/grpc")], "target": f"{PACKAGE}/Enough".encode()}
    for _ in range(10):
        answered = await send(pair[0], flowing(head(streamed, method="POST", **given), endless()))
        assert answered.end is not None
        trailers = {field.name: field.value for field in answered.end.trailers}
        assert (trailers["grpc-status"], trailers["grpc-message"]) == (b"8", b"that will do")


async def test_large_messages_and_many_of_them_go_through(channel, backend, service):
    large = bytes(range(256)) * (14 << 10)  # 3.5 MiB
    assert await channel.unary_unary(f"{PACKAGE}/Join", response_deserializer=len)(large, metadata=named(service)) == (
        len(large) + 2
    )
    got = 0
    call = channel.stream_stream(f"{PACKAGE}/Echo")(numbered(40, size=1 << 20), metadata=named(service))
    async for message in call:
        assert message == b"%d" % got + bytes(1 << 20)
        got += 1
    assert got == 40


# What is refused, and what breaks


async def test_a_message_larger_than_nodes_take_is_refused(channel, backend, service):
    too_large = bytes(MAX_MESSAGE_BYTES + 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(f"{PACKAGE}/Join")(too_large, metadata=named(service))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert backend.called == []


async def test_a_stream_larger_than_the_policy_takes_is_refused(pair, channel, backend):
    backend.called.clear()
    limits = policies_pb2.ExchangePolicy.Limits(max_request_bytes=1 << 20)
    async for identifier in offered(pair, backend, streamed=False, limits=limits):
        call = channel.stream_stream(f"{PACKAGE}/Echo")(numbered(3, size=1 << 20), metadata=named(identifier))
        fault, code = await refusal_of(call)
        assert (fault.reason, code, backend.called) == (
            "EXCHANGE_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED, [],
        )  # fmt: skip


async def test_rights_are_to_methods(pair, channel, backend):
    backend.called.clear()
    async for identifier in offered(pair, backend, streamed=True, patterns=[("POST", f"{PACKAGE}/Join")]):
        assert await channel.unary_unary(f"{PACKAGE}/Join")(b"a", metadata=named(identifier)) == b"<a>"
        for path in (f"{PACKAGE}/Collect", "/grpc.health.v1.Health/Check", f"{PACKAGE}/Join/"):
            fault, code = await refusal_of(channel.stream_stream(path)(numbered(1), metadata=named(identifier)))
            assert (fault.reason, code) == ("ACCESS_DENIED", grpc.StatusCode.PERMISSION_DENIED), path
            assert fault.metadata["side"] == "provider"
        for path, reason in ((f"{PACKAGE}/../Join", "PATH_NOT_NORMAL"), (f"{PACKAGE}/%4aoin", "HEAD_INVALID")):
            fault, _ = await refusal_of(channel.stream_stream(path)(numbered(1), metadata=named(identifier)))
            assert fault.reason == reason
    assert backend.called == ["Join"]


async def test_the_kind_of_a_service_is_the_kind_of_its_calls(pair, channel, backend, streamed):
    fault = await refused(pair[0], flowing(head(streamed, method="POST"), [b"no gRPC"]))
    assert fault.reason == "SERVICE_PROTOCOL_MISMATCH"
    async with http_backends.running() as http:
        identifier = await calls.service(pair[1], http.uri)
        await calls.allow(pair[1], identifier)
        call = channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=named(identifier))
        assert (await refusal_of(call))[0].reason == "SERVICE_PROTOCOL_MISMATCH"
        assert http.begun == 0
    assert backend.called == []


@pytest.mark.parametrize(
    "body", [b"\x00\x00", b"\x01\x00\x00\x00\x01a", b"\x00\xff\xff\xff\xff", b"\x00\x00\x00\x00\x02a"]
)
async def test_what_is_no_body_of_grpc_does_not_reach_the_backend(pair, backend, service, body):
    first = head(
        service, method="POST", target=f"{PACKAGE}/Join".encode(), headers=[("content-type", b"application/grpc")]
    )
    fault = await refused(pair[0], flowing(first, [body]))
    assert (fault.reason, fault.metadata["side"], backend.called) == ("FRAMES_INVALID", "provider", [])


@pytest.mark.parametrize("given", [{"method": "GET"}, {"target": f"{PACKAGE}/Join?a".encode()}])
async def test_what_is_no_call_of_grpc_is_refused(pair, backend, streamed, given):
    first = head(
        streamed,
        **{"method": "POST", "target": f"{PACKAGE}/Join".encode(), **given},
        headers=[("content-type", b"application/grpc")],
    )
    assert (await refused(pair[0], flowing(first, [b"\0\0\0\0\0"]))).reason == "HEAD_INVALID"
    assert backend.called == []


@pytest.mark.parametrize("name", ["", "subsystems/FI~COM~2~register", "FI/COM/2/register/parcels"])
async def test_a_call_names_its_service(channel, backend, name):
    call = channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=((SERVICE, name),))
    assert (await refusal_of(call))[0].reason == "FIELD_INVALID"


async def test_who_stands_behind_a_call_is_said_in_the_contracts_form(channel, backend, service):
    bad = ("solmu-on-behalf-of-bin", b"\xff")
    call = channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=named(service, bad))
    assert (await refusal_of(call))[0].reason == "FIELD_INVALID"


async def test_a_deadline_is_the_backends_too(channel, backend, service):
    backend.cancelled.clear()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(f"{PACKAGE}/Hang")(b"a", metadata=named(service), timeout=2)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    if backend.called:  # a slow machine may not have come so far
        await asyncio.wait_for(backend.cancelled.wait(), 30)
        assert backend.remaining is not None
        assert backend.remaining < 60


async def check_gone(pair, service, *, least):
    """Both nodes remember a call whose caller went away, with as many bytes each way at least."""
    for node, side in zip(pair, (CONSUMERS, PROVIDERS), strict=True):
        row = await calls.remembered(node, side, service=service)
        assert (row["outcome"], row["reason"], row["method"]) == (Outcome.OUTCOME_BROKEN, "CALLER_GONE", "POST")
        assert (row["consumer_node"], row["provider_node"]) == tuple(one.identifier for one in pair)
        assert all(size >= bound for size, bound in zip(calls.sizes(row), least, strict=True))


async def test_a_call_that_is_cancelled_is_cancelled_at_the_backend(pair, channel, backend, service):
    backend.cancelled.clear()
    call = channel.unary_unary(f"{PACKAGE}/Hang")(b"a", metadata=named(service))
    while not backend.called:
        await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait_for(backend.cancelled.wait(), 30)
    await check_gone(pair, service, least=(6, 0))


async def test_a_stream_that_is_cancelled_in_the_middle_is_on_record_at_both_ends(pair, channel, backend, streamed):
    call = channel.stream_stream(f"{PACKAGE}/Echo")(metadata=named(streamed))
    for _ in range(3):
        await call.write(bytes(1000))
        assert await call.read() == bytes(1000)
    call.cancel()
    await check_gone(pair, streamed, least=(3000, 3000))


async def test_a_backend_that_hangs_is_left(pair, channel, backend):
    given: dict = {"timeout": timedelta(milliseconds=300)}
    identifier = await calls.service(pair[1], backend.uri, protocol=GRPC, backend=given)
    await calls.allow(pair[1], identifier)
    fault, code = await refusal_of(channel.stream_stream(f"{PACKAGE}/Hang")(numbered(1), metadata=named(identifier)))
    assert (fault.reason, code) == ("BACKEND_TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_backend_that_is_not_there_is_refused(pair, channel):
    identifier = await calls.service(pair[1], "http://127.0.0.1:1", protocol=GRPC)
    await calls.allow(pair[1], identifier)
    fault, code = await refusal_of(channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=named(identifier)))
    assert (fault.reason, fault.metadata["side"], code) == (
        "BACKEND_UNAVAILABLE", "provider", grpc.StatusCode.UNAVAILABLE,
    )  # fmt: skip


@pytest.fixture
def tampered(monkeypatch):
    """The city's node sends other messages than it signs."""
    genuine = peer_frames_pb2.ExchangeRequest

    def changed(**frame):
        if "chunk" in frame:
            frame["chunk"] = frame["chunk"][:-1] + b"X"
        return genuine(**frame)

    monkeypatch.setattr(peer_frames_pb2, "ExchangeRequest", changed)


@pytest.mark.parametrize("method", ["Join", "Collect", "Echo"])
async def test_a_request_that_was_tampered_with_does_not_reach_the_backend(pair, channel, backend, tampered, method):
    backend.called.clear()
    async for identifier in offered(pair, backend, streamed=False):
        fault, code = await refusal_of(
            channel.stream_stream(f"{PACKAGE}/{method}")(numbered(1), metadata=named(identifier))
        )
        assert (fault.reason, fault.metadata["side"]) == ("BODY_DIGEST_MISMATCH", "provider")
        assert (code, backend.called) == (grpc.StatusCode.INVALID_ARGUMENT, [])


async def test_a_stream_that_was_tampered_with_never_ends_at_the_backend(channel, backend, streamed, tampered):
    """Where messages go on as they come, the backend never hears that it had all of them."""
    call = channel.stream_stream(f"{PACKAGE}/Collect")(numbered(3), metadata=named(streamed))
    fault, _ = await refusal_of(call)
    assert (fault.reason, fault.metadata["side"]) == ("BODY_DIGEST_MISMATCH", "provider")


async def test_an_answer_that_was_tampered_with_has_no_good_end(pair, channel, backend, service, monkeypatch):
    providing = pair[1].exchange.providing
    genuine = providing._respond

    async def changed(call, answer, policy):
        async for response in genuine(call, answer, policy):
            if response.WhichOneof("frame") == "chunk":
                response.chunk = response.chunk[:-1] + b"X"
            yield response

    monkeypatch.setattr(providing, "_respond", changed)
    fault, code = await refusal_of(channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=named(service)))
    assert (fault.reason, fault.metadata["side"], code) == (
        "BODY_DIGEST_MISMATCH", "consumer", grpc.StatusCode.DATA_LOSS,
    )  # fmt: skip


async def test_a_tampered_status_is_refused(pair, channel, backend, service, monkeypatch):
    providing = pair[1].exchange.providing
    genuine = providing._respond

    async def changed(call, answer, policy):
        async for response in genuine(call, answer, policy):
            if response.WhichOneof("frame") == "end":
                response.end.trailers = response.end.trailers.replace(b"grpc-status:5", b"grpc-status:0")
            yield response

    monkeypatch.setattr(providing, "_respond", changed)
    fault, code = await refusal_of(channel.stream_stream(f"{PACKAGE}/Fail")(numbered(1), metadata=named(service)))
    assert (fault.reason, code) == ("TRAILERS_DIGEST_MISMATCH", grpc.StatusCode.DATA_LOSS)


async def test_a_peer_that_hangs_is_left(pair, channel, backend, monkeypatch):
    providing = pair[1].exchange.providing

    async def hangs(*_):
        await asyncio.Event().wait()
        yield

    limits = policies_pb2.ExchangePolicy.Limits()
    limits.response_timeout.FromMilliseconds(500)
    async for identifier in offered(pair, backend, streamed=True, limits=limits):
        monkeypatch.setattr(providing, "_respond", hangs)
        call = channel.stream_stream(f"{PACKAGE}/Join")(numbered(1), metadata=named(identifier))
        assert (await refusal_of(call))[0].reason == "PEER_TIMEOUT"
    pair[0].exchange.peers.circuit(pair[1].identifier).answered()


async def test_the_address_of_a_grpc_backend_has_no_path(pair, backend):
    from services.runtime.errors import Fault

    with pytest.raises(Fault) as fault:
        await calls.service(pair[1], f"{backend.uri}/base", protocol=GRPC)
    assert fault.value.reason == "FIELD_INVALID"
