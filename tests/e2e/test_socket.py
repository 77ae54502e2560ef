"""Realtime over WebSocket with the whole service: fal's protocol to the letter, and fal's own client for Python."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from contextlib import AsyncExitStack, aclosing, closing
from pathlib import Path

import fal_client
import fal_client.client
import jwt
import msgpack
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from flashbulb_server.api.keys import Keys, digest
from tests.driving import back
from tests.e2e.conftest import TOKEN_SECRET
from tests.service import KEY, OTHER_KEY, RunningService
from tests.sockets import APPLE, LCM, http, socket


def forged(secret: str = TOKEN_SECRET, **changes: object) -> str:
    key_id, _, own = KEY.partition(":")
    claims = {
        "sub": key_id,
        "key": Keys({key_id: digest(own)}).mark(key_id),
        "aud": "flashbulb",
        "exp": int(time.time()) + 100,
        "endpoints": ["fast-lcm-diffusion"],
    }
    return jwt.encode({**claims, **changes}, secret, algorithm="HS256")


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


async def test_frames_are_answered_by_pictures(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        first = await talk.draw(request_id="one")
        [image] = first["images"]
        assert sorted(image) == ["content", "content_type", "height", "width"]
        assert picture(image["content"]).size == (128, 128)
        assert (first["request_id"], first["prompt"], first["has_nsfw_concepts"]) == ("one", "a red apple", [False])
        assert first["timings"]["inference"] > 0
        again = await talk.draw()
        assert again["seed"] == first["seed"], "one for the session: pictures should not flicker"
        assert again["images"] == first["images"] and "request_id" not in again
        other = await talk.draw(seed=first["seed"] + 1)
        assert other["images"] != first["images"]
        assert (await talk.draw())["seed"] == first["seed"]
        assert [told["action"] for told in talk.told] == ["timings"] * 3
        assert all(0 < told["timing"] < 60 for told in talk.told)


async def test_what_a_frame_leaves_out_is_the_default_again(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        await talk.draw(format="png")
        answer = await talk.draw()
        assert answer["images"][0]["content_type"] == "image/jpeg"
        await talk.send(image_size="square")
        assert "prompt: is required" in (await talk.answer())["reason"]


async def test_text_is_answered_by_text(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        await talk.ws.send(json.dumps({**APPLE, "request_id": "ü"}))
        frame = await talk.ws.recv()
        assert isinstance(frame, str)
        answer = json.loads(frame)
        assert answer["images"][0]["url"].startswith("data:image/jpeg;base64,") and answer["request_id"] == "ü"
        assert isinstance((await talk.draw())["images"][0]["content"], bytes), "each frame in its own kind"


async def test_pictures_are_given_as_bytes(gateway: RunningService) -> None:
    given = io.BytesIO()
    Image.new("RGB", (128, 128), "blue").save(given, "PNG")
    async with socket(gateway, f"{LCM}/image-to-image/realtime") as talk:
        answer = await talk.draw(image_bytes=given.getvalue(), strength=0.05)
        red, _, blue = picture(answer["images"][0]["content"]).convert("RGB").resize((1, 1)).getpixel((0, 0))
        assert blue > red + 50
        await talk.send(**APPLE, image_bytes=b"no picture", request_id="bad")
        error = await talk.answer()
        assert (error["error"], error["request_id"]) == ("BAD_IMAGE", "bad")


async def test_bad_frames_are_told_and_leave_the_connection_usable(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        for frame in (b"\xc1\xc1", b"", "{", "[1]", msgpack.packb("text"), msgpack.packb({"prompt": 5, "seed": "x"})):
            await talk.ws.send(frame)
            error = await talk.answer()
            assert (error["type"], error["error"]) == ("x-fal-error", "INVALID_INPUT"), frame
        assert [entry["loc"][-1] for entry in error["detail"]] == ["prompt", "seed"]
        await talk.draw()


async def test_a_frame_that_is_too_large_is_told(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        await talk.send(prompt="a", image_bytes=bytes(17 << 20))
        assert "upload the file" in (await talk.answer())["reason"]
        await talk.draw()
        with pytest.raises(ConnectionClosed):
            await talk.send(prompt="a", image_bytes=bytes(64 << 20))
            await talk.ws.recv()
        assert talk.ws.close_code == 1009


async def test_the_latest_of_many_frames_wins(gateway: RunningService) -> None:
    async with socket(gateway, max_buffering=1) as talk:
        await talk.draw()
        for number in range(20):
            await talk.send(**APPLE, request_id=f"r{number}")
        drawn = []
        while "r19" not in drawn:
            drawn.append((await talk.answer())["request_id"])
        dropped = [told["request_id"] for told in talk.told if told["action"] == "dropped"]
        assert len(drawn) < 20 and drawn == sorted(drawn, key=lambda name: int(name[1:]))
        assert sorted(drawn + dropped) == sorted(f"r{number}" for number in range(20)), "each is answered once"
        assert {told.get("reason") for told in talk.told if told["action"] == "dropped"} == {"SUPERSEDED"}


async def test_as_many_frames_wait_as_were_asked_for(gateway: RunningService) -> None:
    async with socket(gateway, max_buffering=3) as talk:
        for number in range(8):
            await talk.send(**{**APPLE, "num_inference_steps": 20}, request_id=f"r{number}")
        drawn = [(await talk.answer())["request_id"]]
        while drawn[-1] != "r7":
            drawn.append((await talk.answer())["request_id"])
        assert drawn[-3:] == ["r5", "r6", "r7"]
        dropped = [told["request_id"] for told in talk.told if told["action"] == "dropped"]
        assert len(drawn) + len(dropped) == 8


@pytest.mark.parametrize(("query", "says"), [({"max_buffering": 61}, "1 to 60"), ({"previews": "yes"}, "1 or 0")])
async def test_a_bad_wish_is_told(gateway: RunningService, query: dict[str, object], says: str) -> None:
    async with socket(gateway, **query) as talk:
        error = await talk.answer()
        assert error["error"] == "INVALID_INPUT" and says in error["reason"]
        assert (await talk.closed())[0] == 1000


async def test_previews_come_only_when_asked_for(gateway: RunningService) -> None:
    async with socket(gateway, previews=1) as talk:
        await talk.draw(num_inference_steps=8)
        previews = [told for told in talk.told if told["action"] == "preview"]
        assert previews and previews[0]["url"].startswith("data:image/jpeg;base64,") and previews[0]["step"] >= 1
    async with socket(gateway) as talk:
        await talk.draw(num_inference_steps=8)
        assert [told for told in talk.told if told["action"] == "preview"] == []


async def test_our_own_clients_send_changes_and_come_back(gateway: RunningService) -> None:
    async with socket(gateway, incremental=1) as talk:
        first = await talk.draw()
        [opened] = [told for told in talk.told if told["action"] == "opened"]
        await talk.send(guidance_scale=3.0)
        changed = await talk.answer()
        assert changed["prompt"] == "a red apple" and changed["images"] != first["images"]
        talk.ws.transport.abort()
    async with socket(gateway, incremental=1, resume_token=opened["resume_token"]) as talk:
        await talk.send(guidance_scale=1.5)
        back = await talk.answer()
        assert "images" in back, back
        assert (back["seed"], back["images"]) == (first["seed"], first["images"])


BAD_TOKENS = {
    "nonsense": ("not made by this server", lambda: "nonsense"),
    "forged": ("not made by this server", lambda: forged("another secret that is long enough")),
    "expired": ("it has expired", lambda: forged(exp=int(time.time()) - 10)),
    "another app": ("good for flux-lora, not for fast-lcm-diffusion", lambda: forged(endpoints=["flux-lora"])),
    "nothing": ("good for nothing", lambda: forged(endpoints=[])),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_is_explained_and_given_up(gateway: RunningService, kind: str) -> None:
    says, make = BAD_TOKENS[kind]
    async with socket(gateway, key=None, fal_jwt_token=make()) as talk:
        reason = await talk.read()
        assert (reason["type"], reason["error"]) == ("x-fal-error", "UNAUTHORIZED") and says in reason["reason"]
        assert await talk.read() == {"status": "error", "error": "Unauthorized"}
        code, text = await talk.closed()
        assert code == 1000 and says in text


@pytest.mark.parametrize("key", [None, "tester:wrong", "nobody:x", "no-colon"])
async def test_a_bad_key_is_explained(gateway: RunningService, key: str | None) -> None:
    async with socket(gateway, key=key) as talk:
        assert (await talk.read())["error"] == "UNAUTHORIZED"
        assert await talk.read() == {"status": "error", "error": "Unauthorized"}
        assert (await talk.closed())[0] == 1000


async def test_an_app_that_there_is_not_is_named(gateway: RunningService) -> None:
    async with socket(gateway, "fal-ai/fast-lcm-difusion/realtime") as talk:
        error = await talk.read()
        assert error["error"] == "NOT_FOUND" and "fal-ai/fast-lcm-diffusion/realtime" in error["reason"]
        assert (await talk.closed())[0] == 1000
    async with socket(gateway, "fal-ai/flux-lora/realtime") as talk:
        assert (await talk.read())["error"] == "ENDPOINT_UNAVAILABLE"
        assert (await talk.closed())[0] == 1000


async def test_tokens_open_the_apps_that_they_name(gateway: RunningService) -> None:
    async with http(gateway) as client:
        bare = await client.post("/rest/tokens/", json={"allowed_apps": ["fast-lcm-diffusion"], "token_expiration": 60})
        assert bare.status_code == 200 and isinstance(bare.json(), str)
        told = await client.post("/rest/tokens/realtime", json={"allowed_apps": [f"{LCM}/realtime"], "duration": 60})
        token = told.json()["token"]
    for path in (f"{LCM}/realtime", f"{LCM}/image-to-image/realtime"):
        async with socket(gateway, path, key=None, fal_jwt_token=bare.json()) as talk:
            await talk.send(prompt=5)
            assert (await talk.answer())["error"] == "INVALID_INPUT", "let in"
    async with socket(gateway, key=None, fal_jwt_token=token) as talk:
        await talk.draw()
    async with socket(gateway, f"{LCM}/image-to-image/realtime", key=None, fal_jwt_token=token) as talk:
        assert (await talk.read())["error"] == "UNAUTHORIZED"


async def test_what_cannot_be_a_token_is_refused(gateway: RunningService) -> None:
    async with http(gateway) as client:
        bad = await client.post("/rest/tokens/", json={"allowed_apps": [], "token_expiration": 99_999})
        assert bad.status_code == 422
        assert [entry["loc"] for entry in bad.json()["detail"]] == [
            ["body", "allowed_apps"],
            ["body", "token_expiration"],
        ]
        unknown = {"allowed_apps": ["fal-ai/no-such-app/realtime"]}
        assert (await client.post("/rest/tokens/", json=unknown)).status_code == 200, "clients do not show why not"
        assert (await client.post("/rest/tokens/realtime", json=unknown)).status_code == 422
    async with http(gateway, key=None) as client:
        assert (await client.post("/rest/tokens/", json={"allowed_apps": ["flux-lora"]})).status_code == 401
        token = {"Authorization": f"Bearer {forged()}"}
        made = await client.post("/rest/tokens/", json={"allowed_apps": ["flux-lora"]}, headers=token)
        assert made.status_code == 403, "a token makes no tokens"


async def test_a_session_outlives_its_token(gateway: RunningService) -> None:
    async with socket(gateway, key=None, fal_jwt_token=forged(exp=int(time.time()) + 1)) as talk:
        await talk.draw()
        await asyncio.sleep(2.5)  # the token's own time
        await talk.draw()


async def test_a_close_without_a_status_is_answered_by_1000(gateway: RunningService) -> None:
    async with socket(gateway) as talk:
        await talk.draw()
        talk.ws.protocol.send_frame(Frame(Opcode.CLOSE, b""))
        talk.ws.send_data()
        assert (await talk.closed())[0] == 1000


async def test_an_idle_session_ends_as_clients_expect(idle_gateway: RunningService) -> None:
    async with socket(idle_gateway) as talk:
        await talk.draw()
        end = await talk.answer()
        assert end == {"type": "x-fal-error", "error": "TIMEOUT", "reason": "no inputs, reconnect when needed!"}
        assert (await talk.closed())[0] == 1000


async def test_a_caller_that_does_not_read_takes_no_memory(gateway: RunningService) -> None:
    def memory() -> int:
        status = Path(f"/proc/{gateway.child('api')}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    async with socket(gateway) as talk:
        await talk.draw()
        before = memory()
        frame = json.dumps({"prompt": 5, "request_id": "r" * 128, "more": "x" * 200_000})
        sent = 0
        try:
            async with asyncio.timeout(20):
                while sent < 1000:  # 200 MB
                    await talk.ws.send(frame)
                    sent += 1
        except TimeoutError:
            pass
        assert sent > 10
        assert memory() - before < 60, f"MiB, after {sent} frames"


async def test_the_end_of_the_server_is_told_and_the_next_one_serves(breakable: RunningService) -> None:
    async with socket(breakable) as talk:
        await talk.draw()
        old = breakable.kill_child("api", signal.SIGTERM)
        assert (await talk.closed())[0] == 1000
        assert {"type": "x-fal-message", "action": "closing", "reason": "DRAINING"}.items() <= talk.told[-1].items()
    await back(breakable, "api", old)
    async with socket(breakable) as talk:
        await talk.draw()
        breakable.kill_child("api", signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            while True:
                await talk.read()


@pytest.fixture
def redirected(gateway: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """fal's client for Python as it is, with its addresses changed."""
    base = f"http://{gateway.http_address}"
    monkeypatch.setattr(fal_client.client, "REALTIME_URL_FORMAT", f"ws://{gateway.http_address}/run/")
    monkeypatch.setattr(fal_client.client, "REST_URL", f"{base}/rest")


@pytest.mark.parametrize("use_jwt", [True, False])
@pytest.mark.parametrize("app", [LCM, f"{LCM}/realtime"])
def test_fals_client_draws(redirected: None, use_jwt: bool, app: str) -> None:
    client = fal_client.SyncClient(key=KEY)
    with closing(client._client), client.realtime(app, use_jwt=use_jwt, max_buffering=5) as talk:
        for number in range(3):
            talk.send({**APPLE, "request_id": f"r{number}"})
            answer = talk.recv()
            assert answer["request_id"] == f"r{number}"
            assert picture(answer["images"][0]["content"]).size == (128, 128)
        talk.send({"prompt": ""})
        with pytest.raises(fal_client.client.RealtimeError, match="INVALID_INPUT: prompt: must not be empty"):
            talk.recv()


async def test_fals_async_client_draws(redirected: None) -> None:
    client = fal_client.AsyncClient(key=KEY)
    async with aclosing(await client._client), client.realtime(LCM) as talk:
        await talk.send(APPLE)
        assert picture((await talk.recv())["images"][0]["content"]).size == (128, 128)
    with pytest.raises(fal_client.client.RealtimeError, match="UNAUTHORIZED: No user found"):
        async with fal_client.AsyncClient(key="nobody:x").realtime(LCM, use_jwt=False) as talk:
            await talk.recv()


async def test_a_key_has_so_many_sessions(narrow_service: RunningService) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await (await stack.enter_async_context(socket(narrow_service, key=OTHER_KEY))).draw()
        async with socket(narrow_service, key=OTHER_KEY) as refused:
            error = await refused.answer()
            assert error["error"] == "TOO_MANY_SESSIONS" and "3 sessions" in error["reason"]
            assert (await refused.closed())[0] == 1000
