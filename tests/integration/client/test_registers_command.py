"""`solmu registers` as typed, against a node."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from solmu.authorisations.v1.registers_pb2 import CreateRegisterRequest, GetRegisterRequest, Register
from solmu.authorisations.v1.registers_pb2_grpc import RegisterServiceStub

from deploy.local.node import Node
from gateway.client import Client
from tests.integration.client.test_command import Done, solmu
from tests.integration.node.people import client_of, organisation


def custody(number: int) -> dict[str, Any]:
    """A record of a parent and a child."""
    parent, child = (f"persons/{letter * 25}{'abcdefgh'[number]}" for letter in "pc")
    told = {
        "custodian": {"name": parent},
        "child": {"name": child},
        "childBirthDay": "2015-05-05",
        "terms": "TERMS_ALONE",
    }
    return {"recordId": f"custody {number}", "custody": told}


@dataclass
class Keeper:
    """The keeper of a register, and a file of what it says."""

    client: Client
    profile: Path
    register: str
    file: Path

    async def imports(self, *lines: str, options: tuple[str, ...] = ()) -> Done:
        self.file.write_text("\n".join(lines), encoding="utf-8")
        return await solmu(
            "--profile", self.profile, "--json", "registers", "import", self.register, self.file, *options
        )

    async def read(self) -> Register:
        return await self.client.call(
            self.client.stub(RegisterServiceStub).GetRegister, GetRegisterRequest(name=self.register)
        )


@pytest.fixture
async def keeper(node: Node, tmp_path: Path) -> AsyncIterator[Keeper]:
    async with client_of(node, organisation(4455667), "registers.manage", "registers.import") as client:
        asked = CreateRegisterRequest(
            register_id=f"register-{uuid.uuid4().hex[:8]}",
            register=Register(
                display_name="Register", importer=f"clients/{client.profile.client_id}", contents=["custody"]
            ),
        )
        made = await client.call(client.stub(RegisterServiceStub).CreateRegister, asked)
        yield Keeper(client, node.state.clients / client.profile.client_id, made.name, tmp_path / "records")


async def test_a_file_is_taken_in_whole_and_a_delta_builds_on_it(keeper: Keeper) -> None:
    done = await keeper.imports(*(json.dumps(custody(number)) for number in range(3)), "")
    assert done.status == 0, done.error
    first = json.loads(done.out)
    assert (first["recordCount"], first["addedCount"], first["mode"]) == ("3", "3", "MODE_SNAPSHOT")
    removed = json.dumps({"recordId": "custody 1", "removed": True})
    done = await keeper.imports(removed, options=("--builds-on", first["name"]))
    assert done.status == 0, done.error
    assert json.loads(done.out)["endedCount"] == "1"
    late = await keeper.imports(removed, options=("--builds-on", first["name"]))
    assert (late.status, "IMPORT_OUT_OF_ORDER" in late.error) == (1, True)


@pytest.mark.parametrize("last", ['{"recordId": "custody 2", "custody": {"custo', '{"recordId": "x", "unheardOf": 1}'])
async def test_a_file_with_a_broken_last_line_changes_nothing(keeper: Keeper, last: str) -> None:
    done = await keeper.imports(*(json.dumps(custody(number)) for number in range(2)), last)
    assert (done.status, "line 3" in done.error) == (2, True)
    assert "custo" not in done.error, "what stands in the file is not repeated"
    assert not (await keeper.read()).latest_import


async def test_a_record_that_the_register_may_not_hold_changes_nothing(keeper: Keeper) -> None:
    wrong = custody(1) | {"recordId": "custody 0"}
    done = await keeper.imports(json.dumps(custody(0)), json.dumps(wrong))
    assert (done.status, "IMPORT_INVALID" in done.error, "records[1]" in done.error) == (1, True, True)
    assert not (await keeper.read()).latest_import
