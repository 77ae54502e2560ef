"""From drawn pictures to files: encoded in threads, stored under keys that derive from the request, or handed over inline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.files import output_key
from flashbulb_server.core.generation import DrawnImage, GenerationResult, GenerationSpec, inline_allowed
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.worker.drawing import Drawn
from flashbulb_server.worker.encode import encode

_SMALL_PIXELS = 128 * 128
"""A picture so small is encoded in 0.2 ms, where going to a thread and back takes longer."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose pictures they are; names their keys."""

    owner: str
    request_id: str


class Delivery:
    """Makes results. `async with`: owns the threads that encode. `clock` gives unix seconds."""

    def __init__(
        self,
        files: FileStore,
        models: dict[str, ModelInfo],
        *,
        keep_seconds: float,
        url_seconds: float,
        threads: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._models = models
        self._keep_seconds = keep_seconds
        self._url_seconds = url_seconds
        self._clock = clock
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="flashbulb-encode")

    async def __aenter__(self) -> Delivery:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def store(self, drawn: Drawn, spec: GenerationSpec, origin: Origin) -> GenerationResult:
        """Puts every picture into the store. Doing it twice overwrites. Raises StoreUnavailable."""
        contents, encoded = await self._encode(drawn, spec)
        started = time.perf_counter()
        keys = await self._put(contents, spec, origin)
        timings = {"encode_image": encoded, "upload": time.perf_counter() - started}
        images = [self._image(drawn, spec, i, len(content)) for i, content in enumerate(contents)]
        stored = [replace(image, key=key) for image, key in zip(images, keys, strict=True)]
        return self._result(drawn, spec, tuple(stored), timings)

    async def hand_over(self, drawn: Drawn, spec: GenerationSpec, origin: Origin) -> GenerationResult:
        """The bytes inline if `sync_mode` asks for them and they fit, else stored with links. Raises StoreUnavailable."""
        contents, encoded = await self._encode(drawn, spec)
        timings = {"encode_image": encoded}
        images = [self._image(drawn, spec, i, len(content)) for i, content in enumerate(contents)]
        if spec.sync_mode and inline_allowed([len(content) for content in contents]):
            dressed = [replace(image, content=content) for image, content in zip(images, contents, strict=True)]
        else:
            started = time.perf_counter()
            links = [
                self._files.link(key, seconds=self._url_seconds) for key in await self._put(contents, spec, origin)
            ]
            timings["upload"] = time.perf_counter() - started
            dressed = [
                replace(image, url=link.url, url_expire_time=link.expire_time)
                for image, link in zip(images, links, strict=True)
            ]
        return self._result(drawn, spec, tuple(dressed), timings)

    async def discard(self, spec: GenerationSpec, origin: Origin) -> None:
        """Deletes what `store` may have put already. Raises StoreUnavailable."""
        await self._files.delete_all(_keys(spec, origin))

    async def _encode(self, drawn: Drawn, spec: GenerationSpec) -> tuple[list[bytes], float]:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()

        def work(picture: Pixels) -> bytes:
            return encode(picture, width=drawn.width, height=drawn.height, format=spec.format)

        if len(drawn.pictures) == 1 and drawn.width * drawn.height <= _SMALL_PIXELS:
            contents = [work(drawn.pictures[0])]
        else:
            contents = await asyncio.gather(*(loop.run_in_executor(self._threads, work, p) for p in drawn.pictures))
        return contents, time.perf_counter() - started

    async def _put(self, contents: list[bytes], spec: GenerationSpec, origin: Origin) -> list[str]:
        keys = _keys(spec, origin)
        expire_time = self._clock() + self._keep_seconds
        away = False
        try:
            async with task_group() as puts:
                for key, content in zip(keys, contents, strict=True):
                    puts.create_task(
                        self._files.put(key, content, content_type=spec.content_type, expire_time=expire_time)
                    )
        except* StoreUnavailable:  # of one put, or of several at once
            away = True
        if away:
            raise StoreUnavailable("files")
        return keys

    def _image(self, drawn: Drawn, spec: GenerationSpec, index: int, size: int) -> DrawnImage:
        return DrawnImage(
            content_type=spec.content_type,
            width=drawn.width,
            height=drawn.height,
            native_width=drawn.native_width,
            native_height=drawn.native_height,
            size_bytes=size,
            seed=spec.seed + index,
        )

    def _result(
        self, drawn: Drawn, spec: GenerationSpec, images: tuple[DrawnImage, ...], timings: dict[str, float]
    ) -> GenerationResult:
        return GenerationResult(
            spec=spec,
            images=images,
            has_nsfw_concepts=drawn.has_nsfw_concepts,
            fidelity=self._models[spec.model_name].fidelity,
            mean_batch_size=drawn.mean_batch_size,
            timings={**drawn.timings, **timings},
        )


def _keys(spec: GenerationSpec, origin: Origin) -> list[str]:
    return [output_key(origin.owner, origin.request_id, index, spec.format) for index in range(spec.num_images)]
