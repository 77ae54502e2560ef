"""The settings of a command, and its end when they are bad: one line a problem on standard error, and exit status 2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from flashbulb_server import config
from flashbulb_server.config import Settings
from flashbulb_server.errors import Misconfigured

BAD_CONFIGURATION = 2


def settings(flags: Mapping[str, Mapping[str, str]] | None = None) -> Settings:
    """The settings, with the flags over them. Bad ones end the process, all of them listed."""
    with refusing():
        return config.load(flags)


@contextmanager
def refusing(problems_file: Path | None = None) -> Iterator[None]:
    """Ends the process where settings are refused inside. `problems_file`: where to write why, as a list in JSON, instead of saying it."""
    try:
        yield
    except Misconfigured as err:
        if problems_file is None:
            refuse(err.problems, err)
        problems_file.write_text(json.dumps(err.problems))
        raise typer.Exit(BAD_CONFIGURATION) from err


def refuse(problems: Sequence[str], cause: Exception | None = None) -> NoReturn:
    """Tells the problems and ends the process."""
    for problem in problems:
        typer.echo(f"flashbulb-server: {problem}", err=True)
    raise typer.Exit(BAD_CONFIGURATION) from cause
