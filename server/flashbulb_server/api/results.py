"""Results as callers get them: links made now, bytes inline where they were asked for and fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flashbulb_server.core.generation import DrawnImage, GenerationResult, inline_allowed
from flashbulb_server.storage.file_store import FileStore


class Results:
    """Dresses stored results. `gateway_url`: where everybody reaches the gateway, if that is known; links sent unasked go there."""

    def __init__(self, files: FileStore, *, url_seconds: float, gateway_url: str = "") -> None:
        self._files = files
        self._url_seconds = url_seconds
        self._gateway_url = gateway_url.rstrip("/")

    async def present(self, result: GenerationResult, *, seconds: float) -> GenerationResult:
        """The result with links, which work for `seconds` at most, and with bytes for `sync_mode`. Raises StoreUnavailable, FileNotFound."""
        inline = result.spec.sync_mode and inline_allowed([image.size_bytes for image in result.images])
        images = await asyncio.gather(
            *(self._present(image, inline, min(self._url_seconds, seconds)) for image in result.images)
        )
        return replace(result, images=tuple(images))

    def linked(self, result: GenerationResult) -> GenerationResult:
        """The result with links alone, also for `sync_mode`: what is sent somewhere unasked should be small."""
        return replace(result, images=tuple(map(self._linked, result.images)))

    def _linked(self, image: DrawnImage) -> DrawnImage:
        link = self._files.link(image.key, seconds=self._url_seconds)
        url = link.url
        if self._gateway_url:
            url = f"{self._gateway_url}/cdn/{self._files.links.path(image.key, until=link.expire_time)}"
        return replace(image, url=url, url_expire_time=link.expire_time)

    async def _present(self, image: DrawnImage, inline: bool, seconds: float) -> DrawnImage:
        content = await self._files.get(image.key, limit=image.size_bytes) if inline else b""
        link = self._files.link(image.key, seconds=seconds)
        return replace(image, content=content, url=link.url, url_expire_time=link.expire_time)
