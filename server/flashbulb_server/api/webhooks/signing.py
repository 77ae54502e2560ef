"""Signatures of webhooks, and the keys that check them, as a JSON Web Key Set (RFC 8037).

Every api signs with the same key: from a PEM file, or from the ring in NATS, which the apis make, follow and renew together.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import math
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flashbulb_server.config import WebhookSettings
from flashbulb_server.core import key_ring
from flashbulb_server.core.key_ring import SEED_BYTES, Ring, SigningKey
from flashbulb_server.errors import Misconfigured, NewerRelease, StoreUnavailable
from flashbulb_server.messaging.signing import SigningKeys

JWKS_MAX_AGE = 3600
"""Seconds that receivers are told to keep the keys."""
_FOLLOW_SECONDS = 60.0
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.S)
_log = logging.getLogger(__name__)


class Signer:
    """Signs with the key of the hour. `keys` None: the ring never changes. `clock` gives unix seconds."""

    def __init__(self, ring: Ring, keys: SigningKeys | None, rotate_seconds: float, clock: Callable[[], float]) -> None:
        self._ring = ring
        self._keys = keys
        self._rotate_seconds = rotate_seconds
        self._clock = clock

    @classmethod
    async def open(cls, settings: WebhookSettings, keys: SigningKeys, *, clock: Callable[[], float]) -> Signer:
        """With the keys of the settings' file, or with those in NATS. Raises Misconfigured, StoreUnavailable, NewerRelease."""
        if settings.signing_keys_file is not None:
            return cls(read_pem(settings.signing_keys_file), None, 0.0, clock)
        rotate_seconds = settings.rotate_days * 86_400.0
        signer = cls((), keys, rotate_seconds, clock)
        await signer._follow(keys)
        return signer

    async def run(self) -> None:
        """Follows the ring, and renews it when it is time, until it is cancelled."""
        while self._keys is not None:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                await self._follow(self._keys)
            except (StoreUnavailable, NewerRelease) as err:  # those at hand will do
                _log.warning("signing keys not read", extra={"problem": str(err)})

    def sign(self, message: bytes) -> str:
        """The Ed25519 signature in hex."""
        key = key_ring.signing(self._ring, self._clock())
        return Ed25519PrivateKey.from_private_bytes(key.seed).sign(message).hex()

    def jwks(self) -> dict[str, object]:
        """The public keys. `x` is padded, against RFC 8037: receivers in the field decode it with what insists on padding."""
        return {"keys": [_jwk(key) for key in key_ring.published(self._ring, self._clock())]}

    async def _follow(self, keys: SigningKeys) -> None:
        now, fresh = self._clock(), secrets.token_bytes(SEED_BYTES)

        def change(ring: Ring | None) -> Ring:
            if ring is None:
                return key_ring.first_ring(fresh, now)
            return key_ring.rotated(ring, fresh, now) if key_ring.due(ring, now, self._rotate_seconds) else ring

        self._ring = await keys.change(change)


class KeyChange(StrEnum):
    """What an operator may do to the keys of the service's own."""

    NONE = "none"
    ROTATE = "rotate"
    REVOKE = "revoke"


async def change_keys(keys: SigningKeys, wanted: KeyChange, *, now: float) -> Ring:
    """Rotates: adds a key that signs in a day. Revokes: replaces all by one that signs at once. Gives the keys then.

    Running apis follow within a minute. Raises StoreUnavailable.
    """
    fresh = secrets.token_bytes(SEED_BYTES)

    def change(ring: Ring | None) -> Ring:
        if ring is None or wanted is KeyChange.REVOKE:
            return key_ring.revoked(fresh, now)
        return ring if wanted is KeyChange.NONE else key_ring.rotated(ring, fresh, now)

    return await keys.change(change)


def described(ring: Ring, now: float) -> list[str]:
    """A line for each published key: its id, and since or from when it signs."""
    signs = key_ring.signing(ring, now)
    lines = []
    for key in key_ring.published(ring, now):
        time = datetime.fromtimestamp(key.sign_time, UTC).isoformat(timespec="seconds")
        word = "signs since" if key is signs else "will sign from" if key.sign_time > now else "has signed since"
        lines.append(f"{key_id(key.seed)}  {word} {time}")
    return lines


def read_pem(path: Path) -> Ring:
    """The keys of a PEM file, of which the first signs. Raises Misconfigured."""
    try:
        blocks = _PEM.findall(path.read_bytes())
        private = [load_pem_private_key(block, password=None) for block in blocks]
    except OSError as err:
        raise Misconfigured(f"FLASHBULB_WEBHOOKS__SIGNING_KEYS_FILE: {path} cannot be read") from err
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise Misconfigured(f"FLASHBULB_WEBHOOKS__SIGNING_KEYS_FILE: {path} holds no valid PEM key") from err
    seeds = [key.private_bytes_raw() for key in private if isinstance(key, Ed25519PrivateKey)]
    if not seeds or len(seeds) < len(private):
        raise Misconfigured(f"FLASHBULB_WEBHOOKS__SIGNING_KEYS_FILE: {path} must hold private Ed25519 keys alone")
    return (SigningKey(seeds[0], 0.0, 0.0), *(SigningKey(seed, 0.0, math.inf) for seed in seeds[1:]))


def key_id(seed: bytes) -> str:
    """Thumbprint of the public key (RFC 7638)."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _encoded(_public(seed)).rstrip("=")}
    return _encoded(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()).rstrip("=")


def _jwk(key: SigningKey) -> dict[str, str]:
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": _encoded(_public(key.seed)),
        "kid": key_id(key.seed),
        "use": "sig",
        "alg": "EdDSA",
    }


def _public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
