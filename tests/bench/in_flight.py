"""The section on stream batching: one fast session with one, two and four frames in flight."""

from __future__ import annotations

import random
import statistics
from dataclasses import asdict, dataclass

from tests.bench.figures import Report, Table, at_least, spread
from tests.bench.live import STEPS, Editor
from tests.bench.realtime import SECONDS, Plan, Together, service
from tests.service import SPARE_KEYS

EDITS = 60


@dataclass(frozen=True, slots=True)
class Engine:
    """What the engine by itself can do with so many pictures at once: pictures a second, and milliseconds of one."""

    rate: float
    age: float

    @classmethod
    def at(cls, in_flight: int) -> Engine:
        """Each call takes one step of every picture."""
        call = SECONDS * (0.35 + 0.65 * in_flight)
        return cls(in_flight / (STEPS * call), STEPS * call * 1000)


async def in_flight(plan: Plan) -> Report:
    """Interleaved in random order, on one service."""
    report = Report(f"Stream batching: one session, {EDITS} edits/s, {STEPS} steps of {SECONDS * 1000:g} ms")
    counts = (1, 2, 4)
    runs: dict[int, list[Together]] = {count: [] for count in counts}
    chance = random.Random(0)
    async with service() as (_, call):
        await Editor(call, SPARE_KEYS[0]).edit(plan.warm)
        for _ in range(plan.repetitions):
            for count in chance.sample(counts, len(counts)):
                editor = Editor(call, SPARE_KEYS[0], edits=EDITS, in_flight=count)
                runs[count].append(Together.of([await editor.edit(plan.seconds)]))
    rows = [_row(count, found) for count, found in runs.items()]
    columns = (
        "frames in flight",
        "frames/s",
        "the engine's limit",
        "age p50, ms",
        "age p95, ms",
        "engine time of a picture, ms",
        "wasted steps, %",
    )
    report.tables.append(
        Table("A call over b pictures takes 0.35 + 0.65 b of one over a single picture.", columns, rows)
    )
    alone = statistics.median(run.rate for run in runs[1])
    most = max(statistics.median(run.rate for run in runs[count]) for count in counts)
    gain = Engine.at(4).rate / Engine.at(1).rate
    report.figures = [at_least("frames/s, of one at a time", most / alone, "x", 0.9 * gain)]
    report.data = {f"{count} in flight": [asdict(run) for run in found] for count, found in runs.items()}
    return report


def _row(count: int, found: list[Together]) -> tuple[str, ...]:
    engine = Engine.at(count)
    return (
        str(count),
        spread([run.rate for run in found]),
        f"{engine.rate:.1f}",
        spread([run.p50 for run in found]),
        spread([run.p95 for run in found]),
        f"{engine.age:.0f}",
        spread([100 * run.wasted for run in found]),
    )
