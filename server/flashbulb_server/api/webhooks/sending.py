"""One attempt: signs a body, posts it through the guarded client, and says what came of it. Never raises for what a receiver does."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import httpx

from flashbulb_server.api.webhooks.signing import Signer
from flashbulb_server.core.webhooks import Attempt, Verdict, judge
from flashbulb_server.web.guard import AddressForbidden, GuardedClient, NameUnknown, Unreachable, is_public


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent, and for whom: `user_id` is the id of the key that submitted the request."""

    url: str
    request_id: str
    user_id: str
    body: bytes


class Sender:
    """`async with`: owns the connections. `allow_private`: whether private addresses may be posted to; `clock` gives unix seconds."""

    def __init__(self, signer: Signer, *, allow_private: bool, clock: Callable[[], float]) -> None:
        self._signer = signer
        self._clock = clock
        self._client = GuardedClient(
            allowed=lambda address: allow_private or is_public(address),
            timeout=None,  # by `seconds` of each attempt
            headers={"User-Agent": "flashbulb", "Accept": "*/*", "Content-Type": "application/json"},
        )

    async def __aenter__(self) -> Sender:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def send(self, letter: Letter, *, seconds: float) -> tuple[Attempt, Verdict]:
        """Posts it, waiting so long for the receiver's status. What else it answers is not read."""
        started = self._clock()
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.send(
                    "POST", httpx.URL(letter.url), content=letter.body, headers=self._headers(letter, started)
                ) as response,
            ):
                verdict, error = judge(response.status_code)
                return Attempt(started, response.status_code, error), verdict
        except TimeoutError:
            return Attempt(started, 0, f"the receiver did not answer within {seconds:g} s"), Verdict.AGAIN
        except AddressForbidden:
            return Attempt(started, 0, "the receiver's address is not public"), Verdict.FINAL
        except httpx.InvalidURL:
            return Attempt(started, 0, "the URL is not valid"), Verdict.FINAL
        except (NameUnknown, Unreachable, httpx.HTTPError, httpx.StreamError) as err:
            return Attempt(started, 0, _words(err)), Verdict.AGAIN

    def _headers(self, letter: Letter, now: float) -> dict[str, str]:
        timestamp = str(int(now))
        signed = "\n".join((letter.request_id, letter.user_id, timestamp, hashlib.sha256(letter.body).hexdigest()))
        return {
            "X-Fal-Webhook-Request-Id": letter.request_id,
            "X-Fal-Webhook-User-Id": letter.user_id,
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": self._signer.sign(signed.encode()),
        }


def _words(error: Exception) -> str:
    """What is wrong, without what a library says of it: that may name addresses inside the installation."""
    if isinstance(error, NameUnknown):
        return "the receiver's name is not known"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "the receiver's TLS handshake failed"
        cause = cause.__cause__ or cause.__context__
    return "the receiver takes no connection" if isinstance(error, Unreachable) else "the receiver broke off"
