"""Calls between two nodes: signed by one, admitted by the other, answered by a backend, proven at both ends."""

import asyncio
import os

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.exchange.v1 import exchanges_pb2, policies_pb2, services_pb2, statements_pb2

from services.exchange import names
from services.exchange.evidence import signatures, statements
from services.exchange.proofs import signature_of
from tests.integration.exchange import calls
from tests.integration.exchange.backend import Backend, plain
from tests.integration.exchange.calls import CONSUMER, flowing, head, send, whole

BROUGHT, ANSWERED = (1, False), (2, True)
CONSUMERS, PROVIDERS = exchanges_pb2.SIDE_CONSUMER, exchanges_pb2.SIDE_PROVIDER
STREAMED = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED


@pytest.fixture
async def service(pair, backend: Backend):
    """A service that the city may call in any way."""
    backend.requests.clear()
    backend.answer, backend.keep = plain(), True
    identifier = await calls.service(pair[1], backend.uri)
    await calls.allow(pair[1], identifier)
    return identifier


async def test_a_call_is_answered_and_proven_at_both_ends(pair, backend, service):
    city, company = pair
    answered = await send(city, whole(head(service)))
    assert (answered.head.status, answered.head.reason_phrase, answered.body) == (200, "OK", b"hello")
    assert answered.frames == 1
    assert answered.end is not None
    assert await calls.statements(city, answered.exchange_id) == [(1, True), (2, False)]
    assert await calls.statements(company, answered.exchange_id) == [(1, False), (2, True)]
    for node, side in ((city, CONSUMERS), (company, PROVIDERS)):
        row = await calls.record(node, answered, side)
        assert (row["outcome"], row["status"]) == (exchanges_pb2.Exchange.OUTCOME_ANSWERED, 200)
        assert (row["consumer"], row["service"]) == (CONSUMER, service)
        assert f"statements/{row['request_sha256'].hex()}" == answered.end.request_statement
        assert f"statements/{row['response_sha256'].hex()}" == answered.end.response_statement


async def test_what_either_end_holds_verifies_with_the_directorys_keys(pair, backend, service):
    city, _company = pair
    answered = await send(city, whole(head(service, method="POST", body=b"asked")))
    for node in pair:
        rows = await node.database.fetch("select * from statement where exchange_id = $1", answered.exchange_id)
        for row in rows:
            signature = signature_of(statements_pb2.Signature.FromString(row["signature"]))
            statement = statements.parse(row["content"])
            pinned = node.exchange.meshes.statement_key(signature.certificate_sha256)
            signatures.verify(statement, signature, pinned)


@pytest.mark.parametrize(
    "target",
    [b"/", b"/a/b?c=d", b"/a?", b"/%41b;c=d?x=%2F&y=a+b?", b"/a%20b/?q=%zz'\"|\\^`{}", b"/sub/.well-known/x"],
)
async def test_path_and_query_reach_the_backend_byte_for_byte(pair, backend, service, target):
    await send(pair[0], whole(head(service, target=target)))
    assert backend.requests[-1].line == b"GET /base" + target + b" HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "POST", "PROPFIND"])
async def test_any_method_is_passed_on(pair, backend, service, method):
    async def answer(request, writer):
        body = b"" if request.line.startswith(b"HEAD") else b"hello"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    backend.answer = answer
    answered = await send(pair[0], whole(head(service, method=method, body=b"")))
    assert backend.requests[-1].line.startswith(method.encode() + b" ")
    assert answered.body == (b"" if method == "HEAD" else b"hello")


async def test_headers_keep_their_order_case_and_bytes_in_both_directions(pair, backend, service):
    given = [
        ("X-b", b"1"),
        ("x-A", b"\xc3\xa4 \xff"),
        ("X-B", b"2"),
        ("Content-Type", b"a/b;c=d"),
        ("X-Road-UserId", b"7"),
    ]
    dropped = [
        ("Connection", b"close, X-Hop"),
        ("X-Hop", b"1"),
        ("Host", b"other"),
        ("User-Agent", b"me"),
        ("TE", b"x"),
    ]
    backend.answer = plain(headers=b"X-c: 1\r\nx-D: \xe4\r\nServer: secret\r\nX-C: 2\r\n")
    answered = await send(pair[0], whole(head(service, headers=[*given, *dropped])))
    request = backend.requests[-1]
    passed = [(name.decode(), value) for name, value in request.headers]
    own = {"host", "content-length", "x-road-client", "x-road-service", "x-road-id", "x-road-request-id"}
    assert [one for one in passed if one[0].lower() not in own] == given
    assert request.header(b"host") == f"127.0.0.1:{backend.port}".encode()
    assert [(one.name, one.value) for one in answered.head.headers] == [("X-c", b"1"), ("x-D", b"\xe4"), ("X-C", b"2")]


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537, 300_000, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("release", [policies_pb2.ExchangePolicy.BODY_RELEASE_UNSPECIFIED, STREAMED])
async def test_bodies_of_any_size_go_both_ways(pair, backend, service, size, release):
    city, company = pair
    name = await calls.policy(company, body_release=release)
    await company.exchange.catalogue.UpdateService(
        services_pb2.UpdateServiceRequest(
            service=services_pb2.Service(name=names.service_resource(service), policy=name),
            update_mask=FieldMask(paths=["policy"]),
        )
    )
    content = os.urandom(size)
    backend.answer = plain(content)
    chunks = [content[at : at + 200_000] for at in range(0, size, 200_000)]
    for known in (True, False):
        first = head(service, method="POST", **({"body_bytes": size} if known else {}))
        answered = await send(city, flowing(first, chunks))
        assert backend.requests[-1].body == content
        assert answered.body == content
    assert await calls.statements(company, answered.exchange_id) == [BROUGHT, ANSWERED]


async def test_an_answer_of_unknown_length_is_passed_on(pair, backend, service):
    async def answer(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n")

    backend.answer = answer
    answered = await send(pair[0], whole(head(service)))
    assert answered.body == b"hello you"


async def test_an_answer_that_ends_with_its_connection_is_passed_on(pair, backend, service):
    async def answer(_, writer):
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nto the end")
        await writer.drain()
        writer.close()

    backend.answer = answer
    assert (await send(pair[0], whole(head(service)))).body == b"to the end"


async def test_errors_and_redirects_of_the_backend_are_answers(pair, backend, service):
    city, company = pair
    for status in (b"302 Found", b"404 Not Here", b"503 Later", b"204 No Content"):
        backend.answer = plain(b"", status=status, headers=b"Location: /elsewhere\r\n")
        answered = await send(city, whole(head(service)))
        assert f"{answered.head.status} {answered.head.reason_phrase}".encode() == status
    row = await calls.record(company, answered, PROVIDERS)
    assert row["outcome"] == exchanges_pb2.Exchange.OUTCOME_ANSWERED


async def test_connections_to_the_backend_are_kept(pair, backend, service):
    before = backend.connections
    for _ in range(5):
        await send(pair[0], whole(head(service)))
    assert backend.connections - before <= 1


async def test_many_calls_at_once_are_each_answered(pair, backend, service):
    async def answer(request, writer):
        body = request.line.split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    backend.answer = answer
    targets = [b"/%d" % number for number in range(60)]
    answered = await asyncio.gather(*(send(pair[0], whole(head(service, target=target))) for target in targets))
    assert [one.body for one in answered] == [b"/base" + target for target in targets]


async def test_a_node_calls_its_own_services_the_same_way(pair, backend, service):
    city, _ = pair
    own = await calls.service(city, backend.uri, subsystem=CONSUMER)
    await calls.allow(city, own)
    answered = await send(city, whole(head(own)))
    assert await calls.statements(city, answered.exchange_id) == [(1, False), (1, True), (2, False), (2, True)]


async def test_the_callers_id_goes_with_the_call(pair, backend, service):
    city, company = pair
    answered = await send(city, whole(head(service, message_id="case 7/ä")))
    assert answered.head.message_id == "case 7/ä"
    assert (await calls.record(company, answered, PROVIDERS))["message_id"] == "case 7/ä"
    assert (await send(city, whole(head(service)))).head.message_id.startswith("FI-")


async def test_a_backend_is_told_who_calls_and_nobody_else_can_say_so(pair, backend, service):
    forged = [("x-road-client", b"FI/GOV/1/tax"), ("X-ROAD-SERVICE", b"other"), ("X-Road-Request-Id", b"1")]
    answered = await send(pair[0], whole(head(service, headers=forged, message_id="case 7")))
    told = {name: value for name, value in backend.requests[-1].headers if name.lower().startswith(b"x-road")}
    assert told == {
        b"X-Road-Client": CONSUMER.encode(),
        b"X-Road-Service": service.encode(),
        b"X-Road-Id": b"case%207",
        b"X-Road-Request-Id": str(answered.exchange_id).encode(),
    }


async def test_trailers_go_with_a_small_body_of_known_length_too(pair, backend, service):
    city, company = pair
    first = head(service, method="POST", body_bytes=6)
    answered = await send(city, flowing(first, [b"abc", b"def"], trailers=[("X-Check", b"1")]))
    assert (answered.head.status, backend.requests[-1].body) == (200, b"abcdef")
    assert await calls.statements(company, answered.exchange_id) == [(1, False), (2, True)]
