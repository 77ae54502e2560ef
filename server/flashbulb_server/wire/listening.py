"""Whether a server can listen at an address of the settings: asked before anything slow is begun, so that a taken port is told at once."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path

_UNIX = "unix:"
_LONGEST_UNIX_PATH = 103  # bytes; 107 on Linux, less on macOS


def listen_problems(addresses: Mapping[str, str]) -> list[str]:
    """A line for every address that nothing can listen at now. `addresses`: `host:port` or `unix:<path>`, by their variables."""
    found = ((variable, _why_not(address)) for variable, address in addresses.items())
    return [f"{variable}: {why}" for variable, why in found if why]


def taken(address: str) -> str:
    """What to say of an address that another program listens at."""
    return f"{address} is taken by another program; name another port, or port 0 for a free one"


def _why_not(address: str) -> str:
    """Empty if something can listen there."""
    if address.startswith(_UNIX):
        return _why_not_unix(address.removeprefix(_UNIX))
    host, _, port = address.rpartition(":")
    try:
        places = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as err:
        return f"{address}: {err.strerror}"
    tries = [_failure(family, place) for family, _, _, _, place in places]
    failures = [failure for failure in tries if failure is not None]
    if any(failure.errno == errno.EADDRINUSE for failure in failures):
        return taken(address)
    # a name may stand for addresses of a kind that this host does not have
    return f"cannot listen on {address}: {failures[0].strerror}" if len(failures) == len(places) else ""


def _why_not_unix(path: str) -> str:
    if len(os.fsencode(path)) > _LONGEST_UNIX_PATH:
        return f"{path} is longer than the path of a socket may be, {_LONGEST_UNIX_PATH} bytes"
    return "" if Path(path).parent.is_dir() else f"{path} lies in no folder that there is"


def _failure(family: socket.AddressFamily, place: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; passes over TIME_WAIT only
            probe.bind(place)
    except OSError as err:
        return err
    return None
