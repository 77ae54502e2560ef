"""Messages of RealtimeService between protobuf and the use-case's values."""

from __future__ import annotations

from collections.abc import Mapping

from google.rpc import status_pb2

from flashbulb.v1 import realtime_pb2
from flashbulb_server.api.session_messages import (
    Ack,
    Closed,
    Dropped,
    Incoming,
    InputFrame,
    Opened,
    Opening,
    Outgoing,
    Picture,
    Ping,
    Pong,
    option_problems,
)
from flashbulb_server.core.fields import MAX_SEED
from flashbulb_server.core.generation import PreviewImage
from flashbulb_server.core.realtime import FramePolicy
from flashbulb_server.errors import FieldViolation, InvalidRequest
from flashbulb_server.wire.inputs import given_fields, to_input
from flashbulb_server.wire.outputs import to_preview
from flashbulb_server.wire.status import to_status
from flashbulb_server.wire.times import to_duration, to_timestamp

DEFAULT_WAITING = 16
MAX_WAITING = 60
MIN_FPS, MAX_FPS = 0.1, 120.0
MAX_FRAME_ID = MAX_SEED
_POLICIES: Mapping[int, FramePolicy] = {
    realtime_pb2.FRAME_POLICY_UNSPECIFIED: FramePolicy.NEWEST,
    realtime_pb2.FRAME_POLICY_NEWEST: FramePolicy.NEWEST,
    realtime_pb2.FRAME_POLICY_ALL: FramePolicy.ALL,
}


def to_opening(message: realtime_pb2.ConnectRequest) -> Opening:
    """How a caller wants its session. Raises InvalidRequest if it is no opening, or names no endpoint."""
    if message.WhichOneof("message") != "open":
        raise InvalidRequest([FieldViolation("open", "must be the first message of a session")])
    wish = message.open
    endpoint, values = given_fields(wish.defaults)
    problems: list[FieldViolation] = []
    if wish.HasField("max_fps") and not MIN_FPS <= wish.max_fps <= MAX_FPS:
        problems.append(FieldViolation("max_fps", f"must be from {MIN_FPS:g} to {MAX_FPS:g}"))
    if wish.frame_policy not in _POLICIES:
        problems.append(FieldViolation("frame_policy", f"{wish.frame_policy} is not a value that this server knows"))
    if not 0 <= wish.max_waiting_frames <= MAX_WAITING:
        problems.append(FieldViolation("max_waiting_frames", f"must be from 1 to {MAX_WAITING}"))
    in_flight = wish.max_frames_in_flight or 1
    threshold = wish.similar_image_threshold if wish.HasField("similar_image_threshold") else None
    problems += option_problems(endpoint, in_flight, threshold)
    return Opening(
        endpoint=endpoint,
        values=values,
        problems=tuple(problems),
        max_fps=wish.max_fps if wish.HasField("max_fps") else None,
        policy=_POLICIES.get(wish.frame_policy, FramePolicy.NEWEST),
        max_waiting=wish.max_waiting_frames or DEFAULT_WAITING,
        previews=wish.include_previews,
        resume_token=wish.resume_token,
        max_in_flight=in_flight,
        similar_threshold=threshold,
    )


def to_incoming(message: realtime_pb2.ConnectRequest) -> Incoming:
    """A later message. Raises InvalidRequest for one that cannot be answered by a dropped frame."""
    match message.WhichOneof("message"):
        case "frame":
            frame = message.frame
            try:
                if not 1 <= frame.frame_id <= MAX_FRAME_ID:
                    raise InvalidRequest([FieldViolation("frame_id", f"must be from 1 to {MAX_FRAME_ID}")])
                if not frame.HasField("changes"):
                    return InputFrame(frame.frame_id, None, {})
                return InputFrame(frame.frame_id, *given_fields(frame.changes))
            except InvalidRequest as err:
                return InputFrame(frame.frame_id, None, {}, err)
        case "ack":
            return Ack(message.ack.frame_id)
        case "ping":
            return Ping(message.ping.nonce)
        case "open":
            raise InvalidRequest([FieldViolation("open", "must be the first message only")])
        case _:
            raise InvalidRequest([FieldViolation("message", "must be set, and be known to this server")])


def from_outgoing(message: Outgoing, sequence: int, now: float) -> realtime_pb2.ConnectResponse:
    """A message of the session. `now` in unix seconds."""
    response = realtime_pb2.ConnectResponse(sequence=sequence)
    match message:
        case Opened():
            response.opened.CopyFrom(_opened(message))
        case Picture():
            response.frame.CopyFrom(_picture(message))
        case Dropped():
            response.dropped.CopyFrom(_dropped(message))
        case PreviewImage():
            response.preview.CopyFrom(to_preview(message))
        case Pong():
            response.pong.CopyFrom(realtime_pb2.Pong(nonce=message.nonce, server_time=to_timestamp(now)))
        case Closed():
            response.closed.CopyFrom(_closed(message))
    return response


def _opened(message: Opened) -> realtime_pb2.SessionOpened:
    return realtime_pb2.SessionOpened(
        session_id=message.session_id,
        resume_token=message.resume_token,
        resolved_defaults=None if message.defaults is None else to_input(message.defaults, echo=True),
        idle_timeout=to_duration(message.idle_seconds),
        model_name="" if message.defaults is None else message.defaults.model_name,
    )


def _picture(message: Picture) -> realtime_pb2.OutputFrame:
    output = message.output
    return realtime_pb2.OutputFrame(
        frame_id=message.frame_id,
        images=output.images,
        seed=output.seed,
        timings=output.timings,
        age=to_duration(message.age),
        superseded_frames=message.superseded,
        has_nsfw_concepts=output.has_nsfw_concepts,
        fidelity=output.fidelity,
        model_name=output.model_name,
        backend=output.backend,
    )


def _dropped(message: Dropped) -> realtime_pb2.DroppedFrame:
    error: status_pb2.Status | None = None if message.error is None else to_status(message.error)
    return realtime_pb2.DroppedFrame(
        frame_id=message.frame_id,
        reason=realtime_pb2.DropReason.Value(f"DROP_REASON_{message.reason}"),
        stopped_at_step=message.step,
        error=error,
    )


def _closed(message: Closed) -> realtime_pb2.SessionClosed:
    return realtime_pb2.SessionClosed(
        reason=realtime_pb2.CloseReason.Value(f"CLOSE_REASON_{message.reason}"),
        message=message.message,
        retry_delay=None if message.retry_after is None else to_duration(message.retry_after),
    )
