"""The real device, planner and accounts in virtual time: a pipeline whose calls move a clock, and callers that come at given moments."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from flashbulb_server.core.pace import Pace
from flashbulb_server.core.reserve import Reserve
from flashbulb_server.core.shares import Shares, WorkClass
from flashbulb_server.worker.device import Device
from flashbulb_server.worker.drawing import Drawing, succeed
from tests.sleeping_pipeline import SleepingPipeline
from tests.specs import make_spec


class VirtualPipeline(SleepingPipeline):
    """A call over b lanes takes `step_seconds * (0.35 + 0.65 b)`, decoding `decode_seconds` a picture, on the simulation's clock."""

    def __init__(self, simulation, *, step_seconds, finish_seconds):
        super().__init__()
        self._simulation = simulation
        self._step_seconds = step_seconds
        self._finish_seconds = finish_seconds
        self._denoised = {}
        self.decode_waits = {}  # seconds from the last step to decoding, by what was asked for

    def prepare(self, spec, sources=None):
        lanes = super().prepare(spec, sources)
        for lane in lanes:
            lane.bucket = (lane.bucket, spec.negative_prompt)
            self._denoised[lane] = [spec.prompt, 0.0]
        return lanes

    def step(self, lanes):
        super().step(lanes)
        self._simulation.pass_time(self._step_seconds * (0.35 + 0.65 * len(lanes)))
        for lane in lanes:
            self._denoised[lane][1] = self._simulation.now

    def decode(self, lanes):
        for lane in lanes:
            prompt, denoised = self._denoised.pop(lane)
            self.decode_waits.setdefault(prompt, []).append(self._simulation.now - denoised)
        pictures = super().decode(lanes)
        self._simulation.pass_time(self._finish_seconds * len(lanes))
        return pictures


class Outcome:
    """Of a drawing in the simulation; nobody waits for it."""

    def done(self):
        return False


@dataclass
class Simulation:
    """Runs `Device.turn` until `until`. `latencies`: seconds from asking to the picture, by caller; `ended`: when, by caller;
    `cancelled`: at which step, by caller."""

    capacity: int = 8
    max_batch: int = 16
    share: float = 0.8
    weights: dict = field(default_factory=dict)
    step_seconds: float = 0.02
    finish_seconds: float = 0.0
    now: float = 0.0

    def __post_init__(self):
        self.pipeline = VirtualPipeline(self, step_seconds=self.step_seconds, finish_seconds=self.finish_seconds)
        self.device = Device(
            {"sleeping": self.pipeline},
            capacity=self.capacity,
            max_batch=self.max_batch,
            pace=Pace(),
            shares=Shares(self.weights),
            reserve=Reserve(self.share),
            clock=lambda: self.now,
            post=self._post,
        )
        self.latencies = {}
        self.cancelled = {}
        self.ended = {}
        self._events = []
        self._count = 0
        self._then = {}
        self._asked = 0
        self._open = 0

    def at(self, time, action):
        """Does `action` at a moment; not before now."""
        heapq.heappush(self._events, (max(time, self.now), self._count, action))
        self._count += 1

    def ask(self, who, work_class, *, owner=None, then=None, deadline=None, bucket="", **values):
        """Hands a drawing over now. `then` follows its end; drawings of different `bucket` share no calls."""
        values["negative_prompt"] = bucket
        outcome = Outcome()
        drawing = Drawing(
            sources=None,
            spec=make_spec(**{"model_name": "sleeping", "width": 8, "height": 8, "prompt": who, **values}),
            work_class=work_class,
            on_progress=None,
            on_preview=None,
            asked=self.now,
            order=self._asked,
            outcome=outcome,
            wake=lambda: None,
            owner=who if owner is None else owner,
            deadline=deadline,
        )
        self._asked += 1
        self._open += 1
        self._then[outcome] = (who, self.now, then)
        self.device.send(drawing)
        return drawing

    def loop(self, who, work_class, *, gap=0.0, **values):
        """A caller that asks again `gap` seconds after every picture."""
        self.ask(who, work_class, then=lambda: self.at(self.now + gap, again), **values)

        def again():
            self.loop(who, work_class, gap=gap, **values)

    def pass_time(self, seconds):
        """Moves the clock, and lets happen what happens meanwhile."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def run(self, until):
        """Until that moment, or until nothing is left to do."""
        while self.now < until:
            if self._events and (self._open == 0 or self._events[0][0] <= self.now):
                self.pass_time(max(0.0, self._events[0][0] - self.now))
            elif self._open == 0:
                return
            else:
                self.device.turn()

    def _post(self, call, *arguments):
        who, asked, then = self._then.pop(arguments[0])
        self._open -= 1
        if call is not succeed:
            self.cancelled[who] = arguments[1].step
            return
        self.latencies.setdefault(who, []).append(self.now - asked)
        self.ended.setdefault(who, []).append(self.now)
        if then is not None:
            then()


def p95(values):
    return sorted(values)[int(0.95 * (len(values) - 1))]


def jain(values):
    values = list(values)
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))


LIVE, DIRECT, QUEUED = WorkClass.REALTIME, WorkClass.DIRECT, WorkClass.QUEUED
