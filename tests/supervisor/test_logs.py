"""Lines of the log: one a record, with the request they belong to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from flashbulb_server.config import LogSettings
from flashbulb_server.observability import logs


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(settings: LogSettings) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(settings, role="api", stream=stream)
    return stream


def test_json_lines_hold_the_extras_and_the_request():
    stream = lines_of(LogSettings())
    token = logs.request_id.set("request-1")
    logging.getLogger("flashbulb_server.test").info("request %s", "ended", extra={"state": "SUCCEEDED", "seconds": 0.5})
    logs.request_id.reset(token)
    logging.getLogger("flashbulb_server.test").debug("not written")
    logging.getLogger("flashbulb_server.test").info("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0
    assert first == {
        "level": "INFO",
        "role": "api",
        "logger": "flashbulb_server.test",
        "message": "request ended",
        "request_id": "request-1",
        "state": "SUCCEEDED",
        "seconds": 0.5,
    }
    assert "request_id" not in second


@pytest.mark.parametrize("form", ["json", "text"])
def test_failures_come_with_their_traceback(form: str):
    stream = lines_of(LogSettings(format=form))
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("flashbulb_server.test").exception("it failed", extra={"child": "nats"})
    text = stream.getvalue()
    assert "it failed" in text
    assert "ValueError: the cause" in text
    assert len(text.splitlines()) == 1 if form == "json" else " ERROR   api    it failed child=nats\n" in text


def test_setting_up_twice_writes_once():
    lines_of(LogSettings())
    stream = lines_of(LogSettings(level="WARNING"))
    logging.getLogger("flashbulb_server.test").info("no")
    logging.getLogger("flashbulb_server.test").warning("yes")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes"]
