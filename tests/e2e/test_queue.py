"""A request's life in the queue: submit, watch, result, idempotency, lists, and that a key sees its own only."""

from __future__ import annotations

import asyncio
import io
import time
import uuid

import grpc
import httpx
from PIL import Image

from flashbulb.v1 import image_pb2, queue_pb2
from tests.driving import Caller, Refusal, State, distance, refusal
from tests.service import apple

PNG = image_pb2.IMAGE_FORMAT_PNG
SUCCEEDED = State.STATE_SUCCEEDED


async def download(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(url)).raise_for_status()


def size(width: int, height: int) -> image_pb2.ImageSize:
    return image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=width, height=height))


async def test_a_prompt_becomes_a_picture_behind_a_link(me: Caller) -> None:
    request = await me.submit(apple(image_size=size(200, 120), request_id="my label"))
    assert request.state == State.STATE_QUEUED
    assert (request.endpoint, request.model_name) == ("fast-lcm-diffusion", "flashbulb/tiny")
    assert request.priority == queue_pb2.PRIORITY_NORMAL
    assert abs(request.create_time.seconds - time.time()) < 5

    ended = await me.ended(request.request_id)
    assert ended.state == SUCCEEDED
    assert ended.attempt == 1
    times = [t.ToNanoseconds() for t in (ended.create_time, ended.start_time, ended.end_time)]
    assert times == sorted(times)
    assert ended.expire_time.seconds - ended.end_time.seconds in (86_400, 86_401)
    assert not ended.HasField("queue_position") and not ended.HasField("eta") and not ended.HasField("error")

    result = await me.result(request.request_id)
    assert result.request_id == request.request_id
    output = result.output
    (image,) = output.images
    response = await download(image.url)
    assert response.headers["content-type"] == image.content_type == "image/jpeg"
    assert response.content == image.content, "sync_mode is on by default: the bytes are inline too"
    assert len(response.content) == image.size_bytes
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.size) == ("JPEG", (200, 120))
    assert (image.width, image.height) == (200, 120)
    assert image.url_expire_time.seconds > time.time()
    assert (output.seed, output.prompt, output.request_id) == (7, "a red apple", "my label")
    assert list(output.has_nsfw_concepts) == [False]
    assert output.timings["inference"] > 0
    assert {"wait", "encode_prompt", "denoise", "decode", "safety", "encode_image", "upload"} <= set(output.timings)


async def test_a_png(me: Caller) -> None:
    output = await me.output((await me.submit(apple(format=PNG))).request_id)
    (image,) = output.images
    picture = Image.open(io.BytesIO((await download(image.url)).content))
    assert (picture.format, picture.size, image.content_type) == ("PNG", (128, 128), "image/png")


async def test_the_default_size_is_resampled_and_says_so(me: Caller) -> None:
    given = apple()
    given.fast_lcm_text_to_image.ClearField("image_size")
    given.fast_lcm_text_to_image.sync_mode = False
    (image,) = (await me.output((await me.submit(given)).request_id)).images
    assert (image.width, image.height, image.native_width, image.native_height) == (1024, 1024, 128, 128)
    assert Image.open(io.BytesIO((await download(image.url)).content)).size == (1024, 1024)


async def test_without_sync_mode_there_are_no_inline_bytes(me: Caller) -> None:
    (image,) = (await me.output((await me.submit(apple(sync_mode=False))).request_id)).images
    assert image.content == b""
    assert len((await download(image.url)).content) == image.size_bytes > 0


async def test_pictures_of_one_request_are_those_of_their_seeds_alone(me: Caller) -> None:
    together = await me.output((await me.submit(apple(num_images=3, seed=40, format=PNG))).request_id)
    assert [image.seed for image in together.images] == [40, 41, 42]
    assert len({image.url for image in together.images}) == 3
    for image in together.images:
        alone = await me.output((await me.submit(apple(seed=image.seed, format=PNG))).request_id)
        assert distance(alone.images[0].content, image.content) <= 1
    assert distance(together.images[0].content, together.images[1].content) > 20, "other seeds draw other pictures"


async def test_an_answer_s_input_draws_the_same_again(me: Caller) -> None:
    given = apple(format=PNG)
    given.fast_lcm_text_to_image.ClearField("seed")
    first = await me.output((await me.submit(given)).request_id)
    again = await me.output((await me.submit(first.resolved_input)).request_id)
    assert again.seed == first.seed == first.resolved_input.fast_lcm_text_to_image.seed
    assert distance(first.images[0].content, again.images[0].content) <= 1
    other = await me.output((await me.submit(given)).request_id)
    assert other.seed != first.seed, "a seed that is not given is drawn at random"


async def test_logs_are_kept_and_given_where_asked_for(me: Caller) -> None:
    request_id = (await me.submit()).request_id
    await me.ended(request_id)
    assert not (await me.status(request_id)).logs
    logs = (await me.status(request_id, include_logs=True)).logs
    texts = [entry.message for entry in logs]
    assert texts[0].startswith("started by worker")
    assert any(text.startswith("drawn in") for text in texts)
    assert texts[-1] == "stored 1 picture(s)"
    assert [e.log_time.ToNanoseconds() for e in logs] == sorted(e.log_time.ToNanoseconds() for e in logs)


async def test_no_result_before_the_end(me: Caller) -> None:
    request_id = (await me.submit(apple(num_images=8, num_inference_steps=32))).request_id
    await me.until_step(request_id, 1)
    error = await refusal(me.result(request_id))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_NOT_FINISHED")
    assert error.metadata == {"request_id": request_id, "state": "RUNNING"}
    await me.cancel(request_id)


async def test_a_running_request_says_how_far_it_is(me: Caller) -> None:
    request_id = (await me.submit(apple(num_images=8, num_inference_steps=32))).request_id
    await me.until_step(request_id, 2)
    running = await me.status(request_id, include_logs=True)
    assert running.state == State.STATE_RUNNING
    assert 2 <= running.progress.step < running.progress.total_steps == 32
    assert 0 < running.eta.ToTimedelta().total_seconds() < 60
    assert running.logs[0].message.startswith("started by worker")
    assert not running.HasField("queue_position")
    await me.cancel(request_id)


# Idempotency


async def test_the_same_key_and_input_is_one_request(me: Caller) -> None:
    key = str(uuid.uuid4())
    first = await me.submitted(idempotency_key=key)
    assert not first.deduplicated
    again = await me.submitted(idempotency_key=key)
    assert (again.deduplicated, again.request.request_id) == (True, first.request.request_id)
    await me.ended(first.request.request_id)
    late = await me.submitted(idempotency_key=key)
    assert (late.deduplicated, late.request.state) == (True, SUCCEEDED)
    assert await me.listed() == [first.request.request_id]
    assert (await me.status(first.request.request_id)).attempt == 1


async def test_the_same_key_with_another_input_is_refused(me: Caller) -> None:
    first = await me.submit(idempotency_key="k")
    error = await refusal(me.submit(apple(seed=8), idempotency_key="k"))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IDEMPOTENCY_KEY_REUSED")
    assert error.metadata == {"request_id": first.request_id}
    assert await me.listed() == [first.request_id]


async def test_keys_of_two_callers_are_two_keys(me: Caller, stranger: Caller) -> None:
    mine = await me.submitted(idempotency_key="the-same")
    theirs = await stranger.submitted(apple(seed=9), idempotency_key="the-same")
    assert not theirs.deduplicated
    assert theirs.request.request_id != mine.request.request_id


async def test_ten_submissions_at_once_with_one_key_are_one_request(me: Caller) -> None:
    answers = await asyncio.gather(*(me.submitted(idempotency_key="at-once") for _ in range(10)))
    assert len({answer.request.request_id for answer in answers}) == 1
    assert sum(not answer.deduplicated for answer in answers) == 1
    ended = await me.ended(answers[0].request.request_id)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
    assert await me.listed() == [ended.request_id]


# List


async def test_list_is_newest_first_in_pages_without_gaps_or_repeats(me: Caller, stranger: Caller) -> None:
    await stranger.submit()
    made = [(await me.submit()).request_id for _ in range(7)]
    newest_first = made[::-1]
    assert await me.listed() == newest_first
    for page_size in (1, 3, 7, 200):
        seen: list[str] = []
        token = ""
        while True:
            page = await me.page(page_size=page_size, page_token=token)
            assert 0 < len(page.requests) <= page_size
            seen += [request.request_id for request in page.requests]
            token = page.next_page_token
            if not token:
                break
        assert seen == newest_first
    assert len((await me.page()).requests) == 7, "50 on a page if nothing is said"


async def test_a_new_request_does_not_shift_pages(me: Caller) -> None:
    made = [(await me.submit()).request_id for _ in range(4)]
    first = await me.page(page_size=2)
    await me.submit()
    second = await me.page(page_size=2, page_token=first.next_page_token)
    assert [r.request_id for r in (*first.requests, *second.requests)] == made[::-1]


async def test_list_by_state(me: Caller) -> None:
    done = (await me.submit()).request_id
    assert (await me.ended(done)).state == SUCCEEDED
    stopped = (await me.submit(apple(num_images=8, num_inference_steps=32))).request_id
    await me.cancel(stopped)
    by_state = {
        states: [r.request_id for r in (await me.page(states=states)).requests]
        for states in ((), (SUCCEEDED,), (State.STATE_CANCELLED,), (SUCCEEDED, State.STATE_CANCELLED))
    }
    assert list(by_state.values()) == [[stopped, done], [done], [stopped], [stopped, done]]
    assert not (await me.page(states=[State.STATE_QUEUED])).requests


async def test_a_list_holds_no_pictures(me: Caller) -> None:
    request_id = (await me.submit(apple(image_size=size(512, 512)))).request_id
    assert len((await me.output(request_id)).images[0].content) > 5_000
    assert (await me.page()).ByteSize() < 500


# Whose


async def test_another_key_s_request_does_not_exist(me: Caller, stranger: Caller) -> None:
    request_id = (await me.submit(apple(num_images=8, num_inference_steps=32))).request_id

    def calls() -> list[object]:
        return [
            stranger.status(request_id),
            stranger.watching(request_id),
            stranger.result(request_id),
            stranger.cancel(request_id),
        ]

    for running in (True, False):
        if not running:
            await me.cancel(request_id)
        for call in calls():
            error: Refusal = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND")
            assert error.metadata == {"request_id": request_id}
    assert await stranger.listed() == []
    cancelled = await me.status(request_id)
    assert cancelled.state == State.STATE_CANCELLED
