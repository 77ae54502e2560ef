"""Use-cases on files that come and go over the gateway's own address: whole or in parts, and read again by link.

What a caller may upload stands in a ticket that it carries, sealed; nothing is remembered here between two calls of one upload.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace

from flashbulb_server.core.file_links import Access, FileLinks, LinkedFile
from flashbulb_server.core.files import MAX_FILE_BYTES, FileSpec, parse_key, upload_key
from flashbulb_server.errors import FieldViolation, FileNotFound, InvalidRequest
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.storage.objects import Found, Objects, Part
from flashbulb_server.storage.sweeper import UNFINISHED_SECONDS

MAX_PARTS = 1000
MAX_PART_BYTES = 64 << 20
HOLDER_SECONDS = 3600.0
"""A pass to upload works so long; clients ask for the next one by themselves."""
_TICKET, _PASS = "upload", "uploads of"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A file to be, that its bearer may upload until `until`, unix seconds. `upload_id`: of one that comes in parts."""

    key: str
    content_type: str
    file_name: str
    until: float
    upload_id: str = ""


class Uploads:
    """The use-cases. `url_seconds`: how long a file may be uploaded that comes whole. `clock` gives unix seconds."""

    def __init__(self, store: FileStore, objects: Objects, *, url_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._objects = objects
        self._url_seconds = url_seconds
        self._clock = clock

    @property
    def links(self) -> FileLinks:
        """Makes and reads links to files."""
        return self._store.links

    def path_of(self, url: str, until: float) -> str:
        """The end of the gateway's link to a file that a link of the store names; "" for any other URL. `until` in unix seconds."""
        key = parse_key(self._store.key_of(url))
        return self.links.path(key.key, until=until) if key is not None else ""

    def new(self, owner: str, spec: FileSpec) -> Ticket:
        """Names a file. Nothing is stored until its bytes come."""
        now = self._clock()
        key = upload_key(owner, expire_time=now + spec.lifetime, unique=uuid.uuid4(), file_name=spec.file_name)
        return Ticket(key, spec.content_type, spec.file_name, now + self._url_seconds)

    async def new_in_parts(self, owner: str, spec: FileSpec) -> Ticket:
        """Names a file that comes in parts. Raises StoreUnavailable."""
        ticket = self.new(owner, spec)
        upload_id = await self._objects.begin(ticket.key, content_type=spec.content_type, file_name=spec.file_name)
        return replace(ticket, upload_id=upload_id, until=self._clock() + UNFINISHED_SECONDS)

    def seal(self, ticket: Ticket) -> str:
        """The ticket as its bearer carries it."""
        return self.links.seal(_TICKET, asdict(ticket))

    def unseal(self, text: str) -> Ticket | None:
        """The ticket, None for one that is not ours or has expired."""
        values = self.links.unseal(_TICKET, text)
        ticket = Ticket(**values) if values is not None else None  # type: ignore[arg-type]  # sealed by `seal`
        return ticket if ticket is not None and self._clock() < ticket.until else None

    def make_pass(self, owner: str, mark: str) -> tuple[str, float]:
        """A text that lets its bearer upload for an owner, and its end in unix seconds. `mark`: of the owner's key."""
        until = self._clock() + HOLDER_SECONDS
        return self.links.seal(_PASS, {"owner": owner, "key": mark, "until": until}), until

    def holder(self, text: str) -> tuple[str, str] | None:
        """Whom a pass speaks for, and the mark of the key that made it; None for one that is not ours or has expired."""
        values = self.links.unseal(_PASS, text)
        if values is None or self._clock() >= float(str(values["until"])):
            return None
        return str(values["owner"]), str(values.get("key", ""))

    async def put(self, ticket: Ticket, chunks: AsyncIterator[bytes], size: int) -> None:
        """Stores a whole file as it comes. Raises InvalidRequest when it is not `size` bytes, StoreUnavailable. Nothing stays stored then."""
        key = parse_key(ticket.key)
        assert key is not None, "tickets name keys of ours"
        await self._store.put_stream(
            ticket.key,
            chunks,
            size=size,
            content_type=ticket.content_type,
            expire_time=key.expire_time,
            file_name=ticket.file_name,
        )

    async def put_part(self, ticket: Ticket, number: int, chunks: AsyncIterator[bytes], size: int) -> Part:
        """Stores a part as it comes; one that comes again takes the place of the first. Raises as `put`."""
        problems = []
        if not 1 <= number <= MAX_PARTS:
            problems.append(FieldViolation("partNumber", f"must be from 1 to {MAX_PARTS}, not {number}"))
        if not 1 <= size <= MAX_PART_BYTES:
            problems.append(FieldViolation("", f"a part must have 1 to {MAX_PART_BYTES} bytes, not {size}"))
        if problems:
            raise InvalidRequest(problems)
        return await self._objects.put_part(ticket.key, ticket.upload_id, number, chunks, size)

    async def complete(self, ticket: Ticket, parts: Sequence[Part]) -> None:
        """Makes the file of its parts; doing it again changes nothing. Raises InvalidRequest, FileNotFound, StoreUnavailable."""
        await self._objects.complete(ticket.key, ticket.upload_id, parts)
        stored = await self._store.stat(ticket.key)
        if stored is not None and stored.size_bytes > MAX_FILE_BYTES:
            await self._store.delete(ticket.key)
            problem = f"make a file of {stored.size_bytes} bytes, at most {MAX_FILE_BYTES} are allowed"
            raise InvalidRequest([FieldViolation("parts", problem)])

    def read(
        self, file: LinkedFile, owner: str | None, *, head: bool, conditions: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Found]:
        """A file for `owner`, None for a caller that is not known. Raises FileNotFound; entering it, StoreUnavailable, too.

        `conditions`: headers of HTTP that say which part is wanted, or of which version.
        """
        key = file.key
        gone = any(0 < end <= self._clock() for end in (key.expire_time, file.until))
        if gone or (file.access is Access.HIDE and not file.readable_by(owner)):
            raise FileNotFound(key.key)
        return self._objects.read(key.key, head=head, conditions=conditions)
