"""A picture is the same alone and in any company."""

from __future__ import annotations

import asyncio
import random

import pytest

from flashbulb_server.errors import EngineFailed, RequestCancelled
from flashbulb_server.worker.engine import StepEngine
from tests.pipelines.conftest import distance, draw
from tests.specs import make_spec

NAMES = ["a red apple", "a cat face", "a rocket", "a house", "a blue car on a yellow background", "a pizza"]
SPECS = [
    make_spec(prompt=name, seed=100 * index, num_inference_steps=1 + index % 4, guidance_scale=1.5 + index)
    for index, name in enumerate(NAMES)
]


@pytest.fixture(scope="module")
def alone(tiny):
    return [draw(tiny, spec)[0] for spec in SPECS]


def run_together(pipeline, chosen, rng):
    """Draws specs in one batch that lanes join at random steps and leave when they are finished."""
    pending = list(chosen)
    running, pictures = [], {}
    while pending or running:
        while pending and (not running or rng.random() < 0.6):
            index = pending.pop()
            running.append((index, pipeline.prepare(SPECS[index])[0]))
        pipeline.step([lane for _, lane in running])
        finished = [(index, lane) for index, lane in running if lane.step == lane.total_steps]
        running = [entry for entry in running if entry not in finished]
        if finished:
            decoded = pipeline.decode([lane for _, lane in finished])
            pictures.update(zip([index for index, _ in finished], decoded, strict=True))
    return pictures


@pytest.mark.parametrize("seed", range(20))
def test_random_batches(tiny, alone, seed):
    rng = random.Random(seed)
    chosen = rng.sample(range(len(SPECS)), rng.randrange(2, len(SPECS) + 1))
    for index, picture in run_together(tiny, chosen, rng).items():
        assert distance(picture, alone[index]) <= 1


def test_guided_and_unguided_lanes_share_a_call(random_models):
    model = random_models(None)
    specs = [
        make_spec(
            width=32, height=32, seed=index, guidance_scale=scale, guidance_rescale=rescale, negative_prompt="dull"
        )
        for index, (scale, rescale) in enumerate([(1.0, 0.0), (7.5, 0.0), (0.0, 0.5), (3.0, 0.5)])
    ]
    lanes = [lane for spec in specs for lane in model.prepare(spec)]
    for _ in range(4):
        model.step(lanes)
    for spec, picture in zip(specs, model.decode(lanes), strict=True):
        assert distance(picture, draw(model, spec)[0]) <= 1


async def test_eight_requests_in_flight_share_network_calls(tiny):
    specs = [make_spec(prompt=NAMES[index % len(NAMES)], seed=index) for index in range(8)]
    async with StepEngine({"flashbulb/tiny": tiny}, capacity=8) as engine, asyncio.timeout(60):
        drawings = [engine.start(spec) for spec in specs]
        results = [await drawing.result() for drawing in drawings]
    for spec, result in zip(specs, results, strict=True):
        assert result.mean_batch_size > 5
        assert distance(result.pictures[0], draw(tiny, spec)[0]) <= 1
        assert (result.native_width, result.native_height) == (128, 128)


async def test_cancel_costs_at_most_one_step(tiny):
    async with StepEngine({"flashbulb/tiny": tiny}, capacity=8) as engine, asyncio.timeout(60):
        at_cancel = asyncio.get_running_loop().create_future()

        def second_step(progress):
            if progress.step == 2:
                drawing.cancel()
                at_cancel.set_result(drawing.step)

        drawing = engine.start(make_spec(num_inference_steps=32), on_progress=second_step)
        stays = engine.start(make_spec(seed=9))
        with pytest.raises(RequestCancelled) as caught:
            await drawing.result()
        assert caught.value.step <= await at_cancel + 1
        assert distance((await stays.result()).pictures[0], draw(tiny, make_spec(seed=9))[0]) <= 1


async def test_more_steps_than_the_model_knows_fail_alone(tiny):
    async with StepEngine({"flashbulb/tiny": tiny}, capacity=8) as engine, asyncio.timeout(60):
        good, bad = engine.start(make_spec()), engine.start(make_spec(num_inference_steps=51))
        with pytest.raises(EngineFailed):
            await bad.result()
        assert (await good.result()).pictures
