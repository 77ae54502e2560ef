"""What the README says is tested is what is tested: the packages at their exact versions, and as their publishers made them."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

from tests.conformance.node import FOLDER

ROOT = FOLDER.parents[1]
PACKAGES = ("@fal-ai/client", "@fal-ai/serverless-client", "@fal-ai/server-proxy")


def test_the_versions_of_the_readme_are_those_installed() -> None:
    table = dict(
        re.findall(r"^\| `([@a-z/-]+)`(?: \(Python\))? \| ([0-9.]+) \|", (ROOT / "README.md").read_text(), flags=re.M)
    )
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert table == {"fal-client": version("fal-client"), **{name: wanted[name] for name in PACKAGES}}


def test_every_package_is_locked_with_its_digest() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    assert all(re.fullmatch(r"[0-9.]+", locked[f"node_modules/{name}"]["version"]) for name in wanted)
    assert all(one["integrity"].startswith("sha512-") for path, one in locked.items() if path)
