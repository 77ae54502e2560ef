"""A worker with a spare: replaced without importing anything again, stopped and killed as one without."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from flashbulb.v1 import generation_pb2
from flashbulb_server.app.spare import STEADY_SECONDS
from tests.service import RunningService, Stubs, apple, auth, is_running, stubs
from tests.sleeping_worker import SleepingService

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SECONDS = 60


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = SleepingService(tmp_path, seconds=0.01, WORKER__SPARE="true", WORKER__DRAIN_SECONDS=5)
    running.start()
    yield running
    running.stop(signal.SIGKILL)


def worker_of(spare: int) -> int:
    """Pid of the worker that was forked from a spare."""
    (pid,) = Path(f"/proc/{spare}/task/{spare}/children").read_text().split()
    return int(pid)


def age(pid: int) -> float:
    """Seconds since it was made."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def wait_for(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def picture(call: Stubs) -> None:
    """Waits until a worker draws."""
    request = generation_pb2.GenerateRequest(input=apple(sync_mode=True))
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await call.generation.Generate(request, metadata=auth(), timeout=30)
                return
            except grpc.aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.UNAVAILABLE, err
            await asyncio.sleep(0.01)


async def test_a_dead_worker_is_replaced_by_its_spare(service: RunningService) -> None:
    spare = service.child("worker")
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = stubs(channel)
        await picture(call)
        dead = worker_of(spare)
        await asyncio.to_thread(wait_for, lambda: age(dead) > STEADY_SECONDS)
        os.kill(dead, signal.SIGKILL)
        await picture(call)
    assert service.child("worker") == spare, "the supervisor has nothing to do"
    assert worker_of(spare) != dead
    assert "its spare takes its place" in service.log.read_text()


def test_a_worker_that_dies_at_once_is_left_to_the_supervisor(service: RunningService) -> None:
    spare = service.child("worker")
    os.kill(worker_of(spare), signal.SIGKILL)
    wait_for(lambda: service.child("worker") != spare)
    assert not is_running(spare)
    assert '"exit_code": 137' in service.log.read_text()


def test_a_worker_ends_with_its_spare_and_comes_back(service: RunningService) -> None:
    spare = service.child("worker")
    worker = worker_of(spare)
    os.kill(spare, signal.SIGKILL)
    wait_for(lambda: not is_running(worker))
    wait_for(lambda: service.child("worker") != spare)


def test_it_drains_when_it_is_told_to(service: RunningService) -> None:
    spare = service.child("worker")
    worker = worker_of(spare)
    assert service.stop() == 0
    assert not is_running(spare) and not is_running(worker)
    lines = [line for line in service.log.read_text().splitlines() if '"role": "worker"' in line]
    assert '"draining"' in lines[-1]
    assert not service.errors()


def test_settings_that_are_refused_are_told(tmp_path: Path) -> None:
    service = RunningService(tmp_path, WORKER__SPARE="true", WORKER__DEVICE="nonsense")
    with pytest.raises(AssertionError, match="FLASHBULB_WORKER__DEVICE"):
        service.start()
    assert service.stop() != 0
