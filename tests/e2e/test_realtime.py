"""Realtime sessions with the whole service: pictures, bad messages, storms, slow readers, and what is left of callers that vanish."""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from PIL import Image

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, realtime_pb2
from tests.driving import Caller, back, distance, refusal, until
from tests.leftovers import Weight, in_flight
from tests.service import KEY, SPARE_KEYS, RunningService, apple, auth, stubs
from tests.sessions import Close, Connect, Drop, Talk, frame, refused, size, talking, text

PNG = image_pb2.IMAGE_FORMAT_PNG


@asynccontextmanager
async def session(caller: Caller, **wish: object) -> AsyncIterator[Talk]:
    """An open session; two steps at the embedded model's own size unless told otherwise."""
    async with talking(caller.call.realtime, auth(caller.key)) as talk:
        yield await talk.open(**wish)


async def ends(caller: Caller, *messages: Connect) -> object:
    """What a connection is ended with that says this."""

    async def run() -> None:
        async with talking(caller.call.realtime, auth(caller.key)) as talk:
            for message in messages:
                await talk.say(message)
            while await asyncio.wait_for(talk.call.read(), 20) is not grpc.aio.EOF:
                pass

    return await refusal(run())


def opening(**wish: object) -> Connect:
    return Connect(open=realtime_pb2.OpenSession(**wish))


async def test_a_session_opens_with_every_default_resolved(me: Caller) -> None:
    async with session(me) as talk:
        opened = talk.opened
        assert opened.session_id
        assert opened.resume_token
        assert opened.idle_timeout.seconds == 60
        resolved = opened.resolved_defaults.fast_lcm_text_to_image
        assert (resolved.prompt, resolved.seed, resolved.num_inference_steps) == ("a red apple", 7, 2)
        assert (resolved.guidance_scale, resolved.model_name) == (1.5, "flashbulb/tiny")


async def test_the_prompt_may_come_with_the_first_frame(me: Caller) -> None:
    async with session(me, defaults=text(num_inference_steps=2, image_size=size(128, 128))) as talk:
        assert not talk.opened.HasField("resolved_defaults")
        await talk.send(1)
        missing = await talk.dropped()
        assert (missing.frame_id, missing.reason) == (1, Drop.DROP_REASON_INVALID)
        assert refused(missing).fields == ["prompt"]
        await talk.draw(2, prompt="a red apple")
        await talk.draw(3)


async def test_pictures_are_those_of_generate_and_only_what_changes_is_sent(me: Caller) -> None:
    values = {"prompt": "a red apple", "seed": 7, "num_inference_steps": 2, "image_size": size(128, 128), "format": PNG}
    async with session(me, defaults=text(**values)) as talk:
        changes = [
            {},
            {"prompt": "a blue bird"},
            {"seed": 0},
            {"image_size": size(64, 96)},
            {"num_inference_steps": 4, "guidance_scale": 0.0},
            {"num_images": 2},
        ]
        for frame_id, changed in enumerate(changes, start=10):
            values |= changed
            drawn = await talk.draw(frame_id, **changed)
            alone = await me.generate(text(**values))
            assert len(drawn.images) == len(alone.images)
            assert drawn.seed == alone.seed == values["seed"]
            for here, there in zip(drawn.images, alone.images, strict=True):
                assert here.content, "inline"
                assert here.url == ""
                assert distance(here.content, there.content) <= 1
                assert Image.open(io.BytesIO(here.content)).size == (here.width, here.height)
        assert (here.width, here.height) == (64, 96)


async def test_a_session_without_a_seed_keeps_one(me: Caller) -> None:
    given = text(prompt="a", num_inference_steps=1, image_size=size(64, 64))
    async with session(me, defaults=given) as talk, session(me, defaults=given) as other:
        seeds = [(await talk.draw(frame_id)).seed for frame_id in (1, 2, 3)]
        assert len(set(seeds)) == 1
        assert talk.opened.resolved_defaults.fast_lcm_text_to_image.seed == seeds[0]
        assert (await other.draw(1)).seed != seeds[0]


async def test_a_picture_tells_its_age_its_stages_and_how_exact_it_is(me: Caller) -> None:
    async with session(me) as talk:
        began = time.monotonic()
        drawn = await talk.draw(2**53 - 1, sync_mode=False)  # the largest number; and pictures are inline in any case
        took = time.monotonic() - began
    assert drawn.images[0].content
    assert {"wait", "encode_prompt", "denoise", "decode", "safety", "inference", "encode_image"} <= set(drawn.timings)
    age = drawn.age.seconds + drawn.age.nanos / 1e9
    assert drawn.timings["inference"] <= age <= took
    assert drawn.superseded_frames == 0
    assert list(drawn.has_nsfw_concepts) == [False]
    assert drawn.fidelity == generation_pb2.FIDELITY_EXACT


async def test_every_bad_field_of_an_opening_is_named_at_once(me: Caller) -> None:
    bad = text(prompt="x" * 5000, guidance_scale=99, image_size=size(20_000, 1))
    ended = await ends(me, opening(defaults=bad, max_fps=500, frame_policy=9, max_waiting_frames=61))
    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(ended.fields) == [
        "frame_policy",
        "guidance_scale",
        "image_size.width",
        "max_fps",
        "max_waiting_frames",
        "prompt",
    ]
    async with session(me):
        pass


FIRST = {
    "a frame": ([frame(1, prompt="a")], "open"),
    "an acknowledgement": ([Connect(ack=realtime_pb2.AckFrame(frame_id=1))], "open"),
    "nothing": ([Connect()], "open"),
    "no endpoint": ([opening()], "input"),
    "open twice": ([opening(defaults=text(prompt="a")), opening(defaults=text(prompt="a"))], "open"),
    "an empty message later": ([opening(defaults=text(prompt="a")), Connect()], "message"),
}


@pytest.mark.parametrize("name", FIRST)
async def test_a_session_begins_with_one_opening(me: Caller, name: str) -> None:
    messages, field = FIRST[name]
    ended = await ends(me, *messages)
    assert (ended.code, ended.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_connection_that_is_closed_before_a_word_is_refused(me: Caller) -> None:
    async with talking(me.call.realtime, auth(me.key)) as talk:
        await talk.call.done_writing()
        ended = await refusal(talk.call.read())
        assert (ended.code, ended.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["open"])


async def test_an_endpoint_without_a_model_cannot_be_opened(me: Caller) -> None:
    given = input_pb2.GenerationInput(stable_diffusion_v15=input_pb2.StableDiffusionV15Input(prompt="a"))
    ended = await ends(me, opening(defaults=given))
    assert (ended.code, ended.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENDPOINT_UNAVAILABLE")


async def test_a_bad_frame_is_told_and_changes_nothing(me: Caller) -> None:
    other = input_pb2.GenerationInput(fast_lcm_image_to_image=input_pb2.FastLcmImageToImageInput(prompt="a"))
    unknown = input_pb2.GenerationInput.FromString(b"\xa2\x06\x00")  # field 100
    bad = [
        (
            frame(20, prompt="a cat", guidance_scale=99, num_inference_steps=33),
            {"guidance_scale", "num_inference_steps"},
        ),
        (frame(10), {"frame_id"}),
        (frame(3), {"frame_id"}),
        (frame(0), {"frame_id"}),
        (frame(-5), {"frame_id"}),
        (frame(2**53), {"frame_id"}),
        (frame(21, other), {"changes"}),
        (frame(22, unknown), {"input"}),
        (frame(23, prompt="\x00"), {"prompt"}),
        (frame(24, model_name="nothing"), {"model_name"}),
    ]
    async with session(me) as talk:
        before = (await talk.draw(10, format=PNG)).images[0].content
        for message, fields in bad:
            await talk.say(message)
            dropped = await talk.dropped()
            assert (dropped.frame_id, dropped.reason) == (message.frame.frame_id, Drop.DROP_REASON_INVALID)
            problem = refused(dropped)
            assert (problem.reason, set(problem.fields)) == ("INVALID_INPUT", fields)
        assert distance((await talk.draw(11)).images[0].content, before) <= 1


async def test_a_message_over_the_limit_ends_that_call_alone(me: Caller, stranger: Caller) -> None:
    async with session(stranger) as other, session(me) as talk:
        await other.draw(1)
        await talk.send(1, prompt="x" * (17 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await talk.call.read() is not grpc.aio.EOF:
                pass
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.draw(2)
        async with session(me) as again:
            await again.draw(1)


async def test_the_last_frame_of_a_storm_is_drawn_and_every_frame_is_answered(me: Caller) -> None:
    async with session(me) as talk:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talk.until_answered(500))
            for frame_id in range(1, 501):
                await talk.send(frame_id, prompt=f"cat {frame_id}")
        assert talk.pictures[-1] == 500
        assert sorted([*talk.pictures, *(n for n, _ in talk.receipts)]) == list(range(1, 501))
        begun = time.monotonic()
        await talk.draw(501)
        assert time.monotonic() - begun < 5, "nothing is left of the storm"


async def test_eight_sessions_at_once_draw_what_each_draws_alone(me: Caller) -> None:
    async def run(number: int) -> list[realtime_pb2.OutputFrame]:
        async with session(me) as talk:
            return [await talk.draw(f, prompt=f"cat {number}", seed=f, format=PNG) for f in (1, 2, 3)]

    for number, pictures in enumerate(await asyncio.gather(*(run(number) for number in range(8)))):
        alone = await me.generate(apple(prompt=f"cat {number}", seed=2, format=PNG))
        assert distance(pictures[1].images[0].content, alone.images[0].content) <= 1


@pytest.mark.slow
async def test_a_caller_that_does_not_read_costs_little_memory_and_slows_nobody_in_time(
    service: RunningService, me: Caller, stranger: Caller
) -> None:
    async def latencies(seconds: float, first: int) -> list[float]:
        found, until_then = [], time.monotonic() + seconds
        while time.monotonic() < until_then:
            began = time.monotonic()
            await other.draw(first + len(found))
            found.append(time.monotonic() - began)
        return found

    large = text(prompt="a", num_inference_steps=1, num_images=2, image_size=size(512, 512), format=PNG, seed=1)
    async with session(stranger) as other, grpc.aio.insecure_channel(service.address) as channel:
        alone = await latencies(2, 1)
        slow = Caller(stubs(channel), me.key)
        async with session(slow, defaults=large) as talk:
            for frame_id in range(1, 11):  # what is allocated once is allocated now
                await talk.draw(frame_id)
            before = Weight.of(service.child("api")).memory
            beside = asyncio.ensure_future(latencies(10, 10_000))
            for frame_id in range(11, 311):
                await talk.send(frame_id, seed=frame_id)
                await asyncio.sleep(1 / 30)
            with_it = await beside
            grown = Weight.of(service.child("api")).memory - before
            assert grown < 32, f"the api grew by {grown:.0f} MiB"
            assert statistics.median(with_it[len(with_it) // 2 :]) < 3 * statistics.median(alone)
            assert max(with_it) < 5
            await talk.until_answered(310)
            assert talk.pictures[-1] == 310, "it is there again when it reads again"


async def crowd(service: RunningService, keys: tuple[str, ...]) -> None:
    """Twenty sessions of each key, idle and drawing, that are cut off without a word."""
    channel = grpc.aio.insecure_channel(service.address)
    call = stubs(channel).realtime
    talks = [Talk(call.Connect(metadata=auth(key))) for key in keys for _ in range(20)]
    await asyncio.gather(*(talk.open() for talk in talks))
    for number, talk in enumerate(talks):
        for frame_id in range(1, 1 + number % 3):
            await talk.send(frame_id, num_inference_steps=32)
    await channel.close()


async def slots_are_free(service: RunningService, key: str) -> bool:
    """Whether the key may have as many sessions as any."""
    async with grpc.aio.insecure_channel(service.address) as channel:
        talks = [Talk(stubs(channel).realtime.Connect(metadata=auth(key))) for _ in range(32)]
        opened = await asyncio.gather(*(talk.open() for talk in talks), return_exceptions=True)
        for talk in talks:
            talk.call.cancel()
    failed = [result for result in opened if isinstance(result, BaseException)]
    assert all(isinstance(f, grpc.aio.AioRpcError) and f.code().name == "RESOURCE_EXHAUSTED" for f in failed), failed
    return not failed


@asynccontextmanager
async def calling(service: RunningService) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield Caller(stubs(channel), KEY)


@pytest.mark.slow
async def test_nothing_is_left_of_two_hundred_sessions_that_broke_off(breakable: RunningService) -> None:
    async def come_and_go(keys: tuple[str, ...]) -> None:
        async def settled() -> bool:
            return await slots_are_free(breakable, keys[0]) and await in_flight(breakable) == 0

        await crowd(breakable, keys)
        await until(settled)

    await come_and_go(SPARE_KEYS[:10])  # what is allocated once is allocated now
    before = {name: Weight.of(breakable.child(name)) for name in ("api", "worker")}
    await come_and_go(SPARE_KEYS[10:20])  # other keys: looking whether slots are free takes them for a moment
    await come_and_go(SPARE_KEYS[20:30])
    async with calling(breakable) as caller, session(caller) as talk:
        await talk.draw(1)
    for name, weight in before.items():
        after = Weight.of(breakable.child(name))
        assert after.files <= weight.files + 5, name
        # A worker's networks take memory for every number of pictures that share a call.
        assert after.memory < weight.memory + (16 if name == "api" else 64), name


@pytest.mark.slow
async def test_a_killed_worker_costs_one_late_picture(breakable: RunningService) -> None:
    async def drawn_by_a_worker() -> bool:
        return await in_flight(breakable) == 8

    async with calling(breakable) as caller, session(caller) as talk:
        await talk.draw(1)
        await talk.send(2, num_inference_steps=32, num_images=8)
        await until(drawn_by_a_worker)
        old = breakable.kill_child("worker")
        while (response := await talk.read(60)).HasField("pong"):  # nothing but heartbeats while the next worker loads
            pass
        late = response.frame
        assert (late.frame_id, len(late.images)) == (2, 8)
        assert not talk.receipts
        await talk.draw(3, num_inference_steps=2, num_images=1)
    await back(breakable, "worker", old)


@pytest.mark.slow
async def test_a_killed_api_ends_the_call_and_the_next_one_opens_a_new_session(breakable: RunningService) -> None:
    async with calling(breakable) as caller, session(caller) as talk:
        await talk.draw(1)
        old = breakable.kill_child("api")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(talk.call.read(), 20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await back(breakable, "api", old)
    async with calling(breakable) as caller, session(caller, resume_token=talk.opened.resume_token) as again:
        assert again.opened.session_id != talk.opened.session_id
        await again.draw(1)


async def test_a_session_without_frames_is_ended(narrow: Caller) -> None:
    async with session(narrow) as idle:
        assert (await idle.closed()).reason == Close.CLOSE_REASON_IDLE


@pytest.mark.slow
async def test_a_service_that_is_told_to_end_closes_its_sessions(breakable: RunningService) -> None:
    before = breakable.errors()
    async with calling(breakable) as caller, session(caller) as talk:
        await talk.draw(1)
        ending = asyncio.ensure_future(asyncio.to_thread(breakable.stop))
        closed = await talk.closed()
        assert closed.reason == Close.CLOSE_REASON_DRAINING
        assert closed.HasField("retry_delay")
        assert await ending == 0
    assert breakable.errors() == before
