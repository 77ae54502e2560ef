"""uvicorn's HTTP protocol with bounds on the head of a call, which it waits for without end and holds whatever its size."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """A head of more than MAX_HEAD_BYTES is refused, and one that takes longer than HEAD_SECONDS closes the connection."""

    _in_head = True
    _head_bytes = 0
    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Of the event loop."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of the event loop."""
        self.head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the connection."""
        if self._in_head:
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
            self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Of the parser."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Of the parser."""
        self._in_head = False
        self.head_is_here()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Of the parser."""
        super().on_message_complete()
        self._in_head = True

    def head_is_here(self) -> None:
        """The head that was waited for has come."""
        self._head_bytes = 0
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _await_head(self) -> None:
        if self._hurry is None:
            self._hurry = self.loop.call_later(HEAD_SECONDS, self.transport.close)
