"""The realtime session without a transport: newest wins, pacing, what is worth stopping, acknowledgements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.core.flight import Answer, DropReason, Outcome
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.realtime import FramePolicy, Session
from tests.specs import make_image_spec, make_spec

SPEC = make_spec()


def session(**options) -> Session[str]:
    return Session({"prompt": "a cat"}, **options)


def send(live: Session, frame_id: int, now: float) -> list[tuple[int, DropReason]]:
    return live.add(frame_id, live.merge({"prompt": f"cat {frame_id}"}), SPEC, now)


def drawn(live: Session[str], now: float) -> int:
    """The one in hand has its picture. Gives what it says of superseded frames."""
    (frame,) = live.in_hand
    (answer,) = live.ended(frame, Outcome("picture"), now)
    assert (answer.frame, answer.outcome.picture) == (frame, "picture")
    return answer.superseded


def stopped(live: Session[str]) -> None:
    """The one in hand stops for a newer one."""
    live.ended(live.in_hand[0], Outcome(reason=DropReason.SUPERSEDED), 0.0)


def failed(live: Session[str]) -> None:
    """The one in hand cannot be drawn."""
    live.ended(live.in_hand[0], Outcome(reason=DropReason.FAILED), 0.0)


def back(live: Session[str]) -> list[tuple[int, DropReason | None]]:
    """The one in hand lost its worker. Gives the answers."""
    return told(live.put_back(live.in_hand[0], 0.0))


def told(answers: list[Answer[str]]) -> list[tuple[int, DropReason | None]]:
    return [(answer.frame.frame_id, answer.outcome.reason) for answer in answers]


def test_the_newest_frame_takes_the_place_of_the_one_that_waits() -> None:
    live = session()
    assert send(live, 1, 0.0) == []
    assert send(live, 2, 0.1) == [(1, DropReason.SUPERSEDED)]
    frame = live.take(0.2)
    assert frame is not None and frame.frame_id == 2 and frame.arrived == 0.1
    assert live.take(0.2) is None, "one frame is drawn at a time"
    assert drawn(live, 0.3) == 1
    assert live.idle


def test_all_frames_are_drawn_in_order_up_to_the_bound() -> None:
    live = session(policy=FramePolicy.ALL, max_waiting=2)
    assert send(live, 1, 0.0) == send(live, 2, 0.0) == []
    assert send(live, 3, 0.0) == [(3, DropReason.OVERFLOW)]
    taken = []
    while (frame := live.take(1.0)) is not None:
        taken.append(frame.frame_id)
        assert drawn(live, 1.0) == 0
    assert taken == [1, 2]


def test_the_oldest_makes_room_where_several_may_wait() -> None:
    live = session(policy=FramePolicy.RECENT, max_waiting=2)
    assert send(live, 1, 0.0) == []
    assert live.take(0.0) is not None
    assert send(live, 2, 0.1) == send(live, 3, 0.2) == []
    assert live.to_stop() is None, "each frame that is begun is finished"
    assert send(live, 4, 0.3) == [(2, DropReason.SUPERSEDED)]
    assert live.values["prompt"] == "cat 4"
    assert drawn(live, 0.4) == 1
    taken = []
    while (frame := live.take(1.0)) is not None:
        taken.append(frame.frame_id)
        assert drawn(live, 1.0) == 0
    assert taken == [3, 4]


def test_a_refused_frame_leaves_no_trace_in_the_values() -> None:
    live = session(policy=FramePolicy.ALL, max_waiting=1)
    send(live, 1, 0.0)
    send(live, 2, 0.0)
    assert live.values["prompt"] == "cat 1"


def test_a_newer_frame_stops_the_one_in_hand() -> None:
    live = session()
    send(live, 1, 0.0)
    live.take(0.0)
    assert not live.to_stop()
    send(live, 2, 0.01)
    assert live.to_stop()
    stopped(live)
    frame = live.take(0.02)
    assert frame is not None and frame.frame_id == 2
    assert drawn(live, 0.1) == 1, "the stopped one counts as superseded"


def test_all_frames_means_that_none_is_stopped() -> None:
    live = session(policy=FramePolicy.ALL)
    send(live, 1, 0.0)
    live.take(0.0)
    send(live, 2, 0.01)
    assert not live.to_stop()


def test_frames_faster_than_pictures_stop_nothing_so_that_pictures_keep_coming() -> None:
    live = session()
    now, frame_id, pictures, wasted = 0.0, 0, 0, 0
    started: float | None = None
    for _ in range(300):  # 30 frames a second; a picture takes 80 ms
        now += 1 / 30
        if started is not None and started + 0.08 <= now:
            drawn(live, started + 0.08)
            pictures += 1
            started = None
        frame_id += 1
        send(live, frame_id, now)
        if started is not None and live.to_stop():
            stopped(live)
            wasted += 1
            started = None
        if live.take(now) is not None:
            started = now
    assert pictures >= 90, "about ten a second"
    assert wasted <= 5, "only until the pace is known"


def test_after_a_pause_the_pace_is_measured_anew() -> None:
    live = session()
    for frame_id in range(1, 8):
        send(live, frame_id, frame_id * 0.01)
        if live.take(frame_id * 0.01):
            drawn(live, frame_id * 0.01 + 0.1)
    send(live, 8, 10.0)
    live.take(10.0)
    send(live, 9, 10.05)
    assert live.to_stop()


def test_max_fps_spaces_the_starts() -> None:
    live = session(max_fps=10)
    send(live, 1, 0.0)
    assert live.take(0.0) is not None
    drawn(live, 0.01)
    send(live, 2, 0.02)
    assert live.take(0.02) is None
    assert live.ready_in(0.02) == pytest.approx(0.08)
    assert live.take(0.1) is not None


@pytest.mark.parametrize("begin", [0.0, 1000.0])
def test_max_fps_holds_from_the_first_picture_and_after_a_pause(begin: float) -> None:
    live = session(max_fps=10)
    frame_id = 0
    for pause in (0.0, 50.0):
        now = begin + pause
        for _ in range(5):
            frame_id += 1
            send(live, frame_id, now)
            if frame_id % 5 != 1:
                wait = live.ready_in(now)
                assert wait == pytest.approx(0.1, abs=0.021)
                now += wait + 0.01  # woken a little late
            assert live.take(now) is not None
            drawn(live, now)
    assert now - begin - 50.0 < 0.45, "being woken late does not add up"


def test_acknowledgements_bound_what_is_on_the_way() -> None:
    live = session()
    live.ack(0)
    for frame_id in range(1, 5):
        send(live, frame_id, 0.0)
        assert live.take(0.0) is not None
        drawn(live, 0.0)
    send(live, 5, 0.0)
    assert live.take(0.0) is None and live.ready_in(0.0) is None
    live.ack(2)
    assert live.take(0.0) is not None


def test_a_caller_that_never_acknowledges_is_not_held_up() -> None:
    live = session()
    for frame_id in range(1, 50):
        send(live, frame_id, 0.0)
        assert live.take(0.0) is not None
        drawn(live, 0.0)


@pytest.mark.parametrize("policy", list(FramePolicy))
def test_a_frame_that_is_put_back_is_next_again(policy: FramePolicy) -> None:
    live = session(policy=policy)
    send(live, 1, 0.0)
    live.take(0.0)
    back(live)
    frame = live.take(0.0)
    assert frame is not None and frame.frame_id == 1


def test_a_frame_that_is_put_back_gives_way_to_a_newer_one() -> None:
    live = session()
    send(live, 1, 0.0)
    live.take(0.0)
    send(live, 2, 0.0)
    back(live)
    frame = live.take(0.0)
    assert frame is not None and frame.frame_id == 2


def test_what_is_put_back_and_dropped_is_told_and_counted() -> None:
    live = session()
    send(live, 1, 0.0)
    live.take(0.0)
    send(live, 2, 0.0)
    assert back(live) == [(1, DropReason.SUPERSEDED)]
    assert not live.in_hand
    live.take(0.0)
    assert drawn(live, 0.0) == 1


def test_a_session_is_stalled_until_its_caller_says_something() -> None:
    live = session(max_fps=10)
    assert live.stalled(0.0)
    live.ack(0)
    for frame_id in range(1, 5):
        send(live, frame_id, float(frame_id))
        assert not live.stalled(float(frame_id))
        live.take(float(frame_id))
        assert not live.stalled(float(frame_id)), "something is in hand"
        drawn(live, float(frame_id))
    send(live, 5, 5.0)
    assert live.stalled(5.0), "four are on their way"
    live.forget_acks()
    assert not live.stalled(5.0)


@pytest.mark.parametrize("policy", list(FramePolicy))
def test_a_successor_goes_on_and_shares_nothing(policy: FramePolicy) -> None:
    live = session(policy=policy, max_waiting=4)
    live.ack(0)
    send(live, 1, 0.0)
    live.take(0.0)
    send(live, 2, 0.1)
    other = live.successor()
    assert (other.last_frame_id, other.values, other.in_hand) == (2, live.values, ())
    drawn(live, 0.2)
    live.take(0.2)
    send(live, 3, 0.3)
    taken = []
    while (frame := other.take(1.0)) is not None:
        taken.append(frame.frame_id)
        drawn(other, 1.0)
    assert taken == ([2] if policy is FramePolicy.NEWEST else [1, 2])
    for frame_id in range(10, 20):
        send(other, frame_id, 2.0)
        assert other.take(2.0) is not None, "acknowledgements begin anew"
        drawn(other, 2.0)
    assert live.last_frame_id == 3


@given(st.lists(st.sampled_from(["send", "take", "drawn", "stopped", "failed", "back", "ack"]), max_size=200))
def test_whatever_happens_it_stays_bounded_and_frames_come_in_order(events: list[str]) -> None:
    live = session(max_waiting=3)
    sent, last, now = 0, 0, 0.0
    for event in events:
        now += 0.01
        match event:
            case "send":
                sent += 1
                assert len(send(live, sent, now)) <= 1
            case "take":
                frame = live.take(now)
                if frame is not None:
                    assert frame.frame_id >= last
                    last = frame.frame_id
            case "ack":
                live.ack(sent)
            case "drawn" if live.in_hand:
                drawn(live, now)
            case "stopped" if live.in_hand:
                stopped(live)
            case "failed" if live.in_hand:
                failed(live)
            case "back" if live.in_hand:
                back(live)
        assert len(live._waiting) <= 1


def test_the_pictures_that_it_holds_are_counted() -> None:
    live = Session({"prompt": "a cat", "image_url": SourceImage(content=b"12345"), "mask_url": SourceImage(uri="x")})
    assert live.inline_bytes == 5
    several: Session[str] = Session({"input_image_urls": [SourceImage(content=b"123"), SourceImage(uri="data:,4567")]})
    assert several.inline_bytes == 3 + len("data:,4567")


def test_pictures_of_frames_that_wait_are_counted_once_each() -> None:
    live: Session[str] = Session({"prompt": "a cat"}, policy=FramePolicy.ALL, max_waiting=8)
    for frame_id in range(1, 4):
        picture = SourceImage(content=bytes(100 + frame_id))
        live.add(frame_id, live.merge({"image_url": picture}), make_image_spec(image=picture), 0.0)
    live.take(0.0)
    assert live.inline_bytes == 101 + 102 + 103, "the last one is among the values, too"
    assert live.successor().inline_bytes == live.inline_bytes
