"""The roles as they are wired, in this process: a request for a declared model waits for a worker, and workers with unlike models share a queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from flashbulb.v1 import input_pb2, model_pb2
from flashbulb_server.app.api import api
from flashbulb_server.app.worker import worker
from flashbulb_server.config import ModelsSettings, Settings
from tests.driving import Caller, State, refusal
from tests.integration.stage import eventually
from tests.service import auth, stubs
from tests.sleeping_pipeline import SleepingPipeline

pytestmark = pytest.mark.integration
A, B = "my/a", "my/b"
SUCCEEDED = State.STATE_SUCCEEDED


@asynccontextmanager
async def open_caller(settings: Settings) -> AsyncIterator[Caller]:
    async with api(settings) as addresses, grpc.aio.insecure_channel(addresses.grpc) as channel:
        yield Caller(stubs(channel), "test:test-secret")


@asynccontextmanager
async def open_worker(settings: Settings, model: str) -> AsyncIterator[None]:
    async with worker(settings, lambda _: {model: SleepingPipeline(model)}):
        yield


def picture(model: str) -> input_pb2.GenerationInput:
    values = input_pb2.FastLcmTextToImageInput(prompt="p", model_name=model, num_inference_steps=1)
    values.image_size.dimensions.width = values.image_size.dimensions.height = 64
    return input_pb2.GenerationInput(fast_lcm_text_to_image=values)


async def test_a_declared_model_is_queued_for_with_no_worker_and_drawn_when_one_comes(settings: Settings) -> None:
    declared = settings.model_copy(update={"models": ModelsSettings(declared={A: ("fast-lcm-diffusion",)})})
    async with open_caller(declared) as caller:
        request = await caller.submit(picture(A))
        status = await caller.status(request.request_id)
        assert (status.state, status.queue_position) == (State.STATE_QUEUED, 0)
        listed = await caller.call.models.ListModels(model_pb2.ListModelsRequest(), metadata=auth(caller.key))
        assert [(m.name, m.live_workers) for m in listed.models] == [(A, 0)]
        async with open_worker(declared, A):

            async def drawn() -> bool:
                return (await caller.status(request.request_id)).state == SUCCEEDED

            await eventually(drawn)


async def test_a_model_that_is_not_declared_is_refused_by_name_and_nothing_is_queued(settings: Settings) -> None:
    declared = settings.model_copy(update={"models": ModelsSettings(declared={A: ()})})
    async with open_caller(declared) as caller:
        error = await refusal(caller.submit(picture(B)))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert await caller.listed() == []


async def test_without_a_declaration_and_a_worker_there_is_nothing_to_queue_for(settings: Settings) -> None:
    async with open_caller(settings) as caller:
        error = await refusal(caller.submit(picture(A)))
        assert error.code is grpc.StatusCode.UNAVAILABLE


async def test_forty_requests_of_two_models_are_drawn_by_the_two_workers_that_have_them(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        for model in (A, B):
            await stack.enter_async_context(open_worker(settings, model))
        caller = await stack.enter_async_context(open_caller(settings))

        async def known() -> bool:
            found = await caller.call.models.ListModels(model_pb2.ListModelsRequest(), metadata=auth(caller.key))
            return [m.live_workers for m in found.models] == [1, 1]

        await eventually(known)
        made = [(await caller.submit(picture((A, B)[i % 2]))).request_id for i in range(40)]

        async def over() -> bool:
            states = [(await caller.status(request_id)).state for request_id in made]
            assert State.STATE_FAILED not in states
            return states == [SUCCEEDED] * 40

        await eventually(over, 30)
