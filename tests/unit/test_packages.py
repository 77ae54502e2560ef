"""What is published says under which licence it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "client/python", "client/typescript")


@pytest.mark.parametrize("folder", PACKAGES)
def test_the_licence_of_a_package_is_that_of_the_project(folder: str) -> None:
    assert (ROOT / folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("folder", PACKAGES[:2])
def test_the_licence_is_in_the_wheel(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files beside it
    shutil.copytree(
        ROOT / folder, source, ignore=shutil.ignore_patterns("models", "build", "*.egg-info", "__pycache__")
    )
    command = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path), str(source))
    subprocess.run((sys.executable, *command), check=True, timeout=110)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: the package for it is not looked into")
def test_the_licence_is_in_the_package_of_npm() -> None:
    command = ("npm", "pack", "--dry-run", "--json", "--ignore-scripts")
    done = subprocess.run(
        command, cwd=ROOT / "client/typescript", check=True, capture_output=True, text=True, timeout=110
    )
    (packed,) = json.loads(done.stdout)
    assert {"LICENSE", "README.md"} <= {file["path"] for file in packed["files"]}
