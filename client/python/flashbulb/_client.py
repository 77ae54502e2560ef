"""The client for coroutines. All the logic of the package is here; `flashbulb._sync` only runs it."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flashbulb import _decode, _files
from flashbulb._config import load
from flashbulb._credentials import Credentials, TokenProvider
from flashbulb._encode import encode, enum_name, span
from flashbulb._errors import DeadlineExceeded, NotFinished, ServerError, from_outcome
from flashbulb._frames import Token
from flashbulb._handle import AsyncHandle
from flashbulb._inputs import Input
from flashbulb._results import CancelReceipt, Endpoint, Event, File, Model, RequestStatus, Result, State
from flashbulb._session import AsyncSession, Terms
from flashbulb._transport import Transport
from flashbulb._watch import Watch
from flashbulb._withdraw import withdrawing
from flashbulb.v1 import generation_pb2, input_pb2, model_pb2, queue_pb2, realtime_pb2

if TYPE_CHECKING:
    from flashbulb._inputs import ImageSource

DEFAULT_ENDPOINT = "fast-lcm-diffusion"
OnUpdate = Callable[[Event], object]
"""Called with every event of a request. What it returns is awaited if it can be."""


class AsyncClient:
    """A client of one server for coroutines. It belongs to the event loop of its first call; `async with` closes it.

    `key` is `id:secret` (default: FLASHBULB_KEY). `host` is `host:port` or `https://host` (default: FLASHBULB_HOST, else
    127.0.0.1:50051). `tls` True or False overrides what the host says; a path is a PEM file of certificates to trust. `timeout` is the
    seconds that a short call, or finding the server again, may take over all attempts. Instead of a key, `token` is one that
    `create_token` made, and `token_provider` a function that gets one, called again before it expires. Every method raises a
    FlashbulbError.
    """

    def __init__(
        self,
        key: str | None = None,
        host: str | None = None,
        tls: bool | str | Path | None = None,
        timeout: float = 60.0,
        *,
        token: str | None = None,
        token_provider: TokenProvider | None = None,
    ) -> None:
        settings = load(key, host, tls, tokens=token is not None or token_provider is not None)
        self._transport = Transport(settings, timeout, Credentials(settings.key, token, token_provider))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Idempotent; later calls raise RuntimeError."""
        await self._transport.close()

    async def subscribe(
        self,
        /,
        endpoint: str | Input = DEFAULT_ENDPOINT,
        *,
        on_update: OnUpdate | None = None,
        logs: bool = False,
        previews: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: str | None = None,
        start_timeout: float | None = None,
        runner_hint: str = "",
        **fields: object,
    ) -> Result:
        """Draws through the queue: submits, watches, and answers with the pictures.

        The input is a typed one, or an endpoint's id with its fields as keywords. `on_update` gets every event; `logs` and `previews`
        ask for those too. When `timeout` seconds are over, or the caller is cancelled, the request is cancelled as well. The other
        arguments are those of `submit`.

        Raises:
            InvalidInput, QueueFull, EndpointUnavailable: those of `submit`.
            RequestFailed, RequestCancelled, RequestExpired: the request ended without pictures.
            DeadlineExceeded: `timeout` is over.
        """
        try:
            async with asyncio.timeout(timeout) as limit, withdrawing(self._transport) as pending:
                pending.submission = await self._submission(
                    endpoint, fields, idempotency_key, priority, start_timeout, runner_hint
                )
                response = await self._transport.call(self._transport.queue.Submit, pending.submission)
                pending.request_id = response.request.request_id
                async with aclosing(self.watch(pending.request_id, logs=logs, previews=previews)) as events:
                    async for event in events:
                        answer = on_update(event) if on_update is not None else None
                        if inspect.isawaitable(answer):
                            await answer
                return await self._result(pending.request_id)
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"no pictures within {timeout:g} s; the request was cancelled"
            raise DeadlineExceeded(text, metadata={"request_id": pending.request_id}) from None

    async def submit(
        self,
        /,
        endpoint: str | Input = DEFAULT_ENDPOINT,
        *,
        idempotency_key: str | None = None,
        priority: str | None = None,
        start_timeout: float | None = None,
        runner_hint: str = "",
        webhook_url: str = "",
        **fields: object,
    ) -> AsyncHandle:
        """Adds a request to the queue and answers once it is stored durably.

        The input is a typed one, or an endpoint's id with its fields as keywords. The same `idempotency_key` with the same input gives
        the same request for 24 hours; one is made if none is given, so that no request is made twice by trying again. `priority` is
        `normal` or `low`. `start_timeout` is the seconds it may wait before it expires (default: the server's, 1 h). Requests with the
        same `runner_hint` prefer the same worker. When it has ended, the outcome is posted to `webhook_url`, signed; `flashbulb.webhooks`
        has what a receiver needs.

        Raises:
            InvalidInput: fields are bad; nothing is stored.
            IdempotencyKeyReused: the key was used with another input.
            QueueFull, EndpointUnavailable, Unavailable: also after trying again.
        """
        submission = await self._submission(endpoint, fields, idempotency_key, priority, start_timeout, runner_hint)
        submission.webhook_url = webhook_url
        response = await self._transport.call(self._transport.queue.Submit, submission)
        return AsyncHandle(self, _decode.status(response.request), deduplicated=response.deduplicated)

    async def status(self, request_id: str, logs: bool = False) -> RequestStatus:
        """A request: its state, exact position, expected time and, if asked for, its log. NotFound if there is none."""
        request = queue_pb2.GetStatusRequest(request_id=request_id, include_logs=logs)
        response = await self._transport.call(self._transport.queue.GetStatus, request)
        return _decode.status(response.request)

    def watch(
        self, request_id: str, after_sequence: int = 0, *, logs: bool = False, previews: bool = False
    ) -> AsyncGenerator[Event]:
        """The events of a request, from its state now to its terminal state. Goes on after a broken connection.

        `after_sequence` resumes a watch that ended before. NotFound if there is no such request.
        """
        request = queue_pb2.WatchStatusRequest(
            request_id=request_id, after_sequence=after_sequence, include_logs=logs, include_previews=previews
        )
        return Watch(self._transport, request).events()

    async def result(self, request_id: str, wait: bool = True, *, timeout: float | None = None) -> Result:
        """The pictures of a request, waiting for them at most `timeout` seconds. The request is never cancelled here.

        Raises:
            NotFound: no such request.
            NotFinished: it has none yet, and `wait` is False.
            RequestFailed, RequestCancelled, RequestExpired: it ended without pictures.
            DeadlineExceeded: `timeout` is over.
        """
        try:
            async with asyncio.timeout(timeout) as limit:
                try:
                    return await self._result(request_id)
                except NotFinished:
                    if not wait:
                        raise
                async with aclosing(self.watch(request_id)) as events:
                    async for _ in events:
                        pass
                return await self._result(request_id)
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"request {request_id} has not ended within {timeout:g} s"
            raise DeadlineExceeded(text, metadata={"request_id": request_id}) from None

    async def cancel(self, request_id: str) -> CancelReceipt:
        """Cancels a request in any state and says what was found. Idempotent. NotFound if there is none."""
        request = queue_pb2.CancelRequest(request_id=request_id)
        return _decode.receipt(await self._transport.call(self._transport.queue.Cancel, request))

    async def redeliver_webhook(self, request_id: str) -> RequestStatus:
        """Has the webhook of a request that has ended sent again. NotFound, NotFinished, NoWebhook if there is none to send."""
        request = queue_pb2.RedeliverWebhookRequest(request_id=request_id)
        response = await self._transport.call(self._transport.queue.RedeliverWebhook, request)
        return _decode.status(response.request)

    async def list(
        self, states: Iterable[State | str] | None = None, page_size: int = 50
    ) -> AsyncGenerator[RequestStatus]:
        """The key's requests, newest first, without pictures; only those in `states` if given. Fetches a page (1 to 200) at a time."""
        enum = queue_pb2.GenerationRequest.State
        wanted = [enum.Value(enum_name("states", enum.DESCRIPTOR, name)) for name in states or ()]
        request = queue_pb2.ListRequest(page_size=page_size, states=wanted)
        while True:
            response = await self._transport.call(self._transport.queue.List, request)
            for item in response.requests:
                yield _decode.status(item)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def generate(
        self,
        /,
        endpoint: str | Input = DEFAULT_ENDPOINT,
        *,
        timeout: float | None = None,
        runner_hint: str = "",
        **fields: object,
    ) -> Result:
        """Draws at once, without the queue, within `timeout` seconds (None: as long as it takes). Cancelling it stops the drawing.

        It is tried again only where the server certainly did not start it.

        Raises:
            InvalidInput, EndpointUnavailable: as `submit`.
            WorkersBusy, Unavailable: no worker takes it, or the connection broke; then it may have been drawn.
            RequestFailed, DeadlineExceeded.
        """
        request = generation_pb2.GenerateRequest(input=await self._input(endpoint, fields), runner_hint=runner_hint)
        response = await self._transport.call_once(self._transport.generation.Generate, request, timeout=timeout)
        return _decode.result(response.output, "")

    async def generate_stream(
        self,
        /,
        endpoint: str | Input = DEFAULT_ENDPOINT,
        *,
        previews: bool = False,
        timeout: float | None = None,
        runner_hint: str = "",
        **fields: object,
    ) -> AsyncGenerator[Event | Result]:
        """Draws at once and yields every step, previews if asked for, and last the Result. Otherwise as `generate`."""
        request = generation_pb2.GenerateStreamRequest(
            input=await self._input(endpoint, fields), include_previews=previews, runner_hint=runner_hint
        )
        method = self._transport.generation.GenerateStream
        async with aclosing(self._transport.receive_once(method, request, timeout=timeout)) as messages:
            async for message in messages:
                match message.WhichOneof("event"):
                    case "progress":
                        yield _decode.stepped(message.progress)
                    case "preview":
                        yield _decode.previewed(message.preview)
                    case "output":
                        yield _decode.result(message.output, "")
                        return
        raise ServerError("the stream ended without pictures")

    def realtime(
        self,
        /,
        endpoint: str | Input = DEFAULT_ENDPOINT,
        *,
        max_fps: float | None = None,
        policy: str = "newest",
        max_waiting: int = 16,
        previews: bool = False,
        notices: bool = False,
        throttle: float | None = None,
        max_in_flight: int = 1,
        similar_threshold: float | None = None,
        **defaults: object,
    ) -> AsyncSession:
        """A session in which a picture follows every `send`; `async with` opens it.

        The input is a typed one, or an endpoint's id with its fields as keywords: what holds until a `send` changes it. `max_fps` limits
        the pictures, 0.1 to 120 a second. With the policy `newest` a frame that is obsolete before it is drawn is dropped; with `all`
        every one is drawn in order, and those beyond `max_waiting` (1 to 60) unanswered ones are refused. `throttle` is the least span
        between two sends over the network, in seconds: the first goes at once, the last one always goes. `previews` asks for rough
        pictures of what is being drawn, `notices` for word of frames that are not drawn.

        `max_in_flight` (1 to 4) frames are drawn at once: more pictures a second, each a little later. With `similar_threshold` (0 to 1;
        try 0.01) a frame that changes nothing but `image_url`, and that hardly, is not drawn; its notice has the reason `similar`.

        Raises, when it is opened:
            InvalidInput: fields are bad. Busy: the key has too many sessions. EndpointUnavailable, Unavailable: as `submit`.
        """
        span("throttle", throttle)
        kind = realtime_pb2.FramePolicy.Value(enum_name("policy", realtime_pb2.FramePolicy.DESCRIPTOR, policy))
        terms = Terms(endpoint, defaults, max_fps, kind, max_waiting, previews, notices, throttle or 0.0)
        options = replace(terms, max_in_flight=max_in_flight, similar_threshold=similar_threshold)
        return AsyncSession(self._transport, options)

    async def create_token(self, allowed_endpoints: Iterable[str], lifetime: float = 120.0) -> Token:
        """A token for callers that must not hold a key, good for these endpoints (1 to 32) for `lifetime` seconds (1 to 3600)."""
        request = realtime_pb2.CreateTokenRequest(
            allowed_endpoints=allowed_endpoints, lifetime=span("lifetime", lifetime)
        )
        return _decode.token(await self._transport.call(self._transport.realtime.CreateToken, request))

    async def upload(
        self,
        source: ImageSource,
        *,
        content_type: str | None = None,
        file_name: str | None = None,
        lifetime: float | None = None,
    ) -> File:
        """Stores a file for inputs: bytes, a path (str too), a file opened for bytes, or a PIL image (sent as PNG).

        `content_type` is told by the first bytes, then by the name, if it is not given. `lifetime` is the seconds to keep it, 60 to
        30 days (default: the server's, 7 days). InvalidInput if it cannot be read, or is empty or too large.
        """
        return await _files.upload(
            self._transport, source, content_type=content_type, file_name=file_name, lifetime=lifetime
        )

    async def delete_file(self, uri: str) -> None:
        """Deletes a file of one's own by its `uri`. Idempotent. FileNotFound if it is another key's."""
        await _files.delete(self._transport, uri)

    async def models(self, endpoint: str = "") -> tuple[Model, ...]:
        """The installed models, ordered by name; only those that run `endpoint` if given."""
        request = model_pb2.ListModelsRequest(endpoint=endpoint)
        response = await self._transport.call(self._transport.models.ListModels, request)
        return tuple(_decode.model(item) for item in response.models)

    async def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints with their fields, limits and models, ordered by id."""
        response = await self._transport.call(self._transport.models.ListEndpoints, model_pb2.ListEndpointsRequest())
        return tuple(_decode.endpoint(item) for item in response.endpoints)

    async def _input(self, endpoint: str | Input, fields: Mapping[str, object]) -> input_pb2.GenerationInput:
        encoded = encode(endpoint, fields)
        await _files.fill_sources(self._transport, encoded.pending)
        return encoded.message

    async def _submission(
        self,
        /,
        endpoint: str | Input,
        fields: Mapping[str, object],
        idempotency_key: str | None,
        priority: str | None,
        start_timeout: float | None,
        runner_hint: str,
    ) -> queue_pb2.SubmitRequest:
        order = queue_pb2.Priority.PRIORITY_UNSPECIFIED
        if priority is not None:
            order = queue_pb2.Priority.Value(enum_name("priority", queue_pb2.Priority.DESCRIPTOR, priority))
        return queue_pb2.SubmitRequest(
            input=await self._input(endpoint, fields),
            idempotency_key=idempotency_key or str(uuid.uuid4()),
            priority=order,
            start_timeout=span("start_timeout", start_timeout),
            runner_hint=runner_hint,
        )

    async def _result(self, request_id: str) -> Result:
        request = queue_pb2.GetResultRequest(request_id=request_id)
        response = await self._transport.call(self._transport.queue.GetResult, request)
        if response.WhichOneof("outcome") == "error":
            raise from_outcome(response.error)
        return _decode.result(response.output, response.request_id)
