"""The CUDA kernels compiled for named devices, with no device at hand: registers, spills, shared memory, tensor cores.

`pytest -rP test/core/test_triton_compile.py` prints the figures.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest
import torch

triton = pytest.importorskip("triton", reason="no Triton for this platform")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from lmanet_core.experiments.baseline_kernels import published_scheme  # noqa: E402
from lmanet_core.ops import triton_kernels, triton_launch  # noqa: E402
from lmanet_core.ops.triton_attention import local_attention_backward_op, local_attention_op  # noqa: E402

#: Compute capability → shared memory that one program may have, bytes.
SHARED = {75: 64 << 10, 80: 163 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10}
#: Dk, Dv.
ERFNET, PSPNET = (16, 64), (128, 2048)
OPTIONS = {"attend": {"MASKED": False}, "score_gradients": {"QUERY_IS_OWN": False}, "value_gradients": {}}
#: PSPNet's score_gradients without tensor cores: 128 channels of keys, of their gradient and 16 · 16 products in one program.
SPILLS_ON_TURING = 256


@dataclass(frozen=True)
class Compiled:
    registers: int
    spilled: int  # bytes a thread
    shared: int  # bytes a program
    tensor_core_instructions: int


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compile_kernel(name, capability, tiles, channels, dtype, tmp_path):
    """As Triton would on first use, for maps whose channels lie side by side and whose strides are multiples of 16."""
    kernel, (key_channels, value_channels) = getattr(triton_kernels, name), channels
    padded = max(16, triton.next_power_of_2(key_channels))
    dot = {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32}[dtype]
    constants = {"DK": key_channels, "DV": value_channels, "PADDED_DK": padded, "DOT": dot}
    constants |= {**tiles.config.kwargs, **OPTIONS[name]}
    signature, aligned = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        stride = re.fullmatch(r".*_([btcyx])", argument)
        if argument in constants or (stride and stride[1] == "c"):
            signature[argument] = "constexpr"
            constants.setdefault(argument, 1)
        elif argument in ("T", "H", "W", "half", "other_T"):
            signature[argument] = "i32"
        elif argument in ("scale", "scale_log2"):
            signature[argument] = "fp32"
        else:
            signature[argument] = "i32" if stride else "*fp32" if argument in ("lse", "dots") else f"*{dtype}"
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"num_warps": tiles.warps, "num_stages": tiles.stages})
    file = tmp_path / "kernel.cubin"
    file.write_bytes(binary.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, local = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK", "LOCAL"))
    products = len(re.findall(r"mma\.sync|wgmma\.mma_async", binary.asm["ptx"]))
    compiled = Compiled(registers, stack + local, binary.metadata.shared, products)
    print(f"{name} sm_{capability} {dtype} Dk {key_channels} Dv {value_channels} {tiles}: {compiled}")
    return compiled


@pytest.mark.parametrize("kernel", OPTIONS)
@pytest.mark.parametrize("channels", [ERFNET, PSPNET], ids=["erfnet", "pspnet"])
@pytest.mark.parametrize("capability", [87, 90], ids=["Orin", "Hopper"])
def test_half_precision_uses_tensor_cores_and_spills_nothing(capability, channels, kernel, tmp_path):
    candidates = triton_launch.candidates(kernel, channels[1], tensor_cores=True)
    for tiles in {candidates[0], candidates[-1] if channels == PSPNET else candidates[0]}:  # the smallest, a large one
        compiled = compile_kernel(kernel, capability, tiles, channels, "fp16", tmp_path)
        assert compiled.tensor_core_instructions > 0, tiles
        assert compiled.spilled == 0, f"{tiles}: {compiled}"
        assert compiled.registers * 32 * tiles.warps <= 65536, f"{tiles}: {compiled}"
        assert compiled.shared <= SHARED[capability], f"{tiles}: {compiled}"


@pytest.mark.parametrize("kernel", OPTIONS)
@pytest.mark.parametrize("channels", [ERFNET, PSPNET], ids=["erfnet", "pspnet"])
@pytest.mark.parametrize(("capability", "dtype"), [(75, "fp16"), (90, "fp32")], ids=["Turing", "float32"])
def test_first_tiles_without_tensor_cores_fit(capability, dtype, channels, kernel, tmp_path):
    tiles = triton_launch.candidates(kernel, channels[1], tensor_cores=False)[0]
    compiled = compile_kernel(kernel, capability, tiles, channels, dtype, tmp_path)
    spills = SPILLS_ON_TURING if (kernel, channels) == ("score_gradients", PSPNET) else 0
    assert compiled.spilled <= spills, f"{tiles}: {compiled}"
    assert compiled.shared <= min(SHARED[capability], 48 << 10), f"{tiles}: {compiled}"


@pytest.mark.parametrize("kernel", OPTIONS)
def test_widest_keys_compile_without_spills_in_bfloat16(kernel, tmp_path):
    tiles = triton_launch.candidates(kernel, 2048, tensor_cores=True)[0]
    compiled = compile_kernel(kernel, 87, tiles, (256, 2048), "bf16", tmp_path)
    assert (compiled.spilled, compiled.tensor_core_instructions > 0) == (0, True)
    assert compiled.shared <= SHARED[87]


# ---- what is started, as Triton specialises it: no device runs it, but everything up to that happens


class _Driver:
    """Of a Hopper that is not there."""

    def __init__(self):
        self.measured = 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def map_python_to_cpp_type(self, kind):
        return kind

    def get_benchmarker(self):
        def measure(start, quantiles):
            start()
            self.measured += 1
            return [1.0 / self.measured] * len(quantiles)  # the last candidate is the fastest

        return measure


@pytest.fixture
def hopper(monkeypatch):
    """Compiles what is started; `hopper.started` has (kernel, grid, warps) of each."""
    used, run = set(), triton.JITFunction.run

    def only_compile(kernel, *arguments, grid, warmup, **constants):
        used.add(kernel)
        grid = grid(constants) if callable(grid) else grid
        fake.started.append((kernel.__name__, grid, constants.get("num_warps")))
        return run(kernel, *arguments, grid=grid, warmup=True, **constants)

    fake = _Driver()
    fake.started = []
    monkeypatch.setattr(triton.JITFunction, "run", only_compile)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a Hopper")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton.runtime.driver, "_active", fake)
    yield fake
    triton_launch._tuner.cache_clear()
    for kernel in used:
        kernel.device_caches.clear()


def maps_of(frames, key_channels, value_channels, height, width, dtype):
    """Query, keys, values in PyTorch's own layout, as in training."""
    shapes = (key_channels,), (frames, key_channels), (frames, value_channels)
    return [torch.zeros(1, *channels, height, width, dtype=dtype) for channels in shapes]


@pytest.mark.parametrize(
    ("sizes", "window", "masked", "dtype"),
    [
        ((1, 8, 8, 1, 1), 3, False, torch.float16),  # sizes of 1, which Triton would make constants
        ((2, 24, 136, 9, 20), 5, True, torch.bfloat16),
    ],
)
def test_everything_that_is_started_compiles(sizes, window, masked, dtype, hopper, monkeypatch):
    first = {name: {kind: tiles[:1] for kind, tiles in kinds.items()} for name, kinds in triton_launch.TILES.items()}
    monkeypatch.setattr(triton_launch, "TILES", first)
    maps = maps_of(*sizes, dtype)
    out, lse = local_attention_op(*maps, window // 2, masked, 1.0)
    local_attention_backward_op(out, *maps, out, lse, window // 2, 1.0)
    started = [name for name, _, _ in hopper.started]
    assert started == ["attend", "dot_maps", "value_gradients", "score_gradients", "score_gradients"]


def test_published_scheme_compiles(hopper):
    published_scheme(*maps_of(1, 8, 8, 1, 1, torch.float16), 3)
    assert [name for name, _, _ in hopper.started] == ["_correlate", "_gather"]


@pytest.mark.parametrize("kernel", OPTIONS)
@pytest.mark.parametrize("channels", [ERFNET, PSPNET], ids=["erfnet", "pspnet"])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0)], ids=["A100", "Ada", "Hopper"])
def test_measured_tiles_fit_where_they_are_taken(capability, kernel, channels, tmp_path):
    tiles = triton_launch.tiles_for(kernel, *channels, True, capability)
    target = 10 * capability[0] + capability[1]
    compiled = compile_kernel(kernel, target, tiles, channels, "fp16", tmp_path)
    assert compiled.shared <= SHARED[target] and compiled.tensor_core_instructions > 0
    assert compiled.spilled == 0 and compiled.shared <= triton_launch.shared_bytes(tiles, channels[0], capability)


def test_no_start_waits_for_a_measurement(hopper):
    for height in (9, 17):
        local_attention_op(*maps_of(1, 16, 64, height, 20, torch.float16), 2, False, 1.0)
    assert hopper.measured == 0
    assert [warps for _, _, warps in hopper.started] == [triton_launch.TUNED[9, 0]["attend"]["narrow"].warps] * 2


def test_tiles_are_measured_once_a_size_and_kept_on_disk_for_the_next_process(hopper, monkeypatch):
    monkeypatch.setenv("LMANET_TUNE", "1")
    attend = triton_launch.TILES["attend"]["narrow"]
    monkeypatch.setitem(triton_launch.TILES["attend"], "narrow", (attend[0], attend[-1]))
    candidates = triton_launch.candidates("attend", 64, tensor_cores=True)

    def read(frames, height):
        hopper.started.clear()
        local_attention_op(*maps_of(frames, 16, 64, height, 20, torch.float16), 2, False, 1.0)
        return hopper.started[-1]

    assert read(1, 9) == ("attend", (2 * 2, 1, 1), candidates[-1].warps)  # tiles of 8×16 queries
    assert hopper.measured == len(candidates)
    read(4, 9)  # a fuller memory
    assert hopper.measured == len(candidates) and len(hopper.started) == 1
    triton_launch._tuner.cache_clear()  # as in another process
    assert read(4, 9)[2] == candidates[-1].warps
    assert hopper.measured == len(candidates)
    read(1, 17)
    assert hopper.measured == 2 * len(candidates)
