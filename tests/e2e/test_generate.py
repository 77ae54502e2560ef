"""Generation without the queue: answers, streams, shared network calls, and what happens when time, caller or worker runs out."""

from __future__ import annotations

import asyncio
import io
import time

import grpc
import httpx
import pytest
from PIL import Image

from flashbulb.v1 import image_pb2, model_pb2
from tests.driving import Caller, distance, refusal, stopped, until
from tests.service import RunningService, apple, auth

PNG = image_pb2.IMAGE_FORMAT_PNG
LONG = {"num_images": 8, "num_inference_steps": 32}


async def live_workers(caller: Caller) -> int:
    listed = await caller.call.models.ListModels(model_pb2.ListModelsRequest(), metadata=auth(caller.key), timeout=5)
    return listed.models[0].live_workers


async def drawn_elsewhere(caller: Caller) -> bool:
    """Whether the engine draws something else too: a new picture then waits, or shares its calls."""
    try:
        output = await caller.generate()
    except grpc.aio.AioRpcError as err:
        assert err.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, err
        return True
    return output.mean_batch_size > 1 or output.timings["wait"] > 0.2


async def test_a_prompt_becomes_a_picture_at_once(me: Caller) -> None:
    output = await me.generate(apple(request_id="my label"))
    (image,) = output.images
    picture = Image.open(io.BytesIO(image.content))
    assert (picture.format, picture.size, image.content_type) == ("JPEG", (128, 128), "image/jpeg")
    assert image.size_bytes == len(image.content)
    assert image.url == "", "nothing is stored"
    assert (output.seed, output.prompt, output.request_id) == (7, "a red apple", "my label")
    assert output.resolved_input.fast_lcm_text_to_image.guidance_scale == 1.5
    assert await me.listed() == [], "nothing is queued"


async def test_without_sync_mode_the_picture_is_behind_a_link(me: Caller) -> None:
    (image,) = (await me.generate(apple(sync_mode=False))).images
    assert image.content == b""
    async with httpx.AsyncClient(trust_env=False) as http:
        content = (await http.get(image.url)).raise_for_status().content
    assert len(content) == image.size_bytes


async def test_the_picture_is_the_one_that_the_queue_draws(me: Caller) -> None:
    direct = (await me.generate(apple(format=PNG))).images[0].content
    queued = (await me.output((await me.submit(apple(format=PNG))).request_id)).images[0].content
    assert distance(direct, queued) <= 1


async def test_a_stream_tells_every_step_and_ends_with_the_pictures(me: Caller) -> None:
    events = [event async for event in me.streaming(apple(num_inference_steps=6, num_images=2))]
    assert [event.WhichOneof("event") for event in events] == ["progress"] * 6 + ["output"]
    assert [(e.progress.step, e.progress.total_steps) for e in events[:-1]] == [(step, 6) for step in range(1, 7)]
    assert len(events[-1].output.images) == 2


async def test_a_stream_with_previews(me: Caller) -> None:
    events = [event async for event in me.streaming(apple(num_inference_steps=12), include_previews=True)]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds.count("progress"), kinds[-1], kinds.count("output")) == (12, "output", 1)
    previews = [event.preview for event in events if event.WhichOneof("event") == "preview"]
    assert previews
    assert all(1 <= p.step < 12 and Image.open(io.BytesIO(p.content)).format == "JPEG" for p in previews)


async def test_eight_at_once_share_network_calls_and_draw_what_each_draws_alone(me: Caller) -> None:
    inputs = [apple(seed=100 + n, format=PNG, num_inference_steps=8) for n in range(8)]
    together = await asyncio.gather(*(me.generate(given) for given in inputs))
    assert sum(output.mean_batch_size for output in together) / 8 > 2
    for given, shared in zip(inputs, together, strict=True):
        alone = await me.generate(given)
        assert alone.mean_batch_size == 1
        assert distance(alone.images[0].content, shared.images[0].content) <= 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_that_leaves_stops_the_drawing_in_time(me: Caller, streamed: bool) -> None:
    given = apple(num_images=6, num_inference_steps=32)  # leaves room for others beside it
    began = time.monotonic()
    await me.generate(given)
    whole = time.monotonic() - began
    if streamed:
        stream = me.streaming(given)
        async for event in stream:
            if event.progress.step == 2:
                break
        stream.cancel()
    else:
        leaving = asyncio.ensure_future(me.generate(given))
        await until(lambda: drawn_elsewhere(me))
        leaving.cancel()
    left = time.monotonic()

    async def free() -> bool:
        return not await drawn_elsewhere(me)

    await until(free)
    assert time.monotonic() - left < whole / 2


async def test_a_deadline_that_cannot_be_met_is_refused_at_once_in_time(me: Caller) -> None:
    await me.generate(apple(num_inference_steps=8))
    began = time.monotonic()
    error = await refusal(me.generate(apple(**LONG), timeout=0.25))
    assert time.monotonic() - began < 0.2
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WORKERS_BUSY")
    assert error.retry is not None and error.retry > 0
    assert await me.generate(timeout=10)


async def test_too_many_at_once_are_refused_and_the_rest_is_drawn(me: Caller) -> None:
    """The engine takes eight pictures at once and lets 32 wait. What waits in the queue is drawn all the same."""
    answers = asyncio.gather(
        *(me.generate(apple(num_images=8, num_inference_steps=4)) for _ in range(12)), return_exceptions=True
    )
    queued = (await me.submit()).request_id
    refused = [answer for answer in await answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert 1 <= len(refused) <= 7
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (await me.output(queued)).images


async def test_a_deadline_that_passes_in_time(narrow_service: RunningService, narrow: Caller) -> None:
    with stopped(narrow_service):
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await narrow.generate(apple(**LONG), timeout=1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.9 < time.monotonic() - began < 2

    async def free() -> bool:
        return not await drawn_elsewhere(narrow)

    await until(free)


async def test_a_worker_that_does_not_answer_is_none_in_time(narrow_service: RunningService, narrow: Caller) -> None:
    with stopped(narrow_service):

        async def unheard() -> bool:
            return await live_workers(narrow) == 0

        await until(unheard, 10)
        began = time.monotonic()
        for call in (narrow.generate(), narrow.streaming()):
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
            assert error.retry is not None and error.retry > 0
        assert time.monotonic() - began < 1
        queued = await narrow.submit()
        assert not (await narrow.status(queued.request_id)).HasField("eta"), "nobody would draw it"

    async def heard() -> bool:
        return await live_workers(narrow) == 1

    await until(heard, 10)
    assert (await narrow.output(queued.request_id)).images, "the queue takes it all the same"
    assert (await narrow.generate()).images


async def test_a_worker_that_dies_while_drawing(narrow_service: RunningService, narrow: Caller) -> None:
    stream = narrow.streaming(apple(**LONG))
    started = await anext(aiter(stream))
    assert started.progress.step == 1
    unheard_of = asyncio.ensure_future(refusal(narrow.generate(apple(**LONG))))
    narrow_service.kill_child("worker")
    errors = [await refusal(stream), await unheard_of, await refusal(narrow.generate())]

    async def again() -> bool:
        try:
            return bool((await narrow.generate()).images)
        except grpc.aio.AioRpcError as err:
            assert err.code() is grpc.StatusCode.UNAVAILABLE
            return False

    await until(again, 40)
    for error in errors:
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
    assert errors[0].retry is None, "it would be drawn, and paid for, a second time"
    assert errors[-1].retry is not None and errors[-1].retry > 0
