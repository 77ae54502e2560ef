"""Which device and type of numbers a worker computes with. Imports torch alone, so that a device that is missing is told before the rest loads."""

from __future__ import annotations

import torch

from flashbulb_server.errors import Misconfigured

_VARIABLE = "FLASHBULB_WORKER__DEVICE"


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's Metal, then the CPU. Raises Misconfigured for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise Misconfigured(f"{_VARIABLE}: torch knows no device {name}") from err
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = found.get(device.type)
    if count is not None and (device.index or 0) >= count:
        raise Misconfigured(
            f"{_VARIABLE} is {name}, and torch finds {count or 'no'} {device.type} device{'s'[: count != 1]} here"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` is float16 on CUDA and float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
