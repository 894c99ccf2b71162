"""Versions of resources by REST: ETag in answers, If-Match in requests (RFC 9110)."""

from __future__ import annotations

import aiohttp
import jwt

from deploy.local.node import Node
from gateway.client import Client
from tests.integration.node.callers import Caller, issuer, profile

UNIT = "/v1/units/permits"


async def test_a_change_of_another_version_than_the_one_read_is_refused(node: Node):
    async with Client(profile(node, "permits")) as client:
        party = jwt.decode(await client.token(), options={"verify_signature": False})["sub"]
        caller = Caller(node.edge, client.profile.files, None)
    token = issuer(node).token(caller.fingerprint, sub=party, scope="messages.read units.read units.manage")
    headers, context = {"authorization": f"Bearer {token}"}, Caller.context(caller.files)
    async with aiohttp.ClientSession(node.edge, connector=aiohttp.TCPConnector(ssl=context), headers=headers) as edge:
        async with edge.get(UNIT) as answer:
            read = answer.headers["etag"]
            unit = await answer.json()
        assert read == f'"{unit["etag"]}"'

        async def change(version: str) -> tuple[int, str, str]:
            body = {"displayNames": unit["displayNames"], "acceptsNewMessages": unit.get("acceptsNewMessages", False)}
            async with edge.patch(UNIT, json=body, headers={"if-match": version}) as changed:
                document = await changed.json(content_type=None)
                return changed.status, document.get("reason", ""), changed.headers.get("etag", "")

        status, _, written = await change(read)
        assert status == 200
        assert written not in ("", read)
        assert (await change(read))[:2] == (409, "ETAG_MISMATCH")
        assert (await change("*"))[0] == 200
        async with edge.get(UNIT, headers={"if-match": read}) as answer:
            assert (answer.status, (await answer.json(content_type=None))["reason"]) == (400, "FIELD_INVALID")
