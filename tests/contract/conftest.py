"""The S3 servers that every implementation of the file store must agree with, each in turn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flashbulb_server.config import FilesSettings
from flashbulb_server.storage.file_store import FileStore
from tests.contract.minio_server import MINIO_BIN, RunningMinio

SERVERS = [
    "seaweedfs",
    pytest.param("minio", marks=pytest.mark.skipif(not MINIO_BIN, reason="MINIO_BIN names no MinIO server")),
]


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory):
    server = RunningMinio(tmp_path_factory.mktemp("minio"))
    server.start_and_wait()
    yield server
    server.kill()


@pytest.fixture(params=SERVERS)
def server(request):
    """Each S3 server in turn, shared by tests: they use an owner or a bucket of their own."""
    return request.getfixturevalue("s3_server" if request.param == "seaweedfs" else "minio_server")


@pytest.fixture(params=SERVERS)
def own_server(request, tmp_path: Path):
    """Each S3 server in turn, to be killed."""
    if request.param == "seaweedfs":
        yield request.getfixturevalue("own_s3_server")
        return
    running = RunningMinio(tmp_path)
    running.start_and_wait()
    yield running
    running.kill()


@pytest.fixture
async def files(server) -> AsyncIterator[FileStore]:
    async with FileStore(
        FilesSettings(
            endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key, bucket="file-store"
        )
    ) as store:
        yield store


@pytest.fixture
def owner() -> str:
    return f"owner-{uuid.uuid4().hex[:12]}"
