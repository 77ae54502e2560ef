"""An event loop in a thread of its own, for callers without one.

1. The thread starts at the first call and is a daemon: a program that forgets to close still ends.
2. A caller that is interrupted cancels what it waits for, and waits for the cancellation's own work up to a limit.
3. Streams are a rendezvous: the coroutine goes on only when the caller has dealt with the item, so nothing piles up.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import aclosing, closing
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Relay = Callable[[T], Awaitable[None]]

UNWIND_SECONDS = 10.0


class LoopThread:
    """The thread and its loop. `last` is awaited in it before it ends."""

    def __init__(self, last: Callable[[], Awaitable[None]]) -> None:
        self._last = last
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False

    def call(self, start: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """What a coroutine returns or raises."""
        return self.relay(lambda _: start(), _never)

    def relay(self, start: Callable[[Relay[T]], Coroutine[Any, Any, R]], handle: Callable[[T], object]) -> R:
        """What a coroutine returns or raises; `handle` is called in the caller's thread with every item that it relays."""
        with closing(self._run(start)) as items:
            while True:
                try:
                    item = next(items)
                except StopIteration as stop:
                    answer: R = stop.value
                    return answer
                handle(item)

    def iterate(self, start: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
        """The items of an asynchronous generator, which is closed when this one is."""

        async def pump(relay: Relay[T]) -> None:
            async with aclosing(start()) as items:
                async for item in items:
                    await relay(item)

        yield from self._run(pump)

    def close(self) -> None:
        """Ends the thread and what runs in it. Idempotent."""
        with self._lock:
            self._closed = True
            thread, loop = self._thread, self._loop
        if thread is None or loop is None or not thread.is_alive():
            return
        loop.call_soon_threadsafe(self._stop.set)
        if thread is not threading.current_thread():  # a client may be collected in its own thread
            thread.join(UNWIND_SECONDS)

    def _run(self, start: Callable[[Relay[T]], Coroutine[Any, Any, R]]) -> Generator[T, None, R]:
        loop = self._started()
        inbox: queue.SimpleQueue[tuple[T, asyncio.Future[None]] | None] = queue.SimpleQueue()
        finished = threading.Event()

        async def relay(item: T) -> None:
            handled = loop.create_future()
            inbox.put((item, handled))
            await handled

        async def run() -> R:
            try:
                return await start(relay)
            finally:
                finished.set()

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        future.add_done_callback(lambda _: inbox.put(None))
        try:
            while (entry := inbox.get()) is not None:
                item, handled = entry
                yield item
                loop.call_soon_threadsafe(_settle, handled)
            return future.result()
        finally:
            if future.cancel() and threading.current_thread() is not self._thread:
                finished.wait(UNWIND_SECONDS)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._loop is None:
                ready: Future[asyncio.AbstractEventLoop] = Future()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(ready)), name="flashbulb", daemon=True
                )
                self._thread.start()
                self._loop = ready.result()
            return self._loop

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_handle_exception)
        ready.set_result(loop)
        await self._stop.wait()
        await self._last()


def _never(item: object) -> None:
    raise AssertionError(item)


def _settle(handled: asyncio.Future[None]) -> None:
    if not handled.done():  # cancelled meanwhile
        handled.set_result(None)


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # grpc.aio wakes the loops of all threads for every event; those that come too late find nothing to read. Harmless noise
    # (grpc/grpc#42357).
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
