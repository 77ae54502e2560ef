"""The client without an event loop does what the other one does, in a thread of its own."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref

import pytest

import flashbulb
from flashbulb import AsyncClient, AsyncHandle, AsyncSession, Client, Handle, Session, State, Stepped
from flashbulb._loop import LoopThread
from flashbulb.v1 import generation_pb2, model_pb2, queue_pb2
from tests.client import scripted
from tests.client.scripted import KEY, LIMIT, Hang, changed, failure, finished, stepped, submitted

RUNNING, SUCCEEDED = scripted.State.STATE_RUNNING, scripted.State.STATE_SUCCEEDED
CANCELLED = queue_pb2.CancelResponse(
    previous_state=RUNNING, request=scripted.request(state=scripted.State.STATE_CANCELLED)
)


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("one", "other"),
    [(AsyncClient, Client), (AsyncHandle, Handle), (AsyncSession, Session)],
    ids=["client", "handle", "session"],
)
def test_both_clients_have_the_same_methods_with_the_same_parameters(one, other):
    assert public(one) == public(other)
    for name in public(one) | ({"__init__"} if one is not AsyncSession else set()):
        if callable(getattr(one, name)):
            expected, found = ([*inspect.signature(getattr(kind, name)).parameters.values()] for kind in (one, other))
            assert [p for p in found if p.name != "client"] == [p for p in expected if p.name != "client"], name
            assert name == "__init__" or not inspect.iscoroutinefunction(getattr(other, name))


def test_subscribe_calls_back_in_the_callers_thread(sync_client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, RUNNING), stepped(1, 1), stepped(2, 4), changed(3, SUCCEEDED)])
    server.expect("GetResult", finished())
    seen = []
    result = sync_client.subscribe(prompt="a", on_update=lambda event: seen.append((event, threading.current_thread())))
    assert [type(event) for event, _ in seen] == [flashbulb.StatusChanged, Stepped, Stepped, flashbulb.StatusChanged]
    assert {thread for _, thread in seen} == {threading.current_thread()}
    assert result.images[0].read() == b"jpeg"


def test_subscribe_needs_no_callback(sync_client, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(3, SUCCEEDED)])
    server.expect("GetResult", finished())
    assert sync_client.subscribe("fast-lcm-diffusion", prompt="a").request_id == "r1"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_callback_that_fails_cancels_the_request(sync_client, server, error):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, RUNNING), Hang()])
    server.expect("Cancel", CANCELLED)

    def fail(event):
        raise error

    with pytest.raises(error):
        sync_client.subscribe(prompt="a", on_update=fail)
    assert server.requests("Cancel")[0].request_id == "r1"


def test_handles_watches_and_lists(sync_client, server):
    server.expect("Submit", submitted("r2", deduplicated=True))
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request("r2", RUNNING)))
    server.expect("WatchStatus", [stepped(1, 1), changed(2, SUCCEEDED)])
    server.expect("GetResult", finished("r2"))
    server.expect("Cancel", CANCELLED)
    server.expect("List", queue_pb2.ListResponse(requests=[scripted.request("r2"), scripted.request("r1")]))
    handle = sync_client.submit(flashbulb.TextToImage("a"))
    assert isinstance(handle, Handle)
    assert (handle.request_id, handle.deduplicated) == ("r2", True)
    assert handle.status().state is State.RUNNING
    assert [event.sequence for event in handle.watch()] == [1, 2]
    assert handle.result().request_id == "r2"
    assert handle.cancel().previous_state is State.RUNNING
    assert [status.request_id for status in sync_client.list()] == ["r2", "r1"]


def test_generate_and_its_stream(sync_client, server):
    server.expect("Generate", generation_pb2.GenerateResponse(output=scripted.output()))
    server.expect("GenerateStream", [generation_pb2.GenerateStreamResponse(output=scripted.output())])
    assert sync_client.generate(prompt="a").seed == 7
    assert [item.seed for item in sync_client.generate_stream(prompt="a")] == [7]


def test_what_the_server_can_draw(sync_client, server):
    model = model_pb2.Model(
        name="flashbulb/tiny", endpoints=["fast-lcm-diffusion"], native_size=64, fidelity=generation_pb2.FIDELITY_EXACT
    )
    endpoint = model_pb2.Endpoint(
        endpoint="fast-lcm-diffusion", models=["flashbulb/tiny"], default_model="flashbulb/tiny"
    )
    endpoint.fields.add(name="num_inference_steps", default_json="6", minimum=1, maximum=32)
    endpoint.fields.add(name="prompt", required=True)
    endpoint.fields.add(name="loras", maximum=16).items.add(name="scale", default_json="1.0", minimum=0, maximum=4)
    server.expect("ListModels", model_pb2.ListModelsResponse(models=[model]))
    server.expect("ListEndpoints", model_pb2.ListEndpointsResponse(endpoints=[endpoint]))
    (found,) = sync_client.models("fast-lcm-diffusion")
    assert (found.name, found.native_size, found.fidelity) == ("flashbulb/tiny", 64, "exact")
    (found,) = sync_client.endpoints()
    assert [(f.name, f.default, f.minimum, f.maximum, f.required) for f in found.fields] == [
        ("num_inference_steps", 6, 1, 32, False),
        ("prompt", None, None, None, True),
        ("loras", None, None, 16, False),
    ]
    assert [(part.name, part.default, part.maximum) for part in found.fields[-1].items] == [("scale", 1.0, 4)]


def test_an_abandoned_iteration_closes_its_stream(sync_client, server):
    server.expect("WatchStatus", [changed(0, RUNNING), Hang()])
    events = sync_client.watch("r1")
    next(events)
    events.close()
    assert server.calls[0].ended.wait(LIMIT)


def test_errors_come_through(sync_client, server):
    server.expect("GetStatus", failure("NOT_FOUND", "REQUEST_NOT_FOUND"))
    with pytest.raises(flashbulb.RequestNotFound):
        sync_client.status("r1")
    with pytest.raises(flashbulb.UnknownField):
        sync_client.subscribe(prompt="a", step=3)


def test_threads_may_share_a_client(sync_client, server):
    server.expect("GetStatus", *[queue_pb2.GetStatusResponse(request=scripted.request())] * 8)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(sync_client.status("r1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(answers) == 8


async def test_both_clients_live_in_one_process(client, sync_client, server, caplog):
    server.expect("GetStatus", *[queue_pb2.GetStatusResponse(request=scripted.request())] * 20)
    for _ in range(10):
        await client.status("r1")
        sync_client.status("r1")
    assert not [record for record in caplog.records if record.name != "asyncio"]


def test_a_closed_client_says_so(server):
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request()))
    client = Client(KEY, server.host)
    client.status("r1")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.status("r1")
    assert not client._thread._thread.is_alive()


async def test_a_closed_client_for_coroutines_says_so(server):
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request()))
    client = AsyncClient(KEY, server.host)
    await client.status("r1")
    await client.close()
    for call in (client.status("r1"), client.generate(prompt="a"), anext(client.watch("r1"))):
        with pytest.raises(RuntimeError, match="closed"):
            await call


def test_a_client_without_calls_has_no_thread():
    client = Client(KEY, "127.0.0.1:1")
    assert client._thread._thread is None
    client.close()


def test_a_forgotten_client_ends_its_thread(server):
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request()))
    client = Client(KEY, server.host)
    client.status("r1")
    thread, alive = client._thread._thread, weakref.ref(client)
    del client
    gc.collect()
    assert alive() is None
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_slow_reader_holds_the_writer():
    made = []

    async def count():
        for number in range(100):
            made.append(number)
            yield number

    async def nothing():
        pass

    thread = LoopThread(nothing)
    numbers = thread.iterate(count)
    assert [next(numbers), next(numbers)] == [0, 1]
    assert len(made) <= 2
    numbers.close()
    thread.close()
