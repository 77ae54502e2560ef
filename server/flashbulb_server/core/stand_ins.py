"""The embedded model in the place of those that the hosted endpoints name, so that what runs there draws a picture on a fresh installation. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flashbulb_server.core.catalog import EMBEDDED_MODEL, ENDPOINTS, ModelInfo


def with_stand_ins(models: Iterable[ModelInfo]) -> list[ModelInfo]:
    """The models, of which the embedded one says for which names it stands in: for none that is there itself.

    And for none at all where another model runs an endpoint that hosted names go with: whoever installed that wants no drawing of a toy.
    """
    found = list(models)
    others = [model for model in found if model.name != EMBEDDED_MODEL]
    if any(_hosted(model) for model in others):
        return found
    there = {model.name for model in others}
    return [replace(model, stands_in_for=_names(model, there)) if model not in others else model for model in found]


def _names(model: ModelInfo, there: set[str]) -> tuple[str, ...]:
    return tuple(name for name in _hosted(model) if name not in there)


def _hosted(model: ModelInfo) -> tuple[str, ...]:
    """The names that hosted endpoints know for what a model can draw."""
    return tuple(dict.fromkeys(name for endpoint in model.endpoints for name in ENDPOINTS[endpoint].hosted_models))
