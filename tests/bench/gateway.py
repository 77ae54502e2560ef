"""What the HTTP gateway adds to gRPC for the same picture, and what clients that poll cost.

1. The same picture of the same sleeping engine, by `Generate` and by `POST /run/...`, one caller, one call after another, in turns.
2. As many clients as are promised poll requests of their own ten times a second, each over its own connection, as fal-client does; what is
   told is the processor time of the api alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench.figures import Report, Table, at_most, percentile, spread
from tests.bench.load import Call, closed_loop, processor_seconds
from tests.bench.targets import ours
from tests.gateway import LCM
from tests.service import KEY
from tests.sleeping_worker import SIDE, SleepingService

_ENGINE_SECONDS = 0.02
_LONG_SECONDS = 60.0  # of a call of the engine: what is polled shall not end
_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each run, their number, clients that poll, and seconds that they do."""

    seconds: float = 2.0
    repetitions: int = 7
    clients: int = 200
    polling: float = 15.0


async def measure(folder: Path, plan: Plan) -> Report:
    """The section."""
    report = Report("The HTTP gateway")
    await _overhead(folder, plan, report)
    await _polling(folder, plan, report)
    return report


async def _overhead(folder: Path, plan: Plan, report: Report) -> None:
    (folder / "run").mkdir()
    service = SleepingService(folder / "run", seconds=_ENGINE_SECONDS, LOG__LEVEL="WARNING")
    service.start()
    added, http, grpc = [], [], []
    try:
        generate = next(target for target in ours(service) if target.name == "flashbulb Generate")
        async with generate.open() as by_grpc, _runner(service.http_address) as by_http:
            for call in (by_grpc, by_http):
                await closed_loop(call, 1, min(0.5, plan.seconds))  # connections, caches
            for _ in range(plan.repetitions):
                one, _ = await closed_loop(by_grpc, 1, plan.seconds)
                other, _ = await closed_loop(by_http, 1, plan.seconds)
                grpc.append(percentile(one, 50) * 1000)
                http.append(percentile(other, 50) * 1000)
                added.append(http[-1] - grpc[-1])
    finally:
        service.stop(signal.SIGKILL)
    report.figures.append(at_most("run over Generate, added p50", statistics.median(added), "ms", 2.0))
    rows = [("Generate (gRPC)", spread(grpc)), ("POST /run (HTTP)", spread(http)), ("added", spread(added))]
    report.tables.append(Table("One caller, one call after another, a picture of 60 kB inline:", ("", "p50, ms"), rows))
    report.data["added"] = added


async def _polling(folder: Path, plan: Plan, report: Report) -> None:
    (folder / "polling").mkdir()
    service = SleepingService(
        folder / "polling", seconds=_LONG_SECONDS, LOG__LEVEL="WARNING", QUEUE__LEASE_SECONDS=600, WORKER__CAPACITY=8
    )
    service.start()
    try:
        paths = await _submitted(service.http_address, plan.clients)
        api = service.child("api")
        idle = await _share(api, asyncio.sleep(plan.polling / 3))
        times: list[float] = []
        share = await _share(api, _poll_all(service.http_address, paths, plan.polling, times))
    finally:
        service.stop(signal.SIGKILL)
    rate = len(times) / plan.polling
    name = f"{plan.clients} clients polling every {_INTERVAL * 1000:g} ms, share of one core"
    report.figures.append(at_most(name, share, "cores", 1 / 3))
    rows = [
        ("polls a second", f"{rate:.0f}"),
        ("processor of the api, microseconds a poll", f"{share / rate * 1e6:.0f}"),
        ("processor of the api without them, cores", f"{idle:.3f}"),
        ("answer p50 / p99, ms", f"{percentile(times, 50) * 1000:.2f} / {percentile(times, 99) * 1000:.2f}"),
    ]
    report.tables.append(Table("Polling, each client a request of its own:", ("", ""), rows))
    report.data["polling"] = {"share": share, "rate": rate, "idle": idle}


@asynccontextmanager
async def _runner(address: str) -> AsyncIterator[Call]:
    """Calls of `run` over one connection, with as little as a client can do."""
    size = {"width": SIDE, "height": SIDE}
    given = {"prompt": "a red apple", "seed": 7, "num_inference_steps": 1, "sync_mode": True, "image_size": size}
    body = json.dumps(given).encode()
    head = f"POST /run/{LCM} HTTP/1.1\r\nhost: {address}\r\nauthorization: Key {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**21)

    async def call() -> None:
        writer.write(head.encode() + body)
        status = await _answered(reader)
        assert status == 200, status

    yield call
    writer.close()


async def _answered(reader: asyncio.StreamReader) -> int:
    """Reads an answer; gives its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
    return int(head[9:12])


async def _submitted(address: str, count: int) -> list[str]:
    """Paths of the states of new requests."""
    base = f"http://{address}"
    headers = {"authorization": f"Key {KEY}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60, trust_env=False) as http:
        answers = [await http.post(f"/queue/{LCM}", json={"prompt": "a red apple"}) for _ in range(count)]
    return [answer.raise_for_status().json()["status_url"].removeprefix(base) for answer in answers]


async def _poll_all(address: str, paths: Sequence[str], seconds: float, times: list[float]) -> None:
    async with asyncio.TaskGroup() as clients:
        for path in paths:
            clients.create_task(_poll(address, path, seconds, times))


async def _poll(address: str, path: str, seconds: float, times: list[float]) -> None:
    host, _, port = address.partition(":")
    names = "accept: application/json\r\nuser-agent: fal-client/1.0.3 (python)\r\n"
    call = f"GET {path}?logs=false HTTP/1.1\r\nhost: {address}\r\n{names}authorization: Key {KEY}\r\n\r\n".encode()
    end = time.perf_counter() + seconds
    reader, writer = await asyncio.open_connection(host, int(port))
    await asyncio.sleep(random.random() * _INTERVAL)
    while (began := time.perf_counter()) < end:
        writer.write(call)
        status = await _answered(reader)
        assert status == 202, status
        times.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, began + _INTERVAL - time.perf_counter()))
    writer.close()


async def _share(pid: int, work: object) -> float:
    """Processor seconds a second of a process while something goes on."""
    before, began = processor_seconds(pid), time.perf_counter()
    await work  # type: ignore[misc]
    return (processor_seconds(pid) - before) / (time.perf_counter() - began)
