"""Losses and their weights, against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmanet_core.network.fusion import FUSIONS
from lmanet_core.training.losses import (
    ERFNET_CITYSCAPES_WEIGHTS,
    consistency_sums,
    cross_entropy_sums,
    distillation_sums,
    weights_from_counts,
)


def random_case(classes=4, batch=2, side=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, side, side, generator=generator)
    labels = torch.randint(0, classes, (batch, side, side), generator=generator)
    labels[0, 0] = 255
    return logits, labels, torch.rand(classes, generator=generator) + 0.5


def test_sum_over_weight_is_the_weighted_cross_entropy():
    logits, labels, weights = random_case()
    total, weight = cross_entropy_sums(logits, labels, weights)
    torch.testing.assert_close(total / weight, F.cross_entropy(logits, labels, weights, ignore_index=255))


def test_channels_beyond_the_classes_take_part_as_void():
    logits, labels, weights = random_case()
    labels = labels.where(labels == 255, labels.clamp(max=2))
    total, weight = cross_entropy_sums(logits, labels, weights[:3])  # 4 channels, 3 classes
    expected = F.cross_entropy(logits, labels, torch.tensor([*weights[:3].tolist(), 0.0]), ignore_index=255)
    torch.testing.assert_close(total / weight, expected)


def test_a_batch_without_labels_has_no_loss_and_a_gradient_of_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    total, weight = cross_entropy_sums(logits, torch.full((1, 2, 2), 255), torch.ones(3), hardest=0.5)
    total.backward()
    assert (float(total.detach()), float(weight), float(logits.grad.abs().sum())) == (0.0, 0.0, 0.0)


def test_ohem_keeps_the_hardest_share_of_the_known_pixels():
    logits = torch.zeros(1, 2, 1, 5)
    logits[0, 1, 0] = torch.tensor((5.0, 1.0, 3.0, 2.0, 9.0))  # the larger, the worse for class 0
    labels = torch.tensor([[[0, 0, 0, 0, 255]]])
    total, weight = cross_entropy_sums(logits, labels, torch.ones(2), hardest=0.5)
    assert float(weight) == 2
    assert float(total) == pytest.approx(math.log1p(math.exp(5)) + math.log1p(math.exp(3)), rel=1e-6)


def test_distillation_counts_every_pixel_and_is_zero_for_a_pupil_that_knows():
    teacher = torch.randn(2, 3, 4, 4)
    total, count = distillation_sums(teacher + 7.0, teacher)  # logits are known up to a constant
    assert float(count) == 32 and float(total) == pytest.approx(0, abs=1e-4)
    sure, unsure = torch.tensor((50.0, 0.0)).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    assert float(distillation_sums(unsure, sure)[0]) == pytest.approx(math.log(2), rel=1e-5)


def test_consistency_follows_the_flow():
    before = torch.zeros(1, 2, 3, 4)
    before[:, 0, :, 1] = 50.0  # class 0 in column 1 …
    before[:, 1] = 25.0
    now = before.roll(1, 3)  # … and one step later in column 2
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = -1.0
    flow[..., 0] = torch.nan  # came in from outside
    total, count = consistency_sums(now, before, flow)
    assert float(count) == 9 and float(total) == pytest.approx(0, abs=1e-6)
    still, _ = consistency_sums(now, before, torch.zeros(1, 2, 3, 4))
    assert float(still) == pytest.approx(12.0, rel=1e-3)  # 2 columns of 3 pixels, (1² + 1²) each


def test_consistency_does_not_teach_the_frame_before():
    before, now = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    consistency_sums(now, before, torch.zeros(1, 2, 3, 3))[0].backward()
    assert before.grad is None and now.grad.abs().sum() > 0


def test_weights_from_counts_are_erfnets_formula():
    assert weights_from_counts(np.array((30, 70)))[0] == pytest.approx(1 / math.log(1.10 + 0.3))
    # The shares behind the published weights: with the void they must make up about one.
    shares = [math.exp(1 / weight) - 1.10 for weight in ERFNET_CITYSCAPES_WEIGHTS]
    assert all(share > 0 for share in shares) and 0.85 < sum(shares) < 1.0
    assert max(shares) == shares[0]  # road


def test_residual_fusion_is_the_identity_at_the_start_and_learns():
    torch.manual_seed(0)
    fusion = FUSIONS["residual"](6, 6)
    query, memory = torch.randn(2, 6, 5, 7), torch.randn(2, 6, 5, 7)
    assert torch.equal(fusion(query, memory), query)
    optimizer = torch.optim.SGD(fusion.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        (fusion(query, memory) - memory).square().mean().backward()
        optimizer.step()
    assert not torch.equal(fusion(query, memory), query)
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.parameters())
