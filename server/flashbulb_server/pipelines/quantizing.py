"""A UNet in 8-bit numbers, weights and what flows between them (W8A8), on OpenVINO: faster where the processor multiplies bytes, less exact.

Which numbers a byte stands for is measured on the model's own drawings, all steps of them: random inputs would have other ranges.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.backend import Backend, Condition
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.openvino_backend import OpenVinoBackend
from flashbulb_server.pipelines.trial import trial_spec

PROMPTS = (
    "a red apple",
    "a cat face",
    "a house on a blue background",
    "a rocket",
    "a portrait of an old man, oil painting",
    "a mountain lake at sunset",
    "a green tree",
    "a yellow car in a street",
)
"""What is drawn to measure."""

STEPS = 4
LARGEST_SIDE = 256
"""Pixels of the squares that are drawn to measure: larger ones tell little more and take minutes."""

LARGEST_ERROR = 0.3
"""Of the UNet's output against the exact one, as a share of its norm: more would be noise."""


def is_installed() -> bool:
    """Whether NNCF, which quantizes, can be imported."""
    return importlib.util.find_spec("nncf") is not None


def quantize(networks: Networks, backend: OpenVinoBackend) -> None:
    """Replaces the backend's UNet. Raises Misconfigured if NNCF is missing, or too little is left of the picture."""
    if not is_installed():
        raise Misconfigured(
            "FLASHBULB_WORKER__QUANTIZE is w8a8, which needs NNCF: pip install 'flashbulb-server[openvino-int8]'"
        )
    recorder = _Recorder(backend)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NNCF, about what it is built on
        _draw(networks, recorder)
        exact = [backend.predict(*calls).clone() for calls in recorder.calls[:STEPS]]
        backend.change_step(lambda model: _quantized(model, recorder.calls))
        given = [backend.predict(*calls).clone() for calls in recorder.calls[:STEPS]]
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(given, exact, strict=True))
    if not error <= LARGEST_ERROR:  # written so that NaN fails too
        raise Misconfigured(
            f"FLASHBULB_WORKER__QUANTIZE is w8a8, which changes this model too much: its UNet differs by {error:.2g}"
        )


def _quantized(model: Any, calls: Sequence[_Call]) -> Any:  # noqa: ANN401  # openvino's classes are not typed for us
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # it tells what it does at length
    inputs = [
        [latents.numpy(), moments.numpy(), *(part.numpy() for part in fixed)] for latents, moments, fixed in calls
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,  # activations after SiLU are lopsided
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )


def _draw(networks: Networks, backend: Backend) -> None:
    side = min(networks.figures.native_size, LARGEST_SIDE)
    info = ModelInfo("measured", (), side, resamples=False, max_image_pixels=side**2, fidelity=backend.fidelity)
    pipeline = LatentConsistencyPipeline(Model.of(networks, backend), info, {})
    for index, prompt in enumerate(PROMPTS):
        lanes = pipeline.prepare(trial_spec(info, prompt, steps=STEPS, largest_side=side, seed=index))
        for _ in range(STEPS):
            pipeline.step(lanes)


_Call = tuple[Tensor, Tensor, list[Tensor]]


class _Recorder:
    """A backend that keeps what its UNet is given."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.calls: list[_Call] = []

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def fidelity(self) -> str:
        return self._backend.fidelity

    def embed(self, tokens: Tensor) -> Tensor:
        return self._backend.embed(tokens)

    def encode(self, picture: Tensor) -> Tensor:
        return self._backend.encode(picture)

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        return self._backend.condition(timesteps, prompt, guidance)

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        self.calls.append((latents.clone(), moments.clone(), [part.clone() for part in fixed]))
        return self._backend.predict(latents, moments, fixed)

    def decode(self, latents: Tensor) -> Tensor:
        return self._backend.decode(latents)
