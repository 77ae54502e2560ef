"""All configuration, read once at start: defaults, then a TOML file, then the environment (`FLASHBULB_*`), then flags.

The only module that reads the environment. A part of the settings is a frozen model; every field says its unit and why its default is
what it is. `FLASHBULB_QUEUE__MAX_REQUESTS=500` sets `queue.max_requests`. All problems are reported together at start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.errors import Misconfigured
from flashbulb_server.setting_types import Device, HostAndPort, OptionalHostAndPort, SocketAddress, refused
from flashbulb_server.settings_source import ConfigFile, Environment, described, unknown_variable

CONFIG_FILE_VARIABLE = "FLASHBULB_CONFIG"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(_Part):
    """The queue and its records: a NATS server with JetStream."""

    url: str = Field("nats://127.0.0.1:4222", description="Address of the NATS server, or several separated by commas.")
    token: SecretStr | None = Field(None, description="Token of the NATS server, if it asks for one.")
    replicas: int = Field(1, ge=1, le=5, description="Copies of every stream; 3 on a NATS cluster.")


class FilesSettings(_Part):
    """The store of files: MinIO or any other S3 server."""

    endpoint: str = Field("127.0.0.1:9000", description="`host:port` of the S3 server, as the service reaches it.")
    public_url: str = Field(
        "",
        description="`http(s)://host:port` of the S3 server as callers reach it; links are made with it. Default: `endpoint`.",
    )
    access_key: str = Field("minioadmin", description="Access key; the default is MinIO's own.")
    secret_key: SecretStr = Field(SecretStr("minioadmin"), description="Secret key; the default is MinIO's own.")
    secure: bool = Field(False, description="Whether `endpoint` speaks TLS.")
    region: str = Field(
        "us-east-1", description="Region; must be set so that links are made without asking the server."
    )
    bucket: str = Field("flashbulb", min_length=3, description="Bucket of all files; made at start if it is missing.")
    url_seconds: float = Field(
        3600, ge=1, le=604_800, description="Seconds that a link works; S3 allows 7 days at most."
    )
    sweep_seconds: float = Field(300, gt=0, description="Seconds between sweeps for expired files.")


class ApiSettings(_Part):
    """The api role."""

    listen: HostAndPort = Field(
        "127.0.0.1:50051", description="`host:port` of the gRPC server; port 0 takes a free one."
    )
    keys: SecretStr = Field(SecretStr(""), description="Keys that may call, `id:secret` separated by commas.")
    keys_file: Path | None = Field(
        None,
        description="JSON file of keys, `{id: sha256 of the secret in hex}`, beside `keys`; changes of it are taken over within seconds. "
        "`flashbulb-server keys` makes, lists and revokes them.",
    )
    max_receive_bytes: int = Field(
        16 * 1024 * 1024,
        ge=65_536,
        description="Largest message taken, in bytes: an inline picture of 10 MiB fits, larger files are uploaded.",
    )
    max_calls: int = Field(
        2000,
        ge=1,
        description="Calls over gRPC served at once; more are refused with RESOURCE_EXHAUSTED. Those without a key take no place.",
    )
    first_message_seconds: float = Field(
        60,
        gt=0,
        description="Seconds in which the first message of a call over gRPC must be here; the largest comes in time at 2.3 Mbit/s.",
    )
    max_connection_age_seconds: float = Field(
        300,
        ge=0,
        description="Seconds after which a gRPC connection takes no new calls, so that callers come to new replicas too; open streams go on for "
        "an hour. 0: never.",
    )
    drain_seconds: float = Field(20, ge=0, description="Seconds that calls may go on after SIGTERM.")
    token_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret that short-lived tokens are signed with, 32 characters or more; the same on every api. Default: a "
        "random one, so that tokens end with the process that made them.",
    )
    sessions_per_key: int = Field(32, ge=1, description="Realtime sessions that one key may have at once.")
    session_idle_seconds: float = Field(
        60, gt=0, description="Seconds without a frame after which a realtime session is closed."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain; with `tls_key`, the port speaks TLS."
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key.")

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise refused("FLASHBULB_API__TLS_CERTIFICATE and FLASHBULB_API__TLS_KEY need each other")
        return self


class HttpSettings(_Part):
    """The HTTP and WebSocket gateway of the api role, for fal's clients."""

    listen: OptionalHostAndPort = Field(
        "127.0.0.1:8080", description="`host:port` of the gateway; port 0 takes a free one, empty turns it off."
    )
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="Address of the gateway as callers reach it; links in answers begin with it. Default: what the call itself says "
        "(`X-Forwarded-*`, `Host`).",
    )
    max_body_bytes: int = Field(
        20 * 1024 * 1024,
        ge=65_536,
        description="Largest body of a call, in bytes; a data URI of a picture of 10 MiB fits. Uploads have limits of their own.",
    )
    proxy_key_id: str = Field(
        "",
        description="Id of the key that calls through `/api/fal/proxy` act as when they bring none. Default: they need one of their own.",
    )
    allowed_origins: tuple[str, ...] = Field(
        ("*",),
        description="Origins of web pages that may call, as JSON in the environment; `*` is any, since calls need a key; with `proxy_key_id` "
        "name your own, or any page that somebody opens can call at that key's expense.",
    )


class QueueSettings(_Part):
    """The durable queue."""

    max_requests: int = Field(
        10_000, ge=1, description="Requests that may wait or run; more are refused with RESOURCE_EXHAUSTED."
    )
    lease_seconds: float = Field(
        10, ge=0.5, description="Seconds without a sign of life after which a worker's request goes to another one."
    )
    max_attempts: int = Field(3, ge=1, description="Workers that may be lost over a request before it is FAILED.")
    start_timeout_seconds: float = Field(
        3600, gt=0, description="Default seconds in the queue before a request is EXPIRED."
    )
    keep_seconds: float = Field(86_400, ge=60, description="Seconds that a finished request and its pictures are kept.")
    idempotency_seconds: float = Field(86_400, ge=60, description="Seconds that an idempotency key is remembered.")
    janitor_seconds: float = Field(15, gt=0, description="Seconds between searches for expired and orphaned requests.")


class ModelsSettings(_Part):
    """What the api says that there is, beside what workers announce."""

    declared: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Models whose requests are queued before any worker has come, so that workers can be scaled up from zero: name to its "
        "endpoints, as JSON in the environment; an empty list stands for those of `fast-lcm-diffusion`.",
    )
    stand_in: bool = Field(
        True,
        description="Whether the embedded model answers for the models that the hosted endpoints name, on a service where none is declared; "
        "results say what drew them.",
    )

    @field_validator("declared")
    @classmethod
    def _known_endpoints(cls, declared: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for name, endpoints in declared.items():
            if unknown := [endpoint for endpoint in endpoints if endpoint not in ENDPOINTS]:
                raise ValueError(f"{name}: no such endpoint: {', '.join(unknown)}; known: {', '.join(ENDPOINTS)}")
        return declared


class WorkerSettings(_Part):
    """The worker role: one process, one accelerator."""

    listen: SocketAddress = Field(
        "127.0.0.1:0",
        description="Where it listens for the api: `unix:<path>` on one host, `host:port` in a cluster.",
    )
    advertise: str = Field("", description="Address told to the api, when it is not the one listened on.")
    worker_class: str = Field("default", pattern=r"^[a-z0-9-]{1,32}$", description="Which queue it takes from.")
    capacity: int = Field(
        8, ge=1, le=256, description="Pictures in flight at once; more only cost memory once the accelerator is full."
    )
    realtime_share: float = Field(
        0.8,
        ge=0.05,
        le=0.95,
        description="Share of the device's time kept for frames of live sessions while there are any; direct calls and the queue get "
        "at least the rest. At 0.8 a full queue makes frames about a quarter slower.",
    )
    key_weights: Mapping[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=dict,
        description="Shares of the device by id of key, as JSON in the environment; a key that is not named has 1.0.",
    )
    embedded_model: bool = Field(True, description="Whether to load the embedded model `flashbulb/tiny`.")
    models: Mapping[str, Path] = Field(
        default_factory=dict,
        description="Further models: name to a folder in diffusers layout, as JSON in the environment.",
    )
    safety_checkers: Mapping[Literal["v1", "v2"], Path] = Field(
        default_factory=dict, description="Installed safety checkers: version to a folder in transformers layout."
    )
    device: Device = Field(
        "auto", description="torch device: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes an accelerator if there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type that the networks compute in; `auto` is float32 on a CPU and float16 on CUDA."
    )
    backend: Literal["auto", "eager", "openvino", "compile"] = Field(
        "auto",
        description="What runs the networks: torch (`eager`), OpenVINO on a CPU, or torch.compile, which needs a C++ compiler and minutes "
        "at start and on CUDA records a graph for every batch size; `auto` takes OpenVINO on a CPU where it is installed, and torch elsewhere.",
    )
    quantize: Literal["none", "w8a8"] = Field(
        "none",
        description="8-bit numbers in the UNet, on OpenVINO with NNCF installed: faster on processors that multiply bytes, less exact, and "
        "stated as APPROX in every result.",
    )
    tiny_decoders: Mapping[str, Path] = Field(
        default_factory=dict,
        description="Tiny autoencoders that decode in place of a model's own, faster and less exactly: model name to a folder in diffusers "
        "layout.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the networks; 0 takes all cores.")
    cache_dir: Path | None = Field(
        None,
        description="Folder for networks that OpenVINO has compiled, so that a worker that starts again is ready in a third of the time; "
        "several workers may share it. Takes about ten times the bytes of a small model's weights, once those of a large one's. Default: `cache` "
        "in the data folder of `serve`, else `flashbulb` in the user's folder of caches (`XDG_CACHE_HOME` or `~/.cache`).",
    )
    spare: bool = Field(
        False,
        description="Whether a process that has imported everything stands by, from which the next worker is forked if this one dies: it is "
        "back within a second instead of three. Takes about 100 MB, on Linux alone.",
    )
    allow_private_urls: bool = Field(
        False,
        description="Whether callers may name input pictures by URLs on private addresses; off, as it lets them look into your network.",
    )
    drain_seconds: float = Field(20, ge=0, description="Seconds that drawings may go on after SIGTERM.")


class WebhookSettings(_Part):
    """Webhooks, which the api role delivers."""

    allow_private_targets: bool = Field(
        False,
        description="Whether webhooks may go to private addresses; off, as it lets callers post into your network.",
    )
    retry_seconds: tuple[Annotated[float, Field(gt=0, le=86_400)], ...] = Field(
        (5, 15, 45, 120, 300, 600, 1200, 1800, 3000),
        max_length=31,
        description="Seconds before each further attempt, as JSON in the environment, each a tenth longer or shorter by chance. The default "
        "makes 10 attempts in about 2 hours.",
    )
    first_timeout_seconds: float = Field(15, gt=0, le=600, description="Seconds that a receiver may take at first.")
    retry_timeout_seconds: float = Field(
        120, gt=0, le=600, description="Seconds that a receiver may take at later attempts."
    )
    concurrency: int = Field(256, ge=1, le=1000, description="Deliveries at once, of each api.")
    concurrency_per_target: int = Field(
        8,
        ge=1,
        le=1000,
        description="Deliveries at once to one `host:port`, of each api, so that a slow one does not hold up the others.",
    )
    max_waiting: int = Field(
        100_000,
        ge=1,
        description="Webhooks that may wait in the queue; those of further requests are queued once there is room.",
    )
    lease_seconds: float = Field(
        30, ge=0.5, description="Seconds without a sign of life after which an api's delivery is another one's."
    )
    signing_keys_file: Path | None = Field(
        None,
        description="PEM file of private Ed25519 keys: the first signs, the others are published as well. Default: keys that the service "
        "makes, keeps in NATS and replaces by itself.",
    )
    rotate_days: float = Field(
        90,
        ge=0,
        description="Days that a key of the service's own signs before the next one does; 0 keeps it for ever.",
    )


class LogSettings(_Part):
    """Logs, to standard error. Prompts and pictures are never logged."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is written.")
    format: Literal["json", "text"] = Field("json", description="`json` for machines, `text` for people.")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix="FLASHBULB_", env_nested_delimiter="__", frozen=True, extra="forbid")

    nats: NatsSettings = NatsSettings()
    files: FilesSettings = FilesSettings()
    api: ApiSettings = ApiSettings()
    http: HttpSettings = HttpSettings()
    queue: QueueSettings = QueueSettings()
    models: ModelsSettings = ModelsSettings()
    worker: WorkerSettings = WorkerSettings()
    webhooks: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file."""
        sources = (init_settings, Environment(settings_cls))
        path = os.environ.get(CONFIG_FILE_VARIABLE)
        return (*sources, ConfigFile(settings_cls, Path(path), CONFIG_FILE_VARIABLE)) if path else sources


def load(flags: Mapping[str, Mapping[str, str]] | None = None) -> Settings:
    """The settings of this process, with `flags` over them, by part and name. Raises Misconfigured with everything that is wrong."""
    parts = Settings.model_fields
    problems = [unknown_variable(name, parts) for name in Environment(Settings).unknown()]
    try:
        settings = Settings.model_validate(flags or {})
    except ValidationError as err:
        known = {name: _names(field.annotation) for name, field in parts.items()}
        raise Misconfigured(*problems, *(described(problem, known) for problem in err.errors())) from err
    if problems:
        raise Misconfigured(*problems)
    return settings


def _names(part: object) -> Mapping[str, object]:
    assert isinstance(part, type) and issubclass(part, BaseModel)
    return part.model_fields


def user_cache() -> Path | None:
    """The user's folder for what can be made again, as of the XDG base directory specification. None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "flashbulb"
    except RuntimeError:
        return None


def environment() -> dict[str, str]:
    """A copy of the environment, to start child processes with."""
    return dict(os.environ)


def use_file(path: Path) -> None:
    """Makes `path` the configuration file of this process and of its children."""
    os.environ[CONFIG_FILE_VARIABLE] = str(path.absolute())
