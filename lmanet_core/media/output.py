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

SINK_KINDS = ("labels", "masks", "overlay", "color", "overlay_images", "color_images", "bag")

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
    makers: Mapping[str, Callable[[], ResultSink]] = {
        "labels": lambda: LabelPngSink(folder / "labels"),
        "masks": lambda: MaskPngSink(folder / "masks", label_set),
        "overlay": lambda: VideoSink(folder / "overlay.webm", label_set, "overlay", fps, opacity),
        "color": lambda: VideoSink(folder / "color.webm", label_set, "color", fps),
        "overlay_images": lambda: PictureSink(folder / "overlay", label_set, "overlay", opacity),
        "color_images": lambda: PictureSink(folder / "color", label_set, "color"),
        "bag": lambda: ResultBagSink(folder / "result", label_set),
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
