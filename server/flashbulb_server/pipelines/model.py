"""A model that is ready to draw: what runs its networks, and the little that is to be known beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flashbulb_server.pipelines.backend import Backend
from flashbulb_server.pipelines.figures import Figures
from flashbulb_server.pipelines.schedule import Schedules
from flashbulb_server.pipelines.tokens import Tokens

if TYPE_CHECKING:  # diffusers and transformers take seconds to import
    from flashbulb_server.pipelines.networks import Networks


@dataclass(frozen=True, slots=True)
class Model:
    """`device`: where the backend computes; `dtype`: of the guidance that it is told."""

    figures: Figures
    tokens: Tokens
    schedules: Schedules
    backend: Backend
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, networks: Networks, backend: Backend) -> Model:
        """The model of networks, and of a backend that runs them. Raises ValueError if its tokenizer will not do."""
        tokens = Tokens.of(networks.tokenizer)
        return cls(networks.figures, tokens, networks.schedules, backend, networks.device, networks.dtype)
