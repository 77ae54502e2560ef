"""`flashbulb live`: keys and pictures in a pseudo-terminal, and lines, files, JSON and exit codes without one."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib
from pathlib import Path

import PIL.Image
import pytest
from typer.testing import CliRunner

import flashbulb
from flashbulb import _live_screen
from flashbulb._cli_app import app
from flashbulb._config import terminal_graphics
from flashbulb._live_graphics import fit, render
from flashbulb._live_line import Line
from flashbulb.v1 import realtime_pb2
from tests.client.scripted import KEY, LIMIT, closed, drawing, drawn, failure, not_drawn, opened

PACKAGE = str(Path(flashbulb.__file__).parents[1])


def picture(size=(64, 64), color=(200, 30, 30)) -> bytes:
    PIL.Image.new("RGB", size, color).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def image(content=b"", width=64, height=64) -> flashbulb.Image:
    content = content or picture((width, height))
    return flashbulb.Image("", content, "image/jpeg", width, height, width, height, len(content), 7)


def painting(requests):
    """A session that draws real pictures."""
    next(requests)
    yield opened()
    for request in requests:
        if request.WhichOneof("message") == "frame":
            yield drawn(request.frame, content=picture())


def prompts(call) -> list[str]:
    frames = [message.frame for message in call.request if message.WhichOneof("message") == "frame"]
    return [frame.changes.fast_lcm_text_to_image.prompt for frame in frames]


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Runs `live` with lines on stdin in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHBULB_HOST", server.host)
    monkeypatch.setenv("FLASHBULB_KEY", KEY)
    return lambda *arguments, lines="": CliRunner().invoke(app, ["live", *arguments], input=lines)


def test_a_picture_for_every_line(run, server):
    server.expect("Connect", drawing)
    done = run("--size", "64x64", "--steps", "2", "--seed", "7", "-o", "new/folder", lines="a\n\n b \n")
    assert done.exit_code == 0, done.stderr
    assert [line.split("  ")[:2] for line in done.stdout.splitlines()] == [["new/folder/live.jpeg", "seed 0"]] * 2
    assert os.listdir("new/folder") == ["live.jpeg"]
    assert Path("new/folder/live.jpeg").read_bytes() == b"b"
    assert prompts(server.calls[0]) == ["a", "b"]
    opening = server.calls[0].request[0].open
    assert (opening.max_frames_in_flight, opening.HasField("similar_image_threshold")) == (1, False)
    defaults = opening.defaults.fast_lcm_text_to_image
    assert (defaults.image_size.dimensions.width, defaults.num_inference_steps, defaults.seed) == (64, 2, 7)
    assert (defaults.prompt, opening.frame_policy) == ("", realtime_pb2.FRAME_POLICY_ALL)


def test_json_is_all_of_stdout(run, server):
    server.expect("Connect", drawing)
    done = run("first", "--json", lines="second\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(a["prompt"], a["frame_id"], a["files"]) for a in answers] == [
        ("first", 1, ["live.jpeg"]),
        ("second", 2, ["live.jpeg"]),
    ]
    assert (answers[0]["age"], answers[0]["superseded"], answers[0]["fidelity"]) == (0.025, 0, "close")
    assert "content" not in answers[0]["images"][0]
    assert done.stderr == ""


def test_a_picture_to_start_from_chooses_the_endpoint(run, server):
    Path("p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    server.expect("Connect", drawing)
    assert run("--image", "p.png", "--strength", "0.5", lines="a\n").exit_code == 0
    defaults = server.calls[0].request[0].open.defaults.fast_lcm_image_to_image
    assert defaults.image_url.content.startswith(b"\x89PNG")
    assert defaults.strength == 0.5


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_line_is_said_and_the_next_one_drawn(run, server, as_json):
    def converse(requests):
        next(requests)
        yield opened()
        first = next(requests).frame
        yield not_drawn(first.frame_id, "INVALID", error=failure("INVALID_ARGUMENT", "INVALID_INPUT", "too rude"))
        yield drawn(next(requests).frame)
        for _ in requests:
            pass

    server.expect("Connect", converse)
    done = run(*["--json"] * as_json, lines="rude\nkind\n")
    assert done.exit_code == 2
    assert "error: too rude" in done.stderr or json.loads(done.stdout.splitlines()[0])["error"]["message"] == "too rude"
    assert Path("live.jpeg").read_bytes() == b"kind"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_whose_picture_is_similar_is_no_error(run, server, as_json):
    def converse(requests):
        next(requests)
        yield opened()
        frames = (request.frame for request in requests if request.WhichOneof("message") == "frame")
        yield drawn(next(frames))
        yield not_drawn(next(frames).frame_id, "SIMILAR")
        for _ in requests:
            pass

    server.expect("Connect", converse)
    options = ["--max-in-flight", "2", "--similar-threshold", "0.02", *["--json"] * as_json]
    done = run(*options, lines="a\na\n")
    assert (done.exit_code, done.stderr) == (0, "")
    opening = server.calls[0].request[0].open
    assert (opening.max_frames_in_flight, opening.similar_image_threshold) == (2, 0.02)
    if as_json:
        told = json.loads(done.stdout.splitlines()[1])
        assert (told["reason"], told["error"]) == ("similar", None)


def test_an_idle_session_is_opened_again(server, tmp_path):
    def idle(requests):
        next(requests)
        yield opened()
        yield drawn(next(requests).frame)
        yield closed("IDLE")
        for _ in requests:
            pass

    server.expect("Connect", idle, drawing)
    environment = {"FLASHBULB_HOST": server.host, "FLASHBULB_KEY": KEY, "PYTHONPATH": PACKAGE}
    command = [sys.executable, "-m", "flashbulb._cli", "live"]
    with subprocess.Popen(command, env=os.environ | environment, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert server.wait_for("Connect").ended.wait(LIMIT)
        process.communicate(b"b\n", LIMIT)
    assert process.returncode == 0
    assert [prompts(call) for call in server.calls] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [("UNAUTHENTICATED", "KEY_UNKNOWN", 3), ("INVALID_ARGUMENT", "INVALID_INPUT", 2), ("RESOURCE_EXHAUSTED", "", 5)],
)
def test_exit_codes(run, server, code, reason, expected):
    server.expect("Connect", failure(code, reason, "the message"))
    done = run("--json", lines="a\n")
    assert done.exit_code == expected
    assert json.loads(done.stdout)["error"]["message"] == "the message"


def test_nothing_to_draw_is_no_error(run, server):
    assert run().exit_code == 0
    assert not server.calls


def test_bad_usage_is_2(run, server, monkeypatch):
    assert run("--steps", "few").exit_code == 2
    assert run("--endpoint", "nothing", lines="a\n").exit_code == 2
    assert not server.calls


class Terminal:
    """`flashbulb live` in a pseudo-terminal, which is the one that it belongs to."""

    def __init__(self, server, folder, *arguments, graphics="blocks", columns=80, lines=24, owned=True):
        self.keys, inner = os.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TMUX", "COLUMNS")}
        environment |= {
            "FLASHBULB_HOST": server.host,
            "FLASHBULB_KEY": KEY,
            "FLASHBULB_GRAPHICS": graphics,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "PYTHONPATH": PACKAGE,
        }
        own = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); " if owned else ""
        start = f"{own}import runpy; runpy.run_module('flashbulb._cli', run_name='__main__')"
        command = [sys.executable, "-c", start, "live", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
        )
        self.seen = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.keys, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def wait(self, condition) -> None:
        """Reads what the command writes until a condition of it holds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.keys], [], [], 0.05)[0]:
                self.seen += os.read(self.keys, 65536)

    def end(self) -> int:
        """The exit code; nothing may be left of raw mode."""
        self.wait(lambda: self.process.poll() is not None)
        while select.select([self.keys], [], [], 0)[0]:
            self.seen += os.read(self.keys, 65536)
        assert termios.tcgetattr(self.inner) == self.before
        return self.process.returncode

    def hang_up(self) -> None:
        """The terminal's window is closed."""
        os.close(self.keys)
        self.keys = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.keys >= 0:
            os.close(self.keys)
        os.close(self.inner)


@pytest.fixture
def terminal(server, tmp_path):
    made = []

    def start(*arguments, **options):
        made.append(Terminal(server, tmp_path, *arguments, **options))
        return made[-1]

    yield start
    for item in made:
        item.close()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_a_picture_follows_every_key(server, terminal, tmp_path, key):
    server.expect("Connect", painting)
    screen = terminal("--seed", "7")
    screen.wait(lambda: b"type what to draw" in screen.seen)
    for typed in ("a", "p", "ple\x7fes\x17a r", "\x1b[Aed"):
        before = len(prompts(server.calls[0])) if server.calls else 0
        screen.type(typed)
        screen.wait(lambda before=before: server.calls and len(prompts(server.calls[0])) > before)
    screen.wait(lambda: prompts(server.calls[0])[-1] == "a red")
    screen.wait(lambda: re.search(rb"pictures/s  age \d+ ms \(25 at the server\)", screen.seen))
    screen.wait((tmp_path / "live.jpeg").exists)
    screen.wait(lambda: "\u2580".encode() in screen.seen)
    assert b"38;2;" in screen.seen  # in colors
    screen.type(key)
    assert screen.end() == 0
    assert screen.seen.rindex(b"\x1b[?1049l") > screen.seen.rindex(b"\x1b[?1049h")
    assert re.search(rb"\d+ pictures, the last one:  live.jpeg", screen.seen)
    assert os.listdir(tmp_path) == ["live.jpeg"]


@pytest.mark.slow
def test_a_signal_puts_the_terminal_back(server, terminal):
    server.expect("Connect", painting)
    screen = terminal("a red apple", graphics="iterm2")
    screen.wait(lambda: b"\x1b]1337;File=inline=1" in screen.seen)
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 0


SIZES = [(0, 0), (0, 24), (1, 1), (1, 24), (2, 24), (3, 2), (3, 24), (12, 2), (80, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_a_terminal_without_room_draws_on_and_ends_when_it_is_told_to(server, terminal, tmp_path, columns, lines):
    server.expect("Connect", painting)
    screen = terminal("a red apple on a table", columns=columns, lines=lines)
    screen.wait((tmp_path / "live.jpeg").exists)
    screen.type("!")
    screen.wait(lambda: prompts(server.calls[0])[-1].endswith("!"))
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 0


@pytest.mark.slow
def test_a_terminal_may_become_as_small_as_it_likes(server, terminal):
    server.expect("Connect", painting)
    screen = terminal("a red apple")
    screen.wait(lambda: server.calls and prompts(server.calls[0]) == ["a red apple"])
    for number, (columns, lines) in enumerate(SIZES):
        screen.resize(columns, lines)
        screen.type(str(number))
        screen.wait(lambda number=number: prompts(server.calls[0])[-1].endswith(str(number)))
    screen.type("\x03")
    assert screen.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("owned", [True, False], ids=["its own", "another's"])
@pytest.mark.parametrize("columns", [80, 2, 0])
def test_a_terminal_that_is_closed_ends_it(server, terminal, columns, owned):
    server.expect("Connect", painting)
    screen = terminal("a red apple", columns=columns, owned=owned)
    screen.wait(lambda: server.calls and prompts(server.calls[0]) == ["a red apple"])
    screen.hang_up()
    assert screen.process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("text", "columns", "line"),
    [
        ("abc", 80, "> abc"),
        ("abcdef", 6, "> cdef"),
        ("abcdef", 3, "> f"),
        ("abcdef", 2, "> "),
        ("abcdef", 1, ">"),
        ("abcdef", 0, ""),
        ("abcdef", -3, ""),
        ("画像", 5, "> 像"),
        ("画像", 3, "> "),
    ],
)
def test_the_end_of_what_is_typed_is_shown(text, columns, line):
    assert _live_screen._tail("> ", text, columns) == line


@pytest.mark.slow
def test_what_ends_the_session_is_shown_on_the_usual_screen(server, terminal):
    server.expect("Connect", failure("UNAUTHENTICATED", "KEY_UNKNOWN", "who are you"))
    screen = terminal("a red apple")
    assert screen.end() == 3
    assert b"error: who are you" in screen.seen[screen.seen.rindex(b"\x1b[?1049l") :]


@pytest.mark.slow
def test_typing_goes_on_after_an_idle_session(server, terminal):
    def idle(requests):
        next(requests)
        yield opened()
        yield drawn(next(requests).frame, content=picture())
        next(requests)  # the acknowledgement
        yield closed("IDLE")
        for _ in requests:
            pass

    server.expect("Connect", idle, painting)
    screen = terminal("a")
    screen.wait(lambda: b"asleep" in screen.seen)
    screen.type("b")
    screen.wait(lambda: len(server.calls) == 2 and prompts(server.calls[1]) == ["ab"])
    screen.type("\x04")
    assert screen.end() == 0


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ([b"caf\xc3", b"\xa9"], "café"),
        ([b"ab\x7f\x08c"], "c"),
        ([b"one two  \x17x"], "one x"),
        ([b"one\x15two"], "two"),
        ([b"a\x1b[3", b"~b\x1bOPc\x1b", b"[1;5Cd\x1bxe"], "abcde"),
        ([b"a\x00\x01\tb"], "ab"),
        ([b"\xffa"], "\ufffda"),
        ([b"x" * 5000], "x" * 4096),
        ([b"\x7f"], ""),
    ],
)
def test_keys_make_a_line(typed, text):
    line = Line()
    for data in typed:
        line.feed(data)
    assert (line.text, line.ended, line.entered) == (text, False, 0)


@pytest.mark.parametrize("data", [b"", b"\x03", b"ab\x04"])
def test_what_ends_a_line(data):
    line = Line("a")
    line.feed(data)
    assert line.ended


def test_enter_is_counted():
    line = Line("a")
    line.feed(b"\r\n")
    assert (line.text, line.entered) == ("a", 2)


@pytest.mark.parametrize(
    ("size", "room", "cells"),
    [
        ((512, 512), (80, 21), (42, 21)),
        ((512, 512), (10, 50), (10, 5)),
        ((1024, 256), (80, 40), (80, 10)),
        ((8, 800), (80, 99), (1, 32)),
    ],
)
def test_pictures_fit(size, room, cells):
    assert fit(image(width=size[0], height=size[1]), *room) == cells


def test_kitty_gets_the_pixels_in_chunks():
    noise = PIL.Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save(buffer := io.BytesIO(), "PNG")
    written = render(image(buffer.getvalue()), "kitty", 20, 10)
    chunks = re.findall(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
    assert chunks[0][0] == b"a=T,f=24,o=z,s=64,v=64,i=1,p=1,c=20,r=10,C=1,q=2,m=1"
    assert [head for head, _ in chunks[1:]] == [b"m=1"] * (len(chunks) - 2) + [b"m=0"]
    assert all(len(data) <= 4096 for _, data in chunks)
    assert zlib.decompress(base64.b64decode(b"".join(data for _, data in chunks))) == noise.tobytes()


def test_iterm_gets_the_file():
    head, data = render(image(b"the file"), "iterm2", 20, 10).split(b":")
    assert head == b"\x1b]1337;File=inline=1;size=8;width=20;height=10;preserveAspectRatio=1"
    assert base64.b64decode(data.removesuffix(b"\a")) == b"the file"


def test_sixel_is_one_color_for_a_plain_picture():
    written = render(image(), "sixel", 6, 3)
    assert written.startswith(b'\x1bPq"1;1;60;60')
    assert written.endswith(b"\x1b\\")
    body = re.sub(rb"#\d+;2;\d+;\d+;\d+", b"", written[2:])
    assert len(re.findall(rb"#\d+!60~-", body)) == 10  # 60 pixels high, six a band
    assert re.search(rb"#0;2;7[789];\d+;\d+", written)


def test_what_is_no_picture_is_not_shown():
    for method in ("kitty", "sixel", "blocks", "none"):
        assert render(image(b"no picture"), method, 20, 10) == b""


@pytest.mark.parametrize(
    ("environment", "method"),
    [
        ({}, "none"),
        ({"TERM": "dumb"}, "none"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "screen", "KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"}, "blocks"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "foot", "FLASHBULB_GRAPHICS": "none"}, "none"),
    ],
)
def test_how_a_terminal_shows_pictures(monkeypatch, environment, method):
    for name in ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX", "STY", "LC_TERMINAL", "FLASHBULB_GRAPHICS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal_graphics() == method


def test_a_way_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("FLASHBULB_GRAPHICS", "paper")
    with pytest.raises(flashbulb.ConfigurationError, match="kitty"):
        terminal_graphics()
