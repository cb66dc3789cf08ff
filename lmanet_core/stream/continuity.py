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
from collections import deque
from dataclasses import dataclass

from lmanet_core.arrays import UInt8Array
from lmanet_core.frame import Blindness, Discontinuity
from lmanet_core.settings import check_settings, setting
from lmanet_core.stream.blindness import BlindnessDetector, overexposed_share, textureless
from lmanet_core.stream.likeness import Glimpse, glimpse, sample
from lmanet_core.stream.scene_cut import SceneCutDetector

_LATE_IN_A_ROW = 3  # so many older stamps are not stragglers: the clock itself stepped back a little
_INTERVALS = 9  # between frames, that tell what is usual for the stream …
_NOT_LONGER = 0.7  # share of them; a stream that drops frames again and again is a slower one
_LEAST_INTERVALS = 3  # … once there are so many; until then …
_UNKNOWN_GAP_NS = 1_000_000_000  # … this is a gap
_OVEREXPOSED = 0.8  # share of the picture that is as bright as can be: a flash, which is not remembered …
_FLASH_NS = 1_000_000_000  # … unless it lasts longer than this and is how the scene looks
_NEW_CAMERA = (Discontinuity.FIRST_FRAME, Discontinuity.SIZE_CHANGE, Discontinuity.FRAME_ID_CHANGE)


@dataclass(frozen=True)
class ContinuityConfig:
    """When a frame no longer goes on from the one before.

    Raises:
        ConfigError: a value out of its range or of the wrong type.
    """

    gap_intervals: float = setting(
        2.5, "A stamp more than so many frame intervals ahead clears the memory: the stream's own, or those trained with.",
        low=1.0, high=1000.0,
    )  # fmt: skip
    gap_s: float | None = setting(
        None, "A stamp more than this ahead clears the memory; 0: as gap_intervals says.",
        unit="s", low=0.0, option="gap", unset=0.0,
    )  # fmt: skip
    late_s: float = setting(
        0.1, "A stamp up to this much older is late; a still older one clears.", unit="s", low=0.0, high=3600.0, option="late"
    )
    scene_cut: bool = setting(True, "Clear the memory when the picture changes abruptly.")
    scene_cut_similarity: float = setting(0.66, "Frames that resemble each other more are never a cut.", low=0.0, high=1.0)
    scene_cut_margin: float = setting(0.15, "How far below the usual similarity a cut must lie.", low=0.0, high=1.0)

    blind: bool = setting(True, "Do not remember black, saturated, covered and frozen pictures; clear the memory after them.")
    frozen_repeats: int = setting(
        10, "A picture repeated so often, byte for byte, under new stamps is frozen; 0: never.", low=0, high=1_000_000
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.gap_s == 0:
            object.__setattr__(self, "gap_s", None)


@dataclass(frozen=True, slots=True)
class Continuity:
    """What to do with the memory for one frame.

    Attributes:
        discontinuity: why to clear the memory before this frame; None where the stream goes on.
        remember: whether this frame may enter the memory. Late, repeated and blind frames are segmented, but do not; neither
            does a flash.
        blind: why the frame shows nothing; None where it does. The past has nothing to say about it.
        stale: the stream goes on in its own rhythm, but frames are farther apart than the weights of a feature memory know;
            what that memory holds is of no use.
    """

    discontinuity: Discontinuity | None
    remember: bool
    blind: Blindness | None = None
    stale: bool = False


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
    7. BLIND, FROZEN: the first frame that shows something after frames that did not, see `blindness`. Those are never
       remembered; they carry what is wrong with them.
    8. GAP: newer by more than `gap_s`, or by more than `gap_intervals` frame intervals: what is usual in the stream (seven in
       ten of the last nine are no longer), or what the weights were trained with where that is longer, or where no interval
       is usual yet; 1 s where neither is known. Or frames in between were recorded and are lost.
    9. SCENE_CUT: the images say so, see `scene_cut`.

    After a discontinuity the frame is the one that the next is compared with.

    Args:
        config: thresholds.
        interval_s: between the frames that the memory was trained with, seconds; None where nobody knows.
    """

    def __init__(self, config: ContinuityConfig | None = None, interval_s: float | None = None) -> None:
        self.config = config or ContinuityConfig()
        self._interval_ns = None if interval_s is None else interval_s * 1e9
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._late_ns = round(self.config.late_s * 1e9)
        self._cuts: SceneCutDetector | None = None
        if self.config.scene_cut:
            self._cuts = SceneCutDetector(self.config.scene_cut_similarity, self.config.scene_cut_margin)
        self._blindness = BlindnessDetector(self.config.frozen_repeats) if self.config.blind else None
        self._lock = threading.Lock()
        self._requested: tuple[Discontinuity, int | None] | None = None  # cause, clock; under _lock
        self._newest: _Seen | None = None
        self._blind: Blindness | None = None  # the newest
        self._exposed_ns = 0  # stamp of the newest that is no flash
        self._late_in_a_row = 0

    @property
    def gap_ns(self) -> float:
        """How far a stamp may be ahead now, nanoseconds."""
        if self.config.gap_s is not None:
            return self.config.gap_s * 1e9
        if len(self._intervals) < _LEAST_INTERVALS:
            return self._trained_gap_ns if self._interval_ns is not None else _UNKNOWN_GAP_NS
        usual_ns = sorted(self._intervals)[int(_NOT_LONGER * len(self._intervals))]
        return self.config.gap_intervals * max(usual_ns, self._interval_ns or 0.0)

    @property
    def _trained_gap_ns(self) -> float:
        """From where on a feature memory knows nothing of the time that has passed, nanoseconds."""
        if self._interval_ns is None or self.config.gap_s is not None:
            return math.inf
        return self.config.gap_intervals * self._interval_ns

    def request(self, cause: Discontinuity, clock_ns: int | None = None) -> None:
        """Have the next checked frame clear the memory. Any thread.

        Args:
            cause: MANUAL or CLOCK_JUMP; everything else is found by `check`.
            clock_ns: of CLOCK_JUMP, where the clock jumped to. Where the newest frame does not lie ahead of that, time goes on
                for the stream, and nothing is cleared.

        Raises:
            ValueError: another cause.
        """
        if cause not in (Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP):
            raise ValueError(f"only MANUAL and CLOCK_JUMP can be requested, got {cause.name}")
        with self._lock:
            if self._requested is None or self._requested[1] is not None:  # what clears for certain is kept
                self._requested = cause, clock_ns

    def reset(self) -> None:
        """Forget the stream; the next frame is a first frame, which also answers a pending request."""
        self._newest = None
        self._intervals.clear()

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
        newest = self._newest
        discontinuity = self._compare(seen, requested)
        if discontinuity is None and after_loss:
            discontinuity = Discontinuity.GAP
        samples = sample(image)
        if samples is image:  # which is the caller's to reuse
            samples = image.copy()
        now = glimpse(samples)
        if discontinuity is None and newest is not None and stamp_ns <= newest.stamp_ns:
            return Continuity(None, remember=False, blind=textureless(now) if self.config.blind else None)
        self._late_in_a_row = 0
        elapsed_s = 0.0
        if newest is not None and stamp_ns > newest.stamp_ns:
            self._intervals.append(stamp_ns - newest.stamp_ns)
            elapsed_s = (stamp_ns - newest.stamp_ns) * 1e-9
        self._newest = seen
        stale = elapsed_s * 1e9 > self._trained_gap_ns
        blind, discontinuity = self._look(image, now, discontinuity)
        shows = blind is None and not self._is_flash(now, stamp_ns, discontinuity)
        if self._cuts is not None:
            if discontinuity is not None:
                self._cuts.reset()
            if not shows:
                self._cuts.pass_over(elapsed_s)
            elif self._cuts.is_cut(now, elapsed_s):
                discontinuity = Discontinuity.SCENE_CUT
        return Continuity(discontinuity, remember=shows, blind=blind, stale=stale and discontinuity is None)

    def _look(
        self, image: UInt8Array, now: Glimpse, discontinuity: Discontinuity | None
    ) -> tuple[Blindness | None, Discontinuity | None]:
        """What is wrong with the picture, and the discontinuity once that is known."""
        if self._blindness is None:
            return None, discontinuity
        if discontinuity in _NEW_CAMERA:
            self._blindness.reset()
        before, self._blind = self._blind, self._blindness.look(image, now)
        sees_again = before is not None and self._blind is None and discontinuity in (None, Discontinuity.GAP)
        if sees_again:
            discontinuity = Discontinuity.FROZEN if before is Blindness.FROZEN else Discontinuity.BLIND
        return self._blind, discontinuity

    def _is_flash(self, now: Glimpse, stamp_ns: int, discontinuity: Discontinuity | None) -> bool:
        if not self.config.blind:
            return False
        overexposed = discontinuity is None and overexposed_share(now) > _OVEREXPOSED
        if not overexposed:
            self._exposed_ns = stamp_ns
        return overexposed and stamp_ns - self._exposed_ns <= _FLASH_NS

    def _compare(self, seen: _Seen, requested: tuple[Discontinuity, int | None] | None) -> Discontinuity | None:
        """Every rule that does not look at the picture, in their order; counts late frames."""
        newest = self._newest
        if newest is None:
            return Discontinuity.FIRST_FRAME
        if requested is not None:
            cause, clock_ns = requested
            if clock_ns is None or newest.stamp_ns > clock_ns:
                return cause
        if seen.shape != newest.shape:
            return Discontinuity.SIZE_CHANGE
        if seen.frame_id != newest.frame_id:
            return Discontinuity.FRAME_ID_CHANGE
        ahead_ns = seen.stamp_ns - newest.stamp_ns
        if ahead_ns < 0:
            self._late_in_a_row += 1
            if -ahead_ns > self._late_ns or self._late_in_a_row >= _LATE_IN_A_ROW:
                return Discontinuity.BACKWARD_STAMP
        return Discontinuity.GAP if ahead_ns > self.gap_ns else None

    def _take_request(self) -> tuple[Discontinuity, int | None] | None:
        with self._lock:
            requested, self._requested = self._requested, None
        return requested


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a frame for the next comparison."""

    shape: tuple[int, ...]
    stamp_ns: int
    frame_id: str
