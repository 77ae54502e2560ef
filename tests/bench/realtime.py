"""The sections on realtime: alone, beside a full queue, beside a caller that does not read."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Figure, Report, Table, at_least, at_most, percentile, spread
from tests.bench.live import (
    EDITS_PER_SECOND,
    STEPS,
    Editor,
    Growth,
    Seen,
    calling,
    edit_together,
    fill_queue,
    queue_is_full,
)
from tests.service import SPARE_KEYS, Stubs
from tests.sleeping_worker import SleepingService

SECONDS = 0.02
ENGINE = STEPS * SECONDS
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each run and before the first, repetitions, numbers of sessions, requests in the full queue, seconds without reading."""

    seconds: float = 10.0
    warm: float = 2.0
    repetitions: int = 3
    sessions: tuple[int, ...] = (1, 2, 4, 8)
    queued: int = 600
    deaf_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Together:
    """Sessions at once. Ages in milliseconds; `wasted`: share of all steps that were drawn for nothing, `late`: of those, frames that were in
    their last step."""

    p50: float
    p95: float
    rate: float
    fairness: float
    wasted: float
    wasted_frames: int
    late_frames: int
    skipped: int

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Together:
        ages = [age * 1000 for one in seen for age in one.ages]
        gone, drawn = sum(one.gone for one in seen), sum(one.drawn_steps for one in seen)
        stopped = [steps for one in seen for steps in one.wasted]
        rates = [one.rate for one in seen]
        return cls(
            p50=percentile(ages, 50),
            p95=percentile(ages, 95),
            rate=statistics.mean(rates),
            fairness=sum(rates) ** 2 / (len(rates) * sum(rate**2 for rate in rates)),
            wasted=gone / max(1, gone + drawn),
            wasted_frames=len(stopped),
            late_frames=sum(steps >= STEPS - 1 for steps in stopped),
            skipped=sum(one.skipped for one in seen),
        )


@asynccontextmanager
async def service() -> AsyncIterator[tuple[SleepingService, Stubs]]:
    """A service around the sleeping engine."""
    with TemporaryDirectory(prefix="flashbulb-bench-") as folder:
        running = SleepingService(Path(folder), seconds=SECONDS, LOG__LEVEL="WARNING")
        await asyncio.to_thread(running.start)
        try:
            async with calling(running.address) as call:
                yield running, call
        finally:
            await asyncio.to_thread(running.stop, signal.SIGKILL)


async def sessions(plan: Plan) -> Report:
    """One session and more, the service to themselves."""
    report = Report(f"Realtime: {EDITS_PER_SECOND} edits/s in each session, {STEPS} steps of {SECONDS * 1000:g} ms")
    runs: dict[int, list[Together]] = {count: [] for count in plan.sessions}
    async with service() as (_, call):
        await edit_together(call, 1, plan.warm)
        chance = random.Random(0)
        for _ in range(plan.repetitions):
            for count in chance.sample(plan.sessions, len(plan.sessions)):
                runs[count].append(Together.of(await edit_together(call, count, plan.seconds)))
    rows = []
    for count, found in runs.items():
        engine = STEPS * SECONDS * (0.35 + 0.65 * count) * 1000
        rows.append(
            (
                str(count),
                spread([run.p50 for run in found]),
                spread([run.p95 for run in found]),
                f"{engine:.0f}",
                spread([run.rate for run in found]),
                spread([run.fairness for run in found]),
                spread([100 * run.wasted for run in found]),
            )
        )
    columns = (
        "sessions",
        "age p50, ms",
        "age p95, ms",
        "engine time of all together, ms",
        "frames/s of each",
        "Jain",
        "wasted steps, %",
    )
    report.tables.append(Table("Age of a picture: from sending its edit to having it.", columns, rows))
    one, most = runs[plan.sessions[0]], runs[plan.sessions[-1]]
    early = statistics.median(run.wasted_frames - run.late_frames for run in one)
    report.figures = [
        at_most("one session, age p50 in engine times", _middle(run.p50 for run in one) / ENGINE / 1000, "x", 1.3),
        at_most("one session, age p95 in engine times", _middle(run.p95 for run in one) / ENGINE / 1000, "x", 2.0),
        at_most("one session, frames stopped before their last step", early, "frames", 0),
        at_least(f"{plan.sessions[-1]} sessions, Jain", _middle(run.fairness for run in most), "", 0.95),
    ]
    report.data = {f"{count} sessions": [asdict(run) for run in found] for count, found in runs.items()}
    return report


async def beside_queue(plan: Plan) -> Report:
    """One session, with the queue full and without: on a new service each time, in random order."""
    report = Report("Mixed load: one realtime session beside a full queue")
    runs: dict[str, list[Together]] = {"empty": [], "full": []}
    dry = False
    chance = random.Random(0)
    for _ in range(plan.repetitions):
        for kind in chance.sample(tuple(runs), 2):
            async with service() as (_, call):
                await edit_together(call, 1, plan.warm)
                if kind == "full":
                    await fill_queue(call, plan.queued)
                runs[kind].append(Together.of(await edit_together(call, 1, plan.seconds)))
                dry |= kind == "full" and not await queue_is_full(call)
    rows = [
        (kind, spread([r.p50 for r in found]), spread([r.p95 for r in found]), spread([r.rate for r in found]))
        for kind, found in runs.items()
    ]
    report.tables.append(
        Table(
            "Age of a picture, with the queue empty and full.",
            ("queue", "age p50, ms", "age p95, ms", "frames/s"),
            rows,
        )
    )
    ratio = _middle(run.p95 for run in runs["full"]) / _middle(run.p95 for run in runs["empty"])
    report.figures = [at_most("realtime p95 with a full queue, against without", ratio, "x", 1.5)]
    if dry:
        report.notes.append("The queue ran empty before the end of a run.")
    report.data = {kind: [asdict(run) for run in found] for kind, found in runs.items()}
    return report


async def slow_reader(plan: Plan) -> Report:
    """A session that never reads, beside one that does; then two that do."""
    report = Report(f"A realtime caller that does not read for {plan.deaf_seconds:g} s")
    alone: list[Together] = []
    beside: list[Together] = []
    grown: list[float] = []
    for _ in range(max(1, plan.repetitions - 1)):
        async with service() as (running, call), calling(running.address) as other:
            await edit_together(call, 2, plan.warm)
            both = await edit_together(call, 2, plan.seconds)
            alone.append(Together.of(both[:1]))
            growth = Growth(running.child("api"))
            _, seen, taken = await asyncio.gather(
                growth.watch(plan.deaf_seconds),
                Editor(call, SPARE_KEYS[0]).edit(plan.deaf_seconds),
                Editor(other, SPARE_KEYS[1]).do_not_read(plan.deaf_seconds),
            )
            beside.append(Together.of([seen]))
            grown.append(growth.most / _MB)
    rows = [
        (
            "another that reads",
            spread([r.p50 for r in alone]),
            spread([r.p95 for r in alone]),
            spread([r.rate for r in alone]),
        ),
        (
            "one that does not",
            spread([r.p50 for r in beside]),
            spread([r.p95 for r in beside]),
            spread([r.rate for r in beside]),
        ),
    ]
    report.tables.append(
        Table(
            "Age of a picture of a session, beside another session that reads, and beside one that does not.",
            ("beside", "age p50, ms", "age p95, ms", "frames/s"),
            rows,
        )
    )
    ratio = _middle(run.p95 for run in beside) / _middle(run.p95 for run in alone)
    report.figures = [
        at_most("growth of the api's memory", statistics.median(grown), "MB", 32),
        at_most("p95 of the other session, against beside one that reads", ratio, "x", 1.1),
        Figure("edits sent without reading", taken, ""),
    ]
    report.data = {
        "beside a reader": [asdict(r) for r in alone],
        "beside a slow one": [asdict(r) for r in beside],
        "grown_mb": grown,
    }
    return report


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)
