"""A real MinIO server for tests, when the variable MINIO_BIN names its binary."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import urllib3

from flashbulb_server.supervisor.embedded import ServerNotReady
from flashbulb_server.supervisor.ports import LOOPBACK, free_ports
from tests.embedded import RunningServer

MINIO_BIN = os.environ.get("MINIO_BIN", "")


class MinioServer:
    """Command line of MinIO, and what "it answers" means."""

    name = "minio"

    def __init__(self, data_dir: Path, *, access_key: str, secret_key: str) -> None:
        self.data_dir = data_dir
        self._keys = {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_UPDATE": "off"}
        self._ports = free_ports(2)
        self._binary = shutil.which(MINIO_BIN)
        assert self._binary, f"MINIO_BIN names no program: {MINIO_BIN}"
        self.endpoint = f"{LOOPBACK}:{self._ports[0]}"

    @property
    def command(self):
        port, console = self._ports
        environment = [f"{name}={value}" for name, value in self._keys.items()]
        addresses = ["--address", f"{LOOPBACK}:{port}", "--console-address", f"{LOOPBACK}:{console}"]
        return ("env", *environment, os.path.abspath(self._binary), "server", str(self.data_dir), *addresses)

    def write_config(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        pass

    async def wait_ready(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await asyncio.to_thread(self._answers):
                    await asyncio.sleep(0.05)
        except TimeoutError as err:
            raise ServerNotReady(f"{MINIO_BIN} did not answer within {seconds:g} s") from err

    def _answers(self) -> bool:
        with urllib3.PoolManager(timeout=2, retries=False) as pool:
            try:
                return pool.request("GET", f"http://{self.endpoint}/minio/health/ready").status < 500  # 503 until it is
            except (urllib3.exceptions.HTTPError, OSError):
                return False


class RunningMinio(RunningServer):
    """A MinIO server."""

    def __init__(self, folder: Path) -> None:
        self.access_key = "test-access-key"
        self.secret_key = "test-secret-key-of-the-s3-server"
        server = MinioServer(folder / "data", access_key=self.access_key, secret_key=self.secret_key)
        self.endpoint = server.endpoint
        super().__init__(server, folder)
