"""Valid specs for tests, without the way through a request."""

from __future__ import annotations

from flashbulb_server.core.generation import GenerationSpec, SourceImage

DEFAULTS = {
    "endpoint": "fast-lcm-diffusion",
    "model_name": "flashbulb/tiny",
    "prompt": "a red apple",
    "negative_prompt": "",
    "width": 128,
    "height": 128,
    "num_inference_steps": 4,
    "seed": 7,
    "guidance_scale": 1.5,
    "sync_mode": False,
    "num_images": 1,
    "enable_safety_checker": True,
    "safety_checker_version": "v1",
    "expand_prompt": False,
    "format": "png",
    "guidance_rescale": 0.0,
    "request_id": "",
}


def make_spec(**values) -> GenerationSpec:
    """A spec with the given values changed."""
    return GenerationSpec(**{**DEFAULTS, **values})


def make_image_spec(**values) -> GenerationSpec:
    """A spec of image to image with the given values changed."""
    more = {"image": SourceImage("https://pictures.example/a.png"), "strength": 0.95}
    more |= {"endpoint": "fast-lcm-diffusion/image-to-image", "preserve_aspect_ratio": False, "crop_output": False}
    return GenerationSpec(**{**DEFAULTS, **more, **values})


def make_edit_spec(*pictures: SourceImage, **values) -> GenerationSpec:
    """A spec of an edit that speaks of these pictures, with the given values changed."""
    more = {"endpoint": "omnigen-v1", "input_images": pictures, "img_guidance_scale": 1.6, "safety_checker_version": ""}
    return GenerationSpec(**{**DEFAULTS, **more, **values})


def make_inpainting_spec(**values) -> GenerationSpec:
    """A spec of inpainting with the given values changed."""
    pictures = "https://pictures.example/"
    more = {"image": SourceImage(pictures + "a.png"), "mask": SourceImage(pictures + "m.png"), "strength": 0.95}
    return GenerationSpec(**{**DEFAULTS, **more, "endpoint": "fast-lcm-diffusion/inpainting", **values})
