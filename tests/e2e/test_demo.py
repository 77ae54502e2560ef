"""The example that `make demo` runs: a picture, no complaint, and its service is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DEMO = Path(__file__).parents[2] / "client" / "python" / "examples" / "demo.py"


@pytest.mark.slow
def test_the_demo_draws_a_picture_and_leaves_nothing_of_the_service(tmp_path: Path) -> None:
    temporary, out = tmp_path / "t", tmp_path / "out"
    temporary.mkdir()
    settings = {name: value for name, value in os.environ.items() if not name.startswith("FLASHBULB_")}
    done = subprocess.run(
        (sys.executable, DEMO, "a red apple", out),
        env={**settings, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [picture] = out.iterdir()
    red, green, blue = Image.open(picture).convert("RGB").getpixel((512, 600))
    assert red > 150 and red > green + 80 and red > blue + 40, "the middle of a red apple"
    assert list(temporary.glob("flashbulb-*")) == []
