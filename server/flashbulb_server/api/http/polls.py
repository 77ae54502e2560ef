"""Polls that are answered again: a client asks ten times a second, and most answers are those it had before.

Who sends the same bytes, key and all, gets the same bytes, as long as the snapshot that they were made of is fresh. A poll then costs a
look into a dictionary; parsing it and going through the web framework costs six times as much.

1. `RepeatableProtocol` answers what is known, and otherwise shows the bytes of a call to the app.
2. A handler says with `repeatable` that its answer may be given again.
3. `RememberPolls`, around the whole app, keeps the answer as it left, headers of every layer included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flashbulb_server.api.http.heads import BoundedHeads
from flashbulb_server.api.polling import Polling, Snapshot

_ASKED, _SNAPSHOT = "asked_bytes", "poll_snapshot"
_LONGEST = 2048  # bytes of a call that is remembered: a browser's poll has 1 KB
_MOST = 4096
_NEVER_REMEMBERED = frozenset((b"content-length", b"transfer-encoding", b"upgrade", b"expect"))
"""Headers of calls that are not over with their head: what follows belongs to them, and must reach the parser after it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered to which bytes; the oldest go first."""

    polling: Polling
    _known: dict[bytes, tuple[Snapshot, bytes]] = field(default_factory=dict)

    def to(self, asked: bytes) -> bytes | None:
        """The whole answer, if there is one that still holds."""
        known = self._known.get(asked)
        if known is None:
            return None
        snapshot, answer = known
        if not self.polling.fresh(snapshot):
            del self._known[asked]
            return None
        self.polling.touch(snapshot)
        return answer

    def forget(self) -> None:
        """Forgets all: who may call has changed, and a known answer asks for no key."""
        self._known.clear()

    def keep(self, asked: bytes, snapshot: Snapshot, answer: bytes) -> None:
        """Remembers an answer."""
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[asked] = (snapshot, answer)


def repeatable(request: Request, snapshot: Snapshot) -> None:
    """The answer to this call holds as long as the snapshot is fresh. Not for callers with a token: it expires, where the end of a key
    is told to `Answers.forget`."""
    request.scope["state"][_SNAPSHOT] = snapshot


class RememberPolls:
    """Keeps answers that are `repeatable`."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        asked = scope.get("state", {}).pop(_ASKED, None)
        if asked is None:
            await self._app(scope, receive, send)
            return
        sent: list[Message] = []

        async def note(message: Message) -> None:
            if len(sent) <= 2:  # more is no poll's answer, and may be large
                sent.append(message)
            await send(message)

        await self._app(scope, receive, note)
        snapshot = scope["state"].get(_SNAPSHOT)
        if snapshot is not None and len(sent) == 2:
            self._answers.keep(asked, snapshot, _as_bytes(*sent))


def _as_bytes(start: Mapping[str, object], body: Mapping[str, object]) -> bytes:
    """HTTP/1.1. Without a Date: it is made anew by nobody, and a cache that would want one is not to keep a poll's answer."""
    status, headers, content = start["status"], start["headers"], body["body"]
    assert isinstance(status, int) and isinstance(headers, list) and isinstance(content, bytes)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join((*lines, b"", content))


class RepeatableProtocol(BoundedHeads):
    """uvicorn's protocol, but for calls whose answer is known. `answers` is set in a class of the server's own."""

    answers: Answers
    _between = True
    _data = b""

    def data_received(self, data: bytes) -> None:
        """Bytes of the connection. A call counts as known only if it comes alone and whole, with nothing of another on its way."""
        if self._between and (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused:
            answer = self.answers.to(data)
            if answer is not None:
                self.head_is_here()
                self._keep_open()
                self.transport.write(answer)
                return
            self._data = data if len(data) <= _LONGEST and data.endswith(b"\r\n\r\n") else b""
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Of the parser."""
        super().on_message_begin()
        self._between = False
        data, self._data = self._data, b""
        if data.startswith(b"GET ") and b"/status" in data and b"\r\n\r\n" not in data[:-4]:
            self.scope["state"][_ASKED] = data

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if not self.parser.should_keep_alive() or any(name in _NEVER_REMEMBERED for name, _ in self.headers):
            self.scope["state"].pop(_ASKED, None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Of the parser."""
        super().on_message_complete()
        self._between = True

    def _keep_open(self) -> None:
        """Starts the time over after which an idle connection is closed, as an answer of uvicorn's does."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.server_state.total_requests += 1


def protocol_for(answers: Answers) -> type[asyncio.Protocol]:
    """The protocol of one server."""
    return type("Protocol", (RepeatableProtocol,), {"answers": answers})
