"""Each refusal of the edge, in both forms, and that nothing of it reaches the service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.envoy import filters
from tests.integration.gateway.rig import Refused, Rig
from tests.tokens import Signer, keyed, unsigned
from tests.unit.gateway import contract, pki

NODE = "node.solmu"
OTHER = pki.Authority("other").client("alice")


def another(rig: Rig, *, kid: str) -> str:
    """A token that is right but for its signature."""
    return Signer(kid=kid, issuer=rig.origin).token(rig.clients["alice"].sha256)


def x5t_hex(value: Any) -> dict[str, Any]:
    return {"cnf": {"x5t_hex": value}}


TOKENS: dict[str, tuple[str, Callable[[Rig], str | None]]] = {
    "no token": ("TOKEN_MISSING", lambda _: None),
    "not a token": ("TOKEN_INVALID", lambda _: "abc"),
    "expired": ("TOKEN_EXPIRED", lambda rig: rig.token(exp=int(time.time()) - 60)),
    "not valid yet": ("TOKEN_EXPIRED", lambda rig: rig.token(nbf=int(time.time()) + 60)),
    "without expiry": ("TOKEN_INVALID", lambda rig: rig.token(exp=None)),
    "for another audience": ("TOKEN_AUDIENCE_MISMATCH", lambda rig: rig.token(aud="https://elsewhere")),
    "by another issuer": ("TOKEN_INVALID", lambda rig: rig.token(iss="https://elsewhere")),
    "signed with another key": ("TOKEN_INVALID", lambda rig: another(rig, kid=rig.signer.kid)),
    "signed with an unknown key": ("TOKEN_INVALID", lambda rig: another(rig, kid="unknown")),
    "unsigned": ("TOKEN_INVALID", lambda rig: unsigned(rig.token())),
    "keyed with the public key": ("TOKEN_INVALID", lambda rig: keyed(rig.token(), rig.signer.public_pem())),
    "of another type": ("TOKEN_INVALID", lambda rig: rig.token(headers={"typ": "JWT"})),
    "bound to another certificate": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token("bob")),
    "of a namesake at another authority": (
        "TOKEN_BINDING_MISMATCH",
        lambda rig: rig.signer.token(OTHER.sha256, scope="parcels.read parcels.write"),
    ),
    "not bound": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token(cnf=None)),
    "bound to nothing": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token(**x5t_hex(""))),
    "bound in capitals": (
        "TOKEN_BINDING_MISMATCH",
        lambda rig: rig.token(**x5t_hex(rig.clients["alice"].sha256.upper())),
    ),
    "bound to a number": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token(**x5t_hex(7))),
    "bound to a list": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token(**x5t_hex([rig.clients["alice"].sha256]))),
    "bound in another shape": ("TOKEN_BINDING_MISMATCH", lambda rig: rig.token(cnf="x5t_hex")),
    "without scopes": ("SCOPE_MISSING", lambda rig: rig.token(scope=None)),
    "with another scope": ("SCOPE_MISSING", lambda rig: rig.token(scope="parcels.readers xparcels.read parcels")),
    "with half of the scopes": ("SCOPE_MISSING", lambda rig: rig.token(scope="parcels.write")),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_wrong_token_is_refused(rig: Rig, case: str) -> None:
    reason, make = TOKENS[case]
    token, calls = make(rig), rig.parcels.calls
    denied = reason == "SCOPE_MISSING"

    over_grpc = await rig.call("CreateParcel", contract.messages.CreateParcelRequest(), token=token)
    over_rest = await rig.rest("POST", "/v1/parcels", "{}", token=token)

    assert isinstance(over_grpc, Refused)
    assert over_grpc.code == ("PERMISSION_DENIED" if denied else "UNAUTHENTICATED")
    assert (over_grpc.reason, over_grpc.domain) == (reason, NODE)
    assert over_rest.status == (403 if denied else 401)
    assert over_rest.reason == reason
    assert over_rest.json["detail"] == over_grpc.message
    assert over_rest.headers["www-authenticate"] == over_grpc.challenge
    assert rig.parcels.calls == calls


async def test_what_a_caller_says_of_its_token_counts_for_nothing(rig: Rig) -> None:
    alice = rig.clients["alice"].sha256
    for name in (filters.GRANTED, filters.GRANTED.upper()):
        refusal = await rig.rest(
            "GET", "/v1/parcels/1", token=rig.token(scope="x.y"), headers={name: "parcels.read parcels.write"}
        )
        assert (refusal.status, refusal.json["reason"]) == (403, "SCOPE_MISSING")
    for claims in ({"cnf": None}, x5t_hex(pki.Authority("third").client("alice").sha256)):
        refusal = await rig.rest("GET", "/v1/parcels/1", token=rig.token(**claims), headers={filters.BOUND_TO: alice})
        assert (refusal.status, refusal.json["reason"]) == (401, "TOKEN_BINDING_MISMATCH")


async def test_the_challenge_follows_rfc_6750(rig: Rig) -> None:
    missing = await rig.rest("GET", "/v1/parcels/1", token=None)
    invalid = await rig.rest("GET", "/v1/parcels/1", token="abc")
    denied = await rig.rest("POST", "/v1/parcels", "{}", token=rig.token(scope="x"))

    assert missing.headers["www-authenticate"] == "Bearer"
    assert invalid.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert denied.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="parcels.read parcels.write"'


@pytest.mark.parametrize("client", [None, "revoked"])
async def test_a_connection_needs_a_certificate_in_force(rig: Rig, client: str | None) -> None:
    with pytest.raises(aiohttp.ClientError):
        await rig.rest("GET", "/v1/parcels/1", client=client)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("of another authority", OTHER),
        ("expired", None),
        ("for servers", None),
    ],
)
async def test_a_wrong_certificate_is_refused(rig: Rig, name: str, pair: pki.Pair | None) -> None:
    pair = pair or (rig.public.client("alice", days=-1) if name == "expired" else rig.public.server("alice"))
    rig.clients["wrong"] = pair
    with pytest.raises(aiohttp.ClientError):
        await rig.rest("GET", "/v1/parcels/1", client="wrong")
    assert (await rig.call("GetParcel", client="wrong", timeout=2)).code == "UNAVAILABLE"


async def test_a_refused_handshake_is_logged_with_its_reason(rig: Rig) -> None:
    with pytest.raises(aiohttp.ClientError):
        await rig.rest("GET", "/v1/parcels/1", client="revoked")
    line = await rig.logged(log="edge.handshake", certificate_uri="spiffe://test/client/revoked")
    assert "certificate_revoked" in line["failure"]


UNKNOWN = [
    ("GET", "/v1/nothing"),
    ("DELETE", "/v1/parcels/1"),
    ("GET", "/v1//parcels/1"),
    ("POST", "/v1/parcels/1:open"),
    ("POST", "/solmu.parcels.v1.ParcelService/GetParcel"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("verb", "path"), UNKNOWN)
async def test_an_unknown_path_is_not_found(rig: Rig, verb: str, path: str) -> None:
    answer = await rig.rest(verb, path, "{}" if verb == "POST" else None)
    assert (answer.status, answer.reason) == (404, "METHOD_UNKNOWN")


async def test_a_method_for_services_only_is_unknown_at_the_edge(rig: Rig) -> None:
    refused = await rig.call("AuditParcels")
    assert (refused.code, refused.reason, refused.domain) == ("UNIMPLEMENTED", "METHOD_UNKNOWN", NODE)


async def test_grpc_on_a_rest_path_is_unknown(rig: Rig) -> None:
    answer = await rig.rest("GET", "/v1/parcels/1", headers={"content-type": "application/grpc"})
    assert answer.headers["grpc-status"] == "12"


async def test_a_body_over_the_limit_is_refused(rig: Rig) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1000

    large = contract.messages.CreateParcelRequest(parcel=contract.messages.Parcel(note="x" * 5000))
    refused = await rig.call("CreateParcel", large)
    declared = await rig.rest("POST", "/v1/parcels", "x" * 5000)
    streamed = await rig.rest("POST", "/v1/parcels", endless())

    assert (refused.code, refused.reason, refused.domain) == ("RESOURCE_EXHAUSTED", "BODY_TOO_LARGE", NODE)
    assert (declared.status, declared.reason) == (413, "BODY_TOO_LARGE")
    assert (streamed.status, streamed.reason) == (413, "BODY_TOO_LARGE")


CODE = "010101-123N"
SHAPE = "the request is not of the method's shape"
MALFORMED: dict[str, tuple[str, str, str | bytes | None, str]] = {
    "no JSON": ("POST", "/v1/parcels", '{"note": "CODE", broken', "Expected"),
    "a string that does not end": ("POST", "/v1/parcels", '{"note": "CODE', "Closing quote expected in string."),
    "cut off": ("POST", "/v1/parcels", '{"note": "CODE"', "Expected , or } after key:value pair."),
    "no JSON number": ("POST", "/v1/parcels", '{"note": 010101}', "Octal/hex numbers are not valid JSON values."),
    "no UTF-8": ("POST", "/v1/parcels", b'{"note": "0101\xff"}', SHAPE),
    "a number for a text": ("POST", "/v1/parcels", '{"note": 10101123}', "parcel.note is not of type TYPE_STRING"),
    "a text for a number": (
        "POST",
        "/v1/parcels",
        '{"sizeBytes": "CODE for type\\n C"}',
        "parcel.size_bytes is not of type TYPE_INT64",
    ),
    "an unknown parameter": ("GET", "/v1/parcels/1?nothing=CODE", None, "there is no field nothing"),
    "an odd parameter": ("GET", "/v1/parcels/1?CODE%5Cn%22=1", None, SHAPE),
    "a parameter of a wrong type": ("GET", "/v1/parcels/1?offset=CODE", None, "offset is not of type TYPE_INT64"),
    "path against body": (
        "POST",
        "/v1/parcels/7:seal",
        '{"name": "CODE"}',
        "name has one value in the path and another in the body",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_request_is_refused_without_being_quoted(rig: Rig, case: str) -> None:
    verb, path, body, detail = MALFORMED[case]
    calls = rig.parcels.calls
    if isinstance(body, str):
        body = body.replace("CODE", CODE)
    answer = await rig.rest(verb, path.replace("CODE", CODE), body)
    assert (answer.status, answer.reason) == (400, "JSON_MALFORMED")
    assert detail in answer.json["detail"]
    assert "0101" not in answer.json["detail"]
    assert rig.parcels.calls == calls


async def test_a_stream_at_rest_is_a_json_array(rig: Rig) -> None:
    lines = await rig.rest("POST", "/v1/parcels:import", '{"parcel": {}}\n{"parcel": {}}\n')
    assert (lines.status, lines.reason) == (400, "JSON_MALFORMED")


@pytest.mark.parametrize(
    "headers",
    [{"x_underscore": "1"}, {"x": "y" * 40_000}, {f"x-{number}": "1" for number in range(80)}],
    ids=["underscore", "too large", "too many"],
)
async def test_wrong_headers_are_refused(rig: Rig, headers: dict[str, str]) -> None:
    answer = await rig.rest("GET", "/v1/parcels/1", headers=headers)
    assert answer.status in {400, 431}
    assert answer.reason == "HEADERS_INVALID"


async def test_an_escaped_slash_is_refused(rig: Rig) -> None:
    answer = await rig.rest("GET", "/v1/parcels%2F1")
    assert answer.status in {400, 404}
    assert answer.reason in {"HEADERS_INVALID", "METHOD_UNKNOWN"}


async def test_a_call_over_its_time_ends(rig: Rig) -> None:
    slow = contract.messages.Parcel(name="slow")
    refused = await rig.call("CreateParcel", contract.messages.CreateParcelRequest(parcel=slow))
    answer = await rig.rest("POST", "/v1/parcels", '{"name": "slow"}')

    assert refused.code == "DEADLINE_EXCEEDED"
    assert refused.reason in {"DEADLINE_EXCEEDED", ""}, (
        "gRPC in the service may be the first to notice, without a reason"
    )
    assert (answer.status, answer.reason) == (504, "DEADLINE_EXCEEDED")
