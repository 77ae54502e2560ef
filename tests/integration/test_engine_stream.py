"""Api and worker over a real connection: many drawings on one, and what becomes of them when one side stops, breaks or is full."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from flashbulb.internal.v1 import engine_pb2
from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.engines import DrawOrder, Engines, WorkerGone
from flashbulb_server.api.generating import DirectCall
from flashbulb_server.errors import (
    DataUnreadable,
    EngineFailed,
    FlashbulbError,
    NewerRelease,
    NoWorker,
    RequestCancelled,
    WorkersBusy,
)
from flashbulb_server.wire.inputs import to_input
from flashbulb_server.wire.link import Link, connect, listen
from flashbulb_server.wire.status import from_status
from flashbulb_server.wire.times import to_duration
from flashbulb_server.worker.engine import WAITING_PER_SLOT
from flashbulb_server.worker.server import EngineServicer, serve_engine
from tests.integration.live import Api, GatedPipeline, Worker, open_api, open_worker
from tests.integration.stage import Queue, eventually
from tests.specs import make_spec

pytestmark = pytest.mark.integration
SECONDS = 10.0


def spec(**values: object) -> object:
    return make_spec(**{"model_name": "sleeping", "width": 8, "height": 8, "sync_mode": True, **values})


class Stream:
    """A raw connection to a worker."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int]] = []
        self.link = Link(engine_pb2.DrawResponse, self._take, self._ended)
        self._answers: asyncio.Queue[engine_pb2.DrawResponse | None] = asyncio.Queue()

    def _take(self, response: engine_pb2.DrawResponse) -> None:
        self._answers.put_nowait(response)

    def _ended(self) -> None:
        self._answers.put_nowait(None)

    async def start(
        self, call_id: int, *, include_progress: bool = False, include_previews: bool = False, **values: object
    ) -> None:
        """Asks for a drawing."""
        timeout = values.pop("timeout", None)
        start = engine_pb2.StartDrawing(
            request_id=f"r{call_id}",
            owner="tester",
            input=to_input(spec(**values)),
            include_progress=include_progress,
            include_previews=include_previews,
            timeout=None if timeout is None else to_duration(timeout),
        )
        self.link.send(engine_pb2.DrawRequest(call_id=call_id, start=start))

    async def cancel(self, call_id: int) -> None:
        """Stops one."""
        self.link.send(engine_pb2.DrawRequest(call_id=call_id, cancel=engine_pb2.CancelDrawing()))

    async def answer(self) -> tuple[int, FlashbulbError | None]:
        """The next call that ends, and its error."""
        while True:
            async with asyncio.timeout(SECONDS):
                response = await self._answers.get()
            assert response is not None, "the connection ended"
            if response.HasField("progress"):
                self.progress.append((response.call_id, response.progress.step))
            elif response.HasField("preview"):
                continue
            elif response.HasField("error"):
                return response.call_id, from_status(response.error)
            else:
                assert response.output.images[0].content
                return response.call_id, None

    def read(self, go_on: bool) -> None:
        """Reads on, or reads nothing more for now."""
        transport = self.link._transport
        transport.resume_reading() if go_on else transport.pause_reading()

    async def end(self) -> None:
        """Waits until the worker ends the connection."""
        async with asyncio.timeout(SECONDS):
            assert await self._answers.get() is None


@asynccontextmanager
async def streaming(worker: Worker) -> AsyncIterator[Stream]:
    stream = Stream()
    await connect(worker.announcement.address, stream.link)
    try:
        yield stream
    finally:
        stream.link.abort()


@dataclass
class Wire:
    """A TCP connection to a worker through the test's hands. `cut`: what is sent gets lost, and nobody is told."""

    target: str
    address: str = ""
    cut: bool = False

    @classmethod
    @asynccontextmanager
    async def to(cls, target: str) -> AsyncIterator[Wire]:
        wire = cls(target)
        async with asyncio.TaskGroup() as tasks:
            wires: list[asyncio.Task[None]] = []

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                host, _, port = wire.target.rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
                wires.append(tasks.create_task(wire._carry(reader, back)))
                wires.append(tasks.create_task(wire._carry(there, writer)))

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            wire.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield wire
            finally:
                server.close()
                for task in wires:
                    task.cancel()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if not self.cut:
                    sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()


@pytest.fixture
async def worker(queue: Queue) -> AsyncIterator[Worker]:
    """A worker that waits in every step until `worker.pipeline.let_go()`."""
    async with open_worker(queue, GatedPipeline(), drain_seconds=5) as running:
        yield running


async def test_every_call_is_answered_once_and_progress_is_told(worker: Worker, gate: GatedPipeline) -> None:
    gate.let_go()
    async with streaming(worker) as stream:
        await stream.start(1, include_progress=True)
        await stream.start(2, seed=8)
        assert {await stream.answer(), await stream.answer()} == {(1, None), (2, None)}
        assert stream.progress == [(1, step) for step in (1, 2, 3, 4)]


async def test_a_number_that_is_in_use_is_not_begun_again(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as stream:
        await stream.start(1)
        await gate.entered()
        await stream.start(1, prompt="another")
        await stream.start(2)
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 2)
        gate.let_go()
        assert {await stream.answer(), await stream.answer()} == {(1, None), (2, None)}
        await stream.start(3)
        assert await stream.answer() == (3, None), "and nothing else was answered in between"
    assert sum(gate.batches) == 12


async def test_a_cancelled_call_tells_its_step(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as stream:
        await stream.start(1, num_inference_steps=30)
        for _ in range(2):
            await gate.entered()
            gate.let_go(1)
        await gate.entered()
        await stream.cancel(1)
        await stream.cancel(99)  # of no call
        await stream.cancel(1)
        await stream.start(
            2, num_inference_steps=1, prompt="bad"
        )  # taken in order: when it fails, the others were heard
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 2)
        gate.let_go(1)
        ended = dict([await stream.answer(), await stream.answer()])
        stopped = ended[1]
        assert isinstance(stopped, RequestCancelled)
        assert (stopped.step, stopped.total_steps) == (3, 30)
        assert ended[2] is not None
        gate.let_go()
        await stream.cancel(1)  # long over
        await stream.start(3)
        assert await stream.answer() == (3, None)
    await worker.free()


async def test_a_call_that_is_cancelled_while_its_picture_is_encoded_has_done_all_steps(
    worker: Worker, gate: GatedPipeline
) -> None:
    gate.let_go()
    large = {"num_images": 8, "width": 2048, "height": 2048, "format": "png", "num_inference_steps": 2}
    async with streaming(worker) as stream:
        await stream.start(1, **large)
        await eventually(lambda: len(gate.batches) == 2)
        await worker.free()  # drawn; eight large pictures take a while to encode
        await stream.cancel(1)
        call_id, error = await stream.answer()
        assert call_id == 1
        assert isinstance(error, RequestCancelled)
        assert (error.step, error.total_steps) == (2, 2)
        await stream.start(2)
        assert await stream.answer() == (2, None)


async def test_what_cannot_be_done_in_time_is_refused_at_once(worker: Worker, gate: GatedPipeline) -> None:
    gate.seconds = 0.02
    gate.let_go()
    async with streaming(worker) as stream:
        for call_id in range(1, 4):
            await stream.start(call_id)
            assert await stream.answer() == (call_id, None)
        await stream.start(9, num_inference_steps=32, timeout=0.05)
        call_id, error = await stream.answer()
        assert call_id == 9
        assert isinstance(error, WorkersBusy)
        assert error.retry_after
        await stream.start(10, timeout=5.0)
        assert await stream.answer() == (10, None)


async def test_a_stream_that_breaks_frees_the_engine(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as broken, streaming(worker) as other:
        for call_id in range(1, 6):
            await broken.start(call_id, num_inference_steps=32)
        await other.start(1)
        await gate.entered()
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 6)
        broken.link.abort()
        await eventually(lambda: len(worker.servicer._streams) == 1)
        gate.let_go()
        assert await other.answer() == (1, None)
        await worker.free()
    assert len(gate.batches) < 12, "the broken stream's drawings stopped"


async def test_an_api_that_closes_its_side_ends_the_stream(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as stream:
        await stream.start(1, num_inference_steps=32)
        await gate.entered()
        stream.link._transport.write_eof()
        await stream.end()
        gate.let_go()
    await worker.free()


async def test_a_worker_that_drains_finishes_what_it_draws(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as stream, streaming(worker) as idle:
        await idle.start(1, prompt="bad")
        await idle.answer()
        await stream.start(1)
        await gate.entered()
        worker.servicer.drain()
        await idle.end()
        await stream.start(2)
        call_id, error = await stream.answer()
        assert (call_id, error and error.reason) == (2, "DRAINING")
        gate.let_go()
        assert await stream.answer() == (1, None)
        await stream.end()
    async with streaming(worker) as late:
        await late.end()


async def generate(api: Api, **values: object) -> GenerationOutput:
    """A picture by way of the api."""
    async with asyncio.timeout(SECONDS):
        async for event in api.generating.generate(spec(**values), DirectCall("tester")):
            if isinstance(event, GenerationOutput):
                return event
    raise AssertionError("no picture")


async def test_a_draining_or_full_worker_is_passed_over(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async with open_worker(queue, GatedPipeline(), capacity=1) as second:
        assert isinstance(second.pipeline, GatedPipeline)
        await api.knows(worker, second)
        await second.announce(in_flight=1)
        await worker.announce(in_flight=0)
        await eventually(lambda: [w.in_flight for w in api.fleet.workers() if w.capacity == 1] == [1])
        gate.let_go()
        await generate(api)
        assert (len(gate.batches), second.pipeline.batches) == (4, [])
        worker.servicer.drain()  # its announcement does not say so yet
        second.pipeline.let_go()
        await generate(api)
        assert (len(gate.batches), len(second.pipeline.batches)) == (4, 4)


async def test_a_full_worker_is_passed_over(queue: Queue, api: Api, worker: Worker, gate: GatedPipeline) -> None:
    async with open_worker(queue, GatedPipeline(), capacity=1) as full, streaming(full) as stream:
        assert isinstance(full.pipeline, GatedPipeline)
        await worker.announce(in_flight=7)
        await api.knows(worker, full)
        await eventually(lambda: {w.in_flight for w in api.fleet.workers()} == {0, 7})
        held = 1 + WAITING_PER_SLOT
        for call_id in range(held):
            await stream.start(call_id)
        await eventually(lambda: full.engine.in_flight + full.engine.waiting == held)
        gate.let_go()
        await generate(api)
        assert len(gate.batches) == 4
        await worker.announce(draining=True)
        await api.knows(full)
        with pytest.raises(WorkersBusy):
            await generate(api)
        full.pipeline.let_go()
        for _ in range(held):
            assert (await stream.answer())[1] is None


async def test_a_worker_that_is_lost_before_it_said_anything_is_passed_over(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async with open_worker(queue, GatedPipeline()) as second:
        assert isinstance(second.pipeline, GatedPipeline)
        second.pipeline.let_go()
        await second.announce(in_flight=3)
        await api.knows(worker, second)
        await eventually(lambda: {w.in_flight for w in api.fleet.workers()} == {0, 3})
        await api.engines.start(worker.announcement.address, DrawOrder("r", "tester", spec()))
        await gate.entered()
        drawing = asyncio.ensure_future(generate(api))
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 2)
        stopping = asyncio.ensure_future(worker.stop())
        gate.let_go()
        await stopping
        result = await drawing
        assert result.images[0].content


async def test_a_worker_that_is_lost_while_it_draws_is_not_replaced_for_a_direct_call(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async def stream() -> None:
        call = DirectCall("tester", progress=True)
        async for _ in api.generating.generate(spec(num_inference_steps=30), call):
            told.set()

    told = asyncio.Event()
    drawing = asyncio.ensure_future(stream())
    await gate.entered()
    gate.let_go(1)
    await asyncio.wait_for(told.wait(), SECONDS)
    worker.servicer._streams.copy().pop().link.close()  # in the middle
    with pytest.raises(NoWorker) as caught:
        await asyncio.wait_for(drawing, SECONDS)
    assert caught.value.retry_after is None


async def test_two_apis_share_a_worker(queue: Queue, api: Api, worker: Worker, gate: GatedPipeline) -> None:
    async with open_api(queue) as second:
        await second.knows(worker)
        drawing = [asyncio.ensure_future(generate(a, seed=n)) for n, a in enumerate([api, second] * 4)]
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 8)
        gate.let_go()
        results = await asyncio.gather(*drawing)
        assert max(gate.batches) == 8
        assert [result.images[0].seed for result in results] == list(range(8))
    assert await generate(api)


async def test_many_cancellations_of_one_call_send_one_message(worker: Worker, gate: GatedPipeline) -> None:
    async with Engines() as engines:
        call = await engines.start(worker.announcement.address, DrawOrder("r", "tester", spec(num_inference_steps=30)))
        await gate.entered()
        with closing(call):
            sent: list[object] = []
            send = call._stream.link.send
            call._stream.link.send = lambda message: (sent.append(message), send(message))
            for _ in range(1000):
                call.cancel()
            assert len(sent) == 1
            bad = await engines.start(worker.announcement.address, DrawOrder("s", "tester", spec(prompt="bad")))
            with closing(bad):
                failing = asyncio.ensure_future(
                    anext(bad)
                )  # once it fails, the cancellation was heard: messages keep their order
                while not failing.done():
                    gate.let_go(1)
                    await asyncio.sleep(0.01)
                with pytest.raises(EngineFailed):
                    await failing
            gate.let_go()
            with pytest.raises(RequestCancelled):
                await asyncio.wait_for(anext(call), SECONDS)


@pytest.mark.slow
async def test_a_worker_that_hangs_is_given_up(worker: Worker, gate: GatedPipeline) -> None:
    async with Wire.to(worker.announcement.address) as wire, Engines(ping_seconds=0.5) as engines:
        call = await engines.start(wire.address, DrawOrder("r", "tester", spec(num_inference_steps=2)))
        gate.let_go()
        with closing(call):
            assert await asyncio.wait_for(anext(call), SECONDS)
        held = await engines.start(wire.address, DrawOrder("r", "tester", spec(num_inference_steps=2)))
        with closing(held):
            assert await asyncio.wait_for(anext(held), SECONDS)
        wire.cut = True
        lost = await engines.start(wire.address, DrawOrder("r", "tester", spec(num_inference_steps=2)))
        with closing(lost), pytest.raises(WorkerGone):
            await asyncio.wait_for(anext(lost), 15)


@pytest.mark.slow
async def test_a_worker_that_is_asked_whether_it_lives_while_it_draws_for_long_is_not_given_up(
    worker: Worker, gate: GatedPipeline
) -> None:
    async with Engines(ping_seconds=1.1) as engines:
        call = await engines.start(worker.announcement.address, DrawOrder("r", "tester", spec()))
        await gate.entered()
        with closing(call):
            waiting = asyncio.ensure_future(anext(call))
            # Six pings and no data: it must not take that for an attack.
            done, _ = await asyncio.wait({waiting}, timeout=7)
            assert not done
            gate.let_go()
            assert await asyncio.wait_for(waiting, SECONDS)


async def test_an_api_that_does_not_read_gets_nothing_more_drawn(worker: Worker, gate: GatedPipeline) -> None:
    gate.let_go()
    asked = 0
    async with streaming(worker) as deaf:
        (served,) = worker.servicer._streams
        for link, buffer in ((deaf.link, socket.SO_RCVBUF), (served.link, socket.SO_SNDBUF)):
            link._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, 4096)
        served.link._transport.set_write_buffer_limits(high=20_000)
        deaf.read(False)
        stuck = 0
        while stuck < 3:  # the system still takes some of what was written: it must stay so
            for _ in range(0 if served.link.congested else 8):
                await deaf.start(asked, include_progress=True, width=512, height=512)
                asked += 1
            await eventually(lambda steps=4 * asked: served.link.congested or sum(gate.batches) == steps)
            await worker.free()
            await asyncio.sleep(0.05)
            stuck = stuck + 1 if served.link.congested else 0
            assert asked < 1000
        drawn = len(gate.batches)
        for _ in range(8):
            await deaf.start(asked)
            asked += 1
        await asyncio.sleep(0.2)
        assert len(gate.batches) == drawn, "what it asks for is not even read"
        assert served.link.unsent_bytes < 1_000_000
        deaf.read(True)
        assert {await deaf.answer() for _ in range(asked)} == {(call_id, None) for call_id in range(asked)}


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"flashbulb engine 1\n" + b"\xff\xff\xff\xff", b"flashbulb engine 1\n\0\0\0\1\xff"],
    ids=["another protocol", "a message too long", "no protobuf"],
)
async def test_who_speaks_otherwise_is_cut_off(worker: Worker, gate: GatedPipeline, sent: bytes) -> None:
    host, _, port = worker.announcement.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for index in range(len(sent)):  # in pieces, as a network may bring it
        writer.write(sent[index : index + 1])
        await asyncio.sleep(0)
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            assert await reader.read() == b"flashbulb engine 1\n"
    writer.close()
    await eventually(lambda: not worker.servicer._streams)


async def test_what_is_no_valid_order_is_refused_and_nothing_else(worker: Worker, gate: GatedPipeline) -> None:
    gate.let_go()
    asked = to_input(spec())
    asked.fast_lcm_text_to_image.format = 99  # of a newer release
    async with streaming(worker) as stream:
        stream.link.send(engine_pb2.DrawRequest(call_id=1, start=engine_pb2.StartDrawing()))
        call_id, error = await stream.answer()
        assert (call_id, type(error)) == (1, DataUnreadable)
        stream.link.send(engine_pb2.DrawRequest(call_id=2, start=engine_pb2.StartDrawing(input=asked)))
        call_id, error = await stream.answer()
        assert (call_id, type(error)) == (2, NewerRelease)
        stream.link.send(engine_pb2.DrawRequest(call_id=3))
        await stream.start(4)
        assert await stream.answer() == (4, None)


@asynccontextmanager
async def speaking(
    answer: Callable[[Link[engine_pb2.DrawRequest], engine_pb2.DrawRequest], None],
) -> AsyncIterator[str]:
    """The address of what takes a worker's connections, and answers each order in a way of its own."""

    def accept() -> Link[engine_pb2.DrawRequest]:
        link = Link(engine_pb2.DrawRequest, lambda order: answer(link, order), lambda: None)
        return link

    async with listen("127.0.0.1:0", accept) as address:
        yield address


async def test_an_error_that_cannot_be_read_costs_its_call_alone() -> None:
    def answer(link: Link[engine_pb2.DrawRequest], order: engine_pb2.DrawRequest) -> None:
        response = engine_pb2.DrawResponse(call_id=order.call_id)
        if order.call_id == 1:
            response.error.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
        else:
            response.output.seed = 7
        link.send(response)

    async with speaking(answer) as address, Engines() as engines:
        first, second = [await engines.start(address, DrawOrder("r", "tester", spec())) for _ in range(2)]
        with pytest.raises(EngineFailed):
            await anext(first)
        assert (await anext(second)).seed == 7


async def test_an_answer_that_cannot_be_read_costs_its_connection_alone(worker: Worker, gate: GatedPipeline) -> None:
    def answer(link: Link[engine_pb2.DrawRequest], order: engine_pb2.DrawRequest) -> None:
        assert link._transport is not None
        link._transport.write(b"\x00\x00\x00\x01\xff")

    gate.let_go()
    async with speaking(answer) as address, Engines() as engines:
        calls = [await engines.start(address, DrawOrder("r", "tester", spec())) for _ in range(2)]
        other = await engines.start(worker.announcement.address, DrawOrder("r", "tester", spec()))
        for call in calls:
            with pytest.raises(WorkerGone):
                await anext(call)
        assert isinstance([event async for event in other][-1], GenerationOutput)


async def test_a_call_that_is_stopped_together_with_its_start_is_answered(worker: Worker, gate: GatedPipeline) -> None:
    async with streaming(worker) as stream:
        await stream.start(1)
        await stream.cancel(1)
        call_id, error = await stream.answer()
        assert (call_id, type(error)) == (1, RequestCancelled)
    await worker.free()


async def test_a_worker_that_takes_connections_and_says_nothing_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        async with Engines() as engines:
            with pytest.raises(WorkerGone):
                await asyncio.wait_for(engines.start(address, DrawOrder("r", "tester", spec())), SECONDS)


async def test_a_unix_socket_serves_and_one_that_was_left_behind_is_replaced(
    worker: Worker, gate: GatedPipeline, tmp_path: Path
) -> None:
    gate.let_go()
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    means = worker.servicer._means
    servicer = EngineServicer(means.engine, means.inputs, means.delivery)
    async with serve_engine(servicer, f"unix:{path}", drain_seconds=1) as address, Engines() as engines:
        with closing(await engines.start(address, DrawOrder("r", "tester", spec()))) as call:
            assert isinstance(await asyncio.wait_for(anext(call), SECONDS), GenerationOutput)


async def test_a_worker_that_does_not_answer_is_given_up_soon() -> None:
    async with Engines() as engines:
        with pytest.raises(WorkerGone):
            await asyncio.wait_for(engines.start("127.0.0.1:1", DrawOrder("r", "tester", spec())), SECONDS)


async def test_a_worker_that_is_forgotten_ends_its_calls(worker: Worker, gate: GatedPipeline) -> None:
    async with Engines() as engines:
        call = await engines.start(worker.announcement.address, DrawOrder("r", "tester", spec()))
        await gate.entered()
        engines.forget(set())
        with closing(call), pytest.raises(WorkerGone):
            await asyncio.wait_for(anext(call), SECONDS)
        gate.let_go()
    await worker.free()
