"""Realtime sessions: what is sent, in which order it comes back, and what a caller sees of drops, breaks and ends."""

from __future__ import annotations

import asyncio
import io
import threading
import tracemalloc

import PIL.Image
import pytest

import flashbulb
from flashbulb import AsyncClient, Dropped, Frame, Previewed, SessionEnded
from flashbulb._outbox import WINDOW
from flashbulb._session import AsyncSession
from flashbulb.v1 import generation_pb2, realtime_pb2
from tests.client.scripted import KEY, LIMIT, Hang, closed, drawing, drawn, failure, not_drawn, opened

TEXT = "fast_lcm_text_to_image"


def frames_of(call) -> list[realtime_pb2.InputFrame]:
    return [message.frame for message in call.request if message.WhichOneof("message") == "frame"]


def only_frames(requests):
    return (request.frame for request in requests if request.WhichOneof("message") == "frame")


def after_opening(script):
    """A session that opens, goes on with a function of its frames, and leaves the end to the client."""

    def converse(requests):
        next(requests)
        yield opened()
        frames = only_frames(requests)
        yield from script(frames)
        for (
            _
        ) in frames:  # what the server said last is lost if the client writes as it ends the stream (grpc/grpc#36066)
            pass

    return converse


def at_once(*messages):
    """A session that does not open."""

    def converse(requests):
        next(requests)
        yield from messages

    return converse


async def until(condition):
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_picture_follows_a_send(client, server):
    server.expect("Connect", drawing)
    async with client.realtime(seed=7, image_size=(64, 64), max_fps=30, throttle=0) as session:
        assert (session.session_id, session.idle_timeout) == ("s1", 60.0)
        assert session.resolved_defaults.seed == 7
        assert await session.send(prompt="a") == 1
        frame = await anext(aiter(session))
    assert isinstance(frame, Frame)
    assert (frame.frame_id, frame.images[0].content, frame.age) == (1, b"a", 0.025)
    assert (frame.fidelity, frame.has_nsfw_concepts, frame.timings) == ("close", (False,), {"denoise": 0.02})
    assert frame.model_name == "flashbulb/tiny"
    assert 0 < frame.latency < LIMIT
    opening = server.calls[0].request[0].open
    assert (opening.max_fps, opening.frame_policy) == (30, realtime_pb2.FRAME_POLICY_NEWEST)
    assert (opening.max_frames_in_flight, opening.HasField("similar_image_threshold")) == (1, False)
    assert opening.defaults.fast_lcm_text_to_image.seed == 7
    assert server.calls[0].metadata["authorization"] == f"Key {KEY}"


async def test_only_what_changed_is_sent(client, server):
    server.expect("Connect", drawing)
    async with client.realtime(prompt="a", seed=7) as session:
        for changes in ({}, {"prompt": "a", "seed": 8}, {"prompt": "b", "seed": 8}, {"prompt": None}):
            await session.send(**changes)
            await session.latest()
    fields = [frame.changes.fast_lcm_text_to_image.ListFields() for frame in frames_of(server.calls[0])]
    assert [{d.name: v for d, v in sent} for sent in fields] == [{}, {"seed": 8}, {"prompt": "b"}, {}]
    assert all(frame.changes.WhichOneof("input") == TEXT for frame in frames_of(server.calls[0]))


async def test_pictures_travel_inline(client, server, tmp_path):
    server.expect("Connect", drawing)
    red = PIL.Image.new("RGB", (512, 512), "red")
    noise = PIL.Image.effect_noise((1024, 1024), 80)  # too large for anything but an upload, elsewhere
    noise.save(path := tmp_path / "noise.png")
    async with client.realtime("fast-lcm-diffusion/image-to-image", prompt="a", image_url=b"\x89PNG") as session:
        for source in (red, path, "https://x/p.png"):
            await session.send(image_url=source)
            await session.latest()
    assert server.calls[0].request[0].open.defaults.fast_lcm_image_to_image.image_url.content == b"\x89PNG"
    sent = [frame.changes.fast_lcm_image_to_image.image_url for frame in frames_of(server.calls[0])]
    assert PIL.Image.open(io.BytesIO(sent[0].content)).getpixel((9, 9)) == (255, 0, 0)
    assert sent[1].content == path.read_bytes()
    assert sent[2].uri == "https://x/p.png"


async def test_a_frame_that_is_similar_is_told_and_its_changes_are_known(client, server):
    def script(frames):
        frames = iter(frames)
        yield drawn(next(frames))
        yield not_drawn(next(frames).frame_id, "SIMILAR")
        yield drawn(next(frames))

    server.expect("Connect", after_opening(script))
    endpoint = "fast-lcm-diffusion/image-to-image"
    options = {"max_in_flight": 3, "similar_threshold": 0.0, "notices": True}
    async with client.realtime(endpoint, prompt="a", **options) as session:
        items = aiter(session)
        for source in (b"\x89PNG1", b"\x89PNG2", None):
            await session.send(image_url=source)
            item = await anext(items)
            assert isinstance(item, Dropped) is (source == b"\x89PNG2")
        opening = server.calls[0].request[0].open
        assert (opening.max_frames_in_flight, opening.similar_image_threshold) == (3, 0.0)
        assert opening.HasField("similar_image_threshold")
    sent = [frame.changes.fast_lcm_image_to_image.ListFields() for frame in frames_of(server.calls[0])]
    assert [len(fields) for fields in sent] == [1, 1, 0], "it is not sent again"


async def test_a_slow_server_gets_the_newest(client, server):
    go = threading.Event()

    def script(frames):
        frames = iter(frames)
        seen = [next(frames) for _ in range(WINDOW)]
        assert go.wait(LIMIT)
        yield drawn(seen[0])
        for number in range(2, WINDOW):
            yield not_drawn(number, "SUPERSEDED", step=1)
        yield drawn(seen[-1], superseded=WINDOW - 2)
        yield drawn(next(frames))

    server.expect("Connect", after_opening(script))
    async with client.realtime(notices=True) as session:
        for number in range(1, WINDOW + 1):
            await session.send(prompt=f"p{number}")
            await until(lambda number=number: len(frames_of(server.calls[0])) == number)
        for number in range(100):
            await session.send(prompt=f"q{number}")
        go.set()
        seen = []
        async for item in session:
            seen.append(item)
            if isinstance(item, Frame) and item.images[0].content == b"q99":
                break
    pictures = [item for item in seen if isinstance(item, Frame)]
    assert [frame.images[0].content for frame in pictures] == [b"p1", f"p{WINDOW}".encode(), b"q99"]
    assert [frame.frame_id for frame in pictures] == [1, WINDOW, WINDOW + 100]
    assert sum(frame.superseded for frame in pictures) == WINDOW - 2 + 99
    drops = {item.frame_id: item for item in seen if isinstance(item, Dropped)}
    assert drops[2] == Dropped(2, "superseded", 1)
    assert set(drops) == set(range(2, WINDOW)) | set(range(WINDOW + 1, WINDOW + 100))


async def test_throttle_sends_the_first_at_once_and_the_last_later(client, server):
    server.expect("Connect", drawing)
    async with client.realtime(throttle=0.3, notices=True) as session:
        start = asyncio.get_running_loop().time()
        for prompt in "abcde":
            await session.send(prompt=prompt)
            if prompt == "a":
                await until(lambda: len(frames_of(server.calls[0])) == 1)
        assert (await session.latest()).images[0].content == b"a"
        last = await session.latest()
        spent = asyncio.get_running_loop().time() - start
    assert (last.images[0].content, last.frame_id, last.superseded) == (b"e", 5, 3)
    assert 0.25 < spent < LIMIT
    assert len(frames_of(server.calls[0])) == 2


async def test_with_all_every_frame_is_drawn_and_too_many_are_refused(client, server):
    go = threading.Event()

    def script(frames):
        assert go.wait(LIMIT)
        for frame in frames:
            yield drawn(frame)

    server.expect("Connect", after_opening(script))
    async with client.realtime(policy="all", max_waiting=3, notices=True) as session:
        for number in range(5):
            await session.send(prompt=f"p{number}", seed=number)
        go.set()
        seen = [item async for item in _first(session, 5)]
        await session.send(prompt="p9")
        last = await session.latest()
    assert [item for item in seen if isinstance(item, Dropped)] == [Dropped(4, "overflow"), Dropped(5, "overflow")]
    assert [i.images[0].content for i in seen if isinstance(i, Frame)] == [b"p0", b"p1", b"p2"]
    assert last.seed == 4  # what a refused frame said holds


async def _first(session, count):
    items = aiter(session)
    for _ in range(count):
        yield await anext(items)


@pytest.mark.parametrize("ending", ["status", "eof", "draining", "restart"])
async def test_a_lost_connection_is_one_late_frame(client, server, ending):
    hang = Hang()

    def dies(frames):
        frames = iter(frames)
        yield drawn(next(frames))
        next(frames)
        if ending == "status":
            yield failure("UNAVAILABLE", "NO_WORKER", retry_after=0.05)
        elif ending == "draining":
            yield closed("DRAINING", 0.05)
        elif ending == "eof":
            yield None
        elif ending == "restart":
            yield hang

    server.expect("Connect", after_opening(dies), drawing)
    async with client.realtime(seed=7, notices=True) as session:
        await session.send(prompt="a")
        await session.latest()
        await session.send(prompt="b")
        if ending == "restart":
            await asyncio.to_thread(hang.reached.wait, LIMIT)
            await asyncio.to_thread(server.restart)
        frame = await session.latest()
        await session.send(seed=8)
        after = await session.latest()
    assert (frame.frame_id, frame.images[0].content) == (2, b"b")
    assert (after.frame_id, after.seed) == (3, 8)
    first, second = server.calls
    assert (first.request[0].open.resume_token, second.request[0].open.resume_token) == ("", "again")
    resent = frames_of(second)[0]
    assert (resent.frame_id, resent.changes.fast_lcm_text_to_image.prompt) == (3, "b")
    assert resent.changes.fast_lcm_text_to_image.seed == 7  # all of it, not only what changed


async def test_after_a_break_only_the_newest_is_sent_again(client, server):
    def dies(frames):
        frames = iter(frames)
        next(frames), next(frames)
        yield failure("UNAVAILABLE")

    server.expect("Connect", after_opening(dies), drawing)
    async with client.realtime(notices=True) as session:
        await session.send(prompt="a")
        await until(lambda: len(server.calls[0].request) == 2)
        await session.send(prompt="b")
        seen = [item async for item in _first(session, 2)]
    assert (seen[0], seen[1].frame_id, seen[1].superseded) == (Dropped(1, "superseded"), 2, 1)


async def test_with_all_everything_is_sent_again(client, server):
    def dies(frames):
        frames = iter(frames)
        yield drawn(next(frames))
        next(frames), next(frames)
        yield failure("UNAVAILABLE")

    server.expect("Connect", after_opening(dies), drawing)
    async with client.realtime(policy="all") as session:
        for prompt in "abc":
            await session.send(prompt=prompt)
        assert [f.images[0].content async for f in _first(session, 3)] == [b"a", b"b", b"c"]


async def test_a_forgotten_session_is_opened_anew(client, server):
    def dies(frames):
        yield failure("UNAVAILABLE")

    server.expect("Connect", after_opening(dies), failure("NOT_FOUND"), drawing)
    async with client.realtime(prompt="a") as session:
        await session.send()
        assert (await session.latest()).images[0].content == b"a"
    assert [call.request[0].open.resume_token for call in server.calls] == ["", "again", ""]


async def test_a_server_that_stays_away_is_an_error(server):
    def dies(frames):
        yield failure("UNAVAILABLE")

    server.expect("Connect", after_opening(dies), *[failure("UNAVAILABLE", "NO_WORKER", retry_after=0.6)] * 2)
    async with AsyncClient(KEY, server.host, timeout=1.0) as client, client.realtime() as session:
        await session.send(prompt="a")
        with pytest.raises(flashbulb.Unavailable):
            await session.latest()
        with pytest.raises(flashbulb.Unavailable):
            await session.send(prompt="b")


async def test_a_silent_server_counts_as_lost(client, server):
    server.expect("Connect", after_opening(lambda frames: [Hang()]), drawing)
    terms = client.realtime(prompt="a")._terms
    async with AsyncSession(client._transport, terms, silence=0.2) as session:
        await session.send()
        assert (await session.latest()).images[0].content == b"a"


async def test_a_bad_frame_is_said_and_taken_back(client, server):
    bad = failure("INVALID_ARGUMENT", "INVALID_INPUT", "bad seed", violations=[("changes.seed", "too small")])

    def script(frames):
        frames = iter(frames)
        yield drawn(next(frames))
        yield not_drawn(next(frames).frame_id, "INVALID", error=bad)
        for frame in frames:
            yield drawn(frame)

    server.expect("Connect", after_opening(script))
    async with client.realtime(seed=7, notices=True) as session:
        await session.send(prompt="a")
        await session.latest()
        await session.send(prompt="b", seed=-1)
        dropped = await anext(aiter(session))
        assert (dropped.frame_id, dropped.reason, dropped.error.violations[0].field) == (2, "invalid", "changes.seed")
        assert isinstance(dropped.error, flashbulb.InvalidInput)
        await session.send()
        frame = await session.latest()
    assert (frame.images[0].content, frame.seed) == (b"b", 7)


async def test_a_frame_sent_after_a_bad_one_is_sent_again_and_its_first_picture_only_acknowledged(client, server):
    bad = failure("INVALID_ARGUMENT", "INVALID_INPUT", "bad", violations=[("changes.num_images", "too many")])
    acks = []

    def converse(requests):
        next(requests)
        yield opened()
        again = None
        for request in requests:
            if request.WhichOneof("message") == "ack":
                acks.append(request.ack.frame_id)
            elif request.frame.frame_id == 2:
                yield not_drawn(1, "INVALID", error=bad)
                yield drawn(request.frame)  # without the seed of the frame before
            elif request.frame.frame_id == 3:
                again = request.frame
            if again is not None and 2 in acks:  # a server that holds back
                yield drawn(again)
                again = None

    server.expect("Connect", converse)
    async with client.realtime(prompt="a", seed=4) as session:
        await session.send(seed=5, num_images=99)
        await until(lambda: len(server.calls[0].request) == 2)
        await session.send(guidance_scale=2.0)
        frame = await session.latest()
        assert (frame.frame_id, frame.seed) == (2, 5)
        await until(lambda: acks == [2, 3])


async def test_a_frame_that_failed_ends_nothing(client, server, caplog):
    def script(frames):
        frames = iter(frames)
        yield not_drawn(next(frames).frame_id, "FAILED", 2, failure("INTERNAL", "ENGINE_FAILED", "out of memory"))
        yield drawn(next(frames))

    server.expect("Connect", after_opening(script))
    async with client.realtime() as session:
        await session.send(prompt="a")
        await until(lambda: "not drawn" in caplog.text)
        await session.send(prompt="b")
        assert (await session.latest()).frame_id == 2
    assert "not drawn" in caplog.text


async def test_what_is_no_input_is_refused_before_it_is_sent(client, server, tmp_path):
    server.expect("Connect", drawing)
    with pytest.raises(flashbulb.UnknownField):
        client.realtime(promt="a")
    with pytest.raises(flashbulb.InvalidInput, match="policy"):
        client.realtime(policy="some")
    with pytest.raises(flashbulb.InvalidInput, match="throttle"):
        client.realtime(throttle=-1)
    async with client.realtime(prompt="a") as session:
        with pytest.raises(flashbulb.UnknownField):
            await session.send(promt="a")
        with pytest.raises(flashbulb.InvalidInput, match="prompt: cannot be made empty"):
            await session.send(prompt="")
        assert await session.send(negative_prompt="") == 1


async def test_a_text_is_made_empty_again(client, server):
    server.expect("Connect", drawing)
    async with client.realtime(prompt="a", negative_prompt="red") as session:
        for changes in ({"negative_prompt": ""}, {}, {"negative_prompt": "blue"}, {"negative_prompt": ""}):
            await session.send(**changes)
            await session.latest()
    fields = [frame.changes.fast_lcm_text_to_image.ListFields() for frame in frames_of(server.calls[0])]
    sent = [{d.name: v for d, v in each} for each in fields]
    assert sent == [{"negative_prompt": ""}, {}, {"negative_prompt": "blue"}, {"negative_prompt": ""}]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (failure("INVALID_ARGUMENT", "INVALID_INPUT"), flashbulb.InvalidInput),
        (failure("RESOURCE_EXHAUSTED"), flashbulb.Busy),
        (failure("UNIMPLEMENTED"), flashbulb.ServerError),
        (failure("UNAUTHENTICATED", "KEY_UNKNOWN"), flashbulb.AuthenticationError),
        (at_once(drawn(realtime_pb2.InputFrame())), flashbulb.ServerError),
        (at_once(closed("TOKEN_EXPIRED")), flashbulb.AuthenticationError),
        (at_once(closed("IDLE")), SessionEnded),
    ],
)
async def test_a_session_that_is_not_opened_raises(client, server, reply, error):
    server.expect("Connect", reply)
    with pytest.raises(error):
        async with client.realtime():
            pytest.fail("it was opened")


async def test_an_idle_session_ends_without_an_error(client, server):
    server.expect("Connect", after_opening(lambda frames: [closed("IDLE")]))
    async with client.realtime() as session:
        assert [item async for item in session] == []
        with pytest.raises(SessionEnded) as caught:
            await session.send(prompt="a")
        assert caught.value.reason == "IDLE"
        with pytest.raises(SessionEnded, match="because IDLE"):
            await session.latest()


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("TOKEN_EXPIRED", flashbulb.AuthenticationError),
        ("NO_WORKER", SessionEnded),
        ("UNSPECIFIED", SessionEnded),
    ],
)
async def test_other_reasons_to_close_are_errors(client, server, reason, error):
    server.expect("Connect", after_opening(lambda frames: [closed(reason)]))
    async with client.realtime() as session:
        with pytest.raises(error, match=f"because {reason}") as caught:
            await anext(aiter(session))
    assert caught.value.reason == reason


async def test_unknown_and_foolish_messages_are_skipped(client, server):
    unknown = realtime_pb2.ConnectResponse.FromString(b"\xfa\x07\x02hi")

    def script(frames):
        frame = next(iter(frames))
        yield unknown
        yield realtime_pb2.ConnectResponse(pong=realtime_pb2.Pong())
        yield drawn(realtime_pb2.InputFrame(frame_id=99))
        yield not_drawn(98, "SUPERSEDED")
        yield realtime_pb2.ConnectResponse(dropped=realtime_pb2.DroppedFrame(frame_id=-5, reason=77))
        yield drawn(frame)
        yield drawn(frame)

    server.expect("Connect", after_opening(script))
    async with client.realtime(notices=True) as session:
        await session.send(prompt="a")
        assert (await anext(aiter(session))).images[0].content == b"a"


async def test_bytes_that_are_no_message_end_the_session(client, server):
    class Raw:
        def SerializeToString(self):
            return b"\xff\xff\xff"

    server.expect("Connect", after_opening(lambda frames: [Raw()]))
    async with client.realtime() as session:
        with pytest.raises(flashbulb.ServerError, match="no message"):
            await anext(aiter(session))


async def test_previews_come_if_asked_for(client, server):
    def script(frames):
        frame = next(iter(frames))
        yield realtime_pb2.ConnectResponse(preview=generation_pb2.Preview(step=1, content=b"rough"))
        yield drawn(frame)

    server.expect("Connect", after_opening(script))
    async with client.realtime(previews=True) as session:
        await session.send(prompt="a")
        items = [item async for item in _first(session, 2)]
    assert isinstance(items[0], Previewed)
    assert (items[0].content, items[1].frame_id) == (b"rough", 1)
    assert server.calls[0].request[0].open.include_previews


async def test_pictures_are_acknowledged_when_they_are_taken(client, server):
    acks = []

    def converse(requests):
        next(requests)
        yield opened()
        for request in requests:
            if request.WhichOneof("message") == "ack":
                acks.append(request.ack.frame_id)
            else:
                yield drawn(request.frame)

    server.expect("Connect", converse)
    async with client.realtime() as session:
        await session.send(prompt="a")
        await until(lambda: session._inbox.frames)
        assert not acks
        await session.latest()
        await until(lambda: acks == [1])


async def test_a_session_is_opened_once_and_used_while_it_is_open(client, sync_client, server):
    server.expect("Connect", drawing, drawing)
    session = client.realtime()
    for use in (session.send(), session.latest(), anext(aiter(session))):
        with pytest.raises(RuntimeError, match="not open"):
            await use
    await session.close()
    async with session:
        pass
    with pytest.raises(RuntimeError):
        await session.__aenter__()
    session = sync_client.realtime()
    with pytest.raises(RuntimeError, match="not open"):
        _ = session.session_id
    with session:
        pass
    with pytest.raises(RuntimeError, match="once"):
        session.__enter__()


async def test_closing_ends_whoever_waits(client, server):
    server.expect("Connect", after_opening(lambda frames: (drawn(f) for f in frames)))
    async with client.realtime() as session:

        async def read():
            return [item async for item in session]

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            await session.send(prompt="a")
            await until(lambda: session._outbox.unanswered == 0)
            await session.close()
        assert len(reader.result()) == 1
        await session.close()
        with pytest.raises(SessionEnded) as caught:
            await session.send(prompt="b")
    assert caught.value.reason == "CLIENT"
    assert server.calls[0].ended.wait(LIMIT)


async def test_an_error_in_the_body_comes_through_and_ends_the_call(client, server):
    server.expect("Connect", after_opening(lambda frames: [Hang()]))
    with pytest.raises(ZeroDivisionError):
        async with client.realtime() as session:
            await session.send(prompt="a")
            raise ZeroDivisionError
    assert await asyncio.to_thread(server.calls[0].ended.wait, LIMIT)


async def test_cancelling_while_it_opens_ends_the_call(client, server):
    hang = Hang()
    server.expect("Connect", hang)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), client.realtime():
            pytest.fail("it was opened")
    assert await asyncio.to_thread(server.calls[0].ended.wait, LIMIT)


async def test_a_closed_client_ends_its_sessions(server):
    server.expect("Connect", after_opening(lambda frames: [Hang()]))
    client = AsyncClient(KEY, server.host)
    async with asyncio.timeout(LIMIT), client.realtime() as session:
        await client.close()
        with pytest.raises(flashbulb.FlashbulbError):
            await session.latest()


async def test_memory_stays_bounded_over_1000_pictures_nobody_takes(client, server):
    picture = bytes(256 * 1024)

    def script(frames):
        for frame in frames:
            yield drawn(frame, content=picture)

    server.expect("Connect", after_opening(script))
    async with client.realtime("fast-lcm-diffusion", notices=True) as session:
        await session.send(prompt="first")
        await until(lambda: session._inbox.frames)
        tracemalloc.start()
        try:
            for number in range(1000):
                await session.send(prompt=f"p{number}")
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: session._inbox.frames >= 3)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert session._outbox.unanswered <= WINDOW + 1
        assert len(session._inbox._items) <= 260
        last = 0
        async for item in session:
            last = max(last, item.frame_id)
            if last == 1001 and isinstance(item, Frame):
                break
    assert grown < 16 * 1024 * 1024


def test_the_session_without_a_loop_does_the_same(sync_client, server):
    server.expect("Connect", drawing, after_opening(lambda frames: [closed("IDLE")]))
    with sync_client.realtime(seed=7, notices=True) as session:
        assert (session.session_id, session.idle_timeout, session.resolved_defaults.seed) == ("s1", 60.0, 7)
        assert session.send(prompt="a") == 1
        assert session.latest().images[0].content == b"a"
        session.send(prompt="b")
        assert next(iter(session)).images[0].content == b"b"
        session.send(prompt="c")
        assert next(session.frames()).images[0].content == b"c"
        with pytest.raises(flashbulb.UnknownField):
            session.send(promt="a")
    with sync_client.realtime() as session:
        assert list(session) == []
        with pytest.raises(SessionEnded):
            session.send(prompt="a")


def test_without_a_loop_another_thread_may_close(sync_client, server):
    server.expect("Connect", drawing)
    with sync_client.realtime() as session:
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(session))
        thread.start()
        session.send(prompt="a")
        session.close()
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_without_a_loop_an_error_in_the_body_comes_through(sync_client, server):
    server.expect("Connect", after_opening(lambda frames: [Hang()]))
    with pytest.raises(ZeroDivisionError), sync_client.realtime() as session:
        session.send(prompt="a")
        raise ZeroDivisionError
    assert server.calls[0].ended.wait(LIMIT)


def test_without_a_loop_a_session_that_is_not_opened_raises(sync_client, server):
    server.expect("Connect", failure("INVALID_ARGUMENT", "INVALID_INPUT"))
    with pytest.raises(flashbulb.InvalidInput), sync_client.realtime():
        pytest.fail("it was opened")


async def test_connect_takes_its_client_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("FLASHBULB_KEY", KEY)
    monkeypatch.setenv("FLASHBULB_HOST", server.host)
    server.expect("Connect", drawing, drawing)
    async with flashbulb.realtime.connect(seed=7) as session:
        await session.send(prompt="a")
        assert (await session.latest()).frame_id == 1

    def without_a_loop():
        flashbulb._shortcuts.default_client.cache_clear()
        try:
            with flashbulb.realtime.connect("fast-lcm-diffusion", policy="all", seed=7) as session:
                session.send(prompt="a")
                return session.latest().frame_id
        finally:
            flashbulb._shortcuts.default_client().close()
            flashbulb._shortcuts.default_client.cache_clear()

    assert await asyncio.to_thread(without_a_loop) == 1
    assert server.calls[1].request[0].open.frame_policy == realtime_pb2.FRAME_POLICY_ALL
