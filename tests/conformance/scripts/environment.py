"""fal-client under fal's own host names, led to the gateway by the environment alone. Prints a line of JSON about each check."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import fal_client
import httpx

ENDPOINT = "fal-ai/fast-lcm-diffusion"
APPLE = {"prompt": "a red apple", "seed": 7, "image_size": {"width": 128, "height": 128}, "num_inference_steps": 2}
checks: dict[str, Callable[[], Awaitable[list[dict[str, Any]]]]] = {}


def check(name: str, body: Callable[[], Awaitable[list[dict[str, Any]]]]) -> None:
    checks[name] = body


def picture(image: dict[str, Any], given: dict[str, Any] | None, looks: str | None = None) -> dict[str, Any]:
    data = image.get("content") or base64.b64decode(image["url"].partition(",")[2])
    kind = {name: image[name] for name in ("width", "height", "content_type")}
    return {"data": base64.b64encode(data).decode(), "input": given, "looks": looks, **kind}


async def subscribing() -> list[dict[str, Any]]:
    answer = await asyncio.to_thread(fal_client.subscribe, ENDPOINT, arguments=APPLE, with_logs=True)
    return [picture(answer["images"][0], APPLE)]


async def subscribing_async() -> list[dict[str, Any]]:
    answer = await fal_client.subscribe_async(ENDPOINT, arguments=APPLE)
    return [picture(answer["images"][0], APPLE)]


async def submitting() -> list[dict[str, Any]]:
    handle = await fal_client.submit_async(ENDPOINT, arguments=APPLE)
    assert handle.status_url == f"https://queue.fal.run/{ENDPOINT}/requests/{handle.request_id}/status", (
        handle.status_url
    )
    answer = await handle.get()
    return [picture(answer["images"][0], APPLE)]


async def uploading() -> list[dict[str, Any]]:
    drawn = await fal_client.run_async(ENDPOINT, arguments={**APPLE, "format": "png"})
    data = base64.b64decode(drawn["images"][0]["url"].partition(",")[2])
    url = await fal_client.upload_async(data, "image/png", "apple.png")
    assert httpx.URL(url).host in ("v3.fal.media", "v3b.fal.media"), url
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).content == data
    edit = {**APPLE, "image_url": url, "strength": 0.3}
    answer = await fal_client.run_async(f"{ENDPOINT}/image-to-image", arguments=edit)
    return [picture(answer["images"][0], None, "red")]


async def streaming() -> list[dict[str, Any]]:
    last = [event async for event in fal_client.stream_async(ENDPOINT, arguments=APPLE)][-1]
    return [picture(last["images"][0], APPLE)]


async def live() -> list[dict[str, Any]]:
    async with fal_client.realtime_async(ENDPOINT) as connection:
        await connection.send(APPLE)
        answer = await connection.recv()
    return [picture(answer["images"][0], APPLE)]


check("subscribe", subscribing)
check("subscribe_async", subscribing_async)
check("submit_async: the links are under fal's names", submitting)
check("upload_async, and the file as an input", uploading)
check("stream_async", streaming)
check("realtime_async", live)


async def main() -> None:
    for name, body in checks.items():
        started = time.monotonic()
        pictures, error = [], None
        try:
            async with asyncio.timeout(20):
                pictures = await body()
        except Exception:  # noqa: BLE001  # it is what the check tells
            error = traceback.format_exc()
        line = {"check": name, "ok": error is None, "error": error, "pictures": pictures, "facts": {}}
        print(json.dumps({**line, "seconds": time.monotonic() - started}), flush=True)  # noqa: T201  # the test reads it


asyncio.run(main())
