"""Bad calls: each is a clear error that names every bad field, whichever method it comes by, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, model_pb2, queue_pb2, storage_pb2
from tests.driving import SECONDS, Caller, Refusal, refusal
from tests.service import KEY, Stubs, apple, auth

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
NAN, INFINITY = float("nan"), float("inf")
Given = input_pb2.GenerationInput
BAD_IDS = [
    "",
    "x",
    "../x",
    "*",
    ">",
    "a.b",
    "x" * 10_000,
    "ü" * 36,
    "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "01a202b5-c280-7000-a6d7-ec9c002df730",
]


def sized(width: int = 128, height: int = 128) -> image_pb2.ImageSize:
    return image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=width, height=height))


BAD_FIELDS: list[tuple[dict[str, object], list[str]]] = [
    ({"prompt": ""}, ["prompt"]),
    ({"prompt": " \n\t "}, ["prompt"]),
    ({"prompt": "x" * 4097}, ["prompt"]),
    ({"prompt": "x" * 1_000_000}, ["prompt"]),
    ({"prompt": "bell \x07"}, ["prompt"]),
    ({"negative_prompt": "x" * 4097}, ["negative_prompt"]),
    ({"num_inference_steps": 0}, ["num_inference_steps"]),
    ({"num_inference_steps": 33}, ["num_inference_steps"]),
    ({"num_inference_steps": -1}, ["num_inference_steps"]),
    ({"num_images": 0}, ["num_images"]),
    ({"num_images": 9}, ["num_images"]),
    ({"seed": -1}, ["seed"]),
    ({"seed": 2**53}, ["seed"]),
    ({"seed": 2**53 - 1, "num_images": 2}, ["seed"]),  # the second picture's
    ({"guidance_scale": -0.1}, ["guidance_scale"]),
    ({"guidance_scale": 20.1}, ["guidance_scale"]),
    ({"guidance_scale": NAN}, ["guidance_scale"]),
    ({"guidance_scale": INFINITY}, ["guidance_scale"]),
    ({"guidance_rescale": 1.01}, ["guidance_rescale"]),
    ({"guidance_rescale": -1}, ["guidance_rescale"]),
    ({"request_id": "x" * 129}, ["request_id"]),
    ({"expand_prompt": True}, ["expand_prompt"]),
    ({"safety_checker_version": 77}, ["safety_checker_version"]),
    ({"format": 77}, ["format"]),
    ({"image_size": image_pb2.ImageSize(preset=77)}, ["image_size"]),
    ({"image_size": image_pb2.ImageSize()}, ["image_size"]),
    ({"image_size": sized(width=14_143)}, ["image_size.width"]),
    ({"image_size": sized(height=-1)}, ["image_size.height"]),
    ({"image_size": sized(-5, 20_000)}, ["image_size.width", "image_size.height"]),
    ({"image_size": sized(2049, 2048)}, ["image_size"]),
    ({"model_name": "none/such"}, ["model_name"]),
    ({"model_name": "x" * 100_000}, ["model_name"]),
    (
        {
            "prompt": "",
            "negative_prompt": "x" * 5000,
            "image_size": sized(0, -7),
            "num_inference_steps": 99,
            "seed": -3,
            "guidance_scale": 99,
            "num_images": 100,
            "safety_checker_version": 9,
            "expand_prompt": True,
            "format": 9,
            "guidance_rescale": 9,
            "request_id": "x" * 1000,
            "model_name": "none/such",
        },
        [
            "model_name",
            "prompt",
            "negative_prompt",
            "image_size.height",
            "num_inference_steps",
            "seed",
            "guidance_scale",
            "num_images",
            "safety_checker_version",
            "expand_prompt",
            "format",
            "guidance_rescale",
            "request_id",
        ],
    ),
]


async def every_way(me: Caller, given: Given) -> list[Refusal]:
    """The refusals of an input by each method that takes one."""
    return [await refusal(method(given)) for method in (me.submit, me.generate, me.streaming)]


@pytest.mark.parametrize(("fields", "bad"), BAD_FIELDS, ids=lambda value: str(value)[:40])
async def test_every_bad_field_is_named(me: Caller, fields: dict[str, object], bad: list[str]) -> None:
    for error in await every_way(me, apple(**fields)):
        assert (error.code, error.reason) == INVALID
        assert sorted(error.fields) == sorted(bad)
        assert all(error.descriptions[field] for field in bad)
        assert error.retry is None
    assert await me.listed() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 4096},
        {"num_inference_steps": 1},
        {"seed": 2**53 - 1},
        {"seed": 2**53 - 2, "num_images": 2},
        {"guidance_scale": 20, "guidance_rescale": 1},
        {"guidance_scale": 0},
        {"image_size": sized(1, 1)},
        {"image_size": sized(0, 16)},
        {"request_id": "x" * 128, "negative_prompt": "ü" * 4096},
        {"prompt": "emoji \U0001f34e, two\nlines, العربية"},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_the_limits_themselves_are_drawn(me: Caller, fields: dict[str, object]) -> None:
    output = await me.generate(apple(**fields))
    assert len(output.images) == fields.get("num_images", 1)


async def test_no_input_or_an_unknown_one(me: Caller) -> None:
    unknown = Given.FromString(bytes([0xFA, 0x3F, 0]))  # field 1023, a message
    for given in (Given(), unknown):
        for error in await every_way(me, given):
            assert (error.code, error.reason, error.fields) == (*INVALID, ["input"])
    empty = Given(fast_lcm_text_to_image=input_pb2.FastLcmTextToImageInput())
    for error in await every_way(me, empty):
        assert (error.code, error.reason, error.fields) == (*INVALID, ["prompt"])
    assert await me.listed() == []


async def test_a_model_that_is_not_installed_is_answered_with_those_that_are(me: Caller) -> None:
    for error in await every_way(me, apple(model_name="some/model")):
        assert error.descriptions == {"model_name": "'some/model' is not installed; installed: flashbulb/tiny"}


@pytest.mark.parametrize(
    "given",
    [
        Given(stable_diffusion_v15=input_pb2.StableDiffusionV15Input(prompt="x")),
        Given(omnigen_v1=input_pb2.OmnigenV1Input(prompt="x")),
        Given(flux_lora_text_to_image=input_pb2.FluxLoraTextToImageInput(prompt="x")),
        Given(flux_lora_image_to_image=input_pb2.FluxLoraImageToImageInput(prompt="x")),
        Given(flux_lora_inpainting=input_pb2.FluxLoraInpaintingInput(prompt="x")),
    ],
    ids=lambda given: given.WhichOneof("input"),
)
async def test_an_endpoint_without_a_model_is_answered_with_those_that_have_one(me: Caller, given: Given) -> None:
    listed = await me.call.models.ListEndpoints(model_pb2.ListEndpointsRequest(), metadata=auth(me.key))
    endpoint = next(e.endpoint for e in listed.endpoints if e.input_field == given.WhichOneof("input"))
    for error in await every_way(me, given):
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENDPOINT_UNAVAILABLE")
        names = ("fast-lcm-diffusion", "fast-lcm-diffusion/image-to-image", "fast-lcm-diffusion/inpainting")
        assert error.metadata == {"endpoint": endpoint, "available": ", ".join(names)}
    assert await me.listed() == []


# What surrounds an input


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"idempotency_key": "x" * 129}, "idempotency_key"),
        ({"idempotency_key": "with space"}, "idempotency_key"),
        ({"idempotency_key": "ü"}, "idempotency_key"),
        ({"idempotency_key": "new\nline"}, "idempotency_key"),
        ({"start_timeout": Duration()}, "start_timeout"),
        ({"start_timeout": Duration(nanos=99_000_000)}, "start_timeout"),
        ({"start_timeout": Duration(seconds=86_401)}, "start_timeout"),
        ({"start_timeout": Duration(seconds=-1)}, "start_timeout"),
        ({"start_timeout": Duration(seconds=2**62)}, "start_timeout"),
        ({"priority": 77}, "priority"),
        ({"priority": -1}, "priority"),
        ({"runner_hint": "x" * 129}, "runner_hint"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_how_to_queue_is_checked_with_the_input(me: Caller, fields: dict[str, object], bad: str) -> None:
    error = await refusal(me.submit(**fields))
    assert (error.code, error.reason, error.fields) == (*INVALID, [bad])
    both = await refusal(me.submit(apple(num_images=9), **fields))
    assert sorted(both.fields) == sorted([bad, "num_images"])
    assert await me.listed() == []


async def test_a_runner_hint_of_a_direct_call_is_checked(me: Caller) -> None:
    for method in (me.generate, me.streaming):
        error = await refusal(method(runner_hint="x" * 129))
        assert (error.code, error.reason, error.fields) == (*INVALID, ["runner_hint"])


@pytest.mark.parametrize("request_id", BAD_IDS, ids=lambda value: value[:20])
async def test_an_unknown_request_is_not_found(me: Caller, request_id: str) -> None:
    for method in (me.status, me.watching, me.result, me.cancel):
        error = await refusal(method(request_id))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"page_token": "x"}, ["page_token"]),
        ({"page_token": "../*"}, ["page_token"]),
        ({"page_token": "x" * 10_000}, ["page_token"]),
        ({"page_size": -1}, ["page_size"]),
        ({"page_size": -1, "page_token": ">"}, ["page_size", "page_token"]),
        ({"states": [1, 77]}, ["states"]),
        ({"states": [0]}, ["states"]),
        ({"states": [77], "page_size": -1}, ["states", "page_size"]),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_page_is_refused(me: Caller, fields: dict[str, object], bad: list[str]) -> None:
    error = await refusal(me.page(**fields))
    assert (error.code, error.reason) == INVALID
    assert sorted(error.fields) == sorted(bad)


async def test_models_of_an_unknown_endpoint(me: Caller) -> None:
    request = model_pb2.ListModelsRequest(endpoint="none")
    error = await refusal(me.call.models.ListModels(request, metadata=auth(me.key)))
    assert (error.code, error.reason, error.fields) == (*INVALID, ["endpoint"])


# Bytes


UNARY = [
    ("GenerationService", "Generate"),
    ("QueueService", "Submit"),
    ("QueueService", "GetStatus"),
    ("QueueService", "GetResult"),
    ("QueueService", "Cancel"),
    ("QueueService", "List"),
    ("StorageService", "CreateUpload"),
    ("StorageService", "DeleteFile"),
    ("ModelService", "ListEndpoints"),
    ("ModelService", "ListModels"),
]
STREAMED = [("GenerationService", "GenerateStream"), ("QueueService", "WatchStatus")]
TRUNCATED = queue_pb2.SubmitRequest(input=apple()).SerializeToString()[:-3]


@pytest.mark.parametrize("data", [TRUNCATED, b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 100], ids=["cut", "long", "junk"])
async def test_what_is_no_protobuf_is_the_caller_s_fault(me: Caller, data: bytes) -> None:
    for service, method in UNARY:
        send = me.call.channel.unary_unary(f"/flashbulb.v1.{service}/{method}")
        error = await refusal(send(data, metadata=auth(me.key), timeout=SECONDS))
        assert (error.code, error.reason) == INVALID, method
    for service, method in STREAMED:
        stream = me.call.channel.unary_stream(f"/flashbulb.v1.{service}/{method}")
        error = await refusal(stream(data, metadata=auth(me.key), timeout=SECONDS))
        assert (error.code, error.reason) == INVALID, method
    upload = me.call.channel.stream_unary("/flashbulb.v1.StorageService/Upload")
    error = await refusal(upload(iter([data]), metadata=auth(me.key), timeout=SECONDS))
    assert (error.code, error.reason) == INVALID
    assert await me.listed() == []


async def test_a_message_above_the_limit(me: Caller) -> None:
    for method in (me.submit, me.generate):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(apple(prompt="x" * (17 << 20)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await me.listed() == []


# Keys

ID, _, SECRET = KEY.partition(":")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "KEY_MISSING"),
        ((("authorization", ""),), "KEY_MISSING"),
        ((("authorization", KEY),), "KEY_MISSING"),
        ((("authorization", f"Bearer {KEY}"),), "TOKEN_INVALID"),
        ((("authorization", f"Key {ID}"),), "KEY_MISSING"),
        ((("authorization", f"Key {ID}:"),), "KEY_MISSING"),
        ((("authorization", f"Key {ID}:wrong"),), "KEY_UNKNOWN"),
        ((("authorization", f"Key nobody:{SECRET}"),), "KEY_UNKNOWN"),
        ((("authorization", f"Key {KEY}x"),), "KEY_UNKNOWN"),
        ((("authorization", f"Key :{SECRET}"),), "KEY_UNKNOWN"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_without_a_known_key_nothing_is_served(
    call: Stubs, me: Caller, metadata: tuple[tuple[str, str], ...], reason: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: call.queue.Submit(queue_pb2.SubmitRequest(input=apple()), metadata=metadata),
        lambda: call.queue.WatchStatus(queue_pb2.WatchStatusRequest(request_id="x"), metadata=metadata),
        lambda: call.queue.List(queue_pb2.ListRequest(), metadata=metadata),
        lambda: call.generation.Generate(generation_pb2.GenerateRequest(input=apple()), metadata=metadata),
        lambda: call.generation.GenerateStream(generation_pb2.GenerateStreamRequest(input=apple()), metadata=metadata),
        lambda: call.storage.CreateUpload(storage_pb2.CreateUploadRequest(), metadata=metadata),
        lambda: call.storage.Upload(iter([storage_pb2.UploadRequest()]), metadata=metadata),
        lambda: call.models.ListModels(model_pb2.ListModelsRequest(), metadata=metadata),
    ]
    for make in calls:
        error = await refusal(make())
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert SECRET not in error.message
