"""The api role: takes calls, over gRPC and HTTP. Every part is made here, opened in order and closed in reverse. Knows no torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from nats.aio.client import Client

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
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.server import serve_http
from flashbulb_server.api.janitor import Janitor
from flashbulb_server.api.polling import Polling
from flashbulb_server.api.queueing import Queueing
from flashbulb_server.api.realtime import Realtime
from flashbulb_server.api.results import Results
from flashbulb_server.api.sources import InlineSources
from flashbulb_server.api.stores import Stores
from flashbulb_server.api.tokens import Tokens
from flashbulb_server.api.uploads import Uploads
from flashbulb_server.api.watching import Watching
from flashbulb_server.api.webhooks.body import Bodies
from flashbulb_server.api.webhooks.courier import Courier
from flashbulb_server.api.webhooks.orders import Webhooks
from flashbulb_server.api.webhooks.sending import Sender
from flashbulb_server.api.webhooks.signing import KeyChange, Signer, change_keys, described
from flashbulb_server.app.checks import checked_keys
from flashbulb_server.app.process import Addresses, background, connection, run_role, until_drained
from flashbulb_server.config import ModelsSettings, NatsSettings, Settings
from flashbulb_server.core.catalog import ModelInfo, declared_model
from flashbulb_server.core.realtime import Limits
from flashbulb_server.messaging.connection import connect
from flashbulb_server.messaging.dead_letters import DeadLetters
from flashbulb_server.messaging.events import EventBus
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.messaging.jobs import JobQueue
from flashbulb_server.messaging.lost import LostJobs
from flashbulb_server.messaging.records import IdempotencyKeys, RequestRecords
from flashbulb_server.messaging.signing import SigningKeys
from flashbulb_server.messaging.topology import ensure_topology
from flashbulb_server.messaging.webhooks import WebhookConsumer, WebhookQueue
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.storage.objects import Objects
from flashbulb_server.storage.sweeper import Sweeper


def run_api(settings: Settings, ready_file: Path | None = None) -> int:
    """Runs the api role until it is told to stop. Gives the exit code."""
    return run_role(api(settings), ready_file)


def signing_keys(nats: NatsSettings, wanted: KeyChange) -> list[str]:
    """Changes the keys that webhooks are signed with, and describes those there are then. Raises StoreUnavailable."""

    async def run() -> list[str]:
        async with connect(nats, name="flashbulb-keys", wait_seconds=5.0) as nc:
            now = time.time()
            return described(await change_keys(SigningKeys(nc.jetstream()), wanted, now=now), now)

    return asyncio.run(run())


@asynccontextmanager
async def api(settings: Settings) -> AsyncIterator[Addresses]:
    """The api role; gives its addresses while it serves.

    Raises StoreUnavailable (a store does not answer), Misconfigured (ports, keys, certificates, a store that refuses its keys),
    NewerRelease.
    """
    keys = checked_keys(settings)
    tokens = Tokens.load(settings.api, keys, clock=time.time)
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(FileStore(settings.files))
        nc = await stack.enter_async_context(connection(settings, "flashbulb-api"))
        js = nc.jetstream()
        dead = DeadLetters(js)
        await ensure_topology(js, settings.queue, settings.webhooks, replicas=settings.nats.replicas)
        signer = await Signer.open(settings.webhooks, SigningKeys(js, dead), clock=time.time)
        declared, stand_in = _declared(settings.models), settings.models.stand_in
        fleet = await stack.enter_async_context(Fleet.open(nc, js, declared=declared, stand_in=stand_in, dead=dead))
        stores = Stores(
            records=RequestRecords(nc, js, dead=dead),
            keys=IdempotencyKeys(nc, js, dead),
            jobs=JobQueue(nc, js, settings.queue, worker_class=settings.worker.worker_class, dead=dead),
            events=EventBus(nc, js),
            fleet=fleet,
            webhooks=WebhookQueue(js),
        )
        for model in fleet.models():
            await stores.jobs.open_pool(model.name)
        results = Results(files, url_seconds=settings.files.url_seconds, gateway_url=settings.http.public_url)
        queueing = Queueing(stores, InlineSources(files), results, settings.queue, clock=time.time)
        engines = await stack.enter_async_context(Engines())
        generating = Generating(fleet, engines, clock=time.time)
        limits = Limits(settings.api.sessions_per_key, settings.api.session_idle_seconds)
        realtime = Realtime(generating, fleet, limits, clock=time.time)
        watching = Watching(queueing, stores.events, clock=time.time)
        polling = await stack.enter_async_context(Polling.open(queueing, stores.events, clock=time.monotonic))
        webhooks = Webhooks(queueing, stores.records, stores.webhooks, settings.webhooks)
        stored = Files(files, url_seconds=settings.files.url_seconds)
        objects = await stack.enter_async_context(Objects(files))
        janitor = Janitor(stores, queueing, await LostJobs.open(js, dead), settings.queue, clock=time.time)
        sweeper = Sweeper(files, keep_seconds=settings.queue.keep_seconds, every_seconds=settings.files.sweep_seconds)
        await stack.enter_async_context(background(janitor.run(), sweeper.run(), signer.run()))
        stop_webhooks = await stack.enter_async_context(
            _delivering(settings, nc, dead, stores.records, results, signer)
        )
        gateway = Gateway(
            settings=settings.http,
            keys=keys,
            tokens=tokens,
            fleet=fleet,
            generating=generating,
            queueing=queueing,
            polling=polling,
            watching=watching,
            realtime=realtime,
            files=stored,
            grpc_listen=settings.api.listen,
            uploads=Uploads(files, objects, url_seconds=settings.files.url_seconds, clock=time.time),
            webhooks=webhooks,
            signer=signer,
        )
        http = await stack.enter_async_context(serve_http(gateway, settings.api))
        guard = CallInterceptor(
            keys,
            tokens,
            max_calls=settings.api.max_calls,
            first_message_seconds=settings.api.first_message_seconds,
        )
        address = await stack.enter_async_context(serve(_servicers(gateway), guard, settings.api))

        def keys_ended(owners: frozenset[str]) -> None:
            http.keys_ended()
            realtime.end(owners)

        await stack.enter_async_context(background(keys.follow(keys_ended)))
        for leave in (watching.drain, realtime.drain, http.drain, stop_webhooks.set):
            stack.callback(leave)
        yield Addresses(address, http.address)


def _servicers(gateway: Gateway) -> Servicers:
    """The services of gRPC, over the use-cases that the gateway is made of too."""
    return Servicers(
        generation=GenerationServicer(gateway.generating, gateway.fleet),
        queue=QueueServicer(gateway.queueing, gateway.watching, gateway.webhooks, gateway.fleet),
        storage=StorageServicer(gateway.files),
        models=ModelServicer(gateway.fleet),
        realtime=RealtimeServicer(gateway.realtime, gateway.tokens),
    )


@asynccontextmanager
async def _delivering(
    settings: Settings, nc: Client, dead: DeadLetters, records: RequestRecords, results: Results, signer: Signer
) -> AsyncIterator[asyncio.Event]:
    """Delivers webhooks while the context is open. Gives the event that ends it, as of `_until_drained`."""
    allow_private = settings.webhooks.allow_private_targets
    async with (
        Sender(signer, allow_private=allow_private, clock=time.time) as sender,
        WebhookConsumer.open(nc, dead) as consumer,
    ):
        courier = Courier(records, consumer, Bodies(results), sender, settings.webhooks)
        async with until_drained(courier, settings.api.drain_seconds) as stop:
            yield stop


def _declared(settings: ModelsSettings) -> list[ModelInfo]:
    return [declared_model(name, endpoints) for name, endpoints in settings.declared.items()]
