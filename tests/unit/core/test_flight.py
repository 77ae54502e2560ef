"""Several frames of a session in hand at once: when each starts, in which order they are answered, what is stopped and what is drawn again."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.core.flight import Answer, DropReason, Frame, Outcome
from flashbulb_server.core.realtime import FramePolicy, Session
from tests.specs import make_spec

SPEC = make_spec()
DRAWING = 0.4
ENDINGS = [Outcome("picture"), Outcome(reason=DropReason.FAILED), Outcome(reason=DropReason.SUPERSEDED, step=2)]


def send(live: Session[str], *frame_ids: int, now: float = 0.0) -> list[int]:
    """Sends frames at once. Gives those that were dropped for it."""
    return [gone for n in frame_ids for gone, _ in live.add(n, live.merge({"prompt": f"cat {n}"}), SPEC, now)]


def told(answers: list[Answer[str]]) -> list[int]:
    return [answer.frame.frame_id for answer in answers]


def paced(places: int, policy: FramePolicy = FramePolicy.ALL, **options: object) -> Session[str]:
    """A session that has drawn frame 1 in DRAWING seconds, and so has all of its places. The next frame may be taken at 0."""
    live: Session[str] = Session({}, policy=policy, max_in_flight=places, **options)  # type: ignore[arg-type]
    send(live, 1, now=-DRAWING)
    (frame,) = [live.take(-DRAWING)]
    assert frame is not None
    assert told(live.ended(frame, Outcome("picture"), 0.0)) == [1]
    return live


def fill(live: Session[str], frame_ids: list[int]) -> list[Frame]:
    """Takes these frames, each when its time has come."""
    taken = []
    for number, frame_id in enumerate(frame_ids):
        now = number * DRAWING
        send(live, frame_id, now=now)
        frame = live.take(now)
        assert frame is not None and frame.frame_id == frame_id
        taken.append(frame)
    return taken


def test_one_is_drawn_at_a_time_until_it_is_known_how_long_that_takes() -> None:
    live: Session[str] = Session({}, policy=FramePolicy.ALL, max_in_flight=4)
    send(live, 1, 2)
    frame = live.take(0.0)
    assert frame is not None
    assert live.ready_in(99.0) is None and live.take(99.0) is None
    live.ended(frame, Outcome("picture"), DRAWING)
    assert live.take(DRAWING) is not None


@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_starts_are_spread_over_the_time_of_a_picture_and_places_are_bounded(places: int) -> None:
    live = paced(places)
    send(live, *range(2, 10))
    for number in range(places):
        due = number * DRAWING / places
        if number:
            assert live.ready_in(due - 0.05) == pytest.approx(0.05)
            assert live.take(due - 0.05) is None
        assert live.take(due + 1e-9) is not None
    assert len(live.in_hand) == places
    assert live.ready_in(99.0) is None and live.take(99.0) is None


def test_a_frame_that_comes_late_starts_at_once() -> None:
    live = paced(2, FramePolicy.NEWEST)
    send(live, 2, now=0.0)
    assert live.take(0.0) is not None
    send(live, 3, now=0.9 * DRAWING)
    assert live.ready_in(0.9 * DRAWING) == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_answers_come_in_order_whichever_ends_first(order: tuple[int, ...]) -> None:
    for endings in itertools.product(ENDINGS, repeat=4):
        live = paced(4)
        frames = fill(live, [2, 3, 4, 5])
        answers: list[Answer[str]] = []
        for index in order:
            answers += live.ended(frames[index], endings[index], 9.0)
            done = set(order[: order.index(index) + 1])
            first_open = next((i for i in range(4) if i not in done), 4)
            assert told(answers) == [2, 3, 4, 5][:first_open]
        assert [answer.outcome for answer in answers] == list(endings)
        assert live.idle


def test_superseded_frames_are_counted_by_the_picture_that_follows_them() -> None:
    live = paced(4)
    first, second, third = fill(live, [2, 3, 4])
    live.ended(third, Outcome("picture"), 9.0)
    live.ended(second, Outcome(reason=DropReason.SUPERSEDED), 9.0)
    answers = live.ended(first, Outcome("picture"), 9.0)
    assert [(a.frame.frame_id, a.superseded) for a in answers] == [(2, 0), (3, 0), (4, 1)]


def test_a_frame_that_waits_to_be_answered_keeps_its_place() -> None:
    live = paced(2)
    first, second = fill(live, [2, 3])
    send(live, 4, now=9.0)
    live.ended(second, Outcome("picture"), 9.0)
    assert live.ready_in(9.0) is None, "pictures that are held are bounded"
    assert told(live.ended(first, Outcome("picture"), 9.0)) == [2, 3]
    assert live.take(9.0) is not None


def test_one_that_has_no_picture_leaves_its_place_but_not_without_bound() -> None:
    live = paced(2)
    oldest, other = fill(live, [2, 3])
    for frame_id in range(4, 4 + 40):
        live.ended(other, Outcome(reason=DropReason.FAILED), 9.0)
        send(live, frame_id, now=9.0 + frame_id)
        taken = live.take(9.0 + frame_id)
        if taken is None:
            break
        other = taken
    assert len(live.in_hand) == 18
    assert len(live.ended(oldest, Outcome("picture"), 99.0)) == 18
    assert not live.in_hand


def test_nothing_is_stopped_while_a_place_is_free() -> None:
    live = paced(2, FramePolicy.NEWEST)
    fill(live, [2])
    send(live, 3, now=0.1)
    assert live.to_stop() is None


def test_the_newest_in_hand_makes_way_when_all_places_are_taken() -> None:
    live = paced(3, FramePolicy.NEWEST)
    frames = fill(live, [2, 3, 4])
    now = 3 * DRAWING
    send(live, 5, now=now)
    assert live.to_stop() is frames[2], "for which the least was done"
    assert live.ended(frames[2], Outcome(reason=DropReason.SUPERSEDED), now) == []
    taken = live.take(now)
    assert taken is not None and taken.frame_id == 5, "in the place of the other, at once"
    assert live.to_stop() is None


def test_one_that_has_ended_is_not_stopped() -> None:
    live = paced(2, FramePolicy.NEWEST)
    frames = fill(live, [2, 3])
    live.ended(frames[1], Outcome("picture"), 2 * DRAWING)
    send(live, 4, now=2 * DRAWING)
    assert live.to_stop() is frames[0]


@pytest.mark.parametrize(("gap", "stops"), [(0.15, False), (0.25, True)])
def test_what_is_hasty_depends_on_how_many_are_drawn_at_once(gap: float, stops: bool) -> None:
    """Two at once make a picture every 0.2 s."""
    live = paced(2, FramePolicy.NEWEST)
    now, frame_id = 0.0, 1
    while len(live.in_hand) < 2 or frame_id < 6:
        frame_id += 1
        send(live, frame_id, now=now)
        live.take(now)
        now += gap
    send(live, frame_id + 1, now=now)
    assert (live.to_stop() is not None) is stops


def test_with_all_nothing_is_stopped() -> None:
    live = paced(2)
    fill(live, [2, 3])
    send(live, 4, now=9.0)
    assert live.to_stop() is None


@pytest.mark.parametrize("lost", [c for n in range(1, 5) for c in itertools.permutations(range(4), n)])
def test_with_all_lost_frames_are_drawn_again_in_order(lost: tuple[int, ...]) -> None:
    live = paced(4)
    frames = fill(live, [2, 3, 4, 5])
    send(live, 6, now=9.0)
    answers: list[Answer[str]] = []
    for index in lost:
        answers += live.put_back(frames[index], 9.0)
    for index in set(range(4)) - set(lost):
        answers += live.ended(frames[index], Outcome("picture"), 9.0)
    assert told(answers) == [2, 3, 4, 5][: min(lost)], "what follows a lost one waits for it"
    now = 9.0
    while not live.idle:
        now += DRAWING
        frame = live.take(now)
        assert frame is not None
        answers += live.ended(frame, Outcome("picture"), now)
    assert told(answers) == [2, 3, 4, 5, 6]
    assert all(answer.outcome.picture for answer in answers)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("waits", [True, False])
def test_with_newest_only_the_newest_of_the_lost_is_drawn_again(order: tuple[int, ...], waits: bool) -> None:
    live = paced(3, FramePolicy.NEWEST)
    frames = fill(live, [2, 3, 4])
    if waits:
        send(live, 5, now=9.0)
    answers: list[Answer[str]] = []
    for index in order:
        answers += live.put_back(frames[index], 9.0)
    assert told(answers) == ([2, 3, 4] if waits else [2, 3])
    assert {answer.outcome.reason for answer in answers} == {DropReason.SUPERSEDED}
    frame = live.take(9.0)
    assert frame is not None and frame.frame_id == (5 if waits else 4)
    (answer,) = live.ended(frame, Outcome("picture"), 9.0)
    assert answer.superseded == len(answers)


def test_a_lost_frame_is_drawn_again_where_the_newer_ones_failed() -> None:
    live = paced(2, FramePolicy.NEWEST)
    first, second = fill(live, [2, 3])
    live.ended(second, Outcome(reason=DropReason.FAILED), 9.0)
    assert live.put_back(first, 9.0) == []
    frame = live.take(9.0)
    assert frame is first
    assert told(live.ended(frame, Outcome("picture"), 9.0)) == [2, 3]


@pytest.mark.parametrize("policy", list(FramePolicy))
def test_a_successor_takes_over_what_is_in_hand_and_shares_nothing(policy: FramePolicy) -> None:
    live = paced(3, policy)
    frames = fill(live, [2, 3, 4])
    send(live, 5, now=9.0)
    live.ended(frames[1], Outcome("picture"), 9.0)  # which its caller never got
    other = live.successor()
    live.ended(frames[0], Outcome("picture"), 9.0)
    assert (other.in_hand, other.max_in_flight) == ((), 3)
    seen, now = [], 9.0
    while not other.idle:
        now += DRAWING
        frame = other.take(now)
        assert frame is not None
        seen += told(other.ended(frame, Outcome("picture"), now))
    assert seen == ([5] if policy is FramePolicy.NEWEST else [2, 3, 4, 5])


def test_acknowledgements_bound_what_is_on_the_way_and_in_hand() -> None:
    live = paced(3)
    live.ack(1)
    drawn, now = 0, 0.0
    send(live, *range(2, 16))
    while (frame := live.take(now)) is not None:
        now += DRAWING
        if len(live.in_hand) == 3:
            drawn += len(live.ended(live.in_hand[0], Outcome("picture"), now))
    assert frame is None and drawn + len(live.in_hand) == 6, "four, and what more is drawn at once"
    live.ack(2)
    assert live.ready_in(now) is not None


def test_a_session_that_waits_for_an_acknowledgement_is_stalled_once_nothing_is_drawn() -> None:
    live = paced(2)
    live.ack(1)
    send(live, *range(2, 9))
    now = 0.0
    while not live.stalled(now):
        now += DRAWING
        live.take(now)
        if live.in_hand:
            live.ended(live.in_hand[0], Outcome("picture"), now)
    assert now < 9 * DRAWING
    assert live.ready_in(now) is None


@pytest.mark.parametrize("places", [1, 2, 4])
def test_pictures_come_one_by_one_at_the_pace_of_the_engine(places: int) -> None:
    """Sixty frames a second into an engine of four steps a picture, of 20 ms * (0.35 + 0.65 * lanes)."""
    live: Session[str] = Session({}, max_in_flight=places)
    steps: dict[int, int] = {}
    now, frame_id, next_frame, times = 0.0, 0, 0.0, []
    while now < 20.0:
        while next_frame <= now:
            frame_id += 1
            send(live, frame_id, now=next_frame)
            next_frame += 1 / 60
        live.take(now)
        for frame in live.in_hand:
            steps.setdefault(frame.frame_id, 0)
        now += 0.02 * (0.35 + 0.65 * len(live.in_hand)) if live.in_hand else 0.001
        for frame in live.in_hand:
            steps[frame.frame_id] += 1
            if steps[frame.frame_id] == 4:
                times += [now for _ in live.ended(frame, Outcome("picture"), now)]
    settled = [time for time in times if time > 2.0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(settled)]
    best = places / (4 * 0.02 * (0.35 + 0.65 * places))
    assert len(settled) / 18 > 0.9 * best, "the engine is kept busy"
    assert min(gaps) > 0.3 / best, "and no two pictures come together"


@pytest.mark.parametrize("policy", list(FramePolicy))
@given(places=st.integers(1, 4), seed=st.integers(0, 2**32), length=st.integers(1, 150))
def test_whatever_happens_every_frame_is_answered_once_and_in_order(
    policy: FramePolicy, places: int, seed: int, length: int
) -> None:
    chance = random.Random(seed)
    live: Session[str] = Session({}, policy=policy, max_in_flight=places, max_waiting=5)
    now, sent = 0.0, 0
    pictures: list[int] = []
    seen: list[int] = []

    def note(answers: list[Answer[str]]) -> None:
        seen.extend(told(answers))
        pictures.extend(answer.frame.frame_id for answer in answers if answer.outcome.picture)

    def step(event: str) -> None:
        open_frames = [seat.frame for seat in live._flight.drawing]
        if event == "take":
            live.take(now)
        elif open_frames and event == "end":
            note(live.ended(chance.choice(open_frames), chance.choice(ENDINGS[:2]), now))
        elif open_frames and event == "lost":
            note(live.put_back(chance.choice(open_frames), now))
        elif event == "stop" and (frame := live.to_stop()) is not None:
            note(live.ended(frame, Outcome(reason=DropReason.SUPERSEDED, step=1), now))

    for _ in range(length):
        now += chance.random() / 10
        event = chance.choice(["send", "send", "take", "take", "end", "lost", "stop"])
        if event == "send":
            sent += 1
            seen += send(live, sent, now=now)
        step(event)
        assert len(live._flight.showing) <= places
        assert len(live._waiting) <= (1 if policy is FramePolicy.NEWEST else 5 + places)
    while not live.idle:
        now += 1.0
        step("take")
        step("end")
    assert sorted(seen) == list(range(1, sent + 1))
    assert pictures == sorted(pictures)
