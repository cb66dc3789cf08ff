"""Labels and confidence from logits, in every layout and size that networks give them."""

import numpy as np
import pytest
import torch

from lmanet_core.stream import argmax
from lmanet_core.stream.argmax import argmax_labels

SHAPES = [(1, 1, 1, 1), (1, 2, 3, 5), (1, 19, 40, 24), (1, 255, 7, 9)]


def random_logits(shape, dtype=torch.float32, scale=4.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_argmax_and_confidence_its_softmax(shape, dtype, monkeypatch):
    logits = random_logits(shape, dtype)
    exact = logits.double().softmax(1).max(1)
    for stripe_bytes in (1, 1 << 20):
        monkeypatch.setattr(argmax, "STRIPE_BYTES", stripe_bytes)
        for given in (logits, logits.to(memory_format=torch.channels_last)):
            labels, confidence = argmax_labels(given, True)
            assert labels.dtype == confidence.dtype == torch.uint8
            assert torch.equal(labels.long(), logits.double().max(1).indices[0])
            np.testing.assert_allclose(confidence.double(), 255 * exact.values[0], atol=1.0 if dtype == torch.float32 else 4.0)


def test_the_first_of_equally_likely_classes_wins():
    logits = torch.zeros(1, 5, 4, 4)
    logits[:, 2:] = 1.0
    assert torch.equal(argmax_labels(logits, False)[0], torch.full((4, 4), 2, dtype=torch.uint8))


def test_a_part_of_the_picture_can_be_asked_for():
    logits = random_logits((1, 6, 9, 11)).to(memory_format=torch.channels_last)[:, :, 2:7, 3:8]
    assert torch.equal(argmax_labels(logits, False)[0].long(), logits.argmax(1)[0])


def test_logits_stay_as_they_are():
    for logits in (random_logits((1, 3, 4, 4)), random_logits((1, 3, 4, 4)).to(memory_format=torch.channels_last)):
        before = logits.clone()
        argmax_labels(logits, True)
        assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_part_of_the_channels_can_be_asked_for(dtype, monkeypatch):
    monkeypatch.setattr(argmax, "STRIPE_BYTES", 4 * 19 * 5 * 4)  # four rows of seven, then three
    logits = random_logits((1, 20, 7, 5), dtype).to(memory_format=torch.channels_last)
    logits[:, 19] = 100.0  # void
    assert torch.equal(argmax_labels(logits[:, :19], False)[0].long(), logits[:, :19].argmax(1)[0])


def test_no_confidence_unless_wanted():
    assert argmax_labels(random_logits((1, 3, 4, 4)), False)[1] is None


def test_labels_name_a_class_even_where_logits_are_not_numbers():
    logits = torch.full((1, 4, 2, 2), torch.nan)
    assert int(argmax_labels(logits, True)[0].max()) < 4


def test_other_devices_give_the_same(monkeypatch):
    logits = random_logits((1, 19, 16, 24))
    here = argmax_labels(logits, True)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    monkeypatch.setattr(argmax, "_argmax_in_stripes", None)  # it is the other way that runs
    there = argmax_labels(logits, True)
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])


def test_rows_wider_than_a_stripe_are_worked_on_one_by_one():
    assert list(argmax.stripes(3, 10, 4)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
