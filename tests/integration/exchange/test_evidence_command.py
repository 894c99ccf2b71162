"""`solmu evidence list|get`, on the service and its store, and `verify` on what they saved."""

import argparse
import io
import json
import zipfile
from pathlib import Path

import grpc
import pytest
from solmu.exchange.v1 import evidence_pb2_grpc

from gateway.client import command
from gateway.client.client import Client
from gateway.client.command import evidence as evidence_command
from gateway.client.command.output import Output
from services.exchange import proofs
from services.exchange.evidence import signatures
from services.exchange.journal import Entry
from tests.integration.exchange.test_evidence_keeping import stamp_all, stamper_over
from tests.integration.exchange.test_evidence_services import evidence, journal, keeping  # noqa: F401
from tests.integration.exchange.trusting import Mesh, request


class Served(evidence_pb2_grpc.EvidenceServiceServicer):
    """The servicer as gRPC calls it."""

    def __init__(self, servicer) -> None:
        self._servicer = servicer

    async def GetStatement(self, request, _):
        return await self._servicer.GetStatement(request)

    async def ListStatements(self, request, _):
        return await self._servicer.ListStatements(request)

    async def ExportEvidence(self, request, _):
        async for piece in self._servicer.ExportEvidence(request):
            yield piece


class Direct(Client):
    """A client without an edge in between: for a test of one service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def metadata(self) -> list[tuple[str, str]]:
        return []


@pytest.fixture
async def client(evidence):  # noqa: F811
    server = grpc.aio.server()
    evidence_pb2_grpc.add_EvidenceServiceServicer_to_server(Served(evidence), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Direct(channel)
    await server.stop(None)


def given(*arguments: str) -> argparse.Namespace:
    return command.build_parser().parse_args(["evidence", *arguments])


def verified(folder: Path, mesh: Mesh, capsys, *more: str) -> dict:
    (folder / "authority.der").write_bytes(mesh.trust.authority.der)
    for number, signer in enumerate(mesh.signers.values()):
        (folder / f"signer-{number}.crt").write_bytes(signer.pinned.certificate)
    signers = [each for path in folder.glob("*.crt") for each in ("--signer", str(path))]
    (file,) = folder.glob("*.asice")
    capsys.readouterr()
    arguments = ["verify", str(file), "--trust", str(folder / "authority.der"), *signers, *more]
    status = evidence_command._verify(given(*arguments), Output(as_json=True))
    return {**json.loads(capsys.readouterr().out), "status": status}


async def test_a_container_is_listed_saved_and_verified(database, journal, mesh, client, tmp_path, capsys):  # noqa: F811
    entry = mesh.entry(mesh.signer())
    await journal.append(entry)
    await stamp_all(stamper_over(database, mesh))
    name = f"statements/{entry.statement.sha256.hex()}"
    await evidence_command._list(client, given("list", "-n", "1"), Output(as_json=False))
    shown = capsys.readouterr().out
    assert name in shown
    assert "batched" in shown
    await evidence_command._get(client, given("get", name, "--to", str(tmp_path)), Output(as_json=False))
    found = verified(tmp_path, mesh, capsys)
    assert (found["status"], found["outcome"]) == (0, "HOLDS")


async def test_what_one_signature_covers_with_others_is_saved_with_its_place(
    database,
    journal,  # noqa: F811
    mesh,
    client,
    tmp_path,
    capsys,
):
    signer, statements = mesh.signer(), [request() for _ in range(3)]
    first = mesh.entry(signer, statements[0])
    made = signatures.sign_batch(statements, key=signer.private, pinned=signer.pinned, now=first.signature.signing_time)
    await journal.append(
        *(
            Entry(**{**vars(first), "statement": statement, "signature": proofs.signature_message(signature)})
            for statement, signature in zip(statements, made, strict=True)
        )
    )
    await stamp_all(stamper_over(database, mesh))
    name = f"statements/{statements[1].sha256.hex()}"
    await evidence_command._get(client, given("get", name, "--to", str(tmp_path)), Output(as_json=True))
    assert verified(tmp_path, mesh, capsys)["status"] == 4
    (text,), (place,) = tmp_path.glob("*.txt"), tmp_path.glob("*.json")
    beside = ("--statement", str(text), "--place", str(place))
    found = verified(tmp_path, mesh, capsys, *beside)
    assert (found["status"], found["statement"]["id"]) == (0, statements[1].lines["id"])


def repacked(content: bytes, change) -> bytes:
    """A container with other files in it, packed as its own are."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for name, data in files.items():
            new.writestr(name, data, zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _extra(files):
    files["more.txt"] = b"more"


def _missing(files):
    del files["statement.txt"]


def _renamed(files):
    files["Statement.txt"] = files.pop("statement.txt")


def _nested(files):
    files["more/statement.txt"] = files["statement.txt"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_extra, "CONTAINER_FILE_EXTRA"),
        (_missing, "CONTAINER_FILE_MISSING"),
        (_renamed, "CONTAINER_FILE_RENAMED"),
        (_nested, "CONTAINER_NESTED"),
        (None, "CONTAINER_NESTED"),
    ],
    ids=["extra", "missing", "renamed", "in a folder", "a container in it"],
)
async def test_a_container_with_other_files_is_refused_by_the_command(
    database,
    journal,  # noqa: F811
    mesh,
    client,
    tmp_path,
    capsys,
    change,
    reason,
):
    entry = mesh.entry(mesh.signer())
    await journal.append(entry)
    await stamp_all(stamper_over(database, mesh))
    name = f"statements/{entry.statement.sha256.hex()}"
    await evidence_command._get(client, given("get", name, "--to", str(tmp_path)), Output(as_json=True))
    (file,) = tmp_path.glob("*.asice")
    whole = file.read_bytes()
    assert verified(tmp_path, mesh, capsys)["status"] == 0
    file.write_bytes(repacked(whole, lambda _: None))
    assert verified(tmp_path, mesh, capsys)["status"] == 0, "packed anew it is the same"

    def enclose(files):
        record = next(name for name in files if name.endswith(".ers"))
        files[record] = whole

    file.write_bytes(repacked(whole, change or enclose))
    found = verified(tmp_path, mesh, capsys)
    assert (found["status"], found["outcome"]) == (1, "FAILS")
    assert [each["reason"] for each in found["findings"] if each["outcome"] == "FAILS"] == [reason]
