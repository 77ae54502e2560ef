"""Webhooks as a record holds them: where the outcome goes, what was tried, when to try again. Pure: times are unix seconds.

1. A delivery is PENDING until an answer is final. 2xx delivers; 3xx and 410 are final refusals; all else is tried again by schedule.
2. `series` fences: a redelivery on demand begins a new one, and whatever comes of an earlier one only goes into the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import urlsplit

MAX_URL_CHARS = 2048
MAX_ATTEMPTS_KEPT = 32
JITTER = 0.1  # share of a delay by which it is made shorter or longer, so that what failed together does not come back together
_GONE = 410
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff\\]")
_PORTS = {"http": 80, "https": 443}


class DeliveryState(StrEnum):
    """States of a delivery."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    GAVE_UP = "GAVE_UP"


class Verdict(StrEnum):
    """What an attempt came to."""

    DELIVERED = "DELIVERED"
    AGAIN = "AGAIN"
    FINAL = "FINAL"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try. `status_code` 0: no answer came. `error` is empty if it was delivered."""

    time: float
    status_code: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook and its delivery. `failures` counts those of this series; `next_attempt_time` 0 is "at once, or not at all"."""

    url: str
    state: DeliveryState = DeliveryState.PENDING
    series: int = 0
    failures: int = 0
    next_attempt_time: float = 0.0
    attempts: tuple[Attempt, ...] = ()


def url_problem(url: str) -> str | None:
    """What is wrong with a URL, as far as can be told without looking up its host."""
    if len(url) > MAX_URL_CHARS:
        return f"has {len(url)} characters, at most {MAX_URL_CHARS} are allowed"
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return "is no valid URL"
    if scheme not in _PORTS:
        return "must be an http or https URL"
    if not host or port == 0 or _UNSAFE.search(url):
        return "is no valid URL"
    if "@" in parts.netloc:
        return "must hold no user name or password"
    return None


def has_target(url: str) -> bool:
    """Whether a URL names a host and a port, as every valid one does."""
    try:
        parts = urlsplit(url)
        return parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Host of a valid URL."""
    return urlsplit(url).hostname or ""


def target_of(url: str) -> str:
    """`host:port` of a valid URL: what takes the load of its deliveries."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"


def judge(status_code: int) -> tuple[Verdict, str]:
    """What a receiver's status means, and why it is no delivery."""
    if 200 <= status_code < 300:
        return Verdict.DELIVERED, ""
    if 300 <= status_code < 400:
        return Verdict.FINAL, f"the receiver answered {status_code}; redirects are not followed"
    if status_code == _GONE:
        return Verdict.FINAL, "the receiver answered 410: it is gone for good"
    return Verdict.AGAIN, f"the receiver answered {status_code}"


def retry_delay(failures: int, delays: Sequence[float], jitter: float) -> float | None:
    """Seconds from the given failure (from 1) to the next attempt, or None if there is none. `jitter` is random in 0..1."""
    if failures > len(delays):
        return None
    return delays[failures - 1] * (1 + JITTER * (2 * jitter - 1))


def attempted(
    webhook: Webhook, series: int, attempt: Attempt, verdict: Verdict, *, now: float, delay: float | None
) -> Webhook:
    """After a try that ended at `now`. `delay` is that of the next one, None if this was the last."""
    kept = (*webhook.attempts, attempt)[-MAX_ATTEMPTS_KEPT:]
    if series != webhook.series or webhook.state is not DeliveryState.PENDING:
        return replace(webhook, attempts=kept)
    if verdict is Verdict.DELIVERED:
        return replace(webhook, state=DeliveryState.DELIVERED, next_attempt_time=0.0, attempts=kept)
    failures = webhook.failures + 1
    if verdict is Verdict.FINAL or delay is None:
        return replace(webhook, state=DeliveryState.GAVE_UP, failures=failures, next_attempt_time=0.0, attempts=kept)
    return replace(webhook, failures=failures, next_attempt_time=now + delay, attempts=kept)


def renewed(webhook: Webhook) -> Webhook:
    """Due again at once, with all its attempts before it."""
    return replace(webhook, state=DeliveryState.PENDING, series=webhook.series + 1, failures=0, next_attempt_time=0.0)
