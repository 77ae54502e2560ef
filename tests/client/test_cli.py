"""The command line against the scripted server: what it sends, prints, saves, and how it exits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flashbulb
from flashbulb import FlashbulbError, TextToImage, _errors
from flashbulb._cli_app import app
from flashbulb._cli_options import OPTIONS
from flashbulb._cli_output import exit_code
from flashbulb.v1 import generation_pb2, model_pb2, queue_pb2, storage_pb2
from tests.client import scripted
from tests.client.scripted import KEY, LIMIT, Hang, changed, failure, finished, stepped, submitted

QUEUED, RUNNING, SUCCEEDED = (getattr(scripted.State, f"STATE_{s}") for s in ("QUEUED", "RUNNING", "SUCCEEDED"))
CANCELLED = queue_pb2.CancelResponse(
    previous_state=RUNNING,
    request=scripted.request(state=scripted.State.STATE_CANCELLED),
    stopped_at_step=2,
    saved_steps=4,
)


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Runs a command in an empty folder; answers typer's result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHBULB_HOST", server.host)
    monkeypatch.setenv("FLASHBULB_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [*arguments])


def expect_drawing(server, **values):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED, queue_position=1), stepped(2, 1), changed(3, SUCCEEDED)])
    server.expect("GetResult", finished(**values))


def test_generate_draws_through_the_queue_and_saves(run, server):
    expect_drawing(server)
    done = run("generate", "a red apple")
    assert done.exit_code == 0
    assert Path("r1.jpeg").read_bytes() == b"jpeg"
    assert "r1.jpeg  512x512  seed 7" in done.stdout
    assert "http://127.0.0.1:9/p.jpeg" in done.stdout
    assert "flashbulb/tiny  inference 0.250 s" in done.stdout
    assert done.stderr == ""
    assert server.requests("Submit")[0].input.fast_lcm_text_to_image.prompt == "a red apple"


def test_a_stand_in_is_noted_beside_the_result(run, server):
    answer = finished()
    answer.output.resolved_input.fast_lcm_text_to_image.model_name = "hosted/model"
    server.expect("GetResult", answer)
    done = run("result", "r1", "-o", "a.jpeg")
    assert (done.exit_code, "flashbulb/tiny" in done.stdout) == (0, True)
    assert done.stderr == "note: hosted/model is not installed there: flashbulb/tiny drew instead, as a stand-in\n"


def test_every_field_of_text_to_image_has_an_option():
    fields = {f.name for f in dataclasses.fields(TextToImage)} - {"prompt"}
    assert fields <= set(OPTIONS)


def test_every_option_reaches_its_field(run, server):
    server.expect("Submit", submitted())
    options = {
        "--model": "flashbulb/tiny",
        "--negative-prompt": "blur",
        "--size": "640x480",
        "--steps": "3",
        "--seed": "0",
        "--guidance-scale": "0",
        "--guidance-rescale": "0.5",
        "--num-images": "2",
        "--format": "png",
        "--safety-checker-version": "v2",
        "--label": "mine",
        "--priority": "low",
        "--start-timeout": "2.5",
        "--idempotency-key": "k1",
    }
    flags = ["--no-sync-mode", "--no-safety-checker", "--expand-prompt"]
    done = run("submit", "a", *flags, *(part for pair in options.items() for part in pair))
    assert (done.exit_code, done.stdout) == (0, "r1\n")
    sent = server.requests("Submit")[0]
    fields = sent.input.fast_lcm_text_to_image
    assert {f.name for f, _ in fields.ListFields()} == {f.name for f in fields.DESCRIPTOR.fields} - {
        f.name for f in fields.DESCRIPTOR.fields if not f.has_presence and not getattr(fields, f.name)
    }
    assert len(fields.ListFields()) == len(dataclasses.fields(TextToImage))
    assert (fields.image_size.dimensions.width, fields.image_size.dimensions.height) == (640, 480)
    assert (fields.seed, fields.guidance_scale, fields.sync_mode, fields.expand_prompt) == (0, 0, False, True)
    assert (sent.idempotency_key, sent.priority) == ("k1", queue_pb2.PRIORITY_LOW)


@pytest.mark.parametrize(
    ("options", "member"),
    [
        (["--image", "p.png"], "fast_lcm_image_to_image"),
        (["--image", "p.png", "--mask", "https://x/m.png", "--strength", "0.5"], "fast_lcm_inpainting"),
        (["--endpoint", "flux-lora", "--format", "png"], "flux_lora_text_to_image"),
        (["--endpoint", "flux-lora/image-to-image", "--image", "p.png"], "flux_lora_image_to_image"),
    ],
)
def test_pictures_as_inputs_choose_the_endpoint(run, server, options, member):
    Path("p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    server.expect("Submit", submitted())
    assert run("submit", "a", *options).exit_code == 0
    sent = server.requests("Submit")[0].input
    assert sent.WhichOneof("input") == member
    if "--mask" in options:
        assert sent.fast_lcm_inpainting.mask_url.uri == "https://x/m.png"
        assert sent.fast_lcm_inpainting.image_url.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("output", "count", "expected"),
    [
        ("out.jpg", 1, ["out.jpg"]),
        ("out.jpg", 2, ["out-0.jpg", "out-1.jpg"]),
        ("new/folder/a.b.jpg", 2, ["new/folder/a.b-0.jpg", "new/folder/a.b-1.jpg"]),
        ("folder", 1, ["folder/r1.jpeg"]),
        ("folder/", 2, ["folder/r1-0.jpeg", "folder/r1-1.jpeg"]),
        ("there.d", 1, ["there.d/r1.jpeg"]),
        (None, 2, ["r1-0.jpeg", "r1-1.jpeg"]),
    ],
)
def test_where_pictures_are_saved(run, server, output, count, expected):
    Path("there.d").mkdir()
    server.expect("GetResult", finished(count=count))
    done = run("result", "r1", *(["-o", output] if output else []))
    assert done.exit_code == 0, done.stderr
    assert sorted(str(p) for p in Path().rglob("*") if p.is_file()) == expected


def test_json_of_a_result_is_all_of_stdout(run, server):
    expect_drawing(server, count=2)
    done = run("generate", "a", "--json")
    answer = json.loads(done.stdout)
    assert [image["file"] for image in answer["images"]] == ["r1-0.jpeg", "r1-1.jpeg"]
    assert (answer["request_id"], answer["seed"], answer["fidelity"]) == ("r1", 7, "exact")
    assert answer["model_name"] == "flashbulb/tiny"
    assert answer["resolved_input"] == {"endpoint": "fast-lcm-diffusion", "prompt": "a red apple", "seed": 7}
    assert "content" not in answer["images"][0]
    assert done.stderr == ""


def test_direct_skips_the_queue(run, server):
    response = generation_pb2.GenerateStreamResponse
    step = response(progress=generation_pb2.StepProgress(step=1, total_steps=2))
    server.expect("GenerateStream", [step, response(output=scripted.output())])
    done = run("generate", "a", "--direct", "--timeout", "9")
    assert done.exit_code == 0
    assert Path("flashbulb-7.jpeg").exists()


def test_status_in_words_and_json(run, server):
    message = scripted.request("r1", QUEUED, queue_position=3)
    message.eta.FromMilliseconds(1500)
    message.logs.add(level=generation_pb2.LOG_LEVEL_INFO, message="stored")
    server.expect("GetStatus", *[queue_pb2.GetStatusResponse(request=message)] * 2)
    assert run("status", "r1", "--logs").stdout == "info: stored\nqueued, 3 before it, about 1.5 s to go\n"
    answer = json.loads(run("status", "r1", "--json").stdout)
    assert (answer["state"], answer["queue_position"], answer["eta"]) == ("QUEUED", 3, 1.5)


@pytest.mark.parametrize("as_json", [False, True])
def test_status_watch_follows_to_the_end(run, server, as_json):
    server.expect("WatchStatus", [changed(0, RUNNING), stepped(2, 1), changed(3, SUCCEEDED)])
    lines = run("status", "r1", "--watch", *["--json"] * as_json).stdout.splitlines()
    if as_json:
        assert [json.loads(line)["event"] for line in lines] == ["StatusChanged", "Stepped", "StatusChanged"]
    else:
        assert lines == ["running", "step 1 of 4", "succeeded"]


def test_a_webhook_is_asked_for_shown_and_asked_for_again(run, server):
    message = scripted.request(state=SUCCEEDED)
    message.webhook.state = queue_pb2.WebhookDelivery.STATE_GAVE_UP
    server.expect("Submit", submitted())
    server.expect("GetStatus", queue_pb2.GetStatusResponse(request=message))
    server.expect("RedeliverWebhook", *[queue_pb2.RedeliverWebhookResponse(request=message)] * 2)
    assert run("submit", "a red apple", "--webhook", "https://example.org/hook").exit_code == 0
    assert server.requests("Submit")[0].webhook_url == "https://example.org/hook"
    assert run("status", "r1").stdout == "succeeded, webhook gave up\n"
    assert run("redeliver", "r1").stdout == "succeeded, webhook gave up\n"
    assert json.loads(run("redeliver", "r1", "--json").stdout)["webhook"]["state"] == "gave_up"


def test_cancel_says_what_it_did(run, server):
    already = queue_pb2.CancelResponse(previous_state=SUCCEEDED, request=scripted.request(state=SUCCEEDED))
    server.expect("Cancel", CANCELLED, already, CANCELLED)
    assert run("cancel", "r1").stdout == "was running; stopped at step 2, 4 steps saved\n"
    assert run("cancel", "r1").stdout == "it was succeeded already\n"
    assert json.loads(run("cancel", "r1", "--json").stdout)["saved_steps"] == 4


def test_list_stops_at_its_limit(run, server):
    page = queue_pb2.ListResponse(requests=[scripted.request(f"r{i}") for i in range(3)], next_page_token="more")
    server.expect("List", page, page)
    assert [line.split("\t")[0] for line in run("list", "--limit", "2", "--state", "queued").stdout.splitlines()] == [
        "r0",
        "r1",
    ]
    assert len(json.loads(run("list", "--limit", "3", "--json").stdout)) == 3
    assert list(server.requests("List")[0].states) == [QUEUED]


def test_upload_prints_the_uri(run, server):
    Path("p.bin").write_bytes(b"bytes")
    stored = storage_pb2.UploadResponse(
        file=storage_pb2.File(uri="flashbulb://files/1", url="http://x/1", size_bytes=5)
    )
    server.expect("Upload", stored, stored)
    assert run("upload", "p.bin", "--content-type", "image/png").stdout == "flashbulb://files/1\n  http://x/1\n"
    assert json.loads(run("upload", "p.bin", "--json").stdout)["uri"] == "flashbulb://files/1"
    assert server.requests("Upload")[0][0].open.content_type == "image/png"


def test_models_are_listed(run, server):
    model = model_pb2.Model(name="flashbulb/tiny", endpoints=["fast-lcm-diffusion"], native_size=64, live_workers=1)
    server.expect("ListModels", *[model_pb2.ListModelsResponse(models=[model])] * 2)
    assert run("models").stdout.startswith("flashbulb/tiny\tfast-lcm-diffusion\t64\t")
    assert json.loads(run("models", "--json").stdout)[0]["name"] == "flashbulb/tiny"


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("INTERNAL", "ENGINE_FAILED", 1),
        ("INTERNAL", "", 1),
        ("INVALID_ARGUMENT", "INVALID_INPUT", 2),
        ("FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED", 2),
        ("UNAUTHENTICATED", "KEY_UNKNOWN", 3),
        ("NOT_FOUND", "REQUEST_NOT_FOUND", 4),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 5),
        ("FAILED_PRECONDITION", "ENDPOINT_UNAVAILABLE", 5),
        ("CANCELLED", "REQUEST_CANCELLED", 6),
        ("DEADLINE_EXCEEDED", "START_TIMEOUT", 6),
        ("DEADLINE_EXCEEDED", "", 7),
    ],
)
def test_exit_codes(run, server, code, reason, expected):
    server.expect("Submit", failure(code, reason, "the message", metadata={"a": "b"}))
    done = run("submit", "a", "--json")
    assert done.exit_code == expected
    error = json.loads(done.stdout)["error"]
    assert (error["message"], error["reason"], error["code"]) == ("the message", reason, code)
    assert "error: the message" in done.stderr
    assert ("FLASHBULB_KEY" in done.stderr) is (expected == 3)


def test_every_error_has_an_exit_code_and_help_explains_each(run):
    classes = [c for c in vars(_errors).values() if isinstance(c, type) and issubclass(c, FlashbulbError)]
    codes = {exit_code(c("x")) for c in classes}
    assert codes == {1, 2, 3, 4, 5, 6, 7}
    text = " ".join(run("--help").stdout.split())
    assert all(f" {code} " in text[text.index("Exit codes") :] for code in codes | {0})


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a", "--size", "huge"],
        ["generate", "a", "--endpoint", "flux-lora", "--expand-prompt"],
        ["generate", "a", "--image", "missing.png"],
        ["upload", "missing.png"],
        ["generate"],
        ["generate", "a", "--steps", "few"],
        ["--host", "ftp://x", "models"],
        ["--key", "nocolon", "models"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_2_without_a_call(run, server, arguments):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert not server.calls


def test_a_timeout_cancels_and_is_7(run, server):
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, QUEUED), Hang()])
    server.expect("Cancel", CANCELLED)
    done = run("generate", "a", "--timeout", "0.3")
    assert done.exit_code == 7
    assert "the request was cancelled" in done.stderr


def test_a_server_that_is_gone_is_5(run, server):
    done = run("--host", "127.0.0.1:1", "--retry-seconds", "0.2", "models")
    assert done.exit_code == 5
    assert "127.0.0.1:1" in done.stderr


def _heed_ctrl_c():
    """A run of the tests in the background ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_cancels_the_request_and_is_6(server, tmp_path):
    hang = Hang()
    server.expect("Submit", submitted())
    server.expect("WatchStatus", [changed(0, RUNNING), hang])
    server.expect("Cancel", CANCELLED)
    package = str(Path(flashbulb.__file__).parents[1])
    environment = os.environ | {"FLASHBULB_HOST": server.host, "FLASHBULB_KEY": KEY, "PYTHONPATH": package}
    command = [sys.executable, "-m", "flashbulb._cli", "generate", "a"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c
    ) as process:
        assert hang.reached.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 6
    assert stderr == "cancelled\n"
    assert server.requests("Cancel")[0].request_id == "r1"


def test_the_progress_bar_shows_on_a_terminal(run, server, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal then
    expect_drawing(server)
    done = run("generate", "a")
    assert done.exit_code == 0
    assert "succeeded" in done.stderr
    assert "r1.jpeg" in done.stdout


def test_version(run):
    assert run("--version").stdout.strip() == "0.1.0"
