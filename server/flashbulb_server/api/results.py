"""Results as callers get them: links made now, bytes inline where they were asked for and fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flashbulb_server.core.generation import DrawnImage, GenerationResult, inline_allowed
from flashbulb_server.storage.file_store import FileStore


class Results:
    """Dresses stored results."""

    def __init__(self, files: FileStore, *, url_seconds: float) -> None:
        self._files = files
        self._url_seconds = url_seconds

    async def present(self, result: GenerationResult) -> GenerationResult:
        """The result with links, and with bytes for `sync_mode`. Raises StoreUnavailable, FileNotFound."""
        inline = result.spec.sync_mode and inline_allowed([image.size_bytes for image in result.images])
        images = await asyncio.gather(*(self._present(image, inline) for image in result.images))
        return replace(result, images=tuple(images))

    async def _present(self, image: DrawnImage, inline: bool) -> DrawnImage:
        content = await self._files.get(image.key, limit=image.size_bytes) if inline else b""
        link = self._files.link(image.key, seconds=self._url_seconds)
        return replace(image, content=content, url=link.url, url_expire_time=link.expire_time)
