"""The state folder."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local import state as state_module
from deploy.local.problems import NodeProblem, of_os_error
from deploy.local.state import State


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def test_only_its_owner_looks_into_it(state: State) -> None:
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities("solmu", ["messages"])
    for folder in (path for path in state.root.rglob("*") if path.is_dir()):
        assert folder.stat().st_mode & 0o077 == 0, folder
    for secret in (state.root_key, state.party_key, *state.token_keys.iterdir()):
        assert secret.stat().st_mode & 0o777 == 0o600


def test_secrets_are_made_once(state: State) -> None:
    state.prepare()
    state.prepare_secrets()
    before = {path: path.read_bytes() for path in state.secrets.rglob("*") if path.is_file()}
    state.prepare()
    state.prepare_secrets()
    assert {path: path.read_bytes() for path in state.secrets.rglob("*") if path.is_file()} == before
    assert len(before) == 3
    assert len(state.root_key.read_bytes()) == 32


def test_certificates_are_renewed_only_where_due(state: State) -> None:
    state.prepare()
    assert state.prepare_identities("solmu", ["messages", "exchange"])
    assert not state.prepare_identities("solmu", ["messages", "exchange"])
    assert state.prepare_identities("another", ["messages", "exchange"])


def test_the_state_of_a_newer_release_is_left_alone(state: State) -> None:
    state.prepare()
    state.layout_file.write_text("2\n")
    with pytest.raises(NodeProblem, match=r"made by a newer Solmu \(layout 2, this one knows 1\)"):
        state.prepare()
    assert state.layout_file.read_text() == "2\n"


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("a file"), lambda path: (path / "sub").mkdir(parents=True)]
)
def test_what_is_not_a_state_folder_is_left_alone(state: State, make: Callable[[Path], object]) -> None:
    make(state.root)
    with pytest.raises(NodeProblem, match="something else than the state of a node"):
        state.prepare()


def test_a_start_needs_room_on_the_disk(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    state.prepare()
    state.check_space()
    monkeypatch.setattr(state_module, "FREE_BYTES_TO_START", state.free_bytes() * 2)
    with pytest.raises(NodeProblem, match="MB left; a node needs") as caught:
        state.check_space()
    assert "SOLMU_STATE" in caught.value.remedy


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "/somewhere: "), (errno.EIO, "trying: ")],
)
def test_errors_of_the_system_say_what_to_do(number: int, message: str) -> None:
    problem = of_os_error(OSError(number, "said by the system", "/somewhere"), "trying")
    assert message in problem.message
    assert problem.remedy
