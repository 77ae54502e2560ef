"""Workers and their models: announced by workers, known by the api. Also how the api tells a worker to cancel a request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.stand_ins import with_stand_ins
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import NoWorker
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind, Letter
from flashbulb_server.messaging.topology import MODELS, WORKER_SECONDS, WORKERS
from flashbulb_server.wire.outputs import decode_model, to_model
from flashbulb_server.wire.records import Announcement, decode_announcement, encode_announcement
from flashbulb_server.wire.unreadable import Unreadable, parse

_ANNOUNCE_SECONDS = (
    1.0  # waiting longer for one announcement would hold up the next, and the worker would be taken for gone
)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A worker's answer to a cancellation. `held` False: it does not have the request (any more)."""

    held: bool
    step: int
    total_steps: int


class Fleet:
    """The api's view of the workers, from what they announce. Reads cost nothing: announcements are held in memory.

    `clock` gives monotonic seconds. `declared` models are known before any worker has announced them. `stand_in`: whether, where none
    is declared, the embedded model may stand in for others.
    """

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        clock: Callable[[], float],
        dead: DeadLetters,
        declared: Iterable[ModelInfo] = (),
        *,
        stand_in: bool = False,
    ) -> None:
        self._nc = nc
        self._js = js
        self._clock = clock
        self._dead = dead
        self._workers: dict[str, tuple[float, Announcement]] = {}
        self._models: dict[str, ModelInfo] = {model.name: model for model in declared}
        self._declared = frozenset(self._models)
        self._stand_in = stand_in and not self._declared

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        nc: Client,
        js: JetStreamContext,
        *,
        declared: Iterable[ModelInfo] = (),
        stand_in: bool = False,
        clock: Callable[[], float] = time.monotonic,
        dead: DeadLetters | None = None,
    ) -> AsyncIterator[Fleet]:
        """Listens to the workers. Raises StoreUnavailable."""
        fleet = cls(nc, js, clock, dead or DeadLetters(js), declared, stand_in=stand_in)
        with unavailable():
            subscriptions = [
                await nc.subscribe(f"$KV.{WORKERS}.*", cb=fleet._on_worker),
                await nc.subscribe(f"$KV.{MODELS}.*", cb=fleet._on_model),
            ]
            await fleet._load()
        try:
            yield fleet
        finally:
            for subscription in subscriptions:
                if not nc.is_closed:
                    await subscription.unsubscribe()

    def workers(self) -> list[Announcement]:
        """Workers that were heard of lately and do not drain."""
        now = self._clock()
        return [a for heard, a in self._workers.values() if now - heard < WORKER_SECONDS and not a.draining]

    def addresses(self) -> set[str]:
        """Addresses of all workers that may still be drawing something, draining ones included."""
        return {announcement.address for _, announcement in self._workers.values()}

    def models(self) -> list[ModelInfo]:
        """Models that some worker has installed, running or not, and those that are declared."""
        models = self._models.values()
        return with_stand_ins(models) if self._stand_in else list(models)

    @property
    def declared(self) -> frozenset[str]:
        """Names of the models that the operator declared."""
        return self._declared

    def installed(self) -> list[ModelInfo]:
        """As `models`. Raises NoWorker where none is declared and no worker has ever come: it is not known what there is."""
        if not self._models:
            raise NoWorker
        return self.models()

    async def cancel(self, worker_id: str, request_id: str, *, seconds: float) -> Stopped | None:
        """Asks a worker to stop a request at the next step. None: the worker does not answer."""
        request = record_pb2.CancelJobRequest(request_id=request_id).SerializeToString()
        try:
            reply = await self._nc.request(f"workers.{worker_id}.cancel", request, timeout=seconds)
        except (nats.errors.Error, TimeoutError):
            return None
        try:
            answer = parse(record_pb2.CancelJobResponse, reply.data)
        except Unreadable:
            return None
        return Stopped(answer.stopped, answer.stopped_at_step, answer.total_steps)

    async def _load(self) -> None:
        for bucket, take in ((WORKERS, self._heard_worker), (MODELS, self._heard_model)):
            stream = f"KV_{bucket}"
            info = await self._js.stream_info(stream, subjects_filter=f"$KV.{bucket}.>")
            for subject in info.state.subjects or {}:
                with suppress(NotFoundError):  # a worker that has just gone
                    message = await self._js.get_last_msg(stream, subject, direct=True)
                    await take(subject, message.data or b"")

    async def _on_worker(self, message: Msg) -> None:
        await self._heard_worker(message.subject, message.data)

    async def _on_model(self, message: Msg) -> None:
        await self._heard_model(message.subject, message.data)

    async def _heard_worker(self, subject: str, data: bytes) -> None:
        if not data:
            return
        try:
            announcement = decode_announcement(data)
        except Unreadable as err:
            await self._dead.set_aside(Letter(Kind.WORKER, subject, data), err)
            return
        now = self._clock()
        self._workers[announcement.worker_id] = (now, announcement)
        for gone in [i for i, (heard, _) in self._workers.items() if now - heard > 10 * WORKER_SECONDS]:
            del self._workers[gone]

    async def _heard_model(self, subject: str, data: bytes) -> None:
        if not data:
            return
        try:
            model = decode_model(data)
        except Unreadable as err:
            await self._dead.set_aside(Letter(Kind.MODEL, subject, data), err)
            return
        self._models[model.name] = model


class Herald:
    """The worker's voice: announces it and its models, and hears cancellations."""

    def __init__(self, nc: Client, js: JetStreamContext, dead: DeadLetters | None = None) -> None:
        self._nc = nc
        self._js = js
        self._dead = dead or DeadLetters(js)

    async def announce(self, announcement: Announcement) -> None:
        """Says that the worker is alive. Raises StoreUnavailable."""
        with unavailable():
            subject = f"$KV.{WORKERS}.{announcement.worker_id}"
            await self._js.publish(subject, encode_announcement(announcement), timeout=_ANNOUNCE_SECONDS)

    async def announce_models(self, models: list[ModelInfo]) -> None:
        """Says which models are installed; remembered for 30 days. Raises StoreUnavailable."""
        with unavailable():
            for model in models:
                token = model.name.encode().hex()  # names hold characters that subjects may not
                await self._js.publish(f"$KV.{MODELS}.{token}", to_model(model).SerializeToString())

    @asynccontextmanager
    async def hear_cancellations(
        self, worker_id: str, stop: Callable[[str], Awaitable[Stopped]]
    ) -> AsyncIterator[None]:
        """Calls `stop(request_id)` for every cancellation sent to the worker, each on its own."""
        async with task_group() as tasks:

            async def answer(message: Msg) -> None:
                request_id = await self._cancelled(message)
                stopped = Stopped(False, 0, 0) if request_id is None else await stop(request_id)
                reply = record_pb2.CancelJobResponse(
                    stopped=stopped.held, stopped_at_step=stopped.step, total_steps=stopped.total_steps
                )
                with suppress(nats.errors.Error):  # who asked finds the outcome in the record
                    await message.respond(reply.SerializeToString())

            async def take(message: Msg) -> None:
                tasks.create_task(answer(message))

            with unavailable():
                subscription = await self._nc.subscribe(f"workers.{worker_id}.cancel", cb=take)
            try:
                yield
            finally:
                if not self._nc.is_closed:
                    await subscription.unsubscribe()

    async def _cancelled(self, message: Msg) -> str | None:
        """Id of the request that is to be stopped."""
        try:
            return parse(record_pb2.CancelJobRequest, message.data).request_id
        except Unreadable as err:
            await self._dead.set_aside(Letter(Kind.CANCEL, message.subject, message.data), err)
            return None
