"""`flashbulb-server` without its roles: configuration shown, configuration refused."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashbulb_server import cli
from flashbulb_server.config import Settings, load


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHBULB_CONFIG", "")  # restored afterwards, also where `--config` sets it


def run(*arguments: str, **variables: str):
    return CliRunner().invoke(cli.app, arguments, env=variables)


def test_version():
    assert re.fullmatch(r"flashbulb-server \d+\.\d+\.\d+\n", run("--version").stdout)


def test_settings_are_shown_with_secrets_masked():
    result = run("config", FLASHBULB_QUEUE__MAX_REQUESTS="7", FLASHBULB_FILES__SECRET_KEY="do-not-show")
    shown = json.loads(result.stdout)
    assert shown["queue"]["max_requests"] == 7
    assert shown["files"]["secret_key"] == "**********"
    assert "do-not-show" not in result.stdout


def test_the_environment_goes_over_the_file(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text('[queue]\nmax_requests = 5\nmax_attempts = 6\n[worker.models]\n"a/b" = "/models/ab"\n')
    shown = json.loads(run("--config", str(file), "config", FLASHBULB_QUEUE__MAX_REQUESTS="7").stdout)
    assert (shown["queue"]["max_requests"], shown["queue"]["max_attempts"]) == (7, 6)
    assert shown["worker"]["models"] == {"a/b": "/models/ab"}


def test_flags_go_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLASHBULB_API__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("FLASHBULB_API__MAX_CALLS", "9")
    settings = load({"api": {"listen": "127.0.0.1:2"}})
    assert (settings.api.listen, settings.api.max_calls) == ("127.0.0.1:2", 9)
    assert "url" not in settings.nats.model_fields_set


@pytest.mark.parametrize("command", ["serve", "api", "worker", "config"])
def test_all_bad_settings_are_listed(command: str):
    result = run(command, FLASHBULB_QUEUE__MAX_REQUESTS="0", FLASHBULB_LOG__LEVEL="LOUD", FLASHBULB_FILES__BUCKTE="x")
    assert result.exit_code == 2
    assert "queue.max_requests (FLASHBULB_QUEUE__MAX_REQUESTS): Input should be greater than" in result.stderr
    assert "log.level (FLASHBULB_LOG__LEVEL): Input should be 'DEBUG'" in result.stderr
    assert "files.buckte (FLASHBULB_FILES__BUCKTE): there is no such setting; is files.bucket meant?" in result.stderr
    assert len(result.stderr.splitlines()) == 3


BAD_VARIABLES = {
    "no such file": ("FLASHBULB_CONFIG", "/no/such/file.toml", "names /no/such/file.toml, which is no file"),
    "not JSON": ("FLASHBULB_WORKER__MODELS", "{not json", "must be JSON: Expecting property name"),
    "other JSON": ("FLASHBULB_WORKER__MODELS", "[1]", "Input should be a valid"),
    "a part that is not JSON": ("FLASHBULB_WORKER", "cpu", "must be JSON"),
    "a wrong type": ("FLASHBULB_QUEUE__MAX_REQUESTS", "many", "Input should be a valid integer"),
    "a wrong value inside": ("FLASHBULB_WORKER__KEY_WEIGHTS", '{"me": "heavy"}', "Input should be a valid number"),
    "a device": ("FLASHBULB_WORKER__DEVICE", "nonsense", "must be auto, cpu, mps, cuda or cuda:<number of a card>"),
    "an address without a port": ("FLASHBULB_API__LISTEN", "127.0.0.1", "must be host:port"),
    "an address with a word for a port": ("FLASHBULB_HTTP__LISTEN", "127.0.0.1:http", "must be host:port"),
    "an address with a large port": ("FLASHBULB_WORKER__LISTEN", "127.0.0.1:65536", "must be host:port"),
    "half a pair": ("FLASHBULB_API__TLS_KEY", "/key.pem", "need each other"),
    "a part that there is not": ("FLASHBULB_WROKER__DEVICE", "cpu", "is FLASHBULB_WORKER__DEVICE meant?"),
}


@pytest.mark.parametrize("name", BAD_VARIABLES)
@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_a_bad_variable_is_told_in_one_line_by_its_name(command: str, name: str):
    variable, value, says = BAD_VARIABLES[name]
    result = run(command, **{variable: value})
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert variable in line and says in line
    assert value == "cpu" or "/" in value or value not in line.replace(variable, ""), "it may be a secret"


def test_what_is_no_json_does_not_hide_what_else_is_wrong():
    result = run("config", FLASHBULB_WORKER__MODELS="{", FLASHBULB_LOG__LEVEL="LOUD", FLASHBULB_QEUE__MAX_REQUESTS="1")
    told = sorted(line.removeprefix("flashbulb-server: ").split(":")[0] for line in result.stderr.splitlines())
    assert told == [
        "FLASHBULB_QEUE__MAX_REQUESTS",
        "log.level (FLASHBULB_LOG__LEVEL)",
        "worker.models (FLASHBULB_WORKER__MODELS)",
    ]


def test_variables_of_other_programs_are_left_alone():
    others = {
        "FLASHBULB_KEY": "a:b",
        "FLASHBULB_HOST": "x",
        "FLASHBULB_API_PORT": "tcp://10.0.0.1:80",
        "FLASHBULB_X": "y",
    }
    assert run("config", **others).exit_code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[queue]\nmax_reqests = 5\n",
            "queue.max_reqests (FLASHBULB_QUEUE__MAX_REQESTS): there is no such setting; is queue.max_requests",
        ),
        ("[qeue]\nmax_requests = 5\n", "qeue (FLASHBULB_QEUE): there is no such setting; is queue meant?"),
        (
            "[queue]\nmax_requests = 'many'\n",
            "queue.max_requests (FLASHBULB_QUEUE__MAX_REQUESTS): Input should be a valid integer",
        ),
        ("queue = 5\n", "queue (FLASHBULB_QUEUE): Input should be"),
        ("[queue\n", "FLASHBULB_CONFIG: {file}: Expected ']'"),
        ("\udcff", "FLASHBULB_CONFIG: {file}: 'utf-8' codec can't decode"),
    ],
    ids=["unknown key", "unknown part", "wrong type", "no part", "not TOML", "not UTF-8"],
)
@pytest.mark.parametrize("command", ["serve", "config"])
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, command: str, text: str, says: str):
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    result = run("--config", str(file), command)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"flashbulb-server: {says.format(file=file)}")


def flashbulb_server(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that is to end by itself, as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")}
    command = (sys.executable, "-m", "flashbulb_server.cli", *arguments)
    return subprocess.run(command, env=clean | variables, capture_output=True, text=True, timeout=60, check=False)


# Nobody answers there: what is wrong with the settings is told before anything is waited for.
NO_STORES = {"FLASHBULB_NATS__URL": "nats://127.0.0.1:1", "FLASHBULB_FILES__ENDPOINT": "127.0.0.1:1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "variable"),
    [("api", "FLASHBULB_API__LISTEN"), ("api", "FLASHBULB_HTTP__LISTEN"), ("worker", "FLASHBULB_WORKER__LISTEN")],
)
def test_a_role_names_a_taken_port_at_once(role: str, variable: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = {"FLASHBULB_API__LISTEN": "127.0.0.1:0", "FLASHBULB_HTTP__LISTEN": "127.0.0.1:0"}
        ended = flashbulb_server(role, **{**NO_STORES, **free, "FLASHBULB_API__KEYS": "a:b", variable: address})
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"flashbulb-server: {variable}: {address} is taken by another program; name another port, or port 0 for a free one"
    ]


@pytest.mark.slow
def test_all_that_keeps_an_api_from_serving_is_told_at_once(tmp_path: Path):
    (tmp_path / "key.pem").write_text("no key")
    ended = flashbulb_server(
        "api",
        **NO_STORES,
        FLASHBULB_API__LISTEN="192.0.2.1:1",
        FLASHBULB_HTTP__LISTEN="",
        FLASHBULB_API__KEYS="no-secret",
        FLASHBULB_API__TLS_KEY=str(tmp_path / "key.pem"),
        FLASHBULB_API__TLS_CERTIFICATE=str(tmp_path / "none.pem"),
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "flashbulb-server: FLASHBULB_API__LISTEN: cannot listen on 192.0.2.1:1: Cannot assign requested address",
        "flashbulb-server: FLASHBULB_API__TLS_CERTIFICATE and FLASHBULB_API__TLS_KEY: "
        f"{tmp_path / 'none.pem'}: No such file or directory",
        "flashbulb-server: FLASHBULB_API__KEYS holds an entry that is not id:secret",
    ]


@pytest.mark.slow
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="has a card")
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_device_that_is_not_there_is_told_at_once(tmp_path: Path, command: str):
    where = ("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    ended = flashbulb_server(
        command,
        *(where if command == "serve" else ()),
        **(NO_STORES if command == "worker" else {"FLASHBULB_LOG__LEVEL": "ERROR"}),
        FLASHBULB_WORKER__DEVICE="cuda",
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "flashbulb-server: FLASHBULB_WORKER__DEVICE is cuda, and torch finds no cuda devices here"
    ]


def test_problems_go_to_a_file_if_there_is_one_for_them(tmp_path: Path):
    file = tmp_path / "problems.json"
    result = run("worker", "--problems-file", str(file), FLASHBULB_LOG__LEVEL="LOUD")
    assert (result.exit_code, result.stderr) == (2, "")
    [problem] = json.loads(file.read_text())
    assert problem.startswith("log.level (FLASHBULB_LOG__LEVEL): ")


def test_the_table_holds_every_setting():
    lines = run("config", "--markdown").stdout.splitlines()
    assert lines[0] == "| variable | default | meaning |"
    names = [line.split("`")[1] for line in lines[2:]]
    fields = [(part, name) for part, field in Settings.model_fields.items() for name in field.annotation.model_fields]
    assert names == ["FLASHBULB_CONFIG", *(f"FLASHBULB_{part}__{name}".upper() for part, name in fields)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    assert all(len(row) == 3 and row[2] for row in cells)
    assert "| `FLASHBULB_FILES__SECURE` | `false` | Whether `endpoint` speaks TLS. |" in lines


def test_the_health_check_of_nobody_fails():
    result = run("health", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1 does not answer" in result.stderr


@pytest.mark.slow
def test_the_command_starts_without_torch_and_grpc():
    code = "import sys, flashbulb_server.cli, flashbulb_server.supervisor.service; print('torch' in sys.modules, 'grpc' in sys.modules)"
    assert subprocess.check_output((sys.executable, "-c", code), text=True) == "False False\n"
