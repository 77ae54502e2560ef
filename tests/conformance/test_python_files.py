"""Uploads of fal-client 1.0.3, sync and async, and their use as inputs."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import fal_client
import pytest
from PIL import Image

from tests.conformance.python_client import LEAVES_SOCKETS, Client, client_of, seen
from tests.conformance.stage import APPLE, ENDPOINT, Stage
from tests.conformance.test_python import fault

pytestmark = [*LEAVES_SOCKETS]

EDIT = {**APPLE, "strength": 0.3}


@pytest.fixture(params=["sync", "async"])
async def fal(request: pytest.FixtureRequest, on_stage: Stage) -> AsyncIterator[Client]:
    """A client of the gateway."""
    async with client_of(request.param, on_stage.base) as client:
        yield client


def content(url: str) -> tuple[bytes, str]:
    """A file and its type."""
    with urlopen(url, timeout=60) as answer:
        return answer.read(), answer.headers["content-type"]


def apple(on_stage: Stage) -> bytes:
    """A picture to edit, PNG."""
    return on_stage.reference.draw({**APPLE, "format": "png"})


async def test_upload(fal: Client) -> None:
    url = await fal.upload("Grüße".encode(), "text/plain", "grüße & more.txt")
    assert content(url)[0].decode() == "Grüße"
    assert content(url)[1].startswith("text/plain")
    assert content(await fal.upload("text", "text/plain"))[0] == b"text"


async def test_upload_file_as_input(fal: Client, on_stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "apple.png"
    path.write_bytes(apple(on_stage))
    url = await fal.upload_file(path)
    assert content(url) == (path.read_bytes(), "image/png")
    answer = await fal.subscribe(f"{ENDPOINT}/image-to-image", {**EDIT, "image_url": url})
    on_stage.reference.check(seen(answer["images"][0], None, "red"))


async def test_upload_image_as_input(fal: Client, on_stage: Stage) -> None:
    url = await fal.upload_image(Image.open(io.BytesIO(apple(on_stage))))
    assert content(url)[1] == "image/jpeg"
    answer = await fal.run(f"{ENDPOINT}/image-to-image", {**EDIT, "image_url": url})
    on_stage.reference.check(seen(answer["images"][0], None, "red"))


async def test_encoded_inputs(fal: Client, on_stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "apple.png"
    path.write_bytes(apple(on_stage))
    picture = Image.open(path)
    for uri in (
        fal_client.encode_file(path),
        fal_client.encode(path.read_bytes(), "image/png"),
        fal_client.encode_image(picture),
    ):
        answer = await fal.run(f"{ENDPOINT}/image-to-image", {**EDIT, "image_url": uri})
        on_stage.reference.check(seen(answer["images"][0], None, "red"))


async def test_the_older_repository(fal: Client) -> None:
    url = await fal.upload(b"older", "text/plain", "older.txt", repository="fal")
    assert content(url)[0] == b"older"


async def test_lifecycle(fal: Client) -> None:
    settings = fal_client.client.StorageSettings(expires_in="1h")
    url = await fal.upload(b"an hour", "text/plain", "hour.txt", lifecycle=settings)
    assert content(url)[0] == b"an hour"


async def test_more_than_100_mb_go_up_in_parts(fal: Client, tmp_path: Path) -> None:
    block = os.urandom(1024 * 1024)
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for number in range(101):
            file.write(number.to_bytes(4, "big") + block[4:])
    url = await fal.upload_file(path)
    assert hashlib.sha256(content(url)[0]).digest() == hashlib.sha256(path.read_bytes()).digest()


async def test_an_unreadable_input_is_said_of_its_field(fal: Client) -> None:
    url = await fal.upload(b"no picture", "image/png", "no.png")
    error = await fault(fal.subscribe(f"{ENDPOINT}/image-to-image", {**EDIT, "image_url": url}))
    assert error.status_code == 422
    assert error.message[0]["loc"] == ["body", "image_url"]  # type: ignore[index]
    assert error.message[0]["type"] == "image_load_error"  # type: ignore[index]
