"""StorageService: a translator around api.files. Messages of an upload are checked for their order and size here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from flashbulb.v1 import storage_pb2, storage_pb2_grpc
from flashbulb_server.api.files import File, Files
from flashbulb_server.api.grpc.interceptors import caller
from flashbulb_server.core.files import FileSpec, file_spec
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.times import from_duration, to_timestamp

MAX_CHUNK_BYTES = 4 << 20

_Context = grpc.aio.ServicerContext


class StorageServicer(storage_pb2_grpc.StorageServiceServicer):
    """Files for inputs."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def CreateUpload(
        self,
        request: storage_pb2.CreateUploadRequest,
        context: _Context[storage_pb2.CreateUploadRequest, storage_pb2.CreateUploadResponse],
    ) -> storage_pb2.CreateUploadResponse:
        """Names a file and makes the link to put it to."""
        made = self._files.create_upload(caller(), _spec(request.file, path="file", size_required=False))
        return storage_pb2.CreateUploadResponse(
            file=_file(made.file),
            upload_url=made.upload.url,
            upload_headers=made.upload.headers,
            upload_expire_time=to_timestamp(made.upload.expire_time),
        )

    async def Upload(
        self,
        request_iterator: AsyncIterator[storage_pb2.UploadRequest],
        context: _Context[storage_pb2.UploadRequest, storage_pb2.UploadResponse],
    ) -> storage_pb2.UploadResponse:
        """Stores a file as its chunks come."""
        messages = aiter(request_iterator)
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "open":
            raise InvalidRequest([FieldViolation("open", "must be in the first message")])
        spec = _spec(first.open, path="open", size_required=True)
        return storage_pb2.UploadResponse(file=_file(await self._files.upload(caller(), spec, _chunks(messages))))

    async def DeleteFile(
        self,
        request: storage_pb2.DeleteFileRequest,
        context: _Context[storage_pb2.DeleteFileRequest, storage_pb2.DeleteFileResponse],
    ) -> storage_pb2.DeleteFileResponse:
        """Deletes one of the caller's own files."""
        await self._files.delete(caller(), request.uri)
        return storage_pb2.DeleteFileResponse()


async def _chunks(messages: AsyncIterator[storage_pb2.UploadRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        match message.WhichOneof("message"):
            case "chunk" if len(message.chunk) <= MAX_CHUNK_BYTES:
                yield message.chunk
            case "chunk":
                problem = FieldViolation(
                    "chunk", f"has {len(message.chunk)} bytes, at most {MAX_CHUNK_BYTES} are allowed"
                )
                raise InvalidRequest([problem])
            case "open":
                raise InvalidRequest([FieldViolation("open", "must be in the first message only")])
            case _:
                raise InvalidRequest([FieldViolation("message", "must be set")])


def _spec(message: storage_pb2.FileSpec, *, path: str, size_required: bool) -> FileSpec:
    return file_spec(
        content_type=message.content_type,
        file_name=message.file_name,
        size_bytes=message.size_bytes,
        lifetime=from_duration(message.lifetime) if message.HasField("lifetime") else None,
        size_required=size_required,
        path=path,
    )


def _file(file: File) -> storage_pb2.File:
    return storage_pb2.File(
        uri=file.uri,
        url=file.url,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        expire_time=to_timestamp(file.expire_time),
    )
