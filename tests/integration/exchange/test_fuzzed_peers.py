"""Two nodes, one of which sends what it should not: anything is refused with its reason, and nothing goes through."""

import uuid

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from solmu.exchange.v1 import errors_pb2, exchanges_pb2, peer_frames_pb2
from solmu.exchange.v1.peer_frames_pb2 import ExchangeRequest as Request
from solmu.exchange.v1.peer_frames_pb2 import ExchangeResponse as Response
from solmu.runtime.v1 import errors_pb2 as runtime_errors_pb2

from services.exchange import proving
from services.exchange.evidence.statements import Kind
from services.exchange.heads import NOT_PASSED_ON
from services.exchange.journal import Content
from services.runtime import status
from services.runtime.errors import Fault
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CONSUMER, flowing, head, refused, send, whole

SOME = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
"""Each example is a call through both nodes."""

REASONS = {
    name.removeprefix(status.PREFIX)
    for errors in (errors_pb2, runtime_errors_pb2)
    for name in errors.ErrorReason.DESCRIPTOR.values_by_name
} - {"INTERNAL"}
"""What a refusal may say; "INTERNAL" would be somebody's mistake here."""

BODY, ANSWER = b"what is asked", b"what is answered"


@pytest.fixture(scope="module")
async def service(pair, backend):
    backend.answer = plain(ANSWER)
    identifier = await calls.service(pair[1], backend.uri)
    await calls.allow(pair[1], identifier)
    return identifier


# What a consumer's node may send


async def genuine(pair, service, *, whole: bool) -> list[Request]:
    """The frames of a call that holds, in one or in several."""
    city, _ = pair
    exchange_id, http_head = str(uuid.uuid4()), b"POST\r\n/fuzzed\r\n"
    lines = {
        "id": exchange_id,
        "sender": f"subsystem {CONSUMER}",
        "receiver": f"service {service}",
        "protocol": "http",
        **proving.digests("head", http_head),
        **proving.digests("body", BODY),
    }
    policy = city.exchange.configuration.current.policy("")
    entry = await city.exchange.proving.sign(Kind.REQUEST, lines, subsystem=CONSUMER, policy=policy, content=Content())
    first = peer_frames_pb2.ExchangeRequestHead(
        exchange_id=exchange_id, sender=lines["sender"], receiver=lines["receiver"], http_head=http_head
    )
    if whole:
        first.proof.CopyFrom(entry.proof)
        first.body, first.body_bytes = BODY, len(BODY)
        return [Request(head=first)]
    end = peer_frames_pb2.ExchangeEnd(proof=entry.proof)
    return [Request(head=first), Request(chunk=BODY[:5]), Request(chunk=BODY[5:]), Request(end=end)]


@st.composite
def meddling(draw):
    """What is done to the frames of a call, as bytes."""
    kind = draw(st.sampled_from(["drop", "repeat", "swap", "cut", "flip", "insert", "unknown", "garbage", "stop"]))
    return kind, draw(st.integers(0, 3)), draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=12))


def meddled(frames: list[bytes], kind: str, which: int, where: float, content: bytes) -> list[bytes]:
    """The frames after it."""
    frames, which = list(frames), which % len(frames)
    frame = frames[which]
    at = int(where * (len(frame) - 1))
    if kind == "drop":
        del frames[which]
    elif kind == "repeat":
        frames.insert(which, frame)
    elif kind == "swap":
        frames[which], frames[0] = frames[0], frames[which]
    elif kind == "cut":
        frames[which] = frame[:at]
    elif kind == "flip":
        frames[which] = frame[:at] + bytes([frame[at] ^ (content[0] or 1)]) + frame[at + 1 :]
    elif kind == "insert":
        frames[which] = frame[:at] + content + frame[at:]
    elif kind == "unknown":
        frames[which] = frame + b"\xfa\x3e" + bytes([len(content)]) + content
    elif kind == "garbage":
        frames.insert(which, content)
    else:
        frames = frames[:which]
    return frames


async def said(pair, frames: list[bytes]) -> Fault | bytes:
    """What the company's node answers to these bytes: its refusal, or the answer's body."""
    city, company = pair
    [stub] = city.exchange.peers.stubs(company.identifier)
    channel = city.exchange.peers._connections[company.identifier].channels[0]
    assert stub
    stream = channel.stream_stream("/solmu.exchange.v1.PeerService/Exchange")(iter(frames), timeout=30)
    body = b""
    try:
        async for content in stream:
            answer = Response.FromString(content)
            if answer.HasField("refusal"):
                return status.from_status(answer.refusal.status)
            body += answer.head.body + answer.chunk
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL and "deserializing" in (error.details() or ""):
            return Fault("FRAMES_INVALID", "no message at all: refused by gRPC")
        return status.fault_of(error)
    return body


@pytest.mark.parametrize("in_one", [True, False], ids=["one frame", "several frames"])
@SOME
@given(done=st.lists(meddling(), min_size=1, max_size=3))
async def test_meddled_frames_of_a_call_are_refused_with_a_reason_or_are_what_was_signed(
    pair, backend, service, in_one, done
):
    backend.requests.clear()
    backend.begun = 0
    frames = [frame.SerializeToString() for frame in await genuine(pair, service, whole=in_one)]
    for one in done:
        if frames:
            frames = meddled(frames, *one)
    found = await said(pair, frames)
    if isinstance(found, Fault):
        assert found.reason in REASONS, (found, frames)
        assert backend.begun == 0
    else:
        assert found == ANSWER
        assert [(each.line, each.body) for each in backend.requests] == [(b"POST /base/fuzzed HTTP/1.1", BODY)]


@SOME
@given(frames=st.lists(st.binary(max_size=60), max_size=4))
async def test_bytes_that_are_no_call_are_refused(pair, backend, service, frames):
    backend.begun = 0
    found = await said(pair, frames)
    assert isinstance(found, Fault)
    assert found.reason in REASONS, found
    assert backend.begun == 0


_names = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["FI", "MUN", "1", "COM", "2", "register", "", "..", "%2e", "%zz", "solmu", "mandates"]))
    .map("/".join),
)  # fmt: skip


@SOME
@given(
    sender=_names.map("subsystem {}".format) | st.just(f"subsystem {CONSUMER}"),
    receiver=st.one_of(_names, _names.map("service {}".format)),
    http_head=st.binary(min_size=1, max_size=60) | st.just(b"GET\r\n/\r\n"),
    body_bytes=st.integers(-(2**63), 2**63 - 1),
    on_behalf_of=st.binary(max_size=20),
    exchange_id=st.text(max_size=36) | st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper()),
)
async def test_a_head_of_any_content_is_refused(pair, backend, service, **fields):
    backend.begun = 0
    first = peer_frames_pb2.ExchangeRequestHead(**fields, body=b"")
    found = await said(pair, [Request(head=first).SerializeToString()])
    assert isinstance(found, Fault)
    assert found.reason in REASONS, found
    assert backend.begun == 0


@pytest.mark.parametrize("name", sorted(NOT_PASSED_ON))
async def test_a_node_cannot_tell_a_backend_where_another_request_begins(pair, backend, service, name):
    """Proven or not: what the head holds would be part of the request that the backend reads."""
    backend.begun = 0
    [frame] = await genuine(pair, service, whole=True)
    value = b"chunked" if name == "transfer-encoding" else b"0"
    frame.head.http_head += name.title().encode() + b":" + value + b"\r\n"
    found = await said(pair, [frame.SerializeToString()])
    assert isinstance(found, Fault)
    assert (found.reason, found.metadata["side"], backend.begun) == ("HEAD_INVALID", "provider", 0)
    row = await calls.record(pair[1], found, exchanges_pb2.SIDE_PROVIDER)
    assert (row["outcome"], row["reason"]) == (exchanges_pb2.Exchange.OUTCOME_REFUSED, "HEAD_INVALID")
    assert await calls.statements(pair[1], frame.head.exchange_id) == [(3, True)]


# What a provider's node may answer


@pytest.mark.parametrize("large", [False, True], ids=["one frame", "several frames"])
@SOME
@given(done=st.lists(meddling(), min_size=1, max_size=3))
async def test_a_meddled_answer_is_refused_with_a_reason_or_is_what_was_signed(
    pair, backend, service, monkeypatch, large, done
):
    city, company = pair
    answer = ANSWER * 5000 if large else ANSWER
    backend.answer = plain(answer)
    honest = company.exchange.providing.serve

    async def meddles(requests, *, node):
        frames = [frame.SerializeToString() async for frame in honest(requests, node=node)]
        for one in done:
            if frames:
                frames = meddled(frames, *one)
        for content in frames:
            try:
                yield Response.FromString(content)
            except DecodeError:
                return

    with monkeypatch.context() as patched:
        patched.setattr(company.exchange.providing, "serve", meddles)
        try:
            found = await send(city, whole(head(service, method="POST", body=BODY)))
        except Fault as fault:
            assert fault.reason in REASONS, fault
            assert fault.code != "INVALID_ARGUMENT", "the caller is without fault"
            row = await calls.record(city, fault, exchanges_pb2.SIDE_CONSUMER)
            assert row["reason"] == fault.reason
        else:
            assert (found.head.status, found.body) == (200, answer)
    city.exchange.peers.circuit(company.identifier).answered()
    backend.answer = plain(ANSWER)


async def test_afterwards_both_nodes_serve(pair, backend, service):
    backend.answer = plain(ANSWER)
    assert (await send(pair[0], flowing(head(service, method="POST"), [BODY]))).body == ANSWER
    assert (await refused(pair[0], whole(head(service, target=b"/%2e%2e/")))).reason == "PATH_NOT_NORMAL"
