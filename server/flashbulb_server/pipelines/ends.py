"""The networks at both ends of a model, as torch runs them: the text encoder, and the encoder of pictures. Once a picture each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flashbulb_server.pipelines.networks import Networks


class Ends(torch.nn.Module):
    """Both, each in the dtype of its weights. `dtype`: of the embeddings that they give."""

    def __init__(self, networks: Networks, dtype: torch.dtype) -> None:
        super().__init__()
        self.text_encoder, self.vae = networks.text_encoder, networks.vae
        self.dtype = dtype
        self.variational = networks.figures.variational

    def embed(self, tokens: Tensor) -> Tensor:
        """As of a backend."""
        embeddings: Tensor = self.text_encoder(tokens)[0]
        return embeddings.to(self.dtype)

    def encode(self, picture: Tensor) -> Tensor:
        """As of a backend."""
        encoded = self.vae.encode(2.0 * picture.to(self.vae.dtype) - 1.0)
        if not self.variational:
            latents: Tensor = encoded.latents
            return latents
        return torch.cat([encoded.latent_dist.mean, encoded.latent_dist.std], dim=1)
