"""The demo's story: a decision from a city's back office to a resident, and the sender sees it happen."""

from __future__ import annotations

import pytest

from deploy.local import demo
from deploy.local.node import Node


async def test_a_decision_reaches_a_resident_and_its_sender_sees_it(node: Node, capsys: pytest.CaptureFixture[str]):
    await demo.play(node.settings)
    told = capsys.readouterr().out
    assert "equal at both ends" in told
    assert "All of it held" in told
    assert "FAILED" not in told
