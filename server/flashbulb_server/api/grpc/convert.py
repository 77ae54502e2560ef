"""Requests of QueueService between protobuf and the use-cases' values. Nothing past here touches a public message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from flashbulb.v1 import queue_pb2
from flashbulb_server.api.queueing import CancelReceipt, RequestView
from flashbulb_server.api.watching import Seen
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import LogLine, Priority, State
from flashbulb_server.core.submission import Page, Submission, page
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.outputs import to_log, to_preview, to_progress
from flashbulb_server.wire.records import from_priority, from_state, to_priority, to_state
from flashbulb_server.wire.status import failure_status
from flashbulb_server.wire.times import from_duration, to_duration, to_timestamp
from flashbulb_server.wire.webhooks import to_delivery

_N = TypeVar("_N", bound=int)
_V = TypeVar("_V")


def to_submission(request: queue_pb2.SubmitRequest) -> tuple[Submission, list[FieldViolation]]:
    """How to queue, and everything that is wrong with it."""
    problems: list[FieldViolation] = []
    submission = Submission(
        priority=_known(from_priority, request.priority, "priority", problems) or Priority.NORMAL,
        idempotency_key=request.idempotency_key,
        start_timeout=from_duration(request.start_timeout) if request.HasField("start_timeout") else None,
        runner_hint=request.runner_hint,
        webhook_url=request.webhook_url,
    )
    return submission, problems + submission.problems()


def to_page(request: queue_pb2.ListRequest) -> Page:
    """Which requests to list. Raises InvalidRequest."""
    problems: list[FieldViolation] = []
    states: list[State] = []
    for number in request.states:
        state = _known(from_state, number, "states", problems)
        if state is not None:
            states.append(state)
    try:
        found = page(request.page_size, request.page_token, frozenset(states))
    except InvalidRequest as err:
        raise InvalidRequest([*problems, *err.violations]) from err
    if problems:
        raise InvalidRequest(problems)
    return found


def from_view(view: RequestView) -> queue_pb2.GenerationRequest:
    """A request as its owner sees it."""
    request = view.request
    message = queue_pb2.GenerationRequest(
        request_id=request.request_id,
        endpoint=request.spec.endpoint,
        model_name=request.spec.model_name,
        state=to_state(request.state),
        priority=to_priority(request.priority),
        queue_position=view.position,
        eta=None if view.eta is None else to_duration(view.eta),
        progress=to_progress(view.progress) if view.progress is not None and request.attempt else None,
        create_time=to_timestamp(request.create_time),
        start_time=to_timestamp(request.start_time),
        end_time=to_timestamp(request.end_time),
        expire_time=to_timestamp(request.expire_time),
        attempt=request.attempt,
        logs=[to_log(line) for line in view.logs],
        webhook=to_delivery(request),
    )
    if request.failure is not None:
        message.error.CopyFrom(failure_status(request.failure))
    return message


def from_seen(seen: Seen) -> queue_pb2.WatchStatusResponse:
    """A message of a watch."""
    message = queue_pb2.WatchStatusResponse(sequence=seen.sequence, event_time=to_timestamp(seen.time))
    match seen.body:
        case RequestView():
            message.request.CopyFrom(from_view(seen.body))
        case LogLine():
            message.log.CopyFrom(to_log(seen.body))
        case Progress():
            message.progress.CopyFrom(to_progress(seen.body))
        case PreviewImage():
            message.preview.CopyFrom(to_preview(seen.body))
        case None:
            message.heartbeat.SetInParent()
    return message


def from_receipt(receipt: CancelReceipt) -> queue_pb2.CancelResponse:
    """A receipt of a cancellation."""
    return queue_pb2.CancelResponse(
        previous_state=to_state(receipt.previous_state),
        request=from_view(RequestView(receipt.request, progress=_progress(receipt))),
        stopped_at_step=receipt.stopped_at_step,
        saved_steps=receipt.saved_steps,
    )


def from_list(views: Sequence[RequestView], next_token: str) -> queue_pb2.ListResponse:
    """A page of requests."""
    return queue_pb2.ListResponse(requests=[from_view(view) for view in views], next_page_token=next_token)


def _progress(receipt: CancelReceipt) -> Progress:
    return Progress(receipt.request.steps_done, receipt.request.total_steps)


def _known(convert: Callable[[_N], _V], number: _N, field: str, problems: list[FieldViolation]) -> _V | None:
    try:
        return convert(number)
    except ValueError:
        problems.append(FieldViolation(field, f"{number} is not a value that this server knows"))
        return None
