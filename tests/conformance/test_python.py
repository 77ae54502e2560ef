"""fal-client 1.0.3, sync and async: run, queue, streams, failures, retries."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import fal_client
import pytest

from tests.conformance.python_client import LEAVES_SOCKETS, Client, client_of, seen
from tests.conformance.stage import APPLE, ENDPOINT, LONG, Stage
from tests.service import OTHER_KEY

pytestmark = [*LEAVES_SOCKETS]

Fault = fal_client.client.FalClientHTTPError


@pytest.fixture(params=["sync", "async"])
async def fal(request: pytest.FixtureRequest, on_stage: Stage) -> AsyncIterator[Client]:
    """A client of the gateway."""
    async with client_of(request.param, on_stage.base) as client:
        yield client


async def fault(call: object) -> Fault:
    """The error that a call must end with."""
    with pytest.raises(Fault) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def completed(fal: Client, request_id: str, **given: object) -> fal_client.Completed:
    """The status of a request once it is done."""
    async with asyncio.timeout(30):
        while True:
            status = await fal.status(ENDPOINT, request_id, **given)
            if isinstance(status, fal_client.Completed):
                return status
            await asyncio.sleep(0.03)


async def test_run(fal: Client, on_stage: Stage) -> None:
    answer = await fal.run(ENDPOINT, APPLE)
    assert (answer["seed"], answer["prompt"], answer["has_nsfw_concepts"]) == (7, "a red apple", [False])
    on_stage.reference.check(seen(answer["images"][0], APPLE, "red"))


async def test_subscribe_with_logs(fal: Client, on_stage: Stage) -> None:
    updates: list[fal_client.Status] = []
    ids: list[str] = []
    answer = await fal.subscribe(ENDPOINT, LONG, with_logs=True, on_enqueue=ids.append, on_queue_update=updates.append)
    assert len(ids) == 1
    assert any(isinstance(update, fal_client.InProgress) for update in updates)
    running = [update.logs for update in updates if isinstance(update, fal_client.InProgress)]
    assert all(len(first or []) <= len(second or []) for first, second in zip(running, running[1:], strict=False)), (
        "cumulative"
    )
    status = await completed(fal, ids[0], with_logs=True)
    assert status.logs and {"message", "timestamp", "level"} <= status.logs[0].keys()
    assert status.metrics["inference_time"] > 0
    assert len(answer["images"]) == 4
    on_stage.reference.check(seen(answer["images"][0], {**APPLE, "num_inference_steps": 32}))


async def test_submit_and_its_handle(fal: Client, on_stage: Stage) -> None:
    with on_stage.control.held():
        handle = await fal.submit(ENDPOINT, APPLE)
        queued = await fal.of(handle, "status")
        assert isinstance(queued, fal_client.Queued) and queued.position >= 0
        rebuilt = (
            await fal.get_handle(ENDPOINT, handle.request_id)
            if fal.is_async
            else fal.raw.get_handle(ENDPOINT, handle.request_id)
        )
        urls = ("response_url", "status_url", "cancel_url")
        assert [getattr(rebuilt, url) for url in urls] == [getattr(handle, url) for url in urls]
    answer = await fal.of(handle, "get")
    on_stage.reference.check(seen(answer["images"][0], APPLE))
    again = await fal.result(ENDPOINT, handle.request_id)
    assert again == answer


async def test_events_of_a_request(fal: Client) -> None:
    handle = await fal.submit(ENDPOINT, LONG)
    events = await fal.every(handle.iter_events(with_logs=True))
    assert isinstance(events[-1], fal_client.Completed)
    assert [type(event) for event in events[-2:]] == [fal_client.InProgress, fal_client.Completed]


async def test_cancel_queued(fal: Client, on_stage: Stage) -> None:
    with on_stage.control.held():
        handle = await fal.submit(ENDPOINT, APPLE)
        await fal.of(handle, "cancel")
        status = await completed(fal, handle.request_id)
        assert status.error_type == "client_cancelled"
        error = await fault(fal.of(handle, "get"))
        assert (error.status_code, error.error_type) == (499, "client_cancelled")
        assert "cancel" in str(error).lower()


async def test_cancel_running(fal: Client) -> None:
    handle = await fal.submit(ENDPOINT, LONG)
    async with asyncio.timeout(20):
        while not isinstance(await fal.of(handle, "status"), fal_client.InProgress):
            await asyncio.sleep(0.02)
    await fal.of(handle, "cancel")
    await completed(fal, handle.request_id)
    assert (await fault(fal.of(handle, "get"))).status_code == 499


async def test_cancel_done(fal: Client) -> None:
    handle = await fal.submit(ENDPOINT, APPLE)
    await completed(fal, handle.request_id)
    error = await fault(fal.of(handle, "cancel"))
    assert error.status_code == 400
    assert error.response.json()["status"] == "ALREADY_COMPLETED"


async def test_a_client_timeout_cancels(fal: Client, on_stage: Stage) -> None:
    with on_stage.control.held():
        with pytest.raises(fal_client.client.FalClientTimeoutError) as caught:
            await fal.subscribe(ENDPOINT, APPLE, client_timeout=2)
        assert caught.value.request_id is not None
        await completed(fal, caught.value.request_id)


async def test_a_start_timeout_is_a_504_of_the_user(fal: Client, on_stage: Stage) -> None:
    with on_stage.control.held():
        handle = await fal.submit(ENDPOINT, APPLE, start_timeout=1.1)
        await completed(fal, handle.request_id)
        on_stage.faults.plan([])
        error = await fault(fal.result(ENDPOINT, handle.request_id))
        assert (error.status_code, error.error_type) == (504, "request_timeout")
        assert error.response_headers["x-fal-request-timeout-type"] == "user"


async def test_bad_input_names_every_field(fal: Client) -> None:
    bad = {"prompt": "", "num_inference_steps": 99, "image_size": {"width": 128, "height": 0}}
    for call in (fal.run, fal.submit):
        error = await fault(call(ENDPOINT, bad))
        assert error.status_code == 422
        assert sorted(tuple(one["loc"]) for one in error.message) == [  # type: ignore[union-attr]
            ("body", "image_size", "height"),
            ("body", "num_inference_steps"),
            ("body", "prompt"),
        ]
        assert "32" in str(error)
        assert "num_inference_steps" in error.response.json()["message"]
        assert error.response_headers["x-fal-request-id"]


async def test_what_is_not_there(fal: Client) -> None:
    assert (await fault(fal.submit("fal-ai/none-such", APPLE))).status_code == 404
    assert (await fault(fal.run(f"{ENDPOINT}/none-such", APPLE))).status_code == 404
    nobody = str(uuid.uuid4())
    for call in (fal.status, fal.result, fal.cancel):
        assert (await fault(call(ENDPOINT, nobody))).status_code == 404


async def test_bad_keys(fal: Client, on_stage: Stage) -> None:
    for key in ("tester:wrong", "no-colon", "nobody:x"):
        async with client_of(fal.kind, on_stage.base, key) as nobody:
            error = await fault(nobody.submit(ENDPOINT, APPLE))
        assert error.status_code == 401
        assert len(str(error)) > 10


async def test_requests_of_another_key(fal: Client, on_stage: Stage) -> None:
    handle = await fal.submit(ENDPOINT, APPLE)
    async with client_of(fal.kind, on_stage.base, OTHER_KEY) as stranger:
        assert (await fault(stranger.status(ENDPOINT, handle.request_id))).status_code == 404
    await completed(fal, handle.request_id)


async def test_stream(fal: Client, on_stage: Stage) -> None:
    events = await fal.every(fal.raw.stream(ENDPOINT, {**APPLE, "num_inference_steps": 8}))
    assert len(events) >= 2
    on_stage.reference.check(seen(events[-1]["images"][0], {**APPLE, "num_inference_steps": 8}))


async def test_priority_hint_and_headers_are_taken(fal: Client, on_stage: Stage) -> None:
    headers = {"x-fal-store-io": "0", "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 3600}'}
    answer = await fal.subscribe(ENDPOINT, APPLE, hint="warm", priority="low", headers=headers)
    on_stage.reference.check(seen(answer["images"][0], APPLE))


async def test_a_service_that_is_away_is_asked_again(fal: Client, on_stage: Stage) -> None:
    on_stage.faults.plan(["429", "lost"])
    key = {"Idempotency-Key": str(uuid.uuid4())}
    async with client_of(fal.kind, on_stage.faults.url) as patient:
        handle = await patient.submit(ENDPOINT, APPLE, headers=key)
    asked = on_stage.faults.plan([])
    assert [one.answered for one in asked] == [429, 0, 200]
    assert asked[1].request_id == asked[2].request_id == handle.request_id, "the one whose answer was lost"
    await completed(fal, handle.request_id)
