"""What flows through the segmenter: a `Frame` comes in, a `FrameResult` goes out.

All are plain values with no behaviour. Sources of frames (topics, bags, videos, folders) and sinks of results (topics, bags,
PNGs, videos, metrics) meet only here, so every front end runs the same code in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import CameraInfo, GeometryPlan
from lmanet_core.labels import LabelSet


class Discontinuity(str, Enum):
    """Why the memory is cleared before a frame."""

    FIRST_FRAME = "first_frame"
    BACKWARD_STAMP = "backward_stamp"
    GAP = "gap"
    SIZE_CHANGE = "size_change"
    FRAME_ID_CHANGE = "frame_id_change"
    SCENE_CUT = "scene_cut"
    BLIND = "blind"
    FROZEN = "frozen"
    CLOCK_JUMP = "clock_jump"
    MANUAL = "manual"


class Blindness(str, Enum):
    """Why a picture tells nothing of what is before the camera now. Such a frame is segmented by itself and not remembered.

    BLACK, SATURATED, COVERED: it has no texture, and is dark, bright, or neither (a hand, fog, a wall that fills the view).
    FROZEN: the very bytes of the frame before, many times, while stamps go on and the picture had been moving.
    """

    BLACK = "black"
    SATURATED = "saturated"
    COVERED = "covered"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image with its time.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stamp_ns: capture time in nanoseconds; only differences matter.
        frame_id: coordinate frame of the camera, as in a ROS header; may be empty.
        camera_info: calibration valid for this image, where the source has one.
        name: what to call files made from it (an image's stem, or a running number).
        after_loss: frames before this one were recorded and are lost, so that nothing goes on from them.
        pixel_aspect: width of a pixel over its height; 1 but for videos that were stored squeezed.
    """

    image: UInt8Array
    stamp_ns: int
    frame_id: str = ""
    camera_info: CameraInfo | None = None
    name: str = ""
    after_loss: bool = False
    pixel_aspect: float = 1.0


@dataclass(frozen=True, slots=True)
class FrameResult:
    """What the segmenter says about one frame.

    Attributes:
        labels: (H, W) uint8 class ids at the output size, 255 is unlabelled; (0, 0) where they were not wanted.
        confidence: (H, W) uint8, softmax probability of the chosen class as 0–255, at most 25 in a blind frame; None where it
            was not wanted.
        stamp_ns: the frame's own stamp, untouched.
        frame_id: the frame's own frame_id, untouched.
        discontinuity: why the memory was cleared before this frame; None where the stream went on.
        memory_frames: past frames that were read for this one (0: single-frame segmentation).
        remembered: whether this frame entered the memory; repeated, late and blind frames do not.
        geometry: how the image became the network's input and the labels its output.
        timings_ms: wall time of the host per stage in milliseconds, in order; "total" last.
        blind: why the picture tells nothing; None where it does. The first frame after blind ones has the discontinuity BLIND
            or FROZEN.
        label_set: names and colours of the ids; None where nobody said.
        image: (H, W, 3) uint8 RGB that was segmented, not copied.
    """

    labels: UInt8Array
    confidence: UInt8Array | None
    stamp_ns: int
    frame_id: str
    discontinuity: Discontinuity | None
    memory_frames: int
    remembered: bool
    geometry: GeometryPlan
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    blind: Blindness | None = None
    label_set: LabelSet | None = field(default=None, repr=False, compare=False)
    image: UInt8Array | None = field(default=None, repr=False, compare=False)

    def colors(self) -> UInt8Array:
        """(H, W, 3) uint8 RGB: the labels in the exact colours of their classes; ValueError where these are not known."""
        if self.label_set is None:
            raise ValueError("this result does not know the colours of its classes; LabelSet.colorize takes its labels")
        return self.label_set.colorize(self.labels)

    def overlay(self, opacity: float = 0.5) -> UInt8Array:
        """(H, W, 3) uint8 RGB at the output size: the image with the colours over it; raises ValueError as `colors`.

        Args:
            opacity: share of the colour, 0–1.
        """
        if self.label_set is None or self.image is None:
            raise ValueError("this result does not know its image; LabelSet.overlay takes image and labels")
        return self.label_set.overlay(self.geometry.image_to_output(self.image), self.labels, opacity)
