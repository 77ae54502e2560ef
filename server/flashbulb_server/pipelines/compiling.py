"""`python -m flashbulb_server.pipelines.compiling`: compiles networks and keeps them, for a worker that draws with torch meanwhile.

A process of its own, as compiling holds Python's lock for seconds, changes the networks while it looks at them, and takes memory that
ought to be given back. It steps back from everything else on the machine, and ends with the process that holds its standard input open.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from flashbulb_server.config import LogSettings, WorkerSettings
from flashbulb_server.observability import logs

MODULE = "flashbulb_server.pipelines.compiling"
NICE = 10


class Order(BaseModel):
    """What to compile, as one line of JSON on standard input. `beside`: where to keep it if `worker.cache_dir` cannot be written to."""

    worker: WorkerSettings
    log: LogSettings
    beside: Path

    def as_line(self) -> bytes:
        """The line."""
        return self.model_dump_json().encode() + b"\n"


def main() -> int:
    """Compiles what is ordered."""
    order = Order.model_validate_json(_line())
    logs.set_up(order.log, role="compiler")
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    os.nice(NICE)
    with suppress(OSError):  # Linux alone: where memory runs out, this process goes and not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    from flashbulb_server.pipelines.keeping import Cache
    from flashbulb_server.pipelines.loading import load_models  # torch

    load_models(order.worker, Cache(order.worker.cache_dir).or_in(order.beside))
    return 0


def _line() -> bytes:
    """A line of standard input, read past Python's buffer: a thread that waits there would hold its lock at the end."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 2**16)):
        line += more
    return line


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
