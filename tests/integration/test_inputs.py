"""Pictures that callers name: fetched from real servers on loopback, where one address stands for the internet and another for the inside."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flashbulb_server.config import Settings
from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.files import output_key, upload_key, uri_of
from flashbulb_server.core.generation import SourceImage
from flashbulb_server.core.ids import new_request_id
from flashbulb_server.core.sources import MAX_FETCHED_BYTES, BadSource
from flashbulb_server.errors import BadImage
from flashbulb_server.storage.file_store import FileStore
from flashbulb_server.web import guard
from flashbulb_server.web.guard import is_public
from flashbulb_server.worker.fetching import Fetcher
from flashbulb_server.worker.inputs import Inputs
from tests.specs import make_edit_spec, make_image_spec, make_inpainting_spec, make_spec

pytestmark = pytest.mark.integration

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
INFO = ModelInfo("flashbulb/tiny", (), 128, resamples=True, max_image_pixels=2**24, fidelity="EXACT")
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def outside(address: object) -> bool:
    return str(address) == OUTSIDE


def png(colour: str = "red", size: tuple[int, int] = (128, 128)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@dataclass(slots=True)
class WebServer:
    """Answers every request by hand, and closes. `heads`: those of the requests so far."""

    address: str
    port: int
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}/picture"


@asynccontextmanager
async def serving(answer: Answer, address: str = OUTSIDE, port: int = 0) -> AsyncIterator[WebServer]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found.heads.append(head)
            await answer(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, address, port)
    found = WebServer(address, server.sockets[0].getsockname()[1])
    async with server:
        yield found


def sends(body: bytes, status: str = "200 OK", **headers: str) -> Answer:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        lines = {"Content-Length": str(len(body)), "Content-Type": "text/plain", **headers}
        writer.write(f"HTTP/1.1 {status}\r\n".encode())
        writer.write("".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items()).encode())
        writer.write(b"\r\n" + body)

    return answer


def redirects(target: str, status: str = "302 Found") -> Answer:
    return sends(b"", status, Location=target)


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(allowed=outside, seconds=5) as opened:
        yield opened


@pytest.fixture
async def files(settings: Settings) -> AsyncIterator[FileStore]:
    async with FileStore(settings.files) as store:
        yield store


@pytest.fixture
async def inputs(files: FileStore) -> AsyncIterator[Inputs]:
    async with Inputs(files, {INFO.name: INFO}, allow_private_urls=True, fetch_seconds=5) as opened:
        yield opened


async def test_a_picture_is_fetched_whatever_it_says_it_is(fetcher):
    async with serving(sends(png())) as server:
        assert await fetcher.fetch(server.url + "?a=b#c") == png()
        (head,) = server.heads
    assert head.startswith("GET /picture?a=b HTTP/1.1\r\n")
    assert f"host: {OUTSIDE}:{server.port}\r\n" in head.lower()
    assert "cookie" not in head.lower() and "authorization" not in head.lower()


async def test_cookies_and_credentials_are_left_out(fetcher):
    async with serving(sends(png(), Set_Cookie="a=b; Path=/")) as server:
        await fetcher.fetch(server.url)
        await fetcher.fetch(server.url.replace("://", "://user:word@"))
    assert "cookie" not in server.heads[1].lower() and "authorization" not in server.heads[1].lower()


async def test_redirects_are_followed(fetcher):
    async with serving(sends(png())) as last:

        async def answer(head: str, writer: asyncio.StreamWriter) -> None:
            path = head.split()[1]
            target = {"/picture": "/second", "/second": "third?x"}.get(path, last.url)
            await redirects(target, "308 Permanent Redirect")(head, writer)

        async with serving(answer) as first:
            assert await fetcher.fetch(first.url) == png()
    assert [head.split()[1] for head in first.heads] == ["/picture", "/second", "/third?x"]


async def test_redirects_come_to_an_end(fetcher):
    async with serving(redirects("/picture")) as server:
        with pytest.raises(BadSource, match="redirected more than 3 times"):
            await fetcher.fetch(server.url)
    assert len(server.heads) == 4


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://a.example/", "data:,x", "flashbulb://files/in/a/b"])
async def test_a_redirect_to_something_else_than_the_web(fetcher, target):
    async with serving(redirects(target)) as server:
        with pytest.raises(BadSource, match="no http or https|broke off"):
            await fetcher.fetch(server.url)


async def test_an_address_inside_is_not_reached(fetcher):
    async with serving(sends(png()), INSIDE) as server:
        with pytest.raises(BadSource, match="address is not public"):
            await fetcher.fetch(server.url)
    assert server.heads == []


async def test_a_redirect_to_an_address_inside_is_not_followed(fetcher):
    async with serving(sends(png()), INSIDE) as inside, serving(redirects(inside.url)) as server:
        with pytest.raises(BadSource, match="address is not public"):
            await fetcher.fetch(server.url)
    assert len(server.heads) == 1 and inside.heads == []


async def test_the_address_that_was_judged_is_the_one_connected_to(fetcher, monkeypatch):
    """A name server that answers otherwise the second time finds that there is none."""
    asked = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return [OUTSIDE if len(asked) == 1 else INSIDE]

    async with serving(sends(png())) as server, serving(sends(b"secret"), INSIDE, server.port) as inside:
        monkeypatch.setattr(guard, "resolve", lookup)
        assert await fetcher.fetch(f"http://rebinding.example:{server.port}/") == png()
    assert asked == ["rebinding.example"]
    assert f"host: rebinding.example:{server.port}\r\n" in server.heads[0].lower()
    assert inside.heads == []


async def test_one_address_inside_among_others_is_enough(fetcher, monkeypatch):
    def lookup(host: str, port: int) -> list[str]:
        return [OUTSIDE, INSIDE]

    async with serving(sends(png())) as server:
        monkeypatch.setattr(guard, "resolve", lookup)
        with pytest.raises(BadSource, match="address is not public"):
            await fetcher.fetch(f"http://mixed.example:{server.port}/")
    assert server.heads == []


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.9.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
        ),
        *("224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%1"),
        *("fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1"],
)
async def test_ways_to_write_this_machine(host):
    async with serving(sends(png())) as server, Fetcher(allowed=is_public, seconds=5) as fetcher:
        with pytest.raises(BadSource):
            await fetcher.fetch(f"http://{host}:{server.port}/")
    assert server.heads == []


@pytest.mark.parametrize(
    "status", ["404 Not Found", "500 Oh No", "401 Unauthorized", "206 Partial Content", "304 Not Modified"]
)
async def test_an_answer_that_is_no_picture(fetcher, status):
    async with serving(sends(b"", status)) as server:
        with pytest.raises(BadSource, match=f"answered {status[:3]}"):
            await fetcher.fetch(server.url)


@pytest.mark.parametrize("body", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\nx", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"])  # fmt: skip
async def test_a_server_that_speaks_nonsense(fetcher, body):
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(body)

    async with serving(answer) as server:
        with pytest.raises(BadSource, match="cannot be reached, or broke off"):
            await fetcher.fetch(server.url)


async def test_nobody_there(fetcher):
    async with serving(sends(b"")) as server:
        url = server.url
    with pytest.raises(BadSource, match="cannot be reached"):
        await fetcher.fetch(url)
    with pytest.raises(BadSource, match="name is not known"):
        await fetcher.fetch("http://nobody.invalid/")


@pytest.mark.parametrize("said", [True, False])
async def test_a_file_that_is_too_large(fetcher, said):
    sent = 0

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = f"Content-Length: {MAX_FETCHED_BYTES + 1}\r\n" if said else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while not writer.is_closing() and sent < 4 * MAX_FETCHED_BYTES:
            writer.write(bytes(256 * 1024))
            sent += 256 * 1024
            await writer.drain()

    async with serving(answer) as server:
        with pytest.raises(BadSource, match="has more than 20971520 bytes"):
            await fetcher.fetch(server.url)
    assert sent < 2 * MAX_FETCHED_BYTES


async def test_a_server_that_drips_in_time():
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    start = time.monotonic()
    async with serving(answer) as server, Fetcher(allowed=outside, seconds=0.3) as fetcher:
        with pytest.raises(BadSource, match=r"within 0\.3 s"):
            await fetcher.fetch(server.url)
        assert 0.25 < time.monotonic() - start < 3


async def test_a_spec_without_pictures_waits_for_nothing(inputs):
    assert await inputs.gather(make_spec(), "tester") is None


async def test_every_kind_of_source(inputs, files):
    key = upload_key("tester", expire_time=time.time() + 600, unique=uuid.uuid4(), file_name="a.png")
    await files.put(key, png("blue"), content_type="image/png", expire_time=time.time() + 600)
    drawn = output_key("tester", new_request_id(time.time()), 0, "png")
    await files.put(drawn, png("white"), content_type="image/png", expire_time=time.time() + 600)
    async with serving(sends(png("lime"))) as server:
        for source, colour in (
            (SourceImage(content=png("red")), (255, 0, 0)),
            (SourceImage("data:image/png;base64," + base64.b64encode(png("yellow")).decode()), (255, 255, 0)),
            (SourceImage(server.url), (0, 255, 0)),
            (SourceImage(uri_of(key)), (0, 0, 255)),
            (SourceImage(uri_of(drawn)), (255, 255, 255)),
            (SourceImage(files.link(key, seconds=60).url), (0, 0, 255)),
        ):
            found = await inputs.gather(make_image_spec(image=source), "tester")
            assert found is not None and found.mask is None and (found.width, found.height) == (128, 128)
            assert found.image.shape == (128, 128, 3)
            assert (found.image == np.array(colour)).all()


async def test_the_services_own_links_are_files_also_where_private_addresses_are_not_reached(files):
    key = upload_key("tester", expire_time=time.time() + 600, unique=uuid.uuid4())
    await files.put(key, png(), content_type="image/png", expire_time=time.time() + 600)
    link = files.link(key, seconds=60).url
    async with Inputs(files, {INFO.name: INFO}, allow_private_urls=False) as inputs:
        assert await inputs.gather(make_image_spec(image=SourceImage(link)), "tester") is not None
        with pytest.raises(BadImage, match="address is not public"):
            await inputs.gather(make_image_spec(image=SourceImage(link)), "stranger")


async def test_a_mask_comes_along(inputs):
    spec = make_inpainting_spec(
        width=512, height=256, image=SourceImage(content=png()), mask=SourceImage(content=png("white", (10, 10)))
    )
    found = await inputs.gather(spec, "tester")
    assert found.image.shape == (64, 128, 3) and found.mask.shape == (64, 128)
    assert (found.mask == 255).all() and (found.width, found.height) == (512, 256)


@pytest.mark.parametrize(
    ("image", "mask", "problem"),
    [
        (SourceImage(content=b"hello"), SourceImage(content=png()), "image_url: is no whole picture"),
        (SourceImage(content=png()), SourceImage(content=png()[:60]), "mask_url: is no whole picture"),
        (SourceImage("data:;base64,x"), SourceImage(content=png()), "image_url: the data URI is not valid base64"),
        (SourceImage(content=png()), SourceImage(f"http://{INSIDE}:9/"), "mask_url: the server cannot be reached"),
    ],
)
async def test_a_problem_names_the_field(inputs, image, mask, problem):
    with pytest.raises(BadImage, match=problem) as caught:
        await inputs.gather(make_inpainting_spec(image=image, mask=mask), "tester")
    assert caught.value.metadata["field"] == problem.partition(":")[0]


async def test_pictures_of_an_edit_keep_their_sizes_and_their_order(inputs):
    async with serving(sends(png("blue", (30, 90)))) as server:
        red = SourceImage(content=png("red", (200, 10)))
        found = await inputs.gather(make_edit_spec(red, SourceImage(server.url), width=64, height=32), "tester")
    assert [picture.shape for picture in found.pictures] == [(10, 200, 3), (90, 30, 3)]
    assert [tuple(picture[0, 0]) for picture in found.pictures] == [(255, 0, 0), (0, 0, 255)]
    assert (found.mask, found.width, found.height) == (None, 64, 32)
    assert await inputs.gather(make_edit_spec(), "tester") is None


async def test_a_bad_picture_of_an_edit_is_named_by_its_place(inputs):
    good = SourceImage(content=png())
    with pytest.raises(BadImage, match="is no whole picture") as caught:
        await inputs.gather(make_edit_spec(good, SourceImage(content=b"hello")), "tester")
    assert caught.value.metadata["field"] == "input_image_urls[1]"


async def test_the_pictures_of_an_edit_share_the_pixels_of_one(inputs):
    large = SourceImage(content=png(size=(5000, 4000)))
    assert len((await inputs.gather(make_edit_spec(large, large), "tester")).pictures) == 2
    with pytest.raises(BadImage, match="at most 50 megapixels are allowed all together") as caught:
        await inputs.gather(make_edit_spec(large, large, large), "tester")
    assert caught.value.metadata["field"] == "input_image_urls[2]"


async def test_files_of_others_and_of_nobody_are_not_there(inputs, files):
    key = upload_key("other", expire_time=time.time() + 600, unique=uuid.uuid4())
    await files.put(key, png(), content_type="image/png", expire_time=time.time() + 600)
    mine = upload_key("tester", expire_time=time.time() + 600, unique=uuid.uuid4())
    for missing in (key, mine):
        with pytest.raises(BadImage, match="image_url: no such file"):
            await inputs.gather(make_image_spec(image=SourceImage(uri_of(missing))), "tester")


async def test_a_slow_server_holds_up_nobody_with_a_picture_of_his_own_in_time(inputs):
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with serving(answer) as server:
        slow = [
            asyncio.ensure_future(inputs.gather(make_image_spec(image=SourceImage(server.url)), "a")) for _ in range(20)
        ]
        async with asyncio.timeout(3):
            while len(server.heads) < 8:
                await asyncio.sleep(0.01)
            assert await inputs.gather(make_image_spec(image=SourceImage(content=png())), "b") is not None
        assert len(server.heads) == 8, "no more than so many at once"
        for task in slow:
            task.cancel()
        done, _ = await asyncio.wait(slow, timeout=3)
        assert len(done) == 20
