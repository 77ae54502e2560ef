"""A real gRPC server whose answers are scripted: every expected call with its reply, in order. A call that was not expected, and a
reply that was not used, fail the test.

It serves from threads, not from an event loop, so that the client's loop is the only one of grpc.aio unless a test wants another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from flashbulb.v1 import generation_pb2, image_pb2, input_pb2, model_pb2, queue_pb2, realtime_pb2, storage_pb2

KEY = "demo:secret"
LIMIT = 20.0
State = queue_pb2.GenerationRequest

_SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"],
    queue_pb2.DESCRIPTOR.services_by_name["QueueService"],
    storage_pb2.DESCRIPTOR.services_by_name["StorageService"],
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    realtime_pb2.DESCRIPTOR.services_by_name["RealtimeService"],
)


class Failure(Exception):
    """A reply that is an error."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def failure(
    code: str,
    reason: str = "",
    message: str = "no",
    *,
    metadata: dict[str, str] | None = None,
    retry_after: float | None = None,
    violations: Sequence[tuple[str, str]] = (),
) -> Failure:
    """A reply that is an error with google.rpc details."""
    status = status_pb2.Status(code=getattr(grpc.StatusCode, code).value[0], message=message)
    if reason:
        pack(status, error_details_pb2.ErrorInfo(reason=reason, domain="flashbulb", metadata=metadata or {}))
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if violations:
        bad = error_details_pb2.BadRequest()
        for name, description in violations:
            bad.field_violations.add(field=name, description=description)
        pack(status, bad)
    return Failure(status)


def pack(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


@dataclass
class Call:
    """A call that came: for a client stream `request` is the list of its messages (so far). `ended` is set when the server is rid of it."""

    rpc: str
    request: object
    metadata: dict[str, str]
    time: float
    timeout: float | None
    ended: threading.Event = field(default_factory=threading.Event)


class Hang:
    """A reply that never comes; `reached` is set when a call waits for it."""

    def __init__(self) -> None:
        self.reached = threading.Event()


Reply = Message | Failure | Hang | Callable[..., object] | Sequence[object]


class ScriptedServer:
    """Answers `expect`ed calls in order and records them in `calls`. `max_age_ms`: of connections, which are then ended."""

    def __init__(self, *, max_age_ms: int = 2**31 - 1) -> None:
        self.max_age_ms = max_age_ms
        self.calls: list[Call] = []
        self.unexpected: list[str] = []
        self._script: deque[tuple[str, Reply]] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._server: grpc.Server | None = None
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def expect(self, rpc: str, *replies: Reply) -> None:
        """The next calls, all of one RPC. A reply to a stream is a list of messages, Failures, Hangs and functions.

        One to a stream in both directions is a function of the iterator of requests, which gives such a list; None ends it at once.
        """
        self._script.extend((rpc, reply) for reply in replies)

    def start(self, port: int = 0) -> None:
        options = [("grpc.so_reuseport", 0), ("grpc.max_connection_age_ms", self.max_age_ms)]
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        for service in _SERVICES:
            handlers = {method.name: self._handler(method) for method in service.methods}
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.stop(0).wait(LIMIT)

    def restart(self) -> None:
        """Ends every call and comes back on the same port."""
        self.stop()
        self._stopping.clear()
        self.start(self.port)

    def verify(self) -> None:
        assert not self.unexpected, f"calls that were not expected: {self.unexpected}"
        assert not self._script, f"replies that were not used: {[rpc for rpc, _ in self._script]}"

    def wait_for(self, rpc: str) -> Call:
        """The first call of an RPC, once it came."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(c.rpc == rpc for c in self.calls), LIMIT), f"no call of {rpc}"
        return next(c for c in self.calls if c.rpc == rpc)

    def requests(self, rpc: str) -> list:
        return [call.request for call in self.calls if call.rpc == rpc]

    def _handler(self, method) -> grpc.RpcMethodHandler:
        makers = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._converse),
        }
        make, serve = makers[method.client_streaming, method.server_streaming]
        request_class = method.input_type._concrete_class

        def handle(request, context):
            whole = method.client_streaming and not method.server_streaming
            return serve(method.name, list(request) if whole else request, context)

        return make(
            handle, request_deserializer=request_class.FromString, response_serializer=lambda m: m.SerializeToString()
        )

    def _take(self, rpc: str, request: object, context: grpc.ServicerContext) -> tuple[Call, Reply]:
        call = Call(rpc, request, dict(context.invocation_metadata()), time.monotonic(), context.time_remaining())
        context.add_callback(call.ended.set)
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
            if not self._script or self._script[0][0] != rpc:
                self.unexpected.append(rpc)
                return call, failure("INTERNAL", "INTERNAL", f"{rpc} was not expected")
            return call, self._script.popleft()[1]

    def _unary(self, rpc: str, request: object, context: grpc.ServicerContext) -> object:
        call, reply = self._take(rpc, request, context)
        answer = reply(request) if callable(reply) else reply
        return self._answer(call, answer, context)

    def _stream(self, rpc: str, request: object, context: grpc.ServicerContext) -> Iterator[object]:
        call, reply = self._take(rpc, request, context)
        for item in [reply] if isinstance(reply, Failure | Hang) else reply:
            item = item() if callable(item) else item
            if item is not None:
                yield self._answer(call, item, context)

    def _converse(self, rpc: str, requests: Iterator[Message], context: grpc.ServicerContext) -> Iterator[object]:
        seen: list[Message] = []
        call, reply = self._take(rpc, seen, context)

        def recorded() -> Iterator[Message]:
            for request in requests:
                seen.append(request)
                yield request

        if isinstance(reply, Failure | Hang):
            next(recorded(), None)  # a status that comes while the client writes is lost (grpc/grpc#36066)
            reply = [reply]
        else:
            reply = reply(recorded())
        for item in reply:
            if item is None:
                return
            yield self._answer(call, item, context)

    def _answer(self, call: Call, answer: object, context: grpc.ServicerContext) -> object:
        if isinstance(answer, Failure):
            context.abort_with_status(rpc_status.to_status(answer.status))
        if isinstance(answer, Hang):
            answer.reached.set()
            while not call.ended.wait(0.02) and not self._stopping.is_set():
                pass
            context.abort(grpc.StatusCode.CANCELLED, "hung")
        return answer


def request(
    request_id: str = "r1", state: int = State.STATE_QUEUED, *, endpoint: str = "fast-lcm-diffusion", **values: object
) -> queue_pb2.GenerationRequest:
    """A request as the server sends it."""
    return queue_pb2.GenerationRequest(request_id=request_id, state=state, endpoint=endpoint, attempt=1, **values)


def submitted(request_id: str = "r1", **values: object) -> queue_pb2.SubmitResponse:
    return queue_pb2.SubmitResponse(request=request(request_id), **values)


def changed(sequence: int, state: int, **values: object) -> queue_pb2.WatchStatusResponse:
    """An event: another state or place."""
    return queue_pb2.WatchStatusResponse(sequence=sequence, request=request(state=state, **values))


def stepped(sequence: int, step: int, total: int = 4) -> queue_pb2.WatchStatusResponse:
    """An event: a step."""
    progress = generation_pb2.StepProgress(step=step, total_steps=total)
    return queue_pb2.WatchStatusResponse(sequence=sequence, progress=progress)


def output(
    count: int = 1, *, content: bytes = b"jpeg", url: str = "http://127.0.0.1:9/p.jpeg"
) -> generation_pb2.GenerationOutput:
    """The pictures of a request, 512 x 512 drawn at 64 x 64."""
    images = [
        image_pb2.Image(
            url=url,
            content=content,
            content_type="image/jpeg",
            width=512,
            height=512,
            native_width=64,
            native_height=64,
            size_bytes=len(content),
            seed=7 + index,
        )
        for index in range(count)
    ]
    resolved = input_pb2.GenerationInput()
    resolved.fast_lcm_text_to_image.prompt = "a red apple"
    resolved.fast_lcm_text_to_image.seed = 7
    return generation_pb2.GenerationOutput(
        images=images,
        seed=7,
        prompt="a red apple",
        has_nsfw_concepts=[False] * count,
        timings={"inference": 0.25, "wait": 0.01},
        resolved_input=resolved,
        fidelity=generation_pb2.FIDELITY_EXACT,
        mean_batch_size=1.5,
        request_id="mine",
        model_name="flashbulb/tiny",
        backend="torch cpu float32",
    )


def opened(session_id: str = "s1", resume_token: str = "again") -> realtime_pb2.ConnectResponse:
    """The session is open."""
    message = realtime_pb2.SessionOpened(session_id=session_id, resume_token=resume_token)
    message.idle_timeout.seconds = 60
    message.resolved_defaults.fast_lcm_text_to_image.seed = 7
    return realtime_pb2.ConnectResponse(sequence=1, opened=message)


def drawn(frame: realtime_pb2.InputFrame, *, superseded: int = 0, content: bytes = b"") -> realtime_pb2.ConnectResponse:
    """The picture of a frame; its bytes are the frame's prompt."""
    changes = getattr(frame.changes, frame.changes.WhichOneof("input") or "fast_lcm_text_to_image")
    picture = image_pb2.Image(
        content=content or changes.prompt.encode(), content_type="image/jpeg", width=64, height=64
    )
    message = realtime_pb2.OutputFrame(
        frame_id=frame.frame_id,
        images=[picture],
        seed=changes.seed,
        timings={"denoise": 0.02},
        superseded_frames=superseded,
        has_nsfw_concepts=[False],
        fidelity=generation_pb2.FIDELITY_CLOSE,
        model_name="flashbulb/tiny",
    )
    message.age.FromMilliseconds(25)
    return realtime_pb2.ConnectResponse(frame=message)


def not_drawn(number: int, reason: str, step: int = 0, error: Failure | None = None) -> realtime_pb2.ConnectResponse:
    """A frame was dropped."""
    message = realtime_pb2.DroppedFrame(frame_id=number, reason=f"DROP_REASON_{reason}", stopped_at_step=step)
    if error is not None:
        message.error.CopyFrom(error.status)
    return realtime_pb2.ConnectResponse(dropped=message)


def closed(reason: str, retry_delay: float | None = None) -> realtime_pb2.ConnectResponse:
    """The session ends."""
    message = realtime_pb2.SessionClosed(reason=f"CLOSE_REASON_{reason}", message=f"because {reason}")
    if retry_delay is not None:
        message.retry_delay.FromNanoseconds(round(retry_delay * 1e9))
    return realtime_pb2.ConnectResponse(closed=message)


def drawing(requests: Iterator[realtime_pb2.ConnectRequest]) -> Iterator[object]:
    """A session that draws every frame."""
    next(requests)
    yield opened()
    for request in requests:
        if request.WhichOneof("message") == "frame":
            yield drawn(request.frame)
    yield closed("CLIENT")


def finished(request_id: str = "r1", count: int = 1, **values: object) -> queue_pb2.GetResultResponse:
    return queue_pb2.GetResultResponse(request_id=request_id, output=output(count, **values))
