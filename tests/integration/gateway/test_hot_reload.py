"""Certificates, revocation lists and token keys change while calls go on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from gateway.envoy import secrets, xds
from gateway.envoy.plan import Limits
from tests.integration.gateway.rig import LOOK_SECONDS, Refused, Rig, refused, until
from tests.tokens import Signer
from tests.unit.gateway import contract, pki

LONGER_THAN_A_LOOK = 4 * LOOK_SECONDS
"""Seconds after which a change that is taken at all has been taken."""


async def shown_serial(rig: Rig) -> int:
    """Serial number of the certificate that the edge shows now."""
    context = pki.client_context(rig.public, rig.clients["alice"])
    _, writer = await asyncio.open_connection("localhost", rig.port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return int(certificate["serialNumber"], 16)


async def test_a_revoked_certificate_is_refused_within_three_seconds(rig: Rig) -> None:
    assert await rig.connects("bob")

    rig.write_crl(rig.clients["revoked"], rig.clients["bob"])
    await until(lambda: negated(rig, "bob"))
    assert await rig.connects("alice")

    rig.write_crl(rig.clients["revoked"])
    await until(lambda: rig.connects("bob"))
    assert not await rig.connects("revoked")


async def test_a_certificate_is_revoked_on_the_connection_that_is_open(rig: Rig) -> None:
    get = contract.messages.GetParcelRequest
    async with rig.channel("bob") as bobs, rig.channel("alice") as alices:
        bob, alice = (contract.services.ParcelServiceStub(channel) for channel in (bobs, alices))
        stream = alice.WatchParcels(get(name="parcels/many"), metadata=rig.bearer(rig.token()))
        await stream.read()

        async def refusal() -> str:
            try:
                await bob.GetParcel(get(), metadata=rig.bearer(rig.token("bob")))
            except grpc.aio.AioRpcError as error:
                return refused(error).reason
            return ""

        async def is_refused() -> bool:
            return await refusal() == "CLIENT_REVOKED"

        assert await refusal() == ""
        rig.write_crl(rig.clients["revoked"], rig.clients["bob"])
        await until(is_refused)
        await alice.GetParcel(get(), metadata=rig.bearer(rig.token()))
        assert (await stream.read()).name

        rig.write_crl(rig.clients["revoked"])

        async def is_served() -> bool:
            return await refusal() == ""

        await until(is_served)
        stream.cancel()


async def negated(rig: Rig, client: str) -> bool:
    return not await rig.connects(client)


@pytest.mark.parametrize("case", ["garbage", "past its next update", "of another authority", "empty"])
async def test_a_wrong_revocation_list_changes_nothing(rig: Rig, case: str) -> None:
    bob, path = rig.clients["bob"], rig.folder / "crl.pem"
    if case == "garbage":
        path.write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    elif case == "past its next update":
        rig.write_crl(bob, days=-1)
    elif case == "of another authority":
        path.write_text(pki.Authority("public").crl(bob))
    else:
        path.write_text("")
    await asyncio.sleep(LONGER_THAN_A_LOOK)

    assert await rig.connects("alice")
    assert await rig.connects("bob")
    assert not await rig.connects("revoked")

    rig.write_crl(rig.clients["revoked"], bob)
    await until(lambda: negated(rig, "bob"))
    rig.write_crl(rig.clients["revoked"])
    await until(lambda: rig.connects("bob"))


async def test_a_renewed_certificate_is_shown_without_breaking_a_stream(rig: Rig) -> None:
    async with rig.channel() as channel:
        stub = contract.services.ParcelServiceStub(channel)
        many = contract.messages.GetParcelRequest(name="parcels/many")
        stream = stub.WatchParcels(many, metadata=rig.bearer(rig.token()))
        await stream.read()

        renewed = rig.renew_edge_certificate()
        rig.write_crl(rig.clients["revoked"])

        async def shown() -> bool:
            return await shown_serial(rig) == renewed.certificate.serial_number

        await until(shown)
        for _ in range(20):
            assert (await stream.read()).name
        stream.cancel()


async def test_a_certificate_without_its_key_waits_for_it(rig: Rig) -> None:
    before = await shown_serial(rig)
    pair = rig.public.server("localhost")
    (rig.folder / "edge_public.pem").write_text(pair.certificate_pem)
    await asyncio.sleep(LONGER_THAN_A_LOOK)
    assert await shown_serial(rig) == before

    (rig.folder / "edge_public.key").write_text(pair.key_pem)

    async def shown() -> bool:
        return await shown_serial(rig) == pair.certificate.serial_number

    await until(shown)


async def test_token_keys_come_and_go_on_open_connections(rig: Rig) -> None:
    second = Signer(kid="second", issuer=rig.origin)
    old, new = rig.token(), second.token(rig.clients["alice"].sha256, scope="parcels.read")
    async with rig.channel() as channel:
        stub = contract.services.ParcelServiceStub(channel)

        async def accepted(token: str) -> bool:
            try:
                await stub.GetParcel(contract.messages.GetParcelRequest(), metadata=rig.bearer(token))
            except grpc.aio.AioRpcError as error:
                return refused(error).reason != "TOKEN_INVALID"
            return True

        assert await accepted(old)
        assert not await accepted(new)

        rig.key_sets.append(json.dumps({"keys": [rig.signer.jwk(), second.jwk()]}))
        await rig.edge.fetch_keys()
        await until(lambda: accepted(new))
        assert await accepted(old)

        rig.key_sets.append(second.jwks())
        await rig.edge.fetch_keys()

        async def forgotten() -> bool:
            return not await accepted(old)

        await until(forgotten)
        assert await accepted(new)

    rig.key_sets.append(rig.signer.jwks())
    await rig.edge.fetch_keys()

    async def restored() -> bool:
        return not isinstance(await rig.call("GetParcel"), Refused)

    await until(restored)


@pytest.mark.parametrize(
    "jwks", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "EC"}]}', '{"keys": [{"kid": "x", "kty": "oct"}]}']
)
async def test_a_wrong_key_set_changes_nothing(rig: Rig, jwks: str) -> None:
    before = (rig.folder / "edge" / xds.AUTHENTICATION).read_bytes()
    rig.key_sets.append(jwks)
    assert await rig.edge.fetch_keys()
    rig.key_sets.pop()
    assert (rig.folder / "edge" / xds.AUTHENTICATION).read_bytes() == before


async def test_what_did_not_change_is_not_written(rig: Rig) -> None:
    path = rig.folder / "edge" / xds.secret_file(secrets.CLIENT_AUTHORITIES)
    before = path.stat().st_ino
    crl = (rig.folder / "crl.pem").read_text()
    (rig.folder / "crl.pem").write_text(crl)
    await asyncio.sleep(LONGER_THAN_A_LOOK)
    assert path.stat().st_ino == before
    assert path.stat().st_mode & 0o077 == 0


async def test_routes_and_limits_change_without_a_call_or_a_stream_that_breaks(tmp_path: Path) -> None:
    """As a gateway writes them that was started again with other settings, while Envoy goes on."""
    async with Rig(tmp_path) as rig, rig.channel() as channel:
        stub = contract.services.ParcelServiceStub(channel)
        many = contract.messages.GetParcelRequest(name="parcels/many")
        stream = stub.WatchParcels(many, metadata=rig.bearer(rig.token()))
        await stream.read()

        async def told() -> str:
            request = contract.messages.GetParcelRequest(name="parcels/1")
            call = stub.GetParcel(request, metadata=rig.bearer(rig.token()))
            headers = {str(name): str(value) for name, value in await call.initial_metadata()}
            assert (await call).name
            return headers["x-ratelimit-limit"].partition(",")[0]

        async def changed() -> bool:
            return await told() == "77"

        assert not await changed()
        routes = tuple(
            replace(route, scopes=("parcels.other",)) if route.method == "CreateParcel" else route
            for route in rig.edge.plan.routes
        )
        rig.edge.plan = replace(rig.edge.plan, routes=routes, limits=Limits(client_burst=77))
        await rig.edge.start()
        await until(changed, within=20)
        created = await rig.call("CreateParcel")
        assert isinstance(created, Refused)
        assert created.reason == "SCOPE_MISSING"
        for _ in range(20):
            assert (await stream.read()).name
        stream.cancel()
