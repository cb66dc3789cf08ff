"""Results as a ROS 2 bag (MCAP) with the topics that the node publishes; needs no ROS installation."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, suggest_name
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import LabelSet
from lmanet_core.media.bag_writer import LATCHED_QOS, BagWriter
from lmanet_core.media.sinks import ClosingSink, safe_name

_LOGGER = logging.getLogger(__name__)

BAG_TOPICS = ("labels", "color", "overlay", "confidence", "masks", "label_info", "camera_info")
CONFIDENCE_TOPIC = "/segmentation/confidence"  # of a single camera
DEFAULT_BAG_TOPICS = ("labels", "color", "confidence", "masks", "label_info", "camera_info")


class ResultBagSink(ClosingSink):
    """A ROS 2 bag of results; header and time of every message are the frame's own.

    Args:
        path: the bag's folder; must not exist, a bag is never overwritten.
        label_set: class names for label_info, colours, groups.
        topics: which of `BAG_TOPICS` to write. Confidence and camera_info are left out where a result has none.
        prefix: what goes before `segmentation/…`, for instance "/front/".

    Raises:
        ConfigError: an unknown topic.
        OutputError: the path exists or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        topics: Collection[str] = DEFAULT_BAG_TOPICS,
        prefix: str = "/",
    ) -> None:
        for topic in topics:
            if topic not in BAG_TOPICS:
                hint = suggest_name(topic, BAG_TOPICS)
                raise ConfigError(f"topics of a result bag are {', '.join(BAG_TOPICS)}, got {topic!r}{hint}")
        self.path = Path(path)
        self._label_set = label_set
        self._topics = frozenset(topics)
        self._prefix = f"{prefix.rstrip('/')}/segmentation/"
        self._bag = BagWriter(self.path)
        self._warned_calibration = False

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`. label_info goes in once, before the first labels."""
        stamp_ns, frame_id = result.stamp_ns, result.frame_id
        info_topic = self._prefix + "label_info"
        if "label_info" in self._topics and not self._bag.has(info_topic):
            self._bag.put(info_topic, self._bag.label_info(self._label_set, stamp_ns, frame_id), stamp_ns, LATCHED_QOS)
        if "labels" in self._topics:
            self._put_image("labels", result.labels, result)
        if "color" in self._topics:
            self._put_image("color", self._label_set.colorize(result.labels), result)
        if "overlay" in self._topics:
            image = result.geometry.image_to_output(frame.image)
            self._put_image("overlay", self._label_set.overlay(image, result.labels), result)
        if "confidence" in self._topics and result.confidence is not None:
            self._put_image("confidence", result.confidence, result)
        if "masks" in self._topics:
            for group in self._label_set.groups:
                self._put_image(f"mask/{safe_name(group)}", self._label_set.mask(result.labels, group), result)
        if "camera_info" in self._topics and frame.camera_info is not None:
            self._put_camera_info(frame.camera_info, result)

    def close(self) -> None:
        """See `ResultSink`; writes the index and metadata.yaml."""
        self._bag.close()

    def _put_camera_info(self, calibration: CameraInfo, result: FrameResult) -> None:
        of_image = calibration.for_image(result.geometry.camera_size)
        if of_image is None:
            if not self._warned_calibration:
                _LOGGER.warning(
                    "%s: camera_info is for %dx%d (before region of interest and binning), the images are %s; it is left out",
                    self.path, calibration.width, calibration.height, result.geometry.camera_size,
                )  # fmt: skip
            self._warned_calibration = True
            return
        info = result.geometry.scale_camera_info(of_image)
        message = self._bag.camera_info(info, result.stamp_ns, result.frame_id)
        self._bag.put(self._prefix + "camera_info", message, result.stamp_ns)

    def _put_image(self, name: str, pixels: UInt8Array, result: FrameResult) -> None:
        message = self._bag.image(pixels, result.stamp_ns, result.frame_id)
        self._bag.put(self._prefix + name, message, result.stamp_ns)
