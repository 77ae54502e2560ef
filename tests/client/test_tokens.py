"""Tokens instead of a key: how they are made, sent, and renewed before and after they expire."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

import flashbulb
from flashbulb import AsyncClient, Client, ConfigurationError, Token
from flashbulb._credentials import Credentials
from flashbulb.v1 import queue_pb2, realtime_pb2
from tests.client import scripted
from tests.client.scripted import closed, drawing, failure, opened

STATUS = queue_pb2.GetStatusResponse(request=scripted.request())


def bearers(server):
    return [call.metadata.get("authorization") for call in server.calls]


async def test_a_token_is_made(client, server):
    answer = realtime_pb2.CreateTokenResponse(token="t1")
    answer.expire_time.FromSeconds(1_900_000_000)
    server.expect("CreateToken", answer)
    token = await client.create_token(["fast-lcm-diffusion"], 90)
    assert token == Token("t1", datetime.fromtimestamp(1_900_000_000, UTC))
    assert "t1" not in repr(token)
    (request,) = server.requests("CreateToken")
    assert (list(request.allowed_endpoints), request.lifetime.seconds) == (["fast-lcm-diffusion"], 90)


async def test_a_token_is_sent_instead_of_a_key(server, monkeypatch):
    monkeypatch.setenv("FLASHBULB_KEY", "id:secret")
    server.expect("GetStatus", STATUS)
    server.expect("Connect", drawing)
    async with AsyncClient(host=server.host, token="t1") as client:
        await client.status("r1")
        async with client.realtime(prompt="a") as session:
            await session.send()
            await session.latest()
    assert bearers(server) == ["Bearer t1"] * 2


@pytest.mark.parametrize("token", ["", " ", "a\nb", "ä"])
def test_bad_tokens(token):
    with pytest.raises(ConfigurationError):
        Client(token=token)


def test_a_key_and_a_token_are_too_much():
    with pytest.raises(ConfigurationError, match="not both"):
        Client("a:b", token="t1")
    with pytest.raises(ConfigurationError, match="not both"):
        Client(token="t1", token_provider=lambda: "t2")


async def test_a_provider_is_asked_once_while_its_token_lives(server):
    server.expect("GetStatus", STATUS, STATUS)
    asked = []

    async def provide():
        asked.append(1)
        return Token(f"t{len(asked)}", datetime.now(UTC) + timedelta(hours=1))

    async with AsyncClient(host=server.host, token_provider=provide) as client:
        await client.status("r1")
        await client.status("r1")
    assert bearers(server) == ["Bearer t1"] * 2


async def test_a_token_is_renewed_at_nine_tenths_of_its_life(monkeypatch):
    now = time.time()
    made = iter(["t1", "t2"])
    life = [100.0]
    credentials = Credentials(None, None, lambda: Token(next(made), datetime.fromtimestamp(now + life[0], UTC)))
    assert await credentials.header() == "Bearer t1"
    monkeypatch.setattr(time, "time", lambda: now + 89)
    assert await credentials.header() == "Bearer t1"
    life[0] = 1000
    monkeypatch.setattr(time, "time", lambda: now + 90.5)
    assert await credentials.header() == "Bearer t2"


async def test_a_provider_that_fails_is_an_authentication_error(server):
    def provide():
        raise OSError("no network")

    async with AsyncClient(host=server.host, token_provider=provide) as client:
        with pytest.raises(flashbulb.AuthenticationError, match="no network"):
            await client.status("r1")
        with pytest.raises(flashbulb.AuthenticationError, match="no network"):
            async with client.realtime():
                pytest.fail("it was opened")


@pytest.mark.parametrize("late", [False, True])
async def test_a_session_goes_on_with_a_new_token(server, late):
    tokens = iter(["t1", "t2"])

    def expires(requests):
        next(requests)
        yield opened()
        next(requests)
        yield failure("UNAUTHENTICATED", "TOKEN_INVALID") if late else closed("TOKEN_EXPIRED")
        for _ in requests:
            pass

    server.expect("Connect", expires, drawing)
    async with AsyncClient(host=server.host, token_provider=lambda: next(tokens)) as client:
        async with client.realtime() as session:
            await session.send(prompt="a")
            frame = await session.latest()
    assert (frame.frame_id, frame.images[0].content) == (1, b"a")
    assert bearers(server) == ["Bearer t1", "Bearer t2"]
    assert server.calls[1].request[0].open.resume_token == "again"


async def test_a_new_token_that_is_refused_ends_the_session(server):
    tokens = iter(["t1", "t2"])
    server.expect("Connect", *[failure("UNAUTHENTICATED", "TOKEN_INVALID")] * 2)
    async with AsyncClient(host=server.host, token_provider=lambda: next(tokens)) as client:
        with pytest.raises(flashbulb.AuthenticationError):
            async with client.realtime():
                pytest.fail("it was opened")
    assert bearers(server) == ["Bearer t1", "Bearer t2"]
