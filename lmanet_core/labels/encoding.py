"""What the values of label images mean, said once for training and evaluation.

The same lines stand in `labels.yaml` of a training set, in a mapping of `lmanet evaluate` and in the sets that ship:

    names: [road, person]           # or {0: road, 1: person}, by id; `classes` is the same; or a set that ships
    colors: [[128, 64, 128], …]     # one for each class, in their order, or {road: [128, 64, 128]}; left out: made up
    ids: {7: road, "#dc143c": person}   # value in a label image → class: a number, or a colour of colour-coded images
    ignore: [0, "#000000"]          # values that mean void; 255 does, unless `ids` gives it a class

    suffix: _gtFine_labelIds        # behind the names of such label images, where one image has several
    layout: …                       # of data sets that ship: where their images and label images are, see `data.named_sets`

Without `ids` a value is the number of its class. Colour-coded images are understood by the colours of the classes, too.
`truth` is an older word for `ids`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, suggest_name
from lmanet_core.labels.label_set import UNLABELLED, LabelSet, list_label_sets, parse_label_set

KEYS = ("names", "classes", "colors", "groups", "ids", "truth", "ignore", "suffix", "layout")
_BLACK = 0


@dataclass(frozen=True)
class LabelEncoding:
    """From values of label images to classes.

    Attributes:
        classes: what the values mean.
        table: (256,) uint8, id in a label image → class, 255 void.
        known: (256,) bool, ids that a label image may hold, void ones among them.
        colors: colour of a colour-coded image, as 0xRRGGBB → an id that `table` takes.
        suffix: what stands behind the names of these label images; empty where nothing is said.
    """

    classes: LabelSet
    table: UInt8Array
    known: npt.NDArray[np.bool_]
    colors: Mapping[int, int] = field(default_factory=dict)
    suffix: str = ""

    @classmethod
    def identity(cls, classes: LabelSet) -> LabelEncoding:
        """Ids are the numbers of the classes."""
        return _encode(classes, {number: number for number in range(len(classes.names))}, {}, [], [])


def read_encoding(content: Mapping[str, Any]) -> LabelEncoding:
    """The encoding that a YAML file tells, of whose keys only `KEYS` are looked at.

    Raises:
        ConfigError: no classes, a class that there is not, a value that is neither an id nor a colour, or one that is a class
            and void at once.
    """
    for one, other in (("names", "classes"), ("ids", "truth")):
        if content.get(one) is not None and content.get(other) is not None:
            raise ConfigError(f"{one} and {other} are the same; leave one of them out")
    given = content.get("ids", content.get("truth"))
    classes, by_name = _read_classes(content)
    numbers = {name: number for number, name in enumerate(classes.names)}
    if given is None:
        given = by_name
    if not isinstance(given, Mapping):
        raise ConfigError(f"ids must be lines such as '7: road', got {given!r:.100}")
    ids: dict[int, int] = {}
    colors: dict[int, int] = {}
    for value, name in given.items():
        if name not in numbers:
            raise ConfigError(f"no class {name!r}{suggest_name(str(name), classes.names, 'known:')}")
        color = _read_color(value)
        (ids if color is None else colors)[_id(value) if color is None else color] = numbers[name]
    if not ids:  # colours alone: an id is the number of its class
        ids = {number: number for number in numbers.values()}
    ignore = content.get("ignore") or []
    if not isinstance(ignore, list):
        raise ConfigError(f"ignore must be a list of ids of 0–{UNLABELLED} or colours, got {ignore!r:.100}")
    void_colors = [color for value in ignore if (color := _read_color(value)) is not None]
    void_ids = [_id(value) for value in ignore if _read_color(value) is None]
    for value in (*void_ids, *void_colors):
        taken = ids if value in void_ids else colors
        if value in taken:
            raise ConfigError(f"id {value} is a class ({classes.names[taken[value]]}) and void at once")
    encoding = _encode(classes, ids, colors, void_ids, void_colors)
    return replace(encoding, suffix=str(content.get("suffix") or ""))


def _encode(
    classes: LabelSet, ids: Mapping[int, int], colors: Mapping[int, int], void_ids: list[int], void_colors: list[int]
) -> LabelEncoding:
    table, known = np.full(256, UNLABELLED, np.uint8), np.zeros(256, bool)
    for value, number in ids.items():
        table[value] = number
    known[[*ids, *void_ids, UNLABELLED]] = True
    first = {number: value for value, number in sorted(ids.items(), reverse=True)}
    free = (value for value in range(UNLABELLED) if not known[value])
    for number in sorted(set(colors.values()) - set(first)):  # a class that only a colour leads to
        first[number] = next(free)
        table[first[number]], known[first[number]] = number, True
    void = next((value for value in range(UNLABELLED, -1, -1) if known[value] and table[value] == UNLABELLED), -1)
    if void < 0:  # 255 is a class, and nothing is void but unknown colours
        void = next(free)
        known[void] = True
    of_classes = {_pack(color): first[number] for number, color in enumerate(classes.colors) if number in first}
    packed = {_BLACK: void, **dict.fromkeys(void_colors, void), **of_classes}
    packed |= {color: first[number] for color, number in colors.items()}
    packed |= dict.fromkeys(void_colors, void)
    return LabelEncoding(classes, table, known, packed)


def _read_classes(content: Mapping[str, Any]) -> tuple[LabelSet, Mapping[int, str]]:
    """The classes, and which id is which where nothing else is said."""
    key = "names" if content.get("names") is not None else "classes"
    wanted = content.get(key)
    if isinstance(wanted, str) and wanted in list_label_sets():
        known = parse_label_set({**content, "names": wanted})
        return known, dict(enumerate(known.names))
    if isinstance(wanted, Mapping) and wanted:  # by id
        by_id = {value: str(wanted[value]) for value in sorted(wanted, key=_id)}
    elif isinstance(wanted, list) and wanted:
        by_id = {number: str(name) for number, name in enumerate(wanted)}
    else:
        sets = ", ".join(list_label_sets())
        raise ConfigError(f"{key} must be {sets}, a list of names, or {{id: name}}, got {wanted!r:.100}")
    return parse_label_set({**content, "names": list(dict.fromkeys(by_id.values()))}), by_id


def _id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= UNLABELLED:
        raise ConfigError(f'ids of label images are 0–255, colours such as "#804080", got {value!r}')
    return value


def _read_color(value: Any) -> int | None:
    """Packed; None where it is not a text of a colour."""
    match = re.fullmatch(r"#([0-9a-fA-F]{6})", value) if isinstance(value, str) else None
    return None if match is None else int(match[1], 16)


def _pack(color: tuple[int, int, int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue
