"""What the package exports, how cheaply it is imported, and how it finds its server."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flashbulb
from flashbulb import ConfigurationError, _shortcuts
from flashbulb._config import load
from flashbulb.v1 import queue_pb2
from tests.client import scripted
from tests.client.scripted import KEY

MODULES = [m.name for m in pkgutil.iter_modules(flashbulb.__path__) if m.name.startswith("_")]
SHORTCUTS = ["subscribe", "submit", "status", "result", "cancel", "list", "generate", "upload"]


def python(code: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {"PYTHONPATH": str(Path(flashbulb.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_all_is_exactly_what_is_exported():
    assert list(flashbulb.__all__) == sorted(flashbulb.__all__)
    for name in flashbulb.__all__:
        value = getattr(flashbulb, name)
        assert value.__module__.startswith("flashbulb._"), name
        if name not in SHORTCUTS:
            assert value.__name__ == name
    public = {
        name
        for module in ("_errors", "_inputs", "_results", "_frames", "_handle")
        for name, value in vars(importlib.import_module(f"flashbulb.{module}")).items()
        if isinstance(value, type) and value.__module__ == f"flashbulb.{module}"
    }
    assert set(flashbulb.__all__) == public | {"AsyncClient", "AsyncSession", "Client", "Session"} | set(SHORTCUTS)
    assert set(flashbulb.__all__) <= set(dir(flashbulb))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = flashbulb.Cleint


def test_the_stubs_alone_are_cheap():
    code = "import sys, flashbulb.v1.queue_pb2; print([m for m in ('grpc', 'httpx', 'PIL', 'asyncio') if m in sys.modules])"
    assert python(code) == "[]\n"


def test_the_client_needs_neither_typer_nor_pillow():
    code = "import sys; from flashbulb import Client; print([m for m in ('typer', 'PIL') if m in sys.modules])"
    assert python(code) == "[]\n"


def test_the_command_says_what_is_missing():
    code = """
import sys
sys.modules["typer"] = None
from flashbulb._cli import main
try:
    main()
except SystemExit as error:
    print(error.code)
"""
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(Path(flashbulb.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "2\n"
    assert "pip install 'flashbulb[cli]'" in done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"flashbulb.{name}")
    assert doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL).failed == 0


def test_there_are_examples_in_docstrings():
    finder = doctest.DocTestFinder()
    assert sum(len(t.examples) for m in MODULES for t in finder.find(importlib.import_module(f"flashbulb.{m}"))) >= 3


@pytest.mark.parametrize(
    ("host", "target", "secure"),
    [
        ("example.com:1234", "example.com:1234", False),
        ("example.com", "example.com:50051", False),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:8443/", "example.com:8443", True),
        ("example.com:443", "example.com:443", True),
        ("http://example.com:80", "example.com:80", False),
        ("[::1]:50051", "[::1]:50051", False),
        ("unix:/run/flashbulb.sock", "unix:/run/flashbulb.sock", False),
    ],
)
def test_hosts(host, target, secure):
    settings = load("a:b", host, None)
    assert (settings.target, settings.secure) == (target, secure)


@pytest.mark.parametrize("host", ["", " ", "ftp://x", "http://x/path", "x:port", "x:99999", "://"])
def test_bad_hosts(host):
    with pytest.raises(ConfigurationError, match="not a host"):
        load("a:b", host, None)


@pytest.mark.parametrize("key", ["", "hidden", ":hidden", "name:", "name:hid\nden", "name:hïdden"])
def test_bad_keys(key):
    with pytest.raises(ConfigurationError, match="id:secret") as caught:
        load(key, None, None)
    assert "hid" not in str(caught.value)


def test_settings_come_from_arguments_then_the_environment_then_defaults(monkeypatch):
    monkeypatch.delenv("FLASHBULB_KEY", raising=False)
    monkeypatch.delenv("FLASHBULB_HOST", raising=False)
    assert (load(None, None, None).key, load(None, None, None).target) == (None, "127.0.0.1:50051")
    monkeypatch.setenv("FLASHBULB_KEY", "env:secret")
    monkeypatch.setenv("FLASHBULB_HOST", "https://env.example")
    settings = load(None, None, None)
    assert (settings.key, settings.target, settings.secure) == ("env:secret", "env.example:443", True)
    assert load("a:b", "x:1", None).key == "a:b"
    assert "secret" not in repr(settings)


def test_tls_overrides_the_host(tmp_path):
    assert not load("a:b", "https://x", False).secure
    assert load("a:b", "x:1", True).secure
    assert load("a:b", "x:1", tmp_path / "ca.pem").roots == tmp_path / "ca.pem"
    with (
        flashbulb.Client("a:b", "x:1", tls=tmp_path / "ca.pem") as client,
        pytest.raises(ConfigurationError, match=r"ca\.pem"),
    ):
        client.models()


def test_shortcuts_use_one_client_made_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("FLASHBULB_KEY", KEY)
    monkeypatch.setenv("FLASHBULB_HOST", server.host)
    _shortcuts.default_client.cache_clear()
    server.expect("Submit", scripted.submitted("r7"))
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=scripted.request("r7")))
    server.expect("List", queue_pb2.ListResponse(requests=[scripted.request("r7")]))
    try:
        assert flashbulb.submit(prompt="a").request_id == "r7"
        assert flashbulb.status("r7").request_id == "r7"
        assert [status.request_id for status in flashbulb.list()] == ["r7"]
    finally:
        _shortcuts.default_client().close()
        _shortcuts.default_client.cache_clear()
    assert {call.metadata["authorization"] for call in server.calls} == {f"Key {KEY}"}


async def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("FLASHBULB_KEY", raising=False)
    server.expect("GetStatus", scripted.failure("UNAUTHENTICATED", "KEY_MISSING"))
    async with flashbulb.AsyncClient(host=server.host) as client:
        with pytest.raises(flashbulb.AuthenticationError):
            await client.status("r1")
    assert "authorization" not in server.calls[0].metadata
