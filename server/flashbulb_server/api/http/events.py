"""Answers that are streams of events (HTML standard, section 9.2): one JSON object in each, and comments where it is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flashbulb_server.api.http.answers import to_json
from flashbulb_server.core.tasks import task_group

COMMENT_SECONDS = 15.0
_COMMENT = b": still here\n\n"

Events = AsyncGenerator[Mapping[str, object], None]


async def stream_of(events: Events, headers: Mapping[str, str] | None = None) -> EventStream:
    """The stream, once its first event is there: what is wrong from the start is raised here, and gets a status of its own."""
    try:
        return EventStream(await anext(events, None), events, headers)
    except BaseException:
        await events.aclose()
        raise


class EventStream(Response):
    """Sends the events as they come, and closes `events` when the caller leaves. An error breaks the connection off."""

    def __init__(
        self, first: Mapping[str, object] | None, events: Events, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        self._first = first
        self._events = events
        # Neither a proxy nor a browser is to hold events back, or to give them again.
        self.init_headers(
            {
                "content-type": "text/event-stream",
                "cache-control": "no-store",
                "x-accel-buffering": "no",
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole answer."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with task_group() as tasks:
                beside = [tasks.create_task(_leave(receive)), tasks.create_task(_comments(send))]
                await self._send_all(send)
                for task in beside:
                    task.cancel()
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._events.aclose()

    async def _send_all(self, send: Send) -> None:
        if self._first is not None:
            await _send_event(send, self._first)
        async for event in self._events:
            await _send_event(send, event)


async def _send_event(send: Send, event: Mapping[str, object]) -> None:
    await send({"type": "http.response.body", "body": b"data: " + to_json(event) + b"\n\n", "more_body": True})


async def _comments(send: Send) -> None:
    while True:
        await asyncio.sleep(COMMENT_SECONDS)
        await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    raise ClientDisconnect
