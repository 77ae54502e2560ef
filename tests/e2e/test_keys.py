"""Keys made, replaced and revoked with `flashbulb-server keys` while the service runs: nothing of a key outlives it, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from flashbulb.v1 import model_pb2, realtime_pb2
from flashbulb_server.api.keys import digest
from tests.driving import Caller, refusal
from tests.e2e.test_proxy import PATH as PROXY
from tests.service import RunningService, apple, stubs
from tests.sessions import talking
from tests.sockets import APPLE, LCM, http, socket

pytestmark = pytest.mark.slow
SECONDS = 20
OLD, FRIEND = "mine:an-old-secret", "friend:another-secret"


def keys(service: RunningService, *arguments: str) -> str:
    """Runs the command as an operator does; gives what it prints."""
    variables = {"FLASHBULB_API__KEYS_FILE": str(service.data_dir.parent / "keys.json")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")}
    command = (sys.executable, "-m", "flashbulb_server.cli", "keys", *arguments)
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture
def service(make_service: Callable[..., RunningService], tmp_path: Path) -> RunningService:
    """A service with the two keys in a file, whose proxy acts as the first."""
    (tmp_path / "service-0").mkdir()
    file = tmp_path / "service-0" / "keys.json"
    file.write_text(json.dumps({key.split(":")[0]: digest(key.split(":")[1]) for key in (OLD, FRIEND)}))
    return make_service(API__KEYS="", API__KEYS_FILE=file, HTTP__PROXY_KEY_ID="mine")


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await done():
            await asyncio.sleep(0.02)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_nothing_of_a_key_outlives_it(service: RunningService) -> None:
    async with (
        grpc.aio.insecure_channel(service.address) as channel,
        http(service, key=OLD) as mine,
        http(service, key=None) as page,
    ):
        me, friend = Caller(stubs(channel), OLD), Caller(stubs(channel), FRIEND)
        request_id = (await me.submit(apple())).request_id
        await me.ended(request_id)
        token = (
            await me.call.realtime.CreateToken(
                realtime_pb2.CreateTokenRequest(allowed_endpoints=["fast-lcm-diffusion"]),
                metadata=(("authorization", f"Key {OLD}"),),
                timeout=SECONDS,
            )
        ).token
        upload = (await mine.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={})).json()["token"]
        proxied = {"x-fal-target-url": f"https://fal.run/{LCM}"}
        assert (await page.post(PROXY, json=APPLE, headers=proxied)).status_code == 200
        polled = f"/queue/{LCM}/requests/{request_id}/status"
        assert [(await mine.get(polled)).status_code for _ in range(3)] == [200] * 3

        by_key, by_token = ((("authorization", f"Key {OLD}"),), bearer(token))
        async with (
            talking(me.call.realtime, by_key) as first,
            talking(me.call.realtime, by_token) as second,
            talking(me.call.realtime, (("authorization", f"Key {FRIEND}"),)) as other,
            socket(service, key=OLD) as third,
        ):
            for session in (first, second, other):
                await session.open()
            await third.draw()
            new = keys(service, "create", "mine", "--replace")

            for session in (first, second):
                refused = await refusal(session.call.read())
                assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN")
            assert (await third.closed())[0] == 1000
            assert third.told[-1] == {"status": "error", "error": "Unauthorized"}
            await other.draw(1, prompt="a blue bird")

        assert (await mine.get(polled)).status_code == 401, "what was answered before is not answered from memory"
        refused = await refusal(me.status(request_id))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN")
        async with talking(me.call.realtime, by_token) as again:
            refused = await refusal(again.call.read())
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        held = await page.post("/cdn/files/upload", content="x", headers={"Authorization": f"Bearer {upload}"})
        assert held.status_code == 401

        assert (await Caller(me.call, new).status(request_id)).request_id == request_id, (
            "what it owned is the new key's"
        )
        keys(service, "revoke", "mine")

        async def proxy_refuses() -> bool:
            return (await page.post(PROXY, json=APPLE, headers=proxied)).status_code == 401

        await until(proxy_refuses)
        await friend.submit(apple())


async def test_a_new_key_is_good_within_seconds(service: RunningService) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = stubs(channel)
        metadata = (("authorization", f"Key {keys(service, 'create', 'new')}"),)

        async def is_let_in() -> bool:
            try:
                await call.models.ListModels(model_pb2.ListModelsRequest(), metadata=metadata, timeout=SECONDS)
            except grpc.aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.UNAUTHENTICATED
                return False
            return True

        await until(is_let_in)
