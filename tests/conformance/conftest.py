"""One service for all of the suite, and each script run once, when the first of its checks is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conformance import node
from tests.conformance.stage import Stage, stage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is e2e and slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def on_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The run's stage. Tests must not break its service."""
    with stage(tmp_path_factory.mktemp("conformance")) as made:
        yield made
        errors = made.service.errors()
    assert errors == []


@pytest.fixture(scope="session")
def packages() -> None:
    """fal's packages for Node.js, installed; skips where there is no Node.js."""
    reason = node.missing()
    if reason is not None:
        pytest.skip(reason)
    node.install()


Ran = Callable[..., Mapping[str, node.Outcome]]


@pytest.fixture(scope="session")
def ran(packages: None, on_stage: Stage) -> Ran:
    """Outcomes of a script: `ran("queue.mjs")`."""
    known: dict[str, Mapping[str, node.Outcome]] = {}

    def run(script: str, *, redirected: bool = False) -> Mapping[str, node.Outcome]:
        if script not in known:
            known[script] = node.run_script(script, on_stage.environment(), redirected=redirected)
        return known[script]

    return run
