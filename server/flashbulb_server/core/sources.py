"""Pictures that a caller gives: what a source may be, and the bytes of one that came inline. Pure: nothing is fetched here."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes, urlsplit

from flashbulb_server.core.files import URI_PREFIX, parse_key
from flashbulb_server.core.generation import SourceImage

MAX_CONTENT_BYTES = 10 * 1024 * 1024
MAX_DATA_CHARS = 12 * 1024 * 1024
MAX_URI_CHARS = 2048
MAX_FETCHED_BYTES = 20 * 1024 * 1024

_HALVES = re.compile(r"[\ud800-\udfff]")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff]")


class BadSource(ValueError):
    """The text says what is wrong, to be shown behind the field's name."""


def source_problem(source: SourceImage) -> str | None:
    """What is wrong with a source, as far as can be told without looking at the picture."""
    if source.content:
        size = len(source.content)
        return f"has {size} bytes, at most {MAX_CONTENT_BYTES} are allowed" if size > MAX_CONTENT_BYTES else None
    uri = source.uri
    if not uri:
        return "content or uri must be set"
    if uri[:5].lower() == "data:":
        return _data_problem(uri)
    if len(uri) > MAX_URI_CHARS:
        return f"the uri has {len(uri)} characters, at most {MAX_URI_CHARS} are allowed"
    if uri.startswith(URI_PREFIX):
        known = parse_key(uri.removeprefix(URI_PREFIX)) is not None
        return None if known else f"must be a uri of a stored file, `{URI_PREFIX}...`"
    return _url_problem(uri)


def inline_bytes(source: SourceImage) -> bytes:
    """The bytes of a source that is `inline`. Raises BadSource for a data URI that cannot be read."""
    if source.content:
        return source.content
    header, comma, body = source.uri.partition(",")
    if not comma:
        raise BadSource("the data URI has no comma")
    data = unquote_to_bytes(body)
    if header.lower().endswith(";base64"):
        try:
            data = base64.b64decode(re.sub(rb"\s", b"", data), validate=True)
        except binascii.Error as err:
            raise BadSource("the data URI is not valid base64") from err
    if not data:
        raise BadSource("the data URI is empty")
    return data


def _data_problem(uri: str) -> str | None:
    if len(uri) > MAX_DATA_CHARS:
        return f"the data URI has {len(uri)} characters, at most {MAX_DATA_CHARS} are allowed"
    if _HALVES.search(uri):
        return "the data URI holds halves of characters"
    return None if "," in uri else "the data URI has no comma"


def _url_problem(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return "is no valid URL"
    if scheme not in ("http", "https"):
        return f"must be an http or https URL, a data URI, or a uri of a stored file, `{URI_PREFIX}...`"
    if not host or _UNSAFE.search(uri):
        return "is no valid URL"
    return None
