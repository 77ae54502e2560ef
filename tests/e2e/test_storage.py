"""Files through the whole service: uploaded over gRPC or HTTP, read by link, deleted by their owner only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration

from flashbulb.v1 import storage_pb2
from tests.driving import Caller, refusal
from tests.service import apple, auth

MIB = 1 << 20


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


def messages(data: bytes, *, said: int | None = None, chunk: int = 256 * 1024) -> Iterator[storage_pb2.UploadRequest]:
    spec = storage_pb2.FileSpec(
        content_type="image/png", file_name="cat.png", size_bytes=len(data) if said is None else said
    )
    yield storage_pb2.UploadRequest(open=spec)
    for start in range(0, len(data), chunk):
        yield storage_pb2.UploadRequest(chunk=data[start : start + chunk])


async def upload(caller: Caller, data: bytes) -> storage_pb2.File:
    answer = await caller.call.storage.Upload(messages(data), metadata=auth(caller.key), timeout=20)
    return answer.file


async def delete(caller: Caller, uri: str) -> None:
    await caller.call.storage.DeleteFile(storage_pb2.DeleteFileRequest(uri=uri), metadata=auth(caller.key), timeout=10)


async def test_a_file_is_streamed_up_and_read_by_its_link(me: Caller, http: httpx.AsyncClient) -> None:
    data = bytes(range(256)) * 4 * 1024 * 5  # 5 MiB
    file = await upload(me, data)
    assert file.uri.startswith("flashbulb://files/")
    assert (file.content_type, file.size_bytes) == ("image/png", len(data))
    assert file.expire_time.seconds == pytest.approx(time.time() + 7 * 86_400, abs=10)
    response = (await http.get(file.url)).raise_for_status()
    assert response.content == data
    assert response.headers["content-type"] == "image/png"


async def test_a_file_is_put_over_http(me: Caller, http: httpx.AsyncClient) -> None:
    request = storage_pb2.CreateUploadRequest(
        file=storage_pb2.FileSpec(content_type="text/plain", lifetime=Duration(seconds=600))
    )
    made = await me.call.storage.CreateUpload(request, metadata=auth(me.key), timeout=10)
    assert (await http.get(made.file.url)).status_code == 404
    put = await http.put(made.upload_url, content=b"hello", headers=dict(made.upload_headers))
    assert put.status_code == 200
    assert (await http.get(made.file.url)).raise_for_status().text == "hello"
    await delete(me, made.file.uri)
    assert (await http.get(made.file.url)).status_code == 404


async def test_a_link_is_good_for_its_own_file_only(me: Caller, http: httpx.AsyncClient) -> None:
    mine, other = await upload(me, b"mine"), await upload(me, b"other")
    signed = httpx.URL(mine.url)
    foreign = signed.copy_with(raw_path=httpx.URL(other.url).raw_path.split(b"?")[0] + b"?" + signed.query)
    assert (await http.get(foreign)).status_code == 403
    assert (await http.get(mine.url.split("?")[0])).status_code == 403
    assert (await http.put(mine.url, content=b"changed")).status_code == 403
    assert (await http.get(mine.url)).content == b"mine"


async def test_only_the_owner_deletes_and_twice_is_once(me: Caller, stranger: Caller, http: httpx.AsyncClient) -> None:
    file = await upload(me, b"bytes")
    error = await refusal(delete(stranger, file.uri))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
    assert (await http.get(file.url)).content == b"bytes"
    await delete(me, file.uri)
    await delete(me, file.uri)
    assert (await http.get(file.url)).status_code == 404


@pytest.mark.parametrize(
    "uri", ["", "x", "https://example.com/x", "flashbulb://files/../x", "flashbulb://files/in/*/*"]
)
async def test_what_names_no_file_is_refused(me: Caller, uri: str) -> None:
    error = await refusal(delete(me, uri))
    assert (error.code, error.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT", ["uri"])


@pytest.mark.parametrize("said", [3, 5])
async def test_a_file_of_another_size_than_said_is_refused(me: Caller, said: int) -> None:
    call = me.call.storage.Upload(messages(b"four", said=said), metadata=auth(me.key), timeout=10)
    error = await refusal(call)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


async def test_every_bad_field_of_a_file_is_named(me: Caller) -> None:
    bad = storage_pb2.FileSpec(file_name="a/b", size_bytes=-1, lifetime=Duration(seconds=1))
    create = me.call.storage.CreateUpload(storage_pb2.CreateUploadRequest(file=bad), metadata=auth(me.key))
    fields = ["content_type", "file_name", "size_bytes", "lifetime"]
    assert (await refusal(create)).fields == [f"file.{field}" for field in fields]
    opened = me.call.storage.Upload(iter([storage_pb2.UploadRequest(open=bad)]), metadata=auth(me.key))
    assert (await refusal(opened)).fields == [f"open.{field}" for field in fields]


async def test_eight_uploads_at_once(me: Caller, http: httpx.AsyncClient) -> None:
    contents = [bytes([n]) * (2 * MIB + n) for n in range(8)]
    files = await asyncio.gather(*(upload(me, content) for content in contents))
    assert len({file.uri for file in files}) == 8
    for file, content in zip(files, contents, strict=True):
        assert (await http.get(file.url)).content == content


async def test_pictures_of_a_request_are_files_behind_links_that_are_made_anew(
    me: Caller, http: httpx.AsyncClient
) -> None:
    request_id = (await me.submit(apple(num_images=2, sync_mode=False))).request_id
    first = (await me.output(request_id)).images
    again = (await me.result(request_id)).output.images
    for one, other in zip(first, again, strict=True):
        assert one.url.split("?")[0] == other.url.split("?")[0]
        assert (await http.get(one.url)).content == (await http.get(other.url)).content
