"""The README promises only what runs: its Python, its JSON, its commands, its table of settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from google.protobuf import json_format

from flashbulb.v1 import generation_pb2
from flashbulb_server.cli import settings_table
from tests.service import KEY, RunningService

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_table_of_settings_is_the_one_of_config_py() -> None:
    found = re.search(r"<!-- settings:.*?-->\n(.*?)\n?<!-- end of settings -->", README, flags=re.S)
    assert found is not None
    assert found.group(1).strip() == settings_table().strip(), "run: make readme"


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {target for line in re.findall(r"make ([a-z -]+)", README) for target in line.split()[:1]}
    assert named <= targets


def test_every_file_that_it_links_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_message_for_grpcurl_is_a_request() -> None:
    (message,) = re.findall(r"grpcurl -plaintext.*?-d '(.*?)'", README, flags=re.S)
    request = json_format.Parse(message, generation_pb2.GenerateRequest())
    assert request.input.fast_lcm_text_to_image.prompt == "a red apple"


@pytest.mark.e2e
def test_its_curl_draws_a_picture(service: RunningService) -> None:
    found = re.search(r"\ncurl -H .*? -d '(.*?)' \\\n *127\.0\.0\.1:8080(\S+)", README)
    assert found is not None
    body, path = found.groups()
    form = {"authorization": f"Key {KEY}", "content-type": "application/x-www-form-urlencoded"}  # as curl sends it
    answer = httpx.post(f"http://{service.http_address}{path}", content=body, headers=form, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["images"][0]["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.e2e
def test_its_python_draws_a_picture(service: RunningService, tmp_path: Path) -> None:
    (code,) = blocks("python")
    environment = {"FLASHBULB_KEY": KEY, "FLASHBULB_HOST": service.address}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apple.jpeg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.e2e
def test_its_command_draws_a_picture(service: RunningService, tmp_path: Path) -> None:
    command = next(line for block in blocks("sh") for line in block.splitlines() if "flashbulb generate" in line)
    program = Path(sys.executable).with_name("flashbulb")
    done = subprocess.run(
        command.replace(".venv/bin/flashbulb", str(program)),
        shell=True,
        env={"FLASHBULB_KEY": KEY, "FLASHBULB_HOST": service.address, "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apple.jpeg").read_bytes().startswith(b"\xff\xd8")
