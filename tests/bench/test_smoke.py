"""The benchmarks run, and compute what they say; their figures mean nothing here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.figures import at_least, at_most, percentile, spread
from tests.bench.live import Seen
from tests.bench.load import arrivals
from tests.bench.realtime import Together

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.e2e
@pytest.mark.slow
def test_quick_run_measures_every_serving_section(tmp_path: Path) -> None:
    figures = quick_run(tmp_path, ("overhead", "realtime", "in-flight", "mixed", "slow-reader"))
    assert figures["Generate, added p50"] > 0
    assert figures["one session, age p50 in engine times"] > 1


@pytest.mark.e2e
@pytest.mark.slow
def test_quick_run_measures_the_gateway(tmp_path: Path) -> None:
    figures = quick_run(tmp_path, ("gateway",))
    assert "run over Generate, added p50" in figures
    assert figures["20 clients polling every 100 ms, share of one core"] > 0


@pytest.mark.e2e
@pytest.mark.slow
def test_quick_run_measures_starts(tmp_path: Path) -> None:
    figures = quick_run(tmp_path, ("start",))
    assert figures["first picture after a later start"] > 0.5
    assert figures["next picture after kill -9 of the worker"] > 0.5


def quick_run(tmp_path: Path, sections: tuple[str, ...]) -> dict[str, float]:
    """The figures of some sections, which are written as well."""
    command = (
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        "--no-peers",
        "--output",
        str(tmp_path),
        "--only",
        *sections,
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == set(sections)
    figures = {figure["name"]: figure["value"] for section in results.values() for figure in section["figures"]}
    assert all(math.isfinite(value) for value in figures.values()), figures
    page = (tmp_path / "RESULTS.md").read_text()
    assert all(section["markdown"] in page for section in results.values())
    return figures


def test_together_tells_age_fairness_and_waste() -> None:
    fast = Seen(ages=[0.1, 0.1, 0.2], seconds=1.0, drawn_steps=12, wasted=[3, 1], skipped=5)
    slow = Seen(ages=[0.3], seconds=1.0, drawn_steps=4, wasted=[], skipped=1)
    found = Together.of([fast, slow])
    assert (found.p50, found.p95, found.rate) == (200, 300, 2.0)
    assert found.fairness == pytest.approx(16 / 20)  # (3 + 1)^2 / (2 * (9 + 1))
    assert found.wasted == pytest.approx(4 / 20)
    assert (found.wasted_frames, found.late_frames, found.skipped) == (2, 1, 6)


def test_equal_sessions_are_perfectly_fair() -> None:
    one = Seen(ages=[0.1, 0.1], seconds=1.0, drawn_steps=8)
    assert Together.of([one, one, one]).fairness == pytest.approx(1)


def test_arrivals_come_at_their_rate_and_again_the_same() -> None:
    times = arrivals(50, 100, seed=3)
    assert times == sorted(times) == arrivals(50, 100, seed=3) != arrivals(50, 100, seed=4)
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert 0 <= times[0] and times[-1] < 100


def test_goals_are_met_at_the_goal() -> None:
    assert at_most("a", 1.5, "ms", 1.5).reached and not at_most("a", 1.6, "ms", 1.5).reached
    assert at_least("a", 0.95, "", 0.95).reached and not at_least("a", 0.94, "", 0.95).reached


def test_percentiles_and_spread() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0, 50, 100)] == [1.0, 2.0, 3.0]
    assert math.isnan(percentile([], 50))
    assert spread([2.0]) == "2.00"
    assert spread([2.0, 1.0, 4.0]) == "2.00 [1.00 to 4.00]"
