"""A realtime session while it is connected: its frames are read, drawn and answered. core.realtime decides what to draw when.

1. Every frame is a drawing of its own on whatever worker has room, so a worker that dies costs one late frame.
2. Every frame is answered once: by a picture, or by a receipt that says why there is none.
3. Nothing piles up. A caller that does not read its pictures gets no new ones drawn; one that does not read its receipts is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.engines import DrawCall, SourceSeen, SourceSimilar, WorkerGone
from flashbulb_server.api.generating import DirectCall, Generating
from flashbulb_server.api.session_messages import (
    Ack,
    Closed,
    CloseReason,
    Dropped,
    Incoming,
    InputFrame,
    Opening,
    Outgoing,
    Picture,
    Ping,
    Pong,
)
from flashbulb_server.api.stand_ins import log_stand_in
from flashbulb_server.api.tokens import Grant
from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.flight import Answer, DropReason, Frame, Outcome
from flashbulb_server.core.generation import GenerationSpec, PreviewImage
from flashbulb_server.core.realtime import Limits, Session
from flashbulb_server.core.similarity import Comparison
from flashbulb_server.core.tasks import task_group
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import (
    Draining,
    FieldViolation,
    FlashbulbError,
    InvalidRequest,
    NoWorker,
    RequestCancelled,
    WorkersBusy,
)
from flashbulb_server.messaging.fleet import Fleet

_UNSENT_PICTURES = 1  # behind the one that is being sent
_WAITING_MESSAGES = 64
_WAITING_EXTRAS = 8  # beyond so many messages, what may be left out is
_RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a server share. `clock` gives unix seconds."""

    generating: Generating
    fleet: Fleet
    limits: Limits
    clock: Callable[[], float]

    async def start(
        self, owner: str, spec: GenerationSpec, *, previews: bool, comparison: Comparison | None
    ) -> DrawCall:
        """A worker's call for a frame. Raises NoWorker."""
        call = DirectCall(owner, previews=previews, work_class=WorkClass.REALTIME, comparison=comparison)
        return await self.generating.start(spec, call)

    def resolve(self, endpoint: str, values: dict[str, object]) -> GenerationSpec:
        """The spec of a frame: pictures always travel inline. Raises InvalidRequest and what else makes it impossible."""
        return resolve(endpoint, {**values, "sync_mode": True}, self.fleet.installed())


@dataclass(eq=False)
class Connection:
    """A session while it is connected. `ended_by_caller`: it closed its side and heard the end, so it will not come back."""

    shared: Surroundings
    grant: Grant
    opening: Opening
    session: Session[GenerationOutput]
    ended_by_caller: bool = False
    _outbox: asyncio.Queue[Outgoing] = field(default_factory=lambda: asyncio.Queue(_WAITING_MESSAGES))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: Closed | None = None
    _said: asyncio.Event = field(default_factory=asyncio.Event)
    _unsent: int = 0
    _failed: FlashbulbError | None = None
    _nothing_more: bool = False
    _calls: dict[int, DrawCall] = field(default_factory=dict)
    _answering: asyncio.Lock = field(default_factory=asyncio.Lock)
    _heard: float = 0.0
    _lost_since: float | None = None
    _asked_model: str = ""

    async def run(self, inputs: AsyncIterator[Incoming]) -> AsyncGenerator[Outgoing, None]:
        """What the session says, to its end."""
        self._heard = _now()
        async with task_group() as tasks:
            running = [
                tasks.create_task(self._read(inputs)),
                tasks.create_task(self._draw()),
                tasks.create_task(self._watch()),
            ]
            try:
                while True:
                    message = await self._next()
                    yield message
                    if isinstance(message, Closed):
                        self.ended_by_caller = message.reason is CloseReason.CLIENT
                        return
            finally:
                for task in running:
                    task.cancel()

    def close(self, reason: CloseReason, message: str, retry_after: float | None = None) -> None:
        """Ends the session after what is ready to be sent."""
        if self._closed is None:
            self._closed = Closed(reason, message, retry_after)
            self._said.set()

    def fail(self, error: FlashbulbError) -> None:
        """Ends the session with an error, after what is ready to be sent."""
        self._failed = (
            self._failed or error
        )  # raised where messages are sent: a task group would cut off the one that is on its way
        self._said.set()

    async def _next(self) -> Outgoing:
        while self._outbox.empty():
            if self._failed is not None:
                raise self._failed
            if self._closed is not None:
                return self._closed
            self._said.clear()
            try:
                async with asyncio.timeout(self.shared.limits.heartbeat_seconds):
                    await self._said.wait()
            except TimeoutError:
                return Pong(0)
        message = self._outbox.get_nowait()
        if isinstance(message, Picture):
            self._unsent -= 1
            self._wake.set()
        return message

    async def _say(self, message: Outgoing) -> None:
        await self._outbox.put(message)
        self._said.set()

    def _mention(self, message: Outgoing) -> None:
        """Says what may be left out when the caller is slow."""
        if self._outbox.qsize() < _WAITING_EXTRAS:
            self._outbox.put_nowait(message)
            self._said.set()

    async def _read(self, inputs: AsyncIterator[Incoming]) -> None:
        try:
            async for message in inputs:
                match message:
                    case InputFrame():
                        self._heard = _now()
                        await self._take(message)
                    case Ack():
                        self.session.ack(message.frame_id)
                    case Ping():
                        self._mention(Pong(message.nonce))
                self._wake.set()
        except FlashbulbError as err:
            self.fail(err)
            return
        self._nothing_more = True  # or the connection broke, which looks the same from here
        self.session.forget_acks()
        self._wake.set()

    async def _take(self, frame: InputFrame) -> None:
        try:
            if frame.problem is not None:
                raise frame.problem
            if frame.frame_id <= self.session.last_frame_id:
                problem = f"must be larger than the one before ({self.session.last_frame_id}), not {frame.frame_id}"
                raise InvalidRequest([FieldViolation("frame_id", problem)])
            if frame.endpoint not in (None, self.opening.endpoint):
                raise InvalidRequest([FieldViolation("changes", f"must be of endpoint {self.opening.endpoint}")])
            values = self.session.merge(frame.changes)
            spec = self.shared.resolve(self.opening.endpoint, values)
        except FlashbulbError as err:
            await self._say(Dropped(frame.frame_id, DropReason.INVALID, error=err))
            return
        if spec.asked_model != self._asked_model:
            self._asked_model = spec.asked_model
            log_stand_in(spec)
        dropped = self.session.add(frame.frame_id, values, spec, _now())
        obsolete = self.session.to_stop()
        if obsolete is not None and obsolete.frame_id in self._calls:
            self._calls[obsolete.frame_id].cancel()
        await self._tell(dropped)

    async def _tell(self, dropped: list[tuple[int, DropReason]]) -> None:
        for frame_id, reason in dropped:
            await self._say(Dropped(frame_id, reason))

    async def _draw(self) -> None:
        async with task_group() as places:
            for _ in range(self.session.max_in_flight):
                places.create_task(self._draw_frames())
        self.close(CloseReason.CLIENT, "the caller closed its side")

    async def _draw_frames(self) -> None:
        """One frame after another, until there will be no more."""
        while not (self._nothing_more and self.session.idle):
            self._wake.clear()
            unread = self._unsent >= _UNSENT_PICTURES
            frame = None if unread else self.session.take(_now())
            if frame is not None:
                await self._draw_frame(frame)
                self._wake.set()
                continue
            try:
                async with asyncio.timeout(None if unread else self.session.ready_in(_now())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _draw_frame(self, frame: Frame) -> None:
        call: DrawCall | None = None
        comparison = self.session.comparison(frame)
        try:
            call = await self.shared.start(
                self.grant.owner, frame.spec, previews=self.opening.previews, comparison=comparison
            )
            with closing(call):
                await self._follow(frame, call)
        except (WorkerGone, NoWorker, Draining, WorkersBusy):
            await self._answer(self.session.put_back(frame, _now()))
            await self._wait_for_worker()
        except SourceSimilar:
            await self._end(frame, Outcome(reason=DropReason.SIMILAR))
        except RequestCancelled as err:
            if call is None or not call.cancelled:  # by a worker that ends
                self._lost_since = None
                await self._answer(self.session.put_back(frame, _now()))
                return
            await self._end(frame, Outcome(reason=DropReason.SUPERSEDED, step=err.step))
        except FlashbulbError as err:
            await self._end(frame, Outcome(reason=DropReason.FAILED, error=err))
        finally:
            self._calls.pop(frame.frame_id, None)

    async def _follow(self, frame: Frame, call: DrawCall) -> None:
        self._calls[frame.frame_id] = call
        if self.session.to_stop() is frame:
            call.cancel()
        async for event in call:
            match event:
                case PreviewImage() if self.session.in_hand[0] is frame:
                    self._mention(event)
                case SourceSeen():
                    self.session.seen(frame, event.thumbnail)
                case GenerationOutput():
                    await self._end(frame, Outcome(event))

    async def _end(self, frame: Frame, outcome: Outcome[GenerationOutput]) -> None:
        self._lost_since = None
        await self._answer(self.session.ended(frame, outcome, _now()))

    async def _answer(self, answers: list[Answer[GenerationOutput]]) -> None:
        self._unsent += sum(answer.outcome.picture is not None for answer in answers)
        async with self._answering:  # in the order in which the session gave them
            for answer in answers:
                await self._say(_message(answer))

    async def _wait_for_worker(self) -> None:
        now = _now()
        self._lost_since = self._lost_since or now
        if now - self._lost_since > self.shared.limits.no_worker_seconds:
            self.close(CloseReason.NO_WORKER, "no worker answers", retry_after=5.0)
        await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self) -> None:
        """Closes an idle session, and one whose token has expired."""
        while True:
            idle_seconds = self.shared.limits.idle_seconds
            idle = self._heard + idle_seconds - _now()
            left = None if self.grant.expire_time is None else self.grant.expire_time - self.shared.clock()
            if idle <= 0 and self.session.stalled(_now()):
                self.close(CloseReason.IDLE, f"no frame for {idle_seconds:g} s", retry_after=0.0)
                return
            if left is not None and left <= 0:
                self.close(CloseReason.TOKEN_EXPIRED, "the token has expired", retry_after=0.0)
                return
            await asyncio.sleep(max(0.05, min(max(idle, 0.05), 3600.0 if left is None else left)))


def _message(answer: Answer[GenerationOutput]) -> Picture | Dropped:
    frame, outcome = answer.frame, answer.outcome
    if outcome.picture is not None:
        return Picture(frame.frame_id, outcome.picture, _now() - frame.arrived, answer.superseded)
    assert outcome.reason is not None, "there is a reason where there is no picture"
    return Dropped(frame.frame_id, outcome.reason, outcome.step, outcome.error)


def _now() -> float:
    return asyncio.get_running_loop().time()
