"""Who is drawn when, in virtual time: the real device and planner, many callers, calls of `0.02 * (0.35 + 0.65 b)` seconds."""

from __future__ import annotations

import pytest

from tests.unit.worker.simulation import DIRECT, LIVE, QUEUED, Simulation, jain, p95

SECONDS = 20.0
SETTLED = 5  # pictures of each session after which what is learned is settled


def sessions(count, *, full, seconds=SECONDS, gap=0.002, bucket="", **options):
    """Live sessions that ask again 2 ms after every picture, alone or beside a queue that is always full."""
    simulation = Simulation(**options)
    for number in range(count):
        simulation.loop(f"live{number}", LIVE, gap=gap * (1 + number / 10))
    if full:
        for number in range(32):
            simulation.loop(f"queued{number}", QUEUED, owner="queue", bucket=bucket)
    simulation.run(seconds)
    return simulation


def pictures(simulation, prefix):
    return sum(len(times) for who, times in simulation.latencies.items() if who.startswith(prefix))


def waits(simulation):
    return [x for who, times in simulation.latencies.items() if who.startswith("live") for x in times[SETTLED:]]


@pytest.mark.parametrize("finish_seconds", [0.0, 0.02])
@pytest.mark.parametrize("bucket", ["", "another"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_full_queue_makes_frames_at_most_half_slower_and_goes_on(count, bucket, finish_seconds):
    alone = sessions(count, full=False, finish_seconds=finish_seconds)
    shared = sessions(count, full=True, bucket=bucket, finish_seconds=finish_seconds)
    assert p95(waits(shared)) <= 1.5 * p95(waits(alone))
    queue_alone = sessions(0, full=True, finish_seconds=finish_seconds)
    assert pictures(shared, "queued") >= 0.08 * pictures(queue_alone, "queued")


def test_frames_that_come_seldom_meet_short_calls():
    alone, shared = sessions(1, full=False, gap=0.3), sessions(1, full=True, gap=0.3)
    assert p95(waits(shared)) <= 1.5 * p95(waits(alone))
    assert pictures(shared, "queued") >= 0.5 * pictures(sessions(0, full=True), "queued")


def test_a_frame_does_not_wait_until_all_others_are_decoded():
    simulation = Simulation(finish_seconds=0.05)
    for number in range(8):
        simulation.ask(f"queued{number}", QUEUED)
    call = 0.02 * (0.35 + 0.65 * 8)
    simulation.at(3.5 * call, lambda: simulation.ask("frame", LIVE))
    simulation.run(SECONDS)
    assert simulation.latencies["frame"][0] <= 0.5 * call + 0.05 + 4 * 0.02 + 0.05 + 0.05
    assert pictures(simulation, "queued") == 8


def test_what_is_denoised_is_decoded_before_more_is_begun():
    shared = sessions(8, full=True, finish_seconds=0.02)
    waited = [x for who, times in shared.pipeline.decode_waits.items() if who.startswith("queued") for x in times]
    assert p95(waited) <= 1.0, "seconds; a picture of each session takes 0.6"


@pytest.mark.parametrize("max_batch", [16, 4, 3])
@pytest.mark.parametrize("full", [False, True])
def test_eight_sessions_get_equal_shares(max_batch, full):
    shared = sessions(8, full=full, max_batch=max_batch)
    assert jain(len(times) for who, times in shared.latencies.items() if who.startswith("live")) >= 0.95


def test_all_places_are_the_queue_s_when_no_session_is_live():
    queue = sessions(0, full=True, capacity=8)
    assert set(queue.pipeline.batches[8:]) == {8}


@pytest.mark.parametrize("work_class", [DIRECT, QUEUED])
def test_a_flood_of_one_key_delays_another_by_about_one_drawing(work_class):
    simulation = Simulation()
    for number in range(100):
        simulation.ask(f"flood{number}", work_class, owner="flood")
    drawing_seconds = 4 * 0.02 * (0.35 + 0.65 * 8)
    simulation.at(0.3, lambda: simulation.ask("single", work_class))
    simulation.run(SECONDS)
    assert simulation.latencies["single"][0] <= 2 * drawing_seconds * 1.05, "its own time, and one drawing's"
    assert pictures(simulation, "flood") == 100


def test_keys_get_pictures_by_weight():
    simulation = Simulation(weights={"heavy": 3.0}, capacity=4)
    for number in range(12):
        simulation.loop(f"heavy{number}", QUEUED, owner="heavy")
        simulation.loop(f"light{number}", QUEUED, owner="light")
    simulation.run(SECONDS)
    assert pictures(simulation, "heavy") / pictures(simulation, "light") == pytest.approx(3.0, rel=0.1)


def test_direct_calls_get_four_times_what_the_queue_gets():
    simulation = Simulation(capacity=5)
    for number in range(12):
        simulation.loop(f"direct{number}", DIRECT, owner="one")
        simulation.loop(f"queued{number}", QUEUED, owner="other")
    simulation.run(SECONDS)
    assert pictures(simulation, "direct") / pictures(simulation, "queued") == pytest.approx(4.0, rel=0.1)


def test_a_key_that_was_away_has_saved_nothing():
    simulation = Simulation(capacity=1)
    simulation.loop("stays", QUEUED)
    simulation.run(SECONDS)
    before = len(simulation.latencies["stays"])
    for number in range(4):
        simulation.loop(f"back{number}", QUEUED, owner="back")
    simulation.run(SECONDS + 4.0)
    assert pictures(simulation, "back") == pytest.approx(len(simulation.latencies["stays"]) - before, abs=1)


def test_sizes_share_the_device_by_time_not_by_turns():
    simulation = Simulation()
    simulation.loop("small", QUEUED, width=8, height=8)
    simulation.loop("large", QUEUED, width=16, height=16)
    simulation.run(SECONDS)
    small, large = len(simulation.latencies["small"]), len(simulation.latencies["large"])
    assert small / large == pytest.approx(4.0, rel=0.1), "a picture of four times the pixels costs four times as much"


def test_the_earlier_deadline_comes_first():
    simulation = Simulation(capacity=1)
    simulation.ask("first", QUEUED, owner="a")
    simulation.ask("late", QUEUED, owner="a", deadline=30.0)
    simulation.ask("soon", QUEUED, owner="a", deadline=10.0)
    simulation.ask("any", QUEUED, owner="a")
    simulation.run(SECONDS)
    order = sorted(simulation.ended, key=simulation.ended.__getitem__)
    assert order == ["soon", "late", "first", "any"]


def test_too_late_is_ended_before_its_next_step():
    simulation = Simulation(capacity=1)
    simulation.ask("long", QUEUED, num_inference_steps=40, deadline=0.11)
    simulation.at(0.01, lambda: simulation.ask("waits", QUEUED, deadline=0.05))
    simulation.run(1.0)
    assert simulation.cancelled == {"waits": 0, "long": 6}
    assert len(simulation.pipeline.batches) == 6
