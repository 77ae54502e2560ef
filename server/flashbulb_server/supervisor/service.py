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
from flashbulb_server.errors import Misconfigured
from flashbulb_server.supervisor.binary import clean_environment
from flashbulb_server.supervisor.child import Child, ChildFailed, ChildSpec
from flashbulb_server.supervisor.data_folder import DataFolder
from flashbulb_server.supervisor.embedded import EmbeddedServer, until
from flashbulb_server.supervisor.plan import Plan, make_plan
from flashbulb_server.supervisor.ports import LOOPBACK, taken_ports
from flashbulb_server.supervisor.private_file import write_private
from flashbulb_server.supervisor.process import hear_of_children_without_threads
from flashbulb_server.supervisor.role_files import RoleFiles
from flashbulb_server.wire.listening import listen_problems

log = logging.getLogger(__name__)

_FLASHBULB_SERVER = (sys.executable, "-m", "flashbulb_server.cli")
_RUNTIME_PREFIX = "flashbulb-"
_LONGEST_PARENT_PATH = 60  # a socket's path may have 107 bytes on Linux, 103 on macOS


@dataclass(frozen=True, slots=True)
class Roles:
    """Commands of the two roles.

    Each is given `--ready-file PATH`, and writes `{"address", "pid"}` there once it serves; and `--problems-file PATH`, where it writes a
    list of what is wrong with its settings before it ends with status 2.
    """

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
            Misconfigured: settings are refused, here or by a role; nothing runs any more.
        """
        with self._folder.locked() as servers_lock, _runtime_folder(self._folder.service_file) as runtime:
            problems = listen_problems(_addresses(self._settings))
            if problems:
                raise Misconfigured(*problems)
            self._runtime = runtime
            self._servers_lock = servers_lock
            self._api_files = RoleFiles(runtime, "api")
            plan = make_plan(self._settings, self._folder, runtime)
            for server in plan.servers:
                _ = server.command  # so that a missing binary is reported before anything is started
            if plan.development_key:
                self._say(
                    f"A development key was made. It is shown only now:\n\n    export FLASHBULB_KEY={plan.development_key}\n"
                )
            hear_of_children_without_threads()
            with self._signals():
                await self._run_children(plan)
            self._folder.service_file.unlink(missing_ok=True)
        if self._failure is None:
            return 0
        if self._failure.refused:
            raise Misconfigured(*(self._failure.problems or (f"{self._failure}; what it wrote says why",)))
        self._say(f"flashbulb-server could not start: {self._failure}")
        return 1

    async def _run_children(self, plan: Plan) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                starting = group.create_task(self._start(group, plan))
                await self._stop_requested.wait()
                starting.cancel()
                if self._failure:
                    self._kill()  # nobody was served yet
                await self._stop()
        finally:
            self._kill()

    async def _start(self, group: asyncio.TaskGroup, plan: Plan) -> None:
        try:
            variables = environment() | dict(plan.role_environment)
            # The worker loads torch and its models first, which takes longer than the servers do; it waits for them by itself.
            worker = self._keep_role(group, "worker", variables, self._settings.worker.drain_seconds)
            self._servers = [self._keep(group, _server_spec(s, self._folder, self._servers_lock)) for s in plan.servers]
            for child in self._servers:
                await child.wait_ready()
            api = self._keep_role(group, "api", variables, self._settings.api.drain_seconds)
            await api.wait_ready()
            await worker.wait_ready()
        except ChildFailed:
            return  # `_given_up` has heard of it
        self._is_ready = True
        self._write_service_file()
        address, http_address = self._api_files.addresses
        http = f", HTTP on {http_address}" if http_address else ""
        self._say(f"flashbulb-server is ready: gRPC on {address}{http}, data in {self._folder.path}")
        if http_address:
            key = f"#key={plan.development_key}" if plan.development_key else ""
            self._say(f"Type, and the picture follows: http://{http_address}/{key}")

    def _keep_role(
        self, group: asyncio.TaskGroup, name: Literal["api", "worker"], variables: Mapping[str, str], drain: float
    ) -> Child:
        command = self._roles.api if name == "api" else self._roles.worker
        files = self._api_files if name == "api" else RoleFiles(self._runtime, name)
        return self._keep(group, _role_spec(command, files, variables, drain, self._servers_lock))

    def _keep(self, group: asyncio.TaskGroup, spec: ChildSpec) -> Child:
        child = Child(spec, self._child_is_ready, self._given_up)
        self._children.append(child)
        group.create_task(child.run(), name=spec.name)
        return child

    def _child_is_ready(self) -> None:
        if self._is_ready:
            self._write_service_file()

    def _given_up(self, failure: ChildFailed) -> None:
        self._failure = self._failure or failure
        self._stop_requested.set()

    def _write_service_file(self) -> None:
        """Says how the service is. On a full disk that goes unsaid, and the service goes on."""
        address, http_address = self._api_files.addresses
        state = {
            "address": address,
            "http_address": http_address,
            "pid": os.getpid(),
            "children": {child.name: child.pid for child in self._children},
            "runtime": str(self._runtime),
        }
        try:
            write_private(self._folder.service_file, json.dumps(state))
        except OSError as err:
            log.error("service.json is not up to date", extra={"reason": str(err)})

    def _say(self, words: str) -> None:
        try:
            self._announce(words)
        except OSError as err:  # whoever listened is gone, or there is no space for it
            log.warning("not said: %s", words, extra={"reason": str(err)})

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
            log.info("told to stop again: killing all children")
            self._kill()
        else:
            log.info("told to stop: draining")
            self._stop_requested.set()


def _server_spec(server: EmbeddedServer, folder: DataFolder, servers_lock: int) -> ChildSpec:
    return ChildSpec(
        name=server.name,
        command=lambda: server.command,
        prepare=lambda: _prepare_server(server),
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


def _prepare_server(server: EmbeddedServer) -> None:
    """Raises OSError for a port that somebody took while the server was down; it is tried again until it is free."""
    taken = taken_ports(server.ports)
    if taken:
        raise OSError(f"{server.name}: another program has taken port {', '.join(map(str, taken))} of {LOOPBACK}")
    server.write_config()


def _role_spec(
    command: Sequence[str], files: RoleFiles, variables: Mapping[str, str], drain_seconds: float, servers_lock: int
) -> ChildSpec:
    # Linux kills an orphaned role by itself; elsewhere the role looks after its parent.
    watch = () if sys.platform == "linux" else ("--exit-with-parent",)
    return ChildSpec(
        name=files.name,
        command=lambda: (*command, *files.options, *watch),
        prepare=files.prepare,
        wait_ready=lambda seconds: until(files.serves, name=files.name, seconds=seconds),
        problems=files.problems,
        environment=variables,
        death_signal=signal.SIGKILL,  # nobody is left to tell how the drain went
        ready_seconds=600,  # large models are slow to load
        stop_seconds=drain_seconds + 10,
        kept_open=(servers_lock,),
    )


def _addresses(settings: Settings) -> dict[str, str]:
    """What the user says the roles listen at, by variable."""
    listens = {"FLASHBULB_API__LISTEN": settings.api.listen, "FLASHBULB_HTTP__LISTEN": settings.http.listen}
    if "listen" in settings.worker.model_fields_set:
        listens["FLASHBULB_WORKER__LISTEN"] = settings.worker.listen
    return {variable: address for variable, address in listens.items() if address}


@contextlib.contextmanager
def _runtime_folder(service_file: Path) -> Iterator[Path]:
    """A new folder with a short path, for sockets. Also removes that of a service which was killed."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is no longer whole
        left = Path(json.loads(service_file.read_text())["runtime"])
        if left.name.startswith(_RUNTIME_PREFIX):
            shutil.rmtree(left, ignore_errors=True)
    service_file.unlink(missing_ok=True)
    parent = None if len(tempfile.gettempdir()) < _LONGEST_PARENT_PATH else "/tmp"
    path = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
