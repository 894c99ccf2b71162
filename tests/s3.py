"""An S3-compatible store on this machine for as long as a test needs it: SeaweedFS, from its wheel."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import aiohttp

from deploy.local import ports
from services.messages.blob_bucket import Bucket, Place

CREDENTIALS = ("solmu", "of-no-use-elsewhere")
LEAVE = {
    "solmu": ["Admin"],
    "reader": ["Read", "List"],
    "confined": ["Read:attachments", "List:attachments", "Write:attachments"],
    "unlisted": ["Read:attachments", "Write:attachments"],
    "anywhere": ["Read", "List", "Write"],
}
"""What the store lets the holder of each key do, all of which have the same secret; the first makes buckets."""
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


@dataclass(frozen=True)
class S3:
    """A store that runs."""

    endpoint: str

    def bucket(self, name: str, prefix: str = "") -> Bucket:
        """A bucket, which is made by the first object that is put into it."""
        made = Bucket(Place(name, prefix), region="us-east-1", credentials=CREDENTIALS, endpoint=self.endpoint)
        made.write(UUID(int=0), 0, b"")
        made.delete(UUID(int=0))
        return made


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[S3]:
    """Starts one on free ports of the loopback interface, and ends it."""
    _, secret = CREDENTIALS
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for key, actions in LEAVE.items()
    ]
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": identities}))
    others = [f"-{name}={ports.free()}" for name in PORTS]
    port = ports.free()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("weed")),
            *("-logtostderr", "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *others),
            *(f"-s3.port={port}", f"-s3.port.grpc={ports.free()}", f"-s3.config={settings}", "-s3.iam=false"),
            *("-volume.max=10", "-master.volumeSizeLimitMB=64"),
            stdout=log,
            stderr=log,
        )
    try:
        await _ready(f"http://127.0.0.1:{port}/healthz", process, folder / "log")
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        process.kill()  # it would take its time otherwise
        await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        while process.returncode is None:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"the store has ended: {log}")
