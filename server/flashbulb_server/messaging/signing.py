"""The keys that webhooks are signed with, in the bucket `signing`: one record, the same for every api. It changes by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from flashbulb_server.core.key_ring import Ring
from flashbulb_server.messaging.connection import unavailable
from flashbulb_server.messaging.dead_letters import DeadLetters, Kind, Letter
from flashbulb_server.messaging.topology import SIGNING
from flashbulb_server.wire.unreadable import Unreadable
from flashbulb_server.wire.webhooks import decode_ring, encode_ring

_SUBJECT = f"$KV.{SIGNING}.ring"
_WRONG_LAST_SEQUENCE = (10071, 10164)


class SigningKeys:
    """The ring of keys. Every method raises StoreUnavailable when NATS does not answer."""

    def __init__(self, js: JetStreamContext, dead: DeadLetters | None = None) -> None:
        self._js = js
        self._dead = dead or DeadLetters(js)

    async def change(self, change: Callable[[Ring | None], Ring]) -> Ring:
        """Applies `change` to what is stored, again if another api was faster. Gives what is stored then.

        None is stored at first, and where it is damaged: then the keys are lost, and receivers must fetch the new ones. Raises NewerRelease.
        """
        while True:
            ring, revision = await self._get()
            wanted = change(ring)
            if wanted == ring:
                return wanted
            try:
                with unavailable():
                    await self._js.publish(
                        _SUBJECT, encode_ring(wanted), headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision)}
                    )
                return wanted
            except APIError as err:
                if err.err_code not in _WRONG_LAST_SEQUENCE:
                    raise

    async def _get(self) -> tuple[Ring | None, int]:
        try:
            with unavailable():
                message = await self._js.get_last_msg(f"KV_{SIGNING}", _SUBJECT, direct=True)
        except NotFoundError:
            return None, 0
        data, revision = message.data or b"", message.seq or 0
        if not data:
            return None, revision
        try:
            return decode_ring(data), revision
        except Unreadable as err:
            if err.newer:
                raise err.told("the ring of signing keys") from err
            await self._dead.set_aside(Letter(Kind.RING, _SUBJECT, data, revision), err)
            return None, revision
