"""Short-lived tokens for callers that must not hold a key: JWTs (RFC 7519), signed with HMAC-SHA-256, limited to endpoints.

A token speaks for the key that made it, and ends with it, also where another key has the same id then. Nothing is stored: what it allows
stands in it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jwt

from flashbulb_server.api.keys import Keys
from flashbulb_server.config import ApiSettings
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.errors import FieldViolation, InvalidRequest, Misconfigured, TokenForbids, TokenInvalid

DEFAULT_LIFETIME = 120.0  # seconds
MAX_LIFETIME = 3600.0
MAX_ENDPOINTS = 32
MIN_SECRET_CHARS = 32  # as long as the signature, RFC 7518 section 3.2
_ALGORITHM = "HS256"
_AUDIENCE = "flashbulb"
_LEEWAY_SECONDS = 5  # between the clocks of several api hosts


@dataclass(frozen=True, slots=True)
class Grant:
    """Who calls, and what for. `endpoints` None: a key, good for everything. `expire_time` in unix seconds, None for ever."""

    owner: str
    endpoints: frozenset[str] | None = None
    expire_time: float | None = None

    def check(self, endpoint: str) -> None:
        """Raises TokenForbids if the endpoint is not among those that it is good for."""
        if self.endpoints is not None and endpoint not in self.endpoints:
            raise TokenForbids(endpoint, sorted(self.endpoints))


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token; `expire_time` in unix seconds."""

    text: str
    expire_time: float


class Tokens:
    """Makes and reads tokens of `keys`. `secret` empty: a random one. `clock` gives unix seconds."""

    def __init__(self, secret: str, keys: Keys, *, clock: Callable[[], float]) -> None:
        self._secret = secret or secrets.token_urlsafe(48)
        self._keys = keys
        self._clock = clock

    @classmethod
    def load(cls, settings: ApiSettings, keys: Keys, *, clock: Callable[[], float]) -> Tokens:
        """With the secret of the settings. Raises Misconfigured if it is too short."""
        secret = settings.token_secret.get_secret_value()
        if 0 < len(secret) < MIN_SECRET_CHARS:
            raise Misconfigured(f"FLASHBULB_API__TOKEN_SECRET has less than {MIN_SECRET_CHARS} characters")
        return cls(secret, keys, clock=clock)

    def create(
        self, owner: str, endpoints: Sequence[str], lifetime: float | None, *, allow_none: bool = False
    ) -> Token:
        """A token for some endpoints. `lifetime` in seconds, 1 to 3600, None for 120. Raises InvalidRequest.

        `allow_none`: whether one that is good for nothing may be made.
        """
        problems: list[FieldViolation] = []
        if not (0 if allow_none else 1) <= len(endpoints) <= MAX_ENDPOINTS:
            problems.append(FieldViolation("allowed_endpoints", f"must name 1 to {MAX_ENDPOINTS} endpoints"))
        unknown = [endpoint for endpoint in endpoints[:MAX_ENDPOINTS] if endpoint not in ENDPOINTS]
        if unknown:
            known = ", ".join(sorted(ENDPOINTS))
            problems.append(FieldViolation("allowed_endpoints", f"must be among {known}"))
        if lifetime is not None and not 1 <= lifetime <= MAX_LIFETIME:
            problems.append(FieldViolation("lifetime", f"must be from 1 s to {MAX_LIFETIME:g} s"))
        if problems:
            raise InvalidRequest(problems)
        expire_time = float(math.ceil(self._clock() + (DEFAULT_LIFETIME if lifetime is None else lifetime)))
        claims = {
            "sub": owner,
            "key": self._keys.mark(owner),
            "aud": _AUDIENCE,
            "exp": int(expire_time),
            "endpoints": sorted(set(endpoints)),
        }
        return Token(jwt.encode(claims, self._secret, algorithm=_ALGORITHM), expire_time)

    def read(self, text: str) -> Grant:
        """What a token allows. Raises TokenInvalid."""
        try:
            claims = jwt.decode(
                text,
                self._secret,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["sub", "exp", "aud"], "verify_exp": False},  # by our clock, below
            )
        except jwt.InvalidTokenError as err:
            raise TokenInvalid("it was not made by this server, or is broken") from err
        if self._clock() >= claims["exp"] + _LEEWAY_SECONDS:
            raise TokenInvalid("it has expired")
        mark = self._keys.mark(str(claims["sub"]))
        if not mark or claims.get("key") != mark:
            raise TokenInvalid("the key that made it is gone")
        return Grant(str(claims["sub"]), frozenset(claims.get("endpoints", ())), float(claims["exp"]))
