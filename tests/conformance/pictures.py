"""Whether a picture is the right one: a file of the promised kind and size that shows what the same call by gRPC draws."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from PIL import Image

from flashbulb.v1 import generation_pb2, generation_pb2_grpc, image_pb2, input_pb2
from tests.conformance.node import Seen
from tests.driving import distance, pixels
from tests.service import auth

_SECONDS = 60
_TOLERANCE = 8  # levels of 255 in a JPEG file: one level before it is compressed becomes a few


class Reference:
    """Pictures as gRPC draws them."""

    def __init__(self, address: str, key: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._key = key
        self._known: dict[str, bytes] = {}

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def draw(self, given: Mapping[str, Any]) -> bytes:
        """The file for an input in fal's words."""
        text = json.dumps(given, sort_keys=True)
        if text not in self._known:
            request = generation_pb2.GenerateRequest(input=_by_grpc(given))
            self._known[text] = self._drawn(request)
        return self._known[text]

    def _drawn(self, request: generation_pb2.GenerateRequest) -> bytes:
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                answer = self._stub.Generate(request, metadata=auth(self._key), timeout=_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:  # a script may have killed the api or the worker a moment ago
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return bytes(answer.output.images[0].content)

    def check(self, seen: Seen) -> None:
        """Raises AssertionError if a picture is not what it must be."""
        check_file(seen)
        if seen.input is not None:
            assert distance(seen.data, self.draw(seen.input)) <= _TOLERANCE, f"not what gRPC draws for {seen.input}"
        if seen.looks is not None:
            check_looks(seen.data, seen.looks)


def check_file(seen: Seen) -> None:
    """Kind, size, and that something is on it."""
    picture = Image.open(io.BytesIO(seen.data))
    assert f"image/{str(picture.format).lower()}" == seen.content_type
    assert picture.size == (seen.width, seen.height)
    if seen.input is not None:
        size = seen.input.get("image_size", "square_hd")
        assert picture.size == (
            (size["width"], size["height"]) if isinstance(size, Mapping) else {"square_hd": (1024, 1024)}[size]
        )
    levels = pixels(seen.data)
    assert levels.std() > 10, "one colour all over"
    assert levels.mean() > 5, "black"


def check_looks(data: bytes, colour: str) -> None:
    """That a tenth of the picture at least has the colour, and clearly."""
    red, green, blue = np.moveaxis(pixels(data), -1, 0)
    having = {
        "red": (red > green + 60) & (red > blue + 60),
        "green": (green > red + 20) & (green > blue + 40),
        "coloured": np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue) > 60,
    }[colour]
    assert having.mean() > 0.1, f"{having.mean():.0%} of it is {colour}"


def _by_grpc(given: Mapping[str, Any]) -> input_pb2.GenerationInput:
    fields = {
        name: value for name, value in given.items() if name not in ("image_size", "format", "safety_checker_version")
    }
    message = json_format.ParseDict(fields, input_pb2.FastLcmTextToImageInput())
    size = given.get("image_size")
    if isinstance(size, Mapping):
        message.image_size.dimensions.width, message.image_size.dimensions.height = size["width"], size["height"]
    if given.get("format") == "png":
        message.format = image_pb2.IMAGE_FORMAT_PNG
    return input_pb2.GenerationInput(fast_lcm_text_to_image=message)
