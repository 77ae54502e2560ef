"""The unanswered frames of a session: what is sent, held back, sent again and taken back. Without a network."""

from __future__ import annotations

import pytest

from flashbulb import FieldViolation, InvalidInput
from flashbulb._outbox import WINDOW, Outbox
from flashbulb.v1 import input_pb2

MEMBER = "fast_lcm_text_to_image"


def outbox(newest=True, limit=3, throttle=0.0, **values) -> Outbox:
    return Outbox(MEMBER, values, newest=newest, limit=limit, throttle=throttle)


def take(box, now=0.0):
    """Number and fields of the next frame."""
    assert box.delay(now) == 0
    frame = box.take(now)
    return frame.frame_id, {field.name: value for field, value in getattr(frame.changes, MEMBER).ListFields()}


def test_a_server_that_answers_nothing_costs_a_window_and_one():
    box = outbox()
    for number in range(1, 100):
        replaced = box.put(number, {"seed": number}, 0.0)
        if box.delay(0.0) == 0:
            take(box)
            assert not replaced
    assert box.delay(0.0) is None
    assert box.unanswered == WINDOW + 1
    box.drawn(1)
    assert take(box) == (WINDOW + 1, {"seed": 99})


def test_older_frames_are_not_waited_for_and_may_have_been_refused():
    box = outbox(prompt="a")
    for number in (1, 2, 3):
        box.put(number, {"seed": number}, 0.0)
        take(box)
    frame, silent = box.drawn(3)
    assert (frame.frame_id, silent) == (3, [1, 2])
    box.put(4, {}, 0.0)
    assert take(box) == (4, {"prompt": "a", "seed": 3})


def test_a_known_answer_changes_nothing():
    box = outbox(prompt="a")
    assert box.drawn(7) == (None, [])
    assert box.dropped(7, known=False) == (None, [])
    box.put(1, {}, 0.0)
    assert take(box) == (1, {})


@pytest.mark.parametrize(
    ("newest", "again", "old"), [(True, [{"prompt": "c"}], [1, 2]), (False, [{"prompt": p} for p in "abc"], [])]
)
def test_a_new_connection_gets_everything_under_new_numbers(newest, again, old):
    box = outbox(newest)
    for number, prompt in ((1, "a"), (2, "b")):
        box.put(number, {"prompt": prompt}, 0.0)
        take(box)
    box.put(3, {"prompt": "c"}, 0.0)
    assert box.reopen() == old
    assert [take(box) for _ in again] == [(3 + index, fields) for index, fields in enumerate(again)]
    assert box.unanswered == len(again)


@pytest.mark.parametrize(
    ("newest", "again", "old"),
    [
        (True, {4: {"prompt": "c", "guidance_scale": 2.0, "seed": 1}}, [2]),
        (False, {4: {"prompt": "a", "guidance_scale": 2.0, "seed": 1}, 5: {"prompt": "c"}}, []),
    ],
)
def test_frames_sent_after_a_refused_one_are_sent_again_in_full(newest, again, old):
    box = outbox(newest, prompt="a")
    sent = []
    for number, changes in ((1, {"seed": 1, "num_images": 99}), (2, {"guidance_scale": 2.0}), (3, {"prompt": "c"})):
        box.put(number, changes, 0.0)
        sent.append(take(box))
    assert sent[1:] == [(2, {"guidance_scale": 2.0}), (3, {"prompt": "c"})]
    error = InvalidInput("bad", violations=[FieldViolation("num_images", "")])
    frame, dropped = box.dropped(1, known=False, error=error)
    assert (frame.frame_id, dropped) == (1, old)
    assert [take(box) for _ in again] == list(again.items())
    assert box.drawn(3) == (None, []), "it was drawn without the seed"
    assert box.dropped(2, known=False) == (None, [])
    assert [box.drawn(number)[0].frame_id for number in again] == [2, 3][-len(again) :]
    box.put(4, {}, 0.0)
    assert take(box)[1] == {}


def test_what_waits_goes_in_the_place_of_frames_sent_after_a_refused_one():
    box = outbox(prompt="a")
    for number in (1, 2):
        box.put(number, {"seed": number}, 0.0)
        take(box)
    box.put(3, {"prompt": "c"}, 0.0)
    frame, old = box.dropped(1, known=False)
    assert (frame.frame_id, old) == (1, [2])
    assert take(box) == (3, {"prompt": "c", "seed": 2})
    assert box.delay(0.0) is None


def test_frames_sent_after_one_that_the_server_kept_are_waited_for():
    box = outbox(prompt="a")
    for number in (1, 2):
        box.put(number, {"seed": number}, 0.0)
        take(box)
    frame, old = box.dropped(1, known=True)
    assert (frame.frame_id, old) == (1, [])
    assert box.drawn(2)[0].frame_id == 2


def test_throttle_holds_all_but_the_first():
    box = outbox(throttle=2.0)
    box.put(1, {"seed": 1}, 10.0)
    take(box, 10.0)
    assert box.put(2, {"seed": 2}, 10.5) == []
    assert box.put(3, {"seed": 3}, 11.0) == [2]
    assert box.delay(11.0) == 1.0
    assert take(box, 12.0) == (2, {"seed": 3})
    assert box.delay(12.0) is None


def test_what_was_refused_is_taken_back_unless_it_was_changed_again():
    box = outbox(prompt="good", seed=7)
    box.put(1, {"prompt": "bad", "seed": -1, "num_images": 99}, 0.0)
    take(box)
    box.put(2, {"seed": 8}, 0.0)
    error = InvalidInput("bad", violations=[FieldViolation(name, "") for name in ("seed", "num_images")])
    box.dropped(1, known=False, error=error)
    assert box.values == {"prompt": "bad", "seed": 8}
    assert take(box) == (2, {"prompt": "bad", "seed": 8})


def test_without_a_named_field_all_that_changed_is_taken_back():
    box = outbox(prompt="good")
    box.put(1, {"prompt": "bad", "seed": 3}, 0.0)
    take(box)
    box.dropped(1, known=False, error=InvalidInput("bad"))
    assert box.values == {"prompt": "good"}


def test_lists_and_messages_are_copied():
    values = input_pb2.StableDiffusionV15Input(prompt="a")
    values.loras.add(path="one")
    values.image_size.dimensions.width = 64
    fields = {field.name: value for field, value in values.ListFields()}
    box = Outbox("stable_diffusion_v15", {}, newest=True, limit=3, throttle=0.0)
    box.put(1, fields, 0.0)
    assert box.take(0.0).changes.stable_diffusion_v15 == values
