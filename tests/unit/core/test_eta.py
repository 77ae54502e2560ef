"""When a request will be ready."""

from __future__ import annotations

import pytest

from flashbulb_server.core.eta import WorkerPace, in_turns, queued_eta, running_eta

HAND_OVER = 0.03


def test_nothing_is_promised_while_nothing_was_measured():
    assert queued_eta(3, 1, []) is None
    assert queued_eta(3, 1, [WorkerPace(0.0, 2)]) is None
    assert running_eta(1.0, 0, 8, 1, None) is None
    assert running_eta(1.0, 0, 8, 1, WorkerPace(0.0, 1)) is None


@pytest.mark.parametrize(
    ("position", "pictures", "workers", "seconds"),
    [
        (0, 1, [WorkerPace(2.0, 0)], 2.0),
        (0, 4, [WorkerPace(2.0, 0)], 8.0),
        (3, 1, [WorkerPace(2.0, 2)], 12.0),
        (3, 1, [WorkerPace(2.0, 1), WorkerPace(2.0, 1)], 6.0),
        (0, 1, [WorkerPace(1.0, 0), WorkerPace(4.0, 0)], 0.8),
        (0, 1, [WorkerPace(1.0, 0), WorkerPace(0.0, 3)], 4.0),  # one that was not measured only adds its work
    ],
)
def test_a_queued_request_waits_for_what_is_ahead(position, pictures, workers, seconds):
    assert queued_eta(position, pictures, workers) == pytest.approx(seconds + HAND_OVER)


@pytest.mark.parametrize(
    ("position", "waiting", "ahead"),
    [(0, [], 0), (3, [], 3), (0, [100], 1), (3, [100], 7), (3, [2], 5), (3, [2, 100], 9)],
)
def test_models_take_turns(position, waiting, ahead):
    assert in_turns(position, waiting) == ahead


@pytest.mark.parametrize(
    ("elapsed", "step", "seconds"), [(2.0, 2, 6.0), (4.0, 4, 4.0), (7.0, 7, 1.0), (8.0, 8, 0.0), (0.0, 1, 0.0)]
)
def test_a_running_request_goes_on_at_its_own_pace(elapsed, step, seconds):
    assert running_eta(elapsed, step, 8, 1, WorkerPace(100.0, 9)) == pytest.approx(seconds + HAND_OVER)


@pytest.mark.parametrize(("elapsed", "seconds"), [(0.0, 6.0), (4.0, 2.0), (10.0, 0.0)])
def test_before_the_first_step_the_workers_pace_counts(elapsed, seconds):
    assert running_eta(elapsed, 0, 8, 3, WorkerPace(2.0, 1)) == pytest.approx(seconds + HAND_OVER)
