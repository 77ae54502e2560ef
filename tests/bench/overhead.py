"""What serving adds to the engine's time, beside peers that serve the same sleeping engine.

1. The engine's time is that of sleeping and of making the JPEG file, measured without any server in every repetition. The rest is
   added by the server and by its client, which is of the same kind for all: grpc.aio, or the least that HTTP/1.1 needs.
2. Peers are set up for their best: one that batches by waiting is measured without batches where there is one caller.
3. Runs of all are interleaved, in a new random order in every repetition. One caller is served by all in turn, ten calls each, with the
   engine by itself in between: what else the machine does then falls on all alike.
4. What is compared is not the same work. Peers and floor take a text and give bytes; this service reads who calls, checks every field,
   passes through two processes, and answers with what the picture was made of.
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
from tests.bench.load import Call, Run, arrivals, closed_loop, measured, open_loop, processor_seconds
from tests.bench.targets import MAX_BATCH, NOT_PYTHON, PEERS, PEERS_INSTALLED, Target, floor, ours, peer
from tests.sleeping_worker import SIDE, SleepingService, noise

SECONDS = 0.02
CAPACITY = MAX_BATCH / (SECONDS * (0.35 + 0.65 * MAX_BATCH))
"""Pictures a second of an engine whose calls are always full."""

_TURN = 10
"""Calls of one server, when one caller calls all in turn."""

_PAUSE = 0.02
"""Seconds between turns, in which a server ends what it does after an answer."""

_ALONE, _FEW, _MANY, _LIGHT, _HEAVY = (
    "1 caller",
    "4 callers",
    "16 callers",
    "open, 0.3 of capacity",
    "open, 0.7 of capacity",
)


_PICTURE = noise()


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
        alone, engine = await _in_turn(targets["alone"], plan.closed, chance)
        engines.append(engine)
        for name, run in alone.items():
            runs.setdefault((name, _ALONE), []).append(run)
        tasks = [(target, load) for target in targets["more"] for load in (_FEW, _MANY, _LIGHT, _HEAVY)]
        chance.shuffle(tasks)
        for target, load in tasks:
            async with target.open() as call:
                await closed_loop(call, 4 if load == _FEW else 16, min(0.5, plan.closed / 4))  # connections, caches
                run = await measured(target.pid, _load(call, load, plan, repetition))
            runs.setdefault((target.name, load), []).append(run)
            await asyncio.sleep(plan.rest if target.live else 0)
    return runs, engines


def _load(call: Call, load: str, plan: Plan, repetition: int) -> Awaitable[tuple[list[float], float]]:
    if load in (_FEW, _MANY):
        return closed_loop(call, 4 if load == _FEW else 16, plan.closed)
    share = 0.3 if load == _LIGHT else 0.7
    return open_loop(call, arrivals(share * CAPACITY, plan.open, seed=repetition))


async def _in_turn(targets: Sequence[Target], seconds: float, chance: random.Random) -> tuple[dict[str, Run], float]:
    """One caller of all, `seconds` of each; and the median of the engine by itself, in milliseconds."""
    latencies: dict[str, list[float]] = {target.name: [] for target in targets}
    spent = dict.fromkeys(latencies, 0.0)
    engine: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        calls = [(target, await stack.enter_async_context(target.open())) for target in targets]
        for _, call in calls:
            await closed_loop(call, 1, min(0.5, seconds / 4))  # connections, caches
        end = time.perf_counter() + seconds * len(targets)
        while time.perf_counter() < end or not engine:
            for target, call in chance.sample(calls, len(calls)):
                await asyncio.sleep(_PAUSE)
                await call()  # not counted: who has been idle may have closed the connection
                before = processor_seconds(target.pid)
                for _ in range(_TURN):
                    latencies[target.name].append(await _timed(call))
                spent[target.name] += processor_seconds(target.pid) - before
            engine += [_engine_alone() for _ in range(_TURN)]
    runs = {name: Run.of(found, sum(found), spent[name]) for name, found in latencies.items()}
    return runs, statistics.median(engine) * 1000


async def _timed(call: Call) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


def _engine_alone() -> float:
    """Seconds of one picture without a server."""
    started = time.perf_counter()
    time.sleep(SECONDS)
    encode(_PICTURE, width=SIDE, height=SIDE, format="jpeg")
    return time.perf_counter() - started


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
