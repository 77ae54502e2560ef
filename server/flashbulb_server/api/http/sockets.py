"""uvicorn's WebSocket protocol, with two manners that fal's clients need of the server's end of a socket."""

from __future__ import annotations

import logging

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.server import ServerProtocol


class SocketProtocol(WebSocketsSansIOProtocol):
    """A socket that answers a Close frame without a status with 1000, and that a shutdown leaves to the session on it."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, object]) -> None:
        super().__init__(config, server_state, app_state)
        self.conn = _PoliteServer(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

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
