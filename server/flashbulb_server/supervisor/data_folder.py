"""The folder of a one-host service: its locks, secrets, ports, development key, and what it says of the running service.

service.lock   held by the supervisor
servers.lock   held by the supervisor and by all that it started, until the last of them is gone
secrets.json   passwords of the embedded servers, made at the first start
ports.json     their ports and the api's two, so that links made yesterday work today
keys.json      keys of callers: id to SHA-256 of the secret
service.json   address and process ids, while the service runs
cache          what the worker has compiled; may be thrown away
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flashbulb_server.supervisor.embedded import WEED_PORTS
from flashbulb_server.supervisor.keys_file import KeysFile
from flashbulb_server.supervisor.ports import free_ports, taken_ports
from flashbulb_server.supervisor.private_file import write_private

_LOCK_POLL_SECONDS = 0.05


class FolderInUse(Exception):
    """Another service works in the data folder."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Passwords of the embedded servers."""

    nats_token: str
    s3_access_key: str
    s3_secret_key: str
    jwt_key: str


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the embedded servers, and the api's two for when it may choose."""

    nats: tuple[int, int]
    files: tuple[int, ...]
    api: int
    http: int


class DataFolder:
    """Everything that a one-host service keeps, in one folder. Made if it is missing, for the owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def locked(self, wait_seconds: float = 20) -> Iterator[int]:
        """Holds the folder. Gives the descriptor of servers.lock, which children inherit.

        nats-server has no lock of its own, and two on one folder destroy it. After a `kill -9` the old children may need a moment to end, and
        have their ports as long: theirs is waited for, up to `wait_seconds`.

        Raises:
            FolderInUse: another service works here.
        """
        with (self.path / "service.lock").open("a+") as service, (self.path / "servers.lock").open("a+") as servers:
            if not _try_lock(service.fileno()):
                service.seek(0)
                raise FolderInUse(f"{self.path} is in use by another flashbulb-server (pid {service.read().strip()})")
            service.truncate(0)
            service.write(str(os.getpid()))
            service.flush()
            deadline = time.monotonic() + wait_seconds
            while not _try_lock(servers.fileno()):
                if time.monotonic() > deadline:
                    raise FolderInUse(f"servers of an earlier flashbulb-server still run in {self.path}")
                time.sleep(_LOCK_POLL_SECONDS)
            yield servers.fileno()

    def secrets(self) -> Secrets:
        """The passwords, made at the first call."""
        path = self.path / "secrets.json"
        if not path.exists():
            made = Secrets(*(secrets.token_urlsafe(32) for _ in range(4)))
            write_private(path, json.dumps(asdict(made)))
        return Secrets(**json.loads(path.read_text()))

    def ports(self) -> Ports:
        """The ports of the last time, as far as they are free; new ones otherwise. To be called before anything listens."""
        path = self.path / "ports.json"
        known = _known_ports(path)
        if known is not None and not taken_ports((*known.nats, *known.files, known.api, known.http)):
            return known
        first, second, api, http, *more = free_ports(4 + WEED_PORTS)
        ports = Ports(nats=(first, second), files=tuple(more), api=api, http=http)
        write_private(path, json.dumps(asdict(ports)))
        return ports

    def nats(self) -> tuple[str, str] | None:
        """Address and token of the embedded nats-server, for commands beside a running service. None if it was never started."""
        try:
            port = json.loads((self.path / "ports.json").read_text())["nats"][0]
        except FileNotFoundError:
            return None
        return f"nats://127.0.0.1:{port}", self.secrets().nats_token

    @property
    def keys_file(self) -> Path:
        """JSON of callers' keys: id to SHA-256 of the secret, in hex."""
        return self.path / "keys.json"

    def make_development_key(self) -> str | None:
        """A new key `dev:<secret>`, or None when there are keys already. Only its hash is kept: it cannot be shown again."""
        return KeysFile(self.keys_file).make_first("dev")

    def log(self, name: str) -> Path:
        """Where the output of server `name` goes."""
        return self.path / "logs" / f"{name}.log"

    @property
    def service_file(self) -> Path:
        """Says where the service is, while it runs."""
        return self.path / "service.json"


def _known_ports(path: Path) -> Ports | None:
    """Those of the last time. None if there was none, and for a file that is no longer whole or is of another release."""
    try:
        known = json.loads(path.read_text())
        ports = Ports(nats=tuple(known["nats"]), files=tuple(known["files"]), api=known["api"], http=known["http"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ports if len(ports.files) == WEED_PORTS else None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
