"""The headers that say how long a file is kept and who may read it."""

from __future__ import annotations

import json

import pytest
from starlette.datastructures import Headers

from flashbulb_server.api.http.lifecycle import Lifecycle, lifecycle_of
from flashbulb_server.core.file_links import Access
from flashbulb_server.core.files import MAX_LIFETIME, MIN_LIFETIME
from flashbulb_server.errors import InvalidRequest

NAME = "X-Fal-Object-Lifecycle"


def of(value: object, name: str = NAME) -> Lifecycle:
    return lifecycle_of(Headers({name: json.dumps(value)}))


def test_none_is_the_default() -> None:
    assert lifecycle_of(Headers({})) == of({}) == Lifecycle(None, Access.ALLOW)


@pytest.mark.parametrize(
    ("seconds", "kept"), [(3600, 3600), (60.5, 60.5), (1, MIN_LIFETIME), (31_536_000, MAX_LIFETIME), (None, None)]
)
def test_seconds_are_kept_to_what_is_possible(seconds: object, kept: float | None) -> None:
    assert of({"expiration_duration_seconds": seconds}).seconds == kept


@pytest.mark.parametrize("access", list(Access))
def test_who_may_read(access: Access) -> None:
    assert (
        of({"initial_acl": {"default": access.value, "rules": [{"user": "u", "decision": "allow"}]}}).access is access
    )


def test_the_header_of_an_upload_counts_over_the_preference() -> None:
    both = Headers(
        {NAME: '{"expiration_duration_seconds":100}', f"{NAME}-Preference": '{"expiration_duration_seconds":200}'}
    )
    assert lifecycle_of(both).seconds == 100
    assert of({"expiration_duration_seconds": 200}, f"{NAME}-Preference").seconds == 200


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"expiration_duration_seconds":"1h"}',
        '{"expiration_duration_seconds":0}',
        '{"expiration_duration_seconds":NaN}',
        '{"expiration_duration_seconds":true}',
        '{"initial_acl":"hide"}',
        '{"initial_acl":{"default":"secret"}}',
    ],
)
def test_what_cannot_be_understood_is_named(text: str) -> None:
    with pytest.raises(InvalidRequest, match="x-fal-object-lifecycle"):
        lifecycle_of(Headers({NAME: text}))
