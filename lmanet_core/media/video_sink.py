"""Results for people: a video (see `VideoFile`) or pictures; for machines there are PNGs of ids and bags, without any loss."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, resize_image
from lmanet_core.labels import LabelSet
from lmanet_core.media.sinks import ClosingSink, file_stem, make_folder, write_png
from lmanet_core.media.video_file import VideoFile

OPACITY = 0.5

_SQUARE = 0.02  # pixels that are this nearly square are shown as they are


class PictureMaker:
    """The class colours, or the colours over the image, in square pixels.

    Args:
        label_set: the palette.
        kind: "color" or "overlay".
        opacity: of the colours over the image, 0–1.

    Raises:
        ConfigError: another kind or opacity.
    """

    def __init__(self, label_set: LabelSet, kind: Literal["color", "overlay"], opacity: float = OPACITY) -> None:
        if kind not in ("color", "overlay"):
            raise ConfigError(f"a picture shows color or overlay, got {kind!r}")
        if not 0.0 <= opacity <= 1.0:
            raise ConfigError(f"opacity must be 0 to 1, got {opacity}")
        self._label_set, self._kind, self._opacity = label_set, kind, opacity

    def draw(self, frame: Frame, result: FrameResult) -> UInt8Array:
        """(H, W, 3) uint8 RGB at the output size; wider or narrower where the camera's pixels are not square."""
        if self._kind == "overlay":
            image = result.geometry.image_to_output(frame.image)
            picture = self._label_set.overlay(image, result.labels, self._opacity)
        else:
            picture = self._label_set.colorize(result.labels)
        if abs(frame.pixel_aspect - 1.0) < _SQUARE:
            return picture
        height, width = picture.shape[:2]
        return resize_image(picture, Size(height, max(1, round(width * frame.pixel_aspect))))


class VideoSink(ClosingSink):
    """A video of the class colours, or of the colours over the image, with the times of the frames.

    Args:
        path: the .webm file; replaced where it exists.
        label_set: the palette.
        kind: "color" or "overlay".
        fps: frames a second where stamps do not say it.
        opacity: of the colours over the image, 0–1.

    Raises:
        ConfigError: another kind or opacity, or fps not positive.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        kind: Literal["color", "overlay"] = "overlay",
        fps: float | None = None,
        opacity: float = OPACITY,
    ) -> None:
        self._pictures = PictureMaker(label_set, kind, opacity)
        self._video = VideoFile(path, fps)
        self.path = self._video.path

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        self._video.write(self._pictures.draw(frame, result), frame.stamp_ns)

    def close(self) -> None:
        """See `ResultSink`."""
        self._video.close()


class PictureSink(ClosingSink):
    """One PNG a frame of the class colours, or of the colours over the image, `<folder>/<frame name>.png`.

    Args:
        folder: made where it is missing; files of the same name are replaced.
        label_set: the palette.
        kind: "color" or "overlay".
        opacity: of the colours over the image, 0–1.

    Raises:
        ConfigError: another kind or opacity.
        OutputError: the folder cannot be made.
    """

    by_frame = True

    def __init__(
        self, folder: str | Path, label_set: LabelSet, kind: Literal["color", "overlay"], opacity: float = OPACITY
    ) -> None:
        self.folder = Path(folder)
        self._pictures = PictureMaker(label_set, kind, opacity)
        make_folder(self.folder)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        write_png(self.folder / f"{file_stem(frame)}.png", self._pictures.draw(frame, result)[:, :, ::-1])
