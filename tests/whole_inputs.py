"""An input of every endpoint in which every field is given, none at its default; as JSON, and as protobuf."""

from __future__ import annotations

from flashbulb.v1 import input_pb2
from flashbulb_server.core.catalog import Endpoint
from flashbulb_server.core.fields import Kind

PICTURE, MASK = "https://pictures.example/a.png", "https://pictures.example/m.png"
WHOLE: dict[str, object] = {
    "model_name": "fake",
    "prompt": "a cat",
    "negative_prompt": "fog",
    "image_size": {"width": 64, "height": 48},
    "num_inference_steps": 2,
    "seed": 7,
    "guidance_scale": 2.25,
    "img_guidance_scale": 1.25,
    "sync_mode": True,
    "num_images": 2,
    "enable_safety_checker": False,
    "safety_checker_version": "v2",
    "expand_prompt": False,
    "format": "png",
    "output_format": "png",
    "guidance_rescale": 0.5,
    "request_id": "mine",
    "image_url": PICTURE,
    "mask_url": MASK,
    "input_image_urls": [PICTURE, MASK],
    "strength": 0.75,
    "preserve_aspect_ratio": True,
    "crop_output": True,
    "loras": [{"path": "a", "scale": 0.25, "force": True}, {"path": "b"}],
    "embeddings": [{"path": "a"}, {"path": "b", "tokens": ["<cat>"]}],
    "acceleration": "regular",
}


def of_endpoint(endpoint: Endpoint, values: dict[str, object]) -> dict[str, object]:
    """The values that the endpoint has fields for."""
    names = {field.name for field in endpoint.fields}
    return {name: value for name, value in values.items() if name in names}


def in_protobuf(endpoint: Endpoint, values: dict[str, object]) -> input_pb2.GenerationInput:
    """An input that is given as JSON, as a caller of gRPC sends it."""
    made = {name: _value(endpoint.field(name).kind, name, value) for name, value in values.items()}
    message = input_pb2.GenerationInput(**{endpoint.input_field: made})
    return input_pb2.GenerationInput.FromString(message.SerializeToString())


def _value(kind: Kind, name: str, value: object) -> object:
    match kind:
        case Kind.SIZE if isinstance(value, str):
            return {"preset": f"IMAGE_SIZE_PRESET_{value.upper()}"}
        case Kind.SIZE:
            return {"dimensions": value}
        case Kind.SOURCE:
            return {"uri": value}
        case Kind.SOURCES:
            return [{"uri": uri} for uri in value]
        case Kind.CHOICE if name != "acceleration":
            prefix = "SAFETY_CHECKER_VERSION" if name == "safety_checker_version" else "IMAGE_FORMAT"
            return f"{prefix}_{str(value).upper()}"
        case _:
            return value
