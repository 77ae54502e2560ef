"""What a webhook carries: the outcome of a request as fal's receivers read it. Pictures go by links made now, never inline."""

from __future__ import annotations

import json
import logging

from flashbulb_server.api.results import Results
from flashbulb_server.core.requests import Request
from flashbulb_server.wire.fal import failure_json, output_json

_log = logging.getLogger(__name__)


class Bodies:
    """Makes bodies."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def make(self, request: Request) -> bytes:
        """The body of an ended request's webhook. Never fails: what cannot be told is named in `payload_error`."""
        names = {"request_id": request.request_id, "gateway_request_id": request.request_id}
        try:
            return _encoded({**names, **self._outcome(request)})
        except Exception:  # noqa: BLE001  # whatever it was, the receiver must hear that the request has ended
            _log.exception("webhook without payload", extra={"request_id": request.request_id})
            status = "OK" if request.failure is None else "ERROR"
            problem = "the payload could not be made; fetch the result by its request id"
            return _encoded({**names, "status": status, "payload": None, "payload_error": problem})

    def _outcome(self, request: Request) -> dict[str, object]:
        if request.result is not None:
            return {"status": "OK", "payload": output_json(self._results.linked(request.result))}
        assert request.failure is not None, "an ended request has an outcome"
        code, payload = failure_json(request.failure)
        return {"status": "ERROR", "error": f"Invalid status code: {code}", "payload": payload}


def _encoded(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
