"""Pictures equal those of diffusers' own pipelines at the same seed: at most 1 level of 255 away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler

from flashbulb_server.pipelines.loading import load_embedded
from flashbulb_server.pipelines.schedule import make_schedules
from flashbulb_server.pipelines.target import Target
from tests.graphs import GRAPHS
from tests.pipelines.conftest import CPU, distance, draw, stock_draw, stock_random
from tests.specs import make_spec


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "prompt, scale, seed", [("a red apple", 1.5, 7), ("a rocket on a blue background", 6.0, 2**53 - 1)]
)
def test_embedded_model(tiny, stock_tiny, steps, prompt, scale, seed):
    spec = make_spec(prompt=prompt, guidance_scale=scale, seed=seed, num_inference_steps=steps)
    ours, theirs = draw(tiny, spec)[0], stock_draw(stock_tiny, spec)
    assert distance(ours, theirs) <= 1
    assert np.mean(ours != theirs) < 0.01, "and nearly every level is the same: rounding, not cutting off"


def test_every_picture_is_that_of_its_own_seed(tiny, stock_tiny):
    pictures = draw(tiny, make_spec(num_images=3, seed=40))
    for index, picture in enumerate(pictures):
        assert distance(picture, stock_draw(stock_tiny, make_spec(seed=40 + index))) <= 1
    assert distance(pictures[0], pictures[1]) > 1


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_embedding(random_models, steps, scale):
    spec = make_spec(num_inference_steps=steps, guidance_scale=scale, width=32, height=32)
    stock = stock_random(guidance_width=32)
    assert distance(draw(random_models(32), spec)[0], stock_draw(stock, spec, width=32, height=32)) <= 1


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    "scale, negative, rescale", [(1.0, "", 0.0), (3.0, "", 0.0), (7.5, "a green tree", 0.0), (7.5, "dull", 0.7)]
)
def test_classifier_free_guidance(random_models, steps, scale, negative, rescale):
    spec = make_spec(
        num_inference_steps=steps,
        guidance_scale=scale,
        negative_prompt=negative,
        guidance_rescale=rescale,
        width=32,
        height=32,
    )
    stock = stock_random(guidance_width=None)
    theirs = stock_draw(stock, spec, width=32, height=32, negative_prompt=negative, guidance_rescale=rescale)
    assert distance(draw(random_models(None), spec)[0], theirs) <= 1


@pytest.mark.parametrize("width", [None, 32])
def test_random_models_tell_their_inputs_apart(random_models, width):
    """Or the tests above could not fail."""
    base = {"guidance_scale": 7.5, "width": 32, "height": 32}
    model = random_models(width)
    picture = draw(model, make_spec(**base))[0]
    assert picture.std() > 5
    changes = [{"prompt": "a blue car"}, {"guidance_scale": 2.0}, {"seed": 8}, {"num_inference_steps": 3}]
    if width is None:
        changes += [{"negative_prompt": "a tree"}, {"guidance_rescale": 0.7}]
    for change in changes:
        assert distance(draw(model, make_spec(**{**base, **change}))[0], picture) > 2, change


def test_a_size_between_multiples_is_cut_from_the_next_one(random_models):
    stock = stock_random(guidance_width=32)
    theirs = stock_draw(stock, make_spec(), width=40, height=32)
    ours = draw(random_models(32), make_spec(width=38, height=30))[0]
    assert distance(ours, theirs[1:31, 1:39]) <= 1


def test_bfloat16_is_close(tiny):
    """At least 40 dB to float32 at the same seed, over several pictures."""
    half = load_embedded(Target(CPU, torch.bfloat16), GRAPHS)
    assert half.info.fidelity == "CLOSE"
    for seed in range(3):
        spec = make_spec(seed=seed, prompt="a house")
        error = draw(tiny, spec)[0].astype(float) - draw(half, spec)[0]
        assert 20 * np.log10(255 / np.sqrt((error**2).mean())) >= 40


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 3, 32])
def test_folded_steps_are_those_of_the_scheduler(prediction, steps):
    scheduler = LCMScheduler(prediction_type=prediction)
    schedule = make_schedules(LCMScheduler(prediction_type=prediction))(steps)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    for step, timestep in zip(schedule, scheduler.timesteps, strict=True):
        assert step.timestep == int(timestep)
        output = torch.randn(latents.shape, generator=generator)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
        theirs = scheduler.step(output, timestep, latents, generator=torch.Generator().manual_seed(5))
        denoised = step.from_sample * latents + step.from_output * output
        torch.testing.assert_close(denoised, theirs.denoised, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step.keep * denoised + step.noise * noise, theirs.prev_sample, rtol=1e-4, atol=1e-5)
        latents = theirs.prev_sample
    assert schedule[-1].noise == 0


@pytest.mark.parametrize("option", ["thresholding", "clip_sample"])
def test_a_scheduler_that_clips_is_refused(option):
    with pytest.raises(ValueError, match="clips"):
        make_schedules(LCMScheduler(**{option: True}))
