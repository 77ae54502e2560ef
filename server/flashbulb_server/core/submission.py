"""What a caller may say of a request beyond its input: idempotency key, start timeout, hint, webhook, page. Judged here, for every transport."""

from __future__ import annotations

from dataclasses import dataclass

from flashbulb_server.core.ids import is_request_id
from flashbulb_server.core.requests import Priority, State
from flashbulb_server.core.webhooks import url_problem
from flashbulb_server.errors import FieldViolation, InvalidRequest

MAX_KEY_CHARS = 128
MIN_START_TIMEOUT = 0.1  # seconds
MAX_START_TIMEOUT = 86_400.0
MIN_KEEP = 1.0
MAX_PAGE = 200
DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class Submission:
    """How a request is to be queued. `start_timeout` and `keep` in seconds; empty texts are absent.

    `no_retry`: it is not started again after a worker was lost. `keep`: how long its outcome is kept at most; the server may keep it shorter.
    `max_waiting`: it is refused if so many requests wait already.
    """

    priority: Priority = Priority.NORMAL
    idempotency_key: str = ""
    start_timeout: float | None = None
    runner_hint: str = ""
    webhook_url: str = ""
    no_retry: bool = False
    keep: float | None = None
    max_waiting: int | None = None

    def problems(self) -> list[FieldViolation]:
        """Every bad field."""
        found: list[FieldViolation] = []
        if len(self.idempotency_key) > MAX_KEY_CHARS or not all("!" <= c <= "~" for c in self.idempotency_key):
            found.append(FieldViolation("idempotency_key", f"must be 1 to {MAX_KEY_CHARS} visible ASCII characters"))
        if self.start_timeout is not None and not MIN_START_TIMEOUT <= self.start_timeout <= MAX_START_TIMEOUT:
            found.append(
                FieldViolation("start_timeout", f"must be from {MIN_START_TIMEOUT:g} s to {MAX_START_TIMEOUT:g} s")
            )
        if self.keep is not None and not self.keep >= MIN_KEEP:
            found.append(
                FieldViolation("keep", f"must be {MIN_KEEP:g} s at least", "greater_than_equal", {"ge": MIN_KEEP})
            )
        if self.max_waiting is not None and self.max_waiting < 0:
            found.append(FieldViolation("max_waiting", "must not be negative", "greater_than_equal", {"ge": 0}))
        if self.webhook_url and (problem := url_problem(self.webhook_url)) is not None:
            found.append(FieldViolation("webhook_url", problem))
        return found + hint_problems(self.runner_hint)


def hint_problems(runner_hint: str) -> list[FieldViolation]:
    """What is wrong with a runner hint."""
    if len(runner_hint) > MAX_KEY_CHARS:
        return [
            FieldViolation("runner_hint", f"has {len(runner_hint)} characters, at most {MAX_KEY_CHARS} are allowed")
        ]
    return []


@dataclass(frozen=True, slots=True)
class Page:
    """Which requests to list: at most `size`, those older than `before` (a request id), in `states` if any are named."""

    size: int = DEFAULT_PAGE
    before: str = ""
    states: frozenset[State] = frozenset()


def page(size: int, token: str, states: frozenset[State]) -> Page:
    """A valid page; `size` 0 is the default, more than the most is cut. Raises InvalidRequest."""
    problems = []
    if size < 0:
        problems.append(FieldViolation("page_size", "must not be negative"))
    if token and not is_request_id(token):
        problems.append(FieldViolation("page_token", "is not a token that List returned"))
    if problems:
        raise InvalidRequest(problems)
    return Page(min(size or DEFAULT_PAGE, MAX_PAGE), token, states)
