"""What each container is given to read: its own, and no more."""

import json
from pathlib import Path

import pytest

from deploy.containers import jobs, shares
from deploy.local import plan
from deploy.local.state import State
from services.runtime import mesh


@pytest.fixture
def settings(tmp_path: Path) -> jobs.PrepareSettings:
    for folder in ("state", *(f"shares/{process}" for process in shares.PROCESSES), "data/nats"):
        (tmp_path / folder).mkdir(parents=True)
    return jobs.PrepareSettings(
        node="kuopio",
        state=tmp_path / "state",
        shares=tmp_path / "shares",
        data=tmp_path / "data",
        issuer="https://solmu.example.org:8443",
    )


def test_the_first_preparation_lays_every_share_and_the_second_only_the_revocation_list(
    settings: jobs.PrepareSettings,
) -> None:
    assert jobs.prepare(settings) == set(shares.PROCESSES)
    assert jobs.prepare(settings) == {mesh.GATEWAY}


def test_no_share_holds_the_key_of_an_authority_or_of_another_process(settings: jobs.PrepareSettings) -> None:
    jobs.prepare(settings)
    state = State(settings.state)
    authorities = {(folder / "ca.key").read_bytes() for folder in (state.internal, state.public)}
    keys = {name: state.identity(name).key.read_bytes() for name in plan.INTERNAL_IDENTITIES}
    for process in shares.PROCESSES:
        own = {keys[process]} | ({keys[mesh.EDGE]} if process == mesh.GATEWAY else set())
        for file in (settings.shares / process).rglob("*"):
            if file.is_file():
                assert file.read_bytes() not in authorities
                assert file.read_bytes() not in set(keys.values()) - own
                assert file.stat().st_mode & 0o077 == 0


def test_a_token_key_that_is_taken_out_leaves_the_share(settings: jobs.PrepareSettings) -> None:
    jobs.prepare(settings)
    state = State(settings.state)
    (state.token_keys / "20200101T000000Z.pem").write_bytes(next(state.token_keys.glob("*.pem")).read_bytes())
    assert "authorisations" in jobs.prepare(settings)
    shared = settings.shares / "authorisations/token-keys"
    assert len(list(shared.iterdir())) == 2
    (state.token_keys / "20200101T000000Z.pem").unlink()
    jobs.prepare(settings)
    assert len(list(shared.iterdir())) == 1


def test_the_edge_is_certified_under_the_name_in_its_origin(settings: jobs.PrepareSettings) -> None:
    assert jobs.edge_identity(settings.issuer).dns_names == ("solmu.example.org", "localhost")
    assert jobs.edge_identity("https://localhost:8443").dns_names == ("localhost",)


def test_clients_that_were_declared_by_hand_stay(settings: jobs.PrepareSettings) -> None:
    jobs.prepare(settings)
    declared = State(settings.state).declared_clients
    declared.write_text('{"clients": []}')
    jobs.prepare(settings)
    assert declared.read_text() == '{"clients": []}'


def test_nats_in_a_container_differs_by_where_it_listens_only() -> None:
    configuration = json.loads(shares.nats_configuration("kuopio"))
    assert configuration["listen"] == "0.0.0.0:4222"
    assert configuration["http"] == "127.0.0.1:8222"
    assert configuration["tls"]["verify_and_map"] is True
    assert configuration["jetstream"]["store_dir"] == "/data"


def test_postgresql_in_a_container_takes_services_by_certificate_only(settings: jobs.PrepareSettings) -> None:
    jobs.prepare(settings)
    rules = (settings.shares / "postgres/pg_hba.conf").read_text().splitlines()
    assert rules[0] == "local all postgres peer"
    assert all(" cert " in rule for rule in rules[1:-1])
    assert rules[-1] == "host all all all reject"


def test_the_profile_of_a_client_asks_for_the_scopes_that_were_named(settings: jobs.PrepareSettings) -> None:
    jobs.prepare(settings)
    folder = jobs.client(settings, "case-system", ["exchange.call", "exchange.read"])
    profile = json.loads((folder / "profile.json").read_text())
    assert (profile["client_id"], profile["scopes"]) == ("case-system", ["exchange.call", "exchange.read"])
