"""Whom the code in the documents calls: only a service of one's own, so that nobody who copies it hands a key or a token to another's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "proto/*.md", "docker/*.md", "client/*/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
OWN = re.compile(
    r"(127\.0\.0\.1|localhost|\[::1\]|([a-z0-9-]+\.)*example\.com|host|\.\.\."  # placeholders
    r"|optional\.webhook\.url)(:\d+)?"  # of the hosted model's page, word for word
)
_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t)(.*)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_URL = re.compile(r"\b(?:https?|wss?|grpcs?|s3|nats)://([^\s/?#\"'`<>)\\,;]*)")
_HOSTED = re.compile(
    r"(?<![\w@.-])((?:[a-z0-9-]+\.)*(?:fal\.(?:run|ai|media|dev)|falrun\.com))(?![\w(.-])(\s*[\"']\s*:)?"
)
"""A name of the hosted service, and what makes it the key of a map: there it says what is led elsewhere. `fal.run(` is a call."""


def fenced_of(text: str) -> list[str]:
    """The fenced blocks of code of a document."""
    return _FENCED.findall(text)


def blocks_of(text: str) -> str:
    """The blocks of code of a document, fenced or indented."""
    return "\n".join([*fenced_of(text), *_INDENTED.findall(_FENCED.sub("", text))])


def spans_of(text: str) -> list[str]:
    """What stands between backticks."""
    return _SPAN.findall(_FENCED.sub("", text))


def others(code: str) -> Iterator[str]:
    """Hosts in the code that are not one's own."""
    for host in _URL.findall(code):
        host = host.rpartition("@")[2]
        if not OWN.fullmatch(host) and not re.fullmatch(r"\$?\{\w+\}\S*", host):
            yield host
    yield from (host for host, key in _HOSTED.findall(code) if not key)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_calls_anybody_else(document: Path) -> None:
    text = document.read_text()
    assert list(others(blocks_of(text))) == []
    addresses = [span for span in spans_of(text) if "://" in span]  # other spans may name hosts
    assert [host for address in addresses for host in others(address)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_who_uses_the_hosted_services_client_leads_its_sockets(document: Path) -> None:
    """They go to the address that is built in, whatever the client is told; what they are led by is tried out by the conformance suite."""
    for code in fenced_of(document.read_text()):
        if 'from "@fal-ai/client"' in code or ("fal.realtime" in code and 'from "flashbulb"' not in code):
            assert "globalThis.WebSocket" in code or './here.js"' in code


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('fetch("https://fal.run/fal-ai/x")', ["fal.run", "fal.run"]),
        ("new WebSocket('wss://queue.fal.run/x')", ["queue.fal.run", "queue.fal.run"]),
        ("curl https://rest.fal.ai:443/tokens/", ["rest.fal.ai:443", "rest.fal.ai"]),
        ("http://me:secret@elsewhere.net/", ["elsewhere.net"]),
        ("http://127.0.0.1.elsewhere.net/", ["127.0.0.1.elsewhere.net"]),
        ("https://notexample.com", ["notexample.com"]),
        ('const host = "v3.fal.media";', ["v3.fal.media"]),
        ('const map = { "fal.run": "run", "queue.fal.run": "queue" };', []),
        ('await fal.run("fal-ai/x"); fal.config({ url: "http://127.0.0.1:8080" })', []),
        ("`${B}/rest` https://pictures.example.com/a http://${host}/b", []),
        ('import { fal } from "@fal-ai/client"; "fal-ai/fast-lcm-diffusion"', []),
    ],
)
def test_what_counts_as_a_call(code: str, found: list[str]) -> None:
    assert sorted(others(code)) == sorted(found)


def test_all_kinds_of_code_are_read() -> None:
    text = "a `b` c\n\n```js\nd `x`\n```\n\n    e\n    f\n\ng `h`\n"
    assert (blocks_of(text).split(), spans_of(text)) == (["d", "`x`", "e", "f"], ["b", "h"])
