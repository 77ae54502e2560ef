"""The fake engine of every peer, equal to tests.sleeping_pipeline with the picture of tests.sleeping_worker.

Runs in the peers' own environment, so it may import nothing of the project.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from PIL import Image

SECONDS = float(os.environ["SLEEPING_SECONDS"])
MAX_BATCH = int(os.environ["MAX_BATCH"])
PORT = int(os.environ["PORT"])
HTTP_PORT = int(os.environ["HTTP_PORT"])  # of servers that want two
NOISE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def sleep(count: int) -> None:
    """One call over `count` pictures."""
    time.sleep(SECONDS * (0.35 + 0.65 * count))


def encode() -> bytes:
    """The file of a picture, 60 kB."""
    file = BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG", quality=95)
    return file.getvalue()


class Batcher:
    """For servers without a batcher, or with one that only waits: whatever waits when the engine gets free shares the next call."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[asyncio.Future[bytes]] = asyncio.Queue()
        self._device = ThreadPoolExecutor(1)
        self._encoders = ThreadPoolExecutor(4)

    async def draw(self) -> bytes:
        """A picture."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(answer)
        return await answer

    async def run(self) -> None:
        """Draws for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await loop.run_in_executor(self._device, sleep, len(batch))
            for answer in batch:
                self._encoders.submit(self._answer, loop, answer)

    def _answer(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[bytes]) -> None:
        loop.call_soon_threadsafe(answer.set_result, encode())
