"""What people look at: the side-by-side video, and the worst and the most flickering moments as pictures."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.files import output_errors
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, resize_image
from lmanet_core.labels import LabelSet
from lmanet_core.media.video_file import VideoFile

_PANEL_WIDTH = 360
_PICTURE_WIDTH = 400
_CHANGED = (255, 0, 160)  # a colour that no palette of ours has
_CAPTION_HEIGHT = 22
_FPS = 10.0  # of videos, where stamps do not tell


def mark(image: UInt8Array, where: npt.NDArray[np.bool_]) -> UInt8Array:
    """A pale grey image (H, W, 3) with the pixels of a mask (H, W) in a loud colour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pale = np.repeat((128 + grey // 2)[:, :, None], 3, axis=2)
    pale[where] = _CHANGED
    return np.asarray(pale, np.uint8)


class SideBySideVideo:
    """Camera | memory off | memory on | where they differ; without a memory: camera | labels.

    Args:
        path: the .webm file.
        labels: palette of the weights.

    Attributes:
        fps: to play at, by the stamps of the first two frames; one frame of the video is one segmented frame.
    """

    def __init__(self, path: Path, labels: LabelSet) -> None:
        self.path = path
        self.fps = _FPS
        self._labels = labels
        self._video: VideoFile | None = None
        self._first: tuple[Frame, Mapping[str, FrameResult]] | None = None  # until the second frame tells the rate

    def write(self, frame: Frame, results: Mapping[str, FrameResult]) -> None:
        """Append a frame; of `results`, "on" and "off" are drawn."""
        if self._video is None and self._first is None:
            self._first = (frame, results)
            return
        if self._video is None and self._first is not None:
            period_s = (frame.stamp_ns - self._first[0].stamp_ns) / 1e9
            self._start(min(60.0, 1.0 / period_s) if 0.0 < period_s <= 1.0 else _FPS)
        self._append(frame, results)

    def close(self) -> None:
        """Finish the file; raises OutputError where it cannot be."""
        if self._video is None and self._first is not None:
            self._start(_FPS)
        if self._video is not None:
            self._video.close()

    def _start(self, fps: float) -> None:
        assert self._first is not None
        self.fps, self._video = fps, VideoFile(self.path, fps)
        self._append(*self._first)
        self._first = None

    def _append(self, frame: Frame, results: Mapping[str, FrameResult]) -> None:
        first = next(iter(results.values()))
        scale = min(1.0, _PANEL_WIDTH / first.labels.shape[1])
        size = Size(*(max(2, round(side * scale)) for side in first.labels.shape))
        image = resize_image(first.geometry.image_to_output(frame.image), size)
        maps = {name: resize_labels(result.labels, size) for name, result in results.items() if name in ("off", "on")}
        panels = {"camera": image}
        panels |= {f"memory {name}": self._labels.overlay(image, maps[name]) for name in ("off", "on") if name in maps}
        if len(maps) == 2:
            panels["difference"] = mark(image, maps["on"] != maps["off"])
        assert self._video is not None
        self._video.write(np.concatenate([caption(panel, name) for name, panel in panels.items()], 1))


@dataclass(order=True)
class _Moment:
    badness: float
    number: int
    row: dict[str, object] = field(compare=False)
    panels: dict[str, UInt8Array] = field(compare=False)


class Moments:
    """The worst few of many frames, some distance apart, as pictures.

    Args:
        count: how many to keep.
        apart: frames between two of them, at least.
    """

    def __init__(self, count: int = 4, apart: int = 10) -> None:
        self._count = count
        self._apart = apart
        self._kept: list[_Moment] = []  # a heap, the least bad first

    def wants(self, badness: float | None, number: int) -> bool:
        """Whether a frame would be kept, before its pictures are drawn."""
        if badness is None or badness <= 0.0:
            return False
        near = [moment for moment in self._kept if abs(moment.number - number) < self._apart]
        if near:
            return badness > max(moment.badness for moment in near)
        return len(self._kept) < self._count or badness > self._kept[0].badness

    def keep(self, badness: float, number: int, row: dict[str, object], panels: Mapping[str, UInt8Array]) -> None:
        """Keep a frame that `wants` wanted.

        Args:
            badness: higher is kept rather.
            number: of the frame.
            row: its line in frames.jsonl.
            panels: caption → (H, W, 3) RGB.
        """
        self._kept = [moment for moment in self._kept if abs(moment.number - number) >= self._apart]
        heapq.heapify(self._kept)
        small = {text: _shrink(panel) for text, panel in panels.items()}
        heapq.heappush(self._kept, _Moment(badness, number, row, small))
        if len(self._kept) > self._count:
            heapq.heappop(self._kept)

    def save(self, folder: Path, prefix: str) -> list[dict[str, object]]:
        """Write `<prefix>_<n>_<panel>.jpg`; returns the moments, worst first, with the files of their panels."""
        ordered = sorted(self._kept, key=lambda kept: (-kept.badness, kept.number))
        return [
            {
                "badness": moment.badness,
                "frame": moment.row,
                "panels": save_panels(folder, f"{prefix}_{rank}", moment.panels),
            }
            for rank, moment in enumerate(ordered)
        ]


def save_panels(folder: Path, prefix: str, panels: Mapping[str, UInt8Array]) -> list[dict[str, str]]:
    """Write `<prefix>_<n>.jpg`, small enough for a page, for each caption → (H, W, 3) RGB.

    Returns:
        Caption and path beside the page, as the page wants them.

    Raises:
        OutputError: they cannot be written.
    """
    saved = []
    for index, (text, panel) in enumerate(panels.items()):
        file = folder / f"{prefix}_{index}.jpg"
        data = cv2.imencode(".jpg", _shrink(panel)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
        with output_errors(file):
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        saved.append({"caption": text, "file": f"{folder.name}/{file.name}"})
    return saved


def _shrink(picture: UInt8Array) -> UInt8Array:
    height, width = picture.shape[:2]
    scale = min(1.0, _PICTURE_WIDTH / width)
    return resize_image(picture, Size(max(1, round(height * scale)), max(1, round(width * scale))))


def caption(panel: UInt8Array, text: str) -> UInt8Array:
    """A picture (H, W, 3) with a line of text above it."""
    strip = np.full((_CAPTION_HEIGHT, panel.shape[1], 3), 24, np.uint8)
    cv2.putText(strip, text, (8, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate((strip, panel), 0)
