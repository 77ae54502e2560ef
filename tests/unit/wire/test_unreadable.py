"""Whatever bytes a decoder is given, it gives a value that can be used, or raises Unreadable: no other error, whose meaning a loop could not know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb.internal.v1 import engine_pb2, record_pb2
from flashbulb.v1 import generation_pb2, model_pb2
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import EmbeddingUse, LoraUse, SourceImage
from flashbulb_server.core.key_ring import SigningKey
from flashbulb_server.core.requests import LogLevel, State
from flashbulb_server.core.webhooks import Webhook, target_of
from flashbulb_server.errors import DataUnreadable, EngineFailed, FlashbulbError, NewerRelease, RequestCancelled
from flashbulb_server.wire.inputs import to_input, to_spec
from flashbulb_server.wire.outputs import decode_model, from_output, to_model
from flashbulb_server.wire.records import (
    Announcement,
    Event,
    Job,
    decode_announcement,
    decode_event,
    decode_job,
    decode_request,
    encode_announcement,
    encode_change,
    encode_event,
    encode_job,
    encode_request,
)
from flashbulb_server.wire.status import from_status, to_status
from flashbulb_server.wire.unreadable import Unreadable
from flashbulb_server.wire.webhooks import WebhookMessage, decode_ring, decode_webhook, encode_ring, encode_webhook
from tests.specs import make_edit_spec, make_image_spec, make_inpainting_spec, make_spec
from tests.unit.wire.test_records import BODIES, NOW, every_request

fuzz = settings(deadline=None, max_examples=300, database=None)
HOOKED = [replace(request, webhook=Webhook("https://user.example/hook")) for request in every_request()]
OTHERS = [
    make_spec(endpoint="flux-lora", loras=(LoraUse("a", 1.0, False), LoraUse("b", 0.5, True))),
    make_spec(endpoint="stable-diffusion-v15", embeddings=(EmbeddingUse("a", ("<s0>",)), EmbeddingUse("b"))),
    make_inpainting_spec(),
    make_edit_spec(SourceImage("https://a.example/a.png"), img_guidance_scale=1.6),
]
MODEL = ModelInfo("m", ("fast-lcm-diffusion",), 64, False, 1 << 20, "EXACT", ("v1",))
STANDING_FOR = {
    decode_request: [
        *map(encode_request, HOOKED),
        *(encode_request(replace(HOOKED[0], spec=spec)) for spec in OTHERS),
    ],
    decode_job: [encode_job(Job("r", "demo", NOW, "flashbulb/tiny", 3))],
    decode_event: [encode_event(Event(3, NOW, body)) for body in BODIES],
    decode_announcement: [encode_announcement(Announcement("w", "unix:/run/w", ("a",), 8, 3, 0.5, False, NOW))],
    decode_model: [to_model(MODEL).SerializeToString()],
    decode_webhook: [encode_webhook(WebhookMessage("r", "demo", 3, "user.example:443"))],
    decode_ring: [encode_ring((SigningKey(bytes(32), NOW, NOW),))],
}
"""Good bytes of every decoder."""

decoders = pytest.mark.parametrize("decode", STANDING_FOR, ids=lambda decode: decode.__name__)


def damaged(data: bytes, cut: int, places: list[tuple[int, int]]) -> bytes:
    """Good bytes with an end cut off and some of them changed."""
    bad = bytearray(data[: max(1, len(data) - cut)])
    for place, value in places:
        bad[place % len(bad)] = value
    return bytes(bad)


def used(value: object) -> None:
    """Does with a value what loops do with it."""
    match value:
        case None:
            return
        case Job():
            assert value.request_id and value.owner and value.num_images > 0
            encode_job(value)
        case Announcement():
            encode_announcement(value)
        case ModelInfo():
            to_model(value)
        case Event():
            encode_event(value)
        case WebhookMessage():
            encode_webhook(value)
        case tuple():
            encode_ring(value)
        case _:
            encode_request(value)
            assert decode_request(encode_request(value)) is not None
            if value.webhook is not None:
                target_of(value.webhook.url)


@decoders
@fuzz
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_unreadable(decode, data):
    try:
        value = decode(data)
    except Unreadable:
        return
    used(value)


@decoders
@fuzz
@given(
    st.integers(0, 20),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)
def test_damaged_bytes_give_a_value_or_unreadable(decode, which, cut, places):
    good = STANDING_FOR[decode]
    data = damaged(good[which % len(good)], cut, places)
    try:
        value = decode(data)
    except Unreadable:
        return
    used(value)
    if decode is decode_request:
        assert decode_request(encode_change(data, value, replace(value, steps_done=7))).steps_done == 7


@decoders
def test_good_bytes_were_tried(decode):
    for data in STANDING_FOR[decode]:
        used(decode(data))


def record(**values: object) -> record_pb2.RequestRecord:
    """The record of a request that has ended, with some values changed."""
    message = record_pb2.RequestRecord.FromString(encode_request(HOOKED[4]))
    for name, value in values.items():
        setattr(message, name, value)
    return message


def of_a_newer_endpoint() -> record_pb2.RequestRecord:
    message = record()
    message.input.ParseFromString(b"\xa2\x06\x02\x0a\x00")  # member 100
    return message


def without(name: str) -> record_pb2.RequestRecord:
    message = record()
    message.ClearField(name)
    return message


def of_a_newer_format() -> record_pb2.RequestRecord:
    message = record()
    message.input.fast_lcm_text_to_image.format = 99
    return message


def of_a_newer_size() -> record_pb2.RequestRecord:
    message = record()
    message.input.fast_lcm_text_to_image.image_size.ParseFromString(b"\xa2\x06\x00")
    return message


def of_a_newer_delivery() -> record_pb2.RequestRecord:
    message = record()
    message.webhook.state = 99
    return message


def of_a_newer_outcome() -> record_pb2.RequestRecord:
    message = without("output")
    message.MergeFromString(b"\xa2\x06\x00")
    return message


NEWER = [
    record(state=99),
    record(priority=99),
    of_a_newer_endpoint(),
    of_a_newer_format(),
    of_a_newer_size(),
    of_a_newer_delivery(),
    of_a_newer_outcome(),
]


@pytest.mark.parametrize("message", NEWER, ids=range(len(NEWER)))
def test_a_word_that_is_not_known_is_of_a_newer_release(message):
    with pytest.raises(Unreadable) as caught:
        decode_request(message.SerializeToString())
    assert caught.value.newer
    assert isinstance(caught.value.told("it"), NewerRelease)


DAMAGED = [
    record(state=0),
    record(state=-1),
    record(request_id=""),
    record(request_id="a.b"),
    record(owner=">"),
    record(worker_id="a b"),
    without("input"),
    without("output"),
    without("image_keys"),
]


@pytest.mark.parametrize("message", DAMAGED, ids=range(len(DAMAGED)))
def test_what_no_release_writes_is_damaged(message):
    with pytest.raises(Unreadable) as caught:
        decode_request(message.SerializeToString())
    assert not caught.value.newer
    assert isinstance(caught.value.told("it"), DataUnreadable)


@pytest.mark.parametrize("name", ["prompt", "seed", "num_images", "image_size", "format"])
def test_an_input_that_is_not_whole_is_damaged(name):
    message = to_input(make_spec())
    message.fast_lcm_text_to_image.ClearField(name)
    with pytest.raises(Unreadable, match=rf"no {name}") as caught:
        to_spec(message, "m")
    assert not caught.value.newer


def test_a_picture_that_is_missing_is_damaged():
    message = to_input(make_image_spec())
    message.fast_lcm_image_to_image.ClearField("image_url")
    with pytest.raises(Unreadable, match="no image_url"):
        to_spec(message, "m")


def test_an_input_without_a_model_is_damaged():
    message = to_input(make_spec())
    message.fast_lcm_text_to_image.ClearField("model_name")
    assert to_spec(message, "m").model_name == "m"
    with pytest.raises(Unreadable, match="no model_name"):
        to_spec(message, "")


@pytest.mark.parametrize("name", ["path", "scale"])
def test_an_adapter_that_is_not_whole_is_damaged(name):
    message = to_input(make_spec(endpoint="flux-lora", loras=(LoraUse("a", 1.0, False),)))
    assert to_spec(message, "m").loras == (LoraUse("a", 1.0, False),)
    message.flux_lora_text_to_image.loras[0].ClearField(name)
    with pytest.raises(Unreadable, match=f"no {name}"):
        to_spec(message, "m")


def test_words_that_are_only_shown_are_passed_on():
    message = record()
    message.output.fidelity = 99
    message.logs.add(level=99, message="new")
    request = decode_request(message.SerializeToString())
    assert request.state is State.SUCCEEDED and request.result is not None
    assert (request.result.fidelity, request.logs[-1].level) == ("99", LogLevel.INFO)
    written = record_pb2.RequestRecord.FromString(encode_request(request))
    assert written.output.fidelity == 99
    model = to_model(MODEL)
    model.fidelity = 99
    known = decode_model(model.SerializeToString())
    assert (known.fidelity, to_model(known).fidelity) == ("99", 99)


def test_a_result_under_an_input_of_a_newer_release_is_unreadable():
    output = generation_pb2.GenerationOutput()
    with pytest.raises(Unreadable):
        from_output(output)


@pytest.mark.parametrize(
    "changes",
    [
        {"worker_id": ""},
        {"worker_id": "a.b"},
        {"address": ""},
        {"address": "nowhere"},
        {"address": "unix:"},
        {"seconds_per_image": float("nan")},
        {"seconds_per_image": float("inf")},
        {"seconds_per_image": -1.0},
        {"capacity": 0},
    ],
    ids=str,
)
def test_an_announcement_that_nobody_could_use_is_unreadable(changes):
    [good] = STANDING_FOR[decode_announcement]
    message = engine_pb2.WorkerAnnouncement.FromString(good)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(Unreadable):
        decode_announcement(message.SerializeToString())


def test_a_model_without_a_name_is_unreadable():
    with pytest.raises(Unreadable):
        decode_model(model_pb2.Model(native_size=64).SerializeToString())


def malformed(error: FlashbulbError) -> status_pb2.Status:
    """The status of an error with details that are no messages."""
    status = to_status(error)
    status.details.append(Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"))
    return status


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 5000, "٣"])
def test_an_error_of_another_role_that_cannot_be_read_is_one_all_the_same(text):
    assert type(from_status(malformed(EngineFailed()))) is EngineFailed
    status = to_status(RequestCancelled(2, 4))
    info = error_details_pb2.ErrorInfo.FromString(status.details[0].value)
    info.metadata["step"] = text
    status.details[0].Pack(info)
    back = from_status(status)
    assert isinstance(back, RequestCancelled)
    assert (back.step, back.total_steps) == (0, 4)
