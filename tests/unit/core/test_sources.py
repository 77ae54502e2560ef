"""What a given picture may be."""

from __future__ import annotations

import base64

import pytest

from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.sources import (
    MAX_CONTENT_BYTES,
    MAX_DATA_CHARS,
    MAX_URI_CHARS,
    BadSource,
    inline_bytes,
    source_problem,
)

KEY = "flashbulb://files/in/tester/1795434736-" + 32 * "a" + "/image.png"


@pytest.mark.parametrize(
    "source",
    [
        SourceImage(content=b"x"),
        SourceImage(content=bytes(MAX_CONTENT_BYTES)),
        SourceImage("https://a.example/b.png?c=d#e"),
        SourceImage("HTTP://a.example:8080"),
        SourceImage("http://[2001:db8::1]/a"),
        SourceImage("https://a.example/" + "b" * (MAX_URI_CHARS - 18)),
        SourceImage("data:image/png;base64,iVBO"),
        SourceImage("DATA:,x"),
        SourceImage("data:," + "x" * (MAX_DATA_CHARS - 6)),
        SourceImage(KEY),
        SourceImage("flashbulb://files/out/tester/1/0.png"),
    ],
)
def test_good_ones(source):
    assert source_problem(source) is None


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (SourceImage(), "must be set"),
        (SourceImage(content=bytes(MAX_CONTENT_BYTES + 1)), "at most 10485760"),
        (SourceImage("https://a.example/" + "b" * (MAX_URI_CHARS - 17)), "2049 characters, at most 2048"),
        (SourceImage("data:," + "x" * (MAX_DATA_CHARS - 5)), "at most 12582912"),
        (SourceImage("data:image/png;base64"), "no comma"),
        (SourceImage("ftp://a.example/b.png"), "must be an http"),
        (SourceImage("file:///etc/passwd"), "must be an http"),
        (SourceImage("gopher://a.example"), "must be an http"),
        (SourceImage("/etc/passwd"), "must be an http"),
        (SourceImage("a.png"), "must be an http"),
        (SourceImage("javascript:alert(1)"), "must be an http"),
        (SourceImage("https://"), "no valid URL"),
        (SourceImage("https:///a.png"), "no valid URL"),
        (SourceImage("https://a.example:port/"), "no valid URL"),
        (SourceImage("https://a.example:99999/"), "no valid URL"),
        (SourceImage("http://[::1/a"), "no valid URL"),
        (SourceImage("https://a.example/b c.png"), "no valid URL"),
        (SourceImage("https://a.example/\r\nX: y"), "no valid URL"),
        (SourceImage("https://a.example/\ud800"), "no valid URL"),
        (SourceImage("flashbulb://files/"), "stored file"),
        (SourceImage("flashbulb://files/in/tester/../other"), "stored file"),
        (SourceImage("flashbulb://other/x"), "stored file"),
    ],
)
def test_bad_ones(source, problem):
    found = source_problem(source)
    assert found is not None and problem in found
    assert len(found) < 200, "what was given is not repeated"


@pytest.mark.parametrize(
    ("source", "content"),
    [
        (SourceImage(content=b"abc"), b"abc"),
        (SourceImage("data:image/png;base64," + base64.b64encode(b"abc").decode()), b"abc"),
        (SourceImage("data:image/png;charset=x;BASE64,YWJj"), b"abc"),
        (SourceImage("data:;base64,YW%4aj"), b"abc"),
        (SourceImage("data:;base64,YW Jj\n"), b"abc"),
        (SourceImage("data:image/png;base64,YWI%3D"), b"ab"),
        (SourceImage("data:,a%62c"), b"abc"),
        (SourceImage("data:,a,b"), b"a,b"),
    ],
)
def test_inline_bytes(source, content):
    assert source.inline
    assert inline_bytes(source) == content


@pytest.mark.parametrize(
    "uri", ["data:", "data:,", "data:;base64,", "data:;base64,YWJ", "data:;base64,Y-_j", "data:;base64,é"]
)
def test_data_uris_that_cannot_be_read(uri):
    with pytest.raises(BadSource, match="data URI"):
        inline_bytes(SourceImage(uri))


def test_a_place_is_not_inline():
    assert not SourceImage("https://a.example/data:,x").inline
    assert not SourceImage(KEY).inline
    assert not SourceImage().inline


def test_bytes_are_not_shown():
    assert "secret" not in repr(SourceImage(content=b"secret"))
