"""Model streaming: `POST {run}/{endpoint}/stream`. Previews as they are drawn, in the shape of the output; the output is the last event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from flashbulb.v1.generation_pb2 import GenerationOutput
from flashbulb_server.api.http.calls import read_call
from flashbulb_server.api.http.errors import told
from flashbulb_server.api.http.events import stream_of
from flashbulb_server.api.http.files import at_gateway
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.run import drawing, drawn_at, unless_gone
from flashbulb_server.api.stand_ins import said
from flashbulb_server.core.generation import GenerationSpec, PreviewImage, Progress
from flashbulb_server.core.submission import Submission
from flashbulb_server.errors import FlashbulbError
from flashbulb_server.wire.fal import data_uri, output_json
from flashbulb_server.wire.outputs import from_output

_PREVIEW_TYPE = "image/jpeg"


def routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """`POST /{endpoint}/stream`."""

    async def stream(request: Request) -> Response:
        call = await read_call(gateway, request)
        spec = call.resolve(gateway)
        events = _events(gateway, request, call.owner, spec, call.submission)
        return await unless_gone(request, stream_of(events, said(spec)))

    return [drawn_at("/{path:path}/stream", stream)]


async def _events(
    gateway: Gateway, request: Request, owner: str, spec: GenerationSpec, submission: Submission
) -> AsyncGenerator[Mapping[str, object], None]:
    begun = False
    progress = Progress(0, spec.steps)
    try:
        async with aclosing(drawing(gateway, owner, spec, submission, previews=True)) as events:
            async for event in events:
                match event:
                    case Progress():
                        progress = event
                        continue
                    case PreviewImage():
                        yield _preview(spec, event, progress)
                    case GenerationOutput():
                        yield output_json(at_gateway(gateway, request, from_output(event)))
                begun = True
    except FlashbulbError as err:
        if begun:
            # Too late for a status: the reason first, then the connection breaks, so that nobody takes it for an output.
            yield dict(told(err)[1])
        raise


def _preview(spec: GenerationSpec, preview: PreviewImage, progress: Progress) -> dict[str, object]:
    """A rough picture in the place of the output's."""
    picture = {"url": data_uri(preview.content, _PREVIEW_TYPE), "content_type": _PREVIEW_TYPE}
    return {
        "images": [picture],
        "seed": spec.seed,
        "prompt": spec.prompt,
        "preview": True,
        "image_index": preview.image_index,
        "progress": {"step": max(progress.step, preview.step), "total_steps": progress.total_steps},
    }
