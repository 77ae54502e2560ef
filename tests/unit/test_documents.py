"""No snippet of a document sends a credential to somebody else: every address in one is the reader's own, and sockets are led there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
    r"(optional\.webhook\.url|127\.0\.0\.1|localhost|0\.0\.0\.0|nats|minio|([a-z0-9-]+\.)*example(\.(com|org|net))?)(:\d+)?"
)
B = "https://pictures.example.com"


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_address_in_a_snippet_is_the_reader_s_own(path: Path) -> None:
    for block in blocks(path):
        for host in re.findall(r"(?:https?|wss?)://([^/\s\"'`$<>]+)", block):
            assert OWN.fullmatch(host), f"{path.name} names {host}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_snippet_that_opens_sockets_leads_them(path: Path) -> None:
    for block in blocks(path):
        if (
            "fal.realtime.connect" in block and 'from "flashbulb"' not in block
        ):  # our own client goes where it is told to
            assert "globalThis.WebSocket" in block


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", ["browser.md", "fal.md"])
def test_sockets_of_the_client_go_where_the_document_leads_them(name: str) -> None:
    """The document's own lines, around a socket that tells where it would go."""
    (block,) = (block for block in blocks(ROOT / "docs" / name) if "globalThis.WebSocket" in block)
    lines = block[block.index("globalThis.WebSocket") :]
    program = "globalThis.WebSocket = class { constructor(address) { console.log(JSON.stringify(address)); } };\n"
    if name == "browser.md":
        program += f"const B = {json.dumps(B)};\n" + lines[: lines.index("};") + 2]
    else:
        ours = block[: block.index("fal.config")].replace("http://127.0.0.1:8080", B)
        program += ours + lines
    program += "\nnew WebSocket('wss://fal.run/fal-ai/fast-lcm-diffusion/realtime?fal_jwt_token=secret');"
    told = subprocess.run(("node", "--input-type=module", "-e", program), capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == (
        "wss://pictures.example.com/run/fal-ai/fast-lcm-diffusion/realtime?fal_jwt_token=secret"
    )
