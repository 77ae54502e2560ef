"""A realtime session for coroutines: pictures as fast as the caller changes its mind.

1. `send` never waits for the network. What cannot be sent yet waits in the outbox, where the newest wins unless all are wanted.
2. A lost connection is found again by the link, and what was not answered is sent again: the caller sees one late picture.
3. A picture is acknowledged when the caller takes it. While a few wait to be taken nothing more is read, so that the server holds back.
4. Only what ends the session is raised. What is wrong with one frame is said by a `Dropped`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from flashbulb import _decode
from flashbulb._encode import encode
from flashbulb._errors import FieldViolation, InvalidInput, SessionEnded
from flashbulb._files import fill_inline
from flashbulb._frames import Dropped, Frame
from flashbulb._inbox import Inbox, Item
from flashbulb._inputs import Input
from flashbulb._link import Link
from flashbulb._outbox import Outbox, values_of
from flashbulb._transport import Transport
from flashbulb._watch import SILENCE_SECONDS
from flashbulb.v1 import input_pb2, realtime_pb2

CLOSE_SECONDS = 1.0
"""How long the server may take to say goodbye."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session is opened with, see `AsyncClient.realtime`. `policy` is a number of `flashbulb.v1.FramePolicy`."""

    endpoint: str | Input
    defaults: dict[str, object]
    max_fps: float | None
    policy: realtime_pb2.FramePolicy.ValueType
    max_waiting: int
    previews: bool
    notices: bool
    throttle: float
    max_in_flight: int = 1
    similar_threshold: float | None = None


class AsyncSession:
    """A realtime session. `async with` opens and closes it, once; iterating it yields what comes.

    That is a Frame for every picture; with `previews`, the newest Previewed; with `notices`, a Dropped for every frame that was not drawn.
    The iteration ends when the session is closed, here or by the server because no frame came for long, and raises what else ends it.
    """

    def __init__(self, transport: Transport, terms: Terms, silence: float = SILENCE_SECONDS) -> None:
        self._transport = transport
        self._terms = terms
        self._silence = silence
        self._encoded = encode(terms.endpoint, terms.defaults)
        self._endpoint = terms.endpoint if isinstance(terms.endpoint, str) else terms.endpoint.endpoint
        self._inbox = Inbox()
        self._made: Link | None = None
        self._tasks = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None
        self._frames = 0

    @property
    def session_id(self) -> str:
        """The server's id of the session."""
        return self._link.opened.session_id

    @property
    def idle_timeout(self) -> float:
        """Seconds without a frame after which the server closes the session."""
        return self._link.opened.idle_timeout.ToTimedelta().total_seconds()

    @property
    def resolved_defaults(self) -> Input | None:
        """The defaults with every value resolved; None for an endpoint that this version of the package does not know."""
        return _decode.typed_input(self._link.opened.resolved_defaults)

    async def __aenter__(self) -> Self:
        await fill_inline(self._encoded.pending)
        terms = self._terms
        newest = terms.policy != realtime_pb2.FRAME_POLICY_ALL
        self._outbox = Outbox(
            self._member,
            self._values(self._encoded.message),
            newest=newest,
            limit=terms.max_waiting,
            throttle=terms.throttle,
        )
        opening = realtime_pb2.OpenSession(
            defaults=self._encoded.message,
            max_fps=terms.max_fps,
            frame_policy=terms.policy,
            max_waiting_frames=terms.max_waiting,
            include_previews=terms.previews,
            max_frames_in_flight=terms.max_in_flight,
            similar_image_threshold=terms.similar_threshold,
        )
        self._made = Link(
            self._transport, opening, self._outbox, self._inbox, notices=terms.notices, silence=self._silence
        )
        await self._tasks.__aenter__()
        try:
            self._task = self._tasks.create_task(self._link.serve())
            await self._link.settled.wait()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if self._link.end is not None and not self._link.opened.session_id:
            await self.__aexit__(None, None, None)
            raise self._link.end
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.close()
        finally:
            if self._task is not None:
                self._task.cancel()
            await self._tasks.__aexit__(None, None, None)  # not told of the error, which it would wrap in a group

    async def close(self) -> None:
        """Ends the session; frames that are not answered are given up. Idempotent."""
        if self._task is None:
            return
        self._link.close()
        if (
            self._link.connected and not self._outbox.unanswered
        ):  # otherwise the server would draw before it says goodbye
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def send(self, **changes: object) -> int:
        """Asks for a picture with these fields changed, and answers with the number that its Frame will have.

        Fields are those of the endpoint; what was set once holds until it is set again, and None leaves it. Pictures may be bytes, paths,
        files or PIL images, which are sent inline (10 MiB at most), or links. A call without changes draws again. It never waits for
        the network.

        Raises:
            InvalidInput: a field is unknown, cannot be read, or would become empty where it is required or a list. Nothing is sent.
            SessionEnded, FlashbulbError: the session is over, and why.
        """
        encoded = encode(self._endpoint, changes)
        await asyncio.sleep(0)  # also a caller that does nothing else lets its frames go out
        await fill_inline(encoded.pending)
        if self._link.end is not None:
            raise self._link.end
        values = self._values(encoded.message)
        given = {name for name, value in changes.items() if value is not None}
        if emptied := (given - values.keys()) & self._outbox.values.keys():
            violations = [FieldViolation(name, "cannot be made empty in a session") for name in sorted(emptied)]
            raise InvalidInput("; ".join(f"{v.field}: {v.description}" for v in violations), violations=violations)
        self._frames += 1
        for frame_id in self._outbox.put(self._frames, values, time.monotonic()):
            self._link.notice(Dropped(frame_id, "overflow" if frame_id == self._frames else "superseded"))
        self._link.wake()
        return self._frames

    async def latest(self) -> Frame:
        """The newest picture that is here, or the next one if none is. Older ones, notices and previews before it are skipped.

        Raises:
            SessionEnded, FlashbulbError: the session is over, and why.
        """
        while (item := await self._take()) is not None:
            if isinstance(item, Frame) and not self._inbox.frames:
                return item
        raise self._link.end or SessionEnded("the session is closed", reason="CLIENT")

    async def frames(self) -> AsyncGenerator[Frame]:
        """The pictures alone; otherwise as iterating the session."""
        while (item := await self._take()) is not None:
            if isinstance(item, Frame):
                yield item

    async def __aiter__(self) -> AsyncGenerator[Item]:
        while (item := await self._take()) is not None:
            yield item

    @property
    def _link(self) -> Link:
        if self._made is None:
            raise RuntimeError("the session is not open: use it as a context manager")
        return self._made

    @property
    def _member(self) -> str:
        return self._encoded.message.WhichOneof("input") or ""

    def _values(self, message: input_pb2.GenerationInput) -> dict[str, object]:
        return values_of(getattr(message, self._member))

    async def _take(self) -> Item | None:
        link = self._link
        entry = await self._inbox.get()
        if entry is None:
            return None
        item, number = entry
        if number:
            link.acknowledge(number)
        return item
