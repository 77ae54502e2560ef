"""`flashbulb-server keys`: makes, lists and revokes the keys of callers, in the file where a service has them.

Only hashes are kept there, so a lost key cannot be shown again; `create --replace` makes another one of its id, to which everything that it
owns belongs. A service that runs takes the change over within seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flashbulb_server.api.keys import FOLLOW_SECONDS, digest, keys_of
from flashbulb_server.cli_settings import refuse, refusing, settings
from flashbulb_server.supervisor.keys_file import KeysFile, new_secret

app = typer.Typer(help="Makes, lists and revokes the keys of callers.", no_args_is_help=True)

_DEFAULT_FOLDER = Path("data")
_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, 1 to 64 of A-Z a-z 0-9 _ -")]
_DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a service that `serve` runs; by default `data`, or the file that FLASHBULB_API__KEYS_FILE names.",
        file_okay=False,
    ),
]


@app.command()
def create(
    key_id: _Id,
    replace: Annotated[bool, typer.Option("--replace", help="Replaces the key of that id, which ends.")] = False,
    data_dir: _DataDir = None,
) -> None:
    """Makes a key and prints it, once: `id:secret`."""
    file = _file(data_dir)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key_id):
        refuse(["the id of a key has 1 to 64 of A-Z a-z 0-9 _ -"])
    _refuse_ids_of_the_settings(key_id)
    secret = new_secret()
    with refusing(), file.changing() as held:
        if key_id in held and not replace:
            refuse([f"there is a key {key_id}; --replace ends it and makes another one"])
        held[key_id] = digest(secret)
    typer.echo(f"{key_id}:{secret}")
    typer.echo(f"It is shown only now. A service that runs takes it within {2 * FOLLOW_SECONDS:g} s.", err=True)


@app.command("list")
def list_keys(data_dir: _DataDir = None) -> None:
    """Prints the ids of the keys there are, and where they stand."""
    file = _file(data_dir)
    own = _ids_of_the_settings()
    with refusing():
        held = file.read()
    for key_id in sorted({*held, *own}):
        typer.echo(f"{key_id}  {'FLASHBULB_API__KEYS' if key_id in own else file.path}")


@app.command()
def revoke(key_id: _Id, data_dir: _DataDir = None) -> None:
    """Ends a key, the tokens that were made with it and its live sessions."""
    file = _file(data_dir)
    _refuse_ids_of_the_settings(key_id)
    with refusing(), file.changing() as held:
        if held.pop(key_id, None) is None:
            refuse([f"there is no key {key_id} in {file.path}"])
    typer.echo(f"{key_id} is revoked. A service that runs refuses it within {2 * FOLLOW_SECONDS:g} s.", err=True)
    if not held and not _ids_of_the_settings():
        typer.echo("No key is left: the service does not start without one.", err=True)


def _file(data_dir: Path | None) -> KeysFile:
    """The file that a service with the same settings and folder takes its keys from."""
    found = settings().api
    if found.keys_file is not None:
        if data_dir is not None:
            refuse(["FLASHBULB_API__KEYS_FILE is set, and goes over the keys of a folder: leave --data-dir out"])
        return KeysFile(found.keys_file)
    if found.keys.get_secret_value():
        refuse(
            ["FLASHBULB_API__KEYS is set, and then `serve` takes no others: name a file by FLASHBULB_API__KEYS_FILE"]
        )
    folder = data_dir or _DEFAULT_FOLDER
    if not folder.is_dir():
        refuse([f"there is no folder {folder}: name that of `serve` with --data-dir, or set FLASHBULB_API__KEYS_FILE"])
    return KeysFile(folder / "keys.json")


def _ids_of_the_settings() -> frozenset[str]:
    try:
        return frozenset(keys_of(settings().api.keys.get_secret_value()))
    except ValueError as err:
        refuse([str(err)], err)


def _refuse_ids_of_the_settings(key_id: str) -> None:
    if key_id in _ids_of_the_settings():
        refuse([f"{key_id} is a key of FLASHBULB_API__KEYS, which go over those of the file: change it there"])
