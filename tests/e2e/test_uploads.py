"""Files over the gateway with the whole service: every way in which fal's clients upload, and reading by link."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import fal_client
import fal_client.client
import httpx
import pytest
from PIL import Image

from tests.service import KEY, OTHER_KEY, RunningService
from tests.sockets import APPLE, LCM, http

MIB = 1 << 20
TEXT = {"content_type": "text/plain", "file_name": "hello.txt"}


def png(colour: str = "blue") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(data, "PNG")
    return data.getvalue()


async def block(count: int, size: int = 256 << 10) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"7" * size


def memory(service: RunningService) -> int:
    status = Path(f"/proc/{service.child('api')}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


async def initiated(client: httpx.AsyncClient, kind: str = "initiate", **changes: object) -> dict[str, str]:
    made = await client.post(f"/rest/storage/upload/{kind}?storage_type=fal-cdn-v3", json={**TEXT, **changes})
    assert made.status_code == 200, made.text
    return dict(made.json())


async def test_a_text_is_uploaded_as_a_browser_does(gateway: RunningService) -> None:
    async with http(gateway) as client, http(gateway, key=None) as page:
        made = await initiated(client)
        assert urlsplit(made["upload_url"]).netloc == urlsplit(made["file_url"]).netloc == gateway.http_address
        assert (await page.get(made["file_url"])).status_code == 404, "it does not exist before it has come"
        asks = {"Origin": "https://a.page", "Access-Control-Request-Method": "PUT"}
        assert (await page.options(made["upload_url"], headers=asks)).headers["access-control-allow-origin"] == "*"
        put = await page.put(
            made["upload_url"],
            content="Hello, World!",
            headers={"Origin": "https://a.page", "Content-Type": "text/plain"},
        )
        assert put.status_code == 200 and put.headers["access-control-allow-origin"] == "*"
        got = await page.get(made["file_url"], headers={"Origin": "https://a.page"})
        assert (got.text, got.headers["content-type"]) == ("Hello, World!", "text/plain")
        assert got.headers["access-control-allow-origin"] == "*"
        assert "hello.txt" in got.headers["content-disposition"]
        assert 0 < int(got.headers["cache-control"].split("max-age=")[1].split(",")[0]) <= 7 * 86_400


async def test_nothing_that_was_uploaded_acts_at_the_gateway(gateway: RunningService) -> None:
    async with http(gateway) as client:
        made = await initiated(client, content_type="text/html", file_name="page.html")
        await client.put(made["upload_url"], content="<script>alert(1)</script>")
        got = await client.get(made["file_url"])
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in got.headers["content-security-policy"]


async def test_a_part_of_a_file_is_read(gateway: RunningService) -> None:
    async with http(gateway) as client, http(gateway, key=None) as page:
        made = await initiated(client)
        await client.put(made["upload_url"], content="0123456789")
        url = made["file_url"]
        head = await page.head(url)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
        for asked, status, text in (("bytes=2-4", 206, "234"), ("bytes=-2", 206, "89"), ("bytes=7-", 206, "789")):
            got = await page.get(url, headers={"Range": asked})
            assert (got.status_code, got.text) == (status, text)
        assert got.headers["content-range"] == "bytes 7-9/10"
        assert (await page.get(url, headers={"Range": "bytes=50-"})).status_code == 416
        assert (await page.get(url, headers={"If-None-Match": head.headers["etag"]})).status_code == 304
        assert (await page.get(url[:-1])).status_code == 404
        assert (await page.get(url.replace("/files/a", "/files/b"))).status_code == 404


async def test_a_large_file_comes_in_parts_and_is_never_held(gateway: RunningService) -> None:
    """As fal's client for JavaScript does it above 90 MB: parts of 10 MiB, the number behind the path and before the query."""
    async with http(gateway) as client, http(gateway, key=None) as page:
        made = await initiated(client, "initiate-multipart")
        url = urlsplit(made["upload_url"])
        address = f"{url.scheme}://{url.netloc}{url.path}"
        before, start, parts = memory(gateway), time.monotonic(), []
        for number in range(1, 11):
            count = 40 if number < 10 else 2
            put = await page.put(
                f"{address}/{number}?{url.query}",
                content=block(count),
                headers={"Content-Length": str(count * (256 << 10))},
            )
            assert put.status_code == 200, put.text
            assert put.json()["etag"] == put.headers["etag"] and put.json()["partNumber"] == number
            parts.append(put.json())
        assert time.monotonic() - start < 60
        assert memory(gateway) - before < 40, "MiB for 90 MiB"
        assert (await page.get(made["file_url"])).status_code == 404
        wrong = await page.post(f"{address}/complete?{url.query}", json={"parts": [{"partNumber": 1, "etag": "x"}]})
        assert wrong.status_code == 422 and "parts" in wrong.json()["message"]
        done = await page.post(f"{address}/complete?{url.query}", json={"parts": parts})
        assert done.status_code == 200, done.text
        head = await page.head(made["file_url"])
        assert int(head.headers["content-length"]) == 9 * 10 * MIB + MIB // 2
        tail = await page.get(made["file_url"], headers={"Range": "bytes=-3"})
        assert tail.content == b"777"


async def test_an_upload_that_breaks_off_leaves_nothing(gateway: RunningService) -> None:
    async with http(gateway) as client:
        made = await initiated(client)
        url = urlsplit(made["upload_url"])
        host, _, port = gateway.http_address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {gateway.http_address}\r\nContent-Length: {8 * MIB}\r\n\r\n"
        )
        writer.write(head.encode() + b"x" * (6 * MIB))
        await writer.drain()
        writer.transport.abort()
        await asyncio.sleep(1)
        assert (await client.get(made["file_url"])).status_code == 404
        again = await client.put(made["upload_url"], content="whole")
        assert again.status_code == 200 and (await client.get(made["file_url"])).text == "whole"


async def test_what_cannot_be_uploaded_is_told(gateway: RunningService) -> None:
    async with http(gateway) as client, http(gateway, key=None) as page:
        made = await initiated(client)
        for size, status, says in ((0, 422, "empty"), (2 << 30, 413, "at most 1073741824")):
            refused = await announced(gateway, made["upload_url"], size)
            assert (refused.status_code, says in refused.text) == (status, True), refused.text
        assert (await page.put(made["upload_url"], content=block(1))).status_code == 411, "chunked: no size"
        assert (await page.put(made["upload_url"].replace("ticket=", "ticket=x"), content="x")).status_code == 403
        assert (await page.put(made["upload_url"].partition("?")[0], content="x")).status_code == 403
        assert (await page.post("/rest/storage/upload/initiate", json=TEXT)).status_code == 401
        bad = await client.post("/rest/storage/upload/initiate", json={"content_type": "not a type", "file_name": "a"})
        assert bad.status_code == 422 and bad.json()["detail"][0]["loc"] == ["body", "content_type"]
        bad = await client.post(
            "/rest/storage/upload/initiate", json=TEXT, headers={"X-Fal-Object-Lifecycle": '{"initial_acl":"x"}'}
        )
        assert bad.status_code == 422 and "initial_acl" in bad.text


async def announced(service: RunningService, url: str, size: int) -> httpx.Response:
    """The answer to a body that is only announced."""
    parts = urlsplit(url)
    host, _, port = service.http_address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return httpx.Response(int(head.split()[1]), content=body)


async def test_a_file_may_be_for_its_owner_alone(gateway: RunningService) -> None:
    for access, status in (("forbid", 403), ("hide", 404)):
        async with http(gateway) as client, http(gateway, key=None) as page, http(gateway, key=OTHER_KEY) as other:
            life = json.dumps({"expiration_duration_seconds": 3600, "initial_acl": {"default": access}})
            headers = {"X-Fal-Object-Lifecycle": life}
            made = (await client.post("/rest/storage/upload/initiate", json=TEXT, headers=headers)).json()
            await page.put(made["upload_url"], content="secret")
            got = await client.get(made["file_url"])
            assert (got.status_code, got.text, got.headers["cache-control"]) == (200, "secret", "private, no-store")
            assert [(await one.get(made["file_url"])).status_code for one in (page, other)] == [status, status]


async def test_links_are_known_as_inputs_of_anybody(gateway: RunningService) -> None:
    """No address of this machine may be fetched from, and none is: the file is read from the store."""
    async with http(gateway) as client, http(gateway, key=OTHER_KEY) as other:
        made = await initiated(client, content_type="image/png", file_name="blue.png")
        await client.put(made["upload_url"], content=png())
        given = {**APPLE, "image_url": made["file_url"], "strength": 0.05, "sync_mode": False}
        for one in (client, other):
            drawn = await one.post(f"/run/{LCM}/image-to-image", json=given)
            assert drawn.status_code == 200, drawn.text
        there = f"https://v3.fal.media{urlsplit(made['file_url']).path.removeprefix('/cdn')}"
        assert (await other.post(f"/run/{LCM}/image-to-image", json={**given, "image_url": there})).status_code == 200
        tampered = await other.post(f"/run/{LCM}/image-to-image", json={**given, "image_url": made["file_url"] + "x"})
        assert tampered.status_code == 422
        [image] = drawn.json()["images"]
        assert urlsplit(image["url"]).netloc == gateway.http_address, "pictures are read from the gateway, too"
        got = await other.get(image["url"])
        assert got.headers["content-type"] == "image/jpeg"
        again = await client.post(f"/run/{LCM}/image-to-image", json={**given, "image_url": image["url"]})
        assert again.status_code == 200


leaks = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
"""fal's client leaves its connections for uploads open."""


@pytest.fixture
def redirected(gateway: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fal's client for Python as it is, with its addresses changed."""
    base = f"http://{gateway.http_address}"
    monkeypatch.setattr(fal_client.client, "REST_URL", f"{base}/rest")
    monkeypatch.setattr(fal_client.client, "CDN_URL", f"{base}/cdn")
    yield
    gc.collect()  # here, where what it left open is no surprise


@leaks
@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_fals_client_uploads(redirected: None, repository: str, tmp_path: Path) -> None:
    client = fal_client.SyncClient(key=KEY)
    with closing(client._client):
        url = client.upload(b"Hello, World!", "text/plain", file_name="hello.txt", repository=repository)
        assert httpx.get(url).text == "Hello, World!"
        path = tmp_path / "blue.png"
        path.write_bytes(png())
        assert httpx.get(client.upload_file(path, repository=repository)).content == png()
        assert httpx.get(client.upload_image(Image.open(path), "png")).headers["content-type"] == "image/png"


@leaks
def test_fals_client_uploads_in_parts(redirected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fal_client.client, "MULTIPART_THRESHOLD", 10 * MIB)
    monkeypatch.setattr(fal_client.client, "MULTIPART_CHUNK_SIZE", 5 * MIB)
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(17)))
    client = fal_client.SyncClient(key=KEY)
    with closing(client._client):
        assert httpx.get(client.upload_file(path)).content == path.read_bytes()


async def test_fals_async_client_uploads(redirected: None) -> None:
    client = fal_client.AsyncClient(key=KEY)
    url = await client.upload(b"Hello, World!", "text/plain")
    async with await client._client, httpx.AsyncClient() as page:
        assert (await page.get(url)).text == "Hello, World!"


async def test_a_pass_is_for_uploads_only(gateway: RunningService) -> None:
    async with http(gateway) as client, http(gateway, key=None) as page:
        made = (await client.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={})).json()
        assert made["token_type"] == "Bearer" and made["base_url"] == f"http://{gateway.http_address}/cdn"
        assert made["expires_at"].endswith("+00:00")
        bearer = {"Authorization": f"Bearer {made['token']}"}
        assert (await page.post("/cdn/files/upload", content="x", headers=bearer)).status_code == 200
        assert (await page.post(f"/run/{LCM}", json=APPLE, headers=bearer)).status_code == 401
        forged = {"Authorization": f"Bearer {made['token'][:-1]}"}
        assert (await page.post("/cdn/files/upload", content="x", headers=forged)).status_code == 401
        begun = await page.post("/cdn/files/upload/multipart", headers={**bearer, "X-Fal-File-Name": "a"})
        other = await page.post("/cdn/files/upload/multipart", headers={**bearer, "X-Fal-File-Name": "b"})
        mixed = f"{begun.json()['access_url']}/multipart/{other.json()['uploadId']}/1"
        assert (await page.put(mixed, content="x", headers=bearer)).status_code == 403
