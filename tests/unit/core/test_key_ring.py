"""The life of signing keys: every signature can be checked by a receiver that keeps the published keys for a day."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb_server.core import key_ring
from flashbulb_server.core.key_ring import OVERLAP_SECONDS

DAY = 86_400.0


def seed(n):
    return n.to_bytes(32, "big")


def test_the_first_key_signs_at_once():
    ring = key_ring.first_ring(seed(1), 100.0)
    assert key_ring.signing(ring, 100.0).seed == seed(1)
    assert key_ring.published(ring, 100.0) == ring


def test_a_new_key_is_published_before_it_signs_and_the_old_one_after():
    ring = key_ring.rotated(key_ring.first_ring(seed(1), 0.0), seed(2), 1000.0)
    change = 1000.0 + OVERLAP_SECONDS
    assert key_ring.signing(ring, change - 1).seed == seed(1)
    assert key_ring.signing(ring, change).seed == seed(2)
    for now in (1000.0, change, change + OVERLAP_SECONDS - 1):
        assert [key.seed for key in key_ring.published(ring, now)] == [seed(1), seed(2)]
    assert [key.seed for key in key_ring.published(ring, change + OVERLAP_SECONDS)] == [seed(2)]


def test_a_revocation_leaves_the_new_key_alone():
    ring = key_ring.revoked(seed(9), 500.0)
    assert key_ring.signing(ring, 500.0).seed == seed(9)
    assert [key.seed for key in key_ring.published(ring, 500.0)] == [seed(9)]


def test_keys_are_not_renewed_where_that_is_off():
    assert not key_ring.due(key_ring.first_ring(seed(1), 0.0), 1e12, 0.0)


def test_a_key_signs_for_about_its_days():
    ring, changes, now = key_ring.first_ring(seed(0), 0.0), [0.0], 0.0
    for n in itertools.count(1):
        now += 3600.0
        if now > 400 * DAY:
            break
        if key_ring.due(ring, now, 90 * DAY):
            ring = key_ring.rotated(ring, seed(n), now)
            changes.append(ring[-1].sign_time)
    assert len(changes) == 5
    assert all(90 * DAY <= b - a <= 90 * DAY + 3600 for a, b in itertools.pairwise(changes))
    assert len(ring) <= 2


@settings(deadline=None, max_examples=60, database=None)
@given(gaps=st.lists(st.floats(1.0, 20 * DAY), min_size=1, max_size=8), age=st.floats(0.0, DAY))
def test_whoever_looked_a_day_ago_or_looks_a_day_later_knows_the_key_that_signs(gaps, age):
    """However often keys are renewed by hand, between and after."""
    history = [(0.0, key_ring.first_ring(seed(0), 0.0))]
    now = 0.0
    for n, gap in enumerate(gaps, 1):
        now += gap
        history.append((now, key_ring.rotated(history[-1][1], seed(n), now)))

    def ring_at(time):
        return next(ring for start, ring in reversed(history) if start <= time)

    for moment in [start + shift for start, _ in history for shift in (0.0, 3600.0, OVERLAP_SECONDS, 30 * DAY)]:
        signs = key_ring.signing(ring_at(moment), moment).seed
        before = max(0.0, moment - age)
        assert signs in [key.seed for key in key_ring.published(ring_at(before), before)]
        after = moment + age
        assert signs in [key.seed for key in key_ring.published(ring_at(after), after)]
