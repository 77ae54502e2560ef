"""The networks compiled by OpenVINO for the CPU: fused, with weights packed for the processor, for any batch and any size.

1. Converted at load from the very modules that diffusers loaded, and checked against them; no network, no files.
2. What depends on time, guidance and prompt alone is computed by torch, once a picture (pipelines.conditioning).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Backend, Condition, Unsupported
from flashbulb_server.pipelines.conditioning import Conditioner
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.openvino_graph import Graph

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""What can be asked for, and OpenVINO's word for it. Weights are float32 in either case."""

LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Of the UNet's output against the reference, as a share of its norm, that the check at load allows."""

MEAN_LEVELS = {torch.float32: 0.1, torch.bfloat16: 2.0}
"""Mean difference of decoded levels that the check at load allows."""


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoBackend:
    """Networks in float32 on the CPU, run as exactly as `precision` says. Raises Unsupported when they cannot be converted.

    `reference`: what its results are checked against. `threads`: 0 takes as many as torch does.
    """

    def __init__(self, networks: Networks, reference: Backend, *, precision: torch.dtype, threads: int = 0) -> None:
        if networks.device.type != "cpu" or networks.dtype != torch.float32 or precision not in PRECISIONS:
            raise Unsupported(f"{networks.device.type} {networks.dtype} as {precision}")
        self._precision = precision
        self._approximate = networks.decoder is not networks.vae
        config = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
        }
        sample = _Sample(networks)
        try:
            self._conditioner = Conditioner(networks.unet)
            moments = self._conditioner.moments(sample.timesteps, sample.prompt[:1], sample.guidance)
            keys = self._conditioner.keys(sample.prompt)
            with self._conditioner.detached() as every_step:
                self._step = Graph(every_step, (sample.latents, moments, keys), config)
            self._decoder = Graph(_Decode(networks.decoder), (sample.latents,), config)
            self._check(sample, reference)
        except Unsupported:
            raise
        except Exception as err:  # whatever tracing and compiling a stranger's network may raise
            raise Unsupported(f"{type(err).__name__}: {err}") from err

    @property
    def name(self) -> str:
        """`openvino cpu` and the precision."""
        return f"openvino cpu {str(self._precision).removeprefix('torch.')}"

    @property
    def fidelity(self) -> str:
        """EXACT in float32."""
        if self._approximate:
            return "APPROX"
        return "EXACT" if self._precision == torch.float32 else "CLOSE"

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """What time, guidance and prompt are to every block of the UNet."""
        moments = self._conditioner.moments(torch.tensor(timesteps), prompt, guidance)
        return Condition(moments, (self._conditioner.keys(prompt),))

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """One run of the UNet."""
        return self._step(latents, moments, *fixed)

    def decode(self, latents: Tensor) -> Tensor:
        """One run of the decoder, levels included."""
        return self._decoder(latents).clone()

    def _check(self, sample: _Sample, reference: Backend) -> None:
        """Raises Unsupported if a small batch does not come out as the reference's, rows apart and together."""
        conditions = [(b.condition(sample.steps, sample.prompt[:1], sample.guidance), b) for b in (self, reference)]
        ours, theirs = (
            b.predict(sample.latents, c.moments, [f.expand(2, *f.shape[1:]) for f in c.fixed]).clone()
            for c, b in conditions
        )
        condition = conditions[0][0]
        alone = self.predict(sample.latents[1:], condition.moments[1:], condition.fixed)
        size = float(theirs.norm())
        error = max(float((ours - theirs).norm()), float((alone - theirs[1:]).norm())) / size
        if not error <= LARGEST_ERROR[self._precision]:  # written so that NaN fails too
            raise Unsupported(f"its UNet differs by {error:.2g} from torch's")
        picture, other = self.decode(sample.latents), reference.decode(sample.latents)
        if picture.shape != other.shape:
            raise Unsupported(f"its decoder gives {tuple(picture.shape)} for {tuple(other.shape)}")
        levels = float((picture.float() - other.float()).abs().mean())
        if not levels <= MEAN_LEVELS[self._precision]:
            raise Unsupported(f"its decoder differs by {levels:.2g} levels from torch's")


class _Sample:
    """Small inputs for two rows, to trace and to check with."""

    def __init__(self, networks: Networks) -> None:
        generator = torch.Generator().manual_seed(0)
        side = 2 * networks.multiple // networks.pixels_per_latent
        text = networks.text_encoder.config
        self.steps = (999, 259)
        self.timesteps = torch.tensor(self.steps)
        self.latents = torch.randn((2, networks.channels, side, side), generator=generator)
        tokens = min(text.max_position_embeddings, networks.tokenizer.model_max_length)
        width = networks.unet.config.cross_attention_dim
        self.prompt = torch.randn((2, tokens, width), generator=generator)
        guided = networks.guidance_width
        self.guidance = torch.randn((1, guided), generator=generator) if guided else None


class _Decode(torch.nn.Module):
    """Clean latents (B, C, h, w) to levels (B, H, W, 3) uint8."""

    def __init__(self, decoder: Any) -> None:  # noqa: ANN401  # AutoencoderKL or AutoencoderTiny, classes without types
        super().__init__()
        self.decoder = decoder
        self.scaling_factor = float(decoder.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        picture = self.decoder.decode(latents / self.scaling_factor, return_dict=False)[0]
        levels: Tensor = (picture * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1)
