"""Image to image and inpainting through the whole service: the pictures may come in every way, and must be the caller's to use."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable

import grpc
import httpx
import numpy as np
import pytest
from minio import Minio
from PIL import Image, ImageDraw

import flashbulb
from flashbulb.v1 import image_pb2, input_pb2, model_pb2, storage_pb2
from tests.driving import Caller, State, distance, pixels, read_status, refusal
from tests.service import RunningService, apple, auth

ENDPOINTS = ["fast-lcm-diffusion", "fast-lcm-diffusion/image-to-image", "fast-lcm-diffusion/inpainting"]
Source = image_pb2.ImageSource


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def disc(size: tuple[int, int] = (128, 128)) -> bytes:
    """A red disc on white."""
    image = Image.new("RGB", size, "white")
    middle, radius = (size[0] // 2, size[1] // 2), min(size) * 2 // 5
    ImageDraw.Draw(image).circle(middle, radius, fill=(210, 30, 40))
    return file_of(image)


def right_half(size: tuple[int, int] = (128, 128)) -> bytes:
    """A mask."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill=255)
    return file_of(mask)


def data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def size_of(width: int, height: int) -> image_pb2.ImageSize:
    return image_pb2.ImageSize(dimensions=image_pb2.ImageDimensions(width=width, height=height))


def pear(image: Source | None, **fields: object) -> input_pb2.GenerationInput:
    """A quick picture of a picture."""
    values = {"prompt": "a green pear", "seed": 3, "num_inference_steps": 4, "strength": 0.6} | fields
    values.setdefault("image_size", size_of(128, 128))
    values.setdefault("format", image_pb2.IMAGE_FORMAT_PNG)
    return input_pb2.GenerationInput(
        fast_lcm_image_to_image=input_pb2.FastLcmImageToImageInput(image_url=image, **values)
    )


def half_a_pear(image: Source, mask: Source, **fields: object) -> input_pb2.GenerationInput:
    """A quick picture of a part of a picture."""
    values = {"prompt": "a green pear", "seed": 3, "num_inference_steps": 4, "strength": 1.0} | fields
    values.setdefault("image_size", size_of(128, 128))
    values.setdefault("format", image_pb2.IMAGE_FORMAT_PNG)
    return input_pb2.GenerationInput(
        fast_lcm_inpainting=input_pb2.FastLcmInpaintingInput(image_url=image, mask_url=mask, **values)
    )


async def uploaded(caller: Caller, content: bytes) -> str:
    def messages():
        yield storage_pb2.UploadRequest(open=storage_pb2.FileSpec(content_type="image/png", size_bytes=len(content)))
        yield storage_pb2.UploadRequest(chunk=content)

    answer = await caller.call.storage.Upload(messages(), metadata=auth(caller.key), timeout=20)
    return str(answer.file.uri)


def green(content: bytes) -> np.ndarray:
    """Where a picture is green rather than red."""
    levels = pixels(content).astype(int)
    return levels[..., 1] > levels[..., 0] + 40


async def test_all_three_endpoints_are_there(me: Caller) -> None:
    answer = await me.call.models.ListEndpoints(model_pb2.ListEndpointsRequest(), metadata=auth(me.key), timeout=10)
    assert [e.endpoint for e in answer.endpoints if e.default_model == "flashbulb/tiny"] == ENDPOINTS


async def test_an_apple_becomes_a_pear(me: Caller) -> None:
    start = disc()
    output = await me.generate(pear(Source(content=start)))
    (image,) = output.images
    assert (image.width, image.height, image.native_width, image.native_height) == (128, 128, 128, 128)
    assert green(image.content)[48:80, 48:80].mean() > 0.9 > 0.1 > green(start).mean()
    near = (await me.generate(pear(Source(content=start), strength=0.05))).images[0].content
    assert np.abs(pixels(near).astype(int) - pixels(start)).mean() < np.abs(pixels(image.content).astype(int) - pixels(start)).mean() / 2  # fmt: skip


async def test_only_what_is_under_the_mask_is_drawn(me: Caller) -> None:
    output = await me.generate(half_a_pear(Source(content=disc()), Source(content=right_half())))
    content = output.images[0].content
    assert green(content)[:, 76:].mean() > 0.3
    assert green(content)[:, :52].mean() < 0.02
    kept = np.abs(pixels(content).astype(int) - pixels(disc()))[:, :52]
    assert kept.mean() < 10


async def test_every_way_to_give_a_picture_draws_the_same(me: Caller) -> None:
    content = disc()
    uri = await uploaded(me, content)
    sources = [Source(content=content), Source(uri=data_uri(content)), Source(uri=uri)]
    drawn = [(await me.generate(pear(source))).images[0].content for source in sources]
    queued = [await me.output((await me.submit(pear(source))).request_id) for source in sources]
    drawn += [output.images[0].content for output in queued]
    assert all(distance(one, drawn[0]) <= 1 for one in drawn)


async def test_what_came_inline_is_not_echoed_by_a_direct_call_and_is_a_file_in_the_queue(me: Caller) -> None:
    content = disc()
    for source in (Source(content=content), Source(uri=data_uri(content))):
        output = await me.generate(pear(source))
        assert output.resolved_input.fast_lcm_image_to_image.image_url == Source()
        queued = await me.output((await me.submit(pear(source))).request_id)
        echoed = queued.resolved_input
        uri = echoed.fast_lcm_image_to_image.image_url.uri
        assert uri.startswith("flashbulb://files/in/")
        again = await me.generate(echoed)
        assert distance(again.images[0].content, queued.images[0].content) <= 1
    uri = await uploaded(me, content)
    assert (await me.generate(pear(Source(uri=uri)))).resolved_input.fast_lcm_image_to_image.image_url.uri == uri


async def test_a_picture_larger_than_a_record_may_be(me: Caller) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    content = file_of(Image.fromarray(noise))
    assert 3_000_000 < len(content) < 4_000_000
    queued = await me.output((await me.submit(half_a_pear(Source(content=content), Source(content=right_half())))).request_id)  # fmt: skip
    direct = await me.generate(half_a_pear(Source(content=content), Source(content=right_half())))
    assert distance(queued.images[0].content, direct.images[0].content) <= 1


async def test_the_idempotency_key_goes_by_what_was_given(me: Caller) -> None:
    given, other = pear(Source(content=disc())), pear(Source(content=disc((64, 64))))
    first = await me.submitted(given, idempotency_key="k")
    again = await me.submitted(given, idempotency_key="k")
    assert again.deduplicated and again.request.request_id == first.request.request_id
    error = await refusal(me.submit(other, idempotency_key="k"))
    assert error.reason == "IDEMPOTENCY_KEY_REUSED"
    assert (await me.ended(first.request.request_id)).state == State.STATE_SUCCEEDED


async def test_a_refused_submission_leaves_no_file(narrow: Caller, held: Callable[[], None], narrow_service) -> None:
    async def fill() -> None:
        while True:
            await narrow.submit(apple())

    assert (await refusal(fill())).reason == "QUEUE_FULL"
    before = stored(narrow_service)
    assert (await refusal(narrow.submit(pear(Source(content=disc()))))).reason == "QUEUE_FULL"
    assert stored(narrow_service) == before


def stored(service: RunningService) -> list[str]:
    """Every input that the service keeps, by key."""
    secrets = json.loads((service.data_dir / "secrets.json").read_text())
    port = json.loads((service.data_dir / "ports.json").read_text())["files"][0]
    keys = {"access_key": secrets["s3_access_key"], "secret_key": secrets["s3_secret_key"]}
    client = Minio(f"127.0.0.1:{port}", **keys, secure=False, region="us-east-1")
    return [str(entry.object_name) for entry in client.list_objects("flashbulb", "in/", recursive=True)]


@pytest.mark.parametrize(
    ("answer", "fields", "drawn"),
    [
        ((512, 288), {"image_size": size_of(512, 288)}, (128, 72)),
        ((512, 512), {"image_size": size_of(512, 512)}, (128, 128)),
        ((672, 384), {"image_size": size_of(512, 512), "preserve_aspect_ratio": True}, (128, 73)),
        ((512, 512), {"image_size": size_of(512, 512), "preserve_aspect_ratio": True, "crop_output": True}, (128, 128)),
    ],
)
async def test_sizes(me: Caller, answer, fields, drawn) -> None:
    output = await me.generate(pear(Source(content=disc((640, 360))), strength=0.05, **fields))
    (image,) = output.images
    assert (image.width, image.height, image.native_width, image.native_height) == (*answer, *drawn)
    levels = pixels(image.content)
    assert levels.shape[:2] == answer[::-1]
    rows, columns = np.nonzero((levels[..., 0] > 120) & (levels[..., 1] < 110))
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.08), "a disc stays round"


async def test_steps_are_told_as_they_are_taken(me: Caller) -> None:
    given = half_a_pear(Source(content=disc()), Source(content=right_half()), strength=0.5, num_inference_steps=8)
    request = await me.submit(given)
    events = await me.watch(request.request_id)
    assert [(e.progress.step, e.progress.total_steps) for e in events if e.WhichOneof("event") == "progress"] == [
        (step, 4) for step in range(1, 5)
    ]
    streamed = [
        event async for event in me.streaming(pear(Source(content=disc()), strength=0.05, num_inference_steps=8))
    ]
    assert [e.progress.total_steps for e in streamed if e.WhichOneof("event") == "progress"] == [2, 2]


@pytest.mark.parametrize(
    ("image", "field"),
    [
        (None, "image_url"),
        (Source(), "image_url"),
        (Source(content=b""), "image_url"),
        (Source(uri="file:///etc/passwd"), "image_url"),
        (Source(uri="flashbulb://files/nonsense"), "image_url"),
    ],
)
async def test_what_is_no_source_is_refused_at_once(me: Caller, image, field) -> None:
    for call in (me.generate(pear(image)), me.submit(pear(image))):
        error = await refusal(call)
        assert (error.code, error.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT", [field])


async def test_a_data_uri_that_cannot_be_read_is_refused_by_the_queue_at_once(me: Caller) -> None:
    error = await refusal(me.submit(pear(Source(uri="data:image/png;base64,%%%"))))
    assert (error.reason, error.fields) == ("INVALID_INPUT", ["image_url"])
    assert await me.listed() == []


async def test_bad_pictures(me: Caller, stranger: Caller, service: RunningService) -> None:
    theirs = await uploaded(stranger, disc())
    bad = {
        "no whole picture": Source(content=b"hello"),
        "no such file": Source(uri=theirs),
        "not public": Source(uri=f"http://{service.address}/"),
        "address is not public": Source(uri="http://localhost:1/a.png"),
        "name is not known": Source(uri="https://nobody.invalid/a.png"),
    }
    for problem, source in bad.items():
        error = await refusal(me.generate(pear(source)))
        assert (error.code, error.reason, error.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "BAD_IMAGE",
            ["image_url"],
        )
        assert problem in error.message and "127.0.0.1" not in error.message
        ended = await me.ended((await me.submit(pear(source))).request_id)
        assert ended.state == State.STATE_FAILED
        failure = read_status(grpc.StatusCode.INVALID_ARGUMENT, ended.error)
        assert (failure.reason, failure.fields) == ("BAD_IMAGE", ["image_url"]) and problem in failure.message


async def test_the_python_client(me: Caller, service: RunningService, tmp_path) -> None:
    """Bytes, a path, a Pillow picture, a large file that it uploads first, and the picture of an answer before."""
    (tmp_path / "disc.png").write_bytes(disc())
    noise = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    given = {"prompt": "a green pear", "seed": 3, "num_inference_steps": 4, "image_size": (128, 128), "format": "png"}
    async with flashbulb.AsyncClient(host=service.address, key=me.key) as client:
        first = await client.generate(flashbulb.ImageToImage(image_url=disc(), **given))
        path = await client.subscribe(flashbulb.ImageToImage(image_url=tmp_path / "disc.png", **given))
        pillow = await client.subscribe(
            flashbulb.Inpainting(
                image_url=Image.fromarray(noise), mask_url=Image.open(io.BytesIO(right_half())), **given
            )
        )
        chained = await client.subscribe(flashbulb.ImageToImage(image_url=path.images[0], **given))
        with pytest.raises(flashbulb.BadImage) as caught:
            await client.subscribe(flashbulb.ImageToImage(image_url=b"nonsense", **given))
    assert caught.value.metadata["field"] == "image_url"
    assert [v.field for v in caught.value.violations] == ["image_url"]
    assert distance(first.images[0].content, path.images[0].content) <= 1
    assert all(result.images[0].width == 128 for result in (first, path, pillow, chained))


async def test_the_link_of_a_picture_is_a_picture_of_the_same_key(me: Caller) -> None:
    request = await me.submit(apple(sync_mode=False))
    url = (await me.output(request.request_id)).images[0].url
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        assert (await http.get(url)).status_code == 200  # it works, although the worker reaches no private address
    assert (await me.generate(pear(Source(uri=url)))).images[0].content


async def test_private_addresses_where_the_operator_allows_them(unsteady: Caller) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + disc())
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://localhost:{web.sockets[0].getsockname()[1]}/a.png"
    async with web:
        fetched = await unsteady.generate(pear(Source(uri=url)))
        inline = await unsteady.generate(pear(Source(content=disc())))
        other = await unsteady.generate(pear(Source(content=right_half())))
        assert distance(fetched.images[0].content, inline.images[0].content) <= 1
        assert distance(fetched.images[0].content, other.images[0].content) > 1, "it is drawn of what was fetched"
        assert fetched.resolved_input.fast_lcm_image_to_image.image_url.uri == url


async def test_a_caller_who_leaves_while_his_picture_is_fetched(unsteady: Caller) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # ends when the worker hangs up
        left.set()
        writer.close()

    web = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{web.sockets[0].getsockname()[1]}/a.png"
    async with web:
        stream = unsteady.streaming(pear(Source(uri=url)))
        async with asyncio.timeout(10):
            await asked.wait()
            stream.cancel()
            await left.wait()
