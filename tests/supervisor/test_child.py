"""How one child is kept running: waits between restarts, giving up, stopping, logs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flashbulb_server.supervisor import child as child_module
from flashbulb_server.supervisor.child import Backoff, Child, ChildFailed, ChildSpec
from flashbulb_server.supervisor.embedded import until


def spec(
    folder: Path,
    program: str,
    *,
    wait_ready: Callable[[float], Awaitable[None]] | None = None,
    ready_seconds: float = 10,
    stop_seconds: float = 10,
) -> ChildSpec:
    """A child that runs `program`, and is ready once it has made the file `ready` in `folder`."""

    async def is_ready() -> None:
        (folder / "ready").stat()

    return ChildSpec(
        name="child",
        command=lambda: (sys.executable, "-c", program),
        prepare=lambda: (folder / "ready").unlink(missing_ok=True),
        wait_ready=wait_ready or (lambda seconds: until(is_ready, name="child", seconds=seconds)),
        environment=dict(os.environ),
        death_signal=signal.SIGKILL,
        ready_seconds=ready_seconds,
        stop_seconds=stop_seconds,
        folder=folder,
        log=folder / "logs" / "child.log",
    )


READY = "open('ready', 'w').close()"
FOR_EVER = "import signal; signal.pause()"


def test_waits_double_up_to_the_largest_and_begin_anew_after_a_steady_run():
    backoff = Backoff()
    waits = [backoff.after(0.5) for _ in range(9)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(30) == 0.1
    assert backoff.after(29.9) == 0.2


async def test_a_child_that_was_ready_is_restarted_for_ever(tmp_path: Path):
    readies = asyncio.Queue[None]()
    child = Child(spec(tmp_path, f"{READY}; {FOR_EVER}"), lambda: readies.put_nowait(None))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await child.wait_ready()
        pids = set()
        for _ in range(4):
            await readies.get()
            pids.add(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        await readies.get()
        await child.stop()
    assert len(pids) == 4
    assert child.pid is None


async def test_a_child_that_never_gets_ready_is_given_up(tmp_path: Path):
    child = Child(spec(tmp_path, FOR_EVER, ready_seconds=0.2), lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        with pytest.raises(ChildFailed, match=r"child was not ready within 0.2 s; see .*child.log"):
            await child.wait_ready()


async def test_a_child_that_does_not_end_is_killed(tmp_path: Path):
    ignores = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; signal.pause()"
    child = Child(spec(tmp_path, ignores, stop_seconds=0.2), lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await child.wait_ready()
        pid = child.pid
        await child.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stopping_does_not_wait_for_a_restart_that_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child_module, "_HOPELESS_ATTEMPTS", 1000)

    async def ended_four_times() -> None:
        if len((tmp_path / "ended").read_text()) < 4:
            raise ValueError("not yet")

    child = Child(spec(tmp_path, "open('ended', 'a').write('x')"), lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await until(ended_four_times, name="child", seconds=10)
        started = asyncio.get_running_loop().time()
        await child.stop()
        assert asyncio.get_running_loop().time() - started < 0.5  # the next restart is due in 0.8 s


async def test_a_child_that_does_not_exist_says_so_in_its_log(tmp_path: Path):
    missing = ChildSpec(
        **{name: getattr(spec(tmp_path, ""), name) for name in ChildSpec.__slots__}
        | {"command": lambda: ("/no/such/program",)}
    )
    child = Child(missing, lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        with pytest.raises(ChildFailed, match="ended 3 times before it was ready, last with status 1"):
            await child.wait_ready()
    assert "/no/such/program: No such file or directory" in (tmp_path / "logs" / "child.log").read_text()


async def test_a_large_log_is_begun_anew_and_one_old_one_is_kept(tmp_path: Path):
    log = tmp_path / "logs" / "child.log"
    log.parent.mkdir()
    with log.open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    child = Child(spec(tmp_path, f"print('hello', flush=True); {READY}; {FOR_EVER}"), lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await child.wait_ready()
        await child.stop()
    assert log.read_text() == "hello\n"
    assert (log.parent / "child.log.1").stat().st_size == 11 * 1024 * 1024
