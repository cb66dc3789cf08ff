"""Evaluation of recordings: accuracy, steadiness, latency, resets, and a verdict, by the code that runs on the robot."""

from lmanet_core.evaluation.flow import PairMatcher
from lmanet_core.evaluation.measures import FrameScores, Measures
from lmanet_core.evaluation.report import Report
from lmanet_core.evaluation.run import EvaluationConfig, evaluate

__all__ = ["EvaluationConfig", "FrameScores", "Measures", "PairMatcher", "Report", "evaluate"]
