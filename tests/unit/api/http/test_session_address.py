"""The address of a realtime socket: which endpoint it names, and how the session is wanted."""

from __future__ import annotations

import pytest

from flashbulb_server.api.http.realtime import endpoint_of, wish
from flashbulb_server.core.realtime import FramePolicy

LCM = "fast-lcm-diffusion"


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("fal-ai/fast-lcm-diffusion/realtime", LCM),
        ("fal-ai/fast-lcm-diffusion", LCM),
        ("fal-ai/fast-lcm-diffusion/realtime/", LCM),
        ("fal-ai/fast-lcm-diffusion/realtime/realtime", LCM),
        ("flashbulb/fast-lcm-diffusion/realtime", LCM),
        ("fal-ai/fast-lcm-diffusion/image-to-image/realtime", f"{LCM}/image-to-image"),
        ("fal-ai/fast-lcm-diffusion/image-to-imge/realtime", None),
        ("fal-ai/fast-lcm-diffusion/stream", None),
        ("fal-ai/no-such-app/realtime", None),
        ("somebody/fast-lcm-diffusion/realtime", None),
        ("realtime", None),
        ("", None),
    ],
)
def test_the_path_names_the_endpoint(path: str, endpoint: str | None) -> None:
    assert endpoint_of(path) == endpoint


@pytest.mark.parametrize(
    ("query", "policy", "waiting"),
    [
        ({}, FramePolicy.RECENT, 2),
        ({"max_buffering": "1"}, FramePolicy.NEWEST, 1),
        ({"max_buffering": "2"}, FramePolicy.RECENT, 2),
        ({"max_buffering": "60"}, FramePolicy.RECENT, 60),
    ],
)
def test_how_many_frames_may_wait(query: dict[str, str], policy: FramePolicy, waiting: int) -> None:
    opening = wish(LCM, query).opening
    assert (opening.policy, opening.max_waiting, opening.problems) == (policy, waiting, ())


@pytest.mark.parametrize("text", ["0", "61", "-1", "1.5", "", "many", "²", "9" * 400])
def test_other_numbers_are_refused(text: str) -> None:
    [problem] = wish(LCM, {"max_buffering": text}).opening.problems
    assert problem.field == "max_buffering" and "1 to 60" in problem.description


def test_extensions_are_asked_for() -> None:
    plain = wish(LCM, {})
    assert not plain.incremental and not plain.opening.previews
    assert not plain.opening.resumable, "nothing is kept for a caller that is not told how to come back"
    wanted = wish(LCM, {"incremental": "1", "previews": "true", "resume_token": "t"})
    assert (
        wanted.incremental
        and wanted.opening.resumable
        and wanted.opening.previews
        and wanted.opening.resume_token == "t"
    )
    problems = wish(LCM, {"incremental": "maybe", "previews": "2"}).opening.problems
    assert [problem.field for problem in problems] == ["previews", "incremental"]


def test_several_frames_in_flight_and_similar_ones_are_options_too() -> None:
    image = "fast-lcm-diffusion/image-to-image"
    opening = wish(image, {"max_frames_in_flight": "4", "similar_image_threshold": "0.02"}).opening
    assert (opening.max_in_flight, opening.similar_threshold, opening.problems) == (4, 0.02, ())
    plain = wish(image, {}).opening
    assert (plain.max_in_flight, plain.similar_threshold) == (1, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(({"max_frames_in_flight": text}, "max_frames_in_flight") for text in ("0", "5", "-1", "many", "1.5", "")),
        *(
            ({"similar_image_threshold": text}, "similar_image_threshold")
            for text in ("-0.1", "1.1", "much", "nan", "")
        ),
    ],
)
def test_options_out_of_range_are_refused(query: dict[str, str], field: str) -> None:
    [problem] = wish("fast-lcm-diffusion/image-to-image", query).opening.problems
    assert problem.field == field


def test_a_session_without_pictures_compares_none() -> None:
    [problem] = wish(LCM, {"similar_image_threshold": "0.1"}).opening.problems
    assert problem.field == "similar_image_threshold"
