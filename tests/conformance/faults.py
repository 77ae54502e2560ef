"""A proxy before the gateway that fails when it is told to, and remembers what it was asked: for retries of real clients.

Every call takes the next of the planned answers: a status is given instead of asking the gateway; `lost` asks it and drops its answer.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that came. `answered`: the status that was given; 0 if the answer was dropped. `request_id`: that of the gateway's body."""

    method: str
    path: str
    answered: int
    request_id: str | None


class FaultProxy:
    """Serves at `url` in threads of its own."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._planned: deque[str] = deque()
        self._asked: list[Asked] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_OPTIONS = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def plan(self, answers: Sequence[str]) -> list[Asked]:
        """Plans the next answers; gives and forgets the calls that came until now."""
        with self._lock:
            asked, self._asked = self._asked, []
            self._planned = deque(answers)
            return asked

    @contextmanager
    def serving(self) -> Iterator[FaultProxy]:
        """Serves while the context is open."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handle(self, call: BaseHTTPRequestHandler) -> None:
        body = call.rfile.read(int(call.headers.get("content-length") or 0))
        with self._lock:
            planned = self._planned.popleft() if self._planned else ""
        if planned.isdigit():
            self._remember(call, int(planned), b"")
            _answer(call, int(planned), {"content-type": "application/json"}, b'{"detail": "away for a moment"}')
            return
        connection = http.client.HTTPConnection(self.upstream, timeout=_SECONDS)
        headers = {name: value for name, value in call.headers.items() if name.lower() not in {*_HOP, "host"}}
        connection.request(call.command, call.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self._remember(call, 0 if planned == "lost" else answer.status, content)
        if planned == "lost":
            call.close_connection = True
            call.connection.close()
            return
        _answer(call, answer.status, dict(answer.getheaders()), content)

    def _remember(self, call: BaseHTTPRequestHandler, answered: int, content: bytes) -> None:
        try:
            request_id = json.loads(content).get("request_id")
        except (ValueError, AttributeError):
            request_id = None
        with self._lock:
            self._asked.append(Asked(call.command, call.path, answered, request_id))


def _answer(call: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
    call.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in _HOP:
            call.send_header(name, value)
    call.send_header("content-length", str(len(content)))
    call.end_headers()
    call.wfile.write(content)
