"""`serve` with real servers and stand-in roles: start, restart of what dies, stop in order, nothing left behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import nats
import pytest
from minio import Minio
from nats.js.api import StreamConfig

from tests.embedded import RunningNats, RunningS3
from tests.service import is_running
from tests.supervisor.serving import Serving, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")]

Serve = Callable[..., Serving]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a service in the test's folder, with the given variables over a clean environment."""
    started: list[Serving] = []

    def start(**variables: str) -> Serving:
        started.append(Serving(tmp_path, **variables))
        return started[-1]

    yield start
    for serving in started:
        serving.end()


@pytest.fixture
def external_files(s3_server: RunningS3) -> dict[str, str]:
    """Variables for a service that needs no S3 server of its own, which takes seconds to start and to stop."""
    return {
        "FLASHBULB_FILES__ENDPOINT": s3_server.endpoint,
        "FLASHBULB_FILES__ACCESS_KEY": s3_server.access_key,
        "FLASHBULB_FILES__SECRET_KEY": s3_server.secret_key,
    }


def s3_client(variables: dict[str, str]) -> Minio:
    return Minio(
        variables["FLASHBULB_FILES__ENDPOINT"],
        access_key=variables["FLASHBULB_FILES__ACCESS_KEY"],
        secret_key=variables["FLASHBULB_FILES__SECRET_KEY"],
        secure=False,
        region="us-east-1",
    )


async def put_message_and_file(variables: dict[str, str]) -> None:
    connection = await nats.connect(variables["FLASHBULB_NATS__URL"], token=variables["FLASHBULB_NATS__TOKEN"])
    await connection.jetstream().add_stream(StreamConfig(name="KEPT", subjects=["kept"]))
    await connection.jetstream().publish("kept", b"message")
    await connection.close()
    client = s3_client(variables)
    client.make_bucket("kept")
    client.put_object("kept", "file", io.BytesIO(b"content"), 7)


async def message_and_file_are_there(variables: dict[str, str]) -> bool:
    connection = await nats.connect(variables["FLASHBULB_NATS__URL"], token=variables["FLASHBULB_NATS__TOKEN"])
    message = await connection.jetstream().get_msg("KEPT", 1)
    await connection.close()
    response = s3_client(variables).get_object("kept", "file")
    content = response.read()
    response.close()
    response.release_conn()
    return message.data == b"message" and content == b"content"


def test_what_dies_is_restarted_at_the_same_address_with_its_data(serve: Serve):
    serving = serve()
    before = serving.state()
    variables = serving.variables("api")
    asyncio.run(put_message_and_file(variables))
    for name, pid in serving.children().items():
        os.kill(pid, signal.SIGKILL)
        new_pid = serving.restarted(name, pid)
        if name in ("api", "worker"):  # it is told as ready only once it said so itself
            assert json.loads((Path(before["runtime"]) / f"{name}.json").read_text())["pid"] == new_pid
    assert set(serving.children()) == {"nats", "files", "api", "worker"}
    assert serving.state()["address"] == before["address"]
    assert serving.variables("api") == serving.variables("worker") == variables
    assert asyncio.run(message_and_file_are_there(variables))
    assert serving.stop() == 0


@pytest.mark.parametrize("other", ["nats", "files", "worker"])
def test_a_child_that_is_ready_before_the_api_is_back_does_not_end_the_service(
    serve: Serve, other: str, tmp_path: Path
):
    held = tmp_path / "held"
    serving = serve(STAND_IN_HELD_API=str(held))
    before = serving.state()
    held.touch()
    pids = {name: serving.children()[name] for name in ("api", other)}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    serving.restarted(other, pids[other])
    assert serving.state()["address"] == before["address"], "where the api will be again"
    held.unlink()
    serving.restarted("api", pids["api"])
    assert serving.stop() == 0


@pytest.mark.slow
def test_any_children_killed_in_the_same_moment_come_back(serve: Serve):
    serving = serve()
    before = serving.state()
    asyncio.run(put_message_and_file(serving.variables("api")))
    names = sorted(serving.children())
    for killed in (*combinations(names, 2), names):
        pids = serving.children()
        for name in killed:
            os.kill(pids[name], signal.SIGKILL)
        for name in killed:
            serving.restarted(name, pids[name])
    assert serving.state()["address"] == before["address"]
    assert asyncio.run(message_and_file_are_there(serving.variables("worker")))
    assert serving.stop() == 0


def test_children_that_cannot_be_started_come_back_once_they_can(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    children = serving.children()
    with limited(serving, resource.RLIMIT_NOFILE):
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)
        for name in children:
            wait_for(f"failed start of {name}", lambda name=name: serving.told_of(name, "Too many open files"))
    for name, pid in children.items():
        serving.restarted(name, pid)
    assert serving.stop() == 0


def test_the_service_comes_back_once_the_disk_is_no_longer_full(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    children = serving.children()
    tried: set[str] = set()
    processes = Path(f"/proc/{serving.process.pid}/task/{serving.process.pid}/children")
    with limited(serving, resource.RLIMIT_FSIZE):  # nothing can be written, by the supervisor and by what it starts
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)
        wait_for(
            "failed starts", lambda: tried.update(processes.read_text().split()) or len(tried) >= len(children) + 4
        )
    for name, pid in children.items():
        serving.restarted(name, pid)
    assert serving.stop() == 0


@contextmanager
def limited(serving: Serving, limit: int) -> Iterator[None]:
    """The supervisor, and what it starts, with a limit of 0."""
    before = resource.prlimit(serving.process.pid, limit)
    resource.prlimit(serving.process.pid, limit, (0, before[1]))
    yield
    resource.prlimit(serving.process.pid, limit, before)


def test_a_port_that_somebody_took_is_named_and_waited_for(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    nats = serving.children()["nats"]
    port = json.loads((serving.data / "ports.json").read_text())["nats"][0]
    os.kill(serving.process.pid, signal.SIGSTOP)
    os.kill(nats, signal.SIGKILL)
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for("the port", lambda: bound(somebody, port))
        somebody.listen()
        os.kill(serving.process.pid, signal.SIGCONT)
        wait_for("the port named", lambda: serving.told_of("nats", f"another program has taken port {port} "))
    serving.restarted("nats", nats)
    assert serving.stop() == 0


def bound(taker: socket.socket, port: int) -> bool:
    try:
        taker.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_service_that_cannot_say_where_it_is_goes_on(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    children = serving.children()
    (serving.data / "service.json").unlink()
    (serving.data / "service.json" / "in the way").mkdir(parents=True)
    os.kill(children["worker"], signal.SIGKILL)
    wait_for("the failure told", lambda: "service.json is not up to date" in serving.output)
    shutil.rmtree(serving.data / "service.json")
    os.kill(children["api"], signal.SIGKILL)
    serving.restarted("api", children["api"])
    assert serving.children()["worker"] not in (None, children["worker"])
    assert serving.stop() == 0


def test_a_removed_runtime_folder_is_made_anew(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    runtime, api = Path(serving.state()["runtime"]), serving.children()["api"]
    shutil.rmtree(runtime)  # as what tidies up /tmp does
    os.kill(api, signal.SIGKILL)
    serving.restarted("api", api)
    assert runtime.stat().st_mode & 0o077 == 0
    assert serving.stop() == 0


@pytest.mark.parametrize("text", ["", '{"nats": 5}'])
def test_files_that_are_no_longer_whole_keep_no_service_from_starting(
    serve: Serve, external_files: dict[str, str], text: str, tmp_path: Path
):
    (tmp_path / "data").mkdir()
    for name in ("service.json", "ports.json"):
        (tmp_path / "data" / name).write_text(text)
    serving = serve(**external_files)
    wait_for("readiness", lambda: "is ready: gRPC on" in serving.output)
    assert serving.state()["pid"] == serving.process.pid
    assert serving.stop() == 0


@pytest.mark.parametrize("variable", ["FLASHBULB_API__LISTEN", "FLASHBULB_HTTP__LISTEN", "FLASHBULB_WORKER__LISTEN"])
def test_a_taken_port_is_named_before_anything_is_started(serve: Serve, variable: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        serving = serve(**{variable: address})
        assert serving.process.wait(20) == 2
    assert serving.output.splitlines() == [
        f"flashbulb-server: {variable}: {address} is taken by another program; name another port, or port 0 for a free one"
    ]
    assert not serving.events("started")
    assert not (serving.data / "keys.json").exists(), "the key would be lost"


def test_every_taken_port_is_named(serve: Serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        serving = serve(FLASHBULB_API__LISTEN=address, FLASHBULB_HTTP__LISTEN=address)
        assert serving.process.wait(20) == 2
    assert [line.split(":")[1] for line in serving.output.splitlines()] == [
        " FLASHBULB_API__LISTEN",
        " FLASHBULB_HTTP__LISTEN",
    ]


def test_kill_9_leaves_no_orphan_and_the_next_start_goes_on(serve: Serve):
    serving = serve()
    children, runtime = serving.children(), Path(serving.state()["runtime"])
    variables = serving.variables("worker")
    asyncio.run(put_message_and_file(variables))
    serving.process.kill()
    serving.process.wait()
    following = serve()  # at once: it must wait until the old servers are gone
    for name, pid in children.items():
        wait_for(f"end of {name}", lambda pid=pid: not is_running(pid))
    following.state()
    assert not runtime.exists()
    assert asyncio.run(message_and_file_are_there(following.variables("worker")))
    assert following.variables("api")["FLASHBULB_NATS__URL"] == variables["FLASHBULB_NATS__URL"]
    assert following.stop() == 0


def test_sigterm_stops_the_api_then_the_worker_then_the_servers(serve: Serve):
    serving = serve()
    children, runtime = serving.children(), Path(serving.state()["runtime"])
    ports = json.loads((serving.data / "ports.json").read_text())["files"]
    assert serving.stop() == 0
    stopped = serving.events("told to stop") + serving.events("stopped")
    order = [(event["role"], event["event"]) for event in sorted(stopped, key=lambda event: event["role"])]
    assert order == [("api", "told to stop"), ("api", "stopped"), ("worker", "told to stop"), ("worker", "stopped")]
    lines = [json.loads(line) for line in (serving.data.parent / "events.jsonl").read_text().splitlines()]
    ends = [(line["role"], line["event"]) for line in lines if line["event"] != "started"]
    assert ends == order
    assert all(event.get("nats", True) and event.get("files", True) for event in stopped), (
        "a server ended before a role"
    )
    assert not any(is_running(pid) for pid in children.values())
    assert not runtime.exists()
    assert not (serving.data / "service.json").exists()
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def test_a_second_signal_kills(serve: Serve, external_files: dict[str, str]):
    serving = serve(STAND_IN_STUBBORN="worker", **external_files)
    children = serving.children()
    serving.process.terminate()
    wait_for("drain of the worker", lambda: [e for e in serving.events("told to stop") if e["role"] == "worker"])
    assert serving.process.poll() is None
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(10) == 0
    assert not any(is_running(pid) for pid in children.values())


def test_a_signal_while_starting_stops(serve: Serve, external_files: dict[str, str]):
    serving = serve(STAND_IN_NEVER_READY="worker", **external_files)
    wait_for("start of the worker", lambda: [e for e in serving.events("started") if e["role"] == "worker"])
    assert not (serving.data / "service.json").exists()
    assert serving.stop() == 0


def test_a_second_service_on_the_folder_is_refused(serve: Serve, external_files: dict[str, str]):
    first = serve(**external_files)
    children = first.children()
    second = serve(**external_files)
    assert second.process.wait(10) == 1
    assert f"{first.data} is in use by another flashbulb-server (pid {first.process.pid})" in second.output
    assert first.children() == children
    assert all(is_running(pid) for pid in children.values())


def test_a_server_that_runs_elsewhere_is_not_started(
    serve: Serve, nats_server: RunningNats, external_files: dict[str, str]
):
    serving = serve(FLASHBULB_NATS__URL=nats_server.url, FLASHBULB_NATS__TOKEN=nats_server.token, **external_files)
    assert set(serving.children()) == {"api", "worker"}
    variables = serving.variables("worker")
    assert variables["FLASHBULB_NATS__URL"] == nats_server.url
    assert variables["FLASHBULB_NATS__TOKEN"] == nats_server.token
    assert variables["FLASHBULB_FILES__ENDPOINT"] == external_files["FLASHBULB_FILES__ENDPOINT"]
    assert serving.stop() == 0


def test_the_development_key_is_shown_at_the_first_start_only(serve: Serve, external_files: dict[str, str]):
    first = serve(**external_files)
    first.state()
    key = first.output.split("export FLASHBULB_KEY=dev:")[1].split()[0]
    assert len(key) >= 32
    kept = json.loads((first.data / "keys.json").read_text())
    assert list(kept) == ["dev"]
    assert first.variables("api")["FLASHBULB_API__KEYS_FILE"] == str(first.data / "keys.json")
    assert first.stop() == 0
    assert not any(key.encode() in path.read_bytes() for path in first.data.rglob("*") if path.is_file())
    second = serve(**external_files)
    second.state()
    assert "FLASHBULB_KEY" not in second.output
    assert json.loads((first.data / "keys.json").read_text()) == kept
    assert second.stop() == 0


def test_no_key_is_made_where_keys_are_configured(serve: Serve, external_files: dict[str, str]):
    serving = serve(FLASHBULB_API__KEYS="me:secret", **external_files)
    assert "is ready: gRPC on 127.0.0.1:" in (serving.state() and serving.output)
    assert "FLASHBULB_KEY" not in serving.output
    assert not (serving.data / "keys.json").exists()
    assert "FLASHBULB_API__KEYS_FILE" not in serving.variables("api")


def test_children_are_out_of_reach_of_ctrl_c(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    groups = {os.getpgid(pid) for pid in serving.children().values()}
    assert os.getpgid(serving.process.pid) not in groups
    assert len(groups) == len(serving.children())


def test_the_workers_socket_has_a_short_path(serve: Serve, external_files: dict[str, str], tmp_path: Path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    serving = serve(TMPDIR=str(long), **external_files)
    serving.state()
    address = serving.variables("worker")["FLASHBULB_WORKER__LISTEN"]
    assert address.startswith("unix:/")
    assert len(address) < 100


def test_a_role_that_ends_again_and_again_ends_the_service(serve: Serve, external_files: dict[str, str]):
    serving = serve(STAND_IN_FAILS="worker", STAND_IN_STATUS="1", **external_files)
    assert serving.process.wait(20) == 1
    assert "could not start: worker ended 3 times before it was ready, last with status 1" in serving.output
    assert len(serving.events("failed")) == 3


def test_a_role_that_refuses_its_settings_ends_the_service_at_once(serve: Serve, external_files: dict[str, str]):
    problems = json.dumps(["FLASHBULB_X: is bad", "FLASHBULB_Y: is worse"])
    serving = serve(
        STAND_IN_FAILS="worker",
        STAND_IN_STATUS="2",
        STAND_IN_PROBLEMS=problems,
        STAND_IN_NEVER_READY="api",
        **external_files,
    )
    assert serving.process.wait(20) == 2
    told = [line for line in serving.output.splitlines() if "FLASHBULB_X" in line or "FLASHBULB_Y" in line]
    assert told == ["flashbulb-server: FLASHBULB_X: is bad", "flashbulb-server: FLASHBULB_Y: is worse"]
    assert serving.output.splitlines()[-2:] == told, "the last that is read"
    assert len(serving.events("failed")) == 1


def test_a_role_that_refuses_its_settings_without_a_word_is_named(serve: Serve, external_files: dict[str, str]):
    serving = serve(STAND_IN_FAILS="worker", STAND_IN_STATUS="2", **external_files)
    assert serving.process.wait(20) == 2
    assert "flashbulb-server: worker refuses its settings" in serving.output


def test_secrets_are_readable_by_the_owner_only(serve: Serve, external_files: dict[str, str]):
    serving = serve(**external_files)
    serving.state()
    for name in ("secrets.json", "keys.json", "service.json", "nats/nats.conf"):
        assert (serving.data / name).stat().st_mode & 0o077 == 0, name
    assert serving.data.stat().st_mode & 0o077 == 0
    secrets = json.loads((serving.data / "secrets.json").read_text()).values()
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in serving.children().values()]
    assert not [secret for secret in secrets for command in commands if secret in command]
