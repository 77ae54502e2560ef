"""Realtime: sessions whose callers edit faster than pictures can be drawn, alone, beside a full queue, and beside one that does not read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc

from flashbulb.v1 import input_pb2, queue_pb2, realtime_pb2
from tests.bench.load import resident_bytes
from tests.bench.targets import picture
from tests.service import SPARE_KEYS, Stubs, auth, stubs

EDITS_PER_SECOND = 30
STEPS = 4
_SETTLE_SECONDS = 1.0  # what is drawn while a session is new is not counted
_END_SECONDS = 10.0


@dataclass(slots=True)
class Seen:
    """What a caller saw. `ages`: seconds from sending the edit to having its picture; `wasted`: steps of frames that were dropped."""

    ages: list[float] = field(default_factory=list)
    seconds: float = 0.0
    drawn_steps: int = 0
    wasted: list[int] = field(default_factory=list)
    skipped: int = 0

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.ages) / self.seconds

    @property
    def gone(self) -> int:
        """Steps that were wasted."""
        return sum(self.wasted)


class Editor:
    """A caller that changes its prompt `edits` times a second, at times that do not depend on the answers.

    `in_flight`: frames that it asks to be drawn at once.
    """

    def __init__(self, call: Stubs, key: str, *, edits: int = EDITS_PER_SECOND, in_flight: int = 1) -> None:
        self._edits = edits
        self._in_flight = in_flight
        self._stream = call.realtime.Connect(metadata=auth(key))
        self._sent: dict[int, float] = {}
        self.seen = Seen()

    async def edit(self, seconds: float) -> Seen:
        """Edits, looks, and closes."""
        await self._open()
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look(started + _SETTLE_SECONDS, started + seconds))
                await self.send(seconds, started)
                await self._stream.done_writing()
        finally:
            self._stream.cancel()
        self.seen.seconds = seconds - _SETTLE_SECONDS
        return self.seen

    async def do_not_read(self, seconds: float) -> int:
        """Edits without ever reading an answer. Gives the edits that were taken from it."""
        await self._open()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds + 1):
                    await self.send(seconds, time.perf_counter())
        finally:
            self._stream.cancel()
        return len(self._sent)

    async def send(self, seconds: float, started: float) -> None:
        """Edits at their times."""
        for number in range(round(seconds * self._edits)):
            await asyncio.sleep(max(0.0, started + number / self._edits - time.perf_counter()))
            changes = input_pb2.GenerationInput()
            changes.fast_lcm_text_to_image.prompt = f"a red apple, edit {number}"
            self._sent[number + 1] = time.perf_counter()
            frame = realtime_pb2.InputFrame(frame_id=number + 1, changes=changes)
            await self._stream.write(realtime_pb2.ConnectRequest(frame=frame))

    async def _open(self) -> None:
        wish = realtime_pb2.OpenSession(defaults=picture(steps=STEPS), max_frames_in_flight=self._in_flight)
        await self._stream.write(realtime_pb2.ConnectRequest(open=wish))
        opened = await self._stream.read()
        assert opened.WhichOneof("message") == "opened", opened

    async def _look(self, first: float, last: float) -> None:
        while (response := await self._stream.read()) is not grpc.aio.EOF:
            now = time.perf_counter()
            kind = response.WhichOneof("message")
            if not first <= now <= last:
                continue
            if kind == "frame":
                self.seen.ages.append(now - self._sent[response.frame.frame_id])
                self.seen.drawn_steps += STEPS
            elif kind == "dropped" and response.dropped.stopped_at_step:
                self.seen.wasted.append(response.dropped.stopped_at_step)
            elif kind == "dropped":
                self.seen.skipped += 1


async def edit_together(call: Stubs, sessions: int, seconds: float) -> list[Seen]:
    """So many sessions at once, each of a key of its own, begun one after another within the time between two edits."""

    async def one(index: int) -> Seen:
        await asyncio.sleep(index / sessions / EDITS_PER_SECOND)
        return await Editor(call, SPARE_KEYS[index]).edit(seconds)

    return list(await asyncio.gather(*(one(index) for index in range(sessions))))


async def fill_queue(call: Stubs, count: int) -> None:
    """Submits so many requests of the same size and steps, of one other key."""
    left = iter(range(count))

    async def submitter() -> None:
        for index in left:
            request = queue_pb2.SubmitRequest(input=picture(f"queued {index}", STEPS))
            await call.queue.Submit(request, metadata=auth(SPARE_KEYS[-1]))

    await asyncio.gather(*(submitter() for _ in range(16)))


async def queue_is_full(call: Stubs) -> bool:
    """Whether some of them still wait."""
    request = queue_pb2.ListRequest(page_size=1, states=[queue_pb2.GenerationRequest.State.STATE_QUEUED])
    return bool((await call.queue.List(request, metadata=auth(SPARE_KEYS[-1]))).requests)


class Growth:
    """The most memory that a process takes more than at the start, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = resident_bytes(pid)
        self.most = 0

    async def watch(self, seconds: float) -> None:
        """Looks ten times a second."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.most = max(self.most, resident_bytes(self._pid) - self._before)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Stubs]:
    """Stubs over a connection of their own, of which grpc does not widen the window: what is not read stays with the server."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield stubs(channel)
