"""Objects of the S3 store as streams: read in part, and written in parts. Nothing is held but what is on its way.

Requests go out over the event loop with signed addresses: the SDK's calls block a thread each for as long as the slowest caller takes.
A store that does not answer is StoreUnavailable, an object or an upload that does not exist FileNotFound.
"""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import httpx

from flashbulb_server.core.files import content_disposition, uri_of
from flashbulb_server.errors import FieldViolation, FileNotFound, InvalidRequest, StoreUnavailable
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.storage.sized import sized

CONNECTIONS = 256
"""Reads and writes at once. A caller that takes nothing for `STALL_SECONDS` loses its own; a slow one keeps it."""
STALL_SECONDS = 30.0
_CHUNK = 128 << 10
_ABORT_SECONDS = 5.0
_MISSING = (404, 410)
_READ = (200, 206, 304, 412, 416)
_REFUSED_PARTS = ("InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML")


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was stored. `etag` as the store gave it."""

    number: int
    etag: str


@dataclass(frozen=True, slots=True)
class Found:
    """An object, or a part of one: `status` 200, 206, 304, 412, or 416 for a range that it does not have. `chunks` may be read once."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Objects:
    """`async with Objects(store)`: owns the connections."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(STALL_SECONDS, connect=2.0),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=10),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def read(self, key: str, *, head: bool = False, conditions: Mapping[str, str]) -> AsyncIterator[Found]:
        """An object while the context is open. Raises FileNotFound, StoreUnavailable; `chunks` raises StoreUnavailable.

        `conditions`: headers of HTTP that say which part is wanted, or of which version.
        """
        method = "HEAD" if head else "GET"
        headers = {**conditions, "Accept-Encoding": "identity"}
        request = self._http.build_request(method, self._store.request_url(method, key), headers=headers)
        response = await self._send(request, key)
        try:
            if response.status_code not in _READ:
                raise StoreUnavailable("files")
            yield Found(response.status_code, response.headers, _chunks(response))
        finally:
            await response.aclose()

    async def begin(self, key: str, *, content_type: str, file_name: str) -> str:
        """Begins an object that comes in parts; gives the id of its upload. It does not exist until it is complete."""
        headers = {"Content-Type": content_type}
        if file_name:
            headers["Content-Disposition"] = content_disposition(file_name, content_type=content_type)
        response = await self._call("POST", key, {"uploads": ""}, headers=headers)
        upload_id = _text(response, "UploadId")
        if not upload_id:
            raise StoreUnavailable("files")
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, chunks: AsyncIterator[bytes], size: int) -> Part:
        """Stores a part while its bytes come. Raises InvalidRequest when they are not `size`; what `chunks` raises passes through."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        response = await self._call(
            "PUT",
            key,
            query,
            headers={"Content-Length": str(size)},
            content=sized(chunks, size, stall_seconds=STALL_SECONDS),
        )
        return Part(number, response.headers.get("etag", ""))

    async def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Makes the object of its parts. Raises InvalidRequest when they are not those that were stored."""
        root = ElementTree.Element("CompleteMultipartUpload")
        for part in sorted(parts, key=lambda part: part.number):
            entry = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(entry, "PartNumber").text = str(part.number)
            ElementTree.SubElement(entry, "ETag").text = part.etag
        response = await self._call("POST", key, {"uploadId": upload_id}, content=ElementTree.tostring(root), bad=True)
        code = _text(response, "Code")  # a failure may come with 200: the store answers before it is done
        if response.status_code != 200 or code:
            if response.status_code < 500 and code in _REFUSED_PARTS:
                raise InvalidRequest([FieldViolation("parts", f"are not those that were uploaded ({code})")])
            raise StoreUnavailable("files")

    async def abort(self, key: str, upload_id: str) -> None:
        """Forgets an upload and its parts; one that is gone is forgotten already."""
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._call("DELETE", key, {"uploadId": upload_id})
        except FileNotFound:
            return
        except TimeoutError as err:
            raise StoreUnavailable("files") from err

    async def _call(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        bad: bool = False,
    ) -> httpx.Response:
        """`bad`: whether the caller looks at refusals itself."""
        url = self._store.request_url(method, key, **query)
        response = await self._send(self._http.build_request(method, url, headers=headers, content=content), key)
        try:
            await response.aread()
        except httpx.HTTPError as err:
            raise StoreUnavailable("files") from err
        finally:
            await response.aclose()
        if not bad and response.status_code >= 300:
            raise StoreUnavailable("files")
        return response

    async def _send(self, request: httpx.Request, key: str) -> httpx.Response:
        try:
            response = await self._http.send(request, stream=True)
        except httpx.HTTPError as err:
            raise StoreUnavailable("files") from err
        if response.status_code in _MISSING:
            await response.aclose()
            raise FileNotFound(uri_of(key))
        return response


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw(_CHUNK):
            yield chunk
    except httpx.HTTPError as err:
        raise StoreUnavailable("files") from err


def _text(response: httpx.Response, name: str) -> str:
    """The text of the first element of that name, whatever its namespace."""
    try:
        root = ElementTree.fromstring(response.content)  # from our own store
    except ElementTree.ParseError:
        return ""
    found = next((element for element in root.iter() if element.tag.rpartition("}")[2] == name), None)
    return (found.text or "") if found is not None else ""
