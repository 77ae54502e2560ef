"""The example of the hosted model's page on a fresh service: every client gets a picture, and is told which model drew it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import msgpack
import pytest
from PIL import Image
from websockets.asyncio.client import connect

from flashbulb.v1 import generation_pb2, input_pb2, model_pb2, queue_pb2, realtime_pb2
from flashbulb_server.core.catalog import ENDPOINTS
from tests.driving import SECONDS, Caller, refusal
from tests.gateway import LCM, Fal, picture
from tests.hosted import ASKED, BODY, DREW, EXAMPLE, SAID
from tests.service import KEY, RunningService, auth, stubs
from tests.whole_inputs import in_protobuf

HEADER = "x-flashbulb-stand-in"
MESSAGE = in_protobuf(ENDPOINTS["fast-lcm-diffusion"], EXAMPLE)
SMALL = {**EXAMPLE, "image_size": {"width": 128, "height": 128}, "num_inference_steps": 2}
PROGRAM = Path(sys.executable).with_name("flashbulb")


def asked_for(output: generation_pb2.GenerationOutput) -> str:
    """The model that the echoed input names."""
    return output.resolved_input.fast_lcm_text_to_image.model_name


async def trailing(call: grpc.aio.Call) -> dict[str, str]:
    return {name: str(value) for name, value in await call.trailing_metadata()}


def test_curl(service: RunningService) -> None:
    url = f"http://{service.http_address}/run/{LCM}"
    command = (
        "curl",
        "--silent",
        "--show-error",
        "--include",
        "--header",
        f"Authorization: Key {KEY}",
        "--data",
        BODY,
        url,
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200") and f"{HEADER}: {SAID}" in head.splitlines()
    answer = json.loads(body)
    assert picture(answer["images"][0]).size == (1024, 1024)
    assert (answer["model_name"], answer["prompt"]) == (DREW, EXAMPLE["prompt"])


async def test_grpc(me: Caller) -> None:
    call = me.call.generation.Generate(generation_pb2.GenerateRequest(input=MESSAGE), metadata=auth(me.key), timeout=60)
    output = (await call).output
    assert Image.open(io.BytesIO(output.images[0].content)).size == (1024, 1024)
    assert (output.model_name, asked_for(output)) == (DREW, ASKED)
    assert (await trailing(call))[HEADER] == SAID


async def test_grpc_stream(me: Caller) -> None:
    stream = me.streaming(MESSAGE)
    *_, last = [event async for event in stream]
    assert (last.output.model_name, asked_for(last.output)) == (DREW, ASKED)
    assert (await trailing(stream))[HEADER] == SAID


async def test_the_queue_over_grpc(me: Caller, service: RunningService) -> None:
    call = me.call.queue.Submit(queue_pb2.SubmitRequest(input=MESSAGE), metadata=auth(me.key), timeout=SECONDS)
    request = (await call).request
    assert request.model_name == DREW
    assert (await trailing(call))[HEADER] == SAID
    output = await me.output(request.request_id)
    assert (output.model_name, asked_for(output)) == (DREW, ASKED)
    wanted = queue_pb2.GetResultRequest(request_id=request.request_id)
    call = me.call.queue.GetResult(wanted, metadata=auth(me.key), timeout=SECONDS)
    await call
    assert (await trailing(call))[HEADER] == SAID
    lines = (await me.status(request.request_id, include_logs=True)).logs
    assert [line.message for line in lines if "stand-in" in line.message] == [
        f"{ASKED} is not installed here: {DREW} draws, as a stand-in"
    ]
    logged = [json.loads(line) for line in service.log.read_text().splitlines() if request.request_id in line]
    assert [line for line in logged if (line.get("asked"), line.get("drawn_by")) == (ASKED, DREW)]


async def test_the_queue_over_http(fal: Fal) -> None:
    submitted = await fal.submit(EXAMPLE)
    assert submitted.status_code == 200 and submitted.headers[HEADER] == SAID
    await fal.ended(submitted.json())
    answer = await fal.http.get(submitted.json()["response_url"])
    assert answer.headers[HEADER] == SAID
    assert (answer.json()["model_name"], picture(answer.json()["images"][0]).size) == (DREW, (1024, 1024))


async def test_a_stream_over_http(fal: Fal) -> None:
    async with fal.http.stream("POST", f"/run/{LCM}/stream", json=EXAMPLE) as answer:
        assert answer.status_code == 200 and answer.headers[HEADER] == SAID
        assert f'"model_name":"{DREW}"' in (await answer.aread()).decode()


@pytest.mark.parametrize("command", [["generate"], ["generate", "--direct"]])
def test_the_command(service: RunningService, tmp_path: Path, command: list[str]) -> None:
    options = {
        "--model": EXAMPLE["model_name"],
        "--negative-prompt": EXAMPLE["negative_prompt"],
        "--size": EXAMPLE["image_size"],
        "--steps": EXAMPLE["num_inference_steps"],
        "--guidance-scale": EXAMPLE["guidance_scale"],
        "--num-images": EXAMPLE["num_images"],
        "--safety-checker-version": EXAMPLE["safety_checker_version"],
        "--format": EXAMPLE["format"],
        "--output": tmp_path / "cyborg.jpeg",
    }
    flags = ["--sync-mode", "--safety-checker", *(str(part) for pair in options.items() for part in pair)]
    environment = {"FLASHBULB_KEY": KEY, "FLASHBULB_HOST": service.address}
    done = subprocess.run(
        [PROGRAM, *command, EXAMPLE["prompt"], *flags], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "cyborg.jpeg") as saved:
        assert saved.size == (1024, 1024)
    assert DREW in done.stdout
    assert f"{ASKED} is not installed there: {DREW} drew instead, as a stand-in" in done.stderr


async def test_a_session_over_grpc(me: Caller) -> None:
    message = in_protobuf(ENDPOINTS["fast-lcm-diffusion"], SMALL)

    async def words():
        yield realtime_pb2.ConnectRequest(open={"defaults": message})
        changes = input_pb2.GenerationInput(fast_lcm_text_to_image={"seed": 8})
        yield realtime_pb2.ConnectRequest(frame={"frame_id": 1, "changes": changes})

    stream = me.call.realtime.Connect(words(), metadata=auth(me.key), timeout=SECONDS)
    heard = [response async for response in stream]
    opened = heard[0].opened
    assert (opened.model_name, opened.resolved_defaults.fast_lcm_text_to_image.model_name) == (DREW, ASKED)
    (frame,) = [response.frame for response in heard if response.WhichOneof("message") == "frame"]
    assert frame.model_name == DREW
    assert (await trailing(stream))[HEADER] == SAID


async def test_a_session_over_a_socket(service: RunningService) -> None:
    address = f"ws://{service.http_address}/run/{LCM}/realtime"
    async with connect(address, additional_headers={"authorization": f"Key {KEY}"}) as socket:
        told, pictures = [], []
        for seed in (1, 2):
            await socket.send(msgpack.packb({**SMALL, "seed": seed}))
            while len(pictures) < seed:
                frame = await socket.recv()
                (told if isinstance(frame, str) else pictures).append(
                    json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
                )
    assert [answer["model_name"] for answer in pictures] == [DREW, DREW]
    stand_ins = [message for message in told if message.get("action") == "stand_in"]
    assert stand_ins == [{"type": "x-fal-message", "action": "stand_in", "asked": ASKED, "drawn_by": DREW}], "once"


async def test_the_other_hosted_name_and_the_other_endpoints(fal: Fal) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(file, "PNG")
    pixel = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    given = {**SMALL, "model_name": "runwayml/stable-diffusion-v1-5", "image_url": pixel, "mask_url": pixel}
    for endpoint in (LCM, f"{LCM}/image-to-image", f"{LCM}/inpainting"):
        answer = await fal.run(given, endpoint)
        assert answer.headers[HEADER] == f"runwayml/stable-diffusion-v1-5 drawn by {DREW}", answer.text
        assert answer.json()["model_name"] == DREW


async def test_only_hosted_names_are_stood_in_for(me: Caller, fal: Fal) -> None:
    answer = await fal.run({**SMALL, "model_name": "no/model"})
    assert answer.status_code == 422 and HEADER not in answer.headers
    plain = await fal.run({name: value for name, value in SMALL.items() if name != "model_name"})
    assert plain.status_code == 200 and HEADER not in plain.headers, "who names no model is given the service's own"
    for endpoint in ("flux-lora", "omnigen-v1", "stable-diffusion-v15"):
        refused = await refusal(me.generate(in_protobuf(ENDPOINTS[endpoint], {"prompt": "x"})))
        assert refused.reason == "ENDPOINT_UNAVAILABLE"


async def test_models_say_for_which_they_stand_in(me: Caller) -> None:
    listed = await me.call.models.ListModels(model_pb2.ListModelsRequest(), metadata=auth(me.key), timeout=SECONDS)
    (tiny,) = [model for model in listed.models if model.name == DREW]
    assert list(tiny.stands_in_for) == [ASKED, "runwayml/stable-diffusion-v1-5"]


async def test_a_setting_turns_it_off(make_service: Callable[..., RunningService]) -> None:
    running = make_service(MODELS__STAND_IN="false")
    async with grpc.aio.insecure_channel(running.address) as channel:
        refused = await refusal(Caller(stubs(channel), KEY).generate(MESSAGE))
    assert refused.fields == ["model_name"] and "is not installed; installed: flashbulb/tiny" in refused.message
    headers = {"authorization": f"Key {KEY}"}
    async with httpx.AsyncClient(base_url=f"http://{running.http_address}", headers=headers, trust_env=False) as http:
        assert (await http.post(f"/run/{LCM}", content=BODY)).status_code == 422
