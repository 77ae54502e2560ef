"""The whole service around the sleeping pipeline: what is measured through it is the service, not a network.

`python -m tests.sleeping_worker serve --data-dir DIR` is `flashbulb-server serve` but for its worker, which is
`python -m tests.sleeping_worker worker --ready-file FILE`. SLEEPING_SECONDS: time of a call over one picture; steps are the request's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flashbulb_server.config import Settings, WorkerSettings
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.observability import logs
from flashbulb_server.supervisor import process
from tests.service import RunningService
from tests.sleeping_pipeline import SleepingLane, SleepingPipeline

SIDE = 224
"""Pictures of so many pixels a side are JPEG files of 60 kB, which take 0.2 ms to make."""

_ROOT = Path(__file__).parent.parent


class NoisePipeline(SleepingPipeline):
    """Sleeps, then gives the same noise for every picture: it makes larger files than a colour does. Announces every endpoint."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds=seconds, endpoints=tuple(ENDPOINTS))
        self._pictures: dict[tuple[int, int], Pixels] = {(SIDE, SIDE): noise()}

    def decode(self, lanes: Sequence[SleepingLane]) -> Sequence[Pixels]:
        """The noise, repeated over the asked size."""
        return [self._picture(lane.size) for lane in lanes]

    def _picture(self, size: tuple[int, int]) -> Pixels:
        if size not in self._pictures:
            self._pictures[size] = np.resize(noise(), (size[1], size[0], 3))
        return self._pictures[size]


def noise() -> Pixels:
    """The picture, (224, 224, 3)."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


class SleepingService(RunningService):
    """The service around a pipeline that sleeps `seconds` in a call over one picture. `noise`: its pictures are that instead of a colour."""

    module = "tests.sleeping_worker"

    def __init__(self, folder: Path, *, seconds: float, noise: bool = True, **settings: object) -> None:
        super().__init__(folder, **settings)
        self._environment |= {"SLEEPING_SECONDS": str(seconds), "PYTHONPATH": str(_ROOT)}
        self._environment |= {"SLEEPING_NOISE": "1"} if noise else {}


def _load(_: WorkerSettings) -> Mapping[str, SleepingPipeline]:
    seconds = float(os.environ["SLEEPING_SECONDS"])
    noisy = "SLEEPING_NOISE" in os.environ
    pipeline = NoisePipeline(seconds) if noisy else SleepingPipeline(seconds=seconds, endpoints=tuple(ENDPOINTS))
    return {pipeline.info.name: pipeline}


def _serve(data_dir: Path, listen: str, http_listen: str) -> int:
    from flashbulb_server.supervisor.data_folder import DataFolder
    from flashbulb_server.supervisor.service import Roles, Service

    settings = Settings.model_validate({"api": {"listen": listen}, "http": {"listen": http_listen}})
    logs.set_up(settings.log, role="serve")
    roles = Roles(worker=(sys.executable, "-m", SleepingService.module, "worker"))
    return asyncio.run(Service(settings, DataFolder(data_dir), announce=print, roles=roles).run())  # type: ignore[arg-type]


def _work(ready_file: Path) -> int:
    from flashbulb_server.app.worker import run_worker

    settings = Settings()
    logs.set_up(settings.log, role="worker")
    return run_worker(settings, ready_file, load=_load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--data-dir", type=Path, required=True)
    serve.add_argument("--listen", default="127.0.0.1:0")
    serve.add_argument("--http-listen", default="127.0.0.1:0")
    worker = commands.add_parser("worker")
    worker.add_argument("--ready-file", type=Path, required=True)
    worker.add_argument("--problems-file", type=Path)
    worker.add_argument("--exit-with-parent", action="store_true")
    options = parser.parse_args()
    if options.command == "serve":
        return _serve(options.data_dir, options.listen, options.http_listen)
    if options.exit_with_parent:
        process.exit_with_parent()
    return _work(options.ready_file)


if __name__ == "__main__":
    sys.exit(main())
