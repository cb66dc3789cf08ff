"""Results as a video for people (MP4, mp4v); for machines there are PNGs and bags, which lose nothing."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, resize_image
from lmanet_core.labels import LabelSet
from lmanet_core.media.sinks import ClosingSink, make_folder

_MIN_SIDE = 16  # the encoder refuses less than 2 and players less than this
_MIN_FREE_BYTES = 2**22  # OpenCV does not say that a disk is full, so look before each frame


class VideoFile:
    """A video that is written picture by picture.

    The first picture sets the size, with sides rounded up to even numbers as the codec needs; later ones of another size are
    scaled to fit, centred, with black bars. An MP4 can be played only after `close`.

    Args:
        path: the .mp4 file; replaced where it exists.
        fps: pictures a second to play at.

    Raises:
        ConfigError: fps not positive.
        OutputError: the folder cannot be made.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        if not (math.isfinite(fps) and fps > 0.0):
            raise ConfigError(f"fps must be a positive number, got {fps}")
        self.path = Path(path)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._canvas_size = Size(0, 0)
        self._frames = 0
        make_folder(self.path.parent)
        if self.path.is_dir():
            raise OutputError(f"{self.path}: cannot be written: a video file is wanted and there is a folder of that name")

    def write(self, picture: UInt8Array) -> None:
        """Append (H, W, 3) uint8 RGB.

        Raises:
            OutputError: it cannot be written.
        """
        if self._writer is None:
            self._open(Size(*picture.shape[:2]))
        assert self._writer is not None
        free = shutil.disk_usage(self.path.parent).free
        if free < _MIN_FREE_BYTES:
            raise OutputError(f"{self.path}: only {free} bytes of space are left for it; free some or choose another output")
        self._writer.write(_fit(picture, self._canvas_size)[:, :, ::-1])  # OpenCV wants BGR
        self._frames += 1

    def close(self) -> None:
        """Finish the file; checks that the video can be played, since OpenCV reports no errors of writing.

        Raises:
            OutputError: not every picture can be read back.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.release()
        check = cv2.VideoCapture(str(self.path))
        frames = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if frames < self._frames:
            raise OutputError(f"{self.path}: {self._frames} frames were written, {frames} can be read back; is the disk full?")

    def _open(self, size: Size) -> None:
        self._canvas_size = _round_up(size)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self.path), fourcc, self._fps, (self._canvas_size.width, self._canvas_size.height))
        if not writer.isOpened():
            raise OutputError(
                f"{self.path}: OpenCV cannot open a video of {self._canvas_size} at {self._fps:g} fps there; "
                "is writing permitted, does the name end in .mp4, does this OpenCV have FFmpeg?"
            )
        self._writer, self._frames = writer, 0


class VideoSink(ClosingSink):
    """A video of the class colours, or of the colours over the image; see `VideoFile` for sizes.

    Args:
        path: the .mp4 file; replaced where it exists.
        label_set: the palette.
        kind: "color" or "overlay".
        fps: frames a second to play at; stamps are not kept.

    Raises:
        ConfigError: another kind, or fps not positive.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        kind: Literal["color", "overlay"] = "overlay",
        fps: float = 10.0,
    ) -> None:
        if kind not in ("color", "overlay"):
            raise ConfigError(f"a video shows color or overlay, got {kind!r}")
        self._video = VideoFile(path, fps)
        self.path = self._video.path
        self._label_set = label_set
        self._kind = kind

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        if self._kind == "overlay":
            picture = self._label_set.overlay(result.geometry.image_to_output(frame.image), result.labels)
        else:
            picture = self._label_set.colorize(result.labels)
        self._video.write(picture)

    def close(self) -> None:
        """See `ResultSink`."""
        self._video.close()


def _round_up(size: Size) -> Size:
    return Size(*(max(_MIN_SIDE, side + side % 2) for side in size))


def _fit(picture: UInt8Array, canvas_size: Size) -> UInt8Array:
    """Onto a canvas of that size: as it is where only rounding up is missing, else scaled to fit; black around."""
    size = Size(*picture.shape[:2])
    if size == canvas_size:
        return picture
    top = left = 0
    if _round_up(size) != canvas_size:
        scale = min(canvas_size.height / size.height, canvas_size.width / size.width)
        size = Size(*(max(1, min(room, round(side * scale))) for side, room in zip(size, canvas_size, strict=True)))
        picture = resize_image(picture, size)
        top, left = (canvas_size.height - size.height) // 2, (canvas_size.width - size.width) // 2
    canvas = np.zeros((*canvas_size, 3), np.uint8)
    canvas[top : top + size.height, left : left + size.width] = picture
    return canvas
