"""One camera: what arrives from it, its stream through the network, and what is published of it.

Threads: the executor's thread makes it, subscribes, fills `calibration` and the mailbox; the worker calls `process`. Both only
while the node is active; before and after, everything belongs to the executor's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from sensor_msgs.msg import CompressedImage, Image

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.frame import Blindness, FrameResult
from lmanet_core.geometry import CameraInfo
from lmanet_core.media.pixels import SampleDepth
from lmanet_core.media.stamps import StampSource
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.runtime import Runtime
from lmanet_ros.conversions import rgb_from_image, stamp_ns
from lmanet_ros.parameters import Settings
from lmanet_ros.publishers import CameraPublishers
from lmanet_ros.reset_log import ResetLog
from lmanet_ros.statistics import Statistics

if TYPE_CHECKING:
    from rclpy.node import Node

_WARN_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image as it came.

    Attributes:
        message: untouched.
        receive_s: when, on the steady clock.
    """

    message: Image | CompressedImage
    receive_s: float


class Camera:
    """See the module.

    Args:
        node: for publishers, clock and log.
        name: prefix of its topics; empty where there is only one camera.
        runtime: the network, shared by all cameras.
        settings: at the time of configuring.
    """

    def __init__(self, node: Node, name: str, runtime: Runtime, settings: Settings) -> None:
        self.name = name
        self.prefix = f"{name}/" if name else ""
        self.statistics = Statistics()
        self.calibration: CameraInfo | None = None  # the newest; a reference, written and read whole
        has_memory = runtime.config.memory is not None
        config = replace(settings.segmenter, memory=settings.segmenter.memory and has_memory)
        self.segmenter = VideoSegmenter(runtime, config)
        self.publishers = CameraPublishers(node, self.prefix, runtime.config.labels, settings.output_prefix)
        self._node = node
        self._log = node.get_logger()
        self._has_memory = has_memory
        self._last_warned_s = -_WARN_EVERY_S
        self._stamps = StampSource()
        self._depth = SampleDepth(config.bits, lambda sentence: self._log.warning(f"{self._named()}{sentence}"))
        self._resets = ResetLog(lambda text: self._log.info(f"{self._named()}{text}"))
        self._blind: Blindness | None = None  # of the last frame
        self._said: set[str] = set()  # what is said once

    def restart(self) -> None:
        """Forget the stream; the next image is a first one."""
        self.segmenter.reset()
        self.statistics.restart()
        self._stamps = StampSource()
        self._blind = None
        self.calibration = None

    def process(self, arrival: Arrival, settings: Settings) -> None:
        """Segment an image and publish what is due. Worker only; whatever is wrong with the image is said and counted."""
        start = time.perf_counter()
        waited_ms = (time.monotonic() - arrival.receive_s) * 1e3
        header = arrival.message.header
        given = stamp_ns(header)
        if settings.max_input_age_s and given and self._age_s(given) > settings.max_input_age_s:
            count = self.statistics.count_lost("too_old")
            self._warn(f"image dropped, {self._age_s(given):.2f} s old (max_input_age_s; {count} so far)")
            return
        try:
            image = rgb_from_image(arrival.message, self._depth)
            converted = time.perf_counter()
            stamp = self._make_good(given, arrival, image)
            due = self.publishers.due(settings.max_rate_hz)
            result = self._segment(image, stamp, header.frame_id, due, settings)
        except InputError as error:
            count = self.statistics.count_lost("bad")
            self._warn(f"image not usable: {error} ({count} so far)")
            return
        segmented = time.perf_counter()
        try:
            self.publishers.publish(due, header, image, result, self._calibration_for(result), settings)
        except rclpy_implementation.RCLError as error:  # of the middleware; the memory has nothing to do with it
            count = self.statistics.count_lost("failed")
            self._warn(f"frame not published: {error} ({count} so far)", self._log.error)
            return
        laps = {
            "wait": waited_ms,
            "convert": (converted - start) * 1e3,
            **{stage: milliseconds for stage, milliseconds in result.timings_ms.items() if stage != "total"},
            "segment": (segmented - converted) * 1e3,
            "publish": (time.perf_counter() - segmented) * 1e3,
        }
        self._count(result, laps, arrival.receive_s, given if stamp == given else None)

    def fail(self, error: Exception) -> None:
        """Something went wrong that is no image's fault: count it, say it, begin the stream anew. Worker only."""
        count = self.statistics.count_lost("failed")
        self._warn(f"frame lost: {_explain(error)} ({count} so far)", self._log.error)
        self.segmenter.reset()

    def _segment(self, image: UInt8Array, stamp: int, frame_id: str, due: Collection[str], settings: Settings) -> FrameResult:
        segmenter = self.segmenter
        wanted = settings.segmenter.memory and self._has_memory
        if segmenter.memory_enabled != wanted:
            segmenter.memory_enabled = wanted
            self._log.info(f"{self._named()}memory switched {'on' if wanted else 'off'}")
        strength = settings.segmenter.label_strength
        if segmenter.label_strength != strength:
            segmenter.label_strength = strength
            self._log.info(f"{self._named()}label memory {f'at strength {strength:g}' if strength else 'switched off'}")
        takes_labels = any(topic != "camera_info" for topic in due)
        result = segmenter.step(image, stamp, frame_id, labels=takes_labels, confidence="confidence" in due)
        if result.discontinuity is not None and (wanted or strength):
            self._resets.add(result.discontinuity.value, stamp)
        if result.blind is not self._blind:
            self._say_blind(result.blind, stamp)
        return result

    def _say_blind(self, blind: Blindness | None, stamp: int) -> None:
        """A line at each end."""
        self._blind = blind
        if blind is None:
            self._log.info(f"{self._named()}the camera sees again at stamp {stamp / 1e9:.3f}")
        else:
            since = f"from stamp {stamp / 1e9:.3f} on"
            self._log.warning(f"{self._named()}the camera sees nothing {since}: the picture is {blind.value}")

    def _count(self, result: FrameResult, laps_ms: dict[str, float], receive_s: float, stamp: int | None) -> None:
        """A frame is done.

        Args:
            result: of the segmenter.
            laps_ms: wall time by stage.
            receive_s: when the image came, on the steady clock.
            stamp: the driver's; None where it tells nothing.
        """
        since_received_s = time.monotonic() - receive_s
        age_s = since_received_s if stamp is None else self._age_s(stamp)
        fed = not result.labels.size
        if fed:
            laps_ms["feed"] = laps_ms.pop("segment")
            del laps_ms["publish"]
        else:
            laps_ms["receive_to_publish"] = since_received_s * 1e3
            laps_ms |= {} if stamp is None else {"stamp_to_publish": age_s * 1e3}
        self.statistics.count_done(
            laps_ms,
            age_s=age_s,
            memory_frames=result.memory_frames,
            reset=result.discontinuity.value if result.discontinuity else None,
            remembered=result.remembered or not self.segmenter.memory_enabled,
            fed=fed,
            blind=result.blind.value if result.blind else None,
        )

    def _make_good(self, given: int, arrival: Arrival, image: UInt8Array) -> int:
        """The stamp to go by, see `StampSource`; received is told on a clock that never jumps."""
        stamp = self._stamps.stamp_ns(given, round(arrival.receive_s * 1e9), image)
        for found, problem in (
            (self._stamps.zero, "images have no stamp"),
            (self._stamps.standing, "stamps stand still while the images change"),
        ):
            if found and problem not in self._said:
                self._said.add(problem)
                self._log.warning(f"{self._named()}{problem}; the time of receiving decides about the memory")
        return stamp

    def _calibration_for(self, result: FrameResult) -> CameraInfo | None:
        calibration = self.calibration
        if calibration is None:
            return None
        size = result.geometry.camera_size
        of_image = calibration.for_image(size)
        if of_image is None and "calibration" not in self._said:
            self._said.add("calibration")
            self._log.warning(
                f"{self._named()}camera_info is for {calibration.width}x{calibration.height} (before region of interest and "
                f"binning), the images are {size}; segmentation/camera_info is not published until they agree"
            )
        return of_image

    def _age_s(self, stamp: int) -> float:
        return float(self._node.get_clock().now().nanoseconds - stamp) / 1e9

    def _warn(self, text: str, say: Callable[[str], Any] | None = None) -> None:
        """Once in a while; the counts in the diagnostics have them all."""
        now = time.monotonic()
        if now - self._last_warned_s >= _WARN_EVERY_S:
            self._last_warned_s = now
            (say or self._log.warning)(f"{self._named()}{text}")

    def _named(self) -> str:
        return f"{self.name}: " if self.name else ""


def _explain(error: Exception) -> str:
    text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return f"{text}; try a smaller network_size or output_size, or precision fp16"
    return text
