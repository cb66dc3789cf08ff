"""Measures of a segmentation, each from counts over a whole set."""

from lmanet_core.metrics.confusion import ConfusionMatrix
from lmanet_core.metrics.temporal import Flicker, FlowMatcher, Matches, TemporalConsistency, VideoConsistency

__all__ = ["ConfusionMatrix", "Flicker", "FlowMatcher", "Matches", "TemporalConsistency", "VideoConsistency"]
