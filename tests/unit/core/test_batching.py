"""Who shares a call and who comes in next: equal buckets, frames first, shares for all others, nothing starves."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.core.batching import Candidate, Waiting, WorkClass, next_in, plan_batch
from flashbulb_server.core.pace import Pace
from flashbulb_server.core.reserve import Reserve
from flashbulb_server.core.shares import Shares

REALTIME, DIRECT, QUEUED = WorkClass.REALTIME, WorkClass.DIRECT, WorkClass.QUEUED


def lane(bucket="a", work_class=QUEUED, *, owner="", due=60.0, order=0, idle=1.0, cost=1.0):
    return Candidate(bucket, work_class, owner, "m", 1.0, cost, due, order, idle)


def seconds(lanes):
    """What a call over so many lanes takes in these tests."""
    return 0.35 + 0.65 * lanes


def known_pace(sizes=(1, 2, 4, 8, 16)):
    pace = Pace()
    for size in sizes:
        for _ in range(8):
            pace.observe_call("m", size, work=1.0, seconds=seconds(size))
    return pace


def plan(lanes, *, shares=None, pace=None, reserve=None, max_batch=16):
    if shares is None:
        shares = Shares()
        shares.settle({(x.work_class, x.owner) for x in lanes})
    return plan_batch(lanes, shares=shares, pace=pace or Pace(), reserve=reserve or Reserve(0.8), max_batch=max_batch)


def live_reserve(credit=0.0, frame=4.0):
    """As it is while a session is live whose frames take `frame` seconds."""
    reserve = Reserve(0.8)
    reserve.look(0.0, frames=True)
    reserve.earn(frame, steps=1, extra=0.0, wanted=0.0)
    reserve.credit = credit
    return reserve


def test_nothing_to_do():
    assert plan([]).lanes == []
    assert next_in([], in_flight=[], shares=Shares(), capacity=8) is None


def test_all_lanes_of_a_bucket_share_the_call():
    assert plan([lane(order=i) for i in range(8)]).lanes == list(range(8))


def test_the_bucket_that_was_idle_the_longest_goes_first():
    lanes = [lane("a"), lane("b", idle=2.0), lane("a"), lane("b", idle=0.1)]
    assert sorted(plan(lanes).lanes) == [1, 3]


def test_the_earliest_due_goes_first_when_the_call_is_full():
    lanes = [lane(due=due, order=order) for order, due in enumerate([4.0, 1.0, 9.0, 1.0])]
    assert plan(lanes, max_batch=2).lanes == [1, 3]


def test_a_tie_is_won_by_the_earlier_drawing():
    assert plan([lane(order=2), lane(order=0), lane(order=1)], max_batch=1).lanes == [1]


def test_keys_take_turns_in_a_full_call():
    lanes = [lane(owner="flood", order=i) for i in range(10)] + [
        lane(owner="one", order=10),
        lane(owner="two", order=11),
    ]
    assert sorted(plan(lanes, max_batch=4).lanes) == [0, 1, 10, 11]


def test_a_call_grows_only_while_that_makes_pictures_come_faster():
    pace = Pace()
    for size, took in {1: 1.0, 2: 1.0, 4: 2.0, 8: 4.1}.items():
        for _ in range(8):
            pace.observe_call("m", size, work=1.0, seconds=took)
    assert len(plan([lane(order=i) for i in range(8)], pace=pace).lanes) == 2
    assert len(plan([lane(order=i) for i in range(6)], pace=pace).lanes) == 6, "a size that is not known is tried"


def test_frames_go_before_all_others():
    lanes = [lane("a", order=0, idle=99.0), lane("b", REALTIME, order=1, idle=0.0), lane("b", DIRECT, order=2)]
    assert plan(lanes, pace=known_pace(), reserve=live_reserve()).lanes == [1]


def test_others_join_frames_as_far_as_their_time_goes():
    lanes = [lane("a", REALTIME, order=i) for i in range(4)] + [lane("a", QUEUED, order=9 + i) for i in range(8)]
    call = plan(lanes, pace=known_pace(), reserve=live_reserve())
    assert sorted(call.lanes) == [0, 1, 2, 3, 4]
    assert (call.frames, call.alone) == (4, pytest.approx(seconds(4)))
    assert call.extra == pytest.approx(seconds(5) - seconds(4))
    assert seconds(len(call.lanes)) <= 1.3 * seconds(4)


def test_others_wait_until_they_have_saved_the_price():
    pace, reserve = known_pace(), live_reserve()
    lanes = [lane("a", REALTIME), lane("b", QUEUED, order=1)]
    calls = []
    for _ in range(20):
        call = plan(lanes, pace=pace, reserve=reserve)
        calls.append(call.lanes)
        if call.frames:
            reserve.earn(call.alone, steps=4, extra=call.extra, wanted=call.wanted)
        else:
            reserve.spend(seconds(len(call.lanes)))
    assert calls == [[0], [0], [0], [0], [1]] * 4, "a fifth of the time is theirs"


def test_whoever_cannot_join_is_not_passed_for_ever_by_those_who_can():
    shares, pace, reserve = Shares(), known_pace(), live_reserve()
    lanes = [lane("a", REALTIME), lane("a", QUEUED, owner="joins", order=1), lane("b", QUEUED, owner="alone", order=2)]
    shares.settle({(x.work_class, x.owner) for x in lanes})
    moved = Counter()
    for _ in range(200):
        call = plan(lanes, shares=shares, pace=pace, reserve=reserve)
        for index in call.lanes:
            shares.charge(lanes[index])
        moved.update(call.lanes)
        if call.frames:
            reserve.earn(call.alone, steps=4, extra=call.extra, wanted=call.wanted)
        else:
            reserve.spend(seconds(len(call.lanes)))
    assert abs(moved[1] - moved[2]) <= 1
    assert moved[1] + moved[2] >= 40


def test_an_unknown_size_is_approached_lane_by_lane():
    lanes = [lane("a", REALTIME)] + [lane("a", QUEUED, order=9 + i) for i in range(8)]
    flat = Pace()
    for size in (1, 2):
        flat.observe_call("m", size, work=1.0, seconds=1.0)
    assert len(plan(lanes, pace=flat, reserve=live_reserve()).lanes) == 3
    assert len(plan(lanes, pace=Pace(), reserve=live_reserve()).lanes) == 1


def test_calls_between_frames_are_short():
    lanes = [lane(order=i) for i in range(8)]
    assert len(plan(lanes, pace=known_pace()).lanes) == 8
    assert len(plan(lanes, pace=known_pace(), reserve=live_reserve(frame=8.0)).lanes) == 2
    assert len(plan(lanes, pace=known_pace(), reserve=live_reserve(frame=0.1)).lanes) == 1, "never none"


buckets = st.sampled_from("abc")
classes = st.sampled_from(list(WorkClass))
owners = st.sampled_from(["", "one", "two"])
candidates = st.lists(
    st.builds(
        lane,
        buckets,
        classes,
        owner=owners,
        due=st.floats(0, 100),
        order=st.integers(0, 9),
        idle=st.floats(0, 9),
        cost=st.floats(0.1, 9),
    ),
    min_size=1,
    max_size=30,
)


@given(candidates, st.integers(1, 20), st.floats(-2, 2), st.sampled_from([(), (1,), (1, 2, 4, 8, 16)]), st.booleans())
def test_a_call_is_of_one_bucket_within_bounds_and_without_doubles(lanes, most, credit, sizes, live):
    pace = known_pace(sizes)
    reserve = live_reserve(credit) if live else Reserve(0.8)
    call = plan(lanes, pace=pace, reserve=reserve, max_batch=most)
    assert 1 <= len(call.lanes) <= most, "there is work, so something is done"
    assert len(set(call.lanes)) == len(call.lanes)
    assert len({lanes[i].bucket for i in call.lanes}) == 1
    assert call.frames == sum(lanes[i].work_class is REALTIME for i in call.lanes)
    if call.frames:
        head = lanes[call.lanes[0]]
        here = sum(x.bucket == head.bucket and x.work_class is REALTIME for x in lanes)
        assert call.frames == min(most, here), "no frame waits for others"
        if sizes and len(call.lanes) > call.frames:
            assert call.extra <= reserve.budget(call.alone) + 1e-9


def endless(lanes, most, calls=600):
    """How often each moves if all want to move for ever. What has just moved is due last of its key, as drawings that end and come again."""
    shares, pace, reserve = Shares(), known_pace(), live_reserve()
    shares.settle({(x.work_class, x.owner) for x in lanes})
    moved, idle = Counter(), dict.fromkeys(range(len(lanes)), 0)
    for now in range(1, calls + 1):
        views = [
            lane(x.bucket, x.work_class, owner=x.owner, order=i, due=float(idle[i]), idle=now - idle[i])
            for i, x in enumerate(lanes)
        ]
        call = plan(views, shares=shares, pace=pace, reserve=reserve, max_batch=most)
        for index in call.lanes:
            shares.charge(views[index])
            idle[index] = now
        moved.update(call.lanes)
        if call.frames:
            reserve.earn(call.alone, steps=4, extra=call.extra, wanted=call.wanted)
        else:
            reserve.spend(seconds(len(call.lanes)))
    return [moved[i] for i in range(len(lanes))]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_starves(seed):
    """However lanes, keys, classes and buckets are mixed."""
    rng = random.Random(seed)
    lanes = [
        lane(rng.choice("abc"), rng.choice(list(WorkClass)), owner=rng.choice(["", "one", "two"]))
        for _ in range(rng.randrange(1, 13))
    ]
    assert min(endless(lanes, rng.randrange(1, 9))) > 0


def test_a_lane_does_not_starve_because_its_key_moves_in_company_elsewhere():
    """In `a` the key moves whenever the other one does, so the other one is never ahead of it, and `b` has no turn."""
    frames = [lane("a", REALTIME, owner=owner) for owner in ("one", "two")] + [lane("b", REALTIME, owner="two")]
    assert min(endless(frames, 16)) >= 600 / 60


def waiting(work_class=QUEUED, pictures=1, *, owner="", cost=None, due=60.0, order=0):
    return Waiting(work_class, owner, pictures, 4.0 * pictures if cost is None else cost, due, order)


def choose(queue, in_flight=(), *, capacity=8, weights=None):
    shares = Shares(weights)
    shares.settle({(x.work_class, x.owner) for x in [*queue, *in_flight]})
    return next_in(queue, in_flight=in_flight, shares=shares, capacity=capacity)


def test_the_earliest_due_of_a_key_comes_in_first():
    assert choose([waiting(due=2.0, order=0), waiting(due=1.0, order=1)]) == 1
    assert choose([waiting(order=1), waiting(order=0)]) == 1


def test_urgent_ones_come_in_first():
    assert choose([waiting(QUEUED, order=0), waiting(REALTIME, order=2), waiting(DIRECT, order=1)]) == 1
    assert choose([waiting(QUEUED, order=0), waiting(DIRECT, order=1)]) == 1


def test_nobody_comes_in_without_room():
    assert choose([waiting(pictures=3)], [waiting(pictures=6)]) is None
    assert choose([waiting(pictures=2)], [waiting(pictures=6)]) == 0


def test_frames_have_places_of_their_own():
    full = [waiting() for _ in range(8)]
    assert choose([waiting(), waiting(REALTIME)], full) == 1
    assert choose([waiting(REALTIME)], [*full, *(waiting(REALTIME) for _ in range(8))]) is None
    assert choose([waiting()], [waiting(REALTIME) for _ in range(8)]) == 0, "and take none from others"


def test_a_small_drawing_does_not_pass_a_large_one_whose_turn_it_is():
    assert choose([waiting(pictures=4, due=1.0), waiting(order=1)], [waiting(pictures=6)]) is None


def test_more_pictures_than_capacity_come_in_alone():
    assert choose([waiting(pictures=8)], capacity=4) == 0
    assert choose([waiting(pictures=8)], [waiting()], capacity=4) is None


def test_a_key_with_much_in_flight_lets_others_pass():
    queue = [waiting(owner="flood", order=i) for i in range(9)] + [waiting(owner="one", order=99)]
    assert choose(queue, [waiting(owner="flood") for _ in range(7)]) == 9


def test_a_heavy_key_gets_more_places():
    held = [waiting(owner="heavy") for _ in range(2)] + [waiting(owner="light")]
    queue = [waiting(owner="light", order=0), waiting(owner="heavy", order=1)]
    assert choose(queue, held, weights={"heavy": 3.0}) == 1
    assert choose(queue, held) == 0
