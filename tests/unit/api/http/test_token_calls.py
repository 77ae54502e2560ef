"""What a token may be asked for over HTTP: the forms in which clients name apps, and the bounds."""

from __future__ import annotations

import pytest

from flashbulb_server.api.http.tokens import endpoints_of, wanted
from flashbulb_server.errors import InvalidRequest

LCM = "fast-lcm-diffusion"
ALL_LCM = [LCM, f"{LCM}/image-to-image", f"{LCM}/inpainting"]


@pytest.mark.parametrize(
    ("app", "endpoints"),
    [
        (LCM, ALL_LCM),
        (f"fal-ai/{LCM}", ALL_LCM),
        (f"fal-ai/{LCM}/realtime", [LCM]),
        (f"/fal-ai/{LCM}/realtime/", [LCM]),
        (f"{LCM}/realtime", [LCM]),
        (f"fal-ai/{LCM}/stream", [LCM]),
        (f"fal-ai/{LCM}/image-to-image/stream", [f"{LCM}/image-to-image"]),
        ("stream", []),
        (f"fal-ai/{LCM}/image-to-image", [f"{LCM}/image-to-image"]),
        (f"fal-ai/{LCM}/image-to-image/realtime", [f"{LCM}/image-to-image"]),
        (f"fal-ai/{LCM}/stream/realtime", []),
        ("fast-lcm", []),
        ("fal-ai", []),
        ("realtime", []),
        ("", []),
        ("somebody/fast-lcm-diffusion", []),
    ],
)
def test_an_app_stands_for_endpoints(app: str, endpoints: list[str]) -> None:
    assert endpoints_of(app) == endpoints


def test_what_is_asked_for() -> None:
    assert wanted({"allowed_apps": [LCM, "nothing"]}, "token_expiration") == (ALL_LCM, ["nothing"], 120.0)
    assert wanted({"allowed_apps": [LCM], "duration": 3600}, "duration")[2] == 3600


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["allowed_apps"]),
        ({"allowed_apps": LCM}, ["allowed_apps"]),
        ({"allowed_apps": []}, ["allowed_apps"]),
        ({"allowed_apps": [5]}, ["allowed_apps"]),
        ({"allowed_apps": ["a"] * 33}, ["allowed_apps"]),
        ({"allowed_apps": [LCM], "duration": 0}, ["duration"]),
        ({"allowed_apps": [LCM], "duration": 3601}, ["duration"]),
        ({"allowed_apps": [LCM], "duration": True}, ["duration"]),
        ({"allowed_apps": None, "duration": "soon"}, ["allowed_apps", "duration"]),
    ],
)
def test_every_mistake_is_named(body: dict[str, object], fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        wanted(body, "duration")
    assert [violation.field for violation in raised.value.violations] == fields
