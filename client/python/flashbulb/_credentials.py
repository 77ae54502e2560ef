"""Who asks: a key, a token, or a function that gets tokens, which is asked again before one expires."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

from flashbulb._errors import AuthenticationError, ConfigurationError, FlashbulbError
from flashbulb._frames import Token

TokenProvider = Callable[[], Token | str | Awaitable[Token | str]]
"""Gets a new token: a function, which may block, or a coroutine function. A Token is renewed before it expires; of a plain text nobody
knows when that is, and it is renewed when the server refuses it."""

RENEW_AT = 0.9
"""Part of a token's life after which a new one is got."""


class Credentials:
    """The `authorization` of calls. At most one of the three may be given."""

    def __init__(self, key: str | None, token: str | None, provider: TokenProvider | None) -> None:
        if token is not None and provider is not None:
            raise ConfigurationError("give a token or a token_provider, not both")
        if token is not None and not (token.strip() and token.isascii() and token.isprintable()):
            raise ConfigurationError("the token is empty or holds characters that none has")
        self._header = f"Bearer {token.strip()}" if token else f"Key {key}" if key else None
        self._provider = provider
        self._renew = float("-inf") if provider is not None else float("inf")  # time.time()
        self._lock = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether a new token can be had."""
        return self._provider is not None

    def forget(self) -> None:
        """The server does not take the token (any more): the next call gets a new one, where that can be had."""
        if self.renewable:
            self._renew = float("-inf")

    async def header(self) -> str | None:
        """The value of `authorization`, None if nobody said who asks.

        Raises:
            AuthenticationError: no token could be got.
        """
        if self._provider is not None and time.time() >= self._renew:
            async with self._lock:
                if time.time() >= self._renew:  # nobody else has got one meanwhile
                    await self._get(self._provider)
        return self._header

    async def _get(self, provider: TokenProvider) -> None:
        try:
            answer = await (provider() if inspect.iscoroutinefunction(provider) else asyncio.to_thread(provider))
            found: Token | str = await answer if inspect.isawaitable(answer) else answer
        except FlashbulbError:
            raise
        except Exception as error:  # the caller's own function
            raise AuthenticationError(f"token_provider failed: {error}") from error
        token, expiry = (found, None) if isinstance(found, str) else (found.token, found.expire_time)
        now = time.time()
        self._header = f"Bearer {token}"
        self._renew = float("inf") if expiry is None else now + RENEW_AT * (expiry.timestamp() - now)
