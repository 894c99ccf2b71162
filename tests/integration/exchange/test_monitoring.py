"""Both sides see their own traffic, and nobody sees another's."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from solmu.exchange.v1 import exchanges_pb2, monitoring_pb2, policies_pb2
from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange import names
from services.runtime import identity
from services.runtime.errors import Fault
from services.runtime.identity import Caller
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CLIENT, CONSUMER, PROVIDER, head, refused, send, whole

OWNER = "clients/register-owner"
BROKEN = exchanges_pb2.Exchange.OUTCOME_BROKEN


@pytest.fixture(scope="module")
async def traffic(nodes, backend):
    """A service with five calls: three answered, one answered with an error, one refused; and when they began."""
    city, company = nodes
    await calls.host(city, CONSUMER, clients=[CLIENT])
    await calls.host(company, PROVIDER, clients=[OWNER])
    start = datetime.now(UTC)
    identifier = await calls.service(company, backend.uri)
    await calls.allow(company, identifier, ("POST", "/open"))
    backend.answer = plain(b"four")
    made = [head(identifier, method="POST", target=b"/open", body=b"sixsix", message_id=f"case {n}") for n in range(3)]
    answered = [await send(city, whole(one)) for one in made]
    backend.answer = plain(b"", status=b"500 No")
    answered.append(await send(city, whole(made[0])))
    fault = await refused(city, whole(head(identifier, method="POST", target=b"/shut")))
    return identifier, answered, fault, start


def act_as(client: str) -> None:
    identity.set_caller(Caller(service="edge", client_id=client.removeprefix("clients/"), expires=4e9))


def requester(subsystem: str) -> Requester:
    return Requester(subsystem=names.resource("subsystems", subsystem))


@pytest.mark.parametrize(("side", "client"), [(0, CLIENT), (1, OWNER)])
async def test_both_sides_find_an_exchange_by_its_name_and_by_the_callers_id(nodes, traffic, side, client):
    identifier, answered, _, start = traffic
    node = nodes[side]
    act_as(client)
    found = await node.exchange.exchanges.GetExchange(exchanges_pb2.GetExchangeRequest(name=answered[1].head.exchange))
    assert found.side == (exchanges_pb2.SIDE_CONSUMER, exchanges_pb2.SIDE_PROVIDER)[side]
    assert (found.consumer, found.service) == (
        names.resource("subsystems", CONSUMER),
        names.service_resource(identifier),
    )
    assert (found.measurement.request_bytes, found.measurement.response_bytes) == (6, 4)
    steps = found.measurement
    assert (
        steps.request_proven.ToTimedelta() <= steps.response_head.ToTimedelta() <= steps.response_proven.ToTimedelta()
    )
    asked = exchanges_pb2.ListExchangesRequest(message_id="case 1")
    asked.start_time.FromDatetime(start)
    listed = await node.exchange.exchanges.ListExchanges(asked)
    assert [one.name for one in listed.exchanges] == [answered[1].head.exchange]


async def test_another_client_does_not_see_it(nodes, traffic):
    city, _ = nodes
    act_as("clients/stranger")
    with pytest.raises(Fault) as refusal:
        await city.exchange.exchanges.GetExchange(exchanges_pb2.GetExchangeRequest(name=traffic[1][0].head.exchange))
    assert refusal.value.reason == "CONSUMER_NOT_REGISTERED"


async def test_lists_go_by_outcome_and_page_by_page(nodes, traffic):
    identifier, answered, fault, _ = traffic
    city, _ = nodes
    act_as(CLIENT)
    asked = exchanges_pb2.ListExchangesRequest(
        service=names.service_resource(identifier), page_size=2, counterpart=names.resource("subsystems", PROVIDER)
    )
    found = []
    while True:
        page = await city.exchange.exchanges.ListExchanges(asked)
        found += [one.name for one in page.exchanges]
        if not page.next_page_token:
            break
        asked.page_token = page.next_page_token
    refusal = f"exchanges/{fault.metadata['exchange']}"
    assert found == [refusal, *(one.head.exchange for one in reversed(answered))]
    only = exchanges_pb2.ListExchangesRequest(
        service=names.service_resource(identifier), outcomes=[exchanges_pb2.Exchange.OUTCOME_REFUSED]
    )
    [one] = (await city.exchange.exchanges.ListExchanges(only)).exchanges
    assert (one.name, one.reason, one.refused_by) == (refusal, "ACCESS_DENIED", exchanges_pb2.SIDE_PROVIDER)


async def test_traffic_is_summed_up(nodes, traffic):
    identifier, _, _, start = traffic
    _, company = nodes
    act_as(OWNER)
    asked = monitoring_pb2.SummariseTrafficRequest(
        requester=requester(PROVIDER), group_by=monitoring_pb2.SummariseTrafficRequest.GROUP_BY_SERVICE
    )
    asked.start_time.FromDatetime(start)
    summed = (await company.exchange.monitoring.SummariseTraffic(asked)).traffic
    [one] = [each for each in summed if each.service == names.service_resource(identifier)]
    assert (one.count, one.answered, one.backend_errors, one.refused, one.broken) == (5, 3, 1, 1, 0)
    assert (one.request_bytes, one.response_bytes) == (24, 12)
    assert timedelta(0) < one.median.ToTimedelta() <= one.p99.ToTimedelta()
    assert 0 < one.backend_share < 1
    for group_by in monitoring_pb2.SummariseTrafficRequest.GroupBy.values():
        asked.group_by = group_by
        assert sum(each.count for each in (await company.exchange.monitoring.SummariseTraffic(asked)).traffic) >= 5


async def test_an_export_goes_on_where_it_stopped(nodes, traffic):
    _, answered, _, start = traffic
    _, company = nodes
    act_as(OWNER)
    asked = monitoring_pb2.ExportExchangesRequest(requester=requester(PROVIDER))
    asked.start_time.FromDatetime(start)
    exported = [one async for one in company.exchange.monitoring.ExportExchanges(asked)]
    assert [one.exchange.name for one in exported][:4] == [one.head.exchange for one in answered]
    asked.cursor = exported[1].cursor
    rest = [one.exchange.name async for one in company.exchange.monitoring.ExportExchanges(asked)]
    assert rest == [one.exchange.name for one in exported[2:]]
    asked.cursor = "not a cursor"
    with pytest.raises(Fault) as refusal:
        [one async for one in company.exchange.monitoring.ExportExchanges(asked)]
    assert refusal.value.reason == "CURSOR_INVALID"


async def test_peers_are_listed_with_how_they_answer(nodes, traffic):
    city, company = nodes
    peers = (await city.exchange.monitoring.ListPeers(monitoring_pb2.ListPeersRequest())).peers
    [peer] = [one for one in peers if one.node == names.resource("nodes", company.identifier)]
    assert (peer.state, peer.calls) == (monitoring_pb2.Peer.STATE_REACHABLE, 0)
    assert peer.last_answer_time.seconds


async def test_what_is_remembered_names_no_path_and_no_person(nodes, traffic):
    rows = await nodes[0].database.fetch("select row_to_json(e)::text as text from exchange e")
    assert not any("/open" in row["text"] or "/shut" in row["text"] for row in rows)


async def test_an_exchange_says_how_far_its_evidence_is(nodes, traffic):
    city, _ = nodes
    identifier = traffic[0]
    act_as(CLIENT)
    answered = await send(city, whole(head(identifier, method="POST", target=b"/open", body=b"")))
    exchange_id = uuid.UUID(answered.head.exchange.split("/")[1])

    async def state() -> exchanges_pb2.Exchange.EvidenceState.ValueType:
        found: exchanges_pb2.Exchange = await city.exchange.exchanges.GetExchange(
            exchanges_pb2.GetExchangeRequest(name=answered.head.exchange)
        )
        return found.evidence_state

    async def stamps(stamp_state: int) -> None:
        own = "select seq from statement where exchange_id = $1"
        await city.database.execute(
            f"update evidence set stamp_state = $2 where seq in ({own})", exchange_id, stamp_state
        )

    assert await state() == exchanges_pb2.Exchange.EVIDENCE_STATE_PENDING
    for _ in range(400):  # the keeper of the log takes its turns by itself
        if not await city.database.fetchval("select count(*) from evidence where log_index is null"):
            break
        await asyncio.sleep(0.05)
    states = set()
    for _ in range(5):  # time stamps may be taken at this very moment
        await stamps(1)
        states.add(await state())
    assert exchanges_pb2.Exchange.EVIDENCE_STATE_PENDING in states, "it is logged, and not stamped"
    await stamps(4)  # as by a policy that asks for none
    assert await state() == exchanges_pb2.Exchange.EVIDENCE_STATE_COMPLETE
    await stamps(1)


# What ends otherwise than by an answer


@pytest.fixture
async def slow(nodes, backend):
    """A service whose backend begins to answer, and then waits."""
    begun, free = asyncio.Event(), asyncio.Event()

    async def slowly(request, writer):
        if b"half" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await writer.drain()
        begun.set()
        await free.wait()

    backend.answer = slowly
    identifier = await calls.service(nodes[1], backend.uri)
    await calls.allow(nodes[1], identifier)
    yield identifier, begun
    free.set()
    backend.answer = plain()


@pytest.mark.parametrize("target", [b"/whole", b"/half"])
async def test_a_call_whose_caller_goes_away_is_on_record_at_both_ends(nodes, slow, target):
    city, company = nodes
    identifier, begun = slow
    calling = asyncio.create_task(send(city, whole(head(identifier, method="POST", target=target, body=b"sixsix"))))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    for node, side in ((city, exchanges_pb2.SIDE_CONSUMER), (company, exchanges_pb2.SIDE_PROVIDER)):
        row = await calls.remembered(node, side, service=identifier)
        assert (row["outcome"], row["reason"], row["refused_by"]) == (BROKEN, "CALLER_GONE", 0)
        assert (row["consumer"], row["consumer_node"], row["provider_node"], row["method"]) == (
            CONSUMER, city.identifier, company.identifier, "POST",
        )  # fmt: skip
        assert calls.sizes(row)[0] == 6
        assert row["request_sha256"] is not None
        assert row["end_time"] > row["start_time"]


async def test_a_caller_that_leaves_an_answer_in_the_middle_is_on_record(nodes, backend):
    city, company = nodes
    limits = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED
    await calls.host(city, CONSUMER, policy=await calls.policy(city, body_release=limits))
    identifier = await calls.service(company, backend.uri)
    await calls.allow(company, identifier)

    async def endless(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    backend.answer = endless
    calls.act_as_client()
    answer = city.exchange.calls.Call(whole(head(identifier)))
    try:
        while (await anext(answer)).WhichOneof("frame") != "chunk":
            pass
        await answer.aclose()
    finally:
        await calls.host(city, CONSUMER, policy="")
    for node, side in ((city, exchanges_pb2.SIDE_CONSUMER), (company, exchanges_pb2.SIDE_PROVIDER)):
        row = await calls.remembered(node, side, service=identifier)
        assert (row["outcome"], row["reason"]) == (BROKEN, "CALLER_GONE")
        assert calls.sizes(row)[1] > 0x10000


async def test_an_exchange_that_takes_too_long_is_on_record_at_both_ends(nodes, slow):
    city, company = nodes
    identifier, _ = slow
    limits = policies_pb2.ExchangePolicy.Limits()
    limits.total_timeout.FromMilliseconds(300)
    await calls.host(city, CONSUMER, policy=await calls.policy(city, limits=limits))
    try:
        fault = await refused(city, whole(head(identifier)))
    finally:
        await calls.host(city, CONSUMER, policy="")
    assert fault.reason == "EXCHANGE_TOO_LONG"
    row = await calls.remembered(city, exchanges_pb2.SIDE_CONSUMER, service=identifier)
    assert (row["outcome"], row["reason"]) == (BROKEN, "EXCHANGE_TOO_LONG")
    row = await calls.remembered(company, exchanges_pb2.SIDE_PROVIDER, service=identifier)
    assert (row["outcome"], row["reason"]) == (BROKEN, "CALLER_GONE")


async def test_a_peer_that_breaks_off_or_hangs_is_on_record_at_the_consumer(nodes, backend, monkeypatch):
    city, company = nodes
    identifier = await calls.service(company, backend.uri)
    await calls.allow(company, identifier)

    async def hangs(requests, *, node):
        await asyncio.Event().wait()
        yield None

    async def breaks(requests, *, node):
        raise ConnectionError
        yield None

    for behaviour, reason in ((hangs, "PEER_TIMEOUT"), (breaks, "EXCHANGE_BROKEN")):
        with monkeypatch.context() as patched:
            patched.setattr(company.exchange.providing, "serve", behaviour)
            first = head(identifier, method="POST", body=b"sixsix")
            first.timeout.FromMilliseconds(300)
            fault = await refused(city, whole(first))
        row = await calls.record(city, fault, exchanges_pb2.SIDE_CONSUMER)
        assert (fault.reason, row["outcome"], row["reason"], calls.sizes(row)[0]) == (reason, BROKEN, reason, 6)
        city.exchange.peers.circuit(company.identifier).answered()


async def test_a_call_that_its_own_node_refuses_is_on_record_there(nodes):
    city, _ = nodes
    fault = await refused(city, whole(head("FI/COM/9/none/service")))
    assert (fault.reason, fault.metadata["side"]) == ("MEMBER_UNKNOWN", "consumer")
    row = await calls.remembered(city, exchanges_pb2.SIDE_CONSUMER, exchange_id=uuid.UUID(fault.metadata["exchange"]))
    assert (row["outcome"], row["reason"], row["provider_node"]) == (
        exchanges_pb2.Exchange.OUTCOME_REFUSED, "MEMBER_UNKNOWN", "",
    )  # fmt: skip
    assert row["refused_by"] == exchanges_pb2.SIDE_CONSUMER
