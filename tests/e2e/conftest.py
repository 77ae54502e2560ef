"""One service for all tests that leave it whole; own ones for tests that break or configure it."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest

from tests.driving import Caller, stopped
from tests.gateway import SECONDS, Fal
from tests.service import SPARE_KEYS, RunningService, Stubs, apple, stubs
from tests.sleeping_worker import SleepingService

_keys = iter(SPARE_KEYS)
TOKEN_SECRET = "a secret of the tests, longer than thirty-two characters"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is e2e."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The run's service. Tests must not break it.

    It draws without a graph: tests look at its memory, which grows with every graph for a size that comes often.
    """
    running = RunningService(
        tmp_path_factory.mktemp("service"),
        API__TOKEN_SECRET=TOKEN_SECRET,
        HTTP__PROXY_KEY_ID="tester",
        WORKER__BACKEND="eager",
    )
    running.start()
    yield running
    assert running.stop() == 0
    assert running.errors() == []


@pytest.fixture
async def call(service: RunningService) -> AsyncIterator[Stubs]:
    """Stubs of the run's service."""
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield stubs(channel)


@pytest.fixture
def me(call: Stubs) -> Caller:
    """A caller whose key nobody has used before."""
    return Caller(call, next(_keys))


@pytest.fixture
def stranger(call: Stubs) -> Caller:
    """Another caller."""
    return Caller(call, next(_keys))


@pytest.fixture(scope="session")
def quick_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that draws at once, whatever the endpoint: with a pipeline without networks. Tests must not break it."""
    running = SleepingService(tmp_path_factory.mktemp("quick"), seconds=0.0)
    running.start()
    yield running
    assert running.stop() == 0
    assert running.errors() == []


@pytest.fixture
def gateway(service: RunningService) -> RunningService:
    """The run's service: its tokens can be made by a test, and calls through the proxy act as a key."""
    return service


@pytest.fixture
def idle_gateway(narrow_service: RunningService) -> RunningService:
    """A service that soon ends sessions without frames."""
    return narrow_service


@pytest.fixture
async def fal(service: RunningService) -> AsyncIterator[Fal]:
    """The gateway of the run's service, for a key that nobody has used before."""
    headers = {"authorization": f"Key {next(_keys)}"}
    async with httpx.AsyncClient(
        base_url=f"http://{service.http_address}", headers=headers, timeout=SECONDS, trust_env=False
    ) as http:
        yield Fal(http)


@pytest.fixture(scope="session")
def narrow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that draws one request at a time and takes twelve, where a key has three sessions that may be idle for two seconds.

    A call over a picture takes 20 ms. Its worker may be stopped, or killed if the test waits for the next.
    """
    running = SleepingService(
        tmp_path_factory.mktemp("narrow"),
        seconds=0.02,
        WORKER__CAPACITY=1,
        QUEUE__MAX_REQUESTS=12,
        QUEUE__LEASE_SECONDS=60,
        QUEUE__JANITOR_SECONDS=0.5,
        API__SESSIONS_PER_KEY=3,
        API__SESSION_IDLE_SECONDS=2,
    )
    running.start()
    yield running
    assert running.stop() == 0
    assert running.errors() == []


@pytest.fixture
async def narrow(narrow_service: RunningService) -> AsyncIterator[Caller]:
    """A caller of the narrow service whose key nobody has used before."""
    async with grpc.aio.insecure_channel(narrow_service.address) as channel:
        yield Caller(stubs(channel), next(_keys))


@pytest.fixture
async def held(narrow_service: RunningService, narrow: Caller) -> AsyncIterator[Callable[[], None]]:
    """The narrow service's worker stopped in the middle of a request: it takes nothing more. Calling it lets the worker go on."""
    blocker = (await narrow.submit(apple(num_images=8, num_inference_steps=32))).request_id
    await narrow.until_step(blocker, 1)
    with ExitStack() as stopping:
        stopping.enter_context(stopped(narrow_service))
        yield stopping.close
    for request_id in await narrow.listed():
        await narrow.cancel(request_id)


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service of `breakable`."""
    running = SleepingService(
        tmp_path_factory.mktemp("breakable"),
        seconds=0.02,
        noise=False,
        QUEUE__LEASE_SECONDS=1,
        QUEUE__JANITOR_SECONDS=0.5,
        WEBHOOKS__ALLOW_PRIVATE_TARGETS=True,
        WEBHOOKS__RETRY_SECONDS=json.dumps([0.5, 0.5] + [1.0] * 29),
        WEBHOOKS__FIRST_TIMEOUT_SECONDS=10,
        WEBHOOKS__LEASE_SECONDS=2,
        WORKER__ALLOW_PRIVATE_URLS=True,
    )
    yield running
    if running.is_running:
        assert running.stop() == 0


@pytest.fixture
def breakable(fragile: RunningService) -> RunningService:
    """A service that a test may break: whole when the test begins. Whatever is lost is soon noticed, and webhooks may be on this host.

    A call over a picture takes 20 ms, and pictures are of one colour, which tells what was asked for.
    """
    if not fragile.is_running:
        fragile.start()
    fragile.wait_whole()
    return fragile


SOON_AGAIN = (("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50))


@pytest.fixture
async def unsteady(breakable: RunningService) -> AsyncIterator[Caller]:
    """A caller of the breakable service whose key nobody has used before."""
    async with grpc.aio.insecure_channel(breakable.address, options=SOON_AGAIN) as channel:
        yield Caller(stubs(channel), next(_keys))


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Starts services of the test's own: `make_service(QUEUE__MAX_REQUESTS=2)`. They are killed at the end."""
    started: list[RunningService] = []

    def make(**settings: object) -> RunningService:
        folder = tmp_path / f"service-{len(started)}"
        folder.mkdir(exist_ok=True)
        running = RunningService(folder, **settings)
        started.append(running)
        running.start()
        return running

    yield make
    for running in started:
        running.stop(signal.SIGKILL)
