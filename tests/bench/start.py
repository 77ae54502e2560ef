"""How long nobody gets a picture: at a start, and after the worker was killed.

1. Seconds from the start of `flashbulb-server serve` to a picture in the caller's hands: of the very first one, which compiles while torch
   draws, and of later ones, which read what was compiled.
2. Seconds from SIGKILL of the worker to the next picture; the caller asks again until it gets one.
3. The example that `make demo` runs, from its first line to its end: start, picture, stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from flashbulb.v1 import generation_pb2
from tests.bench.figures import Figure, Report, Table, at_most, median, spread
from tests.service import RunningService, apple, auth, stubs

_DEMO = Path(__file__).parents[2] / "client" / "python" / "examples" / "demo.py"
_COMPILED_SECONDS = 300.0
_AGAIN_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds of each; without `demo` the example is left out. `cache`: of compiled networks, in place of a new one. `threads`: of the worker."""

    rounds: int = 5
    demo: bool = True
    cache: Path | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of every round."""

    later_starts: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    demo: list[float] = field(default_factory=list)


async def measure(folder: Path, plan: Plan) -> Report:
    """The section."""
    cache, times = plan.cache or folder / "cache", _Times()
    service = RunningService(
        folder, LOG__LEVEL="WARNING", WORKER__BACKEND="auto", WORKER__THREADS=plan.threads, WORKER__CACHE_DIR=cache
    )
    try:
        first = await _start(service)
        await _compiled(service)
        for _ in range(plan.rounds):
            service.stop()
            times.later_starts.append(await _start(service))
            times.killed.append(await _worker_killed(service))
    finally:
        if service.is_running:
            service.stop(signal.SIGKILL)
    for _ in range(plan.rounds if plan.demo else 0):
        times.demo.append(await asyncio.to_thread(_demo, folder, cache))
    return _report(first, times)


async def _start(service: RunningService) -> float:
    started = time.monotonic()
    await asyncio.to_thread(service.start)
    await _picture(service)
    return time.monotonic() - started


async def _worker_killed(service: RunningService) -> float:
    service.kill_child("worker")
    started = time.monotonic()
    await _picture(service)
    return time.monotonic() - started


async def _compiled(service: RunningService) -> None:
    """Waits until the networks are kept: a picture was drawn with them."""
    async with asyncio.timeout(_COMPILED_SECONDS):
        while not (await _picture(service)).backend.startswith("openvino"):
            await asyncio.sleep(0.5)


async def _picture(service: RunningService) -> generation_pb2.GenerationOutput:
    """Asks until there is one."""
    request = generation_pb2.GenerateRequest(input=apple())
    async with grpc.aio.insecure_channel(service.address) as channel:
        generation = stubs(channel).generation
        while True:
            try:
                return (await generation.Generate(request, metadata=auth(), timeout=60)).output
            except grpc.aio.AioRpcError as err:
                if err.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)


def _demo(folder: Path, cache: Path) -> float:
    started = time.monotonic()
    subprocess.run(
        (sys.executable, _DEMO, "a red apple", folder / "out"),
        env={**os.environ, "FLASHBULB_WORKER__CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def _report(first: float, times: _Times) -> Report:
    report = Report("Start")
    report.figures += [
        Figure("first picture after the very first start", first, "s"),
        at_most("first picture after a later start", median(times.later_starts), "s", 4.5),
        at_most("next picture after kill -9 of the worker", median(times.killed), "s", 4.5),
    ]
    rows = [("later starts", spread(times.later_starts)), ("worker killed", spread(times.killed))]
    if times.demo:
        report.figures.append(at_most("the demo, a second time", median(times.demo), "s", 8))
        rows.append(("demo", spread(times.demo)))
    report.tables.append(Table("Median and range of all rounds:", ("", "s"), rows))
    report.data.update(first=first, later_starts=times.later_starts, killed=times.killed, demo=times.demo)
    return report
