"""An HTTPS proxy that answers for fal's hosts with a certificate of its own and leads their calls to the gateway: for programs that can be
told of a proxy and an authority by their environment, and of nothing else.

As any TLS end before a service does, it adds `X-Forwarded-Proto`. One call or socket per connection.
"""

from __future__ import annotations

import contextlib
import datetime
import selectors
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOSTS = ("fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media", "v3b.fal.media")
_SECONDS = 30


@contextmanager
def tls_proxy(upstream: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The proxy's `http://host:port`, and the certificate to trust. `upstream`: `host:port` of the gateway."""
    certificate, key = _made_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    host, _, port = upstream.rpartition(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                _serve(self.request, context, (host, int(port)))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", certificate
        finally:
            server.shutdown()
            thread.join()


def _serve(raw: socket.socket, context: ssl.SSLContext, upstream: tuple[str, int]) -> None:
    raw.settimeout(_SECONDS)
    target = _head(raw).split(b" ", 2)[1].decode().partition(":")[0]
    if target not in _HOSTS:
        raw.sendall(b"HTTP/1.1 502 not one of the hosts\r\nContent-Length: 0\r\n\r\n")
        return
    raw.sendall(b"HTTP/1.1 200 connected\r\n\r\n")
    with context.wrap_socket(raw, server_side=True) as caller, socket.create_connection(upstream, _SECONDS) as gateway:
        head = _head(caller)
        lines = [line for line in head[:-4].split(b"\r\n")]
        upgrades = any(line.lower().startswith(b"upgrade:") for line in lines)
        kept = [line for line in lines if upgrades or not line.lower().startswith(b"connection:")]
        added = [b"X-Forwarded-Proto: https", *([] if upgrades else [b"Connection: close"])]
        gateway.sendall(b"\r\n".join([*kept, *added]) + b"\r\n\r\n")
        _pass_on(caller, gateway)


def _head(connection: socket.socket) -> bytes:
    """The head of a call, to its empty line and not further."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("closed within a head")
        head += byte
    return head


def _pass_on(caller: ssl.SSLSocket, gateway: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(caller, selectors.EVENT_READ, gateway)
        selector.register(gateway, selectors.EVENT_READ, caller)
        while True:
            for key, _ in selector.select(_SECONDS):
                source, sink = key.fileobj, key.data
                data = source.recv(65536)  # type: ignore[union-attr]
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    data += source.recv(source.pending())
                if not data:
                    return
                sink.sendall(data)


def _made_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the suite's own authority")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in _HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "authority.pem", folder / "authority.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*private))
    return paths
