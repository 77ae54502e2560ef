"""Lanes: a target takes so many at once, and those that find no room come back one after the other."""

from __future__ import annotations

import itertools

from flashbulb_server.core.delivery_lanes import FIRST_RETURN, LAST_RETURN, Lanes


def test_a_lane_takes_its_limit_and_other_lanes_do_not_mind():
    lanes = Lanes(2)
    assert [lanes.enter("slow", 0.0) for _ in range(2)] == [0.0, 0.0]
    assert lanes.enter("slow", 0.0) >= FIRST_RETURN
    assert lanes.enter("other", 0.0) == 0.0


def test_room_that_is_left_is_taken_again():
    lanes = Lanes(1)
    assert lanes.enter("a", 0.0) == 0.0
    lanes.leave("a", 5.0)
    assert lanes.enter("a", 5.0) == 0.0
    assert lanes.enter("a", 5.0) > 0.0


def test_places_follow_the_pace_of_the_target_up_to_a_limit():
    lanes = Lanes(2)
    lanes.enter("a", 0.0)
    lanes.enter("a", 0.0)
    lanes.leave("a", 8.0)
    lanes.enter("a", 0.0)
    places = [lanes.enter("a", 0.0) for _ in range(30)]
    assert places[:3] == [FIRST_RETURN, FIRST_RETURN + 4.0, FIRST_RETURN + 8.0]
    assert max(places) == LAST_RETURN
    assert all(a <= b for a, b in itertools.pairwise(places))


def test_nothing_is_kept_of_an_idle_target():
    lanes = Lanes(1)
    for n in range(100):
        lanes.enter(f"host-{n}:80", 0.0)
        lanes.leave(f"host-{n}:80", 0.1)
    assert not lanes._lanes
