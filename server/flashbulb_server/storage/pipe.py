"""A bounded pipe from the event loop to a blocking reader in a thread, for uploads that are never held whole."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing

from flashbulb_server.storage.sized import sized

_CHUNKS = 2  # in the pipe at once; the writer waits for more room


class PipeBroken(Exception):
    """The other side is gone."""


class ChunkPipe:
    """Written by one task, read by one thread. Exactly one of `abort` and `commit` wins, whatever happens at the same time."""

    def __init__(self, *, read_seconds: float) -> None:
        """`read_seconds`: how long the reader waits for a chunk, a net below the writer's own limit."""
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(_CHUNKS)
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._read_seconds = read_seconds
        self._buffer = bytearray()
        self._ended = False
        self._reader_gone = False
        self._outcome: str | None = None
        self._lock = threading.Lock()

    async def fill(self, chunks: AsyncIterator[bytes], *, size: int, stall_seconds: float) -> None:
        """Writes `chunks` and checks that they are `size` bytes. Returns early when the reader is gone: the thread knows why.

        Raises InvalidRequest when it is more or less, or when none comes for `stall_seconds`.
        """
        async with aclosing(sized(chunks, size, stall_seconds=stall_seconds, field="chunk")) as whole:
            async for chunk in whole:
                try:
                    if chunk:
                        await self.write(chunk)
                except PipeBroken:
                    return
        self.end()

    async def write(self, chunk: bytes) -> None:
        """Waits for room. Raises PipeBroken when the reader is gone."""
        await self._room.acquire()
        if self._reader_gone:
            raise PipeBroken
        self._chunks.put(chunk)

    def end(self) -> None:
        """No more chunks come."""
        self._chunks.put(b"")

    def abort(self) -> bool:
        """The writer gives up: the reader meets PipeBroken. False if the reader had committed already."""
        with self._lock:
            self._outcome = self._outcome or "aborted"
        self._chunks.put(None)
        return self._outcome == "aborted"

    def read(self, size: int) -> bytes:
        """In the thread: `size` bytes, fewer only at the end. Raises PipeBroken when the writer gave up or fell silent."""
        while len(self._buffer) < size and not self._ended:
            try:
                chunk = self._chunks.get(timeout=self._read_seconds)
            except queue.Empty:
                raise PipeBroken from None
            if chunk is None:
                raise PipeBroken
            self._ended = not chunk
            self._buffer += chunk
            self._give_room(1)
        with memoryview(self._buffer) as view:
            taken = bytes(view[:size])
        del self._buffer[:size]
        return taken

    def commit(self) -> bool:
        """In the thread: what was read has been stored. False if the writer gave up before."""
        with self._lock:
            self._outcome = self._outcome or "committed"
            return self._outcome == "committed"

    def leave(self) -> None:
        """In the thread: nothing more is read; a waiting writer is freed."""
        self._reader_gone = True
        self._give_room(_CHUNKS)

    def _give_room(self, count: int) -> None:
        def give() -> None:
            for _ in range(count):
                self._room.release()

        try:
            self._loop.call_soon_threadsafe(give)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return
