"""Safety checkers of tiny size with random weights, their verdicts set by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTForImageClassification

from flashbulb_server.config import WorkerSettings
from flashbulb_server.pipelines.loading import UnusableFolder, load_models
from flashbulb_server.worker.engine import StepEngine
from tests.graphs import FOLDER
from tests.specs import make_spec

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
PICTURES = [np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in range(3)]


def processor(name):
    """The processor on PIL, by its name in this version of transformers."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def save_concepts(folder: Path, *, threshold: float) -> Path:
    """v1. Cosines are from -1 to 1: with a threshold of 2 nothing is flagged, with -2 everything."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16
        ).to_dict(),
        vision_config=CLIPVisionConfig(**VISION).to_dict(),
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(threshold)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(str(folder))
    processor("CLIPImageProcessor")(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        str(folder)
    )
    return folder


def save_classifier(folder: Path, *, bias: float, labels=("normal", "nsfw")) -> Path:
    """v2. `bias` of the label nsfw decides."""
    torch.manual_seed(0)
    network = ViTForImageClassification(ViTConfig(**VISION, id2label=dict(enumerate(labels)), num_labels=len(labels)))
    with torch.no_grad():
        network.classifier.bias.copy_(torch.tensor([0.0, bias]))
    network.save_pretrained(str(folder))
    processor("ViTImageProcessor")(size={"height": 32, "width": 32}).save_pretrained(str(folder))
    return folder


def loaded(random_folders, **checkers):
    settings = WorkerSettings(
        threads=1,
        device="cpu",
        embedded_model=False,
        models={"mine": random_folders(32)},
        safety_checkers=checkers,
        cache_dir=FOLDER,
    )
    return load_models(settings)["mine"]


def test_both_versions(random_folders, tmp_path):
    model = loaded(
        random_folders,
        v1=save_concepts(tmp_path / "v1", threshold=2.0),
        v2=save_classifier(tmp_path / "v2", bias=50.0),
    )
    assert model.info.safety_checker_versions == ("v1", "v2")
    assert model.check(PICTURES, "v1") == [False] * 3
    assert model.check(PICTURES, "v2") == [True] * 3


def test_the_other_way_round(random_folders, tmp_path):
    model = loaded(
        random_folders,
        v1=save_concepts(tmp_path / "v1", threshold=-2.0),
        v2=save_classifier(tmp_path / "v2", bias=-50.0),
    )
    assert model.check(PICTURES, "v1") == [True] * 3
    assert model.check(PICTURES, "v2") == [False] * 3


def test_verdicts_are_those_of_the_picture(random_folders, tmp_path):
    """A threshold between two pictures' scores flags one of them, whatever else is in the call."""
    folder = save_concepts(tmp_path / "v1", threshold=0.0)
    checker = StableDiffusionSafetyChecker.from_pretrained(str(folder))
    preprocess = processor("CLIPImageProcessor").from_pretrained(str(folder))
    with torch.no_grad():
        embeddings = checker.visual_projection(
            checker.vision_model(preprocess(PICTURES, return_tensors="pt").pixel_values)[1]
        )
        scores = torch.nn.functional.cosine_similarity(embeddings, checker.concept_embeds[:1])
        order = scores.argsort()
        checker.concept_embeds_weights.fill_(float(scores[order[1:]].mean()))
    checker.save_pretrained(str(folder))
    flags = loaded(random_folders, v1=folder).check(PICTURES, "v1")
    assert flags == [index == int(order[-1]) for index in range(3)]


def test_a_classifier_without_the_label_is_refused(random_folders, tmp_path):
    with pytest.raises(UnusableFolder, match="nsfw"):
        loaded(random_folders, v2=save_classifier(tmp_path / "v2", bias=0.0, labels=("cat", "dog")))


async def test_flagged_pictures_leave_the_engine_black(random_folders, tmp_path):
    model = loaded(random_folders, v1=save_concepts(tmp_path / "v1", threshold=-2.0))
    spec = make_spec(model_name="mine", width=32, height=32, num_images=2, num_inference_steps=1)
    async with StepEngine({"mine": model}, capacity=8) as engine, asyncio.timeout(60):
        result = await engine.start(spec).result()
    assert result.has_nsfw_concepts == (True, True)
    assert not np.any(result.pictures)
