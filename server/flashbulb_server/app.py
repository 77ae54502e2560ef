"""Wires the roles: every part is made here, opened in order and closed in reverse. Roles stop on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from flashbulb_server.config import Settings, WorkerSettings
from flashbulb_server.core.pipeline import StepPipeline
from flashbulb_server.core.realtime import Limits
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import Misconfigured, StoreUnavailable
from flashbulb_server.messaging.connection import connect
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Fleet, Herald
from flashbulb_server.messaging.jobs import JobConsumer, JobQueue
from flashbulb_server.messaging.lost import LostJobs
from flashbulb_server.messaging.records import IdempotencyKeys, RequestRecords
from flashbulb_server.messaging.topology import ensure_consumers, ensure_topology, restore_topology
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.storage.sweeper import Sweeper
from flashbulb_server.wire.records import Announcement

if TYPE_CHECKING:
    from nats.aio.client import Client

    from flashbulb_server.api.keys import Keys
    from flashbulb_server.worker.engine import StepEngine
    from flashbulb_server.worker.jobs import JobLoop

MISCONFIGURED = 2
"""Exit code of a role that starting again would not help."""
_ANNOUNCE_SECONDS = 1.0
_MODELS_SECONDS = 3600.0
_log = logging.getLogger(__name__)

Load = Callable[[WorkerSettings], Mapping[str, StepPipeline[Any]]]
"""Loads the pipelines of a worker, by the names of their models. Raises Misconfigured."""


def run_api(settings: Settings, ready_file: Path | None = None) -> int:
    """Runs the api role until it is told to stop. Gives the exit code."""
    return uvloop.run(_until_stopped(api(settings), ready_file))


def run_worker(settings: Settings, ready_file: Path | None = None, *, load: Load | None = None) -> int:
    """Runs the worker role until it is told to stop. Gives the exit code. `load`: as of `worker`."""
    return uvloop.run(_until_stopped(worker(settings, load), ready_file))


async def _until_stopped(role: AbstractAsyncContextManager[str], ready_file: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with role as address:
            if ready_file is not None:
                partial = ready_file.with_suffix(".partial")
                partial.write_text(json.dumps({"address": address, "pid": os.getpid()}))
                partial.rename(ready_file)
            gc.collect()
            gc.freeze()  # what was made so far lives to the end: later collections need not look at it, and pause for less
            _log.info("ready", extra={"address": address})
            await stop.wait()
            _log.info("draining")
    except Misconfigured as err:
        _log.error("cannot run: the settings must be mended", extra={"problem": str(err)})
        return MISCONFIGURED
    except (StoreUnavailable, OSError) as err:
        _log.error("cannot run", extra={"problem": str(err)})
        return 1
    return 0


@asynccontextmanager
async def api(settings: Settings) -> AsyncIterator[str]:
    """The api role; gives its address while it serves.

    Raises StoreUnavailable (a store does not answer), OSError (the port is taken), Misconfigured (keys, a store that refuses them).
    """
    from flashbulb_server.api.engines import Engines
    from flashbulb_server.api.files import Files
    from flashbulb_server.api.generating import Generating
    from flashbulb_server.api.grpc.generation import GenerationServicer
    from flashbulb_server.api.grpc.interceptors import CallInterceptor
    from flashbulb_server.api.grpc.models import ModelServicer
    from flashbulb_server.api.grpc.queue import QueueServicer
    from flashbulb_server.api.grpc.realtime import RealtimeServicer
    from flashbulb_server.api.grpc.server import Servicers, serve
    from flashbulb_server.api.grpc.storage import StorageServicer
    from flashbulb_server.api.janitor import Janitor
    from flashbulb_server.api.queueing import Queueing, Stores
    from flashbulb_server.api.realtime import Realtime
    from flashbulb_server.api.results import Results
    from flashbulb_server.api.sources import InlineSources
    from flashbulb_server.api.tokens import Tokens
    from flashbulb_server.api.watching import Watching

    keys, tokens = _keys(settings), Tokens.load(settings.api, clock=time.time)
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(FileStore(settings.files))
        nc = await stack.enter_async_context(_connection(settings, "flashbulb-api"))
        js = nc.jetstream()
        await ensure_topology(js, settings.queue, replicas=settings.nats.replicas)
        await ensure_consumers(js, settings.queue, settings.worker.worker_class)
        fleet = await stack.enter_async_context(Fleet.open(nc, js))
        stores = Stores(
            records=RequestRecords(nc, js),
            keys=IdempotencyKeys(js),
            jobs=JobQueue(nc, js, limit=settings.queue.max_requests, worker_class=settings.worker.worker_class),
            events=EventBus(nc, js),
            fleet=fleet,
        )
        results = Results(files, url_seconds=settings.files.url_seconds)
        queueing = Queueing(stores, InlineSources(files), results, settings.queue, clock=time.time)
        engines = await stack.enter_async_context(Engines())
        generating = Generating(fleet, engines, clock=time.time)
        limits = Limits(settings.api.sessions_per_key, settings.api.session_idle_seconds)
        realtime = Realtime(generating, fleet, limits, clock=time.time)
        watching = Watching(queueing, stores.events, clock=time.time)
        servicers = Servicers(
            generation=GenerationServicer(generating, fleet),
            queue=QueueServicer(queueing, watching, fleet),
            storage=StorageServicer(Files(files, url_seconds=settings.files.url_seconds)),
            models=ModelServicer(fleet),
            realtime=RealtimeServicer(realtime, tokens),
        )
        janitor = Janitor(stores, queueing, await LostJobs.open(js), settings.queue, clock=time.time)
        sweeper = Sweeper(files, keep_seconds=settings.queue.keep_seconds, every_seconds=settings.files.sweep_seconds)
        await stack.enter_async_context(_background(janitor.run(), sweeper.run()))
        address = await stack.enter_async_context(serve(servicers, CallInterceptor(keys, tokens), settings.api))
        stack.callback(watching.drain)
        stack.callback(realtime.drain)
        yield address


def _keys(settings: Settings) -> Keys:
    from flashbulb_server.api.keys import Keys

    try:
        keys = Keys.load(settings.api)
    except ValueError as err:
        raise Misconfigured(str(err)) from err
    if not keys:
        raise Misconfigured("no keys: set FLASHBULB_API__KEYS or FLASHBULB_API__KEYS_FILE")
    return keys


@asynccontextmanager
async def worker(settings: Settings, load: Load | None = None) -> AsyncIterator[str]:
    """The worker role; gives the address of its EngineService while it works. `load`: instead of the models that the settings name.

    Raises StoreUnavailable, OSError (the address is taken), Misconfigured (a model cannot be loaded, a store refuses the keys).
    """
    from flashbulb_server.worker.delivery import Delivery
    from flashbulb_server.worker.engine import StepEngine
    from flashbulb_server.worker.inputs import Inputs
    from flashbulb_server.worker.jobs import Desk, JobLoop
    from flashbulb_server.worker.server import EngineServicer, serve_engine

    worker_id = secrets.token_hex(6)
    pipelines = await asyncio.to_thread(load or _load_models, settings.worker)
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(FileStore(settings.files))
        nc = await stack.enter_async_context(_connection(settings, f"flashbulb-worker-{worker_id}"))
        js = nc.jetstream()
        await ensure_topology(js, settings.queue, replicas=settings.nats.replicas)
        await ensure_consumers(js, settings.queue, settings.worker.worker_class)
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
                models,
                keep_seconds=settings.queue.keep_seconds,
                url_seconds=settings.files.url_seconds,
            )
        )
        consumer = await stack.enter_async_context(JobConsumer.open(nc, settings.worker.worker_class))
        desk = Desk(consumer, RequestRecords(nc, js), EventBus(nc, js), engine, inputs, delivery)
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
        await stack.enter_async_context(_background(voice.run()))
        stack.callback(voice.drain)
        await stack.enter_async_context(_until_drained(jobs, settings.worker.drain_seconds))
        yield address


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


def _connection(settings: Settings, name: str) -> AbstractAsyncContextManager[Client]:
    return connect(settings.nats, name=name, on_restored=partial(restore_topology, replicas=settings.nats.replicas))


@asynccontextmanager
async def _background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs them while the context is open, then cancels them. One that fails ends the role."""
    async with task_group() as tasks:
        running = [tasks.create_task(coroutine) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


@asynccontextmanager
async def _until_drained(jobs: JobLoop, drain_seconds: float) -> AsyncIterator[None]:
    """Works on jobs while the context is open, then finishes those in hand."""
    stop = asyncio.Event()
    async with task_group() as tasks:
        tasks.create_task(jobs.run(drain_seconds=drain_seconds, stop=stop))
        try:
            yield
        finally:
            stop.set()
