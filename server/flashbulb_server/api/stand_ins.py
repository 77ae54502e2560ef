"""How a caller, and the operator, are told that another model draws than the one that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flashbulb_server.core.generation import GenerationSpec

STAND_IN = "x-flashbulb-stand-in"
"""Name of the header, and of the trailing metadata, that says it."""

_log = logging.getLogger(__name__)


def said(spec: GenerationSpec) -> Mapping[str, str]:
    """What goes with an answer about a spec: nothing, where what was asked for draws."""
    return {STAND_IN: f"{spec.asked_model} drawn by {spec.model_name}"} if spec.asked_model else {}


def log_stand_in(spec: GenerationSpec, **about: str) -> None:
    """One line, where a stand-in draws."""
    if spec.asked_model:
        _log.info("a stand-in draws", extra={"asked": spec.asked_model, "drawn_by": spec.model_name, **about})
