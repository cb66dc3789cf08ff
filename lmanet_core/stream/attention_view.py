"""How the memory is read for single positions of an image: the weights that `local_attention` gives the past.

Looks at a `VideoSegmenter` from outside and changes nothing of its stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmanet_core.arrays import Float32Array
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import GeometryPlan, Size, feature_grid
from lmanet_core.media.pixels import to_rgb
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.memory_read import MemoryConfig, MemoryFrames
from lmanet_core.ops import attention_weights
from lmanet_core.stream.segmenter import VideoSegmenter


@dataclass(frozen=True, slots=True)
class Attention:
    """How the memory is read for one position of an image.

    Attributes:
        weights: (T, R, R) float32, over the window in each memory frame; what is missing to a sum of 1 lies outside the map.
        stamps_ns: of the T memory frames.
        row, column: of the position, on the map of features.
        map_size: of the features.
        geometry: how the image became the network's input.
    """

    weights: Float32Array
    stamps_ns: tuple[int, ...]
    row: int
    column: int
    map_size: Size
    geometry: GeometryPlan


@torch.inference_mode()
def attend(segmenter: VideoSegmenter, image: npt.NDArray[Any], positions: Sequence[tuple[float, float]]) -> list[Attention]:
    """Look at how `VideoSegmenter.step` would read the memory for this image.

    Args:
        segmenter: of the stream.
        image: (H, W, 3) uint8 RGB, the next of the stream.
        positions: (x, y) pixels of the image.

    Returns:
        One for each position; none while the memory is empty or off.

    Raises:
        ConfigError: positions outside the image, or weights that attend everywhere instead of in a window.
    """
    rgb = to_rgb(image)
    height, width = rgb.shape[:2]
    for x, y in positions:
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(f"a position must lie in the image of {width}x{height}, got {x:g},{y:g}")
    memory, runtime = segmenter.memory, segmenter.runtime
    past = memory.buffer.frames() if memory is not None else None
    module = runtime.network.memory
    if past is None or module is None or memory is None:
        return []
    if module.config.window is None:
        raise ConfigError("these weights attend to all positions; only attention within a window can be shown (--window 21)")
    plan = segmenter.plan_for(Size(height, width))
    seen = plan.to_network(rgb)
    pixels = runtime.normalize(image_batch(torch.from_numpy(seen.copy()).to(runtime.device)))
    query = module.project_query(runtime.network.encode(pixels)).key
    moved = memory.view(seen, feature_grid(plan.network_size, runtime.network.memory_stride)).positions
    past = module.compensate_motion(past, None if moved is None else moved.to(query.device))
    stamps = memory.buffer.slots_ns
    return [_attend_at(query, past, module.config, plan, stamps, x, y) for x, y in positions]


def _attend_at(
    query: torch.Tensor,
    past: MemoryFrames,
    config: MemoryConfig,
    plan: GeometryPlan,
    stamps_ns: tuple[int, ...],
    x: float,
    y: float,
) -> Attention:
    """Weights of one position: those of the cut-out that its window sees, which has all that matters."""
    assert config.window is not None
    size, half = Size(*query.shape[-2:]), config.window // 2
    at = plan.to_network_position(x, y)
    column = min(size.width - 1, max(0, int(at[0] * size.width / plan.network_size.width)))
    row = min(size.height - 1, max(0, int(at[1] * size.height / plan.network_size.height)))
    top, left = max(0, row - half), max(0, column - half)
    rows, columns = slice(top, row + half + 1), slice(left, column + half + 1)
    weights = attention_weights(
        query[..., rows, columns],
        past.keys[..., rows, columns],
        config.window,
        softmax=config.softmax,
        border=config.border,
    )[0, :, :, row - top, column - left]  # (T, R*R)
    seen = weights.reshape(-1, config.window, config.window).float().cpu().numpy().copy()  # (T, R, R)
    inside_rows = np.abs(np.arange(-half, half + 1) + row - (size.height - 1) / 2) <= (size.height - 1) / 2
    inside_columns = np.abs(np.arange(-half, half + 1) + column - (size.width - 1) / 2) <= (size.width - 1) / 2
    seen[:, ~(inside_rows[:, None] & inside_columns)] = 0.0  # they read nothing
    return Attention(seen, stamps_ns, row, column, size, plan)
