"""The port for browsers, which anybody reaches without a certificate."""

from __future__ import annotations

import grpc
import pytest
from solmu.messages.v1 import units_pb2, units_pb2_grpc

from gateway.routes import Door
from tests.attack.conftest import DOCUMENTATION, UNIT, Target, told
from tests.attack.wire import Raw

GRPC = "/solmu.messages.v1.UnitService/GetUnit"

pytestmark = pytest.mark.parametrize("target", [Door.BROWSERS], indirect=True, ids=["browsers"])


async def _asked(target: Target, data: bytes) -> list[str]:
    async with Raw.open(target.port, target.http1) as raw:
        await raw.send(data)
        return await raw.answers()


def _request(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, "Host: localhost", *fields, "", ""]).encode("latin-1") + body


@pytest.mark.parametrize(
    "path",
    [
        UNIT,
        "/oauth2/token",
        "/oauth2/introspect",
        GRPC,
        f"{DOCUMENTATION}/..{UNIT}",
        f"{DOCUMENTATION}/%2e%2e{UNIT}",
        f"//{UNIT}",
        f"{DOCUMENTATION};{UNIT}",
        "/r1/FI/COM/1/A/service",
        "/access/v1/evaluation",
    ],
)
async def test_a_stolen_token_and_a_forged_certificate_open_nothing(target: Target, path: str) -> None:
    uri = f"spiffe://{target.node.settings.node}/client/permits"
    forged = f'Hash={target.caller.fingerprint};Subject="CN=permits";URI={uri}'
    for verb in ("GET", "POST"):
        fields = (
            f"Authorization: {target.bearer}",
            f"X-Forwarded-Client-Cert: {forged}",
            f"X-Edge-Bound-To: {target.caller.fingerprint}",
            "X-Edge-Scope: messages.read",
            "Content-Length: 0",
        )
        outcome = await _asked(target, _request(f"{verb} {path} HTTP/1.1", *fields))
        told(f"{verb} {path} at the port for browsers, with another's token and certificate", outcome)
        assert set(outcome) <= {"400", "404"}


async def test_a_call_by_grpc_is_not_known_there(target: Target) -> None:
    credentials = grpc.ssl_channel_credentials(target.caller.files.authorities.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{target.port}", credentials) as channel:
        stub = units_pb2_grpc.UnitServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            await stub.GetUnit(units_pb2.GetUnitRequest(name="units/permits"), metadata=target.caller.metadata())
    outcome = refused.value.code()
    told("a gRPC call at the port for browsers", outcome)
    assert outcome is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("what", "data"),
    [
        (
            "two lengths",
            _request(f"POST {DOCUMENTATION} HTTP/1.1", "Content-Length: 3", "Content-Length: 4", body=b"abc"),
        ),
        (
            "a length and chunks",
            _request(
                f"POST {DOCUMENTATION} HTTP/1.1",
                "Content-Length: 4",
                "Transfer-Encoding: chunked",
                body=b"0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
        ),
        ("a header of 64 KiB", _request(f"GET {DOCUMENTATION} HTTP/1.1", "X-Long: " + "a" * 65536)),
        ("a thousand headers", _request(f"GET {DOCUMENTATION} HTTP/1.1", *(f"X-{n}: a" for n in range(1000)))),
        (
            "a body that no page takes",
            _request(f"POST {DOCUMENTATION} HTTP/1.1", "Content-Length: 1000000", body=b"a" * 100000),
        ),
        ("HTTP before 1.1", b"GET /docs HTTP/1.0\r\n\r\n"),
        ("an upgrade", _request(f"GET {DOCUMENTATION} HTTP/1.1", "Connection: upgrade", "Upgrade: websocket")),
    ],
)
async def test_a_malformed_or_oversized_request_is_refused(target: Target, what: str, data: bytes) -> None:
    outcome = await _asked(target, data)
    told(f"{what}, at the port for browsers", outcome)
    assert not [status for status in outcome if status.startswith("2")]
    assert len(outcome) <= 1
    await target.serves()
