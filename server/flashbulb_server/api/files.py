"""Use-cases on files: make an upload, take one, delete a file. A file of another key does not exist."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from flashbulb_server.core.files import FileSpec, parse_uri, upload_key, uri_of
from flashbulb_server.errors import FileNotFound
from flashbulb_server.storage.file_store import FileStore, Link


@dataclass(frozen=True, slots=True)
class File:
    """A file as its owner sees it. `size_bytes` is 0 while it was not uploaded; `expire_time` in unix seconds."""

    uri: str
    url: str
    content_type: str
    size_bytes: int
    expire_time: float


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file to be, and the link to put its bytes to."""

    file: File
    upload: Link


class Files:
    """The use-cases. `url_seconds`: how long links to upload with work, at most as long as the file lives."""

    def __init__(self, store: FileStore, *, url_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._url_seconds = url_seconds
        self._clock = clock

    def create_upload(self, owner: str, spec: FileSpec) -> NewUpload:
        """Names a file and makes its links. Nothing is stored until the bytes are put."""
        key, expire_time = self._new(owner, spec)
        link = self._store.upload_link(
            key,
            content_type=spec.content_type,
            seconds=min(self._url_seconds, spec.lifetime),
            file_name=spec.file_name,
        )
        return NewUpload(self._file(key, spec, 0, expire_time), link)

    async def upload(self, owner: str, spec: FileSpec, chunks: AsyncIterator[bytes]) -> File:
        """Stores the bytes as they come.

        Raises InvalidRequest when they are not `spec.size_bytes`, StoreUnavailable. Nothing stays stored then, nor when cancelled.
        """
        key, expire_time = self._new(owner, spec)
        await self._store.put_stream(
            key,
            chunks,
            size=spec.size_bytes,
            content_type=spec.content_type,
            expire_time=expire_time,
            file_name=spec.file_name,
        )
        return self._file(key, spec, spec.size_bytes, expire_time)

    async def delete(self, owner: str, uri: str) -> None:
        """Deletes a file of `owner`'s; one that is gone stays gone. Raises InvalidRequest, FileNotFound, StoreUnavailable."""
        key = parse_uri(uri)
        if key.owner != owner:
            raise FileNotFound(uri)
        await self._store.delete(key.key)

    def _new(self, owner: str, spec: FileSpec) -> tuple[str, float]:
        expire_time = float(int(self._clock() + spec.lifetime))
        return upload_key(owner, expire_time=expire_time, unique=uuid.uuid4(), file_name=spec.file_name), expire_time

    def _file(self, key: str, spec: FileSpec, size_bytes: int, expire_time: float) -> File:
        link = self._store.link(key, seconds=spec.lifetime)
        return File(uri_of(key), link.url, spec.content_type, size_bytes, expire_time)
