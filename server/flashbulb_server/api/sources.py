"""Pictures that come inline with a request for the queue: kept as files, as a record has no room for them and its result must name them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flashbulb_server.core.files import upload_key, uri_of
from flashbulb_server.core.generation import SOURCE_FIELDS, GenerationSpec, SourceImage
from flashbulb_server.core.sources import BadSource, inline_bytes
from flashbulb_server.errors import FieldViolation, InvalidRequest, StoreUnavailable
from flashbulb_server.storage.file_store import FileStore

_FIELDS = {attribute: field for field, attribute in SOURCE_FIELDS.items()}
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
    """The files of a request. Keys derive from it alone, so submitting it again overwrites and never duplicates."""
    keys = {
        name: upload_key(
            owner,
            expire_time=expire_time,
            unique=uuid.uuid5(uuid.NAMESPACE_URL, f"flashbulb:{request_id}/{name}"),
            file_name=name,
        )
        for name in inline
    }
    uris = {name: SourceImage(uri_of(key)) for name, key in keys.items()}
    contents = {key: inline[name] for name, key in keys.items()}
    return InlineFiles(replace(spec, **uris), contents, expire_time)  # type: ignore[arg-type]  # the attributes are of `sources`


class InlineSources:
    """Stores inline pictures."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    async def read(self, spec: GenerationSpec) -> Mapping[str, bytes]:
        """The bytes of the spec's inline pictures, by attribute. Raises InvalidRequest for a data URI that cannot be read."""
        inline = {name: source for name, source in spec.sources.items() if source.inline}
        found: dict[str, bytes] = {}
        problems: list[FieldViolation] = []
        for name, source in inline.items():
            try:
                found[name] = await asyncio.to_thread(inline_bytes, source)
            except BadSource as err:
                problems.append(FieldViolation(_FIELDS[name], str(err)))
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
