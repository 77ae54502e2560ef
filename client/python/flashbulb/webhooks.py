"""For receivers of webhooks: tells what the server sent from what somebody else did. Needs `pip install 'flashbulb[webhooks]'`.

    from flashbulb import webhooks

    outcome = webhooks.verify(request.headers, request.body, keys)     # keys: GET /rest/.well-known/jwks.json, kept for an hour

A webhook may come more than once: `outcome["request_id"]` tells.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from flashbulb._errors import ConfigurationError, FlashbulbError

TOLERANCE_SECONDS = 300.0
"""How far the clock of the sender may be from this one's, and how old a webhook may be."""

_PREFIX = "x-fal-webhook-"


class BadSignature(FlashbulbError):
    """The webhook was not sent by this server, was changed on its way, or is too old."""


def verify(
    headers: Mapping[str, str], body: bytes, jwks: Mapping[str, Any], *, now: float | None = None
) -> dict[str, Any]:
    """The body of a webhook, once its signature is known to be good. `jwks`: the server's key set; `now` in unix seconds.

    Raises:
        BadSignature: it must not be trusted. With keys that were fetched a while ago: fetch them anew, and try once more.
        ConfigurationError: `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise ConfigurationError("verify() needs cryptography: pip install 'flashbulb[webhooks]'") from error
    given = {name.lower(): value for name, value in headers.items()}
    try:
        request_id, user_id, timestamp, signature = (
            given[_PREFIX + name] for name in ("request-id", "user-id", "timestamp", "signature")
        )
        age, signed = (time.time() if now is None else now) - int(timestamp), bytes.fromhex(signature)
    except KeyError as error:
        raise BadSignature(f"the header {error.args[0]} is missing") from error
    except ValueError as error:
        raise BadSignature("the timestamp or the signature is malformed") from error
    if abs(age) > TOLERANCE_SECONDS:
        raise BadSignature(f"it is {age:.0f} s old")
    message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())).encode()
    for key in jwks.get("keys", ()):
        if key.get("kty") != "OKP" or key.get("crv") != "Ed25519":
            continue
        try:
            public = base64.urlsafe_b64decode(
                key["x"].rstrip("=") + "="
            )  # 32 bytes are 43 characters and one of padding
            Ed25519PublicKey.from_public_bytes(public).verify(signed, message)
        except (InvalidSignature, ValueError, KeyError):
            continue
        outcome: dict[str, Any] = json.loads(body)
        return outcome
    raise BadSignature("no key of the server made the signature")
