"""The architecture of Stable Diffusion 1.5 with random weights: what it costs is right, what it draws is not."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from flashbulb_server.pipelines.loading import EMBEDDED_FOLDER
from flashbulb_server.pipelines.networks import Networks
from flashbulb_server.pipelines.schedule import make_schedules


def sd15_networks() -> Networks:
    """UNet with a guidance embedding, KL autoencoder and CLIP-L."""
    return _networks(unet=(320, 640, 1280, 1280), vae=(128, 256, 512, 512), width=768, layers=12)


def small_networks() -> Networks:
    """The same shape of latents and pictures, with next to nothing in between."""
    return _networks(unet=(32, 32, 32, 32), vae=(32, 32, 32, 32), width=32, layers=1)


def _networks(*, unet: tuple[int, ...], vae: tuple[int, ...], width: int, layers: int) -> Networks:
    """Random float32 networks on the CPU, with the embedded model's words and scheduler."""
    torch.manual_seed(0)
    folder = str(EMBEDDED_FOLDER)
    tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer", local_files_only=True, model_max_length=77)
    scheduler = LCMScheduler.from_pretrained(f"{folder}/scheduler", local_files_only=True)
    autoencoder = AutoencoderKL(
        block_out_channels=vae,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=77,
        bos_token_id=3035,
        eos_token_id=3036,
    )
    networks = Networks(
        unet=UNet2DConditionModel(
            sample_size=64,
            block_out_channels=unet,
            cross_attention_dim=width,
            attention_head_dim=8,
            time_cond_proj_dim=256,
        ),
        vae=autoencoder,
        decoder=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        schedules=make_schedules(scheduler),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    for part in networks.parts:
        part.eval().requires_grad_(False)
    return networks


def tiny_decoder() -> AutoencoderTiny:
    """The tiny autoencoder for the latents of Stable Diffusion 1.5, as diffusers configures it."""
    torch.manual_seed(1)
    return AutoencoderTiny().eval().requires_grad_(False)
