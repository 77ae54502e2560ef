"""Records, jobs, events and announcements come back from bytes as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbulb.internal.v1 import record_pb2
from flashbulb.v1 import queue_pb2
from flashbulb_server.core import requests
from flashbulb_server.core.generation import DrawnImage, GenerationResult, PreviewImage, Progress, SourceImage
from flashbulb_server.core.requests import Failure, LogLevel, LogLine, Priority, Request, State
from flashbulb_server.errors import RequestCancelled, StartTimeout, WorkerLost
from flashbulb_server.wire.records import (
    Announcement,
    Event,
    Job,
    decode_announcement,
    decode_event,
    decode_job,
    decode_request,
    encode_announcement,
    encode_event,
    encode_job,
    encode_request,
    from_priority,
    from_state,
    to_priority,
    to_state,
)
from tests.specs import make_edit_spec, make_spec
from tests.unit.wire.values import SPECS, TEXTS, quick

NOW = 1_700_000_000.123456
SPEC = make_spec(num_images=2)
RESULT = GenerationResult(
    SPEC,
    tuple(DrawnImage("image/png", 512, 512, 64, 64, 10, 7 + i, key=f"demo/r/{i}.png") for i in range(2)),
    (False, True),
    "CLOSE",
    1.5,
    {"inference": 0.5},
)
LOGS = (LogLine(NOW, LogLevel.WARN, "a worker was lost"), LogLine(NOW + 1, LogLevel.INFO, ""))


def every_request() -> list[Request]:
    """A request in every state, and one that was started twice."""
    queued = Request("r", "demo", SPEC, State.QUEUED, Priority.LOW, NOW, NOW + 60, runner_hint="warm")
    running = requests.start(queued, worker_id="w1", now=NOW + 1)
    end = {"now": NOW + 2, "keep": 3600.0}
    lost, stopped, late = (Failure.of(e) for e in (WorkerLost(2), RequestCancelled(2, 4), StartTimeout(60)))
    return [
        queued,
        replace(queued, no_retry=True, keep=600.5),
        running,
        requests.start(running, worker_id="w2", now=NOW + 1.5),
        requests.succeed(running, RESULT, attempt=1, logs=LOGS, **end),
        requests.fail(running, lost, logs=LOGS, **end),
        requests.fail(queued, Failure("X", ""), **end),
        requests.cancel(queued, stopped, **end),
        requests.cancel(running, stopped, steps_done=2, **end),
        requests.expire(queued, late, **end),
    ]


@pytest.mark.parametrize("request_", every_request(), ids=lambda r: f"{r.state}-{r.attempt}")
def test_a_request_comes_back_as_it_was(request_):
    assert decode_request(encode_request(request_)) == request_


def test_a_request_was_tried_in_every_state():
    assert {r.state for r in every_request()} == set(State)


@quick
@given(SPECS, TEXTS, st.floats(1.5e9, 2.5e9))
def test_any_input_comes_back_as_it_was(spec, hint, now):
    request = Request("r", "demo", spec, State.QUEUED, Priority.NORMAL, now, now + 60, runner_hint=hint)
    assert decode_request(encode_request(request)) == request


def test_the_model_that_draws_is_kept_where_the_input_names_none():
    spec = make_edit_spec(SourceImage("https://a.example/b.png"), model_name="some/model")
    request = requests.start(replace(every_request()[0], spec=spec), worker_id="w1", now=NOW + 1)
    done = requests.succeed(request, replace(RESULT, spec=spec), attempt=1, now=NOW + 2, keep=60.0)
    assert decode_request(encode_request(done)) == done


def test_a_record_of_an_earlier_release_names_its_model_in_the_input():
    record = record_pb2.RequestRecord.FromString(encode_request(every_request()[4]))
    record.ClearField("model_name")
    record.output.ClearField("model_name")
    assert decode_request(record.SerializeToString()) == every_request()[4]


def test_a_result_without_pictures_is_a_result():
    done = replace(every_request()[3], result=replace(RESULT, images=(), has_nsfw_concepts=()))
    assert decode_request(encode_request(done)) == done


def test_a_job_comes_back_as_it_was():
    job = Job("r", "demo", NOW, "flashbulb/tiny", 3)
    assert decode_job(encode_job(job)) == job


BODIES = [*State, *LOGS, Progress(0, 4), Progress(4, 4), PreviewImage(0, 0, b""), PreviewImage(1, 2, b"jpeg")]


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_an_event_comes_back_as_it_was(body):
    event = Event(2**40, NOW, body)
    back = decode_event(encode_event(event))
    assert back == event
    assert type(back.body) is type(body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        record_pb2.Event(sequence=3).SerializeToString() + bytes([0xF2, 0x06, 0]),  # member 110
        record_pb2.Event(sequence=3, state=99).SerializeToString(),
        b"\xff",
    ],
)
def test_an_event_of_a_newer_release_and_a_damaged_one_are_none(data):
    assert decode_event(data) is None


@pytest.mark.parametrize("level", [0, 99])
def test_a_line_of_a_level_that_is_not_known_is_shown(level):
    data = record_pb2.Event(sequence=3, log={"level": level, "message": "new"}).SerializeToString()
    assert decode_event(data) == Event(3, 0.0, LogLine(0.0, LogLevel.INFO, "new"))


@pytest.mark.parametrize("draining", [True, False])
def test_an_announcement_comes_back_as_it_was(draining):
    announcement = Announcement("w1", "unix:/run/w1", ("a", "b"), 8, 3, 0.123456789, draining, NOW)
    assert decode_announcement(encode_announcement(announcement)) == announcement


def test_every_state_has_a_number():
    names = {v.name for v in queue_pb2.GenerationRequest.State.DESCRIPTOR.values[1:]}
    assert names == {f"STATE_{state}" for state in State}
    assert [from_state(to_state(state)) for state in State] == list(State)


def test_every_priority_has_a_number():
    assert {v.name for v in queue_pb2.Priority.DESCRIPTOR.values[1:]} == {f"PRIORITY_{p.upper()}" for p in Priority}
    assert [from_priority(to_priority(priority)) for priority in Priority] == list(Priority)
    assert from_priority(queue_pb2.PRIORITY_UNSPECIFIED) is Priority.NORMAL


@pytest.mark.parametrize(("convert", "number"), [(from_state, 0), (from_state, 99), (from_priority, 99)])
def test_unknown_numbers_are_errors(convert, number):
    with pytest.raises(ValueError, match=r"."):
        convert(number)
