"""From the ids in label images and the classes of the weights to the classes that are compared.

A mapping is a YAML file, or one of those that ship (`list_mappings`):

    classes: camvid11            # what is compared, and what label images hold: `names` or `classes`, `colors`, `ids`, `ignore`
    ids: {0: sky, 7: road}       # as in labels.yaml, see `lmanet_core.labels.encoding`
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
from lmanet_core.labels import UNLABELLED, LabelSet
from lmanet_core.labels.encoding import KEYS, LabelEncoding, read_encoding

_SHIPPED = Path(__file__).parent / "mappings"
_VOID = "void"
_KEYS = (*KEYS, "prediction")


@dataclass(frozen=True)
class LabelMapping:
    """Two tables into one set of classes.

    Attributes:
        encoding: what label images hold.
        prediction_table: (256,) uint8, id of the weights → class; 255 where there is none, which is a miss.
        void_predictions: ids of the weights that the classes count as void; where they are predicted, nothing is judged.
        name: for reports.
    """

    encoding: LabelEncoding
    prediction_table: UInt8Array
    void_predictions: tuple[int, ...] = ()
    name: str = "the weights' own ids"

    @classmethod
    def identity(cls, labels: LabelSet) -> LabelMapping:
        """Label images hold the weights' own ids."""
        own = LabelEncoding.identity(labels)
        return cls(own, own.table)

    @property
    def classes(self) -> LabelSet:
        """What is compared."""
        return self.encoding.classes

    @property
    def truth_table(self) -> UInt8Array:
        """(256,) uint8, id in a label image → class, 255 void."""
        return self.encoding.table

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(256,) bool, ids that a label image may hold, void ones among them."""
        return self.encoding.known

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


def shipped_file(name: str) -> Path:
    """The file of a mapping that ships; it may not be there."""
    return _SHIPPED / f"{name}.yaml"


def load_mapping(name_or_file: str, labels: LabelSet) -> LabelMapping:
    """Read a mapping for weights of these classes.

    Args:
        name_or_file: one of `list_mappings()`, or a YAML file.
        labels: classes of the weights.

    Raises:
        ConfigError: no such mapping, an unknown key or class, an id twice, or a class of the weights that leads nowhere.
    """
    shipped = shipped_file(name_or_file)
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
    encoding = read_encoding(data)
    classes = encoding.classes
    numbers = {class_name: number for number, class_name in enumerate(classes.names)}

    def number_of(class_name: Any) -> int:
        if class_name not in numbers:
            raise ConfigError(f"no class {class_name!r}{suggest_name(str(class_name), classes.names, 'known:')}")
        return numbers[class_name]

    targets = data.get("prediction") or {}
    void = tuple(index for index, name in enumerate(labels.names) if _is_void(targets.get(name), classes))
    judged = {name: None if _is_void(target, classes) else target for name, target in targets.items()}
    prediction = _read_prediction(judged, labels, classes, number_of)
    return LabelMapping(encoding, _table(prediction), void, name)


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


def _table(entries: Mapping[int, int]) -> UInt8Array:
    table = np.full(256, UNLABELLED, np.uint8)
    for index, value in entries.items():
        table[index] = value
    return table
