"""`make bench`: what is promised of speed, measured on this machine. The machine should be idle.

1. Sections run one after another; `--only` takes some of them. Each is interleaved and repeated in itself, and reports medians.
2. RESULTS.md and results.json hold the newest run of every section; `--quick` only tries that everything runs, and writes to out/bench.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from os import cpu_count, getloadavg
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tests.bench import gateway, in_flight, overhead, realtime, start, whole
from tests.bench.figures import Figure, Report
from tests.graphs import FOLDER as GRAPHS

_HERE = Path(__file__).parent
_HEAD = """# Results of `make bench`

One run of each section, not all of the same hour or commit; differences below a fifth are noise. Goals are those that the project set
itself. A load average above 0.3 before a section means that others used the machine, and that its times are too long.

1. Added time is over the engine's own, measured alone: sleeping, and making the file after the sleep.
2. mosec is listed apart: its HTTP server is Rust, and its worker Python.
3. After realtime runs the next one waits 2.5 s: for half a second after a session's last frame the engine gives other work small calls only.
4. One caller is served by all in turn, ten calls each, the engine by itself in between; a call before each turn is not counted.
5. Peers take a text and give bytes. This service also reads who calls, checks every field, passes through two processes and tells what
   the picture was made of.
"""
_QUICK_OVERHEAD = overhead.Plan(closed=0.2, open=0.3, repetitions=1, rest=0)
_QUICK_REALTIME = realtime.Plan(seconds=1.5, warm=0.3, repetitions=1, sessions=(1, 2), queued=20, deaf_seconds=1.5)
_QUICK_START = start.Plan(rounds=1, demo=False, cache=GRAPHS, threads=1)
_QUICK_GATEWAY = gateway.Plan(seconds=0.2, repetitions=2, clients=20, polling=1.0)


def main() -> int:
    options = _options()
    output: Path = options.output or (Path("out/bench") if options.quick else _HERE)
    output.mkdir(parents=True, exist_ok=True)
    stored = output / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    for name in options.only or (QUICK_SECTIONS if options.quick else SECTIONS):
        sys.stderr.write(f"{name} ...\n")
        started, load = time.perf_counter(), getloadavg()[0]
        with TemporaryDirectory(prefix="flashbulb-bench-") as folder:
            report = uvloop.run(SECTIONS[name](Path(folder), options))
        sys.stdout.write(report.markdown() + "\n")
        results[name] = {
            "machine": _machine(),
            "load_average": [round(load, 2), round(getloadavg()[0], 2)],
            "seconds": round(time.perf_counter() - started),
            "markdown": report.markdown(),
            "figures": [asdict(figure) for figure in report.figures],
            "data": report.data,
        }
        stored.write_text(json.dumps(results, indent=1))
        (output / "RESULTS.md").write_text(_page(results))
    return 0


async def _whole(folder: Path, options: argparse.Namespace) -> Report:
    return await whole.measure(folder, 0.01 if options.quick else 1.0)


async def _overhead(folder: Path, options: argparse.Namespace) -> Report:
    return await overhead.measure(
        folder, _QUICK_OVERHEAD if options.quick else overhead.Plan(), peers=not options.no_peers
    )


async def _realtime(_: Path, options: argparse.Namespace) -> Report:
    return await realtime.sessions(_QUICK_REALTIME if options.quick else realtime.Plan())


async def _in_flight(_: Path, options: argparse.Namespace) -> Report:
    return await in_flight.in_flight(_QUICK_REALTIME if options.quick else realtime.Plan())


async def _mixed(_: Path, options: argparse.Namespace) -> Report:
    return await realtime.beside_queue(_QUICK_REALTIME if options.quick else realtime.Plan())


async def _slow(_: Path, options: argparse.Namespace) -> Report:
    return await realtime.slow_reader(_QUICK_REALTIME if options.quick else realtime.Plan())


async def _gateway(folder: Path, options: argparse.Namespace) -> Report:
    return await gateway.measure(folder, _QUICK_GATEWAY if options.quick else gateway.Plan())


async def _start(folder: Path, options: argparse.Namespace) -> Report:
    return await start.measure(folder, _QUICK_START if options.quick else start.Plan())


async def _pipeline(folder: Path, options: argparse.Namespace) -> Report:
    """In a process of its own: torch wants its threads for itself."""
    found = folder / "pipeline.json"
    command = [sys.executable, "-m", "tests.bench.pipeline", "--json", str(found)]
    command += ["--scale", "0.05"] if options.quick else []
    command += ["--sd15"] if options.sd15 else []
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    report = Report("The pipeline beside stock diffusers, one thread")
    if done.returncode:
        report.notes.append(
            "It could not be measured: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        )
        return report
    report.figures = [Figure(**figure) for figure in json.loads(found.read_text())["figures"]]
    return report


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], Awaitable[Report]]] = {
    "overhead": _overhead,
    "realtime": _realtime,
    "in-flight": _in_flight,
    "mixed": _mixed,
    "slow-reader": _slow,
    "gateway": _gateway,
    "service": _whole,
    "start": _start,
    "pipeline": _pipeline,
}

QUICK_SECTIONS = ("overhead", "realtime", "in-flight", "mixed", "slow-reader", "gateway", "service", "start")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        help="Sections to run; by default all, or with --quick those that take seconds.",
    )
    parser.add_argument("--quick", action="store_true", help="A few seconds of each section: the figures mean nothing.")
    parser.add_argument("--no-peers", action="store_true", help="Leaves the peers out.")
    parser.add_argument(
        "--sd15", action="store_true", help="Also the architecture of Stable Diffusion 1.5: 10 GB, minutes."
    )
    parser.add_argument(
        "--output", type=Path, help="Folder of RESULTS.md and results.json; by default the benchmarks' own."
    )
    return parser.parse_args()


def _machine() -> dict[str, object]:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": cpu_count(),
        "python": platform.python_version(),
    }


def _page(results: dict[str, dict[str, object]]) -> str:
    machine = next(iter(results.values()))["machine"]
    assert isinstance(machine, dict)
    told = "{system} on {architecture}, {processors} processors, Python {python}.\n".format(**machine)
    return "\n".join((_HEAD, told, *(_section(results[name]) for name in SECTIONS if name in results)))


def _section(result: dict[str, object]) -> str:
    before, after = result["load_average"]
    return f"{result['markdown']}\nLoad average before and after: {before}, {after}.\n"


if __name__ == "__main__":
    sys.exit(main())
