"""Storage as fal's clients upload: the JavaScript client asks the rest surface for an address, the Python client goes to the cdn surface.

1. Files come and go by the gateway's own address, so that a browser, a proxy or a tunnel has one origin to know. Bytes are passed on as they
   come; nothing is held whole.
2. An address to upload to carries its right in itself (`ticket`), as the JavaScript client sends no key there. It puts the number of a part
   behind the path and before the query.
3. Each part is answered in both ways that clients read: `etag` as a header and in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from flashbulb_server.api.http.addressing import Surface, public_url
from flashbulb_server.api.http.answers import json_answer
from flashbulb_server.api.http.auth import authenticate
from flashbulb_server.api.http.bodies import length_of, receiving
from flashbulb_server.api.http.gateway import Gateway
from flashbulb_server.api.http.inputs import read_object
from flashbulb_server.api.http.lifecycle import Lifecycle, lifecycle_of
from flashbulb_server.api.http.problem import Problem
from flashbulb_server.api.uploads import Ticket
from flashbulb_server.core.files import MAX_FILE_BYTES, FileSpec, file_spec
from flashbulb_server.errors import FieldViolation, InvalidRequest, TokenForbids
from flashbulb_server.storage.objects import Part

_BODY_BYTES = 1 << 20  # of a call that only describes a file
_ANY_TYPE = "application/octet-stream"


class Storage:
    """The calls of both surfaces."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._uploads = gateway.uploads

    # The rest surface: a key says who uploads.

    async def initiate(self, request: Request) -> Response:
        """An address to put a whole file to, and the file's own."""
        owner = self._owner(request)
        spec, life = await self._described(request)
        return self._addressed(request, self._uploads.new(owner, spec), life)

    async def initiate_parts(self, request: Request) -> Response:
        """An address to put a file to in parts, and the file's own."""
        owner = self._owner(request)
        spec, life = await self._described(request)
        return self._addressed(request, await self._uploads.new_in_parts(owner, spec), life)

    async def make_pass(self, request: Request) -> Response:
        """What the Python client uploads with."""
        owner = self._owner(request)
        text, until = self._uploads.make_pass(owner, self._gateway.keys.mark(owner))
        return json_answer(
            {
                "token": text,
                "token_type": "Bearer",
                "base_url": public_url(request, Surface.CDN, self._gateway.settings),
                "expires_at": _iso(until),
            }
        )

    # The cdn surface, by ticket.

    async def put(self, request: Request) -> Response:
        """The bytes of a whole file."""
        ticket = self._ticket(request)
        if ticket.upload_id:
            raise InvalidRequest([FieldViolation("", "the upload was begun to come in parts")])
        await self._store(request, ticket)
        return json_answer({})

    async def put_part(self, request: Request) -> Response:
        """The bytes of a part."""
        return await self._store_part(request, self._ticket(request))

    async def complete(self, request: Request) -> Response:
        """The end of an upload in parts."""
        return await self._complete(request, self._ticket(request))

    # The cdn surface, by pass or key.

    async def upload(self, request: Request) -> Response:
        """A whole file in one call."""
        owner = self._holder(request)
        spec, life = self._headed(request)
        ticket = self._uploads.new(owner, spec)
        await self._store(request, ticket)
        return json_answer({"access_url": self._url(request, ticket, life)})

    async def begin(self, request: Request) -> Response:
        """The beginning of an upload in parts."""
        owner = self._holder(request)
        spec, life = self._headed(request)
        ticket = await self._uploads.new_in_parts(owner, spec)
        return json_answer({"access_url": self._url(request, ticket, life), "uploadId": self._uploads.seal(ticket)})

    async def put_held_part(self, request: Request) -> Response:
        """The bytes of a part."""
        return await self._store_part(request, self._held_ticket(request))

    async def complete_held(self, request: Request) -> Response:
        """The end of an upload in parts."""
        return await self._complete(request, self._held_ticket(request))

    async def _store(self, request: Request, ticket: Ticket) -> None:
        size = length_of(request, limit=MAX_FILE_BYTES)
        async with receiving(request) as chunks:
            await self._uploads.put(ticket, chunks, size)

    async def _store_part(self, request: Request, ticket: Ticket) -> Response:
        number, size = request.path_params["number"], length_of(request, limit=MAX_FILE_BYTES)
        async with receiving(request) as chunks:
            part = await self._uploads.put_part(ticket, number, chunks, size)
        return json_answer({"partNumber": part.number, "etag": part.etag}, headers={"etag": part.etag})

    async def _complete(self, request: Request, ticket: Ticket) -> Response:
        await self._uploads.complete(ticket, _parts(await read_object(request, limit=_BODY_BYTES)))
        return json_answer({})

    def _owner(self, request: Request) -> str:
        grant = authenticate(self._gateway, request)
        if grant.endpoints is not None:
            raise TokenForbids("uploads", sorted(grant.endpoints))
        return grant.owner

    def _holder(self, request: Request) -> str:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        owner, mark = (self._uploads.holder(text.strip()) if scheme.lower() == "bearer" else None) or ("", "")
        return owner if mark and mark == self._gateway.keys.mark(owner) else self._owner(request)

    def _ticket(self, request: Request) -> Ticket:
        return self._unsealed(request.query_params.get("ticket", ""))

    def _held_ticket(self, request: Request) -> Ticket:
        ticket = self._unsealed(request.path_params["upload"])
        if ticket.key != request.path_params["key"]:
            raise Problem(403, "the upload is of another file", "forbidden")
        return ticket

    def _unsealed(self, text: str) -> Ticket:
        ticket = self._uploads.unseal(text)
        if ticket is None:
            raise Problem(403, "the address to upload to is not valid, or has expired; ask for a new one", "forbidden")
        return ticket

    async def _described(self, request: Request) -> tuple[FileSpec, Lifecycle]:
        body = await read_object(request, limit=_BODY_BYTES)
        return self._spec(body.get("content_type"), body.get("file_name"), request)

    def _headed(self, request: Request) -> tuple[FileSpec, Lifecycle]:
        return self._spec(request.headers.get("content-type"), request.headers.get("x-fal-file-name"), request)

    def _spec(self, content_type: object, file_name: object, request: Request) -> tuple[FileSpec, Lifecycle]:
        life = lifecycle_of(request.headers)
        spec = file_spec(
            content_type=content_type if isinstance(content_type, str) and content_type else _ANY_TYPE,
            file_name=_plain(file_name) if isinstance(file_name, str) else "",
            size_bytes=0,
            lifetime=life.seconds,
            size_required=False,
            path="",
        )
        return spec, life

    def _addressed(self, request: Request, ticket: Ticket, life: Lifecycle) -> Response:
        base = public_url(request, Surface.CDN, self._gateway.settings)
        name = quote(ticket.key.rpartition("/")[2])
        return json_answer(
            {
                "upload_url": f"{base}/upload/{name}?ticket={self._uploads.seal(ticket)}",
                "file_url": self._url(request, ticket, life),
                "expires_at": _iso(ticket.until),
            }
        )

    def _url(self, request: Request, ticket: Ticket, life: Lifecycle) -> str:
        base = public_url(request, Surface.CDN, self._gateway.settings)
        return f"{base}/{self._uploads.links.path(ticket.key, life.access)}"


def rest_routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """Uploads of the rest surface."""
    storage = Storage(gateway)
    return [
        Route("/storage/upload/initiate", storage.initiate, methods=["POST"]),
        Route("/storage/upload/initiate-multipart", storage.initiate_parts, methods=["POST"]),
        Route("/storage/auth/token", storage.make_pass, methods=["POST"]),
    ]


def cdn_routes(gateway: Gateway) -> Sequence[BaseRoute]:
    """Uploads of the cdn surface."""
    storage = Storage(gateway)
    held = "/files/{mark}/{key:path}/multipart/{upload}"
    return [
        Route("/files/upload", storage.upload, methods=["POST"]),
        Route("/files/upload/multipart", storage.begin, methods=["POST"]),
        Route(held + "/complete", storage.complete_held, methods=["POST"]),
        Route(held + "/{number:int}", storage.put_held_part, methods=["PUT"]),
        Route("/upload/{name}", storage.put, methods=["PUT"]),
        Route("/upload/{name}/complete", storage.complete, methods=["POST"]),
        Route("/upload/{name}/{number:int}", storage.put_part, methods=["PUT"]),
    ]


def _parts(body: Mapping[str, Any]) -> list[Part]:
    entries = body.get("parts")
    if not isinstance(entries, list) or not entries:
        raise InvalidRequest([FieldViolation("parts", "must be the list of the parts that were uploaded")])
    parts: list[Part] = []
    for index, entry in enumerate(entries):
        number, etag = (entry.get("partNumber"), entry.get("etag")) if isinstance(entry, Mapping) else (None, None)
        if type(number) is not int or not isinstance(etag, str):
            raise InvalidRequest(
                [FieldViolation(f"parts.{index}", "must have partNumber and etag, as the part was answered")]
            )
        parts.append(Part(number, etag))
    return parts


def _plain(file_name: str) -> str:
    """The name without folders, which browsers may put before it."""
    name = file_name.replace("\\", "/").rpartition("/")[2]
    return "" if name in (".", "..") else name[-255:]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
