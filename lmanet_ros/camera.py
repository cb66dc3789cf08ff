"""One camera: what arrives from it, its stream through the network, and what is published of it.

Threads: the executor's thread makes it, subscribes, fills `calibration` and the mailbox; the worker calls `process`. Both only
while the node is active; before and after, everything belongs to the executor's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from sensor_msgs.msg import CompressedImage, Image

from lmanet_core.errors import InputError
from lmanet_core.frame import FrameResult
from lmanet_core.geometry import CameraInfo
from lmanet_core.runtime import Runtime
from lmanet_core.segmenter import VideoSegmenter
from lmanet_ros.conversions import rgb_from_image, stamp_ns
from lmanet_ros.parameters import Settings
from lmanet_ros.publishers import CameraPublishers
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
        self.publishers = CameraPublishers(node, self.prefix, runtime.config.labels)
        self._node = node
        self._log = node.get_logger()
        self._has_memory = has_memory
        self._with_confidence = replace(config, confidence=True)
        self._without_confidence = replace(config, confidence=False)
        self._last_warned_s = -_WARN_EVERY_S
        self._warned_zero_stamp = False
        self._warned_calibration = False

    def restart(self) -> None:
        """Forget the stream; the next image is a first one."""
        self.segmenter.reset()
        self.statistics.restart()
        self.calibration = None

    def process(self, arrival: Arrival, settings: Settings) -> None:
        """Segment an image and publish what is wanted. Worker only; whatever is wrong with the image is said and counted."""
        start = time.perf_counter()
        waited_ms = (time.monotonic() - arrival.receive_s) * 1e3
        header = arrival.message.header
        stamp = stamp_ns(header)
        if settings.max_input_age_s and stamp and self._age_s(stamp) > settings.max_input_age_s:
            count = self.statistics.count_lost("too_old")
            self._warn(f"image dropped, {self._age_s(stamp):.2f} s old (max_input_age_s; {count} so far)")
            return
        try:
            image = rgb_from_image(arrival.message)
            converted = time.perf_counter()
            result = self._segment(image, stamp or self._receive_stamp(arrival), header.frame_id, settings)
        except InputError as error:
            count = self.statistics.count_lost("bad")
            self._warn(f"image not usable: {error} ({count} so far)")
            return
        segmented = time.perf_counter()
        try:
            self.publishers.publish(header, image, result, self._calibration_for(image), settings)
        except rclpy_implementation.RCLError as error:  # of the middleware; the memory has nothing to do with it
            count = self.statistics.count_lost("failed")
            self._warn(f"frame not published: {error} ({count} so far)", self._log.error)
            return
        end = time.perf_counter()
        received_to_published = time.monotonic() - arrival.receive_s
        self.statistics.count_published(
            {
                "wait": waited_ms,
                "convert": (converted - start) * 1e3,
                **{stage: milliseconds for stage, milliseconds in result.timings_ms.items() if stage != "total"},
                "segment": (segmented - converted) * 1e3,
                "publish": (end - segmented) * 1e3,
                "receive_to_publish": received_to_published * 1e3,
                **({"stamp_to_publish": self._age_s(stamp) * 1e3} if stamp else {}),
            },
            age_s=self._age_s(stamp) if stamp else received_to_published,
            memory_frames=result.memory_frames,
            reset=result.discontinuity.value if result.discontinuity else None,
            remembered=result.remembered or not self.segmenter.memory_enabled,
        )

    def fail(self, error: Exception) -> None:
        """Something went wrong that is no image's fault: count it, say it, begin the stream anew. Worker only."""
        count = self.statistics.count_lost("failed")
        self._warn(f"frame lost: {_explain(error)} ({count} so far)", self._log.error)
        self.segmenter.reset()

    def _segment(self, image: Any, stamp: int, frame_id: str, settings: Settings) -> FrameResult:
        segmenter = self.segmenter
        wanted = settings.segmenter.memory and self._has_memory
        if segmenter.memory_enabled != wanted:
            segmenter.memory_enabled = wanted
            self._log.info(f"{self._named()}memory switched {'on' if wanted else 'off'}")
        subscribed = self.publishers.is_subscribed("confidence")
        segmenter.config = self._with_confidence if subscribed else self._without_confidence
        result = segmenter.step(image, stamp, frame_id)
        if result.discontinuity is not None and wanted:
            self._log.info(f"{self._named()}memory cleared: {result.discontinuity.value} at stamp {stamp / 1e9:.3f}")
        return result

    def _receive_stamp(self, arrival: Arrival) -> int:
        """For drivers that leave the stamp out: when it was received, on a clock that never jumps."""
        if not self._warned_zero_stamp:
            self._warned_zero_stamp = True
            self._log.warning(f"{self._named()}images have no stamp; the time of receiving decides about the memory")
        return round(arrival.receive_s * 1e9)

    def _calibration_for(self, image: Any) -> CameraInfo | None:
        calibration = self.calibration
        if calibration is None or (calibration.height, calibration.width) == image.shape[:2]:
            return calibration
        if not self._warned_calibration:
            self._warned_calibration = True
            self._log.warning(
                f"{self._named()}camera_info is for {calibration.width}x{calibration.height}, the images are "
                f"{image.shape[1]}x{image.shape[0]}; segmentation/camera_info is not published until they agree"
            )
        return None

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
