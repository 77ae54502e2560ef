"""What fal's request headers say of how a call is to be served."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request

from flashbulb_server.api.http.lifecycle import PREFERENCE, lifetime_in
from flashbulb_server.core.requests import Priority
from flashbulb_server.core.submission import Submission
from flashbulb_server.errors import FieldViolation, InvalidRequest

START_TIMEOUTS = ("x-fal-request-start-timeout", "x-fal-request-timeout")
"""Seconds in which a call is to be started; the first that is given counts."""

_YES = ("1", "true", "yes")
_PRIORITIES: Mapping[str, Priority] = {priority.value: priority for priority in Priority}


STORE_NOTHING_SECONDS = 3600.0
"""How long an outcome is kept that is not to be stored: it must be there to be fetched."""


def submission_of(request: Request) -> tuple[Submission, list[FieldViolation]]:
    """How to queue a request, or to draw at once, and everything that is wrong with it."""
    headers, query = request.headers, request.query_params
    problems: list[FieldViolation] = []
    keep = _lifetime(headers.get(PREFERENCE), problems)
    if headers.get("x-fal-store-io", "").strip() == "0":
        keep = min(keep or STORE_NOTHING_SECONDS, STORE_NOTHING_SECONDS)
    submission = Submission(
        priority=_PRIORITIES.get(headers.get("x-fal-queue-priority", "").lower(), Priority.NORMAL),
        idempotency_key=headers.get("idempotency-key", "").strip(),
        start_timeout=_start_timeout(headers, problems),
        runner_hint=headers.get("x-fal-runner-hint", "").strip(),
        webhook_url=query.get("fal_webhook", "").strip(),
        no_retry=headers.get("x-fal-no-retry", "").strip().lower() in _YES,
        keep=keep,
        max_waiting=_whole(query.get("fal_max_queue_length"), problems),
    )
    return submission, problems + submission.problems()


def _start_timeout(headers: Headers, problems: list[FieldViolation]) -> float | None:
    text = next((headers[name] for name in START_TIMEOUTS if headers.get(name)), None)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        problem = f"must be a number of seconds, not {text[:40]!r}"
        problems.append(FieldViolation("start_timeout", problem, "float_type"))
        return None
    return seconds


def _lifetime(text: str | None, problems: list[FieldViolation]) -> float | None:
    """Seconds that an outcome and its links are wanted for. Links are secret, and all that have one may read."""
    if not text:
        return None
    try:
        return lifetime_in(text, PREFERENCE)
    except InvalidRequest as err:
        problems += [FieldViolation("keep", violation.description, "json_invalid") for violation in err.violations]
        return None


def _whole(text: str | None, problems: list[FieldViolation]) -> int | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        problems.append(FieldViolation("max_waiting", f"must be a whole number, not {text[:40]!r}", "int_type"))
        return None
