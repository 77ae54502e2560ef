"""Keys, uris and file specs."""

from __future__ import annotations

import uuid

import pytest

from flashbulb_server.core.files import (
    DEFAULT_LIFETIME,
    MAX_FILE_BYTES,
    MAX_LIFETIME,
    PICTURE_GRACE,
    FileSpec,
    content_disposition,
    file_spec,
    output_key,
    parse_key,
    parse_uri,
    upload_key,
    uri_of,
)
from flashbulb_server.errors import InvalidRequest

NOW = 1_800_000_000.0
UNIQUE = uuid.UUID("0123456789abcdef0123456789abcdef")


def request_id_at(seconds: float) -> str:
    """An id made at a given time. (`new_request_id` never goes back, so one from the future would age all later ones of this process.)"""
    millis = f"{int(seconds * 1000):012x}"
    return f"{millis[:8]}-{millis[8:]}-7000-8000-{uuid.uuid4().hex[:12]}"


def spec(**changes):
    given = {
        "content_type": "image/png",
        "file_name": "",
        "size_bytes": 1,
        "lifetime": None,
        "size_required": True,
        "path": "file",
    }
    return file_spec(**(given | changes))


def violations(**changes):
    with pytest.raises(InvalidRequest) as caught:
        spec(**changes)
    return {v.field: v.description for v in caught.value.violations}


def test_a_picture_s_key_derives_from_request_and_index_alone():
    request_id = request_id_at(NOW)
    key = output_key("me", request_id, 3, "jpeg")
    assert key == f"out/me/{request_id}/3.jpeg"
    parsed = parse_key(key)
    assert (parsed.kind, parsed.owner, parsed.expire_time) == ("out", "me", 0)
    assert parsed.create_time == pytest.approx(NOW, abs=0.01)


def test_an_upload_s_key_holds_owner_and_expiry():
    key = upload_key("me_2", expire_time=NOW + 0.9, unique=UNIQUE, file_name="cat.png")
    assert key == f"in/me_2/1800000000-{UNIQUE.hex}/cat.png"
    parsed = parse_key(key)
    assert (parsed.kind, parsed.owner, parsed.expire_time) == ("in", "me_2", NOW)


@pytest.mark.parametrize(
    ("file_name", "tamed"),
    [
        ("", "file"),
        ("....", "file"),
        ("ünï côde 图.png", "n-c-de-.png"),
        (".htaccess", "htaccess"),
        ("a" * 250 + ".jpeg", "a" * 59 + ".jpeg"),
        ("a?b#c%d&e=f.png", "a-b-c-d-e-f.png"),
        ("图" * 255, "file"),
    ],
)
def test_names_in_keys_are_tame(file_name, tamed):
    key = upload_key("me", expire_time=NOW, unique=UNIQUE, file_name=file_name)
    assert key.rsplit("/", 1)[1] == tamed
    assert parse_key(key) is not None
    assert len(key) < 200


@pytest.mark.parametrize(
    "key",
    [output_key("me", request_id_at(NOW), 0, "png"), upload_key("me", expire_time=NOW, unique=UNIQUE)],
    ids=["picture", "upload"],
)
def test_uris_lead_back_to_keys(key):
    assert uri_of(key) == f"flashbulb://files/{key}"
    assert parse_uri(uri_of(key)).key == key


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "flashbulb://files/",
        "flashbulb://files/in/me/1800000000-0123/x",
        f"in/me/1800000000-{UNIQUE.hex}/file",
        f"http://files/in/me/1800000000-{UNIQUE.hex}/file",
        f"flashbulb://files/in/me/../other/1800000000-{UNIQUE.hex}/file",
        f"flashbulb://files/in/me/1800000000-{UNIQUE.hex}/..",
        f"flashbulb://files/in/me/1800000000-{UNIQUE.hex}/a/b",
        f"flashbulb://files/in/me/1800000000-{UNIQUE.hex}/a\n",
        f"flashbulb://files/in/mé/1800000000-{UNIQUE.hex}/a",
        "flashbulb://files/out/me/some_id/0.png",
        "flashbulb://files/out/me/../0.png",
        "flashbulb://files/out/me/id/0",
        "flashbulb://files/out/me/id/0.png?versionId=1",
    ],
)
def test_other_uris_are_refused_by_name_of_the_field(uri):
    with pytest.raises(InvalidRequest) as caught:
        parse_uri(uri, field="image_url")
    assert [v.field for v in caught.value.violations] == ["image_url"]


def test_an_upload_expires_at_the_time_in_its_key():
    key = parse_key(upload_key("me", expire_time=NOW, unique=UNIQUE))
    long_ago = NOW - 10 * MAX_LIFETIME
    assert not key.expired(long_ago, now=NOW - 1, keep_seconds=60)
    assert key.all_later_are_young(now=NOW - 1, keep_seconds=60)
    assert key.expired(NOW, now=NOW, keep_seconds=60)
    assert not key.all_later_are_young(now=NOW, keep_seconds=60)


def test_a_picture_expires_a_while_after_it_was_written():
    key = parse_key(output_key("me", request_id_at(NOW), 0, "png"))
    written = NOW + 3000  # it waited long in the queue
    end = written + 60 + PICTURE_GRACE
    assert not key.expired(written, now=end - 1, keep_seconds=60)
    assert key.expired(written, now=end, keep_seconds=60)


def test_a_search_stops_only_where_no_picture_can_have_expired():
    key = parse_key(output_key("me", request_id_at(NOW), 0, "png"))
    end = NOW + 60 + PICTURE_GRACE
    assert key.all_later_are_young(now=end - 1, keep_seconds=60)
    assert not key.all_later_are_young(now=end + 1, keep_seconds=60)
    unordered = parse_key(output_key("me", str(uuid.uuid4()), 0, "png"))
    assert not unordered.all_later_are_young(now=NOW, keep_seconds=60)


def test_keys_of_an_owner_sort_by_age():
    uploads = [upload_key("me", expire_time=NOW + n, unique=uuid.uuid4()) for n in (0, 1, 86_400, 10**8)]
    pictures = [output_key("me", request_id_at(NOW + n), 0, "png") for n in (0, 1, 86_400, 10**8)]
    assert uploads == sorted(uploads)
    assert pictures == sorted(pictures)


def test_a_spec_gets_its_defaults():
    assert spec(size_bytes=MAX_FILE_BYTES) == FileSpec("image/png", "", MAX_FILE_BYTES, DEFAULT_LIFETIME)
    assert spec(size_bytes=0, size_required=False).size_bytes == 0


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/svg+xml", "application/vnd.api+json", "text/plain; charset=utf-8", 'text/plain;x="a b"'],
)
def test_media_types_are_taken(content_type):
    assert spec(content_type=content_type).content_type == content_type


@pytest.mark.parametrize(
    "content_type",
    [
        "png",
        "image/",
        "/png",
        "image/png\r\nX-Evil: 1",
        "image/png;",
        "imäge/png",
        "a/b c",
        "image/png ",
        "a/" + "b" * 254,
    ],
)
def test_other_media_types_are_refused(content_type):
    assert list(violations(content_type=content_type)) == ["file.content_type"]


@pytest.mark.parametrize("file_name", ["cat.png", "ünï côde 图 🐈.png", "a" * 255, "..."])
def test_file_names_are_taken(file_name):
    assert spec(file_name=file_name).file_name == file_name


@pytest.mark.parametrize(
    "file_name", ["a/b", "a\\b", "..", ".", "a\nb", "a\x00b", "a\x7fb", "a\u2028b", "a" * 256, "/etc/passwd"]
)
def test_other_file_names_are_refused(file_name):
    assert list(violations(file_name=file_name)) == ["file.file_name"]


@pytest.mark.parametrize(("size_bytes", "required"), [(0, True), (-1, False), (-1, True), (MAX_FILE_BYTES + 1, False)])
def test_sizes_out_of_range_are_refused(size_bytes, required):
    assert list(violations(size_bytes=size_bytes, size_required=required)) == ["file.size_bytes"]


@pytest.mark.parametrize("lifetime", [0, 59.9, -1, MAX_LIFETIME + 1, float("nan"), float("inf")])
def test_lifetimes_out_of_range_are_refused(lifetime):
    assert list(violations(lifetime=lifetime)) == ["file.lifetime"]


@pytest.mark.parametrize("lifetime", [60, MAX_LIFETIME])
def test_lifetimes_are_taken(lifetime):
    assert spec(lifetime=lifetime).lifetime == lifetime


def test_every_bad_field_is_reported_at_once():
    found = violations(content_type="", file_name="a/b", size_bytes=0, lifetime=1, path="open")
    assert list(found) == ["open.content_type", "open.file_name", "open.size_bytes", "open.lifetime"]
    assert found["open.content_type"] == "is required"


def test_a_file_s_name_reaches_the_browser():
    assert (
        content_disposition("cat.png", content_type="image/png")
        == "inline; filename=\"cat.png\"; filename*=UTF-8''cat.png"
    )
    header = content_disposition('ü"🐈\\.svg', content_type="image/svg+xml")
    assert header == "attachment; filename=\"____.svg\"; filename*=UTF-8''%C3%BC%22%F0%9F%90%88%5C.svg"
    assert header.isascii()
