"""From drawn pictures to files: encoded in threads, stored under keys that derive from the request, or handed over inline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

from flashbulb_server.core.files import output_key
from flashbulb_server.core.generation import DrawnImage, GenerationResult, GenerationSpec, inline_allowed
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.worker.drawing import Drawn
from flashbulb_server.worker.encode import encode

_SMALL_PIXELS = 256 * 256
"""A JPEG so small is made within a millisecond, of which waking another thread would take a good part."""


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
        *,
        keep_seconds: float,
        url_seconds: float,
        threads: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
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
        started = time.perf_counter()
        contents = await asyncio.gather(*map(asyncio.wrap_future, self.start_encoding(drawn, spec)))
        encoded = time.perf_counter()
        keys = await self._put(contents, spec, origin)
        timings = {"encode_image": encoded - started, "upload": time.perf_counter() - encoded}
        images = [self._image(drawn, spec, i, content) for i, content in enumerate(contents)]
        stored = [replace(image, content=b"", key=key) for image, key in zip(images, keys, strict=True)]
        return self._result(drawn, spec, tuple(stored), timings)

    def start_encoding(self, drawn: Drawn, spec: GenerationSpec, *, idle: bool = False) -> list[Future[bytes]]:
        """The files to be, one for each picture. From any thread: the device thread calls it, so that no turn of the loop lies between.

        `idle`: whether the thread has nothing else to do; then a small JPEG is made here.
        """
        small = spec.format == "jpeg" and drawn.width * drawn.height <= _SMALL_PIXELS
        if idle and small and len(drawn.pictures) == 1:
            done: Future[bytes] = Future()
            done.set_result(_file(drawn.pictures[0], drawn, spec))
            return [done]
        return [self._threads.submit(_file, picture, drawn, spec) for picture in drawn.pictures]

    def inline(
        self, drawn: Drawn, spec: GenerationSpec, contents: Sequence[bytes], timings: Mapping[str, float]
    ) -> GenerationResult | None:
        """The files inline, if `sync_mode` asks for it and they fit."""
        if not spec.sync_mode or not inline_allowed([len(content) for content in contents]):
            return None
        images = [self._image(drawn, spec, i, content) for i, content in enumerate(contents)]
        return self._result(drawn, spec, tuple(images), timings)

    async def linked(
        self,
        drawn: Drawn,
        spec: GenerationSpec,
        contents: Sequence[bytes],
        timings: Mapping[str, float],
        origin: Origin,
    ) -> GenerationResult:
        """The files stored, with links to them. Raises StoreUnavailable."""
        started = time.perf_counter()
        links = [self._files.link(key, seconds=self._url_seconds) for key in await self._put(contents, spec, origin)]
        upload = time.perf_counter() - started
        images = [
            replace(self._image(drawn, spec, i, content), content=b"", url=link.url, url_expire_time=link.expire_time)
            for i, (content, link) in enumerate(zip(contents, links, strict=True))
        ]
        return self._result(drawn, spec, tuple(images), {**timings, "upload": upload})

    async def discard(self, spec: GenerationSpec, origin: Origin) -> None:
        """Deletes what `store` may have put already. Raises StoreUnavailable."""
        await self._files.delete_all(_keys(spec, origin))

    async def _put(self, contents: Sequence[bytes], spec: GenerationSpec, origin: Origin) -> list[str]:
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

    def _image(self, drawn: Drawn, spec: GenerationSpec, index: int, content: bytes) -> DrawnImage:
        return DrawnImage(
            content_type=spec.content_type,
            width=drawn.width,
            height=drawn.height,
            native_width=drawn.native_width,
            native_height=drawn.native_height,
            size_bytes=len(content),
            seed=spec.seed + index,
            content=content,
        )

    def _result(
        self, drawn: Drawn, spec: GenerationSpec, images: tuple[DrawnImage, ...], timings: Mapping[str, float]
    ) -> GenerationResult:
        return GenerationResult(
            spec=spec,
            images=images,
            has_nsfw_concepts=drawn.has_nsfw_concepts,
            fidelity=drawn.fidelity,
            mean_batch_size=drawn.mean_batch_size,
            timings={**drawn.timings, **timings},
            backend=drawn.backend,
        )


def _file(picture: Pixels, drawn: Drawn, spec: GenerationSpec) -> bytes:
    return encode(picture, width=drawn.width, height=drawn.height, format=spec.format)


def _keys(spec: GenerationSpec, origin: Origin) -> list[str]:
    return [output_key(origin.owner, origin.request_id, index, spec.format) for index in range(spec.num_images)]
