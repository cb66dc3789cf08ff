"""`lmanet bench`: how long the memory read and a streamed frame take here, against other ways to do the same.

Every row is measured in one run on one machine; what needs a device that is not here says so. Weights are random: time does
not depend on them. `--json` records machine, versions, commit and command with the figures.
"""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from lmanet_core.experiments.baselines import BASELINES, MakeRead
from lmanet_core.experiments.timing import extra_megabytes, time_cpu, time_on
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import LMANet, MemoryConfig, MemoryFrames, MemoryModule
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.ops import local_attention
from lmanet_core.ops.triton_attention import local_attention_backward_op, local_attention_op
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.training.config import PAPER_MEMORY
from lmanet_core.weights.checkpoint import Model, ModelConfig, build_network
from lmanet_core.weights.machine import describe_run
from lmanet_core.weights.runtime import Runtime, choose_device, choose_precision, prepare
from lmanet_core.weights.tiles import use_measured_tiles

NOT_MEASURED = "not measured yet"
Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_CPU_LIMIT_GFLOP = 50.0  # of one read: PSPNet's would take minutes each


@dataclass(frozen=True)
class OperatorSize:
    """A memory read: name, memory frames, channels, feature map."""

    name: str
    frames: int
    key_channels: int
    value_channels: int
    height: int
    width: int

    def pairs(self, window: int | None) -> int:
        """Query–key pairs inside the map."""
        if window is None:
            return self.frames * (self.height * self.width) ** 2
        half = window // 2
        seen = [sum(min(side, at + half + 1) - max(0, at - half) for at in range(side)) for side in (self.height, self.width)]
        return self.frames * seen[0] * seen[1]

    def gflop(self, window: int | None) -> float:
        """Two operations for each channel of each pair, forward."""
        return 2e-9 * self.pairs(window) * (self.key_channels + self.value_channels)

    def megabytes(self, element_bytes: int) -> float:
        """Everything read and written once."""
        per_frame = self.key_channels + self.value_channels
        channels = self.frames * per_frame + per_frame
        return 1e-6 * channels * self.height * self.width * element_bytes


SIZES = (OperatorSize("ERFNet S=4", 4, 16, 64, 64, 128), OperatorSize("PSPNet S=3", 3, 128, 2048, 129, 257))
WINDOWS: tuple[int | None, ...] = (11, 21, 41, None)


@dataclass(frozen=True)
class FrameCase:
    """A streamed frame: name, backbone, size; its memory is as in the paper."""

    name: str
    architecture: str
    size: Size

    @property
    def memory(self) -> MemoryConfig:
        """How the network remembers."""
        return PAPER_MEMORY[self.architecture]

    @property
    def config(self) -> ModelConfig:
        """Of a network with random weights."""
        return ModelConfig(self.architecture, 20, CITYSCAPES, self.memory, self.size)


FRAMES = (
    FrameCase("ERFNet", "erfnet", Size(512, 1024)),
    FrameCase("ERFNet", "erfnet", Size(1024, 2048)),
    FrameCase("PSPNet-101", "pspnet101", Size(1025, 2049)),
)
#: The last is not the paper's size, at which a frame takes a CPU minutes.
CPU_FRAMES = (*FRAMES[:2], FrameCase("PSPNet-101", "pspnet101", Size(257, 513)))


@dataclass
class Row:
    """One line of a table; a cell is a number, or words where there is none.

    Attributes:
        what: size and window, or size and device.
        cells: column → figure. Units are in the columns' names.
    """

    what: str
    cells: dict[str, float | str] = field(default_factory=dict)


def run_benchmark(quick: bool, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure everything that can be measured here.

    Args:
        quick: one window, few repetitions; under two minutes without a GPU.
        arguments: of the command line, for the record.

    Returns:
        Record with "run" (machine, versions, commit, command) and "tables", title → rows.
    """
    cuda = torch.cuda.is_available()
    use_measured_tiles(choose_device())
    windows = (21,) if quick else WINDOWS
    gpu_operator = [operator_row(size, window, "cuda" if cuda else None) for size in SIZES for window in windows]
    cpu_operator = [
        operator_row_cpu(size, window, quick) for size in SIZES for window in windows if size.gflop(window) <= _CPU_LIMIT_GFLOP
    ]
    gpu_frame = [frame_row(case, graph, "cuda" if cuda else None, 100) for case in FRAMES for graph in (True, False)]
    cpu_frame = [frame_row(case, False, "cpu", 7 if quick else 21) for case in (CPU_FRAMES[:1] if quick else CPU_FRAMES)]
    tables = {
        "memory read on the GPU, float16": gpu_operator,
        "memory read on the CPU, float32": cpu_operator,
        "streamed frame on the GPU, float16": gpu_frame,
        "streamed frame on the CPU": cpu_frame,
    }
    device = choose_device()
    computed = {"device": str(device), "precision": str(choose_precision("auto", device)).removeprefix("torch.")}
    return {
        "run": {**describe_run(shlex.join(["lmanet", *arguments])), **computed},
        "tables": {title: [asdict(row) for row in rows] for title, rows in tables.items()},
    }


# ---- the memory read


def operator_row(size: OperatorSize, window: int | None, device: str | None) -> Row:
    """Our kernel and every baseline on a GPU, in float16; device None says that there is no GPU."""
    row = Row(f"{size.name}, {_name(window)}")
    columns = ("floor", "forward", "share of the floor", "backward", "extra MB", *BASELINES)
    if device is None:
        row.cells = dict.fromkeys(columns, NOT_MEASURED)
        return row
    inputs = make_inputs(size, torch.float16, device)
    read = partial(local_attention, *inputs, window, impl="triton")
    floor = floor_ms(size, window, device)
    forward = time_on(device, read)
    row.cells = {
        "floor": floor,
        "forward": forward,
        "share of the floor": floor / forward,
        "backward": _or_words(lambda: time_backward(inputs, window)),
        "extra MB": extra_megabytes(read),
    }
    for name, make in BASELINES.items():
        row.cells[name] = _or_words(partial(_time_baseline, device, make, inputs, window))
    return row


def operator_row_cpu(size: OperatorSize, window: int | None, quick: bool) -> Row:
    """The blocked path, forward and with gradients, against shift-and-multiply."""
    inputs = make_inputs(size, torch.float32, "cpu")
    rounds = 3 if quick else 7
    blocked = time_cpu(partial(local_attention, *inputs, window, impl="blocked"), rounds)
    leaves = _leaves(inputs)
    both = time_cpu(lambda: torch.autograd.grad(local_attention(*leaves, window, impl="blocked").sum(), leaves), rounds)
    cells: dict[str, float | str] = {"forward": blocked, "backward": max(0.0, both - blocked)}
    scores_gb = size.frames * (window or size.height * size.width) ** 2 * size.height * size.width * 4e-9
    if window is not None and scores_gb < 1.0:
        loop = time_cpu(BASELINES["shift-and-multiply"](*inputs, window), 1 if quick else 3)
        cells |= {"shift-and-multiply": loop, "times faster": loop / blocked}
    else:
        cells |= dict.fromkeys(("shift-and-multiply", "times faster"), "its scores are too many for here")
    return Row(f"{size.name}, {_name(window)}", cells)


def make_inputs(size: OperatorSize, dtype: torch.dtype, device: str) -> Maps:
    """Query, keys, values as the memory holds them: channels side by side."""
    generator = torch.Generator().manual_seed(0)
    channels = ((size.key_channels,), (size.frames, size.key_channels), (size.frames, size.value_channels))
    query, keys, values = (
        torch.randn(1, *some[:-1], size.height, size.width, some[-1], generator=generator).to(device, dtype).movedim(-1, -3)
        for some in channels
    )
    return query, keys, values


def floor_ms(size: OperatorSize, window: int | None, device: str, side: int = 8192) -> float:
    """The longer of: as many operations in a float16 product of this side, as many bytes in a copy of 4·side²; both timed."""
    matrix = torch.randn(side, side, device=device, dtype=torch.float16)
    gflop_a_ms = 2e-9 * side**3 / time_on(device, lambda: matrix @ matrix)
    source = torch.empty(4 * side * side, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    megabytes_a_ms = 2e-6 * source.numel() / time_on(device, lambda: target.copy_(source))
    return max(size.gflop(window) / gflop_a_ms, size.megabytes(2) / megabytes_a_ms)


# ---- the streamed frame


def frame_row(case: FrameCase, graph: bool, device: str | None, rounds: int) -> Row:
    """Memory on against off in one run; device None says that there is no GPU.

    On a GPU also with the memory read by the published scheme, on a CPU against the network as one would write it down.
    """
    way = "" if device == "cpu" else ", in a CUDA graph" if graph else ", without a graph"
    row = Row(f"{case.name}, {case.size}{way}")
    columns = ("memory off p50", "memory off p95", "memory on p50", "memory on p95", "on / off", "frames/s")
    published = ("published scheme p50", "published scheme / off")
    if device is None:
        row.cells = dict.fromkeys((*columns, "device MB", *published), NOT_MEASURED)
        return row
    torch.manual_seed(0)
    network = build_network(case.config).eval()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    off_ms, on_ms = _stream(prepare(Model(network, case.config), device), case, graph, rounds)
    (off50, off95), (on50, on95) = (np.percentile(times, (50, 95)) for times in (off_ms, on_ms))
    figures = (off50, off95, on50, on95, _paired(on_ms, off_ms), 1e3 / on50)
    row.cells = {name: float(figure) for name, figure in zip(columns, figures, strict=True)}
    if device == "cuda":
        row.cells["device MB"] = torch.cuda.max_memory_reserved() / 1e6
        row.cells |= _published_frame(network, case, graph, rounds, published)
    else:
        eager = time_eager(network, case, max(3, rounds // 5))
        row.cells |= {"eager float32, shift-and-multiply": eager, "times faster": eager / float(on50)}
    return row


def _published_frame(network: LMANet, case: FrameCase, graph: bool, rounds: int, columns: Sequence[str]) -> dict[str, Any]:
    """The same frame, but that the memory is read as first published."""
    try:
        runtime = prepare(Model(network, case.config), "cuda")
        assert runtime.network.memory is not None
        runtime.network.memory.read = _PublishedRead(runtime.network.memory)  # type: ignore[method-assign]
        off_ms, on_ms = _stream(runtime, case, graph, rounds)
    except Exception as error:
        return dict.fromkeys(columns, _in_words(error))
    return dict(zip(columns, (float(np.median(on_ms)), _paired(on_ms, off_ms)), strict=True))


@dataclass(frozen=True)
class _PublishedRead:
    """`MemoryModule.read` by the published scheme."""

    module: MemoryModule

    def __call__(
        self, features: torch.Tensor, memory: MemoryFrames, impl: str = "auto", positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        query = self.module.project_query(features)
        read = BASELINES["published scheme"](query.key, memory.keys, memory.values, self.module.config.window)()
        fused: torch.Tensor = self.module.fusion(query.value, read)
        return fused


def time_eager(network: LMANet, case: FrameCase, rounds: int) -> float:
    """The same network as one would write it down: float32, NCHW, nothing folded, a stacked memory, the definition's read."""
    image = torch.rand(1, 3, *case.size)
    with torch.inference_mode():
        past = [network.remember(network.encode(image))] * case.memory.memory_frames

        def step() -> torch.Tensor:
            features = network.encode(image)
            labels = network.decode(features, stack_memory(past), "reference").argmax(1)
            network.remember(features)
            return labels

        return time_cpu(step, rounds)


def _paired(ones: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def _stream(runtime: Runtime, case: FrameCase, graph: bool, rounds: int) -> tuple[list[float], list[float]]:
    """Wall time of each frame, ms, with memory off and on in turn."""
    images = np.random.default_rng(0).integers(0, 256, (4, *case.size, 3), np.uint8)
    one_scene = ContinuityConfig(gap_s=1e6, scene_cut_similarity=0.0, blind=False)  # noise is neither a cut nor blindness
    off, on = (
        VideoSegmenter(runtime, SegmenterConfig(memory=memory, label_memory=False, continuity=one_scene, cuda_graph=graph))
        for memory in (False, True)
    )
    times: tuple[list[float], list[float]] = ([], [])
    warm_up = case.memory.memory_frames + 1
    for number in range(warm_up + rounds):
        for segmenter, measured in zip((off, on), times, strict=True):
            start = time.perf_counter()
            segmenter.step(images[number % 4], number * 10_000_000)  # ends with the labels in the host's memory
            if number >= warm_up:
                measured.append((time.perf_counter() - start) * 1e3)
    return times


# ---- measuring


def time_backward(inputs: Maps, window: int | None) -> float:
    """The gradients of all three inputs, ms; the operator itself, for autograd would leave the stream that is captured."""
    query = inputs[0]
    half = max(query.shape[-2:]) if window is None else window // 2
    scale = float(query.shape[1]) ** -0.5 if window is None else 1.0
    out, lse = local_attention_op(*inputs, half, window is None, scale)
    grad = torch.ones_like(out)
    return time_on(query.device.type, lambda: local_attention_backward_op(grad, *inputs, out, lse, half, scale)[0])


def _time_baseline(device: str, make: MakeRead, inputs: Maps, window: int | None) -> float:
    return time_on(device, make(*inputs, window))


def _leaves(inputs: Maps) -> Maps:
    query, keys, values = (maps.clone().requires_grad_() for maps in inputs)
    return query, keys, values


def _or_words(measure: Callable[[], float]) -> float | str:
    """What was measured, or in a few words why not: a comparison that fails is no reason to lose the others."""
    try:
        return measure()
    except Exception as error:
        return _in_words(error)


def _in_words(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"not installed: {error.name or error}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:60] if str(error).strip() else ''}"


def _name(window: int | None) -> str:
    return "G" if window is None else f"R={window}"
