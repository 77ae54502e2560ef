"""The api's side of EngineService: one channel a worker, kept open."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
from grpc_status import rpc_status

from flashbulb.internal.v1 import engine_pb2, engine_pb2_grpc
from flashbulb_server.core.generation import GenerationResult, GenerationSpec, PreviewImage, Progress
from flashbulb_server.errors import FlashbulbError, NoWorker
from flashbulb_server.wire.inputs import to_input
from flashbulb_server.wire.outputs import from_output, from_preview, from_progress
from flashbulb_server.wire.status import from_status

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class WorkerGone(Exception):
    """The worker's connection broke. `started`: whether it had said anything, so that trying another is no repetition."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the worker's connection broke")
        self.started = started


class Engines:
    """Channels to workers. `async with`: closes them at the end."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Engines:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def forget(self, addresses: set[str]) -> None:
        """Closes channels of workers that are not among `addresses`."""
        for address in [a for a in self._channels if a not in addresses]:
            await self._channels.pop(address).close()

    async def run(
        self,
        address: str,
        *,
        request_id: str,
        owner: str,
        spec: GenerationSpec,
        progress: bool,
        previews: bool,
        timeout: float | None,
    ) -> AsyncGenerator[Progress | PreviewImage | GenerationResult, None]:
        """Draws on a worker. Closing the iterator stops it at the next step.

        Raises WorkerGone, TimeoutError, and what the worker raises.
        """
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        call = engine_pb2_grpc.EngineServiceStub(channel).Run(
            engine_pb2.RunRequest(
                request_id=request_id,
                owner=owner,
                input=to_input(spec),
                include_progress=progress,
                include_previews=previews,
            ),
            timeout=timeout,
        )
        started = False
        try:
            async for response in call:
                started = True
                match response.WhichOneof("event"):
                    case "progress":
                        yield from_progress(response.progress)
                    case "preview":
                        yield from_preview(response.preview)
                    case "output":
                        yield from_output(response.output)
        except grpc.aio.AioRpcError as err:
            raise _translated(err, started=started) from err
        finally:
            call.cancel()


def _translated(err: grpc.aio.AioRpcError, *, started: bool) -> Exception:
    status = rpc_status.from_call(err)
    if status is not None:
        return from_status(status)
    if err.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError()
    if err.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return WorkerGone(started=started)
    error: FlashbulbError = NoWorker(f"the worker answered {err.code().name}", retry_after=1.0)
    return error
