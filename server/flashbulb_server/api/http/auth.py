"""Who calls over HTTP: `Authorization: Key <id>:<secret>`, the same or a token as `Bearer`, or a token as `?fal_jwt_token=`."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.api.tokens import Grant
from flashbulb_server.errors import KeyMissing, KeyUnknown

TOKEN_PARAMETER = "fal_jwt_token"
ACTS_AS = "flashbulb.acts_as"
"""Key of an ASGI scope, which no caller can set: the id of the key that the call acts as."""
_MISSING = "Authorization header is required"
_FORM = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
_UNKNOWN = "No user found for Key ID and Secret"


def authenticate(gateway: Gateway, connection: HTTPConnection) -> Grant:
    """Who calls, and what for. Raises Problem (401, in fal's words) or TokenInvalid."""
    acts_as = connection.scope.get(ACTS_AS)
    if acts_as is not None:
        if acts_as not in gateway.keys:
            raise Problem(401, _UNKNOWN, "unauthorized")
        return Grant(acts_as)
    return identify(gateway, connection.headers.get("authorization"), connection.query_params.get(TOKEN_PARAMETER))


def identify(gateway: Gateway, authorization: str | None, token: str | None = None) -> Grant:
    """As `authenticate`, of the header and the parameter themselves."""
    if not authorization:
        if token:
            return gateway.tokens.read(token)
        raise Problem(401, _MISSING, "unauthorized")
    scheme, _, credentials = authorization.partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        if ":" not in credentials:
            return gateway.tokens.read(credentials)
        scheme = "key"
    try:
        return Grant(gateway.keys.authenticate(f"{scheme} {credentials}"))
    except KeyMissing as err:
        raise Problem(401, _FORM, "unauthorized") from err
    except KeyUnknown as err:
        raise Problem(401, _UNKNOWN, "unauthorized") from err
