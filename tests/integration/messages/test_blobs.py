"""Blobs in a folder and in a bucket of a real S3-compatible store: the same behaviour, whatever is underneath."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tracemalloc
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.messages.blob_bucket import Bucket, Place, credentials, place
from services.messages.blob_folder import Folder
from services.messages.blobs import OVERHEAD, SEGMENT, Blobs, Store, Writer
from services.runtime.config import ConfigError
from services.runtime.errors import Internal, Unavailable
from services.runtime.sealing import Sealer
from tests import s3
from tests.s3 import S3

CONTENT = os.urandom(2 * SEGMENT + 12_345)
SEALER = Sealer(bytes(32))


@pytest.fixture(scope="module")
async def objects(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3]:
    async with s3.running(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture(scope="module", params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    if request.param == "folder":
        return Folder(tmp_path_factory.mktemp("blobs"))
    objects: S3 = request.getfixturevalue("objects")
    return objects.bucket("attachments", "city/north")


async def written(store: Store, content: bytes = CONTENT, *, size: int = 200_000) -> uuid.UUID:
    blob = uuid.uuid4()
    async with Blobs(store).writer(blob, SEALER) as writer:
        for start in range(0, len(content), size):
            await writer.append(content[start : start + size])
        await writer.finish()
    assert (writer.received, writer.digest) == (len(content), hashlib.sha256(content).hexdigest())
    return blob


async def read(store: Store, blob: uuid.UUID, *, offset: int = 0, size: int = len(CONTENT)) -> bytes:
    return b"".join([piece async for piece in Blobs(store).read(blob, SEALER, offset=offset, size=size)])


async def test_what_is_written_is_read_from_any_place(store: Store):
    blob = await written(store)
    for offset in (0, 1, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 1, len(CONTENT)):
        assert await read(store, blob, offset=offset) == CONTENT[offset:]
    with Blobs(store).opened(blob, SEALER, size=len(CONTENT)) as file:
        file.seek(-20, os.SEEK_END)
        assert file.read() == CONTENT[-20:]
        file.seek(SEGMENT - 3)
        assert file.read(6) == CONTENT[SEGMENT - 3 : SEGMENT + 3]
    assert store.sizes(blob) == [SEGMENT + OVERHEAD, SEGMENT + OVERHEAD, 12_345 + OVERHEAD]


@pytest.mark.parametrize("size", [1, SEGMENT - 1, SEGMENT, SEGMENT + 1])
async def test_a_blob_may_end_anywhere(store: Store, size: int):
    blob = await written(store, CONTENT[:size])
    assert await read(store, blob, size=size) == CONTENT[:size]
    assert await Blobs(store).size(blob) == size


async def test_writing_goes_on_behind_what_has_come(store: Store):
    blob, blobs = uuid.uuid4(), Blobs(store)
    broken = (100, SEGMENT + 7, SEGMENT + 8, 2 * SEGMENT)
    start = 0
    for end in broken:
        with contextlib.suppress(ConnectionResetError):
            async with blobs.writer(blob, SEALER) as writer:
                assert writer.kept == writer.received == start
                await writer.append(CONTENT[start:end])
                raise ConnectionResetError
        assert await blobs.size(blob) == end
        start = end
    async with blobs.writer(blob, SEALER) as writer:
        await writer.append(CONTENT[start:])
        await writer.finish()
    assert writer.digest == hashlib.sha256(CONTENT).hexdigest()
    assert await read(store, blob) == CONTENT


async def test_the_death_of_the_process_leaves_whole_segments(store: Store):
    blob, blobs = uuid.uuid4(), Blobs(store)
    writer = Writer(store, blob, SEALER, run=asyncio.to_thread)
    await writer.append(CONTENT[: SEGMENT + 5])
    assert (writer.received, writer.kept) == (SEGMENT + 5, SEGMENT)
    assert await blobs.size(blob) == SEGMENT


async def test_what_is_thrown_away_leaves_nothing(store: Store):
    blobs = Blobs(store)
    with contextlib.suppress(ConnectionResetError):
        async with blobs.writer(blob := uuid.uuid4(), SEALER) as writer:
            await writer.append(CONTENT)
            await writer.discard()
            raise ConnectionResetError
    assert await blobs.size(blob) == 0
    gone = await written(store)
    await blobs.delete(gone)
    await blobs.delete(gone)
    assert store.sizes(gone) == []
    with pytest.raises(Internal):
        await read(store, gone)


async def test_segments_open_in_their_place_and_as_they_were_only(store: Store):
    blob, other = await written(store), await written(store)
    first, second = store.read(blob, 0), store.read(blob, 1)
    assert CONTENT[:64] not in first
    for number, segment in (
        (0, second),
        (1, first),
        (0, store.read(other, 0)),
        (1, second[:-1] + bytes([second[-1] ^ 1])),
        (0, second[:10]),
    ):
        good = store.read(blob, number)
        store.write(blob, number, segment)
        with pytest.raises(Internal):
            await read(store, blob)
        store.write(blob, number, good)
    assert await read(store, blob) == CONTENT


async def test_a_blob_that_lost_its_end_is_not_read_as_whole(store: Store):
    blob = await written(store)
    sealed = SEALER.seal(CONTENT[2 * SEGMENT : -1], context=f"attachments/{blob}/2")
    store.write(blob, 2, sealed)
    with pytest.raises(Internal):
        await read(store, blob)


async def test_memory_does_not_grow_with_the_blob(store: Store):
    async def peak(segments: int) -> int:
        tracemalloc.start()
        try:
            async with Blobs(store).writer(blob := uuid.uuid4(), SEALER) as writer:
                for _ in range(segments * 16):
                    await writer.append(CONTENT[: SEGMENT // 16])
                await writer.finish()
            async for _ in Blobs(store).read(blob, SEALER, offset=0, size=segments * SEGMENT):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert await peak(24) < 8 * SEGMENT


def test_files_are_their_owners_alone(tmp_path: Path):
    Folder(tmp_path).write(uuid.uuid4(), 0, b"sealed")
    (file,) = tmp_path.glob("*/*")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_segment_that_was_not_written_whole_is_none(tmp_path: Path):
    blob = uuid.uuid4()
    Folder(tmp_path).write(blob, 0, b"sealed")
    (file,) = tmp_path.glob("*/*")
    file.with_name(file.name.replace("00000", "00001")).with_suffix(".part").write_bytes(b"sea")
    assert Folder(tmp_path).sizes(blob) == [6]
    Folder(tmp_path).delete(blob)
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("defect", ["secret", "away"])
async def test_a_store_that_refuses_or_is_away_is_unavailable(
    objects: S3, defect: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.messages.blob_bucket.RETRIES", 0)
    endpoint = objects.endpoint if defect == "secret" else "http://127.0.0.1:9"
    wrong = Bucket(Place("attachments", ""), region="us-east-1", credentials=("solmu", "no"), endpoint=endpoint)
    for attempt in (
        lambda: wrong.write(uuid.uuid4(), 0, b"x"),
        lambda: wrong.read(uuid.uuid4(), 0),
        lambda: wrong.sizes(uuid.uuid4()),
        lambda: wrong.delete(uuid.uuid4()),
    ):
        with pytest.raises(Unavailable) as refused:
            attempt()
        assert refused.value.reason == "UNAVAILABLE"
    assert "127.0.0.1" not in caplog.text


@pytest.mark.parametrize(
    ("key", "bucket", "told"),
    [
        ("reader", "attachments", "may not write in the bucket attachments"),
        ("unlisted", "attachments", "may not list in the bucket attachments"),
        ("confined", "another", "may not list in the bucket another"),
        ("nobody", "attachments", "may not list in the bucket attachments"),
        ("anywhere", "missing", "there is no bucket missing"),
    ],
)
def test_a_bucket_that_does_not_do_what_is_asked_of_it_is_refused_at_the_start(
    objects: S3, key: str, bucket: str, told: str
):
    objects.bucket("attachments")
    tried = Bucket(
        Place(bucket, ""), region="us-east-1", credentials=(key, s3.CREDENTIALS[1]), endpoint=objects.endpoint
    )
    with pytest.raises(ConfigError, match=told) as refused:
        tried.check()
    assert s3.CREDENTIALS[1] not in str(refused.value)


def test_a_store_that_is_not_there_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.messages.blob_bucket.RETRIES", 0)
    away = Bucket(Place("b", ""), region="us-east-1", credentials=s3.CREDENTIALS, endpoint="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"does not answer when asked to list.*SOLMU_S3_ENDPOINT"):
        away.check()


def test_a_bucket_is_as_it_was_after_it_was_tried(objects: S3):
    bucket = objects.bucket("attachments", "tried")
    before = bucket._store.list().collect()
    bucket.check()
    assert bucket._store.list().collect() == before


def test_the_settings_of_a_bucket_are_read(tmp_path: Path):
    assert place("s3://bucket") == Place("bucket", "")
    assert place("s3://bucket/a/b/") == Place("bucket", "a/b")
    for wrong in ("s3://", "https://bucket", "s3://bucket?x=1"):
        with pytest.raises(ValueError, match="is not s3"):
            place(wrong)
    file = tmp_path / "credentials"
    file.write_text("key\nsecret\n")
    assert credentials(str(file)) == ("key", "secret")
    file.write_text("key\n")
    with pytest.raises(ValueError, match="two lines"):
        credentials(str(file))
