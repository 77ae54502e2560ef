"""The pipeline beside stock diffusers in one process, on one thread: speed, and how far apart the pictures are.

1. Samples of all variants are interleaved and medians are taken, so that a noisy machine hurts all alike.
2. Stock is diffusers' `LatentConsistencyModelPipeline` as its documentation calls it: eager, float32.
3. Every sample has a prompt of its own, so that no cache of ours is warm where stock has none.

`python -m tests.bench.pipeline` prints a Markdown table; `--sd15` adds the architecture of Stable Diffusion 1.5 with random weights,
which takes minutes and 10 GB of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler

from flashbulb_server.core.catalog import ModelInfo
from flashbulb_server.core.generation import GenerationSpec
from flashbulb_server.core.pipeline import Pixels
from flashbulb_server.pipelines.choosing import open_backend
from flashbulb_server.pipelines.eager import EagerBackend
from flashbulb_server.pipelines.latent_consistency import LatentConsistencyPipeline
from flashbulb_server.pipelines.loading import EMBEDDED_FOLDER, load_embedded
from flashbulb_server.pipelines.model import Model
from flashbulb_server.pipelines.networks import Networks, load_networks
from flashbulb_server.pipelines.target import Target
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.sd15 import sd15_networks, small_networks, tiny_decoder
from tests.specs import make_spec

CPU = torch.device("cpu")
TOGETHER = 8
WARM_UP = 6
REFERENCE = "eager f32"


def stock_of(networks: Networks) -> LatentConsistencyModelPipeline:
    """diffusers' own pipeline of the same modules."""
    pipeline = LatentConsistencyModelPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet,
        scheduler=LCMScheduler.from_pretrained(str(EMBEDDED_FOLDER / "scheduler"), local_files_only=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: LatentConsistencyPipeline, spec: GenerationSpec) -> Pixels:
    lanes = pipeline.prepare(spec)
    while lanes[0].step < lanes[0].total_steps:
        pipeline.step(lanes)
    return pipeline.decode(lanes)[0]


def stock_draw(stock: Any, spec: GenerationSpec, **more: object) -> Pixels:  # diffusers has no types
    picture = stock(
        spec.prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
        **more,
    ).images[0]
    return np.asarray(picture)


def psnr(a: Pixels, b: Pixels) -> float:
    """Decibels between two pictures; 99 where they are equal."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 99.0 if error == 0 else 20 * float(np.log10(255 / np.sqrt(error)))


def non_network(rounds: int) -> list[Figure]:
    """Time that is no network's: 512 px, 4 steps, networks that answer at once, prompts that are known."""
    networks = small_networks()
    latents, picture = torch.randn(1, 4, 64, 64), torch.randn(1, 3, 512, 512)
    networks.unet.forward = lambda *_, **__: (latents,)
    networks.vae.decode = lambda *_, **__: (picture,)
    stock = stock_of(networks)
    info = ModelInfo("stub", (), 512, resamples=False, max_image_pixels=2**20, fidelity="EXACT")
    ours = LatentConsistencyPipeline(Model.of(networks, EagerBackend(networks)), info, {})
    spec = make_spec(width=512, height=512, prompt="known")
    with torch.inference_mode():
        embeddings, _ = stock.encode_prompt("known", CPU, 1, False)

    def theirs() -> None:
        stock(
            prompt_embeds=embeddings,
            num_inference_steps=4,
            guidance_scale=1.5,
            height=512,
            width=512,
            generator=torch.Generator().manual_seed(7),
        )

    def loop() -> None:
        lanes = ours.prepare(spec)
        for _ in range(4):
            ours.step(lanes)

    calls = {"stock": theirs, "ours": lambda: draw(ours, spec), "loop": loop}
    times: dict[str, list[Took]] = {name: [] for name in calls}
    for index in range(rounds + 5):
        for name, call in calls.items():
            took = Took.of(call)
            if index >= 5:
                times[name].append(took)
    medians = {name: statistics.median(took.wall for took in taken) for name, taken in times.items()}
    processor = {name: statistics.median(took.cpu for took in taken) for name, taken in times.items()}
    title = "512 px, 4 steps, without networks"
    return [
        Figure(f"{title}: stock diffusers, to PIL", medians["stock"], "ms"),
        Figure(f"{title}: stock diffusers, to PIL, CPU time", processor["stock"], "ms"),
        at_most(f"{title}: ours, to uint8", medians["ours"], "ms", 1.0),
        at_most(f"{title}: ours, to uint8, CPU time", processor["ours"], "ms", 1.0),
        Figure(f"{title}: ours, to uint8, least CPU time", min(took.cpu for took in times["ours"]), "ms"),
        Figure("of which until the latent", medians["loop"], "ms"),
    ]


def embedded_models(threads: int) -> dict[str, LatentConsistencyPipeline]:
    """The embedded model by backend and dtype."""
    return {
        REFERENCE: load_embedded(Target(CPU, torch.float32, "eager", threads)),
        "eager bf16": load_embedded(Target(CPU, torch.bfloat16, "eager", threads)),
        "openvino f32": load_embedded(Target(CPU, torch.float32, "openvino", threads)),
        "openvino bf16": load_embedded(Target(CPU, torch.bfloat16, "openvino", threads)),
        "openvino w8a8": load_embedded(Target(CPU, torch.float32, "openvino", threads, quantize="w8a8")),
    }


def one_image(models: Mapping[str, LatentConsistencyPipeline], rounds: int) -> list[Figure]:
    """The embedded model, 4 steps, a picture at a time."""
    stock = stock_of(load_networks(EMBEDDED_FOLDER, CPU, torch.float32))
    times: dict[str, list[float]] = {name: [] for name in ("stock", *models)}
    levels = dict.fromkeys(models, 0)
    decibels: dict[str, list[float]] = {name: [] for name in models}
    for index in range(rounds + WARM_UP):
        if index == WARM_UP:
            settle(models)
        spec = make_spec(prompt=f"a red apple number {index}", seed=index)
        started = time.perf_counter()
        reference = stock_draw(stock, spec)
        taken = {"stock": (time.perf_counter() - started) * 1000}
        for name, model in models.items():
            started = time.perf_counter()
            picture = draw(model, spec)
            taken[name] = (time.perf_counter() - started) * 1000
            levels[name] = max(levels[name], int(np.abs(picture.astype(int) - reference).max()))
            decibels[name].append(psnr(picture, reference))
        if index >= WARM_UP:
            for name, value in taken.items():
                times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    goals = {"openvino f32": 2.0, "openvino bf16": 3.5}
    figures = [Figure("embedded model, 1 picture, 4 steps: stock diffusers", medians["stock"], "ms")]
    for name in models:
        ratio = medians["stock"] / medians[name]
        figures.append(Figure(f"embedded model, 1 picture, 4 steps: {name}", medians[name], "ms"))
        title = f"{name}, faster than stock by"
        figures.append(at_least(title, ratio, "x", goals[name]) if name in goals else Figure(title, ratio, "x"))
        if name.endswith("f32"):
            figures.append(at_most(f"{name}, largest difference from stock", levels[name], "levels", 1))
        elif name.endswith("bf16"):
            figures.append(at_least(f"{name}, least PSNR to stock", min(decibels[name]), "dB", 40))
        else:
            figures.append(Figure(f"{name}, least PSNR to stock", min(decibels[name]), "dB"))
    return figures


def in_flight(models: Mapping[str, LatentConsistencyPipeline], requests: int) -> list[Figure]:
    """Eight requests in flight, each at its own step, prompt and seed, beside one after another: by the clock, and by the processor's
    time, which others on the machine disturb less.

    The ratio says how much a backend gains by batches, not how fast it is: one that is twice as fast alone has less left to gain.
    """
    figures: list[Figure] = []
    reference = 0.0
    for name, model in models.items():
        runs: dict[int, list[Spent]] = {1: [], TOGETHER: []}
        rolling(model, 6 * TOGETHER, TOGETHER)
        rolling(model, WARM_UP, 1)
        settle(models)
        for _ in range(3):
            for width, taken in runs.items():
                taken.append(rolling(model, requests, width))
        alone, together = (Spent.median(runs[width]) for width in (1, TOGETHER))
        for title, one, many, goal in (
            ("UNet", alone.network, together.network, 2.5),
            ("whole request", alone.whole, together.whole, 1.8),
        ):
            for kind, own, shared in (("CPU time", one.cpu, many.cpu), ("wall", one.wall, many.wall)):
                figures += [
                    Figure(f"{name}, {title} per picture, one after another, {kind}", own, "ms"),
                    Figure(f"{name}, {title} per picture, {TOGETHER} in flight, {kind}", shared, "ms"),
                    at_least(f"{name}, {title}, {TOGETHER} in flight, {kind} less by", own / shared, "x", goal),
                ]
        if name == REFERENCE:
            reference = alone.network.cpu
        else:
            title = f"{name}, {TOGETHER} in flight, UNet's CPU time less than {REFERENCE} one after another by"
            figures.append(Figure(title, reference / together.network.cpu, "x"))
    return figures


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds by the clock, and of this process on any core."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, call: Callable[[], object]) -> Took:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return cls((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds a picture: of the UNet's steps, and of everything."""

    network: Took
    whole: Took

    @classmethod
    def median(cls, runs: Sequence[Spent]) -> Spent:
        def middle(part: str) -> Took:
            took = [getattr(run, part) for run in runs]
            return Took(statistics.median(t.wall for t in took), statistics.median(t.cpu for t in took))

        return cls(middle("network"), middle("whole"))


def settle(models: Mapping[str, LatentConsistencyPipeline]) -> None:
    """Waits for graphs that are being compiled beside."""
    for model in models.values():
        for part in ("_step", "_decoder"):
            compiler = getattr(getattr(model._backend, part, None), "_compiler", None)
            if compiler is not None:
                compiler.submit(lambda: None).result()


def rolling(model: LatentConsistencyPipeline, requests: int, width: int) -> Spent:
    """What drawing takes with up to `width` pictures in flight; two join at every step."""
    steps: list[Took] = []

    def run() -> None:
        left = iter(range(requests))
        flying: list[Any] = []
        while True:
            for _ in range(min(2 if width > 1 else 1, width - len(flying))):
                if (index := next(left, None)) is not None:
                    flying += model.prepare(make_spec(prompt=f"a house number {index}", seed=index))
            if not flying:
                return
            steps.append(Took.of(partial(model.step, flying)))
            done = [lane for lane in flying if lane.step == lane.total_steps]
            flying = [lane for lane in flying if lane.step < lane.total_steps]
            if done:
                model.decode(done)

    whole = Took.of(run)
    network = Took(sum(took.wall for took in steps) / requests, sum(took.cpu for took in steps) / requests)
    return Spent(network, Took(whole.wall / requests, whole.cpu / requests))


def stable_diffusion(rounds: int, side: int = 256) -> list[Figure]:
    """The architecture of Stable Diffusion 1.5 with random weights, 4 steps: two models in memory at a time."""
    figures = []
    for title, tiny, goal in (("own decoder", None, 3.0), ("tiny decoder", tiny_decoder(), 6.0)):
        networks = sd15_networks()
        stock = stock_of(networks)
        own = {"text_encoder": copy.deepcopy(networks.text_encoder)}  # a backend may change its dtype
        given = replace(networks, **own, decoder=networks.decoder if tiny is None else tiny)
        started = time.perf_counter()
        given, backend = open_backend(lambda _, given=given: given, Target(CPU, torch.bfloat16, "openvino", 1))
        figures.append(Figure(f"SD 1.5, {title}: conversion at load", time.perf_counter() - started, "s"))
        info = ModelInfo("sd15", (), 512, resamples=False, max_image_pixels=2**20, fidelity=backend.fidelity)
        ours = LatentConsistencyPipeline(Model.of(given, backend), info, {})
        times: dict[str, list[Took]] = {"stock": [], "ours": []}
        decibels = []
        draw(ours, make_spec(width=side, height=side, prompt="warm", num_inference_steps=1))
        for index in range(rounds):
            spec = make_spec(width=side, height=side, prompt=f"a house number {index}", seed=index)
            drawn: list[Pixels] = []
            times["stock"].append(Took.of(lambda: drawn.append(stock_draw(stock, spec, width=side, height=side))))  # noqa: B023  # called here and now
            times["ours"].append(Took.of(lambda: drawn.append(draw(ours, spec))))  # noqa: B023  # as above
            decibels.append(psnr(drawn[1], drawn[0]))
        slow, fast = (statistics.median(took.wall for took in taken) / 1000 for taken in times.values())
        slow_cpu, fast_cpu = (statistics.median(took.cpu for took in taken) / 1000 for taken in times.values())
        figures += [
            Figure(f"SD 1.5, {side} px, 4 steps: stock diffusers", slow, "s"),
            Figure(f"SD 1.5, {side} px, 4 steps: openvino bf16, {title}", fast, "s"),
            at_least(f"openvino bf16, {title}, faster than stock by", slow / fast, "x", goal),
            at_least(f"openvino bf16, {title}, less CPU time than stock by", slow_cpu / fast_cpu, "x", goal),
        ]
        if tiny is None:
            figures.append(at_least("openvino bf16, own decoder, least PSNR to stock", min(decibels), "dB", 40))
    return figures


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)


def measure(scale: float = 1.0, *, sd15: bool = False) -> list[Figure]:
    """All figures. `scale`: share of the usual repetitions."""

    def times(count: int) -> int:
        return max(2, round(count * scale))

    with one_thread():
        models = embedded_models(1)
        figures = [*non_network(times(40)), *one_image(models, times(25)), *in_flight(models, times(32))]
        del models
        return figures + (stable_diffusion(2) if sd15 else [])


def report(figures: list[Figure], write: Callable[[str], object]) -> None:
    write("| measure | value | goal |\n| --- | --- | --- |\n")
    for figure in figures:
        mark = "" if figure.reached else " (missed)"
        write(f"| {figure.name} | {figure.value:.2f} {figure.unit} | {figure.goal}{mark} |\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the usual repetitions.")
    parser.add_argument("--sd15", action="store_true", help="Also the architecture of Stable Diffusion 1.5.")
    parser.add_argument("--json", type=Path, default=Path("out/bench-pipeline.json"))
    options = parser.parse_args()
    figures = measure(options.scale, sd15=options.sd15)
    report(figures, sys.stdout.write)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"system": platform.platform(), "processors": os.cpu_count(), "python": platform.python_version()}
    options.json.write_text(json.dumps({"machine": machine, "figures": [asdict(f) for f in figures]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
