"""Safety checkers: v1, the concept checker of Stable Diffusion, and v2, a ViT classifier. Loaded from folders on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import BaseImageProcessor, ViTForImageClassification

from flashbulb_server.core.pipeline import Pixels

NSFW_LABEL = "nsfw"
NSFW_THRESHOLD = 0.5


class SafetyChecker(Protocol):
    """Tells which pictures must not be shown."""

    def check(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether each picture is flagged."""
        ...


class ConceptChecker:
    """v1, CompVis/stable-diffusion-safety-checker: CLIP embeddings of the picture against those of unwanted concepts."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._processor = _processor("CLIPImageProcessor", folder)
        self._network = StableDiffusionSafetyChecker.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).to(device)  # type: ignore[arg-type]  # transformers wraps `to` in a decorator that loses its types
        self._network.eval()

    @torch.inference_mode()
    def check(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether each picture is close to a concept."""
        inputs = _pixel_values(self._processor, pictures).to(self._network.device)
        blank = [np.zeros(1) for _ in pictures]  # it blackens what it is given; the engine does that itself
        return [bool(flag) for flag in self._network(clip_input=inputs, images=blank)[1]]


class Classifier:
    """v2, Falconsai/nsfw_image_detection: a ViT that tells `nsfw` from `normal`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._processor = _processor("ViTImageProcessor", folder)
        self._network = ViTForImageClassification.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).to(device)  # type: ignore[arg-type]  # as above
        self._network.eval()
        labels = {str(name).lower(): int(index) for index, name in (self._network.config.id2label or {}).items()}
        if NSFW_LABEL not in labels:
            raise ValueError(f"its labels {sorted(labels)} do not include {NSFW_LABEL!r}")
        self._label = labels[NSFW_LABEL]

    @torch.inference_mode()
    def check(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether `nsfw` is more likely than not."""
        logits = self._network(_pixel_values(self._processor, pictures).to(self._network.device)).logits
        return [bool(p > NSFW_THRESHOLD) for p in logits.softmax(dim=-1)[:, self._label]]


CHECKERS: Mapping[str, Callable[[Path, torch.device], SafetyChecker]] = {"v1": ConceptChecker, "v2": Classifier}


def _processor(name: str, folder: Path) -> BaseImageProcessor:
    """The image processor in a folder, the one on PIL and numpy: `name` itself before transformers 5, `namePil` since."""
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    processor: BaseImageProcessor = kind.from_pretrained(str(folder), local_files_only=True)
    return processor


def _pixel_values(processor: BaseImageProcessor, pictures: Sequence[Pixels]) -> torch.Tensor:
    values: torch.Tensor = processor([Image.fromarray(p) for p in pictures], return_tensors="pt").pixel_values
    return values
