"""The public gRPC server: services, limits, health, reflection, channelz, and an ordered end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from flashbulb.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    realtime_pb2,
    realtime_pb2_grpc,
    storage_pb2,
    storage_pb2_grpc,
)
from flashbulb_server.api.grpc.interceptors import CallInterceptor
from flashbulb_server.config import ApiSettings
from flashbulb_server.errors import Misconfigured
from flashbulb_server.wire.listening import taken

_MAX_SEND_BYTES = 64 * 1024 * 1024  # answers are kept below 4 MiB; this is only a guard
_OPEN_STREAMS_MS = 3_600_000  # longer than sessions and watches last; what is cut then is resumed
_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (generation_pb2, "GenerationService"),
        (queue_pb2, "QueueService"),
        (storage_pb2, "StorageService"),
        (model_pb2, "ModelService"),
        (realtime_pb2, "RealtimeService"),
    )
)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True)
class Servicers:
    """What is served."""

    generation: generation_pb2_grpc.GenerationServiceServicer
    queue: queue_pb2_grpc.QueueServiceServicer
    storage: storage_pb2_grpc.StorageServiceServicer
    models: model_pb2_grpc.ModelServiceServicer
    realtime: realtime_pb2_grpc.RealtimeServiceServicer


@asynccontextmanager
async def serve(servicers: Servicers, guard: CallInterceptor, settings: ApiSettings) -> AsyncIterator[str]:
    """Serves while the context is open; gives the address, `host:port`. On exit calls may go on for `drain_seconds`.

    Raises Misconfigured if the port is taken.
    """
    server = grpc.aio.server(
        interceptors=[guard],
        options=(
            ("grpc.max_receive_message_length", settings.max_receive_bytes),
            ("grpc.max_send_message_length", _MAX_SEND_BYTES),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its calls silently
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may ping every 10 s
            ("grpc.keepalive_permit_without_calls", 1),
            *_age(settings.max_connection_age_seconds),
        ),
    )
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicers.generation, server)
    queue_pb2_grpc.add_QueueServiceServicer_to_server(servicers.queue, server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(servicers.storage, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicers.models, server)
    realtime_pb2_grpc.add_RealtimeServiceServicer_to_server(servicers.realtime, server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*_SERVICES, _HEALTH, reflection.SERVICE_NAME), server)
    channelz.add_channelz_servicer(server)

    host, _, _ = settings.listen.rpartition(":")
    port = _bind(server, settings)
    await server.start()
    for name in ("", *_SERVICES):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"{host}:{port}"
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(settings.drain_seconds)


def _age(seconds: float) -> tuple[tuple[str, int], ...]:
    """When connections end; grpc makes it a tenth more or less by chance, so that not all callers come at once."""
    if not seconds:
        return ()
    return (
        ("grpc.max_connection_age_ms", max(1, round(seconds * 1000))),
        ("grpc.max_connection_age_grace_ms", _OPEN_STREAMS_MS),
    )


def _bind(server: grpc.aio.Server, settings: ApiSettings) -> int:
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.listen)
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        return server.add_secure_port(settings.listen, grpc.ssl_server_credentials([pair]))
    except RuntimeError as err:
        raise Misconfigured(f"FLASHBULB_API__LISTEN: {taken(settings.listen)}") from err
