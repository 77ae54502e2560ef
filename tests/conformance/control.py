"""What scripts may ask of the test that started them, over HTTP: to hold the worker, to plan faults, to kill a process of the service."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.conformance.faults import FaultProxy
from tests.service import RunningService


class Control:
    """Serves at `url`. Every action is a POST that answers JSON."""

    def __init__(self, service: RunningService, faults: FaultProxy) -> None:
        self._service = service
        self._faults = faults
        self._held: list[int] = []
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                parts = urlsplit(self.path)
                answer = control.act(
                    parts.path.strip("/"), {name: found[0] for name, found in parse_qs(parts.query).items()}
                )
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def act(self, action: str, given: dict[str, str]) -> dict[str, object]:
        """Does it."""
        match action:
            case "hold":
                self._held.append(self._service.kill_child("worker", signal.SIGSTOP))
            case "release":
                while self._held:
                    os.kill(self._held.pop(), signal.SIGCONT)
            case "faults":
                answers = [answer for answer in given.get("answers", "").split(",") if answer]
                return {"requests": [asdict(asked) for asked in self._faults.plan(answers)]}
            case "kill-api" | "kill-worker":
                self._service.kill_child(action.removeprefix("kill-"))
            case _:
                raise ValueError(action)
        return {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """The worker takes nothing from the queue meanwhile."""
        self.act("hold", {})
        try:
            yield
        finally:
            self.act("release", {})

    @contextmanager
    def serving(self) -> Iterator[Control]:
        """Serves while the context is open, and leaves no worker held."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.act("release", {})
            self._server.shutdown()
            self._server.server_close()
            thread.join()
