"""Uploads, pictures that are uploaded by themselves, downloads."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import PIL.Image
import pytest

import flashbulb
from flashbulb import _decode
from flashbulb._files import INLINE_BYTES
from flashbulb._payload import CHUNK_BYTES
from flashbulb.v1 import storage_pb2
from tests.client.scripted import failure, output, submitted

STORED = storage_pb2.UploadResponse(
    file=storage_pb2.File(uri="flashbulb://files/k/1", url="http://x/1", content_type="image/png", size_bytes=3)
)
PNG = b"\x89PNG\r\n\x1a\n"
BIG = PNG + bytes(range(256)) * 8192  # 2 MiB


def picture(side: int) -> PIL.Image.Image:
    return PIL.Image.frombytes("RGB", (side, side), bytes(i * 7919 % 251 for i in range(side * side * 3)))


def received(messages):
    """The spec and the bytes of an upload."""
    first, *rest = messages
    assert first.WhichOneof("message") == "open"
    assert all(m.WhichOneof("message") == "chunk" and 0 < len(m.chunk) <= CHUNK_BYTES for m in rest)
    return first.open, b"".join(m.chunk for m in rest)


async def test_an_upload_goes_in_chunks(client, server):
    server.expect("Upload", STORED)
    stored = await client.upload(BIG, lifetime=60.5, file_name="a.png")
    spec, data = received(server.requests("Upload")[0])
    assert data == BIG
    assert len(server.requests("Upload")[0]) == 1 + -(-len(BIG) // CHUNK_BYTES)
    assert (spec.content_type, spec.file_name, spec.size_bytes) == ("image/png", "a.png", len(BIG))
    assert spec.lifetime.ToTimedelta().total_seconds() == 60.5
    assert stored == flashbulb.File("flashbulb://files/k/1", "http://x/1", "image/png", 3)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "path", "str", "file", "buffer", "pil"])
async def test_whatever_holds_a_file_can_be_uploaded(client, server, tmp_path, kind):
    image = picture(32)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    path = tmp_path / "p.png"
    path.write_bytes(data)
    server.expect("Upload", STORED)
    with path.open("rb") as opened:
        sources = {
            "bytes": data,
            "bytearray": bytearray(data),
            "path": path,
            "str": str(path),
            "file": opened,
            "buffer": io.BytesIO(data),
            "pil": image,
        }
        await client.upload(sources[kind])
    spec, sent = received(server.requests("Upload")[0])
    assert sent == data
    assert (spec.content_type, spec.size_bytes) == ("image/png", len(data))
    assert spec.file_name == ("p.png" if kind in ("path", "str", "file") else "")


@pytest.mark.parametrize(
    ("head", "name", "given", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "", None, "image/jpeg"),
        (b"RIFF\0\0\0\0WEBP", "", None, "image/webp"),
        (PNG, "wrong.jpeg", None, "image/png"),
        (b"hello", "notes.txt", None, "text/plain"),
        (b"hello", "", None, "application/octet-stream"),
        (PNG, "", "image/x-own", "image/x-own"),
    ],
)
async def test_media_types(client, server, tmp_path, head, name, given, expected):
    source = head
    if name:
        source = tmp_path / name
        source.write_bytes(head)
    server.expect("Upload", STORED)
    await client.upload(source, content_type=given)
    assert received(server.requests("Upload")[0])[0].content_type == expected


async def test_an_upload_that_broke_starts_from_the_first_byte(client, server, tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(BIG)
    server.expect("Upload", failure("UNAVAILABLE"), STORED)
    await client.upload(path)
    assert [received(messages)[1] == BIG for messages in server.requests("Upload")] == [True, True]


@pytest.mark.parametrize("source", [b"", "missing.png", io.StringIO("text"), 3, None], ids=lambda s: type(s).__name__)
async def test_what_cannot_be_read_is_bad_input(client, source):
    with pytest.raises(flashbulb.InvalidInput):
        await client.upload(source)


async def test_a_file_is_deleted(client, server):
    server.expect("DeleteFile", storage_pb2.DeleteFileResponse())
    await client.delete_file("flashbulb://files/k/1")
    assert server.requests("DeleteFile")[0].uri == "flashbulb://files/k/1"


@pytest.mark.parametrize("kind", ["bytes", "path", "pil"])
async def test_a_small_picture_travels_inside_the_input(client, server, tmp_path, kind):
    path = tmp_path / "p.png"
    path.write_bytes(PNG)
    server.expect("Submit", submitted())
    await client.submit(flashbulb.ImageToImage("a", {"bytes": PNG, "path": path, "pil": picture(8)}[kind]))
    source = server.requests("Submit")[0].input.fast_lcm_image_to_image.image_url
    assert source.content.startswith(PNG)


@pytest.mark.parametrize("kind", ["bytes", "path", "pil"])
async def test_a_large_picture_is_uploaded_first(client, server, tmp_path, kind):
    path = tmp_path / "p.png"
    path.write_bytes(BIG)
    image = PIL.Image.effect_noise((800, 800), 90)
    server.expect("Upload", STORED)
    server.expect("Submit", submitted())
    await client.submit(flashbulb.ImageToImage("a", {"bytes": BIG, "path": path, "pil": image}[kind]))
    assert server.requests("Submit")[0].input.fast_lcm_image_to_image.image_url.uri == "flashbulb://files/k/1"
    assert received(server.requests("Upload")[0])[0].size_bytes >= INLINE_BYTES


async def test_several_pictures_and_one_given_twice(client, server):
    server.expect("Upload", STORED)
    server.expect("Submit", submitted())
    await client.submit("omnigen-v1", prompt="a", input_image_urls=[BIG, PNG, "http://x/a.png", BIG])
    sources = server.requests("Submit")[0].input.omnigen_v1.input_image_urls
    assert [s.uri or s.content for s in sources] == [
        "flashbulb://files/k/1",
        PNG,
        "http://x/a.png",
        "flashbulb://files/k/1",
    ]


async def test_a_result_is_an_input(client, server):
    image = _decode.image(output(content=PNG).images[0])
    server.expect("Submit", submitted())
    await client.submit(flashbulb.ImageToImage("a", image))
    assert server.requests("Submit")[0].input.fast_lcm_image_to_image.image_url.content == PNG


async def test_pictures_that_cannot_be_read_are_named_and_nothing_is_sent(client, tmp_path):
    with pytest.raises(flashbulb.InvalidInput) as caught:
        await client.submit(flashbulb.Inpainting("a", tmp_path / "no.png", b""), seed=1)
    assert [v.field for v in caught.value.violations] == ["image_url", "mask_url"]


async def test_nothing_is_uploaded_for_a_bad_input(client):
    with pytest.raises(flashbulb.InvalidInput):
        await client.submit(flashbulb.ImageToImage("a", BIG), steps=4)


@pytest.fixture
def links():
    """An HTTP server of one picture, `/p.jpeg`; everything else is 403. Answers (url of a path, headers that came)."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers)
            found = self.path.startswith("/p.png")
            body = png_of(4) if found else b"<Error/>"
            self.send_response(200 if found else 403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield (lambda path: f"http://127.0.0.1:{http.server_port}{path}"), seen
    http.shutdown()
    http.server_close()
    thread.join()


def png_of(side: int) -> bytes:
    buffer = io.BytesIO()
    picture(side).save(buffer, "PNG")
    return buffer.getvalue()


def image_at(url: str, content: bytes = b"") -> flashbulb.Image:
    return _decode.image(output(url=url, content=content).images[0])


async def test_a_picture_is_read_by_its_link(links, tmp_path):
    url, seen = links
    image = image_at(url("/p.png?signature=s"))
    assert image.read() == png_of(4)
    assert await image.aread() == png_of(4)
    assert image.save(tmp_path / "a.png").read_bytes() == png_of(4)
    assert (await image.asave(str(tmp_path / "b.png"))).read_bytes() == png_of(4)
    assert image.pil().size == (4, 4)
    assert all("authorization" not in headers for headers in seen)


async def test_bytes_that_came_along_are_not_fetched(links):
    url, seen = links
    image = image_at(url("/p.png"), b"here")
    assert (image.read(), await image.aread()) == (b"here", b"here")
    assert not seen
    assert "here" not in repr(image)


@pytest.mark.parametrize("path", ["/expired?signature=secret", None], ids=["expired", "nobody there"])
async def test_a_link_that_does_not_work_is_an_error_without_its_signature(links, path):
    url, _ = links
    image = image_at(url(path) if path else "http://127.0.0.1:1/p?signature=secret")
    with pytest.raises(flashbulb.DownloadFailed) as caught:
        image.read()
    assert "secret" not in str(caught.value)
    with pytest.raises(flashbulb.DownloadFailed):
        await image.aread()


def test_a_picture_without_bytes_and_link_is_an_error():
    with pytest.raises(flashbulb.DownloadFailed, match="neither"):
        image_at("").read()
