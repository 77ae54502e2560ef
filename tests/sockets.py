"""A realtime socket as a test drives it, in the words of fal's protocol. Every wait has a limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.service import KEY, RunningService

LCM = "fal-ai/fast-lcm-diffusion"
SECONDS = 30.0
APPLE: dict[str, object] = {
    "prompt": "a red apple",
    "image_size": {"width": 128, "height": 128},
    "num_inference_steps": 2,
}


@dataclass
class Socket:
    """One connection. `told`: messages that clients skip, in the order that they came."""

    ws: ClientConnection
    told: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, **given: object) -> None:
        """Sends a frame in msgpack."""
        await self.ws.send(msgpack.packb(given))

    async def read(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next message of any kind."""
        async with asyncio.timeout(seconds):
            frame = await self.ws.recv()
        return dict(json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame))

    async def answer(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next message that a client does not skip."""
        while (message := await self.read(seconds)).get("type") == "x-fal-message":
            self.told.append(message)
        return message

    async def draw(self, **given: object) -> dict[str, Any]:
        """Sends a frame and reads its picture."""
        await self.send(**{**APPLE, **given})
        answer = await self.answer()
        assert "images" in answer, answer
        return answer

    async def closed(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Reads to the end; gives the code and the reason of the server's Close frame."""
        try:
            while True:
                self.told.append(await self.read(seconds))
        except ConnectionClosed as end:
            assert end.rcvd is not None, "the connection broke"
            return end.rcvd.code, end.rcvd.reason


@asynccontextmanager
async def socket(
    service: RunningService, path: str = f"{LCM}/realtime", *, key: str | None = KEY, **query: object
) -> AsyncIterator[Socket]:
    """A socket below /run. `key` None: none is sent, for a token in the query."""
    address = f"ws://{service.http_address}/run/{path}"
    if query:
        address += f"?{urlencode(query)}"
    headers = {"Authorization": f"Key {key}"} if key else {}
    async with connect(address, additional_headers=headers, max_size=None, proxy=None, open_timeout=SECONDS) as ws:
        yield Socket(ws)


@asynccontextmanager
async def http(service: RunningService, *, key: str | None = KEY) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    headers = {"Authorization": f"Key {key}"} if key else {}
    async with httpx.AsyncClient(
        base_url=f"http://{service.http_address}", headers=headers, trust_env=False, timeout=SECONDS
    ) as client:
        yield client
