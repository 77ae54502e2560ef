"""`flashbulb-server`: the whole service on one host (`serve`), its two roles apart (`api`, `worker`), its keys (`keys`, `webhook-keys`), and
its configuration (`config`).

Reads the configuration, sets up the logs and hands over. A role is imported by its own command only: `api` never imports torch.
"""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, SecretStr

from flashbulb_server import config
from flashbulb_server.cli_keys import app as keys_app
from flashbulb_server.cli_settings import BAD_CONFIGURATION, refuse, refusing, settings
from flashbulb_server.config import Settings
from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.observability import logs

app = typer.Typer(name="flashbulb-server", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(keys_app, name="keys")

_ReadyFile = Annotated[
    Path | None,
    typer.Option(help="Where to write `{address, http_address, pid}` as JSON once the role serves.", dir_okay=False),
]
_ProblemsFile = Annotated[
    Path | None,
    typer.Option(
        help="Where to write, as JSON, why the settings are refused, instead of saying it.", hidden=True, dir_okay=False
    ),
]
_ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]


def main() -> None:
    """The command `flashbulb-server`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flashbulb-server {version('flashbulb-server')}")
        raise typer.Exit


@app.callback()
def options(
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file of settings; the environment goes over it.", exists=True, dir_okay=False
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Prints the version and ends.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Flashbulb: a self-hosted gRPC service for real-time, few-step image generation."""
    if config_file is not None:
        config.use_file(config_file)


@app.command()
def serve(
    data_dir: Annotated[
        Path, typer.Option(help="Folder of everything that is kept: queue, files, keys, logs.", file_okay=False)
    ] = Path("data"),
    listen: Annotated[str | None, typer.Option(help="`host:port` of the gRPC server, over `api.listen`.")] = None,
    http_listen: Annotated[
        str | None, typer.Option(help="`host:port` of the HTTP gateway, over `http.listen`; empty turns it off.")
    ] = None,
) -> None:
    """Runs the whole service on this host: NATS, an S3 server, one api and one worker.

    NATS and the S3 server are started unless their addresses are set (FLASHBULB_NATS__URL, FLASHBULB_FILES__ENDPOINT).
    """
    flags = {part: {"listen": text} for part, text in (("api", listen), ("http", http_listen)) if text is not None}
    found = settings(flags)
    logs.set_up(found.log, role="serve")
    from flashbulb_server.supervisor.binary import ServerBinaryMissing
    from flashbulb_server.supervisor.data_folder import DataFolder, FolderInUse
    from flashbulb_server.supervisor.service import Service

    async def run() -> int:
        return await Service(found, DataFolder(data_dir), announce=typer.echo).run()

    try:
        with refusing():
            raise typer.Exit(asyncio.run(run()))
    except (FolderInUse, ServerBinaryMissing, OSError) as err:
        typer.echo(f"flashbulb-server: {err}", err=True)
        raise typer.Exit(1) from err


@app.command()
def api(
    ready_file: _ReadyFile = None, problems_file: _ProblemsFile = None, exit_with_parent: _ExitWithParent = False
) -> None:
    """Runs the api role: takes calls. Many may run; none imports torch."""
    with refusing(problems_file):
        found = _role_settings("api", exit_with_parent)
        from flashbulb_server.app.api import run_api

        raise typer.Exit(run_api(found, ready_file))


@app.command()
def worker(
    ready_file: _ReadyFile = None, problems_file: _ProblemsFile = None, exit_with_parent: _ExitWithParent = False
) -> None:
    """Runs the worker role: draws. One for each accelerator."""
    with refusing(problems_file):
        found = _role_settings("worker", exit_with_parent)
        from flashbulb_server.app.worker import run_worker

        raise typer.Exit(run_worker(found, ready_file))


@app.command()
def health(
    address: Annotated[str | None, typer.Option(help="`host:port` to ask; by default the api's own.")] = None,
) -> None:
    """Ends with status 0 if an api serves, with 1 otherwise. For health checks of containers."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    own = settings().api
    target = address or own.listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    if own.tls_certificate:
        typer.echo("health: a port with TLS is checked by connecting to it, not by this command", err=True)
        raise typer.Exit(BAD_CONFIGURATION)
    with grpc.insecure_channel(target) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError as err:
            typer.echo(f"health: {target} does not answer", err=True)
            raise typer.Exit(1) from err
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(status)
    raise typer.Exit(0 if status == "SERVING" else 1)


@app.command("webhook-keys")
def webhook_keys(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Adds a key now that signs in a day, when receivers know it.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Replaces all keys at once, as they are no longer secret.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of a service that `serve` runs, whose NATS is used.", file_okay=False)
    ] = None,
) -> None:
    """Lists the keys that webhooks are signed with, and renews them."""
    found = settings()
    if found.webhooks.signing_keys_file is not None:
        refuse(["FLASHBULB_WEBHOOKS__SIGNING_KEYS_FILE is set: that file is where the keys are renewed"])
    nats = found.nats
    if data_dir is not None:
        from flashbulb_server.supervisor.data_folder import DataFolder

        embedded = DataFolder(data_dir).nats()
        if embedded is None:
            refuse([f"{data_dir} is not the folder of a service that has run"])
        nats = nats.model_copy(update={"url": embedded[0], "token": SecretStr(embedded[1])})
    from flashbulb_server.api.webhooks.signing import KeyChange
    from flashbulb_server.app.api import signing_keys

    wanted = KeyChange.REVOKE if revoke else KeyChange.ROTATE if rotate else KeyChange.NONE
    try:
        lines = signing_keys(nats, wanted)
    except StoreUnavailable as err:
        typer.echo("flashbulb-server: NATS does not answer, or no api has run with it yet", err=True)
        raise typer.Exit(1) from err
    for line in lines:
        typer.echo(line)


@app.command("config")
def show_config(
    markdown: Annotated[bool, typer.Option("--markdown", help="Prints the table of all settings instead.")] = False,
) -> None:
    """Prints the settings as they stand, as JSON; secrets are masked."""
    if markdown:
        typer.echo(settings_table())
    else:
        typer.echo(json.dumps(settings().model_dump(mode="json"), indent=2))


def settings_table() -> str:
    """Every setting with its variable, default and meaning, as a Markdown table."""
    rows = [f"| `{config.CONFIG_FILE_VARIABLE}` | | TOML file of settings; the variables below go over it. |"]
    for part_name, part_field in Settings.model_fields.items():
        part = part_field.annotation
        assert isinstance(part, type) and issubclass(part, BaseModel)
        for name, field in part.model_fields.items():
            default = _default_text(field.get_default(call_default_factory=True))
            meaning = (field.description or "").replace("|", "\\|")
            rows.append(f"| `FLASHBULB_{part_name.upper()}__{name.upper()}` | {default} | {meaning} |")
    return "\n".join(("| variable | default | meaning |", "| --- | --- | --- |", *rows))


def _default_text(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "" or value == {}:
        return ""
    return f"`{json.dumps(value) if isinstance(value, bool | tuple) else value}`"


def _role_settings(role: str, exit_with_parent: bool) -> Settings:
    found = config.load()
    logs.set_up(found.log, role=role)
    if exit_with_parent:
        from flashbulb_server.supervisor import process

        process.exit_with_parent()
    return found


if __name__ == "__main__":
    main()
