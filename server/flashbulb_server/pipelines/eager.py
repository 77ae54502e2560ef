"""The networks as diffusers runs them: torch, operation by operation. The reference of the other backends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import Condition
from flashbulb_server.pipelines.checking import fidelity_of
from flashbulb_server.pipelines.ends import Ends
from flashbulb_server.pipelines.networks import Networks


class EagerBackend:
    """On any device, in the dtype of the weights."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._device = networks.device
        self._dtype = networks.dtype
        self._ends = Ends(networks, networks.dtype)
        self._shaded = torch.empty(0, device=networks.device)
        self._half = torch.tensor(128.0, device=networks.device)

    @property
    def name(self) -> str:
        """`torch`, the device and the dtype."""
        return f"torch {self._device.type} {str(self._dtype).removeprefix('torch.')}"

    @property
    def fidelity(self) -> str:
        """EXACT in float32."""
        return fidelity_of(self._networks, self._dtype)

    def embed(self, tokens: Tensor) -> Tensor:
        """One call of the text encoder."""
        return self._ends.embed(tokens.to(self._device))

    def encode(self, picture: Tensor) -> Tensor:
        """One call of the encoder."""
        return self._ends.encode(picture.to(self._device))

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """The UNet's own inputs."""
        moments = torch.tensor(timesteps, device=self._device)
        return Condition(moments, (prompt,) if guidance is None else (prompt, guidance))

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """One call of the UNet."""
        output: Tensor = self._networks.unet(
            latents.to(self._dtype),
            moments,
            encoder_hidden_states=fixed[0],
            timestep_cond=fixed[1] if len(fixed) > 1 else None,
            return_dict=False,
        )[0]
        return output.float()

    def decode(self, latents: Tensor) -> Tensor:
        """One call of the decoder; the conversion to levels runs on the device."""
        decoder = self._networks.decoder
        scaled = latents.to(self._dtype) / decoder.config.scaling_factor
        picture: Tensor = decoder.decode(scaled, return_dict=False)[0]
        # Half a level too bright, and cut off by the conversion: rounding in fewer passes over the picture.
        if self._shaded.shape != picture.shape:  # kept: fresh memory of this size costs a millisecond
            self._shaded = torch.empty_like(picture, dtype=torch.float32)
        shaded = torch.add(self._half, picture.float(), alpha=127.5, out=self._shaded).clamp_(0, 255)
        count, channels, height, width = shaded.shape
        levels = torch.empty((count, height, width, channels), dtype=torch.uint8, device=self._device)
        for channel in range(channels):  # one pass converts and interleaves; all channels at once take two
            levels[..., channel].copy_(shaded[:, channel])
        return levels.cpu()
