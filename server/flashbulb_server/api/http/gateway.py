"""What the gateway stands on: the use-cases that gRPC is served from too, and its settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flashbulb_server.api.files import Files
from flashbulb_server.api.generating import Generating
from flashbulb_server.api.keys import Keys
from flashbulb_server.api.polling import Polling
from flashbulb_server.api.queueing import Queueing
from flashbulb_server.api.realtime import Realtime
from flashbulb_server.api.tokens import Tokens
from flashbulb_server.api.uploads import Uploads
from flashbulb_server.api.watching import Watching
from flashbulb_server.api.webhooks.orders import Webhooks
from flashbulb_server.api.webhooks.signing import Signer
from flashbulb_server.config import HttpSettings
from flashbulb_server.messaging.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Given to `routes(gateway)` of every surface. `grpc_listen`: `host:port` of the gRPC server. `clock` gives unix seconds."""

    settings: HttpSettings
    keys: Keys
    tokens: Tokens
    fleet: Fleet
    generating: Generating
    queueing: Queueing
    polling: Polling
    watching: Watching
    realtime: Realtime
    files: Files
    uploads: Uploads
    webhooks: Webhooks
    signer: Signer
    grpc_listen: str = ""
    clock: Callable[[], float] = time.time
