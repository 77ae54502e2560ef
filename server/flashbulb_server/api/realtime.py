"""Realtime sessions: who may open one, which are open, and what is kept of one that broke off until its caller comes back."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.connection import Connection, Surroundings
from flashbulb_server.api.generating import Generating
from flashbulb_server.api.session_messages import CloseReason, Incoming, Opened, Opening, Outgoing
from flashbulb_server.api.tokens import Grant
from flashbulb_server.core.realtime import Limits, Session
from flashbulb_server.core.validation import resolve_session
from flashbulb_server.errors import Draining, KeyUnknown, TooManySessions
from flashbulb_server.messaging.fleet import Fleet

RESUME_SECONDS = 60.0
_PARKED = 1000
_PARKED_BYTES = 64 * 1024 * 1024  # of pictures that came inline; the oldest sessions go first


@dataclass(slots=True, eq=False)
class _Kept:
    """A session that can be resumed. `connection` None: between two connections, until `until` (unix seconds)."""

    owner: str
    endpoint: str
    session_id: str
    session: Session[GenerationOutput]
    connection: Connection | None = None
    until: float = 0.0
    taken_over: bool = False


class Realtime:
    """The use-case. `clock` gives unix seconds."""

    def __init__(self, generating: Generating, fleet: Fleet, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._shared = Surroundings(generating, fleet, limits, clock)
        self._live: dict[str, _Kept] = {}  # both by the token that resumes the session
        self._parked: OrderedDict[str, _Kept] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._draining = False

    def drain(self) -> None:
        """Closes every session, so that callers go on at another server."""
        self._draining = True
        for kept in self._live.values():
            if kept.connection is not None:
                kept.connection.close(CloseReason.DRAINING, "the server shuts down", retry_after=0.1)

    def end(self, owners: frozenset[str]) -> None:
        """Ends the sessions of owners whose key is good no more."""
        for kept in self._live.values():
            if kept.owner in owners and kept.connection is not None:
                kept.connection.fail(KeyUnknown())

    async def connect(
        self, grant: Grant, opening: Opening, inputs: AsyncIterator[Incoming]
    ) -> AsyncGenerator[Outgoing, None]:
        """Everything that the session says. Raises InvalidRequest, TokenForbids, TooManySessions, Draining, EndpointUnavailable."""
        if self._draining:
            raise Draining
        grant.check(opening.endpoint)
        found = self._found(grant, opening)
        replaced = found.connection if found is not None else None
        if self._counts[grant.owner] - (replaced is not None) >= self._shared.limits.per_key:
            raise TooManySessions(self._shared.limits.per_key)
        kept = self._open(grant, opening, found)
        token = secrets.token_urlsafe(24)
        connection = kept.connection = Connection(self._shared, grant, opening, kept.session)
        self._counts[grant.owner] += 1
        self._live[token] = kept
        try:
            yield Opened(
                kept.session_id,
                token,
                resolve_session(opening.endpoint, kept.session.values, self._shared.fleet.installed()),
                self._shared.limits.idle_seconds,
            )
            async for message in connection.run(inputs):
                yield message
        finally:
            del self._live[token]
            self._counts[grant.owner] -= 1
            if opening.resumable and not connection.ended_by_caller and not kept.taken_over:
                kept.connection, kept.until = None, self._shared.clock() + RESUME_SECONDS
                self._parked[token] = kept
                self._forget_parked()

    def _found(self, grant: Grant, opening: Opening) -> _Kept | None:
        """The session to go on with. It may be connected still: that a connection broke is known to its caller first."""
        self._forget_parked()
        found = self._parked.get(opening.resume_token) or self._live.get(opening.resume_token)
        return found if found and (found.owner, found.endpoint) == (grant.owner, opening.endpoint) else None

    def _open(self, grant: Grant, opening: Opening, found: _Kept | None) -> _Kept:
        values = found.session.merge(opening.values) if found is not None else dict(opening.values)
        resolve_session(opening.endpoint, values, self._shared.fleet.installed(), also=opening.problems)
        values.setdefault("seed", secrets.randbelow(2**32))  # one for the session: pictures should not flicker
        if found is None:
            return _Kept(grant.owner, opening.endpoint, secrets.token_hex(8), _new_session(values, opening))
        session = found.session.successor()
        session.values = values
        found.taken_over = True
        if found.connection is not None:
            found.connection.close(CloseReason.CLIENT, "the session goes on over another connection")
        self._parked.pop(opening.resume_token, None)
        return _Kept(found.owner, found.endpoint, found.session_id, session)

    def _forget_parked(self) -> None:
        now = self._shared.clock()
        held = sum(kept.session.inline_bytes for kept in self._parked.values())
        while self._parked:
            oldest = next(iter(self._parked.values()))
            if len(self._parked) <= _PARKED and held <= _PARKED_BYTES and oldest.until >= now:
                return
            held -= oldest.session.inline_bytes
            self._parked.popitem(last=False)


def _new_session(values: dict[str, object], opening: Opening) -> Session[GenerationOutput]:
    return Session(
        values,
        policy=opening.policy,
        max_waiting=opening.max_waiting,
        max_fps=opening.max_fps,
        max_in_flight=opening.max_in_flight,
        similar_threshold=opening.similar_threshold,
    )
