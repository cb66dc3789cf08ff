"""Folders as labelling tools export them, where these hold label images: which image has which, and what its values mean.

    CVAT          JPEGImages/NAME.jpg, SegmentationClass/NAME.png in the colours of labelmap.txt ("Segmentation mask")
    Labelme       JPEGImages/NAME.jpg, SegmentationClass[PNG]/NAME.png, ids in the order of class_names.txt (labelme2voc.py)
    Roboflow      NAME.jpg beside NAME_mask.png, ids of _classes.csv ("Semantic Segmentation Masks")
    Supervisely   [DATASET/]img/NAME.jpg, [DATASET/]masks_machine/NAME.png, ids of obj_class_to_machine_color.json

Background is a class there, as in the files; `labels.yaml` in the folder says something else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmanet_core.errors import InputError
from lmanet_core.media.folder import IMAGE_SUFFIXES

_MASK = "_mask"


@dataclass(frozen=True)
class Export:
    """What an export says.

    Attributes:
        tool: whose it is.
        pairs: image and label image, in the order of their names.
        meaning: as `read_encoding` takes it.
    """

    tool: str
    pairs: list[tuple[Path, Path]]
    meaning: dict[str, Any]


def find_export(root: Path) -> Export | None:
    """The export in a folder; None where it is none.

    Raises:
        InputError: a file that says what the values mean cannot be understood.
    """
    for mark, read in _TOOLS.items():
        if (root / mark).is_file():
            try:
                export = read(root)
            except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise InputError(
                    f"{root / mark}: cannot be understood ({error}); write labels.yaml beside images/ and labels/"
                ) from error
            if not export.pairs:
                raise InputError(f"{root}: an export of {export.tool} without images; export the images, too")
            return export
    return None


def _cvat(root: Path) -> Export:
    colors = {}
    for line in (root / "labelmap.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, color, *_ = line.split(":")
            colors[name.strip()] = [int(channel) for channel in color.split(",")]
    pairs = _by_name(_images(root / "JPEGImages"), root / "SegmentationClass")
    return Export("CVAT", pairs, {"names": list(colors), "colors": colors})


def _labelme(root: Path) -> Export:
    listed = (line.strip() for line in (root / "class_names.txt").read_text(encoding="utf-8").splitlines())
    names = [name for name in listed if name and name != "__ignore__"]
    folder = next((root / name for name in ("SegmentationClassPNG", "SegmentationClass") if (root / name).is_dir()), root)
    return Export("Labelme", _by_name(_images(root / "JPEGImages"), folder), {"names": names})


def _roboflow(root: Path) -> Export:
    with (root / "_classes.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    names = {int(value): name for value, name, *_ in rows[1:]}
    images = [image for image in _images(root) if not image.stem.endswith(_MASK)]
    return Export("Roboflow", [(image, image.with_name(f"{image.stem}{_MASK}.png")) for image in images], {"names": names})


def _supervisely(root: Path) -> Export:
    values = json.loads((root / "obj_class_to_machine_color.json").read_text(encoding="utf-8"))
    names = {int(value[0] if isinstance(value, list) else value): str(name) for name, value in values.items()}
    folders = [
        folder for folder in sorted({root, *(path for path in root.iterdir() if path.is_dir())}) if (folder / "img").is_dir()
    ]
    pairs = [pair for folder in folders for pair in _by_name(_images(folder / "img"), folder / "masks_machine")]
    if 0 not in names:  # what nobody has painted
        names = {0: "background", **names}
    return Export("Supervisely", pairs, {"names": names})


_TOOLS: dict[str, Callable[[Path], Export]] = {
    "labelmap.txt": _cvat,
    "class_names.txt": _labelme,
    "_classes.csv": _roboflow,
    "obj_class_to_machine_color.json": _supervisely,
}


def _images(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]


def _by_name(images: Iterable[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Supervisely keeps the ending of the image before its own: `a.jpg.png`."""
    return [
        (
            image,
            next(
                (one for one in (folder / f"{image.name}.png", folder / f"{image.stem}.png") if one.is_file()),
                folder / f"{image.stem}.png",
            ),
        )
        for image in images
    ]
