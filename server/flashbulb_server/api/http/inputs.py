"""Inputs as JSON: from a body, or a query, to the fields that `core.validation.resolve` judges. Driven by the catalog.

Only the shape of JSON is looked after here. What a field may hold, validation says, for every transport.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from starlette.datastructures import QueryParams
from starlette.requests import Request

from flashbulb_server.api.http.problem import Problem, bad_body
from flashbulb_server.core.catalog import Endpoint
from flashbulb_server.core.fields import Kind
from flashbulb_server.core.generation import SourceImage

_HEARD_OUT = 4
BODY_SECONDS = 60.0
"""In which a body that is held whole has to come."""
"""So many times the limit are read and thrown away: a client that is still sending when it is refused sees a broken connection instead."""
_TRUTH: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


async def read_object(request: Request, *, limit: int) -> dict[str, Any]:
    """The JSON object in a body of at most `limit` bytes; an empty body is an empty object. Raises Problem.

    The object is remembered, to be quoted should it be found bad.
    """
    found = parse_object(await read_body(request, limit=limit))
    request.state.given = found
    return found


async def read_body(request: Request, *, limit: int) -> bytes:
    """A body of at most `limit` bytes. Raises Problem (408, 413)."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > _HEARD_OUT * limit:
                    break
    except TimeoutError as err:
        problem = f"the body did not come within {BODY_SECONDS:g} s"
        raise Problem(408, problem, "request_timeout", headers={"connection": "close"}) from err
    if size > limit:
        raise Problem(413, f"the body has more than {limit} bytes", "file_too_large", headers={"connection": "close"})
    return bytes(body)


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises Problem (422)."""
    if not data.strip():
        return {}
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as err:  # also numbers of too many digits, and bytes that are no text
        raise bad_body(f"the body is not valid JSON: {str(err) or 'nested too deeply'}"[:200], "json_invalid") from err
    if not isinstance(found, dict):
        raise bad_body("the body must be a JSON object", "dict_type")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def digest(endpoint: Endpoint, given: Mapping[str, object]) -> bytes:
    """SHA-256 of an input as it was given. Equal inputs have equal digests."""
    text = json.dumps([endpoint.id, given], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def given_fields(endpoint: Endpoint, given: Mapping[str, object]) -> dict[str, object]:
    """The fields of an endpoint's input. null counts as absent, and what the endpoint does not have is left out."""
    fields = ((field, given.get(field.name)) for field in endpoint.fields)
    return {field.name: _READ.get(field.kind, _as_is)(value) for field, value in fields if value is not None}


def fields_of_query(endpoint: Endpoint, query: QueryParams) -> dict[str, object]:
    """As JSON would have it: the input in a query, where all values are texts. What cannot be read stays a text, and is found bad."""
    return {
        field.name: _PARSE.get(field.kind, _as_is)(query[field.name])
        for field in endpoint.fields
        if query.get(field.name) not in (None, "null", "undefined")  # as JavaScript writes what is absent
    }


def _as_is(value: object) -> object:
    return value


def _integer(value: object) -> object:
    """JSON has one kind of number: 4.0 is 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _size(value: object) -> object:
    """A preset's name, or (width, height)."""
    return (_integer(value.get("width")), _integer(value.get("height"))) if isinstance(value, Mapping) else value


def _source(value: object) -> object:
    """An address or, where it is not JSON that was given, the bytes of a picture."""
    if isinstance(value, bytes):
        return SourceImage(content=value)
    return SourceImage(value) if isinstance(value, str) else value


def _sources(value: object) -> object:
    return [_source(one) for one in value] if isinstance(value, list) else value


_READ: Mapping[Kind, Callable[[object], object]] = {
    Kind.INTEGER: _integer,
    Kind.SIZE: _size,
    Kind.SOURCE: _source,
    Kind.SOURCES: _sources,
}


def _parsed(text: str) -> object:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float | dict | list) else text


_PARSE: Mapping[Kind, Callable[[str], object]] = {
    Kind.INTEGER: _parsed,
    Kind.NUMBER: _parsed,
    Kind.BOOLEAN: lambda text: _TRUTH.get(text.lower(), text),
    Kind.SIZE: _parsed,
    Kind.SOURCES: _parsed,
    Kind.LORAS: _parsed,
    Kind.EMBEDDINGS: _parsed,
}
