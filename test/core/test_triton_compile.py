"""The CUDA kernels compiled for named devices, with no device at hand: registers, spills, shared memory, tensor cores.

`pytest -rP test/core/test_triton_compile.py` prints the figures.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest

triton = pytest.importorskip("triton", reason="no Triton for this platform")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from lmanet_core.ops import triton_kernels, triton_launch  # noqa: E402

#: Compute capability → shared memory that one program may have, bytes.
SHARED = {75: 64 << 10, 87: 163 << 10, 90: 227 << 10}
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
    for tiles in (candidates[0], candidates[-1]):  # the smallest, one of the largest
        compiled = compile_kernel(kernel, capability, tiles, channels, "fp16", tmp_path)
        assert compiled.tensor_core_instructions > 0, tiles
        assert compiled.spilled <= 8, f"{tiles}: {compiled}"  # 0 with Triton 3.7, 8 in one case with 3.6
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
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_widest_keys_compile_without_spills(dtype, kernel, tmp_path):
    tiles = triton_launch.candidates(kernel, 2048, tensor_cores=True)[0]
    compiled = compile_kernel(kernel, 87, tiles, (256, 2048), dtype, tmp_path)
    assert (compiled.spilled, compiled.tensor_core_instructions > 0) == (0, True)
    assert compiled.shared <= SHARED[87]
