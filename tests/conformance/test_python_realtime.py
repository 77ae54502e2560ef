"""Realtime of fal-client 1.0.3, sync and async: tokens and keys, frames, errors, ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import fal_client
import fal_client.client
import pytest

from tests.conformance.python_client import LEAVES_SOCKETS, Client, client_of, seen
from tests.conformance.stage import APPLE, ENDPOINT, Stage

pytestmark = [*LEAVES_SOCKETS]

RealtimeError = fal_client.client.RealtimeError


@pytest.fixture(params=["sync", "async"])
async def fal(request: pytest.FixtureRequest, on_stage: Stage) -> AsyncIterator[Client]:
    """A client of the gateway."""
    async with client_of(request.param, on_stage.base) as client:
        yield client


@pytest.mark.parametrize("use_jwt", [True, False])
async def test_pictures_as_bytes(fal: Client, on_stage: Stage, use_jwt: bool) -> None:
    async with asyncio.timeout(30), fal.realtime(ENDPOINT, use_jwt=use_jwt) as session:
        for colour in ("red", "green"):
            given = {**APPLE, "prompt": f"a {colour} apple"}
            await session.send({**given, "request_id": colour})
            answer = await session.recv()
            assert answer["request_id"] == colour
            assert "url" not in answer["images"][0]
            on_stage.reference.check(seen(answer["images"][0], given, colour))


async def test_the_newest_frame_wins(fal: Client) -> None:
    async with asyncio.timeout(30), fal.realtime(ENDPOINT, max_buffering=1) as session:
        for number in range(20):
            await session.send({**APPLE, "num_inference_steps": 8, "request_id": str(number)})
        answered = []
        while not answered or answered[-1] != "19":
            answered.append((await session.recv())["request_id"])
    assert len(answered) < 18


async def test_a_bad_frame_ends_nothing(fal: Client, on_stage: Stage) -> None:
    async with asyncio.timeout(30), fal.realtime(ENDPOINT) as session:
        await session.send({**APPLE, "num_inference_steps": 99})
        with pytest.raises(RealtimeError, match="num_inference_steps"):
            await session.recv()
        await session.send(APPLE)
        on_stage.reference.check(seen((await session.recv())["images"][0], APPLE))


async def test_an_expired_token(fal: Client, on_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.sleep(max(0.0, on_stage.brief.bad_from - time.time()))
    await _refused(fal, monkeypatch, on_stage.brief.text)


async def test_a_forged_token(fal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await fal._get_realtime_token(ENDPOINT)
    head, _, tail = token.rpartition(".")
    await _refused(fal, monkeypatch, f"{head}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}")


async def test_an_idle_session_is_told_and_closed(fal: Client) -> None:
    async with asyncio.timeout(30), fal.realtime(ENDPOINT) as session:
        await session.send(APPLE)
        assert (await session.recv())["images"]
        with pytest.raises(RealtimeError) as caught:
            await session.recv()
        assert caught.value.error == "TIMEOUT"
        assert await session.recv() is None, "closed with 1000"


async def test_json_frames(fal: Client, on_stage: Stage) -> None:
    async with asyncio.timeout(30), fal.realtime(ENDPOINT, encode_message=json.dumps) as session:
        await session.send({**APPLE, "request_id": "json"})
        answer = await session.recv()
    assert answer["request_id"] == "json"
    assert answer["images"][0]["url"].startswith("data:image/jpeg;base64,")
    on_stage.reference.check(seen(answer["images"][0], APPLE))


async def _refused(fal: Client, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """A session with the token is told why, then closed with 1000."""

    async def later(*_: object, **__: object) -> str:
        return token

    monkeypatch.setattr(type(fal.raw), "_get_realtime_token", later if fal.is_async else lambda *_, **__: token)
    async with asyncio.timeout(30), fal.realtime(ENDPOINT) as session:
        with pytest.raises(RealtimeError) as caught:
            await session.recv()
        assert caught.value.error == "UNAUTHORIZED"
        assert len(caught.value.reason) > 10
        assert (await session.recv())["error"] == "Unauthorized"
        assert await session.recv() is None, "closed with 1000"
