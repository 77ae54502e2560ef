"""What `serve` has to start: which servers are embedded, and the environment that points the roles at all of them.

Pure but for reading the folder: starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, SecretStr

from flashbulb_server.config import Settings
from flashbulb_server.supervisor.data_folder import DataFolder
from flashbulb_server.supervisor.embedded import EmbeddedServer, NatsServer, SeaweedServer


@dataclass(frozen=True, slots=True)
class Plan:
    """The servers to start before the roles, the `FLASHBULB_*` environment of the roles, and the development key if one was made now."""

    servers: tuple[EmbeddedServer, ...]
    role_environment: Mapping[str, str]
    development_key: str | None


def make_plan(settings: Settings, folder: DataFolder, runtime: Path) -> Plan:
    """An address that the user set, even to the default one, means a server that runs elsewhere; what is not set is embedded.

    `runtime` is a folder with a short path, for the worker's socket.
    """
    secrets, ports = folder.secrets(), folder.ports()
    servers: list[EmbeddedServer] = []
    environment = settings_as_environment(settings)
    if "url" not in settings.nats.model_fields_set:
        nats = NatsServer(folder.path / "nats", ports.nats, secrets.nats_token)
        servers.append(nats)
        environment |= {"FLASHBULB_NATS__URL": nats.url, "FLASHBULB_NATS__TOKEN": nats.token}
    if "endpoint" not in settings.files.model_fields_set:
        files = SeaweedServer(
            folder.path / "files", ports.files, secrets.s3_access_key, secrets.s3_secret_key, secrets.jwt_key
        )
        servers.append(files)
        environment |= {
            "FLASHBULB_FILES__ENDPOINT": files.endpoint,
            "FLASHBULB_FILES__ACCESS_KEY": files.access_key,
            "FLASHBULB_FILES__SECRET_KEY": files.secret_key,
            "FLASHBULB_FILES__SECURE": "false",
        }
    for variable, listen, own in (
        ("FLASHBULB_API__LISTEN", settings.api.listen, ports.api),
        ("FLASHBULB_HTTP__LISTEN", settings.http.listen, ports.http),
    ):
        host, colon, port = listen.rpartition(":")
        if colon and port == "0":  # chosen here, so that a restarted api is found where it was
            environment[variable] = f"{host}:{own}"
    if "listen" not in settings.worker.model_fields_set:
        environment["FLASHBULB_WORKER__LISTEN"] = f"unix:{runtime / 'worker.sock'}"
    if "cache_dir" not in settings.worker.model_fields_set:
        environment["FLASHBULB_WORKER__CACHE_DIR"] = str(folder.path / "cache")
    development_key = None
    if not settings.api.keys.get_secret_value() and settings.api.keys_file is None:
        development_key = folder.make_development_key()
        environment["FLASHBULB_API__KEYS_FILE"] = str(folder.keys_file)
    return Plan(tuple(servers), environment, development_key)


def settings_as_environment(settings: Settings) -> dict[str, str]:
    """The variables that make a child's settings equal `settings`: those that differ from the defaults or were set."""
    environment = {}
    for part_name in type(settings).model_fields:
        part = getattr(settings, part_name)
        assert isinstance(part, BaseModel)
        for name in part.model_fields_set:
            value = getattr(part, name)
            if value is not None:
                environment[f"FLASHBULB_{part_name}__{name}".upper()] = _as_text(value)
    return environment


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return json.dumps(dict(value), default=str)
    if isinstance(value, tuple):
        return json.dumps(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)
