"""A UNet taken apart: what depends on the timestep, the prompt and the guidance only, and what remains for every step.

In diffusers, the time embedding enters every residual block through a projection of its own, and the prompt every cross-attention through
two. Row by row they are a third of a small UNet's time on a CPU; computed once, for all steps of a picture, they cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from flashbulb_server.pipelines.backend import Unsupported


class Conditioner:
    """The part that runs once a picture. Takes the projections out of `unet`, which `detached` replaces while it is traced."""

    def __init__(self, unet: Any) -> None:  # noqa: ANN401  # UNet2DConditionModel, a class without types
        blocks: list[Any] = [m for m in unet.modules() if getattr(m, "time_emb_proj", None) is not None]
        for block in blocks:
            if type(block) is not ResnetBlock2D:
                raise Unsupported(f"its UNet has a {type(block).__name__}")
        attentions: list[Any] = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
        if not attentions or any(attention.norm_cross for attention in attentions):
            raise Unsupported("its UNet has no cross-attention, or one that normalises the prompt")
        kinds = {(bool(block.skip_time_act), type(block.nonlinearity)) for block in blocks}
        if len(kinds) != 1:
            raise Unsupported("its UNet's blocks take the time embedding in different ways")
        self._unet = unet
        self._blocks = blocks
        self._attentions = attentions
        self._projections = [block.time_emb_proj for block in blocks]
        self._keys = [(attention.to_k, attention.to_v) for attention in attentions]
        self._direct = bool(blocks[0].skip_time_act)
        self._to_moments = _stacked(self._projections)
        self._to_keys = _stacked([project for pair in self._keys for project in pair])
        self._embedding = unet.time_embedding
        self._addition = unet.add_embedding if unet.config.addition_embed_type == "text" else None

    def moments(self, timesteps: Tensor, prompt: Tensor, guidance: Tensor | None) -> Tensor:
        """All projections of one picture's time embeddings, side by side: (S, M). `timesteps` (S,), `prompt` (1, T, D)."""
        sines = self._unet.time_proj(timesteps).to(prompt.dtype)
        embedding = self._embedding(sines, guidance)
        if self._addition is not None:
            embedding = embedding + self._addition(prompt)
        if self._unet.time_embed_act is not None:
            embedding = self._unet.time_embed_act(embedding)
        if not self._direct:
            embedding = self._blocks[0].nonlinearity(embedding)
        return torch.nn.functional.linear(embedding, *self._to_moments)

    def keys(self, prompt: Tensor) -> Tensor:
        """All projections of a prompt to keys and values, side by side: (1, T, K)."""
        return torch.nn.functional.linear(prompt, *self._to_keys)

    @contextmanager
    def detached(self) -> Iterator[torch.nn.Module]:
        """The part that runs every step, as a module of (latents, moments, keys), made of the UNet itself for as long as this is open."""
        given = _Given()
        at = 0
        for block, projection in zip(self._blocks, self._projections, strict=True):
            block.time_emb_proj, block.skip_time_act = _Columns(at, projection.out_features), True
            at += projection.out_features
        at = 0
        for attention, (key, value) in zip(self._attentions, self._keys, strict=True):
            middle = at + key.out_features
            attention.to_k, attention.to_v = _Columns(at, middle - at), _Columns(middle, value.out_features)
            at = middle + value.out_features
        self._unet.time_embedding = given
        if self._addition is not None:
            self._unet.add_embedding = _Nothing()
        activation, self._unet.time_embed_act = self._unet.time_embed_act, None
        try:
            yield _EveryStep(self._unet, given)
        finally:
            for block, projection in zip(self._blocks, self._projections, strict=True):
                block.time_emb_proj, block.skip_time_act = projection, self._direct
            for attention, (key, value) in zip(self._attentions, self._keys, strict=True):
                attention.to_k, attention.to_v = key, value
            self._unet.time_embedding, self._unet.time_embed_act = self._embedding, activation
            if self._addition is not None:
                self._unet.add_embedding = self._addition


def _stacked(projections: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The weights and biases of linear layers of one input, as those of a single layer."""
    biases = [torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in projections]
    return torch.cat([layer.weight for layer in projections]), torch.cat(biases)


class _EveryStep(torch.nn.Module):
    def __init__(self, unet: torch.nn.Module, given: _Given) -> None:
        super().__init__()
        self.unet = unet
        self.given = given

    def forward(self, latents: Tensor, moments: Tensor, keys: Tensor) -> Tensor:
        self.given.moments = moments
        output: Tensor = self.unet(latents, moments[:, 0], encoder_hidden_states=keys, return_dict=False)[0]
        return output


class _Given(torch.nn.Module):
    """In place of the time embedding: the moments. Every block then cuts its own columns from them."""

    moments: Tensor

    def forward(self, *_: Tensor | None) -> Tensor:
        return self.moments


class _Columns(torch.nn.Module):
    def __init__(self, begin: int, count: int) -> None:
        super().__init__()
        self.begin, self.end = begin, begin + count

    def forward(self, rows: Tensor) -> Tensor:
        return rows[..., self.begin : self.end]


class _Nothing(torch.nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        return torch.zeros(())
