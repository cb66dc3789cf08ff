"""Pictures out of packets of compressed video, which the messages of some cameras hold: H.264, H.265 and their kin.

Needs PyAV, the extra "video". Other pictures need nothing of this.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError

#: Part of a format's or encoder's name → decoder; the first that fits counts.
_CODECS = {
    "264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1", "vp9": "vp9", "vp8": "vp8", "mpeg4": "mpeg4",
}  # fmt: skip
_WAITING = 256  # packets whose picture may still come; the longest reordering of these codecs is 16


@dataclass(frozen=True, slots=True)
class Packet:
    """One message's worth of compressed video.

    Attributes:
        codec: FFmpeg's name.
        data: an access unit, with the stream's parameters where it begins anew.
    """

    codec: str
    data: bytes


def codec_of(name: str, data: bytes) -> str | None:
    """The codec that a message's format or encoder names, or that its data begins like; None: no video.

    Args:
        name: such as "h264", "hevc_nvenc", "libx264;yuv420p".
        data: of the message.
    """
    for part, codec in _CODECS.items():
        if part in name.lower():
            return codec
    start = data[:5]
    if start.startswith((b"\0\0\0\1", b"\0\0\1")):  # Annex B: a sequence's or access unit's beginning
        unit = start.lstrip(b"\0")[1:2]
        if unit and (unit[0] & 0x1F) in (7, 9):
            return "h264"
        if unit and (unit[0] >> 1 & 0x3F) in (32, 35):
            return "hevc"
    return None


def require_decoder(what: str) -> Any:
    """PyAV.

    Raises:
        InputError: it is not installed; one sentence that says for what and how.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(f"{what} needs PyAV, which is not installed: pip install av, which is the extra video") from error
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # damage is counted and told by the source
    return av


class PacketDecoder:
    """Decodes the packets of one stream, in their order.

    A picture may come later than its packet. Before the first key frame there is none.

    Args:
        codec: FFmpeg's name.
        what: what the packets are of, for errors.

    Attributes:
        too_early: packets before the first picture, which build on what came before them.

    Raises:
        InputError: PyAV is not installed, or cannot decode this.
    """

    def __init__(self, codec: str, what: str) -> None:
        self._av = require_decoder(f"{what}: {codec} video")
        try:
            self._context = self._av.CodecContext.create(codec, "r")
        except self._av.error.FFmpegError as error:
            raise InputError(f"{what}: this PyAV cannot decode {codec} video") from error
        self._context.thread_count = 1  # pictures as soon as they are whole
        self._waiting: OrderedDict[int, Any] = OrderedDict()
        self._count = 0
        self._has_begun = False
        self.too_early = 0

    def decode(self, packet: Packet, key: Any) -> list[tuple[Any, UInt8Array]]:
        """Feed a packet.

        Args:
            packet: the next one.
            key: what the picture is given out with.

        Returns:
            Pictures that are whole now, (H, W, 3) RGB, with the keys of their packets.

        Raises:
            InputError: the packet is damaged.
        """
        unit = self._av.Packet(packet.data)
        unit.pts = unit.dts = self._count
        self._waiting[self._count] = key
        self._count += 1
        if len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)
        return self._pictures(unit)

    def flush(self) -> list[tuple[Any, UInt8Array]]:
        """The pictures that were still to come."""
        return self._pictures(None)

    def _pictures(self, unit: Any) -> list[tuple[Any, UInt8Array]]:
        try:
            frames = self._context.decode(unit)
        except self._av.error.FFmpegError as error:
            if not self._has_begun:
                self.too_early += 1
                return []
            raise InputError(f"a packet of video cannot be decoded: {error.strerror}") from error
        self._has_begun |= bool(frames)
        return [(self._waiting.pop(frame.pts, None), picture_of(frame)) for frame in frames]


def picture_of(frame: Any) -> UInt8Array:
    """RGB (H, W, 3) of a decoded av.VideoFrame."""
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
