"""A node whose attachments lie in an S3-compatible store."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from deploy.local import backup, demo_clients
from deploy.local.node import NodeSettings, running
from deploy.local.problems import NodeProblem
from gateway.client import Client, Profile
from services.messages.__main__ import Settings
from services.messages.blob_bucket import Place
from services.messages.blobs import SEGMENT
from services.runtime.config import ConfigError
from tests import s3


async def test_attachments_go_to_the_bucket_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "s3").mkdir()
    async with s3.running(tmp_path / "s3") as objects:
        bucket = objects.bucket("attachments")
        (tmp_path / "credentials").write_text("\n".join(s3.CREDENTIALS))
        monkeypatch.setenv("SOLMU_ATTACHMENTS", "s3://attachments")
        monkeypatch.setenv("SOLMU_S3_ENDPOINT", objects.endpoint)
        monkeypatch.setenv("SOLMU_S3_CREDENTIALS", str(tmp_path / "credentials"))
        settings = NodeSettings(state=tmp_path / "node", edge_port=0)
        content = os.urandom(SEGMENT).hex().encode()
        async with running(settings) as node:
            await demo_clients.provision(node.state, node=settings.node, edge=node.edge)
            async with Client(Profile.load(node.state.clients / "permits")) as client:
                attachment = await client.upload(content, file_name="a.txt", media_type="text/plain")
                assert await client.download(attachment.name) == content
            assert not any(node.state.attachments.iterdir())
            capsys.readouterr()
            monkeypatch.setenv("SOLMU_STATE", str(settings.state))
            assert await asyncio.to_thread(backup.main, ["save", str(tmp_path / "file")]) == 0
            assert "Attachments are not in it: they lie in s3://attachments" in capsys.readouterr().out
        monkeypatch.setenv("SOLMU_STATE", str(tmp_path / "elsewhere"))
        assert backup.main(["restore", str(tmp_path / "file")]) == 0
        assert "Attachments are not in it: they lie in s3://attachments" in capsys.readouterr().out
        stored = [meta["size"] for meta in bucket._store.list().collect()]
        assert sum(stored) > len(content)
        assert len(stored) == 2


async def test_a_node_whose_bucket_is_not_there_does_not_start_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "s3").mkdir()
    async with s3.running(tmp_path / "s3") as objects:
        (tmp_path / "credentials").write_text(f"anywhere\n{s3.CREDENTIALS[1]}")
        monkeypatch.setenv("SOLMU_ATTACHMENTS", "s3://missing")
        monkeypatch.setenv("SOLMU_S3_ENDPOINT", objects.endpoint)
        monkeypatch.setenv("SOLMU_S3_CREDENTIALS", str(tmp_path / "credentials"))
        with pytest.raises(NodeProblem) as refused:
            async with running(NodeSettings(state=tmp_path / "node", edge_port=0)):
                pass
    assert "there is no bucket missing in the S3 store: make it" in str(refused.value)


def test_a_bucket_needs_a_key():
    given: dict[str, Any] = dict.fromkeys(Settings.__dataclass_fields__) | {"attachments": Place("bucket", "")}
    settings = Settings(**given)
    with pytest.raises(ConfigError, match="SOLMU_S3_CREDENTIALS"):
        settings.store()
