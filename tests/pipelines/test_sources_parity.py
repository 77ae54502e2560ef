"""Image to image and inpainting equal diffusers' own pipelines at the same seed: at most 1 level of 255 away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    LatentConsistencyModelImg2ImgPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw

from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Sources
from flashbulb_server.pipelines.loading import EMBEDDED_FOLDER, load_folder
from flashbulb_server.pipelines.schedule import make_schedules
from flashbulb_server.pipelines.starting import PICTURES_KEPT
from tests.graphs import GRAPHS
from tests.pipelines.conftest import TARGET, distance, draw, random_parts
from tests.specs import make_image_spec, make_inpainting_spec, make_spec

STRENGTHS = [0.05, 0.3, 0.6, 0.95, 1.0]


def picture(width=128, height=128, *, seed=0) -> Image.Image:
    """Soft colours with a hard disk, so that nothing is lost on a flat ground."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), fill=(220, 30, 30))
    return image


def mask(width=128, height=128) -> Image.Image:
    """The right half and a corner, with soft edges."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).rectangle((width // 2 + 3, 0, width, height), fill=255)
    ImageDraw.Draw(image).polygon(((0, 0), (width // 3, 0), (0, height // 3)), fill=180)
    return image


def sources(image: Image.Image, area: Image.Image | None = None) -> Sources:
    return Sources((np.asarray(image),), None if area is None else np.asarray(area), *image.size)


def levels(output) -> np.ndarray:
    return (output.images[0] * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def stock_image(stock_tiny) -> LatentConsistencyModelImg2ImgPipeline:
    """The embedded model in diffusers' pipeline for image to image."""
    pipeline = LatentConsistencyModelImg2ImgPipeline(**stock_tiny.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def stock_inpainting(stock_tiny) -> StableDiffusionInpaintPipeline:
    """The embedded model in diffusers' pipeline for inpainting.

    It asks the UNet's channels only to tell whether it takes a mask, and knows 4 and 9: this one has 8 and takes none.
    """
    unet = UNet2DConditionModel.from_pretrained(str(EMBEDDED_FOLDER / "unet"), low_cpu_mem_usage=False)
    unet.register_to_config(in_channels=4)
    parts = {name: part for name, part in stock_tiny.components.items() if name != "image_encoder"}
    parts["scheduler"] = LCMScheduler.from_config(
        parts["scheduler"].config, steps_offset=1
    )  # it insists, LCM never looks
    pipeline = StableDiffusionInpaintPipeline(**parts | {"unet": unet}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def given(spec: GenerationSpec) -> dict[str, object]:
    """What every pipeline of diffusers is called with."""
    return {
        "prompt": spec.prompt,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "generator": torch.Generator().manual_seed(spec.seed),
        "output_type": "np",
    }


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_embedded_image_to_image(tiny, stock_image, strength, steps):
    spec = make_image_spec(strength=strength, num_inference_steps=steps)
    ours = draw(tiny, spec, sources(picture()))[0]
    if steps > int(50 * strength):
        with pytest.raises(ValueError, match="smaller than"):
            stock_image(image=picture(), strength=strength, **given(spec))
        most = make_image_spec(strength=strength, num_inference_steps=int(50 * strength))
        theirs = levels(stock_image(image=picture(), strength=strength, **given(most)))
    else:
        theirs = levels(stock_image(image=picture(), strength=strength, **given(spec)))
    assert distance(ours, theirs) <= 1


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("strength", [0.01, *STRENGTHS])
def test_embedded_inpainting(tiny, stock_inpainting, strength, steps):
    spec = make_inpainting_spec(strength=strength, num_inference_steps=steps)
    ours = draw(tiny, spec, sources(picture(), mask()))[0]
    call = {"image": picture(), "mask_image": mask(), "width": 128, "height": 128, **given(spec)}
    if int(steps * strength) < 1:
        with pytest.raises(ValueError, match="< 1"):
            stock_inpainting(strength=strength, **call)
        strength = 1.0001 / steps if steps > 1 else 0.9999  # the last step alone
        if steps == 1:
            return  # diffusers has no such call: less than one step of one
        call |= given(spec)
    assert distance(ours, levels(stock_inpainting(strength=strength, **call))) <= 1


def test_every_picture_is_that_of_its_own_seed(tiny, stock_image, stock_inpainting):
    changed = make_image_spec(strength=0.7, num_images=2, seed=40)
    for index, ours in enumerate(draw(tiny, changed, sources(picture()))):
        alone = make_image_spec(strength=0.7, seed=40 + index)
        assert distance(ours, levels(stock_image(image=picture(), strength=0.7, **given(alone)))) <= 1
    part = make_inpainting_spec(strength=0.7, num_images=2, seed=40)
    for index, ours in enumerate(draw(tiny, part, sources(picture(), mask()))):
        alone = make_inpainting_spec(seed=40 + index)
        call = {"image": picture(), "mask_image": mask(), "width": 128, "height": 128, "strength": 0.7}
        assert distance(ours, levels(stock_inpainting(**call, **given(alone)))) <= 1


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_variational_encoder(random_models, strength, steps):
    """Stable Diffusion's own autoencoder draws from the generator before the noise is."""
    image, area = picture(32, 32), mask(32, 32)
    options = {"strength": strength, "num_inference_steps": steps, "width": 32, "height": 32}
    parts = random_parts(guidance_width=32) | {"safety_checker": None, "feature_extractor": None}
    stock = LatentConsistencyModelImg2ImgPipeline(**parts, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    spec = make_image_spec(**options)
    theirs = levels(stock(image=image, strength=strength, **given(spec)))
    assert distance(draw(random_models(32), spec, sources(image))[0], theirs) <= 1
    if int(steps * strength) < 1:
        return
    painter = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    spec = make_inpainting_spec(**options)
    call = {"image": image, "mask_image": area, "width": 32, "height": 32, "strength": strength}
    assert distance(draw(random_models(32), spec, sources(image, area))[0], levels(painter(**call, **given(spec)))) <= 1


@pytest.mark.parametrize("scale, negative", [(1.0, ""), (7.5, "a green tree")])
def test_classifier_free_guidance(random_models, scale, negative):
    image, area = picture(32, 32), mask(32, 32)
    options = {"guidance_scale": scale, "negative_prompt": negative, "strength": 0.6, "width": 32, "height": 32}
    parts = random_parts(guidance_width=None) | {"safety_checker": None, "feature_extractor": None}
    painter = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    spec = make_inpainting_spec(**options)
    call = {"image": image, "mask_image": area, "width": 32, "height": 32, "strength": 0.6}
    theirs = levels(painter(**call, negative_prompt=negative, **given(spec)))
    assert distance(draw(random_models(None), spec, sources(image, area))[0], theirs) <= 1
    # The pipeline of plain Stable Diffusion counts strength in another way, so it is given the timesteps.
    changer = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    changer.set_progress_bar_config(disable=True)
    spec = make_image_spec(**options)
    timesteps = [step.timestep for step in make_schedules(LCMScheduler.from_config(parts["scheduler"].config))(4, 0.6)]
    call = given(spec) | {"num_inference_steps": None, "timesteps": timesteps}
    theirs = levels(changer(image=image, strength=1.0, negative_prompt=negative, **call))
    assert distance(draw(random_models(None), spec, sources(image))[0], theirs) <= 1


def test_a_size_between_multiples_is_carried_on_and_cut_off_again(random_models):
    image = picture(38, 30)
    ours = draw(random_models(32), make_image_spec(width=38, height=30, strength=0.5), sources(image))[0]
    assert ours.shape == (30, 38, 3)
    wide = Image.fromarray(np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge"))
    whole = draw(random_models(32), make_image_spec(width=40, height=32, strength=0.5), sources(wide))[0]
    assert distance(ours, whole[1:31, 1:39]) == 0


def test_kinds_share_a_call_and_change_nothing(tiny):
    specs = [make_spec(), make_image_spec(strength=0.6), make_inpainting_spec(strength=0.8)]
    given_pictures = [None, sources(picture()), sources(picture(seed=1), mask())]
    alone = [draw(tiny, spec, given)[0] for spec, given in zip(specs, given_pictures, strict=True)]
    lanes = [tiny.prepare(spec, given)[0] for spec, given in zip(specs, given_pictures, strict=True)]
    assert len({lane.bucket for lane in lanes}) == 1
    while open_lanes := [lane for lane in lanes if lane.step < lane.total_steps]:
        tiny.step(open_lanes)
    for together, one in zip(tiny.decode(lanes), alone, strict=True):
        assert distance(together, one) <= 1


@pytest.mark.parametrize("strength", [0.05, 0.1, 0.29, 0.58, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 8, 32])
def test_the_steps_that_a_spec_tells_are_those_taken(tiny, strength, steps):
    for make, area in ((make_image_spec, None), (make_inpainting_spec, mask())):
        spec = make(strength=strength, num_inference_steps=steps)
        (lane,) = tiny.prepare(spec, sources(picture(), area))
        assert lane.total_steps == spec.steps >= 1


def test_what_is_not_under_the_mask_stays(tiny):
    ours = draw(tiny, make_inpainting_spec(strength=1.0), sources(picture(), mask()))[0].astype(int)
    kept = np.abs(ours - np.asarray(picture()).astype(int))[48:, :56]
    drawn = np.abs(ours - np.asarray(picture()).astype(int))[:, 80:]
    assert kept.mean() < 12 < drawn.mean()


def test_a_picture_that_comes_again_is_not_encoded_again(random_folders, monkeypatch):
    """And each picture still takes its own draws from a variational encoder."""
    model = load_folder("random", random_folders(32), TARGET, {}, kept=GRAPHS)
    calls = []
    encode = model._backend.encode
    monkeypatch.setattr(model._backend, "encode", lambda picture: (calls.append(1), encode(picture))[1])
    first, other = sources(picture(32, 32)), sources(picture(32, 32, seed=1))
    options = {"width": 32, "height": 32, "strength": 0.5}
    drawn = [draw(model, make_image_spec(**options, seed=seed), first)[0] for seed in (1, 2, 1)]
    assert len(calls) == 1
    assert distance(drawn[0], drawn[2]) == 0 < distance(drawn[0], drawn[1])
    assert distance(draw(model, make_image_spec(**options, seed=1), other)[0], drawn[0]) > 0
    assert len(calls) == 2
    for seed in range(PICTURES_KEPT):
        model.prepare(make_image_spec(**options), sources(picture(32, 32, seed=2 + seed)))
    assert len(model._encoder._kept) == PICTURES_KEPT
    model.prepare(make_image_spec(**options), first)
    assert len(calls) == 2 + PICTURES_KEPT + 1, "what came longest ago is forgotten"
