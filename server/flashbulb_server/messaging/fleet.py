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
from flashbulb.v1 import model_pb2
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.stand_ins import with_stand_ins
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import NoWorker
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.topology import MODELS, WORKER_SECONDS, WORKERS
from flashbulb_server.wire.outputs import from_model, to_model
from flashbulb_server.wire.records import Announcement, decode_announcement, encode_announcement

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
        declared: Iterable[ModelInfo] = (),
        *,
        stand_in: bool = False,
    ) -> None:
        self._nc = nc
        self._js = js
        self._clock = clock
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
    ) -> AsyncIterator[Fleet]:
        """Listens to the workers. Raises StoreUnavailable."""
        fleet = cls(nc, js, clock, declared, stand_in=stand_in)
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
        answer = record_pb2.CancelJobResponse.FromString(reply.data)
        return Stopped(answer.stopped, answer.stopped_at_step, answer.total_steps)

    async def _load(self) -> None:
        for bucket, take in ((WORKERS, self._on_worker_data), (MODELS, self._on_model_data)):
            stream = f"KV_{bucket}"
            info = await self._js.stream_info(stream, subjects_filter=f"$KV.{bucket}.>")
            for subject in info.state.subjects or {}:
                with suppress(NotFoundError):  # a worker that has just gone
                    message = await self._js.get_last_msg(stream, subject, direct=True)
                    take(message.data or b"")

    async def _on_worker(self, message: Msg) -> None:
        self._on_worker_data(message.data)

    async def _on_model(self, message: Msg) -> None:
        self._on_model_data(message.data)

    def _on_worker_data(self, data: bytes) -> None:
        if data:
            now = self._clock()
            announcement = decode_announcement(data)
            self._workers[announcement.worker_id] = (now, announcement)
            for gone in [i for i, (heard, _) in self._workers.items() if now - heard > 10 * WORKER_SECONDS]:
                del self._workers[gone]

    def _on_model_data(self, data: bytes) -> None:
        if data:
            model = from_model(model_pb2.Model.FromString(data))
            self._models[model.name] = model


class Herald:
    """The worker's voice: announces it and its models, and hears cancellations."""

    def __init__(self, nc: Client, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js

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
                request = record_pb2.CancelJobRequest.FromString(message.data)
                stopped = await stop(request.request_id)
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
