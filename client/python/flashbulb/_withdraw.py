"""Requests whose caller went away. Whatever was submitted is cancelled, also where the answer to Submit was never seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from flashbulb._errors import FlashbulbError
from flashbulb._transport import Transport
from flashbulb.v1 import queue_pb2

WITHDRAW_SECONDS = 5.0
"""How long a withdrawal may hold up its caller."""

_log = logging.getLogger("flashbulb")


@dataclass(slots=True)
class Pending:
    """What is known of a request so far: nothing, the message that submits it, its id."""

    submission: queue_pb2.SubmitRequest | None = None
    request_id: str = ""


@asynccontextmanager
async def withdrawing(transport: Transport) -> AsyncIterator[Pending]:
    """Cancels the pending request when the body is cancelled or fails by itself, not when the server says how it ended."""
    pending = Pending()
    try:
        yield pending
    except FlashbulbError:
        raise
    except BaseException:
        if pending.submission is not None:
            await asyncio.shield(_withdraw(transport, pending.submission, pending.request_id))
        raise


async def _withdraw(transport: Transport, submission: queue_pb2.SubmitRequest, request_id: str) -> None:
    try:
        async with asyncio.timeout(WITHDRAW_SECONDS):
            if not request_id:
                # The server may have stored it: the same key finds it, or stores it now, and then it is cancelled.
                request_id = (await transport.call(transport.queue.Submit, submission)).request.request_id
            await transport.call(transport.queue.Cancel, queue_pb2.CancelRequest(request_id=request_id))
    except (FlashbulbError, TimeoutError) as error:
        _log.warning("an abandoned request was not cancelled", extra={"request_id": request_id, "error": str(error)})
