"""Fixtures that start the real servers: one nats-server and one S3 server for the whole run, own ones for tests that kill them."""

from __future__ import annotations

import gc
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
from xdist.remote import Producer

from flashbulb_server.config import ApiSettings, FilesSettings, LogSettings, NatsSettings, Settings, WorkerSettings
from tests.embedded import RunningNats, RunningS3
from tests.graphs import FOLDER
from tests.service import RunningService
from tests.spreading import Spread, timing_last


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What measures time comes last."""
    timing_last(items)


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage needs to look at it again, which would take a second each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test, all services that tests shared stop side by side: each takes some seconds."""
    if nextitem is None:
        RunningService.tell_all_to_stop()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread:
    """Files are spread over the workers of `pytest -n`."""
    return Spread(config, log)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    """The run's nats-server: `.url`, `.token`, `.pid`. Tests that kill a server take `own_nats_server`."""
    server = RunningNats(tmp_path_factory.mktemp("nats"))
    server.start_and_wait()
    yield server
    server.terminate()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningS3]:
    """The run's S3 server: `.endpoint`, `.access_key`, `.secret_key`, `.pid`. Tests that kill a server take `own_s3_server`."""
    server = RunningS3(tmp_path_factory.mktemp("s3"))
    server.start_and_wait()
    yield server
    server.kill()  # its data is thrown away, and an orderly stop takes 2 s


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[RunningNats]:
    """A nats-server of the test's own: `kill()`, `await restart()`."""
    server = RunningNats(tmp_path)
    server.start_and_wait()
    yield server
    server.kill()


@pytest.fixture
def own_s3_server(tmp_path: Path) -> Iterator[RunningS3]:
    """An S3 server of the test's own: `kill()`, `await restart()`."""
    server = RunningS3(tmp_path)
    server.start_and_wait()
    yield server
    server.kill()


@pytest.fixture
async def settings(nats_server: RunningNats, s3_server: RunningS3) -> AsyncIterator[Settings]:
    """Settings of a service on the run's servers: no streams or records yet, a bucket of the test's own, free ports."""
    await forget_streams(nats_server)
    yield make_settings(nats_server, s3_server)


def make_settings(nats_server: RunningNats, s3_server: RunningS3) -> Settings:
    """Settings that point at the two servers, with a new bucket."""
    return Settings(
        nats=NatsSettings(url=nats_server.url, token=nats_server.token),
        files=FilesSettings(
            endpoint=s3_server.endpoint,
            access_key=s3_server.access_key,
            secret_key=s3_server.secret_key,
            bucket=f"test-{uuid.uuid4().hex[:12]}",
        ),
        api=ApiSettings(listen="127.0.0.1:0", keys="test:test-secret,other:other-secret"),
        worker=WorkerSettings(listen="127.0.0.1:0", threads=1, device="cpu", cache_dir=FOLDER),
        log=LogSettings(format="text"),
    )


async def forget_streams(nats_server: RunningNats) -> None:
    """Deletes every stream and bucket of records, so that no test sees another one's."""
    connection = await nats.connect(nats_server.url, token=nats_server.token)
    try:
        jetstream = connection.jetstream()
        for stream in await jetstream.streams_info():
            await jetstream.delete_stream(stream.config.name)
    finally:
        await connection.close()
