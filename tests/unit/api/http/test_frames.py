"""Frames of a realtime socket: what is read of them, what is left to the endpoint's defaults, and how each is answered."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.http.frames import MAX_FRAME_BYTES, Frames, parse, unauthorized
from flashbulb_server.api.session_messages import Closed, CloseReason, Dropped, InputFrame, Opened, Picture, Pong
from flashbulb_server.core.flight import DropReason
from flashbulb_server.core.generation import DrawnImage, GenerationResult, PreviewImage, SourceImage
from flashbulb_server.errors import EngineFailed, FieldViolation, InvalidRequest
from flashbulb_server.wire.outputs import to_output
from tests.specs import make_spec

LCM = "fast-lcm-diffusion"


def frames(endpoint: str = LCM, **options: bool) -> Frames:
    return Frames(endpoint, seed=42, link=lambda image: f"{image.url}/at-the-gateway", **options)


def packed(**given: object) -> bytes:
    return bytes(msgpack.packb(given))


def output(content: bytes = b"a picture", url: str = "", **spec: object) -> GenerationOutput:
    image = DrawnImage("image/jpeg", 128, 64, 128, 64, len(content), 7, content=content, url=url)
    return to_output(GenerationResult(make_spec(seed=7, **spec), (image,), (False,), "EXACT", 1.0, {"inference": 0.5}))


def answers(talk: Frames, message: object) -> list[dict[str, object]]:
    """What is sent, read as fal's client reads it."""
    return [json.loads(f) if isinstance(f, str) else msgpack.unpackb(f) for f in talk.write(message)]  # type: ignore[arg-type]


def problem(frame: InputFrame) -> str:
    assert isinstance(frame.problem, InvalidRequest)
    return str(frame.problem)


def test_frames_are_numbered_as_they_come() -> None:
    talk = frames()
    assert [talk.read(packed(prompt="a")).frame_id for _ in range(3)] == [1, 2, 3]
    assert talk.read(b"\xc1").frame_id == 4, "a broken one, too"


@pytest.mark.parametrize(
    "frame", [packed(prompt="a cat", image_size="square"), '{"prompt":"a cat","image_size":"square"}']
)
def test_a_frame_is_the_whole_input(frame: bytes | str) -> None:
    read = frames().read(frame)
    assert read.endpoint == LCM
    assert {k: v for k, v in read.changes.items() if v is not None} == {
        "prompt": "a cat",
        "image_size": "square",
        "seed": 42,
    }
    assert read.changes["guidance_scale"] is None, "not the value of the frame before"


def test_the_seed_of_the_session_is_for_frames_that_bring_none() -> None:
    talk = frames()
    assert talk.read(packed(prompt="a", seed=5)).changes["seed"] == 5
    assert talk.read(packed(prompt="a")).changes["seed"] == 42
    assert talk.read(packed(prompt="a", seed=None)).changes["seed"] == 42
    assert talk.read(packed(prompt="a", seed=0)).changes["seed"] == 0


def test_incremental_frames_hold_what_changed() -> None:
    assert frames(incremental=True).read(packed(guidance_scale=2.5)).changes == {"guidance_scale": 2.5}


def test_null_takes_a_field_of_an_incremental_frame_back_to_its_default() -> None:
    read = frames(incremental=True).read(packed(prompt="a", negative_prompt=None, seed=None, nonsense=None))
    assert read.changes == {"prompt": "a", "negative_prompt": None, "seed": 42}


def test_a_stand_in_is_told_once() -> None:
    talk = frames()
    for frame_id, asked in enumerate(("", "hosted/model", "hosted/model", "", "hosted/model"), start=1):
        talk.read(packed(prompt="a"))
        told = [
            a
            for a in answers(talk, Picture(frame_id, output(asked_model=asked), 0.25, 0))
            if a.get("action") == "stand_in"
        ]
        wanted = {"type": "x-fal-message", "action": "stand_in", "asked": "hosted/model", "drawn_by": "flashbulb/tiny"}
        assert told == ([wanted] if frame_id in (2, 5) else []), frame_id


def test_pictures_come_as_bytes_or_by_link() -> None:
    endpoint = "fast-lcm-diffusion/inpainting"
    for frame in (packed(image_bytes=b"\x89PNG", mask_bytes=b"m"), packed(image_url=b"\x89PNG", mask_url=b"m")):
        changes = frames(endpoint).read(frame).changes
        assert changes["image_url"] == SourceImage(content=b"\x89PNG")
        assert changes["mask_url"] == SourceImage(content=b"m")
    assert frames(endpoint).read('{"image_url":"https://a/b"}').changes["image_url"] == SourceImage("https://a/b")
    assert "image_url" not in frames().read(packed(image_bytes=b"x")).changes, "no field of this endpoint"
    several = frames("omnigen-v1").read(packed(input_image_urls=[b"\x89PNG", "http://a/b"])).changes
    assert several["input_image_urls"] == [SourceImage(content=b"\x89PNG"), SourceImage("http://a/b")]


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"\xc1", "not valid msgpack"),
        (b"", "not valid msgpack"),
        (packed(prompt="a") + b"\x00", "not valid msgpack"),
        (b"\x81\xa6prompt\xa1\xff", "not valid msgpack"),
        (b"\x91" * 5000, "not valid msgpack"),
        (bytes(msgpack.packb("a text")), "must be a map"),
        (bytes(msgpack.packb({1: "a"})), "not valid msgpack"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('"a text"', "must be a map"),
        (b"\x00" * (MAX_FRAME_BYTES + 1), "upload the file"),
    ],
)
def test_a_frame_that_cannot_be_read_is_answered_like_a_bad_one(frame: bytes | str, says: str) -> None:
    talk = frames()
    read = talk.read(frame)
    assert says in problem(read)
    [answer] = answers(talk, Dropped(read.frame_id, DropReason.INVALID, error=read.problem))
    assert answer["type"] == "x-fal-error" and answer["error"] == "INVALID_INPUT" and says in str(answer["reason"])


@given(st.binary(max_size=64) | st.text(max_size=64))
def test_no_frame_breaks_the_reader(frame: bytes | str) -> None:
    try:
        assert isinstance(parse(frame), dict)
    except InvalidRequest as err:
        assert err.violations[0].field == "frame"


def test_a_binary_frame_is_answered_by_bytes_without_a_url() -> None:
    talk = frames()
    talk.read(packed(prompt="a", request_id="r"))
    picture, timings = answers(talk, Picture(1, output(request_id="r"), 0.25, 0))
    assert picture["images"] == [{"content": b"a picture", "content_type": "image/jpeg", "width": 128, "height": 64}]
    assert (picture["seed"], picture["request_id"], picture["has_nsfw_concepts"]) == (7, "r", [False])
    assert picture["timings"] == {"inference": 0.5} and picture["prompt"] == make_spec().prompt
    assert timings == {"type": "x-fal-message", "action": "timings", "timing": 0.25}


def test_a_text_frame_is_answered_by_text() -> None:
    talk = frames()
    talk.read('{"prompt":"a"}')
    first, _ = talk.write(Picture(1, output(), 0.25, 0))
    assert isinstance(first, str)
    [image] = json.loads(first)["images"]
    assert image["url"] == "data:image/jpeg;base64,YSBwaWN0dXJl" and "content" not in image


def test_a_picture_too_large_to_travel_inline_has_its_link() -> None:
    talk = frames()
    talk.read(packed(prompt="a"))
    [image] = answers(talk, Picture(1, output(b"", "http://a/b"), 0.1, 0))[0]["images"]  # type: ignore[misc]
    assert image["url"] == "http://a/b/at-the-gateway" and "content" not in image


def test_a_dropped_frame_is_told_in_a_way_that_clients_skip() -> None:
    talk = frames()
    talk.read(packed(prompt="a", request_id="r"))
    assert answers(talk, Dropped(1, DropReason.SUPERSEDED)) == [
        {"type": "x-fal-message", "action": "dropped", "request_id": "r", "reason": "SUPERSEDED"}
    ]


def test_errors_name_every_field_and_the_frame() -> None:
    talk = frames()
    talk.read(packed(prompt="a", request_id="r"))
    talk.read(packed(prompt="a", request_id="r" * 1000))
    bad = InvalidRequest([FieldViolation("prompt", "is required"), FieldViolation("seed", "must be a whole number")])
    [first] = answers(talk, Dropped(1, DropReason.INVALID, error=bad))
    assert (first["error"], first["request_id"]) == ("INVALID_INPUT", "r")
    assert [entry["loc"] for entry in first["detail"]] == [["body", "prompt"], ["body", "seed"]]  # type: ignore[attr-defined]
    [second] = answers(talk, Dropped(2, DropReason.FAILED, error=EngineFailed()))
    assert second["error"] == "ENGINE_FAILED" and "request_id" not in second


def test_nothing_is_kept_of_a_frame_that_was_answered() -> None:
    talk = frames()
    for _ in range(3):
        talk.read(packed(prompt="a"))
    talk.write(Picture(3, output(), 0.1, 2))
    talk.write(Dropped(1, DropReason.SUPERSEDED))
    talk.write(Dropped(2, DropReason.SUPERSEDED))
    assert talk._open == {}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (CloseReason.IDLE, {"type": "x-fal-error", "error": "TIMEOUT", "reason": "no inputs, reconnect when needed!"}),
        (CloseReason.NO_WORKER, {"type": "x-fal-error", "error": "NO_WORKER", "reason": "why"}),
        (CloseReason.TOKEN_EXPIRED, {"type": "x-fal-error", "error": "TOKEN_EXPIRED", "reason": "why"}),
        (CloseReason.DRAINING, {"type": "x-fal-message", "action": "closing", "reason": "DRAINING", "message": "why"}),
        (CloseReason.CLIENT, {"type": "x-fal-message", "action": "closing", "reason": "CLIENT", "message": "why"}),
    ],
)
def test_why_a_session_ends_is_told(reason: CloseReason, expected: dict[str, object]) -> None:
    assert answers(frames(), Closed(reason, "why")) == [expected]


def test_what_only_our_own_clients_ask_for() -> None:
    opened = Opened("s", "t", None, 60.0)
    assert frames().write(opened) == [], "a stranger takes its first message for its first picture"
    [told] = answers(frames(incremental=True), opened)
    assert told == {"type": "x-fal-message", "action": "opened", "session_id": "s", "resume_token": "t"}
    [preview] = answers(frames(), PreviewImage(0, 3, b"jpeg"))
    assert preview == {
        "type": "x-fal-message",
        "action": "preview",
        "url": "data:image/jpeg;base64,anBlZw==",
        "step": 3,
        "image_index": 0,
    }
    assert frames().write(Pong(0)) == []
    assert answers(frames(incremental=True), Pong(0)) == [{"type": "x-fal-message", "action": "heartbeat"}]


def test_who_is_not_let_in_is_told_twice() -> None:
    first, second = map(json.loads, unauthorized("the token has expired"))
    assert first == {"type": "x-fal-error", "error": "UNAUTHORIZED", "reason": "the token has expired"}
    assert second == {"status": "error", "error": "Unauthorized"}


@pytest.mark.parametrize("message", [Picture(7, output(), 0.1, 0), Dropped(7, DropReason.SUPERSEDED)])
def test_a_frame_of_the_connection_before_is_answered_too(message: Picture | Dropped) -> None:
    """A session that is resumed goes on with the frame that was being drawn when the connection broke."""
    assert answers(frames(incremental=True), message)


def test_a_frame_of_the_connection_before_is_answered_in_the_kind_spoken_now() -> None:
    talk = frames(incremental=True)
    talk.read('{"prompt": "a"}')
    assert isinstance(talk.write(Picture(7, output(), 0.1, 0))[0], str)
