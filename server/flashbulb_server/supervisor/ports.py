"""Loopback ports for servers that must come back at the same address."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different loopback ports that nothing listens on.

    They lie below the range that the system gives to outgoing connections: a port from that range can be taken by any client while its
    server restarts, and a client that reconnects to it can even end up connected to itself.
    """
    ports: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        candidates = random.SystemRandom().sample(range(12_000, _first_outgoing_port()), 1000)
        for port in candidates:
            if len(ports) == count:
                break
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports[port] = probe
    if len(ports) < count:
        raise OSError(f"no {count} free ports on {LOOPBACK}")
    return tuple(ports)


def taken_ports(ports: Sequence[int]) -> list[int]:
    """Those of `ports` that another program listens on. Raises OSError where that cannot be told."""
    taken = []
    with contextlib.ExitStack() as stack:
        for port in ports:
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; passes over TIME_WAIT only
            try:
                probe.bind((LOOPBACK, port))
            except OSError as err:
                if err.errno != errno.EADDRINUSE:
                    raise
                taken.append(port)
    return taken


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):  # not Linux
        return 32_000
    return first if first > 14_000 else 32_000
