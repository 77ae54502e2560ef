"""What is left in the processes of a service when nobody asks for anything any more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.js.errors import KeyNotFoundError, NoKeysError

from flashbulb_server.messaging.topology import WORKERS
from flashbulb_server.wire.records import decode_announcement
from tests.service import RunningService


@dataclass(frozen=True)
class Weight:
    """What a process holds: resident memory in MiB, open files."""

    memory: float
    files: int

    @classmethod
    def of(cls, pid: int) -> Weight:
        """Of a running one."""
        (line,) = [ln for ln in Path(f"/proc/{pid}/status").read_text().splitlines() if ln.startswith("VmRSS")]
        return cls(int(line.split()[1]) / 1024, len(os.listdir(f"/proc/{pid}/fd")))


async def in_flight(service: RunningService) -> int:
    """Pictures that the workers say they have in flight; -1 while none has said anything lately."""
    url, token = service.nats
    connection = await nats.connect(url, token=token)
    try:
        bucket = await connection.jetstream().key_value(WORKERS)
        entries = [await bucket.get(key) for key in await bucket.keys()]
        return sum(decode_announcement(entry.value or b"").in_flight for entry in entries)
    except (NoKeysError, KeyNotFoundError):
        return -1
    finally:
        await connection.close()
