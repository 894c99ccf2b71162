"""What `nats.render` says, and that the real server takes it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.local import engines, nats
from deploy.local.state import State
from services.runtime import mesh

SERVICES = {
    service.name: service
    for service in (
        mesh.Service("authorisations", consumes=()),
        mesh.Service("messages", consumes=("authorisations",)),
        mesh.Service("exchange", consumes=("authorisations",)),
    )
}


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_identities("solmu", ["nats"])
    return state


@pytest.fixture
def configuration(state: State) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        nats.render(node="solmu", port=4222, store=state.nats, identity=state.identity("nats"), services=mesh.SERVICES)
    )
    return content


def test_a_reader_gets_three_subjects_of_its_durable_and_no_more(configuration: dict[str, Any]) -> None:
    stream = "EVT_AUTHORISATIONS.exchange"
    exports = [entry for entry in configuration["accounts"]["AUTHORISATIONS"]["exports"] if stream in entry["service"]]
    assert exports == [
        {
            "service": f"$JS.API.CONSUMER.MSG.NEXT.{stream}",
            "response_type": "stream",
            "accounts": ["EXCHANGE"],
        },
        {"service": f"$JS.API.CONSUMER.INFO.{stream}", "accounts": ["EXCHANGE"]},
        {"service": f"$JS.ACK.{stream}.>", "accounts": ["EXCHANGE"]},
    ]
    assert configuration["accounts"]["EXCHANGE"]["imports"] == [
        {
            "service": {"account": "AUTHORISATIONS", "subject": f"$JS.API.CONSUMER.MSG.NEXT.{stream}"},
            "to": f"JS.authorisations.API.CONSUMER.MSG.NEXT.{stream}",
        },
        {
            "service": {"account": "AUTHORISATIONS", "subject": f"$JS.API.CONSUMER.INFO.{stream}"},
            "to": f"JS.authorisations.API.CONSUMER.INFO.{stream}",
        },
        {"service": {"account": "AUTHORISATIONS", "subject": f"$JS.ACK.{stream}.>"}},
    ]


def test_every_import_has_its_export_and_every_export_its_import(configuration: dict[str, Any]) -> None:
    exported = {
        (name, reader, entry["service"])
        for name, account in configuration["accounts"].items()
        for entry in account.get("exports", ())
        for reader in entry["accounts"]
    }
    imported = {
        (entry["service"]["account"], name, entry["service"]["subject"])
        for name, account in configuration["accounts"].items()
        for entry in account.get("imports", ())
    }
    assert exported == imported
    assert exported


def test_each_account_has_one_user_who_comes_with_a_certificate(configuration: dict[str, Any]) -> None:
    users = {name: account["users"] for name, account in configuration["accounts"].items()}
    assert users == {
        "SYSTEM": [{"user": "spiffe://solmu/service/operator"}],
        **{name.upper(): [{"user": f"spiffe://solmu/service/{name}"}] for name in mesh.SERVICES},
    }
    assert configuration["tls"]["verify_and_map"] is True
    assert configuration["tls"]["min_version"] == "1.3"
    assert configuration["listen"] == "127.0.0.1:4222"


def test_what_was_acknowledged_is_on_the_disk(configuration: dict[str, Any]) -> None:
    assert configuration["jetstream"]["sync_interval"] == "always"


async def test_the_server_takes_it(state: State, tmp_path: Path) -> None:
    path = tmp_path / nats.CONFIGURATION
    path.write_text(
        nats.render(node="solmu", port=4222, store=state.nats, identity=state.identity("nats"), services=SERVICES)
    )
    server = await engines.nats(None)
    check = await asyncio.create_subprocess_exec(server.program, "-t", "-c", path, stderr=asyncio.subprocess.PIPE)
    _, said = await check.communicate()
    assert b"is valid" in said, said
