"""A direct call: from an api's message to its one answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from flashbulb.internal.v1 import engine_pb2
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import GenerationResult, GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.pipeline import Sources
from flashbulb_server.errors import EngineFailed, FlashbulbError, RequestCancelled, WorkersBusy
from flashbulb_server.wire.inputs import to_spec
from flashbulb_server.wire.outputs import output_fields, to_preview, to_progress
from flashbulb_server.wire.status import to_status
from flashbulb_server.wire.times import from_duration
from flashbulb_server.wire.unreadable import Unreadable
from flashbulb_server.worker.delivery import Delivery, Origin
from flashbulb_server.worker.drawing import Drawing, Drawn
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs
from flashbulb_server.worker.similar import difference

Response = engine_pb2.DrawResponse
_WORK_CLASSES: Mapping[int, WorkClass] = {engine_pb2.WORK_CLASS_REALTIME: WorkClass.REALTIME}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What calls are answered with."""

    engine: StepEngine
    inputs: Inputs
    delivery: Delivery


class Call:
    """One call. `tell`: sends what may be left out; `answered`: takes the answer, once. Begin it; `cancel` it at any time.

    Everything is done by callbacks: between the device thread that has drawn a picture and the connection that carries it there are one
    thread, which makes the file, and one turn of the event loop. Only what must wait for something else has a task.
    """

    def __init__(
        self,
        call_id: int,
        start: engine_pb2.StartDrawing,
        means: Means,
        tasks: asyncio.TaskGroup,
        *,
        tell: Callable[[Response], None],
        answered: Callable[[Call, Response], None],
    ) -> None:
        self.call_id = call_id
        self._start = start
        self._means = means
        self._tasks = tasks
        self._tell = tell
        self._answered = answered
        self._over = False
        self._drawing: Drawing | None = None
        self._task: asyncio.Task[None] | None = None
        self._files: list[Future[bytes]] = []
        self._began = 0.0
        self._handed_over = False
        self._post = asyncio.get_running_loop().call_soon_threadsafe

    def begin(self) -> None:
        """Hands it to the engine, or fetches its pictures first."""
        try:
            spec = to_spec(self._start.input, self._start.model_name)
            if spec.sources:
                self._go_on(self._gather(spec))
            else:
                self._draw(spec, None)
        except Unreadable as err:
            self._fail(err.told("the input"))
        except Exception as err:  # noqa: BLE001  # the edge: every error gets a status
            self._fail(err)

    def cancel(self) -> None:
        """By the api: stops it at its next step, which the answer tells."""
        drawing = self._drawing
        if drawing is not None and not drawing.outcome.done():
            drawing.cancel()
        elif drawing is not None:
            self._fail(RequestCancelled(drawing.step, drawing.total_steps))
        else:
            self._fail(RequestCancelled())
        if self._over and self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """Nobody hears the answer any more."""
        self._over = True
        if self._drawing is not None:
            self._drawing.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _gather(self, spec: GenerationSpec) -> None:
        sources = await self._means.inputs.gather(spec, self._start.owner)
        if sources is not None and self._start.HasField("comparison"):
            seen = await self._means.inputs.thumbnail(sources)
            if _similar(seen, self._start.comparison):
                self._say(Response(call_id=self.call_id, similar=engine_pb2.SimilarSource()))
                return
            self._tell(Response(call_id=self.call_id, seen=engine_pb2.SourceSeen(thumbnail=seen)))
        self._draw(spec, sources)

    def _draw(self, spec: GenerationSpec, sources: Sources | None) -> None:
        start, engine = self._start, self._means.engine
        work_class = _WORK_CLASSES.get(start.work_class, WorkClass.DIRECT)
        deadline = None
        if start.HasField("timeout"):
            deadline = time.monotonic() + from_duration(start.timeout)
            _admit(deadline, engine.estimate(spec, work_class=work_class, owner=start.owner))
        self._drawing = engine.start(
            spec,
            sources=sources,
            work_class=work_class,
            owner=start.owner,
            deadline=deadline,
            on_progress=self._step_done if start.include_progress else None,
            on_preview=self._preview_made if start.include_previews else None,
            on_drawn=partial(self._encode, spec),
        )
        self._drawing.outcome.add_done_callback(partial(self._ended, spec))

    def _encode(self, spec: GenerationSpec, drawn: Drawn, *, idle: bool) -> None:
        """On the device thread."""
        self._began = time.perf_counter()
        try:
            self._files = self._means.delivery.start_encoding(drawn, spec, idle=idle)
        except Exception as err:  # noqa: BLE001  # the device is not at fault
            self._post(self._fail, err)
            return
        for file in self._files:
            if not file.done():  # else the loop finds it when it hears of the drawing: it is woken once, not twice
                file.add_done_callback(lambda _: self._post(self._encoded, spec, drawn))

    def _encoded(self, spec: GenerationSpec, drawn: Drawn) -> None:
        """One of the files is there, or the engine is done. On the event loop."""
        files = self._files
        if self._over or self._handed_over or not files or not all(file.done() for file in files):
            return
        self._handed_over = True
        try:
            contents = [file.result() for file in files]
            timings = {"encode_image": time.perf_counter() - self._began}
            result = self._means.delivery.inline(drawn, spec, contents, timings)
            if result is not None:
                self._succeed(result)
            else:
                self._go_on(self._store(drawn, spec, contents, timings))
        except (Exception, CancelledError) as err:  # noqa: BLE001  # the edge: every error gets a status
            self._fail(err)

    async def _store(
        self, drawn: Drawn, spec: GenerationSpec, contents: list[bytes], timings: dict[str, float]
    ) -> None:
        origin = Origin(self._start.owner, self._start.request_id)
        self._succeed(await self._means.delivery.linked(drawn, spec, contents, timings, origin))

    def _go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await rest
            except Exception as err:  # noqa: BLE001  # the edge: every error gets a status
                self._fail(err)

        self._task = self._tasks.create_task(run())
        self._task.add_done_callback(lambda _: rest.close())  # of a task that was cancelled before its first turn

    def _ended(self, spec: GenerationSpec, outcome: asyncio.Future[Drawn]) -> None:
        """The engine has drawn it, or says why not."""
        error = outcome.exception()
        if error is not None:
            self._fail(error)
        else:
            self._encoded(spec, outcome.result())

    def _succeed(self, result: GenerationResult) -> None:
        # Pictures that came inline do not go back.
        resolved = None if result.spec.sources else self._start.input
        output: Any = output_fields(result, resolved=resolved)  # protobuf takes a dict for a message
        self._say(Response(call_id=self.call_id, output=output))

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, FlashbulbError):
            _log.error("drawing failed", exc_info=error, extra={"request_id": self._start.request_id})
            error = EngineFailed()
        self._say(Response(call_id=self.call_id, error=to_status(error)))

    def _say(self, answer: Response) -> None:
        if not self._over:
            self._over = True
            self._answered(self, answer)

    def _step_done(self, progress: Progress) -> None:
        self._tell(Response(call_id=self.call_id, progress=to_progress(progress)))

    def _preview_made(self, preview: PreviewImage) -> None:
        self._tell(Response(call_id=self.call_id, preview=to_preview(preview)))


def _similar(seen: bytes, comparison: engine_pb2.Comparison) -> bool:
    return bool(comparison.thumbnail) and difference(seen, comparison.thumbnail) <= comparison.threshold


def _admit(deadline: float, needed: float) -> None:
    """Refuses at once what cannot be done in time, rather than answer late. `needed` in seconds; raises WorkersBusy."""
    remaining = deadline - time.monotonic()
    if needed > remaining:
        raise WorkersBusy(
            f"needs about {needed:.2f} s, the deadline leaves {max(0.0, remaining):.2f} s",
            retry_after=max(0.1, needed - remaining),
        )
