"""Realtime sessions over real gRPC on pipelines that wait for the test: who is drawn, who is dropped, and what a caller is told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from PIL import Image

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, realtime_pb2
from flashbulb_server.api.session_messages import Picture
from tests.driving import refusal
from tests.integration.live import KEY, OTHER_KEY, Api, GatedPipeline, Worker, open_api, open_worker
from tests.integration.stage import Queue, eventually
from tests.sessions import Close, Connect, Drop, Talk, frame, refused, size, text

pytestmark = pytest.mark.integration
ALL = realtime_pb2.FRAME_POLICY_ALL
PNG = image_pb2.IMAGE_FORMAT_PNG


async def ending(call: grpc.aio.StreamStreamCall) -> None:
    """Reads to the end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def taken(session: Talk) -> None:
    """Waits until everything that was sent has been looked at: messages are taken in order."""
    await session.ping(77)
    assert (await session.pong()).nonce == 77


async def test_a_newer_frame_stops_the_one_in_hand_at_the_next_step(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    async with api.session() as session:
        await session.send(1, num_inference_steps=30)
        for _ in range(3):
            await gate.entered()
            gate.let_go(1)
        await gate.entered()
        await session.send(2, num_inference_steps=1)
        await taken(session)
        gate.let_go(1)
        dropped = await session.dropped()
        assert (dropped.frame_id, dropped.reason) == (1, Drop.DROP_REASON_SUPERSEDED)
        assert 3 <= dropped.stopped_at_step <= 5, "the step that ran, or the one after it"
        gate.let_go()
        picture = await session.picture()
        assert (picture.frame_id, picture.superseded_frames) == (2, 1)
    assert len(gate.batches) == dropped.stopped_at_step + 1, "no step was wasted"
    await worker.free()


async def test_the_newest_of_those_that_wait_is_drawn(api: Api, gate: GatedPipeline) -> None:
    async with api.session() as session:
        await session.send(1)
        await gate.entered()
        for frame_id in (5, 6, 9, 12):  # the first of them stops frame 1
            await session.send(frame_id, prompt=f"cat {frame_id}")
        for frame_id in (5, 6, 9):
            dropped = await session.dropped()
            assert (dropped.frame_id, dropped.reason) == (frame_id, Drop.DROP_REASON_SUPERSEDED)
            assert dropped.stopped_at_step == 0
        gate.let_go()
        assert (await session.dropped()).frame_id == 1
        picture = await session.picture()
        assert (picture.frame_id, picture.superseded_frames) == (12, 4)
        assert (await session.draw(13)).superseded_frames == 0


async def test_all_are_drawn_in_order_and_what_has_no_room_is_refused(api: Api, gate: GatedPipeline) -> None:
    async with api.session(frame_policy=ALL, max_waiting_frames=3) as session:
        await session.send(1, prompt="cat 1")
        await gate.entered()
        for frame_id in range(2, 8):
            await session.send(frame_id, prompt=f"cat {frame_id}")
        for frame_id in (5, 6, 7):
            dropped = await session.dropped()
            assert (dropped.frame_id, dropped.reason) == (frame_id, Drop.DROP_REASON_OVERFLOW)
        gate.let_go()
        assert [(await session.picture()).frame_id for _ in range(4)] == [1, 2, 3, 4]
        await session.send(8)
        shown = (await session.picture()).images[0].content
        await session.send(9, prompt="cat 4")
        assert (await session.picture()).images[0].content == shown, "refused frames changed nothing"


async def test_a_text_is_made_empty_again(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session(defaults=text(prompt="a cat", negative_prompt="red", request_id="mine")) as session:
        (kept,) = api.realtime._live.values()
        await session.draw(1, negative_prompt="", image_size=size(8, 8))
        assert (kept.session.values["negative_prompt"], kept.session.values["request_id"]) == ("", "mine")
        token = session.opened.resume_token
    async with api.session(defaults=text(request_id=""), resume_token=token) as again:
        resolved = again.opened.resolved_defaults.fast_lcm_text_to_image
        assert (resolved.prompt, resolved.negative_prompt, resolved.request_id) == ("a cat", "", "")


async def test_a_frame_that_fails_is_told_and_the_session_goes_on(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session() as session:
        await session.send(1, prompt="bad")
        dropped = await session.dropped()
        assert (dropped.frame_id, dropped.reason) == (1, Drop.DROP_REASON_FAILED)
        assert refused(dropped).reason == "ENGINE_FAILED"
        await session.draw(2, prompt="good")


async def test_previews_come_when_they_are_asked_for(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session(include_previews=True) as session:
        await session.send(1)
        previews = []
        while (response := await session.read()).HasField("preview"):
            previews.append(response.preview)
        assert response.frame.frame_id == 1
        assert previews
        assert all(1 <= p.step < 4 and Image.open(io.BytesIO(p.content)).format == "JPEG" for p in previews)


async def test_max_fps_spaces_the_pictures_also_at_the_start_in_time(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    loop = asyncio.get_running_loop()
    async with api.session(max_fps=10, frame_policy=ALL) as session:
        for frame_id in range(1, 6):
            await session.send(frame_id)
        times = []
        for _ in range(5):
            await session.picture()
            times.append(loop.time())
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert min(gaps) > 0.05
    assert 0.36 < times[-1] - times[0] < 1.5


async def test_acknowledgements_bound_what_is_on_the_way(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session(frame_policy=ALL) as session:
        await session.ack(0)
        for frame_id in range(1, 8):
            await session.send(frame_id)
        assert [(await session.picture()).frame_id for _ in range(4)] == [1, 2, 3, 4]
        await taken(session)
        await session.ack(2)
        assert [(await session.picture()).frame_id for _ in range(2)] == [5, 6]
        await taken(session)


async def test_a_caller_that_closes_its_side_gets_what_it_asked_for(api: Api, gate: GatedPipeline) -> None:
    async with api.session(frame_policy=ALL) as session:
        await session.ack(
            0
        )  # from here on it sets the pace; yet it can acknowledge nothing after it has closed its side
        for frame_id in range(1, 8):
            await session.send(frame_id)
        await session.call.done_writing()
        gate.let_go()
        assert [(await session.picture()).frame_id for _ in range(7)] == list(range(1, 8))
        closed = await session.closed()
        assert closed.reason == Close.CLOSE_REASON_CLIENT
        assert not closed.HasField("retry_delay")


async def test_every_frame_is_answered_once_in_a_storm(api: Api, gate: GatedPipeline, worker: Worker) -> None:
    gate.let_go()
    async with api.session() as session:
        reading = asyncio.ensure_future(session.until_answered(500))
        for frame_id in range(1, 501):
            await session.send(frame_id, prompt=f"cat {frame_id}")
        await reading
        assert session.pictures[-1] == 500
        answered = sorted([*session.pictures, *(frame_id for frame_id, _ in session.receipts)])
        assert answered == list(range(1, 501))
        assert {reason for _, reason in session.receipts} == {Drop.DROP_REASON_SUPERSEDED}
        superseded = sum(response.frame.superseded_frames for response in session.seen)
        assert superseded == len(session.receipts)
    await worker.free()


async def test_every_bad_frame_is_told_also_to_a_caller_that_reads_late(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    count = 2000  # more receipts than the transport and the session hold

    async def send() -> None:
        for frame_id in range(1, count + 1):
            await session.send(frame_id, guidance_scale=99)

    async with api.session() as session:
        sending = asyncio.ensure_future(send())
        (connection,) = [kept.connection for kept in api.realtime._live.values()]
        assert connection is not None
        await eventually(lambda: connection._outbox.full())
        await session.until_answered(count)
        await sending
        assert session.receipts == [(n, Drop.DROP_REASON_INVALID) for n in range(1, count + 1)]
        await session.draw(count + 1)


async def test_pictures_keep_coming_when_frames_come_faster_than_they_can_be_drawn(
    queue: Queue, api: Api, gate: GatedPipeline
) -> None:
    gate.seconds = 0.02
    gate.let_go()
    async with api.session() as session:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.until_answered(60))
            for frame_id in range(1, 61):
                await session.send(frame_id, prompt=f"cat {frame_id}")
                await asyncio.sleep(1 / 60)
        assert len(session.pictures) >= 6, session.pictures
        assert session.pictures[-1] == 60
        stopped = [r.dropped for r in session.seen if r.dropped.stopped_at_step]
        assert len(stopped) <= 5, "only until the pace is known"


async def test_a_caller_that_does_not_read_gets_nothing_more_drawn(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    gate.let_go()
    defaults = text(prompt="a", num_inference_steps=1, num_images=4, image_size=size(256, 256), format=PNG)
    async with api.session(defaults=defaults) as session:
        (connection,) = [kept.connection for kept in api.realtime._live.values()]
        assert connection is not None
        for frame_id in range(1, 2001):
            await session.send(frame_id, prompt=f"cat {frame_id}")
            assert sum(isinstance(message, Picture) for message in connection._outbox._queue) <= 1
            if not frame_id % 20:
                await worker.free()
        drawn = len(gate.batches)
        assert drawn < 500, "what is drawn is what the transport takes"
        async with api.session(OTHER_KEY) as other:
            await other.draw(1)
        await session.until_answered(2000)
        assert session.pictures[-1] == 2000
    await worker.free()


async def test_a_worker_that_is_lost_costs_one_late_picture(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async with api.session() as session:
        await session.send(1)
        await gate.entered()
        async with open_worker(queue, GatedPipeline()) as second:
            assert isinstance(second.pipeline, GatedPipeline)
            second.pipeline.let_go()
            await api.knows(worker, second)
            gate.let_go()
            await worker.announce(in_flight=8)
            await worker.stop()
            assert (await session.picture()).frame_id == 1
            assert (await session.draw(2)).frame_id == 2


async def test_a_lost_frame_that_is_obsolete_is_told_so(
    queue: Queue, api: Api, worker: Worker, gate: GatedPipeline
) -> None:
    async with api.session() as session:
        for frame_id in range(1, 6):  # so hastily that nothing is stopped any more
            await session.send(frame_id)
        while (await session.dropped()).frame_id != 4:
            pass
        await gate.entered()
        async with open_worker(queue, GatedPipeline()) as second:
            assert isinstance(second.pipeline, GatedPipeline)
            second.pipeline.let_go()
            await api.knows(worker, second)
            await worker.announce(in_flight=8)
            await worker.stop()
            gate.let_go()
            await session.until_answered(5)
            answered = sorted([*session.pictures, *(n for n, _ in session.receipts)])
            assert answered == [1, 2, 3, 4, 5]
            assert session.seen[-1].frame.superseded_frames == 4


async def test_a_session_without_a_worker_is_closed(queue: Queue, worker: Worker, gate: GatedPipeline) -> None:
    async with open_api(queue, no_worker_seconds=0.3) as api:
        await api.knows(worker)
        gate.let_go()
        async with api.session() as session:
            await session.draw(1)
            await worker.announce(draining=True)
            await api.knows()
            await session.send(2)
            closed = await session.closed()
            assert closed.reason == Close.CLOSE_REASON_NO_WORKER
            assert closed.retry_delay.seconds >= 1


async def test_a_worker_that_is_away_for_a_moment_does_not_count_against_the_session(
    queue: Queue, worker: Worker, gate: GatedPipeline
) -> None:
    async with open_api(queue, no_worker_seconds=0.6) as api:
        await api.knows(worker)
        gate.let_go()
        async with api.session() as session:
            for frame_id in range(1, 6):  # away for longer than that in sum
                await worker.announce(draining=True)
                await api.knows()
                await session.send(frame_id, prompt="bad")
                await asyncio.sleep(0.2)
                await worker.announce(draining=False)
                dropped = await session.dropped()
                assert (dropped.frame_id, dropped.reason) == (frame_id, Drop.DROP_REASON_FAILED)


async def test_a_caller_that_never_opens_its_session_is_sent_away(queue: Queue, worker: Worker) -> None:
    async with open_api(queue, first_seconds=0.1) as api, api.talking() as talk:
        ended = await refusal(ending(talk.call))
        assert (ended.code, ended.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [""])
    async with open_api(queue, first_seconds=0.1) as api, api.session() as session:
        await asyncio.sleep(0.2)
        await taken(session)


async def test_pings_and_heartbeats(queue: Queue, worker: Worker) -> None:
    async with open_api(queue, heartbeat_seconds=0.1) as api, api.session() as session:
        await session.ping(2**62)
        assert (await session.pong()).nonce == 2**62
        for _ in range(2):
            beat = await session.pong()
            assert beat.nonce == 0
            assert beat.server_time.seconds > 1_700_000_000


@pytest.mark.parametrize("held_up", [False, True])
async def test_an_idle_session_is_closed(queue: Queue, worker: Worker, gate: GatedPipeline, held_up: bool) -> None:
    gate.let_go()
    async with open_api(queue, idle_seconds=0.3) as api:
        async with api.session(frame_policy=ALL) as session:
            assert session.opened.idle_timeout.nanos == 300_000_000
            if held_up:  # a frame that waits for an acknowledgement does not keep it open
                await session.ack(0)
            for frame_id in range(1, 6):
                await session.send(frame_id)
            for _ in range(4 if held_up else 5):
                await session.picture()
            closed = await session.closed()
            assert closed.reason == Close.CLOSE_REASON_IDLE
            assert closed.HasField("retry_delay"), "it may be opened again"


async def test_a_frame_that_takes_long_does_not_make_a_session_idle(
    queue: Queue, worker: Worker, gate: GatedPipeline
) -> None:
    async with open_api(queue, idle_seconds=0.2) as api, api.session() as session:
        await session.send(1)
        await gate.entered()
        await asyncio.sleep(0.5)
        gate.let_go()
        await session.picture()
        assert (await session.closed()).reason == Close.CLOSE_REASON_IDLE


async def test_a_key_has_so_many_sessions_and_no_more(queue: Queue, worker: Worker) -> None:
    async with open_api(queue, per_key=2) as api:
        async with api.session(), api.session():
            async with api.talking() as third:
                await third.say(Connect(open=realtime_pb2.OpenSession(defaults=text(prompt="a"))))
                busy = await refusal(third.call)
                assert (busy.code, busy.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS")
                assert busy.metadata == {"limit": "2"}
                assert busy.retry
            async with api.session(OTHER_KEY):
                pass

        async def free() -> bool:
            try:
                async with api.session(), api.session():
                    return True
            except grpc.aio.AioRpcError:
                return False

        await eventually(free)


async def test_a_server_that_shuts_down_says_so(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session() as session, api.session() as other:
        await session.draw(1)
        api.realtime.drain()
        for talk in (session, other):
            closed = await talk.closed()
            assert closed.reason == Close.CLOSE_REASON_DRAINING
            assert 0 < closed.retry_delay.nanos < 1e9
    async with api.talking() as late:
        await late.say(Connect(open=realtime_pb2.OpenSession(defaults=text(prompt="a"))))
        draining = await refusal(late.call)
        assert (draining.code, draining.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert draining.retry


async def test_a_session_that_broke_off_goes_on(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session() as session:
        first = await session.draw(10, prompt="a dog", seed=5)
        opened = session.opened
    async with api.session(defaults=text(num_inference_steps=3), resume_token=opened.resume_token) as again:
        assert again.opened.session_id == opened.session_id
        assert again.opened.resume_token != opened.resume_token
        went_on = again.opened.resolved_defaults.fast_lcm_text_to_image
        assert (went_on.prompt, went_on.seed, went_on.num_inference_steps) == ("a dog", 5, 3)
        await again.send(10)
        assert refused(await again.dropped()).fields == ["frame_id"]
        assert (await again.draw(11, num_inference_steps=4)).images[0].content == first.images[0].content
        used = again.opened.resume_token
    async with api.session(resume_token=opened.resume_token) as new:
        assert new.opened.session_id != opened.session_id, "a token is good for once"
    async with api.session(resume_token=used) as third:
        assert third.opened.session_id == opened.session_id


async def test_a_session_goes_on_although_the_server_does_not_know_yet_that_it_broke_off(
    queue: Queue, worker: Worker, gate: GatedPipeline
) -> None:
    async with open_api(queue, per_key=1) as api:
        await api.knows(worker)
        async with api.session() as session:
            await session.send(1, prompt="a dog")
            await gate.entered()
            async with api.session(defaults=text(seed=5), resume_token=session.opened.resume_token) as again:
                assert again.opened.session_id == session.opened.session_id
                assert (await session.closed()).reason == Close.CLOSE_REASON_CLIENT
                gate.let_go()
                assert (await again.picture()).frame_id == 1
                assert (await again.draw(2)).seed == 5


async def test_a_frame_in_hand_is_drawn_after_the_session_goes_on(
    api: Api, gate: GatedPipeline, worker: Worker
) -> None:
    async with api.session() as session:
        await session.send(1)
        await gate.entered()
        token = session.opened.resume_token
    # A picture that is ready before it is noticed that nobody hears it goes to the connection that broke.
    await eventually(lambda: not api.realtime._live)
    gate.let_go()
    await worker.free()
    async with api.session(resume_token=token) as again:
        assert (await again.picture()).frame_id == 1


async def test_what_was_never_acknowledged_does_not_hold_up_the_session_that_goes_on(
    api: Api, gate: GatedPipeline
) -> None:
    gate.let_go()
    async with api.session() as session:
        await session.ack(0)
        for frame_id in range(1, 5):
            await session.draw(frame_id)
        token = session.opened.resume_token
    async with api.session(resume_token=token) as again:
        await again.draw(5)


async def test_a_token_to_resume_is_of_no_use_to_others_and_survives_their_attempt(
    api: Api, gate: GatedPipeline
) -> None:
    gate.let_go()
    async with api.session() as session:
        await session.draw(1, prompt="a secret")
        opened = session.opened
    async with api.session(OTHER_KEY, resume_token=opened.resume_token) as thief:
        assert thief.opened.session_id != opened.session_id
        assert thief.opened.resolved_defaults.fast_lcm_text_to_image.prompt == "a cat"
    async with api.talking() as wrong:
        await wrong.say(
            Connect(open=realtime_pb2.OpenSession(defaults=text(seed=-1), resume_token=opened.resume_token))
        )
        assert (await refusal(wrong.call)).fields == ["seed"]
    async with api.session(resume_token=opened.resume_token) as again:
        assert again.opened.session_id == opened.session_id


async def test_a_session_that_was_closed_by_its_caller_is_not_kept(api: Api) -> None:
    async with api.session() as session:
        await session.call.done_writing()
        await session.closed()
        opened = session.opened
    async with api.session(resume_token=opened.resume_token) as new:
        assert new.opened.session_id != opened.session_id


async def test_pictures_to_start_from_are_kept_and_not_echoed(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    file = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(file, "PNG")

    def image(**fields: object) -> input_pb2.GenerationInput:
        return input_pb2.GenerationInput(fast_lcm_image_to_image=input_pb2.FastLcmImageToImageInput(**fields))

    defaults = image(prompt="a cat", image_size=size(8, 8), image_url=image_pb2.ImageSource(content=file.getvalue()))
    async with api.session(defaults=defaults) as session:
        echoed = session.opened.resolved_defaults.fast_lcm_image_to_image
        assert (echoed.prompt, echoed.image_url.content) == ("a cat", b"")
        await session.send(1, image(strength=0.5))
        assert (await session.picture()).frame_id == 1
        await session.send(2, image(image_url=image_pb2.ImageSource(content=b"no picture")))
        dropped = await session.dropped()
        assert dropped.reason == Drop.DROP_REASON_FAILED
        assert refused(dropped).reason == "BAD_IMAGE"
        await session.send(3, image(image_url=image_pb2.ImageSource(content=file.getvalue())))
        assert (await session.picture()).frame_id == 3


@dataclass(frozen=True)
class Wrong:
    """Something that ends the RPC with INVALID_ARGUMENT."""

    message: Connect | bytes
    fields: list[str]


ENDS = {
    "open again": Wrong(Connect(open=realtime_pb2.OpenSession(defaults=text(prompt="a"))), ["open"]),
    "nothing": Wrong(Connect(), ["message"]),
    "unknown member": Wrong(b"\xfa\x01\x02ab", ["message"]),  # field 31, as a later version may have it
    "no protobuf": Wrong(b"\x0a\x05ab", [""]),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("reading", [True, False])
async def test_what_no_receipt_can_answer_ends_the_call(
    api: Api, gate: GatedPipeline, name: str, reading: bool
) -> None:
    gate.let_go()
    raw = api.channel.stream_stream(
        "/flashbulb.v1.RealtimeService/Connect", response_deserializer=realtime_pb2.ConnectResponse.FromString
    )(metadata=(("authorization", KEY),))
    defaults = text(prompt="a", num_inference_steps=1, image_size=size(8, 8), num_images=8)
    await raw.write(Connect(open=realtime_pb2.OpenSession(defaults=defaults)).SerializeToString())
    assert (await raw.read()).HasField("opened")
    if not reading:  # so much unread that nothing more can be sent
        for frame_id in range(1, 600):
            await raw.write(frame(frame_id).SerializeToString())
    wrong = ENDS[name]
    await raw.write(wrong.message if isinstance(wrong.message, bytes) else wrong.message.SerializeToString())
    async with asyncio.timeout(10):
        ended = await refusal(ending(raw))
    assert (ended.code, ended.fields) == (grpc.StatusCode.INVALID_ARGUMENT, wrong.fields)


async def test_a_message_that_is_too_large_ends_the_call_and_harms_nobody(api: Api, gate: GatedPipeline) -> None:
    gate.let_go()
    async with api.session() as session, api.session() as other:
        await session.send(1, prompt="x" * 70_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ending(session.call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.draw(1)


async def test_sessions_that_break_off_leave_nothing_running(api: Api, gate: GatedPipeline, worker: Worker) -> None:
    gate.let_go()
    async with api.session() as session:
        await session.draw(1)
    await worker.free()
    before = len(asyncio.all_tasks())
    for _ in range(10):
        calls = [api.stub.Connect(metadata=(("authorization", key),)) for key in (KEY, OTHER_KEY) for _ in range(8)]
        for number, call in enumerate(calls):
            talk = await Talk(call).open(text(prompt="a cat", num_inference_steps=32, image_size=size(8, 8)))
            if number % 2:
                await talk.send(1)
            if number % 4 == 3:
                await talk.send(2)
        for call in calls:
            call.cancel()
        await eventually(lambda: not api.realtime._counts.total())
    await worker.free()
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 1)
    assert not api.realtime._live


async def test_eight_sessions_share_the_calls_of_the_network(api: Api, gate: GatedPipeline, worker: Worker) -> None:
    async with asyncio.TaskGroup() as tasks:

        async def draw(number: int, ready: Callable[[], object]) -> bytes:
            async with api.session(defaults=text(num_inference_steps=6, image_size=size(8, 8), seed=number)) as session:
                await session.send(1, prompt=f"cat {number}", format=PNG)
                ready()
                return (await session.picture()).images[0].content

        started = asyncio.Semaphore(0)
        drawing = [tasks.create_task(draw(number, started.release)) for number in range(8)]
        for _ in range(8):
            await started.acquire()
        await eventually(lambda: worker.engine.in_flight + worker.engine.waiting == 8)
        gate.let_go()
    assert max(gate.batches) == 8
    assert sum(gate.batches) == 48
    generate = api.channel.unary_unary(
        "/flashbulb.v1.GenerationService/Generate",
        request_serializer=generation_pb2.GenerateRequest.SerializeToString,
        response_deserializer=generation_pb2.GenerateResponse.FromString,
    )
    for number, task in enumerate(drawing):
        given = text(prompt=f"cat {number}", num_inference_steps=6, image_size=size(8, 8), seed=number, format=PNG)
        answer = await generate(
            generation_pb2.GenerateRequest(input=given), metadata=(("authorization", KEY),), timeout=10
        )
        assert answer.output.images[0].content == task.result()
