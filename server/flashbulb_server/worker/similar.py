"""How much two pictures differ, by thumbnails: small enough to travel with every frame, so that a worker need not remember any."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flashbulb_server.core.pipeline import Pixels

SIDE = 32


def thumbnail(picture: Pixels) -> bytes:
    """Mean luma (ITU-R BT.601, as Pillow rounds it) of each of 32 x 32 parts of a picture (H, W, 3): 1024 bytes, line by line."""
    luma = Image.fromarray(picture).convert("L")
    return luma.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two thumbnails, 0 to 1; 1 where they are of different kinds."""
    if len(one) != len(other):
        return 1.0
    gap = np.frombuffer(one, np.uint8).astype(np.int16) - np.frombuffer(other, np.uint8)
    return float(np.abs(gap).mean()) / 255
