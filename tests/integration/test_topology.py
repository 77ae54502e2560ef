"""Streams, buckets and consumers on a real nats-server: made by whoever comes first, kept by who comes later, made again when forgotten."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from flashbulb_server.config import NatsSettings, QueueSettings
from flashbulb_server.core.requests import Priority, State
from flashbulb_server.errors import QueueFull, StoreUnavailable
from flashbulb_server.messaging.connection import connect
from flashbulb_server.messaging.topology import ensure_consumers
from flashbulb_server.supervisor.ports import free_ports
from flashbulb_server.wire.records import Event
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import POOL, Queue, eventually, make_job, make_request, open_queue

pytestmark = pytest.mark.integration


async def test_roles_that_start_at_once_make_it_together(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)

    async def start() -> None:
        async with open_queue(nats_server):
            pass

    await asyncio.gather(*(start() for _ in range(5)))
    async with open_queue(nats_server) as queue:
        request = make_request()
        await queue.records.create(request)
        await queue.jobs.publish(make_job(request.request_id), Priority.NORMAL)
        assert await queue.jobs.position(make_job(request.request_id), Priority.NORMAL) == 0


async def test_a_start_with_other_settings_changes_limits_and_keeps_what_is_stored(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    job, request = make_job(), make_request()
    async with open_queue(nats_server, QueueSettings(max_requests=1, lease_seconds=5, max_attempts=3)) as queue:
        await queue.jobs.publish(job, Priority.NORMAL)
        await queue.records.create(request)
        await queue.keys.claim("owner", "token", "id", b"")
        with pytest.raises(QueueFull):
            await queue.jobs.publish(make_job(), Priority.NORMAL)
    changed = QueueSettings(max_requests=2, lease_seconds=2, max_attempts=1, idempotency_seconds=120)
    async with open_queue(nats_server, changed) as queue:
        await queue.jobs.publish(make_job(), Priority.NORMAL)
        with pytest.raises(QueueFull):
            await queue.jobs.publish(make_job(), Priority.NORMAL)
        assert await queue.jobs.exists(job, Priority.NORMAL)
        await queue.records.get(request.owner, request.request_id)
        assert (await queue.keys.claim("owner", "token", "other", b"")).request_id == "id"
        config = (await queue.js.consumer_info("JOBS", POOL.consumer(Priority.NORMAL))).config
        assert config.ack_wait == 2


async def test_a_second_worker_class_has_a_queue_of_its_own(nats_server: RunningNats) -> None:
    await forget_streams(nats_server)
    async with open_queue(nats_server) as queue:
        large = replace(POOL, worker_class="large")
        await ensure_consumers(queue.js, queue.settings, large)
        await queue.jobs.publish(make_job(), Priority.NORMAL)
        assert (await queue.js.consumer_info("JOBS", large.consumer(Priority.NORMAL))).num_pending == 0
        assert (await queue.js.consumer_info("JOBS", POOL.consumer(Priority.NORMAL))).num_pending == 1


async def test_what_a_restarted_server_forgot_is_made_again(own_nats_server: RunningNats) -> None:
    async def streams(queue: Queue) -> set[str | None]:
        return {info.config.name for info in await queue.js.streams_info()}

    async with open_queue(own_nats_server) as queue:
        before = await streams(queue)
        assert {"EVENTS", "KV_workers"} < before
        await own_nats_server.restart()
        await eventually(lambda: queue.nc.is_connected)

        async def complete() -> bool:
            return await streams(queue) == before

        await eventually(complete)


async def test_a_server_that_is_not_there_is_waited_for_and_then_given_up_in_time() -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        async with connect(NatsSettings(url=f"nats://127.0.0.1:{port}"), name="test", wait_seconds=0.5):
            pass
    assert time.monotonic() - started < 3


async def test_nothing_stays_open_of_a_connection_that_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        hung_up.set()
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable):
            async with connect(NatsSettings(url=f"nats://127.0.0.1:{port}"), name="test", wait_seconds=0.5):
                pass
        await hung_up.wait()
    assert "lost" not in caplog.text, "there was none to lose"


async def test_a_wrong_token_is_given_up_too(nats_server: RunningNats) -> None:
    with pytest.raises(StoreUnavailable):
        async with connect(NatsSettings(url=nats_server.url, token="wrong"), name="test", wait_seconds=0.5):
            pass


async def test_a_server_that_comes_late_is_found(own_nats_server: RunningNats) -> None:
    own_nats_server.kill()
    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(open_and_close(own_nats_server))
        await asyncio.sleep(0.2)
        assert not late.done()
        await own_nats_server.restart()


async def open_and_close(server: RunningNats) -> None:
    async with open_queue(server):
        pass


async def test_a_role_can_end_while_the_server_is_away(own_nats_server: RunningNats) -> None:
    async with open_queue(own_nats_server) as queue:
        own_nats_server.kill()
        await eventually(lambda: not queue.nc.is_connected)
        await queue.events.publish("one", Event(1, 1.0, State.FAILED))  # something that is still to be sent
