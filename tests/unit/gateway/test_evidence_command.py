"""`solmu evidence verify` as typed: exit status, words for people, JSON for programs."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.client import command
from services.exchange.evidence import container
from services.exchange.evidence.statements import Kind
from tests.unit.exchange.containers import MESH, batch, recorded, signed, whole
from tests.unit.exchange.samples import statement


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "authority.pem").write_bytes(MESH.authority.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "city.der").write_bytes(MESH.member.der)
    (tmp_path / "one.asice").write_bytes(whole())
    return tmp_path


def verify(folder: Path, *more: str | Path, trusted: bool = True, as_json: bool = False) -> int:
    anchors = ["--trust", str(folder / "authorities"), "--signer", str(folder / "city.der")] if trusted else []
    return command.run([*(["--json"] if as_json else []), "evidence", "verify", *map(str, more), *anchors])


def test_a_proven_container_ends_with_0_and_says_so(folder, capsys) -> None:
    assert verify(folder, folder / "one.asice") == 0
    said = capsys.readouterr().out
    assert "one.asice: proven" in said
    assert "issued by" in said
    assert "it existed at 2026-11-21 06:30:00 UTC" in said


def test_what_is_unknown_ends_with_4_and_says_what_it_takes(folder, capsys) -> None:
    assert verify(folder, folder / "one.asice", trusted=False) == 4
    assert "give the authorities that you trust" in capsys.readouterr().out


def test_what_does_not_hold_ends_with_1_and_its_reason(folder, capsys) -> None:
    (folder / "one.asice").write_bytes((folder / "one.asice").read_bytes()[:-1])
    assert verify(folder, folder / "one.asice") == 1
    assert "CONTAINER_MALFORMED" in capsys.readouterr().out


def test_programs_get_json(folder, capsys) -> None:
    assert verify(folder, folder / "one.asice", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "HOLDS"
    assert found["provenTime"] == "2026-11-21T06:30:00+00:00"
    assert found["statement"]["kind"] == "request"
    assert {"step": "SIGNER", "outcome": "HOLDS"}.items() <= found["findings"][4].items()


def test_a_body_at_hand_is_held_against_the_statement(folder, capsys) -> None:
    (folder / "body").write_bytes(b"content")
    sample = statement(body_sha256=hashlib.sha256(b"content").hexdigest(), body_bytes="7")
    (folder / "two.asice").write_bytes(whole(sample))
    assert verify(folder, folder / "two.asice", "--body", folder / "body") == 0
    (folder / "body").write_bytes(b"another")
    assert verify(folder, folder / "two.asice", "--body", folder / "body") == 1
    assert "BODY_DIGEST_MISMATCH" in capsys.readouterr().out


def test_request_and_answer_are_held_together(folder, capsys) -> None:
    answer = statement(Kind.RESPONSE, answers=statement().sha256.hex())
    (folder / "two.asice").write_bytes(whole(answer))
    assert verify(folder, folder / "one.asice", folder / "two.asice") == 0
    assert "it answers the request" in capsys.readouterr().out


def test_a_batch_is_proven_with_what_lies_beside_it(folder) -> None:
    samples = [statement(message_id=str(number)) for number in range(3)]
    held, signature = batch(samples)[1]
    (folder / "batch.asice").write_bytes(container.write(recorded(held)[0]))
    (folder / "statement.txt").write_bytes(samples[1].content)
    place = signature.batch
    assert place is not None
    path = [base64.b64encode(node).decode() for node in place.path]
    (folder / "place.json").write_text(json.dumps({"count": place.count, "index": place.index, "path": path}))
    assert verify(folder, folder / "batch.asice") == 4
    beside = ("--statement", folder / "statement.txt", "--place", folder / "place.json")
    assert verify(folder, folder / "batch.asice", *beside) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trust", "missing"], "missing: No such file"),
        (["--trust", "one.asice"], "holds no certificate"),
        (["--statement", "city.der"], "go together"),
        (["--statement", "city.der", "--place", "city.der"], "does not say a place"),
        (["one.asice", "--body", "city.der"], "one container only"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(folder, capsys, monkeypatch, more, said) -> None:
    monkeypatch.chdir(folder)
    assert command.run(["evidence", "verify", "one.asice", *more]) == 2
    assert said in capsys.readouterr().err
    assert command.run(["evidence", "verify", "missing.asice"]) == 2


def test_what_is_not_proven_stays_so_beside_what_is(folder) -> None:
    (folder / "two.asice").write_bytes(container.write(signed()))
    assert verify(folder, folder / "one.asice", folder / "two.asice") == 4
