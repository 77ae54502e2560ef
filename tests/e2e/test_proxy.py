"""The contract of fal's server-side proxy with the whole service: any call through one path, to this server and no other."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.service import KEY, OTHER_KEY, RunningService
from tests.sockets import APPLE, LCM, http

PATH = "/api/fal/proxy"


async def through(client: httpx.AsyncClient, method: str, target: str, **options: object) -> httpx.Response:
    """A call as fal's client sends it to a proxy."""
    return await client.request(method, PATH, headers={"x-fal-target-url": target}, **options)  # type: ignore[arg-type]


async def test_a_page_without_a_key_acts_as_the_operators(gateway: RunningService) -> None:
    async with http(gateway, key=None) as page, http(gateway) as owner, http(gateway, key=OTHER_KEY) as other:
        drawn = await through(page, "POST", f"https://fal.run/{LCM}", json=APPLE)
        assert drawn.status_code == 200 and drawn.json()["images"], drawn.text
        assert drawn.headers["x-fal-request-id"]
        queued = (await through(page, "POST", f"https://queue.fal.run/{LCM}", json=APPLE)).json()
        request = f"{LCM}/requests/{queued['request_id']}"
        assert queued["status_url"] == f"http://{gateway.http_address}/queue/{request}/status"
        status = await through(page, "GET", f"https://queue.fal.run/{request}/status?logs=1")
        assert status.status_code in (200, 202) and status.json()["request_id"] == queued["request_id"]
        events = await through(page, "GET", f"https://queue.fal.run/{request}/status/stream?logs=1")
        assert events.headers["content-type"].startswith("text/event-stream")
        last = [line for line in events.text.splitlines() if line.startswith("data:")][-1]
        assert json.loads(last.removeprefix("data:"))["status"] == "COMPLETED"
        cancelled = await through(page, "PUT", f"https://queue.fal.run/{request}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (400, "ALREADY_COMPLETED")
        assert (await owner.get(f"/queue/{request}")).status_code == 200
        assert (await other.get(f"/queue/{request}")).status_code == 404, "it belongs to the operator's key"


async def test_a_key_of_its_own_counts(gateway: RunningService) -> None:
    async with http(gateway, key=OTHER_KEY) as other, http(gateway, key="nobody:x") as nobody:
        queued = (await through(other, "POST", f"https://queue.fal.run/{LCM}", json=APPLE)).json()
        async with http(gateway) as owner:
            assert (await owner.get(f"/queue/{LCM}/requests/{queued['request_id']}/status")).status_code == 404
        assert (await through(nobody, "POST", f"https://fal.run/{LCM}", json=APPLE)).status_code == 401


async def test_uploads_and_tokens_go_through(gateway: RunningService) -> None:
    async with http(gateway, key=None) as page:
        target = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
        made = (await through(page, "POST", target, json={"content_type": "text/plain", "file_name": "a.txt"})).json()
        assert (await page.put(made["upload_url"], content="through")).status_code == 200
        assert (await page.get(made["file_url"])).text == "through"
        token = await through(
            page, "POST", "https://rest.fal.ai/tokens/", json={"allowed_apps": ["fast-lcm-diffusion"]}
        )
        assert isinstance(token.json(), str)


async def test_addresses_of_this_server_are_targets_too(gateway: RunningService) -> None:
    async with http(gateway, key=None) as page:
        drawn = await through(page, "POST", f"http://{gateway.http_address}/run/{LCM}", json=APPLE)
        assert drawn.status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://example.com/fal-ai/fast-lcm-diffusion",
        "http://127.0.0.1:1/run/fal-ai/fast-lcm-diffusion",
        "https://fal.run.example.com/x",
        "https://user@example.com\\@fal.run/x",
        "ftp://fal.run/x",
        "/run/fal-ai/fast-lcm-diffusion",
        "http://[::1/",
    ],
)
async def test_no_other_server_is_called(gateway: RunningService, target: str) -> None:
    async with http(gateway, key=None) as page:
        refused = await through(page, "POST", target, json=APPLE)
        assert refused.status_code == 400 and "x-fal-target-url" in refused.json()["detail"]


async def test_the_proxy_is_no_target_of_itself(gateway: RunningService) -> None:
    async with http(gateway, key=None) as page:
        refused = await through(page, "POST", f"http://{gateway.http_address}{PATH}", json=APPLE)
        assert refused.status_code == 400


async def test_without_the_operators_word_a_key_is_needed(narrow_service: RunningService) -> None:
    async with http(narrow_service, key=None) as page, http(narrow_service, key=KEY) as owner:
        refused = await through(page, "POST", f"https://fal.run/{LCM}", json=APPLE)
        assert (refused.status_code, refused.json()["detail"]) == (401, "Authorization header is required")
        assert (await through(owner, "POST", f"https://fal.run/{LCM}", json=APPLE)).status_code == 200
