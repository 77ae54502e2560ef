"""`flashbulb-server keys`: what it prints, what it writes, and where."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from flashbulb_server import cli
from flashbulb_server.api.keys import Keys, digest
from flashbulb_server.config import ApiSettings
from flashbulb_server.supervisor.data_folder import DataFolder
from flashbulb_server.supervisor.keys_file import KeysFile


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(cli.app, ("keys", *arguments), env={"FLASHBULB_CONFIG": "", **variables})


def is_good(key: str, file: Path) -> bool:
    return Keys.load(ApiSettings(keys=SecretStr(""), keys_file=file)).authenticate(f"Key {key}") == key.split(":")[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a service that has run once."""
    DataFolder(tmp_path / "data").make_development_key()
    return tmp_path / "data"


def test_a_lost_development_key_is_replaced(data: Path):
    refused = run("create", "dev", "--data-dir", str(data))
    assert refused.exit_code == 2
    assert refused.stderr == "flashbulb-server: there is a key dev; --replace ends it and makes another one\n"
    before = (data / "keys.json").read_text()
    made = run("create", "dev", "--replace", "--data-dir", str(data))
    assert made.exit_code == 0
    assert is_good(made.stdout.strip(), data / "keys.json")
    assert made.stdout.strip().split(":")[1] not in (data / "keys.json").read_text()
    assert before != (data / "keys.json").read_text()
    assert "only now" in made.stderr


def test_keys_are_made_listed_and_revoked(data: Path):
    one = run("create", "one", "--data-dir", str(data)).stdout.strip()
    assert is_good(one, data / "keys.json")
    where = data / "keys.json"
    assert run("list", "--data-dir", str(data)).stdout == f"dev  {where}\none  {where}\n"
    gone = run("revoke", "one", "--data-dir", str(data))
    assert (gone.exit_code, gone.stdout) == (0, "")
    assert "one is revoked" in gone.stderr and "No key is left" not in gone.stderr
    assert run("list", "--data-dir", str(data)).stdout == f"dev  {where}\n"
    assert run("revoke", "one", "--data-dir", str(data)).stderr == f"flashbulb-server: there is no key one in {where}\n"
    assert "No key is left" in run("revoke", "dev", "--data-dir", str(data)).stderr
    assert json.loads(where.read_text()) == {}
    assert DataFolder(data).make_development_key() is None, "nobody gets in whom the operator did not let in"


def test_the_folder_is_data_unless_it_is_named(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data.parent)
    assert is_good(run("create", "one").stdout.strip(), data / "keys.json")


def test_the_file_of_the_settings(tmp_path: Path):
    file = tmp_path / "callers.json"
    variables = {"FLASHBULB_API__KEYS_FILE": str(file), "FLASHBULB_API__KEYS": "own:secret"}
    assert is_good(run("create", "one", **variables).stdout.strip(), file)
    assert run("list", **variables).stdout == f"one  {file}\nown  FLASHBULB_API__KEYS\n"
    for command in (("create", "own"), ("revoke", "own")):
        refused = run(*command, **variables)
        assert refused.exit_code == 2
        assert "own is a key of FLASHBULB_API__KEYS" in refused.stderr
    assert "secret" not in file.read_text()
    refused = run("list", "--data-dir", str(tmp_path), **variables)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "FLASHBULB_API__KEYS_FILE is set" in refused.stderr


def test_keys_that_no_service_would_take_are_not_made(data: Path):
    refused = run("create", "one", "--data-dir", str(data), FLASHBULB_API__KEYS="own:secret")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "FLASHBULB_API__KEYS is set" in refused.stderr
    assert "one" not in json.loads((data / "keys.json").read_text())


@pytest.mark.parametrize("key_id", ["", "a b", "a.b", "x" * 65, "a:b"])
def test_bad_ids(data: Path, key_id: str):
    refused = run("create", "--data-dir", str(data), "--", key_id)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "flashbulb-server: the id of a key has 1 to 64 of A-Z a-z 0-9 _ -\n"


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path):
    refused = run("create", "one", "--data-dir", str(tmp_path / "dtaa"))
    assert refused.exit_code == 2
    assert f"there is no folder {tmp_path / 'dtaa'}" in refused.stderr
    assert not (tmp_path / "dtaa").exists()


def test_a_file_that_holds_something_else_is_left_as_it_is(data: Path):
    (data / "keys.json").write_text("[1]")
    for command in (("create", "one"), ("list",), ("revoke", "dev")):
        refused = run(*command, "--data-dir", str(data))
        assert refused.exit_code == 2
        assert refused.stderr == (
            f"flashbulb-server: FLASHBULB_API__KEYS_FILE: {data / 'keys.json'}: not a JSON object of id to SHA-256\n"
        )
    assert (data / "keys.json").read_text() == "[1]"


def test_the_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text(json.dumps({"old": digest("old")}))
    real.chmod(0o640)
    link.symlink_to(real)
    assert run("create", "one", FLASHBULB_API__KEYS_FILE=str(link)).exit_code == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(json.loads(real.read_text())) == ["old", "one"]
    assert stat.S_IMODE(os.stat(new_file(tmp_path)).st_mode) == 0o600
    assert not list(tmp_path.glob("*.tmp"))


def new_file(folder: Path) -> Path:
    run("create", "one", FLASHBULB_API__KEYS_FILE=str(folder / "new.json"))
    return folder / "new.json"


def test_changes_at_once_are_all_made(tmp_path: Path):
    def create(number: int) -> None:
        with KeysFile(tmp_path / "keys.json").changing() as held:
            held[f"key-{number}"] = digest(str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(40)))
    assert len(json.loads((tmp_path / "keys.json").read_text())) == 40


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    refused = run("create", "one", FLASHBULB_API__KEYS_FILE=str(tmp_path / "none" / "keys.json"))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert (
        refused.stderr
        == f"flashbulb-server: {tmp_path / 'none' / 'keys.json'} cannot be changed: No such file or directory\n"
    )
