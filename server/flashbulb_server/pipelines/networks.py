"""The networks of a model, loaded by diffusers and transformers, with the few figures of their configuration that drawing needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from flashbulb_server.pipelines.schedule import Schedules, make_schedules

_AUTOENCODERS: Mapping[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True, slots=True)
class Networks:
    """The parts of a model, all on `device` and of `dtype`. The classes of diffusers carry no types, hence Any."""

    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL or AutoencoderTiny
    decoder: Any  # the same, or a smaller AutoencoderTiny of the same latents that decodes in its place
    text_encoder: Any  # CLIPTextModel
    tokenizer: Any  # CLIPTokenizer
    schedules: Schedules
    device: torch.device
    dtype: torch.dtype

    @property
    def parts(self) -> tuple[Any, ...]:
        """The modules."""
        return (self.unet, self.vae, self.decoder, self.text_encoder)

    def cast(self, dtype: torch.dtype) -> Networks:
        """The same modules, moved to the device and turned into another dtype."""
        for network in self.parts:
            network.to(self.device, dtype)
        return replace(self, dtype=dtype)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet.config.in_channels)

    @property
    def guidance_width(self) -> int | None:
        """Width of the guidance embedding; None for a UNet that has none."""
        width = self.unet.config.time_cond_proj_dim
        return None if width is None else int(width)

    @property
    def scaling_factor(self) -> float:
        """What the autoencoder's latents are multiplied with to have unit variance."""
        return float(self.vae.config.scaling_factor)

    @property
    def variational(self) -> bool:
        """Whether the encoder gives a distribution to draw from, and not latents."""
        return isinstance(self.vae, AutoencoderKL)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of the picture along one side of a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """Sides in pixels that the UNet can halve at every level are multiples of it."""
        return int(self.pixels_per_latent * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def native_size(self) -> int:
        """Side in pixels of the square pictures that the UNet was trained on."""
        return int(self.unet.config.sample_size) * self.pixels_per_latent


def load_networks(folder: Path, device: torch.device, dtype: torch.dtype, tiny_decoder: Path | None = None) -> Networks:
    """The parts of a folder in diffusers layout, weights from safetensors files only. Raises OSError or ValueError with the problem.

    Every part is given the dtype: one left at the dtype of its file would not fit the others. `tiny_decoder`: the folder of an
    AutoencoderTiny that decodes in place of the model's own.
    """
    vae_kind = _check_index(_json(folder / "model_index.json"))
    _check_unet(_json(folder / "unet" / "config.json"))
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    plain = {"low_cpu_mem_usage": False}  # the other way needs another package
    unet: Any = UNet2DConditionModel
    scheduler: Any = LCMScheduler
    vae = vae_kind.from_pretrained(str(folder / "vae"), **options, **plain)
    networks = Networks(
        unet=unet.from_pretrained(str(folder / "unet"), **options, **plain),
        vae=vae,
        decoder=vae
        if tiny_decoder is None
        else _AUTOENCODERS["AutoencoderTiny"].from_pretrained(str(tiny_decoder), **options, **plain),
        text_encoder=CLIPTextModel.from_pretrained(str(folder / "text_encoder"), dtype=dtype, **options),
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
        schedules=make_schedules(scheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)),
        device=device,
        dtype=dtype,
    )
    _check_tokenizer(networks.tokenizer, networks.text_encoder.config)
    _check_decoder(networks.decoder.config, networks.vae.config)
    for network in networks.parts:
        network.eval().requires_grad_(False)
    return networks.cast(dtype)


def _check_index(index: Mapping[str, Any]) -> Any:  # noqa: ANN401  # a class without types
    """The autoencoder's class. Raises ValueError if a part is of a kind that is not known here."""
    kinds = {part: (index.get(part) or [None, None])[1] for part in ("scheduler", "vae")}
    if kinds["scheduler"] != "LCMScheduler":
        raise ValueError(f"it is no latent consistency model: its scheduler is {kinds['scheduler']}, not LCMScheduler")
    if kinds["vae"] not in _AUTOENCODERS:
        raise ValueError(f"its autoencoder {kinds['vae']} is not one of {', '.join(_AUTOENCODERS)}")
    return _AUTOENCODERS[kinds["vae"]]


def _check_unet(config: Mapping[str, Any]) -> None:
    """Raises ValueError if the UNet wants inputs beside a prompt and a guidance scale."""
    kind = config.get("addition_embed_type")
    if kind == "text_time":
        raise ValueError(
            "its UNet takes text_time conditioning (Stable Diffusion XL), which this server cannot give yet"
        )
    if kind not in (None, "text") or config.get("class_embed_type") or config.get("encoder_hid_dim_type"):
        raise ValueError("its UNet takes conditioning beside the prompt, which this server cannot give")


def _check_tokenizer(tokenizer: Any, text: Any) -> None:  # noqa: ANN401  # classes without types
    """Raises ValueError if the two do not belong together; an empty folder gives an empty tokenizer without a word."""
    if len(tokenizer) != text.vocab_size or tokenizer.model_max_length > text.max_position_embeddings:
        raise ValueError(
            f"its tokenizer ({len(tokenizer)} tokens, prompts of {tokenizer.model_max_length:.6g}) does not fit its "
            f"text encoder ({text.vocab_size} tokens, prompts of {text.max_position_embeddings})"
        )


def _check_decoder(tiny: Any, own: Any) -> None:  # noqa: ANN401  # configurations without types
    """Raises ValueError if the two autoencoders do not share their latents' shape."""
    shapes = [(config.latent_channels, len(config.block_out_channels)) for config in (tiny, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"its tiny decoder takes latents of another shape: (channels, levels) {shapes[0]}, not {shapes[1]}"
        )


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no object")
    return value
