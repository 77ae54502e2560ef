"""Reads many messages of a stream at once, by batched direct get (NATS ADR-31). A batch costs one request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import NamedTuple

from nats.aio.client import Client
from nats.errors import NoRespondersError

from flashbulb_server.messaging.connection import REQUEST_SECONDS, unavailable

_BATCH = 256
_STATUS = "Status"  # header of the reply that ends a batch
_NO_RESPONDERS = "503"  # of that header: no server has the stream now


class Found(NamedTuple):
    """A message of a stream."""

    sequence: int
    subject: str
    data: bytes


async def scan(nc: Client, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Found]:
    """Every message of the subject after a sequence, in order. Raises StoreUnavailable."""
    while True:
        batch = await _batch(nc, stream, subject, after)
        for found in batch:
            yield found
        if len(batch) < _BATCH:
            return
        after = batch[-1].sequence


async def _batch(nc: Client, stream: str, subject: str, after: int) -> list[Found]:
    query = json.dumps({"seq": after + 1, "next_by_subj": subject, "batch": _BATCH}).encode()
    batch: list[Found] = []
    with unavailable():
        inbox = nc.new_inbox()
        replies = await nc.subscribe(inbox, max_msgs=_BATCH + 1)
        try:
            await nc.publish(f"$JS.API.DIRECT.GET.{stream}", query, reply=inbox)
            while True:
                reply = await replies.next_msg(timeout=REQUEST_SECONDS)
                headers = reply.headers or {}
                if headers.get(_STATUS) == _NO_RESPONDERS:
                    raise NoRespondersError
                if _STATUS in headers or "Nats-Sequence" not in headers:
                    return batch
                batch.append(Found(int(headers["Nats-Sequence"]), headers["Nats-Subject"], reply.data))
        finally:
            await replies.unsubscribe()
