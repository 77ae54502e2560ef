"""Names of stored files, what a new file may be, and when one has expired. Pure: no clock, no store; times are unix seconds.

1. A file is an object. Its key says whose it is, and, of an upload, when it expires:
       out/<owner>/<request id>/<image index>.<format>       a picture that was drawn
       in/<owner>/<expire time>-<uuid>/<name>                an input that a caller uploaded
2. Keys of pictures derive from the request and the index alone, so drawing a request again overwrites and never duplicates.
3. Both kinds sort by age within an owner (request ids are UUIDv7), so a search for expired files reads one page per owner and stops at
   the first young one: no object is asked for its metadata.
4. A picture expires a while after it was last written, an upload at the time in its key.
5. Keys are ASCII and hold no part that a caller chose but a tamed copy of the file's name.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from flashbulb_server.core.ids import created_at, is_request_id
from flashbulb_server.errors import FieldViolation, InvalidRequest

URI_PREFIX = "flashbulb://files/"
MAX_FILE_BYTES = 1 << 30
MIN_LIFETIME = 60.0
MAX_LIFETIME = 30 * 86_400.0
DEFAULT_LIFETIME = 7 * 86_400.0
MAX_TEXT = 255  # characters of a media type or a file name
PICTURE_GRACE = 300.0  # seconds; clocks of the S3 server and ours differ, and a record ends a little after its pictures were written

_KEY = re.compile(
    r"(?:in/(?P<in_owner>[A-Za-z0-9_-]{1,64})/(?P<expire>[0-9]{10,12})-(?P<uuid>[0-9a-f]{32})/(?P<name>[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63})"
    r"|out/(?P<out_owner>[A-Za-z0-9_-]{1,64})/(?P<request>[A-Za-z0-9-]{1,64})/(?P<index>[0-9]{1,4})\.(?P<format>[a-z0-9]{1,8}))"
)
_SHOWN_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:; ?{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What a new file is, valid. `size_bytes` 0: not known yet. `lifetime` in seconds."""

    content_type: str
    file_name: str
    size_bytes: int
    lifetime: float


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key taken apart. `expire_time` is 0 for a picture; `create_time` is the least possible one, 0 when not known."""

    key: str
    kind: Literal["in", "out"]
    owner: str  # id of the key that it belongs to
    expire_time: float
    create_time: float

    def expired(self, last_modified: float, *, now: float, keep_seconds: float) -> bool:
        """Whether it may be deleted. `keep_seconds`: how long pictures are kept."""
        if self.kind == "in":
            return now >= self.expire_time
        return now >= last_modified + keep_seconds + PICTURE_GRACE

    def all_later_are_young(self, *, now: float, keep_seconds: float) -> bool:
        """Whether neither this file nor any that sorts behind it, of the same kind and owner, can have expired."""
        if self.kind == "in":
            return now < self.expire_time
        return self.create_time > 0 and now < self.create_time + keep_seconds + PICTURE_GRACE


def output_key(owner: str, request_id: str, index: int, image_format: str) -> str:
    """Key of picture `index` of a request. `image_format`: `jpeg` or `png`."""
    return f"out/{owner}/{request_id}/{index}.{image_format}"


def upload_key(owner: str, *, expire_time: float, unique: uuid.UUID, file_name: str = "") -> str:
    """Key of a new upload. `expire_time` is cut to whole seconds."""
    return f"in/{owner}/{int(expire_time):010d}-{unique.hex}/{_tame(file_name)}"


def uri_of(key: str) -> str:
    """What callers name the file by."""
    return URI_PREFIX + key


def parse_key(key: str) -> FileKey | None:
    """The key taken apart, or None if it is none of ours."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    if match["in_owner"]:
        return FileKey(key, "in", match["in_owner"], float(match["expire"]), 0.0)
    return FileKey(
        key, "out", match["out_owner"], 0.0, created_at(match["request"]) if is_request_id(match["request"]) else 0.0
    )


def parse_uri(uri: str, *, field: str = "uri") -> FileKey:
    """The key that a uri names. Raises InvalidRequest at `field` when it is no uri of a file."""
    key = parse_key(uri.removeprefix(URI_PREFIX)) if uri.startswith(URI_PREFIX) else None
    if key is None:
        raise InvalidRequest([FieldViolation(field, f"must be a uri of a stored file, `{URI_PREFIX}...`")])
    return key


def file_spec(
    *, content_type: str, file_name: str, size_bytes: int, lifetime: float | None, size_required: bool, path: str
) -> FileSpec:
    """A valid spec with its defaults. Raises InvalidRequest with every bad field; `path` is the name of the message they are in, if any."""
    keep = DEFAULT_LIFETIME if lifetime is None else lifetime
    low = 1 if size_required else 0
    problems = (
        ("content_type", _content_type_problem(content_type)),
        ("file_name", _file_name_problem(file_name)),
        (
            "size_bytes",
            None if low <= size_bytes <= MAX_FILE_BYTES else f"must be from 1 to {MAX_FILE_BYTES}, not {size_bytes}",
        ),
        ("lifetime", None if MIN_LIFETIME <= keep <= MAX_LIFETIME else f"must be from 60 s to 30 days, not {keep:g} s"),
    )
    violations = [FieldViolation(f"{path}.{name}".lstrip("."), problem) for name, problem in problems if problem]
    if violations:
        raise InvalidRequest(violations)
    return FileSpec(content_type, file_name, size_bytes, keep)


def _content_type_problem(content_type: str) -> str | None:
    if not content_type:
        return "is required"
    if len(content_type) > MAX_TEXT:
        return f"has {len(content_type)} characters, at most {MAX_TEXT} are allowed"
    return None if _MEDIA_TYPE.fullmatch(content_type) else "must be a media type such as `image/png`"


def _file_name_problem(file_name: str) -> str | None:
    if len(file_name) > MAX_TEXT:
        return f"has {len(file_name)} characters, at most {MAX_TEXT} are allowed"
    if "/" in file_name or "\\" in file_name or file_name in (".", ".."):
        return "must be a plain name, without folders"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in file_name):
        return "must not hold control characters"
    return None


def _tame(file_name: str) -> str:
    """The end of `file_name` (with its extension) in safe characters; the true name travels as Content-Disposition."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", file_name)[-64:].lstrip(".-") or "file"


def content_disposition(file_name: str, *, content_type: str = "") -> str:
    """The header that names a file to a browser (RFC 6266): an ASCII name for old ones, the true one as RFC 8187 writes it.

    Media types that can bring a script into the store's origin are saved, not shown.
    """
    kind = "inline" if content_type in _SHOWN_TYPES else "attachment"
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in file_name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
