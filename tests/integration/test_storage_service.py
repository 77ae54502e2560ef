"""StorageService over real gRPC, in front of a real S3 server."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from minio import Minio

from flashbulb.v1 import storage_pb2, storage_pb2_grpc
from flashbulb_server.api.files import Files
from flashbulb_server.api.grpc.interceptors import CallInterceptor
from flashbulb_server.api.grpc.storage import MAX_CHUNK_BYTES, StorageServicer
from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.config import FilesSettings
from flashbulb_server.core.files import DEFAULT_LIFETIME, output_key, uri_of
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.storage.file_store import FileStore

pytestmark = pytest.mark.integration

MIB = 1 << 20
SECRET = "test-secret"


@asynccontextmanager
async def service(server, *owners: str):
    """The store, and the address of a gRPC server in front of it."""
    settings = FilesSettings(
        endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key, bucket="storage-service"
    )
    async with FileStore(settings) as store:
        keys = Keys({owner: digest(SECRET) for owner in owners})
        rpc = grpc.aio.server(
            interceptors=[CallInterceptor(keys)], options=[("grpc.max_receive_message_length", 16 * MIB)]
        )
        storage_pb2_grpc.add_StorageServiceServicer_to_server(StorageServicer(Files(store, url_seconds=600)), rpc)
        port = rpc.add_insecure_port("127.0.0.1:0")
        await rpc.start()
        try:
            yield store, f"127.0.0.1:{port}"
        finally:
            await rpc.stop(None)


class Caller:
    """A caller with a key of its own."""

    def __init__(self, channel, owner: str) -> None:
        self.channel = channel
        self.stub = storage_pb2_grpc.StorageServiceStub(channel)
        self.owner = owner
        self.metadata = [("authorization", f"Key {owner}:{SECRET}")]

    async def create(self, **spec):
        request = storage_pb2.CreateUploadRequest(file=storage_pb2.FileSpec(**spec))
        return await self.stub.CreateUpload(request, metadata=self.metadata)

    def upload(self, *messages):
        return self.stub.Upload(iter(messages), metadata=self.metadata)

    async def delete(self, uri: str):
        return await self.stub.DeleteFile(storage_pb2.DeleteFileRequest(uri=uri), metadata=self.metadata)


@pytest.fixture
async def world(s3_server):
    """Two callers, the store and an HTTP client."""
    owner, other = f"owner-{uuid.uuid4().hex[:12]}", f"other-{uuid.uuid4().hex[:12]}"
    async with (
        service(s3_server, owner, other) as (store, address),
        grpc.aio.insecure_channel(address) as channel,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        yield Caller(channel, owner), Caller(channel, other), store, http


def opened(**spec) -> storage_pb2.UploadRequest:
    return storage_pb2.UploadRequest(open=storage_pb2.FileSpec(**({"content_type": "image/png"} | spec)))


def chunk(data: bytes) -> storage_pb2.UploadRequest:
    return storage_pb2.UploadRequest(chunk=data)


def stored_keys(server, owner: str) -> list[str]:
    client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region="us-east-1")
    return [entry.object_name for entry in client.list_objects("storage-service", f"in/{owner}/", recursive=True)]


async def refusal(call) -> tuple[grpc.StatusCode, str, dict[str, object]]:
    """Code, reason, and the details by their short names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    details: dict[str, object] = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                details[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    return caught.value.code(), details["ErrorInfo"].reason, details


async def bad_fields(call) -> list[str]:
    code, reason, details = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    return [violation.field for violation in details["BadRequest"].field_violations]


# CreateUpload


async def test_a_file_is_uploaded_over_http(world):
    caller, _, store, http = world
    made = await caller.create(content_type="image/png", file_name="kätzchen.png", lifetime=Duration(seconds=7200))
    assert made.file.uri.startswith(f"flashbulb://files/in/{caller.owner}/")
    assert (made.file.content_type, made.file.size_bytes) == ("image/png", 0)
    assert made.file.expire_time.seconds == pytest.approx(time.time() + 7200, abs=5)
    assert made.upload_expire_time.seconds == pytest.approx(time.time() + 600, abs=5)
    assert (await http.get(made.file.url)).status_code == 404

    put = await http.put(made.upload_url, content=b"a picture", headers=dict(made.upload_headers))
    assert put.status_code == 200
    response = await http.get(made.file.url)
    assert (response.content, response.headers["content-type"]) == (b"a picture", "image/png")
    assert "filename*=UTF-8''k%C3%A4tzchen.png" in response.headers["content-disposition"]
    assert await store.get(made.file.uri.removeprefix("flashbulb://files/"), limit=100) == b"a picture"


async def test_links_live_no_longer_than_the_file(world):
    caller, *_ = world
    made = await caller.create(content_type="image/png", lifetime=Duration(seconds=60))
    assert made.upload_expire_time.seconds == pytest.approx(time.time() + 60, abs=5)
    assert "X-Amz-Expires=60&" in made.file.url


async def test_a_file_lives_seven_days_if_nothing_is_said(world):
    caller, *_ = world
    made = await caller.create(content_type="image/png")
    assert made.file.expire_time.seconds == pytest.approx(time.time() + DEFAULT_LIFETIME, abs=5)


async def test_every_bad_field_of_a_file_is_named(world):
    caller, *_ = world
    bad = {"file_name": "a/b", "size_bytes": -1, "lifetime": Duration(seconds=1)}
    fields = ["content_type", "file_name", "size_bytes", "lifetime"]
    assert await bad_fields(caller.create(**bad)) == [f"file.{field}" for field in fields]
    assert await bad_fields(caller.upload(opened(**bad, content_type=""))) == [f"open.{field}" for field in fields]
    empty = caller.stub.CreateUpload(storage_pb2.CreateUploadRequest(), metadata=caller.metadata)
    assert await bad_fields(empty) == ["file.content_type"]


# Upload


@pytest.mark.parametrize("sizes", [[1], [MAX_CHUNK_BYTES, 100], [MIB] * 12, [0, 5, 0]])
async def test_a_file_is_uploaded_over_grpc(world, sizes: list[int]):
    caller, _, store, http = world
    blocks = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    data = b"".join(blocks)
    reply = await caller.upload(opened(size_bytes=len(data), file_name="cat.png"), *map(chunk, blocks))
    assert (reply.file.content_type, reply.file.size_bytes) == ("image/png", len(data))
    response = await http.get(reply.file.url)
    assert response.content == data
    assert response.headers["content-disposition"].startswith('inline; filename="cat.png"')
    stored = await store.stat(reply.file.uri.removeprefix("flashbulb://files/"))
    assert (stored.owner, stored.expire_time) == (caller.owner, reply.file.expire_time.seconds)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "open"),
        ([chunk(b"12345")], "open"),
        ([storage_pb2.UploadRequest()], "open"),
        ([opened(size_bytes=0)], "open.size_bytes"),
        ([opened(size_bytes=5)], "chunk"),
        ([opened(size_bytes=5), chunk(b"1234")], "chunk"),
        ([opened(size_bytes=5), chunk(b"123456")], "chunk"),
        ([opened(size_bytes=5), chunk(b"12345"), chunk(b"6")], "chunk"),
        ([opened(size_bytes=5), chunk(b"12345"), opened(size_bytes=5)], "open"),
        ([opened(size_bytes=5), chunk(b"123"), storage_pb2.UploadRequest(), chunk(b"45")], "message"),
        ([opened(size_bytes=MAX_CHUNK_BYTES + 1), chunk(bytes(MAX_CHUNK_BYTES + 1))], "chunk"),
        ([opened(size_bytes=11 * MIB), *[chunk(bytes(MIB))] * 10], "chunk"),
    ],
)
async def test_a_bad_upload_names_the_field_and_stores_nothing(world, s3_server, messages, field):
    caller, *_ = world
    assert await bad_fields(caller.upload(*messages)) == [field]
    assert stored_keys(s3_server, caller.owner) == []


async def test_a_truncated_message_is_refused(world, s3_server):
    caller, *_ = world
    method = caller.channel.stream_unary("/flashbulb.v1.StorageService/Upload")
    whole = [opened(size_bytes=5).SerializeToString(), chunk(b"12345").SerializeToString()]
    assert await bad_fields(method(iter([whole[0][:-1]]), metadata=caller.metadata)) == [""]
    assert await bad_fields(method(iter([whole[0], whole[1][:-1]]), metadata=caller.metadata)) == [""]
    assert stored_keys(s3_server, caller.owner) == []


@pytest.mark.parametrize("sent", [0, 1, 12])
async def test_an_upload_that_breaks_off_stores_nothing(world, s3_server, sent: int):
    caller, *_ = world
    call = caller.stub.Upload(metadata=caller.metadata)
    await call.write(opened(size_bytes=20 * MIB))
    for _ in range(sent):
        await call.write(chunk(bytes(MIB)))
    call.cancel()
    # A later upload of the same caller ends after the server has seen the first one end, or at least been told of it.
    await caller.upload(opened(size_bytes=1), chunk(b"x"))
    async with asyncio.timeout(10):
        while len(stored_keys(s3_server, caller.owner)) != 1:
            await asyncio.sleep(0.02)


async def test_an_upload_that_misses_its_deadline_stores_nothing(world, s3_server):
    caller, *_ = world
    call = caller.stub.Upload(metadata=caller.metadata, timeout=0.3)
    await call.write(opened(size_bytes=2))
    await call.write(chunk(b"x"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stored_keys(s3_server, caller.owner) == []


# DeleteFile


async def test_deleting_twice_is_harmless(world, s3_server):
    caller, _, _, http = world
    file = (await caller.upload(opened(size_bytes=1), chunk(b"x"))).file
    await caller.delete(file.uri)
    await caller.delete(file.uri)
    assert stored_keys(s3_server, caller.owner) == []
    assert (await http.get(file.url)).status_code == 404


async def test_a_picture_of_one_s_own_can_be_deleted(world):
    caller, _, store, _ = world
    key = output_key(caller.owner, new_request_id(time.time()), 0, "png")
    await store.put(key, b"picture", content_type="image/png", expire_time=2e9)
    await caller.delete(uri_of(key))
    assert await store.stat(key) is None


async def test_another_key_s_file_does_not_exist(world, s3_server):
    caller, other, *_ = world
    file = (await caller.upload(opened(size_bytes=1), chunk(b"x"))).file
    code, reason, details = await refusal(other.delete(file.uri))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
    assert details["ErrorInfo"].metadata == {"uri": file.uri}
    assert len(stored_keys(s3_server, caller.owner)) == 1


@pytest.mark.parametrize("uri", ["", "https://example.com/cat.png", "flashbulb://files/in/../etc/passwd"])
async def test_what_is_no_uri_cannot_be_deleted(world, uri: str):
    caller, *_ = world
    assert await bad_fields(caller.delete(uri)) == ["uri"]


# Who calls, and an outage


async def test_a_key_is_required(world):
    caller, *_ = world
    caller.metadata = []
    for call in (
        caller.create(content_type="image/png"),
        caller.upload(opened(size_bytes=1), chunk(b"x")),
        caller.delete("x"),
    ):
        code, reason, _ = await refusal(call)
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_MISSING")


async def test_an_outage_asks_to_try_again(own_s3_server):
    async with service(own_s3_server, "me") as (_, address), grpc.aio.insecure_channel(address) as channel:
        caller = Caller(channel, "me")
        uri = (await caller.create(content_type="image/png")).file.uri
        own_s3_server.kill()
        assert (await caller.create(content_type="image/png")).upload_url  # asks no server
        for call in (caller.upload(opened(size_bytes=1), chunk(b"x")), caller.delete(uri)):
            code, reason, details = await refusal(call)
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert details["RetryInfo"].retry_delay.ToSeconds() >= 1
        await own_s3_server.restart()
        await caller.upload(opened(size_bytes=1), chunk(b"x"))
