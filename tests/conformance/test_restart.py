"""Clients that lose the service's processes: a service of their own, whose api and worker are killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.conformance.node import Outcome, checks_of, run_script
from tests.conformance.stage import Stage, stage

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def broken(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Mapping[str, Outcome]]]:
    with stage(tmp_path_factory.mktemp("restart"), QUEUE__LEASE_SECONDS=2) as made:
        yield made, run_script("restart.mjs", made.environment(), seconds=350)


@pytest.mark.parametrize("name", checks_of("restart.mjs"))
def test_check(name: str, broken: tuple[Stage, Mapping[str, Outcome]]) -> None:
    made, outcomes = broken
    made.confirm(outcomes[name])
