"""Which frames are compared with what, and what becomes of those that were found similar."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashbulb_server.core.flight import Answer, DropReason, Frame, Outcome
from flashbulb_server.core.generation import GenerationSpec, SourceImage
from flashbulb_server.core.realtime import FramePolicy, Session
from flashbulb_server.core.similarity import MAX_SKIPPED, Comparison
from tests.specs import make_image_spec, make_inpainting_spec, make_spec

THRESHOLD = 0.1
SIMILAR: Outcome[str] = Outcome(reason=DropReason.SIMILAR)


def picture(level: int) -> GenerationSpec:
    """A spec whose picture looks like that."""
    return replace(make_image_spec(), image=SourceImage(content=bytes([level])))


class Drawer:
    """Draws as a worker does: it tells the look of a picture, one byte, and leaves out what is within 10 levels."""

    def __init__(self, **options: object) -> None:
        options = {"policy": FramePolicy.ALL, "similar_threshold": THRESHOLD, **options}
        self.live: Session[str] = Session({}, **options)  # type: ignore[arg-type]
        self.now = 0.0
        self._sent = 0

    def take(self, spec: GenerationSpec) -> Frame:
        """Sends a frame and takes it in hand."""
        self._sent += 1
        self.now += 1.0
        self.live.add(self._sent, {}, spec, self.now)
        frame = self.live.take(self.now)
        assert frame is not None
        return frame

    def look(self, frame: Frame) -> bool:
        """Whether it is drawn."""
        comparison = self.live.comparison(frame)
        assert comparison is not None and comparison.threshold == THRESHOLD
        level = frame.spec.sources["image_url"].content
        if comparison.thumbnail and abs(level[0] - comparison.thumbnail[0]) <= 10:
            return False
        self.live.seen(frame, level)
        return True

    def end(self, frame: Frame, outcome: Outcome[str] | None = None) -> list[Answer[str]]:
        """It ends, with its picture unless something else is said."""
        self.now += 0.5
        return self.live.ended(frame, outcome or Outcome("picture"), self.now)

    def draw(self, spec: GenerationSpec) -> bool:
        """Sends and draws one frame. Whether it was drawn."""
        frame = self.take(spec)
        drawn = self.look(frame)
        (answer,) = self.end(frame, None if drawn else SIMILAR)
        assert (answer.outcome.picture is not None) is drawn
        return drawn


def test_nothing_is_compared_unless_that_is_asked_for() -> None:
    live: Session[str] = Session({})
    live.add(1, {}, picture(0), 0.0)
    frame = live.take(0.0)
    assert frame is not None and live.comparison(frame) is None


def test_a_frame_without_a_picture_is_not_compared() -> None:
    drawer = Drawer()
    assert drawer.live.comparison(drawer.take(make_spec())) is None


def test_the_first_one_is_looked_at_and_drawn() -> None:
    drawer = Drawer()
    assert drawer.live.comparison(drawer.take(picture(9))) == Comparison(b"", THRESHOLD)


def test_a_slow_drift_is_drawn() -> None:
    """Each differs little from the one before, and more and more from the one that was drawn."""
    drawer = Drawer()
    assert [drawer.draw(picture(level)) for level in (100, 104, 108, 111, 115, 119, 122)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip


def test_after_ten_in_a_row_one_is_drawn_in_any_case() -> None:
    drawer = Drawer()
    drawn = [drawer.draw(picture(100)) for _ in range(2 * (MAX_SKIPPED + 1) + 1)]
    assert MAX_SKIPPED == 10
    assert [index for index, one in enumerate(drawn) if one] == [0, 11, 22]


def test_one_that_differs_begins_the_row_anew() -> None:
    drawer = Drawer()
    for _ in range(5):
        assert drawer.draw(picture(100))
        assert not any(drawer.draw(picture(100)) for _ in range(7))
        assert drawer.draw(picture(200))


@pytest.mark.parametrize(
    "change", [{"prompt": "another"}, {"seed": 99}, {"strength": 0.3}, {"num_inference_steps": 2}, {"width": 96}]
)
def test_a_frame_that_changes_anything_else_is_drawn(change: dict[str, object]) -> None:
    drawer = Drawer()
    drawer.draw(picture(100))
    changed = replace(picture(100), **change)  # type: ignore[arg-type]
    assert drawer.draw(changed)
    assert not drawer.draw(changed)
    assert drawer.draw(picture(100)), "and so is one that changes it back"


def test_another_label_changes_nothing() -> None:
    drawer = Drawer()
    assert drawer.draw(picture(50))
    assert not drawer.draw(replace(picture(52), request_id="another"))


def test_a_mask_counts_as_something_else() -> None:
    drawer = Drawer()
    spec = replace(make_inpainting_spec(), image=SourceImage(content=b"a"), mask=SourceImage(content=b"m"))
    assert drawer.draw(spec)
    assert not drawer.draw(replace(spec, image=SourceImage(content=b"b")))
    assert drawer.draw(replace(spec, mask=SourceImage(content=b"n")))


@pytest.mark.parametrize("reason", [DropReason.FAILED, DropReason.SUPERSEDED])
def test_one_that_was_not_drawn_after_all_is_nothing_to_compare_with(reason: DropReason) -> None:
    drawer = Drawer()
    drawer.draw(picture(100))
    frame = drawer.take(picture(200))
    assert drawer.look(frame)
    drawer.end(frame, Outcome(reason=reason))
    assert not drawer.draw(picture(100)), "the caller still sees that one"
    assert drawer.draw(picture(200))


def test_with_several_in_hand_a_frame_is_compared_with_the_one_before_it() -> None:
    drawer = Drawer(max_in_flight=3)
    drawer.draw(picture(100))
    first = drawer.take(picture(200))
    assert drawer.look(first)
    second = drawer.take(picture(100))
    assert drawer.look(second), "though it is like what the caller sees now"
    third = drawer.take(picture(105))
    assert not drawer.look(third)
    assert drawer.end(third, SIMILAR) == []
    assert [a.frame for a in drawer.end(first)] == [first]
    assert [a.frame for a in drawer.end(second)] == [second, third]


def test_one_that_comes_before_the_look_of_the_one_in_hand_is_drawn() -> None:
    drawer = Drawer(max_in_flight=2)
    drawer.draw(picture(100))
    drawer.take(picture(200))
    assert drawer.look(drawer.take(picture(100)))


@pytest.mark.parametrize("reason", [DropReason.FAILED, DropReason.SUPERSEDED])
@pytest.mark.parametrize("policy", list(FramePolicy))
def test_what_is_like_a_picture_that_never_came_is_looked_at_again(policy: FramePolicy, reason: DropReason) -> None:
    drawer = Drawer(max_in_flight=2, policy=policy)
    drawer.draw(picture(100))
    first = drawer.take(picture(200))
    drawer.look(first)
    second = drawer.take(picture(205))
    assert not drawer.look(second)
    drawer.end(second, SIMILAR)
    assert [a.frame for a in drawer.end(first, Outcome(reason=reason))] == [first]
    again = drawer.live.take(drawer.now)
    assert again is second
    assert drawer.look(again)
    assert [a.frame for a in drawer.end(again)] == [second]
    assert drawer.live.idle


def test_it_gives_way_to_a_newer_one() -> None:
    drawer = Drawer(max_in_flight=2, policy=FramePolicy.NEWEST)
    drawer.draw(picture(100))
    first = drawer.take(picture(200))
    drawer.look(first)
    second = drawer.take(picture(205))
    assert not drawer.look(second)
    drawer.end(second, SIMILAR)
    drawer.live.add(9, {}, picture(250), drawer.now)
    answers = drawer.end(first, Outcome(reason=DropReason.FAILED))
    assert [(a.frame, a.outcome.reason) for a in answers] == [
        (first, DropReason.FAILED),
        (second, DropReason.SUPERSEDED),
    ]


def test_a_lost_frame_is_drawn_before_what_was_like_it_is_answered() -> None:
    drawer = Drawer(max_in_flight=2)
    drawer.draw(picture(100))
    first = drawer.take(picture(200))
    drawer.look(first)
    second = drawer.take(picture(205))
    assert not drawer.look(second)
    drawer.end(second, SIMILAR)
    assert drawer.live.put_back(first, drawer.now) == []
    again = drawer.live.take(drawer.now)
    assert again is first and drawer.look(again)
    assert [a.frame for a in drawer.end(again)] == [first], "the second is looked at again: its like was lost"
    last = drawer.live.take(drawer.now)
    assert last is second and not drawer.look(last)
    (answer,) = drawer.end(last, SIMILAR)
    assert answer.outcome.reason is DropReason.SIMILAR


def test_a_successor_has_shown_nothing() -> None:
    """The last picture may never have reached the caller."""
    drawer = Drawer()
    drawer.draw(picture(100))
    drawer.live = drawer.live.successor()
    assert drawer.draw(picture(100))


def test_what_is_remembered_holds_no_pictures() -> None:
    drawer = Drawer()
    drawer.draw(picture(100))
    similarity = drawer.live._similarity
    assert similarity is not None and similarity._shown is not None
    assert similarity._shown.spec.sources["image_url"] == SourceImage()
