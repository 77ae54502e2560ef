"""The pictures that a drawing starts from: fetched, decoded and fitted before the engine hears of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType

from PIL import Image

from flashbulb_server.core.catalog import ModelInfo, Task
from flashbulb_server.core.files import URI_PREFIX, FileKey, parse_key
from flashbulb_server.core.framing import frame
from flashbulb_server.core.generation import GenerationSpec, SourceImage
from flashbulb_server.core.pipeline import Pixels, Sources
from flashbulb_server.core.sources import MAX_FETCHED_BYTES, BadSource, inline_bytes
from flashbulb_server.errors import BadImage, FileNotFound, InvalidRequest
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.web.guard import is_public
from flashbulb_server.worker import decode, similar
from flashbulb_server.worker.fetching import FETCH_SECONDS, Fetcher

FETCHES = 8
"""Pictures fetched at once: each may be 20 MiB, and a slow server may hold its place for 15 s. Inline pictures do not wait for one."""

DECODERS = 2
"""Pictures decoded at once: one of 50 megapixels takes up to 700 MB for a moment."""


class Inputs:
    """Makes sources. `async with`: owns connections, and the threads that decode.

    `allow_private_urls`: whether pictures may be fetched from addresses that are not public; `fetch_seconds`: limit of one fetch.
    """

    def __init__(
        self,
        files: FileStore,
        models: Mapping[str, ModelInfo],
        *,
        allow_private_urls: bool,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        self._files = files
        self._models = models
        allowed = (lambda _: True) if allow_private_urls else is_public
        self._fetcher = Fetcher(allowed=allowed, seconds=fetch_seconds)
        self._fetches = asyncio.Semaphore(FETCHES)
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="flashbulb-decode")
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Inputs:
        await self._open.enter_async_context(self._fetcher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._open.aclose()

    async def gather(self, spec: GenerationSpec, owner: str) -> Sources | None:
        """The pictures of a spec, None for one without. `owner`: whose files it may name.

        Raises BadImage, or StoreUnavailable. May be cancelled at any time.
        """
        if not spec.sources:
            return None
        # One after another: what two pictures would gain together, a queue of drawings gains anyhow.
        files = {path: await self._bytes(source, path, owner) for path, source in spec.sources.items()}
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decoded, spec, files)

    async def thumbnail(self, sources: Sources) -> bytes:
        """What worker.similar compares."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, similar.thumbnail, sources.image)

    async def _bytes(self, source: SourceImage, path: str, owner: str) -> bytes:
        try:
            if source.content:
                return source.content
            if source.inline:
                return await asyncio.get_running_loop().run_in_executor(self._threads, inline_bytes, source)
            async with self._fetches:
                return await self._fetched(source.uri, owner)
        except BadSource as err:
            kind = "image_load_error" if source.inline else "file_download_error"
            raise BadImage(path, str(err), kind) from err

    async def _fetched(self, uri: str, owner: str) -> bytes:
        linked = self._files.links.named_by(uri)
        if linked is not None:
            ends = (end for end in (linked.until, linked.key.expire_time) if end)
            if not linked.readable_by(owner) or min(ends, default=math.inf) <= time.time():
                raise BadSource("no such file")
            return await self._stored(linked.key)
        named = uri.removeprefix(URI_PREFIX) if uri.startswith(URI_PREFIX) else self._files.key_of(uri)
        key = parse_key(named) if named else None
        if key is None or (key.owner != owner and not uri.startswith(URI_PREFIX)):
            return await self._fetcher.fetch(uri)
        if key.owner != owner:
            raise BadSource("no such file")
        return await self._stored(key)

    async def _stored(self, key: FileKey) -> bytes:
        try:
            return await self._files.get(key.key, limit=MAX_FETCHED_BYTES)
        except FileNotFound as err:
            raise BadSource("no such file") from err
        except InvalidRequest as err:
            raise BadSource(f"has more than {MAX_FETCHED_BYTES} bytes") from err

    def _decoded(self, spec: GenerationSpec, files: Mapping[str, bytes]) -> Sources:
        """In a thread."""
        if spec.task is Task.EDIT:
            return Sources(_together(files), None, spec.width, spec.height)
        image = _read("image_url", files["image_url"])
        chosen = frame(spec, image.size, self._models[spec.model_name])
        mask = None
        if "mask_url" in files:
            mask = decode.levels(_read("mask_url", files["mask_url"]), chosen, image.size)
        return Sources((decode.colours(image, chosen),), mask, *chosen.answer)


def _together(files: Mapping[str, bytes]) -> tuple[Pixels, ...]:
    """Pictures at their own sizes, which have no more pixels all together than a single one may."""
    pictures: list[Pixels] = []
    left = decode.MAX_PIXELS
    for path, data in files.items():
        image = _read(path, data, most=left)
        left -= image.width * image.height
        pictures.append(decode.whole(image))
    return tuple(pictures)


def _read(path: str, data: bytes, *, most: int = decode.MAX_PIXELS) -> Image.Image:
    try:
        return decode.read(data, most=most)
    except BadSource as err:
        raise BadImage(path, str(err)) from err
