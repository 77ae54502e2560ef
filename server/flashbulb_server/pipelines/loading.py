"""The models and safety checkers of the settings, from folders on this machine; never from the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers

from flashbulb_server.config import WorkerSettings
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import SPECS
from flashbulb_server.core.pipeline import StepPipeline
from flashbulb_server.errors import Misconfigured
from flashbulb_server.pipelines.backend import Backend
from flashbulb_server.pipelines.choosing import Target, open_backend
from flashbulb_server.pipelines.devices import choose_device, choose_dtype
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.networks import Networks, load_networks
from flashbulb_server.pipelines.safety import CHECKERS, SafetyChecker
from flashbulb_server.pipelines.trial import trial_spec

EMBEDDED_MODEL = "flashbulb/tiny"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "models" / "tiny"
EMBEDDED_MAX_PIXELS = 4_194_304
"""2048 x 2048: resampling costs little, the file still fits a message."""

LEAST_MAX_PIXELS = 1_048_576
"""The default size of the endpoint, 1024 x 1024, is never refused."""

T = TypeVar("T")


class UnusableFolder(Misconfigured):
    """A configured folder cannot be loaded; the message names the variable, the folder and the problem."""

    def __init__(self, variable: str, folder: Path, problem: object) -> None:
        super().__init__(f"{variable}: {folder}: {problem}")


def load_models(settings: WorkerSettings) -> dict[str, StepPipeline[Any]]:
    """Every model of the settings by name, each warmed up; sets torch's threads for the process.

    Raises UnusableFolder for the first folder that cannot be loaded, Misconfigured for settings that contradict each other.
    """
    _silence()
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
    checkers: dict[str, SafetyChecker] = {}
    for version, folder in settings.safety_checkers.items():
        checkers[version] = _loaded(
            folder, partial(CHECKERS[version], folder, device), "FLASHBULB_WORKER__SAFETY_CHECKERS"
        )
    models: dict[str, StepPipeline[Any]] = {}
    if settings.embedded_model:
        models[EMBEDDED_MODEL] = load_embedded(target)
    for name, folder in settings.models.items():
        models[name] = load_folder(name, folder, target, checkers, settings.tiny_decoders.get(name))
    return models


def load_embedded(target: Target) -> LatentConsistencyPipeline:
    """The model inside this package. It draws one square size of things that nobody minds; other sizes are resampled from that."""
    networks, backend = _opened(EMBEDDED_FOLDER, target)
    info = ModelInfo(
        name=EMBEDDED_MODEL,
        endpoints=tuple(SPECS),
        native_size=networks.native_size,
        resamples=True,
        max_image_pixels=EMBEDDED_MAX_PIXELS,
        fidelity=backend.fidelity,
        safe_by_construction=True,
        backend=backend.name,
    )
    return _warm(LatentConsistencyPipeline(networks, backend, info, {}))


def load_folder(
    name: str,
    folder: Path,
    target: Target,
    checkers: Mapping[str, SafetyChecker],
    tiny_decoder: Path | None = None,
) -> LatentConsistencyPipeline:
    """A latent consistency model in diffusers layout, and a tiny autoencoder to decode with. Raises UnusableFolder."""
    networks, backend = _opened(folder, target, tiny_decoder)
    info = ModelInfo(
        name=name,
        endpoints=tuple(SPECS),
        native_size=networks.native_size,
        resamples=False,
        max_image_pixels=max(LEAST_MAX_PIXELS, 4 * networks.native_size**2),
        fidelity=backend.fidelity,
        safety_checker_versions=tuple(sorted(checkers)),
        backend=backend.name,
    )
    return _warm(LatentConsistencyPipeline(networks, backend, info, checkers))


def _opened(folder: Path, target: Target, tiny_decoder: Path | None = None) -> tuple[Networks, Backend]:
    def load(dtype: torch.dtype) -> Networks:
        return _loaded(folder, partial(load_networks, folder, target.device, dtype, tiny_decoder))

    return open_backend(load, target)


def _warm(pipeline: LatentConsistencyPipeline) -> LatentConsistencyPipeline:
    """Two small steps: both kinds of step, the first and the last."""
    pipeline.warm_up(trial_spec(pipeline.info, "", steps=2, largest_side=128))
    return pipeline


def _loaded(folder: Path, load: Callable[[], T], variable: str = "FLASHBULB_WORKER__MODELS") -> T:
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnusableFolder(variable, folder, error) from error


def _silence() -> None:
    """The libraries' hints are for people at a prompt; what matters is raised."""
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
