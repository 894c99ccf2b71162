"""What the processes of a node are told, against what they read."""

import dataclasses
import re
from pathlib import Path

import pytest

from deploy.local import plan, ports, postgres, privileges
from deploy.local.engines import Engine
from deploy.local.plan import Plan
from deploy.local.state import State
from gateway.settings import GatewaySettings
from services.runtime import config, mesh
from services.runtime.config import Address


@pytest.fixture
def settled(tmp_path: Path) -> Plan:
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities("kuopio", plan.INTERNAL_IDENTITIES)
    chosen = ports.choose(state.ports_file, [*plan.PUBLIC_PORTS, *plan.port_names()])
    return Plan(
        state=state,
        node="kuopio",
        ports=chosen,
        postgres=Address(ports.LOOPBACK, chosen[plan.POSTGRES]),
        nats=Address(ports.LOOPBACK, chosen[plan.NATS]),
        postgres_engine=Engine(name="PostgreSQL", program=Path("/bin/postgres"), version="17.10"),
        nats_engine=Engine(name="nats-server", program=Path("/bin/nats-server"), version="2.15"),
        envoy_engine=Engine(name="Envoy", program=Path("/bin/envoy"), version="1.40"),
        account=privileges.SELF,
        admin_socket=state.run / "envoy.sock",
    )


@pytest.mark.parametrize("service", mesh.SERVICES)
def test_a_service_can_read_all_that_every_service_needs(settled: Plan, service: str) -> None:
    settings = config.read(config.ServiceSettings, plan.service_environment(settled, service, service))
    assert settings.node == "kuopio"
    assert settings.listen == Address("127.0.0.1", settled.ports[service])
    assert settings.database == f"postgresql://{service}@127.0.0.1:{settled.ports['postgres']}/{service}"
    assert settings.issuer == f"https://localhost:{settled.ports['edge']}"
    assert settings.certificate.is_file()


def test_settings_of_the_caller_reach_the_services(settled: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLMU_LOG_LEVEL", "debug")
    monkeypatch.setenv("SOLMU_NODE", "not this one")
    environment = plan.service_environment(settled, "messages", "messages")
    assert (environment["SOLMU_LOG_LEVEL"], environment["SOLMU_NODE"]) == ("debug", "kuopio")


def test_the_gateway_gets_the_edges_identities_and_every_upstream(settled: Plan) -> None:
    environment = plan.gateway_environment(settled)
    assert {f"SOLMU_{name.upper()}" for name in mesh.SERVICES} <= environment.keys()
    assert "pki/public/edge/" in environment["SOLMU_EDGE_TLS_KEY"]
    assert "pki/internal/edge/" in environment["SOLMU_EDGE_UPSTREAM_KEY"]
    assert Path(environment["SOLMU_CLIENT_CRL"]).is_file()


def test_every_process_comes_after_what_it_needs_and_the_edge_last(settled: Plan) -> None:
    seen: set[str] = set()
    for process in plan.processes(settled):
        assert set(process.after) <= seen
        seen.add(process.name)
    assert process.name == "envoy"
    assert {"messages", "exchange", "gateway"} <= set(process.after)


def test_a_service_of_two_processes_is_one_to_the_edge(settled: Plan) -> None:
    names = plan.port_names(messages_processes=2)
    two = dataclasses.replace(
        settled, messages_processes=2, ports=ports.choose(settled.state.ports_file, [*plan.PUBLIC_PORTS, *names])
    )
    told = {process.name: process.environment for process in plan.processes(two)}
    first, second = (config.read(config.ServiceSettings, told[name]) for name in ("messages", "messages.2"))
    assert (first.database, first.certificate) == (second.database, second.certificate)
    assert len({first.listen, second.listen, first.metrics_listen, second.metrics_listen}) == 4
    upstreams = config.read(GatewaySettings, told["gateway"]).upstreams
    assert upstreams["messages"].addresses == (first.listen, second.listen)
    assert len(upstreams["exchange"].addresses) == 1


def test_engines_that_are_run_elsewhere_are_not_run_here(settled: Plan) -> None:
    elsewhere = Plan(**(vars(settled) | {"postgres_engine": None, "nats_engine": None}))
    assert not {"postgres", "nats"} & {process.name for process in plan.processes(elsewhere)}


class TestPostgresConfiguration:
    """What PostgreSQL is told."""

    @pytest.mark.parametrize("processes", [4, 7])
    def test_every_process_has_its_connections_and_tools_theirs(self, processes: int) -> None:
        (pool,) = (field.default for field in dataclasses.fields(config.ServiceSettings) if field.name == "pool_size")
        text = postgres.configuration(port=5433, folder=Path("/x"), processes=processes)
        (connections,) = re.findall(r"^max_connections = (\d+)$", text, re.MULTILINE)
        assert pool == postgres.POOL
        assert int(connections) == postgres.POOL * (processes + 1)

    def test_only_certificates_open_it_and_only_ones_own_database(self) -> None:
        assert postgres.host_based_authentication(["messages", "exchange"]) == (
            "hostssl all postgres 127.0.0.1/32 cert map=node\n"
            "hostssl messages messages 127.0.0.1/32 cert map=node\n"
            "hostssl exchange exchange 127.0.0.1/32 cert map=node\n"
            "hostssl replication postgres 127.0.0.1/32 cert map=node\n"
            "host all all all reject\n"
        )

    def test_the_operator_is_the_superuser_and_each_service_itself(self) -> None:
        assert postgres.identity_map(["messages"]) == "node operator postgres\nnode messages messages\n"

    @pytest.mark.parametrize(
        ("gigabytes", "megabytes"),
        [(0.25, 64), (1, 128), (4, 512), (64, 1024)],
        ids=["least", "small", "large", "most"],
    )
    def test_its_cache_is_a_share_of_the_memory_within_bounds(self, gigabytes: float, megabytes: int) -> None:
        buffers = postgres.buffers_for(int(gigabytes * 2**30))
        assert buffers == megabytes
        text = postgres.configuration(port=5433, folder=Path("/x"), buffers=buffers)
        assert f"\nshared_buffers = {megabytes}MB\n" in text

    def test_paths_with_quotes_do_not_break_out(self) -> None:
        text = postgres.configuration(port=5433, folder=Path("/it's/here"))
        assert "hba_file = '/it''s/here/pg_hba.conf'" in text

    @pytest.mark.parametrize(
        "line",
        [
            "listen_addresses = '127.0.0.1'",
            "unix_socket_directories = ''",
            "ssl_min_protocol_version = 'TLSv1.3'",
            "log_min_error_statement = panic",
            "log_error_verbosity = terse",
        ],
    )
    def test_it_keeps_to_itself(self, line: str) -> None:
        assert re.search(f"^{re.escape(line)}$", postgres.configuration(port=5433, folder=Path("/x")), re.MULTILINE)
