"""What frames of live sessions leave to the others."""

from __future__ import annotations

import pytest

from flashbulb_server.core.reserve import CALM, LIVE_SECONDS, Reserve


@pytest.fixture
def live():
    reserve = Reserve(0.8)
    reserve.look(0.0, frames=True)
    return reserve


def test_nothing_is_kept_while_no_session_is_live():
    reserve = Reserve(0.8)
    reserve.look(0.0, frames=False)
    reserve.spend(5.0)
    assert (reserve.live, reserve.calm, reserve.credit, reserve.slowdown) == (False, None, 0.0, 1.0)


def test_a_session_is_live_for_a_while_after_its_last_frame(live):
    live.look(LIVE_SECONDS, frames=False)
    assert live.live
    live.earn(1.0, steps=4, extra=0.0, wanted=9.0)
    live.look(LIVE_SECONDS + 0.1, frames=False)
    assert (live.live, live.credit, live.slowdown) == (False, 0.0, 1.0)


def test_frames_earn_the_others_their_share(live):
    for _ in range(3):
        live.earn(0.4, steps=4, extra=0.0, wanted=1.0)
    assert live.credit == pytest.approx(0.3)
    assert live.budget(0.4) == pytest.approx(0.4)
    live.earn(0.4, steps=4, extra=0.4, wanted=1.0)
    assert live.credit == pytest.approx(0.0)


def test_no_more_is_saved_than_the_next_turn_costs(live):
    for _ in range(50):
        live.earn(0.4, steps=4, extra=0.0, wanted=1.0)
    assert live.credit == pytest.approx(1.0)
    nobody = Reserve(0.8)
    nobody.earn(0.4, steps=4, extra=0.0, wanted=0.0)
    assert nobody.credit == 0.0


def test_decoding_frames_earns_too(live):
    live.earn(0.4, steps=4, extra=0.0, wanted=0.3)
    live.earn_finish(0.4)
    assert live.credit == pytest.approx(0.2)
    live.earn_finish(4.0)
    assert live.credit == pytest.approx(0.3)


def test_debt_is_one_call_at_most(live):
    for _ in range(50):
        live.spend(0.5)
    assert live.credit == -0.5


def test_calls_between_frames_are_a_share_of_a_frame(live):
    live.earn(0.4, steps=4, extra=0.0, wanted=0.0)
    assert live.calm == pytest.approx(CALM * 1.6)


def test_the_slowdown_follows_what_frames_take_and_is_bounded(live):
    for _ in range(200):
        live.earn(0.1, steps=4, extra=0.0, wanted=0.0)
    assert live.slowdown == pytest.approx(5.0)
    for _ in range(200):
        live.spend(0.1)
    assert live.slowdown == pytest.approx(1.0, abs=0.01)
