"""A realtime session as a test drives it: open, send what changes, read answers. Every read has a limit, so a hanging server is a failed test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from flashbulb.v1 import image_pb2, input_pb2, realtime_pb2, realtime_pb2_grpc
from tests.driving import SECONDS, Refusal, read_status

Drop = realtime_pb2.DropReason
Close = realtime_pb2.CloseReason
Connect = realtime_pb2.ConnectRequest
Response = realtime_pb2.ConnectResponse


def size(width: int, height: int) -> image_pb2.ImageSize:
    """A size in pixels."""
    return image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=width, height=height))


def text(**fields: object) -> input_pb2.GenerationInput:
    """Fields of `fast-lcm-diffusion`, and nothing but them."""
    return input_pb2.GenerationInput(fast_lcm_text_to_image=input_pb2.FastLcmTextToImageInput(**fields))


def frame(frame_id: int, changes: input_pb2.GenerationInput | None = None, **fields: object) -> Connect:
    """The message of a frame."""
    return Connect(frame=realtime_pb2.InputFrame(frame_id=frame_id, changes=changes or text(**fields)))


def refused(dropped: realtime_pb2.DroppedFrame) -> Refusal:
    """What the error of a receipt says."""
    return read_status(grpc.StatusCode.OK, dropped.error)


@dataclass
class Talk:
    """One connection of a session. `seen`: everything that was read."""

    call: grpc.aio.StreamStreamCall[Connect, Response]
    seen: list[Response] = field(default_factory=list)
    opened: realtime_pb2.SessionOpened = field(default_factory=realtime_pb2.SessionOpened)

    async def open(self, defaults: input_pb2.GenerationInput | None = None, **wish: object) -> Talk:
        """Opens it and reads what the server says to that."""
        given = defaults or text(prompt="a red apple", seed=7, num_inference_steps=2, image_size=size(128, 128))
        await self.say(Connect(open=realtime_pb2.OpenSession(defaults=given, **wish)))
        response = await self.read()
        assert response.WhichOneof("message") == "opened", response
        self.opened = response.opened
        return self

    async def say(self, message: Connect) -> None:
        """Sends any message."""
        async with asyncio.timeout(SECONDS):
            await self.call.write(message)

    async def send(self, frame_id: int, changes: input_pb2.GenerationInput | None = None, **fields: object) -> None:
        """Sends a frame."""
        await self.say(frame(frame_id, changes, **fields))

    async def ack(self, frame_id: int) -> None:
        """Says that a frame was shown."""
        await self.say(Connect(ack=realtime_pb2.AckFrame(frame_id=frame_id)))

    async def ping(self, nonce: int) -> None:
        """Asks for a pong."""
        await self.say(Connect(ping=realtime_pb2.Ping(nonce=nonce)))

    async def read(self, seconds: float = SECONDS) -> Response:
        """The next message. The sequence grows by one each time."""
        async with asyncio.timeout(seconds):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, "the session ended"
        self.seen.append(response)
        assert response.sequence == len(self.seen)
        return response

    async def picture(self, seconds: float = SECONDS) -> realtime_pb2.OutputFrame:
        """The next message, which must be a picture."""
        response = await self.read(seconds)
        assert response.WhichOneof("message") == "frame", response
        return response.frame

    async def dropped(self) -> realtime_pb2.DroppedFrame:
        """The next message, which must be a receipt."""
        response = await self.read()
        assert response.WhichOneof("message") == "dropped", response
        return response.dropped

    async def pong(self) -> realtime_pb2.Pong:
        """The next message, which must be a pong."""
        response = await self.read()
        assert response.WhichOneof("message") == "pong", response
        return response.pong

    async def closed(self, seconds: float = SECONDS) -> realtime_pb2.SessionClosed:
        """The next message, which must say that the session ends; the stream then ends with OK."""
        response = await self.read(seconds)
        assert response.WhichOneof("message") == "closed", response
        async with asyncio.timeout(SECONDS):
            assert await self.call.read() is grpc.aio.EOF
            assert await self.call.code() is grpc.StatusCode.OK
        return response.closed

    async def draw(self, frame_id: int, **fields: object) -> realtime_pb2.OutputFrame:
        """Sends a frame and reads its picture."""
        await self.send(frame_id, **fields)
        answer = await self.picture()
        assert answer.frame_id == frame_id
        return answer

    async def until_answered(self, frame_id: int) -> None:
        """Reads until the frame, or a later one, has its picture or receipt. Pongs and previews are read too."""
        while True:
            response = await self.read()
            if frame_id in (response.frame.frame_id, response.dropped.frame_id):
                return

    @property
    def pictures(self) -> list[int]:
        """Frames that were drawn, in the order that they came."""
        return [response.frame.frame_id for response in self.seen if response.HasField("frame")]

    @property
    def receipts(self) -> list[tuple[int, realtime_pb2.DropReason.ValueType]]:
        """Frames that were not drawn, and why."""
        return [(r.dropped.frame_id, r.dropped.reason) for r in self.seen if r.HasField("dropped")]


@asynccontextmanager
async def talking(
    stub: realtime_pb2_grpc.RealtimeServiceAsyncStub, metadata: tuple[tuple[str, str], ...]
) -> AsyncIterator[Talk]:
    """A connection without a word yet. It is broken off at the end, if it has not ended."""
    call = stub.Connect(metadata=metadata)
    try:
        yield Talk(call)
    finally:
        call.cancel()
