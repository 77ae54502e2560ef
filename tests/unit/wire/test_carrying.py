"""What a newer release wrote into a record stays in it, whatever this one changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from flashbulb.internal.v1 import record_pb2
from flashbulb_server.core import requests, webhooks
from flashbulb_server.core.requests import Failure, Request
from flashbulb_server.core.webhooks import Attempt, Verdict, Webhook
from flashbulb_server.wire.records import decode_request, encode_change, encode_request
from tests.unit.wire.test_records import LOGS, NOW, RESULT, every_request

NEW_FIELD = b"\xa2\x06\x03new"  # number 100, three bytes
QUEUED, RUNNING, SUCCEEDED = (replace(every_request()[i], webhook=Webhook("https://a.example/")) for i in (0, 2, 4))
END = {"now": NOW + 9, "keep": 60.0}
TRY = Attempt(NOW + 9, 503, "busy")


def tried(webhook: Webhook) -> Webhook:
    return webhooks.attempted(webhook, 0, TRY, Verdict.AGAIN, now=NOW + 9, delay=5.0)


CHANGES = {
    "start": (QUEUED, lambda r: requests.start(r, worker_id="w2", now=NOW + 9)),
    "expire": (QUEUED, lambda r: requests.expire(r, Failure("START_TIMEOUT", ""), **END)),
    "cancel": (RUNNING, lambda r: requests.cancel(r, Failure("X", "", {"a": "b"}), **END, logs=LOGS)),
    "fail": (RUNNING, lambda r: requests.fail(r, Failure("X", ""), attempt=1, **END)),
    "succeed": (RUNNING, lambda r: requests.succeed(r, RESULT, attempt=1, **END, logs=LOGS)),
    "deliver": (SUCCEEDED, lambda r: requests.deliver(r, tried)),
    "redeliver": (SUCCEEDED, lambda r: requests.deliver(r, webhooks.renewed)),
    "nothing": (SUCCEEDED, lambda r: r),
}


def written_by_a_newer_release(request: Request) -> record_pb2.RequestRecord:
    """Its record, with a field that is not known here in every message of it."""
    record = record_pb2.RequestRecord.FromString(encode_request(request))
    parts = [record, record.input, record.input.fast_lcm_text_to_image, record.webhook, record.create_time]
    if request.result is not None:
        parts += [record.output, record.output.resolved_input, *record.output.images, *record.logs]
    for part in parts:
        part.MergeFromString(NEW_FIELD)
    for line in record.logs:
        line.level = 99
    if request.result is not None:
        record.output.fidelity = 99
    return record


def unknown(record: record_pb2.RequestRecord) -> list[str]:
    """The messages of a record that hold such a field, by name, in order."""
    found = []

    def look(message: object, name: str) -> None:
        if len(UnknownFieldSet(message)):
            found.append(name)
        for field, value in message.ListFields():
            if field.message_type is None or field.message_type.GetOptions().map_entry:
                continue
            for number, part in enumerate(value if field.is_repeated else [value]):
                look(part, f"{name}.{field.name}.{number}")

    look(record, "record")
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_known_here_stays(name):
    request, change = CHANGES[name]
    newer = written_by_a_newer_release(request)
    data = newer.SerializeToString()
    before = decode_request(data)
    after = change(before)
    written = record_pb2.RequestRecord.FromString(encode_change(data, before, after))
    assert unknown(newer) == unknown(written)
    assert len(unknown(newer)) >= 5
    assert [line.level for line in newer.logs] in ([line.level for line in written.logs], [])
    assert written.output.fidelity == newer.output.fidelity or not request.result
    assert decode_request(written.SerializeToString()) == after  # and the change was made


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_of_this_release_is_written_as_if_it_were_new(name):
    request, change = CHANGES[name]
    data = encode_request(request)
    before = decode_request(data)
    assert encode_change(data, before, change(before)) == encode_request(change(before))


def test_what_becomes_absent_is_taken_out():
    newer = written_by_a_newer_release(replace(QUEUED, keep=60.0, runner_hint="warm"))
    before = decode_request(newer.SerializeToString())
    after = replace(before, keep=0.0, runner_hint="", webhook=None)
    written = record_pb2.RequestRecord.FromString(encode_change(newer.SerializeToString(), before, after))
    assert not written.HasField("keep") and not written.HasField("webhook") and not written.runner_hint
    assert decode_request(written.SerializeToString()) == after
