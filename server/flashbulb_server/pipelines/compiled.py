"""The networks compiled by torch: for the native size of a model and a few batch sizes, all of them made at load.

1. A batch between two sizes is filled up to the larger; the rows that fill it are what was there before, and are thrown away.
2. Other shapes, and larger batches, run operation by operation. Nothing is ever compiled while somebody waits for a picture.
3. On CUDA every size is a graph: recorded once, on a stream of its own and after warming up there, and replayed from fixed buffers. The
   graphs share one pool of memory, as only one of them runs at a time.
4. What depends on time, guidance and prompt alone is computed once a picture (pipelines.conditioning).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashbulb_server.pipelines.backend import DECODED_AT_ONCE, Backend, Condition, Unsupported
from flashbulb_server.pipelines.checking import Decode, Expected, Sample, fidelity_of
from flashbulb_server.pipelines.conditioning import Conditioner
from flashbulb_server.pipelines.ends import Ends
from flashbulb_server.pipelines.networks import Networks

WARM_UPS = 3
"""Runs before a graph is recorded: libraries choose algorithms and take memory in the first ones."""

MOST_GRAPHS = 256
"""Of all models together; torch gives up after eight of one piece of code."""


class CompiledBackend:
    """Networks on any device in their own dtype. Raises Unsupported when torch cannot compile them, and leaves them whole then.

    `reference`: what its results are checked against. `sizes`: batch sizes that are compiled, ascending. `compiler`: torch's word for it.
    """

    def __init__(
        self, networks: Networks, reference: Backend, *, sizes: Sequence[int], compiler: str = "inductor"
    ) -> None:
        self._networks = networks
        self._device, self._dtype = networks.device, networks.dtype
        self._ends = Ends(networks, networks.dtype)
        if networks.device.type == "cuda":  # the layout that tensor cores want
            networks.unet.to(memory_format=torch.channels_last)
            networks.decoder.to(memory_format=torch.channels_last)
        with torch.inference_mode(), warnings.catch_warnings(), ExitStack() as undo:
            warnings.simplefilter("ignore")  # of the compiler, about itself
            try:
                sample = Sample.of(networks, native=True)  # what is compiled, not what runs beside it
                expected = Expected.of(sample, reference)
                self._conditioner = Conditioner(networks.unet)
                self._step_module = undo.enter_context(self._conditioner.detached())
                self._decode_module = Decode(networks.decoder)
                from torch._dynamo import config as dynamo  # heavy: only who compiles pays for it

                on_device = torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
                with on_device, dynamo.patch(recompile_limit=MOST_GRAPHS):
                    self._make(sample, sizes, compiler)
                expected.check(self, self._dtype)
            except Unsupported:
                raise
            except Exception as err:  # whatever compiling a stranger's network may raise
                raise Unsupported(f"{type(err).__name__}: {str(err)[:500]}") from err
            self._detached = undo.pop_all()  # the UNet stays as it was compiled for as long as this lives

    def _make(self, sample: Sample, sizes: Sequence[int], compiler: str) -> None:
        """Compiles every size, the largest first, so that the others fit into the memory that it took."""
        networks = self._networks
        pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        latents = torch.zeros_like(sample.latents[:1])
        moments = self._conditioner.moments(sample.timesteps[:1], sample.prompt[:1], sample.guidance)
        keys = self._conditioner.keys(sample.prompt[:1])
        decoded = [size for size in sizes if size == 1 or size * networks.figures.native_size**2 <= DECODED_AT_ONCE]
        step = torch.compile(self._step_module, backend=compiler, dynamic=False, fullgraph=True)
        decode = torch.compile(self._decode_module, backend=compiler, dynamic=False, fullgraph=True)
        self._steps = {
            size: _Bucket.make(step, (latents.to(self._dtype), moments, keys), size, pool) for size in sizes[::-1]
        }
        self._decoders = {size: _Bucket.make(decode, (latents.to(self._dtype),), size, pool) for size in decoded[::-1]}

    @property
    def name(self) -> str:
        """`torch.compile`, the device and the dtype."""
        return f"torch.compile {self._device.type} {str(self._dtype).removeprefix('torch.')}"

    @property
    def fidelity(self) -> str:
        """EXACT in float32."""
        return fidelity_of(self._networks, self._dtype)

    def embed(self, tokens: Tensor) -> Tensor:
        """One call of the text encoder, operation by operation."""
        return self._ends.embed(tokens.to(self._device))

    def encode(self, picture: Tensor) -> Tensor:
        """One call of the encoder, operation by operation."""
        return self._ends.encode(picture.to(self._device))

    def condition(self, timesteps: Sequence[int], prompt: Tensor, guidance: Tensor | None) -> Condition:
        """What time, guidance and prompt are to every block of the UNet."""
        moments = self._conditioner.moments(torch.tensor(timesteps, device=self._device), prompt, guidance)
        return Condition(moments, (self._conditioner.keys(prompt),))

    def predict(self, latents: Tensor, moments: Tensor, fixed: Sequence[Tensor]) -> Tensor:
        """One run of the UNet."""
        return self._run(self._steps, self._step_module, (latents.to(self._dtype), moments, *fixed)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """One run of the decoder, levels included."""
        levels = self._run(self._decoders, self._decode_module, (latents.to(self._dtype),))
        return (
            levels.contiguous().cpu()
            if self._device.type != "cpu"
            else levels.clone(memory_format=torch.contiguous_format)
        )

    def _run(self, buckets: dict[int, _Bucket], module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        size = min((size for size in buckets if size >= len(inputs[0])), default=None)
        if size is not None and buckets[size].fits(inputs):
            return buckets[size](inputs)
        output: Tensor = module(*inputs)
        return output


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A network compiled for one batch size. `inputs`: its buffers; `run` computes from them."""

    inputs: tuple[Tensor, ...]
    run: Callable[[], Tensor]

    @classmethod
    def make(cls, module: Callable[..., Tensor], row: tuple[Tensor, ...], size: int, pool: Any) -> _Bucket:  # noqa: ANN401  # torch's handle
        """`row`: inputs of one row. `pool`: of the memory of CUDA graphs, None elsewhere."""
        inputs = tuple(part.expand(size, *part.shape[1:]).clone(memory_format=torch.contiguous_format) for part in row)

        def compute() -> Tensor:
            return module(*inputs)

        if pool is None:
            compute()
            return cls(inputs, compute)
        return cls(inputs, _recorded(compute, pool))

    def fits(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether rows of this shape are what it was compiled for."""
        return all(given.shape[1:] == own.shape[1:] for given, own in zip(inputs, self.inputs, strict=True))

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        count = len(inputs[0])
        for own, given in zip(self.inputs, inputs, strict=True):
            own[:count].copy_(given)
        return self.run()[:count]


def _recorded(compute: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:  # noqa: ANN401  # as above
    """A CUDA graph of a computation whose inputs stay where they are."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch types it not
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        output = compute()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
