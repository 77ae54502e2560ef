"""Node.js for the conformance suite: fal's packages at their exact versions, and scripts that run them and tell of each of their checks.

A script declares `check("name", ...)` and prints a line of JSON for each. Their names are read from its text, so that every check is a test
of its own before anything runs, and one that tells nothing fails.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SCRIPTS = FOLDER / "scripts"
_MODULES = FOLDER / "node_modules"
_CHECK = re.compile(r"""^check\(\s*["'](.+?)["'],""", re.MULTILINE)
_INSTALL_SECONDS = 170


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that a check got, and what it must show: that of the same input by gRPC, or `looks` like something."""

    data: bytes
    width: int
    height: int
    content_type: str
    input: Mapping[str, Any] | None = None
    looks: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check told."""

    check: str
    error: str | None
    seconds: float
    pictures: tuple[Seen, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def missing() -> str | None:
    """What of Node.js is not there."""
    return next((f"{name} is not installed" for name in ("node", "npm") if shutil.which(name) is None), None)


def install() -> None:
    """`npm ci` into `node_modules`, unless it holds what the lock file says."""
    stamp = _MODULES / ".installed"
    wanted = hashlib.sha256(
        b"".join((FOLDER / name).read_bytes() for name in ("package-lock.json", ".npmrc"))
    ).hexdigest()
    with (FOLDER / ".npmrc").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        done = subprocess.run(
            ["npm", "ci", "--no-progress"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
        assert done.returncode == 0, f"npm ci: {done.stdout}\n{done.stderr}"
        stamp.write_text(wanted)


def checks_of(script: str) -> list[str]:
    """Names of a script's checks."""
    found = _CHECK.findall((SCRIPTS / script).read_text())
    assert found and len(set(found)) == len(found), f"{script}: {found}"
    return found


def run_script(
    script: str, environment: Mapping[str, str], *, redirected: bool = False, seconds: float = 240
) -> dict[str, Outcome]:
    """Runs a script to its end; outcomes by name of the check. `redirected`: all of the process reaches the gateway under fal's addresses."""
    command = ["node", *(["--import", "./redirect.mjs"] if redirected else []), script]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAL_", "FLASHBULB_", "NODE_"))}
    try:
        done = subprocess.run(
            command, cwd=SCRIPTS, env={**kept, **environment}, capture_output=True, text=True, timeout=seconds
        )
        output, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as err:
        output, errors = _text(err.stdout), f"{_text(err.stderr)}\nstopped after {seconds} s"
    return read_outcomes(output, errors, checks_of(script))


def read_outcomes(output: str, errors: str, names: list[str]) -> dict[str, Outcome]:
    """The lines of checks in an output. Those of `names` that are not there have failed with `errors`."""
    told = (_read(json.loads(line)) for line in output.splitlines() if line.startswith('{"check"'))
    outcomes = {outcome.check: outcome for outcome in told}
    assert not outcomes.keys() - set(names), f"unknown checks: {outcomes.keys() - set(names)}"
    silent = f"told nothing; the script's errors:\n{errors[-4000:]}"
    return {name: outcomes.get(name) or Outcome(name, silent, 0.0) for name in names}


def _read(line: dict[str, Any]) -> Outcome:
    pictures = tuple(
        Seen(
            base64.b64decode(one["data"]),
            one["width"],
            one["height"],
            one["content_type"],
            one.get("input"),
            one.get("looks"),
        )
        for one in line["pictures"]
    )
    error = None if line["ok"] else str(line["error"])
    return Outcome(line["check"], error, line["seconds"], pictures, line["facts"])


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
