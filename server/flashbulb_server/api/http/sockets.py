"""uvicorn's WebSocket protocol, with manners that fal's clients need of the server's end of a socket, and that a server needs of callers."""

from __future__ import annotations

import logging

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

_LEAVE_SECONDS = 0.5


class SocketProtocol(WebSocketsSansIOProtocol):
    """A socket that answers a Close frame without a status with 1000, and that a shutdown leaves to the session on it.

    Nothing is read before the app asks for the first frame. A caller whom it refuses without having asked is not heard at all: they get the
    app's words, a Close frame, the end of the stream, and in a moment the connection is gone, whatever they send.
    """

    _heard = False

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, object]) -> None:
        super().__init__(config, server_state, app_state)
        self.conn = _PoliteServer(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

    def handle_connect(self, event: Request) -> None:
        """The head of the socket's call."""
        super().handle_connect(event)
        if not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """What the app is told next."""
        if not self.handshake_complete:
            return await self.queue.get()
        self._heard = True
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return await super().receive()

    async def send(self, message: ASGISendEvent) -> None:
        """What the app says."""
        refused = message["type"] == "websocket.close" and self.handshake_complete and not self._heard
        if refused:
            self.read_paused = False  # or it would be read on, for an answer to the Close frame
        await super().send(message)
        if refused and self.close_timer is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(_LEAVE_SECONDS, self.transport.close)

    def shutdown(self) -> None:
        """Sessions are told to end before the server is: each closes its socket in its own words, not with 1012."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()


class _PoliteServer(ServerProtocol):
    """Pictures do not get smaller by deflate, so it is not offered."""

    def send_frame(self, frame: Frame) -> None:
        """As it is, but for the echo of an empty Close: browsers report that as the code 1005, and fal's client takes it for a failure."""
        if frame.opcode is Opcode.CLOSE and not frame.data:
            frame = Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize())
        super().send_frame(frame)
