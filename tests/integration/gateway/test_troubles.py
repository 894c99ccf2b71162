"""What callers see when the node is in trouble, or too many come."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.envoy.bootstrap import SHEDDING
from gateway.envoy.plan import Limits
from tests.integration.gateway.rig import Refused, Rig, until
from tests.unit.gateway import pki


async def assert_unavailable(rig: Rig) -> None:
    refused = await rig.call("GetParcel")
    answer = await rig.rest("GET", "/v1/parcels/1")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.retry_after) == ("UNAVAILABLE", "UNAVAILABLE", 1)
    assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "UNAVAILABLE", "1")


async def test_a_service_that_is_away_is_unavailable(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        assert not isinstance(await rig.call("GetParcel"), Refused)
        await rig.service.stop(0)
        await assert_unavailable(rig)


async def test_a_service_under_another_name_is_not_talked_to(tmp_path: Path) -> None:
    async with Rig(tmp_path, service_identity="messages") as rig:
        await assert_unavailable(rig)
        assert rig.parcels.calls == 0


async def test_a_flood_is_held_off(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=Limits(calls_per_second=1)) as rig:
        answers = await asyncio.gather(*(rig.rest("GET", "/v1/parcels/1") for _ in range(5)))
        refused = await asyncio.gather(*(rig.call("GetParcel") for _ in range(5)))

    limited = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.reason, answer.headers["retry-after"]) for answer in limited} == {
        (429, "RATE_LIMITED", "1")
    }
    assert {(each.code, each.reason, each.retry_after) for each in refused if isinstance(each, Refused)} == {
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED", 1)
    }


async def test_a_client_over_its_allowance_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=Limits(calls_per_second=20, client_calls_per_second=1, client_burst=3)) as rig:
        alice = await asyncio.gather(*(rig.rest("GET", "/v1/parcels/1") for _ in range(60)))
        bob = await rig.rest("GET", "/v1/parcels/1", client="bob")
    assert 429 in {answer.status for answer in alice}
    assert (bob.status, bob.headers["x-ratelimit-remaining"]) == (200, "2")


async def test_short_of_memory_the_edge_sheds_calls_before_it_falls(tmp_path: Path) -> None:
    (tmp_path / "idle").mkdir()
    async with Rig(tmp_path / "idle") as rig:
        await rig.call("GetParcel")
        memory = json.loads((await rig.ask_envoy("/memory"))[1])
        used = int(memory["heap_size"]) - int(memory["pageheap_unmapped"]) - int(memory["pageheap_free"])
    between = (SHEDDING["stop_accepting_requests"] + SHEDDING["stop_accepting_connections"]) / 2
    for share in (between, between + 0.03, between + 0.06, between + 0.09):  # it never uses quite as much twice
        folder = tmp_path / f"short of {share:.2f}"
        folder.mkdir()
        async with Rig(folder, limits=Limits(heap_bytes=int(used / share))) as rig:
            if await sheds_soon(rig):
                await assert_unavailable(rig)
                assert rig.parcels.calls == 0
                return
    pytest.fail("it never sheds")


async def sheds_soon(rig: Rig) -> bool:
    for _ in range(60):
        if await sheds(rig):
            return True
        await asyncio.sleep(0.05)
    return False


async def sheds(rig: Rig) -> bool:
    _, statistics = await rig.ask_envoy("/stats?filter=stop_accepting_requests.active")
    return statistics.strip().endswith(": 1")


async def test_connections_over_the_limit_are_closed(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=Limits(connections=2)) as rig:
        context = pki.client_context(rig.public, rig.clients["alice"])
        open_ones = [await asyncio.open_connection("localhost", rig.port, ssl=context) for _ in range(2)]
        with pytest.raises(OSError):  # noqa: PT011 - a reset, or an end of file
            await asyncio.open_connection("localhost", rig.port, ssl=context)
        for _, writer in open_ones:
            writer.close()
        await until(lambda: rig.connects("alice"))
