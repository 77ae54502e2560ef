"""The real nats-server and S3 server for tests: started, killed, restarted on the same ports and data."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from pathlib import Path

from flashbulb_server.supervisor.binary import clean_environment
from flashbulb_server.supervisor.embedded import WEED_PORTS, NatsServer, SeaweedServer
from flashbulb_server.supervisor.ports import free_ports
from flashbulb_server.supervisor.process import bound_to_this_process

READY_SECONDS = 30
STOP_SECONDS = 15


class RunningServer:
    """One server process. `restart` keeps ports and data; `kill` is kill -9."""

    def __init__(self, server: NatsServer | SeaweedServer, folder: Path) -> None:
        self._server = server
        self.folder = folder
        self._log = folder / f"{server.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> None:
        """Starts the process; `wait_ready` says when it answers."""
        assert self._process is None, "the server runs already"
        self._server.write_config()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_this_process(self._server.command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._server.data_dir,
                env=clean_environment(os.environ, self._server.data_dir),
                process_group=0,
            )

    async def wait_ready(self) -> None:
        try:
            await self._server.wait_ready(READY_SECONDS)
        except Exception as err:
            err.add_note(self._log.read_text(errors="replace")[-2000:])
            raise

    def start_and_wait(self) -> None:
        """`start` and `wait_ready` for callers without an event loop."""
        self.start()
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                asyncio.run(self.wait_ready())
            except BaseException as err:  # noqa: BLE001  # handed to the caller below
                failures.append(err)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        if failures:
            self.kill()
            raise failures[0]

    def kill(self) -> None:
        """kill -9, and waits until the process is gone. Does nothing when it is gone already."""
        self._stop(signal.SIGKILL)

    def terminate(self) -> None:
        """An orderly stop."""
        self._stop(signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        self._server.remove_leftovers()

    async def restart(self) -> None:
        """kill -9 if it still runs, then starts it again on the same ports and data, and waits until it answers."""
        self.kill()
        self.start()
        await self.wait_ready()


class RunningNats(RunningServer):
    """A nats-server with JetStream."""

    def __init__(self, folder: Path) -> None:
        self.token = "test-token"
        client_port, monitor_port = free_ports(2)
        server = NatsServer(folder / "nats", (client_port, monitor_port), self.token)
        self.url = server.url
        self.monitor_url = f"http://127.0.0.1:{monitor_port}"
        super().__init__(server, folder)


class RunningS3(RunningServer):
    """An S3 server."""

    def __init__(self, folder: Path) -> None:
        self.access_key = "test-access-key"
        self.secret_key = "test-secret-key-of-the-s3-server"
        server = SeaweedServer(
            folder / "files",
            free_ports(WEED_PORTS),
            self.access_key,
            self.secret_key,
            "test-jwt-key-of-32-characters-000",
        )
        self.endpoint = server.endpoint
        self.ports = server.ports
        super().__init__(server, folder)
