"""Draws one picture through the whole service: starts it in a throw-away folder, submits, watches, saves, stops everything.

python demo.py "a red apple" [folder]
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import flashbulb

START_SECONDS = 120


def main() -> int:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "a red apple"
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "out")
    folder.mkdir(parents=True, exist_ok=True)
    key = f"demo:{secrets.token_urlsafe(24)}"
    started = time.monotonic()
    with service(key) as address, flashbulb.Client(key=key, host=address) as client:
        print(f"service ready on {address} after {time.monotonic() - started:.1f} s")
        asked = time.monotonic()
        result = client.subscribe(prompt=prompt, num_inference_steps=4, logs=True, on_update=tell)
        took = time.monotonic() - asked
        image = result.images[0]
        path = image.save(folder / f"{result.request_id}.jpeg")
        print(
            f"picture   {path} ({image.width} x {image.height}, drawn at {image.native_width} x {image.native_height})"
        )
        print(f"link      {image.url}")
        print(f"seed      {result.seed}")
        timings = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in sorted(result.timings.items()))
        print(f"timings   {timings}")
        print(f"submitted to saved in {took:.2f} s")
    return 0


def tell(event: flashbulb.Event) -> None:
    """Prints what happens to the request."""
    match event:
        case flashbulb.StatusChanged():
            print(f"  {event.status.state.value.lower()}")
        case flashbulb.Stepped():
            print(f"  step {event.step} of {event.total_steps}")
        case flashbulb.Logged():
            print(f"  log: {event.line.message}")


@contextmanager
def service(key: str) -> Iterator[str]:
    """`flashbulb-server serve` in a temporary folder, on a free port; gives its address and stops it at the end."""
    command = Path(sys.executable).with_name("flashbulb-server")
    environment = {
        "FLASHBULB_WORKER__BACKEND": "eager",  # for one picture compiling does not pay
        **os.environ,
        "FLASHBULB_API__KEYS": key,
        "FLASHBULB_LOG__LEVEL": "WARNING",
    }
    with tempfile.TemporaryDirectory(prefix="flashbulb-demo-") as data:
        process = subprocess.Popen(
            [command, "serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--http-listen", ""],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield wait_ready(process, Path(data) / "service.json")
        finally:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)  # the second one kills: all that would be saved is thrown away
            process.wait()


def wait_ready(process: subprocess.Popen[bytes], state: Path) -> str:
    """Address of the service once everything answers."""
    deadline = time.monotonic() + START_SECONDS
    while not state.exists():
        if process.poll() is not None:
            sys.exit("the service did not start; its messages are above")
        if time.monotonic() > deadline:
            sys.exit(f"the service was not ready within {START_SECONDS} s")
        time.sleep(0.05)
    return str(json.loads(state.read_text())["address"])


if __name__ == "__main__":
    sys.exit(main())
