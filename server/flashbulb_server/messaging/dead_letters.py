"""Messages that nobody could read, set aside in the stream DEAD under `dead.<kind>.<the subject that each had>`, for an operator to look at.

1. What cannot be read is kept there first, and taken out of its queue after that: nothing is thrown away unseen.
2. Each is told of once by a process, and kept once by all of them.
3. Setting aside never fails. While NATS is away nothing is kept: the message stays where it is, and is met again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header

from flashbulb_server.errors import StoreUnavailable
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.scan import scan
from flashbulb_server.messaging.topology import DEAD
from flashbulb_server.wire.unreadable import Unreadable

_MOST_BYTES = 512 * 1024  # of one that is kept: with its headers it must fit into a message of 1 MiB
_MOST_KNOWN = 10_000
_RELEASE = version("flashbulb-server")
_log = logging.getLogger(__name__)
L = TypeVar("L")


class Kind(StrEnum):
    """What a message was meant to be."""

    JOB = "job"
    RECORD = "record"
    WEBHOOK = "webhook"
    CANCEL = "cancel"
    WORKER = "worker"
    MODEL = "model"
    ADVISORY = "advisory"
    KEY = "key"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it came. `sequence`: its place in its stream; 0 if it is none of a stream, or one that is soon replaced by the next."""

    kind: Kind
    subject: str
    data: bytes
    sequence: int = 0


class DeadLetters:
    """Sets aside. `counts`: messages that could not be read, by kind, since the process began. `clock` gives unix seconds."""

    def __init__(self, js: JetStreamContext, *, clock: Callable[[], float] = time.time) -> None:
        self._js = js
        self._clock = clock
        self._known: OrderedDict[str, bool] = OrderedDict()  # whether it is kept
        self.counts: Counter[Kind] = Counter()

    async def set_aside(self, letter: Letter, problem: Unreadable) -> bool:
        """Whether it is kept, so that it may be taken away from where it was."""
        name = f"{letter.kind}/{letter.subject}/{letter.sequence}"
        known = self._known.get(name)
        if known is None or not letter.sequence:
            self.counts[letter.kind] += 1
        if known is None:
            told = {"kind": letter.kind, "subject": letter.subject, "bytes": len(letter.data), "problem": str(problem)}
            _log.error("a message that cannot be read is set aside", extra=told)
            self._known[name] = False
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        if not known:
            known = self._known[name] = await self._keep(letter, problem, name)
        return known

    async def opened(self, kind: Kind, message: Msg, read: Callable[[Msg], L]) -> L | None:
        """What `read` makes of a message from a work queue. None if it raises Unreadable: then the message was taken out of the queue."""
        try:
            return read(message)
        except Unreadable as err:
            letter = Letter(kind, message.subject, message.data, message.metadata.sequence.stream)
            if await self.set_aside(letter, err):
                with suppress(nats.errors.Error):  # or it comes again
                    await message.term()
            return None

    async def _keep(self, letter: Letter, problem: Unreadable, name: str) -> bool:
        told = b"" if letter.kind is Kind.RING else letter.data[:_MOST_BYTES]  # private keys are not shown around
        headers = {
            Header.MSG_ID: name,
            "Flashbulb-Problem": str(problem),
            "Flashbulb-Bytes": str(len(letter.data)),
            "Flashbulb-Time": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds"),
            "Flashbulb-Release": _RELEASE,
        }
        try:
            with unavailable():
                await self._js.publish(
                    f"dead.{letter.kind}.{letter.subject}",
                    told,
                    stream=DEAD,
                    headers=headers,
                )
        except (StoreUnavailable, nats.errors.Error) as err:
            _log.warning("a message that cannot be read stays", extra={"subject": letter.subject, "problem": str(err)})
            return False
        return True


async def dead_letters(nc: Client, kind: Kind, *, after: int = 0) -> AsyncIterator[tuple[int, str]]:
    """(Sequence in DEAD, subject that it had) of every message of a kind that was set aside after a sequence, in order.

    Raises StoreUnavailable.
    """
    async for found in scan(nc, DEAD, f"dead.{kind}.>", after=after):
        yield found.sequence, found.subject.removeprefix(f"dead.{kind}.")
