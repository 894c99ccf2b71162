"""The demo's story: a decision from a city's back office to a resident, and the sender sees it happen."""

from __future__ import annotations

import pytest

from deploy.local import demo, demo_clients
from deploy.local.node import Node


async def test_a_decision_reaches_a_resident_and_its_sender_sees_it(node: Node, capsys: pytest.CaptureFixture[str]):
    await demo.play(node.settings)
    told = capsys.readouterr().out
    assert "equal at both ends" in told
    assert "All of it held" in told
    assert "FAILED" not in told

    logs = {file.name: file.read_text(errors="replace") for file in node.state.log.iterdir()}
    assert {"messages.log", "envoy.log", "authorisations.log", "postgres.log"} <= logs.keys()
    personal = (demo_clients.RESIDENT.owner["value"], "building permit", "decision.pdf", "Päätös", "eyJ")
    for name, log in logs.items():
        assert not [word for word in personal if word in log], f"{name} tells too much"
