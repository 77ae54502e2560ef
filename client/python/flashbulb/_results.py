"""What the server answers, as frozen values. Times are aware datetimes in UTC, spans are seconds. Knows no protobuf."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from flashbulb._download import download, download_async
from flashbulb._errors import ConfigurationError, FlashbulbError
from flashbulb._inputs import Input

if TYPE_CHECKING:
    import PIL.Image


class State(StrEnum):
    """States of a request."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    """One that this version of the package does not know."""

    @property
    def terminal(self) -> bool:
        """Whether it never changes again.

        >>> [state.value for state in State if state.terminal]
        ['SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED']
        """
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)


@dataclass(frozen=True, slots=True)
class Image:
    """A generated picture: `url` is a link until `url_expire_time`, `content` its bytes if they came with the answer.

    Width and height are pixels; `native_width` and `native_height` are those at which the model drew it. `seed` draws it alone.
    """

    url: str
    content: bytes = field(repr=False)
    content_type: str
    width: int
    height: int
    native_width: int
    native_height: int
    size_bytes: int
    seed: int
    url_expire_time: datetime | None = None

    def read(self) -> bytes:
        """The encoded picture. DownloadFailed if its link does not answer (any more)."""
        return self.content or download(self.url)

    async def aread(self) -> bytes:
        """The encoded picture, for coroutines. DownloadFailed as in `read`."""
        return self.content or await download_async(self.url)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the encoded picture to a file and answers with its path. Errors: those of `read`, OSError."""
        target = Path(path)
        target.write_bytes(self.read())
        return target

    async def asave(self, path: str | os.PathLike[str]) -> Path:
        """Writes the encoded picture to a file, for coroutines. Errors: those of `save`."""
        target = Path(path)
        await asyncio.to_thread(target.write_bytes, await self.aread())
        return target

    def pil(self) -> PIL.Image.Image:
        """The decoded picture. Needs Pillow (`pip install 'flashbulb[images]'`), otherwise ConfigurationError."""
        try:
            import PIL.Image
        except ImportError as error:
            raise ConfigurationError("pil() needs Pillow: pip install 'flashbulb[images]'") from error
        picture = PIL.Image.open(io.BytesIO(self.read()))
        picture.load()
        return picture


@dataclass(frozen=True, slots=True)
class Result:
    """The pictures of one generation and all that is needed to make them again.

    `timings` are seconds by stage. `has_nsfw_concepts` says of every picture whether the safety checker flagged it; such a picture is
    black. `resolved_input` given again draws the same pictures; None for an endpoint that this version of the package does not know.
    `fidelity` is `exact`, `close` or `approx`. `mean_batch_size` is the mean number of pictures that shared a network call with these.
    `request_id` is the queue's, empty for a direct call; `label` is the input's own `request_id`. `model_name` is the model that drew, and
    `backend` what ran its networks; both are empty from a server of an earlier release. `stand_in_for` is the model that was asked for, where
    another one drew in its place.
    """

    images: tuple[Image, ...]
    seed: int
    prompt: str
    has_nsfw_concepts: tuple[bool, ...]
    timings: Mapping[str, float]
    resolved_input: Input | None
    fidelity: str
    mean_batch_size: float
    request_id: str = ""
    label: str = ""
    model_name: str = ""
    backend: str = ""

    @property
    def stand_in_for(self) -> str:
        """The model that was asked for and is not installed there, where another one drew in its place; empty where none did."""
        asked = getattr(self.resolved_input, "model_name", None) or ""
        return asked if self.model_name and asked != self.model_name else ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a request's log. `level` is `debug`, `info`, `warn` or `error`."""

    time: datetime | None
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """A try to deliver a webhook. `status_code` is 0 where no answer came; `error` is empty if it was delivered."""

    time: datetime | None
    status_code: int
    error: str


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """How a webhook fares. `state` is `pending`, `delivered` or `gave_up`; `next_attempt_time` is None unless one is due."""

    url_host: str
    state: str
    attempts: tuple[WebhookAttempt, ...] = ()
    next_attempt_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """A request in the queue.

    `queue_position` counts the requests that will be started before it; None unless QUEUED. `eta` is the expected number of seconds to
    the pictures, None if unknown. `step` of `total_steps` are done. `attempt` counts the workers that started it. `error` says why it
    has no pictures. `webhook` says how its webhook fares, None without one.
    """

    request_id: str
    endpoint: str
    model_name: str
    state: State
    priority: str
    queue_position: int | None = None
    eta: float | None = None
    step: int = 0
    total_steps: int = 0
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    attempt: int = 0
    logs: tuple[LogLine, ...] = ()
    error: FlashbulbError | None = field(default=None, compare=False)
    webhook: WebhookDelivery | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Base of what a watch yields. `sequence` grows within a request; 0 on what is not kept and cannot be resumed from."""

    sequence: int
    time: datetime | None


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """The request is in another state or at another place in the queue. In a terminal state, nothing follows."""

    status: RequestStatus


@dataclass(frozen=True, slots=True)
class Logged(Event):
    """A line was written to the request's log."""

    line: LogLine


@dataclass(frozen=True, slots=True)
class Stepped(Event):
    """A denoising step was finished: `step` of `total_steps`, over all pictures."""

    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class Previewed(Event):
    """A rough picture of what is being drawn: `content` is a small JPEG, taken after `step`."""

    image_index: int
    step: int
    content: bytes = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True)
class CancelReceipt:
    """What a cancellation found and did: a terminal `previous_state` means nothing. Steps are denoising steps."""

    previous_state: State
    status: RequestStatus
    stopped_at_step: int
    saved_steps: int


@dataclass(frozen=True, slots=True)
class File:
    """A stored file: `uri` names it in inputs, `url` is a link to it. It is deleted at `expire_time`."""

    uri: str
    url: str
    content_type: str
    size_bytes: int
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """Installed weights. Sizes in pixels; `resamples`: a larger picture is drawn at `native_size` and resampled up.

    `stands_in_for` are models that are not installed, and for which this one draws when they are asked for.
    """

    name: str
    endpoints: tuple[str, ...]
    native_size: int
    resamples: bool
    max_image_pixels: int
    fidelity: str
    live_workers: int
    safety_checker_versions: tuple[str, ...]
    safe_by_construction: bool
    backend: str
    stands_in_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of an endpoint's input with its limits; `default` is None where there is none or the server chooses.

    `items`, of a list, are the fields that each of its items has.
    """

    name: str
    required: bool
    default: object
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    items: tuple[FieldSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A typed task. `models` are the installed ones that run it, `default_model` the one that runs if an input names none."""

    endpoint: str
    description: str
    input_field: str
    fields: tuple[FieldSpec, ...]
    models: tuple[str, ...]
    default_model: str
