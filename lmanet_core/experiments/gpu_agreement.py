"""Parts of `lmanet bench --gpu` that say whether a device computes what it should: labels of a stream, and the kernels.

Each is a generator of rows: "what", "cells" (figures by name) and "agrees". `timed_parts` runs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.experiments.benchmark import OperatorSize, make_inputs
from lmanet_core.frame import FrameResult
from lmanet_core.ops import local_attention
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.street import Street, StreetConfig
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare
from lmanet_core.weights.shipped import default_weights
from lmanet_core.weights.tiles import use_measured_tiles

LEAST_EQUAL = 0.995  # share of labels; 0.9991 to 0.9999 were measured (docs/cuda.md)
LEAST_EQUAL_BY_ANOTHER_FLOW = 0.98  # where the device measures motion itself; 0.993 was measured, all on a CPU
#: Largest difference, of the result as it is, of gradients relative to their largest entry: values up to 5 and weights up to 1
#: are stored to half of 2⁻¹⁰ in float16; in float32 sums of some thousand terms are rounded to 6e-8 each.
TOLERANCES = {"float16": 4e-3, "float32": 2e-5}

PERIOD_NS = 100_000_000  # of the generated street, 10 Hz
_GAP_NS = 10**12
_TOWN = 2_000_000  # a seed that no training and no validation uses


def street_frames(folder: str, size: Sequence[int], count: int) -> list[UInt8Array]:
    """Images of a drive with an occluded camera; drawn once and kept in the folder.

    Args:
        folder: for the file.
        size: height and width.
        count: of images.
    """
    height, width = size
    path = Path(folder, f"street_{width}x{height}_{count}.npy")
    if not path.is_file():
        street = Street(StreetConfig(width=width, height=height, seed=_TOWN, degradation="occlusion"))
        beside = path.with_suffix(f".{os.getpid()}.npy")  # its process may be ended at any time
        np.save(beside, np.stack([frame.image for frame in street.frames(0, count)]))
        beside.replace(path)
    return list(np.load(path))


# ---- labels


def labels(device: str, folder: str, size: Sequence[int], count: int) -> Iterator[dict[str, Any]]:
    """Labels of the weights that ship, on the device in the precision that `auto` chooses, against the CPU's in float32.

    In a graph, without one, and once more; with both memories, motion measured on the host as the CPU does and on the device,
    and with neither. The stream has a repeated stamp and a gap.

    Args:
        device: "cuda", "cuda:1", …; "cpu" for tests.
        folder: for the images of the street.
        size: of these, height and width.
        count: of these.
    """
    images = street_frames(folder, size, count)
    model = load_model(default_weights())
    exact, runtime = prepare(model, "cpu", "fp32"), prepare(model, device)
    for what, memory, host_motion, least in (
        ("both memories, motion on the host", True, True, LEAST_EQUAL),
        ("both memories", True, False, LEAST_EQUAL_BY_ANOTHER_FLOW),
        ("no memory", False, False, LEAST_EQUAL),
    ):
        expected = _stream(exact, images, memory, True, True)
        in_graph, again, without = (_stream(runtime, images, memory, graph, host_motion) for graph in (True, True, False))
        equal = [float(np.mean(one.labels == other.labels)) for one, other in zip(in_graph, expected, strict=True)]
        cells: dict[str, Any] = {
            "precision": runtime.precision,
            "frames": len(images),
            "labels equal to the CPU's": float(np.mean(equal)),
            "in the worst frame": min(equal),
            "frames that differ without a graph": _differing(in_graph, without),
            "frames that differ when repeated": _differing(in_graph, again),
            "resets": sum(one.discontinuity is not None for one in expected),
            "frames whose memory differs": sum(
                _kept(one) != _kept(other) for one, other in zip(in_graph, expected, strict=True)
            ),
        }
        differing = [cells[name] for name in cells if name.startswith("frames ")]
        agrees = bool(cells["labels equal to the CPU's"] >= least and not any(differing))
        yield {"what": what, "cells": cells, "agrees": agrees}


def _stream(runtime: Runtime, images: Sequence[UInt8Array], memory: bool, graph: bool, host_motion: bool) -> list[FrameResult]:
    """A stream whose middle frame repeats the stamp before, and that has a gap before its last third."""
    stamps = [number * PERIOD_NS for number in range(len(images))]
    stamps[len(images) // 2] = stamps[len(images) // 2 - 1]
    for number in range(2 * len(images) // 3, len(images)):
        stamps[number] += _GAP_NS
    settings = SegmenterConfig(memory=memory, label_memory=memory, cuda_graph=graph, host_motion=host_motion)
    segmenter = VideoSegmenter(runtime, settings)
    return [segmenter.step(image, stamp) for image, stamp in zip(images, stamps, strict=True)]


def _differing(ones: Sequence[FrameResult], others: Sequence[FrameResult]) -> int:
    """Frames of which a label or a confidence is not the same."""
    return sum(
        not np.array_equal(one.labels, other.labels) or not np.array_equal(_confidence(one), _confidence(other))
        for one, other in zip(ones, others, strict=True)
    )


def _confidence(result: FrameResult) -> UInt8Array:
    assert result.confidence is not None  # it was asked for
    return result.confidence


def _kept(result: FrameResult) -> tuple[object, ...]:
    return result.memory_frames, result.remembered, result.discontinuity


# ---- kernels


def kernels(
    device: str,
    sizes: Sequence[Sequence[Any]],
    window: int,
    precisions: Sequence[str] = ("float16", "float32"),
    impl: str = "triton",
) -> Iterator[dict[str, Any]]:
    """The Triton kernels, result and gradients, against the definition in float32 on the same device.

    The definition keeps every score for its gradients, so it reads a few channels of the values at a time, of which the
    gradients of query and keys are the sum.

    Args:
        device: as of `labels`; the CPU wants TRITON_INTERPRET=1.
        sizes: fields of `OperatorSize`.
        window: side of the window, odd.
        precisions: of the inputs; names in `TOLERANCES`.
        impl: that is compared.
    """
    use_measured_tiles(torch.device(device))
    for fields in sizes:
        size = OperatorSize(*fields)
        for precision in precisions:
            dtype, tolerance = getattr(torch, precision), TOLERANCES[precision]
            query, keys, values = make_inputs(size, dtype, device)
            leaves = [maps.detach() for maps in (query * size.key_channels**-0.5, keys, values)]  # logits of order 1
            grad_out = torch.randn(leaves[2][:, 0].shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
            got, again = (_read(leaves, grad_out, window, impl) for _ in range(2))
            slices = range(0, size.value_channels, max(16, size.key_channels))
            expected = _read_by_definition([maps.float() for maps in leaves], grad_out.float(), window, slices)
            names = ("result", "gradient of query", "of keys", "of values")
            errors = {name: _error(*pair) for name, *pair in zip(names, got, expected, strict=True)}
            same = all(torch.equal(one, other) for one, other in zip(got, again, strict=True))
            cells = {**errors, "tolerance": tolerance, "same bits again": "yes" if same else "no"}
            what = f"{size.name}, R={window}, {size.height}x{size.width}, {precision}"
            yield {"what": what, "cells": cells, "agrees": same and max(errors.values()) <= tolerance}


def _read(inputs: Sequence[torch.Tensor], grad_out: torch.Tensor, window: int, impl: str) -> list[torch.Tensor]:
    """Result, and the gradients of query, keys and values."""
    query, keys, values = (maps.detach().requires_grad_() for maps in inputs)
    out = local_attention(query, keys, values, window, impl=impl)
    return [out.detach(), *torch.autograd.grad(out, (query, keys, values), grad_out)]


def _read_by_definition(
    inputs: Sequence[torch.Tensor], grad_out: torch.Tensor, window: int, slices: range
) -> list[torch.Tensor]:
    query, keys, values = inputs
    results, of_values = [], []
    of_query, of_keys = torch.zeros_like(query), torch.zeros_like(keys)
    for start in slices:
        some = slice(start, start + slices.step)
        out, *gradients = _read((query, keys, values[:, :, some]), grad_out[:, some], window, "reference")
        results.append(out)
        of_query += gradients[0]
        of_keys += gradients[1]
        of_values.append(gradients[2])
    return [torch.cat(results, 1), of_query, of_keys, torch.cat(of_values, 2)]


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry where that is above 1."""
    return float((got.float() - expected).abs().max() / max(1.0, float(expected.abs().max())))
