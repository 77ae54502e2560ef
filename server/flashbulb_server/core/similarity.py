"""Which frames of a session are not worth drawing, since their picture hardly differs from the last one that was drawn. Pure.

1. Only a frame that changes nothing but its picture is compared; a worker does that, which sees the pixels.
2. It is compared with the last one that was drawn, or that is being drawn before it, and not with the last one seen: slow drift is drawn.
3. After `MAX_SKIPPED` in a row one is drawn in any case.

As StreamDiffusion's SimilarImageFilter (Kodaira et al. 2023, arXiv 2312.12491, 3.5; `image_filter.py`), whose limit is 10 too. That one
skips with a probability that grows with the cosine of both pictures; a difference against a threshold gives the same answer every time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashbulb_server.core.flight import Look, Seat, T
from flashbulb_server.core.generation import GenerationSpec, SourceImage

MAX_SKIPPED = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a picture is compared with: a thumbnail, empty where there is none. It is not drawn if it differs by `threshold` or less."""

    thumbnail: bytes
    threshold: float


class Similarity:
    """What the caller sees, as far as the next frame may be like it."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._shown: Look | None = None
        self._skipped = 0

    def comparison(self, seat: Seat[T], before: Seat[T] | None) -> Comparison | None:
        """What the picture of a seat should be compared with, None for a frame without one. `before`: a picture on the way to be shown."""
        seat.like = None
        if seat.frame.spec.image is None:
            return None
        last = self._shown if before is None else before.look
        if last is not None and self._skipped < MAX_SKIPPED and last.spec == _without_picture(seat.frame.spec):
            seat.like = last
        return Comparison(seat.like.thumbnail if seat.like is not None else b"", self._threshold)

    def seen(self, seat: Seat[T], thumbnail: bytes) -> None:
        """The picture of a seat differs, and is drawn."""
        seat.look = Look(_without_picture(seat.frame.spec), thumbnail)
        self._skipped = 0

    def skipped(self) -> None:
        """A picture did not differ."""
        self._skipped += 1

    def holds(self, seat: Seat[T]) -> bool:
        """Whether what a seat was compared with is what the caller sees now; it may have been stopped meanwhile."""
        return seat.like is self._shown

    def shown(self, seat: Seat[T]) -> None:
        """The caller gets the picture of a seat."""
        self._shown = seat.look


def _without_picture(spec: GenerationSpec) -> GenerationSpec:
    """What else is drawn of. The caller's label is not: sockets have another one for every frame."""
    return spec if spec.image is None else replace(spec, image=SourceImage(), request_id="")
