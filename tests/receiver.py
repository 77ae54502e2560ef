"""A receiver of webhooks as a user would run one: an HTTP server, and a verifier written from the public description alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

REASONS = {200: "OK", 302: "Found", 410: "Gone", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Delivered:
    """A post that came. `headers` by lower-case name; `headers["host"]` is what was asked for."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found

    @property
    def request_id(self) -> str:
        return str(self.json["request_id"])


Answer = Callable[[Delivered], int | Awaitable[int]]


@dataclass(slots=True)
class Receiver:
    """`async with`, or `start` and `stop`, which keep the port. `answer` gives the status of each post; 0 hangs up."""

    answer: Answer = lambda _: 200
    came: list[Delivered] = field(default_factory=list)
    port: int = 0
    open: int = 0
    most_open: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=t0p-s3cret"

    def ids(self) -> list[str]:
        """Request ids of what came, in order."""
        return [delivered.request_id for delivered in self.came]

    async def wait_for(self, count: int, seconds: float = 20.0) -> list[Delivered]:
        """What came, once there are so many."""
        deadline = time.monotonic() + seconds
        while len(self.came) < count:
            assert time.monotonic() < deadline, f"{len(self.came)} of {count} came within {seconds} s"
            await asyncio.sleep(0.01)
        return self.came

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert first.startswith("POST "), first
            body = await reader.readexactly(int(headers["content-length"]))
            delivered = Delivered(first.split(" ")[1], headers, body, time.time())
            self.came.append(delivered)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                status = self.answer(delivered)
                if inspect.isawaitable(status):
                    status = await status
            finally:
                self.open -= 1
            if status:
                location = "Location: http://127.0.0.1:1/\r\n" if status == 302 else ""
                answer = f"HTTP/1.1 {status} {REASONS.get(status, 'X')}\r\n{location}Content-Length: 2\r\n\r\nok"
                writer.write(answer.encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def verified(headers: Mapping[str, str], body: bytes, jwks: Sequence[Mapping[str, str]], *, now: float = 0.0) -> bool:
    """Step by step as fal's documentation tells receivers to check a webhook, in its Python form: the padding of `x` is not mended."""
    request_id = headers["x-fal-webhook-request-id"]
    user_id = headers["x-fal-webhook-user-id"]
    timestamp = headers["x-fal-webhook-timestamp"]
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    if abs((now or time.time()) - int(timestamp)) > 300:
        return False
    message = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode("utf-8")
    for key_info in jwks:
        public_key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key_info["x"]))
        try:
            public_key.verify(signature, message)
            return True
        except InvalidSignature:
            continue
    return False
