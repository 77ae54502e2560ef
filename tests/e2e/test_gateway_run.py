"""The gateway's direct calls: pictures at once, streams, refusals, and callers who leave."""

from __future__ import annotations

import asyncio
import time

import grpc
import httpx
import pytest

from tests.driving import Caller, distance, stopped, until
from tests.gateway import LCM, LONG, Fal, events, picture, quick
from tests.service import OTHER_KEY, RunningService, apple


async def test_a_prompt_becomes_a_picture(fal: Fal) -> None:
    answer = await fal.run(quick(format="png", request_id="mine"))
    output = answer.json()
    assert answer.status_code == 200
    assert set(output) == {
        *("images", "timings", "seed", "has_nsfw_concepts", "prompt"),
        *("model_name", "fidelity", "backend", "request_id"),
    }
    (image,) = output["images"]
    assert (picture(image).format, picture(image).size) == ("PNG", (128, 128))
    assert (image["width"], image["height"], image["content_type"]) == (128, 128, "image/png")
    assert (output["seed"], output["prompt"], output["has_nsfw_concepts"]) == (7, "a red apple", [False])
    assert output["request_id"] == "mine"
    assert output["timings"]["inference"] > 0
    assert len(answer.headers["x-fal-request-id"]) == 36


async def test_the_picture_is_the_one_of_grpc(fal: Fal, me: Caller) -> None:
    ours = picture((await fal.run(quick(format="png"))).json()["images"][0])
    theirs = (await me.generate(apple(format=2))).images[0].content
    import io

    buffer = io.BytesIO()
    ours.save(buffer, "png")
    assert distance(buffer.getvalue(), theirs) <= 1


async def test_the_input_may_stand_in_the_query(fal: Fal) -> None:
    query = {"prompt": "a red apple", "num_inference_steps": "2", "seed": "7", "image_size": "square", "format": "png"}
    output = (await fal.http.get(f"/run/{LCM}", params=query)).json()
    assert picture(output["images"][0]).size == (512, 512)
    assert (await fal.http.get(f"/run/{LCM}", params={"prompt": "x", "seed": "no"})).status_code == 422


async def test_without_sync_mode_there_is_a_link(fal: Fal) -> None:
    (image,) = (await fal.run(quick(sync_mode=False))).json()["images"]
    async with httpx.AsyncClient(trust_env=False) as http:
        content = (await http.get(image["url"])).raise_for_status().content
    assert len(content) == image["file_size"]


async def test_image_to_image_from_a_data_uri(fal: Fal) -> None:
    drawn = (await fal.run(quick(format="png"))).json()["images"][0]
    edited = await fal.run(quick(image_url=drawn["url"], strength=0.5, format="png"), f"{LCM}/image-to-image")
    assert picture(edited.json()["images"][0]).size == (128, 128)


async def test_every_wrong_field_is_named(fal: Fal) -> None:
    bad = {"seed": 1.5, "num_images": 9, "format": "gif", "image_size": {"width": 0}, "sync_mode": "yes"}
    answer = await fal.run(bad)
    body = answer.json()
    found = {tuple(entry["loc"]): (entry["type"], entry.get("ctx")) for entry in body["detail"]}
    assert answer.status_code == 422
    assert found == {
        ("body", "prompt"): ("missing", None),
        ("body", "image_size", "width"): ("greater_than_equal", {"ge": 1}),
        ("body", "seed"): ("int_type", None),
        ("body", "sync_mode"): ("bool_type", None),
        ("body", "num_images"): ("less_than_equal", {"le": 8}),
        ("body", "format"): ("one_of", {"expected": ["jpeg", "png"]}),
    }
    assert "prompt: is required" in body["message"]
    assert answer.headers["x-fal-needs-retry"] == "0"


@pytest.mark.parametrize(
    ("image_url", "kind"),
    [
        ("data:image/png;base64,aGVsbG8=", "image_load_error"),
        ("http://127.0.0.1:9/a.png", "file_download_error"),
        ("ftp://a/b.png", "value_error"),
        ("data:image/png;base64,\ud800", "value_error"),
        (5, "string_type"),
    ],
)
async def test_a_bad_picture_is_told(fal: Fal, image_url: object, kind: str) -> None:
    import json

    body = json.dumps(quick(image_url=image_url))
    answer = await fal.http.post(f"/run/{LCM}/image-to-image", content=body)
    (entry,) = answer.json()["detail"]
    assert (answer.status_code, entry["loc"], entry["type"]) == (422, ["body", "image_url"], kind)


@pytest.mark.parametrize("path", ["acme/flux-lora", f"{LCM}/other", "fal-ai", "", "fal-ai/no-such-model"])
async def test_an_unknown_endpoint_is_told_which_there_are(fal: Fal, path: str) -> None:
    answer = await fal.http.post(f"/run/{path}", json=quick())
    assert answer.status_code == 404
    assert LCM in answer.json()["detail"] and answer.json()["error_type"] == "not_found"


async def test_an_endpoint_without_a_model_is_told(fal: Fal) -> None:
    answer = await fal.run(quick(), "fal-ai/flux-lora")
    assert (answer.status_code, answer.json()["error_type"]) == (404, "endpoint_unavailable")
    assert "fast-lcm-diffusion" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        (None, "Authorization header is required"),
        ("Key opaque", "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."),
        ("Basic dGVzdA==", "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."),
        ("Key tester:wrong", "No user found for Key ID and Secret"),
        ("Bearer no.token", "the token is not valid: it was not made by this server, or is broken"),
    ],
)
async def test_a_caller_must_have_a_key(service: RunningService, authorization: str | None, detail: str) -> None:
    headers = {"authorization": authorization} if authorization else {}
    async with httpx.AsyncClient(base_url=f"http://{service.http_address}", trust_env=False) as http:
        for surface in ("run", "queue"):
            answer = await http.post(f"/{surface}/{LCM}", json=quick(), headers=headers)
            assert (answer.status_code, answer.json()["detail"]) == (401, detail)


async def test_a_key_may_come_as_bearer(service: RunningService) -> None:
    headers = {"authorization": f"Bearer {OTHER_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://{service.http_address}", trust_env=False, timeout=30) as http:
        assert (await http.post(f"/run/{LCM}", json=quick(), headers=headers)).status_code == 200


async def test_a_stream_shows_previews_and_ends_with_the_output(fal: Fal) -> None:
    told = await fal.stream("POST", f"/run/{LCM}/stream", json=quick(num_inference_steps=8))
    *previews, output = told
    assert previews and all(event["preview"] for event in previews)
    assert all(picture(event["images"][0]).format == "JPEG" for event in previews)
    assert picture(output["images"][0]).size == (128, 128)
    assert (output["seed"], "preview" in output) == (7, False)


async def test_a_stream_that_cannot_begin_has_a_status(fal: Fal) -> None:
    assert (await fal.http.post(f"/run/{LCM}/stream", json={})).status_code == 422
    assert (await fal.http.post("/run/fal-ai/flux-lora/stream", json=quick())).status_code == 404


async def test_a_caller_that_leaves_stops_the_drawing(fal: Fal, me: Caller) -> None:
    """What is left of eight pictures of 32 steps would keep the engine for seconds; the next call has it for itself."""

    async def alone() -> bool:
        output = await me.generate()
        return output.mean_batch_size == 1

    with pytest.raises(httpx.ReadTimeout):
        await fal.run(quick(**LONG), timeout=httpx.Timeout(5, read=0.5))
    async with asyncio.timeout(3):
        await until(alone)


async def test_a_stream_that_is_left_stops_the_drawing(fal: Fal, me: Caller) -> None:
    async def alone() -> bool:
        return (await me.generate()).mean_batch_size == 1

    async with fal.http.stream("POST", f"/run/{LCM}/stream", json=quick(**LONG)) as answer:
        async for _ in events(answer):
            break
    async with asyncio.timeout(3):
        await until(alone)


async def test_a_stream_that_is_left_before_its_first_event_stops_the_drawing(
    narrow_service: RunningService, narrow: Caller
) -> None:
    """A worker that draws one request at a time is free again long before it would have drawn that one to its end."""
    started = time.monotonic()
    await narrow.generate(apple(**LONG))
    whole = time.monotonic() - started
    headers = {"authorization": f"Key {narrow.key}"}
    async with httpx.AsyncClient(base_url=f"http://{narrow_service.http_address}", trust_env=False) as http:
        with stopped(narrow_service), pytest.raises(httpx.ReadTimeout):
            await http.post(
                f"/run/{LCM}/stream", json=quick(**LONG), headers=headers, timeout=httpx.Timeout(5, read=0.5)
            )

    async def free() -> bool:
        try:
            await narrow.generate()
        except grpc.aio.AioRpcError as err:
            assert err.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False
        return True

    async with asyncio.timeout(whole / 2):
        await until(free)


async def test_what_does_not_start_in_time_is_told_so(narrow_service: RunningService, narrow: Caller) -> None:
    headers = {"authorization": f"Key {narrow.key}", "x-fal-request-timeout": "0.5"}
    async with httpx.AsyncClient(base_url=f"http://{narrow_service.http_address}", trust_env=False) as http:
        with stopped(narrow_service):
            answer = await http.post(f"/run/{LCM}", json=quick(), headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["error_type"]) == (504, "request_timeout")
    assert answer.headers["x-fal-request-timeout-type"] == "user"


@pytest.mark.parametrize("value", ["no", "nan", "0", "1e99"])
async def test_a_bad_timeout_is_told(fal: Fal, value: str) -> None:
    answer = await fal.run(quick(), headers={"x-fal-request-timeout": value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "x-fal-request-timeout"]


async def test_a_body_that_is_too_large_is_refused(fal: Fal) -> None:
    answer = await fal.http.post(f"/run/{LCM}", content=b" " * (21 << 20))
    assert (answer.status_code, answer.json()["error_type"]) == (413, "file_too_large")


async def test_pages_of_any_origin_may_call(fal: Fal) -> None:
    asked = "authorization,x-fal-queue-priority,content-type"
    wish = {"origin": "https://a.example", "access-control-request-method": "POST"}
    answer = await fal.http.options(f"/run/{LCM}", headers={**wish, "access-control-request-headers": asked})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert answer.headers["access-control-allow-headers"] == asked
    refused = await fal.run({}, headers={"origin": "https://a.example"})
    assert refused.headers["access-control-allow-origin"] == "*"
    assert "x-fal-request-id" in refused.headers["access-control-expose-headers"]


async def test_names_of_hosts_serve_as_well(fal: Fal) -> None:
    drawn = await fal.http.post(f"/{LCM}", json=quick(), headers={"host": "fal.run"})
    assert drawn.status_code == 200
    queued = await fal.http.post(
        f"/{LCM}", json=quick(), headers={"host": "queue.fal.run", "x-forwarded-proto": "https"}
    )
    assert queued.json()["status_url"].startswith(f"https://queue.fal.run/{LCM}/requests/")


async def test_probes_need_no_key(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=f"http://{service.http_address}", trust_env=False) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json()["models"] == ["flashbulb/tiny"]
        unknown = await http.get("/nothing")
        assert (unknown.status_code, unknown.json()["error_type"]) == (404, "not_found")
        assert (await http.head(f"/run/{LCM}")).status_code == 405
