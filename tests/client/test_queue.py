"""Submitting, watching, results, cancelling and listing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

import flashbulb
from flashbulb import Logged, Previewed, State, StatusChanged, Stepped
from flashbulb.v1 import generation_pb2, input_pb2, queue_pb2
from tests.client import scripted
from tests.client.scripted import Hang, changed, failure, finished, stepped, submitted

QUEUED, RUNNING, SUCCEEDED = (getattr(scripted.State, f"STATE_{s}") for s in ("QUEUED", "RUNNING", "SUCCEEDED"))


async def test_subscribe_submits_watches_and_answers(client, server):
    server.expect("Submit", submitted())
    server.expect(
        "WatchStatus",
        [
            changed(0, QUEUED, queue_position=2),
            changed(3, RUNNING),
            stepped(4, 1),
            stepped(5, 4),
            changed(6, SUCCEEDED),
        ],
    )
    server.expect("GetResult", finished(count=2))
    events = []

    result = await client.subscribe(
        prompt="a red apple", image_size=(512, 384), seed=7, priority="low", start_timeout=1.5, on_update=events.append
    )

    sent = server.requests("Submit")[0]
    fields = sent.input.fast_lcm_text_to_image
    assert (fields.prompt, fields.seed, fields.image_size.dimensions.width) == ("a red apple", 7, 512)
    assert sent.priority == queue_pb2.PRIORITY_LOW
    assert sent.start_timeout.ToTimedelta().total_seconds() == 1.5
    assert server.calls[0].metadata["authorization"] == f"Key {scripted.KEY}"
    assert server.calls[0].metadata["user-agent"].startswith("flashbulb-python/")
    states = [e.status.state for e in events if isinstance(e, StatusChanged)]
    assert states == [State.QUEUED, State.RUNNING, State.SUCCEEDED]
    assert events[0].status.queue_position == 2
    assert [(e.step, e.total_steps) for e in events if isinstance(e, Stepped)] == [(1, 4), (4, 4)]
    assert result.request_id == "r1"
    assert result.label == "mine"
    assert [image.seed for image in result.images] == [7, 8]
    assert result.resolved_input == flashbulb.TextToImage("a red apple", seed=7)
    assert (result.fidelity, result.mean_batch_size, result.timings["wait"]) == ("exact", 1.5, 0.01)
    assert (result.model_name, result.stand_in_for) == ("flashbulb/tiny", "")
    assert result.backend == "torch cpu float32"
    assert result.has_nsfw_concepts == (False, False)


async def test_on_update_may_be_a_coroutine_function(client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(1, SUCCEEDED)])
    server.expect("GetResult", finished())
    seen = []

    async def on_update(event):
        await asyncio.sleep(0)
        seen.append(event)

    await client.subscribe(prompt="a", on_update=on_update)
    assert len(seen) == 1


async def test_a_watch_asks_for_logs_and_previews_and_skips_what_it_does_not_know(client, server):
    log = generation_pb2.LogEntry(level=generation_pb2.LOG_LEVEL_WARN, message="slow")
    log.log_time.FromDatetime(datetime(2030, 1, 2, tzinfo=UTC))
    preview = generation_pb2.Preview(image_index=1, step=2, content=b"j", content_type="image/jpeg")
    unknown = queue_pb2.WatchStatusResponse.FromString(
        b"\x08\x03\xaa\x06\x01x"
    )  # sequence 3, and a member 101 of later times
    server.expect(
        "WatchStatus",
        [
            queue_pb2.WatchStatusResponse(sequence=2, log=log),
            queue_pb2.WatchStatusResponse(preview=preview),
            queue_pb2.WatchStatusResponse(heartbeat=queue_pb2.Heartbeat()),
            unknown,
            changed(4, 99),
            changed(5, SUCCEEDED),
        ],
    )
    events = [event async for event in client.watch("r1", 1, logs=True, previews=True)]

    sent = server.requests("WatchStatus")[0]
    assert (sent.after_sequence, sent.include_logs, sent.include_previews) == (1, True, True)
    assert events[0] == Logged(2, None, flashbulb.LogLine(datetime(2030, 1, 2, tzinfo=UTC), "warn", "slow"))
    assert events[1] == Previewed(0, None, 1, 2, b"j", "image/jpeg")
    assert [event.status.state for event in events[2:]] == [State.UNKNOWN, State.SUCCEEDED]


async def test_a_handle_knows_its_request(client, server):
    server.expect("Submit", submitted("r9", deduplicated=True))
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request("r9", RUNNING)))
    server.expect("WatchStatus", [changed(1, SUCCEEDED)])
    server.expect("GetResult", finished("r9"))
    server.expect(
        "Cancel",
        queue_pb2.CancelResponse(
            previous_state=SUCCEEDED, request=scripted.request("r9", SUCCEEDED), stopped_at_step=4
        ),
    )
    handle = await client.submit(flashbulb.TextToImage("a"), seed=3, idempotency_key="mine")

    assert (handle.request_id, handle.deduplicated, handle.submitted.state) == ("r9", True, State.QUEUED)
    assert server.requests("Submit")[0].idempotency_key == "mine"
    assert server.requests("Submit")[0].input.fast_lcm_text_to_image.seed == 3
    assert (await handle.status(logs=True)).state is State.RUNNING
    assert server.requests("GetStatus")[0].include_logs
    assert [event.sequence async for event in handle.watch()] == [1]
    assert (await handle.result()).request_id == "r9"
    receipt = await handle.cancel()
    assert (receipt.previous_state, receipt.stopped_at_step, receipt.saved_steps) == (State.SUCCEEDED, 4, 0)
    assert {r.request_id for r in server.requests("Cancel") + server.requests("WatchStatus")} == {"r9"}


async def test_a_result_is_waited_for(client, server):
    server.expect("GetResult", failure("FAILED_PRECONDITION", "REQUEST_NOT_FINISHED"))
    server.expect("WatchStatus", [changed(0, RUNNING), changed(2, SUCCEEDED)])
    server.expect("GetResult", finished())
    assert (await client.result("r1")).images[0].content == b"jpeg"


async def test_a_result_is_not_waited_for_if_not_wanted(client, server):
    server.expect("GetResult", failure("FAILED_PRECONDITION", "REQUEST_NOT_FINISHED", metadata={"state": "QUEUED"}))
    with pytest.raises(flashbulb.NotFinished) as caught:
        await client.result("r1", wait=False)
    assert caught.value.metadata == {"state": "QUEUED"}


async def test_waiting_for_a_result_has_a_limit_and_cancels_nothing(client, server):
    server.expect("GetResult", failure("FAILED_PRECONDITION", "REQUEST_NOT_FINISHED"))
    server.expect("WatchStatus", [changed(0, RUNNING), Hang()])
    with pytest.raises(flashbulb.DeadlineExceeded, match="has not ended within 0.3 s"):
        await client.result("r1", timeout=0.3)


async def test_lists_page_by_themselves(client, server):
    pages = [
        queue_pb2.ListResponse(requests=[scripted.request(f"r{i}") for i in ids], next_page_token=token)
        for ids, token in (((1, 2), "p2"), ((), "p3"), ((3,), ""))
    ]
    server.expect("List", *pages)
    found = [status.request_id async for status in client.list([State.RUNNING, "queued"], page_size=2)]

    assert found == ["r1", "r2", "r3"]
    sent = server.requests("List")
    assert [r.page_token for r in sent] == ["", "p2", "p3"]
    assert all((r.page_size, list(r.states)) == (2, [RUNNING, QUEUED]) for r in sent)


async def test_a_list_fetches_no_page_that_is_not_needed(client, server):
    server.expect("List", queue_pb2.ListResponse(requests=[scripted.request("r1")], next_page_token="p2"))
    async for status in client.list():
        assert status.request_id == "r1"
        break


async def test_a_status_holds_all_that_the_server_says(client, server):
    message = scripted.request("r1", RUNNING, model_name="flashbulb/tiny", priority=queue_pb2.PRIORITY_NORMAL)
    message.eta.FromMilliseconds(2500)
    message.progress.step, message.progress.total_steps = 2, 6
    message.create_time.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
    message.error.CopyFrom(failure("INTERNAL", "WORKER_LOST", "2 workers were lost").status)
    message.logs.add(level=generation_pb2.LOG_LEVEL_INFO, message="started")
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=message))

    status = await client.status("r1")

    assert (status.model_name, status.priority, status.eta, status.step, status.total_steps) == (
        "flashbulb/tiny",
        "normal",
        2.5,
        2,
        6,
    )
    assert status.create_time == datetime(2030, 1, 1, tzinfo=UTC)
    assert (status.queue_position, status.end_time) == (None, None)
    assert isinstance(status.error, flashbulb.RequestFailed)
    assert status.logs[0].message == "started"


async def test_a_webhook_is_asked_for_followed_and_asked_for_again(client, server):
    message = scripted.request("r1", SUCCEEDED)
    message.webhook.url_host, message.webhook.state = "example.org", queue_pb2.WebhookDelivery.STATE_PENDING
    message.webhook.next_attempt_time.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
    attempt = message.webhook.attempts.add(status_code=503, error="the receiver answered 503")
    attempt.attempt_time.FromDatetime(datetime(2029, 12, 31, tzinfo=UTC))
    server.expect("Submit", submitted("r1"))
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=message))
    server.expect("RedeliverWebhook", queue_pb2.RedeliverWebhookResponse(request=message))

    handle = await client.submit(prompt="x", webhook_url="https://example.org/hook")
    status = await handle.status()
    again = await client.redeliver_webhook("r1")

    assert handle.submitted.webhook is None
    assert server.requests("Submit")[0].webhook_url == "https://example.org/hook"
    assert status.webhook == flashbulb.WebhookDelivery(
        "example.org",
        "pending",
        (flashbulb.WebhookAttempt(datetime(2029, 12, 31, tzinfo=UTC), 503, "the receiver answered 503"),),
        datetime(2030, 1, 1, tzinfo=UTC),
    )
    assert server.requests("RedeliverWebhook")[0].request_id == "r1"
    assert again == status


async def test_a_request_without_a_webhook_has_none_to_send_again(client, server):
    server.expect("RedeliverWebhook", failure("FAILED_PRECONDITION", "NO_WEBHOOK", "request r1 has no webhook"))
    with pytest.raises(flashbulb.NoWebhook):
        await client.redeliver_webhook("r1")


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("INTERNAL", "ENGINE_FAILED", flashbulb.RequestFailed),
        ("INTERNAL", "WORKER_LOST", flashbulb.RequestFailed),
        ("CANCELLED", "REQUEST_CANCELLED", flashbulb.RequestCancelled),
        ("DEADLINE_EXCEEDED", "START_TIMEOUT", flashbulb.RequestExpired),
        ("INVALID_ARGUMENT", "INVALID_INPUT", flashbulb.InvalidInput),
        ("UNAVAILABLE", "STORE_UNAVAILABLE", flashbulb.RequestFailed),
        ("UNKNOWN", "", flashbulb.RequestFailed),
    ],
)
async def test_an_outcome_without_pictures_is_an_error(client, server, code, reason, expected):
    outcome = queue_pb2.GetResultResponse(request_id="r1", error=failure(code, reason, "why").status)
    server.expect("GetResult", outcome)
    with pytest.raises(expected, match="why") as caught:
        await client.result("r1")
    assert type(caught.value) is expected
    assert (caught.value.reason, caught.value.code) == (reason, code)


async def test_generate_skips_the_queue(client, server):
    server.expect("Generate", generation_pb2.GenerateResponse(output=scripted.output()))
    result = await client.generate("stable-diffusion-v15", prompt="a", runner_hint="warm", timeout=5)
    sent = server.requests("Generate")[0]
    assert sent.input.WhichOneof("input") == "stable_diffusion_v15"
    assert sent.runner_hint == "warm"
    assert 0 < server.calls[0].timeout < 5.5
    assert result.request_id == ""


async def test_generate_without_a_timeout_sends_no_deadline(client, server):
    server.expect("Generate", generation_pb2.GenerateResponse(output=scripted.output()))
    await client.generate(prompt="a")
    assert server.calls[0].timeout is None or server.calls[0].timeout > 1e6


async def test_generate_stream_yields_steps_and_last_the_result(client, server):
    response = generation_pb2.GenerateStreamResponse
    server.expect(
        "GenerateStream",
        [
            response(progress=generation_pb2.StepProgress(step=1, total_steps=2)),
            response(preview=generation_pb2.Preview(step=1, content=b"j")),
            response(),
            response(output=scripted.output()),
        ],
    )
    items = [item async for item in client.generate_stream(prompt="a", previews=True)]
    assert [type(item) for item in items] == [Stepped, Previewed, flashbulb.Result]
    assert server.requests("GenerateStream")[0].include_previews


async def test_a_generate_stream_without_an_end_is_an_error(client, server):
    server.expect("GenerateStream", [])
    with pytest.raises(flashbulb.ServerError, match="without pictures"):
        _ = [item async for item in client.generate_stream(prompt="a")]


async def test_every_endpoint_goes_into_its_member(client, server):
    for name in ("fast-lcm-diffusion", "omnigen-v1", "flux-lora"):
        server.expect("Submit", submitted())
        await client.submit(name, prompt="a")
    members = [r.input.WhichOneof("input") for r in server.requests("Submit")]
    assert members == ["fast_lcm_text_to_image", "omnigen_v1", "flux_lora_text_to_image"]
    assert set(members) < {f.name for f in input_pb2.GenerationInput.DESCRIPTOR.fields}
