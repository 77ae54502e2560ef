"""What a realtime session yields, and the token that opens one. Frozen values; spans are seconds. Knows no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flashbulb._errors import FlashbulbError
from flashbulb._results import Image


@dataclass(frozen=True, slots=True)
class Frame:
    """The pictures of one `send`, inline: `images[0].content`, `.pil()`, `.save(path)`.

    `frame_id` is what `send` answered. `age` is the span from the frame's arrival at the server to its answer, `latency` that from
    `send` to the arrival here. `superseded` counts the frames that were not drawn since the last picture because a newer one came,
    here or at the server. `timings`, `has_nsfw_concepts`, `fidelity`, `model_name` and `backend` are those of a Result.
    """

    frame_id: int
    images: tuple[Image, ...]
    seed: int
    timings: Mapping[str, float]
    age: float
    latency: float
    superseded: int
    has_nsfw_concepts: tuple[bool, ...]
    fidelity: str
    model_name: str = ""
    backend: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was not drawn. `reason` is `superseded`, `overflow`, `invalid`, `failed` or `similar`.

    `stopped_at_step` counts the steps that were done for it. `error` says what was wrong, with `invalid` and `failed`.
    """

    frame_id: int
    reason: str
    stopped_at_step: int = 0
    error: FlashbulbError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token to give to a caller that must not hold a key. It works until `expire_time`; None: nobody knows how long."""

    token: str = field(repr=False)
    expire_time: datetime | None = None
