"""Pictures that come inline with a request for the queue: kept as files, as a record has no room for them and its result must name them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from flashbulb_server.core.files import upload_key, uri_of
from flashbulb_server.core.generation import GenerationSpec, SourceImage
from flashbulb_server.core.sources import BadSource, inline_bytes
from flashbulb_server.errors import FieldViolation, InvalidRequest, StoreUnavailable
from flashbulb_server.storage.file_store import FileStore

_MEDIA_TYPE = "application/octet-stream"  # what it is, a worker sees when it looks


@dataclass(frozen=True, slots=True)
class InlineFiles:
    """Files to be of one submission, by key; `spec` names them already."""

    spec: GenerationSpec
    contents: Mapping[str, bytes]
    expire_time: float


def inline_files(
    spec: GenerationSpec, owner: str, request_id: str, inline: Mapping[str, bytes], *, expire_time: float
) -> InlineFiles:
    """The files of a request. Keys derive from it alone, so submitting it again overwrites and never duplicates.

    `inline`: contents by the paths of `spec.sources`.
    """
    keys = {
        path: upload_key(
            owner,
            expire_time=expire_time,
            unique=uuid.uuid5(uuid.NAMESPACE_URL, f"flashbulb:{request_id}/{path}"),
            file_name=path,
        )
        for path in inline
    }
    uris = {path: SourceImage(uri_of(key)) for path, key in keys.items()}
    contents = {key: inline[path] for path, key in keys.items()}
    return InlineFiles(spec.with_sources(uris), contents, expire_time)


class InlineSources:
    """Stores inline pictures."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    async def read(self, spec: GenerationSpec) -> Mapping[str, bytes]:
        """The bytes of the spec's inline pictures, by path. Raises InvalidRequest for a data URI that cannot be read."""
        inline = {path: source for path, source in spec.sources.items() if source.inline}
        found: dict[str, bytes] = {}
        problems: list[FieldViolation] = []
        for path, source in inline.items():
            try:
                found[path] = await asyncio.to_thread(inline_bytes, source)
            except BadSource as err:
                problems.append(FieldViolation(path, str(err)))
        if problems:
            raise InvalidRequest(problems)
        return found

    async def store(self, files: InlineFiles) -> None:
        """Puts them. Raises StoreUnavailable; what is stored then, the next try overwrites or the sweeper finds."""
        for key, content in files.contents.items():
            await self._files.put(key, content, content_type=_MEDIA_TYPE, expire_time=files.expire_time)

    async def discard(self, files: InlineFiles) -> None:
        """Deletes them again, if the store answers; else the sweeper finds them."""
        if files.contents:
            try:
                await self._files.delete_all(list(files.contents))
            except StoreUnavailable:
                return
