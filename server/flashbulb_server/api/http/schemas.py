"""JSON schemas of inputs and outputs, made of the catalog that validation reads: what one takes, the other tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flashbulb_server.core.catalog import Endpoint
from flashbulb_server.core.descriptions import FIELDS
from flashbulb_server.core.fields import Field, Kind
from flashbulb_server.core.sources import MAX_DATA_CHARS

Schema = dict[str, object]

_PRINTABLE = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
_PRINTABLE_LINE = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_ADDRESS = r"^(https?://[^\s]+|data:[^,]*,[\s\S]*|flashbulb://files/[^\s]+)$"
_SOURCE: Schema = {"type": "string", "pattern": _ADDRESS, "maxLength": MAX_DATA_CHARS}


def input_schema(endpoint: Endpoint) -> Schema:
    """Of the input of an endpoint. What is unknown is left out, and null is absent, as in validation."""
    return {
        "type": "object",
        "title": f"Input of {endpoint.id}",
        "required": [field.name for field in endpoint.fields if field.required],
        "properties": {field.name: field_schema(field) for field in endpoint.fields},
    }


def field_schema(field: Field) -> Schema:
    """Of one field."""
    schema = _schema(field)
    schema["description"] = FIELDS[field.name]
    return schema


def _schema(field: Field) -> Schema:
    schema = _SCHEMAS[field.kind](field)
    if not field.required:
        schema = _or_null(schema)
        if field.default is not None:
            schema["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return schema


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        alternatives = schema["anyOf"]
        assert isinstance(alternatives, list)
        return {"anyOf": [*alternatives, {"type": "null"}]}
    if "enum" in schema:
        names = schema["enum"]
        assert isinstance(names, list)
        return {"type": ["string", "null"], "enum": [*names, None]}
    return {**schema, "type": [schema["type"], "null"]}


def _text(field: Field) -> Schema:
    printable = _PRINTABLE_LINE if field.kind is Kind.REFERENCE else _PRINTABLE
    schema: Schema = {"type": "string", "pattern": printable}
    if field.required:
        schema["pattern"] = r"^(?=[\s\S]*\S)" + printable[1:]
        schema["minLength"] = 1
    if field.maximum is not None:
        schema["maxLength"] = int(field.maximum)
    return schema


def _number(field: Field) -> Schema:
    kind = "integer" if field.kind is Kind.INTEGER else "number"
    return {"type": kind, "minimum": field.minimum, "maximum": field.maximum}


def _choice(field: Field) -> Schema:
    return {"type": "string", "enum": list(field.choices)}


def _size(field: Field) -> Schema:
    side: Schema = {"type": ["integer", "null"], "minimum": field.minimum, "maximum": field.maximum}
    return {
        "anyOf": [
            _choice(field),
            {"type": "object", "title": "ImageSize", "properties": {"width": side, "height": dict(side)}},
        ]
    }


def _list(field: Field) -> Schema:
    return {"type": "array", "items": _schema(field.items[0]), "maxItems": int(field.maximum or 0)}


def _objects(field: Field) -> Schema:
    item: Schema = {
        "type": "object",
        "title": _TITLES[field.kind],
        "required": [part.name for part in field.items if part.required],
        "properties": {part.name: field_schema(part) for part in field.items},
    }
    return {"type": "array", "items": item, "maxItems": int(field.maximum or 0)}


_TITLES: Mapping[Kind, str] = {Kind.LORAS: "LoraWeight", Kind.EMBEDDINGS: "Embedding"}
_SCHEMAS: Mapping[Kind, Callable[[Field], Schema]] = {
    Kind.TEXT: _text,
    Kind.REFERENCE: _text,
    Kind.INTEGER: _number,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: lambda _: {"type": "boolean"},
    Kind.CHOICE: _choice,
    Kind.SIZE: _size,
    Kind.SOURCE: lambda _: dict(_SOURCE),
    Kind.SOURCES: _list,
    Kind.REFERENCES: _list,
    Kind.LORAS: _objects,
    Kind.EMBEDDINGS: _objects,
}


def _object(title: str, properties: Schema, *, required: bool = True) -> Schema:
    return {
        "type": "object",
        "title": title,
        "properties": properties,
        **({"required": list(properties)} if required else {}),
    }


_TEXT: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer", "minimum": 0}
_LINES: Schema = {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/LogLine"}}

COMPONENTS: Mapping[str, Schema] = {
    "Image": _object(
        "Image",
        {
            "url": {**_TEXT, "description": "A link, or with sync_mode the picture itself as a data URI."},
            "width": _INTEGER,
            "height": _INTEGER,
            "content_type": _TEXT,
            "file_size": {**_INTEGER, "description": "Bytes."},
        },
    ),
    "Output": {
        **_object(
            "Output",
            {
                "images": {"type": "array", "items": {"$ref": "#/components/schemas/Image"}},
                "timings": {
                    "type": "object",
                    "additionalProperties": {"type": "number"},
                    "description": "Seconds by stage.",
                },
                "seed": _INTEGER,
                "has_nsfw_concepts": {"type": "array", "items": {"type": "boolean"}},
                "prompt": _TEXT,
                "model_name": {
                    **_TEXT,
                    "description": "The model that drew; another one than was asked for where it stood in for that.",
                },
                "fidelity": {
                    **_TEXT,
                    "description": "How close the pictures are to diffusers' own: EXACT, CLOSE, APPROX.",
                },
                "backend": {**_TEXT, "description": "What ran the networks: openvino cpu float32."},
            },
        )
    },
    "LogLine": _object("LogLine", {"message": _TEXT, "timestamp": _TEXT, "level": _TEXT, "source": _TEXT}),
    "Status": {
        **_object(
            "Status",
            {
                "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
                "request_id": _TEXT,
                "response_url": _TEXT,
                "status_url": _TEXT,
                "cancel_url": _TEXT,
                "logs": _LINES,
                "metrics": {"type": "object", "properties": {"inference_time": {"type": "number"}}},
                "state": {
                    "type": "string",
                    "enum": ["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"],
                },
            },
        ),
        "description": "COMPLETED says that it has ended, `outcome` and `error` say how. `eta` is in seconds.",
    },
    "Cancelled": _object("Cancelled", {"status": _TEXT}),
    "Detail": _object(
        "Detail",
        {
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": _TEXT,
            "type": _TEXT,
            "url": _TEXT,
        },
    ),
    "Invalid": _object(
        "Invalid",
        {"detail": {"type": "array", "items": {"$ref": "#/components/schemas/Detail"}}, "message": _TEXT},
    ),
    "Error": _object("Error", {"detail": _TEXT, "error_type": _TEXT, "message": _TEXT}),
}
