"""Which weights the node loads, and what it says of them."""

from __future__ import annotations

from pathlib import Path

from lmanet_core.errors import WeightsError
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.weights.runtime import Runtime
from lmanet_core.weights.shipped import default_weights


def find_weights(given: str) -> Path:
    """The weights to load; raises WeightsError where none are given and none are shipped."""
    if given:
        return Path(given).expanduser()
    try:
        return default_weights()
    except WeightsError as error:
        raise WeightsError(
            f"no weights given, and {error}: set the parameter weights to a file "
            "(launch: weights:=/path/to/lmanet_erf_best.pth; running: ros2 param set /segment_node weights /path, "
            "then ros2 lifecycle set /segment_node configure)"
        ) from error


def describe_memory(runtime: Runtime, config: SegmenterConfig) -> str:
    """A few words about the memory of features."""
    memory = runtime.config.memory
    if memory is None:
        return "no memory in these weights"
    frames = config.memory_frames or memory.memory_frames
    state = "" if config.memory else " (switched off)"
    return f"memory {frames} frames, window {memory.window or 'global'}{state}"
