"""Records and idempotency keys on a real nats-server: compare-and-set, owners, expiry."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from flashbulb_server.core import requests
from flashbulb_server.core.requests import Failure, IllegalChange, Request, State
from flashbulb_server.errors import RequestNotFound
from flashbulb_server.messaging.records import RevisionConflict
from tests.integration.stage import OWNER, Queue, eventually, make_request

pytestmark = pytest.mark.integration


def ended(request: Request, keep: float) -> Request:
    return requests.fail(request, Failure("ENGINE_FAILED", "broken"), now=time.time(), keep=keep)


async def is_gone(queue: Queue, request: Request) -> bool:
    try:
        await queue.records.get(request.owner, request.request_id)
    except RequestNotFound:
        return True
    return False


async def test_what_was_created_is_read_back(queue: Queue) -> None:
    request = make_request(runner_hint="here")
    created = await queue.records.create(request)
    found = await queue.records.get(OWNER, request.request_id)
    assert found.revision == created.revision
    assert replace(found.request, create_time=0, start_deadline=0) == replace(request, create_time=0, start_deadline=0)
    assert found.request.create_time == pytest.approx(request.create_time, abs=1e-6)


async def test_an_id_is_created_once(queue: Queue) -> None:
    request = make_request()
    await queue.records.create(request)
    with pytest.raises(RevisionConflict):
        await queue.records.create(request)


async def test_replacing_an_old_revision_is_a_conflict(queue: Queue) -> None:
    request = make_request()
    first = await queue.records.create(request)
    second = await queue.records.replace(first, replace(request, steps_done=1))
    with pytest.raises(RevisionConflict):
        await queue.records.replace(first, replace(request, steps_done=2))
    assert (await queue.records.get(OWNER, request.request_id)).revision == second.revision
    assert second.request.steps_done == 1


async def test_no_update_of_twenty_concurrent_changers_is_lost(queue: Queue) -> None:
    request = make_request()
    await queue.records.create(request)

    async def add_one() -> None:
        await queue.records.change(OWNER, request.request_id, lambda r: replace(r, steps_done=r.steps_done + 1))

    await asyncio.gather(*(add_one() for _ in range(20)))
    assert (await queue.records.get(OWNER, request.request_id)).request.steps_done == 20


async def test_a_change_gives_before_and_after_and_passes_refusals_on(queue: Queue) -> None:
    request = make_request()
    await queue.records.create(request)
    before, after = await queue.records.change(
        OWNER, request.request_id, lambda r: requests.start(r, worker_id="w", now=5.0)
    )
    assert (before.state, after.state, after.attempt) == (State.QUEUED, State.RUNNING, 1)
    with pytest.raises(IllegalChange):
        await queue.records.change(
            OWNER, request.request_id, lambda r: requests.expire(r, Failure("START_TIMEOUT", ""), now=6.0, keep=60)
        )
    with pytest.raises(RequestNotFound):
        await queue.records.change(OWNER, make_request().request_id, lambda r: r)


async def test_another_owner_s_request_is_not_found(queue: Queue) -> None:
    request = make_request()
    await queue.records.create(request)
    with pytest.raises(RequestNotFound):
        await queue.records.get("other", request.request_id)
    assert await queue.records.ids("other") == []


async def test_a_terminal_record_expires_and_its_marker_is_no_request(queue: Queue) -> None:
    request, lasting = make_request(), make_request()
    await queue.records.create(lasting)
    stored = await queue.records.create(request)
    await queue.records.replace(stored, ended(request, keep=1))
    await eventually(lambda: is_gone(queue, request), 5)

    # The server keeps a marker in its place for a minute: neither list, scan nor a new try may stumble over it.
    message = await queue.js.get_last_msg("KV_requests", f"$KV.requests.{OWNER}.{request.request_id}", direct=True)
    assert message.headers is not None and "Nats-Marker-Reason" in message.headers
    assert lasting.request_id in await queue.records.ids(OWNER)
    assert [s.request.request_id async for s in queue.records.written_after(0)] == [lasting.request_id]
    with pytest.raises(RequestNotFound):
        await queue.records.change(OWNER, request.request_id, lambda r: r)


async def test_a_record_that_has_not_ended_does_not_expire(queue: Queue) -> None:
    request = make_request()
    stored = await queue.records.create(request)
    await queue.records.replace(stored, requests.start(request, worker_id="w", now=time.time()))
    ending = make_request()
    await queue.records.replace(await queue.records.create(ending), ended(ending, keep=1))
    await eventually(lambda: is_gone(queue, ending), 5)
    assert (await queue.records.get(OWNER, request.request_id)).request.state is State.RUNNING


async def test_written_after_gives_each_request_once_as_it_is_now(queue: Queue) -> None:
    first, second, third = [await queue.records.create(make_request()) for _ in range(3)]
    changed = await queue.records.replace(first, replace(first.request, steps_done=3))
    found = [stored async for stored in queue.records.written_after(second.revision)]
    assert [s.request.request_id for s in found] == [third.request.request_id, first.request.request_id]
    assert found[1].request.steps_done == 3
    assert [s async for s in queue.records.written_after(changed.revision)] == []


async def test_written_after_gives_more_than_fit_in_a_batch(queue: Queue) -> None:
    made = [make_request() for _ in range(600)]
    for start in range(0, 600, 50):
        await asyncio.gather(*(queue.records.create(r) for r in made[start : start + 50]))
    found = [stored.request.request_id async for stored in queue.records.written_after(0)]
    assert sorted(found) == sorted(r.request_id for r in made)
    assert await queue.records.ids(OWNER) == sorted((r.request_id for r in made), reverse=True)


async def test_a_forgotten_record_is_gone_and_can_be_created_again(queue: Queue) -> None:
    request = make_request()
    stored = await queue.records.create(request)
    assert await queue.records.forget(stored)
    assert not await queue.records.forget(stored)
    assert await is_gone(queue, request)
    await queue.records.create(request)
    assert not await is_gone(queue, request)


async def test_of_twenty_concurrent_claims_one_wins(queue: Queue) -> None:
    claims = await asyncio.gather(*(queue.keys.claim(OWNER, "token", f"id-{i}", b"digest") for i in range(20)))
    assert len({claim.request_id for claim in claims}) == 1
    assert sum(claim.claimed for claim in claims) == 1
    late = await queue.keys.claim(OWNER, "token", "late", b"other")
    assert late == replace(claims[0], claimed=False)
    other = await queue.keys.claim("other", "token", "id", b"d")
    assert (other.request_id, other.digest, other.claimed) == ("id", b"d", True)


async def test_a_released_key_is_free(queue: Queue) -> None:
    first = await queue.keys.claim(OWNER, "token", "first", b"1")
    assert await queue.keys.release(first)
    assert not await queue.keys.release(first)
    second = await queue.keys.claim(OWNER, "token", "second", b"2")
    assert (second.request_id, second.digest, second.claimed) == ("second", b"2", True)
    assert not await queue.keys.release(first)
    assert not (await queue.keys.claim(OWNER, "token", "third", b"3")).claimed


async def test_a_key_that_another_call_has_kept_is_not_released(queue: Queue) -> None:
    claimed = await queue.keys.claim(OWNER, "token", "first", b"1")
    seen = await queue.keys.claim(OWNER, "token", "second", b"1")
    assert await queue.keys.keep(seen)
    assert not await queue.keys.release(claimed)
    assert (await queue.keys.claim(OWNER, "token", "third", b"1")).request_id == "first"


async def test_a_key_that_was_released_cannot_be_kept(queue: Queue) -> None:
    claimed = await queue.keys.claim(OWNER, "token", "first", b"1")
    seen = await queue.keys.claim(OWNER, "token", "second", b"1")
    assert await queue.keys.release(claimed)
    assert not await queue.keys.keep(seen)


async def test_a_confirmed_record_is_not_forgotten(queue: Queue) -> None:
    request = make_request()
    made = await queue.records.create(request)
    await queue.records.confirm(await queue.records.get(OWNER, request.request_id))
    assert not await queue.records.forget(made)
    assert not await is_gone(queue, request)
    with pytest.raises(RevisionConflict):
        await queue.records.confirm(made)


async def test_claims_and_releases_at_once_never_fail(queue: Queue) -> None:
    async def churn(name: str) -> None:
        for count in range(15):
            bound = await queue.keys.claim(OWNER, "token", f"{name}-{count}", b"")
            assert bound.request_id
            await queue.keys.release(bound)

    await asyncio.gather(*(churn(f"caller-{i}") for i in range(8)))
