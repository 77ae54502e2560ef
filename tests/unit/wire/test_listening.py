"""Whether a server could listen at an address: asked of the system, answered by the variable's name."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from flashbulb_server.wire.listening import listen_problems


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "[::ffff:127.0.0.1]"])
def test_a_taken_port_is_told_whatever_name_it_has(port: int, host: str):
    if host.startswith("[") and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    [problem] = listen_problems({"A": f"{host}:{port}", "B": "127.0.0.1:0"})
    assert problem == f"A: {host}:{port} is taken by another program; name another port, or port 0 for a free one"


def test_a_free_port_is_left_free(port: int):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    for _ in range(2):
        assert listen_problems({"A": f"127.0.0.1:{free}", "B": f"localhost:{free}"}) == []


def test_a_port_that_was_used_a_moment_ago_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            served, _ = server.accept()
            served.close()  # the side that closes first keeps the pair of addresses for a minute
            assert client.recv(1) == b""
    assert listen_problems({"A": f"127.0.0.1:{address[1]}"}) == []


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("192.0.2.1:5000", "cannot listen on 192.0.2.1:5000: Cannot assign requested address"),
        ("no.such.host.invalid:5000", "no.such.host.invalid:5000: "),
        ("unix:/no/such/folder/socket", "/no/such/folder/socket lies in no folder that there is"),
        (f"unix:/tmp/{'x' * 100}", "is longer than the path of a socket may be, 103 bytes"),
    ],
)
def test_other_reasons_are_told(address: str, says: str):
    [problem] = listen_problems({"A": address})
    assert problem.startswith("A: ") and says in problem
    assert len(problem.splitlines()) == 1
