"""Messages of a session between protobuf and values: every kind, both ways, and what is wrong with the bad ones."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, realtime_pb2
from flashbulb_server.api.grpc.convert_session import MAX_FRAME_ID, from_outgoing, to_incoming, to_opening
from flashbulb_server.api.session_messages import (
    Ack,
    Closed,
    CloseReason,
    Dropped,
    InputFrame,
    Opened,
    Opening,
    Picture,
    Ping,
    Pong,
)
from flashbulb_server.core.flight import DropReason
from flashbulb_server.core.generation import PreviewImage, SourceImage
from flashbulb_server.core.realtime import FramePolicy
from flashbulb_server.errors import FieldViolation, InvalidRequest
from tests.specs import make_image_spec, make_spec

LCM = "fast-lcm-diffusion"


def text(**fields: object) -> input_pb2.GenerationInput:
    return input_pb2.GenerationInput(fast_lcm_text_to_image=input_pb2.FastLcmTextToImageInput(**fields))


def opening(**wish: object) -> realtime_pb2.ConnectRequest:
    wish.setdefault("defaults", text(prompt="a cat"))
    return realtime_pb2.ConnectRequest(open=realtime_pb2.OpenSession(**wish))


def frame(**fields: object) -> realtime_pb2.ConnectRequest:
    return realtime_pb2.ConnectRequest(frame=realtime_pb2.InputFrame(**fields))


def test_an_opening_with_nothing_but_its_endpoint() -> None:
    assert to_opening(opening()) == Opening(LCM, {"prompt": "a cat"})


def test_an_opening_with_everything() -> None:
    message = opening(
        defaults=text(seed=0, guidance_scale=0.0),
        max_fps=120,
        frame_policy=realtime_pb2.FRAME_POLICY_ALL,
        max_waiting_frames=60,
        include_previews=True,
        resume_token="token",
    )
    values = {"seed": 0, "guidance_scale": 0.0}
    assert to_opening(message) == Opening(LCM, values, 120.0, FramePolicy.ALL, 60, True, "token")


@pytest.mark.parametrize("threshold", [0.0, 0.01, 1.0])
def test_an_opening_with_several_frames_in_flight_and_similar_ones_left_out(threshold: float) -> None:
    image = input_pb2.GenerationInput(fast_lcm_image_to_image=input_pb2.FastLcmImageToImageInput(prompt="a"))
    found = to_opening(opening(defaults=image, max_frames_in_flight=4, similar_image_threshold=threshold))
    assert (found.max_in_flight, found.similar_threshold, found.problems) == (4, threshold, ())


@pytest.mark.parametrize(("in_flight", "threshold"), [(5, 1.01), (-1, -0.01), (2**31 - 1, float("nan")), (99, 0.5)])
def test_bad_options_of_an_opening_are_all_told(in_flight: int, threshold: float) -> None:
    """The last threshold is good but for the endpoint, which takes no picture."""
    found = to_opening(opening(max_frames_in_flight=in_flight, similar_image_threshold=threshold))
    assert [problem.field for problem in found.problems] == ["max_frames_in_flight", "similar_image_threshold"]


def test_every_bad_field_of_an_opening_is_kept_to_be_told_with_those_of_the_input() -> None:
    found = to_opening(opening(max_fps=0.09, frame_policy=77, max_waiting_frames=61))
    assert [problem.field for problem in found.problems] == ["max_fps", "frame_policy", "max_waiting_frames"]
    assert [p.field for p in to_opening(opening(max_waiting_frames=-1, max_fps=float("nan"))).problems] == [
        "max_fps",
        "max_waiting_frames",
    ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (realtime_pb2.ConnectRequest(), "open"),
        (frame(frame_id=1), "open"),
        (realtime_pb2.ConnectRequest(ping=realtime_pb2.Ping()), "open"),
        (realtime_pb2.ConnectRequest(open=realtime_pb2.OpenSession()), "input"),
    ],
)
def test_what_opens_nothing(message: realtime_pb2.ConnectRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_opening(message)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_frame_holds_what_was_set_and_nothing_else() -> None:
    assert to_incoming(frame(frame_id=3, changes=text(seed=0))) == InputFrame(3, LCM, {"seed": 0})
    assert to_incoming(frame(frame_id=3, changes=text())) == InputFrame(3, LCM, {})
    assert to_incoming(frame(frame_id=MAX_FRAME_ID)) == InputFrame(MAX_FRAME_ID, None, {})


def test_a_picture_in_a_frame() -> None:
    image = input_pb2.FastLcmImageToImageInput(image_url=image_pb2.ImageSource(content=b"jpeg"))
    found = to_incoming(frame(frame_id=1, changes=input_pb2.GenerationInput(fast_lcm_image_to_image=image)))
    assert found == InputFrame(1, f"{LCM}/image-to-image", {"image_url": SourceImage(content=b"jpeg")})


@pytest.mark.parametrize("frame_id", [0, -1, MAX_FRAME_ID + 1, 2**63 - 1])
def test_a_number_out_of_range_is_a_problem_of_the_frame_alone(frame_id: int) -> None:
    found = to_incoming(frame(frame_id=frame_id, changes=text(seed=1)))
    assert isinstance(found, InputFrame)
    assert (found.frame_id, found.changes) == (frame_id, {})
    assert isinstance(found.problem, InvalidRequest)
    assert [violation.field for violation in found.problem.violations] == ["frame_id"]


def test_changes_of_an_endpoint_that_is_not_known_are_not_taken_for_no_changes() -> None:
    later = input_pb2.GenerationInput.FromString(b"\xa2\x06\x00")  # field 100, as a later version may have it
    found = to_incoming(frame(frame_id=1, changes=later))
    assert isinstance(found, InputFrame)
    assert isinstance(found.problem, InvalidRequest)
    assert [violation.field for violation in found.problem.violations] == ["input"]


def test_acknowledgements_and_pings() -> None:
    assert to_incoming(realtime_pb2.ConnectRequest(ack=realtime_pb2.AckFrame(frame_id=9))) == Ack(9)
    assert to_incoming(realtime_pb2.ConnectRequest(ping=realtime_pb2.Ping(nonce=-9))) == Ping(-9)


@pytest.mark.parametrize("message", [opening(), realtime_pb2.ConnectRequest()])
def test_what_no_receipt_can_answer(message: realtime_pb2.ConnectRequest) -> None:
    with pytest.raises(InvalidRequest):
        to_incoming(message)


def test_an_opened_session_echoes_its_values_but_no_pictures() -> None:
    spec = make_image_spec(image=SourceImage(content=b"jpeg" * 1000))
    opened = from_outgoing(Opened("id", "token", spec, 2.5), 1, 0.0).opened
    assert (opened.session_id, opened.resume_token) == ("id", "token")
    assert (opened.idle_timeout.seconds, opened.idle_timeout.nanos) == (2, 500_000_000)
    assert opened.resolved_defaults.fast_lcm_image_to_image.prompt == "a red apple"
    assert opened.ByteSize() < 1000
    assert opened.model_name == "flashbulb/tiny"
    unresolved = from_outgoing(Opened("id", "token", None, 1.0), 1, 0.0).opened
    assert not unresolved.HasField("resolved_defaults") and unresolved.model_name == ""
    echoed = from_outgoing(Opened("id", "token", make_spec(), 1.0), 1, 0.0).opened.resolved_defaults
    assert echoed.fast_lcm_text_to_image.seed == 7


def test_a_picture() -> None:
    output = generation_pb2.GenerationOutput(
        images=[image_pb2.Image(content=b"jpeg")],
        seed=5,
        timings={"denoise": 0.5},
        has_nsfw_concepts=[False],
        fidelity=generation_pb2.FIDELITY_CLOSE,
        model_name="some/model",
        backend="some cpu",
    )
    response = from_outgoing(Picture(4, output, 0.25, 3), 17, 0.0)
    assert response.sequence == 17
    assert response.frame == realtime_pb2.OutputFrame(
        frame_id=4,
        images=output.images,
        seed=5,
        timings={"denoise": 0.5},
        age={"nanos": 250_000_000},
        superseded_frames=3,
        has_nsfw_concepts=[False],
        fidelity=generation_pb2.FIDELITY_CLOSE,
        model_name="some/model",
        backend="some cpu",
    )


@pytest.mark.parametrize("reason", DropReason)
def test_every_reason_to_drop_a_frame_has_its_number(reason: DropReason) -> None:
    dropped = from_outgoing(Dropped(4, reason, 2), 1, 0.0).dropped
    assert realtime_pb2.DropReason.Name(dropped.reason) == f"DROP_REASON_{reason.name}"
    assert (dropped.frame_id, dropped.stopped_at_step, dropped.HasField("error")) == (4, 2, False)


def test_a_receipt_says_what_was_wrong() -> None:
    error = InvalidRequest([FieldViolation("seed", "is bad")])
    status = from_outgoing(Dropped(4, DropReason.INVALID, error=error), 1, 0.0).dropped.error
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == ["seed"]


@pytest.mark.parametrize("reason", CloseReason)
@pytest.mark.parametrize("retry_after", [None, 0.0, 1.5])
def test_every_reason_to_close_has_its_number(reason: CloseReason, retry_after: float | None) -> None:
    closed = from_outgoing(Closed(reason, "why", retry_after), 1, 0.0).closed
    assert realtime_pb2.CloseReason.Name(closed.reason) == f"CLOSE_REASON_{reason.name}"
    assert closed.message == "why"
    assert closed.HasField("retry_delay") == (retry_after is not None)


def test_pongs_and_previews() -> None:
    pong = from_outgoing(Pong(9), 1, 1_700_000_000.5).pong
    assert (pong.nonce, pong.server_time.seconds, pong.server_time.nanos) == (9, 1_700_000_000, 500_000_000)
    preview = from_outgoing(PreviewImage(1, 2, b"jpeg"), 1, 0.0).preview
    assert (preview.image_index, preview.step, preview.content) == (1, 2, b"jpeg")


def test_every_kind_of_answer_has_a_member() -> None:
    members = {field.name for field in realtime_pb2.ConnectResponse.DESCRIPTOR.oneofs_by_name["message"].fields}
    answers = [
        Opened("", "", None, 1.0),
        Picture(1, generation_pb2.GenerationOutput(), 0.0, 0),
        Dropped(1, DropReason.FAILED),
        PreviewImage(0, 1, b""),
        Pong(0),
        Closed(CloseReason.IDLE, ""),
    ]
    assert {from_outgoing(answer, 1, 0.0).WhichOneof("message") for answer in answers} == members
