"""The life of the keys that webhooks are signed with. Pure: times are unix seconds, a key is its 32 bytes.

Receivers may keep the published keys for a day. So a new key is published for longer than that before it signs, and one that no
longer signs stays published for as long again: every signature can be checked with what its receiver knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SEED_BYTES = 32
"""Of an Ed25519 key (RFC 8032)."""

OVERLAP_SECONDS = 25 * 3600.0
"""How long a key is published before and after it signs: the day that receivers may keep it, and an hour for retries and clocks."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, published from `create_time`, signing from `sign_time`."""

    seed: bytes = field(repr=False)
    create_time: float
    sign_time: float


Ring = tuple[SigningKey, ...]
"""Keys in the order in which they sign; never empty."""


def first_ring(seed: bytes, now: float) -> Ring:
    """The first key signs at once: no receiver knows another."""
    return (SigningKey(seed, now, now),)


def signing(ring: Ring, now: float) -> SigningKey:
    """The key that signs now."""
    return next((key for key in reversed(ring) if key.sign_time <= now), ring[0])


def published(ring: Ring, now: float) -> Ring:
    """The keys that receivers need to know now: all but those that were replaced long ago."""
    replaced = [following.sign_time for following in ring[1:]]
    kept = tuple(key for key, since in zip(ring, replaced, strict=False) if now - since < OVERLAP_SECONDS)
    return (*kept, ring[-1])


def due(ring: Ring, now: float, rotate_seconds: float) -> bool:
    """Whether it is time for a new key: it then signs when the newest has signed for `rotate_seconds`, or a little later."""
    return rotate_seconds > 0 and now + OVERLAP_SECONDS >= ring[-1].sign_time + rotate_seconds


def rotated(ring: Ring, seed: bytes, now: float) -> Ring:
    """With a new key, published now, that signs once every receiver can know it."""
    return (*published(ring, now), SigningKey(seed, now, now + OVERLAP_SECONDS))


def revoked(seed: bytes, now: float) -> Ring:
    """A new key alone, signing at once: for when the others are no longer secret. Receivers must fetch the keys anew."""
    return first_ring(seed, now)
