"""Who shares a call and who comes in next: equal buckets, urgency by weighted waiting, nothing starves."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from flashbulb_server.core.batching import WEIGHTS, Candidate, Waiting, WorkClass, next_in, plan_batch

REALTIME, DIRECT, QUEUED = WorkClass.REALTIME, WorkClass.DIRECT, WorkClass.QUEUED


def lane(bucket="a", work_class=QUEUED, age=1.0, idle=1.0, order=0):
    return Candidate(bucket, work_class, age, idle, order)


def test_nothing_to_do():
    assert plan_batch([], max_batch=16) == []
    assert next_in([], in_flight=0, capacity=8) is None


def test_all_lanes_of_a_bucket_share_the_call():
    lanes = [lane(order=i, age=10 - i) for i in range(8)]
    assert plan_batch(lanes, max_batch=16) == list(range(8))


def test_only_one_bucket_shares_a_call():
    lanes = [lane("a"), lane("b", idle=2.0), lane("a"), lane("b", idle=0.1)]
    assert sorted(plan_batch(lanes, max_batch=16)) == [1, 3]


def test_the_oldest_drawing_goes_first_when_the_call_is_full():
    lanes = [lane(age=age, order=order) for order, age in enumerate([4.0, 9.0, 1.0, 9.0])]
    assert plan_batch(lanes, max_batch=2) == [1, 3]


def test_a_tie_is_won_by_the_earlier_drawing():
    lanes = [lane(order=2), lane(order=0), lane(order=1)]
    assert plan_batch(lanes, max_batch=1) == [1]


@pytest.mark.parametrize("first, second", [(REALTIME, DIRECT), (DIRECT, QUEUED), (REALTIME, QUEUED)])
def test_the_more_urgent_class_goes_first(first, second):
    lanes = [lane("a", second, age=0.0, idle=0.0, order=0), lane("b", first, age=0.0, idle=0.0, order=1)]
    assert plan_batch(lanes, max_batch=16) == [1]
    same = [lane("a", second, order=0), lane("a", first, order=1)]
    assert plan_batch(same, max_batch=1) == [1]


def test_a_batch_is_of_one_bucket_within_bounds_and_without_doubles():
    rng = random.Random(1)
    for _ in range(300):
        lanes = [
            lane(rng.choice("abc"), rng.choice(list(WorkClass)), rng.random(), rng.random(), rng.randrange(5))
            for _ in range(rng.randrange(1, 30))
        ]
        limit = rng.randrange(1, 20)
        batch = plan_batch(lanes, max_batch=limit)
        assert 1 <= len(batch) <= limit
        assert len(set(batch)) == len(batch)
        assert len({lanes[i].bucket for i in batch}) == 1
        assert len(batch) == min(limit, sum(x.bucket == lanes[batch[0]].bucket for x in lanes)), "no room is wasted"


@dataclass
class Runner:
    """A lane in a simulation in which a call takes one second."""

    bucket: str
    work_class: WorkClass
    asked: int
    moved: int


def simulate(runners, calls, max_batch):
    """How often each runner moved, all of them endless."""
    moves = [0] * len(runners)
    for now in range(1, calls + 1):
        lanes = [
            Candidate(r.bucket, r.work_class, now - r.asked, now - r.moved, order) for order, r in enumerate(runners)
        ]
        for index in plan_batch(lanes, max_batch=max_batch):
            moves[index] += 1
            runners[index].moved = now
    return moves


def test_no_bucket_starves_under_more_urgent_ones():
    runners = [Runner("live", REALTIME, 0, 0), Runner("call", DIRECT, 0, 0), Runner("queue", QUEUED, 0, 0)]
    live, call, queue = simulate(runners, 420, 16)
    assert live > call > queue
    assert queue >= 420 / (2 * sum(WEIGHTS.values())), "at least half of its share by weight"


def test_equal_buckets_take_turns():
    moves = simulate([Runner(name, QUEUED, 0, 0) for name in "abcd"], 400, 16)
    assert max(moves) - min(moves) <= 1


def test_an_old_queued_lane_beats_fresh_realtime_ones_in_a_full_call():
    lanes = [lane("a", REALTIME, age=0.1, order=i + 1) for i in range(4)] + [lane("a", QUEUED, age=2.0, order=0)]
    assert 4 in plan_batch(lanes, max_batch=1)


def waiting(work_class=QUEUED, pictures=1, age=1.0, order=0):
    return Waiting(work_class, pictures, age, order)


def test_the_oldest_comes_in_first():
    assert next_in([waiting(age=1.0, order=1), waiting(age=2.0, order=0)], in_flight=0, capacity=8) == 1
    assert next_in([waiting(order=1), waiting(order=0)], in_flight=0, capacity=8) == 1


def test_urgent_ones_come_in_first():
    queue = [waiting(QUEUED, order=0), waiting(REALTIME, order=2), waiting(DIRECT, order=1)]
    assert next_in(queue, in_flight=0, capacity=8) == 1


def test_nobody_comes_in_without_room():
    assert next_in([waiting(pictures=3)], in_flight=6, capacity=8) is None
    assert next_in([waiting(pictures=2)], in_flight=6, capacity=8) == 0


def test_a_small_drawing_does_not_pass_a_large_older_one():
    assert next_in([waiting(pictures=4, age=2.0), waiting(pictures=1, order=1)], in_flight=6, capacity=8) is None


def test_more_pictures_than_capacity_come_in_alone():
    assert next_in([waiting(pictures=8)], in_flight=0, capacity=4) == 0
    assert next_in([waiting(pictures=8)], in_flight=1, capacity=4) is None
