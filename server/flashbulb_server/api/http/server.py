"""The gateway's HTTP server: uvicorn in the running loop, on a socket of its own, with an ordered end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from flashbulb_server.api.http.app import make_app
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.polls import Answers, protocol_for
from flashbulb_server.api.http.sockets import SocketProtocol
from flashbulb_server.config import ApiSettings
from flashbulb_server.core.tasks import task_group
from flashbulb_server.errors import Misconfigured

_IDLE_SECONDS = (
    75  # that a connection is kept between calls: longer than load balancers do, which must be the ones to close
)
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A gateway that serves at `address`, `host:port`; empty if it is turned off."""

    address: str = ""
    server: _Server | None = None
    answers: Answers | None = None

    def keys_ended(self) -> None:
        """Keys are good no more: what was answered to them is not given again."""
        if self.answers is not None:
            self.answers.forget()

    def drain(self) -> None:
        """Takes no new calls from now on. Those that there are may go on; leaving the context waits for them."""
        if self.server is not None:
            self.server.should_exit = True


@asynccontextmanager
async def serve_http(gateway: Gateway, settings: ApiSettings) -> AsyncIterator[HttpServer]:
    """Serves while the context is open. On exit calls may go on for `drain_seconds`. `settings`: limits and TLS, as of gRPC.

    Raises Misconfigured if the port is taken.
    """
    listen = gateway.settings.listen
    if not listen:
        yield HttpServer()
        return
    host, _, port = listen.rpartition(":")
    with contextlib.closing(_bound(host.strip("[]"), int(port))) as bound:
        answers = Answers(gateway.polling)
        server = _Server(_config(gateway, settings, answers))
        async with task_group() as tasks:
            serving = tasks.create_task(server.serve(sockets=[bound]))
            try:
                await server.ready.wait()
                yield HttpServer(f"{host}:{bound.getsockname()[1]}", server, answers)
            finally:
                server.should_exit = True
                await asyncio.wait([serving])


def _config(gateway: Gateway, settings: ApiSettings, answers: Answers) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_worth_telling)
    return uvicorn.Config(
        make_app(gateway, answers),
        http=protocol_for(answers),
        ws=SocketProtocol,
        log_level="warning",
        ws_max_size=gateway.settings.max_body_bytes,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what they say goes into links, and is read there
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        limit_concurrency=None,
        ssl_certfile=settings.tls_certificate if settings.tls_key else None,
        ssl_keyfile=settings.tls_key if settings.tls_certificate else None,
    )


def _worth_telling(record: logging.LogRecord) -> bool:
    """Answers that are broken off, on purpose, are told of where that is decided."""
    return "without completing response" not in record.getMessage()


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket. Without SO_REUSEPORT: two servers on one port would share its calls silently."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as err:
        bound.close()
        raise Misconfigured(f"FLASHBULB_HTTP__LISTEN: cannot listen on {host}:{port}: {err.strerror}") from err
    bound.set_inheritable(False)
    return bound


class _Server(uvicorn.Server):
    """uvicorn's server without signal handlers, which the role has, and with a word when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the role."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self.ready.set()
