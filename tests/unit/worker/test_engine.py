"""The step engine on a pipeline without networks: sharing, joining, leaving, bounds and faults."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from flashbulb_server.core.batching import WorkClass
from flashbulb_server.core.generation import Progress
from flashbulb_server.core.pipeline import DeviceLost, Sources
from flashbulb_server.errors import (
    Draining,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    RequestCancelled,
    SafetyCheckerUnavailable,
    WorkersBusy,
)
from flashbulb_server.worker.engine import WAITING_PER_SLOT, StepEngine
from tests.sleeping_pipeline import SleepingPipeline
from tests.specs import make_image_spec, make_inpainting_spec, make_spec

LIMIT = 10.0  # seconds after which a test gives up waiting


class GatedPipeline(SleepingPipeline):
    """Waits in every step until the test lets it go."""

    def __init__(self, **options):
        super().__init__(**options)
        self._entered = queue.Queue()
        self._permits = threading.Semaphore(0)

    def step(self, lanes):
        self._entered.put(len(lanes))
        assert self._permits.acquire(timeout=LIMIT)
        super().step(lanes)

    async def entered(self):
        """Waits until the next call has begun; gives its lanes."""
        return await asyncio.to_thread(self._entered.get, timeout=LIMIT)

    def let_go(self, calls=1):
        self._permits.release(calls)


def sleeping_spec(**values):
    return make_spec(**{"model_name": "sleeping", "width": 8, "height": 8, **values})


@pytest.fixture
def gated():
    pipeline = GatedPipeline()
    yield pipeline
    pipeline.let_go(10_000)


async def drawn(drawing):
    async with asyncio.timeout(LIMIT):
        return await drawing.result()


async def alone(**values):
    """What the spec gives when nothing else is drawn."""
    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=8) as engine:
        return (await drawn(engine.start(sleeping_spec(**values)))).pictures


async def test_pictures_timings_and_size():
    async with StepEngine({"sleeping": SleepingPipeline(seconds=0.002, decode_seconds=0.001)}, capacity=8) as engine:
        assert engine.seconds_per_image == 0.0
        assert engine.estimate(sleeping_spec()) == 0.0
        drawing = engine.start(sleeping_spec(width=12, height=8, num_images=3))
        result = await drawn(drawing)
        assert (drawing.step, drawing.total_steps) == (4, 4)
        assert [p.shape for p in result.pictures] == [(8, 12, 3)] * 3
        assert len({p.tobytes() for p in result.pictures}) == 3, "every picture has its own seed"
        assert (result.native_width, result.native_height) == (12, 8)
        assert result.has_nsfw_concepts == (False,) * 3
        assert result.mean_batch_size == 3.0
        stages = result.timings
        assert set(stages) == {"wait", "encode_prompt", "denoise", "decode", "safety", "inference"}
        assert stages["inference"] == pytest.approx(stages["encode_prompt"] + stages["denoise"] + stages["decode"])
        assert stages["denoise"] >= 4 * 0.002
        assert engine.seconds_per_image > 0
        assert engine.estimate(sleeping_spec(width=12, num_images=3)) > 4 * 0.002
        assert (engine.in_flight, engine.waiting) == (0, 0)


async def test_one_that_comes_later_joins_at_the_next_step(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        first = engine.start(sleeping_spec(prompt="first"))
        assert await gated.entered() == 1
        second = engine.start(sleeping_spec(prompt="second"))
        gated.let_go()
        assert await gated.entered() == 2
        gated.let_go(100)
        results = [await drawn(first), await drawn(second)]
    assert gated.batches == [1, 2, 2, 2, 1]
    assert [r.mean_batch_size for r in results] == [7 / 4, 7 / 4]
    for result, prompt in zip(results, ["first", "second"], strict=True):
        np.testing.assert_array_equal(result.pictures, await alone(prompt=prompt))


async def test_pictures_in_flight_stay_with_their_pipeline_when_it_is_replaced(gated):
    better = SleepingPipeline()
    better.info = replace(better.info, backend="better", fidelity="CLOSE")
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        first = engine.start(sleeping_spec(prompt="first"))
        assert await gated.entered() == 1
        engine.replace("sleeping", better)
        assert [info.backend for info in engine.models] == ["better"]
        second = engine.start(sleeping_spec(prompt="second"))
        gated.let_go(100)
        results = [await drawn(first), await drawn(second)]
    assert (gated.batches, better.batches) == ([1] * 4, [1] * 4), "no call is shared by two pipelines"
    assert [(r.backend, r.fidelity) for r in results] == [("sleep", "EXACT"), ("better", "CLOSE")]
    for result, prompt in zip(results, ["first", "second"], strict=True):
        np.testing.assert_array_equal(result.pictures, await alone(prompt=prompt))


async def test_eight_in_flight_share_calls(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        drawings = [engine.start(sleeping_spec(seed=seed)) for seed in range(8)]
        gated.let_go(100)
        results = [await drawn(d) for d in drawings]
    assert all(r.mean_batch_size >= 6 for r in results), "the first may step once before the others arrive"


async def test_cancel_is_seen_at_the_next_step(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        drawing = engine.start(sleeping_spec(num_inference_steps=30))
        for _ in range(3):
            await gated.entered()
            gated.let_go()
        await gated.entered()
        drawing.cancel()
        drawing.cancel()
        gated.let_go()
        with pytest.raises(RequestCancelled) as caught:
            await drawn(drawing)
        assert (caught.value.step, caught.value.total_steps) == (4, 30)
        assert len(gated.batches) == 4, "no step after the one that ran"
        assert engine.in_flight == 0


async def test_cancelling_one_leaves_its_neighbours_unharmed(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        drawings = [engine.start(sleeping_spec(seed=seed)) for seed in range(4)]
        await gated.entered()
        gated.let_go()
        await gated.entered()
        drawings[1].cancel()
        gated.let_go(100)
        with pytest.raises(RequestCancelled):
            await drawn(drawings[1])
        for seed in (0, 2, 3):
            np.testing.assert_array_equal((await drawn(drawings[seed])).pictures, await alone(seed=seed))


async def test_a_caller_that_leaves_cancels_its_drawing_and_no_other(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        left = engine.start(sleeping_spec(seed=1))
        stays = engine.start(sleeping_spec(seed=2))
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(left.result())
            await gated.entered()
            waiting.cancel()
        assert left.cancelled
        gated.let_go(100)
        np.testing.assert_array_equal((await drawn(stays)).pictures, await alone(seed=2))
        with pytest.raises(RequestCancelled):
            await drawn(left)


async def test_cancelling_a_finished_drawing_changes_nothing():
    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=8) as engine:
        drawing = engine.start(sleeping_spec())
        await drawn(drawing)
        drawing.cancel()
        assert not drawing.cancelled
        assert (await drawn(drawing)).pictures


async def test_cancelling_one_that_waits(gated):
    async with StepEngine({"sleeping": gated}, capacity=1) as engine:
        first, second = engine.start(sleeping_spec()), engine.start(sleeping_spec())
        await gated.entered()
        assert (engine.in_flight, engine.waiting) == (1, 1)
        second.cancel()
        gated.let_go(100)
        with pytest.raises(RequestCancelled) as caught:
            await drawn(second)
        assert caught.value.step == 0
        await drawn(first)
        assert gated.batches == [1] * 4


class FaultyPipeline(SleepingPipeline):
    """Raises in one of its methods when a lane of prompt `bad` is concerned."""

    def __init__(self, where):
        super().__init__(safe=False)
        self.where = where
        self.bad = set()

    def _touch(self, where, lanes):
        if where == self.where and any(id(lane) in self.bad for lane in lanes):
            raise RuntimeError("out of order")

    def prepare(self, spec, sources=None):
        if self.where == "prepare" and spec.prompt == "bad":
            raise RuntimeError("out of order")
        lanes = super().prepare(spec, sources)
        self.bad |= {id(lane) for lane in lanes if spec.prompt == "bad"}
        self.lanes = [*getattr(self, "lanes", []), *lanes]  # kept alive, so that ids stay unique
        return lanes

    def step(self, lanes):
        self._touch("step", lanes)
        super().step(lanes)

    def decode(self, lanes):
        self._touch("decode", lanes)
        pictures = super().decode(lanes)
        return pictures[:-1] if self.where == "short decode" and id(lanes[0]) in self.bad else pictures

    def preview(self, lane):
        self._touch("preview", [lane])
        return super().preview(lane)

    def check(self, pictures, version):
        if self.where == "check" and pictures[0].shape[0] == 16:
            raise RuntimeError("out of order")
        return super().check(pictures, version)


@pytest.mark.parametrize("where", ["prepare", "step", "decode", "short decode", "check", "preview"])
async def test_a_failing_pipeline_fails_only_that_call(where, caplog):
    pipeline = FaultyPipeline(where)
    async with StepEngine({"sleeping": pipeline}, capacity=8) as engine:
        # Another size is another bucket: the bad one never shares a call with the good ones.
        good = [engine.start(sleeping_spec(seed=seed), on_preview=lambda _: None) for seed in range(2)]
        bad = engine.start(sleeping_spec(prompt="bad", height=16), on_preview=lambda _: None)
        with pytest.raises(EngineFailed):
            await drawn(bad)
        for drawing in good:
            await drawn(drawing)
        await drawn(engine.start(sleeping_spec()))
        assert not engine.broken
        assert engine.in_flight == 0
    assert [r for r in caplog.records if r.exc_info], "the fault is logged with its traceback"


async def test_a_failing_call_fails_every_drawing_in_it(gated):
    async with StepEngine({"sleeping": gated}, capacity=8) as engine:
        first = engine.start(sleeping_spec())
        await gated.entered()
        second = engine.start(sleeping_spec())
        gated.let_go()
        assert await gated.entered() == 2
        gated.seconds = -1.0  # time.sleep refuses
        gated.let_go()
        for drawing in (first, second):
            with pytest.raises(EngineFailed):
                await drawn(drawing)
        gated.seconds = 0.0
        gated.let_go(100)
        await drawn(engine.start(sleeping_spec()))


async def test_capacity_bounds_what_is_in_flight():
    pipeline = SleepingPipeline()
    async with StepEngine({"sleeping": pipeline}, capacity=3) as engine:
        drawings = [engine.start(sleeping_spec(seed=seed)) for seed in range(12)]
        for drawing in drawings:
            await drawn(drawing)
    assert max(pipeline.batches) == 3


async def test_max_batch_bounds_a_call():
    pipeline = SleepingPipeline()
    async with StepEngine({"sleeping": pipeline}, capacity=8, max_batch=4) as engine:
        for drawing in [engine.start(sleeping_spec(seed=seed, num_images=2)) for seed in range(4)]:
            await drawn(drawing)
    assert max(pipeline.batches) == 4


async def test_more_pictures_than_capacity_are_drawn():
    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=2) as engine:
        assert len((await drawn(engine.start(sleeping_spec(num_images=8)))).pictures) == 8


async def test_too_many_waiting_are_refused(gated):
    async with StepEngine({"sleeping": gated}, capacity=2) as engine:
        drawings = [engine.start(sleeping_spec()) for _ in range(2 * (1 + WAITING_PER_SLOT))]
        with pytest.raises(WorkersBusy) as caught:
            engine.start(sleeping_spec())
        assert caught.value.retry_after > 0
        drawings[0].cancel()
        gated.let_go(1000)
        for drawing in drawings[1:]:
            await drawn(drawing)
        await drawn(engine.start(sleeping_spec()))


async def test_urgent_work_comes_in_first(gated):
    async with StepEngine({"sleeping": gated}, capacity=1) as engine:
        ended = []
        first = engine.start(sleeping_spec(num_inference_steps=1))
        await gated.entered()
        later = {
            work: engine.start(sleeping_spec(num_inference_steps=1), work_class=work) for work in reversed(WorkClass)
        }
        for work, drawing in later.items():
            drawing.outcome.add_done_callback(lambda _, work=work: ended.append(work))
        gated.let_go(100)
        await drawn(first)
        for drawing in later.values():
            await drawn(drawing)
    assert ended == [WorkClass.REALTIME, WorkClass.DIRECT, WorkClass.QUEUED]


async def test_progress_is_that_of_the_slowest_picture(gated):
    seen, threads = [], set()

    def note(progress):
        seen.append(progress)
        threads.add(threading.current_thread())

    async with StepEngine({"sleeping": gated}, capacity=8, max_batch=1) as engine:
        drawing = engine.start(sleeping_spec(num_images=2), on_progress=note)
        for _ in range(4):
            await gated.entered()
            gated.let_go()
        await gated.entered()  # the first picture is finished, the second has not begun
        assert (seen, drawing.step) == ([], 0)
        gated.let_go(100)
        await drawn(drawing)
    assert gated.batches == [1] * 8
    assert seen == [Progress(step, 4) for step in (1, 2, 3, 4)]
    assert threads == {threading.current_thread()}


async def test_previews_come_at_steps_but_the_last_and_not_while_others_wait(gated):
    seen = []
    async with StepEngine({"sleeping": gated}, capacity=1) as engine:
        drawing = engine.start(sleeping_spec(), on_preview=seen.append)
        await gated.entered()
        gated.let_go()
        await gated.entered()
        waits = engine.start(sleeping_spec())  # from here on there is no time for previews
        gated.let_go(100)
        await drawn(drawing)
        await drawn(waits)
    assert [(p.image_index, p.step) for p in seen] == [(0, 1)]
    assert seen[0].content.startswith(b"\xff\xd8")


async def test_previews_of_one_alone():
    seen = []
    async with StepEngine({"sleeping": SleepingPipeline(seconds=0.001)}, capacity=8) as engine:
        await drawn(engine.start(sleeping_spec(), on_preview=seen.append))
    assert [p.step for p in seen] == [1, 2, 3]


async def test_a_callback_that_raises_harms_nobody():
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

    def broken(progress):
        raise ValueError("mine")

    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=8) as engine:
        await drawn(engine.start(sleeping_spec(), on_progress=broken))
    assert [type(e) for e in reported] == [ValueError] * 4


async def test_flagged_pictures_are_black():
    pipeline = SleepingPipeline(safe=False, flagged=True)
    async with StepEngine({"sleeping": pipeline}, capacity=8) as engine:
        result = await drawn(engine.start(sleeping_spec(num_images=2)))
        assert result.has_nsfw_concepts == (True, True)
        assert not np.any(result.pictures)
        unchecked = await drawn(engine.start(sleeping_spec(enable_safety_checker=False)))
        assert unchecked.has_nsfw_concepts == (False,)
        assert np.any(unchecked.pictures)


async def test_what_cannot_be_drawn_is_refused_at_once():
    async with StepEngine({"sleeping": SleepingPipeline(safe=False)}, capacity=8) as engine:
        with pytest.raises(InvalidRequest, match="sleeping") as caught:
            engine.start(sleeping_spec(model_name="none"))
        assert caught.value.violations[0].field == "model_name"
        with pytest.raises(SafetyCheckerUnavailable):
            engine.start(sleeping_spec(safety_checker_version="v2"))
        assert [info.name for info in engine.models] == ["sleeping"]


async def test_leaving_cancels_what_is_open_and_joins(gated):
    engine = StepEngine({"sleeping": gated}, capacity=1)
    with pytest.raises(Draining):
        engine.start(sleeping_spec())
    async with engine:
        running, waiting = engine.start(sleeping_spec()), engine.start(sleeping_spec())
        await gated.entered()
        gated.let_go()
        await gated.entered()
        gated.let_go(100)
    assert "flashbulb-device" not in {thread.name for thread in threading.enumerate()}
    for drawing in (running, waiting):
        with pytest.raises(RequestCancelled):
            await drawn(drawing)
    with pytest.raises(Draining):
        engine.start(sleeping_spec())


async def test_a_fault_of_the_engine_itself_ends_all_and_is_told(caplog):
    class Clock:
        broken = False

        def __call__(self):
            if self.broken and threading.current_thread() is not threading.main_thread():
                raise OverflowError("the clock is broken")
            return time.monotonic()

    clock = Clock()
    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=1, clock=clock) as engine:
        await drawn(engine.start(sleeping_spec()))
        clock.broken = True
        drawings = [engine.start(sleeping_spec()) for _ in range(3)]
        for drawing in drawings:
            with pytest.raises(EngineFailed):
                await drawn(drawing)
        assert engine.broken
        with pytest.raises(EngineFailed):
            engine.start(sleeping_spec())


async def test_two_models_in_one_engine_take_turns():
    models = {name: SleepingPipeline(name) for name in ("one", "two")}
    async with StepEngine(models, capacity=8) as engine:
        drawings = [engine.start(sleeping_spec(model_name=name)) for name in ("one", "two", "one")]
        for drawing in drawings:
            await drawn(drawing)
    assert sum(models["one"].batches) == 8
    assert sum(models["two"].batches) == 4


async def test_an_idle_engine_does_not_turn():
    calls = []

    def clock():
        calls.append(1)
        return time.monotonic()

    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=1, clock=clock) as engine:
        await drawn(engine.start(sleeping_spec()))
        device = next(t for t in threading.enumerate() if t.name == "flashbulb-device")
        used = time.pthread_getcpuclockid(device.ident)
        before, began = time.clock_gettime(used), len(calls)
        await asyncio.to_thread(device.join, 0.2)
        assert time.clock_gettime(used) - before < 0.02
        assert len(calls) - began <= 1


async def test_a_drawing_from_a_picture_is_of_its_size_and_tells_the_steps_it_takes():
    picture = np.zeros((8, 16, 3), np.uint8)
    steps = []
    async with StepEngine({"sleeping": SleepingPipeline()}, capacity=8) as engine:
        spec = make_inpainting_spec(model_name="sleeping", width=8, height=8, num_inference_steps=8, strength=0.5)
        sources = Sources((picture,), picture[..., 0], 64, 32)
        result = await drawn(engine.start(spec, sources=sources, on_progress=steps.append))
        plain = await drawn(engine.start(sleeping_spec()))
    assert (result.width, result.height, result.native_width, result.native_height) == (64, 32, 16, 8)
    assert steps == [Progress(step, 4) for step in range(1, 5)]
    assert (plain.width, plain.height) == (8, 8)


async def test_kinds_of_drawings_share_calls():
    pipeline = GatedPipeline()
    picture = np.zeros((8, 8, 3), np.uint8)
    sources = Sources((picture,), picture[..., 0], 8, 8)
    options = {"model_name": "sleeping", "width": 8, "height": 8}
    async with StepEngine({"sleeping": pipeline}, capacity=8) as engine:
        drawings = [engine.start(sleeping_spec())]
        assert await pipeline.entered() == 1
        drawings += [engine.start(make_image_spec(**options), sources=sources)]
        drawings += [engine.start(make_inpainting_spec(**options), sources=sources)]
        pipeline.let_go(10_000)
        assert await pipeline.entered() == 3
        results = [await drawn(drawing) for drawing in drawings]
    assert [len(result.pictures) for result in results] == [1, 1, 1]


async def test_a_model_that_takes_other_steps_than_the_spec_tells_is_believed():
    class Short(SleepingPipeline):
        def prepare(self, spec, sources=None):
            lanes = super().prepare(spec, sources)
            for lane in lanes:
                lane.total_steps = 2
            return lanes

    steps = []
    async with StepEngine({"sleeping": Short()}, capacity=8) as engine:
        drawing = engine.start(sleeping_spec(), on_progress=steps.append)
        await drawn(drawing)
    assert steps == [Progress(1, 2), Progress(2, 2)] and drawing.total_steps == 2


async def test_a_frame_comes_in_at_once_although_all_places_are_taken(gated):
    async with StepEngine({"sleeping": gated}, capacity=2) as engine:
        queued = [engine.start(sleeping_spec(seed=seed, num_inference_steps=8)) for seed in range(10)]
        await gated.entered()
        with pytest.raises(WorkersBusy):
            engine.start(sleeping_spec())
        frame = engine.start(sleeping_spec(prompt="frame"), work_class=WorkClass.REALTIME, owner="live")
        gated.let_go(5)  # the call that runs, and four of the frame
        await drawn(frame)
        assert not any(drawing.outcome.done() for drawing in queued)
        gated.let_go(1000)
        for drawing in queued:
            await drawn(drawing)


async def test_what_replaces_a_cancelled_frame_takes_part_in_the_next_call(gated):
    async with StepEngine({"sleeping": gated}, capacity=1) as engine:
        frame = engine.start(sleeping_spec(), work_class=WorkClass.REALTIME)
        for _ in range(5):
            await gated.entered()
            frame.cancel()
            frame = engine.start(sleeping_spec(), work_class=WorkClass.REALTIME)
            gated.let_go()
        gated.let_go(100)
        await drawn(frame)
    assert gated.batches == [1] * (5 + 4), "no call between, and no step of a frame that nobody wants"


async def test_replacing_a_frame_costs_no_time():
    class Replacing(SleepingPipeline):
        """Lets the event loop replace the frame while a step runs, the first 30 times."""

        def __init__(self, loop):
            super().__init__(seconds=0.005)
            self.calls = []
            self._loop = loop

        def step(self, lanes):
            began = time.monotonic()
            if len(self.calls) < 30:
                self._loop.call_soon_threadsafe(replace)
            super().step(lanes)
            self.calls.append((began, time.monotonic(), lanes[0].step))

    def replace():
        frames[-1].cancel()
        frames.append(engine.start(sleeping_spec(), work_class=WorkClass.REALTIME))

    pipeline, frames = Replacing(asyncio.get_running_loop()), []
    async with StepEngine({"sleeping": pipeline}, capacity=8) as engine, asyncio.timeout(LIMIT):
        frames.append(engine.start(sleeping_spec(), work_class=WorkClass.REALTIME))
        while len(frames) < 31:
            await asyncio.wait((frames[-1].outcome,))
        await drawn(frames[-1])
    assert [step for *_, step in pipeline.calls[:30]] == [1] * 30, "not one step more of a frame that was replaced"
    late = sorted(began - ended for (_, ended, _), (began, *_) in pairwise(pipeline.calls))
    assert late[len(late) // 2] <= 0.001, "seconds between a step and the first one of the frame that follows"


async def test_a_drawing_whose_deadline_has_passed_is_ended_at_the_step(gated):
    now = 0.0
    async with StepEngine({"sleeping": gated}, capacity=1, clock=lambda: now) as engine:
        drawing = engine.start(sleeping_spec(), deadline=5.0)
        waits = engine.start(sleeping_spec(), deadline=5.0)
        stays = engine.start(sleeping_spec(), deadline=50.0)
        await gated.entered()
        now = 5.0
        gated.let_go(100)
        for late, step in ((drawing, 1), (waits, 0)):
            with pytest.raises(RequestCancelled) as caught:
                await drawn(late)
            assert caught.value.step == step
        await drawn(stays)


class BrokenPipeline(SleepingPipeline):
    """Draws until it breaks, then raises `error` at every step."""

    error = None

    def step(self, lanes):
        if self.error is not None:
            raise self.error
        super().step(lanes)


async def test_three_failures_in_a_row_break_the_engine(caplog):
    pipeline = BrokenPipeline()
    async with StepEngine({"sleeping": pipeline}, capacity=8) as engine:
        for _ in range(3):  # one success in between forgives all
            pipeline.error = RuntimeError("illegal memory access")
            for _ in range(2):
                with pytest.raises(EngineFailed):
                    await drawn(engine.start(sleeping_spec()))
            pipeline.error = None
            await drawn(engine.start(sleeping_spec()))
        assert not engine.broken
        pipeline.error = RuntimeError("illegal memory access")
        for _ in range(3):
            with pytest.raises(EngineFailed):
                await drawn(engine.start(sleeping_spec()))
        async with asyncio.timeout(LIMIT):
            while not engine.broken:
                await asyncio.sleep(0)
        with pytest.raises(EngineFailed):
            engine.start(sleeping_spec())


async def test_a_lost_device_breaks_the_engine_at_once(caplog):
    pipeline = BrokenPipeline()
    pipeline.error = DeviceLost("the driver is gone")
    async with StepEngine({"sleeping": pipeline}, capacity=1) as engine:
        drawings = [engine.start(sleeping_spec()) for _ in range(3)]
        for drawing in drawings:
            with pytest.raises(EngineFailed):
                await drawn(drawing)
        async with asyncio.timeout(LIMIT):
            while not engine.broken:
                await asyncio.sleep(0)


async def test_an_input_at_fault_is_told_and_does_not_break_the_engine():
    class Choosy(SleepingPipeline):
        def prepare(self, spec, sources=None):
            if spec.prompt == "bad":
                raise InvalidRequest([FieldViolation("prompt", "is bad")])
            return super().prepare(spec, sources)

    async with StepEngine({"sleeping": Choosy()}, capacity=8) as engine:
        for _ in range(5):
            with pytest.raises(InvalidRequest):
                await drawn(engine.start(sleeping_spec(prompt="bad")))
        await drawn(engine.start(sleeping_spec()))
        assert not engine.broken


async def test_estimates_know_the_class_and_the_key(gated):
    async with StepEngine({"sleeping": gated}, capacity=2) as engine:
        gated.let_go(4)
        await drawn(engine.start(sleeping_spec()))
        empty = engine.estimate(sleeping_spec(), work_class=WorkClass.REALTIME)
        flood = [engine.start(sleeping_spec(num_inference_steps=8), owner="flood") for _ in range(9)]
        assert engine.estimate(sleeping_spec(), work_class=WorkClass.REALTIME) == empty > 0
        same = engine.estimate(sleeping_spec(), owner="flood")
        other = engine.estimate(sleeping_spec(), owner="other")
        direct = engine.estimate(sleeping_spec(), owner="other", work_class=WorkClass.DIRECT)
        assert direct <= other < same
        gated.let_go(1000)
        for drawing in flood:
            await drawn(drawing)
