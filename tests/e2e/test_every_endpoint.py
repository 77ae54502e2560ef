"""Every endpoint of the catalog through the whole service, by gRPC and by HTTP, with a model that announces them all: what comes back echoes
every resolved value, and names the model.
"""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from PIL import Image

from flashbulb.v1 import generation_pb2, input_pb2, realtime_pb2
from flashbulb_server.core.catalog import ENDPOINTS, Endpoint
from tests.driving import SECONDS, Caller, refusal
from tests.gateway import Fal
from tests.service import SPARE_KEYS, RunningService, auth, stubs
from tests.whole_inputs import WHOLE, in_protobuf, of_endpoint

each_endpoint = pytest.mark.parametrize("endpoint", list(ENDPOINTS.values()), ids=lambda e: e.id)
MODEL = "sleeping"
KEY = SPARE_KEYS[-1]


def data_uri(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


RED, WHITE = data_uri("red"), data_uri("white")
PICTURES = {"image_url": RED, "mask_url": WHITE, "input_image_urls": [RED, WHITE]}


def whole(endpoint: Endpoint) -> dict[str, object]:
    """Every field of an endpoint, the pictures inline."""
    return of_endpoint(endpoint, {**WHOLE, **PICTURES, "model_name": MODEL})


def echo(endpoint: Endpoint) -> input_pb2.GenerationInput:
    """What the answer must echo beside the pictures: everything that was given, and the defaults inside of lists."""
    given = whole(endpoint)
    for name in PICTURES:
        given.pop(name, None)
    if "loras" in given:
        given["loras"] = [{"path": "a", "scale": 0.25, "force": True}, {"path": "b", "scale": 1, "force": False}]
    if "embeddings" in given:
        given["embeddings"] = [{"path": "a", "tokens": ["<s0>", "<s1>"]}, {"path": "b", "tokens": ["<cat>"]}]
    return in_protobuf(endpoint, given)


def without_pictures(message: input_pb2.GenerationInput) -> input_pb2.GenerationInput:
    """An input without its pictures."""
    rest = input_pb2.GenerationInput.FromString(message.SerializeToString())
    inner = getattr(rest, rest.WhichOneof("input"))
    for name in PICTURES:
        if name in inner.DESCRIPTOR.fields_by_name:
            inner.ClearField(name)
    return rest


def sources(message: input_pb2.GenerationInput) -> list[str]:
    """Uris of the pictures of an input, empty for those that are not echoed."""
    inner = getattr(message, message.WhichOneof("input"))
    found: list[str] = []
    for field in inner.DESCRIPTOR.fields:
        if field.name in PICTURES:
            value = getattr(inner, field.name)
            found += [source.uri for source in (value if field.is_repeated else [value])]
    return found


def check(endpoint: Endpoint, output: generation_pb2.GenerationOutput, *, stored: bool) -> None:
    """That an output echoes every value."""
    assert output.model_name == MODEL
    assert without_pictures(output.resolved_input) == echo(endpoint)
    assert (output.seed, output.prompt, len(output.images)) == (7, "a cat", 2)
    assert {(image.width, image.height, image.content_type) for image in output.images} == {(64, 48, "image/png")}
    uris = sources(output.resolved_input)
    given = [value for name, value in PICTURES.items() if name in whole(endpoint)]
    assert len(uris) == sum(len(value) if isinstance(value, list) else 1 for value in given)
    if stored:
        assert all(uri.startswith("flashbulb://files/in/") for uri in uris)
        assert len(set(uris)) == len(uris), "each has a file of its own"
    else:
        assert not any(uris)


@pytest.fixture
async def caller(quick_service: RunningService) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(quick_service.address) as channel:
        yield Caller(stubs(channel), KEY)


@pytest.fixture
async def fal(quick_service: RunningService) -> AsyncIterator[Fal]:
    base, headers = f"http://{quick_service.http_address}", {"authorization": f"Key {KEY}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=SECONDS, trust_env=False) as http:
        yield Fal(http)


@each_endpoint
async def test_directly_over_grpc(caller: Caller, endpoint: Endpoint) -> None:
    check(endpoint, await caller.generate(in_protobuf(endpoint, whole(endpoint))), stored=False)


@each_endpoint
async def test_queued_over_grpc(caller: Caller, endpoint: Endpoint) -> None:
    request = await caller.submit(in_protobuf(endpoint, whole(endpoint)))
    assert (request.endpoint, request.model_name) == (endpoint.id, MODEL)
    check(endpoint, await caller.output(request.request_id), stored=True)


@each_endpoint
async def test_over_http(fal: Fal, caller: Caller, endpoint: Endpoint) -> None:
    drawn = await fal.run(whole(endpoint), f"fal-ai/{endpoint.id}")
    assert drawn.status_code == 200, drawn.text
    submitted = (await fal.submit(whole(endpoint), f"fal-ai/{endpoint.id}")).json()
    await fal.ended(submitted)
    fetched = await fal.http.get(submitted["response_url"])
    for answer in (drawn.json(), fetched.json()):
        assert (answer["model_name"], answer["seed"], answer["prompt"]) == (MODEL, 7, "a cat")
        assert answer.get("request_id", "mine") == "mine"
        assert [(image["width"], image["height"]) for image in answer["images"]] == [(64, 48)] * 2
    check(endpoint, (await caller.result(submitted["request_id"])).output, stored=True)


@each_endpoint
async def test_a_session_draws_it(caller: Caller, endpoint: Endpoint) -> None:
    async def words() -> AsyncIterator[realtime_pb2.ConnectRequest]:
        yield realtime_pb2.ConnectRequest(open={"defaults": in_protobuf(endpoint, whole(endpoint))})
        changes = in_protobuf(endpoint, {"prompt": "a dog"})
        yield realtime_pb2.ConnectRequest(frame={"frame_id": 1, "changes": changes})

    heard = [m async for m in caller.call.realtime.Connect(words(), metadata=auth(KEY), timeout=SECONDS)]
    assert heard[0].opened.model_name == MODEL
    assert without_pictures(heard[0].opened.resolved_defaults) == echo(endpoint)
    (frame,) = [message.frame for message in heard if message.WhichOneof("message") == "frame"]
    assert (frame.model_name, len(frame.images)) == (MODEL, 2)


async def test_every_bad_item_is_named_by_its_path(caller: Caller, fal: Fal) -> None:
    bad = {
        "prompt": "x",
        "loras": [{"path": "a"}, {"path": "", "scale": 1.5}],
        "embeddings": [{"path": "a", "tokens": [""]}],
    }
    refused = await refusal(caller.generate(in_protobuf(ENDPOINTS["stable-diffusion-v15"], bad)))
    assert refused.fields == ["loras[1].path", "loras[1].scale", "embeddings[0].tokens[0]"]
    answer = await fal.submit(bad, "fal-ai/stable-diffusion-v15")
    assert answer.status_code == 422
    assert [detail["loc"] for detail in answer.json()["detail"]] == [
        ["body", "loras", 1, "path"],
        ["body", "loras", 1, "scale"],
        ["body", "embeddings", 0, "tokens", 0],
    ]


async def test_a_bad_picture_among_several_is_named_by_its_place(caller: Caller, fal: Fal) -> None:
    given = {"prompt": "x", "input_image_urls": [RED, "data:,hello"]}
    refused = await refusal(caller.generate(in_protobuf(ENDPOINTS["omnigen-v1"], given)))
    assert (refused.reason, refused.metadata["field"]) == ("BAD_IMAGE", "input_image_urls[1]")
    answer = await fal.run(given, "fal-ai/omnigen-v1")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "input_image_urls", 1]
