"""Ports, and who holds them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import ports
from deploy.local.problems import NodeProblem


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((ports.LOOPBACK, 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_ports_are_remembered_while_they_are_free(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = ports.choose(file, ["a", "b"])
    assert len(set(first.values())) == 2
    assert ports.choose(file, ["a", "b"]) == first
    with socket.socket() as other:
        other.bind((ports.LOOPBACK, first["a"]))
        other.listen()
        second = ports.choose(file, ["a", "b"])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def test_they_are_none_that_the_kernel_gives_to_connections(tmp_path: Path) -> None:
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    chosen = ports.choose(tmp_path / "ports.json", map(str, range(20)))
    assert not [port for port in chosen.values() if lowest <= port <= highest]


@pytest.mark.parametrize("content", ["", "[]", "no json"])
def test_a_spoilt_memory_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert ports.choose(tmp_path / "ports.json", ["a"])["a"] >= ports.LOWEST


def test_the_holder_of_the_public_port_is_named(taken: int) -> None:
    with pytest.raises(NodeProblem, match=rf"port {taken} is taken by .+ \(pid {os.getpid()}\)") as caught:
        ports.check_public(taken)
    assert "SOLMU_EDGE_PORT" in caught.value.remedy


def test_a_free_public_port_is_fine(tmp_path: Path) -> None:
    ports.check_public(ports.choose(tmp_path / "ports.json", ["a"])["a"])
