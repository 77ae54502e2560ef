"""Client of Flashbulb, the self-hosted gRPC service for real-time image generation.

    import flashbulb

    result = flashbulb.subscribe(prompt="a red apple")
    result.images[0].save("apple.jpeg")

Names are loaded when they are first used: the generated messages in `flashbulb.v1` are also used alone, and must stay cheap.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashbulb import realtime as realtime
    from flashbulb._client import AsyncClient
    from flashbulb._errors import (
        AuthenticationError,
        BadImage,
        Busy,
        ConfigurationError,
        Conflict,
        DeadlineExceeded,
        DownloadFailed,
        EndpointUnavailable,
        FieldViolation,
        FileNotFound,
        FlashbulbError,
        IdempotencyKeyReused,
        InvalidInput,
        NotFinished,
        NotFound,
        NoWebhook,
        QueueFull,
        RequestCancelled,
        RequestEnded,
        RequestExpired,
        RequestFailed,
        RequestNotFound,
        SafetyCheckerUnavailable,
        ServerError,
        SessionEnded,
        Unavailable,
        UnknownField,
        WorkersBusy,
    )
    from flashbulb._frames import Dropped, Frame, Token
    from flashbulb._handle import AsyncHandle, Handle
    from flashbulb._inputs import (
        FluxLora,
        FluxLoraImageToImage,
        FluxLoraInpainting,
        ImageToImage,
        Inpainting,
        Input,
        Lora,
        Omnigen,
        StableDiffusionV15,
        TextToImage,
        TextualInversion,
    )
    from flashbulb._results import (
        CancelReceipt,
        Endpoint,
        Event,
        FieldSpec,
        File,
        Image,
        Logged,
        LogLine,
        Model,
        Previewed,
        RequestStatus,
        Result,
        State,
        StatusChanged,
        Stepped,
        WebhookAttempt,
        WebhookDelivery,
    )
    from flashbulb._session import AsyncSession
    from flashbulb._shortcuts import cancel, generate, list, result, status, submit, subscribe, upload
    from flashbulb._sync import Client
    from flashbulb._sync_session import Session

__all__ = [
    "AsyncClient",
    "AsyncHandle",
    "AsyncSession",
    "AuthenticationError",
    "BadImage",
    "Busy",
    "CancelReceipt",
    "Client",
    "ConfigurationError",
    "Conflict",
    "DeadlineExceeded",
    "DownloadFailed",
    "Dropped",
    "Endpoint",
    "EndpointUnavailable",
    "Event",
    "FieldSpec",
    "FieldViolation",
    "File",
    "FileNotFound",
    "FlashbulbError",
    "FluxLora",
    "FluxLoraImageToImage",
    "FluxLoraInpainting",
    "Frame",
    "Handle",
    "IdempotencyKeyReused",
    "Image",
    "ImageToImage",
    "Inpainting",
    "Input",
    "InvalidInput",
    "LogLine",
    "Logged",
    "Lora",
    "Model",
    "NoWebhook",
    "NotFinished",
    "NotFound",
    "Omnigen",
    "Previewed",
    "QueueFull",
    "RequestCancelled",
    "RequestEnded",
    "RequestExpired",
    "RequestFailed",
    "RequestNotFound",
    "RequestStatus",
    "Result",
    "SafetyCheckerUnavailable",
    "ServerError",
    "Session",
    "SessionEnded",
    "StableDiffusionV15",
    "State",
    "StatusChanged",
    "Stepped",
    "TextToImage",
    "TextualInversion",
    "Token",
    "Unavailable",
    "UnknownField",
    "WebhookAttempt",
    "WebhookDelivery",
    "WorkersBusy",
    "cancel",
    "generate",
    "list",
    "result",
    "status",
    "submit",
    "subscribe",
    "upload",
]

# In the order in which they need each other: looking in one loads none that the name itself does not need.
_MODULES = (
    "_errors",
    "_inputs",
    "_results",
    "_frames",
    "_handle",
    "_session",
    "_client",
    "_sync_session",
    "_sync",
    "_shortcuts",
)


def __getattr__(name: str) -> object:
    if name == "realtime":
        return importlib.import_module(f"{__name__}.realtime")
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *__all__, "realtime"})
