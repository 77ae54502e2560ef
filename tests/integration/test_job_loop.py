"""The job loop with the real queue, file store and step engine: every way a job can end, and every way it can be taken from a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from flashbulb_server.config import QueueSettings, Settings
from flashbulb_server.core import requests
from flashbulb_server.core.files import output_key, upload_key, uri_of
from flashbulb_server.core.generation import Progress, SourceImage
from flashbulb_server.core.requests import Failure, LogLine, Priority, Request, State
from flashbulb_server.errors import DataUnreadable, RequestCancelled, RequestNotFound
from flashbulb_server.messaging.fleet import Stopped
from flashbulb_server.messaging.jobs import JobConsumer
from flashbulb_server.messaging.topology import Pool, ensure_consumers
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.wire.records import Event, Job, encode_request
from flashbulb_server.worker.delivery import Delivery
from flashbulb_server.worker.encode import encode
from flashbulb_server.worker.engine import StepEngine
from flashbulb_server.worker.inputs import Inputs
from flashbulb_server.worker.jobs import Desk, JobLoop
from tests.conftest import forget_streams, make_settings
from tests.embedded import RunningNats, RunningS3
from tests.integration.stage import (
    CLASS,
    OWNER,
    Queue,
    dead,
    eventually,
    make_request,
    open_queue,
    put_newer_record,
    put_record,
    record_of,
)
from tests.sleeping_pipeline import SleepingLane, SleepingPipeline
from tests.specs import make_image_spec, make_spec

pytestmark = pytest.mark.integration
QUICK = QueueSettings(lease_seconds=1, max_attempts=3)


POOL = Pool(CLASS, "sleeping")


class FailingPipeline(SleepingPipeline):
    """Fails in the second step of a prompt that asks for it."""

    def step(self, lanes: Sequence[SleepingLane]) -> None:
        if any(lane.step == 1 and lane.state in self.doomed for lane in lanes):
            raise RuntimeError("out of memory")
        super().step(lanes)

    doomed: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Worker:
    """A running job loop."""

    loop: JobLoop
    engine: StepEngine
    pipeline: SleepingPipeline
    stop: asyncio.Event
    running: asyncio.Task[None]


@asynccontextmanager
async def open_worker(
    queue: Queue,
    files: FileStore,
    *,
    pipeline: SleepingPipeline | None = None,
    capacity: int = 4,
    worker_id: str = "one",
    drain_seconds: float = 10,
) -> AsyncIterator[Worker]:
    """A worker as its role wires it, with a pipeline that sleeps. Drains at the end."""
    drawing = pipeline or SleepingPipeline(seconds=0.005)
    name = drawing.info.name
    pool = Pool(CLASS, name)
    await ensure_consumers(queue.js, queue.settings, pool)
    async with (
        StepEngine({name: drawing}, capacity=capacity) as engine,
        Inputs(files, {name: drawing.info}, allow_private_urls=True) as inputs,
        Delivery(files, keep_seconds=3600, url_seconds=60) as delivery,
        JobConsumer.open(queue.nc, [pool]) as consumer,
    ):
        desk = Desk(consumer, queue.records, queue.events, engine, inputs, delivery, queue.webhooks)
        loop = JobLoop(desk, queue.settings, worker_id=worker_id, clock=time.time)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run(drain_seconds=drain_seconds, stop=stop))
            try:
                yield Worker(loop, engine, drawing, stop, running)
            finally:
                stop.set()


@pytest.fixture
async def files(settings: Settings) -> AsyncIterator[FileStore]:
    async with FileStore(settings.files) as store:
        yield store


@pytest.fixture
async def queue(nats_server: RunningNats, settings: Settings) -> AsyncIterator[Queue]:
    async with open_queue(nats_server, QUICK) as opened:
        await ensure_consumers(opened.js, QUICK, POOL)
        yield opened


async def submit(
    queue: Queue, *, priority: Priority = Priority.NORMAL, start_in: float = 600, **spec: object
) -> Request:
    """A request of the sleeping model with its job, as the api puts it there."""
    make = make_image_spec if "image" in spec else make_spec
    values = make(**{"model_name": "sleeping", "width": 64, "height": 64, **spec})
    request = make_request(
        spec=values, priority=priority, total_steps=values.steps, start_deadline=time.time() + start_in
    )
    await queue.records.create(request)
    await queue.jobs.publish(job_of(request), priority)
    return request


def job_of(request: Request) -> Job:
    spec = request.spec
    return Job(request.request_id, request.owner, request.start_deadline, spec.model_name, spec.num_images)


async def now(queue: Queue, request: Request) -> Request:
    return (await queue.records.get(request.owner, request.request_id)).request


async def settled(queue: Queue, request: Request, seconds: float = 15) -> Request:
    """The request in its terminal state, with its job gone."""

    async def over() -> bool:
        exists = await queue.jobs.exists(job_of(request), request.priority)
        return not exists and (await now(queue, request)).state.terminal

    await eventually(over, seconds)
    return await now(queue, request)


async def stepping(queue: Queue, request: Request, step: int = 1) -> None:
    """Waits until so many steps are told of."""

    async def far_enough() -> bool:
        found = await queue.events.last_progress(request.request_id)
        return found is not None and found.step >= step

    await eventually(far_enough)


async def stored(files: FileStore, request: Request) -> list[bool]:
    """Which of the pictures are in the store."""
    keys = [output_key(request.owner, request.request_id, i, "png") for i in range(request.spec.num_images)]
    return [await files.stat(key) is not None for key in keys]


async def test_a_request_is_drawn_stored_recorded_and_settled(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files):
        request = await submit(queue, num_images=2, num_inference_steps=3)
        async with queue.events.follow(request.request_id, previews=False) as follower:
            ended = await settled(queue, request)
            heard: list[Event] = []
            while (event := await follower.next(0.2)) is not None:
                heard.append(event)
    assert (ended.state, ended.attempt, ended.worker_id, ended.steps_done) == (State.SUCCEEDED, 1, "one", 3)
    assert ended.result is not None
    assert len(ended.result.images) == 2
    assert [image.seed for image in ended.result.images] == [7, 8]
    for image in ended.result.images:
        assert len(await files.get(image.key, limit=1 << 20)) == image.size_bytes
    assert [line.message.split()[0] for line in ended.logs] == ["started", "drawn", "stored"]
    kept = await queue.events.backlog(request.request_id)
    assert [e.body for e in kept if isinstance(e.body, Progress)] == [Progress(i, 3) for i in (1, 2, 3)]
    assert kept[0].body is State.RUNNING
    assert kept[-1] == Event(ended.sequence, ended.end_time, State.SUCCEEDED)
    assert sum(isinstance(e.body, LogLine) for e in kept) == 3
    assert heard[-1] == kept[-1]


async def test_a_fault_of_the_engine_fails_that_request_alone(queue: Queue, files: FileStore) -> None:
    pipeline = FailingPipeline(seconds=0.005)
    probe = SleepingPipeline().prepare(make_spec(prompt="doomed"))
    SleepingPipeline().step(probe)
    pipeline.doomed = frozenset({probe[0].state})
    async with open_worker(queue, files, pipeline=pipeline, capacity=1):
        doomed = await submit(queue, prompt="doomed")
        fine = await submit(queue, prompt="fine")
        ended = await settled(queue, doomed)
        assert (await settled(queue, fine)).state is State.SUCCEEDED
    assert ended.state is State.FAILED
    assert ended.failure is not None and ended.failure.reason == "ENGINE_FAILED"
    assert "out of memory" not in ended.failure.message
    assert ended.logs[-1].level == "ERROR"
    assert await stored(files, doomed) == [False]


async def test_a_job_that_is_not_loaded_here_is_given_back_and_uses_up_no_attempt(
    queue: Queue, files: FileStore
) -> None:
    request = make_request(spec=make_spec(model_name="another", width=64, height=64))
    await queue.records.create(request)
    await queue.jobs.publish(
        replace(job_of(request), model_name="sleeping"), Priority.NORMAL
    )  # to who had it a moment ago
    async with open_worker(queue, files):

        async def given_back() -> bool:
            info = await queue.js.consumer_info("JOBS", POOL.consumer(Priority.NORMAL))
            return (info.num_redelivered or 0) > 0

        await eventually(given_back)
    left = await now(queue, request)
    assert (left.state, left.attempt) == (State.QUEUED, 0)
    assert await queue.jobs.exists(replace(job_of(request), model_name="sleeping"), Priority.NORMAL)


async def test_two_workers_of_unlike_models_draw_forty_requests_each_its_own(queue: Queue, files: FileStore) -> None:
    other = SleepingPipeline("other", seconds=0.005)
    async with open_worker(queue, files), open_worker(queue, files, pipeline=other, worker_id="two"):
        made = [await submit(queue, model_name=("sleeping", "other")[i % 2]) for i in range(40)]
        ended = [await settled(queue, request) for request in made]
    assert [r.state for r in ended] == [State.SUCCEEDED] * 40
    assert [r.worker_id for r in ended] == ["one", "two"] * 20
    assert {r.attempt for r in ended} == {1}


async def test_a_request_that_waits_in_the_engine_is_cancelled_at_step_0(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.05), capacity=1) as worker:
        direct = worker.engine.start(make_spec(model_name="sleeping", num_inference_steps=50))  # not from the queue
        await eventually(lambda: direct.step >= 1)
        request = await submit(queue)
        await eventually(lambda: worker.engine.waiting == 1)
        assert await worker.loop.stop_request(request.request_id) == Stopped(True, 0, 4)
        ended = await settled(queue, request)
        direct.cancel()
        with pytest.raises(RequestCancelled):
            await direct.result()
    assert (ended.state, ended.steps_done) == (State.CANCELLED, 0)


async def test_a_request_is_cancelled_at_the_next_step(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.02)) as worker:
        request = await submit(queue, num_inference_steps=200)
        await stepping(queue, request, 3)
        twice = await asyncio.gather(*(worker.loop.stop_request(request.request_id) for _ in range(2)))
        at_that_time = await now(queue, request)
        ended = await settled(queue, request)
        assert worker.engine.in_flight == 0
        assert await worker.loop.stop_request(request.request_id) == Stopped(False, 0, 0)
    assert twice[0] == twice[1] == Stopped(True, ended.steps_done, 200)
    assert 3 <= ended.steps_done < 50
    assert at_that_time.state is State.CANCELLED  # answered when the record said so, not before
    assert ended.failure is not None
    assert ended.failure.metadata == {"step": str(ended.steps_done), "total_steps": "200"}
    told = await queue.events.last_progress(request.request_id)
    assert told is not None and ended.steps_done - told.step in (0, 1)  # the step that it was in may go untold
    assert await stored(files, request) == [False]


async def test_a_request_is_cancelled_while_its_picture_is_being_fetched_in_time(
    queue: Queue, files: FileStore
) -> None:
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()  # until the worker hangs up
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    async with server, open_worker(queue, files) as worker:
        request = await submit(queue, image=SourceImage(url))
        await asyncio.wait_for(asked.wait(), 10)
        started = time.monotonic()
        assert await worker.loop.stop_request(request.request_id) == Stopped(True, 0, 4)
        assert time.monotonic() - started < 2
        ended = await settled(queue, request)
    assert (ended.state, ended.steps_done) == (State.CANCELLED, 0)
    assert worker.pipeline.batches == []


async def test_a_picture_that_cannot_be_read_fails_the_request(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files) as worker:
        bad = await settled(queue, await submit(queue, image=SourceImage("http://127.0.0.1:9/a.png")))
        good = await settled(queue, await submit(queue))
    assert (bad.state, good.state) == (State.FAILED, State.SUCCEEDED)
    assert bad.failure is not None and bad.failure.reason == "BAD_IMAGE"
    assert bad.failure.metadata["field"] == "image_url"
    assert worker.engine.in_flight == 0


async def test_a_file_store_that_is_away_is_waited_for_by_what_it_shall_be_read(
    nats_server: RunningNats, own_s3_server: RunningS3
) -> None:
    await forget_streams(nats_server)
    settings = make_settings(nats_server, own_s3_server)
    key = upload_key(OWNER, expire_time=time.time() + 600, unique=uuid.uuid4())
    async with (
        open_queue(nats_server, QUICK) as queue,
        FileStore(settings.files) as files,
        open_worker(queue, files),
    ):
        picture = encode(np.zeros((64, 64, 3), np.uint8), width=64, height=64, format="png")
        await files.put(key, picture, content_type="image/png", expire_time=time.time() + 600)
        own_s3_server.kill()
        request = await submit(queue, image=SourceImage(uri_of(key)))

        async def running() -> bool:
            return (await now(queue, request)).state is State.RUNNING

        await eventually(running)
        await own_s3_server.restart()
        assert (await settled(queue, request, 30)).state is State.SUCCEEDED


async def test_a_request_is_cancelled_while_its_pictures_are_being_stored_in_time(
    nats_server: RunningNats, own_s3_server: RunningS3
) -> None:
    await forget_streams(nats_server)
    settings = make_settings(nats_server, own_s3_server)
    async with (
        open_queue(nats_server, QUICK) as queue,
        FileStore(settings.files) as files,
        open_worker(queue, files) as worker,
    ):
        os.kill(own_s3_server.pid, signal.SIGSTOP)
        try:
            request = await submit(queue)

            async def drawn() -> bool:
                lines = await queue.events.backlog(request.request_id, kind="log")
                return any(isinstance(e.body, LogLine) and e.body.message.startswith("drawn") for e in lines)

            await eventually(drawn)
            started = time.monotonic()
            assert await worker.loop.stop_request(request.request_id) == Stopped(True, 4, 4)
            assert time.monotonic() - started < 2
            assert (await now(queue, request)).state is State.CANCELLED
        finally:
            os.kill(own_s3_server.pid, signal.SIGCONT)
        await settled(queue, request)
        worker.stop.set()
        await asyncio.wait_for(worker.running, 20)
        assert await stored(files, request) == [False]


async def test_a_drain_gives_back_what_it_cannot_finish_and_another_worker_does(queue: Queue, files: FileStore) -> None:
    slow = SleepingPipeline(seconds=0.1)
    async with open_worker(queue, files, pipeline=slow, drain_seconds=0.3) as worker:
        long = [await submit(queue, num_inference_steps=50) for _ in range(2)]
        short = await submit(queue, num_inference_steps=2)
        for request in [*long, short]:
            await stepping(queue, request)
        worker.stop.set()
        await asyncio.wait_for(worker.running, 5)
    assert (await now(queue, short)).state is State.SUCCEEDED
    assert [(await now(queue, r)).state for r in long] == [State.RUNNING] * 2
    async with open_worker(queue, files, worker_id="two"):
        ended = [await settled(queue, request) for request in long]
    assert [(r.state, r.attempt, r.worker_id) for r in ended] == [(State.SUCCEEDED, 2, "two")] * 2


async def test_pictures_of_a_request_that_somebody_else_ended_are_discarded(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.05)) as worker:
        request = await submit(queue, num_inference_steps=10)
        await stepping(queue, request)
        failure = Failure.of(RequestCancelled(0, 10))
        _, theirs = await queue.records.change(
            request.owner, request.request_id, lambda r: requests.cancel(r, failure, now=time.time(), keep=60)
        )
        ended = await settled(queue, request)
        worker.stop.set()
        await worker.running
    assert ended == theirs
    assert await stored(files, request) == [False]


async def test_a_worker_that_was_fenced_out_drops_its_result_and_leaves_the_job(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.05)) as worker:
        request = await submit(queue, num_inference_steps=10)
        await stepping(queue, request)
        await queue.records.change(
            request.owner, request.request_id, lambda r: requests.start(r, worker_id="other", now=time.time())
        )
        worker.stop.set()
        await worker.running
        found = await now(queue, request)
        assert (found.state, found.attempt, found.worker_id) == (State.RUNNING, 2, "other")
        assert await queue.jobs.exists(job_of(request), Priority.NORMAL)
    async with open_worker(queue, files, worker_id="third"):  # the other one is lost, too
        ended = await settled(queue, request)
    assert (ended.state, ended.attempt, ended.worker_id) == (State.SUCCEEDED, 3, "third")


async def test_a_request_that_was_started_too_often_fails(queue: Queue, files: FileStore) -> None:
    request = await submit(queue)
    for number in range(QUICK.max_attempts):
        await queue.records.change(
            request.owner,
            request.request_id,
            lambda r, n=number: requests.start(r, worker_id=f"lost-{n}", now=time.time()),
        )
    async with open_worker(queue, files) as worker:
        ended = await settled(queue, request)
        assert worker.pipeline.batches == []
    assert ended.state is State.FAILED
    assert ended.failure is not None and ended.failure.reason == "WORKER_LOST"


async def test_a_request_without_retries_is_started_once(queue: Queue, files: FileStore) -> None:
    request = await submit(queue)
    await queue.records.change(
        request.owner,
        request.request_id,
        lambda r: replace(requests.start(r, worker_id="lost", now=time.time()), no_retry=True),
    )
    async with open_worker(queue, files) as worker:
        ended = await settled(queue, request)
        assert worker.pipeline.batches == []
    assert ended.failure is not None and ended.failure.reason == "WORKER_LOST"


async def test_no_more_is_leased_than_there_is_room_for(queue: Queue, files: FileStore) -> None:
    pipeline = SleepingPipeline(seconds=0.01)
    async with open_worker(queue, files, pipeline=pipeline, capacity=4) as worker:
        jobs = [await submit(queue, num_images=2) for _ in range(8)]
        most = 0
        while not (await now(queue, jobs[-1])).state.terminal:
            most = max(
                most, (await queue.js.consumer_info("JOBS", POOL.consumer(Priority.NORMAL))).num_ack_pending or 0
            )
        ended = [await settled(queue, request) for request in jobs]
        assert worker.engine.in_flight == 0
    assert {r.state for r in ended} == {State.SUCCEEDED}
    assert most == 2
    assert max(pipeline.batches) <= 4


async def test_a_job_waits_in_hand_while_direct_calls_fill_the_engine(queue: Queue, files: FileStore) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.01), capacity=1) as worker:
        direct = [worker.engine.start(make_spec(model_name="sleeping", num_inference_steps=40)) for _ in range(5)]
        request = await submit(queue)
        ended = await settled(queue, request)
        await asyncio.gather(*(drawing.result() for drawing in direct))
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)


async def test_pictures_wait_for_a_store_that_is_away(nats_server: RunningNats, own_s3_server: RunningS3) -> None:
    await forget_streams(nats_server)
    settings = make_settings(nats_server, own_s3_server)
    async with (
        open_queue(nats_server, QUICK) as queue,
        FileStore(settings.files) as files,
        open_worker(queue, files) as worker,
    ):
        own_s3_server.kill()
        request = await submit(queue, num_images=2)
        await stepping(queue, request, 4)
        await asyncio.sleep(2)  # longer than the lease
        assert (await now(queue, request)).state is State.RUNNING
        await own_s3_server.restart()
        ended = await settled(queue, request, 30)
        assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
        assert await stored(files, request) == [True, True]
        assert sum(worker.pipeline.batches) == 8  # drawn once


async def test_a_job_of_an_ended_request_is_settled_without_drawing(queue: Queue, files: FileStore) -> None:
    request = make_request(spec=make_spec(model_name="sleeping"))
    ended = requests.fail(request, Failure("ENGINE_FAILED", ""), now=time.time(), keep=60)
    created = await queue.records.create(request)
    await queue.records.replace(created, ended)
    forgotten = make_request(spec=make_spec(model_name="sleeping"))
    for job in (job_of(request), job_of(forgotten)):
        await queue.jobs.publish(job, Priority.NORMAL)
    async with open_worker(queue, files) as worker:
        await settled(queue, request)
        await eventually(lambda: _gone(queue, forgotten))
        assert worker.pipeline.batches == []
    assert replace(await now(queue, request), create_time=0) == replace(ended, create_time=0)
    with pytest.raises(RequestNotFound):
        await now(queue, forgotten)


async def _gone(queue: Queue, request: Request) -> bool:
    return not await queue.jobs.exists(job_of(request), request.priority)


async def test_a_job_whose_record_cannot_be_read_is_settled_and_the_next_one_drawn(
    queue: Queue, files: FileStore
) -> None:
    damaged = await submit(queue)
    await put_record(queue, damaged)
    async with open_worker(queue, files):
        assert (await settled(queue, await submit(queue))).state is State.SUCCEEDED
        await eventually(lambda: _gone(queue, damaged))
    with pytest.raises(DataUnreadable):
        await now(queue, damaged)
    assert await dead(queue) == {"record": 1}


async def test_a_request_of_a_newer_release_is_left_to_a_worker_of_that(queue: Queue, files: FileStore) -> None:
    newer = await submit(queue)
    left = await put_newer_record(queue, newer)
    async with open_worker(queue, files):
        assert (await settled(queue, await submit(queue))).state is State.SUCCEEDED
        assert await record_of(queue, newer) == left
        assert await queue.jobs.exists(job_of(newer), newer.priority)
        await put_record(queue, newer, encode_request(newer))  # here is one
        ended = await settled(queue, newer)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
    assert await dead(queue) == {}


async def test_what_a_newer_release_wrote_outlives_being_drawn(queue: Queue, files: FileStore) -> None:
    request = await submit(queue)
    field = b"\xa2\x06\x03new"  # number 100, which is not known here
    await put_record(queue, request, await record_of(queue, request) + field)
    async with open_worker(queue, files):
        assert (await settled(queue, request)).state is State.SUCCEEDED
    assert field in await record_of(queue, request)


@pytest.mark.parametrize("put", [put_record, put_newer_record])
async def test_a_record_that_becomes_unreadable_amid_its_drawing_costs_that_drawing_alone(
    queue: Queue, files: FileStore, put: Callable[[Queue, Request], Awaitable[bytes]]
) -> None:
    async with open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.05), capacity=1) as worker:
        request = await submit(queue, num_inference_steps=8)
        await stepping(queue, request)
        left = await put(queue, request)
        assert (await settled(queue, await submit(queue))).state is State.SUCCEEDED
        assert await record_of(queue, request) == left
        assert await queue.jobs.exists(job_of(request), request.priority) == (put is put_newer_record)
        assert not worker.running.done()


async def test_an_overdue_request_is_expired_instead_of_drawn(queue: Queue, files: FileStore) -> None:
    request = await submit(queue, start_in=-1)
    async with open_worker(queue, files) as worker:
        ended = await settled(queue, request)
        assert worker.pipeline.batches == []
    assert ended.state is State.EXPIRED
    assert ended.failure is not None and ended.failure.reason == "START_TIMEOUT"


async def test_a_killed_nats_costs_no_request_that_is_being_drawn(
    own_nats_server: RunningNats, s3_server: RunningS3
) -> None:
    """Away for longer than the lease: the job is delivered again to the worker that still draws it."""
    settings = make_settings(own_nats_server, s3_server)
    async with (
        open_queue(own_nats_server, QUICK) as queue,
        FileStore(settings.files) as files,
        open_worker(queue, files, pipeline=SleepingPipeline(seconds=0.05)) as worker,
    ):
        made = [await submit(queue, num_inference_steps=60) for _ in range(3)]
        for request in made:
            await stepping(queue, request)
        own_nats_server.kill()
        await asyncio.sleep(1.5)
        await own_nats_server.restart()
        await eventually(lambda: queue.nc.is_connected)
        ended = [await settled(queue, request, 30) for request in made]
        assert [(r.state, r.attempt) for r in ended] == [(State.SUCCEEDED, 1)] * 3
        assert sum(worker.pipeline.batches) == 180  # drawn once
        assert not worker.running.done()
        assert [await stored(files, request) for request in made] == [[True]] * 3
