"""Webhooks of the whole service, over gRPC and HTTP, with receivers that were written from the public description alone."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import httpx
from PIL import Image

from flashbulb.v1 import queue_pb2
from tests.driving import SECONDS, Caller, back, refusal, stopped, until
from tests.receiver import Receiver, verified
from tests.service import SPARE_KEYS, RunningService, apple, auth, stubs

Delivery = queue_pb2.WebhookDelivery.State
_keys = iter(reversed(SPARE_KEYS))
INPUT = {"prompt": "a red apple", "seed": 7, "num_inference_steps": 2, "image_size": {"width": 128, "height": 128}}


def published_keys(service: RunningService) -> list[dict[str, str]]:
    """The keys as a receiver fetches them, without any credentials."""
    with urllib.request.urlopen(f"http://{service.http_address}/rest/.well-known/jwks.json") as answer:
        assert answer.headers["cache-control"] == "public, max-age=3600"
        keys: list[dict[str, str]] = json.load(answer)["keys"]
    return keys


def accepted(receiver: Receiver, service: RunningService) -> bool:
    keys = published_keys(service)
    return bool(receiver.came) and all(verified(d.headers, d.body, keys) for d in receiver.came)


async def settled(caller: Caller, request_id: str, seconds: float = 30) -> queue_pb2.WebhookDelivery:
    """The delivery, once nothing more will come of it."""
    async with asyncio.timeout(seconds):
        while (found := (await caller.status(request_id)).webhook).state == Delivery.STATE_PENDING:
            await asyncio.sleep(0.05)
        return found


async def test_the_pictures_of_a_request_come_with_its_webhook(breakable, unsteady):
    async with Receiver() as receiver:
        request = await unsteady.submit(apple(sync_mode=True, num_images=2), webhook_url=receiver.url)
        assert request.webhook.url_host == "127.0.0.1"
        assert request.webhook.state == Delivery.STATE_PENDING
        [came] = await receiver.wait_for(1)
        delivery = await settled(unsteady, request.request_id)
    assert delivery.state == Delivery.STATE_DELIVERED
    assert [(a.status_code, a.error) for a in delivery.attempts] == [(200, "")]
    assert "s3cret" not in str(await unsteady.status(request.request_id))
    assert accepted(receiver, breakable)
    assert came.headers["x-fal-webhook-user-id"] == unsteady.key.partition(":")[0]
    told = came.json
    assert set(told) == {"request_id", "gateway_request_id", "status", "payload"}
    assert (told["request_id"], told["status"]) == (request.request_id, "OK")
    output = (await unsteady.result(request.request_id)).output
    payload = told["payload"]
    assert (payload["seed"], payload["prompt"]) == (7, "a red apple")
    assert payload["has_nsfw_concepts"] == list(output.has_nsfw_concepts)
    assert len(payload["images"]) == 2
    for image, drawn in zip(payload["images"], output.images, strict=True):
        assert image["url"].startswith("http"), "links, also with sync_mode"
        async with httpx.AsyncClient() as client:
            picture = await client.get(image["url"])
        assert picture.content == drawn.content
        assert Image.open(io.BytesIO(picture.content)).size == (image["width"], image["height"]) == (128, 128)


async def test_fal_webhook_of_the_gateway_is_the_same(breakable):
    key = next(_keys)
    base = f"http://{breakable.http_address}/queue/fal-ai/fast-lcm-diffusion"
    async with Receiver() as receiver, httpx.AsyncClient(headers={"authorization": f"Key {key}"}) as client:
        answer = await client.post(base, params={"fal_webhook": receiver.url}, json=INPUT)
        assert answer.status_code == 200, answer.text
        request_id = answer.json()["request_id"]
        assert answer.json()["gateway_request_id"] == request_id
        [came] = await receiver.wait_for(1)
        assert came.json["gateway_request_id"] == came.json["request_id"] == request_id
        result = (await client.get(f"{base}/requests/{request_id}")).json()
        for name in ("seed", "prompt", "has_nsfw_concepts", "timings"):
            assert came.json["payload"][name] == result[name]
        assert accepted(receiver, breakable)
        async with asyncio.timeout(10):
            while True:
                status = (await client.get(f"{base}/requests/{request_id}/status")).json()
                if status["webhook"]["state"] == "DELIVERED":
                    break
                await asyncio.sleep(0.1)
        assert [a["status_code"] for a in status["webhook"]["attempts"]] == [200]
        again = await client.post(f"{base}/requests/{request_id}/webhook")
        assert (again.status_code, again.json()["state"]) == (202, "PENDING")
        await receiver.wait_for(2)
        bad = await client.post(base, params={"fal_webhook": "ftp://x"}, json={**INPUT, "prompt": ""})
        assert bad.status_code == 422
        assert sorted(d["loc"] for d in bad.json()["detail"]) == [["body", "prompt"], ["query", "fal_webhook"]]
    assert receiver.ids() == [request_id, request_id]


async def test_a_request_that_was_cancelled_or_has_expired_is_told_too(breakable, unsteady):
    async with Receiver() as receiver:
        with stopped(breakable):
            cancelled = await unsteady.submit(webhook_url=receiver.url)
            expired = await unsteady.submit(webhook_url=receiver.url, start_timeout={"nanos": 200_000_000})
            await unsteady.cancel(cancelled.request_id)
            await receiver.wait_for(2)
    told = {d.request_id: d.json for d in receiver.came}
    assert told[cancelled.request_id]["status"] == told[expired.request_id]["status"] == "ERROR"
    assert told[cancelled.request_id]["error"] == "Invalid status code: 499"
    assert told[expired.request_id]["error"] == "Invalid status code: 504"
    assert told[expired.request_id]["payload"]["error_type"] == "request_timeout"
    assert accepted(receiver, breakable)


async def test_redelivery_on_demand(breakable, unsteady):
    async with Receiver() as receiver:
        request = await unsteady.submit(webhook_url=receiver.url)
        await settled(unsteady, request.request_id)
        renewed = await redeliver(unsteady, request.request_id)
        assert renewed.webhook.state == Delivery.STATE_PENDING
        await receiver.wait_for(2)
        delivery = await settled(unsteady, request.request_id)
    assert len(delivery.attempts) == 2
    assert receiver.ids() == [request.request_id] * 2
    plain = await unsteady.submit()
    assert (await refusal(redeliver(unsteady, plain.request_id))).reason == "NO_WEBHOOK"
    assert (
        await refusal(redeliver(Caller(unsteady.call, next(_keys)), request.request_id))
    ).reason == "REQUEST_NOT_FOUND"
    slow = await unsteady.submit(apple(num_inference_steps=32, num_images=8), webhook_url="http://127.0.0.1:1/")
    assert (await refusal(redeliver(unsteady, slow.request_id))).reason == "REQUEST_NOT_FINISHED"
    await unsteady.cancel(slow.request_id)


async def redeliver(caller: Caller, request_id: str) -> queue_pb2.GenerationRequest:
    request = queue_pb2.RedeliverWebhookRequest(request_id=request_id)
    answer = await caller.call.queue.RedeliverWebhook(request, metadata=auth(caller.key), timeout=SECONDS)
    return answer.request


async def test_bad_urls_are_named_beside_the_other_bad_fields(service, me):
    for url in ("ftp://example.org", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/", "http://10.0.0.1/"):
        refused = await refusal(me.submit(apple(num_images=99), webhook_url=url))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert sorted(refused.fields) == ["num_images", "webhook_url"], url


def test_an_operator_lists_and_rotates_the_keys(narrow_service: RunningService, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "flashbulb_server.cli", "webhook-keys", *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    folder = ("--data-dir", str(narrow_service.data_dir))
    listed = run(*folder)
    assert listed.returncode == 0, listed.stderr
    [key] = published_keys(narrow_service)
    assert listed.stdout.startswith(f"{key['kid']}  signs since ")
    rotated = run(*folder, "--rotate").stdout.splitlines()
    assert rotated[0] == listed.stdout.rstrip("\n") and "  will sign from " in rotated[1]
    assert run("--data-dir", str(tmp_path)).returncode == 2


async def test_an_api_that_is_killed_amid_a_delivery_leaves_it_to_the_next(breakable, unsteady):
    killed = asyncio.Event()

    async def hold(_) -> int:
        await killed.wait()
        return 200

    async with Receiver(hold) as receiver:
        request = await unsteady.submit(webhook_url=receiver.url)
        await receiver.wait_for(1)
        old = breakable.kill_child("api")
        killed.set()
        await receiver.wait_for(2, seconds=30)
        await back(breakable, "api", old)
        async with grpc.aio.insecure_channel(breakable.address) as channel:
            again = Caller(stubs(channel), unsteady.key)
            async with asyncio.timeout(30):
                while True:
                    try:
                        delivery = await settled(again, request.request_id)
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.1)
    assert delivery.state == Delivery.STATE_DELIVERED
    assert set(receiver.ids()) == {request.request_id}
    assert len(receiver.came) == 2  # at least once: the first answer was lost with the api
    assert accepted(receiver, breakable)


async def test_a_receiver_that_is_down_while_the_service_restarts_gets_each_once(breakable, unsteady):
    """Minutes, compressed: retries go on over a restart of everything, and the keys stay the same."""
    receiver = Receiver()
    await receiver.start()
    await receiver.stop()
    try:
        ids = [(await unsteady.submit(webhook_url=receiver.url)).request_id for _ in range(5)]

        async def all_were_tried_twice() -> bool:
            return all([len((await unsteady.status(i)).webhook.attempts) >= 2 for i in ids])

        await until(all_were_tried_twice, 30)
        keys = published_keys(breakable)
        breakable.stop(signal.SIGKILL)
        breakable.start()
        assert published_keys(breakable) == keys
        await receiver.start()
        async with grpc.aio.insecure_channel(breakable.address) as channel:
            again = Caller(stubs(channel), unsteady.key)
            for request_id in ids:
                assert (await settled(again, request_id)).state == Delivery.STATE_DELIVERED
        assert sorted(receiver.ids()) == sorted(ids)
        assert accepted(receiver, breakable)
        assert "s3cret" not in breakable.log.read_text()
    finally:
        await receiver.stop()
