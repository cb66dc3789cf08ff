"""Measures of a segmentation, each from counts over a whole set."""

from lmanet_core.metrics.confusion import ConfusionMatrix
from lmanet_core.metrics.temporal import FlowMatcher, Matches, Steadiness, VideoConsistency

__all__ = ["ConfusionMatrix", "FlowMatcher", "Matches", "Steadiness", "VideoConsistency"]
