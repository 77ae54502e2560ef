"""What surrounds every call over HTTP: its id, and how errors leave. Statuses and bodies are those of wire.fal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.api.stand_ins import STAND_IN
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.errors import FlashbulbError, StartTimeout
from flashbulb_server.wire.fal import FAULT, error_json, plain

REQUEST_ID = "x-fal-request-id"
NEEDS_RETRY = ("x-fal-needs-retry", "x-fal-retryable")
ERROR_TYPE = "x-fal-error-type"
TIMEOUT_TYPE = "x-fal-request-timeout-type"
EXPOSED_HEADERS = (
    *(REQUEST_ID, TIMEOUT_TYPE, ERROR_TYPE, "x-fal-billable-units", *NEEDS_RETRY, "retry-after", "etag", STAND_IN),
)
"""What a page of another origin may read of an answer."""

_log = logging.getLogger(__name__)


class Answering:
    """Gives every answer an id, and turns errors into answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message["headers"] = list(message.get("headers", ()))
                if not any(name == b"x-fal-request-id" for name, _ in headers):
                    headers.append((b"x-fal-request-id", new_request_id(time.time()).encode()))
            await send(message)

        scope["app"] = self  # starlette's routes then raise for what they do not have
        state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001  # the edge: every error gets an answer
            if started:  # uvicorn breaks the connection off: nobody takes a part for the whole
                told(error)
                _log.info("an answer was broken off", extra={"problem": type(error).__name__})
                return
            status, body, more = told(error, state.get("given"))
            await json_answer(body, status, more)(scope, receive, answer)


def told(error: Exception, given: object = None) -> tuple[int, Mapping[str, object], dict[str, str]]:
    """Status, body and headers of an error. `given`: the input, if it was read."""
    match error:
        case Problem():
            return error.status, error.body, {ERROR_TYPE: error.error_type, **_retry(None), **error.headers}
        case FlashbulbError():
            status, body = error_json(error, given)
            headers = {ERROR_TYPE: _type_in(body), **_retry(error.retry_after)}
            if isinstance(error, StartTimeout):
                headers[TIMEOUT_TYPE] = "user"
            return status, body, headers
        case HTTPException():
            error_type = "not_found" if error.status_code == 404 else "bad_request"
            headers = {ERROR_TYPE: error_type, **_retry(None), **(error.headers or {})}
            return error.status_code, plain(str(error.detail), error_type), headers
        case _:
            _log.error("unexpected error", exc_info=error)
            return (
                FAULT.status,
                plain("a fault of the server", FAULT.error_type),
                {ERROR_TYPE: FAULT.error_type, **_retry(None)},
            )


def headers_of_failure(status: int, body: Mapping[str, object]) -> dict[str, str]:
    """Headers of the answer with a request's failure."""
    headers = {ERROR_TYPE: _type_in(body), **_retry(None)}
    if status == 504:
        headers[TIMEOUT_TYPE] = "user"
    return headers


def _type_in(body: Mapping[str, object]) -> str:
    details = body.get("detail")
    if isinstance(details, list):
        return str(details[0]["type"]) if details else "value_error"
    return str(body.get("error_type", FAULT.error_type))


def _retry(after: float | None) -> dict[str, str]:
    """Whether trying again can help. fal's clients go by the status; Retry-After is for others."""
    headers = dict.fromkeys(NEEDS_RETRY, "0" if after is None else "1")
    if after is not None:
        headers["retry-after"] = str(max(1, round(after)))
    return headers
