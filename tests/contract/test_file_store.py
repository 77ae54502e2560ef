"""What every S3 server must do for the file store: SeaweedFS always, MinIO where MINIO_BIN names its binary."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from minio import Minio

from flashbulb_server.config import FilesSettings
from flashbulb_server.core.files import PICTURE_GRACE, output_key, upload_key
from flashbulb_server.errors import FileNotFound, InvalidRequest, StoreUnavailable
from flashbulb_server.storage.connection import StoreRefused
from flashbulb_server.storage.file_store import MAX_LINK_SECONDS, FileStore
from flashbulb_server.storage.sweeper import Sweeper

pytestmark = pytest.mark.integration

MIB = 1 << 20


def settings_of(server, **changes) -> FilesSettings:
    given = {
        "endpoint": server.endpoint,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "bucket": "file-store",
    }
    return FilesSettings(**(given | changes))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def request_id_at(seconds: float) -> str:
    """An id made at a given time. (`new_request_id` never goes back, so one from the future would age all later ones of this process.)"""
    millis = f"{int(seconds * 1000):012x}"
    return f"{millis[:8]}-{millis[8:]}-7000-8000-{uuid.uuid4().hex[:12]}"


def picture(owner: str, at: float | None = None) -> str:
    return output_key(owner, request_id_at(at or time.time()), 0, "png")


def upload(owner: str, *, lifetime: float = 600, file_name: str = "") -> str:
    return upload_key(owner, expire_time=time.time() + lifetime, unique=uuid.uuid4(), file_name=file_name)


async def put(files: FileStore, key: str, data: bytes = b"data", **changes) -> None:
    await files.put(key, data, **({"content_type": "image/png", "expire_time": 2_000_000_000} | changes))


def stored_keys(server, owner: str, bucket: str = "file-store") -> list[str]:
    """What a client that is not ours finds."""
    client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region="us-east-1")
    return [
        entry.object_name
        for kind in ("in", "out")
        for entry in client.list_objects(bucket, f"{kind}/{owner}/", recursive=True)
    ]


async def chunks_of(size: int, chunk: int = 256 << 10) -> AsyncIterator[bytes]:
    block = bytes(range(256)) * (chunk // 256)
    for start in range(0, size, chunk):
        yield block[: min(chunk, size - start)]


# Put, get, stat, delete


async def test_what_was_put_can_be_got(files: FileStore, owner: str):
    key = picture(owner)
    await put(files, key, b"a picture")
    assert await files.get(key, limit=9) == b"a picture"
    stored = await files.stat(key)
    assert (stored.key, stored.size_bytes, stored.content_type) == (key, 9, "image/png")
    assert (stored.expire_time, stored.owner) == (2_000_000_000, owner)


async def test_putting_again_overwrites(files: FileStore, server, owner: str):
    key = picture(owner)
    await put(files, key, b"first, longer")
    await put(files, key, b"second", content_type="image/jpeg", expire_time=2_000_000_001)
    assert await files.get(key, limit=100) == b"second"
    stored = await files.stat(key)
    assert (stored.content_type, stored.expire_time) == ("image/jpeg", 2_000_000_001)
    assert stored_keys(server, owner) == [key]


async def test_a_file_larger_than_a_part_is_put_whole(files: FileStore, owner: str):
    data = bytes(range(256)) * (7 * MIB // 256)
    key = picture(owner)
    await put(files, key, data)
    assert await files.get(key, limit=len(data)) == data


async def test_an_empty_file_can_be_put(files: FileStore, owner: str):
    key = picture(owner)
    await put(files, key, b"")
    assert await files.get(key, limit=0) == b""


async def test_deleting_twice_is_harmless(files: FileStore, owner: str):
    key = picture(owner)
    await put(files, key)
    await files.delete(key)
    await files.delete(key)
    assert await files.stat(key) is None
    with pytest.raises(FileNotFound) as caught:
        await files.get(key, limit=100)
    assert caught.value.metadata == {"uri": f"flashbulb://files/{key}"}


async def test_a_file_above_the_limit_is_refused(files: FileStore, owner: str):
    key = picture(owner)
    await put(files, key, b"12345")
    with pytest.raises(InvalidRequest, match="has 5 bytes, at most 4 are allowed"):
        await files.get(key, limit=4)
    assert await files.get(key, limit=5) == b"12345"


async def test_many_calls_at_once_all_end(files: FileStore, owner: str):
    keys = [picture(owner) for _ in range(40)]
    await asyncio.gather(*(put(files, key, key.encode()) for key in keys))
    assert await asyncio.gather(*(files.get(key, limit=200) for key in keys)) == [key.encode() for key in keys]
    assert await files.delete_all(keys) == 40
    assert await files.delete_all(keys) == 40  # gone is gone


async def test_a_cancelled_put_stores_nothing_later(files: FileStore, owner: str):
    key = picture(owner)
    for turn in range(5):
        async with asyncio.TaskGroup() as group:
            putting = group.create_task(put(files, key, bytes(8 * MIB)))
            await asyncio.sleep(0.004 * turn)  # no wait for a condition: it is cancelled in several places
            putting.cancel()
        await files.delete(key)
    await put(files, picture(owner), bytes(8 * MIB))  # takes as long as what was cancelled would have
    assert await files.stat(key) is None


# Links


async def test_a_link_needs_no_key(files: FileStore, http: httpx.AsyncClient, owner: str):
    key = picture(owner)
    await put(files, key, b"a picture", file_name="cat.png")
    link = files.link(key, seconds=60)
    response = await http.get(link.url)
    assert (response.status_code, response.content) == (200, b"a picture")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "inline; filename=\"cat.png\"; filename*=UTF-8''cat.png"
    assert link.expire_time == pytest.approx(time.time() + 60, abs=5)


async def test_a_link_can_name_the_file(files: FileStore, http: httpx.AsyncClient, owner: str):
    key = picture(owner)
    await put(files, key)
    response = await http.get(files.link(key, seconds=60, file_name="kätzchen 图.png").url)
    assert response.status_code == 200
    expected = "attachment; filename=\"k_tzchen _.png\"; filename*=UTF-8''k%C3%A4tzchen%20%E5%9B%BE.png"
    assert response.headers["content-disposition"] == expected


async def test_a_tampered_link_is_refused(files: FileStore, http: httpx.AsyncClient, owner: str):
    mine, other = picture(owner), picture(owner)
    await put(files, mine)
    await put(files, other)
    url = files.link(mine, seconds=60).url
    for tampered in (
        url.replace(mine, other),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.split("?")[0],
    ):
        assert tampered != url
        assert (await http.get(tampered)).status_code == 403
    assert (await http.put(url, content=b"mine now")).status_code == 403
    assert (await http.delete(url)).status_code == 403
    assert await files.get(mine, limit=100) == b"data"


async def test_an_expired_link_is_refused(server, http: httpx.AsyncClient, owner: str):
    async with FileStore(settings_of(server), clock=lambda: time.time() - 3600) as files:
        key = picture(owner)
        await put(files, key)
        assert (await http.get(files.link(key, seconds=3590).url)).status_code == 403
        assert (await http.get(files.link(key, seconds=3660).url)).status_code == 200


async def test_links_are_made_with_the_public_address(server, owner: str):
    async with FileStore(settings_of(server, public_url="https://files.example:9443")) as files:
        assert files.link(picture(owner), seconds=60).url.startswith("https://files.example:9443/file-store/out/")


async def test_links_live_no_longer_than_s3_allows(files: FileStore, owner: str):
    link = files.link(picture(owner), seconds=10**8)
    assert link.expire_time == pytest.approx(time.time() + MAX_LINK_SECONDS, abs=5)
    assert f"X-Amz-Expires={MAX_LINK_SECONDS}&" in link.url


async def test_a_file_can_be_put_to_a_link(files: FileStore, http: httpx.AsyncClient, owner: str):
    name = "ein Bild, größer 图.png"
    key = upload(owner, file_name=name)
    link = files.upload_link(key, content_type="image/png", seconds=60, file_name=name)
    assert (await http.put(link.url, content=b"uploaded", headers=link.headers)).status_code == 200
    stored = await files.stat(key)
    assert (stored.size_bytes, stored.content_type, stored.owner) == (8, "image/png", owner)
    assert stored.expire_time == pytest.approx(time.time() + 600, abs=5)
    response = await http.get(files.link(key, seconds=60).url)
    assert response.content == b"uploaded"
    assert response.headers["content-disposition"].endswith(
        "filename*=UTF-8''ein%20Bild%2C%20gr%C3%B6%C3%9Fer%20%E5%9B%BE.png"
    )


async def test_an_upload_link_serves_its_own_file_only(files: FileStore, server, http: httpx.AsyncClient, owner: str):
    mine, other = upload(owner), upload(f"{owner}-other")
    link = files.upload_link(mine, content_type="image/png", seconds=60)
    tampered = link.url.replace(mine, other)
    assert tampered != link.url
    assert (await http.put(tampered, content=b"data", headers=link.headers)).status_code == 403
    assert (await http.get(link.url)).status_code == 403
    assert stored_keys(server, owner) == stored_keys(server, f"{owner}-other") == []


# Streamed uploads


@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1, 20 * MIB])
async def test_a_stream_is_stored(files: FileStore, owner: str, size: int):
    key = upload(owner)
    await files.put_stream(
        key, chunks_of(size), size=size, content_type="image/png", expire_time=2_000_000_000, file_name="cat.png"
    )
    stored = await files.stat(key)
    assert (stored.size_bytes, stored.content_type) == (size, "image/png")
    assert await files.get(key, limit=size) == b"".join([chunk async for chunk in chunks_of(size)])


async def test_a_stream_is_never_held_whole(files: FileStore, owner: str):
    size = 40 * MIB
    tracemalloc.start()
    try:
        await files.put_stream(upload(owner), chunks_of(size), size=size, content_type="a/b", expire_time=2e9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


async def test_a_store_that_is_slower_than_the_caller_slows_the_caller(server, owner: str):
    """Chunks are asked for only as fast as they are stored: none is asked for while nothing reads."""
    async with FileStore(settings_of(server)) as files:
        busy = asyncio.Event()
        asked = 0

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await busy.wait()

        async def fast() -> AsyncIterator[bytes]:
            nonlocal asked
            for _ in range(20):
                asked += 1
                yield bytes(1000)

        async def held(chunks: AsyncIterator[bytes], size: int) -> None:
            await files.put_stream(upload(owner), chunks, size=size, content_type="a/b", expire_time=2e9)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(held(slow(), 2)) for _ in range(16)]  # every upload thread waits
            waiting = group.create_task(held(fast(), 20_000))
            await until(lambda: asked == 3)
            for _ in range(50):
                await asyncio.sleep(0)
            assert asked == 3
            for task in tasks:
                task.cancel()
            await waiting
        assert asked == 20
        assert len(stored_keys(server, owner)) == 1


class CallerGone(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1000, 4 * MIB, 12 * MIB, 20 * MIB])
async def test_a_stream_that_breaks_off_stores_nothing(files: FileStore, server, owner: str, after: int):
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunks_of(after):
            yield chunk
        raise CallerGone

    with pytest.raises(CallerGone):
        await files.put_stream(upload(owner), broken(), size=20 * MIB, content_type="a/b", expire_time=2e9)
    assert stored_keys(server, owner) == []


@pytest.mark.parametrize("after", [0, 1000, 12 * MIB])
async def test_a_cancelled_stream_stores_nothing(files: FileStore, server, owner: str, after: int):
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        async for chunk in chunks_of(after):
            yield chunk
        reached.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            files.put_stream(upload(owner), endless(), size=20 * MIB, content_type="a/b", expire_time=2e9)
        )
        await reached.wait()
        task.cancel()
    assert task.cancelled()
    assert stored_keys(server, owner) == []


async def test_a_stream_cancelled_while_the_store_answers_stores_nothing(files: FileStore, server, owner: str):
    """Cancelled at every point from the last chunk to the end, as close as can be."""
    for turns in range(0, 60, 3):
        ended = asyncio.Event()

        async def whole(ended: asyncio.Event = ended) -> AsyncIterator[bytes]:
            yield bytes(100_000)
            ended.set()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                files.put_stream(upload(owner), whole(), size=100_000, content_type="a/b", expire_time=2e9)
            )
            await ended.wait()
            for _ in range(turns):
                await asyncio.sleep(0.0005)
                if task.done():
                    break
            task.cancel()
        if not task.cancelled():
            break
        assert stored_keys(server, owner) == []
    assert not task.cancelled(), "the last one was to end by itself"
    assert len(stored_keys(server, owner)) == 1


@pytest.mark.parametrize("size", [1000, 12 * MIB])
@pytest.mark.parametrize("said", [-1, +1])
async def test_more_or_fewer_bytes_than_said_store_nothing(files: FileStore, server, owner: str, size: int, said: int):
    with pytest.raises(InvalidRequest) as caught:
        await files.put_stream(upload(owner), chunks_of(size), size=size + said, content_type="a/b", expire_time=2e9)
    assert [v.field for v in caught.value.violations] == ["chunk"]
    assert stored_keys(server, owner) == []


@pytest.mark.parametrize("end", ["cancelled", "raises", "goes on"])
async def test_what_was_stored_before_a_stream_broke_off_is_taken_back(files: FileStore, server, owner: str, end: str):
    key = upload(owner)
    stored = asyncio.Event()

    async def whole() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await stored.wait()
        if end == "raises":
            raise CallerGone
        if end == "goes on":
            yield b"more"

    async def send() -> None:
        with contextlib.suppress(CallerGone, InvalidRequest):
            await files.put_stream(key, whole(), size=1000, content_type="a/b", expire_time=2e9)

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        async with asyncio.timeout(10):
            while await files.stat(key) is None:
                await asyncio.sleep(0.005)
        stored.set() if end != "cancelled" else sending.cancel()
    assert await files.stat(key) is None


async def test_a_caller_that_falls_silent_is_given_up(files: FileStore, server, owner: str):
    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    with pytest.raises(InvalidRequest, match="none came for 0.1 s, after 1 of 10 bytes"):
        await files.put_stream(upload(owner), silent(), size=10, content_type="a/b", expire_time=2e9, stall_seconds=0.1)
    assert stored_keys(server, owner) == []


# Expired files


async def test_only_expired_files_are_swept(server):
    bucket = f"sweep-{uuid.uuid4().hex[:12]}"
    later = time.time() + 86_400
    async with (
        FileStore(settings_of(server, bucket=bucket)) as now_files,
        FileStore(settings_of(server, bucket=bucket), clock=lambda: later) as later_files,
    ):
        expired = [upload(owner, lifetime=lifetime) for owner in ("a", "b") for lifetime in (60, 80_000)]
        young = [upload(owner, lifetime=lifetime) for owner in ("a", "b", "c") for lifetime in (90_000, 10**6)]
        pictures = [
            picture("a"),
            picture("b"),
            picture("b", time.time() - 10**6),
            output_key("c", str(uuid.uuid4()), 0, "png"),
        ]
        foreign = ["notes.txt", "in/a/notes.txt", "out/a/x/0.png.bak", "in/notes.txt"]
        for key in expired + young + pictures + foreign:
            await put(now_files, key)

        keep_long = Sweeper(later_files, keep_seconds=86_400, every_seconds=1)
        assert await Sweeper(now_files, keep_seconds=86_400, every_seconds=1).sweep() == 0
        assert await keep_long.sweep() == len(expired)
        assert await keep_long.sweep() == 0
        everything = sorted(
            stored_keys(server, "a", bucket) + stored_keys(server, "b", bucket) + stored_keys(server, "c", bucket)
        )
        assert everything == sorted(young + pictures + ["in/a/notes.txt", "out/a/x/0.png.bak"])

        keep_short = Sweeper(later_files, keep_seconds=86_400 - PICTURE_GRACE - 60, every_seconds=1)
        assert await keep_short.sweep() == len(pictures)
        assert [await now_files.stat(key) is not None for key in young + foreign] == [True] * len(young + foreign)


async def test_expired_files_are_found_in_batches(server, owner: str):
    later = time.time() + 86_400
    async with FileStore(settings_of(server, bucket=f"sweep-{uuid.uuid4().hex[:12]}"), clock=lambda: later) as files:
        keys = sorted(upload(owner, lifetime=60 + n) for n in range(5))
        for key in keys:
            await put(files, key)
        assert await files.expired(keep_seconds=60, limit=2) == keys[:2]
        assert await files.expired(keep_seconds=60, limit=10) == keys


# When the store is not there


async def test_a_wrong_secret_is_told_to_the_operator(server):
    wrong = settings_of(server, secret_key="another-secret-key")
    with pytest.raises(StoreRefused, match="FLASHBULB_FILES__ACCESS_KEY .* refuses the key"):
        async with FileStore(wrong, ready_seconds=0.1):
            pass
    unknown = settings_of(server, access_key="another-access-key")
    with pytest.raises(StoreRefused, match=server.endpoint):
        async with FileStore(unknown, ready_seconds=0.1):
            pass


async def test_a_store_that_never_starts_is_given_up_in_time():
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        async with FileStore(FilesSettings(endpoint="127.0.0.1:9"), ready_seconds=0.5):
            pass
    assert time.monotonic() - start < 3


async def test_a_store_that_falls_silent_is_given_up_in_time():
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = "{}:{}".format(*silent.getsockname())
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            async with FileStore(FilesSettings(endpoint=endpoint), ready_seconds=0.5):
                pass
        assert time.monotonic() - start < 3


async def test_a_store_that_hangs_is_given_up_and_comes_back_in_time(own_server, owner: str):
    async with FileStore(settings_of(own_server), call_seconds=0.4) as files:
        key = picture(owner)
        async with asyncio.timeout(10):
            while not await answers(put(files, key)):  # the first put after a start may take longer than that
                await asyncio.sleep(0)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            for call in (put(files, picture(owner)), files.get(key, limit=100), files.delete(picture(owner))):
                with pytest.raises(StoreUnavailable):
                    await call
            assert time.monotonic() - start < 3
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while not await answers(files.get(key, limit=100)):
                await asyncio.sleep(0)


async def answers(call) -> bool:
    try:
        await call
    except StoreUnavailable:
        return False
    return True


async def test_an_outage_is_named_and_passes(own_server, owner: str):
    naps: asyncio.Queue[float] = asyncio.Queue()
    wake = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        naps.put_nowait(seconds)
        await wake.acquire()

    later = time.time() + 86_400
    async with FileStore(settings_of(own_server), clock=lambda: later) as files:
        kept, old = upload(owner, lifetime=90_000), upload(owner)
        await put(files, kept)
        await put(files, old)
        own_server.kill()

        start = time.monotonic()
        for call in (
            put(files, picture(owner)),
            files.get(kept, limit=100),
            files.stat(kept),
            files.delete(kept),
            files.expired(keep_seconds=60),
            files.delete_all([kept]),
            files.put_stream(upload(owner), chunks_of(MIB), size=MIB, content_type="a/b", expire_time=2e9),
            files.put_stream(upload(owner), chunks_of(20 * MIB), size=20 * MIB, content_type="a/b", expire_time=2e9),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert caught.value.metadata == {"store": "files"}
        assert time.monotonic() - start < 8
        assert files.link(kept, seconds=60).url  # links need no server

        async with asyncio.TaskGroup() as group:
            sweeping = group.create_task(Sweeper(files, keep_seconds=60, every_seconds=7, sleep=sleep).run())
            assert await naps.get() == 7
            await own_server.restart()
            assert await files.get(kept, limit=100) == b"data"
            wake.release()
            await naps.get()
            sweeping.cancel()
        assert await files.stat(old) is None
        assert await files.get(kept, limit=100) == b"data"
        assert stored_keys(own_server, owner) == [kept]


async def test_a_store_that_starts_late_is_waited_for(own_server, owner: str):
    own_server.kill()
    async with asyncio.TaskGroup() as group:
        group.create_task(own_server.restart())
        async with FileStore(settings_of(own_server), ready_seconds=30) as files:
            key = picture(owner)
            await put(files, key)
            assert await files.get(key, limit=100) == b"data"


async def until(condition, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
