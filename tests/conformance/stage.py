"""The stage of the suite: a running service, the proxy that fails, and what scripts are told of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conformance.control import Control
from tests.conformance.faults import FaultProxy
from tests.conformance.node import Outcome
from tests.conformance.pictures import Reference
from tests.service import KEY, OTHER_KEY, RunningService

ENDPOINT = "fal-ai/fast-lcm-diffusion"
APPLE: dict[str, object] = {
    "prompt": "a red apple",
    "seed": 7,
    "image_size": {"width": 128, "height": 128},
    "num_inference_steps": 2,
}
LONG = {**APPLE, "num_inference_steps": 32, "num_images": 4}
_TOKEN_LEEWAY_SECONDS = 7  # for clocks that differ; and whole seconds are rounded up
_SETTINGS = {
    "QUEUE__LEASE_SECONDS": 60,  # a worker that is held has not died
    "QUEUE__JANITOR_SECONDS": 0.5,
    "API__SESSION_IDLE_SECONDS": 5,
    "WEBHOOKS__ALLOW_PRIVATE_TARGETS": "true",
    "WEBHOOKS__RETRY_SECONDS": "[0.3, 0.3, 0.3]",
}


@dataclass(frozen=True, slots=True)
class BriefToken:
    """A token that was good for a second: made at the start, so that nobody has to wait for its end."""

    text: str
    bad_from: float  # unix seconds

    @classmethod
    def made(cls, base: str) -> BriefToken:
        """A new one."""
        call = {"allowed_apps": ["fast-lcm-diffusion"], "token_expiration": 1}
        answer = httpx.post(f"{base}/rest/tokens/", headers={"authorization": f"Key {KEY}"}, json=call)
        return cls(answer.raise_for_status().json(), time.time() + 1 + _TOKEN_LEEWAY_SECONDS)


@dataclass(frozen=True, slots=True)
class Stage:
    """`base` is `http://host:port` of the gateway."""

    service: RunningService
    faults: FaultProxy
    control: Control
    reference: Reference
    brief: BriefToken

    @property
    def base(self) -> str:
        return f"http://{self.service.http_address}"

    def environment(self) -> dict[str, str]:
        """What a script is told."""
        return {
            "FAL_KEY": KEY,
            "CONFORMANCE_OTHER_KEY": OTHER_KEY,
            "CONFORMANCE_BASE": self.base,
            "CONFORMANCE_FAULTS": self.faults.url,
            "CONFORMANCE_CONTROL": self.control.url,
            "CONFORMANCE_BRIEF_TOKEN": self.brief.text,
            "CONFORMANCE_BRIEF_TOKEN_BAD_FROM": str(self.brief.bad_from),
        }

    def confirm(self, outcome: Outcome) -> None:
        """Fails as a check did, or if a picture that it got is not the right one."""
        assert outcome.error is None, outcome.error
        for seen in outcome.pictures:
            self.reference.check(seen)


@contextmanager
def stage(folder: Path, **settings: object) -> Iterator[Stage]:
    """A stage with a service of its own."""
    service = RunningService(folder, **{**_SETTINGS, **settings})
    with ExitStack() as stack:
        stack.callback(
            service.stop, signal.SIGKILL
        )  # whatever happens; after an orderly stop there is nothing left to kill
        service.start()
        base = f"http://{service.http_address}"
        reference = Reference(service.address, KEY)
        stack.callback(reference.close)
        faults = stack.enter_context(FaultProxy(service.http_address).serving())
        control = stack.enter_context(Control(service, faults).serving())
        yield Stage(service, faults, control, reference, BriefToken.made(base))
        control.act("release", {})
        assert service.stop() == 0
