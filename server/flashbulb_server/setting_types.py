"""Kinds of settings that have a form of their own. What is refused is told without its value, which may be a secret put in the wrong place."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def refused(message: str) -> PydanticCustomError:
    """For validators of settings: the message, as it is."""
    return PydanticCustomError("setting", message)


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535 or re.search(r"[\s/]", host):
        raise refused("must be host:port")
    return text


def _host_and_port_or_nothing(text: str) -> str:
    return text and _host_and_port(text)


def _socket_or_host_and_port(text: str) -> str:
    return text if re.match(r"unix:.", text) else _host_and_port(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:[0-9]{1,3})?", text):
        raise refused("must be auto, cpu, mps, cuda or cuda:<number of a card>")
    return text


HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
OptionalHostAndPort = Annotated[str, AfterValidator(_host_and_port_or_nothing)]
SocketAddress = Annotated[str, AfterValidator(_socket_or_host_and_port)]
"""`unix:<path>` or `host:port`."""
Device = Annotated[str, AfterValidator(_device)]
