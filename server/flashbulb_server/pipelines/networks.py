"""The networks of a model, loaded by diffusers and transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizerFast  # type: ignore[attr-defined]  # by this name it is fast in 4 too

from flashbulb_server.pipelines.figures import Figures
from flashbulb_server.pipelines.schedule import Schedules, make_schedules

_AUTOENCODERS: Mapping[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True, slots=True)
class Networks:
    """The parts of a model, all on `device` and of `dtype`. The classes of diffusers carry no types, hence Any."""

    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL or AutoencoderTiny
    decoder: Any  # the same, or a smaller AutoencoderTiny of the same latents that decodes in its place
    text_encoder: Any  # CLIPTextModel
    tokenizer: Any  # CLIPTokenizerFast
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
    def figures(self) -> Figures:
        """What drawing needs to know of their configuration."""
        unet, vae = self.unet.config, self.vae.config
        scale = 2 ** (len(vae.block_out_channels) - 1)
        width = unet.time_cond_proj_dim
        return Figures(
            channels=int(unet.in_channels),
            guidance_width=None if width is None else int(width),
            scaling_factor=float(vae.scaling_factor),
            variational=isinstance(self.vae, AutoencoderKL),
            pixels_per_latent=scale,
            multiple=scale * 2 ** (len(unet.block_out_channels) - 1),
            native_size=int(unet.sample_size) * scale,
        )


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
        tokenizer=CLIPTokenizerFast.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
        schedules=make_schedules(scheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)),
        device=device,
        dtype=dtype,
    )
    _check_tokenizer(networks.tokenizer, networks.text_encoder.config)
    _check_decoder(networks.decoder.config, networks.vae.config)
    for network in networks.parts:
        network.eval().requires_grad_(False)
    return networks.cast(dtype)


def silence() -> None:
    """The libraries' hints are for people at a prompt; what matters is raised."""
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()


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
