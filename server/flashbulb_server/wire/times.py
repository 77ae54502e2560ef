"""Unix seconds as protobuf timestamps. 0 is "not yet" and becomes an absent field."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from flashbulb_server.wire.unreadable import Unreadable

_END = 253_402_300_800  # of the year 9999, beyond which Timestamp means nothing


def to_timestamp(seconds: float) -> Timestamp | None:
    """A timestamp to the nanosecond, or None for 0."""
    if not seconds:
        return None
    # The fraction alone: a product with all the seconds would be rounded, and would not come back the same.
    carry, nanos = divmod(round(seconds % 1 * 1e9), 1_000_000_000)
    return Timestamp(seconds=math.floor(seconds) + carry, nanos=nanos)


def from_timestamp(timestamp: Timestamp) -> float:
    """Unix seconds; 0 if it is absent. Raises Unreadable for one that nobody writes."""
    if not (0 <= timestamp.seconds < _END and 0 <= timestamp.nanos < 1_000_000_000):
        raise Unreadable("a time in it is none")
    return timestamp.seconds + timestamp.nanos / 1e9


def to_duration(seconds: float) -> Duration:
    """A span, not negative."""
    nanos = max(0, round(seconds * 1e9))
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def from_duration(duration: Duration) -> float:
    """Seconds."""
    return duration.seconds + duration.nanos / 1e9
