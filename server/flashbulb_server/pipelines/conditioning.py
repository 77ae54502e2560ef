"""A UNet taken apart: what depends on the timestep, the prompt and the guidance only, and what remains for every step.

In diffusers, the time embedding enters every residual block through a projection of its own, and the prompt every cross-attention through
two. Row by row they are a third of a small UNet's time on a CPU; computed once, for all steps of a picture, they cost next to nothing.
A block's second norm takes the time embedding's shift and scale in the same stroke as its own.
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
from flashbulb_server.pipelines.rewriting import Norm


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
        kinds = {(bool(block.skip_time_act), type(block.nonlinearity), block.time_embedding_norm) for block in blocks}
        if len(kinds) != 1 or not all(
            type(block.norm2) is torch.nn.GroupNorm and block.norm2.affine for block in blocks
        ):
            raise Unsupported(
                "its UNet's blocks take the time embedding in different ways, or in one that is not known"
            )
        self._unet = unet
        self._blocks = blocks
        self._attentions = attentions
        self._projections = [block.time_emb_proj for block in blocks]
        self._keys = [(attention.to_k, attention.to_v) for attention in attentions]
        self._direct = bool(blocks[0].skip_time_act)
        self._to_moments = _joined([_moments_of(block) for block in blocks])
        self._to_keys = _joined([_line_of(project) for pair in self._keys for project in pair])
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
    def detached(self, *, norms_apart: bool = False) -> Iterator[torch.nn.Module]:
        """The part that runs every step, as a module of (latents, moments, keys), made of the UNet itself for as long as this is open.

        `norms_apart`: as in pipelines.rewriting.
        """
        given = _Given()
        undo: list[tuple[Any, str, object]] = []

        def put(owner: Any, name: str, part: object) -> None:  # noqa: ANN401  # a module, or one of its settings
            undo.append((owner, name, getattr(owner, name)))
            setattr(owner, name, part)

        at = 0
        for block, projection in zip(self._blocks, self._projections, strict=True):
            columns = _Columns(at, at + projection.out_features)
            put(block, "norm2", _GivenNorm(Norm(block.norm2, apart=norms_apart), given, columns))
            put(block, "time_embedding_norm", "given")
            put(block, "time_emb_proj", None)
            at += projection.out_features
        at = 0
        for attention, (key, value) in zip(self._attentions, self._keys, strict=True):
            middle = at + key.out_features
            put(attention, "to_k", _Columns(at, middle))
            put(attention, "to_v", _Columns(middle, middle + value.out_features))
            at = middle + value.out_features
        put(self._unet, "time_embedding", given)
        if self._addition is not None:
            put(self._unet, "add_embedding", _Nothing())
        put(self._unet, "time_embed_act", None)
        try:
            yield _EveryStep(self._unet, given)
        finally:
            for owner, name, part in reversed(undo):
                setattr(owner, name, part)


def _line_of(layer: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  # a linear layer
    """The weights and biases of a linear layer."""
    return layer.weight, layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias


def _moments_of(block: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  # ResnetBlock2D, a class without types
    """The linear layer that makes a block's columns of the moments: what `_GivenNorm` reads.

    A norm with weight g and bias b, scaled by 1 + s and shifted by t: g (1 + s) and b (1 + s) + t. A block that only shifts does it
    before the norm: t.
    """
    weight, bias = _line_of(block.time_emb_proj)
    if block.time_embedding_norm == "default":
        return weight, bias
    (scale, shift), (ones, zeros) = weight.chunk(2), bias.chunk(2)
    own, ground = block.norm2.weight, block.norm2.bias
    return (
        torch.cat([own[:, None] * scale, ground[:, None] * scale + shift]),
        torch.cat([own * (1 + ones), ground * (1 + ones) + zeros]),
    )


def _joined(layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The weights and biases of linear layers of one input, as those of a single layer."""
    return torch.cat([weight for weight, _ in layers]), torch.cat([bias for _, bias in layers])


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
    """In place of the time embedding: the moments. Every block's second norm then cuts its own columns from them."""

    def __init__(self) -> None:
        super().__init__()
        self.moments = torch.empty(0)

    def forward(self, *_: Tensor | None) -> Tensor:
        return self.moments


class _GivenNorm(torch.nn.Module):
    """A block's second norm, with what the moments tell."""

    def __init__(self, norm: Norm, given: _Given, columns: _Columns) -> None:
        super().__init__()
        self.norm, self.given, self.columns = norm, given, columns
        self.shifts = columns.end - columns.begin == norm.norm.num_channels

    def forward(self, maps: Tensor) -> Tensor:
        told = self.columns(self.given.moments)[:, :, None, None]
        if self.shifts:
            own = self.norm.norm
            return self.norm.between(maps, told, own.weight[:, None, None], own.bias[:, None, None])
        scale, after = told.chunk(2, dim=1)
        return self.norm.between(maps, None, scale, after)


class _Columns(torch.nn.Module):
    def __init__(self, begin: int, end: int) -> None:
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, rows: Tensor) -> Tensor:
        return rows[..., self.begin : self.end]


class _Nothing(torch.nn.Module):
    def forward(self, prompt: Tensor) -> Tensor:
        return prompt.new_zeros(())
