"""Edges side by side, each a process with a brain of its own, need nothing of one another."""

from __future__ import annotations

from pathlib import Path

from gateway.envoy.plan import Limits
from tests.integration.gateway.rig import Rig, until

BURST = 100
LIMITS = Limits(client_calls_per_second=1, client_burst=BURST)


class Another(Rig):
    """A second edge before the same service: the same authorities, keys and name, and copies of the same files."""

    def __init__(self, folder: Path, first: Rig) -> None:
        super().__init__(folder, limits=LIMITS)
        self._first = first
        self.internal, self.public, self.clients = first.internal, first.public, first.clients
        self.origin, self.signer, self.key_sets = first.origin, first.signer, first.key_sets
        self.parcels = first.parcels

    async def _start_service(self) -> int:
        return self._first.settings.parcels.port


async def test_two_edges_take_the_same_tokens_and_revocations_and_count_each_for_itself(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with Rig(tmp_path / "one", limits=LIMITS) as one:
        async with Another(tmp_path / "two", one) as two:
            token = one.token()
            for edge in (one, two):
                assert (await edge.rest("GET", "/v1/parcels/1", token=token)).status == 200

            for _ in range(5):
                await one.rest("GET", "/v1/parcels/1", client="bob")
            told = (await two.rest("GET", "/v1/parcels/1", client="bob")).headers
            assert told["x-ratelimit-remaining"] == str(BURST - 1)

            for edge in (two, one):  # a list reaches one of them first, and neither waits for the other
                edge.write_crl(one.clients["revoked"], one.clients["alice"])
                await until(lambda edge=edge: _refuses(edge, "alice"), within=10)  # type: ignore[misc]
        # One that has gone is missed by nobody.
        assert (await one.rest("GET", "/v1/parcels/1", client="bob")).status == 200


async def _refuses(edge: Rig, client: str) -> bool:
    return not await edge.connects(client)
