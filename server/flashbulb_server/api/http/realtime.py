"""Realtime sessions over WebSocket, as fal's clients open them: a translator around api.realtime, whose sessions those of gRPC are, too.

1. Every refusal is told inside an accepted socket: browsers hide why a handshake failed, and fal's client keeps the token that caused it.
2. Sockets are closed with 1000 and a reason; fal's client connects again when it next has something to send.
3. A token lets a caller in. The session may outlive it, as programs with a token of two minutes expect.
4. Nothing piles up: a frame is read when the one before it was taken, and a picture is sent when the one before it has left.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from flashbulb_server.api.http.addressing import known_ids, split_path
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.files import link_at_gateway
from flashbulb_server.api.http.frames import Frame, Frames, error_frame, fault_frame, refusal_frame, unauthorized
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.api.session_messages import MAX_IN_FLIGHT, Closed, InputFrame, Opening, option_problems
from flashbulb_server.core.realtime import FramePolicy
from flashbulb_server.errors import (
    FieldViolation,
    FlashbulbError,
    Forbidden,
    RequestCancelled,
    Unauthenticated,
)

MAX_BUFFERING = 60
DEFAULT_BUFFERING = 2  # as fal recommends
_SEEDS = 2**32
_PATHS = ("", "realtime", "realtime/realtime")
_PLACES = tuple(str(count) for count in range(1, MAX_IN_FLIGHT + 1))
_FLAGS = {"1": True, "true": True, "0": False, "false": False}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a caller wants its session, as the query says."""

    opening: Opening
    incremental: bool


def wish(endpoint: str, query: Mapping[str, str]) -> Wish:
    """The query of a socket's address. What is wrong with it stands in the opening and is told when the session is opened."""
    problems: list[FieldViolation] = []
    waiting = query.get("max_buffering", str(DEFAULT_BUFFERING))
    if not (waiting.isascii() and waiting.isdecimal() and 1 <= int(waiting[:4]) <= MAX_BUFFERING):
        problems.append(FieldViolation("max_buffering", f"must be from 1 to {MAX_BUFFERING}"))
        waiting = "1"
    flags: dict[str, bool] = {}
    for name in ("previews", "incremental"):
        text = query.get(name, "0").lower()
        flags[name] = _FLAGS.get(text, False)
        if text not in _FLAGS:
            problems.append(FieldViolation(name, "must be 1 or 0"))
    in_flight = query.get("max_frames_in_flight", "1")
    places = int(in_flight) if in_flight in _PLACES else 0
    threshold = _fraction(query.get("similar_image_threshold"))
    problems += option_problems(endpoint, places, threshold)
    opening = Opening(
        endpoint=endpoint,
        values={},
        policy=FramePolicy.NEWEST if waiting == "1" else FramePolicy.RECENT,
        max_waiting=int(waiting),
        previews=flags["previews"],
        resume_token=query.get("resume_token", ""),
        resumable=flags["incremental"],
        max_in_flight=places,
        similar_threshold=threshold,
        problems=tuple(problems),
    )
    return Wish(opening, flags["incremental"])


def _fraction(text: str | None) -> float | None:
    """The number in a query, None where there is none. What is no number is in no range."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan


def endpoint_of(path: str) -> str | None:
    """The endpoint that a socket's path names, with `/realtime` behind it or without. None if there is none.

    fal's client for Python adds `/realtime` also to an id that ends so already.
    """
    found = split_path(path)
    if found is None or found[2] not in _PATHS:
        return None
    return found[0].id


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """Sockets of the run surface."""

    async def connect(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await _serve(gateway, socket)
        except (WebSocketDisconnect, RequestCancelled):
            return
        except Exception:  # noqa: BLE001  # the edge: every error is told
            _log.exception("a realtime session failed")
            with suppress(WebSocketDisconnect):
                await _close(socket, [fault_frame()], "a fault of the server", code=1011)

    return [WebSocketRoute("/{path:path}", connect)]


async def _serve(gateway: Gateway, socket: WebSocket) -> None:
    """One connection, from after its accept to its close."""
    try:
        grant = authenticate(gateway, socket)
        endpoint = endpoint_of(socket.path_params["path"])
        if endpoint is None:
            known = ", ".join(f"{name}/realtime" for name in known_ids())
            raise Problem(404, f"no realtime endpoint has this address; there are {known}", "not_found")
        wanted = wish(endpoint, socket.query_params)
        frames = Frames(
            endpoint,
            seed=secrets.randbelow(_SEEDS),
            incremental=wanted.incremental,
            link=partial(link_at_gateway, gateway, socket),
            after=int(gateway.clock() * 1000),  # a session that goes on has numbers already
        )
        admitted = replace(grant, expire_time=None)
        session = gateway.realtime.connect(admitted, wanted.opening, _incoming(socket, frames))
        async with aclosing(session) as messages:
            async for message in messages:
                await _send(socket, frames.write(message))
                if isinstance(message, Closed):
                    await _close(socket, (), message.message)
    except RequestCancelled:
        raise
    except (Unauthenticated, Forbidden) as error:
        await _close(socket, unauthorized(error.message), error.message)
    except Problem as problem:
        words = unauthorized(str(problem)) if problem.status == 401 else [refusal_frame("NOT_FOUND", str(problem))]
        await _close(socket, words, str(problem))
    except FlashbulbError as error:
        await _close(socket, [error_frame(error)], error.message)


async def _send(socket: WebSocket, frames: Sequence[Frame]) -> None:
    """Sends frames one after another; waits while the caller does not read."""
    for frame in frames:
        if isinstance(frame, str):
            await socket.send_text(frame)
        else:
            await socket.send_bytes(frame)


async def _close(socket: WebSocket, frames: Sequence[Frame], reason: str, *, code: int = 1000) -> None:
    """Last words, then the close, whose frame has room for 123 bytes of text (RFC 6455, section 5.5)."""
    await _send(socket, frames)
    await socket.close(code, reason.encode()[:123].decode(errors="ignore"))


async def _incoming(socket: WebSocket, frames: Frames) -> AsyncIterator[InputFrame]:
    """Frames as they come. Raises RequestCancelled when the caller is gone: what it waits for, nobody would see."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise RequestCancelled
        frame = message.get("bytes")
        yield frames.read(message["text"] if frame is None else frame)
