"""Files with secrets in them."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def write_private(path: Path, text: str, *, like: Path | None = None) -> None:
    """Writes `text` to `path` at once or not at all, readable by the owner only. Makes the folder. `like`: whose owner and mode it gets.

    It is on the disk before the name stands for it: a power cut leaves the old text or the new one, not an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if like is not None:
                found = like.stat()
                os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, found.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
