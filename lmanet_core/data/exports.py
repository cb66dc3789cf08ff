"""Folders as labelling tools export them, where these hold label images: which image has which, and what its values mean.

    CVAT          JPEGImages/NAME.jpg, SegmentationClass/NAME.png in the colours of labelmap.txt ("Segmentation mask")
    Labelme       JPEGImages/NAME.jpg, SegmentationClass[PNG]/NAME.png, ids in the order of class_names.txt (labelme2voc.py)
    Roboflow      NAME.jpg beside NAME_mask.png, ids of _classes.csv ("Semantic Segmentation Masks")
    Supervisely   [DATASET/]img/NAME.jpg, [DATASET/]masks_machine/NAME.png, ids of obj_class_to_machine_color.json
    Label Studio  task-ID-annotation-ID-by-USER-TAG-CLASS-N.png, a mask of each region ("Brush labels to PNG"), with a JSON
                  export of the same tasks, which tells whose images they are, and the images beside them or in a folder there

Background is a class there, as in the files; `labels.yaml` in the folder says something else.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import read_label_ids
from lmanet_core.errors import InputError
from lmanet_core.media.folder import IMAGE_SUFFIXES

_MASK = "_mask"
_BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+\.png")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that is uploaded


@dataclass(frozen=True)
class Export:
    """What an export says.

    Attributes:
        tool: whose it is.
        pairs: image and label image, in the order of their names.
        meaning: as `read_encoding` takes it.
        read: the label image of a pair, (H, W) uint8, where it is put together from several files; None: it is the file.
    """

    tool: str
    pairs: list[tuple[Path, Path]]
    meaning: dict[str, Any]
    read: Callable[[Path], UInt8Array] | None = None


def find_export(root: Path) -> Export | None:
    """The export in a folder; None where it is none.

    Raises:
        InputError: a file that says what the values mean cannot be understood.
    """
    for mark, read in _TOOLS.items():
        marked = next(root.glob(mark), None)
        if marked is not None:
            try:
                export = read(root)
            except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise InputError(
                    f"{marked}: cannot be understood ({error}); write labels.yaml beside images/ and labels/"
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


def _label_studio(root: Path) -> Export:
    """Of several annotations of a task the newest counts; where masks overlap, the smaller one lies on top."""
    masks: dict[int, dict[int, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(root.glob("task-*.png")):
        if match := _BRUSH.fullmatch(path.name):
            masks[int(match[1])][int(match[2])].append((path, match[3]))
    newest = {task: of_task[max(of_task)] for task, of_task in masks.items()}
    names = ["background", *sorted({name for parts in newest.values() for _, name in parts} - {"background"})]
    wanted = _images_of_tasks(root)
    there = {path.name: path for path in sorted(root.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    pairs, parts_of = [], {}
    for task, parts in sorted(newest.items()):
        if task not in wanted:
            raise InputError(f"{root}: no JSON file tells the image of {parts[0][0].name}; export these tasks as JSON, too")
        own = wanted[task]
        image = there.get(own) or there.get(_UPLOAD.sub("", own, count=1))
        if image is None:
            raise InputError(f"{root}: there is no {own}, the image of {parts[0][0].name}; put the images into this folder")
        pairs.append((image, parts[0][0]))
        parts_of[parts[0][0]] = [(path, names.index(name)) for path, name in parts]
    return Export("Label Studio", sorted(pairs), {"names": names}, lambda first: _put_together(parts_of[first]))


def _images_of_tasks(root: Path) -> Mapping[int, str]:
    """Task → name of its image, by the JSON and JSON_MIN exports in a folder."""
    found = {}
    for path in sorted(root.glob("*.json")):
        tasks = json.loads(path.read_text(encoding="utf-8"))
        for task in tasks if isinstance(tasks, list) else ():
            texts = (one for one in task.get("data", task).values() if isinstance(one, str))
            names = (PurePosixPath(_file_of(text)).name for text in texts)
            image = next((name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES), None)
            if image is not None:
                found[int(task["id"])] = image
    return found


def _file_of(address: str) -> str:
    """The path in an address: of what is uploaded, in a cloud, or `/data/local-files/?d=PATH`."""
    parts = urlsplit(address)
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]


def _put_together(parts: Iterable[tuple[Path, int]]) -> UInt8Array:
    """(H, W) ids from masks, in which everything but 0 is painted."""
    masks = [(read_label_ids(path) > 0, number) for path, number in parts]
    ids = np.zeros(masks[0][0].shape, np.uint8)
    for mask, number in sorted(masks, key=lambda one: -int(one[0].sum())):
        ids[mask] = number
    return ids


_TOOLS: dict[str, Callable[[Path], Export]] = {
    "labelmap.txt": _cvat,
    "class_names.txt": _labelme,
    "_classes.csv": _roboflow,
    "obj_class_to_machine_color.json": _supervisely,
    "task-*-annotation-*.png": _label_studio,
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
