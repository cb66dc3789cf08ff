"""What the Triton kernels compute, in Triton's interpreter or on a CUDA device. `test_ops_triton.py` runs this file.

It is a file of its own, in a process of its own, because Triton decides when a kernel is defined whether it is interpreted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmanet_core.experiments import benchmark
from lmanet_core.experiments.baseline_kernels import published_scheme
from lmanet_core.network.memory_read import KeyValue
from lmanet_core.ops import local_attention, triton_launch
from lmanet_core.ops.triton_attention import local_attention_backward_op, local_attention_op
from lmanet_core.ops.triton_launch import TILES, Tiles
from lmanet_core.stream.memory import MemoryBuffer

DEVICE = "cpu" if triton_launch.INTERPRETED else "cuda"
HERE = Path(__file__).parent
NAMES = ("query", "keys", "values")

#: (B, T, Dk, Dv, H, W); tiles are 4×8 here.
SHAPES = {
    "one position": (1, 1, 8, 8, 1, 1),
    "one row of tiles": (1, 2, 5, 3, 1, 19),
    "one column of tiles": (1, 1, 5, 3, 11, 1),
    "exactly one tile": (1, 1, 16, 16, 4, 8),
    "several tiles and a rest": (2, 2, 24, 8, 5, 9),
    "wide values": (1, 1, 8, 136, 3, 5),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small maps have several tiles, several blocks of others and several slices of channels."""
    one = (Tiles(4, 8, 2, 16, 64, 4, 1),)
    for kernel in TILES:
        monkeypatch.setitem(TILES, kernel, dict.fromkeys(TILES[kernel], one))


def random_inputs(batch, frames, key_channels, value_channels, height, width, dtype=torch.float32):
    """Query, keys, values, and the gradient of the result."""
    generator = torch.Generator().manual_seed(1)
    shapes = (
        (batch, key_channels, height, width),
        (batch, frames, key_channels, height, width),
        (batch, frames, value_channels, height, width),
        (batch, value_channels, height, width),
    )
    maps = [torch.randn(*shape, generator=generator) for shape in shapes]
    maps[0] *= key_channels**-0.5  # logits of order 1, so that no key has all the weight
    return [m.to(DEVICE, dtype) for m in maps]


def read(inputs, grad_out, window, impl="triton", **options):
    """The result, and the gradients of query, keys and values."""
    leaves = [maps.detach().clone().requires_grad_() for maps in inputs]
    out = local_attention(*leaves, window, impl=impl, **options)
    return out.detach(), torch.autograd.grad(out, leaves, grad_out)


def exact(inputs, grad_out, window, **options):
    """The same by the definition, in float64 on the CPU."""
    return read([maps.double().cpu() for maps in inputs], grad_out.double().cpu(), window, "reference", **options)


def assert_equal(got, expected, tolerance):
    """Result absolutely, gradients relative to their largest entry."""
    torch.testing.assert_close(got[0].double().cpu(), expected[0], rtol=0, atol=tolerance)
    for name, ours, theirs in zip(NAMES, got[1], expected[1], strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(
            ours.double().cpu() / scale, theirs / scale, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


FLOAT32 = 1e-5  # rounding 6e-8 times logits of at most 10 and sums of some hundred terms


@pytest.mark.parametrize("window", [5, 21])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_and_gradients_equal_the_reference(shape, window):
    *inputs, grad_out = random_inputs(*shape)
    assert_equal(read(inputs, grad_out, window), exact(inputs, grad_out, window), FLOAT32)


@pytest.mark.parametrize("options", [{"border": "masked"}, {"softmax": "per_frame"}, {"scale": 0.3}, {"scale": -2.0}], ids=str)
def test_every_option_is_obeyed(options):
    *inputs, grad_out = random_inputs(1, 2, 8, 8, 3, 5)
    assert_equal(read(inputs, grad_out, 5, **options), exact(inputs, grad_out, 5, **options), FLOAT32)


@pytest.mark.parametrize("shape", ["one row of tiles", "one column of tiles"])  # both sides: a golden case
def test_global_result_and_gradients_equal_the_reference(shape):
    *inputs, grad_out = random_inputs(*SHAPES[shape])
    assert_equal(read(inputs, grad_out, None), exact(inputs, grad_out, None), FLOAT32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)],  # values up to 4 and weights up to 1, stored to half of 2⁻¹⁰ and 2⁻⁷
    ids=str,
)
@pytest.mark.parametrize("value_channels", [8, 136])
def test_half_precision_is_as_exact_as_it_can_be(dtype, tolerance, value_channels):
    *inputs, grad_out = random_inputs(1, 2, 16, value_channels, 3, 9, dtype=dtype)
    got = read(inputs, grad_out, 5)
    assert {got[0].dtype, *(gradient.dtype for gradient in got[1])} == {dtype}
    assert_equal(got, exact(inputs, grad_out, 5), tolerance)


def _every_geometry():
    everywhere = [tiles for kinds in TILES.values() for candidates in kinds.values() for tiles in candidates]
    return sorted({tiles._replace(channels=32, warps=4, stages=1) for tiles in everywhere})


@pytest.mark.parametrize("tiles", _every_geometry(), ids=lambda tiles: "-".join(map(str, tiles[:4])))
def test_tiles_change_nothing(tiles, monkeypatch):
    for kernel in TILES:
        monkeypatch.setitem(TILES, kernel, dict.fromkeys(TILES[kernel], (tiles,)))
    *inputs, grad_out = random_inputs(1, 1, 16, 24, 3, 9)
    assert_equal(read(inputs, grad_out, 3), exact(inputs, grad_out, 3), FLOAT32)


LAYOUTS = {
    "channels last": lambda maps: maps.movedim(-3, -1).contiguous().movedim(-1, -3),
    "transposed": lambda maps: maps.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every other column": lambda maps: maps.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_the_inputs_does_not_matter(layout):
    *inputs, grad_out = random_inputs(2, 1, 8, 5, 3, 5)
    leaves = [maps.clone().requires_grad_() for maps in inputs]
    laid_out = [layout(maps) for maps in leaves]
    assert not any(maps.is_contiguous() for maps in laid_out)
    out = local_attention(*laid_out, 5, impl="triton")
    got = (out.detach(), torch.autograd.grad(out, leaves, layout(grad_out)))
    assert_equal(got, exact(inputs, grad_out, 5), FLOAT32)


@pytest.mark.parametrize("pushed", [1, 3, 5])  # empty slots, full, overwritten
def test_ring_of_memory_frames_is_read(pushed):
    query, keys, values, _ = random_inputs(1, 5, 8, 16, 3, 9)
    memory = MemoryBuffer(3)
    for stamp in range(pushed):
        memory.push(KeyValue(keys[:, stamp], values[:, stamp]), stamp)
    memory._values[:, pushed:] = float("nan")  # slots not filled yet are not looked at
    out = local_attention(query, *memory.frames(), 5, impl="triton")
    newest = slice(max(0, pushed - 3), pushed)
    expected = local_attention(query.double(), keys[:, newest].double(), values[:, newest].double(), 5, impl="reference")
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=FLOAT32)


def test_one_frame_repeated_without_copying_is_read_like_copies():
    query, keys, values, _ = random_inputs(1, 1, 8, 8, 3, 5)
    repeated = [maps.expand(-1, 3, -1, -1, -1) for maps in (keys, values)]
    out = local_attention(query, *repeated, 5, impl="triton")
    assert torch.equal(out, local_attention(query, *(maps.clone() for maps in repeated), 5, impl="triton"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_logits_beyond_the_range_of_float16_choose_the_best_key(dtype):
    query = torch.full((1, 4, 1, 3), 300.0, dtype=dtype, device=DEVICE)
    keys = torch.full((1, 1, 4, 1, 3), -300.0, dtype=dtype, device=DEVICE)
    keys[..., 1] = 300.0  # logit 4 · 300² = 360 000; the largest float16 is 65 504
    values = torch.tensor([1.0, 2.0, 3.0], dtype=dtype, device=DEVICE).reshape(1, 1, 1, 1, 3)
    assert local_attention(query, keys, values, 3, impl="triton").flatten().tolist() == [2.0, 2.0, 2.0]


def test_very_negative_logits_leave_the_weight_to_the_outside():
    query, keys = (torch.full(shape, sign * 100.0, device=DEVICE) for shape, sign in (((1, 1, 1, 2), 1), ((1, 1, 1, 1, 2), -1)))
    values = torch.ones(1, 1, 1, 1, 2, device=DEVICE)
    assert local_attention(query, keys, values, 3, impl="triton").tolist() == [[[[0.0, 0.0]]]]
    assert local_attention(query, keys, values, 3, border="masked", impl="triton").tolist() == [[[[1.0, 1.0]]]]


@pytest.mark.parametrize("window", [1, 3, 21])
def test_zero_query_averages_and_loses_the_share_outside(window):
    height, width, half = 5, 9, window // 2
    query, keys, values, _ = random_inputs(1, 2, 8, 8, height, width)
    out = local_attention(torch.zeros_like(query), keys, torch.ones_like(values), window, impl="triton")
    for y in range(height):
        for x in range(width):
            rows = min(height, y + half + 1) - max(0, y - half)
            columns = min(width, x + half + 1) - max(0, x - half)
            assert out[0, :, y, x].tolist() == pytest.approx([rows * columns / window**2] * 8, abs=1e-6)


def test_gradients_are_the_same_bits_every_time():
    *inputs, grad_out = random_inputs(1, 2, 8, 8, 3, 5)
    (_, first), (_, second) = (read(inputs, grad_out, 5) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_map_too_large_for_32_bit_offsets_is_refused():
    query = torch.zeros(1, 1, 1, 1, device=DEVICE).expand(1, 1, 2, 2)
    values = torch.zeros(1, device=DEVICE).as_strided((1, 1, 1, 1, 1), (0, 0, 0, 0, 0)).expand(1, 1, 1, 2, 2)
    spread = torch.empty(0, device="meta").as_strided((1, 1, 1, 2, 2), (0, 0, 0, 2**31, 1))
    with pytest.raises(ValueError, match="must span less than 2³¹ elements"):
        triton_launch._strides(query, values, spread)


@pytest.mark.parametrize("window", [1, 5])
def test_published_scheme_computes_the_same_read(window):
    *inputs, _ = random_inputs(1, 2, 8, 24, 5, 9)
    expected = local_attention(*inputs, window, impl="reference")
    torch.testing.assert_close(published_scheme(*inputs, window), expected, rtol=0, atol=FLOAT32)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_figure_of_the_benchmark_comes_from_something_that_runs(monkeypatch):
    monkeypatch.setattr(benchmark, "time_on", lambda device, run: float(run().isfinite().all()) + 1.0)
    monkeypatch.setattr(benchmark, "floor_ms", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "extra_megabytes", lambda read: 0.0)
    size = benchmark.OperatorSize("tiny", 2, 16, 32, 3, 9)
    cells = benchmark.operator_row(size, 5, DEVICE).cells
    natten = cells.pop("NATTEN")
    assert cells == {
        "floor": 1.0, "forward": 2.0, "share of the floor": 0.5, "backward": 2.0, "extra MB": 0.0,
        "shift-and-multiply": 2.0, "published scheme": 2.0, "FlexAttention": 2.0,
    }  # fmt: skip
    assert natten in (2.0, "not installed: natten")


# ---- one operator for PyTorch


def test_operator_passes_opcheck():
    *inputs, grad_out = random_inputs(1, 1, 4, 6, 2, 3)
    leaves = [maps.requires_grad_() for maps in inputs]
    assert set(torch.library.opcheck(local_attention_op, (*leaves, 2, False, 1.0)).values()) == {"SUCCESS"}
    out, lse = (tensor.detach() for tensor in local_attention_op(*leaves, 2, False, 1.0))
    backward = (grad_out, *(maps.detach() for maps in inputs), out, lse, 2, 1.0)
    assert set(torch.library.opcheck(local_attention_backward_op, backward).values()) == {"SUCCESS"}


class _Read(torch.nn.Module):
    def forward(self, query, keys, values):
        return local_attention(query, keys, values, 5, impl="triton")


def test_compiled_read_is_one_graph_with_the_same_gradients():
    *inputs, grad_out = random_inputs(1, 1, 8, 8, 3, 5)
    leaves = [maps.clone().requires_grad_() for maps in inputs]
    out = torch.compile(_Read(), backend="aot_eager", fullgraph=True)(*leaves)
    got = (out.detach(), torch.autograd.grad(out, leaves, grad_out))
    assert_equal(got, exact(inputs, grad_out, 5), FLOAT32)


def test_exported_read_is_one_operator():
    *inputs, _ = random_inputs(1, 1, 8, 8, 3, 5)
    program = torch.export.export(_Read(), tuple(inputs))
    operators = [str(node.target) for node in program.graph.nodes if "lmanet" in str(node.target)]
    assert operators == ["lmanet.local_attention.default"]
    assert torch.equal(program.module()(*inputs), _Read()(*inputs))


def test_second_derivatives_are_refused_and_not_wrong():
    *inputs, _ = random_inputs(1, 1, 8, 8, 3, 3)
    query = inputs[0].requires_grad_()
    (first,) = torch.autograd.grad(local_attention(*inputs, 3, impl="triton").square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        first.sum().backward()


# ---- golden operator cases


def _golden_cases():
    """Those in the project, and the whole collection where it lies beside the checkout."""
    found = {}
    for folder in (HERE.parents[2] / "shared" / "golden" / "public", HERE.parent / "golden"):
        if (folder / "index.json").is_file():
            for case in json.loads((folder / "index.json").read_text())["cases"]:
                if case["kind"] == "attention":
                    found[case["name"]] = pytest.param(folder / case["file"], case, id=case["name"])
    return list(found.values())


@pytest.mark.parametrize(("file", "case"), _golden_cases())
def test_golden_case_and_its_gradients(file, case, monkeypatch):
    for kernel in TILES:  # few programs: the interpreter takes its time for each
        monkeypatch.setitem(TILES, kernel, dict.fromkeys(TILES[kernel], (Tiles(8, 16, 8, 32, 128, 4, 1),)))
    golden = torch.load(file, weights_only=True)
    window = None if case["config"]["R"] == "global" else case["config"]["R"]
    out, gradients = read([golden[name].to(DEVICE) for name in ("q", "K", "V")], golden["grad_out"].to(DEVICE), window)
    largest_value, largest_gradient = golden["V"].abs().max().item(), golden["grad_out"].abs().max().item()
    checks = [("out", out, case["tol"]["out"], 0.05 * largest_value)]
    checks += [
        (name, gradient, case["tol"]["grad"], 0.01 * largest_gradient)
        for name, gradient in zip(("dq", "dK", "dV"), gradients, strict=True)
    ]
    for name, got, tolerance, at_least in checks:
        scale = max(golden[name].abs().max().item(), at_least)
        error = (got.double().cpu() - golden[name].double()).abs().max().item() / scale
        assert error <= tolerance, f"{name}: {error:.2e} > {tolerance:.1e}"
