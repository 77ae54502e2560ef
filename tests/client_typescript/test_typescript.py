"""The TypeScript client: its own tests, each file against one real service. Needs node and npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import KEY, OTHER_KEY, RunningService

PACKAGE = Path(__file__).parents[2] / "client" / "typescript"
FILES = sorted(path.name.removesuffix(".test.ts") for path in (PACKAGE / "test").glob("*.test.ts"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("npm") is None, reason="node and npm are not installed: the TypeScript client is not tested"
    ),
]


def run(*command: str, **environment: str) -> None:
    """Runs a command in the package; what it said is the failure's message."""
    done = subprocess.run(
        command,
        cwd=PACKAGE,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def built() -> None:
    """The package and its tests, compiled: the types are checked with them."""
    installed = PACKAGE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (PACKAGE / "package-lock.json").stat().st_mtime:
        run("npm", "ci", "--no-audit", "--no-fund")
    run("npm", "run", "--silent", "build")
    run("npm", "run", "--silent", "build:test")


@pytest.fixture(scope="session")
def typescript_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service that the package's tests call. Receivers of webhooks may be on this host. Its gRPC connections end soon.

    It draws without a graph: one of the tests compares files byte by byte, and graphs may differ by a level.
    """
    running = RunningService(
        tmp_path_factory.mktemp("typescript"),
        WEBHOOKS__ALLOW_PRIVATE_TARGETS=True,
        API__MAX_CONNECTION_AGE_SECONDS=1,
        WORKER__BACKEND="eager",
    )
    running.start()
    yield running
    assert running.stop() == 0
    assert running.errors() == []


@pytest.mark.parametrize("name", FILES)
def test_typescript(built: None, typescript_service: RunningService, name: str) -> None:
    run(
        "node",
        "--test",
        f"build/{name}.test.js",
        FLASHBULB_URL=f"http://{typescript_service.http_address}",
        FLASHBULB_HOST=typescript_service.address,
        FLASHBULB_KEY=KEY,
        FLASHBULB_OTHER_KEY=OTHER_KEY,
    )
