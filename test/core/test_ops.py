"""What `local_attention` computes, refuses and allocates, for every implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmanet_core.ops import api, attention_weights, available_implementations, local_attention, scratch, tiling

IMPLEMENTATIONS = available_implementations("cpu")

#: (B, T, Dk, Dv, H, W); tiles are 8×8, or 8×16 for wide values.
SHAPES = {
    "one position": (1, 1, 3, 2, 1, 1),
    "one row of tiles": (2, 2, 5, 3, 1, 19),
    "one column of tiles": (1, 2, 5, 3, 19, 1),
    "smaller than a tile": (1, 2, 6, 7, 5, 3),
    "exactly one tile": (1, 1, 4, 4, 8, 8),
    "several tiles and a rest": (2, 3, 5, 6, 17, 19),
    "wide values": (1, 1, 3, 257, 9, 18),
}
WINDOWS = (1, 3, 5, 21, None)


def random_inputs(batch=1, frames=2, key_channels=3, value_channels=2, height=4, width=5, *, dtype=torch.float64, seed=0):
    """Query, keys, values."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        normal(batch, key_channels, height, width),
        normal(batch, frames, key_channels, height, width),
        normal(batch, frames, value_channels, height, width),
    )


def row(*entries):
    """A map of one row with one channel, (1, 1, 1, W)."""
    return torch.tensor(entries, dtype=torch.float64).reshape(1, 1, 1, -1)


def frames(*rows):
    """Rows as the frames of a memory, (1, T, 1, 1, W)."""
    return torch.stack(rows, 1)


# exp(s) of the pairs is 2 and 3 for the first query, 4 and 9 for the second
QUERY = row(1, 2)
KEYS = frames(row(math.log(2), math.log(3)))
VALUES = frames(row(6, 10))
SECOND_KEYS = frames(row(math.log(2), math.log(3)), row(0, 0))
SECOND_VALUES = frames(row(6, 10), row(0, 12))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("keys", "values", "window", "options", "expected"),
    [
        # of 3×3 positions 7 lie outside the map: logit 0, so exp(0) = 1 each
        pytest.param(KEYS, VALUES, 3, {}, ((2 * 6 + 3 * 10) / (2 + 3 + 7), (4 * 6 + 9 * 10) / (4 + 9 + 7)), id="zero border"),
        pytest.param(KEYS, VALUES, 3, {"border": "masked"}, (42 / (2 + 3), 114 / (4 + 9)), id="masked border"),
        pytest.param(KEYS, VALUES, None, {}, (42 / (2 + 3), 114 / (4 + 9)), id="global"),
        pytest.param(KEYS, VALUES, 1, {}, (6, 10), id="window of one"),
        # scale ½: exp(s) is √2 and √3, then 2 and 3
        pytest.param(
            KEYS, VALUES, 3, {"scale": 0.5},
            ((2**0.5 * 6 + 3**0.5 * 10) / (2**0.5 + 3**0.5 + 7), (2 * 6 + 3 * 10) / (2 + 3 + 7)), id="scaled",
        ),
        # the second frame adds exp(0) = 1 for each of its 2 positions and for its 7 outside ones
        pytest.param(
            SECOND_KEYS, SECOND_VALUES, 3, {}, ((42 + 12) / (12 + 9), (114 + 12) / (20 + 9)), id="two frames, joint",
        ),
        pytest.param(
            SECOND_KEYS, SECOND_VALUES, 3, {"softmax": "per_frame"},
            (42 / 12 + 12 / 9, 114 / 20 + 12 / 9), id="two frames, apart",
        ),
    ],
)  # fmt: skip
def test_two_positions_by_hand(keys, values, window, options, expected, impl):
    out = local_attention(QUERY, keys, values, window, impl=impl, **options)
    torch.testing.assert_close(out, row(*expected))


@pytest.mark.parametrize(("window", "scale"), [(3, 1.0), (None, 0.5)])
def test_weights_have_the_same_default_scale(window, scale):
    query, keys = (
        torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(24.0).view(1, 1, 4, 2, 3) / 24,
    )
    assert torch.equal(attention_weights(query, keys, window), attention_weights(query, keys, window, scale=scale))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_default_scale_is_1_for_a_window_and_divides_by_the_root_of_dk_for_global(impl):
    query, keys = torch.zeros(1, 4, 1, 2, dtype=torch.float64), torch.zeros(1, 1, 4, 1, 2, dtype=torch.float64)
    query[:, 0], keys[:, :, 0, 0] = 2.0, torch.tensor([math.log(2), math.log(3)])
    window = local_attention(query, keys, VALUES, 3, impl=impl)
    everywhere = local_attention(query, keys, VALUES, None, impl=impl)
    torch.testing.assert_close(window, row(114 / 20, 114 / 20))  # exp(2 ln 2) = 4, exp(2 ln 3) = 9, 7 outside
    torch.testing.assert_close(everywhere, row(42 / 5, 42 / 5))  # 2 ln 2 / √4 = ln 2


@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("softmax", ["joint", "per_frame"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocked_equals_reference(shape, window, softmax, border):
    inputs = random_inputs(*shape)
    options = {"softmax": softmax, "border": border}
    expected = local_attention(*inputs, window, impl="reference", **options)
    # the rounding of float64, 2e-16, times logits and sums of at most a few hundred terms
    torch.testing.assert_close(local_attention(*inputs, window, impl="blocked", **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("workspace", [1, 400_000])  # one tile or query at a time; two or three
@pytest.mark.parametrize("window", [5, 21, None])
@pytest.mark.parametrize("border", ["zero", "masked"])
def test_working_in_chunks_changes_nothing(border, window, workspace, monkeypatch):
    inputs = random_inputs(*SHAPES["several tiles and a rest"])
    expected = local_attention(*inputs, window, border=border, impl="reference")
    monkeypatch.setattr(tiling, "_WORKSPACE_BYTES", workspace)
    out = local_attention(*inputs, window, border=border, impl="blocked")
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)  # as above


LAYOUTS = {
    "transposed": lambda maps: maps.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels last": lambda maps: maps.movedim(-3, -1).contiguous().movedim(-1, -3),
    "part of a larger tensor": lambda maps: torch.cat((maps, maps), -1)[..., : maps.shape[-1]],
    "every other column": lambda maps: maps.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("window", [5, None])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_the_inputs_does_not_matter(layout, window, impl):
    inputs = random_inputs(*SHAPES["several tiles and a rest"])
    laid_out = [layout(maps) for maps in inputs]
    assert not any(maps.is_contiguous() for maps in laid_out)
    out = local_attention(*laid_out, window, impl=impl)
    torch.testing.assert_close(out, local_attention(*inputs, window, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_one_frame_repeated_without_copying_is_read_like_copies(impl):
    query, keys, values = random_inputs(frames=1)
    repeated = [maps.expand(-1, 3, -1, -1, -1) for maps in (keys, values)]
    out = local_attention(query, *repeated, 3, impl=impl)
    torch.testing.assert_close(out, local_attention(query, *(maps.clone() for maps in repeated), 3, impl=impl))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 1e-5),  # rounding 6e-8 times logits of at most 10 and sums of some hundred terms; values reach 4
        (torch.float16, 4e-3),  # values up to 4 and weights up to 1 are stored to half of 2⁻¹⁰
        (torch.bfloat16, 3e-2),  # the same with half of 2⁻⁷
    ],
    ids=str,
)
@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("window", [1, 5, None])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_dtype_is_as_exact_as_it_can_be(impl, window, border, dtype, tolerance):
    inputs = random_inputs(*SHAPES["several tiles and a rest"], dtype=dtype)
    exact = local_attention(*(maps.double() for maps in inputs), window, border=border, impl="reference")
    out = local_attention(*inputs, window, border=border, impl=impl)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_logits_beyond_the_range_of_float16_choose_the_best_key(impl, dtype):
    query = torch.full((1, 4, 1, 3), 300.0, dtype=dtype)
    keys = torch.full((1, 1, 4, 1, 3), -300.0, dtype=dtype)
    keys[..., 1] = 300.0  # logit 4 · 300² = 360 000; the largest float16 is 65 504
    values = torch.tensor([1.0, 2.0, 3.0], dtype=dtype).reshape(1, 1, 1, 1, 3)
    assert local_attention(query, keys, values, 3, impl=impl).flatten().tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_very_negative_logits_leave_the_weight_to_the_outside(impl):
    query, keys = torch.full((1, 1, 1, 2), 100.0), torch.full((1, 1, 1, 1, 2), -100.0)
    values = torch.ones(1, 1, 1, 1, 2)
    assert local_attention(query, keys, values, 3, impl=impl).tolist() == [[[[0.0, 0.0]]]]
    assert local_attention(query, keys, values, 3, border="masked", impl=impl).tolist() == [[[[1.0, 1.0]]]]


@pytest.mark.parametrize("window", [1, 3, 5, 21])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_zero_query_averages_and_loses_the_share_outside(impl, window):
    height, width, half = 9, 10, window // 2
    query, keys, values = random_inputs(height=height, width=width)
    out = local_attention(torch.zeros_like(query), keys, torch.ones_like(values), window, impl=impl)
    for y in range(height):
        for x in range(width):
            rows = min(height, y + half + 1) - max(0, y - half)
            columns = min(width, x + half + 1) - max(0, x - half)
            assert out[0, :, y, x].tolist() == pytest.approx([rows * columns / window**2] * 2, abs=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_values_of_1_read_less_than_1_at_a_border_unless_it_is_masked(impl):
    query, keys, values = random_inputs(height=5, width=5)
    ones = torch.ones_like(values)
    zero = local_attention(query, keys, ones, 3, impl=impl)
    inside = torch.zeros(5, 5, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert (zero[..., ~inside] < 1 - 1e-6).all()
    torch.testing.assert_close(zero[..., inside], torch.ones_like(zero[..., inside]))
    torch.testing.assert_close(local_attention(query, keys, ones, 3, border="masked", impl=impl), torch.ones_like(zero))


@pytest.mark.parametrize("softmax", ["joint", "per_frame"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_order_of_frames_does_not_matter(impl, softmax):
    query, keys, values = random_inputs(frames=3)
    out = local_attention(query, keys, values, 3, softmax=softmax, impl=impl)
    shuffled = local_attention(query, keys[:, [2, 0, 1]], values[:, [2, 0, 1]], 3, softmax=softmax, impl=impl)
    torch.testing.assert_close(shuffled, out)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_batch_entries_do_not_see_each_other(impl):
    inputs = random_inputs(batch=2, height=9, width=9)
    together = local_attention(*inputs, 5, impl=impl)
    apart = torch.cat([local_attention(*(maps[i : i + 1] for maps in inputs), 5, impl=impl) for i in range(2)])
    torch.testing.assert_close(together, apart)


def test_read_in_inference_mode_does_not_spoil_a_later_training_step():
    inputs = random_inputs()
    tiling._window_mask.cache_clear()
    with torch.inference_mode():
        local_attention(*inputs, 3, impl="blocked")
    query = inputs[0].requires_grad_()
    local_attention(*inputs, 3, impl="blocked").sum().backward()
    assert query.grad is not None


@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("window", [1, 3, 7, None])
def test_weights_sum_to_one(window, border):
    query, keys, _ = random_inputs(batch=2, frames=3)
    joint = attention_weights(query, keys, window, border=border)
    apart = attention_weights(query, keys, window, softmax="per_frame", border=border)
    assert joint.shape == apart.shape == (2, 3, 20 if window is None else window**2, 4, 5)
    assert (joint >= 0).all() and (apart >= 0).all()
    torch.testing.assert_close(joint.sum((1, 2)), torch.ones(2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(apart.sum(2), torch.ones(2, 3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize(("dy", "dx", "index"), [(-1, -1, 0), (-1, 1, 2), (0, 0, 4), (1, -1, 6), (1, 1, 8)])
def test_offsets_count_rows_first(dy, dx, index):
    keys = torch.zeros(1, 1, 1, 3, 3)
    keys[..., 1 + dy, 1 + dx] = 50.0  # exp(50) is all of the sum
    weights = attention_weights(torch.ones(1, 1, 3, 3), keys, 3)
    assert weights[0, 0, :, 1, 1].argmax() == index
    assert weights[0, 0, index, 1, 1] == pytest.approx(1.0)


def test_weights_of_a_masked_border_are_zero_outside():
    query, keys, _ = random_inputs(height=3, width=3)
    weights = attention_weights(query, keys, 3, border="masked")
    corner = weights[0, :, :, 0, 0]  # from (0, 0) only offsets 4, 5, 7, 8 lie in the map
    assert (corner[:, [0, 1, 2, 3, 6]] == 0).all()
    assert (corner[:, [4, 5, 7, 8]] > 0).all()


GOOD = random_inputs()


@pytest.mark.parametrize(
    ("query", "keys", "values", "options", "message"),
    [
        (*GOOD, {"window": 20}, "window must be odd and positive, .*got 20"),
        (*GOOD, {"window": 0}, "window must be odd and positive, .*got 0"),
        (*GOOD, {"window": -3}, "window must be odd and positive, .*got -3"),
        (*GOOD, {"softmax": "frame"}, "softmax must be joint or per_frame, got 'frame'"),
        (*GOOD, {"border": "replicate"}, "border must be zero or masked, got 'replicate'"),
        (*GOOD, {"impl": "cuda"}, "impl must be auto, reference, blocked.*; got 'cuda'"),
        (*GOOD, {"impl": "aten"}, "impl must be auto, reference, blocked.*; got 'aten'"),
        (GOOD[0][0], *GOOD[1:], {}, r"wanted query \(B, Dk, H, W\) .*got \(3, 4, 5\) and \(1, 2, 3, 4, 5\)"),
        (GOOD[0], GOOD[1][:, 0], GOOD[2], {}, r"wanted .* keys \(B, T, Dk, H, W\), got \(1, 3, 4, 5\) and \(1, 3, 4, 5\)"),
        (GOOD[0], GOOD[1][:, :, :2], GOOD[2], {}, r"fit the query \(1, 3, 4, 5\), got \(1, 2, 2, 4, 5\)"),
        (GOOD[0], GOOD[1][..., :4], GOOD[2], {}, r"fit the query \(1, 3, 4, 5\), got \(1, 2, 3, 4, 4\)"),
        (GOOD[0], GOOD[1][:, :0], GOOD[2][:, :0], {}, r"T ≥ 1.*got \(1, 0, 3, 4, 5\)"),
        (GOOD[0], GOOD[1].repeat(2, 1, 1, 1, 1), GOOD[2], {}, r"fit the query \(1, 3, 4, 5\), got \(2, 2, 3, 4, 5\)"),
        (*GOOD[:2], GOOD[2][:, :1], {}, r"values .* fit keys \(1, 2, 3, 4, 5\), got \(1, 1, 2, 4, 5\)"),
        (*GOOD[:2], GOOD[2][..., :3, :], {}, r"values .* fit keys \(1, 2, 3, 4, 5\), got \(1, 2, 2, 3, 5\)"),
        (*GOOD[:2], GOOD[2][:, 0], {}, r"values .* fit keys \(1, 2, 3, 4, 5\), got \(1, 2, 4, 5\)"),
        (GOOD[0], GOOD[1].float(), GOOD[2], {}, "keys must have the query's dtype torch.float64, got torch.float32"),
        (*GOOD[:2], GOOD[2].half(), {}, "values must have the query's dtype torch.float64, got torch.float16"),
        (*(maps.int() for maps in GOOD), {}, "query must be float16, .*got torch.int32"),
        (GOOD[0], GOOD[1].to("meta"), GOOD[2], {}, "keys must be on the query's device cpu, got meta"),
        (*GOOD[:2], GOOD[2].to("meta"), {}, "values must be on the query's device cpu, got meta"),
    ],
)
def test_wrong_arguments_are_refused_with_wanted_and_got(query, keys, values, options, message):
    with pytest.raises(ValueError, match=message):
        local_attention(query, keys, values, **{"window": 3, **options})


def test_even_window_is_refused_for_weights_too():
    with pytest.raises(ValueError, match="got 4"):
        attention_weights(*GOOD[:2], 4)


def test_named_implementation_fails_rather_than_falls_back(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such device")

    monkeypatch.setitem(api._implementations, "broken", broken)
    with pytest.raises(RuntimeError, match="no such device"):
        local_attention(*GOOD, 3, impl="broken")
    assert "broken" in available_implementations()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_named_implementation_is_the_one_used(name, monkeypatch):
    for other in IMPLEMENTATIONS:
        monkeypatch.setitem(api._implementations, other, lambda *_, other=other: other)
    assert local_attention(*GOOD, 3, impl=name) == name


class _LargestStorage(TorchDispatchMode):
    """Remembers the most bytes that any tensor made meanwhile lives in."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.nbytes = max(self.nbytes, leaf.untyped_storage().nbytes())
        return result


def test_only_the_reference_stores_all_scores(monkeypatch):
    frame_count, window, side = 2, 21, 40
    all_scores = frame_count * window**2 * side**2 * 4  # bytes in float32

    def largest(impl):
        inputs = random_inputs(1, frame_count, 2, 2, side, side, dtype=torch.float32)
        inputs = [maps.requires_grad_() for maps in inputs]
        with _LargestStorage() as forward:
            out = local_attention(*inputs, window, impl=impl)
        with _LargestStorage() as backward:
            out.sum().backward()
        return forward.nbytes, backward.nbytes

    monkeypatch.setattr(scratch, "_of_thread", scratch._ThreadScratch())  # not what other tests left there
    monkeypatch.setattr(tiling, "_WORKSPACE_BYTES", 1)  # tiles one by one: 32 queries × 2·24·28 keys are 172 kB
    assert min(largest("reference")) >= all_scores
    assert max(largest("blocked")) < all_scores / 8


def test_workspace_bounds_what_a_large_map_takes(monkeypatch):
    inputs = random_inputs(1, 1, 2, 2, 64, 96, dtype=torch.float32)
    monkeypatch.setattr(scratch, "_of_thread", scratch._ThreadScratch())  # not what other tests left there
    monkeypatch.setattr(tiling, "_WORKSPACE_BYTES", 1 << 20)  # a column of 16 tiles would score 16 × 86 kB
    for window in (21, None):
        with _LargestStorage() as recorded:
            local_attention(*inputs, window, impl="blocked")
        assert recorded.nbytes <= 1 << 20


def test_buffers_are_kept_from_frame_to_frame_but_no_large_ones(monkeypatch):
    monkeypatch.setattr(scratch, "_of_thread", scratch._ThreadScratch())
    inputs = random_inputs(1, 2, 4, 4, 24, 24, dtype=torch.float32)

    def addresses():
        first = local_attention(*inputs, 5, impl="blocked").clone()
        assert torch.equal(local_attention(*inputs, 5, impl="blocked"), first)
        return {key: one.data_ptr() for key, one in scratch._of_thread.scratch._buffers.items()}

    kept = addresses()
    assert kept
    assert addresses() == kept
    monkeypatch.setattr(scratch, "_KEPT_BYTES", 1)
    assert not addresses()


@pytest.mark.parametrize("shape", [(1, 2, 0, 3), (1, 2, 3, 0), (1, 0, 3, 3), (0, 2, 3, 3)])
def test_empty_maps_are_refused(shape):
    query = torch.zeros(shape)
    memory = torch.zeros(shape[0], 1, *shape[1:])
    with pytest.raises(ValueError, match=r"at least one position, channel and batch entry, got query \("):
        local_attention(query, memory, memory, 3)


@pytest.mark.parametrize("border", ["zero", "masked"])
def test_window_far_wider_than_the_map_is_read_as_defined_and_costs_no_more_than_the_map(border):
    query, keys, values = random_inputs(key_channels=1)
    out = local_attention(query, keys, values, 10_001, border=border, impl="blocked")
    scores = torch.einsum("bchw,btcyx->bhwtyx", query, keys).flatten(3).exp()  # (1, H, W, T·H·W)
    outside = 0 if border == "masked" else 2 * (10_001**2 - 20)
    expected = torch.einsum("bhwn,bnd->bdhw", scores, values.movedim(2, -1).flatten(1, 3)) / (scores.sum(-1) + outside)
    torch.testing.assert_close(out, expected)
