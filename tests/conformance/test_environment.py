"""fal-client 1.0.3 in a program that is not touched at all: FAL_KEY, HTTPS_PROXY and SSL_CERT_FILE lead it to the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conformance.node import SCRIPTS, Outcome, checks_of, read_outcomes
from tests.conformance.stage import Stage
from tests.conformance.tls_proxy import tls_proxy
from tests.service import KEY

SCRIPT = "environment.py"


@pytest.fixture(scope="module")
def outcomes(on_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    folder: Path = tmp_path_factory.mktemp("authority")
    with tls_proxy(on_stage.service.http_address, folder) as (proxy, authority):
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        led = {"FAL_KEY": KEY, "HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(authority)}
        command = [sys.executable, str(SCRIPTS / SCRIPT)]
        done = subprocess.run(command, env={**kept, **led}, capture_output=True, text=True, timeout=130)
    return read_outcomes(done.stdout, done.stderr, checks_of(SCRIPT))


@pytest.mark.parametrize("name", checks_of(SCRIPT))
def test_check(name: str, outcomes: Mapping[str, Outcome], on_stage: Stage) -> None:
    on_stage.confirm(outcomes[name])
