"""The methods of a default client as functions. It is made at the first call, from the environment, and lives as long as the program."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from flashbulb._sync import Client

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def default_client() -> Client:
    """The client that the shortcuts use."""
    return Client()


def _shortcut(method: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(default_client(), *args, **kwargs)

    signature = inspect.signature(method)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]  # read by inspect
    return call


subscribe = _shortcut(Client.subscribe)
submit = _shortcut(Client.submit)
status = _shortcut(Client.status)
result = _shortcut(Client.result)
cancel = _shortcut(Client.cancel)
list = _shortcut(Client.list)
generate = _shortcut(Client.generate)
upload = _shortcut(Client.upload)
