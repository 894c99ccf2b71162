"""X-Road's REST interface: an information system that was written for a security server."""

import base64
import hashlib
import io
import json
import re
import zipfile

import aiohttp
import pytest
from aiohttp import web
from google.api.httpbody_pb2 import HttpBody
from solmu.exchange.v1 import hosting_pb2, services_pb2

from gateway.adapters.xroad import XRoad
from gateway.adapters.xroad.errors import Style
from services.exchange import names
from services.runtime.chain import Chain
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.identity import Authenticator, TokenVerifier
from services.runtime.server import Server
from services.runtime.telemetry import Telemetry
from tests.engines import NODE
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.integration.exchange.calls import CONSUMER, PROVIDER

CERTIFICATE = "ab" * 32
HEADERS = {"X-Road-Client": CONSUMER, "X-Forwarded-Client-Cert": f'Hash={CERTIFICATE};Subject="CN=case"'}

DESCRIPTION = """
openapi: 3.1.0
info: {title: Persons, version: "1"}
servers: [{url: "https://inside.example/v1"}]
paths:
  /persons: {get: {operationId: list, responses: {}}}
  "/persons/{id}": {get: {operationId: read, responses: {}}, delete: {operationId: remove, responses: {}}}
"""


async def _inner(city):
    """The city's exchange as it is served inside of the node."""

    async def nothing() -> str:
        return '{"keys": []}'

    authenticator = Authenticator(verifier=TokenVerifier(issuer="", fetch=nothing), revoked=lambda _: False)
    chain = Chain(service="exchange", node=NODE, authenticator=authenticator, telemetry=Telemetry())
    files = city.engines.identity("exchange")

    async def ready() -> bool:
        return True

    server = Server(chain=chain, files=files, listen=Address("127.0.0.1", 0), ready=ready)
    for (module, name), servicer in city.exchange.servicers().items():
        server.add(module.DESCRIPTOR.services_by_name[name], servicer)
    await server._server.start()
    return server


@pytest.fixture(scope="module")
async def interface(nodes):
    """Where the adapter answers; what the edge adds to a call, the tests add."""
    city, _ = nodes
    certificate = hosting_pb2.Hosting.ConsumerCertificate(sha256=CERTIFICATE)
    await calls.host(city, CONSUMER, certificates=[certificate])
    server = await _inner(city)
    address = Address("127.0.0.1", server.port)
    peer = Peer(name="exchange", address=address, files=city.engines.identity("gateway"), telemetry=Telemetry())
    application = web.Application()
    application.add_routes(XRoad(exchange=peer, style=Style.CAMEL).routes())
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await runner.cleanup()
    await peer.close()
    await server._server.stop(0)


@pytest.fixture
async def service(nodes, backend):
    backend.requests.clear()
    backend.answer = plain()
    identifier = await calls.service(nodes[1], backend.uri)
    await calls.allow(nodes[1], identifier)
    return identifier


async def test_an_unmodified_system_calls_a_service(interface, backend, service):
    backend.answer = plain(b'{"a":1}', headers=b"Content-Type: application/json\r\nX-Road-Client: forged\r\n")
    async with interface.post(
        f"/r1/{service}/persons?a=b", data=b"asked", headers={**HEADERS, "X-Road-Id": "case-7", "X-Own": "1"}
    ) as answer:
        assert (answer.status, await answer.read()) == (200, b'{"a":1}')
    assert answer.headers.getall("x-road-client") == [CONSUMER]
    assert answer.headers["x-road-service"] == service
    assert answer.headers["x-road-id"] == "case-7"
    assert answer.headers["content-type"] == "application/json"
    request = backend.requests[-1]
    assert (request.line, request.body) == (b"POST /base/persons?a=b HTTP/1.1", b"asked")
    assert request.header(b"x-own") == b"1"
    assert request.header(b"x-road-request-id").decode() == answer.headers["x-road-request-id"]
    assert request.header(b"x-forwarded-client-cert") is None


@pytest.mark.parametrize("body", [b"", b"some content", bytes(300_000)])
async def test_the_hash_binds_the_answer_to_the_request(interface, backend, service, body):
    given = {**HEADERS, "X-Road-Id": "7", "Accept": "a/b", "Accept-Encoding": "identity", "Content-Type": "x/y"}
    async with interface.post(f"/r1/{service}/p?q=1", data=body, headers=given) as answer:
        await answer.read()
    passed = [("X-Road-Client", CONSUMER), ("X-Road-Id", "7"), ("Accept", "a/b"), ("Accept-Encoding", "identity")]
    passed += [("Content-Type", "x/y"), ("x-road-request-id", answer.headers["x-road-request-id"])]
    part = f"POST\r\n/r1/{service}/p?q=1\r\n" + "".join(f"{name}:{value}\r\n" for name, value in passed)
    digest = hashlib.sha512(part.encode()).digest()
    if body:
        digest = hashlib.sha512(digest + hashlib.sha512(body).digest()).digest()
    assert answer.headers["x-road-request-hash"] == base64.b64encode(digest).decode()


async def test_a_large_answer_comes_through(interface, backend, service):
    content = bytes(range(256)) * 12_000
    backend.answer = plain(content)
    async with interface.get(f"/r1/{service}", headers=HEADERS) as answer:
        assert await answer.read() == content


async def test_errors_of_the_provider_are_passed_on_as_they_are(interface, backend, service):
    backend.answer = plain(b"no such person", status=b"404 Not Found")
    async with interface.get(f"/r1/{service}/x", headers=HEADERS) as answer:
        assert (answer.status, await answer.read()) == (404, b"no such person")
    assert "X-Road-Error" not in answer.headers


async def refusal(interface, path, *, headers=None, status, code):
    async with interface.get(path, headers=HEADERS if headers is None else headers) as answer:
        document = await answer.json()
    assert (answer.status, answer.headers["X-Road-Error"], document["type"]) == (status, code, code)
    return document


async def test_refusals_have_xroads_codes(interface, nodes, backend, service):
    denied = await calls.service(nodes[1], backend.uri)
    document = await refusal(interface, f"/r1/{denied}/", status=500, code="Server.ServerProxy.AccessDenied")
    assert re.fullmatch(r"[0-9a-f-]{36}", document["detail"])
    unknown = "Server.ServerProxy.UnknownService"
    await refusal(interface, f"/r1/{PROVIDER}/nothing", status=500, code=unknown)
    await refusal(interface, "/r1/FI/COM/9/x/y", status=500, code="Server.ClientProxy.UnknownMember")
    foreign = {**HEADERS, "X-Road-Client": "FI/MUN/1/other"}
    await refusal(
        interface, f"/r1/{service}", headers=foreign, status=500, code="Server.ClientProxy.SslAuthenticationFailed"
    )
    stranger = {**HEADERS, "X-Forwarded-Client-Cert": f'Hash={"cd" * 32};Subject="CN=x"'}
    await refusal(
        interface, f"/r1/{service}", headers=stranger, status=500, code="Server.ClientProxy.SslAuthenticationFailed"
    )
    nobody = {name: value for name, value in HEADERS.items() if name != "X-Road-Client"}
    await refusal(interface, f"/r1/{service}", headers=nobody, status=400, code="Client.BadRequest")
    away = await calls.service(nodes[1], "http://127.0.0.1:1")
    await calls.allow(nodes[1], away)
    await refusal(interface, f"/r1/{away}", status=500, code="Server.ServerProxy.ServiceFailed.NetworkError")


async def test_a_refusal_is_heard_by_who_still_sends(interface, backend):
    """The node refuses at the head; the rest of the request has nowhere to go."""

    async def large():
        for _ in range(200):
            yield bytes(100_000)

    for _ in range(5):
        async with interface.post(f"/r1/{PROVIDER}/nothing/x", data=large(), headers=HEADERS) as answer:
            assert (answer.status, answer.headers["x-road-error"]) == (500, "Server.ServerProxy.UnknownService")


async def test_refusals_are_xml_for_who_asks_for_it(interface, service):
    headers = {**HEADERS, "Accept": "text/xml"}
    async with interface.get(f"/r1/{PROVIDER}/nothing", headers=headers) as answer:
        text = await answer.text()
    assert answer.content_type == "text/xml"
    assert text.startswith("<error><type>Server.ServerProxy.UnknownService</type><message>")


async def test_metaservices_tell_what_there_is_and_what_is_allowed(interface, nodes, backend):
    _, company = nodes
    described = await calls.service(company, backend.uri)
    name = names.service_resource(described)
    await company.exchange.catalogue.SetServiceDescription(
        services_pb2.SetServiceDescriptionRequest(
            name=name, content=HttpBody(content_type="application/yaml", data=DESCRIPTION.encode())
        )
    )
    await calls.allow(company, described, operation_ids=["read"])
    code = described.rpartition("/")[2]

    async def entry(method):
        async with interface.get(f"/r1/{PROVIDER}/{method}", headers=HEADERS) as answer:
            found = (await answer.json())["service"]
        return next((one for one in found if one["service_code"] == code), None)

    listed = await entry("listMethods")
    assert listed["service_type"] == "OPENAPI"
    assert listed["object_type"] == "SERVICE"
    assert {one["method"] for one in listed["endpoint_list"]} == {"GET", "DELETE"}
    allowed = await entry("allowedMethods")
    assert allowed["endpoint_list"] == [{"method": "GET", "path": "/persons/{id}"}]
    async with interface.get(f"/r1/{PROVIDER}/getOpenAPI?serviceCode={code}", headers=HEADERS) as answer:
        document = await answer.json()
    assert document["servers"] == [{"url": "/v1"}]
    assert set(document["paths"]) == {"/persons", "/persons/{id}"}

    async with interface.get(f"/r1/{described}/persons/7", headers=HEADERS) as answer:
        assert answer.status == 200
    async with interface.delete(f"/r1/{described}/persons/7", headers=HEADERS) as answer:
        assert answer.headers["X-Road-Error"] == "Server.ServerProxy.AccessDenied"


async def test_the_members_of_a_mesh_are_listed(interface):
    async with interface.get("/listClients", headers={**HEADERS, "Accept": "application/json"}) as answer:
        entries = json.loads(await answer.text())["member"]
    shown = {(entry["id"]["object_type"], entry["id"].get("subsystem_code")) for entry in entries}
    assert {("MEMBER", None), ("SUBSYSTEM", "letters"), ("SUBSYSTEM", "register")} <= shown
    async with interface.get("/listClients", headers=HEADERS) as answer:
        assert (await answer.text()).count("<xroad:member>") == len(entries)


ASIC = "/asic?xRoadInstance=FI&memberClass=MUN&memberCode=1&subsystemCode=letters"


async def test_the_evidence_of_a_call_is_downloaded_by_its_id(interface, backend, service):
    async with interface.get(f"/r1/{service}/x", headers={**HEADERS, "X-Road-Id": "evidence-1"}) as answer:
        number = answer.headers["x-road-request-id"]
    async with interface.get(f"{ASIC}&queryId=evidence-1&force", headers=HEADERS) as answer:
        assert (answer.status, answer.content_type) == (200, "application/zip")
        archive = zipfile.ZipFile(io.BytesIO(await answer.read()))
    assert sorted(archive.namelist()) == [f"request-{number}.asice", f"response-{number}.asice"]
    inner = zipfile.ZipFile(io.BytesIO(archive.read(f"request-{number}.asice")))
    assert f"id: {number}" in inner.read("statement.txt").decode()
    async with interface.get(f"{ASIC}&queryId=evidence-1&responseOnly&unique&force", headers=HEADERS) as answer:
        assert (answer.status, answer.content_type) == (200, "application/vnd.etsi.asic-e+zip")
        assert b"kind: response" in zipfile.ZipFile(io.BytesIO(await answer.read())).read("statement.txt")


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("&queryId=none", 404), ("&queryId=x&requestOnly&responseOnly", 400), ("&queryId=x&unique", 400)],
)
async def test_evidence_that_is_not_there_or_not_asked_for_properly_is_refused(interface, query, status):
    async with interface.get(ASIC + query, headers=HEADERS) as answer:
        assert (answer.status, answer.content_type) == (status, "text/plain")


async def test_evidence_is_for_consumers_of_the_subsystem_only(interface):
    stranger = {"X-Forwarded-Client-Cert": f'Hash={"cd" * 32};Subject="CN=x"'}
    async with interface.get(f"{ASIC}&queryId=x", headers=stranger) as answer:
        assert answer.status == 401
