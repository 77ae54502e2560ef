"""Several frames of one session at once, and near-identical ones left out, over real gRPC on pipelines that wait for the test."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from flashbulb.v1 import image_pb2, input_pb2, realtime_pb2
from flashbulb_server.api.session_messages import Picture
from tests.integration.live import Api, GatedPipeline, Worker, open_worker
from tests.integration.stage import Queue, eventually
from tests.sessions import Drop, Talk, size, text

pytestmark = pytest.mark.integration
ALL = realtime_pb2.FRAME_POLICY_ALL
NEWEST = realtime_pb2.FRAME_POLICY_NEWEST
PNG = image_pb2.IMAGE_FORMAT_PNG


def seats(api: Api) -> int:
    """Frames of the only session that are being drawn."""
    (kept,) = api.realtime._live.values()
    return len(kept.session._flight.drawing)


async def first(session: Talk, gate: GatedPipeline) -> None:
    """Draws frame 1, by which the session learns how long a picture takes."""
    gate.let_go(4)
    await session.draw(1)
    while not gate._entered.empty():
        gate._entered.get()
    gate.batches.clear()


async def several(session: Talk, api: Api, gate: GatedPipeline, count: int) -> None:
    """Frames 2 and on, each held at another step: the call that is held now takes in one more each time."""
    for number in range(count):
        await session.send(2 + number, prompt=f"cat {2 + number}")
        await eventually(lambda number=number: seats(api) == number + 1)
        if number:
            gate.let_go(1)
        while await gate.entered() != number + 1:
            gate.let_go(1)


async def test_frames_at_different_steps_share_the_calls_and_pictures_come_one_by_one(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    async with api.session(frame_policy=ALL, max_frames_in_flight=3) as session:
        await first(session, gate)
        await several(session, api, gate, 3)
        assert gate.batches == [1, 2], "and three are in the call that is held"
        await session.send(5)
        gate.let_go(2)
        assert (await session.picture()).frame_id == 2, "which had two steps more than the last"
        gate.let_go()
        assert [(await session.picture()).frame_id for _ in range(3)] == [3, 4, 5]
        assert sum(gate.batches) == 4 * 4
    await worker.free()


async def test_one_at_a_time_is_what_nobody_asked_to_change(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session(frame_policy=ALL) as session:
        for frame_id in range(1, 13):
            await session.send(frame_id)
        assert [(await session.picture()).frame_id for _ in range(12)] == list(range(1, 13))
    assert set(gate.batches) == {1}


async def test_pictures_are_those_of_one_after_another(api: Api, gate: GatedPipeline) -> None:
    gate.seconds = 0.002
    gate.let_go()
    shown: list[list[bytes]] = []
    for places in (1, 4):
        async with api.session(frame_policy=ALL, max_frames_in_flight=places, max_waiting_frames=60) as session:
            for frame_id in range(1, 41):
                await session.send(frame_id, prompt=f"cat {frame_id}", format=PNG, seed=7)
            answers = [await session.picture() for _ in range(40)]
            assert [answer.frame_id for answer in answers] == list(range(1, 41))
            shown.append([answer.images[0].content for answer in answers])
    assert shown[0] == shown[1]
    assert max(gate.batches) >= 3


async def test_the_newest_in_hand_stops_for_a_newer_one_when_frames_come_slowly(api: Api, gate: GatedPipeline) -> None:
    async with api.session(max_frames_in_flight=2) as session:
        await first(session, gate)
        await several(session, api, gate, 2)
        await asyncio.sleep(0.3)  # longer than drawing three pictures took: the pace begins anew
        await session.send(4)
        await eventually(lambda: any(call.cancelled for call in _calls(api).values()))
        assert [frame_id for frame_id, call in _calls(api).items() if call.cancelled] == [3]
        gate.let_go()
        assert (await session.picture()).frame_id == 2
        dropped = await session.dropped()
        assert (dropped.frame_id, dropped.reason) == (3, Drop.DROP_REASON_SUPERSEDED)
        answer = await session.picture()
        assert (answer.frame_id, answer.superseded_frames) == (4, 1)


def _calls(api: Api):
    (kept,) = api.realtime._live.values()
    assert kept.connection is not None
    return kept.connection._calls


@pytest.mark.parametrize("policy", [ALL, NEWEST])
async def test_a_worker_that_is_lost_with_several_in_hand(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline, policy: realtime_pb2.FramePolicy.ValueType
) -> None:
    async with api.session(frame_policy=policy, max_frames_in_flight=3) as session:
        await first(session, gate)
        await several(session, api, gate, 3)
        async with open_worker(queue, GatedPipeline()) as second:
            assert isinstance(second.pipeline, GatedPipeline)
            second.pipeline.let_go()
            await api.knows(worker, second)
            await worker.announce(in_flight=8)
            gate.let_go()
            await worker.stop()
            await session.until_answered(4)
            drawn = session.pictures[1:]
            if policy == ALL:
                assert drawn == [2, 3, 4]
            else:  # only the newest is worth drawing again, unless others were finished before the end
                assert drawn == sorted(drawn) and drawn[-1] == 4
                assert sorted([*drawn, *(n for n, _ in session.receipts)]) == [2, 3, 4]
                assert {reason for _, reason in session.receipts} <= {Drop.DROP_REASON_SUPERSEDED}
            assert (await session.draw(5)).frame_id == 5


async def test_a_frame_on_a_faster_worker_waits_for_the_one_before_it(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async with api.session(frame_policy=ALL, max_frames_in_flight=2) as session:
        await first(session, gate)
        await session.send(2)
        await gate.entered()
        async with open_worker(queue, GatedPipeline()) as second:
            assert isinstance(second.pipeline, GatedPipeline)
            second.pipeline.let_go()
            await api.knows(worker, second)
            await worker.announce(in_flight=8)
            await eventually(lambda: {w.in_flight for w in api.fleet.workers()} == {0, 8})
            await session.send(3)
            await second.free()
            await eventually(lambda: sum(second.pipeline.batches) == 4 and seats(api) == 1)
            await session.ping(5)
            assert (await session.pong()).nonce == 5, "nothing was answered yet"
            gate.let_go()
            assert [(await session.picture()).frame_id for _ in range(2)] == [2, 3]


async def test_a_session_that_broke_off_draws_again_what_was_in_hand(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    async with api.session(frame_policy=ALL, max_frames_in_flight=3) as session:
        await first(session, gate)
        await several(session, api, gate, 3)
        token = session.opened.resume_token
    # A picture that is ready before it is noticed that nobody hears it goes to the connection that broke.
    await eventually(lambda: not api.realtime._live)
    gate.let_go()
    await worker.free()
    async with api.session(resume_token=token) as again:
        assert [(await again.picture()).frame_id for _ in range(3)] == [2, 3, 4]
        for frame_id in range(5, 15):
            await again.send(frame_id)
        assert [(await again.picture()).frame_id for _ in range(10)] == list(range(5, 15))


async def test_a_caller_that_does_not_read_gets_nothing_more_drawn(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    gate.let_go()
    defaults = text(prompt="a", num_inference_steps=1, num_images=4, image_size=size(256, 256), format=PNG)
    async with api.session(defaults=defaults, max_frames_in_flight=4) as session:
        (connection,) = [kept.connection for kept in api.realtime._live.values()]
        assert connection is not None
        for frame_id in range(1, 1201):
            await session.send(frame_id, prompt=f"cat {frame_id}")
            assert sum(isinstance(message, Picture) for message in connection._outbox._queue) <= 4
            if not frame_id % 20:
                await worker.free()
        assert len(gate.batches) < 400, "what is drawn is what the transport takes"
        await session.until_answered(1200)
        assert session.pictures == sorted(session.pictures)
        answered = sorted([*session.pictures, *(n for n, _ in session.receipts)])
        assert answered == list(range(1, 1201))
    await worker.free()


async def test_a_caller_that_closes_its_side_gets_what_it_asked_for(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session(frame_policy=ALL, max_frames_in_flight=4) as session:
        for frame_id in range(1, 15):
            await session.send(frame_id, prompt="bad" if frame_id % 5 == 4 else "good")
        await session.call.done_writing()
        await session.until_answered(14)
        assert session.pictures == [n for n in range(1, 14) if n % 5 != 4]
        assert (await session.closed()).reason == realtime_pb2.CLOSE_REASON_CLIENT


async def test_previews_are_those_of_the_oldest(api: Api, gate: GatedPipeline) -> None:
    gate.seconds = 0.005
    gate.let_go()
    async with api.session(frame_policy=ALL, max_frames_in_flight=4, include_previews=True) as session:
        for frame_id in range(1, 13):
            await session.send(frame_id, num_inference_steps=8)
        await session.until_answered(12)
        steps: list[int] = []
        for response in session.seen:
            if response.HasField("preview"):
                steps.append(response.preview.step)
            elif response.HasField("frame"):
                assert steps == sorted(steps), "never of two pictures at once"
                steps.clear()


def camera(level: int, **fields: object) -> input_pb2.GenerationInput:
    """A picture of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (level, level, level)).save(file, "PNG")
    source = image_pb2.ImageSource(content=file.getvalue())
    inputs = input_pb2.FastLcmImageToImageInput(image_url=source, **fields)
    return input_pb2.GenerationInput(fast_lcm_image_to_image=inputs)


@pytest.mark.parametrize("places", [1, 3])
async def test_a_camera_that_hardly_moves_draws_little(api: Api, gate: GatedPipeline, places: int) -> None:
    gate.let_go()
    defaults = camera(100, prompt="a cat", image_size=size(32, 32), num_inference_steps=1)
    wish = {"similar_image_threshold": 0.02, "frame_policy": ALL, "max_frames_in_flight": places}
    async with api.session(defaults=defaults, **wish) as session:
        levels = [100, 100, 104, 106, 107, 107, 200, 199, 100]  # a level is 0.0039
        for frame_id, level in enumerate(levels, 1):
            await session.send(frame_id, camera(level))
            await session.until_answered(frame_id)
        assert session.pictures == [1, 4, 7, 9], "a slow drift adds up"
        assert session.receipts == [(n, Drop.DROP_REASON_SIMILAR) for n in (2, 3, 5, 6, 8)]
        assert sum(gate.batches) == 4, "nothing was drawn for the others"
        await session.send(10, camera(100, seed=3))
        assert (await session.picture()).frame_id == 10, "whatever else changes is drawn"
        assert not session.seen[-1].frame.superseded_frames
        for frame_id in range(11, 23):
            await session.send(frame_id, camera(101))
            await session.until_answered(frame_id)
        assert session.pictures[5:] == [21], "after ten in a row"
        token = session.opened.resume_token
    async with api.session(defaults=camera(101), resume_token=token) as again:
        await again.send(23, camera(101))
        assert (await again.picture()).frame_id == 23, "who comes back may not have seen the last one"


async def test_every_frame_of_a_storm_is_answered_once_with_both_options(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    gate.seconds = 0.001
    gate.let_go()
    defaults = camera(100, prompt="a cat", image_size=size(32, 32), num_inference_steps=3)
    async with api.session(defaults=defaults, similar_image_threshold=0.02, max_frames_in_flight=4) as session:
        reading = asyncio.ensure_future(session.until_answered(300))
        for frame_id in range(1, 301):
            await session.send(frame_id, camera(100 + 30 * (frame_id // 20 % 4)))
        await reading
        await session.ping(1)
        while not (await session.read()).HasField("pong"):
            pass
        answered = sorted([*session.pictures, *(n for n, _ in session.receipts)])
        assert answered == list(range(1, 301))
        assert session.pictures == sorted(session.pictures)
    await worker.free()
    await eventually(lambda: not api.realtime._counts.total())
