"""What the engine learns of its own speed."""

from __future__ import annotations

import pytest

from flashbulb_server.core.pace import Pace, pixels_of, work_of
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


@pytest.mark.parametrize(
    "known, lanes, seconds",
    [
        ({}, 3, 0.0),
        ({2: 1.0, 8: 4.0}, 2, 1.0),
        ({2: 1.0, 8: 4.0}, 5, 2.5),
        ({4: 2.0}, 1, 0.5),  # nothing else is known: in proportion
        ({4: 2.0}, 8, 4.0),
        ({1: 1.0, 2: 1.5}, 4, 2.5),  # the line goes on
        ({1: 1.0, 2: 3.0}, 4, 6.0),  # a lane costs no more than those seen
        ({1: 2.0, 2: 1.0}, 4, 1.0),  # nor less than nothing
        ({4: 2.0, 8: 3.0}, 1, 1.25),
        ({4: 2.0, 8: 6.0}, 1, 0.5),
        ({4: 3.0, 8: 2.0}, 1, 3.0),
    ],
)
def test_calls_of_other_sizes_are_between_or_beyond_those_seen(known, lanes, seconds):
    pace = Pace()
    for size, took in known.items():
        pace.observe_call("m", size, work=1.0, seconds=took)
    assert pace.call_seconds("m", lanes, work=1.0) == pytest.approx(seconds)
    assert pace.call_seconds("m", lanes, work=3.0) == pytest.approx(3 * seconds)
    assert pace.reach("m") == max(known, default=0) + 1


def learned(**sizes):
    pace = Pace()
    for _ in range(9):
        for size, took in sizes.items():
            pace.observe_call("m", int(size[1:]), work=1.0, seconds=took)
    return pace


def test_the_best_batch_is_the_smallest_that_is_not_slower():
    assert learned(_1=1.0, _2=1.3, _4=2.0, _8=3.9).best_lanes("m", 8) == 4
    assert learned(_1=1.0, _2=2.0, _4=4.0).best_lanes("m", 4) == 1
    assert learned(_1=1.0, _2=1.3, _4=2.0, _8=3.0).best_lanes("m", 8) == 8


def test_all_lanes_are_taken_until_enough_is_known():
    assert Pace().best_lanes("m", 8) == 8
    pace = learned(_1=1.0, _2=2.0)
    assert pace.best_lanes("m", 4) == 4
    for _ in range(8):
        pace.observe_call("m", 4, work=1.0, seconds=40.0)
    assert pace.best_lanes("m", 4) == 1


def test_a_mean_that_a_hiccup_spoilt_mends():
    pace = learned(_1=1.0, _8=100.0)
    took = []
    for _ in range(1000):
        lanes = pace.best_lanes("m", 8)
        took.append(lanes)
        pace.observe_call("m", lanes, work=1.0, seconds=1.0 if lanes == 1 else 2.0)
    assert took[0] == 1
    assert took[-100:].count(8) >= 98


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
    assert pixels_of(make_spec(width=10, height=20), info) == 200.0
