"""What the engine learns of its own speed."""

from __future__ import annotations

import pytest

from flashbulb_server.core.pace import Pace, work_of
from tests.sleeping_pipeline import SleepingPipeline
from tests.specs import make_spec


def test_nothing_is_known_at_first():
    pace = Pace()
    assert pace.seconds_per_image == 0.0
    assert pace.estimate("m", steps=4, pictures=1, work=1.0, lanes=1, ahead=0) == 0.0


def test_an_estimate_is_steps_plus_decoding():
    pace = Pace()
    for _ in range(4):
        pace.observe_call("m", 1, work=1.0, seconds=0.5)
    pace.observe_finish("m", 1, work=1.0, seconds=1.0)
    assert pace.seconds_per_image == pytest.approx(3.0)
    assert pace.estimate("m", steps=8, pictures=1, work=1.0, lanes=1, ahead=0) == pytest.approx(5.0)
    assert pace.estimate("m", steps=8, pictures=1, work=1.0, lanes=1, ahead=2) == pytest.approx(11.0)
    assert pace.estimate("other", steps=8, pictures=1, work=1.0, lanes=1, ahead=2) == 0.0


def test_calls_are_remembered_by_their_lanes():
    pace = Pace()
    pace.observe_call("m", 1, work=1.0, seconds=1.0)
    pace.observe_call("m", 8, work=1.0, seconds=4.0)
    assert pace.estimate("m", steps=1, pictures=1, work=1.0, lanes=2, ahead=0) == 1.0
    assert pace.estimate("m", steps=1, pictures=1, work=1.0, lanes=7, ahead=0) == 4.0


def test_work_scales_between_sizes():
    pace = Pace()
    pace.observe_call("m", 1, work=100.0, seconds=1.0)
    assert pace.estimate("m", steps=1, pictures=1, work=400.0, lanes=1, ahead=0) == pytest.approx(4.0)


def test_a_mean_follows_what_changes():
    pace = Pace()
    pace.observe_finish("m", 1, work=1.0, seconds=1.0)
    for _ in range(40):
        pace.observe_finish("m", 4, work=1.0, seconds=20.0)
    assert pace.seconds_per_image == pytest.approx(5.0, rel=0.01)


def test_work_is_pixels_where_the_size_is_drawn():
    info = SleepingPipeline().info
    assert work_of(make_spec(width=10, height=20), info) == 200.0
