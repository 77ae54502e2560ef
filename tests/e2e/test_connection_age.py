"""Connections end by themselves, so that callers come to new replicas: nobody sees an error of it, and open streams go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest

from flashbulb import AsyncClient
from flashbulb.v1 import model_pb2, realtime_pb2
from flashbulb_server.core.tasks import task_group
from tests.service import KEY, RunningService, apple, auth, stubs

pytestmark = pytest.mark.timeout(120)

SMALL = {"image_size": (128, 128), "num_inference_steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose connections end soon."""
    running = RunningService(tmp_path_factory.mktemp("age"), API__MAX_CONNECTION_AGE_SECONDS=0.3)
    running.start()
    yield running
    assert running.stop() == 0
    assert running.errors() == []


class Relay:
    """Stands between callers and a server, and counts the connections that came, and those there are."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.came = self.open = 0
        self._host, _, self._port = target.rpartition(":")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.came += 1
        self.open += 1
        there, back = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        self.open -= 1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """A relay while the context is open."""
    made = Relay(target)
    async with task_group() as tasks:
        server = await asyncio.start_server(lambda *ends: tasks.create_task(made.serve(*ends)) and None, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        made.address = f"{host}:{port}"
        yield made
        server.close()


async def test_a_channel_moves_on_and_an_open_stream_lives_on(short_lived: RunningService) -> None:
    async with relay(short_lived.address) as between, grpc.aio.insecure_channel(between.address) as channel:
        call = stubs(channel)
        session = call.realtime.Connect(metadata=auth(), timeout=100)
        await session.write(realtime_pb2.ConnectRequest(open=realtime_pb2.OpenSession(defaults=apple())))
        assert (await session.read()).HasField("opened")
        while between.came < 6:
            await call.models.ListModels(model_pb2.ListModelsRequest(), metadata=auth(), timeout=10)
        assert between.open >= 2  # that of the session, and one for new calls
        await session.write(realtime_pb2.ConnectRequest(frame=realtime_pb2.InputFrame(frame_id=1)))
        assert (await session.read()).frame.frame_id == 1
        session.cancel()


async def test_the_client_sees_no_error_when_connections_end(short_lived: RunningService) -> None:
    async with (
        relay(short_lived.address) as between,
        AsyncClient(KEY, between.address) as client,
        client.realtime(**SMALL) as session,
    ):
        first = session.session_id

        async def call() -> None:
            while between.came < 10:
                await client.models()
                await client.generate(prompt="a red apple", **SMALL)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(call())
        number = await session.send(prompt="a red apple")
        assert (await session.latest()).frame_id == number
        assert session.session_id == first
