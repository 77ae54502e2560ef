"""What the command line shows: JSON for scripts on stdout, pictures as files, a progress bar on stderr where that is a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flashbulb._errors import (
    AuthenticationError,
    Busy,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    EndpointUnavailable,
    FlashbulbError,
    InvalidInput,
    NotFinished,
    NotFound,
    RequestCancelled,
    RequestExpired,
    Unavailable,
)
from flashbulb._inputs import Input
from flashbulb._results import Event, RequestStatus, Result, State, StatusChanged, Stepped

EXIT_CODES: Mapping[type[FlashbulbError], int] = {
    InvalidInput: 2,
    ConfigurationError: 2,
    Conflict: 2,
    AuthenticationError: 3,
    NotFound: 4,
    Unavailable: 5,
    Busy: 5,
    EndpointUnavailable: 5,
    NotFinished: 5,
    RequestCancelled: 6,
    RequestExpired: 6,
    DeadlineExceeded: 7,
    FlashbulbError: 1,
}
CANCELLED = 6


def exit_code(error: FlashbulbError) -> int:
    """The exit code of an error: that of its nearest class."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def jsonable(value: object) -> object:
    """A value of this package as JSON has it: times as ISO 8601, spans in seconds, no bytes, no fields that are None."""
    if isinstance(value, Input):
        return {"endpoint": value.endpoint} | _fields(value)
    if isinstance(value, Event):
        return {"event": type(value).__name__} | _fields(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, FlashbulbError):
        names = ("message", "code", "reason", "metadata", "retry_after", "violations")
        return {name: jsonable(getattr(value, name)) for name in names} | {"type": type(value).__name__}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def _fields(value: object) -> dict[str, object]:
    pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))  # type: ignore[arg-type]  # a dataclass
    return {name: jsonable(item) for name, item in pairs if item is not None and not isinstance(item, bytes)}


def show_json(value: object) -> None:
    """One line of JSON on stdout."""
    typer.echo(json.dumps(jsonable(value), ensure_ascii=False))


def show_error(error: FlashbulbError, as_json: bool) -> None:
    """Why it did not work: in words on stderr, and as JSON on stdout if that was asked for."""
    if as_json:
        show_json({"error": error})
    typer.echo(f"error: {error.message}", err=True)
    if isinstance(error, AuthenticationError):
        typer.echo("hint: set FLASHBULB_KEY to id:secret", err=True)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """An error of the body is shown and becomes an exit code."""
    try:
        yield
    except FlashbulbError as error:
        show_error(error, as_json)
        raise typer.Exit(exit_code(error)) from error
    except KeyboardInterrupt as error:
        typer.echo("cancelled", err=True)
        raise typer.Exit(CANCELLED) from error


def save(result: Result, output: Path | None) -> list[Path]:
    """Writes the pictures and answers with their paths.

    `output` is a file (with several pictures its stem gets `-0`, `-1` ...), a folder, or None for the current one; in a folder a file is
    named after the request. Folders are made where they are missing.
    """
    suffixes = [".png" if image.content_type == "image/png" else ".jpeg" for image in result.images]
    if output is None or output.is_dir() or not output.suffix:
        base = (output or Path()) / (result.request_id or f"flashbulb-{result.seed}")
    else:
        base = output.with_suffix("")
        suffixes = [output.suffix] * len(suffixes)
    base.parent.mkdir(parents=True, exist_ok=True)
    numbers = [""] if len(suffixes) == 1 else [f"-{index}" for index in range(len(suffixes))]
    names = [base.with_name(base.name + number + suffix) for number, suffix in zip(numbers, suffixes, strict=True)]
    return [image.save(name) for image, name in zip(result.images, names, strict=True)]


def show_result(result: Result, paths: list[Path], as_json: bool) -> None:
    """The pictures: paths, links, and what is needed to draw them again."""
    if result.stand_in_for:
        note = f"{result.stand_in_for} is not installed there: {result.model_name} drew instead, as a stand-in"
        typer.echo(f"note: {note}", err=True)
    if as_json:
        answer = jsonable(result)
        assert isinstance(answer, dict)
        images = [item | {"file": str(path)} for item, path in zip(answer["images"], paths, strict=True)]
        show_json(answer | {"images": images})
        return
    for image, path, flagged in zip(result.images, paths, result.has_nsfw_concepts, strict=True):
        note = "  flagged by the safety checker" if flagged else ""
        typer.echo(f"{path}  {image.width}x{image.height}  seed {image.seed}{note}")
        if image.url:
            typer.echo(f"  {image.url}")
    spent = "  ".join(f"{name} {seconds:.3f} s" for name, seconds in sorted(result.timings.items()))
    typer.echo("  ".join(part for part in (result.request_id, result.model_name, spent) if part))


def status_line(status: RequestStatus) -> str:
    """A request in a few words."""
    words = [status.state.lower()]
    if status.queue_position is not None:
        words.append(f"{status.queue_position} before it")
    if status.state is State.RUNNING and status.total_steps:
        words.append(f"step {status.step} of {status.total_steps}")
    if status.eta is not None:
        words.append(f"about {status.eta:.1f} s to go")
    if status.error is not None:
        words.append(status.error.message)
    if status.webhook is not None and status.state.terminal:
        words.append(f"webhook {status.webhook.state.replace('_', ' ')}")
    return ", ".join(words)


class ProgressBar:
    """The course of a request on stderr."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, event: Event) -> None:
        """Shows an event."""
        if isinstance(event, Stepped):
            self._progress.update(
                self._task,
                total=event.total_steps,
                completed=event.step,
                detail=f"step {event.step} of {event.total_steps}",
            )
        elif isinstance(event, StatusChanged):
            self._progress.update(self._task, detail=status_line(event.status))


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    """A bar for as long as the body lasts; nothing is written where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress, progress.add_task("", total=None, detail="submitting"))
