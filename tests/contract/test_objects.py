"""What every S3 server must do for objects that are streamed: read in part, written in parts, left without a trace."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from flashbulb_server.errors import FileNotFound, InvalidRequest, StoreUnavailable
from flashbulb_server.storage import objects as objects_module
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.storage.objects import Objects, Part
from flashbulb_server.storage.sweeper import Sweeper
from tests.contract.test_file_store import MIB, chunks_of, settings_of, stored_keys, upload

pytestmark = pytest.mark.integration


@pytest.fixture
async def objects(files: FileStore) -> AsyncIterator[Objects]:
    async with Objects(files) as found:
        yield found


async def all_of(objects: Objects, key: str, **conditions: str) -> tuple[int, dict[str, str], bytes]:
    async with objects.read(key, conditions=conditions) as found:
        return found.status, dict(found.headers), b"".join([chunk async for chunk in found.chunks])


async def begun(objects: Objects, owner: str, file_name: str = "a.bin") -> tuple[str, str]:
    key = upload(owner, file_name=file_name)
    return key, await objects.begin(key, content_type="image/png", file_name=file_name)


async def test_an_object_is_made_of_its_parts_in_order(files: FileStore, objects: Objects, owner: str) -> None:
    key, upload_id = await begun(objects, owner, "ein Bild ä.png")
    second = await objects.put_part(key, upload_id, 2, chunks_of(1 * MIB), 1 * MIB)
    first = await objects.put_part(key, upload_id, 1, chunks_of(6 * MIB), 6 * MIB)
    assert await files.stat(key) is None, "it does not exist until it is complete"
    await objects.complete(key, upload_id, [second, first])
    await objects.complete(key, upload_id, [second, first])  # a client that heard nothing of the first try
    status, headers, data = await all_of(objects, key)
    assert status == 200 and headers["content-type"] == "image/png"
    assert "filename*=UTF-8''ein%20Bild%20%C3%A4.png" in headers["content-disposition"]
    assert data == b"".join([chunk async for chunk in chunks_of(6 * MIB)]) + b"".join(
        [chunk async for chunk in chunks_of(1 * MIB)]
    )


async def test_a_part_that_comes_again_takes_the_place_of_the_first(objects: Objects, owner: str) -> None:
    key, upload_id = await begun(objects, owner)
    await objects.put_part(key, upload_id, 1, chunks_of(256), 256)
    part = await objects.put_part(key, upload_id, 1, chunks_of(1024, 512), 1024)
    await objects.complete(key, upload_id, [part])
    assert len((await all_of(objects, key))[2]) == 1024


@pytest.mark.parametrize(("come", "said"), [(512, 1024), (1024, 512)])
async def test_a_part_of_another_size_than_was_said_is_refused(
    objects: Objects, owner: str, come: int, said: int
) -> None:
    key, upload_id = await begun(objects, owner)
    with pytest.raises(InvalidRequest, match="bytes"):
        await objects.put_part(key, upload_id, 1, chunks_of(come, 256), said)
    with pytest.raises((InvalidRequest, FileNotFound)):  # SeaweedFS knows no upload without a part
        await objects.complete(key, upload_id, [Part(1, '"d41d8cd98f00b204e9800998ecf8427e"')])


async def test_a_part_that_falls_silent_is_given_up(objects: Objects, owner: str, monkeypatch) -> None:
    monkeypatch.setattr(objects_module, "STALL_SECONDS", 0.2)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    key, upload_id = await begun(objects, owner)
    with pytest.raises(InvalidRequest, match="none came for 0.2 s"):
        await objects.put_part(key, upload_id, 1, stuck(), 10)


async def test_an_upload_that_was_given_up_is_gone(objects: Objects, owner: str) -> None:
    key, upload_id = await begun(objects, owner)
    part = await objects.put_part(key, upload_id, 1, chunks_of(256), 256)
    await objects.abort(key, upload_id)
    await objects.abort(key, upload_id)
    with pytest.raises(FileNotFound):
        await objects.complete(key, upload_id, [part])


async def test_unfinished_uploads_are_swept_when_their_time_is_over(server, owner: str) -> None:
    now = time.time()
    clock = [now]
    bucket = f"sweep-{uuid.uuid4().hex[:8]}"
    async with (
        FileStore(settings_of(server, bucket=bucket), clock=lambda: clock[0]) as store,
        Objects(store) as objects,
    ):
        key, upload_id = await begun(objects, owner)
        part = await objects.put_part(key, upload_id, 1, chunks_of(256), 256)
        sweeper = Sweeper(store, keep_seconds=60, every_seconds=60)
        clock[0] = now + 86_000
        await sweeper.sweep()
        await objects.put_part(key, upload_id, 2, chunks_of(256), 256)
        clock[0] = now + 86_500
        await sweeper.sweep()
        with pytest.raises(FileNotFound):
            await objects.complete(key, upload_id, [part])
    assert stored_keys(server, owner, bucket) == []


@pytest.mark.parametrize(
    ("wanted", "expected"), [("bytes=2-4", b"\x02\x03\x04"), ("bytes=-2", b"\xfe\xff"), ("bytes=254-", b"\xfe\xff")]
)
async def test_a_range_is_read(objects: Objects, files: FileStore, owner: str, wanted: str, expected: bytes) -> None:
    key = upload(owner)
    await files.put(key, bytes(range(256)), content_type="image/png", expire_time=2_000_000_000)
    status, headers, data = await all_of(objects, key, Range=wanted)
    assert (status, data) == (206, expected)
    assert headers["content-range"].endswith("/256")


async def test_a_range_beyond_the_end_and_a_version_that_is_known(
    objects: Objects, files: FileStore, owner: str
) -> None:
    key = upload(owner)
    await files.put(key, b"data", content_type="image/png", expire_time=2_000_000_000)
    assert (await all_of(objects, key, Range="bytes=100-"))[0] == 416
    _, headers, _ = await all_of(objects, key)
    assert (await all_of(objects, key, **{"If-None-Match": headers["etag"]}))[0] == 304


async def test_only_what_exists_is_read(objects: Objects, owner: str) -> None:
    with pytest.raises(FileNotFound):
        await all_of(objects, upload(owner))


async def test_a_store_that_is_away_is_unavailable(own_server, owner: str) -> None:
    async with FileStore(settings_of(own_server)) as store, Objects(store) as objects:
        key, upload_id = await begun(objects, owner)
        own_server.kill()
        with pytest.raises(StoreUnavailable):
            await all_of(objects, key)
        with pytest.raises(StoreUnavailable):
            await objects.put_part(key, upload_id, 1, chunks_of(256), 256)
