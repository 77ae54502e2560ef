"""A receiver of webhooks as fal describes it for Python: its decoding of the published keys, which knows nothing of missing padding."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.conformance.python_client import LEAVES_SOCKETS, client_of, seen
from tests.conformance.stage import APPLE, ENDPOINT, Stage

pytestmark = [*LEAVES_SOCKETS]

_TOLERANCE = 300


@dataclass(frozen=True, slots=True)
class Delivery:
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """`url` takes deliveries."""

    url: str
    deliveries: list[Delivery] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, request_id: str) -> Delivery:
        """The delivery of a request."""
        with self.came:
            assert self.came.wait_for(lambda: self._of(request_id), 20), "nothing came"
            return self._of(request_id)[0]

    def _of(self, request_id: str) -> list[Delivery]:
        return [one for one in self.deliveries if json.loads(one.body)["request_id"] == request_id]


def verified(jwks: str, delivery: Delivery, *, now: float | None = None) -> bool:
    """Whether a delivery is the service's, as the public description says to find out."""
    names = ("Request-Id", "User-Id", "Timestamp", "Signature")
    request_id, user_id, timestamp, signature = (delivery.headers[f"x-fal-webhook-{name.lower()}"] for name in names)
    if abs((time.time() if now is None else now) - int(timestamp)) > _TOLERANCE:
        return False
    message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(delivery.body).hexdigest())).encode()
    for key in httpx.get(jwks).raise_for_status().json()["keys"]:
        public = Ed25519PublicKey.from_public_bytes(
            base64.urlsafe_b64decode(key["x"])
        )  # as documented: padding is not mended
        try:
            public.verify(bytes.fromhex(signature), message)
        except InvalidSignature:
            continue
        return True
    return False


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with made.came:
                made.deliveries.append(Delivery({name.lower(): value for name, value in self.headers.items()}, body))
                made.came.notify_all()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook?mine=1&more=a/b")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
async def delivery(receiver: Receiver, on_stage: Stage) -> Delivery:
    """That of a request which has succeeded."""
    async with client_of("sync", on_stage.base) as fal:
        handle = await fal.submit(ENDPOINT, APPLE, webhook_url=receiver.url)
        came = await asyncio.to_thread(receiver.wait, handle.request_id)
        payload, answer = json.loads(came.body)["payload"], await fal.of(handle, "get")
        for told in (payload, answer):
            del told["images"]  # links in a webhook, even where the answer has the pictures inline
        assert payload == answer
    return came


def test_a_delivery_passes(delivery: Delivery, on_stage: Stage) -> None:
    told = json.loads(delivery.body)
    assert told["status"] == "OK"
    assert told["gateway_request_id"] == told["request_id"] == delivery.headers["x-fal-webhook-request-id"]
    assert verified(f"{on_stage.base}/rest/.well-known/jwks.json", delivery)
    on_stage.reference.check(seen(told["payload"]["images"][0], APPLE))


def test_what_was_changed_does_not_pass(delivery: Delivery, on_stage: Stage) -> None:
    jwks = f"{on_stage.base}/rest/.well-known/jwks.json"
    assert verified(jwks, delivery)
    assert not verified(jwks, Delivery(delivery.headers, delivery.body + b" "))
    assert not verified(jwks, delivery, now=time.time() + _TOLERANCE + 2)
    foreign = Ed25519PrivateKey.generate().sign(b"anything").hex()
    assert not verified(jwks, Delivery({**delivery.headers, "x-fal-webhook-signature": foreign}, delivery.body))
    assert not verified(jwks, Delivery({**delivery.headers, "x-fal-webhook-request-id": "other"}, delivery.body))
