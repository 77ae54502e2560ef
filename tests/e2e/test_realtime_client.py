"""The Python client's sessions against the whole service: pictures, drops, bad frames, lost processes, tokens, and the command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import PIL.Image
import pytest

import flashbulb
from flashbulb import AsyncClient, Dropped, Frame
from tests.service import KEY, SPARE_KEYS

SMALL = {"image_size": (128, 128), "num_inference_steps": 2, "seed": 7}


@pytest.fixture
async def client(service):
    async with AsyncClient(SPARE_KEYS[-1], service.address) as made:
        yield made


async def test_the_newest_prompt_is_always_drawn(client):
    async with asyncio.timeout(60), client.realtime(notices=True, **SMALL) as session:
        for number in range(1, 31):
            assert await session.send(prompt=f"a red apple number {number}") == number
            await asyncio.sleep(0.01)
        seen = []
        async for item in session:
            seen.append(item)
            if item.frame_id == 30:
                break
    assert isinstance(seen[-1], Frame)
    assert seen[-1].images[0].pil().size == (128, 128)
    assert {item.frame_id for item in seen} == set(range(1, 31))  # every frame is answered once
    assert len(seen) == 30


async def test_a_session_draws_what_a_direct_call_draws(client):
    async with client.realtime(**SMALL) as session:
        await session.send(prompt="a red apple")
        live = await session.latest()
    direct = await client.generate(prompt="a red apple", **SMALL)
    assert live.images[0].pil().tobytes() == direct.images[0].pil().tobytes()
    assert (live.seed, live.fidelity) == (direct.seed, direct.fidelity)


async def test_bad_frames_and_pictures_end_nothing(client):
    green = PIL.Image.new("RGB", (128, 128), "green")
    endpoint = "fast-lcm-diffusion/image-to-image"
    async with (
        asyncio.timeout(60),
        client.realtime(endpoint, prompt="a red apple", image_url=green, notices=True, **SMALL) as session,
    ):
        await session.send(strength=0.5)
        first = await session.latest()
        for changes, reason in (({"strength": 7.0}, "invalid"), ({"image_url": b"no picture"}, "failed")):
            await session.send(**changes)
            dropped = await anext(aiter(session))
            assert isinstance(dropped, Dropped)
            assert (dropped.reason, isinstance(dropped.error, flashbulb.InvalidInput)) == (reason, True)
        await session.send()
        again = await session.latest()
    assert again.images[0].content == first.images[0].content  # what was bad was taken back


@pytest.mark.slow
@pytest.mark.parametrize("child", ["worker", "api"])
async def test_a_lost_process_is_one_late_frame(breakable, child):
    async with (
        asyncio.timeout(100),
        AsyncClient(KEY, breakable.address) as client,
        client.realtime(notices=True, **SMALL) as session,
    ):
        await session.send(prompt="before")
        await session.latest()
        breakable.kill_child(child)
        number = await session.send(prompt="after")
        frame = await session.latest()
        await session.send(prompt="later")
        later = await session.latest()
    assert (frame.frame_id, later.frame_id) == (number, number + 1)


@pytest.mark.slow
async def test_a_session_outlives_its_tokens(client, service):
    async def provide():
        return await client.create_token(["fast-lcm-diffusion"], lifetime=1)

    async with (
        asyncio.timeout(60),
        AsyncClient(host=service.address, token_provider=provide) as device,
        device.realtime(**SMALL) as session,
    ):
        ids = {session.session_id}
        end = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < end:
            number = await session.send(prompt="a red apple")
            assert (await session.latest()).frame_id == number
            ids.add(session.session_id)
    assert len(ids) == 1  # resumed, not opened anew


async def test_a_token_is_for_its_endpoints_only(client, service):
    token = await client.create_token(["fast-lcm-diffusion/image-to-image"])
    async with AsyncClient(host=service.address, token=token.token) as device:
        with pytest.raises(flashbulb.AuthenticationError):
            async with device.realtime(**SMALL):
                pytest.fail("it was opened")


def test_live_draws_lines(service, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")}
    environment |= {"FLASHBULB_HOST": service.address, "FLASHBULB_KEY": KEY}
    command = [sys.executable, "-m", "flashbulb._cli", "live", "--size", "128x128", "--steps", "2", "--seed", "7"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        input="a red apple\na blue bird\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    with PIL.Image.open(tmp_path / "live.jpeg") as picture:
        assert picture.size == (128, 128)
