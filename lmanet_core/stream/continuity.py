"""Decide whether a frame goes on from the one before.

The only place where this is decided: the segmenter asks once per frame, live and offline alike, clears its memory where the
answer names a `Discontinuity`, and lets the frame enter the memory where the answer says so. Nothing here touches the memory,
reads a clock or knows what "now" is; only stamps are compared with stamps, so a replayed log decides as the robot did.

Threads: `check` and `reset` belong to the one thread that segments. `request` may be called from any thread; what was
requested is kept under a lock until the next `check` takes it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from lmanet_core.arrays import UInt8Array
from lmanet_core.frame import Discontinuity
from lmanet_core.settings import check_settings, setting
from lmanet_core.stream.scene_cut import SceneCutDetector

_LATE_IN_A_ROW = 3  # so many older stamps are not stragglers: the clock itself stepped back a little


@dataclass(frozen=True)
class ContinuityConfig:
    """When a frame no longer goes on from the one before.

    Raises:
        ConfigError: a value out of its range or of the wrong type.
    """

    gap_s: float = setting(1.0, "A stamp more than this ahead clears the memory.", unit="s", low=0.001, option="gap")
    late_s: float = setting(
        0.1, "A stamp up to this much older is late; a still older one clears.", unit="s", low=0.0, high=3600.0, option="late"
    )
    scene_cut: bool = setting(True, "Clear the memory when the picture changes abruptly.")
    scene_cut_similarity: float = setting(0.66, "Frames that resemble each other more are never a cut.", low=0.0, high=1.0)
    scene_cut_margin: float = setting(0.15, "How far below the usual similarity a cut must lie.", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class Continuity:
    """What to do with the memory for one frame.

    Attributes:
        discontinuity: why to clear the memory before this frame; None where the stream goes on.
        remember: whether this frame may enter the memory. Late and repeated frames are segmented, but do not.
    """

    discontinuity: Discontinuity | None
    remember: bool


class ContinuityMonitor:
    """Compare each frame with the newest one before it.

    The first rule that holds decides:

    1. FIRST_FRAME: nothing came before, or `reset` was called.
    2. MANUAL, CLOCK_JUMP: requested from outside since the last check; of several, the first requested.
    3. SIZE_CHANGE: another image shape.
    4. FRAME_ID_CHANGE: another camera frame.
    5. BACKWARD_STAMP: older than the newest frame by more than `late_s` (looped bag, simulated time), or the third frame in a
       row that is older at all (a clock that stepped back a little, a very short loop).
    6. Late (older by `late_s` at most) or repeated (equal stamp): no discontinuity, but not remembered, and nothing is compared
       with it later. Stamps that drivers leave out or let stand still are made good before, see `StampSource`.
    7. GAP: newer by more than `gap_s`, or frames in between were recorded and are lost.
    8. SCENE_CUT: the images say so, see `scene_cut`.

    After a discontinuity the frame is the one that the next is compared with.
    """

    def __init__(self, config: ContinuityConfig | None = None) -> None:
        self.config = config or ContinuityConfig()
        self._gap_ns = self.config.gap_s * 1e9 if math.isinf(self.config.gap_s) else round(self.config.gap_s * 1e9)
        self._late_ns = round(self.config.late_s * 1e9)
        self._cuts: SceneCutDetector | None = None
        if self.config.scene_cut:
            self._cuts = SceneCutDetector(self.config.scene_cut_similarity, self.config.scene_cut_margin)
        self._lock = threading.Lock()
        self._requested: Discontinuity | None = None  # under _lock
        self._newest: _Seen | None = None
        self._late_in_a_row = 0

    def request(self, cause: Discontinuity) -> None:
        """Have the next checked frame clear the memory. Any thread.

        Args:
            cause: MANUAL or CLOCK_JUMP; everything else is found by `check`.

        Raises:
            ValueError: another cause.
        """
        if cause not in (Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP):
            raise ValueError(f"only MANUAL and CLOCK_JUMP can be requested, got {cause.name}")
        with self._lock:
            self._requested = self._requested or cause

    def reset(self) -> None:
        """Forget the stream; the next frame is a first frame, which also answers a pending request."""
        self._newest = None

    def check(self, image: UInt8Array, stamp_ns: int, frame_id: str = "", after_loss: bool = False) -> Continuity:
        """Judge one frame. Call once per frame, in the order of arrival.

        Args:
            image: (H, W, 3) uint8 RGB, as the camera gave it.
            stamp_ns: capture time, nanoseconds; any integer.
            frame_id: coordinate frame of the camera; may be empty.
            after_loss: frames before this one are lost.
        """
        requested = self._take_request()
        seen = _Seen(image.shape, stamp_ns, frame_id)
        discontinuity = self._compare(seen, requested)
        if discontinuity is None and after_loss:
            discontinuity = Discontinuity.GAP
        if discontinuity is None and self._newest is not None and stamp_ns <= self._newest.stamp_ns:
            return Continuity(None, remember=False)
        if self._cuts is not None:
            if discontinuity is not None:
                self._cuts.reset()
            if self._cuts.is_cut(image):
                discontinuity = Discontinuity.SCENE_CUT
        self._newest = seen
        self._late_in_a_row = 0
        return Continuity(discontinuity, remember=True)

    def _compare(self, seen: _Seen, requested: Discontinuity | None) -> Discontinuity | None:
        """Every rule but the scene cut, in their order; counts late frames."""
        newest = self._newest
        if newest is None:
            return Discontinuity.FIRST_FRAME
        if requested is not None:
            return requested
        if seen.shape != newest.shape:
            return Discontinuity.SIZE_CHANGE
        if seen.frame_id != newest.frame_id:
            return Discontinuity.FRAME_ID_CHANGE
        ahead_ns = seen.stamp_ns - newest.stamp_ns
        if ahead_ns < 0:
            self._late_in_a_row += 1
            if -ahead_ns > self._late_ns or self._late_in_a_row >= _LATE_IN_A_ROW:
                return Discontinuity.BACKWARD_STAMP
        return Discontinuity.GAP if ahead_ns > self._gap_ns else None

    def _take_request(self) -> Discontinuity | None:
        with self._lock:
            requested, self._requested = self._requested, None
        return requested


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a frame for the next comparison."""

    shape: tuple[int, ...]
    stamp_ns: int
    frame_id: str
