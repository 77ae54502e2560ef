"""What is compared: this service by each of its ways in, and the peers, each around the same sleeping engine and the same picture."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from flashbulb.v1 import generation_pb2, input_pb2, queue_pb2, realtime_pb2
from flashbulb_server.supervisor.process import bound_to_this_process
from tests.bench.load import Call, http_caller
from tests.service import RunningService, Stubs, apple, auth, stubs
from tests.sleeping_worker import SIDE

_PEERS_HOME = Path(__file__).parent.parent.parent / ".bench-venv"
PEERS_INSTALLED = (_PEERS_HOME / ".installed").exists()
_PEERS_PYTHON = str(_PEERS_HOME / "bin" / "python")
_FOLDER = Path(__file__).parent / "peers"
_BODY = json.dumps({"prompt": "a red apple"}).encode()
_MODEL_INFER = b"\n\x07painter*!\n\x06prompt\x12\x05BYTES\x1a\x01\x01*\rB\x0ba red apple"
"""inference.ModelInferRequest: model `painter`, one input `prompt` of type BYTES with the one element `a red apple`."""

_START_SECONDS = 60
_PEERS = {"LitServe": ("lit", "/predict"), "mosec": ("mosec_app", "/inference"), "MLServer": ("mlserver_app", "")}
PEERS = tuple(_PEERS)
NOT_PYTHON = ("mosec",)
MAX_BATCH = 8


@dataclass(frozen=True, slots=True)
class Target:
    """Something that gives pictures. `open` gives a way to call it; `pid` is the first of its processes; `live`: by realtime sessions."""

    name: str
    pid: int
    open: Callable[[], AbstractAsyncContextManager[Call]]
    live: bool = False


def picture(prompt: str = "a red apple", steps: int = 1) -> input_pb2.GenerationInput:
    """An input of the sleeping model: `steps` calls of its engine, 60 kB inline."""
    given = apple(prompt=prompt, num_inference_steps=steps, sync_mode=True)
    size = given.fast_lcm_text_to_image.image_size.dimensions
    size.width = size.height = SIDE
    return given


def ours(service: RunningService) -> list[Target]:
    """This service's ways in."""

    def way(
        call: Callable[[Stubs], AbstractAsyncContextManager[Call]],
    ) -> Callable[[], AbstractAsyncContextManager[Call]]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Call]:
            async with grpc.aio.insecure_channel(service.address) as channel, call(stubs(channel)) as caller:
                yield caller

        return opened

    return [
        Target("flashbulb Generate", service.pid, way(_generate)),
        Target("flashbulb realtime", service.pid, way(_realtime), live=True),
        Target("flashbulb queue", service.pid, way(_queue)),
    ]


@asynccontextmanager
async def _generate(call: Stubs) -> AsyncIterator[Call]:
    request = generation_pb2.GenerateRequest(input=picture())

    async def one() -> None:
        await call.generation.Generate(request, metadata=auth())

    yield one


@asynccontextmanager
async def _queue(call: Stubs) -> AsyncIterator[Call]:
    async def one() -> None:
        submitted = await call.queue.Submit(queue_pb2.SubmitRequest(input=picture()), metadata=auth())
        request_id = submitted.request.request_id
        async for _ in call.queue.WatchStatus(queue_pb2.WatchStatusRequest(request_id=request_id), metadata=auth()):
            pass
        await call.queue.GetResult(queue_pb2.GetResultRequest(request_id=request_id), metadata=auth())

    yield one


@asynccontextmanager
async def _realtime(call: Stubs) -> AsyncIterator[Call]:
    """Sessions that stay open, one for each frame in flight."""
    free: list[tuple[grpc.aio.StreamStreamCall, list[int]]] = []
    everything = []

    async def one() -> None:
        if not free:
            free.append((await _session(call), [0]))
            everything.append(free[-1][0])
        session, count = free.pop()
        count[0] += 1
        frame = realtime_pb2.InputFrame(frame_id=count[0])
        await session.write(realtime_pb2.ConnectRequest(frame=frame))
        while (await session.read()).WhichOneof("message") != "frame":
            pass
        free.append((session, count))

    try:
        yield one
    finally:
        for session in everything:
            session.cancel()


async def _session(call: Stubs) -> grpc.aio.StreamStreamCall:
    session = call.realtime.Connect(metadata=auth())
    await session.write(realtime_pb2.ConnectRequest(open=realtime_pb2.OpenSession(defaults=picture())))
    opened = await session.read()
    assert opened.WhichOneof("message") == "opened", opened
    return session


@contextmanager
def floor(seconds: float, folder: Path) -> Iterator[Target]:
    """grpc.aio and a batcher, in the peers' environment or, without it, in this one."""
    python = _PEERS_PYTHON if PEERS_INSTALLED else sys.executable
    with _running(python, "floor", seconds, MAX_BATCH, folder) as (pid, port):
        yield Target("raw grpc.aio (floor)", pid, lambda: _grpc_bytes(port, "/bench.Floor/Draw", b"a red apple"))


@contextmanager
def peer(name: str, seconds: float, max_batch: int, folder: Path) -> Iterator[Target]:
    """LitServe, mosec or MLServer."""
    module, path = _PEERS[name]
    with _running(_PEERS_PYTHON, module, seconds, max_batch, folder) as (pid, port):
        if path:
            yield Target(name, pid, lambda: http_caller(port, path, _BODY))
        else:
            method = "/inference.GRPCInferenceService/ModelInfer"
            yield Target(name, pid, lambda: _grpc_bytes(port, method, _MODEL_INFER))


@asynccontextmanager
async def _grpc_bytes(port: int, method: str, request: bytes) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        draw = channel.unary_unary(method)  # without serializers bytes stay bytes

        async def one() -> None:
            assert len(await draw(request)) > 50_000

        yield one


@contextmanager
def _running(python: str, module: str, seconds: float, max_batch: int, folder: Path) -> Iterator[tuple[int, int]]:
    """A script of the folder `peers` that listens on a free port; with all that it started it is killed at the end."""
    port, http_port = _free_ports(2)
    variables = {"SLEEPING_SECONDS": seconds, "MAX_BATCH": max_batch, "PORT": port, "HTTP_PORT": http_port}
    log = folder / f"{module}-{max_batch}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound_to_this_process((python, str(_FOLDER / f"{module}.py")), signal.SIGTERM),
            cwd=folder,
            env=os.environ | {name: str(value) for name, value in variables.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(process, port, log)
        yield process.pid, port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
