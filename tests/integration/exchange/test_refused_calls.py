"""Calls that are refused: with the documented reason, on record at both ends, and nothing at the backend."""

import asyncio
import contextlib
import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from solmu.exchange.v1 import exchanges_pb2, hosting_pb2, monitoring_pb2, peer_frames_pb2, policies_pb2, services_pb2

from services.exchange import evidence_store, proving
from services.exchange.evidence import signatures, statements
from services.exchange.evidence.statements import Kind
from services.exchange.journal import Content
from services.exchange.proofs import signature_message
from services.exchange.statuses import Issuer
from services.runtime import identity, status
from services.runtime.errors import Fault
from services.runtime.identity import Caller
from services.runtime.streams import Stream
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls, grpc_backend
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CONSUMER, PROVIDER, flowing, head, refused, send, whole
from tests.unit.exchange import test_timestamps as stamps

CONSUMERS, PROVIDERS = exchanges_pb2.SIDE_CONSUMER, exchanges_pb2.SIDE_PROVIDER
REFUSED = exchanges_pb2.Exchange.OUTCOME_REFUSED


@pytest.fixture
async def service(pair, backend):
    backend.requests.clear()
    backend.begun = 0
    backend.answer = plain()
    identifier = await calls.service(pair[1], backend.uri)
    await calls.allow(pair[1], identifier)
    return identifier


# Who may call what


async def check_refused(pair, backend, requests, reason):
    """A refusal of the provider: signed, kept by both, and nothing at the backend."""
    fault = await refused(pair[0], requests)
    assert (fault.reason, fault.metadata["side"]) == (reason, "provider")
    for node, side in zip(pair, (CONSUMERS, PROVIDERS), strict=True):
        row = await calls.record(node, fault, side)
        assert (row["outcome"], row["reason"], row["refused_by"]) == (REFUSED, reason, PROVIDERS)
    assert (3, False) in await calls.statements(pair[0], fault.metadata["exchange"])
    assert (3, True) in await calls.statements(pair[1], fault.metadata["exchange"])
    assert backend.begun == 0
    return fault


async def test_nobody_may_until_a_right_says_so(pair, backend):
    identifier = await calls.service(pair[1], backend.uri)
    await check_refused(pair, backend, whole(head(identifier)), "ACCESS_DENIED")


@pytest.mark.parametrize(
    "target", [b"/open/%2e%2e/secret", b"/open/..%2fsecret", b"/open//secret", b"/open/%252e%252e/x"]
)
async def test_no_spelling_of_a_path_gets_around_a_right(pair, backend, target):
    backend.begun = 0
    identifier = await calls.service(pair[1], backend.uri)
    await calls.allow(pair[1], identifier, ("GET", "/open/**"))
    await check_refused(pair, backend, whole(head(identifier, target=target)), "PATH_NOT_NORMAL")


async def test_a_right_that_was_taken_back_allows_no_call_that_begins_afterwards(pair, backend):
    from solmu.exchange.v1 import access_rights_pb2

    city, company = pair
    backend.begun = 0
    identifier = await calls.service(company, backend.uri)
    right = await calls.allow(company, identifier)
    assert (await send(city, whole(head(identifier)))).head.status == 200
    backend.begun = 0
    stale = company.exchange.configuration.current
    await company.exchange.rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right))
    company.exchange.configuration.current = stale  # as another process still has it
    await check_refused(pair, backend, whole(head(identifier)), "ACCESS_DENIED")


async def test_a_right_that_is_taken_back_after_a_call_was_admitted_allows_nothing(pair, backend, monkeypatch):
    """The process takes the new configuration between judging the call and writing it: judged anew all the same."""
    from solmu.exchange.v1 import access_rights_pb2

    _, company = pair
    backend.begun = 0
    identifier = await calls.service(company, backend.uri)
    right = await calls.allow(company, identifier)
    providing = company.exchange.providing
    genuine = providing._prove

    async def taken_back(*given):
        await company.exchange.rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right))
        await genuine(*given)

    monkeypatch.setattr(providing, "_prove", taken_back)
    await check_refused(pair, backend, whole(head(identifier)), "ACCESS_DENIED")


async def test_what_is_not_there_disabled_or_of_another_kind_is_refused(pair, backend, service):
    _, company = pair
    await check_refused(pair, backend, whole(head(f"{PROVIDER}/nothing")), "SERVICE_UNKNOWN")
    grpc_head = head(service, method="POST", headers=[("content-type", b"application/grpc")])
    await check_refused(pair, backend, whole(grpc_head), "SERVICE_PROTOCOL_MISMATCH")
    disabled = await calls.service(company, backend.uri, state=services_pb2.Service.STATE_DISABLED, notice="at noon")
    await calls.allow(company, disabled)
    fault = await check_refused(pair, backend, whole(head(disabled)), "SERVICE_DISABLED")
    assert fault.metadata["notice"] == "at noon"
    await calls.host(company, PROVIDER, disabled=True)
    try:
        await check_refused(pair, backend, whole(head(service)), "SUBSYSTEM_DISABLED")
    finally:
        await calls.host(company, PROVIDER, disabled=False)


async def test_a_service_that_could_not_be_called_is_not_made(pair, backend):
    with pytest.raises(Fault) as refusal:
        await calls.service(pair[1], backend.uri, protocol=services_pb2.Service.PROTOCOL_GRPC)
    assert refusal.value.reason == "FIELD_INVALID", "gRPC has no path before the method's own"


async def test_who_is_not_in_the_directory_is_not_called(pair):
    fault = await refused(pair[0], whole(head("FI/COM/9/none/service")))
    assert fault.reason == "MEMBER_UNKNOWN"


async def test_a_client_speaks_for_its_own_subsystem_only(pair, service):
    first = head(service)
    first.requester.subsystem = "subsystems/FI~COM~2~register"
    assert (await refused(pair[0], whole(first))).reason == "CONSUMER_NOT_REGISTERED"
    first.requester.subsystem = "subsystems/FI~MUN~1~letters"
    first.requester.certificate_sha256 = "0" * 64
    assert (await refused(pair[0], whole(first))).reason == "REQUESTER_INVALID"


async def maintain(node, *, active):
    await node.exchange.hosting.UpdateMaintenance(
        hosting_pb2.UpdateMaintenanceRequest(
            maintenance=hosting_pb2.Maintenance(name="nodes/-/maintenance", active=active)
        )
    )


async def test_a_node_in_maintenance_takes_nothing_new(pair, backend, service):
    city, company = pair
    await maintain(company, active=True)
    try:
        assert (await refused(city, whole(head(service)))).reason == "NODE_IN_MAINTENANCE"
    finally:
        await maintain(company, active=False)
    assert backend.begun == 0
    company.exchange.peers.circuit(company.identifier).answered()
    city.exchange.peers.circuit(company.identifier).answered()


@pytest.fixture
async def shortly_away(pair, monkeypatch):
    """The company's node is in maintenance, until it has refused one call for it."""
    city, company = pair
    genuine = company.exchange.providing.serve

    async def refuses_once(requests, *, node):
        frames = [frame async for frame in genuine(requests, node=node)]
        await maintain(company, active=False)
        for frame in frames:
            yield frame

    monkeypatch.setattr(company.exchange.providing, "serve", refuses_once)
    await maintain(company, active=True)
    yield
    await maintain(company, active=False)
    city.exchange.peers.circuit(company.identifier).answered()


def attempts(row) -> int:
    return exchanges_pb2.Exchange.Measurement.FromString(row["measurement"]).attempts


async def test_a_request_that_is_there_whole_is_brought_again_after_maintenance(pair, backend, service, shortly_away):
    """One with trailers is proven last as well, but its body was taken before it was sent."""
    trailers = [("X-Checksum", b"7")]
    answered = await send(pair[0], flowing(head(service, method="POST", body_bytes=4), [b"on", b"ce"], trailers))
    assert answered.head.status == 200
    assert [request.body for request in backend.requests] == [b"once"]
    assert attempts(await calls.record(pair[0], answered, CONSUMERS)) == 2


async def test_a_request_that_was_passed_on_while_it_came_is_not_brought_again(pair, backend, service, shortly_away):
    """Its beginning is gone: who calls hears that the node is in maintenance, and calls again."""
    fault = await refused(pair[0], flowing(head(service, method="POST"), [b"on", b"ce"]))
    assert (fault.reason, fault.metadata["side"]) == ("NODE_IN_MAINTENANCE", "provider")
    assert fault.retry_after
    row = await calls.record(pair[0], fault, CONSUMERS)
    assert (row["outcome"], row["reason"], attempts(row)) == (REFUSED, "NODE_IN_MAINTENANCE", 1)
    assert backend.begun == 0


async def test_a_call_that_needs_a_mandate_is_refused_without(pair, backend, service):
    _, company = pair
    name = await calls.policy(company, mandate_required=True)
    identifier = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, identifier)
    await check_refused(pair, backend, whole(head(identifier)), "MANDATE_MISSING")


# Limits


async def test_a_body_larger_than_the_policy_takes_is_refused(pair, backend, service):
    _, company = pair
    name = await calls.policy(company, limits=policies_pb2.ExchangePolicy.Limits(max_request_bytes=1000))
    identifier = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, identifier)
    await check_refused(pair, backend, whole(head(identifier, method="POST", body=bytes(1001))), "EXCHANGE_TOO_LARGE")
    unknown = flowing(head(identifier, method="POST"), [bytes(900), bytes(900)])
    await check_refused(pair, backend, unknown, "EXCHANGE_TOO_LARGE")


@pytest.fixture
def unheard(monkeypatch):
    """The consumer's node is slow: it reads what the provider's said once it cannot write any more."""
    genuine = Stream.answers

    async def late(stream):
        while not stream.done():
            await asyncio.sleep(0.01)
        async for frame in genuine(stream):
            yield frame

    monkeypatch.setattr(Stream, "answers", late)


async def endless(chunk):
    while True:
        yield chunk


GRPC_CALL = {"headers": [("content-type", b"application/grpc")], "target": b"/parcels.v1.Parcels/Swallow"}
"""A call of a gRPC service."""

MESSAGE = b"\0\0\0\xea\x60" + bytes(60_000)
"""As gRPC has it; to HTTP it is bytes like others."""


@pytest.mark.parametrize("given", [{}, GRPC_CALL], ids=["http", "grpc"])
async def test_a_refusal_is_heard_by_who_still_writes(pair, backend, unheard, given):
    backend.begun = 0
    requests = flowing(head(f"{PROVIDER}/nothing", method="POST", **given), endless(MESSAGE))
    await check_refused(pair, backend, requests, "SERVICE_UNKNOWN")


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("given", [{}, GRPC_CALL], ids=["http", "grpc"])
async def test_an_endless_request_ends_at_the_policys_limit_and_is_on_record(pair, unheard, streamed, given):
    release = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED if streamed else 0
    limits = policies_pb2.ExchangePolicy.Limits(max_request_bytes=1_000_000)
    name = await calls.policy(pair[1], body_release=release, limits=limits)
    running = grpc_backend.running() if given else backends.running()
    async with running as there:
        protocol = services_pb2.Service.PROTOCOL_GRPC if given else services_pb2.Service.PROTOCOL_HTTP
        uri = there.uri.removesuffix("/base")
        identifier = await calls.service(pair[1], uri, protocol=protocol, policy=name)
        await calls.allow(pair[1], identifier)
        requests = flowing(head(identifier, method="POST", **given), endless(MESSAGE))
        fault = await refused(pair[0], requests)
        assert not getattr(there, "requests", [])
    assert (fault.reason, fault.metadata["side"]) == ("EXCHANGE_TOO_LARGE", "provider")
    for node, side in zip(pair, (CONSUMERS, PROVIDERS), strict=True):
        row = await calls.record(node, fault, side)
        assert (row["outcome"], row["reason"], row["refused_by"]) == (REFUSED, "EXCHANGE_TOO_LARGE", PROVIDERS)
    assert (3, False) in await calls.statements(pair[0], fault.metadata["exchange"])
    assert (3, True) in await calls.statements(pair[1], fault.metadata["exchange"])


async def test_an_answer_to_half_a_request_is_none(pair, backend, service, unheard, monkeypatch):
    """A peer that ends a call as if it were answered, without having had all of it."""
    city, company = pair

    async def hasty(requests, *, node):
        first = await anext(requests)
        head = peer_frames_pb2.ExchangeResponseHead(http_head=b"200\r\nOK\r\n", body=b"", proof=first.head.proof)
        yield peer_frames_pb2.ExchangeResponse(head=head)

    monkeypatch.setattr(company.exchange.providing, "serve", hasty)
    fault = await refused(city, flowing(head(service, method="POST"), endless(bytes(60_000))))
    assert fault.reason == "EXCHANGE_BROKEN"
    row = await calls.record(city, fault, CONSUMERS)
    assert row["outcome"] == exchanges_pb2.Exchange.OUTCOME_BROKEN
    city.exchange.peers.circuit(company.identifier).answered()


async def test_an_endless_answer_ends_at_the_policys_limit(pair, backend, service):
    city, company = pair

    async def endless(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                await writer.drain()

    backend.answer = endless
    name = await calls.policy(company, limits=policies_pb2.ExchangePolicy.Limits(max_response_bytes=3_000_000))
    identifier = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, identifier)
    fault = await refused(city, whole(head(identifier)))
    assert (fault.reason, fault.metadata["side"]) == ("EXCHANGE_TOO_LARGE", "provider")
    for node, side in zip(pair, (CONSUMERS, PROVIDERS), strict=True):
        assert (await calls.record(node, fault, side))["reason"] == "EXCHANGE_TOO_LARGE"


@pytest.mark.parametrize(
    "begins", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"]
)
async def test_an_endless_head_or_trailer_of_a_backend_ends_at_what_nodes_take(pair, backend, service, begins):
    async def endless(_, writer):
        writer.write(begins)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X-More: " + b"a" * 60_000 + b"\r\n")
                await writer.drain()

    backend.answer = endless
    fault = await refused(pair[0], whole(head(service)))
    assert (fault.reason, fault.metadata["side"]) == ("BACKEND_RESPONSE_INVALID", "provider")


async def test_a_body_of_another_length_than_announced_is_refused(pair, backend, service):
    for chunks in ([b"12"], [b"1234"]):
        fault = await refused(pair[0], flowing(head(service, method="POST", body_bytes=3), chunks))
        assert fault.reason == "BODY_LENGTH_MISMATCH"
    assert backend.begun == 0


async def test_frames_out_of_order_are_refused(pair, backend, service):
    async def headless():
        from solmu.exchange.v1 import calls_pb2

        yield calls_pb2.CallRequest(chunk=b"first")

    fault = await refused(pair[0], headless())
    assert fault.reason == "FRAMES_INVALID"


async def test_more_calls_a_second_than_the_policy_takes_are_refused(pair, backend, service):
    _, company = pair
    name = await calls.policy(company, limits=policies_pb2.ExchangePolicy.Limits(calls_per_second=1))
    identifier = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, identifier)
    results = await asyncio.gather(*(send(pair[0], whole(head(identifier))) for _ in range(5)), return_exceptions=True)
    assert {result.reason for result in results if isinstance(result, Fault)} == {"RATE_LIMITED"}


async def test_calls_beyond_what_the_backend_takes_wait_shortly_and_are_then_refused(pair, backend, service):
    _, company = pair
    free = asyncio.Event()

    async def slow(request, writer):
        await free.wait()
        await plain()(request, writer)

    backend.answer = slow
    identifier = await calls.service(company, backend.uri, backend={"max_concurrent_calls": 1})
    await calls.allow(company, identifier)
    first = asyncio.create_task(send(pair[0], whole(head(identifier))))
    while not backend.begun:
        await asyncio.sleep(0.01)
    assert (await refused(pair[0], whole(head(identifier)))).reason == "PROVIDER_BUSY"
    free.set()
    assert (await first).head.status == 200


async def test_a_peers_statements_wait_for_time_stamps_as_well_and_count_where_the_policy_has_a_bound(
    pair, backend, service
):
    """No authority stamps for this node: what a peer signed waits for it too, and what would be more than may is
    refused before the backend hears of it."""
    city, company = pair
    before = (await evidence_store.pending(company.database))["number"]
    answer = await send(city, whole(head(service)))
    assert await calls.statements(company, answer.exchange_id) == [(1, False), (2, True)]
    assert (await evidence_store.pending(company.database))["number"] == before + 2
    backend.begun = 0
    shown = company.exchange.evidence.stamp_policy
    async with asyncio.timeout(60):
        while shown.backlog.pending < before + 2:
            await asyncio.sleep(0.05)
            await shown.look()
    backlog = await company.exchange.monitoring.GetBacklog(monitoring_pb2.GetBacklogRequest())
    assert backlog.time_stamps.count >= before + 2
    stamping = policies_pb2.ExchangePolicy.TimeStamping(max_pending=before + 2)
    identifier = await calls.service(company, backend.uri, policy=await calls.policy(company, time_stamping=stamping))
    await calls.allow(company, identifier)
    fault = await refused(city, whole(head(identifier)))
    assert (fault.reason, fault.metadata["side"]) == ("TIME_STAMP_BACKLOG_FULL", "provider")
    assert backend.begun == 0
    for node, side in zip(pair, (CONSUMERS, PROVIDERS), strict=True):
        row = await calls.remembered(node, side, exchange_id=uuid.UUID(fault.metadata["exchange"]))
        assert (row["outcome"], row["reason"], row["refused_by"]) == (REFUSED, "TIME_STAMP_BACKLOG_FULL", PROVIDERS)


# Backends and peers that fail


async def test_a_backend_that_is_not_there_is_refused(pair, backend):
    identifier = await calls.service(pair[1], "http://127.0.0.1:1/")
    await calls.allow(pair[1], identifier)
    fault = await refused(pair[0], whole(head(identifier)))
    assert (fault.reason, fault.metadata["side"]) == ("BACKEND_UNAVAILABLE", "provider")


async def _once(content, writer):
    writer.write(content)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"not HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"],
)  # fmt: skip
async def test_a_backend_that_breaks_off_or_speaks_no_http_is_refused(pair, backend, service, content):
    backend.answer = lambda _, writer: _once(content, writer)
    fault = await refused(pair[0], whole(head(service)))
    assert (fault.reason, fault.metadata["side"]) == ("BACKEND_RESPONSE_INVALID", "provider")


async def test_a_backend_that_hangs_is_left(pair, backend, service):
    _, company = pair
    never = asyncio.Event()

    async def hang(request, writer):
        if b"body" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await writer.drain()
        await never.wait()

    backend.answer = hang
    limits = policies_pb2.ExchangePolicy.Limits()
    limits.idle_timeout.FromMilliseconds(200)
    name = await calls.policy(company, limits=limits)
    given: dict = {"timeout": timedelta(milliseconds=200)}
    identifier = await calls.service(company, backend.uri, backend=given, policy=name)
    await calls.allow(company, identifier)
    assert (await refused(pair[0], whole(head(identifier)))).reason == "BACKEND_TIMEOUT"
    fault = await refused(pair[0], whole(head(identifier, target=b"/body")))
    assert (fault.reason, fault.metadata["from"]) == ("STREAM_IDLE", "backend")
    never.set()


async def test_a_caller_that_stops_in_the_middle_is_left(pair, backend, service):
    city, _ = pair
    limits = policies_pb2.ExchangePolicy.Limits()
    limits.idle_timeout.FromMilliseconds(200)
    name = await calls.policy(city, limits=limits)
    await calls.host(city, CONSUMER, policy=name)

    async def stops():
        yield b"some"
        await asyncio.Event().wait()

    try:
        fault = await refused(city, flowing(head(service, method="POST"), stops()))
    finally:
        await calls.host(city, CONSUMER, policy="")
    assert (fault.reason, fault.metadata["from"]) == ("STREAM_IDLE", "caller")
    assert backend.begun == 0


# Proofs that do not hold: what a peer may send that is not as it should be


class Forger:
    """Speaks to the company's node as the city's node does, and changes what it sends."""

    def __init__(self, pair, service):
        self.city, self.company = pair
        self.service = service
        self.exchange_id = str(uuid.uuid4())
        self.http_head = b"POST\r\n/\r\n"
        self.body = b"content"

    def lines(self, **changed):
        return {
            "id": self.exchange_id,
            "sender": f"subsystem {CONSUMER}",
            "receiver": f"service {self.service}",
            "protocol": "http",
            **proving.digests("head", self.http_head),
            **proving.digests("body", self.body),
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }

    async def sign(self, **changed):
        """The proof of a statement of these lines."""
        configuration = self.city.exchange.configuration.current
        entry = await self.city.exchange.proving.sign(
            Kind.REQUEST,
            self.lines(**changed),
            subsystem=CONSUMER,
            policy=configuration.policy(""),
            content=Content(),
        )
        return entry.proof

    def frame(self, proof, **changed):
        fields = {
            "exchange_id": self.exchange_id,
            "sender": f"subsystem {CONSUMER}",
            "receiver": f"service {self.service}",
            "http_head": self.http_head,
            "body": self.body,
            "body_bytes": len(self.body),
        }
        return peer_frames_pb2.ExchangeRequestHead(proof=proof, **{**fields, **changed})

    async def send(self, *frames):
        """The reason of the refusal, or "" where there is none."""
        [stub] = self.city.exchange.peers.stubs(self.company.identifier)
        stream = stub.Exchange()
        for frame in frames:
            kind = "head" if isinstance(frame, peer_frames_pb2.ExchangeRequestHead) else "chunk"
            if isinstance(frame, peer_frames_pb2.ExchangeEnd):
                kind = "end"
            await stream.write(peer_frames_pb2.ExchangeRequest(**{kind: frame}))
        await stream.done_writing()
        while (answer := await stream.read()) is not grpc.aio.EOF:
            if answer.HasField("refusal"):
                assert answer.refusal.HasField("proof")
                return status.from_status(answer.refusal.status).reason
        return ""


@pytest.fixture
def forger(pair, service):
    return Forger(pair, service)


async def check_unproven(forger, backend, frames, reason):
    assert await forger.send(*frames) == reason
    assert await calls.refused_proofs(forger.company, forger.exchange_id) == [reason]
    assert backend.begun == 0


async def test_what_the_forger_leaves_as_it_is_is_answered(forger, backend):
    assert await forger.send(forger.frame(await forger.sign())) == ""
    assert backend.begun == 1


async def test_a_tampered_body_is_refused(forger, backend):
    await check_unproven(forger, backend, [forger.frame(await forger.sign(), body=b"CONTENT")], "BODY_DIGEST_MISMATCH")


async def test_a_tampered_header_is_refused(forger, backend):
    frame = forger.frame(await forger.sign(), http_head=b"POST\r\n/\r\nX-Added:1\r\n")
    await check_unproven(forger, backend, [frame], "HEAD_DIGEST_MISMATCH")


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (stamps.token(stamps.digest("other bytes")), "TIME_STAMP_IMPRINT_MISMATCH"),
        (b"no time stamp", "TIME_STAMP_INVALID"),
    ],
    ids=["over other bytes", "none at all"],
)
async def test_a_time_stamp_that_is_none_of_the_signature_is_refused(forger, backend, stamp, reason):
    proof = await forger.sign()
    proof.time_stamp = stamp
    await check_unproven(forger, backend, [forger.frame(proof)], reason)


async def test_a_tampered_statement_is_refused(forger, backend):
    proof = await forger.sign()
    proof.statement = proof.statement.replace(b"protocol: http", b"message-id: x\nprotocol: http")
    await check_unproven(forger, backend, [forger.frame(proof)], "SIGNATURE_INVALID")


async def test_bytes_that_are_no_statement_are_refused(forger, backend):
    proof = await forger.sign()
    proof.statement += b"more: lines\n"
    await check_unproven(forger, backend, [forger.frame(proof)], "STATEMENT_MALFORMED")


@pytest.mark.parametrize("line", ["id", "receiver", "protocol"])
async def test_a_statement_that_says_other_than_it_came_with_is_refused(forger, backend, line):
    other = {
        "id": {"id": str(uuid.uuid4())},
        "receiver": {"receiver": f"service {PROVIDER}/other"},
        "protocol": {"protocol": "grpc"},
    }[line]
    await check_unproven(forger, backend, [forger.frame(await forger.sign(**other))], "STATEMENT_MISMATCH")


async def test_a_replay_inside_the_window_is_refused(forger, backend):
    frame = forger.frame(await forger.sign())
    assert await forger.send(frame) == ""
    backend.begun = 0
    await check_unproven(forger, backend, [frame], "STATEMENT_REPLAYED")
    row = await calls.record(forger.company, _exchange(forger), PROVIDERS)
    assert row["outcome"] == exchanges_pb2.Exchange.OUTCOME_ANSWERED  # what became of the first one stands


async def test_an_id_is_not_taken_again_for_another_statement(forger, backend):
    assert await forger.send(forger.frame(await forger.sign())) == ""
    backend.begun = 0
    await check_unproven(forger, backend, [forger.frame(await forger.sign(message_id="other"))], "STATEMENT_REPLAYED")


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_replay_outside_the_window_is_refused(forger, backend, monkeypatch, minutes):
    monkeypatch.setattr(proving, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    proof = await forger.sign()
    monkeypatch.undo()
    await check_unproven(forger, backend, [forger.frame(proof)], "STATEMENT_EXPIRED")


async def test_a_signature_by_a_key_of_another_member_is_refused(forger, backend):
    """The company signs what the city is to have said."""
    company = forger.company
    made = await forger.sign()
    statement = statements.parse(made.statement)
    key = company.exchange.ring.signing_key(company.owner)
    made.signature.CopyFrom(company.exchange.ring.sign(statement, key))
    await check_unproven(forger, backend, [forger.frame(made)], "SIGNER_NOT_SENDER")


async def test_a_key_swapped_for_the_certificate_named_is_refused(forger, backend):
    company = forger.company
    proof = await forger.sign()
    statement = statements.parse(proof.statement)
    swapped = company.exchange.ring.sign(statement, company.exchange.ring.signing_key(company.owner))
    proof.signature.value = swapped.value
    await check_unproven(forger, backend, [forger.frame(proof)], "SIGNATURE_INVALID")


async def test_a_certificate_that_the_directory_does_not_have_is_refused(forger, backend):
    proof = await forger.sign()
    proof.signature.certificate_sha256 = hashlib.sha256(b"another").digest()
    await check_unproven(forger, backend, [forger.frame(proof)], "CERTIFICATE_UNKNOWN")


async def test_a_signature_from_before_its_certificate_is_refused(forger, backend):
    proof = await forger.sign()
    proof.signature.signing_time -= 2 * 86400
    await check_unproven(forger, backend, [forger.frame(proof)], "CERTIFICATE_EXPIRED")


async def test_a_signature_from_after_its_certificate_is_refused(forger, backend, monkeypatch):
    """When the certificate has ended the key signs all the same."""
    later = time_left(forger.city)
    monkeypatch.setattr(proving, "utc_now", lambda: datetime.now(UTC) + later)
    proof = await forger.sign()
    proof.signature.CopyFrom(aged(forger.city, proof, later))
    await check_unproven(forger, backend, [forger.frame(proof)], "CERTIFICATE_EXPIRED")


def time_left(node):
    """Until the certificate of the node's member has ended."""
    certificate = x509.load_der_x509_certificate(node.exchange.ring.signing_key(node.owner).certificate)
    return certificate.not_valid_after_utc - datetime.now(UTC) + timedelta(hours=1)


def aged(node, proof, later):
    """The signature of a proof as the node makes it so much later."""
    key = node.exchange.ring.signing_key(node.owner)
    now = int((datetime.now(UTC) + later).timestamp())
    statement = statements.parse(proof.statement)
    return signature_message(signatures.sign(statement, key=key.private, pinned=key.pinned, now=now))


def status_of(certificate: bytes, issuer, *, said: ocsp.OCSPCertStatus, signer) -> bytes:
    """What a responder says of a certificate now (RFC 6960)."""
    now = datetime.now(UTC)
    revoked = now - timedelta(minutes=5) if said is ocsp.OCSPCertStatus.REVOKED else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=x509.load_der_x509_certificate(certificate),
        issuer=issuer.certificate,
        algorithm=hashes.SHA256(),
        cert_status=said,
        this_update=now - timedelta(minutes=1),
        next_update=now + timedelta(hours=1),
        revocation_time=revoked,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "reason", ["CERTIFICATE_REVOKED", "STATUS_RESPONDER_INVALID", "STATUS_NOT_FOR_CERTIFICATE", "STATUS_MISSING"]
)
async def test_a_status_that_does_not_speak_for_the_certificate_is_refused(forger, backend, monkeypatch, reason):
    city, company = forger.city, forger.company
    proof = await forger.sign()
    key = city.exchange.ring.signing_key(city.owner)
    other = company.exchange.ring.signing_key(company.owner).certificate
    good, authority = ocsp.OCSPCertStatus.GOOD, city.authority
    proof.certificate_status = {
        "CERTIFICATE_REVOKED": status_of(
            key.certificate, authority, said=ocsp.OCSPCertStatus.REVOKED, signer=authority
        ),
        "STATUS_RESPONDER_INVALID": status_of(key.certificate, authority, said=good, signer=company.authority),
        "STATUS_NOT_FOR_CERTIFICATE": status_of(other, authority, said=good, signer=authority),
        "STATUS_MISSING": b"no status",
    }[reason]
    statuses = company.exchange.evidence.statuses
    monkeypatch.setattr(statuses, "_issuer", lambda _: Issuer(authority.certificate, ()))  # as a directory names it
    monkeypatch.setattr(statuses, "_known", {})  # the key serves others yet, and others have told of it
    await check_unproven(forger, backend, [forger.frame(proof)], reason)


async def check_refusal_kept(forger, backend, reason, *frames):
    """Where there is no one proof that could be kept: the refusal is signed and on record."""
    assert await forger.send(*frames) == reason
    assert (3, True) in await calls.statements(forger.company, forger.exchange_id)
    row = await calls.record(forger.company, _exchange(forger), PROVIDERS)
    assert (row["outcome"], row["reason"], row["refused_by"]) == (REFUSED, reason, PROVIDERS)
    assert backend.begun == 0


async def test_a_call_without_proof_is_refused(forger, backend):
    await check_refusal_kept(forger, backend, "PROOF_MISSING", forger.frame(None))


async def test_two_proofs_are_refused(forger, backend):
    frame = forger.frame(await forger.sign(), body=None)
    end = peer_frames_pb2.ExchangeEnd(proof=await forger.sign())
    await check_refusal_kept(forger, backend, "FRAMES_INVALID", frame, forger.body, end)


async def test_forged_trailers_are_refused(forger, backend):
    frame = forger.frame(None, body=None)
    frame.ClearField("proof")
    end = peer_frames_pb2.ExchangeEnd(trailers=b"X-Approved:yes\r\n", proof=await forger.sign())
    await check_unproven(forger, backend, [frame, forger.body, end], "TRAILERS_DIGEST_MISMATCH")


async def test_a_peer_that_lies_about_the_length_is_refused(forger, backend):
    await check_unproven(forger, backend, [forger.frame(await forger.sign(), body_bytes=99)], "BODY_LENGTH_MISMATCH")


async def test_a_peer_that_hangs_is_left(forger, backend):
    company = forger.company
    limits = policies_pb2.ExchangePolicy.Limits()
    limits.idle_timeout.FromMilliseconds(200)
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    name = await calls.policy(company, limits=limits)
    forger.service = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, forger.service)
    [stub] = forger.city.exchange.peers.stubs(company.identifier)
    stream = stub.Exchange()
    await stream.write(peer_frames_pb2.ExchangeRequest(head=forger.frame(None, body=None)))
    answer = await stream.read()
    fault = status.from_status(answer.refusal.status)
    assert (fault.reason, fault.metadata["from"]) == ("STREAM_IDLE", "peer")
    stream.cancel()
    assert backend.begun == 0
    assert await calls.statements(company, forger.exchange_id) == [(3, True)]
    row = await calls.record(company, _exchange(forger), PROVIDERS)
    assert (row["outcome"], row["reason"]) == (REFUSED, "STREAM_IDLE")


async def test_an_unproven_request_never_looks_complete_to_the_backend(forger, backend):
    company = forger.company
    name = await calls.policy(company, body_release=policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED)
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    forger.service = await calls.service(company, backend.uri, policy=name)
    await calls.allow(company, forger.service)
    frame = forger.frame(None, body=None)
    frame.ClearField("proof")
    forger.body = b"other content"
    end = peer_frames_pb2.ExchangeEnd(proof=await forger.sign())
    frame.body_bytes = 12
    assert await forger.send(frame, b"content", b", ", b"end", end) == "BODY_DIGEST_MISMATCH"
    assert backend.requests == []
    assert await calls.refused_proofs(company, forger.exchange_id) == ["BODY_DIGEST_MISMATCH"]


async def test_a_backend_that_answers_early_answers_no_request_that_is_not_proven(forger, backend, monkeypatch):
    """It has begun to answer when the proof turns out to be one of another body."""
    company, judged = forger.company, asyncio.Event()
    genuine = company.exchange.providing._prove

    async def prove(*given):
        try:
            await genuine(*given)
        finally:
            judged.set()

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await judged.wait()
        writer.write(b"done")
        writer.close()

    monkeypatch.setattr(company.exchange.providing, "_prove", prove)
    name = await calls.policy(company, body_release=policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED)
    identity.set_caller(Caller(service="edge", client_id="administration", expires=4e9))
    server = await asyncio.start_server(early, "127.0.0.1", 0)
    async with server:
        uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        forger.service = await calls.service(company, uri, policy=name)
        await calls.allow(company, forger.service)
        frame = forger.frame(None, body=None)
        frame.ClearField("proof")
        forger.body = b"other content"
        end = peer_frames_pb2.ExchangeEnd(proof=await forger.sign())
        frame.body_bytes = 12
        assert await forger.send(frame, b"content", b", ", b"end", end) == "BODY_DIGEST_MISMATCH"
    assert await calls.refused_proofs(company, forger.exchange_id) == ["BODY_DIGEST_MISMATCH"]
    assert (2, True) not in await calls.statements(company, forger.exchange_id), "no answer was signed"


async def test_a_backend_that_takes_only_half_of_a_proven_request_has_answered(pair, service):
    """Such as one that refuses large bodies: its answer is the end of it, and no refusal is signed beside it."""
    (city, company), ended = pair, asyncio.Event()

    async def half(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch")
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    async with server:
        uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        identifier = await calls.service(company, uri)
        await calls.allow(company, identifier)
        large = [bytes(250_000)] * 80
        answered = await send(city, flowing(head(identifier, method="POST"), large))
        assert (answered.head.status, answered.body) == (413, b"much")
        async with asyncio.timeout(60):
            while company.exchange.providing.under_way:
                await asyncio.sleep(0.05)
        ended.set()
    assert await calls.statements(company, answered.exchange_id) == [(1, False), (2, True)]


async def test_a_node_speaks_for_its_own_subsystems_only(forger, backend):
    """The city's node brings what would be the company's call."""
    sender = f"subsystem {PROVIDER}"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await forger.send(forger.frame(await forger.sign(), sender=sender))
    assert status.fault_of(error.value).reason == "PEER_NOT_AUTHORISED"
    assert backend.begun == 0


# Answers that do not hold: what the consumer's node refuses to hand out


async def check_answer_refused(pair, monkeypatch, service, reason, change):
    """What a provider's node with this change in it sends is refused by the consumer's, as nobody's fault of here."""
    city, company = pair
    genuine = company.exchange.providing._respond

    async def changed(call, answer, policy):
        async for response in genuine(call, answer, policy):
            change(response, call)
            yield response

    monkeypatch.setattr(company.exchange.providing, "_respond", changed)
    fault = await refused(city, whole(head(service)))
    assert (fault.reason, fault.code, fault.metadata["side"]) == (reason, "DATA_LOSS", "consumer")
    assert await calls.refused_proofs(city, fault.metadata["exchange"]) == [reason]
    assert (2, False) not in await calls.statements(city, fault.metadata["exchange"])


async def test_a_tampered_answer_is_refused(pair, backend, service, monkeypatch):
    def change(response, _):
        response.head.body = b"HELLO"

    await check_answer_refused(pair, monkeypatch, service, "BODY_DIGEST_MISMATCH", change)


async def test_an_answer_with_a_tampered_header_is_refused(pair, backend, service, monkeypatch):
    def change(response, _):
        response.head.http_head += b"Set-Cookie:a=b\r\n"

    await check_answer_refused(pair, monkeypatch, service, "HEAD_DIGEST_MISMATCH", change)


async def test_an_answer_bound_to_another_request_is_refused(pair, backend, service, monkeypatch):
    _, company = pair

    def change(response, _):
        lines = {**statements.parse(response.head.proof.statement).lines, "answers": "ab" * 32}
        statement = statements.compose(Kind.RESPONSE, lines)
        response.head.proof.statement = statement.content
        key = company.exchange.ring.signing_key(company.owner)
        response.head.proof.signature.CopyFrom(company.exchange.ring.sign(statement, key))

    await check_answer_refused(pair, monkeypatch, service, "ANSWER_NOT_BOUND", change)


@pytest.fixture
def large(backend):
    """An answer of several frames."""
    backend.answer = plain(bytes(100_000))


async def test_an_answer_with_forged_trailers_is_refused(pair, service, large, monkeypatch):
    def change(response, _):
        if response.HasField("end"):
            response.end.trailers = b"X-Approved:yes\r\n"

    await check_answer_refused(pair, monkeypatch, service, "TRAILERS_DIGEST_MISMATCH", change)


@pytest.mark.parametrize("said", [5, 999_999])
async def test_an_answer_of_another_length_than_announced_is_refused(pair, service, large, monkeypatch, said):
    def change(response, _):
        if response.HasField("head"):
            response.head.body_bytes = said

    await check_answer_refused(pair, monkeypatch, service, "BODY_LENGTH_MISMATCH", change)


async def test_an_answer_with_a_key_swapped_for_the_certificate_named_is_refused(pair, backend, service, monkeypatch):
    city, _ = pair

    def change(response, _):
        proof = response.head.proof
        swapped = city.exchange.ring.sign(statements.parse(proof.statement), city.exchange.ring.signing_key(city.owner))
        proof.signature.value = swapped.value

    await check_answer_refused(pair, monkeypatch, service, "SIGNATURE_INVALID", change)


async def test_an_answer_signed_after_its_certificate_is_refused(pair, backend, service, monkeypatch):
    _, company = pair

    def change(response, _):
        response.head.proof.signature.CopyFrom(aged(company, response.head.proof, time_left(company)))

    await check_answer_refused(pair, monkeypatch, service, "CERTIFICATE_EXPIRED", change)


async def test_an_answer_with_a_time_stamp_over_other_bytes_is_refused(pair, backend, service, monkeypatch):
    def change(response, _):
        response.head.proof.time_stamp = stamps.token(stamps.digest("other bytes"))

    await check_answer_refused(pair, monkeypatch, service, "TIME_STAMP_IMPRINT_MISMATCH", change)


@pytest.mark.parametrize(
    ("said", "reason"),
    [(ocsp.OCSPCertStatus.REVOKED, "CERTIFICATE_REVOKED"), (ocsp.OCSPCertStatus.GOOD, "STATUS_RESPONDER_INVALID")],
)
async def test_an_answer_whose_certificate_is_revoked_or_vouched_for_by_another_is_refused(
    pair, backend, service, monkeypatch, said, reason
):
    city, company = pair
    certificate = company.exchange.ring.signing_key(company.owner).certificate
    signer = company.authority if said is ocsp.OCSPCertStatus.REVOKED else city.authority
    statuses = city.exchange.evidence.statuses
    monkeypatch.setattr(statuses, "_issuer", lambda _: Issuer(company.authority.certificate, ()))
    monkeypatch.setattr(statuses, "_known", {})

    def change(response, _):
        response.head.proof.certificate_status = status_of(certificate, company.authority, said=said, signer=signer)

    await check_answer_refused(pair, monkeypatch, service, reason, change)


async def test_an_endless_answer_of_a_node_ends_at_the_consumers_limit(pair, backend, service, monkeypatch):
    city, company = pair

    async def endless_answer(*_):
        yield peer_frames_pb2.ExchangeResponse(head=peer_frames_pb2.ExchangeResponseHead(http_head=b"200\r\nOK\r\n"))
        while True:
            yield peer_frames_pb2.ExchangeResponse(chunk=bytes(200_000))

    monkeypatch.setattr(company.exchange.providing, "_respond", endless_answer)
    limits = policies_pb2.ExchangePolicy.Limits(max_response_bytes=3_000_000)
    await calls.host(city, CONSUMER, policy=await calls.policy(city, limits=limits))
    try:
        fault = await refused(city, whole(head(service)))
    finally:
        await calls.host(city, CONSUMER, policy="")
    assert (fault.reason, fault.metadata["side"]) == ("EXCHANGE_TOO_LARGE", "consumer")
    row = await calls.record(city, fault, CONSUMERS)
    assert (row["outcome"], row["reason"], row["refused_by"]) == (REFUSED, "EXCHANGE_TOO_LARGE", CONSUMERS)
    assert calls.sizes(row)[1] <= 3_200_000
    assert (2, False) not in await calls.statements(city, fault.metadata["exchange"])


async def test_an_answer_signed_by_another_member_is_refused(pair, backend, service, monkeypatch):
    city, _ = pair

    def change(response, _):
        statement = statements.parse(response.head.proof.statement)
        key = city.exchange.ring.signing_key(city.owner)
        response.head.proof.signature.CopyFrom(city.exchange.ring.sign(statement, key))

    await check_answer_refused(pair, monkeypatch, service, "SIGNER_NOT_SENDER", change)


def _exchange(forger):
    from services.runtime.errors import InvalidArgument

    return InvalidArgument("X", "x", exchange=forger.exchange_id)
