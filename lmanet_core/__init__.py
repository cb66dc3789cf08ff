"""Video semantic segmentation with a local attention memory; everything here works without ROS.

The front door: `VideoSegmenter` segments a stream, `open_frames` reads recordings, `load_model` reads weights. Each is imported
when it is asked for, so that `import lmanet_core` itself takes no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmanet_core.media import open_frames
    from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
    from lmanet_core.weights.checkpoint import load_model

__version__ = "0.1.0"

__all__ = ["SegmenterConfig", "VideoSegmenter", "load_model", "open_frames"]

_HOMES = {
    "SegmenterConfig": "lmanet_core.stream.segmenter",
    "VideoSegmenter": "lmanet_core.stream.segmenter",
    "load_model": "lmanet_core.weights.checkpoint",
    "open_frames": "lmanet_core.media",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lmanet_core' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
