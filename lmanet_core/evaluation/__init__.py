"""Evaluation of recordings: accuracy, steadiness, latency, resets, and a verdict, by the code that runs on the robot."""

from lmanet_core.evaluation.mapping import LabelMapping, list_mappings, load_mapping
from lmanet_core.evaluation.measures import FrameScores, Measures
from lmanet_core.evaluation.motion import PairMatcher

__all__ = ["FrameScores", "LabelMapping", "Measures", "PairMatcher", "list_mappings", "load_mapping"]
