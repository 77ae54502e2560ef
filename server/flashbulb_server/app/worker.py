"""The worker role: draws. Every part is made here, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from flashbulb_server.app.process import Addresses, background, connection, run_role, until_drained
from flashbulb_server.config import Settings, WorkerSettings
from flashbulb_server.core.pipeline import StepPipeline
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Herald
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.messaging.records import RequestRecords
from flashbulb_server.messaging.topology import Pool, ensure_consumers, ensure_topology
from flashbulb_server.messaging.webhooks import WebhookQueue
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.wire.records import Announcement
from flashbulb_server.worker.delivery import Delivery
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs
from flashbulb_server.worker.jobs import Desk, JobLoop
from flashbulb_server.worker.server import EngineServicer, serve_engine

_ANNOUNCE_SECONDS = 1.0
_MODELS_SECONDS = 3600.0
_log = logging.getLogger(__name__)

Load = Callable[[WorkerSettings], Mapping[str, StepPipeline[Any]]]
"""Loads the pipelines of a worker, by the names of their models. Raises Misconfigured."""


def run_worker(settings: Settings, ready_file: Path | None = None, *, load: Load | None = None) -> int:
    """Runs the worker role until it is told to stop. Gives the exit code. `load`: as of `worker`."""
    return run_role(worker(settings, load), ready_file)


@asynccontextmanager
async def worker(settings: Settings, load: Load | None = None) -> AsyncIterator[Addresses]:
    """The worker role; gives the address where apis reach it while it works. `load`: instead of the models that the settings name.

    Raises StoreUnavailable, OSError (the address is taken), Misconfigured (a model cannot be loaded, a store refuses the keys).
    """
    worker_id = secrets.token_hex(6)
    pipelines = await asyncio.to_thread(load or _load_models, settings.worker)
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(FileStore(settings.files))
        nc = await stack.enter_async_context(connection(settings, f"flashbulb-worker-{worker_id}"))
        js = nc.jetstream()
        await ensure_topology(js, settings.queue, settings.webhooks, replicas=settings.nats.replicas)
        engine = await stack.enter_async_context(
            StepEngine(
                pipelines,
                capacity=settings.worker.capacity,
                key_weights=settings.worker.key_weights,
                realtime_share=settings.worker.realtime_share,
            )
        )
        models = {model.name: model for model in engine.models}
        inputs = await stack.enter_async_context(
            Inputs(files, models, allow_private_urls=settings.worker.allow_private_urls)
        )
        delivery = await stack.enter_async_context(
            Delivery(
                files,
                keep_seconds=settings.queue.keep_seconds,
                url_seconds=settings.files.url_seconds,
            )
        )
        pools = [Pool(settings.worker.worker_class, name) for name in models]
        for pool in pools:
            await ensure_consumers(js, settings.queue, pool)
        consumer = await stack.enter_async_context(JobConsumer.open(nc, pools))
        desk = Desk(consumer, RequestRecords(nc, js), EventBus(nc, js), engine, inputs, delivery, WebhookQueue(js))
        jobs = JobLoop(desk, settings.queue, worker_id=worker_id, clock=time.time)
        address = await stack.enter_async_context(
            serve_engine(
                EngineServicer(engine, inputs, delivery),
                settings.worker.listen,
                drain_seconds=settings.worker.drain_seconds,
            )
        )
        herald = Herald(nc, js)
        await stack.enter_async_context(herald.hear_cancellations(worker_id, jobs.stop_request))
        voice = _Voice(herald, engine, worker_id, settings.worker.advertise or address)
        await voice.introduce()
        await stack.enter_async_context(background(voice.run()))
        stack.callback(voice.drain)
        await stack.enter_async_context(until_drained(jobs, settings.worker.drain_seconds))
        yield Addresses(address)


def _load_models(settings: WorkerSettings) -> Mapping[str, StepPipeline[Any]]:
    from flashbulb_server.pipelines.loading import load_models  # torch

    return load_models(settings)


class _Voice:
    """Tells the fleet how this worker is, every second."""

    def __init__(self, herald: Herald, engine: StepEngine, worker_id: str, address: str) -> None:
        self._herald = herald
        self._engine = engine
        self._worker_id = worker_id
        self._address = address
        self._draining = False

    def drain(self) -> None:
        """From the next announcement on, nobody sends new work."""
        self._draining = True

    async def introduce(self) -> None:
        """Announces the models and the worker. Raises StoreUnavailable."""
        await self._herald.announce_models(self._engine.models)
        await self._herald.announce(self._announcement())

    async def run(self) -> None:
        """Announces until it is cancelled."""
        said_models = time.monotonic()
        while True:
            await asyncio.sleep(_ANNOUNCE_SECONDS)
            if self._engine.broken:
                raise RuntimeError("the step engine is broken; the process must be replaced")
            try:
                if time.monotonic() - said_models > _MODELS_SECONDS:
                    await self._herald.announce_models(self._engine.models)
                    said_models = time.monotonic()
                await self._herald.announce(self._announcement())
            except StoreUnavailable:
                _log.warning("not announced: the queue is away")

    def _announcement(self) -> Announcement:
        return Announcement(
            worker_id=self._worker_id,
            address=self._address,
            models=tuple(model.name for model in self._engine.models),
            capacity=self._engine.capacity,
            in_flight=self._engine.in_flight,
            seconds_per_image=self._engine.seconds_per_image,
            draining=self._draining,
            time=time.time(),
        )
