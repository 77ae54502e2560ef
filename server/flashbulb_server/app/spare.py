"""A worker and its spare: a process that has imported everything stays behind, and the next worker is forked from it when this one dies.

1. It imports and does nothing else: no thread, no device, no connection. So it can be forked, and shares most of its memory.
2. A worker that was ready and ran for a while is replaced at once. Any other end is this process's end too: whoever started it decides.
3. The kernel ends the worker with the process that it was forked from.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

STEADY_SECONDS = 5.0
"""A worker that ran for less may have a fault that the next one has as well: those are started by whoever waits longer every time."""

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


def stay_behind(ready_file: Path | None) -> int | None:
    """Forks a worker, and another one when it dies. None in each of them; in the process that stays, the exit code, once it is over.

    Linux alone. To be called before there are threads. `ready_file`: what a worker writes once it serves.
    """
    _import_everything()
    gc.collect()
    gc.freeze()  # or a collection would write to every page that is shared
    return _Spare(ready_file).run()


class _Spare:
    def __init__(self, ready_file: Path | None) -> None:
        self._ready_file = ready_file
        self._pid = os.getpid()
        self._worker = 0
        self._told = False

    def run(self) -> int | None:
        for number in _SIGNALS:
            signal.signal(number, self._pass_on)
        while self._fork():
            started = time.monotonic()
            code = os.waitstatus_to_exitcode(os.waitpid(self._worker, 0)[1])
            was_ready = self._was_ready()
            self._worker = 0
            if self._told or not was_ready or time.monotonic() - started < STEADY_SECONDS:
                return code if code >= 0 else 128 - code
            _log.warning("the worker ended and its spare takes its place", extra={"exit_code": code})
        return None

    def _fork(self) -> bool:
        """Makes a worker. False in it. A signal that comes meanwhile is passed on to it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._worker = os.fork()
        if self._worker == 0:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self._worker != 0

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._told = True
        if self._worker:
            with suppress(ProcessLookupError):
                os.kill(self._worker, number)

    def _was_ready(self) -> bool:
        """Whether the worker that ended had written the file, which is taken away then."""
        if self._ready_file is None:
            return True
        try:
            ready = json.loads(self._ready_file.read_text()).get("pid") == self._worker
            self._ready_file.unlink()
        except (OSError, ValueError):
            return False
        return bool(ready)


def _import_everything() -> None:
    from flashbulb_server.pipelines import loading, openvino_backend, openvino_graph  # noqa: F401  # torch

    if openvino_backend.is_installed():
        openvino_graph.import_openvino()
