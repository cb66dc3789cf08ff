"""Classes: their names, colours and groups (`label_set`), and from one set of them to another (`mapping`)."""

from lmanet_core.labels.groups import usual_groups
from lmanet_core.labels.label_set import (
    CAMVID11,
    CITYSCAPES,
    UNLABELLED,
    LabelSet,
    distinct_colors,
    list_label_sets,
    nameless_labels,
    read_label_set,
)

__all__ = [
    "CAMVID11",
    "CITYSCAPES",
    "UNLABELLED",
    "LabelSet",
    "distinct_colors",
    "list_label_sets",
    "nameless_labels",
    "read_label_set",
    "usual_groups",
]
