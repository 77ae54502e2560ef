"""The example of the hosted model's page, word for word."""

from __future__ import annotations

import json

BODY = """\
{
  "model_name": "stabilityai/stable-diffusion-xl-base-1.0",
  "prompt": "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k.",
  "negative_prompt": "cartoon, illustration, animation. face. male, female",
  "image_size": "square_hd",
  "num_inference_steps": 6,
  "guidance_scale": 1.5,
  "sync_mode": true,
  "num_images": 1,
  "enable_safety_checker": true,
  "safety_checker_version": "v1",
  "format": "jpeg"
}
"""
EXAMPLE: dict[str, object] = json.loads(BODY)
ASKED, DREW = "stabilityai/stable-diffusion-xl-base-1.0", "flashbulb/tiny"
SAID = f"{ASKED} drawn by {DREW}"
