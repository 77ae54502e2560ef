"""Where a request of the queue stands, as fal's clients read it: three states, and the outcome beside them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.errors import REQUEST_ID
from flashbulb_server.api.http.webhooks import iso, webhook_json
from flashbulb_server.api.queueing import CancelReceipt, RequestView
from flashbulb_server.api.watching import Seen
from flashbulb_server.core.generation import PreviewImage, Progress
from flashbulb_server.core.requests import LogLine, State
from flashbulb_server.wire.fal import data_uri, failure_json

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"
_STATES: Mapping[State, str] = {State.QUEUED: IN_QUEUE, State.RUNNING: IN_PROGRESS}
_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of one request."""

    request_id: str
    response_url: str

    def json(self) -> dict[str, object]:
        """The parts of every answer about the request."""
        return {
            "request_id": self.request_id,
            "response_url": self.response_url,
            "status_url": f"{self.response_url}/status",
            "cancel_url": f"{self.response_url}/cancel",
        }


def links_of(base: str, address: str, request_id: str) -> Links:
    """As fal's clients build them themselves: of the endpoint's address, owner and alias alone are part."""
    owner, alias = address.split("/")[:2]
    return Links(request_id, f"{base}/{owner}/{alias}/requests/{request_id}")


def wants_logs(request: Request) -> bool:
    """Whether log lines are asked for; clients write it in four ways."""
    return _asked(request, "logs")


def wants_previews(request: Request) -> bool:
    """Whether a stream should hold previews, which fal's clients do not know: a data URI in `preview`."""
    return _asked(request, "previews")


def submitted_json(view: RequestView, links: Links) -> dict[str, object]:
    """The answer to a submission."""
    return {
        **status_json(view, links, logs=None),
        "status": IN_QUEUE,  # whatever has become of it by now, and of one that was submitted before
        "gateway_request_id": links.request_id,
        "queue_position": view.position or 0,
    }


def status_json(view: RequestView, links: Links, *, logs: Sequence[LogLine] | None) -> dict[str, object]:
    """The state with all that clients look for in it. `logs` None: they are not wanted."""
    request = view.request
    status = _STATES.get(request.state, COMPLETED)
    body: dict[str, object] = {
        "status": status,
        **links.json(),
        "logs": None if logs is None else [log_json(line) for line in logs],
        "metrics": {},
        "state": request.state.value,
    }
    if status == IN_QUEUE:
        body["queue_position"] = view.position or 0
    if view.eta is not None:
        body["eta"] = round(view.eta, 3)
    if view.progress is not None and request.attempt:
        body["progress"] = {"step": view.progress.step, "total_steps": view.progress.total_steps}
    if request.state.terminal:
        if request.start_time:
            body["metrics"] = {"inference_time": round(max(0.0, request.end_time - request.start_time), 3)}
        body["outcome"] = "OK" if request.failure is None else "ERROR"
    if request.webhook is not None:
        body["webhook"] = webhook_json(request.webhook)
    if request.failure is not None:
        body["error"] = request.failure.message
        body["error_type"] = _error_type(failure_json(request.failure)[1])
    return body


def status_answer(view: RequestView, links: Links, *, logs: bool) -> Response:
    """The answer to a poll: 202 while there is something to wait for."""
    body = status_json(view, links, logs=view.logs if logs else None)
    status = 200 if view.request.state.terminal else 202
    return json_answer(body, status, {REQUEST_ID: links.request_id})


async def told_events(
    watch: AsyncGenerator[Seen, None], links: Links, *, logs: bool
) -> AsyncGenerator[Mapping[str, object], None]:
    """The states that a watch sees. Each has the log lines alone that none before it had: clients put them behind one another."""
    view: RequestView | None = None
    sent: set[LogLine] = set()
    waiting: list[LogLine] = []
    async with aclosing(watch) as seen_all:
        async for seen in seen_all:
            more: dict[str, object] = {}
            match seen.body:
                case RequestView():
                    view = seen.body
                    if view.request.state.terminal:
                        waiting += [line for line in view.logs if line not in sent]
                case LogLine():
                    waiting.append(seen.body)
                    sent.add(seen.body)
                case Progress() if view is not None:
                    view = replace(view, progress=seen.body)
                case PreviewImage():
                    more["preview"] = data_uri(seen.body.content, "image/jpeg")
                case _:
                    continue
            if view is not None:
                yield status_json(view, links, logs=waiting if logs else None) | more
                waiting.clear()


def cancelled_json(receipt: CancelReceipt) -> tuple[dict[str, object], int]:
    """The answer to a cancellation, and its status."""
    if receipt.previous_state.terminal:
        return {"status": "ALREADY_COMPLETED"}, 400
    return {
        "status": "CANCELLATION_REQUESTED",
        "stopped_at_step": receipt.stopped_at_step,
        "saved_steps": receipt.saved_steps,
    }, 202


def log_json(line: LogLine) -> dict[str, object]:
    """A log line."""
    return {"message": line.message, "timestamp": iso(line.time), "level": line.level.value, "source": "USER"}


def _asked(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in _TRUE


def _error_type(body: Mapping[str, object]) -> str:
    details = body.get("detail")
    return str(details[0]["type"]) if isinstance(details, list) and details else str(body.get("error_type", ""))
