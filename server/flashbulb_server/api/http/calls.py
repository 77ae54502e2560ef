"""What a call for an endpoint has in common on every surface: who calls, which endpoint, which input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection, Request

from flashbulb_server.api.http.addressing import known_ids, split_path
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.headers import submission_of
from flashbulb_server.api.http.inputs import fields_of_query, given_fields, read_object
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.api.tokens import Grant
from flashbulb_server.core.catalog import Endpoint
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.submission import Submission
from flashbulb_server.core.validation import resolve
from flashbulb_server.errors import FieldViolation


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint that a path names. `address`: as it was named, without what follows; `rest`: what follows."""

    endpoint: Endpoint
    address: str
    rest: str = ""


def target_of(path: str) -> Target:
    """The endpoint of a path below a surface. Raises Problem (404), which names the endpoints there are."""
    found = split_path(path)
    if found is None:
        raise _no_such_endpoint(path)
    return Target(*found)


def _no_such_endpoint(path: str) -> Problem:
    """For a path that names none."""
    names = ", ".join(known_ids())
    return Problem(404, f"Path /{path.strip('/')[:200]} not found; endpoints: {names}", "not_found")


def admit(gateway: Gateway, connection: HTTPConnection, endpoint: Endpoint) -> Grant:
    """Who calls, if they may use the endpoint. Raises Problem (401), TokenInvalid, TokenForbids."""
    grant = authenticate(gateway, connection)
    grant.check(endpoint.id)
    return grant


@dataclass(frozen=True, slots=True)
class Call:
    """A call for an endpoint. `given`: its input as it came; `problems`: what is wrong with the rest of it, to be told with the input."""

    target: Target
    owner: str
    given: dict[str, Any]
    submission: Submission
    problems: list[FieldViolation]

    def resolve(self, gateway: Gateway, also: Iterable[FieldViolation] = ()) -> GenerationSpec:
        """The valid input. Raises InvalidRequest with every bad field, EndpointUnavailable, SafetyCheckerUnavailable, NoWorker."""
        endpoint, problems = self.target.endpoint, [*self.problems, *also]
        return resolve(endpoint.id, given_fields(endpoint, self.given), gateway.fleet.installed(), also=problems)


async def read_call(gateway: Gateway, request: Request) -> Call:
    """The call that the path names. Raises Problem (401, 404, 408, 413, 422), TokenInvalid, TokenForbids."""
    path = request.path_params["path"]
    target = target_of(path)
    if target.rest:
        raise _no_such_endpoint(path)
    grant = admit(gateway, request, target.endpoint)
    given = await _read_input(gateway, request, target.endpoint)
    submission, problems = submission_of(request)
    return Call(target, grant.owner, given, submission, problems)


async def _read_input(gateway: Gateway, request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """The input as it was given, in the body or, of a GET, in the query. Raises Problem."""
    if request.method in ("GET", "HEAD"):
        found = fields_of_query(endpoint, request.query_params)
        request.state.given = found
        return found
    return await read_object(request, limit=gateway.settings.max_body_bytes)
