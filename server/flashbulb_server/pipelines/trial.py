"""The pictures that a model draws for itself while it is loaded: to warm up, and to be measured."""

from __future__ import annotations

from flashbulb_server.core.catalog import FAST_LCM, ModelInfo
from flashbulb_server.core.generation import GenerationSpec


def trial_spec(info: ModelInfo, prompt: str, *, steps: int, largest_side: int, seed: int = 0) -> GenerationSpec:
    """A picture of the native size, but at most `largest_side` pixels wide and high."""
    side = min(info.native_size, largest_side)
    return GenerationSpec(
        endpoint=FAST_LCM.id,
        model_name=info.name,
        prompt=prompt,
        width=side,
        height=side,
        num_inference_steps=steps,
        seed=seed,
        guidance_scale=1.5,
        sync_mode=False,
        num_images=1,
        enable_safety_checker=False,
        format="png",
    )
