"""One child process that is kept running: started, probed, restarted with backoff when it ends, stopped when told.

1. Knows nothing of what the child does; `ChildSpec` says all that differs between them.
2. Nothing that happens to a child ends its parent: what cannot be started, is not ready in time or cannot be looked at is put down, and
   tried again.
3. A child is given up only before it was ready for the first time: then somebody waits who can mend what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from flashbulb_server.core.tasks import task_group
from flashbulb_server.supervisor.binary import ServerBinaryMissing
from flashbulb_server.supervisor.embedded import ServerNotReady
from flashbulb_server.supervisor.process import bound_to_this_process

log = logging.getLogger(__name__)

_LARGEST_LOG = 10 * 1024 * 1024
_HOPELESS_ATTEMPTS = 3
BAD_CONFIGURATION = 2  # exit status of a role that will not start however often it is tried


class ChildFailed(Exception):
    """A child could not be started. `log` is the file that says why, if its output goes to one.

    `refused`: it refuses its settings, and says so by its exit status; `problems`: what it says is wrong with them.
    """

    def __init__(
        self, name: str, reason: str, log: Path | None, *, refused: bool = False, problems: Sequence[str] = ()
    ) -> None:
        super().__init__(f"{name} {reason}" + (f"; see {log}" if log else ""))
        self.refused = refused
        self.problems = tuple(problems)


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before a restart: none at first, then 0.1, doubling to 10, from the start again after 30 s of steady running."""

    first: float = 0.1
    largest: float = 10.0
    steady: float = 30.0
    _next: float = field(default=0.0, init=False)

    def after(self, ran_seconds: float) -> float:
        """The wait after a child that ran for `ran_seconds` ended."""
        delay = self._next if ran_seconds < self.steady else 0.0
        self._next = min(delay * 2, self.largest) or self.first
        return delay


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What is particular to one child.

    `prepare` runs before each start, `clean_up` after the last end. `wait_ready` raises ServerNotReady after the seconds it is given.
    `problems` tells what an ended process said is wrong with its settings. Output goes to `log`, or to standard error. `kept_open` are file
    descriptors that the child holds for as long as it lives.
    """

    name: str
    command: Callable[[], Sequence[str]]
    prepare: Callable[[], None]
    wait_ready: Callable[[float], Awaitable[None]]
    environment: Mapping[str, str]
    death_signal: signal.Signals
    ready_seconds: float
    stop_seconds: float
    clean_up: Callable[[], None] = lambda: None
    problems: Callable[[], Sequence[str]] = lambda: ()
    folder: Path | None = None
    log: Path | None = None
    kept_open: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _End:
    """How a process ended. `status`: its exit status, negative for a signal, None if it never ran or could not be kept."""

    status: int | None
    how: str
    problems: Sequence[str] = ()


class Child:
    """Keeps one process running while `run` runs. `changed` is called when it became ready, `given_up` when it is not tried any more."""

    def __init__(
        self, spec: ChildSpec, changed: Callable[[], None], given_up: Callable[[ChildFailed], None] = lambda _: None
    ) -> None:
        self._spec = spec
        self._changed = changed
        self._given_up = given_up
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._settled = asyncio.Event()  # was ready once, or has failed
        self._failure: ChildFailed | None = None

    @property
    def name(self) -> str:
        """Short name, for logs."""
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """Process id, while a process runs."""
        return self._process.pid if self._process else None

    async def wait_ready(self) -> None:
        """Returns when the child was ready for the first time.

        Raises:
            ChildFailed: it ended again and again before that, or was not ready in time.
        """
        await self._settled.wait()
        if self._failure:
            raise self._failure

    async def run(self) -> None:
        """Starts the process, and again whenever it ends, until `stop` or `kill` was called or it proves hopeless."""
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        attempts = 0
        try:
            while not self._stopping.is_set():
                started = clock()
                end = await self._live()
                if self._stopping.is_set():
                    break
                attempts += 1
                self._give_up_if_hopeless(attempts, end)
                if self._failure:
                    break
                delay = backoff.after(clock() - started)
                problems = {"problems": list(end.problems)} if end.problems else {}
                log.warning(
                    "child ended",
                    extra={"child": self.name, "exit_code": end.status, "restart_in_seconds": delay, **problems},
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
        finally:
            self._clean_up()
            self._ended.set()
            self._settled.set()

    async def stop(self) -> None:
        """Asks the process to end, kills it after `stop_seconds`, and returns when it is gone. `run` then ends."""
        self._stopping.set()
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._spec.stop_seconds):
                await self._ended.wait()
        except TimeoutError:
            log.warning("child did not end in time and is killed", extra={"child": self.name})
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """Ends the process at once; `run` then ends."""
        self._stopping.set()
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _live(self) -> _End:
        """Starts the process and stays with it. Tells how it ended, whatever happened."""
        try:
            status = await self._run_once()
            problems = self._spec.problems() if status == BAD_CONFIGURATION else ()
            return _End(status, f"with status {status}", problems)
        except Exception as err:  # of whatever kind: the others still run, and this one may yet
            await self._put_down()
            expected = isinstance(err, OSError | ServerBinaryMissing)  # no space, no memory, no more processes or files
            log.error(
                "child cannot be kept running",
                extra={"child": self.name, "reason": str(err)},
                exc_info=None if expected else err,
            )
            return _End(None, f"as it could not be kept running: {err}")

    async def _put_down(self) -> None:
        """Kills the process if there is one, and waits until it is gone: it must not run beside the next one."""
        if self._process is not None:
            self._send(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    def _clean_up(self) -> None:
        try:
            self._spec.clean_up()
        except OSError as err:
            log.warning("what a child left cannot be removed", extra={"child": self.name, "reason": str(err)})

    async def _run_once(self) -> int:
        """Runs the process to its end. Returns its exit status, negative for a signal."""
        spec = self._spec
        spec.prepare()
        self._process = process = await _start(spec)
        if self._stopping.is_set():  # told while the process was being made
            self._send(signal.SIGTERM)
        async with task_group() as group:
            probe = group.create_task(self._probe())
            code = await process.wait()
            self._process = None
            probe.cancel()
        return code

    async def _probe(self) -> None:
        try:
            await self._spec.wait_ready(self._spec.ready_seconds)
        except ServerNotReady as err:
            log.error("child is not ready in time", extra={"child": self.name, "reason": str(err)})
            self._fail(f"was not ready within {self._spec.ready_seconds:g} s")
            self._send(signal.SIGKILL)
        else:
            log.info("child is ready", extra={"child": self.name, "pid": self.pid})
            self._settled.set()
            self._changed()

    def _give_up_if_hopeless(self, attempts: int, end: _End) -> None:
        if end.status == BAD_CONFIGURATION:
            self._fail("refuses its settings", refused=True, problems=end.problems)
        elif attempts >= _HOPELESS_ATTEMPTS:
            self._fail(f"ended {attempts} times before it was ready, last {end.how}")

    def _fail(self, reason: str, *, refused: bool = False, problems: Sequence[str] = ()) -> None:
        """Gives up, unless the child was ready once: then it is worth to be tried for ever."""
        if not self._settled.is_set() and self._failure is None:
            self._failure = ChildFailed(self.name, reason, self._spec.log, refused=refused, problems=problems)
            self._settled.set()
            self._given_up(self._failure)


async def _start(spec: ChildSpec) -> asyncio.subprocess.Process:
    command = bound_to_this_process(spec.command(), spec.death_signal)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(_opened(spec.log)).fileno() if spec.log else sys.stderr.fileno()
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(spec.environment),
            cwd=spec.folder,
            pass_fds=spec.kept_open,
            process_group=0,  # Ctrl-C in a terminal reaches this process only, which then stops its children in order
        )


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """The log file, begun anew when the old one is large; one old one is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LARGEST_LOG:
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")
