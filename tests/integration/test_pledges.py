"""What a killed worker held comes back as soon as another one takes its place on the host, not when its lease has run out."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flashbulb_server.config import QueueSettings
from flashbulb_server.messaging.jobs import JobConsumer, JobLease
from flashbulb_server.messaging.pledges import Pledges
from tests.conftest import forget_streams
from tests.embedded import RunningNats
from tests.integration.stage import POOL, Queue, make_job, open_queue
from tests.integration.test_jobs import NORMAL, next_lease

pytestmark = pytest.mark.integration

LEASE_SECONDS = 60.0


@pytest.fixture
async def queue(nats_server: RunningNats) -> AsyncIterator[Queue]:
    await forget_streams(nats_server)
    async with open_queue(nats_server, QueueSettings(lease_seconds=LEASE_SECONDS, max_attempts=3)) as opened:
        yield opened


@asynccontextmanager
async def worker(queue: Queue, folder: Path | None, *, later: float = 0.0) -> AsyncIterator[JobConsumer]:
    """A worker as far as the queue knows it. Leaving it is as its death: nothing is given back. `later`: by so much its clock is ahead."""
    hand = Pledges.open(queue.nc, folder, lease_seconds=LEASE_SECONDS, clock=lambda: time.time() + later)
    async with hand as pledges, JobConsumer.open(queue.nc, [POOL], pledges=pledges) as consumer:
        yield consumer


def written(folder: Path) -> list[Path]:
    """What is held, as the folder says."""
    return [path for path in folder.iterdir() if path.name != ".lock"]


async def lease_and_die(queue: Queue, folder: Path) -> JobLease:
    await queue.jobs.publish(make_job(), NORMAL)
    async with worker(queue, folder) as consumer:
        return await next_lease(consumer)


async def no_lease(consumer: JobConsumer) -> None:
    assert await consumer.next() is None


async def test_the_next_worker_has_it_at_once(queue: Queue, tmp_path: Path) -> None:
    lost = await lease_and_die(queue, tmp_path)
    async with worker(queue, tmp_path) as consumer:
        again = await next_lease(consumer)
        assert (again.job, again.attempt) == (lost.job, 2)
        await again.done()
    assert written(tmp_path) == []
    async with worker(queue, tmp_path) as consumer:
        await no_lease(consumer)


@pytest.mark.parametrize("settle", [JobLease.done, JobLease.give_back])
async def test_what_was_settled_is_not_given_back(queue: Queue, tmp_path: Path, settle) -> None:
    await queue.jobs.publish(make_job(), NORMAL)
    async with worker(queue, tmp_path) as consumer:
        await settle(await next_lease(consumer))
        assert written(tmp_path) == []


async def test_a_lease_that_has_run_out_is_somebody_else_s(queue: Queue, tmp_path: Path) -> None:
    await lease_and_die(queue, tmp_path)
    async with worker(queue, tmp_path, later=LEASE_SECONDS + 1) as consumer:
        await no_lease(consumer)


async def test_a_renewed_lease_is_given_back_as_well(queue: Queue, tmp_path: Path) -> None:
    await queue.jobs.publish(make_job(), NORMAL)
    async with worker(queue, tmp_path) as consumer:
        lease = await next_lease(consumer)
        (path,) = written(tmp_path)
        os.utime(path, (1, 1))
        await lease.renew()
    async with worker(queue, tmp_path) as consumer:
        assert (await next_lease(consumer)).attempt == 2


async def test_a_worker_that_lives_keeps_what_it_holds(queue: Queue, tmp_path: Path, caplog) -> None:
    await queue.jobs.publish(make_job(), NORMAL)
    async with worker(queue, tmp_path) as one, worker(queue, tmp_path) as other:
        await next_lease(one)
        assert "not written down" in caplog.text
        await no_lease(other)


async def test_a_folder_that_cannot_be_written_costs_nothing(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "none" / "below", None):
        await queue.jobs.publish(make_job(), NORMAL)
        async with worker(queue, folder) as consumer:
            lease = await next_lease(consumer)
            await lease.renew()
            await lease.done()
