"""The files in which a role tells its supervisor where it serves, or why it refuses its settings."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class RoleFiles:
    """Those of role `name` in `folder`."""

    folder: Path
    name: str
    addresses: tuple[str, str] = field(default=("", ""), init=False)
    """Of gRPC and of HTTP, empty if there is none: where the role served when it was last ready. A restarted one serves there again."""

    @property
    def options(self) -> tuple[str, ...]:
        """What the role's command line says of them."""
        return "--ready-file", str(self._ready), "--problems-file", str(self._problems)

    @property
    def _ready(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _problems(self) -> Path:
        return self.folder / f"{self.name}.problems.json"

    def prepare(self) -> None:
        """Removes what an earlier process said. Makes the folder anew if something that tidies up has removed it. Raises OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self.folder} is somebody else's")
        self._ready.unlink(missing_ok=True)
        self._problems.unlink(missing_ok=True)

    async def serves(self) -> None:
        """Returns if the role serves. Raises OSError or ValueError while it has not said so."""
        state = json.loads(self._ready.read_text())
        if not isinstance(state, dict) or "address" not in state:
            raise ValueError(f"{self._ready} says no address")
        self.addresses = str(state["address"]), str(state.get("http_address", ""))

    def problems(self) -> Sequence[str]:
        """What the ended process said is wrong with its settings; nothing if it said nothing."""
        try:
            said = json.loads(self._problems.read_text())
        except (OSError, ValueError):
            return ()
        return tuple(map(str, said)) if isinstance(said, list) else ()
