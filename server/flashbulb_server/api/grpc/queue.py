"""QueueService: converts, calls the use-case, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from flashbulb.v1 import queue_pb2, queue_pb2_grpc
from flashbulb_server.api.grpc.convert import from_list, from_receipt, from_seen, from_view, to_page, to_submission
from flashbulb_server.api.grpc.interceptors import caller
from flashbulb_server.api.grpc.trailing import tell_stand_in
from flashbulb_server.api.queueing import Queueing, RequestView
from flashbulb_server.api.watching import Watch, Watching
from flashbulb_server.api.webhooks.orders import Webhooks
from flashbulb_server.core.generation import Progress
from flashbulb_server.core.requests import Failure
from flashbulb_server.core.validation import resolve
from flashbulb_server.messaging.fleet import Fleet
from flashbulb_server.wire.inputs import digest, given_fields
from flashbulb_server.wire.outputs import to_output
from flashbulb_server.wire.status import failure_status

_Context = grpc.aio.ServicerContext[Any, Any]


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """The queue over gRPC."""

    def __init__(self, queueing: Queueing, watching: Watching, webhooks: Webhooks, fleet: Fleet) -> None:
        self._queueing = queueing
        self._watching = watching
        self._webhooks = webhooks
        self._fleet = fleet

    async def Submit(self, request: queue_pb2.SubmitRequest, context: _Context) -> queue_pb2.SubmitResponse:
        """Adds a request to the queue."""
        submission, problems = to_submission(request)
        problems += await self._webhooks.problems(submission)
        endpoint, given = given_fields(request.input)
        spec = resolve(endpoint, given, self._fleet.installed(), also=problems)
        queued, deduplicated = await self._queueing.submit(caller(), spec, submission, digest=digest(request.input))
        tell_stand_in(context, queued.spec)
        return queue_pb2.SubmitResponse(request=from_view(RequestView(queued)), deduplicated=deduplicated)

    async def GetStatus(self, request: queue_pb2.GetStatusRequest, context: _Context) -> queue_pb2.GetStatusResponse:
        """Gets a request."""
        view = await self._queueing.status(caller(), request.request_id, logs=request.include_logs)
        return queue_pb2.GetStatusResponse(request=from_view(view))

    async def WatchStatus(
        self, request: queue_pb2.WatchStatusRequest, context: _Context
    ) -> AsyncIterator[queue_pb2.WatchStatusResponse]:
        """Streams what happens to a request."""
        wish = Watch(request.after_sequence, logs=request.include_logs, previews=request.include_previews)
        async with aclosing(self._watching.watch(caller(), request.request_id, wish)) as events:
            async for seen in events:
                yield from_seen(seen)

    async def GetResult(self, request: queue_pb2.GetResultRequest, context: _Context) -> queue_pb2.GetResultResponse:
        """Gets the outcome of a request."""
        outcome = await self._queueing.result(caller(), request.request_id)
        if isinstance(outcome, Failure):
            return queue_pb2.GetResultResponse(request_id=request.request_id, error=failure_status(outcome))
        tell_stand_in(context, outcome.spec)
        return queue_pb2.GetResultResponse(request_id=request.request_id, output=to_output(outcome))

    async def Cancel(self, request: queue_pb2.CancelRequest, context: _Context) -> queue_pb2.CancelResponse:
        """Cancels a request."""
        return from_receipt(await self._queueing.cancel(caller(), request.request_id))

    async def RedeliverWebhook(
        self, request: queue_pb2.RedeliverWebhookRequest, context: _Context
    ) -> queue_pb2.RedeliverWebhookResponse:
        """Sends a webhook again."""
        renewed = await self._webhooks.redeliver(caller(), request.request_id)
        view = RequestView(renewed, progress=Progress(renewed.steps_done, renewed.total_steps))
        return queue_pb2.RedeliverWebhookResponse(request=from_view(view))

    async def List(self, request: queue_pb2.ListRequest, context: _Context) -> queue_pb2.ListResponse:
        """Lists the caller's requests."""
        found, token = await self._queueing.list(caller(), to_page(request))
        views = [RequestView(r, progress=Progress(r.steps_done, r.total_steps)) for r in found]
        return from_list(views, token)
