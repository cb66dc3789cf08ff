"""Frames in, results out: videos, images, ROS 1 and ROS 2 bags, cameras, streams, PNGs; needs no ROS installation."""

from lmanet_core.media.bag_sink import BAG_TOPICS, DEFAULT_BAG_TOPICS, ResultBagSink
from lmanet_core.media.output import SINK_KINDS, check_sink_kinds, open_sinks
from lmanet_core.media.pixels import decode_image, to_rgb
from lmanet_core.media.reader import open_frames
from lmanet_core.media.ros_images import camera_info_from_message, image_from_compressed_message, image_from_message
from lmanet_core.media.sinks import CompositeSink, LabelPngSink, MaskPngSink, ResultSink
from lmanet_core.media.source import FrameSource
from lmanet_core.media.video_sink import PictureSink, VideoSink

__all__ = [
    "BAG_TOPICS",
    "DEFAULT_BAG_TOPICS",
    "SINK_KINDS",
    "CompositeSink",
    "FrameSource",
    "LabelPngSink",
    "MaskPngSink",
    "PictureSink",
    "ResultBagSink",
    "ResultSink",
    "VideoSink",
    "camera_info_from_message",
    "check_sink_kinds",
    "decode_image",
    "image_from_compressed_message",
    "image_from_message",
    "open_frames",
    "open_sinks",
    "to_rgb",
]
