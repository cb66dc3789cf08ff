"""Class names, colours and groups, and what is drawn from a label map.

A label map is (H, W) uint8 with one class id per pixel and 255 for "unlabelled". Label maps are only ever indexed here, never
blended or interpolated; `overlay` is for people, everything else is exact.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, suggest_name
from lmanet_core.labels.groups import usual_groups
from lmanet_core.settings import read_options, refuse_unknown

UNLABELLED = 255
_SETS = Path(__file__).parent / "sets"
_KEYS = (
    "names",
    "colors",
    "groups",
    "ids",
    "ignore",
    "suffix",
    "layout",
)  # of a file; those from `ids` on are about label images


@dataclass(frozen=True)
class LabelSet:
    """The classes a network was trained on.

    Attributes:
        names: class names in the order of their ids.
        colors: one (R, G, B) of 0–255 per class; 255 (unlabelled) is always black.
        groups: named sets of classes, published as masks: `{"drivable": ("road",)}`.

    Raises:
        ConfigError: no classes or more than 255, a repeated name, colours that do not match, a group with an unknown class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= UNLABELLED:
            raise ConfigError(f"a label set has 1 to {UNLABELLED} classes, got {len(self.names)}")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ConfigError(f"class names must differ, got {', '.join(repeated)} more than once")
        if len(self.colors) != len(self.names):
            raise ConfigError(f"wanted one colour for each of {len(self.names)} classes, got {len(self.colors)}")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
                raise ConfigError(f"the colour of {name} must be three numbers of 0–255, got {color}")
        for group, members in self.groups.items():
            for member in members:
                if member not in self.names:
                    hint = suggest_name(member, self.names, "classes are")
                    raise ConfigError(f"group {group} names an unknown class {member}{hint}")
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self.colors)] = self.colors
        object.__setattr__(self, "_palette", palette)

    @property
    def palette(self) -> UInt8Array:
        """(256, 3) uint8 RGB, indexed by label; black where there is no class."""
        palette: UInt8Array = self._palette  # type: ignore[attr-defined]
        return palette

    def colorize(self, labels: UInt8Array) -> UInt8Array:
        """(H, W) labels → (H, W, 3) uint8 RGB in the exact palette colours."""
        return np.asarray(cv2.applyColorMap(labels, self.palette.reshape(256, 1, 3)), np.uint8)

    def overlay(self, image: UInt8Array, labels: UInt8Array, opacity: float = 0.5) -> UInt8Array:
        """Blend the colours over an image of the same size; unlabelled pixels keep the image.

        Args:
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8.
            opacity: share of the colour, 0–1.
        """
        if image.shape[:2] != labels.shape:
            raise ValueError(f"image and labels must have one size, got {image.shape[:2]} and {labels.shape}")
        blended = cv2.addWeighted(image, 1.0 - opacity, self.colorize(labels), opacity, 0.0)
        unlabelled = labels == UNLABELLED
        if unlabelled.any():
            blended[unlabelled] = image[unlabelled]
        return np.asarray(blended, np.uint8)

    def mask(self, labels: UInt8Array, group: str) -> UInt8Array:
        """(H, W) labels → (H, W) uint8, 255 where the class belongs to `group`, else 0."""
        return np.asarray(cv2.LUT(labels, self._mask_table(group)), np.uint8)

    def _mask_table(self, group: str) -> UInt8Array:
        if group not in self.groups:
            known = ", ".join(self.groups) or "none"
            raise ConfigError(f"no class group {group}; known groups: {known}")
        table = np.zeros(256, np.uint8)
        table[[self.names.index(name) for name in self.groups[group]]] = 255
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON and YAML."""
        return {
            "names": list(self.names),
            "colors": [list(color) for color in self.colors],
            "groups": {group: list(members) for group, members in self.groups.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSet:
        """The inverse of `to_dict`; raises ConfigError on anything that is not a label set."""
        try:
            if isinstance(data["names"], str):
                raise TypeError("names must be a list")
            return cls(
                names=tuple(str(name) for name in data["names"]),
                colors=tuple(_color(color) for color in data["colors"]),
                groups={str(g): tuple(str(m) for m in members) for g, members in data.get("groups", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"a label set has 'names', 'colors' and optional 'groups', got {data!r:.200}") from error


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes that have none: hues a golden angle apart."""
    hues = (index * 0.618034 % 1.0 for index in range(count))
    rgb = (colorsys.hsv_to_rgb(hue, 0.75, 0.55 + 0.4 * (index % 2)) for index, hue in enumerate(hues))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


def nameless_labels(count: int) -> LabelSet:
    """Classes of which only the number is known."""
    return LabelSet(tuple(f"class {index}" for index in range(count)), distinct_colors(count))


def _color(color: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in color)
    return red, green, blue


_CITYSCAPES_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CAMVID_NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip

#: Cityscapes' 19 evaluation classes by trainId, in its published colours.
CITYSCAPES = LabelSet(
    names=_CITYSCAPES_NAMES,
    colors=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
        (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
        (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    groups=usual_groups(_CITYSCAPES_NAMES),
)  # fmt: skip

#: CamVid reduced to 11 classes (SegNet's order), in its published colours.
CAMVID11 = LabelSet(
    names=_CAMVID_NAMES,
    colors=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    groups=usual_groups(_CAMVID_NAMES),
)  # fmt: skip

_IN_CODE: Mapping[str, LabelSet] = {"cityscapes": CITYSCAPES, "camvid11": CAMVID11}


def list_label_sets() -> tuple[str, ...]:
    """Names of the sets that ship."""
    return (*_IN_CODE, *sorted(file.stem for file in _SETS.glob("*.yaml")))


def read_label_set(name_or_file: str | os.PathLike[str], own: LabelSet | None = None) -> LabelSet:
    """One of `list_label_sets()`, or what a YAML file says.

    Such as:

        names: [floor, wall, person]   # in the order of the ids; or one of the sets that ship; left out: those of `own`
        colors: {person: [220, 20, 60]}   # by name, or a list; left out: the set's, or made up
        groups: {drivable: [floor]}    # left out: the set's, or see `usual_groups`

    Args:
        name_or_file: a name or a path.
        own: what the classes are called so far; a file without `names` changes their colours or groups.

    Raises:
        ConfigError: no such set or file, an unknown key, or what is no label set.
    """
    name = os.fspath(name_or_file)
    if name in list_label_sets():
        return _shipped(name)
    file = Path(name).expanduser()
    if not file.is_file():
        hint = suggest_name(name, list_label_sets()) or "; no such file"
        raise ConfigError(f"a label set is {', '.join(list_label_sets())} or a YAML file, got {name!r}{hint}")
    return _read_file(file, own)


def _read_file(file: Path, own: LabelSet | None = None) -> LabelSet:
    content = read_options(file)
    refuse_unknown(file, content, _KEYS)
    try:
        return parse_label_set(content, own)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


@lru_cache
def _shipped(name: str) -> LabelSet:
    return _IN_CODE[name] if name in _IN_CODE else _read_file(_SETS / f"{name}.yaml")


def parse_label_set(content: Mapping[str, Any], own: LabelSet | None = None) -> LabelSet:
    """The set that `names`, `colors` and `groups` of a YAML file tell, see `read_label_set`.

    Raises:
        ConfigError: what is no label set.
    """
    wanted = content.get("names")
    base = read_label_set(wanted) if isinstance(wanted, str) else own if wanted is None else None
    names = base.names if base is not None else wanted
    if not isinstance(names, list | tuple) or not names:
        raise ConfigError(f"names must be a list in the order of the ids, or one of {', '.join(list_label_sets())}")
    names = [str(one) for one in names]
    colors, groups = content.get("colors"), content.get("groups")
    if isinstance(colors, Mapping) or colors is None:
        usual = base.colors if base is not None else distinct_colors(len(names))
        given = dict(zip(names, usual, strict=True))
        for class_name, color in (colors or {}).items():
            if class_name not in given:
                raise ConfigError(f"colors names an unknown class {class_name!r}; classes are {', '.join(names)}")
            given[class_name] = color
        colors = list(given.values())
    if groups is None:
        groups = usual_groups(names) if base is None else base.groups
    return LabelSet.from_dict({"names": names, "colors": colors, "groups": groups})
