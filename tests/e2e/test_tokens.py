"""Short-lived tokens with the whole service: made with a key, good for realtime sessions of the named endpoints, and for nothing else."""

from __future__ import annotations

import base64
import json
import time

import grpc
import jwt
import pytest
from google.protobuf.duration_pb2 import Duration

from flashbulb.v1 import generation_pb2, input_pb2, model_pb2, queue_pb2, realtime_pb2
from tests.driving import Caller, Refusal, refusal
from tests.service import apple
from tests.sessions import Close, Connect, talking, text

LCM = "fast-lcm-diffusion"


async def create(caller: Caller, *endpoints: str, seconds: float | None = None) -> realtime_pb2.CreateTokenResponse:
    lifetime = None if seconds is None else Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    request = realtime_pb2.CreateTokenRequest(allowed_endpoints=endpoints, lifetime=lifetime)
    return await caller.call.realtime.CreateToken(
        request, metadata=(("authorization", f"Key {caller.key}"),), timeout=10
    )


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def connect(caller: Caller, token: str, given: input_pb2.GenerationInput | None = None) -> Refusal:
    """What a connection with the token is refused with."""

    async def run() -> None:
        async with talking(caller.call.realtime, bearer(token)) as talk:
            await talk.say(Connect(open=realtime_pb2.OpenSession(defaults=given or text(prompt="a"))))
            await talk.call.read()

    return await refusal(run())


async def test_a_token_opens_a_session_and_draws(me: Caller) -> None:
    made = await create(me, LCM)
    assert 115 < made.expire_time.seconds - time.time() < 125
    async with talking(me.call.realtime, bearer(made.token)) as talk:
        await talk.open()
        await talk.draw(1)


async def test_a_session_ends_with_its_token(me: Caller) -> None:
    made = await create(me, LCM, seconds=1)
    async with talking(me.call.realtime, bearer(made.token)) as talk:
        await talk.open()
        await talk.draw(1)
        closed = await talk.closed(10)
        assert closed.reason == Close.CLOSE_REASON_TOKEN_EXPIRED
        assert time.time() >= made.expire_time.seconds
        assert closed.HasField("retry_delay"), "it may be opened again, with another token"
    other = await create(me, LCM)
    async with talking(me.call.realtime, bearer(other.token)) as again:
        await again.open(resume_token=talk.opened.resume_token)
        assert again.opened.session_id == talk.opened.session_id


@pytest.mark.parametrize(
    ("endpoints", "seconds", "fields"),
    [
        ([], None, ["allowed_endpoints"]),
        (["nothing"], None, ["allowed_endpoints"]),
        ([LCM] * 33, None, ["allowed_endpoints"]),
        ([LCM], 0.5, ["lifetime"]),
        ([LCM], 3601, ["lifetime"]),
        ([LCM], -10, ["lifetime"]),
        ([], 0, ["allowed_endpoints", "lifetime"]),
    ],
)
async def test_what_a_token_may_be_asked_for(
    me: Caller, endpoints: list[str], seconds: float | None, fields: list[str]
) -> None:
    refused = await refusal(create(me, *endpoints, seconds=seconds))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


CLAIMS = {"sub": "tester", "aud": "flashbulb", "exp": 2**33, "endpoints": [LCM]}
FORGED = {
    "another secret": jwt.encode(CLAIMS, "another secret of more than thirty-two characters", algorithm="HS256"),
    "no signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(CLAIMS)}.",
    "no token": "nonsense",
    "empty": "",
    "nested deeply": f"{base64.urlsafe_b64encode(b'[' * 3000).decode()}.{part(CLAIMS)}.x",
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused(me: Caller, name: str) -> None:
    refused = await connect(me, FORGED[name])
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_token_that_was_changed_is_refused(me: Caller) -> None:
    header, claims, signature = (await create(me, LCM)).token.split(".")
    wider = json.loads(base64.urlsafe_b64decode(claims + "=="))
    wider["endpoints"].append("fast-lcm-diffusion/inpainting")
    refused = await connect(me, f"{header}.{part(wider)}.{signature}")
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_token_is_good_for_its_endpoints_alone(me: Caller) -> None:
    made = await create(me, "fast-lcm-diffusion/image-to-image")
    refused = await connect(me, made.token)
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TOKEN_FORBIDS")
    assert refused.metadata == {"wanted": LCM, "allowed": "fast-lcm-diffusion/image-to-image"}


async def test_a_token_is_good_for_sessions_alone(me: Caller) -> None:
    metadata = bearer((await create(me, LCM)).token)
    call = me.call
    for attempt in (
        call.generation.Generate(generation_pb2.GenerateRequest(input=apple()), metadata=metadata, timeout=10),
        call.generation.GenerateStream(
            generation_pb2.GenerateStreamRequest(input=apple()), metadata=metadata, timeout=10
        ),
        call.queue.Submit(queue_pb2.SubmitRequest(input=apple()), metadata=metadata, timeout=10),
        call.models.ListModels(model_pb2.ListModelsRequest(), metadata=metadata, timeout=10),
        call.realtime.CreateToken(
            realtime_pb2.CreateTokenRequest(allowed_endpoints=[LCM]), metadata=metadata, timeout=10
        ),
    ):
        refused = await refusal(attempt)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TOKEN_FORBIDS")


async def test_a_token_speaks_for_the_key_that_made_it(me: Caller, stranger: Caller) -> None:
    made = await create(me, LCM)
    async with talking(me.call.realtime, bearer(made.token)) as talk:
        await talk.open()
        await talk.draw(1, prompt="a blue bird")
    other = await create(stranger, LCM)
    async with talking(me.call.realtime, bearer(other.token)) as thief:
        await thief.open(resume_token=talk.opened.resume_token)
        assert thief.opened.session_id != talk.opened.session_id
    async with talking(me.call.realtime, (("authorization", f"Key {me.key}"),)) as again:
        await again.open(resume_token=talk.opened.resume_token)
        assert again.opened.session_id == talk.opened.session_id
