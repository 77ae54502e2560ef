"""Whatever holds the bytes of a file, as a payload that can be sent more than once. Knows no channel."""

from __future__ import annotations

import io
import mimetypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from flashbulb._errors import InvalidInput

if TYPE_CHECKING:
    import PIL.Image

CHUNK_BYTES = 512 * 1024
_SIGNATURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of a file: in memory, or still on the disk at `path`."""

    data: bytes | Path
    size_bytes: int
    content_type: str
    file_name: str = ""

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces of at most CHUNK_BYTES, from the start at every call. Blocks on the disk."""
        if isinstance(self.data, bytes):
            for start in range(0, len(self.data), CHUNK_BYTES):
                yield self.data[start : start + CHUNK_BYTES]
            return
        with self.data.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def read(self) -> bytes:
        """All of it. Blocks on the disk."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()


def payload_of(source: object, content_type: str | None = None, *, quick: bool = False) -> Payload:
    """The payload of bytes, a path (str or PathLike), a file object opened for bytes, or a PIL image (sent as PNG).

    The media type, unless given, is told by the first bytes, then by the name. `quick` takes less time to compress a PIL image, and more
    bytes. Blocks on the disk.

    Raises:
        InvalidInput: it is none of these, cannot be read, or is empty.
    """
    if isinstance(source, str | os.PathLike):
        payload = _of_path(Path(source), content_type)
    elif isinstance(source, bytes | bytearray | memoryview):
        payload = _of_bytes(bytes(source), content_type, "")
    elif _is_pil(source):
        payload = _of_picture(source, quick)
    elif callable(read := getattr(source, "read", None)):
        payload = _of_file(read(), getattr(source, "name", ""), content_type)
    else:
        raise InvalidInput(f"cannot read a file from {type(source).__name__}")
    if not payload.size_bytes:
        raise InvalidInput(f"the file is empty: {payload.file_name or type(source).__name__}")
    return payload


def _of_path(path: Path, content_type: str | None) -> Payload:
    try:
        with path.open("rb") as file:
            head, size = file.read(16), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    return Payload(path, size, content_type or _media_type(head, path.name), path.name)


def _of_bytes(data: bytes, content_type: str | None, name: str) -> Payload:
    return Payload(data, len(data), content_type or _media_type(data[:16], name), name)


def _of_file(data: object, name: object, content_type: str | None) -> Payload:
    if not isinstance(data, bytes):
        raise InvalidInput("a file must be opened for bytes (mode 'rb')")
    return _of_bytes(data, content_type, os.path.basename(name) if isinstance(name, str) else "")


def _of_picture(picture: PIL.Image.Image, quick: bool) -> Payload:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1 if quick else 6)
    return _of_bytes(buffer.getvalue(), "image/png", "")


def _is_pil(source: object) -> TypeGuard[PIL.Image.Image]:
    # A PIL image exists only where PIL was imported, so that this package need not.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _media_type(head: bytes, name: str) -> str:
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
