"""Records of requests and idempotency keys in JetStream's key-value buckets. A record changes by compare-and-set only.

A record that cannot be read stays where it is: a damaged one is told of and kept among the dead letters as well, one of a newer release is left
to that. Whatever a newer release wrote into a record stays in it when this one changes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.core.requests import Request
from flashbulb_server.errors import DataUnreadable, NewerRelease, RequestNotFound
from flashbulb_server.messaging.connection import REQUEST_SECONDS, WRONG_LAST_SEQUENCE, unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind, Letter, dead_letters
from flashbulb_server.messaging.scan import Found, scan
from flashbulb_server.messaging.topology import IDEMPOTENCY, REQUESTS
from flashbulb_server.wire.records import decode_request, encode_change, encode_request
from flashbulb_server.wire.unreadable import Unreadable, name_in, parse


class RevisionConflict(Exception):
    """Somebody else changed the record meanwhile."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A request, the revision at which it was read, and the record itself."""

    request: Request
    revision: int
    data: bytes = field(repr=False)


class RequestRecords:
    """The records. Every method raises StoreUnavailable when NATS does not answer. `clock` gives unix seconds."""

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        *,
        clock: Callable[[], float] = time.time,
        dead: DeadLetters | None = None,
    ) -> None:
        self._nc = nc
        self._js = js
        self._clock = clock
        self._dead = dead or DeadLetters(js)

    async def create(self, request: Request) -> Stored:
        """Stores a new request. Raises RevisionConflict if the id exists."""
        return await self._put(request, 0, encode_request(request))

    async def get(self, owner: str, request_id: str) -> Stored:
        """The owner's request. Raises RequestNotFound, also for another owner's; DataUnreadable, NewerRelease."""
        subject = _subject(owner, request_id)
        try:
            with unavailable():
                message = await self._js.get_last_msg(f"KV_{REQUESTS}", subject, direct=True)
        except NotFoundError as err:
            raise RequestNotFound(request_id) from err
        if not message.data:  # a marker of a record that was deleted or has expired
            raise RequestNotFound(request_id)
        return await self._read(Found(message.seq or 0, subject, message.data))

    async def confirm(self, stored: Stored) -> Stored:
        """Stores the same again, so that nobody who read it before can `forget` it. Raises RevisionConflict."""
        return await self._put(stored.request, stored.revision, stored.data)

    async def replace(self, stored: Stored, request: Request) -> Stored:
        """Stores the next state of a request. Raises RevisionConflict if it changed since it was read."""
        return await self._put(request, stored.revision, encode_change(stored.data, stored.request, request))

    async def change(
        self, owner: str, request_id: str, change: Callable[[Request], Request]
    ) -> tuple[Request, Request]:
        """Applies `change` to what is stored, again after every conflict. Gives the request before and after.

        Raises RequestNotFound, DataUnreadable, NewerRelease, and whatever `change` raises (IllegalChange).
        """
        while True:
            stored = await self.get(owner, request_id)
            try:
                return stored.request, (await self.replace(stored, change(stored.request))).request
            except RevisionConflict:
                continue

    async def forget(self, stored: Stored) -> bool:
        """Removes a record if it is still what was read. Gives whether it was."""
        subject = _subject(stored.request.owner, stored.request.request_id)
        return await _purge(self._nc, f"KV_{REQUESTS}", subject, stored.revision)

    async def ids(self, owner: str) -> list[str]:
        """Ids of the owner's requests, newest first. Some may have expired meanwhile."""
        prefix = f"$KV.{REQUESTS}.{owner}."
        with unavailable():
            info = await self._js.stream_info(f"KV_{REQUESTS}", subjects_filter=f"{prefix}>")
        return sorted((subject.removeprefix(prefix) for subject in info.state.subjects or {}), reverse=True)

    async def written_after(self, revision: int) -> AsyncIterator[Stored]:
        """Every request that was written after a revision and not since, and can be read, in that order."""
        async for stored in self._readable(f"$KV.{REQUESTS}.>", revision):
            yield stored

    async def named(self, request_id: str) -> Stored | None:
        """The request of that id, whoever owns it, if there is one that can be read."""
        async for stored in self._readable(f"$KV.{REQUESTS}.*.{request_id}", 0):
            return stored
        return None

    async def bereft(self, kind: Kind, after: int) -> AsyncIterator[tuple[int, Stored | None]]:
        """The requests whose messages of a kind were set aside, by the sequences of those among the dead letters, after a sequence.

        None: there is no request that can be read.
        """
        async for sequence, subject in dead_letters(self._nc, kind, after=after):
            yield sequence, await self.named(subject.rpartition(".")[2])

    async def _readable(self, subject: str, after: int) -> AsyncIterator[Stored]:
        async for found in scan(self._nc, f"KV_{REQUESTS}", subject, after=after):
            if not found.data:
                continue
            try:
                stored = await self._read(found)
            except (DataUnreadable, NewerRelease):  # whoever asks for it is told
                continue
            yield stored

    async def _read(self, found: Found) -> Stored:
        """Raises DataUnreadable, NewerRelease."""
        try:
            request = decode_request(found.data)
            if found.subject != _subject(request.owner, request.request_id):
                raise Unreadable("it is another request's")
        except Unreadable as err:
            if not err.newer:
                await self._dead.set_aside(Letter(Kind.RECORD, found.subject, found.data, found.sequence), err)
            raise err.told(f"the record of request {found.subject.rpartition('.')[2]!r}") from err
        return Stored(request, found.sequence, found.data)

    async def _put(self, request: Request, revision: int, data: bytes) -> Stored:
        headers: dict[str, str] = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision)}
        try:
            with unavailable():
                ack = await self._js.publish(
                    _subject(request.owner, request.request_id),
                    data,
                    headers=headers,
                    msg_ttl=self._ttl(request),
                )
        except APIError as err:
            if err.err_code in WRONG_LAST_SEQUENCE:
                raise RevisionConflict from err
            raise
        return Stored(request, ack.seq, data)

    def _ttl(self, request: Request) -> float | None:
        """Seconds that a record is still kept: a terminal one is written again when its webhook fares on, and is not to live longer for it."""
        if not request.state.terminal:
            return None
        return max(1.0, request.expire_time - max(self._clock(), request.end_time))


def _subject(owner: str, request_id: str) -> str:
    return f"$KV.{REQUESTS}.{owner}.{request_id}"


@dataclass(frozen=True, slots=True)
class Binding:
    """What an idempotency key is bound to. `claimed`: by this very call. `digest` is that of the input that it was bound with."""

    owner: str
    token: str
    request_id: str
    digest: bytes
    revision: int
    claimed: bool


class IdempotencyKeys:
    """Which request an idempotency key made. `token` is a key that is safe in a subject. Every method raises StoreUnavailable."""

    def __init__(self, nc: Client, js: JetStreamContext, dead: DeadLetters | None = None) -> None:
        self._nc = nc
        self._js = js
        self._dead = dead or DeadLetters(js)

    async def claim(self, owner: str, token: str, request_id: str, digest: bytes) -> Binding:
        """Binds the key to a request if it is free. Gives what it is bound to.

        Raises DataUnreadable if that cannot be read: nothing may be drawn then, for it may be drawn already.
        """
        wanted = Binding(owner, token, request_id, digest, 0, claimed=True)
        while True:
            if bound := await self._bind(wanted):
                return bound
            try:
                with unavailable():
                    message = await self._js.get_last_msg(f"KV_{IDEMPOTENCY}", _key_subject(owner, token), direct=True)
            except NotFoundError:
                continue  # released, or expired, a moment ago
            return await self._read(owner, token, message.data or b"", message.seq or 0)

    async def keep(self, binding: Binding) -> bool:
        """Sees to it that the call that bound the key cannot release it any more. Gives whether it had not by now."""
        return await self._bind(binding) is not None

    async def release(self, binding: Binding) -> bool:
        """Frees a key that this call has claimed, unless another call has kept it meanwhile. Gives whether it is free."""
        subject = _key_subject(binding.owner, binding.token)
        return await _purge(self._nc, f"KV_{IDEMPOTENCY}", subject, binding.revision)

    async def _read(self, owner: str, token: str, data: bytes, revision: int) -> Binding:
        try:
            entry = parse(record_pb2.IdempotencyEntry, data)
            request_id = name_in(entry.request_id, "request_id")
        except Unreadable as err:
            await self._dead.set_aside(Letter(Kind.KEY, _key_subject(owner, token), data, revision), err)
            raise err.told("what is stored of the idempotency key") from err
        return Binding(owner, token, request_id, entry.input_digest, revision, claimed=False)

    async def _bind(self, binding: Binding) -> Binding | None:
        """Stores a binding in place of its own revision; None if that is not the last one."""
        entry = record_pb2.IdempotencyEntry(request_id=binding.request_id, input_digest=binding.digest)
        try:
            with unavailable():
                ack = await self._js.publish(
                    _key_subject(binding.owner, binding.token),
                    entry.SerializeToString(),
                    headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(binding.revision)},
                )
        except APIError as err:
            if err.err_code not in WRONG_LAST_SEQUENCE:
                raise
            return None
        return replace(binding, revision=ack.seq)


def _key_subject(owner: str, token: str) -> str:
    return f"$KV.{IDEMPOTENCY}.{owner}.{token}"


async def _purge(nc: Client, stream: str, subject: str, revision: int) -> bool:
    """Removes what stands under a subject if it is not newer than a revision. Gives whether anything was removed."""
    query = json.dumps({"filter": subject, "seq": revision + 1}).encode()
    with unavailable():
        reply = json.loads((await nc.request(f"$JS.API.STREAM.PURGE.{stream}", query, timeout=REQUEST_SECONDS)).data)
        if "error" in reply:
            raise APIError.from_error(reply["error"])
    return int(reply.get("purged", 0)) > 0
