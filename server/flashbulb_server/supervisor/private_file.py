"""Files with secrets in them."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Writes `text` to `path` at once or not at all, readable by the owner only. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
