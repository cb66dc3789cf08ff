"""Classes: their names, colours and groups (`label_set`), and from one set of them to another (`mapping`)."""

from lmanet_core.labels.label_set import CAMVID11, CITYSCAPES, UNLABELLED, LabelSet, distinct_colors, nameless_labels

__all__ = ["CAMVID11", "CITYSCAPES", "UNLABELLED", "LabelSet", "distinct_colors", "nameless_labels"]
