"""Gradients of `local_attention`: checked by finite differences, and every implementation against the reference."""

from __future__ import annotations

import pytest
import torch

from lmanet_core.ops import available_implementations, local_attention, tiling

#: (B, T, Dk, Dv, H, W), as in test_ops.py.
SHAPES = {
    "one position": (1, 1, 3, 2, 1, 1),
    "one row of tiles": (2, 2, 5, 3, 1, 19),
    "one column of tiles": (1, 2, 5, 3, 19, 1),
    "smaller than a tile": (1, 2, 6, 7, 5, 3),
    "exactly one tile": (1, 1, 4, 4, 8, 8),
    "several tiles and a rest": (2, 3, 5, 6, 17, 19),
    "wide values": (1, 1, 3, 257, 9, 18),
}
NAMES = ("query", "keys", "values")


def random_inputs(batch, frames, key_channels, value_channels, height, width, dtype=torch.float64):
    """Query, keys, values, and the gradient of the result."""
    generator = torch.Generator().manual_seed(1)
    shapes = (
        (batch, key_channels, height, width),
        (batch, frames, key_channels, height, width),
        (batch, frames, value_channels, height, width),
        (batch, value_channels, height, width),
    )
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(inputs, grad_out, window, **options):
    """Of query, keys and values."""
    leaves = [maps.detach().clone().requires_grad_() for maps in inputs]
    return torch.autograd.grad(local_attention(*leaves, window, **options), leaves, grad_out)


def assert_gradients_close(got, expected, tolerance):
    """Each relative to its largest entry."""
    for name, ours, theirs in zip(NAMES, got, expected, strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(
            ours.double() / scale, theirs / scale, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("softmax", ["joint", "per_frame"])
@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("window", [1, 3, 7, None])
@pytest.mark.parametrize("impl", available_implementations("cpu"))
def test_gradients_agree_with_finite_differences(impl, window, border, softmax):
    *inputs, _ = random_inputs(1, 2, 2, 3, 3, 4)

    def read(*leaves):
        return local_attention(*leaves, window, softmax=softmax, border=border, scale=0.7, impl=impl)

    assert torch.autograd.gradcheck(read, [maps.requires_grad_() for maps in inputs])


@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("softmax", ["joint", "per_frame"])
@pytest.mark.parametrize("window", [1, 3, 5, 21, None])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_of_blocked_equal_those_of_reference(shape, window, softmax, border):
    *inputs, grad_out = random_inputs(*shape)
    options = {"softmax": softmax, "border": border}
    expected = gradients(inputs, grad_out, window, impl="reference", **options)
    got = gradients(inputs, grad_out, window, impl="blocked", **options)
    assert_gradients_close(got, expected, 1e-12)  # rounding of float64, 2e-16, in sums of at most some hundred terms


@pytest.mark.parametrize("workspace", [1, 400_000])  # one tile or query at a time; two or three
@pytest.mark.parametrize("window", [5, 21, None])
@pytest.mark.parametrize("border", ["zero", "masked"])
def test_working_in_chunks_changes_no_gradient(border, window, workspace, monkeypatch):
    *inputs, grad_out = random_inputs(*SHAPES["several tiles and a rest"])
    expected = gradients(inputs, grad_out, window, border=border, impl="reference")
    monkeypatch.setattr(tiling, "_WORKSPACE_BYTES", workspace)
    assert_gradients_close(gradients(inputs, grad_out, window, border=border, impl="blocked"), expected, 1e-12)  # as above


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-5),  # rounding 6e-8 times logits of at most 10 and sums of some hundred terms
        (torch.float16, 4e-3),  # the result is stored to half of 2⁻¹⁰ and enters each gradient's sum
        (torch.bfloat16, 3e-2),  # the same with half of 2⁻⁷
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [5, None])
@pytest.mark.parametrize("impl", available_implementations("cpu"))
def test_gradients_keep_the_dtype_and_its_precision(impl, window, dtype, tolerance):
    *inputs, grad_out = random_inputs(*SHAPES["several tiles and a rest"], dtype=dtype)
    exact = gradients([maps.double() for maps in inputs], grad_out.double(), window, impl="reference")
    got = gradients(inputs, grad_out, window, impl=impl)
    assert {grad.dtype for grad in got} == {dtype}
    assert_gradients_close(got, exact, tolerance)


@pytest.mark.parametrize("impl", available_implementations("cpu"))
def test_layout_does_not_change_gradients(impl):
    *inputs, grad_out = random_inputs(*SHAPES["several tiles and a rest"])
    leaves = [maps.clone().requires_grad_() for maps in inputs]
    laid_out = [maps.movedim(-3, -1).contiguous().movedim(-1, -3) for maps in leaves]
    got = torch.autograd.grad(
        local_attention(*laid_out, 5, impl=impl), leaves, grad_out.transpose(2, 3).contiguous().transpose(2, 3)
    )
    assert_gradients_close(got, gradients(inputs, grad_out, 5, impl=impl), 1e-12)


@pytest.mark.parametrize("position", range(3), ids=NAMES)
@pytest.mark.parametrize("impl", available_implementations("cpu"))
def test_one_input_alone_can_need_its_gradient(impl, position):
    *inputs, grad_out = random_inputs(1, 2, 3, 2, 4, 5)
    expected = gradients(inputs, grad_out, 3, impl=impl)[position]
    leaves = [maps.clone().requires_grad_(index == position) for index, maps in enumerate(inputs)]
    local_attention(*leaves, 3, impl=impl).backward(grad_out)
    assert [maps.grad is not None for maps in leaves] == [index == position for index in range(3)]
    torch.testing.assert_close(leaves[position].grad, expected)


def test_result_is_the_same_with_and_without_gradients():
    *inputs, _ = random_inputs(*SHAPES["several tiles and a rest"])
    recorded = local_attention(*(maps.clone().requires_grad_() for maps in inputs), 5, impl="blocked")
    plain = local_attention(*inputs, 5, impl="blocked")
    assert recorded.requires_grad and not plain.requires_grad
    torch.testing.assert_close(recorded.detach(), plain, rtol=1e-12, atol=1e-14)  # other tiles add up in another order


def test_second_derivatives_of_blocked_are_refused_and_not_wrong():
    *inputs, _ = random_inputs(1, 1, 2, 2, 3, 3)
    query = inputs[0].requires_grad_()
    (first,) = torch.autograd.grad(local_attention(*inputs, 3, impl="blocked").square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
