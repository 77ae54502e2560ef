"""Parts of a network in forms that give the same numbers for less work, in place of diffusers' own while it is traced.

1. Doubling a picture and convolving it with 3 x 3 multiplies the same pixels again and again: a transposed convolution with 4 x 4 has 4
   products where that has 9. It is a third of a decoder's arithmetic.
2. OpenVINO computes a group norm in another memory layout than convolutions, and spends more on moving numbers than on norms. Written as
   means over each channel, means of those over each group, and one line through every channel, nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor
from torch.nn import functional

WIDEST_MATRIX = 512
"""Channels up to which the means over groups are one square matrix; two narrow ones take less memory and longer."""

Undo: TypeAlias = Callable[[], None]


@contextmanager
def rewritten(network: torch.nn.Module, *, norms: bool) -> Iterator[None]:
    """Changes a network for as long as this is open. `norms`: group norms too; only where what is between operations stays float32."""
    undo: list[Undo] = []
    try:
        for parent in list(network.modules()):
            if isinstance(parent, Upsample2D):
                undo += _double(parent)
            elif isinstance(parent, torch.nn.Sequential):
                undo += _double_between(parent)
        if norms:
            for parent in list(network.modules()):
                undo += [_swap(parent, name, Norm(part, apart=True)) for name, part in _norms(parent)]
        yield
    finally:
        for step in reversed(undo):
            step()


class Norm(torch.nn.Module):
    """A group norm of maps (B, C, h, w), and of what stands around it in a UNet's block. `apart`: by means of channels, else in one piece."""

    def __init__(self, norm: torch.nn.GroupNorm, *, apart: bool) -> None:
        super().__init__()
        self.norm = norm
        width, groups = norm.num_channels, norm.num_groups
        members = torch.eye(groups).repeat_interleave(width // groups, dim=0)  # (C, G)
        narrow = [members.t() * (groups / width), members]
        matrices = [narrow[1] @ narrow[0]] if width <= WIDEST_MATRIX else narrow
        self.matrices = [matrix.contiguous()[:, :, None, None] for matrix in matrices] if apart else []

    def forward(self, maps: Tensor) -> Tensor:
        if maps.dim() != 4:
            normed: Tensor = self.norm(maps)
            return normed
        return self.between(maps, None, self.norm.weight[:, None, None], self.norm.bias[:, None, None])

    def between(self, maps: Tensor, before: Tensor | None, scale: Tensor, after: Tensor) -> Tensor:
        """norm(maps + before) * scale + after, with a norm that has no weights. All but `maps`: (B, C, 1, 1) or (C, 1, 1)."""
        if not self.matrices:
            moved = maps if before is None else maps + before
            return functional.group_norm(moved, self.norm.num_groups, eps=self.norm.eps) * scale + after
        means = functional.adaptive_avg_pool2d(maps, 1)
        centre = self._over_groups(means) if before is None else self._over_groups(means + before) - before
        variance = self._over_groups(functional.adaptive_avg_pool2d((maps - centre).square(), 1))
        slope = scale * torch.rsqrt(variance + self.norm.eps)
        return maps * slope + (after - centre * slope)

    def _over_groups(self, means: Tensor) -> Tensor:
        """In every channel the mean over its group (B, C, 1, 1)."""
        for matrix in self.matrices:
            means = functional.conv2d(means, matrix)
        return means


class Doubled(torch.nn.Module):
    """A convolution of a map that was doubled in both directions, on the map itself."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        taps = convolution.weight.detach().flip(2, 3).transpose(0, 1)
        kernel = taps.new_zeros((*taps.shape[:2], 4, 4))
        for row in (0, 1):
            for column in (0, 1):
                kernel[:, :, row : row + 3, column : column + 3] += taps
        self.kernel, self.bias = kernel, convolution.bias

    def forward(self, maps: Tensor) -> Tensor:
        return functional.conv_transpose2d(maps, self.kernel, self.bias, stride=2, padding=1)


def _norms(parent: torch.nn.Module) -> list[tuple[str, torch.nn.GroupNorm]]:
    found = [(name, part) for name, part in parent.named_children() if type(part) is torch.nn.GroupNorm]
    return [] if isinstance(parent, Norm) else [(name, norm) for name, norm in found if norm.affine]


def _double(block: Any) -> list[Undo]:  # noqa: ANN401  # Upsample2D, a class without types
    if not (block.interpolate and block.use_conv and block.name == "conv" and _is_plain(block.conv)):
        return []
    block.interpolate = False
    return [_swap(block, "conv", Doubled(block.conv)), lambda: setattr(block, "interpolate", True)]


def _double_between(layers: torch.nn.Sequential) -> list[Undo]:
    undo: list[Undo] = []
    parts = list(layers)
    for index, (layer, following) in enumerate(zip(parts, parts[1:], strict=False)):
        doubles = isinstance(layer, torch.nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2
        if doubles and _is_plain(following):
            undo += [
                _swap(layers, str(index), torch.nn.Identity()),
                _swap(layers, str(index + 1), Doubled(following)),  # type: ignore[arg-type]  # _is_plain says that it is a Conv2d
            ]
    return undo


def _is_plain(layer: Any) -> bool:  # noqa: ANN401  # any module
    """Whether it is a 3 x 3 convolution that keeps the size."""
    return type(layer) is torch.nn.Conv2d and (
        layer.kernel_size == (3, 3)
        and layer.padding in (1, (1, 1))
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


def _swap(parent: torch.nn.Module, name: str, part: torch.nn.Module) -> Undo:
    own = getattr(parent, name)
    setattr(parent, name, part)
    return lambda: setattr(parent, name, own)
