"""Compiled networks for a worker that draws already: made by a process beside, and taken up between two pictures."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flashbulb_server.config import Settings
from flashbulb_server.worker.engine import StepEngine

if TYPE_CHECKING:  # torch
    from flashbulb_server.pipelines.loading import Loader

_log = logging.getLogger(__name__)


async def compile_beside(
    engine: StepEngine, loader: Loader, unfinished: Sequence[str], settings: Settings, beside: Path
) -> None:
    """Has the networks of models compiled, which torch draws meanwhile, and goes on with them. What cannot be compiled stays with torch.

    `beside`: where they are kept if `worker.cache_dir` cannot be written to; needed for as long as the engine draws.
    """
    await _compile(loader, unfinished, settings, beside)
    for name in unfinished:
        pipeline = await asyncio.to_thread(loader.find, name, beside)
        if pipeline is None:
            _log.warning("torch goes on drawing a model that was not compiled", extra={"model": name})
        else:
            engine.replace(name, pipeline)
            _log.info("drawing with compiled networks", extra={"model": name, "backend": pipeline.info.backend})


async def _compile(loader: Loader, names: Sequence[str], settings: Settings, beside: Path) -> None:
    from flashbulb_server.pipelines.compiling import MODULE, Order

    order = Order(worker=loader.only(names), log=settings.log, beside=beside)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        with suppress(ConnectionError):  # it has ended, and said why
            process.stdin.write(order.as_line())
            await process.stdin.drain()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


class Beside:
    """A folder in the system's place for such, made when somebody writes there. `remove` it at the end."""

    def __init__(self) -> None:
        try:
            place = tempfile.gettempdir()
        except FileNotFoundError:  # nothing can be written to: then nothing will be
            place = "."
        self.path = Path(place) / f"flashbulb-{secrets.token_hex(8)}"

    def remove(self) -> None:
        """Deletes it, if it was made."""
        shutil.rmtree(self.path, ignore_errors=True)
