"""uvicorn's HTTP protocol with bounds on what is no body of a call, which it waits for without end and holds whatever its size."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """A call whose head and trailers have more than MAX_HEAD_BYTES is refused, and so is one that sends as much which leads to nothing: an
    address or a field without end, or what may stand beside the length of a chunk. A head that takes longer than HEAD_SECONDS closes the
    connection.
    """

    _field_bytes = 0  # of the address and all fields
    _vain_bytes = 0  # since a head was complete, or a body went on
    _too_large = False
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
        self._vain_bytes += len(data)
        super().data_received(data)
        if self._vain_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """Of the parser."""
        self._field_bytes = 0
        super().on_message_begin()
        self._await_head()

    def on_url(self, url: bytes) -> None:
        """Of the parser."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser: a field of the head, or of the trailers."""
        self._count(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Of the parser."""
        self.head_is_here()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Of the parser."""
        self._vain_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._vain_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Of the parser."""
        self._vain_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser stopped at is told."""
        if self._too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def head_is_here(self) -> None:
        """The head that was waited for has come."""
        self._vain_bytes = 0
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _count(self, *parts: bytes) -> None:
        """Raises _TooLarge, which stops the parser."""
        self._field_bytes += sum(map(len, parts))
        if self._field_bytes > MAX_HEAD_BYTES:
            self._too_large = True
            raise _TooLarge

    def _refuse(self) -> None:
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _await_head(self) -> None:
        if self._hurry is None:
            self._hurry = self.loop.call_later(HEAD_SECONDS, self.transport.close)


class _TooLarge(Exception):
    """Of no meaning outside of the parser."""
