"""What a one-host service keeps: the same secrets and ports every time, one service at a time."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flashbulb_server.config import (
    ApiSettings,
    FilesSettings,
    LogSettings,
    NatsSettings,
    Settings,
    WebhookSettings,
    WorkerSettings,
)
from flashbulb_server.supervisor.data_folder import DataFolder, FolderInUse
from flashbulb_server.supervisor.plan import make_plan, settings_as_environment


def test_secrets_are_made_once_and_for_the_owner_only(tmp_path: Path):
    first = DataFolder(tmp_path / "data").secrets()
    assert DataFolder(tmp_path / "data").secrets() == first
    assert DataFolder(tmp_path / "other").secrets() != first
    words = (first.nats_token, first.s3_access_key, first.s3_secret_key, first.jwt_key)
    assert len(set(words)) == 4
    assert min(map(len, words)) >= 40
    assert (tmp_path / "data" / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_ports_stay_while_they_are_free(tmp_path: Path):
    ports = DataFolder(tmp_path).ports()
    assert DataFolder(tmp_path).ports() == ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.files[3]))
        taken.listen()
        others = DataFolder(tmp_path).ports()
    assert ports.files[3] not in (*others.nats, *others.files, others.api)
    assert DataFolder(tmp_path).ports() == others


def test_one_service_at_a_time(tmp_path: Path):
    folder = DataFolder(tmp_path)
    with folder.locked():
        with pytest.raises(FolderInUse, match=rf"in use by another flashbulb-server \(pid {os.getpid()}\)"):
            DataFolder(tmp_path).locked().__enter__()
    with folder.locked():
        pass


def test_servers_that_are_still_ending_are_waited_for(tmp_path: Path):
    folder = DataFolder(tmp_path)
    with folder.locked() as lock:
        server = subprocess.Popen(
            (sys.executable, "-c", "import sys; sys.stdin.read()"), stdin=subprocess.PIPE, pass_fds=(lock,)
        )
    with server:
        with pytest.raises(FolderInUse, match="servers of an earlier flashbulb-server still run"), folder.locked(0.1):
            pass
        server.kill()
        with folder.locked(10):
            pass


def test_the_development_key_is_made_once_and_only_its_hash_kept(tmp_path: Path):
    folder = DataFolder(tmp_path)
    key = folder.make_development_key()
    assert key is not None
    key_id, secret = key.split(":")
    assert json.loads(folder.keys_file.read_text()) == {key_id: hashlib.sha256(secret.encode()).hexdigest()}
    assert folder.make_development_key() is None


def every_kind_of_setting(tmp_path: Path) -> Settings:
    return Settings(
        nats=NatsSettings(token="token", replicas=3),
        files=FilesSettings(secure=True, url_seconds=60.5),
        api=ApiSettings(keys_file=tmp_path / "keys.json"),
        worker=WorkerSettings(embedded_model=False, models={"a/b": tmp_path / 'with "quotes"'}, device="cpu"),
        webhooks=WebhookSettings(retry_seconds=(1.0, 2.5), allow_private_targets=True),
        log=LogSettings(level="DEBUG"),
    )


def test_settings_go_to_children_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = every_kind_of_setting(tmp_path)
    for name, value in settings_as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_what_is_set_runs_elsewhere_even_at_the_default_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = DataFolder(tmp_path)
    assert [server.name for server in make_plan(Settings(), folder, tmp_path).servers] == ["nats", "files"]
    monkeypatch.setenv("FLASHBULB_NATS__TOKEN", "token")
    assert [server.name for server in make_plan(Settings(), folder, tmp_path).servers] == ["nats", "files"]
    monkeypatch.setenv("FLASHBULB_NATS__URL", "nats://127.0.0.1:4222")
    assert [server.name for server in make_plan(Settings(), folder, tmp_path).servers] == ["files"]
    config = tmp_path / "config.toml"
    config.write_text('[files]\nendpoint = "s3.example:443"\n')
    monkeypatch.setenv("FLASHBULB_CONFIG", str(config))
    plan = make_plan(Settings(), folder, tmp_path)
    assert plan.servers == ()
    assert plan.role_environment["FLASHBULB_FILES__ENDPOINT"] == "s3.example:443"
    assert "FLASHBULB_FILES__ACCESS_KEY" not in plan.role_environment


def test_an_api_port_that_may_be_chosen_stays(tmp_path: Path):
    folder = DataFolder(tmp_path)
    settings = Settings(api=ApiSettings(listen="0.0.0.0:0"))
    listens = {make_plan(settings, folder, tmp_path).role_environment["FLASHBULB_API__LISTEN"] for _ in range(2)}
    assert listens == {f"0.0.0.0:{folder.ports().api}"}
    fixed = make_plan(Settings(api=ApiSettings(listen="127.0.0.1:50051")), folder, tmp_path)
    assert fixed.role_environment["FLASHBULB_API__LISTEN"] == "127.0.0.1:50051"
