"""Tests are spread by file, and what measures time runs alone, at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.spreading import next_file

ROOT = Path(__file__).parents[2]

CONFTEST = """
import os
from pathlib import Path
import pytest
from tests.spreading import Spread, timing_last

def pytest_collection_modifyitems(items):
    timing_last(items)

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Spread(config, log)

@pytest.fixture(autouse=True)
def told(request):
    with (Path(__file__).parent / "told").open("a") as file:
        file.write(f"{os.environ.get('PYTEST_XDIST_WORKER', 'alone')} {request.path.name} {request.function.__name__}\\n")
"""

QUICK = """
from pathlib import Path
import pytest

def test_one(): pass
@pytest.mark.parametrize("name", ["a::b", "c"])
def test_it_is_done_in_time(name): (Path(__file__).parent / "timed").touch()
def test_two(): pass
"""

SLOW = """
import time
from pathlib import Path
def test_three(): pass

def test_slow():
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert not (Path(__file__).parent / "timed").exists(), "a test that measures time ran meanwhile"
        time.sleep(0.01)

def test_also_in_time(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2", "3"])
def test_files_stay_together_and_what_measures_time_is_alone_at_the_end(tmp_path: Path, workers: str) -> None:
    for name, content in (
        ("conftest", CONFTEST),
        ("test_quick", QUICK),
        ("test_slow", SLOW),
    ):
        (tmp_path / f"{name}.py").write_text(content)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-n", workers, "-c", os.devnull)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        (*command, f"--rootdir={tmp_path}", str(tmp_path)),
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert sorted(name for _, _, name in told[-3:]) == ["test_also_in_time"] + ["test_it_is_done_in_time"] * 2
    assert len({worker for worker, _, _ in told[-3:]}) == 1
    by_file = defaultdict(set)
    for worker, file, _ in told[:-3]:
        by_file[file].add(worker)
    assert all(len(whose) == 1 for whose in by_file.values()), by_file
    if workers == "2":
        assert len(set.union(*by_file.values())) == 2


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ([], [], "a/4"),
        (["b/1"], [], "b/5"),
        (["b/1", "a/1"], [], "a/4"),
        (["c/1"], ["a/1"], "b/5"),
        (["d/1"], ["a/1", "b/1"], "a/4"),
        (["b/1", "d/1"], ["a/1"], "b/5"),
    ],
    ids=["the first", "its folder", "its last folder", "a new folder", "none is new", "back to one of its own"],
)
def test_a_worker_stays_in_its_folders(own: list[str], others: list[str], expected: str) -> None:
    assert next_file(["a/4", "b/5", "a/6"], own, own + others) == expected
