"""The models and safety checkers of the settings, from folders on this machine; never from the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flashbulb_server.config import WorkerSettings
from flashbulb_server.core.catalog import EMBEDDED_MODEL, ModelInfo
from flashbulb_server.core.pipeline import StepPipeline
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines import restoring
from flashbulb_server.pipelines.devices import choose_device, choose_dtype
from flashbulb_server.pipelines.keeping import Cache
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.target import Target
from flashbulb_server.pipelines.trial import trial_spec

if TYPE_CHECKING:
    from flashbulb_server.pipelines.choosing import Keep
    from flashbulb_server.pipelines.networks import Networks
    from flashbulb_server.pipelines.safety import SafetyChecker

LATENT_CONSISTENCY_ENDPOINTS = (
    "fast-lcm-diffusion",
    "fast-lcm-diffusion/image-to-image",
    "fast-lcm-diffusion/inpainting",
)
"""What a latent consistency model can draw."""

EMBEDDED_FOLDER = Path(__file__).parent.parent / "models" / "tiny"
EMBEDDED_MAX_PIXELS = 4_194_304
"""2048 x 2048: resampling costs little, the file still fits a message."""

LEAST_MAX_PIXELS = 1_048_576
"""The default size of the endpoint, 1024 x 1024, is never refused."""

T = TypeVar("T")

NOWHERE = Cache(None)


class UnusableFolder(Misconfigured):
    """A configured folder cannot be loaded; the message names the variable, the folder and the problem."""

    def __init__(self, variable: str, folder: Path, problem: object) -> None:
        super().__init__(f"{variable}: {folder}: {problem}")


def load_models(settings: WorkerSettings) -> dict[str, StepPipeline[Any]]:
    """Every model of the settings by name, each warmed up; sets torch's threads for the process.

    Raises UnusableFolder for the first folder that cannot be loaded, Misconfigured for settings that contradict each other.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    target = Target(
        device, choose_dtype(settings.dtype, device), settings.backend, settings.threads, quantize=settings.quantize
    )
    if unknown := settings.tiny_decoders.keys() - settings.models.keys():
        raise Misconfigured(
            f"FLASHBULB_WORKER__TINY_DECODERS names {', '.join(sorted(unknown))}, which FLASHBULB_WORKER__MODELS does not"
        )
    checkers = _checkers(settings, device)
    kept = Cache(settings.cache_dir)
    models: dict[str, StepPipeline[Any]] = {}
    if settings.embedded_model:
        models[EMBEDDED_MODEL] = load_embedded(target, kept)
    for name, folder in settings.models.items():
        models[name] = load_folder(name, folder, target, checkers, settings.tiny_decoders.get(name), kept)
    return models


def load_embedded(target: Target, kept: Cache = NOWHERE) -> LatentConsistencyPipeline:
    """The model inside this package. It draws one square size of things that nobody minds; other sizes are resampled from that."""
    model = _opened(EMBEDDED_FOLDER, target, kept)
    info = ModelInfo(
        name=EMBEDDED_MODEL,
        endpoints=LATENT_CONSISTENCY_ENDPOINTS,
        native_size=model.figures.native_size,
        resamples=True,
        max_image_pixels=EMBEDDED_MAX_PIXELS,
        fidelity=model.backend.fidelity,
        safe_by_construction=True,
        backend=model.backend.name,
    )
    return _warm(LatentConsistencyPipeline(model, info, {}))


def load_folder(
    name: str,
    folder: Path,
    target: Target,
    checkers: Mapping[str, SafetyChecker],
    tiny_decoder: Path | None = None,
    kept: Cache = NOWHERE,
) -> LatentConsistencyPipeline:
    """A latent consistency model in diffusers layout, and a tiny autoencoder to decode with. `kept`: where its compiled networks are, or
    will be, kept. Raises UnusableFolder."""
    model = _opened(folder, target, kept, tiny_decoder)
    info = ModelInfo(
        name=name,
        endpoints=LATENT_CONSISTENCY_ENDPOINTS,
        native_size=model.figures.native_size,
        resamples=False,
        max_image_pixels=max(LEAST_MAX_PIXELS, 4 * model.figures.native_size**2),
        fidelity=model.backend.fidelity,
        safety_checker_versions=tuple(sorted(checkers)),
        backend=model.backend.name,
    )
    return _warm(LatentConsistencyPipeline(model, info, checkers))


def _opened(folder: Path, target: Target, kept: Cache, tiny_decoder: Path | None = None) -> Model:
    """The model as it was kept, or made of its networks and kept from now on."""
    key = restoring.key(target, folder, tiny_decoder) if kept.works and target.kind == "openvino" else None
    model = None if key is None else restoring.restore(kept, key, target)
    return model or _made(folder, target, tiny_decoder, None if key is None else partial(kept.keep, key))


def _made(folder: Path, target: Target, tiny_decoder: Path | None, keep: Keep | None) -> Model:
    from flashbulb_server.pipelines.choosing import open_backend  # diffusers and transformers
    from flashbulb_server.pipelines.networks import load_networks, silence

    silence()

    def load(dtype: torch.dtype) -> Networks:
        return _loaded(folder, partial(load_networks, folder, target.device, dtype, tiny_decoder))

    networks, backend = open_backend(load, target, keep)
    return _loaded(folder, partial(Model.of, networks, backend))


def _checkers(settings: WorkerSettings, device: torch.device) -> dict[str, SafetyChecker]:
    if not settings.safety_checkers:
        return {}
    from flashbulb_server.pipelines.networks import silence
    from flashbulb_server.pipelines.safety import CHECKERS

    silence()
    return {
        version: _loaded(folder, partial(CHECKERS[version], folder, device), "FLASHBULB_WORKER__SAFETY_CHECKERS")
        for version, folder in settings.safety_checkers.items()
    }


def _warm(pipeline: LatentConsistencyPipeline) -> LatentConsistencyPipeline:
    """Two small steps: both kinds of step, the first and the last."""
    pipeline.warm_up(trial_spec(pipeline.info, "", steps=2, largest_side=128))
    return pipeline


def _loaded(folder: Path, load: Callable[[], T], variable: str = "FLASHBULB_WORKER__MODELS") -> T:
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnusableFolder(variable, folder, error) from error
