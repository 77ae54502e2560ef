"""The worker role: draws. Every part is made here, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashbulb_server.app.checks import check_worker
from flashbulb_server.app.compiling import Beside, compile_beside
from flashbulb_server.app.process import Addresses, background, connection, run_role, until_drained
from flashbulb_server.app.spare import stay_behind
from flashbulb_server.config import Settings, WorkerSettings, user_cache
from flashbulb_server.core.pipeline import StepPipeline
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.dead_letters import DeadLetters
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Herald
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.messaging.pledges import Pledges
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

if TYPE_CHECKING:
    from flashbulb_server.pipelines.loading import Loader

_ANNOUNCE_SECONDS = 1.0
_MODELS_SECONDS = 3600.0
_log = logging.getLogger(__name__)

Load = Callable[[WorkerSettings], Mapping[str, StepPipeline[Any]]]
"""Loads the pipelines of a worker, by the names of their models. Raises Misconfigured."""


def run_worker(settings: Settings, ready_file: Path | None = None, *, load: Load | None = None) -> int:
    """Runs the worker role until it is told to stop. Gives the exit code. `load`: as of `worker`."""
    if settings.worker.spare:
        check_worker(settings)
        ended = stay_behind(ready_file)
        if ended is not None:
            return ended
    return run_role(worker(settings, load), ready_file)


@asynccontextmanager
async def worker(settings: Settings, load: Load | None = None) -> AsyncIterator[Addresses]:
    """The worker role; gives the address where apis reach it while it works. `load`: instead of the models that the settings name.

    Raises StoreUnavailable, OSError, Misconfigured (the address is taken, a model cannot be loaded, a store refuses the keys).
    """
    check_worker(settings)
    worker_id = secrets.token_hex(6)
    async with AsyncExitStack() as stack:
        async with task_group() as tasks:  # most of it is waiting for others, while the models are loaded
            loading = tasks.create_task(asyncio.to_thread(_load, settings, load))
            files = await stack.enter_async_context(FileStore(settings.files))
            nc = await stack.enter_async_context(connection(settings, f"flashbulb-worker-{worker_id}"))
            js = nc.jetstream()
            dead = DeadLetters(js)
            await ensure_topology(js, settings.queue, settings.webhooks, replicas=settings.nats.replicas)
        pipelines, unfinished = loading.result()
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
        hand = Pledges.open(nc, _hand(settings.worker.listen), lease_seconds=settings.queue.lease_seconds)
        pledges = await stack.enter_async_context(hand)
        consumer = await stack.enter_async_context(JobConsumer.open(nc, pools, dead, pledges))
        records = RequestRecords(nc, js, dead=dead)
        desk = Desk(consumer, records, EventBus(nc, js), engine, inputs, delivery, WebhookQueue(js))
        jobs = JobLoop(desk, settings.queue, worker_id=worker_id, clock=time.time)
        address = await stack.enter_async_context(
            serve_engine(
                EngineServicer(engine, inputs, delivery),
                settings.worker.listen,
                drain_seconds=settings.worker.drain_seconds,
            )
        )
        herald = Herald(nc, js, dead)
        await stack.enter_async_context(herald.hear_cancellations(worker_id, jobs.stop_request))
        voice = _Voice(herald, engine, worker_id, settings.worker.advertise or address)
        await voice.introduce()
        await stack.enter_async_context(background(voice.run(), *_finishing(unfinished, engine, settings, stack)))
        stack.callback(voice.drain)
        await stack.enter_async_context(until_drained(jobs, settings.worker.drain_seconds))
        yield Addresses(address)


def _hand(listen: str) -> Path | None:
    """Where a worker on one host with its api, which listens on a socket in the file system, writes down what it holds."""
    kind, _, path = listen.partition(":")
    return Path(f"{path}.hand") if kind == "unix" else None


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """Models that torch draws until their networks are compiled."""

    loader: Loader
    names: Sequence[str]


def _load(settings: Settings, load: Load | None) -> tuple[Mapping[str, StepPipeline[Any]], _Unfinished | None]:
    if load is not None:
        return load(settings.worker), None
    from flashbulb_server.pipelines.loading import Loader  # torch

    wanted = settings.worker
    loader = Loader(wanted.model_copy(update={"cache_dir": wanted.cache_dir or user_cache()}))
    pipelines, names = loader.load_at_once()
    return pipelines, _Unfinished(loader, names) if names else None


def _finishing(
    unfinished: _Unfinished | None, engine: StepEngine, settings: Settings, stack: AsyncExitStack
) -> Iterator[Coroutine[Any, Any, None]]:
    """What is to run beside the drawing, if anything. `stack`: removes what it leaves behind."""
    if unfinished is not None:
        beside = Beside()
        stack.callback(beside.remove)
        yield compile_beside(engine, unfinished.loader, unfinished.names, settings, beside.path)


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
        said, said_models = self._engine.models, time.monotonic()
        while True:
            await asyncio.sleep(_ANNOUNCE_SECONDS)
            if self._engine.broken:
                raise RuntimeError("the step engine is broken; the process must be replaced")
            try:
                if self._engine.models != said or time.monotonic() - said_models > _MODELS_SECONDS:
                    said = self._engine.models
                    await self._herald.announce_models(said)
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
