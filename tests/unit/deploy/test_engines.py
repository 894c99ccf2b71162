"""Where engines come from, and what is said of those that will not do."""

import importlib
from pathlib import Path

import pytest

from deploy.local import engines
from deploy.local.problems import NodeProblem


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_the_wheels_hold_engines_that_will_do() -> None:
    for engine, oldest in (
        (await engines.postgres(None), engines.POSTGRES.oldest),
        (await engines.nats(None), engines.NATS.oldest),
        (await engines.envoy(None), engines.ENVOY.oldest),
    ):
        assert tuple(map(int, engine.version.split("."))) >= oldest
        assert engine.program.is_file()


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("nats-server: v2.12.0", "2.12"),
        ("nats-server: v2.15.1-RC.1", "2.15"),
    ],
)
async def test_ones_own_program_is_taken(tmp_path: Path, printed: str, version: str) -> None:
    own = program(tmp_path, "nats-server", f"echo '{printed}'")
    engine = await engines.nats(own)
    assert (engine.program, engine.version) == (own, version)


async def test_an_old_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    old = program(tmp_path, "nats-server", "echo 'nats-server: v2.11.9'")
    with pytest.raises(NodeProblem, match=r"2\.11 .* too old: 2\.12 or newer, because .* atomic batches") as caught:
        await engines.nats(old)
    assert "SOLMU_NATS_SERVER" in caught.value.remedy


async def test_versions_are_compared_as_numbers(tmp_path: Path) -> None:
    old = program(tmp_path, "envoy", "echo 'envoy  version: 0123abcd/1.9.1/Clean/RELEASE/BoringSSL'")
    with pytest.raises(NodeProblem, match="too old"):
        await engines.envoy(old)


async def test_a_postgresql_without_tls_is_refused(tmp_path: Path) -> None:
    program(tmp_path, "initdb", "exit 0")
    program(tmp_path, "postgres", '[ "$1" = --version ] && echo "postgres (PostgreSQL) 17.2" || echo ""')
    with pytest.raises(NodeProblem, match="without TLS"):
        await engines.postgres(tmp_path)


async def test_a_beta_of_postgresql_has_a_version(tmp_path: Path) -> None:
    program(tmp_path, "initdb", "exit 0")
    program(tmp_path, "postgres", '[ "$1" = --version ] && echo "postgres (PostgreSQL) 18beta1" || echo OpenSSL')
    assert (await engines.postgres(tmp_path)).version == "18.0"


async def test_a_folder_without_initdb_is_refused(tmp_path: Path) -> None:
    program(tmp_path, "postgres", 'echo "postgres (PostgreSQL) 17.2"')
    with pytest.raises(NodeProblem, match="has no initdb"):
        await engines.postgres(tmp_path)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo something else", "does not tell its version but 'something else'"),
        ("echo broken >&2; exit 127", "failed"),
    ],
)
async def test_what_is_no_engine_is_refused(tmp_path: Path, script: str, reason: str) -> None:
    with pytest.raises(NodeProblem, match=reason):
        await engines.envoy(program(tmp_path, "envoy", script))


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeProblem, match="nowhere is not a program"):
        await engines.envoy(tmp_path / "nowhere")


async def test_a_program_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "VERSION_WITHIN", 0.2)
    with pytest.raises(NodeProblem, match="says nothing"):
        await engines.envoy(program(tmp_path, "envoy", "exec sleep 30"))


async def test_a_missing_wheel_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(NodeProblem, match="Envoy is not installed") as caught:
        await engines.envoy(None)
    assert "make setup" in caught.value.remedy
