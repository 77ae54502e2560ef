"""Logs of every role, by the standard library, to standard error: one line a record, as JSON for machines or as text for people.

Values go in `extra=`, never into the message. Prompts and pictures are never logged. `request_id` is set once where a request enters, and
is on every line that is written on its behalf.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from flashbulb_server.config import LogSettings

request_id: ContextVar[str] = ContextVar("request_id", default="")

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(settings: LogSettings, *, role: str, stream: TextIO | None = None) -> None:
    """Sends the logs of this process to `stream`, by default standard error. `role` is on every line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role) if settings.format == "json" else TextFormatter(role))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level)
    for noisy in ("asyncio", "httpx"):  # speak of each call at INFO or DEBUG
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("urllib3").setLevel(
        max(logging.ERROR, root.level)
    )  # warns of every retry; we say once that a store is away


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, role, logger, message, request_id, the extras, error."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, role, message, then the extras as `name=value`, then the traceback on lines of its own."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The lines, without their end."""
        extras = "".join(f" {name}={value}" for name, value in _extras(record).items())
        time = _time(record).strftime("%H:%M:%S.%f")[:-3]
        line = f"{time} {record.levelname:<7} {self._role:<6} {record.getMessage()}{extras}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    extras = {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
    current = request_id.get()
    return {"request_id": current, **extras} if current else extras
