"""Several nodes of a provider: load shared, those that are away passed over, calls repeated only where that is safe."""

import asyncio
import contextlib

import grpc
import pytest
from solmu.exchange.v1 import directory_pb2, exchanges_pb2

from deploy.local import ports
from services.exchange import calling as calling_module
from services.exchange import names
from services.exchange.bodies import SMALL
from services.exchange.directory import Served
from services.runtime.errors import PermissionDenied
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CLIENT, CONSUMER, PROVIDER, flowing, head, refused, send, whole

AWAY = "FI/COM/2/away"


@pytest.fixture
async def service(nodes, backend):
    city, company = nodes
    backend.requests.clear()
    backend.answer = plain()
    await calls.host(city, CONSUMER, clients=[CLIENT])
    identifier = await calls.service(company, backend.uri)
    await calls.allow(company, identifier)
    return identifier


@pytest.fixture
def second(nodes, monkeypatch):
    """A second node of the company in the city's directory, at an address where nobody listens; returns its setter."""
    city, company = nodes
    directory = city.exchange.meshes.directory("FI")
    port = ports.free()
    entry = directory_pb2.Node()
    entry.CopyFrom(directory.nodes[company.identifier])
    del entry.addresses[:]
    entry.addresses.add(host="localhost", port=port)
    monkeypatch.setitem(directory.nodes, AWAY, entry)

    def serve(*, away: int, there: int, weight: int = 1) -> None:
        serving = [Served(AWAY, away, weight), Served(company.identifier, there, 1)]
        monkeypatch.setitem(directory.serving, PROVIDER, serving)

    yield serve
    city.exchange.peers._connections.pop(AWAY, None)
    city.exchange.peers.circuit(company.identifier).answered()


async def test_a_node_that_is_away_is_passed_over_whatever_the_method(nodes, backend, service, second):
    city, _ = nodes
    second(away=0, there=1)
    answered = await send(city, whole(head(service, method="POST", body=b"once")))
    assert answered.head.status == 200
    assert [request.body for request in backend.requests] == [b"once"]
    row = await calls.record(city, answered, exchanges_pb2.SIDE_CONSUMER)
    measurement = exchanges_pb2.Exchange.Measurement.FromString(row["measurement"])
    assert measurement.attempts == 2


async def test_after_failures_in_a_row_a_node_is_no_longer_tried(nodes, backend, service, second):
    city, _ = nodes
    second(away=0, there=1)
    for _ in range(5):
        await send(city, whole(head(service)))
    assert city.exchange.peers.circuit(AWAY).open()
    answered = await send(city, whole(head(service)))
    row = await calls.record(city, answered, exchanges_pb2.SIDE_CONSUMER)
    assert exchanges_pb2.Exchange.Measurement.FromString(row["measurement"]).attempts == 1


async def test_where_no_node_is_there_the_refusal_says_so_and_then_the_circuit(nodes, service, second):
    city, _company = nodes
    second(away=0, there=0)
    city.exchange.meshes.directory("FI").serving[PROVIDER] = [Served(AWAY, 0, 1)]
    fault = await refused(city, whole(head(service)))
    assert (fault.reason, fault.metadata["side"]) == ("PEER_UNAVAILABLE", "consumer")
    fault = await refused(city, whole(head(service)))
    while fault.reason == "PEER_UNAVAILABLE":
        fault = await refused(city, whole(head(service)))
    assert fault.reason == "CIRCUIT_OPEN"
    assert fault.retry_after


async def test_nodes_of_one_priority_share_the_load_by_weight(nodes, service, second):
    city, _company = nodes
    second(away=0, there=0, weight=3)
    call = calling_module.Call(consumer=CONSUMER, service=service, head=None, body=b"")  # type: ignore[arg-type]
    first = [next(iter(city.exchange.calling._candidates(call, PROVIDER)))[0] for _ in range(600)]
    assert 0.65 < first.count(AWAY) / len(first) < 0.85


async def test_a_call_names_its_node_only_where_it_serves(nodes, service):
    city, company = nodes
    named = head(service, node=names.resource("nodes", company.identifier))
    assert (await send(city, whole(named))).head.status == 200
    other = head(service, node=names.resource("nodes", city.identifier))
    assert (await refused(city, whole(other))).reason == "NODE_NOT_SERVING"


class Line:
    """A line to the company's node that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)


@pytest.fixture
async def line(nodes, monkeypatch):
    """The line over which the city's node now reaches the company's."""
    city, company = nodes
    line = Line(company.port)
    server = await asyncio.start_server(line.connect, "127.0.0.1", 0)
    directory = city.exchange.meshes.directory("FI")
    entry = directory_pb2.Node()
    entry.CopyFrom(directory.nodes[company.identifier])
    del entry.addresses[:]
    entry.addresses.add(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    monkeypatch.setitem(directory.nodes, company.identifier, entry)
    yield line
    line.cut()
    server.close()
    city.exchange.peers.circuit(company.identifier).answered()


@pytest.mark.parametrize(
    ("method", "repeatable", "calls_made"), [("GET", False, 2), ("POST", False, 1), ("POST", True, 2)]
)
async def test_a_call_that_broke_off_is_repeated_only_where_that_is_safe(
    nodes, backend, service, line, method, repeatable, calls_made
):
    """The connection breaks after the backend was called, the first time."""
    city, _ = nodes

    async def cuts_once(request, writer):
        if len(backend.requests) == 1:
            line.cut()
        await plain()(request, writer)

    backend.answer = cuts_once
    made = whole(head(service, method=method, body=b"", repeatable=repeatable))
    if calls_made == 2:
        assert (await send(city, made)).head.status == 200
    else:
        fault = await refused(city, made)
        assert fault.reason == "EXCHANGE_BROKEN"
        row = await calls.record(city, fault, exchanges_pb2.SIDE_CONSUMER)
        assert row["outcome"] == exchanges_pb2.Exchange.OUTCOME_BROKEN
    assert len(backend.requests) == calls_made


async def test_a_node_that_hangs_is_left_in_time(nodes, service, monkeypatch):
    city, company = nodes

    async def hangs(requests, *, node):
        await asyncio.Event().wait()
        yield None

    monkeypatch.setattr(company.exchange.providing, "serve", hangs)
    first = head(service, method="POST", body=b"")
    first.timeout.FromMilliseconds(200)
    fault = await refused(city, whole(first))
    assert (fault.reason, fault.metadata["side"]) == ("PEER_TIMEOUT", "consumer")
    company.exchange.peers.circuit(company.identifier).answered()


async def test_a_node_that_ends_a_call_before_it_is_sent_is_heard(nodes, service, monkeypatch):
    city, company = nodes
    sends, sign = city.exchange.calling._send, city.exchange.proving.sign
    streams = []

    async def noted(attempt, stream, known):
        streams.append(stream)
        await sends(attempt, stream, known)

    async def ends(requests, *, node):
        raise PermissionDenied("PEER_NOT_AUTHORISED", "the node serves nobody today")
        yield

    async def signs_too_late(*given, **named):
        while not streams[-1].done():
            await asyncio.sleep(0.01)
        return await sign(*given, **named)

    monkeypatch.setattr(city.exchange.calling, "_send", noted)
    monkeypatch.setattr(company.exchange.providing, "serve", ends)
    monkeypatch.setattr(city.exchange.proving, "sign", signs_too_late)
    large = bytes(SMALL + 1)
    fault = await refused(city, flowing(head(service, method="POST", body_bytes=len(large)), [large]))
    assert fault.reason == "PEER_NOT_AUTHORISED"


async def test_a_stranger_is_not_served(nodes):
    """A certificate of an authority that the mesh recognises, of no node in the directory, may greet and no more."""
    from solmu.exchange.v1 import peer_frames_pb2, peer_pb2, peer_pb2_grpc

    from services.exchange import keys
    from services.runtime import status

    city, company = nodes
    _name, entry = await company.certified_key(directory_pb2.KEY_USE_TLS)
    key = company.exchange.ring.by_certificate(entry.certificate)
    assert key is not None
    own = city.exchange.ring.active(directory_pb2.KEY_USE_TLS, city.owner)
    assert own is not None
    credentials = grpc.ssl_channel_credentials(
        keys.pem(own.certificate), keys.private_pem(key.private), keys.pem(key.certificate)
    )
    async with grpc.aio.secure_channel(f"localhost:{city.port}", credentials) as channel:
        stub = peer_pb2_grpc.PeerServiceStub(channel)
        assert (await stub.Greet(peer_pb2.GreetRequest(protocols=["1"]))).protocol == "1"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in stub.Exchange(iter([peer_frames_pb2.ExchangeRequest()])):
                pass
    assert status.fault_of(error.value).reason == "PEER_NOT_AUTHORISED"


async def test_a_certificate_of_nobodys_authority_takes_no_connection(nodes):
    from solmu.exchange.v1 import peer_pb2, peer_pb2_grpc

    from services.exchange import keys
    from tests.integration.exchange.mesh import Authority

    city, company = nodes
    _name, entry = await company.certified_key(directory_pb2.KEY_USE_TLS, Authority("Nobody's"))
    key = company.exchange.ring.by_certificate(entry.certificate)
    own = city.exchange.ring.active(directory_pb2.KEY_USE_TLS, city.owner)
    assert key is not None
    assert own is not None
    credentials = grpc.ssl_channel_credentials(
        keys.pem(own.certificate), keys.private_pem(key.private), keys.pem(key.certificate)
    )
    async with grpc.aio.secure_channel(f"localhost:{city.port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await peer_pb2_grpc.PeerServiceStub(channel).Greet(peer_pb2.GreetRequest(protocols=["1"]), timeout=5)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
