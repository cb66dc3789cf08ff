"""Which label image belongs to which image, by their names.

An image and its label image have one name, or one that differs by what data sets and tools put behind it, such as
`aachen_000001_000019_leftImg8bit.png` and `aachen_000001_000019_gtFine_labelIds.png`. Files that hold something else than
classes, and those that macOS leaves (`._x.png`), are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lmanet_core.errors import InputError

#: What may stand behind the name of an image, and of a label image; of several label images of one name the first is taken.
_OF_IMAGES = ("_leftImg8bit", "_rgb", "_image", "_img")
_OF_LABELS = (
    "",
    "_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_labelids", "_gtFine_labellevel3Ids", "_gtFine_instanceIds",
    "_gtFine_color", "_gtCoarse_labelTrainIds", "_gtCoarse_labelIds", "_labelTrainIds", "_labelIds", "_instanceIds",
    "_train_id", "_labels", "_label", "_mask", "_semantic", "_segmentation", "_seg", "_gt", "_L", "_color", "_rgb",
)  # fmt: skip
_NOT_LABELS = re.compile(r"_gtFine_polygons|_gtCoarse_polygons|_vis$|_preview$|_overlay$")
_PNG = ".png"


class LabelFiles:
    """The label images of a folder and of the folders in it.

    Args:
        folder: is looked through.
        prefer: what stands behind the names that are wanted where an image has several, such as "_gtFine_labelIds".

    Attributes:
        files: all of them, several of one image and such that hold something else among them.

    Raises:
        InputError: there is no label image, or two have one name.
    """

    def __init__(self, folder: Path, prefer: str = "") -> None:
        self.folder = folder
        try:
            files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == _PNG and not file.name.startswith("."))
        except OSError as error:
            raise InputError(f"{folder}: the folder cannot be listed: {error.strerror}") from error
        if not files:
            lossy = next((file.name for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg")), None)
            why = f"; JPEG as in {lossy} changes class ids" if lossy else ""
            raise InputError(f"{folder}: wanted label images NAME.png, there are none{why}")
        self._by_name: dict[str, Path] = {}
        for file in files:
            other = self._by_name.setdefault(file.stem, file)
            if other is not file:
                raise InputError(
                    f"{folder}: {other.relative_to(folder)} and {file.relative_to(folder)} have one name; name one folder"
                )
        order = {suffix: place for place, suffix in enumerate(dict.fromkeys((prefer, *_OF_LABELS)))}
        ranked: dict[str, tuple[int, Path]] = {}
        for file in files:
            if _NOT_LABELS.search(file.stem):
                continue
            for suffix in order:
                if file.stem.endswith(suffix):
                    key = file.stem.removesuffix(suffix)
                    ranked[key] = min(ranked.get(key, (len(order), file)), (order[suffix], file))
        self._by_key = {key: file for key, (_, file) in ranked.items()}
        self.files = files

    @property
    def count(self) -> int:
        """How many images have one here."""
        return len(self._by_key)

    def of(self, image: str) -> Path | None:
        """The label image of an image of this name (without its ending); None where it has none."""
        if image in self._by_name:
            return self._by_name[image]
        return next((found for key in image_keys(image) if (found := self._by_key.get(key)) is not None), None)


def image_keys(image: str) -> Iterable[str]:
    """An image's name, and what is left of it without what data sets put behind it."""
    return (image, *(image.removesuffix(suffix) for suffix in _OF_IMAGES if image.endswith(suffix)))
