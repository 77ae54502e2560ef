"""The life of a request: every change in every state, fencing, sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbulb_server.core import requests
from flashbulb_server.core.generation import GenerationResult
from flashbulb_server.core.requests import (
    MAX_LOG_LINES,
    Change,
    Failure,
    IllegalChange,
    LogLevel,
    LogLine,
    Priority,
    Request,
    State,
)
from flashbulb_server.core.webhooks import DeliveryState, Webhook
from flashbulb_server.errors import RequestCancelled, StartTimeout, WorkerLost
from tests.specs import make_spec

SPEC = make_spec(num_inference_steps=4)
RESULT = GenerationResult(SPEC, (), (), "EXACT", 1.0)
LOST, STOPPED, LATE = (Failure.of(e) for e in (WorkerLost(3), RequestCancelled(2, 4), StartTimeout(5.0)))
PER_ATTEMPT = 2**20
KEEP = 60.0


def make_request(state: State = State.QUEUED, **values) -> Request:
    """A request in a state that it reached legally."""
    queued = Request("id", "demo", SPEC, State.QUEUED, Priority.NORMAL, create_time=1.0, start_deadline=11.0)
    queued = replace(queued, webhook=WEBHOOK)
    running = requests.start(queued, worker_id="w1", now=2.0)
    made = {
        State.QUEUED: lambda: queued,
        State.RUNNING: lambda: running,
        State.SUCCEEDED: lambda: requests.succeed(running, RESULT, attempt=1, now=3.0, keep=KEEP),
        State.FAILED: lambda: requests.fail(running, LOST, now=3.0, keep=KEEP),
        State.CANCELLED: lambda: requests.cancel(running, STOPPED, now=3.0, keep=KEEP, steps_done=2),
        State.EXPIRED: lambda: requests.expire(queued, LATE, now=12.0, keep=KEEP),
    }
    return replace(made[state](), **values)


@pytest.mark.parametrize(("wish", "kept"), [(0.0, KEEP), (10.0, 10.0), (KEEP + 1, KEEP)])
def test_an_outcome_is_kept_no_longer_than_was_asked_for(wish, kept):
    running = make_request(State.RUNNING, keep=wish, webhook=None)
    ended = requests.succeed(running, RESULT, attempt=1, now=3.0, keep=KEEP)
    assert ended.expire_time == 3.0 + kept


def test_an_outcome_is_kept_for_its_webhook():
    running = make_request(State.RUNNING, keep=10.0)
    assert requests.fail(running, LOST, now=3.0, keep=KEEP).expire_time == 3.0 + KEEP


CHANGES: dict[Change, Callable[[Request], Request]] = {
    Change.START: lambda r: requests.start(r, worker_id="w2", now=20.0),
    Change.SUCCEED: lambda r: requests.succeed(r, RESULT, attempt=r.attempt, now=20.0, keep=KEEP),
    Change.FAIL: lambda r: requests.fail(r, LOST, now=20.0, keep=KEEP),
    Change.CANCEL: lambda r: requests.cancel(r, STOPPED, now=20.0, keep=KEEP, steps_done=2),
    Change.EXPIRE: lambda r: requests.expire(r, LATE, now=20.0, keep=KEEP),
    Change.DELIVER: lambda r: requests.deliver(r, lambda w: replace(w, state=DeliveryState.DELIVERED)),
}
LEGAL = {
    (State.QUEUED, Change.START): State.RUNNING,
    (State.QUEUED, Change.FAIL): State.FAILED,
    (State.QUEUED, Change.CANCEL): State.CANCELLED,
    (State.QUEUED, Change.EXPIRE): State.EXPIRED,
    (State.RUNNING, Change.START): State.RUNNING,
    (State.RUNNING, Change.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Change.FAIL): State.FAILED,
    (State.RUNNING, Change.CANCEL): State.CANCELLED,
    (State.SUCCEEDED, Change.DELIVER): State.SUCCEEDED,
    (State.FAILED, Change.DELIVER): State.FAILED,
    (State.CANCELLED, Change.DELIVER): State.CANCELLED,
    (State.EXPIRED, Change.DELIVER): State.EXPIRED,
}
WEBHOOK = Webhook("https://example.org/hook")


@pytest.mark.parametrize(("state", "change"), list(itertools.product(State, Change)))
def test_every_change_in_every_state(state, change):
    before = make_request(state)
    assert before.state is state
    if (state, change) not in LEGAL:
        with pytest.raises(IllegalChange) as caught:
            CHANGES[change](before)
        assert (caught.value.request, caught.value.change) == (before, change)
        return
    after = CHANGES[change](before)
    assert after.state is LEGAL[state, change]
    if change is Change.DELIVER:  # beside the state: nothing else of the request changes
        assert after == replace(before, webhook=replace(WEBHOOK, state=DeliveryState.DELIVERED))
        return
    assert after.sequence > before.sequence
    assert (after.request_id, after.owner, after.spec, after.create_time) == ("id", "demo", SPEC, 1.0)
    if after.state.terminal:
        assert (after.end_time, after.expire_time) == (20.0, 20.0 + KEEP)
        assert (after.result is None) != (after.failure is None)
    else:
        assert (after.end_time, after.result, after.failure) == (0.0, None, None)


@pytest.mark.parametrize("state", list(State))
def test_a_terminal_state_never_changes(state):
    leaving = {change for (before, change), after in requests.TRANSITIONS.items() if before is state is not after}
    assert state.terminal == (not leaving)


@pytest.mark.parametrize("state", list(State))
def test_a_webhook_is_owed_from_the_end_until_it_is_delivered_or_given_up(state):
    request = make_request(state)
    assert request.owes_webhook is state.terminal
    assert not replace(request, webhook=None).owes_webhook
    for settled in (DeliveryState.DELIVERED, DeliveryState.GAVE_UP):
        assert not replace(request, webhook=replace(WEBHOOK, state=settled)).owes_webhook


@pytest.mark.parametrize("state", list(State))
def test_a_request_without_a_webhook_has_no_delivery(state):
    with pytest.raises(IllegalChange):
        CHANGES[Change.DELIVER](make_request(state, webhook=None))


def test_a_start():
    queued = make_request()
    running = requests.start(queued, worker_id="w1", now=2.0)
    assert (running.attempt, running.worker_id, running.start_time, running.total_steps) == (1, "w1", 2.0, 4)
    assert queued.state is State.QUEUED  # values do not change, they are replaced
    again = requests.start(running, worker_id="w2", now=9.0)
    assert (again.attempt, again.worker_id, again.start_time) == (2, "w2", 9.0)


def test_ends():
    done = make_request(State.SUCCEEDED)
    assert (done.result, done.steps_done, done.failure) == (RESULT, 4, None)
    stopped = make_request(State.CANCELLED)
    assert (stopped.failure, stopped.steps_done, stopped.total_steps) == (STOPPED, 2, 4)
    assert make_request(State.FAILED).failure == LOST
    assert make_request(State.EXPIRED).failure == LATE


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_worker_that_lost_its_lease_changes_nothing(attempt):
    request = requests.start(make_request(State.RUNNING), worker_id="w2", now=3.0)
    assert request.attempt == 2
    with pytest.raises(IllegalChange, match=r"SUCCEED in state RUNNING \(attempt 2\)"):
        requests.succeed(request, RESULT, attempt=attempt, now=4.0, keep=KEEP)
    with pytest.raises(IllegalChange):
        requests.fail(request, LOST, attempt=attempt, now=4.0, keep=KEEP)
    assert requests.fail(request, LOST, attempt=2, now=4.0, keep=KEEP).state is State.FAILED
    assert requests.fail(request, LOST, now=4.0, keep=KEEP).state is State.FAILED  # no worker is left to tell


def test_a_worker_that_lost_its_lease_says_nothing_of_a_queued_request():
    with pytest.raises(IllegalChange):
        requests.succeed(make_request(), RESULT, attempt=0, now=4.0, keep=KEEP)


@settings(deadline=None, max_examples=50, database=None)
@given(attempts=st.integers(0, 6), events=st.integers(0, 40), end=st.sampled_from(list(Change)))
def test_sequences_grow_over_attempts(attempts, events, end):
    request = make_request()
    seen = [request.sequence]
    for _ in range(attempts):
        request = requests.start(request, worker_id="w", now=2.0)
        seen.append(request.sequence)
        seen += [requests.step_sequence(request.attempt, count) for count in range(1, events + 1)]
    if (request.state, end) in LEGAL:
        request = CHANGES[end](request)
        seen.append(request.sequence)
    if end is Change.DELIVER:
        assert request.webhook == WEBHOOK  # it is legal in terminal states alone
    assert all(a < b for a, b in itertools.pairwise(seen))


def test_the_terminal_event_is_the_last_of_its_attempt():
    running = make_request(State.RUNNING)
    last = requests.fail(running, LOST, now=3.0, keep=KEEP).sequence
    assert requests.step_sequence(1, 10**9) < last
    assert last < requests.start(running, worker_id="w2", now=3.0).sequence == 2 * PER_ATTEMPT


@pytest.mark.parametrize(("now", "late"), [(10.99, False), (11.0, True), (12.0, True)])
def test_a_request_is_overdue_from_its_deadline_on(now, late):
    assert requests.overdue(make_request(), now) is late


@pytest.mark.parametrize("state", [s for s in State if s is not State.QUEUED])
def test_only_a_queued_request_is_overdue(state):
    assert not requests.overdue(make_request(state), 1e12)


@pytest.mark.parametrize("count", [0, 1, MAX_LOG_LINES, MAX_LOG_LINES + 1, 1000])
def test_the_last_lines_of_a_log_are_kept(count):
    lines = tuple(LogLine(float(i), LogLevel.INFO, str(i)) for i in range(count))
    running = make_request(State.RUNNING)
    for ended in (
        requests.succeed(running, RESULT, attempt=1, now=3.0, keep=KEEP, logs=lines),
        requests.fail(running, LOST, now=3.0, keep=KEEP, logs=lines),
        requests.cancel(running, STOPPED, now=3.0, keep=KEEP, logs=lines),
    ):
        assert ended.logs == lines[-100:]


def test_a_failure_is_what_its_error_says():
    error = StartTimeout(5.0)
    assert Failure.of(error) == Failure("START_TIMEOUT", error.message, {"start_timeout": "5"})
