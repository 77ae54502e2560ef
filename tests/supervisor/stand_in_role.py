"""Stands in for a role: `python stand_in_role.py NAME EVENTS --ready-file PATH --problems-file PATH`.

Serves nothing, but starts, says so, and stops as a role does. It is not ready while the file STAND_IN_HELD_<NAME> exists. Appends what happens to it to the file EVENTS, a JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def main() -> int:
    name, events, _, ready_file, _, problems_file = sys.argv[1:7]
    variables = {key: value for key, value in os.environ.items() if key.startswith("FLASHBULB_")}

    def tell(event: str, **more: object) -> None:
        with Path(events).open("a") as file:
            file.write(json.dumps({"role": name, "event": event, "pid": os.getpid(), **more}) + "\n")

    if os.environ.get("STAND_IN_FAILS") == name:
        tell("failed")
        if problems := os.environ.get("STAND_IN_PROBLEMS"):
            Path(problems_file).write_text(problems)
        return int(os.environ["STAND_IN_STATUS"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    tell("started", variables=variables)
    if (held := os.environ.get(f"STAND_IN_HELD_{name.upper()}")) is not None:
        while Path(held).exists():
            time.sleep(0.01)
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
