"""One way out for results: `open_sinks` lays out a result folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from lmanet_core.errors import ConfigError, OutputError, suggest_name
from lmanet_core.labels import LabelSet
from lmanet_core.media.bag_sink import ResultBagSink
from lmanet_core.media.sinks import CompositeSink, LabelPngSink, MaskPngSink, ResultSink, make_folder
from lmanet_core.media.video_sink import OPACITY, PictureSink, VideoSink

#: Kind of result → file or folder.
SINK_FILES = {
    "labels": "labels", "masks": "masks", "overlay": "overlay.webm", "color": "color.webm", "overlay_images": "overlay",
    "color_images": "color", "bag": "result",
}  # fmt: skip
SINK_KINDS = tuple(SINK_FILES)

_LOGGER = logging.getLogger(__name__)


def open_sinks(
    out_dir: str | Path,
    label_set: LabelSet,
    *,
    kinds: Collection[str] = ("labels", "masks", "overlay", "bag"),
    fps: float | None = None,
    opacity: float = OPACITY,
) -> CompositeSink:
    """Open what writes results into a folder.

    Args:
        out_dir: made where it is missing. Gets `labels/`, `masks/<group>/`, `overlay.webm`, `color.webm`, `overlay/` and
            `color/` (a PNG a frame), `result/` (a bag).
        label_set: class names, colours, groups.
        kinds: which of `SINK_KINDS`.
        fps: frames a second of the videos where stamps do not say it.
        opacity: of the colours over the image, 0–1.

    Raises:
        ConfigError: an unknown kind, fps not positive, another opacity.
        OutputError: the folder is not writable, or holds a result bag already.
    """
    folder = Path(out_dir)
    check_sink_kinds(kinds)
    if "masks" in kinds and not label_set.groups:
        _LOGGER.info("no masks are written: the label set has no class groups")
    make_folder(folder)
    at = {kind: folder / name for kind, name in SINK_FILES.items()}
    makers: Mapping[str, Callable[[], ResultSink]] = {
        "labels": lambda: LabelPngSink(at["labels"]),
        "masks": lambda: MaskPngSink(at["masks"], label_set),
        "overlay": lambda: VideoSink(at["overlay"], label_set, "overlay", fps, opacity),
        "color": lambda: VideoSink(at["color"], label_set, "color", fps),
        "overlay_images": lambda: PictureSink(at["overlay_images"], label_set, "overlay", opacity),
        "color_images": lambda: PictureSink(at["color_images"], label_set, "color"),
        "bag": lambda: ResultBagSink(at["bag"], label_set),
    }
    sinks: list[ResultSink] = []
    try:
        for kind in SINK_KINDS:
            if kind in kinds:
                sinks.append(makers[kind]())
    except (ConfigError, OutputError):
        CompositeSink(sinks).close()
        raise
    return CompositeSink(sinks)


def check_sink_kinds(kinds: Collection[str]) -> None:
    """Raise ConfigError where one of them is not in `SINK_KINDS`."""
    for kind in kinds:
        if kind not in SINK_KINDS:
            raise ConfigError(f"results are {', '.join(SINK_KINDS)}, got {kind!r}{suggest_name(kind, SINK_KINDS)}")
