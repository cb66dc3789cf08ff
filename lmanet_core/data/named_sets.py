"""Data sets that are known by name: where their files are, and what their label images hold, is said in one YAML file each.

The files are `lmanet_core/labels/mappings/NAME.yaml`; those with a `layout` are data sets:

    layout:
      train: {images: "images/*/*.jpg", labels: "labels/*/*.png"}
      val: {…, only: [park-8]}    # `without`, `every: 5`, `not_every: 5`, `list: val.txt` choose, too
      hint: where label images come from that the data set does not have as it is published

Both patterns have the same stars: what stands for them in the name of an image stands for them in that of its label image. Of
several layouts the first that finds label images is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lmanet_core.data.camera_motion import MotionConfig
from lmanet_core.data.stills import LabelledImages, encode
from lmanet_core.errors import InputError
from lmanet_core.geometry import Size
from lmanet_core.labels.mapping import shipped_file

#: The data sets there are.
NAMED_SETS = ("a2d2", "bdd100k", "idd", "kitti", "rellis3d", "rugd", "vistas", "vspw")


class NamedSet(LabelledImages):
    """One split of a data set.

    Args:
        name: one of `NAMED_SETS`.
        root: folder of the data set as it is published.
        split: "train" or "val".
        size, motion: as of `LabelledImages`.

    Raises:
        InputError: nothing of this split is there, or its list is missing.
    """

    def __init__(self, name: str, root: Path, split: str, size: Size, motion: MotionConfig | None) -> None:
        file = shipped_file(name)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        layouts = content["layout"][split]
        layouts = layouts if isinstance(layouts, list) else [layouts]
        found = [pairs for layout in layouts if (pairs := find_pairs(root, layout))]
        with_labels = (pairs for pairs in found if any(labels.is_file() for _, labels in pairs))
        pairs = next(with_labels, found[0] if found else [])
        if not pairs:
            wanted = " or ".join(f"{layout['images']} and {layout['labels']}" for layout in layouts)
            raise InputError(f"{name}, {split}: no images in {root}; wanted {wanted}")
        self._hint = str(content["layout"].get("hint", ""))
        super().__init__(root, pairs, encode(content, file), size, motion)

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`. Where there is not one label image, it is said first where they come from."""
        if self._hint and not any(labels.is_file() for labels in self._label_files.values()):
            yield f"no label images: {self._hint}"
        yield from super().problems(frames, stride, deep)


def find_pairs(root: Path, layout: Mapping[str, Any]) -> list[tuple[Path, Path]]:
    """Images and their label images, which may be missing, in the order of their names.

    Raises:
        InputError: the layout has a list, and it is not there.
    """
    pattern = re.compile("([^/]*)".join(re.escape(part) for part in layout["images"].split("*")))
    images = sorted(path for path in root.glob(layout["images"]) if not path.name.startswith("."))
    listed = _read_list(root / layout["list"]) if images and "list" in layout else None
    pairs = []
    for number, image in enumerate(images):
        name = image.relative_to(root).as_posix()
        stars = pattern.fullmatch(name)
        if stars is not None and _is_chosen(name, number, layout, listed):
            parts = layout["labels"].split("*")
            labels = "".join(text for pair in zip(parts, (*stars.groups(), ""), strict=True) for text in pair)
            pairs.append((image, root / labels))
    return pairs


def _is_chosen(name: str, number: int, layout: Mapping[str, Any], listed: frozenset[str] | None) -> bool:
    folders = name.split("/")
    if "only" in layout and not set(layout["only"]) & set(folders):
        return False
    if set(layout.get("without", ())) & set(folders):
        return False
    if "every" in layout and number % layout["every"]:
        return False
    if "not_every" in layout and not number % layout["not_every"]:
        return False
    return listed is None or name in listed or bool(listed & set(folders))


def _read_list(path: Path) -> frozenset[str]:
    """The first word of each line: a file below the root, or a folder."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}, which says what belongs to this split: {error}") from error
    return frozenset(line.split()[0] for line in lines if line.strip())
