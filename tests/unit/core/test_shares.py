"""Virtual time: who was given least comes next, idling earns nothing, memory is bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.core.shares import MAX_DEBTORS, Shares, VirtualTime, WorkClass

QUEUED, DIRECT = WorkClass.QUEUED, WorkClass.DIRECT


@dataclass(frozen=True)
class Asks:
    owner: str = ""
    work_class: WorkClass = QUEUED
    cost: float = 1.0
    due: float = 0.0
    order: int = 0


def serve(shares, claims, turns):
    """Lets all of `claims` ask for ever; how often each had its turn."""
    shares.settle({(c.work_class, c.owner) for c in claims})
    served = Counter()
    for _ in range(turns):
        [index] = shares.pick(claims, 1)
        shares.charge(claims[index])
        served[index] += 1
    return [served[i] for i in range(len(claims))]


def test_equal_keys_take_turns():
    assert serve(Shares(), [Asks("a"), Asks("b"), Asks("c")], 300) == [100, 100, 100]


def test_keys_are_served_by_weight():
    assert serve(Shares({"a": 3.0}), [Asks("a"), Asks("b")], 400) == [300, 100]


def test_dear_turns_come_less_often():
    assert serve(Shares(), [Asks("a", cost=3.0), Asks("b")], 400) == [100, 300]


def test_classes_are_served_by_weight_however_many_keys_they_have():
    claims = [Asks(str(i)) for i in range(7)] + [Asks("7", DIRECT)]
    assert serve(Shares(), claims, 700)[7] == 560


def test_idling_earns_nothing():
    shares = Shares()
    serve(shares, [Asks("a"), Asks("b")], 2)
    serve(shares, [Asks("a")], 1000)
    assert serve(shares, [Asks("a"), Asks("b")], 10) == [5, 5]


def test_leaving_for_a_moment_does_not_wipe_out_what_was_taken():
    shares = Shares({"a": 1.0})
    serve(shares, [Asks("a"), Asks("b")], 2)
    for _ in range(10):
        shares.charge(Asks("a"))
    serve(shares, [Asks("b")], 1)
    assert serve(shares, [Asks("a"), Asks("b")], 9) == [0, 9]


def test_what_is_promised_counts():
    shares = Shares()
    shares.settle({(QUEUED, "a"), (QUEUED, "b")})
    assert shares.pick([Asks("a", order=0), Asks("b", order=1)], 1) == [0]
    assert shares.pick([Asks("a", order=0), Asks("b", order=1)], 1, held=[Asks("a")]) == [1]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 4)), min_size=1, max_size=8), st.integers(1, 60))
def test_no_key_is_ahead_of_another_by_more_than_one_turn(asked, turns):
    shares = Shares({"a": 2.0})
    claims = [Asks(owner, cost=cost, order=i) for i, (owner, cost) in enumerate(asked)]
    served = serve(shares, claims, turns)
    given_to = Counter()
    for claim, count in zip(claims, served, strict=True):
        given_to[claim.owner] += count * claim.cost / shares.weight(claim.owner)
    dearest = max(claim.cost for claim in claims)
    assert max(given_to.values()) - min(given_to[c.owner] for c in claims) <= dearest + 1e-6


def test_memory_is_bounded():
    times = VirtualTime(lambda who: 1.0)
    times.settle({"always"})
    for number in range(3 * MAX_DEBTORS):
        times.settle({"always", number})
        times.charge(number, 1.0 + number)
        times.settle({"always"})
    assert len(times) <= MAX_DEBTORS + 1
    times.settle({"somebody else"})
    assert len(times) == 1, "nobody was kept waiting, so nothing is held against anybody"
