"""Files in an S3 store: put, get, stream, link, list what expired. Keys and their meaning are in core.files.

A store that does not answer is StoreUnavailable, a file that does not exist FileNotFound.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Self, cast

from minio.deleteobjects import DeleteObject

from flashbulb_server.config import FilesSettings
from flashbulb_server.core.file_links import FileLinks
from flashbulb_server.core.files import FileKey, content_disposition, parse_key
from flashbulb_server.errors import FieldViolation, FileNotFound, InvalidRequest, StoreUnavailable
from flashbulb_server.storage.connection import Connection, outcome, settle
from flashbulb_server.storage.pipe import ChunkPipe

MAX_LINK_SECONDS = 7 * 86_400  # of signature version 4
_CLEAN_UP_SECONDS = 5.0
_MIN_PART = 5 << 20  # bytes; S3's least size of a part
_MIN_UPLOAD_RATE = 128 << 10  # bytes/s; with a minute on top, the limit of a whole upload
_EXPIRE_HEADER = "x-amz-meta-expire-time"
_OWN_REQUEST_SECONDS = 300  # between the signing of a request and its coming to the store, whose clock may be another

Metadata = dict[str, str | list[str] | tuple[str]]  # the SDK's type of headers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What the store knows of a file. `expire_time` in unix seconds, 0 when it was stored without; `owner` as in the key."""

    key: str
    size_bytes: int
    content_type: str
    expire_time: float
    owner: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link that needs no key until `expire_time`, unix seconds. A PUT must carry `headers`."""

    url: str
    expire_time: float
    headers: dict[str, str] = field(default_factory=dict)


class FileStore:
    """`async with FileStore(settings) as files`: makes the bucket, waiting up to `ready_seconds` for a store that is starting.

    Entry raises StoreUnavailable when the store does not answer in time, connection.StoreRefused when it does not take the keys.
    `call_seconds`: limit of every call but put_stream; the default lies above one silent connection and its retry. `clock`: unix seconds.
    `links`: to files over the gateway, good for all that share this store's secret key.
    """

    def __init__(
        self,
        settings: FilesSettings,
        *,
        ready_seconds: float = 30.0,
        call_seconds: float = 45.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bucket = settings.bucket
        self._ready_seconds = ready_seconds
        self._clock = clock
        self._connection = Connection(settings, call_seconds=call_seconds)
        self._client = self._connection.client
        self.links = FileLinks(settings.secret_key.get_secret_value())
        self._base = self.link("-", seconds=1).url.partition("?")[0].removesuffix("-")

    async def __aenter__(self) -> Self:
        try:
            await self._connection.open(self._ready_seconds)
        except BaseException:
            self._connection.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()

    async def put(self, key: str, data: bytes, *, content_type: str, expire_time: float, file_name: str = "") -> None:
        """Stores or overwrites, whole or not at all.

        A cancelled put may still store, but not later: another attempt may write the same key, so nothing is taken back here.
        """
        await self._connection.write(
            self._client.put_object,
            self._bucket,
            key,
            io.BytesIO(data),
            len(data),
            content_type=content_type,
            metadata=_metadata(content_type, expire_time, file_name),
            part_size=max(len(data), _MIN_PART),
        )

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        size: int,
        content_type: str,
        expire_time: float,
        file_name: str = "",
        stall_seconds: float = 30.0,
    ) -> None:
        """Stores a file while its bytes come, holding a few chunks and 5 MiB of it. The key must be new.

        Raises InvalidRequest when not exactly `size` bytes come or none for `stall_seconds`. Then, when `chunks` raises, and when
        cancelled, nothing stays stored.
        """
        pipe = ChunkPipe(read_seconds=2 * stall_seconds)
        metadata = _metadata(content_type, expire_time, file_name)
        job = self._connection.upload_threads.submit(self._store_stream, pipe, key, size, content_type, metadata)
        try:
            async with asyncio.timeout(60 + size / _MIN_UPLOAD_RATE):
                await pipe.fill(chunks, size=size, stall_seconds=stall_seconds)
                await outcome(job)
        except TimeoutError as err:
            await self._take_back(key, pipe, job)
            raise StoreUnavailable("files") from err
        except BaseException:
            await self._take_back(key, pipe, job)
            raise

    def _store_stream(self, pipe: ChunkPipe, key: str, size: int, content_type: str, metadata: Metadata) -> None:
        """In a thread. The SDK aborts its multipart upload when reading raises."""
        try:
            self._client.put_object(
                self._bucket,
                key,
                cast(BinaryIO, pipe),
                size,
                content_type=content_type,
                metadata=metadata,
                num_parallel_uploads=1,
            )
            if not pipe.commit():
                self._client.remove_object(self._bucket, key)
        finally:
            pipe.leave()

    async def _take_back(self, key: str, pipe: ChunkPipe, job: Future[None]) -> None:
        """Sees to it that nothing stays of a stream that broke off. Waits a little, so that a caller who looks finds it gone."""
        in_time = pipe.abort()
        await settle(job)
        if in_time:
            return
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                await self.delete(key)
        except (TimeoutError, StoreUnavailable):
            _log.warning("a broken-off upload stays until it expires", extra={"key": key})

    async def get(self, key: str, *, limit: int) -> bytes:
        """The whole file. Raises FileNotFound, and InvalidRequest when it has more than `limit` bytes."""
        return await self._connection.call(self._get, key, limit)

    def _get(self, key: str, limit: int) -> bytes:
        response = self._client.get_object(self._bucket, key)
        try:
            size = int(response.headers.get("content-length", 0))
            data = b"" if size > limit else response.read(limit + 1)
        finally:
            response.close()
            response.release_conn()
        if max(size, len(data)) > limit:
            raise InvalidRequest([FieldViolation("uri", f"the file has {size} bytes, at most {limit} are allowed")])
        return data

    async def stat(self, key: str) -> StoredFile | None:
        """What is stored under a key, or None."""
        try:
            found = await self._connection.call(self._client.stat_object, self._bucket, key)
        except FileNotFound:
            return None
        parsed = parse_key(key)
        expire_time = parsed.expire_time if parsed else 0.0  # of an upload; that of a picture is in its metadata
        if not expire_time:
            expire_time = float((found.metadata or {}).get(_EXPIRE_HEADER) or 0)
        return StoredFile(key, found.size or 0, found.content_type or "", expire_time, parsed.owner if parsed else "")

    async def delete(self, key: str) -> None:
        """Deletes a file; one that does not exist is deleted already."""
        try:
            await self._connection.call(self._client.remove_object, self._bucket, key)
        except FileNotFound:
            return

    async def delete_all(self, keys: Sequence[str]) -> int:
        """Deletes many files at once and says how many are gone; the others are left for the next time."""
        return len(keys) - await self._connection.call(self._delete_all, keys)

    def _delete_all(self, keys: Sequence[str]) -> int:
        failures = list(self._client.remove_objects(self._bucket, [DeleteObject(key) for key in keys]))
        if failures:
            _log.error("files could not be deleted", extra={"count": len(failures), "code": failures[0].code})
        return len(failures)

    async def expired(self, *, keep_seconds: float, limit: int = 1000) -> list[str]:
        """Keys of up to `limit` files that may be deleted, by the clock. `keep_seconds`: how long pictures are kept."""
        return await self._connection.call(self._expired, self._clock(), keep_seconds, limit)

    def _expired(self, now: float, keep_seconds: float, limit: int) -> list[str]:
        found: list[str] = []
        for kind in ("in/", "out/"):
            for owner in self._client.list_objects(self._bucket, kind):
                for key, last_modified in self._listed(owner.object_name or ""):
                    if len(found) == limit:
                        return found
                    if key.all_later_are_young(now=now, keep_seconds=keep_seconds):
                        break
                    if key.expired(last_modified, now=now, keep_seconds=keep_seconds):
                        found.append(key.key)
        return found

    async def forget_unfinished(self, *, age: float) -> int:
        """Forgets uploads in parts that were begun `age` seconds ago and never ended; says how many."""
        return await self._connection.call(self._forget_unfinished, self._clock() - age)

    def _forget_unfinished(self, before: float) -> int:
        # The SDK has these calls, but not for the public.
        page = self._client._list_multipart_uploads(self._bucket, prefix="in/", max_uploads=1000)
        old = [found for found in page.uploads if found.initiated_time and found.initiated_time.timestamp() < before]
        for found in old:
            self._client._abort_multipart_upload(self._bucket, found.object_name, found.upload_id or "")
        return len(old)

    def _listed(self, prefix: str) -> Iterator[tuple[FileKey, float]]:
        """Keys of ours with the unix time of their last change, in order; pages are fetched as they are needed."""
        for entry in self._client.list_objects(self._bucket, prefix, recursive=True):
            key = parse_key(entry.object_name or "")
            if key is not None and entry.last_modified is not None:
                yield key, entry.last_modified.timestamp()

    def link(self, key: str, *, seconds: float, file_name: str = "") -> Link:
        """A link to get a file with, for up to 7 days. Asks no server. `file_name`: what browsers save it as."""
        headers: Metadata | None = (
            {"response-content-disposition": content_disposition(file_name)} if file_name else None
        )
        return self._sign("GET", key, seconds, headers)

    def request_url(self, method: str, key: str, **query: str) -> str:
        """Where this service itself sends a request for an object. Asks no server."""
        return self._client.get_presigned_url(
            method,
            self._bucket,
            key,
            expires=timedelta(seconds=_OWN_REQUEST_SECONDS),
            extra_query_params=dict(query) or None,
        )

    def key_of(self, url: str) -> str:
        """The key in a link that was made here, "" for any other URL. Neither the signature nor the file is looked at."""
        return url.partition("?")[0].removeprefix(self._base) if url.startswith(self._base) else ""

    def upload_link(self, key: str, *, content_type: str, seconds: float, file_name: str = "") -> Link:
        """A link to PUT a file to, with the headers that the PUT must carry. Asks no server."""
        headers = {"Content-Type": content_type}
        if file_name:
            headers["Content-Disposition"] = content_disposition(file_name, content_type=content_type)
        return replace(self._sign("PUT", key, seconds, None), headers=headers)

    def _sign(self, method: str, key: str, seconds: float, response_headers: Metadata | None) -> Link:
        start = int(self._clock())
        span = int(min(max(seconds, 1), MAX_LINK_SECONDS))
        url = self._connection.public.get_presigned_url(
            method,
            self._bucket,
            key,
            expires=timedelta(seconds=span),
            response_headers=response_headers,
            request_date=datetime.fromtimestamp(start, UTC),
        )
        return Link(url, float(start + span))


def _metadata(content_type: str, expire_time: float, file_name: str) -> Metadata:
    metadata: Metadata = {_EXPIRE_HEADER: str(int(expire_time))}
    if file_name:
        metadata["Content-Disposition"] = content_disposition(file_name, content_type=content_type)
    return metadata
