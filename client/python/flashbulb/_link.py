"""Keeps a realtime session connected: opens it, moves messages between it and the boxes, opens it again.

1. The first message opens, with the values that the session began with; after a break the resume token is sent, and with the first frame
   everything that was changed since.
2. A session that was lost is looked for until no server answered for the transport's timeout. The server's delay is kept.
3. No more is read while the inbox has no room, so that the server holds back.
"""

from __future__ import annotations

import asyncio
import logging
import time

from flashbulb import _decode
from flashbulb._conversation import Conversation
from flashbulb._errors import (
    AuthenticationError,
    Busy,
    Conflict,
    FlashbulbError,
    InvalidInput,
    NotFound,
    ServerError,
    SessionEnded,
    Unavailable,
)
from flashbulb._frames import Dropped
from flashbulb._inbox import Inbox
from flashbulb._outbox import Outbox, values_of
from flashbulb._retry import pause
from flashbulb._transport import Transport
from flashbulb.v1 import realtime_pb2

_log = logging.getLogger("flashbulb")

LEAVING = ("CLIENT", "IDLE")
"""Reasons to close that are no error."""

Stream = Conversation[realtime_pb2.ConnectRequest, realtime_pb2.ConnectResponse]


class Link:
    """The connections of one session, one after the other. `silence` is the seconds without a message after which one counts as broken.

    `settled` is set when the session is open for the first time or will never be. `end` is why it is over, None as long as it is not.
    """

    def __init__(
        self,
        transport: Transport,
        opening: realtime_pb2.OpenSession,
        outbox: Outbox,
        inbox: Inbox,
        *,
        notices: bool,
        silence: float,
    ) -> None:
        self.settled = asyncio.Event()
        self.end: FlashbulbError | None = None
        self.opened = realtime_pb2.SessionOpened()
        self.connected = False
        self._transport = transport
        self._opening = opening
        self._outbox = outbox
        self._inbox = inbox
        self._notices = notices
        self._silence = silence
        self._wake = asyncio.Event()
        self._closing = False
        self._renewed = False
        self._acknowledge = 0
        self._superseded = 0
        self._failed = 0
        self._lost = time.monotonic()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def acknowledge(self, number: int) -> None:
        """The caller has taken the picture of a frame."""
        self._acknowledge = number
        self._wake.set()

    def close(self) -> None:
        """Says goodbye to the server."""
        self._closing = True
        self._wake.set()

    def notice(self, dropped: Dropped) -> None:
        """A frame is not drawn, and the server does not know of it."""
        self._superseded += dropped.reason == "superseded"
        self._notify(dropped)

    async def serve(self) -> None:
        """Runs until the session is over. Never raises but when it is cancelled."""
        failure: FlashbulbError | None = None
        try:
            await self._keep()
        except FlashbulbError as error:
            failure = self.end = error
        finally:
            self.end = self.end or SessionEnded("the session is closed", reason="CLIENT")
            self._inbox.end(failure)
            self.settled.set()

    async def _keep(self) -> None:
        """Connects until the session ends as it should. Raises what ends it otherwise."""
        while True:
            try:
                await self._connect()
                return
            except (Unavailable, Busy) as error:
                if self._closing:
                    return
                delay = self._pause(error)
                if delay is None or time.monotonic() + delay >= self._lost + self._transport.timeout:
                    raise
                self._failed += 1
                await asyncio.sleep(delay)
            except (NotFound, InvalidInput, Conflict):
                if not self._opening.resume_token:
                    raise
                self._opening.resume_token = ""  # nobody knows the session any more: a new one does as well
            except AuthenticationError:
                if self._renewed or not self._transport.credentials.renewable:
                    raise
                self._renewed = True
                self._transport.credentials.forget()

    def _pause(self, error: Unavailable | Busy) -> float | None:
        if isinstance(error, Busy) and error.retry_after is None and self._opening.resume_token:
            error = Unavailable(error.message)  # the session that broke off may still count as one of the key's
        return pause(error, self._failed, repeatable=True)

    async def _connect(self) -> None:
        """One connection. Returns when the session has ended as it should, raises why the connection has."""
        stream: Stream = await self._transport.converse(self._transport.realtime.Connect)
        try:
            await stream.write(realtime_pb2.ConnectRequest(open=self._opening))
            first = await stream.read(self._silence)
            if first.WhichOneof("message") == "closed":
                self._closed(first.closed)
                return
            if first.WhichOneof("message") != "opened":
                raise ServerError("the server did not open the session")
            self._begin(first.opened)
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(stream))
                error = await self._read(stream)
                writer.cancel()
            if error is not None:
                raise error
        finally:
            stream.cancel()
            if self.connected:
                self.connected = False
                for frame_id in self._outbox.reopen():
                    self.notice(Dropped(frame_id, "superseded"))

    def _begin(self, opened: realtime_pb2.SessionOpened) -> None:
        for _, resolved in opened.resolved_defaults.ListFields() if not self.settled.is_set() else ():
            self._outbox.adopt({name: value for name, value in values_of(resolved).items() if name == "seed"})
        self.opened = opened
        self._opening.resume_token = opened.resume_token
        self.connected = True
        self._renewed = False
        self._acknowledge = 0
        self.settled.set()

    async def _write(self, stream: Stream) -> None:
        while True:
            self._wake.clear()
            delay = self._outbox.delay(time.monotonic())
            if self._closing:
                await stream.finish()
                return
            if self._acknowledge:
                message = realtime_pb2.ConnectRequest(ack=realtime_pb2.AckFrame(frame_id=self._acknowledge))
                self._acknowledge = 0
            elif delay == 0:
                message = realtime_pb2.ConnectRequest(frame=self._outbox.take(time.monotonic()))
            else:
                await _either(self._wake, delay)
                continue
            if not await stream.write(message):
                return

    async def _read(self, stream: Stream) -> FlashbulbError | None:
        """Takes what comes. Answers with why the connection is over; None: the session has ended as it should."""
        heard = False
        try:
            while True:
                message = await stream.read(self._silence)
                heard = True
                self._failed = 0
                match message.WhichOneof("message"):
                    case "frame":
                        await self._drawn(message.frame)
                    case "dropped":
                        self._dropped(message.dropped)
                    case "preview":
                        self._inbox.put(_decode.previewed(message.preview, message.sequence))
                    case "closed":
                        self._closed(message.closed)
                        return None
        except FlashbulbError as error:
            if heard:  # one that only opens sessions is not alive
                self._lost = time.monotonic()
            return error

    async def _drawn(self, message: realtime_pb2.OutputFrame) -> None:
        sent, silent = self._outbox.drawn(message.frame_id)
        self._wake.set()
        for frame_id in silent:  # whose notice the server left out, as it may
            self._notify(Dropped(frame_id, "superseded"))
        if sent is None:  # answered before the connection broke, and again after; or drawn from what was refused
            self.acknowledge(message.frame_id)
            return
        frame = _decode.frame(message, sent.frame_id, time.monotonic() - sent.time, self._superseded)
        self._superseded = 0
        await self._inbox.room()
        self._inbox.put(frame, message.frame_id)

    def _dropped(self, message: realtime_pb2.DroppedFrame) -> None:
        dropped = _decode.dropped(message)
        known = dropped.reason in ("superseded", "similar")
        sent, old = self._outbox.dropped(message.frame_id, known=known, error=dropped.error)
        self._wake.set()
        if sent is None:
            return
        self._notify(Dropped(sent.frame_id, dropped.reason, dropped.stopped_at_step, dropped.error))
        for frame_id in old:
            self._notify(Dropped(frame_id, "superseded"))

    def _notify(self, dropped: Dropped) -> None:
        if self._notices:
            self._inbox.put(dropped)
        elif dropped.error is not None:
            _log.warning("a frame was not drawn", extra={"frame_id": dropped.frame_id, "error": str(dropped.error)})

    def _closed(self, message: realtime_pb2.SessionClosed) -> None:
        """Returns if the session has ended as it should. Raises why it has not; Unavailable, if another connection may help."""
        reason = _decode.close_reason(message.reason)
        text = message.message or f"the server closed the session: {reason.lower()}"
        retry = message.retry_delay.ToTimedelta().total_seconds() if message.HasField("retry_delay") else None
        if reason in LEAVING:
            self.end = SessionEnded(text, reason=reason)
        elif reason == "TOKEN_EXPIRED":
            self._transport.credentials.forget()
            if not self._transport.credentials.renewable:
                raise AuthenticationError(text, reason=reason)
            raise Unavailable(text, reason=reason, retry_after=retry)
        elif retry is not None or reason == "DRAINING":
            raise Unavailable(text, reason=reason, retry_after=retry)
        else:
            raise SessionEnded(text, reason=reason)


async def _either(event: asyncio.Event, seconds: float | None) -> None:
    """Waits for the event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
