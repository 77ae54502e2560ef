"""`make readme`: writes the table of settings into the README."""

from __future__ import annotations

import re
from pathlib import Path

from flashbulb_server.cli import settings_table

README = Path(__file__).parent.parent / "README.md"

if __name__ == "__main__":
    text = re.sub(
        r"(<!-- settings:.*?-->\n).*?(<!-- end of settings -->)",
        lambda found: f"{found[1]}\n{settings_table().strip()}\n\n{found[2]}",
        README.read_text(),
        flags=re.S,
    )
    README.write_text(text)
