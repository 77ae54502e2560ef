"""What the processes of all roles have in common: they serve until they are told to stop, and end in order."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import uvloop
from nats.aio.client import Client

from flashbulb_server.config import Settings
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import Unavailable
from flashbulb_server.messaging.connection import connect
from flashbulb_server.messaging.topology import restore_topology

_log = logging.getLogger(__name__)


class Addresses(NamedTuple):
    """Where a role serves, `host:port` each. `http` is empty where there is no gateway."""

    grpc: str
    http: str = ""


class Loop(Protocol):
    """Takes work until it is stopped; see the roles for those there are."""

    async def run(self, *, drain_seconds: float, stop: asyncio.Event) -> None:
        """Runs until `stop` is set and what is in hand is done, which may take `drain_seconds`."""
        ...


def run_role(role: AbstractAsyncContextManager[Addresses], ready_file: Path | None) -> int:
    """Runs a role until SIGTERM or SIGINT. Gives the exit code. `ready_file` is written once the role serves. Raises Misconfigured."""
    return uvloop.run(_until_stopped(role, ready_file))


async def _until_stopped(role: AbstractAsyncContextManager[Addresses], ready_file: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with role as addresses:
            if ready_file is not None:
                partial = ready_file.with_suffix(".partial")
                state = {"address": addresses.grpc, "http_address": addresses.http, "pid": os.getpid()}
                partial.write_text(json.dumps(state))
                partial.rename(ready_file)
            gc.collect()
            gc.freeze()  # what was made so far lives to the end: later collections need not look at it, and pause for less
            _log.info("ready", extra={"address": addresses.grpc, "http_address": addresses.http})
            await stop.wait()
            _log.info("draining")
    except (Unavailable, OSError) as err:
        _log.error("cannot run", extra={"problem": str(err)})
        return 1
    return 0


def connection(settings: Settings, name: str) -> AbstractAsyncContextManager[Client]:
    """A role's connection to NATS, which makes anew what a restart of NATS has lost."""
    return connect(settings.nats, name=name, on_restored=partial(restore_topology, replicas=settings.nats.replicas))


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs them while the context is open, then cancels them. One that fails ends the role."""
    async with task_group() as tasks:
        running = [tasks.create_task(coroutine) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


@asynccontextmanager
async def until_drained(loop: Loop, drain_seconds: float) -> AsyncIterator[asyncio.Event]:
    """Works while the context is open, then finishes what is in hand. Gives the event that ends it, to be set before if there is time."""
    stop = asyncio.Event()
    async with task_group() as tasks:
        tasks.create_task(loop.run(drain_seconds=drain_seconds, stop=stop))
        try:
            yield stop
        finally:
            stop.set()
