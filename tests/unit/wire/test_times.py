"""Unix seconds as timestamps, spans as durations."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from flashbulb_server.wire.times import from_duration, from_timestamp, to_duration, to_timestamp
from tests.unit.wire.values import quick


def test_zero_is_absent():
    assert to_timestamp(0.0) is None
    assert from_timestamp(Timestamp()) == 0.0


@quick
@given(st.floats(min_value=1.5e9, max_value=2.5e9))
def test_a_time_comes_back_as_it_was(seconds):
    assert from_timestamp(to_timestamp(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.5, (1, 500_000_000)),
        (0.9999999999, (1, 0)),
        (1e-9, (0, 1)),
        (-1.25, (-2, 750_000_000)),
        (1_700_000_000.25, (1_700_000_000, 250_000_000)),
    ],
)
def test_nanoseconds_are_never_a_whole_second(seconds, expected):
    made = to_timestamp(seconds)
    assert (made.seconds, made.nanos) == expected


@quick
@given(st.integers(0, 10**15))
def test_a_span_comes_back_as_it_was(nanos):
    assert from_duration(to_duration(nanos / 1e9)) == pytest.approx(nanos / 1e9, abs=1e-9)


@pytest.mark.parametrize("seconds", [0.0, -1.0, -1e-12])
def test_a_span_is_not_negative(seconds):
    assert from_duration(to_duration(seconds)) == 0.0
