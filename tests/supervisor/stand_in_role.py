"""Stands in for a role: `python stand_in_role.py NAME EVENTS --ready-file PATH`.

Serves nothing, but starts, says so, and stops as a role does. Appends what happens to it to the file EVENTS, a JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> int:
    name, events, _, ready_file = sys.argv[1:5]
    variables = {key: value for key, value in os.environ.items() if key.startswith("FLASHBULB_")}

    def tell(event: str, **more: object) -> None:
        with Path(events).open("a") as file:
            file.write(json.dumps({"role": name, "event": event, "pid": os.getpid(), **more}) + "\n")

    if os.environ.get("STAND_IN_FAILS") == name:
        tell("failed")
        return int(os.environ["STAND_IN_STATUS"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    tell("started", variables=variables)
    if os.environ.get("STAND_IN_NEVER_READY") != name:
        address = variables.get("FLASHBULB_API__LISTEN", "127.0.0.1:50051")
        draft = Path(ready_file + ".draft")
        draft.write_text(json.dumps({"address": address, "pid": os.getpid()}))
        draft.rename(ready_file)
    signal.sigwait({signal.SIGTERM})
    tell("told to stop", nats=answers(variables["FLASHBULB_NATS__URL"].removeprefix("nats://")))
    if os.environ.get("STAND_IN_STUBBORN") == name:
        signal.sigwait({signal.SIGUSR1})
    tell("stopped", files=answers(variables["FLASHBULB_FILES__ENDPOINT"]))
    return 0


def answers(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
