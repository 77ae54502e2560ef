"""Load on a server, in a closed and an open loop, and what it costs the server's processes."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import percentile

Call = Callable[[], Awaitable[None]]
"""Gets one picture."""

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """Latencies in milliseconds, pictures a second, and the server's processor milliseconds a picture."""

    p50: float
    p95: float
    p99: float
    rate: float
    cpu: float

    @classmethod
    def of(cls, latencies: Sequence[float], taken: float, spent: float) -> Run:
        """Of latencies in seconds that came in `taken` seconds and cost `spent` processor seconds."""
        p50, p95, p99 = (percentile(latencies, share) * 1000 for share in (50, 95, 99))
        return cls(p50, p95, p99, len(latencies) / taken, spent / len(latencies) * 1000)


async def closed_loop(call: Call, concurrency: int, seconds: float) -> tuple[list[float], float]:
    """`concurrency` callers, each with one call at a time. Gives latencies in seconds and the time taken."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            latencies.append(time.perf_counter() - started)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(concurrency):
            callers.create_task(caller())
    return latencies, time.perf_counter() - began


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Poisson: seconds from the start, the same for every server."""
    chance = random.Random(seed)
    times, now = [], 0.0
    while (now := now + chance.expovariate(rate)) < seconds:
        times.append(now)
    return times


async def open_loop(call: Call, scheduled: Sequence[float]) -> tuple[list[float], float]:
    """Calls at scheduled times, however long the earlier ones take. Latencies count from the schedule."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def one(at: float) -> None:
        await call()
        latencies.append(time.perf_counter() - began - at)

    async with asyncio.TaskGroup() as calls:
        for at in scheduled:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            calls.create_task(one(at))
    return latencies, time.perf_counter() - began


async def measured(pid: int, load: Awaitable[tuple[list[float], float]]) -> Run:
    """A load on the server whose first process is `pid`."""
    before = processor_seconds(pid)
    latencies, taken = await load
    return Run.of(latencies, taken, processor_seconds(pid) - before)


def processor_seconds(pid: int) -> float:
    """Of a process and all below it, so far."""
    total = 0.0
    for one in [pid, *_descendants(pid)]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def resident_bytes(pid: int) -> int:
    """Memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


@asynccontextmanager
async def http_caller(port: int, path: str, body: bytes) -> AsyncIterator[Call]:
    """POSTs over HTTP/1.1 connections that are kept, one for each call in flight, with as little as a client can do."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    message = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call() -> None:
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            writer.write(message)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        except (asyncio.IncompleteReadError, ConnectionError):  # the server closed it while it was idle
            free.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            writer.write(message)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        await reader.readexactly(int(answer.partition(b"content-length:")[2].split(b"\r\n")[0]))
        free.append((reader, writer))

    try:
        yield call
    finally:
        for _, writer in free:
            writer.close()
