"""Files on the server: uploading them, and filling the pictures of an input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from flashbulb import _decode
from flashbulb._encode import span
from flashbulb._errors import FieldViolation, InvalidInput
from flashbulb._payload import Payload, payload_of
from flashbulb._results import File
from flashbulb._transport import Transport
from flashbulb.v1 import image_pb2, storage_pb2

INLINE_BYTES = 256 * 1024
"""Smaller pictures travel inside the input: one call less, and the message stays far below every limit."""


async def upload(
    transport: Transport,
    source: object,
    *,
    content_type: str | None = None,
    file_name: str | None = None,
    lifetime: float | None = None,
) -> File:
    """Stores a file. Errors: those of `payload_of`, and the server's."""
    keep = span("lifetime", lifetime)
    payload = await asyncio.to_thread(payload_of, source, content_type)
    spec = storage_pb2.FileSpec(
        content_type=payload.content_type,
        file_name=payload.file_name if file_name is None else file_name,
        size_bytes=payload.size_bytes,
        lifetime=keep,
    )
    return await _send(transport, spec, payload)


async def delete(transport: Transport, uri: str) -> None:
    """Deletes a file."""
    await transport.call(transport.storage.DeleteFile, storage_pb2.DeleteFileRequest(uri=uri))


async def fill_sources(transport: Transport, pending: Iterable[tuple[image_pb2.ImageSource, object, str]]) -> None:
    """Reads the pictures of an input and puts each into its message: the bytes if they are few, else the URI of an upload.

    A value that stands in several fields is read once.

    Raises:
        InvalidInput: some cannot be read; nothing was uploaded. `violations` names their fields.
    """
    waiting = list(pending)
    payloads = await _payloads(waiting, quick=False)
    uris: dict[int, str] = {}
    for source, value, _ in waiting:
        payload = payloads[id(value)]
        if payload.size_bytes < INLINE_BYTES:
            source.content = await asyncio.to_thread(payload.read)
            continue
        if id(value) not in uris:
            spec = storage_pb2.FileSpec(content_type=payload.content_type, size_bytes=payload.size_bytes)
            uris[id(value)] = (await _send(transport, spec, payload)).uri
        source.uri = uris[id(value)]


async def fill_inline(pending: Iterable[tuple[image_pb2.ImageSource, object, str]]) -> None:
    """Reads the pictures of an input and puts the bytes of each into its message. InvalidInput as `fill_sources`."""
    waiting = list(pending)
    payloads = await _payloads(waiting, quick=True)
    for source, value, _ in waiting:
        source.content = await asyncio.to_thread(payloads[id(value)].read)


async def _payloads(waiting: Iterable[tuple[image_pb2.ImageSource, object, str]], *, quick: bool) -> dict[int, Payload]:
    """The payload of every value, by its `id`."""
    payloads: dict[int, Payload] = {}
    violations: list[FieldViolation] = []
    for _, value, path in waiting:
        try:
            if id(value) not in payloads:
                payloads[id(value)] = await asyncio.to_thread(payload_of, value, quick=quick)
        except InvalidInput as error:
            violations.append(FieldViolation(path, error.message))
    if violations:
        raise InvalidInput("; ".join(f"{v.field}: {v.description}" for v in violations), violations=violations)
    return payloads


async def _send(transport: Transport, spec: storage_pb2.FileSpec, payload: Payload) -> File:
    async def messages() -> AsyncIterator[storage_pb2.UploadRequest]:
        yield storage_pb2.UploadRequest(open=spec)
        chunks = payload.chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield storage_pb2.UploadRequest(chunk=chunk)

    response = await transport.send(transport.storage.Upload, messages)
    return _decode.file(response.file)
