"""The keys that webhooks are signed with: one ring for all apis, renewed in time, and the examples of docs/webhooks.md against it."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import flashbulb.webhooks
from flashbulb_server.api.webhooks.sending import Letter, Sender
from flashbulb_server.api.webhooks.signing import KeyChange, Signer, change_keys, described, key_id, read_pem
from flashbulb_server.config import WebhookSettings
from flashbulb_server.core.key_ring import OVERLAP_SECONDS
from flashbulb_server.errors import Misconfigured
from flashbulb_server.messaging.signing import SigningKeys
from tests.conftest import forget_streams
from tests.integration.stage import open_queue
from tests.receiver import Receiver, verified

pytestmark = pytest.mark.integration
DOCUMENT = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def pem(*keys) -> bytes:
    return b"\n".join(k.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for k in keys)


def ids(signer: Signer) -> list[str]:
    return [key["kid"] for key in signer.jwks()["keys"]]


@pytest.fixture
async def keys(nats_server):
    await forget_streams(nats_server)
    async with open_queue(nats_server) as queue:
        yield SigningKeys(queue.js)


async def posted(signer: Signer, clock=time.time):
    """A webhook as a receiver gets it."""
    async with Receiver() as receiver, Sender(signer, allow_private=True, clock=clock) as sender:
        letter = Letter(receiver.url, "0199-request", "demo", json.dumps({"request_id": "0199-request"}).encode())
        attempt, _ = await sender.send(letter, seconds=5)
        assert attempt.status_code == 200
        return receiver.came[0]


async def test_every_api_has_the_same_keys_also_when_they_start_together(nats_server):
    await forget_streams(nats_server)
    async with open_queue(nats_server) as one, open_queue(nats_server) as two:
        first = await Signer.open(WebhookSettings(), SigningKeys(one.js), clock=time.time)
        second = await Signer.open(WebhookSettings(), SigningKeys(two.js), clock=time.time)
        assert first.jwks() == second.jwks()
        assert first.sign(b"x") == second.sign(b"x")
        assert len(ids(first)) == 1


async def test_the_keys_outlive_the_server_that_holds_them(own_nats_server):
    async with open_queue(own_nats_server) as queue:
        before = (await Signer.open(WebhookSettings(), SigningKeys(queue.js), clock=time.time)).jwks()
    await own_nats_server.restart()
    async with open_queue(own_nats_server) as queue:
        assert (await Signer.open(WebhookSettings(), SigningKeys(queue.js), clock=time.time)).jwks() == before


async def test_a_key_is_replaced_when_it_is_old_and_every_signature_can_be_checked(keys):
    clock = Clock()
    signer = await Signer.open(WebhookSettings(rotate_days=2), keys, clock=clock)
    known, [old] = signer.jwks()["keys"], ids(signer)
    clock.now += DAY
    await signer._follow(keys)
    assert ids(signer)[0] == old and len(ids(signer)) == 2
    for _ in range(3):
        came = await posted(signer, clock)
        assert verified(came.headers, came.body, known, now=clock.now), "by keys of a day ago"
        assert verified(came.headers, came.body, signer.jwks()["keys"], now=clock.now)
        known = signer.jwks()["keys"]
        clock.now += DAY
        await signer._follow(keys)
    assert old not in ids(signer)


async def test_rotation_and_revocation_by_hand(keys):
    clock = Clock()
    signer = await Signer.open(WebhookSettings(rotate_days=0), keys, clock=clock)
    [old] = ids(signer)
    ring = await change_keys(keys, KeyChange.ROTATE, now=clock.now)
    await signer._follow(keys)
    assert ids(signer) == [old, key_id(ring[-1].seed)]
    assert [line.partition("  ")[2][:11] for line in described(ring, clock.now)] == ["signs since", "will sign f"]
    assert await change_keys(keys, KeyChange.NONE, now=clock.now) == ring
    before = await posted(signer, clock)
    await change_keys(keys, KeyChange.REVOKE, now=clock.now)
    await signer._follow(keys)
    assert len(ids(signer)) == 1 and ids(signer)[0] not in (old, key_id(ring[-1].seed))
    assert not verified(before.headers, before.body, signer.jwks()["keys"], now=clock.now)
    after = await posted(signer, clock)
    assert verified(after.headers, after.body, signer.jwks()["keys"], now=clock.now)


async def test_a_key_set_as_receivers_read_it(keys):
    signer = await Signer.open(WebhookSettings(), keys, clock=time.time)
    [key] = signer.jwks()["keys"]
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    assert key["x"].endswith("=") and len(base64.urlsafe_b64decode(key["x"])) == 32  # padded, as the field expects
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}, "nothing of the private key"


async def test_keys_of_a_file(keys, tmp_path):
    one, two = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    path = tmp_path / "keys.pem"
    path.write_bytes(b"# the first one signs\n" + pem(one, two))
    signer = await Signer.open(WebhookSettings(signing_keys_file=path), keys, clock=time.time)
    assert ids(signer) == [key_id(one.private_bytes_raw()), key_id(two.private_bytes_raw())]
    assert signer.sign(b"x") == one.sign(b"x").hex()
    await signer.run()  # there is nothing to follow
    path.write_bytes(pem(two, one))
    swapped = await Signer.open(
        WebhookSettings(signing_keys_file=path), keys, clock=lambda: time.time() + 10 * OVERLAP_SECONDS
    )
    assert sorted(ids(swapped)) == sorted(ids(signer))
    assert swapped.sign(b"x") == two.sign(b"x").hex()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pem(Ed25519PrivateKey.generate())[:60],
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
    ],
    ids=["empty", "nonsense", "cut short", "no key"],
)
def test_a_bad_file_of_keys_is_named(tmp_path, content):
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=f"SIGNING_KEYS_FILE: {re.escape(str(path))}"):
        read_pem(path)
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_pem(tmp_path / "missing.pem")


def test_keys_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "keys.pem"
    path.write_bytes(pem(Ed25519PrivateKey.generate(), generate_private_key(65537, 2048)))
    with pytest.raises(Misconfigured, match="private Ed25519 keys alone"):
        read_pem(path)


async def test_private_keys_are_not_told(keys, caplog):
    caplog.set_level(logging.DEBUG)
    await Signer.open(WebhookSettings(), keys, clock=time.time)
    ring = await change_keys(keys, KeyChange.NONE, now=time.time())
    seed = ring[0].seed
    told = caplog.text + repr(ring) + "".join(described(ring, time.time()))
    for form in (seed.hex(), base64.b64encode(seed).decode(), base64.urlsafe_b64encode(seed).decode(), repr(seed)):
        assert form not in told


# The examples


def forgeries(came, keys):
    """What a verifier must refuse: (headers, body, keys)."""
    stamp = came.headers["x-fal-webhook-timestamp"]
    other = Signer((key_of(b"\x07" * 32),), None, 0.0, time.time).jwks()["keys"]
    return [
        (came.headers, came.body + b" ", keys),
        ({**came.headers, "x-fal-webhook-timestamp": str(int(stamp) - 1)}, came.body, keys),
        ({**came.headers, "x-fal-webhook-user-id": "other"}, came.body, keys),
        ({**came.headers, "x-fal-webhook-request-id": "other"}, came.body, keys),
        (came.headers, came.body, other),
    ]


def key_of(seed: bytes):
    from flashbulb_server.core.key_ring import SigningKey

    return SigningKey(seed, 0.0, 0.0)


async def test_the_python_example(keys):
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.S)
    scope: dict[str, object] = {}
    exec(compile(code, "webhooks.md", "exec"), scope)
    verify = scope["verify"]
    signer = await Signer.open(WebhookSettings(), keys, clock=time.time)
    came, jwks = await posted(signer), signer.jwks()["keys"]
    assert verify(came.headers, came.body, jwks) is True
    assert not any(verify(*forged) for forged in forgeries(came, jwks))
    old = await posted(signer, clock=lambda: time.time() - 400)
    assert verify(old.headers, old.body, jwks) is False


async def test_the_typescript_example(keys, tmp_path):
    [code] = re.findall(r"```ts\n(.*?)```", DOCUMENT, flags=re.S)
    signer = await Signer.open(WebhookSettings(), keys, clock=time.time)
    came, jwks = await posted(signer), signer.jwks()["keys"]
    old = await posted(signer, clock=lambda: time.time() - 400)
    cases = [(came.headers, came.body, jwks), (old.headers, old.body, jwks), *forgeries(came, jwks)]
    (tmp_path / "verify.mjs").write_text(code)
    (tmp_path / "run.mjs").write_text(
        'import { readFileSync } from "node:fs"; import { verify } from "./verify.mjs";'
        'const cases = JSON.parse(readFileSync(0, "utf8"));'
        'console.log(JSON.stringify(cases.map(([h, b, k]) => verify(h, Buffer.from(b, "base64"), k))));'
    )
    text = json.dumps([(dict(h), base64.b64encode(b).decode(), k) for h, b, k in cases])
    done = subprocess.run(["node", str(tmp_path / "run.mjs")], input=text, capture_output=True, text=True, timeout=60)  # noqa: ASYNC221
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True] + [False] * (len(cases) - 1)


async def test_the_clients_verifier(keys):
    signer = await Signer.open(WebhookSettings(), keys, clock=time.time)
    came, jwks = await posted(signer), signer.jwks()
    names = {name.title(): value for name, value in came.headers.items()}
    assert flashbulb.webhooks.verify(names, came.body, jwks) == {"request_id": "0199-request"}
    unpadded = {"keys": [{"kty": "RSA"}, {**jwks["keys"][0], "x": jwks["keys"][0]["x"].rstrip("=")}]}
    assert flashbulb.webhooks.verify(came.headers, came.body, unpadded)
    bad = [(h, b, {"keys": k}) for h, b, k in forgeries(came, jwks["keys"])]
    bad += [({**came.headers, "x-fal-webhook-signature": "zz"}, came.body, jwks), ({}, came.body, jwks)]
    bad += [(came.headers, came.body, {"keys": []})]
    for forged in bad:
        with pytest.raises(flashbulb.webhooks.BadSignature):
            flashbulb.webhooks.verify(*forged)
    for shift in (-301, 301):
        with pytest.raises(flashbulb.webhooks.BadSignature, match="s old"):
            sent = int(came.headers["x-fal-webhook-timestamp"])
            flashbulb.webhooks.verify(came.headers, came.body, jwks, now=sent + shift)
