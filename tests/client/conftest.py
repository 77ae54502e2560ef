"""The scripted server, and clients of it."""

from __future__ import annotations

import pytest

from flashbulb import AsyncClient, Client
from tests.client.scripted import KEY, ScriptedServer


@pytest.fixture
def server():
    """A scripted server; the test fails if a call was not expected or a reply was not used."""
    scripted = ScriptedServer()
    scripted.start()
    yield scripted
    scripted.stop()
    scripted.verify()


@pytest.fixture
async def client(server):
    """A client for coroutines."""
    async with AsyncClient(KEY, server.host, timeout=10) as made:
        yield made


@pytest.fixture
def sync_client(server):
    """A client without an event loop."""
    with Client(KEY, server.host, timeout=10) as made:
        yield made
