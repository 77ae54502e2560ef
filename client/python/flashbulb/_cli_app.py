"""The commands. Each reads its options, calls the client, and shows the answer; no logic is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flashbulb._cli_live import live
from flashbulb._cli_options import Picture, drawing
from flashbulb._cli_output import (
    progress_bar,
    reporting,
    save,
    show_json,
    show_result,
    status_line,
)
from flashbulb._results import Logged, Result, StatusChanged, Stepped
from flashbulb._sync import Client

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 the request failed; 2 bad input or usage; 3 the key; 4 not found; 5 unavailable or busy; "
    "6 cancelled (Ctrl-C too) or expired; 7 out of time.",
    help="Draws pictures with a Flashbulb server. FLASHBULB_HOST and FLASHBULB_KEY say which, and who asks.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE|FOLDER", help="Where to save; default: the current folder.", show_default=False
    ),
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds to wait for the pictures; default: no limit.", show_default=False)
]
Priority = Annotated[str | None, typer.Option(help="normal or low.", show_default=False)]
StartTimeout = Annotated[
    float | None, typer.Option(help="Seconds in the queue before it expires; default: 3600.", show_default=False)
]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="Id of the request.", show_default=False)]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("flashbulb"))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="host:port or https://host [FLASHBULB_HOST]", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="id:secret; others can see it here [FLASHBULB_KEY]", show_default=False)
    ] = None,
    retry_seconds: Annotated[float, typer.Option(help="How long to try again when the server is busy or gone.")] = 15.0,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keeps the server's address for the command."""
    context.obj = {"host": host, "key": key, "timeout": retry_seconds}


@app.command()
@drawing()
def generate(
    context: typer.Context,
    picture: Picture,
    output: Output = None,
    direct: Annotated[bool, typer.Option("--direct", help="Skip the queue.")] = False,
    timeout: Timeout = None,
    priority: Priority = None,
    start_timeout: StartTimeout = None,
    json: Json = False,
) -> None:
    """Draws pictures and saves them. Ctrl-C cancels the request."""
    with _client(context, json) as client, progress_bar() as bar:
        if direct:
            result: Result | None = None
            for item in client.generate_stream(picture.endpoint, timeout=timeout, **picture.fields):
                if isinstance(item, Result):
                    result = item
                else:
                    bar.update(item)
            assert result is not None
        else:
            result = client.subscribe(
                picture.endpoint,
                on_update=bar.update,
                timeout=timeout,
                priority=priority,
                start_timeout=start_timeout,
                **picture.fields,
            )
        paths = save(result, output)
    show_result(result, paths, json)


@app.command()
@drawing()
def submit(
    context: typer.Context,
    picture: Picture,
    priority: Priority = None,
    start_timeout: StartTimeout = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and input give the same request.", show_default=False)
    ] = None,
    webhook: Annotated[
        str, typer.Option(metavar="URL", help="Where the outcome is posted to when it has ended.", show_default=False)
    ] = "",
    json: Json = False,
) -> None:
    """Puts a request into the queue and prints its id."""
    with _client(context, json) as client:
        handle = client.submit(
            picture.endpoint,
            idempotency_key=idempotency_key,
            priority=priority,
            start_timeout=start_timeout,
            webhook_url=webhook,
            **picture.fields,
        )
    if json:
        show_json({"request_id": handle.request_id, "deduplicated": handle.deduplicated, "status": handle.submitted})
    else:
        typer.echo(handle.request_id)


@app.command()
def status(
    context: typer.Context,
    request_id: RequestId,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end, one line an event.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Show its log too.")] = False,
    json: Json = False,
) -> None:
    """Shows where a request is."""
    with _client(context, json) as client:
        if not watch:
            now = client.status(request_id, logs)
            if json:
                show_json(now)
                return
            for line in now.logs:
                typer.echo(f"{line.level}: {line.message}")
            typer.echo(status_line(now))
            return
        for event in client.watch(request_id, logs=logs):
            if json:
                show_json(event)
            elif isinstance(event, StatusChanged):
                typer.echo(status_line(event.status))
            elif isinstance(event, Stepped):
                typer.echo(f"step {event.step} of {event.total_steps}")
            elif isinstance(event, Logged):
                typer.echo(f"{event.line.level}: {event.line.message}")


@app.command()
def result(
    context: typer.Context,
    request_id: RequestId,
    output: Output = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait for its end.")] = True,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Saves the pictures of a request."""
    with _client(context, json) as client:
        pictures = client.result(request_id, wait, timeout=timeout)
        paths = save(pictures, output)
    show_result(pictures, paths, json)


@app.command()
def cancel(context: typer.Context, request_id: RequestId, json: Json = False) -> None:
    """Cancels a request, whatever its state."""
    with _client(context, json) as client:
        receipt = client.cancel(request_id)
    if json:
        show_json(receipt)
    elif receipt.previous_state.terminal:
        typer.echo(f"it was {receipt.previous_state.lower()} already")
    else:
        typer.echo(
            f"was {receipt.previous_state.lower()}; stopped at step {receipt.stopped_at_step}, "
            f"{receipt.saved_steps} steps saved"
        )


@app.command()
def redeliver(context: typer.Context, request_id: RequestId, json: Json = False) -> None:
    """Has the webhook of a request sent again."""
    with _client(context, json) as client:
        renewed = client.redeliver_webhook(request_id)
    if json:
        show_json(renewed)
    else:
        typer.echo(status_line(renewed))


@app.command("list")
def list_requests(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only this state; repeatable.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="Requests to show.")] = 50,
    json: Json = False,
) -> None:
    """Lists your requests, newest first."""
    with _client(context, json) as client:
        found = []
        for item in client.list(state, page_size=min(limit, 200)):
            found.append(item)
            if len(found) == limit:
                break
    if json:
        show_json(found)
        return
    rows = [(r.request_id, r.endpoint, r.model_name, status_line(r)) for r in found]
    _table(("request", "endpoint", "model", "state"), rows)


@app.command()
def upload(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to store.", show_default=False)],
    content_type: Annotated[
        str | None, typer.Option(help="Media type; default: told by its bytes.", show_default=False)
    ] = None,
    lifetime: Annotated[
        float | None, typer.Option(help="Seconds to keep it; default: 7 days.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Stores a file for inputs and prints its URI."""
    with _client(context, json) as client:
        stored = client.upload(file, content_type=content_type, lifetime=lifetime)
    if json:
        show_json(stored)
    else:
        typer.echo(f"{stored.uri}\n  {stored.url}")


@app.command()
def models(
    context: typer.Context,
    endpoint: Annotated[str, typer.Option(help="Only those that run it.", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Lists the installed models."""
    with _client(context, json) as client:
        found = client.models(endpoint)
    if json:
        show_json(found)
        return
    rows = [
        (m.name, ", ".join(m.endpoints), f"{m.native_size}", m.fidelity, f"{m.live_workers}", m.backend) for m in found
    ]
    _table(("model", "endpoints", "native size", "fidelity", "workers", "backend"), rows)


app.command()(live)


@contextmanager
def _client(context: typer.Context, as_json: bool) -> Iterator[Client]:
    """A client; an error is shown and becomes an exit code."""
    with reporting(as_json), Client(**context.obj) as client:
        yield client


def _table(columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as it must be where stdout is no terminal."""
    console = Console()
    if not console.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table)
