"""`python -m tests.supervisor.serve_stand_in DATA_DIR EVENTS`: the real supervisor and servers, with stand-ins for the two roles."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flashbulb_server.config import Settings
from flashbulb_server.errors import Misconfigured
from flashbulb_server.observability import logs
from flashbulb_server.supervisor.data_folder import DataFolder, FolderInUse
from flashbulb_server.supervisor.service import Roles, Service


def main() -> int:
    data_dir, events = sys.argv[1:3]
    settings = Settings()
    logs.set_up(settings.log, role="serve")
    script = str(Path(__file__).with_name("stand_in_role.py"))
    roles = Roles(api=(sys.executable, script, "api", events), worker=(sys.executable, script, "worker", events))

    async def run() -> int:
        return await Service(settings, DataFolder(Path(data_dir)), announce=print, roles=roles).run()  # type: ignore[arg-type]

    try:
        return asyncio.run(run())
    except Misconfigured as err:
        sys.stderr.write("".join(f"flashbulb-server: {problem}\n" for problem in err.problems))
        return 2
    except FolderInUse as err:
        sys.stderr.write(f"{err}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
