"""The server around the calls: health, reflection, channelz, the catalog, and what is not built yet."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from flashbulb.v1 import input_pb2, model_pb2
from tests.driving import Caller, refusal
from tests.service import RunningService, apple, auth

SERVICES = {f"flashbulb.v1.{name}Service" for name in ("Generation", "Queue", "Storage", "Model", "Realtime")}
ENDPOINTS = [
    "fast-lcm-diffusion",
    "fast-lcm-diffusion/image-to-image",
    "fast-lcm-diffusion/inpainting",
    "flux-lora",
    "flux-lora/image-to-image",
    "flux-lora/inpainting",
    "omnigen-v1",
    "stable-diffusion-v15",
]


@pytest.mark.parametrize("name", ["", *sorted(SERVICES)])
async def test_health_needs_no_key(me: Caller, name: str) -> None:
    health = health_pb2_grpc.HealthStub(me.call.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=5)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_the_health_of_an_unknown_service(me: Caller) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(me.call.channel).Check(health_pb2.HealthCheckRequest(service="none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_names_every_service_and_describes_the_contract(me: Caller) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(me.call.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="flashbulb.v1.QueueService"),
    ]
    answers = [a async for a in reflection.ServerReflectionInfo(iter(asked), metadata=auth(me.key), timeout=5)]
    named = {service.name for service in answers[0].list_services_response.service}
    assert named >= SERVICES | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    files = answers[1].file_descriptor_response.file_descriptor_proto
    assert any(b"WatchStatus" in file for file in files)


async def test_reflection_and_channelz_need_a_key(me: Caller) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(me.call.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    channelz = channelz_pb2_grpc.ChannelzStub(me.call.channel)
    for call in (
        reflection.ServerReflectionInfo(iter([asked]), timeout=5),
        channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=5),
    ):
        error = await refusal(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_MISSING")


async def test_channelz_counts_calls(me: Caller) -> None:
    channelz = channelz_pb2_grpc.ChannelzStub(me.call.channel)

    async def succeeded() -> int:
        answer = await channelz.GetServers(channelz_pb2.GetServersRequest(), metadata=auth(me.key), timeout=5)
        return sum(server.data.calls_succeeded for server in answer.server)

    before = await succeeded()
    for _ in range(3):
        await me.page()
    assert await succeeded() >= before + 4


async def test_an_unknown_method(me: Caller) -> None:
    send = me.call.channel.unary_unary("/flashbulb.v1.QueueService/Explode")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(b"", metadata=auth(me.key), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_catalog_is_complete(me: Caller) -> None:
    listed = await me.call.models.ListEndpoints(model_pb2.ListEndpointsRequest(), metadata=auth(me.key), timeout=5)
    assert [endpoint.endpoint for endpoint in listed.endpoints] == ENDPOINTS
    members = input_pb2.GenerationInput.DESCRIPTOR.fields_by_name
    assert {endpoint.input_field for endpoint in listed.endpoints} == set(members)
    for endpoint in listed.endpoints:
        message = members[endpoint.input_field].message_type
        assert [field.name for field in endpoint.fields] and endpoint.description
        assert {field.name for field in endpoint.fields} == set(message.fields_by_name), endpoint.endpoint
        assert endpoint.models == (["flashbulb/tiny"] if endpoint.endpoint in ENDPOINTS[:3] else [])
        assert endpoint.default_model == ("flashbulb/tiny" if endpoint.models else "")
    fields = {field.name: field for field in listed.endpoints[0].fields}
    steps = fields["num_inference_steps"]
    assert (json.loads(steps.default_json), steps.minimum, steps.maximum) == (6, 1, 32)
    assert [name for name, field in fields.items() if field.required] == ["prompt"]
    assert json.loads(fields["sync_mode"].default_json) is True
    assert list(fields["format"].choices) == ["jpeg", "png"]


async def test_the_installed_models(me: Caller) -> None:
    async def models(endpoint: str) -> list[model_pb2.Model]:
        request = model_pb2.ListModelsRequest(endpoint=endpoint)
        return list((await me.call.models.ListModels(request, metadata=auth(me.key), timeout=5)).models)

    (tiny,) = await models("")
    assert (tiny.name, list(tiny.endpoints), tiny.live_workers) == ("flashbulb/tiny", ENDPOINTS[:3], 1)
    assert (tiny.native_size, tiny.resamples, tiny.safe_by_construction) == (128, True, True)
    assert tiny.max_image_pixels >= 1024 * 1024 and tiny.backend
    assert await models("fast-lcm-diffusion") == [tiny]
    assert await models("flux-lora") == []


async def test_two_hundred_calls_at_once_on_one_connection(me: Caller) -> None:
    submitted = await asyncio.gather(*(me.submit(apple(num_inference_steps=1, sync_mode=False)) for _ in range(200)))
    assert len({request.request_id for request in submitted}) == 200
    assert len(await me.listed()) == 200
    await asyncio.gather(*(me.cancel(request.request_id) for request in submitted))


async def test_logs_hold_no_prompt_and_no_secret(service: RunningService, me: Caller) -> None:
    given = apple(prompt="a very particular heirloom tomato")
    await me.generate(given)
    await me.ended((await me.submit(given)).request_id)
    text = service.log.read_text()
    assert "heirloom" not in text
    assert me.key.partition(":")[2] not in text
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {"api", "worker", "serve"} <= {record["role"] for record in records}
