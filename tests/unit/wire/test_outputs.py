"""Results and models between protobuf and core."""

from __future__ import annotations

import pytest

from flashbulb.v1 import generation_pb2, model_pb2
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import DrawnImage, GenerationResult, PreviewImage
from flashbulb_server.core.requests import LogLevel, LogLine
from flashbulb_server.wire.outputs import from_log, from_model, from_output, to_log, to_model, to_output, to_preview
from flashbulb_server.wire.unreadable import Unreadable
from tests.specs import make_spec

IMAGE = DrawnImage(
    "image/png", 512, 256, 64, 32, 1234, 8, key="k/0.png", content=b"png", url="http://x/0", url_expire_time=1.7e9 + 0.5
)
RESULT = GenerationResult(
    make_spec(seed=8, request_id="mine", num_images=2),
    (IMAGE, DrawnImage("image/png", 512, 256, 64, 32, 99, 9, key="k/1.png")),
    (False, True),
    "EXACT",
    2.5,
    {"inference": 0.25, "wait": 0.0},
    "torch cpu float32",
)


def travelled(result: GenerationResult) -> generation_pb2.GenerationOutput:
    return generation_pb2.GenerationOutput.FromString(to_output(result).SerializeToString())


def test_a_result_as_callers_see_it():
    output = travelled(RESULT)
    assert (output.seed, output.prompt, output.request_id) == (8, "a red apple", "mine")
    assert (output.model_name, output.backend) == ("flashbulb/tiny", "torch cpu float32")
    assert output.resolved_input.fast_lcm_text_to_image.seed == 8
    assert output.fidelity == generation_pb2.FIDELITY_EXACT
    assert list(output.has_nsfw_concepts) == [False, True]
    assert dict(output.timings) == {"inference": 0.25, "wait": 0.0}
    first, second = output.images
    assert (first.content, first.url, first.native_width, first.native_height) == (b"png", "http://x/0", 64, 32)
    assert first.url_expire_time.ToMilliseconds() == 1_700_000_000_500
    assert not second.HasField("url_expire_time")
    assert b"k/0.png" not in output.SerializeToString()


def test_a_result_comes_back_as_it_was():
    assert from_output(travelled(RESULT), ("k/0.png", "k/1.png")) == RESULT


def test_a_result_without_keys_comes_back():
    assert [image.key for image in from_output(travelled(RESULT)).images] == ["", ""]


def test_keys_must_be_those_of_all_images():
    with pytest.raises(Unreadable, match="2 images under 1 keys"):
        from_output(travelled(RESULT), ("k/0.png",))


@pytest.mark.parametrize("fidelity", ["EXACT", "CLOSE", "APPROX"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_model_comes_back_as_it_was(fidelity, safe):
    model = ModelInfo(
        "m", ("a", "b"), 64, safe, 1 << 20, fidelity, safety_checker_versions=("v2",), safe_by_construction=safe, backend="cpu"
    )  # fmt: skip
    message = model_pb2.Model.FromString(to_model(model, 3).SerializeToString())
    assert message.live_workers == 3
    assert from_model(message) == model


def test_every_level_of_a_log_has_a_number():
    for level in LogLevel:
        line = LogLine(1.7e9, level, "a line")
        assert from_log(to_log(line)) == line
    assert {v.name for v in generation_pb2.LogLevel.DESCRIPTOR.values[1:]} == {
        f"LOG_LEVEL_{level}" for level in LogLevel
    }


def test_a_preview_is_a_jpeg():
    assert to_preview(PreviewImage(0, 1, b"x")).content_type == "image/jpeg"
