"""`flashbulb-server` without its roles: configuration shown, configuration refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashbulb_server import cli
from flashbulb_server.config import Settings


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
    settings = cli._settings(listen="127.0.0.1:2")
    assert (settings.api.listen, settings.api.max_calls) == ("127.0.0.1:2", 9)
    assert "url" not in settings.nats.model_fields_set


@pytest.mark.parametrize("command", ["serve", "api", "worker", "config"])
def test_all_bad_settings_are_listed(command: str):
    result = run(command, FLASHBULB_QUEUE__MAX_REQUESTS="0", FLASHBULB_LOG__LEVEL="LOUD", FLASHBULB_FILES__BUCKTE="x")
    assert result.exit_code == 2
    assert "queue.max_requests (FLASHBULB_QUEUE__MAX_REQUESTS): Input should be greater than" in result.stderr
    assert "log.level (FLASHBULB_LOG__LEVEL): Input should be 'DEBUG'" in result.stderr
    assert "files.buckte (FLASHBULB_FILES__BUCKTE): Extra inputs are not permitted" in result.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"FLASHBULB_CONFIG": "/no/such/file.toml"}, "FLASHBULB_CONFIG names /no/such/file.toml, which is no file"),
        ({"FLASHBULB_WORKER__MODELS": "{not json"}, "worker"),
    ],
    ids=["no such file", "not JSON"],
)
def test_settings_that_cannot_be_read_are_refused(variables: dict[str, str], says: str):
    result = run("config", **variables)
    assert result.exit_code == 2
    assert says in result.stderr


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
