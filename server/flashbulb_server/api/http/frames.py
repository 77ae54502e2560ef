"""Frames of a realtime socket, as fal's clients write and read them. Sans IO: values in, values out.

1. A binary frame is a msgpack map, a text frame is JSON. A frame is answered in its own kind; everything that is no picture is JSON.
2. A picture in a binary frame is `content` (bytes) without `url`: clients that know both take the `url`. In a text frame it is a data URI.
3. Frames carry no number. They are numbered here, and what answers them names their `request_id`, if they had one.
4. A frame carries the whole input: what it leaves out is the endpoint's default again. The seed is one for the session, so that pictures
   do not flicker. With `incremental`, a frame carries what changed, as in a session over gRPC; null takes a field back to its default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgpack

from flashbulb_server.api.http.inputs import given_fields
from flashbulb_server.api.session_messages import (
    Closed,
    CloseReason,
    Dropped,
    InputFrame,
    Opened,
    Outgoing,
    Picture,
    Pong,
)
from flashbulb_server.core.catalog import ENDPOINTS
from flashbulb_server.core.fields import MAX_LABEL_CHARS
from flashbulb_server.core.generation import DrawnImage, GenerationResult, GenerationSpec, PreviewImage
from flashbulb_server.errors import FieldViolation, FlashbulbError, InvalidRequest
from flashbulb_server.wire.fal import data_uri, error_json, output_json
from flashbulb_server.wire.outputs import from_output

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""An inline picture of 10 MiB fits, as a data URI too. What is larger is uploaded and named by its link."""
IDLE = "no inputs, reconnect when needed!"
_BYTES_FIELDS: Mapping[str, str] = {"image_bytes": "image_url", "mask_bytes": "mask_url"}

Frame = bytes | str


@dataclass(frozen=True, slots=True)
class _Question:
    """What must be known of a frame when it is answered."""

    request_id: str
    text: bool


class Frames:
    """The frames of one connection.

    `seed`: of frames that bring none. `incremental`: a frame changes what it names and leaves the rest as it was. `link`: where the caller
    reaches a picture that is not sent inline. `after`: the numbers of frames are larger.
    """

    def __init__(
        self, endpoint: str, *, seed: int, incremental: bool = False, link: Callable[[DrawnImage], str], after: int = 0
    ) -> None:
        self._endpoint = ENDPOINTS[endpoint]
        self._defaults: dict[str, object] = {field.name: None for field in self._endpoint.fields}
        self._defaults["seed"] = seed
        self._incremental = incremental
        self._link = link
        self._open: dict[int, _Question] = {}  # every frame is answered once, and few wait
        self._last = after
        self._text = False
        self._asked_model = ""

    def read(self, frame: Frame) -> InputFrame:
        """The frame, numbered. One that cannot be read is answered, too."""
        self._last += 1
        self._text = isinstance(frame, str)
        question = _Question("", self._text)
        try:
            given = parse(frame)
            question = _Question(_label(given), question.text)
            fields = self._fields(given)
        except InvalidRequest as err:
            return InputFrame(self._last, None, {}, err)
        finally:
            self._open[self._last] = question
        return InputFrame(self._last, self._endpoint.id, fields)

    def write(self, message: Outgoing) -> list[Frame]:
        """What is sent for a message of the session, in order."""
        match message:
            case Picture():
                question = self._answered(message.frame_id)
                result = from_output(message.output)
                timing = _event("timings", timing=round(message.age, 4))
                return [*self._stand_in(result.spec), self._picture(result, question), timing]
            case Dropped():
                question = self._answered(message.frame_id)
                if message.error is not None:
                    return [error_frame(message.error, request_id=question.request_id)]
                return [_event("dropped", request_id=question.request_id, reason=message.reason.value)]
            case PreviewImage():
                url = data_uri(message.content, "image/jpeg")
                return [_event("preview", url=url, step=message.step, image_index=message.image_index)]
            case Opened() if self._incremental:
                return [_event("opened", session_id=message.session_id, resume_token=message.resume_token)]
            case Pong() if self._incremental:
                return [_event("heartbeat")]
            case Closed():
                return _farewell(message)
        return []

    def _answered(self, frame_id: int) -> _Question:
        """What was asked. A frame that another connection brought, before the session was resumed, is answered in the kind spoken here."""
        return self._open.pop(frame_id, None) or _Question("", self._text)

    def _fields(self, given: Mapping[str, object]) -> dict[str, object]:
        bytes_given = {
            _BYTES_FIELDS.get(name, name): value for name, value in given.items() if isinstance(value, bytes)
        }
        fields = given_fields(self._endpoint, {**given, **bytes_given})
        known = {field.name for field in self._endpoint.fields}
        if self._incremental:
            reset = {name: self._defaults[name] for name, value in given.items() if value is None and name in known}
            return fields | reset
        return {**self._defaults, **fields}

    def _stand_in(self, spec: GenerationSpec) -> list[Frame]:
        """Once: that another model draws than the one that was asked for."""
        if spec.asked_model == self._asked_model:
            return []
        self._asked_model = spec.asked_model
        return [_event("stand_in", asked=spec.asked_model, drawn_by=spec.model_name)] if spec.asked_model else []

    def _picture(self, result: GenerationResult, question: _Question) -> Frame:
        images = [self._image(image, text=question.text) for image in result.images]
        answer = output_json(replace(result, images=())) | {"images": images}
        return _json(answer) if question.text else bytes(msgpack.packb(answer))

    def _image(self, image: DrawnImage, *, text: bool) -> dict[str, object]:
        shown: dict[str, object] = {"content_type": image.content_type, "width": image.width, "height": image.height}
        if not image.content:  # too large to travel inline
            return {"url": self._link(image), **shown}
        if text:
            return {"url": data_uri(image.content, image.content_type), **shown}
        return {"content": image.content, **shown}


def parse(frame: Frame) -> dict[str, object]:
    """The map in a frame. Raises InvalidRequest."""
    if len(frame) > MAX_FRAME_BYTES:
        problem = (
            f"has {len(frame)} bytes, at most {MAX_FRAME_BYTES} are allowed; upload the file and name it by its link"
        )
        raise _bad(problem)
    try:
        value = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame, raw=False)
    except (ValueError, RecursionError, msgpack.UnpackException) as err:
        kind = "text frame is not valid JSON" if isinstance(frame, str) else "binary frame is not valid msgpack"
        raise _bad(f"the {kind}") from err
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _bad("must be a map of an input's fields")
    return value


def error_frame(error: FlashbulbError, *, request_id: str = "") -> str:
    """The JSON of an error, which leaves the connection usable."""
    _, body = error_json(error)
    return _json(
        {"type": "x-fal-error", "error": error.reason, "reason": error.message, **_labelled(request_id), **body}
    )


def unauthorized(reason: str) -> list[Frame]:
    """What a caller without a good key or token is told: the reason for people, then what makes clients fetch a new token."""
    return [refusal_frame("UNAUTHORIZED", reason), _json({"status": "error", "error": "Unauthorized"})]


def refusal_frame(code: str, reason: str) -> str:
    """The JSON of an error that is none of the use-cases'."""
    return _json({"type": "x-fal-error", "error": code, "reason": reason})


def fault_frame() -> str:
    """The JSON of an error that nobody expected: the caller learns nothing of it."""
    return refusal_frame("INTERNAL_ERROR", "a fault of the server")


def _farewell(closed: Closed) -> list[Frame]:
    match closed.reason:
        case CloseReason.IDLE:
            return [refusal_frame("TIMEOUT", IDLE)]
        case CloseReason.NO_WORKER | CloseReason.TOKEN_EXPIRED:
            return [refusal_frame(closed.reason.value, closed.message)]
        case _:
            return [_event("closing", reason=closed.reason.value, message=closed.message)]


def _event(action: str, **values: object) -> str:
    """A message that fal's clients skip."""
    return _json({"type": "x-fal-message", "action": action, **values})


def _labelled(request_id: str) -> dict[str, object]:
    return {"request_id": request_id} if request_id else {}


def _label(given: Mapping[str, object]) -> str:
    """The `request_id` of a frame, if it is one that can be given back whatever else is wrong with the frame."""
    label = given.get("request_id")
    return label if isinstance(label, str) and len(label) <= MAX_LABEL_CHARS else ""


def _bad(problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation("frame", problem)])


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
