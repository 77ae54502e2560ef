"""The command `live`: a picture for every key, or for every line where there is no terminal. No logic of sessions is here."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from flashbulb._cli_options import Picture, drawing
from flashbulb._cli_output import exit_code, jsonable, reporting, show_error, show_json
from flashbulb._client import AsyncClient
from flashbulb._config import terminal_graphics
from flashbulb._errors import FlashbulbError, SessionEnded
from flashbulb._frames import Dropped, Frame
from flashbulb._inbox import Item
from flashbulb._live_graphics import render
from flashbulb._live_line import Line
from flashbulb._live_screen import Screen, is_terminal, raw_terminal
from flashbulb._session import AsyncSession
from flashbulb._sync import Client
from flashbulb._sync_session import Session

FPS_SECONDS = 2.0
"""Span over which pictures per second are counted."""


@drawing(prompt_required=False)
def live(
    context: typer.Context,
    picture: Picture,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where live.jpeg is kept up to date.")
    ] = Path(),
    max_fps: Annotated[
        float | None, typer.Option(help="Most pictures a second; default: no limit.", show_default=False)
    ] = None,
    max_in_flight: Annotated[int, typer.Option(help="Frames drawn at once: more pictures a second, each later.")] = 1,
    similar_threshold: Annotated[
        float | None, typer.Option(help="With --image: how little a new frame may differ.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--show/--no-show", help="Whether to show pictures in the terminal.")] = True,
    lines: Annotated[bool, typer.Option("--lines", help="A picture for every line, not for every key.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else; as --lines.")] = False,
) -> None:
    """A picture follows every key that is typed. Enter takes another seed; Ctrl-C or Ctrl-D ends."""
    prompt = picture.fields.pop("prompt")
    options = {"max_fps": max_fps, "max_in_flight": max_in_flight, "similar_threshold": similar_threshold}
    fields = picture.fields | options
    with reporting(json):
        output.mkdir(parents=True, exist_ok=True)
        method = terminal_graphics() if show and not json and sys.stdout.isatty() else "none"
        if json or lines or not is_terminal():
            worst = _Lines(context.obj, picture.endpoint, fields, output, method, json).run(prompt)
            if worst is not None:
                raise typer.Exit(exit_code(worst))
        else:
            keys = _Keys(picture.endpoint, fields, output, Screen(method), prompt)
            asyncio.run(keys.run(context.obj))
            if not keys.alone:
                typer.echo("  ".join([f"{keys.pictures} pictures, the last one:", *map(str, keys.paths)]))


def save_latest(frame: Frame, folder: Path) -> list[Path]:
    """Replaces `live.jpeg` (`live-1.jpeg` ... for further pictures) at once: whoever reads it never sees half a picture."""
    paths = []
    for number, image in enumerate(frame.images):
        suffix = ".png" if image.content_type == "image/png" else ".jpeg"
        path = folder / (f"live-{number}{suffix}" if number else f"live{suffix}")
        written = image.save(folder / f".{path.name}.{os.getpid()}")
        paths.append(written.replace(path))
    return paths


class _Lines:
    """A picture for every line of stdin, one after the other."""

    def __init__(
        self, client: dict[str, Any], endpoint: str, fields: dict[str, Any], folder: Path, method: str, as_json: bool
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._fields = fields
        self._folder = folder
        self._method = method
        self._json = as_json

    def run(self, first: str) -> FlashbulbError | None:
        """Draws until the end of stdin. Answers with what was wrong with the last line that has no picture."""
        worst: FlashbulbError | None = None
        prompts = self._prompts(first)
        prompt = next(prompts, None)
        try:
            with Client(**self._client) as client:
                while prompt is not None:
                    with client.realtime(self._endpoint, policy="all", notices=True, **self._fields) as session:
                        while prompt is not None:
                            try:
                                number = session.send(prompt=prompt)
                            except SessionEnded as error:
                                if error.reason != "IDLE":
                                    raise
                                break  # and opens another one for it
                            worst = self._answer(session, number, prompt) or worst
                            prompt = next(prompts, None)
        except KeyboardInterrupt:  # how one ends it
            pass
        return worst

    def _prompts(self, first: str) -> Iterator[str]:
        if first:
            yield first
        for line in sys.stdin:
            if line.strip():
                yield line.strip()

    def _answer(self, session: Session, number: int, prompt: str) -> FlashbulbError | None:
        """Shows what becomes of a frame. Answers with its error."""
        for item in session:
            if isinstance(item, Frame | Dropped) and item.frame_id == number:
                return self._show(item, prompt)
        raise SessionEnded("the session ended before the picture came", reason="IDLE")

    def _show(self, item: Frame | Dropped, prompt: str) -> FlashbulbError | None:
        if isinstance(item, Dropped):
            error = item.error
            if error is None and item.reason != "similar":
                error = FlashbulbError(f"the frame was dropped: {item.reason}")
            if self._json:
                show_json({"prompt": prompt, "frame_id": item.frame_id, "reason": item.reason, "error": error})
            elif error is not None:
                show_error(error, False)
            return error
        paths = save_latest(item, self._folder)
        if self._json:
            answer = jsonable(item)
            assert isinstance(answer, dict)
            show_json({"prompt": prompt} | answer | {"files": paths})
            return None
        if self._method != "none":
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
            sys.stdout.buffer.write(render(item.images[0], self._method, columns, rows - 3) + b"\n")
        typer.echo(f"{paths[0]}  seed {item.seed}  {1000 * item.latency:.0f} ms")
        return None


class _Keys:
    """A picture for every key. What is typed while the session is asleep opens another one.

    `pictures` counts them, `paths` are the files of the last one. `alone`: the terminal is gone.
    """

    def __init__(self, endpoint: str, fields: dict[str, Any], folder: Path, screen: Screen, prompt: str) -> None:
        self._endpoint = endpoint
        self._fields = fields
        self._folder = folder
        self._screen = screen
        self._line = Line(prompt)
        self._sent = ("", 0)
        self._typed = asyncio.Event()
        self._dirty = asyncio.Event()
        self._frame: Frame | None = None
        self._note = "type what to draw"
        self._error: FlashbulbError | None = None
        self._times: deque[float] = deque(maxlen=256)
        self._superseded = 0
        self.pictures = 0
        self.paths: list[Path] = []
        self.alone = False
        self._over = False

    async def run(self, client: dict[str, Any]) -> None:
        """Draws until the end is asked for. Raises what ends the session."""
        loop = asyncio.get_running_loop()
        with raw_terminal() as keys:
            loop.add_reader(keys, self._read, keys)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._end)
            loop.add_signal_handler(signal.SIGHUP, self._left)
            loop.add_signal_handler(signal.SIGWINCH, self._dirty.set)
            try:
                async with AsyncClient(**client) as opened, asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._paint())
                    await self._draw(opened)
                    self._over = True
                    self._dirty.set()
            finally:
                loop.remove_reader(keys)
        if self._error is not None:
            raise self._error

    def _read(self, keys: int) -> None:
        try:
            data = os.read(keys, 4096)
        except OSError:
            data = b""
        if not data:  # in raw mode no key is the end of a file
            self._left()
        self._line.feed(data)
        self._typed.set()
        self._dirty.set()

    def _left(self) -> None:
        """The terminal is gone."""
        self.alone = True
        self._end()

    def _end(self) -> None:
        self._line.ended = True
        self._typed.set()

    @property
    def _wanted(self) -> tuple[str, int]:
        """What asks for a picture when it differs from what was sent: the prompt, and how often Enter was pressed."""
        return (self._line.text.strip(), self._line.entered)

    async def _draw(self, client: AsyncClient) -> None:
        """Sessions, one after the other, each opened for something to draw. An error ends it and is kept."""
        try:
            while await self._change():
                options = {"notices": True, **self._fields}
                async with client.realtime(self._endpoint, **options) as session, asyncio.TaskGroup() as tasks:
                    sender = tasks.create_task(self._send(session))
                    await self._receive(session)
                    sender.cancel()
                if self._error is not None:
                    return
                self._note = "asleep; type to go on"
                self._dirty.set()
        except FlashbulbError as error:
            self._error = error

    async def _change(self) -> bool:
        """Waits until there is something new to draw. False: the end is asked for."""
        self._dirty.set()
        while not self._line.ended and (self._wanted == self._sent or not self._wanted[0]):
            self._typed.clear()
            await self._typed.wait()
        return not self._line.ended

    async def _send(self, session: AsyncSession) -> None:
        while await self._change():
            wanted = self._wanted
            seed = random.randrange(2**32) if wanted[1] != self._sent[1] else None
            try:
                await session.send(prompt=wanted[0], seed=seed)
            except SessionEnded:
                return  # `_draw` opens another one
            except FlashbulbError as error:
                self._note = error.message
            self._sent = wanted
        await session.close()

    async def _receive(self, session: AsyncSession) -> None:
        try:
            async for item in session:
                await self._take(item)
        except FlashbulbError as error:
            self._error = error

    async def _take(self, item: Item) -> None:
        if isinstance(item, Dropped):
            if item.reason == "superseded":
                self._superseded += 1
            elif item.error is not None:
                self._note = item.error.message
        elif isinstance(item, Frame):
            self._frame = item
            self.pictures += 1
            self._times.append(time.monotonic())
            self._note = ""
            self.paths = await asyncio.to_thread(save_latest, item, self._folder)
        self._dirty.set()

    async def _paint(self) -> None:
        while not self._over:
            self._dirty.clear()
            image = self._frame.images[0] if self._frame is not None and self._frame.images else None
            try:
                # Never cancelled: its thread would go on writing after the terminal was put back.
                await asyncio.to_thread(self._screen.draw, image, self._status(), self._line.text)
            except OSError:
                self._left()
                return
            try:
                async with asyncio.timeout(FPS_SECONDS / 2 if self._rate() else None):  # it falls while nobody types
                    await self._dirty.wait()
            except TimeoutError:
                continue

    def _status(self) -> str:
        if self._note or self._frame is None:
            return self._note
        frame = self._frame
        return (
            f"{self._rate():.1f} pictures/s  age {1000 * frame.latency:.0f} ms ({1000 * frame.age:.0f} at the server)"
            f"  {self._superseded} superseded  seed {frame.seed}"
        )

    def _rate(self) -> float:
        """Pictures per second."""
        now = time.monotonic()
        return sum(now - when < FPS_SECONDS for when in self._times) / FPS_SECONDS
