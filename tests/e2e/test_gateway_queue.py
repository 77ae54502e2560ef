"""The gateway's queue: submissions, states, streams of them, results, cancellations, and what fal's headers ask for."""

from __future__ import annotations

import asyncio
import time
import uuid

import httpx
import pytest

from tests.driving import Caller
from tests.gateway import LCM, LONG, Fal, events, picture, quick
from tests.service import RunningService


async def test_a_request_goes_through_the_queue(fal: Fal) -> None:
    answer = await fal.submit(quick(format="png"))
    submitted = answer.json()
    assert answer.status_code == 200
    base = f"{fal.http.base_url}/queue/{LCM}/requests/{submitted['request_id']}"
    assert (submitted["response_url"], submitted["status_url"], submitted["cancel_url"]) == (
        *(base, f"{base}/status", f"{base}/cancel"),
    )
    assert (submitted["status"], submitted["gateway_request_id"]) == ("IN_QUEUE", submitted["request_id"])
    assert isinstance(submitted["queue_position"], int)
    assert answer.headers["x-fal-request-id"] == submitted["request_id"]

    ended = await fal.ended(submitted, logs="1")
    assert (ended["status"], ended["state"], ended["outcome"]) == ("COMPLETED", "SUCCEEDED", "OK")
    assert ended["metrics"]["inference_time"] > 0
    assert {url: ended[url] for url in ended if url.endswith("_url")} == {
        url: submitted[url] for url in submitted if url.endswith("_url")
    }
    assert [set(line) for line in ended["logs"]] == [{"message", "timestamp", "level", "source"}] * len(ended["logs"])
    assert "drawn" in " ".join(line["message"] for line in ended["logs"])

    result = await fal.http.get(submitted["response_url"])
    assert picture(result.json()["images"][0]).size == (128, 128)
    assert result.headers["x-fal-request-id"] == submitted["request_id"]


async def test_both_ways_of_naming_a_request_work(fal: Fal) -> None:
    given = quick(
        image_url="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
    )
    submitted = (await fal.submit(given, f"{LCM}/image-to-image")).json()
    assert submitted["status_url"].startswith(f"{fal.http.base_url}/queue/{LCM}/requests/")
    await fal.ended(submitted)
    for name in (LCM, f"{LCM}/image-to-image"):
        for ending in ("", "/", "/response", "/response/"):
            answer = await fal.http.get(f"/queue/{name}/requests/{submitted['request_id']}{ending}")
            assert answer.status_code == 200, answer.text
        for ending in ("/status", "/status/"):
            answer = await fal.http.get(f"/queue/{name}/requests/{submitted['request_id']}{ending}")
            assert answer.json()["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [({}, 0), ({"logs": "0"}, 0), ({"logs": "false"}, 0), ({"logs": "1"}, 1), ({"logs": "true"}, 1)],
)
async def test_logs_come_where_they_are_wanted(fal: Fal, query: dict[str, str], wanted: bool) -> None:
    submitted = await fal.queued()
    first = (await fal.http.get(submitted["status_url"], params=query)).json()
    assert "logs" in first
    ended = await fal.ended(submitted, **query)
    assert bool(ended["logs"]) == wanted
    assert wanted or ended["logs"] is None


async def test_states_of_a_long_request(fal: Fal) -> None:
    submitted = await fal.queued(**LONG)
    running = await fal.until(submitted, "IN_PROGRESS")
    assert (running["metrics"], running["logs"], running["state"]) == ({}, None, "RUNNING")
    early = await fal.http.get(submitted["response_url"])
    assert (early.status_code, early.json()["detail"]) == (400, "Request is still in progress")
    cancelled = await fal.http.put(submitted["cancel_url"], headers={"content-type": "application/json"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "CANCELLATION_REQUESTED")
    status = await fal.http.get(submitted["status_url"])
    assert (status.status_code, status.json()["status"]) == (200, "COMPLETED"), (
        "at once, though it was polled a moment ago"
    )
    assert (status.json()["error_type"], status.json()["outcome"]) == ("client_cancelled", "ERROR")
    result = await fal.http.get(submitted["response_url"])
    assert (result.status_code, result.json()["error_type"]) == (499, "client_cancelled")
    again = await fal.http.put(submitted["cancel_url"])
    assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})


async def test_waiting_requests_have_places(narrow_service: RunningService, narrow: Caller, held: object) -> None:
    headers = {"authorization": f"Key {narrow.key}"}
    base = f"http://{narrow_service.http_address}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=20, trust_env=False) as http:
        fal = Fal(http)
        first, second = await fal.queued(), await fal.queued()
        places = [(await http.get(one["status_url"])).json() for one in (first, second)]
        assert [(p["status"], p["queue_position"]) for p in places] == [("IN_QUEUE", 0), ("IN_QUEUE", 1)]
        limited = await fal.submit(quick(), params={"fal_max_queue_length": "2"})
        assert (limited.status_code, limited.json()["error_type"]) == (429, "queue_full")
        assert limited.headers["x-fal-needs-retry"] == "1"
        assert (await fal.submit(quick(), params={"fal_max_queue_length": "50"})).status_code == 200
        low = await fal.submit(quick(), headers={"x-fal-queue-priority": "low"})
        assert (await narrow.status(low.json()["request_id"])).priority == 2
        cancelled = await http.put(second["cancel_url"])
        assert cancelled.status_code == 202
        late = await fal.submit(quick(), headers={"x-fal-request-timeout": "0.2"})
        ended = await fal.ended(late.json())
        assert (ended["state"], ended["error_type"]) == ("EXPIRED", "request_timeout")
        result = await http.get(late.json()["response_url"])
        assert (result.status_code, result.headers["x-fal-request-timeout-type"]) == (504, "user")


async def test_wrong_inputs_are_told_at_submission(fal: Fal, me: Caller) -> None:
    answer = await fal.submit({"prompt": "", "seed": "x"}, headers={"idempotency-key": "no spaces"})
    places = [entry["loc"] for entry in answer.json()["detail"]]
    assert answer.status_code == 422
    assert places == [["header", "idempotency-key"], ["body", "prompt"], ["body", "seed"]]


async def test_an_idempotency_key_makes_one_request(fal: Fal) -> None:
    headers = {"idempotency-key": uuid.uuid4().hex}
    first, again = [(await fal.submit(quick(), headers=headers)).json() for _ in range(2)]
    assert first["request_id"] == again["request_id"]
    other = await fal.submit(quick(seed=8), headers=headers)
    assert (other.status_code, other.json()["detail"][0]["loc"]) == (422, ["header", "idempotency-key"])


@pytest.mark.parametrize("ending", ["", "/status", "/status/stream", "/cancel", "/response"])
@pytest.mark.parametrize("request_id", ["0", "01a21a40-9d15-7000-821f-53a0affc4ecb", "%3E"])
async def test_an_unknown_request_is_not_found(fal: Fal, ending: str, request_id: str) -> None:
    method = "PUT" if ending == "/cancel" else "GET"
    answer = await fal.http.request(method, f"/queue/{LCM}/requests/{request_id}{ending}")
    assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")


async def test_a_request_of_another_key_is_not_found(fal: Fal, me: Caller) -> None:
    request_id = (await me.submit()).request_id
    for _ in range(2):
        answer = await fal.http.get(f"/queue/{LCM}/requests/{request_id}/status")
        assert answer.status_code == 404


async def test_a_stream_of_states_sends_each_line_once(fal: Fal) -> None:
    submitted = await fal.queued(num_inference_steps=12)
    told = await fal.stream("GET", submitted["status_url"] + "/stream", params={"logs": "true"})
    assert told[-1]["status"] == "COMPLETED"
    assert [event["status"] for event in told[:-1]].count("COMPLETED") == 0
    lines = [line["message"] for event in told for line in event["logs"]]
    cumulative = [line["message"] for line in (await fal.ended(submitted, logs=1))["logs"]]
    assert lines == cumulative
    over = await fal.stream("GET", submitted["status_url"] + "/stream", params={"logs": "1"})
    assert [line["message"] for event in over for line in event["logs"]] == cumulative
    assert over[-1]["outcome"] == "OK"


async def test_a_stream_of_states_without_logs(fal: Fal) -> None:
    submitted = await fal.queued()
    told = await fal.stream("GET", submitted["status_url"] + "/stream")
    assert {event["logs"] for event in told} == {None}
    assert told[-1]["status"] == "COMPLETED"


async def test_a_cancellation_ends_the_stream(fal: Fal) -> None:
    submitted = await fal.queued(**LONG)
    async with fal.http.stream("GET", submitted["status_url"] + "/stream") as answer:
        stream = events(answer)
        await anext(stream)
        await fal.http.put(submitted["cancel_url"])
        async with asyncio.timeout(10):
            rest = [event async for event in stream]
    assert (rest[-1]["status"], rest[-1]["error_type"]) == ("COMPLETED", "client_cancelled")


async def test_an_outcome_is_forgotten_when_it_is_asked_for(fal: Fal, me: Caller) -> None:
    wish = {
        "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 600, "initial_acl": {"default": "hide"}}'
    }
    for headers, seconds in (({}, 86_400), (wish, 600), ({"x-fal-store-io": "0"}, 3600)):
        submitted = (await fal.submit(quick(sync_mode=False), headers=headers)).json()
        await fal.ended(submitted)
        caller = Caller(me.call, fal.http.headers["authorization"].removeprefix("Key "))
        record = await caller.status(submitted["request_id"])
        kept = record.expire_time.ToNanoseconds() - record.end_time.ToNanoseconds()
        assert kept / 1e9 == pytest.approx(seconds)
        (image,) = (await fal.http.get(submitted["response_url"])).json()["images"]
        link = int(httpx.URL(image["url"]).params["until"]) - time.time()
        assert 0 < link <= min(3600, seconds) + 1


@pytest.mark.parametrize(
    "value", ["no", "[]", '{"expiration_duration_seconds": "1h"}', '{"expiration_duration_seconds": -1}']
)
async def test_a_bad_lifetime_is_told(fal: Fal, value: str) -> None:
    answer = await fal.submit(quick(), headers={"x-fal-object-lifecycle-preference": value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "x-fal-object-lifecycle-preference"]


async def test_polls_that_are_repeated_are_answered_alike(fal: Fal, service: RunningService) -> None:
    """Over one connection with the same bytes, as fal's clients poll, from the queue to the end, and beside other calls."""
    submitted = await fal.queued(num_inference_steps=12)
    host, _, port = service.http_address.partition(":")
    path = submitted["status_url"].removeprefix(f"http://{service.http_address}")
    head = f"host: {service.http_address}\r\nauthorization: {fal.http.headers['authorization']}\r\norigin: http://a\r\n\r\n"
    poll = f"GET {path} HTTP/1.1\r\n{head}".encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    seen: list[tuple[bytes, bytes]] = []
    async with asyncio.timeout(30):
        while not seen or b"COMPLETED" not in seen[-1][1] or len(seen) < 40:
            writer.write(poll)
            seen.append(await answered(reader))
            await asyncio.sleep(0.01)
        writer.write(poll[:30])  # in two parts, then two at once, then another call between
        await asyncio.sleep(0.05)
        writer.write(poll[30:])
        pieces = [await answered(reader)]
        writer.write(poll + poll)
        pieces += [await answered(reader), await answered(reader)]
        writer.write(f"GET /healthz HTTP/1.1\r\n{head}".encode() + poll)
        healthy = await answered(reader)
        pieces.append(await answered(reader))
    writer.close()
    heads, bodies = zip(*seen, strict=True)
    assert {b"HTTP/1.1 202", b"HTTP/1.1 200"} >= {found[:12] for found in heads}
    assert all(b"access-control-allow-origin: *" in found and b"x-fal-request-id" in found for found in heads)
    assert len(set(bodies)) < len(bodies) / 2, "most were repeated"
    assert healthy[1] == b'{"status":"ok"}'
    assert {body for _, body in pieces} == {bodies[-1]}


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    return head, await reader.readexactly(int(length.removeprefix(b"content-length: ")))
