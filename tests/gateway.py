"""The gateway as one key drives it in tests."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from PIL import Image

LCM = "fal-ai/fast-lcm-diffusion"
SECONDS = 30


def quick(**fields: object) -> dict[str, object]:
    """A quick valid input: two steps at the embedded model's own size."""
    small = {"width": 128, "height": 128}
    return {"prompt": "a red apple", "seed": 7, "num_inference_steps": 2, "image_size": small, **fields}


LONG = {"num_images": 8, "num_inference_steps": 32}


@dataclass(frozen=True, slots=True)
class Fal:
    """Calls of one key, as fal's clients make them."""

    http: httpx.AsyncClient

    async def run(self, given: dict[str, object], endpoint: str = LCM, **options: object) -> httpx.Response:
        """Draws at once."""
        return await self.http.post(f"/run/{endpoint}", json=given, **options)

    async def submit(self, given: dict[str, object], endpoint: str = LCM, **options: object) -> httpx.Response:
        """Queues."""
        return await self.http.post(f"/queue/{endpoint}", json=given, **options)

    async def queued(self, **fields: object) -> dict[str, str]:
        """Queues what must be taken; gives the answer."""
        answer = await self.submit(quick(**fields))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ended(self, submitted: dict[str, str], **query: object) -> dict[str, object]:
        """The status, once it is COMPLETED."""
        async with asyncio.timeout(SECONDS):
            while True:
                answer = await self.http.get(submitted["status_url"], params=query)
                assert answer.status_code in (200, 202), answer.text
                if answer.status_code == 200:
                    return answer.json()
                await asyncio.sleep(0.05)

    async def until(self, submitted: dict[str, str], status: str) -> dict[str, object]:
        """The status, once it is this one."""
        async with asyncio.timeout(SECONDS):
            while (found := (await self.http.get(submitted["status_url"])).json())["status"] != status:
                await asyncio.sleep(0.02)
        return found

    async def stream(self, method: str, url: str, **options: object) -> list[dict[str, object]]:
        """Every event of a stream."""
        async with self.http.stream(method, url, **options) as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"] == "text/event-stream"
            return [event async for event in events(answer)]


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, object]]:
    """Events of an open stream."""
    async for line in answer.aiter_lines():
        assert not line or line.startswith(("data: ", ":"))
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def picture(image: dict[str, object]) -> Image.Image:
    """The picture of an output that came inline."""
    head, _, data = str(image["url"]).partition(",")
    assert head == f"data:{image['content_type']};base64"
    found = Image.open(io.BytesIO(base64.b64decode(data)))
    found.load()
    return found
