"""Evaluation of recordings: accuracy, steadiness, latency, resets, and a verdict, by the code that runs on the robot."""

from lmanet_core.evaluation.flow import PairMatcher
from lmanet_core.evaluation.measures import FrameScores, Measures
from lmanet_core.label_mapping import LabelMapping, list_mappings, load_mapping

__all__ = ["FrameScores", "LabelMapping", "Measures", "PairMatcher", "list_mappings", "load_mapping"]
