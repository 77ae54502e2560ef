"""How long nobody gets a picture: at a start, and after the worker was killed.

1. Seconds from the start of `flashbulb-server serve` to a picture in the caller's hands: of the very first one, which compiles while torch
   draws, and of later ones, which read what was compiled.
2. Seconds from SIGKILL of the worker to the next picture; the caller asks again until it gets one.
3. The example that `make demo` runs, from its first line to its end: start, picture, stop. A run before is not counted.
4. Beside them `import torch` in a new process, which every worker does: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc

from flashbulb.v1 import generation_pb2
from flashbulb_server.supervisor.process import bound_to_this_process
from tests.bench.figures import Figure, Report, Table, at_most, median, spread
from tests.service import RunningService, apple, auth, stubs

_DEMO = Path(__file__).parents[2] / "client" / "python" / "examples" / "demo.py"
_COMPILED_SECONDS = 300.0
_PICTURE_SECONDS = 60.0
_DEMO_SECONDS = 180.0
_AGAIN_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds of each; without `demo` the example is left out. `cache`: of compiled networks, in place of new ones. `threads`: of the worker.

    A round that finds its networks in `cache` has no first start.
    """

    rounds: int = 3
    demo: bool = True
    cache: Path | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of every round."""

    first_starts: list[float] = field(default_factory=list)
    later_starts: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    demo: list[float] = field(default_factory=list)
    importing: list[float] = field(default_factory=list)


async def measure(folder: Path, plan: Plan) -> Report:
    """The section."""
    times = _Times()
    for number in range(plan.rounds):
        own = folder / str(number)
        own.mkdir()
        await _round(own, plan, times)
        times.importing.append(await asyncio.to_thread(_importing_torch))
    if plan.demo:
        await _demo(folder)  # what it reads is in memory from now on
        times.demo.extend([await _demo(folder) for _ in range(plan.rounds)])
    return _report(times)


async def _round(folder: Path, plan: Plan, times: _Times) -> None:
    cache = plan.cache or folder / "cache"
    service = RunningService(
        folder, LOG__LEVEL="WARNING", WORKER__BACKEND="auto", WORKER__THREADS=plan.threads, WORKER__CACHE_DIR=cache
    )
    try:
        seconds, output = await _start(service)
        if not _is_compiled(output):
            times.first_starts.append(seconds)
            await _compiled(service)
            service.stop()
            seconds, output = await _start(service)
        if not _is_compiled(output):
            raise RuntimeError(f"a later start drew with {output.backend}, not with the networks that were kept")
        times.later_starts.append(seconds)
        times.killed.append(await _worker_killed(service))
    finally:
        if service.is_running:
            service.stop(signal.SIGKILL)


async def _start(service: RunningService) -> tuple[float, generation_pb2.GenerationOutput]:
    started = time.monotonic()
    await asyncio.to_thread(service.start)
    output = await _picture(service)
    return time.monotonic() - started, output


async def _worker_killed(service: RunningService) -> float:
    service.kill_child("worker")
    started = time.monotonic()
    await _picture(service)
    return time.monotonic() - started


async def _compiled(service: RunningService) -> None:
    """Waits until the networks are kept: a picture was drawn with them."""
    async with asyncio.timeout(_COMPILED_SECONDS):
        while not _is_compiled(await _picture(service)):
            await asyncio.sleep(0.5)


def _is_compiled(output: generation_pb2.GenerationOutput) -> bool:
    return output.backend.startswith("openvino")


async def _picture(service: RunningService) -> generation_pb2.GenerationOutput:
    """Asks until there is one."""
    request = generation_pb2.GenerateRequest(input=apple())
    async with asyncio.timeout(_PICTURE_SECONDS), grpc.aio.insecure_channel(service.address) as channel:
        generation = stubs(channel).generation
        while True:
            try:
                return (await generation.Generate(request, metadata=auth())).output
            except grpc.aio.AioRpcError as err:
                if err.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)


def _importing_torch() -> float:
    started = time.monotonic()
    subprocess.run((sys.executable, "-c", "import torch"), check=True)
    return time.monotonic() - started


async def _demo(folder: Path) -> float:
    """One run with settings of its own, all that it writes in the folder; it and its service end however this ends."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")}
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *bound_to_this_process((sys.executable, str(_DEMO), "a red apple", str(folder / "out")), signal.SIGINT),
        env={**own, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_DEMO_SECONDS):
            code = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code:
        raise RuntimeError(f"the demo ended with {code}")
    return time.monotonic() - started


def _report(times: _Times) -> Report:
    report = Report("Start")
    rows = [("later starts", spread(times.later_starts)), ("worker killed", spread(times.killed))]
    if times.first_starts:
        report.figures.append(Figure("first picture after the very first start", median(times.first_starts), "s"))
        rows.insert(0, ("very first starts", spread(times.first_starts)))
    report.figures += [
        at_most("first picture after a later start", median(times.later_starts), "s", 4.5),
        at_most("next picture after kill -9 of the worker", median(times.killed), "s", 4.5),
    ]
    if times.demo:
        report.figures.append(at_most("the demo, a second time", median(times.demo), "s", 8))
        rows.append(("demo", spread(times.demo)))
    report.figures.append(Figure("import torch, for comparison", median(times.importing), "s"))
    rows.append(("import torch", spread(times.importing)))
    report.tables.append(Table("Median and range of all rounds:", ("", "s"), rows))
    report.data.update(asdict(times))
    return report
