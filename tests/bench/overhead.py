"""What serving adds to the engine's time, beside peers that serve the same sleeping engine.

1. The engine's time is that of sleeping and of making the JPEG file, measured without any server in every repetition. The rest is
   added by the server and by its client, which is of the same kind for all: grpc.aio, or the least that HTTP/1.1 needs.
2. Peers are set up for their best: one that batches by waiting is measured without batches where there is one caller.
3. Runs of all are interleaved, in a new random order in every repetition.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flashbulb_server.worker.encode import encode
from tests.bench.figures import Figure, Report, Table, at_most, spread
from tests.bench.load import Call, Run, arrivals, closed_loop, measured, open_loop
from tests.bench.targets import MAX_BATCH, NOT_PYTHON, PEERS, PEERS_INSTALLED, Target, floor, ours, peer
from tests.sleeping_worker import SIDE, SleepingService, noise

SECONDS = 0.02
CAPACITY = MAX_BATCH / (SECONDS * (0.35 + 0.65 * MAX_BATCH))
"""Pictures a second of an engine whose calls are always full."""

_ALONE, _FEW, _MANY, _LIGHT, _HEAVY = (
    "1 caller",
    "4 callers",
    "16 callers",
    "open, 0.3 of capacity",
    "open, 0.7 of capacity",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: seconds of a closed and of an open run, repetitions, and seconds after realtime runs.

    The engine keeps itself free for sessions for a while after their last frame; what runs next must not pay for that.
    """

    closed: float = 2.0
    open: float = 6.0
    repetitions: int = 3
    rest: float = 2.5


async def measure(folder: Path, plan: Plan, *, peers: bool = True) -> Report:
    """The section. Peers take part if they are wanted and installed."""
    names = PEERS if peers and PEERS_INSTALLED else ()
    report = Report(f"Serving overhead, around an engine that sleeps {SECONDS * 1000:g} ms for a picture")
    if not names:
        report.notes.append(
            "Without the peers (`make bench-peers` installs them): only this service and the floor were measured."
        )
    with _targets(folder, names) as targets:
        runs, engines = await _runs(targets, plan)
    engine = statistics.median(engines)
    report.notes.append(
        f"Engine time of one picture, measured alone: {spread(engines)} ms, of which the rest over {SECONDS * 1000:g} make the JPEG file "
        f"(60 kB). Capacity with calls of {MAX_BATCH}: {CAPACITY:.1f} pictures/s. {plan.repetitions} repetitions: medians and ranges."
    )
    report.tables = [_alone(runs, engine), *(_table(runs, load) for load in (_FEW, _MANY, _LIGHT, _HEAVY))]
    _goals(report, runs, engine, names)
    report.data = {f"{name}, {load}": [asdict(run) for run in found] for (name, load), found in runs.items()}
    return report


@contextlib.contextmanager
def _targets(folder: Path, names: Sequence[str]) -> Iterator[Mapping[str, list[Target]]]:
    """Those for one caller, and those for more."""
    with contextlib.ExitStack() as stack:
        service = SleepingService(folder, seconds=SECONDS, LOG__LEVEL="WARNING")
        service.start()
        stack.callback(service.stop, signal.SIGKILL)
        base = stack.enter_context(floor(SECONDS, folder))
        alone, more = [base, *ours(service)], [base, *ours(service)]
        for name in names:
            alone.append(stack.enter_context(peer(name, SECONDS, 1, folder)))
            more.append(stack.enter_context(peer(name, SECONDS, MAX_BATCH, folder)))
        yield {"alone": alone, "more": more}


async def _runs(
    targets: Mapping[str, list[Target]], plan: Plan
) -> tuple[dict[tuple[str, str], list[Run]], list[float]]:
    """The runs by name and load, and the engine's times."""
    runs: dict[tuple[str, str], list[Run]] = {}
    engines = []
    chance = random.Random(0)
    for repetition in range(plan.repetitions):
        tasks = [(target, _ALONE) for target in targets["alone"]]
        tasks += [(target, load) for target in targets["more"] for load in (_FEW, _MANY, _LIGHT, _HEAVY)]
        chance.shuffle(tasks)
        engines.append(_engine_time(plan.closed))
        for target, load in tasks:
            async with target.open() as call:
                await closed_loop(
                    call, {_ALONE: 1, _FEW: 4}.get(load, 16), min(0.5, plan.closed / 4)
                )  # connections, caches
                run = await measured(target.pid, _load(call, load, plan, repetition))
            runs.setdefault((target.name, load), []).append(run)
            await asyncio.sleep(plan.rest if target.live else 0)
    return runs, engines


def _load(call: Call, load: str, plan: Plan, repetition: int) -> Awaitable[tuple[list[float], float]]:
    if load in (_ALONE, _FEW, _MANY):
        return closed_loop(call, {_ALONE: 1, _FEW: 4, _MANY: 16}[load], plan.closed)
    share = 0.3 if load == _LIGHT else 0.7
    return open_loop(call, arrivals(share * CAPACITY, plan.open, seed=repetition))


def _engine_time(seconds: float) -> float:
    """Milliseconds of one picture without a server."""
    picture, times, end = noise(), [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        time.sleep(SECONDS)
        encode(picture, width=SIDE, height=SIDE, format="jpeg")
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def _alone(runs: Mapping[tuple[str, str], list[Run]], engine: float) -> Table:
    rows = [
        (
            name,
            spread([run.p50 - engine for run in found]),
            spread([run.p95 - engine for run in found]),
            spread([run.p99 - engine for run in found]),
            spread([run.cpu for run in found]),
        )
        for (name, load), found in sorted(runs.items(), key=_by(lambda run: run.p50))
        if load == _ALONE
    ]
    columns = ("", "added p50, ms", "added p95, ms", "added p99, ms", "processor, ms a picture")
    return Table("One caller, one call after another:", columns, rows)


def _table(runs: Mapping[tuple[str, str], list[Run]], wanted: str) -> Table:
    rows = [
        (
            name,
            spread([run.p50 for run in found]),
            spread([run.p95 for run in found]),
            spread([run.p99 for run in found]),
            spread([run.rate for run in found]),
            spread([run.cpu for run in found]),
        )
        for (name, load), found in sorted(runs.items(), key=_by(lambda run: run.p50))
        if load == wanted
    ]
    columns = ("", "p50, ms", "p95, ms", "p99, ms", "pictures/s", "processor, ms a picture")
    return Table(f"{wanted[0].upper()}{wanted[1:]}:", columns, rows)


def _by(value: Callable[[Run], float]) -> Callable[[tuple[tuple[str, str], list[Run]]], float]:
    return lambda item: statistics.median(value(run) for run in item[1])


def _goals(report: Report, runs: Mapping[tuple[str, str], list[Run]], engine: float, names: Sequence[str]) -> None:
    def added(name: str) -> float:
        return statistics.median(run.p50 - engine for run in runs[name, _ALONE])

    def late(name: str) -> float:
        return statistics.median(run.p99 for run in runs[name, _HEAVY])

    report.figures.append(at_most("Generate, added p50", added("flashbulb Generate"), "ms", 1.5))
    report.figures.append(at_most("realtime frame, added p50", added("flashbulb realtime"), "ms", 1.0))
    if names:
        python = [name for name in names if name not in NOT_PYTHON]
        best = min(python, key=added)
        name = f"Generate, added p50, against the best server in Python ({best})"
        report.figures.append(at_most(name, added("flashbulb Generate"), "ms", added(best)))
        report.figures += [
            Figure(f"added p50 of {name}, whose front is Rust", added(name), "ms") for name in NOT_PYTHON
        ]
        best = min(names, key=late)
        name = f"Generate, p99 at 0.7 of capacity, against twice the best peer's ({best})"
        report.figures.append(at_most(name, late("flashbulb Generate"), "ms", 2 * late(best)))
