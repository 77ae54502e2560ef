"""The embedded model, and tiny models of the shapes of others with random weights, in folders as diffusers writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from flashbulb_server.config import WorkerSettings
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Pixels, Sources
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.loading import EMBEDDED_FOLDER, EMBEDDED_MODEL, load_folder, load_models
from flashbulb_server.pipelines.target import Target
from tests.graphs import FOLDER, GRAPHS

CPU = torch.device("cpu")
TARGET = Target(CPU, torch.float32, threads=1)


@pytest.fixture(scope="session")
def tiny() -> LatentConsistencyPipeline:
    """The embedded model on one thread."""
    return load_models(WorkerSettings(threads=1, device="cpu", dtype="float32", cache_dir=FOLDER))[EMBEDDED_MODEL]


@pytest.fixture(scope="session")
def stock_tiny(tiny) -> LatentConsistencyModelPipeline:
    """The embedded model in diffusers' own pipeline."""
    pipeline = LatentConsistencyModelPipeline.from_pretrained(
        str(EMBEDDED_FOLDER), dtype=torch.float32, low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_parts(
    *, guidance_width: int | None, prediction: str = "epsilon", blocks: tuple[int, ...] = (4, 8), **unet
) -> dict:
    """Parts of a model in the shape of Stable Diffusion 1.5, very small, with random weights that give pictures with contrast.

    `blocks`: channels of each block of UNet and autoencoder.
    """
    count = len(blocks)
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=3037,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=3035,
        eos_token_id=3036,
    )
    parts = {
        "unet": UNet2DConditionModel(
            block_out_channels=blocks,
            layers_per_block=1,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=(*("DownBlock2D",) * (count - 1), "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", *("UpBlock2D",) * (count - 1)),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=2,
            time_cond_proj_dim=guidance_width,
            **unet,
        ),
        "vae": AutoencoderKL(
            block_out_channels=blocks,
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            latent_channels=4,
            norm_num_groups=2,
        ),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": CLIPTokenizer.from_pretrained(str(EMBEDDED_FOLDER / "tokenizer"), local_files_only=True),
        "scheduler": LCMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            prediction_type=prediction,
        ),
    }
    with torch.no_grad():  # random weights give nearly the same output for every input: make them stronger
        for name, parameter in parts["unet"].named_parameters():
            if "attn2" in name or "conv_out" in name:
                parameter.mul_(4)
        for parameter in parts["vae"].decoder.conv_out.parameters():
            parameter.mul_(3)
    return parts


def stock_random(*, guidance_width: int | None, prediction: str = "epsilon", **parts):
    """diffusers' own pipeline of random parts: the consistency one for a guidance embedding, the classifier-free one without."""
    kind = LatentConsistencyModelPipeline if guidance_width else StableDiffusionPipeline
    pipeline = kind(
        **random_parts(guidance_width=guidance_width, prediction=prediction, **parts),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_random(folder: Path, **parts) -> Path:
    """A folder with a random model."""
    stock_random(**parts).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def random_folders(tmp_path_factory) -> Callable[[int | None], Path]:
    """Folders of the random models, by the width of their guidance embedding."""
    folders: dict[int | None, Path] = {}

    def folder(guidance_width: int | None) -> Path:
        if guidance_width not in folders:
            path = tmp_path_factory.mktemp("model")
            folders[guidance_width] = save_random(path, guidance_width=guidance_width)
        return folders[guidance_width]

    return folder


@pytest.fixture
def broken_folder(random_folders, tmp_path) -> Path:
    """A copy of a random model, to break."""
    return Path(shutil.copytree(random_folders(None), tmp_path / "model"))


@pytest.fixture(scope="session")
def random_models(random_folders) -> Callable[[int | None], LatentConsistencyPipeline]:
    """The random models, loaded from their folders."""
    loaded: dict[int | None, LatentConsistencyPipeline] = {}

    def model(guidance_width: int | None) -> LatentConsistencyPipeline:
        if guidance_width not in loaded:
            loaded[guidance_width] = load_folder("random", random_folders(guidance_width), TARGET, {}, kept=GRAPHS)
        return loaded[guidance_width]

    return model


def draw(pipeline: LatentConsistencyPipeline, spec: GenerationSpec, sources: Sources | None = None) -> list[Pixels]:
    """Pictures of a spec, alone."""
    lanes = pipeline.prepare(spec, sources)
    for _ in range(spec.steps):
        pipeline.step(lanes)
    return list(pipeline.decode(lanes))


def stock_draw(stock, spec: GenerationSpec, **more) -> Pixels:
    """Picture 0 of a spec as diffusers draws it."""
    picture = stock(
        spec.prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
        output_type="np",
        **more,
    ).images[0]
    return (picture * 255).round().astype(np.uint8)


def distance(a: Pixels, b: Pixels) -> int:
    """The largest difference in levels of 255."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())
