"""ModelService: the catalog with what is installed."""

from __future__ import annotations

import json
from typing import Any

import grpc

from flashbulb.v1 import model_pb2, model_pb2_grpc
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint, ModelInfo, default_model, models_of
from flashbulb_server.core.fields import Field
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.wire.outputs import to_model

_Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """What this server can draw, over gRPC."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def ListEndpoints(
        self, request: model_pb2.ListEndpointsRequest, context: _Context
    ) -> model_pb2.ListEndpointsResponse:
        """Lists the endpoints."""
        installed = self._fleet.models()
        ordered = sorted(ENDPOINTS.values(), key=lambda e: e.id)
        return model_pb2.ListEndpointsResponse(endpoints=[_endpoint(e, installed) for e in ordered])

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: _Context) -> model_pb2.ListModelsResponse:
        """Lists the installed models."""
        if request.endpoint and request.endpoint not in ENDPOINTS:
            raise InvalidRequest([FieldViolation("endpoint", f"must be one of {', '.join(sorted(ENDPOINTS))}")])
        models = [m for m in self._fleet.models() if not request.endpoint or request.endpoint in m.endpoints]
        workers = self._fleet.workers()
        return model_pb2.ListModelsResponse(
            models=[
                to_model(m, live_workers=sum(m.name in w.models for w in workers))
                for m in sorted(models, key=lambda m: m.name)
            ]
        )


def _endpoint(endpoint: Endpoint, installed: list[ModelInfo]) -> model_pb2.Endpoint:
    default = default_model(endpoint, installed)
    return model_pb2.Endpoint(
        endpoint=endpoint.id,
        description=endpoint.description,
        input_field=endpoint.input_field,
        fields=[_field(field) for field in endpoint.fields],
        models=[model.name for model in models_of(endpoint, installed)],
        default_model=default.name if default else "",
    )


def _field(field: Field) -> model_pb2.FieldSpec:
    return model_pb2.FieldSpec(
        name=field.name,
        required=field.required,
        default_json="" if field.default is None else json.dumps(field.default),
        minimum=field.minimum,
        maximum=field.maximum,
        choices=field.choices,
        items=[_field(part) for part in field.items] if field.objects else (),
    )
