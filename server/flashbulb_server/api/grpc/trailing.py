"""What goes with an answer as trailing metadata."""

from __future__ import annotations

from typing import Any

import grpc

from flashbulb_server.api.stand_ins import said
from flashbulb_server.core.generation import GenerationSpec


def tell_stand_in(context: grpc.aio.ServicerContext[Any, Any], spec: GenerationSpec) -> None:
    """Which model draws in the place of the one that was asked for, if one does."""
    if told := said(spec):
        context.set_trailing_metadata(tuple(told.items()))
