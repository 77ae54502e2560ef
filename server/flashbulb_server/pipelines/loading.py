"""The models and safety checkers of the settings, from folders on this machine; never from the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
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


class Loader:
    """Loads the models of the settings, each warmed up; sets torch's threads for the process. `kept`: in place of `worker.cache_dir`.

    Raises UnusableFolder for a safety checker that cannot be loaded, Misconfigured for settings that contradict each other.
    """

    def __init__(self, settings: WorkerSettings, kept: Cache | None = None) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._settings = settings
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        if unknown := settings.tiny_decoders.keys() - settings.models.keys():
            raise Misconfigured(
                f"FLASHBULB_WORKER__TINY_DECODERS names {', '.join(sorted(unknown))}, which FLASHBULB_WORKER__MODELS does not"
            )
        self._target = Target(device, dtype, settings.backend, settings.threads, quantize=settings.quantize)
        self._checkers = _checkers(settings, device)
        self._kept = kept or Cache(settings.cache_dir)
        own = {EMBEDDED_MODEL: Source(EMBEDDED_FOLDER)} if settings.embedded_model else {}
        more = {name: Source(path, settings.tiny_decoders.get(name)) for name, path in settings.models.items()}
        self._sources = {**own, **more}

    def load(self) -> dict[str, StepPipeline[Any]]:
        """Every model by name. Raises UnusableFolder for the first folder that cannot be loaded."""
        return {
            name: self._pipeline(name, open_model(source, self._target, self._kept))
            for name, source in self._sources.items()
        }

    def load_at_once(self) -> tuple[dict[str, StepPipeline[Any]], list[str]]:
        """Every model by name, and the names of those that torch draws until their networks are compiled. Raises UnusableFolder."""
        if not self._target.may_wait:
            return self.load(), []
        models: dict[str, StepPipeline[Any]] = {}
        unfinished: list[str] = []
        for name, source in self._sources.items():
            model = find_model(source, self._target, self._kept)
            if model is None:
                unfinished.append(name)
                model = open_model(source, replace(self._target, backend="eager"), NOWHERE)
            models[name] = self._pipeline(name, model)
        return models, unfinished

    def only(self, names: Collection[str]) -> WorkerSettings:
        """The settings, of some models alone and without safety checkers."""
        settings = self._settings
        models = {name: folder for name, folder in settings.models.items() if name in names}
        decoders = {name: folder for name, folder in settings.tiny_decoders.items() if name in names}
        embedded = EMBEDDED_MODEL in names
        changes = {"models": models, "tiny_decoders": decoders, "embedded_model": embedded, "safety_checkers": {}}
        return settings.model_copy(update=changes)

    def find(self, name: str, beside: Path) -> StepPipeline[Any] | None:
        """A model whose networks were compiled meanwhile. `beside`: where they are if `worker.cache_dir` cannot be written to."""
        model = find_model(self._sources[name], self._target, self._kept.or_in(beside))
        return None if model is None else self._pipeline(name, model)

    def _pipeline(self, name: str, model: Model) -> LatentConsistencyPipeline:
        return _embedded(model) if name == EMBEDDED_MODEL else _of_folder(name, model, self._checkers)


def load_models(settings: WorkerSettings, kept: Cache | None = None) -> dict[str, StepPipeline[Any]]:
    """Every model of the settings by name, run by what is to run it in the end. Raises and takes what Loader does."""
    return Loader(settings, kept).load()


def load_embedded(target: Target, kept: Cache = NOWHERE) -> LatentConsistencyPipeline:
    """The model inside this package. `kept`: where its compiled networks are, or will be, kept."""
    return _embedded(open_model(Source(EMBEDDED_FOLDER), target, kept))


def load_folder(
    name: str,
    folder: Path,
    target: Target,
    checkers: Mapping[str, SafetyChecker],
    tiny_decoder: Path | None = None,
    kept: Cache = NOWHERE,
) -> LatentConsistencyPipeline:
    """A latent consistency model in diffusers layout, and a tiny autoencoder to decode with. Raises UnusableFolder."""
    return _of_folder(name, open_model(Source(folder, tiny_decoder), target, kept), checkers)


def _embedded(model: Model) -> LatentConsistencyPipeline:
    """It draws one square size of things that nobody minds; other sizes are resampled from that."""
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


def _of_folder(name: str, model: Model, checkers: Mapping[str, SafetyChecker]) -> LatentConsistencyPipeline:
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


@dataclass(frozen=True, slots=True)
class Source:
    """What a model is made of: folders in diffusers layout."""

    folder: Path
    tiny_decoder: Path | None = None


def find_model(source: Source, target: Target, kept: Cache) -> Model | None:
    """The model with its networks as they were compiled for the target and kept."""
    key = _key(source, target, kept)
    return None if key is None else restoring.restore(kept, key, target)


def open_model(source: Source, target: Target, kept: Cache) -> Model:
    """The model as it was kept, or made of its networks and kept from now on. Raises UnusableFolder."""
    key = _key(source, target, kept)
    found = None if key is None else restoring.restore(kept, key, target)
    return found or _made(source, target, None if key is None else partial(kept.keep, key))


def _key(source: Source, target: Target, kept: Cache) -> str | None:
    """What a model that can be kept is kept as."""
    if not kept.works or target.kind != "openvino":
        return None
    return restoring.key(target, source.folder, source.tiny_decoder)


def _made(source: Source, target: Target, keep: Keep | None) -> Model:
    from flashbulb_server.pipelines.choosing import open_backend  # diffusers and transformers
    from flashbulb_server.pipelines.networks import load_networks, silence

    silence()

    def load(dtype: torch.dtype) -> Networks:
        return _loaded(source.folder, partial(load_networks, source.folder, target.device, dtype, source.tiny_decoder))

    networks, backend = open_backend(load, target, keep)
    return _loaded(source.folder, partial(Model.of, networks, backend))


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
