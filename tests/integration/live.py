"""An api and workers in this process, over real gRPC and a real nats-server, around pipelines without networks."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc

from flashbulb.v1 import generation_pb2_grpc, realtime_pb2_grpc
from flashbulb_server.api.engines import Engines
from flashbulb_server.api.generating import Generating
from flashbulb_server.api.grpc.generation import GenerationServicer
from flashbulb_server.api.grpc.interceptors import CallInterceptor
from flashbulb_server.api.grpc.realtime import RealtimeServicer
from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.api.realtime import Realtime
from flashbulb_server.api.tokens import Tokens
from flashbulb_server.config import FilesSettings
from flashbulb_server.core.realtime import Limits
from flashbulb_server.messaging.fleet import Fleet, Herald
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.wire.records import Announcement
from flashbulb_server.worker.delivery import Delivery
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs
from flashbulb_server.worker.server import EngineServicer, serve_engine
from tests.integration.stage import Queue, eventually
from tests.sessions import Talk, size, talking, text
from tests.sleeping_pipeline import SleepingLane, SleepingPipeline

KEY, OTHER_KEY = "Key one:secret", "Key two:secret"
PERMITS = 100_000
NARROW = (("grpc.http2.bdp_probe", 0),)  # 64 KiB are on the way at most, so that it is soon noticed who does not read
_ids = itertools.count()


class GatedPipeline(SleepingPipeline):
    """Waits in every step until the test lets it go. A prompt of `bad` cannot be drawn."""

    def __init__(self, **options):
        super().__init__(**options)
        self._entered: queue.Queue[int] = queue.Queue()
        self._permits = threading.Semaphore(0)
        endpoints = ("fast-lcm-diffusion", "fast-lcm-diffusion/image-to-image")
        self.info = replace(self.info, endpoints=endpoints)

    def step(self, lanes: Sequence[SleepingLane]) -> None:
        self._entered.put(len(lanes))
        assert self._permits.acquire(timeout=20)
        super().step(lanes)

    def prepare(self, spec, sources=None):
        if spec.prompt == "bad":
            raise RuntimeError("out of order")
        return super().prepare(spec, sources)

    async def entered(self) -> int:
        """Waits until the next call has begun; gives its lanes."""
        return await asyncio.to_thread(self._entered.get, timeout=10)

    def let_go(self, calls: int = PERMITS) -> None:
        """Lets so many calls pass."""
        self._permits.release(calls)


@dataclass
class Worker:
    """A worker that announces itself when it is told to."""

    servicer: EngineServicer
    engine: StepEngine
    pipeline: SleepingPipeline
    herald: Herald
    announcement: Announcement
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def announce(self, **changes: object) -> None:
        """Says how it is."""
        self.announcement = replace(self.announcement, **changes)
        await self.herald.announce(self.announcement)

    async def stop(self) -> None:
        """Its server ends at once, as if it had been killed."""
        await self.stack.aclose()

    async def free(self) -> None:
        """Waits until it draws nothing."""
        await eventually(lambda: self.engine.in_flight == 0 and self.engine.waiting == 0)


@asynccontextmanager
async def open_worker(
    on: Queue, pipeline: SleepingPipeline, *, capacity: int = 8, drain_seconds: float = 0.0
) -> AsyncIterator[Worker]:
    """A worker that is announced."""
    models = {pipeline.info.name: pipeline.info}
    files = FileStore(FilesSettings())  # never asked: pictures travel inline
    async with (
        StepEngine({pipeline.info.name: pipeline}, capacity=capacity) as engine,
        Inputs(files, models, allow_private_urls=False) as inputs,
        Delivery(files, keep_seconds=60, url_seconds=60) as delivery,
        AsyncExitStack() as stack,
    ):
        servicer = EngineServicer(engine, inputs, delivery)
        address = await stack.enter_async_context(serve_engine(servicer, "127.0.0.1:0", drain_seconds=drain_seconds))
        worker_id = f"worker-{next(_ids):06}"
        said = Announcement(worker_id, address, tuple(models), capacity, 0, 0.1, draining=False, time=time.time())
        worker = Worker(servicer, engine, pipeline, Herald(on.nc, on.js), said, stack)
        await worker.herald.announce_models(engine.models)
        await worker.announce()
        try:
            yield worker
        finally:
            if isinstance(pipeline, GatedPipeline):
                pipeline.let_go()


@dataclass
class Api:
    """An api's realtime and direct calls."""

    address: str
    fleet: Fleet
    engines: Engines
    realtime: Realtime
    tokens: Tokens
    generating: Generating
    channel: grpc.aio.Channel

    @property
    def stub(self) -> realtime_pb2_grpc.RealtimeServiceAsyncStub:
        """Of RealtimeService."""
        return realtime_pb2_grpc.RealtimeServiceStub(self.channel)

    @asynccontextmanager
    async def talking(self, authorization: str = KEY) -> AsyncIterator[Talk]:
        """A connection without a word yet."""
        async with talking(self.stub, (("authorization", authorization),)) as talk:
            yield talk

    @asynccontextmanager
    async def session(self, authorization: str = KEY, **wish: object) -> AsyncIterator[Talk]:
        """An open session of small pictures in four steps."""
        async with self.talking(authorization) as talk:
            wish.setdefault("defaults", text(prompt="a cat", num_inference_steps=4, image_size=size(8, 8)))
            yield await talk.open(**wish)

    async def knows(self, *workers: Worker) -> None:
        """Waits until the api knows exactly these workers."""
        wanted = {worker.announcement.worker_id for worker in workers}
        await eventually(lambda: {worker.worker_id for worker in self.fleet.workers()} == wanted)


@asynccontextmanager
async def open_api(on: Queue, *, first_seconds: float = 30.0, **limits: float) -> AsyncIterator[Api]:
    """An api whose workers never fall silent."""
    chosen = Limits(**{"per_key": 8, "idle_seconds": 60.0, **limits})
    async with Fleet.open(on.nc, on.js, clock=lambda: 1.0) as fleet, Engines() as engines:
        generating = Generating(fleet, engines, clock=time.time)
        realtime = Realtime(generating, fleet, chosen, clock=time.time)
        keys = Keys({"one": digest("secret"), "two": digest("secret")})
        tokens = Tokens("", keys, clock=time.time)
        server = grpc.aio.server(
            interceptors=[CallInterceptor(keys, tokens, first_message_seconds=first_seconds)],
            options=(("grpc.max_receive_message_length", 65_536), *NARROW),
        )
        sessions = RealtimeServicer(realtime, tokens)
        realtime_pb2_grpc.add_RealtimeServiceServicer_to_server(sessions, server)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationServicer(generating, fleet), server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
                yield Api(address, fleet, engines, realtime, tokens, generating, channel)
        finally:
            await server.stop(0)
