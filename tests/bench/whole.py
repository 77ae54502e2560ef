"""What the service adds to the embedded model's time, by each way in, and what batching gains."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import grpc

from flashbulb.v1 import generation_pb2, queue_pb2
from tests.bench.figures import Figure, Report, at_least, at_most, median, percentile
from tests.service import RunningService, Stubs, apple, auth, stubs

WARM_UP = 10


async def measure(folder: Path, scale: float) -> Report:
    """The section. `scale`: share of the usual repetitions."""
    service = RunningService(folder, LOG__LEVEL="WARNING", WORKER__BACKEND="auto")
    service.start()
    try:
        figures = await _figures(service, scale)
    finally:
        service.stop(signal.SIGKILL)
    return Report("The whole service with the embedded model", figures)


async def _figures(service: RunningService, scale: float) -> list[Figure]:
    def times(count: int) -> int:
        return max(3, round(count * scale))

    async with grpc.aio.insecure_channel(service.address) as channel:
        call = stubs(channel)
        queue = await queue_overhead(call, times(100))
        direct = await generate_overhead(call, times(200))
        size, together, alone = await batching(call, times(10))
        os.kill(service.child("worker"), signal.SIGSTOP)  # the queue alone: nothing is drawn meanwhile
        try:
            rate = await submit_rate(call, times(3000), 32)
        finally:
            os.kill(service.child("worker"), signal.SIGCONT)
    return [
        at_most("queue: submit to result, less engine, p50", median(queue), "ms", 30),
        Figure("queue: the same, p95", percentile(queue, 95), "ms"),
        at_most("Generate, less engine, p50", median(direct), "ms", 5),
        Figure("Generate: the same, p95", percentile(direct, 95), "ms"),
        at_least("Submit, 32 callers", rate, "/s", 400),
        at_least("mean batch size, 8 in flight", size, "pictures", 4),
        Figure("8 in flight, 4 steps", together, "pictures/s"),
        Figure("one after another, 4 steps", alone, "pictures/s"),
    ]


async def queue_overhead(call: Stubs, count: int) -> list[float]:
    """Milliseconds from Submit to the result, less the engine's time, one request after another."""
    added = []
    for index in range(count + WARM_UP):
        started = time.perf_counter()
        output = await through_queue(call)
        total = time.perf_counter() - started
        if index >= WARM_UP:
            added.append((total - output.timings["inference"]) * 1000)
    return added


async def through_queue(call: Stubs) -> generation_pb2.GenerationOutput:
    """Submit, watch until the end, get the result."""
    submitted = await call.queue.Submit(queue_pb2.SubmitRequest(input=apple()), metadata=auth())
    request_id = submitted.request.request_id
    async for _ in call.queue.WatchStatus(queue_pb2.WatchStatusRequest(request_id=request_id), metadata=auth()):
        pass
    result = await call.queue.GetResult(queue_pb2.GetResultRequest(request_id=request_id), metadata=auth())
    return result.output


async def generate_overhead(call: Stubs, count: int) -> list[float]:
    """Milliseconds of Generate less the engine's time, one call after another."""
    added = []
    for index in range(count + WARM_UP):
        started = time.perf_counter()
        response = await call.generation.Generate(generation_pb2.GenerateRequest(input=apple()), metadata=auth())
        total = time.perf_counter() - started
        if index >= WARM_UP:
            added.append((total - response.output.timings["inference"]) * 1000)
    return added


async def batching(call: Stubs, rounds: int) -> tuple[float, float, float]:
    """Mean batch size of eight calls in flight, and pictures a second with eight in flight and with one."""

    async def one(seed: int) -> generation_pb2.GenerationOutput:
        request = generation_pb2.GenerateRequest(input=apple(seed=seed, num_inference_steps=4))
        return (await call.generation.Generate(request, metadata=auth())).output

    sizes, together, alone = [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        outputs = await asyncio.gather(*(one(seed) for seed in range(8)))
        together.append(8 / (time.perf_counter() - started))
        sizes += [output.mean_batch_size for output in outputs]
        started = time.perf_counter()
        for seed in range(8):
            await one(seed)
        alone.append(8 / (time.perf_counter() - started))
    return median(sizes), median(together), median(alone)


async def submit_rate(call: Stubs, count: int, concurrency: int) -> float:
    """Durable submissions a second."""
    left = iter(range(count))

    async def submitter() -> None:
        for _ in left:
            await call.queue.Submit(queue_pb2.SubmitRequest(input=apple()), metadata=auth())

    started = time.perf_counter()
    await asyncio.gather(*(submitter() for _ in range(concurrency)))
    return count / (time.perf_counter() - started)
