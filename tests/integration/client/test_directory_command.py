"""`solmu directory` as typed, against two nodes of a mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.client.test_command import solmu
from tests.journeys import pair


async def test_an_anchor_goes_from_hand_to_hand_and_a_node_joins_by_it(tmp_path: Path) -> None:
    async with pair.joined(tmp_path) as (city_node, _, company_node, _):
        city, other = (node.state.clients / pair.ADMINISTRATION.client_id for node in (city_node, company_node))

        async def told(profile: Path, *arguments: str | Path) -> Any:
            done = await solmu("--profile", profile, "--json", "directory", *arguments)
            assert done.status == 0, done.error
            return [json.loads(line) for line in done.out.splitlines()]

        table = (await solmu("--profile", city, "directory", "show")).out.splitlines()
        assert table[0].split() == ["instance", "state", "version", "holds", "until", "mesh"]
        assert (table[1].split()[:2], table[1].split()[-1]) == (["FI", "current"], "own")
        members = (await solmu("--profile", city, "directory", "members", "--instance", "FI")).out.splitlines()
        assert sorted(line.split()[:3] for line in members[1:]) == [["FI", "COM", "2"], ["FI", "MUN", "1"]]
        unknown = await solmu("--profile", city, "directory", "show", "SE")
        assert unknown.status == 1

        anchor = tmp_path / "anchor"
        [described] = await told(city, "anchor", "FI", anchor)
        assert described["usable"]
        assert await told(other, "inspect", anchor) == [described]

        [refreshed] = await told(other, "refresh", "FI")
        assert (refreshed["instance"], refreshed["state"]) == ("FI", "STATE_CURRENT")
        assert (await solmu("--profile", other, "directory", "leave", "FI", "--confirm", "SE")).status == 1
        assert await told(other, "leave", "FI", "--confirm", "FI") == [{}]
        assert await told(other, "show") == []
        join = ("directory", "join", anchor, "--node", pair.COMPANY, "--fingerprint")
        assert (await solmu("--profile", other, *join, "0" * 64)).status == 1
        assert await told(other, "show") == []
        short = ("directory", "join", anchor, "--node", "FI/COM/2", "--fingerprint", described["fingerprint"])
        assert (await solmu("--profile", other, *short)).status == 2
        [joined] = await told(other, *join[1:], described["fingerprint"])
        assert joined["instance"] == "FI"
        assert [one["instance"] for one in await told(other, "show")] == ["FI"]
