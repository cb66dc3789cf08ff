"""Measures of a segmentation, each from counts over a whole set."""

from lmanet_core.metrics.confusion import ConfusionMatrix

__all__ = ["ConfusionMatrix"]
