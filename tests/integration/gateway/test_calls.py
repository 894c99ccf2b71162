"""What gets through the edge, in both forms, and what the service sees of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

from google.api.httpbody_pb2 import HttpBody

from tests.integration.gateway.rig import Rig
from tests.unit.gateway import contract

MIB = 1 << 20


async def test_both_forms_reach_the_method(rig: Rig) -> None:
    over_grpc = await rig.call("GetParcel", contract.messages.GetParcelRequest(name="parcels/1"))
    over_rest = await rig.rest("GET", "/v1/parcels/1")

    assert over_grpc.name == "parcels/1"
    assert over_rest.json["name"] == "parcels/1"
    assert over_rest.headers["content-type"] == "application/json"
    assert not [name for name in over_rest.headers if name.startswith(("grpc", "x-envoy"))]


async def test_bodies_parameters_and_custom_verbs_are_translated(rig: Rig) -> None:
    created = await rig.rest("POST", "/v1/parcels?requestId=7", '{"name": "n", "note": "ä🙂", "sizeBytes": "9"}')
    sealed = await rig.rest("POST", "/v1/parcels/7:seal", "{}")
    other = await rig.rest("GET", "/v1/depots/d/parcels/7")

    assert created.json == {"name": "n", "note": "ä🙂", "sizeBytes": "9"}
    assert sealed.json["name"] == "parcels/7"
    assert other.json["name"] == "depots/d/parcels/7"


async def test_streams_of_messages_are_translated(rig: Rig) -> None:
    watched = await rig.rest("GET", "/v1/parcels:watch")
    imported = await rig.rest("POST", "/v1/parcels:import", '[{"parcel": {"name": "a"}}, {"parcel": {"name": "b"}}]')

    assert watched.body == b'{"name":"parcels/0"}\n{"name":"parcels/1"}\n{"name":"parcels/2"}\n'
    assert imported.json == {"note": "2 parcels"}
    assert len(await rig.call("WatchParcels")) == 3


async def test_raw_content_streams_up_and_down_unchanged(rig: Rig) -> None:
    content = os.urandom(8 * MIB)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    up = await rig.rest("PUT", "/v1/parcels/9/content", pieces(), headers={"content-type": "application/pdf"})
    down = await rig.rest("GET", "/v1/parcels/9/content")

    assert up.json["sha256"] == hashlib.sha256(content).hexdigest()
    assert up.json["note"] == "application/pdf"
    assert rig.parcels.largest_piece <= MIB
    assert down.headers["content-type"] == "application/pdf"
    assert down.body == content


async def test_raw_content_streams_up_and_down_over_grpc(rig: Rig) -> None:
    content = os.urandom(3 * MIB)

    async def pieces() -> AsyncIterator[Any]:
        for start in range(0, len(content), MIB):
            yield contract.messages.UploadContentRequest(
                name="parcels/8", content=HttpBody(data=content[start : start + MIB])
            )

    up = await rig.call("UploadContent", pieces())
    down = await rig.call("DownloadContent", contract.messages.GetParcelRequest(name="parcels/8"))

    assert up.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(piece.data for piece in down) == content


async def test_empty_content_is_content(rig: Rig) -> None:
    up = await rig.rest("PUT", "/v1/parcels/7/content", b"")
    assert up.json["name"] == "parcels/7"
    assert up.json["sha256"] == hashlib.sha256().hexdigest()


async def test_a_refusal_of_the_service_becomes_a_problem_whatever_is_in_its_text(rig: Rig) -> None:
    over_grpc = await rig.call("GetParcel", contract.messages.GetParcelRequest(name="parcels/broken"))
    over_rest = await rig.rest("GET", "/v1/parcels/broken")

    assert (over_grpc.code, over_grpc.reason, over_grpc.domain) == (
        "INVALID_ARGUMENT",
        "FIELD_INVALID",
        "parcels.solmu",
    )
    assert over_rest.json == {
        "type": "urn:solmu:reason:FIELD_INVALID",
        "title": "Bad Request",
        "status": 400,
        "detail": over_grpc.message,
        "reason": "FIELD_INVALID",
        "domain": "parcels.solmu",
        "errors": [{"field": "parcel.name", "description": over_grpc.message}] * 2,
    }
    assert over_rest.reason == "FIELD_INVALID"
    assert over_rest.headers["retry-after"] == "2"


async def test_a_refusal_without_a_reason_gets_the_one_of_its_status(rig: Rig) -> None:
    answer = await rig.rest("GET", "/v1/parcels/missing")
    assert (answer.status, answer.reason) == (501, "METHOD_NOT_IMPLEMENTED")


FORGED = {
    "X-Forwarded-Client-Cert": f"Hash={'0' * 64};URI=spiffe://test/client/bob",
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=192.0.2.1",
    "X-Real-Ip": "192.0.2.1",
    "X-Edge-Sub": "organisations/other",
    "X-Edge-Client": "bob",
    "X-Edge-Certificate-Serial": "0a0b",
    "X-Envoy-Original-Path": "/elsewhere",
    "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
    "X-Envoy-Retry-On": "5xx",
    "X-Request-Id": "chosen-by-the-client",
}


async def test_forged_headers_do_not_reach_the_service(rig: Rig) -> None:
    alice = rig.clients["alice"]
    answer = await rig.rest("GET", "/v1/parcels/1?offset=5", headers=FORGED)
    seen = answer.json["headers"]

    assert seen["x-forwarded-client-cert"] == f'Hash={alice.sha256};Subject="CN=alice";URI=spiffe://test/client/alice'
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-envoy-original-path"] == "/v1/parcels/1?offset=5"
    assert seen["x-request-id"] != FORGED["X-Request-Id"]
    ends_here = ("x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "x-edge-sub")
    assert not [name for name in (*ends_here, "x-edge-scope", "x-edge-bound-to") if name in seen]
    assert seen["x-edge-client"] == "alice"
    assert int(seen["x-edge-certificate-serial"], 16) == alice.certificate.serial_number
    assert not [value for value in seen.values() if "192.0.2.1" in value or "127.0.0.1" in value]


async def test_token_and_trace_travel_to_the_service(rig: Rig) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    token = rig.token()
    seen = (await rig.call("GetParcel", token=token, metadata=[("traceparent", trace)])).headers
    assert seen["authorization"] == f"Bearer {token}"
    assert seen["traceparent"] == trace


async def test_the_access_log_says_who_and_what_without_personal_data(rig: Rig) -> None:
    answer = await rig.rest("GET", "/v1/parcels/1?offset=4711")
    line = await rig.logged(request_id=answer.headers["x-request-id"])

    assert line["client"] == "alice"
    assert line["certificate"] == rig.clients["alice"].sha256
    assert line["certificate_uri"] == "spiffe://test/client/alice"
    assert (line["method"], line["route"]) == ("GET", "solmu.parcels.v1.ParcelService/GetParcel")
    assert (line["status"], line["grpc_status"], line["upstream"]) == (200, "OK", "parcels")
    assert "4711" not in str(line)
    assert "eyJ" not in str(line)
