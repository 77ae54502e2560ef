"""When a call is made again, and after how long. Knows errors, not calls.

1. A call that may run twice is repeated after any Unavailable, and after a Busy with which the server named a delay.
2. A call that must not run twice is repeated only if the server says that it did not start it, and when to come back.
3. The server's delay is never cut short. Without one, the pause doubles from 0.1 s to 5 s; both get a little jitter, so that callers
   that failed together do not come back together.
4. When the next attempt would start after the deadline, the last error is raised at once.

Source of 1 and 3: AIP-194, google.rpc.RetryInfo.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flashbulb._errors import Busy, FlashbulbError, Unavailable

T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
NOT_STARTED = frozenset({"QUEUE_FULL", "WORKERS_BUSY", "DRAINING"})
"""Reasons with which the server refuses work before it starts any. Not NO_WORKER, which also says that a worker was lost while drawing,
and not STORE_UNAVAILABLE, which may come after the drawing."""


def pause(error: FlashbulbError, attempt: int, *, repeatable: bool) -> float | None:
    """Seconds to wait before the next attempt, None if there must be none. `attempt` counts the failed ones, from 0."""
    if not isinstance(error, Busy | Unavailable):
        return None
    if error.retry_after is None and (isinstance(error, Busy) or not repeatable):
        return None
    if not repeatable and error.reason not in NOT_STARTED:
        return None
    return _jittered(error.retry_after, attempt)


def _jittered(retry_after: float | None, attempt: int) -> float:
    backoff: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16))
    if retry_after is not None:
        return retry_after + backoff * random.uniform(0, 0.5)
    return backoff * random.uniform(0.5, 1)


async def retry(attempt: Callable[[], Awaitable[T]], *, repeatable: bool, deadline: float) -> T:
    """The outcome of the first attempt that is not to be repeated. `deadline` is a `time.monotonic()`."""
    failed = 0
    while True:
        try:
            return await attempt()
        except FlashbulbError as error:
            delay = pause(error, failed, repeatable=repeatable)
            if delay is None or time.monotonic() + delay >= deadline:
                raise
        failed += 1
        await asyncio.sleep(delay)
