"""From the ids in label images and the classes of the weights to the classes that are compared.

A mapping is a YAML file, or one of those that ship (`list_mappings`):

    classes: camvid11            # what is compared: a label set that ships (`list_label_sets`), or a list of names
    colors: [[128, 128, 128], …] # of a list of names; left out: colours are made up
    truth: {0: sky, 7: road}     # id in a label image → class; left out: ids are numbers in `classes`
    ignore: [11]                 # ids that mean void; 255 always does
    prediction: {terrain: tree}  # class of the weights → class; same names need no line
                                 # null: they have no such class, always a miss; void: they count it as void, not judged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, suggest_name
from lmanet_core.labels import UNLABELLED, LabelSet, distinct_colors, list_label_sets, read_label_set

_SHIPPED = Path(__file__).parent / "mappings"
_VOID = "void"
_KEYS = ("classes", "colors", "truth", "ignore", "prediction")


@dataclass(frozen=True)
class LabelMapping:
    """Two tables into one set of classes.

    Attributes:
        classes: what is compared.
        truth_table: (256,) uint8, id in a label image → class, 255 void.
        known: (256,) bool, ids that a label image may hold, void ones among them.
        prediction_table: (256,) uint8, id of the weights → class; 255 where there is none, which is a miss.
        void_predictions: ids of the weights that the classes count as void; where they are predicted, nothing is judged.
        name: for reports.
    """

    classes: LabelSet
    truth_table: UInt8Array
    known: npt.NDArray[np.bool_]
    prediction_table: UInt8Array
    void_predictions: tuple[int, ...] = ()
    name: str = "the weights' own ids"

    @classmethod
    def identity(cls, labels: LabelSet) -> LabelMapping:
        """Label images hold the weights' own ids."""
        table = _table({index: index for index in range(len(labels.names))})
        known = table != UNLABELLED
        known[UNLABELLED] = True
        return cls(labels, table, known, table)

    def map_truth(self, ids: UInt8Array) -> UInt8Array:
        """(H, W) ids of a label image → (H, W) classes, 255 void; ids that nothing is known of are void too."""
        return np.asarray(cv2.LUT(ids, self.truth_table), np.uint8)

    def map_prediction(self, labels: UInt8Array) -> UInt8Array:
        """(H, W) ids of the weights → (H, W) classes, 255 where there is none."""
        return np.asarray(cv2.LUT(labels, self.prediction_table), np.uint8)

    def is_void(self, labels: UInt8Array) -> npt.NDArray[np.bool_]:
        """(H, W) ids of the weights → (H, W) where the classes count what is predicted as void."""
        return np.isin(labels, self.void_predictions)


def list_mappings() -> tuple[str, ...]:
    """Names of the mappings that ship."""
    return tuple(sorted(file.stem for file in _SHIPPED.glob("*.yaml")))


def load_mapping(name_or_file: str, labels: LabelSet) -> LabelMapping:
    """Read a mapping for weights of these classes.

    Args:
        name_or_file: one of `list_mappings()`, or a YAML file.
        labels: classes of the weights.

    Raises:
        ConfigError: no such mapping, an unknown key or class, an id twice, or a class of the weights that leads nowhere.
    """
    shipped = _SHIPPED / f"{name_or_file}.yaml"
    file = shipped if shipped.is_file() else Path(name_or_file)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        wanted = f"{', '.join(list_mappings())} or a YAML file"
        raise ConfigError(f"mapping must be {wanted}, cannot read {file}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"mapping {file}: wanted 'key: value' lines, got {type(data).__name__}")
    for key in data:
        if key not in _KEYS:
            raise ConfigError(f"mapping {file}: unknown key {key!r}{suggest_name(str(key), _KEYS, 'known:')}")
    try:
        return _build(data, labels, name_or_file)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"mapping {file}: {error}") from error


def _build(data: Mapping[str, Any], labels: LabelSet, name: str) -> LabelMapping:
    classes = _read_classes(data.get("classes"), data.get("colors"))
    numbers = {class_name: number for number, class_name in enumerate(classes.names)}

    def number_of(class_name: Any) -> int:
        if class_name not in numbers:
            raise ConfigError(f"no class {class_name!r}{suggest_name(str(class_name), classes.names, 'known:')}")
        return numbers[class_name]

    given = data.get("truth")
    truth = {number: number for number in numbers.values()} if given is None else {k: number_of(v) for k, v in given.items()}
    ignore = list(data.get("ignore") or [])
    for value in (*truth, *ignore):
        if not isinstance(value, int) or not 0 <= value <= UNLABELLED:
            raise ConfigError(f"ids of label images are 0–255, got {value!r}")
    both = sorted(set(truth) & {*ignore, UNLABELLED})
    if both:
        raise ConfigError(f"id {both[0]} is a class ({classes.names[truth[both[0]]]}) and void at once")
    known = np.zeros(256, bool)
    known[[*truth, *ignore, UNLABELLED]] = True
    targets = data.get("prediction") or {}
    void = tuple(index for index, name in enumerate(labels.names) if _is_void(targets.get(name), classes))
    judged = {name: None if _is_void(target, classes) else target for name, target in targets.items()}
    prediction = _read_prediction(judged, labels, classes, number_of)
    return LabelMapping(classes, _table(truth), known, _table(prediction), void, name)


def _is_void(target: Any, classes: LabelSet) -> bool:
    return target == _VOID and _VOID not in classes.names


def _read_prediction(
    given: Mapping[str, Any], labels: LabelSet, classes: LabelSet, number_of: Callable[[Any], int]
) -> dict[int, int]:
    """Lines for classes that these weights do not have are for other weights, and checked all the same."""
    targets = {name: None if target is None else number_of(target) for name, target in given.items()}
    prediction: dict[int, int] = {}
    for index, name in enumerate(labels.names):
        if name not in targets and name not in classes.names:
            raise ConfigError(
                f"class {name!r} of the weights leads nowhere: name it under prediction, as one of "
                f"{', '.join(classes.names)}, null where it is always a miss, or void where it is not judged"
            )
        number = targets[name] if name in targets else number_of(name)
        if number is not None:
            prediction[index] = number
    return prediction


def _read_classes(wanted: Any, colors: Any) -> LabelSet:
    if isinstance(wanted, str) and wanted in list_label_sets():
        return read_label_set(wanted)
    if not isinstance(wanted, list) or not wanted:
        raise ConfigError(f"classes must be {', '.join(list_label_sets())} or a list of names, got {wanted!r}")
    if colors is None:
        colors = distinct_colors(len(wanted))
    return LabelSet.from_dict({"names": wanted, "colors": colors})


def _table(entries: Mapping[int, int]) -> UInt8Array:
    table = np.full(256, UNLABELLED, np.uint8)
    for index, value in entries.items():
        table[index] = value
    return table
