"""Interlaced video, whose two half pictures are of different moments: one whole picture a frame, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.media.packets import picture_of, require_decoder
from lmanet_core.media.source import FrameSource

_FILTER = "bwdif"  # looks at the frames beside, so that what stands still keeps its lines

_ANY_TEXT = {"metadata_errors": "replace"}  # titles are not always UTF-8

_LOGGER = logging.getLogger(__name__)


def is_interlaced(path: Path) -> bool:
    """Whether the first frame of a video says that it is; False where PyAV is not installed or cannot read it."""
    try:
        av = require_decoder(str(path))
    except InputError:
        return False
    try:
        with av.open(str(path), **_ANY_TEXT) as container:
            return bool(next(container.decode(video=0)).interlaced_frame)
    except (av.error.FFmpegError, StopIteration, IndexError):
        return False


class InterlacedSource(FrameSource):
    """Frames of an interlaced video file, as many as it has, without its combs.

    Args:
        path: a file that FFmpeg can read.

    Raises:
        InputError: PyAV is not installed, or there is no video.
    """

    kind = "video"

    def __init__(self, path: Path) -> None:
        super().__init__(path, _LOGGER)
        self._av = require_decoder(f"{path}: interlaced video")
        try:
            self._container = self._av.open(str(path), **_ANY_TEXT)
            self._stream = self._container.streams.video[0]
        except (self._av.error.FFmpegError, IndexError) as error:
            raise InputError(f"{path}: wanted a video: {error}") from error
        self.fps = float(self._stream.average_rate) if self._stream.average_rate else None
        self.expected_frames = self._stream.frames or None

    def _read(self) -> Iterator[Frame]:
        lost, count = False, 0
        filters: Any = None
        for packet in self._container.demux(self._stream):
            try:
                decoded = packet.decode()
            except self._av.error.FFmpegError as error:
                self._skip(f"a packet at {float(packet.pts or 0) * float(packet.time_base):.2f} s", error.strerror)
                lost = True
                continue
            for frame in decoded:
                filters = filters or self._filters(frame)
                filters.push(frame)
                for whole in self._pull(filters):
                    yield self._frame(whole, count, lost)
                    lost, count = False, count + 1
        if filters is not None:
            filters.push(None)
            for whole in self._pull(filters):
                yield self._frame(whole, count, lost)
                lost, count = False, count + 1

    def _frame(self, picture: Any, number: int, lost: bool) -> Frame:
        rotation = getattr(picture, "rotation", 0)  # the first releases of PyAV 14 do not tell it
        image = np.ascontiguousarray(np.rot90(picture_of(picture), round(rotation / 90)))
        aspect = float(self._stream.codec_context.sample_aspect_ratio or 1) or 1.0
        aspect = 1.0 / aspect if rotation % 180 else aspect
        start = self._stream.start_time or 0
        stamp_s = float(picture.time) - float(start * self._stream.time_base)
        return Frame(image, round(stamp_s * 1e9), name=f"{number:06d}", after_loss=lost, pixel_aspect=aspect)

    def _filters(self, frame: Any) -> Any:
        graph = self._av.filter.Graph()
        parts = graph.add_buffer(template=self._stream), graph.add(_FILTER, "mode=send_frame"), graph.add("buffersink")
        graph.link_nodes(*parts).configure()
        return graph

    def _pull(self, filters: Any) -> Iterator[Any]:
        while True:
            try:
                yield filters.pull()
            except (self._av.error.BlockingIOError, self._av.error.EOFError):
                return

    def _release(self) -> None:
        self._container.close()
