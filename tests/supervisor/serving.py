"""A running supervisor, seen from outside: its process, its files, and what its stand-in roles told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flashbulb_server.supervisor.process import bound_to_this_process

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
LIMIT_SECONDS = 30


def wait_for(what: str, condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS} s: {what}"
        time.sleep(0.01)
    return value


class Serving:
    """`flashbulb-server serve` with stand-in roles, on `folder`/data. Variables go over a clean environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.data = folder / "data"
        self._events = folder / "events.jsonl"
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHBULB_", "STAND_IN_"))}
        # stand-ins outlive nobody: they are bound to the supervisor, and it is bound to the tests
        command = (sys.executable, "-u", "-m", "tests.supervisor.serve_stand_in", str(self.data), str(self._events))
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                bound_to_this_process(command, signal.SIGKILL),
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                env=clean
                | {
                    "FLASHBULB_LOG__FORMAT": "text",
                    "FLASHBULB_API__LISTEN": "127.0.0.1:0",
                    "FLASHBULB_HTTP__LISTEN": "127.0.0.1:0",
                }
                | variables,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def events(self, event: str) -> list[dict[str, object]]:
        if not self._events.exists():
            return []
        told = [json.loads(line) for line in self._events.read_text().splitlines()]
        return [one for one in told if one["event"] == event]

    def told_of(self, child: str, words: str) -> bool:
        """Whether the supervisor has logged a line about a child that holds `words`."""
        return any(f"child={child} " in line and words in line for line in self.output.splitlines())

    def state(self) -> dict[str, object]:
        """service.json, once it is there."""

        def read() -> dict[str, object] | None:
            assert self.process.poll() is None, self.output
            path = self.data / "service.json"
            state = json.loads(path.read_text()) if path.exists() else None
            return state if state and state["pid"] == self.process.pid else None

        return wait_for("service.json", read)

    def children(self) -> dict[str, int]:
        return self.state()["children"]

    def restarted(self, name: str, old_pid: int) -> int:
        """Pid of child `name` once it is ready again."""

        def look() -> int | None:
            pid = self.children()[name]
            return pid if pid not in (old_pid, None) else None

        return wait_for(f"restart of {name}", look)

    def variables(self, role: str) -> dict[str, str]:
        """The FLASHBULB_* variables that the newest `role` was given."""
        return [event["variables"] for event in self.events("started") if event["role"] == role][-1]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(LIMIT_SECONDS)

    def end(self) -> None:
        """Stops what a test left running, in order if that works."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
