"""Records of requests and idempotency keys in JetStream's key-value buckets. A record changes by compare-and-set only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.core.requests import Request
from flashbulb_server.errors import RequestNotFound
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import IDEMPOTENCY, REQUESTS
from flashbulb_server.wire.records import decode_request, encode_request

_WRONG_LAST_SEQUENCE = (10071, 10164)


class RevisionConflict(Exception):
    """Somebody else changed the record meanwhile."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A request and the revision at which it was read."""

    request: Request
    revision: int


class RequestRecords:
    """The records. Every method raises StoreUnavailable when NATS does not answer. `clock` gives unix seconds."""

    def __init__(self, nc: Client, js: JetStreamContext, *, clock: Callable[[], float] = time.time) -> None:
        self._nc = nc
        self._js = js
        self._clock = clock

    async def create(self, request: Request) -> Stored:
        """Stores a new request. Raises RevisionConflict if the id exists."""
        return await self._put(request, 0)

    async def get(self, owner: str, request_id: str) -> Stored:
        """The owner's request. Raises RequestNotFound, also for another owner's."""
        try:
            with unavailable():
                message = await self._js.get_last_msg(
                    f"KV_{REQUESTS}", f"$KV.{REQUESTS}.{owner}.{request_id}", direct=True
                )
        except NotFoundError as err:
            raise RequestNotFound(request_id) from err
        if not message.data:  # a marker of a record that was deleted or has expired
            raise RequestNotFound(request_id)
        return Stored(decode_request(message.data), message.seq or 0)

    async def replace(self, stored: Stored, request: Request) -> Stored:
        """Stores the next state of a request. Raises RevisionConflict if it changed since it was read."""
        return await self._put(request, stored.revision)

    async def change(
        self, owner: str, request_id: str, change: Callable[[Request], Request]
    ) -> tuple[Request, Request]:
        """Applies `change` to what is stored, again after every conflict. Gives the request before and after.

        Raises RequestNotFound, and whatever `change` raises (IllegalChange).
        """
        while True:
            stored = await self.get(owner, request_id)
            try:
                return stored.request, (await self.replace(stored, change(stored.request))).request
            except RevisionConflict:
                continue

    async def forget(self, owner: str, request_id: str) -> None:
        """Removes a record. Idempotent."""
        with unavailable():
            await self._js.purge_stream(f"KV_{REQUESTS}", subject=f"$KV.{REQUESTS}.{owner}.{request_id}")

    async def ids(self, owner: str) -> list[str]:
        """Ids of the owner's requests, newest first. Some may have expired meanwhile."""
        prefix = f"$KV.{REQUESTS}.{owner}."
        with unavailable():
            info = await self._js.stream_info(f"KV_{REQUESTS}", subjects_filter=f"{prefix}>")
        return sorted((subject.removeprefix(prefix) for subject in info.state.subjects or {}), reverse=True)

    async def written_after(self, revision: int) -> AsyncIterator[Stored]:
        """Every request that was written after a revision and not since, in that order."""
        async for sequence, data in scan(self._nc, f"KV_{REQUESTS}", f"$KV.{REQUESTS}.>", after=revision):
            if data:
                yield Stored(decode_request(data), sequence)

    async def _put(self, request: Request, revision: int) -> Stored:
        headers: dict[str, str] = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision)}
        try:
            with unavailable():
                ack = await self._js.publish(
                    f"$KV.{REQUESTS}.{request.owner}.{request.request_id}",
                    encode_request(request),
                    headers=headers,
                    msg_ttl=self._ttl(request),
                )
        except APIError as err:
            if err.err_code in _WRONG_LAST_SEQUENCE:
                raise RevisionConflict from err
            raise
        return Stored(request, ack.seq)

    def _ttl(self, request: Request) -> float | None:
        """Seconds that a record is still kept: a terminal one is written again when its webhook fares on, and is not to live longer for it."""
        if not request.state.terminal:
            return None
        return max(1.0, request.expire_time - max(self._clock(), request.end_time))


class IdempotencyKeys:
    """Which request an idempotency key made. `token` is a key that is safe in a subject."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def claim(self, owner: str, token: str, request_id: str, digest: bytes) -> tuple[str, bytes]:
        """Binds the key to a request if it is free. Gives the request id and input digest that it is bound to.

        Raises StoreUnavailable.
        """
        subject = f"$KV.{IDEMPOTENCY}.{owner}.{token}"
        entry = record_pb2.IdempotencyEntry(request_id=request_id, input_digest=digest)
        while True:
            try:
                with unavailable():
                    await self._js.publish(
                        subject, entry.SerializeToString(), headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
                    )
                return request_id, digest
            except APIError as err:
                if err.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
            try:
                with unavailable():
                    message = await self._js.get_last_msg(f"KV_{IDEMPOTENCY}", subject, direct=True)
            except NotFoundError:
                continue  # released, or expired, a moment ago
            bound = record_pb2.IdempotencyEntry.FromString(message.data or b"")
            return bound.request_id, bound.input_digest

    async def release(self, owner: str, token: str) -> None:
        """Frees a key whose request was refused. Idempotent."""
        with unavailable():
            await self._js.purge_stream(f"KV_{IDEMPOTENCY}", subject=f"$KV.{IDEMPOTENCY}.{owner}.{token}")
