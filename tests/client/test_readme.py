"""The examples of the client's README run, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flashbulb
from flashbulb import _shortcuts
from flashbulb._cli_app import app
from flashbulb.v1 import generation_pb2, queue_pb2, realtime_pb2
from tests.client import scripted
from tests.client.scripted import KEY, changed, finished, submitted

README = (Path(flashbulb.__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    (flashbulb .*)$", README, re.MULTILINE)
SUCCEEDED = scripted.State.STATE_SUCCEEDED


def draw(server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(1, SUCCEEDED)])
    server.expect("GetResult", finished())


def submit(server):
    Path("apple.jpeg").write_bytes(b"\xff\xd8\xff")
    server.expect("Submit", submitted())
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request(queue_position=4)))
    server.expect("GetResult", finished())


def stream(server):
    server.expect("GenerateStream", [generation_pb2.GenerateStreamResponse(output=scripted.output())])


def live(server):
    server.expect("Connect", scripted.drawing)


def tokens(server):
    server.expect("CreateToken", realtime_pb2.CreateTokenResponse(token="t1"))
    server.expect("Connect", scripted.drawing)


SCRIPTS = {"draw": draw, "submit": submit, "stream": stream, "live": live, "tokens": tokens}


@pytest.mark.parametrize(("example", "script"), [*zip(EXAMPLES, SCRIPTS.values(), strict=True)], ids=SCRIPTS)
def test_the_examples_run(server, tmp_path, monkeypatch, example, script):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHBULB_HOST", server.host)
    monkeypatch.setenv("FLASHBULB_KEY", KEY)
    _shortcuts.default_client.cache_clear()
    script(server)
    try:
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})  # our own text
    finally:
        _shortcuts.default_client().close()
        _shortcuts.default_client.cache_clear()
    assert Path("apple.jpeg").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_and_their_options_exist(command):
    _, name, *arguments = shlex.split(command)
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    assert "Usage" in text
    for option in (a for a in arguments if a.startswith("-")):
        assert option in text


def test_every_command_and_error_is_in_the_readme():
    assert {shlex.split(c)[1] for c in COMMANDS} == {c.name or c.callback.__name__ for c in app.registered_commands}
    section = README[README.index("## Errors") :]
    for name in flashbulb.__all__:
        value = getattr(flashbulb, name)
        direct = isinstance(value, type) and value.__base__ is flashbulb.FlashbulbError
        assert not direct or f"`{name}`" in section or name == "RequestEnded", name
