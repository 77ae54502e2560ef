"""`flashbulb-server serve`: the whole service on one host, as child processes of one supervisor.

Order of start: the worker (which is slow to load, and waits for the rest by itself), NATS and the S3 server, then the api. Order of
stop: the api (takes no new calls, ends those it has), the worker (ends what it draws), the S3 server and NATS. What dies in between is
restarted at the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashbulb_server.config import Settings, environment
from flashbulb_server.supervisor.binary import clean_environment
from flashbulb_server.supervisor.child import Child, ChildFailed, ChildSpec
from flashbulb_server.supervisor.data_folder import DataFolder
from flashbulb_server.supervisor.embedded import EmbeddedServer, until
from flashbulb_server.supervisor.plan import Plan, make_plan
from flashbulb_server.supervisor.private_file import write_private

log = logging.getLogger(__name__)

_FLASHBULB_SERVER = (sys.executable, "-m", "flashbulb_server.cli")
_RUNTIME_PREFIX = "flashbulb-"
_LONGEST_PARENT_PATH = 60  # a socket's path may have 107 bytes on Linux, 103 on macOS


@dataclass(frozen=True, slots=True)
class Roles:
    """Commands of the two roles; each is given `--ready-file PATH`, and writes `{"address", "pid"}` there once it serves."""

    api: Sequence[str] = (*_FLASHBULB_SERVER, "api")
    worker: Sequence[str] = (*_FLASHBULB_SERVER, "worker")


class Service:
    """One run of the whole service. `announce` is told, in plain sentences, what the user must know."""

    def __init__(
        self, settings: Settings, folder: DataFolder, *, announce: Callable[[str], None], roles: Roles | None = None
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._announce = announce
        self._roles = roles or Roles()
        self._stop_requested = asyncio.Event()
        self._children: list[Child] = []
        self._servers: list[Child] = []
        self._failure: ChildFailed | None = None
        self._is_ready = False

    async def run(self) -> int:
        """Runs until SIGTERM or SIGINT; a second one kills. Returns the exit status.

        Raises:
            FolderInUse: another service works in the folder.
            ServerBinaryMissing: a server to be embedded is not installed.
        """
        with self._folder.locked() as servers_lock, _runtime_folder(self._folder.service_file) as runtime:
            self._runtime = runtime
            plan = make_plan(self._settings, self._folder, runtime)
            for server in plan.servers:
                _ = server.command  # so that a missing binary is reported before anything is started
            if plan.development_key:
                self._announce(
                    f"A development key was made. It is shown only now:\n\n    export FLASHBULB_KEY={plan.development_key}\n"
                )
            with self._signals():
                await self._run_children(plan, servers_lock)
            self._folder.service_file.unlink(missing_ok=True)
        if self._failure:
            self._announce(f"flashbulb-server could not start: {self._failure}")
            return 1
        return 0

    async def _run_children(self, plan: Plan, servers_lock: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                starting = group.create_task(self._start(group, plan, servers_lock))
                await self._stop_requested.wait()
                starting.cancel()
                await self._stop()
        finally:
            self._kill()

    async def _start(self, group: asyncio.TaskGroup, plan: Plan, servers_lock: int) -> None:
        try:
            variables = environment() | dict(plan.role_environment)
            # The worker loads torch and its models first, which takes longer than the servers do; it waits for them by itself.
            worker = self._keep_role(group, "worker", variables, self._settings.worker.drain_seconds)
            self._servers = [self._keep(group, _server_spec(s, self._folder, servers_lock)) for s in plan.servers]
            for child in self._servers:
                await child.wait_ready()
            api = self._keep_role(group, "api", variables, self._settings.api.drain_seconds)
            await api.wait_ready()
            await worker.wait_ready()
        except ChildFailed as err:
            self._failure = err
            self._stop_requested.set()
            return
        self._is_ready = True
        address, http_address = self._write_service_file()
        http = f", HTTP on {http_address}" if http_address else ""
        self._announce(f"flashbulb-server is ready: gRPC on {address}{http}, data in {self._folder.path}")
        if http_address:
            key = f"#key={plan.development_key}" if plan.development_key else ""
            self._announce(f"Type, and the picture follows: http://{http_address}/{key}")

    def _keep_role(
        self, group: asyncio.TaskGroup, name: Literal["api", "worker"], variables: Mapping[str, str], drain: float
    ) -> Child:
        command = self._roles.api if name == "api" else self._roles.worker
        return self._keep(group, _role_spec(name, command, self._runtime, variables, drain))

    def _keep(self, group: asyncio.TaskGroup, spec: ChildSpec) -> Child:
        child = Child(spec, self._child_is_ready)
        self._children.append(child)
        group.create_task(child.run(), name=spec.name)
        return child

    def _child_is_ready(self) -> None:
        if self._is_ready:
            self._write_service_file()

    def _write_service_file(self) -> tuple[str, str]:
        address, http_address = _read_addresses(_ready_file(self._runtime, "api"))
        state = {
            "address": address,
            "http_address": http_address,
            "pid": os.getpid(),
            "children": {child.name: child.pid for child in self._children},
            "runtime": str(self._runtime),
        }
        write_private(self._folder.service_file, json.dumps(state))
        return address, http_address

    async def _stop(self) -> None:
        for name in ("api", "worker"):  # the api's last calls need the worker
            for child in self._children:
                if child.name == name:
                    await child.stop()
        async with asyncio.TaskGroup() as group:
            for child in self._servers:
                group.create_task(child.stop())

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _told_to_stop(self) -> None:
        if self._stop_requested.is_set():
            log.warning("told to stop again: killing all children")
            self._kill()
        else:
            log.info("told to stop: draining")
            self._stop_requested.set()


def _server_spec(server: EmbeddedServer, folder: DataFolder, servers_lock: int) -> ChildSpec:
    return ChildSpec(
        name=server.name,
        command=lambda: server.command,
        prepare=server.write_config,
        wait_ready=server.wait_ready,
        environment=clean_environment(environment(), server.data_dir),
        death_signal=signal.SIGKILL,  # what they have acknowledged is on disk; told to end, weed may hang if its folder is gone
        ready_seconds=60,
        stop_seconds=20,
        clean_up=server.remove_leftovers,
        folder=server.data_dir,
        log=folder.log(server.name),
        kept_open=(servers_lock,),
    )


def _role_spec(
    name: str, command: Sequence[str], runtime: Path, variables: Mapping[str, str], drain_seconds: float
) -> ChildSpec:
    ready_file = _ready_file(runtime, name)
    # Linux kills an orphaned role by itself; elsewhere the role looks after its parent.
    watch = () if sys.platform == "linux" else ("--exit-with-parent",)

    async def serves() -> None:
        _read_addresses(ready_file)

    return ChildSpec(
        name=name,
        command=lambda: (*command, "--ready-file", str(ready_file), *watch),
        prepare=lambda: ready_file.unlink(missing_ok=True),
        wait_ready=lambda seconds: until(serves, name=name, seconds=seconds),
        environment=variables,
        death_signal=signal.SIGKILL,  # nobody is left to tell how the drain went
        ready_seconds=600,  # large models are slow to load
        stop_seconds=drain_seconds + 10,
    )


def _ready_file(runtime: Path, name: str) -> Path:
    return runtime / f"{name}.json"


def _read_addresses(ready_file: Path) -> tuple[str, str]:
    """Of gRPC and of HTTP; the latter is empty if there is none."""
    state = json.loads(ready_file.read_text())
    return str(state["address"]), str(state.get("http_address", ""))


@contextlib.contextmanager
def _runtime_folder(service_file: Path) -> Iterator[Path]:
    """A new folder with a short path, for sockets. Also removes that of a service which was killed."""
    if service_file.exists():
        left = Path(json.loads(service_file.read_text())["runtime"])
        if left.name.startswith(_RUNTIME_PREFIX):
            shutil.rmtree(left, ignore_errors=True)
        service_file.unlink()
    parent = None if len(tempfile.gettempdir()) < _LONGEST_PARENT_PATH else "/tmp"
    path = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
