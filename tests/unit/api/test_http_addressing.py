"""Surfaces by prefix and by host, links back to them, and endpoints in paths."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from flashbulb_server.api.http.addressing import AddressedByHost, Surface, public_url, split_path
from flashbulb_server.config import HttpSettings


def connection(scheme="http", server=("10.0.0.1", 8080), **headers) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "scheme": scheme, "server": server, "headers": raw, "path": "/"})


@pytest.mark.parametrize(
    ("host", "path", "seen"),
    [
        ("127.0.0.1:8080", "/queue/fal-ai/x", "/queue/fal-ai/x"),
        ("queue.fal.run", "/fal-ai/x", "/queue/fal-ai/x"),
        ("QUEUE.fal.run:443", "/fal-ai/x", "/queue/fal-ai/x"),
        ("fal.run", "/fal-ai/x", "/run/fal-ai/x"),
        ("rest.alpha.fal.ai", "/tokens/", "/rest/tokens/"),
        ("rest.fal.ai", "/tokens/", "/rest/tokens/"),
        ("v3.fal.media", "/files/upload", "/cdn/files/upload"),
        ("ws.fal.run", "/x", "/ws/x"),
        ("evil-fal.run", "/x", "/x"),
    ],
)
@pytest.mark.parametrize("header", [b"host", b"x-forwarded-host"])
async def test_a_host_is_a_prefix(host, path, seen, header):
    paths = []

    async def app(scope, receive, send):
        paths.append((scope["path"], scope["raw_path"]))

    headers = [(b"host", b"inside:80"), (header, host.encode())] if header != b"host" else [(header, host.encode())]
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": headers}
    await AddressedByHost(app)(scope, None, None)
    assert paths == [(seen, seen.encode())]


@pytest.mark.parametrize(
    ("given", "public", "url"),
    [
        ({"host": "127.0.0.1:8080"}, "", "http://127.0.0.1:8080/queue"),
        ({"host": "127.0.0.1:8080", "scheme": "https"}, "", "https://127.0.0.1:8080/queue"),
        ({"host": "[::1]:80"}, "", "http://[::1]:80/queue"),
        (
            {"host": "in", "x_forwarded_host": "out.example", "x_forwarded_proto": "https"},
            "",
            "https://out.example/queue",
        ),
        ({"host": "in", "x_forwarded_host": "a.example, b.example"}, "", "http://a.example/queue"),
        ({"host": "in", "x_forwarded_prefix": "/ai/"}, "", "http://in/ai/queue"),
        ({"host": "in", "x_forwarded_prefix": '/"><'}, "", "http://in/queue"),
        ({"host": "in"}, "https://pictures.example/", "https://pictures.example/queue"),
        ({"host": "queue.fal.run", "scheme": "https"}, "https://pictures.example", "https://queue.fal.run"),
        ({"host": "fal.run:444"}, "", "https://queue.fal.run:444"),
        ({"host": "fal.run"}, "", "https://queue.fal.run"),
        ({"host": "fal.run:80"}, "", "https://queue.fal.run"),
        ({"host": 'a"b<'}, "", "http://10.0.0.1:8080/queue"),
        ({"host": "in", "x_forwarded_proto": "javascript"}, "", "http://10.0.0.1:8080/queue"),
        ({}, "", "http://10.0.0.1:8080/queue"),
    ],
)
def test_links_lead_where_the_caller_came_from(given, public, url):
    assert public_url(connection(**given), Surface.QUEUE, HttpSettings(public_url=public)) == url


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("fal-ai/fast-lcm-diffusion", ("fast-lcm-diffusion", "fal-ai/fast-lcm-diffusion", "")),
        ("/fal-ai/fast-lcm-diffusion/", ("fast-lcm-diffusion", "fal-ai/fast-lcm-diffusion", "")),
        ("flashbulb/fast-lcm-diffusion", ("fast-lcm-diffusion", "flashbulb/fast-lcm-diffusion", "")),
        ("fal-ai/flux-lora/inpainting", ("flux-lora/inpainting", "fal-ai/flux-lora/inpainting", "")),
        ("fal-ai/flux-lora/stream", ("flux-lora", "fal-ai/flux-lora", "stream")),
        ("fal-ai/flux-lora/inpainting/stream", ("flux-lora/inpainting", "fal-ai/flux-lora/inpainting", "stream")),
        ("acme/flux-lora", None),
        ("fal-ai", None),
        ("fal-ai/other", None),
        ("", None),
        ("/", None),
    ],
)
def test_endpoints_in_paths(path, found):
    split = split_path(path)
    assert (split and (split[0].id, *split[1:])) == found
