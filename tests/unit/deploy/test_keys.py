"""The page of keys names every key that there is: settings, files, columns, uses, roots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from solmu.exchange.v1 import directory_pb2

from deploy import config
from deploy.containers import shares
from deploy.local.plan import SOURCE
from deploy.local.state import State
from services.runtime.keys import __main__ as command
from services.runtime.keys import files, kms_root, setting, token_root

PAGE = (SOURCE / "deploy/keys.md").read_text()

SECRET_NAME = re.compile(r"_(KEY|KEYS|PIN|PASSWORD|TOKEN|CREDENTIALS|SECRET)$|IDENTITY_PROVIDERS$")


def settings() -> Iterator[str]:
    """Settings that name a key or a secret."""
    for process in config.PROCESSES:
        for name, field in config.fields(process).items():
            reads_key = field.metadata["parse"] in (files.read, setting.root)
            if reads_key or SECRET_NAME.search(name):
                yield name


@pytest.mark.parametrize("name", sorted(set(settings())))
def test_every_setting_that_names_a_key_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_secret_file_of_a_state_folder_is_on_the_page(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities("solmu", ["exchange"])
    secret = {path.relative_to(state.root) for path in state.root.rglob("*") if path.suffix in (".key", ".pem")}
    for path in secret - {path for path in secret if path.name in ("certificate.pem", "ca.pem", "crl.pem", "key.pem")}:
        named = str(path.parent) + "/" if path.parent.name == "token-keys" else path.name
        assert named in PAGE, path


def test_every_column_of_a_wrapped_key_is_on_the_page() -> None:
    columns = {
        (column, migration.parent.parent.name)
        for migration in SOURCE.glob("services/*/migrations/*.sql")
        for column in re.findall(r"\b(\w+_key)\s+bytea", migration.read_text())
        if column not in ("public_key", "private_key")
    }
    assert {column for column, _ in columns} == {"data_key", "blob_key", "content_key"}
    for column, _ in columns:
        assert f"`{column}`" in PAGE


def test_every_table_with_wrapped_keys_is_on_the_page() -> None:
    tables: set[str] = set()
    for migration in SOURCE.glob("services/*/migrations/*.sql"):
        for table, body in re.findall(r"create table (\w+) \((.*?)\n\);", migration.read_text(), re.DOTALL):
            if re.search(r"\b(data_key|content_key|wrapped)\s+bytea", body):
                tables.add(table)
    assert {"mailbox", "envelope_content", "organisation_key", "service_key_wrapping"} <= tables
    for table in tables:
        assert re.search(rf"\b{table.replace('_', '[_ ]')}", PAGE), table


@pytest.mark.parametrize(
    "use", [value.name for value in directory_pb2.DESCRIPTOR.enum_types_by_name["KeyUse"].values if value.number]
)
def test_every_use_of_an_organisations_key_is_on_the_page(use: str) -> None:
    assert f"`{use}`" in PAGE


def test_the_page_names_each_kind_of_root_as_the_setting_reads_it() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("### The root")[2].partition("## Signing")[0], re.MULTILINE)
    assert [row.partition(":")[0] for row in rows[1:]] == ["/run/solmu/root.key", token_root.SCHEME, kms_root.SCHEME]


def test_the_page_names_every_command() -> None:
    for line in (command.__doc__ or "").split("\n\n")[1].splitlines():
        assert f"`{line.split()[0]}" in PAGE


def test_a_process_that_has_no_use_for_a_key_is_not_given_it(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_secrets()
    state.declared_clients.write_text("{}")
    state.prepare_identities("solmu", (*shares.PROCESSES, "edge"))
    holders = {
        name: {process for process in shares.PROCESSES if name in shares.contents(process, node="solmu", state=state)}
        for name in ("root.key", "party.key")
    }
    assert holders == {
        "root.key": {"messages", "exchange", "authorisations"},
        "party.key": {"messages", "authorisations"},
    }
