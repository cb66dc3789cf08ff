"""`lmanet bench --gpu`: in five minutes, whether a GPU computes what it should and how fast, most useful first.

Every part has a process and a time limit of its own (`timed_parts`), and the record is written after each: whatever hangs,
fails or is killed, what was found by then is kept.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from lmanet_core.errors import ConfigError
from lmanet_core.experiments.benchmark import FRAMES, SIZES, OperatorSize
from lmanet_core.experiments.gpu_timing import SHIPPED
from lmanet_core.experiments.timed_parts import Outcome, Part, run_parts
from lmanet_core.files import replace_file
from lmanet_core.geometry import Size
from lmanet_core.weights.machine import describe_run

LIMIT_S = 300.0  # of everything
_STREET = Size(360, 480)
_AGREEMENT = "lmanet_core.experiments.gpu_agreement"
_TIMING = "lmanet_core.experiments.gpu_timing"


@dataclass(frozen=True)
class CheckSizes:
    """What is computed; the defaults are what a GPU is asked for, tests take less.

    Attributes:
        street: height and width of the images of the generated street, which the weights that ship segment.
        images: of these.
        compared: reads whose gradients are compared with the definition. Of PSPNet's map a part, with borders on all sides and
            whole windows between: the definition's scores of it all take too long.
        timed: reads that are timed.
        window: of the reads.
        side: of the product that floors are measured by.
        erfnet, erfnet_large, pspnet: network sizes of the streamed frames.
        rounds: frames timed of each; a quarter of them for PSPNet.
    """

    street: Size = _STREET
    images: int = 12
    compared: tuple[OperatorSize, ...] = (SIZES[0], OperatorSize("PSPNet S=3", 3, 128, 2048, 33, 65))
    timed: tuple[OperatorSize, ...] = SIZES
    window: int = 21
    side: int = 8192
    erfnet: Size = FRAMES[0].size
    erfnet_large: Size = FRAMES[1].size
    pspnet: Size = FRAMES[2].size
    rounds: int = 60


def make_parts(device: str, folder: str, sizes: CheckSizes) -> list[Part]:
    """The parts, most useful first. Each may take longer than its share of `LIMIT_S`, for the others will take less.

    Args:
        device: "cuda", "cuda:1", …; "cpu" for tests.
        folder: for what parts leave to those after them.
        sizes: what is computed.
    """
    street = (*sizes.street, sizes.images)

    def frames(architecture: str, size: Size, rounds: int) -> dict[str, Any]:
        made = {"device": device, "folder": folder, "architecture": architecture, "size": size, "street": street}
        return {**made, "rounds": rounds}

    compared, timed = ([astuple(size) for size in some] for some in (sizes.compared, sizes.timed))
    window = {"device": device, "window": sizes.window}
    labels = {"device": device, "folder": folder, "size": sizes.street, "count": sizes.images}
    return [
        Part("labels against the CPU", f"{_AGREEMENT}:labels", labels, 75),
        Part("kernels against the definition", f"{_AGREEMENT}:kernels", {**window, "sizes": compared}, 60),
        Part("memory read", f"{_TIMING}:reads", {**window, "sizes": timed, "side": sizes.side}, 60),
        Part("frame, ERFNet", f"{_TIMING}:frames", frames("erfnet", sizes.erfnet, sizes.rounds), 45),
        Part("frame, weights that ship", f"{_TIMING}:frames", frames(SHIPPED, sizes.street, sizes.rounds), 45),
        Part("frame, ERFNet, large", f"{_TIMING}:frames", frames("erfnet", sizes.erfnet_large, sizes.rounds), 45),
        Part("kernels of a frame", f"{_TIMING}:kernels_of_a_frame", frames("erfnet", sizes.erfnet, 10), 45),
        Part("frame, PSPNet-101", f"{_TIMING}:frames", frames("pspnet101", sizes.pspnet, max(1, sizes.rounds // 4)), 75),
    ]


def require_gpu() -> None:
    """Raise a ConfigError where PyTorch sees no CUDA device."""
    if not torch.cuda.is_available():
        raise ConfigError(
            f"bench --gpu wants a CUDA device, and PyTorch {torch.__version__} sees none; install a CUDA build of PyTorch and "
            "NVIDIA's driver, or leave --gpu out"
        )


def run_gpu_check(
    path: Path | None,
    arguments: Sequence[str],
    on_part: Callable[[str, Outcome], None],
    device: str = "cuda",
    sizes: CheckSizes | None = None,
    limit_s: float = LIMIT_S,
) -> bool:
    """Run every part, and write the record after each.

    Args:
        path: of the record, JSON: "run", "limit_s", and "parts", name → outcome; None: it is not written.
        arguments: of the command line, for the record.
        on_part: called with the name of each part and what came of it.
        device: as of `make_parts`.
        sizes: what is computed; None: what a GPU is asked for.
        limit_s: of everything, seconds.

    Returns:
        Whether every part came to its end and what was compared agrees.

    Raises:
        OutputError: the record cannot be written.
    """
    outcomes: dict[str, dict[str, Any]] = {}
    record = {"run": _describe(device, arguments), "limit_s": limit_s, "parts": outcomes}
    good = True
    with tempfile.TemporaryDirectory(prefix="lmanet_gpu_") as folder:
        _write(record, path)  # says at once where it cannot be
        for part, outcome in run_parts(make_parts(device, folder, sizes or CheckSizes()), limit_s):
            outcomes[part.name] = outcome.as_record()
            good = good and outcome.done and all(row.get("agrees", True) for row in outcome.rows)
            _write(record, path)
            on_part(part.name, outcome)
    return good


def _describe(device: str, arguments: Sequence[str]) -> dict[str, Any]:
    found = {**describe_run(shlex.join(["lmanet", *arguments])), "device": device}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "compute_capability": f"{properties.major}.{properties.minor}",
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda_runtime": torch.version.cuda,
        }
    try:
        import triton
    except ImportError:
        return {**found, "triton": None}
    return {**found, "triton": triton.__version__}


def _write(record: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        with replace_file(path) as beside:
            beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
