"""How one child is kept running: waits between restarts, giving up, stopping, logs."""

from __future__ import annotations

import asyncio
import errno
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
    prepare: Callable[[], None] = lambda: None,
    **more: object,
) -> ChildSpec:
    """A child that runs `program`, and is ready once it has made the file `ready` in `folder`. `prepare` runs before each start."""

    def prepared() -> None:
        (folder / "ready").unlink(missing_ok=True)
        prepare()

    async def is_ready() -> None:
        (folder / "ready").stat()

    return ChildSpec(
        name="child",
        command=lambda: (sys.executable, "-c", program),
        prepare=prepared,
        wait_ready=wait_ready or (lambda seconds: until(is_ready, name="child", seconds=seconds)),
        environment=dict(os.environ),
        death_signal=signal.SIGKILL,
        ready_seconds=ready_seconds,
        stop_seconds=stop_seconds,
        folder=folder,
        log=folder / "logs" / "child.log",
        **more,
    )


READY = "open('ready', 'w').close()"
FOR_EVER = "import signal; signal.pause()"


def test_waits_double_up_to_the_largest_and_begin_anew_after_a_steady_run():
    backoff = Backoff()
    waits = [backoff.after(0.5) for _ in range(9)]
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert backoff.after(0.5) == 10.0
    assert backoff.after(30) == 0.0
    assert backoff.after(29.9) == 0.1


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


class Faults:
    """Fails as often as it is told to, when it is called."""

    def __init__(self) -> None:
        self.left = 0
        self.error: Exception = OSError("none")

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "no space"), BlockingIOError(errno.EAGAIN, "no process"), RuntimeError("a fault of ours")],
    ids=["full disk", "no more processes", "a fault"],
)
async def test_what_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path, error: Exception):
    faults = Faults()
    readies = asyncio.Queue[None]()
    child = Child(spec(tmp_path, f"{READY}; {FOR_EVER}", prepare=faults), lambda: readies.put_nowait(None))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await readies.get()
        faults.left, faults.error = 4, error
        os.kill(child.pid, signal.SIGKILL)
        await readies.get()
        assert faults.left == 0
        await child.stop()


async def test_what_can_never_be_started_is_given_up_and_the_reason_told(tmp_path: Path):
    faults = Faults()
    faults.left, faults.error = 100, OSError(errno.ENOSPC, "no space")
    failures: list[ChildFailed] = []
    child = Child(spec(tmp_path, FOR_EVER, prepare=faults), lambda: None, failures.append)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        with pytest.raises(ChildFailed, match="ended 3 times before it was ready, last .* no space") as caught:
            await child.wait_ready()
    assert failures == [caught.value]


async def test_a_process_that_cannot_be_looked_at_does_not_run_beside_the_next_one(tmp_path: Path):
    looks = Faults()
    pids: list[int] = []

    async def look(_: float) -> None:
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.01)
        pids.append(child.pid)
        looks()

    readies = asyncio.Queue[None]()
    child = Child(spec(tmp_path, f"{READY}; {FOR_EVER}", wait_ready=look), lambda: readies.put_nowait(None))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await readies.get()
        looks.left, looks.error = 2, RuntimeError("can't start new thread")
        os.kill(child.pid, signal.SIGKILL)
        await readies.get()
        assert len(pids) == 4
        for pid in pids[:3]:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        await child.stop()


async def test_a_child_that_is_not_ready_again_in_time_is_killed_and_tried_again(tmp_path: Path):
    program = f"import pathlib; first = not pathlib.Path('hang').exists(); first and {READY}; {FOR_EVER}"
    hangs = Faults()

    def prepare() -> None:
        (tmp_path / "hang").unlink(missing_ok=True)
        try:
            hangs()
        except OSError:
            (tmp_path / "hang").touch()

    readies = asyncio.Queue[None]()
    child = Child(spec(tmp_path, program, ready_seconds=1, prepare=prepare), lambda: readies.put_nowait(None))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await readies.get()
        hangs.left = 2
        os.kill(child.pid, signal.SIGKILL)
        await readies.get()
        assert hangs.left == 0
        await child.stop()


async def test_what_a_child_left_and_cannot_be_removed_is_no_failure(tmp_path: Path):
    faults = Faults()
    faults.left, faults.error = 1, PermissionError("not ours")
    child = Child(spec(tmp_path, f"{READY}; {FOR_EVER}", clean_up=faults), lambda: None)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await child.wait_ready()
        await child.stop()
    assert faults.left == 0


async def test_a_child_that_refuses_its_settings_is_not_tried_again(tmp_path: Path):
    failures: list[ChildFailed] = []
    refusing = spec(tmp_path, "open('starts', 'a').write('x'); exit(2)", problems=lambda: ("X: is bad",))
    child = Child(refusing, lambda: None, failures.append)
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        with pytest.raises(ChildFailed, match="child refuses its settings") as caught:
            await child.wait_ready()
    assert failures == [caught.value]
    assert (caught.value.refused, caught.value.problems) == (True, ("X: is bad",))
    assert (tmp_path / "starts").read_text() == "x"


async def test_a_child_that_was_ready_and_then_refuses_its_settings_is_tried_again(tmp_path: Path):
    program = f"import pathlib; pathlib.Path('taken').exists() and exit(2); {READY}; {FOR_EVER}"
    taken = tmp_path / "taken"
    refusals: list[None] = []

    def problems() -> tuple[str, ...]:
        refusals.append(None)
        if len(refusals) == 4:
            taken.unlink()
        return ("X: is taken",)

    readies = asyncio.Queue[None]()
    child = Child(spec(tmp_path, program, problems=problems), lambda: readies.put_nowait(None))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        group.create_task(child.run())
        await readies.get()
        taken.touch()
        os.kill(child.pid, signal.SIGKILL)
        await readies.get()
        assert len(refusals) == 4
        await child.stop()


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


async def test_stopping_does_not_wait_for_a_restart_that_is_due_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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
