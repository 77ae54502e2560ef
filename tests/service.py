"""The whole service as a process of its own, as `flashbulb-server serve` runs it, and the stubs to call it with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import grpc

from flashbulb.v1 import (
    generation_pb2_grpc,
    input_pb2,
    model_pb2_grpc,
    queue_pb2_grpc,
    realtime_pb2_grpc,
    storage_pb2_grpc,
)
from flashbulb_server.supervisor.process import bound_to_this_process
from tests.graphs import FOLDER

KEY = "tester:a-secret-of-the-tests"
OTHER_KEY = "stranger:another-secret"
SPARE_KEYS = tuple(f"spare-{n}:secret-{n}" for n in range(400))  # one for each test that counts its own requests
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Stubs:
    """Asynchronous stubs of every service over one channel. Every call needs `metadata=auth(...)`."""

    channel: grpc.aio.Channel
    generation: generation_pb2_grpc.GenerationServiceAsyncStub
    queue: queue_pb2_grpc.QueueServiceAsyncStub
    storage: storage_pb2_grpc.StorageServiceAsyncStub
    models: model_pb2_grpc.ModelServiceAsyncStub
    realtime: realtime_pb2_grpc.RealtimeServiceAsyncStub


def stubs(channel: grpc.aio.Channel) -> Stubs:
    """The stubs over a channel."""
    return Stubs(
        channel,
        generation_pb2_grpc.GenerationServiceStub(channel),
        queue_pb2_grpc.QueueServiceStub(channel),
        storage_pb2_grpc.StorageServiceStub(channel),
        model_pb2_grpc.ModelServiceStub(channel),
        realtime_pb2_grpc.RealtimeServiceStub(channel),
    )


def auth(key: str = KEY) -> tuple[tuple[str, str], ...]:
    """Metadata that authenticates a call."""
    return (("authorization", f"Key {key}"),)


def apple(**fields: object) -> input_pb2.GenerationInput:
    """A quick valid input: two steps at the embedded model's own size."""
    values: dict[str, object] = {"prompt": "a red apple", "seed": 7, "num_inference_steps": 2, **fields}
    message = input_pb2.FastLcmTextToImageInput(**values)
    if "image_size" not in fields:
        message.image_size.dimensions.width = message.image_size.dimensions.height = 128
    return input_pb2.GenerationInput(fast_lcm_text_to_image=message)


def is_running(pid: int) -> bool:
    """False for a zombie too: it is gone but for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class RunningService:
    """A service in a folder. `settings` are FLASHBULB_* variables without the prefix, such as QUEUE__MAX_REQUESTS; None leaves one unset."""

    module = "flashbulb_server.cli"
    _started: ClassVar[WeakSet[RunningService]] = WeakSet()

    def __init__(self, folder: Path, **settings: object) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "serve.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")},
            "FLASHBULB_API__KEYS": ",".join((KEY, OTHER_KEY, *SPARE_KEYS)),
            "FLASHBULB_WORKER__THREADS": "1",
            "FLASHBULB_WORKER__BACKEND": "openvino",  # what users get, once it is compiled; read from the folder it is ready first
            "FLASHBULB_WORKER__CACHE_DIR": str(FOLDER),
            **{f"FLASHBULB_{name}": str(value) for name, value in settings.items()},
        }
        for name in (name for name, value in settings.items() if value is None):
            del self._environment[f"FLASHBULB_{name}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None  # the last signal to stop

    @classmethod
    def tell_all_to_stop(cls) -> None:
        """Has all services of this process stop side by side. Each is still to be waited for by `stop`."""
        for service in cls._started:
            service._tell_to_stop(signal.SIGTERM)

    def start(self) -> None:
        """Starts it and waits until it is ready. It ends with the thread that called this."""
        command = (sys.executable, "-m", self.module, "serve")
        command += ("--data-dir", str(self.data_dir), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_this_process(command, signal.SIGTERM),  # not left behind by a test run that is killed
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._told = None
        self._started.add(self)
        self.wait_ready()

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Waits until the supervisor says that everything answers."""
        self._wait(lambda children: True, seconds)

    def wait_whole(self, seconds: float = START_SECONDS) -> None:
        """Waits until every child runs, and the supervisor says that it answers."""
        self._wait(lambda children: all(pid and is_running(pid) for pid in children.values()), seconds)

    def _wait(self, condition: Callable[[dict[str, int | None]], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._tells(condition):
            assert self.is_running, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def _tells(self, condition: Callable[[dict[str, int | None]], bool]) -> bool:
        """Whether this supervisor, not one before it, is ready and has such children."""
        try:
            return self.state["pid"] == self.pid and condition(self.children())
        except FileNotFoundError:
            return False

    @property
    def state(self) -> dict[str, object]:
        """What the supervisor wrote of it: address, pid, children."""
        found: dict[str, object] = json.loads((self.data_dir / "service.json").read_text())
        return found

    @property
    def address(self) -> str:
        """`host:port` of the gRPC server."""
        return str(self.state["address"])

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP gateway."""
        return str(self.state["http_address"])

    def children(self) -> dict[str, int | None]:
        """Pids of nats, files, api and worker; None for one that does not run."""
        children = self.state["children"]
        assert isinstance(children, dict)
        return children

    def child(self, name: str) -> int:
        """Pid of a child that runs."""
        pid = self.children()[name]
        assert pid is not None
        return pid

    @property
    def nats(self) -> tuple[str, str]:
        """Address and token of the embedded nats-server."""
        port = json.loads((self.data_dir / "ports.json").read_text())["nats"][0]
        return f"nats://127.0.0.1:{port}", json.loads((self.data_dir / "secrets.json").read_text())["nats_token"]

    def child_is_back(self, name: str, old_pid: int) -> bool:
        """Whether the supervisor has started a child again that had this pid, and it answers."""
        return self._tells(lambda children: children[name] not in (None, old_pid))

    def kill_child(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a child; gives its pid."""
        pid = self.child(name)
        os.kill(pid, number)
        return pid

    @property
    def pid(self) -> int:
        """Pid of the supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def errors(self) -> list[str]:
        """What it has logged as errors."""
        return [line for line in self.log.read_text().splitlines() if '"level": "ERROR"' in line or "Traceback" in line]

    def send(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Stops it; gives the exit code."""
        assert self._process is not None
        self._tell_to_stop(number)
        return self._process.wait(seconds)

    def _tell_to_stop(self, number: int) -> None:
        if self.is_running and self._told != number:
            self._told = number
            self.send(number)
