"""As whom PostgreSQL runs."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy.local import privileges
from deploy.local.privileges import SELF, Account
from deploy.local.problems import NodeProblem

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="for ordinary users")


def choose(program: Path, data: Path) -> Account:
    return privileges.for_postgres(program, data, death_signal="QUIT")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "postgres"
    folder.mkdir(mode=0o700)
    return folder


@as_user
def test_an_ordinary_user_stays_who_they_are(data: Path) -> None:
    assert choose(Path("/bin/true"), data) == SELF


@as_root
def test_root_becomes_another_where_all_can_be_reached() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        (Path(folder) / "postgres").mkdir(mode=0o700)
        assert choose(Path("/bin/true"), Path(folder) / "postgres").uid not in (None, 0)


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_root_keeps_to_a_namespace_where_nobody_else_can_reach(data: Path) -> None:
    data.parent.chmod(0o700)
    account = choose(Path("/bin/true"), data)
    assert account.uid is None
    done = subprocess.run([*account.prefix, "id", "-u"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(privileges.NAMELESS)


@as_root
def test_the_owner_of_the_data_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    os.chown(data, privileges.NAMELESS, privileges.NAMELESS)
    monkeypatch.setattr(privileges, "_trial", lambda *_: None)
    assert choose(Path("/bin/true"), data).uid == privileges.NAMELESS


@as_root
def test_data_that_root_owns_stays_with_root(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "data").mkdir()
    monkeypatch.setattr(privileges, "_trial", lambda *_: None)
    assert choose(Path("/bin/true"), data) == privileges.namespace("QUIT")


@as_root
def test_a_folder_is_given_away_whole(data: Path) -> None:
    (data / "data").mkdir()
    (data / "data" / "file").touch()
    Account(uid=privileges.NAMELESS, gid=privileges.NAMELESS).own(data)
    assert {path.stat().st_uid for path in (data, *data.rglob("*"))} == {privileges.NAMELESS}


def test_where_nothing_works_each_way_says_why(data: Path) -> None:
    with pytest.raises(NodeProblem, match="no user as whom PostgreSQL could run") as caught:
        choose(Path("/nonexistent/postgres"), data)
    assert "/nonexistent/postgres" in caught.value.log
