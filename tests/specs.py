"""Valid specs for tests, without the way through a request."""

from __future__ import annotations

from flashbulb_server.core.generation import TextToImageSpec

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


def make_spec(**values) -> TextToImageSpec:
    """A spec with the given values changed."""
    return TextToImageSpec(**{**DEFAULTS, **values})
