"""What the benchmarks report: figures with goals, tables, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with what it should reach. `goal` is empty where there is none."""

    name: str
    value: float
    unit: str
    goal: str = ""
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a heading."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class Report:
    """What a section found. `data`: everything that was measured, for JSON."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)

    def markdown(self) -> str:
        """The section of a page."""
        parts = [f"## {self.title}", *self.notes]
        if self.figures:
            rows = [(f.name, f"{f.value:.2f} {f.unit}", f.goal, _verdict(f)) for f in self.figures]
            parts.append(_rows(("measure", "value", "goal", ""), rows))
        for table in self.tables:
            parts += [table.heading, _rows(table.columns, table.rows)]
        return "\n\n".join(parts) + "\n"


def at_most(name: str, value: float, unit: str, goal: float) -> Figure:
    return Figure(name, value, unit, f"<= {goal:.4g}", value <= goal)


def at_least(name: str, value: float, unit: str, goal: float) -> Figure:
    return Figure(name, value, unit, f">= {goal:.4g}", value >= goal)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def percentile(values: Sequence[float], share: int) -> float:
    """Nearest rank. NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))] if ordered else float("nan")


def spread(values: Sequence[float]) -> str:
    """Median of repetitions, and their range."""
    middle = statistics.median(values)
    return f"{middle:.2f} [{min(values):.2f} to {max(values):.2f}]" if len(values) > 1 else f"{middle:.2f}"


def _verdict(figure: Figure) -> str:
    return ("reached" if figure.reached else "**missed**") if figure.goal else ""


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
