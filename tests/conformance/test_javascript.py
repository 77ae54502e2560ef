"""The checks of the scripts: fal's packages for JavaScript, unmodified, against the running service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.conftest import Ran
from tests.conformance.node import checks_of
from tests.conformance.stage import Stage

pytestmark = pytest.mark.timeout(
    360
)  # the first test of a script runs all of it, and the very first may install the packages

SCRIPTS = {
    "page.mjs": True,
    "queue.mjs": False,
    "streams.mjs": False,
    "storage.mjs": False,
    "realtime.mjs": False,
    "addressing.mjs": False,
    "serverless.mjs": False,
    "proxy.mjs": True,
    "webhooks.mjs": False,
    "documents.mjs": False,
}
"""Whether all of the process is redirected, instead of the client by its own options."""


def _cases() -> Iterator[object]:
    for script in SCRIPTS:
        for name in checks_of(script):
            yield pytest.param(script, name, id=f"{script.removesuffix('.mjs')}: {name}")


@pytest.mark.parametrize(("script", "name"), list(_cases()))
def test_check(script: str, name: str, ran: Ran, on_stage: Stage) -> None:
    on_stage.confirm(ran(script, redirected=SCRIPTS[script])[name])
